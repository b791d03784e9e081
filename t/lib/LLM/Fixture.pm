# Fixture.pm - the expected answers of the models in t/fixtures, and how far answers are from them.
package LLM::Fixture;

use strict;
use warnings;

use Exporter 'import';
use JSON::PP;

our @EXPORT = qw(expected off_by);

# What a model must answer: "gguf/x.gguf" or "models/x", a directory.
sub expected {
    my ($model) = @_;
    my $file = "t/fixtures/$model";
    $file = -d $file ? "$file/expected.json" : $file =~ s/\.gguf$/.expected.json/r;
    open my $fh, '<', $file or die "$file: $!";
    local $/;
    return JSON::PP->new->utf8->decode(<$fh>);
}

# The largest difference between two lists of numbers; where only one has undef, or of other lengths: 9e9.
sub off_by {
    my ($got, $want) = @_;
    return 9e9 if @$got != @$want;
    my $worst = 0;
    for my $i (0 .. $#$want) {
        next if !defined $want->[$i] && !defined $got->[$i];
        return 9e9 if !defined $want->[$i] || !defined $got->[$i];
        my $d = abs($got->[$i] - $want->[$i]);
        $worst = $d if $d > $worst;
    }
    return $worst;
}

1;
