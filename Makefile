# Builds the nginx module and the llm program.
#
#   make                    build/ngx_http_llm_module.so (for the installed nginx) and build/llm
#   make SAN=1              the same in build-san/ with the address and undefined-behaviour sanitizers
#   make tests              the engine's test programs, build/t/*.t
#   make fuzz               the fuzzers of t/fuzz in build-fuzz/ (clang)
#   make lint               layering, sizes, forms, luacheck
#   make static NGINX_SRC=dir     build/static/nginx: nginx from its sources in dir with the module linked in
#   make install            copies the module to nginx's modules folder (DESTDIR is honoured)
#   make clean
#
# nginx's own configure script writes the rules for the module (config, config.make); it takes some seconds, so it
# runs again only when one of its inputs changed.  The folder must have no spaces in its path (./run copes with them).

MAKEFLAGS += --no-print-directory
ROOT   := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
BUILD  ?= $(ROOT)/build$(if $(SAN),-san)
NGX    := $(BUILD)/nginx
STATIC := $(BUILD)/static
MODULE := ngx_http_llm_module.so

# headers, configure script and flags of the distribution's binary (Debian: nginx-dev)
NGINX_DEV     ?= /usr/share/nginx/src
NGINX_MODULES ?= /usr/lib/nginx/modules

CC_OPT := -O2 -g -fPIC
LD_OPT := -fPIC
ifdef SAN
CC_OPT := -O1 -g -fPIC -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
LD_OPT := -fPIC -fsanitize=address,undefined
endif

# what the rules written by nginx's configure depend on
INPUTS := $(wildcard $(NGINX_DEV)/conf_flags) $(ROOT)/config $(ROOT)/config.make $(ROOT)/Makefile
KEY    := $(shell (cat $(INPUTS); echo $(CC) $(ROOT) $(wildcard $(ROOT)/ngx_llm_module/*.[ch] $(ROOT)/lua/llm/*.lua $(ROOT)/web/*)) 2>/dev/null | sha256sum | cut -c1-16)
STAMP  := $(NGX)/.configured-$(KEY)

export SAN
export LLM_BUILD = $(BUILD)

.PHONY: all module llm tests fuzz lint static install clean
all: module llm

$(STAMP):
	@test -e $(NGINX_DEV)/conf_flags || { echo "$(NGINX_DEV)/conf_flags is missing: install nginx-dev" >&2; exit 1; }
	@rm -rf $(NGX) && mkdir -p $(NGX)/src
	@# configure writes a Makefile where it runs, which for us is no place of the system's
	@ln -s $(NGINX_DEV)/auto $(NGINX_DEV)/src $(NGINX_DEV)/configure $(NGX)/src/
	@bash -c '. $(NGINX_DEV)/conf_flags && cd $(NGX)/src && ./configure "$${NGX_CONF_FLAGS[@]}" \
	    --with-cc="$(CC)" --with-cc-opt="$(CC_OPT)" --with-ld-opt="$(LD_OPT)" \
	    --add-dynamic-module=$(ROOT) --builddir=$(NGX)/objs' > $(NGX)/configure.log 2>&1 \
	    || { tail -n 20 $(NGX)/configure.log >&2; exit 1; }
	@touch $@

module: $(STAMP)
	@$(MAKE) -C $(NGX)/src -f $(NGX)/objs/Makefile modules
	@cmp -s $(NGX)/objs/$(MODULE) $(BUILD)/$(MODULE) || cp $(NGX)/objs/$(MODULE) $(BUILD)/$(MODULE).new
	@test ! -e $(BUILD)/$(MODULE).new || mv $(BUILD)/$(MODULE).new $(BUILD)/$(MODULE)

# after the module, which builds the same archive
llm: module
	@$(MAKE) -C $(ROOT)/engine BUILD=$(BUILD) llm

tests: module
	@$(MAKE) -C $(ROOT)/engine BUILD=$(BUILD) tests

# clang's coverage-guided fuzzer over t/fuzz/*.c, with the same sanitizers; t/build/fuzz.t runs them. No fuzzer reaches
# the kernels, which take minutes to compile with all checks: these get none.
FUZZ_SAN := address,undefined
fuzz:
	@$(MAKE) -C $(ROOT)/engine BUILD=$(ROOT)/build-fuzz CC=clang SAN= CFLAGS=-O1 \
	    $(patsubst $(ROOT)/%.c,$(ROOT)/build-fuzz/%.o,$(wildcard $(ROOT)/engine/tensor/kern*.c $(ROOT)/engine/tensor/mm_*.c))
	@$(MAKE) -C $(ROOT)/engine BUILD=$(ROOT)/build-fuzz CC=clang SAN= \
	    CFLAGS="-O1 -fsanitize=fuzzer-no-link,$(FUZZ_SAN) -fno-sanitize-recover=undefined" lib
	@$(MAKE) $(patsubst $(ROOT)/t/fuzz/%.c,$(ROOT)/build-fuzz/%,$(wildcard $(ROOT)/t/fuzz/*.c))

$(ROOT)/build-fuzz/%: $(ROOT)/t/fuzz/%.c $(ROOT)/build-fuzz/libllm.a
	clang -g -O1 -fsanitize=fuzzer,$(FUZZ_SAN) -fno-sanitize-recover=undefined -I$(ROOT)/engine $< \
	    $(ROOT)/build-fuzz/libllm.a -ljansson -lutf8proc -lpcre2-8 -lm -pthread -o $@

lint:
	@cd $(ROOT) && prove t/build/lint.t

static: $(STATIC)/.configured-$(KEY)
	@$(MAKE) -C $(NGINX_SRC) -f $(STATIC)/Makefile

$(STATIC)/.configured-$(KEY):
	@test -d "$(NGINX_SRC)/auto" || { echo "make static NGINX_SRC=folder of nginx's sources" >&2; exit 1; }
	@rm -rf $(STATIC) && mkdir -p $(STATIC)
	@cd $(NGINX_SRC) && $$(test -x configure && echo ./configure || echo auto/configure) \
	    --with-cc="$(CC)" --with-cc-opt="$(CC_OPT) $(if $(SAN),-DNGX_DEBUG_PALLOC)" --with-ld-opt="$(LD_OPT)" \
	    --with-debug --with-compat --with-threads --with-http_ssl_module --with-http_v2_module \
	    --add-module=$(ROOT) --builddir=$(STATIC) > $(STATIC)/configure.log 2>&1 \
	    || { tail -n 20 $(STATIC)/configure.log >&2; exit 1; }
	@touch $@

install: module
	install -D -m 644 $(BUILD)/$(MODULE) $(DESTDIR)$(NGINX_MODULES)/$(MODULE)

clean:
	rm -rf $(BUILD)
