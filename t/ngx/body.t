# body.t - request bodies: from memory, from nginx's temporary file, chunked, too large; their type, their syntax, their
# strings; and the pages that nginx itself makes in a location of ours.

use strict;
use warnings;
use lib 't/lib';
use utf8;

use JSON::PP ();
use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my $n = LLM::Nginx->new;
$n->write_file('users', "u:{PLAIN}p\n");
$n->conf(<<'EOC');
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 64; kv_cache 8m; }
    limit_req_zone $binary_remote_addr zone=one:1m rate=1r/m;
    server {
        listen 127.0.0.1:%%PORT%%;
        location / { llm_pass m; }
        location /file/ { llm_pass m; client_body_in_file_only clean; }
        location /memory/ { llm_pass m; client_body_buffer_size 2m; }
        location /k10/ { llm_pass m; client_max_body_size 10k; }
        location /m5/ { llm_pass m; client_max_body_size 5m; }
        location /denied/ { llm_pass m; deny all; }
        location /auth/ { llm_pass m; auth_basic x; auth_basic_user_file %%DIR%%/users; }
        location /limited/ { llm_pass m; limit_req zone=one; limit_req_status 429; }
        location /page/ { llm_pass m; client_max_body_size 1k; error_page 413 /too-large.html; }
        location = /too-large.html { return 413 "operator's page"; }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);

# a valid body of about $size bytes; unknown fields are ignored
sub sized {
    my ($size) = @_;
    return $LLM::HTTP::JSON->encode({ inputs => 'A', parameters => { max_new_tokens => 2 }, pad => 'x' x $size });
}

sub send_bytes {
    my ($path, $body, %o) = @_;
    return $http->request(POST => $path, body => $body, headers => [ 'Content-Type', $o{type} || 'application/json' ]);
}

my $want = $http->post('/generate', { inputs => 'A', parameters => { max_new_tokens => 2 } })->json;
ok length $want->{generated_text} || 1, 'an answer to compare with';

subtest 'sizes' => sub {
    for my $path ('/generate', '/file/generate', '/memory/generate') {
        for my $size (0, 100, 8_000, 16_384, 40_000, 300_000, 1_900_000) {
            my $x = send_bytes($path, sized($size));
            is_deeply [ $x->status, $x->json ], [ 200, $want ], "$path $size" or diag substr $x->body || $x->error, 0, 300;
        }
    }
    my $body = sized(100_000);
    my @chunks = $body =~ /(.{1,7000})/gs;
    my $x = $http->request(POST => '/generate', chunked => \@chunks, headers => [ 'Content-Type', 'application/json' ]);
    is_deeply [ $x->status, $x->json ], [ 200, $want ], 'chunked' or diag $x->body;
    is_deeply $http->request(POST => '/generate', chunked => [ sized(10) ],
        headers => [ 'Content-Type', 'application/json' ])->json, $want, 'chunked and small';
    is send_bytes('/m5/generate', sized(3_000_000))->status, 200, 'client_max_body_size 5m';
};

subtest 'a long prompt' => sub {
    my $x = $http->post('/generate', { inputs => 'word ' x 50_000, parameters => { max_new_tokens => 1, truncate => 20 } });
    is $x->status, 200, 'is tokenized, then cut' or diag $x->body;
    is $x->header('x-prompt-tokens'), 20, 'to the tokens asked for';
    is $x->header('x-compute-characters'), 250_000, 'of all its characters';
    $x = $http->post('/generate', { inputs => 'word ' x 50_000 });
    is $x->status, 422, 'or refused';
};

subtest 'too large' => sub {
    for my $case ([ '/generate', 2_200_000 ], [ '/k10/generate', 11_000 ]) {
        my ($path, $size) = @$case;
        my $x = send_bytes($path, sized($size));
        is $x->status, 413, "$path: 413" or diag $x->error;
        is_deeply $x->json, { error => 'Failed to buffer the request body: length limit exceeded', error_type => 'validation' },
            'JSON body';
        is $x->header('content-type'), 'application/json', 'content-type';
    }
    my $x = $http->request(POST => '/k10/v1/chat/completions', chunked => [ ('x' x 4000) x 4 ],
        headers => [ 'Content-Type', 'application/json' ]);
    is $x->status, 413, 'chunked: 413';
    is $x->json->{error}{message}, 'Failed to buffer the request body: length limit exceeded', 'in the form of the route';
    is $x->json->{error}{code}, 413, 'with the code';
    $x = send_bytes('/page/generate', sized(5000));
    is $x->body, "operator's page", 'error_page goes before';
};

subtest 'errors of nginx in the form of the API' => sub {
    my $x = $http->post('/denied/generate', { inputs => 'a' });
    is_deeply [ $x->status, $x->json ], [ 403, { error => 'Forbidden', error_type => 'forbidden' } ], 'deny';
    $x = $http->post('/auth/v1/chat/completions', {});
    is $x->status, 401, 'auth_basic';
    is $x->json->{error}{type}, 'authentication_error', 'its type';
    like $x->header('www-authenticate'), qr/^Basic/, 'its header stays';
    $http->get('/limited/health');
    $x = $http->post('/limited/generate', { inputs => 'a' });
    is_deeply [ $x->status, $x->json ], [ 429, { error => 'Too Many Requests', error_type => 'overloaded' } ], 'limit_req';
    ok $x->header('retry-after'), 'Retry-After';
    is $x->header('access-control-allow-origin'), '*', 'CORS headers, so that a page can read the error';
    $x = $http->request(HEAD => '/denied/info');
    is_deeply [ $x->status, $x->body ], [ 403, '' ], 'HEAD has no body';
};

subtest 'content types' => sub {
    my $body = sized(1);
    for my $type ('application/json', 'Application/JSON; charset=utf-8', 'application/vnd.x+json', 'application/json;x=y') {
        is send_bytes('/generate', $body, type => $type)->status, 200, $type;
    }
    for my $type ('text/plain', 'application/jsonx', 'application/+json', 'text/json', 'multipart/form-data; boundary=x') {
        my $x = send_bytes('/generate', $body, type => $type);
        is $x->status, 415, $type;
        is $x->json->{error}, 'Expected request with `Content-Type: application/json`', 'message';
    }
    is $http->request(POST => '/generate', body => $body, headers => [])->status, 415, 'none';
    my $form = 'application/x-www-form-urlencoded';
    is send_bytes('/generate', $body, type => $form)->status, 200, "$form, as curl -d sends it";
    for my $h ([ Origin => 'http://evil.example' ], [ Referer => 'http://evil.example/' ], [ 'Sec-Fetch-Site' => 'cross-site' ]) {
        is $http->request(POST => '/generate', body => $body, headers => [ 'Content-Type', $form, @$h ])->status, 415,
            "but not from a browser: $h->[0]";
    }
};

subtest 'syntax' => sub {
    for my $body ('', '{', '{"inputs":"a"', '{"inputs":"a"} x', "{'inputs':'a'}", '{"inputs":"a",}', '{"inputs":"\q"}', '{"inputs":"a"}}',
        "\xff\xfe", "{\"inputs\":\"\xc3\x28\"}", '{"inputs":"a","parameters":{"temperature":NaN}}', '[' x 100_000, '{"a":' x 100_000)
    {
        my $x = send_bytes('/generate', $body);
        my $name = length $body > 40 ? substr($body, 0, 10) . '…' : $body;
        $name =~ s/[^ -~]/?/g;
        is $x->status, 400, "400: $name";
        like $x->json->{error}, qr/^Failed to parse the request body as JSON: /, 'message';
    }
    is send_bytes('/v1/chat/completions', '{')->json->{error}{code}, 400, 'OpenAI form';
};

subtest 'strings and numbers' => sub {
    my $echo = sub {
        my ($json) = @_;
        my $x = send_bytes('/generate', qq({"inputs":$json,"parameters":{"max_new_tokens":1,"return_full_text":true}}));
        return $x->status == 200 ? $x->json->{generated_text} : $x->status . $x->body;
    };
    my @cases = (
        [ '"a\ud800b"',             "a\x{fffd}b",       'a lone high surrogate' ],
        [ '"a\udc00b"',             "a\x{fffd}b",       'a lone low surrogate' ],
        [ '"\ud800\ud800\udc00"',   "\x{fffd}\x{10000}", 'a lone one before a pair' ],
        [ '"\ud83d\ude00"',         "\x{1f600}",        'a pair' ],
        [ '"\\\\ud800"',            '\ud800',           'an escaped backslash is no escape' ],
        [ '"a\u0000b"',             "a\x{0}b",          'NUL' ],
        [ '"x\ud800"',              "x\x{fffd}",        'at the end' ],
    );
    for (@cases) {
        my ($json, $text, $name) = @$_;
        like $echo->($json), qr/^\Q$text\E/, $name;
    }
    is send_bytes('/generate', '{"inputs":"a","parameters":{"max_new_tokens":1},"n":123456789012345678901234567890}')->status, 200,
        'an unknown field with a huge integer';
    is send_bytes('/generate', '{"a\\u0000b":{"\\u0000":1,"\\\\u0000":"\\u0000"},"inputs" : "A","parameters":{"max_new_tokens":2}}')->json->{generated_text},
        $want->{generated_text}, 'NUL in names';
    is send_bytes('/generate', '{"inputs":"b","inputs":"A","parameters":{"max_new_tokens":2}}')->json->{generated_text},
        $want->{generated_text}, 'of duplicate keys the last one wins';
};

$n->stop;
undef $n;
done_testing;
