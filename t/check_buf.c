/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_buf - chunks, their pool, and queues of spans (buf.c): each function by itself, each when memory runs out at
 * its first, second, … allocation, and all of them in random order against plain arrays of bytes.
 *
 * Linked with --wrap=malloc.
 */
#include <stdio.h>
#include <stdlib.h>

#include "buf.h"
#include "tap.h"

enum {
    BYTES_MAX = 512 * 1024, /* of a queue, in tests of one function */
    SPANS_MAX = 512,
    QUEUES = 5, /* of the random test: */
    SOURCES = 4,
    STEPS = 60000,
    MODEL_MAX = 48 * 1024,
};

void *__wrap_malloc(size_t n);
void *__real_malloc(size_t n);

static size_t mallocs_left = SIZE_MAX; /* SIZE_MAX: any number */

void *__wrap_malloc(size_t n)
{
    if (mallocs_left == 0)
        return NULL;
    if (mallocs_left != SIZE_MAX)
        mallocs_left--;
    return __real_malloc(n);
}

/* --- helpers --- */

static uint64_t random_state = UINT64_C(0x9e3779b97f4a7c15);

/* 0 <= result < n; xorshift64*. */
static size_t random_below(size_t n)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (size_t)((random_state * UINT64_C(0x2545f4914f6cdd1d)) >> 16) % n;
}

static void fill(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)random_below(256);
}

static void *need(size_t n)
{
    void *p = __real_malloc(n);

    if (p == NULL)
        abort();
    return p;
}

static unsigned num_spans(const struct spanq *q)
{
    unsigned n = 0;

    for (const struct span *span = q->head; span != NULL; span = span->next)
        n++;
    return n;
}

/* Whether the queue's links, counts and references make sense. */
static bool is_sound(const struct spanq *q)
{
    const struct span *last = NULL;
    size_t bytes = 0;

    for (const struct span *span = q->head; span != NULL; span = span->next) {
        const struct chunk *chunk = span->chunk;

        if (chunk->refs == 0 || chunk->used > chunk->size || span->p < chunk->data ||
            span->p + span->len > chunk->data + chunk->used)
            return false;
        bytes += span->len;
        last = span;
    }
    return bytes == q->bytes && last == q->tail && (q->head == NULL) == (last == NULL);
}

/* Whether the queue is sound and holds just [p, p + n), by each of the ways to read it. */
static bool holds(const struct spanq *q, const uint8_t *p, size_t n)
{
    static uint8_t tail[BYTES_MAX];
    static struct iovec iov[SPANS_MAX];
    size_t pos = 0;
    int count = spanq_iov(q, iov, SPANS_MAX);

    if (!is_sound(q) || q->bytes != n)
        return false;
    for (int i = 0; i < count; i++) {
        if (iov[i].iov_len == 0 || iov[i].iov_len > n - pos || memcmp(iov[i].iov_base, p + pos, iov[i].iov_len) != 0)
            return false;
        pos += iov[i].iov_len;
    }
    if (pos != n)
        return false;
    spanq_peek_tail(q, tail, n);
    return n == 0 || memcmp(tail, p, n) == 0;
}

static bool holds_text(const struct spanq *q, const char *text)
{
    return holds(q, (const uint8_t *)text, strlen(text));
}

static void copy_text(struct spanq *q, struct bufpool *pool, const char *text)
{
    if (!spanq_copy(q, pool, text, strlen(text)))
        abort();
}

/* A chunk of n bytes of text, all used, with one reference. */
static struct chunk *source(struct bufpool *pool, size_t n)
{
    struct chunk *chunk = chunk_alloc(pool, n);

    if (chunk == NULL)
        abort();
    fill(chunk->data, n);
    chunk->used = n;
    return chunk;
}

/* A queue of the spans "abc", "defg" and "hi", each in a chunk of its own. */
static void set_three(struct spanq *q, struct bufpool *pool)
{
    static const char *const texts[] = {"abc", "defg", "hi"};

    spanq_init(q);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct spanq one;

        spanq_init(&one);
        copy_text(&one, pool, texts[i]);
        spanq_concat(q, &one);
    }
}

/* Ends a test: everything must have come back to the pool. */
static void end_pool(struct bufpool *pool, const char *what)
{
    if (check(pool->chunk_bytes == 0, "%s: every chunk has come back", what))
        bufpool_teardown(pool);
}

/* --- chunks and the pool --- */

static void check_chunk_sizes(void)
{
    static const size_t cases[][2] = {
        {0, CHUNK_SMALL},
        {1, CHUNK_SMALL},
        {CHUNK_SMALL, CHUNK_SMALL},
        {CHUNK_SMALL + 1, CHUNK_MEDIUM},
        {CHUNK_MEDIUM, CHUNK_MEDIUM},
        {CHUNK_MEDIUM + 1, CHUNK_LARGE},
        {CHUNK_LARGE, CHUNK_LARGE},
        {CHUNK_LARGE + 1, CHUNK_LARGE + 1},
        {1000000, 1000000},
    };
    struct bufpool pool;

    bufpool_setup(&pool);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct chunk *chunk = source(&pool, cases[i][0]);
        bool kept = chunk->size <= CHUNK_LARGE;

        check(chunk->size == cases[i][1] && chunk->refs == 1 && chunk->pool == &pool &&
                  pool.chunk_bytes == chunk->size && chunk_room(chunk) == cases[i][1] - cases[i][0],
              "a chunk for %zu bytes has %zu", cases[i][0], cases[i][1]);
        memset(chunk->data, 0, chunk->size);
        chunk_ref(chunk);
        chunk_unref(chunk);
        check(pool.chunk_bytes == cases[i][1], "it stays while there is a reference");
        chunk_unref(chunk);
        check(pool.chunk_bytes == 0 && (!kept || pool.free[chunk->class] == chunk), "without one it goes%s",
              kept ? ", to be used again" : "");
    }
    end_pool(&pool, "chunks");
}

static void check_chunk_reuse(void)
{
    struct bufpool pool;
    struct chunk *first, *second;

    bufpool_setup(&pool);
    first = source(&pool, 100);
    chunk_unref(first);
    mallocs_left = 0;
    second = chunk_alloc(&pool, 200);
    check(second == first && second->used == 0 && second->refs == 1, "a free chunk is used again, empty");
    check(chunk_alloc(&pool, 200) == NULL && chunk_alloc(&pool, CHUNK_LARGE + 1) == NULL,
          "without memory there is none");
    mallocs_left = SIZE_MAX;
    check(pool.chunk_bytes == CHUNK_SMALL, "and nothing is counted for it");
    chunk_unref(second);
    end_pool(&pool, "reuse");
}

/* Has n chunks for `size` bytes in use at once. */
static void use_chunks(struct bufpool *pool, size_t n, size_t size)
{
    struct chunk **chunks = need(n * sizeof(struct chunk *));

    for (size_t i = 0; i < n; i++) {
        chunks[i] = chunk_alloc(pool, size);
        if (chunks[i] == NULL)
            abort();
    }
    for (size_t i = 0; i < n; i++)
        chunk_unref(chunks[i]);
    free(chunks);
}

/* Has n spans in use at once. */
static void use_spans(struct bufpool *pool, size_t n)
{
    struct chunk *chunk = source(pool, 2 * n);
    struct spanq q;

    spanq_init(&q);
    for (size_t i = 0; i < n; i++)
        if (!spanq_refer(&q, pool, chunk, chunk->data + 2 * i, 1))
            abort();
    spanq_clear(&q, pool);
    chunk_unref(chunk);
}

static void check_trim(void)
{
    struct bufpool pool;
    unsigned turns = 0;

    bufpool_setup(&pool);
    bufpool_trim(&pool);
    use_chunks(&pool, 100, CHUNK_SMALL);
    use_spans(&pool, 64);
    check(pool.num_free[0] == 100 && pool.num_free_spans == 64, "what is freed is kept");
    bufpool_trim(&pool);
    check(pool.num_free[0] == 100, "and still is after a second in which it was of use");
    use_chunks(&pool, 100, CHUNK_SMALL);
    bufpool_trim(&pool);
    check(pool.num_free[0] == 100, "as long as it is");
    use_chunks(&pool, 40, CHUNK_SMALL);
    bufpool_trim(&pool);
    check(pool.num_free[0] >= 40 && pool.num_free[0] < 100, "what was not needed begins to go (%zu are left)",
          pool.num_free[0]);
    while ((pool.num_free[0] > 0 || pool.num_free[1] > 0 || pool.num_free_spans > 0) && turns < 20) {
        bufpool_trim(&pool);
        turns++;
    }
    check(pool.num_free[0] == 0 && pool.num_free[1] == 0 && pool.num_free_spans == 0,
          "an idle pool gives back everything (%u turns)", turns);
    end_pool(&pool, "trim");
}

static void check_keep(void)
{
    struct bufpool pool;

    bufpool_setup(&pool);
    use_chunks(&pool, 1000, CHUNK_LARGE);
    check(pool.num_free[2] > 0 && pool.num_free[2] < 1000, "of many large chunks only some are kept (%zu)",
          pool.num_free[2]);
    end_pool(&pool, "keep");
}

/* --- queues --- */

static void check_reserve(void)
{
    struct bufpool pool;
    struct spanq q;
    size_t room = 0;
    uint8_t *p, *again;

    bufpool_setup(&pool);
    spanq_init(&q);
    p = spanq_reserve(&q, &pool, 10, 20, &room);
    check(p != NULL && room >= 20 && holds(&q, p, 0), "what is reserved is not there yet (room for %zu)", room);
    again = spanq_reserve(&q, &pool, 10, 20, NULL);
    check(again == p, "what was not claimed is reserved again");
    memcpy(p, "0123456789", 10);
    spanq_commit(&q, 10);
    check(holds_text(&q, "0123456789"), "what is claimed is");
    p = spanq_reserve(&q, &pool, 2, 2, &room);
    check(p == again + 10 && room == CHUNK_SMALL - 10 && num_spans(&q) == 1, "the next comes right behind it");
    memcpy(p, "ab", 2);
    spanq_commit(&q, 2);
    spanq_commit(&q, 0);
    check(holds_text(&q, "0123456789ab") && num_spans(&q) == 1, "in the same span");

    p = spanq_reserve(&q, &pool, CHUNK_SMALL - 12, 1, &room);
    check(p == again + 12 && room == CHUNK_SMALL - 12, "all of a chunk is used");
    p = spanq_reserve(&q, &pool, CHUNK_SMALL - 11, 1, &room);
    check(p != again + 12 && room >= CHUNK_SMALL - 11, "and what does not fit comes into another");
    spanq_clear(&q, &pool);
    p = spanq_reserve(&q, &pool, CHUNK_LARGE + 5, 1, &room);
    check(p != NULL && room == CHUNK_LARGE + 5, "least may be more than any class");
    spanq_clear(&q, &pool);
    p = spanq_reserve(&q, &pool, 1, 10 * CHUNK_LARGE, &room);
    check(p != NULL && room == CHUNK_LARGE, "want is not granted without end");
    spanq_clear(&q, &pool);
    end_pool(&pool, "reserve");
}

/* Bytes that someone else can see are never written over. */
static void check_reserve_shared(void)
{
    struct bufpool pool;
    struct chunk *chunk;
    struct spanq q;
    uint8_t *p;

    bufpool_setup(&pool);
    spanq_init(&q);
    chunk = source(&pool, 100);
    check(spanq_refer(&q, &pool, chunk, chunk->data, 100), "a reference");
    p = spanq_reserve(&q, &pool, 1, 1, NULL);
    check(p != chunk->data + 100, "nothing is written to a chunk that others hold");
    spanq_truncate(&q, &pool, 60);
    chunk_unref(chunk);
    p = spanq_reserve(&q, &pool, 1, 1, NULL);
    check(p != chunk->data + 60 && p != chunk->data + 100, "nor in the middle of one");
    spanq_clear(&q, &pool);

    chunk = source(&pool, 100);
    check(spanq_refer(&q, &pool, chunk, chunk->data + 50, 50), "a reference");
    chunk_unref(chunk);
    p = spanq_reserve(&q, &pool, 1, 1, NULL);
    check(p == chunk->data + 100, "but to the end of one that nobody else has");
    spanq_clear(&q, &pool);
    end_pool(&pool, "reserve in shared chunks");
}

static void check_extend(void)
{
    struct bufpool pool;
    struct chunk *chunk;
    struct spanq q;
    uint8_t *p, *more;

    bufpool_setup(&pool);
    spanq_init(&q);
    check(spanq_extend(&q, 0) == NULL, "an empty queue cannot be extended");
    p = spanq_reserve(&q, &pool, 10, 10, NULL);
    check(spanq_extend(&q, 1) == NULL, "nor can a span that has nothing yet");
    memcpy(p, "0123456789", 10);
    spanq_commit(&q, 10);
    more = spanq_extend(&q, CHUNK_SMALL - 10);
    check(more == p + 10, "room is right behind the last byte");
    check(spanq_extend(&q, CHUNK_SMALL - 9) == NULL, "and ends with the chunk");
    memcpy(more, "ab", 2);
    spanq_commit(&q, 2);
    check(holds_text(&q, "0123456789ab") && num_spans(&q) == 1, "what is claimed belongs to the same span");
    chunk = q.head->chunk;
    chunk_ref(chunk);
    check(spanq_extend(&q, 1) == NULL, "what others hold is not written behind");
    chunk_unref(chunk);
    spanq_clear(&q, &pool);
    end_pool(&pool, "extend");
}

static void check_copy(void)
{
    static const size_t sizes[] = {0,    1,     COPY_MAX,    CHUNK_SMALL - 1, CHUNK_SMALL, CHUNK_SMALL + 1,
                                   5000, 20000, CHUNK_LARGE, CHUNK_LARGE + 1, 400000};
    uint8_t *bytes = need(BYTES_MAX);
    struct bufpool pool;
    struct spanq q;
    size_t n = 0;

    bufpool_setup(&pool);
    spanq_init(&q);
    fill(bytes, BYTES_MAX);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        check(spanq_copy(&q, &pool, bytes, sizes[i]) && holds(&q, bytes, sizes[i]), "%zu bytes are copied", sizes[i]);
        check((sizes[i] == 0) == (q.head == NULL), "and nothing is put there for none");
        spanq_clear(&q, &pool);
    }
    /* Pieces of odd sizes, so that the ends of chunks fall into the middle of them. */
    for (size_t piece = 1; n + piece <= BYTES_MAX; n += piece, piece = 1 + (piece + 37) % 1500)
        if (!spanq_copy(&q, &pool, bytes + n, piece))
            abort();
    check(holds(&q, bytes, n), "%zu bytes in small pieces across the borders of chunks", n);
    check(num_spans(&q) <= 2 + n / (CHUNK_MEDIUM - COPY_MAX), "are few spans (%u)", num_spans(&q));
    spanq_clear(&q, &pool);
    free(bytes);
    end_pool(&pool, "copy");
}

static void check_refer(void)
{
    struct bufpool pool;
    struct chunk *chunk, *other;
    struct spanq q;

    bufpool_setup(&pool);
    spanq_init(&q);
    chunk = source(&pool, 100);
    other = source(&pool, 100);
    check(spanq_refer(&q, &pool, chunk, chunk->data, 10) && chunk->refs == 2, "a span holds a reference");
    check(spanq_refer(&q, &pool, chunk, chunk->data + 10, 20) && num_spans(&q) == 1 && chunk->refs == 2,
          "neighbours become one span");
    check(holds(&q, chunk->data, 30), "with the bytes of both");
    check(spanq_refer(&q, &pool, chunk, chunk->data + 31, 5) && num_spans(&q) == 2 && chunk->refs == 3,
          "bytes further on do not");
    check(spanq_refer(&q, &pool, chunk, chunk->data + 31, 5) && num_spans(&q) == 3, "nor the same again");
    check(spanq_refer(&q, &pool, other, other->data, 5) && num_spans(&q) == 4 && other->refs == 2,
          "nor another chunk's");
    check(is_sound(&q) && q.bytes == 45, "all is counted");
    spanq_clear(&q, &pool);
    check(chunk->refs == 1 && other->refs == 1, "the references are given back");
    chunk_unref(chunk);
    chunk_unref(other);
    end_pool(&pool, "refer");
}

static void check_add(void)
{
    struct bufpool pool;
    struct chunk *chunk;
    struct spanq q;

    bufpool_setup(&pool);
    spanq_init(&q);
    chunk = source(&pool, 5000);
    check(spanq_add(&q, &pool, chunk, chunk->data, COPY_MAX) && chunk->refs == 1 && holds(&q, chunk->data, COPY_MAX),
          "little is copied");
    check(spanq_add(&q, &pool, chunk, chunk->data + COPY_MAX, COPY_MAX + 1) && chunk->refs == 2 &&
              holds(&q, chunk->data, 2 * COPY_MAX + 1),
          "much is referenced");
    spanq_clear(&q, &pool);
    chunk_unref(chunk);
    end_pool(&pool, "add");
}

static void check_own(void)
{
    struct bufpool pool;
    struct chunk *large, *medium;
    struct spanq q;
    uint8_t bytes[3500];

    bufpool_setup(&pool);
    spanq_init(&q);
    large = source(&pool, CHUNK_LARGE);
    medium = source(&pool, CHUNK_MEDIUM);
    memcpy(bytes, large->data, 1000);
    memcpy(bytes + 1000, medium->data, 500);
    memcpy(bytes + 1500, large->data + 2000, 2000);
    check(spanq_refer(&q, &pool, large, large->data, 1000) && spanq_refer(&q, &pool, medium, medium->data, 500) &&
              spanq_refer(&q, &pool, large, large->data + 2000, 2000),
          "spans on large and smaller chunks");
    check(spanq_own(&q, &pool, 1000), "small ones are taken off the large chunks");
    check(large->refs == 2 && medium->refs == 2 && q.tail->chunk == large, "and only these");
    check(spanq_own(&q, &pool, 2000) && large->refs == 1, "with a higher limit the others too");
    check(holds(&q, bytes, sizeof(bytes)), "the bytes are the same");
    chunk_unref(large);
    check(pool.chunk_bytes == CHUNK_MEDIUM + 2 * CHUNK_SMALL, "and keep no large chunk");
    copy_text(&q, &pool, "x");
    check(num_spans(&q) == 3 && q.bytes == sizeof(bytes) + 1, "what was copied can be written behind");
    spanq_clear(&q, &pool);
    check(spanq_own(&q, &pool, 1000), "an empty queue owns what it has");
    chunk_unref(medium);
    end_pool(&pool, "own");
}

static void check_share(void)
{
    struct bufpool pool;
    struct chunk *chunk;
    struct spanq from, to;
    uint8_t bytes[4003];

    bufpool_setup(&pool);
    spanq_init(&from);
    spanq_init(&to);
    chunk = source(&pool, 4000);
    memcpy(bytes, "abc", 3);
    memcpy(bytes + 3, chunk->data, 4000);
    check(spanq_share(&to, &pool, &from) && to.head == NULL, "of nothing, nothing is shared");
    copy_text(&from, &pool, "abc");
    check(spanq_refer(&from, &pool, chunk, chunk->data, 4000) && spanq_share(&to, &pool, &from), "a queue is shared");
    check(holds(&from, bytes, 4003) && holds(&to, bytes, 4003) && chunk->refs == 3, "both have it, once in memory");
    copy_text(&to, &pool, "more");
    check(holds(&from, bytes, 4003) && to.bytes == 4007, "what one is given the other has not");
    spanq_clear(&from, &pool);
    chunk_unref(chunk);
    spanq_truncate(&to, &pool, 4003);
    check(holds(&to, bytes, 4003), "each lives by itself");
    spanq_clear(&to, &pool);
    end_pool(&pool, "share");
}

static void check_concat(void)
{
    struct bufpool pool;
    struct spanq to, from;

    bufpool_setup(&pool);
    spanq_init(&to);
    spanq_init(&from);
    spanq_concat(&to, &from);
    check(holds_text(&to, "") && holds_text(&from, ""), "nothing to nothing");
    copy_text(&from, &pool, "ab");
    spanq_concat(&to, &from);
    check(holds_text(&to, "ab") && holds_text(&from, ""), "something to nothing");
    spanq_concat(&to, &from);
    check(holds_text(&to, "ab"), "nothing to something");
    copy_text(&from, &pool, "cd");
    spanq_concat(&to, &from);
    check(holds_text(&to, "abcd") && holds_text(&from, "") && num_spans(&to) == 2, "something to something");
    copy_text(&to, &pool, "ef");
    copy_text(&from, &pool, "gh");
    check(holds_text(&to, "abcdef") && holds_text(&from, "gh"), "both go on");
    spanq_clear(&to, &pool);
    spanq_clear(&from, &pool);
    end_pool(&pool, "concat");
}

/* Each number of bytes dropped from and left of a queue of three spans. */
static void check_ends(void)
{
    static const char text[] = "abcdefghi";
    struct bufpool pool;
    struct spanq q;
    char left[sizeof(text)];

    bufpool_setup(&pool);
    for (size_t n = 0; n < sizeof(text); n++) {
        set_three(&q, &pool);
        spanq_drop(&q, &pool, n);
        check(holds_text(&q, text + n), "the first %zu are dropped", n);
        copy_text(&q, &pool, "+");
        check(q.bytes == sizeof(text) - n && is_sound(&q), "and the queue goes on");
        spanq_clear(&q, &pool);

        set_three(&q, &pool);
        spanq_truncate(&q, &pool, n);
        memcpy(left, text, n);
        left[n] = '\0';
        check(holds_text(&q, left), "the first %zu are left", n);
        copy_text(&q, &pool, "+");
        check(q.bytes == n + 1 && is_sound(&q), "and the queue goes on");
        spanq_clear(&q, &pool);

        set_three(&q, &pool);
        memset(left, '~', sizeof(left));
        spanq_peek_tail(&q, left, n);
        check(memcmp(left, text + sizeof(text) - 1 - n, n) == 0 && (n == sizeof(left) || left[n] == '~'),
              "the last %zu are seen", n);
        spanq_clear(&q, &pool);
    }
    set_three(&q, &pool);
    spanq_truncate(&q, &pool, 1000);
    check(holds_text(&q, text), "to truncate to more than there is changes nothing");
    spanq_clear(&q, &pool);
    end_pool(&pool, "ends");
}

/* Reserved and not claimed: a span without bytes, at the front, in the middle and at the end. */
static void check_empty_spans(void)
{
    struct bufpool pool;
    struct spanq q, more;
    struct iovec iov[8];

    bufpool_setup(&pool);
    spanq_init(&q);
    spanq_init(&more);
    for (int i = 0; i < 3; i++) {
        if (spanq_reserve(&q, &pool, CHUNK_SMALL, 1, NULL) == NULL)
            abort();
        copy_text(&more, &pool, i == 0 ? "ab" : "cd");
        if (i < 2)
            spanq_concat(&q, &more);
    }
    check(num_spans(&q) == 5 && spanq_iov(&q, iov, 8) == 2, "spans without bytes are not written");
    check(holds_text(&q, "abcd"), "nor seen");
    spanq_drop(&q, &pool, 2);
    check(holds_text(&q, "cd"), "nor dropped in place of others");
    spanq_truncate(&q, &pool, 1);
    check(holds_text(&q, "c"), "nor left in place of others");
    spanq_drop(&q, &pool, 1);
    check(q.head == NULL, "and go with the last byte");
    spanq_clear(&more, &pool);
    end_pool(&pool, "spans without bytes");
}

static void check_iov(void)
{
    struct bufpool pool;
    struct spanq q;
    struct iovec iov[4];

    bufpool_setup(&pool);
    set_three(&q, &pool);
    check(spanq_iov(&q, iov, 0) == 0, "no iovec, nothing");
    check(spanq_iov(&q, iov, 2) == 2 && iov[0].iov_len == 3 && memcmp(iov[0].iov_base, "abc", 3) == 0 &&
              iov[1].iov_len == 4 && memcmp(iov[1].iov_base, "defg", 4) == 0,
          "as many as there is room for");
    check(spanq_iov(&q, iov, 4) == 3 && iov[2].iov_len == 2, "or as there are");
    spanq_clear(&q, &pool);
    end_pool(&pool, "iov");
}

/* --- without memory --- */

/* What is tried on a queue that has "before" in it; chunk is a large one. */
struct attempt {
    const char *name;
    bool (*run)(struct spanq *q, struct bufpool *pool, struct chunk *chunk);
    enum { SAME, GROWN, REPLACED } failed; /* what a failure leaves: as it was; some of what was added; its bytes */
};

static uint8_t large_bytes[100000];

static bool try_reserve(struct spanq *q, struct bufpool *pool, struct chunk *chunk)
{
    (void)chunk;
    return spanq_reserve(q, pool, CHUNK_SMALL, CHUNK_LARGE, NULL) != NULL;
}

static bool try_copy_little(struct spanq *q, struct bufpool *pool, struct chunk *chunk)
{
    (void)chunk;
    return spanq_copy(q, pool, large_bytes, CHUNK_SMALL);
}

static bool try_copy_much(struct spanq *q, struct bufpool *pool, struct chunk *chunk)
{
    for (size_t n = 0; n < sizeof(large_bytes); n += 1000)
        if (!spanq_copy(q, pool, large_bytes + n, 1000))
            return false;
    return spanq_copy(q, pool, chunk->data, CHUNK_LARGE);
}

static bool try_refer(struct spanq *q, struct bufpool *pool, struct chunk *chunk)
{
    return spanq_refer(q, pool, chunk, chunk->data, 10);
}

static bool try_add(struct spanq *q, struct bufpool *pool, struct chunk *chunk)
{
    return spanq_add(q, pool, chunk, chunk->data, COPY_MAX + 1);
}

static bool try_add_little(struct spanq *q, struct bufpool *pool, struct chunk *chunk)
{
    chunk_ref(q->tail->chunk); /* so that there is no room behind it */
    bool ok = spanq_add(q, pool, chunk, chunk->data, COPY_MAX);
    chunk_unref(q->head->chunk);
    return ok;
}

/* A queue that takes several allocations to share or to own. */
static bool set_mixed(struct spanq *q, struct bufpool *pool, struct chunk *chunk)
{
    spanq_init(q);
    for (size_t i = 0; i < 4; i++)
        if (!spanq_refer(q, pool, chunk, chunk->data + i * 10000, i % 2 == 0 ? 900 : 5000))
            return false;
    return true;
}

static bool try_share(struct spanq *q, struct bufpool *pool, struct chunk *chunk)
{
    struct spanq from;
    bool ok = set_mixed(&from, pool, chunk) && spanq_share(q, pool, &from);

    spanq_clear(&from, pool);
    return ok;
}

static bool try_own(struct spanq *q, struct bufpool *pool, struct chunk *chunk)
{
    struct spanq mixed;
    bool ok = set_mixed(&mixed, pool, chunk);

    spanq_concat(q, &mixed);
    return ok && spanq_own(q, pool, 5000);
}

static const struct attempt attempts[] = {
    {"reserve", try_reserve, SAME},
    {"copy of little", try_copy_little, SAME},
    {"copies of much", try_copy_much, GROWN},
    {"refer", try_refer, SAME},
    {"add of much", try_add, SAME},
    {"add of little", try_add_little, SAME},
    {"share", try_share, GROWN},
    {"own", try_own, GROWN},
};

/* Runs an attempt with memory for n allocations. Returns whether it succeeded. */
static bool run_attempt(const struct attempt *a, size_t n)
{
    struct bufpool pool;
    struct chunk *chunk;
    struct spanq q;
    uint8_t before[6];
    bool ok, whole;

    bufpool_setup(&pool);
    chunk = source(&pool, CHUNK_LARGE);
    spanq_init(&q);
    copy_text(&q, &pool, "before");
    mallocs_left = n;
    ok = a->run(&q, &pool, chunk);
    mallocs_left = SIZE_MAX;
    if (!ok && a->failed == SAME)
        check(holds_text(&q, "before"), "%s without allocation %zu leaves the queue as it was", a->name, n + 1);
    spanq_truncate(&q, &pool, q.bytes); /* nothing goes */
    whole = is_sound(&q) && q.bytes >= sizeof(before);
    spanq_truncate(&q, &pool, sizeof(before));
    spanq_peek_tail(&q, before, sizeof(before));
    check(whole && memcmp(before, "before", sizeof(before)) == 0, "%s with %zu allocations: the queue is whole",
          a->name, n);
    copy_text(&q, &pool, "after");
    check(holds_text(&q, "beforeafter"), "%s: and goes on", a->name);
    spanq_clear(&q, &pool);
    check(chunk->refs == 1, "%s: no reference is lost", a->name);
    chunk_unref(chunk);
    end_pool(&pool, a->name);
    return ok;
}

static void check_no_memory(void)
{
    fill(large_bytes, sizeof(large_bytes));
    for (size_t i = 0; i < ARRAY_LEN(attempts); i++) {
        size_t n = 0;

        while (!run_attempt(&attempts[i], n) && n < 1000)
            n++;
        check(n > 0 && n < 1000, "%s takes %zu allocations", attempts[i].name, n);
    }
}

/* A queue of many bytes without memory to own or to share: the bytes are the same all the same. */
static void check_no_memory_bytes(void)
{
    struct bufpool pool;
    struct chunk *chunk;
    struct spanq q, to;
    uint8_t *bytes = need(20000);
    size_t failed = 0;

    for (size_t n = 0; n < 10; n++) {
        bool owned, shared;

        bufpool_setup(&pool);
        chunk = source(&pool, CHUNK_LARGE);
        if (!set_mixed(&q, &pool, chunk))
            abort();
        spanq_init(&to);
        spanq_peek_tail(&q, bytes, q.bytes);
        mallocs_left = n;
        shared = spanq_share(&to, &pool, &q);
        mallocs_left = n;
        owned = spanq_own(&q, &pool, 5000);
        mallocs_left = SIZE_MAX;
        failed += !owned + !shared;
        check(holds(&q, bytes, 2 * 900 + 2 * 5000), "own %s at allocation %zu: the bytes are the same",
              owned ? "succeeds" : "fails", n + 1);
        check(shared ? holds(&to, bytes, q.bytes) : to.bytes < q.bytes && holds(&to, bytes, to.bytes),
              "share %s: there are %s of them", shared ? "succeeds" : "fails", shared ? "all" : "the first");
        spanq_clear(&q, &pool);
        spanq_clear(&to, &pool);
        chunk_unref(chunk);
        end_pool(&pool, "no memory");
    }
    check(failed >= 4, "both have failed (%zu)", failed);
    free(bytes);
}

/* --- random operations against plain arrays --- */

struct model {
    struct spanq q;
    uint8_t *bytes;
    size_t n;
};

static struct bufpool model_pool;
static struct model models[QUEUES];
static struct chunk *sources[SOURCES];
static size_t model_failures;

/* Mostly small, at times large. */
static size_t some_size(void)
{
    static const size_t limits[] = {4, 40, 400, 1200, 5000, 20000};

    return random_below(limits[random_below(ARRAY_LEN(limits))]);
}

static void model_append(struct model *m, const uint8_t *p, size_t n)
{
    memcpy(m->bytes + m->n, p, n);
    m->n += n;
}

static void model_drop(struct model *m, size_t n)
{
    spanq_drop(&m->q, &model_pool, n);
    m->n -= n;
    memmove(m->bytes, m->bytes + n, m->n);
}

/* Another source in the place of one: only queues hold the old one now. */
static void renew_source(size_t i)
{
    static const size_t sizes[] = {100, 2000, 9000, 20000, 200000};
    size_t n = sizes[random_below(ARRAY_LEN(sizes))];

    chunk_unref(sources[i]);
    sources[i] = source(&model_pool, n);
}

static void step_copy(struct model *m)
{
    uint8_t bytes[20000];
    size_t n = some_size();

    fill(bytes, n);
    if (spanq_copy(&m->q, &model_pool, bytes, n))
        model_append(m, bytes, n);
    else
        model_failures++;
}

static void step_reserve(struct model *m)
{
    size_t least = some_size(), room, n;
    uint8_t *p = spanq_reserve(&m->q, &model_pool, least, least + some_size(), &room);

    if (p == NULL) {
        model_failures++;
        return;
    }
    if (room < least)
        abort();
    n = random_below((room < 20000 ? room : 20000) + 1);
    fill(p, n);
    spanq_commit(&m->q, n);
    model_append(m, p, n);
}

static void step_refer(struct model *m)
{
    struct chunk *chunk = sources[random_below(SOURCES)];
    size_t n = some_size(), at;
    uint8_t *p;
    bool ok;

    n = n < chunk->used ? n : chunk->used;
    at = random_below(chunk->used - n + 1);
    p = chunk->data + at;
    /* Now and then the neighbour of the last span. */
    if (m->q.tail != NULL && m->q.tail->chunk == chunk && random_below(2) == 0) {
        p = m->q.tail->p + m->q.tail->len;
        at = (size_t)(p - chunk->data);
        n = n < chunk->used - at ? n : chunk->used - at;
    }
    ok = random_below(2) == 0 ? spanq_refer(&m->q, &model_pool, chunk, p, n)
                              : spanq_add(&m->q, &model_pool, chunk, p, n);
    if (ok)
        model_append(m, p, n);
    else
        model_failures++;
}

static void step_share(struct model *m, struct model *from)
{
    size_t took;

    if (m == from || m->n + from->n > MODEL_MAX)
        return;
    if (!spanq_share(&m->q, &model_pool, &from->q))
        model_failures++;
    took = m->q.bytes - m->n;
    model_append(m, from->bytes, took < from->n ? took : from->n);
}

static void step_concat(struct model *m, struct model *from)
{
    if (m == from || m->n + from->n > MODEL_MAX)
        return;
    spanq_concat(&m->q, &from->q);
    model_append(m, from->bytes, from->n);
    from->n = 0;
}

static void step_cut(struct model *m)
{
    size_t n = random_below(m->n + 1);

    if (random_below(2) == 0) {
        model_drop(m, n);
    } else {
        spanq_truncate(&m->q, &model_pool, n);
        m->n = n;
    }
}

static void step(void)
{
    struct model *m = &models[random_below(QUEUES)], *other = &models[random_below(QUEUES)];

    if (m->n > MODEL_MAX)
        model_drop(m, m->n - random_below(1000));
    mallocs_left = random_below(6) == 0 ? random_below(3) : SIZE_MAX;
    switch (random_below(12)) {
    case 0:
    case 1:
    case 2:
        step_copy(m);
        break;
    case 3:
    case 4:
        step_reserve(m);
        break;
    case 5:
    case 6:
        step_refer(m);
        break;
    case 7:
        step_share(m, other);
        break;
    case 8:
        step_concat(m, other);
        break;
    case 9:
        model_failures += !spanq_own(&m->q, &model_pool, some_size());
        break;
    case 10:
        step_cut(m);
        break;
    default:
        mallocs_left = SIZE_MAX;
        bufpool_trim(&model_pool);
        renew_source(random_below(SOURCES));
    }
    mallocs_left = SIZE_MAX;
}

static void check_random(void)
{
    unsigned bad = 0;

    bufpool_setup(&model_pool);
    for (size_t i = 0; i < QUEUES; i++) {
        models[i].bytes = need(2 * MODEL_MAX);
        spanq_init(&models[i].q);
    }
    for (size_t i = 0; i < SOURCES; i++)
        sources[i] = source(&model_pool, 10000);
    for (unsigned i = 0; i < STEPS && bad == 0; i++) {
        step();
        for (size_t j = 0; j < QUEUES; j++)
            bad += !holds(&models[j].q, models[j].bytes, models[j].n);
        if (bad > 0)
            printf("# step %u\n", i);
    }
    check(bad == 0, "%d random steps: the queues are what the arrays are", STEPS);
    check(model_failures > STEPS / 500, "and memory has run out in %zu of them", model_failures);
    for (size_t i = 0; i < QUEUES; i++) {
        spanq_clear(&models[i].q, &model_pool);
        free(models[i].bytes);
    }
    for (size_t i = 0; i < SOURCES; i++) {
        bad += sources[i]->refs != 1;
        chunk_unref(sources[i]);
    }
    check(bad == 0, "no reference is lost, and none is left");
    end_pool(&model_pool, "random steps");
}

int main(void)
{
    check_chunk_sizes();
    check_chunk_reuse();
    check_trim();
    check_keep();
    check_reserve();
    check_reserve_shared();
    check_extend();
    check_copy();
    check_refer();
    check_add();
    check_own();
    check_share();
    check_concat();
    check_ends();
    check_empty_spans();
    check_iov();
    check_no_memory();
    check_no_memory_bytes();
    check_random();
    return tap_end();
}
