/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_cache_meta - tests of what the meta commands ask of the cache: uniques of clients, stale items, who is to renew
 * them, items made for the want of them, what is left of a delete, and numbers with all of that.
 */
#include "cache_tests.h"

static struct cache *cache;

/* A meta get; the item is released. Whether the key was there. */
static bool ask(const char *key, struct cache_ask asked, struct cache_state *state)
{
    struct cache_item *item = cache_meta_get(cache, key, strlen(key), &asked, state);

    if (item != NULL)
        cache_item_release(item);
    return item != NULL;
}

static struct cache_state state_of(const char *key)
{
    struct cache_state state;

    if (!ask(key, (struct cache_ask){.is_silent = true}, &state))
        memset(&state, 0, sizeof(state));
    return state;
}

static enum cache_result set_with(const char *key, const char *value, enum cache_mode mode, struct cache_props props,
                                  struct cache_terms *terms)
{
    enum cache_result result;
    struct cache_item *item = cache_item_alloc_with(cache, key, strlen(key), &props, strlen(value), &result);

    if (item == NULL)
        return result;
    memcpy(cache_item_value(item), value, strlen(value));
    return cache_store_with(cache, item, mode, terms);
}

/* A set with a unique of its own. */
static bool set_own(const char *key, const char *value, uint64_t unique)
{
    struct cache_terms terms = {.unique = 0};

    return set_with(key, value, CACHE_SET, (struct cache_props){.own = true, .unique = unique}, &terms) ==
               CACHE_STORED &&
           terms.unique == unique;
}

static enum cache_result removal(const char *key, struct cache_removal how)
{
    return cache_meta_delete(cache, key, strlen(key), &how);
}

static void check_uniques(void)
{
    struct cache_terms terms = {.unique = 0};
    uint64_t unique, before;

    cache = new_cache(MIB, true);
    check(set_own("k", "v", 5) && unique_of(cache, "k") == 5 && get_is(cache, "k", "v"), "a unique that was given");
    check(set_own("k", "w", 3) && unique_of(cache, "k") == 3, "and another, though less");
    check(set_own("k", "v", UINT64_MAX) && unique_of(cache, "k") == UINT64_MAX, "any of 64 bits");
    check(set_own("k", "v", 0) && unique_of(cache, "k") == 0, "none is one");
    check(set_own("k", "v", 77), "one more");
    unique = 76;
    check(store_bytes(cache, CACHE_CAS, "k", 1, "x", 1, 0, 0, &unique) == CACHE_EXISTS, "cas with another");
    unique = 77;
    check(store_bytes(cache, CACHE_CAS, "k", 1, "x", 1, 0, 0, &unique) == CACHE_STORED && unique != 77 &&
              get_is(cache, "k", "x") && unique_of(cache, "k") == unique,
          "cas with it, and the next is the cache's");
    before = stats_of(cache).bytes_held;
    check(set_own("k", "v", 9) && store(cache, CACHE_APPEND, "k", "w") == CACHE_STORED && get_is(cache, "k", "vw") &&
              unique_of(cache, "k") != 9,
          "append without one");
    terms = (struct cache_terms){.unique = unique_of(cache, "k")};
    check(set_with("k", "x", CACHE_APPEND, (struct cache_props){.own = true, .unique = 11}, &terms) == CACHE_STORED &&
              terms.unique == 11 && terms.nvalue == 3 && unique_of(cache, "k") == 11,
          "append with one, and its size");
    for (unsigned i = 0; i < 20000; i++)
        if (!set_own("many", i % 2 ? "odd" : "even", i))
            check(false, "set %u", i);
    check(stats_of(cache).bytes_held <= before + MIB && unique_of(cache, "many") == 19999, "they give memory back");

    /* flush_all goes by the cache's own order. */
    check(set_own("old", "v", UINT64_MAX), "a large one");
    cache_flush(cache, 0);
    check(get_is(cache, "old", NULL) && get_is(cache, "k", NULL), "flushed, however large");
    check(set_own("new", "v", 1) && get_is(cache, "new", "v"), "alive, however small");
    cache_destroy(cache);
}

/* They are moved when memory is short. */
static void check_moves(void)
{
    char key[16];
    unsigned right = 0, there = 0;

    cache = new_cache(4 * MIB, true);
    for (unsigned long i = 0; i < 60000; i++) {
        set_own(key_of(key, i), "some bytes of a value, and some more of them, and a few at the end", i + 7);
        access_key(cache, key);
        if (i % 3 == 0)
            access_key(cache, key_of(key, i / 3));
    }
    for (unsigned long i = 0; i < 60000; i++) {
        uint64_t unique = unique_of(cache, key_of(key, i));

        there += unique != 0;
        right += unique == i + 7;
    }
    check(stats_of(cache).counters.moves_to_main > 0 && there > 1000 && right == there, "%u of %u after moves", right,
          there);
    cache_destroy(cache);
}

static void check_asking(void)
{
    struct cache_state state;

    cache = new_cache(MIB, true);
    check(!ask("k", (struct cache_ask){.touches = true}, &state), "a miss");
    store_bytes(cache, CACHE_SET, "k", 1, "v", 1, 9, NOW + 100, NULL);
    cache_set_clock(cache, NOW + 7);
    check(ask("k", (struct cache_ask){.is_silent = true}, &state) && !state.is_fetched && state.time == NOW &&
              state.exptime == NOW + 100 && state.unique != 0,
          "silently");
    check(ask("k", (struct cache_ask){.is_silent = false}, &state) && !state.is_fetched && state.time == NOW,
          "as it was before");
    check(ask("k", (struct cache_ask){.touches = true, .exptime = NOW + 50}, &state) && state.is_fetched &&
              state.time == NOW + 7 && state.old_exptime == NOW + 100 && state.exptime == NOW + 50,
          "as it has become, and touched");
    check(stats_of(cache).all.touch_hits == 1 && stats_of(cache).all.get_hits == 2 &&
              stats_of(cache).counters.get_misses == 1,
          "counted as a touch only if the key is there");

    check(ask("k", (struct cache_ask){.recaches = true, .recache = NOW + 40}, &state) && !state.won && !state.is_sent,
          "time is left");
    check(ask("k", (struct cache_ask){.recaches = true, .recache = NOW + 51}, &state) && state.won && !state.is_sent,
          "little time is left: won");
    check(ask("k", (struct cache_ask){.recaches = true, .recache = NOW + 51}, &state) && !state.won && state.is_sent,
          "once");
    check(set(cache, "k", "w") && ask("k", (struct cache_ask){.recaches = true, .recache = UINT32_MAX}, &state) &&
              !state.won && !state.is_sent,
          "what lives for good is not renewed, and a store begins anew");
    check(ask("k",
              (struct cache_ask){
                  .touches = true, .touches_first = true, .exptime = NOW + 20, .recaches = true, .recache = NOW + 30},
              &state) &&
              state.won,
          "touched before it is looked at");

    check(ask("n", (struct cache_ask){.vivifies = true, .vivify_exptime = NOW + 30}, &state) && state.won &&
              !state.is_sent && state.exptime == NOW + 30 && get_is(cache, "n", ""),
          "made for the want of it");
    check(ask("n", (struct cache_ask){.vivifies = true, .vivify_exptime = NOW + 90}, &state) && !state.won &&
              state.is_sent && state.exptime == NOW + 30,
          "once");
    check(ask("o", (struct cache_ask){.vivifies = true, .own = true, .own_unique = 4, .binary_key = true}, &state) &&
              state.unique == 4 && state.binary_key,
          "with a unique, and a binary key");
    cache_destroy(cache);

    cache = new_cache(MIB, false);
    for (unsigned long i = 0; i < 4000; i++) {
        char key[16];

        if (set_filled(cache, key_of(key, i), 1000, 0) != CACHE_STORED)
            break;
    }
    check(!ask("none", (struct cache_ask){.vivifies = true}, &state) || state.won, "without memory it is a miss");
    cache_destroy(cache);
}

static void check_removal(void)
{
    struct cache_terms terms;
    struct cache_state state;
    uint64_t unique;

    cache = new_cache(MIB, true);
    check(removal("k", (struct cache_removal){.invalidates = true}) == CACHE_NOT_FOUND, "nothing to remove");
    store_bytes(cache, CACHE_SET, "k", 1, "v", 1, 9, NOW + 100, NULL);
    unique = unique_of(cache, "k");
    check(removal("k", (struct cache_removal){.compares = true, .unique = unique + 1}) == CACHE_EXISTS &&
              removal("k", (struct cache_removal){.compares = true, .unique = 0}) == CACHE_EXISTS,
          "with another unique");
    check(removal("k", (struct cache_removal){.invalidates = true, .compares = true, .unique = unique}) ==
                  CACHE_STORED &&
              get_is(cache, "k", "v"),
          "invalidated with the right one");
    check(ask("k", (struct cache_ask){.is_silent = true}, &state) && state.is_stale && state.won && !state.is_sent &&
              state.unique != unique && state.exptime == NOW + 100,
          "it is stale, and to be renewed");
    check(ask("k", (struct cache_ask){.is_silent = true}, &state) && state.is_stale && !state.won && state.is_sent,
          "by one");
    check(removal("k", (struct cache_removal){.invalidates = true, .touches = true, .exptime = NOW + 30}) ==
                  CACHE_STORED &&
              ask("k", (struct cache_ask){.is_silent = true}, &state) && state.won && state.exptime == NOW + 30,
          "invalidated again: by another, and soon");

    /* What is stored with an older unique stays stale. */
    terms = (struct cache_terms){.unique = 1};
    check(set_with("k", "w", CACHE_CAS, (struct cache_props){.exptime = 0}, &terms) == CACHE_EXISTS, "an older unique");
    terms = (struct cache_terms){.unique = 1, .allows_stale = true};
    check(set_with("k", "w", CACHE_CAS, (struct cache_props){.exptime = 0}, &terms) == CACHE_STORED &&
              ask("k", (struct cache_ask){.is_silent = true}, &state) && state.is_stale && state.is_sent &&
              !state.won && state.exptime == NOW + 30 && get_is(cache, "k", "w"),
          "if it may be");
    terms = (struct cache_terms){.unique = state.unique + 1, .allows_stale = true};
    check(set_with("k", "x", CACHE_CAS, (struct cache_props){.exptime = 0}, &terms) == CACHE_EXISTS,
          "but not a newer one");
    terms = (struct cache_terms){.unique = state.unique, .allows_stale = true};
    check(set_with("k", "x", CACHE_CAS, (struct cache_props){.exptime = 0}, &terms) == CACHE_STORED, "the right one");
    state = state_of("k");
    check(!state.is_stale && !state.is_sent && !state.won && state.exptime == 0, "makes it good");

    unique = state.unique;
    store_bytes(cache, CACHE_SET, "k", 1, "v", 1, 9, NOW + 100, &unique);
    check(removal("k", (struct cache_removal){.removes_value = true, .flags = 3}) == CACHE_STORED &&
              get_is(cache, "k", "") && unique_of(cache, "k") == unique && state_of("k").exptime == 0 &&
              !state_of("k").is_stale,
          "its value alone: the unique stays");
    check(removal("k",
                  (struct cache_removal){
                      .removes_value = true, .invalidates = true, .touches = true, .exptime = NOW + 1}) ==
                  CACHE_STORED &&
              unique_of(cache, "k") != unique && state_of("k").is_stale && state_of("k").exptime == NOW + 1,
          "and invalidated");
    check(removal("k", (struct cache_removal){.invalidates = true, .own = true, .own_unique = 6}) == CACHE_STORED &&
              unique_of(cache, "k") == 6,
          "with a unique");
    check(removal("k", (struct cache_removal){.compares = true, .unique = 6}) == CACHE_STORED &&
              get_is(cache, "k", NULL) && stats_of(cache).all.delete_hits == 2,
          "and removed at last");
    cache_destroy(cache);
}

static void check_numbers(void)
{
    struct cache_arith a = {.incr = true, .delta = 5};
    struct cache_terms terms = {.unique = 0, .vivifies = true};

    cache = new_cache(MIB, true);
    check(cache_arith_with(cache, "n", 1, &a) == CACHE_NOT_FOUND, "no number");
    a = (struct cache_arith){.incr = true,
                             .delta = 5,
                             .vivifies = true,
                             .initial = 13,
                             .vivify_exptime = NOW + 30,
                             .own = true,
                             .own_unique = 200};
    check(cache_arith_with(cache, "n", 1, &a) == CACHE_STORED && a.value == 13 && a.unique == 200 &&
              a.exptime == NOW + 30 && get_is(cache, "n", "13"),
          "it begins with one");
    a = (struct cache_arith){.incr = true, .delta = 5, .vivifies = true, .initial = 13};
    check(cache_arith_with(cache, "n", 1, &a) == CACHE_STORED && a.value == 18 && a.unique != 200 &&
              unique_of(cache, "n") == a.unique && a.exptime == NOW + 30,
          "then it is added to, in place");
    a = (struct cache_arith){.delta = 1, .unique = a.unique + 1};
    check(cache_arith_with(cache, "n", 1, &a) == CACHE_EXISTS, "not with another unique");
    a = (struct cache_arith){.delta = 1, .touches = true, .exptime = NOW + 90, .unique = a.unique - 1};
    check(cache_arith_with(cache, "n", 1, &a) == CACHE_STORED && a.value == 17 && a.old_exptime == NOW + 30 &&
              a.exptime == NOW + 90 && state_of("n").exptime == NOW + 90,
          "with the right one, and touched");
    a = (struct cache_arith){.incr = true, .delta = 100, .own = true, .own_unique = 8};
    check(cache_arith_with(cache, "n", 1, &a) == CACHE_STORED && a.value == 117 && a.unique == 8 &&
              unique_of(cache, "n") == 8 && a.exptime == NOW + 90 && get_is(cache, "n", "117"),
          "anew, with a unique");

    check(set_with("t", "ab", CACHE_PREPEND, (struct cache_props){.flags = 4, .exptime = NOW + 5}, &terms) ==
                  CACHE_STORED &&
              terms.nvalue == 2 && get_is(cache, "t", "ab") && state_of("t").exptime == NOW + 5,
          "prepend to nothing");
    check(set_with("t", "c", CACHE_PREPEND, (struct cache_props){.flags = 5}, &terms) == CACHE_STORED &&
              terms.nvalue == 3 && get_is(cache, "t", "cab"),
          "and to something");
    cache_destroy(cache);
}

int main(void)
{
    check_uniques();
    check_moves();
    check_asking();
    check_removal();
    check_numbers();
    return tap_end();
}
