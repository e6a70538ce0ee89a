/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cache_evict - what goes when memory is short.
 *
 *   stored --> small queue -----any access-----> main queue --any access since the last look--+
 *                  |  10% of memory                 ^     ^------- moved to the young end ------+
 *                  v                                |     |
 *              evicted, remembered by its hash --stored again          else evicted
 *
 * This is S3-FIFO, on segments. Most of what is stored is never asked for again, and leaves by the small queue without
 * having cost the rest its place, so a scan takes a tenth of the memory; what comes back soon after that goes to the
 * main queue straight away. A hit only counts up two bits, no list is touched, and order is kept for segments, not for
 * items. (SIEVE needs less, but it is not proof against scans. Segcache's grouping by TTL frees the expired for
 * nothing, but keeps many half-empty segments when memory is small; the crawler does that here.)
 *
 * The oldest segment of a queue is the victim. Its survivors are copied to the open segment of the main queue: so the
 * cost is a copy for what is worth keeping, and what is evicted leaves no hole. A large item's block is not copied but
 * moved to another queue. A segment in which much is dead is taken before its turn, and what is alive in it stays in
 * its queue.
 *
 * Work is done in small portions by those who store, ahead of need and in proportion to what they store (evict_ahead),
 * so that a store that finds no segment is rare. When all that is old was asked for, copying it would not make room: so
 * what survivors may cost is bounded, for each segment that is gained and for each call, and the more of that is spent,
 * the more accesses it takes to survive (strictness). A segment in which someone holds an item is put back: its memory
 * could not be used anyway. So whoever holds items for long should hold few, or copy them.
 */
#include "cache_int.h"

#include <stdlib.h>
#include <string.h>

enum {
    SMALL_PERCENT = 10,  /* of memory that queues have */
    BIG_PART = 64,       /* a big item takes more than such a part of a segment */
    SPARSE_LEAST = 16,   /* dead part of a segment that makes it be taken before its turn */
    PORTION = 8192,      /* bytes looked at between looks at the memory there is */
    AHEAD_MAX = 1 << 18, /* bytes looked at ahead of need in one call */
    OVER_MAX = 1 << 25,  /* and for memory over the limit */
    KEPT_LOOK = 2048,    /* bytes that a look at a large item counts as */
    SWEEPS_MAX = 8,      /* victims swept for a store that may not evict: it shall not take for ever either */
    HELD_MAX = 1024,     /* victims in a row that are held, and a store fails: it shall not take for ever */
    MOVED_MAX = 24,      /* bytes moved for each that is gained, at most */
    COST_ITEM = 256,     /* ns that it takes to move an item, */
    COST_BYTES = 8,      /* with so many bytes a ns; */
    COST_MAX = 500000,   /* and for all moves in one call, if that is for a segment, */
    COST_AHEAD = 200000, /* or ahead of need */
    GHOST_BYTES = 256,   /* of the limit for each key to be remembered */
    GHOSTS_MIN = 1024,
};

/* --- what was evicted --- */

static uint16_t *ghosts_of(const struct cache *cache, uint64_t hash)
{
    return &cache->ghosts[(size_t)((hash >> 32) & cache->ghost_mask) * GHOST_WAYS];
}

static uint16_t ghost_print(uint64_t hash)
{
    uint16_t print = (uint16_t)hash;

    return print != 0 ? print : 1;
}

/* Each set of ways is a queue of its own: the hash spreads keys evenly, so all of them together are one, about. */
static void ghost_add(struct cache *cache, uint64_t hash)
{
    uint16_t *ghosts = ghosts_of(cache, hash);
    unsigned ways = __atomic_load_n(&cache->ghost_ways, __ATOMIC_RELAXED);

    for (unsigned i = GHOST_WAYS - 1; i > 0; i--) {
        uint16_t older = i < ways ? __atomic_load_n(&ghosts[i - 1], __ATOMIC_RELAXED) : 0;

        __atomic_store_n(&ghosts[i], older, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&ghosts[0], ghost_print(hash), __ATOMIC_RELAXED);
}

bool ghost_has(const struct cache *cache, uint64_t hash)
{
    const uint16_t *ghosts = ghosts_of(cache, hash);
    uint16_t print = ghost_print(hash);

    for (unsigned i = 0; i < GHOST_WAYS; i++)
        if (__atomic_load_n(&ghosts[i], __ATOMIC_RELAXED) == print)
            return true;
    return false;
}

/* As many are remembered as the main queue has items, by the sizes in the segment that was done last. */
static void adapt_ghosts(struct cache *cache, const struct seg *seg, uint32_t items)
{
    uint64_t wanted = mem_queue_bytes(cache, QUEUE_MAIN) / (seg->used / (items + 1) + 1);
    uint64_t ways = wanted / (cache->ghost_mask + 1) + 1;

    __atomic_store_n(&cache->ghost_ways, ways < GHOST_WAYS ? (uint32_t)ways : GHOST_WAYS, __ATOMIC_RELAXED);
}

/* --- one item --- */

void item_unlink(struct cache *cache, struct shard *shard, uint64_t hash, struct place place)
{
    struct cache_item *item = place.item;

    table_remove(shard, hash, place);
    COUNT_ITEM_N(cache, item, number, UINT64_MAX);
    COUNT_ITEM_N(cache, item, mem_requested, -cache_item_size(item));
    cache_item_release(item);
}

void item_bury(struct cache *cache, struct shard *shard, uint64_t hash, struct place place, bool for_get)
{
    if (!for_get)
        COUNT_ITEM(cache, place.item, reclaimed);
    if (!(place.item->bits & ITEM_FETCHED))
        COUNT_ITEM(cache, place.item, expired_unfetched);
    item_unlink(cache, shard, hash, place);
}

static void count_evicted(struct cache *cache, const struct cache_item *item)
{
    unsigned class = cache_item_class(cache, item);
    uint32_t now = cache_now(cache), time = cache_item_time(item);

    COUNT_ITEM(cache, item, evicted);
    if (cache_item_exptime(item) != 0)
        COUNT_ITEM(cache, item, evicted_nonzero);
    if (!(item->bits & ITEM_FETCHED))
        COUNT_ITEM(cache, item, evicted_unfetched);
    if ((item->bits & ITEM_FREQ) != 0)
        COUNT_ITEM(cache, item, evicted_active);
    __atomic_store_n(&cache->evicted_time[class], time < now ? now - time : 0, __ATOMIC_RELAXED);
}

static unsigned part_spent(uint64_t spent, uint64_t max)
{
    return spent < max / 2 ? 0 : spent < max / 4 * 3 ? 1 : spent < max ? 2 : ITEM_FREQ;
}

/*
 * Survivors cost the time of those who store, and give no memory. When nearly all that is stored was asked for, more
 * has to go than what was not: whoever has as few accesses as this. It is 0 until half of what may be spent is, in this
 * call or since a segment was gained; when all of it is spent nothing survives.
 */
static unsigned strictness(const struct evict *evict)
{
    unsigned by_moved = part_spent(evict->moved, evict->moved_max), by_cost = part_spent(evict->cost, evict->cost_max);

    return by_moved > by_cost ? by_moved : by_cost;
}

static void spend(struct evict *evict, uint64_t bytes)
{
    uint64_t cost = COST_ITEM + bytes / COST_BYTES;

    if (evict->compacting) {
        evict->compact_cost += cost;
    } else {
        evict->moved += bytes;
        evict->cost += cost;
    }
}

/* Whether what is alive survives, and with which bits. */
static bool survives(const struct cache *cache, const struct cache_item *item, uint8_t *bits)
{
    uint8_t freq = item->bits & ITEM_FREQ;

    *bits = item->bits;
    if (cache->evict.compacting)
        return true;
    /* Where a big one stands many small ones could, and be hit: so it needs an access more. */
    if (freq > 0 && cache_item_bytes(item) > cache->seg_size / BIG_PART)
        freq--;
    *bits &= (uint8_t)~ITEM_FREQ;
    if (freq <= strictness(&cache->evict))
        return false;
    if (item->bits & ITEM_IN_MAIN)
        *bits |= freq - 1;
    else
        *bits |= ITEM_IN_MAIN;
    return true;
}

/* Copies an item that only the table holds to an open segment. False when there is no memory. */
static bool move(struct cache *cache, struct place place, uint8_t bits)
{
    struct cache_item *old = place.item, *item;
    const struct need need = {.key = old->bytes,
                              .nkey = old->nkey,
                              .nvalue = old->nvalue,
                              .own = cache_item_is_own(old),
                              .queue = bits & ITEM_IN_MAIN ? QUEUE_MAIN : QUEUE_SMALL};
    uint16_t at;

    item = mem_alloc_reserve(cache, &need);
    if (item == NULL)
        return false;
    at = item->at;
    memcpy(item, old, cache_item_bytes(old));
    item->at = at;
    item->bits = bits;
    table_exchange(place, item);
    if (cache->evict.compacting)
        COUNT(cache, moves_in_place);
    else if (old->bits & ITEM_IN_MAIN)
        COUNT(cache, moves_within_main);
    else
        COUNT(cache, moves_to_main);
    cache->evict.kept += cache_item_bytes(item);
    spend(&cache->evict, cache_item_bytes(item));
    cache_item_release(old);
    return true;
}

enum fate {
    FATE_GONE, /* or never was */
    FATE_HELD, /* by somebody, or it should move and cannot */
    FATE_KEPT, /* a large item, that keeps its block */
};

/* With the shard locked: an item of the victim that is in the table. */
static enum fate decide(struct cache *cache, struct shard *shard, uint64_t hash, struct place place)
{
    struct cache_item *item = place.item;
    bool is_held = item_refs(item) > 1;
    uint8_t bits;

    if (item_dead(cache, item)) {
        item_bury(cache, shard, hash, place, false);
        return is_held ? FATE_HELD : FATE_GONE;
    }
    if (cache->evict.sweeping)
        return FATE_GONE;
    if (is_held)
        return FATE_HELD;
    if (survives(cache, item, &bits)) {
        if (seg_of(item)->large) {
            item_set_bits(item, bits);
            spend(&cache->evict, KEPT_LOOK);
            return FATE_KEPT;
        }
        if (move(cache, place, bits))
            return FATE_GONE;
        if (cache->evict.compacting)
            return FATE_HELD;
    }
    if (!(item->bits & ITEM_IN_MAIN))
        ghost_add(cache, hash);
    count_evicted(cache, item);
    if (cache->evicted != NULL)
        cache->evicted(cache->evicted_arg, item, (item->bits & ITEM_FETCHED) != 0);
    item_unlink(cache, shard, hash, place);
    return FATE_GONE;
}

/* An item of the victim, whose memory therefore stays. */
static enum fate look_at(struct cache *cache, struct cache_item *item)
{
    enum fate fate;
    struct shard *shard;
    struct place place;
    uint64_t hash;

    if (item_refs(item) == 0)
        return FATE_GONE;
    hash = table_hash(cache, item->bytes, item->nkey);
    shard = table_shard(cache, hash);
    pthread_mutex_lock(&shard->lock);
    place = table_find_item(shard, hash, item);
    /* One that is not in the table has just been let go of, or is being filled or sent. */
    fate = place.item != NULL ? decide(cache, shard, hash, place) : item_refs(item) == 0 ? FATE_GONE : FATE_HELD;
    pthread_mutex_unlock(&shard->lock);
    return fate;
}

/* --- victims --- */

static uint64_t next_random(struct evict *evict)
{
    evict->random ^= evict->random << 13;
    evict->random ^= evict->random >> 7;
    evict->random ^= evict->random << 17;
    return evict->random;
}

static struct seg *oldest_of_queues(struct cache *cache)
{
    uint64_t small = mem_queue_bytes(cache, QUEUE_SMALL), main = mem_queue_bytes(cache, QUEUE_MAIN);
    bool is_small = small * 100 > (small + main) * SMALL_PERCENT;
    struct seg *seg;

    /* When one queue has much that is held, the other may have something else. */
    if (cache->evict.takes_other)
        is_small = !is_small;
    seg = mem_take_oldest(cache, is_small ? QUEUE_SMALL : QUEUE_MAIN);
    return seg != NULL ? seg : mem_take_oldest(cache, is_small ? QUEUE_MAIN : QUEUE_SMALL);
}

static bool take_victim(struct cache *cache)
{
    struct evict *evict = &cache->evict;
    bool evicts = __atomic_load_n(&cache->evicts, __ATOMIC_RELAXED);

    if (evict->held > HELD_MAX)
        return false;
    /* What compacting could not free, or not in time, evicting shall. */
    evict->compacting = !evicts || (!evict->is_stuck && evict->compact_cost < evict->cost_max / 2);
    if (evict->compacting)
        evict->victim = mem_take_sparse(cache, next_random(evict), !evicts, SPARSE_LEAST);
    evict->sweeping = !evicts && evict->victim == NULL && evict->sweeps < SWEEPS_MAX;
    if (evict->victim == NULL && (evicts || evict->sweeping)) {
        evict->compacting = evict->sweeping;
        evict->sweeps++;
        evict->victim = oldest_of_queues(cache);
    }
    evict->at = sizeof(struct seg);
    evict->seen = 0;
    evict->kept = 0;
    return evict->victim != NULL;
}

/* Of a victim, how much more memory there is without it. */
static void count_gain(struct evict *evict, uint64_t freed, uint64_t segment)
{
    evict->gained += (int64_t)freed - (int64_t)evict->kept;
    if (evict->gained >= (int64_t)segment) {
        evict->gained %= (int64_t)segment;
        evict->moved = 0;
    }
}

static void end_victim(struct cache *cache, enum fate fate)
{
    struct evict *evict = &cache->evict;
    struct seg *seg = evict->victim;

    evict->victim = NULL;
    if (evict->sweeping) {
        mem_put_back(cache, seg, (enum queue)seg->queue);
        return;
    }
    count_gain(evict, fate == FATE_GONE ? seg->size : 0, cache->seg_size);
    evict->is_stuck = fate != FATE_GONE;
    if (fate == FATE_GONE) {
        evict->held = 0;
        evict->takes_other = false;
        if (evict->compacting)
            COUNT(cache, segments_compacted);
        else
            COUNT(cache, segments_evicted);
        seg_drop(seg, LIVE_ONE);
        return;
    }
    if (fate == FATE_HELD) {
        evict->held++;
        evict->takes_other = !evict->takes_other;
        COUNT(cache, segments_held);
    }
    mem_put_back(cache, seg, fate == FATE_KEPT ? QUEUE_MAIN : (enum queue)seg->queue);
}

/* Goes on to the next item of the victim. How many bytes the look at it counts as. */
static size_t step(struct evict *evict, const struct cache_item *item)
{
    size_t bytes = cache_item_bytes(item);

    evict->at = evict->victim->large ? evict->victim->used : evict->at + (uint32_t)bytes;
    evict->seen++;
    return evict->victim->large ? KEPT_LOOK : bytes;
}

/* Looks at about so many bytes of the victim, or of a new one, and returns at how many; 0: there is none. */
static size_t work(struct cache *cache, size_t budget)
{
    struct evict *evict = &cache->evict;
    size_t looked = sizeof(struct seg);
    enum fate fate = FATE_GONE;

    if (evict->victim == NULL && !take_victim(cache))
        return 0;
    while (looked < budget && evict->at < evict->victim->used && fate == FATE_GONE) {
        struct cache_item *item = (struct cache_item *)((uint8_t *)evict->victim + evict->at);

        looked += step(evict, item);
        fate = look_at(cache, item);
    }
    if (fate == FATE_GONE && evict->at < evict->victim->used)
        return looked;
    if (!evict->sweeping && !evict->victim->large && evict->victim->queue == QUEUE_SMALL && fate == FATE_GONE)
        adapt_ghosts(cache, evict->victim, evict->seen);
    end_victim(cache, fate);
    return looked;
}

/* --- what others call --- */

static void begin_call(struct cache *cache, uint64_t cost_max, uint64_t moved_max)
{
    struct evict *evict = &cache->evict;

    evict->is_stuck = false;
    evict->held = 0;
    evict->sweeps = 0;
    evict->cost = 0;
    evict->compact_cost = 0;
    evict->cost_max = cost_max;
    evict->moved_max = moved_max * cache->seg_size;
}

bool evict_for(struct cache *cache, size_t bytes, uint64_t credit)
{
    bool has_room, works = true;

    pthread_mutex_lock(&cache->evict.lock);
    begin_call(cache, COST_MAX * (bytes / cache->seg_size + 1), MOVED_MAX);
    while (!(has_room = mem_has_room(cache, bytes, credit)) && works)
        works = work(cache, PORTION) > 0;
    pthread_mutex_unlock(&cache->evict.lock);
    return has_room;
}

void evict_ahead(struct cache *cache)
{
    size_t looked, sum = 0;

    if (!__atomic_load_n(&cache->evicts, __ATOMIC_RELAXED) || pthread_mutex_trylock(&cache->evict.lock) != 0)
        return;
    begin_call(cache, COST_AHEAD, MOVED_MAX);
    do {
        looked = work(cache, PORTION);
        sum += looked;
    } while (mem_is_due(cache, looked > 0 ? looked : UINT64_MAX) && sum < AHEAD_MAX);
    pthread_mutex_unlock(&cache->evict.lock);
}

void evict_over(struct cache *cache)
{
    bool evicts = __atomic_load_n(&cache->evicts, __ATOMIC_RELAXED);
    size_t looked = 1;

    for (size_t sum = 0;
         mem_lower(cache, evicts ? cache->seg_size : UINT64_MAX) && evicts && looked > 0 && sum < OVER_MAX;
         sum += looked) {
        pthread_mutex_lock(&cache->evict.lock);
        begin_call(cache, UINT64_MAX, 1);
        looked = work(cache, PORTION);
        pthread_mutex_unlock(&cache->evict.lock);
        table_shrink(cache);
    }
}

bool evict_create(struct cache *cache)
{
    uint64_t wanted = cache->limit / GHOST_BYTES / GHOST_WAYS, sets = GHOSTS_MIN / GHOST_WAYS;

    while (sets < wanted && sets < (UINT64_C(1) << 30))
        sets *= 2;
    pthread_mutex_init(&cache->evict.lock, NULL);
    cache->evict.random = cache->hash.secrets[0] | 1;
    cache->ghost_mask = (uint32_t)(sets - 1);
    cache->ghost_ways = GHOST_WAYS;
    cache->ghosts = calloc(sets, GHOST_WAYS * sizeof(*cache->ghosts));
    cache->overhead += sets * GHOST_WAYS * sizeof(*cache->ghosts);
    return cache->ghosts != NULL;
}

void evict_destroy(struct cache *cache)
{
    free(cache->ghosts);
    pthread_mutex_destroy(&cache->evict.lock);
}
