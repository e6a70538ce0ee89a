/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cache_int - what the files of the cache share, and nobody else includes.
 *
 *   cache.c        the operations
 *   cache_arith.c  those on numbers
 *   cache_meta.c   those of the meta commands alone
 *   cache_table.c  from a key to its item: hash, shards, growth, walks
 *   cache_mem.c    memory: segments that are filled from one end, large blocks, the limit
 *   cache_evict.c  what goes when memory is short, and moving what stays
 *   cache_stats.c  counters of threads, their sums, size classes
 *
 * Locks, in the order in which they are taken: evict.lock, shard.lock (one at a time), mem.lock. crawl_lock comes
 * before them all, stats_lock before mem.lock.
 */
#ifndef CACHE_INT_H
#define CACHE_INT_H

#include <pthread.h>

#include "cache.h"
#include "keyhash.h"

enum {
    SHARD_BITS = 10,
    SHARDS = 1 << SHARD_BITS,
    BUCKET_SLOTS = 7,
    GHOST_WAYS = 16,

    COUNTER_SLOTS = 16, /* threads that count without an atomic addition; the last slot is for all others */

    EVICT_PACE = 32, /* bytes of victims that are looked at for each byte stored, at most, ahead of need */

    LINE = 64, /* bytes of a cache line */
};

/*
 * item->bits, besides CACHE_ITEM_OWN. Written under the lock of the key; item_set_bits, as who holds an item may read.
 */
enum {
    ITEM_FREQ = 3,         /* mask: accesses since the item was last looked at for eviction, up to 3 */
    ITEM_FETCHED = 8,      /* since it was stored */
    ITEM_IN_MAIN = 16,     /* which queue its segment is of */
    ITEM_STALE = 32,       /* a meta delete has said so */
    ITEM_SENT = 64,        /* a meta get was told to renew it */
    ITEM_BINARY_KEY = 128, /* a meta command gave its key in base64 */
    ITEM_LASTING = ITEM_STALE | ITEM_SENT | ITEM_BINARY_KEY,
};

/* --- the table --- */

/*
 * A cache line of the table. A slot is the address of an item, with 16 bits of its hash in front, or 0. An item whose
 * bucket is full stands in one of the next; `passed` says how many are further on because this one was full.
 */
struct bucket {
    uint64_t slots[BUCKET_SLOTS];
    uint64_t passed;
};

_Static_assert(sizeof(struct bucket) == LINE, "one miss of the processor's cache for a look-up");

struct shard {
    pthread_mutex_t lock;
    struct bucket *buckets;
    uint32_t num_buckets;
    uint32_t num_items;
} __attribute__((aligned(LINE)));

/* Where an item stands. */
struct place {
    struct bucket *bucket;
    unsigned slot;
    struct cache_item *item; /* NULL: nowhere */
};

/* --- memory --- */

enum queue { QUEUE_SMALL, QUEUE_MAIN, QUEUES };

enum seg_state {
    SEG_FREE,   /* not in use. Zero: as memory is that the system has not given yet, or taken back */
    SEG_OPEN,   /* items are being added */
    SEG_QUEUED, /* full */
    SEG_VICTIM, /* cache_evict.c is at it */
};

/*
 * The head of a block of memory: a segment, which has many items one after the other, or a large item's. `live` counts
 * those in it that are not dead, above LIVE_ONE, and their bytes below; an open segment and a victim count one more.
 * Whoever takes it to zero frees the block.
 */
struct seg {
    struct seg *next; /* link in its queue, towards the younger, or in a list of free ones */
    struct seg *prev;
    struct cache *cache;
    uint64_t live; /* atomic */
    uint32_t size; /* bytes of the block */
    uint32_t used; /* bytes of it, this head included */
    uint32_t time; /* when it was opened */
    uint8_t state;
    uint8_t queue;
    bool large;
};

_Static_assert(sizeof(struct seg) % 8 == 0, "items are aligned");

#define LIVE_ONE (UINT64_C(1) << 36)

struct segq {
    struct seg *oldest;
    struct seg *youngest;
    uint64_t bytes; /* of blocks */
    uint64_t segs;
};

struct mem {
    pthread_mutex_t lock;
    struct seg *open[QUEUES];
    struct segq queues[QUEUES];
    struct seg *warm;   /* free segments */
    struct seg *spares; /* free blocks of large items */
    uint64_t num_warm;
    uint64_t num_used; /* segments that are not free */
    uint64_t resident; /* bytes of all blocks but cold ones */
    uint64_t allowed;  /* the limit, or more until what is over a lowered one has gone */
    uint64_t ceiling;  /* as the limit, when the system has no more */
    uint64_t due;      /* bytes of victims to be looked at for what was stored since memory became short */
    struct seg **cold; /* free segments whose memory was given back */
    size_t num_cold;
    uint8_t **extents; /* regions of segments, each as long as EXTENT_SEGS of them */
    size_t num_extents;
    size_t max_extents;
    size_t num_segs; /* carved out of them so far */
};

/* --- eviction --- */

struct evict {
    pthread_mutex_t lock;
    struct seg *victim;
    uint32_t at;      /* offset of the next item of the victim */
    uint32_t seen;    /* items of it so far */
    bool compacting;  /* all that is alive in it stays */
    bool sweeping;    /* and stays where it is: only what is dead goes */
    uint32_t sweeps;  /* victims that were swept for one store */
    bool is_stuck;    /* the last victim could not be freed */
    bool takes_other; /* there an item was held: the next is from the other queue */
    uint64_t held;    /* victims in a row in which an item was held */

    /* what survives depends on these: see strictness */
    uint64_t moved;        /* bytes of survivors since a segment was gained, */
    uint64_t moved_max;    /* and when nothing survives any more */
    int64_t gained;        /* bytes that came free, less those of survivors, beyond whole segments */
    uint64_t kept;         /* bytes of the victim's survivors */
    uint64_t cost;         /* ns, about, that survivors have cost in this call, */
    uint64_t cost_max;     /* and when nothing survives any more */
    uint64_t compact_cost; /* and what compacting has, which is bounded by itself */

    uint64_t random;
};

struct cache {
    /* immutable after create */
    struct keyhash hash;
    uint32_t item_max;
    bool flush_second;
    uint32_t seg_size;
    uint32_t large_min; /* bytes of an item from which on it has a block of its own */
    uint32_t ghost_mask;
    uint16_t *ghosts;
    uint8_t *class_of_units; /* class by size in units of 8 bytes */
    uint32_t chunk_sizes[CACHE_CLASSES];
    struct shard *shards;
    cache_evicted_fn evicted;
    void *evicted_arg;

    /* atomic: read by all, seldom written */
    uint64_t limit __attribute__((aligned(LINE)));
    uint64_t overhead;  /* bytes that are not in blocks */
    uint64_t flush_cas; /* less than this is dead; UINT64_MAX: all is until flushed_at is over */
    uint32_t now;
    uint32_t flush_at;   /* 0: none to come */
    uint32_t flushed_at; /* with flush_second: the second of the last flush */
    bool evicts;
    uint32_t ghost_ways;
    uint32_t next_shrink; /* the shard that table_shrink looks at next */

    /* atomic: written by each store */
    uint64_t cas __attribute__((aligned(LINE)));

    struct mem mem __attribute__((aligned(LINE)));
    struct evict evict __attribute__((aligned(LINE)));

    pthread_mutex_t crawl_lock __attribute__((aligned(LINE)));
    struct cache_cursor crawl;

    pthread_mutex_t stats_lock;
    struct cache_counters base;           /* what the counters were at the last reset */
    uint32_t evicted_time[CACHE_CLASSES]; /* atomic */

    struct cache_counters *slots[COUNTER_SLOTS]; /* each allocated when its thread first counts */
    struct cache_counters shared;                /* for those that have none */
};

/* --- small things that all use --- */

static inline uint32_t cache_now(const struct cache *cache)
{
    return __atomic_load_n(&cache->now, __ATOMIC_RELAXED);
}

static inline bool item_expired(const struct cache_item *item, uint32_t now)
{
    uint32_t exptime = cache_item_exptime(item);

    return exptime != 0 && exptime <= now;
}

static inline bool item_flushed(const struct cache *cache, const struct cache_item *item)
{
    return item->cas < __atomic_load_n(&cache->flush_cas, __ATOMIC_RELAXED);
}

/* Under the shard's lock. */
static inline bool item_dead(const struct cache *cache, const struct cache_item *item)
{
    return UNLIKELY(item_expired(item, cache_now(cache)) || item_flushed(cache, item));
}

static inline uint32_t item_refs(const struct cache_item *item)
{
    return __atomic_load_n(&item->refs, __ATOMIC_ACQUIRE);
}

static inline void item_ref(struct cache_item *item)
{
    __atomic_fetch_add(&item->refs, 1, __ATOMIC_RELAXED);
}

static inline void item_set_exptime(struct cache_item *item, uint32_t exptime)
{
    __atomic_store_n(&item->exptime, exptime, __ATOMIC_RELAXED);
}

/* Without the lock, by whoever holds it: what does not change, and what may be a moment old. */
static inline unsigned item_bits(const struct cache_item *item)
{
    return __atomic_load_n(&item->bits, __ATOMIC_RELAXED);
}

static inline void item_set_bits(struct cache_item *item, unsigned bits)
{
    __atomic_store_n(&item->bits, (uint8_t)bits, __ATOMIC_RELAXED);
}

/* For an item that has room for a unique of its own. */
static inline void item_set_own(struct cache_item *item, uint64_t unique)
{
    memcpy(item->bytes + item->nkey + item->nvalue + 2, &unique, sizeof(unique));
}

static inline struct seg *seg_of(const struct cache_item *item)
{
    return (struct seg *)((uintptr_t)item - (uintptr_t)item->at * 8);
}

/* --- cache_table.c --- */

static inline uint64_t table_hash(const struct cache *cache, const void *key, size_t nkey)
{
    return keyhash_of(&cache->hash, key, nkey);
}

static inline struct shard *table_shard(const struct cache *cache, uint64_t hash)
{
    return &cache->shards[hash >> (64 - SHARD_BITS)];
}

bool table_create(struct cache *cache) MUST_CHECK;
void table_destroy(struct cache *cache);

/* With the shard locked: where the key's item stands; where this item does. */
struct place table_find(const struct shard *shard, uint64_t hash, const void *key, size_t nkey);
struct place table_find_item(const struct shard *shard, uint64_t hash, const struct cache_item *item);

/* With the shard locked: enters an item whose key is not there. False when memory ran out and the table is full. */
bool table_insert(struct cache *cache, struct shard *shard, uint64_t hash, struct cache_item *item) MUST_CHECK;

void table_remove(struct shard *shard, uint64_t hash, struct place place);

/* Another item for the same key, in the same place. */
void table_exchange(struct place place, struct cache_item *item);

/* Gives back memory of a shard that has become much too large; of another one with each call. */
void table_shrink(struct cache *cache);

/* Slots of all shards, for stats. */
uint64_t table_slots(struct cache *cache);

/* --- cache_mem.c --- */

bool mem_create(struct cache *cache) MUST_CHECK;
void mem_destroy(struct cache *cache);

/* What memory is asked for. */
struct need {
    const void *key;
    size_t nkey;
    size_t nvalue;
    bool own; /* a unique of its own */
    enum queue queue;
};

/*
 * An item with this key and one reference, its value to be filled in, nothing else set but CR LF. Evicts for it; no
 * lock may be held. NULL when there is no memory; nothing is evicted then, if that could not have helped. `old` may be
 * NULL, or what the item will replace, held by the caller: when nobody else holds it and it is large, its memory is
 * counted as free.
 */
struct cache_item *mem_alloc(struct cache *cache, const struct need *need, const struct cache_item *old) MUST_CHECK;

/* The same for a small item that is to be moved: takes what is kept for that, and evicts nothing. */
struct cache_item *mem_alloc_reserve(struct cache *cache, const struct need *need) MUST_CHECK;

/* Gives back an item that never was in the table. */
void mem_undo(struct cache_item *item);

/* The limit from now on. When less than what is in use, what is allowed sinks to it by mem_lower, and by stores. */
void mem_set_limit(struct cache *cache, uint64_t limit);

/*
 * When no more is in use than allowed, that becomes less by so many bytes, but not less than the limit. Free memory
 * goes to the system first. Whether more is in use than the limit, or allowed.
 */
bool mem_lower(struct cache *cache, uint64_t bytes);

/* The system may be asked for memory again, after it had none. */
void mem_forget_ceiling(struct cache *cache);

/* Whether there is memory for a large item of that many bytes, less `credit`, or a segment if 0, without evicting. */
bool mem_has_room(struct cache *cache, size_t bytes, uint64_t credit);

/* Whether memory is short and more is to be looked at than the `done` bytes that were. */
bool mem_is_due(struct cache *cache, uint64_t done);

/* Takes the oldest block of a queue that is not about to be freed, as a victim with a share of its own; or NULL. */
struct seg *mem_take_oldest(struct cache *cache, enum queue queue);

/* The same with a segment in which much is dead: the most of a sample, or of all; at least 1/least of it. Or NULL. */
struct seg *mem_take_sparse(struct cache *cache, uint64_t random, bool all, unsigned least);

/* A victim goes to the young end of a queue, and its share is given up. */
void mem_put_back(struct cache *cache, struct seg *seg, enum queue queue);

/* Bytes of the blocks in a queue. */
uint64_t mem_queue_bytes(struct cache *cache, enum queue queue);

/* An item's or a holder's share of a block goes: `share` is LIVE_ONE and bytes. Frees the block if it was the last. */
void seg_drop(struct seg *seg, uint64_t share);

/* --- cache_evict.c --- */

bool evict_create(struct cache *cache) MUST_CHECK;
void evict_destroy(struct cache *cache);

/* Makes room for a segment, or for a large item of so many bytes, less `credit`, if not 0. False when it cannot. */
bool evict_for(struct cache *cache, size_t bytes, uint64_t credit) MUST_CHECK;

/* For room in advance: does the work that is due, or a part of it, unless another thread is at it. */
void evict_ahead(struct cache *cache);

/* Frees some of what is over the limit. */
void evict_over(struct cache *cache);

/* Whether the key was evicted from the small queue lately. */
bool ghost_has(const struct cache *cache, uint64_t hash);

/* Takes an item out of the table, with the shard locked, and lets go of it. */
void item_unlink(struct cache *cache, struct shard *shard, uint64_t hash, struct place place);

/* The same with one that is dead. It counts as reclaimed, unless it was a get that found it. */
void item_bury(struct cache *cache, struct shard *shard, uint64_t hash, struct place place, bool for_get);

/* --- cache.c: what operations are made of --- */

/* A key's shard, locked, and where its living item is. */
struct found {
    uint64_t hash;
    struct shard *shard;
    struct place place;
};

/* Locks the key's shard, and unlinks an item that is dead; for_get: and counts that. */
struct found op_find(struct cache *cache, const void *key, size_t nkey, bool for_get);
void op_unlock(const struct found *found);

/* Under the lock: somebody has asked for the item. */
void op_access(struct cache *cache, struct cache_item *item);

/* The next in the order of stores. */
uint64_t op_next_cas(struct cache *cache);

/* What an item has as of now, under the lock if it is known: its cas and its time. */
void op_make_current(struct cache *cache, struct cache_item *item);

/* Under the lock: an item for a key that has none; the caller's reference is the table's then. False: no memory. */
bool op_insert(struct cache *cache, const struct found *found, struct cache_item *item) MUST_CHECK;

/* As cache_item_alloc_with, whatever the size. */
struct cache_item *op_make_item(struct cache *cache, const struct need *need, const struct cache_props *props,
                                const struct cache_item *old) MUST_CHECK;

/* The same, with the key and the flags of one that is held. unique: one of its own, or NULL. */
struct cache_item *op_make_successor(struct cache *cache, const struct cache_item *old, size_t nvalue,
                                     const uint64_t *unique) MUST_CHECK;

/*
 * Makes a new item the key's if the old one, which is held and then released, still is that; else undoes it. exptime
 * NULL: that of the old one. The caller keeps a reference when true.
 */
bool op_exchange_held(struct cache *cache, struct cache_item *old, struct cache_item *item,
                      const uint32_t *exptime) MUST_CHECK;

/* --- cache_stats.c --- */

bool stats_create(struct cache *cache) MUST_CHECK;
void stats_destroy(struct cache *cache);
unsigned stats_class(const struct cache *cache, size_t nkey, size_t nvalue, bool flags);

struct cache_counters *stats_slot(struct cache *cache, bool *own);

static inline void count_add(uint64_t *counter, uint64_t n, bool own)
{
    if (LIKELY(own))
        __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
    else
        __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

#define COUNT(cache, name)                                                     \
    do {                                                                       \
        bool count_own_;                                                       \
        struct cache_counters *count_slot_ = stats_slot((cache), &count_own_); \
        count_add(&count_slot_->name, 1, count_own_);                          \
    } while (0)

/* Of the class of an item. */
#define COUNT_ITEM_N(cache, item, name, n)                                                         \
    do {                                                                                           \
        bool count_own_;                                                                           \
        struct cache_counters *count_slot_ = stats_slot((cache), &count_own_);                     \
        count_add(&count_slot_->classes[cache_item_class((cache), (item))].name, (n), count_own_); \
    } while (0)

#define COUNT_ITEM(cache, item, name) COUNT_ITEM_N(cache, item, name, 1)

#endif
