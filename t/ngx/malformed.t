# malformed.t - hundreds of damaged requests on kept connections: each gets its 4xx (or is valid by chance), no worker dies, and
# the next request on the same connection is answered as ever.  The damage is seeded: LLM_TEST_SEED repeats a failure.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my $SEED = $ENV{LLM_TEST_SEED} || 1;
my $PER_ROUTE = $ENV{LLM_TEST_LONG} ? 1500 : 120;
srand $SEED;

my $n = LLM::Nginx->new;
$n->conf(<<'EOC');
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 1024; kv_cache 32m; }
    keepalive_requests 100000;
    server { listen 127.0.0.1:%%PORT%%; location / { llm_pass m; llm_default_max_new_tokens 3; } }
EOC
$n->start;
my ($worker) = $n->workers;
my $http = LLM::HTTP->new(port => $n->port, timeout => 20);
my $true = JSON::PP::true;
my %probe = (inputs => 'A', parameters => { max_new_tokens => 2 });
my $want = $http->post('/generate', \%probe)->body;

my @hi = (messages => [ { role => 'system', content => 'be good' }, { role => 'user', content => [ { type => 'text', text => "h\x{e9}" } ] } ]);
my %bodies = (
    '/'                    => { inputs => 'Hello', stream => $true, parameters => { max_new_tokens => 2, top_k => 5, stop => ['x'] } },
    '/generate'            => { inputs => 'Hello', parameters => { details => $true, seed => 7, logit_bias => { 5 => 1.5 }, temperature => 0.5, top_n_tokens => 2 } },
    '/generate_stream'     => { inputs => 'Hello', parameters => { max_new_tokens => 2, top_p => 0.5, details => $true } },
    '/v1/chat/completions' => { @hi, max_tokens => 2, n => 2, logprobs => $true, top_logprobs => 2, stream_options => { include_usage => $true } },
    '/v1/completions'      => { prompt => [ 'a', 'b' ], max_tokens => 2, echo => $true, logprobs => 1, stop => [ 'a', 'b' ] },
    '/vertex'              => { instances => [ { inputs => 'a', parameters => { max_new_tokens => 2 } }, { @hi, max_tokens => 2 } ] },
    '/invocations'         => { inputs => 'Hello', parameters => { max_new_tokens => 2 } },
    '/v1/embeddings'       => { input => [ 'a', 'b' ], encoding_format => 'float', truncate_prompt_tokens => 5 },
    '/v1/responses'        => { instructions => 'be good', max_output_tokens => 2, text => { format => { type => 'text' } }, tool_choice => 'none',
        input => [ { role => 'user', content => [ { type => 'input_text', text => 'w?' } ] }, { type => 'function_call', call_id => 'c', name => 'f', arguments => '{}' },
            { type => 'function_call_output', call_id => 'c', output => 'sun' } ],
        tools => [ { type => 'function', name => 'f', parameters => { type => 'object', properties => {} } } ] },
    '/v2/models/m/versions/1/infer' => { id => '1', parameters => { max_new_tokens => 2 }, inputs => [ { name => 'i', data => [ 65, 66 ] } ], outputs => [ { name => 'o' } ] },
    '/tokenize'            => { inputs => "h\x{e9}llo" },
    '/chat_tokenize'       => {@hi},
    '/detokenize'          => { tokens => [ 1, 2, 3 ] },
);

my @odd = (undef, 0, -1, 1.5, 1e300, -1e300, 2**31, 2**32, 2**53, '', 'x', "\0", "\x{ffff}", 'y' x 5000, [], {}, [ [] ], [undef], { '' => 1 }, $true, JSON::PP::false);

sub pick { return $_[ rand @_ ] }

# a copy in which one value, one name or one member is another
sub twist {
    my ($v) = @_;
    return pick(@odd) if rand() < 0.25 || !ref $v || ref $v eq 'JSON::PP::Boolean';
    if (ref $v eq 'ARRAY') {
        my @copy = @$v;
        return \@copy unless @copy;
        my $i = int rand @copy;
        my $how = rand;
        if    ($how < 0.2) { splice @copy, $i, 1 }
        elsif ($how < 0.4) { push @copy, ($copy[$i]) x pick(1, 2, 40) }
        else               { $copy[$i] = twist($copy[$i]) }
        return \@copy;
    }
    my %copy = %$v;
    my $key = pick(sort keys %copy) // 'x';
    my $how = rand;
    if    ($how < 0.15) { delete $copy{$key} }
    elsif ($how < 0.3)  { $copy{ $key . pick('', 's', "\0") } = pick(@odd) }
    else                { $copy{$key} = twist($copy{$key}) }
    return \%copy;
}

# bytes that are not quite JSON
sub damage {
    my ($text) = @_;
    for (1 .. pick(1, 1, 2, 5)) {
        my $i = int rand(1 + length $text);
        my $how = int rand 6;
        if    ($how == 0) { $text = substr $text, 0, $i }
        elsif ($how == 1) { substr($text, $i, 1) = chr int rand 256 if $i < length $text }
        elsif ($how == 2) { substr($text, $i, 0) = pick('{', '[', '"', '}', ']', ',', ':', '\\', '\\u', '\\ud800', "\0", 'null', '1e', '-', "\xff\xfe", "\xed\xa0\x80") }
        elsif ($how == 3) { substr($text, $i, 3) = '' if $i + 3 < length $text }
        elsif ($how == 4) { substr($text, $i, 0) = pick('[' x 3000, '9' x 500, ' ' x 3000, '"' . 'z' x 3000) }
        else              { $text =~ s/"(\w+)":/"$1":"$1","$1":/ }
    }
    return $text;
}

my $kept;
for my $path (sort keys %bodies) {
    my (%status, @bad);
    for my $i (1 .. $PER_ROUTE) {
        my $text = $LLM::HTTP::JSON->encode($i % 2 ? twist($bodies{$path}) : $bodies{$path});
        $text = damage($text) unless $i % 2;
        my $x = $http->request(POST => $path, body => $text, keep => 1, headers => [ 'Content-Type', 'application/json' ], ($kept ? (on => $kept) : ()));
        $kept = $x->complete && ($x->header('connection') || '') ne 'close' ? $x : undef;
        my $status = $x->status || 0;
        $status{$status}++;
        my $error = $status == 200 ? 1 : ref $x->json eq 'HASH' && defined $x->json->{error} && defined $x->json->{error_type};
        my $expected = $status =~ /^(?:200|400|422|429)$/ || ($path eq '/vertex' && $status == 500);
        push @bad, "$i: $status " . ($x->error || substr $x->body, 0, 200) . ' for ' . substr $text, 0, 300 unless $x->complete && $error && $expected && $kept;
        next if $i % 5;
        my $probe = $http->request(POST => '/generate', json => \%probe, keep => 1, ($kept ? (on => $kept) : ()));
        push @bad, "$i: the next request: " . ($probe->error || $probe->body) unless ($probe->body // '') eq $want;
        $kept = $probe->complete ? $probe : undef;
    }
    ok !@bad, "$path: " . join ', ', map { "$status{$_} times $_" } sort keys %status or diag "seed $SEED\n", join "\n", splice @bad, 0, 5;
    cmp_ok +($status{400} || 0) + ($status{422} || 0), '>', $PER_ROUTE / 4, 'many of them were damaged';
}

subtest 'damaged heads' => sub {
    my @heads = ("POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", "POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", "POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        "POST /generate\r\n\r\n", "POST /%zz HTTP/1.1\r\nHost: x\r\n\r\n", "POST /../generate HTTP/1.1\r\nHost: x\r\n\r\n", "\0\0\0\r\n\r\n", 'POST /generate HTTP/1.1' . ("\r\nX: " . 'y' x 9000) x 6 . "\r\n\r\n",
        "POST /generate HTTP/1.1\r\n\r\n", "POST /generate HTTP/9.9\r\nHost: x\r\n\r\n");
    for my $head (@heads) {
        my $x = $http->send_raw($head, method => 'POST')->wait(5);
        ok !$x->status || $x->status >= 400, 'refused: ' . substr($head =~ s/[^ -~]/./gr, 0, 60) or diag $x->status;
    }
    for my $path ('/generate%00', '/generate?' . 'a' x 2000, '//generate', '/./generate', '/x/../generate') {
        my $status = $http->post($path, \%probe)->status;
        ok $status == 200 || $status == 400 || $status == 404, substr($path, 0, 20) . ": $status";
    }
};

is_deeply [ $n->workers ], [$worker], 'the worker is the same';
is $http->post('/generate', \%probe)->body, $want, 'and well';
$n->stop;
undef $n;
done_testing;
