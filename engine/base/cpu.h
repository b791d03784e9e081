/*
 * cpu.h - what the processor can do, asked once.
 */
#ifndef LLM_CPU_H
#define LLM_CPU_H

#include <stddef.h>

enum {
    LLM_CPU_AVX2 = 1 << 0,          /* with FMA and F16C */
    LLM_CPU_AVX_VNNI = 1 << 1,
    LLM_CPU_AVX512 = 1 << 2,        /* F, BW, VL, DQ */
    LLM_CPU_AVX512_VNNI = 1 << 3,
    LLM_CPU_AVX512_BF16 = 1 << 4,
    LLM_CPU_AVX512_VBMI = 1 << 5
};

#define LLM_HUGE_PAGE ((size_t) 2 << 20)   /* bytes; elsewhere than on x86-64 a round number */

/* CPUID and the saved-state bits of XGETBV. Thread: any. */
unsigned llm_cpu_features(void);

#endif
