/*
 * grammar_oneof.c - whether the values of one schema are all refused by another.
 *
 * oneOf is anyOf when that holds between all its schemas. The proof only looks at what is cheap and
 * common: types, enumerated values, limits of numbers, and members that tell variants apart. What
 * it cannot prove counts as not excluded.
 */
#include "run/grammar_schema.h"

#define MAX_DEPTH 6

/*
 * Values of the enum that f allows by type and the other enums; NULL: none (index behind the last).
 */
static bool
has_value(const llm_gflat_t *f, const json_t *v)
{
    if (!(llm_gs_type_of(v) & f->types)) {
        return false;
    }
    for (uint32_t i = 0; i < f->enums.n; i++) {
        bool found = false;
        for (size_t k = 0; !found && k < json_array_size(f->enums.v[i]); k++) {
            found = llm_gs_equal(v, json_array_get(f->enums.v[i], k));
        }
        if (!found) {
            return false;
        }
    }
    return true;
}

/* Neither enum nor type lets a value of a through b. */
static bool
enums_exclude(llm_gsch_t *s, const llm_gflat_t *a, const llm_gflat_t *b)
{
    const llm_gflat_t *list = a->has_enum ? a : b, *other = a->has_enum ? b : a;
    json_t *values = list->enums.v[0];
    for (size_t i = 0; i < json_array_size(values) && llm_gb_work(s->b, 8); i++) {
        json_t *v = json_array_get(values, i);
        if (has_value(list, v) && has_value(other, v)) {
            return false;
        }
    }
    return true;
}

static bool
bounds_exclude(const llm_gbound_t *hi, const llm_gbound_t *lo)
{
    double h = hi->is_int ? (double) hi->i : hi->d, l = lo->is_int ? (double) lo->i : lo->d;
    return hi->present && lo->present && (h < l || (h == l && (hi->exclusive || lo->exclusive)));
}

/* a requires the member, and what it may hold there is refused by b. */
static bool
member_excludes(llm_gsch_t *s, const llm_gflat_t *a, const llm_gflat_t *b, const char *key,
                unsigned depth)
{
    llm_gitems_t x = { 0 }, y = { 0 };
    bool listed_x, listed_y, out = false;
    bool can_x = llm_gs_member(s, a, key, &x, &listed_x),
         can_y = llm_gs_member(s, b, key, &y, &listed_y);
    if (s->b->rc == LLM_OK) {
        out = !can_x || !can_y || (x.n > 0 && y.n > 0 && llm_gs_excludes(s, &x, &y, depth + 1));
    }
    LLM_GB_DROP(s->b, x.v, x.cap);
    LLM_GB_DROP(s->b, y.v, y.cap);
    return out;
}

/* b requires the member and a never writes it. */
static bool
never_written(llm_gsch_t *s, const llm_gflat_t *a, const char *key)
{
    llm_gitems_t x = { 0 };
    bool listed = false, can = llm_gs_member(s, a, key, &x, &listed), named = false;
    LLM_GB_DROP(s->b, x.v, x.cap);
    if (s->b->rc != LLM_OK) {
        return false;
    }
    for (uint32_t i = 0; i < a->objects.n; i++) {
        json_t *more = json_object_get(a->objects.v[i], "additionalProperties");
        if ((more != NULL && !json_is_false(more))
            || json_object_get(a->objects.v[i], "patternProperties") != NULL)
        {
            return !can;
        }
        named = named || json_object_get(a->objects.v[i], "properties") != NULL;
    }
    return !can || (named && !listed && !llm_gs_requires(a, key));
}

static bool
objects_exclude(llm_gsch_t *s, const llm_gflat_t *a, const llm_gflat_t *b, unsigned depth)
{
    for (int side = 0; side < 2; side++) {
        const llm_gflat_t *f = side == 0 ? a : b;
        for (uint32_t i = 0; i < f->objects.n; i++) {
            json_t *list = json_object_get(f->objects.v[i], "required");
            for (size_t k = 0; k < json_array_size(list); k++) {
                const char *key = json_string_value(json_array_get(list, k));
                if (key == NULL || !llm_gb_work(s->b, 8)) {
                    return false;
                }
                if (side == 0 ? member_excludes(s, a, b, key, depth) : never_written(s, a, key)) {
                    return true;
                }
            }
        }
    }
    return false;
}

static bool
flats_exclude(llm_gsch_t *s, const llm_gflat_t *a, const llm_gflat_t *b, unsigned depth)
{
    unsigned both = llm_gs_types(a) & b->types;
    if (a->fail || b->fail || both == 0) {
        return true;
    }
    if (b->whole && llm_gs_types(a) == LLM_GT_FRACTION) {
        return true;
    }
    if ((a->has_enum || b->has_enum) && enums_exclude(s, a, b)) {
        return true;
    }
    if ((both & ~(unsigned) LLM_GT_NUMBER) == 0) {
        return bounds_exclude(&a->hi, &b->lo) || bounds_exclude(&b->hi, &a->lo);
    }
    return both == LLM_GT_OBJECT && objects_exclude(s, a, b, depth);
}

/* The items with branch i of the open choice instead of the choice. */
static bool
branch(llm_gsch_t *s, const llm_gflat_t *f, size_t i, llm_gitems_t *out)
{
    for (uint32_t k = 0; k < f->seen.n; k++) {
        llm_gitem_t it = f->seen.v[k];
        it.done |= LLM_GI_EXPANDED;
        if (it.s == f->choice_owner) {
            it.done |= f->one_of ? LLM_GI_ONEOF : LLM_GI_ANYOF;
        }
        llm_gitems_add(s->b, out, it.s, it.done);
    }
    return llm_gitems_add(s->b, out, json_array_get(f->choice, i), 0);
}

/* Every branch of the choice of f (side 0: of a, side 1: of b) excludes the other side. */
static bool
branches_exclude(llm_gsch_t *s, const llm_gflat_t *f, const llm_gitems_t *other, int side,
                 unsigned depth)
{
    bool all = true;
    for (size_t i = 0; all && i < json_array_size(f->choice) && s->b->rc == LLM_OK; i++) {
        llm_gitems_t x = { 0 };
        all = branch(s, f, i, &x) && (side == 0 ? llm_gs_excludes(s, &x, other, depth + 1)
                                                : llm_gs_excludes(s, other, &x, depth + 1));
        LLM_GB_DROP(s->b, x.v, x.cap);
    }
    return all;
}

bool
llm_gs_excludes(llm_gsch_t *s, const llm_gitems_t *a, const llm_gitems_t *b, unsigned depth)
{
    llm_gflat_t fa = { 0 }, fb = { 0 };
    bool out = false;
    if (depth <= MAX_DEPTH && llm_gb_work(s->b, 64) && llm_gs_flatten(s, a, &fa)
        && llm_gs_flatten(s, b, &fb))
    {
        out = flats_exclude(s, &fa, &fb, depth);
        if (!out && fb.choice != NULL) {
            out = branches_exclude(s, &fb, a, 1, depth);
        }
        if (!out && fa.choice != NULL) {
            out = branches_exclude(s, &fa, b, 0, depth);
        }
    }
    llm_gs_flat_drop(s, &fa);
    llm_gs_flat_drop(s, &fb);
    return out && s->b->rc == LLM_OK;
}
