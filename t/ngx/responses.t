# responses.t - POST /v1/responses: objects and events, items of the input, formats, tools, what is refused.

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
my $n = LLM::Nginx->new;
$n->write_file('echo.jinja', '{% set t %}{% for m in messages %}<{{ m.role }}:{{ m.content or "" }}{% for c in m.tool_calls or [] %}[{{ c.id }} {{ c.function.name }} '
    . '{{ c.function.arguments.c }}]{% endfor %}{% if m.tool_call_id %}({{ m.tool_call_id }}){% endif %}>{% endfor %}{{ reasoning_effort }}{% endset %}'
    . '{{ raise_exception(t) }}');
$n->write_file('thinks.jinja', "{% for m in messages %}{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n<think>\n{# </think> <tool_call> #}");
$n->conf(<<'EOC');
    llm_model thinks { weights %%ROOT%%/t/fixtures/models/qwen3; context 2048; kv_cache 64m; template thinks.jinja; }
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 2048; kv_cache 64m; }
    llm_model echo { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; context 2048; kv_cache 64m; template echo.jinja; }
    server {
        listen 127.0.0.1:%%PORT%%;
        location / { llm_pass m; }
        location /echo/ { llm_pass echo; }
        location = /one { llm_pass m; llm_responses; }
        location /thinks/ { llm_pass thinks; }
        location /hook/ { llm_pass m; llm_prompt_by_lua_block { local r = ... if r.messages[1].content == "bad" then llm.refuse(403, "no") end } }
        location /short/ { llm_pass m; llm_generation_timeout 300ms; llm_output_by_lua_block { llm.sleep(0.1) return ... } }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);
my $tool = { type => 'function', name => 'weather', description => 'of a city', strict => $true,
    parameters => { type => 'object', properties => { c => { enum => [ 'Rome', 'Oslo' ] } }, required => ['c'], additionalProperties => $false } };
my $enum = { format => { type => 'json_schema', name => 'n', strict => $true, schema => { enum => ['quite'] } } };

sub create { my ($path, %body) = @_; return $http->post("$path/v1/responses", \%body) }

subtest 'object' => sub {
    my $x = create('', input => 'hello', text => $enum, model => 'mine', metadata => { a => 'b' }, user => 'u', store => $true);
    is $x->status, 200, 'status' or diag $x->body;
    my $j = $x->json;
    like $j->{id}, qr/^resp_\w{16,}$/, 'id';
    ok abs($j->{created_at} - time) < 100, 'created_at';
    is_deeply [ @$j{qw(object status model error incomplete_details metadata user)} ], [ 'response', 'completed', 'mine', undef, undef, { a => 'b' }, 'u' ], 'fields';
    ok !$j->{store}, 'nothing is stored';
    is scalar @{ $j->{output} }, 1, 'one item';
    my $item = $j->{output}[0];
    like delete $item->{id}, qr/^msg_/, 'its id';
    is_deeply $item, { type => 'message', role => 'assistant', status => 'completed',
        content => [ { type => 'output_text', text => '"quite"', annotations => [], logprobs => [] } ] }, 'a message';
    my $u = $j->{usage};
    is $u->{total_tokens}, $u->{input_tokens} + $u->{output_tokens}, 'usage';
    is $u->{output_tokens}, $x->header('x-generated-tokens'), 'output_tokens';
    is_deeply $j->{text}, $enum, 'the format is repeated';
    my $chat = $http->post('/v1/chat/completions', { messages => [ { role => 'user', content => 'hello' } ], max_tokens => 5, temperature => 0 })->json;
    $j = create('', input => 'hello', max_output_tokens => 5, temperature => 0)->json;
    is $j->{output}[0]{content}[0]{text}, $chat->{choices}[0]{message}{content}, 'the text of a chat';
    is_deeply [ $j->{status}, $j->{incomplete_details}, $j->{output}[0]{status} ], [ 'incomplete', { reason => 'max_output_tokens' }, 'incomplete' ], 'cut';
    is $j->{usage}{input_tokens}, $chat->{usage}{prompt_tokens}, 'input_tokens';
    is create('', input => 'a', max_output_tokens => 1)->json->{model}, 'm', 'served id when no model is named';
    is $http->post('/responses', { input => 'a', max_output_tokens => 1 })->status, 200, '/responses';
    is $http->post('/one', { input => 'a', max_output_tokens => 1 })->json->{object}, 'response', 'llm_responses';
};

subtest 'stream' => sub {
    my $x = create('', input => 'hello', text => $enum, stream => $true);
    is $x->header('content-type'), 'text/event-stream', 'type';
    my @e = @{ $x->data };
    is_deeply [ map { $_->{sequence_number} } @e ], [ 0 .. $#e ], 'events are numbered';
    is_deeply [ map { $_->{event} } @{ $x->events } ], [ map { $_->{type} } @e ], 'each has its name';
    my @types = map { $_->{type} =~ s/^response\.//r } @e;
    my $deltas = grep { $_ eq 'output_text.delta' } @types;
    is_deeply \@types, [ qw(created in_progress output_item.added content_part.added), ('output_text.delta') x $deltas,
        qw(output_text.done content_part.done output_item.done completed) ], 'in order';
    ok $deltas > 1, 'several deltas';
    is join('', map { $_->{delta} // () } @e), '"quite"', 'the text in pieces';
    is $e[-4]{text}, '"quite"', 'the text as a whole';
    is_deeply [ map { $_->{response}{status} // () } @e ], [qw(in_progress in_progress completed)], 'states of the response';
    is_deeply $e[-2]{item}, $e[-1]{response}{output}[0], 'the item at its end';
    my %ids = map { $_->{item_id} => 1 } grep { $_->{item_id} } @e;
    is_deeply [ keys %ids ], [ $e[-2]{item}{id} ], 'one item';
    ok !(grep { ($_->{output_index} // 0) != 0 || ($_->{content_index} // 0) != 0 } @e), 'the first';
    my $same = create('', input => 'hello', text => $enum)->json;
    delete @$_{qw(id created_at)} for my $last = $e[-1]{response}, $same;
    delete $_->{output}[0]{id} for $last, $same;
    delete $_->{usage}{input_tokens_details} for $last, $same;
    is_deeply $last, $same, 'the last event is the object';
    is create('', input => 'a', max_output_tokens => 2, stream => $true)->data->[-1]{type}, 'response.incomplete', 'cut';
    my $broken = create('/short', input => 'a', stream => $true, ignore_eos => $true);
    my @late = @{ $broken->data };
    is_deeply [ map { $_->{sequence_number} } @late ], [ 0 .. $#late ], 'an error on the way has its number';
    my %late = %{ $late[-1] };
    like $late{message}, qr/^Request failed during generation/, 'its message';
    is_deeply [ @late{qw(type code param)} ], [ 'error', 'server_error', undef ], 'the members of the API';
    is $late{error}{message}, $late{message}, 'and the error that clients look for';
    is $broken->events->[-1]{event}, 'error', 'its name';
};

subtest 'items of the input' => sub {
    my $shown = sub { my $x = create('/echo', @_); return $x->json->{error}{message} =~ s/^Template error: syntax error: (.*) \(in .*$/$1/sr };
    is $shown->(input => 'a'), '<user:a>', 'a string';
    is $shown->(input => 'a', instructions => 'be nice'), '<system:be nice><user:a>', 'instructions';
    is $shown->(input => [ { role => 'developer', content => 'd' }, { type => 'message', role => 'user', content => [
        { type => 'input_text', text => 'a' }, { type => 'input_text', text => 'b' } ] },
        { type => 'message', role => 'assistant', id => 'x', status => 'completed', content => [ { type => 'output_text', text => 'c', annotations => [] },
            { type => 'refusal', refusal => 'r' } ] }, { role => 'user', content => 'e' } ]), '<system:d><user:ab><assistant:cr><user:e>', 'messages';
    is $shown->(input => [ { role => 'user', content => 'w?' }, { type => 'reasoning', id => 'r', summary => [] },
        (map { { type => 'function_call', call_id => $_, name => 'weather', arguments => qq({"c":"$_"}) } } 'c1', 'c2'),
        { type => 'function_call_output', call_id => 'c1', output => 'sun' }, { type => 'function_call_output', call_id => 'c2', output => [ { type => 'input_text', text => 'rain' } ] } ]),
        '<user:w?><assistant:[c1 weather c1][c2 weather c2]><tool:sun(c1)><tool:rain(c2)>', 'calls and their results';
    is $shown->(input => 'a', reasoning => { effort => 'low' }), '<user:a>low', 'reasoning.effort';
};

subtest 'tools' => sub {
    my %ask = (input => 'weather?', tools => [$tool]);
    my $j = create('', %ask, tool_choice => 'required')->json;
    is $j->{status}, 'completed', 'completed';
    my ($call) = grep { $_->{type} eq 'function_call' } @{ $j->{output} };
    like $call->{id}, qr/^fc_/, 'id';
    is $call->{name}, 'weather', 'name';
    like $LLM::HTTP::JSON->decode($call->{arguments})->{c}, qr/^(?:Rome|Oslo)$/, 'arguments of the schema';
    is_deeply $j->{tools}, [$tool], 'tools are repeated';
    my $x = create('', %ask, tool_choice => { type => 'function', name => 'weather' }, parallel_tool_calls => $false, stream => $true);
    my @e = @{ $x->data };
    my @types = map { $_->{type} =~ s/^response\.//r } @e;
    my $deltas = grep { /arguments\.delta/ } @types;
    is_deeply \@types, [ qw(created in_progress output_item.added), ('function_call_arguments.delta') x $deltas,
        qw(function_call_arguments.done output_item.done completed) ], 'events of a call';
    is join('', map { $_->{delta} // () } @e), $e[-3]{arguments}, 'arguments in pieces';
    is_deeply [ $e[2]{item}{arguments}, $e[2]{item}{name}, $e[2]{item}{call_id} ], [ '', 'weather', $e[-2]{item}{call_id} ], 'it begins without';
    is_deeply $e[-1]{response}{output}, [ $e[-2]{item} ], 'the response has it';
    $j = create('', %ask, tool_choice => 'none', max_output_tokens => 3)->json;
    is_deeply [ map { $_->{type} } @{ $j->{output} } ], ['message'], 'none';
};

subtest 'thoughts are items of their own' => sub {
    my %id = map { $_ => $http->post('/thinks/tokenize', { content => $_ })->json->{tokens}[0] } '</think>', '<|im_end|>';
    my %seen;
    for my $seed (1 .. 8) {
        my %p = (seed => $seed, logit_bias => { $id{'</think>'} => 4, $id{'<|im_end|>'} => 3 });
        my $chat = $http->post('/thinks/v1/chat/completions', { messages => [ { role => 'user', content => 'why?' } ], max_tokens => 300, %p })->json->{choices}[0]{message};
        my $j = create('/thinks', input => 'why?', max_output_tokens => 300, %p)->json;
        my %text = map { $_->{type} => $_->{content}[0]{text} } @{ $j->{output} };
        is_deeply [ $text{reasoning} // '', $text{message} // '' ], [ $chat->{reasoning} // '', $chat->{content} ], "seed $seed: as in a chat";
        my @types = map { $_->{type} } @{ $j->{output} };
        ok "@types" =~ /^(?:reasoning )?message$|^reasoning$/, "in order: @types";
        my @e = @{ create('/thinks', input => 'why?', max_output_tokens => 300, stream => $true, %p)->data };
        my %delta;
        $delta{ $_->{type} } .= $_->{delta} for grep { defined $_->{delta} } @e;
        is_deeply [ map { $_ // '' } @delta{qw(response.reasoning_text.delta response.output_text.delta)} ], [ $text{reasoning} // '', $text{message} // '' ], 'streamed';
        my @index = map { $_->{output_index} } grep { $_->{type} eq 'response.output_item.done' } @e;
        is_deeply \@index, [ 0 .. $#types ], 'items are numbered';
        my $thoughts = $j->{usage}{output_tokens_details}{reasoning_tokens};
        ok $text{reasoning} ? $thoughts > 0 && $thoughts <= $j->{usage}{output_tokens} : $thoughts == 0, 'their tokens are counted';
        $seen{"@types"}++;
    }
    ok $seen{'reasoning message'}, 'some have both';
};

subtest 'hooks' => sub {
    is create('/hook', input => 'bad')->status, 403, 'a prompt hook sees a chat';
    is create('/hook', input => 'good', max_output_tokens => 1)->status, 200, 'and lets it go';
};

subtest 'refused' => sub {
    my @user = { role => 'user', content => 'a' };
    for ([ {}, qr/missing field `input`/ ], [ { input => 5 }, qr/input: invalid value/ ], [ { input => [] }, qr/`input` cannot be empty/ ],
        [ { input => [5] }, qr/input\[0\]: invalid/ ], [ { input => [ @user, {} ] }, qr/input\[1\]\.role: expected a string/ ],
        [ { input => [ { role => 'user', content => 5 } ] }, qr/input\[0\]: expected a string or a sequence of parts/ ],
        [ { input => [ { role => 'user', content => [ { type => 'input_image', image_url => 'x' } ] } ] }, qr/image modality is not supported/ ],
        [ { input => [ { role => 'user', content => [ { type => 'input_file' } ] } ] }, qr/expected parts of type/ ],
        [ { input => [ { type => 'item_reference', id => 'x' } ] }, qr/items of type `item_reference` are not supported/ ],
        [ { input => [ { type => 'function_call', call_id => 'c', name => 'f' } ] }, qr/input\[0\]\.arguments: expected a string/ ],
        [ { input => [ { type => 'function_call_output', output => 'f' } ] }, qr/input\[0\]\.call_id: expected a string/ ],
        (map { [ { input => 'a', %{ $_->[0] } }, $_->[1] ] }
            [ { instructions => 5 }, qr/instructions: invalid/ ], [ { previous_response_id => 'resp_1' }, qr/`previous_response_id` is not supported: nothing is stored/ ],
            [ { conversation => 'c' }, qr/`conversation` is not supported/ ], [ { background => $true }, qr/`background` is not supported/ ],
            [ { include => ['message.output_text.logprobs'] }, qr/`include` is not supported/ ], [ { top_logprobs => 2 }, qr/`top_logprobs` is not supported/ ],
            [ { truncation => 'auto' }, qr/`truncation` must be `disabled`/ ], [ { tools => [ { type => 'web_search' } ] }, qr/tools of type `web_search` are not supported/ ],
            [ { tools => [$tool], tool_choice => { type => 'mcp' } }, qr/`tool_choice` of type `mcp`/ ], [ { tools => [$tool], tool_choice => 'none2' }, qr/not found/ ],
            [ { text => 5 }, qr/text: invalid/ ], [ { text => { format => { type => 'xml' } } }, qr/response_format|xml/ ],
            [ { text => { format => { type => 'json_schema' } } }, qr/schema/ ], [ { max_output_tokens => 0 }, qr/must be strictly positive/ ],
            [ { temperature => -1 }, qr/`temperature` must be/ ], [ { reasoning => 'high' }, qr/reasoning: invalid/ ]))
    {
        my ($body, $message) = @$_;
        my $x = $http->post('/v1/responses', $body);
        is $x->status, 422, 'refused: ' . substr $LLM::HTTP::JSON->encode($body), 0, 90;
        like $x->json->{error}{message}, $message, 'message';
    }
};

$n->stop;
undef $n;
done_testing;
