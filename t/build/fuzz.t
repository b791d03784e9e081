# fuzz.t - each fuzzer of t/fuzz runs for some seconds under the sanitizers and finds nothing.  The head comment of a
# fuzzer names its limits and the folders of its seeds.  LLM_TEST_LONG makes it ten minutes each.

use strict;
use warnings;
use lib 't/lib';

use File::Temp ();
use Test::More;

use LLM::Nginx;

my @sources = glob 't/fuzz/*.c';
plan skip_all => 'no fuzzers' unless @sources;
LLM::Nginx::skip_all('no clang') if system 'clang --version > /dev/null 2>&1';

my $seconds = $ENV{LLM_TEST_LONG} ? 600 : 12;
my $out = `make -s fuzz 2>&1`;
is $?, 0, 'make fuzz' or diag substr $out, -3000;

for my $source (@sources) {
    my ($name) = $source =~ m{([^/]+)\.c$};
    open my $f, '<', $source or die "$source: $!\n";
    my ($head) = do { local $/; <$f> } =~ m{^/\*(.*?)\*/}s;
    my @limits = $head =~ /(-(?:max_len|timeout|rss_limit_mb|dict)=[\w\/.]+)/g;
    my @seeds  = $head =~ m{\s(t/fixtures/[\w/.-]+)}g;
    ok @limits && @seeds, "$name names limits and seeds";
    my $corpus = File::Temp::tempdir(CLEANUP => 1);
    my $log = `build-fuzz/$name -max_total_time=$seconds @limits -artifact_prefix=$corpus/ $corpus @seeds 2>&1`;
    my $rc = $?;
    is $rc, 0, "$name finds nothing in $seconds s" or diag substr $log, -4000;
    my ($runs) = $log =~ /Done (\d+) runs/;
    cmp_ok $runs || 0, '>', 0, "$name ran" and note "$name: $runs runs";
}

done_testing;
