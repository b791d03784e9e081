package LLM::Nginx;

# Nginx.pm - starts the distribution's nginx with our module for one test.
#
# Owns: a temporary folder (removed when all tests passed), free ports (each held by a UDP lock, so that parallel
# tests never meet), the configuration file, the nginx processes and the checks of the error log.
# Does not own: HTTP (LLM::HTTP).  Every test ends with $n->stop, which asserts a clean error log.
#
#   my $n = LLM::Nginx->new(workers => 2);            # also: ports => 2, main => "...", events => "...",
#                                                     # level => "debug", module => 0 (do not load ours),
#                                                     # preload => a library before all others
#   $n->conf(<<'EOC');                                # the inside of http {}; %%PORT%%, %%PORT1%%, %%DIR%%, %%ROOT%%
#       llm_model tiny { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; }
#       server { listen 127.0.0.1:%%PORT%%; location / { llm_pass tiny; } }
#   EOC
#   $n->start;  ...  $n->reload;  ...  $n->stop;
#
# LLM_TEST_SAN=1 uses build-san/ with libasan preloaded.  LLM_TEST_KEEP=1 keeps the folder.

use strict;
use warnings;

use Cwd ();
use File::Path ();
use File::Temp ();
use IO::Socket::INET;
use POSIX ();
use Scalar::Util ();
use Test::More ();
use Time::HiRes qw(time sleep);

use constant START_WAIT => 60;     # seconds; a sanitizer build of a real model on a busy machine takes some
use constant STOP_WAIT  => 30;

our $ROOT = Cwd::getcwd();         # prove runs from the root of the repository

my %live;                          # all objects of this process
my $BAD = qr/\[(?:alert|crit|emerg)\]|ERROR: \w+Sanitizer|: runtime error: |exited on signal|core dumped/;

sub new {
    my ($class, %o) = @_;
    my $self = bless {
        workers => 1, main => '', events => '', level => 'info', module => 1, %o,
        dir   => File::Temp::tempdir('llm-test-XXXXXX', TMPDIR => 1),
        owner => $$, port => [], lock => [],
    }, $class;
    Scalar::Util::weaken($live{$self} = $self);
    $self->add_port for 1 .. ($o{ports} || 1);
    $self->{build} = "$ROOT/" . ($ENV{LLM_TEST_SAN} ? 'build-san' : 'build');
    mkdir "$self->{dir}/$_" for qw(html temp);
    return $self;
}

# Whether the module was built; tests that need nginx call this first.
sub available {
    my $dir = $ENV{LLM_TEST_SAN} ? 'build-san' : 'build';
    return -x nginx_bin() && -e "$ROOT/$dir/ngx_http_llm_module.so";
}

sub nginx_bin { return $ENV{LLM_TEST_NGINX} || '/usr/sbin/nginx' }

# Path of the real model for checks of sense and speed, or undef.
sub real_model {
    my $path = $ENV{LLM_TEST_MODEL} || "$ROOT/.cache/models/SmolLM2-135M-Instruct.Q4_1.gguf";
    return -e $path ? $path : undef;
}

# Skips the whole test, or fails it where LLM_TEST_STRICT says that everything is installed.
sub skip_all {
    my ($why) = @_;
    die "LLM_TEST_STRICT: would skip: $why\n" if $ENV{LLM_TEST_STRICT};
    Test::More::plan(skip_all => $why);
    exit 0;
}

# 1022001 for nginx 1.22.1
sub version {
    my ($major, $minor, $patch) = `@{[nginx_bin()]} -v 2>&1` =~ m{nginx/(\d+)\.(\d+)\.(\d+)};
    return $major * 1_000_000 + $minor * 1_000 + $patch;
}

# A port that no other test of ours uses: below the ephemeral range, locked by a UDP socket for our life time.
sub add_port {
    my ($self) = @_;
    for my $try (1 .. 2000) {
        my $port = 10_000 + int rand 20_000;
        my $lock = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Proto => 'udp') or next;
        my $tcp = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Proto => 'tcp',
            Listen => 1, ReuseAddr => 1) or next;
        close $tcp;
        push @{ $self->{lock} }, $lock;
        push @{ $self->{port} }, $port;
        return $port;
    }
    die "no free port\n";
}

sub port { return $_[0]{port}[ $_[1] || 0 ] }
sub dir  { return $_[0]{dir} }
sub pid  { return $_[0]{pid} }
sub conf_path { return "$_[0]{dir}/nginx.conf" }

sub write_file {
    my ($self, $name, $text) = @_;
    my $path = $name =~ m{^/} ? $name : "$self->{dir}/$name";
    open my $f, '>:raw', $path or die "$path: $!\n";
    print {$f} $text;
    close $f or die "$path: $!\n";
    return $path;
}

sub expand {
    my ($self, $text) = @_;
    $text =~ s/%%PORT(\d*)%%/$self->port($1 || 0)/ge;
    $text =~ s/%%DIR%%/$self->{dir}/g;
    $text =~ s/%%ROOT%%/$ROOT/g;
    return $text;
}

# Writes nginx.conf around the inside of http {}.
sub conf {
    my ($self, $http) = @_;
    my $user = $> == 0 ? 'user root;' : '';   # the checkout may be unreadable to www-data
    my $load = $self->{module} ? "load_module $self->{build}/ngx_http_llm_module.so;" : '';
    my $temp = join '', map { "    ${_}_temp_path %%DIR%%/temp/$_;\n" } qw(client_body proxy fastcgi uwsgi scgi);
    return $self->raw_conf(<<"EOC");
$user
daemon off;
worker_processes $self->{workers};
pid %%DIR%%/nginx.pid;
error_log %%DIR%%/error.log $self->{level};
$load
$self->{main}
events { worker_connections 1024; $self->{events} }
http {
    access_log %%DIR%%/access.log;
    default_type text/plain;
    root %%DIR%%/html;
$temp
$http
}
EOC
}

# The same with a whole file of one's own; it must write error.log and nginx.pid below %%DIR%% and not daemonize.
sub raw_conf {
    my ($self, $text) = @_;
    return $self->write_file('nginx.conf', $self->expand($text));
}

sub _env {
    my ($self) = @_;
    $ENV{LD_PRELOAD} = $self->{preload} if $self->{preload};
    return unless $ENV{LLM_TEST_SAN};
    chomp(my $lib = `gcc -print-file-name=libasan.so`);
    $ENV{LD_PRELOAD} = join ' ', grep { $_ } $self->{preload}, $lib;
    # nginx leaves what the kernel frees anyway: leaks are looked for in the tests of the engine only
    $ENV{ASAN_OPTIONS} = 'detect_odr_violation=0:halt_on_error=1:exitcode=99:detect_leaks=0:verify_asan_link_order=0';
    $ENV{UBSAN_OPTIONS} ||= 'print_stacktrace=1';
}

sub _spawn {
    my ($self, @args) = @_;
    my $pid = fork;
    die "fork: $!\n" unless defined $pid;
    return $pid if $pid;
    $self->_env;
    open STDIN,  '<',  '/dev/null';
    open STDOUT, '>>', "$self->{dir}/stderr.log";
    open STDERR, '>>', "$self->{dir}/stderr.log";
    my @cmd = (nginx_bin(), '-p', $self->{dir}, '-c', $self->conf_path, '-e', "$self->{dir}/error.log", @args);
    { exec @cmd }
    POSIX::_exit(127);
}

# nginx -t: (exit status, output).
sub check {
    my ($self) = @_;
    unlink "$self->{dir}/stderr.log";
    waitpid $self->_spawn('-t'), 0;
    return ($? >> 8 || $? & 127, $self->read_file('stderr.log'));
}

sub read_file {
    my ($self, $name) = @_;
    open my $f, '<:raw', $name =~ m{^/} ? $name : "$self->{dir}/$name" or return '';
    local $/;
    return scalar(<$f>) // '';
}

sub log { return $_[0]->read_file('error.log') }

# Waits until $done returns true; returns what it returned or undef.
sub wait_for {
    my ($self, $done, $limit) = @_;
    my $end = time + ($limit || 10);
    while (1) {
        my $got = $done->();
        return $got if $got;
        return undef if time > $end;
        sleep 0.03;
    }
}

sub wait_log {
    my ($self, $re, $limit) = @_;
    return $self->wait_for(sub { $self->log =~ $re }, $limit);
}

# Starts nginx and waits until it listens and has its workers.  Dies with the log when it does not.
sub start {
    my ($self) = @_;
    $self->{pid} = $self->_spawn;
    my $up = $self->wait_for(sub {
        return 'dead' if waitpid($self->{pid}, POSIX::WNOHANG()) > 0;
        return $self->workers == $self->{workers}
            && IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->port, Proto => 'tcp');
    }, START_WAIT);
    return 1 if $up && $up ne 'dead';
    my $why = $up ? sprintf('exit %d, signal %d', $? >> 8, $? & 127) : 'not listening';
    delete $self->{pid} if $up;
    die "nginx did not start ($why):\n" . $self->read_file('stderr.log') . $self->log . "\n";
}

# Pids of the workers, old generations included; with a pattern, of other children.
sub workers {
    my ($self, $title) = @_;
    $title ||= qr/^nginx: worker process/;
    my $master = $self->{pid} || return;
    my @pids = split ' ', $self->read_file("/proc/$master/task/$master/children");
    return my @live = grep { $self->read_file("/proc/$_/cmdline") =~ $title } @pids;   # a zombie has no command line
}

# Kills one process of this nginx by pid; waits until it is gone unless wait => 0.
sub kill_pid {
    my ($self, $signal, $pid, %o) = @_;
    kill $signal, $pid or die "kill $pid: $!\n";
    return 1 if exists $o{wait} && !$o{wait};
    return $self->wait_for(sub { !-e "/proc/$pid" }, STOP_WAIT);
}

# SIGHUP, optionally with a new inside of http {}.  True when a new generation of workers serves; false when the new
# configuration was refused (the old workers go on).
sub reload {
    my ($self, $http) = @_;
    $self->conf($http) if defined $http;
    my $seen = length $self->log;
    my %old  = map { $_ => 1 } $self->workers;
    kill 'HUP', $self->{pid};
    my $got = $self->wait_for(sub {
        return 'new' if (grep { !$old{$_} } $self->workers) >= $self->{workers};
        return 'refused' if substr($self->log, $seen) =~ /\[emerg\]/;
        return;
    }, START_WAIT) || 'timeout';
    return $got eq 'new';
}

# Lines of the error log that no test may leave behind.
sub bad_lines {
    my ($self, $allow) = @_;
    my @lines = grep { $_ =~ $BAD } split /\n/, $self->read_file('stderr.log') . $self->log;
    return grep { !$allow || $_ !~ $allow } @lines;
}

# Ends nginx (QUIT unless signal => ...) and asserts that it ended by itself with a clean log.
# allow => qr/.../ names the lines that the test provoked.
sub stop {
    my ($self, %o) = @_;
    my ($pid, @workers) = ($self->{pid} || die("not running\n"), $self->workers);
    delete $self->{pid};
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    kill $o{signal} || 'QUIT', $pid;
    my $ended = $self->wait_for(sub { waitpid($pid, POSIX::WNOHANG()) != 0 }, $o{within} || STOP_WAIT);
    my $status = $?;
    if (!$ended) { kill 'KILL', $pid, @workers; waitpid $pid, 0 }
    Test::More::ok($ended && $status == 0, 'nginx ended by itself') or Test::More::diag("status $status");
    my @bad = $self->bad_lines($o{allow});
    Test::More::is(scalar @bad, 0, 'error log is clean') or Test::More::diag(join "\n", splice @{[@bad]}, 0, 20);
    return $ended && !@bad;
}

# Ends what runs and removes the folder; at the latest when the test ends (in END: Test::More still works there).
sub DESTROY {
    my ($self) = @_;
    local ($?, $@, $!);
    return unless $self->{owner} == $$ && delete $live{$self};
    if (my $pid = $self->{pid}) {
        my @all = ($pid, $self->workers);
        kill 'TERM', $pid;
        kill 'KILL', @all unless $self->wait_for(sub { waitpid($pid, POSIX::WNOHANG()) != 0 }, 5);
    }
    if ($ENV{LLM_TEST_KEEP} || !Test::More->builder->is_passing) { Test::More::diag("kept: $self->{dir}") }
    else { File::Path::remove_tree($self->{dir}) }
}

END { my $status = $?; $_->DESTROY for grep { $_ } values %live; $? = $status }

1;
