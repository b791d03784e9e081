# reload_files.t - a reload reads a model again when one of its files has changed, also in place, and only then.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my $true = JSON::PP::true;
my $models = 't/fixtures/models';
my @files = qw(config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json);
my $n = LLM::Nginx->new(main => 'env LLM_KERN=ref;');
mkdir $n->dir . '/hf';

# Writes what a fixture has into the files that are there: the directory does not change by that.
sub become {
    my ($name) = @_;
    $n->write_file("hf/$_", $n->read_file("$LLM::Nginx::ROOT/$models/$name/$_")) for @files;
}

sub loaded { return scalar(() = $n->log =~ /MB of weights loaded/g) }

my $http = LLM::HTTP->new(port => $n->port);

# Whether the first case of a fixture gets the tokens of the reference; old workers may answer for a moment.
sub answers_as {
    my ($name) = @_;
    my $case = JSON::PP->new->utf8->decode($n->read_file("$LLM::Nginx::ROOT/$models/$name/expected.json"))->{cases}[0];
    my $want = join ' ', @{ $case->{greedy}{ids} };
    my %p = (max_new_tokens => scalar @{ $case->{greedy}{ids} }, details => $true, ignore_eos => $true);
    return $n->wait_for(sub {
        my $x = $http->post('/generate', { inputs => $case->{prompt}, parameters => \%p });
        return $x->status == 200 && join(' ', map { $_->{id} } @{ $x->json->{details}{tokens} }) eq $want;
    });
}

become('qwen2');
$n->conf('llm_model m { weights hf; kv_cache 16m f32; } server { listen 127.0.0.1:%%PORT%%; location / { llm_pass m; } }');
$n->start;
ok answers_as('qwen2'), 'the first model answers';
is loaded(), 1, 'loaded once';

ok $n->reload, 'reload';
ok answers_as('qwen2'), 'the same answers';
is loaded(), 1, 'files that did not change are not read again';

my @before = stat $n->dir . '/hf';
become('gpt2');
my @after = stat $n->dir . '/hf';
is_deeply [ @after[ 0, 1, 7, 9 ] ], [ @before[ 0, 1, 7, 9 ] ], 'the directory itself is unchanged';
ok $n->reload, 'reload with other files';
ok answers_as('gpt2'), 'the new weights answer';
is loaded(), 2, 'loaded again';

my $config = $n->dir . '/hf/generation_config.json';
utime 1, 1, $config or die "$config: $!\n";
ok $n->reload, 'reload after one file has another time';
ok $n->wait_for(sub { loaded() == 3 }), 'loaded again';
ok $n->reload, 'and one more';
ok answers_as('gpt2'), 'the new weights answer';
is loaded(), 3, 'not read again';

$n->stop;
done_testing;
