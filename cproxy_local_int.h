/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_local_int - what the files of cproxy_local share, and nobody else includes.
 *
 *   cproxy_local.c        commands on keys, and the commands that manage the cache
 *   cproxy_local_meta.c   meta commands
 *   cproxy_local_watch.c  what clients who watch are told
 *   cproxy_local_stats.c  stats, but for those that
 *   cproxy_local_walk.c   look at all items, step by step: lru_crawler metadump and mgdump, stats cachedump, sizes
 */
#ifndef CPROXY_LOCAL_INT_H
#define CPROXY_LOCAL_INT_H

#include "codec.h"
#include "cproxy_item.h"
#include "cproxy_local.h"

struct walk;

struct local {
    struct loop *loop;
    struct cache *cache;
    const struct local_hooks *hooks;
    const struct local_serving *serving;
    struct item_out out;
    uint64_t clock_us;  /* when the cache was last told the time */
    struct walk *walks; /* that are not at their end, by next: the first is next to make a step */
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

/*
 * The words of a request's argument, up to `max`; each ends in NUL in buf, which has KEY_MAX + 1 bytes. Their number.
 */
size_t local_words(const struct request *r, char *buf, const char **words, size_t max);

/* Gives the cache an item that has the value of r, a store. */
enum cache_result local_store(struct local *l, struct request *r, struct cache_item *item, enum cache_mode mode,
                              struct cache_terms *terms) MUST_CHECK;

/* The same, the retrieval of a key, and a store that was refused before there was an item, while somebody watches. */
enum cache_result local_store_watched(struct local *l, struct request *r, struct cache_item *item, enum cache_mode mode,
                                      struct cache_terms *terms) MUST_CHECK;
struct cache_item *local_get_watched(struct local *l, const struct request *r, const struct rkey *key, bool touches,
                                     uint32_t exptime) MUST_CHECK;
void local_tell_refused(struct local *l, const struct request *r, enum cache_result result);

/* An item for a store, with all that the request says. NULL: the outcome of the request is *outcome. */
struct cache_item *local_make_item(struct local *l, struct request *r, const struct cache_props *props,
                                   struct outcome *outcome) MUST_CHECK;

/* How a change ended, but for those that have words of their own for success. */
struct outcome local_store_outcome(enum cache_result result);

/* Hands on the value of key number i. Takes over the item, but not on failure: memory has run out then. */
bool local_send_hit(struct local *l, struct request *r, uint32_t i, struct cache_item *item,
                    const struct facts *facts) MUST_CHECK;

/* With which unique an item is compared that a client names: with -C it is that of none, unless it is 0. */
static inline uint64_t local_compared(const struct local *l, uint64_t unique)
{
    return l->serving->has_cas || unique == 0 ? unique : UINT64_MAX;
}

/* What of an exptime is kept: as memcached, 32 bits of what clients write. */
uint32_t local_exptime(const struct local *l, int64_t exptime);

/* A meta command with a key. */
void local_run_meta(struct local *l, struct request *r);

/* Tells those who watch fetchers that a command looks up its key. */
void local_tell_lookup(struct local *l, const struct request *r);

/* What is known of the item that a command may delete, if anybody watches that; and that it has been deleted. */
struct cache_sight local_look_to_delete(struct local *l, const struct request *r);
void local_tell_deleted(const struct request *r, const struct cache_sight *sight);

/* stats: the outcome; RESULT_NONE when it is to come later. */
struct outcome local_run_stats(struct local *l, struct request *r);

/*
 * Begin a walk over all items for r, whose outcome comes later. False when memory ran out. class and limit (0: none):
 * which and how many items are told.
 */
bool walk_metadump(struct local *l, struct request *r, uint64_t classes) MUST_CHECK;
bool walk_mgdump(struct local *l, struct request *r, uint64_t classes) MUST_CHECK;
bool walk_cachedump(struct local *l, struct request *r, unsigned class, uint64_t limit) MUST_CHECK;
bool walk_sizes(struct local *l, struct request *r) MUST_CHECK;

void walks_setup(struct local *l);
void walks_teardown(struct local *l);

#endif
