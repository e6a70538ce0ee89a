/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cache_meta - what only the meta commands ask of an item: see cache.h.
 *
 * One who gets an item may be told to renew it, and nobody else is then (ITEM_SENT): because it has just been made,
 * empty, for the want of it; because it has little time left; or because it is stale.
 */
#include <string.h>

#include "cache_int.h"

/* --- getting --- */

/* Under the lock: whether whoever asks is told to renew it. */
static bool wins(const struct cache_item *item, const struct cache_ask *ask, uint32_t exptime, bool is_new)
{
    if (is_new)
        return true;
    if (item->bits & ITEM_SENT)
        return false;
    if (item->bits & ITEM_STALE)
        return true;
    return ask->recaches && exptime != 0 && exptime < ask->recache;
}

/* Under the lock. */
static struct cache_state state_of(const struct cache_item *item)
{
    uint32_t exptime = cache_item_exptime(item);

    return (struct cache_state){
        .unique = cache_item_unique(item),
        .old_exptime = exptime,
        .exptime = exptime,
        .time = cache_item_time(item),
        .is_fetched = (item->bits & ITEM_FETCHED) != 0,
        .is_stale = (item->bits & ITEM_STALE) != 0,
        .is_sent = (item->bits & ITEM_SENT) != 0,
        .binary_key = (item->bits & ITEM_BINARY_KEY) != 0,
    };
}

/* Under the lock: what the item is like, and what asking does to it. */
static void look(struct cache *cache, struct cache_item *item, const struct cache_ask *ask, bool is_new,
                 struct cache_state *state)
{
    uint32_t exptime = cache_item_exptime(item);
    bool touches = ask->touches && !(is_new && ask->spares_new);

    *state = state_of(item);
    if (touches)
        state->exptime = ask->exptime;
    state->won = wins(item, ask, ask->touches_first ? state->exptime : exptime, is_new);
    if (state->won)
        item_set_bits(item, item->bits | ITEM_SENT);
    if (touches)
        item_set_exptime(item, ask->exptime);
    if (!ask->is_silent) {
        op_access(cache, item);
        item_set_bits(item, item->bits | ITEM_FETCHED);
    }
    item_ref(item);
}

/* An empty item that the key may be given. NULL when memory ran out. */
static struct cache_item *make_empty(struct cache *cache, const void *key, size_t nkey, const struct cache_ask *ask)
{
    const struct cache_props props = {
        .exptime = ask->vivify_exptime, .binary_key = ask->binary_key, .own = ask->own, .unique = ask->own_unique};
    enum cache_result why;

    return cache_item_alloc_with(cache, key, nkey, &props, 0, &why);
}

static void count_get(struct cache *cache, const struct cache_item *item, const struct cache_ask *ask)
{
    if (item == NULL)
        COUNT(cache, get_misses);
    else if (ask->touches)
        COUNT_ITEM(cache, item, touch_hits);
    else
        COUNT_ITEM(cache, item, get_hits);
}

struct cache_item *cache_meta_get(struct cache *cache, const void *key, size_t nkey, const struct cache_ask *ask,
                                  struct cache_state *state)
{
    struct found found = op_find(cache, key, nkey, true);
    struct cache_item *item = found.place.item, *made = NULL;
    bool is_new;

    if (item == NULL && ask->vivifies) {
        op_unlock(&found);
        made = make_empty(cache, key, nkey, ask);
        found = op_find(cache, key, nkey, false);
        item = found.place.item;
    }
    is_new = item == NULL && made != NULL && op_insert(cache, &found, made);
    if (is_new)
        item = made;
    if (item != NULL)
        look(cache, item, ask, is_new, state);
    op_unlock(&found);
    if (made != NULL && !is_new)
        mem_undo(made);
    count_get(cache, item, ask);
    return item;
}

struct cache_item *cache_meta_look(struct cache *cache, const void *key, size_t nkey, struct cache_state *state)
{
    struct found found = op_find(cache, key, nkey, false);
    struct cache_item *item = found.place.item;

    if (item != NULL) {
        *state = state_of(item);
        item_ref(item);
    }
    op_unlock(&found);
    return item;
}

/* --- deleting --- */

/* What takes the place of an item that is not quite deleted. NULL when memory ran out. */
static struct cache_item *make_rest(struct cache *cache, const struct cache_item *old,
                                    const struct cache_removal *removal)
{
    /* A value that is taken away keeps the unique, unless it is to have another. */
    unsigned kept = ITEM_BINARY_KEY | (removal->removes_value ? 0u : ITEM_FETCHED);
    uint64_t unique = removal->own ? removal->own_unique : cache_item_unique(old);
    bool own = removal->own || (removal->removes_value && !removal->invalidates);
    size_t nvalue = removal->removes_value ? 0 : old->nvalue;
    struct cache_item *item = op_make_successor(cache, old, nvalue, own ? &unique : NULL);

    if (item == NULL)
        return NULL;
    if (removal->removes_value)
        item->flags = removal->flags;
    memcpy(cache_item_value(item), old->bytes + old->nkey, nvalue);
    item_set_bits(item, item->bits | (item_bits(old) & kept) | (removal->invalidates ? ITEM_STALE : 0u));
    return item;
}

/* Under the lock: one that nobody else holds, and that keeps its value, is marked where it is. False: it cannot be. */
static bool invalidate_in_place(struct cache *cache, struct cache_item *item, const struct cache_removal *removal)
{
    bool is_own = cache_item_is_own(item);

    if (item_refs(item) != 1 || removal->removes_value || (removal->own && !is_own))
        return false;
    item_set_bits(item, (item->bits | ITEM_STALE) & ~(unsigned)ITEM_SENT);
    item->cas = op_next_cas(cache);
    if (is_own)
        item_set_own(item, removal->own ? removal->own_unique : item->cas);
    if (removal->touches)
        item_set_exptime(item, removal->exptime);
    return true;
}

/* When the rest is gone: NULL, when the item would have been. */
static const uint32_t *exptime_of(const struct cache_removal *removal)
{
    return removal->touches || removal->removes_value ? &removal->exptime : NULL;
}

/* One try. CACHE_NOT_STORED: once more. */
static enum cache_result try_delete(struct cache *cache, const void *key, size_t nkey,
                                    const struct cache_removal *removal)
{
    struct found found = op_find(cache, key, nkey, true);
    struct cache_item *item = found.place.item, *rest;
    bool leaves = removal->invalidates || removal->removes_value;
    enum cache_result result = CACHE_STORED;

    if (item == NULL)
        result = CACHE_NOT_FOUND;
    else if (removal->compares && removal->unique != cache_item_unique(item))
        result = CACHE_EXISTS;
    if (result != CACHE_STORED) {
        COUNT(cache, delete_misses);
    } else if (removal->invalidates && invalidate_in_place(cache, item, removal)) {
        leaves = false;
    } else if (leaves) {
        item_ref(item);
    } else {
        COUNT_ITEM(cache, item, delete_hits);
        item_unlink(cache, found.shard, found.hash, found.place);
    }
    op_unlock(&found);
    if (result != CACHE_STORED || !leaves)
        return result;
    rest = make_rest(cache, item, removal);
    if (rest == NULL) {
        cache_item_release(item);
        return CACHE_NO_MEMORY;
    }
    if (!op_exchange_held(cache, item, rest, exptime_of(removal)))
        return CACHE_NOT_STORED;
    if (!removal->invalidates)
        COUNT_ITEM(cache, rest, delete_hits);
    cache_item_release(rest);
    return CACHE_STORED;
}

enum cache_result cache_meta_delete(struct cache *cache, const void *key, size_t nkey,
                                    const struct cache_removal *removal)
{
    enum cache_result result;

    while ((result = try_delete(cache, key, nkey, removal)) == CACHE_NOT_STORED)
        ;
    return result;
}
