package LLM::HTTP;

# HTTP.pm - a raw HTTP/1.x client for tests: it sends exactly what it is told and notes when each byte came.
#
#   my $http = LLM::HTTP->new(port => $n->port);                  # timeout => 30 seconds for one exchange
#   my $x = $http->post('/generate', { inputs => 'a' });          # a finished exchange
#   $x->status; $x->header('content-type'); $x->body; $x->json; $x->complete;
#   my $x = $http->send(POST => '/generate_stream', json => {...}); # not waited for
#   while (my $e = $x->event) { $e->{data}; $e->{event}; $e->{time} }   # $x->events: all so far
#   $x->abort (RST), $x->close (FIN), $x->half_close (shutdown of our side), $x->slow(64, 0.1, 5)
#   LLM::HTTP::wait_all(60, @x);                                  # many streams in one select loop
#   my @x = $http->pipeline([GET => '/a'], [POST => '/b', json => {}]);   # one write, one connection
#
# An exchange never dies because of what the server does: ->error says what went wrong ("timeout", "closed early",
# "reset", ...) and ->complete whether the response ended as HTTP says.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use JSON::PP ();
use Socket qw(SOL_SOCKET SO_RCVBUF IPPROTO_TCP TCP_NODELAY);
use Time::HiRes qw(time);

our $JSON = JSON::PP->new->utf8->canonical->allow_nonref;

sub new {
    my ($class, %o) = @_;
    return bless { host => '127.0.0.1', timeout => 60, %o }, $class;
}

sub connect {
    my ($self, %o) = @_;
    my $s = IO::Socket::INET->new(Proto => 'tcp') or die "socket: $!\n";
    setsockopt $s, SOL_SOCKET, SO_RCVBUF, pack('l', $o{rcvbuf}) if $o{rcvbuf};
    CORE::connect $s, Socket::pack_sockaddr_in($self->{port}, Socket::inet_aton($self->{host}))
        or die "connect to $self->{host}:$self->{port}: $!\n";
    setsockopt $s, IPPROTO_TCP, TCP_NODELAY, 1;
    $s->blocking(0);
    return $s;
}

# The bytes of one request.  Options: json => data, body => bytes, chunked => [bytes, ...],
# headers => [name, value, ...], version => '1.0', keep => 1 (no "Connection: close").
sub format_request {
    my ($self, $method, $path, %o) = @_;
    my $version = $o{version} || '1.1';
    my $body = exists $o{json} ? $JSON->encode($o{json}) : $o{body};
    my @h = @{ $o{headers} || [] };
    my %has = map { lc $h[$_] => 1 } grep { $_ % 2 == 0 } 0 .. $#h;
    push @h, 'Host', 'localhost' unless $has{host};
    push @h, 'Connection', 'close' unless $o{keep} || $has{connection} || $version eq '1.0';
    push @h, 'Content-Type', 'application/json' if exists $o{json} && !$has{'content-type'};
    push @h, 'Transfer-Encoding', 'chunked' if $o{chunked};
    push @h, 'Content-Length', length $body if defined $body && !$has{'content-length'};
    my $text = "$method $path HTTP/$version\r\n";
    while (my ($name, $value) = splice @h, 0, 2) { $text .= "$name: $value\r\n" }
    $text .= "\r\n";
    $text .= $body if defined $body;
    $text .= join '', map { sprintf "%x\r\n%s\r\n", length, $_ } grep { length } @{ $o{chunked} } if $o{chunked};
    $text .= "0\r\n\r\n" if $o{chunked};
    return $text;
}

# Starts an exchange.  Further options: on => a finished exchange whose connection is used again, rcvbuf => bytes.
sub send {
    my ($self, $method, $path, %o) = @_;
    return $self->send_raw($self->format_request($method, $path, %o), %o, method => $method);
}

sub send_raw {
    my ($self, $bytes, %o) = @_;
    my $x = LLM::HTTP::Exchange->new(
        sock => $o{on} ? $o{on}{sock} : $self->connect(%o), in => $o{on} ? $o{on}{in} : '',
        out => $bytes, method => $o{method} || 'GET', timeout => $o{timeout} || $self->{timeout},
    );
    $x->pump(0);
    return $x;
}

sub request { my $self = shift; return $self->send(@_)->wait }
sub get     { my ($self, $path, %o) = @_; return $self->request(GET => $path, %o) }
sub post    { my ($self, $path, $data, %o) = @_; return $self->request(POST => $path, json => $data, %o) }

# All requests in one write; the exchanges in order, waited for.
sub pipeline {
    my ($self, @requests) = @_;
    my $last = pop @requests;
    my $bytes = join '', (map { $self->format_request(@$_, keep => 1) } @requests), $self->format_request(@$last);
    my @done = $self->send_raw($bytes, method => $requests[0][0])->wait;
    push @done, $done[-1]->next($_->[0])->wait for @requests[1 .. $#requests], $last;
    return @done;
}

# Drives many exchanges at once until all have ended or $limit seconds are over; returns the number that completed.
sub wait_all {
    my ($limit, @x) = @_;
    my $end = time + $limit;
    while (my @open = grep { !$_->{done} } @x) {
        my $left = $end - time;
        if ($left <= 0) {
            $_->_fail('timeout') for @open;
            last;
        }
        my ($r, $w) = (IO::Select->new(map { $_->{sock} } @open), IO::Select->new);
        $w->add($_->{sock}) for grep { length $_->{out} } @open;
        IO::Select->select($r, $w, undef, $left > 1 ? 1 : $left);
        $_->pump(0) for @open;
    }
    return scalar grep { $_->complete } @x;
}


package LLM::HTTP::Exchange;

use Errno qw(EAGAIN EINTR);
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes qw(time sleep);

sub new {
    my ($class, %o) = @_;
    my $x = bless { body => '', raw_bytes => 0, reads => 0, events => [], taken => 0, sse => '', start => time, %o },
        $class;
    $x->_parse if length $x->{in};
    return $x;
}

# Moves bytes both ways for up to $limit seconds, or until something came; true while the exchange goes on.
sub pump {
    my ($x, $limit) = @_;
    return 0 if $x->{done};
    my ($r, $w) = ('', '');
    vec($r, fileno $x->{sock}, 1) = 1;
    vec($w, fileno $x->{sock}, 1) = 1 if length $x->{out};
    return 1 unless select($r, $w, undef, $limit) > 0;
    if (length $x->{out}) {
        local $SIG{PIPE} = 'IGNORE';
        my $n = syswrite $x->{sock}, $x->{out};
        if (defined $n) { substr($x->{out}, 0, $n) = '' }
        elsif ($! != EAGAIN && $! != EINTR) { $x->{out} = ''; $x->{write_error} = "$!" }
    }
    $x->_read(65536) if vec($r, fileno $x->{sock}, 1);
    return !$x->{done};
}

sub _read {
    my ($x, $max) = @_;
    my $n = sysread $x->{sock}, my ($data), $max;
    if (!defined $n) {
        $x->_fail($!{ECONNRESET} ? 'reset' : "$!") unless $! == EAGAIN || $! == EINTR;
        return;
    }
    if ($n == 0) {
        return $x->_end if $x->{head_done} && $x->{mode} eq 'close';
        return $x->_fail('closed early');
    }
    $x->{now} = time;
    $x->{first} ||= $x->{now};
    $x->{reads}++;
    $x->{raw_bytes} += $n;
    $x->{in} .= $data;
    $x->_parse;
}

sub _parse {
    my ($x) = @_;
    while (!$x->{head_done}) {
        return unless $x->{in} =~ s/^(.*?)\r\n\r\n//s;
        my ($first, @lines) = split /\r\n/, $1;
        return $x->_fail("bad status line: $first") unless $first =~ m{^HTTP/(1\.\d) (\d{3})};
        next if $2 < 200;    # 100 Continue
        @$x{qw(version status head_done head)} = ($1, $2, 1, $first);
        for (@lines) {
            my ($name, $value) = /^([^:]+):\s*(.*?)\s*$/ or return $x->_fail("bad header line: $_");
            $x->{headers}{ lc $name } = exists $x->{headers}{ lc $name } ? "$x->{headers}{lc $name}, $value" : $value;
        }
        my $h = $x->{headers};
        $x->{mode} = $x->{method} eq 'HEAD' || $x->{status} =~ /^(?:204|304)$/ ? 'none'
            : lc($h->{'transfer-encoding'} || '') eq 'chunked' ? 'chunked'
            : defined $h->{'content-length'} ? 'length' : 'close';
    }
    if ($x->{mode} eq 'chunked') {
        while ($x->{in} =~ /^([0-9a-fA-F]+)[^\r\n]*\r\n/) {
            my ($size, $skip) = (hex $1, $+[0]);
            return if length($x->{in}) < $skip + $size + 2;
            return $x->_fail('bad chunk end') unless substr($x->{in}, $skip + $size, 2) eq "\r\n";
            $x->_body(substr $x->{in}, $skip, $size);
            substr($x->{in}, 0, $skip + $size + 2) = '';
            return $x->_end if $size == 0;
        }
        return;
    }
    return $x->_end if $x->{mode} eq 'none';
    if ($x->{mode} eq 'length') {
        my $left = $x->{headers}{'content-length'} - length $x->{body};
        $x->_body(substr $x->{in}, 0, $left, '');
        $x->_end if length $x->{body} == $x->{headers}{'content-length'};
        return;
    }
    $x->_body($x->{in});
    $x->{in} = '';
}

sub _body {
    my ($x, $data) = @_;
    $x->{body} .= $data;
    return unless ($x->{headers}{'content-type'} || '') =~ m{^text/event-stream};
    $x->{sse} .= $data;
    while ($x->{sse} =~ s/^(.*?)\r?\n\r?\n//s) {
        my %e = (time => ($x->{now} || time) - $x->{start}, raw => $1);
        for (split /\r?\n/, $1) {
            if (/^:(.*)/) { $e{comment} = $1; next }
            my ($field, $value) = /^([^:]+)(?::\s?(.*))?$/ or next;
            $e{$field} = defined $e{$field} ? "$e{$field}\n$value" : $value;
        }
        push @{ $x->{events} }, \%e;
    }
}

sub _end  { my ($x) = @_; $x->{done} = $x->{ok} = 1; $x->{end} = time; return }
sub _fail { my ($x, $why) = @_; $x->{done} = 1; $x->{error} = $why; $x->{end} = time; return }

# Waits for the end; ->error is "timeout" when it did not come in time.
sub wait {
    my ($x, $limit) = @_;
    my $end = time + ($limit || $x->{timeout});
    while (!$x->{done}) {
        my $left = $end - time;
        return $x->_fail('timeout') || $x if $left <= 0;
        $x->pump($left);
    }
    return $x;
}

# Waits until $cond->() holds, without ending the exchange on a time-out.
sub wait_until {
    my ($x, $cond, $limit) = @_;
    my $end = time + ($limit || $x->{timeout});
    until ($cond->()) {
        my $left = $end - time;
        return 0 if $left <= 0 || $x->{done};
        $x->pump($left);
    }
    return 1;
}

sub wait_head { my ($x, $limit) = @_; return $x->wait_until(sub { $x->{head_done} }, $limit) }

# The next SSE event, comments included ({comment}); undef at the end, or after $limit seconds.
sub event {
    my ($x, $limit) = @_;
    return undef unless $x->wait_until(sub { @{ $x->{events} } > $x->{taken} }, $limit);
    return $x->{events}[ $x->{taken}++ ];
}

# Reads at most $bytes every $pause seconds, for $seconds.
sub slow {
    my ($x, $bytes, $pause, $seconds) = @_;
    my $end = time + $seconds;
    while (!$x->{done} && time < $end) {
        $x->_read($bytes);
        sleep $pause;
    }
    return $x;
}

# The next response on the same connection (pipelining).
sub next {
    my ($x, $method) = @_;
    return LLM::HTTP::Exchange->new(sock => $x->{sock}, in => $x->{in}, out => '', method => $method || 'GET',
        timeout => $x->{timeout});
}

sub abort      { my ($x) = @_; setsockopt $x->{sock}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0); return $x->close }
sub close      { my ($x) = @_; CORE::close $x->{sock}; $x->_fail('closed by us') unless $x->{done}; return $x }
sub half_close { my ($x) = @_; $x->pump(1) while length $x->{out}; shutdown $x->{sock}, 1; return $x }

sub status   { return $_[0]{status} }
sub headers  { return $_[0]{headers} }
sub header   { return $_[0]{headers}{ lc $_[1] } }
sub body     { return $_[0]{body} }
sub error    { return $_[0]{error} }
sub complete { return $_[0]{ok} ? 1 : 0 }
sub elapsed  { return ($_[0]{end} || time) - $_[0]{start} }
sub json     { my ($x) = @_; my $v = eval { $LLM::HTTP::JSON->decode($x->{body}) }; return $v }

# Events that carry data; ->data decodes their JSON ("[DONE]" stays a string).
sub events { return [ grep { defined $_->{data} } @{ $_[0]{events} } ] }
sub data   { return [ map { my $d = $_->{data}; my $v = eval { $LLM::HTTP::JSON->decode($d) }; defined $v ? $v : $d }
    @{ $_[0]->events } ] }

1;
