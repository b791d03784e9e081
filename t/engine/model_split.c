/*
 * model/gguf_split.c and gguf_write.c: a fixture cut into three files is the same model, whichever
 * part it is opened by; parts that are missing or do not belong together are refused.
 */
#include "model/gguf_write.h"
#include "tensor/format.h"

#include "tap.h"

#include <unistd.h>

#define WHOLE   "t/fixtures/gguf/llama-Q8_0.gguf"
#define N_PARTS 3

static char dir[] = "/tmp/llm-split-XXXXXX";

/* What a part says of itself; wrong in some cases below. */
typedef struct { uint32_t no, count, tensors; } says_t;

static const char *
part_path(uint32_t no, uint32_t count)
{
    static char path[2][128];
    static int turn;
    turn ^= 1;
    snprintf(path[turn], sizeof(path[turn]), "%s/m-%05u-of-%05u.gguf", dir, no + 1, count);
    return path[turn];
}

/* Tensors from..to-1 of g as a file of their own; keys of the model only in the first part. */
static int
write_part(const llm_gguf_t *g, const char *path, says_t says, uint64_t from, uint64_t to)
{
    llm_err_t err = { 0 };
    llm_gguf_out_t *w;
    int good = llm_gguf_out_new(&w, path, &err) == LLM_OK;
    for (uint64_t i = 0; good && from == 0 && i < llm_gguf_n_kv(g); i++) {
        good = llm_gguf_out_kv(w, llm_gguf_kv(g, i), &err) == LLM_OK;
    }
    good = good && llm_gguf_out_u32(w, "split.no", says.no, &err) == LLM_OK
           && llm_gguf_out_u32(w, "split.count", says.count, &err) == LLM_OK
           && llm_gguf_out_u32(w, "split.tensors.count", says.tensors, &err) == LLM_OK;
    for (uint64_t i = from; good && i < to; i++) {
        const llm_gguf_tensor_t *t = llm_gguf_tensor_at(g, i);
        good = llm_gguf_out_tensor(w, t->name, t->n_dims, t->ne, t->type, NULL, &err) == LLM_OK;
    }
    good = good && llm_gguf_out_begin(w, &err) == LLM_OK;
    for (uint64_t i = from; good && i < to; i++) {
        const llm_gguf_tensor_t *t = llm_gguf_tensor_at(g, i);
        uint8_t *data = malloc(t->size);
        good = data != NULL && llm_gguf_read(g, t, 0, data, t->size, &err) == LLM_OK
               && llm_gguf_out_data(w, data, t->size, &err) == LLM_OK;
        free(data);
    }
    good = good && llm_gguf_out_finish(w, &err) == LLM_OK;
    llm_gguf_out_free(w);
    if (!good) {
        diag("%s: %s", path, err.msg);
    }
    return good;
}

/* Part i of the good split. */
static int
write_good(const llm_gguf_t *g, uint32_t i, says_t says)
{
    uint64_t n = llm_gguf_n_tensors(g);
    return write_part(g, part_path(i, N_PARTS), says, n * i / N_PARTS, n * (i + 1) / N_PARTS);
}

static void
refused(const char *path, llm_code_t code, const char *word, const char *name)
{
    llm_err_t err = { 0 };
    llm_gguf_t *g;
    llm_code_t rc = llm_gguf_open(&g, path, &err);
    ok(rc == code && g == NULL && strstr(err.msg, word) != NULL, "%s: %s", name, err.msg);
    llm_gguf_close(g);
}

/* Every tensor of b is there in a, with the same bytes. */
static int
same_tensors(const llm_gguf_t *a, const llm_gguf_t *b)
{
    llm_err_t err;
    int same = llm_gguf_n_tensors(a) == llm_gguf_n_tensors(b);
    for (uint64_t i = 0; same && i < llm_gguf_n_tensors(b); i++) {
        const llm_gguf_tensor_t *t = llm_gguf_tensor_at(b, i), *u;
        char name[LLM_GGUF_MAX_NAME + 1];
        snprintf(name, sizeof(name), "%.*s", (int) t->name.len, t->name.data);
        u = llm_gguf_tensor(a, name);
        uint8_t *x = malloc(t->size), *y = malloc(t->size);
        same = u != NULL && x != NULL && y != NULL && u->type == t->type && u->size == t->size
               && memcmp(u->ne, t->ne, sizeof(t->ne)) == 0
               && llm_gguf_read(b, t, 0, x, t->size, &err) == LLM_OK
               && llm_gguf_read(a, u, 0, y, t->size, &err) == LLM_OK
               && memcmp(x, y, t->size) == 0;
        free(x);
        free(y);
    }
    return same;
}

static void
test_good(const llm_gguf_t *whole)
{
    for (uint32_t i = 0; i < N_PARTS; i++) {
        llm_err_t err = { 0 };
        llm_gguf_t *g = NULL;
        llm_code_t rc = llm_gguf_open(&g, part_path(i, N_PARTS), &err);
        if (!ok(rc == LLM_OK && same_tensors(g, whole), "opened by part %u: all tensors", i + 1)) {
            diag("%s", err.msg);
            continue;
        }
        is_str(llm_gguf_path(g), part_path(0, N_PARTS), "has the name of its first part");
        ok(llm_gguf_find(g, "llama.block_count") != NULL, "has the keys of its first part");
        ok(llm_gguf_file_bytes(g) > llm_gguf_file_bytes(whole), "has the bytes of all parts");
        llm_gguf_close(g);

        llm_model_t *m;
        llm_model_conf_t conf = { .weights = part_path(i, N_PARTS) };
        rc = llm_model_open(&m, &conf, &err);
        ok(rc == LLM_OK && llm_model_info(m)->n_params > 0, "the model opens by part %u", i + 1);
        llm_model_close(m);
    }
}

static void
test_bad(const llm_gguf_t *whole)
{
    uint32_t n = (uint32_t) llm_gguf_n_tensors(whole);
    const char *one = part_path(0, N_PARTS);
    char first[128], other[160];
    snprintf(first, sizeof(first), "%s", one);

    write_good(whole, 1, (says_t) { 2, N_PARTS, n });
    refused(first, LLM_E_FORMAT, "says part 3 of 3", "another part's number");
    write_good(whole, 1, (says_t) { 1, 4, n });
    refused(first, LLM_E_FORMAT, "says part 2 of 4", "another count");
    write_good(whole, 1, (says_t) { 1, N_PARTS, n + 1 });
    refused(first, LLM_E_FORMAT, "tensors in all", "another number of tensors");
    write_part(whole, part_path(1, N_PARTS), (says_t) { 1, N_PARTS, n }, 1, 2);
    refused(first, LLM_E_FORMAT, "split.tensors.count is", "too few tensors");
    /* as many tensors, moved by one: part 3 has the last of them too */
    write_part(whole, part_path(1, N_PARTS), (says_t) { 1, N_PARTS, n }, n / N_PARTS + 1,
               n * 2 / N_PARTS + 1);
    refused(first, LLM_E_FORMAT, "duplicate tensor", "a tensor in two parts");
    write_good(whole, 1, (says_t) { 1, N_PARTS, n });

    FILE *f = fopen(part_path(1, N_PARTS), "r+b");
    ok(f != NULL && truncate(part_path(1, N_PARTS), 200) == 0, "cut part 2 short");
    if (f != NULL) {
        fclose(f);
    }
    refused(first, LLM_E_FORMAT, "part 2 of 3: ", "a part that is malformed");
    unlink(part_path(1, N_PARTS));
    refused(first, LLM_E_IO, "m-00002-of-00003.gguf: No such file", "a part that is missing");
    write_good(whole, 1, (says_t) { 1, N_PARTS, n });
    unlink(first);
    refused(part_path(2, N_PARTS), LLM_E_IO, "m-00001-of-00003.gguf: No such file",
            "the first part is missing");

    snprintf(other, sizeof(other), "%s/other.gguf", dir);
    write_part(whole, other, (says_t) { 0, N_PARTS, n }, 0, n);
    refused(other, LLM_E_FORMAT, "does not end in \"-00001-of-00003.gguf\"", "a name without parts");
    write_part(whole, other, (says_t) { 3, N_PARTS, n }, 0, n);
    refused(other, LLM_E_FORMAT, "split.no is 3, but split.count 3", "a number beyond the count");
    write_part(whole, other, (says_t) { 0, 100000, n }, 0, n);
    refused(other, LLM_E_UNSUPPORTED, "split.count is 100000", "too many parts");
    write_part(whole, other, (says_t) { 0, 1, n }, 0, n);
    llm_err_t err = { 0 };
    llm_gguf_t *g;
    ok(llm_gguf_open(&g, other, &err) == LLM_OK, "a split of one part is a file like any other");
    llm_gguf_close(g);
    unlink(other);
}

/* The writer refuses what would make a malformed file, and leaves nothing behind. */
static void
test_writer(void)
{
    llm_err_t err = { 0 };
    llm_gguf_out_t *w;
    char path[128], tmp[192];
    snprintf(path, sizeof(path), "%s/w.gguf", dir);
    snprintf(tmp, sizeof(tmp), "%s.part-%ld", path, (long) getpid());
    ok(llm_gguf_out_new(&w, path, &err) == LLM_OK && access(tmp, F_OK) == 0, "a temporary file");
    const uint64_t odd[] = { 33 }, huge[] = { UINT64_MAX / 2, 4 }, one[] = { 32 };
    llm_span_t name = { "a", 1 };
    ok(llm_gguf_out_tensor(w, name, 1, odd, LLM_T_Q8_0, NULL, &err) == LLM_E_FORMAT,
       "no row of 33 values in blocks of 32: %s", err.msg);
    ok(llm_gguf_out_tensor(w, name, 2, huge, LLM_T_F32, NULL, &err) == LLM_E_FORMAT,
       "no size that overflows");
    size_t bytes = 0;
    ok(llm_gguf_out_tensor(w, name, 1, one, LLM_T_Q8_0, &bytes, &err) == LLM_OK && bytes == 34,
       "32 values of Q8_0 are 34 bytes");
    ok(llm_gguf_out_begin(w, &err) == LLM_OK, "begin");
    ok(llm_gguf_out_finish(w, &err) == LLM_E_ARG, "not before all bytes are there: %s", err.msg);
    ok(llm_gguf_out_data(w, tmp, 35, &err) == LLM_E_ARG, "no more bytes than the tensor has");
    llm_gguf_out_free(w);
    ok(access(tmp, F_OK) != 0 && access(path, F_OK) != 0, "nothing stays of an unfinished file");
    ok(llm_gguf_out_new(&w, "/no/such/dir/x.gguf", &err) == LLM_E_IO && w == NULL,
       "no folder: %s", err.msg);
}

int
main(void)
{
    llm_err_t err = { 0 };
    llm_gguf_t *whole;
    if (mkdtemp(dir) == NULL || llm_gguf_open(&whole, WHOLE, &err) != LLM_OK) {
        ok(0, "set-up: %s", err.msg);
        return done_testing();
    }
    uint32_t n = (uint32_t) llm_gguf_n_tensors(whole);
    for (uint32_t i = 0; i < N_PARTS; i++) {
        ok(write_good(whole, i, (says_t) { i, N_PARTS, n }), "part %u is written", i + 1);
    }
    test_good(whole);
    test_bad(whole);
    test_writer();
    llm_gguf_close(whole);
    for (uint32_t i = 0; i < N_PARTS; i++) {
        unlink(part_path(i, N_PARTS));
    }
    rmdir(dir);
    return done_testing();
}
