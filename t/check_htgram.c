/* SPDX-License-Identifier: BSD-3-Clause */
/* check_htgram - latency histograms (htgram.c): the bounds of buckets, quantiles, merging and resetting. */
#include <stdlib.h>

#include <string.h>

#include "htgram.h"
#include "tap.h"
#include "util.h"

enum { VALUES = 20000 };

static const uint64_t most = UINT32_MAX;

static void check_bounds(void)
{
    uint64_t low, high, end = 0;
    bool adjacent = true, narrow = true;

    for (unsigned i = 0; i < HTGRAM_BUCKETS; i++) {
        htgram_bounds(i, &low, &high);
        adjacent = adjacent && low == end && high > low;
        /* Of one microsecond, or within an eighth of its value. */
        narrow = narrow && (high - low == 1 || (high - low) * HTGRAM_STEPS <= low);
        end = high;
    }
    check(adjacent && end == most + 1, "the buckets follow each other from 0 to 2^32");
    check(narrow, "none is wider than 1/%d of what is in it", HTGRAM_STEPS);
}

/* Whether a value alone comes into the bucket whose bounds are around it. */
static bool is_in_place(uint64_t us)
{
    static struct htgram h;
    uint64_t low, high, counted = 0;

    memset(&h, 0, sizeof(h));
    htgram_add(&h, us);
    if (us > most)
        us = most;
    for (unsigned i = 0; i < HTGRAM_BUCKETS; i++) {
        htgram_bounds(i, &low, &high);
        counted += h.counts[i];
        if (h.counts[i] != 0 && (us < low || us >= high))
            return false;
    }
    return counted == 1 && h.total == 1;
}

static void check_places(void)
{
    bool powers = true, edges = true;
    uint64_t low, high;

    for (unsigned bit = 0; bit < 64; bit++)
        powers = powers && is_in_place(UINT64_C(1) << bit) && is_in_place((UINT64_C(1) << bit) - 1) &&
                 is_in_place((UINT64_C(1) << bit) + 1);
    for (unsigned i = 0; i < HTGRAM_BUCKETS; i++) {
        htgram_bounds(i, &low, &high);
        edges = edges && is_in_place(low) && is_in_place(high - 1) && is_in_place(high);
    }
    check(powers, "powers of two, and their neighbours, are counted where they belong");
    check(edges, "and the bounds of each bucket");
    check(is_in_place(UINT64_MAX), "and what is too large, in the last one");
}

static void check_few(void)
{
    static struct htgram h;

    check(htgram_quantile(&h, 0) == 0 && htgram_quantile(&h, 500) == 0 && htgram_quantile(&h, 1000) == 0,
          "of nothing, all quantiles are 0");
    htgram_add(&h, 5);
    check(htgram_quantile(&h, 1) == 5 && htgram_quantile(&h, 500) == 5 && htgram_quantile(&h, 1000) == 5,
          "of one value, it is all of them");
    htgram_add(&h, 0);
    htgram_add(&h, 7);
    htgram_add(&h, 7);
    check(htgram_quantile(&h, 250) == 0 && htgram_quantile(&h, 251) == 5 && htgram_quantile(&h, 500) == 5 &&
              htgram_quantile(&h, 501) == 7 && htgram_quantile(&h, 1000) == 7,
          "a quantile is not exceeded by so many of a thousand, and no more than needed");
    check(h.total == 4 && h.sum == 19, "there are a total and a sum");
    memset(&h, 0, sizeof(h));
    check(h.total == 0 && h.sum == 0 && htgram_quantile(&h, 999) == 0, "a reset takes everything");
    htgram_add(&h, most);
    check(htgram_quantile(&h, 500) == most, "the largest value has a quantile");
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Values over all orders of magnitude, sorted. The caller frees them. */
static uint64_t *make_values(struct htgram *h)
{
    uint64_t *values = util_xcalloc(VALUES, sizeof(*values)), state = 88172645463325252;

    for (size_t i = 0; i < VALUES; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        values[i] = (state >> 32) >> (state & 31);
        htgram_add(h, values[i]);
    }
    qsort(values, VALUES, sizeof(*values), compare);
    return values;
}

static void check_many(void)
{
    static struct htgram h;
    uint64_t *values = make_values(&h), before = 0, sum = 0;
    bool bounded = true, rising = true;

    for (unsigned permille = 1; permille <= 1000; permille++) {
        uint64_t exact = values[((size_t)VALUES * permille + 999) / 1000 - 1], q = htgram_quantile(&h, permille);

        bounded = bounded && q >= exact && q - exact <= exact / HTGRAM_STEPS;
        rising = rising && q >= before;
        before = q;
    }
    for (size_t i = 0; i < VALUES; i++)
        sum += values[i];
    check(bounded, "of %d values, no quantile is less than it is, or more than by 1/%d", VALUES, HTGRAM_STEPS);
    check(rising, "and none is less than the one before");
    check(h.sum == sum && h.total == VALUES, "the sum is exact");
    free(values);
}

static void check_merge(void)
{
    static struct htgram one, two, both, merged;
    bool same = true;

    for (uint64_t i = 0; i < 5000; i++) {
        uint64_t us = i * i * 31;

        htgram_add(i % 3 == 0 ? &one : &two, us);
        htgram_add(&both, us);
    }
    htgram_merge(&merged, &one);
    check(merged.total == one.total && merged.sum == one.sum, "merged into nothing it is the same");
    htgram_merge(&merged, &two);
    for (unsigned i = 0; i < HTGRAM_BUCKETS; i++)
        same = same && merged.counts[i] == both.counts[i];
    check(same && merged.total == both.total && merged.sum == both.sum, "two merged are as if one had counted");
    check(one.total + two.total == both.total, "and are left as they were");
    memset(&one, 0, sizeof(one));
    htgram_merge(&merged, &one);
    check(merged.total == both.total && htgram_quantile(&merged, 990) == htgram_quantile(&both, 990),
          "nothing merged changes nothing");
}

int main(void)
{
    check_bounds();
    check_places();
    check_few();
    check_many();
    check_merge();
    return tap_end();
}
