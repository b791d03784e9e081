/*
 * model/gguf.c: good files open and say what is in them; malformed ones are refused with their
 * reason; bit flips, truncations and files that shrink never do worse than an error.
 */
#include "model/gguf.h"
#include "tensor/format.h"

#include "tap.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIXTURES "t/fixtures/"

/*
 * A word of each message that no other reason shares; NULL: refused by binding, not by the reader
 * (model_bind.c).
 */
static const struct { const char *file; llm_code_t code; const char *word; } bad_files[] = {
    { "empty", LLM_E_FORMAT, "ends inside the header: magic" },
    { "bad_magic", LLM_E_FORMAT, "magic is 47 47 4d 4c" },
    { "version_0", LLM_E_UNSUPPORTED, "version 0" },
    { "version_1", LLM_E_UNSUPPORTED, "version 1" },
    { "version_99", LLM_E_UNSUPPORTED, "version 99" },
    { "big_endian", LLM_E_UNSUPPORTED, "byte order" },
    { "kv_count_huge", LLM_E_FORMAT, "keys are more than the file can hold" },
    { "tensor_count_huge", LLM_E_FORMAT, "tensors are more than the file can hold" },
    { "string_beyond_file", LLM_E_FORMAT, "string of 1125899906842624 bytes is longer" },
    { "string_length_overflow", LLM_E_FORMAT, "string of 18446744073709551615 bytes is longer" },
    { "empty_key", LLM_E_FORMAT, "empty key" },
    { "duplicate_key", LLM_E_FORMAT, "duplicate key \"general.architecture\"" },
    { "unknown_type", LLM_E_FORMAT, "\"k\": unknown value type 77" },
    { "array_of_arrays", LLM_E_FORMAT, "\"k\": nested arrays" },
    { "array_beyond_file", LLM_E_FORMAT, "array of 1099511627776 elements is longer" },
    { "array_size_overflow", LLM_E_FORMAT, "array of 4611686018427387904 elements is longer" },
    { "bool_not_0_or_1", LLM_E_FORMAT, "\"k\": boolean is 2" },
    { "alignment_zero", LLM_E_FORMAT, "general.alignment is 0" },
    { "alignment_not_power_of_two", LLM_E_FORMAT, "general.alignment is 24, not a power of two" },
    { "alignment_wrong_type", LLM_E_FORMAT, "general.alignment has value type 8, not u32" },
    { "too_many_dims", LLM_E_FORMAT, "\"a\": 5 dimensions" },
    { "negative_dim", LLM_E_FORMAT, "\"a\": negative dimension -4" },
    { "dims_overflow", LLM_E_FORMAT, "\"a\": element count overflows" },
    { "unknown_tensor_type", LLM_E_FORMAT, "\"a\": unknown tensor type 200" },
    { "removed_tensor_type", LLM_E_FORMAT, "\"a\": type 4 was removed" },
    { "row_not_multiple_of_block", LLM_E_FORMAT,
      "rows of 33 values are not a multiple of the 32-value" },
    { "name_too_long", LLM_E_FORMAT, "name has 300 bytes" },
    { "duplicate_tensor", LLM_E_FORMAT, "duplicate tensor \"a\"" },
    { "offset_not_aligned", LLM_E_FORMAT, "offset 4 is not a multiple of the alignment 32" },
    { "offset_beyond_file", LLM_E_FORMAT, "bytes 1099511627776+16 exceed" },
    { "offset_overflow", LLM_E_FORMAT, "bytes 18446744073709551584+16 exceed" },
    { "overlap", LLM_E_FORMAT, "\"a\" and \"b\" overlap" },
    { "truncated_data", LLM_E_FORMAT, "bytes 0+256 exceed the 40 bytes" },
    { "truncated_header", LLM_E_FORMAT, "ends inside the header" },
    { "no_architecture", LLM_OK, NULL },
    { "unsupported_architecture", LLM_OK, NULL },
    { "missing_hyperparameters", LLM_OK, NULL },
};

static char tmp_path[] = "/tmp/llm-gguf-XXXXXX";

static void
write_tmp(const uint8_t *data, size_t n)
{
    int fd = open(tmp_path, O_WRONLY | O_TRUNC);
    if (fd < 0 || write(fd, data, n) != (ssize_t) n) {
        perror(tmp_path);
        exit(1);
    }
    close(fd);
}

static uint8_t *
slurp(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL) {
        perror(path);
        exit(1);
    }
    fseek(f, 0, SEEK_END);
    *len = (size_t) ftell(f);
    rewind(f);
    uint8_t *data = malloc(*len + 1);
    if (data == NULL || fread(data, 1, *len, f) != *len) {
        exit(1);
    }
    fclose(f);
    return data;
}

static void
test_malformed(void)
{
    size_t n_files = 0;
    DIR *dir = opendir(FIXTURES "malformed");
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        const char *dot = strrchr(e->d_name, '.');
        n_files += dot != NULL && strcmp(dot, ".gguf") == 0;
    }
    if (dir != NULL) {
        closedir(dir);
    }
    is_int((long long) n_files, sizeof(bad_files) / sizeof(bad_files[0]),
           "the table has every malformed file");

    for (size_t i = 0; i < sizeof(bad_files) / sizeof(bad_files[0]); i++) {
        char path[256];
        llm_err_t err = { 0 };
        llm_gguf_t *g = (llm_gguf_t *) &err;
        snprintf(path, sizeof(path), FIXTURES "malformed/%s.gguf", bad_files[i].file);
        llm_code_t rc = llm_gguf_open(&g, path, &err);
        int pass = rc == bad_files[i].code;
        if (bad_files[i].word != NULL) {
            pass = pass && g == NULL && err.code == rc && strstr(err.msg, bad_files[i].word)
                   && strstr(err.msg, path) == err.msg;
        }
        if (!ok(pass, "%s: %s", bad_files[i].file,
                bad_files[i].word ? bad_files[i].word : "left to binding")) {
            diag("%s: %s", llm_code_name(rc), err.msg);
        }
        if (rc == LLM_OK) {
            llm_gguf_close(g);
        }
    }
}

/* Opens, touches everything that can be reached, closes. */
static llm_code_t
walk(const char *path, llm_err_t *err)
{
    llm_gguf_t *g;
    llm_code_t rc = llm_gguf_open(&g, path, err);
    if (rc != LLM_OK) {
        return rc;
    }
    volatile unsigned sum = 0;
    for (uint64_t i = 0; i < llm_gguf_n_kv(g); i++) {
        const llm_gguf_kv_t *kv = llm_gguf_kv(g, i);
        sum += (unsigned char) kv->key.data[kv->key.len - 1];
        const uint8_t *it = kv->data;
        if (kv->type == LLM_GGUF_STRING || kv->elem == LLM_GGUF_STRING) {
            for (uint64_t k = 0; k < kv->n; k++) {
                llm_span_t s = llm_gguf_next_str(&it);
                sum += s.len ? (unsigned char) s.data[s.len - 1] : 0;
            }
        } else {
            sum += kv->n ? it[0] : 0;
        }
    }
    uint8_t last;
    for (uint64_t i = 0; i < llm_gguf_n_tensors(g) && rc == LLM_OK; i++) {
        const llm_gguf_tensor_t *t = llm_gguf_tensor_at(g, i);
        if (t->size > 0) {
            rc = llm_gguf_read(g, t, t->size - 1, &last, 1, err);
        }
    }
    llm_gguf_close(g);
    return rc;
}

static void
test_good(void)
{
    DIR *dir = opendir(FIXTURES "gguf");
    size_t n = 0;
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        const char *dot = strrchr(e->d_name, '.');
        if (dot == NULL || strcmp(dot, ".gguf") != 0) {
            continue;
        }
        char path[512];
        llm_err_t err = { 0 };
        snprintf(path, sizeof(path), FIXTURES "gguf/%s", e->d_name);
        ok(walk(path, &err) == LLM_OK, "%s opens%s%s", e->d_name, err.msg[0] ? ": " : "", err.msg);
        n++;
    }
    if (dir != NULL) {
        closedir(dir);
    }
    ok(n > 0, "there are fixtures");
}

static void
test_values(void)
{
    llm_err_t err = { 0 };
    llm_gguf_t *g;
    if (!ok(llm_gguf_open(&g, FIXTURES "gguf/llama-Q8_0.gguf", &err) == LLM_OK,
            "llama-Q8_0 opens")) {
        return;
    }
    llm_span_t arch = { 0 };
    uint32_t n = 7;
    float eps = 0;
    bool flag = false;
    ok(llm_gguf_str(g, "general.architecture", &arch, &err) == LLM_OK && arch.len == 5
       && memcmp(arch.data, "llama", 5) == 0, "a string");
    ok(llm_gguf_u32(g, "no.such.key", &n, &err) == LLM_OK && n == 7,
       "an absent key leaves the value alone");
    ok(llm_gguf_u32(g, "llama.block_count", &n, &err) == LLM_OK && n > 0 && n < 10, "an integer");
    ok(llm_gguf_f32(g, "llama.attention.layer_norm_rms_epsilon", &eps, &err) == LLM_OK && eps > 0
       && eps < 1e-3f, "a float");
    ok(llm_gguf_bool(g, "tokenizer.ggml.add_bos_token", &flag, &err) == LLM_OK && flag,
       "a boolean");

    ok(llm_gguf_u32(g, "general.architecture", &n, &err) == LLM_E_FORMAT
       && strstr(err.msg, "string, not an integer"), "an integer that is a string: %s", err.msg);
    ok(llm_gguf_f32(g, "llama.block_count", &eps, &err) == LLM_E_FORMAT
       && strstr(err.msg, "not a float"), "a float that is an integer: %s", err.msg);
    ok(llm_gguf_bool(g, "llama.block_count", &flag, &err) == LLM_E_FORMAT,
       "a boolean that is an integer: %s", err.msg);
    ok(llm_gguf_str(g, "llama.block_count", &arch, &err) == LLM_E_FORMAT,
       "a string that is an integer: %s", err.msg);

    const llm_gguf_kv_t *tokens = llm_gguf_find(g, "tokenizer.ggml.tokens");
    ok(tokens != NULL && tokens->type == LLM_GGUF_ARRAY && tokens->elem == LLM_GGUF_STRING,
       "a string array");
    const llm_gguf_tensor_t *t = llm_gguf_tensor(g, "token_embd.weight");
    ok(t != NULL && t->type == LLM_T_Q8_0 && t->n_dims == 2 && t->ne[1] == tokens->n,
       "a tensor: one row a token");
    ok(t != NULL && t->size == t->ne[0] / 32 * 34 * t->ne[1], "its size: 34 bytes for 32 values");
    ok(llm_gguf_tensor(g, "token_embd") == NULL && llm_gguf_tensor(g, "") == NULL,
       "names are compared whole");

    uint8_t buf[4];
    ok(llm_gguf_read(g, t, t->size - 4, buf, 4, &err) == LLM_OK, "the last bytes can be read");
    ok(llm_gguf_read(g, t, t->size - 3, buf, 4, &err) == LLM_E_FORMAT, "no byte past them");
    llm_gguf_close(g);
    llm_gguf_close(NULL);
}

/* Every width and sign, at its borders: key, type, bytes, expected value or -1 (refused). */
static void
test_integers(void)
{
    static const struct { uint32_t type; uint64_t raw; size_t bytes; long long want; } cases[] = {
        { LLM_GGUF_U8, 255, 1, 255 }, { LLM_GGUF_I8, 127, 1, 127 }, { LLM_GGUF_I8, 255, 1, -1 },
        { LLM_GGUF_U16, 65535, 2, 65535 },
        { LLM_GGUF_I16, 0x8000, 2, -1 }, { LLM_GGUF_U32, UINT32_MAX, 4, UINT32_MAX },
        { LLM_GGUF_I32, INT32_MAX, 4, INT32_MAX },
        { LLM_GGUF_I32, UINT32_MAX, 4, -1 }, { LLM_GGUF_U64, UINT32_MAX, 8, UINT32_MAX },
        { LLM_GGUF_U64, (uint64_t) UINT32_MAX + 1, 8, -1 }, { LLM_GGUF_U64, UINT64_MAX, 8, -1 },
        { LLM_GGUF_I64, 5, 8, 5 }, { LLM_GGUF_I64, UINT64_MAX, 8, -1 },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t file[64] = "GGUF\3\0\0\0" "\0\0\0\0\0\0\0\0" "\1\0\0\0\0\0\0\0"
                           "\1\0\0\0\0\0\0\0" "n";
        size_t len = 33;
        memcpy(file + len, &cases[i].type, 4);
        memcpy(file + len + 4, &cases[i].raw, cases[i].bytes);
        write_tmp(file, len + 4 + cases[i].bytes);

        llm_gguf_t *g;
        llm_err_t err = { 0 };
        uint32_t v = 1234;
        if (!ok(llm_gguf_open(&g, tmp_path, &err) == LLM_OK, "integer case %zu opens", i)) {
            diag("%s", err.msg);
            continue;
        }
        llm_code_t rc = llm_gguf_u32(g, "n", &v, &err);
        if (cases[i].want < 0) {
            ok(rc == LLM_E_FORMAT && v == 1234, "refused: %s", err.msg);
        } else {
            ok(rc == LLM_OK && v == cases[i].want, "read: %u", v);
        }
        llm_gguf_close(g);
    }
}

static void
test_system(void)
{
    llm_err_t err = { 0 };
    llm_gguf_t *g;
    ok(llm_gguf_open(&g, FIXTURES "no-such-file.gguf", &err) == LLM_E_IO
       && strstr(err.msg, "No such file"), "no file: %s", err.msg);
    ok(llm_gguf_open(&g, FIXTURES, &err) == LLM_E_IO && strstr(err.msg, "is a directory"),
       "a directory: %s", err.msg);

    char fifo[sizeof(tmp_path) + 8];
    snprintf(fifo, sizeof(fifo), "%s.fifo", tmp_path);
    if (mkfifo(fifo, 0600) == 0) {
        ok(llm_gguf_open(&g, fifo, &err) == LLM_E_IO && strstr(err.msg, "not a regular file"),
           "a FIFO does not hang: %s", err.msg);
        unlink(fifo);
    }

    size_t len;
    uint8_t *data = slurp(FIXTURES "gguf/llama-Q8_0.gguf", &len);
    write_tmp(data, len);
    free(data);
    ok(llm_gguf_open(&g, tmp_path, &err) == LLM_OK, "a copy opens");
    uint8_t buf[16];
    const llm_gguf_tensor_t *t = llm_gguf_tensor_at(g, 0);
    ok(truncate(tmp_path, 4096) == 0 && llm_gguf_read(g, t, t->size - 16, buf, 16, &err) == LLM_E_IO
       && strstr(err.msg, "became shorter"), "a file that shrinks: %s", err.msg);
    llm_gguf_close(g);
}

/* Truncation at every length of the header, and one flipped bit in each of its bytes. */
static void
test_damage(void)
{
    size_t len, header;
    uint8_t *data = slurp(FIXTURES "gguf/llama_k-Q4_K_M.gguf", &len);
    llm_err_t err = { 0 };
    llm_gguf_t *g;
    if (!ok(llm_gguf_open(&g, FIXTURES "gguf/llama_k-Q4_K_M.gguf", &err) == LLM_OK,
            "llama_k-Q4_K_M opens")) {
        free(data);
        return;
    }
    header = len;
    for (uint64_t i = 0; i < llm_gguf_n_tensors(g); i++) {
        header = llm_gguf_tensor_at(g, i)->offset < header ? llm_gguf_tensor_at(g, i)->offset
                 : header;
    }
    llm_gguf_close(g);

    size_t accepted = 0, unclear = 0;
    for (size_t n = 0; n < header; n++) {
        write_tmp(data, n);
        llm_code_t rc = walk(tmp_path, &err);
        accepted += rc == LLM_OK;
        unclear += rc != LLM_OK && strstr(err.msg, tmp_path) == NULL;
    }
    is_int((long long) accepted, 0, "no truncated header is accepted");
    is_int((long long) unclear, 0, "every message names the file");

    size_t refused = 0;
    write_tmp(data, len);
    int fd = open(tmp_path, O_WRONLY);
    for (size_t i = 0; i < header; i++) {
        uint8_t flipped = data[i] ^ (uint8_t) (1u << (i * 7 % 8));
        if (pwrite(fd, &flipped, 1, (off_t) i) != 1) {
            break;
        }
        refused += walk(tmp_path, &err) != LLM_OK;
        if (pwrite(fd, &data[i], 1, (off_t) i) != 1) {
            break;
        }
    }
    close(fd);
    ok(refused > 100, "flipped bits: %zu of %zu refused, none crashed", refused, header);
    free(data);
}

int
main(void)
{
    int fd = mkstemp(tmp_path);
    if (fd < 0) {
        perror(tmp_path);
        return 1;
    }
    close(fd);
    test_malformed();
    test_good();
    test_values();
    test_integers();
    test_system();
    test_damage();
    unlink(tmp_path);
    return done_testing();
}
