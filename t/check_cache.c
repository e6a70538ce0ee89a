/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_cache - tests of the cache's operations: each of them and each of its results, time, flush_all, what holders
 * see, what happens when allocations fail, walks, stats. Memory and threads: check_cache_load.c.
 */
#include <sys/mman.h>

#include "cache_int.h" /* for the secrets of the hash, and a counter */
#include "cache_tests.h"

/* --- allocations that fail --- */

void *__wrap_malloc(size_t n);
void *__real_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__real_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t alignment, size_t n);
void *__real_aligned_alloc(size_t alignment, size_t n);
void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);
void *__real_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset);

static size_t allocs_left = SIZE_MAX; /* SIZE_MAX: any number */
static bool fails_once;               /* the one after that fails, and none after it; else all */
static size_t allocs_failed;

static bool may_allocate(void)
{
    if (allocs_left == SIZE_MAX)
        return true;
    if (allocs_left > 0) {
        allocs_left--;
        return true;
    }
    if (fails_once)
        allocs_left = SIZE_MAX;
    allocs_failed++;
    return false;
}

void *__wrap_malloc(size_t n)
{
    return may_allocate() ? __real_malloc(n) : NULL;
}

void *__wrap_calloc(size_t n, size_t size)
{
    return may_allocate() ? __real_calloc(n, size) : NULL;
}

void *__wrap_realloc(void *p, size_t n)
{
    return may_allocate() ? __real_realloc(p, n) : NULL;
}

void *__wrap_aligned_alloc(size_t alignment, size_t n)
{
    return may_allocate() ? __real_aligned_alloc(alignment, n) : NULL;
}

void *__wrap_mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    return may_allocate() ? __real_mmap(at, n, prot, flags, fd, offset) : MAP_FAILED;
}

/* --- storing and getting --- */

static void check_modes(void)
{
    struct cache *cache = new_cache(MIB, true);

    check(get_is(cache, "k", NULL), "an empty cache has nothing");
    check(store(cache, CACHE_REPLACE, "k", "r") == CACHE_NOT_STORED && get_is(cache, "k", NULL), "replace: no key");
    check(store(cache, CACHE_APPEND, "k", "r") == CACHE_NOT_STORED && get_is(cache, "k", NULL), "append: no key");
    check(store(cache, CACHE_PREPEND, "k", "r") == CACHE_NOT_STORED && get_is(cache, "k", NULL), "prepend: no key");
    check(store(cache, CACHE_ADD, "k", "a") == CACHE_STORED && get_is(cache, "k", "a"), "add: no key");
    check(store(cache, CACHE_ADD, "k", "b") == CACHE_NOT_STORED && get_is(cache, "k", "a"), "add: a key");
    check(set(cache, "k", "longer") && get_is(cache, "k", "longer"), "set: another length");
    check(set(cache, "k", "LONGER") && get_is(cache, "k", "LONGER"), "set: the same length");
    check(store(cache, CACHE_REPLACE, "k", "r") == CACHE_STORED && get_is(cache, "k", "r"), "replace: a key");
    check(store(cache, CACHE_APPEND, "k", "-end") == CACHE_STORED && get_is(cache, "k", "r-end"), "append");
    check(store(cache, CACHE_PREPEND, "k", "begin-") == CACHE_STORED && get_is(cache, "k", "begin-r-end"), "prepend");
    check(store(cache, CACHE_APPEND, "k", "") == CACHE_STORED && get_is(cache, "k", "begin-r-end"), "append nothing");
    check(set(cache, "k", "") && get_is(cache, "k", ""), "an empty value");
    check(cache_delete(cache, "k", 1) && get_is(cache, "k", NULL), "delete: a key");
    check(!cache_delete(cache, "k", 1), "delete: no key");
    check(set(cache, "k", "v") && cache_drop(cache, "k", 1) && !cache_drop(cache, "k", 1), "drop");
    cache_destroy(cache);
}

static void check_item(void)
{
    struct cache *cache = new_cache(MIB, true);
    enum cache_result result;
    struct cache_item *item = cache_item_alloc(cache, "key", 3, 0xfffffffe, NOW + 10, 5, &result);
    bool is_right;

    check(item != NULL && item->nkey == 3 && item->nvalue == 5 && memcmp(cache_item_key(item), "key", 3) == 0 &&
              item->flags == 0xfffffffe && cache_item_exptime(item) == NOW + 10,
          "an item has what it was made of");
    check(get_is(cache, "key", NULL), "it is not in the cache yet");
    cache_item_release(item);
    check(get_is(cache, "key", NULL) && stats_of(cache).all.number == 0, "and need not ever be");

    result = store_bytes(cache, CACHE_SET, "key", 3, "value", 5, 7, NOW + 10, NULL);
    item = get(cache, "key");
    check(result == CACHE_STORED && item->flags == 7 && cache_item_exptime(item) == NOW + 10 && item->cas != 0 &&
              cache_item_time(item) == NOW,
          "and has it when it was got");
    cache_item_release(item);
    result = store_bytes(cache, CACHE_APPEND, "key", 3, "s", 1, 8, NOW + 20, NULL);
    item = get(cache, "key");
    is_right = result == CACHE_STORED && item->flags == 7 && cache_item_exptime(item) == NOW + 10;
    check(is_right && value_is(item, "values"), "append keeps flags and exptime");
    cache_item_release(item);
    result = store_bytes(cache, CACHE_SET, "key", 3, "VALUES", 6, 9, NOW + 30, NULL);
    item = get(cache, "key");
    check(result == CACHE_STORED && item->flags == 9 && cache_item_exptime(item) == NOW + 30, "set does not");
    cache_item_release(item);
    cache_destroy(cache);
}

/* Keys that differ in one byte, or in the length only, zeros among them. */
static void check_keys(void)
{
    struct cache *cache = new_cache(4 * MIB, true);
    uint8_t key[CACHE_KEY_MAX];
    bool stored = true, found = true, absent = true;
    struct cache_item *item;

    memset(key, 0, sizeof(key));
    for (size_t n = 1; n <= sizeof(key); n++)
        stored &= store_bytes(cache, CACHE_SET, key, n, &n, sizeof(n), 0, 0, NULL) == CACHE_STORED;
    for (size_t n = 1; n <= sizeof(key); n++) {
        key[n - 1] = 1;
        item = cache_get(cache, key, n);
        absent &= item == NULL;
        key[n - 1] = 0;
        item = cache_get(cache, key, n);
        found &= item != NULL && item->nkey == n && memcmp(cache_item_value(item), &n, sizeof(n)) == 0;
        if (item != NULL)
            cache_item_release(item);
    }
    check(stored && found && absent, "keys of 1 to %d bytes, of any bytes", CACHE_KEY_MAX);
    cache_destroy(cache);
}

static void check_unique(void)
{
    struct cache *cache = new_cache(MIB, true);
    uint64_t unique = 0, other = 0, kept;

    unique = 5;
    check(store_bytes(cache, CACHE_CAS, "k", 1, "v", 1, 0, 0, &unique) == CACHE_NOT_FOUND, "cas: no key");
    unique = 0;
    store_bytes(cache, CACHE_SET, "k", 1, "v", 1, 0, 0, &unique);
    check(unique != 0 && unique == unique_of(cache, "k"), "set tells the unique");
    store_bytes(cache, CACHE_SET, "l", 1, "v", 1, 0, 0, &other);
    check(other > unique, "uniques grow, over all keys");
    kept = unique;
    check(store_bytes(cache, CACHE_CAS, "k", 1, "w", 1, 0, 0, &unique) == CACHE_STORED && unique > other &&
              get_is(cache, "k", "w"),
          "cas: the unique fits");
    check(store_bytes(cache, CACHE_CAS, "k", 1, "x", 1, 0, 0, &kept) == CACHE_EXISTS && get_is(cache, "k", "w"),
          "cas: an old one does not");
    kept = 0;
    check(store_bytes(cache, CACHE_CAS, "k", 1, "x", 1, 0, 0, &kept) == CACHE_EXISTS &&
              store_bytes(cache, CACHE_CAS, "k", 1, "x", 1, 0, 0, NULL) == CACHE_EXISTS,
          "cas: none does not");
    check(cache_touch(cache, "k", 1, NOW + 5) && unique_of(cache, "k") == unique, "touch changes no unique");
    kept = unique;
    check(store_bytes(cache, CACHE_APPEND, "k", 1, "x", 1, 0, 0, &kept) == CACHE_STORED && kept > unique,
          "append with the right unique");
    check(store_bytes(cache, CACHE_APPEND, "k", 1, "x", 1, 0, 0, &unique) == CACHE_EXISTS && get_is(cache, "k", "wx"),
          "append with another");
    cache_destroy(cache);
}

static void check_sizes(void)
{
    const struct cache_options options = {.limit = 8 * MIB, .item_max = 1024, .evict = true, .seed = 1};
    struct cache *cache = new_cache(64 * MIB, true);
    char *value = calloc(1, 2 * MIB);
    struct cache_item *item = NULL;
    bool are_same = true;

    check(store_bytes(cache, CACHE_SET, "k", 1, value, MIB, 0, 0, NULL) == CACHE_TOO_LARGE, "a MiB is too large");
    check(store_bytes(cache, CACHE_SET, "k", 1, value, MIB - 100, 0, 0, NULL) == CACHE_STORED,
          "100 bytes less are not");
    check(store_bytes(cache, CACHE_APPEND, "k", 1, value, 200, 0, 0, NULL) == CACHE_NOT_STORED &&
              store_bytes(cache, CACHE_PREPEND, "k", 1, value, 200, 0, 0, NULL) == CACHE_NOT_STORED &&
              (item = get(cache, "k")) != NULL && item->nvalue == MIB - 100,
          "append or prepend that would make it too large leaves it");
    if (item != NULL)
        cache_item_release(item);
    check(store_bytes(cache, CACHE_SET, "k", 1, value, SIZE_MAX / 2, 0, 0, NULL) == CACHE_TOO_LARGE, "nor half of all");
    for (size_t n = 1; n < MIB - 100 && are_same; n = n * 5 / 3 + 1) {
        memset(value, (int)(n % 251), n);
        are_same = store_bytes(cache, CACHE_SET, "s", 1, value, n, 0, 0, NULL) == CACHE_STORED &&
                   (item = get(cache, "s")) != NULL && item->nvalue == n &&
                   memcmp(cache_item_value(item), value, n) == 0 && memcmp(cache_item_value(item) + n, "\r\n", 2) == 0;
        if (are_same)
            cache_item_release(item);
    }
    check(are_same, "values of many sizes come back");
    cache_destroy(cache);

    cache = cache_create(&options);
    check(store_bytes(cache, CACHE_SET, "k", 1, value, 1024, 0, 0, NULL) == CACHE_TOO_LARGE &&
              store_bytes(cache, CACHE_SET, "k", 1, value, 900, 0, 0, NULL) == CACHE_STORED,
          "item_max");
    cache_destroy(cache);
    free(value);
}

/* --- incr and decr --- */

static enum cache_result arith(struct cache *cache, const char *key, bool incr, uint64_t delta)
{
    uint64_t value;

    return cache_arith(cache, key, strlen(key), incr, delta, &value, NULL);
}

/* The result of incr or decr on a key with that value, which must then be `after`. */
static bool arith_is(struct cache *cache, const char *before, bool incr, uint64_t delta, enum cache_result wanted,
                     uint64_t number, const char *after)
{
    uint64_t value = 0;

    return set(cache, "n", before) && cache_arith(cache, "n", 1, incr, delta, &value, NULL) == wanted &&
           value == number && get_is(cache, "n", after);
}

static void check_arith(void)
{
    struct cache *cache = new_cache(MIB, true);
    uint64_t value = 0, unique, kept;
    struct cache_item *held;

    check(cache_arith(cache, "n", 1, true, 1, &value, NULL) == CACHE_NOT_FOUND, "incr: no key");
    check(arith_is(cache, "1", true, 1, CACHE_STORED, 2, "2"), "incr");
    check(arith_is(cache, "99", true, 1, CACHE_STORED, 100, "100"), "incr to one more digit");
    check(arith_is(cache, "100", false, 1, CACHE_STORED, 99, "99 "), "decr to one less: a blank behind it");
    check(arith_is(cache, "99 ", true, 1, CACHE_STORED, 100, "100"), "incr of that");
    check(arith_is(cache, "5", false, 6, CACHE_STORED, 0, "0"), "decr ends at 0");
    check(arith_is(cache, "18446744073709551615", true, 1, CACHE_STORED, 0, "0                   "), "incr wraps");
    check(arith_is(cache, "18446744073709551615", true, 0, CACHE_STORED, UINT64_MAX, "18446744073709551615"), "2^64-1");
    check(arith_is(cache, "1", true, UINT64_MAX - 1, CACHE_STORED, UINT64_MAX, "18446744073709551615"),
          "a large delta");
    check(arith_is(cache, "18446744073709551616", true, 1, CACHE_NON_NUMERIC, 0, "18446744073709551616"), "2^64");
    check(arith_is(cache, "007", true, 1, CACHE_STORED, 8, "8  "), "leading zeros");
    check(arith_is(cache, "hi", true, 1, CACHE_NON_NUMERIC, 0, "hi"), "letters");
    check(arith_is(cache, "1x", false, 1, CACHE_NON_NUMERIC, 0, "1x"), "a digit and a letter");
    check(arith_is(cache, "-1", true, 1, CACHE_NON_NUMERIC, 0, "-1"), "a sign");
    check(arith_is(cache, "", true, 1, CACHE_NON_NUMERIC, 0, ""), "nothing");
    check(arith_is(cache, "  ", true, 1, CACHE_NON_NUMERIC, 0, "  "), "blanks");

    store_bytes(cache, CACHE_SET, "n", 1, "9", 1, 77, NOW + 100, NULL);
    unique = kept = unique_of(cache, "n");
    check(cache_arith(cache, "n", 1, true, 1, &value, &unique) == CACHE_STORED && unique > kept &&
              unique == unique_of(cache, "n"),
          "incr with the right unique, and a new one");
    check(cache_arith(cache, "n", 1, true, 1, &value, &kept) == CACHE_EXISTS && get_is(cache, "n", "10"),
          "incr with another");
    held = get(cache, "n");
    check(held->flags == 77 && cache_item_exptime(held) == NOW + 100, "flags and exptime are kept");
    check(cache_arith(cache, "n", 1, true, 5, &value, NULL) == CACHE_STORED && value_is(held, "10") &&
              held->cas == unique && get_is(cache, "n", "15"),
          "incr of what is held makes another");
    cache_item_release(held);
    held = get(cache, "n");
    check(held->flags == 77 && cache_item_exptime(held) == NOW + 100, "with the same flags and exptime");
    cache_item_release(held);
    cache_destroy(cache);
}

/* --- what a holder sees --- */

static void check_held(void)
{
    struct cache *cache = new_cache(MIB, true);
    struct cache_item *held[6];
    char key[16];
    bool are_same = true;

    for (unsigned i = 0; i < 6; i++) {
        set(cache, key_of(key, i), "1");
        held[i] = get(cache, key);
    }
    store(cache, CACHE_APPEND, key_of(key, 0), "2");
    set(cache, key_of(key, 1), "2");
    arith(cache, key_of(key, 2), true, 1);
    cache_delete(cache, key_of(key, 3), 10);
    cache_touch(cache, key_of(key, 4), 10, 1);
    check(get_is(cache, key_of(key, 0), "12") && get_is(cache, key_of(key, 1), "2") &&
              get_is(cache, key_of(key, 2), "2") && get_is(cache, key_of(key, 3), NULL) &&
              get_is(cache, key_of(key, 4), NULL),
          "keys change while their items are held");
    cache_flush(cache, 0);
    check(get_is(cache, key_of(key, 5), NULL), "also by a flush");
    for (unsigned i = 100; i < (IS_SLOW ? 30000 : 100000); i++)
        set_filled(cache, key_of(key, i), 100, 0);
    while (!cache_crawl(cache, 1000))
        ;
    for (unsigned i = 0; i < 6; i++)
        are_same &= value_is(held[i], "1") && memcmp(held[i]->bytes, key_of(key, i), 10) == 0;
    check(are_same, "what is held stays, with much more than the memory stored meanwhile");
    check(stats_of(cache).all.evicted > 20000, "evicting");
    for (unsigned i = 0; i < 6; i++)
        cache_item_release(held[i]);
    cache_destroy(cache);
}

/* --- time --- */

static void check_exptime(void)
{
    const uint32_t days = 60 * 60 * 24;

    check(cache_exptime(0, NOW) == 0, "exptime 0: never");
    check(cache_exptime(1, NOW) == NOW + 1 && cache_exptime(30 * days, NOW) == NOW + 30 * days,
          "up to 30 days: from now");
    check(cache_exptime(30 * days + 1, NOW) == 30 * days + 1, "more: Unix time");
    check(cache_exptime(-1, NOW) != 0 && cache_exptime(-1, NOW) <= NOW && cache_exptime(INT64_MIN, NOW) <= NOW, "past");
    check(cache_exptime(INT64_MAX, NOW) == UINT32_MAX, "as late as can be");
}

static void check_expiry(void)
{
    struct cache *cache = new_cache(MIB, true);
    struct cache_stats stats;
    struct cache_item *item;

    store_bytes(cache, CACHE_SET, "k", 1, "v", 1, 0, NOW + 2, NULL);
    store_bytes(cache, CACHE_SET, "past", 4, "v", 1, 0, cache_exptime(-1, NOW), NULL);
    check(get_is(cache, "past", NULL), "what expired before it was stored");
    cache_set_clock(cache, NOW + 1);
    check(cache_clock(cache) == NOW + 1 && get_is(cache, "k", "v"), "a second before its time");
    cache_set_clock(cache, NOW + 2);
    check(get_is(cache, "k", NULL), "at its time it is gone");
    stats = stats_of(cache);
    check(stats.counters.get_expired == 2 && stats.all.expired_unfetched == 1 && stats.all.number == 0 &&
              stats.all.mem_requested == 0,
          "and counted");
    check(!cache_touch(cache, "k", 1, 0) && cache_gat(cache, "k", 1, 0) == NULL, "touch, gat: no key");
    store_bytes(cache, CACHE_SET, "k", 1, "v", 1, 0, NOW + 4, NULL);
    check(cache_touch(cache, "k", 1, NOW + 10), "touch: a key");
    cache_set_clock(cache, NOW + 9);
    item = cache_gat(cache, "k", 1, NOW + 20);
    check(item != NULL && value_is(item, "v") && cache_item_exptime(item) == NOW + 20, "gat");
    cache_item_release(item);
    cache_set_clock(cache, NOW + 19);
    check(get_is(cache, "k", "v") && cache_touch(cache, "k", 1, 1) && get_is(cache, "k", NULL), "touch to the past");

    store_bytes(cache, CACHE_SET, "k", 1, "1", 1, 0, NOW + 20, NULL);
    cache_set_clock(cache, NOW + 20);
    check(store(cache, CACHE_REPLACE, "k", "w") == CACHE_NOT_STORED &&
              store(cache, CACHE_ADD, "k", "w") == CACHE_STORED,
          "to stores, too, what expired is not there");
    cache_destroy(cache);
}

static void check_crawl(void)
{
    struct cache *cache = new_cache(4 * MIB, true);
    char key[16];
    unsigned calls = 0;
    struct cache_stats stats;

    for (unsigned i = 0; i < 10000; i++)
        set_filled(cache, key_of(key, i), 100, i % 2 ? NOW + 5 : 0);
    while (!cache_crawl(cache, 1000))
        calls++;
    stats = stats_of(cache);
    check(calls >= 10 && stats.all.number == 10000 && stats.all.crawler_items_checked == 10000, "crawl: none are dead");
    cache_set_clock(cache, NOW + 5);
    while (!cache_crawl(cache, 1000))
        ;
    stats = stats_of(cache);
    check(stats.all.number == 5000 && stats.all.crawler_reclaimed == 5000 && stats.all.expired_unfetched == 5000 &&
              stats.all.reclaimed == 5000,
          "crawl: half are");
    cache_destroy(cache);
}

static void check_flush(void)
{
    struct cache *cache = new_cache(MIB, true);

    set(cache, "k", "v");
    cache_flush(cache, 0);
    check(get_is(cache, "k", NULL) && store(cache, CACHE_APPEND, "k", "x") == CACHE_NOT_STORED, "flush_all");
    check(set(cache, "k", "w") && get_is(cache, "k", "w"), "what is stored in the same second after it");
    cache_flush(cache, cache_exptime(2, NOW));
    check(get_is(cache, "k", "w"), "flush_all 2: still there");
    cache_set_clock(cache, NOW + 1);
    check(set(cache, "l", "v") && get_is(cache, "k", "w"), "nor a second later");
    cache_set_clock(cache, NOW + 2);
    check(get_is(cache, "k", NULL) && get_is(cache, "l", NULL), "after two all is gone, stored before or after");
    check(set(cache, "k", "x") && get_is(cache, "k", "x"), "and keys can be stored again");
    cache_set_clock(cache, NOW + 3);
    check(get_is(cache, "k", "x"), "once only");
    cache_flush(cache, NOW + 5);
    cache_flush(cache, 0);
    set(cache, "k", "y");
    cache_set_clock(cache, NOW + 6);
    check(get_is(cache, "k", "y"), "flush_all takes the place of a delayed one");
    cache_flush(cache, NOW + 8);
    cache_flush(cache, NOW + 10);
    cache_set_clock(cache, NOW + 9);
    check(get_is(cache, "k", "y"), "a later one, too");
    cache_set_clock(cache, NOW + 20);
    check(get_is(cache, "k", NULL), "and comes when the clock leaps over it");
    set(cache, "k", "z");
    cache_flush(cache, cache_exptime(-1, NOW + 20));
    check(get_is(cache, "k", NULL), "a delay in the past is none");
    set(cache, "k", "z");
    cache_flush(cache, 0);
    crawl_all(cache);
    check(stats_of(cache).all.number == 0 && stats_of(cache).counters.cmd_flush == 8, "crawl frees what is flushed");
    cache_destroy(cache);
}

/* Without uniques memcached knows no more than the second. */
static void check_flush_second(void)
{
    const struct cache_options options = {.limit = MIB, .evict = true, .flush_second = true};
    struct cache *cache = cache_create(&options);
    uint64_t value;

    cache_set_clock(cache, NOW);
    check(set(cache, "k", "1") && get_is(cache, "k", "1"), "flush_all of a whole second: not yet");
    cache_flush(cache, 0);
    check(get_is(cache, "k", NULL), "what was stored before it");
    check(set(cache, "k", "1") && get_is(cache, "k", NULL) && store(cache, CACHE_REPLACE, "k", "2") == CACHE_NOT_STORED,
          "and after it, in the same second");
    check(set(cache, "k", "1") && cache_arith(cache, "k", 1, true, 1, &value, NULL) == CACHE_NOT_FOUND,
          "also for incr");
    set(cache, "k", "1");
    cache_set_clock(cache, NOW);
    check(get_is(cache, "k", NULL), "told the same time, it lasts");
    set(cache, "k", "1");
    cache_set_clock(cache, NOW + 1);
    check(get_is(cache, "k", NULL) && set(cache, "k", "1") && get_is(cache, "k", "1"), "in the next second it is over");
    cache_flush(cache, NOW + 2);
    check(get_is(cache, "k", "1"), "one that is delayed");
    cache_set_clock(cache, NOW + 2);
    check(get_is(cache, "k", NULL) && set(cache, "k", "1") && get_is(cache, "k", "1"), "takes the seconds before it");
    cache_destroy(cache);
}

/* --- walks --- */

enum { WALKED = 20000 };

struct walked {
    struct cache *cache;
    uint8_t seen[WALKED];
    unsigned others;
    bool adds; /* so that the table grows meanwhile */
};

static void note(void *arg, struct cache_item *item)
{
    struct walked *walked = arg;
    char key[16] = "";
    unsigned long i;

    memcpy(key, cache_item_key(item), item->nkey);
    i = strtoul(key + 1, NULL, 10);
    if (i < WALKED && is_filled(item))
        walked->seen[i]++;
    else
        walked->others++;
    if (walked->adds && i < WALKED)
        for (unsigned long more = 0; more < 3; more++)
            set_filled(walked->cache, key_of(key, (more + 1) * WALKED + i), 20, 0);
}

static bool walk(struct walked *walked)
{
    struct cache_cursor cursor = {0};

    memset(walked->seen, 0, sizeof(walked->seen));
    while (cache_walk(walked->cache, &cursor, 100, note, walked))
        ;
    for (unsigned i = 0; i < WALKED; i++)
        if (walked->seen[i] < 1 || (!walked->adds && walked->seen[i] > 1))
            return false;
    return true;
}

static void note_fetched(void *arg, struct cache_item *item)
{
    struct walked *walked = arg;

    walked->others += cache_item_fetched(walked->cache, item);
}

static unsigned num_fetched(struct walked *walked)
{
    struct cache_cursor cursor = {0};

    walked->others = 0;
    while (cache_walk(walked->cache, &cursor, 100, note_fetched, walked))
        ;
    return walked->others;
}

static void check_walk(void)
{
    static struct walked walked;
    char key[16];
    unsigned before, after;

    walked.cache = new_cache(64 * MIB, true);
    for (unsigned i = 0; i < WALKED; i++)
        set_filled(walked.cache, key_of(key, i), 20, 0);
    check(walk(&walked) && walked.others == 0, "a walk sees each item once");
    walked.adds = true;
    check(walk(&walked) && stats_of(walked.cache).all.number == 4 * WALKED,
          "and those that stay also when others come");
    before = num_fetched(&walked);
    access_key(walked.cache, key_of(key, 1));
    after = num_fetched(&walked);
    check(before == 0 && after == 1, "it knows what was fetched");
    cache_destroy(walked.cache);
}

/* --- keys of one bucket --- */

/* A key of 16 bytes, the first half of which is given. */
static bool set_number(struct cache *cache, uint64_t first, uint64_t number)
{
    uint64_t key[2] = {first, number};

    return store_bytes(cache, CACHE_SET, key, sizeof(key), "v", 1, 0, 0, NULL) == CACHE_STORED;
}

/* By how much the table grows with a thousand such keys; spread evenly they are one a shard, and seven would fit. */
static uint64_t growth_with(uint64_t seed, uint64_t first)
{
    const struct cache_options options = {.limit = 4 * MIB, .evict = true, .seed = seed};
    struct cache *cache = cache_create(&options);
    uint64_t before = stats_of(cache).hash_bytes, after;
    bool stored = true;

    for (uint64_t i = 0; i < 1000; i++)
        stored &= set_number(cache, first, i);
    after = stats_of(cache).hash_bytes;
    cache_destroy(cache);
    return stored ? after - before : UINT64_MAX;
}

/* Numbers that the hash once had in it, and a secret of another cache: each makes a factor 0 where it is one. */
static void check_flood(void)
{
    struct cache *cache = new_cache(MIB, true);
    bool are_spread = true;

    for (size_t i = 0; i < ARRAY_LEN(cache->hash.secrets); i++)
        are_spread &= growth_with(43, cache->hash.secrets[i]) < 1024 && growth_with(0, cache->hash.secrets[i]) < 1024;
    check(are_spread, "other secrets spread keys that collide");
    check(growth_with(0, UINT64_C(0x9216d5d98979fb1b)) < 1024 && growth_with(0, UINT64_C(0xb7e151628aed2a6b)) < 1024,
          "and without them, no keys are known to");
    cache_destroy(cache);
}

enum { CROWD = 1000 };

struct crowd {
    struct cache *cache;
    unsigned seen[CROWD];
    unsigned sum;
    unsigned added; /* while they are walked through */
    unsigned to_add;
};

static void note_one(void *arg, struct cache_item *item)
{
    struct crowd *crowd = arg;
    uint64_t key[2] = {0};

    memcpy(key, cache_item_key(item), item->nkey);
    if (key[1] < CROWD)
        crowd->seen[key[1]]++;
    crowd->sum++;
    if (crowd->added < crowd->to_add)
        set_number(crowd->cache, crowd->cache->hash.secrets[2], CROWD + crowd->added++);
}

/* The fewest times that one of the crowd was told. */
static unsigned walk_crowd(struct crowd *crowd)
{
    struct cache_cursor cursor = {0};
    unsigned fewest = UINT32_MAX;

    memset(crowd->seen, 0, sizeof(crowd->seen));
    crowd->sum = 0;
    while (cache_walk(crowd->cache, &cursor, 50, note_one, crowd))
        ;
    for (unsigned i = 0; i < CROWD; i++)
        fewest = crowd->seen[i] < fewest ? crowd->seen[i] : fewest;
    return fewest;
}

/* Far more in one bucket than a walk tells at a time: to have that, the secrets must be known. */
static void check_crowd(void)
{
    static struct crowd crowd;

    crowd.cache = new_cache(4 * MIB, true);
    for (uint64_t i = 0; i < CROWD; i++)
        set_number(crowd.cache, crowd.cache->hash.secrets[2], i);
    check(walk_crowd(&crowd) == 1 && crowd.sum == CROWD, "a walk tells each of %d items of one bucket once", CROWD);
    crowd.to_add = 2 * CROWD;
    check(walk_crowd(&crowd) >= 1 && crowd.added == crowd.to_add && crowd.sum >= 2 * CROWD,
          "and those that stay also when others come");
    cache_destroy(crowd.cache);
}

/* --- stats --- */

static void check_stats(void)
{
    struct cache *cache = new_cache(MIB, true);
    uint64_t value;
    struct cache_stats stats;
    struct cache_item *item;
    unsigned row;

    set(cache, "k", "1");
    set(cache, "k", "22");
    get_is(cache, "k", "22");
    get_is(cache, "no", NULL);
    arith(cache, "k", true, 1);
    arith(cache, "k", true, 100);
    arith(cache, "k", false, 1);
    arith(cache, "no", false, 1);
    cache_touch(cache, "k", 1, 0);
    cache_touch(cache, "no", 2, 0);
    value = unique_of(cache, "k");
    store_bytes(cache, CACHE_CAS, "k", 1, "1", 1, 0, 0, &value);
    value = 1;
    store_bytes(cache, CACHE_CAS, "k", 1, "1", 1, 0, 0, &value);
    store_bytes(cache, CACHE_CAS, "no", 2, "1", 1, 0, 0, &value);
    cache_delete(cache, "no", 2);
    stats = stats_of(cache);
    item = get(cache, "k");
    row = cache_item_class(cache, item);
    check(stats.all.number == 1 && stats.all.mem_requested == cache_item_size(item) &&
              stats.counters.classes[row].number == 1,
          "stats: one item, its class and bytes");
    cache_item_release(item);
    check(stats.all.cmd_set == 5 && stats.all.get_hits == 2 && stats.counters.get_misses == 1, "sets and gets");
    check(stats.all.incr_hits == 2 && stats.all.decr_hits == 1 && stats.counters.decr_misses == 1, "incr and decr");
    check(stats.all.cas_hits == 1 && stats.all.cas_badval == 1 && stats.counters.cas_misses == 1, "cas");
    check(stats.all.touch_hits == 1 && stats.counters.touch_misses == 1 && stats.counters.delete_misses == 1, "others");
    check(stats.limit_maxbytes == MIB && stats.bytes_held > 0 && stats.total_pages == 1 && stats.hash_power >= 10 &&
              stats.hash_bytes > 0 && stats.chunk_sizes[1] == 96 && stats.chunk_sizes[row] >= 60,
          "memory and table");
    cache_stats_reset(cache);
    stats = stats_of(cache);
    check(stats.all.cmd_set == 0 && stats.counters.get_misses == 0 && stats.all.number == 1, "stats reset");
    cache_delete(cache, "k", 1);
    stats = stats_of(cache);
    check(stats.all.delete_hits == 1 && stats.all.number == 0 && stats.all.mem_requested == 0, "delete");
    /* As when a thread that deletes is read after it did, and the one that stored was before. */
    cache->shared.classes[row].number--;
    cache->shared.classes[row].mem_requested -= 100;
    stats = stats_of(cache);
    check(stats.all.number == 0 && stats.all.mem_requested == 0 && stats.counters.classes[row].number == 0 &&
              stats.counters.classes[row].mem_requested == 0,
          "what is counted while it changes is never less than 0");
    cache_destroy(cache);
}

/* --- no memory --- */

static void check_full(void)
{
    struct cache *cache = new_cache(MIB, false);
    char key[16];
    unsigned n = 0, kept = 0, again = 0;
    enum cache_result result;
    uint64_t value = 0;

    store(cache, CACHE_SET, "n", "9");
    while ((result = set_filled(cache, key_of(key, n), 1000, 0)) == CACHE_STORED && n < 2000)
        n++;
    check(result == CACHE_NO_MEMORY && n > 600, "without evictions: %u items of 1000 bytes, then no memory", n);
    for (unsigned i = 0; i < n; i++)
        kept += has(cache, key_of(key, i));
    check(kept == n && stats_of(cache).all.evicted == 0 && stats_of(cache).all.number == n + 1,
          "all of them are there");
    check(stats_of(cache).counters.store_no_memory == 1 && stats_of(cache).all.outofmemory == 1, "and it is counted");
    while (cache_arith(cache, "n", 1, true, 1, &value, NULL) == CACHE_STORED && value < 20)
        ;
    check(value <= 20, "incr may fail as well");
    for (unsigned i = 0; i < n; i += 2)
        cache_delete(cache, key_of(key, i), 10);
    while (set_filled(cache, key_of(key, n + again), 1000, 0) == CACHE_STORED)
        again++;
    check(again > n / 2 * 8 / 10, "the memory of every other item can be used again: %u of %u", again, n / 2);
    cache_set_evict(cache, true);
    check(set_filled(cache, key_of(key, 0), 1000, 0) == CACHE_STORED, "evictions can be turned on");
    cache_destroy(cache);
}

/* What needs memory in many ways. False when the cache was not as it should be at any time. */
static bool exercise(struct cache *cache)
{
    char key[16];
    struct cache_item *item;
    bool is_right = true;

    for (unsigned i = 0; i < (IS_SLOW ? 600 : 3000); i++) {
        size_t n = i % 100 == 99 ? 20000 : i % 500;

        if (set_filled(cache, key_of(key, i), n, 0) == CACHE_STORED && (item = get(cache, key)) != NULL) {
            is_right &= item->nvalue == n && is_filled(item);
            store(cache, CACHE_APPEND, key, "x");
            is_right &= item->nvalue == n && is_filled(item);
            cache_item_release(item);
        }
        if (i % 50 == 0 && set(cache, "n", "9"))
            arith(cache, "n", true, 1);
    }
    return is_right;
}

/* Each allocation fails, once or from there on. */
static void check_failures(bool once)
{
    const struct cache_options options = {.limit = MIB, .evict = true, .seed = 7};
    unsigned created = 0;
    bool are_right = true, recovered = true;
    size_t n;

    fails_once = once;
    for (n = 0; n < 100000; n += n < 1100 ? n % 100 == 50 || n > 1020 || n < 10 ? 1 : 10 : 97) {
        struct cache *cache;

        allocs_failed = 0;
        allocs_left = n;
        cache = cache_create(&options);
        if (cache != NULL) {
            created++;
            are_right &= exercise(cache);
            allocs_left = SIZE_MAX;
            (void)cache_crawl(cache, 1);
            recovered &= set(cache, "k", "after") && get_is(cache, "k", "after");
        }
        allocs_left = SIZE_MAX;
        cache_destroy(cache);
        if (allocs_failed == 0)
            break;
    }
    check(allocs_failed == 0 && created > 10 && are_right, "allocation %s: never more than an error",
          once ? "once" : "on");
    check(recovered, "and it recovers");
}

int main(void)
{
    check_modes();
    check_item();
    check_keys();
    check_unique();
    check_sizes();
    check_arith();
    check_held();
    check_exptime();
    check_expiry();
    check_crawl();
    check_flush();
    check_flush_second();
    check_walk();
    check_flood();
    check_crowd();
    check_stats();
    check_full();
    check_failures(true);
    check_failures(false);
    return tap_end();
}
