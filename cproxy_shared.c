/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_shared - what the workers have in common, made once: see struct cproxy_shared.
 *
 * Whatever keeps or shares replies has to be told of all writes of its keys, of those too that come by another pool
 * with the same server. So there is one guard in the process, for every pool that has such a server, and a write takes
 * its key out of the near caches of all of these pools. Servers are the same if they are spelled alike, or both are
 * local.
 */
#include <stdlib.h>
#include <string.h>

#include "cproxy.h"

static bool wants_front(const struct pool *pool)
{
    return pool->settings.front_cache_lifespan_ms > 0 && pool->settings.front_cache_spec[0] != '\0';
}

static bool wants_guard(const struct pool *pool)
{
    return pool->settings.squash || wants_front(pool);
}

static bool have_common_server(const struct pool *a, const struct pool *b)
{
    for (uint32_t i = 0; i < a->num_servers; i++)
        for (uint32_t j = 0; j < b->num_servers; j++)
            if (strcmp(a->servers[i].name, b->servers[j].name) == 0)
                return true;
    return false;
}

/* What is a pool's alone. */
static bool set_up_own(struct cproxy_shared *shared, const struct pool *pool, struct guard *guard)
{
    const struct settings *s = &pool->settings;

    if (!keyspec_setup(&shared->optimized, s->optimize_set, "") ||
        !keyspec_setup(&shared->key_stats_spec, s->key_stats_spec, s->key_stats_unspec))
        return false;
    if (s->hot_key_rate > 0 && (shared->hotkeys = hotkeys_create(pool->num_servers, s->hot_key_rate, 0)) == NULL)
        return false;
    if (wants_front(pool))
        shared->front = front_create(s, guard, shared->hotkeys);
    return shared->front != NULL || !wants_front(pool);
}

/* Which near caches a write by the pool is told to. */
static bool set_up_writes(struct cproxy_shared *all, const struct config *config, uint32_t pool, struct guard *guard)
{
    struct cproxy_shared *shared = &all[pool];
    uint32_t n = 0;

    shared->fronts = calloc(config->num_pools + 1, sizeof(struct front *));
    if (shared->fronts == NULL)
        return false;
    for (uint32_t i = 0; i < config->num_pools; i++) {
        if (!wants_guard(&config->pools[i]) || !have_common_server(&config->pools[pool], &config->pools[i]))
            continue;
        shared->guard = guard;
        if (all[i].front != NULL)
            shared->fronts[n++] = all[i].front;
    }
    return true;
}

struct cproxy_shared *cproxy_shared_create(const struct config *config)
{
    struct cproxy_shared *all = calloc(config->num_pools, sizeof(*all));
    struct guard *guard = NULL;
    bool is_whole = all != NULL;

    for (uint32_t i = 0; is_whole && i < config->num_pools && guard == NULL; i++)
        if (wants_guard(&config->pools[i]))
            is_whole = (guard = guard_create()) != NULL;
    for (uint32_t i = 0; is_whole && i < config->num_pools; i++)
        is_whole = set_up_own(&all[i], &config->pools[i], guard);
    for (uint32_t i = 0; is_whole && i < config->num_pools; i++)
        is_whole = set_up_writes(all, config, i, guard);
    if (is_whole)
        return all;
    /* Its end goes with the first that has it. */
    if (all != NULL)
        all[0].guard = guard;
    cproxy_shared_destroy(all, config);
    return NULL;
}

void cproxy_shared_destroy(struct cproxy_shared *all, const struct config *config)
{
    struct guard *guard = NULL;

    for (uint32_t i = 0; all != NULL && i < config->num_pools; i++) {
        if (all[i].guard != NULL)
            guard = all[i].guard;
        keyspec_teardown(&all[i].optimized);
        keyspec_teardown(&all[i].key_stats_spec);
        front_destroy(all[i].front);
        hotkeys_destroy(all[i].hotkeys);
        free(all[i].fronts);
    }
    guard_destroy(guard);
    free(all);
}
