# lua_prompt.t - the prompt hook: what it sees, what it may change, refusals, llm.* functions, waiting.

use strict;
use warnings;
use lib 't/lib';

use IO::Socket::INET;
use JSON::PP ();
use Test::More;
use Time::HiRes qw(sleep time);

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my $n = LLM::Nginx->new(ports => 2);
mkdir $n->dir . '/lua';
$n->write_file('echo.jinja', "{{ bos_token }}{% for m in messages %}<{{ m.role }}:{{ m.content }}>{% endfor %}"
    . "{% if add_generation_prompt %}>>{% endif %}{{ extra }}{{ mood }}");
$n->write_file('file_hook.lua', "local req = ...\nreq.inputs = 'file ' .. req.inputs\n");
$n->write_file('lua/team.lua', "local team = { n = 0 }\nfunction team.next() pcall(llm.sleep, 0.001) team.n = team.n + 1 return team.n end\n"
    . "leak = 'in the module'\nreturn team\n");
$n->write_file('lua/broken.lua', "return {\n  oops oops\n");
$n->write_file('html/big.txt', 'x' x 100_000);
$n->write_file('html/word.txt', 'Paris');

# Each location has a hook that puts what is to be seen into the prompt.
$n->conf(<<'EOC');
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 2048; kv_cache 16m; template echo.jinja; }
    llm_lua_path lua;
    server {
        listen 127.0.0.1:%%PORT%%;
        subrequest_output_buffer_size 64k;
        location /plain/ { llm_pass m; }
        location /change/ { llm_pass m; llm_prompt_by_lua_block {
            local req = ...                 -- a "}" that is no end, a '{' neither
            if req.inputs then req.inputs = req.inputs:upper() .. [[}{]] end
            if req.messages then req.messages[1].content = "changed" end
            req.parameters = req.parameters or {}
            req.parameters.max_new_tokens = 1
        } }
        location /whole/ { llm_pass m; llm_prompt_by_lua_block { return "whole prompt" } }
        location /see/ { llm_pass m; llm_prompt_by_lua_block { return (llm.json.encode((...))) } }
        location /text/ { llm_pass m; llm_prompt_by_lua_block { return tostring((...).inputs == "aé你😀") } }
        location /null/ { llm_pass m; llm_prompt_by_lua_block {
            local p = (...).parameters
            return tostring(p.stop == llm.null) .. type(p.seed) .. tostring(p.seed) .. tostring(p.nothing)
        } }
        location /same/ { llm_pass m; llm_prompt_by_lua_block { local _ = ... } }
        location /refuse/ { llm_pass m; llm_prompt_by_lua_block {
            local how = (...).inputs
            if how == "default" then llm.refuse() end
            if how == "caught" then pcall(llm.refuse, 451, "not here") return "but goes on" end
            llm.refuse(403, "no " .. how)
        } }
        location /template/ { llm_pass m; llm_prompt_by_lua_block {
            return llm.template({ { role = "system", content = "S" }, { role = "user", content = "U" } },
                                { mood = " calm" })
        } }
        location /ask/ { llm_pass m; llm_prompt_by_lua_block {
            local req = ...
            return tostring(llm.header("X-Team")) .. "|" .. tostring(llm.header("x-none")) .. "|"
                .. tostring(llm.var("request_method")) .. "|" .. tostring(llm.var("no_such_variable")) .. "|"
                .. tostring(llm.var("ARG_A")) .. "|" .. req.route .. "|" .. req.model
        } }
        location /globals/ { llm_pass m; llm_prompt_by_lua_block {
            seen = (seen or 0) + 1
            llm.ctx.n = (llm.ctx.n or 0) + 1
            llm.mine = (llm.mine or 0) + 1
            table.insert(string, 1)
            return seen .. llm.ctx.n .. llm.mine .. #string .. tostring(leak)
        } }
        location /module/ { llm_pass m; llm_prompt_by_lua_block {
            local team = require "team"
            local function fails(name) return select(2, pcall(require, name)) .. ";" end
            return team.next() .. tostring(leak) .. fails("broken") .. fails("no.such") .. fails("../x") .. fails("llm.sandbox")
        } }
        location /file/ { llm_pass m; llm_prompt_by_lua_file file_hook.lua; }
        location /fetch/ { llm_pass m; llm_prompt_by_lua_block {
            local req = ...
            local o = req.options
            if o == llm.null then o = nil end
            local r = llm.fetch(req.inputs, o)
            return r.status .. " " .. tostring(r.error ~= nil) .. " " .. r.body:sub(1, 200) .. " "
                .. tostring(r.headers["x-answer"]) .. " " .. tostring(r.headers["content-type"])
        } }
        location /fetch_bad/ { llm_pass m; llm_prompt_by_lua_block {
            local out = {}
            for _, args in ipairs { { "relative" }, { "/a/../../b" }, { "/word", { method = "BREW" } },
                { "/word", { headers = { ["X Y"] = "1" } } }, { "/word", { headers = { X = "a\r\nY: 1" } } },
                { "/word", { headers = { ["Content-Length"] = "1" } } }, { 5 }, {} } do
                local ok, err = pcall(llm.fetch, args[1], args[2])
                out[#out + 1] = tostring(ok) .. tostring(err):match("[^:]*:?[^:]*$")
            end
            return table.concat(out, ";")
        } }
        location /many/ { llm_pass m; llm_prompt_by_lua_block {
            local sum = ""
            for i = 1, 20 do sum = sum .. llm.fetch("/count", { args = { i = i, ["a b"] = "c&d" } }).body end
            return sum
        } }
        location /sleep/ { llm_pass m; llm_prompt_by_lua_block {
            local ok, err = pcall(llm.sleep, (...).seconds)
            return tostring(ok)
        } }
        location /sort/ { llm_pass m; llm_prompt_by_lua_block {
            table.sort({ 2, 1, 3 }, function(a, b) llm.fetch("/word.txt") return a < b end)
        } }
        location /hang/ { llm_pass m; llm_prompt_by_lua_block { return llm.fetch("/silent").body } }
        location = /word { internal; return 200 France; }
        location = /none { return 204; }
        location = /teapot { return 418 "short and stout"; }
        location = /count { return 200 "$arg_i,"; }
        location = /query { return 200 "$args"; }
        location = /back { proxy_pass http://127.0.0.1:%%PORT%%/real?x=1; }
        location = /real { add_header X-Answer 42; return 200 "$request_method $content_type $content_length $http_x_team $http_accept_encoding"; }
        location = /body { proxy_pass http://127.0.0.1:%%PORT%%/mirror/generate; }
        location = /dead { proxy_pass http://127.0.0.1:1; }
        location = /silent { proxy_pass http://127.0.0.1:%%PORT1%%; }
        location /mirror/ { llm_pass m; }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);

# the prompt that the engine got, from the prefill tokens
sub prompt_of {
    my ($path, $body, %o) = @_;
    $body = { inputs => $body } unless ref $body;
    my %p = (max_new_tokens => 1, details => JSON::PP::true, decoder_input_details => JSON::PP::true,
        %{ $body->{parameters} || {} });
    my $x = $http->post("$path/generate", { %$body, parameters => \%p }, %o);
    return $x->status . ' ' . ($x->body // '') unless $x->status == 200;
    my $text = join '', map { $_->{text} } @{ $x->json->{details}{prefill} };
    return $text;
}

is prompt_of('/plain', 'hello'), 'hello', 'no hook';
is prompt_of('/change', 'hello'), 'HELLO}{', 'changed in place';
is prompt_of('/whole', 'hello'), 'whole prompt', 'a string is the whole prompt';
is prompt_of('/same', 'hello'), 'hello', 'nothing returned, nothing changed';
is prompt_of('/file', 'hello'), 'file hello', 'a hook from a file';

subtest 'what the hook sees' => sub {
    is prompt_of('/text', "a\x{e9}\x{4f60}\x{1f600}"), 'true', 'inputs in UTF-8';
    like prompt_of('/see', { inputs => 'a', other => [ 1, { b => undef } ] }),
        qr/"other":\[1,\{"b":null\}\]/, 'fields nobody knows';
    like prompt_of('/see', 'a'), qr/"route":"\/generate"/, 'route';
    like prompt_of('/see', 'a'), qr/"model":"m"/, 'model';
    is prompt_of('/null', { inputs => 'a', parameters => { stop => undef, seed => 7 } }), 'truenumber7nil', 'null, numbers';
    is prompt_of('/null', { inputs => 'a', parameters => { stop => undef, seed => 9223372036854775807 } }),
        'truetable9223372036854775807nil', 'an integer beyond 2^53 is exact';
    is prompt_of('/ask', 'a', headers => [ 'X-Team' => 'red', 'x-team' => 'blue' ]), 'red, blue|nil|POST|nil|nil|/generate|m',
        'llm.header and llm.var';
};

subtest 'seeds survive a hook' => sub {
    for my $seed (7, 4503599627370497, 9223372036854775807, '18446744073709551615') {
        my $body = qq({"inputs":"once","parameters":{"max_new_tokens":8,"do_sample":true,"seed":$seed,"temperature":1.0}});
        my %o = (body => $body, headers => [ 'Content-Type' => 'application/json' ]);
        my ($plain, $same) = map { $http->request(POST => "$_/generate", %o) } '/plain', '/same';
        is $same->status, 200, "seed $seed" or diag $same->body;
        is $same->body, $plain->body, 'same text with a hook';
    }
};

subtest 'refusals' => sub {
    my $x = $http->post('/refuse/generate', { inputs => 'way' });
    is $x->status, 403, 'status';
    is_deeply $x->json, { error => 'no way', error_type => 'content_filter' }, 'native error';
    $x = $http->post('/refuse/v1/chat/completions', { messages => [ { role => 'user', content => 'hi' } ] });
    is $x->status, 500, 'nil in a message is an error of the hook';
    $x = $http->post('/refuse/generate', { inputs => 'default' });
    is $x->status, 400, 'default status';
    is $x->json->{error}, 'Request refused by content policy', 'default message';
    is $http->post('/refuse/generate', { inputs => 'caught' })->status, 451, 'pcall does not undo it';
    $x = $http->post('/refuse/generate_stream', { inputs => 'stream' });
    is $x->status, 403, 'before a stream: a plain error';
};

subtest 'chat' => sub {
    my @hi = (messages => [ { role => 'user', content => 'hi' } ], temperature => 0, max_tokens => 6);
    my $same = $http->post('/plain/v1/chat/completions', { @hi, messages => [ { role => 'user', content => 'changed' } ] });
    my $x = $http->post('/change/v1/chat/completions', {@hi});
    is $x->status, 200, 'status' or diag $x->body;
    is_deeply $x->json->{choices}, $same->json->{choices}, 'messages changed by the hook';
    is prompt_of('/template', 'x'), '<|im_start|><system:S><user:U>>> calm', 'llm.template' ;
    my $t = $http->post('/template/v1/chat/completions', { @hi, chat_template_kwargs => { extra => '!' } });
    my $u = $http->post('/plain/v1/chat/completions', { @hi, chat_template_kwargs => { extra => '!', mood => ' calm' },
        messages => [ { role => 'system', content => 'S' }, { role => 'user', content => 'U' } ] });
    is_deeply $t->json->{choices}, $u->json->{choices}, 'with the variables of the request';
    is $t->json->{usage}{prompt_tokens}, $u->json->{usage}{prompt_tokens}, 'as many prompt tokens';
};

subtest 'requests are apart' => sub {
    is prompt_of('/globals', 'a'), '1111nil', "request $_" for 1 .. 3;
    my @got = map { prompt_of('/module', 'a') } 1 .. 2;
    like $got[0], qr/^1nilmodule/, 'a module of llm_lua_path';
    like $got[1], qr/^2nilmodule/, 'is loaded once and keeps its state';
    like $got[0], qr/broken\.lua:2/, 'its syntax error has a place';
    like $got[0], qr/llm\.sandbox/, 'inner modules are not for hooks';
};

subtest 'llm.fetch' => sub {
    my $get = sub { prompt_of('/fetch', { inputs => $_[0], options => $_[1] }, headers => [ 'X-Team' => 'red' ]) };
    is $get->('/word'), '200 false France nil text/plain', 'an internal location';
    is $get->('/word.txt'), '200 false Paris nil text/plain', 'a file';
    is $get->('/none'), '204 false  nil text/plain', 'no content';
    is $get->('/teapot'), '418 false short and stout nil text/plain', 'an error of the location';
    like $get->('/missing.txt'), qr/^404 false  nil/, 'not found';
    is $get->('/query?a=1&b=2'), '200 false a=1&b=2 nil text/plain', 'query in the URI';
    is $get->('/query', { args => { b => 'x y', a => 1 } }), '200 false a=1&b=x%20y nil text/plain', 'args as a table';
    is $get->('/query', { args => 'raw=1' }), '200 false raw=1 nil text/plain', 'args as a string';
    like $get->('/back'), qr/^200 false GET\s+red\s+42 /, 'proxied: method, headers of the client, none of its body';
    like $get->('/back', { method => 'PUT', body => 'hello', headers => { 'Content-Type' => 'text/x', 'X-Team' => 'blue' } }),
        qr/^200 false PUT text\/x 5 blue\s+42 /, 'proxied with a body';
    like $get->('/body', { body => { inputs => 'once', parameters => { max_new_tokens => 2 } } }),
        qr/^200 false \{"generated_text":"/, 'a table is sent as JSON: another model call';
    like $get->('/dead'), qr/^502 false/, 'nobody listens';
    like $get->('/big.txt'), qr/^500 true/, 'larger than subrequest_output_buffer_size';
    like prompt_of('/fetch_bad', 'a'), qr/^(?:false[^;]*;){7}false[^;]*$/, 'bad arguments are errors';
    is prompt_of('/many', 'a'), join('', map { "$_," } 1 .. 20), 'twenty, one after the other';
    is $http->post('/sort/generate', { inputs => 'a' })->status, 500, 'no waiting inside table.sort';
    is prompt_of('/plain', 'hello'), 'hello', 'the worker lives';
};

subtest 'waiting blocks nobody' => sub {
    my $t = time;
    my @x = map { $http->send(POST => '/sleep/generate', json => { inputs => 'a', seconds => 2, parameters => { max_new_tokens => 1 } }) } 1 .. 40;
    my $quick = $http->post('/plain/generate', { inputs => 'a', parameters => { max_new_tokens => 1 } });
    $_->pump(0) for @x;
    is $quick->status, 200, 'another request passes';
    is scalar(grep { $_->{done} } @x), 0, 'while all of them wait';
    is LLM::HTTP::wait_all(20, @x), 40, 'all end';
    is scalar(grep { $_->status == 200 } @x), 40, 'well';
    my $took = time - $t;
    ok $took > 1.95 && $took < 40, 'together' or diag $took;
    is prompt_of('/sleep', { inputs => 'a', seconds => -1 }), 'false', 'a negative time';
    is prompt_of('/sleep', { inputs => 'a', seconds => 'x' }), 'false', 'no number';
    is prompt_of('/sleep', { inputs => 'a', seconds => 0 }), 'true', 'zero';
};

subtest 'clients that leave' => sub {
    my $silent = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $n->port(1), Listen => 20, ReuseAddr => 1) or die $!;
    my @x = map { $http->send(POST => "/$_/generate", json => { inputs => 'a', seconds => 1 }) } ('hang', 'sleep') x 5;
    sleep 0.3;
    $_->abort for @x[ 0 .. 5 ];
    sleep 0.3;
    is prompt_of('/plain', 'hello'), 'hello', 'after aborts';
    $_->close for @x;
    sleep 1;
    is prompt_of('/plain', 'hello'), 'hello', 'after the time they slept';
    close $silent;
    is prompt_of('/plain', 'hello'), 'hello', 'after the end of what they fetched';
};

subtest 'reload' => sub {
    my @x = map { $http->send(POST => '/sleep/generate', json => { inputs => 'a', seconds => 1, parameters => { max_new_tokens => 3 } }) } 1 .. 5;
    sleep 0.2;
    ok $n->reload, 'reload while hooks wait';
    is LLM::HTTP::wait_all(20, @x), 5, 'they end';
    is scalar(grep { $_->status == 200 } @x), 5, 'well';
    is prompt_of('/change', 'hello'), 'HELLO}{', 'hooks of the new generation';
};

$n->stop;
done_testing;
