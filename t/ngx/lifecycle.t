# lifecycle.t - the ways nginx runs and ends: as a daemon, in one process, with worker_shutdown_timeout, ended by TERM in the
# middle of streams; and what "nginx -s" must not do.

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
my %long = (inputs => 'A', parameters => { max_new_tokens => 90_000, ignore_eos => $true });
my $gguf = "$LLM::Nginx::ROOT/t/fixtures/gguf/llama-F32.gguf";

sub conf {
    my ($context) = @_;
    return <<"EOC";
    llm_model m { weights $gguf; context $context; kv_cache 400m; }
    server { listen 127.0.0.1:%%PORT%%; location / { llm_pass m; } }
EOC
}

sub text_of { my ($path) = @_; open my $f, '<', $path or return ''; local $/; return scalar <$f> }

subtest 'daemon' => sub {
    plan skip_all => 'starts nginx itself' if $ENV{LLM_TEST_SAN};
    my $n = LLM::Nginx->new(workers => 2);
    my $run = sub {
        my ($context) = @_;
        $n->conf(conf($context));
        (my $text = $n->read_file('nginx.conf')) =~ s/daemon off;//;
        $n->write_file('nginx.conf', $text);
    };
    my @cmd = (LLM::Nginx::nginx_bin(), '-p', $n->dir, '-c', $n->conf_path, '-e', $n->dir . '/error.log');
    $run->(10_000);
    is system(@cmd), 0, 'starts and returns' or diag $n->log;
    my $pid = $n->wait_for(sub { (text_of($n->dir . '/nginx.pid') =~ /(\d+)/)[0] });
    my $http = LLM::HTTP->new(port => $n->port);
    my %short = (inputs => 'A', parameters => { max_new_tokens => 3 });
    my $want = $http->post('/generate', \%short);
    is $want->status, 200, 'serves';
    my (@fds, @maps);
    my $children = sub { scalar(() = text_of("/proc/$pid/task/$pid/children") =~ /\d+/g) };
    for my $i (1 .. 4) {
        $run->(10_000 + $i);
        is system("@cmd -s reload 2>/dev/null"), 0, "nginx -s reload, $i";
        ok $n->wait_for(sub { (($http->get('/info')->json || {})->{max_total_tokens} || 0) == 10_000 + $i }), 'a new model serves';
        ok $n->wait_for(sub { $children->() == 2 }), 'the old workers have ended';
        push @fds, scalar(() = glob "/proc/$pid/fd/*");
        push @maps, scalar(() = text_of("/proc/$pid/maps") =~ /\n/g);
    }
    ok abs($fds[-1] - $fds[0]) < 20, 'no descriptors are left behind' or diag "@fds";
    ok abs($maps[-1] - $maps[0]) < 10, 'no mappings either' or diag "@maps";
    is $http->post('/generate', \%short)->body, $want->body, 'still the same';
    my $loaded = () = $n->log =~ /weights loaded/g;
    is $loaded, 5, 'loaded once for each, not by the signallers';
    my $before = length $n->log;
    is system("@cmd -s quit 2>/dev/null"), 0, 'nginx -s quit';
    ok $n->wait_for(sub { !-e "/proc/$pid" }), 'ends';
    unlike substr($n->log, $before), qr/\[(?:alert|emerg|crit)\]/, 'quietly';
};

subtest 'one process, for development' => sub {
    my $n = LLM::Nginx->new(workers => 0, main => 'master_process off;');
    $n->conf(conf(10_000));
    (my $text = $n->read_file('nginx.conf')) =~ s/worker_processes 0;//;
    $n->write_file('nginx.conf', $text);
    $n->start;
    my $http = LLM::HTTP->new(port => $n->port);
    my %short = (inputs => 'A', parameters => { max_new_tokens => 3 });
    my $x = $http->post('/generate_stream', \%short);
    is scalar @{ $x->events }, 3, 'serves';
    $n->stop;
};

subtest 'worker_shutdown_timeout' => sub {
    my $n = LLM::Nginx->new(workers => 2, main => 'worker_shutdown_timeout 500ms;');
    $n->conf(conf(100_000));
    $n->start;
    my $http = LLM::HTTP->new(port => $n->port);
    my @x = map { my $x = $http->send(POST => '/generate_stream', json => \%long); $x->event(10); $x } 1 .. 2;
    my $waits = $http->send(POST => '/generate', json => \%long);
    sleep 0.1;
    my $start = time;
    kill 'QUIT', $n->pid;
    LLM::HTTP::wait_all(20, @x, $waits);
    ok time - $start < 15, 'ends in spite of streams';
    is scalar(grep { $_->complete } @x, $waits), 0, 'which are cut';
    $n->stop;
};

subtest 'TERM in the middle of streams' => sub {
    my $n = LLM::Nginx->new(workers => 2);
    $n->conf(conf(100_000));
    $n->start;
    my $http = LLM::HTTP->new(port => $n->port);
    my @x = map { my $x = $http->send(POST => '/generate_stream', json => \%long); $x->event(10); $x } 1 .. 3;
    my $start = time;
    $n->stop(signal => 'TERM');
    ok time - $start < 10, 'is quick';
};

subtest 'workers with one core each' => sub {
    my $n = LLM::Nginx->new(workers => 2, main => 'worker_cpu_affinity 01 10; worker_priority 5;');
    $n->conf(conf(10_000));
    $n->start;
    is(LLM::HTTP->new(port => $n->port)->post('/generate', { inputs => 'A', parameters => { max_new_tokens => 3 } })->status, 200,
        'serve');
    $n->stop;
};

done_testing;
