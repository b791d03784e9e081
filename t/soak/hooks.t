# hooks.t - thousands of requests with a prompt hook and a streaming moderation hook: workers keep their size and their
# number of open files, and no forbidden word comes through.

use strict;
use warnings;
use lib 't/lib';

use Test::More;

use LLM::HTTP;
use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

use constant { WARM => 300, PARALLEL => 16, WORKERS => 2, MAX_GROWTH_KB => 2048 };
my $total = $ENV{LLM_TEST_LONG} ? 100_000 : $ENV{LLM_TEST_SAN} ? 1_500 : 10_000;

# "e" is in nearly every text of the tiny model, so that the filter has work
my $n = LLM::Nginx->new(workers => WORKERS, level => 'warn');
$n->conf(<<'EOC');
    access_log off;
    llm_model m { weights %%ROOT%%/t/fixtures/gguf/smollm2-Q4_1.gguf; context 256; }
    server {
        listen 127.0.0.1:%%PORT%%;
        keepalive_requests 100000;
        location / {
            llm_pass m;
            llm_prompt_by_lua_block {
                local req = ...
                return "Note: " .. (req.inputs or llm.template(req.messages))
            }
            llm_output_by_lua_block {
                local piece, last = ...
                llm.ctx.filter = llm.ctx.filter
                    or require("llm.moderation").new { words = { "e", "th" }, replace = "#" }
                return (llm.ctx.filter(piece, last))
            }
        }
    }
EOC
$n->start;
my $http = LLM::HTTP->new(port => $n->port, timeout => 120);

sub exchange {
    my ($i) = @_;
    return $http->send(POST => '/v1/chat/completions', json => { stream => JSON::PP::true, max_tokens => 12, seed => $i,
        messages => [ { role => 'user', content => "number $i" } ] }) if $i % 3 == 0;
    return $http->send(POST => '/generate_stream', json =>
        { inputs => "number $i", parameters => { max_new_tokens => 12, do_sample => JSON::PP::true, seed => $i } });
}

my ($texts, $bad, $leaked) = (0, 0, 0);
sub drive {
    my ($from, $to) = @_;
    while ($from < $to) {
        my @x = map { exchange($from++) } 1 .. PARALLEL;
        LLM::HTTP::wait_all(60, @x);
        for my $x (@x) {
            if (!$x->complete || $x->status != 200) { $bad++; next }
            for my $e (@{ $x->data }) {
                next unless ref $e;
                my $text = $e->{choices} ? $e->{choices}[0]{delta}{content} : $e->{generated_text};
                next unless defined $text;
                $texts++;
                $leaked++ if $text =~ /e|th/i;
            }
        }
    }
}

# [resident kilobytes, open files] of all workers together
sub size {
    my ($kb, $fds) = (0, 0);
    for my $pid ($n->workers) {
        $kb += $1 if $n->read_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+)/m;
        $fds += () = glob "/proc/$pid/fd/*";
    }
    return ($kb, $fds);
}

drive(0, WARM);
my ($kb, $fds) = size();
drive(WARM, $total);
my ($kb_end, $fds_end) = size();
is $bad, 0, "$total requests are answered whole";
cmp_ok $texts, '>', $total, 'with text';
is $leaked, 0, 'no forbidden word came through';
cmp_ok $kb_end - $kb, '<=', MAX_GROWTH_KB, 'memory is flat' or diag "$kb KB before, $kb_end KB after";
note "workers: $kb KB after " . WARM . " requests, $kb_end KB after $total";
# a worker may close the last connections a moment after their answers
ok $n->wait_for(sub { (size())[1] <= $fds + 2 }, 10), 'open files too' or diag "$fds before, $fds_end after";
$n->stop;

done_testing;
