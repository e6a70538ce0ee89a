/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_local_stats - what the cache inside says of itself, under memcached's names: see cproxy_local_int.h.
 *
 * Names of memcached's for what this cache does not have (slab pages that move, LRUs of several temperatures) are left
 * out of the tables by class; in `stats` they are there with the 0 that is true of them, since tools ask for them.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "cproxy_local_int.h"
#include "prefix_stats.h"

enum {
    STAT_LINE_MAX = 256,
    CLASSES_NAMED = 64, /* 0 to 63 are memcached's numbers of classes, whether it has so many or not */
};

_Static_assert((int)CACHE_CLASSES <= (int)CLASSES_NAMED, "every class can be asked for");

static void tell(struct request *r, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void tell(struct request *r, const char *fmt, ...)
{
    char line[STAT_LINE_MAX];
    va_list args;
    int n;

    va_start(args, fmt);
    n = vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    if (n > 0 && (size_t)n < sizeof(line) && !r->answered)
        r->ops->stat(r, (const uint8_t *)line, (size_t)n);
}

static void tell_number(struct request *r, const char *name, uint64_t value)
{
    tell(r, "STAT %s %" PRIu64, name, value);
}

static void tell_general(struct request *r, const struct cache_stats *s)
{
    const struct cache_counters *n = &s->counters;
    const struct cache_class_counters *all = &s->all;

    tell_number(r, "cmd_get", all->get_hits + n->get_misses);
    tell_number(r, "cmd_set", all->cmd_set);
    tell_number(r, "cmd_flush", n->cmd_flush);
    tell_number(r, "cmd_touch", all->touch_hits + n->touch_misses);
    tell_number(r, "get_hits", all->get_hits);
    tell_number(r, "get_misses", n->get_misses);
    tell_number(r, "get_expired", n->get_expired);
    tell_number(r, "get_flushed", n->get_flushed);
    tell_number(r, "delete_misses", n->delete_misses);
    tell_number(r, "delete_hits", all->delete_hits);
    tell_number(r, "incr_misses", n->incr_misses);
    tell_number(r, "incr_hits", all->incr_hits);
    tell_number(r, "decr_misses", n->decr_misses);
    tell_number(r, "decr_hits", all->decr_hits);
    tell_number(r, "cas_misses", n->cas_misses);
    tell_number(r, "cas_hits", all->cas_hits);
    tell_number(r, "cas_badval", all->cas_badval);
    tell_number(r, "touch_hits", all->touch_hits);
    tell_number(r, "touch_misses", n->touch_misses);
    tell_number(r, "store_too_large", n->store_too_large);
    tell_number(r, "store_no_memory", n->store_no_memory);
    tell_number(r, "limit_maxbytes", s->limit_maxbytes);
    tell_number(r, "malloc_fails", n->malloc_fails);
    tell_number(r, "hash_power_level", s->hash_power);
    tell_number(r, "hash_bytes", s->hash_bytes);
    tell_number(r, "hash_is_expanding", 0); /* never for longer than a call */
    tell_number(r, "bytes", all->mem_requested);
    tell_number(r, "curr_items", all->number);
    tell_number(r, "total_items", n->total_items);
    tell_number(r, "expired_unfetched", all->expired_unfetched);
    tell_number(r, "evicted_unfetched", all->evicted_unfetched);
    tell_number(r, "evicted_active", all->evicted_active);
    tell_number(r, "evictions", all->evicted);
    tell_number(r, "reclaimed", all->reclaimed);
    tell_number(r, "crawler_reclaimed", all->crawler_reclaimed);
    tell_number(r, "crawler_items_checked", all->crawler_items_checked);
    tell_number(r, "slab_global_page_pool", s->free_pages);
}

static void tell_settings(struct request *r, const struct cache_stats *s)
{
    tell_number(r, "maxbytes", s->limit_maxbytes);
}

struct class_row {
    const char *name;
    uint64_t value;
};

static void tell_class(struct request *r, const char *prefix, unsigned class, const struct class_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        tell(r, "STAT %s%u:%s %" PRIu64, prefix, class, rows[i].name, rows[i].value);
}

static void tell_items(struct request *r, const struct cache_stats *s)
{
    for (unsigned i = 1; i < CACHE_CLASSES; i++) {
        const struct cache_class_counters *c = &s->counters.classes[i];
        const struct class_row rows[] = {
            {"number", c->number},
            {"age", s->ages[i]},
            {"mem_requested", c->mem_requested},
            {"evicted", c->evicted},
            {"evicted_nonzero", c->evicted_nonzero},
            {"evicted_time", s->evicted_time[i]},
            {"outofmemory", c->outofmemory},
            {"reclaimed", c->reclaimed},
            {"expired_unfetched", c->expired_unfetched},
            {"evicted_unfetched", c->evicted_unfetched},
            {"evicted_active", c->evicted_active},
            {"crawler_reclaimed", c->crawler_reclaimed},
            {"crawler_items_checked", c->crawler_items_checked},
        };

        if (c->number > 0)
            tell_class(r, "items:", i, rows, ARRAY_LEN(rows));
    }
}

/*
 * There are no pages of a class, so what memcached says of these is said of all. As there, a class that was once in use
 * is told when it is empty.
 */
static void tell_slabs(struct request *r, const struct cache_stats *s)
{
    unsigned active = 0;

    for (unsigned i = 1; i < CACHE_CLASSES; i++) {
        const struct cache_class_counters *c = &s->counters.classes[i];
        const struct class_row rows[] = {
            {"chunk_size", s->chunk_sizes[i]}, {"used_chunks", c->number},    {"mem_requested", c->mem_requested},
            {"get_hits", c->get_hits},         {"cmd_set", c->cmd_set},       {"delete_hits", c->delete_hits},
            {"incr_hits", c->incr_hits},       {"decr_hits", c->decr_hits},   {"cas_hits", c->cas_hits},
            {"cas_badval", c->cas_badval},     {"touch_hits", c->touch_hits},
        };

        if (!s->was_used[i])
            continue;
        active++;
        tell_class(r, "", i, rows, ARRAY_LEN(rows));
    }
    tell(r, "STAT active_slabs %u", active);
    tell_number(r, "total_malloced", s->bytes_held);
}

/* --- the command --- */

static struct outcome tell_cache(struct local *l, struct request *r,
                                 void (*tell_what)(struct request *r, const struct cache_stats *s))
{
    struct cache_stats *s = malloc(sizeof(*s));

    if (s == NULL)
        return outcome_of(RESULT_NO_MEMORY);
    cache_stats(l->cache, s);
    tell_what(r, s);
    free(s);
    return outcome_of(RESULT_END);
}

static void tell_prefix(void *arg, const char *line, size_t n)
{
    struct request *r = arg;

    if (!r->answered)
        r->ops->stat(r, (const uint8_t *)line, n);
}

/* stats detail on|off|dump */
static struct outcome run_detail(struct request *r, const char *what)
{
    if (what != NULL && strcmp(what, "dump") == 0) {
        prefix_stats_tell(tell_prefix, r);
        return outcome_of(RESULT_END);
    }
    if (what == NULL || (strcmp(what, "on") != 0 && strcmp(what, "off") != 0))
        return error_of("CLIENT_ERROR usage: stats detail on|off|dump\r\n");
    prefix_stats_enable(strcmp(what, "on") == 0);
    return outcome_of(RESULT_OK);
}

/* stats cachedump CLASS LIMIT */
static struct outcome run_cachedump(struct local *l, struct request *r, const char **words, size_t n)
{
    uint64_t class, limit;

    if (!l->serving->may_dump)
        return error_of("CLIENT_ERROR stats cachedump not allowed\r\n");
    if (n < 3)
        return error_of("CLIENT_ERROR bad command line\r\n");
    if (!util_parse_u64(words[1], strlen(words[1]), &class) || !util_parse_u64(words[2], strlen(words[2]), &limit))
        return error_of("CLIENT_ERROR bad command line format\r\n");
    if (class >= CLASSES_NAMED)
        return error_of("CLIENT_ERROR Illegal slab id\r\n");
    return outcome_of(walk_cachedump(l, r, (unsigned)class, limit) ? RESULT_NONE : RESULT_NO_MEMORY);
}

struct outcome local_run_stats(struct local *l, struct request *r)
{
    char buf[KEY_MAX + 1];
    const char *words[4];
    size_t n = local_words(r, buf, words, ARRAY_LEN(words));

    if (n == 0) {
        l->hooks->stats(r, LOCAL_GENERAL);
        return tell_cache(l, r, tell_general);
    }
    if (strcmp(words[0], "settings") == 0) {
        tell(r, "STAT evictions %s", l->serving->evicts ? "on" : "off");
        tell_number(r, "item_size_max", l->serving->item_max);
        tell(r, "STAT cas_enabled %s", l->serving->has_cas ? "yes" : "no");
        tell(r, "STAT dump_enabled %s", l->serving->may_dump ? "yes" : "no");
        tell(r, "STAT stat_key_prefix %c", prefix_stats_delimiter());
        tell(r, "STAT detail_enabled %s", prefix_stats_enabled() ? "yes" : "no");
        l->hooks->stats(r, LOCAL_SETTINGS);
        return tell_cache(l, r, tell_settings);
    }
    if (strcmp(words[0], "conns") == 0) {
        l->hooks->stats(r, LOCAL_CONNS);
        return outcome_of(RESULT_END);
    }
    if (strcmp(words[0], "items") == 0)
        return tell_cache(l, r, tell_items);
    if (strcmp(words[0], "slabs") == 0)
        return tell_cache(l, r, tell_slabs);
    if (strcmp(words[0], "sizes") == 0)
        return outcome_of(walk_sizes(l, r) ? RESULT_NONE : RESULT_NO_MEMORY);
    if (strcmp(words[0], "sizes_enable") == 0) { /* they always are */
        tell(r, "STAT sizes_status enabled");
        return outcome_of(RESULT_END);
    }
    if (strcmp(words[0], "detail") == 0)
        return run_detail(r, n > 1 ? words[1] : NULL);
    if (strcmp(words[0], "cachedump") == 0)
        return run_cachedump(l, r, words, n);
    if (strcmp(words[0], "reset") == 0) {
        cache_stats_reset(l->cache);
        prefix_stats_reset();
        l->hooks->stats_reset();
        return outcome_of(RESULT_RESET);
    }
    return error_of("ERROR\r\n");
}
