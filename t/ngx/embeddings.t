# embeddings.t - POST /v1/embeddings: forms of the input, both encodings, pooling, usage, what is refused.

use strict;
use warnings;
use lib 't/lib';
use utf8;

use JSON::PP ();
use MIME::Base64 ();
use Test::More;

use constant TOLERANCE => 1e-3;    # the reference adds up in another order; of vectors of length 1

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my $n = LLM::Nginx->new;

# a copy of a model whose last norm multiplies by infinity (its 32 weights are halves)
my $whole = "$LLM::Nginx::ROOT/t/fixtures/models/smollm2";
mkdir $n->dir . '/infinite' or die $!;
$n->write_file("infinite/$_", $n->read_file("$whole/$_")) for qw(config.json tokenizer.json tokenizer_config.json generation_config.json);
{
    my $tensors = $n->read_file("$whole/model.safetensors");
    my $header = unpack 'Q<', $tensors;
    my ($from, $to) = @{ JSON::PP->new->decode(substr $tensors, 8, $header)->{'model.norm.weight'}{data_offsets} };
    substr $tensors, 8 + $header + $from, $to - $from, pack('v', 0x7c00) x 32;
    $n->write_file('infinite/model.safetensors', $tensors);
}

$n->conf(<<'EOC');
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 256; kv_cache 32m; }
    llm_model ref { weights %%ROOT%%/t/fixtures/models/smollm2; kv_cache 16m f32; }
    llm_model infinite { weights %%DIR%%/infinite; kv_cache 16m f32; }
    server {
        listen 127.0.0.1:%%PORT%%;
        location /infinite/ { llm_pass infinite; }
        location / { llm_pass m; llm_max_client_batch_size 6; }
        location /ref/mean/ { llm_pass ref; }
        location /ref/last/ { llm_pass ref; llm_embedding_pooling last; }
        location /last/ { llm_pass m; llm_embedding_pooling last; }
        location = /one { llm_pass m; llm_embeddings; }
        location /hook/ {
            llm_pass m;
            llm_prompt_by_lua_block { local r = ... if r.input == "bad" then llm.refuse(403, "no") end r.input = r.input .. "!" }
        }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);
my $n_embd = $http->get('/v1/models')->json->{data}[0]{meta}{n_embd};

sub embed { my ($input, %o) = @_; my $path = delete $o{path} || '/v1/embeddings'; return $http->post($path, { input => $input, %o }) }
sub vectors { my $x = embed(@_); return $x->status == 200 ? map { $_->{embedding} } @{ $x->json->{data} } : diag $x->body }

sub dot { my ($p, $q) = @_; my $s = 0; $s += $p->[$_] * $q->[$_] for 0 .. $#$p; return $s }

# of the additions of another batch there may be other roundings
sub near_vectors { my ($p, $q, $name) = @_; ok @$p == @$q && !(grep { abs($p->[$_] - $q->[$_]) > 1e-5 } 0 .. $#$p), $name }

subtest 'object' => sub {
    my $x = embed('The sky is blue', model => 'mine', user => 'u');
    is $x->status, 200, 'status' or diag $x->body;
    my $j = $x->json;
    is_deeply [ sort keys %$j ], [qw(data model object usage)], 'its fields';
    is_deeply [ @$j{qw(object model)} ], [qw(list mine)], 'object, model as asked for';
    is_deeply [ map { @$_{qw(object index)} } @{ $j->{data} } ], [ 'embedding', 0 ], 'one entry';
    my $v = $j->{data}[0]{embedding};
    is scalar @$v, $n_embd, 'of the width of the model';
    ok abs(dot($v, $v) - 1) < 1e-4, 'of length 1' or diag dot($v, $v);
    my $count = $http->post('/tokenize', { prompt => 'The sky is blue' })->json->{count};
    is_deeply $j->{usage}, { prompt_tokens => $count, total_tokens => $count }, 'usage';
    is $x->header('x-prompt-tokens'), $count, 'x-prompt-tokens';
    is embed('a')->json->{model}, 'm', 'served id when no model is named';
    is embed('a', path => $_)->status, 200, $_ for qw(/embeddings /one);
};

subtest 'forms of the input' => sub {
    my @texts = ('The sky is blue', 'A b c d e f g', 'é日本', 'x');
    my @alone = map { vectors($_) } @texts;
    my $x = embed(\@texts);
    my @together = map { $_->{embedding} } @{ $x->json->{data} };
    is_deeply [ map { $_->{index} } @{ $x->json->{data} } ], [ 0 .. 3 ], 'in order';
    near_vectors($together[$_], $alone[$_], "text $_ of a list") for 0 .. 3;
    my @ids = map { $http->post('/tokenize', { prompt => $_ })->json->{tokens} } @texts;
    near_vectors((vectors($ids[0]))[0], $alone[0], 'tokens');
    my @lists = vectors(\@ids);
    near_vectors($lists[$_], $alone[$_], "list of tokens $_") for 0 .. 3;
    my $count = 0;
    $count += @$_ for @ids;
    is $x->json->{usage}{prompt_tokens}, $count, 'usage of all';
    ok dot($alone[0], $alone[1]) < 0.9999, 'texts differ';
};

subtest 'encodings' => sub {
    my ($v) = vectors('The sky is blue', encoding_format => 'float');
    my ($base64) = vectors('The sky is blue', encoding_format => 'base64');
    is ref $base64, '', 'base64 is a string';
    my @bytes = unpack 'f<*', MIME::Base64::decode_base64($base64);
    is scalar @bytes, $n_embd, 'of as many numbers';
    ok !(grep { abs($bytes[$_] - $v->[$_]) > 1e-10 } 0 .. $#bytes), 'the same ones';
    is embed('a', encoding_format => undef, dimensions => undef)->status, 200, 'null';
    is embed('a', dimensions => $n_embd)->status, 200, 'the width itself';
};

subtest 'pooling' => sub {
    my @one = ([5]);
    near_vectors((vectors(\@one))[0], (vectors(\@one, path => '/last/v1/embeddings'))[0], 'one token: mean is last');
    my @some = (5, 6, 7, 8);
    my ($mean, $last) = ((vectors(\@some))[0], (vectors(\@some, path => '/last/v1/embeddings'))[0]);
    ok dot($mean, $last) < 0.9999, 'several: it is not';
    ok dot((vectors([ 9, 8, 7, 8 ], path => '/last/v1/embeddings'))[0], $last) < 0.99999, 'the last sees what is before it';
};

subtest 'against the reference implementation' => sub {
    my $want = $LLM::HTTP::JSON->decode($n->read_file("$LLM::Nginx::ROOT/t/fixtures/embeddings.json"))->{smollm2};
    my $ids = $LLM::HTTP::JSON->decode($n->read_file("$LLM::Nginx::ROOT/t/fixtures/models/smollm2/expected.json"))->{cases}[0]{input_ids};
    for my $pooling (qw(mean last)) {
        my $length = sqrt dot($want->{$pooling}, $want->{$pooling});
        my ($got) = vectors($ids, path => "/ref/$pooling/v1/embeddings");
        my @off = grep { abs($got->[$_] - $want->{$pooling}[$_] / $length) > TOLERANCE } 0 .. $#$got;
        ok @$got == @{ $want->{$pooling} } && !@off, $pooling or diag join ' ', map { "$_: $got->[$_]" } splice @off, 0, 5;
    }
};

subtest 'a vector that is none' => sub {
    for my $encoding (qw(float base64)) {
        my $x = embed('a', path => '/infinite/v1/embeddings', encoding_format => $encoding);
        is $x->status, 424, "$encoding: status";
        like $x->body, qr/^\{.*\}$/s, 'an object';
        is $x->json->{error_type}, 'generation', 'error_type';
        like $x->json->{error}{message}, qr/^Request failed during generation: /, 'message';
    }
};

subtest 'hooks' => sub {
    is embed('bad', path => '/hook/v1/embeddings')->status, 403, 'a hook refuses';
    near_vectors((vectors('a', path => '/hook/v1/embeddings'))[0], (vectors('a!'))[0], 'or writes another input');
};

subtest 'refused' => sub {
    for ([ {}, qr/missing field `input`/ ], [ { input => undef }, qr/input: invalid type: null/ ], [ { input => 5 }, qr/input: invalid value/ ],
        [ { input => [] }, qr/Empty array/ ], [ { input => [ [] ] }, qr/Empty array/ ], [ { input => '' }, qr/cannot be an empty string/ ],
        [ { input => [ 'a', '' ] }, qr/cannot be an empty string/ ], [ { input => [ 'a', 5 ] }, qr/input: invalid value/ ], [ { input => [-1] }, qr/must be >= 0/ ],
        [ { input => [1_000_000] }, qr/must be >= 0 and < \d+/ ], [ { input => [ ('a') x 7 ] }, qr/batch size of 6/ ],
        [ { input => 'a', dimensions => 5 }, qr/`dimensions` must be $n_embd for this model\. Given: 5/ ],
        [ { input => 'a', encoding_format => 'int8' }, qr/`encoding_format` must be `float` or `base64`/ ],
        [ { input => 'a', encoding_format => 5 }, qr/encoding_format: invalid/ ], [ { input => 'word ' x 300 }, qr/`inputs` tokens|`inputs` must have less/ ])
    {
        my ($body, $message) = @$_;
        my $x = $http->post('/v1/embeddings', $body);
        is $x->status, 422, 'refused: ' . substr $LLM::HTTP::JSON->encode($body), 0, 60;
        like $x->json->{error}{message}, $message, 'message';
    }
    is embed('word ' x 300, truncate_prompt_tokens => 20)->header('x-prompt-tokens'), 20, 'truncate_prompt_tokens';
    is $http->get('/v1/embeddings')->status, 405, 'GET';
};

$n->stop;
undef $n;
done_testing;
