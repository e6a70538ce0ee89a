/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_local_walk - replies for which all items of the cache have to be looked at: see cproxy_local_int.h.
 *
 * A walk goes on in steps of some thousand items, one at each tick of a timer, and waits while its client is owed much,
 * so that neither other clients nor memory suffer from a cache of many millions of items.
 */
#include <assert.h>
#include <event2/event.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cproxy_local_int.h"

enum {
    STEP_ITEMS = 2000,
    STEP_US = 500,                         /* between the steps */
    UNWRITTEN_MAX = 256 * 1024,            /* what a client may be owed for its walk to go on */
    CACHEDUMP_BYTES_MAX = 2 * 1024 * 1024, /* of a reply to stats cachedump, as in memcached */
    SIZE_STEP = 32,                        /* stats sizes: bytes of a row, as in memcached */
    ESCAPED_MAX = 3 * KEY_MAX,
    LINE_BYTES = ESCAPED_MAX + 200,
};

enum kind { METADUMP, CACHEDUMP, SIZES };

struct walk {
    struct walk *next;
    struct request *request; /* stands in the walk's queue, as in a connection's */
    enum kind kind;
    struct cache_cursor cursor;
    uint64_t classes; /* bit c: items of class c are told; METADUMP, CACHEDUMP */
    uint64_t left;    /* items that may still be told; CACHEDUMP */
    size_t bytes;     /* told so far; CACHEDUMP */
    uint32_t now;     /* items that are dead at that time are passed over */
    struct cache *cache;
    uint32_t num_sizes; /* rows; SIZES */
    uint64_t *sizes;    /* items that take up to (i + 1) * SIZE_STEP bytes */
};

/* --- what is told of an item --- */

/* Writes a key as in a URI: all but letters, digits and "-._~" as %XX. Returns how many bytes. */
static size_t escape(char *to, const uint8_t *key, size_t n)
{
    static const char digits[] = "0123456789ABCDEF";
    char *p = to;

    for (size_t i = 0; i < n; i++) {
        uint8_t c = key[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                     c == '.' || c == '_' || c == '~';

        if (plain) {
            *p++ = (char)c;
            continue;
        }
        *p++ = '%';
        *p++ = digits[c >> 4];
        *p++ = digits[c & 15];
    }
    return (size_t)(p - to);
}

static void tell_meta(struct walk *walk, struct cache_item *item)
{
    struct request *r = walk->request;
    char line[LINE_BYTES], key[ESCAPED_MAX + 1];
    uint32_t exptime = cache_item_exptime(item);
    int n;

    key[escape(key, cache_item_key(item), item->nkey)] = '\0';
    n = snprintf(line, sizeof(line),
                 "key=%s exp=%" PRId64 " la=%" PRIu32 " cas=%" PRIu64 " fetch=%s cls=%u size=%" PRIu64 "\n", key,
                 exptime != 0 ? (int64_t)exptime : -1, cache_item_time(item), item->cas,
                 cache_item_fetched(walk->cache, item) ? "yes" : "no", cache_item_class(walk->cache, item),
                 cache_item_size(item));
    r->ops->raw(r, (const uint8_t *)line, (size_t)n);
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
    size_t row = (cache_item_size(item) - 1) / SIZE_STEP;

    walk->sizes[row < walk->num_sizes ? row : walk->num_sizes - 1]++;
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
    else
        tell_item(walk, item);
}

static void tell_sizes(const struct walk *walk)
{
    struct request *r = walk->request;
    char line[64];

    for (uint32_t i = 0; i < walk->num_sizes; i++) {
        int n;

        if (walk->sizes[i] == 0)
            continue;
        n = snprintf(line, sizeof(line), "STAT %" PRIu64 " %" PRIu64, (uint64_t)(i + 1) * SIZE_STEP, walk->sizes[i]);
        r->ops->stat(r, (const uint8_t *)line, (size_t)n);
    }
}

/* --- walking --- */

static void walk_free(struct walk *walk)
{
    free(walk->sizes);
    free(walk);
}

/* The walk's request has left its queue; walk is gone. */
static void end(struct local *l, struct walk *walk)
{
    struct request *r = walk->request;
    struct outcome outcome = outcome_of(RESULT_END);

    if (walk->kind == SIZES && !r->answered)
        tell_sizes(walk);
    walk_free(walk);
    request_left_conn(&l->loop->requests, &l->loop->bufs, r, &outcome);
}

/* Whether it has come to its end. */
static bool step(struct local *l, struct walk *walk)
{
    struct request *r = walk->request;

    if (r->answered)
        return true;
    if (walk->kind != SIZES && r->ops->unwritten != NULL && r->ops->unwritten(r) > UNWRITTEN_MAX)
        return false;
    walk->now = cache_clock(l->cache);
    return !cache_walk(l->cache, &walk->cursor, STEP_ITEMS, on_item, walk) ||
           (walk->kind == CACHEDUMP && walk->left == 0);
}

static void arm(struct local *l)
{
    struct timeval after = {.tv_usec = STEP_US};

    if (l->walks != NULL && event_add(&l->walk_timer, &after) != 0)
        event_active(&l->walk_timer, EV_TIMEOUT, 0);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct local *l = arg;
    struct walk **link = &l->walks, *walk;

    (void)fd;
    (void)what;
    loop_enter(l->loop);
    while ((walk = *link) != NULL) {
        if (!step(l, walk)) {
            link = &walk->next;
            continue;
        }
        *link = walk->next;
        end(l, walk);
    }
    arm(l);
}

static struct walk *begin(struct local *l, struct request *r, enum kind kind)
{
    struct walk *walk = calloc(1, sizeof(*walk));

    if (walk == NULL)
        return NULL;
    walk->request = r;
    walk->kind = kind;
    walk->cache = l->cache;
    walk->next = l->walks;
    l->walks = walk;
    r->in_conn = true;
    arm(l);
    return walk;
}

bool walk_metadump(struct local *l, struct request *r, uint64_t classes)
{
    struct walk *walk = begin(l, r, METADUMP);

    if (walk != NULL)
        walk->classes = classes;
    return walk != NULL;
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
    uint32_t n = l->serving->item_max / SIZE_STEP + 1;
    uint64_t *sizes = calloc(n, sizeof(*sizes));
    struct walk *walk = sizes != NULL ? begin(l, r, SIZES) : NULL;

    if (walk == NULL) {
        free(sizes);
        return false;
    }
    walk->num_sizes = n;
    walk->sizes = sizes;
    return true;
}

void walks_setup(struct local *l)
{
    evtimer_assign(&l->walk_timer, l->loop->base, on_timer, l);
}

void walks_teardown(struct local *l)
{
    struct walk *walk;

    event_del(&l->walk_timer);
    while ((walk = l->walks) != NULL) {
        struct request *r = walk->request;

        l->walks = walk->next;
        /* Its client has gone before. */
        assert(r->answered);
        walk_free(walk);
        request_left_conn(&l->loop->requests, &l->loop->bufs, r, &(struct outcome){.result = RESULT_CLOSED});
    }
}
