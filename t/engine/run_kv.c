/*
 * run_kv.c - pages: sharing, eviction order, and that a new leader derives the same state from the records.
 */
#include "../../engine/run/kv.c"
#include "tap.h"

#define N_PAGES 8
#define N_SLOTS 4
#define N_CTX   256

static llm_shared_t sh;

static void
make(void)
{
    sh = (llm_shared_t) { .n_slots = N_SLOTS, .n_pages = N_PAGES, .n_ctx = N_CTX, .top_stride = 1, .n_table = N_CTX / LLM_KV_PAGE + 1,
                          .page_bytes = 64, .hash_key = { 1, 2 } };
    sh.slot_bytes = llm_slot_bytes(sh.n_ctx, sh.n_table, sh.top_stride, 0);
    sh.slots = calloc(N_SLOTS, sh.slot_bytes);
    sh.pages = calloc(N_PAGES, sizeof(llm_page_t));
}

static uint32_t
n_pages(int slot)
{
    return atomic_load(&llm_slot(&sh, slot)->n_pages);
}

static uint32_t
page_of(int slot, int i)
{
    return llm_slot_table(&sh, llm_slot(&sh, slot))[i];
}

/* Every page is in exactly one place, and reference counts are those of the tables. */
static int
consistent(const llm_kv_t *kv)
{
    uint32_t refs[N_PAGES] = { 0 }, seen[N_PAGES] = { 0 }, cached = 0;
    for (int s = 0; s < N_SLOTS; s++) {
        for (uint32_t i = 0; i < n_pages(s); i++) {
            refs[page_of(s, (int) i)]++;
        }
    }
    for (uint32_t i = 0; i < kv->n_free; i++) {
        seen[kv->free_list[i]]++;
    }
    for (uint32_t p = kv->next[N_PAGES]; p != N_PAGES; p = kv->next[p]) {
        seen[p]++;
        cached++;
    }
    int good = cached == kv->n_cached;
    for (uint32_t p = 0; p < N_PAGES; p++) {
        good &= refs[p] == kv->refs[p] && seen[p] == (refs[p] == 0);
        good &= page_hash(kv, p) == 0 || index_find(kv, page_hash(kv, p)) == p;
    }
    return good;
}

/* A sequence of n tokens is computed in slot: pages are taken and full ones published. */
static void
compute(llm_kv_t *kv, int slot, const int32_t *tokens, uint32_t n)
{
    uint64_t chain = llm_kv_seed(kv, 0);
    uint32_t done = llm_kv_match(kv, llm_slot(&sh, slot), tokens, 0, n - 1, &chain);
    while (n_pages(slot) * LLM_KV_PAGE < n) {
        if (!llm_kv_grow(kv, llm_slot(&sh, slot))) {
            return;
        }
    }
    for (; done + LLM_KV_PAGE <= n; done += LLM_KV_PAGE) {
        uint64_t h = llm_kv_hash(kv, chain, tokens + done);
        llm_kv_publish(kv, llm_slot(&sh, slot), done / LLM_KV_PAGE, chain, h, tokens + done);
        chain = h;
    }
}

int
main(void)
{
    llm_err_t err;
    llm_kv_t *kv;
    int32_t a[N_CTX], b[N_CTX];
    uint64_t chain;

    for (int i = 0; i < N_CTX; i++) {
        a[i] = i;
        b[i] = i < 40 ? i : i + 1000;
    }
    make();
    ok(llm_kv_new(&kv, &sh, &err) == LLM_OK, "empty arena");
    is_int(llm_kv_n_free(kv), N_PAGES, "all pages are free");

    compute(kv, 0, a, 100);
    is_int(n_pages(0), 4, "100 tokens take four pages");
    compute(kv, 1, b, 70);
    is_int(n_pages(1), 3, "70 tokens take three");
    ok(page_of(0, 0) == page_of(1, 0), "the first page is shared");
    ok(page_of(0, 1) != page_of(1, 1), "the second is not: tokens differ inside it");
    is_int(kv->refs[page_of(0, 0)], 2, "two references");
    ok(consistent(kv), "consistent");

    llm_kv_release(kv, llm_slot(&sh, 0));
    is_int(llm_kv_n_cached(kv), 2, "the two full pages of the first sequence stay cached");
    is_int(llm_kv_n_free(kv), 3, "its last page is free");
    ok(consistent(kv), "consistent after release");

    chain = llm_kv_seed(kv, 1);
    is_int(llm_kv_match(kv, llm_slot(&sh, 2), a, 0, 99, &chain), 0, "another seed shares nothing");
    chain = llm_kv_seed(kv, 0);
    is_int(llm_kv_match(kv, llm_slot(&sh, 2), a, 0, 40, &chain), 32, "40 tokens: one whole page matches");
    is_int(llm_kv_match(kv, llm_slot(&sh, 2), a, 32, 95, &chain), 64, "on to 95 tokens: another one");
    ok(chain == page_hash(kv, page_of(2, 1)), "the chain goes on from the last matched page");
    llm_kv_release(kv, llm_slot(&sh, 2));

    /* a new leader sees the same */
    llm_kv_t *next;
    ok(llm_kv_new(&next, &sh, &err) == LLM_OK, "next leader");
    ok(consistent(next), "its state follows from the records");
    is_int(llm_kv_n_cached(next), llm_kv_n_cached(kv), "the same cache");
    is_int(llm_kv_n_free(next), llm_kv_n_free(kv), "the same free pages");
    llm_kv_free(kv);
    kv = next;

    /* eviction: free pages first, then the end of the oldest prefix */
    uint32_t deep = UINT32_MAX, shallow = page_of(1, 0);
    for (uint32_t p = 0; p < N_PAGES; p++) {
        if (kv->refs[p] == 0 && page_hash(kv, p) != 0 && sh.pages[p].tokens[0] == 64) {
            deep = p;
        }
    }
    ok(deep != UINT32_MAX, "page with tokens 64..95 is cached");
    for (int i = 0; i < 3; i++) {
        ok(llm_kv_grow(kv, llm_slot(&sh, 2)), "page %d from the free list", i);
    }
    ok(page_hash(kv, deep) != 0, "nothing evicted while pages are free");
    ok(llm_kv_grow(kv, llm_slot(&sh, 2)), "one page from the cache");
    is_int(page_of(2, 3), deep, "the deepest page of the unused prefix goes first");
    ok(page_hash(kv, shallow) != 0, "a page in use stays indexed");
    ok(llm_kv_grow(kv, llm_slot(&sh, 2)), "the last cached page");
    ok(!llm_kv_grow(kv, llm_slot(&sh, 2)), "then there is none");
    ok(consistent(kv), "consistent when full");

    /* random life, checked after each step and against a rebuilt state */
    srand(7);
    int bad = 0;
    for (int s = 0; s < N_SLOTS; s++) {
        llm_kv_release(kv, llm_slot(&sh, s));
    }
    for (int i = 0; i < 20000; i++) {
        int s = rand() % N_SLOTS;
        if (n_pages(s) > 0) {
            llm_kv_release(kv, llm_slot(&sh, s));
        } else {
            int32_t t[N_CTX];
            for (int j = 0; j < N_CTX; j++) {
                t[j] = j / 32 <= rand() % 3 ? j : j + rand() % 2;
            }
            compute(kv, s, t, 1 + (uint32_t) (rand() % 120));
        }
        bad += !consistent(kv);
        if (i % 500 == 0) {
            bad += llm_kv_new(&next, &sh, &err) != LLM_OK || !consistent(next);
            llm_kv_free(kv);
            kv = next;
        }
    }
    is_int(bad, 0, "20000 random steps keep the invariants");

    llm_kv_free(kv);
    free(sh.slots);
    free(sh.pages);
    return done_testing();
}
