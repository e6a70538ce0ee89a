/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_local_watch - what clients who watch are told of the cache inside: see cproxy_local_int.h and watch.h.
 *
 * As in memcached, an item_get is told of whatever looks up a key: a store has one before its item_store, and incr,
 * touch and delete have nothing else. But for the hits of retrievals, what is told is seen by a look beforehand, so
 * another worker may come between: what such a line says was true, if not when the command was carried out.
 */
#include "cproxy_local_int.h"
#include "watch.h"

static int fd_of(const struct local *l, const struct request *r)
{
    return l->hooks->client_fd(r);
}

static void tell_sight(const struct local *l, const struct request *r, const struct rkey *key,
                       const struct cache_sight *sight)
{
    static const char *const words[] = {
        [CACHE_SIGHT_NONE] = "not_found",
        [CACHE_SIGHT_ALIVE] = "found",
        [CACHE_SIGHT_EXPIRED] = "expired",
        [CACHE_SIGHT_FLUSHED] = "flushed",
    };

    watch_tell_get(key->p, key->len, words[sight->state], sight->class, fd_of(l, r), sight->nvalue);
}

void local_tell_lookup(struct local *l, const struct request *r)
{
    const struct rkey *key = &r->keys[0];
    struct cache_sight sight = cache_look(l->cache, key->p, key->len);

    tell_sight(l, r, key, &sight);
}

struct cache_item *local_get_watched(struct local *l, const struct request *r, const struct rkey *key, bool touches,
                                     uint32_t exptime)
{
    struct cache_sight sight = cache_look(l->cache, key->p, key->len);
    struct cache_item *item =
        touches ? cache_gat(l->cache, key->p, key->len, exptime) : cache_get(l->cache, key->p, key->len);

    if (item != NULL)
        sight = (struct cache_sight){
            .state = CACHE_SIGHT_ALIVE, .class = cache_item_class(l->cache, item), .nvalue = item->nvalue};
    else if (sight.state == CACHE_SIGHT_ALIVE)
        sight = (struct cache_sight){.state = CACHE_SIGHT_NONE};
    tell_sight(l, r, key, &sight);
    return item;
}

/* How memcached calls the result of a store. */
static const char *word_of(enum cache_result result)
{
    static const char *const words[] = {
        [CACHE_STORED] = "stored",       [CACHE_NOT_STORED] = "not_stored",  [CACHE_EXISTS] = "exists",
        [CACHE_NOT_FOUND] = "not_found", [CACHE_NON_NUMERIC] = "not_stored", /* none of a store's */
        [CACHE_TOO_LARGE] = "too_large", [CACHE_NO_MEMORY] = "no_memory",
    };

    return words[result];
}

/* Seconds that are left, 0 for never. What is past already is a very large number, as with memcached. */
static uint32_t ttl_of(const struct local *l, uint32_t exptime)
{
    return exptime != 0 ? exptime - cache_clock(l->cache) : 0;
}

/* The classic command that a store is. */
static enum opcode store_of(const struct request *r)
{
    if (op_is_meta(r->op))
        return (r->terms.bits & TERM_COMPARE) && r->terms.mode != OP_ADD ? OP_CAS : (enum opcode)r->terms.mode;
    return r->too_large ? OP_SET : (enum opcode)r->op;
}

static void tell_store(const struct local *l, const struct request *r, enum cache_result result,
                       const struct cache_sight *sight)
{
    watch_tell_store(r->keys[0].p, r->keys[0].len, word_of(result), op_table[store_of(r)].name,
                     ttl_of(l, sight->exptime), sight->class, fd_of(l, r), sight->nvalue);
}

void local_tell_refused(struct local *l, const struct request *r, enum cache_result result)
{
    const struct cache_sight nothing = {.state = CACHE_SIGHT_NONE};

    tell_store(l, r, result, &nothing);
}

enum cache_result local_store_watched(struct local *l, struct request *r, struct cache_item *item, enum cache_mode mode,
                                      struct cache_terms *terms)
{
    const struct rkey *key = &r->keys[0];
    struct cache_sight sight = {
        .class = cache_item_class(l->cache, item), .nvalue = item->nvalue, .exptime = cache_item_exptime(item)};
    enum cache_result result;

    if (watch_wants(WATCH_FETCHERS))
        local_tell_lookup(l, r);
    result = cache_store_with(l->cache, item, mode, terms);
    /* The item that it has become is another one. */
    if (result == CACHE_STORED && (mode == CACHE_APPEND || mode == CACHE_PREPEND))
        sight = cache_look(l->cache, key->p, key->len);
    if (watch_wants(WATCH_MUTATIONS))
        tell_store(l, r, result, &sight);
    return result;
}

struct cache_sight local_look_to_delete(struct local *l, const struct request *r)
{
    if (!watch_wants(WATCH_DELETIONS))
        return (struct cache_sight){.state = CACHE_SIGHT_NONE};
    return cache_look(l->cache, r->keys[0].p, r->keys[0].len);
}

void local_tell_deleted(const struct request *r, const struct cache_sight *sight)
{
    if (watch_wants(WATCH_DELETIONS))
        watch_tell_deletion(r->keys[0].p, r->keys[0].len, r->codec == &codec_meta ? "md" : "delete", sight->class,
                            sight->nvalue);
}

void local_tell_evicted(void *arg, const struct cache_item *item, bool was_fetched)
{
    struct cache *cache = *(struct cache **)arg;
    uint32_t now, exptime = cache_item_exptime(item), time = cache_item_time(item);

    if (!watch_wants(WATCH_EVICTIONS))
        return;
    now = cache_clock(cache);
    watch_tell_eviction(cache_item_key(item), item->nkey, was_fetched, exptime != 0 ? (int64_t)exptime - now : -1,
                        time < now ? now - time : 0, cache_item_class(cache, item), item->nvalue);
}
