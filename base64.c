/* SPDX-License-Identifier: BSD-3-Clause */
/* base64 - see base64.h. Three bytes are four digits of six bits; '=' stands for digits that are not there. */
#include "base64.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

size_t base64_encode(const uint8_t *p, size_t n, uint8_t *dst)
{
    const uint8_t *begin = dst;

    for (; n > 0; p += 3) {
        uint32_t bits = (uint32_t)p[0] << 16 | (n > 1 ? (uint32_t)p[1] << 8 : 0) | (n > 2 ? p[2] : 0u);

        *dst++ = (uint8_t)digits[bits >> 18];
        *dst++ = (uint8_t)digits[bits >> 12 & 63];
        *dst++ = n > 1 ? (uint8_t)digits[bits >> 6 & 63] : '=';
        *dst++ = n > 2 ? (uint8_t)digits[bits & 63] : '=';
        n -= n < 3 ? n : 3;
    }
    return (size_t)(dst - begin);
}

/* The value of a digit; 64: it is none. */
static uint32_t value_of(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26u;
    if (c >= '0' && c <= '9')
        return c - '0' + 52u;
    return c == '+' ? 62 : c == '/' ? 63 : 64;
}

size_t base64_decode(const uint8_t *p, size_t n, uint8_t *dst)
{
    const uint8_t *begin = dst;
    size_t padding = n >= 4 ? (size_t)(p[n - 1] == '=') + (p[n - 1] == '=' && p[n - 2] == '=') : 0;

    if (n == 0 || n % 4 != 0)
        return 0;
    for (size_t i = 0; i < n; i += 4) {
        size_t have = i + 4 < n ? 4 : 4 - padding;
        uint32_t bits = 0;

        for (size_t j = 0; j < 4; j++) {
            uint32_t value = j < have ? value_of(p[i + j]) : 0;

            if (value > 63)
                return 0;
            bits = bits << 6 | value;
        }
        *dst++ = (uint8_t)(bits >> 16);
        if (have > 2)
            *dst++ = (uint8_t)(bits >> 8);
        if (have > 3)
            *dst++ = (uint8_t)bits;
    }
    return (size_t)(dst - begin);
}
