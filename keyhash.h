/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * keyhash - 64 bits of a key, for tables: fast, spread evenly, and with secrets, so that nobody can choose keys that
 * all belong in one place.
 */
#ifndef KEYHASH_H
#define KEYHASH_H

#include <string.h>

#include "util.h"

struct keyhash {
    uint64_t secrets[4];
};

/* Draws the secrets: random ones; with a seed that is not 0, the same for the same seed. */
void keyhash_setup(struct keyhash *h, uint64_t seed);

static inline uint64_t keyhash_fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;

    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t keyhash_load(const uint8_t *p, size_t n)
{
    uint64_t v = 0;

    memcpy(&v, p, n);
    return v;
}

static inline uint64_t keyhash_of(const struct keyhash *h, const void *key, size_t nkey)
{
    const uint8_t *p = key;
    const uint64_t *secrets = h->secrets;
    uint64_t state = secrets[0], a, b;
    size_t n = nkey;

    for (; n > 16; n -= 16, p += 16)
        state = keyhash_fold(keyhash_load(p, 8) ^ secrets[1], keyhash_load(p + 8, 8) ^ state);
    if (n >= 8) {
        a = keyhash_load(p, 8);
        b = keyhash_load(p + n - 8, 8);
    } else if (n >= 4) {
        a = keyhash_load(p, 4);
        b = keyhash_load(p + n - 4, 4);
    } else {
        a = n > 0 ? ((uint64_t)p[0] << 16) | ((uint64_t)p[n / 2] << 8) | p[n - 1] : 0;
        b = 0;
    }
    state = keyhash_fold(a ^ secrets[2], b ^ state);
    return keyhash_fold(state ^ secrets[3], nkey ^ secrets[1]);
}

#endif
