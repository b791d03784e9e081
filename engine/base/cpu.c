/*
 * cpu.c - asks the processor what it can do, and the kernel (through XCR0) which registers it
 * saves.
 *
 * A feature counts only when both agree: an AVX-512 CPU whose kernel does not save ZMM registers
 * has no AVX-512.
 */
#include "base/cpu.h"

#include <stdatomic.h>

#if defined(__x86_64__)

#include <cpuid.h>
#include <stdbool.h>
#include <stdint.h>

static uint64_t
read_xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t) hi << 32 | lo;
}

static unsigned
ask(void)
{
    /* bit numbers: Intel SDM volume 2, CPUID */
    enum {
        L1_FMA = 1 << 12, L1_OSXSAVE = 1 << 27, L1_AVX = 1 << 28, L1_F16C = 1 << 29,
        L7B_AVX2 = 1 << 5, L7B_512F = 1 << 16, L7B_512DQ = 1 << 17, L7B_512BW = 1 << 30,
        L7C_VBMI = 1 << 1, L7C_VNNI = 1 << 11,
        L71A_AVX_VNNI = 1 << 4, L71A_BF16 = 1 << 5
    };
    const unsigned l7b_512vl = 1u << 31;
    const uint64_t ymm = 0x6, zmm = 0xe6;       /* XCR0: SSE, AVX; opmask and both halves of ZMM */
    unsigned a, b, c, d;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & L1_OSXSAVE) || !(c & L1_AVX)) {
        return 0;
    }
    bool fma = (c & L1_FMA) && (c & L1_F16C);
    uint64_t xcr0 = read_xcr0();
    if ((xcr0 & ymm) != ymm || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & L7B_AVX2)
        || !fma) {
        return 0;
    }
    unsigned max_sub = a, b7 = b, c7 = c, a71 = 0;
    if (max_sub >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
        a71 = a;
    }

    unsigned f = LLM_CPU_AVX2;
    f |= a71 & L71A_AVX_VNNI ? LLM_CPU_AVX_VNNI : 0;
    if ((xcr0 & zmm) == zmm && (b7 & L7B_512F) && (b7 & L7B_512DQ) && (b7 & L7B_512BW)
        && (b7 & l7b_512vl)) {
        f |= LLM_CPU_AVX512;
        f |= c7 & L7C_VNNI ? LLM_CPU_AVX512_VNNI : 0;
        f |= c7 & L7C_VBMI ? LLM_CPU_AVX512_VBMI : 0;
        f |= a71 & L71A_BF16 ? LLM_CPU_AVX512_BF16 : 0;
    }
    return f;
}

#else

static unsigned
ask(void)
{
    return 0;
}

#endif

unsigned
llm_cpu_features(void)
{
    /*
     * CPUID is slow, and far slower in a virtual machine; two threads may both ask, the answer is
     * the same
     */
    static _Atomic unsigned cached;
    const unsigned asked = 1u << 31;
    unsigned f = atomic_load_explicit(&cached, memory_order_relaxed);
    if (f == 0) {
        f = ask() | asked;
        atomic_store_explicit(&cached, f, memory_order_relaxed);
    }
    return f & ~asked;
}
