/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * crawler - looks after the cache in the background, in the main thread, which has nothing else to do: tells it the
 * time, frees what is dead, and gives memory back that a lower limit has made too much.
 */
#ifndef CRAWLER_H
#define CRAWLER_H

#include <event2/event.h>

#include "cache.h"

/* Starts in base's loop. False when libevent refuses. Once a process. */
bool crawler_start(struct event_base *base, struct cache *cache) MUST_CHECK;
void crawler_stop(void);

/* The rest: any thread. */

/* Whether dead items are looked for all the time. Otherwise they are found when they are asked for, or in the way. */
void crawler_set(bool on);

/* Looks at all items, soon and faster than usual. */
void crawler_crawl(void);

struct crawler_stats {
    bool enabled;
    bool running;    /* a crawl that was asked for */
    uint64_t starts; /* of passes over all items */
};

struct crawler_stats crawler_stats(void);

#endif
