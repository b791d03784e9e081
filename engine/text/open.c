/*
 * open.c - opening and closing a model, what it says about itself, and the tokenizer functions of
 * the public interface.
 *
 * Stands in this layer because it joins the weights of model/ with a tokenizer.
 */
#include "base/unicode.h"
#include "model/bind.h"
#include "model/store.h"
#include "model/source_hf.h"
#include "tensor/quantize.h"
#include "text/card.h"
#include "text/fim.h"
#include "text/tok.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define TOKEN_TEXT_MAX 512

/* A GGUF file or a Hugging Face directory, while it is being read. */
typedef struct {
    llm_gguf_t *g;              /* one of these two */
    llm_hf_t   *h;
    llm_src_t   src;
    size_t      file_bytes;
} file_t;

/* ------------------------------------------------------------------- texts */

/* A copy on m->meta; NULL when out of memory. */
static char *
keep(llm_model_t *m, const char *text, size_t len)
{
    char *copy = llm_meta_alloc(m, len + 1, 1);
    if (copy != NULL) {
        memcpy(copy, text, len);
    }
    return copy;
}

/* For display: control characters and what is not UTF-8 become '?'. */
static char *
keep_clean(llm_model_t *m, const char *text, size_t len)
{
    char *copy = keep(m, text, len);
    for (size_t i = 0; copy != NULL && i < len; i++) {
        size_t end = i + llm_utf8_valid((const uint8_t *) copy + i, len - i);
        for (; i < end; i++) {
            copy[i] = (unsigned char) copy[i] < 0x20 || copy[i] == 0x7f ? '?' : copy[i];
        }
        if (i < len) {
            copy[i] = '?';
        }
    }
    return copy;
}

static llm_code_t
no_memory(const llm_src_t *src, llm_err_t *err)
{
    return llm_fail(err, LLM_E_NOMEM, "%s: no memory for the texts of the model", src->path);
}

/* A string setting; an empty span when it is absent. */
static llm_code_t
text_value(const llm_src_t *src, const char *key, llm_span_t *out, llm_err_t *err)
{
    llm_value_t v;
    src->value(src, key, &v);
    *out = (llm_span_t) { "", 0 };
    if (v.kind == LLM_VALUE_STRING) {
        *out = v.string;
    } else if (v.kind != LLM_VALUE_NONE) {
        return llm_fail(err, LLM_E_FORMAT, "%s: key \"%s\" is not a string", src->path, key);
    }
    return LLM_OK;
}

/* The template is compiled later, so it must be text as it stands. */
static llm_code_t
keep_template(llm_model_t *m, const llm_src_t *src, llm_err_t *err)
{
    static const char key[] = "tokenizer.chat_template";
    llm_span_t text;
    llm_code_t rc = text_value(src, key, &text, err);
    if (rc != LLM_OK || text.len == 0) {
        return rc;
    }
    size_t valid = llm_utf8_valid((const uint8_t *) text.data, text.len);
    const char *nul = memchr(text.data, '\0', valid);
    if (valid < text.len || nul != NULL) {
        return llm_fail(err, LLM_E_FORMAT, "%s: key \"%s\" has %s at byte %zu", src->path, key,
                        nul != NULL ? "a NUL" : "malformed UTF-8",
                        nul != NULL ? (size_t) (nul - text.data) : valid);
    }
    m->info.chat_template = keep(m, text.data, text.len);
    return m->info.chat_template != NULL ? LLM_OK : no_memory(src, err);
}

static const char *
keep_token(llm_model_t *m, int32_t id)
{
    char text[TOKEN_TEXT_MAX];
    size_t len = id >= 0 ? llm_tok_text(m->tok, id, text, sizeof(text)) : 0;
    return keep_clean(m, text, len);
}

/* The token as one writes it in a prompt; "" when there is none. */
static const char *
keep_name(llm_model_t *m, int32_t id)
{
    size_t len;
    const char *name = llm_tok_name(m->tok, id, &len);
    return name != NULL ? keep(m, name, len) : "";
}

/* -------------------------------------------------------------------- info */

static llm_code_t
find_fim(llm_model_t *m, const llm_src_t *src, llm_err_t *err)
{
    llm_fim_t fim;
    llm_code_t rc = llm_fim_find(&fim, m->tok, src, err);
    if (rc != LLM_OK) {
        return rc;
    }
    m->info.fim_pre = keep_name(m, fim.pre);
    m->info.fim_suf = keep_name(m, fim.suf);
    m->info.fim_mid = keep_name(m, fim.mid);
    return m->info.fim_pre != NULL && m->info.fim_suf != NULL && m->info.fim_mid != NULL
           ? LLM_OK : no_memory(src, err);
}

/* Parameters, and the format that most bytes are in. */
static void
count_weights(llm_model_t *m, const llm_src_t *src)
{
    uint64_t bytes[LLM_T_COUNT] = { 0 };
    const char *names[LLM_T_COUNT] = { NULL };
    size_t largest[LLM_T_COUNT] = { 0 };
    uint32_t best = 0;
    for (uint64_t i = 0; i < src->n_tensors; i++) {
        llm_src_tensor_t t;
        src->tensor_at(src, i, &t);
        if (t.type < LLM_T_COUNT) {     /* else no weights: a mask, say */
            m->info.n_params += t.ne[0] * t.ne[1] * t.ne[2] * t.ne[3];
            bytes[t.type] += t.size;
            best = bytes[t.type] > bytes[best] ? t.type : best;
            names[t.type] = t.size > largest[t.type] ? t.type_name : names[t.type];
            largest[t.type] = t.size > largest[t.type] ? t.size : largest[t.type];
        }
    }
    m->info.type_name = names[best] != NULL ? names[best] : llm_format(best)->name;
}

/* Where matrices are rounded while they are packed, the format is that of most packed bytes. */
static void
name_packed(llm_model_t *m, const llm_plan_t *plan)
{
    uint64_t bytes[LLM_T_COUNT] = { 0 };
    uint32_t best = 0;
    for (size_t i = 0; i < plan->n; i++) {
        if (plan->items[i].mat != NULL) {
            uint32_t type = plan->items[i].mat->type;
            bytes[type] += plan->items[i].bytes;
            best = bytes[type] > bytes[best] ? type : best;
        }
    }
    m->info.type_name = llm_format(best)->name;
}

/* Name, licence and template that a GGUF file holds. */
static llm_code_t
texts_of_gguf(llm_model_t *m, const llm_src_t *src, llm_err_t *err)
{
    llm_span_t name, license;
    llm_code_t rc = text_value(src, "general.name", &name, err);
    if (rc == LLM_OK) {
        rc = text_value(src, "general.license", &license, err);
    }
    if (rc == LLM_OK) {
        rc = keep_template(m, src, err);
    }
    if (rc == LLM_OK) {
        m->info.name = name.len > 0 ? keep_clean(m, name.data, name.len) : NULL;
        m->info.license = keep_clean(m, license.data, license.len);
    }
    return rc;
}

/* The same of a directory. */
static llm_code_t
texts_of_dir(llm_model_t *m, const llm_src_t *src, llm_err_t *err)
{
    char *text = NULL, *license = NULL;
    llm_code_t rc = llm_card_template(&text, src->path, err);
    if (rc == LLM_OK) {
        rc = llm_card_license(&license, src->path, err);
    }
    if (rc == LLM_OK) {
        m->info.license = keep_clean(m, license, strlen(license));
    }
    if (rc == LLM_OK && text != NULL) {
        m->info.chat_template = keep(m, text, strlen(text));
        rc = m->info.chat_template != NULL ? LLM_OK : no_memory(src, err);
    }
    free(text);
    free(license);
    return rc;
}

/* The last part of a path, without slashes at its end. */
static llm_span_t
base_name(const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') {
        end--;
    }
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') {
        start--;
    }
    return (llm_span_t) { path + start, end - start };
}

static llm_code_t
fill_info(llm_model_t *m, const file_t *f, const llm_arch_t *arch, llm_err_t *err)
{
    llm_model_info_t *info = &m->info;
    const llm_src_t *src = &f->src;
    llm_code_t rc = f->h != NULL ? texts_of_dir(m, src, err) : texts_of_gguf(m, src, err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (info->name == NULL) {
        llm_span_t name = base_name(src->path);
        info->name = keep_clean(m, name.data, name.len);
    }
    info->arch = arch->name;
    info->bos_id = llm_tok_bos(m->tok);
    info->eos_id = llm_tok_eos(m->tok);
    info->add_bos = llm_tok_adds_bos(m->tok);
    info->bos_token = keep_token(m, info->bos_id);
    info->eos_token = keep_token(m, info->eos_id);
    info->n_layers = m->dec.n_layers;
    info->n_embd = m->dec.d;
    info->n_heads = m->dec.n_heads;
    info->n_kv_heads = m->dec.n_kv_heads;
    info->head_dim = m->dec.head_dim;
    count_weights(m, src);
    bool all = info->name != NULL && info->license != NULL && info->bos_token != NULL
               && info->eos_token != NULL;
    return all ? LLM_OK : no_memory(src, err);
}

/* -------------------------------------------------------------------- open */

/* Refuses a GGUF file that is no whole model. */
static llm_code_t
check_gguf(const llm_src_t *src, llm_err_t *err)
{
    llm_span_t type;
    llm_code_t rc = text_value(src, "general.type", &type, err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (type.len > 0 && !(type.len == 5 && memcmp(type.data, "model", 5) == 0)) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: is of type \"%.*s\", not a model", src->path,
                        (int) (type.len < 40 ? type.len : 40), type.data);
    }
    return LLM_OK;
}

/* The row of the family that the file names. */
static llm_code_t
find_arch(const llm_src_t *src, const llm_arch_t **out, llm_err_t *err)
{
    const char *key = src->kind == LLM_SOURCE_HF ? "model_type" : "general.architecture";
    llm_span_t arch;
    llm_code_t rc = text_value(src, key, &arch, err);
    if (rc != LLM_OK) {
        return rc;
    }
    if (arch.len == 0) {
        return llm_fail(err, LLM_E_FORMAT, "%s: key \"%s\" is missing", src->path, key);
    }
    rc = src->kind == LLM_SOURCE_GGUF ? check_gguf(src, err) : LLM_OK;
    *out = llm_arch_find(src->kind, arch);
    if (rc == LLM_OK && *out == NULL) {
        rc = llm_fail(err, LLM_E_UNSUPPORTED, "%s: architecture \"%.*s\" is not supported",
                      src->path, (int) (arch.len < 40 ? arch.len : 40), arch.data);
    }
    return rc;
}

/* Everything but the weights. */
static llm_code_t
read_model(llm_model_t *m, llm_plan_t *plan, const file_t *f, llm_err_t *err)
{
    const llm_arch_t *arch = NULL;
    const llm_src_t *src = &f->src;
    llm_code_t rc = find_arch(src, &arch, err);
    if (rc == LLM_OK) {
        rc = llm_bind(m, plan, src, arch, err);
    }
    if (rc == LLM_OK) {
        rc = f->h != NULL ? llm_tok_from_dir(&m->tok, src->path, err)
                          : llm_tok_from_gguf(&m->tok, f->g, err);
    }
    if (rc == LLM_OK && llm_tok_n_vocab(m->tok) > m->info.n_vocab) {
        rc = llm_fail(err, LLM_E_FORMAT, "%s: %u tokens, but the embedding has %u rows", src->path,
                      llm_tok_n_vocab(m->tok), m->info.n_vocab);
    }
    if (rc == LLM_OK) {
        rc = fill_info(m, f, arch, err);
    }
    if (rc == LLM_OK) {
        rc = find_fim(m, src, err);
    }
    return rc;
}

static llm_code_t
open_file(file_t *f, const char *path, llm_err_t *err)
{
    struct stat st;
    llm_code_t rc;
    *f = (file_t) { 0 };
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        rc = llm_hf_open(&f->h, path, err);
        if (rc == LLM_OK) {
            f->src = llm_src_hf(f->h);
            f->file_bytes = (size_t) llm_hf_file_bytes(f->h);
        }
        return rc;
    }
    rc = llm_gguf_open(&f->g, path, err);
    if (rc == LLM_OK) {
        f->src = llm_src_gguf(f->g);
        f->file_bytes = llm_gguf_file_bytes(f->g);
    }
    return rc;
}

bool
llm_model_can_quantize(const char *format)
{
    uint32_t type = llm_quantize_type(format);
    return type != LLM_T_COUNT && llm_format(type)->block > 1;
}

/* The format into which matrices of floats are to be rounded. */
static llm_code_t
plan_quantize(llm_plan_t *plan, const llm_model_conf_t *conf, llm_err_t *err)
{
    if (conf->quantize == NULL) {
        return LLM_OK;
    }
    if (!llm_model_can_quantize(conf->quantize)) {
        return llm_fail(err, LLM_E_ARG, "%s: cannot be quantized to \"%.40s\"", conf->weights,
                        conf->quantize);
    }
    plan->quantizes = true;
    plan->quantize = llm_quantize_type(conf->quantize);
    return LLM_OK;
}

llm_code_t
llm_model_open(llm_model_t **out, const llm_model_conf_t *conf, llm_err_t *err)
{
    file_t f;
    llm_plan_t plan = { 0 };
    *out = NULL;
    if (llm_kern_check(NULL, err) != LLM_OK) {
        return LLM_E_ARG;
    }
    llm_model_t *m = calloc(1, sizeof(*m));
    if (m == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory", conf->weights);
    }
    m->decoder_start_id = m->forced_bos_id = m->forced_eos_id = -1;
    llm_store_stamp(m, conf);

    llm_code_t rc = open_file(&f, conf->weights, err);
    if (rc == LLM_OK) {
        m->info.file_bytes = f.file_bytes;
        rc = plan_quantize(&plan, conf, err);
        if (rc == LLM_OK) {
            rc = read_model(m, &plan, &f, err);
        }
        m->info.weight_bytes = plan.bytes;
        if (rc == LLM_OK && plan.quantizes) {
            name_packed(m, &plan);
        }
        if (rc == LLM_OK && !conf->check_only) {
            rc = llm_repack(m, &plan, &f.src, conf, err);
        }
    }
    llm_plan_free(&plan);
    llm_gguf_close(f.g);
    llm_hf_close(f.h);
    if (rc != LLM_OK) {
        llm_model_close(m);
        return rc;
    }
    *out = m;
    return LLM_OK;
}

void
llm_model_close(llm_model_t *m)
{
    if (m == NULL) {
        return;
    }
    if (m->weights != NULL) {
        munmap(m->weights, m->weights_bytes);
    }
    llm_tok_free(m->tok);
    llm_meta_free(m);
    free(m);
}

const llm_model_info_t *
llm_model_info(const llm_model_t *m)
{
    return &m->info;
}

size_t
llm_model_kv_bytes(const llm_model_t *m, llm_kv_type_t type)
{
    const llm_stack_t *s = &m->dec;
    size_t head_bytes = llm_kv_head_bytes(type, s->head_dim);
    return (size_t) s->n_layers * s->n_kv_heads * head_bytes / LLM_KV_PAGE;
}

/* --------------------------------------------------------------- tokenizer */

llm_code_t
llm_tokenize(const llm_model_t *m, const char *text, size_t len, unsigned flags, llm_tokens_t *out,
             llm_err_t *err)
{
    return llm_tok_encode(m->tok, text, len, flags, out, err);
}

void
llm_tokens_free(llm_tokens_t *t)
{
    free(t->ids);
    free(t->start);
    free(t->stop);
    *t = (llm_tokens_t) { 0 };
}

size_t
llm_token_text(const llm_model_t *m, int32_t id, char *buf, size_t cap)
{
    return llm_tok_text(m->tok, id, buf, cap);
}

const char *
llm_token_bytes(const llm_model_t *m, int32_t id, size_t *len)
{
    return (const char *) llm_tok_raw(m->tok, id, len);
}

bool
llm_token_is_special(const llm_model_t *m, int32_t id)
{
    return llm_tok_is_special(m->tok, id);
}

bool
llm_token_is_eos(const llm_model_t *m, int32_t id)
{
    return llm_tok_is_eos(m->tok, id);
}

int32_t
llm_token_find(const llm_model_t *m, const char *text, size_t len)
{
    return llm_tok_find(m->tok, text, len);
}
