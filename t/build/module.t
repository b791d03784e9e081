# module.t - what the linked module promises: only nginx's three symbols are visible, and it stays mapped when nginx closes
# it, because an engine thread may still be waiting in it when its worker exits.

use strict;
use warnings;
use lib 't/lib';

use Test::More;

use LLM::Nginx;

LLM::Nginx::skip_all('the module is not built') unless LLM::Nginx::available();

my $so = ($ENV{LLM_TEST_SAN} ? 'build-san' : 'build') . '/ngx_http_llm_module.so';

my @visible = sort grep { !/^(?:__|_init|_fini|_edata|_end)/ } map { (split)[-1] } `nm -D --defined-only $so`;
is_deeply \@visible, [qw(ngx_module_names ngx_module_order ngx_modules)], 'visible symbols';
like `readelf -d $so`, qr/FLAGS_1.*NODELETE/, 'is never unmapped';

done_testing;
