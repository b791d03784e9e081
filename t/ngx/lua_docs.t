# lua_docs.t - the examples of docs/lua.md: each passes nginx -t and answers as the comment above it says.

use strict;
use warnings;
use lib 't/lib';

use JSON::PP ();
use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

open my $f, '<', 'docs/lua.md' or die "docs/lua.md: $!\n";
my $text = do { local $/; <$f> };
my @examples;
while ($text =~ /^<!-- test: (\{.*?\}) (\d+)(?: (\{.*\}))? -->\n```nginx\n(.*?)^```$/gms) {
    push @examples, { request => $1, status => $2, want => $3, hook => $4 };
}
my $blocks = () = $text =~ /^```nginx$/gm;
is scalar(@examples), $blocks, 'every example has a test' or BAIL_OUT('docs/lua.md');

my $n = LLM::Nginx->new;
my $locations = join '', map { "location /e$_/ { llm_pass m;\n$examples[$_]{hook} }\n" } 0 .. $#examples;
$n->conf(<<"EOC");
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 256; kv_cache 16m; }
    server {
        listen 127.0.0.1:%%PORT%%;
        $locations
        location = /classify { return 200 '{"label":"safe"}'; }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port);
for my $i (0 .. $#examples) {
    my $e = $examples[$i];
    my $body = JSON::PP::decode_json($e->{request});
    my $x = $http->post("/e$i/generate", { parameters => { max_new_tokens => 4 }, %$body });
    is $x->status, $e->{status}, "example $i" or diag $x->body, $n->log;
    is_deeply $x->json, JSON::PP::decode_json($e->{want}), "example $i: body" if $e->{want};
}
$n->stop;
done_testing;
