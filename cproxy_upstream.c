/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_upstream - the connections of clients: keep the order of replies, write, end. What they send is
 * cproxy_input's.
 *
 *   on_event -> input_read -> client_push, cproxy_admit
 *                                  FIFO: head ... tail   (what was asked, in order)
 *   client_output, client_finish  ->  head: conn.out    the others: held, until they are the head
 *   run_turn: ask for more keys, write once, parse what had to wait
 *
 * The guess by which input is left unread may be wrong, when a pool of small values has large ones after all: then
 * values that arrive at twice client_buffer_max are dropped, and asked for again when the client has read what it was
 * sent (put_off), as long as that can make no difference: all that it has asked for are reads.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cproxy_upstream.h"
#include "log.h"
#include "watch.h"

enum {
    HOLD_TURNS = 2,                 /* that output may wait for more of it */
    HOLD_BYTES = 16 * 1024,         /* of output, and more is written at once */
    REFER_MIN = 16 * 1024,          /* spans of what a blocked client is owed that may keep a larger buffer alive */
    LINGER_TICKS = 2,               /* seconds, about, that a client which was hung up on may take to notice */
    LINGER_BYTES = 8 * 1024 * 1024, /* and that it may send meanwhile */
};

/* Which connection a client's requests to a server go by, while any is not answered. */
struct pin {
    uint32_t conn;
    uint32_t num_out;
};

_Static_assert(sizeof(struct client) <= 248, "an idle client costs 0.3 KiB in all");

void client_mark(struct client *c)
{
    loop_mark(client_loop(c), TURN_CLIENT, &c->conn);
}

void client_fail(struct client *c, const char *why)
{
    if (!c->closing)
        log_debug("client %d: closed, %s", c->conn.fd, why);
    if (c->reason == REASON_NORMAL)
        c->reason = REASON_ERROR;
    c->closing = true;
    client_mark(c);
}

void client_hang_up(struct client *c)
{
    c->eof = true;
    input_drop(c);
    client_mark(c);
}

void client_watches(struct client *c)
{
    client_set_doing(c, DOING_WATCH);
    input_drop(c);
}

int client_fd(const struct request *r)
{
    const struct client *c = r->parent != NULL ? r->parent->owner : r->owner;

    return c != NULL ? c->conn.fd : -1;
}

/* --- the FIFO --- */

/*
 * Whether it makes no difference when it is asked twice. What a meta get is told to renew once is looked at in put_off.
 */
static bool is_read(const struct request *r)
{
    if (r->op == OP_META_GET)
        return !(r->terms.bits & (TERMS_CHANGING | TERM_FETCHED | TERM_IDLE));
    return (op_flags((enum opcode)r->op) & OPF_READ) != 0;
}

void client_push(struct client *c, struct request *r)
{
    r->owner = c;
    r->next = NULL;
    if (c->tail != NULL)
        c->tail->next = r;
    else
        c->head = r;
    c->tail = r;
    c->charged += r->charge;
    c->num_writes += !is_read(r);
}

/* The head's reply is complete: it goes, and those behind it that are complete too. */
static void advance(struct client *c)
{
    struct loop *loop = client_loop(c);
    struct request *r;

    while ((r = c->head) != NULL && r->finished) {
        spanq_concat(&c->conn.out, &r->held);
        c->head = r->next;
        if (c->head == NULL)
            c->tail = NULL;
        c->charged -= r->charge;
        c->num_writes -= !is_read(r);
        c->num_put_off -= r->put_off;
        request_let_go(&loop->requests, &loop->bufs, &r);
    }
    /* What the new head holds may go, but for a value that is not whole, nor to be streamed. */
    if (r != NULL && (!r->in_value || r->may_stream)) {
        if (r->in_value && r->held.bytes > 0) {
            counter_add(&c->ps->counters.tot_streamed, 1);
            r->streaming = true;
        }
        spanq_concat(&c->conn.out, &r->held);
    }
    client_mark(c);
}

struct spanq *client_output(struct request *r)
{
    return r->owner->head == r ? &r->owner->conn.out : &r->held;
}

bool client_is_turn(const struct request *r)
{
    return r->owner->head == r;
}

void client_wrote(struct request *r)
{
    client_mark(r->owner);
}

void client_holds(struct request *r, size_t bytes)
{
    r->charge += bytes;
    r->owner->charged += bytes;
}

bool client_puts_off(const struct request *r, size_t waiting)
{
    const struct client *c = r->owner;
    size_t bound = c->ps->settings->client_buffer_max;

    /* A value that is arriving is a write's. */
    if (c->num_writes > 0 || c->doing == DOING_VALUE || !is_read(r))
        return false;
    if (c->head == r)
        return c->conn.out.bytes + waiting > bound;
    return c->num_put_off > 0 || c->conn.out.bytes + c->charged + waiting > 2 * bound;
}

void client_set_put_off(struct request *r, bool put_off)
{
    if (put_off && !r->put_off)
        counter_add(&r->pool->counters.tot_put_off, 1);
    r->owner->num_put_off += put_off;
    r->owner->num_put_off -= r->put_off;
    r->put_off = put_off;
}

size_t client_unwritten(const struct request *r)
{
    return r->owner->conn.out.bytes;
}

static void count_finished(struct request *r)
{
    struct pool_state *ps = r->pool;
    struct command_counters *n = request_is_quiet(r) ? &ps->counters.quiet[r->op] : &ps->counters.regular[r->op];
    uint32_t num_keys = r->num_done_keys + r->num_keys;

    if (op_flags((enum opcode)r->op) & OPF_VALUES) {
        counter_add(&n->hits, r->num_hits);
        counter_add(&n->misses, num_keys - r->num_hits);
        counter_add(&n->write_bytes, r->reply_bytes);
        if (r->num_hits < num_keys)
            cproxy_count_misses(r);
    }
    if (ps->timings != NULL)
        htgram_add(&ps->timings->ops[r->op], ps->loop->now_us - r->start_us);
}

void client_finish(struct request *r, const struct outcome *outcome)
{
    struct client *c = r->owner;
    struct counters *n = &r->pool->counters;

    if (outcome->result >= RESULT_WRITE_FAILED && outcome->result <= RESULT_NO_MEMORY)
        counter_add(&n->err_proxy, 1);
    /* Whole values may still be held at its turn: behind them there was one that is not whole. */
    if (c->head == r)
        spanq_concat(&c->conn.out, &r->held);
    if (!r->noreply && !r->codec->compose_outcome(r, outcome, &client_loop(c)->bufs, client_output(r))) {
        counter_add(&n->err_oom, 1);
        client_fail(c, "out of memory");
    }
    count_finished(r);
    r->finished = true;
    if (c->head == r)
        advance(c);
    else if (UNLIKELY(input_waits(c)))
        /* It may wait for that. */
        client_mark(c);
}

/* --- pins --- */

/*
 * NULL: there is no memory. Nor will there be, or what is on its way by then would not count, and might be overtaken.
 */
static struct pin *pin_of(struct request *r)
{
    struct client *c = r->owner != NULL ? r->owner : r->parent->owner;

    if (c->pins == NULL && !c->pinless) {
        c->pins = calloc(c->ps->pool->num_servers, sizeof(*c->pins));
        c->pinless = c->pins == NULL;
    }
    return c->pins != NULL ? &c->pins[r->server] : NULL;
}

uint32_t client_pin(struct request *r, const struct downstream *d)
{
    struct pin *pin;

    if (r->pool->settings->downstream_conn_max == 1)
        return 0;
    pin = pin_of(r);
    /* Without memory for pins all go by the first connection, which keeps the order as well. */
    if (pin == NULL)
        return 0;
    if (pin->num_out++ == 0)
        pin->conn = downstream_choose(d);
    return pin->conn;
}

bool client_pin_to(struct request *r, uint32_t conn)
{
    struct pin *pin;

    if (r->pool->settings->downstream_conn_max == 1)
        return true;
    pin = pin_of(r);
    if (pin == NULL)
        return conn == 0;
    if (pin->num_out > 0 && pin->conn != conn)
        return false;
    pin->conn = conn;
    pin->num_out++;
    return true;
}

void client_unpin(struct request *r, const struct outcome *outcome)
{
    struct pin *pin;

    if (r->pool->settings->downstream_conn_max == 1 || outcome->result == RESULT_TIMEOUT || r->alone)
        return;
    pin = pin_of(r);
    if (pin != NULL && pin->num_out > 0)
        pin->num_out--;
}

uint32_t client_pinned(const struct request *r, uint32_t server)
{
    const struct pin *pins = r->owner->pins;

    return pins != NULL && pins[server].num_out > 0 ? pins[server].conn : 0;
}

/* --- events --- */

/*
 * Closing a socket that has unread input resets the connection, and the client may lose what it was told. So whoever is
 * hung up on in the middle of a line is first told that no more will come, and what it sends until it closes is
 * dropped.
 */
static void begin_linger(struct client *c)
{
    c->lingering = true;
    c->ps->num_lingering++;
    if (shutdown(c->conn.fd, SHUT_WR) != 0 || !conn_set_paused(&c->conn, false))
        client_fail(c, "cannot linger");
}

/* Reads once, into nowhere. */
static enum conn_status read_away(struct client *c, size_t *got)
{
    struct iovec iov;

    iov.iov_base = loop_read_buffer(client_loop(c), &iov.iov_len);
    return iov.iov_base != NULL ? conn_read(&c->conn, &iov, 1, got) : CONN_AGAIN;
}

static void drop_input(struct client *c)
{
    size_t got;
    enum conn_status status = read_away(c, &got);

    if (status == CONN_EOF || status == CONN_FAILED) {
        client_fail(c, "it has noticed that it was hung up on");
        return;
    }
    /* Nothing is in flight any more: what is charged to it now is its noise. */
    c->charged += status == CONN_OK ? got : 0;
    if (c->charged > LINGER_BYTES)
        client_fail(c, "it goes on sending though it was hung up on");
}

/* A client who watches has nothing more to say, but that it goes. */
static void ignore_input(struct client *c)
{
    size_t got;
    enum conn_status status = read_away(c, &got);

    if (status == CONN_EOF)
        client_hang_up(c);
    else if (status == CONN_FAILED)
        client_fail(c, strerror(errno));
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
    struct client *c = arg;

    (void)fd;
    loop_enter(client_loop(c));
    if (c->lingering) {
        drop_input(c);
        return;
    }
    if (what & EV_WRITE) {
        c->writable = true;
        client_mark(c);
    }
    /* What waits to be parsed comes first, at the end of the turn. */
    if (!(what & EV_READ) || c->eof || c->closing || input_waits(c))
        return;
    loop_count_active(client_loop(c), &c->active_ms);
    c->one_batch = c->head == NULL;
    if (UNLIKELY(c->doing == DOING_WATCH))
        ignore_input(c);
    else
        input_read(c);
}

/* --- the end of a turn, and of a client --- */

/* A write that waits for a slot will go behind those of its client that are on a connection already. */
static void keep_pin(const struct client *c, struct request *r)
{
    const struct pin *pin;

    if (!r->waiting || c->pins == NULL || (r->num_keys != 1 && r->op != OP_FLUSH_ALL))
        return;
    /* One for all of several servers waits after all before it has been answered. */
    pin = &c->pins[r->num_keys == 1 ? cproxy_route(c->ps, &r->keys[0]) : 0];
    if (pin->num_out > 0)
        r->conn = pin->conn;
}

static void abandon(struct client *c, struct request *r)
{
    struct loop *loop = client_loop(c);

    if (r->delayed) {
        cproxy_begin_orphan(r);
        return;
    }
    keep_pin(c, r);
    if (request_is_split(r))
        multiget_abandon(r);
    else if (r->parts != NULL)
        broadcast_abandon(r);
    cproxy_release_slot(r);
    if (!share_carry(r))
        request_let_go(&loop->requests, &loop->bufs, &r);
}

static void link_client(struct pool_state *ps, struct client *c)
{
    pthread_mutex_lock(&ps->clients_mutex);
    c->next = ps->clients;
    c->link = &ps->clients;
    if (c->next != NULL)
        c->next->link = &c->next;
    ps->clients = c;
    pthread_mutex_unlock(&ps->clients_mutex);
}

static void unlink_client(struct client *c)
{
    pthread_mutex_lock(&c->ps->clients_mutex);
    *c->link = c->next;
    if (c->next != NULL)
        c->next->link = c->link;
    pthread_mutex_unlock(&c->ps->clients_mutex);
}

static void destroy(struct client *c)
{
    struct pool_state *ps = c->ps;
    struct loop *loop = ps->loop;
    struct request *r;

    while ((r = c->head) != NULL) {
        c->head = r->next;
        abandon(c, r);
    }
    input_drop(c);
    log_debug("client %d: gone", c->conn.fd);
    if (c->doing == DOING_WATCH)
        feed_end(c);
    if (watch_wants(WATCH_CONNEVENTS))
        watch_tell_close(c->conn.fd, c->linger ? REASON_ERROR : (enum watch_reason)c->reason);
    unlink_client(c);
    conn_close(&c->conn, loop);
    loop_unmark(loop, &c->conn);
    counter_sub(&ps->counters.num_upstream, 1);
    ps->num_lingering -= c->lingering;
    free(c->pins);
    free(c);
    ps->hooks->client_closed();
}

/* Asks for what the head has to be asked for yet: the next keys of a multiget, or what was put off. */
static void continue_head(struct client *c)
{
    size_t bound = c->ps->settings->client_buffer_max;
    struct request *r, *before = NULL;

    while ((r = c->head) != NULL && r != before && request_is_split(r)) {
        before = r;
        multiget_continue(r);
    }
    if (r != NULL && r->parked && c->conn.out.bytes < bound / 2)
        cproxy_ask_again(r);
    else if (r != NULL && UNLIKELY(r->delayed))
        cproxy_begin(r);
}

/*
 * Whether what there is to write may wait for the next turn, so that one write has it and the rest of its batch, which
 * is on its way from other servers, or in a later segment of the same. A client that sent all that it is owed replies
 * for in one piece is taken to wait for the last of them, and loses nothing; if it does not, it gets the first of them
 * later by the pauses of so many turns. Behind noreply there may be nothing to wait for.
 */
static bool may_hold(const struct client *c)
{
    return client_loop(c)->paces && c->one_batch && c->held_turns < HOLD_TURNS && c->head != NULL &&
           !c->head->noreply && c->conn.out.bytes > 0 && c->conn.out.bytes < HOLD_BYTES && !c->conn.blocked &&
           !input_waits(c) && !c->closing;
}

/* Writes what there is. False: the client is lost. */
static bool flush(struct client *c)
{
    enum conn_status status;
    size_t bytes = c->conn.out.bytes;

    if (bytes == 0 || (c->conn.blocked && !c->writable))
        return true;
    c->writable = false;
    status = conn_flush(&c->conn, client_loop(c));
    counter_add(&c->ps->counters.tot_upstream_written, bytes - c->conn.out.bytes);
    if (status == CONN_AGAIN)
        /* It may stay for long: small pieces are not to keep large buffers. Without memory they just do. */
        (void)!spanq_own(&c->conn.out, &client_loop(c)->bufs, REFER_MIN);
    return status != CONN_FAILED;
}

/* One that watches and has been hung up on gets what there was room for, and moxi waits no longer for it to read. */
static bool has_ended(const struct client *c)
{
    if (c->eof && c->head == NULL && c->doing == DOING_WATCH)
        return true;
    return c->closing || (c->eof && c->head == NULL && c->conn.out.bytes == 0 && !input_waits(c));
}

static void run_turn(struct conn *conn)
{
    struct client *c = CONTAINER_OF(conn, struct client, conn);

    if (c->lingering && !c->closing)
        return;
    if (!c->closing)
        continue_head(c);
    if (may_hold(c)) {
        c->held_turns++;
        loop_mark(client_loop(c), TURN_HELD, conn);
        return;
    }
    c->held_turns = 0;
    if (!c->closing && !flush(c))
        client_fail(c, strerror(errno));
    /* With room again, it may ask for more. */
    if (!c->closing)
        continue_head(c);
    if (!c->closing)
        input_resume(c);
    if (!has_ended(c))
        return;
    if (c->linger && !c->lingering && !c->closing)
        begin_linger(c);
    else
        destroy(c);
}

void client_setup_loop(struct loop *loop)
{
    loop->turns[TURN_HELD].run = run_turn;
    loop->turns[TURN_CLIENT].run = run_turn;
}

bool client_create(struct pool_state *ps, int fd)
{
    struct client *c = calloc(1, sizeof(*c));

    if (c == NULL || !conn_open(&c->conn, ps->loop->base, fd, false, on_event, c)) {
        free(c);
        close(fd);
        return false;
    }
    c->ps = ps;
    c->active_ms = ps->loop->active_ms - 1;
    link_client(ps, c);
    counter_add(&ps->counters.num_upstream, 1);
    counter_add(&ps->counters.tot_upstream, 1);
    log_debug("client %d: new", fd);
    if (watch_wants(WATCH_CONNEVENTS))
        watch_tell_new(fd);
    return true;
}

void clients_drain(struct pool_state *ps)
{
    for (struct client *c = ps->clients; c != NULL; c = c->next) {
        if (c->reason == REASON_NORMAL)
            c->reason = REASON_SHUTDOWN;
        if (c->lingering)
            client_fail(c, "moxi stops");
        else
            client_hang_up(c);
    }
}

/* Seconds since it last sent something, at now_ms. A unit of active_ms is 1024 us. */
static uint32_t idle_seconds(const struct client *c, uint32_t now_ms)
{
    uint32_t idle = now_ms - __atomic_load_n(&c->active_ms, __ATOMIC_RELAXED);

    /* What another thread reads may be a little ahead of its own clock. */
    return idle > INT32_MAX ? 0 : (uint32_t)((uint64_t)idle * 1024 / 1000000);
}

static void kick_idle(struct pool_state *ps)
{
    for (struct client *c = ps->clients; c != NULL; c = c->next) {
        if (c->head != NULL || c->conn.out.bytes > 0 || c->doing == DOING_WATCH ||
            idle_seconds(c, ps->loop->active_ms) < ps->serving->idle_timeout_s)
            continue;
        counter_add(&ps->counters.tot_upstream_idle_kicks, 1);
        c->reason = REASON_IDLE;
        client_fail(c, "it was idle for too long");
    }
}

void clients_tick(struct pool_state *ps)
{
    if (ps->serving->idle_timeout_s > 0)
        kick_idle(ps);
    for (struct client *c = ps->num_lingering > 0 ? ps->clients : NULL; c != NULL; c = c->next)
        if (c->lingering && ++c->linger_ticks > LINGER_TICKS)
            client_fail(c, "it took too long to notice that it was hung up on");
}

void clients_tell(struct pool_state *ps, const struct request *r, void (*fn)(void *arg, const struct client_info *info),
                  void *arg)
{
    uint32_t now_ms = (uint32_t)(util_now_us() >> 10);

    pthread_mutex_lock(&ps->clients_mutex);
    for (const struct client *c = ps->clients; c != NULL; c = c->next) {
        uint8_t doing = __atomic_load_n(&c->doing, __ATOMIC_RELAXED);

        fn(arg, &(struct client_info){.fd = c->conn.fd,
                                      .idle_s = idle_seconds(c, now_ms),
                                      .in_value = doing == DOING_VALUE,
                                      .watches = doing == DOING_WATCH,
                                      .is_owner = r->owner == c});
    }
    pthread_mutex_unlock(&ps->clients_mutex);
}

void clients_destroy(struct pool_state *ps)
{
    while (ps->clients != NULL)
        destroy(ps->clients);
}
