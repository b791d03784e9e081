/*
 * llm.h - the public interface of the engine.
 *
 * The only engine header that programs outside engine/ may include (the nginx glue and the `llm`
 * program do). The engine knows nothing of nginx or Lua; it never prints, logs, exits or aborts on
 * input: every function that can fail returns an llm_code_t and fills an llm_err_t with one line
 * that names what, where and both values.
 *
 * Life of a model:   llm_model_open -> llm_engine_new (both in the process that forks)
 *                    -> fork -> llm_engine_join in each worker -> llm_job_* -> llm_engine_leave
 *
 * Threads: unless a function says otherwise it may be called from any thread of any process, but
 * not concurrently on the same object.
 */
#ifndef LLM_H
#define LLM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LLM_VERSION "0.1.0"

/* ------------------------------------------------------------------ errors */

typedef enum {
    LLM_OK = 0,
    LLM_E_ARG,          /* a request asks for something outside its limits */
    LLM_E_FORMAT,       /* a file is malformed */
    /* a file or request is well formed but asks for what this version does not do */
    LLM_E_UNSUPPORTED,
    LLM_E_IO,           /* the system could not open, read or map something */
    LLM_E_NOMEM,        /* an allocation failed */
    LLM_E_BUSY,         /* no free slot; try again later */
    LLM_E_TEMPLATE,     /* a chat template failed */
    LLM_E_ENGINE,       /* the engine failed while it generated */
    LLM_E_CANCEL        /* the job was closed by its owner */
} llm_code_t;

typedef struct {
    llm_code_t code;
    char       msg[500];        /* one line, no newline, never truncated inside a UTF-8 sequence */
} llm_err_t;

/*
 * Fills *err (which may be NULL) and returns code, so that `return llm_fail(err, LLM_E_ARG, ...)`
 * reads well.
 */
llm_code_t llm_fail(llm_err_t *err, llm_code_t code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* "LLM_E_ARG" ...; static storage. */
const char *llm_code_name(llm_code_t code);

/* ------------------------------------------------------------------- model */

typedef struct llm_model llm_model_t;

typedef struct {
    const char *weights;        /* path of a GGUF file or of a Hugging Face directory */
    /* read and check all metadata and tensor headers, load no weights (nginx -t) */
    bool        check_only;
    /* Called now and then while weights are packed; may be NULL. done reaches total at the end. */
    void      (*progress)(void *ctx, size_t done_bytes, size_t total_bytes);
    void       *progress_ctx;
    /*
     * NULL, or a number format ("q8_0", "q4_k", ...) into which matrices of floats are rounded
     * while they are packed: the embedding and the output matrix into Q8_0, routers not at all.
     * Matrices that are quantized in the file are left alone. Unknown formats: ARG.
     */
    const char *quantize;
    /*
     * NULL, or a folder that only we write to: weights that llm_model_keep left there are mapped,
     * read only, instead of read and packed, when nothing has changed since.
     */
    const char *cache_dir;
    /* Called with progress_ctx and the reason why kept weights are not used; may be NULL. */
    void      (*unused)(void *ctx, const char *reason);
} llm_model_conf_t;

typedef struct {
    const char *arch;           /* "llama", ... as the file names it: model_type of a directory */
    const char *name;           /* general.name, or the base name of the file or directory */
    const char *license;        /* "" when the file does not say */
    const char *type_name;      /* of most weight bytes, as loaded: "Q4_1", "BF16", "GPTQ" */
    const char *chat_template;  /* Jinja text or NULL */
    const char *bos_token;      /* text of the token, "" when there is none */
    const char *eos_token;
    uint64_t    n_params;
    size_t      file_bytes;
    size_t      weight_bytes;   /* packed weights in memory */
    bool        mapped;         /* from cache_dir */
    uint32_t    n_ctx_train, n_vocab, n_layers, n_embd, n_heads, n_kv_heads, head_dim;
    int32_t     bos_id, eos_id; /* -1 when there is none */
    bool        add_bos;        /* the tokenizer adds it where specials are added */
    /*
     * Fill in the middle: fim_pre, the text before, fim_suf, the text after, fim_mid, tokenized
     * with LLM_TOK_PARSE_SPECIAL. "": the model cannot.
     */
    const char *fim_pre, *fim_suf, *fim_mid;
} llm_model_info_t;

/*
 * Opens and checks a model. With check_only no weights are read and the result is good for
 * llm_model_info, llm_model_kv_bytes and the tokenizer. Otherwise weights are packed into private
 * anonymous memory, shared by forks as long as nobody writes to it, or mapped from cache_dir. The
 * file may be replaced (by rename) afterwards. Errors: IO, FORMAT, UNSUPPORTED, NOMEM; *out is NULL
 * then.   Threads that it starts have ended when it returns: safe in a process that will fork.
 */
llm_code_t llm_model_open(llm_model_t **out, const llm_model_conf_t *conf, llm_err_t *err);
void llm_model_close(llm_model_t *m);
/*
 * Writes the packed weights into that folder, in about the time that its disk needs for them, and
 * removes files of ours there that nobody has used for 30 days. Errors: IO, NOMEM; ARG: the model's
 * files changed while it was opened, or it was opened with check_only. Nothing is left behind then.
 */
llm_code_t llm_model_keep(const llm_model_t *m, const char *cache_dir, llm_err_t *err);
const llm_model_info_t *llm_model_info(const llm_model_t *m);
/*
 * A number that changes when a file of the model does: of names, devices, inodes, sizes and times
 * of change of the file, of the other parts of a split, of all files in a directory. Opens nothing
 * but the directory. Errors: IO, NOMEM.
 */
llm_code_t llm_model_stamp(const char *path, uint64_t *stamp, llm_err_t *err);
/*
 * Whether this CPU runs the set of kernels of that name (NULL: of LLM_KERN in the environment). No
 * name stands for the best set. llm_model_open asks. Errors: ARG, with the names of those it runs.
 */
llm_code_t llm_kern_check(const char *name, llm_err_t *err);
/* Whether llm_model_conf_t.quantize may have this value. */
bool llm_model_can_quantize(const char *format);

/* Formats of the KV cache; q8_0: 8 bits a value and a scale for 32 of them. */
typedef enum { LLM_KV_F32, LLM_KV_F16, LLM_KV_Q8_0, LLM_KV_COUNT } llm_kv_type_t;

/* "f32", "f16", "q8_0" and back. False: no such name. */
const char *llm_kv_name(llm_kv_type_t type);
bool llm_kv_by_name(const char *name, llm_kv_type_t *out);

/* Bytes that one token of context costs in the KV cache. */
size_t llm_model_kv_bytes(const llm_model_t *m, llm_kv_type_t type);

/* --------------------------------------------------------------- tokenizer */

enum {
    LLM_TOK_ADD_SPECIAL = 1,    /* add BOS/EOS as the model's post-processor says */
    LLM_TOK_PARSE_SPECIAL = 2   /* recognise control tokens written in the text */
};

typedef struct {
    int32_t  *ids;
    /* byte range of each token in the text; start == stop == 0 for added specials */
    uint32_t *start, *stop;
    size_t    n;
} llm_tokens_t;

/*
 * Tokenizes len bytes of UTF-8 (malformed bytes are treated as U+FFFD). out is filled with memory
 * that llm_tokens_free releases; it is zeroed on failure. Time is O(len log len). Thread: any,
 * concurrently too. What the vocabulary cannot express becomes its unknown token or, where it has
 * none, is left out: as the model was trained. Errors: NOMEM; ARG (over 1 GiB); UNSUPPORTED (a
 * Unigram model without an unknown token needs one).
 */
llm_code_t llm_tokenize(const llm_model_t *m, const char *text, size_t len, unsigned flags,
                        llm_tokens_t *out, llm_err_t *err);
void llm_tokens_free(llm_tokens_t *t);

/*
 * The literal text of one id, decoded alone, into buf (cut at cap); returns its length. Unknown ids
 * give 0.
 */
size_t llm_token_text(const llm_model_t *m, int32_t id, char *buf, size_t cap);
/*
 * The bytes that an id adds to a text in which it is not the first token, borrowed; not always
 * whole characters. Unknown ids: NULL, *len is 0.
 */
const char *llm_token_bytes(const llm_model_t *m, int32_t id, size_t *len);
bool llm_token_is_special(const llm_model_t *m, int32_t id);
bool llm_token_is_eos(const llm_model_t *m, int32_t id);
/* The id of a control or ordinary token with exactly this text, or -1. O(vocabulary). */
int32_t llm_token_find(const llm_model_t *m, const char *text, size_t len);

/*
 * Incremental detokenizer: never emits part of a UTF-8 sequence (spec models.md 8.5).
 * push/flush: *text is borrowed until the next call on the same object; *len may be 0 (held back).
 */
typedef struct llm_detok llm_detok_t;
enum { LLM_DETOK_SKIP_SPECIAL = 1 };
llm_code_t llm_detok_new(llm_detok_t **out, const llm_model_t *m, unsigned flags, llm_err_t *err);
void llm_detok_free(llm_detok_t *d);
/*
 * Context in front of the text to come (the last prompt tokens): decides leading spaces, emits
 * nothing.
 */
llm_code_t llm_detok_prime(llm_detok_t *d, const int32_t *ids, size_t n, llm_err_t *err);
llm_code_t llm_detok_push(llm_detok_t *d, int32_t id, const char **text, size_t *len,
                          llm_err_t *err);
llm_code_t llm_detok_flush(llm_detok_t *d, const char **text, size_t *len, llm_err_t *err);

/* ------------------------------------------------------------------ engine */

typedef struct llm_engine llm_engine_t;

typedef struct {
    /* most tokens of one sequence, prompt and output together; 0: the model's */
    uint32_t      n_ctx;
    llm_kv_type_t kv_type;
    /* KV cache; must hold at least one sequence of n_ctx tokens; 0: enough for 4 */
    size_t        kv_bytes;
    /* jobs that may exist at once, waiting or running; 1..4096; 0: 128 */
    uint32_t      n_slots;
    uint32_t      n_parallel;   /* sequences in one step; 0: 64 */
    uint32_t      n_threads;    /* compute threads of the leader; 0: one for each core */
    uint32_t      max_top;      /* most alternatives reported for a token (top_n_tokens); 0: 20 */
    /*
     * Speculation: most tokens that are copied from an earlier place of the sequence, or that a
     * constraint leaves no choice of, and checked in the step that makes the next one, 0..16; 0:
     * off. The tokens of a job are the same with and without, bit for bit, in fewer steps.
     */
    uint32_t      speculate;
    /*
     * A second model that drafts where nothing can be copied, and how many tokens it may draft for
     * a step, 1..16. The tokens of a job are the same with and without here too. Borrowed: the
     * model must live as long as the engine. NULL: none, and in llm_engine_conf. llm_draft_check
     * says what is allowed.
     */
    const llm_model_t *draft;
    uint32_t      n_draft;
} llm_engine_conf_t;

/*
 * Whether draft can draft for m: both are decoders alone, and have the same vocabulary but for a
 * few ids at its end. Sequences longer than the context of draft go on without it. Both may have
 * been opened with check_only. Errors: UNSUPPORTED, with the reason.
 */
llm_code_t llm_draft_check(const llm_model_t *m, const llm_model_t *draft, llm_err_t *err);

/*
 * Makes the shared arena (anonymous shared memory with the slots, KV pages and worker records) and
 * the event descriptors of the workers. Call in the process that forks; *conf is copied with its
 * zeros resolved. Errors: ARG (a setting out of range, kv_bytes too small: the message says what is
 * needed), NOMEM, IO.
 */
llm_code_t llm_engine_new(llm_engine_t **out, const llm_model_t *m, const llm_engine_conf_t *conf,
                          llm_err_t *err);
/*
 * Unmaps the arena and closes the descriptors in this process: for the process that called
 * llm_engine_new or a child of it (a daemon) that did not join. A no-op after a join, unless the
 * engine thread could be joined when the worker left.
 */
void llm_engine_free(llm_engine_t *e);
const llm_engine_conf_t *llm_engine_conf(const llm_engine_t *e);

/*
 * In a worker: claims a worker record and starts the engine thread, which competes for leadership.
 * *wake_fd becomes readable when a job of this worker has made progress: read 8 bytes, then poll
 * the jobs. The engine thread touches nothing outside the engine. Signals are blocked in it.
 * The calling thread, an event loop, gets the shortest time slice where the kernel has such.
 * Errors: BUSY (too many live workers), NOMEM, IO.
 */
llm_code_t llm_engine_join(llm_engine_t *e, int *wake_fd, llm_err_t *err);
/* This worker is quitting: lead only while no other worker can. Jobs of this worker go on. */
void llm_engine_drain(llm_engine_t *e);
/*
 * Stops leading (between two steps) and gives the worker record back. Open jobs of this worker are
 * dropped.
 */
void llm_engine_leave(llm_engine_t *e);

/*
 * Where drafts come from: an earlier place of the sequence, the draft model, or a grammar that
 * leaves no choice.
 */
enum { LLM_DRAFT_LOOKUP, LLM_DRAFT_MODEL, LLM_DRAFT_GRAMMAR, LLM_DRAFT_KINDS };

typedef struct {
    uint32_t n_waiting, n_running, n_slots, n_workers;
    uint32_t n_used;                    /* slots that a new job cannot have just now */
    uint32_t pages_total, pages_free, pages_cached, page_tokens;
    uint64_t n_steps, n_prefill_tokens, n_cached_tokens, n_decode_tokens, n_preemptions,
        n_takeovers;
    uint64_t prefill_ns, decode_ns;     /* time of steps with and without prompt tokens */
    /* drafts that were checked, and of these kept */
    uint64_t n_drafted[LLM_DRAFT_KINDS], n_kept[LLM_DRAFT_KINDS];
    int32_t  leader_pid;                /* 0: none just now */
    uint64_t last_step_age_ms;          /* since the leader last showed a sign of life */
} llm_stats_t;

/* Pages of the prefix cache that went into a file or came from it. */
typedef struct {
    uint32_t n_pages;
    uint32_t n_damaged;     /* pages of the file that were not sound, and left out */
} llm_kept_t;

/*
 * Writes the prefix cache into cache_dir, the pages used last, at most max_bytes of them: for the
 * process that called llm_engine_new, after every worker has left or died. When there is nothing to
 * write, the file of before stays. The file has the prompts and outputs of users in it (mode 0600).
 * Errors: IO, NOMEM; ARG as in llm_model_keep. Nothing is left behind then.
 */
llm_code_t llm_engine_keep(const llm_engine_t *e, const char *cache_dir, size_t max_bytes,
                           llm_kept_t *out, llm_err_t *err);
/*
 * Takes what llm_engine_keep left there into a new engine that nobody has joined: the pages used
 * last, as many as fit, if the weights, the format of the KV cache and this version are the same.
 * No file is LLM_OK. Errors: FORMAT, IO, NOMEM, ARG; the engine is as new then.
 */
llm_code_t llm_engine_restore(llm_engine_t *e, const char *cache_dir, llm_kept_t *out,
                              llm_err_t *err);

/* Thread: any; no locks; the numbers may be of slightly different moments. */
void llm_engine_stats(const llm_engine_t *e, llm_stats_t *out);

/* ------------------------------------------------------ constrained output */

typedef struct llm_constraint llm_constraint_t;

typedef enum {
    LLM_CONSTRAIN_REGEX,        /* the whole output matches */
    LLM_CONSTRAIN_SCHEMA,       /* JSON text of a JSON schema */
    LLM_CONSTRAIN_OBJECT,       /* any JSON object; no text */
    LLM_CONSTRAIN_GBNF,
    /* free text and calls of functions, described by a JSON object (run/grammar.h) */
    LLM_CONSTRAIN_CALLS
} llm_constraint_kind_t;

/*
 * Compiles len bytes of text. Bounded by counted work to about 0.3 s and 64 MiB, so call it in a
 * thread that may take that long. The process keeps the results of its last calls by content (at
 * most 64 of 32 MiB together): the same text again costs a hash. *out is reference counted, belongs
 * to the caller, and may outlive the engine. The trie of the vocabulary that constraints need is
 * made by llm_engine_new, so processes share it.
 * Errors: ARG "grammar is not valid: <reason>", NOMEM; *out is NULL then.   Thread: any,
 * concurrently too.
 */
llm_code_t llm_constraint_new(llm_constraint_t **out, llm_engine_t *e, llm_constraint_kind_t kind,
                              const char *text, size_t len, llm_err_t *err);
/* NULL is allowed.   Thread: any, concurrently too. */
void llm_constraint_free(llm_constraint_t *c);

/* -------------------------------------------------------------------- jobs */

typedef struct { int32_t id; float bias; } llm_bias_t;

#define LLM_MAX_BIAS 300

/* Neutral values switch a stage off. Formulas and order: spec http-api.md section 6. */
typedef struct {
    bool     sample;                /* false: arg-max */
    uint64_t seed;
    float    temperature;           /* 1 */
    uint32_t top_k;                 /* 0 */
    float    top_p, typical_p;      /* 1 */
    float    min_p;                 /* 0 */
    float    repetition_penalty;    /* 1 */
    float    frequency_penalty;     /* 0 */
    float    presence_penalty;      /* 0 */
    /* frequency: count over output tokens, instead of TGI's count/length over all */
    bool     openai_penalties;
    bool     ignore_eos;
    uint32_t min_tokens;            /* EOS is banned before this many output tokens */
    uint32_t n_bias;
    const llm_bias_t *bias;         /* copied at submit */
    /* green list of http-api.md 6.2: part of the vocabulary and what is added; delta 0: none */
    float    watermark_gamma, watermark_delta;
} llm_sampling_t;

/* All fields neutral, arg-max. */
void llm_sampling_init(llm_sampling_t *s);

typedef enum { LLM_EMBED_NONE = 0, LLM_EMBED_MEAN, LLM_EMBED_LAST } llm_pooling_t;

typedef struct {
    const int32_t *tokens;          /* copied at submit; every id < n_vocab */
    uint32_t       n_tokens;        /* 1 .. n_ctx - 1 (n_ctx when max_new is 0) */
    uint32_t       max_new;         /* 0: score the prompt only; capped to n_ctx - n_tokens */
    llm_sampling_t sampling;
    /* log-probability of every prompt token; gives up prefix reuse */
    bool           prompt_logprobs;
    uint32_t       n_top;           /* alternatives to report for each token, <= max_top */
    /* alternatives from the raw logits instead of the processed ones */
    bool           top_raw;
    /* what the output must be, copied at submit; NULL: anything */
    const llm_constraint_t *constraint;
    /* the job computes an embedding of the prompt and generates nothing: max_new must be 0 */
    llm_pooling_t  embed;
} llm_job_conf_t;

/* A handle; plain data owned by the caller. Valid from llm_job_submit to llm_job_close. */
typedef struct {
    llm_engine_t *engine;
    uint32_t      slot;
    uint32_t      generation;
} llm_job_t;

typedef enum {
    LLM_FINISH_NONE = 0,
    LLM_FINISH_LENGTH,
    LLM_FINISH_EOS,
    LLM_FINISH_ERROR
} llm_finish_t;

typedef struct {
    uint32_t     n_new;         /* output tokens that can be read now */
    bool         done;          /* no more will come */
    llm_finish_t finish;
    uint32_t     n_prompt;      /* prompt tokens */
    uint32_t     n_cached;      /* of these, taken from the prefix cache */
    uint64_t     queued_ns, started_ns, first_ns, last_ns;  /* CLOCK_MONOTONIC; 0: not yet */
} llm_job_view_t;

typedef struct { int32_t id; float logprob; } llm_top_t;

typedef struct {
    int32_t  id;
    /* log-softmax of the processed logits (TGI); for prompt tokens raw; NAN: none */
    float    logprob;
    float    raw_logprob;       /* log-softmax of the raw logits (OpenAI) */
    uint32_t n_top;
    const llm_top_t *top;       /* borrowed, valid until llm_job_close; best first */
} llm_job_token_t;

/*
 * Queues a job. Lock-free, O(n_tokens), never waits; a constraint that no other job has just now is
 * copied, O(its bytes). Errors: BUSY (no free slot; more than 256 constraints, or 64 MiB of them,
 * in use at once), ARG (a field out of range; the message names it).
 */
llm_code_t llm_job_submit(llm_engine_t *e, const llm_job_conf_t *conf, llm_job_t *job,
                          llm_err_t *err);
/* What can be read now; lock-free. */
void llm_job_poll(const llm_job_t *job, llm_job_view_t *view);
/* Token i of the sequence: 0..n_prompt-1 are prompt tokens, then the n_new output tokens. */
void llm_job_token(const llm_job_t *job, uint32_t i, llm_job_token_t *out);
/*
 * The embedding of a job that asked for one: n_embd floats, the pooled hidden states after the
 * final norm, not normalised. Borrowed until llm_job_close. NULL: there is none, or not yet.
 */
const float *llm_job_embedding(const llm_job_t *job, uint32_t *n);
/*
 * Ends the job: a running one is cancelled within one step. The handle is dead afterwards.
 * Idempotent.
 */
void llm_job_close(llm_job_t *job);

#endif
