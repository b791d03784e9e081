# format.t - prompt formats by name, against the texts that the makers of the families published.

use strict;
use warnings;
use lib 't/lib';

use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my $task = 'Below is an instruction that describes a task. Write a response that appropriately completes the request.';
my $vicuna = 'A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, '
    . "detailed, and polite answers to the user's questions.";

# BOS and EOS stand for the model's own
my %first = (
    'alpaca'          => "BOS$task\n\n### Instruction:\nHi\n\n### Response:\n",
    'vicuna'          => "BOS$vicuna USER: Hi ASSISTANT:",
    'oasst'           => '<|prompter|>HiEOS<|assistant|>',
    'dolly'           => "$task\n\n### Instruction:\nHi\n\n### Response:\n",
    'llama2'          => 'BOS[INST] Hi [/INST]',
    'falcon-instruct' => "User: Hi\nAssistant:",
    'starchat'        => "<|system|>\n<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n",
    'mpt-instruct'    => "$task\n### Instruction:\nHi\n### Response:\n",
    'flan'            => 'HiEOS',
);
my %second = (
    'alpaca'          => "BOSBe brief.\n\n### Instruction:\nHi\n\n### Response:\nHo\n\n### Instruction:\nBye\n\n### Response:\n",
    'vicuna'          => 'BOSBe brief. USER: Hi ASSISTANT: HoEOSUSER: Bye ASSISTANT:',
    'oasst'           => '<|system|>Be brief.EOS<|prompter|>HiEOS<|assistant|>HoEOS<|prompter|>ByeEOS<|assistant|>',
    'dolly'           => "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHo\n\n### End\n\n### Instruction:\nBye\n\n### Response:\n",
    'llama2'          => "BOS[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Ho EOSBOS[INST] Bye [/INST]",
    'falcon-instruct' => "Be brief.\n\nUser: Hi\nAssistant: Ho\nUser: Bye\nAssistant:",
    'starchat'        => "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHo<|end|>\n<|user|>\nBye<|end|>\n<|assistant|>\n",
    'mpt-instruct'    => "Be brief.\n### Instruction:\nHi\n### Response:\nHo\n### Instruction:\nBye\n### Response:\n",
    'flan'            => "Be brief.\n\nHi\n\nHo\n\nByeEOS",
);

my @names = sort keys %first;
my ($blocks, $locations) = ('', '');
for my $i (0 .. $#names) {
    $blocks .= "    llm_model m$i { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; template $names[$i]; kv_cache 16m; slots 4; }\n";
    $locations .= "        location /m$i/ { llm_pass m$i; }\n";
}
my $n = LLM::Nginx->new;
$n->conf("$blocks    server {\n        listen 127.0.0.1:%%PORT%%;\n$locations    }\n");
$n->start;
my $http = LLM::HTTP->new(port => $n->port);

sub rendered {
    my ($i, @messages) = @_;
    my @m = map { { role => $_->[0], content => $_->[1] } } @messages;
    my $x = $http->post("/m$i/chat_tokenize", { messages => \@m });
    diag $x->body if $x->status != 200;
    return $x->json->{templated_text};
}

for my $i (0 .. $#names) {
    my $name = $names[$i];
    s/BOS/<s>/g, s{EOS}{</s>}g for $first{$name}, $second{$name};
    is rendered($i, [ user => 'Hi' ]), $first{$name}, "$name: one turn";
    is rendered($i, [ system => 'Be brief.' ], [ user => 'Hi' ], [ assistant => 'Ho' ], [ user => 'Bye' ]), $second{$name},
        "$name: a conversation";
}
$n->stop;

my $bad = LLM::Nginx->new;
$bad->conf("    llm_model m { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; template nobody; }\n    server { listen 127.0.0.1:%%PORT%%; }\n");
my ($status, $out) = $bad->check;
ok $status != 0 && $out =~ /nobody" failed .* in .*:\d+/, 'a name that is neither a format nor a file' or diag $out;

done_testing;
