/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cache_stats - what is counted, and in which size class.
 *
 * Each thread that uses the cache has a set of counters, so that counting is an addition in a line of memory that no
 * other processor writes; threads beyond the first fifteen share a set and add atomically. A reset remembers the sums.
 *
 * Size classes are those of memcached by default, by the size that memcached would give the item: so its numbers in
 * "stats items" and "stats slabs" mean the same here, though there is no memory of a class.
 */
#include "cache_int.h"

#include <stdlib.h>
#include <string.h>

enum {
    CLASS_UNITS = 2048, /* sizes up to 8 times this have their class in a table */
    FIRST_CHUNK = 96,
    LAST_CHUNK = 512 * 1024,
    AGE_SAMPLE = 512, /* items looked at for the ages of classes */
};

static unsigned next_thread;                       /* atomic */
static __thread unsigned this_thread = UINT32_MAX; /* its number, from 0 */

/* --- classes --- */

/* Chunks grow by a quarter, in units of 8 bytes; the last one is for all that is larger. */
static void make_classes(struct cache *cache)
{
    unsigned size = FIRST_CHUNK, c = 1, units = 0;

    while (c < CACHE_CLASSES - 1 && size <= LAST_CHUNK * 4 / 5) {
        cache->chunk_sizes[c++] = size;
        size = (size + size / 4 + 7) & ~7u;
    }
    while (c < CACHE_CLASSES)
        cache->chunk_sizes[c++] = LAST_CHUNK;
    for (c = 1; units < CLASS_UNITS; units++) {
        while (units * 8 > cache->chunk_sizes[c])
            c++;
        cache->class_of_units[units] = (uint8_t)c;
    }
}

unsigned stats_class(const struct cache *cache, size_t nkey, size_t nvalue, bool flags)
{
    size_t size = cache_size_of(nkey, nvalue, flags), units = (size + 7) / 8;
    unsigned c;

    if (LIKELY(units < CLASS_UNITS))
        return cache->class_of_units[units];
    for (c = cache->class_of_units[CLASS_UNITS - 1]; c < CACHE_CLASSES - 1; c++)
        if (size <= cache->chunk_sizes[c])
            break;
    return c;
}

unsigned cache_item_class(const struct cache *cache, const struct cache_item *item)
{
    return stats_class(cache, item->nkey, item->nvalue, item->flags != 0);
}

/* --- counters --- */

static struct cache_counters *slot_create(struct cache *cache, unsigned i)
{
    struct cache_counters *slot = aligned_alloc(LINE, (sizeof(*slot) + LINE - 1) & ~(size_t)(LINE - 1));

    if (slot == NULL)
        return NULL;
    memset(slot, 0, sizeof(*slot));
    __atomic_fetch_add(&cache->overhead, sizeof(*slot), __ATOMIC_RELAXED);
    __atomic_store_n(&cache->slots[i], slot, __ATOMIC_RELEASE);
    return slot;
}

struct cache_counters *stats_slot(struct cache *cache, bool *own)
{
    struct cache_counters *slot;

    if (UNLIKELY(this_thread == UINT32_MAX))
        this_thread = __atomic_fetch_add(&next_thread, 1, __ATOMIC_RELAXED);
    *own = this_thread < COUNTER_SLOTS;
    if (UNLIKELY(!*own))
        return &cache->shared;
    slot = __atomic_load_n(&cache->slots[this_thread], __ATOMIC_RELAXED);
    if (UNLIKELY(slot == NULL) && (slot = slot_create(cache, this_thread)) == NULL) {
        *own = false;
        return &cache->shared;
    }
    return slot;
}

bool stats_create(struct cache *cache)
{
    cache->class_of_units = malloc(CLASS_UNITS);
    if (cache->class_of_units == NULL)
        return false;
    make_classes(cache);
    cache->overhead += CLASS_UNITS + sizeof(*cache);
    return true;
}

void stats_destroy(struct cache *cache)
{
    for (unsigned i = 0; i < COUNTER_SLOTS; i++)
        free(cache->slots[i]);
    free(cache->class_of_units);
}

/* All counters are uint64_t: as arrays they can be added and subtracted. */
enum { COUNTERS = sizeof(struct cache_counters) / sizeof(uint64_t) };

static void add_slot(struct cache_counters *sum, const struct cache_counters *slot)
{
    uint64_t *to = (uint64_t *)sum;
    const uint64_t *from = (const uint64_t *)slot;

    for (size_t i = 0; i < COUNTERS; i++)
        to[i] += __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

static void sum_slots(struct cache *cache, struct cache_counters *sum)
{
    memset(sum, 0, sizeof(*sum));
    for (unsigned i = 0; i < COUNTER_SLOTS; i++) {
        const struct cache_counters *slot = __atomic_load_n(&cache->slots[i], __ATOMIC_ACQUIRE);

        if (slot != NULL)
            add_slot(sum, slot);
    }
    add_slot(sum, &cache->shared);
}

static void subtract(struct cache_counters *from, const struct cache_counters *base)
{
    uint64_t *to = (uint64_t *)from;
    const uint64_t *less = (const uint64_t *)base;

    for (size_t i = 0; i < COUNTERS; i++)
        to[i] -= less[i];
}

void cache_count_too_large(struct cache *cache)
{
    COUNT(cache, store_too_large);
}

void cache_stats_reset(struct cache *cache)
{
    pthread_mutex_lock(&cache->stats_lock);
    sum_slots(cache, &cache->base);
    for (unsigned i = 0; i < CACHE_CLASSES; i++) {
        cache->base.classes[i].number = 0;
        cache->base.classes[i].mem_requested = 0;
        __atomic_store_n(&cache->evicted_time[i], 0, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&cache->stats_lock);
}

/* --- what cache_stats tells --- */

/* Slots are read one after the other: an item may be missed where it came in, and counted where it went out. */
static void clamp(struct cache_class_counters *class)
{
    if ((int64_t) class->number < 0)
        class->number = 0;
    if ((int64_t) class->mem_requested < 0)
        class->mem_requested = 0;
}

static void tell_counters(struct cache *cache, struct cache_stats *stats)
{
    pthread_mutex_lock(&cache->stats_lock);
    sum_slots(cache, &stats->counters);
    for (unsigned i = 0; i < CACHE_CLASSES; i++)
        stats->was_used[i] = stats->counters.classes[i].cmd_set > 0 || stats->counters.classes[i].number > 0;
    subtract(&stats->counters, &cache->base);
    pthread_mutex_unlock(&cache->stats_lock);
    for (unsigned i = 0; i < CACHE_CLASSES; i++) {
        struct cache_class_counters *class = &stats->counters.classes[i];

#define X(name) stats->all.name += class->name;
        CACHE_CLASS_COUNTERS(X)
#undef X
        clamp(class);
        stats->evicted_time[i] = __atomic_load_n(&cache->evicted_time[i], __ATOMIC_RELAXED);
        stats->chunk_sizes[i] = cache->chunk_sizes[i];
    }
    clamp(&stats->all);
}

static void tell_memory(struct cache *cache, struct cache_stats *stats)
{
    struct mem *mem = &cache->mem;
    uint32_t now = cache_now(cache);

    stats->limit_maxbytes = __atomic_load_n(&cache->limit, __ATOMIC_RELAXED);
    stats->bytes_tables = __atomic_load_n(&cache->overhead, __ATOMIC_RELAXED);
    pthread_mutex_lock(&mem->lock);
    stats->bytes_held = mem->resident;
    stats->total_pages = mem->num_used;
    stats->free_pages = mem->num_warm;
    if (mem->queues[QUEUE_MAIN].oldest != NULL && mem->queues[QUEUE_MAIN].oldest->time < now)
        stats->age = now - mem->queues[QUEUE_MAIN].oldest->time;
    pthread_mutex_unlock(&mem->lock);
}

static void tell_table(struct cache *cache, struct cache_stats *stats)
{
    uint64_t slots = table_slots(cache);

    stats->hash_bytes = slots / BUCKET_SLOTS * sizeof(struct bucket);
    while (UINT64_C(1) << stats->hash_power < slots)
        stats->hash_power++;
}

struct ages {
    struct cache *cache;
    uint32_t *ages;
};

static void note_age(void *arg, struct cache_item *item)
{
    struct ages *ages = arg;
    uint32_t now = cache_now(ages->cache), time = cache_item_time(item);
    uint32_t *age = &ages->ages[cache_item_class(ages->cache, item)];

    if (time < now && now - time > *age)
        *age = now - time;
}

void cache_stats(struct cache *cache, struct cache_stats *stats)
{
    struct cache_cursor cursor = {0};
    struct ages ages = {cache, stats->ages};

    memset(stats, 0, sizeof(*stats));
    tell_counters(cache, stats);
    tell_memory(cache, stats);
    tell_table(cache, stats);
    cache_walk(cache, &cursor, AGE_SAMPLE + SHARDS, note_age, &ages);
}
