/* SPDX-License-Identifier: BSD-3-Clause */
/* htgram - a histogram of latencies: see htgram.h. */
#include "htgram.h"

#include "util.h"

static void bump(uint64_t *p, uint64_t n)
{
    __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

static unsigned bucket_of(uint64_t us)
{
    unsigned top;

    if (us > UINT32_MAX)
        us = UINT32_MAX;
    if (us < HTGRAM_STEPS)
        return (unsigned)us;
    top = 63u - (unsigned)__builtin_clzll(us);
    return (top - HTGRAM_STEP_BITS + 1) * HTGRAM_STEPS +
           (unsigned)((us >> (top - HTGRAM_STEP_BITS)) & (HTGRAM_STEPS - 1));
}

void htgram_bounds(unsigned bucket, uint64_t *low, uint64_t *high)
{
    unsigned shift;

    if (bucket < HTGRAM_STEPS) {
        *low = bucket;
        *high = bucket + 1u;
        return;
    }
    shift = bucket / HTGRAM_STEPS - 1;
    *low = (uint64_t)(HTGRAM_STEPS + bucket % HTGRAM_STEPS) << shift;
    *high = *low + (1ull << shift);
}

void htgram_add(struct htgram *h, uint64_t us)
{
    bump(&h->counts[bucket_of(us)], 1);
    bump(&h->total, 1);
    bump(&h->sum, us);
}

void htgram_merge(struct htgram *to, const struct htgram *from)
{
    for (unsigned i = 0; i < HTGRAM_BUCKETS; i++) {
        uint64_t n = __atomic_load_n(&from->counts[i], __ATOMIC_RELAXED);

        /* The total is of what was read, so that quantiles add up while the other thread goes on. */
        to->counts[i] += n;
        to->total += n;
    }
    to->sum += __atomic_load_n(&from->sum, __ATOMIC_RELAXED);
}

uint64_t htgram_quantile(const struct htgram *h, unsigned permille)
{
    uint64_t want = (h->total * permille + 999) / 1000;
    uint64_t seen = 0, low, high;

    if (h->total == 0)
        return 0;
    for (unsigned i = 0; i < HTGRAM_BUCKETS; i++) {
        seen += h->counts[i];
        if (seen >= want && h->counts[i] > 0) {
            htgram_bounds(i, &low, &high);
            return high - 1;
        }
    }
    return UINT32_MAX;
}
