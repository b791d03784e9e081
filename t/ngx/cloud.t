# cloud.t - the envelopes of cloud platforms: POST /invocations (SageMaker), POST /vertex (Vertex AI), /v2 (KServe).

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
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 256; kv_cache 32m; }
    llm_model long { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 8192; kv_cache 64m; }
    server {
        listen 127.0.0.1:%%PORT%%;
        location / { llm_pass m; }
        location /few/ { llm_pass m; llm_max_client_batch_size 3; llm_max_concurrent_requests 2; }
        location /hook/ {
            llm_pass m;
            llm_prompt_by_lua_block { local r = ... if r.inputs == "bad" then llm.refuse(403, "no") end }
        }
        location /long/ { llm_pass long; }
        location /short/ { llm_pass long; llm_generation_timeout 50ms; }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);
my @hi = (messages => [ { role => 'user', content => 'hi' } ]);
my %native = (inputs => 'One, two, ', parameters => { max_new_tokens => 5 });

sub without_ids { my ($x) = @_; my $j = $x->json; delete @$j{qw(id created usage)} if ref $j eq 'HASH'; return $j }

subtest 'POST /invocations' => sub {
    my %chat = (@hi, max_tokens => 4, temperature => 0);
    my %completion = (prompt => 'One', max_tokens => 4, temperature => 0);
    for ([ '/', \%native ], [ '/v1/chat/completions', \%chat ], [ '/v1/completions', \%completion ]) {
        my ($path, $body) = @$_;
        my ($want, $x) = ($http->post($path, $body), $http->post('/invocations', $body));
        is $x->status, 200, "as $path" or diag $x->body;
        is_deeply without_ids($x), without_ids($want), 'the same body';
        ok defined $x->header('x-generated-tokens'), 'and headers';
        my ($stream, $as) = map { $http->post($_, { %$body, stream => $true }) } '/invocations', $path;
        is $stream->header('content-type'), 'text/event-stream', 'streamed';
        is scalar @{ $stream->events }, scalar @{ $as->events }, 'with as many events';
    }
    is ref $http->post('/invocations', { %native, @hi, prompt => 'x' })->json, 'ARRAY', 'native goes first';
    is $http->post('/invocations', { inputs => 5, @hi, max_tokens => 1, prompt => 'x' })->json->{object}, 'chat.completion',
        'then chat';
    for my $body ({}, { inputs => 5 }, { inputs => ['a'] }, { messages => 'x' }, { text => 'a' }) {
        my $x = $http->post('/invocations', $body);
        is $x->status, 422, 'refused';
        is_deeply $x->json, { error_type => 'validation', error => 'Failed to deserialize the JSON body into the target type: '
            . 'data did not match any variant of untagged enum SagemakerRequest' }, 'no variant fits';
    }
    like $http->post('/invocations', { %chat, n => 0 })->json->{error}{message}, qr/`n` must be > 0/, 'errors have the form of the body';
    like $http->post('/invocations', { inputs => '' })->json->{error}, qr/`inputs` cannot be empty/, 'of either kind';
    is $http->get('/invocations')->status, 405, 'GET';
    is $http->get('/ping')->status, 200, 'the probe';
};

subtest 'POST /vertex' => sub {
    my $greedy = { max_new_tokens => 6, do_sample => $false };
    my @prompts = ('One, two, ', 'The sky is', 'A b c d', 'é日本');
    my @want = map { $http->post('/generate', { inputs => $_, parameters => $greedy })->json->{generated_text} } @prompts;
    my $x = $http->post('/vertex', { instances => [ map { { inputs => $_, parameters => $greedy } } @prompts ] });
    is $x->status, 200, 'status' or diag $x->body;
    is_deeply $x->json, { predictions => \@want }, 'the texts in order';
    is_deeply [ grep { /^x-(?!request-id)/ } keys %{ $x->headers } ], [], 'no headers of a generation';
    my %chat = (@hi, max_tokens => 4, temperature => 0);
    my $said = $http->post('/v1/chat/completions', \%chat)->json->{choices}[0]{message}{content};
    $x = $http->post('/vertex', { instances => [ { %chat, stream => $true }, { inputs => $prompts[1], parameters => $greedy } ] });
    is_deeply $x->json, { predictions => [ $said, $want[1] ] }, 'a chat and a prompt' or diag $x->body;
    my %sampled = (max_new_tokens => 12, seed => 7, temperature => 1.0);
    my $text = $http->post('/generate', { inputs => 'A', parameters => { %sampled, do_sample => $true } })->json->{generated_text};
    is_deeply $http->post('/vertex', { instances => [ { inputs => 'A', parameters => \%sampled } ] })->json,
        { predictions => [$text] }, 'it samples, with parameters too';
    my $big = '18446744073709551615';
    my $body = qq({"instances":[{"inputs":"A","parameters":{"max_new_tokens":2,"seed":$big}}]});
    is $http->request(POST => '/vertex', body => $body, headers => [ 'Content-Type', 'application/json' ])->status, 200,
        'the largest seed';
};

subtest 'errors of /vertex' => sub {
    my $ok = { inputs => 'A', parameters => { max_new_tokens => 1 } };
    for ([ { inputs => '' }, '`inputs` cannot be empty' ],
        [ { inputs => 'A', parameters => { top_k => 0 } }, '`top_k` must be strictly positive' ],
        [ { @hi, temperature => -1 }, '`temperature` must be strictly positive' ])
    {
        my ($instance, $message) = @$_;
        my $x = $http->post('/vertex', { instances => [ $ok, $instance, $ok ] });
        is_deeply [ $x->status, $x->json ], [ 422, { error => "Input validation error: $message", error_type => 'validation' } ],
            "an instance that fails: $message";
    }
    my $x = $http->post('/vertex', { instances => [] });
    is_deeply [ $x->status, $x->json ], [ 422, { error => 'Input validation error', error_type => 'Input validation error' } ],
        'none';
    for ([ {}, 'missing field `instances`' ], [ { instances => 5 }, 'instances: invalid value: integer `5`, expected a sequence' ],
        [ { instances => [ $ok, 5 ] }, 'instances[1]: data did not match any variant of untagged enum VertexInstance' ],
        [ { instances => [ {} ] }, 'instances[0]: data did not match any variant of untagged enum VertexInstance' ],
        [ { instances => [ { inputs => 'A', parameters => { top_k => 'x' } } ] },
            'parameters.top_k: invalid type: string "x", expected i32' ])
    {
        my ($body, $message) = @$_;
        $x = $http->post('/vertex', $body);
        is_deeply [ $x->status, $x->json ], [ 422, { error_type => 'validation',
            error => "Failed to deserialize the JSON body into the target type: $message" } ], $message;
    }
    $x = $http->post('/few/vertex', { instances => [ ($ok) x 4 ] });
    is_deeply [ $x->status, $x->json->{error_type} ], [ 422, 'batch size exceeded' ], 'more than llm_max_client_batch_size';
    is $http->post('/hook/vertex', { instances => [ $ok, { inputs => 'bad' } ] })->status, 403, 'a hook refuses one, with its own status';
    is $http->post('/hook/vertex', { instances => [ $ok, $ok ] })->status, 200, 'or none';
    my $long = { inputs => "A", parameters => { max_new_tokens => 8000, ignore_eos => $true } };
    is $http->post('/short/vertex', { instances => [$long] })->status, 424, 'llm_generation_timeout';
    my $kept = $http->post('/vertex', { instances => [ $ok, { inputs => '' } ] }, keep => 1);
    is $http->request(POST => '/vertex', json => { instances => [$ok] }, on => $kept)->status, 200, 'the connection goes on';
};

subtest 'KServe' => sub {
    my $infer = '/v2/models/any/versions/3/infer';
    is_deeply $http->get('/v2')->json, { name => 'text-generation-inference', version => $http->get('/info')->json->{version},
        extensions => [qw(health models metrics)] }, 'GET /v2';
    is_deeply $http->get($_)->json, { live => $true }, $_ for qw(/v2/health/live /v2/health/ready /v2/models/any/versions/3/ready);
    is_deeply $http->get('/v2/models/any/versions/3')->json, { name => 'any', version => '3', extensions => [qw(infer ready)] }, 'a model';
    is $http->get($_)->status, 404, $_ for qw(/v2/models/any /v2/models/any/versions /v2/models//versions/3 /v2/models/any/versions/3/x /v2/x);
    is $http->get($infer)->header('allow'), 'POST, OPTIONS', 'only POST infers';
    my $input = sub { my ($text) = @_; utf8::encode($text); return { name => 'i', datatype => 'BYTES', shape => [ 1, length $text ], data => [ unpack 'C*', $text ] } };
    my @prompts = ('One, two, ', "\x{e9}\x{65e5}\x{672c}");
    my $greedy = { max_new_tokens => 6, do_sample => $false };
    my @want = map { $http->post('/generate', { inputs => $_, parameters => $greedy })->json->{generated_text} } @prompts;
    my $x = $http->post($infer, { id => '42', parameters => $greedy, inputs => [ map { $input->($_) } @prompts ], outputs => [ { name => 'a' }, { name => 'b' } ] });
    is $x->status, 200, 'infer' or diag $x->body;
    my $j = $x->json;
    is $j->{id}, '42', 'id';
    is_deeply [ map { [ @$_{qw(name datatype)} ] } @{ $j->{outputs} } ], [ [ a => 'BYTES' ], [ b => 'BYTES' ] ], 'outputs in order';
    for my $i (0, 1) {
        my $text = pack 'C*', @{ $j->{outputs}[$i]{data} };
        is_deeply $j->{outputs}[$i]{shape}, [ 1, length $text ], 'shape';
        utf8::decode($text);
        is $text, $want[$i], 'text';
    }
    my %ok = (id => '1', inputs => [ $input->('a') ], outputs => [ { name => 'o' } ], parameters => { max_new_tokens => 1 });
    my $fixed = { max_new_tokens => 20, grammar => { type => 'regex', value => '\\t\\nc_dé' } };
    is_deeply $http->post($infer, { %ok, parameters => $fixed })->json->{outputs}[0], { name => 'o', datatype => 'BYTES', shape => [ 1, 7 ],
        data => [ 9, 10, 99, 95, 100, 195, 169 ] }, 'bytes of one, two and three digits';
    is_deeply $http->post($infer, { id => '1', inputs => [], outputs => [] })->json, { id => '1', outputs => [] }, 'none';
    for ([ { outputs => [] }, qr/^Inputs and outputs length mismatch$/, 'length mismatch' ], [ { inputs => [ { data => [ 0xc3, 0x28 ] } ] }, qr/not valid UTF-8/, 'utf8' ],
        [ { inputs => [ { data => [256] } ] }, qr/inputs\[0\]\.data\[0\]: expected u8/, 'validation' ], [ { inputs => [ {} ] }, qr/inputs\[0\]\.data: expected a sequence/, 'validation' ],
        [ { id => 5 }, qr/id: invalid/, 'validation' ], [ { outputs => [ {} ] }, qr/outputs\[0\]: missing field `name`/, 'validation' ],
        [ { inputs => [ { data => [] } ] }, qr/`inputs` cannot be empty/, 'validation' ], [ { parameters => { top_k => 0 } }, qr/`top_k` must be strictly positive/, 'validation' ],
        [ { parameters => 5 }, qr/parameters: invalid/, 'validation' ])
    {
        my ($change, $message, $type) = @$_;
        $x = $http->post($infer, { %ok, %$change });
        is_deeply [ $x->status, $x->json->{error_type} ], [ 422, $type ], 'refused: ' . substr $LLM::HTTP::JSON->encode($change), 0, 60;
        like $x->json->{error}, $message, 'message';
    }
    is $http->post('/few/v2/models/m/versions/1/infer', { %ok, inputs => [ map { $input->('a') } 1 .. 4 ], outputs => [ map { { name => "o$_" } } 1 .. 4 ] })->json->{error_type},
        'batch size exceeded', 'too many';
};

subtest 'the client goes' => sub {
    my $busy = sub { my ($v) = $http->get('/metrics')->body =~ /^tgi_batch_current_size\{model="long"\} (\d+)/m; $v };
    my $long = { inputs => 'A', parameters => { max_new_tokens => 8000, ignore_eos => $true } };
    my $x = $http->send(POST => '/long/vertex', json => { instances => [ ($long) x 4 ] });
    ok $n->wait_for(sub { $busy->() > 0 }), 'instances run';
    $x->abort;
    ok $n->wait_for(sub { $busy->() == 0 }, 5), 'and end with it';
};

$n->stop;
undef $n;
done_testing;
