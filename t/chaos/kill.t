# kill.t - workers are killed with SIGKILL while they generate: streams of the other workers end with the very bytes that
# they have alone, the engine is taken over, killed workers are replaced, and nothing of the dead stays behind.

use strict;
use warnings;
use lib 't/lib';

use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();
my $model = LLM::Nginx::real_model() or LLM::Nginx::skip_all('no real model (LLM_TEST_MODEL)');

use constant { STREAMS => 16, TOKENS => 48, WORKERS => 4, LIMIT => 240 };
my $rounds = $ENV{LLM_TEST_LONG} ? 25 : 3;

my $n = LLM::Nginx->new(workers => WORKERS);
$n->conf(<<"EOC");
    log_format pid '\$pid \$request_id \$status';
    access_log %%DIR%%/access.log pid;
    llm_model m { weights "$model"; context 512; }
    server {
        listen 127.0.0.1:%%PORT%% reuseport;
        location / { llm_pass m; }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port, timeout => LIMIT);

my @requests = map { {
    inputs => "Tale number $_. Once upon a time there was",
    parameters => { max_new_tokens => TOKENS, do_sample => JSON::PP::true, seed => 1000 + $_, temperature => 1.2,
        details => JSON::PP::true },
} } 1 .. STREAMS;

my @alone = map { $http->post('/generate_stream', $_) } @requests;
is scalar(grep { $_->complete && $_->status == 200 } @alone), STREAMS, 'every stream alone';
my @want = map { $_->body } @alone;

my ($whole, $cut, $same) = (0, 0, 0);
for my $round (1 .. $rounds) {
    my @x = map { $http->send(POST => '/generate_stream', json => $_) } @requests;
    $x[0]->wait_until(sub { @{ $x[0]->events } >= 3 + $round % 7 }, 60);
    my @workers = $n->workers;
    my $victim = $workers[ $round % @workers ];
    $n->kill_pid(KILL => $victim);
    LLM::HTTP::wait_all(LIMIT, @x);
    for my $i (0 .. $#x) {
        if (!$x[$i]->complete) { $cut++; next }
        $whole++;
        $same += $x[$i]->body eq $want[$i];
    }
    my @odd = grep { !$_->complete && $_->error !~ /^(?:closed early|reset)$/ } @x;
    ok !@odd, "round $round: a stream is whole or cut with its worker" or diag map { $_->error . "\n" } @odd;
    ok $n->wait_for(sub { !grep({ $_ == $victim } $n->workers) && $n->workers == WORKERS }, 20), 'a new worker came';
}
is $same, $whole, "$whole whole streams are those of a calm server, byte by byte";
cmp_ok $whole, '>=', $rounds * STREAMS / 3, 'most streams live on other workers';
note "$cut streams went down with their worker";

ok $n->wait_for(sub { $http->get('/metrics')->body =~ /^tgi_batch_current_size(?:\{[^}]*\})? 0$/m }, 20),
    'sequences of dead workers are gone';
my $last = $http->post('/generate_stream', $requests[0]);
is $last->body, $want[0], 'and the server is as new';
$n->stop(allow => qr/exited on signal 9/);

done_testing;
