/*
 * model/pickle.c, model/zip.c and model/pytorch.c: files of torch.save give their tensors; hostile
 * ones are refused with their reason; damage never does worse than an error.
 */
#include "model/ckpt.h"
#include "tensor/format.h"

#include "tap.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <unistd.h>

#define FIXTURES "t/fixtures/pickle/"

/* Words of each message that no other reason shares. */
static const struct { const char *file; llm_code_t code; const char *word; } bad_files[] = {
    { "after_stop", LLM_E_FORMAT, "pickle byte 137: bytes behind STOP" },
    { "append_to_dict", LLM_E_FORMAT, "pickle byte 5: appends to no list" },
    { "attribute", LLM_E_UNSUPPORTED,
      "pickle asks for \"torch._utils._rebuild_tensor_v2.__globals_" },
    { "big_endian", LLM_E_UNSUPPORTED, "byte order \"big\" is not supported" },
    { "build_tensor", LLM_E_FORMAT, "pickle byte 137: BUILD of no dictionary" },
    { "byteorder_long", LLM_E_UNSUPPORTED, "byte order \"little\" is not supported" },
    { "bytes", LLM_E_UNSUPPORTED, "pickle byte 2: instruction SHORT_BINBYTES (0x43) is not allo" },
    { "call_storage", LLM_E_UNSUPPORTED,
      "pickle calls \"torch.FloatStorage\" with arguments that are " },
    { "call_tensor", LLM_E_FORMAT, "pickle byte 137: calls what is no function" },
    { "call_text", LLM_E_FORMAT, "pickle byte 18: calls what is no function" },
    { "compressed", LLM_E_UNSUPPORTED, "zip entry \"archive/data.pkl\" is compressed" },
    { "cut_argument", LLM_E_FORMAT, "pickle byte 3: ends in an instruction" },
    { "deep_marks", LLM_E_UNSUPPORTED, "pickle stacks more than 65536 values" },
    { "deep_tuples", LLM_E_FORMAT, "pickle byte 30004: makes no dictionary" },
    { "dict_with_arguments", LLM_E_UNSUPPORTED,
      "pickle calls \"collections.OrderedDict\" with arguments that" },
    { "dup", LLM_E_UNSUPPORTED, "pickle byte 2: instruction DUP (0x32) is not allowed" },
    { "empty", LLM_E_FORMAT, "pickle byte 0: ends without STOP" },
    { "eval", LLM_E_UNSUPPORTED, "pickle asks for \"__builtin__.eval\", which is not allowed" },
    { "exec_stack_global", LLM_E_UNSUPPORTED,
      "pickle asks for \"builtins.exec\", which is not allowed" },
    { "ext1", LLM_E_UNSUPPORTED, "pickle byte 2: instruction EXT1 (0x82) is not allowed" },
    { "global_of_numbers", LLM_E_FORMAT, "pickle byte 7: name of a global is no text" },
    { "inst", LLM_E_UNSUPPORTED, "pickle byte 3: instruction INST (0x69) is not allowed" },
    { "integer_of_9_bytes", LLM_E_FORMAT, "pickle byte 12: an integer of more than 64 bits" },
    { "key_without_value", LLM_E_FORMAT, "pickle byte 11: a key without a value" },
    { "line_without_end", LLM_E_FORMAT, "pickle byte 3: line does not end" },
    { "long4", LLM_E_UNSUPPORTED, "pickle byte 2: instruction LONG4 (0x8b) is not allowed" },
    { "mark_as_value", LLM_E_FORMAT, "pickle byte 5: a mark instead of a value" },
    { "memo_bomb", LLM_E_FORMAT, "pickle byte 8: memo slot is out of range" },
    { "memo_empty", LLM_E_FORMAT, "pickle byte 4: nothing in that slot of the memo" },
    { "memo_of_mark", LLM_E_FORMAT, "pickle byte 5: a mark instead of a value" },
    { "name_not_utf8", LLM_E_FORMAT, "name of a tensor is not UTF-8" },
    { "name_with_nul", LLM_E_FORMAT, "tensor \"a\": NUL in its name" },
    { "newobj", LLM_E_UNSUPPORTED, "pickle byte 3: instruction NEWOBJ (0x81) is not allowed" },
    { "nine_dims", LLM_E_UNSUPPORTED, "tensor \"a\" has 9 dimensions, at most 8 are supported" },
    { "no_stop", LLM_E_FORMAT, "pickle byte 3: ends without STOP" },
    { "no_tensors", LLM_E_FORMAT, "holds no tensors" },
    { "no_value", LLM_E_FORMAT, "pickle byte 3: STOP with more or less than one value" },
    { "not_a_dict", LLM_E_FORMAT, "pickle byte 128: makes no dictionary" },
    { "numpy", LLM_E_UNSUPPORTED, "pickle asks for \"numpy.core.multiarray._reconstruct\", whic" },
    { "obj", LLM_E_UNSUPPORTED, "pickle asks for \"os.system\", which is not allowed" },
    { "offset_beyond", LLM_E_FORMAT,
      "tensor \"a\": 16 bytes from value 1 on exceed a storage of 1" },
    { "offset_huge", LLM_E_FORMAT, "tensor \"a\": 16 bytes from value 4611686018427387904 on exc" },
    { "offset_negative", LLM_E_FORMAT,
      "tensor \"a\": shape, strides or offset are no such numbers" },
    { "os_system", LLM_E_UNSUPPORTED, "pickle asks for \"posix.system\", which is not allowed" },
    { "parameter_of_text", LLM_E_UNSUPPORTED,
      "pickle calls \"torch._utils._rebuild_parameter\" with argume" },
    { "persid", LLM_E_UNSUPPORTED, "pickle byte 2: instruction PERSID (0x50) is not allowed" },
    { "persid_of_module", LLM_E_FORMAT, "pickle byte 60: persistent id is no storage" },
    { "persid_of_text", LLM_E_FORMAT, "pickle byte 17: persistent id is no storage" },
    { "pop", LLM_E_UNSUPPORTED, "pickle byte 2: instruction POP (0x30) is not allowed" },
    { "protocol_0", LLM_E_UNSUPPORTED, "pickle of protocol 0, supported are 2 to 5" },
    { "protocol_9", LLM_E_UNSUPPORTED, "pickle of protocol 9, supported are 2 to 5" },
    { "rebuild_integer", LLM_E_UNSUPPORTED,
      "pickle calls \"torch._utils._rebuild_tensor_v2\" with argume" },
    { "set", LLM_E_UNSUPPORTED, "pickle byte 2: instruction EMPTY_SET (0x8f) is not allowed" },
    { "set_on_tuple", LLM_E_FORMAT, "pickle byte 12: sets members of no dictionary" },
    { "set_without_mark", LLM_E_FORMAT, "pickle byte 4: no mark" },
    { "shape_beyond", LLM_E_FORMAT,
      "tensor \"a\": 20 bytes from value 0 on exceed a storage of 1" },
    { "shape_negative", LLM_E_FORMAT,
      "tensor \"a\": shape, strides or offset are no such numbers" },
    { "shape_of_text", LLM_E_FORMAT, "tensor \"a\": shape, strides or offset are no such numbers" },
    { "shape_overflow", LLM_E_FORMAT, "tensor \"a\": shape overflows 64 bits" },
    { "state_dict_inside", LLM_E_FORMAT, "holds no tensors" },
    { "storage_missing", LLM_E_FORMAT, "tensor \"a\": storage \"7\" is missing" },
    { "storage_negative", LLM_E_FORMAT, "pickle byte 98: persistent id is no storage" },
    { "storage_of_dict", LLM_E_FORMAT, "pickle byte 66: persistent id is no storage" },
    { "storage_outside", LLM_E_FORMAT, "tensor \"a\": storage \"../data.pkl\" is missing" },
    { "storage_overflow", LLM_E_FORMAT,
      "tensor \"a\": storage of 4611686018427387904 values of F32 h" },
    { "storage_size", LLM_E_FORMAT, "tensor \"a\": storage of 5 values of F32 has 16 bytes" },
    { "stride_count", LLM_E_FORMAT, "tensor \"a\": shape, strides or offset are no such numbers" },
    { "stride_cube", LLM_E_UNSUPPORTED,
      "tensor \"a\": its strides are neither those of its shape nor" },
    { "stride_gap", LLM_E_UNSUPPORTED,
      "tensor \"a\": its strides are neither those of its shape nor" },
    { "stride_overlap", LLM_E_UNSUPPORTED,
      "tensor \"a\": its strides are neither those of its shape nor" },
    { "stride_zero", LLM_E_UNSUPPORTED,
      "tensor \"a\": its strides are neither those of its shape nor" },
    { "text8_too_long", LLM_E_FORMAT, "pickle byte 11: text is longer than the pickle" },
    { "text_too_long", LLM_E_FORMAT, "pickle byte 7: text is longer than the pickle" },
    { "torch_load", LLM_E_UNSUPPORTED, "pickle asks for \"torch.load\", which is not allowed" },
    { "tuple_bomb", LLM_E_FORMAT, "pickle byte 324: makes no dictionary" },
    { "tuple_of_nothing", LLM_E_FORMAT, "pickle byte 3: empty stack" },
    { "twice", LLM_E_FORMAT, "duplicate tensor \"a\"" },
    { "two_pickles", LLM_E_FORMAT, "zip file with more than one data.pkl" },
    { "two_values", LLM_E_FORMAT, "pickle byte 5: STOP with more or less than one value" },
    { "unknown_opcode", LLM_E_UNSUPPORTED,
      "pickle byte 2: instruction of no name (0xff) is not allowed" },
    { "zip_count_huge", LLM_E_FORMAT, "zip directory of 65520 entries in 122 bytes" },
    { "zip_count_more", LLM_E_FORMAT, "zip directory of 3 entries in 122 bytes" },
    { "zip_directory_beyond", LLM_E_FORMAT, "zip directory 387+122 exceeds the file" },
    { "zip_directory_huge", LLM_E_FORMAT, "zip directory 243+4294967280 exceeds the file" },
    { "zip_disks", LLM_E_UNSUPPORTED, "zip file of several disks" },
    { "zip_duplicate", LLM_E_FORMAT, "duplicate zip entry \"archive/data/0\"" },
    { "zip_empty", LLM_E_FORMAT, "is no zip file (those of torch before 1.6 must be saved agai" },
    { "zip_encrypted", LLM_E_UNSUPPORTED, "zip entry \"archive/data.pkl\" is encrypted" },
    { "zip_entry_beyond", LLM_E_FORMAT,
      "zip entry \"archive/data/0\" at 2147483647 exceeds the file" },
    { "zip_entry_elsewhere", LLM_E_FORMAT, "zip entry \"archive/data/0\" has no header at 3" },
    { "zip_entry_too_long", LLM_E_FORMAT,
      "zip entry \"archive/data/0\": bytes 227+2147483647 exceed th" },
    { "zip_half", LLM_E_FORMAT, "is no zip file (those of torch before 1.6 must be saved agai" },
    { "zip_legacy", LLM_E_FORMAT, "is no zip file (those of torch before 1.6 must be saved agai" },
    { "zip_locator_beyond", LLM_E_FORMAT,
      "zip64 end record at 9223372036854775808 exceeds the file" },
    { "zip_locator_elsewhere", LLM_E_FORMAT, "no zip64 end record at 365" },
    { "zip_name_beyond", LLM_E_FORMAT, "zip entry at byte 0 of the directory exceeds it" },
    { "zip_no_64", LLM_E_FORMAT, "zip entry \"archive/data/0\" lacks its 64-bit sizes" },
    { "zip_overlap", LLM_E_FORMAT, "zip entries \"archive/data.pkl\" and \"archive/data/000\" ov" },
    { "zip_signature", LLM_E_FORMAT, "no zip entry at byte 0 of the directory" },
    { "zip_sizes", LLM_E_FORMAT, "zip entry \"archive/data.pkl\" is stored in 1 bytes, but has" },
    { "zip_truncated", LLM_E_FORMAT,
      "is no zip file (those of torch before 1.6 must be saved agai" },
};

static char dir[64], path[512];

/* The directory's pytorch_model.bin becomes a link to file. */
static void
link_model(const char *file)
{
    char target[1024], cwd[512];
    snprintf(target, sizeof(target), "%s/%s", getcwd(cwd, sizeof(cwd)), file);
    snprintf(path, sizeof(path), "%s/pytorch_model.bin", dir);
    unlink(path);
    if (symlink(target, path) != 0) {
        perror(path);
        exit(1);
    }
}

static void
write_model(const void *data, size_t n)
{
    snprintf(path, sizeof(path), "%s/pytorch_model.bin", dir);
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, data, n) != (ssize_t) n) {
        perror(path);
        exit(1);
    }
    close(fd);
}

static void
test_bad(void)
{
    json_error_t je;
    json_t *why = json_load_file(FIXTURES "bad.json", 0, &je);
    is_int((long long) json_object_size(why), sizeof(bad_files) / sizeof(bad_files[0]),
           "the table has every bad file");
    for (size_t i = 0; i < sizeof(bad_files) / sizeof(bad_files[0]); i++) {
        llm_err_t err = { 0 };
        llm_ckpt_t *c = (llm_ckpt_t *) &err;
        char file[256], name[256];
        snprintf(file, sizeof(file), FIXTURES "bad/%s.bin", bad_files[i].file);
        snprintf(name, sizeof(name), "%s.bin", bad_files[i].file);
        link_model(file);
        llm_code_t rc = llm_ckpt_open(&c, dir, &err);
        const char *reason = json_string_value(json_object_get(why, name));
        if (!ok(reason != NULL && rc == bad_files[i].code && c == NULL && err.code == rc
                && strstr(err.msg, bad_files[i].word) != NULL && strstr(err.msg, path) == err.msg,
                "%s: %s", bad_files[i].file, reason))
        {
            diag("%s: %s", llm_code_name(rc), err.msg);
        }
    }
    json_decref(why);
}

/* ------------------------------------------------------------------ good files */

/* Both checkpoints hold the same tensors with the same bytes. */
static void
test_same(const char *a_path, const char *b_path)
{
    llm_ckpt_t *a = NULL, *b = NULL;
    llm_err_t err = { 0 };
    if (!ok(llm_ckpt_open(&a, a_path, &err) == LLM_OK && llm_ckpt_open(&b, b_path, &err) == LLM_OK,
            "%s and %s open: %s", a_path, b_path, err.msg))
    {
        llm_ckpt_close(a);
        return;
    }
    static uint8_t x[1 << 20], y[1 << 20];
    size_t bad = 0;
    for (size_t i = 0; i < llm_ckpt_n_tensors(a); i++) {
        const llm_ckpt_tensor_t *t = llm_ckpt_tensor_at(a, i), *u = llm_ckpt_find(b, t->name);
        bool same = u != NULL && t->dtype == u->dtype && t->n_dims == u->n_dims
                    && memcmp(t->dim, u->dim, sizeof(t->dim)) == 0 && t->size == u->size
                    && !t->transposed && t->size <= sizeof(x)
                    && llm_ckpt_read(a, t, 0, x, t->size, &err) == LLM_OK
                    && llm_ckpt_read(b, u, 0, y, u->size, &err) == LLM_OK
                    && memcmp(x, y, t->size) == 0;
        if (!same) {
            diag("%s differs: %s", t->name, err.msg);
            bad++;
        }
    }
    is_int((long long) bad, 0, "all tensors are the same");
    is_int((long long) llm_ckpt_n_tensors(a), (long long) llm_ckpt_n_tensors(b), "so many");
    llm_ckpt_close(a);
    llm_ckpt_close(b);
}

static double
number_at(llm_dtype_t type, const uint8_t *p)
{
#define AS(t) { t v; memcpy(&v, p, sizeof(v)); return (double) v; }
    switch (type) {
    case LLM_DT_F64: AS(double)
    case LLM_DT_F32: AS(float)
    case LLM_DT_I64: AS(int64_t)
    case LLM_DT_I32: AS(int32_t)
    case LLM_DT_I16: AS(int16_t)
    case LLM_DT_I8: AS(int8_t)
    case LLM_DT_U8: case LLM_DT_BOOL: AS(uint8_t)
    default: break;
    }
    uint16_t h;
    memcpy(&h, p, 2);
    return (double) (type == LLM_DT_F16 ? llm_f16_to_f32(h) : llm_bf16_to_f32(h));
#undef AS
}

/* A tensor has the values that torch says it has. */
static bool
has_values(const llm_ckpt_t *c, const llm_ckpt_tensor_t *t, const json_t *want)
{
    const json_t *shape = json_object_get(want, "shape"), *values = json_object_get(want, "values");
    uint8_t buf[256];
    llm_err_t err;
    size_t bytes = llm_dtype(t->dtype)->bytes, n = json_array_size(values);
    if (t->n_dims != json_array_size(shape) || t->size != n * bytes || t->size > sizeof(buf)
        || llm_ckpt_read(c, t, 0, buf, t->size, &err) != LLM_OK)
    {
        return false;
    }
    for (size_t d = 0; d < t->n_dims; d++) {
        if (t->dim[d] != (uint64_t) json_integer_value(json_array_get(shape, d))) {
            return false;
        }
    }
    for (size_t i = 0; i < n; i++) {
        size_t at = t->transposed ? i % t->dim[1] * t->dim[0] + i / t->dim[1] : i;
        if (number_at(t->dtype, buf + at * bytes) != json_number_value(json_array_get(values, i))) {
            return false;
        }
    }
    return true;
}

static void
test_views(const char *file)
{
    llm_err_t err = { 0 };
    llm_ckpt_t *c;
    json_error_t je;
    json_t *want = json_load_file(FIXTURES "good/views.json", 0, &je);
    link_model(file);
    if (!ok(want != NULL && llm_ckpt_open(&c, dir, &err) == LLM_OK, "%s opens: %s", file, err.msg)) {
        return;
    }
    const char *name;
    json_t *w;
    json_object_foreach(want, name, w) {
        const llm_ckpt_tensor_t *t = llm_ckpt_find(c, name);
        ok(t != NULL && has_values(c, t, w), "%s", name);
    }
    is_int((long long) llm_ckpt_n_tensors(c), (long long) json_object_size(want),
           "what is no tensor is passed over");
    ok(llm_ckpt_find(c, "transposed")->transposed && !llm_ckpt_find(c, "rows")->transposed
       && !llm_ckpt_find(c, "one_row_transposed")->transposed, "one of them is transposed");
    llm_ckpt_close(c);
    json_decref(want);
}

/* -------------------------------------------------------------------- damage */

static llm_code_t
walk(llm_err_t *err)
{
    llm_ckpt_t *c;
    llm_code_t rc = llm_ckpt_open(&c, dir, err);
    if (rc != LLM_OK) {
        return rc;
    }
    uint8_t last;
    for (size_t i = 0; i < llm_ckpt_n_tensors(c) && rc == LLM_OK; i++) {
        const llm_ckpt_tensor_t *t = llm_ckpt_tensor_at(c, i);
        rc = t->size > 0 ? llm_ckpt_read(c, t, t->size - 1, &last, 1, err) : LLM_OK;
    }
    llm_ckpt_close(c);
    return rc;
}

/* Truncation at every length, and one flipped bit in every byte. */
static void
test_damage(void)
{
    static uint8_t data[1 << 16];
    llm_err_t err = { 0 };
    FILE *f = fopen(FIXTURES "good/views.bin", "rb");
    size_t len = f != NULL ? fread(data, 1, sizeof(data), f) : 0;
    if (!ok(len > 1000 && len < sizeof(data), "a file to damage: %zu bytes", len)) {
        return;
    }
    fclose(f);
    size_t accepted = 0, unclear = 0, refused = 0;
    for (size_t n = 0; n < len; n++) {
        write_model(data, n);
        llm_code_t rc = walk(&err);
        accepted += rc == LLM_OK;
        unclear += rc != LLM_OK && strstr(err.msg, path) == NULL;
    }
    is_int((long long) accepted, 0, "no truncated file is accepted");
    is_int((long long) unclear, 0, "every message names the file");

    write_model(data, len);
    int fd = open(path, O_WRONLY);
    for (size_t i = 0; i < len; i++) {
        uint8_t flipped = data[i] ^ (uint8_t) (1u << (i * 7 % 8));
        if (pwrite(fd, &flipped, 1, (off_t) i) != 1) {
            break;
        }
        refused += walk(&err) != LLM_OK;
        if (pwrite(fd, &data[i], 1, (off_t) i) != 1) {
            break;
        }
    }
    close(fd);
    ok(refused > 100, "flipped bits: %zu of %zu refused, none crashed", refused, len);
}

int
main(void)
{
    snprintf(dir, sizeof(dir), "/tmp/llm-pickle-XXXXXX");
    if (mkdtemp(dir) == NULL) {
        perror(dir);
        return 1;
    }
    test_bad();
    link_model(FIXTURES "good/opt.bin");
    test_same(dir, "t/fixtures/models/opt");
    test_same(FIXTURES "good/mpt", "t/fixtures/models/mpt");
    test_views(FIXTURES "good/views.bin");
    test_views(FIXTURES "good/views4.bin");
    test_damage();
    unlink(path);
    rmdir(dir);
    return done_testing();
}
