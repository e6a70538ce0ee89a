/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_watch - clients who watch: the command `watch`, and how lines reach its client.
 *
 * A client who watches has a feed, which has a watcher (watch.h). Each TICK_MS, and when a watcher has been woken, what
 * its watcher has goes to the client's output, if that is empty: so what a client who does not read makes moxi hold is
 * bounded by the watcher's two buffers, and all else of writing is as for any client. Nothing that it sends any more is
 * looked at (cproxy_upstream.c), as in memcached.
 */
#include "watch.h"

#include <stdlib.h>
#include <string.h>

#include "cproxy_upstream.h"

enum { TICK_MS = 10 };

struct feed {
    struct feed *next; /* link in the pool's list */
    struct feed **link;
    struct client *client;
    struct watcher *watcher;
};

/* --- feeding --- */

static void fill(struct feed *feed)
{
    struct client *c = feed->client;

    /* Behind replies that it had asked for before. */
    if (c->closing || c->head != NULL || c->conn.out.bytes > 0)
        return;
    if (!watcher_take(feed->watcher, &c->conn.out, &client_loop(c)->bufs))
        client_fail(c, "out of memory");
    if (c->conn.out.bytes > 0)
        client_mark(c);
}

static void fill_all(void *arg)
{
    struct pool_state *ps = arg;

    loop_enter(ps->loop);
    for (struct feed *feed = ps->feeds; feed != NULL; feed = feed->next)
        fill(feed);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    fill_all(arg);
}

/* Called by whoever has told something. When it cannot be sent, the next tick will do. */
static void wake(void *arg)
{
    struct pool_state *ps = arg;

    (void)!work_send(&ps->loop->work, fill_all, ps);
}

bool feeds_setup(struct pool_state *ps)
{
    return event_assign(&ps->feed_tick, ps->loop->base, -1, EV_PERSIST, on_tick, ps) == 0;
}

void feed_end(struct client *c)
{
    struct pool_state *ps = c->ps;
    struct feed *feed = ps->feeds;

    while (feed->client != c)
        feed = feed->next;
    *feed->link = feed->next;
    if (feed->next != NULL)
        feed->next->link = feed->link;
    if (ps->feeds == NULL)
        event_del(&ps->feed_tick);
    watcher_destroy(feed->watcher);
    free(feed);
}

static enum watch_status feed_begin(struct client *c, unsigned kinds)
{
    static const struct timeval tick = {.tv_usec = TICK_MS * 1000};
    struct pool_state *ps = c->ps;
    struct feed *feed = malloc(sizeof(*feed));
    enum watch_status status;

    if (feed == NULL)
        return WATCH_NO_MEMORY;
    status = watcher_create(&feed->watcher, kinds, wake, ps);
    if (status == WATCH_OK && ps->feeds == NULL && event_add(&ps->feed_tick, &tick) != 0) {
        watcher_destroy(feed->watcher);
        status = WATCH_NO_MEMORY;
    }
    if (status != WATCH_OK) {
        free(feed);
        return status;
    }
    feed->client = c;
    feed->link = &ps->feeds;
    feed->next = ps->feeds;
    if (feed->next != NULL)
        feed->next->link = &feed->next;
    ps->feeds = feed;
    return WATCH_OK;
}

/* --- the command --- */

/* One word's kind; 0: it is none. */
static unsigned kind_of(const uint8_t *p, size_t n)
{
    static const struct {
        const char *word;
        unsigned kind;
    } kinds[] = {
        {"fetchers", WATCH_FETCHERS},     {"mutations", WATCH_MUTATIONS}, {"evictions", WATCH_EVICTIONS},
        {"connevents", WATCH_CONNEVENTS}, {"deletions", WATCH_DELETIONS},
    };

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (strlen(kinds[i].word) == n && memcmp(kinds[i].word, p, n) == 0)
            return kinds[i].kind;
    return 0;
}

/* What is to be watched, fetchers if nothing else is said; 0: there is a word that is no kind. */
static unsigned kinds_of(const uint8_t *p, size_t n)
{
    const uint8_t *end = p + n;
    unsigned kinds = 0;

    while (p < end) {
        const uint8_t *blank = memchr(p, ' ', (size_t)(end - p));
        size_t len = blank != NULL ? (size_t)(blank - p) : (size_t)(end - p);
        unsigned kind = kind_of(p, len);

        if (len > 0 && kind == 0)
            return 0;
        kinds |= kind;
        p += len + (blank != NULL);
    }
    return kinds != 0 ? kinds : WATCH_FETCHERS;
}

struct outcome watch_begin(struct request *r)
{
    struct client *c = r->owner;
    unsigned kinds = r->arg_len > 0 ? kinds_of(r->arg, r->arg_len) : WATCH_FETCHERS;

    if (!r->pool->serving->may_watch)
        return (struct outcome){.result = RESULT_REFUSED, .message = "CLIENT_ERROR watch commands not allowed"};
    if (kinds == 0)
        return (struct outcome){.result = RESULT_REFUSED, .message = "ERROR"};
    switch (feed_begin(c, kinds)) {
    case WATCH_OK:
        client_watches(c);
        return (struct outcome){.result = RESULT_OK};
    case WATCH_TOO_MANY:
        return (struct outcome){.result = RESULT_REFUSED, .message = "WATCHER_TOO_MANY log watcher limit reached"};
    case WATCH_NO_MEMORY:
        break;
    }
    return (struct outcome){.result = RESULT_NO_MEMORY};
}
