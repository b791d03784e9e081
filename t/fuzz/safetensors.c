/*
 * Fuzzes the reader of safetensors files: whatever the bytes are, the result must be a checkpoint whose
 * tensors can be read, or an error with a message.
 *
 * A header length that does not fit is replaced by that of the text up to the last brace, so that changes inside the header reach the
 * parser.
 *
 *   make fuzz
 *   mkdir -p build-fuzz/corpus
 *   build-fuzz/safetensors -max_total_time=20 -max_len=8192 -timeout=10 -rss_limit_mb=2048 build-fuzz/corpus t/fixtures/malformed
 */
#define _GNU_SOURCE

#include "model/ckpt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
use(const llm_ckpt_t *c)
{
    uint8_t byte;
    llm_err_t err;
    for (size_t i = 0; i < llm_ckpt_n_tensors(c); i++) {
        const llm_ckpt_tensor_t *t = llm_ckpt_tensor_at(c, i);
        if (llm_ckpt_find(c, t->name) != t || t->n_dims > LLM_CKPT_MAX_DIMS) {
            abort();
        }
        if (t->size > 0 && llm_ckpt_read(c, t, t->size - 1, &byte, 1, &err) != LLM_OK) {
            abort();
        }
    }
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
    if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t) size) {
        abort();
    }
    uint64_t n = 0;
    const uint8_t *brace = size > 8 ? memrchr(data + 8, '}', size - 8) : NULL;
    memcpy(&n, data, size >= 8 ? 8 : 0);
    if (brace != NULL && n > size - 8) {
        n = (uint64_t) (brace - data) - 7;
        if (pwrite(fd, &n, 8, 0) != 8) {
            abort();
        }
    }
    llm_ckpt_t *c;
    llm_err_t err = { 0 };
    llm_code_t rc = llm_ckpt_open(&c, path, &err);
    if (rc == LLM_OK) {
        use(c);
        llm_ckpt_close(c);
    } else if (c != NULL || err.code != rc || strncmp(err.msg, path, strlen(path)) != 0) {
        abort();
    }
    return 0;
}
