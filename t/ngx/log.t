# log.t - variables for logs, counters and histograms of /metrics, the request id.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my $true = JSON::PP::true;
my $n = LLM::Nginx->new(workers => 2);
$n->conf(<<'EOC');
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 20000; kv_cache 64m; }
    log_format llm '$uri $status model=$llm_model prompt=$llm_prompt_tokens cached=$llm_cached_tokens new=$llm_generated_tokens '
                   'queue=$llm_queue_time first=$llm_first_token_time why=$llm_finish_reason id=$request_id';
    access_log %%DIR%%/llm.log llm;
    server {
        listen 127.0.0.1:%%PORT%%;
        location / { llm_pass m; }
        location = /metrics { llm_pass m; access_log off; }
        location /static/ { return 200; }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);

# the line that the next request leaves in the log
sub logged {
    my ($request) = @_;
    my $seen = length $n->read_file('llm.log');
    my $x = $request->();
    $n->wait_for(sub { length $n->read_file('llm.log') > $seen });
    my ($line) = split /\n/, substr $n->read_file('llm.log'), $seen;
    return ($line, $x);
}

sub metrics {
    my %m;
    for (split /\n/, $http->get('/metrics')->body) {
        next if /^#/;
        my ($name, $value) = /^(\S+) (\S+)$/ or next;
        $m{$name} = $value;
    }
    return \%m;
}

my $before = metrics();

subtest 'variables' => sub {
    my ($line, $x) = logged(sub { $http->post('/generate', { inputs => 'A', parameters => { max_new_tokens => 4 } }) });
    my $id = $x->header('x-request-id');
    like $line, qr/^\/generate 200 model=m prompt=3 cached=0 new=4 queue=\d\.\d{3} first=\d\.\d{3} why=length id=$id$/, 'a request';
    ($line) = logged(sub { $http->post('/generate', { inputs => 'A', parameters => { top_k => 0 } }) });
    like $line, qr/ 422 model=m prompt=- cached=- new=- queue=- first=- why=error /, 'a refused one';
    ($line) = logged(sub { $http->post('/generate', { inputs => 'A', parameters => { max_new_tokens => 9, logit_bias => { 2 => 100 } } }) });
    like $line, qr/ new=1 .* why=eos_token /, 'EOS';
    ($line) = logged(sub { $http->post('/generate_stream', { inputs => 'A', parameters => { max_new_tokens => 3 } }) });
    like $line, qr/^\/generate_stream 200 .* new=3 .* why=length /, 'a stream';
    ($line) = logged(sub { my $x = $http->send(POST => '/generate_stream', json => { inputs => 'A', parameters => {
        max_new_tokens => 15_000, ignore_eos => $true } }); $x->event(10); $x->close });
    like $line, qr/ 200 .* new=\d+ .* why=dropped /, 'a client that has left';
    ($line) = logged(sub { $http->get('/info') });
    like $line, qr/^\/info 200 model=m prompt=- .* why=- /, 'no generation';
    ($line) = logged(sub { $http->get('/static/') });
    like $line, qr/^\/static\/ 200 model=- prompt=- /, 'elsewhere';
    my $long = join ' ', map { "word $_" } 1 .. 50;
    logged(sub { $http->post('/generate', { inputs => $long, parameters => { max_new_tokens => 1 } }) });
    ($line) = logged(sub { $http->post('/generate', { inputs => $long, parameters => { max_new_tokens => 1 } }) });
    my ($prompt, $cached) = $line =~ / prompt=(\d+) cached=(\d+) /;
    ok $cached > $prompt / 2 && $cached < $prompt, 'cached tokens of a prompt seen before' or diag $line;
};

subtest 'metrics' => sub {
    my $x = $http->get('/metrics');
    is $x->header('content-type'), 'text/plain; version=0.0.4; charset=utf-8', 'type';
    my $m = metrics();
    my $d = sub { my $k = $_[0]; ($m->{$k} || 0) - ($before->{$k} || 0) };
    is $d->('tgi_request_count{model="m"}'), 7, 'requests: only those that generate';
    is $d->('tgi_request_success{model="m"}'), 5, 'success';
    is $d->('tgi_request_failure{model="m",err="validation"}'), 1, 'validation';
    is $d->('tgi_request_failure{model="m",err="dropped"}'), 1, 'dropped';
    is $d->('tgi_request_duration_count{model="m"}'), 5, 'durations';
    is $d->('tgi_request_generated_tokens_count{model="m"}'), 5, 'generated tokens';
    is $d->('tgi_request_generated_tokens_sum{model="m"}'), 4 + 1 + 3 + 1 + 1, 'their sum';
    ok $d->('tgi_request_input_length_count{model="m"}') >= 6, 'input lengths';
    is $m->{'tgi_request_duration_bucket{model="m",le="+Inf"}'}, $m->{'tgi_request_duration_count{model="m"}'}, '+Inf is all';
    my $last = 0;
    my @b = $x->body =~ /^tgi_request_duration_bucket\{model="m",le="[\d.]+"\} (\d+)$/mg;
    is scalar(@b), 35, '35 buckets of time';
    ok !(grep { my $bad = $_ < $last; $last = $_; $bad } @b), 'cumulative';
    is scalar(() = $x->body =~ /^tgi_request_input_length_bucket\{/mg), 101, '100 buckets of tokens';
    like $x->body, qr/^tgi_request_duration_bucket\{model="m",le="0\.000150000"\} \d+$/m, 'the first bound';
    ok exists $m->{"$_\{model=\"m\"}"}, $_ for qw(tgi_queue_size tgi_batch_current_size tgi_batch_current_max_tokens
        tgi_batch_max_total_tokens llm_leader_pid llm_pages_total llm_pages_free llm_pages_cached llm_engine_takeovers);
    my %names = map { $_ => 1 } $x->body =~ /^(\w+?)(?:_bucket|_sum|_count)?\{/mg;
    my %typed = map { $_ => 1 } $x->body =~ /^# TYPE (\w+) (?:counter|gauge|histogram)$/mg;
    is_deeply [ grep { !$typed{$_} && !$typed{"${_}_count"} } sort keys %names ], [], 'each has a type';
    my @pids = $n->workers;
    ok scalar(grep { $_ == $m->{'llm_leader_pid{model="m"}'} } @pids), 'the leader is one of the workers';
};

$n->stop;
undef $n;
done_testing;
