/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * htgram - a histogram of latencies, log-linear: each power of two has HTGRAM_STEPS buckets of equal width, so that a
 * bucket's bounds lie within 1/HTGRAM_STEPS of each other from a microsecond to an hour.
 *
 * One thread adds, any thread reads: as counters.h.
 */
#ifndef HTGRAM_H
#define HTGRAM_H

#include <stdint.h>

enum {
    HTGRAM_STEP_BITS = 3,
    HTGRAM_STEPS = 1 << HTGRAM_STEP_BITS,
    HTGRAM_BUCKETS = (32 - HTGRAM_STEP_BITS + 1) * HTGRAM_STEPS,
};

struct htgram {
    uint64_t counts[HTGRAM_BUCKETS];
    uint64_t total;
    uint64_t sum; /* of all values */
};

/* Adds a value in microseconds; what is over 2^32 counts as that. */
void htgram_add(struct htgram *h, uint64_t us);

/* Adds all of from, which another thread may be writing, to `to`, which is the caller's. */
void htgram_merge(struct htgram *to, const struct htgram *from);

/* The value in microseconds that `permille` of a thousand values do not exceed; 0 when there are none. */
uint64_t htgram_quantile(const struct htgram *h, unsigned permille);

/* The bounds of a bucket: low <= value < high. */
void htgram_bounds(unsigned bucket, uint64_t *low, uint64_t *high);

#endif
