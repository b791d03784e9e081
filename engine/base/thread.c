/*
 * thread.c - time slices, priorities and affinities of threads.
 *
 * All of these are wishes: a kernel or a sandbox that refuses one leaves the thread as it was.
 */
#define _GNU_SOURCE
#include "base/thread.h"

#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EVENTS_SLICE_NS  100000     /* the kernel's least */
#define COMPUTE_SLICE_NS 3000000    /* longer than the default: fewer switches beside others */
#define COMPUTE_NICE     10
#define MAX_CPUS         8192

/* struct sched_attr of sched_setattr(2), which libc does not declare everywhere */
typedef struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t  nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
    uint32_t util_min, util_max;
} attr_t;

/* Sets the slice of the calling thread, unless it runs in a class of its own. */
static void
set_slice(uint64_t ns)
{
    attr_t attr = { .size = sizeof(attr) };

    if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) == 0
        && (attr.policy == SCHED_OTHER || attr.policy == SCHED_BATCH))
    {
        attr.size = sizeof(attr);
        attr.flags = 0;
        attr.runtime = ns;      /* kernels without slices take the call and forget the value */
        (void) syscall(SYS_sched_setattr, 0, &attr, 0);
    }
}

void
llm_thread_events(void)
{
    set_slice(EVENTS_SLICE_NS);
}

void
llm_thread_compute(void)
{
    cpu_set_t *all = CPU_ALLOC(MAX_CPUS);
    if (all != NULL) {
        size_t size = CPU_ALLOC_SIZE(MAX_CPUS);
        memset(all, 0xff, size);
        (void) sched_setaffinity(0, size, all);
        CPU_FREE(all);
    }
    set_slice(COMPUTE_SLICE_NS);
    id_t tid = (id_t) syscall(SYS_gettid);
    errno = 0;
    int now = getpriority(PRIO_PROCESS, tid);
    if (errno == 0 && now < COMPUTE_NICE) {
        (void) setpriority(PRIO_PROCESS, tid, COMPUTE_NICE);
    }
}
