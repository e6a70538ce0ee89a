/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * util - strict numbers, time, the version, and allocation that cannot fail. Everything includes it; it includes
 * nothing of moxi.
 *
 * Numbers come from networks and from users, so the parsers take a span, never look past it, and accept one spelling
 * only: what strtol would forgive (blanks, a plus sign, a tail) is an error here.
 */
#include "util.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void die_of_memory(size_t n) NO_RETURN;

static void die_of_memory(size_t n)
{
    fprintf(stderr, "moxi: out of memory (%zu bytes wanted)\n", n);
    exit(EXIT_FAILURE);
}

const char *moxi_version(void)
{
    return PACKAGE_VERSION; /* configure's */
}

uint64_t util_now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail with this clock and a valid pointer */
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* Unix time less util_now_us, in us, as it was when first asked for. */
static uint64_t unix_offset_us;

static void find_unix_offset(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    unix_offset_us = (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000 - util_now_us();
}

uint32_t util_unix_seconds(uint64_t now_us)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, find_unix_offset);
    return (uint32_t)((now_us + unix_offset_us) / 1000000);
}

size_t util_scan_u64(const char *p, size_t n, uint64_t *out)
{
    uint64_t v = 0;
    size_t i, safe = n < U64_DIGITS - 1 ? n : U64_DIGITS - 1;
    unsigned digit;

    for (i = 0; i < safe && (digit = (unsigned char)p[i] - (unsigned)'0') <= 9; i++)
        v = v * 10 + digit;
    /* Only now a digit more may be one too many. */
    for (; i >= U64_DIGITS - 1 && i < n && (digit = (unsigned char)p[i] - (unsigned)'0') <= 9; i++) {
        if (v > (UINT64_MAX - digit) / 10)
            return 0;
        v = v * 10 + digit;
    }
    if (i > 0)
        *out = v;
    return i;
}

bool util_parse_u64(const char *p, size_t n, uint64_t *out)
{
    uint64_t v;

    if (n == 0 || util_scan_u64(p, n, &v) != n)
        return false;
    *out = v;
    return true;
}

bool util_parse_i64(const char *p, size_t n, int64_t *out)
{
    uint64_t v;

    if (n == 0 || *p != '-') {
        if (!util_parse_u64(p, n, &v) || v > INT64_MAX)
            return false;
        *out = (int64_t)v;
        return true;
    }
    if (!util_parse_u64(p + 1, n - 1, &v) || v > (uint64_t)INT64_MAX + 1)
        return false;
    /* INT64_MIN has no positive twin, so the sign goes on before the last step down. */
    *out = v == 0 ? 0 : -(int64_t)(v - 1) - 1;
    return true;
}

size_t util_format_u64(char *dst, uint64_t v)
{
    char digits[U64_DIGITS];
    size_t at = U64_DIGITS;

    do {
        digits[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v != 0);
    memcpy(dst, digits + at, U64_DIGITS - at);
    return U64_DIGITS - at;
}

size_t util_escape_uri(char *dst, const uint8_t *p, size_t n)
{
    static const char digits[] = "0123456789ABCDEF";
    char *to = dst;

    for (size_t i = 0; i < n; i++) {
        uint8_t c = p[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                     c == '.' || c == '_' || c == '~';

        if (plain) {
            *to++ = (char)c;
            continue;
        }
        *to++ = '%';
        *to++ = digits[c >> 4];
        *to++ = digits[c & 15];
    }
    return (size_t)(to - dst);
}

void *util_xmalloc(size_t n)
{
    void *p = malloc(n != 0 ? n : 1);

    if (p == NULL)
        die_of_memory(n);
    return p;
}

void *util_xcalloc(size_t n, size_t size)
{
    void *p = calloc(n != 0 ? n : 1, size != 0 ? size : 1);

    if (p == NULL)
        die_of_memory(n * size);
    return p;
}

char *util_xstrdup(const char *s)
{
    size_t n = strlen(s) + 1;

    return memcpy(util_xmalloc(n), s, n);
}
