# watermark.t - tokens of the green list, computed here from the algorithm of the specification: Mersenne Twister, the
# permutation of the vocabulary that the previous token seeds, its first part.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
use constant { KEY => 15485863, N => 624, M => 397 };

# the permutation of 0 .. $size - 1 after token $t
sub permutation {
    my ($t, $size) = @_;
    use integer;
    my @mt = ((KEY * $t) & 0xffffffff);
    push @mt, (1812433253 * ($mt[-1] ^ (($mt[-1] >> 30) & 3)) + $_) & 0xffffffff for 1 .. N - 1;
    my $at = N;
    my $next = sub {
        if ($at == N) {
            for my $i (0 .. N - 1) {
                my $y = ($mt[$i] & 0x80000000) | ($mt[ ($i + 1) % N ] & 0x7fffffff);
                $mt[$i] = $mt[ ($i + M) % N ] ^ ($y >> 1) ^ ($y & 1 ? 0x9908b0df : 0);
            }
            $at = 0;
        }
        my $y = $mt[ $at++ ];
        $y ^= $y >> 11;
        $y ^= ($y << 7) & 0x9d2c5680;
        $y ^= ($y << 15) & 0xefc60000;
        return ($y ^ ($y >> 18)) & 0xffffffff;
    };
    my @r = 0 .. $size - 1;
    for my $i (0 .. $size - 2) {
        my $z = $next->() % ($size - $i);
        @r[ $i, $i + $z ] = @r[ $i + $z, $i ];
    }
    return \@r;
}

# the test vectors of the specification
for ([ 1, 100, '58 77 81 69 13 31 19 90' ], [ 5, 1000, '608 772 242 938 746 741 313 915' ],
    [ 42, 32000, '26244 15661 11362 2923 1093 826 1376 4654' ], [ 151643, 151936, '108770 111958 94212 59563 7275 98952 121546 118726' ])
{
    my ($t, $size, $want) = @$_;
    is join(' ', @{ permutation($t, $size) }[ 0 .. 7 ]), $want, "permutation of $size after $t";
}

my $n = LLM::Nginx->new;
$n->conf(<<'EOC');
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 256; kv_cache 16m; }
    server {
        listen 127.0.0.1:%%PORT%%;
        location / { llm_pass m; llm_watermark delta=100; }
        location /quarter/ { llm_pass m; llm_watermark gamma=.25 delta=100; }
        location /default/ { llm_pass m; }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);
use constant VOCAB => 448;

# how many of the tokens are in the green list of the one before
sub green {
    my ($path, $gamma, %p) = @_;
    my $j = $http->post("$path/generate", { inputs => 'Once', parameters =>
        { max_new_tokens => 40, ignore_eos => $true, details => $true, decoder_input_details => $true, %p } })->json;
    my @ids = map { $_->{id} } $j->{details}{prefill}[-1], @{ $j->{details}{tokens} };
    return scalar grep {
        my $id = $ids[ $_ + 1 ];
        grep { $_ == $id } @{ permutation($ids[$_], VOCAB) }[ 0 .. int(VOCAB * $gamma) - 1 ];
    } 0 .. $#ids - 1;
}

is green('', .5, watermark => $true), 40, 'greedy: all tokens are green';
is green('', .5, watermark => $true, do_sample => $true, temperature => 1.5, seed => 3), 40, 'sampled: all';
is green('/quarter', .25, watermark => $true), 40, 'gamma';
cmp_ok green('', .5, do_sample => $true, seed => 3), '<', 36, 'without it: about half';
my $marked = green('/default', .5, watermark => $true, do_sample => $true, seed => 3);
my $plain = green('/default', .5, do_sample => $true, seed => 3);
cmp_ok $marked, '>', $plain, "the default marks: $marked against $plain of 40";

my %p = (temperature => 0, max_tokens => 12, ignore_eos => $true);
my $text = $http->post('/v1/completions', { prompt => 'Once', %p, watermark => $true })->json->{choices}[0]{text};
is $text, $http->post('/generate', { inputs => 'Once', parameters => { max_new_tokens => 12, ignore_eos => $true, watermark => $true } })
    ->json->{generated_text}, 'completions: the same';
isnt $text, $http->post('/v1/completions', { prompt => 'Once', %p })->json->{choices}[0]{text}, 'and not that without';
my @chat = (messages => [ { role => 'user', content => 'hi' } ], %p);
my ($with, $without) = map { $http->post('/v1/chat/completions', { @chat, watermark => $_ })->json->{choices}[0]{message}{content} } $true, $false;
isnt $with, $without, 'chat';

$n->stop;
undef $n;
done_testing;
