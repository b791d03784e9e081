/*
 * hfquant.c - finds and widens 4-bit matrices of GPTQ, AWQ and bitsandbytes (see hfquant.h).
 *
 * I inputs (columns), O outputs (rows), G groups; eight 4-bit values in an i32, lowest bits first:
 *
 *   GPTQ  qweight [I/8][O]   value n of row r: input 8r + n      qzeros [G][O/8]   scales [G][O]
 *         g_idx [I]: group of each input                         w = s * (q - (z + 1))
 *   AWQ   qweight [I][O/8]   value n of column c: output 8c + awq_order[n]   qzeros, scales alike
 *                                                                w = s * (q - z)
 *   nf4   weight: two values a byte, the first in the high half, rows of I one after the other;
 *         absmax of every block of values                        w = map[q] * absmax
 */
#include "model/hfquant.h"
#include "base/json.h"
#include "tensor/format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PACK       8                    /* values in an i32 */
#define MAX_NAME  1024
#define STATE_MAX  ((uint64_t) 1 << 16) /* bytes of a quant_state */
#define SHOWN      63                   /* bytes of a name in a message */
#define MAX_SIDE   ((uint64_t) 1 << 31) /* rows, columns */

const char *
llm_hfq_name(llm_hfq_kind_t kind)
{
    static const char *const names[] = { "none", "GPTQ", "AWQ", "NF4" };
    return names[kind];
}

/* --------------------------------------------------------------------- conf */

static bool
text_is(const json_t *v, const char *s)
{
    return json_is_string(v) && strcmp(json_string_value(v), s) == 0;
}

/* An integer of the object; fallback when it is absent or null. */
static llm_code_t
get_int(const json_t *o, const char *path, const char *key, json_int_t fallback, json_int_t *out,
        llm_err_t *err)
{
    const json_t *v = json_object_get(o, key);
    *out = json_is_integer(v) ? json_integer_value(v) : fallback;
    return v == NULL || json_is_null(v) || json_is_integer(v) ? LLM_OK
           : llm_fail(err, LLM_E_FORMAT, "%s: key \"%s\" is not an integer", path, key);
}

static llm_code_t
conf_groups(llm_hfq_conf_t *out, const char *path, const json_t *o, llm_err_t *err)
{
    json_int_t bits, group;
    llm_code_t rc = get_int(o, path, json_object_get(o, "w_bit") != NULL ? "w_bit" : "bits", 4,
                            &bits, err);
    if (rc == LLM_OK) {
        rc = get_int(o, path, json_object_get(o, "q_group_size") != NULL ? "q_group_size"
                                                                         : "group_size",
                     128, &group, err);
    }
    if (rc == LLM_OK && bits != 4) {
        rc = llm_fail(err, LLM_E_UNSUPPORTED, "%s: %s weights of %lld bits, only 4 are supported",
                      path, llm_hfq_name(out->kind), (long long) bits);
    }
    if (rc == LLM_OK && group != -1 && (group < 1 || group > INT32_MAX)) {
        rc = llm_fail(err, LLM_E_FORMAT, "%s: key \"group_size\" is %lld", path, (long long) group);
    }
    if (rc == LLM_OK) {
        out->group_size = group == -1 ? 0 : (uint32_t) group;
    }
    return rc;
}

llm_code_t
llm_hfq_conf(llm_hfq_conf_t *out, const char *path, const json_t *o, llm_err_t *err)
{
    *out = (llm_hfq_conf_t) { .kind = LLM_HFQ_NONE };
    const json_t *method = json_object_get(o, "quant_method");
    if (o == NULL || json_is_null(o)) {
        return LLM_OK;
    }
    if (text_is(method, "bitsandbytes")) {
        const json_t *type = json_object_get(o, "bnb_4bit_quant_type");
        bool four = json_is_true(json_object_get(o, "load_in_4bit"));
        out->kind = LLM_HFQ_NF4;
        return four && text_is(type, "nf4") ? LLM_OK
               : llm_fail(err, LLM_E_UNSUPPORTED, "%s: bitsandbytes weights are %s, only nf4 is "
                          "supported", path, !four ? "of 8 bits" : json_is_string(type)
                          ? json_string_value(type) : "of no type");
    }
    if (text_is(method, "gptq")) {
        const json_t *format = json_object_get(o, "checkpoint_format");
        out->kind = LLM_HFQ_GPTQ;
        out->zero_add = !text_is(format, "gptq_v2");
        if (json_is_string(format) && out->zero_add && !text_is(format, "gptq")) {
            return llm_fail(err, LLM_E_UNSUPPORTED, "%s: checkpoint_format \"%.*s\" of GPTQ", path,
                            SHOWN, json_string_value(format));
        }
    } else if (text_is(method, "awq")) {
        const json_t *version = json_object_get(o, "version");
        out->kind = LLM_HFQ_AWQ;
        if (json_is_string(version) && !text_is(version, "gemm") && !text_is(version, "GEMM")) {
            return llm_fail(err, LLM_E_UNSUPPORTED, "%s: version \"%.*s\" of AWQ, only gemm is "
                            "supported", path, SHOWN, json_string_value(version));
        }
    } else {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: quantization method \"%.*s\" is not supported",
                        path, SHOWN, json_is_string(method) ? json_string_value(method) : "");
    }
    return conf_groups(out, path, o, err);
}

/* ------------------------------------------------------------------ modules */

/* The part of a module's matrix; NULL when absent. */
static const llm_ckpt_tensor_t *
find_part(const llm_ckpt_t *c, const char *module, size_t len, const char *part)
{
    char name[MAX_NAME];
    int n = len < sizeof(name) ? snprintf(name, sizeof(name), "%.*s.%s", (int) len, module, part)
                               : -1;
    return n > 0 && (size_t) n < sizeof(name) ? llm_ckpt_find(c, name) : NULL;
}

/* Length of the name in front of "." and suffix; 0: it does not end so. */
static size_t
stem(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n > m + 1 && name[n - m - 1] == '.' && strcmp(name + n - m, suffix) == 0 ? n - m - 1 : 0;
}

size_t
llm_hfq_module(const llm_hfq_conf_t *conf, const llm_ckpt_t *c, const llm_ckpt_tensor_t *t,
               bool *part)
{
    static const char *const packed[] = { "qzeros", "scales", "g_idx", NULL };
    static const char *const nf4[] = {
        "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map",
        "weight.quant_state.bitsandbytes__nf4", NULL,
    };
    bool is_nf4 = conf->kind == LLM_HFQ_NF4;
    const char *whole = is_nf4 ? "weight" : "qweight";
    const char *evidence = is_nf4 ? "weight.quant_state.bitsandbytes__nf4" : "qweight";
    size_t len = 0;
    *part = false;
    if (conf->kind == LLM_HFQ_NONE) {
        return 0;
    }
    for (const char *const *p = is_nf4 ? nf4 : packed; *p != NULL && len == 0; p++) {
        len = stem(t->name, *p);
    }
    if (len > 0) {
        *part = find_part(c, t->name, len, evidence) != NULL;
        return 0;
    }
    len = stem(t->name, whole);
    return len > 0 && find_part(c, t->name, len, evidence) != NULL ? len : 0;
}

static llm_code_t
wrong_shape(const llm_ckpt_t *c, const llm_ckpt_tensor_t *t, const char *want, llm_err_t *err)
{
    return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%.*s\" of %s does not have %s",
                    llm_ckpt_path(c, t), SHOWN, t->name, llm_dtype(t->dtype)->name, want);
}

/* A part that must be there. */
static llm_code_t
need_part(const llm_ckpt_t *c, const char *module, size_t len, const char *part,
          const llm_ckpt_tensor_t *whole, const llm_ckpt_tensor_t **out, llm_err_t *err)
{
    *out = find_part(c, module, len, part);
    if (*out != NULL && !(*out)->transposed) {
        return LLM_OK;
    }
    return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%.*s.%s\" is %s", llm_ckpt_path(c, whole),
                    (int) (len < SHOWN ? len : SHOWN), module, part,
                    *out == NULL ? "missing" : "stored transposed");
}

/* Two dimensions a x b of this type. */
static bool
is_table(const llm_ckpt_tensor_t *t, llm_dtype_t type, uint64_t a, uint64_t b)
{
    return t->dtype == type && t->n_dims == 2 && t->dim[0] == a && t->dim[1] == b;
}

static llm_code_t
open_packed(llm_hfq_mat_t *m, const llm_ckpt_t *c, const char *module, size_t len, llm_err_t *err)
{
    bool gptq = m->conf.kind == LLM_HFQ_GPTQ;
    const llm_ckpt_tensor_t *w = NULL;
    llm_code_t rc = need_part(c, module, len, "qweight", llm_ckpt_tensor_at(c, 0), &w, err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (w->dtype != LLM_DT_I32 || w->n_dims != 2 || w->size == 0 || w->dim[0] > MAX_SIDE / PACK
        || w->dim[1] > MAX_SIDE / PACK)
    {
        return wrong_shape(c, w, "two dimensions of I32", err);
    }
    m->weight = w;
    m->rows = gptq ? w->dim[1] : w->dim[1] * PACK;
    m->cols = gptq ? w->dim[0] * PACK : w->dim[0];
    rc = need_part(c, module, len, "scales", w, &m->scales, err);
    if (rc == LLM_OK) {
        rc = need_part(c, module, len, "qzeros", w, &m->zeros, err);
    }
    if (rc != LLM_OK) {
        return rc;
    }
    uint64_t size = m->conf.group_size > 0 ? m->conf.group_size : m->cols;
    uint64_t groups = (m->cols + size - 1) / size;
    llm_dtype_t type = m->scales->dtype;
    if (!(type == LLM_DT_F16 || type == LLM_DT_BF16 || type == LLM_DT_F32)
        || !is_table(m->scales, type, groups, m->rows))
    {
        return wrong_shape(c, m->scales, "a number for each group and output", err);
    }
    if (m->rows % PACK != 0 || !is_table(m->zeros, LLM_DT_I32, groups, m->rows / PACK)) {
        return wrong_shape(c, m->zeros, "a value for each group and output", err);
    }
    m->g_idx = gptq ? find_part(c, module, len, "g_idx") : NULL;
    if (m->g_idx != NULL && (m->g_idx->dtype != LLM_DT_I32 || m->g_idx->n_dims != 1
                             || m->g_idx->dim[0] != m->cols))
    {
        return wrong_shape(c, m->g_idx, "a number for each input", err);
    }
    return LLM_OK;
}

/* ---------------------------------------------------------------------- nf4 */

/* The fields of a quant_state. */
static llm_code_t
parse_state(llm_hfq_mat_t *m, const char *path, const json_t *o, llm_err_t *err)
{
    const json_t *shape = json_object_get(o, "shape"), *offset = json_object_get(o,
                                                                                 "nested_offset");
    json_int_t block, nested, rows = json_integer_value(json_array_get(shape, 0));
    json_int_t cols = json_integer_value(json_array_get(shape, 1));
    llm_code_t rc = get_int(o, path, "blocksize", 0, &block, err);
    if (rc == LLM_OK) {
        rc = get_int(o, path, "nested_blocksize", 0, &nested, err);
    }
    if (rc != LLM_OK) {
        return rc;
    }
    bool good = json_array_size(shape) == 2 && rows > 0 && (uint64_t) rows <= MAX_SIDE && cols > 0
                && (uint64_t) cols <= MAX_SIDE && block > 0 && block <= INT32_MAX && nested >= 0
                && nested <= INT32_MAX && (nested == 0 || json_is_number(offset));
    if (!good) {
        return llm_fail(err, LLM_E_FORMAT, "%s: shape, block sizes or offset are no such numbers",
                        path);
    }
    m->rows = (uint64_t) rows;
    m->cols = (uint64_t) cols;
    m->block = (uint32_t) block;
    m->nested_block = (uint32_t) nested;
    m->nested_offset = nested > 0 ? (float) json_number_value(offset) : 0;
    return LLM_OK;
}

static llm_code_t
read_state(llm_hfq_mat_t *m, const llm_ckpt_t *c, const llm_ckpt_tensor_t *t, llm_err_t *err)
{
    char what[2 * SHOWN + MAX_NAME], text[STATE_MAX];
    if (t->dtype != LLM_DT_U8 || t->size > sizeof(text)) {
        return wrong_shape(c, t, "at most 65536 bytes", err);
    }
    json_t *o = NULL;
    snprintf(what, sizeof(what), "%s: tensor \"%.*s\"", llm_ckpt_path(c, t), SHOWN, t->name);
    llm_code_t rc = llm_ckpt_read(c, t, 0, text, (size_t) t->size, err);
    if (rc == LLM_OK) {
        rc = llm_json_parse(&o, what, text, (size_t) t->size, err);
    }
    if (rc == LLM_OK) {
        rc = parse_state(m, what, o, err);
    }
    json_decref(o);
    return rc;
}

static bool
is_vector(const llm_ckpt_tensor_t *t, llm_dtype_t type, uint64_t n)
{
    return t->dtype == type && t->n_dims == 1 && t->dim[0] == n;
}

static llm_code_t
open_nf4(llm_hfq_mat_t *m, const llm_ckpt_t *c, const char *module, size_t len, llm_err_t *err)
{
    const llm_ckpt_tensor_t *state = NULL, *any = llm_ckpt_tensor_at(c, 0);
    llm_code_t rc = need_part(c, module, len, "weight", any, &m->weight, err);
    if (rc == LLM_OK) {
        rc = need_part(c, module, len, "weight.quant_state.bitsandbytes__nf4", any, &state, err);
    }
    if (rc == LLM_OK) {
        rc = read_state(m, c, state, err);
    }
    if (rc == LLM_OK) {
        rc = need_part(c, module, len, "weight.quant_map", any, &m->map, err);
    }
    if (rc == LLM_OK) {
        rc = need_part(c, module, len, "weight.absmax", any, &m->absmax, err);
    }
    if (rc == LLM_OK && m->nested_block > 0) {
        rc = need_part(c, module, len, "weight.nested_absmax", any, &m->nested_absmax, err);
        rc = rc != LLM_OK ? rc : need_part(c, module, len, "weight.nested_quant_map", any,
                                           &m->nested_map, err);
    }
    if (rc != LLM_OK) {
        return rc;
    }
    uint64_t n = m->rows * m->cols, blocks = (n + m->block - 1) / m->block;    /* below 2^62 */
    if (m->weight->size != (n + 1) / 2) {
        return wrong_shape(c, m->weight, "half a byte for each weight", err);
    }
    if (!is_vector(m->map, LLM_DT_F32, 16)) {
        return wrong_shape(c, m->map, "16 numbers of F32", err);
    }
    if (!is_vector(m->absmax, m->nested_block > 0 ? LLM_DT_U8 : LLM_DT_F32, blocks)) {
        return wrong_shape(c, m->absmax, "a number for each block", err);
    }
    if (m->nested_block > 0 && !is_vector(m->nested_map, LLM_DT_F32, 256)) {
        return wrong_shape(c, m->nested_map, "256 numbers of F32", err);
    }
    if (m->nested_block > 0 && !is_vector(m->nested_absmax, LLM_DT_F32,
                                          (blocks + m->nested_block - 1) / m->nested_block))
    {
        return wrong_shape(c, m->nested_absmax, "a number for each nested block", err);
    }
    return LLM_OK;
}

llm_code_t
llm_hfq_open(llm_hfq_mat_t *out, const llm_hfq_conf_t *conf, const llm_ckpt_t *c,
             const char *module, size_t module_len, llm_err_t *err)
{
    *out = (llm_hfq_mat_t) { .conf = *conf };
    return conf->kind == LLM_HFQ_NF4 ? open_nf4(out, c, module, module_len, err)
                                     : open_packed(out, c, module, module_len, err);
}

/* ------------------------------------------------------------------ widening */

/* A whole tensor in fresh memory; NULL on failure. */
static void *
load(const llm_ckpt_t *c, const llm_ckpt_tensor_t *t, llm_code_t *rc, llm_err_t *err)
{
    if (*rc != LLM_OK) {
        return NULL;
    }
    void *data = malloc((size_t) t->size + 1);
    *rc = data == NULL ? llm_fail(err, LLM_E_NOMEM, "%s: no memory for %llu bytes of tensor "
                                  "\"%.*s\"", llm_ckpt_path(c, t), (unsigned long long) t->size,
                                  SHOWN, t->name)
                       : llm_ckpt_read(c, t, 0, data, (size_t) t->size, err);
    if (*rc != LLM_OK) {
        free(data);
        data = NULL;
    }
    return data;
}

/* The same as floats. */
static float *
load_floats(const llm_ckpt_t *c, const llm_ckpt_tensor_t *t, llm_code_t *rc, llm_err_t *err)
{
    uint16_t *raw = load(c, t, rc, err);
    if (raw == NULL || t->dtype == LLM_DT_F32) {
        return (float *) raw;
    }
    size_t n = (size_t) t->size / 2;
    float *out = malloc(n * sizeof(float) + 1);
    if (out == NULL) {
        *rc = llm_fail(err, LLM_E_NOMEM, "%s: no memory for %zu scales", llm_ckpt_path(c, t), n);
    }
    for (size_t i = 0; out != NULL && i < n; i++) {
        out[i] = t->dtype == LLM_DT_F16 ? llm_f16_to_f32(raw[i]) : llm_bf16_to_f32(raw[i]);
    }
    free(raw);
    return out;
}

/* Group of each input. */
static uint32_t *
load_groups(const llm_hfq_mat_t *m, const llm_ckpt_t *c, llm_code_t *rc, llm_err_t *err)
{
    uint64_t n_groups = m->scales->dim[0];
    if (m->g_idx == NULL) {
        uint32_t *g = *rc == LLM_OK ? malloc((size_t) m->cols * sizeof(*g)) : NULL;
        uint32_t size = m->conf.group_size > 0 ? m->conf.group_size : (uint32_t) m->cols;
        if (g == NULL && *rc == LLM_OK) {
            *rc = llm_fail(err, LLM_E_NOMEM, "%s: no memory", llm_ckpt_path(c, m->weight));
        }
        for (uint64_t i = 0; g != NULL && i < m->cols; i++) {
            g[i] = (uint32_t) i / size;
        }
        return g;
    }
    uint32_t *g = load(c, m->g_idx, rc, err);
    for (uint64_t i = 0; g != NULL && i < m->cols; i++) {
        if (g[i] >= n_groups) {     /* negative ones too */
            *rc = llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%.*s\": value %llu is %d, there are "
                           "%llu groups", llm_ckpt_path(c, m->g_idx), SHOWN, m->g_idx->name,
                           (unsigned long long) i, (int32_t) g[i], (unsigned long long) n_groups);
            free(g);
            return NULL;
        }
    }
    return g;
}

/* Every weight, eight outputs at a time, whose zero points lie in one word. */
static void
dequant_packed(const llm_hfq_mat_t *m, const uint32_t *weight, const uint32_t *zeros,
               const float *scales, const uint32_t *group, float *dst)
{
    static const uint8_t in_order[PACK] = { 0, 1, 2, 3, 4, 5, 6, 7 };
    static const uint8_t awq_order[PACK] = { 0, 4, 1, 5, 2, 6, 3, 7 };      /* place of output n */
    bool gptq = m->conf.kind == LLM_HFQ_GPTQ;
    const uint8_t *place = gptq ? in_order : awq_order;
    uint64_t rows = m->rows, cols = m->cols, words = rows / PACK;
    for (uint64_t o = 0; o < words; o++) {
        for (uint64_t i = 0; i < cols; i++) {
            const float *scale = scales + group[i] * rows + o * PACK;
            const uint32_t *w = gptq ? weight + i / PACK * rows + o * PACK : weight + i * words + o;
            uint32_t zero = zeros[group[i] * words + o];
            for (unsigned n = 0; n < PACK; n++) {
                int z = (int) (zero >> 4 * place[n] & 15) + (int) m->conf.zero_add;
                uint32_t q = gptq ? w[n] >> 4 * (i % PACK) : *w >> 4 * place[n];
                dst[(o * PACK + n) * cols + i] = scale[n] * (float) ((int) (q & 15) - z);
            }
        }
    }
}

static llm_code_t
widen_packed(const llm_hfq_mat_t *m, const llm_ckpt_t *c, float *dst, llm_err_t *err)
{
    llm_code_t rc = LLM_OK;
    uint32_t *weight = load(c, m->weight, &rc, err);
    uint32_t *zeros = load(c, m->zeros, &rc, err);
    float *scales = load_floats(c, m->scales, &rc, err);
    uint32_t *group = load_groups(m, c, &rc, err);
    if (rc == LLM_OK) {
        dequant_packed(m, weight, zeros, scales, group, dst);
    }
    free(weight);
    free(zeros);
    free(scales);
    free(group);
    return rc;
}

static llm_code_t
widen_nf4(const llm_hfq_mat_t *m, const llm_ckpt_t *c, float *dst, llm_err_t *err)
{
    llm_code_t rc = LLM_OK;
    bool nested = m->nested_block > 0;
    uint64_t n = m->rows * m->cols;
    uint8_t *weight = load(c, m->weight, &rc, err);
    float *map = load(c, m->map, &rc, err);
    void *absmax = load(c, m->absmax, &rc, err);
    float *nested_map = nested ? load(c, m->nested_map, &rc, err) : NULL;
    float *nested_absmax = nested ? load(c, m->nested_absmax, &rc, err) : NULL;
    float scale = 0;
    for (uint64_t i = 0; rc == LLM_OK && i < n; i++) {
        if (i % m->block == 0) {
            uint64_t b = i / m->block;
            scale = !nested ? ((float *) absmax)[b]
                  : nested_map[((uint8_t *) absmax)[b]] * nested_absmax[b / m->nested_block]
                    + m->nested_offset;
        }
        dst[i] = map[i % 2 == 0 ? weight[i / 2] >> 4 : weight[i / 2] & 15] * scale;
    }
    free(weight);
    free(map);
    free(absmax);
    free(nested_map);
    free(nested_absmax);
    return rc;
}

llm_code_t
llm_hfq_dequant(const llm_hfq_mat_t *m, const llm_ckpt_t *c, float *dst, llm_err_t *err)
{
    return m->conf.kind == LLM_HFQ_NF4 ? widen_nf4(m, c, dst, err) : widen_packed(m, c, dst, err);
}
