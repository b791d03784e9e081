/*
 * constraint.c - compiled constraints, and the cache of those that this process used last.
 *
 * A compilation runs outside the lock, so one that takes long holds nobody up; two threads that
 * compile the same text at the same time both do the work, and the later one's result is dropped.
 * Ids are keyed by a secret of the arena: equal in all of its processes, and nobody can make two
 * texts with one id.
 */
#include "arena.h"

#include <stdlib.h>
#include <string.h>

#define CACHE_ENTRIES 64u
#define CACHE_BYTES   ((size_t) 32 << 20)

struct llm_constraints {
    pthread_mutex_t   lock;
    llm_constraint_t *entry[CACHE_ENTRIES];     /* [n], in no order */
    uint32_t          n;
    size_t            bytes;
    uint64_t          clock;
};

llm_code_t
llm_constraints_new(llm_constraints_t **out, llm_err_t *err)
{
    *out = calloc(1, sizeof(**out));
    if (*out == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "cache of constraints: out of memory");
    }
    pthread_mutex_init(&(*out)->lock, NULL);
    return LLM_OK;
}

void
llm_constraints_free(llm_constraints_t *c)
{
    if (c == NULL) {
        return;
    }
    for (uint32_t i = 0; i < c->n; i++) {
        llm_constraint_free(c->entry[i]);
    }
    pthread_mutex_destroy(&c->lock);
    free(c);
}

void
llm_constraint_free(llm_constraint_t *c)
{
    /* acq_rel: the last one sees what the others did with the block before it frees it */
    if (c != NULL && atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) == 1) {
        free(c->grammar);
        free(c);
    }
}

/* With the lock held: the entry of this id with one more user, or NULL. */
static llm_constraint_t *
find(llm_constraints_t *cache, const uint64_t id[2])
{
    for (uint32_t i = 0; i < cache->n; i++) {
        llm_constraint_t *c = cache->entry[i];
        if (c->id[0] == id[0] && c->id[1] == id[1]) {
            c->used = ++cache->clock;
            atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
            return c;
        }
    }
    return NULL;
}

/* With the lock held: takes the entry in, and those out that were not used for the longest time. */
static void
add(llm_constraints_t *cache, llm_constraint_t *c)
{
    while (cache->n > 0 && (cache->n == CACHE_ENTRIES || cache->bytes + c->bytes > CACHE_BYTES)) {
        uint32_t oldest = 0;
        for (uint32_t i = 1; i < cache->n; i++) {
            if (cache->entry[i]->used < cache->entry[oldest]->used) {
                oldest = i;
            }
        }
        cache->bytes -= cache->entry[oldest]->bytes;
        llm_constraint_free(cache->entry[oldest]);
        cache->entry[oldest] = cache->entry[--cache->n];
    }
    c->used = ++cache->clock;
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    cache->entry[cache->n++] = c;
    cache->bytes += c->bytes;
}

static llm_constraint_t *
compile(const llm_grammar_conf_t *conf, llm_err_t *err)
{
    llm_constraint_t *c = calloc(1, sizeof(*c));
    if (c == NULL) {
        llm_fail(err, LLM_E_NOMEM, "constraint: out of memory");
        return NULL;
    }
    if (llm_grammar_compile(&c->grammar, &c->bytes, conf, err) != LLM_OK) {
        free(c);
        return NULL;
    }
    llm_grammar_id(c->grammar, c->id);
    atomic_store_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

llm_code_t
llm_constraint_new(llm_constraint_t **out, llm_engine_t *e, llm_constraint_kind_t kind,
                   const char *text, size_t len, llm_err_t *err)
{
    static const llm_grammar_kind_t kinds[] = {
        [LLM_CONSTRAIN_REGEX] = LLM_GRAMMAR_REGEX,
        [LLM_CONSTRAIN_SCHEMA] = LLM_GRAMMAR_JSON_SCHEMA,
        [LLM_CONSTRAIN_OBJECT] = LLM_GRAMMAR_JSON_OBJECT,
        [LLM_CONSTRAIN_GBNF] = LLM_GRAMMAR_GBNF,
        [LLM_CONSTRAIN_CALLS] = LLM_GRAMMAR_CALLS,
    };
    llm_constraints_t *cache = e->constraints;
    uint64_t id[2];

    *out = NULL;
    if ((size_t) kind >= sizeof(kinds) / sizeof(kinds[0])) {
        return llm_fail(err, LLM_E_ARG, "grammar is not valid: its kind %d is not supported",
                        (int) kind);
    }
    llm_grammar_conf_t conf = {
        .kind = kinds[kind], .text = text, .len = len, .vocab = e->gvocab,
        .secret = { e->sh.hash_key[0], e->sh.hash_key[1] },
    };
    llm_grammar_key(&conf, id);
    pthread_mutex_lock(&cache->lock);
    llm_constraint_t *c = find(cache, id);
    pthread_mutex_unlock(&cache->lock);

    if (c == NULL) {
        llm_err_t why;
        llm_constraint_t *fresh = compile(&conf, &why);
        if (fresh == NULL) {
            return llm_fail(err, why.code, "%s", why.msg);
        }
        pthread_mutex_lock(&cache->lock);
        c = find(cache, id);
        if (c == NULL) {
            add(cache, fresh);
        }
        pthread_mutex_unlock(&cache->lock);
        if (c != NULL) {
            llm_constraint_free(fresh);
        } else {
            c = fresh;
        }
    }
    *out = c;
    return LLM_OK;
}
