# lua_memory.t - memory of the Lua state: the smallest limit that is accepted is enough for a chat, what goes past a limit
# costs its own request, and so does an allocation that fails, whichever it is.

use strict;
use warnings;
use lib 't/lib';

use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

# More than any of the requests below allocates; a loop that comes here means that its requests never ended well.
use constant MANY => 20_000;

my $model = 'llm_model m { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 512; kv_cache 16m; }';
my $n = LLM::Nginx->new;

subtest 'llm_lua_memory' => sub {
    my $check = sub {
        my ($size) = @_;
        $n->conf("llm_lua_memory $size; $model server { listen 127.0.0.1:%%PORT%%; location / { llm_pass m; } }");
        return $n->check;
    };
    for my $size (qw(0 1 1m 2047k 65537m 90000000000000m 1g)) {
        my ($rc, $out) = $check->($size);
        ok $rc != 0 && $out =~ /"llm_lua_memory" directive (?:must be between 2m and 65536m|invalid value) in .*nginx\.conf:\d/, "refused: $size" or diag $out;
    }
    is +($check->($_))[0], 0, $_ for qw(2m 64m 65536m);
};

$n = LLM::Nginx->new;

# string.sub, string.lower and others are instructions of LuaJIT's interpreter, which errors leave in another way than functions
my $script = <<'EOC';
    local req, seen = ..., {}
    for i = 1, 40 do
        local s = ("%d Some Text"):format(i):rep(3)
        seen[#seen + 1] = s:sub(2, i) .. s:lower() .. s:upper() .. s:reverse() .. tostring(i / 7) .. string.char(65 + i, 66)
        seen[s] = { s }
    end
    local function deep(k) local a, b, c, d, e, f, g, h, i, j; if k > 0 then return (deep(k - 1)) end return j end
    deep(100)
    req.messages = { { role = "user", content = table.concat(seen, " "):sub(1, 40) } }
EOC

# a realloc() of the module that fails at its n-th call, told by a file of two counters: which one, how many there were
$n->write_file('fail.c', <<'EOC');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static volatile long *count;
static void *(*next)(void *, size_t);

__attribute__((constructor)) static void start(void)
{
    int fd = open(getenv("LLM_TEST_COUNTERS"), O_RDWR);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) {
        count = map;
    }
}

void *realloc(void *ptr, size_t size)
{
    Dl_info where;
    if (!next) {
        next = (void *(*)(void *, size_t)) dlsym(RTLD_NEXT, "realloc");
    }
    if (count && count[0] && dladdr(__builtin_return_address(0), &where) && strstr(where.dli_fname, "ngx_http_llm_module")
        && ++count[1] == count[0]) {
        return NULL;
    }
    return next(ptr, size);
}
EOC

my $file = $n->write_file('counters', pack 'q2', 0, 0);
my $dir = $n->dir;
my $built = system('cc', '-shared', '-fPIC', '-O1', '-o', "$dir/fail.so", "$dir/fail.c", '-ldl') == 0;
open my $counters, '+<:raw', $file or die "$file: $!\n";

sub counter {
    my ($i, @value) = @_;
    if (@value) { sysseek $counters, 8 * $i, 0; syswrite $counters, pack 'q', @value; return }
    sysseek $counters, 8 * $i, 0;
    sysread $counters, my $got, 8;
    return unpack 'q', $got;
}

sub serve {
    my ($size) = @_;
    $n->conf(<<"EOC");
        llm_lua_memory $size;
        llm_lua_timeout 60s;
        llm_lua_steps 100000000;
        $model
        server {
            listen 127.0.0.1:%%PORT%%;
            location / { llm_pass m; }
            location /hook/ { llm_pass m; llm_prompt_by_lua_block { $script } }
            location /table/ { llm_pass m; llm_prompt_by_lua_block { local t = {} for i = 1, 1e9 do t[i] = i end } }
            location /many/ { llm_pass m; llm_prompt_by_lua_block { local t = {} for i = 1, 1e9 do t[i] = { tostring(i) } end } }
            location /lower/ { llm_pass m; llm_prompt_by_lua_block {
                local t, s = {}, ("A"):rep(300000)
                for i = 1, 1e9 do t[i] = (s .. i):lower() end
            } }
            location /deep/ { llm_pass m; llm_prompt_by_lua_block {
                local t = {}
                local function f() t[#t + 1] = (("x"):rep(2000) .. #t):sub(2) return 1 + f() end
                return f()
            } }
        }
EOC
    $n->start;
    return LLM::HTTP->new(port => $n->port);
}

my %chat = (messages => [ { role => 'user', content => ' Hello ' } ]);

subtest 'the smallest limit' => sub {
    my $http = serve('2m');
    my ($worker) = $n->workers;
    my $good = sub { is $http->post("$_/v1/chat/completions", { %chat, max_tokens => 1 })->status, 200, "chat$_" for '', '/hook' };
    $good->();
    for my $path (qw(/table /many /lower /deep)) {
        my $x = $http->post("$path/v1/chat/completions", { %chat, max_tokens => 1 });
        is $x->status, 500, "$path: refused" or diag $x->body;
    }
    is scalar(() = $n->log =~ /hook failed: .*not enough memory/g), 4, 'for lack of memory';
    my $long = join ' ', 'a' .. 'zz';
    my $x = $http->post('/chat_tokenize', { messages => [ map { { role => 'user', content => "$_ $long" } } 1 .. 500 ] });
    like $x->status, qr/^(?:200|424)$/, 'a chat of 1 MB';
    $good->();
    is_deeply [ $n->workers ], [$worker], 'the worker is the same';
    $n->stop;
};

SKIP: {
    skip 'no compiler', 2 unless $built || $ENV{LLM_TEST_STRICT};
    local $ENV{LLM_TEST_COUNTERS} = $file;
    local $n->{preload} = "$dir/fail.so";

    subtest 'each allocation of a request fails once' => sub {
        my $http = serve('64m');
        my ($worker) = $n->workers;
        for my $path ('', '/hook') {
            my %body = $path ? (max_tokens => 1) : ();
            my $post = sub { $http->post($path ? "$path/v1/chat/completions" : '/chat_tokenize', { %chat, %body }) };
            my ($fail, %seen, $last) = 0;
            is $post->()->status, 200, "$path: it works";
            while (++$fail < MANY) {
                counter(1, 0);
                counter(0, $fail);
                $last = $post->();
                counter(0, 0);
                $seen{ $last->status || $last->error }++;
                last if counter(1) < $fail;
            }
            is $last->status, 200, "$path: good when none fails";
            ok $fail > 20 && ($seen{424} || $seen{500}), "$path: $fail allocations";
            is_deeply [ grep { !/^(?:200|422|424|500)$/ } keys %seen ], [], "$path: an answer to each";
            is_deeply [ $n->workers ], [$worker], "$path: the worker is the same";
            is $post->()->status, 200, "$path: it goes on";
        }
        $n->stop;
    };

    subtest 'allocations of the start fail' => sub {
        $n->write_file('a.jinja', '{{ messages[0].content | trim }}');
        (my $with = $model) =~ s/\}$/template a.jinja; }/;
        $n->conf("$with server { listen 127.0.0.1:%%PORT%%; location / { llm_pass m; } }");
        for my $fail (1 .. 12, map { 400 * $_ } 1 .. 20) {
            counter(1, 0);
            counter(0, $fail);
            my ($rc, $out) = $n->check;
            counter(0, 0);
            my $good = $rc == 0 || $rc == 1 && counter(1) >= $fail && $out =~ /memory/;
            ok $good, "allocation $fail" or diag "$rc: $out";
        }
    };
}

done_testing;
