/*
 * file.c - reading of regular files (see file.h).
 */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

llm_code_t
llm_file_open(int *out, uint64_t *size, const char *path, llm_err_t *err)
{
    struct stat st;
    *out = -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0) {
        llm_fail(err, LLM_E_IO, "%s: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        llm_fail(err, LLM_E_IO, "%s: %s", path,
                 S_ISDIR(st.st_mode) ? "is a directory" : "is not a regular file");
    } else {
        *out = fd;
        *size = (uint64_t) st.st_size;
        return LLM_OK;
    }
    if (fd >= 0) {
        close(fd);
    }
    return LLM_E_IO;
}

llm_code_t
llm_file_pread(int fd, const char *path, void *dst, size_t n, uint64_t off, llm_err_t *err)
{
    uint8_t *p = dst;
    while (n > 0) {
        ssize_t got = pread(fd, p, n, (off_t) off);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return llm_fail(err, LLM_E_IO, "%s: read of %zu bytes at %llu failed: %s", path, n,
                            (unsigned long long) off, strerror(errno));
        }
        if (got == 0) {
            return llm_fail(err, LLM_E_IO, "%s: the file became shorter while it was read: %zu "
                            "bytes missing at %llu", path, n, (unsigned long long) off);
        }
        p += got;
        n -= (size_t) got;
        off += (uint64_t) got;
    }
    return LLM_OK;
}

/* The size bytes of an open file in fresh memory. */
static llm_code_t
read_whole(char **text, int fd, uint64_t size, const char *path, llm_err_t *err)
{
    char *buf = malloc((size_t) size + 1);
    if (buf == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %llu bytes", path,
                        (unsigned long long) size);
    }
    llm_code_t rc = llm_file_pread(fd, path, buf, (size_t) size, 0, err);
    if (rc != LLM_OK) {
        free(buf);
        return rc;
    }
    buf[size] = '\0';
    *text = buf;
    return LLM_OK;
}

llm_code_t
llm_file_read(char **text, size_t *len, const char *path, size_t max_bytes, bool optional,
              llm_err_t *err)
{
    int fd;
    uint64_t size;
    *text = NULL;
    *len = 0;
    if (optional && access(path, F_OK) != 0 && errno == ENOENT) {
        return LLM_OK;
    }
    llm_code_t rc = llm_file_open(&fd, &size, path, err);
    if (rc != LLM_OK) {
        return rc;
    }
    rc = size > max_bytes
         ? llm_fail(err, LLM_E_FORMAT, "%s: %llu bytes, at most %zu are read", path,
                    (unsigned long long) size, max_bytes)
         : read_whole(text, fd, size, path, err);
    *len = rc == LLM_OK ? (size_t) size : 0;
    close(fd);
    return rc;
}
