/*
 * pickle.h - the tensors that a pickle of torch.save describes, without running it.
 *
 * A pickle is a program. This machine knows only the instructions that build texts, numbers, tuples
 * and dictionaries, and of all callables only those that name a tensor in a storage; anything else
 * is refused by its name. Nothing recurses, and time and memory are linear in the pickle's size.
 */
#ifndef LLM_PICKLE_H
#define LLM_PICKLE_H

#include "model/ckpt_impl.h"

#define LLM_PICKLE_MAX_BYTES  ((uint64_t) 64 << 20)
#define LLM_PICKLE_MAX_VALUES ((uint32_t) 1 << 22)  /* a tensor takes about 25 */
#define LLM_PICKLE_MAX_STACK  ((uint32_t) 1 << 16)

/* As the pickle says it: nothing is checked against the storage yet. */
typedef struct {
    const char *name;           /* its key in the dictionary: name_len bytes of UTF-8 */
    size_t      name_len;
    llm_dtype_t dtype;
    const char *storage;        /* key of the storage, storage_len bytes */
    size_t      storage_len;
    uint64_t    storage_n;      /* values in the storage */
    uint64_t    first;          /* value of the storage with which the tensor starts */
    uint32_t    n_dims;
    uint64_t    dim[LLM_CKPT_MAX_DIMS], stride[LLM_CKPT_MAX_DIMS];
} llm_pickle_tensor_t;

typedef llm_code_t (*llm_pickle_fn)(void *ctx, const llm_pickle_tensor_t *t, llm_err_t *err);

/*
 * Calls fn for each tensor in the dictionary that the pickle makes, in the order in which they were
 * put there; values that are no tensors are passed over. path names the file in messages. Stops at
 * the first error, also of fn.
 * Errors: FORMAT, UNSUPPORTED (an instruction or a callable, by name), NOMEM.
 * Source: Python's pickletools (protocols 2 to 5), torch 2.13 torch/_utils.py.
 */
llm_code_t llm_pickle_tensors(const char *path, const uint8_t *data, size_t n, llm_pickle_fn fn,
                              void *ctx, llm_err_t *err);

#endif
