/*
 * unicode_late.h - corrections of the character properties of utf8proc; only unicode.c uses them.
 */
#ifndef LLM_UNICODE_LATE_H
#define LLM_UNICODE_LATE_H

#include "base/unicode.h"

/* Changes flags [LLM_UC_MAX] (LLM_UC_*, by utf8proc) to what the reference goes by. */
void llm_uc_late_flags(uint16_t *flags);

/* True for marks that the reference's normalizers take for starters. */
bool llm_uc_late_mark(uint32_t cp);

/* True for characters whose compatibility decomposition the reference does not know. */
bool llm_uc_late_compat(uint32_t cp);

#endif
