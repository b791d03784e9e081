/*
 * zip.h - the directory of a zip file whose entries are stored, not compressed, as torch.save
 * writes them.
 */
#ifndef LLM_ZIP_H
#define LLM_ZIP_H

#include "model/ckpt_impl.h"

#define LLM_ZIP_MAX_DIRECTORY ((uint64_t) 64 << 20)     /* bytes; some 80 an entry */

typedef struct {
    const char *name;           /* len bytes, not NUL-terminated */
    size_t      len;
    uint64_t    start;          /* of the entry's header in the file */
    uint64_t    offset, size;   /* of its bytes; checked to lie inside the file */
} llm_zip_entry_t;

typedef struct {
    uint8_t         *dir;       /* the central directory; names point into it */
    llm_zip_entry_t *entries;   /* sorted by name */
    size_t           n;
} llm_zip_t;

/*
 * Reads and checks the directory: every entry lies in the file, none overlaps another, names are
 * unique, zip64 sizes are followed. On failure *z needs no release.
 * Errors: IO, FORMAT, UNSUPPORTED (compressed, encrypted, several disks), NOMEM.
 * Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 to 4.5.
 */
llm_code_t llm_zip_read(llm_zip_t *z, const llm_ckpt_file_t *f, llm_err_t *err);
void llm_zip_free(llm_zip_t *z);
/* NULL when absent. */
const llm_zip_entry_t *llm_zip_find(const llm_zip_t *z, const char *name, size_t len);

#endif
