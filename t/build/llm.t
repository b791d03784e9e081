# llm.t - the llm program: help, exit status, and that each command prints what it promises.

use strict;
use warnings;

use Encode ();
use File::Temp ();
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
    is_deeply([sort grep { $_ ne 'llm' } @commands], [qw(bench inspect logprobs perplexity quantize run tokenize)],
        'lists the commands');
    my %more = (run => ['-p', 'x'], logprobs => ['-p', 'x'], perplexity => ['README.md'],
        quantize => ['/tmp/llm-t-none.gguf', 'q8_0']);
    for my $c (qw(bench inspect logprobs perplexity quantize run tokenize)) {
        ($status, $out, $err) = llm([$c, '--help']);
        is($status, 0, "$c --help");
        like($out, qr/^Usage: llm $c FILE.*^Example: llm $c model\.gguf/ms, 'shows usage and an example');
        ok((!grep { length > 100 } split(/\n/, $out)), 'fits a terminal');
        ($status, $out, $err) = llm([$c, '--no-such-option']);
        is($status, 2, "$c with a wrong option");
        like($err, qr/Try 'llm $c --help'/, 'says where help is');
        ($status) = llm([$c]);
        is($status, 2, "$c without a file");
        ($status, $out, $err) = llm([$c, 'no/such/file', @{ $more{$c} // [] }]);
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

subtest 'progress' => sub {
    plan skip_all => 'no script(1)' unless $ENV{LLM_TEST_STRICT} || `script --version 2>/dev/null` =~ /util-linux/;
    my $dir = File::Temp::tempdir(CLEANUP => 1);
    my %shown = ("run $GGUF/llama-F32.gguf -p x -n 1" => qr/\rloading 100 %/,
        "quantize $GGUF/llama-F32.gguf $dir/out.gguf q8_0" => qr/\rquantizing 100 %\r/,
        "bench $GGUF/llama-F32.gguf -p 4 -n 2 -r 2" => qr/\rdecode of 2 tokens: 2 of 2\r/);
    for my $args (sort keys %shown) {
        like(scalar(`script -qec '$LLM $args' /dev/null < /dev/null`), $shown{$args}, "llm $args");
        my ($status, $out, $err) = llm([split(/ /, $args), $args =~ /^quantize/ ? '-f' : ()]);
        is("$status $err", '0 ', 'nothing where standard error is no terminal');
    }
};

subtest 'kernels' => sub {
    local $ENV{LLM_KERN} = 'none';
    for my $args (['run', '-p', 'x'], ['logprobs', '-p', 'x'], ['bench'], ['tokenize', 'x']) {
        my ($command, @more) = @$args;
        my ($status, $out, $err) = llm([$command, "$GGUF/llama-F32.gguf", @more]);
        is($status, 1, "$command: a set of kernels that does not exist");
        like($err, qr/LLM_KERN is "none".* or ref$/, 'named, with those that do');
    }
};

subtest 'inspect' => sub {
    my ($status, $out, $err) = llm(['inspect', "$GGUF/llama-F32.gguf", '--tensors', '--keys', '--ctx', '64', '--kv', 'f32']);
    is($status, 0, 'a supported model');
    like($out, qr/^architecture  llama$/m, 'architecture');
    like($out, qr/^layers        2 of width 32; 4 heads of 8, 2 key\/value heads$/m, 'shape');
    # 2 layers, 2 heads, keys and values, 8 floats
    like($out, qr/context of 64 tokens \(256 bytes each in f32\)/, 'memory of a token');
    # the same in bytes, and a scale of 2 bytes for each vector
    like((llm(['inspect', "$GGUF/llama-F32.gguf", '--ctx', '64', '--kv', 'q8_0']))[1], qr/\(80 bytes each in q8_0\)/, 'in q8_0');
    like($out, qr/^supported     yes$/m, 'supported');
    like($out, qr/^  F32    32 x 448 +57344  token_embd\.weight$/m, 'tensors');
    like($out, qr/^  llama\.block_count  2$/m, 'keys');
    ($status, $out, $err) = llm(['inspect', 't/fixtures/malformed/unsupported_architecture.gguf']);
    is($status, 1, 'another architecture');
    like($out, qr/^supported     no: .*architecture "no-such-model" is not supported$/m, 'says why');
    ($status, $out) = llm(['inspect', 't/fixtures/models/llama_gptq', '--tensors']);
    is($status, 0, 'a directory');
    like($out, qr/^architecture +llama$/m, 'its architecture');
    like($out, qr/^quantization +gptq$/m, 'its quantization');
    like($out, qr/^  GPTQ +\d+ x \d+ +\d+ +model\.layers\.0\.mlp\.down_proj\.weight$/m, 'its tensors');
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
    (undef, $out, $err) = llm([@run, '-p', $prompt, '--stats', '--draft', 't/fixtures/models/smollm2', '--draft-tokens', '4']);
    is($out, Encode::encode('UTF-8', $bytes->{greedy}{text}) . "\n", 'the greedy text with a draft model');
    like($err, qr/; \d+ of [1-9]\d* model's drafts were right$/m, 'which is counted');
    for (["$GGUF/llama-F32.gguf", qr/must have the vocabulary of the model: its token 0 is "<unk>", not "<\|endoftext\|>"/],
        ["$GGUF/t5-Q8_0.gguf", qr/the draft model must be decoder-only, "\S+" has an encoder/], ['none.gguf', qr/none\.gguf: No such file/])
    {
        ($status, $out, $err) = llm([@run, '-p', 'a', '--draft', $_->[0]]);
        is($status, 1, "$_->[0] cannot draft");
        like($err, $_->[1], 'says why');
    }
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
    ($status, $out) = llm(['bench', "$GGUF/llama-F32.gguf", '-p', '', '-n', '4', '-c', '0,9', '-r', '1', '-t', '1', '--json']);
    $got = eval { JSON::PP->new->utf8->decode($out) } || {};
    is_deeply([map { scalar @{ $got->{decode}{$_} || [] } } '4', '4@9'], [1, 1], 'from an empty context and behind another');
    ($status, $out, $err) = llm(['bench', "$GGUF/llama-F32.gguf", '--draft', "$GGUF/llama-Q4_0.gguf", '-p', '', '-n', '9', '-r', '1', '-t', '1']);
    like($out, qr/^decode +9 /m, 'with a draft model');
    ($status, $out, $err) = llm(['bench', "$GGUF/llama-F32.gguf", '-c', '9', '-s', '2']);
    like($err, qr/--context 9 measures one stream, not 2/, 'a context is for one stream');
};

# the text of the fixture's case; its expected log-probabilities give the perplexity of one window
subtest 'perplexity' => sub {
    my $text = File::Temp->new;
    print {$text} Encode::encode('UTF-8', $case->{prompt});
    close($text);
    my @logprobs = grep { defined } @{ $case->{prompt_logprobs} };
    my $sum = 0;
    $sum += $_ for @logprobs;
    my $want = exp(-$sum / @logprobs);
    my $n = @{ $case->{input_ids} };
    my ($status, $out, $err) = llm(['perplexity', "$GGUF/llama-F32.gguf", "$text", '--ctx', $n + 5, '--kern', 'ref']);
    is($status, 0, 'one window') or diag($err);
    my ($got, $tokens, $windows) = $out =~ /^perplexity ([\d.]+) over (\d+) tokens in (\d+) windows? of/;
    is($tokens, scalar @logprobs, 'all tokens but BOS are scored');
    is($windows, 1, 'in one window');
    # log-probabilities within 5e-4 move the perplexity by as much of itself
    cmp_ok(abs($got - $want), '<', 5e-4 * $want, "perplexity $got, by the fixture's log-probabilities $want");

    # windows of 16: BOS and 15 tokens each, scored alone
    ($status, $out, $err) = llm(['perplexity', "$GGUF/llama-F32.gguf", "$text", '--ctx', 16, '--kern', 'ref']);
    my @ids = @{ $case->{input_ids} }[1 .. $n - 1];
    my ($total, $count, $parts) = (0, 0, 0);
    while (my @window = splice(@ids, 0, 15)) {
        my (undef, $json) = do {
            local $ENV{LLM_KERN} = 'ref';
            llm(['logprobs', "$GGUF/llama-F32.gguf", '--tokens', join(',', $case->{input_ids}[0], @window)]);
        };
        my $lp = JSON::PP->new->decode($json)->{prompt_logprobs};
        $total += $_, $count++ for grep { defined } @$lp;
        $parts++;
    }
    like($out, qr/ over $count tokens in $parts windows of 16$/, 'several windows');
    ($got) = $out =~ /^perplexity ([\d.]+)/;
    cmp_ok(abs($got - exp(-$total / $count)), '<', 1e-3 * $got, 'each window stands alone');

    my $empty = File::Temp->new;
    ($status, $out, $err) = llm(['perplexity', "$GGUF/llama-F32.gguf", "$empty"]);
    is($status, 1, 'an empty text');
    like($err, qr/the text has 0 tokens/, 'says why');
};

# What each format makes of the fixture's weights (K formats need wider rows than it has). The fixture of that name was
# quantized by PyPI's gguf: how far its expected log-probabilities lie from those of the f32 model is what is allowed.
my %formats = (
    f32 => 'F32', f16 => 'F16', bf16 => 'BF16', q8_0 => 'Q8_0', q6_k => 'Q8_0', q5_k => 'Q5_1', q5_1 => 'Q5_1',
    q5_0 => 'Q5_0', q4_k => 'Q4_1', q4_1 => 'Q4_1', q4_0 => 'Q4_0',
);
sub logprobs_of {
    my ($file, $ids) = @_;
    local $ENV{LLM_KERN} = 'ref';
    my ($status, $out, $err) = llm(['logprobs', $file, '--tokens', join(',', @$ids)]);
    diag($err) if $status;
    return $status ? [] : JSON::PP->new->decode($out)->{prompt_logprobs};
}
my $reader = 'import sys, gguf; r = gguf.GGUFReader(sys.argv[1]); '
    . 'print(len(r.tensors), *sorted({t.tensor_type.name for t in r.tensors}), r.fields["general.architecture"].contents())';
my $have_gguf = system(q{python3 -c 'import gguf' 2>/dev/null}) == 0;

sub rms {
    my ($x, $y) = @_;
    my ($sum, $n) = (0, 0);
    for my $i (0 .. $#$x) {
        $sum += ($x->[$i] - ($y->[$i] // 1e9)) ** 2, $n++ if defined $x->[$i];
    }
    return sqrt($sum / $n);
}

subtest 'quantize' => sub {
    my $dir = File::Temp->newdir;
    for my $type (sort keys %formats) {
        my $name = $formats{$type};
        my ($status, $out, $err) = llm(['quantize', "$GGUF/llama-F32.gguf", "$dir/$type.gguf", $type]);
        is($status, 0, $type) or diag($err);
        like($out, qr/^\Q$dir\E\/$type\.gguf: 21 tensors, /, 'says what it wrote');
        my $cases = JSON::PP->new->utf8->decode(slurp("$GGUF/llama-$name.expected.json"))->{cases};
        my (@f32, @gguf, @mine);
        for my $c (@$cases) {
            push @f32, @{ logprobs_of("$GGUF/llama-F32.gguf", $c->{input_ids}) };
            push @mine, @{ logprobs_of("$dir/$type.gguf", $c->{input_ids}) };
            push @gguf, @{ $c->{prompt_logprobs} };
        }
        my ($mine, $peer) = (rms(\@f32, \@mine), rms(\@f32, \@gguf));
        # the fixture has all matrices in the format; 5e-4: what two computations of one model may differ
        cmp_ok($mine, '<=', 1.1 * $peer + 5e-4, sprintf('%s: off by %.4f (RMS), as quantized by gguf %.4f', $type, $mine, $peer));
        next unless $have_gguf;
        my $ends = $type =~ /32|16/ ? $name : 'Q8_0';
        my %types = map { $_ => 1 } 'F32', $name, $ends;
        is(`python3 -c '$reader' $dir/$type.gguf`, join(' ', 21, sort(keys %types), "llama\n"), 'gguf.GGUFReader agrees');
    }

    my ($status, $out, $err) = llm(['quantize', "$GGUF/llama-F32.gguf", "$dir/f32.gguf", 'q8_0']);
    is($status, 1, 'does not replace a file');
    like($err, qr/is there already \(--force replaces it\)/, 'says how');
    ($status) = llm(['quantize', "$GGUF/llama_k-Q4_K_M.gguf", "$dir/f32.gguf", 'q5_k', '--force', '--output-type', 'q6_k']);
    is($status, 0, 'unless it must');
    ($status, $out) = llm(['inspect', "$dir/f32.gguf"]);
    like($out, qr/Q5_K/, 'K formats where rows fit');
    ($status, $out, $err) = llm(['quantize', "$GGUF/llama-F32.gguf", "$dir/x.gguf", 'iq4_nl']);
    is($status, 2, 'a type that is only read');
    like($err, qr/TYPE must be f32, .*not "iq4_nl"/, 'lists the others');
    ($status, $out, $err) = llm(['quantize', 't/fixtures/models/llama', "$dir/x.gguf", 'q8_0']);
    is($status, 1, 'a directory');
    like($err, qr/is a directory; only GGUF/, 'is refused');
    is_deeply([glob("$dir/*.part-*")], [], 'no unfinished files');
};

done_testing();
