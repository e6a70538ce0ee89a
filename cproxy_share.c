/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_share - replies that serve for more than the request that they are to: kept in the near cache (cproxy_front),
 * and given to all who ask the same at once (cproxy_squash.c).
 *
 *   share_admit   a write: the guard is told, and the near cache forgets the key; until the request is released
 *                 a plain read: from the near cache; or it follows one that is on its way; or it goes to a server, its
 *                 reply to be kept, and others may follow it
 *   share_ops     the reply to one of these: to the near cache, to the followers, and as every other to its client
 *
 * Plain reads are those that tell nothing of an item but what does not change unless it is written: get, mg with v f k
 * s q O b, get and its kin in the binary protocol. What they need, and what the reply to one tells, differs by protocol
 * (share_needs, share_knows).
 */
#include <assert.h>
#include <string.h>

#include "cproxy.h"

#define PLAIN_TERMS (TERM_QUIET | TERM_BASE64 | TERM_VALUE | TERM_FLAGS | TERM_SIZE)

static struct guard *guard_of(const struct request *r)
{
    return r->pool->shared->guard;
}

static struct front *front_of(const struct request *r)
{
    return r->pool->shared->front;
}

static uint64_t hash_of(const struct request *r, const struct rkey *key)
{
    return keyhash_of(&guard_of(r)->hash, key->p, key->len);
}

/* --- what a request is --- */

static bool is_write(const struct request *r)
{
    switch (r->op) {
    case OP_GET:
    case OP_GETS:
    case OP_META_DEBUG:
        return false;
    case OP_META_GET:
        return (r->terms.bits & TERMS_CHANGING) != 0;
    default:
        return true;
    }
}

/* Whether a flag of a meta command begins with one of the letters. */
static bool has_flag(const struct request *r, const char *letters)
{
    bool begins = true;

    for (size_t i = 0; i < r->arg_len; i++) {
        if (begins && r->arg[i] != ' ' && strchr(letters, r->arg[i]) != NULL)
            return true;
        begins = r->arg[i] == ' ';
    }
    return false;
}

/* Nor is there a flag that moxi does not know: the server may have something to say about it. */
static bool has_plain_flags(const struct request *r)
{
    bool begins = true;

    for (size_t i = 0; i < r->arg_len; i++) {
        if (begins && (r->arg[i] == '\0' || strchr(" vfksqOb", r->arg[i]) == NULL))
            return false;
        begins = r->arg[i] == ' ';
    }
    return true;
}

static bool is_plain_read(const struct request *r)
{
    if (r->op == OP_META_GET)
        return !(r->terms.bits & ~(uint32_t)PLAIN_TERMS) && has_plain_flags(r);
    return r->op == OP_GET || (r->op == OP_GETS && r->codec == &codec_binary);
}

/* What a plain read is about besides value and flags, see cproxy_front.h; of a meta command's key, with these flags. */
static unsigned facts_of(const struct request *r, const char *key_flags)
{
    if (r->op == OP_GETS)
        return FRONT_UNIQUE;
    if (r->op != OP_META_GET)
        return 0;
    return FRONT_STATE | (has_flag(r, key_flags) ? FRONT_KEY : 0);
}

unsigned share_needs(const struct request *r)
{
    return facts_of(r, "kb");
}

unsigned share_knows(const struct request *r)
{
    return facts_of(r, "k");
}

bool share_wants_value(const struct request *r)
{
    return r->op != OP_META_GET || (r->terms.bits & TERM_VALUE);
}

/* Whether the reply to a plain read is of use to others: it has value and flags. */
static bool tells_all(const struct request *r)
{
    return r->op != OP_META_GET || (~r->terms.bits & (TERM_VALUE | TERM_FLAGS)) == 0;
}

bool share_carry(struct request *r)
{
    if (!r->in_conn || r->answered || r->waiting || (r->followers == NULL && !r->fills && r->filling == NULL))
        return false;
    r->owner = NULL;
    spanq_clear(&r->held, &r->pool->loop->bufs);
    return true;
}

/* --- the near cache --- */

static void answered_here(struct request *r, struct outcome *outcome)
{
    struct front_counters *n = &r->pool->counters.front;

    if (r->put_off) {
        r->parked = true;
        client_wrote(r);
        return;
    }
    counter_add(&n->tot_saved_requests, 1);
    client_finish(r, outcome);
}

/* Whether it is answered from the near cache. If not, it is known then whether the server's reply is to be kept. */
static bool answer(struct request *r)
{
    struct pool_state *ps = r->pool;
    struct outcome outcome = {.result = RESULT_END};
    struct front_hit hit;

    switch (pocket_get(ps->pocket, r->hash, &r->keys[0], share_needs(r), ps->loop->now_us, &ps->counters, &hit)) {
    case FRONT_ASK:
        r->fills = tells_all(r);
        return false;
    case FRONT_PASS:
        return false;
    case FRONT_MISS:
        break;
    case FRONT_HIT:
        r->ops = &cproxy_relay_ops;
        counter_add(&ps->counters.front.tot_saved_bytes, share_wants_value(r) ? hit.value_len : 0);
        if (!share_wants_value(r)) {
            outcome = (struct outcome){.result = RESULT_FOUND, .facts = &hit.facts};
            cproxy_count_hit(r, 0, 0);
            front_hit_release(&hit);
        } else if (!item_send(&ps->items, r, 0, hit.item, hit.value, hit.value_len, &hit.facts)) {
            outcome.result = RESULT_NO_MEMORY;
            front_hit_release(&hit);
        }
        break;
    }
    answered_here(r, &outcome);
    return true;
}

enum front_result share_look(const struct request *r, const struct rkey *key, struct guard_ticket *ticket,
                             struct front_hit *hit)
{
    struct pool_state *ps = r->pool;
    uint64_t hash;
    enum front_result result;

    /* A ticket that is never good. */
    *ticket = (struct guard_ticket){.key = GUARD_PENDING};
    if (!front_wants(front_of(r), key))
        return FRONT_ASK;
    hash = hash_of(r, key);
    if (front_is_stranger(front_of(r), hash)) {
        front_meet(front_of(r), hash, &ps->counters);
        return FRONT_ASK;
    }
    result = pocket_get(ps->pocket, hash, key, share_needs(r), ps->loop->now_us, &ps->counters, hit);
    if (result == FRONT_ASK)
        *ticket = guard_ask(guard_of(r), hash);
    return result;
}

void share_begin_fill(struct request *r, const struct rkey *key, const struct hit *hit)
{
    const struct facts *facts = &hit->facts;
    bool is_stale = facts->is_stale || facts->is_sent || facts->won;

    assert(r->filling == NULL);
    if (!guard_is_good(guard_of(r), r->hash, &r->ticket))
        return;
    if (!is_stale)
        r->filling = front_begin_fill(front_of(r), key, hit->value_len, facts, share_knows(r), &r->pool->counters);
    if (r->filling == NULL)
        /* There may be an older one, which was to be renewed. */
        front_forget(front_of(r), r->hash, key, &r->pool->counters);
    r->filled = 0;
    r->fill_len = hit->value_len;
    r->left = share_left;
}

void share_fill(struct request *r, const uint8_t *p, size_t n)
{
    /* Without what stands behind the value. */
    if (n > r->fill_len - r->filled)
        n = r->fill_len - r->filled;
    front_fill(r->filling, r->filled, p, n);
    r->filled += n;
}

void share_end_fill(struct request *r)
{
    assert(r->filled == r->fill_len);
    front_end_fill(front_of(r), r->hash, r->filling, &r->ticket, r->pool->loop->now_us, &r->pool->counters);
    r->filling = NULL;
}

/* The value that was arriving will not be whole. */
static void drop_fill(struct request *r)
{
    if (r->filling != NULL)
        cache_item_release(r->filling);
    r->filling = NULL;
}

void share_fill_miss(struct request *r, const struct rkey *key)
{
    if (guard_is_good(guard_of(r), r->hash, &r->ticket))
        front_fill_miss(front_of(r), r->hash, key, &r->ticket, r->pool->loop->now_us, &r->pool->counters);
}

void share_set_fill(struct request *part, const struct rkey *key, const struct guard_ticket *ticket)
{
    part->hash = hash_of(part, key);
    part->ticket = *ticket;
}

/* The value is to be kept, if it is the one that was asked for to be. */
static void begin_keeping(struct request *r, const struct hit *hit)
{
    if (!r->fills)
        return;
    r->fills = false;
    share_begin_fill(r, &r->keys[0], hit);
}

static void share_hit(struct request *r, const struct hit *hit, struct chunk *chunk, uint8_t *p, size_t n)
{
    begin_keeping(r, hit);
    if (r->filling != NULL) {
        share_fill(r, p + hit->head_len, hit->value_len);
        share_end_fill(r);
    }
    if (UNLIKELY(r->followers != NULL))
        squash_hit(r, hit, chunk, p, n);
    if (r->owner != NULL)
        cproxy_relay_ops.hit(r, hit, chunk, p, n);
}

static void share_begin(struct request *r, const struct hit *hit)
{
    begin_keeping(r, hit);
    if (UNLIKELY(r->followers != NULL))
        squash_begin(r, hit);
    if (r->owner != NULL)
        cproxy_relay_ops.begin(r, hit);
}

static void share_data(struct request *r, struct chunk *chunk, uint8_t *p, size_t n)
{
    if (r->filling != NULL)
        share_fill(r, p, n);
    if (UNLIKELY(r->followers != NULL))
        squash_data(r, chunk, p, n);
    if (r->owner != NULL)
        cproxy_relay_ops.data(r, chunk, p, n);
}

static void share_end(struct request *r)
{
    if (r->filling != NULL)
        share_end_fill(r);
    if (UNLIKELY(r->followers != NULL))
        squash_end(r);
    if (r->owner != NULL)
        cproxy_relay_ops.end(r);
}

static void share_done(struct request *r, const struct outcome *outcome)
{
    struct request *followers = squash_take(r);

    if (r->fills && outcome->result == RESULT_END)
        share_fill_miss(r, &r->keys[0]);
    r->fills = false;
    drop_fill(r);
    if (r->owner != NULL)
        cproxy_relay_ops.done(r, outcome);
    else
        request_let_go(&r->pool->loop->requests, &r->pool->loop->bufs, &r);
    squash_done(followers, outcome);
}

const struct request_ops share_ops = {
    .hit = share_hit,
    .begin = share_begin,
    .data = share_data,
    .end = share_end,
    .done = share_done,
};

/* --- writes --- */

static void hold_key(struct request *r, const struct rkey *key)
{
    uint64_t hash = hash_of(r, key);

    guard_begin(guard_of(r), hash);
    for (struct front **front = r->pool->shared->fronts; *front != NULL; front++)
        front_forget(*front, hash, key, &r->pool->counters);
}

static void unhold_key(struct request *r, const struct rkey *key)
{
    guard_end(guard_of(r), hash_of(r, key));
}

/* Each key that it is held for: those of a part are linked, and its whole may have linked its own anew meanwhile. */
static void for_each_key(struct request *r, void (*fn)(struct request *r, const struct rkey *key))
{
    if (r->hold == HOLD_PART)
        for (uint32_t i = r->first; i != RKEY_END; i = r->keys[i].next)
            fn(r, &r->keys[i]);
    else
        for (uint32_t i = 0; i < r->num_keys; i++)
            fn(r, &r->keys[i]);
}

/* flush_all with a delay happens when its time has come, by a server's clock, with nobody there to say so. */
static void flush_later(const struct request *r)
{
    uint64_t now_us = r->pool->loop->now_us;
    uint32_t now = util_unix_seconds(now_us);
    uint32_t at = r->exptime > 0 ? cache_exptime(r->exptime, now) : 0;

    for (struct front **front = r->pool->shared->fronts; at > now && *front != NULL; front++)
        front_flush_later(*front, at - now, now_us);
}

void share_hold(struct request *r)
{
    r->hold = r->op == OP_FLUSH_ALL ? HOLD_ALL : r->parent != NULL ? HOLD_PART : HOLD_KEYS;
    r->left = share_left;
    if (r->hold != HOLD_ALL) {
        for_each_key(r, hold_key);
        return;
    }
    flush_later(r);
    guard_begin_all(guard_of(r));
}

static void end_hold(struct request *r)
{
    if (r->hold != HOLD_ALL) {
        for_each_key(r, unhold_key);
        return;
    }
    /* The server has counted from when it was told, at the latest now. */
    flush_later(r);
    guard_end_all(guard_of(r));
}

void share_left(struct request *r)
{
    const struct outcome lost = {.result = RESULT_CLOSED};

    if (r->hold != HOLD_NONE)
        end_hold(r);
    drop_fill(r);
    squash_done(squash_take(r), &lost);
}

/* --- admission --- */

/* A plain read that is to be asked, its ticket drawn: others may follow it, and what it brings may be kept. */
static void begin_read(struct request *r)
{
    /* While a key is being written, the reply is for nobody else. */
    if (guard_ticket_is_free(&r->ticket)) {
        r->leads = r->pool->settings->squash && tells_all(r);
        r->left = share_left;
    } else {
        r->fills = false;
    }
}

/* A plain read of one key. */
static bool admit_read(struct request *r)
{
    struct front *front = front_of(r);
    bool squashes = r->pool->settings->squash;

    r->fills = false;
    if (front != NULL && front_wants(front, &r->keys[0])) {
        r->hash = hash_of(r, &r->keys[0]);
        if (LIKELY(front_is_stranger(front, r->hash)))
            front_meet(front, r->hash, &r->pool->counters);
        else if (answer(r))
            return true;
    } else if (squashes) {
        r->hash = hash_of(r, &r->keys[0]);
    }
    if (!r->fills && !squashes)
        return false;
    r->ticket = guard_ask(guard_of(r), r->hash);
    if (squashes && squash_follow(r))
        return true;
    begin_read(r);
    return false;
}

/*
 * Whether a retrieval of several keys has one that the near cache may have, or may want to: then each is looked for
 * when it is to be asked for.
 */
static bool wants_any(struct request *r)
{
    enum { NOTED = 64 };
    struct front *front = front_of(r);
    uint64_t hashes[NOTED], hash;
    bool wanted[NOTED];

    for (uint32_t i = 0; i < r->num_keys; i++) {
        bool is_wanted = front_wants(front, &r->keys[i]);

        hash = is_wanted ? hash_of(r, &r->keys[i]) : 0;
        if (is_wanted && !front_is_stranger(front, hash))
            return true;
        if (i < NOTED) {
            wanted[i] = is_wanted;
            hashes[i] = hash;
        }
    }
    for (uint32_t i = 0; i < r->num_keys; i++) {
        if (i < NOTED ? !wanted[i] : !front_wants(front, &r->keys[i]))
            continue;
        front_meet(front, i < NOTED ? hashes[i] : hash_of(r, &r->keys[i]), &r->pool->counters);
    }
    return false;
}

/* A hash of all keys in their order, and a ticket for them. */
static void ask_for_all(struct request *r)
{
    struct guard *guard = guard_of(r);

    r->hash = 0;
    r->ticket = guard_ask_none(guard);
    for (uint32_t i = 0; i < r->num_keys; i++) {
        uint64_t hash = hash_of(r, &r->keys[i]);

        r->hash = (r->hash ^ hash) * UINT64_C(0x9e3779b97f4a7c15);
        guard_ask_more(guard, hash, &r->ticket);
    }
}

/* A plain read of several keys. */
static bool admit_several(struct request *r)
{
    r->fills = front_of(r) != NULL && wants_any(r);
    if (!r->pool->settings->squash)
        return false;
    ask_for_all(r);
    if (squash_follow(r))
        return true;
    r->leads = guard_ticket_is_free(&r->ticket);
    if (r->leads)
        r->left = share_left;
    return false;
}

bool share_admit(struct request *r)
{
    if (LIKELY(r->op == OP_GET && r->num_keys == 1))
        return admit_read(r);
    if (r->op == OP_FLUSH_ALL) {
        share_hold(r);
    } else if (op_flags((enum opcode)r->op) & OPF_KEY) {
        if (is_plain_read(r))
            return r->num_keys == 1 ? admit_read(r) : admit_several(r);
        if (is_write(r) && r->hold == HOLD_NONE)
            share_hold(r);
    }
    return false;
}

bool share_setup(struct pool_state *ps)
{
    item_out_setup(&ps->items, ps->loop);
    if (ps->shared->front != NULL) {
        ps->pocket = pocket_create(ps->shared->front, ps->shared->guard);
        if (ps->pocket == NULL)
            return false;
    }
    return squash_setup(ps);
}

void share_teardown(struct pool_state *ps)
{
    item_out_teardown(&ps->items);
    pocket_destroy(ps->pocket);
    squash_teardown(ps);
}
