/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_front - the near cache: see cproxy_front.h.
 *
 * Its engine is the cache (cache.h), one of its own. An item's value there is [padding][card][value]: the card has what
 * the cache does not, times in microseconds above all. To the cache no item ever expires; what has outlived its time is
 * found when it is asked for, or by the hand.
 *
 *   presence   a count for each of some places of the hash: most keys that are not here are told from it alone, and so
 *              are writes of them
 *   the hand   goes around all items when there are as many as there may be: what was asked for since it last came by
 *              stays, what was not goes
 *   lately     a print of the keys that were asked for lately and not kept, for lack of room
 */
#include "cproxy_front.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "keyspec.h"

enum {
    LOCKS = 64,
    PLACES_EACH = 16, /* of presence, a key that may be kept */
    PLACES_MIN = 1024,
    PLACES_MAX = 1 << 20,
    HAND_STEP = 8,           /* items, and places of the cache without any, that the hand looks at in one step, */
    HAND_STEPS = 320,        /* and steps for one key, at the most: enough for twice around a small cache */
    VALUE_PART = 4,          /* a value takes no more than such a part of front_cache_bytes */
    PATIENCE_MS = 5000,      /* after which another is sent to renew a value, where requests may take for ever */
    FLUSHES = 8,             /* delayed flush_alls that are told apart */
    FLUSH_ABOUT_US = 2000000 /* a delayed flush_all happens within so much of its time: servers count in seconds */
};

/* What is known of an item besides its value and flags. */
struct card {
    uint64_t fresh_us; /* everybody gets it until then, */
    uint64_t stale_us; /* and until then all but one, who renews it */
    uint64_t renew_us; /* atomic: when somebody was last sent to; 0: never */
    uint64_t all;      /* of the ticket: it is gone when that is not good any more */
    uint64_t unique;
    uint32_t flags;
    uint8_t knows;
    uint8_t is_binary;
    uint8_t is_miss;
    uint8_t used; /* atomic: it was asked for since the hand came by */
};

_Static_assert(sizeof(struct card) % 8 == 0, "cards are aligned");

/* About when a delayed flush_all happens. */
struct flush {
    uint64_t from_us;
    uint64_t to_us;
};

struct front_rest {
    /* immutable */
    struct cache *cache;
    struct guard *guard;
    uint64_t item_max; /* bytes of a value */
    uint64_t lifespan_us;
    uint64_t miss_lifespan_us;
    uint64_t stale_us;
    uint64_t patience_us;

    uint64_t evicted; /* atomic */
    pthread_mutex_t locks[LOCKS];

    pthread_mutex_t hand_lock;
    struct cache_cursor hand;

    pthread_mutex_t flush_lock;
    struct flush flushes[FLUSHES + 1];
    uint32_t num_flushes; /* atomic: of them, that may be to come */
};

/* --- items --- */

static size_t padding(size_t nkey)
{
    return -(sizeof(struct cache_item) + nkey) & 7;
}

static size_t overhead(size_t nkey)
{
    return padding(nkey) + sizeof(struct card);
}

static struct card *card_of(struct cache_item *item)
{
    return (struct card *)__builtin_assume_aligned(cache_item_value(item) + padding(item->nkey), 8);
}

static uint16_t *presence_of(struct front *f, uint64_t hash)
{
    return &front_place_of(f, hash)->presence;
}

static void has_gone(struct front *f, uint64_t hash)
{
    __atomic_fetch_sub(presence_of(f, hash), 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_sub(&f->num_items, 1, __ATOMIC_RELAXED);
}

static bool drop(struct front *f, uint64_t hash, const void *key, size_t nkey)
{
    if (!cache_drop(f->rest->cache, key, nkey))
        return false;
    has_gone(f, hash);
    return true;
}

static uint64_t hash_of_item(const struct front *f, const struct cache_item *item)
{
    return keyhash_of(&f->rest->guard->hash, cache_item_key(item), item->nkey);
}

static void on_evicted(void *arg, const struct cache_item *item, bool was_fetched)
{
    struct front *f = arg;

    (void)was_fetched;
    has_gone(f, hash_of_item(f, item));
    __atomic_fetch_add(&f->rest->evicted, 1, __ATOMIC_RELAXED);
}

/* Whether nobody is to have it any more. */
static bool is_over(const struct front *f, const struct card *card, uint64_t now_us)
{
    return now_us >= card->stale_us || atomic_load(&f->rest->guard->all) != card->all;
}

/* --- looking --- */

/* Whether it is for whoever asks now to renew a value: for one at a time. */
static bool is_sent_to_renew(const struct front *f, struct card *card, uint64_t now_us)
{
    uint64_t last = __atomic_load_n(&card->renew_us, __ATOMIC_RELAXED);

    if (last != 0 && now_us < last + f->rest->patience_us)
        return false;
    return __atomic_compare_exchange_n(&card->renew_us, &last, now_us, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static void tell(const struct card *card, struct cache_item *item, struct front_hit *hit)
{
    hit->item = item;
    hit->value = cache_item_value(item) + overhead(item->nkey);
    hit->value_len = item->nvalue - overhead(item->nkey);
    hit->fresh_us = card->fresh_us;
    hit->knows = card->knows;
    hit->facts = (struct facts){
        .unique = card->unique, .flags = card->flags, .size = (uint32_t)hit->value_len, .is_binary = card->is_binary};
}

enum front_result front_get(struct front *f, uint64_t hash, const struct rkey *key, unsigned needs, uint64_t now_us,
                            struct counters *n, struct front_hit *hit)
{
    struct cache_item *item = NULL;
    struct card *card;

    if (__atomic_load_n(presence_of(f, hash), __ATOMIC_ACQUIRE) != 0)
        item = cache_get(f->rest->cache, key->p, key->len);
    if (item == NULL && front_has_no_room(f, hash)) {
        front_meet(f, hash, n);
        return FRONT_PASS;
    }
    if (item == NULL) {
        counter_add(&n->front.tot_get_misses, 1);
        return FRONT_ASK;
    }
    card = card_of(item);
    if (is_over(f, card, now_us)) {
        cache_item_release(item);
        drop(f, hash, key->p, key->len);
        counter_add(&n->front.tot_get_expires, 1);
        return FRONT_ASK;
    }
    if ((!card->is_miss && (needs & ~card->knows)) || (now_us >= card->fresh_us && is_sent_to_renew(f, card, now_us))) {
        cache_item_release(item);
        counter_add(&n->front.tot_get_misses, 1);
        return FRONT_ASK;
    }
    counter_add(&n->front.tot_get_hits, 1);
    if (now_us >= card->fresh_us)
        counter_add(&n->front.tot_get_stale, 1);
    if (!__atomic_load_n(&card->used, __ATOMIC_RELAXED))
        __atomic_store_n(&card->used, 1, __ATOMIC_RELAXED);
    if (card->is_miss) {
        hit->fresh_us = card->fresh_us;
        cache_item_release(item);
        return FRONT_MISS;
    }
    tell(card, item, hit);
    return FRONT_HIT;
}

/* --- room --- */

struct sweep {
    struct front *f;
    uint64_t now_us;
    struct counters *n;
};

static void sweep_item(void *arg, struct cache_item *item)
{
    struct sweep *sweep = arg;
    struct front *f = sweep->f;
    struct card *card = card_of(item);

    if (!is_over(f, card, sweep->now_us) &&
        (!front_is_full(f) || __atomic_exchange_n(&card->used, 0, __ATOMIC_RELAXED)))
        return;
    if (drop(f, hash_of_item(f, item), cache_item_key(item), item->nkey))
        counter_add(&sweep->n->front.tot_evictions, 1);
}

/* Makes room for one key, if that can be done in short time. */
static bool make_room(struct front *f, uint64_t now_us, struct counters *n)
{
    struct sweep sweep = {.f = f, .now_us = now_us, .n = n};

    if (pthread_mutex_trylock(&f->rest->hand_lock) != 0)
        return false;
    for (int i = 0; i < HAND_STEPS && front_is_full(f); i++)
        if (!cache_walk(f->rest->cache, &f->rest->hand, HAND_STEP, sweep_item, &sweep))
            memset(&f->rest->hand, 0, sizeof(f->rest->hand));
    pthread_mutex_unlock(&f->rest->hand_lock);
    return !front_is_full(f);
}

/* Whether a key is here, over or not. */
static bool is_here(struct front *f, uint64_t hash, const void *key, size_t nkey)
{
    return __atomic_load_n(presence_of(f, hash), __ATOMIC_RELAXED) != 0 &&
           cache_look(f->rest->cache, key, nkey).state != CACHE_SIGHT_NONE;
}

/* --- filling --- */

struct cache_item *front_begin_fill(struct front *f, const struct rkey *key, size_t value_len,
                                    const struct facts *facts, unsigned knows, struct counters *n)
{
    enum cache_result why;
    struct cache_item *item = NULL;

    if (value_len <= f->rest->item_max)
        item = cache_item_alloc(f->rest->cache, key->p, key->len, 0, 0, overhead(key->len) + value_len, &why);
    if (item == NULL) {
        counter_add(&n->front.tot_add_fails, 1);
        return NULL;
    }
    *card_of(item) = (struct card){
        .unique = facts->unique, .flags = facts->flags, .knows = (uint8_t)knows, .is_binary = facts->is_binary};
    return item;
}

void front_fill(struct cache_item *item, size_t at, const uint8_t *p, size_t len)
{
    memcpy(cache_item_value(item) + overhead(item->nkey) + at, p, len);
}

/*
 * Until when a value may be kept: a delayed flush_all ends it before its time. 0: not at all.
 */
static uint64_t bounded(struct front *f, uint64_t now_us, uint64_t until_us)
{
    if (__atomic_load_n(&f->rest->num_flushes, __ATOMIC_ACQUIRE) == 0)
        return until_us;
    pthread_mutex_lock(&f->rest->flush_lock);
    for (uint32_t i = 0; i < f->rest->num_flushes; i++) {
        if (now_us >= f->rest->flushes[i].to_us) {
            f->rest->flushes[i] = f->rest->flushes[f->rest->num_flushes - 1];
            __atomic_store_n(&f->rest->num_flushes, f->rest->num_flushes - 1, __ATOMIC_RELEASE);
            i--;
        } else if (now_us >= f->rest->flushes[i].from_us) {
            until_us = 0;
        } else if (until_us > f->rest->flushes[i].from_us) {
            until_us = f->rest->flushes[i].from_us;
        }
    }
    pthread_mutex_unlock(&f->rest->flush_lock);
    return until_us;
}

/*
 * Puts an item where it can be found, unless its key was written since it was asked for. The presence is told first:
 * either the write sees that, and waits for the lock to take the item out, or its beginning is seen here.
 */
static bool enter(struct front *f, uint64_t hash, struct cache_item *item, const struct guard_ticket *ticket)
{
    pthread_mutex_t *lock = &f->rest->locks[hash % LOCKS];
    const struct rkey key = {.p = cache_item_key(item), .len = item->nkey};
    bool is_good;

    pthread_mutex_lock(lock);
    __atomic_fetch_add(presence_of(f, hash), 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&f->num_items, 1, __ATOMIC_RELAXED);
    is_good = guard_is_good(f->rest->guard, hash, ticket);
    if (is_good)
        drop(f, hash, key.p, key.len);
    if (is_good && __atomic_load_n(&f->num_items, __ATOMIC_RELAXED) <= f->max) {
        is_good = cache_store(f->rest->cache, item, CACHE_ADD, NULL) == CACHE_STORED;
    } else {
        is_good = false;
        cache_item_release(item);
    }
    if (!is_good)
        has_gone(f, hash);
    pthread_mutex_unlock(lock);
    return is_good;
}

/* An item lives from now on, for lifespan_us, and is given for stale_us more while it is renewed. False: not at all. */
static bool begin_life(struct front *f, struct card *card, const struct guard_ticket *ticket, uint64_t lifespan_us,
                       uint64_t stale_us, uint64_t now_us)
{
    uint64_t until = bounded(f, now_us, now_us + lifespan_us + stale_us);

    card->all = ticket->all;
    card->fresh_us = until < now_us + lifespan_us ? until : now_us + lifespan_us;
    card->stale_us = until;
    return until > now_us;
}

static void keep(struct front *f, uint64_t hash, struct cache_item *item, const struct guard_ticket *ticket,
                 uint64_t now_us, struct counters *n)
{
    uint64_t bytes = item->nvalue;

    /* What is here already, to be renewed, needs no room. */
    if (front_is_full(f) && !is_here(f, hash, cache_item_key(item), item->nkey) && !make_room(f, now_us, n)) {
        cache_item_release(item);
        counter_add(&n->front.tot_add_skips, 1);
    } else if (enter(f, hash, item, ticket)) {
        counter_add(&n->front.tot_adds, 1);
        counter_add(&n->front.tot_add_bytes, bytes);
    } else {
        counter_add(&n->front.tot_add_fails, 1);
    }
}

void front_end_fill(struct front *f, uint64_t hash, struct cache_item *item, const struct guard_ticket *ticket,
                    uint64_t now_us, struct counters *n)
{
    if (begin_life(f, card_of(item), ticket, f->rest->lifespan_us, f->rest->stale_us, now_us))
        keep(f, hash, item, ticket, now_us, n);
    else
        cache_item_release(item);
}

void front_fill_miss(struct front *f, uint64_t hash, const struct rkey *key, const struct guard_ticket *ticket,
                     uint64_t now_us, struct counters *n)
{
    static const struct facts none;
    struct cache_item *item = NULL;

    if (f->rest->miss_lifespan_us > 0)
        item = front_begin_fill(f, key, 0, &none, 0, n);
    if (item == NULL) {
        /* There may be an older word, which was to be renewed. */
        front_forget(f, hash, key, n);
        return;
    }
    card_of(item)->is_miss = 1;
    if (begin_life(f, card_of(item), ticket, f->rest->miss_lifespan_us, 0, now_us))
        keep(f, hash, item, ticket, now_us, n);
    else
        cache_item_release(item);
}

/* --- writes --- */

void front_forget(struct front *f, uint64_t hash, const struct rkey *key, struct counters *n)
{
    pthread_mutex_t *lock = &f->rest->locks[hash % LOCKS];

    if (__atomic_load_n(presence_of(f, hash), __ATOMIC_SEQ_CST) == 0)
        return;
    pthread_mutex_lock(lock);
    if (drop(f, hash, key->p, key->len))
        counter_add(&n->front.tot_deletes, 1);
    pthread_mutex_unlock(lock);
}

/* How far two are apart; 0: they meet. */
static uint64_t gap(const struct flush *a, const struct flush *b)
{
    if (a->to_us < b->from_us)
        return b->from_us - a->to_us;
    return b->to_us < a->from_us ? a->from_us - b->to_us : 0;
}

/* Makes one of two that meet, or, if there are too many, of the two that are nearest to each other. */
static void join_flushes(struct front *f)
{
    uint32_t n = f->rest->num_flushes, one = 0, other = 1;

    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = i + 1; j < n; j++)
            if (gap(&f->rest->flushes[i], &f->rest->flushes[j]) <
                gap(&f->rest->flushes[one], &f->rest->flushes[other])) {
                one = i;
                other = j;
            }
    if (n < 2 || (n <= FLUSHES && gap(&f->rest->flushes[one], &f->rest->flushes[other]) > 0))
        return;
    if (f->rest->flushes[other].from_us < f->rest->flushes[one].from_us)
        f->rest->flushes[one].from_us = f->rest->flushes[other].from_us;
    if (f->rest->flushes[other].to_us > f->rest->flushes[one].to_us)
        f->rest->flushes[one].to_us = f->rest->flushes[other].to_us;
    f->rest->flushes[other] = f->rest->flushes[n - 1];
    __atomic_store_n(&f->rest->num_flushes, n - 1, __ATOMIC_RELEASE);
}

void front_flush_later(struct front *f, uint32_t delay_s, uint64_t now_us)
{
    uint64_t at = now_us + (uint64_t)delay_s * 1000000;

    pthread_mutex_lock(&f->rest->flush_lock);
    f->rest->flushes[f->rest->num_flushes] = (struct flush){
        .from_us = at > now_us + FLUSH_ABOUT_US ? at - FLUSH_ABOUT_US : now_us, .to_us = at + FLUSH_ABOUT_US};
    __atomic_store_n(&f->rest->num_flushes, f->rest->num_flushes + 1, __ATOMIC_RELEASE);
    join_flushes(f);
    pthread_mutex_unlock(&f->rest->flush_lock);
}

/* --- life --- */

static uint32_t num_places(uint64_t max)
{
    uint32_t n = PLACES_MIN;

    while (n < max * PLACES_EACH && n < PLACES_MAX)
        n *= 2;
    return n;
}

static void free_rest(struct front_rest *rest)
{
    if (rest == NULL)
        return;
    cache_destroy(rest->cache);
    pthread_mutex_destroy(&rest->flush_lock);
    pthread_mutex_destroy(&rest->hand_lock);
    for (size_t i = 0; i < LOCKS; i++)
        pthread_mutex_destroy(&rest->locks[i]);
    free(rest);
}

static struct front_rest *make_rest(struct front *f, const struct settings *settings, struct guard *guard)
{
    struct front_rest *rest = calloc(1, sizeof(*rest));
    uint32_t patience_ms = settings->downstream_timeout_ms > 0 ? settings->downstream_timeout_ms : PATIENCE_MS;
    struct cache_options options = {
        .limit = settings->front_cache_bytes,
        .item_max = CACHE_ITEM_MAX_LIMIT,
        .evict = true,
        .evicted = on_evicted,
        .evicted_arg = f,
    };

    if (rest == NULL)
        return NULL;
    rest->guard = guard;
    rest->item_max = settings->front_cache_bytes / VALUE_PART;
    rest->lifespan_us = (uint64_t)settings->front_cache_lifespan_ms * 1000;
    rest->miss_lifespan_us = (uint64_t)settings->front_cache_miss_lifespan_ms * 1000;
    rest->stale_us = (uint64_t)settings->front_cache_stale_ms * 1000;
    rest->patience_us = (uint64_t)patience_ms * 1000;
    for (size_t i = 0; i < LOCKS; i++)
        pthread_mutex_init(&rest->locks[i], NULL);
    pthread_mutex_init(&rest->hand_lock, NULL);
    pthread_mutex_init(&rest->flush_lock, NULL);
    rest->cache = cache_create(&options);
    if (rest->cache != NULL)
        return rest;
    free_rest(rest);
    return NULL;
}

struct front *front_create(const struct settings *settings, struct guard *guard, const struct hotkeys *hotkeys)
{
    uint32_t places = num_places(settings->front_cache_max);
    struct front *f = calloc(1, sizeof(*f));

    if (f == NULL)
        return NULL;
    f->hotkeys = hotkeys;
    f->max = settings->front_cache_max;
    f->place_mask = places - 1;
    f->places = calloc(places, sizeof(*f->places));
    f->rest = make_rest(f, settings, guard);
    if (f->places != NULL && f->rest != NULL &&
        keyspec_setup(&f->spec, settings->front_cache_spec, settings->front_cache_unspec))
        return f;
    front_destroy(f);
    return NULL;
}

void front_destroy(struct front *f)
{
    if (f == NULL)
        return;
    keyspec_teardown(&f->spec);
    free_rest(f->rest);
    free(f->places);
    free(f);
}

struct front_sums front_sums(struct front *f)
{
    struct cache_stats stats;

    cache_stats(f->rest->cache, &stats);
    return (struct front_sums){.items = __atomic_load_n(&f->num_items, __ATOMIC_RELAXED),
                               .bytes = stats.all.mem_requested,
                               .evicted = __atomic_load_n(&f->rest->evicted, __ATOMIC_RELAXED)};
}
