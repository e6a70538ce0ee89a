/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * md5 - the first 32 bits of the MD5 of short keys: see md5.h. Written after RFC 1321.
 *
 * The steps are written once, and made into a function for one word and one for a vector of words; the compiler splits
 * the vector into what the machine has.
 */
#include "md5.h"

#include <string.h>

typedef uint32_t lanes __attribute__((vector_size(MD5_LANES * sizeof(uint32_t))));

enum { BLOCK_WORDS = 16 };

/* RFC 1321, 3.4; F and G in the forms with one operation less. */
#define F(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define G(x, y, z) ((y) ^ ((z) & ((x) ^ (y))))
#define H(x, y, z) ((x) ^ (y) ^ (z))
#define I(x, y, z) ((y) ^ ((x) | ~(z)))

#define STEP(f, a, b, c, d, word, k, s) \
    a += f(b, c, d) + (word) + (k);     \
    a = ((a << (s)) | (a >> (32 - (s)))) + b;

/* clang-format off */
#define STEPS \
    STEP(F, a, b, c, d, x[0], 0xd76aa478u, 7) \
    STEP(F, d, a, b, c, x[1], 0xe8c7b756u, 12) \
    STEP(F, c, d, a, b, x[2], 0x242070dbu, 17) \
    STEP(F, b, c, d, a, x[3], 0xc1bdceeeu, 22) \
    STEP(F, a, b, c, d, x[4], 0xf57c0fafu, 7) \
    STEP(F, d, a, b, c, x[5], 0x4787c62au, 12) \
    STEP(F, c, d, a, b, x[6], 0xa8304613u, 17) \
    STEP(F, b, c, d, a, x[7], 0xfd469501u, 22) \
    STEP(F, a, b, c, d, x[8], 0x698098d8u, 7) \
    STEP(F, d, a, b, c, x[9], 0x8b44f7afu, 12) \
    STEP(F, c, d, a, b, x[10], 0xffff5bb1u, 17) \
    STEP(F, b, c, d, a, x[11], 0x895cd7beu, 22) \
    STEP(F, a, b, c, d, x[12], 0x6b901122u, 7) \
    STEP(F, d, a, b, c, x[13], 0xfd987193u, 12) \
    STEP(F, c, d, a, b, x[14], 0xa679438eu, 17) \
    STEP(F, b, c, d, a, x[15], 0x49b40821u, 22) \
    STEP(G, a, b, c, d, x[1], 0xf61e2562u, 5) \
    STEP(G, d, a, b, c, x[6], 0xc040b340u, 9) \
    STEP(G, c, d, a, b, x[11], 0x265e5a51u, 14) \
    STEP(G, b, c, d, a, x[0], 0xe9b6c7aau, 20) \
    STEP(G, a, b, c, d, x[5], 0xd62f105du, 5) \
    STEP(G, d, a, b, c, x[10], 0x02441453u, 9) \
    STEP(G, c, d, a, b, x[15], 0xd8a1e681u, 14) \
    STEP(G, b, c, d, a, x[4], 0xe7d3fbc8u, 20) \
    STEP(G, a, b, c, d, x[9], 0x21e1cde6u, 5) \
    STEP(G, d, a, b, c, x[14], 0xc33707d6u, 9) \
    STEP(G, c, d, a, b, x[3], 0xf4d50d87u, 14) \
    STEP(G, b, c, d, a, x[8], 0x455a14edu, 20) \
    STEP(G, a, b, c, d, x[13], 0xa9e3e905u, 5) \
    STEP(G, d, a, b, c, x[2], 0xfcefa3f8u, 9) \
    STEP(G, c, d, a, b, x[7], 0x676f02d9u, 14) \
    STEP(G, b, c, d, a, x[12], 0x8d2a4c8au, 20) \
    STEP(H, a, b, c, d, x[5], 0xfffa3942u, 4) \
    STEP(H, d, a, b, c, x[8], 0x8771f681u, 11) \
    STEP(H, c, d, a, b, x[11], 0x6d9d6122u, 16) \
    STEP(H, b, c, d, a, x[14], 0xfde5380cu, 23) \
    STEP(H, a, b, c, d, x[1], 0xa4beea44u, 4) \
    STEP(H, d, a, b, c, x[4], 0x4bdecfa9u, 11) \
    STEP(H, c, d, a, b, x[7], 0xf6bb4b60u, 16) \
    STEP(H, b, c, d, a, x[10], 0xbebfbc70u, 23) \
    STEP(H, a, b, c, d, x[13], 0x289b7ec6u, 4) \
    STEP(H, d, a, b, c, x[0], 0xeaa127fau, 11) \
    STEP(H, c, d, a, b, x[3], 0xd4ef3085u, 16) \
    STEP(H, b, c, d, a, x[6], 0x04881d05u, 23) \
    STEP(H, a, b, c, d, x[9], 0xd9d4d039u, 4) \
    STEP(H, d, a, b, c, x[12], 0xe6db99e5u, 11) \
    STEP(H, c, d, a, b, x[15], 0x1fa27cf8u, 16) \
    STEP(H, b, c, d, a, x[2], 0xc4ac5665u, 23) \
    STEP(I, a, b, c, d, x[0], 0xf4292244u, 6) \
    STEP(I, d, a, b, c, x[7], 0x432aff97u, 10) \
    STEP(I, c, d, a, b, x[14], 0xab9423a7u, 15) \
    STEP(I, b, c, d, a, x[5], 0xfc93a039u, 21) \
    STEP(I, a, b, c, d, x[12], 0x655b59c3u, 6) \
    STEP(I, d, a, b, c, x[3], 0x8f0ccc92u, 10) \
    STEP(I, c, d, a, b, x[10], 0xffeff47du, 15) \
    STEP(I, b, c, d, a, x[1], 0x85845dd1u, 21) \
    STEP(I, a, b, c, d, x[8], 0x6fa87e4fu, 6) \
    STEP(I, d, a, b, c, x[15], 0xfe2ce6e0u, 10) \
    STEP(I, c, d, a, b, x[6], 0xa3014314u, 15) \
    STEP(I, b, c, d, a, x[13], 0x4e0811a1u, 21) \
    STEP(I, a, b, c, d, x[4], 0xf7537e82u, 6) \
    STEP(I, d, a, b, c, x[11], 0xbd3af235u, 10) \
    STEP(I, c, d, a, b, x[2], 0x2ad7d2bbu, 15) \
    STEP(I, b, c, d, a, x[9], 0xeb86d391u, 21)

/* clang-format on */

static uint32_t hash_word(const uint32_t x[BLOCK_WORDS])
{
    uint32_t a = 0x67452301u, b = 0xefcdab89u, c = 0x98badcfeu, d = 0x10325476u;

    STEPS
    return a + 0x67452301u;
}

/* By pointers: how a vector is passed by value depends on what the compiler knows of the machine. */
static void hash_lanes(const lanes x[BLOCK_WORDS], lanes *out)
{
    const lanes zero = {0};
    lanes a = zero + 0x67452301u, b = zero + 0xefcdab89u, c = zero + 0x98badcfeu, d = zero + 0x10325476u;

    STEPS
    *out = a + 0x67452301u;
}

/* The one block: the key, a one bit, zeros, and the key's length in bits. MD5 is little-endian. */
static void make_block(const uint8_t *key, size_t len, uint32_t x[BLOCK_WORDS])
{
    uint8_t block[BLOCK_WORDS * 4] = {0};

    memcpy(block, key, len);
    block[len] = 0x80;
    block[56] = (uint8_t)(len << 3);
    block[57] = (uint8_t)(len >> 5);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(x, block, sizeof(block));
#else
    for (int i = 0; i < BLOCK_WORDS; i++)
        x[i] = (uint32_t)block[4 * i] | (uint32_t)block[4 * i + 1] << 8 | (uint32_t)block[4 * i + 2] << 16 |
               (uint32_t)block[4 * i + 3] << 24;
#endif
}

uint32_t md5_short(const uint8_t *key, size_t len)
{
    uint32_t x[BLOCK_WORDS];

    make_block(key, len, x);
    return hash_word(x);
}

void md5_short_lanes(const uint8_t *const keys[MD5_LANES], const size_t lens[MD5_LANES], uint32_t out[MD5_LANES])
{
    uint32_t block[BLOCK_WORDS], words[BLOCK_WORDS][MD5_LANES];
    lanes x[BLOCK_WORDS], a;

    for (int lane = 0; lane < MD5_LANES; lane++) {
        make_block(keys[lane], lens[lane], block);
        for (int i = 0; i < BLOCK_WORDS; i++)
            words[i][lane] = block[i];
    }
    memcpy(x, words, sizeof(x));
    hash_lanes(x, &a);
    memcpy(out, &a, sizeof(a));
}
