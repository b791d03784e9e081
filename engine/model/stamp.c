/*
 * stamp.c - tells one version of a model's files from another without opening them.
 */
#include "base/hash.h"
#include "llm.h"
#include "model/gguf.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SUFFIX_BYTES  20        /* "-00001-of-00002.gguf", see gguf_split.c */

static uint64_t
file_stamp(const char *name, const struct stat *st)
{
    const uint64_t facts[] = {
        st->st_dev, st->st_ino, (uint64_t) st->st_size,
        (uint64_t) st->st_mtim.tv_sec, (uint64_t) st->st_mtim.tv_nsec,
    };
    return llm_hash(llm_hash(LLM_HASH_START, name, strlen(name)), facts, sizeof(facts));
}

/* A sum does not depend on the order of the directory. */
static llm_code_t
dir_stamp(const char *path, uint64_t *sum, llm_err_t *err)
{
    DIR *dir = opendir(path);
    if (dir == NULL) {
        return llm_fail(err, LLM_E_IO, "%s: %s", path, strerror(errno));
    }
    const struct dirent *entry;
    struct stat st;
    while ((entry = readdir(dir)) != NULL) {
        if (fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 && S_ISREG(st.st_mode)) {
            *sum += file_stamp(entry->d_name, &st);
        }
    }
    closedir(dir);
    return LLM_OK;
}

/* Adds the other parts of "<prefix>-00001-of-00003.gguf"; a missing one adds nothing. */
static llm_code_t
parts_stamp(const char *path, uint64_t *sum, llm_err_t *err)
{
    unsigned no, count;
    char dot;
    const char *suffix = strlen(path) > SUFFIX_BYTES ? path + strlen(path) - SUFFIX_BYTES : "";
    if (sscanf(suffix, "-%5u-of-%5u%c", &no, &count, &dot) != 3 || dot != '.'
        || count > LLM_GGUF_MAX_PARTS)
    {
        return LLM_OK;
    }
    char *name = strdup(path);
    if (name == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory", path);
    }
    for (unsigned i = 1; i <= count; i++) {
        struct stat st;
        snprintf(name + (suffix - path), SUFFIX_BYTES + 1, "-%05u-of-%05u.gguf", i, count);
        if (i != no && stat(name, &st) == 0) {
            *sum += file_stamp(name, &st);
        }
    }
    free(name);
    return LLM_OK;
}

llm_code_t
llm_model_stamp(const char *path, uint64_t *stamp, llm_err_t *err)
{
    struct stat st;
    *stamp = 0;
    if (stat(path, &st) != 0) {
        return llm_fail(err, LLM_E_IO, "%s: %s", path, strerror(errno));
    }
    if (S_ISDIR(st.st_mode)) {
        return dir_stamp(path, stamp, err);
    }
    *stamp = file_stamp(path, &st);
    return parts_stamp(path, stamp, err);
}
