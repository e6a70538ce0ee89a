/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_local - the server "local": requests run on the cache inside moxi. A backend like cproxy_downstream, but one
 * that answers most requests at once: ops->done has been called when local_run returns.
 *
 * There is one cache in the process. Each pool of each worker that has a server "local" has a struct local to reach it.
 */
#ifndef CPROXY_LOCAL_H
#define CPROXY_LOCAL_H

#include "cache.h"
#include "counters.h"
#include "loop.h"
#include "request.h"

struct local;

enum local_stats { LOCAL_GENERAL, LOCAL_SETTINGS, LOCAL_CONNS };

/* What the process does for it; given by the layer above. Any thread. */
struct local_hooks {
    /* Lines of `stats`, `stats settings` or `stats conns`, of what is not the cache's, each by r->ops->stat. */
    void (*stats)(struct request *r, enum local_stats what);
    void (*stats_reset)(void);
    /* lru_crawler: whether dead items are looked for in the background; a look at all items, now. */
    void (*set_crawler)(bool on);
    void (*crawl)(void);
    /* The client's file descriptor, for those who watch; -1 when it has gone. */
    int (*client_fd)(const struct request *r);
};

/* From the command line. */
struct local_serving {
    bool may_dump;     /* not -X */
    bool has_cas;      /* not -C: otherwise an item's unique is told as 0, and none is right */
    bool evicts;       /* not -M */
    uint32_t item_max; /* -I */
};

/* All that is passed must outlive it. NULL when memory ran out. */
struct local *local_create(struct loop *loop, struct cache *cache, const struct local_hooks *hooks,
                           const struct local_serving *serving) MUST_CHECK;

/* What it has not answered yet is not answered any more. NULL is allowed. */
void local_destroy(struct local *l);

/*
 * Carries out a request, whose owner may have let go of it, and reports to its ops: before it returns, but for what has
 * to look at all items.
 */
void local_run(struct local *l, struct request *r);

/* A store was refused for its size before it came here. */
void local_refused_size(struct local *l, const struct request *r);

/* For cache_options.evicted: tells those who watch. arg points to the pointer to the cache, which is made later. */
void local_tell_evicted(void *arg, const struct cache_item *item, bool was_fetched);

#endif
