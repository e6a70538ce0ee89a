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
#include <sys/random.h>

enum {
    LIMIT_MIN = 1024 * 1024,
    THIRTY_DAYS = 60 * 60 * 24 * 30,
    LONG_PAST = 1,
    FREQ_MAX = 3,
    COPY_IN_PLACE = 4096, /* bytes of a value up to which copying it is better than a hole in a segment */
};

/* A key's shard, locked, and where its living item is. */
struct found {
    uint64_t hash;
    struct shard *shard;
    struct place place;
};

/* --- what operations are made of --- */

static void access_item(struct cache *cache, struct cache_item *item)
{
    if ((item->bits & ITEM_FREQ) < FREQ_MAX)
        item->bits++;
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

/* Locks the key's shard, and unlinks an item that is dead. */
static struct found find(struct cache *cache, const void *key, size_t nkey, bool for_get)
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

static void unlock(const struct found *found)
{
    pthread_mutex_unlock(&found->shard->lock);
}

static uint64_t next_cas(struct cache *cache)
{
    return __atomic_add_fetch(&cache->cas, 1, __ATOMIC_RELAXED);
}

static void count_linked(struct cache *cache, const struct cache_item *item)
{
    COUNT_ITEM(cache, item, number);
    COUNT_ITEM_N(cache, item, mem_requested, cache_item_size(item));
    COUNT(cache, total_items);
}

/* What an item has as of now; its caller's reference becomes the table's. */
static void make_current(struct cache *cache, struct cache_item *item)
{
    item->cas = next_cas(cache);
    __atomic_store_n(&item->time, cache_now(cache), __ATOMIC_RELAXED);
}

static bool insert_item(struct cache *cache, const struct found *found, struct cache_item *item)
{
    make_current(cache, item);
    if (!table_insert(cache, found->shard, found->hash, item))
        return false;
    count_linked(cache, item);
    return true;
}

/* The new item is as much in use as the old one was. */
static void replace_item(struct cache *cache, const struct found *found, struct cache_item *item)
{
    struct cache_item *old = found->place.item;
    uint8_t freq = old->bits & ITEM_FREQ;

    item->bits |= freq < FREQ_MAX ? freq + 1 : freq;
    make_current(cache, item);
    table_exchange(found->place, item);
    COUNT_ITEM_N(cache, old, number, UINT64_MAX);
    COUNT_ITEM_N(cache, old, mem_requested, -cache_item_size(old));
    cache_item_release(old);
    count_linked(cache, item);
}

/* --- life, time, limits --- */

/* All from the system, or all from the seed, by splitmix64. */
static void draw_secrets(struct cache *cache, uint64_t seed)
{
    if (seed == 0 && getrandom(cache->secrets, sizeof(cache->secrets), GRND_NONBLOCK) == sizeof(cache->secrets))
        return;
    if (seed == 0)
        seed = util_now_us() ^ (uint64_t)(uintptr_t)cache;
    for (unsigned i = 0; i < ARRAY_LEN(cache->secrets); i++) {
        uint64_t z = seed += UINT64_C(0x9e3779b97f4a7c15);

        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        cache->secrets[i] = z ^ (z >> 31);
    }
}

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
    draw_secrets(cache, options->seed);
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
    __atomic_store_n(&cache->flush_cas, next_cas(cache), __ATOMIC_RELAXED);
}

/* What is stored from now on lives again, if the second of the flush is over. */
static void end_flush_second(struct cache *cache)
{
    uint64_t all = UINT64_MAX;

    if (__atomic_load_n(&cache->flush_cas, __ATOMIC_SEQ_CST) == all &&
        __atomic_load_n(&cache->flushed_at, __ATOMIC_RELAXED) != __atomic_load_n(&cache->now, __ATOMIC_SEQ_CST))
        __atomic_compare_exchange_n(&cache->flush_cas, &all, next_cas(cache), false, __ATOMIC_SEQ_CST,
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

static void set_exptime(struct cache_item *item, uint32_t exptime)
{
    __atomic_store_n(&item->exptime, exptime, __ATOMIC_RELAXED);
}

struct cache_item *cache_get(struct cache *cache, const void *key, size_t nkey)
{
    struct found found = find(cache, key, nkey, true);
    struct cache_item *item = found.place.item;

    if (item != NULL) {
        item_ref(item);
        access_item(cache, item);
        item->bits |= ITEM_FETCHED;
    }
    unlock(&found);
    if (item != NULL)
        COUNT_ITEM(cache, item, get_hits);
    else
        COUNT(cache, get_misses);
    return item;
}

struct cache_item *cache_gat(struct cache *cache, const void *key, size_t nkey, uint32_t exptime)
{
    struct found found = find(cache, key, nkey, true);
    struct cache_item *item = found.place.item;

    if (item != NULL) {
        item_ref(item);
        access_item(cache, item);
        item->bits |= ITEM_FETCHED;
        set_exptime(item, exptime);
    }
    unlock(&found);
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
    struct found found = find(cache, key, nkey, true);
    struct cache_item *item = found.place.item;

    if (item != NULL) {
        access_item(cache, item);
        set_exptime(item, exptime);
        COUNT_ITEM(cache, item, touch_hits);
    } else {
        COUNT(cache, touch_misses);
    }
    unlock(&found);
    return item != NULL;
}

bool cache_item_fetched(struct cache *cache, const struct cache_item *item)
{
    struct shard *shard = table_shard(cache, table_hash(cache, item->bytes, item->nkey));
    bool is_fetched;

    pthread_mutex_lock(&shard->lock);
    is_fetched = (item->bits & ITEM_FETCHED) != 0;
    pthread_mutex_unlock(&shard->lock);
    return is_fetched;
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

/* As cache_item_alloc, uncounted. */
static struct cache_item *make_item(struct cache *cache, const void *key, size_t nkey, uint32_t flags, uint32_t exptime,
                                    size_t nvalue, enum queue queue, const struct cache_item *old)
{
    struct cache_item *item = mem_alloc(cache, key, nkey, nvalue, queue, old);

    if (item == NULL)
        return NULL;
    item->flags = flags;
    item->time = 0;
    set_exptime(item, exptime);
    return item;
}

static bool is_too_large(const struct cache *cache, size_t nkey, size_t nvalue, uint32_t flags)
{
    return nvalue > cache->item_max || cache_size_of(nkey, nvalue, flags != 0) > cache->item_max;
}

static void count_no_memory(struct cache *cache, size_t nkey, size_t nvalue, uint32_t flags)
{
    bool own;
    struct cache_counters *slot = stats_slot(cache, &own);

    count_add(&slot->store_no_memory, 1, own);
    count_add(&slot->classes[stats_class(cache, nkey, nvalue, flags != 0)].outofmemory, 1, own);
}

struct cache_item *cache_item_alloc(struct cache *cache, const void *key, size_t nkey, uint32_t flags, uint32_t exptime,
                                    size_t nvalue, enum cache_result *why)
{
    uint64_t hash;
    struct cache_item *item;

    if (is_too_large(cache, nkey, nvalue, flags)) {
        COUNT(cache, store_too_large);
        *why = CACHE_TOO_LARGE;
        return NULL;
    }
    hash = table_hash(cache, key, nkey);
    item = make_item(cache, key, nkey, flags, exptime, nvalue, ghost_has(cache, hash) ? QUEUE_MAIN : QUEUE_SMALL, NULL);
    if (item == NULL) {
        count_no_memory(cache, nkey, nvalue, flags);
        *why = CACHE_NO_MEMORY;
    }
    return item;
}

/* What the mode says of storing when the key has, or has not, an item. CACHE_STORED: do it. */
static enum cache_result judge(const struct cache_item *old, enum cache_mode mode, const uint64_t *unique)
{
    bool differs = old != NULL && unique != NULL && *unique != 0 && *unique != old->cas;

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
        return unique == NULL || *unique == 0 || differs ? CACHE_EXISTS : CACHE_STORED;
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
    return old->nvalue == item->nvalue && item->nvalue <= COPY_IN_PLACE && item_refs(old) == 1;
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
    old->bits &= (uint8_t)~ITEM_FETCHED;
    set_exptime(old, cache_item_exptime(item));
    access_item(cache, old);
    make_current(cache, old);
    COUNT(cache, total_items);
}

/* set, add, replace, cas. */
static enum cache_result store_whole(struct cache *cache, struct cache_item *item, enum cache_mode mode,
                                     uint64_t *unique)
{
    struct found found = find(cache, item->bytes, item->nkey, false);
    struct cache_item *old = found.place.item, *stored = item;
    enum cache_result result = judge(old, mode, unique);

    count_judged(cache, old, mode, result);
    if (result != CACHE_STORED) {
        if (old != NULL && mode == CACHE_ADD)
            access_item(cache, old);
        stored = NULL;
    } else if (old == NULL) {
        if (!insert_item(cache, &found, item)) {
            result = CACHE_NO_MEMORY;
            stored = NULL;
        }
    } else if (fits_in_place(old, item)) {
        store_in_place(cache, old, item);
        stored = old;
    } else {
        replace_item(cache, &found, item);
    }
    if (stored != NULL && unique != NULL)
        *unique = stored->cas;
    unlock(&found);
    if (stored != item)
        mem_undo(item);
    return result;
}

/* Old and new value in one new item, which nobody knows yet; the old one is held. */
static struct cache_item *join(struct cache *cache, struct cache_item *old, const struct cache_item *item,
                               enum cache_mode mode, enum cache_result *result)
{
    size_t nvalue = (size_t)old->nvalue + item->nvalue;
    const uint8_t *added = item->bytes + item->nkey;
    struct cache_item *joined;
    uint8_t *value;

    if (is_too_large(cache, old->nkey, nvalue, old->flags)) {
        COUNT(cache, store_too_large);
        *result = CACHE_NOT_STORED;
        return NULL;
    }
    joined = make_item(cache, old->bytes, old->nkey, old->flags, 0, nvalue, QUEUE_SMALL, old);
    if (joined == NULL) {
        count_no_memory(cache, old->nkey, nvalue, old->flags);
        *result = CACHE_NO_MEMORY;
        return NULL;
    }
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

/* Makes a new item the key's if the old one, which is held and then released, still is that. */
static bool exchange_held(struct cache *cache, struct cache_item *old, struct cache_item *item, uint64_t *unique)
{
    struct found found = find(cache, item->bytes, item->nkey, false);
    bool is_same = found.place.item == old;

    if (is_same) {
        set_exptime(item, cache_item_exptime(old));
        replace_item(cache, &found, item);
        if (unique != NULL)
            *unique = item->cas;
    }
    unlock(&found);
    if (!is_same)
        mem_undo(item);
    cache_item_release(old);
    return is_same;
}

/* append, prepend. */
static enum cache_result store_joined(struct cache *cache, struct cache_item *item, enum cache_mode mode,
                                      uint64_t *unique)
{
    struct cache_item *old, *joined;
    enum cache_result result;

    for (;;) {
        struct found found = find(cache, item->bytes, item->nkey, false);

        old = found.place.item;
        result = judge(old, mode, unique);
        if (result == CACHE_STORED)
            item_ref(old);
        unlock(&found);
        if (result != CACHE_STORED)
            break;
        joined = join(cache, old, item, mode, &result);
        if (joined == NULL) {
            cache_item_release(old);
            break;
        }
        if (exchange_held(cache, old, joined, unique))
            break;
    }
    mem_undo(item);
    return result;
}

enum cache_result cache_store(struct cache *cache, struct cache_item *item, enum cache_mode mode, uint64_t *unique)
{
    COUNT_ITEM(cache, item, cmd_set);
    if (mode == CACHE_APPEND || mode == CACHE_PREPEND)
        return store_joined(cache, item, mode, unique);
    return store_whole(cache, item, mode, unique);
}

/* --- deleting --- */

static enum cache_result remove_key(struct cache *cache, const void *key, size_t nkey, uint64_t unique, bool counted)
{
    struct found found = find(cache, key, nkey, true);
    struct cache_item *item = found.place.item;
    enum cache_result result = CACHE_STORED;

    if (item == NULL) {
        result = CACHE_NOT_FOUND;
        if (counted)
            COUNT(cache, delete_misses);
    } else if (unique != 0 && unique != item->cas) {
        result = CACHE_EXISTS;
    } else {
        if (counted)
            COUNT_ITEM(cache, item, delete_hits);
        item_unlink(cache, found.shard, found.hash, found.place);
    }
    unlock(&found);
    return result;
}

bool cache_delete(struct cache *cache, const void *key, size_t nkey)
{
    return remove_key(cache, key, nkey, 0, true) == CACHE_STORED;
}

bool cache_drop(struct cache *cache, const void *key, size_t nkey)
{
    return remove_key(cache, key, nkey, 0, false) == CACHE_STORED;
}

enum cache_result cache_delete_cas(struct cache *cache, const void *key, size_t nkey, uint64_t unique)
{
    return remove_key(cache, key, nkey, unique, true);
}

/* --- incr and decr --- */

static bool is_white(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* As memcached reads it, with strtoull: white space may stand in front, and what stands behind it does not count. */
static bool number_of(struct cache_item *item, uint64_t *number)
{
    const uint8_t *p = cache_item_value(item), *end = p + item->nvalue, *digits;

    while (p < end && is_white(*p))
        p++;
    if (p < end && *p == '+')
        p++;
    for (digits = p; p < end && *p >= '0' && *p <= '9'; p++)
        ;
    return (p == end || is_white(*p) || *p == '\0') &&
           util_parse_u64((const char *)digits, (size_t)(p - digits), number);
}

static void write_number(uint8_t *value, size_t nvalue, const char *digits, size_t ndigits)
{
    memcpy(value, digits, ndigits);
    memset(value + ndigits, ' ', nvalue - ndigits);
}

static void count_arith(struct cache *cache, const struct cache_item *item, bool incr)
{
    if (item == NULL) {
        if (incr)
            COUNT(cache, incr_misses);
        else
            COUNT(cache, decr_misses);
    } else if (incr) {
        COUNT_ITEM(cache, item, incr_hits);
    } else {
        COUNT_ITEM(cache, item, decr_hits);
    }
}

/* What has to become of an item, and with which digits. */
struct sum {
    uint64_t value;
    char digits[U64_DIGITS];
    size_t ndigits;
    size_t nvalue; /* of the result */
};

static enum cache_result add_up(struct cache_item *item, bool incr, uint64_t delta, const uint64_t *unique,
                                struct sum *sum)
{
    uint64_t number;

    if (item == NULL)
        return CACHE_NOT_FOUND;
    if (unique != NULL && *unique != 0 && *unique != item->cas)
        return CACHE_EXISTS;
    if (!number_of(item, &number))
        return CACHE_NON_NUMERIC;
    sum->value = incr ? number + delta : number > delta ? number - delta : 0;
    sum->ndigits = util_format_u64(sum->digits, sum->value);
    sum->nvalue = sum->ndigits > item->nvalue ? sum->ndigits : item->nvalue;
    return CACHE_STORED;
}

/* Under the lock: in place if that may be, else the item is held, and *held it. */
static enum cache_result arith_in_place(struct cache *cache, struct cache_item *item, const struct sum *sum,
                                        uint64_t *unique, struct cache_item **held)
{
    if (item_refs(item) != 1 || sum->nvalue != item->nvalue) {
        item_ref(item);
        *held = item;
        return CACHE_STORED;
    }
    write_number(cache_item_value(item), item->nvalue, sum->digits, sum->ndigits);
    access_item(cache, item);
    make_current(cache, item);
    if (unique != NULL)
        *unique = item->cas;
    return CACHE_STORED;
}

/* The result in a new item. False when the key has another one by now. */
static bool arith_anew(struct cache *cache, struct cache_item *held, const struct sum *sum, uint64_t *unique,
                       enum cache_result *result)
{
    struct cache_item *item = make_item(cache, held->bytes, held->nkey, held->flags, 0, sum->nvalue, QUEUE_SMALL, held);

    if (item == NULL) {
        count_no_memory(cache, held->nkey, sum->nvalue, held->flags);
        cache_item_release(held);
        *result = CACHE_NO_MEMORY;
        return true;
    }
    write_number(cache_item_value(item), sum->nvalue, sum->digits, sum->ndigits);
    return exchange_held(cache, held, item, unique);
}

enum cache_result cache_arith(struct cache *cache, const void *key, size_t nkey, bool incr, uint64_t delta,
                              uint64_t *value, uint64_t *unique)
{
    struct cache_item *held;
    enum cache_result result;
    struct sum sum = {.value = 0};

    do {
        struct found found = find(cache, key, nkey, true);
        struct cache_item *item = found.place.item;

        held = NULL;
        result = add_up(item, incr, delta, unique, &sum);
        if (result == CACHE_STORED)
            result = arith_in_place(cache, item, &sum, unique, &held);
        /* A second try is the same command. */
        if (held == NULL && (result == CACHE_STORED || result == CACHE_NOT_FOUND))
            count_arith(cache, item, incr);
        unlock(&found);
    } while (held != NULL && !arith_anew(cache, held, &sum, unique, &result));
    if (held != NULL && result == CACHE_STORED) {
        struct cache_item sized = {.nkey = (uint8_t)nkey, .nvalue = (uint32_t)sum.nvalue};

        count_arith(cache, &sized, incr);
    }
    if (result == CACHE_STORED)
        *value = sum.value;
    return result;
}
