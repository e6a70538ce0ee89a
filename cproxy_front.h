/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_front - the near cache of a pool: what servers have answered is kept for some milliseconds, and given to
 * whoever asks meanwhile, in any worker.
 *
 *   front_get --> an item, or word that there is none --> the reply
 *           \---> ask a server --> front_begin_fill, front_fill, front_end_fill; or front_fill_miss
 *   front_forget: a write of the key begins
 *
 * The promise: through one moxi, nobody reads what is older than a write that was acknowledged. It takes the pool's
 * guard. A write is told to the guard, then takes the key out of here (front_forget), then goes to its server; and what
 * was read is only kept while its ticket is good, which is looked at under the lock of the key that front_forget takes
 * as well. So what is here was read after all writes of its key had ended, until the next begins.
 *
 * Which keys are kept is said by front_cache_spec and _unspec, how many by front_cache_max and front_cache_bytes, and
 * how long by front_cache_lifespan, front_cache_miss_lifespan and front_cache_stale. When there are as many as there
 * may be, a key is kept that was asked for twice lately, instead of one that nobody has asked for since it was last
 * looked at: so what is asked for once goes by without cost.
 *
 * Any thread may call any function at any time, but for create and destroy.
 */
#ifndef CPROXY_FRONT_H
#define CPROXY_FRONT_H

#include "cache.h"
#include "counters.h"
#include "cproxy_config.h"
#include "guard.h"
#include "hotkeys.h"
#include "keyhash.h"
#include "request.h"

/* What may be known of an item besides its value and flags; a bit set. */
enum {
    FRONT_UNIQUE = 1 << 0, /* its unique */
    FRONT_STATE = 1 << 1,  /* that it is not stale, and nobody was told to renew it */
    FRONT_KEY = 1 << 2,    /* how its key was given: facts.is_binary */
};

struct front_rest;

/* What is known of all keys whose hash has the same place. */
struct front_place {
    uint16_t presence; /* atomic: keys that are here, or being entered */
    uint16_t lately;   /* atomic: a print of the key that was last asked for and not kept */
};

/* What is looked at for every key that is asked for. */
struct front {
    struct keyspec spec;
    const struct hotkeys *hotkeys; /* NULL: no key is hot */
    uint32_t place_mask;
    struct front_place *places;
    uint64_t max;
    uint64_t num_items; /* atomic */
    struct front_rest *rest;
};

/* Guard and hotkeys must outlive it; hotkeys may be NULL: no key is hot. NULL when memory ran out. */
struct front *front_create(const struct settings *settings, struct guard *guard,
                           const struct hotkeys *hotkeys) MUST_CHECK;
void front_destroy(struct front *f); /* NULL is allowed */

/* Whether a key may be kept at all: as the spec says, or because it is hot, where the spec has @hot. */
static inline bool front_wants(const struct front *f, const struct rkey *key)
{
    return hotkeys_match(f->hotkeys, &f->spec, key->p, key->len);
}

static inline struct front_place *front_place_of(const struct front *f, uint64_t hash)
{
    return &f->places[hash & f->place_mask];
}

static inline uint16_t front_print(uint64_t hash)
{
    return (uint16_t)(hash >> 48) | 1;
}

static inline bool front_is_full(const struct front *f)
{
    return __atomic_load_n(&f->num_items, __ATOMIC_RELAXED) >= f->max;
}

/* Whether there is no room for one that is not here, and was not asked for lately. */
static inline bool front_has_no_room(const struct front *f, uint64_t hash)
{
    return front_is_full(f) && __atomic_load_n(&front_place_of(f, hash)->lately, __ATOMIC_RELAXED) != front_print(hash);
}

/*
 * Whether a key is not here, and what a server says of it will not be kept, as there is no room and nobody has asked
 * for it lately: most keys, where there are more of them than there may be here.
 */
static inline bool front_is_stranger(const struct front *f, uint64_t hash)
{
    return __atomic_load_n(&front_place_of(f, hash)->presence, __ATOMIC_RELAXED) == 0 && front_has_no_room(f, hash);
}

/* A stranger has been asked for, and is none if it is again soon. n: the worker's counters. */
static inline void front_meet(struct front *f, uint64_t hash, struct counters *n)
{
    __atomic_store_n(&front_place_of(f, hash)->lately, front_print(hash), __ATOMIC_RELAXED);
    counter_add(&n->front.tot_get_misses, 1);
    counter_add(&n->front.tot_add_skips, 1);
}

struct front_hit {
    struct cache_item *item; /* with a reference, the caller's now; NULL: the value is a copy (cproxy_pocket.h) */
    uint8_t *value;          /* CR LF follow it */
    size_t value_len;
    struct facts facts;
    uint64_t fresh_us; /* from then on it is stale, and given to all but one */
    unsigned knows;    /* which facts are known */
};

/* Done with it. */
static inline void front_hit_release(const struct front_hit *hit)
{
    if (hit->item != NULL)
        cache_item_release(hit->item);
}

enum front_result {
    FRONT_ASK,  /* nothing is known: ask a server, and draw a ticket first */
    FRONT_PASS, /* it is a stranger after all */
    FRONT_HIT,  /* it is in *hit */
    FRONT_MISS, /* servers have no such key; hit->fresh_us is set */
};

/*
 * Looks for a key that seems to be no stranger. hash: of the key, by the guard's hash; needs: what must be known of it;
 * n: the worker's counters.
 */
enum front_result front_get(struct front *f, uint64_t hash, const struct rkey *key, unsigned needs, uint64_t now_us,
                            struct counters *n, struct front_hit *hit) MUST_CHECK;

/*
 * A value is arriving, of value_len bytes; knows: which of its facts are known. NULL: it will not be kept. What is
 * returned gets all of the value by front_fill, and ends in front_end_fill, or in cache_item_release if the value does
 * not.
 */
struct cache_item *front_begin_fill(struct front *f, const struct rkey *key, size_t value_len,
                                    const struct facts *facts, unsigned knows, struct counters *n) MUST_CHECK;

/* The part of the value that begins `at` bytes in. */
void front_fill(struct cache_item *item, size_t at, const uint8_t *p, size_t len);

/* It is whole. ticket: what was drawn before it was asked for. */
void front_end_fill(struct front *f, uint64_t hash, struct cache_item *item, const struct guard_ticket *ticket,
                    uint64_t now_us, struct counters *n);

/* A server has no such key. */
void front_fill_miss(struct front *f, uint64_t hash, const struct rkey *key, const struct guard_ticket *ticket,
                     uint64_t now_us, struct counters *n);

/* A write of the key has begun, as the guard has been told. */
void front_forget(struct front *f, uint64_t hash, const struct rkey *key, struct counters *n);

/* All keys will be written by a delayed flush_all, about delay_s seconds from now: nothing is kept beyond that. */
void front_flush_later(struct front *f, uint32_t delay_s, uint64_t now_us);

/* For stats: keys that are kept, bytes that these take, and keys that have gone for lack of memory, ever. */
struct front_sums {
    uint64_t items;
    uint64_t bytes;
    uint64_t evicted;
};

struct front_sums front_sums(struct front *f);

#endif
