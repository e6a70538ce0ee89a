/* SPDX-License-Identifier: BSD-3-Clause */
/* buf - refcounted bytes, and queues of pieces of them: see buf.h. */
#include "buf.h"

#include <assert.h>
#include <stdlib.h>

/*
 * What malloc is asked for is the class plus this. Chunks of a power of two would begin at the same offset of a page
 * each, and the few bytes at their start that most replies use would then fight for the same sets of the L1 cache.
 */
enum { CHUNK_STAGGER = 64 };

/* Not a class: chunks that lie in memory of others. */
enum { CHUNK_BORROWED = CHUNK_CLASSES + 1 };

static const size_t class_size[CHUNK_CLASSES] = {CHUNK_SMALL, CHUNK_MEDIUM, CHUNK_LARGE};

/* Free chunks of a class that are kept however much is freed at once. */
static const size_t class_keep[CHUNK_CLASSES] = {4096, 256, 128};

enum { SPANS_KEEP = 16384 };

void bufpool_setup(struct bufpool *pool)
{
    memset(pool, 0, sizeof(*pool));
}

static void free_chunks(struct bufpool *pool, int class, size_t n)
{
    while (n-- > 0) {
        struct chunk *chunk = pool->free[class];

        pool->free[class] = chunk->next;
        pool->num_free[class]--;
        free(chunk);
    }
}

static void free_spans(struct bufpool *pool, size_t n)
{
    while (n-- > 0) {
        struct span *span = pool->free_spans;

        pool->free_spans = span->next;
        pool->num_free_spans--;
        free(span);
    }
}

void bufpool_teardown(struct bufpool *pool)
{
    assert(pool->chunk_bytes == 0);
    for (int class = 0; class < CHUNK_CLASSES; class ++)
        free_chunks(pool, class, pool->num_free[class]);
    free_spans(pool, pool->num_free_spans);
}

void bufpool_trim(struct bufpool *pool)
{
    for (int class = 0; class < CHUNK_CLASSES; class ++) {
        free_chunks(pool, class, (pool->low_free[class] + 1) / 2);
        pool->low_free[class] = pool->num_free[class];
    }
    free_spans(pool, (pool->low_free_spans + 1) / 2);
    pool->low_free_spans = pool->num_free_spans;
}

struct chunk *chunk_alloc(struct bufpool *pool, size_t n)
{
    int class = n <= CHUNK_SMALL ? 0 : n <= CHUNK_MEDIUM ? 1 : n <= CHUNK_LARGE ? 2 : CHUNK_CLASSES;
    struct chunk *chunk;

    if (class < CHUNK_CLASSES && pool->free[class] != NULL) {
        chunk = pool->free[class];
        pool->free[class] = chunk->next;
        if (--pool->num_free[class] < pool->low_free[class])
            pool->low_free[class] = pool->num_free[class];
    } else {
        size_t size = class < CHUNK_CLASSES ? class_size[class] : n;

        chunk = malloc(sizeof(*chunk) + size + CHUNK_STAGGER);
        if (chunk == NULL)
            return NULL;
        chunk->pool = pool;
        chunk->size = size;
        chunk->class = (uint8_t) class;
    }
    chunk->used = 0;
    chunk->refs = 1;
    pool->chunk_bytes += chunk->size;
    return chunk;
}

/* In the data of a chunk that was made by chunk_borrow. */
struct lender {
    void (*release)(void *arg);
    void *arg;
};

struct chunk *chunk_borrow(struct bufpool *pool, void (*release)(void *arg), void *arg)
{
    struct chunk *chunk = malloc(sizeof(*chunk) + sizeof(struct lender));

    if (chunk == NULL)
        return NULL;
    chunk->pool = pool;
    chunk->size = 0;
    chunk->used = 0;
    chunk->refs = 1;
    chunk->class = CHUNK_BORROWED;
    *(struct lender *)chunk->data = (struct lender){release, arg};
    return chunk;
}

void chunk_free(struct chunk *chunk)
{
    struct bufpool *pool = chunk->pool;
    int class = chunk->class;

    if (class == CHUNK_BORROWED) {
        const struct lender *lender = (const struct lender *)chunk->data;

        lender->release(lender->arg);
    }
    assert(pool->chunk_bytes >= chunk->size);
    pool->chunk_bytes -= chunk->size;
    if (class >= CHUNK_CLASSES || pool->num_free[class] >= class_keep[class]) {
        free(chunk);
        return;
    }
    chunk->next = pool->free[class];
    pool->free[class] = chunk;
    pool->num_free[class]++;
}

static struct span *span_alloc(struct bufpool *pool)
{
    struct span *span = pool->free_spans;

    if (span == NULL)
        return malloc(sizeof(*span));
    pool->free_spans = span->next;
    if (--pool->num_free_spans < pool->low_free_spans)
        pool->low_free_spans = pool->num_free_spans;
    return span;
}

static void span_free(struct bufpool *pool, struct span *span)
{
    chunk_unref(span->chunk);
    if (pool->num_free_spans >= SPANS_KEEP) {
        free(span);
        return;
    }
    span->next = pool->free_spans;
    pool->free_spans = span;
    pool->num_free_spans++;
}

/* Links a new span at the end. Takes over one reference of chunk, but not on failure. */
static bool append_span(struct spanq *q, struct bufpool *pool, struct chunk *chunk, uint8_t *p, size_t n)
{
    struct span *span = span_alloc(pool);

    if (span == NULL)
        return false;
    span->next = NULL;
    span->chunk = chunk;
    span->p = p;
    span->len = n;
    if (q->tail != NULL)
        q->tail->next = span;
    else
        q->head = span;
    q->tail = span;
    q->bytes += n;
    return true;
}

/* Whether the bytes behind the queue's last one are free, and nobody else's. */
static bool tail_writable(const struct spanq *q)
{
    const struct span *tail = q->tail;

    return tail != NULL && tail->chunk->refs == 1 && tail->p + tail->len == tail->chunk->data + tail->chunk->used;
}

uint8_t *spanq_reserve(struct spanq *q, struct bufpool *pool, size_t least, size_t want, size_t *room)
{
    if (!tail_writable(q) || chunk_room(q->tail->chunk) < least) {
        size_t size = want < CHUNK_LARGE ? want : CHUNK_LARGE;
        struct chunk *chunk;

        /* A queue that has grown past a small chunk will grow on: fewer, larger pieces. */
        if (q->bytes >= CHUNK_SMALL && size < CHUNK_MEDIUM)
            size = CHUNK_MEDIUM;
        chunk = chunk_alloc(pool, size < least ? least : size);
        if (chunk == NULL)
            return NULL;
        if (!append_span(q, pool, chunk, chunk->data, 0)) {
            chunk_unref(chunk);
            return NULL;
        }
    }
    if (room != NULL)
        *room = chunk_room(q->tail->chunk);
    return q->tail->chunk->data + q->tail->chunk->used;
}

uint8_t *spanq_extend(struct spanq *q, size_t n)
{
    if (!tail_writable(q) || q->tail->len == 0 || chunk_room(q->tail->chunk) < n)
        return NULL;
    return q->tail->chunk->data + q->tail->chunk->used;
}

void spanq_commit(struct spanq *q, size_t n)
{
    assert(n <= chunk_room(q->tail->chunk));
    q->tail->chunk->used += n;
    q->tail->len += n;
    q->bytes += n;
}

bool spanq_copy(struct spanq *q, struct bufpool *pool, const void *p, size_t n)
{
    const uint8_t *from = p;
    size_t before = q->bytes;

    while (n > 0) {
        size_t room;
        uint8_t *to = spanq_reserve(q, pool, n < COPY_MAX ? n : COPY_MAX, n, &room);

        if (UNLIKELY(to == NULL)) {
            spanq_truncate(q, pool, before);
            return false;
        }
        if (room > n)
            room = n;
        memcpy(to, from, room);
        spanq_commit(q, room);
        from += room;
        n -= room;
    }
    return true;
}

bool spanq_refer(struct spanq *q, struct bufpool *pool, struct chunk *chunk, uint8_t *p, size_t n)
{
    struct span *tail = q->tail;

    if (tail != NULL && tail->chunk == chunk && tail->p + tail->len == p) {
        tail->len += n;
        q->bytes += n;
        return true;
    }
    if (!append_span(q, pool, chunk, p, n))
        return false;
    chunk_ref(chunk);
    return true;
}

bool spanq_add(struct spanq *q, struct bufpool *pool, struct chunk *chunk, uint8_t *p, size_t n)
{
    if (n <= COPY_MAX)
        return spanq_copy(q, pool, p, n);
    return spanq_refer(q, pool, chunk, p, n);
}

bool spanq_own(struct spanq *q, struct bufpool *pool, size_t limit)
{
    for (struct span *span = q->head; span != NULL; span = span->next) {
        struct chunk *chunk = span->chunk;

        if (span->len > limit || chunk->size <= CHUNK_MEDIUM)
            continue;
        chunk = chunk_alloc(pool, span->len);
        if (chunk == NULL)
            return false;
        memcpy(chunk->data, span->p, span->len);
        chunk->used = span->len;
        chunk_unref(span->chunk);
        span->chunk = chunk;
        span->p = chunk->data;
    }
    return true;
}

bool spanq_share(struct spanq *to, struct bufpool *pool, const struct spanq *from)
{
    for (const struct span *span = from->head; span != NULL; span = span->next)
        if (!spanq_add(to, pool, span->chunk, span->p, span->len))
            return false;
    return true;
}

void spanq_concat(struct spanq *to, struct spanq *from)
{
    if (from->head == NULL)
        return;
    if (to->tail != NULL)
        to->tail->next = from->head;
    else
        to->head = from->head;
    to->tail = from->tail;
    to->bytes += from->bytes;
    spanq_init(from);
}

void spanq_drop(struct spanq *q, struct bufpool *pool, size_t n)
{
    assert(n <= q->bytes);
    q->bytes -= n;
    while (q->head != NULL && n >= q->head->len) {
        struct span *span = q->head;

        n -= span->len;
        q->head = span->next;
        span_free(pool, span);
    }
    if (q->head == NULL) {
        q->tail = NULL;
    } else {
        q->head->p += n;
        q->head->len -= n;
    }
}

void spanq_truncate(struct spanq *q, struct bufpool *pool, size_t n)
{
    struct span *span = q->head;
    size_t left = n;

    if (n == 0) {
        spanq_clear(q, pool);
        return;
    }
    if (n >= q->bytes)
        return;
    while (left > span->len) {
        left -= span->len;
        span = span->next;
    }
    span->len = left;
    while (span->next != NULL) {
        struct span *gone = span->next;

        span->next = gone->next;
        span_free(pool, gone);
    }
    q->tail = span;
    q->bytes = n;
}

void spanq_clear(struct spanq *q, struct bufpool *pool)
{
    while (q->head != NULL) {
        struct span *span = q->head;

        q->head = span->next;
        span_free(pool, span);
    }
    spanq_init(q);
}

int spanq_iov(const struct spanq *q, struct iovec *iov, int max)
{
    int n = 0;

    for (const struct span *span = q->head; span != NULL && n < max; span = span->next) {
        if (span->len == 0)
            continue;
        iov[n].iov_base = span->p;
        iov[n].iov_len = span->len;
        n++;
    }
    return n;
}

void spanq_peek_tail(const struct spanq *q, void *dst, size_t n)
{
    size_t skip = q->bytes - n;
    uint8_t *to = dst;

    for (const struct span *span = q->head; span != NULL; span = span->next) {
        if (skip >= span->len) {
            skip -= span->len;
            continue;
        }
        memcpy(to, span->p + skip, span->len - skip);
        to += span->len - skip;
        skip = 0;
    }
}
