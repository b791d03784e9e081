/*
 * model_stamp.c - llm_model_stamp: changes with any file of a model, and with nothing else.
 */
#include "llm.h"
#include "tap.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/llm-stamp-XXXXXX";

static const char *
at(const char *name)
{
    static char path[128];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

/* The time of change is given: two writes may fall into one tick of the clock. */
static void
put(const char *name, const char *text, long sec)
{
    const struct timespec times[2] = { { .tv_sec = sec }, { .tv_sec = sec } };
    FILE *f = fopen(at(name), "w");
    if (f == NULL || fputs(text, f) < 0 || fclose(f) != 0
        || utimensat(AT_FDCWD, at(name), times, 0) != 0)
    {
        perror(name);
        exit(1);
    }
}

static uint64_t
stamp(const char *path)
{
    llm_err_t err;
    uint64_t value = 0;
    if (llm_model_stamp(path, &value, &err) != LLM_OK) {
        diag("%s", err.msg);
    }
    return value;
}

static void
test_directory(void)
{
    put("config.json", "{}", 1);
    put("model.safetensors", "abc", 1);
    uint64_t first = stamp(dir);
    ok(first != 0 && stamp(dir) == first, "the same files, the same stamp");
    chmod(at("config.json"), 0600);
    ok(stamp(dir) == first, "not of permissions");
    put("config.json", "{}", 2);
    uint64_t second = stamp(dir);
    ok(second != first, "a time of change");
    put("config.json", "[1]", 2);
    ok(stamp(dir) != second, "a size");
    put("config.json", "{}", 2);
    ok(stamp(dir) == second, "and back");
    put("tokenizer.json", "", 1);
    ok(stamp(dir) != second, "one file more");
    unlink(at("tokenizer.json"));
    mkdir(at("runs"), 0700);
    ok(stamp(dir) == second, "not of a folder");
    rmdir(at("runs"));
    if (symlink("model.safetensors", at("link")) != 0) {
        perror("link");
    }
    uint64_t linked = stamp(dir);
    put("model.safetensors", "abcd", 1);
    ok(linked != second && stamp(dir) != linked, "what a link names");
    unlink(at("link"));
}

static void
test_parts(void)
{
    static const char *const one = "m-00001-of-00002.gguf", *const two = "m-00002-of-00002.gguf";
    put(one, "a", 1);
    uint64_t alone = stamp(at(one));
    put(two, "b", 1);
    uint64_t both = stamp(at(one));
    ok(alone != both, "a part more");
    put(two, "bb", 1);
    ok(stamp(at(one)) != both, "another part");
    put(two, "b", 1);
    put("m-00003-of-00002.gguf", "b", 1);
    put("n-00002-of-00002.gguf", "b", 1);
    ok(stamp(at(one)) == both, "not of what is no part");
    put("m.gguf", "a", 1);
    uint64_t single = stamp(at("m.gguf"));
    put("m.gguf", "a", 2);
    ok(single != stamp(at("m.gguf")), "a single file");
    put("x-99999-of-99999.gguf", "a", 1);
    ok(stamp(at("x-99999-of-99999.gguf")) != 0, "more parts than a model may have");
}

int
main(void)
{
    if (mkdtemp(dir) == NULL) {
        perror(dir);
        return 1;
    }
    test_directory();
    test_parts();
    llm_err_t err;
    uint64_t value;
    ok(llm_model_stamp("/nowhere/model.gguf", &value, &err) == LLM_E_IO && value == 0, "no file");
    is_str(err.msg, "/nowhere/model.gguf: No such file or directory", "its message");

    static const char *const names[] = {
        "config.json", "model.safetensors", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf",
        "m-00003-of-00002.gguf", "n-00002-of-00002.gguf", "m.gguf", "x-99999-of-99999.gguf",
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        unlink(at(names[i]));
    }
    ok(rmdir(dir) == 0, "all files are removed");
    return done_testing();
}
