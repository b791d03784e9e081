# validation.t - what is refused, with which status, in which words and in which order; error bodies of both protocols.

use strict;
use warnings;
use lib 't/lib';
use utf8;

use JSON::PP ();
use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $n = LLM::Nginx->new;
$n->conf(<<'EOC');
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 64; kv_cache 8m; }
    llm_model bare { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 64; kv_cache 8m; template %%DIR%%/bad.jinja; }
    server {
        listen 127.0.0.1:%%PORT%%;
        llm_max_stop_sequences 4;
        llm_max_top_n_tokens 5;
        location / { llm_pass m; }
        location /small/ { llm_pass m; llm_max_input_tokens 10; llm_max_total_tokens 20; llm_max_best_of 1; }
        location /tgi/ { llm_pass m; llm_error_format tgi; }
        location /openai/ { llm_pass m; llm_error_format openai; }
        location /event/ { llm_pass m; llm_stream_errors event; }
        location /bare/ { llm_pass bare; }
    }
EOC
$n->write_file('bad.jinja', "{{ raise_exception('no chat here') }}");
$n->start;
my $http = LLM::HTTP->new(port => $n->port);

use constant V => 'Input validation error: ';
use constant D => 'Failed to deserialize the JSON body into the target type: ';

# [ parameters, message ] for POST /generate
my @native = (
    [ { temperature => 0 },             V . '`temperature` must be strictly positive' ],
    [ { temperature => -1 },            V . '`temperature` must be strictly positive' ],
    [ { repetition_penalty => 0 },      V . '`repetition_penalty` must be strictly positive' ],
    [ { frequency_penalty => 2.1 },     V . '`frequency_penalty` must be >= -2.0 and <= 2.0' ],
    [ { frequency_penalty => -2.1 },    V . '`frequency_penalty` must be >= -2.0 and <= 2.0' ],
    [ { top_p => 0 },                   V . '`top_p` must be > 0.0 and < 1.0' ],
    [ { top_p => 1 },                   V . '`top_p` must be > 0.0 and < 1.0' ],
    [ { typical_p => 0 },               V . '`typical_p` must be > 0.0 and < 1.0' ],
    [ { typical_p => 1.0 },             V . '`typical_p` must be > 0.0 and < 1.0' ],
    [ { top_k => 0 },                   V . '`top_k` must be strictly positive' ],
    [ { top_k => -1 },                  V . '`top_k` must be strictly positive' ],
    [ { max_new_tokens => 0 },          V . '`max_new_tokens` must be strictly positive' ],
    [ { stop => [ ('a') x 5 ] },        V . '`stop` supports up to 4 stop sequences. Given: 5' ],
    [ { best_of => 2 },                 V . 'you must use sampling when `best_of` is > 1' ],
    [ { best_of => 3 },                 V . '`best_of` must be > 0 and <= 2. Given: 3' ],
    [ { best_of => 2, do_sample => $true, seed => 1 }, V . '`seed` must not be set when `best_of` > 1' ],
    [ { top_n_tokens => 6 },            V . '`top_n_tokens` must be >= 0 and <= 5. Given: 6' ],
    [ { truncate => 0 },                V . '`truncate` must be strictly positive and less than 63. Given: 0' ],
    [ { truncate => 64 },               V . '`truncate` must be strictly positive and less than 63. Given: 64' ],
    [ { max_new_tokens => 64 },
        V . '`inputs` tokens + `max_new_tokens` must be <= 64. Given: 3 `inputs` tokens and 64 `max_new_tokens`' ],
    [ { max_new_tokens => 100000 },
        V . '`inputs` tokens + `max_new_tokens` must be <= 64. Given: 3 `inputs` tokens and 1024 `max_new_tokens`' ],
    [ { min_p => 1.5 },                 V . '`min_p` must be >= 0.0 and <= 1.0' ],
    [ { presence_penalty => 3 },        V . '`presence_penalty` must be >= -2.0 and <= 2.0' ],
    [ { logit_bias => { 5 => 101 } },   V . '`logit_bias` values must be >= -100 and <= 100' ],
    [ { logit_bias => { x => 1 } },     V . '`logit_bias` token ids must be >= 0 and < 448' ],
    [ { logit_bias => [ [ 448, 1 ] ] }, V . '`logit_bias` token ids must be >= 0 and < 448' ],
    # not done yet: refused, never ignored
    [ { adapter_id => 'sql' },          V . 'adapter `sql` is not loaded' ],
    # grammars
    [ { grammar => 'x' },               D . 'parameters.grammar: invalid type: string "x", expected an object with a `type`' ],
    [ { grammar => {} },                D . 'parameters.grammar: missing field `type`' ],
    [ { grammar => { type => 5 } },     D . 'parameters.grammar.type: invalid value: integer `5`, expected a string' ],
    [ { grammar => { type => 'xml' } },
        D . 'parameters.grammar.type: unknown variant `xml`, expected one of `json`, `json_object`, `json_schema`, `regex`, `gbnf`' ],
    [ { grammar => { type => 'text' } },
        D . 'parameters.grammar.type: unknown variant `text`, expected one of `json`, `json_object`, `json_schema`, `regex`, `gbnf`' ],
    [ { grammar => { type => 'json' } },        D . 'parameters.grammar: missing field `value`' ],
    [ { grammar => { type => 'json_object' } }, D . 'parameters.grammar: missing field `value`' ],
    [ { grammar => { type => 'json_schema', value => {} } }, D . 'parameters.grammar: missing field `schema`' ],
    [ { grammar => { type => 'regex' } },       D . 'parameters.grammar: missing field `value`' ],
    [ { grammar => { type => 'json', value => [] } },
        D . 'parameters.grammar.value: invalid type: sequence, expected a JSON schema' ],
    [ { grammar => { type => 'regex', value => {} } },
        D . 'parameters.grammar.value: invalid type: map, expected a string' ],
    # types
    [ { temperature => 'hot' },         D . 'parameters.temperature: invalid type: string "hot", expected f32' ],
    [ { top_k => 1.5 },                 D . 'parameters.top_k: invalid value: floating point number, expected i32' ],
    [ { max_new_tokens => -1 },         D . 'parameters.max_new_tokens: invalid value: integer `-1`, expected u32' ],
    [ { do_sample => 1 },               D . 'parameters.do_sample: invalid value: integer `1`, expected a boolean' ],
    [ { seed => -1 },                   D . 'parameters.seed: invalid value: integer `-1`, expected u64' ],
    [ { stop => [1] },
        D . 'parameters.stop: invalid value: integer `1`, expected a string or a sequence of strings' ],
    [ { temperature => 1e39 },          D . 'parameters.temperature: invalid value: floating point number, expected f32' ],
    # the first in the reference's order is reported
    [ { best_of => 3, temperature => 0 },               V . '`best_of` must be > 0 and <= 2. Given: 3' ],
    [ { best_of => 2, temperature => 0 },               V . '`temperature` must be strictly positive' ],
    [ { top_k => 0, typical_p => 0, top_p => 0 },       V . '`top_p` must be > 0.0 and < 1.0' ],
    [ { repetition_penalty => 0, frequency_penalty => 3 }, V . '`repetition_penalty` must be strictly positive' ],
    [ { max_new_tokens => 0, stop => [ ('a') x 5 ] },   V . '`max_new_tokens` must be strictly positive' ],
    [ { truncate => 0, top_n_tokens => 6 },             V . '`top_n_tokens` must be >= 0 and <= 5. Given: 6' ],
);

subtest 'POST /generate' => sub {
    for my $case (@native) {
        my ($p, $message) = @$case;
        my $x = $http->post('/generate', { inputs => 'A', parameters => $p });
        is_deeply [ $x->status, $x->json ], [ 422, { error => $message, error_type => 'validation' } ], $message
            or diag explain $x->body;
    }
};

subtest 'accepted' => sub {
    for my $p ({ top_p => undef, top_k => undef, stop => undef, seed => undef, grammar => undef, watermark => undef },
        { watermark => $false }, { best_of => 0 }, { top_k => 3.0 }, { temperature => 1 }, { truncate => 63 },
        { stop => 'x' }, { nobody => { knows => [ {} ] } }, { max_new_tokens => 5, adapter_id => undef })
    {
        my $x = $http->post('/generate', { inputs => 'abc', parameters => { max_new_tokens => 2, %$p }, more => 1 });
        is $x->status, 200, LLM::HTTP::Exchange->can('json') && $LLM::HTTP::JSON->encode($p) or diag $x->body;
    }
    is $http->post('/generate', { inputs => 'abc', parameters => undef })->status, 200, 'parameters null';
};

subtest 'inputs' => sub {
    my @cases = (
        [ { inputs => '' },         422, V . '`inputs` cannot be empty' ],
        [ {},                       422, D . 'missing field `inputs`' ],
        [ { inputs => ['a'] },      422, D . 'inputs: invalid type: sequence, expected a string' ],
        [ { inputs => undef },      422, D . 'missing field `inputs`' ],
        [ [],                       422, D . 'body: invalid type: sequence, expected an object' ],
        [ { inputs => 'a', parameters => [] }, 422,
            D . 'parameters: invalid type: sequence, expected struct GenerateParameters' ],
    );
    for (@cases) {
        my ($body, $status, $message) = @$_;
        my $x = $http->post('/generate', $body);
        is_deeply [ $x->status, $x->json->{error} ], [ $status, $message ], $message or diag $x->body;
    }
    my $x = $http->post('/generate', { inputs => 'ab ' x 60, parameters => { max_new_tokens => 1 } });
    like $x->json->{error}, qr/^\Q${\V}\E`inputs` tokens \+ `max_new_tokens` must be <= 64\. Given: \d+ `inputs` tokens and 1 /,
        'too long';
    $x = $http->post('/small/generate', { inputs => 'abcdefghijklm', parameters => { max_new_tokens => 1 } });
    like $x->json->{error}, qr/^\Q${\V}\E`inputs` must have less than 10 tokens\. Given: \d+$/, 'llm_max_input_tokens';
    $x = $http->post('/small/generate', { inputs => 'a', parameters => { best_of => 2, do_sample => $true } });
    is $x->json->{error}, V . '`best_of` != 1 is not allowed for this endpoint', 'llm_max_best_of 1';
};

subtest 'streams: real status and a JSON body while nothing was sent' => sub {
    my $x = $http->post('/generate_stream', { inputs => 'a', parameters => { best_of => 2, decoder_input_details => $true } });
    is $x->status, 422, 'status';
    is $x->header('content-type'), 'application/json', 'type';
    is $x->json->{error}, V . '`best_of` != 1 is not supported when streaming tokens', 'best_of first';
    $x = $http->post('/generate_stream', { inputs => 'a', parameters => { best_of => 0 } });
    is $x->json->{error}, V . '`best_of` != 1 is not supported when streaming tokens', 'best_of 0';
    $x = $http->post('/generate_stream', { inputs => 'a', parameters => { decoder_input_details => $true } });
    is $x->json->{error}, V . '`decoder_input_details` == true is not supported when streaming tokens', 'prompt details';
    $x = $http->post('/event/generate_stream', { inputs => 'a', parameters => { top_k => 0 } });
    is $x->status, 200, 'llm_stream_errors event: 200';
    is $x->body, qq{data: {"error":"${\V}`top_k` must be strictly positive","error_type":"validation"}\n\n}, 'and one event';
    is $http->post('/event/generate', { inputs => 'a', parameters => { top_k => 0 } })->status, 422,
        'only for requests that stream';
    $x = $http->post('/event/v1/chat/completions', { messages => [ { role => 'user', content => 'a' } ], n => 0, stream => $true });
    like $x->body, qr/^data:[ ]\{"error":\{"message":"[^"]+","type":"invalid_request_error","param":null,"code":422,
        "http_status_code":422\},"error_type":"validation"\}\n\ndata:[ ]\[DONE\]\n\n$/x, 'OpenAI: [DONE] follows';
};

my @user = (messages => [ { role => 'user', content => 'hi' } ]);
my @chat = (
    [ {},                                       D . 'missing field `messages`' ],
    [ { messages => [] },                       V . '`messages` cannot be empty' ],
    [ { messages => 'hi' },                     D . 'messages: invalid type: string "hi", expected a sequence' ],
    [ { messages => ['hi'] },                   D . 'messages[0]: invalid type: string "hi", expected struct Message' ],
    [ { messages => [ { content => 'a' } ] },   D . 'messages[0]: missing field `role`' ],
    [ { messages => [ { role => 'user', content => 5 } ] },
        D . 'messages[0].content: invalid value: integer `5`, expected a string or a sequence of parts' ],
    [ { messages => [ { role => 'user', content => [ { type => 'image_url', image_url => { url => 'x' } } ] } ] },
        V . 'image modality is not supported' ],
    [ { messages => [ { role => 'user', content => [ { type => 'audio' } ] } ] },
        D . 'messages[0].content[0]: expected a part of type `text`' ],
    [ { @user, temperature => -1 },             V . '`temperature` must be strictly positive' ],
    [ { @user, top_p => 1.1 },                  V . '`top_p` must be >= 0.0 and <= 1.0' ],
    [ { @user, n => 0 },                        V . '`n` must be > 0 and <= 32. Given: 0' ],
    [ { @user, n => 33 },                       V . '`n` must be > 0 and <= 32. Given: 33' ],
    [ { @user, max_tokens => 0 },               V . '`max_new_tokens` must be strictly positive' ],
    [ { @user, logprobs => $true, top_logprobs => 6 }, V . '`top_logprobs` must be >= 0 and <= 5. Given: 6' ],
    [ { @user, stop => [ ('a') x 5 ] },         V . '`stop` supports up to 4 stop sequences. Given: 5' ],
    [ { @user, stream_options => [] },          D . 'stream_options: invalid type: sequence, expected struct StreamOptions' ],
    [ { @user, response_format => 'json' },
        D . 'response_format: invalid type: string "json", expected an object with a `type`' ],
    [ { @user, response_format => { type => 'json_schema', json_schema => { name => 'x' } } },
        D . 'response_format: missing field `schema`' ],
    [ { @user, response_format => { type => 'xml' } }, D
        . 'response_format.type: unknown variant `xml`, expected one of `text`, `json`, `json_object`, `json_schema`, `regex`, `gbnf`' ],
    [ { @user, response_format => { type => 'json_object' }, grammar => { type => 'regex', value => 'a' } },
        V . '`grammar` and `response_format` are mutually exclusive' ],
    [ { @user, adapter_id => 'sql' },           V . 'adapter `sql` is not loaded' ],
    [ { @user, suffix => 'b' },                 V . '`suffix` is not supported' ],
);

subtest 'POST /v1/chat/completions' => sub {
    for my $case (@chat) {
        my ($body, $message) = @$case;
        my $x = $http->post('/v1/chat/completions', $body);
        is_deeply [ $x->status, $x->json ], [ 422, {
            error => { message => $message, type => 'invalid_request_error', param => undef, code => 422 },
            error_type => 'validation' } ], $message or diag $x->body;
    }
    my $x = $http->post('/v1/chat/completions', { messages => [ { role => 'user', content => 'x ' x 200 } ] });
    is $x->json->{error}{code}, 'context_length_exceeded', 'a prompt too long has its own code' or diag $x->body;
};

subtest 'chat templates' => sub {
    my $x = $http->post('/bare/v1/chat/completions', {@user});
    is $x->status, 422, 'a template that raises: 422';
    is $x->json->{error_type}, 'template_error', 'template_error';
    like $x->json->{error}{message}, qr/^Template error: .*no chat here/, 'with its message';
};

subtest 'llm_error_format' => sub {
    ok ref $http->post('/openai/generate', {})->json->{error}, 'openai on a native route';
    ok !ref $http->post('/tgi/v1/chat/completions', {})->json->{error}, 'tgi on an OpenAI route';
};

is 0 + (() = $n->log =~ /\[error\]/g), 0, 'faults of clients are no errors in the log';
$n->stop;
undef $n;
done_testing;
