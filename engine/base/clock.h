/*
 * clock.h - the clock of all times in the engine and its records.
 */
#ifndef LLM_CLOCK_H
#define LLM_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds of CLOCK_MONOTONIC: the same in all processes. Thread: any. */
static inline uint64_t
llm_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t) t.tv_sec * 1000000000u + (uint64_t) t.tv_nsec;
}

#endif
