/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy - the life of a request: admit, route, relay, done: see cproxy.h.
 *
 * Here is the common case, a request that one server answers as a whole. Its reply is relayed as it came:
 *
 *   hit:   the client's turn? --yes--> its output      --no--> r->held, until it is
 *   begin, data, end: gathered in r->held, and moved to the output when the value is whole; or, from stream_min on and
 *          at the client's turn, piece by piece
 *   done:  what is incomplete is dropped, the last line is written, the next request gets its turn
 */
#include "cproxy.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

/*
 * What a pool's values are taken to be like before any has been seen: large, so that the first are asked with care, but
 * not one by one.
 */
enum {
    VALUE_ESTIMATE_START = 512 * 1024,
    WINDOW_START = 2, /* keys, at the least */
};

/* Bytes of a line of a reply: codecs take no longer ones. */
enum { LINE_BYTES = 8192 };

/* Pieces of a reply that must wait for their turn are copied up to this size, not to keep the read buffer. */
enum { HELD_COPY_MAX = 16 * 1024 };

/* --- what is learned, and the windows that follow --- */

void cproxy_learn_value(struct pool_state *ps, size_t bytes)
{
    uint32_t now = bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;

    /* Up fast, down slowly: memory is what is at stake. */
    if (now > ps->value_estimate)
        ps->value_estimate += (now - ps->value_estimate + 1) / 2;
    else
        ps->value_estimate -= (ps->value_estimate - now) / 4;
}

uint32_t cproxy_window(const struct pool_state *ps)
{
    uint64_t n = ps->settings->client_buffer_max / (ps->value_estimate + 64);

    return n < 1 ? 1 : n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

struct outcome cproxy_read_outcome(const struct request *r, const struct outcome *outcome)
{
    struct outcome out = *outcome;

    if ((op_flags((enum opcode)r->op) & OPF_VALUES) &&
        (out.result == RESULT_WRITE_FAILED || out.result == RESULT_CLOSED || out.result == RESULT_TIMEOUT))
        out.result = RESULT_END;
    return out;
}

void cproxy_finish_text(struct request *r, struct outcome *outcome, struct spanq *text)
{
    uint8_t line[LINE_BYTES];

    assert(text->bytes <= sizeof(line));
    if (outcome->text != NULL) {
        spanq_peek_tail(text, line, text->bytes);
        outcome->text = line;
        outcome->text_len = text->bytes;
    }
    spanq_clear(text, &r->pool->loop->bufs);
    client_finish(r, outcome);
}

/* --- relaying one server's reply --- */

static void fail_memory(struct request *r)
{
    client_fail(r->owner, "out of memory");
}

/* Appends a piece of a reply to q; what has to wait there is copied out of the read buffer while that is cheap. */
static void append(struct request *r, struct spanq *q, struct chunk *chunk, uint8_t *p, size_t n)
{
    struct bufpool *bufs = &r->pool->loop->bufs;
    bool ok;

    if (q == &r->held)
        client_holds(r, n);
    if (q == &r->held && n <= HELD_COPY_MAX)
        ok = spanq_copy(q, bufs, p, n);
    else
        ok = spanq_add(q, bufs, chunk, p, n);
    if (UNLIKELY(!ok))
        fail_memory(r);
}

/* Whether a value is dropped, to be asked for again with all that follow it. */
static bool put_off(struct request *r, const struct hit *hit)
{
    if (LIKELY(!r->put_off)) {
        if (LIKELY(!client_puts_off(r, 0)) || (op_is_meta(r->op) && hit->facts.won))
            return false;
        r->again_from = hit->key;
        client_set_put_off(r, true);
    }
    return true;
}

static void relay_hit(struct request *r, const struct hit *hit, struct chunk *chunk, uint8_t *p, size_t n)
{
    cproxy_learn_value(r->pool, n);
    if (put_off(r, hit))
        return;
    r->reply_bytes += n;
    cproxy_count_hit(r, hit->key, n);
    append(r, client_output(r), chunk, p, n);
    client_wrote(r);
}

static void relay_begin(struct request *r, const struct hit *hit)
{
    const struct settings *s = r->pool->settings;
    size_t bytes = hit->head_len + hit->value_len + hit->tail_len;

    cproxy_learn_value(r->pool, bytes);
    if (put_off(r, hit))
        return;
    r->in_value = true;
    r->value_key = hit->key;
    r->value_bytes = bytes;
    r->may_stream = s->stream_min > 0 && hit->value_len >= s->stream_min;
    r->held_whole = r->held.bytes;
    r->reply_bytes += bytes;
    client_holds(r, bytes);
    if (!spanq_copy(&r->held, &r->pool->loop->bufs, hit->head, hit->head_len))
        fail_memory(r);
}

static void relay_data(struct request *r, struct chunk *chunk, uint8_t *p, size_t n)
{
    if (!r->in_value)
        return;
    if (!spanq_add(&r->held, &r->pool->loop->bufs, chunk, p, n))
        fail_memory(r);
    if (r->may_stream && client_is_turn(r)) {
        if (!r->streaming)
            counter_add(&r->pool->counters.tot_streamed, 1);
        r->streaming = true;
        spanq_concat(client_output(r), &r->held);
        client_wrote(r);
    }
}

static void relay_end(struct request *r)
{
    if (!r->in_value)
        return;
    cproxy_count_hit(r, r->value_key, r->value_bytes);
    r->in_value = false;
    r->streaming = false;
    if (client_is_turn(r)) {
        spanq_concat(client_output(r), &r->held);
        client_wrote(r);
    }
}

/* n bytes of a reply whose size was not guessed when it was asked for: until it is its turn they are the client's. */
static void charge_held(struct request *r, size_t n)
{
    if (!client_is_turn(r))
        client_holds(r, n);
}

static void relay_stat(struct request *r, const uint8_t *p, size_t n)
{
    charge_held(r, n);
    if (!r->codec->compose_stat(r, p, n, &r->pool->loop->bufs, client_output(r)))
        fail_memory(r);
    client_wrote(r);
}

static void relay_raw(struct request *r, const uint8_t *p, size_t n)
{
    charge_held(r, n);
    if (!spanq_copy(client_output(r), &r->pool->loop->bufs, p, n))
        fail_memory(r);
    client_wrote(r);
}

static size_t relay_unwritten(const struct request *r)
{
    return client_is_turn(r) ? client_unwritten(r) : SIZE_MAX;
}

static void relay_done(struct request *r, const struct outcome *outcome)
{
    struct outcome out = cproxy_read_outcome(r, outcome);

    if (r->in_value) {
        r->in_value = false;
        if (r->streaming)
            client_fail(r->owner, "a server failed in the middle of a value");
        else
            spanq_truncate(&r->held, &r->pool->loop->bufs, r->held_whole);
    }
    if (out.result == RESULT_FOUND && (op_flags((enum opcode)r->op) & OPF_VALUES))
        cproxy_count_hit(r, 0, 0);
    if (r->num_hits == 0 && out.result == RESULT_END)
        cproxy_learn_value(r->pool, 0);
    if (r->too_large)
        out = (struct outcome){.result = RESULT_REFUSED, .message = "SERVER_ERROR object too large for cache"};
    client_unpin(r, outcome);
    cproxy_release_slot(r);
    /* In a connection's queue still, it has timed out, and cannot be given to another: it ends with what there is. */
    if (r->put_off && !r->in_conn) {
        r->parked = true;
        client_wrote(r);
        return;
    }
    client_finish(r, &out);
}

const struct request_ops cproxy_relay_ops = {
    .hit = relay_hit,
    .begin = relay_begin,
    .data = relay_data,
    .end = relay_end,
    .stat = relay_stat,
    .raw = relay_raw,
    .unwritten = relay_unwritten,
    .done = relay_done,
};

/* --- routing --- */

static void set_deadline(struct request *r, uint64_t from_us)
{
    uint32_t timeout_ms = r->pool->settings->downstream_timeout_ms;

    r->deadline_us = timeout_ms > 0 ? from_us + (uint64_t)timeout_ms * 1000 : 0;
}

struct request *cproxy_make_part(struct request *r, uint32_t server, const struct request_ops *ops)
{
    struct pool_state *ps = r->pool;
    struct request *part = request_alloc(&ps->loop->requests);

    if (part == NULL)
        return NULL;
    part->ops = ops;
    part->parent = r;
    part->pool = ps;
    part->codec = r->codec;
    part->op = r->op;
    part->exptime = r->exptime;
    part->keys_chunk = r->keys_chunk;
    if (part->keys_chunk != NULL)
        chunk_ref(part->keys_chunk);
    part->server = server;
    part->start_us = ps->loop->now_us;
    set_deadline(part, part->start_us);
    return part;
}

uint32_t cproxy_route(const struct pool_state *ps, const struct rkey *key)
{
    if (ps->pool->num_servers == 1)
        return 0;
    return mcs_server_index(ps->pool->mcs, key->p, key->len);
}

void cproxy_send(struct request *r, uint32_t server)
{
    struct downstream *d = r->pool->downstreams[server];

    r->server = server;
    if (d == NULL) {
        local_run(r->pool->local, r);
        return;
    }
    r->conn = client_pin(r, d);
    if (UNLIKELY(r->leads))
        squash_lead(r);
    downstream_enqueue(d, r->conn, r);
}

/* --- admission --- */

/* Gives a request to the servers. */
static void start(struct request *r)
{
    struct pool_state *ps = r->pool;
    uint32_t server;

    r->has_slot = true;
    ps->num_inflight++;
    counter_add(&ps->counters.num_requests, 1);
    if (request_is_split(r)) {
        multiget_ask(r);
        return;
    }
    if (cproxy_is_barrier(r)) {
        broadcast_admit(r);
        return;
    }
    r->ops = UNLIKELY(r->leads || r->fills) ? &share_ops : &cproxy_relay_ops;
    if (op_flags((enum opcode)r->op) & OPF_LOCAL) {
        local_run(ps->local, r);
        return;
    }
    if (r->num_keys > 1) {
        if (multiget_admit(r, &server))
            return;
    } else {
        server = r->num_keys == 1 ? cproxy_route(ps, &r->keys[0]) : 0;
    }
    cproxy_send(r, server);
}

void cproxy_release_slot(struct request *r)
{
    struct pool_state *ps = r->pool;

    if (!r->has_slot)
        return;
    assert(ps->num_inflight > 0);
    r->has_slot = false;
    ps->num_inflight--;
    counter_sub(&ps->counters.num_requests, 1);
    /* Not at once: whoever calls may be in the middle of a connection's queues. */
    if (ps->waiting.head != NULL)
        event_active(&ps->wait_timer, EV_TIMEOUT, 0);
}

static bool slot_is_free(const struct pool_state *ps)
{
    uint32_t max = ps->settings->downstream_max;

    return max == 0 || ps->num_inflight < max;
}

/* Gives a server a request that nobody waits for. */
static void send_orphan(struct request *r, uint32_t server)
{
    struct downstream *d = r->pool->downstreams[server];

    if (d == NULL)
        local_run(r->pool->local, r);
    else
        downstream_enqueue(d, r->conn, r);
}

/* A request that does what r says, and that nobody waits for; without key or value. NULL when memory ran out. */
static struct request *make_orphan(const struct request *r)
{
    struct request *orphan = request_alloc(&r->pool->loop->requests);

    if (orphan == NULL)
        return NULL;
    orphan->pool = r->pool;
    orphan->codec = r->codec;
    orphan->op = r->op;
    orphan->flags = r->flags;
    orphan->exptime = r->exptime;
    orphan->has_exptime = r->has_exptime;
    orphan->deadline_us = r->deadline_us;
    orphan->answered = true;
    orphan->orphan = true;
    return orphan;
}

/*
 * One server's share of a flush_all that nobody waits for any more: behind what its client has asked before, if it has
 * not waited for that. Without memory for it, it is lost.
 */
static void flush_orphan(const struct request *r, uint32_t server)
{
    struct request *share = make_orphan(r);

    if (share == NULL)
        return;
    if (r->hold != HOLD_NONE)
        share_hold(share);
    share->conn = r->owner != NULL ? client_pinned(r, server) : r->conn;
    send_orphan(share, server);
}

/*
 * optimize_set: a set is answered at once. What goes to the server is a request that nobody waits for; as what is asked
 * after it must go behind it, its client stays with its connection. False, having done nothing: it is not such a set.
 */
static bool answer_early(struct request *r)
{
    static const struct outcome stored = {.result = RESULT_STORED};
    struct pool_state *ps = r->pool;
    struct request *orphan;
    struct downstream *d;

    /* What waits for a slot was asked before it. */
    if (!keyspec_match(&ps->shared->optimized, r->key.p, r->key.len) || ps->waiting.head != NULL)
        return false;
    r->server = cproxy_route(ps, &r->key);
    d = ps->downstreams[r->server];
    orphan = d != NULL ? make_orphan(r) : NULL;
    if (orphan == NULL)
        return false;
    request_move_value(orphan, r);
    if (r->hold != HOLD_NONE)
        share_hold(orphan);
    counter_add(&ps->counters.tot_optimized_sets, 1);
    downstream_enqueue(d, client_pin(r, d), orphan);
    client_finish(r, &stored);
    return true;
}

/* A request that nobody waits for any more: a write is still owed to its server. */
static void start_orphan(struct request *r)
{
    struct pool_state *ps = r->pool;
    unsigned flags = op_flags((enum opcode)r->op);

    r->waiting = false;
    r->in_conn = false;
    if ((flags & OPF_KEY) && !(flags & OPF_VALUES)) {
        send_orphan(r, cproxy_route(ps, &r->keys[0]));
        return;
    }
    for (uint32_t i = 0; r->op == OP_FLUSH_ALL && i < ps->pool->num_servers; i++)
        flush_orphan(r, i);
    request_release(&ps->loop->requests, &ps->loop->bufs, &r);
}

static void refuse_waiting(struct request *r)
{
    struct outcome outcome = {.result = RESULT_WAITED};

    r->waiting = false;
    r->in_conn = false;
    if (r->orphan) {
        request_release(&r->pool->loop->requests, &r->pool->loop->bufs, &r);
        return;
    }
    counter_add(&r->pool->counters.tot_wait_queue_timeout, 1);
    if (request_is_split(r)) {
        multiget_refuse(r);
        return;
    }
    r->answered = true;
    /* Behind values that have been passed on nothing but an end can be told. */
    if (r->num_hits > 0)
        outcome.result = RESULT_END;
    client_finish(r, &outcome);
}

static void arm_wait_timer(struct pool_state *ps)
{
    struct request *head = ps->waiting.head;
    uint64_t wait = (uint64_t)ps->settings->wait_queue_timeout_ms * 1000;
    uint64_t now = ps->loop->now_us, at;
    struct timeval tv;

    if (head == NULL || wait == 0 || ps->wait_timer_armed)
        return;
    at = head->wait_us + wait;
    wait = at > now ? at - now : 0;
    tv.tv_sec = (time_t)(wait / 1000000);
    tv.tv_usec = (suseconds_t)(wait % 1000000);
    ps->wait_timer_armed = event_add(&ps->wait_timer, &tv) == 0;
}

/* A slot has become free, or the first that waits has waited too long. */
static void on_wait(evutil_socket_t fd, short what, void *arg)
{
    struct pool_state *ps = arg;
    uint64_t wait = (uint64_t)ps->settings->wait_queue_timeout_ms * 1000;
    struct request *r;

    (void)fd;
    (void)what;
    loop_enter(ps->loop);
    ps->wait_timer_armed = evtimer_pending(&ps->wait_timer, NULL) != 0;
    while ((r = ps->waiting.head) != NULL && wait > 0 && r->wait_us + wait <= ps->loop->now_us)
        refuse_waiting(request_queue_pop(&ps->waiting));
    while (ps->waiting.head != NULL && slot_is_free(ps)) {
        r = request_queue_pop(&ps->waiting);
        if (r->orphan) {
            start_orphan(r);
        } else {
            r->waiting = false;
            r->in_conn = false;
            /* Its client may wait for that. */
            client_wrote(r);
            start(r);
        }
    }
    arm_wait_timer(ps);
}

static void wait_for_slot(struct request *r)
{
    struct pool_state *ps = r->pool;

    counter_add(&ps->counters.tot_downstream_max_reached, 1);
    r->waiting = true;
    r->in_conn = true;
    r->wait_us = ps->loop->now_us;
    request_queue_push(&ps->waiting, r);
    arm_wait_timer(ps);
}

static void count_seen(struct request *r)
{
    struct counters *n = &r->pool->counters;
    struct command_counters *c = request_is_quiet(r) ? &n->quiet[r->op] : &n->regular[r->op];

    counter_add(&c->seen, 1);
    counter_add(&c->read_bytes, r->num_keys == 1 ? r->key.len + request_value_len(r) : r->arg_len);
    if (r->op == OP_CAS || r->op == OP_GETS || r->op == OP_GATS ||
        (op_is_meta(r->op) && r->num_keys > 0 && (r->terms.bits & (TERM_COMPARE | TERM_UNIQUE))))
        counter_add(&c->cas, 1);
    if (r->num_keys > 1)
        counter_add(&n->tot_multiget_keys, r->num_keys);
    if ((op_flags((enum opcode)r->op) & (OPF_KEY | OPF_VALUES)) == OPF_KEY)
        cproxy_count_key(r, &r->keys[0], KEY_CHANGE, request_value_len(r));
}

/* shutdown [graceful]: moxi always answers what is in flight before it ends. */
static struct outcome shut_down(struct request *r)
{
    const struct pool_state *ps = r->pool;

    if (!ps->serving->may_shutdown)
        return (struct outcome){.result = RESULT_REFUSED, .message = "ERROR: shutdown not enabled"};
    if (r->arg_len != 0 && (r->arg_len != 8 || memcmp(r->arg, "graceful", 8) != 0))
        return (struct outcome){.result = RESULT_REFUSED, .message = "CLIENT_ERROR invalid shutdown mode"};
    ps->hooks->shutdown();
    r->noreply = true;
    return (struct outcome){.result = RESULT_OK};
}

/* Lines as the text protocol has them, n bytes at p: to the client, in its own. What becomes of the request. */
static struct outcome tell_lines(struct request *r, const uint8_t *p, size_t n)
{
    const uint8_t *lf;

    for (; n > 0 && (lf = memchr(p, '\n', n)) != NULL; n -= (size_t)(lf - p) + 1, p = lf + 1) {
        size_t len = (size_t)(lf - p) + 1;

        if (len == 5 && memcmp(p, "END\r\n", 5) == 0)
            return (struct outcome){.result = RESULT_END};
        if (len == 7 && memcmp(p, "RESET\r\n", 7) == 0)
            return (struct outcome){.result = RESULT_RESET};
        if (len < 5 || memcmp(p, "STAT ", 5) != 0)
            return (struct outcome){.result = RESULT_ERROR, .text = p, .text_len = len};
        relay_stat(r, p, len - 2);
    }
    return (struct outcome){.result = RESULT_END};
}

/* stats proxy: made as text, and told in the client's protocol. */
static void answer_stats_proxy(struct request *r)
{
    struct pool_state *ps = r->pool;
    struct bufpool *bufs = &ps->loop->bufs;
    struct outcome outcome = {.result = RESULT_NO_MEMORY};
    struct spanq lines;
    struct chunk *whole = NULL;

    spanq_init(&lines);
    if (ps->hooks->stats_proxy(ps, r->arg + 5, r->arg_len - 5, &lines))
        whole = chunk_alloc(bufs, lines.bytes);
    if (whole != NULL) {
        spanq_peek_tail(&lines, whole->data, lines.bytes);
        outcome = tell_lines(r, whole->data, lines.bytes);
    }
    client_finish(r, &outcome);
    spanq_clear(&lines, bufs);
    if (whole != NULL)
        chunk_unref(whole);
}

/* Answers what moxi answers itself. False: a server has to. */
static bool answer_here(struct request *r)
{
    struct outcome outcome = {.result = RESULT_OK};
    struct pool_state *ps = r->pool;

    if ((op_flags((enum opcode)r->op) & OPF_LOCAL) && ps->local == NULL) {
        outcome = (struct outcome){.result = RESULT_REFUSED, .message = "ERROR"};
        client_finish(r, &outcome);
        return true;
    }
    switch (r->op) {
    case OP_VERSION:
        outcome.result = RESULT_TOLD;
        outcome.message = CPROXY_VERSION;
        break;
    case OP_META_NOOP:
        break;
    case OP_VERBOSITY:
        log_set_level(LOG_WARNING + (int)(r->exptime > LOG_TRACE ? LOG_TRACE : r->exptime));
        break;
    case OP_STATS:
        if (r->arg_len < 5 || memcmp(r->arg, "proxy", 5) != 0 || (r->arg_len > 5 && r->arg[5] != ' '))
            return false;
        answer_stats_proxy(r);
        return true;
    case OP_AUTH:
    case OP_SASL_LIST:
    case OP_SASL_STEP:
        outcome = auth_answer(r);
        break;
    case OP_SHUTDOWN:
        outcome = shut_down(r);
        break;
    case OP_WATCH:
        outcome = watch_begin(r);
        break;
    case OP_FLUSH_ALL:
        if (ps->serving->may_flush)
            return false;
        outcome = (struct outcome){.result = RESULT_REFUSED, .message = "CLIENT_ERROR flush_all not allowed"};
        break;
    default:
        return false;
    }
    client_finish(r, &outcome);
    return true;
}

void cproxy_take_slot(struct request *r)
{
    if (slot_is_free(r->pool) && r->pool->waiting.head == NULL)
        start(r);
    else
        wait_for_slot(r);
}

/*
 * The index from which on its keys are to be asked for again. That is again_from, and all before it has been handed on
 * or is missing; but a server that tells values in another order may have told some before it that were dropped, and
 * some behind it that were not.
 */
static uint32_t sort_again(struct request *r)
{
    uint32_t from = 0;

    while (from < r->again_from && (!r->keys[from].is_told || r->keys[from].is_hit))
        from++;
    for (uint32_t i = from; i < r->num_keys; i++) {
        struct rkey key = r->keys[i];

        if (LIKELY(!key.is_hit))
            continue;
        memmove(&r->keys[from + 1], &r->keys[from], (i - from) * sizeof(key));
        r->keys[from++] = key;
    }
    return from;
}

void cproxy_ask_again(struct request *r)
{
    uint32_t from = sort_again(r);

    client_set_put_off(r, false);
    r->parked = false;
    r->alone = false;
    r->answered = false;
    r->got_reply = false;
    r->tries = 0;
    r->keys += from;
    r->num_keys -= from;
    r->num_done_keys += from;
    for (uint32_t i = 0; i < r->num_keys; i++)
        r->keys[i].next = i + 1 < r->num_keys ? i + 1 : RKEY_END;
    r->first = 0;
    r->cursor = 0;
    set_deadline(r, r->pool->loop->now_us);
    if (UNLIKELY(r->pool->shared->guard != NULL) && share_admit(r))
        return;
    cproxy_take_slot(r);
}

void cproxy_admit(struct request *r)
{
    struct pool_state *ps = r->pool;

    count_seen(r);
    r->start_us = ps->loop->now_us;
    if (!(op_flags((enum opcode)r->op) & OPF_KEY) && answer_here(r))
        return;
    set_deadline(r, r->start_us);
    if (UNLIKELY(ps->shared->guard != NULL) && share_admit(r))
        return;
    if (r->op == OP_SET && answer_early(r))
        return;
    r->delayed = cproxy_is_barrier(r) && !client_is_turn(r);
    if (LIKELY(!r->delayed))
        cproxy_take_slot(r);
}

void cproxy_begin(struct request *r)
{
    r->delayed = false;
    set_deadline(r, r->pool->loop->now_us);
    cproxy_take_slot(r);
}

void cproxy_begin_orphan(struct request *r)
{
    r->delayed = false;
    r->answered = true;
    start_orphan(r);
}

/* --- a pool in a worker --- */

/* The pool's servers, as this worker sees them. False when memory ran out. */
static bool create_backends(struct pool_state *ps, struct cache *cache)
{
    const struct pool *pool = ps->pool;

    for (uint32_t i = 0; i < pool->num_servers; i++) {
        if (pool->servers[i].local) {
            ps->local = local_create(ps->loop, cache, &ps->hooks->local, &ps->serving->local);
            if (ps->local == NULL)
                return false;
            continue;
        }
        ps->downstreams[i] = downstream_create(ps->loop, &pool->servers[i], ps->settings, &ps->counters);
        if (ps->downstreams[i] == NULL)
            return false;
    }
    return true;
}

/* What this worker counts by key. False when memory ran out. */
static bool set_up_keys(struct pool_state *ps)
{
    const struct settings *s = ps->settings;

    if (ps->shared->hotkeys != NULL && !hotkeys_join(ps->shared->hotkeys, &ps->hotkeys, util_now_us()))
        return false;
    if (s->key_stats_lifespan_ms == 0 || s->key_stats_spec[0] == '\0')
        return true;
    ps->keystats = keystats_create(s->key_stats_max, s->key_stats_lifespan_ms);
    return ps->keystats != NULL;
}

struct pool_state *pool_state_create(struct loop *loop, const struct pool *pool, const struct cproxy_hooks *hooks,
                                     const struct cproxy_serving *serving, struct cache *cache,
                                     const struct cproxy_shared *shared)
{
    struct pool_state *ps = calloc(1, sizeof(*ps));
    uint64_t estimate;

    if (ps == NULL)
        return NULL;
    ps->loop = loop;
    ps->pool = pool;
    ps->settings = &pool->settings;
    ps->hooks = hooks;
    ps->serving = serving;
    ps->shared = shared;
    pthread_mutex_init(&ps->clients_mutex, NULL);
    estimate = ps->settings->client_buffer_max / (WINDOW_START + 1);
    ps->value_estimate = estimate < VALUE_ESTIMATE_START ? (uint32_t)estimate : VALUE_ESTIMATE_START;
    evtimer_assign(&ps->wait_timer, loop->base, on_wait, ps);
    if (!share_setup(ps) || !set_up_keys(ps) || !feeds_setup(ps)) {
        pool_state_destroy(ps);
        return NULL;
    }
    ps->downstreams = calloc(pool->num_servers, sizeof(*ps->downstreams));
    if (ps->settings->time_stats)
        ps->timings = calloc(1, sizeof(*ps->timings));
    if (ps->downstreams == NULL || (ps->settings->time_stats && ps->timings == NULL) || !create_backends(ps, cache)) {
        pool_state_destroy(ps);
        return NULL;
    }
    return ps;
}

void pool_state_destroy(struct pool_state *ps)
{
    struct request *r;

    clients_destroy(ps);
    event_del(&ps->wait_timer);
    while ((r = request_queue_pop(&ps->waiting)) != NULL)
        refuse_waiting(r);
    for (uint32_t i = 0; ps->downstreams != NULL && i < ps->pool->num_servers; i++)
        if (ps->downstreams[i] != NULL)
            downstream_destroy(ps->downstreams[i]);
    free(ps->downstreams);
    local_destroy(ps->local);
    free(ps->timings);
    share_teardown(ps);
    hotkeys_leave(&ps->hotkeys);
    keystats_destroy(ps->keystats);
    pthread_mutex_destroy(&ps->clients_mutex);
    free(ps);
}

bool pool_state_idle(const struct pool_state *ps)
{
    for (uint32_t i = 0; i < ps->pool->num_servers; i++)
        if (ps->downstreams[i] != NULL && !downstream_idle(ps->downstreams[i]))
            return false;
    return ps->clients == NULL && ps->waiting.head == NULL;
}
