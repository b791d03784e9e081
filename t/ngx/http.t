# http.t - routes and methods: prefixes, one-route locations, aliases, HEAD, OPTIONS and CORS, 404 and 405, HTTP/1.0,
# keep-alive, pipelining, HTTP/2, gzip.

use strict;
use warnings;
use lib 't/lib';

use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my $n = LLM::Nginx->new(ports => 2);
my $h2 = LLM::Nginx::version() >= 1025001 ? 'http2 on; listen 127.0.0.1:%%PORT1%%;' : 'listen 127.0.0.1:%%PORT1%% http2;';
$n->conf(<<"EOC");
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 64; kv_cache 8m; }
    server {
        listen 127.0.0.1:%%PORT%%;
        location / { llm_pass m; }
        location /llm/ { llm_pass m; llm_model_id "vendor/name"; }
        location /noslash { llm_pass m; }
        location = /only { llm_pass m; llm_generate; }
        location /events { llm_pass m; llm_generate_stream; }
        location /chat { llm_pass m; llm_chat_completions; }
        location = /t { llm_pass m; llm_tokenize; }
        location = /i { llm_pass m; llm_info; }
        location = /m { llm_pass m; llm_models; }
        location = /h { llm_pass m; llm_health; }
        location = /x { llm_pass m; llm_metrics; }
        location ~ ^/re/ { llm_pass m; }
        location ~ /generate_by_regex\$ { llm_pass m; llm_generate; }
        location /cors/ { llm_pass m; llm_cors_allow_origin http://a.example https://b.example; }
        location /nocors/ { llm_pass m; llm_cors_allow_origin off; }
        location /gzip/ { llm_pass m; gzip on; gzip_types text/event-stream application/json; gzip_min_length 1; }
        location /except/ { llm_pass m; limit_except GET { deny all; } }
        location /if/ {
            llm_pass m;
            if (\$arg_small) { llm_pass m; llm_max_total_tokens 20; }
            if (\$arg_id) { set \$x 1; }
        }
    }
    server { $h2 location / { llm_pass m; } }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);
my %body = (inputs => 'A', parameters => { max_new_tokens => 2 });
my $want = $http->post('/generate', \%body)->json;

subtest 'prefixes and aliases' => sub {
    is_deeply $http->post($_, \%body)->json, $want, $_
        for qw(/llm/generate /noslash/generate /generate/ /llm/generate// /only /generate_by_regex);
    is_deeply $http->post('/llm/', \%body)->json->[0], { generated_text => "A$want->{generated_text}" }, '/llm/ is POST /';
    is_deeply $http->post('/noslash', \%body)->json->[0], { generated_text => "A$want->{generated_text}" }, 'without a slash too';
    is $http->get($_)->status, 200, "GET $_" for qw(/health /ping / /v1/health /llm/health /info /v1/models /models /metrics
        /tokenizer_info /h /i /m /x);
    is $http->get($_)->body, '', "GET $_ is empty" for qw(/health /ping / /h);
    is $http->post('/events/anything', \%body)->header('content-type'), 'text/event-stream', 'llm_generate_stream';
    my %chat = (messages => [ { role => 'user', content => 'a' } ], max_tokens => 1);
    is $http->post($_, \%chat)->status, 200, $_ for qw(/chat /v1/chat/completions /chat/completions /llm/v1/chat/completions);
    ok $http->post('/t', { inputs => 'a' })->json->[0]{id}, 'llm_tokenize';
    is $http->get('/m')->json->{object}, 'list', 'llm_models';
    is $http->get('/llm/v1/models')->json->{data}[0]{id}, 'vendor/name', 'llm_model_id';
    is $http->get('/llm/v1/models/vendor/name')->json->{id}, 'vendor/name', 'one model, with a slash in its name';
    is $http->get('/v1/models/m')->json->{id}, 'm', 'one model';
    is $http->get('/llm/info')->json->{model_id}, 'vendor/name', 'in /info too';
};

subtest '/info' => sub {
    my $i = $http->get('/info')->json;
    my %want = (max_concurrent_requests => 128, max_best_of => 2, max_stop_sequences => 16, max_input_tokens => 63,
        max_total_tokens => 64, max_client_batch_size => 32, validation_workers => 1, model_id => 'm', model_sha => undef,
        model_dtype => 'F32', model_device_type => 'cpu');
    is_deeply { map { $_ => $i->{$_} } keys %want }, \%want, 'values';
};

subtest '404 and 405' => sub {
    for my $path (qw(/nothing /generatex /noslashgenerate /llm/v2/chat /v1/images /v1/models/other /re/generate)) {
        my $x = $http->request($path =~ /models/ ? 'GET' : 'POST', $path, json => \%body);
        is $x->status, 404, "404 $path";
        my $e = $x->json->{error};
        is ref $e ? $e->{message} : $e, 'Not Found', 'JSON';
        is $x->json->{error_type}, 'not_found', 'error_type';
    }
    is $http->get('/v1/nothing')->json->{error}{type}, 'not_found_error', 'OpenAI form below /v1/';
    for ([ GET => '/generate', 'POST, OPTIONS' ], [ PUT => '/generate', 'POST, OPTIONS' ], [ POST => '/info', 'GET, HEAD, OPTIONS' ],
        [ DELETE => '/', 'GET, HEAD, POST, OPTIONS' ], [ GET => '/v1/chat/completions', 'POST, OPTIONS' ], [ POST => '/i', 'GET, HEAD, OPTIONS' ])
    {
        my ($method, $path, $allow) = @$_;
        my $x = $http->request($method, $path, $method eq 'GET' ? () : (json => {}));
        is_deeply [ $x->status, $x->header('allow'), $x->json->{error_type} ], [ 405, $allow, 'method_not_allowed' ],
            "$method $path";
    }
};

subtest 'HEAD' => sub {
    for my $path (qw(/health /info /v1/models /metrics)) {
        my $get = $http->get($path);
        my $head = $http->request(HEAD => $path);
        is_deeply [ $head->status, $head->body, $head->complete ], [ 200, '', 1 ], $path;
        is $head->header('content-type'), $get->header('content-type'), 'the same type';
    }
    is $http->request(HEAD => '/generate')->status, 405, 'not where GET is not';
};

subtest 'CORS' => sub {
    my $x = $http->request(OPTIONS => '/v1/chat/completions', headers => [ Origin => 'http://app.example',
        'Access-Control-Request-Method' => 'POST',
        'Access-Control-Request-Headers' => 'authorization,content-type, x-stainless-arch,x-evil' ]);
    is $x->status, 204, 'preflight';
    is $x->header('access-control-allow-origin'), '*', 'any origin';
    is $x->header('access-control-allow-methods'), 'POST, OPTIONS', 'methods';
    is $x->header('access-control-allow-headers'), 'authorization, content-type, x-stainless-arch', 'headers';
    $x = $http->post('/generate', \%body);
    like $x->header('access-control-expose-headers'), qr/x-compute-time/, 'exposed headers';
    is $http->post('/generate', {})->header('access-control-allow-origin'), '*', 'on errors too';
    $x = $http->request(GET => '/cors/info', headers => [ Origin => 'https://b.example' ]);
    is $x->header('access-control-allow-origin'), 'https://b.example', 'a listed origin';
    is $x->header('vary'), 'Origin', 'Vary';
    is $http->request(GET => '/cors/info', headers => [ Origin => 'https://c.example' ])->header('access-control-allow-origin'),
        undef, 'another origin';
    is $http->get('/nocors/info')->header('access-control-allow-origin'), undef, 'off';
};

subtest 'HTTP/1.0, keep-alive, pipelining' => sub {
    my $x = $http->request(POST => '/generate', json => \%body, version => '1.0');
    is_deeply [ $x->status, $x->json ], [ 200, $want ], 'HTTP/1.0';
    $x = $http->request(POST => '/generate_stream', json => \%body, version => '1.0');
    is $x->header('transfer-encoding'), undef, 'a stream without chunks';
    is scalar @{ $x->events }, 2, 'complete';
    $x = $http->request(POST => '/generate_stream', json => \%body, keep => 1);
    for my $i (1 .. 3) {
        $x = $http->request(POST => '/generate', json => \%body, keep => $i < 3, on => $x);
        is_deeply $x->json, $want, "on the same connection, $i";
    }
    my @x = $http->pipeline([ POST => '/generate', json => \%body ], [ POST => '/generate_stream', json => \%body ],
        [ GET => '/health' ], [ POST => '/generate', json => {} ], [ POST => '/generate', json => \%body ]);
    is_deeply [ map { $_->status } @x ], [ 200, 200, 200, 422, 200 ], 'pipelined';
    is_deeply $x[-1]->json, $want, 'the last of them';
};

subtest 'limit_except and if' => sub {
    is $http->post('/except/generate', \%body)->status, 403, 'limit_except refuses';
    is $http->get('/except/info')->status, 200, 'and lets through';
    is $http->get('/if/info?small=1')->json->{max_total_tokens}, 20, 'a value of an if block';
    is $http->get('/if/info?id=1')->json->{max_total_tokens}, 64, 'an if block without llm_pass';
    is $http->get('/if/info')->json->{max_total_tokens}, 64, 'no if block';
};

subtest 'gzip' => sub {
    my $x = $http->request(POST => '/gzip/generate_stream', json => \%body, headers => [ 'Accept-Encoding', 'gzip' ]);
    is $x->header('content-encoding'), 'gzip', 'a compressed stream';
    ok $x->complete, 'complete';
};

subtest 'HTTP/2' => sub {
    plan skip_all => 'curl has no HTTP/2' unless $ENV{LLM_TEST_STRICT} || `curl --version` =~ /HTTP2/;
    my $out = `curl -sN --http2-prior-knowledge http://127.0.0.1:@{[$n->port(1)]}/generate_stream -H 'content-type: application/json' -d '{"inputs":"A","parameters":{"max_new_tokens":2}}'`;
    is scalar(() = $out =~ /^data: /mg), 2, 'a stream';
    my $pad = 'x' x 100_000;
    $n->write_file('big.json', qq({"inputs":"A","parameters":{"max_new_tokens":2},"pad":"$pad"}));
    $out = `curl -s --http2-prior-knowledge http://127.0.0.1:@{[$n->port(1)]}/generate -H 'content-type: application/json' --data-binary \@@{[$n->dir]}/big.json`;
    is_deeply $LLM::HTTP::JSON->decode($out || '{}'), $want, 'a body of 100 KB';
};

$n->stop;
undef $n;
done_testing;
