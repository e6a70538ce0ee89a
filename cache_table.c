/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cache_table - from a key to its item.
 *
 *   hash:  [10: shard] [12] [32: bucket] ... [16: tag]
 *
 * The table is 1024 small tables, shards, each with a lock of its own. A shard grows on its own, all at once and under
 * its lock: that is a thousandth of the work, 2 ms at most with ten million items, and happens at another time
 * for each. Its buckets are cache lines of seven slots; a slot has enough bits of the hash that nearly only the right
 * item is looked at. There is no link in an item.
 *
 * A key's bucket is the hash's fraction of their number, which need not be a power of two, and the order of the items
 * is the hash's whatever that number is. So a walk (cache_walk, cache_crawl) can go on where it was after the shard has
 * grown.
 *
 * The hash multiplies 64 by 64 bits and folds the product, as wyhash does: eight bytes of key in some three cycles. A
 * factor of 0 would make all that went before it without effect, so there is a secret in each of them: nobody can
 * choose keys that make one 0, and so belong in one place.
 */
#include "cache_int.h"

#include <stdlib.h>
#include <string.h>

enum {
    FIRST_BUCKETS = 1,
    FULL = 60,         /* slots in use of ten buckets, when a shard grows */
    WALK_BATCH = 128,  /* items that are told, */
    WALK_BUCKETS = 32, /* and buckets that are looked at, each time that a shard is locked */
};

#define ADDRESS_BITS 48
#define ADDRESS_MASK ((UINT64_C(1) << ADDRESS_BITS) - 1)

_Static_assert(sizeof(void *) == 8, "a slot is an address of 48 bits and a tag");

/* --- places --- */

static inline uint64_t tag_of(uint64_t hash)
{
    return (hash & 0xffff) << ADDRESS_BITS;
}

static inline struct cache_item *item_of(uint64_t slot)
{
    return (struct cache_item *)(uintptr_t)(slot & ADDRESS_MASK);
}

static inline uint64_t slot_of(uint64_t hash, const struct cache_item *item)
{
    return tag_of(hash) | (uint64_t)(uintptr_t)item;
}

static inline uint32_t bucket_of(const struct shard *shard, uint64_t hash)
{
    return (uint32_t)(((hash >> 16 & 0xffffffff) * shard->num_buckets) >> 32);
}

static inline uint32_t next_bucket(const struct shard *shard, uint32_t i)
{
    return i + 1 < shard->num_buckets ? i + 1 : 0;
}

struct place table_find(const struct shard *shard, uint64_t hash, const void *key, size_t nkey)
{
    uint64_t tag = tag_of(hash);
    uint32_t i = bucket_of(shard, hash);

    for (uint32_t left = shard->num_buckets; left > 0; left--, i = next_bucket(shard, i)) {
        struct bucket *bucket = &shard->buckets[i];

        for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++) {
            uint64_t s = bucket->slots[slot];
            struct cache_item *item = item_of(s);

            if ((s & ~ADDRESS_MASK) == tag && item != NULL && item->nkey == nkey && memcmp(item->bytes, key, nkey) == 0)
                return (struct place){bucket, slot, item};
        }
        if (bucket->passed == 0)
            break;
    }
    return (struct place){NULL, 0, NULL};
}

struct place table_find_item(const struct shard *shard, uint64_t hash, const struct cache_item *item)
{
    uint64_t wanted = slot_of(hash, item);
    uint32_t i = bucket_of(shard, hash);

    for (uint32_t left = shard->num_buckets; left > 0; left--, i = next_bucket(shard, i)) {
        struct bucket *bucket = &shard->buckets[i];

        for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++)
            if (bucket->slots[slot] == wanted)
                return (struct place){bucket, slot, item_of(wanted)};
        if (bucket->passed == 0)
            break;
    }
    return (struct place){NULL, 0, NULL};
}

/* There must be a free slot. */
static void enter(struct shard *shard, uint64_t hash, struct cache_item *item)
{
    for (uint32_t i = bucket_of(shard, hash);; i = next_bucket(shard, i)) {
        struct bucket *bucket = &shard->buckets[i];

        for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++) {
            if (bucket->slots[slot] == 0) {
                bucket->slots[slot] = slot_of(hash, item);
                shard->num_items++;
                return;
            }
        }
        bucket->passed++;
    }
}

/* --- growth --- */

static struct bucket *alloc_buckets(uint32_t n)
{
    struct bucket *buckets = aligned_alloc(LINE, (size_t)n * sizeof(*buckets));

    if (buckets != NULL)
        memset(buckets, 0, (size_t)n * sizeof(*buckets));
    return buckets;
}

static uint64_t hash_of_item(const struct cache *cache, const struct cache_item *item)
{
    return table_hash(cache, item->bytes, item->nkey);
}

static void enter_all(struct cache *cache, struct shard *shard, const struct bucket *old, uint32_t num_old)
{
    for (uint32_t i = 0; i < num_old; i++) {
        /* Each item is a miss of the processor's cache: they are fetched while those before are entered. */
        if (i + 1 < num_old)
            for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++)
                __builtin_prefetch(item_of(old[i + 1].slots[slot]));
        for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++) {
            struct cache_item *item = item_of(old[i].slots[slot]);

            if (item != NULL)
                enter(shard, hash_of_item(cache, item), item);
        }
    }
}

/* Without memory it stays as it is: slower, and in the end full. */
static void resize(struct cache *cache, struct shard *shard, uint32_t num)
{
    uint32_t num_old = shard->num_buckets;
    struct bucket *old = shard->buckets, *buckets = alloc_buckets(num);

    if (buckets == NULL) {
        COUNT(cache, malloc_fails);
        return;
    }
    shard->buckets = buckets;
    shard->num_buckets = num;
    shard->num_items = 0;
    enter_all(cache, shard, old, num_old);
    free(old);
    __atomic_fetch_add(&cache->overhead, ((uint64_t)num - num_old) * sizeof(*buckets), __ATOMIC_RELAXED);
}

static void grow(struct cache *cache, struct shard *shard)
{
    if (shard->num_buckets < UINT32_MAX / 2)
        resize(cache, shard, shard->num_buckets + shard->num_buckets / 4 + 1);
}

/* A shard that once had many more items than now gives the memory back. */
static void shrink(struct cache *cache, struct shard *shard)
{
    if ((uint64_t)shard->num_items * 10 * 3 < (uint64_t)shard->num_buckets * FULL && shard->num_buckets > FIRST_BUCKETS)
        resize(cache, shard, (uint32_t)((uint64_t)shard->num_items * 10 * 3 / FULL / 2) + FIRST_BUCKETS);
}

void table_shrink(struct cache *cache)
{
    struct shard *shard = &cache->shards[__atomic_fetch_add(&cache->next_shrink, 1, __ATOMIC_RELAXED) % SHARDS];

    pthread_mutex_lock(&shard->lock);
    shrink(cache, shard);
    pthread_mutex_unlock(&shard->lock);
}

bool table_insert(struct cache *cache, struct shard *shard, uint64_t hash, struct cache_item *item)
{
    if ((uint64_t)shard->num_items * 10 >= (uint64_t)shard->num_buckets * FULL)
        grow(cache, shard);
    if (shard->num_items >= (uint64_t)shard->num_buckets * BUCKET_SLOTS)
        return false;
    enter(shard, hash, item);
    return true;
}

void table_remove(struct shard *shard, uint64_t hash, struct place place)
{
    uint32_t at = (uint32_t)(place.bucket - shard->buckets);

    for (uint32_t i = bucket_of(shard, hash); i != at; i = next_bucket(shard, i))
        shard->buckets[i].passed--;
    place.bucket->slots[place.slot] = 0;
    shard->num_items--;
}

void table_exchange(struct place place, struct cache_item *item)
{
    uint64_t *slot = &place.bucket->slots[place.slot];

    *slot = (*slot & ~ADDRESS_MASK) | (uint64_t)(uintptr_t)item;
}

/* --- life --- */

bool table_create(struct cache *cache)
{
    cache->shards = aligned_alloc(LINE, SHARDS * sizeof(*cache->shards));
    if (cache->shards == NULL)
        return false;
    memset(cache->shards, 0, SHARDS * sizeof(*cache->shards));
    for (unsigned i = 0; i < SHARDS; i++)
        pthread_mutex_init(&cache->shards[i].lock, NULL);
    for (unsigned i = 0; i < SHARDS; i++) {
        if ((cache->shards[i].buckets = alloc_buckets(FIRST_BUCKETS)) == NULL)
            return false;
        cache->shards[i].num_buckets = FIRST_BUCKETS;
    }
    cache->overhead += SHARDS * (sizeof(*cache->shards) + FIRST_BUCKETS * sizeof(struct bucket));
    return true;
}

void table_destroy(struct cache *cache)
{
    if (cache->shards == NULL)
        return;
    for (unsigned i = 0; i < SHARDS; i++) {
        free(cache->shards[i].buckets);
        pthread_mutex_destroy(&cache->shards[i].lock);
    }
    free(cache->shards);
}

uint64_t table_slots(struct cache *cache)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&cache->shards[i].lock);
        n += cache->shards[i].num_buckets;
        pthread_mutex_unlock(&cache->shards[i].lock);
    }
    return n * BUCKET_SLOTS;
}

/* --- walks --- */

/* The bucket that the cursor is at, with the shard locked, and the place of the one behind it. */
static uint32_t bucket_at(const struct shard *shard, const struct cache_cursor *cursor)
{
    return (uint32_t)((cursor->place * shard->num_buckets) >> 32);
}

/* Goes on by a bucket. Returns false when that was the last one of the shard, and is then at the next shard. */
static bool advance(const struct shard *shard, struct cache_cursor *cursor)
{
    uint64_t next = (uint64_t)bucket_at(shard, cursor) + 1;

    cursor->passed = 0;
    if (next < shard->num_buckets) {
        cursor->place = ((next << 32) + shard->num_buckets - 1) / shard->num_buckets;
        return true;
    }
    cursor->place = 0;
    cursor->shard++;
    return false;
}

/*
 * Adds references to what is alive and belongs in the cursor's bucket, wherever it stands: what is told of a bucket
 * depends on hashes alone, so nothing is missed when the shard grows before the next one. Nor does the number of those
 * items matter: when there is no room for more, the cursor is at the first that was left, and false is returned. Until
 * the shard has another size no item changes its place; then the bucket is told from its beginning.
 */
static bool gather_bucket(struct cache *cache, struct shard *shard, struct cache_cursor *cursor,
                          struct cache_item **items, size_t *n)
{
    uint32_t home = bucket_at(shard, cursor), passed = cursor->buckets == shard->num_buckets ? cursor->passed : 0;
    uint32_t i = (uint32_t)(((uint64_t)home + passed) % shard->num_buckets);

    cursor->buckets = shard->num_buckets;
    for (; passed < shard->num_buckets; passed++, i = next_bucket(shard, i)) {
        const struct bucket *bucket = &shard->buckets[i];

        cursor->passed = passed;
        if (*n + BUCKET_SLOTS > WALK_BATCH)
            return false;
        for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++) {
            struct cache_item *item = item_of(bucket->slots[slot]);

            if (item == NULL || item_dead(cache, item) || bucket_of(shard, hash_of_item(cache, item)) != home)
                continue;
            item_ref(item);
            items[(*n)++] = item;
        }
        if (bucket->passed == 0)
            break;
    }
    return true;
}

/* References to what is alive in some buckets from the cursor on, with the shard locked. */
static size_t gather(struct cache *cache, struct shard *shard, struct cache_cursor *cursor, struct cache_item **items)
{
    size_t n = 0;

    for (unsigned i = 0; i < WALK_BUCKETS && gather_bucket(cache, shard, cursor, items, &n); i++)
        if (!advance(shard, cursor))
            break;
    return n;
}

bool cache_walk(struct cache *cache, struct cache_cursor *cursor, size_t budget, cache_walk_fn fn, void *arg)
{
    struct cache_item *items[WALK_BATCH];

    for (size_t done = 0; done < budget && cursor->shard < SHARDS;) {
        struct shard *shard = &cache->shards[cursor->shard];
        size_t n;

        pthread_mutex_lock(&shard->lock);
        n = gather(cache, shard, cursor, items);
        pthread_mutex_unlock(&shard->lock);
        for (size_t i = 0; i < n; i++) {
            fn(arg, items[i]);
            cache_item_release(items[i]);
        }
        done += n + 1;
    }
    return cursor->shard < SHARDS;
}

/* Unlinks what is dead in a bucket. The number of items looked at. */
static size_t sweep(struct cache *cache, struct shard *shard, struct bucket *bucket)
{
    size_t n = 0;

    for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++)
        __builtin_prefetch(item_of(bucket->slots[slot]));
    for (unsigned slot = 0; slot < BUCKET_SLOTS; slot++) {
        struct cache_item *item = item_of(bucket->slots[slot]);

        if (item == NULL)
            continue;
        n++;
        COUNT_ITEM(cache, item, crawler_items_checked);
        if (!item_dead(cache, item))
            continue;
        COUNT_ITEM(cache, item, crawler_reclaimed);
        item_bury(cache, shard, hash_of_item(cache, item), (struct place){bucket, slot, item}, false);
    }
    return n;
}

bool cache_crawl(struct cache *cache, size_t budget)
{
    struct cache_cursor *cursor = &cache->crawl;
    bool ended = false;

    pthread_mutex_lock(&cache->crawl_lock);
    for (size_t done = 0; done < budget && !ended;) {
        struct shard *shard = &cache->shards[cursor->shard];
        bool more = true;

        pthread_mutex_lock(&shard->lock);
        for (unsigned i = 0; more && i < WALK_BUCKETS; i++) {
            done += 1 + sweep(cache, shard, &shard->buckets[bucket_at(shard, cursor)]);
            more = advance(shard, cursor);
        }
        if (!more)
            shrink(cache, shard);
        pthread_mutex_unlock(&shard->lock);
        if (cursor->shard == SHARDS) {
            cursor->shard = 0;
            ended = true;
        }
    }
    pthread_mutex_unlock(&cache->crawl_lock);
    mem_forget_ceiling(cache);
    evict_over(cache);
    return ended;
}
