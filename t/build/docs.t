# docs.t - the documentation names what the code has, and nothing else: directives, settings of a model, variables, routes,
# commands and files.

use strict;
use warnings;
use utf8;

use Test::More;

sub slurp {
    my ($path) = @_;
    open my $f, '<:encoding(UTF-8)', $path or die "$path: $!\n";
    local $/;
    return scalar <$f>;
}

sub sorted { my %h = map { $_ => 1 } @_; return join ' ', sort keys %h }

binmode Test::More->builder->$_, ':encoding(UTF-8)' for qw(output failure_output todo_output);

my $module = slurp('ngx_llm_module/ngx_http_llm_module.c');
my ($commands) = $module =~ /ngx_http_llm_commands\[\] = \{(.*?)ngx_null_command/s;
my @directives = $commands =~ /"(llm_\w+)"/g;
cmp_ok scalar @directives, '>', 40, 'directives found in the source';

my %page = map { $_ => slurp($_) } glob('docs/*.md'), 'README.md';

# the cells of all table rows; "\|" does not end a cell
my @rows = map { /^\|(.*)\|$/ ? [ map { s/^\s+|\s+$//gr } split /(?<!\\)\|/, $1 ] : () }
    map { split /\n/ } @page{ 'docs/directives.md', 'docs/lua.md' };

# The cells of the row whose first cell has the syntax of a directive.
sub row_of {
    my ($name) = @_;
    my ($row) = grep { $_->[0] =~ /(?:`|; )\Q$name\E(?: [^`]*)?[;}]/ } @rows;
    return $row;
}

subtest 'directives' => sub {
    for my $name (@directives) {
        next if $name eq 'llm_model';
        my $row = row_of($name);
        ok $row && @$row >= 3 && !grep({ $_ eq '' } @$row), "$name: a row with syntax, default and meaning" or diag explain $row;
    }
    like $page{'docs/directives.md'}, qr/llm_model name \{ … \} +context: http/, 'llm_model: syntax and context';
    my @documented = map { /(?:^|[`;,] ?)(llm_\w+)(?= [^`()]*[;{]|;)/g } map { $_->[0] } @rows;
    is sorted(@documented), sorted(grep { $_ ne 'llm_model' } @directives), 'and no others';
};

subtest 'defaults' => sub {
    my $conf = slurp('ngx_llm_module/ngx_http_llm_conf.c');
    my %member = $commands =~ /ngx_http_llm_number_command\("(llm_\w+)",\s*(\w+)/g;
    for my $name (sort keys %member) {
        my ($default) = $conf =~ /ngx_conf_merge_\w+\(\s*(?:conf|c)->\Q$member{$name}\E,\s*\w+->\Q$member{$name}\E,\s*(\d+)\)/;
        next unless $default;      # 0 and NGX_CONF_UNSET: what the model has
        like row_of($name)->[1], qr/^$default\b/, "$name: $default";
    }
};

subtest 'settings of a model' => sub {
    my ($table) = slurp('ngx_llm_module/ngx_http_llm_model.c') =~ /ngx_http_llm_settings\[\] = \{(.*?)ngx_null_string/s;
    my @settings = $table =~ /ngx_string\("(\w+)"\)/g;
    my ($block) = $page{'docs/directives.md'} =~ /\n\| in the block .*?\n\n/sg ? $& : '';
    is sorted($block =~ /^\| `(\w+) /mg), sorted(@settings), 'each has a row';
    my ($row) = $page{'README.md'} =~ /^\| `llm_model name .*$/mg ? $& : '';
    is sorted(grep { !/^llm/ } $row =~ /`(\w+)`/g), sorted(@settings), 'README names them';
};

subtest 'variables' => sub {
    my @variables = slurp('ngx_llm_module/ngx_http_llm_metrics.c') =~ /\{ ngx_string\("(llm_\w+)"\)/g;
    my ($table) = $page{'docs/directives.md'} =~ /\n## Variables\n(.*)/s;
    is sorted($table =~ /`\$(llm_\w+)`/g), sorted(@variables), 'each is documented';
};

subtest 'routes' => sub {
    my ($table) = slurp('ngx_llm_module/ngx_http_llm_route.c') =~ /ngx_http_llm_paths\[\] = \{(.*?)ngx_null_string/s;
    my @routes = $table =~ /ngx_string\("([^"]*)"\)/g;
    cmp_ok scalar @routes, '>', 20, 'routes found in the source';
    my ($rows) = $page{'docs/api.md'} =~ /\n\| Route \|.*?\n(\|.*?)\n\n/s;
    my %there = map { s/\{\w+\}/*/gr => 1 } $rows =~ m{(/[\w./{}-]*)}g;    # names in a path are * in the source
    my @missing = grep { !$there{$_} } grep { length } @routes;
    is "@missing", '', 'each is in the table of docs/api.md';
};

subtest 'links' => sub {
    for my $path (sort keys %page) {
        my ($dir) = $path =~ m{^(.*/)} ? $1 : '';
        for my $link ($page{$path} =~ /\]\(([^)#\s]+)(?:#[^)]*)?\)/g) {
            next if $link =~ /^https?:/;
            ok -e "$dir$link", "$path: $link";
        }
        for my $file ($page{$path} =~ m{`((?:engine|t|bench|conf|lua|docs|ngx_llm_module)/[\w./-]*[\w/])`}g) {
            ok -e $file, "$path: $file";
        }
        for my $anchor ($page{$path} =~ /\]\(#([\w-]+)\)/g) {
            my @titles = map { lc s/[^\w -]//gr =~ s/ /-/gr } $page{$path} =~ /^#+ (.*)$/mg;
            ok scalar(grep { $_ eq $anchor } @titles), "$path: #$anchor";
        }
    }
};

done_testing;
