# generate.t - POST /generate, /generate_stream and /: tokens and log-probabilities of the fixtures' reference, fields of
# the native protocol, their order, and the bytes of the event stream.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

# float32 weights and an f32 cache against float32 arithmetic in another order
use constant TOLERANCE => 5e-4;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $fixture = fixture('llama-F32');

my $n = LLM::Nginx->new;
$n->conf(<<'EOC');
    llm_model m {
        weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf;
        context 256; kv_cache 16m f32;
    }
    server {
        listen 127.0.0.1:%%PORT%%;
        location / { llm_pass m; }
        location /bare/ { llm_pass m; llm_return_full_text off; llm_default_max_new_tokens 3; }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);

sub generate {
    my ($inputs, %p) = @_;
    return $http->post('/generate', { inputs => $inputs, parameters => \%p });
}

for my $case (@{ $fixture->{cases} }) {
    my $want = $case->{greedy};
    my $count = @{ $want->{ids} };
    subtest "greedy: " . substr($case->{prompt}, 0, 8) => sub {
        my $x = generate($case->{prompt}, max_new_tokens => $count, details => $true, decoder_input_details => $true,
            ignore_eos => $true);
        is $x->status, 200, 'status' or diag $x->body;
        my $d = $x->json->{details};
        is_deeply [ map { $_->{id} } @{ $d->{tokens} } ], $want->{ids}, 'tokens';
        is_deeply [ map { $_->{id} } @{ $d->{prefill} } ], $case->{input_ids}, 'prompt tokens, BOS included';
        near([ map { $_->{logprob} } @{ $d->{tokens} } ], $want->{logprobs}, 'log-probabilities');
        near([ map { $_->{logprob} } @{ $d->{prefill} } ], $case->{prompt_logprobs}, 'of the prompt');
        is $x->json->{generated_text}, join('', map { $_->{text} } @{ $d->{tokens} }), 'text is the sum of its pieces';
        is $d->{finish_reason}, 'length', 'finish_reason';
        is $d->{generated_tokens}, $count, 'generated_tokens';
        is $d->{seed}, undef, 'no seed';
    };
}

subtest 'shape and order of fields' => sub {
    my $x = generate('one', max_new_tokens => 2, details => $true, top_n_tokens => 2);
    like $x->body, qr/^\{"generated_text":".*","details":\{"finish_reason":"length","generated_tokens":2,"seed":null,
        "prefill":\[\],"tokens":\[\{"id":\d+,"text":".*?","logprob":-[\d.]+,"special":false\},.*\],
        "top_tokens":\[\[\{"id":\d+,"text":".*\}\]\]\}\}$/sx, 'body';
    my $top = $x->json->{details}{top_tokens};
    is scalar(@$top), 2, 'a list per token';
    ok @{ $top->[0] } >= 2, 'of two or more';
    is $top->[0][0]{id}, $x->json->{details}{tokens}[0]{id}, 'greedy: the first is the one chosen';
    unlike generate('one', max_new_tokens => 2)->body, qr/details/, 'no details unless asked for';
    is_deeply [ sort keys %{ generate('one', max_new_tokens => 1, details => $true)->json->{details} } ],
        [qw(finish_reason generated_tokens prefill seed tokens)], 'no top_tokens unless asked for';
};

subtest 'response headers' => sub {
    my $x = generate("na\x{ef}ve \x{1f600}", max_new_tokens => 3);
    is $x->header('content-type'), 'application/json', 'content-type';
    is $x->header('x-compute-type'), 'cpu+optimized', 'x-compute-type';
    is $x->header('x-compute-characters'), 7, 'x-compute-characters counts characters';
    is $x->header('x-generated-tokens'), 3, 'x-generated-tokens';
    like $x->header('x-compute-time'), qr/^\d+\.\d+$/, 'x-compute-time';
    like $x->header("x-$_"), qr/^\d+$/, "x-$_"
        for qw(total-time validation-time queue-time inference-time time-per-token prompt-tokens);
    like $x->header('x-request-id'), qr/^[0-9a-f]{32}$/, 'x-request-id';
    my $s = $http->post('/generate_stream', { inputs => 'a', parameters => { max_new_tokens => 2 } });
    is $s->header('content-type'), 'text/event-stream', 'stream: content-type';
    is $s->header('cache-control'), 'no-cache', 'stream: cache-control';
    is $s->header('x-accel-buffering'), 'no', 'stream: x-accel-buffering';
    is $s->header('x-compute-type'), 'cpu+optimized', 'stream: x-compute-type';
    is $s->header('content-length'), undef, 'stream: no content-length';
};

subtest 'event stream' => sub {
    my %p = (max_new_tokens => 6, details => $true, top_n_tokens => 1);
    my $whole = generate('stream me', %p)->json;
    my $x = $http->post('/generate_stream', { inputs => 'stream me', parameters => \%p });
    my @e = @{ $x->data };
    is scalar(@e), 6, 'one event per token';
    is_deeply [ map { $_->{index} } @e ], [ 1 .. 6 ], 'index from 1';
    is_deeply [ map { $_->{token} } @e ], $whole->{details}{tokens}, 'the same tokens';
    is_deeply [ map { $_->{top_tokens} } @e ], $whole->{details}{top_tokens}, 'the same alternatives';
    is_deeply [ map { $_->{generated_text} } @e ], [ (undef) x 5, $whole->{generated_text} ], 'generated_text at the end';
    is_deeply $e[-1]{details}, { finish_reason => 'length', generated_tokens => 6, seed => undef, input_length => 7 },
        'details at the end' or diag explain $e[-1]{details};
    is $e[0]{details}, undef, 'details null before';
    like $x->body, qr/^(?:data: \{[^\r\n]*\}\n\n){6}$/, 'framing: data, space, one line, empty line; no [DONE]';
    like $x->body, qr/^data:[ ]\{"index":1,"token":\{"id":\d+,"text":"[^"]*","logprob":[-\d.e]+,"special":false\},
        "top_tokens":\[\{[^]]*\}\],"generated_text":null,"details":null\}\n\n
        /x, 'order of fields';
    my $y = $http->post('/generate_stream', { inputs => 'stream me', parameters => { max_new_tokens => 1 } });
    like $y->body, qr/"generated_text":"[^"]*","details":null\}\n\n$/, 'details stay null unless asked for';
    unlike $y->body, qr/top_tokens/, 'no top_tokens unless asked for';
};

subtest 'POST /' => sub {
    my $x = $http->post('/', { inputs => 'abc', parameters => { max_new_tokens => 2 } });
    is ref $x->json, 'ARRAY', 'an array';
    my $plain = generate('abc', max_new_tokens => 2)->json->{generated_text};
    is $x->json->[0]{generated_text}, "abc$plain", 'with the prompt';
    $x = $http->post('/', { inputs => 'abc', parameters => { max_new_tokens => 2, return_full_text => $false } });
    is $x->json->[0]{generated_text}, $plain, 'without it when told so';
    is $http->post('/v1', { inputs => 'abc', parameters => { max_new_tokens => 2 } })->json->[0]{generated_text},
        "abc$plain", 'POST /v1 is the same';
    is $http->post('/generate', { inputs => 'abc', parameters => { max_new_tokens => 2, return_full_text => $true } })
        ->json->{generated_text}, "abc$plain", 'return_full_text on /generate';
    $x = $http->post('/', { inputs => 'abc', stream => $true, parameters => { max_new_tokens => 2 } });
    is $x->header('content-type'), 'text/event-stream', 'stream: true streams';
    is $x->data->[-1]{generated_text}, "abc$plain", 'with the prompt at the end';
    $x = $http->post('/bare/', { inputs => 'abc', parameters => {} });
    is $x->header('x-generated-tokens'), 3, 'llm_default_max_new_tokens';
    is length $x->json->[0]{generated_text} < 3 || substr($x->json->[0]{generated_text}, 0, 3) ne 'abc', 1,
        'llm_return_full_text off';
};

subtest 'sampling and seeds' => sub {
    my %p = (max_new_tokens => 8, do_sample => $true, details => $true);
    my $a = generate('x', %p, seed => 42)->json;
    my $b = generate('x', %p, seed => 42)->json;
    is_deeply $a, $b, 'the same seed gives the same answer';
    is $a->{details}{seed}, 42, 'and is reported';
    my %seen = map { generate('x', %p)->json->{generated_text} => 1 } 1 .. 4;
    ok keys %seen > 1, 'without a seed answers differ';
    my $big = $http->request(POST => '/generate', headers => [ 'Content-Type', 'application/json' ],
        body => '{"inputs":"x","parameters":{"do_sample":true,"details":true,"max_new_tokens":1,"seed":18446744073709551615}}');
    like $big->body, qr/"seed":18446744073709551615/, 'a seed of 64 bits is exact';
    my %texts = map { $http->post('/generate', { inputs => 'x', max => 8 })->json->{generated_text} => 1 } 1 .. 3;
    ok keys %texts > 1, 'no "parameters": sampling';
    %texts = map { $http->post('/bare/generate', { inputs => 'x', parameters => {} })->json->{generated_text} => 1 } 1 .. 3;
    is scalar(keys %texts), 1, 'empty "parameters": greedy';
    is generate('x', max_new_tokens => 2, details => $true, temperature => 1.0)->json->{details}{seed}, undef,
        'temperature 1.0 alone does not sample';
    is generate('x', max_new_tokens => 3, details => $true, top_k => 1, seed => 1)->json->{details}{tokens}[0]{logprob}, 0,
        'log-probabilities are those after the filters';
};

subtest 'best_of' => sub {
    my $d = generate('x', best_of => 2, do_sample => $true, max_new_tokens => 5, details => $true)->json;
    my $other = $d->{details}{best_of_sequences};
    is scalar(@$other), 1, 'one other sequence';
    my $mean = sub { my $s = 0; $s += $_->{logprob} for @{ $_[0] }; $s / @{ $_[0] } };
    ok $mean->($d->{details}{tokens}) >= $mean->($other->[0]{tokens}), 'the winner has the higher mean';
    is_deeply [ sort keys %{ $other->[0] } ], [qw(finish_reason generated_text generated_tokens prefill seed tokens)],
        'fields of the other';
    isnt $other->[0]{seed}, $d->{details}{seed}, 'another seed';
    ok !exists generate('x', best_of => 2, do_sample => $true, max_new_tokens => 2)->json->{details}, 'no details';
};

subtest 'truncate keeps BOS and the right end' => sub {
    my $long = 'abcdefghijklmnop';
    my $all = generate($long, max_new_tokens => 1, decoder_input_details => $true)->json->{details}{prefill};
    my $cut = generate($long, max_new_tokens => 1, decoder_input_details => $true, truncate => 4)->json->{details}{prefill};
    is_deeply [ map { $_->{id} } @$cut ], [ map { $_->{id} } @$all[ 0, -3 .. -1 ] ], 'ids';
    my $x = generate($long, max_new_tokens => 1, truncate => 4, return_full_text => $true);
    like $x->json->{generated_text}, qr/^\Q$long\E/, 'return_full_text still has the whole prompt';
};

subtest 'stop strings' => sub {
    my $case = $fixture->{cases}[0];
    my %p = (max_new_tokens => 24, details => $true, ignore_eos => $true);
    my @tokens = @{ generate($case->{prompt}, %p)->json->{details}{tokens} };
    my $text = join '', map { $_->{text} } @tokens;
    like $text, qr/r\x{fffd}+\[q/, 'the text has something to stop at' or diag $text;
    my $x = generate($case->{prompt}, %p, stop => ['[q'])->json;
    is $x->{generated_text}, substr($text, 0, index($text, '[q') + 2), 'kept in the text, nothing after it';
    is $x->{details}{finish_reason}, 'stop_sequence', 'finish_reason';
    $x = generate($case->{prompt}, %p, stop => [' i'])->json;
    is $x->{generated_text}, substr($text, 0, index($text, ' i') + 2), 'at a token';
    my ($across) = $text =~ /(.\[q)/;
    is generate($case->{prompt}, %p, stop => [$across])->json->{generated_text},
        substr($text, 0, index($text, $across) + 3), 'across tokens';
    $x = generate($case->{prompt}, %p, stop => [ 'nowhere', 'q' ])->json;
    is $x->{generated_text}, substr($text, 0, index($text, 'q') + 1), 'inside a token: cut right after it';
    my $s = $http->post('/generate_stream', { inputs => $case->{prompt}, parameters => { %p, stop => ['[q'] } });
    is join('', map { $_->{token}{text} } @{ $s->data }), substr($text, 0, index($text, '[q') + 2), 'stream: the same text';
    is $s->data->[-1]{details}{finish_reason}, 'stop_sequence', 'stream: finish_reason';
    is generate($case->{prompt}, %p, stop => [''])->json->{details}{finish_reason}, 'length', 'an empty string never stops';
    is generate($case->{prompt}, %p, stop_sequences => [' i'])->json->{details}{finish_reason}, 'stop_sequence',
        'stop_sequences is an alias';
    $x = generate($case->{prompt}, max_new_tokens => 4, ignore_eos => $true, details => $true, stop => [' i'])->json;
    is $x->{details}{finish_reason}, 'length', 'the limit comes first when both apply';
};

subtest 'EOS' => sub {
    my $x = generate('hello', max_new_tokens => 40, details => $true, logit_bias => { 2 => 100 })->json;
    is $x->{details}{finish_reason}, 'eos_token', 'finish_reason';
    is $x->{details}{generated_tokens}, 1, 'counted';
    is $x->{generated_text}, '', 'not in the text';
    is_deeply [ map { @$_{qw(id special text)} } @{ $x->{details}{tokens} } ], [ 2, $true, '</s>' ], 'but among the tokens';
    my $s = $http->post('/generate_stream', { inputs => 'hello',
        parameters => { max_new_tokens => 40, details => $true, logit_bias => { 2 => 100 } } })->data;
    is scalar(@$s), 1, 'stream: its own event';
    is $s->[0]{token}{text}, '</s>', 'stream: with its text';
    is $s->[0]{generated_text}, '', 'stream: not in generated_text';
    $x = generate('hello', max_new_tokens => 1, details => $true, logit_bias => { 2 => 100 })->json;
    is $x->{details}{finish_reason}, 'length', 'as the last allowed token it counts as length';
    $x = generate('hello', max_new_tokens => 5, min_tokens => 3, details => $true, logit_bias => { 2 => 100 })->json;
    is $x->{details}{generated_tokens}, 4, 'min_tokens';
    $x = generate('hello', max_new_tokens => 5, ignore_eos => $true, details => $true, logit_bias => { 2 => 100 })->json;
    is $x->{details}{generated_tokens}, 5, 'ignore_eos';
    is $x->{generated_text}, '', 'specials are skipped in the text';
    $x = generate('hello', max_new_tokens => 2, ignore_eos => $true, skip_special_tokens => $false,
        logit_bias => { 2 => 100 })->json;
    is $x->{generated_text}, '</s></s>', 'unless skip_special_tokens is false';
};

$n->stop;
undef $n;
done_testing;

sub fixture {
    open my $f, '<', "t/fixtures/gguf/$_[0].expected.json" or die $!;
    local $/;
    return JSON::PP::decode_json(<$f>);
}

sub near {
    my ($got, $want, $name) = @_;
    my ($worst, $shape) = (0, @$got == @$want);
    for my $i (0 .. $#$want) {
        my ($g, $w) = ($got->[$i], $want->[$i]);
        if (!defined $w || !defined $g) { $shape &&= !defined $w && !defined $g; next }
        $worst = abs($g - $w) if abs($g - $w) > $worst;
    }
    ok $shape && $worst <= TOLERANCE, $name or diag "worst difference $worst, same shape: ", $shape ? 'yes' : 'no';
}
