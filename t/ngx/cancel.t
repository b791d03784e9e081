# cancel.t - a client that leaves frees its place within a step: before the first token, in the middle of a stream, with
# FIN, RST and half-close, over several workers; and what ends a request otherwise: deadlines, a full queue.

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
$n->conf(<<'EOC');
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 100000; kv_cache 400m; slots 4; parallel 2; }
    server {
        listen 127.0.0.1:%%PORT%%;
        location / { llm_pass m; llm_sse_keepalive 300ms; }
        location /short/ { llm_pass m; llm_generation_timeout 400ms; }
        location /queue/ { llm_pass m; llm_queue_timeout 300ms; }
        location /two/ { llm_pass m; llm_max_concurrent_requests 2; }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);
my %long = (inputs => 'A', parameters => { max_new_tokens => 90_000, ignore_eos => $true });

sub metric {
    my ($name, $labels) = @_;
    my ($v) = $http->get('/metrics')->body =~ /^\Q$name\E\{model="m"\Q@{[$labels || '']}\E\} (\S+)$/m;
    return $v;
}

# the batch is empty and every slot can be taken again
sub idle {
    return $n->wait_for(sub { metric('tgi_batch_current_size') == 0 && metric('tgi_queue_size') == 0 && metric('llm_slots_used') == 0 }, 5);
}

sub stream {
    my ($path) = @_;
    my $x = $http->send(POST => ($path || '') . '/generate_stream', json => \%long);
    return $x;
}

for my $how (qw(close abort half_close)) {
    subtest "in the middle of a stream: $how" => sub {
        my $dropped = metric('tgi_request_failure', ',err="dropped"');
        my $x = stream();
        ok $x->event(10), 'a first event';
        ok $n->wait_for(sub { metric('tgi_batch_current_size') == 1 }), 'one runs';
        $x->$how;
        ok idle(), 'its place is free';
        is metric('tgi_request_failure', ',err="dropped"'), $dropped + 1, 'counted as dropped';
    };
}

subtest 'not a stream' => sub {
    my $x = $http->send(POST => '/generate', json => \%long);
    ok $n->wait_for(sub { metric('tgi_batch_current_size') == 1 }), 'it runs';
    $x->close;
    ok idle(), 'its place is free';
};

subtest 'right after the request' => sub {
    my @x = map { stream() } 1 .. 3;
    $_->close for @x;
    ok idle(), 'all places are free';
};

subtest 'several choices' => sub {
    my $x = $http->send(POST => '/v1/chat/completions', json => { messages => [ { role => 'user', content => 'a' } ], n => 3,
        stream => $true, max_tokens => 9000, ignore_eos => $true });
    ok $n->wait_for(sub { metric('tgi_batch_current_size') + metric('tgi_queue_size') == 3 }), 'three jobs'
        or diag $x->wait(1)->body;
    $x->close;
    ok idle(), 'all are closed';
};

subtest 'waiting in the queue' => sub {
    my @running = map { my $x = stream(); $x->event(10); $x } 1 .. 2;
    my $waits = stream();
    ok $n->wait_for(sub { metric('tgi_queue_size') == 1 }), 'the third waits';
    my $comment = $waits->event(5);
    is $comment->{comment}, '', 'keep-alive comments while it waits';
    is $waits->status, 200, 'the first of them sends the header';
    is $waits->header('content-type'), 'text/event-stream', 'of a stream';
    $waits->close;
    ok $n->wait_for(sub { metric('tgi_queue_size') == 0 }), 'its place is free';
    my $q = $http->post('/queue/generate', \%long);
    is $q->status, 429, 'llm_queue_timeout: 429';
    ok $q->elapsed > 0.25 && $q->elapsed < 5, 'after its time';
    is_deeply $q->json, { error => 'Model is overloaded', error_type => 'overloaded' }, 'body';
    ok $q->header('retry-after'), 'Retry-After';
    ok $n->wait_for(sub { metric('tgi_queue_size') == 0 }), 'its place is free';
    is $http->post('/two/generate', \%long)->status, 429, 'llm_max_concurrent_requests';
    my $before = metric('tgi_request_failure', ',err="overloaded"');
    my @more = map { my $x = stream(); $x } 1 .. 2;
    ok $n->wait_for(sub { metric('tgi_queue_size') == 2 }), 'all slots are taken';
    my $full = $http->post('/generate_stream', \%long);
    is $full->status, 429, 'the next one: 429, also for a stream';
    is $full->json->{error_type}, 'overloaded', 'error_type';
    my $chat = $http->post('/v1/chat/completions', { messages => [ { role => 'user', content => 'a' } ] });
    is_deeply $chat->json->{error}, { message => 'Model is overloaded', type => 'rate_limit_error', param => undef, code => 429 },
        'OpenAI form';
    is metric('tgi_request_failure', ',err="overloaded"'), $before + 2, 'counted';
    $_->close for @running, @more;
    ok idle(), 'free again';
};

subtest 'deadline' => sub {
    my $x = $http->post('/short/generate', \%long);
    is $x->status, 424, 'before the first byte: a status';
    is $x->json->{error_type}, 'generation', 'error_type';
    like $x->json->{error}, qr/^Request failed during generation: not finished after 400 ms$/, 'message';
    $x = stream('/short')->wait;
    ok $x->complete, 'in a stream: a regular end';
    my @e = @{ $x->data };
    is_deeply $e[-1], { error => 'Request failed during generation: not finished after 400 ms', error_type => 'generation' },
        'after an error event';
    ok @e > 1 && $e[0]{token}, 'and the tokens before';
    ok idle(), 'its place is free';
};

$n->stop;
undef $n;
done_testing;
