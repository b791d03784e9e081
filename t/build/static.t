# static.t - the module also builds into nginx's own source tree, and that binary serves.  LLM_TEST_NGINX_SRC names the
# folder of the sources; ./test sets it where Debian's archive gives them.

use strict;
use warnings;
use lib 't/lib';

use Test::More;

use LLM::HTTP;
use LLM::Nginx;

my $src = $ENV{LLM_TEST_NGINX_SRC} or plan skip_all => 'LLM_TEST_NGINX_SRC is not set';

my $san = $ENV{LLM_TEST_SAN} ? 'SAN=1' : '';
my $out = `make -s static $san NGINX_SRC=$src 2>&1`;
is $?, 0, 'make static' or diag substr $out, -3000;
my $build = $san ? 'build-san' : 'build';
local $ENV{LLM_TEST_NGINX} = "$LLM::Nginx::ROOT/$build/static/nginx";
like `$ENV{LLM_TEST_NGINX} -V 2>&1`, qr/--add-module=/, 'a binary with the module linked in';

my $n = LLM::Nginx->new(module => 0);
$n->conf(<<'EOC');
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/llama-F32.gguf; }
    server { listen 127.0.0.1:%%PORT%%; location / { llm_pass m; } }
EOC
my ($rc, $text) = $n->check;
is $rc, 0, 'nginx -t' or diag $text;
$n->start;
my $x = LLM::HTTP->new(port => $n->port)->post('/generate', { inputs => 'a', parameters => { max_new_tokens => 2 } });
is $x->status, 200, '/generate answers' or diag $x->body;
$n->stop;

done_testing;
