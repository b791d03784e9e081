# fixtures.t - every model of the fixtures through the HTTP API: prompt and generated tokens identical to the reference,
# log-probabilities within its tolerance.  The float path (LLM_KERN=ref) computes what the reference does with the
# weights widened exactly, so one tolerance serves every format.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;

use LLM::Fixture;
use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

use constant TOLERANCE => 5e-4;     # f32 weights and cache, additions in another order
use constant GROUP     => 8;        # models in one nginx: each takes 64 descriptors

my $true = JSON::PP::true;

# What a file cannot say: this tokenizer puts no prefix in front of a leading space, and GGUF has no key for that.
my %no_leading_space = ('gguf/mixtral-Q8_0.gguf' => 1);

# models whose cases go past the context that they were trained for
my %context = ('models/llama_rope_dynamic' => 'context 128;');

my @models = map { s{^t/fixtures/}{}r } sort(glob('t/fixtures/gguf/*.gguf'), map { s{/config.json$}{}r } glob 't/fixtures/models/*/config.json');
ok @models > 70, 'fixtures found';

sub check {
    my ($http, $route, $model) = @_;
    my $cases = expected($model)->{cases};
    subtest $model => sub {
        for my $case (grep { !($no_leading_space{$model} && $_->{prompt} =~ /^ /) } @$cases) {
            my $want = $case->{greedy};
            my %p = (max_new_tokens => scalar @{ $want->{ids} }, details => $true, ignore_eos => $true);
            $p{decoder_input_details} = $true if $case->{prompt_logprobs};
            my $x = $http->post("/$route/generate", { inputs => $case->{prompt}, parameters => \%p });
            is $x->status, 200, 'status' or return diag $x->body;
            my $d = $x->json->{details};
            is_deeply [ map { $_->{id} } @{ $d->{tokens} } ], $want->{ids}, 'tokens';
            cmp_ok off_by([ map { $_->{logprob} } @{ $d->{tokens} } ], $want->{logprobs}), '<', TOLERANCE, 'log-probabilities';
            next unless $case->{prompt_logprobs};
            is_deeply [ map { $_->{id} } @{ $d->{prefill} } ], $case->{input_ids}, 'prompt tokens';
            cmp_ok off_by([ map { $_->{logprob} } @{ $d->{prefill} } ], $case->{prompt_logprobs}), '<', TOLERANCE, 'of the prompt';
        }
    };
}

my @served = @models;
while (my @group = splice @served, 0, GROUP) {
    my $n = LLM::Nginx->new(main => 'env LLM_KERN=ref;');
    my ($blocks, $locations) = ('', '');
    for my $i (0 .. $#group) {
        $blocks .= "    llm_model m$i { weights %%ROOT%%/t/fixtures/$group[$i]; kv_cache 16m f32; slots 4; threads 1; "
            . ($context{$group[$i]} || '') . " }\n";
        $locations .= "        location /m$i/ { llm_pass m$i; }\n";
    }
    $n->conf("$blocks    server {\n        listen 127.0.0.1:%%PORT%%;\n$locations    }\n");
    $n->start;
    my $http = LLM::HTTP->new(port => $n->port);
    check($http, "m$_", $group[$_]) for 0 .. $#group;
    $n->stop;
}

done_testing;
