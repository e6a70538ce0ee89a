/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * load_util.c - what all files of the load generator use: messages that end it, memory, the clock.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "load.h"

enum { SHOWN_BYTES = 120 }; /* of a wrong reply, in a message */

void fail(const char *fmt, ...)
{
    va_list ap;

    fflush(stdout);
    fputs("load: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

void *alloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);

    if (!p)
        fail("out of memory");
    return p;
}

const char *show(const char *p, size_t len)
{
    static char bufs[2][4 * SHOWN_BYTES + 4];
    static unsigned turn;
    char *buf = bufs[turn++ % 2], *d = buf;
    size_t n = len < SHOWN_BYTES ? len : SHOWN_BYTES;

    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (c == '\r' || c == '\n')
            d += sprintf(d, "\\%c", c == '\r' ? 'r' : 'n');
        else if (c < 0x20 || c > 0x7e || c == '\\')
            d += sprintf(d, "\\x%02x", c);
        else
            *d++ = (char)c;
    }
    strcpy(d, n < len ? "..." : "");
    return buf;
}

uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

uint64_t to_ns(double seconds)
{
    return (uint64_t)(seconds * (double)SECOND_NS);
}
