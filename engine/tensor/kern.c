/*
 * kern.c - chooses the kernel set, and the sizes that all sets share.
 */
#include "tensor/kern.h"
#include "base/cpu.h"
#include "tensor/actbuf.h"
#include "tensor/kern_ref.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_SETS  4

/* Best first; a set runs where every feature in `need` is there. */
static const struct {
    unsigned          need;
    const llm_kern_t *set;
} sets[] = {
#if defined(__x86_64__)
    { LLM_CPU_AVX2 | LLM_CPU_AVX512 | LLM_CPU_AVX512_VNNI, &llm_kern_avx512 },
    { LLM_CPU_AVX2, &llm_kern_avx2 },
#endif
    { 0, &llm_kern_c },
    { 0, &llm_kern_ref },
};

uint32_t
llm_kern_all(const llm_kern_t *out[MAX_SETS])
{
    unsigned have = llm_cpu_features();
    uint32_t n = 0;
    for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++) {
        if ((sets[i].need & have) == sets[i].need) {
            out[n++] = sets[i].set;
        }
    }
    return n;
}

/* NULL: there is none of that name here. */
static const llm_kern_t *
find(const char *name)
{
    const llm_kern_t *all[MAX_SETS];
    uint32_t n = llm_kern_all(all);
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(all[i]->name, name) == 0) {
            return all[i];
        }
    }
    return NULL;
}

/* What LLM_KERN says, NULL when it says nothing. */
static const char *
forced(void)
{
    const char *name = getenv("LLM_KERN");
    return name != NULL && *name != '\0' ? name : NULL;
}

llm_code_t
llm_kern_check(const char *name, llm_err_t *err)
{
    name = name != NULL ? name : forced();
    if (name == NULL || *name == '\0' || find(name) != NULL) {
        return LLM_OK;
    }
    const llm_kern_t *all[MAX_SETS];
    uint32_t n = llm_kern_all(all);
    char names[64];
    size_t len = 0;
    for (uint32_t i = 0; i < n; i++) {
        len += (size_t) snprintf(names + len, sizeof(names) - len, "%s%s",
                                 i == 0 ? "" : i + 1 < n ? ", " : " or ", all[i]->name);
    }
    return llm_fail(err, LLM_E_ARG, "LLM_KERN is \"%.40s\": no set of kernels that this CPU can "
                    "run, which are %s", name, names);
}

static const llm_kern_t *
choose(void)
{
    const llm_kern_t *all[MAX_SETS];
    const char *name = forced();
    const llm_kern_t *set = name != NULL ? find(name) : NULL;
    if (set == NULL) {
        llm_kern_all(all);
        set = all[0];
    }
    return set;
}

const llm_kern_t *
llm_kern(void)
{
    /* two threads may both choose; they choose the same */
    static _Atomic(const llm_kern_t *) chosen;
    const llm_kern_t *k = atomic_load_explicit(&chosen, memory_order_acquire);
    if (k == NULL) {
        k = choose();
        atomic_store_explicit(&chosen, k, memory_order_release);
    }
    return k;
}

size_t
llm_act_bytes(uint32_t n, uint32_t k)
{
    return 2 * act_run_bytes(n, k) + (size_t) (k / 256) * n * sizeof(act_sums_t);
}

static const char *const kv_names[LLM_KV_COUNT] = {
    [LLM_KV_F32] = "f32", [LLM_KV_F16] = "f16", [LLM_KV_Q8_0] = "q8_0",
};

const char *
llm_kv_name(llm_kv_type_t type)
{
    return kv_names[type];
}

bool
llm_kv_by_name(const char *name, llm_kv_type_t *out)
{
    for (int i = 0; i < LLM_KV_COUNT; i++) {
        if (strcmp(kv_names[i], name) == 0) {
            *out = (llm_kv_type_t) i;
            return true;
        }
    }
    return false;
}

size_t
llm_kv_head_bytes(llm_kv_type_t type, uint32_t head_dim)
{
    size_t half = LLM_KV_PAGE * head_dim * llm_kv_value_bytes(type);
    if (type == LLM_KV_Q8_0) {
        half += llm_kv_blocks(head_dim) * LLM_KV_PAGE * sizeof(uint16_t);
    }
    return 2 * half;
}

size_t
llm_attn_part_floats(uint32_t head_dim)
{
    return llm_attn_stride(head_dim);
}

size_t
llm_attn_scratch_floats(uint32_t head_dim, uint32_t group)
{
    (void) group;
    return LLM_ATTN_ROWS * (LLM_ATTN_SPAN + 16 + llm_attn_part_floats(head_dim));
}
