# config.t - nginx -t: what is refused and in which words, with file and line; what is inherited; nothing is loaded.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my $gguf = '%%ROOT%%/t/fixtures/gguf/llama-F32.gguf';
my $n = LLM::Nginx->new;
$n->write_file('broken.jinja', '{% for x in %}');
$n->write_file('empty.jinja', '');

# the directive under test stands in line $line of the generated file
sub check {
    my ($http) = @_;
    $n->conf($http);
    my ($rc, $out) = $n->check;
    return ($rc, $out);
}

sub line_of {
    my ($mark) = @_;
    my @lines = split /\n/, $n->read_file('nginx.conf');
    my ($i) = grep { index($lines[$_], $mark) >= 0 } 0 .. $#lines;
    return $i + 1;
}

sub refused {
    my ($http, $mark, $message, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($rc, $out) = check($http);
    my $line = line_of($n->expand($mark));
    ok $rc != 0 && $out =~ /\Q$message\E.* in \S*nginx\.conf:$line\b/s, $name || $message or diag "line $line: $out";
}

my @model = (
    [ 'weights /nowhere;',            '"weights" cannot be used: /nowhere: No such file' ],
    [ 'weight x;',                    'unknown directive "weight" in llm_model' ],
    [ 'weights;',                     'invalid number of arguments in "weights" directive' ],
    [ "weights $gguf; weights x;",    '"weights" directive is duplicate' ],
    [ "weights $gguf; context 7;",    'invalid value "7" of "context", it must be from 8 to 1048576' ],
    [ "weights $gguf; context x;",    'invalid value "x" of "context"' ],
    [ "weights $gguf; threads 0;",    'invalid value "0" of "threads", it must be from 1 to 256' ],
    [ "weights $gguf; parallel 257;", 'invalid value "257" of "parallel", it must be from 1 to 256' ],
    [ "weights $gguf; speculate 17;", 'invalid value "17" of "speculate", it must be from 0 to 16' ],
    [ "weights $gguf; slots 5000;",   'invalid value "5000" of "slots", it must be from 1 to 4096' ],
    [ "weights $gguf; quantize q9_0;", 'invalid type "q9_0" of "quantize", it must be "q8_0", "q6_k", ' ],
    [ "weights $gguf; quantize f16;", 'invalid type "f16" of "quantize"' ],
    [ "weights $gguf; quantize q4_k_or_longer;", 'invalid type "q4_k_or_longer" of "quantize"' ],
    [ "weights $gguf; kv_cache 1x;",  'invalid size "1x" of "kv_cache"' ],
    [ "weights $gguf; kv_cache 1m f8;", 'invalid type "f8" of "kv_cache", it must be "f32", "f16" or "q8_0"' ],
    [ "weights $gguf; template nothing.jinja;", 'nothing.jinja" failed' ],
    [ "weights $gguf; template empty.jinja;",   'empty.jinja" is empty' ],
    [ "weights $gguf; template broken.jinja;",  'broken.jinja"' ],
);
refused("llm_model m { $_->[0] }\nserver { listen 127.0.0.1:%%PORT%%; }", "llm_model m { $_->[0]", $_->[1], $_->[0]) for @model;

# reported at the line of the block
refused("llm_model m { }\n", 'llm_model m', 'llm_model "m" has no "weights"');
refused("llm_model m {\nweights $gguf; context 64; kv_cache 1k;\n}\n", 'llm_model m {',
    'llm_model "m": a "kv_cache" of 1024 bytes does not hold one context of 64 tokens');
refused("llm_model m {\nweights %%ROOT%%/t/fixtures/malformed/$_.gguf;\n}\n", 'llm_model m {', 'llm_model "m": ', "malformed: $_")
    for qw(bad_magic truncated_header truncated_data unsupported_architecture);

my $model = "llm_model m { weights $gguf; context 64; kv_cache 8m; }";
refused("$model\nllm_model \"a b\" { weights $gguf; }", 'llm_model "a b"', 'invalid model name "a b"');
refused("$model\nserver { listen 127.0.0.1:%%PORT%%;\nlocation / {\nllm_pass other; } }", 'llm_pass', 'unknown llm_model "other"');
refused("$model\nserver { listen 127.0.0.1:%%PORT%%;\nlocation / {\nllm_generate; } }", 'llm_generate',
    '"llm_generate" needs "llm_pass" in the same location');
refused("$model\nserver { listen 127.0.0.1:%%PORT%%;\nlocation / { llm_pass m; llm_info;\nllm_generate; } }", 'llm_generate',
    '"llm_generate" conflicts with "llm_info"');

my @values = (
    [ 'llm_max_concurrent_requests 0;',    'invalid value "0" of "llm_max_concurrent_requests", it must be from 1 to 4096' ],
    [ 'llm_max_queue -1;',                 'invalid value "-1" of "llm_max_queue", it must be from 0 to 4096' ],
    [ 'llm_api_key "";',                   'invalid key "" of "llm_api_key"' ],
    [ 'llm_api_key a off;',                'invalid key "off" of "llm_api_key"' ],
    [ 'llm_api_key a; llm_api_key b;',     '"llm_api_key" directive is duplicate' ],
    [ 'llm_max_best_of 0;',                'invalid value "0" of "llm_max_best_of", it must be from 1 to 256' ],
    [ 'llm_max_stop_sequences 257;',       'invalid value "257" of "llm_max_stop_sequences", it must be from 0 to 256' ],
    [ 'llm_max_top_n_tokens -1;',          'invalid value "-1" of "llm_max_top_n_tokens", it must be from 0 to 256' ],
    [ 'llm_max_client_batch_size 0;',      'invalid value "0" of "llm_max_client_batch_size", it must be from 1 to 256' ],
    [ 'llm_max_input_tokens 0;',           'invalid value "0" of "llm_max_input_tokens", it must be from 1 to 1048576' ],
    [ 'llm_max_total_tokens x;',           'invalid value "x" of "llm_max_total_tokens", it must be from 1 to 1048576' ],
    [ 'llm_default_max_new_tokens 0;',     'invalid value "0" of "llm_default_max_new_tokens"' ],
    [ 'llm_model_id "";',                  'must not be empty' ],
    [ "llm_model_id caf\xe9;",             'must be UTF-8' ],
    [ "llm_tool_prompt \xc0\x80;",         'must be UTF-8' ],
    [ "llm_tool_prompt \xed\xa0\x80;",     'must be UTF-8' ],
    [ 'llm_compute_type "";',              'must not be empty' ],
    [ 'llm_prefill_logprobs maybe;',       'it must be "on" or "off"' ],
    [ 'llm_embedding_pooling max;',        'invalid value "max"' ],
    [ 'llm_return_full_text maybe;',       'it must be "on" or "off"' ],
    [ 'llm_grammar maybe;',                'it must be "on" or "off"' ],
    [ 'llm_watermark gamma=0;',            'invalid parameter "gamma=0": "gamma=" is between 0 and 1' ],
    [ 'llm_watermark gamma=1;',            'invalid parameter "gamma=1"' ],
    [ 'llm_watermark delta=0;',            'invalid parameter "delta=0"' ],
    [ 'llm_watermark gamma=.25 delta=101;', 'invalid parameter "delta=101"' ],
    [ 'llm_watermark 2;',                  'invalid parameter "2"' ],
    [ 'llm_stream_errors both;',           'invalid value "both"' ],
    [ 'llm_error_format xml;',             'invalid value "xml"' ],
    [ 'llm_sse_keepalive 0;',              'must not be zero' ],
    [ 'llm_generation_timeout 0;',         'must not be zero' ],
    [ 'llm_queue_timeout soon;',           'invalid value' ],
    [ 'llm_cors_allow_origin example.com;', 'invalid origin "example.com"' ],
    [ 'llm_cors_allow_origin * http://a;', 'invalid origin "*"' ],
    [ 'llm_cors_allow_origin "http://a, http://b";', 'invalid origin' ],
    [ 'llm_prompt_by_lua_block { x = = 1 }', 'x = = 1' ],
);
for (@values) {
    my ($directive, $message) = @$_;
    $message = '' if $directive =~ /lua/;
    refused("$model\nserver { listen 127.0.0.1:%%PORT%%; location / { llm_pass m;\n$directive\n} }", $directive, $message, $directive);
    next if $directive =~ /lua/;
    refused("$model\n$directive\n", $directive, $message, "$directive in http") if $directive =~ /best_of|origin example/;
}
refused("$model\nserver { listen 127.0.0.1:%%PORT%%; location / {\nllm_pass m; llm_max_total_tokens 65; } }", 'llm_pass',
    '"llm_max_total_tokens" 65 exceeds the context of 64 tokens of llm_model "m"');
refused("$model\nserver { listen 127.0.0.1:%%PORT%%; location / {\nllm_pass m; llm_max_total_tokens 10; llm_max_input_tokens 10; } }",
    'llm_pass', '"llm_max_input_tokens" 10 must be less than "llm_max_total_tokens" 10');

# licences: of a directory's README.md, "unknown" where the file names none
mkdir $n->dir . "/licensed";
symlink "$LLM::Nginx::ROOT/t/fixtures/models/llama/$_", $n->dir . "/licensed/$_"
    for qw(config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json);
$n->write_file('licensed/README.md', "---\nlicense: Apache-2.0\n---\n# A model\n");
my $licensed = "$model\nllm_model l { weights %%DIR%%/licensed; context 64; kv_cache 8m; }";
my $not = 'is not in "llm_license_allow"';
refused("$licensed\nllm_license_allow unknown mit;\nserver { listen 127.0.0.1:%%PORT%%; location / {\nllm_pass l; } }", 'llm_pass',
    "the licence \"Apache-2.0\" of llm_model \"l\" $not", 'llm_license_allow of http');
refused("$licensed\nllm_license_allow apache-2.0;\nserver { listen 127.0.0.1:%%PORT%%; location / {\nllm_pass m; } }", 'llm_pass',
    "the licence \"unknown\" of llm_model \"m\" $not", 'a model without a licence');
refused("$licensed\nllm_license_allow unknown;\nserver { listen 127.0.0.1:%%PORT%%; location / { llm_pass m; } }", 'llm_model l',
    "the licence \"Apache-2.0\" of llm_model \"l\" $not", 'a model that no location uses');
refused("$licensed\nserver { listen 127.0.0.1:%%PORT%%; location / { llm_license_allow mit;\nllm_pass l; } }", 'llm_pass',
    "the licence \"Apache-2.0\" of llm_model \"l\" $not", 'llm_license_allow of a location');
refused("$model\nserver { listen 127.0.0.1:%%PORT%%;\nllm_license_allow '';\n}", 'llm_license_allow', 'must not have an empty name');
for ([ 'apache-2.0 unknown', '' ], [ 'mit', 'llm_license_allow APACHE-2.0 UNKNOWN;' ]) {
    my ($rc, $out) = check("$licensed\nllm_license_allow $_->[0];\nserver { listen 127.0.0.1:%%PORT%%; $_->[1]\n"
        . "location / { llm_pass m; } location /l/ { llm_pass l; } }");
    is $rc, 0, "llm_license_allow $_->[0] $_->[1]" or diag $out;
}
{
    $n->start;
    my $http = LLM::HTTP->new(port => $n->port);
    is $http->get('/l/info')->json->{license}, 'Apache-2.0', 'license in /info';
    is $http->get('/info')->json->{license}, undef, 'null when there is none';
    $n->stop(allow => qr/is not in "llm_license_allow"|emerg/);
}

my @duplicates = ('llm_pass m;', 'llm_max_best_of 2;', 'llm_sse_keepalive 1s;', 'llm_cors_allow_origin off;', 'llm_error_format tgi;');
for (@duplicates) {
    my ($rc, $out) = check("$model\nserver { listen 127.0.0.1:%%PORT%%; location / { $_ $_ llm_model_id x; } }");
    ok $rc && $out =~ /is duplicate in/, "$_ twice" or diag $out;
}
{
    my ($rc, $out) = check("$model\n$model");
    ok $rc && $out =~ /duplicate llm_model "m" in/, 'llm_model twice' or diag $out;
}

subtest 'accepted' => sub {
    $n = LLM::Nginx->new;
    my ($rc, $out) = check(<<"EOC");
        llm_max_best_of 3;
        llm_stream_errors event;
        llm_model b { include %%DIR%%/model.inc; threads auto; slots 4; parallel 4; speculate 8; kv_cache 8m q8_0; }
        llm_model c { weights $gguf; quantize Q8_0; }
        server {
            listen 127.0.0.1:%%PORT%%;
            llm_max_top_n_tokens 30;
            location / { llm_pass b; llm_max_best_of 4; }
            location /c/ { llm_pass c; llm_max_total_tokens 64; llm_max_input_tokens 60; client_max_body_size 100k; }
        }
EOC
    isnt $rc, 0, 'an include that is missing';
    $n->write_file('model.inc', $n->expand("weights $gguf; context 64;\n"));
    ($rc, $out) = $n->check;
    is $rc, 0, 'all of it' or diag $out;
    unlike $out, qr/weights loaded/, 'nginx -t loads no weights';
    $n->start;
    my $http = LLM::HTTP->new(port => $n->port);
    my $i = $http->get('/info')->json;
    is_deeply [ @$i{qw(max_best_of max_total_tokens)} ], [ 4, 64 ], 'of the location, of the model';
    is $i->{model_dtype}, 'F32', 'model_dtype of the file';
    # 2 layers, 2 heads, keys and values: 8 bytes and a scale of 2 each; 32 tokens a page
    my $pages = int(8 * 2 ** 20 / (2 * 2 * 2 * (8 + 2) * 32));
    like $http->get('/metrics')->body, qr/^llm_pages_total\{model="b"\} $pages$/m, 'pages of q8_0';
    is $http->post('/generate', { inputs => 'a', parameters => { max_new_tokens => 3 } })->status, 200, 'and they work';
    $i = $http->get('/c/info')->json;
    is $i->{model_dtype}, 'Q8_0', 'quantized while loading';
    is_deeply [ @$i{qw(max_best_of max_total_tokens max_input_tokens)} ], [ 3, 64, 60 ], 'of http, of the location';
    is $http->post('/generate_stream', { inputs => '' })->header('content-type'), 'text/event-stream', 'llm_stream_errors of http';
    is scalar @{ $http->post('/generate', { inputs => 'a', parameters => { top_n_tokens => 30, max_new_tokens => 1,
        details => JSON::PP::true } })->json->{details}{top_tokens}[0] }, 30, 'llm_max_top_n_tokens of the server reaches the engine';
    like $n->log, qr/llm_model "b": \d+ MB of weights loaded/, 'loaded at the start';
    $n->stop(allow => qr/model\.inc/);
};

subtest 'kernels' => sub {
    my $http = "llm_model m { weights $gguf; context 64; kv_cache 8m; }\nserver { listen 127.0.0.1:%%PORT%%; }";
    my $missing = 'LLM_KERN is "none": no set of kernels that this CPU can run, which are ';
    {
        local $ENV{LLM_KERN} = 'none';
        refused($http, 'llm_model m', "llm_model \"m\": $missing", 'of the environment');
    }
    for my $case ([ none => 1 ], [ ref => 0 ], [ c => 0 ], [ '' => 0 ]) {
        my ($name, $status) = @$case;
        $n = LLM::Nginx->new(main => "env LLM_KERN=$name;");
        $n->conf($http);
        my ($rc, $out) = $n->check;
        is $rc, $status, "\"env LLM_KERN=$name;\"";
        like $out, qr/\[emerg\].*"env" directive: \Q$missing\E/, 'named' if $status;
    }
    $n->write_file('nginx.conf', $n->read_file('nginx.conf') . "\nenv LLM_KERN=none;\n");
    is +($n->check)[0], 1, 'after http {}';
};

subtest 'without llm_model the module does nothing' => sub {
    $n = LLM::Nginx->new;
    $n->conf('server { listen 127.0.0.1:%%PORT%%; location / { return 200 ok; } }');
    $n->start;
    is(LLM::HTTP->new(port => $n->port)->get('/')->body, 'ok', 'nginx serves');
    $n->stop;
};

undef $n;
done_testing;
