/*
 * store.h - where packed weights lie: private memory, or a file that later starts map.
 *
 * The file (weights-KEY.llm, base/keep.h) is a header and, from LLM_HUGE_PAGE on, the mapping as
 * repack.c fills it. KEY stands for everything that decides its bytes: the stamp of the model's
 * files, what the plan makes of them, this version, and how it packs and rounds a sample of each
 * format. So a file with the right header is right, whoever wrote it.
 * llm_model_keep of llm.h writes it.
 */
#ifndef LLM_STORE_H
#define LLM_STORE_H

#include "base/cpu.h"
#include "model/bind.h"

/* Anonymous memory that starts at a huge page, size a multiple of it; NULL on failure. */
void *llm_store_alloc(size_t size);

/* m->key = the stamp of the files, before they are opened. */
void llm_store_stamp(llm_model_t *m, const llm_model_conf_t *conf);
/*
 * m->key becomes the key. Then m->weights becomes m->weights_bytes of the file with that key, read
 * only; false: there is none, m->weights is NULL.
 */
bool llm_store_map(llm_model_t *m, const llm_plan_t *plan, const llm_model_conf_t *conf);

#endif
