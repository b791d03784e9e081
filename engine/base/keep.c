/*
 * keep.c - files that outlive the process (keep.h).
 */
#define _GNU_SOURCE     /* fallocate, mkostemp */
#include "base/keep.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define KEY_DIGITS  16
#define TMP_LETTERS 6                       /* of mkostemp */
#define DAY         ((time_t) 24 * 60 * 60)
#define WRITE_BYTES ((size_t) 8 << 20)      /* at once */

char *
llm_keep_path(const char *dir, const char *what, uint64_t key)
{
    char *path;
    return asprintf(&path, "%s/%s-%016llx.llm", dir, what, (unsigned long long) key) < 0 ? NULL
                                                                                         : path;
}

llm_code_t
llm_keep_begin(llm_keep_t *k, const char *path, uint64_t bytes, llm_err_t *err)
{
    *k = (llm_keep_t) { .fd = -1, .path = strdup(path) };
    if (k->path == NULL || asprintf(&k->tmp, "%s.XXXXXX", path) < 0) {
        free(k->path);
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory", path);
    }
    k->fd = mkostemp(k->tmp, O_CLOEXEC);        /* mode 0600 */
    if (k->fd < 0) {
        llm_fail(err, LLM_E_IO, "%s: %s", k->tmp, strerror(errno));
        free(k->tmp);
        free(k->path);
        return LLM_E_IO;
    }
    if (fallocate(k->fd, 0, 0, (off_t) bytes) != 0 && errno != EOPNOTSUPP && errno != ENOSYS) {
        llm_fail(err, LLM_E_IO, "%s: %llu bytes: %s", k->tmp, (unsigned long long) bytes,
                 strerror(errno));
        return llm_keep_end(k, LLM_E_IO, NULL);
    }
    return LLM_OK;
}

llm_code_t
llm_keep_write(llm_keep_t *k, const void *data, size_t n, uint64_t off, llm_err_t *err)
{
    const uint8_t *p = data;
    while (n > 0) {
        ssize_t put = pwrite(k->fd, p, n < WRITE_BYTES ? n : WRITE_BYTES, (off_t) off);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put < 0) {
            return llm_fail(err, LLM_E_IO, "%s: write of %zu bytes at %llu failed: %s", k->tmp, n,
                            (unsigned long long) off, strerror(errno));
        }
        p += put;
        n -= (size_t) put;
        off += (uint64_t) put;
    }
    return LLM_OK;
}

/* The entry of the path in its folder is on the disk; a crash before costs the file, no more. */
static void
sync_dir(const char *path)
{
    char *dir = strdup(path), *slash = dir != NULL ? strrchr(dir, '/') : NULL;
    if (slash != NULL) {
        *slash = '\0';
        int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0) {
            (void) fsync(fd);
            close(fd);
        }
    }
    free(dir);
}

llm_code_t
llm_keep_end(llm_keep_t *k, llm_code_t rc, llm_err_t *err)
{
    bool failed = false;
    if (rc == LLM_OK) {
        failed = fsync(k->fd) != 0 || rename(k->tmp, k->path) != 0;
        if (failed) {
            rc = llm_fail(err, LLM_E_IO, "%s: %s", k->path, strerror(errno));
        } else {
            sync_dir(k->path);
        }
    }
    if (rc != LLM_OK) {
        unlink(k->tmp);
    }
    close(k->fd);
    free(k->tmp);
    free(k->path);
    return rc;
}

void
llm_keep_touch(int fd)
{
    (void) futimens(fd, NULL);
}

/* Whether the name is one of ours; *tmp: of a file that is being written. */
static bool
is_ours(const char *name, bool *tmp)
{
    const char *key = strchr(name, '-');
    if (key == NULL || strspn(key + 1, "0123456789abcdef") != KEY_DIGITS
        || ((key - name != 7 || memcmp(name, "weights", 7) != 0)
            && (key - name != 2 || memcmp(name, "kv", 2) != 0)))
    {
        return false;
    }
    const char *end = key + 1 + KEY_DIGITS;
    if (strncmp(end, ".llm", 4) != 0) {
        return false;
    }
    *tmp = end[4] == '.' && strlen(end + 5) == TMP_LETTERS;
    return *tmp || end[4] == '\0';
}

void
llm_keep_prune(const char *dir)
{
    DIR *d = opendir(dir);
    if (d == NULL) {
        return;
    }
    time_t now = time(NULL);
    const struct dirent *entry;
    while ((entry = readdir(d)) != NULL) {
        struct stat st;
        bool tmp;
        if (is_ours(entry->d_name, &tmp)
            && fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0
            && S_ISREG(st.st_mode) && now - st.st_mtime > (tmp ? 1 : LLM_KEEP_DAYS) * DAY)
        {
            (void) unlinkat(dirfd(d), entry->d_name, 0);
        }
    }
    closedir(d);
}
