/*
 * thread.h - what a thread asks of the kernel's scheduler: where it may run, and how soon.
 *
 * An event loop needs the processor for some microseconds at once; a compute thread needs much of
 * it and can wait. Where the kernel knows a thread's own time slice (Linux 6.12), the event loop
 * asks for the shortest one: it then preempts a compute thread as soon as it wakes, and both may
 * have the same priority. Elsewhere compute threads step back by a lower priority.
 */
#ifndef LLM_THREAD_H
#define LLM_THREAD_H

/* The calling thread serves events: short turns, at once. */
void llm_thread_events(void);

/*
 * The calling thread computes: undoes a CPU affinity, a short slice and, upwards only, a priority
 * that it has inherited from an event loop (spec nginx.md section 2).
 */
void llm_thread_compute(void);

#endif
