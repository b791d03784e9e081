/*
 * thread.h - what a thread asks of the kernel's scheduler: where it may run, and how soon.
 *
 * An event loop needs the processor for some microseconds at once; a compute thread needs much of
 * it and can wait. So compute threads have a lower priority. That alone is not enough: Linux lets a
 * running thread finish its time slice of milliseconds first. Where the kernel knows a thread's own
 * slice (6.12), the event loop asks for the shortest one, and preempts a compute thread as soon as
 * it wakes.
 */
#ifndef LLM_THREAD_H
#define LLM_THREAD_H

/* The calling thread serves events: short turns, at once. */
void llm_thread_events(void);

/*
 * The calling thread computes: long turns at a lower priority, on any core, whatever it has
 * inherited from an event loop (spec nginx.md section 2).
 */
void llm_thread_compute(void);

#endif
