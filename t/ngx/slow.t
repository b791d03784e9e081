# slow.t - clients that do not read: they cost one burst of memory and are timed out; others do not notice them.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;
use Time::HiRes qw(time sleep);

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my $true = JSON::PP::true;
my $n = LLM::Nginx->new(workers => 1);
$n->conf(<<'EOC');
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 60000; kv_cache 200m; slots 16; }
    server {
        listen 127.0.0.1:%%PORT%% sndbuf=16k;
        location / { llm_pass m; send_timeout 60s; }
        location /impatient/ { llm_pass m; send_timeout 1s; }
        location /limited/ { llm_pass m; limit_rate 200k; }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);
my %long = (inputs => 'A', parameters => { max_new_tokens => 4_000, ignore_eos => $true });
my $want = $http->post('/generate_stream', \%long)->body;

sub metric {
    my ($v) = $http->get('/metrics')->body =~ /^\Q$_[0]\E\{model="m"[^}]*\} (\S+)$/m;
    return $v;
}

subtest 'a slow reader' => sub {
    my $anon = sub { my ($pid) = $n->workers; my ($kb) = do { local (@ARGV, $/) = "/proc/$pid/status"; <> } =~ /RssAnon:\s+(\d+)/; $kb };
    my @slow = map { $http->send(POST => '/generate_stream', json => \%long, rcvbuf => 4096) } 1 .. 4;
    ok $n->wait_for(sub { metric('tgi_batch_current_size') == 0 }, 60), 'the engine has long finished';
    my $before = $anon->();
    my $x = $http->post('/generate_stream', { inputs => 'B', parameters => { max_new_tokens => 50 } });
    ok $x->complete && $x->elapsed < 5, 'another client is served meanwhile';
    sleep 0.5;
    ok $anon->() - $before < 2_000, 'waiting costs nothing' or diag $before, ' ', $anon->();
    is metric('llm_slots') - 16, 0, 'slots';
    $_->slow(4096, 0.002, 0.2) for @slow[ 0 .. 1 ];
    is LLM::HTTP::wait_all(60, @slow), 4, 'all complete once they read';
    is scalar(grep { $_->body ne $want } @slow), 0, 'with all their bytes';
};

subtest 'a reader that never reads' => sub {
    my $x = $http->send(POST => '/impatient/generate_stream', json => \%long, rcvbuf => 4096);
    ok $n->wait_log(qr/client timed out/, 20), 'is timed out after send_timeout';
    ok $n->wait_for(sub { metric('tgi_batch_current_size') == 0 }), 'its place is free';
    $x->wait(10);
    ok !$x->complete, 'its stream is cut';
};

subtest 'limit_rate' => sub {
    my $x = $http->request(POST => '/limited/generate_stream', json => { inputs => 'A',
        parameters => { max_new_tokens => 3_000, ignore_eos => $true } });
    ok $x->complete, 'completes' or diag $x->error;
    ok $x->elapsed > 1, 'slowly' or diag $x->elapsed;
    is scalar @{ $x->events }, 3_000, 'with all events';
};

$n->stop;
undef $n;
done_testing;
