/*
 * Fuzzes opening a GGUF file: header, binding, tokenizer, everything that nginx -t does with a
 * file that nobody vouches for. Whatever the bytes are, the result must be a model or an error
 * with a message; with a model, texts go through its tokenizer.
 *
 * The input is followed by a megabyte of zeros, so that offsets of tensors stay inside the file
 * when libFuzzer cuts it.
 *
 *   B=build-fuzz SAN=address,undefined
 *   make -C engine BUILD=$PWD/$B CC=clang-14 CFLAGS="-O1 -fsanitize=fuzzer-no-link,$SAN" lib
 *   clang-14 -g -O1 -fsanitize=fuzzer,$SAN -fno-sanitize-recover=undefined -Iengine t/fuzz/gguf.c \
 *       $B/libllm.a -ljansson -lutf8proc -lpcre2-8 -lm -o $B/gguf
 *   mkdir -p $B/corpus
 *   $B/gguf -max_total_time=20 -max_len=32768 -timeout=10 -rss_limit_mb=2048 $B/corpus \
 *       t/fixtures/gguf t/fixtures/malformed
 */
#define _GNU_SOURCE

#include "llm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TAIL (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
use(const llm_model_t *m)
{
    static const char *const texts[] = { "", " Hello\n\xf0\x9f\x99\x82 <s>1234", "\xff\xc3" };
    const llm_model_info_t *info = llm_model_info(m);
    const char *const strings[] = {
        info->arch, info->name, info->license, info->type_name, info->bos_token, info->eos_token,
    };
    for (size_t i = 0; i < sizeof(strings) / sizeof(strings[0]); i++) {
        if (strings[i] == NULL || strchr(strings[i], '\n') != NULL) {
            abort();
        }
    }
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        llm_tokens_t t;
        llm_err_t err;
        if (llm_tokenize(m, texts[i], strlen(texts[i]), i, &t, &err) != LLM_OK) {
            continue;
        }
        for (size_t k = 0; k < t.n; k++) {
            char piece[16];
            if (t.ids[k] < 0 || (uint32_t) t.ids[k] >= info->n_vocab) {
                abort();
            }
            llm_token_text(m, t.ids[k], piece, sizeof(piece));
        }
        llm_tokens_free(&t);
    }
    llm_model_kv_bytes(m, LLM_KV_F16);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    }
    if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t) size
        || ftruncate(fd, (off_t) size + TAIL) != 0)
    {
        abort();
    }
    llm_model_t *m;
    llm_err_t err = { 0 };
    llm_model_conf_t conf = { .weights = path, .check_only = true };
    llm_code_t rc = llm_model_open(&m, &conf, &err);
    if (rc == LLM_OK) {
        use(m);
        llm_model_close(m);
    } else if (m != NULL || err.code != rc || err.msg[0] == '\0' || strchr(err.msg, '\n') != NULL) {
        abort();
    }
    return 0;
}
