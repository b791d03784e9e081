/*
 * tokenizer.c - our side of bench/tokenizer.py, which builds and runs it.
 *
 *     bench_tokenizer DIR RECORDS
 *
 * DIR holds tokenizer.json. RECORDS is a file of texts, each with its length in front (u32, little endian). For every
 * line on standard input all texts are encoded once, in order, and one line is printed: nanoseconds, tokens, and a
 * checksum of the ids that the script compares with its own. Loading is measured once: "load NANOSECONDS".
 */
#include "text/tok.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t
now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}

static char *
read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    char *s = NULL;
    if (f != NULL && fseek(f, 0, SEEK_END) == 0) {
        long n = ftell(f);
        s = n >= 0 ? malloc((size_t) n + 1) : NULL;
        rewind(f);
        *len = s != NULL ? fread(s, 1, (size_t) n, f) : 0;
    }
    if (f != NULL) {
        fclose(f);
    }
    return s;
}

/* Encodes all records; false when one fails. */
static bool
run(const llm_tok_t *t, const char *s, size_t len, uint64_t *n_tokens, uint64_t *sum)
{
    llm_err_t err;
    *n_tokens = *sum = 0;
    for (size_t at = 0; at + 4 <= len;) {
        uint32_t n;
        llm_tokens_t k;
        memcpy(&n, s + at, 4);
        at += 4;
        if (n > len - at) {
            fprintf(stderr, "bench_tokenizer: a text of %u bytes, %zu are left\n", n, len - at);
            return false;
        }
        if (llm_tok_encode(t, s + at, n, LLM_TOK_ADD_SPECIAL | LLM_TOK_PARSE_SPECIAL, &k, &err) != LLM_OK) {
            fprintf(stderr, "bench_tokenizer: %s\n", err.msg);
            return false;
        }
        for (size_t i = 0; i < k.n; i++) {
            *sum = (*sum * 31 + (uint64_t) k.ids[i]) & 0xffffffffu;
        }
        *n_tokens += k.n;
        llm_tokens_free(&k);
        at += n;
    }
    return true;
}

int
main(int argc, char **argv)
{
    llm_err_t err;
    llm_tok_t *t;
    char line[16], *s;
    size_t len = 0;
    if (argc != 3) {
        fprintf(stderr, "Usage: bench_tokenizer DIR RECORDS\n");
        return 2;
    }
    uint64_t start = now_ns();
    if (llm_tok_from_dir(&t, argv[1], &err) != LLM_OK) {
        fprintf(stderr, "bench_tokenizer: %s\n", err.msg);
        return 1;
    }
    printf("load %" PRIu64 "\n", now_ns() - start);
    fflush(stdout);
    if ((s = read_file(argv[2], &len)) == NULL) {
        fprintf(stderr, "bench_tokenizer: cannot read %s\n", argv[2]);
        return 1;
    }
    while (fgets(line, sizeof(line), stdin) != NULL) {
        uint64_t n, sum;
        start = now_ns();
        if (!run(t, s, len, &n, &sum)) {
            return 1;
        }
        printf("%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", now_ns() - start, n, sum);
        fflush(stdout);
    }
    free(s);
    llm_tok_free(t);
    return 0;
}
