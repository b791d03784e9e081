# tokenize.t - /tokenize in its three forms, /chat_tokenize, /detokenize: ids of the fixtures' reference tokenizers.

use strict;
use warnings;
use lib 't/lib';
use utf8;

use JSON::PP ();
use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my %models = (llama => 'llama-F32', smollm2 => 'smollm2-Q4_1');
my $n = LLM::Nginx->new;
$n->conf(join '', (map { "llm_model $_ { weights %%ROOT%%/t/fixtures/gguf/$models{$_}.gguf; context 64; kv_cache 8m; }\n" }
    sort keys %models), 'server { listen 127.0.0.1:%%PORT%%; client_max_body_size 4m;',
    (map { "location /$_/ { llm_pass $_; }\n" } sort keys %models), '}');
$n->start;
my $http = LLM::HTTP->new(port => $n->port);

for my $model (sort keys %models) {
    my $fixture = do {
        open my $f, '<', "t/fixtures/gguf/$models{$model}.expected.json" or die $!;
        local $/;
        JSON::PP::decode_json(<$f>);
    };
    for my $case (@{ $fixture->{cases} }) {
        my ($text, $ids) = @$case{qw(prompt input_ids)};
        subtest "$model: " . substr($text, 0, 8) => sub {
            my $t = $http->post("/$model/tokenize", { inputs => $text })->json;
            is_deeply [ map { $_->{id} } @$t ], $ids, 'native: ids';
            my $bytes = $text;
            utf8::encode($bytes);
            is_deeply [ grep { $_->{stop} } map { { %$_, text => substr($bytes, $_->{start}, $_->{stop} - $_->{start}) } } @$t ],
                [ grep { $_->{stop} } @$t ], 'native: text is the slice of the input';
            is_deeply $http->post("/$model/tokenize", { prompt => $text })->json,
                { tokens => $ids, count => scalar @$ids, max_model_len => 64 }, 'prompt: special tokens by default';
            my @plain = grep { $_ != 1 || $model ne 'llama' } @$ids;
            is_deeply $http->post("/$model/tokenize", { prompt => $text, add_special_tokens => $false })->json->{tokens}, \@plain,
                'prompt: without them';
            is_deeply $http->post("/$model/tokenize", { content => $text })->json, { tokens => \@plain }, 'content';
            is_deeply $http->post("/$model/tokenize", { content => $text, add_special => $true })->json->{tokens}, $ids,
                'content: with special tokens';
            my $d = $http->post("/$model/detokenize", { tokens => \@plain })->json;
            is $d->{prompt}, $text, 'and back';
            is $d->{content}, $d->{prompt}, 'under both names';
        };
    }
    next if $model eq 'llama';
    my $greedy = $fixture->{cases}[0]{greedy};
    is $http->post("/$model/detokenize", { tokens => $greedy->{ids} })->json->{prompt}, $greedy->{text},
        "$model: text of arbitrary tokens";
}

subtest 'pieces' => sub {
    my $p = $http->post('/smollm2/tokenize', { content => 'one two', with_pieces => $true })->json->{tokens};
    is join('', map { $_->{piece} } @$p), 'one two', 'concatenate to the text';
};

subtest 'long texts' => sub {
    my $text = 'one two ' x 25_000;
    my $t = $http->post('/smollm2/tokenize', { prompt => $text })->json;
    is $t->{count}, scalar @{ $t->{tokens} }, 'counted';
    is $http->post('/smollm2/detokenize', { tokens => $t->{tokens} })->json->{prompt}, $text, 'and back';
    is $http->request(POST => '/smollm2/detokenize', body => '{"tokens":[5.0,6e0]}', headers => [ 'Content-Type', 'application/json' ])->body,
        $http->post('/smollm2/detokenize', { tokens => [ 5, 6 ] })->body, '1.0 is a token id too';
    my $many = $http->post('/smollm2/tokenize', { inputs => $text });
    is scalar @{ $many->json }, $t->{count}, 'native form';
    my $slow = $http->send(POST => '/smollm2/tokenize', json => { inputs => $text });
    my $x = $http->get('/smollm2/health');
    ok !$slow->{done} && $x->status == 200 && $x->elapsed < 0.5, 'others are served meanwhile' or diag $x->elapsed;
    $slow->wait;
    is $slow->status, 200, 'and it ends';
    $http->send(POST => '/smollm2/tokenize', json => { inputs => $text })->abort for 1 .. 3;
    is $http->get('/smollm2/health')->status, 200, 'a client may leave in the middle';
};

subtest 'refused' => sub {
    for ([ 'tokenize', {}, qr/missing field `inputs`/ ], [ 'tokenize', { inputs => 5 }, qr/inputs: invalid value/ ],
        [ 'detokenize', {}, qr/missing field `tokens`/ ], [ 'detokenize', { tokens => ['a'] }, qr/tokens: invalid type/ ],
        [ 'detokenize', { tokens => [-1] }, qr/must be >= 0 and < 448\. Given: -1/ ],
        [ 'detokenize', { tokens => [448] }, qr/must be >= 0 and < 448\. Given: 448/ ],
        [ 'chat_tokenize', {}, qr/missing field `messages`/ ])
    {
        my ($route, $body, $re) = @$_;
        my $x = $http->post("/llama/$route", $body);
        is $x->status, 422, "$route " . $LLM::HTTP::JSON->encode($body);
        like $x->json->{error}, $re, 'message';
    }
};

$n->stop;
undef $n;
done_testing;
