# lint.t - the rules of the house that a program can check: layering, sizes, forms, luacheck.  `make lint` runs it.

use strict;
use warnings;

use Test::More;

use constant { MAX_FILE_LINES => 800, ENGINE_COLUMNS => 100, GLUE_COLUMNS => 80 };

# each layer of the engine may include itself and those before it
my @LAYERS = qw(base tensor model text run share train tools);
my %RANK = map { $LAYERS[$_] => $_ } 0 .. $#LAYERS;

# headers of other libraries, and who may use them
my %LIBRARY = (
    'jansson.h' => qr{^(?:engine/|ngx_llm_module/|t/)}, 'utf8proc.h' => qr{^(?:engine/base/|engine/text/|t/)},
    'pcre2.h' => qr{^(?:engine/base/|engine/text/|engine/run/|t/)},
    map { $_ => qr{^ngx_llm_module/ngx_http_llm_lua} } qw(lua.h lauxlib.h lualib.h luajit.h),
);

# kernels and generated tables may be longer
my $LONG_OK = qr{^engine/tensor/.*\.(?:c|inc)$|_data\.(?:c|h|inc|lua)$|^engine/text/unicode_tables};

my @files = tracked();
my %lines = map { $_ => [ read_lines($_) ] } grep { /\.(?:c|h|inc|lua|pm|t|py|sh|pl)$|^[^.\/]+$|^\.ci\// } @files;
my @code = grep { m{^(?:engine|ngx_llm_module|lua|t|bench|\.ci)/|^(?:run|test|config|config\.make|Makefile)$} } sort keys %lines;

rule('layers include only those above them', sub {
    my ($file, @lines) = @_;
    return unless $file =~ m{^engine/(?:(\w+)/)?[^/]+$};
    my $rank = defined $1 ? $RANK{$1} : -1;
    return 'no such layer' unless defined $rank;
    return grep_lines(\@lines, sub {
        return unless /^\s*#\s*include\s+"([^"]+)"/;
        my $name = $1;
        return "\"$name\" leaves the engine" if $name =~ m{\.\.|^/|ngx_|lua};
        return if $name eq 'llm.h' || $name !~ m{/};
        my ($layer) = $name =~ m{^(\w+)/};
        return "\"$name\" is in no layer" unless defined $RANK{$layer};
        return "\"$name\" is below it" if $RANK{$layer} > $rank;
        return;
    });
});

rule('the engine knows neither nginx nor Lua, prints and exits only in tools', sub {
    my ($file, @lines) = @_;
    return unless $file =~ m{^engine/(?!tools/).*\.(?:c|h|inc)$};
    return grep_lines(\@lines, sub {
        s{/\*.*?\*/|//.*|"(?:[^"\\]|\\.)*"}{}g;
        return if m{^\s*/?\*};
        return 'nginx symbol' if /\bngx_\w+/;
        return 'prints, exits or aborts' if /\b(?:printf|puts|perror|exit|abort|_exit)\s*\(/;
        return;
    });
});

rule('of the engine the glue includes only llm.h', sub {
    my ($file, @lines) = @_;
    return unless $file =~ m{^ngx_llm_module/};
    return grep_lines(\@lines, sub {
        return unless /^\s*#\s*include\s+["<]([^">]+)[">]/;
        my $name = $1;
        return if $name =~ m{^(?:ngx_\w+|llm)\.h$} || exists $LIBRARY{$name} || -e "/usr/include/$name"
            || -e "/usr/include/@{[multiarch()]}/$name" || $name =~ m{^std\w+\.h$};
        return "\"$name\"";
    });
});

rule('library headers stay where they belong', sub {
    my ($file, @lines) = @_;
    return unless $file =~ /\.(?:c|h|inc)$/;
    return grep_lines(\@lines, sub {
        return unless /^\s*#\s*include\s+["<]([^">]+)[">]/ && $LIBRARY{$1};
        return $file =~ $LIBRARY{$1} ? () : $1;
    });
});

rule('files have at most ' . MAX_FILE_LINES . ' lines', sub {
    my ($file, @lines) = @_;
    return @lines > MAX_FILE_LINES && $file !~ $LONG_OK ? scalar(@lines) . ' lines' : ();
});

rule('lines fit: 100 columns in engine/ and lua/, 80 in ngx_llm_module/', sub {
    my ($file, @lines) = @_;
    my $max = $file =~ m{^(?:engine/.*\.(?:c|h|inc)|lua/)} ? ENGINE_COLUMNS
        : $file =~ m{^ngx_llm_module/} ? GLUE_COLUMNS : return;
    return grep_lines(\@lines, sub {
        my $text = $_;
        utf8::decode($text);
        return length $text > $max ? length($text) . ' columns' : ();
    });
});

rule('no tabs, no spaces at line ends, no CR', sub {
    my ($file, @lines) = @_;
    my $tabs_ok = $file =~ m{(?:^|/)(?:Makefile|config\.make)$};
    return grep_lines(\@lines, sub {
        return 'a tab' if !$tabs_ok && /\t/;
        return 'white space at the end' if /[ \t\r]$/;
        return;
    });
});

rule('nothing unfinished, no path of one machine', sub {
    my ($file, @lines) = @_;
    return if $file eq 't/build/lint.t';
    return grep_lines(\@lines, sub {
        return 'unfinished' if /\b(?:TODO|FIXME|XXX|HACK)\b/;
        return 'a path of one machine' if m{/work/|/root/|/home/\w+/};
        return;
    });
});

rule('C and Lua files open with a comment that says what they own', sub {
    my ($file, @lines) = @_;
    return unless $file =~ m{^(?:engine|ngx_llm_module)/.*\.(?:c|h|inc)$|^lua/.*\.lua$};
    return ($lines[0] || '') =~ m{^(?:/\*|--)} ? () : 'no head comment';
});

subtest 'object names are unique per folder name (nginx flattens paths)' => sub {
    my %seen;
    for my $file (grep { m{^(?:engine|ngx_llm_module)/.*\.c$} } @files) {
        my ($key) = $file =~ m{([^/]+/[^/]+)\.c$};
        push @{ $seen{$key} }, $file;
    }
    my @twice = grep { @{ $seen{$_} } > 1 } keys %seen;
    ok !@twice, 'unique' or diag map { "@{ $seen{$_} }\n" } @twice;
};

subtest luacheck => sub {
    my @lua = grep { /\.lua$/ } @files;
    plan skip_all => 'no Lua files' unless @lua;
    if (system 'luacheck --version > /dev/null 2>&1') {
        die "luacheck (package lua-check) is missing\n" if $ENV{LLM_TEST_STRICT};
        plan skip_all => 'no luacheck';
    }
    my $out = `luacheck --no-color -q @lua 2>&1`;
    is $?, 0, 'luacheck' or diag $out;
};

done_testing;

# One subtest: $check->($file, @lines) returns complaints.
sub rule {
    my ($name, $check) = @_;
    my @bad;
    for my $file (@code) {
        push @bad, map { "$file: $_" } $check->($file, @{ $lines{$file} });
    }
    ok !@bad, $name or diag join "\n", @bad > 30 ? (@bad[0 .. 29], '… and ' . (@bad - 30) . ' more') : @bad;
}

# "12: complaint" for each line about which $check complains; $_ is a copy of the line.
sub grep_lines {
    my ($lines, $check) = @_;
    my @bad;
    for my $i (0 .. $#$lines) {
        local $_ = $lines->[$i];
        push @bad, map { $i + 1 . ": $_" } $check->();
    }
    return @bad;
}

sub read_lines {
    my ($file) = @_;
    open my $f, '<', $file or return;
    chomp(my @lines = <$f>);
    return @lines;
}

# Files that git tracks or would track; without git, all outside build and cache folders.
sub tracked {
    my @list = split /\0/, `git ls-files -z --cached --others --exclude-standard 2>/dev/null` || '';
    @list = map { s{^\./}{}r } split /\0/, `find . -type f -not -path './build*' -not -path './.*/*' -print0` unless @list;
    return grep { -f && !m{^t/fixtures/} } @list;
}

sub multiarch {
    chomp(my $name = `gcc -print-multiarch 2>/dev/null` || '');
    return $name;
}
