# tools.t - functions that the model may or must call, in the syntax of every family: calls as objects and as chunks, text
# beside them, choices, arguments that match their schema, prompts that show tools and results, refusals.

use strict;
use warnings;
use lib 't/lib';
use utf8;

use Encode ();
use File::Copy ();
use JSON::PP ();
use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $json = JSON::PP->new->canonical->allow_nonref;
my $n = LLM::Nginx->new;

# the parts of published templates that say how a family writes calls
my %family = (
    hermes => [ "<tool_call>\n{{ c.arguments | tojson }}\n</tool_call>", qr{\A(?:<tool_call>\n(\{.*\})\n</tool_call>(?:\n|\z))+\z} ],
    mistral => [ "[TOOL_CALLS] [{{ c.arguments | tojson }}]",   qr{\A\[TOOL_CALLS\] \[\{.*\}\]\z} ],
    nemo    => [ "[TOOL_CALLS][{{ c.arguments | tojson }}]",    qr{\A\[TOOL_CALLS\]\[\{.*\}\]\z} ],
    mistral2025 => [ "[TOOL_CALLS]{{ c.name }}[ARGS]{{ c.arguments | tojson }}", qr{\A(?:\[TOOL_CALLS\]\w+\[ARGS\]\{[^\[]*\})+\z} ],
    granite => [ "<|tool_call|>[{{ c.arguments | tojson }}]",   qr{\A<\|tool_call\|>\[\{.*\}\]\z} ],
    phi     => [ "<|tool_call|>{{ c.arguments | tojson }}<|/tool_call|>", qr{\A(?:<\|tool_call\|>\{.*?\}<\|/tool_call\|>)+\z} ],
    phi_list => [ "functools[{{ c.arguments | tojson }}]",       qr{\Afunctools\[\{.*\}\]\z} ],
    nemotron => [ "<TOOLCALL>[{{ c.arguments | tojson }}]</TOOLCALL>", qr{\A<TOOLCALL>\[\{.*\}\]</TOOLCALL>\z} ],
    granite20b => [ "<function_call> {{ c.arguments | tojson }}", qr{\A<function_call> \{"name": "\w+", "arguments": \{.*\}\}\z} ],
    mistral2506 => [ "[TOOL_CALLS]{{ c.name }}[CALL_ID]{{ call.id }}[ARGS]{{ c.arguments | tojson }}",
        qr{\A(?:\[TOOL_CALLS\]\w+\[CALL_ID\]\w{9}\[ARGS\]\{[^\[]*\})+\z} ],
    deepseek => [ "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ c.name }}\n```json\n{{ c.arguments | tojson }}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        qr{\A<｜tool▁calls▁begin｜>(?:\n?<｜tool▁call▁begin｜>function<｜tool▁sep｜>\w+\n```json\n\{[^`]*\}\n```<｜tool▁call▁end｜>)+<｜tool▁calls▁end｜>\z} ],
    deepseek31 => [ "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{{ c.name }}<｜tool▁sep｜>{{ c.arguments | tojson }}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        qr{\A<｜tool▁calls▁begin｜>(?:<｜tool▁call▁begin｜>\w+<｜tool▁sep｜>\{[^<]*\}<｜tool▁call▁end｜>)+<｜tool▁calls▁end｜>\z} ],
    llama   => [ "{# in the format {\"name\": function name, \"parameters\": dictionary of arguments} #}{\"name\": \"{{ c.name }}\", \"parameters\": {{ c.arguments | tojson }}}", qr{\A\{"name": "\w+", "parameters": \{.*\}\}\z} ],
    other   => [ '{{ c.arguments | tojson }}', qr{\A\{"name": "\w+", "arguments": \{.*\}\}(?:\n\{"name": .*\})*\z} ],
);
my $conf = '';
for my $name (sort keys %family) {
    my $calls = $family{$name}[0];
    $n->write_file("$name.jinja", Encode::encode('UTF-8', <<"EOT2"));
{% if tools %}TOOLS {{ tools | tojson }}
{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}{% for call in m.tool_calls or [] %}{% set c = call.function %}$calls({{ call.id }}){% endfor %}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}
EOT2
    $conf .= "llm_model $name { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 2048; kv_cache 64m; template $name.jinja; }\n";
    $family{$name}[2] = "location /$name/ { llm_pass $name; }\n";
}
$n->write_file('plain.jinja', '{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}');
# in the manner of DeepSeek V3.1
$n->write_file('strings.jinja', Encode::encode('UTF-8', "{% for m in messages %}{{ m.content }}{% for tool in m['tool_calls'] or [] %}"
    . "{{ '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['function']['name'] + '<｜tool▁sep｜>' + tool['function']['arguments'] + '<｜tool▁call▁end｜>' }}"
    . "{% endfor %}{% endfor %}"));
$n->write_file('blind.jinja', '{% for m in messages %}<{{ m.role }}>{{ m.tools }}{{ m.content }}{% endfor %}');
$n->write_file('qwen.jinja', "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{{ tools | tojson if tools }}"
    . "<|im_start|>assistant\n{# <tool_call> </tool_call> #}");

# the same vocabulary with a control token of Mistral's
mkdir $n->dir . '/special';
for my $file (qw(config.json generation_config.json model.safetensors tokenizer_config.json tokenizer.json)) {
    my $from = "$LLM::Nginx::ROOT/t/fixtures/models/qwen3/$file";
    next unless -e $from;
    if ($file =~ /^tokenizer/) {
        open my $f, '<:raw', $from or die "$from: $!\n";
        my $text = do { local $/; <$f> };
        my $t = JSON::PP->new->utf8->decode($text);
        for (@{ $t->{added_tokens} || [] }, values %{ $t->{added_tokens_decoder} || {} }) {
            ($_->{content}, $_->{special}) = ('[TOOL_CALLS]', $true) if $_->{content} eq '<tool_call>';
        }
        my $v = $t->{model}{vocab};
        $v->{'[TOOL_CALLS]'} = delete $v->{'<tool_call>'} if $v && exists $v->{'<tool_call>'};
        $n->write_file("special/$file", JSON::PP->new->utf8->canonical->encode($t));
        next;
    }
    File::Copy::copy($from, $n->dir . "/special/$file") or die "$from: $!\n";
}
$n->conf(<<"EOC" . $conf . <<'EOC2' . join('', map { $_->[2] } values %family) . "}\n");
    llm_model blind { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 2048; kv_cache 64m; template blind.jinja; }
    llm_model strings { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 2048; kv_cache 64m; template strings.jinja; }
    llm_model plain { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 2048; kv_cache 64m; template plain.jinja; }
    llm_model qwen { weights %%ROOT%%/t/fixtures/models/qwen3; context 2048; kv_cache 64m; template qwen.jinja; }
    llm_model special { weights special; context 2048; kv_cache 64m; template nemo.jinja; }
EOC
    server {
        listen 127.0.0.1:%%PORT%%;
        location /qwen/ { llm_pass qwen; }
        location /special/ { llm_pass special; }
        location /plain/ { llm_pass plain; }
        location /blind/ { llm_pass blind; }
        location /strings/ { llm_pass strings; }
        location /prompt/ { llm_pass plain; llm_tool_prompt "Call one of these."; }
        location /off/ { llm_pass qwen; llm_grammar off; }
        location /held/ {
            llm_pass qwen;
            llm_output_by_lua_block { local piece, last = ... if last or #piece > 23 then return piece end }
        }
        location /hook/ { llm_pass qwen; llm_output_by_lua_block { local piece = ... return (piece:gsub("[0-9]", "7")) } }
EOC2
$n->start;
my $http = LLM::HTTP->new(port => $n->port);

my @user = (messages => [ { role => 'user', content => 'Weather in Rome?' } ]);
my $weather = { type => 'object', properties => { city => { enum => [ 'Rome', 'Oslo' ] }, days => { type => 'integer', minimum => 1, maximum => 14 } },
    required => [ 'city', 'days' ] };
my @tools = map { { type => 'function', function => $_ } }
    { name => 'get_weather', description => 'the weather', parameters => $weather },
    { name => 'now' },
    { name => 'pick', parameters => { properties => { n => { type => 'integer', minimum => 0, maximum => 99 } }, required => ['n'] } };

sub chat { my ($path, @more) = @_; return $http->post("$path/v1/chat/completions", { @user, @more }) }

# whether a call is one of @tools
sub valid {
    my ($call) = @_;
    my ($name, $text) = @{ $call->{function} }{qw(name arguments)};
    my $a = eval { $json->decode($text) };
    return 0 unless ref $a eq 'HASH' && $call->{type} eq 'function' && $call->{id} =~ /\A[A-Za-z0-9]{9}\z/;
    return !%$a if $name eq 'now';
    return join(' ', sort keys %$a) eq 'n' && $a->{n} =~ /\A[0-9]{1,2}\z/ if $name eq 'pick';
    return join(' ', sort keys %$a) eq 'city days' && $a->{city} =~ /\A(?:Rome|Oslo)\z/ && $a->{days} =~ /\A(?:[1-9]|1[0-4])\z/
        if $name eq 'get_weather';
    return 0;
}

# the text that the tokens are, from their log-probabilities
sub raw {
    my ($choice) = @_;
    my $text = join '', map { pack 'C*', @{ $_->{bytes} } } @{ $choice->{logprobs}{content} };
    return Encode::decode('UTF-8', $text);
}

# a message from the chunks of one choice; dies where a chunk has not the form of the specification
sub collect {
    my ($x) = @_;
    my @e = @{ $x->data };
    die "no [DONE]\n" unless pop @e eq '[DONE]';
    my (%m, @calls, $reason, $n_role);
    for my $e (@e) {
        my $c = $e->{choices}[0];
        die "after the end\n" if $reason;
        $reason = $c->{finish_reason};
        my $d = $c->{delta};
        $n_role++ if $d->{role};
        $m{content} .= $d->{content} if defined $d->{content};
        $m{reasoning} .= $d->{reasoning} if defined $d->{reasoning};
        die "two names of a thought\n" if ($d->{reasoning} // '') ne ($d->{reasoning_content} // '');
        my $t = $d->{tool_calls};
        die "neither text nor call\n" unless $t || defined $d->{content};
        next unless $t;
        die "one call in a chunk\n" unless @$t == 1;
        my $k = $t->[0]{index};
        if ($k == @calls) {
            die "content is not null\n" if !exists $d->{content} || defined $d->{content};
            die "arguments of the first\n" if $t->[0]{function}{arguments} ne '';
            push @calls, { id => $t->[0]{id}, type => $t->[0]{type}, function => { name => $t->[0]{function}{name}, arguments => '' } };
        }
        elsif ($k != $#calls || grep { exists $t->[0]{$_} } qw(id type)) { die "call $k again\n" }
        $calls[$k]{function}{arguments} .= $t->[0]{function}{arguments};
    }
    die "role $n_role times\n" unless $n_role == 1;
    return ({ %m, @calls ? (tool_calls => \@calls) : () }, $reason, $e[-1]{choices}[0]{delta});
}

sub plain_calls { return [ map { [ @{ $_->{function} }{qw(name arguments)} ] } @{ $_[0]{tool_calls} || [] } ] }

for my $name (sort keys %family) {
    subtest $name => sub {
        my %p = (tools => \@tools, tool_choice => 'required', max_tokens => 500, temperature => 1.3, logprobs => $true);
        my $several = 0;
        for my $seed (1 .. 3) {
            my $x = chat("/$name", %p, seed => $seed);
            my $c = $x->json->{choices}[0] or return fail $x->body;
            my @calls = @{ $c->{message}{tool_calls} || [] };
            my $whole = $c->{finish_reason} eq 'tool_calls';
            pop @calls unless $whole;
            ok !(grep { !valid($_) } @calls) && ($whole || $c->{finish_reason} eq 'length'), "seed $seed: " . @calls . ' calls'
                or diag $x->body;
            ok exists $c->{message}{content} && !defined $c->{message}{content}, 'no content';
            my %ids = map { $_->{id} => 1 } @calls;
            is scalar(keys %ids), scalar(@calls), 'ids are unique';
            like raw($c), qr/$family{$name}[1]/s, 'in the syntax of the family' if $whole;
            $several++ if @calls > 1;
            my ($m, $reason) = eval { collect(chat("/$name", %p, seed => $seed, stream => $true)) };
            is $@, '', 'chunks';
            is_deeply [ plain_calls($m), $reason ], [ plain_calls($c->{message}), $c->{finish_reason} ], 'the same in a stream';
        }
        my $c = chat("/$name", %p, seed => 3, parallel_tool_calls => $false)->json->{choices}[0];
        is_deeply [ scalar @{ $c->{message}{tool_calls} }, $c->{finish_reason} ], [ 1, 'tool_calls' ], 'parallel_tool_calls false: one';
        for my $choice ({ type => 'function', function => { name => 'pick' } }, { function => { name => 'pick' } }, 'pick') {
            $c = chat("/$name", %p, tool_choice => $choice)->json->{choices}[0];
            is_deeply [ map { $_->{function}{name} } @{ $c->{message}{tool_calls} } ], ['pick'], 'a named one' or diag explain $c;
            ok valid($c->{message}{tool_calls}[0]), 'with its arguments';
        }
        $c = chat("/$name", %p, n => 3)->json->{choices};
        is scalar(grep { @{ $_->{message}{tool_calls} } && valid($_->{message}{tool_calls}[0]) } @$c), 3, 'choices have their own calls';
    };
}

subtest 'auto' => sub {
    my %id = map { $_ => $http->post('/qwen/tokenize', { content => $_ })->json->{tokens}[0] } '<tool_call>', '<|im_end|>';
    my %p = (tools => \@tools, temperature => 1, max_tokens => 300, logprobs => $true,
        logit_bias => { $id{'<tool_call>'} => 5, $id{'<|im_end|>'} => 6 });
    my %seen;
    for my $seed (1 .. 30) {
        my $c = chat('/qwen', %p, seed => $seed)->json->{choices}[0];
        my ($m, $raw) = ($c->{message}, raw($c));
        my @want = map { s/^\{"name": "(\w+)", "arguments": (.*)\}$/$2/s; [ $1, $_ ] }
            $raw =~ m{<tool_call>\n(\{.*?\})\n</tool_call>}gs;
        (my $text = $raw) =~ s{\s*<tool_call>\n.*?(?:\n</tool_call>\s*|\z)}{}gs;
        my @calls = @{ $m->{tool_calls} || [] };
        my $cut = $c->{finish_reason} eq 'length';
        pop @calls if $cut && @calls > @want;
        is_deeply plain_calls({ tool_calls => \@calls }), \@want, "seed $seed: " . @want . ' calls';
        ok !(grep { !valid($_) } @calls), 'valid';
        (my $content = $m->{content} // '') =~ s/[\s\x{fffd}]//g;
        $text =~ s/[\s\x{fffd}]//g;
        ok $content eq $text, 'the text around them' or diag explain [ $content, $text ];
        is $c->{finish_reason}, @want ? 'tool_calls' : 'stop', 'reason' unless $cut;
        my ($s, $reason, $last) = eval { collect(chat('/qwen', %p, seed => $seed, stream => $true)) };
        is $@, '', 'chunks';
        is_deeply [ plain_calls($s), $s->{content} // '', $reason ], [ plain_calls($m), $m->{content} // '', $c->{finish_reason} ],
            'the same in a stream' or diag $raw;
        ($s, $reason) = eval { collect(chat('/held', %p, seed => $seed, stream => $true)) };
        is_deeply [ plain_calls($s), $s->{content} // '', $reason ], [ plain_calls($m), $m->{content} // '', $c->{finish_reason} ],
            'the same in other pieces' or diag $raw;
        delete $last->{role};
        is_deeply $last, @want ? { tool_calls => [ { index => $#want, function => { arguments => '' } } ] } : { content => '' },
            'the last delta' unless $cut;
        $seen{ @want > 1 ? 'several' : @want ? 'one' : 'none' }++;
        $seen{both}++ if @want && length $text;
    }
    ok $seen{$_}, "answers of every kind: $_" for qw(none one both several);
    my $c = chat('/qwen', %p, seed => 2, parallel_tool_calls => $false, logit_bias => { $id{'<tool_call>'} => 100 })->json->{choices}[0];
    is_deeply [ scalar @{ $c->{message}{tool_calls} }, $c->{finish_reason} ], [ 1, 'tool_calls' ], 'at most one';
    my @r = @{ chat('/qwen', %p, stream => $true, tool_prompt => undef, parallel_tool_calls => $false, logit_bias => { $id{'<tool_call>'} => 100 })->data };
    pop @r;
    my @t = map { @{ $_->{choices}[0]{delta}{tool_calls} || [] } } @r;
    is scalar(grep { !$_->{choices}[0]{delta}{role} } @r), 0, 'tool_prompt: the role in all';
    is scalar(grep { $_->{id} ne $t[0]{id} || $_->{type} ne 'function' } @t), 0, 'id and type too';
    ok !defined $t[1]{function}{name} && exists $t[1]{function}{name}, 'the name is null later';
    $c = chat('/qwen', %p, seed => 4, tool_choice => 'none', logit_bias => { $id{'<tool_call>'} => 100 }, max_tokens => 3)->json->{choices}[0];
    is $c->{message}{content}, '<tool_call>' x 3, 'none: all is text';
    ok !exists $c->{message}{tool_calls}, 'and there are no calls';
    $c = chat('/hook', %p, seed => 2, parallel_tool_calls => $false, tools => [ $tools[2] ], logit_bias => { $id{'<tool_call>'} => 100 })->json->{choices}[0];
    like $c->{message}{tool_calls}[0]{function}{arguments}, qr/\A\{ ?"n" ?: ?7+ ?\}\z/, 'an output hook sees the text of calls';
    $c = chat('/qwen', %p, seed => 1, stop => '"arguments": {', include_stop_str_in_output => $true, logit_bias => { $id{'<tool_call>'} => 100 })->json->{choices}[0];
    is_deeply [ $c->{message}{tool_calls}[0]{function}{arguments}, $c->{finish_reason} ], [ '{', 'stop' ], 'one inside a call';
    my $in = $http->post('/qwen/v1/responses', { input => 'hi', seed => 1, temperature => 1, stop => '"arguments": {', include_stop_str_in_output => $true,
        tools => [ map { { type => 'function', %{ $_->{function} } } } @tools ], logit_bias => { $id{'<tool_call>'} => 100 } })->json->{output}[0];
    is_deeply [ @$in{qw(type arguments status)} ], [ 'function_call', '{', 'incomplete' ], 'and in /v1/responses';
    $c = chat('/qwen', %p, seed => 1, stop => '</tool_call>', logit_bias => { $id{'<tool_call>'} => 100 })->json->{choices}[0];
    is_deeply [ scalar @{ $c->{message}{tool_calls} }, $c->{finish_reason} ], [ 1, 'tool_calls' ], 'a stop string behind a call';
};

subtest 'special tokens that write calls' => sub {
    my $id = $http->post('/special/tokenize', { content => '[TOOL_CALLS]' })->json->{tokens};
    is scalar(@$id), 1, 'one token';
    my $c = chat('/special', tools => \@tools, temperature => 1, seed => 6, max_tokens => 300, logit_bias => { $id->[0] => 100 },
        parallel_tool_calls => $false)->json->{choices}[0];
    ok valid($c->{message}{tool_calls}[0] || {}), 'auto' or diag explain $c;
    is $c->{message}{content}, undef, 'and none of it is in the text';
};

subtest 'tools and a format' => sub {
    my $format = { type => 'json_schema', json_schema => { name => 'x', schema => { type => 'object',
        properties => { answer => { enum => [ 1, 2 ] } }, required => ['answer'] } } };
    my %seen;
    for my $path ('/qwen', '/other', '/mistral') {
        for my $seed (1 .. 8) {
            my %p = (tools => [ $tools[2] ], response_format => $format, seed => $seed, temperature => 1.5, max_tokens => 200);
            my $c = chat($path, %p)->json->{choices}[0];
            my $call = $c->{message}{tool_calls};
            ok $call ? valid($call->[0]) && @$call == 1 && !defined $c->{message}{content}
                : $c->{message}{content} =~ /\A\{ ?"answer" ?: ?[12] ?\}\z/, "$path: a call or the format" or diag explain $c;
            $seen{ $call ? 'call' : 'text' }++;
            my ($s, $reason) = eval { collect(chat($path, %p, stream => $true)) };
            is_deeply [ plain_calls($s), $s->{content} // '', $reason ],
                [ plain_calls($c->{message}), $c->{message}{content} // '', $c->{finish_reason} ], 'the same in a stream';
        }
    }
    ok $seen{$_}, "some are $_" for qw(call text);
    my $c = chat('/qwen', tools => \@tools, tool_choice => 'required', response_format => $format, max_tokens => 300)->json->{choices}[0];
    ok valid($c->{message}{tool_calls}[0]), 'required goes before the format';
    $c = chat('/qwen', tools => \@tools, tool_choice => 'none', response_format => $format, max_tokens => 300)->json->{choices}[0];
    like $c->{message}{content}, qr/"answer"/, 'none leaves the format';
};

subtest 'prompts' => sub {
    my $prompt = sub { my ($path, %b) = @_; my $x = $http->post("$path/chat_tokenize", { @user, %b }); return $x->json->{templated_text} // $x->body };
    my ($list) = $prompt->('/hermes', tools => [ { type => 'function', function => { name => 'f', arguments => { type => 'object' } } } ])
        =~ /^TOOLS (.*)/;
    is_deeply $json->decode($list), [ { type => 'function', function => { name => 'f', parameters => { type => 'object' } } } ],
        "TGI's arguments are parameters for the template";
    ($list) = $prompt->('/hermes', functions => [ { name => 'g', description => 'd' } ]) =~ /^TOOLS (.*)/;
    is_deeply $json->decode($list), [ { type => 'function', function => { name => 'g', description => 'd' } } ], 'functions';
    like $prompt->('/hermes', tools => \@tools, tool_choice => 'none'), qr/^TOOLS .*get_weather/, 'none: still shown';
    like $prompt->('/hermes', tools => \@tools, tool_prompt => 'Use them!'), qr/<user>Weather in Rome\?\n---\nUse them!</, 'tool_prompt';
    unlike $prompt->('/hermes', tool_prompt => 'Use them!'), qr/Use them/, 'but not without tools';
    like $prompt->('/plain', tools => \@tools), qr/\A<user>Weather in Rome\?\n---\n.*"arguments".*\n\[.*"get_weather".*\]\z/s,
        'a template without tools: list and instruction in the last message of the user';
    like $prompt->('/blind', tools => \@tools), qr/\A<user>Weather in Rome\?\n---\n.*"get_weather"/s, 'a template that only mentions them';
    for my $name ('get_weather', "get_weather\0get_weather", "\0") {
        my @said = (messages => [ { role => 'user', content => "what is $name?" } ], tools => \@tools);
        like $prompt->('/blind', @said), qr/\n---\n.*\n\[.*"get_weather"/s, 'also where the user says its name';
        my $shown = $prompt->('/hermes', @said);
        like $shown, qr/^TOOLS .*get_weather/, 'a template that shows them';
        unlike $shown, qr/\n---\n/, 'needs no more';
    }
    unlike $prompt->('/blind', tools => \@tools, tool_choice => 'none'), qr/get_weather/, 'none';
    unlike $prompt->('/plain', tools => \@tools, tool_choice => 'none'), qr/get_weather/, 'none: no instruction';
    like $prompt->('/strings', tools => \@tools), qr/in this form:\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>\{ARGUMENTS\}<｜tool▁call▁end｜><｜tool▁calls▁end｜>\n\[/,
        'in the syntax of the family';
    like $prompt->('/prompt', tools => \@tools), qr/\n---\nCall one of these\.\n\[/, 'llm_tool_prompt';
    my @turn = ({ role => 'user', content => 'q' },
        { role => 'assistant', content => undef, tool_calls => [ { id => 'abcdefghi', type => 'function', function => { name => 'pick', arguments => '{"n": 5}' } } ] },
        { role => 'tool', tool_call_id => 'abcdefghi', content => '5!' });
    like $prompt->('/hermes', messages => \@turn), qr/<tool_call>\n\{"n": 5\}\n<\/tool_call>\(abcdefghi\)<tool>5!/,
        'calls and results through the template';
    for ([ 32_758, qr/<tool_call>\n\{"n": "x+"\}\n/ ], [ 40_000, qr/<tool_call>\n"\{\\"n\\": \\"x+\\"\}"\n/ ]) {
        my ($length, $form) = @$_;
        local $turn[1]{tool_calls}[0]{function}{arguments} = '{"n": "' . 'x' x $length . '"}';
        like $prompt->('/hermes', messages => \@turn), $form, "$length bytes of arguments";
    }
    like $prompt->('/strings', messages => \@turn), qr/pick<｜tool▁sep｜>\{"n": 5\}<｜tool▁call▁end｜>/, 'a template that joins strings has the string';
    is $prompt->('/plain', messages => \@turn), '<user>q<assistant>{"name": "pick", "arguments": {"n": 5}}<user>5!',
        'as text where it knows neither';
};

my @bad = (
    [ { tools => {} }, 'Failed to deserialize the JSON body into the target type: tools: invalid type: map, expected a sequence', 'validation' ],
    [ { tools => [1] }, 'Failed to deserialize the JSON body into the target type: tools[0]: invalid value: integer `1`, expected struct Tool', 'validation' ],
    [ { tools => [ {} ] }, 'Failed to deserialize the JSON body into the target type: tools[0]: missing field `function`', 'validation' ],
    [ { tools => [ { function => {} } ] }, 'Failed to deserialize the JSON body into the target type: tools[0].function: missing field `name`', 'validation' ],
    [ { tools => [ @tools, $tools[0] ] }, 'Tool error: two tools have the name get_weather' ],
    [ { tools => [ { function => { name => 'a b' } } ] }, 'Tool error: the name of a tool must have letters, digits and "_-.:/" only: a b' ],
    [ { tools => [ { function => { name => '' } } ] }, 'Tool error: the name of a tool must have 1 to 128 bytes. Given: 0' ],
    [ { tools => [ map { { function => { name => "f$_" } } } 1 .. 513 ] }, 'Tool error: at most 512 tools are supported. Given: 513' ],
    [ { tools => [ { function => { name => 'f', parameters => { type => 'string' } } } ] }, 'Tool error: the parameters of f must be of type object' ],
    [ { tools => [ { function => { name => 'f', parameters => [] } } ] }, 'Tool error: the parameters of f are no JSON schema' ],
    [ { tools => \@tools, tool_choice => { function => { name => 'f' } } }, 'Tool error: Tool with name f not found' ],
    [ { tools => \@tools, tool_choice => 'f' }, 'Tool error: Tool with name f not found' ],
    [ { tool_choice => 'required' }, 'Tool error: `tool_choice` is "required", but there are no tools' ],
    [ { tools => \@tools, tool_choice => 5 },
        'Failed to deserialize the JSON body into the target type: tool_choice: invalid value: integer `5`, expected a string or a named function', 'validation' ],
    [ { tools => [ { function => { name => 'f', parameters => { type => 'object', properties => { x => { not => {} } }, required => ['x'] } } } ] },
        qr/^Input validation error: grammar is not valid: .*not/, 'validation' ],
    [ { tools => \@tools, response_format => { type => 'regex', value => 'a' } },
        'Input validation error: an output of type `regex` or `gbnf` is not supported with `tools`', 'validation' ],
);
subtest 'refused' => sub {
    for (@bad) {
        my ($body, $message, $type) = @$_;
        my $x = chat('/qwen', max_tokens => 5, %$body);
        my $e = $x->json || {};
        is_deeply [ $x->status, $e->{error_type}, $e->{error}{code} ], [ 422, $type || 'tool_error', 422 ], "$message" or diag $x->body;
        ref $message ? like $e->{error}{message}, $message : is $e->{error}{message}, $message;
    }
    is chat('/off', tools => \@tools, max_tokens => 5)->json->{error}{message}, 'Input validation error: grammar is not supported', 'llm_grammar off';
    is chat('/off', tools => \@tools, tool_choice => 'none', max_tokens => 5)->status, 200, 'but tools that are only shown';
    is chat('/qwen', max_tokens => 5, %$_)->status, 200, $json->encode($_)
        for { tools => [] }, { tools => undef, tool_choice => 'auto' }, { tools => \@tools, tool_choice => undef }, { tool_choice => 'none' },
        { functions => [ { name => 'f' } ], function_call => 'auto' };
    my $c = chat('/qwen', functions => [ { name => 'f' }, { name => 'g' } ], function_call => { name => 'g' }, max_tokens => 60)->json->{choices}[0];
    is_deeply [ map { ($_->[0], $json->decode($_->[1])) } @{ plain_calls($c->{message}) } ], [ 'g', {} ], 'function_call' or diag explain $c;
};

$n->stop;
undef $n;
done_testing;
