/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * keystats - what is asked of single keys, for `stats proxy keystats`.
 *
 * Each worker has a table: a search tree, for hostile keys cannot make it slow, and a queue in the order in which keys
 * were first seen. A key is counted for so long from then on, and begins anew after that; when there are too many the
 * one that has been counted longest goes. The worker takes the table's mutex for each key, and whoever tells takes it
 * for as long as it takes to copy the table.
 */
#ifndef KEYSTATS_H
#define KEYSTATS_H

#include "util.h"

/* X(name): what is counted of a key, as it is told */
#define KEYSTATS(X) \
    X(seen)         \
    X(gets)         \
    X(stores)       \
    X(others)       \
    X(hits)         \
    X(misses)       \
    X(read_bytes)   \
    X(write_bytes)

struct keystats_counts {
#define X(name) uint64_t name;
    KEYSTATS(X)
#undef X
};

struct keystats;

/* For so many keys at the most, each for so long. NULL when memory ran out. */
struct keystats *keystats_create(uint32_t max, uint32_t lifespan_ms) MUST_CHECK;
void keystats_destroy(struct keystats *k); /* NULL is allowed */

/* Adds to what was counted of a key. Without memory for a new one nothing is counted. */
void keystats_add(struct keystats *k, const uint8_t *key, size_t len, const struct keystats_counts *add,
                  uint64_t now_us);

/* Forgets all keys. Any thread. */
void keystats_reset(struct keystats *k);

/* A key as it is told. All pointers are good during the call only. */
struct keystats_told {
    const uint8_t *key;
    size_t len;
    uint64_t age_us; /* since it was first seen */
    const struct keystats_counts *counts;
};

/* Calls fn for each key of n tables together, in their order by bytes. Any thread. False when memory ran out. */
bool keystats_tell(struct keystats *const *tables, uint32_t n, uint64_t now_us,
                   void (*fn)(void *arg, const struct keystats_told *told), void *arg) MUST_CHECK;

#endif
