/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * md5 - the first 32 bits of the MD5 of short keys, fast.
 *
 * That is what ketama places a key by, and with libmemcached's own md5 it was the largest part of moxi's own work: a
 * quarter of what a get costs outside the kernel, half of a multiget. Keys that fit into one block of MD5 (55 bytes)
 * are hashed here without a context, and eight at a time where a multiget has them: the eight lanes are independent,
 * while one key's 64 steps wait for each other. Only for placing keys: MD5 protects nothing.
 */
#ifndef MD5_H
#define MD5_H

#include <stddef.h>
#include <stdint.h>

#include "util.h"

enum {
    MD5_SHORT_MAX = 55, /* longest key that fits into one block with its padding and length */
    MD5_LANES = 8,
};

/* The first four bytes of the digest, the first one lowest. len is at most MD5_SHORT_MAX. */
uint32_t md5_short(const uint8_t *key, size_t len);

/* The same for MD5_LANES keys at once. */
void md5_short_lanes(const uint8_t *const keys[MD5_LANES], const size_t lens[MD5_LANES], uint32_t out[MD5_LANES]);

#endif
