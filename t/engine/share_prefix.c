/*
 * share_prefix.c - the prefix cache in a file: a later engine goes on without prefill and with the same bits, and takes nothing
 * of a file that is not sound.
 */
#define _GNU_SOURCE
#include "../../engine/share/prefix.c"

#include "engine_help.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define MODEL GGUF_DIR "llama-Q8_0.gguf"
#define N_PROMPT 130
#define N_NEW 20
#define N_FULL ((N_PROMPT + N_NEW) / LLM_KV_PAGE)      /* pages of one run that get full; the last token is not in one */

static char dir[] = "/tmp/llm-prefix-XXXXXX";
static const llm_engine_conf_t plain = { .n_threads = 2, .n_ctx = 256, .n_slots = 4 };

/* Greedy output of a prompt, which seed decides. */
static bool
generate(const rig_t *rig, int seed, result_t *r)
{
    int32_t ids[N_PROMPT];
    for (int i = 0; i < N_PROMPT; i++) {
        ids[i] = (i * 37 + seed * 11 + 7) % 250;
    }
    llm_job_conf_t conf = { .tokens = ids, .n_tokens = N_PROMPT, .max_new = N_NEW };
    llm_sampling_init(&conf.sampling);
    conf.sampling.ignore_eos = true;
    memset(r, 0, sizeof(*r));
    return job_run(rig, &conf, r);
}

static bool
same(const result_t *a, const result_t *b)
{
    return a->view.n_new == N_NEW && memcmp(a->ids, b->ids, sizeof(a->ids)) == 0
           && memcmp(a->logprob, b->logprob, sizeof(a->logprob)) == 0;
}

/* What a prompt without any cache gives. */
static const result_t *
expected(int seed)
{
    static result_t results[3];
    static bool known[3];
    if (!known[seed]) {
        rig_t rig;
        known[seed] = rig_open(&rig, MODEL, &plain) && rig_join(&rig) && generate(&rig, seed, &results[seed]);
        if (!known[seed] || results[seed].view.n_cached != 0) {
            diag("no expected output");
            exit(1);
        }
        rig_close(&rig);
    }
    return &results[seed];
}

static const char *
path(void)
{
    static char name[600];
    DIR *d = opendir(dir);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (strncmp(e->d_name, "kv-", 3) == 0) {
            snprintf(name, sizeof(name), "%s/%s", dir, e->d_name);
        }
    }
    closedir(d);
    return name;
}

/* A file with the pages of prompts 0 and 1, the latter used last. */
static void
make_file(void)
{
    rig_t rig;
    result_t r;
    llm_err_t err = { 0 };
    llm_kept_t kept;
    ok(rig_open(&rig, MODEL, &plain) && rig_join(&rig) && generate(&rig, 0, &r) && same(&r, expected(0)) && generate(&rig, 1, &r),
       "two prompts");
    llm_engine_leave(rig.engine);
    ok(llm_engine_keep(rig.engine, dir, SIZE_MAX, &kept, &err) == LLM_OK, "kept %s", err.msg);
    ok(kept.n_pages == 2 * N_FULL && kept.n_damaged == 0, "%u pages", kept.n_pages);
    rig_close(&rig);
}

/* An engine that takes the file; returns how many tokens of the prompt it had, or -1 when it failed or its output is another. */
static int
cached_tokens(const llm_engine_conf_t *conf, int seed, llm_kept_t *kept, llm_code_t *rc, llm_err_t *err)
{
    rig_t rig;
    result_t r;
    if (!rig_open(&rig, MODEL, conf)) {
        return -1;
    }
    *rc = llm_engine_restore(rig.engine, dir, kept, err);
    bool good = rig_join(&rig) && generate(&rig, seed, &r) && same(&r, expected(seed));
    rig_close(&rig);
    return good ? (int) r.view.n_cached : -1;
}

static void
test_restore(void)
{
    llm_err_t err = { 0 };
    llm_kept_t kept;
    llm_code_t rc;
    struct stat st;
    int whole = N_PROMPT / LLM_KV_PAGE * LLM_KV_PAGE;
    ok(stat(path(), &st) == 0 && (st.st_mode & 07777) == 0600, "the file is for us alone");
    for (int seed = 0; seed < 3; seed++) {
        int n = cached_tokens(&plain, seed, &kept, &rc, &err);
        ok(rc == LLM_OK && kept.n_pages == 2 * N_FULL && kept.n_damaged == 0, "all pages are taken %s", err.msg);
        is_int(n, seed < 2 ? whole : 0, seed < 2 ? "a prompt of before: its pages, and the same bits" : "another prompt: none");
    }

    llm_engine_conf_t conf = plain;
    conf.n_ctx = 160;
    conf.n_parallel = 2;
    is_int(cached_tokens(&conf, 0, &kept, &rc, &err), whole, "other settings that do not change pages");

    rig_t rig;
    rig_open(&rig, MODEL, &plain);
    size_t page_bytes = rig.engine->sh.page_bytes;
    rig_close(&rig);
    conf.kv_bytes = (N_FULL + 2) * page_bytes;
    is_int(cached_tokens(&conf, 1, &kept, &rc, &err), whole, "a smaller cache takes what was used last");
    is_int(kept.n_pages, N_FULL + 2, "as much as it has room for");

    conf = plain;
    conf.kv_type = LLM_KV_F16;
    rig_open(&rig, MODEL, &conf);
    ok(llm_engine_restore(rig.engine, dir, &kept, &err) == LLM_OK && kept.n_pages == 0, "another format of keys and values: none");
    rig_close(&rig);
    rig_open(&rig, GGUF_DIR "llama-Q4_0.gguf", &plain);
    ok(llm_engine_restore(rig.engine, dir, &kept, &err) == LLM_OK && kept.n_pages == 0, "another model: none");
    rig_close(&rig);
}

/* The leader sees that other kernels computed the pages. */
static void
test_kernels(void)
{
    rig_t rig;
    result_t r;
    llm_err_t err;
    llm_kept_t kept;
    ok(rig_open(&rig, MODEL, &plain) && llm_engine_restore(rig.engine, dir, &kept, &err) == LLM_OK && kept.n_pages > 0, "restored");
    strcpy(rig.engine->arena->kern, "other");
    ok(rig_join(&rig) && generate(&rig, 0, &r) && same(&r, expected(0)) && r.view.n_cached == 0, "pages of other kernels are not used");
    ok(generate(&rig, 0, &r) && same(&r, expected(0)) && r.view.n_cached > 0, "but its own are");
    rig_close(&rig);
}

static void
edit(off_t at, void *data, size_t n, bool write_it)
{
    int fd = open(path(), O_RDWR);
    if (fd < 0 || (write_it ? pwrite(fd, data, n, at) : pread(fd, data, n, at)) != (ssize_t) n) {
        diag("%s: %s", path(), strerror(errno));
        exit(1);
    }
    close(fd);
}

static void
flip(off_t at)
{
    uint8_t c;
    edit(at, &c, 1, false);
    c ^= (uint8_t) (1u << at % 8);
    edit(at, &c, 1, true);
}

/* What an engine takes of the file; the engine itself is not run. */
static llm_code_t
restore(llm_kept_t *kept, uint32_t *n_cached, llm_err_t *err)
{
    rig_t rig;
    if (!rig_open(&rig, MODEL, &plain)) {
        exit(1);
    }
    uint64_t key[2] = { rig.engine->sh.hash_key[0], rig.engine->sh.hash_key[1] };
    llm_code_t rc = llm_engine_restore(rig.engine, dir, kept, err);
    *n_cached = 0;
    for (uint32_t p = 0; p < rig.engine->sh.n_pages; p++) {
        *n_cached += rig.engine->sh.pages[p].hash != 0;
    }
    if (rc != LLM_OK && memcmp(key, rig.engine->sh.hash_key, sizeof(key)) != 0) {
        *n_cached = UINT32_MAX;
    }
    rig_close(&rig);
    return rc;
}

static void
test_damage(void)
{
    llm_err_t err;
    llm_kept_t kept;
    header_t h;
    uint32_t n, refused = 0;
    edit(0, &h, sizeof(h), false);

    for (size_t at = 0; at < sizeof(h); at++) {
        flip((off_t) at);
        refused += restore(&kept, &n, &err) == LLM_E_FORMAT && n == 0 && strstr(err.msg, path()) != NULL;
        flip((off_t) at);
    }
    is_int(refused, sizeof(h), "a flipped bit in any byte of the header: nothing is taken");

    uint32_t left_out = 0, tried = 0;
    for (size_t at = 0; at < offsetof(record_t, drafted); at += 3, tried++) {
        flip((off_t) (TABLE_OFF + sizeof(record_t) * 3 + at));
        left_out += restore(&kept, &n, &err) == LLM_OK && kept.n_damaged == 1 && n == kept.n_pages && n == 2 * N_FULL - 1;
        flip((off_t) (TABLE_OFF + sizeof(record_t) * 3 + at));
    }
    is_int(left_out, tried, "a flipped bit in a record: its page is left out");

    left_out = tried = 0;
    for (uint64_t at = 0; at < h.page_bytes; at += h.page_bytes / 40 + 1, tried++) {
        flip((off_t) (h.data_off + 2 * h.page_bytes + at));
        left_out += restore(&kept, &n, &err) == LLM_OK && kept.n_damaged == 1 && n == 2 * N_FULL - 1;
        flip((off_t) (h.data_off + 2 * h.page_bytes + at));
    }
    is_int(left_out, tried, "a flipped bit in keys or values: the page is left out");

    /* the page in the middle of prompt 1, the records of which come first, the beginning of the prompt before the rest */
    llm_code_t rc;
    off_t at = (off_t) (h.data_off + 2 * h.page_bytes + 5);
    flip(at);
    is_int(cached_tokens(&plain, 1, &kept, &rc, &err), 2 * LLM_KV_PAGE, "what is before a damaged page is used, with the same bits");
    flip(at);

    const uint64_t counts[] = { 0, 1, 2 * N_FULL - 1, 2 * N_FULL + 1, UINT32_MAX, UINT64_MAX, UINT64_MAX / h.page_bytes + 2 };
    refused = 0;
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        header_t bad = h;
        bad.n_pages = counts[i];
        bad.data_off = data_off(bad.n_pages);
        bad.checksum = header_checksum(&bad);
        edit(0, &bad, sizeof(bad), true);
        refused += restore(&kept, &n, &err) == LLM_E_FORMAT && n == 0;
    }
    is_int(refused, sizeof(counts) / sizeof(counts[0]), "another count of pages, with a right checksum: nothing is taken");
    header_t bad = h;
    memset(bad.kern, 'x', sizeof(bad.kern));
    bad.checksum = header_checksum(&bad);
    edit(0, &bad, sizeof(bad), true);
    ok(restore(&kept, &n, &err) == LLM_E_FORMAT && n == 0, "a name of kernels without an end");
    edit(0, &h, sizeof(h), true);
    ok(restore(&kept, &n, &err) == LLM_OK && n == 2 * N_FULL, "as it was: all");

    struct stat st;
    stat(path(), &st);
    const off_t sizes[] = { st.st_size + 1, st.st_size - 1, (off_t) h.data_off, TABLE_OFF, sizeof(h), sizeof(h) - 1, 1, 0 };
    refused = 0;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        rc = truncate(path(), sizes[i]) == 0 ? restore(&kept, &n, &err) : LLM_OK;
        refused += (rc == LLM_E_FORMAT || rc == LLM_E_IO) && n == 0;
    }
    is_int(refused, sizeof(sizes) / sizeof(sizes[0]), "a file of another size: nothing is taken");
}

static void
test_writing(void)
{
    rig_t rig;
    llm_err_t err;
    llm_kept_t kept;
    uint32_t n;
    struct rlimit old, small;
    rig_open(&rig, MODEL, &plain);
    ok(llm_engine_keep(rig.engine, dir, SIZE_MAX, &kept, &err) == LLM_OK && kept.n_pages == 0, "an empty cache is not written");
    ok(restore(&kept, &n, &err) == LLM_OK && n == 2 * N_FULL, "and the file of before stays");
    llm_engine_restore(rig.engine, dir, &kept, &err);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 8192;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    ok(llm_engine_keep(rig.engine, dir, SIZE_MAX, &kept, &err) == LLM_E_IO, "no room: %s", err.msg);
    setrlimit(RLIMIT_FSIZE, &old);
    ok(restore(&kept, &n, &err) == LLM_OK && n == 2 * N_FULL, "the file of before stays");
    ok(llm_engine_keep(rig.engine, dir, 3 * rig.engine->sh.page_bytes + 5, &kept, &err) == LLM_OK && kept.n_pages == 3, "a bound");
    llm_code_t rc;
    is_int(cached_tokens(&plain, 1, &kept, &rc, &err), 3 * LLM_KV_PAGE, "leaves the pages used last");
    unlink(path());
    ok(rmdir(dir) == 0, "nothing else is left");
    ok(llm_engine_keep(rig.engine, dir, SIZE_MAX, &kept, &err) == LLM_E_IO && strstr(err.msg, dir) != NULL, "no folder: %s", err.msg);
    ok(llm_engine_restore(rig.engine, dir, &kept, &err) == LLM_OK && kept.n_pages == 0, "no file");
    rig_close(&rig);
}

int
main(void)
{
    if (mkdtemp(dir) == NULL) {
        perror(dir);
        return 1;
    }
    make_file();
    test_restore();
    test_kernels();
    test_damage();
    make_file();
    test_writing();
    return done_testing();
}
