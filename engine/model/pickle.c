/*
 * pickle.c - a machine for the pickles of torch.save (see pickle.h).
 *
 * Owns: values, which live to the end and are named by their index; a stack and a memo of such
 * indexes; the members of tuples and the pairs of dictionaries. Lists and the state that BUILD sets
 * are consumed and forgotten, since no tensor depends on them.
 */
#include "model/pickle.h"
#include "base/unicode.h"

#include <stdlib.h>
#include <string.h>

#define SHOWN 63                /* bytes of a name in a message */

typedef enum {
    V_NONE, V_BOOL, V_INT, V_FLOAT, V_TEXT, V_TUPLE, V_LIST, V_DICT, V_GLOBAL, V_STORAGE, V_TENSOR,
    V_MARK
} kind_t;

typedef enum {
    G_DICT, G_TENSOR, G_PARAMETER, G_STORAGE
} global_t;

/* What a pickle may call or name. */
static const struct {
    const char *module, *name;
    global_t    what;
    llm_dtype_t dtype;
} globals[] = {
    { "collections", "OrderedDict", G_DICT, 0 },
    { "torch._utils", "_rebuild_tensor", G_TENSOR, 0 },
    { "torch._utils", "_rebuild_tensor_v2", G_TENSOR, 0 },
    { "torch._utils", "_rebuild_parameter", G_PARAMETER, 0 },
    { "torch", "DoubleStorage", G_STORAGE, LLM_DT_F64 },
    { "torch", "FloatStorage", G_STORAGE, LLM_DT_F32 },
    { "torch", "HalfStorage", G_STORAGE, LLM_DT_F16 },
    { "torch", "BFloat16Storage", G_STORAGE, LLM_DT_BF16 },
    { "torch", "LongStorage", G_STORAGE, LLM_DT_I64 },
    { "torch", "IntStorage", G_STORAGE, LLM_DT_I32 },
    { "torch", "ShortStorage", G_STORAGE, LLM_DT_I16 },
    { "torch", "CharStorage", G_STORAGE, LLM_DT_I8 },
    { "torch", "ByteStorage", G_STORAGE, LLM_DT_U8 },
    { "torch", "BoolStorage", G_STORAGE, LLM_DT_BOOL },
};

typedef struct {
    kind_t   kind;
    uint32_t a;     /* text: length; tuple: first member; global: index; storage, tensor: tuple */
    uint32_t n;     /* tuple: members */
    union {
        int64_t        i;
        const uint8_t *text;    /* in the pickle */
    };
} value_t;

typedef struct { uint32_t dict, key, value; } pair_t;

/* A table that grows. */
typedef struct { void *at; size_t n, cap; } table_t;

typedef struct {
    const char    *path;
    const uint8_t *data, *end, *p;      /* p: the next byte */
    table_t        values;              /* value_t */
    table_t        stack, memo, members;        /* uint32_t */
    table_t        pairs;               /* pair_t */
    bool           stopped;
    llm_err_t     *err;
} pickle_t;

typedef llm_code_t (*op_fn)(pickle_t *m, uint8_t op);

/* ------------------------------------------------------------------ tables */

static llm_code_t
grow(pickle_t *m, table_t *t, size_t n, size_t size)
{
    if (n <= t->cap) {
        return LLM_OK;
    }
    size_t cap = t->cap > 0 ? 2 * t->cap : 256;
    cap = cap > n ? cap : n;
    void *at = realloc(t->at, cap * size);      /* n is bounded by limits or by the pickle's size */
    if (at == NULL) {
        return llm_fail(m->err, LLM_E_NOMEM, "%s: no memory for a pickle of %zu bytes", m->path,
                        (size_t) (m->end - m->data));
    }
    t->at = at;
    t->cap = cap;
    return LLM_OK;
}

static llm_code_t
add_u32(pickle_t *m, table_t *t, uint32_t v)
{
    llm_code_t rc = grow(m, t, t->n + 1, sizeof(v));
    if (rc == LLM_OK) {
        ((uint32_t *) t->at)[t->n++] = v;
    }
    return rc;
}

static value_t *
value(const pickle_t *m, uint32_t i)
{
    return (value_t *) m->values.at + i;
}

static value_t *
member(const pickle_t *m, const value_t *tuple, uint32_t i)
{
    return value(m, ((uint32_t *) m->members.at)[tuple->a + i]);
}

static llm_code_t
bad(pickle_t *m, const char *what)
{
    return llm_fail(m->err, LLM_E_FORMAT, "%s: pickle byte %zu: %s", m->path,
                    (size_t) (m->p - m->data), what);
}

/* ------------------------------------------------------------------- stack */

static llm_code_t
push_index(pickle_t *m, uint32_t i)
{
    if (m->stack.n == LLM_PICKLE_MAX_STACK) {
        return llm_fail(m->err, LLM_E_UNSUPPORTED, "%s: pickle stacks more than %u values", m->path,
                        LLM_PICKLE_MAX_STACK);
    }
    return add_u32(m, &m->stack, i);
}

static llm_code_t
push(pickle_t *m, value_t v)
{
    if (m->values.n == LLM_PICKLE_MAX_VALUES) {
        return llm_fail(m->err, LLM_E_UNSUPPORTED, "%s: pickle of more than %u values", m->path,
                        LLM_PICKLE_MAX_VALUES);
    }
    llm_code_t rc = grow(m, &m->values, m->values.n + 1, sizeof(v));
    if (rc != LLM_OK) {
        return rc;
    }
    *value(m, (uint32_t) m->values.n) = v;
    return push_index(m, (uint32_t) m->values.n++);
}

/* The value below the top by depth; a mark or an empty stack is an error. */
static llm_code_t
peek(pickle_t *m, size_t depth, uint32_t *out)
{
    if (m->stack.n <= depth) {
        return bad(m, "empty stack");
    }
    *out = ((uint32_t *) m->stack.at)[m->stack.n - 1 - depth];
    return value(m, *out)->kind == V_MARK ? bad(m, "a mark instead of a value") : LLM_OK;
}

static llm_code_t
pop(pickle_t *m, uint32_t *out)
{
    llm_code_t rc = peek(m, 0, out);
    m->stack.n -= rc == LLM_OK;
    return rc;
}

/* Takes what lies above the last mark, and the mark: n indexes, valid until the next push. */
static llm_code_t
pop_mark(pickle_t *m, const uint32_t **items, size_t *n)
{
    const uint32_t *stack = m->stack.at;
    size_t at = m->stack.n;
    while (at > 0 && value(m, stack[at - 1])->kind != V_MARK) {
        at--;
    }
    if (at == 0) {
        return bad(m, "no mark");
    }
    *items = stack + at;
    *n = m->stack.n - at;
    m->stack.n = at - 1;
    return LLM_OK;
}

/* --------------------------------------------------------------- arguments */

/* n bytes of the pickle, little-endian. */
static llm_code_t
take(pickle_t *m, unsigned n, uint64_t *out)
{
    *out = 0;
    if ((size_t) (m->end - m->p) < n) {
        return bad(m, "ends in an instruction");
    }
    memcpy(out, m->p, n);
    m->p += n;
    return LLM_OK;
}

/* A length of size bytes and so many bytes of text. */
static llm_code_t
take_text(pickle_t *m, unsigned size, value_t *v)
{
    uint64_t len;
    llm_code_t rc = take(m, size, &len);
    if (rc != LLM_OK) {
        return rc;
    }
    if (len > (size_t) (m->end - m->p)) {
        return bad(m, "text is longer than the pickle");
    }
    *v = (value_t) { .kind = V_TEXT, .a = (uint32_t) len, .text = m->p };
    m->p += len;
    return LLM_OK;
}

/* A line without its newline. */
static llm_code_t
take_line(pickle_t *m, value_t *v)
{
    const uint8_t *nl = memchr(m->p, '\n', (size_t) (m->end - m->p));
    if (nl == NULL) {
        return bad(m, "line does not end");
    }
    *v = (value_t) { .kind = V_TEXT, .a = (uint32_t) (nl - m->p), .text = m->p };
    m->p = nl + 1;
    return LLM_OK;
}

/* ---------------------------------------------------------------- constants */

static llm_code_t
op_constant(pickle_t *m, uint8_t op)
{
    value_t v = { .kind = op == 'N' ? V_NONE : op == '(' ? V_MARK : op == ')' ? V_TUPLE
                        : op == ']' ? V_LIST : op == '}' ? V_DICT : V_BOOL };
    v.i = op == 0x88;
    return push(m, v);
}

static llm_code_t
op_number(pickle_t *m, uint8_t op)
{
    unsigned n = op == 'K' ? 1 : op == 'M' ? 2 : op == 'J' ? 4 : 8;
    uint64_t raw = 0, len = 0;
    llm_code_t rc;
    if (op == 0x8a) {               /* LONG1: a length, then two's complement */
        rc = take(m, 1, &len);
        if (rc == LLM_OK && len > 8) {
            rc = bad(m, "an integer of more than 64 bits");
        }
        n = (unsigned) len;
        rc = rc == LLM_OK ? take(m, n, &raw) : rc;
        if (n > 0 && n < 8 && raw >> (8 * n - 1)) {
            raw |= UINT64_MAX << (8 * n);
        }
    } else {
        rc = take(m, n, &raw);
    }
    value_t v = { .kind = op == 'G' ? V_FLOAT : V_INT, .i = (int64_t) raw };
    if (op == 'J') {
        v.i = (int32_t) raw;
    }
    return rc == LLM_OK ? push(m, v) : rc;
}

static llm_code_t
op_text(pickle_t *m, uint8_t op)
{
    value_t v;
    llm_code_t rc = take_text(m, op == 'X' ? 4 : op == 0x8d ? 8 : 1, &v);
    return rc == LLM_OK ? push(m, v) : rc;
}

/* PROTO and FRAME: their arguments say nothing that we need. */
static llm_code_t
op_skip(pickle_t *m, uint8_t op)
{
    uint64_t arg;
    llm_code_t rc = take(m, op == 0x80 ? 1 : 8, &arg);
    if (rc == LLM_OK && op == 0x80 && (arg < 2 || arg > 5)) {
        rc = llm_fail(m->err, LLM_E_UNSUPPORTED, "%s: pickle of protocol %u, supported are 2 to 5",
                      m->path, (unsigned) arg);
    }
    return rc;
}

/* --------------------------------------------------------------------- memo */

static llm_code_t
op_put(pickle_t *m, uint8_t op)
{
    uint64_t slot = m->memo.n;
    uint32_t i = 0;
    llm_code_t rc = op == 0x94 ? LLM_OK : take(m, op == 'q' ? 1 : 4, &slot);
    if (rc == LLM_OK) {
        rc = peek(m, 0, &i);
    }
    if (rc == LLM_OK && slot >= LLM_PICKLE_MAX_VALUES) {
        rc = bad(m, "memo slot is out of range");
    }
    if (rc == LLM_OK) {
        rc = grow(m, &m->memo, (size_t) slot + 1, sizeof(uint32_t));
    }
    if (rc != LLM_OK) {
        return rc;
    }
    for (; m->memo.n <= slot; m->memo.n++) {
        ((uint32_t *) m->memo.at)[m->memo.n] = UINT32_MAX;
    }
    ((uint32_t *) m->memo.at)[slot] = i;
    return LLM_OK;
}

static llm_code_t
op_get(pickle_t *m, uint8_t op)
{
    uint64_t slot;
    llm_code_t rc = take(m, op == 'h' ? 1 : 4, &slot);
    if (rc != LLM_OK) {
        return rc;
    }
    if (slot >= m->memo.n || ((uint32_t *) m->memo.at)[slot] == UINT32_MAX) {
        return bad(m, "nothing in that slot of the memo");
    }
    return push_index(m, ((uint32_t *) m->memo.at)[slot]);
}

/* ------------------------------------------------------------- containers */

static llm_code_t
op_tuple(pickle_t *m, uint8_t op)
{
    const uint32_t *items = NULL;
    size_t n = op == 't' ? 0 : (size_t) (op - 0x84);    /* TUPLE1 to TUPLE3 */
    uint32_t i;
    llm_code_t rc = LLM_OK;
    if (op == 't') {
        rc = pop_mark(m, &items, &n);
    } else {
        for (size_t d = 0; d < n && rc == LLM_OK; d++) {
            rc = peek(m, d, &i);
        }
        if (rc == LLM_OK) {
            m->stack.n -= n;
            items = (const uint32_t *) m->stack.at + m->stack.n;
        }
    }
    if (rc == LLM_OK && m->members.n + n > UINT32_MAX) {
        rc = bad(m, "too many members of tuples");
    }
    if (rc == LLM_OK) {
        rc = grow(m, &m->members, m->members.n + n + 1, sizeof(uint32_t));
    }
    if (rc != LLM_OK) {
        return rc;
    }
    value_t v = { .kind = V_TUPLE, .a = (uint32_t) m->members.n, .n = (uint32_t) n };
    memcpy((uint32_t *) m->members.at + m->members.n, items, n * sizeof(*items));
    m->members.n += n;
    return push(m, v);
}

/* APPEND and APPENDS: the list stays, its members are forgotten. */
static llm_code_t
op_append(pickle_t *m, uint8_t op)
{
    const uint32_t *items;
    size_t n;
    uint32_t i;
    llm_code_t rc = op == 'a' ? pop(m, &i) : pop_mark(m, &items, &n);
    if (rc == LLM_OK) {
        rc = peek(m, 0, &i);
    }
    return rc != LLM_OK || value(m, i)->kind == V_LIST ? rc : bad(m, "appends to no list");
}

static llm_code_t
op_set(pickle_t *m, uint8_t op)
{
    const uint32_t *items = NULL;
    uint32_t one[2], dict;
    size_t n = 2;
    llm_code_t rc;
    if (op == 'u') {
        rc = pop_mark(m, &items, &n);
    } else {
        rc = pop(m, &one[1]);
        rc = rc == LLM_OK ? pop(m, &one[0]) : rc;
        items = one;
    }
    if (rc == LLM_OK) {
        rc = peek(m, 0, &dict);
    }
    if (rc != LLM_OK) {
        return rc;
    }
    if (value(m, dict)->kind != V_DICT || n % 2 != 0) {
        return bad(m, n % 2 != 0 ? "a key without a value" : "sets members of no dictionary");
    }
    rc = grow(m, &m->pairs, m->pairs.n + n / 2, sizeof(pair_t));
    for (size_t k = 0; k < n && rc == LLM_OK; k += 2) {
        ((pair_t *) m->pairs.at)[m->pairs.n++] = (pair_t) { dict, items[k], items[k + 1] };
    }
    return rc;
}

/* -------------------------------------------------------------------- calls */

static bool
text_is(const value_t *v, const char *s)
{
    return v->kind == V_TEXT && v->a == strlen(s) && memcmp(v->text, s, v->a) == 0;
}

static llm_code_t
op_global(pickle_t *m, uint8_t op)
{
    value_t module = { 0 }, name = { 0 };
    uint32_t i = 0;
    llm_code_t rc;
    if (op == 'c') {
        rc = take_line(m, &module);
        rc = rc == LLM_OK ? take_line(m, &name) : rc;
    } else {
        rc = pop(m, &i);
        if (rc == LLM_OK) {
            name = *value(m, i);
            rc = pop(m, &i);
        }
        if (rc == LLM_OK) {
            module = *value(m, i);
        }
        if (rc == LLM_OK && (name.kind != V_TEXT || module.kind != V_TEXT)) {
            rc = bad(m, "name of a global is no text");
        }
    }
    if (rc != LLM_OK) {
        return rc;
    }
    for (uint32_t g = 0; g < sizeof(globals) / sizeof(globals[0]); g++) {
        if (text_is(&module, globals[g].module) && text_is(&name, globals[g].name)) {
            return push(m, (value_t) { .kind = V_GLOBAL, .a = g });
        }
    }
    return llm_fail(m->err, LLM_E_UNSUPPORTED, "%s: pickle asks for \"%.*s.%.*s\", which is not "
                    "allowed", m->path, (int) (module.a < SHOWN ? module.a : SHOWN), module.text,
                    (int) (name.a < SHOWN ? name.a : SHOWN), name.text);
}

/* A persistent id: ("storage", type, key, location, number of values). */
static llm_code_t
op_persid(pickle_t *m, uint8_t op)
{
    uint32_t i = 0;
    (void) op;
    llm_code_t rc = pop(m, &i);
    if (rc != LLM_OK) {
        return rc;
    }
    const value_t *id = value(m, i);
    bool good = id->kind == V_TUPLE && id->n >= 5 && text_is(member(m, id, 0), "storage")
                && member(m, id, 1)->kind == V_GLOBAL
                && globals[member(m, id, 1)->a].what == G_STORAGE
                && member(m, id, 2)->kind == V_TEXT && member(m, id, 4)->kind == V_INT
                && member(m, id, 4)->i >= 0;
    return good ? push(m, (value_t) { .kind = V_STORAGE, .a = i })
                : bad(m, "persistent id is no storage");
}

static bool
is_tensor_args(const pickle_t *m, const value_t *args)
{
    return args->n >= 4 && member(m, args, 0)->kind == V_STORAGE
           && member(m, args, 1)->kind == V_INT && member(m, args, 2)->kind == V_TUPLE
           && member(m, args, 3)->kind == V_TUPLE;
}

static llm_code_t
op_reduce(pickle_t *m, uint8_t op)
{
    uint32_t i_args = 0, i_fn = 0;
    (void) op;
    llm_code_t rc = pop(m, &i_args);
    rc = rc == LLM_OK ? pop(m, &i_fn) : rc;
    if (rc != LLM_OK) {
        return rc;
    }
    const value_t *args = value(m, i_args), *fn = value(m, i_fn);
    if (fn->kind != V_GLOBAL || args->kind != V_TUPLE) {
        return bad(m, fn->kind != V_GLOBAL ? "calls what is no function"
                                           : "calls a function without a tuple");
    }
    switch (globals[fn->a].what) {
    case G_DICT:
        if (args->n == 0) {
            return push(m, (value_t) { .kind = V_DICT });
        }
        break;
    case G_TENSOR:
        if (is_tensor_args(m, args)) {
            return push(m, (value_t) { .kind = V_TENSOR, .a = i_args });
        }
        break;
    case G_PARAMETER:
        if (args->n > 0 && member(m, args, 0)->kind == V_TENSOR) {
            return push(m, *member(m, args, 0));
        }
        break;
    case G_STORAGE:
        break;
    }
    return llm_fail(m->err, LLM_E_UNSUPPORTED, "%s: pickle calls \"%s.%s\" with arguments that are "
                    "not supported", m->path, globals[fn->a].module, globals[fn->a].name);
}

/* The attributes of a dictionary (_metadata of a state_dict). */
static llm_code_t
op_build(pickle_t *m, uint8_t op)
{
    uint32_t i;
    (void) op;
    llm_code_t rc = pop(m, &i);
    rc = rc == LLM_OK ? peek(m, 0, &i) : rc;
    return rc != LLM_OK || value(m, i)->kind == V_DICT ? rc : bad(m, "BUILD of no dictionary");
}

static llm_code_t
op_stop(pickle_t *m, uint8_t op)
{
    (void) op;
    m->stopped = true;
    return LLM_OK;
}

/* ------------------------------------------------------------- instructions */

/* fn NULL: known, but refused. */
static const struct { const char *name; op_fn fn; } ops[256] = {
    ['('] = { "MARK", op_constant }, [')'] = { "EMPTY_TUPLE", op_constant },
    ['N'] = { "NONE", op_constant }, [']'] = { "EMPTY_LIST", op_constant },
    ['}'] = { "EMPTY_DICT", op_constant }, [0x88] = { "NEWTRUE", op_constant },
    [0x89] = { "NEWFALSE", op_constant },
    ['J'] = { "BININT", op_number }, ['K'] = { "BININT1", op_number },
    ['M'] = { "BININT2", op_number }, ['G'] = { "BINFLOAT", op_number },
    [0x8a] = { "LONG1", op_number },
    ['X'] = { "BINUNICODE", op_text }, [0x8c] = { "SHORT_BINUNICODE", op_text },
    [0x8d] = { "BINUNICODE8", op_text },
    [0x80] = { "PROTO", op_skip }, [0x95] = { "FRAME", op_skip },
    ['q'] = { "BINPUT", op_put }, ['r'] = { "LONG_BINPUT", op_put }, [0x94] = { "MEMOIZE", op_put },
    ['h'] = { "BINGET", op_get }, ['j'] = { "LONG_BINGET", op_get },
    ['t'] = { "TUPLE", op_tuple }, [0x85] = { "TUPLE1", op_tuple }, [0x86] = { "TUPLE2", op_tuple },
    [0x87] = { "TUPLE3", op_tuple },
    ['a'] = { "APPEND", op_append }, ['e'] = { "APPENDS", op_append },
    ['s'] = { "SETITEM", op_set }, ['u'] = { "SETITEMS", op_set },
    ['c'] = { "GLOBAL", op_global }, [0x93] = { "STACK_GLOBAL", op_global },
    ['Q'] = { "BINPERSID", op_persid }, ['R'] = { "REDUCE", op_reduce },
    ['b'] = { "BUILD", op_build }, ['.'] = { "STOP", op_stop },

    ['0'] = { "POP", NULL }, ['1'] = { "POP_MARK", NULL }, ['2'] = { "DUP", NULL },
    ['F'] = { "FLOAT", NULL }, ['I'] = { "INT", NULL }, ['L'] = { "LONG", NULL },
    ['P'] = { "PERSID", NULL }, ['S'] = { "STRING", NULL }, ['T'] = { "BINSTRING", NULL },
    ['U'] = { "SHORT_BINSTRING", NULL }, ['V'] = { "UNICODE", NULL }, ['d'] = { "DICT", NULL },
    ['g'] = { "GET", NULL }, ['i'] = { "INST", NULL }, ['l'] = { "LIST", NULL },
    ['o'] = { "OBJ", NULL }, ['p'] = { "PUT", NULL }, ['B'] = { "BINBYTES", NULL },
    ['C'] = { "SHORT_BINBYTES", NULL }, [0x81] = { "NEWOBJ", NULL }, [0x82] = { "EXT1", NULL },
    [0x83] = { "EXT2", NULL }, [0x84] = { "EXT4", NULL }, [0x8b] = { "LONG4", NULL },
    [0x8e] = { "BINBYTES8", NULL }, [0x8f] = { "EMPTY_SET", NULL }, [0x90] = { "ADDITEMS", NULL },
    [0x91] = { "FROZENSET", NULL }, [0x92] = { "NEWOBJ_EX", NULL }, [0x96] = { "BYTEARRAY8", NULL },
    [0x97] = { "NEXT_BUFFER", NULL }, [0x98] = { "READONLY_BUFFER", NULL },
};

static llm_code_t
run(pickle_t *m)
{
    llm_code_t rc = LLM_OK;
    while (rc == LLM_OK && !m->stopped) {
        if (m->p == m->end) {
            return bad(m, "ends without STOP");
        }
        uint8_t op = *m->p++;
        if (ops[op].fn == NULL) {
            return llm_fail(m->err, LLM_E_UNSUPPORTED,
                            "%s: pickle byte %zu: instruction %s (0x%02x) "
                            "is not allowed",
                            m->path, (size_t) (m->p - m->data - 1),
                            ops[op].name != NULL ? ops[op].name : "of no name", op);
        }
        rc = ops[op].fn(m, op);
    }
    if (rc == LLM_OK && (m->p != m->end || m->stack.n != 1)) {
        rc = bad(m, m->p != m->end ? "bytes behind STOP" : "STOP with more or less than one value");
    }
    return rc;
}

/* ------------------------------------------------------------------ tensors */

/* The numbers of a tuple; false: not such a tuple. */
static bool
numbers(const pickle_t *m, const value_t *tuple, uint64_t *out)
{
    for (uint32_t i = 0; i < tuple->n; i++) {
        const value_t *v = member(m, tuple, i);
        if (v->kind != V_INT || v->i < 0) {
            return false;
        }
        out[i] = (uint64_t) v->i;
    }
    return true;
}

static llm_code_t
report(pickle_t *m, const value_t *key, const value_t *tensor, llm_pickle_fn fn, void *ctx)
{
    const value_t *args = value(m, tensor->a), *id = value(m, member(m, args, 0)->a);
    const value_t *shape = member(m, args, 2), *stride = member(m, args, 3);
    llm_pickle_tensor_t t = {
        .name = (const char *) key->text, .name_len = key->a,
        .dtype = globals[member(m, id, 1)->a].dtype,
        .storage = (const char *) member(m, id, 2)->text, .storage_len = member(m, id, 2)->a,
        .storage_n = (uint64_t) member(m, id, 4)->i,
        .n_dims = shape->n,
    };
    int shown = (int) (key->a < SHOWN ? key->a : SHOWN);
    if (llm_utf8_valid(key->text, key->a) < key->a) {
        return llm_fail(m->err, LLM_E_FORMAT, "%s: name of a tensor is not UTF-8", m->path);
    }
    if (shape->n > LLM_CKPT_MAX_DIMS) {
        return llm_fail(m->err, LLM_E_UNSUPPORTED, "%s: tensor \"%.*s\" has %u dimensions, at most "
                        "%u are supported", m->path, shown, key->text, shape->n, LLM_CKPT_MAX_DIMS);
    }
    int64_t first = member(m, args, 1)->i;
    if (first < 0 || stride->n != shape->n || !numbers(m, shape, t.dim)
        || !numbers(m, stride, t.stride))
    {
        return llm_fail(m->err, LLM_E_FORMAT,
                        "%s: tensor \"%.*s\": shape, strides or offset are no "
                        "such numbers",
                        m->path, shown, key->text);
    }
    t.first = (uint64_t) first;
    return fn(ctx, &t, m->err);
}

llm_code_t
llm_pickle_tensors(const char *path, const uint8_t *data, size_t n, llm_pickle_fn fn, void *ctx,
                   llm_err_t *err)
{
    pickle_t m = { .path = path, .data = data, .end = data + n, .p = data, .err = err };
    uint32_t top = 0;
    llm_code_t rc = n > LLM_PICKLE_MAX_BYTES
                    ? llm_fail(err, LLM_E_UNSUPPORTED, "%s: pickle of %zu bytes, at most %llu are "
                               "read", path, n, (ull_t) LLM_PICKLE_MAX_BYTES)
                    : run(&m);
    if (rc == LLM_OK) {
        rc = pop(&m, &top);
    }
    if (rc == LLM_OK && value(&m, top)->kind != V_DICT) {
        rc = bad(&m, "makes no dictionary");
    }
    for (size_t i = 0; rc == LLM_OK && i < m.pairs.n; i++) {
        const pair_t *p = (const pair_t *) m.pairs.at + i;
        const value_t *key = value(&m, p->key), *v = value(&m, p->value);
        if (p->dict == top && key->kind == V_TEXT && v->kind == V_TENSOR) {
            rc = report(&m, key, v, fn, ctx);
        }
    }
    free(m.values.at);
    free(m.stack.at);
    free(m.memo.at);
    free(m.members.at);
    free(m.pairs.at);
    return rc;
}
