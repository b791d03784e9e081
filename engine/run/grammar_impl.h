/*
 * grammar_impl.h - the inner forms of a grammar; only the files run/grammar*.c include it.
 *
 *   regex, schema, GBNF, calls --> nodes and rules    grammar_regex.c, grammar_schema.c, ...
 *   nodes of a rule --> NFA over bytes                grammar_nfa.c: rules that are not recursive
 *                                                     are copied in
 *   NFA --> DFA with rule calls                       grammar_dfa.c: subset construction, products
 *   DFAs of all rules --> block                       grammar_build.c, grammar_block.c: pruned,
 *                                                     measured, numbered
 *
 * The automaton. Every rule is a deterministic automaton whose edges read one byte; besides, a
 * state may call rules. A call remembers the state to go on in (a frame); a rule that reaches a
 * final state returns to its frame. A frame has one counter, which the edges of counted rules move
 * and test: strings with a length, lists with a number of items. A rule never matches the empty
 * text (its callers go around it) and never calls itself before it has read a byte.
 *
 * Two numbers make dead ends impossible: `need` of a state is the least number of frames that must
 * be opened on the way to the end of its rule, and a step is only taken when its depth plus `need`
 * stays within LLM_GRAMMAR_DEPTH.
 */
#ifndef LLM_GRAMMAR_IMPL_H
#define LLM_GRAMMAR_IMPL_H

#include "run/grammar.h"

#include <string.h>

#define LLM_G_INF UINT32_MAX            /* no upper limit */
#define LLM_G_NONE UINT32_MAX

/* --------------------------------------------------------- compiled form */

/* A set of bytes. */
typedef struct { uint64_t w[4]; } llm_gbytes_t;

static inline bool
llm_gbytes_has(const llm_gbytes_t *s, unsigned c)
{
    return s->w[c >> 6] >> (c & 63) & 1;
}

static inline void
llm_gbytes_add(llm_gbytes_t *s, unsigned lo, unsigned hi)
{
    for (unsigned c = lo; c <= hi; c++) {
        s->w[c >> 6] |= (uint64_t) 1 << (c & 63);
    }
}

static inline bool
llm_gbytes_or(llm_gbytes_t *s, const llm_gbytes_t *o)
{
    uint64_t news = 0;
    for (int i = 0; i < 4; i++) {
        news |= o->w[i] & ~s->w[i];
        s->w[i] |= o->w[i];
    }
    return news != 0;
}

/* What an edge does to the counter of its frame. */
enum {
    LLM_GOP_NONE,
    LLM_GOP_COUNT,      /* taken only while count < max; adds one */
    LLM_GOP_ENOUGH      /* taken only when count >= min */
};

typedef struct {
    uint8_t  lo, hi, op, spare;
    uint32_t to;
} llm_gedge_t;

typedef struct {
    uint32_t rule, ret;
    uint32_t tail;      /* nothing is left to do after the call: no frame */
} llm_gcall_t;

typedef struct {
    uint32_t edge,
        call; /* first of its edges (ascending, disjoint) and calls (in order of the text) */
    uint16_t n_edges, n_calls;
    uint32_t rule;
    uint8_t  final, need;
    uint16_t dist;              /* least bytes to the end of the rule, 65535: more */
    uint32_t next,
        run; /* so many steps over the bytes that lead to `next` stay possible: a chain */
} llm_gstate_t;

typedef struct {
    llm_gbytes_t first;         /* bytes that a text of the rule may start with */
    llm_gbytes_t follow;        /* bytes that may come after it (no byte that may is missing) */
    uint32_t     entry, state0, n_states;
    uint32_t     min, max;      /* limits of the counter */
    uint32_t
        builtin; /* not 0: rules with the same number, min and max are equal in every grammar */
} llm_grule_t;

#define LLM_GRAMMAR_MAGIC 0x6d617267u   /* "gram" */
#define LLM_GRAMMAR_VERSION 1u

/* The block: this head, then the arrays at byte offsets from its beginning. */
struct llm_grammar {
    uint32_t magic, version;
    uint64_t id[2];
    uint32_t bytes;
    uint32_t n_rules, n_states, n_edges, n_calls;
    uint32_t rules, states, edges, calls;
    uint32_t root;              /* rule of the whole text */
    uint32_t accepts_empty;
    uint32_t shared; /* built-in rules are those of other grammars (no byte was left out) */
};

static inline const llm_grule_t *
llm_g_rules(const llm_grammar_t *g)
{
    return (const llm_grule_t *) ((const char *) g + g->rules);
}

static inline const llm_gstate_t *
llm_g_states(const llm_grammar_t *g)
{
    return (const llm_gstate_t *) ((const char *) g + g->states);
}

static inline const llm_gedge_t *
llm_g_edges(const llm_grammar_t *g)
{
    return (const llm_gedge_t *) ((const char *) g + g->edges);
}

static inline const llm_gcall_t *
llm_g_calls(const llm_grammar_t *g)
{
    return (const llm_gcall_t *) ((const char *) g + g->calls);
}

/* -------------------------------------------------------------- stepping */

/* One step of a set of heads over one byte; the caller owns all arrays. */
typedef struct {
    const llm_grammar_t *g;
    llm_gframe_t *frames;       /* [max_frames]; frame 0 is the bottom */
    uint32_t      n_frames, max_frames;
    llm_ghead_t  *out;          /* [max_out] heads after the byte, without duplicates */
    uint32_t      n_out, max_out;
    uint32_t      depth;        /* frames that may be open above the bottom */
    uint32_t reach; /* most frames that any step needed: a limit from here on changes nothing */
    uint32_t      spent;        /* heads looked at, in all steps */
    uint32_t      max_spent;    /* for callers that stop */
    bool          below;        /* a head returned from the bottom frame */
    bool          full;         /* a head was dropped */
} llm_gstep_t;

/* Adds to st->out what head h becomes over byte c. */
void llm_gstep_run(llm_gstep_t *st, const llm_ghead_t *h, uint8_t c);

/* The edge of state s over byte c, or NULL. */
static inline const llm_gedge_t *
llm_g_edge(const llm_grammar_t *g, const llm_gstate_t *s, uint8_t c)
{
    const llm_gedge_t *e = llm_g_edges(g) + s->edge;
    for (uint32_t i = 0; i < s->n_edges && e[i].lo <= c; i++) {
        if (c <= e[i].hi) {
            return &e[i];
        }
    }
    return NULL;
}

/*
 * Tokens as a trie in preorder: node i is reached by byte[i] from the last node before it with a
 * smaller depth; its subtree is [i, end[i]). Its tokens (several may have the same bytes) are
 * id[tok[i] .. tok[i + 1]), those of its subtree id[tok[i] .. tok[end[i]]). A state that returns to
 * itself over all bytes of a subtree takes it whole: below[i] is the set of byte groups in the
 * subtree, tail[i] the length of its longest path, both with node i.
 */
struct llm_gvocab {
    const llm_tok_t *t;
    uint32_t  n_vocab, n_nodes, n_ids, n_eos;
    uint8_t  *byte, *depth, *tail;
    uint32_t *end, *tok;
    uint64_t *below;
    int32_t  *id, *eos;
    uint8_t  *special;          /* special tokens as they are in the trie, one after the other */
    llm_gbytes_t alphabet;
};

/* The group (< 64) of a byte: bytes of a group are mostly treated alike. */
unsigned llm_gvocab_group(uint8_t c);

/* Length of the longest special token that the n bytes begin with; 0: none does. */
size_t llm_gvocab_special(const llm_gvocab_t *v, const void *s, size_t n);

/* Bytes that the vocabulary can write. */
void llm_gvocab_alphabet(const llm_gvocab_t *v, llm_gbytes_t *set);

/* --------------------------------------------------------------- builder */

typedef enum {
    LLM_GN_FAIL,        /* matches nothing; node 0 */
    LLM_GN_EMPTY,       /* matches the empty text; node 1 */
    LLM_GN_LIT,         /* bytes[a .. a+n) */
    LLM_GN_BYTE,        /* one byte lo..hi */
    LLM_GN_CLASS,       /* one character of set a; json: as it is written inside a JSON string */
    LLM_GN_SEQ,         /* kids[a .. a+n) */
    LLM_GN_ALT,
    LLM_GN_REP,         /* node a, min to max times */
    LLM_GN_REF,         /* rule a */
    LLM_GN_MEMBERS,     /* pairs in order, see llm_gn_members */
    LLM_GN_DFA,         /* automaton a */
    LLM_GN_BOL,         /* ^ and $, only inside the regex parser */
    LLM_GN_EOL
} llm_gkind_t;

typedef struct {
    uint8_t  kind, json, lo, hi;
    uint32_t a, n, min, max;
} llm_gnode_t;

typedef struct { uint32_t *v, n, cap; } llm_gvec_t;
typedef struct { uint32_t lo, hi; } llm_grange_t;
typedef struct { llm_grange_t *r; uint32_t n, cap; } llm_gset_t;

/* A deterministic automaton; state 0 is the entry. Edges of a state ascend; without calls it is a
 * regular language. */
typedef struct {
    uint32_t edge, call;
    uint32_t n_edges, n_calls;
    bool     final;
} llm_gdstate_t;

typedef struct {
    llm_gdstate_t *st;
    llm_gedge_t   *ed;
    llm_gcall_t   *ca;
    uint32_t n, cap, n_ed, cap_ed, n_ca, cap_ca;
} llm_gdfa_t;

typedef enum { LLM_GR_PLAIN, LLM_GR_STRING, LLM_GR_LIST } llm_grkind_t;

enum { LLM_GB_PRIVATE, LLM_GB_STRING, LLM_GB_NUMBER, LLM_GB_INTEGER, LLM_GB_VALUE };

typedef struct {
    uint32_t     body;          /* PLAIN: a node; LIST: the item */
    llm_grkind_t kind;
    uint32_t     min, max;
    uint8_t      open, close;   /* LIST: brackets */
    bool         empty;         /* LIST: nothing between the brackets is a list too */
    uint32_t     builtin;
    uint32_t     name, n_name;  /* bytes[], for messages; n_name 0: none */
    bool         defined;
    /* filled by grammar_build.c */
    bool         nullable, call;
    uint32_t     size, depth, uses;
} llm_gbrule_t;

/* Fragment of an NFA that reads one character (grammar_class.c). */
typedef struct {
    uint32_t edge, n_edges;
} llm_gfstate_t;

typedef struct {
    uint32_t st, n_st, root;    /* states in frag_st */
} llm_gfrag_t;

typedef struct {
    uint32_t to, next;
    uint32_t rule;              /* call */
    uint8_t  kind, lo, hi, op;
} llm_gnedge_t;

typedef struct {
    uint32_t *first, *last;     /* per state: list of edges, in order */
    uint32_t  n, cap, cap_last;
    llm_gnedge_t *ed;
    uint32_t  n_ed, cap_ed;
} llm_gnfa_t;

enum { LLM_GE_EPS, LLM_GE_BYTE, LLM_GE_CALL };

/* Sets of Unicode classes that were made already. */
#define LLM_GB_KNOWN 16
typedef struct { unsigned any, none; uint32_t set; } llm_gknown_t;

#define LLM_GB_MAX_WORK  60000000u
#define LLM_GB_MAX_MEM   (64u << 20)
#define LLM_GB_MAX_STATES 100000u

typedef struct {
    llm_err_t  *err;
    llm_code_t  rc;             /* the first failure; everything after it does nothing */
    uint32_t    work;
    size_t      mem;
    llm_gbytes_t alphabet;

    llm_gnode_t *node;
    uint32_t     n_node, cap_node;
    llm_gvec_t   kids;
    uint8_t     *bytes;
    uint32_t     n_bytes, cap_bytes;
    llm_gset_t  *set;           /* interned */
    uint32_t     n_set, cap_set;
    llm_gbrule_t *rule;
    uint32_t     n_rule, cap_rule;
    llm_gdfa_t  *dfa;
    uint32_t     n_dfa, cap_dfa;

    llm_gfrag_t  *frag;         /* [2 * set + json]; n_st 0: not made yet */
    uint32_t      cap_frag;
    llm_gfstate_t *frag_st;
    uint32_t      n_frag_st, cap_frag_st;
    llm_gedge_t  *frag_ed;
    uint32_t      n_frag_ed, cap_frag_ed;

    llm_gnfa_t   nfa;
    uint32_t     building;      /* the rule whose automaton is in nfa */
    uint32_t     strchar;       /* node of llm_gj_strchar; 0: not made yet */
    llm_gvec_t   strings;       /* rules of llm_gj_string */
    uint32_t     number, integer, value;    /* nodes of the built-in rules; 0: not made yet */
    llm_gknown_t known[LLM_GB_KNOWN];
    uint32_t     n_known;
    uint32_t     anychar_set;   /* set of all characters + 1; 0: not made yet */
} llm_gb_t;

/* -- grammar_node.c: sticky failure, memory, nodes, rules */

/* Fails with "grammar is not valid: ..." unless something failed before. Returns 0, the node that
 * matches nothing. */
uint32_t llm_gb_fail(llm_gb_t *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
uint32_t llm_gb_nomem(llm_gb_t *b);
/* Counts n units of work; false when the build has failed or must stop ("too complex"). */
bool llm_gb_work(llm_gb_t *b, uint32_t n);
/* Makes room for need elements; false after a failure. */
bool llm_gb_room(llm_gb_t *b, void *array, uint32_t *cap, uint64_t need, size_t elem);
void llm_gb_drop(llm_gb_t *b, void *array, uint32_t *cap, size_t elem);
bool llm_gvec_add(llm_gb_t *b, llm_gvec_t *v, uint32_t x);
void llm_gvec_drop(llm_gb_t *b, llm_gvec_t *v);
bool llm_gb_init(llm_gb_t *b, llm_err_t *err);
void llm_gb_free(llm_gb_t *b);

#define LLM_GB_ROOM(b, arr, cap, need) llm_gb_room(b, &(arr), &(cap), need, sizeof(*(arr)))
#define LLM_GB_DROP(b, arr, cap) llm_gb_drop(b, &(arr), &(cap), sizeof(*(arr)))

enum { LLM_GN_FAIL_NODE = 0, LLM_GN_EMPTY_NODE = 1 };

/* s NULL: the n bytes are already in b->bytes behind b->n_bytes. */
uint32_t llm_gn_lit(llm_gb_t *b, const void *s, size_t n);
uint32_t llm_gn_byte(llm_gb_t *b, uint8_t lo, uint8_t hi);
/* One of the characters of text. */
uint32_t llm_gn_oneof(llm_gb_t *b, const char *text);
uint32_t llm_gn_class(llm_gb_t *b, uint32_t set, bool json);
uint32_t llm_gn_seq(llm_gb_t *b, const uint32_t *kids, uint32_t n);
uint32_t llm_gn_seq2(llm_gb_t *b, uint32_t x, uint32_t y);
uint32_t llm_gn_seq3(llm_gb_t *b, uint32_t x, uint32_t y, uint32_t z);
uint32_t llm_gn_alt(llm_gb_t *b, const uint32_t *kids, uint32_t n);
uint32_t llm_gn_alt2(llm_gb_t *b, uint32_t x, uint32_t y);
uint32_t llm_gn_rep(llm_gb_t *b, uint32_t x, uint32_t min, uint32_t max);
uint32_t llm_gn_ref(llm_gb_t *b, uint32_t rule);
uint32_t llm_gn_dfa(llm_gb_t *b, llm_gdfa_t *d);    /* takes *d over */
/*
 * kids: n pairs (node, optional); items appear in order, the optional ones may be left out, `sep`
 * stands between two and `lead` before the first. extra (0: none): any number of them at the end.
 */
uint32_t llm_gn_members(llm_gb_t *b, const uint32_t *pairs, uint32_t n, uint32_t lead, uint32_t sep,
                        uint32_t extra);
/* A fresh rule without a body. */
uint32_t llm_gb_rule(llm_gb_t *b);

/* -- grammar_class.c: sets of characters */

bool llm_gset_add(llm_gb_t *b, llm_gset_t *s, uint32_t lo, uint32_t hi);
bool llm_gset_union(llm_gb_t *b, llm_gset_t *s, const llm_gset_t *o);
void llm_gset_normal(llm_gb_t *b, llm_gset_t *s);           /* sorted, disjoint, no surrogates */
bool llm_gset_negate(llm_gb_t *b, llm_gset_t *s);
/* Interns the normalised set (and empties *s); returns its index. */
uint32_t llm_gset_intern(llm_gb_t *b, llm_gset_t *s);
uint32_t llm_gset_any(llm_gb_t *b);                         /* all characters */
/* Adds the characters whose class (base/unicode.h) has a bit of `any`; none of `none`. */
bool llm_gset_add_class(llm_gb_t *b, llm_gset_t *s, unsigned any, unsigned none);
/* Adds those whose general category starts with name ("L", "Lu"); false: no such category. */
bool llm_gset_add_category(llm_gb_t *b, llm_gset_t *s, const char *name, size_t n);
/* The fragment that reads one character of the set; its edges to LLM_G_NONE end. NULL after a
 * failure. */
const llm_gfrag_t *llm_gfrag_get(llm_gb_t *b, uint32_t set, bool json);

/* -- grammar_nfa.c, grammar_dfa.c */

/* Builds the NFA of a rule (b->nfa, states 0 = start, 1 = final) and determinizes it into *d. */
bool llm_gdfa_rule(llm_gb_t *b, uint32_t rule, llm_gdfa_t *d);
/* The same for a node without calls. */
bool llm_gdfa_node(llm_gb_t *b, uint32_t node, llm_gdfa_t *d);
bool llm_gnfa_determinize(llm_gb_t *b, llm_gdfa_t *d);
void llm_gdfa_drop(llm_gb_t *b, llm_gdfa_t *d);
/* Joins equivalent states (grammar_min.c). */
bool llm_gdfa_minimize(llm_gb_t *b, llm_gdfa_t *d);
/* Texts of x that are (minus: are not) texts of y, for regular x and y; *out has no dead states (n
 * == 0: empty). */
bool llm_gdfa_product(llm_gb_t *b, const llm_gdfa_t *x, const llm_gdfa_t *y, bool minus,
                      llm_gdfa_t *out);
bool llm_gdfa_matches(const llm_gdfa_t *d, const void *s, size_t n);

/* Intersection and difference of nodes without calls; the node that matches nothing when it is
 * empty. */
uint32_t llm_gn_and(llm_gb_t *b, uint32_t x, uint32_t y);
uint32_t llm_gn_minus(llm_gb_t *b, uint32_t x, uint32_t y);

/* -- grammar_build.c */

/* The automata of all called rules, one after the other; rule 0 is the whole text. Calls name
 * entries of `rule`. */
typedef struct { uint32_t rule, state0, n_states; } llm_garule_t;
typedef struct {
    llm_gdfa_t    all;
    llm_garule_t *rule;
    uint32_t      n_rule, cap_rule;
} llm_gauto_t;

/* The block of a node; NULL after a failure. */
llm_grammar_t *llm_gb_finish(llm_gb_t *b, uint32_t node, size_t *bytes);

/* -- grammar_block.c */

/* Prunes, measures and writes the automaton; changes *g. NULL after a failure. */
llm_grammar_t *llm_gblock_write(llm_gb_t *b, llm_gauto_t *g, size_t *bytes);

/* -- front ends: each returns a node, 0 after a failure */

typedef enum {
    LLM_GRE_WHOLE,      /* a regular expression on its own: the whole text matches */
    LLM_GRE_SEARCH      /* `pattern` of a schema: matches somewhere; text as inside a JSON string */
} llm_gre_mode_t;

uint32_t llm_gb_regex(llm_gb_t *b, const char *text, size_t len, llm_gre_mode_t mode,
                      const char *what);
uint32_t llm_gb_gbnf(llm_gb_t *b, const char *text, size_t len);
/* vocab may be NULL: no special tokens. */
uint32_t llm_gb_calls(llm_gb_t *b, const llm_gvocab_t *vocab, const char *text, size_t len);
uint32_t llm_gb_schema(llm_gb_t *b, const char *text, size_t len);
/* A schema that starts at text and ends before the rest of it; *used: its bytes. */
uint32_t llm_gb_schema_at(llm_gb_t *b, const char *text, size_t len, size_t *used);

/* -- grammar_json.c: pieces of JSON that need no schema */

uint32_t llm_gj_space(llm_gb_t *b);                             /* an optional space */
uint32_t llm_gj_strchar(llm_gb_t *b); /* a character of a string, every way to write it */
uint32_t llm_gj_anychars(llm_gb_t *b, uint32_t min,
                         uint32_t max); /* characters written the canonical way */
uint32_t llm_gj_string(llm_gb_t *b, uint32_t min,
                       uint32_t max); /* a string of so many characters */
uint32_t llm_gj_number(llm_gb_t *b);
uint32_t llm_gj_integer(llm_gb_t *b);
uint32_t llm_gj_value(llm_gb_t *b);                             /* any value */
uint32_t llm_gj_object(llm_gb_t *b);                            /* any object */
uint32_t llm_gj_array(llm_gb_t *b);
uint32_t llm_gj_pair(llm_gb_t *b, uint32_t key, uint32_t value);    /* key, colon, value */
/* The text of a string, canonical, without (quoted: with) its quotes. */
uint32_t llm_gj_text(llm_gb_t *b, const char *s, size_t n, bool quoted);
/* Items between brackets, min to max of them. */
uint32_t llm_gj_list(llm_gb_t *b, char open, uint32_t item, char close, uint32_t min, uint32_t max);
uint32_t llm_gj_comma(llm_gb_t *b); /* a comma with its optional spaces */

/* -- grammar_range.c: numbers between limits */

/* Integers from lo to hi. */
uint32_t llm_gj_int_range(llm_gb_t *b, int64_t lo, int64_t hi);

/* A limit of numbers: exact when it is an integer. */
typedef struct {
    bool    present, exclusive, is_int;
    int64_t i;
    double  d;
} llm_gbound_t;

/* Decimal fractions without exponent within the bounds. */
uint32_t llm_gj_num_range(llm_gb_t *b, const llm_gbound_t *lo, const llm_gbound_t *hi);

#endif
