/* SPDX-License-Identifier: BSD-3-Clause */
/* cproxy_pocket - see cproxy_pocket.h. */
#include "cproxy_pocket.h"

#include <stdlib.h>
#include <string.h>

enum {
    PLACES = 256,
    USES = 64,        /* of a copy, before the near cache is asked again */
    VALUE_MAX = 4096, /* bytes of a value that is copied: to copy a larger one takes longer than a lock */
    TAIL = 2,         /* CR LF behind a value */
};

struct copy {
    struct guard_ticket ticket;
    uint64_t fresh_us; /* it is not given from then on */
    struct facts facts;
    uint32_t room; /* bytes that there is room for */
    uint32_t value_len;
    uint16_t key_len;
    uint8_t knows;
    uint8_t bytes[]; /* key, value, CR LF */
};

/* What was last asked for of the keys whose hash belongs here. */
struct place {
    uint64_t hash;
    uint32_t uses;     /* that the copy is still good for; 0: there is none, but maybe its memory */
    struct copy *copy; /* from malloc, or NULL */
};

struct pocket {
    struct front *front;
    struct guard *guard;
    struct place places[PLACES];
};

static bool is_of(const struct copy *copy, const struct rkey *key)
{
    return copy->key_len == key->len && memcmp(copy->bytes, key->p, key->len) == 0;
}

/* Whether a copy is what the near cache would give. */
static bool serves(const struct pocket *p, const struct place *place, const struct rkey *key, unsigned needs,
                   uint64_t now_us)
{
    const struct copy *copy = place->copy;

    return place->uses > 0 && now_us < copy->fresh_us && (needs & ~(unsigned)copy->knows) == 0 && is_of(copy, key) &&
           guard_is_good(p->guard, place->hash, &copy->ticket);
}

static void tell(struct copy *copy, struct front_hit *hit)
{
    *hit = (struct front_hit){.value = copy->bytes + copy->key_len,
                              .value_len = copy->value_len,
                              .facts = copy->facts,
                              .fresh_us = copy->fresh_us,
                              .knows = copy->knows};
}

/* Whether there is room for so many bytes of key and value. */
static bool make_room(struct place *place, size_t bytes)
{
    if (place->copy != NULL && place->copy->room >= bytes)
        return true;
    free(place->copy);
    place->copy = malloc(sizeof(*place->copy) + bytes);
    if (place->copy == NULL)
        return false;
    place->copy->room = (uint32_t)bytes;
    return true;
}

static void keep(struct place *place, const struct rkey *key, const struct guard_ticket *ticket,
                 const struct front_hit *hit)
{
    struct copy *copy;

    if (!make_room(place, key->len + hit->value_len + TAIL))
        return;
    copy = place->copy;
    copy->ticket = *ticket;
    copy->fresh_us = hit->fresh_us;
    copy->facts = hit->facts;
    copy->value_len = (uint32_t)hit->value_len;
    copy->key_len = key->len;
    copy->knows = (uint8_t)hit->knows;
    memcpy(copy->bytes, key->p, key->len);
    memcpy(copy->bytes + key->len, hit->value, hit->value_len + TAIL);
    place->uses = USES;
}

enum front_result pocket_get(struct pocket *p, uint64_t hash, const struct rkey *key, unsigned needs, uint64_t now_us,
                             struct counters *n, struct front_hit *hit)
{
    struct place *place = &p->places[hash % PLACES];
    struct guard_ticket ticket;
    enum front_result result;

    if (place->hash != hash) {
        place->hash = hash;
        place->uses = 0;
        return front_get(p->front, hash, key, needs, now_us, n, hit);
    }
    if (serves(p, place, key, needs, now_us)) {
        place->uses--;
        counter_add(&n->front.tot_get_hits, 1);
        tell(place->copy, hit);
        return FRONT_HIT;
    }
    place->uses = 0;
    ticket = guard_ask(p->guard, hash);
    result = front_get(p->front, hash, key, needs, now_us, n, hit);
    if (result == FRONT_HIT && hit->value_len <= VALUE_MAX && now_us < hit->fresh_us &&
        guard_is_good(p->guard, hash, &ticket))
        keep(place, key, &ticket, hit);
    return result;
}

struct pocket *pocket_create(struct front *front, struct guard *guard)
{
    struct pocket *p = calloc(1, sizeof(*p));

    if (p == NULL)
        return NULL;
    p->front = front;
    p->guard = guard;
    return p;
}

void pocket_destroy(struct pocket *p)
{
    if (p == NULL)
        return;
    for (size_t i = 0; i < PLACES; i++)
        free(p->places[i].copy);
    free(p);
}
