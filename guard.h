/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * guard - which keys are being written, for those who keep what they have read, or share it.
 *
 * A write of a key begins before its server is told, and ends when its client may be: between guard_begin and guard_end
 * what is read of the key may be of before it or of after it, and who asks before the end may get what was before. So
 * whoever reads asks for a ticket first (guard_ask), and what comes of that may be given to others, now or later, only
 * as long as the ticket is good (guard_is_good): no write of the key was on its way when it was drawn, or has begun
 * since. guard_begin_all and guard_end_all are for what writes all keys.
 *
 * One ticket may be for several keys (guard_ask_more): it has the sum of their words. All that happens to a word adds
 * to its upper half, so if two sums of the same words are equal, nothing has happened to any of them in between.
 *
 * Keys are told apart by some bits of their hash: two of them may be one to a guard, which only makes a ticket bad that
 * could be good. The hash is the guard's own, keyhash_of(&g->hash, …). Any thread may call any function at any time,
 * but for create and destroy; nothing waits.
 */
#ifndef GUARD_H
#define GUARD_H

#include <stdatomic.h>

#include "keyhash.h"

enum {
    GUARD_PLACES = 8192,
    GUARD_PENDING_BITS = 32,
};

/* A count of what has begun or ended, above GUARD_PENDING_BITS; of what has begun and not ended, in these. */
typedef _Atomic uint64_t guard_word;

struct guard {
    struct keyhash hash; /* of whoever uses it */
    guard_word all;
    _Alignas(64) guard_word keys[GUARD_PLACES];
};

struct guard_ticket {
    uint64_t all;
    uint64_t key;
};

#define GUARD_COUNT (UINT64_C(1) << GUARD_PENDING_BITS)
#define GUARD_PENDING (GUARD_COUNT - 1)

/* NULL when memory ran out. */
struct guard *guard_create(void) MUST_CHECK;
void guard_destroy(struct guard *g); /* NULL is allowed */

static inline guard_word *guard_word_of(struct guard *g, uint64_t hash)
{
    return &g->keys[hash % GUARD_PLACES];
}

static inline void guard_begin(struct guard *g, uint64_t hash)
{
    atomic_fetch_add(guard_word_of(g, hash), GUARD_COUNT + 1);
}

static inline void guard_end(struct guard *g, uint64_t hash)
{
    atomic_fetch_add(guard_word_of(g, hash), GUARD_COUNT - 1);
}

static inline void guard_begin_all(struct guard *g)
{
    atomic_fetch_add(&g->all, GUARD_COUNT + 1);
}

static inline void guard_end_all(struct guard *g)
{
    atomic_fetch_add(&g->all, GUARD_COUNT - 1);
}

/* A ticket for a key of that hash: to be drawn before its server is asked. */
static inline struct guard_ticket guard_ask(struct guard *g, uint64_t hash)
{
    return (struct guard_ticket){.all = atomic_load(&g->all), .key = atomic_load(guard_word_of(g, hash))};
}

/* A ticket for no key; guard_ask_more makes it one for another key as well. */
static inline struct guard_ticket guard_ask_none(struct guard *g)
{
    return (struct guard_ticket){.all = atomic_load(&g->all)};
}

static inline void guard_ask_more(struct guard *g, uint64_t hash, struct guard_ticket *ticket)
{
    ticket->key += atomic_load(guard_word_of(g, hash));
}

/* Whether none of its keys was being written when a ticket was drawn. */
static inline bool guard_ticket_is_free(const struct guard_ticket *ticket)
{
    return ((ticket->all | ticket->key) & GUARD_PENDING) == 0;
}

/* Whether no write of their keys, which are the same, has begun or ended between the draws of two tickets. */
static inline bool guard_tickets_agree(const struct guard_ticket *a, const struct guard_ticket *b)
{
    return a->all == b->all && a->key == b->key;
}

static inline bool guard_is_good(struct guard *g, uint64_t hash, const struct guard_ticket *ticket)
{
    return guard_ticket_is_free(ticket) && atomic_load(&g->all) == ticket->all &&
           atomic_load(guard_word_of(g, hash)) == ticket->key;
}

#endif
