# hooks.t - what prompt and output hooks do to a request, in both protocols, streaming and not: nothing that a hook has not
# passed reaches the client, neither as text nor as token ids.

use strict;
use warnings;
use lib 't/lib';
use utf8;

use JSON::PP ();
use Test::More;
use Time::HiRes qw(sleep);

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my ($true, $false) = (JSON::PP::true, JSON::PP::false);

# With this prompt the model says g?<0Zex..., one token for each of "<", "0", "Z", "ex".
my $prompt = "def fib(n):\n    if n < 2:\n        return n\n    return fib(n-1) + fib(n-2)  # 12345 0x1F\n";

my %hook = (
    none   => '',
    pass   => 'llm_output_by_lua_block { local piece = ... return piece }',
    sleep  => 'llm_output_by_lua_block { local piece = ... llm.sleep(0.002) return piece }',
    upper  => 'llm_output_by_lua_block { local piece = ... return piece:upper() }',
    drop   => 'llm_output_by_lua_block { return "" }',
    never  => 'llm_output_by_lua_block { return nil }',
    all    => 'llm_output_by_lua_block { local piece, last = ... if last then return piece end }',
    foot   => 'llm_output_by_lua_block { local piece, last = ... return last and piece .. "[end]" or piece }',
    words  => <<'EOC',
        llm_output_by_lua_block {
            local piece, last = ...
            piece = piece:gsub("<0Z", "***")
            if not last and (piece:sub(-1) == "<" or piece:sub(-2) == "<0") then return nil end
            return piece
        }
EOC
    stop   => 'llm_output_by_lua_block { local piece = ... if piece:find("<") then return llm.stop("[no]") end return piece }',
    state  => 'llm_output_by_lua_block { local piece, last = ... llm.ctx.n = (llm.ctx.n or 0) + 1
                  if last then return piece .. llm.ctx.n .. (llm.ctx.from or "") end return piece }
               llm_prompt_by_lua_block { llm.ctx.from = "p" }',
    error1 => 'llm_output_by_lua_block { error("at once") }',
    error2 => "llm_output_by_lua_block { local piece = ...
                  if piece:find('<') then llm.sleep(0.02) local x = nil + 1 end return piece }",
    refuse => 'llm_output_by_lua_block { local piece = ...
                  if piece:find("<") then llm.sleep(0.02) llm.refuse(451, "not here") end return piece }',
    type   => 'llm_output_by_lua_block { return 5 }',
    bytes  => 'llm_output_by_lua_block { return "a\255b" }',
    change => 'llm_prompt_by_lua_block { local r = ... r.inputs = r.inputs .. "!" r.parameters.max_new_tokens = 2 }',
    string => 'llm_prompt_by_lua_block { local r = ... return r.inputs .. "!" }',
    deny   => 'llm_prompt_by_lua_block { local r = ... if r.inputs == "bad" then llm.refuse(403, "no such words") end }',
    denyc  => 'llm_prompt_by_lua_block { local r = ... llm.refuse() }',
    broken => "llm_prompt_by_lua_block { local r = ...\n\n return r.inputs.x.y }",
    wait   => 'llm_prompt_by_lua_block { llm.sleep(0.2) }',
    worse  => 'llm_prompt_by_lua_block { local r = ... r.parameters = { top_k = 0 } }',
    chat   => 'llm_prompt_by_lua_block { local r = ... table.insert(r.messages, 1, { role = "system", content = "S" }) }',
    raw    => 'llm_prompt_by_lua_block { local r = ... return "RAW" .. r.messages[1].content }',
    ask    => <<'EOC',
        llm_prompt_by_lua_block {
            local r = ...
            local x = llm.fetch("/none/generate", { body = { inputs = "A", parameters = { max_new_tokens = 2 } } })
            local s = llm.fetch("/none/generate_stream", { body = { inputs = "A", parameters = { max_new_tokens = 2 } } })
            local e = llm.fetch("/none/generate", { body = { inputs = "" } })
            local _, events = s.body:gsub("data: ", "")
            return x.status .. " " .. s.status .. " " .. events .. " " .. e.status
        }
EOC
    guard  => <<'EOC',
        llm_output_by_lua_block {
            local piece, last = ...
            if piece == "" then return piece end
            local x = llm.fetch("/none/generate", { body = { inputs = piece, parameters = { max_new_tokens = 1 } } })
            if x.status ~= 200 then llm.refuse(500, "guard failed") end
            return piece
        }
EOC
    seen   => 'llm_prompt_by_lua_block { local r = ... return r.route .. " " .. r.model }',
);

my $n = LLM::Nginx->new(workers => 2);
my $conf = join "\n", map { "        location /$_/ { llm_pass m; $hook{$_} }" } sort keys %hook;
$n->conf(<<"EOC");
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 20000; kv_cache 64m; }
    server {
        listen 127.0.0.1:%%PORT%%;
$conf
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);

my %p = (max_new_tokens => 12, details => $true, ignore_eos => $true);
sub whole  { my ($h, %more) = @_; return $http->post("/$h/generate", { inputs => $prompt, parameters => { %p, %more } }) }
sub stream { my ($h, %more) = @_; return $http->post("/$h/generate_stream", { inputs => $prompt, parameters => { %p, %more } }) }
sub chat   { my ($h, %more) = @_; return $http->post("/$h/v1/chat/completions", { messages => [ { role => 'user', content => 'a' } ],
    max_tokens => 12, temperature => 0, logprobs => $true, %more }) }
sub joined { return join '', map { $_->{token}{text} } @{ $_[0]->data } }
sub said   { my @e = @{ $_[0]->data }; pop @e; return join '', map { $_->{choices}[0]{delta}{content} } @e }

my $plain = whole('none')->json;
my $text = $plain->{generated_text};
my ($before, $after) = $text =~ /^(.*?)<0Z(.*)$/s;
(my $first = $before) =~ s/\x{fffd}+$//;    # a broken character comes in one piece with the "<" after it
ok defined $before && length $after, 'the text has the word to moderate' or BAIL_OUT($text);
my @ids = map { $_->{id} } @{ $plain->{details}{tokens} };

subtest 'a hook that passes everything changes nothing' => sub {
    for my $h (qw(pass sleep)) {
        is_deeply whole($h)->json, $plain, "$h: object";
        is_deeply stream($h)->data, stream('none')->data, "$h: stream, ids and log-probabilities too";
        is_deeply chat($h)->json->{choices}, chat('none')->json->{choices}, "$h: chat";
        is said(chat($h, stream => $true)), said(chat('none', stream => $true)), "$h: chat, stream";
    }
    my $s = stream('all')->data;
    is scalar(@$s), 12, 'held to the end: all events';
    is_deeply [ map { $_->{token}{id} } @$s ], \@ids, 'with their ids';
};

subtest 'a forbidden word that is split over tokens' => sub {
    my $s = stream('words');
    is joined($s), "$before***$after", 'stream: text';
    is $s->data->[-1]{generated_text}, "$before***$after", 'stream: generated_text';
    unlike $s->body, qr/<0Z|"text":"[<0Z]"/, 'nothing of it anywhere';
    my @e = @{ $s->data };
    is_deeply [ map { $_->{index} } @e ], [ 1 .. @e ], 'index is contiguous';
    my ($one) = grep { $_->{token}{text} =~ /\*/ } @e;
    is_deeply $one->{token}, { id => 0, text => substr($before, length $first) . '***', logprob => undef, special => $false },
        'one event without an id';
    is $e[-1]{details}{generated_tokens}, 12, 'generated_tokens counts them';
    my $w = whole('words', top_n_tokens => 2)->json;
    is $w->{generated_text}, "$before***$after", 'object: text';
    is_deeply [ map { [ @$_{qw(id text)} ] } @{ $w->{details}{tokens} } ], [ map { [ @{ $_->{token} }{qw(id text)} ] } @e ],
        'object: the same tokens';
    my ($i) = grep { $w->{details}{tokens}[$_]{id} == 0 } 0 .. $#{ $w->{details}{tokens} };
    is_deeply $w->{details}{top_tokens}[$i], [], 'object: no alternatives of it';
    is scalar @{ $w->{details}{top_tokens} }, scalar @{ $w->{details}{tokens} }, 'object: lists of one length';
};

subtest 'text that is replaced' => sub {
    my @e = @{ stream('upper')->data };
    (my $upper = $text) =~ tr/a-z/A-Z/;
    is join('', map { $_->{token}{text} } @e), $upper, 'upper';
    is scalar(grep { $_->{token}{id} == 0 && defined $_->{token}{logprob} } @e), 0, 'no log-probability where it did';
    ok scalar(grep { $_->{token}{id} == 0 } @e), 'letters lose their ids';
    ok scalar(grep { $_->{token}{text} eq '0' && $_->{token}{id} } @e), 'a digit keeps its own';
    my $c = chat('upper', logit_bias => { $ids[0] => 100 })->json->{choices}[0];
    is $c->{message}{content}, 'G' x 12, 'chat';
    is_deeply $c->{logprobs}{content}, [], 'chat: no log-probabilities of what was replaced';
    my $d = stream('drop');
    is scalar @{ $d->data }, 1, 'dropped: one last event';
    is_deeply $d->data->[0]{token}, { id => 0, text => '', logprob => undef, special => $false }, 'without text';
    is $d->data->[0]{generated_text}, '', 'nor generated_text';
    is whole('drop')->json->{generated_text}, '', 'object';
    is chat('drop')->json->{choices}[0]{message}{content}, '', 'chat';
    is said(chat('drop', stream => $true)), '', 'chat, stream';
    is whole('never')->json->{generated_text}, '', 'text held back to the end is not sent';
    is joined(stream('never')), '', 'nor streamed';
    is joined(stream('foot')), "${text}[end]", 'text may be added at the end';
    is whole('bytes', max_new_tokens => 1)->json->{generated_text}, "a\x{fffd}b", 'malformed text is repaired';
};

subtest 'EOS stays visible' => sub {
    my %eos = (ignore_eos => $false, logit_bias => { 2 => 100 });
    my $t = whole('foot', %eos)->json;
    is $t->{details}{finish_reason}, 'eos_token', 'reason';
    is_deeply [ map { $_->{id} } @{ $t->{details}{tokens} } ], [ 0, 2 ], 'what was added, and EOS';
    is $t->{generated_text}, '[end]', 'text';
    my $s = stream('foot', %eos)->data;
    is_deeply [ map { $_->{token}{id} } @$s ], [ 0, 2 ], 'stream';
    is $s->[-1]{generated_text}, '[end]', 'stream: text in the last event';
    is_deeply [ map { $_->{token}{id} } @{ stream('pass', %eos)->data } ], [2], 'alone when nothing was added';
};

subtest 'stop' => sub {
    my $s = stream('stop');
    is joined($s), "${first}[no]", 'stream: text';
    is $s->data->[-1]{details}{finish_reason}, 'stop_sequence', 'stream: reason';
    my $w = whole('stop')->json;
    is_deeply [ $w->{generated_text}, $w->{details}{finish_reason} ], [ "${first}[no]", 'stop_sequence' ], 'object';
    my %say = (logit_bias => { $http->post('/none/tokenize', { content => '<' })->json->{tokens}[0] => 100 });
    my $c = chat('stop', %say)->json->{choices}[0];
    is_deeply [ $c->{message}{content}, $c->{finish_reason} ], [ '[no]', 'content_filter' ], 'chat';
    my @e = @{ chat('stop', %say, stream => $true)->data };
    is $e[-1], '[DONE]', 'chat, stream: [DONE]';
    is $e[-2]{choices}[0]{finish_reason}, 'content_filter', 'chat, stream: reason';
    is said(chat('stop', %say, stream => $true, n => 2)), '[no][no]', 'each choice';
};

subtest 'llm.ctx' => sub {
    like whole('state', max_new_tokens => 3)->json->{generated_text}, qr/[1-3]p$/,
        'is kept over the pieces and shared with the prompt hook';
};

subtest 'failures of output hooks' => sub {
    my $x = whole('error1');
    is $x->status, 500, 'object: 500';
    is $x->json->{error_type}, 'hook_error', 'error_type';
    unlike $x->body, qr/at once|lua/i, 'nothing of the script';
    $x = stream('error1');
    is $x->status, 500, 'stream, nothing sent yet: 500';
    $x = stream('error2');
    is $x->status, 200, 'stream, later: 200';
    is join('', map { $_->{token} ? $_->{token}{text} : () } @{ $x->data }), $first, 'what was passed before';
    is_deeply $x->data->[-1], { error => 'A hook of this server failed', error_type => 'hook_error' }, 'an error event';
    ok $x->complete, 'a regular end';
    like $n->log, qr/\[error\].*nginx\.conf:\d+: at once/, 'file and line in the log';
    is chat('error1')->json->{error}{type}, 'server_error', 'chat';
    is whole('type')->status, 500, 'a result of a wrong type';
    $x = stream('refuse');
    is_deeply $x->data->[-1], { error => 'not here', error_type => 'content_filter' }, 'llm.refuse in a stream';
    $x = whole('refuse');
    is_deeply [ $x->status, $x->json ], [ 451, { error => 'not here', error_type => 'content_filter' } ], 'with its status before';
    my ($running) = $http->get('/none/metrics')->body =~ /^tgi_batch_current_size\{model="m"\} (\d+)/m;
    ok $n->wait_for(sub { $http->get('/none/metrics')->body =~ /^tgi_batch_current_size\{model="m"\} 0$/m }), 'generation was ended';
    like $http->get('/none/metrics')->body, qr/err="hook"\} [1-9]/, 'counted';
};

subtest 'prompt hooks' => sub {
    my $x = $http->post('/change/generate', { inputs => 'A', parameters => { max_new_tokens => 9, details => $true,
        decoder_input_details => $true } });
    is join('', map { $_->{text} } @{ $x->json->{details}{prefill} }), 'A!', 'inputs';
    is $x->json->{details}{generated_tokens}, 2, 'parameters';
    $x = $http->post('/string/generate', { inputs => 'A', parameters => { max_new_tokens => 1, decoder_input_details => $true,
        return_full_text => $true } });
    is join('', map { $_->{text} } @{ $x->json->{details}{prefill} }), 'A!', 'a string is the prompt';
    like $x->json->{generated_text}, qr/^A(?!!)/, 'return_full_text has what the client wrote';
    $x = $http->post('/deny/generate', { inputs => 'bad' });
    is_deeply [ $x->status, $x->json ], [ 403, { error => 'no such words', error_type => 'content_filter' } ], 'llm.refuse';
    is $http->post('/deny/generate', { inputs => 'good', parameters => { max_new_tokens => 1 } })->status, 200, 'or not';
    is $http->post('/deny/generate_stream', { inputs => 'bad' })->status, 403, 'the same for a stream';
    is_deeply $http->post('/denyc/v1/chat/completions', { messages => [ { role => 'user', content => 'x' } ] })->json, {
        error => { message => 'Request refused by content policy', type => 'invalid_request_error', param => undef,
            code => 'content_policy_violation' }, error_type => 'content_filter' }, 'chat: the code that clients know';
    $x = $http->post('/broken/generate', { inputs => 'A' });
    is_deeply [ $x->status, $x->json->{error_type} ], [ 500, 'hook_error' ], 'a hook that fails';
    $x = $http->post('/worse/generate', { inputs => 'A' });
    is_deeply [ $x->status, $x->json->{error} ], [ 422, 'Input validation error: `top_k` must be strictly positive' ],
        'what a hook makes is checked like the rest';
    is $http->post('/broken/generate', { inputs => 5 })->status, 422, 'a bad request is refused before the hook';
    is $http->post('/chat/v1/chat/completions', { messages => [ { role => 'user', content => 'x' } ], max_tokens => 1 })->status, 200,
        'messages';
    $x = $http->post('/raw/v1/chat/completions', { messages => [ { role => 'user', content => 'x' } ], max_tokens => 1 });
    is $x->json->{usage}{prompt_tokens}, scalar @{ $http->post('/none/tokenize', { content => 'RAWx' })->json->{tokens} },
        'chat: a string is the whole prompt';
    $x = $http->post('/seen/generate', { inputs => 'A', parameters => { max_new_tokens => 1, decoder_input_details => $true } });
    is join('', map { $_->{text} } @{ $x->json->{details}{prefill} }), '/generate m', 'route and model';
    $x = $http->post('/wait/generate', { inputs => 'A', parameters => { max_new_tokens => 1 } });
    ok $x->status == 200 && $x->elapsed >= 0.2, 'a hook may wait';
    my $y = $http->send(POST => '/wait/generate', json => { inputs => 'A' });
    sleep 0.05;
    $y->close;
    sleep 0.3;
    is $http->get('/none/health')->status, 200, 'and the client may leave meanwhile';
};

subtest 'hooks that ask the model' => sub {
    my $x = $http->post('/ask/generate', { inputs => 'A', parameters => { max_new_tokens => 1, decoder_input_details => $true } });
    is $x->status, 200, 'a prompt hook' or diag $x->body;
    is join('', map { $_->{text} } @{ $x->json->{details}{prefill} }), '200 200 2 422', 'gets answers, streams and errors';
    is_deeply stream('guard')->data, stream('none')->data, 'an output hook, for each piece of a stream';
    is_deeply whole('guard')->json, $plain, 'and of an object';
    my @x = map { $http->send(POST => '/guard/generate_stream', json => { inputs => $prompt, parameters => \%p }) } 1 .. 6;
    $_->close for @x[ 0, 2, 4 ];
    is LLM::HTTP::wait_all(30, @x[ 1, 3, 5 ]), 3, 'several at once, while others leave';
    is scalar(grep { joined($_) ne $text } @x[ 1, 3, 5 ]), 0, 'each with its text';
    ok $n->wait_for(sub { $http->get('/none/metrics')->body =~ /^tgi_batch_current_size\{model="m"\} 0$/m }), 'nothing is left';
};

subtest 'waiting hooks, clients that leave, reload' => sub {
    my %long = (max_new_tokens => 3000);
    for my $i (1 .. 5) {
        my $x = $http->send(POST => '/sleep/generate_stream', json => { inputs => "A$i", parameters => { max_new_tokens => 3000 } });
        $x->event(10) if $i % 2;
        $x->close;
    }
    ok $n->wait_for(sub { $http->get('/none/metrics')->body =~ /^tgi_batch_current_size\{model="m"\} 0$/m }), 'all places are free';
    my $x = $http->send(POST => '/sleep/generate_stream', json => { inputs => $prompt, parameters => { %p, max_new_tokens => 100 } });
    $x->event(10);
    ok $n->reload, 'reload';
    $x->wait;
    ok $x->complete, 'the stream ends';
    is $x->data->[-1]{details}{generated_tokens}, 100, 'in full';
};

subtest 'memory stays flat' => sub {
    plan skip_all => 'the sanitizer keeps freed memory' if $ENV{LLM_TEST_SAN};
    my $rss = sub { my $sum = 0; for my $pid ($n->workers) { my ($kb) = do { local (@ARGV, $/) = "/proc/$pid/status"; <> }
        =~ /RssAnon:\s+(\d+)/; $sum += $kb } $sum };
    my $run = sub { my @x = map { $http->send(POST => '/words/generate_stream', json => { inputs => $prompt, parameters => {
        max_new_tokens => 4 } }) } 1 .. 25; LLM::HTTP::wait_all(30, @x) };
    $run->() for 1 .. 20;
    my $first = $rss->();
    $run->() for 1 .. ($ENV{LLM_TEST_LONG} ? 400 : 40);
    ok $rss->() - $first < 2_000, 'requests with hooks' or diag "$first ", $rss->();
};

$n->stop;
undef $n;
done_testing;
