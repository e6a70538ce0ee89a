/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_cache_load - tests of the cache under load: what of many items stays in bounded memory, memory that moves
 * between sizes, limits that change, a table that grows, and threads that work on the same keys. Operations:
 * check_cache.c.
 */
#include <pthread.h>

#include "cache_tests.h"

enum {
    UNIT = IS_SLOW ? MIB / 4 : MIB, /* of memory */
    THREADS = 4,
    TURNS = IS_SLOW ? 3000 : 30000,
};

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

struct range {
    unsigned long first, end; /* numbers of keys */
    unsigned long n;          /* of them, that are there, and all right */
};

static void count_key(void *arg, struct cache_item *item)
{
    struct range *range = arg;
    char key[16] = "";
    unsigned long i;

    if (item->nkey != 10)
        return;
    memcpy(key, cache_item_key(item), 10);
    i = strtoul(key + 1, NULL, 10);
    range->n += i >= range->first && i < range->end && is_filled(item);
}

/* How many of the keys [first, end) are there, and all right. No access. */
static unsigned long count_keys(struct cache *cache, unsigned long first, unsigned long end)
{
    struct cache_cursor cursor = {0};
    struct range range = {.first = first, .end = end};

    while (cache_walk(cache, &cursor, 1000, count_key, &range))
        ;
    return range.n;
}

static bool holds_limit(struct cache *cache)
{
    struct cache_stats stats = stats_of(cache);

    return stats.bytes_held + stats.bytes_tables <= stats.limit_maxbytes + stats.limit_maxbytes / 50;
}

/* --- memory --- */

/* Stores keys from `first` on, `bytes` of values in all, and returns how many bytes of them are there at the end. */
static uint64_t fill(struct cache *cache, unsigned long first, size_t nvalue, uint64_t bytes)
{
    unsigned long n = bytes / nvalue;
    char key[16];

    for (unsigned long i = first; i < first + n; i++)
        if (set_filled(cache, key_of(key, i), nvalue, 0) != CACHE_STORED)
            return 0;
    return count_keys(cache, first, first + n) * (uint64_t)nvalue;
}

static void check_sizes_change(void)
{
    static const size_t sizes[] = {100, 5000, 100, 100000, 5000, 400000, 100};
    struct cache *cache = new_cache(16 * UNIT, true);

    for (size_t i = 0; i < ARRAY_LEN(sizes) - 2 * IS_SLOW; i++) {
        uint64_t percent = fill(cache, i * 1000000, sizes[i], 24 * UNIT) * 100 / (16 * UNIT);

        check(percent >= (sizes[i] == 100 ? 55 : 70) && holds_limit(cache), "values of %zu bytes get the memory: %u %%",
              sizes[i], (unsigned)percent);
    }
    cache_destroy(cache);
}

static void check_limit(void)
{
    struct cache *cache = new_cache(32 * UNIT, true);
    unsigned calls = 0;
    bool lives = true;
    char key[16];

    fill(cache, 0, 100, 25 * UNIT);
    check(holds_limit(cache) && stats_of(cache).bytes_held > 28 * UNIT, "the limit is used, and no more");
    cache_set_limit(cache, 8 * UNIT);
    while (!holds_limit(cache) && calls++ < 1000)
        cache_crawl(cache, 10000);
    check(holds_limit(cache), "lowered, it holds after some steps of the crawler: %u", calls);
    check(count_keys(cache, 0, 25 * UNIT / 100) > 20000 / (MIB / UNIT), "and memory is used up to it");
    cache_set_limit(cache, 32 * UNIT);
    check(fill(cache, 0, 100, 25 * UNIT) > 16 * UNIT && holds_limit(cache), "raised, it is used again");
    cache_set_limit(cache, 4 * UNIT);
    for (unsigned long i = 0; lives && i < 50000 / (MIB / UNIT); i++)
        lives = set_filled(cache, key_of(key, i), 100, 0) == CACHE_STORED;
    check(lives && stats_of(cache).bytes_held < 4 * UNIT, "lowered, it holds for items after some stores as well");
    crawl_all(cache);
    check(fill(cache, 0, 100, 8 * UNIT) > UNIT / 2 && holds_limit(cache), "and for the table after the crawler");
    cache_destroy(cache);
}

/* The crawler is off, and comes by for this alone. */
static void check_limit_alone(void)
{
    struct cache *cache = new_cache(32 * UNIT, true);
    unsigned long left;
    unsigned calls = 0;
    char key[16];

    fill(cache, 0, 100, 20 * UNIT);
    for (unsigned long i = 0; i < 20 * UNIT / 100; i++)
        access_key(cache, key_of(key, i));
    cache_set_limit(cache, 8 * UNIT);
    check(set_filled(cache, key_of(key, 0), 200, 0) == CACHE_STORED && stats_of(cache).all.number > 15 * UNIT / 100,
          "the limit is lowered, and the next store does not do all of the work");
    while (!holds_limit(cache) && calls++ < 100)
        cache_crawl(cache, 0);
    left = stats_of(cache).all.number;
    check(calls <= 5 && left > 6 * UNIT / 200, "%u seconds later it holds, with %lu items left", calls, left);
    cache_destroy(cache);
}

/* Keys that are asked for stay when others, that are not, come by. */
static void check_scan(void)
{
    struct cache *cache = new_cache(4 * MIB, true);
    unsigned long hot = 5000, next = 1000000;
    char key[16];

    fill(cache, 0, 100, hot * 100);
    for (unsigned turn = 0; turn < 20; turn++) {
        for (unsigned long i = 0; i < hot; i++)
            access_key(cache, key_of(key, i));
        for (unsigned i = 0; i < 5000; i++)
            set_filled(cache, key_of(key, next++), 100, 0);
    }
    check(count_keys(cache, 0, hot) == hot, "a scan takes nothing away that is in use: %lu of %lu",
          count_keys(cache, 0, hot), hot);
    check(stats_of(cache).all.evicted_unfetched == stats_of(cache).all.evicted,
          "evicted was what nobody had asked for");
    cache_destroy(cache);
}

/* What expires makes room before what lives, when the crawler runs. */
static void check_dead(void)
{
    struct cache *cache = new_cache(8 * MIB, true);
    unsigned long kept;
    char key[16];

    fill(cache, 0, 100, 3 * MIB);
    for (unsigned round = 1; round < (IS_SLOW ? 3 : 10); round++) {
        for (unsigned long i = 0; i < 15000; i++)
            set_filled(cache, key_of(key, round * 1000000 + i), 100, NOW + round);
        cache_set_clock(cache, NOW + round);
        crawl_all(cache);
    }
    kept = count_keys(cache, 0, 3 * MIB / 100);
    check(kept == 3 * MIB / 100, "what lives stays, the dead make room: %lu", kept);
    cache_destroy(cache);
}

static void check_held_memory(void)
{
    enum { HELD = 3000 };
    static struct cache_item *held[HELD];
    struct cache *cache = new_cache(4 * MIB, true);
    char key[16];
    unsigned right = 0;
    enum cache_result result = CACHE_STORED;

    for (unsigned i = 0; i < HELD; i++) {
        result = set_filled(cache, key_of(key, i), 1500, 0);
        if (result != CACHE_STORED || (held[i] = cache_get(cache, key, 10)) == NULL)
            break;
    }
    check(result == CACHE_NO_MEMORY, "all memory is held: no memory");
    for (unsigned i = 0; i < HELD; i++) {
        right += held[i] != NULL && is_filled(held[i]);
        if (held[i] != NULL)
            cache_item_release(held[i]);
    }
    check(right > 2000, "what is held is right: %u", right);
    check(fill(cache, 1000000, 1500, 10 * MIB) > 3 * MIB, "released, it can be used");
    cache_destroy(cache);
}

/* Much of the memory is held by those who read slowly: the rest is for all others. */
static void check_held_large(void)
{
    enum { SMALL = 5000, HELD = 280 };
    struct cache_item *held[HELD];
    struct cache *cache = new_cache(4 * MIB, true);
    unsigned num_held = 0, stored = 0;
    char key[16];

    for (unsigned i = 0; i < HELD; i++)
        if (set_filled(cache, key_of(key, SMALL + i), 9000, 0) == CACHE_STORED &&
            (held[num_held] = get(cache, key)) != NULL)
            num_held++;
    for (unsigned i = 0; i < SMALL; i++) {
        stored += set_filled(cache, key_of(key, i), 1000, 0) == CACHE_STORED;
        access_key(cache, key);
    }
    check(num_held == HELD && stored == SMALL, "%u large values are held: of %u small ones %u are stored", num_held,
          SMALL, stored);
    for (unsigned i = 0; i < num_held; i++)
        cache_item_release(held[i]);
    cache_destroy(cache);
}

/* All that is there was asked for often: whoever stores shall not have to move it all before something goes. */
static void check_all_hot(void)
{
    struct cache *cache = new_cache(32 * UNIT, true);
    unsigned long num = 20 * UNIT / 100, left;
    uint64_t moved = 0, before, most = 0;
    struct cache_stats stats = {.limit_maxbytes = 0};
    char key[16];

    fill(cache, 0, 100, 20 * UNIT);
    for (unsigned long i = 0; i < 3 * num; i++)
        access_key(cache, key_of(key, i % num));
    for (unsigned long i = 0; stats.all.evicted < 2000; i++) {
        set_filled(cache, key_of(key, num + i), 100, 0);
        stats = stats_of(cache);
        before = moved;
        moved = stats.counters.moves_to_main + stats.counters.moves_within_main;
        most = moved - before > most ? moved - before : most;
    }
    left = count_keys(cache, 0, num);
    check(most <= 4000 && left > num * 9 / 10, "a store moves at most %lu of %lu items, all of them in use",
          (unsigned long)most, num);
    cache_destroy(cache);
}

/* --- stores that are too much --- */

/* Fills it up with small items. How many are there. */
static uint64_t fill_small(struct cache *cache)
{
    char key[16];

    for (unsigned long i = 0; stats_of(cache).all.evicted == 0; i++)
        set_filled(cache, key_of(key, i), 100, 0);
    return stats_of(cache).all.number;
}

static void check_impossible(void)
{
    const struct cache_options options = {.limit = 2 * MIB, .evict = true, .item_max = 100 * MIB};
    struct cache *cache = cache_create(&options);
    uint64_t before = fill_small(cache);

    check(set_filled(cache, "big", 2 * MIB, 0) == CACHE_NO_MEMORY && stats_of(cache).all.number == before,
          "what cannot fit in any case evicts nothing of %lu items", (unsigned long)before);
    check(set_filled(cache, "big", MIB, 0) == CACHE_STORED && stats_of(cache).all.number < before, "what can, does");
    cache_destroy(cache);
}

static void check_append_large(void)
{
    enum { BIG = 900000 };
    struct cache *cache = new_cache(2 * MIB, true);
    uint64_t before, kept;
    struct cache_item *item;
    bool is_right = true;

    set_filled(cache, "0", BIG, 0);
    access_key(cache, "0");
    access_key(cache, "0");
    before = fill_small(cache);
    for (unsigned i = 1; i <= 3; i++) {
        is_right &= store(cache, i % 2 ? CACHE_APPEND : CACHE_PREPEND, "0", "0000000000") == CACHE_STORED;
        item = get(cache, "0");
        is_right &= item != NULL && item->nvalue == BIG + i * 10 && is_filled(item);
        if (item != NULL)
            cache_item_release(item);
    }
    kept = stats_of(cache).all.number;
    check(is_right && kept > before * 9 / 10, "a value of nearly half the memory grows, and %lu of %lu items stay",
          (unsigned long)kept, (unsigned long)before);
    item = get(cache, "0");
    check(store(cache, CACHE_APPEND, "0", "0") == CACHE_NO_MEMORY && stats_of(cache).all.number == kept &&
              get(cache, "0") == item,
          "it cannot while it is held, and takes nothing away");
    cache_item_release(item);
    cache_item_release(item);
    check(store(cache, CACHE_APPEND, "0", "0") == CACHE_STORED, "and can again");
    cache_destroy(cache);
}

/* The table grows far, and everything is found at each of its sizes. */
static void check_growth(void)
{
    enum { MANY = IS_SLOW ? 30000 : 300000 };
    struct cache *cache = new_cache(256 * MIB, true);
    char key[16];
    bool found = true;
    unsigned power = stats_of(cache).hash_power;

    for (unsigned long i = 0; i < MANY; i++) {
        set_filled(cache, key_of(key, i), 8, 0);
        found &= has(cache, key) && has(cache, key_of(key, i / 2)) && !has(cache, key_of(key, i + 1));
    }
    check(found && stats_of(cache).hash_power >= power + 3,
          "a growing table finds what is there, from 2^%u slots to 2^%u", power, (unsigned)stats_of(cache).hash_power);
    for (unsigned long i = 0; i < MANY; i++)
        found &= cache_delete(cache, key_of(key, i), 10);
    crawl_all(cache);
    check(found && stats_of(cache).all.number == 0 && stats_of(cache).hash_power <= power + 1,
          "all can be deleted, and it shrinks to 2^%u", (unsigned)stats_of(cache).hash_power);
    cache_destroy(cache);
}

/* --- threads --- */

static struct cache *shared;
static unsigned next_thread;

static void run_threads(void *(*run)(void *))
{
    pthread_t threads[THREADS];

    next_thread = 0;
    for (unsigned long i = 0; i < THREADS; i++) {
        if (pthread_create(&threads[i], NULL, run, NULL) != 0) {
            printf("Bail out! no thread\n");
            exit(1);
        }
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static unsigned thread_number(void)
{
    return __atomic_fetch_add(&next_thread, 1, __ATOMIC_RELAXED);
}

struct step {
    uint64_t unique;
    uint64_t value;
};

static struct step steps[THREADS * TURNS];

static void *run_incr(void *arg)
{
    struct step *mine = &steps[thread_number() * TURNS];

    for (unsigned i = 0; i < TURNS; i++)
        if (cache_arith(shared, "hot", 3, true, 1, &mine[i].value, &mine[i].unique) != CACHE_STORED)
            return NULL;
    return arg;
}

static int by_unique(const void *a, const void *b)
{
    const struct step *left = a, *right = b;

    return left->unique < right->unique ? -1 : left->unique > right->unique;
}

static void check_incr(void)
{
    bool in_order = true;

    shared = new_cache(4 * MIB, true);
    set(shared, "hot", "0");
    memset(steps, 0, sizeof(steps));
    run_threads(run_incr);
    qsort(steps, ARRAY_LEN(steps), sizeof(steps[0]), by_unique);
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++)
        in_order &= steps[i].value == i + 1 && (i == 0 || steps[i].unique > steps[i - 1].unique);
    check(in_order, "incr by threads: each sum once, in the order of the uniques");
    cache_destroy(shared);
}

/* Adds one to the value by cas, and holds what it got all the while. */
static void cas_once(struct step *step)
{
    enum cache_result result;

    do {
        struct cache_item *held = cache_get(shared, "hot", 3);
        uint64_t value;

        memcpy(&value, cache_item_value(held), sizeof(value));
        value++;
        step->value = value;
        step->unique = held->cas;
        result = store_bytes(shared, CACHE_CAS, "hot", 3, &value, sizeof(value), 0, 0, &step->unique);
        cache_item_release(held);
    } while (result == CACHE_EXISTS);
}

static void *run_cas(void *arg)
{
    struct step *mine = &steps[thread_number() * TURNS];

    for (unsigned i = 0; i < TURNS; i++)
        cas_once(&mine[i]);
    return arg;
}

static void check_cas(void)
{
    uint64_t zero = 0;
    bool in_order = true;

    shared = new_cache(4 * MIB, true);
    store_bytes(shared, CACHE_SET, "hot", 3, &zero, sizeof(zero), 0, 0, NULL);
    run_threads(run_cas);
    qsort(steps, ARRAY_LEN(steps), sizeof(steps[0]), by_unique);
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++)
        in_order &= steps[i].value == i + 1;
    check(in_order, "cas by threads: none is lost");
    cache_destroy(shared);
}

static void *run_append(void *arg)
{
    char letter = (char)('a' + thread_number());

    for (unsigned i = 0; i < 1000; i++)
        store_bytes(shared, i % 2 ? CACHE_APPEND : CACHE_PREPEND, "hot", 3, &letter, 1, 0, 0, NULL);
    return arg;
}

static void check_append(void)
{
    unsigned letters[THREADS] = {0};
    struct cache_item *item;
    bool are_right = true;

    shared = new_cache(4 * MIB, true);
    set(shared, "hot", "");
    run_threads(run_append);
    item = get(shared, "hot");
    for (uint32_t i = 0; item != NULL && i < item->nvalue; i++)
        letters[(cache_item_value(item)[i] - 'a') % THREADS]++;
    for (unsigned i = 0; i < THREADS; i++)
        are_right &= letters[i] == 1000;
    check(are_right, "append and prepend by threads: none is lost");
    if (item != NULL)
        cache_item_release(item);
    cache_destroy(shared);
}

static struct cache_item *passed_on; /* atomic: got by one thread, released by another */
static unsigned num_wrong;           /* atomic */

static void take(struct cache_item *item)
{
    if (item == NULL)
        return;
    if (!is_filled(item))
        __atomic_fetch_add(&num_wrong, 1, __ATOMIC_RELAXED);
    item = __atomic_exchange_n(&passed_on, item, __ATOMIC_ACQ_REL);
    if (item == NULL)
        return;
    if (!is_filled(item))
        __atomic_fetch_add(&num_wrong, 1, __ATOMIC_RELAXED);
    cache_item_release(item);
}

static void look(void *arg, struct cache_item *item)
{
    (void)arg;
    if (!is_filled(item))
        __atomic_fetch_add(&num_wrong, 1, __ATOMIC_RELAXED);
}

/* One of all that can be done, to one of a few hot or of many cold keys; values stay as set_filled makes them. */
static void do_any(uint64_t random, struct cache_cursor *cursor)
{
    char key[16], same[8];
    unsigned long i = random % 4 == 0 ? random / 256 % 8 : random / 256 % 20000;
    size_t nvalue = random / 16 % 64 == 0 ? 30000 : random % 700;
    uint64_t value = 1;
    struct cache_stats stats;

    key_of(key, i);
    memset(same, key[9], sizeof(same));
    switch (random / 65536 % 16) {
    case 0:
        cache_delete(shared, key, 10);
        break;
    case 1:
        cache_touch(shared, key, 10, random % 2 ? 0 : NOW + 2);
        break;
    case 2:
        store_bytes(shared, CACHE_APPEND, key, 10, same, sizeof(same), 0, 0, NULL);
        break;
    case 3:
        /* All digits of a value are the key's last one, so if that is not 0, adding 0 changes but the unique. */
        if (key[9] != '0' && cache_arith(shared, key, 10, true, 0, &value, NULL) == CACHE_NO_MEMORY)
            __atomic_fetch_add(&num_wrong, 1, __ATOMIC_RELAXED);
        break;
    case 4:
        take(cache_gat(shared, key, 10, 0));
        break;
    case 5:
        if (!cache_walk(shared, cursor, 20, look, NULL))
            *cursor = (struct cache_cursor){0};
        break;
    case 6:
        cache_crawl(shared, 20);
        break;
    case 7:
        if (random % 4096 == 0)
            cache_flush(shared, random / 4096 % 2 ? 0 : NOW + 1);
        else if (random % 256 == 1)
            cache_stats(shared, &stats);
        else if (random % 256 == 2)
            cache_set_limit(shared, random / 256 % 2 ? 2 * MIB : 4 * MIB);
        else if (random % 256 == 3)
            cache_set_clock(shared, NOW + (uint32_t)(random / 256 % 3));
        break;
    case 8:
    case 9:
    case 10:
        take(cache_get(shared, key, 10));
        break;
    default:
        set_filled(shared, key, nvalue, random % 3 ? 0 : NOW + 2);
    }
}

static void *run_any(void *arg)
{
    uint64_t random = UINT64_C(0x9e3779b97f4a7c15) * (thread_number() + 1);
    struct cache_cursor cursor = {0};

    for (unsigned i = 0; i < 3 * TURNS; i++)
        do_any(next_random(&random), &cursor);
    return arg;
}

static void tally(void *arg, struct cache_item *item)
{
    uint64_t *sums = arg;

    sums[0]++;
    sums[1] += cache_item_size(item);
}

static void check_any(void)
{
    struct cache_cursor cursor = {0};
    struct cache_stats stats;
    uint64_t sums[2] = {0, 0};

    shared = new_cache(4 * MIB, true);
    run_threads(run_any);
    if (passed_on != NULL)
        cache_item_release(passed_on);
    check(num_wrong == 0, "everything by threads: what is held is right");
    crawl_all(shared);
    while (cache_walk(shared, &cursor, 1000, tally, sums))
        ;
    stats = stats_of(shared);
    check(stats.all.number == sums[0] && stats.all.mem_requested == sums[1],
          "counters and items agree: %lu items, %lu bytes", (unsigned long)sums[0], (unsigned long)sums[1]);
    check(stats.all.evicted > 0 && holds_limit(shared),
          "memory was short: %lu evicted, %lu segments, %lu compacted, %lu held", (unsigned long)stats.all.evicted,
          (unsigned long)stats.counters.segments_evicted, (unsigned long)stats.counters.segments_compacted,
          (unsigned long)stats.counters.segments_held);
    cache_flush(shared, 0);
    crawl_all(shared);
    stats = stats_of(shared);
    check(stats.all.number == 0 && stats.all.mem_requested == 0 && stats.total_pages <= 3,
          "nothing is left behind: %lu pages", (unsigned long)stats.total_pages);
    cache_destroy(shared);
}

int main(void)
{
    check_sizes_change();
    check_limit();
    check_limit_alone();
    check_scan();
    check_dead();
    check_held_memory();
    check_held_large();
    check_all_hot();
    check_impossible();
    check_append_large();
    check_growth();
    check_incr();
    check_cas();
    check_append();
    check_any();
    return tap_end();
}
