/*
 * Fuzzes opening a Hugging Face directory: the bytes are config.json, a NUL, and a safetensors header (its length and its text). The
 * tokenizer is that of a fixture. Whatever the bytes are, the result must be a model or an error with a message.
 *
 * The weight file is made as long as the largest offset in the header says, up to 64 MB (a hole: it takes no room).
 *
 *   make fuzz
 *   mkdir -p build-fuzz/corpus
 *   build-fuzz/directory -max_total_time=20 -max_len=32768 -timeout=10 -rss_limit_mb=2048 build-fuzz/corpus t/fixtures/fuzz/directory
 */
#define _GNU_SOURCE

#include "llm.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_DATA ((uint64_t) 64 << 20)
#define TOKENIZER "t/fixtures/models/llama/"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/llm-fuzz-XXXXXX";
static int  config_fd = -1, weights_fd = -1;

static void
link_to(const char *target, const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (symlink(target, path) != 0) {
        abort();
    }
}

static void
init(void)
{
    static const char *const names[] = { "tokenizer.json", "tokenizer_config.json", "generation_config.json" };
    char target[512], cwd[256];
    if (mkdtemp(dir) == NULL || getcwd(cwd, sizeof(cwd)) == NULL) {
        abort();
    }
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(target, sizeof(target), "%s/" TOKENIZER "%s", cwd, names[i]);
        link_to(target, names[i]);
    }
    config_fd = memfd_create("config", MFD_CLOEXEC);
    weights_fd = memfd_create("weights", MFD_CLOEXEC);
    snprintf(target, sizeof(target), "/proc/self/fd/%d", config_fd);
    link_to(target, "config.json");
    snprintf(target, sizeof(target), "/proc/self/fd/%d", weights_fd);
    link_to(target, "model.safetensors");
}

static void
fill(int fd, const uint8_t *data, size_t size)
{
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t) size) {
        abort();
    }
}

/* The largest number that ends a pair of offsets. */
static uint64_t
data_end(const char *p, const char *end)
{
    static const char key[] = "data_offsets\":[";
    uint64_t most = 0;
    while ((p = memmem(p, (size_t) (end - p), key, sizeof(key) - 1)) != NULL) {
        uint64_t v = 0;
        p += sizeof(key) - 1;
        for (; p < end && *p != ']' && v <= MAX_DATA; p++) {
            v = *p == ',' ? 0 : *p >= '0' && *p <= '9' ? v * 10 + (uint64_t) (*p - '0') : v;
        }
        most = v > most && v <= MAX_DATA ? v : most;
    }
    return most;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size > 0 ? memchr(data, '\0', size) : NULL;
    if (config_fd < 0) {
        init();
    }
    if (nul == NULL) {
        return 0;
    }
    size_t n_config = (size_t) (nul - data), n = size - n_config - 1;
    fill(config_fd, data, n_config);
    uint64_t len = 0;
    memcpy(&len, nul + 1, n >= 8 ? 8 : 0);
    if (n > 8 && len > n - 8) {
        const uint8_t *brace = memrchr(nul + 9, '}', n - 8);
        len = brace != NULL ? (uint64_t) (brace - nul) - 8 : n - 8;
    }
    len = n > 8 ? len : 0;
    fill(weights_fd, (const uint8_t *) &len, 8);
    if (n > 8) {
        uint64_t end = data_end((const char *) nul + 9, (const char *) nul + 9 + len);
        if (pwrite(weights_fd, nul + 9, len, 8) != (ssize_t) len || ftruncate(weights_fd, (off_t) (8 + len + end)) != 0) {
            abort();
        }
    }
    llm_model_t *m;
    llm_err_t err = { 0 };
    llm_model_conf_t conf = { .weights = dir, .check_only = true };
    llm_code_t rc = llm_model_open(&m, &conf, &err);
    if (rc == LLM_OK) {
        llm_model_close(m);
    } else if (m != NULL || err.code != rc || strstr(err.msg, dir) == NULL) {
        abort();
    }
    return 0;
}
