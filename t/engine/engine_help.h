/*
 * engine_help.h - for tests that run the whole engine: open a fixture, wait for jobs, read expected values.
 */
#ifndef ENGINE_HELP_H
#define ENGINE_HELP_H

#include "llm.h"
#include "tap.h"

#include <jansson.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#define GGUF_DIR "t/fixtures/gguf/"
#define MAX_IDS 2048

typedef struct {
    llm_model_t  *model;
    llm_engine_t *engine;
    int           wake_fd;
} rig_t;

typedef struct {
    llm_job_view_t view;
    int32_t ids[MAX_IDS];           /* output tokens */
    float   logprob[MAX_IDS];       /* of all positions when asked for, else of output from n_prompt on */
} result_t;

/* Opens the model and makes an engine; does not join. */
__attribute__((unused)) static int
rig_open(rig_t *rig, const char *file, const llm_engine_conf_t *conf)
{
    llm_err_t err = { 0 };
    llm_model_conf_t mc = { .weights = file };
    if (llm_model_open(&rig->model, &mc, &err) != LLM_OK || llm_engine_new(&rig->engine, rig->model, conf, &err) != LLM_OK) {
        diag("%s: %s", file, err.msg);
        return 0;
    }
    return 1;
}

__attribute__((unused)) static int
rig_join(rig_t *rig)
{
    llm_err_t err = { 0 };
    if (llm_engine_join(rig->engine, &rig->wake_fd, &err) != LLM_OK) {
        diag("join: %s", err.msg);
        return 0;
    }
    return 1;
}

__attribute__((unused)) static void
rig_close(rig_t *rig)
{
    llm_engine_leave(rig->engine);
    llm_engine_free(rig->engine);
    llm_model_close(rig->model);
}

/* Waits until the job has n output tokens or is done; false after timeout_ms. */
__attribute__((unused)) static int
job_wait(const rig_t *rig, const llm_job_t *job, uint32_t n, llm_job_view_t *view, int timeout_ms)
{
    struct timespec t0, t;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    for (;;) {
        llm_job_poll(job, view);
        if (view->done || view->n_new >= n) {
            return 1;
        }
        struct pollfd p = { rig->wake_fd, POLLIN, 0 };
        poll(&p, 1, 20);
        uint64_t count;
        ssize_t got = read(rig->wake_fd, &count, sizeof(count));
        (void) got;
        clock_gettime(CLOCK_MONOTONIC, &t);
        if ((t.tv_sec - t0.tv_sec) * 1000 + (t.tv_nsec - t0.tv_nsec) / 1000000 > timeout_ms) {
            return 0;
        }
    }
}

__attribute__((unused)) static void
job_result(const llm_job_t *job, result_t *r)
{
    llm_job_poll(job, &r->view);
    for (uint32_t i = 0; i < r->view.n_prompt + r->view.n_new && i < MAX_IDS; i++) {
        llm_job_token_t t;
        llm_job_token(job, i, &t);
        r->logprob[i] = t.logprob;
        if (i >= r->view.n_prompt) {
            r->ids[i - r->view.n_prompt] = t.id;
        }
    }
}

/* Submits, waits to the end, reads, closes. */
__attribute__((unused)) static int
job_run(const rig_t *rig, const llm_job_conf_t *conf, result_t *r)
{
    llm_err_t err = { 0 };
    llm_job_t job;
    if (llm_job_submit(rig->engine, conf, &job, &err) != LLM_OK) {
        diag("submit: %s", err.msg);
        return 0;
    }
    int in_time = job_wait(rig, &job, UINT32_MAX, &r->view, 60000);
    job_result(&job, r);
    llm_job_close(&job);
    return in_time;
}

__attribute__((unused)) static uint32_t
json_ids(const json_t *array, int32_t *ids)
{
    uint32_t n = 0;
    for (; n < json_array_size(array) && n < MAX_IDS; n++) {
        ids[n] = (int32_t) json_integer_value(json_array_get(array, n));
    }
    return n;
}

#endif
