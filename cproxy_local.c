/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_local - requests run on the cache: see cproxy_local.h.
 *
 *   retrievals   cache_get --> a small value: copied behind its head, one ops->hit (cproxy_item.c)
 *                         \--> a larger one: ops->begin, data with a reference to the item, end
 *   stores       an item is allocated, filled from the request, and stored
 *   the rest     one call of the cache, one outcome
 *
 * The cache is told the time from here, once a millisecond at the most, when requests come, and by crawler.c once a
 * second.
 */

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "cproxy_local_int.h"
#include "prefix_stats.h"
#include "watch.h"

enum {
    CLOCK_US = 1000,            /* how old the time may be that the cache knows */
    MEGABYTES_MAX = 1000000000, /* of cache_memlimit: more are bytes by mistake */
    MEGABYTES_MIN = 8,
};

static struct bufpool *bufs_of(struct local *l)
{
    return &l->loop->bufs;
}

static void tell_time(struct local *l)
{
    if (l->clock_us != 0 && l->loop->now_us - l->clock_us < CLOCK_US)
        return;
    l->clock_us = l->loop->now_us;
    cache_set_clock(l->cache, util_unix_seconds(l->loop->now_us));
}

/* --- outcomes --- */

struct outcome local_store_outcome(enum cache_result result)
{
    switch (result) {
    case CACHE_STORED:
        return outcome_of(RESULT_STORED);
    case CACHE_NOT_STORED:
        return outcome_of(RESULT_NOT_STORED);
    case CACHE_EXISTS:
        return outcome_of(RESULT_EXISTS);
    case CACHE_NOT_FOUND:
        return outcome_of(RESULT_NOT_FOUND);
    case CACHE_NON_NUMERIC:
        return error_of("CLIENT_ERROR cannot increment or decrement non-numeric value\r\n");
    case CACHE_TOO_LARGE:
        return error_of("SERVER_ERROR object too large for cache\r\n");
    case CACHE_NO_MEMORY:
        break;
    }
    return error_of("SERVER_ERROR out of memory storing object\r\n");
}

/* --- retrievals --- */

bool local_send_hit(struct local *l, struct request *r, uint32_t i, struct cache_item *item, const struct facts *facts)
{
    return item_send(&l->out, r, i, item, cache_item_value(item), item->nvalue, facts);
}

uint32_t local_exptime(const struct local *l, int64_t exptime)
{
    return cache_exptime((int32_t)exptime, cache_clock(l->cache));
}

static bool send_hit(struct local *l, struct request *r, uint32_t i, struct cache_item *item)
{
    const struct facts facts = {.flags = item->flags, .unique = l->serving->has_cas ? cache_item_unique(item) : 0};

    return local_send_hit(l, r, i, item, &facts);
}

static struct cache_item *get_item(struct local *l, const struct request *r, const struct rkey *key, bool touches,
                                   uint32_t exptime)
{
    if (watch_wants(WATCH_FETCHERS))
        return local_get_watched(l, r, key, touches, exptime);
    return touches ? cache_gat(l->cache, key->p, key->len, exptime) : cache_get(l->cache, key->p, key->len);
}

static struct outcome run_retrieval(struct local *l, struct request *r)
{
    bool touches = r->op == OP_GAT || r->op == OP_GATS;
    uint32_t exptime = touches ? local_exptime(l, r->exptime) : 0;

    for (uint32_t i = r->first; i != RKEY_END; i = r->keys[i].next) {
        const struct rkey *key = &r->keys[i];
        struct cache_item *item = get_item(l, r, key, touches, exptime);

        if (prefix_stats_enabled())
            prefix_stats_get(key->p, key->len, item != NULL);
        if (item == NULL)
            continue;
        if (r->answered) {
            cache_item_release(item);
        } else if (!send_hit(l, r, i, item)) {
            cache_item_release(item);
            return outcome_of(RESULT_NO_MEMORY);
        }
    }
    return outcome_of(RESULT_END);
}

/* --- changes --- */

static void copy_value(const struct request *r, uint8_t *to)
{
    if (r->inl_value_len > 0)
        memcpy(to, request_inline_value(r), r->inl_value_len);
    to += r->inl_value_len;
    for (const struct span *span = r->value.head; span != NULL; span = span->next) {
        memcpy(to, span->p, span->len);
        to += span->len;
    }
}

static enum cache_mode mode_of(uint8_t op)
{
    switch (op) {
    case OP_ADD:
        return CACHE_ADD;
    case OP_REPLACE:
        return CACHE_REPLACE;
    case OP_APPEND:
        return CACHE_APPEND;
    case OP_PREPEND:
        return CACHE_PREPEND;
    case OP_CAS:
        return CACHE_CAS;
    default:
        return CACHE_SET;
    }
}

/* The key of a command is about to be looked up. */
static void tell_lookup(struct local *l, const struct request *r)
{
    if (watch_wants(WATCH_FETCHERS))
        local_tell_lookup(l, r);
}

enum cache_result local_store(struct local *l, struct request *r, struct cache_item *item, enum cache_mode mode,
                              struct cache_terms *terms)
{
    if (watch_wants(WATCH_FETCHERS | WATCH_MUTATIONS))
        return local_store_watched(l, r, item, mode, terms);
    return cache_store_with(l->cache, item, mode, terms);
}

struct cache_item *local_make_item(struct local *l, struct request *r, const struct cache_props *props,
                                   struct outcome *outcome)
{
    const struct rkey *key = &r->keys[0];
    enum cache_result result;
    struct cache_item *item;

    if (prefix_stats_enabled())
        prefix_stats_set(key->p, key->len);
    item = cache_item_alloc_with(l->cache, key->p, key->len, props, request_value_len(r), &result);
    if (item != NULL) {
        copy_value(r, cache_item_value(item));
        return item;
    }
    if (watch_wants(WATCH_MUTATIONS))
        local_tell_refused(l, r, result);
    /* As in memcached, a set that fails does not leave the old value behind; nor does any ms. */
    if (r->op == OP_SET || r->op == OP_META_SET) {
        tell_lookup(l, r);
        cache_drop(l->cache, key->p, key->len);
    }
    *outcome = local_store_outcome(result);
    return NULL;
}

static struct outcome run_store(struct local *l, struct request *r)
{
    const struct cache_props props = {.flags = r->flags, .exptime = local_exptime(l, r->exptime)};
    struct cache_terms terms = {.unique = r->op == OP_CAS ? local_compared(l, r->number) : 0};
    struct outcome outcome;
    struct cache_item *item = local_make_item(l, r, &props, &outcome);

    if (item == NULL)
        return outcome;
    return local_store_outcome(local_store(l, r, item, mode_of(r->op), &terms));
}

static struct outcome run_arith(struct local *l, struct request *r)
{
    const struct rkey *key = &r->keys[0];
    uint64_t value;
    enum cache_result result;

    tell_lookup(l, r);
    result = cache_arith(l->cache, key->p, key->len, r->op == OP_INCR, r->number, &value, NULL);
    if (result == CACHE_NO_MEMORY)
        return error_of("SERVER_ERROR out of memory in incr\r\n");
    if (result != CACHE_STORED)
        return local_store_outcome(result);
    return (struct outcome){.result = RESULT_NUMBER, .number = value};
}

/* A set with too large a value. It counts as one, not as a delete. */
static struct outcome run_too_large(struct local *l, const struct request *r)
{
    const struct rkey *key = &r->keys[0];

    if (prefix_stats_enabled())
        prefix_stats_set(key->p, key->len);
    local_refused_size(l, r);
    tell_lookup(l, r);
    cache_drop(l->cache, key->p, key->len);
    return outcome_of(RESULT_NOT_FOUND);
}

static struct outcome run_delete(struct local *l, const struct request *r)
{
    const struct rkey *key = &r->keys[0];
    struct cache_sight sight;

    if (prefix_stats_enabled())
        prefix_stats_delete(key->p, key->len);
    tell_lookup(l, r);
    sight = local_look_to_delete(l, r);
    if (!cache_delete(l->cache, key->p, key->len))
        return outcome_of(RESULT_NOT_FOUND);
    local_tell_deleted(r, &sight);
    return outcome_of(RESULT_DELETED);
}

static struct outcome run_touch(struct local *l, const struct request *r)
{
    uint32_t exptime = local_exptime(l, r->exptime);

    tell_lookup(l, r);
    return outcome_of(cache_touch(l->cache, r->keys[0].p, r->keys[0].len, exptime) ? RESULT_TOUCHED : RESULT_NOT_FOUND);
}

static struct outcome run_flush(struct local *l, const struct request *r)
{
    cache_flush(l->cache, r->exptime > 0 ? local_exptime(l, r->exptime) : 0);
    return outcome_of(RESULT_OK);
}

/* --- managing --- */

size_t local_words(const struct request *r, char *buf, const char **words, size_t max)
{
    size_t n = 0;
    char *rest = buf, *word;

    if (r->arg_len > 0)
        memcpy(buf, r->arg, r->arg_len);
    buf[r->arg_len] = '\0';
    while (n < max && (word = strtok_r(rest, " ", &rest)) != NULL)
        words[n++] = word;
    return n;
}

/* Which classes "all", "hash" or "1,2,3" is, a bit each; 0: none. */
static uint64_t classes_of(const char *word)
{
    uint64_t classes = 0, class;

    if (strcmp(word, "all") == 0 || strcmp(word, "hash") == 0)
        return UINT64_MAX;
    for (;;) {
        size_t n = strcspn(word, ",");

        if (!util_parse_u64(word, n, &class) || class < 1 || class >= CACHE_CLASSES)
            return 0;
        classes |= UINT64_C(1) << class;
        if (word[n] == '\0')
            return classes;
        word += n + 1;
    }
}

static struct outcome run_dump(struct local *l, struct request *r, bool is_meta, const char *word)
{
    uint64_t classes = classes_of(word);
    bool begun;

    if (!l->serving->may_dump)
        return error_of(is_meta ? "ERROR metadump not allowed\r\n" : "ERROR key dump not allowed\r\n");
    if (classes == 0)
        return error_of("BADCLASS invalid class id\r\n");
    if (r->ops->unwritten(r) > 0)
        return error_of(is_meta ? "ERROR cannot pipeline other commands before metadump\r\n"
                                : "ERROR cannot pipeline other commands before mgdump\r\n");
    begun = is_meta ? walk_metadump(l, r, classes) : walk_mgdump(l, r, classes);
    return outcome_of(begun ? RESULT_NONE : RESULT_NO_MEMORY);
}

/*
 * lru_crawler enable|disable|crawl CLASSES|metadump CLASSES|mgdump CLASSES. A crawl looks at all classes, whichever are
 * asked for.
 */
static struct outcome run_crawler(struct local *l, struct request *r)
{
    char buf[KEY_MAX + 1];
    const char *words[3];
    size_t n = local_words(r, buf, words, ARRAY_LEN(words));

    if (n == 1 && (strcmp(words[0], "enable") == 0 || strcmp(words[0], "disable") == 0)) {
        l->hooks->set_crawler(strcmp(words[0], "enable") == 0);
        return outcome_of(RESULT_OK);
    }
    if (n == 2 && strcmp(words[0], "metadump") == 0)
        return run_dump(l, r, true, words[1]);
    if (n == 2 && strcmp(words[0], "mgdump") == 0)
        return run_dump(l, r, false, words[1]);
    if (n != 2 || strcmp(words[0], "crawl") != 0)
        return error_of("ERROR\r\n");
    if (classes_of(words[1]) == 0)
        return error_of("BADCLASS invalid class id\r\n");
    l->hooks->crawl();
    return outcome_of(RESULT_OK);
}

static struct outcome run_memlimit(struct local *l, const struct request *r)
{
    if (r->number < MEGABYTES_MIN)
        return error_of("MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n");
    if (r->number > MEGABYTES_MAX)
        return error_of("MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n");
    cache_set_limit(l->cache, r->number << 20);
    return outcome_of(RESULT_OK);
}

/* --- the public side --- */

void local_run(struct local *l, struct request *r)
{
    struct outcome outcome = outcome_of(RESULT_NONE);

    tell_time(l);
    switch ((enum opcode)r->op) {
    case OP_GET:
    case OP_GETS:
    case OP_GAT:
    case OP_GATS:
        outcome = run_retrieval(l, r);
        break;
    case OP_SET:
    case OP_ADD:
    case OP_REPLACE:
    case OP_APPEND:
    case OP_PREPEND:
    case OP_CAS:
        outcome = run_store(l, r);
        break;
    case OP_INCR:
    case OP_DECR:
        outcome = run_arith(l, r);
        break;
    case OP_DELETE:
        outcome = r->too_large ? run_too_large(l, r) : run_delete(l, r);
        break;
    case OP_META_DELETE:
        if (r->too_large) {
            outcome = run_too_large(l, r);
            break;
        }
        /* fall through */
    case OP_META_GET:
    case OP_META_SET:
    case OP_META_ARITH:
    case OP_META_DEBUG:
        local_run_meta(l, r);
        break;
    case OP_TOUCH:
        outcome = run_touch(l, r);
        break;
    case OP_FLUSH_ALL:
        outcome = run_flush(l, r);
        break;
    case OP_STATS:
        outcome = local_run_stats(l, r);
        break;
    case OP_CRAWLER:
        outcome = run_crawler(l, r);
        break;
    case OP_MEMLIMIT:
        outcome = run_memlimit(l, r);
        break;
    default:
        assert(!"a command for a server");
    }
    if (outcome.result != RESULT_NONE)
        request_left_conn(&l->loop->requests, bufs_of(l), r, &outcome);
}

void local_refused_size(struct local *l, const struct request *r)
{
    cache_count_too_large(l->cache);
    if (watch_wants(WATCH_MUTATIONS))
        local_tell_refused(l, r, CACHE_TOO_LARGE);
}

struct local *local_create(struct loop *loop, struct cache *cache, const struct local_hooks *hooks,
                           const struct local_serving *serving)
{
    struct local *l = calloc(1, sizeof(*l));

    if (l == NULL)
        return NULL;
    l->loop = loop;
    l->cache = cache;
    l->hooks = hooks;
    l->serving = serving;
    item_out_setup(&l->out, loop);
    walks_setup(l);
    return l;
}

void local_destroy(struct local *l)
{
    if (l == NULL)
        return;
    walks_teardown(l);
    item_out_teardown(&l->out);
    free(l);
}
