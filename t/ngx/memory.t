# memory.t - one worker or four, the memory of all processes stays within the model's file, the KV cache and a tenth of
# both: with a full cache, and after steps of as many prompt tokens and streams as there can be.  Code does not count:
# its pages are those of files that other programs may use, too.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();
my $model = LLM::Nginx::real_model() or LLM::Nginx::skip_all('no real model (LLM_TEST_MODEL)');
plan skip_all => 'sanitizers take memory of their own' if $ENV{LLM_TEST_SAN};

my ($mib, $streams) = (256, 64);

sub body {
    my ($i) = @_;
    return { inputs => "$i " . 'word of a long story that tells ' x 14, parameters => { max_new_tokens => 8,
        ignore_eos => JSON::PP::true } };
}

# kilobytes of a process and its children, a page that several have counted once; undef: the kernel does not tell
sub kilobytes {
    my ($pid) = @_;
    open my $f, '<', "/proc/$pid/smaps_rollup" or return undef;
    my %kb = map { /^(\w+): +(\d+) kB/ ? ($1 => $2) : () } <$f>;
    return undef unless defined $kb{Pss_Anon} && defined $kb{Pss_Shmem};
    my $sum = $kb{Pss_Anon} + $kb{Pss_Shmem};
    open my $c, '<', "/proc/$pid/task/$pid/children" or return undef;
    for my $child (split ' ', <$c> // '') {
        $sum += kilobytes($child) // return undef;
    }
    return $sum;
}

for my $workers (1, 4) {
    my $n = LLM::Nginx->new(workers => $workers);
    $n->conf(<<"EOC");
    llm_model m { weights $model; context 4096; kv_cache ${mib}m; parallel $streams; threads 2; }
    server { listen 127.0.0.1:%%PORT%%; location / { llm_pass m; llm_max_concurrent_requests 256; } }
EOC
    $n->start;
    my $http = LLM::HTTP->new(port => $n->port);
    for my $round (1, 2) {
        my @x = map { $http->send(POST => '/generate', json => body("$workers$round$_")) } 1 .. $streams;
        LLM::HTTP::wait_all(120, @x);
        is scalar(grep { ($_->status // 0) == 200 } @x), $streams, "$workers workers, round $round: all have their answers";
    }
    my ($total, $free) = map { $http->get('/metrics')->body =~ /^llm_pages_$_\{model="m"\} (\d+)/m } qw(total free);
    cmp_ok $free, '<=', $total / 10, "$workers workers: the cache is full";
    my $kb = kilobytes($n->pid);
    SKIP: {
        skip 'no Pss_Anon and Pss_Shmem in smaps_rollup', 1 unless defined $kb;
        my $most = 1.1 * ((-s $model) / 1024 + $mib * 1024);
        cmp_ok $kb, '<=', $most, "$workers workers: kilobytes of all processes";
    }
    $n->stop;
}

done_testing;
