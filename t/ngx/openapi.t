# openapi.t - GET /openapi.json says what the server does: the routes of the table, the limits of the location, answers and
# errors of the documented shape; a body that does not fit its schema is refused.  GET /docs is a page without foreign parts.

use strict;
use warnings;
use lib 't/lib';
use utf8;

use IPC::Open2;
use JSON::PP ();
use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $n = LLM::Nginx->new;
$n->conf(<<'EOC');
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 1024; kv_cache 64m; }
    server {
        listen 127.0.0.1:%%PORT%%;
        location / { llm_pass m; llm_max_best_of 3; }
        location /llm/ {
            llm_pass m; llm_error_format openai; llm_model_id "vendor/name"; llm_max_best_of 7; llm_max_stop_sequences 5;
            llm_max_top_n_tokens 11; llm_max_client_batch_size 9; llm_max_input_tokens 99; llm_max_concurrent_requests 1;
        }
        location /tgi/ { llm_pass m; llm_error_format tgi; client_max_body_size 1k; }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);
my $x = $http->get('/openapi.json');
is_deeply [ $x->status, $x->header('content-type') ], [ 200, 'application/json' ], 'GET /openapi.json';
my $doc = $x->json or BAIL_OUT('no JSON');
my $missing = 0;

# (complaints about the document, [complaints about each exchange], [whether each request fits])
sub judge {
    my ($document, @exchanges) = @_;
    my $pid = open2(my $out, my $in, 'python3', 't/lib/openapi_check.py');
    print {$in} $LLM::HTTP::JSON->encode({ document => $document, exchanges => \@exchanges });
    close $in;
    my $text = do { local $/; <$out> };
    waitpid $pid, 0;
    if ($? >> 8 == 77) { $missing = 1; return }
    my $judged = $LLM::HTTP::JSON->decode($text);
    return @$judged{qw(document exchanges fits)};
}

subtest 'every route is in it, and nothing else' => sub {
    open my $f, '<', 'ngx_llm_module/ngx_http_llm_route.c' or die $!;
    my ($table) = do { local $/; <$f> } =~ /ngx_http_llm_paths\[\] = \{(.*?)ngx_null_string/s;
    my %want = ('get /v1/models/{id}' => 1, 'get /models/{id}' => 1);
    while ($table =~ /ngx_string\("([^"]+)"\), NGX_HTTP_(?:LLM_)?(POST|READ),/g) {
        my ($path, $method) = ($1, $2 eq 'POST' ? 'post' : 'get');
        $want{"$method " . $path =~ s/\*/{model}/r =~ s/\*/{version}/r} = 1;
    }
    cmp_ok scalar(keys %want), '>', 20, 'the table of routes was found';
    my %have = map { my $path = $_; map { ("$_ $path" => 1) } keys %{ $doc->{paths}{$path} } } keys %{ $doc->{paths} };
    is_deeply [ sort keys %have ], [ sort keys %want ], 'the same';
    my %ids;
    $ids{ $_->{operationId} }++ for map { values %$_ } values %{ $doc->{paths} };
    is scalar(keys %ids), scalar(keys %have), 'operations have names of their own';
};

subtest 'values of the location' => sub {
    my $y = $http->get('/llm/openapi.json')->json;
    is_deeply [ map { $_->{servers}[0]{url} } $doc, $y ], [ '/', '/llm' ], 'server';
    my $p = $y->{components}{schemas}{GenerateParameterObject}{properties};
    is_deeply [ map { $_->{maximum} } @$p{qw(best_of top_n_tokens truncate)} ], [ 7, 11, 99 ], 'limits';
    is $y->{components}{schemas}{Stop}{anyOf}[2]{maxItems}, 5, 'stop strings';
    is $y->{components}{schemas}{VertexRequest}{properties}{instances}{maxItems}, 9, 'batch';
    is $y->{components}{schemas}{TokenIds}{items}{maximum}, $http->get('/v1/models')->json->{data}[0]{meta}{n_vocab} - 1, 'token ids';
    is $y->{paths}{'/v1/models/{id}'}{get}{parameters}[0]{schema}{examples}[0], 'vendor/name', 'name of the model';
    is $doc->{info}{version}, $http->get('/info')->json->{version}, 'version';
    my $refs = sub { [ map { $_[0]{components}{responses}{$_}{content}{'application/json'}{schema}{'$ref'} =~ /(\w+)$/ } qw(NativeInvalid OpenAIInvalid) ] };
    is_deeply $refs->($doc), [qw(NativeError OpenAIError)], 'errors by route';
    is_deeply $refs->($y), [qw(OpenAIError OpenAIError)], 'llm_error_format openai';
    is_deeply $refs->($http->get('/tgi/openapi.json')->json), [qw(NativeError NativeError)], 'llm_error_format tgi';
    unlike $http->get("$_/openapi.json")->body, qr/"\$(?!ref\b)\w+"/, 'no name is left' for '', '/llm', '/tgi';
    is_deeply $http->get('/api-doc/openapi.json')->json, $doc, 'the other name';
    is $http->request(HEAD => '/openapi.json')->header('content-length'), length $x->body, 'HEAD';
};

# one exchange in the form that openapi_check.py reads
sub exchange {
    my ($name, $method, $path, $body) = @_;
    my $url = $path =~ s/\{\w+\}/m/gr;
    my $x = $method eq 'GET' ? $http->get($url) : $http->post($url, $body);
    my $type = $x->header('content-type') || '';
    my @events = $type =~ /event-stream/ ? grep { ref } @{ $x->data } : ();
    ok scalar(@events), "$name: events" if $type =~ /event-stream/;
    return { name => $name, method => $method, path => $path, status => $x->status, type => $type, request => $body,
        body => $type =~ /json/ ? $x->json : $x->body, events => \@events };
}

my @example = map {
    my ($path, $op) = ($_, $doc->{paths}{$_}{post});
    my ($schema) = map { $doc->{components}{schemas}{ (split m{/}, $_->{'$ref'})[-1] } } map { $_->{content}{'application/json'}{schema} } $op->{requestBody};
    [ $path, $schema->{examples}[0] ];
} grep { $doc->{paths}{$_}{post} } sort keys %{ $doc->{paths} };

subtest 'the document and the examples in it' => sub {
    my @x = map { exchange("example of $_->[0]", POST => @$_) } @example;
    push @x, map { exchange("GET $_", GET => $_) } grep { $doc->{paths}{$_}{get} } sort keys %{ $doc->{paths} };
    my ($problems, $complaints, $fits) = judge($doc, @x);
    plan skip_all => 'Python packages are missing' if $missing && !$ENV{LLM_TEST_STRICT};
    is_deeply $problems, [], 'valid OpenAPI 3.1';
    for my $i (0 .. $#x) {
        is $x[$i]{status}, 200, "$x[$i]{name}: 200" or diag explain $x[$i]{body};
        is_deeply $complaints->[$i], [], 'the answer is as documented';
        ok $fits->[$i], 'and so is the example' if $x[$i]{request};
    }
};

my @hi = (messages => [ { role => 'user', content => 'hi' } ], max_tokens => 3);
my @details = (max_new_tokens => 3, details => $true, top_n_tokens => 2);

subtest 'answers' => sub {
    my @cases = (
        [ details        => '/generate', { inputs => 'A', parameters => { @details, decoder_input_details => $true, do_sample => $true } } ],
        [ 'best of'      => '/generate', { inputs => 'A', parameters => { @details, best_of => 3, do_sample => $true } } ],
        [ 'nulls'        => '/generate', { inputs => 'A', parameters => { map { $_ => undef } keys %{
            $doc->{components}{schemas}{GenerateParameterObject}{properties} } } } ],
        [ stream         => '/generate_stream', { inputs => 'A', parameters => {@details} } ],
        [ compat         => '/', { inputs => 'A', parameters => {@details}, stream => $false } ],
        [ 'compat stream' => '/', { inputs => 'A', stream => $true, parameters => {@details} } ],
        [ chat           => '/v1/chat/completions', { @hi, n => 2, logprobs => $true, top_logprobs => 2 } ],
        [ 'chat nulls'   => '/v1/chat/completions', { (map { $_ => undef } keys %{ $doc->{components}{schemas}{ChatRequest}{properties} }), @hi } ],
        [ 'chat stream'  => '/v1/chat/completions', { @hi, n => 2, logprobs => $true, stream => $true,
            stream_options => { include_usage => $true, continuous_usage_stats => $true } } ],
        [ completions    => '/v1/completions', { prompt => [ 'a', 'b' ], max_tokens => 2, logprobs => 2, echo => $true } ],
        [ 'completion ids' => '/v1/completions', { prompt => [ [ 5, 6 ], [7] ], max_tokens => 2 } ],
        [ 'completion nulls' => '/v1/completions', { (map { $_ => undef } keys %{ $doc->{components}{schemas}{CompletionRequest}{properties} }), max_tokens => 2 } ],
        [ 'completion stream' => '/v1/completions', { prompt => 'a', max_tokens => 2, logprobs => 1, echo => $true, stream => $true,
            stream_options => { include_usage => $true } } ],
        [ 'completion stream of a JavaScript client' => '/v1/completions', { model => 'http://x', prompt => 'a', max_tokens => 2, stream => $true } ],
        [ response       => '/v1/responses', { input => 'hi', max_output_tokens => 3, instructions => 'x', metadata => { a => 'b' } } ],
        [ 'response stream' => '/v1/responses', { input => [ { role => 'user', content => [ { type => 'input_text', text => 'a' } ] } ], max_output_tokens => 3, stream => $true } ],
        [ 'response nulls' => '/v1/responses', { (map { $_ => undef } keys %{ $doc->{components}{schemas}{ResponsesRequest}{properties} }), input => 'a', max_output_tokens => 3 } ],
        [ calls          => '/v1/responses', { input => 'a', stream => $true, tool_choice => 'required', tools => [ { type => 'function', name => 'f',
            parameters => { type => 'object', properties => { c => { enum => ['x'] } }, required => ['c'], additionalProperties => $false } } ] } ],
        [ 'chat calls'   => '/v1/chat/completions', { @hi, max_tokens => undef, stream => $true, tool_choice => 'required', tools => [ { type => 'function',
            function => { name => 'f', parameters => { type => 'object', properties => { c => { enum => ['x'] } }, required => ['c'], additionalProperties => $false } } } ] } ],
        [ 'invocations'  => '/invocations', { prompt => 'a', max_tokens => 2, stream => $true } ],
        [ embeddings     => '/v1/embeddings', { input => [ 'a', 'b' ], encoding_format => 'base64' } ],
        [ invocations    => '/invocations', {@hi} ],
        [ invocations    => '/invocations', { prompt => 'a', max_tokens => 2, stream => $true } ],
        [ tokens         => '/tokenize', { prompt => 'a b' } ],
        [ 'plain tokens' => '/tokenize', { content => 'a b' } ],
        [ pieces         => '/tokenize', { content => 'a 日', with_pieces => $true } ],
    );
    my @x = map { exchange($_->[0], POST => $_->[1], $_->[2]) } @cases;
    my (undef, $complaints, $fits) = judge($doc, @x);
    plan skip_all => 'Python packages are missing' if $missing && !$ENV{LLM_TEST_STRICT};
    for my $i (0 .. $#x) {
        is $x[$i]{status}, 200, "$x[$i]{name}: 200" or diag explain $x[$i]{body};
        is_deeply $complaints->[$i], [], 'as documented';
        ok $fits->[$i], 'so is the request';
    }
};

subtest 'bodies that do not fit are refused, and with the documented error' => sub {
    my %wrong = (
        '/generate' => [ {}, [], 5, 'a', undef, { inputs => 5 }, { inputs => '' }, { inputs => undef }, (map { { inputs => 'a', parameters => $_ } }
            5, [], 'x', { temperature => 0 }, { temperature => 'x' }, { temperature => $true }, { top_k => 0 }, { top_k => 1.5 }, { top_k => 2**31 },
            { top_p => 0 }, { top_p => 1 }, { typical_p => 1 }, { min_p => 1.1 }, { best_of => 4 }, { max_new_tokens => 0 }, { max_new_tokens => 2**32 },
            { do_sample => 1 }, { details => 'yes' }, { seed => -1 }, { seed => 'x' }, { stop => 5 }, { stop => [5] }, { stop => [ ('x') x 17 ] },
            { truncate => 0 }, { truncate => 1024 }, { top_n_tokens => 21 }, { logit_bias => 5 }, { logit_bias => [ [1] ] }, { logit_bias => { x => 1 } },
            { logit_bias => { 1 => 101 } }, { frequency_penalty => -2.1 }, { repetition_penalty => 0 }, { grammar => 5 }, { grammar => { type => 'x' } },
            { adapter_id => 5 }, { watermark => 1 }) ],
        '/generate_stream' => [ { inputs => 'a', parameters => { best_of => 2, do_sample => $true } }, { inputs => 'a', parameters => { decoder_input_details => $true } } ],
        '/' => [ { inputs => 'a', stream => 1 }, { stream => $true } ],
        '/v1/chat/completions' => [ {}, { messages => [] }, { messages => 5 }, { messages => [5] }, { messages => [ {} ] }, { messages => [ { role => 5 } ] },
            { messages => [ { role => 'user', content => 5 } ] }, { messages => [ { role => 'user', content => [ { type => 'x' } ] } ] },
            { messages => [ { role => 'user', content => [ { type => 'text' } ] } ] }, (map { { @hi, %$_ } } { max_tokens => 0 }, { max_tokens => -2 },
            { temperature => -1 }, { top_p => 1.5 }, { n => 0 }, { n => 33 }, { top_k => -2 }, { stream => 'x' }, { stream_options => 5 },
            { stream_options => { include_usage => 5 } }, { logprobs => 1 }, { stop => [5] }, { seed => 1.5 }, { tools => 5 }, { model => 5 },
            { response_format => 5 }, { response_format => {} }, { response_format => { type => 5 } }, { logit_bias => 'x' }) ],
        '/v1/completions' => [ {}, { prompt => 5 }, { prompt => [] }, { prompt => [ [] ] }, { prompt => [ 'a', 5 ] }, { prompt => [ 5, 'a' ] },
            { prompt => [-1] }, { prompt => [1_000_000] }, { prompt => [ ('a') x 33 ] }, (map { { prompt => 'a', %$_ } } { logprobs => 21 }, { logprobs => 'x' },
            { best_of => 4 }, { suffix => 5 }, { echo => 5 }, { n => 0 }) ],
        '/v1/responses'  => [ {}, { input => 5 }, { input => [] }, { input => [5] }, { input => [ { role => 5, content => 'a' } ] }, { input => [ { role => 'user', content => 5 } ] },
            { input => [ { type => 'x' } ] }, (map { { input => 'a', %$_ } } { instructions => 5 }, { previous_response_id => 'x' }, { background => $true }, { background => 'x' },
            { include => ['x'] }, { include => 5 }, { truncation => 'auto' }, { tools => 5 }, { tools => [5] }, { tools => [ { type => 'x' } ] }, { text => 5 }, { temperature => -1 },
            { max_output_tokens => 0 }, { text => { format => 5 } }, { text => { format => { type => 'x' } } }, { reasoning => 5 }, { tool_choice => { type => 'x' } }) ],
        '/v1/embeddings' => [ {}, { input => undef }, { input => '' }, { input => [] }, { input => [ [] ] }, { input => ['a', 5] }, { input => [-1] },
            { input => 'a', encoding_format => 'x' }, { input => 'a', dimensions => 1 }, { input => 'a', truncate_prompt_tokens => 0 } ],
        '/vertex'        => [ {}, { instances => [] }, { instances => 5 }, { instances => [5] }, { instances => [ {} ] } ],
        '/v2/models/{model}/versions/{version}/infer' => [ {}, { id => 5, inputs => [], outputs => [] }, { id => 'a', inputs => 5, outputs => [] },
            { id => 'a', inputs => [ {} ], outputs => [ { name => 'o' } ] }, { id => 'a', inputs => [ { data => [256] } ], outputs => [ { name => 'o' } ] },
            { id => 'a', inputs => [], outputs => [ {} ] } ],
        '/invocations'   => [ {}, { inputs => 5 } ],
        '/tokenize'      => [ {}, { inputs => 5 }, { prompt => 5 }, { content => [] }, { messages => [] } ],
        '/chat_tokenize' => [ {}, { messages => [] } ],
        '/detokenize'    => [ {}, { tokens => 5 }, { tokens => ['a'] }, { tokens => [-1] }, { tokens => [1_000_000] } ],
    );
    my @x = map { my $path = $_; map { exchange("$path " . $LLM::HTTP::JSON->encode($_), POST => $path, $_) } @{ $wrong{$path} } } sort keys %wrong;
    my (undef, $complaints, $fits) = judge($doc, @x);
    plan skip_all => 'Python packages are missing' if $missing && !$ENV{LLM_TEST_STRICT};
    for my $i (0 .. $#x) {
        my $name = substr $x[$i]{name}, 0, 90;
        is $x[$i]{status}, 422, "$name: 422";
        is_deeply $complaints->[$i], [], 'with the documented error';
        ok !$fits->[$i], 'the schema refuses it too' if defined $x[$i]{request};
    }
};

subtest 'other errors' => sub {
    my $raw = sub {
        my ($name, $method, $path, $url, %o) = @_;
        my $x = $http->request($method => $url, %o);
        return { name => $name, method => $method, path => $path, status => $x->status, type => $x->header('content-type'), body => $x->json };
    };
    my @json = ('Content-Type', 'application/json');
    my $y = $http->get('/tgi/openapi.json')->json;
    my $z = $http->get('/llm/openapi.json')->json;
    my @x = ([ $doc, 400, $raw->('syntax', POST => '/generate', '/generate', body => '{', headers => \@json) ],
        [ $doc, 400, $raw->('syntax', POST => '/v1/chat/completions', '/v1/chat/completions', body => '{', headers => \@json) ],
        [ $doc, 415, $raw->('type', POST => '/generate', '/generate', body => '{}', headers => [ 'Content-Type', 'text/plain' ]) ],
        [ $doc, 404, $raw->('model', GET => '/v1/models/{id}', '/v1/models/none') ],
        [ $y, 413, $raw->('size', POST => '/v1/completions', '/tgi/v1/completions', body => 'x' x 2000, headers => \@json) ],
        [ $z, 429, $raw->('places', POST => '/generate', '/llm/generate', json => { inputs => 'a', parameters => { best_of => 2, do_sample => $true } }) ],
        [ $z, 422, $raw->('form', POST => '/generate', '/llm/generate', json => {}) ]);
    for (@x) {
        my ($document, $status, $exchange) = @$_;
        is $exchange->{status}, $status, "$exchange->{name}: $status" or diag explain $exchange->{body};
        my (undef, $complaints) = judge($document, $exchange);
        is_deeply $complaints->[0], [], 'as documented' unless $missing;
    }
};

subtest '/docs' => sub {
    my $x = $http->get('/docs');
    is_deeply [ $x->status, $x->header('content-type') ], [ 200, 'text/html; charset=utf-8' ], 'a page';
    like $x->body, qr/^<!DOCTYPE html>.*<\/html>\n$/s, 'whole';
    unlike $x->body, qr{(?:src|href)=["']?(?:https?:)?//|\@import|url\(['"h/]}, 'nothing from elsewhere';
    is $http->get('/llm/docs/')->body, $x->body, 'below a prefix too';
};

$n->stop;
undef $n;
done_testing;
