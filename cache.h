/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cache - the cache inside moxi: keys and values in bounded memory, with memcached's semantics.
 *
 * Any thread may call any function at any time, except cache_create and cache_destroy, which stand alone. No call
 * blocks for longer than it takes to make room for one item; no lock is held when it returns or calls back, but for
 * cache_evicted_fn.
 *
 *   alloc --> item, writable --> store: the cache has it          get --> item, read only --> release
 *                            \-> release: it never was
 *
 * An item that was got stays as it is, value and all, until it is released, whatever becomes of its key meanwhile. What
 * is held keeps memory from being used again, its neighbours' too, so it should be held no longer than it takes to send
 * it; what is small and may wait for long is better copied.
 *
 * Time is Unix time in whole seconds, as the owner last told it with cache_set_clock. An exptime is 0, never, or the
 * second from which on the item is gone; cache_exptime makes it of what a client sent.
 *
 * What is dead (expired, or older than a flush_all) is found when somebody asks for it, when its memory is wanted, or
 * by cache_crawl. The limit is for all of the memory, but that a first part of what is not items' is free, 1/64 of it.
 */
#ifndef CACHE_H
#define CACHE_H

#include <string.h>

#include "util.h"

enum {
    CACHE_KEY_MAX = 250,
    CACHE_ITEM_MAX = 1024 * 1024,              /* the default of item_max */
    CACHE_ITEM_MAX_LIMIT = 1024 * 1024 * 1024, /* and the largest that may be set */
    CACHE_CLASSES = 40,                        /* size classes that stats know; 0 is none */
};

struct cache;

/* Only value bytes, and only until the item is stored, are written by others than the cache. */
struct cache_item {
    uint64_t cas;     /* in the order of stores; 0 until stored. Its unique: cache_item_unique */
    uint32_t exptime; /* changes under a holder when the key is touched: cache_item_exptime */
    uint32_t time;    /* of the last access, as above: cache_item_time */
    uint32_t flags;   /* the client's */
    uint32_t nvalue;  /* bytes of the value */
    uint32_t refs;    /* atomic: holders, and the table */
    uint16_t at;      /* 8-byte units from the start of its segment */
    uint8_t nkey;     /* bytes of the key */
    uint8_t bits;     /* the cache's; under the lock of the key, but for CACHE_ITEM_OWN, which stays as it is */
    uint8_t bytes[];  /* key, value, CR LF; with CACHE_ITEM_OWN, the unique */
};

/* In bits: its unique was given by a client. */
enum { CACHE_ITEM_OWN = 4 };

_Static_assert(sizeof(struct cache_item) == 32, "an item of ten and a hundred bytes takes 144");

static inline const uint8_t *cache_item_key(const struct cache_item *item)
{
    return item->bytes;
}

/* The value. CR LF follow it in memory, so that nvalue + 2 bytes from here on are what a reply needs. */
static inline uint8_t *cache_item_value(struct cache_item *item)
{
    return item->bytes + item->nkey;
}

static inline uint32_t cache_item_exptime(const struct cache_item *item)
{
    return __atomic_load_n(&item->exptime, __ATOMIC_RELAXED);
}

static inline uint32_t cache_item_time(const struct cache_item *item)
{
    return __atomic_load_n(&item->time, __ATOMIC_RELAXED);
}

static inline bool cache_item_is_own(const struct cache_item *item)
{
    return (__atomic_load_n(&item->bits, __ATOMIC_RELAXED) & CACHE_ITEM_OWN) != 0;
}

/* What clients know its version by. */
static inline uint64_t cache_item_unique(const struct cache_item *item)
{
    uint64_t unique = item->cas;

    if (UNLIKELY(cache_item_is_own(item)))
        memcpy(&unique, item->bytes + item->nkey + item->nvalue + 2, sizeof(unique));
    return unique;
}

/* Bytes of memory that one takes; own: one that has CACHE_ITEM_OWN. */
static inline size_t cache_bytes_of(size_t nkey, size_t nvalue, bool own)
{
    return (sizeof(struct cache_item) + nkey + nvalue + 2 + (own ? sizeof(uint64_t) : 0) + 7) & ~(size_t)7;
}

static inline size_t cache_item_bytes(const struct cache_item *item)
{
    return cache_bytes_of(item->nkey, item->nvalue, cache_item_is_own(item));
}

/* Bytes that such an item would take in memcached: what item_max, size classes and stats go by. */
static inline uint64_t cache_size_of(size_t nkey, size_t nvalue, bool flags)
{
    return 48 + 8 + (flags ? 4 : 0) + nkey + 1 + nvalue + 2;
}

static inline uint64_t cache_item_size(const struct cache_item *item)
{
    return cache_size_of(item->nkey, item->nvalue, item->flags != 0);
}

enum cache_result {
    CACHE_STORED,      /* also: done, for what is not a store */
    CACHE_NOT_STORED,  /* add found the key; replace, append, prepend found none, or would make it too large */
    CACHE_EXISTS,      /* the unique does not fit */
    CACHE_NOT_FOUND,   /* there is no such key */
    CACHE_NON_NUMERIC, /* incr or decr of what is no number */
    CACHE_TOO_LARGE,   /* for item_max */
    CACHE_NO_MEMORY,   /* evictions are off, or all that could be evicted is held, or the system has no more */
};

enum cache_mode { CACHE_SET, CACHE_ADD, CACHE_REPLACE, CACHE_APPEND, CACHE_PREPEND, CACHE_CAS };

/*
 * An item is being evicted. Whoever is told so has it until it returns, may not call the cache but for what only asks
 * an item (cache_item_exptime, cache_item_time, cache_item_class), and holds up others: locks are held.
 */
typedef void (*cache_evicted_fn)(void *arg, const struct cache_item *item, bool was_fetched);

struct cache_options {
    uint64_t limit;    /* bytes; less than 1 MiB counts as that */
    uint32_t item_max; /* bytes of an item as memcached would count them; 0: CACHE_ITEM_MAX */
    bool evict;        /* false: CACHE_NO_MEMORY instead of evicting what is alive */
    bool flush_second; /* cache_flush takes what is stored in the rest of its second as well: memcached without cas */
    uint64_t seed;     /* of the hash's secrets; 0: random ones, so that nobody can aim keys at one place */
    cache_evicted_fn evicted; /* NULL: nobody is told */
    void *evicted_arg;
};

/* NULL when memory ran out. The clock stands at 1. */
struct cache *cache_create(const struct cache_options *options) MUST_CHECK;

/* Every item must have been released. NULL is allowed. */
void cache_destroy(struct cache *cache);

/* Tells the time, in seconds, for all calls that follow; a delayed flush_all that is due happens here. */
void cache_set_clock(struct cache *cache, uint32_t now);
uint32_t cache_clock(const struct cache *cache);

/* A protocol's exptime: 0 is never, up to 30 days from now on, more is Unix time, less than 0 is past. */
uint32_t cache_exptime(int64_t exptime, uint32_t now);

/*
 * The memory to be used from now on. When it is less than before, what is too much goes little by little, in the next
 * calls of cache_crawl and of whatever needs memory.
 */
void cache_set_limit(struct cache *cache, uint64_t limit);
void cache_set_evict(struct cache *cache, bool evict);

/* A reference to the item of the key, to be released; NULL when there is none. Counts as a get. */
struct cache_item *cache_get(struct cache *cache, const void *key, size_t nkey) MUST_CHECK;

/* The same, with a new exptime. Counts as a touch, and not as a get, as in memcached. */
struct cache_item *cache_gat(struct cache *cache, const void *key, size_t nkey, uint32_t exptime) MUST_CHECK;

/* What a meta get asks besides. */
struct cache_ask {
    bool is_silent;     /* it is neither an access nor a fetch */
    bool touches;       /* a new exptime */
    bool touches_first; /* before it is looked at for recache */
    bool spares_new;    /* but not what is made */
    uint32_t exptime;
    bool recaches; /* what is gone before this second, and not for good, is to be renewed */
    uint32_t recache;
    bool vivifies; /* a key that is not there gets an empty value until then, with this unique maybe */
    uint32_t vivify_exptime;
    bool binary_key;
    bool own;
    uint64_t own_unique;
};

/* An item as it was before a meta get of it. */
struct cache_state {
    uint64_t unique;
    uint32_t old_exptime; /* before it was touched, */
    uint32_t exptime;     /* and after it */
    uint32_t time;        /* of the last access */
    bool is_fetched;
    bool is_stale;
    bool is_sent; /* somebody was told to renew it */
    bool won;     /* whoever has got it now is told so */
    bool binary_key;
};

/* As cache_get, or as cache_gat when it touches and the key is there. */
struct cache_item *cache_meta_get(struct cache *cache, const void *key, size_t nkey, const struct cache_ask *ask,
                                  struct cache_state *state) MUST_CHECK;

/* The same, but it changes and counts nothing. */
struct cache_item *cache_meta_look(struct cache *cache, const void *key, size_t nkey,
                                   struct cache_state *state) MUST_CHECK;

/* What is to be found at a key. */
struct cache_sight {
    enum { CACHE_SIGHT_NONE, CACHE_SIGHT_ALIVE, CACHE_SIGHT_EXPIRED, CACHE_SIGHT_FLUSHED } state;
    unsigned class; /* of the three, when ALIVE; else 0 */
    uint32_t nvalue;
    uint32_t exptime;
};

/* A look at a key that changes and counts nothing: for telling others. */
struct cache_sight cache_look(struct cache *cache, const void *key, size_t nkey);

/* Gives back a reference, in any thread. */
void cache_item_release(struct cache_item *item);

/*
 * An item with a value to be filled with nvalue bytes, and a reference to it; CR LF are there. NULL when there can be
 * none, and *why is then CACHE_TOO_LARGE or CACHE_NO_MEMORY; what could not have fitted in any case has evicted
 * nothing. nkey is 1..CACHE_KEY_MAX. What a key had before stays, also when there is no memory: a caller who wants
 * memcached's ways drops it then (cache_drop).
 */
struct cache_item *cache_item_alloc(struct cache *cache, const void *key, size_t nkey, uint32_t flags, uint32_t exptime,
                                    size_t nvalue, enum cache_result *why) MUST_CHECK;

/* What an item has from the beginning, besides key and value. */
struct cache_props {
    uint32_t flags;
    uint32_t exptime;
    bool binary_key; /* told by cache_meta_get */
    bool own;        /* it has a unique of its own, */
    uint64_t unique; /* this */
};

/* The same, with more to say. */
struct cache_item *cache_item_alloc_with(struct cache *cache, const void *key, size_t nkey,
                                         const struct cache_props *props, size_t nvalue,
                                         enum cache_result *why) MUST_CHECK;

/*
 * Stores an item that cache_item_alloc gave. The caller's reference is gone, whatever the result, and the item must not
 * be looked at any more. unique may be NULL. For CACHE_CAS, and for append and prepend if *unique is not 0, it must be
 * that of the key; after CACHE_STORED it is the new one. append and prepend keep flags and exptime of the key. They
 * make a new value beside the old one: when that is large and nobody holds it, memory may be over the limit by its size
 * for that long. CACHE_NOT_FOUND: only CACHE_CAS.
 */
enum cache_result cache_store(struct cache *cache, struct cache_item *item, enum cache_mode mode,
                              uint64_t *unique) MUST_CHECK;

/* What a store depends on, and what has become of it. */
struct cache_terms {
    uint64_t unique;   /* as *unique above */
    bool allows_stale; /* CACHE_CAS: an older unique will do, but the value is stale then, and expires as the old one */
    bool vivifies;     /* append, prepend: to nothing, if the key is not there */
    uint32_t nvalue;   /* after CACHE_STORED: of the whole value */
};

enum cache_result cache_store_with(struct cache *cache, struct cache_item *item, enum cache_mode mode,
                                   struct cache_terms *terms) MUST_CHECK;

/* Removes the key. False when it was not there. The second does not count as a delete, and is for failed stores. */
bool cache_delete(struct cache *cache, const void *key, size_t nkey);
bool cache_drop(struct cache *cache, const void *key, size_t nkey);

/* How a meta delete removes. */
struct cache_removal {
    bool compares; /* only if it has this unique: else CACHE_EXISTS */
    uint64_t unique;
    bool invalidates;   /* not at all: it is stale from now on, and has a new unique */
    bool removes_value; /* its value alone, and its flags become these */
    uint32_t flags;
    bool touches; /* what is left lives until then; without it, what has no value any more lives for good */
    uint32_t exptime;
    bool own; /* and has this unique */
    uint64_t own_unique;
};

/* CACHE_STORED, CACHE_NOT_FOUND, CACHE_EXISTS, CACHE_NO_MEMORY. */
enum cache_result cache_meta_delete(struct cache *cache, const void *key, size_t nkey,
                                    const struct cache_removal *removal) MUST_CHECK;

/* A new exptime. False when the key was not there. */
bool cache_touch(struct cache *cache, const void *key, size_t nkey, uint32_t exptime);

/*
 * Adds delta to the decimal number that the value is, modulo 2^64, or subtracts it, down to 0; *value becomes the
 * result. White space may stand before its digits, and with anything after it behind them; the result is filled up with
 * blanks to the length that was there. unique as in cache_store, may be NULL. CACHE_STORED, CACHE_NOT_FOUND,
 * CACHE_NON_NUMERIC, CACHE_EXISTS, CACHE_NO_MEMORY.
 */
enum cache_result cache_arith(struct cache *cache, const void *key, size_t nkey, bool incr, uint64_t delta,
                              uint64_t *value, uint64_t *unique) MUST_CHECK;

/* The same, with more to say. What is given stays as it was but after CACHE_STORED. */
struct cache_arith {
    bool incr;
    uint64_t delta;
    uint64_t unique; /* 0: any; then its new one */
    bool own;        /* which is to be this */
    uint64_t own_unique;
    bool vivifies; /* a key that is not there begins with `initial`; no CACHE_NOT_FOUND */
    uint64_t initial;
    uint32_t vivify_exptime;
    bool binary_key;
    bool touches;    /* a new exptime */
    bool spares_new; /* but not what is made */
    uint32_t exptime;
    /* out; and exptime, as it is now */
    uint64_t value;
    uint32_t old_exptime;
};

enum cache_result cache_arith_with(struct cache *cache, const void *key, size_t nkey, struct cache_arith *a) MUST_CHECK;

/*
 * flush_all: what was stored before is gone; with flush_second, also what is stored before the clock goes on. `when` is
 * 0, or what cache_exptime made of the delay: then it happens as the clock reaches it, for all that was stored in
 * earlier seconds. It takes the place of one that is still to come.
 */
void cache_flush(struct cache *cache, uint32_t when);

/*
 * Background work, for a timer: looks at about `budget` items, goes on where the last call ended, and frees the dead;
 * then, also with a budget of 0, frees some 16 to 32 MB of what is over a limit that was lowered. Returns true when it
 * has come to the end of the table, and will begin again.
 */
bool cache_crawl(struct cache *cache, size_t budget);

/* A place in a walk over all items; zeros are the beginning. */
struct cache_cursor {
    uint32_t shard;
    uint32_t passed;  /* buckets behind its own in which the items at the place have been told */
    uint64_t place;   /* in the shard, as a fraction of 2^32 */
    uint32_t buckets; /* that the shard had then */
};

/* Gets an item that is valid until it returns. May call whatever it likes. */
typedef void (*cache_walk_fn)(void *arg, struct cache_item *item);

/*
 * Calls fn for a few items more, up to about `budget`, and returns whether there may be others. What is in the cache
 * during the whole walk is told at least once, what comes or goes maybe.
 */
bool cache_walk(struct cache *cache, struct cache_cursor *cursor, size_t budget, cache_walk_fn fn, void *arg);

/* Whether somebody has got the item since it was stored. For walks. */
bool cache_item_fetched(struct cache *cache, const struct cache_item *item);

/* Whether a meta command that stored it gave its key in base64. For walks. */
bool cache_item_has_binary_key(struct cache *cache, const struct cache_item *item);

/* The class of stats that an item belongs to, 1..CACHE_CLASSES - 1. */
unsigned cache_item_class(const struct cache *cache, const struct cache_item *item);

/*
 * Stats. Names are memcached's, for what is the same here. A size class is only a range of sizes, that in which
 * memcached would keep such items by default: there are no pages of a class here, memory belongs to all.
 */

/*
 * X(name): what a class counts. The first two go up and down, the rest is counted since the last reset. mem_requested
 * is in bytes as memcached would take them, like chunk_sizes.
 */
#define CACHE_CLASS_COUNTERS(X) \
    X(number)                   \
    X(mem_requested)            \
    X(get_hits)                 \
    X(cmd_set)                  \
    X(touch_hits)               \
    X(delete_hits)              \
    X(incr_hits)                \
    X(decr_hits)                \
    X(cas_hits)                 \
    X(cas_badval)               \
    X(evicted)                  \
    X(evicted_nonzero)          \
    X(evicted_unfetched)        \
    X(evicted_active)           \
    X(outofmemory)              \
    X(reclaimed)                \
    X(expired_unfetched)        \
    X(crawler_reclaimed)        \
    X(crawler_items_checked)

/* X(name): what is counted without a class, since the last reset. */
#define CACHE_COUNTERS(X) \
    X(total_items)        \
    X(get_misses)         \
    X(get_expired)        \
    X(get_flushed)        \
    X(touch_misses)       \
    X(delete_misses)      \
    X(incr_misses)        \
    X(decr_misses)        \
    X(cas_misses)         \
    X(cmd_flush)          \
    X(store_too_large)    \
    X(store_no_memory)    \
    X(malloc_fails)       \
    X(moves_to_main)      \
    X(moves_within_main)  \
    X(moves_in_place)     \
    X(segments_evicted)   \
    X(segments_compacted) \
    X(segments_held)

struct cache_class_counters {
#define X(name) uint64_t name;
    CACHE_CLASS_COUNTERS(X)
#undef X
};

struct cache_counters {
#define X(name) uint64_t name;
    CACHE_COUNTERS(X)
#undef X
    struct cache_class_counters classes[CACHE_CLASSES];
};

struct cache_stats {
    struct cache_counters counters;
    struct cache_class_counters all; /* sums over classes: number is curr_items, mem_requested is bytes */
    uint64_t limit_maxbytes;
    uint64_t bytes_held;                  /* from the system, for items: in use or not */
    uint64_t bytes_tables;                /* hash table, ghosts, counters */
    uint64_t total_pages;                 /* segments in use, large items aside */
    uint64_t free_pages;                  /* segments that are kept for what comes next */
    uint32_t hash_power;                  /* the table has room for 2^this items, rounded up */
    uint64_t hash_bytes;                  /* of the hash table alone */
    uint32_t age;                         /* seconds since the oldest of the main queue was put there */
    bool was_used[CACHE_CLASSES];         /* something was stored in the class, ever */
    uint32_t chunk_sizes[CACHE_CLASSES];  /* the most bytes of an item of the class, as memcached counts them */
    uint32_t evicted_time[CACHE_CLASSES]; /* seconds since the last access of what was evicted last */
    uint32_t ages[CACHE_CLASSES];         /* seconds since the last access of the least lately accessed, of a sample */
};

/* All of it at this moment; each number is true, though not all of one instant. Bounded work. */
void cache_stats(struct cache *cache, struct cache_stats *stats);

/* Counts, as store_too_large, a value that the caller did not even try to store. */
void cache_count_too_large(struct cache *cache);

/* stats reset: counters begin anew, what goes up and down stays. */
void cache_stats_reset(struct cache *cache);

#endif
