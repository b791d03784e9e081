# cache.t - llm_cache_path: later starts map the weights that the first one left there, and go on with the conversations of
# the nginx before; nothing that goes wrong with the folder keeps nginx from serving.

use strict;
use warnings;
use lib 't/lib';

use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my $model = 'weights %%ROOT%%/t/fixtures/gguf/llama-Q8_0.gguf; kv_cache 4m;';
my $n = LLM::Nginx->new(workers => 2);

sub conf {
    my ($path) = @_;
    return "llm_model m { $model } server { listen 127.0.0.1:%%PORT%%; location / { llm_pass m; } } $path
        log_format cached 'cached=\$llm_cached_tokens'; access_log %%DIR%%/cached.log cached;";
}

sub files { my ($dir, $what) = @_; my @found = glob "$dir/$what-*.llm"; return @found }

sub answer {
    my ($server) = @_;
    my $x = LLM::HTTP->new(port => $server->port)->post('/generate',
        { inputs => 'hello world', parameters => { max_new_tokens => 8, ignore_eos => \1 } });
    return $x->status == 200 ? $x->json->{generated_text} : 'status ' . $x->status;
}
# Lines of the log since the last call.
my %seen;
sub news {
    my ($server) = @_;
    my $log = $server->log;
    my $new = substr $log, $seen{$server} // 0;
    $seen{$server} = length $log;
    return $new;
}

# -- the directive

my $c = LLM::Nginx->new;
$c->conf(conf('llm_cache_path cache;'));
my ($status, $out) = $c->check;
is $status, 0, 'nginx -t' or diag $out;
is sprintf('%04o', (stat $c->dir . '/cache')[2] & 07777), '0700', 'the folder is made, below the prefix, for its user alone';

for (
    [ 'llm_cache_path cache; llm_cache_path other;', qr/"llm_cache_path" directive is duplicate in .*:\d+/, 'twice' ],
    [ 'llm_cache_path "";', qr/"llm_cache_path" directive must not be empty in .*:\d+/, 'empty' ],
    [ 'llm_cache_path no/such;', qr{mkdir\(\) "\S+/no/such" failed .*in .*:\d+}, 'below a folder that is not there' ],
    [ 'llm_cache_path nginx.conf;', qr{"\S+/nginx.conf" is not a directory in .*:\d+}, 'a file' ],
    [ 'llm_cache_path open;', qr{"\S+/open" can be written by other users: .*mode 0700 in .*:\d+}, 'open to others' ],
    [ 'llm_cache_path cache prefixes=1x;', qr/invalid parameter "prefixes=1x", it must be .* in .*:\d+/, 'not a size' ],
    [ 'llm_cache_path cache prefixes=0;', qr/invalid parameter "prefixes=0", it must be .* in .*:\d+/, 'no room' ],
    [ 'llm_cache_path cache size=1m;', qr/invalid parameter "size=1m", it must be .* in .*:\d+/, 'another parameter' ],
    [ 'server { llm_cache_path cache; }', qr/"llm_cache_path" directive is not allowed here/, 'in a server' ],
) {
    my ($text, $re, $name) = @$_;
    mkdir $c->dir . '/open';
    chmod 0777, $c->dir . '/open';
    $c->conf(conf($text));
    ($status, $out) = $c->check;
    ok $status != 0 && $out =~ $re, $name or diag $out;
}

# -- weights

my $dir = $n->dir . '/cache';
$n->conf(conf(''));
$n->start;
my $text = answer($n);
ok length $text && $text !~ /^status/, 'an answer without the folder';
$n->stop;

news($n);
$n->conf(conf('llm_cache_path cache;'));
$n->start;
like news($n), qr/MB of weights loaded in/, 'the first start packs';
is answer($n), $text, 'the same answer';
ok $n->wait_for(sub { files($dir, 'weights') }), 'and keeps what it has packed';
my ($file) = files($dir, 'weights');
is sprintf('%04o', (stat $file)[2] & 07777), '0600', 'for its user alone';
ok $n->reload, 'reload';
unlike news($n), qr/MB of weights (?:loaded|mapped)/, 'which takes the weights that are there';
$n->stop;

$n->start;
like news($n), qr/MB of weights mapped in/, 'the second start maps';
is answer($n), $text, 'the same answer';
my $other = LLM::Nginx->new;
$other->conf(conf("llm_cache_path $dir;"));
$other->start;
like $other->log, qr/MB of weights mapped in/, 'another nginx maps the same';
is answer($other), $text, 'the same answer';
$other->stop;
is answer($n), $text, 'still the same answer';
$n->stop;

# a file that is cut short
truncate $file, 5000 or die "$file: $!\n";
$n->start;
my $log = news($n);
like $log, qr/\[notice\].*kept weights are not used: \Q$file\E: it has 5000 bytes/, 'a damaged file is not used';
like $log, qr/MB of weights loaded in/, 'but the model';
is answer($n), $text, 'the same answer';
ok $n->wait_for(sub { -s $file > 5000 }), 'and the file is written anew';
$n->stop;
$n->start;
like news($n), qr/MB of weights mapped in/, 'which the next start maps';
$n->stop;

# two that start at once with nothing kept
unlink $file;
$other->conf(conf("llm_cache_path $dir;"));
$_->{pid} = $_->_spawn for $n, $other;
for my $server ($n, $other) {
    ok $server->wait_for(sub { $server->workers == $server->{workers} && answer($server) eq $text }, 60), 'answers';
}
ok $n->wait_for(sub { files($dir, 'weights') && !@{[ glob "$dir/*.llm.*" ]} }), 'one file is left';
$_->stop for $n, $other;
news($n);
$n->start;
like news($n), qr/MB of weights mapped in/, 'a good one';
$n->stop;

# a folder in which the file cannot be made
unlink $file;
mkdir $file;
$n->start;
ok $n->wait_log(qr/\[warn\].*weights cannot be kept: \Q$file\E/), 'a warning when weights cannot be kept';
is answer($n), $text, 'and the model serves';
$n->stop;
is_deeply [ glob "$dir/*.llm.*" ], [], 'nothing half-written is left';
rmdir $file;

# -- prefixes

my $prompt = join ' ', map { "word$_" } 1 .. 20;

# The text that follows the long prompt, and how many of its tokens the cache had.
sub converse {
    my ($server) = @_;
    my $lines = () = $server->read_file('cached.log') =~ /\n/g;
    my $x = LLM::HTTP->new(port => $server->port)->post('/generate',
        { inputs => $prompt, parameters => { max_new_tokens => 8, ignore_eos => \1, return_full_text => \0 } });
    $x->close;
    my @cached;
    $server->wait_for(sub { @cached = $server->read_file('cached.log') =~ /cached=(\S+)\n/g; @cached > $lines });
    return ($x->status == 200 ? $x->json->{generated_text} : 'status ' . $x->status, $cached[-1]);
}

my $p = LLM::Nginx->new(workers => 2);
$dir = $p->dir . '/cache';
$p->conf(conf('llm_cache_path cache;'));
$p->start;
my ($first, $cached) = converse($p);
is $cached, 0, 'the first time nothing is cached';
$p->stop;
like $p->log, qr/\[notice\].*llama-Q8_0.gguf": [1-9]\d* pages of prefixes kept in \d+ ms/, 'kept at the end';
($file) = files($dir, 'kv');
is sprintf('%04o', (stat $file)[2] & 07777), '0600', 'for its user alone';

for my $signal (qw(QUIT TERM)) {
    news($p);
    $p->start;
    like news($p), qr/\[notice\].*"m": [1-9]\d* pages of prefixes read in/, 'read at the next start';
    my ($again, $n_cached) = converse($p);
    cmp_ok $n_cached, '>=', 32, "the conversation goes on without prefill: $n_cached tokens";
    is $again, $first, 'and has the same text';
    ok $p->reload, 'reload';
    ($again, $n_cached) = converse($p);
    cmp_ok $n_cached, '>=', 32, "the cache is there after a reload: $n_cached tokens";
    is $again, $first, 'and the same text';
    $p->stop(signal => $signal);
    like news($p), qr/[1-9]\d* pages of prefixes kept/, "kept after $signal";
}

# other kernels do not use what these have computed
my $kern = LLM::Nginx->new(main => 'env LLM_KERN=ref;');
$kern->conf(conf("llm_cache_path $dir;"));
$kern->start;
is +(converse($kern))[1], 0, 'another set of kernels computes its own';
$kern->stop;
unlink $file;
$p->start;
($text, $cached) = converse($p);
is "$text $cached", "$first 0", 'without the file: the same text, computed';
$p->stop;

# a damaged page, and a damaged file
sub spoil {
    my ($at, $whence) = @_;
    open my $f, '+<:raw', $file or die "$file: $!\n";
    seek $f, $at, $whence;
    read $f, my $byte, 1;
    seek $f, -1, 1;
    print {$f} chr(ord($byte) ^ 16);
    close $f or die "$file: $!\n";
}
for (
    [ -1, 2, qr/\[notice\].*"m": 1 pages of kept prefixes are damaged and not used/, 'a flipped bit in the last page' ],
    [ 20, 0, qr/\[notice\].*"m": kept prefixes are not used: \Q$file\E: its header/, 'a flipped bit in the header' ],
) {
    my ($at, $whence, $re, $name) = @$_;
    spoil($at, $whence);
    news($p);
    $p->start;
    like news($p), $re, $name;
    is +(converse($p))[0], $first, 'the same text';
    $p->stop;
}
($file) = files($dir, 'kv');
unlink $file;
mkdir $file;
$p->start;
is +(converse($p))[0], $first, 'where the file cannot be: the same text';
news($p);
$p->stop;
like news($p), qr/\[warn\].*prefixes cannot be kept: \Q$file\E/, 'and a warning at the end';
rmdir $file;

# without prefixes on the disk, and with few
$p->conf(conf('llm_cache_path cache prefixes=off;'));
news($p);
$p->start;
like news($p), qr/MB of weights mapped in/, 'prefixes=off: weights are';
is +(converse($p))[0], $first, 'the same text';
$p->stop;
is_deeply [ files($dir, 'kv') ], [], 'but no file of prefixes';
unlike news($p), qr/prefixes/, 'nor a word about them';
$p->conf(conf('llm_cache_path cache prefixes=10k;'));
$p->start;
is +(converse($p))[0], $first, 'the same text';
$p->stop;
like news($p), qr/ 2 pages of prefixes kept/, 'prefixes=10k: two pages of 4 KB';

# -- a binary upgrade: only a daemon's master takes the signal

my $u = LLM::Nginx->new(main => 'env LD_PRELOAD; env ASAN_OPTIONS; env UBSAN_OPTIONS;');
$dir = $u->dir . '/cache';
$u->conf(conf('llm_cache_path cache;'));
$u->write_file('nginx.conf', $u->read_file('nginx.conf') =~ s/daemon off/daemon on/r);
waitpid $u->_spawn, 0;
my $old = $u->wait_for(sub { $u->read_file('nginx.pid') =~ /(\d+)/ && $1 });
$u->{pid} = $old;
($text) = converse($u);
is $text, $first, 'a daemon answers';
ok $u->wait_for(sub { files($dir, 'weights') }), 'and keeps its weights';
news($u);
kill 'USR2', $old or die "$old: $!\n";
my $new = $u->wait_for(sub { $u->read_file('nginx.pid') =~ /(\d+)/ && $1 != $old && $1 }, 60);
$u->{pid} = $new;
ok $u->wait_for(sub { $u->workers == 1 }, 60), 'the new binary runs';
like news($u), qr/MB of weights mapped in/, 'with the weights that the old one kept';
kill 'QUIT', $old;
ok $u->wait_log(qr/ $old#\d+: .* [1-9]\d* pages of prefixes kept/, 30), 'the old one ends and keeps its prefixes';
($text) = converse($u);
is $text, $first, 'the new one answers';
kill 'QUIT', $new;
ok $u->wait_log(qr/ $new#\d+: .* [1-9]\d* pages of prefixes kept/, 30), 'the new one ends likewise';
delete $u->{pid};
is join("\n", $u->bad_lines), '', 'error log is clean';

done_testing;
