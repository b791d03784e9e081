/*
 * ckpt.c - opens the files of a Hugging Face checkpoint and finds their tensors.
 *
 * Owns: the descriptors of the open files and the table of tensors, sorted by name. The formats of
 * single files are read by safetensors.c and pickle.c.
 */
#include "model/ckpt_impl.h"
#include "base/file.h"
#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_SHARD_NAME 255
#define SHOWN_NAME     63       /* bytes of a name in a message */

typedef llm_code_t (*read_fn)(llm_ckpt_t *c, llm_err_t *err);

const llm_dtype_info_t *
llm_dtype(llm_dtype_t t)
{
    static const llm_dtype_info_t info[LLM_DT_COUNT] = {
        [LLM_DT_F64] = { "F64", 8 }, [LLM_DT_F32] = { "F32", 4 }, [LLM_DT_F16] = { "F16", 2 },
        [LLM_DT_BF16] = { "BF16", 2 }, [LLM_DT_I64] = { "I64", 8 }, [LLM_DT_I32] = { "I32", 4 },
        [LLM_DT_I16] = { "I16", 2 }, [LLM_DT_I8] = { "I8", 1 }, [LLM_DT_U64] = { "U64", 8 },
        [LLM_DT_U32] = { "U32", 4 }, [LLM_DT_U16] = { "U16", 2 }, [LLM_DT_U8] = { "U8", 1 },
        [LLM_DT_BOOL] = { "BOOL", 1 }, [LLM_DT_F8_E4M3] = { "F8_E4M3", 1 },
        [LLM_DT_F8_E5M2] = { "F8_E5M2", 1 },
    };
    return &info[t];
}

/* ------------------------------------------------------------------- files */

llm_code_t
llm_ckpt_add_file(llm_ckpt_t *c, const char *path, llm_err_t *err)
{
    if (c->n_files == LLM_CKPT_MAX_FILES) {
        return llm_fail(err, LLM_E_UNSUPPORTED, "%s: a checkpoint of more than %d files", path,
                        LLM_CKPT_MAX_FILES);
    }
    llm_ckpt_file_t *files = realloc(c->files, (c->n_files + 1) * sizeof(*files));
    char *copy = files != NULL ? strdup(path) : NULL;
    c->files = files != NULL ? files : c->files;
    if (copy == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory", path);
    }
    llm_ckpt_file_t f = { .path = copy };
    llm_code_t rc = llm_file_open(&f.fd, &f.size, path, err);
    if (rc != LLM_OK) {
        free(copy);
        return rc;
    }
    c->files[c->n_files++] = f;
    c->bytes += f.size;
    return LLM_OK;
}

llm_code_t
llm_ckpt_pread(const llm_ckpt_file_t *f, void *dst, size_t n, uint64_t off, llm_err_t *err)
{
    return llm_file_pread(f->fd, f->path, dst, n, off, err);
}

/* ----------------------------------------------------------------- tensors */

bool
llm_ckpt_size(llm_ckpt_tensor_t *t)
{
    t->size = llm_dtype(t->dtype)->bytes;
    bool over = false, empty = false;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        empty |= t->dim[i] == 0;
        over |= __builtin_mul_overflow(t->size, t->dim[i] == 0 ? 1 : t->dim[i], &t->size);
    }
    t->size = empty ? 0 : t->size;
    return !over;
}

llm_code_t
llm_ckpt_add_tensor(llm_ckpt_t *c, const llm_ckpt_tensor_t *t, const char *name, size_t len,
                    llm_err_t *err)
{
    const char *path = c->files[t->file].path;
    if (memchr(name, '\0', len) != NULL) {
        return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%.*s\": NUL in its name", path, SHOWN_NAME,
                        name);
    }
    if (c->n_tensors == c->cap) {
        size_t cap = c->cap > 0 ? 2 * c->cap : 64;
        if (cap > LLM_CKPT_MAX_TENSORS) {
            return llm_fail(err, LLM_E_UNSUPPORTED, "%s: more than %zu tensors", path, c->cap);
        }
        llm_ckpt_tensor_t *more = realloc(c->tensors, cap * sizeof(*more));
        if (more == NULL) {
            return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %zu tensors", path, cap);
        }
        c->tensors = more;
        c->cap = cap;
    }
    char *copy = malloc(len + 1);
    if (copy == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for a name of %zu bytes", path, len);
    }
    memcpy(copy, name, len);
    copy[len] = '\0';
    c->tensors[c->n_tensors] = *t;
    c->tensors[c->n_tensors++].name = copy;
    return LLM_OK;
}

static int
by_name(const void *a, const void *b)
{
    return strcmp(((const llm_ckpt_tensor_t *) a)->name, ((const llm_ckpt_tensor_t *) b)->name);
}

/* Sorts the tensors of all files by name. */
static llm_code_t
index_names(llm_ckpt_t *c, llm_err_t *err)
{
    if (c->n_tensors > 0) {
        qsort(c->tensors, c->n_tensors, sizeof(*c->tensors), by_name);
    }
    for (size_t i = 1; i < c->n_tensors; i++) {
        const llm_ckpt_tensor_t *t = &c->tensors[i];
        if (strcmp(t[-1].name, t->name) == 0) {
            return llm_fail(err, LLM_E_FORMAT, "%s: duplicate tensor \"%.*s\"%s%s",
                            llm_ckpt_path(c, t), SHOWN_NAME, t->name,
                            t[-1].file != t->file ? ", also in " : "",
                            t[-1].file != t->file ? llm_ckpt_path(c, t - 1) : "");
        }
    }
    return LLM_OK;
}

/* -------------------------------------------------------------- directories */

static char *
join(const char *dir, const char *name)
{
    size_t n = strlen(dir), m = strlen(name);
    char *path = malloc(n + m + 2);
    if (path != NULL) {
        memcpy(path, dir, n);
        path[n] = '/';
        memcpy(path + n + 1, name, m + 1);
    }
    return path;
}

static bool
is_plain(const char *name, size_t len)
{
    return len > 0 && len <= MAX_SHARD_NAME && memchr(name, '/', len) == NULL
           && memchr(name, '\0', len) == NULL && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static int
by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* Names of the files of a weight map, each once and sorted; they are borrowed. */
static llm_code_t
shard_names(const char *path, json_t *map, const char **names, size_t *n, llm_err_t *err)
{
    const char *key;
    json_t *value;
    size_t total = 0;
    json_object_foreach(map, key, value) {
        const char *name = json_string_value(value);
        if (name == NULL || !is_plain(name, json_string_length(value))) {
            return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%.*s\" is in \"%.*s\", expected a "
                            "plain file name", path, SHOWN_NAME, key, SHOWN_NAME,
                            name != NULL ? name : "something that is no string");
        }
        names[total++] = name;
    }
    if (total > 0) {
        qsort(names, total, sizeof(*names), by_text);
    }
    *n = 0;
    for (size_t i = 0; i < total; i++) {
        if (*n == 0 || strcmp(names[*n - 1], names[i]) != 0) {
            names[(*n)++] = names[i];
        }
    }
    return LLM_OK;
}

/* Every tensor of the map is in the file that the map names. */
static llm_code_t
check_map(const llm_ckpt_t *c, const char *path, json_t *map, llm_err_t *err)
{
    const char *key;
    json_t *value;
    json_object_foreach(map, key, value) {
        const llm_ckpt_tensor_t *t = llm_ckpt_find(c, key);
        const char *file = t != NULL ? strrchr(llm_ckpt_path(c, t), '/') + 1 : NULL;
        if (t == NULL || strcmp(file, json_string_value(value)) != 0) {
            return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%.*s\" is not in \"%.*s\"", path,
                            SHOWN_NAME, key, SHOWN_NAME, json_string_value(value));
        }
    }
    return LLM_OK;
}

/* The shards that an index names. */
static llm_code_t
open_shards(llm_ckpt_t *c, const char *dir, const char *path, json_t *root, read_fn read,
            llm_err_t *err)
{
    json_t *map = json_object_get(root, "weight_map");
    size_t n = json_object_size(map);
    if (!json_is_object(map) || n == 0) {
        return llm_fail(err, LLM_E_FORMAT, "%s: \"weight_map\" is %s", path,
                        json_is_object(map) ? "empty" : "missing");
    }
    const char **names = malloc(n * sizeof(*names));
    if (names == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory for %zu names", path, n);
    }
    llm_code_t rc = shard_names(path, map, names, &n, err);
    for (size_t i = 0; i < n && rc == LLM_OK; i++) {
        char *file = join(dir, names[i]);
        rc = file == NULL ? llm_fail(err, LLM_E_NOMEM, "%s: no memory", path)
                          : llm_ckpt_add_file(c, file, err);
        if (rc == LLM_OK) {
            rc = read(c, err);
        }
        free(file);
    }
    free(names);
    if (rc == LLM_OK) {
        rc = index_names(c, err);
    }
    return rc == LLM_OK ? check_map(c, path, map, err) : rc;
}

/* One way in which a directory may keep its weights; *found false when the file is not there. */
static llm_code_t
try_file(llm_ckpt_t *c, const char *dir, const char *name, bool is_index, read_fn read,
         bool *found, llm_err_t *err)
{
    char *path = join(dir, name);
    if (path == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory", dir);
    }
    llm_code_t rc = LLM_OK;
    *found = access(path, F_OK) == 0;
    if (*found && is_index) {
        json_t *root;
        rc = llm_json_file(&root, path, LLM_CKPT_MAX_INDEX, false, err);
        if (rc == LLM_OK) {
            rc = open_shards(c, dir, path, root, read, err);
            json_decref(root);
        }
    } else if (*found) {
        rc = llm_ckpt_add_file(c, path, err);
        if (rc == LLM_OK) {
            rc = read(c, err);
        }
        if (rc == LLM_OK) {
            rc = index_names(c, err);
        }
    }
    free(path);
    return rc;
}

static llm_code_t
open_dir(llm_ckpt_t *c, const char *dir, llm_err_t *err)
{
    static const struct { const char *name; bool is_index; read_fn read; } ways[] = {
        { "model.safetensors.index.json", true, llm_safetensors_read },
        { "model.safetensors", false, llm_safetensors_read },
        { "pytorch_model.bin.index.json", true, llm_pytorch_read },
        { "pytorch_model.bin", false, llm_pytorch_read },
    };
    bool found = false;
    llm_code_t rc = LLM_OK;
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]) && rc == LLM_OK && !found; i++) {
        rc = try_file(c, dir, ways[i].name, ways[i].is_index, ways[i].read, &found, err);
    }
    return rc != LLM_OK || found ? rc
           : llm_fail(err, LLM_E_IO, "%s: has neither model.safetensors nor pytorch_model.bin",
                      dir);
}

llm_code_t
llm_ckpt_open(llm_ckpt_t **out, const char *path, llm_err_t *err)
{
    struct stat st;
    *out = NULL;
    llm_ckpt_t *c = calloc(1, sizeof(*c));
    if (c == NULL) {
        return llm_fail(err, LLM_E_NOMEM, "%s: no memory", path);
    }
    llm_code_t rc;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        rc = open_dir(c, path, err);
    } else {
        rc = llm_ckpt_add_file(c, path, err);
        if (rc == LLM_OK) {
            rc = llm_safetensors_read(c, err);
        }
        if (rc == LLM_OK) {
            rc = index_names(c, err);
        }
    }
    if (rc != LLM_OK) {
        llm_ckpt_close(c);
        return rc;
    }
    *out = c;
    return LLM_OK;
}

void
llm_ckpt_close(llm_ckpt_t *c)
{
    if (c == NULL) {
        return;
    }
    for (size_t i = 0; i < c->n_files; i++) {
        close(c->files[i].fd);
        free(c->files[i].path);
    }
    for (size_t i = 0; i < c->n_tensors; i++) {
        free((char *) c->tensors[i].name);
    }
    free(c->files);
    free(c->tensors);
    free(c);
}

/* ------------------------------------------------------------------ access */

size_t
llm_ckpt_n_tensors(const llm_ckpt_t *c)
{
    return c->n_tensors;
}

const llm_ckpt_tensor_t *
llm_ckpt_tensor_at(const llm_ckpt_t *c, size_t i)
{
    return &c->tensors[i];
}

const llm_ckpt_tensor_t *
llm_ckpt_find(const llm_ckpt_t *c, const char *name)
{
    size_t lo = 0, hi = c->n_tensors;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = strcmp(c->tensors[mid].name, name);
        if (order == 0) {
            return &c->tensors[mid];
        }
        if (order < 0) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return NULL;
}

const char *
llm_ckpt_path(const llm_ckpt_t *c, const llm_ckpt_tensor_t *t)
{
    return c->files[t->file].path;
}

uint64_t
llm_ckpt_file_bytes(const llm_ckpt_t *c)
{
    return c->bytes;
}

llm_code_t
llm_ckpt_read(const llm_ckpt_t *c, const llm_ckpt_tensor_t *t, uint64_t from, void *dst, size_t n,
              llm_err_t *err)
{
    const llm_ckpt_file_t *f = &c->files[t->file];
    if (from > t->size || n > t->size - from) {
        return llm_fail(err, LLM_E_FORMAT, "%s: tensor \"%.*s\": bytes %llu+%zu exceed its %llu",
                        f->path, SHOWN_NAME, t->name, (ull_t) from, n, (ull_t) t->size);
    }
    return llm_ckpt_pread(f, dst, n, t->offset + from, err);
}
