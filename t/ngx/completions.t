# completions.t - POST /v1/completions: the four forms of a prompt, legacy log-probabilities with echo, scoring, chunks,
# n and best_of, suffix, what is refused.

use strict;
use warnings;
use lib 't/lib';
use utf8;

use JSON::PP ();
use Test::More;

use LLM::Fixture;
use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

use constant V => 'Input validation error: ';
use constant D => 'Failed to deserialize the JSON body into the target type: ';
use constant TOLERANCE => 5e-4;     # f32 weights and cache, additions in another order

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $n = LLM::Nginx->new;
$n->conf(<<'EOC');
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 256; kv_cache 16m f32; threads 1; }
    llm_model long { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 600; kv_cache 16m f32; threads 1; }
    llm_model code { weights %%ROOT%%/t/fixtures/models/gpt_bigcode; context 192; kv_cache 16m f32; threads 1; }
    llm_model gguf { weights %%ROOT%%/t/fixtures/gguf/starcoder2-Q8_0.gguf; context 256; kv_cache 16m f32; threads 1; }
    server {
        listen 127.0.0.1:%%PORT%%;
        llm_max_client_batch_size 4;
        llm_max_best_of 3;
        location / { llm_pass m; }
        location /long/ { llm_pass long; }
        location /code/ { llm_pass code; }
        location /gguf/ { llm_pass gguf; }
        location /hooked/ { llm_pass m; llm_prompt_by_lua_block { return "A" } }
        location = /alone { llm_pass m; llm_completions; }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);

sub complete { my ($path, @more) = @_; return $http->post("$path/v1/completions", {@more}) }
sub texts { return [ map { $_->{text} } @{ $_[0]->json->{choices} } ] }

my @greedy = (temperature => 0);

subtest 'object' => sub {
    my $x = complete('', @greedy, prompt => 'Hello', max_tokens => 3, model => 'mine');
    is $x->status, 200, 'status' or diag $x->body;
    my $j = $x->json;
    like $j->{id}, qr/^cmpl-\w{16,}$/, 'id';
    is_deeply [ @$j{qw(object model)} ], [ 'text_completion', 'm' ], 'object, served id';
    is_deeply [ sort keys %{ $j->{choices}[0] } ], [qw(finish_reason index logprobs text)], 'fields of a choice';
    is_deeply [ @{ $j->{choices}[0] }{qw(index logprobs finish_reason)} ], [ 0, undef, 'length' ], 'their values';
    my $u = $j->{usage};
    is_deeply [ $u->{completion_tokens}, $u->{total_tokens} ], [ 3, 3 + $u->{prompt_tokens} ], 'usage';
    is $x->header('x-generated-tokens'), 3, 'x-generated-tokens';
    is $x->header('x-compute-characters'), 5, 'x-compute-characters';
    my $text = $j->{choices}[0]{text};
    is $http->post($_, { @greedy, prompt => 'Hello', max_tokens => 3 })->json->{choices}[0]{text}, $text, $_
        for '/completions', '/v1/completions/', '/alone';
    my $native = $http->post('/generate', { inputs => 'Hello', parameters => { max_new_tokens => 3 } })->json->{generated_text};
    is $native, $text, 'the text of /generate';
    is complete('', prompt => 'Hello', max_tokens => 3, do_sample => $false)->json->{choices}[0]{text}, $text, 'do_sample false is greedy';
    is complete('', prompt => 'Hello', max_new_tokens => 3, top_k => 1)->json->{choices}[0]{text}, $text, 'native names';
    is complete('', @greedy, prompt => 'Hello', max_tokens => 1, $_->[0] => $_->[1])->status, 200, "$_->[0]"
        for (map { [ $_ => undef ] } qw(suffix stop logprobs echo n best_of seed logit_bias stream stream_options user grammar
            response_format top_p adapter_id)),
        [ top_p => 1 ], [ top_p => 0 ], [ stop => 'x' ], [ seed => -1 ], [ best_of => 1 ], [ watermark => $false ],
        [ response_format => { type => 'text' } ], [ logprobs => $false ], [ logit_bias => [ [ 5, 1 ] ] ], [ details => $true ];
    is complete('', @greedy, prompt => 'Hello', max_tokens => $_)->status, 200, 'max_tokens of ' . ($_ // 'null') for undef, -1;
};

subtest 'the four forms of a prompt' => sub {
    my %p = (@greedy, max_tokens => 4);
    my $id = sub { [ map { $_->{id} } @{ $http->post('/tokenize', { inputs => $_[0] })->json } ] };
    my ($a, $b) = map { complete('', %p, prompt => $_)->json->{choices}[0]{text} } 'Hello', 'def f';
    my $x = complete('', %p, prompt => [ 'Hello', 'def f' ]);
    is_deeply texts($x), [ $a, $b ], 'strings';
    is_deeply [ map { $_->{index} } @{ $x->json->{choices} } ], [ 0, 1 ], 'index';
    my @ids = map { [ 1, @{ $id->($_) } ] } 'Hello', 'def f';
    @ids = map { $_->[1] == 1 ? [ @$_[ 1 .. $#$_ ] ] : $_ } @ids;
    is $x->json->{usage}{prompt_tokens}, @{ $ids[0] } + @{ $ids[1] }, 'usage: the sum';
    is $x->json->{usage}{completion_tokens}, 8, 'of both';
    is complete('', %p, prompt => $ids[0])->json->{choices}[0]{text}, $a, 'ids';
    my $y = complete('', %p, prompt => \@ids);
    is_deeply texts($y), [ $a, $b ], 'lists of ids';
    is $y->json->{usage}{prompt_tokens}, $x->json->{usage}{prompt_tokens}, 'to which no BOS is added';
    is complete('', %p, prompt => undef)->json->{usage}{prompt_tokens}, 1, 'null is BOS';
    my $bare = complete('', %p, prompt => 'Hello', add_special_tokens => $false)->json->{usage}{prompt_tokens};
    is $bare, @{ $ids[0] } - 1, 'add_special_tokens false';
    is complete('', %p, prompt => $ids[0], truncate => 2)->json->{usage}{prompt_tokens}, 2, 'truncate';
};

for my $fixture ([ '', 'gguf/llama-F32.gguf' ], [ '/code', 'models/gpt_bigcode' ]) {
    my ($path, $model) = @$fixture;
    subtest "echo with logprobs: $model" => sub {
        for my $case (@{ expected($model)->{cases} }) {
            next if @{ $case->{input_ids} } > 180;
            my $want = $case->{prompt_logprobs};
            my @top = @{ $case->{last_logits}{top}[0] };
            for ([ text => $case->{prompt} ], [ ids => $case->{input_ids} ]) {
                my ($form, $prompt) = @$_;
                my $x = complete($path, @greedy, prompt => $prompt, max_tokens => 1, echo => $true, logprobs => 1);
                is $x->status, 200, $form or return diag $x->body;
                my $c = $x->json->{choices}[0];
                my $l = $c->{logprobs};
                is_deeply [ map { scalar @{ $l->{$_} } } qw(tokens token_logprobs top_logprobs text_offset) ],
                    [ (@$want + 1) x 4 ], "$form: prompt and one more";
                cmp_ok off_by([ @{ $l->{token_logprobs} }[ 0 .. $#$want ] ], $want), '<', TOLERANCE, "$form: of the prompt";
                cmp_ok abs($l->{token_logprobs}[-1] - $case->{greedy}{logprobs}[0]), '<', TOLERANCE, "$form: of the next";
                is $l->{top_logprobs}[0], undef, "$form: none of the first";
                my @bad = grep { my $e = $l->{top_logprobs}[$_]; ($e->{ $l->{tokens}[$_] } // 9) < $l->{token_logprobs}[$_]
                    || keys %$e > 2 } 1 .. $#$want;
                is_deeply \@bad, [], "$form: the token itself is among the best";
                my $greedy = $l->{top_logprobs}[-1];
                is_deeply [ values %$greedy ], [ $l->{token_logprobs}[-1] ], "$form: the chosen one is the best, the same number";
                my $o = $l->{text_offset};
                is_deeply [ grep { $o->[$_] < $o->[ $_ - 1 ] } 1 .. $#$o ], [], "$form: offsets rise";
                is $o->[-1], length $case->{prompt}, 'text: to the end of the prompt' if $form eq 'text';
                ok index($c->{text}, $case->{prompt}) >= 0, "$form: the text has the prompt";
                my $score = complete($path, prompt => $prompt, max_tokens => 0, echo => $true, logprobs => 0);
                is $score->status, 200, "$form: max_tokens 0" or return diag $score->body;
                my $s = $score->json;
                is_deeply [ $s->{usage}{completion_tokens}, scalar @{ $s->{choices}[0]{logprobs}{tokens} },
                    $s->{choices}[0]{finish_reason} ], [ 0, scalar @$want, 'length' ], "$form: only the prompt";
                cmp_ok off_by($s->{choices}[0]{logprobs}{token_logprobs}, $want), '<', TOLERANCE, "$form: scored";
            }
        }
    };
}

subtest 'logprobs' => sub {
    my %p = (prompt => 'Ünïcode', max_tokens => 8, temperature => 0.7, top_k => 2, seed => 3, logprobs => 3);
    my $c = complete('', %p)->json->{choices}[0];
    my $l = $c->{logprobs};
    is_deeply [ map { scalar @{ $l->{$_} } } qw(tokens token_logprobs top_logprobs text_offset) ], [ (8) x 4 ], 'of new tokens';
    is $l->{text_offset}[0], 7, 'the first begins after the prompt, in characters';
    ok !(grep { keys %$_ < 1 || keys %$_ > 4 } @{ $l->{top_logprobs} }), 'up to three and the token';
    is_deeply complete('', %p, stream => $true)->data->[0]{choices}[0]{logprobs}{tokens}[0], $l->{tokens}[0], 'in a chunk';
    my @e = @{ complete('', %p, stream => $true)->data };
    pop @e;
    for my $list (qw(tokens token_logprobs text_offset)) {
        is_deeply [ map { @{ ($_->{choices}[0]{logprobs} || {})->{$list} || [] } } @e ], $l->{$list}, "the same $list in a stream";
    }
    my $eos = $http->get('/tokenizer_info')->json->{eos_token};
    my $id = $http->post('/tokenize', { inputs => $eos })->json->[-1]{id};
    my $j = complete('', @greedy, prompt => 'A', max_tokens => 5, logprobs => 1, logit_bias => { $id => 100 })->json;
    is_deeply [ $j->{choices}[0]{text}, $j->{choices}[0]{finish_reason}, $j->{choices}[0]{logprobs}{tokens} ],
        [ '', 'stop', [$eos] ], 'EOS has an entry, and no text';
    # bytes of half a character: a token of one byte
    my $x = complete('', prompt => [ 1, 3 + 0xe2 ], max_tokens => 0, echo => $true, logprobs => 0);
    is $x->json->{choices}[0]{logprobs}{tokens}[1], 'bytes:\xe2', 'a token that is no text' or diag $x->body;
};

subtest 'log-probabilities of a prompt of several slices' => sub {
    my @ids = (1, map { 3 + ord('a') + $_ * 7 % 26 } 1 .. 512);
    my %p = (max_tokens => 0, echo => $true, logprobs => 0);
    my ($short) = map { $_->{logprobs}{token_logprobs} } @{ complete('/long', prompt => [ @ids[ 0 .. 99 ] ], %p)->json->{choices} };
    for my $more ([], [ details => $true, decoder_input_details => $true ]) {
        my $choices = complete('/long', prompt => [ \@ids, [ @ids[ 0 .. 256 ] ] ], %p, @$more)->json->{choices};
        for ([ $choices->[0], 513 ], [ $choices->[1], 257 ]) {
            my ($c, $count) = @$_;
            my $got = $c->{logprobs}{token_logprobs};
            is_deeply [ map { scalar @{ $c->{logprobs}{$_} } } qw(tokens token_logprobs top_logprobs text_offset) ], [ ($count) x 4 ], "$count tokens";
            ok !(grep { abs($got->[$_] - $short->[$_]) > TOLERANCE } 1 .. 99), 'what begins alike has the same ones';
            next unless @$more;
            my $prefill = $c->{details}{prefill};
            is_deeply [ map { $_->{id} } @$prefill ], [ @ids[ 0 .. $count - 1 ] ], 'prefill: the tokens';
            is_deeply [ map { $_->{logprob} } @$prefill[ 1 .. $count - 1 ] ], [ @$got[ 1 .. $count - 1 ] ], 'with the same';
        }
    }
};

subtest 'chunks' => sub {
    my %p = (@greedy, prompt => 'Hello', max_tokens => 5);
    my $text = complete('', %p)->json->{choices}[0]{text};
    my $x = complete('', %p, stream => $true);
    is $x->header('content-type'), 'text/event-stream', 'type';
    my @e = @{ $x->data };
    is pop @e, '[DONE]', 'the last is [DONE]';
    is join('', map { $_->{choices}[0]{text} } @e), $text, 'the text';
    is_deeply [ map { $_->{choices}[0]{finish_reason} } @e ], [ (undef) x (@e - 1), 'length' ], 'finish_reason';
    is_deeply [ map { $_->{usage} ? $_->{usage}{completion_tokens} : undef } @e ], [ (undef) x (@e - 1), 5 ], 'usage of the choice';
    @e = @{ complete('', %p, stream => $true, stream_options => { include_usage => $true }, n => 2)->data };
    pop @e;
    my $usage = pop @e;
    is_deeply [ $usage->{choices}, $usage->{usage}{completion_tokens} ], [ [], 10 ], 'usage of all in a chunk of its own';
    is_deeply [ grep { !exists $_->{usage} || defined $_->{usage} } @e ], [], 'null in the others';
    @e = @{ complete('', %p, stream => $true, prompt => [ 'Hello', 'Hello' ], echo => $true)->data };
    pop @e;
    my @text = ('', '');
    $text[ $_->{choices}[0]{index} ] .= $_->{choices}[0]{text} for @e;
    is_deeply \@text, [ ("Hello$text") x 2 ], 'two prompts with echo';
    @e = @{ complete('', prompt => 'Hello', max_tokens => 0, echo => $true, stream => $true)->data };
    is_deeply [ $e[0]{choices}[0]{text}, $e[-2]{choices}[0]{finish_reason}, $e[-1] ], [ 'Hello', 'length', '[DONE]' ], 'nothing new';
};

subtest 'n and best_of' => sub {
    my %p = (prompt => [ 'Hello', 'def f' ], max_tokens => 6, temperature => 1.5, seed => 9);
    my $x = complete('', %p, n => 2);
    my @one = map { my $prompt = $_; map { complete('', %p, prompt => $prompt, seed => 9 + $_)->json->{choices}[0]{text} } 0, 1 }
        'Hello', 'def f';
    is_deeply texts($x), \@one, 'choice i of a prompt is what seed + i gives alone';
    my $y = complete('', %p, n => 1, best_of => 3, logprobs => 0);
    is scalar @{ $y->json->{choices} }, 2, 'the best of three for each prompt';
    is $y->json->{usage}{completion_tokens}, 36, 'all are counted';
    my @all = @{ complete('', %p, n => 3, temperature => 1.5, logprobs => 0)->json->{choices} };
    ok +(grep { $_->{text} eq $y->json->{choices}[0]{text} } @all[ 0 .. 2 ]), 'one of those that n gives';
};

subtest 'stop, echo, return_full_text' => sub {
    my $id = $http->post('/tokenize', { inputs => 'on' })->json->[-1]{id};
    my %p = (@greedy, prompt => 'A', max_tokens => 4, logit_bias => { $id => 100 });
    my $piece = complete('', %p, max_tokens => 1)->json->{choices}[0]{text};
    is complete('', %p)->json->{choices}[0]{text}, $piece x 4, 'a text of known pieces';
    my $c = complete('', %p, stop => [ $piece x 2 ])->json->{choices}[0];
    is_deeply [ @$c{qw(text finish_reason)} ], [ '', 'stop' ], 'stop is cut off';
    is complete('', %p, stop => $piece, include_stop_str_in_output => $true)->json->{choices}[0]{text}, $piece, 'or kept';
    is complete('', %p, $_ => $true)->json->{choices}[0]{text}, 'A' . $piece x 4, $_ for qw(echo return_full_text);
};

subtest 'suffix' => sub {
    my %p = (@greedy, max_tokens => 6);
    for my $path ('/code', '/gguf') {
        my $raw = complete($path, %p, prompt => '<fim_prefix>def f(a):<fim_suffix>    return a<fim_middle>')->json;
        my $j = complete($path, %p, prompt => 'def f(a):', suffix => '    return a')->json;
        is_deeply [ $j->{choices}[0]{text}, $j->{usage}{prompt_tokens} ], [ $raw->{choices}[0]{text}, $raw->{usage}{prompt_tokens} ],
            "$path: what an editor's own prompt gives";
        my $plain = complete($path, %p, prompt => 'def f(a):')->json->{usage}{prompt_tokens};
        my $rest = complete($path, %p, prompt => '    return a')->json->{usage}{prompt_tokens};
        is $j->{usage}{prompt_tokens}, $plain + $rest + 3, "$path: three tokens more";
    }
    is complete('/code', %p, prompt => 'def f(a):', suffix => '', echo => $true)->json->{choices}[0]{text}
        =~ /^def f\(a\):/, 1, 'echo shows the prompt';
    my $x = complete('', %p, prompt => 'a', suffix => 'b');
    is_deeply [ $x->status, $x->json->{error}{message}, $x->json->{error_type} ], [ 422,
        'Suffix is not supported and can be achieved by preprocessing the prompt.', 'suffix not supported' ], 'no tokens for it';
};

subtest 'native details' => sub {
    my %p = (max_new_tokens => 8, seed => 4, temperature => 1.3, top_k => 40, top_n_tokens => 3);
    my $want = $http->post('/generate', { inputs => 'Hello', parameters => { %p, details => $true, decoder_input_details => $true } })
        ->json->{details};
    my $c = complete('', prompt => 'Hello', %p, details => $true, decoder_input_details => $true)->json->{choices}[0];
    is_deeply $c->{details}, $want, 'of a choice: those of /generate';
    ok !exists complete('', prompt => 'Hello', %p)->json->{choices}[0]{details}, 'only when asked for';
    is_deeply complete('', prompt => 'Hello', %p, details => $true)->json->{choices}[0]{details}{prefill}, [], 'no prompt unless asked for';
    my @many = @{ complete('', prompt => [ 'Hello', 'abc' ], n => 2, %p, details => $true)->json->{choices} };
    is_deeply [ map { scalar @{ $_->{details}{tokens} } } @many ], [ map { $_->{details}{generated_tokens} } @many ], 'of all choices';
    my @native = map { { %$_ } } @{ $http->post('/generate_stream', { inputs => 'Hello', parameters => { %p, details => $true } })->data };
    for ([ model => 'http://127.0.0.1/x', details => $true ], [ details => $true ], [ model => 'https://a', details => $true, stop => 'zzzz' ]) {
        my @e = @{ complete('', prompt => 'Hello', %p, stream => $true, @$_)->data };
        pop @e;
        is_deeply [ map { my $e = $_; +{ map { $_ => $e->{$_} } qw(token top_tokens generated_text details) } } @e ],
            [ map { my $e = $_; +{ map { $_ => $e->{$_} } qw(token top_tokens generated_text details) } } @native ], "a chunk is an event: @$_[0, 1]";
        is join('', map { $_->{choices}[0]{text} } @e), $native[-1]{generated_text}, 'and its texts are the text';
    }
    my @echo = @{ complete('', prompt => 'Hello', %p, details => $true, stream => $true, return_full_text => $true)->data };
    pop @echo;
    is_deeply [ map { $_->{token} } @echo ], [ map { $_->{token} } @native ], 'the prompt is no token';
    is $echo[-1]{generated_text}, 'Hello' . $native[-1]{generated_text}, 'but in the whole text';
    my @e = @{ complete('', prompt => 'Hello', %p, stream => $true)->data };
    ok !(grep { ref && exists $_->{token} } @e), 'not for others';
    # a unit of several tokens: the stop string holds them back
    my $id = $http->post('/tokenize', { content => 'on' })->json->{tokens}[-1];
    my $one = complete('', prompt => 'a', max_tokens => 1, temperature => 0, logit_bias => { $id => 100 })->json->{choices}[0]{text};
    @e = @{ complete('', prompt => 'a', max_tokens => 4, temperature => 0, stop => "$one${one}xyz", logit_bias => { $id => 100 }, stream => $true,
        model => 'http://a')->data };
    pop @e;
    is_deeply [ map { $_->{token}{text} } @e ], [ ($one) x 4 ], 'an event for each token that was held back';
    is join('', map { $_->{choices}[0]{text} } @e), $one x 4, 'the text once';
};

subtest 'refused' => sub {
    for (
        [ { prompt => 'a', logprobs => 1, top_n_tokens => 2 }, V . '`top_n_tokens` is not supported with `logprobs`' ],
        [ { prompt => 'a', top_n_tokens => 21 }, V . '`top_n_tokens` must be >= 0 and <= 20. Given: 21' ],
        [ { prompt => 'a', decoder_input_details => $true, stream => $true },
            V . '`decoder_input_details` == true is not supported when streaming tokens' ],
        [ {}, D . 'missing field `prompt`' ],
        [ { prompt => 5 }, D . 'prompt: invalid value: integer `5`, expected a string, a sequence of strings, of token ids '
            . 'or of sequences of token ids' ],
        [ { prompt => [] }, V . 'Empty array detected. Do not use an empty array for the prompt.' ],
        [ { prompt => [ [1], [] ] }, V . 'Empty array detected. Do not use an empty array for the prompt.' ],
        [ { prompt => [ 'a', [1] ] }, D . 'prompt: invalid type: sequence, expected a string' ],
        [ { prompt => [ 1, 'a' ] }, D . 'prompt: invalid type: string "a", expected u32' ],
        [ { prompt => [448] }, V . '`prompt` token ids must be >= 0 and < 448. Given: 448' ],
        [ { prompt => [-1] }, V . '`prompt` token ids must be >= 0 and < 448. Given: -1' ],
        [ { prompt => [ ('a') x 5 ] }, 'Number of prompts exceeds the maximum allowed batch size of 4', 'batch size exceeded' ],
        [ { prompt => [ (1) x 300 ], max_tokens => 1 },
            V . '`inputs` tokens + `max_new_tokens` must be <= 256. Given: 300 `inputs` tokens and 1 `max_new_tokens`' ],
        [ { prompt => 'a', max_tokens => 0 }, V . '`max_new_tokens` must be strictly positive' ],
        [ { prompt => 'a', logprobs => 21 }, V . '`logprobs` must be >= 0 and <= 20. Given: 21' ],
        [ { prompt => 'a', n => 5 }, V . '`n` must be > 0 and <= 4. Given: 5' ],
        [ { prompt => 'a', n => 2, best_of => 1 }, V . '`best_of` must be >= `n`. Given: 1 and 2' ],
        [ { prompt => 'a', best_of => 4 }, V . '`best_of` must be > 0 and <= 3. Given: 4' ],
        [ { prompt => 'a', best_of => 2, stream => $true }, V . '`best_of` > `n` is not supported when streaming tokens' ],
        [ { prompt => 'a', top_p => 1.5 }, V . '`top_p` must be >= 0.0 and <= 1.0' ],
        [ { prompt => 'a', grammar => {} }, D . 'grammar: missing field `type`' ],
        [ { prompt => 'a', adapter_id => 'sql' }, V . 'adapter `sql` is not loaded' ],
        [ { prompt => 'a', response_format => { type => 'json_schema' } }, D . 'response_format: missing field `schema`' ],
        [ { prompt => [1], suffix => 'b' }, V . '`suffix` is not supported with `prompt` as token ids' ],
        [ { prompt => 'a', suffix => 'b', echo => $true, logprobs => 1 },
            V . '`echo` with `logprobs` is not supported with `suffix`' ],
        [ { prompt => 'a', echo => 'yes' }, D . 'echo: invalid type: string "yes", expected a boolean' ],
        )
    {
        my ($body, $message, $type) = @$_;
        my $x = $http->post('/v1/completions', $body);
        is_deeply [ $x->status, $x->json->{error}{message}, $x->json->{error_type} ], [ 422, $message, $type || 'validation' ], $message
            or diag $x->body;
    }
    is $http->get('/v1/completions')->status, 405, 'GET';
};

subtest 'with a prompt hook' => sub {
    my $x = complete('/hooked', @greedy, prompt => 'Hello', max_tokens => 3, echo => $true);
    is $x->json->{choices}[0]{text}, 'Hello' . complete('', @greedy, prompt => 'A', max_tokens => 3)->json->{choices}[0]{text},
        'its prompt is used, the own one shown';
    for ([ { prompt => [1] }, '`prompt` as token ids is not supported with a prompt hook' ],
        [ { prompt => [ 'a', 'b' ] }, '`prompt` as a sequence is not supported where a hook writes the prompt' ],
        [ { prompt => 'a', echo => $true, logprobs => 1 },
            '`echo` with `logprobs` is not supported where a hook writes the prompt' ])
    {
        is $http->post('/hooked/v1/completions', $_->[0])->json->{error}{message}, V . $_->[1], $_->[1];
    }
};

$n->stop;
undef $n;
done_testing;
