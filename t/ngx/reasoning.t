# reasoning.t - models that think: thoughts and text apart, in objects and in chunks, whether the prompt or the model opens
# the section; calls and formats that come after it; llm_reasoning off.

use strict;
use warnings;
use lib 't/lib';
use utf8;

use Encode ();
use JSON::PP ();
use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $n = LLM::Nginx->new;

# Qwen 3 has a switch, its successors and R1 open the section in the prompt
my $turns = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{{ tools | tojson if tools }}";
$n->write_file('switch.jinja', "$turns<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{# <tool_call> #}");
$n->write_file('open.jinja', "$turns<|im_start|>assistant\n<think>\n{# </think> <tool_call> #}");
$n->conf(<<'EOC');
    llm_model switch { weights %%ROOT%%/t/fixtures/models/qwen3; context 2048; kv_cache 64m; template switch.jinja; }
    llm_model open { weights %%ROOT%%/t/fixtures/models/qwen3; context 2048; kv_cache 64m; template open.jinja; }
    server {
        listen 127.0.0.1:%%PORT%%;
        location /switch/ { llm_pass switch; }
        location /open/ { llm_pass open; }
        location /off/ { llm_pass open; llm_reasoning off; }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);
my %id = map { $_ => $http->post('/open/tokenize', { content => $_ })->json->{tokens}[0] } '<think>', '</think>', '<|im_end|>', '<|im_start|>', '<|endoftext|>';
my @never = ($id{'<|im_start|>'} => -100, $id{'<|endoftext|>'} => -100);

sub chat {
    my ($path, @more) = @_;
    return $http->post("$path/v1/chat/completions", { messages => [ { role => 'user', content => 'why?' } ], temperature => 1,
        max_tokens => 400, logprobs => $true, @more });
}

sub raw {
    my ($choice) = @_;
    return Encode::decode('UTF-8', join '', map { pack 'C*', @{ $_->{bytes} } } @{ $choice->{logprobs}{content} });
}

sub trim { my ($s) = @_; s/^[ \t-\r]+//, s/[ \t-\r]+$// for $s; return $s }
# tokens of a random model are parts of characters that become none or others when they stand together
sub same { my ($got, $want, $name) = @_; tr/\x20-\x7e//cd for $got, $want; return ok($got eq $want, $name) || diag explain [ $got, $want ] }

# thoughts, text, arguments of the call and reason of a stream
sub streamed {
    my @e = @{ chat(@_, stream => $true)->data };
    pop @e;
    my ($thought, $text, $arguments) = ('') x 3;
    for (map { $_->{choices}[0]{delta} } @e) {
        die "two names\n" if ($_->{reasoning} // '') ne ($_->{reasoning_content} // '');
        die "content is no string\n" if exists $_->{reasoning} && $_->{content} ne '';
        $thought .= $_->{reasoning} // '';
        $text .= $_->{content} // '';
        $arguments .= $_->{function}{arguments} for @{ $_->{tool_calls} || [] };
    }
    return [ $thought, $text, $arguments, $e[-1]{choices}[0]{finish_reason} ];
}

sub whole {
    my ($c) = @_;
    my $m = $c->{message};
    return [ $m->{reasoning} // '', $m->{content} // '', $m->{tool_calls} ? $m->{tool_calls}[0]{function}{arguments} : '', $c->{finish_reason} ];
}

subtest 'opened in the prompt' => sub {
    my %seen;
    for my $seed (1 .. 16) {
        my %p = (seed => $seed, logit_bias => { @never, $id{'</think>'} => 4, $id{'<|im_end|>'} => 3, $id{'<think>'} => -100 });
        my $c = chat('/open', %p)->json->{choices}[0];
        my ($thought, $text) = split m{</think>}, raw($c), 2;
        my $m = $c->{message};
        same $m->{reasoning_content} // '', trim($thought // ''), "seed $seed: thoughts";
        is $m->{reasoning}, $m->{reasoning_content}, 'under both names';
        $text =~ s/^[ \t-\r]+// if defined $text;
        same $m->{content}, $text // '', 'text';
        is_deeply streamed('/open', %p), whole($c), 'the same in a stream';
        $seen{ defined $text ? length $text ? 'both' : 'thoughts' : 'open' }++;
    }
    ok $seen{both}, 'some have both';
};

subtest 'opened by the model, or not' => sub {
    my %seen;
    for my $seed (1 .. 16) {
        my %p = (seed => $seed, logit_bias => { @never, $id{'<think>'} => 7.5, $id{'</think>'} => 6, $id{'<|im_end|>'} => 6 });
        my $c = chat('/switch', %p)->json->{choices}[0];
        my $raw = raw($c);
        my ($thought, $text) = $raw =~ m{\A[ \t-\r]*<think>(.*?)(?:</think>[ \t-\r]*(.*)|\z)}s ? ($1, $2 // '') : ('', $raw);
        same $c->{message}{reasoning} // '', trim($thought), "seed $seed: thoughts";
        same $c->{message}{content}, $text, 'text';
        ok length trim($thought) || !exists $c->{message}{reasoning}, 'no empty ones';
        is_deeply streamed('/switch', %p), whole($c), 'the same in a stream';
        $seen{ length $thought ? 'yes' : 'no' }++;
    }
    ok $seen{$_}, "with thoughts: $_" for qw(yes no);
    my $c = chat('/switch', chat_template_kwargs => { enable_thinking => $false }, seed => 1, max_tokens => 5)->json;
    ok !exists $c->{choices}[0]{message}{reasoning}, 'closed in the prompt';
};

my $format = { type => 'json_schema', schema => { type => 'object', properties => { a => { enum => [ 1, 2 ] } }, required => ['a'] } };
my $like = qr/\A\{ ?"a" ?: ?[12] ?\}\z/;
my @tool = (tools => [ { type => 'function', function => { name => 'pick', parameters => $format->{schema} } } ]);

subtest 'what follows is constrained' => sub {
    my %p = (logit_bias => { @never, $id{'</think>'} => 5 }, max_tokens => 900);
    for my $path ('/open', '/switch') {
        for my $seed (1 .. 4) {
            my $c = chat($path, %p, seed => $seed, response_format => $format)->json->{choices}[0];
            like $c->{message}{content}, $like, "$path, seed $seed: a format";
            same $c->{message}{reasoning} // '', trim((raw($c) =~ s/^\s*<think>//r =~ m{\A(.*?)</think>}s)[0]), 'after thoughts';
            is_deeply streamed($path, %p, seed => $seed, response_format => $format), whole($c), 'the same in a stream';
            $c = chat($path, %p, seed => $seed, @tool, tool_choice => 'required', parallel_tool_calls => $false)->json->{choices}[0];
            like $c->{message}{tool_calls}[0]{function}{arguments} // '', $like, 'a call' or diag explain $c;
            is $c->{finish_reason}, 'tool_calls', 'reason';
            like raw($c), qr{</think>\n\n<tool_call>\n\{}, 'after thoughts and a blank line';
            is_deeply streamed($path, %p, seed => $seed, @tool, tool_choice => 'required', parallel_tool_calls => $false), whole($c),
                'the same in a stream';
        }
    }
    my $c = chat('/switch', enable_thinking => $false, response_format => $format)->json->{choices}[0];
    like $c->{message}{content}, $like, 'without thoughts: at once';
    like raw($c), qr/\A\{/, 'at the first character';
    $c = chat('/open', %p, response_format => { type => 'json_object', value => '{"enum":[7]}' })->json->{choices}[0];
    is $c->{message}{content}, '7', 'a schema in a string';
    $c = chat('/open', %p, response_format => { type => 'json_object', value => 'true' })->json->{choices}[0];
    like $c->{message}{content}, qr/\A(?:[\[{"0-9-]|true|false|null)/, 'true in a string is any JSON';
    is chat('/open', response_format => { type => 'json_object', value => '5' })->status, 422, 'a number is no schema';
    for ([ 1 << 20, 200 ], [ (1 << 20) + 1, 422 ]) {
        my $x = $http->post('/open/v1/chat/completions', { messages => [ { role => 'user', content => 'a' } ], max_tokens => 1,
            response_format => { type => 'json_object', value => '{' . ' ' x ($_->[0] - 2) . '}' } });
        is $x->status, $_->[1], "a schema of $_->[0] bytes in a string" or diag $x->body;
    }
    is chat('/open', response_format => { type => 'json_object', value => '{' })->status, 422, 'which must be one';
    $c = chat('/open', response_format => { type => 'regex', value => 'ab' })->json->{choices}[0];
    is_deeply [ @{ $c->{message} }{qw(content reasoning)} ], [ 'ab', undef ], 'a regular expression is for the whole output';
};

subtest 'llm_reasoning off' => sub {
    my %p = (seed => 1, logit_bias => { @never, $id{'</think>'} => 5 }, max_tokens => 60);
    my $c = chat('/off', %p)->json->{choices}[0];
    same $c->{message}{content}, raw($c), 'all is text';
    like $c->{message}{content}, qr{</think>}, 'the tag too';
    $c = chat('/off', response_format => $format)->json->{choices}[0];
    like raw($c), $like, 'constrained from the first character on';
};

$n->stop;
undef $n;
done_testing;
