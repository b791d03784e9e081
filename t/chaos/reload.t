# reload.t - reloads in the middle of many streams: none is cut, each has the bytes that it has alone, old workers end.

use strict;
use warnings;
use lib 't/lib';

use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();
my $model = LLM::Nginx::real_model() or LLM::Nginx::skip_all('no real model (LLM_TEST_MODEL)');

use constant { STREAMS => 12, TOKENS => 40, WORKERS => 2, LIMIT => 240 };
my $rounds = $ENV{LLM_TEST_LONG} ? 30 : 3;

my $n = LLM::Nginx->new(workers => WORKERS);
my $conf = <<"EOC";
    llm_model m { weights "$model"; context 512; }
    server {
        listen 127.0.0.1:%%PORT%%;
        location / { llm_pass m; }
        location = /round { return 200 ROUND; }
    }
EOC
$n->conf($conf);
$n->start;
my $http = LLM::HTTP->new(port => $n->port, timeout => LIMIT);

my @requests = map { {
    inputs => "Recipe $_: take two eggs and",
    parameters => { max_new_tokens => TOKENS, do_sample => JSON::PP::true, seed => 50 + $_, top_k => 50 },
} } 1 .. STREAMS;
my @want = map { $http->post('/generate_stream', $_)->body } @requests;

for my $round (1 .. $rounds) {
    my %old = map { $_ => 1 } $n->workers;
    my @x = map { $http->send(POST => '/generate_stream', json => $_) } @requests;
    $x[0]->wait_until(sub { @{ $x[0]->events } >= 2 }, 60);
    ok $n->reload($conf =~ s/ROUND/round-$round/r), "reload $round";
    is LLM::HTTP::wait_all(LIMIT, @x), STREAMS, 'every stream is whole';
    is scalar(grep { $x[$_]->body eq $want[$_] } 0 .. $#x), STREAMS, 'with the same bytes';
    ok $n->wait_for(sub { !grep { $old{$_} } $n->workers }, 30), 'the old workers ended';
    is $http->get('/round')->body, "round-$round", 'the new configuration serves';
}

# a reload that cannot load its model leaves everything as it was
ok !$n->reload($conf =~ s{weights "[^"]*"}{weights "%%ROOT%%/t/fixtures/malformed/bad_magic.gguf"}r), 'a bad model is refused';
is $http->post('/generate_stream', $requests[0])->body, $want[0], 'and the old one goes on';
$n->stop(allow => qr/bad_magic/);

done_testing;
