/* SPDX-License-Identifier: BSD-3-Clause */
/* base64 - bytes as printable text and back, with padding, as in RFC 4648 section 4. */
#ifndef BASE64_H
#define BASE64_H

#include <stddef.h>
#include <stdint.h>

/* Bytes that n bytes become. */
static inline size_t base64_size(size_t n)
{
    return (n + 2) / 3 * 4;
}

/* Writes base64_size(n) bytes to dst, which may not overlap p. Their number. */
size_t base64_encode(const uint8_t *p, size_t n, uint8_t *dst);

/*
 * Writes what n bytes of base64 stand for to dst, which has room for n / 4 * 3. How many they are; 0: it is not base64.
 */
size_t base64_decode(const uint8_t *p, size_t n, uint8_t *dst);

#endif
