/*
 * kern.c - chooses the kernel set, and the sizes that all sets share.
 */
#include "tensor/kern.h"
#include "base/cpu.h"
#include "tensor/actbuf.h"
#include "tensor/kern_ref.h"

#include <stdatomic.h>
#include <stdlib.h>

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
llm_kern_all(const llm_kern_t *out[4])
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

static const llm_kern_t *
choose(void)
{
    const llm_kern_t *all[4];
    uint32_t n = llm_kern_all(all);
    const char *want = getenv("LLM_KERN");

    for (uint32_t i = 0; want != NULL && i < n; i++) {
        if (strcmp(all[i]->name, want) == 0) {
            return all[i];
        }
    }
    return all[0];
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
    size_t blocks = k / 32 + (k % 32 != 0);
    return (blocks * n * sizeof(act_block_t) + 63) & ~(size_t) 63;
}

size_t
llm_kv_head_bytes(llm_kv_type_t type, uint32_t head_dim)
{
    return (size_t) 2 * LLM_KV_PAGE * head_dim * (type == LLM_KV_F32 ? 4 : 2);
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
