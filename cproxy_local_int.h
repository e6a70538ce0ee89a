/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_local_int - what the files of cproxy_local share, and nobody else includes.
 *
 *   cproxy_local.c        commands on keys, and the commands that manage the cache
 *   cproxy_local_watch.c  what clients who watch are told
 *   cproxy_local_stats.c  stats, but for those that
 *   cproxy_local_walk.c   look at all items, step by step: lru_crawler metadump, stats cachedump, stats sizes
 */
#ifndef CPROXY_LOCAL_INT_H
#define CPROXY_LOCAL_INT_H

#include "codec.h"
#include "cproxy_local.h"

struct walk;

struct local {
    struct loop *loop;
    struct cache *cache;
    const struct local_hooks *hooks;
    const struct local_serving *serving;
    const struct codec *codec;
    struct chunk *scratch; /* values are copied here; NULL: none yet */
    uint64_t clock_us;     /* when the cache was last told the time */
    struct walk *walks;    /* that are not at their end, by next: the first is next to make a step */
    struct walk *last_walk;
    struct event walk_timer; /* the next step */
};

static inline struct outcome outcome_of(enum result result)
{
    return (struct outcome){.result = result};
}

/* line: a reply with its end, static. */
static inline struct outcome error_of(const char *line)
{
    return (struct outcome){.result = RESULT_ERROR, .text = (const uint8_t *)line, .text_len = strlen(line)};
}

/* The words of a request's argument, up to `max`; each ends in NUL in buf, which has KEY_MAX + 1 bytes. Their number. */
size_t local_words(const struct request *r, char *buf, const char **words, size_t max);

/* Gives the cache an item that has the value of r, a store. */
enum cache_result local_store(struct local *l, struct request *r, struct cache_item *item) MUST_CHECK;

/* The same, the retrieval of a key, and a store that was refused before there was an item, while somebody watches. */
enum cache_result local_store_watched(struct local *l, struct request *r, struct cache_item *item) MUST_CHECK;
struct cache_item *local_get_watched(struct local *l, const struct request *r, const struct rkey *key, bool touches,
                                     uint32_t exptime) MUST_CHECK;
void local_tell_refused(struct local *l, const struct request *r, enum cache_result result);

/* Tells those who watch fetchers that a command looks up its key. */
void local_tell_lookup(struct local *l, const struct request *r);

/* stats: the outcome; RESULT_NONE when it is to come later. */
struct outcome local_run_stats(struct local *l, struct request *r);

/*
 * Begin a walk over all items for r, whose outcome comes later. False when memory ran out. class and limit (0: none):
 * which and how many items are told.
 */
bool walk_metadump(struct local *l, struct request *r, uint64_t classes) MUST_CHECK;
bool walk_cachedump(struct local *l, struct request *r, unsigned class, uint64_t limit) MUST_CHECK;
bool walk_sizes(struct local *l, struct request *r) MUST_CHECK;

void walks_setup(struct local *l);
void walks_teardown(struct local *l);

#endif
