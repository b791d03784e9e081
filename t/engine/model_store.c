/*
 * Weights in a file: mapped when it is exactly right, else packed as if it were not there; written
 * whole or not at all; old files of ours go, others stay.
 */
#define _GNU_SOURCE
#include "../tap.h"
#include "model/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FIXTURES "t/fixtures/gguf/"

static char dir[] = "/tmp/llm-store-XXXXXX";
static char reason[600];

static void
note_reason(void *ctx, const char *why)
{
    (void) ctx;
    snprintf(reason, sizeof(reason), "%s", why);
}

static llm_model_t *
open_model(const char *path, const char *cache, const char *quantize)
{
    llm_model_t *m;
    llm_err_t err;
    llm_model_conf_t conf = {
        .weights = path, .cache_dir = cache, .quantize = quantize, .unused = note_reason,
    };
    reason[0] = '\0';
    if (llm_model_open(&m, &conf, &err) != LLM_OK) {
        diag("%s: %s", path, err.msg);
        exit(1);
    }
    return m;
}

/* The path of the only file whose name begins so; "": there is none, or more. */
static const char *
only_file(const char *start)
{
    static char path[600];
    unsigned n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (strncmp(e->d_name, start, strlen(start)) == 0) {
            snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
            n++;
        }
    }
    closedir(d);
    return n == 1 ? path : "";
}

static void
write_at(const char *path, off_t at, const void *data, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    if (fd < 0 || pwrite(fd, data, n, at) != (ssize_t) n) {
        perror(path);
        exit(1);
    }
    close(fd);
}

static bool
maps(const char *path, const char *quantize)
{
    llm_model_t *m = open_model(path, dir, quantize);
    bool mapped = llm_model_info(m)->mapped;
    llm_model_close(m);
    return mapped;
}

static llm_code_t
keep(const char *path, const char *quantize, llm_err_t *err)
{
    llm_model_t *m = open_model(path, dir, quantize);
    llm_code_t rc = llm_model_keep(m, dir, err);
    llm_model_close(m);
    return rc;
}

static void
test_mapped(const char *path, const char *quantize)
{
    llm_err_t err;
    struct stat st;
    ok(!maps(path, quantize), "%s: nothing is kept at first", path);
    ok(keep(path, quantize, &err) == LLM_OK, "kept");
    ok(stat(only_file("weights-"), &st) == 0 && (st.st_mode & 07777) == 0600,
       "one file, for us alone");
    llm_model_t *a = open_model(path, NULL, quantize), *b = open_model(path, dir, quantize);
    ok(!llm_model_info(a)->mapped && llm_model_info(b)->mapped && reason[0] == '\0', "mapped");
    ok(a->weights_bytes == b->weights_bytes && memcmp(a->weights, b->weights, a->weights_bytes) == 0,
       "the same %zu bytes", a->weights_bytes);
    float x[4096], y[4096];
    bool same = a->embed.cols <= 4096;
    for (uint32_t i = 0; same && i < a->embed.rows; i++) {
        llm_mat_row(&a->embed, i, x);
        llm_mat_row(&b->embed, i, y);
        same = memcmp(x, y, a->embed.cols * sizeof(float)) == 0;
    }
    ok(same && b->dec.final_norm.w != NULL, "matrices and vectors lie in it");
    ok(llm_model_keep(a, dir, &err) == LLM_OK, "a model that was opened without the folder is kept");
    llm_model_close(a);
    llm_model_close(b);
}

static void
test_damage(const char *path)
{
    llm_err_t err;
    char file[600];
    struct stat st;
    snprintf(file, sizeof(file), "%s", only_file("weights-"));
    stat(file, &st);
    unsigned refused = 0, named = 0;
    for (off_t at = 0; at < 40; at++) {
        unsigned char c;
        int fd = open(file, O_RDONLY);
        if (pread(fd, &c, 1, at) != 1) {
            exit(1);
        }
        close(fd);
        c ^= 1u << at % 8;
        write_at(file, at, &c, 1);
        refused += !maps(path, NULL);
        named += strstr(reason, file) != NULL;
        c ^= 1u << at % 8;
        write_at(file, at, &c, 1);
    }
    ok(refused == 40 && named == 40, "a flipped bit in any byte of the header: not used, and said");
    ok(maps(path, NULL), "as it was: mapped");
    const off_t sizes[] = { 0, 1, 40, 4096, LLM_HUGE_PAGE, st.st_size - 1, st.st_size + 1 };
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        ok(truncate(file, sizes[i]) == 0 && !maps(path, NULL) && strstr(reason, file) != NULL,
           "with %lld bytes: %s", (long long) sizes[i], reason);
    }
    ok(keep(path, NULL, &err) == LLM_OK && maps(path, NULL), "a new one takes its place");
    unlink(file);
    ok(mkdir(file, 0700) == 0 && !maps(path, NULL) && reason[0] != '\0', "a folder: %s", reason);
    ok(keep(path, NULL, &err) == LLM_E_IO, "which cannot be replaced: %s", err.msg);
    rmdir(file);
}

/* What the bytes depend on gives another file. */
static void
test_versions(void)
{
    char copy[64];
    llm_err_t err;
    snprintf(copy, sizeof(copy), "%s/model.gguf", dir);
    char command[300];
    snprintf(command, sizeof(command), "cp " FIXTURES "llama-F32.gguf %s", copy);
    ok(system(command) == 0 && keep(copy, NULL, &err) == LLM_OK && maps(copy, NULL), "a copy");
    ok(!maps(copy, "q8_0"), "quantized: others");
    ok(keep(copy, "q8_0", &err) == LLM_OK && maps(copy, "q8_0") && maps(copy, NULL), "both are kept");
    ok(!maps(copy, "q4_0"), "another format: others");
    struct timespec times[2] = { { .tv_sec = 1 }, { .tv_sec = 1 } };
    utimensat(AT_FDCWD, copy, times, 0);
    ok(!maps(copy, NULL) && reason[0] == '\0', "the file was changed: others");

    llm_model_t *m = open_model(copy, dir, NULL);
    llm_model_conf_t conf = { .weights = copy, .cache_dir = dir };
    uint64_t key = m->key;
    llm_model_close(m);
    llm_model_t early = { 0 };
    llm_store_stamp(&early, &conf);
    llm_plan_t none = { 0 };
    times[1].tv_sec = 2;
    utimensat(AT_FDCWD, copy, times, 0);
    ok(key != 0 && early.key != 0 && !llm_store_map(&early, &none, &conf) && early.key == 0,
       "changed while it is opened: it has no name");
    unlink(copy);
}

static void
test_prune(const char *path)
{
    static const struct { const char *name; unsigned days; bool stays; } files[] = {
        { "weights-0123456789abcdef.llm", 31, false },
        { "weights-0123456789abcdee.llm", 29, true },
        { "kv-0123456789abcdef.llm", 31, false },
        { "weights-0123456789abcdef.llm.AbC123", 2, false },
        { "weights-0123456789abcdee.llm.AbC123", 0, true },
        { "weights-0123456789abcdef.llm.AbC1234", 99, true },
        { "weights-0123456789abcdef.llm.", 99, true },
        { "weights-0123456789abcdeg.llm", 99, true },
        { "weights-0123456789abcde.llm", 99, true },
        { "weights-0123456789abcdef0.llm", 99, true },
        { "weights.llm", 99, true },
        { "other-0123456789abcdef.llm", 99, true },
        { "notes", 99, true },
    };
    llm_err_t err;
    char name[200];
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        snprintf(name, sizeof(name), "%s/%s", dir, files[i].name);
        write_at(name, 0, "x", 1);
        struct timespec t[2] = { { .tv_nsec = UTIME_OMIT },
                                 { .tv_sec = time(NULL) - 86400L * files[i].days } };
        utimensat(AT_FDCWD, name, t, 0);
    }
    ok(keep(path, NULL, &err) == LLM_OK, "kept beside others");
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        snprintf(name, sizeof(name), "%s/%s", dir, files[i].name);
        ok((access(name, F_OK) == 0) == files[i].stays, "%s of %u days %s", files[i].name,
           files[i].days, files[i].stays ? "stays" : "goes");
        unlink(name);
    }
}

static void
test_full(const char *path)
{
    llm_err_t err;
    struct rlimit old, small;
    char name[600];
    snprintf(name, sizeof(name), "%s", only_file("weights-"));
    unlink(name);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 1 << 20;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    ok(keep(path, NULL, &err) == LLM_E_IO, "no room: %s", err.msg);
    setrlimit(RLIMIT_FSIZE, &old);
    ok(strcmp(only_file("weights-"), "") == 0 && rmdir(dir) == 0, "and nothing is left behind");
    ok(keep(path, NULL, &err) == LLM_E_IO && strstr(err.msg, dir) != NULL, "no folder: %s", err.msg);
}

int
main(void)
{
    if (mkdtemp(dir) == NULL) {
        perror(dir);
        return 1;
    }
    test_mapped(FIXTURES "llama-Q8_0.gguf", NULL);
    test_damage(FIXTURES "llama-Q8_0.gguf");
    test_versions();
    char command[100];
    snprintf(command, sizeof(command), "rm -f %s/weights-*", dir);
    ok(system(command) == 0, "emptied");
    test_mapped(FIXTURES "llama-F32.gguf", "q8_0");
    ok(system(command) == 0, "emptied");
    test_prune(FIXTURES "smollm2-Q4_1.gguf");
    test_full(FIXTURES "smollm2-Q4_1.gguf");
    return done_testing();
}
