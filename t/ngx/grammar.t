# grammar.t - outputs that must match: grammar of native routes, response_format of OpenAI's, in objects, streams and with
# all details; what the compiler refuses; llm_grammar; a leader that dies in the middle.

use strict;
use warnings;
use lib 't/lib';
use utf8;

use JSON::PP ();
use Test::More;
use Time::HiRes qw(sleep time);

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $n = LLM::Nginx->new(workers => 2);
$n->conf(<<'EOC');
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 512; kv_cache 32m; }
    llm_model alone { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 512; kv_cache 32m; speculate 0; }
    server {
        listen 127.0.0.1:%%PORT%% reuseport;
        location / { llm_pass m; }
        location /alone/ { llm_pass alone; }
        location /off/ { llm_pass m; llm_grammar off; }
        location /hook/ {
            llm_pass m;
            llm_output_by_lua_block { local piece = ... return (piece:gsub("[0-4]", "x")) }
        }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);
my @hi = (messages => [ { role => 'user', content => 'hi' } ]);

sub generate {
    my ($grammar, %p) = @_;
    return $http->post('/generate', { inputs => 'abc', parameters => { max_new_tokens => 200, grammar => $grammar, %p } });
}

sub regex { return { type => 'regex', value => $_[0] } }

# [ what the API is told, the same for Perl ]; a random model writes whatever is possible
my @regexes = map { ref $_ ? $_ : [ $_, $_ ] } (
    'yes|no|perhaps', '[0-9]{3}-[0-9]{4}', '(?:[a-f0-9]{2}:){5}[a-f0-9]{2}', '[A-Z][a-z]{2,5}', '\\w{1,4}@\\w{1,3}\\.(com|org)',
    '(ab|cd){1,5}e?', 'x', '-?[1-9][0-9]{0,3}(\\.[0-9]{1,2})?', '[é-ü]{2,3}', '日本|中国', '\\d{4}-\\d{2}-\\d{2}T\\d{2}', '[^\\n"]{1,8}',
    'a{0,3}b{2}', '(\\(([a-z]|\\+){1,3}\\)){1,3}', [ '.{3}', '[^\\n]{3}' ], '\\s?[\\[\\]{}]{2}',
);

subtest 'regex' => sub {
    for my $i (0 .. $#regexes) {
        my ($regex, $perl) = @{ $regexes[$i] };
        for my $seed (1 .. 4) {
            my $j = generate(regex($regex), do_sample => $true, temperature => 1.5, seed => $seed, details => $true)->json;
            my $text = $j->{generated_text};
            ok defined $text && $text =~ /\A(?:$perl)\z/ && $j->{details}{finish_reason} eq 'eos_token', "regex $i, seed $seed"
                or diag explain $j;
        }
    }
};

subtest 'what is certain is drafted' => sub {
    my $drafts = sub {
        my ($result) = @_;
        return $http->get('/metrics')->body =~ /^llm_engine_draft_tokens\{model="m",kind="grammar",result="$result"\} (\d+)$/m ? $1 : -1;
    };
    my $before = $drafts->('kept');
    ok $before >= 0, 'counted';
    for my $seed (1 .. 6) {
        my %p = (max_new_tokens => 100, grammar => regex('(the river, ?at night: ?[a-z]{1,3};){3}'), details => $true, seed => $seed,
            $seed % 2 ? (do_sample => $true, temperature => 0.8) : ());
        my ($with, $without) = map { $http->post("$_/generate", { inputs => "abc $seed", parameters => \%p })->json } '', '/alone';
        is_deeply $with, $without, "seed $seed: the same as without: $with->{generated_text}";
    }
    cmp_ok $drafts->('kept'), '>', $before, 'drafts were kept';
};

subtest 'events, and all details' => sub {
    my $g = regex('[a-z]{2,9} [0-9]{2}');
    my %p = (do_sample => $true, seed => 5, details => $true, max_new_tokens => 60, grammar => $g);
    my $j = $http->post('/generate',
        { inputs => 'abc', parameters => { %p, decoder_input_details => $true, top_n_tokens => 3 } })->json;
    like $j->{generated_text}, qr/\A[a-z]{2,9} [0-9]{2}\z/, 'text';
    my $d = $j->{details};
    is scalar(@{ $d->{prefill} }), scalar(@{ $http->post('/tokenize', { inputs => 'abc' })->json }), 'the prompt';
    is scalar(@{ $d->{top_tokens} }), scalar(@{ $d->{tokens} }), 'alternatives of each token';
    my @letters = grep { $_->{text} !~ /^[a-z]/ } @{ $d->{top_tokens}[0] };
    is_deeply \@letters, [], 'only what the grammar allows is an alternative';
    ok !(grep { !defined $_->{logprob} || $_->{logprob} > 0 } @{ $d->{tokens} }), 'log-probabilities of what was left';
    my @e = @{ $http->post('/generate_stream', { inputs => 'abc', parameters => \%p })->data };
    is_deeply [ map { $_->{token}{id} } @e ], [ map { $_->{id} } @{ $d->{tokens} } ], 'the same tokens as events';
    is $e[-1]{generated_text}, $j->{generated_text}, 'the same text';
    is $e[-1]{details}{finish_reason}, 'eos_token', 'ends by itself';
    my $two = generate($g, do_sample => $true, best_of => 2, details => $true)->json;
    like $_->{generated_text}, qr/\A[a-z]{2,9} [0-9]{2}\z/, 'best_of' for $two, @{ $two->{details}{best_of_sequences} };
    is generate(regex('[a-z]{50}'), max_new_tokens => 3, details => $true)->json->{details}{finish_reason}, 'length',
        'a limit cuts it';
    like generate(regex('[ab]{20}c'), stop => ['a'])->json->{generated_text}, qr/^b*a$/, 'stop strings apply';
    like $http->post('/hook/generate', { inputs => 'abc', parameters => { max_new_tokens => 30, grammar => regex('[0-9]{12}') } })
        ->json->{generated_text}, qr/\A[x5-9]{12}\z/, 'an output hook sees the text';
};

# the forms of a schema in both protocols; the text must be one of two
my $schema = { type => 'object', properties => { k => { enum => [ 'a', 2 ] } }, required => ['k'] };
my $named = { name => 'x', schema => $schema, strict => $true };
my $match = qr/\A\{ ?"k" ?: ?(?:"a"|2) ?\}\z/;
my $text_of = sub { $LLM::HTTP::JSON->encode($_[0]) };
my @native = (
    { type => 'json', value => $schema }, { type => 'json', value => $text_of->($schema) }, { type => 'json_object', value => $schema },
    { type => 'json_schema', value => { name => 'x', schema => $schema } },
);
my @openai = (@native, { type => 'json_object', schema => $schema }, { type => 'json_schema', json_schema => $named },
    { type => 'json_schema', schema => $schema });
my $gbnf = { type => 'gbnf', value => 'root ::= "{\"k\":" v "}"' . "\n" . 'v ::= "\"a\"" | "2"' };

subtest 'forms' => sub {
    for my $g (@native, $gbnf) {
        my $x = generate($g);
        like $x->json->{generated_text} // '', $match, 'native: ' . $text_of->($g) or diag $x->body;
    }
    for my $f (@openai, $gbnf) {
        my $name = $text_of->($f);
        my $x = $http->post('/v1/completions', { prompt => 'abc', response_format => $f, max_tokens => 40 });
        like $x->json->{choices}[0]{text} // '', $match, "completions: $name" or diag $x->body;
        is $x->json->{choices}[0]{finish_reason}, 'stop', 'ends by itself';
        $x = $http->post('/v1/chat/completions', { @hi, response_format => $f, max_tokens => 40 });
        like $x->json->{choices}[0]{message}{content} // '', $match, "chat: $name" or diag $x->body;
    }
    my $x = $http->post('/v1/chat/completions', { @hi, response_format => { type => 'json_object' }, max_tokens => 450, n => 4 });
    for (@{ $x->json->{choices} }) {
        my $value = $_->{finish_reason} eq 'stop' ? eval { $LLM::HTTP::JSON->decode(do { my $t = $_->{message}{content}; utf8::encode($t); $t }) } : {};
        is ref $value, 'HASH', 'json_object: any object' or diag explain $_;
    }
    for my $path ('/v1/chat/completions', '/v1/completions') {
        my @in = $path =~ /chat/ ? @hi : (prompt => 'abc');
        my %p = (@in, grammar => regex('[0-9]{5}'), seed => 3, temperature => 1.2, max_tokens => 40);
        my $c = $http->post($path, \%p)->json->{choices}[0];
        my $text = $c->{text} // $c->{message}{content};
        like $text, qr/\A[0-9]{5}\z/, "$path: grammar";
        my @e = @{ $http->post($path, { %p, stream => $true })->data };
        pop @e;
        is join('', map { $_->{choices}[0]{text} // $_->{choices}[0]{delta}{content} } @e), $text, "$path: the same in a stream";
        is $e[-1]{choices}[0]{finish_reason}, 'stop', "$path: and its end";
    }
    my $j = $http->post('/v1/completions', { prompt => [ 'a', 'b' ], n => 2, grammar => regex('[0-9]{3}'), max_tokens => 20 })->json;
    is scalar(grep { $_->{text} =~ /\A[0-9]{3}\z/ } @{ $j->{choices} }), 4, 'all choices of all prompts';
};

subtest 'refused by name' => sub {
    for (
        [ regex('a(?=b)'),                                   qr/look/i ],
        [ regex('(a'),                                       qr/./ ],
        [ regex('(a)\\1'),                                   qr/./ ],
        [ { type => 'json', value => '{' },                  qr/./ ],
        [ { type => 'json', value => { type => 'number', maximum => 'x' } }, qr/maximum/ ],
        [ { type => 'json', value => { not => {} } },        qr/not/ ],
        [ { type => 'json', value => { '$ref' => '#/nowhere' } }, qr/ref/ ],
        [ { type => 'json', value => { type => 'object', required => ['a'], properties => { a => $false } } }, qr/./ ],
        [ { type => 'gbnf', value => 'root ::= other' },     qr/other/ ],
        )
    {
        my ($g, $reason) = @$_;
        my $x = generate($g);
        is $x->status, 422, $text_of->($g) or diag $x->body;
        like $x->json->{error}, qr/^Input validation error: grammar is not valid: .*$reason/s, 'says why';
    }
    my $start = time;
    my @hostile = map { $http->send(POST => '/generate', json => { inputs => 'abc', parameters => { max_new_tokens => 2,
        grammar => regex('(([a-z]{0,30}x){0,' . (60 + $_) . '}y){0,30}') } }) } 1 .. 3;
    sleep 0.02;
    my $t0 = time;
    is $http->get('/health')->status, 200, 'the event loop goes on';
    cmp_ok time - $t0, '<', 2, 'at once';
    LLM::HTTP::wait_all(60, @hostile);
    is $_->json->{error}, 'Input validation error: grammar is not valid: too complex', 'refused' for @hostile;
    my $x = $http->post('/v1/chat/completions', { @hi, response_format => { type => 'json_schema', schema => { type => 'int' } } });
    is_deeply [ $x->status, $x->json->{error}{code}, $x->json->{error_type} ], [ 422, 422, 'validation' ], "OpenAI's form of it";
    for my $path ('/off/generate', '/off/') {
        $x = $http->post($path, { inputs => 'a', parameters => { grammar => regex('a') } });
        is_deeply $x->json, { error => 'Input validation error: grammar is not supported', error_type => 'validation' },
            "$path: llm_grammar off";
    }
    is $http->post('/off/generate', { inputs => 'a', parameters => { max_new_tokens => 1 } })->status, 200, 'the rest works';
};

subtest 'clients that leave while a grammar is compiled' => sub {
    for (1 .. 12) {
        my $x = $http->send(POST => '/generate', json => { inputs => 'abc', parameters => {
            grammar => { type => 'json', value => { type => 'object', properties => { map { +"p$_" => { type => 'string' } } 1 .. 20 + $_ } } } } });
        sleep 0.001 * $_;
        $x->abort;
    }
    is generate(regex('ok'))->json->{generated_text}, 'ok', 'the next request is served';
};

subtest 'the leader dies in the middle' => sub {
    my $want = '(?:[a-z]{4} [0-9]{4}\n){40}';
    my @requests = ((map { [ '/generate_stream', { inputs => 'abc', parameters => {
        max_new_tokens => 480, do_sample => $true, seed => $_, details => $true, grammar => regex($want) } } ] } 1 .. 6),
        [ '/v1/chat/completions', { @hi, stream => $true, seed => 1, max_tokens => 300, tool_choice => 'required',
            tools => [ { type => 'function', function => { name => 'f', parameters => { type => 'object', properties => {
                x => { type => 'string', minLength => 150, maxLength => 200 } }, required => ['x'] } } } ] } ]);
    my $texts = sub {    # ids and times differ
        my ($x) = @_;
        return [ map { ref $_ ? $_->{choices} ? $_->{choices}[0]{delta} : $_ : $_ } @{ $x->data } ];
    };
    my @calm = map { $texts->($http->post(@$_)) } @requests;
    my @x = map { $http->send(POST => $_->[0], json => $_->[1]) } @requests;
    $_->event(20) for @x;
    my ($leader) = $http->get('/metrics')->body =~ /^llm_leader_pid\{[^}]*\} (\d+)/m;
    $n->kill_pid(KILL => $leader);
    LLM::HTTP::wait_all(60, @x);
    my ($lived, $cut) = (0, 0);
    for my $i (0 .. $#x) {
        my $x = $x[$i];
        if (!$x->complete) { $cut++; next }    # its own worker died
        $lived++;
        my @e = @{ $texts->($x) };
        for my $d ($calm[$i], \@e) { delete $_->{id} for map { ref $_ ? @{ $_->{tool_calls} || [] } : () } @$d }
        is_deeply \@e, $calm[$i], "stream $i: what another worker serves is that of a calm server";
        next if $i == 6;
        my $text = $e[-1]{generated_text};
        my $reason = $e[-1]{details}{finish_reason};
        ok $reason eq 'length' || $text =~ /\A$want\z/, "and matches ($reason)"
            or diag explain $e[-1];
        ok $text =~ /\A(?:[a-z]{4} [0-9]{4}\n)*(?:[a-z]{0,4}|[a-z]{4} [0-9]{0,4})\z/, 'all of it' or diag $text;
    }
    ok $lived + $cut == 7, "$lived streams went on, $cut had been its clients";
    like generate(regex('[a-c]{3}'))->json->{generated_text}, qr/\A[a-c]{3}\z/, 'and new requests are served';
};

$n->stop(allow => qr/exited on signal 9/);
undef $n;
done_testing;
