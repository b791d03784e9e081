# workers.t - four workers, one batch: 32 streams at once get the bytes that each gets alone, also when the leading worker
# is killed in the middle; the master respawns it, and nothing is lost but its own connections.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;
use Time::HiRes qw(sleep);

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my $true = JSON::PP::true;

sub conf { return <<'EOC' }
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 2000; kv_cache 64m; }
    server {
        listen 127.0.0.1:%%PORT%% reuseport;
        location / { llm_pass m; }
    }
EOC

# different prompts and lengths; two share a long beginning
sub body {
    my ($i) = @_;
    return { inputs => 'Tell me ' x ($i % 7) . "about $i.", parameters => { max_new_tokens => 40 + 11 * ($i % 5),
        do_sample => $i % 4 ? $true : JSON::PP::false, temperature => 1.3, seed => $i, ignore_eos => $true, details => $true } };
}

my $n = LLM::Nginx->new(workers => 1);
$n->conf(conf());
$n->start;
my $http = LLM::HTTP->new(port => $n->port);
my @alone = map { $http->post('/generate_stream', body($_))->body } 1 .. 32;
is scalar(grep { length } @alone), 32, 'alone, one after another, one worker';
$n->stop;
undef $n;

$n = LLM::Nginx->new(workers => 4);
$n->conf(conf());
$n->start;
$http = LLM::HTTP->new(port => $n->port);

sub metric {
    my ($v) = $http->get('/metrics')->body =~ /^\Q$_[0]\E\{model="m"\} (\S+)$/m;
    return $v;
}

ok $n->wait_for(sub { metric('llm_workers') == 4 }), 'four workers in one engine';

for my $round (1 .. 2) {
    my @x = map { $http->send(POST => '/generate_stream', json => body($_)) } 1 .. 32;
    is LLM::HTTP::wait_all(60, @x), 32, "round $round: 32 streams at once complete";
    is scalar(grep { $x[$_]->body ne $alone[$_] } 0 .. 31), 0, 'with the bytes that they have alone';
}

my %long = (inputs => 'A', parameters => { max_new_tokens => 1900, ignore_eos => $true, do_sample => $true, seed => 1 });
my $want = $http->post('/generate_stream', \%long)->body;

# Which worker a connection has cannot be seen, so many streams are opened; those of the killed worker end early, the others
# must not notice anything.
for my $round (1 .. 3) {
    subtest "the leading worker is killed, $round" => sub {
        ok my $leader = $n->wait_for(sub { metric('llm_leader_pid') }), 'a leader';
        my ($takeovers, $before) = (metric('llm_engine_takeovers'), scalar(my @w = $n->workers));
        my @x = map { $http->send(POST => '/generate_stream', json => \%long) } 1 .. 24;
        $_->event(20) for @x;
        ok !(grep { $_->{done} } @x), 'all are in the middle' or return;
        $n->kill_pid(KILL => $leader);
        LLM::HTTP::wait_all(60, @x);
        my @lost = grep { !$_->complete } @x;
        ok @lost < 24, 'streams of other workers go on: ' . (24 - @lost);
        is scalar(grep { $_->complete && $_->body ne $want } @x), 0, 'with the same bytes to the end';
        is scalar(grep { $_->error eq 'timeout' } @lost), 0, 'none hangs';
        ok $n->wait_for(sub { metric('llm_engine_takeovers') > $takeovers }), 'a takeover was counted';
        ok $n->wait_for(sub { $n->workers == $before }), 'the worker is back';
        ok $n->wait_for(sub { metric('tgi_batch_current_size') == 0 && metric('tgi_queue_size') == 0 }), 'its jobs are gone';
        is $http->post('/generate_stream', \%long)->body, $want, 'and everything works';
    };
}

subtest 'a worker that does not lead is killed' => sub {
    my $leader = $n->wait_for(sub { metric('llm_leader_pid') });
    my ($victim) = grep { $_ != $leader } $n->workers;
    my @x = map { $http->send(POST => '/generate_stream', json => \%long) } 1 .. 12;
    $_->event(20) for @x;
    $n->kill_pid(KILL => $victim);
    LLM::HTTP::wait_all(60, @x);
    is scalar(grep { $_->complete && $_->body ne $want } @x), 0, 'the others do not notice';
    is metric('llm_leader_pid'), $leader, 'the leader stays';
    ok $n->wait_for(sub { metric('tgi_batch_current_size') == 0 }), 'its jobs are dropped';
};

$n->stop(allow => qr/exited on signal 9/);
undef $n;
done_testing;
