/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cache_mem - where items are.
 *
 *   segment:  [head][item][item][item]...[item]   free->     filled from one end, never reused in parts
 *   block:    [head][one large item           ]
 *
 *   open[small] --full--> queue small   oldest ... youngest
 *   open[main]  --full--> queue main    oldest ... youngest     (and blocks, which are full from the start)
 *
 * There are no size classes, so no memory can be bound to sizes that nobody stores any more, nothing is lost to
 * rounding but up to 7 bytes an item, and an item needs no links: its place in a queue is its segment's. A hole that an
 * item leaves is got back with the rest of its segment: when all in it are dead, at once; before that by cache_evict.c.
 *
 * Large items would leave the end of a segment unused, so from an eighth of a segment on they have a block of their
 * own, mapped from the system and rounded up to one of eight sizes for each power of two. A free one is kept for the
 * next item of its size as long as there is room.
 *
 * The limit is for all blocks, free ones that the system has not got back included, for the tables, and for one segment
 * that is kept for moving items to, or the survivors of the next victim would have to go. Of the last two, a 64th of
 * the limit is free.
 */
#include "cache_int.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    EXTENT_SEGS = 16,
    PAGE = 4096,
    SEG_MIN = 64 * 1024,
    SEG_MAX = 512 * 1024, /* an item knows its offset in 16 bits, in units of 8 bytes */
    SEGS_WANTED = 256,    /* in the limit */
    LARGE_PART = 8,       /* a large item takes more than such a part of a segment */
    RESERVE = 1,          /* segments for moving items */
    AHEAD = 1,            /* kept free for what is stored next */
    TRIES = 32,           /* to get memory after making room */
    SPARES_SEARCHED = 32,
    SPARSE_SAMPLE = 32,
    SPARSE_ALL = 1024,
    OVERHEAD_FREE = 64, /* such a part of the limit may be used for tables and reserve without being counted */
    DUE_PART = 8192,    /* due work that is worth beginning with, bytes */
    PACE_END = 8,       /* a part of the open segment, in which it is done faster */
    SINK = 4,           /* after the limit was lowered, bytes less for each byte that is stored */
};

#define LIVE_BYTES (LIVE_ONE - 1)

/* --- queues --- */

static void push(struct segq *q, struct seg *seg)
{
    seg->next = NULL;
    seg->prev = q->youngest;
    if (q->youngest != NULL)
        q->youngest->next = seg;
    else
        q->oldest = seg;
    q->youngest = seg;
    q->bytes += seg->size;
    q->segs++;
}

static void unqueue(struct segq *q, struct seg *seg)
{
    if (seg->prev != NULL)
        seg->prev->next = seg->next;
    else
        q->oldest = seg->next;
    if (seg->next != NULL)
        seg->next->prev = seg->prev;
    else
        q->youngest = seg->prev;
    q->bytes -= seg->size;
    q->segs--;
}

/* --- the limit --- */

static uint64_t limit_of(const struct cache *cache)
{
    return __atomic_load_n(&cache->limit, __ATOMIC_RELAXED);
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* What counts of tables and reserve, which is there or not. */
static uint64_t charged_fixed(const struct cache *cache)
{
    uint64_t overhead = __atomic_load_n(&cache->overhead, __ATOMIC_RELAXED) + RESERVE * (uint64_t)cache->seg_size;
    uint64_t free_part = limit_of(cache) / OVERHEAD_FREE;

    return overhead > free_part ? overhead - free_part : 0;
}

/* And with all blocks, but for what of the reserve is there. */
static uint64_t charged(const struct cache *cache)
{
    const struct mem *mem = &cache->mem;

    return mem->resident - less(mem->num_warm, RESERVE) * cache->seg_size + charged_fixed(cache);
}

static bool fits(const struct cache *cache, uint64_t bytes)
{
    return charged(cache) + bytes <= less(cache->mem.allowed, cache->mem.ceiling);
}

/* What is allowed comes nearer to the limit, from what is in use. */
static void sink(struct cache *cache, uint64_t bytes)
{
    uint64_t limit = limit_of(cache), from = less(charged(cache), cache->mem.allowed);

    cache->mem.allowed = from > limit && from - limit > bytes ? from - bytes : limit;
}

/* The system has no more, whatever the limit says: what there is now has to do, until mem_forget_ceiling. */
static void lower_ceiling(struct cache *cache)
{
    COUNT(cache, malloc_fails);
    cache->mem.ceiling = charged(cache);
}

/* Gives the block of a large item back to the system. */
static void unmap(struct cache *cache, struct seg *seg)
{
    cache->mem.resident -= seg->size;
    munmap(seg, seg->size);
}

/* Gives the memory of a free segment back, its head included: that is zeros then, which is SEG_FREE. */
static void make_cold(struct cache *cache, struct seg *seg)
{
    madvise(seg, cache->seg_size, MADV_DONTNEED);
    cache->mem.resident -= cache->seg_size;
    cache->mem.cold[cache->mem.num_cold++] = seg;
}

/* Free segments that are needed for more than the next items. */
static uint64_t surplus(struct mem *mem)
{
    return mem->num_warm > RESERVE ? mem->num_warm - RESERVE : 0;
}

/* Makes bytes fit by giving free memory back to the system, if that does. */
static bool make_fit(struct cache *cache, uint64_t bytes)
{
    struct mem *mem = &cache->mem;
    struct seg *seg;

    while (!fits(cache, bytes)) {
        if ((seg = mem->spares) != NULL) {
            mem->spares = seg->next;
            unmap(cache, seg);
        } else if (surplus(mem) > 0) {
            seg = mem->warm;
            mem->warm = seg->next;
            mem->num_warm--;
            make_cold(cache, seg);
        } else {
            return false;
        }
    }
    return true;
}

void mem_set_limit(struct cache *cache, uint64_t limit)
{
    pthread_mutex_lock(&cache->mem.lock);
    __atomic_store_n(&cache->limit, limit, __ATOMIC_RELAXED);
    if (limit >= cache->mem.allowed)
        cache->mem.allowed = limit;
    else
        sink(cache, 0);
    pthread_mutex_unlock(&cache->mem.lock);
}

bool mem_lower(struct cache *cache, uint64_t bytes)
{
    bool is_over;

    pthread_mutex_lock(&cache->mem.lock);
    if (cache->mem.allowed > limit_of(cache) && make_fit(cache, 0))
        sink(cache, bytes);
    is_over = !make_fit(cache, 0) || cache->mem.allowed > limit_of(cache);
    pthread_mutex_unlock(&cache->mem.lock);
    return is_over;
}

void mem_forget_ceiling(struct cache *cache)
{
    pthread_mutex_lock(&cache->mem.lock);
    cache->mem.ceiling = UINT64_MAX;
    pthread_mutex_unlock(&cache->mem.lock);
}

/* --- segments --- */

static struct seg *seg_at(struct cache *cache, size_t i)
{
    return (struct seg *)(cache->mem.extents[i / EXTENT_SEGS] + i % EXTENT_SEGS * cache->seg_size);
}

/* Room for one more in the list of extents, and for all segments among the cold. */
static bool grow_extents(struct mem *mem)
{
    size_t max = mem->max_extents != 0 ? mem->max_extents * 2 : 64;
    uint8_t **extents;
    struct seg **cold;

    if (mem->num_extents < mem->max_extents)
        return true;
    extents = realloc(mem->extents, max * sizeof(*extents));
    if (extents == NULL)
        return false;
    mem->extents = extents;
    cold = realloc(mem->cold, max * EXTENT_SEGS * sizeof(*cold));
    if (cold == NULL)
        return false;
    mem->cold = cold;
    mem->max_extents = max;
    return true;
}

static void *map(size_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p != MAP_FAILED ? p : NULL;
}

/* A segment that never was, or NULL when the system has no memory. */
static struct seg *carve(struct cache *cache)
{
    struct mem *mem = &cache->mem;

    if (mem->num_segs == mem->num_extents * EXTENT_SEGS) {
        if (!grow_extents(mem) ||
            (mem->extents[mem->num_extents] = map((size_t)EXTENT_SEGS * cache->seg_size)) == NULL) {
            lower_ceiling(cache);
            return NULL;
        }
        mem->num_extents++;
    }
    return seg_at(cache, mem->num_segs++);
}

static struct seg *take_segment(struct cache *cache, bool reserve)
{
    struct mem *mem = &cache->mem;
    struct seg *seg;

    if (mem->num_warm > (reserve ? 0 : RESERVE)) {
        seg = mem->warm;
        mem->warm = seg->next;
        mem->num_warm--;
    } else if (!make_fit(cache, reserve ? 0 : cache->seg_size)) {
        return NULL;
    } else if ((seg = mem->num_cold > 0 ? mem->cold[--mem->num_cold] : carve(cache)) != NULL) {
        *seg = (struct seg){.cache = cache, .size = cache->seg_size, .state = SEG_FREE};
        mem->resident += cache->seg_size;
    } else {
        return NULL;
    }
    mem->num_used++;
    return seg;
}

static void open_segment(struct cache *cache, struct seg *seg, enum queue queue)
{
    seg->used = sizeof(*seg);
    seg->time = cache_now(cache);
    seg->state = SEG_OPEN;
    seg->queue = queue;
    __atomic_store_n(&seg->live, LIVE_ONE, __ATOMIC_RELAXED);
    cache->mem.open[queue] = seg;
}

/* mem.lock held, the last share gone. */
static void free_block(struct seg *seg)
{
    struct cache *cache = seg->cache;
    struct mem *mem = &cache->mem;

    if (seg->state == SEG_QUEUED)
        unqueue(&mem->queues[seg->queue], seg);
    seg->state = SEG_FREE;
    if (seg->large) {
        seg->next = mem->spares;
        mem->spares = seg;
        return;
    }
    mem->num_used--;
    mem->num_warm++;
    seg->next = mem->warm;
    mem->warm = seg;
}

void seg_drop(struct seg *seg, uint64_t share)
{
    struct cache *cache = seg->cache;

    if (__atomic_sub_fetch(&seg->live, share, __ATOMIC_ACQ_REL) != 0)
        return;
    pthread_mutex_lock(&cache->mem.lock);
    free_block(seg);
    pthread_mutex_unlock(&cache->mem.lock);
}

/* To the queue; mem.lock held. */
static void close_segment(struct mem *mem, struct seg *seg)
{
    mem->open[seg->queue] = NULL;
    seg->state = SEG_QUEUED;
    push(&mem->queues[seg->queue], seg);
    if (__atomic_sub_fetch(&seg->live, LIVE_ONE, __ATOMIC_ACQ_REL) == 0)
        free_block(seg);
}

/* --- items --- */

/* What an eviction may look at, with the segment full and the value still to come. */
static void set_up(struct cache_item *item, struct seg *seg, uint32_t at, const struct need *need)
{
    item->cas = 0;
    item->nkey = (uint8_t)need->nkey;
    item->nvalue = (uint32_t)need->nvalue;
    item->at = (uint16_t)(at / 8);
    item->bits = (need->queue == QUEUE_MAIN ? ITEM_IN_MAIN : 0) | (need->own ? CACHE_ITEM_OWN : 0);
    item->refs = 1;
    seg->used = at + (uint32_t)cache_item_bytes(item);
    memcpy(item->bytes, need->key, need->nkey);
    memcpy(item->bytes + need->nkey + need->nvalue, "\r\n", 2);
}

static struct cache_item *add_item(struct cache *cache, const struct need *need, size_t bytes, bool reserve)
{
    struct mem *mem = &cache->mem;
    struct seg *seg = mem->open[need->queue];
    struct cache_item *item;

    if (seg != NULL && seg->used + bytes > seg->size) {
        close_segment(mem, seg);
        seg = NULL;
    }
    if (seg == NULL) {
        if ((seg = take_segment(cache, reserve)) == NULL)
            return NULL;
        open_segment(cache, seg, need->queue);
    }
    item = (struct cache_item *)((uint8_t *)seg + seg->used);
    __atomic_fetch_add(&seg->live, LIVE_ONE + bytes, __ATOMIC_RELAXED);
    set_up(item, seg, seg->used, need);
    return item;
}

/* --- large items --- */

static size_t block_size(size_t bytes)
{
    size_t need = sizeof(struct seg) + bytes, step = (size_t)1 << (63 - __builtin_clzll(need) - 3);

    if (step < PAGE)
        step = PAGE;
    return (need + step - 1) & ~(step - 1);
}

/* A free block for so many bytes, out of its list, or NULL. */
static struct seg *find_spare(struct mem *mem, size_t size)
{
    unsigned left = SPARES_SEARCHED;

    for (struct seg **p = &mem->spares; *p != NULL && left > 0; p = &(*p)->next, left--) {
        struct seg *seg = *p;

        if (seg->size == size) {
            *p = seg->next;
            return seg;
        }
    }
    return NULL;
}

static struct seg *take_block(struct cache *cache, size_t size, uint64_t credit)
{
    struct mem *mem = &cache->mem;
    struct seg *seg;
    bool granted;

    pthread_mutex_lock(&mem->lock);
    seg = find_spare(mem, size);
    granted = seg == NULL && make_fit(cache, size - less(credit, size));
    if (granted)
        mem->resident += size;
    pthread_mutex_unlock(&mem->lock);
    if (!granted)
        return seg;
    if ((seg = map(size)) == NULL) {
        pthread_mutex_lock(&mem->lock);
        mem->resident -= size;
        lower_ceiling(cache);
        pthread_mutex_unlock(&mem->lock);
        return NULL;
    }
    *seg = (struct seg){.cache = cache, .size = (uint32_t)size, .large = true};
    return seg;
}

static struct cache_item *add_large(struct cache *cache, const struct need *need, size_t bytes, uint64_t credit)
{
    struct seg *seg = take_block(cache, block_size(bytes), credit);
    struct cache_item *item;

    if (seg == NULL)
        return NULL;
    item = (struct cache_item *)(seg + 1);
    set_up(item, seg, sizeof(*seg), need);
    __atomic_store_n(&seg->live, LIVE_ONE + bytes, __ATOMIC_RELAXED);
    seg->time = cache_now(cache);
    pthread_mutex_lock(&cache->mem.lock);
    seg->state = SEG_QUEUED;
    seg->queue = need->queue;
    push(&cache->mem.queues[need->queue], seg);
    pthread_mutex_unlock(&cache->mem.lock);
    return item;
}

/* --- what others call --- */

bool mem_has_room(struct cache *cache, size_t bytes, uint64_t credit)
{
    struct mem *mem = &cache->mem;
    size_t size = bytes != 0 ? block_size(bytes) : 0;
    bool has_room;

    pthread_mutex_lock(&mem->lock);
    if (size == 0) {
        has_room = mem->num_warm > RESERVE || make_fit(cache, cache->seg_size);
    } else {
        struct seg *seg = find_spare(mem, size);

        has_room = seg != NULL || make_fit(cache, size - less(credit, size));
        if (seg != NULL) {
            seg->next = mem->spares;
            mem->spares = seg;
        }
    }
    pthread_mutex_unlock(&mem->lock);
    return has_room;
}

/* Whether too much is in use, or the next segment will not be there. What large items left is used first. */
static bool is_short(struct cache *cache)
{
    return !make_fit(cache, cache->mem.num_warm > RESERVE ? 0 : AHEAD * (uint64_t)cache->seg_size);
}

/*
 * How much is looked at for each byte stored: as much, so that a victim is gone when the open segment is full, and in
 * the end of that more, for what survived.
 */
static uint64_t pace(const struct seg *open)
{
    return open == NULL || open->used > open->size - open->size / PACE_END ? EVICT_PACE : 1;
}

/* What a store of so many bytes adds to the work that is due; whether there is enough of it. */
static bool charge_store(struct cache *cache, uint64_t bytes, enum queue queue)
{
    struct mem *mem = &cache->mem;

    if (!is_short(cache)) {
        mem->due = 0;
        if (UNLIKELY(mem->allowed > limit_of(cache)))
            sink(cache, SINK * bytes);
        return false;
    }
    mem->due += pace(mem->open[queue]) * bytes;
    return mem->due >= DUE_PART;
}

bool mem_is_due(struct cache *cache, uint64_t done)
{
    struct mem *mem = &cache->mem;
    bool is_due;

    pthread_mutex_lock(&mem->lock);
    mem->due -= less(done, mem->due);
    is_due = mem->due > 0 && is_short(cache);
    pthread_mutex_unlock(&mem->lock);
    return is_due;
}

/* Whether it would fit if all that can be evicted were: what is open cannot, nor so many bytes that are held. */
static bool can_fit(struct cache *cache, size_t bytes, uint64_t held)
{
    struct mem *mem = &cache->mem;
    uint64_t needed = (bytes != 0 ? block_size(bytes) : cache->seg_size) + held + charged_fixed(cache);

    pthread_mutex_lock(&mem->lock);
    for (unsigned q = 0; q < QUEUES; q++)
        needed += mem->open[q] != NULL ? cache->seg_size : 0;
    pthread_mutex_unlock(&mem->lock);
    return needed <= limit_of(cache);
}

static size_t bytes_of(const struct need *need)
{
    return cache_bytes_of(need->nkey, need->nvalue, need->own);
}

static struct cache_item *try_alloc(struct cache *cache, const struct need *need, bool reserve, bool *is_due)
{
    size_t bytes = bytes_of(need);
    struct cache_item *item;

    pthread_mutex_lock(&cache->mem.lock);
    item = add_item(cache, need, bytes, reserve);
    if (!reserve)
        *is_due = charge_store(cache, bytes, need->queue);
    pthread_mutex_unlock(&cache->mem.lock);
    return item;
}

/* Room that was made another thread may take, and the system may refuse memory however much is given back. */
static struct cache_item *alloc_small(struct cache *cache, const struct need *need)
{
    struct cache_item *item;
    bool is_due;

    for (unsigned tries = TRIES; (item = try_alloc(cache, need, false, &is_due)) == NULL;)
        if (tries-- == 0 || !can_fit(cache, 0, 0) || !evict_for(cache, 0, 0))
            return NULL;
    if (is_due)
        evict_ahead(cache);
    return item;
}

/* A block that only the caller and the table hold goes with the item that is replaced: it is counted as free by now. */
static struct cache_item *alloc_large(struct cache *cache, const struct need *need, const struct cache_item *old)
{
    size_t bytes = bytes_of(need);
    uint64_t held = old != NULL && seg_of(old)->large ? seg_of(old)->size : 0;
    uint64_t credit = held > 0 && item_refs(old) == 2 ? held : 0;
    struct cache_item *item;

    for (unsigned tries = TRIES; (item = add_large(cache, need, bytes, credit)) == NULL;)
        if (tries-- == 0 || !can_fit(cache, bytes, held - credit) || !evict_for(cache, bytes, credit))
            return NULL;
    return item;
}

struct cache_item *mem_alloc(struct cache *cache, const struct need *need, const struct cache_item *old)
{
    bool is_large = bytes_of(need) > cache->large_min;
    struct cache_item *item = is_large ? alloc_large(cache, need, old) : alloc_small(cache, need);

    if (item == NULL)
        mem_forget_ceiling(cache); /* what is here cannot make up for it: the next asks the system again */
    return item;
}

struct cache_item *mem_alloc_reserve(struct cache *cache, const struct need *need)
{
    return try_alloc(cache, need, true, NULL);
}

void mem_undo(struct cache_item *item)
{
    struct seg *seg = seg_of(item);
    struct cache *cache = seg->cache;
    uint32_t at = item->at * 8u;
    size_t bytes = cache_item_bytes(item);

    pthread_mutex_lock(&cache->mem.lock);
    /* An open segment has one share more, so this cannot free it. */
    if (seg->state == SEG_OPEN && seg->used == at + bytes) {
        seg->used = at;
        __atomic_fetch_sub(&seg->live, LIVE_ONE + bytes, __ATOMIC_RELAXED);
        item = NULL;
    }
    pthread_mutex_unlock(&cache->mem.lock);
    if (item != NULL)
        cache_item_release(item);
}

/* Out of its queue, with a share for the caller; unless its last share has gone and somebody waits to free it. */
static bool claim(struct mem *mem, struct seg *seg)
{
    uint64_t live = __atomic_load_n(&seg->live, __ATOMIC_RELAXED);

    do {
        if (live == 0)
            return false;
    } while (
        !__atomic_compare_exchange_n(&seg->live, &live, live + LIVE_ONE, true, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    unqueue(&mem->queues[seg->queue], seg);
    seg->state = SEG_VICTIM;
    return true;
}

struct seg *mem_take_oldest(struct cache *cache, enum queue queue)
{
    struct mem *mem = &cache->mem;
    struct seg *seg;

    pthread_mutex_lock(&mem->lock);
    for (seg = mem->queues[queue].oldest; seg != NULL; seg = seg->next)
        if (claim(mem, seg))
            break;
    pthread_mutex_unlock(&mem->lock);
    return seg;
}

/* Bytes of a full segment that nothing alive is in. */
static uint64_t dead_bytes(const struct seg *seg)
{
    return seg->state == SEG_QUEUED
               ? seg->used - sizeof(*seg) - (__atomic_load_n(&seg->live, __ATOMIC_RELAXED) & LIVE_BYTES)
               : 0;
}

struct seg *mem_take_sparse(struct cache *cache, uint64_t random, bool all, unsigned least)
{
    struct mem *mem = &cache->mem;
    struct seg *best = NULL;
    uint64_t most = cache->seg_size / least;
    size_t tries;

    pthread_mutex_lock(&mem->lock);
    tries = all ? SPARSE_ALL : SPARSE_SAMPLE;
    if (tries > mem->num_segs)
        tries = mem->num_segs;
    for (size_t i = 0; i < tries; i++) {
        struct seg *seg = seg_at(cache, (random + i * (all ? 1 : 7919)) % mem->num_segs);
        uint64_t dead = dead_bytes(seg);

        if (dead >= most) {
            most = dead;
            best = seg;
        }
    }
    if (best != NULL && !claim(mem, best))
        best = NULL;
    pthread_mutex_unlock(&mem->lock);
    return best;
}

void mem_put_back(struct cache *cache, struct seg *seg, enum queue queue)
{
    pthread_mutex_lock(&cache->mem.lock);
    seg->state = SEG_QUEUED;
    seg->queue = queue;
    push(&cache->mem.queues[queue], seg);
    pthread_mutex_unlock(&cache->mem.lock);
    seg_drop(seg, LIVE_ONE);
}

uint64_t mem_queue_bytes(struct cache *cache, enum queue queue)
{
    uint64_t bytes;

    pthread_mutex_lock(&cache->mem.lock);
    bytes = cache->mem.queues[queue].bytes;
    pthread_mutex_unlock(&cache->mem.lock);
    return bytes;
}

bool mem_create(struct cache *cache)
{
    uint64_t wanted = cache->limit / SEGS_WANTED;

    pthread_mutex_init(&cache->mem.lock, NULL);
    cache->mem.ceiling = UINT64_MAX;
    cache->mem.allowed = cache->limit;
    for (cache->seg_size = SEG_MIN; cache->seg_size < SEG_MAX && cache->seg_size < wanted;)
        cache->seg_size *= 2;
    cache->large_min = cache->seg_size / LARGE_PART;
    return true;
}

void mem_destroy(struct cache *cache)
{
    struct mem *mem = &cache->mem;
    struct seg *seg, *next;

    for (unsigned q = 0; q < QUEUES; q++) {
        for (seg = mem->queues[q].oldest; seg != NULL; seg = next) {
            next = seg->next;
            if (seg->large)
                unmap(cache, seg);
        }
    }
    for (seg = mem->spares; seg != NULL; seg = next) {
        next = seg->next;
        unmap(cache, seg);
    }
    for (size_t i = 0; i < mem->num_extents; i++)
        munmap(mem->extents[i], (size_t)EXTENT_SEGS * cache->seg_size);
    free(mem->extents);
    free(mem->cold);
    pthread_mutex_destroy(&mem->lock);
}
