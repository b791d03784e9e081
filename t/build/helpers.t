# helpers.t - the test helpers themselves, on a stock nginx without our module and on a socket that we script.

use strict;
use warnings;
use lib 't/lib';

use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(time sleep);

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('no nginx') unless -x LLM::Nginx::nginx_bin();

my $n = LLM::Nginx->new(module => 0, workers => 2, ports => 2);
isnt $n->port(0), $n->port(1), 'two ports';
$n->write_file('html/a.txt', 'a' x 100_000);
my $http_conf = <<'EOC';
    client_max_body_size 10k;
    server {
        listen 127.0.0.1:%%PORT%%;
        location / { }
        location /sse { default_type text/event-stream; return 200 "data: {\"a\":1}\n\n: note\n\nevent: x\ndata: [DONE]\n\n"; }
        location /v { return 200 VERSION; }
    }
EOC
$n->conf($http_conf);
my ($rc, $out) = $n->check;
is $rc, 0, 'nginx -t passes' or diag $out;
$n->start;
is scalar($n->workers), 2, 'two workers';
my $http = LLM::HTTP->new(port => $n->port);

my $x = $http->get('/a.txt');
is $x->status, 200, 'status';
is length $x->body, 100_000, 'whole body';
ok $x->complete, 'complete';
is $http->request(HEAD => '/a.txt')->header('content-length'), 100_000, 'HEAD';
is $http->get('/a.txt', version => '1.0')->status, 200, 'HTTP/1.0';
is $http->post('/sse', { a => 'b' x 20_000 })->status, 413, 'a body over the limit';

$x = $http->get('/sse');
is_deeply $x->data, [ { a => 1 }, '[DONE]' ], 'SSE data';
is $x->event->{data}, '{"a":1}', 'first event';
is $x->event->{comment}, ' note', 'a comment';
is $x->event->{event}, 'x', 'a named event';
is $x->event, undef, 'no more';

my @x = $http->pipeline([ GET => '/v' ], [ GET => '/a.txt' ], [ GET => '/none' ]);
is_deeply [ map { $_->status } @x ], [ 200, 200, 404 ], 'pipelined statuses';
is $x[0]->body, 'VERSION', 'pipelined body';

my @many = map { $http->send(GET => '/a.txt') } 1 .. 20;
is LLM::HTTP::wait_all(20, @many), 20, 'parallel';
is $http->send(GET => '/a.txt', rcvbuf => 4096)->slow(4096, 0.01, 0.2)->wait->complete, 1, 'a slow reader ends whole';
my $keep = $http->get('/v', keep => 1);
is $http->request(GET => '/v', on => $keep)->body, 'VERSION', 'keep-alive';
is $http->send_raw("BAD\r\n\r\n")->wait->status, 400, 'raw bytes';

ok $n->reload($http_conf =~ s/VERSION/NEW/r), 'reload';
is $n->wait_for(sub { $http->get('/v')->body eq 'NEW' }), 1, 'the new configuration serves';
ok !$n->reload('nonsense;'), 'a wrong configuration is refused';
is scalar(my @bad = $n->bad_lines), 1, 'and the refusal is seen in the log';
my ($first) = $n->workers;
ok $n->kill_pid(KILL => $first), 'kill one worker';
ok $n->wait_for(sub { 2 == grep { $_ != $first } $n->workers }), 'another comes';
$n->stop(allow => qr/unknown directive|exited on signal 9/);

# chunked in odd pieces, then a connection that ends early
my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $n->port(1), Listen => 5, ReuseAddr => 1) or die;
my $head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n";
my $pid = fork // die;
if (!$pid) {
    for my $script ([ $head, "8\r\ndata", ": a\n", "\r\n", "1\r\n\n\r\n0\r\n\r\n" ], [ $head, "5\r\nda" ]) {
        my $c = $listen->accept;
        sysread $c, my ($in), 65536;
        for (@$script) { syswrite $c, $_; sleep 0.05 }
    }
    require POSIX;
    POSIX::_exit(0);
}
my $raw = LLM::HTTP->new(port => $n->port(1), timeout => 5);
$x = $raw->get('/');
is_deeply $x->data, ['a'], 'an event over several chunks';
ok $x->complete && $x->events->[0]{time} > 0.1, 'and it has its time';
$x = $raw->get('/');
is $x->error, 'closed early', 'a cut response';
ok !$x->complete, 'is not complete';
waitpid $pid, 0;

done_testing;
