# reload.t - reload and quit in the middle of streams: they end as if nothing had been; an unchanged model is not read again,
# a changed one lives beside the old one, one that fails leaves everything as it was.

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
my $n = LLM::Nginx->new(workers => 2);
my $fixtures = "$LLM::Nginx::ROOT/t/fixtures/gguf";

sub http_conf {
    my ($file, $more, $context) = @_;
    $context ||= 60_000;
    return <<"EOC";
    llm_model m { weights $file; context $context; kv_cache 200m; slots 16; }
    server { listen 127.0.0.1:%%PORT%%; location / { llm_pass m; @{[$more || '']} } }
EOC
}

$n->conf(http_conf("$fixtures/llama-F32.gguf"));
$n->start;
my $http = LLM::HTTP->new(port => $n->port);

sub body {
    my ($seed, $count) = @_;
    return { inputs => 'A', parameters => { max_new_tokens => $count || 6_000, ignore_eos => $true, do_sample => $true,
        seed => $seed, details => $true } };
}

sub loaded { return scalar(() = $n->log =~ /MB of weights loaded/g) }

# of a stream, without decoding all its events
sub text {
    my ($x) = @_;
    my $last = $x->events->[-1] or return $x->body;
    return $LLM::HTTP::JSON->decode($last->{data})->{generated_text};
}

# Old workers accept until the master has told them to quit; waits until /info shows the new configuration.
sub reloaded {
    my ($key, $value, @conf) = @_;
    return 0 unless $n->reload(@conf);
    return $n->wait_for(sub { ($http->get('/info')->json->{$key} || '') eq $value });
}


my @want = map { text($http->post('/generate_stream', body($_))) } 1 .. 2;
is loaded(), 1, 'loaded once, for two workers';

subtest 'reload in the middle of streams' => sub {
    my @old = $n->workers;
    my @x = map { $http->send(POST => '/generate_stream', json => body($_)) } 1, 2;
    $_->event(10) for @x;
    ok reloaded(model_id => 'renamed', http_conf("$fixtures/llama-F32.gguf", 'llm_model_id renamed;')), 'a new generation serves';
    ok !(grep { $_->{done} } @x), 'while the streams go on';
    my $new = $http->send(POST => '/generate_stream', json => body(1));
    is LLM::HTTP::wait_all(60, @x, $new), 3, 'all streams complete';
    is_deeply [ map { text($_) } @x, $new ], [ @want, $want[0] ], 'with the same text';
    is loaded(), 1, 'the model was not read again';
    ok $n->wait_for(sub { my %now = map { $_ => 1 } $n->workers; !grep { $now{$_} } @old }, 10), 'the old workers have gone';
};

subtest 'a worker that quits with a request before its first token' => sub {
    my $x = $http->send(POST => '/generate', json => body(1));
    sleep 0.05;
    ok $n->reload, 'reload';
    $x->wait;
    is $x->status, 200, 'it is answered' or diag $x->error;
    is $x->json->{generated_text}, $want[0], 'in full';
};

subtest 'another model' => sub {
    my $x = $http->send(POST => '/generate_stream', json => body(2));
    $x->event(10);
    ok reloaded(model_dtype => 'Q4_1', http_conf("$fixtures/smollm2-Q4_1.gguf", '', 256)), 'reload';
    is loaded(), 2, 'it was loaded';
    is $http->post('/generate', body(1, 5))->status, 200, 'text too';
    is text($x->wait), $want[1], 'the stream of the old one ends';
    ok reloaded(model_dtype => 'F32', http_conf("$fixtures/llama-F32.gguf")), 'and back';
    is loaded(), 3, 'loaded again';
    is text($http->post('/generate_stream', body(1))), $want[0], 'the same text';
};

subtest 'the same file with other settings is another instance' => sub {
    ok reloaded(max_total_tokens => 50_000, http_conf("$fixtures/llama-F32.gguf", '', 50_000)), 'reload';
    is loaded(), 4, 'loaded';
};

subtest 'memory does not grow with reloads' => sub {
    my $rss = sub { my ($kb) = do { local (@ARGV, $/) = "/proc/@{[$n->pid]}/smaps_rollup"; <> } =~ /^Rss:\s+(\d+)/m; $kb };
    my $maps = sub { my $t = do { local (@ARGV, $/) = "/proc/@{[$n->pid]}/maps"; <> }; scalar(() = $t =~ /\n/g) };
    my @fds;
    my ($first, $mapped);
    for my $i (1 .. 6) {
        ok $n->reload(http_conf("$fixtures/llama-F32.gguf", '', 40_000 + 100 * $i)), "reload $i";
        $n->wait_for(sub { $n->workers == 2 });
        push @fds, scalar(() = glob "/proc/@{[$n->pid]}/fd/*");
        ($first, $mapped) = ($rss->(), $maps->()) if $i == 2;
    }
    ok abs($fds[-1] - $fds[1]) < 20, 'descriptors: a model has 64' or diag "@fds";
    ok abs($maps->() - $mapped) < 10, 'mappings' or diag $maps->(), ' ', $mapped;
    ok $ENV{LLM_TEST_SAN} || $rss->() < $first + 8_000, 'resident memory' or diag $first, ' ', $rss->();
};

subtest 'a reload that fails' => sub {
    my $x = $http->send(POST => '/generate_stream', json => body(1, 3000));
    $x->event(10);
    my @workers = $n->workers;
    ok !$n->reload(http_conf('/nowhere/model.gguf')), 'no such file';
    ok !$n->reload(http_conf("$LLM::Nginx::ROOT/t/fixtures/malformed/bad_magic.gguf")), 'no GGUF';
    is_deeply [ $n->workers ], \@workers, 'the workers stay';
    is $http->post('/generate', body(1, 5))->status, 200, 'and serve';
    ok $x->wait->complete, 'the stream ends';
    like $n->log, qr/"weights" cannot be used: \/nowhere\/model.gguf: No such file.* in .*nginx.conf:\d+/, 'file and line in the log';
};

subtest 'quit' => sub {
    ok reloaded(max_total_tokens => 60_000, http_conf("$fixtures/llama-F32.gguf")), 'reload';
    my $x = $http->send(POST => '/generate_stream', json => body(2));
    $x->event(10);
    kill 'QUIT', $n->pid;
    is text($x->wait), $want[1], 'the stream ends first';
};

$n->stop(allow => qr/\[emerg\].*(?:nowhere|bad_magic)/);
undef $n;
done_testing;
