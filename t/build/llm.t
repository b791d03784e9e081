# llm.t - the llm program: help, exit status, and that each command prints what it promises.

use strict;
use warnings;

use Encode ();
use JSON::PP;
use Test::More;

my $LLM = $ENV{LLM_TEST_PROGRAM} // ($ENV{LLM_TEST_SAN} ? 'build-san' : 'build') . '/llm';
my $GGUF = 't/fixtures/gguf';
plan skip_all => "$LLM is not built" unless -x $LLM || $ENV{LLM_TEST_STRICT};

# (status, stdout, stderr) of a command; input: text for its standard input
sub llm {
    my ($args, $input) = @_;
    my $pid = open(my $out, '-|') // die "fork: $!";
    if ($pid == 0) {
        open(STDERR, '>', "/tmp/llm-t-$$.err") or die;
        if (defined $input) {
            open(my $in, '|-', $LLM, @$args) or die;
            print {$in} $input;
            close($in);
            exit($? >> 8);
        }
        exec($LLM, @$args) or die;
    }
    local $/;
    my $text = <$out> // '';
    close($out);
    my $status = $?;
    open(my $f, '<', "/tmp/llm-t-$pid.err") or die;
    my $err = <$f> // '';
    close($f);
    unlink("/tmp/llm-t-$pid.err");
    return ($status & 127 ? "signal $status" : $status >> 8, $text, $err);
}

sub slurp {
    my ($path) = @_;
    open(my $f, '<', $path) or die "$path: $!";
    local $/;
    return <$f>;
}

my $expected = JSON::PP->new->utf8->decode(slurp("$GGUF/llama-F32.expected.json"));
my $case = $expected->{cases}[0];

subtest 'help and usage' => sub {
    my ($status, $out, $err) = llm(['--help']);
    is($status, 0, 'help');
    my @commands = $out =~ /^  (\w+) +\S.*$/mg;
    is_deeply([sort grep { $_ ne 'llm' } @commands], [qw(bench inspect logprobs run tokenize)], 'lists the commands');
    for my $c (qw(bench inspect logprobs run tokenize)) {
        ($status, $out, $err) = llm([$c, '--help']);
        is($status, 0, "$c --help");
        like($out, qr/^Usage: llm $c FILE.*^Example: llm $c model\.gguf/ms, 'shows usage and an example');
        ok((!grep { length > 100 } split(/\n/, $out)), 'fits a terminal');
        ($status, $out, $err) = llm([$c, '--no-such-option']);
        is($status, 2, "$c with a wrong option");
        like($err, qr/Try 'llm $c --help'/, 'says where help is');
        ($status) = llm([$c]);
        is($status, 2, "$c without a file");
        ($status, $out, $err) = llm([$c, 'no/such/file', $c =~ /run|logprobs/ ? ('-p', 'x') : ()]);
        is($status, 1, "$c of a missing file");
        is($err, "llm $c: no/such/file: No such file or directory\n", 'one line on stderr') ;
        is($out, '', 'nothing on stdout');
    }
    ($status, $out, $err) = llm(['fly']);
    is($status, 2, 'no such command');
    ($status, $out, $err) = llm([]);
    is($status, 2, 'no command');
    for my $bad (['-n', '0'], ['-n', 'x'], ['--temp', '-1'], ['--top-p', '2'], ['--kv', 'q8'], ['-t', '99999']) {
        ($status, $out, $err) = llm(['run', 'x.gguf', '-p', 'x', @$bad]);
        is($status, 2, "run @$bad");
    }
    ($status, $out, $err) = llm(['run', 'x.gguf', '-p', 'x', '-f', 'y']);
    is($status, 2, 'two prompts');
};

subtest 'inspect' => sub {
    my ($status, $out, $err) = llm(['inspect', "$GGUF/llama-F32.gguf", '--tensors', '--keys', '--ctx', '64', '--kv', 'f32']);
    is($status, 0, 'a supported model');
    like($out, qr/^architecture  llama$/m, 'architecture');
    like($out, qr/^layers        2 of width 32; 4 heads of 8, 2 key\/value heads$/m, 'shape');
    # 2 layers, 2 heads, keys and values, 8 floats
    like($out, qr/context of 64 tokens \(256 bytes each in f32\)/, 'memory of a token');
    like($out, qr/^supported     yes$/m, 'supported');
    like($out, qr/^  F32    32 x 448 +57344  token_embd\.weight$/m, 'tensors');
    like($out, qr/^  llama\.block_count  2$/m, 'keys');
    ($status, $out, $err) = llm(['inspect', 't/fixtures/malformed/unsupported_architecture.gguf']);
    is($status, 1, 'another architecture');
    like($out, qr/^supported     no: .*architecture "no-such-model" is not supported$/m, 'says why');
    ($status, $out, $err) = llm(['inspect', 't/fixtures/malformed/overlap.gguf']);
    is($status, 1, 'a malformed file');
    like($err, qr/^llm inspect: \S+overlap\.gguf: tensors "a" and "b" overlap at byte \d+$/, 'says why');
};

subtest 'tokenize' => sub {
    my $prompt = Encode::encode('UTF-8', $case->{prompt});
    my $want = join(',', @{ $case->{input_ids} });
    my ($status, $out) = llm(['tokenize', "$GGUF/llama-F32.gguf", $prompt, '--ids']);
    is($out, "$want\n", 'ids of an argument');
    ($status, $out) = llm(['tokenize', "$GGUF/llama-F32.gguf", '--ids'], $prompt);
    is($out, "$want\n", 'ids of standard input');
    ($status, $out) = llm(['tokenize', "$GGUF/llama-F32.gguf", $prompt]);
    is(scalar(split(/\n/, $out)), scalar(@{ $case->{input_ids} }), 'one line a token');
};

subtest 'logprobs' => sub {
    local $ENV{LLM_KERN} = 'ref';
    my $ids = join(',', @{ $case->{input_ids} });
    my ($status, $out, $err) = llm(['logprobs', "$GGUF/llama-F32.gguf", '--tokens', $ids, '-n', '24', '--top', '3', '-t', '1']);
    is($status, 0, 'works') or diag($err);
    my $got = eval { JSON::PP->new->utf8->decode($out) } or return fail("JSON: $@");
    is_deeply($got->{input_ids}, $case->{input_ids}, 'prompt');
    is_deeply($got->{greedy}{ids}, $case->{greedy}{ids}, 'greedy tokens');
    my $worst = 0;
    for my $pair ([$got->{prompt_logprobs}, $case->{prompt_logprobs}], [$got->{greedy}{logprobs}, $case->{greedy}{logprobs}]) {
        my ($g, $w) = @$pair;
        is(scalar @$g, scalar @$w, 'as many');
        for my $i (grep { defined $w->[$_] } 0 .. $#$w) {
            my $off = abs($g->[$i] - $w->[$i]);
            $worst = $off if $off > $worst;
        }
    }
    cmp_ok($worst, '<', 5e-4, "log-probabilities (worst $worst)");
    ok(!defined $got->{prompt_logprobs}[0], 'none for the first token');
    is(scalar @{ $got->{greedy}{top}[0] }, 3, 'alternatives');
    is($got->{greedy}{top}[0][0][0], $got->{greedy}{ids}[0], 'the best is the greedy one');
    ($status, $out, $err) = llm(['logprobs', "$GGUF/llama-F32.gguf", '--tokens', '1,99999']);
    is($status, 1, 'a token that does not exist');
    like($err, qr/99999/, 'is named');
    ($status, $out, $err) = llm(['logprobs', "$GGUF/llama-F32.gguf", '--tokens', '1,,2']);
    is($status, 2, 'a list that is none');
};

subtest 'run' => sub {
    local $ENV{LLM_KERN} = 'ref';
    my $bytes = JSON::PP->new->utf8->decode(slurp("$GGUF/smollm2-Q4_1.expected.json"))->{cases}[0];     # a byte-level tokenizer
    my @run = ('run', "$GGUF/smollm2-Q4_1.gguf", '-t', '1', '-n', '24', '--ignore-eos');
    my $prompt = Encode::encode('UTF-8', $bytes->{prompt});
    my ($status, $out, $err) = llm([@run, '-p', $prompt, '--stats']);
    is($status, 0, 'works') or diag($err);
    is($out, Encode::encode('UTF-8', $bytes->{greedy}{text}) . "\n", 'the greedy text');
    like($err, qr/prompt: \d+ tokens in [\d.]+ s.*; output: 24 tokens/, 'times');
    my (undef, $from_stdin) = llm([@run, '-f', '-'], $prompt);
    is($from_stdin, $out, 'the same from standard input');
    my (undef, $one) = llm([@run, '-p', 'a', '--temp', '1.5', '--seed', '1']);
    my (undef, $again) = llm([@run, '-p', 'a', '--temp', '1.5', '--seed', '1']);
    my (undef, $two) = llm([@run, '-p', 'a', '--temp', '1.5', '--seed', '2']);
    is($one, $again, 'one seed, one text');
    isnt($one, $two, 'another seed, another text');
};

subtest 'bench' => sub {
    my ($status, $out, $err) = llm(['bench', "$GGUF/llama-F32.gguf", '-p', '8,16', '-n', '4', '-r', '2', '-t', '1', '--json']);
    is($status, 0, 'works') or diag($err);
    my $got = eval { JSON::PP->new->utf8->decode($out) } or return fail("JSON: $@");
    is_deeply([map { scalar @{ $got->{prefill}{$_} } } 8, 16], [2, 2], 'two measurements of each prompt');
    is(scalar @{ $got->{decode}{4} }, 2, 'and of decoding');
    ok((!grep { $_ <= 0 } @{ $got->{prefill}{16} }, @{ $got->{decode}{4} }), 'positive speeds');
    ($status, $out) = llm(['bench', '--model', "$GGUF/llama-F32.gguf", '-p', '', '-n', '4', '-s', '3', '-t', '1']);
    like($out, qr/^decode +4 +[\d.]+ +[\d.]+ +[\d.]+$/m, 'a table');
    unlike($out, qr/^prefill/m, 'without what was left out');
};

done_testing();
