# edges.t - what stands between a client and a route: Expect, slow bodies, HTTP/1.0, many HTTP/2 streams, another nginx in
# front, gzip, access rules, error_page, OPTIONS everywhere.

use strict;
use warnings;
use lib 't/lib';

use IO::Uncompress::Gunzip qw(gunzip);
use JSON::PP ();
use Test::More;
use Time::HiRes qw(time sleep);

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $n = LLM::Nginx->new(ports => 3);
my $h2 = LLM::Nginx::version() >= 1025001 ? 'http2 on; listen 127.0.0.1:%%PORT1%%;' : 'listen 127.0.0.1:%%PORT1%% http2;';
$n->write_file('users', "u:{PLAIN}p\n");
$n->conf(<<"EOC");
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 8192; kv_cache 64m; }
    limit_req_zone \$binary_remote_addr zone=one:1m rate=1r/m;
    client_body_timeout 1s;
    upstream back { server 127.0.0.1:%%PORT%%; keepalive 4; }
    server {
        listen 127.0.0.1:%%PORT%%;
        location / { llm_pass m; }
        location /slow/ { llm_pass m; llm_output_by_lua_block { llm.sleep(0.1) return ... } }
        location /k10/ { llm_pass m; client_max_body_size 10k; }
        location /gzip/ { llm_pass m; gzip on; gzip_types text/event-stream application/json; gzip_min_length 1;
            llm_output_by_lua_block { llm.sleep(0.1) return ... } }
        location /any/ { llm_pass m; satisfy any; deny all; auth_basic x; auth_basic_user_file %%DIR%%/users; }
        location /all/ { llm_pass m; satisfy all; allow all; auth_basic x; auth_basic_user_file %%DIR%%/users; }
        location /busy/ { llm_pass m; limit_req zone=one; error_page 503 = \@busy; }
        location \@busy { return 529 "come back"; }
        location /own/ { llm_pass m; error_page 422 404 /own.html; }
        location = /own.html { return 200 "operator's page"; }
    }
    server { $h2 location / { llm_pass m; } location /slow/ { llm_pass m; llm_output_by_lua_block { llm.sleep(0.1) return ... } } }
    server {
        listen 127.0.0.1:%%PORT2%%;
        location / { proxy_pass http://back; }
        location /kept/ { proxy_pass http://back/; proxy_http_version 1.1; proxy_set_header Connection ""; }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);
my $front = LLM::HTTP->new(port => $n->port(2));
my %body = (inputs => 'A', parameters => { max_new_tokens => 6, ignore_eos => $true });
my $want = $http->post('/generate', \%body)->json;
my $want_stream = $http->post('/generate_stream', \%body)->data;
my @json = ('Content-Type', 'application/json');

sub running { my ($v) = $http->get('/metrics')->body =~ /^tgi_batch_current_size\{[^}]*\} (\d+)/m; return $v }

# events must come one after the other, not all at the end
sub spread { my ($x) = @_; my @t = map { $_->{time} } @{ $x->events }; return @t > 3 && $t[-1] - $t[0] > 0.25 }

# what comes back for bytes that are sent in parts with pauses between them
sub raw {
    my ($parts, %o) = @_;
    my $x = $http->send_raw($parts->[0], method => 'POST');
    for (@$parts[ 1 .. $#$parts ]) {
        $x->pump(0.1);
        $o{between}->($x) if $o{between};
        $x->{out} .= $_;
    }
    return $x->wait(10);
}

subtest 'Expect: 100-continue' => sub {
    my $text = $LLM::HTTP::JSON->encode(\%body);
    my $head = sub { "POST $_[0] HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: $_[1]\r\n\r\n" };
    my $sock = $http->connect;
    $sock->blocking(1);
    syswrite $sock, $head->('/generate', length $text);
    sysread $sock, my ($line), 100;
    is $line, "HTTP/1.1 100 Continue\r\n\r\n", 'the server asks for the body';
    syswrite $sock, $text;
    my $rest = do { local $/; <$sock> };
    like $rest, qr/^HTTP\/1\.1 200 /, 'and answers';
    is_deeply $LLM::HTTP::JSON->decode($rest =~ s/^.*\r\n\r\n//sr), $want, 'as without';
    $sock = $http->connect;
    $sock->blocking(1);
    syswrite $sock, $head->('/k10/generate', 20_000);
    sysread $sock, $line, 4000;
    like $line, qr/^HTTP\/1\.1 413 /, 'a body that is too large is refused before it is sent';
};

subtest 'bodies in pieces' => sub {
    my $text = $LLM::HTTP::JSON->encode(\%body);
    my $head = "POST /generate HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n";
    my @bytes = ($text =~ /(.{1,20})/gs);
    my $x = raw([ $head . "Content-Length: @{[length $text]}\r\n\r\n", @bytes ]);
    is_deeply $x->json, $want, 'with a length';
    $x = raw([ $head . "Transfer-Encoding: chunked\r\n\r\n", (map { sprintf "%x\r\n%s\r\n", length, $_ } @bytes), "0\r\nX-Trailer: 1\r\n\r\n" ]);
    is_deeply $x->json, $want, 'in chunks, with a trailer';
    $x = raw([ $head . "Transfer-Encoding: chunked\r\n\r\n5;ext=1\r\n" . substr($text, 0, 2), substr($text, 2, 3) . "\r\nzz\r\n" ]);
    is_deeply [ $x->status, $x->json->{error_type} ], [ 400, 'validation' ], 'a chunk that is none';
    $x = raw([ $head . "Content-Length: 50\r\n\r\n{" ]);
    ok !$x->status || $x->status == 408, 'a body that does not come is not waited for';
    my $text2 = $LLM::HTTP::JSON->encode({ %body, pad => 'x' x 200_000 });
    $x = $http->send_raw($head . "Content-Length: @{[length $text2]}\r\n\r\n" . substr($text2, 0, 60_000), method => 'POST');
    $x->pump(0.1);
    $x->abort;
    is_deeply $http->post('/generate', \%body)->json, $want, 'one that is cut off harms nobody';
};

subtest 'HTTP/1.0' => sub {
    my $text = $LLM::HTTP::JSON->encode(\%body);
    my $one = "POST /generate HTTP/1.0\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: @{[length $text]}\r\n\r\n$text";
    my $x = $http->send_raw($one, method => 'POST')->wait;
    is lc $x->header('connection'), 'keep-alive', 'may stay open';
    is_deeply $http->send_raw($one, method => 'POST', on => $x)->wait->json, $want, 'and is used again';
    $x = $http->request(POST => '/slow/generate_stream', json => \%body, version => '1.0');
    ok spread($x), 'a stream comes as it is written';
};

subtest 'another nginx in front' => sub {
    for my $prefix ('', '/kept') {
        my $x = $front->post("$prefix/generate", \%body);
        is_deeply $x->json, $want, "an object through $prefix/";
        ok $x->header('x-request-id'), 'with its headers';
        $x = $front->post("$prefix/slow/generate_stream", \%body);
        is_deeply $x->data, $want_stream, 'a stream';
        ok spread($x), 'that is not held back';
        is $front->post("$prefix/generate", {})->status, 422, 'an error';
        my $many = $front->post("$prefix/generate", { %body, pad => 'x' x 500_000 });
        is_deeply $many->json, $want, 'a body in a temporary file';
    }
    my $x = $front->send(POST => '/slow/generate_stream', json => { inputs => 'A', parameters => { max_new_tokens => 4000, ignore_eos => $true } });
    ok $x->event(5), 'a long stream begins';
    $x->abort;
    ok $n->wait_for(sub { running() == 0 }, 10), 'and ends when the client of the first nginx goes';
};

subtest 'HTTP/2' => sub {
    my $base = "http://127.0.0.1:@{[$n->port(1)]}";
    my $file = $n->write_file('body.json', $LLM::HTTP::JSON->encode(\%body));
    SKIP: {
        skip 'no nghttp', 2 if !$ENV{LLM_TEST_STRICT} && system 'nghttp --version > /dev/null 2>&1';
        my $out = `nghttp -H':method: POST' -H'content-type: application/json' -d $file -m 8 $base/generate 2>&1`;
        is scalar(() = $out =~ /"generated_text":/g), 8, 'eight requests on one connection';
        $out = `nghttp -w 10 -W 10 -H':method: POST' -H'content-type: application/json' -d $file -m 8 $base/generate_stream 2>&1`;
        is scalar(() = $out =~ /"details":null\}\n\ndata|"details":null\}\n/g), 48, 'eight streams through small windows';
    }
    plan skip_all => 'curl has no HTTP/2' unless $ENV{LLM_TEST_STRICT} || `curl --version` =~ /HTTP2/;
    my $curl = 'curl -sN --http2-prior-knowledge -H "content-type: application/json"';
    like `$curl -I $base/info`, qr/^HTTP\/2 200.*content-type: application\/json/s, 'HEAD';
    like `$curl -i -X OPTIONS $base/generate`, qr/^HTTP\/2 204.*allow: POST, OPTIONS/s, 'OPTIONS';
    like `$curl -i -d '{}' $base/generate`, qr/^HTTP\/2 422.*missing field/s, 'an error';
    my $long = $n->write_file('long.json', $LLM::HTTP::JSON->encode({ inputs => 'A', parameters => { max_new_tokens => 4000, ignore_eos => $true } }));
    like `$curl -m 1 -d \@$long $base/slow/generate_stream`, qr/^data: /, 'a stream that the client ends';
    ok $n->wait_for(sub { running() == 0 }, 10), 'frees its place';
};

subtest 'gzip' => sub {
    my @accept = ('Accept-Encoding', 'gzip');
    my $x = $http->request(POST => '/gzip/generate_stream', json => \%body, headers => \@accept);
    my $packed = $x->body;
    gunzip \$packed => \my $text;
    is_deeply [ map { $LLM::HTTP::JSON->decode($_) } $text =~ /^data: (.*)$/mg ], $want_stream, 'a stream with all its events';
    ok $x->{reads} > 3, 'as they are written' or diag $x->{reads};
    $packed = $http->request(POST => '/gzip/generate', json => \%body, headers => \@accept)->body;
    gunzip \$packed => \$text;
    is_deeply $LLM::HTTP::JSON->decode($text), $want, 'an object';
    $packed = $http->request(POST => '/gzip/generate', json => {}, headers => \@accept)->body;
    gunzip \$packed => \$text;
    like $text // $packed, qr/missing field/, 'an error';
};

subtest 'access' => sub {
    my @auth = (headers => [ 'Authorization', 'Basic dTpw' ]);
    my $status = sub { my ($path, @more) = @_; $http->post($path, \%body, @more)->status };
    is $status->('/any/generate'), 401, 'satisfy any: neither';
    is $status->('/any/generate', @auth), 200, 'the password';
    is $status->('/all/generate'), 401, 'satisfy all: one of two';
    is $status->('/all/generate', @auth), 200, 'both';
    is $http->post('/all/v1/chat/completions', {})->json->{error}{type}, 'authentication_error', 'the form of the route';
    my $kept = $http->post('/all/generate', \%body, keep => 1);
    is $http->request(POST => '/all/generate', json => \%body, @auth, on => $kept)->status, 200, 'the connection goes on after a 401';
};

subtest 'error_page' => sub {
    $http->get('/busy/health');
    my $x = $http->post('/busy/generate', \%body);
    is_deeply [ $x->status, $x->body ], [ 529, 'come back' ], 'of a limit of nginx';
    is $http->post('/own/generate', {})->status, 422, 'answers of ours are no error pages';
};

subtest 'OPTIONS and wrong methods, on every route' => sub {
    my $paths = $http->get('/openapi.json')->json->{paths};
    for my $path (sort keys %$paths) {
        my $allow = join ', ', ($paths->{$path}{get} ? qw(GET HEAD) : ()), ($paths->{$path}{post} ? 'POST' : ()), 'OPTIONS';
        my $url = $path =~ s/\{\w+\}/m/gr;
        my $x = $http->request(OPTIONS => $url, headers => [ Origin => 'http://a.example', 'Access-Control-Request-Method' => 'POST' ]);
        is_deeply [ $x->status, $x->body, $x->header('allow'), $x->header('access-control-allow-origin') ], [ 204, '', $allow, '*' ], "OPTIONS $path";
        for my $method (qw(PUT DELETE PATCH), $paths->{$path}{post} ? () : 'POST', $paths->{$path}{get} ? () : qw(GET HEAD)) {
            $x = $http->request($method => $url, $method =~ /^P/ ? (json => {}) : ());
            is_deeply [ $x->status, $x->header('allow') ], [ 405, $allow ], "$method $path";
        }
        next unless $paths->{$path}{get};
        my ($get, $head) = map { $http->request($_ => $url) } qw(GET HEAD);
        is_deeply [ @$head{qw(status body)}, $head->header('content-type') ], [ $get->status, '', $get->header('content-type') ], "HEAD $path";
    }
};

$n->stop;
undef $n;
done_testing;
