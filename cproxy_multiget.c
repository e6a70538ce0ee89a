/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_multiget - a retrieval of several keys: one multiget for each server, one reply in the order of the keys.
 *
 *   keys     a    b    c    d    e    f          (batch: keys up to next_key have been asked)
 *   server   0    1    0    2    1    0
 *   parts    0: a c f      1: b e      2: d      (a request each; its keys linked by index)
 *   slots    hit  -    hit  miss ...             (filled as the parts are answered)
 *                 ^ cursor: what is before it has been handed to the client
 *
 * As a client may ask for more than it, or moxi, can hold, not all keys are asked at once when the pool's values are
 * large: as many as fit in client_buffer_max, then the next when these have been written.
 *
 * Should they be larger than thought, values that arrive when the client is owed too much are dropped, and asked for
 * again (SLOT_AGAIN; see client_puts_off). A value is handed on whole, but for one of stream_min bytes or more whose
 * turn it is.
 *
 * Others may follow one that is asked for whole at once (cproxy_squash.c). They are told what is in the slots before
 * that is handed on, or at the latest when all parts are there, whether or not it is the leader's turn then. When it
 * puts off a value, or its client goes, they ask for what they have not been told themselves (part_ways). So that
 * nothing gets between, what their clients send behind them is not asked before they are answered (request.alone).
 *
 * A gat has another limit: memcached closes a connection on which more than 2,048 bytes of a line arrive without its
 * end, unless it is a get or gets.
 *
 * The slots are handed on when all parts of a batch are there, or more than EMIT_BYTES: not in drips, for each would
 * cost the client a wake-up.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "cproxy.h"

enum {
    EMIT_BYTES = 64 * 1024,
    GAT_LINE_MAX = 2000,         /* bytes of a gat's line */
    GATHER_COPY_MAX = 16 * 1024, /* values up to this size are copied out of the read buffer while they wait */
};

enum slot_state {
    SLOT_PENDING, /* not asked, or not answered */
    SLOT_MISS,
    SLOT_PIECE, /* in gathered */
    SLOT_QUEUE, /* in a queue of its own */
    SLOT_GONE,  /* handed on while it arrived */
    SLOT_AGAIN, /* put off: to be asked for again */
};

/* A key's place in the reply. */
struct slot {
    union {
        struct {
            struct chunk *chunk; /* kept by gathered */
            uint8_t *p;
            size_t len;
        } piece;
        struct spanq queue;
    };
};

/* Hangs on the client's request (parts), and dies with its reply. One chunk holds it and its arrays. */
struct multiget {
    struct chunk *chunk;
    uint32_t next_key;  /* the first that was not asked yet */
    uint32_t cursor;    /* the first that was not handed on yet */
    uint32_t num_out;   /* parts on their way */
    uint32_t num_again; /* slots in SLOT_AGAIN */
    uint32_t told; /* the first of which those who follow were not told yet; no value is handed on before it is told */
    uint64_t near_until_us; /* when the first that came from the near cache gets old: nobody follows it from then on */
    bool any_value;
    bool was_asked;    /* a server was asked for something */
    enum result error; /* of a part that failed for another reason than that its server is away; NONE: none */
    struct spanq error_text;
    struct spanq gathered;        /* small values that wait */
    size_t waiting_bytes;         /* values that were not handed on */
    size_t arriving_bytes;        /* those that are not whole yet, nor passed on while they arrive: all of them */
    struct slot *slots;           /* one a key */
    uint8_t *states;              /* enum slot_state, one a key */
    uint32_t *servers;            /* one a key */
    struct request **parts;       /* one a server: NULL, or on its way */
    uint32_t *last;               /* one a server: the last key that was added to its part */
    struct guard_ticket *tickets; /* one a key, for the near cache; NULL: it has none of them */
};

static struct loop *loop_of(const struct request *r)
{
    return r->pool->loop;
}

/* --- those that follow --- */

/* Tells them what is in the slots up to the first that is still open. */
static void tell(struct request *r)
{
    struct multiget *m = r->parts;

    /* What is missing may turn out to be an error. */
    if (m->error != RESULT_NONE && !m->any_value)
        return;
    for (; m->told < r->num_keys && m->states[m->told] != SLOT_PENDING; m->told++) {
        const struct slot *slot = &m->slots[m->told];
        const struct hit hit = {.key = m->told};

        assert(m->states[m->told] != SLOT_GONE && m->states[m->told] != SLOT_AGAIN);
        if (m->states[m->told] == SLOT_PIECE)
            squash_hit(r, &hit, slot->piece.chunk, slot->piece.p, slot->piece.len);
        else if (m->states[m->told] == SLOT_QUEUE)
            squash_pieces(r, m->told, &slot->queue);
    }
}

/* From here on they ask themselves. */
static void part_ways(struct request *r)
{
    const struct multiget *m = r->parts;

    if (r->followers != NULL)
        tell(r);
    squash_part(squash_take(r), m->told);
}

static enum result result_of(const struct multiget *m)
{
    return m->any_value || m->error == RESULT_NONE ? RESULT_END : m->error;
}

/* All parts have come back. */
static void end_followers(struct request *r)
{
    const struct multiget *m = r->parts;
    struct outcome outcome = {.result = result_of(m)};
    uint8_t line[REPLY_LINE_MAX];

    tell(r);
    if (outcome.result == RESULT_ERROR) {
        assert(m->error_text.bytes <= sizeof(line));
        spanq_peek_tail(&m->error_text, line, m->error_text.bytes);
        outcome.text = line;
        outcome.text_len = m->error_text.bytes;
    }
    squash_done(squash_take(r), &outcome);
}

/* --- the parts' replies --- */

static void fail_memory(struct request *part)
{
    /* The value is lost for the part's client alone. */
    part_ways(part->parent);
    client_fail(part->parent->owner, "out of memory");
}

/* Whether a value is dropped, to be asked for again; not the one that all others wait for. */
static bool put_off(struct request *part, uint32_t key)
{
    struct request *r = part->parent;
    struct multiget *m = r->parts;

    if (LIKELY(m->num_again == 0 && !client_puts_off(r, m->waiting_bytes + m->arriving_bytes)))
        return false;
    if (key == m->cursor && client_is_turn(r))
        return false;
    part_ways(r);
    m->states[key] = SLOT_AGAIN;
    m->num_again++;
    client_set_put_off(r, true);
    return true;
}

/* Hands on what there is up to the first key that is still open. False when memory ran out. */
static bool emit(struct request *r)
{
    struct multiget *m = r->parts;
    struct bufpool *bufs = &loop_of(r)->bufs;
    struct spanq *out = client_output(r);

    if (UNLIKELY(r->followers != NULL))
        tell(r);
    for (; m->cursor < m->next_key; m->cursor++) {
        struct slot *slot = &m->slots[m->cursor];

        switch ((enum slot_state)m->states[m->cursor]) {
        case SLOT_PENDING:
        case SLOT_AGAIN:
            return true;
        case SLOT_MISS:
        case SLOT_GONE:
            break;
        case SLOT_PIECE:
            m->waiting_bytes -= slot->piece.len;
            if (!spanq_add(out, bufs, slot->piece.chunk, slot->piece.p, slot->piece.len))
                return false;
            break;
        case SLOT_QUEUE:
            m->waiting_bytes -= slot->queue.bytes;
            spanq_concat(out, &slot->queue);
            break;
        }
    }
    /* When nothing waits, all that was gathered has been handed on: by copy, or by a reference of its own. */
    if (m->waiting_bytes == 0)
        spanq_clear(&m->gathered, bufs);
    return true;
}

/* A key's value is in its slot. */
static void count_value(struct request *r, uint32_t key, size_t n)
{
    struct multiget *m = r->parts;

    m->any_value = true;
    m->waiting_bytes += n;
    r->reply_bytes += n;
    cproxy_count_hit(r, key, n);
    if (m->waiting_bytes >= EMIT_BYTES)
        client_wrote(r);
}

static bool copy_value(struct request *r, uint32_t key, const uint8_t *p, size_t n)
{
    struct multiget *m = r->parts;
    struct slot *slot = &m->slots[key];
    uint8_t *to = spanq_reserve(&m->gathered, &loop_of(r)->bufs, n, CHUNK_MEDIUM, NULL);

    if (to == NULL)
        return false;
    memcpy(to, p, n);
    spanq_commit(&m->gathered, n);
    slot->piece.chunk = m->gathered.tail->chunk;
    slot->piece.p = to;
    slot->piece.len = n;
    m->states[key] = SLOT_PIECE;
    return true;
}

static bool refer_value(struct request *r, uint32_t key, struct chunk *chunk, uint8_t *p, size_t n)
{
    struct multiget *m = r->parts;
    struct spanq *queue = &m->slots[key].queue;

    spanq_init(queue);
    if (!spanq_refer(queue, &loop_of(r)->bufs, chunk, p, n))
        return false;
    m->states[key] = SLOT_QUEUE;
    return true;
}

/* Puts a whole value in its slot. False when memory ran out. */
static bool put_value(struct request *r, uint32_t key, struct chunk *chunk, uint8_t *p, size_t n)
{
    bool ok = n <= GATHER_COPY_MAX ? copy_value(r, key, p, n) : refer_value(r, key, chunk, p, n);

    client_holds(r, n);
    if (ok)
        count_value(r, key, n);
    return ok;
}

/* A value begins, that is to be kept in the near cache maybe. */
static void begin_fill(struct request *part, const struct hit *hit)
{
    const struct multiget *m = part->parent->parts;

    if (m->tickets == NULL)
        return;
    share_set_fill(part, &part->keys[hit->key], &m->tickets[hit->key]);
    share_begin_fill(part, &part->keys[hit->key], hit);
}

static void part_hit(struct request *part, const struct hit *hit, struct chunk *chunk, uint8_t *p, size_t n)
{
    struct request *r = part->parent;
    struct multiget *m = r->parts;

    cproxy_learn_value(part->pool, n);
    part->num_hits++;
    begin_fill(part, hit);
    if (part->filling != NULL) {
        share_fill(part, p + hit->head_len, hit->value_len);
        share_end_fill(part);
    }
    if (put_off(part, hit->key) || put_value(r, hit->key, chunk, p, n))
        return;
    fail_memory(part);
    /* It is answered: still pending, it would be a miss of the server's, to be kept in the near cache. */
    m->states[hit->key] = SLOT_MISS;
}

static void part_begin(struct request *part, const struct hit *hit)
{
    struct multiget *m = part->parent->parts;
    size_t stream_min = part->pool->settings->stream_min;
    size_t bytes = hit->head_len + hit->value_len + hit->tail_len;

    cproxy_learn_value(part->pool, bytes);
    part->num_hits++;
    begin_fill(part, hit);
    if (put_off(part, hit->key))
        return;
    client_holds(part->parent, bytes);
    part->in_value = true;
    part->reply_bytes = bytes;
    m->arriving_bytes += bytes;
    part->value_key = hit->key;
    part->value_bytes = bytes;
    /* What others need is kept until they have been told of it. */
    part->may_stream = stream_min > 0 && hit->value_len >= stream_min && part->parent->followers == NULL;
    if (!spanq_copy(&part->held, &loop_of(part)->bufs, hit->head, hit->head_len))
        fail_memory(part);
}

/* The value that was arriving is whole, or is passed on, or has been lost. */
static void leave_arriving(struct request *part)
{
    struct multiget *m = part->parent->parts;

    m->arriving_bytes -= part->reply_bytes;
    part->reply_bytes = 0;
}

/* Hands on what has arrived of a large value, if nothing has to go before it. */
static void stream(struct request *part)
{
    struct request *r = part->parent;
    struct multiget *m = r->parts;

    if (!client_is_turn(r))
        return;
    if (!emit(r)) {
        fail_memory(part);
        return;
    }
    if (m->cursor != part->value_key)
        return;
    if (!part->streaming) {
        counter_add(&r->pool->counters.tot_streamed, 1);
        leave_arriving(part);
    }
    part->streaming = true;
    r->reply_bytes += part->held.bytes;
    spanq_concat(client_output(r), &part->held);
    client_wrote(r);
}

static void part_data(struct request *part, struct chunk *chunk, uint8_t *p, size_t n)
{
    if (part->filling != NULL)
        share_fill(part, p, n);
    if (!part->in_value)
        return;
    if (!spanq_add(&part->held, &loop_of(part)->bufs, chunk, p, n))
        fail_memory(part);
    else if (part->may_stream)
        stream(part);
}

static void part_end(struct request *part)
{
    struct multiget *m = part->parent->parts;
    size_t n = part->held.bytes;

    if (part->filling != NULL)
        share_end_fill(part);
    if (!part->in_value)
        return;
    part->in_value = false;
    leave_arriving(part);
    if (part->streaming) {
        part->streaming = false;
        m->states[part->value_key] = SLOT_GONE;
        m->any_value = true;
        cproxy_count_hit(part->parent, part->value_key, part->value_bytes);
        return;
    }
    spanq_init(&m->slots[part->value_key].queue);
    spanq_concat(&m->slots[part->value_key].queue, &part->held);
    m->states[part->value_key] = SLOT_QUEUE;
    count_value(part->parent, part->value_key, n);
}

static void keep_error(struct request *part, const struct outcome *outcome)
{
    struct multiget *m = part->parent->parts;
    struct outcome out = cproxy_read_outcome(part, outcome);

    if (out.result == RESULT_END || m->error != RESULT_NONE)
        return;
    m->error = out.result;
    if (out.text != NULL && !spanq_copy(&m->error_text, &loop_of(part)->bufs, out.text, out.text_len))
        m->error = RESULT_NO_MEMORY;
}

/* A server has no such key. */
static void fill_miss(struct request *part, uint32_t i)
{
    const struct multiget *m = part->parent->parts;

    share_set_fill(part, &part->keys[i], &m->tickets[i]);
    share_fill_miss(part, &part->keys[i]);
}

static void part_done(struct request *part, const struct outcome *outcome)
{
    struct request *r = part->parent;
    struct multiget *m = r->parts;

    if (part->streaming)
        client_fail(r->owner, "a server failed in the middle of a value");
    leave_arriving(part);
    if (part->num_hits == 0 && outcome->result == RESULT_END)
        cproxy_learn_value(part->pool, 0);
    for (uint32_t i = part->first; i != RKEY_END; i = part->keys[i].next)
        if (m->states[i] == SLOT_PENDING) {
            m->states[i] = SLOT_MISS;
            if (m->tickets != NULL && outcome->result == RESULT_END)
                fill_miss(part, i);
        }
    keep_error(part, outcome);
    m->num_out--;
    client_unpin(part, outcome);
    request_let_go(&loop_of(r)->requests, &loop_of(r)->bufs, &m->parts[part->server]);
    if (UNLIKELY(r->leads))
        squash_leave(r);
    if (m->num_out > 0)
        return;
    if (UNLIKELY(r->followers != NULL))
        end_followers(r);
    client_wrote(r);
}

static const struct request_ops part_ops = {
    .hit = part_hit,
    .begin = part_begin,
    .data = part_data,
    .end = part_end,
    .done = part_done,
};

/* --- asking --- */

static struct multiget *multiget_create(struct request *r)
{
    size_t n = r->num_keys, servers = r->pool->pool->num_servers;
    size_t tickets = r->fills ? n * sizeof(struct guard_ticket) : 0;
    size_t size = sizeof(struct multiget) + tickets + n * (sizeof(struct slot) + sizeof(uint32_t) + 1) +
                  servers * (sizeof(struct request *) + sizeof(uint32_t));
    struct chunk *chunk = chunk_alloc(&loop_of(r)->bufs, size);
    struct multiget *m;

    if (chunk == NULL)
        return NULL;
    m = (struct multiget *)chunk->data;
    memset(m, 0, sizeof(*m));
    m->chunk = chunk;
    m->near_until_us = UINT64_MAX;
    m->tickets = r->fills ? (struct guard_ticket *)(m + 1) : NULL;
    m->slots = (struct slot *)((uint8_t *)(m + 1) + tickets);
    m->parts = (struct request **)(m->slots + n);
    m->servers = (uint32_t *)(m->parts + servers);
    m->last = m->servers + n;
    m->states = (uint8_t *)(m->last + servers);
    memset(m->parts, 0, servers * sizeof(*m->parts));
    memset(m->states, SLOT_PENDING, n);
    return m;
}

static void multiget_free(struct request *r)
{
    struct multiget *m = r->parts;
    struct bufpool *bufs = &loop_of(r)->bufs;

    for (uint32_t i = m->cursor; i < r->num_keys; i++)
        if (m->states[i] == SLOT_QUEUE)
            spanq_clear(&m->slots[i].queue, bufs);
    spanq_clear(&m->gathered, bufs);
    spanq_clear(&m->error_text, bufs);
    r->parts = NULL;
    chunk_unref(m->chunk);
}

static struct request *make_part(struct request *r, uint32_t server, uint32_t first)
{
    struct request *part = cproxy_make_part(r, server, &part_ops);

    if (part != NULL) {
        part->keys = r->keys;
        part->first = first;
        part->cursor = first;
    }
    return part;
}

/* Memory ran out while keys are asked for. What is in the slots may not be whole, so it is for nobody else. */
static void fail_asking(struct request *r)
{
    r->leads = false;
    client_fail(r->owner, "out of memory");
}

/* Adds a key to its server's part, which may be its first. */
static void add_key(struct request *r, uint32_t i)
{
    struct multiget *m = r->parts;
    uint32_t server = m->servers[i];
    struct request *part = m->parts[server];

    r->keys[i].next = RKEY_END;
    if (part == NULL) {
        part = m->parts[server] = make_part(r, server, i);
        if (part == NULL) {
            m->states[i] = SLOT_MISS;
            fail_asking(r);
            return;
        }
    } else {
        r->keys[m->last[server]].next = i;
    }
    m->last[server] = i;
    part->num_keys++;
    part->key_bytes += r->keys[i].len + 1;
}

static bool is_gat(const struct request *r)
{
    return r->op == OP_GAT || r->op == OP_GATS;
}

/* What a part's line takes besides its keys, at the most: the word and an expiry. */
enum { GAT_HEAD = 32 };

/* Whether key number i fits into the line of its server's part. */
static bool fits_line(const struct request *r, uint32_t i)
{
    const struct multiget *m = r->parts;
    const struct request *part = m->parts[m->servers[i]];

    return !is_gat(r) || part == NULL || GAT_HEAD + part->key_bytes + r->keys[i].len + 1 <= GAT_LINE_MAX;
}

/* Goes back to the first key that was put off. */
static void rewind_to_again(struct request *r)
{
    struct multiget *m = r->parts;

    for (uint32_t i = m->cursor; i < m->next_key; i++)
        if (m->states[i] == SLOT_AGAIN)
            m->states[i] = SLOT_PENDING;
    m->num_again = 0;
    m->next_key = m->cursor;
    client_set_put_off(r, false);
}

/* --- values from the near cache: item_send gives them to the request itself --- */

static void near_hit(struct request *r, const struct hit *hit, struct chunk *chunk, uint8_t *p, size_t n)
{
    cproxy_learn_value(r->pool, n);
    if (!put_value(r, hit->key, chunk, p, n))
        fail_asking(r);
}

static void near_begin(struct request *r, const struct hit *hit)
{
    struct multiget *m = r->parts;
    struct spanq *queue = &m->slots[hit->key].queue;
    size_t bytes = hit->head_len + hit->value_len + hit->tail_len;

    cproxy_learn_value(r->pool, bytes);
    r->value_key = hit->key;
    spanq_init(queue);
    m->states[hit->key] = SLOT_QUEUE;
    client_holds(r, bytes);
    if (!spanq_copy(queue, &loop_of(r)->bufs, hit->head, hit->head_len))
        fail_asking(r);
}

static void near_data(struct request *r, struct chunk *chunk, uint8_t *p, size_t n)
{
    struct multiget *m = r->parts;

    if (!spanq_add(&m->slots[r->value_key].queue, &loop_of(r)->bufs, chunk, p, n))
        fail_asking(r);
}

static void near_end(struct request *r)
{
    struct multiget *m = r->parts;

    count_value(r, r->value_key, m->slots[r->value_key].queue.bytes);
}

static const struct request_ops near_ops = {.hit = near_hit, .begin = near_begin, .data = near_data, .end = near_end};

/* Whether the near cache knows of a key. */
static bool look_near(struct request *r, uint32_t i)
{
    struct multiget *m = r->parts;
    struct front_hit hit;

    switch (share_look(r, &r->keys[i], &m->tickets[i], &hit)) {
    case FRONT_ASK:
    case FRONT_PASS:
        return false;
    case FRONT_MISS:
        m->states[i] = SLOT_MISS;
        break;
    case FRONT_HIT:
        break;
    }
    if (hit.fresh_us < m->near_until_us)
        m->near_until_us = hit.fresh_us;
    if (m->states[i] == SLOT_MISS)
        return true;
    r->ops = &near_ops;
    counter_add(&r->pool->counters.front.tot_saved_bytes, hit.value_len);
    if (!item_send(&r->pool->items, r, i, hit.item, hit.value, hit.value_len, &hit.facts)) {
        front_hit_release(&hit);
        fail_asking(r);
    }
    return true;
}

/* Whether so many bytes from the near cache are all that its client may be owed: the window has not foreseen them. */
static bool is_enough(const struct request *r, size_t bytes)
{
    return bytes > 0 && client_unwritten(r) + bytes > r->pool->settings->client_buffer_max;
}

/* The first keys have been asked for: if that was all of them, others may follow. */
static void lead(struct request *r)
{
    const struct multiget *m = r->parts;

    r->leads = m->next_key == r->num_keys && m->num_out > 0;
    if (r->leads)
        squash_lead(r);
}

bool multiget_is_unanswered(const struct request *r)
{
    const struct multiget *m = r->parts;

    /* Once a part has come back it leads no longer. */
    for (uint32_t s = 0; s < r->pool->pool->num_servers; s++)
        if (m->parts[s] != NULL && m->parts[s]->got_reply)
            return false;
    return m->cursor == 0 && loop_of(r)->now_us < m->near_until_us;
}

/* Asks for the next keys, as many as the window allows. */
void multiget_ask(struct request *r)
{
    struct multiget *m = r->parts;
    uint32_t window = cproxy_window(r->pool);
    uint32_t servers = r->pool->pool->num_servers, end;
    size_t before = m->waiting_bytes;

    if (m->num_again > 0)
        rewind_to_again(r);
    end = r->num_keys - m->next_key > window ? m->next_key + window : r->num_keys;

    for (; m->next_key < end && fits_line(r, m->next_key) && !is_enough(r, m->waiting_bytes - before); m->next_key++)
        if (m->states[m->next_key] == SLOT_PENDING && (m->tickets == NULL || !look_near(r, m->next_key)))
            add_key(r, m->next_key);
    /* Counted before the first is sent: a part may come back at once. */
    for (uint32_t s = 0; s < servers; s++)
        m->num_out += m->parts[s] != NULL;
    for (uint32_t s = 0; s < servers; s++) {
        if (m->parts[s] == NULL)
            continue;
        counter_add(&r->pool->counters.tot_multiget_parts, 1);
        m->was_asked = true;
        if (r->hold != HOLD_NONE)
            share_hold(m->parts[s]);
        cproxy_send(m->parts[s], s);
    }
    if (UNLIKELY(r->leads))
        lead(r);
    if (m->num_out == 0)
        client_wrote(r);
}

/* Looks up every key's server. Whether they are all the same. */
static bool route_all(struct request *r, struct multiget *m)
{
    const struct pool *pool = r->pool->pool;

    if (pool->num_servers == 1) {
        memset(m->servers, 0, r->num_keys * sizeof(*m->servers));
        return true;
    }
    mcs_server_indexes(pool->mcs, r->keys, r->num_keys, m->servers);
    for (uint32_t i = 1; i < r->num_keys; i++)
        if (m->servers[i] != m->servers[0])
            return false;
    return true;
}

/* Whether all keys may go in one line to one server. */
static bool fits_one(const struct request *r)
{
    size_t bytes = GAT_HEAD;

    if (r->num_keys > cproxy_window(r->pool))
        return false;
    for (uint32_t i = 0; is_gat(r) && i < r->num_keys && bytes <= GAT_LINE_MAX; i++)
        bytes += r->keys[i].len + 1;
    return !is_gat(r) || bytes <= GAT_LINE_MAX;
}

bool multiget_admit(struct request *r, uint32_t *server)
{
    bool fits = fits_one(r);
    struct outcome no_memory = {.result = RESULT_NO_MEMORY};
    struct multiget *m;

    *server = 0;
    if (fits && r->pool->pool->num_servers == 1 && !r->fills)
        return false;
    m = multiget_create(r);
    if (m == NULL) {
        cproxy_release_slot(r);
        client_finish(r, &no_memory);
        return true;
    }
    r->parts = m;
    if (route_all(r, m) && fits && !r->fills) {
        *server = m->servers[0];
        multiget_free(r);
        return false;
    }
    multiget_ask(r);
    return true;
}

/* --- answering --- */

static void finish(struct request *r)
{
    struct multiget *m = r->parts;
    struct outcome outcome = {.result = result_of(m)};
    struct spanq text = m->error_text;

    spanq_init(&m->error_text);
    if (!m->was_asked && m->error == RESULT_NONE)
        counter_add(&r->pool->counters.front.tot_saved_requests, 1);
    multiget_free(r);
    cproxy_release_slot(r);
    outcome.text = outcome.result == RESULT_ERROR ? (const uint8_t *)"" : NULL;
    cproxy_finish_text(r, &outcome, &text);
}

void multiget_refuse(struct request *r)
{
    struct multiget *m = r->parts;

    if (m->error == RESULT_NONE)
        m->error = RESULT_WAITED;
    finish(r);
}

bool multiget_all_asked(const struct request *r)
{
    const struct multiget *m = r->parts;

    return m->next_key == r->num_keys && m->num_again == 0;
}

void multiget_continue(struct request *r)
{
    struct multiget *m = r->parts;

    if (r->waiting || (m->num_out > 0 && m->waiting_bytes < EMIT_BYTES))
        return;
    if (!emit(r)) {
        counter_add(&r->pool->counters.err_oom, 1);
        client_fail(r->owner, "out of memory");
        return;
    }
    if (m->num_out > 0)
        return;
    if (multiget_all_asked(r))
        finish(r);
    else if (client_unwritten(r) >= r->pool->settings->client_buffer_max / 2)
        /* It may take its client long to read that. */
        cproxy_release_slot(r);
    else if (r->has_slot)
        multiget_ask(r);
    else
        cproxy_take_slot(r);
}

void multiget_abandon(struct request *r)
{
    struct multiget *m = r->parts;

    part_ways(r);
    for (uint32_t s = 0; s < r->pool->pool->num_servers; s++)
        if (m->parts[s] != NULL)
            request_let_go(&loop_of(r)->requests, &loop_of(r)->bufs, &m->parts[s]);
    multiget_free(r);
}
