/*
 * model/safetensors.c and model/ckpt.c: good checkpoints open and give their bytes; malformed ones
 * are refused with their reason; indexes of shards name only what is there; damage never does worse
 * than an error.
 */
#include "model/ckpt.h"

#include "tap.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIXTURES "t/fixtures/"

/* Words of each message that no other reason shares. */
static const struct { const char *file; llm_code_t code; const char *word; } bad_files[] = {
    { "empty", LLM_E_FORMAT, "file of 0 bytes has no header length" },
    { "short_length", LLM_E_FORMAT, "file of 3 bytes has no header length" },
    { "header_beyond_file", LLM_E_FORMAT, "header length is 1099511627776, at most" },
    { "header_length_overflow", LLM_E_FORMAT, "header length is 18446744073709551612" },
    { "header_too_large", LLM_E_FORMAT, "header length is 100000001, at most 100000000" },
    { "not_json", LLM_E_FORMAT, "\"n\", expected the name of a tensor" },
    { "not_object", LLM_E_FORMAT, "is \"[\", expected '{' as its first byte" },
    { "not_utf8", LLM_E_FORMAT, "not UTF-8 at byte" },
    { "deep_json", LLM_E_FORMAT, "\"a\": unknown key \"a\"" },
    { "duplicate_key", LLM_E_FORMAT, "duplicate tensor \"a\"" },
    { "unknown_dtype", LLM_E_UNSUPPORTED, "\"a\": unknown dtype \"F99\"" },
    { "missing_shape", LLM_E_FORMAT, "\"a\": \"shape\" is missing" },
    { "negative_dim", LLM_E_FORMAT, "\"a\": shape holds \"-1\", which is negative" },
    { "float_dim", LLM_E_FORMAT, "which is not an integer" },
    { "shape_overflow", LLM_E_FORMAT, "\"a\": shape overflows" },
    { "size_mismatch", LLM_E_FORMAT, "make 24 bytes, data_offsets 16" },
    { "offsets_reversed", LLM_E_FORMAT, "begin at 16 and end at 0" },
    { "offsets_beyond_file", LLM_E_FORMAT, "\"a\": data_offsets end at" },
    { "offsets_overflow", LLM_E_FORMAT, "which exceeds 64 bits" },
    { "overlap", LLM_E_FORMAT, "\"a\" and \"b\" overlap" },
    { "hole", LLM_E_FORMAT, "hole of 4 bytes in front of tensor \"b\"" },
    { "trailing", LLM_E_FORMAT, "4 trailing bytes" },
    { "truncated_data", LLM_E_FORMAT, "the file has" },
};

static char dir[64], path[512];

static void
write_file(const char *name, const void *data, size_t n)
{
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_TRUNC | O_CREAT, 0600);
    if (fd < 0 || write(fd, data, n) != (ssize_t) n) {
        perror(path);
        exit(1);
    }
    close(fd);
}

/* A file with this header and n bytes of data, byte i of which is i. */
static void
write_safetensors(const char *name, const char *header, size_t n)
{
    static uint8_t buf[1 << 16];
    uint64_t len = strlen(header);
    memcpy(buf, &len, 8);
    memcpy(buf + 8, header, len);
    for (size_t i = 0; i < n; i++) {
        buf[8 + len + i] = (uint8_t) i;
    }
    write_file(name, buf, 8 + len + n);
}

static void
remove_file(const char *name)
{
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    unlink(path);
}

/* ------------------------------------------------------------------ fixtures */

static void
test_malformed(void)
{
    size_t n_files = 0;
    DIR *d = opendir(FIXTURES "malformed");
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        const char *dot = strrchr(e->d_name, '.');
        n_files += dot != NULL && strcmp(dot, ".safetensors") == 0;
    }
    if (d != NULL) {
        closedir(d);
    }
    is_int((long long) n_files, sizeof(bad_files) / sizeof(bad_files[0]),
           "the table has every malformed file");

    for (size_t i = 0; i < sizeof(bad_files) / sizeof(bad_files[0]); i++) {
        llm_err_t err = { 0 };
        llm_ckpt_t *c = (llm_ckpt_t *) &err;
        char file[256];
        snprintf(file, sizeof(file), FIXTURES "malformed/%s.safetensors", bad_files[i].file);
        llm_code_t rc = llm_ckpt_open(&c, file, &err);
        if (!ok(rc == bad_files[i].code && c == NULL && err.code == rc
                && strstr(err.msg, bad_files[i].word) != NULL && strstr(err.msg, file) == err.msg,
                "%s: %s", bad_files[i].file, bad_files[i].word))
        {
            diag("%s: %s", llm_code_name(rc), err.msg);
        }
    }
}

/* Opens, reads the last byte of every tensor, closes. */
static llm_code_t
walk(const char *p, llm_err_t *err)
{
    llm_ckpt_t *c;
    llm_code_t rc = llm_ckpt_open(&c, p, err);
    if (rc != LLM_OK) {
        return rc;
    }
    for (size_t i = 0; i < llm_ckpt_n_tensors(c) && rc == LLM_OK; i++) {
        const llm_ckpt_tensor_t *t = llm_ckpt_tensor_at(c, i);
        uint8_t last;
        if (llm_ckpt_find(c, t->name) != t) {
            rc = llm_fail(err, LLM_E_ENGINE, "\"%s\" is not found", t->name);
        } else if (t->size > 0) {
            rc = llm_ckpt_read(c, t, t->size - 1, &last, 1, err);
        }
    }
    llm_ckpt_close(c);
    return rc;
}

static void
test_good(void)
{
    DIR *d = opendir(FIXTURES "models");
    size_t n = 0;
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.') {
            continue;
        }
        llm_err_t err = { 0 };
        snprintf(path, sizeof(path), FIXTURES "models/%s", e->d_name);
        ok(walk(path, &err) == LLM_OK, "%s opens%s%s", e->d_name, err.msg[0] ? ": " : "", err.msg);
        n++;
    }
    if (d != NULL) {
        closedir(d);
    }
    ok(n > 0, "there are fixtures");
}

/* ------------------------------------------------------------------- headers */

/* A header over 16 bytes of data, and what is said about it (NULL: it opens). */
static const struct { const char *name, *header, *word; } headers[] = {
    { "padded", "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}  \n ", NULL },
    { "spaces everywhere", "{ \"a\" : {\t\"dtype\" : \"F32\" ,\r\n\"shape\" : [ 2 , 2 ] , "
      "\"data_offsets\" : [ 0 , 16 ] } }", NULL },
    { "metadata", "{\"__metadata__\":{\"format\":\"pt\",\"x\":\"\\u00e9\"},"
      "\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", NULL },
    { "a scalar and an empty tensor", "{\"a\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":"
      "[0,8]},\"e\":{\"dtype\":\"F32\",\"shape\":[3,0],\"data_offsets\":[8,8]},"
      "\"b\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[8,16]}}", NULL },
    { "other order", "{\"b\":{\"data_offsets\":[8,16],\"shape\":[8],\"dtype\":\"U8\"},"
      "\"a\":{\"shape\":[2],\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", NULL },
    { "empty object", "{}", "16 trailing bytes" },
    { "text behind it", "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}x",
      "is \"x\", expected the end" },
    { "space in front", " {\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
      "as its first byte" },
    { "comma at the end", "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},}",
      "expected the name of a tensor" },
    { "no comma", "{\"a\":{\"dtype\":\"F32\" \"shape\":[4],\"data_offsets\":[0,16]}}",
      "expected ',' or '}'" },
    { "unknown key", "{\"a\":{\"dtype\":\"F32\",\"shapes\":[4],\"data_offsets\":[0,16]}}",
      "\"a\": unknown key \"shapes\"" },
    { "a key twice", "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[4]}}",
      "\"a\": duplicate key \"dtype\"" },
    { "three offsets", "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16,16]}}",
      "data_offsets has more than 2 numbers" },
    { "one offset", "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[16]}}",
      "data_offsets has 1 numbers" },
    { "nine dimensions", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,16],"
      "\"data_offsets\":[0,16]}}", "shape has more than 8 numbers" },
    { "2^32 x 2^32 x 0", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296,0],"
      "\"data_offsets\":[0,0]}}", "shape overflows 64 bits" },
    { "leading zero", "{\"a\":{\"dtype\":\"F32\",\"shape\":[04],\"data_offsets\":[0,16]}}",
      "which starts with a zero" },
    { "exponent", "{\"a\":{\"dtype\":\"F32\",\"shape\":[4e0],\"data_offsets\":[0,16]}}",
      "which is not an integer" },
    { "a list instead of a number", "{\"a\":{\"dtype\":\"F32\",\"shape\":[[4]]}}",
      "expected a number" },
    { "escaped name twice", "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
      "\"\\u0061\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[16,16]}}",
      "duplicate tensor \"a\"" },
    { "NUL in a name", "{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
      "NUL in its name" },
    { "half a surrogate pair", "{\"\\ud800\":{\"dtype\":\"F32\"}}", "bad escape" },
    { "surrogates the wrong way", "{\"\\udc00\\ud800\":{\"dtype\":\"F32\"}}", "bad escape" },
    { "unknown escape", "{\"\\x41\":{\"dtype\":\"F32\"}}", "bad escape" },
    { "control character", "{\"a\nb\":{}}", "control character" },
    { "string does not end", "{\"a", "does not end" },
    { "metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}",
      "duplicate key \"__metadata__\"" },
    { "metadata that nests", "{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}",
      "expected a string in __metadata__" },
    { "no value", "{\"a\"}", "expected ':'" },
    { "deep nesting", "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
      "tensor \"a\" is no object" },
    { "empty tensor object", "{\"a\":{}}", "\"a\": \"dtype\" is missing" },
};

static void
test_headers(void)
{
    for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
        llm_err_t err = { 0 };
        write_safetensors("h.safetensors", headers[i].header, 16);
        llm_code_t rc = walk(path, &err);
        bool good = headers[i].word == NULL ? rc == LLM_OK
                  : rc != LLM_OK && strstr(err.msg, headers[i].word) != NULL
                    && strstr(err.msg, path) == err.msg;
        if (!ok(good, "%s: %s", headers[i].name, headers[i].word ? headers[i].word : "opens")) {
            diag("%s: %s", llm_code_name(rc), err.msg);
        }
    }
    remove_file("h.safetensors");
}

static void
test_values(void)
{
    llm_err_t err = { 0 };
    llm_ckpt_t *c;
    write_safetensors("v.safetensors", "{\"b\\n\\u20ac\\ud83d\\ude00\":{\"dtype\":\"U8\",\"shape\":"
                      "[3],\"data_offsets\":[8,11]},\"a\":{\"dtype\":\"F32\",\"shape\":[1,2],"
                      "\"data_offsets\":[0,8]}}", 11);
    if (!ok(llm_ckpt_open(&c, path, &err) == LLM_OK, "opens: %s", err.msg)) {
        return;
    }
    const llm_ckpt_tensor_t *a = llm_ckpt_find(c, "a");
    const llm_ckpt_tensor_t *b = llm_ckpt_find(c, "b\n\u20ac\U0001f600");
    ok(llm_ckpt_n_tensors(c) == 2 && a != NULL && b != NULL, "names are unescaped");
    ok(a->dtype == LLM_DT_F32 && a->n_dims == 2 && a->dim[0] == 1 && a->dim[1] == 2 && a->size == 8
       && !a->transposed, "type and shape");
    uint8_t buf[8] = { 0 };
    ok(llm_ckpt_read(c, b, 1, buf, 2, &err) == LLM_OK && buf[0] == 9 && buf[1] == 10,
       "the bytes of an unaligned tensor");
    ok(llm_ckpt_read(c, b, 1, buf, 3, &err) == LLM_E_FORMAT, "none past its end: %s", err.msg);
    ok(llm_ckpt_read(c, b, UINT64_MAX, buf, 1, &err) == LLM_E_FORMAT, "no overflow: %s", err.msg);
    ok(llm_ckpt_find(c, "") == NULL && llm_ckpt_find(c, "aa") == NULL, "names are compared whole");
    ok(truncate(path, 20) == 0 && llm_ckpt_read(c, a, 0, buf, 8, &err) == LLM_E_IO
       && strstr(err.msg, "became shorter"), "a file that shrinks: %s", err.msg);
    llm_ckpt_close(c);
    llm_ckpt_close(NULL);
    remove_file("v.safetensors");

    ok(llm_ckpt_open(&c, FIXTURES "no-such-file", &err) == LLM_E_IO
       && strstr(err.msg, "No such file"), "no file: %s", err.msg);
    ok(llm_ckpt_open(&c, dir, &err) == LLM_E_IO && strstr(err.msg, "model.safetensors"),
       "an empty directory: %s", err.msg);
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    if (mkfifo(path, 0600) == 0) {
        ok(llm_ckpt_open(&c, dir, &err) == LLM_E_IO && strstr(err.msg, "not a regular file"),
           "a FIFO does not hang: %s", err.msg);
        unlink(path);
    }
}

/* -------------------------------------------------------------------- shards */

#define ONE "one.safetensors"
#define TWO "two.safetensors"

static const struct { const char *name, *index, *word; } indexes[] = {
    { "two shards", "{\"metadata\":{\"total_size\":24},\"weight_map\":{\"a\":\"" ONE "\",\"b\":\""
      TWO "\",\"c\":\"" TWO "\"}}", NULL },
    { "a tensor that the index leaves out", "{\"weight_map\":{\"a\":\"" ONE "\",\"b\":\"" TWO
      "\"}}", NULL },
    { "a path upwards", "{\"weight_map\":{\"a\":\"../" ONE "\"}}", "plain file name" },
    { "an absolute path", "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "plain file name" },
    { "dots", "{\"weight_map\":{\"a\":\"..\"}}", "plain file name" },
    { "an empty name", "{\"weight_map\":{\"a\":\"\"}}", "plain file name" },
    { "a NUL", "{\"weight_map\":{\"a\":\"" ONE "\\u0000\"}}", "plain file name" },
    { "a number", "{\"weight_map\":{\"a\":1}}", "plain file name" },
    { "a shard that is not there", "{\"weight_map\":{\"a\":\"three.safetensors\"}}",
      "No such file" },
    { "a tensor that is not there", "{\"weight_map\":{\"x\":\"" ONE "\"}}",
      "\"x\" is not in \"" ONE "\"" },
    { "a tensor in the other shard", "{\"weight_map\":{\"a\":\"" TWO "\",\"b\":\"" ONE "\"}}",
      "\"a\" is not in \"" TWO "\"" },
    { "a tensor twice in the index", "{\"weight_map\":{\"a\":\"" ONE "\",\"a\":\"" TWO "\"}}",
      "duplicate" },
    { "a tensor in two shards", "{\"weight_map\":{\"a\":\"" ONE "\",\"b\":\"four.safetensors\"}}",
      "duplicate tensor \"a\", also in" },
    { "no map", "{\"weights\":{}}", "\"weight_map\" is missing" },
    { "an empty map", "{\"weight_map\":{}}", "\"weight_map\" is empty" },
    { "no JSON", "weight_map", "line 1" },
    { "deep JSON", "{\"weight_map\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
      "[[[[[[[[[[[[[[[[[[[[[[[[[[", "deep" },
};

static void
test_shards(void)
{
    static const char a[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    static const char bc[] = "{\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                             "\"c\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[8,16]}}";
    static const char ab[] = "{\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                             "\"a\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[8,16]}}";
    write_safetensors(ONE, a, 8);
    write_safetensors(TWO, bc, 16);
    write_safetensors("four.safetensors", ab, 16);
    for (size_t i = 0; i < sizeof(indexes) / sizeof(indexes[0]); i++) {
        llm_err_t err = { 0 };
        write_file("model.safetensors.index.json", indexes[i].index, strlen(indexes[i].index));
        llm_code_t rc = walk(dir, &err);
        bool good = indexes[i].word == NULL ? rc == LLM_OK
                  : rc != LLM_OK && strstr(err.msg, indexes[i].word) != NULL
                    && strstr(err.msg, dir) == err.msg;
        if (!ok(good, "%s: %s", indexes[i].name, indexes[i].word ? indexes[i].word : "opens")) {
            diag("%s: %s", llm_code_name(rc), err.msg);
        }
    }
    remove_file(ONE);
    remove_file(TWO);
    remove_file("four.safetensors");
    remove_file("model.safetensors.index.json");
}

/* -------------------------------------------------------------------- damage */

/* Truncation at every length of the header, and one flipped bit in each of its bytes. */
static void
test_damage(void)
{
    static uint8_t data[1 << 20];
    llm_err_t err = { 0 };
    FILE *f = fopen(FIXTURES "models/llama/model.safetensors", "rb");
    size_t len = f != NULL ? fread(data, 1, sizeof(data), f) : 0;
    uint64_t n;
    memcpy(&n, data, 8);
    if (!ok(len > 8 && n < len, "a fixture to damage")) {
        return;
    }
    fclose(f);
    size_t accepted = 0, unclear = 0, refused = 0;
    for (size_t i = 0; i < n + 8; i += i < 64 ? 1 : 7) {
        write_file("d.safetensors", data, i);
        llm_code_t rc = walk(path, &err);
        accepted += rc == LLM_OK;
        unclear += rc != LLM_OK && strstr(err.msg, path) == NULL;
    }
    is_int((long long) accepted, 0, "no truncated header is accepted");
    is_int((long long) unclear, 0, "every message names the file");

    write_file("d.safetensors", data, len);
    int fd = open(path, O_WRONLY);
    for (size_t i = 0; i < n + 8; i++) {
        uint8_t flipped = data[i] ^ (uint8_t) (1u << (i * 7 % 8));
        if (pwrite(fd, &flipped, 1, (off_t) i) != 1) {
            break;
        }
        refused += walk(path, &err) != LLM_OK;
        if (pwrite(fd, &data[i], 1, (off_t) i) != 1) {
            break;
        }
    }
    close(fd);
    ok(refused > 100, "flipped bits: %zu of %zu refused, none crashed", refused, (size_t) n + 8);
    remove_file("d.safetensors");
}

int
main(void)
{
    snprintf(dir, sizeof(dir), "/tmp/llm-safetensors-XXXXXX");
    if (mkdtemp(dir) == NULL) {
        perror(dir);
        return 1;
    }
    test_malformed();
    test_good();
    test_headers();
    test_values();
    test_shards();
    test_damage();
    rmdir(dir);
    return done_testing();
}
