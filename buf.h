/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * buf - refcounted bytes, and queues of pieces of them.
 *
 *   spanq:  [span] -> [span] -> [span]          a queue of pieces, in order: a reply, a value, what is to be written
 *              |         |         |
 *           [chunk A] [chunk B   ] [chunk A]    a chunk lives until the last span on it is gone
 *
 * Bytes come from read(2) into a chunk and leave by writev(2) out of it; small pieces are copied to the end of a queue
 * (cheaper than an iovec), large ones are referenced and never move.
 *
 * All of it belongs to one worker thread: a bufpool, its chunks and spans are never touched by another, so no count
 * here is atomic. Freed chunks and spans go back to the pool, which keeps what was lately in use and gives the rest
 * back to malloc (bufpool_trim).
 */
#ifndef BUF_H
#define BUF_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

#include "util.h"

/* Data bytes of the chunks that the pool keeps, smallest class first. */
enum {
    CHUNK_SMALL = 2048,
    CHUNK_MEDIUM = 16 * 1024,
    CHUNK_LARGE = 256 * 1024,
    CHUNK_CLASSES = 3,
};

/* Up to so many bytes, copying costs less than one more iovec and a reference. */
enum { COPY_MAX = 1024 };

struct bufpool;

struct chunk {
    struct bufpool *pool;                 /* where it goes back to */
    struct chunk *next;                   /* link in the pool's free list */
    size_t size;                          /* bytes of data */
    size_t used;                          /* bytes of data that are filled: append happens here */
    uint32_t refs;                        /* spans on it, and other holders */
    uint8_t class;                        /* index of the free list; CHUNK_CLASSES and up: none, it is freed */
    _Alignas(max_align_t) uint8_t data[]; /* structs are kept in chunks too */
};

struct span {
    struct span *next;
    struct chunk *chunk; /* one reference held */
    uint8_t *p;
    size_t len;
};

struct spanq {
    struct span *head;
    struct span *tail;
    size_t bytes; /* in all its spans */
};

struct bufpool {
    struct chunk *free[CHUNK_CLASSES];
    size_t num_free[CHUNK_CLASSES];
    size_t low_free[CHUNK_CLASSES]; /* fewest free since the last trim: those were of no use */
    struct span *free_spans;
    size_t num_free_spans;
    size_t low_free_spans;
    size_t chunk_bytes; /* data bytes of chunks that are in use, for stats and tests */
};

void bufpool_setup(struct bufpool *pool);

/* Frees what the pool keeps. Every chunk and span must have come back. */
void bufpool_teardown(struct bufpool *pool);

/* Gives back to malloc what was not needed since the last call; for a timer of about a second. */
void bufpool_trim(struct bufpool *pool);

/* A chunk with room for at least n bytes and one reference, or NULL when memory ran out. */
struct chunk *chunk_alloc(struct bufpool *pool, size_t n) MUST_CHECK;

/*
 * A chunk without room of its own, with one reference, for spans on memory that somebody else has: when the last
 * reference goes, release(arg) is called. NULL when memory ran out.
 */
struct chunk *chunk_borrow(struct bufpool *pool, void (*release)(void *arg), void *arg) MUST_CHECK;

void chunk_free(struct chunk *chunk); /* for chunk_unref only */

static inline void chunk_ref(struct chunk *chunk)
{
    chunk->refs++;
}

static inline void chunk_unref(struct chunk *chunk)
{
    if (--chunk->refs == 0)
        chunk_free(chunk);
}

static inline size_t chunk_room(const struct chunk *chunk)
{
    return chunk->size - chunk->used;
}

static inline void spanq_init(struct spanq *q)
{
    q->head = NULL;
    q->tail = NULL;
    q->bytes = 0;
}

static inline bool spanq_empty(const struct spanq *q)
{
    return q->head == NULL;
}

/*
 * Room for at least `least` bytes behind the queue's last byte, to be filled by the caller and then claimed by
 * spanq_commit. NULL when memory ran out. *room, when not NULL, becomes what there is, `least` or more; `want` says how
 * much the caller would have use for.
 */
uint8_t *spanq_reserve(struct spanq *q, struct bufpool *pool, size_t least, size_t want, size_t *room) MUST_CHECK;

/* Room for n bytes right behind the queue's last byte, in one piece with it; NULL: there is none. Claimed likewise. */
uint8_t *spanq_extend(struct spanq *q, size_t n) MUST_CHECK;

/* Claims n bytes of what spanq_reserve or spanq_extend has just returned. */
void spanq_commit(struct spanq *q, size_t n);

/* Appends a copy of n bytes. False when memory ran out; the queue is then as it was. */
bool spanq_copy(struct spanq *q, struct bufpool *pool, const void *p, size_t n) MUST_CHECK;

/* Appends [p, p + n), which lies in chunk, by reference. False as above. */
bool spanq_refer(struct spanq *q, struct bufpool *pool, struct chunk *chunk, uint8_t *p, size_t n) MUST_CHECK;

/* Appends [p, p + n) of chunk by whichever of the two is cheaper. */
bool spanq_add(struct spanq *q, struct bufpool *pool, struct chunk *chunk, uint8_t *p, size_t n) MUST_CHECK;

/*
 * Copies the spans of up to `limit` bytes that keep a large chunk alive into chunks of their own size: for a queue that
 * will stay for a while. False when memory ran out; the queue is whole all the same.
 */
bool spanq_own(struct spanq *q, struct bufpool *pool, size_t limit) MUST_CHECK;

/* Appends references to all of from, which stays as it is. False as above: `to` may then have some of it. */
bool spanq_share(struct spanq *to, struct bufpool *pool, const struct spanq *from) MUST_CHECK;

/* Moves all of from to the end of to. */
void spanq_concat(struct spanq *to, struct spanq *from);

/* Drops the first n bytes (n is at most q->bytes). */
void spanq_drop(struct spanq *q, struct bufpool *pool, size_t n);

/* Drops what is behind the first n bytes. */
void spanq_truncate(struct spanq *q, struct bufpool *pool, size_t n);

void spanq_clear(struct spanq *q, struct bufpool *pool);

/* Fills up to max iovecs from the front of the queue; returns how many. */
int spanq_iov(const struct spanq *q, struct iovec *iov, int max);

/* Copies the last n bytes of the queue (n is at most q->bytes) to dst. */
void spanq_peek_tail(const struct spanq *q, void *dst, size_t n);

#endif
