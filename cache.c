/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cache - the operations: see cache.h for what they do and HACKING for how the parts fit.
 *
 *   key --hash--> shard: lock; look up; count, refer, exchange or unlink; unlock
 *
 * An item has a reference from the table and one from each holder. Under the lock of its shard nobody can get one more,
 * so there "one reference" means that an item may be written in place; else whoever changes it makes a new one. Memory
 * is asked for without any lock, as making room takes locks of other shards; so what depends on the old item (incr that
 * needs more digits, append) is done on a held old item and entered if that is still the key's, or done again.
 */
#include "cache_int.h"

#include <stdlib.h>
#include <string.h>

enum {
    LIMIT_MIN = 1024 * 1024,
    THIRTY_DAYS = 60 * 60 * 24 * 30,
    LONG_PAST = 1,
    COPY_IN_PLACE = 4096, /* bytes of a value up to which copying it is better than a hole in a segment */
};

/* --- what operations are made of --- */

void op_access(struct cache *cache, struct cache_item *item)
{
    if ((item->bits & ITEM_FREQ) < ITEM_FREQ)
        item_set_bits(item, item->bits + 1u);
    __atomic_store_n(&item->time, cache_now(cache), __ATOMIC_RELAXED);
}

static void bury_found(struct cache *cache, struct found *found, bool for_get)
{
    if (for_get) {
        if (item_flushed(cache, found->place.item))
            COUNT(cache, get_flushed);
        else
            COUNT(cache, get_expired);
    }
    item_bury(cache, found->shard, found->hash, found->place, for_get);
    found->place.item = NULL;
}

struct found op_find(struct cache *cache, const void *key, size_t nkey, bool for_get)
{
    struct found found;

    found.hash = table_hash(cache, key, nkey);
    found.shard = table_shard(cache, found.hash);
    pthread_mutex_lock(&found.shard->lock);
    found.place = table_find(found.shard, found.hash, key, nkey);
    if (found.place.item != NULL && item_dead(cache, found.place.item))
        bury_found(cache, &found, for_get);
    return found;
}

void op_unlock(const struct found *found)
{
    pthread_mutex_unlock(&found->shard->lock);
}

uint64_t op_next_cas(struct cache *cache)
{
    return __atomic_add_fetch(&cache->cas, 1, __ATOMIC_RELAXED);
}

static void count_linked(struct cache *cache, const struct cache_item *item)
{
    COUNT_ITEM(cache, item, number);
    COUNT_ITEM_N(cache, item, mem_requested, cache_item_size(item));
    COUNT(cache, total_items);
}

void op_make_current(struct cache *cache, struct cache_item *item)
{
    item->cas = op_next_cas(cache);
    __atomic_store_n(&item->time, cache_now(cache), __ATOMIC_RELAXED);
}

bool op_insert(struct cache *cache, const struct found *found, struct cache_item *item)
{
    op_make_current(cache, item);
    if (!table_insert(cache, found->shard, found->hash, item))
        return false;
    count_linked(cache, item);
    return true;
}

/* The new item is as much in use as the old one was. */
static void replace_item(struct cache *cache, const struct found *found, struct cache_item *item)
{
    struct cache_item *old = found->place.item;
    unsigned freq = old->bits & ITEM_FREQ;

    item_set_bits(item, item->bits | (freq < ITEM_FREQ ? freq + 1 : freq));
    op_make_current(cache, item);
    table_exchange(found->place, item);
    COUNT_ITEM_N(cache, old, number, UINT64_MAX);
    COUNT_ITEM_N(cache, old, mem_requested, -cache_item_size(old));
    cache_item_release(old);
    count_linked(cache, item);
}

/* --- life, time, limits --- */

static uint64_t at_least(uint64_t limit)
{
    return limit > LIMIT_MIN ? limit : LIMIT_MIN;
}

struct cache *cache_create(const struct cache_options *options)
{
    struct cache *cache = aligned_alloc(LINE, sizeof(*cache));
    bool is_whole;

    if (cache == NULL)
        return NULL;
    memset(cache, 0, sizeof(*cache));
    keyhash_setup(&cache->hash, options->seed);
    cache->limit = at_least(options->limit);
    cache->item_max = options->item_max != 0 ? options->item_max : CACHE_ITEM_MAX;
    if (cache->item_max > CACHE_ITEM_MAX_LIMIT)
        cache->item_max = CACHE_ITEM_MAX_LIMIT;
    cache->evicts = options->evict;
    cache->flush_second = options->flush_second;
    cache->evicted = options->evicted;
    cache->evicted_arg = options->evicted_arg;
    cache->now = 1;
    pthread_mutex_init(&cache->crawl_lock, NULL);
    pthread_mutex_init(&cache->stats_lock, NULL);
    /* All are begun, so that all can be ended. */
    is_whole = mem_create(cache);
    is_whole &= evict_create(cache);
    is_whole &= table_create(cache);
    is_whole &= stats_create(cache);
    if (!is_whole) {
        cache_destroy(cache);
        return NULL;
    }
    return cache;
}

void cache_destroy(struct cache *cache)
{
    if (cache == NULL)
        return;
    stats_destroy(cache);
    table_destroy(cache);
    evict_destroy(cache);
    mem_destroy(cache);
    pthread_mutex_destroy(&cache->stats_lock);
    pthread_mutex_destroy(&cache->crawl_lock);
    free(cache);
}

/* All that has a unique by now is dead. */
static void flush_now(struct cache *cache)
{
    __atomic_store_n(&cache->flush_cas, op_next_cas(cache), __ATOMIC_RELAXED);
}

/* What is stored from now on lives again, if the second of the flush is over. */
static void end_flush_second(struct cache *cache)
{
    uint64_t all = UINT64_MAX;

    if (__atomic_load_n(&cache->flush_cas, __ATOMIC_SEQ_CST) == all &&
        __atomic_load_n(&cache->flushed_at, __ATOMIC_RELAXED) != __atomic_load_n(&cache->now, __ATOMIC_SEQ_CST))
        __atomic_compare_exchange_n(&cache->flush_cas, &all, op_next_cas(cache), false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_RELAXED);
}

/* The clock may go on meanwhile, in another thread. */
static void flush_this_second(struct cache *cache)
{
    __atomic_store_n(&cache->flushed_at, cache_now(cache), __ATOMIC_RELAXED);
    __atomic_store_n(&cache->flush_cas, UINT64_MAX, __ATOMIC_SEQ_CST);
    end_flush_second(cache);
}

void cache_set_clock(struct cache *cache, uint32_t now)
{
    uint32_t flush_at = __atomic_load_n(&cache->flush_at, __ATOMIC_RELAXED);

    __atomic_store_n(&cache->now, now, __ATOMIC_SEQ_CST);
    end_flush_second(cache);
    if (UNLIKELY(flush_at != 0) && now >= flush_at &&
        __atomic_compare_exchange_n(&cache->flush_at, &flush_at, 0, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        flush_now(cache);
}

uint32_t cache_clock(const struct cache *cache)
{
    return cache_now(cache);
}

uint32_t cache_exptime(int64_t exptime, uint32_t now)
{
    if (exptime == 0)
        return 0;
    if (exptime < 0)
        return LONG_PAST;
    if (exptime <= THIRTY_DAYS)
        exptime += now;
    return exptime < UINT32_MAX ? (uint32_t)exptime : UINT32_MAX;
}

void cache_flush(struct cache *cache, uint32_t when)
{
    bool is_later = when > cache_now(cache);

    COUNT(cache, cmd_flush);
    __atomic_store_n(&cache->flush_at, is_later ? when : 0, __ATOMIC_RELAXED);
    if (is_later)
        return;
    if (cache->flush_second)
        flush_this_second(cache);
    else
        flush_now(cache);
}

void cache_set_limit(struct cache *cache, uint64_t limit)
{
    mem_set_limit(cache, at_least(limit));
}

void cache_set_evict(struct cache *cache, bool evict)
{
    __atomic_store_n(&cache->evicts, evict, __ATOMIC_RELAXED);
}

/* --- getting --- */

struct cache_item *cache_get(struct cache *cache, const void *key, size_t nkey)
{
    struct found found = op_find(cache, key, nkey, true);
    struct cache_item *item = found.place.item;

    if (item != NULL) {
        item_ref(item);
        op_access(cache, item);
        item_set_bits(item, item->bits | ITEM_FETCHED);
    }
    op_unlock(&found);
    if (item != NULL)
        COUNT_ITEM(cache, item, get_hits);
    else
        COUNT(cache, get_misses);
    return item;
}

struct cache_item *cache_gat(struct cache *cache, const void *key, size_t nkey, uint32_t exptime)
{
    struct found found = op_find(cache, key, nkey, true);
    struct cache_item *item = found.place.item;

    if (item != NULL) {
        item_ref(item);
        op_access(cache, item);
        item_set_bits(item, item->bits | ITEM_FETCHED);
        item_set_exptime(item, exptime);
    }
    op_unlock(&found);
    if (item != NULL)
        COUNT_ITEM(cache, item, touch_hits);
    else
        COUNT(cache, touch_misses);
    return item;
}

struct cache_sight cache_look(struct cache *cache, const void *key, size_t nkey)
{
    uint64_t hash = table_hash(cache, key, nkey);
    struct shard *shard = table_shard(cache, hash);
    struct cache_sight sight = {.state = CACHE_SIGHT_NONE};
    const struct cache_item *item;

    pthread_mutex_lock(&shard->lock);
    item = table_find(shard, hash, key, nkey).item;
    if (item != NULL && !item_dead(cache, item))
        sight = (struct cache_sight){.state = CACHE_SIGHT_ALIVE,
                                     .class = cache_item_class(cache, item),
                                     .nvalue = item->nvalue,
                                     .exptime = cache_item_exptime(item)};
    else if (item != NULL)
        sight.state = item_flushed(cache, item) ? CACHE_SIGHT_FLUSHED : CACHE_SIGHT_EXPIRED;
    pthread_mutex_unlock(&shard->lock);
    return sight;
}

bool cache_touch(struct cache *cache, const void *key, size_t nkey, uint32_t exptime)
{
    struct found found = op_find(cache, key, nkey, true);
    struct cache_item *item = found.place.item;

    if (item != NULL) {
        op_access(cache, item);
        item_set_bits(item, item->bits | ITEM_FETCHED);
        item_set_exptime(item, exptime);
        COUNT_ITEM(cache, item, touch_hits);
    } else {
        COUNT(cache, touch_misses);
    }
    op_unlock(&found);
    return item != NULL;
}

static unsigned bits_of(struct cache *cache, const struct cache_item *item)
{
    struct shard *shard = table_shard(cache, table_hash(cache, item->bytes, item->nkey));
    unsigned bits;

    pthread_mutex_lock(&shard->lock);
    bits = item->bits;
    pthread_mutex_unlock(&shard->lock);
    return bits;
}

bool cache_item_fetched(struct cache *cache, const struct cache_item *item)
{
    return (bits_of(cache, item) & ITEM_FETCHED) != 0;
}

bool cache_item_has_binary_key(struct cache *cache, const struct cache_item *item)
{
    return (bits_of(cache, item) & ITEM_BINARY_KEY) != 0;
}

void cache_item_release(struct cache_item *item)
{
    /* Once the count is down, the item is another's. The block is not, until its share goes too. */
    uint64_t share = LIVE_ONE + cache_item_bytes(item);
    struct seg *seg = seg_of(item);

    if (__atomic_sub_fetch(&item->refs, 1, __ATOMIC_ACQ_REL) == 0)
        seg_drop(seg, share);
}

/* --- storing --- */

static void count_no_memory(struct cache *cache, size_t nkey, size_t nvalue, uint32_t flags)
{
    bool own;
    struct cache_counters *slot = stats_slot(cache, &own);

    count_add(&slot->store_no_memory, 1, own);
    count_add(&slot->classes[stats_class(cache, nkey, nvalue, flags != 0)].outofmemory, 1, own);
}

struct cache_item *op_make_item(struct cache *cache, const struct need *need, const struct cache_props *props,
                                const struct cache_item *old)
{
    struct cache_item *item = mem_alloc(cache, need, old);

    if (item == NULL) {
        count_no_memory(cache, need->nkey, need->nvalue, props->flags);
        return NULL;
    }
    item->flags = props->flags;
    item->time = 0;
    item_set_exptime(item, props->exptime);
    if (props->binary_key)
        item_set_bits(item, item->bits | ITEM_BINARY_KEY);
    if (need->own)
        item_set_own(item, props->unique);
    return item;
}

struct cache_item *op_make_successor(struct cache *cache, const struct cache_item *old, size_t nvalue,
                                     const uint64_t *unique)
{
    const struct need need = {
        .key = old->bytes, .nkey = old->nkey, .nvalue = nvalue, .own = unique != NULL, .queue = QUEUE_SMALL};
    const struct cache_props props = {.flags = old->flags, .unique = unique != NULL ? *unique : 0};

    return op_make_item(cache, &need, &props, old);
}

static bool is_too_large(const struct cache *cache, size_t nkey, size_t nvalue, uint32_t flags)
{
    return nvalue > cache->item_max || cache_size_of(nkey, nvalue, flags != 0) > cache->item_max;
}

struct cache_item *cache_item_alloc_with(struct cache *cache, const void *key, size_t nkey,
                                         const struct cache_props *props, size_t nvalue, enum cache_result *why)
{
    struct need need = {.key = key, .nkey = nkey, .nvalue = nvalue, .own = props->own};
    struct cache_item *item;

    if (is_too_large(cache, nkey, nvalue, props->flags)) {
        COUNT(cache, store_too_large);
        *why = CACHE_TOO_LARGE;
        return NULL;
    }
    need.queue = ghost_has(cache, table_hash(cache, key, nkey)) ? QUEUE_MAIN : QUEUE_SMALL;
    item = op_make_item(cache, &need, props, NULL);
    if (item == NULL)
        *why = CACHE_NO_MEMORY;
    return item;
}

struct cache_item *cache_item_alloc(struct cache *cache, const void *key, size_t nkey, uint32_t flags, uint32_t exptime,
                                    size_t nvalue, enum cache_result *why)
{
    const struct cache_props props = {.flags = flags, .exptime = exptime};

    return cache_item_alloc_with(cache, key, nkey, &props, nvalue, why);
}

/* Whether a store with an older unique takes effect, of a value that is then stale. */
static bool is_stale(const struct cache_item *old, const struct cache_terms *terms)
{
    return old != NULL && terms->allows_stale && terms->unique != 0 && terms->unique < cache_item_unique(old);
}

/* What the mode says of storing when the key has, or has not, an item. CACHE_STORED: do it. */
static enum cache_result judge(const struct cache_item *old, enum cache_mode mode, const struct cache_terms *terms)
{
    bool differs = old != NULL && terms->unique != 0 && terms->unique != cache_item_unique(old);

    switch (mode) {
    case CACHE_SET:
        return CACHE_STORED;
    case CACHE_ADD:
        return old == NULL ? CACHE_STORED : CACHE_NOT_STORED;
    case CACHE_REPLACE:
        return old != NULL ? CACHE_STORED : CACHE_NOT_STORED;
    case CACHE_APPEND:
    case CACHE_PREPEND:
        return old == NULL ? CACHE_NOT_STORED : differs ? CACHE_EXISTS : CACHE_STORED;
    case CACHE_CAS:
        if (old == NULL)
            return CACHE_NOT_FOUND;
        return terms->unique == 0 || (differs && !is_stale(old, terms)) ? CACHE_EXISTS : CACHE_STORED;
    }
    return CACHE_NOT_STORED;
}

static void count_judged(struct cache *cache, const struct cache_item *old, enum cache_mode mode,
                         enum cache_result result)
{
    if (mode != CACHE_CAS)
        return;
    if (old == NULL)
        COUNT(cache, cas_misses);
    else if (result == CACHE_STORED)
        COUNT_ITEM(cache, old, cas_hits);
    else
        COUNT_ITEM(cache, old, cas_badval);
}

/* A value of the same length goes where the old one is, if nobody looks at that: it leaves no hole. */
static bool fits_in_place(const struct cache_item *old, const struct cache_item *item)
{
    return old->nvalue == item->nvalue && item->nvalue <= COPY_IN_PLACE && item_refs(old) == 1 &&
           !cache_item_is_own(old) && !cache_item_is_own(item);
}

static void store_in_place(struct cache *cache, struct cache_item *old, struct cache_item *item)
{
    memcpy(old->bytes + old->nkey, item->bytes + item->nkey, item->nvalue);
    if ((old->flags != 0) != (item->flags != 0)) {
        /* They may be of two classes. */
        COUNT_ITEM_N(cache, old, number, UINT64_MAX);
        COUNT_ITEM_N(cache, old, mem_requested, -cache_item_size(old));
        COUNT_ITEM(cache, item, number);
        COUNT_ITEM_N(cache, item, mem_requested, cache_item_size(item));
    }
    old->flags = item->flags;
    item_set_bits(old, (old->bits & ~(ITEM_FETCHED | ITEM_LASTING)) | (item->bits & ITEM_LASTING));
    item_set_exptime(old, cache_item_exptime(item));
    op_access(cache, old);
    op_make_current(cache, old);
    COUNT(cache, total_items);
}

/* What a value that is stale already when it is stored has of the one before. */
static void inherit_stale(struct cache_item *item, const struct cache_item *old)
{
    item_set_exptime(item, cache_item_exptime(old));
    item_set_bits(item, item->bits | ITEM_STALE | (old->bits & ITEM_SENT));
}

/* set, add, replace, cas. */
static enum cache_result store_whole(struct cache *cache, struct cache_item *item, enum cache_mode mode,
                                     struct cache_terms *terms)
{
    struct found found = op_find(cache, item->bytes, item->nkey, false);
    struct cache_item *old = found.place.item, *stored = item;
    enum cache_result result = judge(old, mode, terms);

    count_judged(cache, old, mode, result);
    if (result == CACHE_STORED && is_stale(old, terms))
        inherit_stale(item, old);
    if (result != CACHE_STORED) {
        if (old != NULL && mode == CACHE_ADD)
            op_access(cache, old);
        stored = NULL;
    } else if (old == NULL) {
        if (!op_insert(cache, &found, item)) {
            result = CACHE_NO_MEMORY;
            stored = NULL;
        }
    } else if (fits_in_place(old, item)) {
        store_in_place(cache, old, item);
        stored = old;
    } else {
        replace_item(cache, &found, item);
    }
    if (stored != NULL) {
        terms->unique = cache_item_unique(stored);
        terms->nvalue = stored->nvalue;
    }
    op_unlock(&found);
    if (stored != item)
        mem_undo(item);
    return result;
}

/* The unique that a client gave an item, or NULL. */
static const uint64_t *own_of(const struct cache_item *item, uint64_t *unique)
{
    *unique = cache_item_unique(item);
    return cache_item_is_own(item) ? unique : NULL;
}

/* Old and new value in one new item, which nobody knows yet; the old one is held. */
static struct cache_item *join(struct cache *cache, struct cache_item *old, const struct cache_item *item,
                               enum cache_mode mode, enum cache_result *result)
{
    size_t nvalue = (size_t)old->nvalue + item->nvalue;
    const uint8_t *added = item->bytes + item->nkey;
    struct cache_item *joined;
    uint64_t unique;
    uint8_t *value;

    if (is_too_large(cache, old->nkey, nvalue, old->flags)) {
        COUNT(cache, store_too_large);
        *result = CACHE_NOT_STORED;
        return NULL;
    }
    joined = op_make_successor(cache, old, nvalue, own_of(item, &unique));
    if (joined == NULL) {
        *result = CACHE_NO_MEMORY;
        return NULL;
    }
    item_set_bits(joined, joined->bits | (item_bits(item) & ITEM_BINARY_KEY));
    value = cache_item_value(joined);
    if (mode == CACHE_APPEND) {
        memcpy(value, cache_item_value(old), old->nvalue);
        memcpy(value + old->nvalue, added, item->nvalue);
    } else {
        memcpy(value, added, item->nvalue);
        memcpy(value + item->nvalue, cache_item_value(old), old->nvalue);
    }
    return joined;
}

bool op_exchange_held(struct cache *cache, struct cache_item *old, struct cache_item *item, const uint32_t *exptime)
{
    struct found found = op_find(cache, item->bytes, item->nkey, false);
    bool is_same = found.place.item == old;

    if (is_same) {
        item_set_exptime(item, exptime != NULL ? *exptime : cache_item_exptime(old));
        item_ref(item);
        replace_item(cache, &found, item);
    }
    op_unlock(&found);
    if (!is_same)
        mem_undo(item);
    cache_item_release(old);
    return is_same;
}

/* append, prepend; the item stays the caller's. CACHE_NOT_FOUND: the key is not there, and may be made. */
static enum cache_result store_joined(struct cache *cache, struct cache_item *item, enum cache_mode mode,
                                      struct cache_terms *terms)
{
    struct cache_item *old, *joined;
    enum cache_result result;

    for (;;) {
        struct found found = op_find(cache, item->bytes, item->nkey, false);

        old = found.place.item;
        result = judge(old, mode, terms);
        if (result == CACHE_STORED)
            item_ref(old);
        op_unlock(&found);
        if (result != CACHE_STORED) {
            if (old == NULL && terms->vivifies)
                result = CACHE_NOT_FOUND;
            break;
        }
        joined = join(cache, old, item, mode, &result);
        if (joined == NULL) {
            cache_item_release(old);
            break;
        }
        if (op_exchange_held(cache, old, joined, NULL)) {
            terms->unique = cache_item_unique(joined);
            terms->nvalue = joined->nvalue;
            cache_item_release(joined);
            break;
        }
    }
    return result;
}

/* Makes an item that was to be joined to another the key's own, if the key still has none: else CACHE_NOT_STORED. */
static enum cache_result store_alone(struct cache *cache, struct cache_item *item, struct cache_terms *terms)
{
    struct found found = op_find(cache, item->bytes, item->nkey, false);
    enum cache_result result = CACHE_NOT_STORED;

    if (found.place.item == NULL)
        result = op_insert(cache, &found, item) ? CACHE_STORED : CACHE_NO_MEMORY;
    if (result == CACHE_STORED) {
        terms->unique = cache_item_unique(item);
        terms->nvalue = item->nvalue;
    }
    op_unlock(&found);
    return result;
}

enum cache_result cache_store_with(struct cache *cache, struct cache_item *item, enum cache_mode mode,
                                   struct cache_terms *terms)
{
    enum cache_result result;

    COUNT_ITEM(cache, item, cmd_set);
    if (mode != CACHE_APPEND && mode != CACHE_PREPEND)
        return store_whole(cache, item, mode, terms);
    do {
        result = store_joined(cache, item, mode, terms);
        if (result != CACHE_NOT_FOUND)
            break;
        result = store_alone(cache, item, terms);
        if (result == CACHE_STORED)
            return result;
    } while (result == CACHE_NOT_STORED);
    mem_undo(item);
    return result;
}

enum cache_result cache_store(struct cache *cache, struct cache_item *item, enum cache_mode mode, uint64_t *unique)
{
    struct cache_terms terms = {.unique = unique != NULL ? *unique : 0};
    enum cache_result result = cache_store_with(cache, item, mode, &terms);

    if (result == CACHE_STORED && unique != NULL)
        *unique = terms.unique;
    return result;
}

/* --- deleting --- */

static bool remove_key(struct cache *cache, const void *key, size_t nkey, bool counted)
{
    struct found found = op_find(cache, key, nkey, true);
    struct cache_item *item = found.place.item;

    if (item != NULL) {
        if (counted)
            COUNT_ITEM(cache, item, delete_hits);
        item_unlink(cache, found.shard, found.hash, found.place);
    } else if (counted) {
        COUNT(cache, delete_misses);
    }
    op_unlock(&found);
    return item != NULL;
}

bool cache_delete(struct cache *cache, const void *key, size_t nkey)
{
    return remove_key(cache, key, nkey, true);
}

bool cache_drop(struct cache *cache, const void *key, size_t nkey)
{
    return remove_key(cache, key, nkey, false);
}
