/* SPDX-License-Identifier: BSD-3-Clause */
/* fuzz - what the fuzz targets share: a check that aborts, memory of just the right size, fingerprints. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "not so: %s\n", what);
    abort();
}

static inline void *need(size_t n)
{
    void *p = malloc(n);

    must(p != NULL, "there is memory");
    return p;
}

/* A copy of n bytes in an allocation of just that size. */
static inline uint8_t *copy_of(const uint8_t *p, size_t n)
{
    uint8_t *copy = need(n);

    if (n > 0)
        memcpy(copy, p, n);
    return copy;
}

/* A fingerprint takes in a number; FNV-1a, but a word at a time. */
static inline uint64_t mix_number(uint64_t hash, uint64_t v)
{
    hash = (hash ^ v) * UINT64_C(0x100000001b3);
    return hash ^ hash >> 29;
}

/* A fingerprint takes in bytes, and how many there are. */
static inline uint64_t mix(uint64_t hash, const void *p, size_t n)
{
    const uint8_t *bytes = p;
    uint64_t word = 0;

    hash = mix_number(hash, n);
    for (; n >= sizeof(word); n -= sizeof(word), bytes += sizeof(word)) {
        memcpy(&word, bytes, sizeof(word));
        hash = mix_number(hash, word);
    }
    word = 0;
    if (n > 0)
        memcpy(&word, bytes, n);
    return mix_number(hash, word);
}

/* Whether [p, p + n) lies inside [begin, begin + len). */
static inline bool inside(const uint8_t *p, size_t n, const uint8_t *begin, size_t len)
{
    return p >= begin && p <= begin + len && n <= (size_t)(begin + len - p);
}

#endif
