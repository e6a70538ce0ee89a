/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_local_meta - the meta commands run on the cache: see cproxy_local_int.h. What they find goes to the client's
 * codec as facts, which writes those that were asked for.
 */
#include <stdio.h>

#include "base64.h"
#include "cproxy_local_int.h"
#include "prefix_stats.h"
#include "watch.h"

static bool has(const struct request *r, uint32_t bit)
{
    return (r->terms.bits & bit) != 0;
}

/* Seconds that are left; -1: for good. */
static int64_t ttl_of(const struct local *l, uint32_t exptime)
{
    uint32_t now = cache_clock(l->cache);

    return exptime == 0 ? -1 : exptime > now ? (int64_t)exptime - now : 0;
}

static uint64_t unique_of(const struct local *l, uint64_t unique)
{
    return l->serving->has_cas ? unique : 0;
}

static void tell_lookup(struct local *l, const struct request *r)
{
    if (watch_wants(WATCH_FETCHERS))
        local_tell_lookup(l, r);
}

/* Ends the request. facts may be NULL. */
static void finish(struct local *l, struct request *r, struct outcome outcome, const struct facts *facts)
{
    outcome.facts = facts;
    request_left_conn(&l->loop->requests, &l->loop->bufs, r, &outcome);
}

/* --- mg --- */

static struct facts facts_of(const struct local *l, const struct cache_item *item, const struct cache_state *state)
{
    uint32_t now = cache_clock(l->cache);

    return (struct facts){.unique = unique_of(l, state->unique),
                          .flags = item->flags,
                          .size = item->nvalue,
                          .old_ttl = ttl_of(l, state->old_exptime),
                          .ttl = ttl_of(l, state->exptime),
                          .idle = state->time < now ? now - state->time : 0,
                          .is_fetched = state->is_fetched,
                          .is_stale = state->is_stale,
                          .is_sent = state->is_sent,
                          .won = state->won,
                          .is_binary = state->binary_key};
}

static void run_get(struct local *l, struct request *r)
{
    const struct rkey *key = &r->keys[0];
    const struct cache_ask ask = {.is_silent = has(r, TERM_SILENT),
                                  .touches = has(r, TERM_TOUCH),
                                  .touches_first = has(r, TERM_TOUCH_FIRST),
                                  .spares_new = has(r, TERM_SPARE_NEW),
                                  .exptime = local_exptime(l, r->exptime),
                                  .recaches = has(r, TERM_RECACHE),
                                  .recache = local_exptime(l, r->terms.recache),
                                  .vivifies = has(r, TERM_VIVIFY),
                                  .vivify_exptime = local_exptime(l, r->terms.vivify),
                                  .binary_key = has(r, TERM_BASE64),
                                  .own = has(r, TERM_NEW_UNIQUE),
                                  .own_unique = r->terms.new_unique};
    struct cache_state state;
    struct cache_item *item;
    struct facts facts;
    bool is_sent;

    tell_lookup(l, r);
    item = cache_meta_get(l->cache, key->p, key->len, &ask, &state);
    if (prefix_stats_enabled())
        prefix_stats_get(key->p, key->len, item != NULL);
    if (item == NULL) {
        finish(l, r, outcome_of(RESULT_END), NULL);
        return;
    }
    facts = facts_of(l, item, &state);
    if (!has(r, TERM_VALUE) || r->answered) {
        cache_item_release(item);
        finish(l, r, outcome_of(RESULT_FOUND), &facts);
        return;
    }
    is_sent = local_send_hit(l, r, 0, item, &facts);
    if (!is_sent)
        cache_item_release(item);
    finish(l, r, outcome_of(is_sent ? RESULT_END : RESULT_NO_MEMORY), NULL);
}

/* --- ms --- */

static enum cache_mode mode_of(const struct request *r)
{
    switch (r->terms.mode) {
    case OP_ADD:
        return CACHE_ADD;
    case OP_APPEND:
        return CACHE_APPEND;
    case OP_PREPEND:
        return CACHE_PREPEND;
    case OP_REPLACE:
        return has(r, TERM_COMPARE) ? CACHE_CAS : CACHE_REPLACE;
    default:
        return has(r, TERM_COMPARE) ? CACHE_CAS : CACHE_SET;
    }
}

/* Which unique a store compares. To add it makes no difference; nor to append with -C, as in memcached. */
static uint64_t unique_for(const struct local *l, const struct request *r, enum cache_mode mode)
{
    if (mode == CACHE_ADD || (mode != CACHE_CAS && !l->serving->has_cas))
        return 0;
    return local_compared(l, r->terms.compare);
}

static void run_set(struct local *l, struct request *r)
{
    enum cache_mode mode = mode_of(r);
    bool vivifies = has(r, TERM_VIVIFY) && (mode == CACHE_APPEND || mode == CACHE_PREPEND);
    const struct cache_props props = {.flags = r->flags,
                                      .exptime = local_exptime(l, vivifies ? r->terms.vivify : r->exptime),
                                      .binary_key = has(r, TERM_BASE64),
                                      .own = has(r, TERM_NEW_UNIQUE),
                                      .unique = r->terms.new_unique};
    struct cache_terms terms = {.unique = has(r, TERM_COMPARE) ? unique_for(l, r, mode) : 0,
                                .allows_stale = has(r, TERM_INVALIDATE),
                                .vivifies = vivifies};
    struct outcome outcome;
    struct cache_item *item = local_make_item(l, r, &props, &outcome);
    enum cache_result result;
    struct facts facts;

    if (item == NULL) {
        finish(l, r, outcome, NULL);
        return;
    }
    result = local_store(l, r, item, mode, &terms);
    facts = (struct facts){.unique = unique_of(l, terms.unique), .size = terms.nvalue};
    finish(l, r, local_store_outcome(result), result == CACHE_STORED ? &facts : NULL);
}

/* --- md --- */

static void run_delete(struct local *l, struct request *r)
{
    const struct rkey *key = &r->keys[0];
    const struct cache_removal removal = {.compares =
                                              has(r, TERM_COMPARE) && (l->serving->has_cas || r->terms.compare != 0),
                                          .unique = local_compared(l, r->terms.compare),
                                          .invalidates = has(r, TERM_INVALIDATE),
                                          .removes_value = has(r, TERM_REMOVE_VALUE),
                                          .flags = r->flags,
                                          .touches = has(r, TERM_TOUCH),
                                          .exptime = local_exptime(l, r->exptime),
                                          .own = has(r, TERM_NEW_UNIQUE),
                                          .own_unique = r->terms.new_unique};
    struct cache_sight sight;
    enum cache_result result;

    if (prefix_stats_enabled())
        prefix_stats_delete(key->p, key->len);
    tell_lookup(l, r);
    sight = local_look_to_delete(l, r);
    result = cache_meta_delete(l->cache, key->p, key->len, &removal);
    if (result == CACHE_STORED && !removal.invalidates && !removal.removes_value)
        local_tell_deleted(r, &sight);
    if (result == CACHE_NO_MEMORY)
        finish(l, r, error_of("SERVER_ERROR out of memory\r\n"), NULL);
    else
        finish(l, r, result == CACHE_STORED ? outcome_of(RESULT_DELETED) : local_store_outcome(result), NULL);
}

/* --- ma --- */

static void run_arith(struct local *l, struct request *r)
{
    const struct rkey *key = &r->keys[0];
    struct cache_arith a = {.incr = r->terms.mode == OP_INCR,
                            .delta = r->number,
                            .unique = has(r, TERM_COMPARE) ? local_compared(l, r->terms.compare) : 0,
                            .own = has(r, TERM_NEW_UNIQUE),
                            .own_unique = r->terms.new_unique,
                            .vivifies = has(r, TERM_VIVIFY),
                            .initial = r->terms.initial,
                            .vivify_exptime = local_exptime(l, r->terms.vivify),
                            .binary_key = has(r, TERM_BASE64),
                            .touches = has(r, TERM_TOUCH),
                            .spares_new = has(r, TERM_SPARE_NEW),
                            .exptime = local_exptime(l, r->exptime)};
    enum cache_result result;
    struct facts facts;

    tell_lookup(l, r);
    result = cache_arith_with(l->cache, key->p, key->len, &a);
    if (result == CACHE_NO_MEMORY) {
        finish(l, r, error_of("SERVER_ERROR out of memory\r\n"), NULL);
    } else if (result != CACHE_STORED) {
        finish(l, r, local_store_outcome(result), NULL);
    } else {
        facts = (struct facts){
            .unique = unique_of(l, a.unique), .old_ttl = ttl_of(l, a.old_exptime), .ttl = ttl_of(l, a.exptime)};
        finish(l, r, (struct outcome){.result = RESULT_NUMBER, .number = a.value}, &facts);
    }
}

/* --- me --- */

static void run_debug(struct local *l, struct request *r)
{
    const struct rkey *key = &r->keys[0];
    char line[8 + (KEY_MAX + 2) / 3 * 4 + 160];
    struct cache_state state;
    struct cache_item *item;
    uint32_t now = cache_clock(l->cache);
    size_t n = 3;

    item = cache_meta_look(l->cache, key->p, key->len, &state);
    if (item == NULL) {
        finish(l, r, outcome_of(RESULT_END), NULL);
        return;
    }
    memcpy(line, "ME ", 3);
    if (state.binary_key) {
        n += base64_encode(key->p, key->len, (uint8_t *)line + n);
    } else {
        memcpy(line + n, key->p, key->len);
        n += key->len;
    }
    n += (size_t)snprintf(line + n, sizeof(line) - n, " exp=%lld la=%u cas=%llu fetch=%s cls=%u size=%llu\r\n",
                          state.exptime != 0 ? (long long)now - state.exptime : -1,
                          state.time < now ? now - state.time : 0, (unsigned long long)unique_of(l, state.unique),
                          state.is_fetched ? "yes" : "no", cache_item_class(l->cache, item),
                          (unsigned long long)cache_item_size(item));
    cache_item_release(item);
    finish(l, r, (struct outcome){.result = RESULT_FOUND, .text = (const uint8_t *)line, .text_len = n}, NULL);
}

void local_run_meta(struct local *l, struct request *r)
{
    switch ((enum opcode)r->op) {
    case OP_META_GET:
        run_get(l, r);
        break;
    case OP_META_SET:
        run_set(l, r);
        break;
    case OP_META_DELETE:
        run_delete(l, r);
        break;
    case OP_META_ARITH:
        run_arith(l, r);
        break;
    default:
        run_debug(l, r);
        break;
    }
}
