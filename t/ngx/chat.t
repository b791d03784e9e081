# chat.t - POST /v1/chat/completions: objects and chunks, templates of the model and of a file, stop strings, logprobs,
# several choices, usage, seeds, a message that is continued.

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
$n->write_file('echo.jinja', "{% for m in messages %}<{{ m.role }}:{{ m.content | trim }}>{% endfor %}{% if add_generation_prompt %}>>{% endif %}{{ extra }}");
$n->conf(<<'EOC');
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 256; kv_cache 16m; }
    llm_model echo { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 256; kv_cache 16m; template echo.jinja; }
    server {
        listen 127.0.0.1:%%PORT%%;
        location / { llm_pass m; }
        location /echo/ { llm_pass echo; }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);
my @hi = (messages => [ { role => 'user', content => 'hi' } ]);

sub chat { my ($path, @more) = @_; return $http->post("$path/v1/chat/completions", {@more}) }

# the text that a template makes, by way of the tokenizer route
sub templated {
    my (%body) = @_;
    my $x = $http->post('/echo/chat_tokenize', \%body);
    return $x->status == 200 ? $x->json->{templated_text} : $x->body;
}

subtest 'object' => sub {
    my $x = chat('', @hi, max_tokens => 4, temperature => 0, model => 'mine');
    is $x->status, 200, 'status' or diag $x->body;
    my $j = $x->json;
    like $j->{id}, qr/^chatcmpl-\w{16,}$/, 'id';
    ok abs($j->{created} - time) < 100, 'created';
    is_deeply [ @$j{qw(object model)} ], [ 'chat.completion', 'mine' ], 'object, model as asked for';
    like $j->{system_fingerprint}, qr/^\d+\.\d+\.\d+-\w+$/, 'system_fingerprint';
    my $c = $j->{choices};
    is scalar(@$c), 1, 'one choice';
    is_deeply [ sort keys %{ $c->[0] } ], [qw(finish_reason index logprobs message)], 'its fields';
    is_deeply [ $c->[0]{index}, $c->[0]{logprobs}, $c->[0]{finish_reason}, $c->[0]{message}{role} ],
        [ 0, undef, 'length', 'assistant' ], 'their values';
    my $u = $j->{usage};
    is $u->{completion_tokens}, 4, 'completion_tokens';
    is $u->{total_tokens}, $u->{prompt_tokens} + 4, 'total_tokens';
    ok exists $u->{prompt_tokens_details}{cached_tokens}, 'cached_tokens';
    is $x->header('x-generated-tokens'), 4, 'x-generated-tokens';
    is chat('', @hi, max_tokens => 1)->json->{model}, 'm', 'served id when no model is named';
    is chat('', @hi, max_tokens => 1, model => 'tgi')->json->{model}, 'm', 'or "tgi"';
    is chat('', @hi, max_tokens => 1, max_completion_tokens => 2)->json->{usage}{completion_tokens}, 2,
        'max_completion_tokens goes before max_tokens';
    is chat('', @hi, max_tokens => 2, $_ => undef)->status, 200, "$_ null"
        for qw(temperature top_p stop seed stream stream_options logprobs logit_bias n response_format tools user);
    is chat('', @hi, max_tokens => 2, @$_)->status, 200, "@$_[0, 1]"
        for [ top_p => 1 ], [ top_p => 0 ], [ stop => 'x' ], [ seed => -1 ], [ logit_bias => [1] ], [ tools => [] ],
        [ response_format => { type => 'text' } ], [ top_k => -1 ], [ user => 'u', store => $true ];
};

subtest 'chunks' => sub {
    my %p = (@hi, max_tokens => 6, temperature => 0);
    my $text = chat('', %p)->json->{choices}[0]{message}{content};
    my $x = chat('', %p, stream => $true, stream_options => { include_usage => $true });
    is $x->header('content-type'), 'text/event-stream', 'type';
    my @e = @{ $x->data };
    is pop @e, '[DONE]', 'the last is [DONE]';
    like $x->body, qr/\n\ndata: \[DONE\]\n\n$/, 'with its space';
    my $usage = pop @e;
    is_deeply $usage->{choices}, [], 'usage comes without choices';
    is $usage->{usage}{completion_tokens}, 6, 'and counts';
    is_deeply [ map { $_->{usage} } @e ], [ (undef) x @e ], 'usage null before';
    my %ids = map { $_->{id} => 1 } @e, $usage;
    is scalar(keys %ids), 1, 'one id';
    is $e[0]{object}, 'chat.completion.chunk', 'object';
    is_deeply [ map { $_->{choices}[0]{delta}{role} } @e ], [ 'assistant', (undef) x (@e - 1) ], 'role in the first only';
    is join('', map { $_->{choices}[0]{delta}{content} } @e), $text, 'the same text';
    is_deeply $e[-1]{choices}[0]{delta}, { content => '' }, 'the last has empty content';
    is_deeply [ map { $_->{choices}[0]{finish_reason} } @e ], [ (undef) x (@e - 1), 'length' ], 'and the reason';
    unlike chat('', %p, stream => $true)->body, qr/total_tokens/, 'no usage unless asked for';
    my @r = @{ chat('', %p, stream => $true, tool_prompt => undef)->data };
    pop @r;
    is_deeply [ map { $_->{choices}[0]{delta}{role} } @r ], [ ('assistant') x @r ], 'role in all for the client that needs it';
    my @c = @{ chat('', %p, stream => $true, stream_options => { continuous_usage_stats => $true })->data };
    is $c[0]{usage}{completion_tokens} > 0, 1, 'continuous_usage_stats';
};

subtest 'logprobs' => sub {
    my @part;
    my %p = (@hi, max_tokens => 5, temperature => 0.7, top_k => 2, seed => 3, logprobs => $true);
    my $c = chat('', %p, top_logprobs => 3)->json->{choices}[0]{logprobs}{content};
    is scalar(@$c), 5, 'one entry a token';
    is_deeply [ map { scalar @{ $_->{top_logprobs} } } @$c ], [ (3) x 5 ], 'with alternatives';
    ok !(grep { $_->{logprob} > 0 || $_->{logprob} < -50 } @$c), 'raw log-probabilities, not those of two candidates';
    is_deeply [ unpack 'C*', do { my $t = $c->[0]{token}; utf8::encode($t); $t } ], $c->[0]{bytes}, 'bytes'
        if $c->[0]{token} !~ /\x{fffd}/;
    is_deeply chat('', %p)->json->{choices}[0]{logprobs}{content}[0]{top_logprobs}, [], 'none asked for';
    my $part = $http->post('/tokenize', { content => 'é日' })->json->{tokens};
    for my $id (@$part) {
        my $t = chat('', @hi, max_tokens => 1, temperature => 0, logprobs => $true, logit_bias => { $id => 100 })
            ->json->{choices}[0]{logprobs}{content}[0];
        push @part, @{ $t->{bytes} };
    }
    is_deeply \@part, [ unpack 'C*', Encode::encode('UTF-8', 'é日') ], 'bytes of tokens that are parts of characters';
    my @e = @{ chat('', %p, top_logprobs => 3, stream => $true)->data };
    pop @e;
    is_deeply [ map { @{ $_->{choices}[0]{logprobs}{content} || [] } } @e ], $c, 'the same in a stream';
};

subtest 'choices and seeds' => sub {
    my %p = (@hi, max_tokens => 6, temperature => 1.5);
    my $j = chat('', %p, n => 3, seed => 9)->json;
    is_deeply [ map { $_->{index} } @{ $j->{choices} } ], [ 0, 1, 2 ], 'index';
    is $j->{usage}{completion_tokens}, 18, 'usage is the sum';
    my @one = map { chat('', %p, seed => 9 + $_)->json->{choices}[0]{message}{content} } 0 .. 2;
    is_deeply [ map { $_->{message}{content} } @{ $j->{choices} } ], \@one, 'choice i is what seed + i gives alone';
    my @e = @{ chat('', %p, n => 3, seed => 9, stream => $true)->data };
    pop @e;
    my @text = ('') x 3;
    $text[ $_->{choices}[0]{index} ] .= $_->{choices}[0]{delta}{content} for @e;
    is_deeply \@text, \@one, 'the same in a stream';
    is scalar(grep { $_->{choices}[0]{finish_reason} } @e), 3, 'each choice ends';
    is scalar(grep { $_->{choices}[0]{delta}{role} } @e), 3, 'each has its role once';
    my %seen = map { chat('', %p)->json->{choices}[0]{message}{content} => 1 } 1 .. 4;
    ok keys %seen > 1, 'without a seed answers differ';
};

subtest 'stop strings are cut off' => sub {
    # bias makes the model say token after token of our choice: "one" is on + e in this vocabulary
    my $id = sub { $http->post('/tokenize', { content => $_[0] })->json->{tokens}[0] };
    my %p = (@hi, max_tokens => 8, temperature => 0, logit_bias => { $id->('on') => 100 });
    is chat('', %p)->json->{choices}[0]{message}{content}, 'on' x 8, 'a text of known pieces';
    for (
        [ 'on',      '',       'stop',   1, 'at the start' ],
        [ 'nonon',   'o',      'stop',   3, 'across tokens' ],
        [ 'n',       'o',      'stop',   1, 'inside a token' ],
        [ 'onx',     'on' x 8, 'length', 8, 'nearly' ],
        [ [ 'nono', 'on' ],   '',    'stop', 1, 'the first that appears' ],
        [ [ 'xx', 'nono' ],   'o',   'stop', 3, 'one of two' ],
        )
    {
        my ($stop, $text, $reason, $tokens, $name) = @$_;
        my $j = chat('', %p, stop => $stop)->json;
        my $c = $j->{choices}[0];
        is_deeply [ $c->{message}{content}, $c->{finish_reason}, $j->{usage}{completion_tokens} ],
            [ $text, $reason, $tokens ], $name;
        my @e = @{ chat('', %p, stop => $stop, stream => $true)->data };
        pop @e;
        is join('', map { $_->{choices}[0]{delta}{content} } @e), $text, "$name: stream";
        is $e[-1]{choices}[0]{finish_reason}, $reason, "$name: stream, reason";
    }
    is chat('', %p, stop => 'nonon', include_stop_str_in_output => $true)->json->{choices}[0]{message}{content}, 'ononon',
        'include_stop_str_in_output';
    my $c = chat('', %p, stop => 'nonon', logprobs => $true)->json->{choices}[0];
    is join('', map { $_->{token} } @{ $c->{logprobs}{content} }), 'on', 'logprobs of the text that is left';
    my $eos = $http->get('/tokenizer_info')->json->{eos_token};
    my $j = chat('', @hi, max_tokens => 1, temperature => 0, logit_bias => { $id->($eos) => 100 })->json;
    is_deeply [ @{ $j->{choices}[0] }{qw(finish_reason)}, $j->{choices}[0]{message}{content} ], [ 'stop', '' ],
        'EOS goes before the limit here';
};

subtest 'messages and templates' => sub {
    my @m = ({ role => 'user', content => 'a' });
    is templated(messages => \@m), '<user:a>>>', 'a template of our own';
    is templated(messages => [ { role => 'user', content => [ { type => 'text', text => 'x' }, { type => 'text', text => 'y' } ] } ]),
        '<user:xy>>>', 'parts are joined';
    is templated(messages => [ { role => 'developer', content => 'd' }, @m ]), '<system:d><user:a>>>',
        'developer becomes system';
    is templated(messages => [ @m, { role => 'assistant' }, @m ]), '<user:a><assistant:><user:a>>>', 'no content';
    is templated(messages => [ @m, { role => 'assistant', content => 'Sure, ' } ]), '<user:a><assistant:Sure,',
        'a trailing message of the assistant is continued';
    is templated(messages => [ @m, { role => 'assistant', content => 'b' } ], continue_final_message => $false),
        '<user:a><assistant:b>>>', 'unless told otherwise';
    is templated(messages => \@m, add_generation_prompt => $false), '<user:a>', 'add_generation_prompt';
    is templated(messages => \@m, chat_template_kwargs => { extra => '!' }), '<user:a>>>!', 'chat_template_kwargs';
    is templated(
        messages => [ @m, { role => 'assistant', content => 'Sure, ' x 1000 } ],
        chat_template_kwargs => { messages => [ { role => 'user', content => 'other' } ] }
        ),
        '<user:a><assistant:' . 'Sure, ' x 999 . 'Sure,', 'which cannot replace the messages';
    my $x = $http->post('/chat_tokenize', { messages => [ { role => 'user', content => 'hi' } ] });
    is $x->json->{templated_text}, "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        . "<|im_start|>assistant\n", "the model's own template";
    my $tokens = $x->json->{tokenize_response};
    is chat('', @hi, max_tokens => 1)->json->{usage}{prompt_tokens}, scalar(@$tokens), 'no token is added to it';
};

$n->stop;
undef $n;
done_testing;
