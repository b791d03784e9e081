#!/usr/bin/perl
# static.pl - latency of a static file from the nginx that generates, idle and under streams, in one run.
#
# One client asks for a small file every few milliseconds over a kept connection and notes how long each answer took;
# meanwhile another process keeps N streams going.  Phases alternate (idle, streams, idle, ...) so that a change of the
# machine's mood meets both.  Prints p50, p99, maximum and the ratio of the p99s.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../t/lib";

use Getopt::Long;
use JSON::PP;
use Test::More;     # what LLM::Nginx reports with
use Time::HiRes qw(time sleep);

BEGIN { chdir "$FindBin::Bin/.." or die }
use LLM::HTTP;
use LLM::Nginx;

my $usage = <<'END';
Usage: ./bench/run --static [OPTION...]

  --streams N      streams that are kept going (8)
  --prompt-words N words in each prompt (8)
  --threads N      compute threads (what `threads auto` gives)
  --workers N      worker processes (2)
  --seconds N      of each phase (10)
  --rounds N       phases of each kind (3)
  --pause S        seconds between two requests of the file (0.005)
  --json FILE      also writes the numbers there
END
my %o = (streams => 8, seconds => 10, rounds => 3, workers => 2, pause => 0.005, 'prompt-words' => 8);
GetOptions(\%o, qw(help model=s streams=i prompt-words=i seconds=i rounds=i workers=i pause=f json=s threads=i)) or die $usage;
print($usage), exit 0 if $o{help};
die "--model FILE is needed\n" unless $o{model};

my $n = LLM::Nginx->new(workers => $o{workers}, level => 'notice');
my $threads = $o{threads} ? "threads $o{threads};" : '';
$n->conf(<<"EOC");
    access_log off;
    llm_model m { weights "$o{model}"; context 4096; $threads }
    server {
        listen 127.0.0.1:%%PORT%%;
        keepalive_requests 1000000;
        location / { llm_pass m; }
        location /static/ { alias %%DIR%%/html/; }
    }
EOC
$n->write_file('html/page.html', '<p>' . 'x' x 4000 . '</p>');
$n->start;
my $http = LLM::HTTP->new(port => $n->port, timeout => 120);

my (%ms, $tokens, $stream_seconds, $warned);
for my $round (1 .. $o{rounds}) {
    push @{ $ms{idle} }, probe();
    my ($child, $read) = streams();
    sleep 1;    # prompts are in, tokens flow
    my $start = time;
    push @{ $ms{busy} }, probe();
    kill 'TERM', $child;
    my $seen = <$read>;
    waitpid $child, 0;
    die "no token was generated while the file was served\n" unless $seen;
    $tokens += $seen;
    $stream_seconds += time - $start;
    sleep 0.5;
}
$n->stop;
die "nginx's log is not clean\n" unless Test::More->builder->is_passing;
done_testing;

printf "\n%s, %d workers, %d streams, %d rounds of %d s; a file of 4 KB every %g ms, in milliseconds\n\n",
    $o{model} =~ m{([^/]+)$}, @o{qw(workers streams rounds seconds)}, $o{pause} * 1000;
printf "%-10s %8s %8s %8s %8s\n", '', 'p50', 'p99', 'max', 'requests';
my %p;
for my $phase (qw(idle busy)) {
    my @s = sort { $a <=> $b } @{ $ms{$phase} };
    $p{$phase} = { p50 => $s[ @s / 2 ], p99 => $s[ @s * 0.99 ], max => $s[-1], n => scalar @s };
    printf "%-10s %8.3f %8.3f %8.3f %8d\n", $phase eq 'busy' ? 'streaming' : $phase, @{ $p{$phase} }{qw(p50 p99 max n)};
}
my $ratio = $p{busy}{p99} / $p{idle}{p99};
printf "\np99 streaming / idle: %.2f   (events while it was measured: about %.0f a second)\n", $ratio, $tokens / $stream_seconds;
if ($o{json}) {
    open my $f, '>', $o{json} or die "$o{json}: $!\n";
    print {$f} JSON::PP->new->canonical->pretty->encode({ %p, ratio => $ratio });
}

# Latencies of one phase in milliseconds.  The client stands for one on another machine: it must not wait for a core
# itself, so it asks for a real-time priority while it measures.
sub probe {
    my @got;
    my $alone = system("chrt -f -p 1 $$ 2> /dev/null") == 0;
    warn "no right to a real-time priority: the times are also those of the client\n" unless $alone || $warned++;
    my $x;
    my $end = time + $o{seconds};
    while (time < $end) {
        my $start = time;
        $x = $http->request(GET => '/static/page.html', keep => 1, $x ? (on => $x) : ());
        die "static file: " . ($x->error || $x->status) . "\n" unless $x->complete && $x->status == 200;
        push @got, (time - $start) * 1000;
        sleep $o{pause};
    }
    system("chrt -o -p 0 $$") if $alone;
    return @got;
}

# The i-th prompt: no two share a beginning.
sub prompt {
    my $i = shift;
    my @words = qw(once upon a time there was river that nobody had seen before night fell over old town);
    return join ' ', "Story number $i:", map { $words[ $_ * ($i + 7) % @words ] } 1 .. $o{'prompt-words'};
}

# A process that keeps the streams going until TERM, then writes how many events it saw.
sub streams {
    pipe my $read, my $write or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";
    return ($pid, $read) if $pid;
    my $stop = 0;
    $SIG{TERM} = sub { $stop = 1 };
    my ($seen, $i, @open) = (0, 0);
    while (!$stop) {
        while (@open < $o{streams}) {
            push @open, $http->send(POST => '/generate_stream', json =>
                { inputs => prompt(++$i), parameters => { max_new_tokens => 400 } });
        }
        my $set = IO::Select->new(map { $_->{sock} } @open);
        $set->can_read(0.2);
        $_->pump(0) for @open;
        for my $x (grep { $_->{done} } @open) { $seen += @{ $x->events } }
        @open = grep { !$_->{done} } @open;
    }
    $seen += @{ $_->events } for @open;
    syswrite $write, "$seen\n";
    require POSIX;
    POSIX::_exit(0);
}
