/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_local_walk - replies for which all items of the cache have to be looked at: see cproxy_local_int.h.
 *
 * A walk goes on in steps of a thousand items, and waits until it is its client's turn to be told and while that is
 * owed much. All walks of a worker together make one step at each tick of a timer, in turn, so neither other clients
 * nor memory suffer from a cache of many millions of items or from many who ask.
 */
#include <assert.h>
#include <event2/event.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base64.h"
#include "cproxy_local_int.h"

enum {
    STEP_ITEMS = 1000,
    STEP_US = 500,                         /* between the steps */
    WAIT_US = 10000,                       /* when no walk can go on */
    TURN_WALKS = 1024,                     /* looked at, for one that can go on */
    UNWRITTEN_MAX = 256 * 1024,            /* what a client may be owed for its walk to go on */
    CACHEDUMP_BYTES_MAX = 2 * 1024 * 1024, /* of a reply to stats cachedump, as in memcached */
    SIZE_STEP = 32,                        /* stats sizes: bytes of a row, as in memcached */
    PAGE_ROWS = 1024,
    ESCAPED_MAX = 3 * KEY_MAX,
    LINE_BYTES = ESCAPED_MAX + 200,
    MG_BYTES = (KEY_MAX + 2) / 3 * 4 + 7, /* a key in base64, between "mg " and " b\r\n" */
};

enum kind { METADUMP, MGDUMP, CACHEDUMP, SIZES };

struct walk {
    struct walk *next;
    struct request *request; /* stands in the walk's queue, as in a connection's */
    enum kind kind;
    struct cache_cursor cursor;
    uint64_t classes; /* bit c: items of class c are told; not SIZES */
    uint64_t left;    /* items that may still be told; CACHEDUMP */
    size_t bytes;     /* told so far; CACHEDUMP */
    uint32_t now;     /* items that are dead at that time are passed over */
    struct cache *cache;
    /* SIZES: of the items that take up to (i + 1) * SIZE_STEP bytes, how many; a page that would be all 0 is NULL. */
    uint64_t **pages;
    uint32_t num_pages;
    bool lacks_memory;
};

/* --- what is told of an item --- */

static void tell_meta(struct walk *walk, struct cache_item *item)
{
    struct request *r = walk->request;
    char line[LINE_BYTES], key[ESCAPED_MAX + 1];
    uint32_t exptime = cache_item_exptime(item);
    int n;

    key[util_escape_uri(key, cache_item_key(item), item->nkey)] = '\0';
    n = snprintf(line, sizeof(line),
                 "key=%s exp=%" PRId64 " la=%" PRIu32 " cas=%" PRIu64 " fetch=%s cls=%u size=%" PRIu64 "\n", key,
                 exptime != 0 ? (int64_t)exptime : -1, cache_item_time(item), cache_item_unique(item),
                 cache_item_fetched(walk->cache, item) ? "yes" : "no", cache_item_class(walk->cache, item),
                 cache_item_size(item));
    r->ops->raw(r, (const uint8_t *)line, (size_t)n);
}

/* As a command that asks for it: a key that is no word, or was given so, in base64. */
static void tell_key(struct walk *walk, const struct cache_item *item)
{
    struct request *r = walk->request;
    const struct rkey key = {.p = cache_item_key(item), .len = item->nkey};
    uint8_t line[MG_BYTES], *p = line;

    memcpy(p, "mg ", 3);
    p += 3;
    if (cache_item_has_binary_key(walk->cache, item) || !rkey_is_word(&key)) {
        p += base64_encode(key.p, key.len, p);
        memcpy(p, " b", 2);
        p += 2;
    } else {
        memcpy(p, key.p, key.len);
        p += key.len;
    }
    memcpy(p, "\r\n", 2);
    r->ops->raw(r, line, (size_t)(p + 2 - line));
}

static void tell_item(struct walk *walk, struct cache_item *item)
{
    struct request *r = walk->request;
    char line[LINE_BYTES];
    int n;

    if (walk->left == 0)
        return;
    n = snprintf(line, sizeof(line), "ITEM %.*s [%" PRIu32 " b; %" PRIu32 " s]", (int)item->nkey,
                 (const char *)cache_item_key(item), item->nvalue, cache_item_exptime(item));
    walk->bytes += (size_t)n + 2;
    walk->left = walk->bytes > CACHEDUMP_BYTES_MAX ? 0 : walk->left - 1;
    if (walk->left > 0 || walk->bytes <= CACHEDUMP_BYTES_MAX)
        r->ops->stat(r, (const uint8_t *)line, (size_t)n);
}

static void count_size(struct walk *walk, const struct cache_item *item)
{
    uint64_t row = (cache_item_size(item) - 1) / SIZE_STEP, last = (uint64_t)walk->num_pages * PAGE_ROWS - 1;
    uint64_t **page;

    if (row > last)
        row = last;
    page = &walk->pages[row / PAGE_ROWS];
    if (*page == NULL && (*page = calloc(PAGE_ROWS, sizeof(**page))) == NULL)
        walk->lacks_memory = true;
    else
        (*page)[row % PAGE_ROWS]++;
}

static void on_item(void *arg, struct cache_item *item)
{
    struct walk *walk = arg;
    uint32_t exptime = cache_item_exptime(item);

    if (exptime != 0 && exptime <= walk->now)
        return;
    if (walk->kind == SIZES)
        count_size(walk, item);
    else if (!(walk->classes >> cache_item_class(walk->cache, item) & 1))
        return;
    else if (walk->kind == METADUMP)
        tell_meta(walk, item);
    else if (walk->kind == MGDUMP)
        tell_key(walk, item);
    else
        tell_item(walk, item);
}

static void tell_page(struct request *r, const uint64_t *rows, uint64_t first)
{
    char line[64];

    for (uint64_t i = 0; i < PAGE_ROWS; i++) {
        int n;

        if (rows[i] == 0)
            continue;
        n = snprintf(line, sizeof(line), "STAT %" PRIu64 " %" PRIu64, (first + i + 1) * SIZE_STEP, rows[i]);
        r->ops->stat(r, (const uint8_t *)line, (size_t)n);
    }
}

static void tell_sizes(const struct walk *walk)
{
    for (uint32_t i = 0; i < walk->num_pages; i++) {
        if (walk->pages[i] != NULL)
            tell_page(walk->request, walk->pages[i], (uint64_t)i * PAGE_ROWS);
    }
}

/* --- walking --- */

static void walk_free(struct walk *walk)
{
    for (uint32_t i = 0; i < walk->num_pages; i++)
        free(walk->pages[i]);
    free(walk->pages);
    free(walk);
}

static struct walk *pop_walk(struct local *l)
{
    struct walk *walk = l->walks;

    l->walks = walk->next;
    if (l->walks == NULL)
        l->last_walk = NULL;
    return walk;
}

static void push_walk(struct local *l, struct walk *walk)
{
    walk->next = NULL;
    if (l->last_walk != NULL)
        l->last_walk->next = walk;
    else
        l->walks = walk;
    l->last_walk = walk;
}

/* The walk's request has left its queue; walk is gone. */
static void end(struct local *l, struct walk *walk)
{
    struct request *r = walk->request;
    struct outcome outcome = outcome_of(walk->lacks_memory ? RESULT_NO_MEMORY : RESULT_END);

    if (walk->kind == MGDUMP) {
        outcome.text = (const uint8_t *)"EN\r\n";
        outcome.text_len = 4;
    }
    if (walk->kind == SIZES && !r->answered && !walk->lacks_memory)
        tell_sizes(walk);
    walk_free(walk);
    request_left_conn(&l->loop->requests, &l->loop->bufs, r, &outcome);
}

static bool must_wait(const struct request *r)
{
    return !r->answered && r->ops->unwritten != NULL && r->ops->unwritten(r) > UNWRITTEN_MAX;
}

/* Whether it has come to its end. */
static bool step(struct local *l, struct walk *walk)
{
    if (walk->request->answered)
        return true;
    walk->now = cache_clock(l->cache);
    return !cache_walk(l->cache, &walk->cursor, STEP_ITEMS, on_item, walk) || walk->lacks_memory ||
           (walk->kind == CACHEDUMP && walk->left == 0);
}

static void arm(struct local *l, long us)
{
    struct timeval after = {.tv_usec = us};

    if (l->walks != NULL && event_add(&l->walk_timer, &after) != 0)
        event_active(&l->walk_timer, EV_TIMEOUT, 0);
}

/* One step of the walk whose turn it is. */
static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct local *l = arg;
    bool went = false;

    (void)fd;
    (void)what;
    loop_enter(l->loop);
    for (int i = 0; i < TURN_WALKS && l->walks != NULL && !went; i++) {
        struct walk *walk = pop_walk(l);

        went = !must_wait(walk->request);
        if (went && step(l, walk))
            end(l, walk);
        else
            push_walk(l, walk);
    }
    arm(l, went ? STEP_US : WAIT_US);
}

static struct walk *begin(struct local *l, struct request *r, enum kind kind)
{
    struct walk *walk = calloc(1, sizeof(*walk));

    if (walk == NULL)
        return NULL;
    walk->request = r;
    walk->kind = kind;
    walk->cache = l->cache;
    push_walk(l, walk);
    r->in_conn = true;
    arm(l, STEP_US);
    return walk;
}

static bool begin_dump(struct local *l, struct request *r, enum kind kind, uint64_t classes)
{
    struct walk *walk = begin(l, r, kind);

    if (walk != NULL)
        walk->classes = classes;
    return walk != NULL;
}

bool walk_metadump(struct local *l, struct request *r, uint64_t classes)
{
    return begin_dump(l, r, METADUMP, classes);
}

bool walk_mgdump(struct local *l, struct request *r, uint64_t classes)
{
    return begin_dump(l, r, MGDUMP, classes);
}

bool walk_cachedump(struct local *l, struct request *r, unsigned class, uint64_t limit)
{
    struct walk *walk = begin(l, r, CACHEDUMP);

    if (walk == NULL)
        return false;
    walk->classes = UINT64_C(1) << class;
    walk->left = limit != 0 ? limit : UINT64_MAX;
    return true;
}

bool walk_sizes(struct local *l, struct request *r)
{
    uint32_t n = l->serving->item_max / (SIZE_STEP * PAGE_ROWS) + 1;
    uint64_t **pages = calloc(n, sizeof(*pages));
    struct walk *walk = pages != NULL ? begin(l, r, SIZES) : NULL;

    if (walk == NULL) {
        free(pages);
        return false;
    }
    walk->num_pages = n;
    walk->pages = pages;
    return true;
}

void walks_setup(struct local *l)
{
    evtimer_assign(&l->walk_timer, l->loop->base, on_timer, l);
}

void walks_teardown(struct local *l)
{
    event_del(&l->walk_timer);
    while (l->walks != NULL) {
        struct walk *walk = pop_walk(l);
        struct request *r = walk->request;

        /* Its client has gone before. */
        assert(r->answered);
        walk_free(walk);
        request_left_conn(&l->loop->requests, &l->loop->bufs, r, &(struct outcome){.result = RESULT_CLOSED});
    }
}
