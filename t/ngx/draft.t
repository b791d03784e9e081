# draft.t - a draft model: the same output as without, counters, what is refused, and when a reload reads it again.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my $true = JSON::PP::true;
my $gguf = '%%ROOT%%/t/fixtures/gguf';
my $target = "weights $gguf/llama-F32.gguf; context 128; speculate 0";

subtest 'refused' => sub {
    my $n = LLM::Nginx->new;
    for my $case (
        [ "draft;",                                   'invalid number of arguments in "draft" directive' ],
        [ "draft /nowhere;",                          '"draft" cannot be used: /nowhere: No such file' ],
        [ "draft $gguf/llama-Q4_0.gguf 4;",           'invalid parameter "4" of "draft"' ],
        [ "draft $gguf/llama-Q4_0.gguf tokens=0;",    'invalid value "0" of "draft tokens=", it must be from 1 to 16' ],
        [ "draft $gguf/llama-Q4_0.gguf tokens=17;",   'invalid value "17" of "draft tokens="' ],
        [ "draft $gguf/llama-Q4_0.gguf tokens=x;",    'invalid value "x" of "draft tokens="' ],
        [ "draft $gguf/qwen2-Q8_0.gguf;",             'llm_model "m": "draft" cannot be used: the draft model must have the vocabulary of the model' ],
        [ "draft $gguf/t5-Q8_0.gguf;",                'the draft model must be decoder-only, "tiny-t5" has an encoder' ],
        [ "draft %%ROOT%%/t/fixtures/malformed/bad_magic.gguf;", 'bad_magic.gguf' ],
        # 128 tokens of keys and values of 2 layers, 2 heads, 8 numbers in 2 bytes each, twice
        [ "draft $gguf/llama-Q4_0.gguf; kv_cache 32000;",
            'a "kv_cache" of 32000 bytes does not hold one context of 128 tokens, which needs 32768' ],
        [ "draft $gguf/llama-Q4_0.gguf;\n} llm_license_allow mit unknown; llm_model l { weights %%DIR%%/licensed; draft %%DIR%%/licensed2;",
            'the licence "Apache-2.0" of "draft" of llm_model "l" is not in "llm_license_allow"' ],
    ) {
        my ($directive, $message) = @$case;
        for (qw(licensed licensed2)) {
            next unless $directive =~ /licensed/;
            my $to = $n->dir . "/$_";
            mkdir $to;
            symlink "$LLM::Nginx::ROOT/t/fixtures/models/llama/$_", "$to/$_"
                for qw(config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json);
            $n->write_file("$_/README.md", "---\nlicense: " . ($_ eq 'licensed' ? 'MIT' : 'Apache-2.0') . "\n---\n");
        }
        $n->conf("llm_model m {\n$target; $directive\n}\nserver { listen 127.0.0.1:%%PORT%%; }");
        my ($rc, $out) = $n->check;
        ok $rc != 0 && $out =~ /\Q$message\E.* in \S*nginx\.conf:\d+/s, $directive or diag $out;
    }
    $n->conf("llm_model m {\nweights $gguf/t5-Q8_0.gguf; draft $gguf/t5-Q8_0.gguf;\n}\nserver { listen 127.0.0.1:%%PORT%%; }");
    like +($n->check)[1], qr/a draft model is for decoder-only models, "tiny-t5" has an encoder/, 'for an encoder-decoder';
    $n->conf("llm_model m {\n$target; draft $gguf/llama-Q4_0.gguf tokens=3; kv_cache 32768;\n}\nserver { listen 127.0.0.1:%%PORT%%; }");
    my ($rc, $out) = $n->check;
    is $rc, 0, 'accepted' or diag $out;
    unlike $out, qr/weights loaded/, 'nginx -t loads no weights';
};

# an answer with all that it says of its tokens
sub answer {
    my ($http, $model, $i) = @_;
    my %p = (max_new_tokens => 60, details => $true, decoder_input_details => $true, ignore_eos => $true, top_n_tokens => 2);
    %p = (%p, do_sample => $true, temperature => 0.7, seed => $i) if $i % 2;
    %p = (%p, grammar => { type => 'regex', value => '([a-z]{1,9}[ ,])+' }) if $i % 3 == 2;
    my $r = $http->post("/$model/generate", { inputs => 'the same words ' . ('go on ' x $i), parameters => \%p });
    return JSON::PP->new->canonical->encode($r->json);
}

sub drafts {
    my ($http, $model) = @_;
    my ($body, %v) = ($http->get('/plain/metrics')->body);
    $v{"$1 $2"} = $3 while $body =~ /^llm_engine_draft_tokens\{model="$model",kind="(\w+)",result="(\w+)"\} (\d+)$/mg;
    return \%v;
}

subtest 'the same output' => sub {
    my $n = LLM::Nginx->new(workers => 2);
    my $conf = sub {
        my ($tokens) = @_;
        $n->conf(<<"EOC");
            llm_model plain { $target; }
            llm_model good { $target; draft $gguf/llama-Q8_0.gguf; kv_cache 4m; }
            llm_model bad { $target; draft $gguf/llama-MXFP4.gguf tokens=$tokens; threads 2; kv_cache 4m; }
            llm_model both { $target; draft %%DIR%%/draft.gguf; kv_cache 4m; }
            server {
                listen 127.0.0.1:%%PORT%%;
                location /plain/ { llm_pass plain; }
                location /good/ { llm_pass good; }
                location /bad/ { llm_pass bad; }
                location /both/ { llm_pass both; }
            }
EOC
    };
    $n->write_file('draft.gguf', $n->read_file("$LLM::Nginx::ROOT/t/fixtures/gguf/llama-Q8_0.gguf"));
    $conf->(16);
    $n->start;
    my $http = LLM::HTTP->new(port => $n->port);
    for my $i (0 .. 8) {
        my $want = answer($http, 'plain', $i);
        like $want, qr/"generated_tokens":60/, "request $i";
        is answer($http, $_, $i), $want, "$_ draft" for qw(good bad both);
    }
    my ($plain, $good) = map { drafts($http, $_) } qw(plain good);
    is_deeply $plain, { map { ("$_ kept" => 0, "$_ dropped" => 0) } qw(lookup grammar model) }, 'nothing drafts without one';
    ok $good->{'model kept'} > 0, 'a good one is kept: ' . JSON::PP->new->canonical->encode($good);
    ok $good->{'lookup kept'} + $good->{'lookup dropped'} == 0, 'speculate 0 copies nothing';
    my $bad = drafts($http, 'bad');
    ok $bad->{'model dropped'} > 0, 'a bad one is tried: ' . JSON::PP->new->canonical->encode($bad);

    my $loaded = sub { my ($m) = @_; scalar(() = $n->log =~ /llm_model "$m": \d+ MB of weights loaded/g) };
    ok $n->reload, 'reload';
    is $loaded->($_), 1, "$_: not read again" for qw(good bad both);
    $conf->(4);
    $n->write_file('draft.gguf.new', $n->read_file("$LLM::Nginx::ROOT/t/fixtures/gguf/llama-Q5_1.gguf"));
    rename $n->dir . '/draft.gguf.new', $n->dir . '/draft.gguf';
    ok $n->reload, 'reload with other drafts';
    is $loaded->('good'), 1, 'what did not change';
    ok $n->wait_for(sub { $loaded->('bad') == 2 && $loaded->('both') == 2 }), 'another number, another file';
    is answer($http, 'both', 5), answer($http, 'plain', 5), 'the same output';
    $n->stop;
};

done_testing;
