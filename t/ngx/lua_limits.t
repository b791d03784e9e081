# lua_limits.t - hooks and templates that go wrong: in nginx -t with file and line, while they run with an error of their
# own request and nothing else; what the sandbox hides.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use Time::HiRes qw(time);

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

use constant MAX_SECONDS => 10;    # wide: an endless loop has no end, and sanitizers are slow

my $model = 'llm_model m { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 256; kv_cache 16m; }';
my $n = LLM::Nginx->new;

subtest 'nginx -t' => sub {
    $n->write_file('good.lua', "return nil\n");
    $n->write_file('bad.lua', "local a = 1\n\nif a then\n");
    my $refused = sub {
        my ($hook, $want, $name) = @_;
        $n->conf("$model server { listen 127.0.0.1:%%PORT%%; location / { llm_pass m;\n# here\n$hook } }");
        my ($rc, $out) = $n->check;
        my @lines = split /\n/, $n->read_file('nginx.conf');
        my ($line) = grep { $lines[ $_ - 1 ] eq '# here' } 1 .. @lines;
        $want =~ s/%(\d)/$line + $1/ge;
        ok $rc != 0 && $out =~ /$want/, $name or diag "$want: $out";
    };
    $refused->('llm_prompt_by_lua_block { local = 1 }', 'nginx.conf:%1: .*near .*=.* in .*nginx.conf:%1', 'a syntax error');
    $refused->("llm_output_by_lua_block {\n\n  return return\n}", 'nginx.conf:%3: ', 'in the third line of a block');
    $refused->("llm_output_by_lua_block {{{{{\n return '}' -- }\n", 'Lua block that starts at line %1 is not closed', 'no end');
    $refused->('llm_prompt_by_lua_block { x = "}', 'unfinished string', 'a string without end');
    $refused->("llm_prompt_by_lua_block { x = \"a\n}", 'unfinished string', 'that ends with its line');
    $refused->('llm_prompt_by_lua_block { return [[ }', 'not closed', 'a long string without end');
    $refused->('llm_prompt_by_lua_file nowhere.lua;', 'nowhere.lua" failed', 'no such file');
    $refused->('llm_prompt_by_lua_file .;', 'must be a file', 'a folder');
    $refused->('llm_prompt_by_lua_file bad.lua;', 'bad.lua:4: .*expected', 'a syntax error in a file');
    $refused->("llm_prompt_by_lua_block { }\nllm_prompt_by_lua_file good.lua;", 'is duplicate in .*:%2', 'twice');
    $refused->("llm_prompt_by_lua_block { end function f() }\n", 'near .*end', 'a block does not end its function');
    $refused->("llm_output_by_lua_block {\n x = { { } } -- {{{\n --[[ }}} ]] --[==[ ]] }}} ]==]\n y = '{' .. \"}\\\"}\" .. [[}}]] .. [=[]]}]=]\n}\nno_such;",
        'unknown directive "no_such" in .*:%6', 'lines go on after a block');
    my $long = join '', map { "    local x$_ = { '}', \"}\", [[}]] } -- }\n" } 1 .. 150;
    $refused->("llm_output_by_lua_block {\n$long}\nno_such;", 'unknown directive "no_such" in', 'a block longer than a buffer');
    $refused->("llm_output_by_lua_block { return { }", 'not closed|expected', 'one brace too few');

    $n->write_file('part.conf', "llm_output_by_lua_block { return (...) }\nllm_prompt_by_lua_block { -- included\n}\n");
    $n->conf("$model server { listen 127.0.0.1:%%PORT%%; location / { llm_pass m; include part.conf; } location /b/ { llm_pass m; llm_prompt_by_lua_block {\n$long -- last words\n} } }");
    my ($rc, $out) = $n->check;
    is $rc, 0, 'hooks in an included file' or diag $out;
    my @cmd = (LLM::Nginx::nginx_bin(), '-T', '-p', $n->dir, '-c', $n->conf_path);
    SKIP: {
        skip 'needs the sanitizer preloaded', 1 if $ENV{LLM_TEST_SAN};
        like scalar(`@cmd 2>/dev/null`), qr/local x150 = .*last words.*-- included\n\}/s, 'nginx -T shows whole blocks';
    }
};

$n = LLM::Nginx->new;
my %hook = (
    plain   => '',
    loop    => 'while true do end',
    pcall   => 'while true do pcall(function() while true do end end) end',
    nested  => 'local function f() pcall(f) f() end while true do pcall(f) end',
    handler => 'xpcall(function() while true do end end, function() while true do end end)',
    caught  => 'pcall(function() while true do end end) return "went on"',
    sort    => 'while true do table.sort({ 3, 2, 1 }, function(a, b) return a < b end) end',
    memory  => 'local t = {} for i = 1, 1e9 do t[i] = ("x"):rep(1000) .. i end',
    string  => 'local s = "x" while true do s = s .. s end',
    rep     => 'return ("x"):rep(1e8)',
    stack   => 'local function f() return 1 + f() end return f()',
    index   => "local req = ...\n\n\nreturn req.nothing.more",
    object  => 'error({})',
    niller  => 'error()',
    number  => 'return 5',
    func    => '(...).inputs = print',
    cycle   => 'local r = ... r.self = r',
    nan     => '(...).parameters = { temperature = 0 / 0 }',
    json    => 'llm.json.decode("{")',
    level   => 'llm.log("loud", "x")',
    status  => 'llm.refuse(200)',
    yield   => 'return coroutine.yield()',
    sleep   => 'llm.sleep(0.01) while true do end',
);
# each must be true
my @hidden = map { "$_ == nil" } qw(io debug ffi package coroutine load loadstring loadfile dofile setfenv getfenv rawset
    newproxy collectgarbage module jit os.execute os.exit os.getenv os.remove os.tmpname string.dump math.randomseed);
my @fixed = ('pcall(function() string.find = nil end) == false', 'pcall(function() llm.json.encode = nil end) == false',
    'pcall(function() llm.null.x = 1 end) == false', 'getmetatable("") == false', 'getmetatable(llm) == false',
    'getmetatable(_G) == false', 'getmetatable((...)) == false', 'pcall(setmetatable, (...), {}) == false',
    'pcall(setmetatable, _G, {}) == false', 'pcall(require, "ffi") == false', 'pcall(require, "string") == false', 'pcall(require, "llm.template") == false',
    'require("llm.json").null == llm.null', 'pcall(function() require("llm.moderation").new = nil end) == false',
    '_G.llm == llm', 'tostring(llm.null) == "null"');
my $sandbox = join "\n", (map { "if not ($_) then bad[#bad + 1] = [==[$_]==] end" } @hidden, @fixed);
my $locations = join '', map { "location /$_/ { llm_pass m; llm_prompt_by_lua_block {\n$hook{$_}\n} }\n" } sort keys %hook;
$n->write_file('loop.jinja', "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}");
$n->write_file('grow.jinja', "{% set ns = namespace(s=messages[0].content) %}{% for a in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}");
$n->write_file('raise.jinja', "a\n{{ raise_exception('roles ' ~ messages[0].role) }}");
$n->write_file('undef.jinja', "{{ messages[0].x.y }}");
my $templates = join "\n", map { "llm_model $_ { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 256; kv_cache 16m; template $_.jinja; }" }
    qw(loop grow raise undef);
my $models = join "\n", map { "location /t_$_/ { llm_pass $_; }" } qw(loop grow raise undef);
$n->conf(<<"EOC");
    $model
    $templates
    llm_lua_memory 16m;
    llm_lua_steps 20000000;
    llm_lua_timeout 200ms;
    llm_lua_output 100k;
    server {
        listen 127.0.0.1:%%PORT%%;
        $locations
        $models
        location /sandbox/ { llm_pass m; llm_prompt_by_lua_block {
            local bad = {}
            $sandbox
            if #bad > 0 then llm.refuse(400, table.concat(bad, "; ")) end
        } }
        location /out/ { llm_pass m; llm_output_by_lua_block { while true do end } }
        location /print/ { llm_pass m; llm_prompt_by_lua_block {
            print("one", 2, nil)
            print("first\\nsecond")
            for _, level in ipairs { "debug", "info", "notice", "warn", "error" } do llm.log(level, "said ", level, " ", { a = 1 }) end
        } }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);
my @one = (parameters => { max_new_tokens => 1 });

sub fails {
    my ($path, $want) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $seen = length $n->log;
    my $start = time;
    my $x = $http->post("/$path/generate", { inputs => 'a', @one });
    my $took = time - $start;
    is $x->status, 500, "$path: refused" or diag $x->body;
    is $x->json && $x->json->{error_type}, 'hook_error', "$path: error_type";
    like substr($n->log, $seen), qr/\[error\].*hook failed: $want/, "$path: logged";
    ok $took < MAX_SECONDS, "$path: in time" or diag $took;
    is $http->post('/plain/generate', { inputs => 'a', @one })->status, 200, "$path: the worker goes on";
}

my $place = '\S*nginx\.conf:\d+: ';
subtest 'limits of time' => sub {
    my $ran = "${place}ran for more than";
    fails($_, $ran) for qw(loop sort sleep);
    fails($_, '(?:.*ran for more than|ran past its limits)') for qw(pcall caught nested handler);
    my $x = $http->post('/out/generate_stream', { inputs => 'a', @one });
    is $x->status, 500, 'an output hook';
};
subtest 'limits of memory' => sub {
    fails($_, '(?:.*not enough memory|.*ran for more than)') for qw(memory string rep);
    fails('stack', 'stack overflow stack traceback: \S*nginx\.conf:\d+' );
};
subtest 'errors' => sub {
    my @lines = split /\n/, $n->read_file('nginx.conf');
    my ($line) = grep { $lines[ $_ - 1 ] =~ /req\.nothing\.more/ } 1 .. @lines;
    fails('index', "\\S*nginx\\.conf:$line: attempt to index field 'nothing' \\(a nil value\\).*stack traceback");
    fails('object', '\(error object is not a string\)');
    fails('niller', '\(error object is not a string\)');
    fails('number', 'a prompt hook returns a string or nothing, not a number');
    fails('func', 'a function is no JSON value');
    fails('cycle', 'value nested deeper');
    fails('nan', 'NaN and Infinity are no JSON values');
    fails('json', '.*JSON: expected a key at line 1, column 2');
    fails('level', "${place}.*unknown level \"loud\"|llm.*unknown level");
    fails('status', '.*status must be between 400 and 599');
    fails('yield', "${place}attempt to index global 'coroutine'");
};

is $http->post('/sandbox/generate', { inputs => 'a', @one })->body, $http->post('/plain/generate', { inputs => 'a', @one })->body,
    'the sandbox hides and protects what it should';

subtest 'llm.log' => sub {
    is $http->post('/print/generate', { inputs => 'a', @one })->status, 200, 'print and llm.log';
    like $n->log, qr/\[info\].*llm prompt hook: one\t2\tnil/, 'print is info';
    like $n->log, qr/\[$_\].*llm prompt hook: said $_ \{"a":1\}/, $_ for qw(info notice warn);
    like $n->log, qr/llm prompt hook: first second, client/, 'one line';
    like $n->log, qr/\[error\].*llm prompt hook: said error \{"a":1\}/, 'error';
};

subtest 'templates' => sub {
    my %want = (loop => qr/^Template error: engine ran out of fuel: /, grow => qr/^Template error: invalid operation: a string of more than/,
        raise => qr/^Template error: syntax error: roles user \(in <string>:2\)$/,
        undef => qr/^Template error: undefined value: 'dict object' has no attribute 'x' \(in <string>:1\)$/);
    for my $t (sort keys %want) {
        my $x = $http->post("/t_$t/v1/chat/completions", { messages => [ { role => 'user', content => 'a' } ], max_tokens => 1 });
        is $x->status, 422, "$t: 422" or diag $x->body;
        is $x->json->{error_type}, 'template_error', "$t: error_type";
        like $x->json->{error}{message}, $want{$t}, "$t: message";
        ok $x->elapsed < MAX_SECONDS, "$t: in time" or diag $x->elapsed;
    }
    my $x = $http->post('/plain/v1/chat/completions', { messages => [ { role => 'user', content => 'b' x 50 } ], max_tokens => 1 });
    is $x->status, 200, 'others are fine';
};

$n->stop;
done_testing;
