/*
 * reference_case.h - one case of an expected.json through the engine.
 */
#ifndef REFERENCE_CASE_H
#define REFERENCE_CASE_H

#include "engine_help.h"

__attribute__((unused)) static void
worse(double *worst, double d)
{
    *worst = fabs(d) > *worst || isnan(d) ? fabs(d) : *worst;
}

/*
 * Like job_run, but output tokens get the log-probability among all rows of the head: rows that the tokenizer has no token for are part of the
 * reference's sum, while the engine leaves them out of what it samples from.
 */
__attribute__((unused)) static bool
run_job(const rig_t *rig, const llm_job_conf_t *conf, result_t *r)
{
    llm_err_t err;
    llm_job_t job;
    if (llm_job_submit(rig->engine, conf, &job, &err) != LLM_OK) {
        diag("submit: %s", err.msg);
        return false;
    }
    bool in_time = job_wait(rig, &job, UINT32_MAX, &r->view, 60000);
    job_result(&job, r);
    for (uint32_t i = r->view.n_prompt; i < r->view.n_prompt + r->view.n_new && i < MAX_IDS; i++) {
        llm_job_token_t t;
        llm_job_token(&job, i, &t);
        r->logprob[i] = t.raw_logprob;
    }
    llm_job_close(&job);
    return in_time;
}

/*
 * Runs one case; adds to *bad what differs in the ids, and raises *worst to the largest difference of log-probabilities. Behind an encoder prompt tokens have
 * none; output is held to what a whole generation returns, with forced tokens and an end, where the file has that (the start token comes first).
 */
__attribute__((unused)) static void
run_case(const rig_t *rig, const json_t *c, double *worst, int *bad)
{
    bool encoder = json_object_get(c, "encoder") != NULL;
    int32_t ids[MAX_IDS], want[MAX_IDS];
    static result_t r;
    uint32_t n = json_ids(json_object_get(c, "input_ids"), ids);
    const json_t *greedy = json_object_get(c, "greedy"), *lp = json_object_get(greedy, "logprobs");
    const json_t *prompt_lp = json_object_get(c, "prompt_logprobs"), *generate = json_object_get(json_object_get(c, "generate"), "ids");
    uint32_t n_new = json_ids(json_object_get(greedy, "ids"), want);

    llm_job_conf_t conf = { .tokens = ids, .n_tokens = n, .max_new = n_new, .prompt_logprobs = !encoder };
    llm_sampling_init(&conf.sampling);
    bool whole = encoder && generate != NULL;
    conf.sampling.ignore_eos = !whole;
    if (whole) {
        n_new = json_ids(generate, want) - 1;
        memmove(want, want + 1, n_new * sizeof(*want));
    }
    if (!run_job(rig, &conf, &r) || r.view.n_new != n_new) {
        diag("%u tokens, want %u", r.view.n_new, n_new);
        *bad += 1000;
        return;
    }
    for (uint32_t i = 1; i < n && !encoder; i++) {
        worse(worst, r.logprob[i] - json_number_value(json_array_get(prompt_lp, i)));
    }
    const json_t *plain = json_object_get(greedy, "ids");
    for (uint32_t i = 0; i < n_new && r.ids[i] == want[i]; i++) {
        if (json_integer_value(json_array_get(plain, i)) != want[i]) {
            break;      /* a forced token: what follows is another text than the greedy one */
        }
        worse(worst, r.logprob[n + i] - json_number_value(json_array_get(lp, i)));
    }
    *bad += memcmp(r.ids, want, n_new * sizeof(*want)) != 0;
}

#endif
