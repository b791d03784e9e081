/*
 * Fuzzes the readers of pytorch_model.bin: the bytes are taken once as a pickle and once as a zip file. The result must be
 * tensors inside their storages, or an error with a message.
 *
 *   make fuzz
 *   mkdir -p build-fuzz/corpus
 *   build-fuzz/pickle -max_total_time=20 -max_len=4096 -timeout=10 -rss_limit_mb=2048 -dict=t/fuzz/pickle.dict build-fuzz/corpus \
 *       t/fixtures/pickle/bad t/fixtures/pickle/good
 */
#define _GNU_SOURCE

#include "model/pickle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static llm_code_t
count(void *ctx, const llm_pickle_tensor_t *t, llm_err_t *err)
{
    (void) err;
    if (t->n_dims > LLM_CKPT_MAX_DIMS || t->dtype >= LLM_DT_COUNT) {
        abort();
    }
    /* every byte that is pointed at can be read */
    size_t sum = 1;
    for (size_t i = 0; i < t->name_len; i++) {
        sum += (uint8_t) t->name[i];
    }
    for (size_t i = 0; i < t->storage_len; i++) {
        sum += (uint8_t) t->storage[i];
    }
    *(size_t *) ctx += sum;
    return LLM_OK;
}

static void
use(const llm_ckpt_t *c)
{
    uint8_t byte;
    llm_err_t err;
    for (size_t i = 0; i < llm_ckpt_n_tensors(c); i++) {
        const llm_ckpt_tensor_t *t = llm_ckpt_tensor_at(c, i);
        if (llm_ckpt_find(c, t->name) != t
            || (t->size > 0 && llm_ckpt_read(c, t, t->size - 1, &byte, 1, &err) != LLM_OK))
        {
            abort();
        }
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char dir[] = "/tmp/llm-fuzz-XXXXXX", link_name[64];
    if (fd < 0) {
        char target[64];
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        snprintf(target, sizeof(target), "/proc/self/fd/%d", fd);
        if (mkdtemp(dir) == NULL) {
            abort();
        }
        snprintf(link_name, sizeof(link_name), "%s/pytorch_model.bin", dir);
        if (symlink(target, link_name) != 0) {
            abort();
        }
    }
    llm_err_t err = { 0 };
    size_t n = 0;
    llm_code_t rc = llm_pickle_tensors("fuzz", data, size, count, &n, &err);
    if (rc != LLM_OK && (err.code != rc || strncmp(err.msg, "fuzz: ", 6) != 0)) {
        abort();
    }

    if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t) size) {
        abort();
    }
    llm_ckpt_t *c;
    err = (llm_err_t) { 0 };
    rc = llm_ckpt_open(&c, dir, &err);
    if (rc == LLM_OK) {
        use(c);
        llm_ckpt_close(c);
    } else if (c != NULL || err.code != rc || strncmp(err.msg, dir, strlen(dir)) != 0) {
        abort();
    }
    return 0;
}
