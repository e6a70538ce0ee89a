/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_squash - equal gets that are in flight at once are asked once: one of them leads, and the others follow it and
 * have its reply.
 *
 *   place of a hash:  leader -> leader -> ...      those that may be followed, by next_flight
 *                        |
 *                        +-> follower -> ...       by next_down
 *
 * A follower stands in no queue but its leader's list; who leads is on a connection. It is as if both had been asked at
 * once: it follows only while the leader's ticket is good, so no write lies between them, and only a leader that takes
 * the connection that it would have taken, so that what its client asks after it is carried out after it. If a leader's
 * client goes, the leader stays, as a carrier, for its followers (share_carry).
 *
 * A leader may also be on several connections, in parts: see cproxy_multiget.c. Then its followers are let go when its
 * client goes, to ask for what they have not got; and their clients have to wait with what comes after them.
 *
 * cproxy_share.c calls this: when a plain read is admitted, and as the reply to one that leads comes.
 */
#include <stdlib.h>
#include <string.h>

#include "cproxy.h"

enum {
    FLIGHT_PLACES = 1024,
    FLIGHTS_EACH = 8, /* in one place: where there are as many, what comes is not to be followed */
};

static struct guard *guard_of(const struct request *r)
{
    return r->pool->shared->guard;
}

/* --- flights: requests that may be followed --- */

static struct request **flights_of(const struct request *r)
{
    return &r->pool->flights[(r->hash >> 32) % FLIGHT_PLACES];
}

/* Whether nobody may follow r any more, as keys of it were written; as far as that is told at once to one who asks. */
static bool is_spent(const struct request *r, const struct request *asks)
{
    if (r->num_keys == 1)
        return !guard_is_good(guard_of(r), r->hash, &r->ticket);
    return r->hash == asks->hash && !guard_tickets_agree(&r->ticket, &asks->ticket);
}

/* Takes those out of r's place that are spent. Whether there were any. */
static bool drop_flights(const struct request *asks, struct request **link)
{
    bool dropped = false;

    while (*link != NULL) {
        struct request *r = *link;

        if (!is_spent(r, asks)) {
            link = &r->next_flight;
            continue;
        }
        *link = r->next_flight;
        r->leads = false;
        dropped = true;
    }
    return dropped;
}

void squash_lead(struct request *r)
{
    struct request **place = flights_of(r);
    unsigned n = 0;

    for (const struct request *other = *place; other != NULL; other = other->next_flight)
        n++;
    if (n >= FLIGHTS_EACH && !drop_flights(r, place))
        return;
    r->next_flight = *place;
    *place = r;
}

void squash_leave(struct request *r)
{
    struct request **link = flights_of(r);

    while (*link != NULL && *link != r)
        link = &(*link)->next_flight;
    if (*link != NULL)
        *link = r->next_flight;
    r->leads = false;
}

/* Whether a leader, who will be answered by its own deadline, has at least half of the time left that r has. */
static bool is_in_time(const struct request *r, const struct request *leader)
{
    uint64_t now = r->pool->loop->now_us;

    return leader->deadline_us == 0 ||
           (leader->deadline_us > now && leader->deadline_us - now >= (r->deadline_us - now) / 2);
}

static bool have_same_keys(const struct request *a, const struct request *b)
{
    if (a->num_keys != b->num_keys)
        return false;
    for (uint32_t i = 0; i < a->num_keys; i++)
        if (a->keys[i].len != b->keys[i].len || memcmp(a->keys[i].p, b->keys[i].p, a->keys[i].len) != 0)
            return false;
    return true;
}

/*
 * Whether a reply to the leader will come, and nothing of it has come yet. One that was split may leave its followers
 * alone, so none has anything behind it: r has, if it asks again.
 */
static bool is_unanswered(const struct request *r, const struct request *leader)
{
    if (request_is_split(leader))
        return r->next == NULL && multiget_is_unanswered(leader);
    return !leader->answered && !leader->got_reply;
}

/* Whether what servers tell the leader is what they would tell r, which has drawn its ticket just now. */
static bool may_follow(const struct request *r, const struct request *leader)
{
    return leader->hash == r->hash && guard_tickets_agree(&leader->ticket, &r->ticket) && share_wants_value(r) &&
           is_in_time(r, leader) && is_unanswered(r, leader) && have_same_keys(r, leader) &&
           (leader->codec == &codec_binary) == (r->codec == &codec_binary) &&
           (share_needs(r) & ~share_knows(leader)) == 0;
}

bool squash_follow(struct request *r)
{
    struct request *leader = *flights_of(r);

    while (leader != NULL && !may_follow(r, leader))
        leader = leader->next_flight;
    if (leader == NULL)
        return false;
    r->alone = request_is_split(leader);
    r->server = leader->server;
    if (!r->alone && !client_pin_to(r, leader->conn))
        return false;
    r->ops = &cproxy_relay_ops;
    r->in_conn = true;
    /* Its leader's reply is kept, if any: nobody needs it when its client goes (share_carry). */
    r->fills = false;
    r->next_down = leader->followers;
    leader->followers = r;
    counter_add(&r->pool->counters.tot_squashed, 1);
    return true;
}

/* --- what followers are told --- */

/* The first of a list of followers whose client is still there. */
static struct request *live(struct request *r)
{
    while (r != NULL && r->answered)
        r = r->next_down;
    return r;
}

#define FOR_EACH_FOLLOWER(other, r) \
    for (struct request *other = live((r)->followers); other != NULL; other = live(other->next_down))

/*
 * A value for a follower: with a head of its own. Only one client is told to renew it (won): the leader's, or, if that
 * has gone, the first that is told such things.
 */
static void begin_follower(struct request *r, const struct hit *hit, bool *won)
{
    uint8_t head[HIT_HEAD_MAX];
    struct hit own = *hit;

    own.facts.won = *won && op_is_meta(r->op);
    own.facts.is_sent |= hit->facts.won && !own.facts.won;
    *won = *won && !own.facts.won;
    own.head_len = r->codec->compose_head(r, &own, head);
    own.head = head;
    r->ops->begin(r, &own);
}

void squash_hit(struct request *r, const struct hit *hit, struct chunk *chunk, uint8_t *p, size_t n)
{
    bool won = hit->facts.won && r->owner == NULL;

    FOR_EACH_FOLLOWER (other, r) {
        if (other->op == OP_GET && r->op == OP_GET) {
            other->ops->hit(other, hit, chunk, p, n);
            continue;
        }
        begin_follower(other, hit, &won);
        other->ops->data(other, chunk, p + hit->head_len, hit->value_len + hit->tail_len);
        other->ops->end(other);
    }
}

void squash_begin(struct request *r, const struct hit *hit)
{
    bool won = hit->facts.won && r->owner == NULL;

    FOR_EACH_FOLLOWER (other, r)
        begin_follower(other, hit, &won);
}

void squash_data(struct request *r, struct chunk *chunk, uint8_t *p, size_t n)
{
    FOR_EACH_FOLLOWER (other, r)
        other->ops->data(other, chunk, p, n);
}

void squash_end(struct request *r)
{
    FOR_EACH_FOLLOWER (other, r)
        other->ops->end(other);
}

void squash_pieces(struct request *r, uint32_t key, const struct spanq *pieces)
{
    /* As it is whole, there is nothing to be streamed: none of it is called the value. */
    const struct hit hit = {.key = key, .tail_len = pieces->bytes};

    FOR_EACH_FOLLOWER (other, r) {
        other->ops->begin(other, &hit);
        for (const struct span *span = pieces->head; span != NULL; span = span->next)
            other->ops->data(other, span->chunk, span->p, span->len);
        other->ops->end(other);
    }
}

struct request *squash_take(struct request *r)
{
    struct request *followers = r->followers;

    if (r->leads)
        squash_leave(r);
    r->followers = NULL;
    return followers;
}

void squash_done(struct request *followers, const struct outcome *outcome)
{
    struct outcome theirs = *outcome;
    struct request *r;

    /* Errors are lines that all have; what else the server wrote was for one. */
    if (theirs.result != RESULT_ERROR)
        theirs.text = NULL;
    theirs.facts = NULL;
    while ((r = followers) != NULL) {
        followers = r->next_down;
        request_left_conn(&r->pool->loop->requests, &r->pool->loop->bufs, r, &theirs);
    }
}

void squash_part(struct request *followers, uint32_t from)
{
    const struct outcome end = {.result = RESULT_END};

    for (struct request *r = live(followers); r != NULL; r = live(r->next_down)) {
        if (r->put_off || from == r->num_keys)
            continue;
        r->again_from = from;
        client_set_put_off(r, true);
    }
    squash_done(followers, &end);
}

bool squash_setup(struct pool_state *ps)
{
    if (!ps->settings->squash)
        return true;
    ps->flights = calloc(FLIGHT_PLACES, sizeof(*ps->flights));
    return ps->flights != NULL;
}

void squash_teardown(struct pool_state *ps)
{
    free(ps->flights);
}
