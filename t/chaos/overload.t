# overload.t - more clients than places, many of which leave in the middle: the rest get 429 or their whole text, the
# server stays responsive, and in the end no place is lost.

use strict;
use warnings;
use lib 't/lib';

use Test::More;
use Time::HiRes qw(time);

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

use constant { MODEL => '%%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf', CLIENTS => 96, LIMIT => 120 };
my $rounds = $ENV{LLM_TEST_LONG} ? 40 : 2;

my $n = LLM::Nginx->new(workers => 2);
$n->conf(<<"EOC");
    llm_model m { weights @{[MODEL]}; context 256; parallel 8; }
    llm_max_concurrent_requests 32;
    server {
        listen 127.0.0.1:%%PORT%% backlog=1024;
        location / { llm_pass m; }
        location = /plain { return 200 ok; }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port, timeout => LIMIT);

sub request { return { inputs => "client $_[0] says", parameters => { max_new_tokens => 100, seed => $_[0] + 1,
    do_sample => JSON::PP::true } } }

my $want = $http->post('/generate_stream', request(0))->body;
srand 7;
for my $round (1 .. $rounds) {
    my (@stay, @leave);
    for my $i (0 .. CLIENTS - 1) {
        my $x = $http->send(POST => '/generate_stream', json => request($i));
        push @{ $i % 3 == 1 ? \@leave : \@stay }, $x;
        if (@leave && rand() < 0.3) {
            my $gone = splice @leave, int rand @leave, 1;
            rand() < 0.5 ? $gone->abort : $gone->close;
        }
    }
    my $start = time;
    is $http->get('/plain')->body, 'ok', "round $round: another location answers";
    cmp_ok time - $start, '<', 5, 'soon';
    $_->abort for @leave;
    LLM::HTTP::wait_all(LIMIT, @stay);
    my %status;
    $status{ $_->status || $_->error }++ for @stay;
    my $served = $status{200} || 0;
    is $served + ($status{429} || 0), scalar @stay, 'every other client has 200 or 429'
        or diag join ', ', map { "$_: $status{$_}" } sort keys %status;
    cmp_ok $served, '>=', 8, 'some are served';
    is scalar(grep { !$_->complete } @stay), 0, 'no answer is cut';
    my ($refused) = grep { $_->status == 429 } @stay;
    if ($refused) {
        is $refused->json->{error_type}, 'overloaded', '429 says overloaded';
        ok $refused->header('retry-after'), 'and when to come back';
    }
    ok $n->wait_for(sub { $http->get('/metrics')->body =~ /^tgi_batch_current_size(?:\{[^}]*\})? 0$/m }, 20),
        'all places are free again';
    is $http->post('/generate_stream', request(0))->body, $want, 'and the server is as new';
}
$n->stop;

done_testing;
