# conf.t - every complete configuration in conf/ passes nginx -t, starts and answers; the file itself is used, with only
# its paths, ports and sizes replaced.

use strict;
use warnings;
use lib 't/lib';

use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

# a tiny model with the default model's tokenizer and chat template
use constant MODEL => '%%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf';

my @files = glob 'conf/*.conf';
ok @files, 'there are examples';

for my $file (@files) {
    subtest $file => sub {
        open my $f, '<', $file or die "$file: $!\n";
        my $text = do { local $/; <$f> };
        my ($workers) = $text =~ /^\s*worker_processes (\d+);/m;
        ok $workers, 'names the number of workers';
        my $n = LLM::Nginx->new(workers => $workers || 1, ports => 4);
        my @left = map { $n->port($_) } 0 .. 3;
        my %port;
        $text =~ s/^(\s*listen )(?:127\.0\.0\.1:)?(\d+)/"${1}127.0.0.1:" . ($port{$2} ||= shift @left)/gme;
        $text =~ s/(127\.0\.0\.1:)(\d+)/$1 . ($port{$2} || $2)/ge;    # what the examples pass to each other
        $n->raw_conf(adapt($n, $text));
        my ($rc, $out) = $n->check;
        is $rc, 0, 'nginx -t' or diag $out;
        $n->start;
        my $http = LLM::HTTP->new(port => $n->port);
        ok $n->wait_for(sub { $http->get('/health')->status == 200 }, 30), '/health is 200';
        is $http->get('/health')->body, '', 'and empty';
        if ($text =~ m{location /static/}) {
            is $http->get('/static/page.html')->body, 'hello', 'a static file beside the model';
        }
        my $x = $http->post('/generate', { inputs => 'one two', parameters => { max_new_tokens => 3 } });
        is $x->status, 200, '/generate answers' or diag $x->body;
        ok exists $x->json->{generated_text}, 'with text';
        $n->stop;
    };
}

done_testing;

sub adapt {
    my ($n, $text) = @_;
    my $user = $> == 0 ? 'user root;' : '';
    my $temp = join '', map { "    ${_}_temp_path %%DIR%%/temp/$_;\n" } qw(client_body proxy fastcgi uwsgi scgi);
    $n->write_file('html/page.html', 'hello');
    $text =~ s{^user .*$}{$user daemon off;}m or die 'no user directive';
    $text =~ s{^pid .*$}{pid %%DIR%%/nginx.pid;}m or die 'no pid directive';
    $text =~ s{^(\s*)error_log .*$}{$1error_log %%DIR%%/error.log info;}mg or die 'no error_log directive';
    $text =~ s{^(\s*)access_log .*$}{$1access_log %%DIR%%/access.log;}mg;
    $text =~ s{^load_module .*ngx_http_llm_module\.so;$}{load_module $n->{build}/ngx_http_llm_module.so;}m or die 'no load_module';
    $text =~ s{^(\s*)weights .*$}{$1weights @{[MODEL]};}mg or die 'no weights';
    $text =~ s{^(\s*)context .*$}{$1context 128;}mg;
    $text =~ s{^(\s*)kv_cache .*$}{$1kv_cache 16m;}mg;
    $text =~ s{alias /usr/share/nginx/html/;}{alias %%DIR%%/html/;}g;
    $text =~ s{/etc/nginx/llm/}{%%ROOT%%/conf/}g;
    $text =~ s/^http \{$/http {\n$temp/m or die 'no http block';
    return $text;
}
