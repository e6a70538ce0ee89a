/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * codec_tests - what the tests of a codec share: bytes and what they mean as texts, and a malloc that fails when told.
 * A program that includes it is linked with --wrap=malloc,--wrap=realloc.
 */
#ifndef CODEC_TESTS_H
#define CODEC_TESTS_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec.h"
#include "tap.h"

enum { TEXT_MAX = 8192 };

void *__wrap_malloc(size_t n);
void *__real_malloc(size_t n);
void *__wrap_realloc(void *p, size_t n);
void *__real_realloc(void *p, size_t n);

static size_t mallocs_left = SIZE_MAX; /* SIZE_MAX: any number */

static inline bool may_allocate(void)
{
    if (mallocs_left != SIZE_MAX && mallocs_left-- == 0) {
        mallocs_left = 0;
        return false;
    }
    return true;
}

void *__wrap_malloc(size_t n)
{
    return may_allocate() ? __real_malloc(n) : NULL;
}

void *__wrap_realloc(void *p, size_t n)
{
    return may_allocate() ? __real_realloc(p, n) : NULL;
}

static const struct codec *const codec __attribute__((unused)) = &codec_ascii;
static struct bufpool bufs __attribute__((unused));

/* Bytes of a test, NULs and all. */
#define BYTES(s) s, sizeof(s) - 1

#define KEY_250                                                                                                        \
    "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk" \
    "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk" \
    "kkkkkkkkkkkkkkkkkkkkkkkkkk"
_Static_assert(sizeof(KEY_250) - 1 == KEY_MAX, "as long as a key may be");

/* Bytes, and what they mean. */
struct sample {
    const char *bytes;
    size_t n;
    const char *means;
};

/* A text that grows; what does not fit makes a test fail. */
struct text {
    char s[TEXT_MAX];
    size_t n;
};

static inline void say(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static inline void say(struct text *t, const char *fmt, ...)
{
    va_list args;
    int n;

    va_start(args, fmt);
    n = vsnprintf(t->s + t->n, sizeof(t->s) - t->n, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof(t->s) - t->n)
        abort();
    t->n += (size_t)n;
}

/* Bytes, those that cannot be printed as escapes; many alike in short. */
static inline void say_bytes(struct text *t, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t same = 1;

        while (i + same < n && p[i + same] == p[i])
            same++;
        if (p[i] == '\r')
            say(t, "\\r");
        else if (p[i] == '\n')
            say(t, "\\n");
        else if (p[i] < 0x20 || p[i] > 0x7e)
            say(t, "\\x%02x", p[i]);
        else
            say(t, "%c", p[i]);
        if (same >= 20)
            say(t, "*%zu", same);
        i += same >= 20 ? same : 1;
    }
}

/* A name for a test: its bytes. Good until the next call. */
static inline const char *name_of(const char *p, size_t n)
{
    static struct text t;

    t.n = 0;
    t.s[0] = '\0';
    say_bytes(&t, (const uint8_t *)p, n);
    return t.s;
}

/* Memory for the test itself. */
static inline void *need(size_t n)
{
    void *p = __real_malloc(n);

    if (p == NULL)
        abort();
    return p;
}

/* A copy whose allocation ends where it ends. */
static inline uint8_t *copy_of(const void *p, size_t n)
{
    uint8_t *copy = need(n);

    memcpy(copy, p, n);
    return copy;
}

/* Whether the queue holds just these bytes. */
static inline bool holds(const struct spanq *q, const void *p, size_t n)
{
    uint8_t *bytes = need(q->bytes);
    bool same;

    spanq_peek_tail(q, bytes, q->bytes);
    same = q->bytes == n && memcmp(bytes, p, n) == 0;
    if (!same)
        printf("# there is: %s\n", name_of((const char *)bytes, q->bytes < 400 ? q->bytes : 400));
    free(bytes);
    return same;
}

static inline struct request *blank(enum opcode op, const char *key)
{
    static struct request r;

    memset(&r, 0, sizeof(r));
    r.op = (uint8_t)op;
    if (key != NULL)
        request_set_key(&r, (const uint8_t *)key, strlen(key));
    return &r;
}

#endif
