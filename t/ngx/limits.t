# limits.t - each limit where it may be set (http, server, location, if), inherited, honoured and shown; places and queue with
# 429 and Retry-After; keys of the API.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Time::HiRes 'sleep';
use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my @limits = (    # directive, field of /info, default, values for http, server, location and if
    [ llm_max_concurrent_requests => max_concurrent_requests => 128, 90, 91, 92, 93 ],
    [ llm_max_best_of             => max_best_of             => 2,   10, 11, 12, 13 ],
    [ llm_max_stop_sequences      => max_stop_sequences      => 16,  20, 21, 22, 23 ],
    [ llm_max_client_batch_size   => max_client_batch_size   => 32,  40, 41, 42, 43 ],
    [ llm_max_total_tokens        => max_total_tokens        => 256, 90, 91, 92, 93 ],
    [ llm_max_input_tokens        => max_input_tokens        => 255, 50, 51, 52, 53 ],
);
my @at = map { my $i = $_; join ' ', map { "$_->[0] $_->[$i];" } @limits } 0 .. 6;

my $n = LLM::Nginx->new(ports => 3);
my $conf = <<"EOC";
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 256; kv_cache 32m; }
    llm_model two { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 100000; kv_cache 400m; parallel 2; slots 8; }
    map \$arg_key \$key { default ""; a from-variable; }
    server { listen 127.0.0.1:%%PORT%%; location / { llm_pass m; } HTTP_LEVEL }
    server {
        listen 127.0.0.1:%%PORT1%%;
        $at[4]
        location / { llm_pass m; }
        location /loc/ { llm_pass m; $at[5] if (\$arg_if) { llm_pass m; $at[6] } }
    }
    server {
        listen 127.0.0.1:%%PORT2%%;
        location / { llm_pass m; llm_max_best_of 3; llm_max_stop_sequences 2; llm_max_top_n_tokens 4; llm_max_client_batch_size 3;
            llm_max_input_tokens 10; llm_max_total_tokens 20; llm_max_concurrent_requests 6; }
        location /none/ { llm_pass m; llm_max_best_of 1; llm_max_stop_sequences 0; llm_max_top_n_tokens 0; llm_max_client_batch_size 1; }
        location /few/ { llm_pass m; llm_max_concurrent_requests 2; }
        location /cheap/ { llm_pass m; llm_prefill_logprobs off; }
        location /two/ { llm_pass two; llm_max_total_tokens 100000; }
        location /two/queue/ { llm_pass two; llm_max_total_tokens 100000; llm_max_queue 0; }
        location /two/queue1/ { llm_pass two; llm_max_total_tokens 100000; llm_max_queue 1; }
        location /key/ { llm_pass m; llm_api_key one "two words" \$key; location /key/open/ { llm_pass m; llm_api_key off; } location /key/in/ { llm_pass m; } }
        location /nokey/ { llm_pass m; llm_api_key \$key; }
    }
EOC
$n->conf($conf =~ s/HTTP_LEVEL//r);
$n->start;
my ($http, $server, $small) = map { LLM::HTTP->new(port => $n->port($_)) } 0 .. 2;

sub info { my ($where, $path) = @_; my $i = $where->get($path)->json; return [ map { $i->{ $_->[1] } } @limits ] }

subtest 'defaults and levels' => sub {
    is_deeply info($http, '/info'), [ map { $_->[2] } @limits ], 'defaults';
    is_deeply info($server, '/info'), [ map { $_->[4] } @limits ], 'of the server';
    is_deeply info($server, '/loc/info'), [ map { $_->[5] } @limits ], 'of the location';
    is_deeply info($server, '/loc/info?if=1'), [ map { $_->[6] } @limits ], 'of an if block';
    ok $n->reload("$at[3]\n" . $conf =~ s/HTTP_LEVEL//r), 'reload';
    ok $n->wait_for(sub { $n->workers == 1 }), 'the old workers have gone';
    is_deeply info($http, '/info'), [ map { $_->[3] } @limits ], 'of http';
    is_deeply info($server, '/info'), [ map { $_->[4] } @limits ], 'the server is nearer';
};

subtest 'at the limit and beyond it' => sub {
    my @hi = (messages => [ { role => 'user', content => 'hi' } ]);
    my %sampled = (do_sample => $true, max_new_tokens => 1);
    for (
        [ 'best_of 3',       '/generate', { inputs => 'a', parameters => { %sampled, best_of => 3 } } ],
        [ 'best_of 4',       '/generate', { inputs => 'a', parameters => { %sampled, best_of => 4 } }, '`best_of` must be > 0 and <= 3. Given: 4' ],
        [ 'best_of, O',      '/v1/completions', { prompt => 'a', max_tokens => 1, best_of => 3 } ],
        [ 'best_of 4, O',    '/v1/completions', { prompt => 'a', max_tokens => 1, best_of => 4 }, '`best_of` must be > 0 and <= 3. Given: 4' ],
        [ 'no best_of',      '/none/generate', { inputs => 'a', parameters => { %sampled, best_of => 2 } }, '`best_of` != 1 is not allowed for this endpoint' ],
        [ '2 stops',         '/generate', { inputs => 'a', parameters => { max_new_tokens => 1, stop => [ 'x', 'y' ] } } ],
        [ '3 stops',         '/generate', { inputs => 'a', parameters => { max_new_tokens => 1, stop => [qw(x y z)] } }, '`stop` supports up to 2 stop sequences. Given: 3' ],
        [ 'no stops',        '/none/generate', { inputs => 'a', parameters => { stop => ['x'] } }, '`stop` supports up to 0 stop sequences. Given: 1' ],
        [ 'none of none',    '/none/generate', { inputs => 'a', parameters => { max_new_tokens => 1, stop => [] } } ],
        [ 'top 4',           '/generate', { inputs => 'a', parameters => { max_new_tokens => 1, top_n_tokens => 4 } } ],
        [ 'top 5',           '/generate', { inputs => 'a', parameters => { max_new_tokens => 1, top_n_tokens => 5 } }, '`top_n_tokens` must be >= 0 and <= 4. Given: 5' ],
        [ 'logprobs 5',      '/v1/completions', { prompt => 'a', max_tokens => 1, logprobs => 5 }, '`logprobs` must be >= 0 and <= 4. Given: 5' ],
        [ '3 prompts',       '/v1/completions', { prompt => [qw(a b c)], max_tokens => 1 } ],
        [ '4 prompts',       '/v1/completions', { prompt => [qw(a b c d)], max_tokens => 1 }, 'Number of prompts exceeds the maximum allowed batch size of 3' ],
        [ '4 choices',       '/v1/completions', { prompt => 'a', n => 4, max_tokens => 1 }, '`n` must be > 0 and <= 3. Given: 4' ],
        [ '10 tokens',       '/v1/completions', { prompt => [ (5) x 10 ], max_tokens => 10 } ],
        [ '11 tokens',       '/v1/completions', { prompt => [ (5) x 11 ], max_tokens => 1 }, '`inputs` must have less than 10 tokens. Given: 11' ],
        [ '10 and 11',       '/v1/completions', { prompt => [ (5) x 10 ], max_tokens => 11 },
            '`inputs` tokens + `max_new_tokens` must be <= 20. Given: 10 `inputs` tokens and 11 `max_new_tokens`' ],
        [ 'truncate 10',     '/generate', { inputs => 'a b c d e f g h i j k l m', parameters => { max_new_tokens => 1, truncate => 10 } } ],
        [ 'truncate 11',     '/generate', { inputs => 'a', parameters => { truncate => 11 } }, '`truncate` must be strictly positive and less than 10. Given: 11' ],
        [ '6 places',        '/v1/completions', { prompt => [qw(a b)], n => 3, max_tokens => 1 } ],
    ) {
        my ($name, $path, $body, $message) = @$_;
        my $x = $small->post($path, $body);
        my $error = ($x->json || {})->{error};
        $error = $error->{message} if ref $error;
        is_deeply [ $x->status, $error ], $message ? [ 422, $message =~ /^Number/ ? $message : "Input validation error: $message" ] : [ 200, undef ], $name;
    }
    my $x = $small->post('/v1/completions', { prompt => [qw(a b c)], n => 3, max_tokens => 1 });
    is_deeply [ $x->status, $x->json->{error}{type}, $x->json->{error_type} ], [ 429, 'rate_limit_error', 'overloaded' ], '9 of 6 places';
    like $x->header('retry-after'), qr/^[1-9]\d*$/, 'Retry-After';
};

subtest 'llm_prefill_logprobs off' => sub {
    my %body = (inputs => 'a b c', parameters => { max_new_tokens => 2, decoder_input_details => $true });
    my $on = $http->post('/generate', \%body)->json;
    my $off = $small->post('/cheap/generate', \%body)->json;
    ok @{ $on->{details}{prefill} } > 1, 'on: the tokens of the prompt';
    is_deeply $off, { %$on, details => { %{ $on->{details} }, prefill => [] } }, 'off: none, the rest is the same';
    my %echo = (prompt => 'a', max_tokens => 1, echo => $true, logprobs => 1);
    is $http->post('/v1/completions', \%echo)->status, 200, 'on: echo with logprobs';
    is $small->post('/cheap/v1/completions', \%echo)->json->{error}{message}, 'Input validation error: `echo` with `logprobs` is not allowed for this endpoint', 'off: refused';
    is $small->post('/cheap/v1/completions', { %echo, logprobs => undef })->status, 200, 'echo alone';
};

subtest 'llm_max_queue' => sub {
    my %long = (inputs => 'A', parameters => { max_new_tokens => 90_000, ignore_eos => $true });
    my %short = (inputs => 'A', parameters => { max_new_tokens => 1 });
    my $waiting = sub { my ($v) = $http->get('/metrics')->body =~ /^tgi_queue_size\{model="two"[^}]*\} (\d+)/m; $v };
    is $small->post('/two/queue/generate', \%short)->status, 200, 'nobody waits';
    my @running = map { $small->send(POST => '/two/generate', json => \%long) } 1 .. 3;
    ok $n->wait_for(sub { $waiting->() == 1 }), 'one waits behind two';
    my $x = $small->post('/two/queue/generate', \%short);
    is_deeply [ $x->status, $x->json ], [ 429, { error => 'Model is overloaded', error_type => 'overloaded' } ], 'llm_max_queue 0: no more';
    ok $x->header('retry-after'), 'Retry-After';
    my $second = $small->send(POST => '/two/queue1/generate', json => \%short);
    ok $n->wait_for(sub { $waiting->() == 2 }), 'llm_max_queue 1: one more';
    is $small->post('/two/queue1/generate', \%short)->status, 429, 'and then no more';
    $_->close for @running;
    is $second->wait->status, 200, 'who waits is served';
};

# of a third of a second each
subtest 'grammars that are compiled have places too' => sub {
    my $grammar = sub { return { inputs => 'a', parameters => { max_new_tokens => 3, grammar => { type => 'regex', value => $_[0] } } } };
    my $hostile = sub { $small->send(POST => '/few/generate', json => $grammar->("(([a-z]{0,30}x){0,$_[0]}y){0,30}")) };
    my @all = map { $hostile->($_) } 61 .. 66;
    LLM::HTTP::wait_all(60, @all);
    my @refused = grep { $_->status == 429 } @all;
    ok @refused >= 1, 'no more than there are places';
    is_deeply [ map { $_->json->{error_type} } @refused ], [ ('overloaded') x @refused ], 'error_type';
    is scalar(grep { $_->status == 422 } @all), 6 - @refused, 'the others are too complex';
    my @left = map { $hostile->($_) } 71, 72;
    sleep 0.05;
    $_->abort for @left;
    ok $n->wait_for(sub { $small->post('/few/generate', $grammar->('abc'))->status == 200 }), 'clients that leave give their places back';
};

subtest 'llm_api_key' => sub {
    my %body = (inputs => 'a', parameters => { max_new_tokens => 1 });
    my $status = sub { my ($path, @h) = @_; $small->post($path, \%body, headers => \@h)->status };
    my $x = $small->post('/key/generate', \%body);
    is_deeply [ $x->status, $x->json ], [ 401, { error => 'Invalid API key', error_type => 'unauthorized' } ], 'none';
    is_deeply $small->post('/key/v1/chat/completions', {})->json->{error}, { message => 'Invalid API key', type => 'authentication_error',
        param => undef, code => 401 }, 'OpenAI form';
    is $status->('/key/generate', Authorization => "Bearer $_"), 200, "Bearer $_" for 'one', 'two words';
    is $status->('/key/generate', Authorization => $_), 401, $_ for 'Bearer on', 'Bearer onee', 'Bearer One', 'Bearer ', 'Bearer oneone', 'one', 'Basic one', 'Bearer $key', 'Bearer from-variable';
    is $status->('/key/generate', Authorization => 'bearer one'), 200, 'the scheme in any case';
    is $status->('/key/generate', 'api-key' => 'one'), 200, 'api-key';
    is $status->('/key/generate?key=a', 'api-key' => 'from-variable'), 200, 'a variable';
    is $status->("/key/$_"), 401, "$_ too" for qw(tokenize chat_tokenize vertex invocations v1/completions);
    is $status->('/key/in/generate'), 401, 'inherited';
    is $status->('/key/open/generate'), 200, 'off';
    is $small->get("/key/$_")->status, 200, "GET $_ stays open" for qw(health ping info v1/models metrics openapi.json);
    is $small->request(OPTIONS => '/key/generate')->status, 204, 'so does OPTIONS';
    is $status->('/nokey/generate', Authorization => 'Bearer '), 401, 'an empty key opens nothing';
    is $status->('/generate', Authorization => 'Bearer anything'), 200, 'without keys the header is ignored';
    my $kept = $small->post('/key/generate', { %body, pad => 'x' x 100_000 }, keep => 1);
    is $small->post('/key/generate', \%body, headers => [ 'api-key', 'one' ], on => $kept)->status, 200, 'the connection goes on';
};

$n->stop;
undef $n;
done_testing;
