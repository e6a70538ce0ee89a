/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_keys - what is counted by key: for hot keys (hotkeys.h), and for the key stats of those that the settings name
 * (keystats.h).
 *
 * A key of a retrieval is counted when its client gets the value, or when the request is finished without: so hits and
 * misses are of keys, whatever they were asked for together with. All else is counted when it comes.
 */
#include "cproxy.h"

/* Whether the worker keeps stats of the key. */
static bool has_stats(const struct pool_state *ps, const struct rkey *key)
{
    const struct cproxy_shared *shared = ps->shared;

    return ps->keystats != NULL && hotkeys_match(shared->hotkeys, &shared->key_stats_spec, key->p, key->len);
}

static void add_stats(struct request *r, const struct rkey *key, enum key_fate fate, size_t bytes)
{
    unsigned flags = op_flags((enum opcode)r->op);
    bool gets = (flags & OPF_VALUES) != 0, stores = (flags & OPF_BODY) != 0;
    struct keystats_counts add = {
        .seen = 1,
        .gets = gets,
        .stores = stores,
        .others = !gets && !stores,
        .hits = fate == KEY_HIT,
        .misses = fate == KEY_MISS,
        .read_bytes = key->len + (fate == KEY_CHANGE ? bytes : 0),
        .write_bytes = fate == KEY_HIT ? bytes : 0,
    };

    keystats_add(r->pool->keystats, key->p, key->len, &add, r->pool->loop->now_us);
}

void cproxy_look_at_key(struct request *r, const struct rkey *key, enum key_fate fate, size_t bytes, bool is_due)
{
    struct pool_state *ps = r->pool;

    if (is_due)
        hotkeys_sample(&ps->hotkeys, key, cproxy_route(ps, key), bytes, fate != KEY_CHANGE, ps->loop->now_us);
    if (has_stats(ps, key))
        add_stats(r, key, fate, bytes);
}

void cproxy_count_misses(struct request *r)
{
    /* From the first on, though it may have asked again for the rest. */
    const struct rkey *keys = r->keys - r->num_done_keys;

    for (uint32_t i = 0; i < r->num_done_keys + r->num_keys; i++)
        if (!keys[i].is_hit)
            cproxy_count_key(r, &keys[i], KEY_MISS, 0);
}
