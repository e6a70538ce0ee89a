/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_downstream - a server as one worker sees it: see cproxy_downstream.h.
 *
 * A connection's states, changed by set_state only:
 *
 *   DOWN --flush with something unsent--> RESOLVING --address--> CONNECTING --writable--> READY
 *     ^                                       |                       |                     |
 *     +---------------------------------------+--- error, timeout ----+---------------------+
 *
 * When a connection is lost, what was on it is failed, but for what may be sent again: requests of which not one byte
 * was written, and reads of whose reply not one byte has come, as often as downstream_retry says. These stay queued in
 * their order, and the connection is made anew.
 *
 * What a server is asked in, unless downstream_protocol names one protocol: the classic commands as they are; the meta
 * commands as they are if it knows them, else by the classic command that says the same, if there is one; and what
 * clients of the binary protocol ask, in that. These have connections of their own, those of the twin: a downstream for
 * the same server. If the server does not speak it, their requests take the connection of the same number that the
 * others take, until that is lost. What it knows, the server is asked first: cproxy_greeting.c. What it answers is read
 * by cproxy_replies.c.
 *
 * One timer a connection, never touched on the hot path: it is armed for the earliest deadline when it is not armed,
 * and when it fires looks what is due and arms itself again.
 */
#include "cproxy_downstream_int.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cproxy_join.h"
#include "log.h"

enum {
    COMPOSE_BYTES = 256 * 1024, /* composed ahead of the socket at the most */
    CONNECT_AGAIN_MS = 5,       /* after which a unix socket that took no more connections is tried again */
    JOINED_BYTES = 64 * 1024, /* of values that gets in one line bring, about: with more there is nothing to be saved */
    FIRST_GUESS = 4096,       /* usual_value of a server of which nothing is known */
};

static void on_event(evutil_socket_t fd, short what, void *arg);

/* --- the timer --- */

void dconn_arm(struct dconn *dc, uint64_t at_us)
{
    uint64_t now = dc->d->loop->now_us;
    uint64_t wait = at_us > now ? at_us - now : 0;
    struct timeval tv = {.tv_sec = (time_t)(wait / 1000000), .tv_usec = (suseconds_t)(wait % 1000000)};

    if (at_us == 0 || (dc->timer_us != 0 && dc->timer_us <= at_us))
        return;
    if (event_add(&dc->timer, &tv) == 0)
        dc->timer_us = at_us;
}

/*
 * The first deadline from r on in a queue of a request that is still waited for; 0: none. What a twin gave up may stand
 * behind what came after it, and is late by as much as it had waited.
 */
static uint64_t first_deadline(const struct request *r)
{
    for (; r != NULL; r = r->next_down)
        if (!r->answered)
            return r->deadline_us;
    return 0;
}

/*
 * When the server, which owes a reply that is too late already, has given no sign for as long again; 0: it owes none.
 */
static uint64_t stall_us(const struct dconn *dc)
{
    uint64_t patience = (uint64_t)dc->d->settings->downstream_timeout_ms * 1000;
    const struct request *head = dc->sent.head;

    if (patience == 0 || head == NULL || !head->answered)
        return 0;
    return (dc->progress_us > head->deadline_us ? dc->progress_us : head->deadline_us) + patience;
}

static void arm_for_next(struct dconn *dc)
{
    const struct request *r = dc->unsent.head;

    dconn_arm(dc, dc->connect_us);
    dconn_arm(dc, dc->again_us);
    dconn_arm(dc, stall_us(dc));
    dconn_arm(dc, first_deadline(dc->sent.head));
    dconn_arm(dc, first_deadline(dc->unsent.head));
    while (r != NULL && greeting_is_own(r))
        r = r->next_down;
    dconn_arm(dc, first_deadline(r));
}

/* --- requests that end here --- */

/* What takes the place of a reply. */
static struct outcome outcome_of(const struct dconn *dc, enum result result)
{
    return (struct outcome){.result = result, .message = dc->d->server->name};
}

static void leave(struct dconn *dc, struct request *r, enum result result)
{
    struct outcome outcome = outcome_of(dc, result);

    request_left_conn(&dc->d->loop->requests, &dc->d->loop->bufs, r, &outcome);
}

/* --- connecting and closing --- */

static void set_state(struct dconn *dc, enum dconn_state state)
{
    struct counters *n = dc->d->counters;

    if (dc->state == DCONN_READY)
        counter_sub(&n->num_downstream_conn, 1);
    if (state == DCONN_READY) {
        counter_add(&n->num_downstream_conn, 1);
        counter_add(&n->tot_downstream_conn, 1);
    }
    dc->state = state;
}

/* Whether a request that was on a lost connection, of whose bytes `written` had left, may be sent on another. */
static bool may_retry(const struct dconn *dc, const struct request *r, uint64_t written)
{
    if (r->got_reply || r->answered || greeting_is_own(r))
        return false;
    if (r->sent_at >= written)
        return true;
    return (op_flags((enum opcode)r->op) & OPF_READ) && r->tries < dc->d->settings->downstream_retry;
}

/* What is unsent, of which the connection then has none. */
static struct request_queue take_unsent(struct dconn *dc)
{
    struct request_queue q = dc->unsent;

    memset(&dc->unsent, 0, sizeof(dc->unsent));
    dc->unsent_bytes = 0;
    return q;
}

/* Sorts what was on a lost connection into what is failed, at once, and what stays queued. */
static void sort_lost(struct dconn *dc, uint64_t written, enum result result)
{
    struct request_queue lost = dc->sent;
    struct request_queue later = take_unsent(dc);
    struct request *r;

    memset(&dc->sent, 0, sizeof(dc->sent));
    while ((r = request_queue_pop(&lost)) != NULL) {
        if (!may_retry(dc, r, written)) {
            leave(dc, r, result);
            continue;
        }
        if (r->sent_at < written) {
            r->tries++;
            counter_add(&dc->d->counters->tot_retry, 1);
        }
        dc->unsent_bytes += request_weight(r);
        request_queue_push(&dc->unsent, r);
    }
    while ((r = request_queue_pop(&later)) != NULL) {
        if (greeting_is_own(r)) {
            leave(dc, r, result);
            continue;
        }
        dc->unsent_bytes += request_weight(r);
        request_queue_push(&dc->unsent, r);
    }
}

/* Whether it is being left alone. */
static bool is_blocked(const struct downstream *d)
{
    return d->blocked_us != 0 && d->loop->now_us < d->blocked_us;
}

void downstream_leave_alone(struct downstream *d)
{
    d->blocked_us = d->loop->now_us + (uint64_t)d->settings->connect_retry_interval_ms * 1000;
    d->errors = 0;
    counter_add(&d->counters->tot_downstream_connect_max_reached, 1);
}

void downstream_count_error(struct downstream *d)
{
    uint64_t interval = (uint64_t)d->settings->connect_retry_interval_ms * 1000;
    uint64_t now = d->loop->now_us;

    if (d->errors == 0 || now - d->first_error_us > interval) {
        d->errors = 0;
        d->first_error_us = now;
    }
    if (++d->errors > d->settings->connect_max_errors) {
        downstream_leave_alone(d);
        log_warning("downstream %s: left alone for %u ms after too many failures to connect", d->server->name,
                    d->settings->connect_retry_interval_ms);
    }
}

/* --- the twin --- */

/* The connection that has the same clients' requests. */
static struct dconn *other_conn(const struct dconn *dc)
{
    return &dc->d->twin->conns[dc - dc->d->conns];
}

/* Whether a request is for a twin. */
static bool is_for_twin(const struct request *r)
{
    return r->codec == &codec_binary && codec_binary_server.lacks(r) == NULL;
}

static void push_unsent(struct dconn *dc, struct request *r)
{
    dc->d->loop->asked_ms = dc->d->loop->active_ms;
    request_queue_push(&dc->unsent, r);
    dc->unsent_bytes += request_weight(r);
    dconn_arm(dc, r->deadline_us);
    loop_mark(dc->d->loop, TURN_DOWNSTREAM, &dc->conn);
}

/*
 * What waits for a twin's connection goes by the other, and so does all that comes:
 *
 *   a server that has answered in text    until the other connection is lost, as it may be another server then
 *   one that has said nothing, or that    the same, or until connect_retry_interval has passed and nothing is on the
 *   the twin cannot connect to            other connection, so that no request overtakes an earlier one
 */
static void give_up_twin(struct dconn *dc)
{
    struct dconn *other = other_conn(dc);
    bool said = dc->knows == KNOWS_NO && dc->heard;
    struct request_queue q;
    struct request *r;

    if (dc->state == DCONN_READY)
        dconn_close(dc, RESULT_CLOSED, "the binary protocol is not spoken here");
    dc->knows = KNOWS_UNKNOWN;
    other->no_binary = true;
    other->binary_again_us = said ? 0 : ms_after(dc, dc->d->settings->connect_retry_interval_ms);
    q = take_unsent(dc);
    while ((r = request_queue_pop(&q)) != NULL)
        push_unsent(other, r);
}

/* Whether a request for a twin goes by the other connection. */
static bool avoids_twin(struct dconn *other)
{
    bool may_return = other->binary_again_us != 0 && other->d->loop->now_us >= other->binary_again_us;

    if (other->no_binary && may_return && other->sent.head == NULL && other->unsent.head == NULL)
        other->no_binary = false;
    return other->no_binary;
}

/* The server may be another by now. What was not sent yet goes before all that comes, so it moves too. */
static void back_to_twin(struct dconn *dc)
{
    struct request_queue q = take_unsent(dc);
    struct request *r;

    dc->no_binary = false;
    while ((r = request_queue_pop(&q)) != NULL)
        push_unsent(is_for_twin(r) ? other_conn(dc) : dc, r);
}

void dconn_close(struct dconn *dc, enum result result, const char *why)
{
    struct downstream *d = dc->d;
    uint64_t written = dc->composed - dc->conn.out.bytes;
    bool was_asked = dc->knows == KNOWS_ASKED && !is_twin(d);
    bool over = greeting_is_over(dc);

    log_info("downstream %s: closed, %s; %u requests on it", d->server->name, why, dc->sent.n);
    replies_forget(dc);
    conn_close(&dc->conn, d->loop);
    set_state(dc, DCONN_DOWN);
    dc->num_joined = 0;
    if (was_asked)
        greeting_lost(d);
    else if (over && !dc->heard && (dc->sent.head != NULL || dc->unsent.head != NULL || d->settings->usr[0] != '\0'))
        downstream_count_error(d);
    sort_lost(dc, written, result);
    if (dc->no_binary)
        back_to_twin(dc);
    if (dc->unsent.head != NULL)
        loop_mark(d->loop, TURN_DOWNSTREAM, &dc->conn);
}

static void fail_unsent(struct dconn *dc, enum result result)
{
    struct request_queue q = take_unsent(dc);
    struct request *r;

    dc->no_binary = false;
    while ((r = request_queue_pop(&q)) != NULL)
        leave(dc, r, result);
}

static void connect_next(struct dconn *dc);

/* An attempt has failed. While the name has other addresses and there is time, the next is tried. */
static void connect_failed(struct dconn *dc, const char *why)
{
    bool in_time = dc->connect_us == 0 || dc->connect_us > dc->d->loop->now_us;

    dc->again_us = 0;
    log_warning("downstream %s: cannot connect: %s", dc->d->server->name, why);
    if (dc->state == DCONN_CONNECTING && dc->conn.fd >= 0)
        conn_close(&dc->conn, dc->d->loop);
    if (in_time && dc->next_address < dc->addresses.n) {
        connect_next(dc);
        return;
    }
    set_state(dc, DCONN_DOWN);
    dc->connect_us = 0;
    counter_add(&dc->d->counters->tot_downstream_connect_failed, 1);
    downstream_count_error(dc->d);
    if (is_twin(dc->d) && other_conn(dc)->state == DCONN_READY)
        give_up_twin(dc);
    else
        fail_unsent(dc, RESULT_WRITE_FAILED);
}

static void connect_done(struct dconn *dc)
{
    struct downstream *d = dc->d;

    dc->connect_us = 0;
    dc->heard = false;
    dc->is_last = false;
    set_state(dc, DCONN_READY);
    counter_add(&d->counters->tot_downstream_connect, 1);
    log_info("downstream %s: connected", d->server->name);
    greeting_begin(dc);
    loop_mark(d->loop, TURN_DOWNSTREAM, &dc->conn);
}

/* The backlog of a unix socket is full. Over TCP the kernel would wait for room; here it is for us to do. */
static void connect_later(struct dconn *dc)
{
    dc->next_address--;
    dc->again_us = ms_after(dc, CONNECT_AGAIN_MS);
    dconn_arm(dc, dc->again_us);
}

/* Tries the next address. */
static void connect_next(struct dconn *dc)
{
    const struct address *address = &dc->addresses.v[dc->next_address++];
    int fd = conn_socket(address->any.sa_family);
    bool pending;

    set_state(dc, DCONN_CONNECTING);
    if (fd < 0) {
        connect_failed(dc, strerror(errno));
        return;
    }
    pending = connect(fd, &address->any, address->len) != 0;
    if (pending && errno != EINPROGRESS) {
        int error = errno;

        close(fd);
        if (error == EAGAIN && address->any.sa_family == AF_UNIX)
            connect_later(dc);
        else
            connect_failed(dc, strerror(error));
        return;
    }
    if (!conn_open(&dc->conn, dc->d->loop->base, fd, pending, on_event, dc)) {
        close(fd);
        connect_failed(dc, "the event loop refuses it");
        return;
    }
    if (!pending)
        connect_done(dc);
}

static void connect_to(struct dconn *dc, const struct addresses *addresses)
{
    dc->addresses = *addresses;
    dc->next_address = 0;
    connect_next(dc);
}

static void on_resolved(void *arg, const char *error, const struct addresses *addresses)
{
    struct dconn *dc = arg;

    loop_enter(dc->d->loop);
    dc->lookup_pending = false;
    if (dc->state != DCONN_RESOLVING)
        return;
    if (error != NULL)
        connect_failed(dc, error);
    else
        connect_to(dc, addresses);
}

static void connect_start(struct dconn *dc)
{
    struct downstream *d = dc->d;

    counter_add(&d->counters->tot_downstream_connect_started, 1);
    dc->connect_us = ms_after(dc, d->settings->connect_timeout_ms);
    dconn_arm(dc, dc->connect_us);
    if (!d->is_name) {
        connect_to(dc, &d->addresses);
        return;
    }
    dc->addresses.n = 0;
    set_state(dc, DCONN_RESOLVING);
    if (dc->lookup_pending)
        return;
    dc->lookup_pending = resolve_name(d->server->host, d->server->port, &d->loop->work, on_resolved, dc);
    if (!dc->lookup_pending)
        connect_failed(dc, "out of memory");
}

/* --- deadlines --- */

static bool is_due(const struct dconn *dc, const struct request *r)
{
    return r->deadline_us != 0 && r->deadline_us <= dc->d->loop->now_us;
}

/* Answers for the server what is due in `sent`. The requests stay: their replies are still to come. */
static void expire_sent(struct dconn *dc)
{
    struct outcome outcome = outcome_of(dc, RESULT_TIMEOUT);
    struct request *next;

    for (struct request *r = dc->sent.head; r != NULL; r = next) {
        next = r->next_down;
        if (r->answered)
            continue;
        if (!is_due(dc, r))
            break;
        counter_add(&dc->d->counters->tot_downstream_timeout, 1);
        r->answered = true;
        r->ops->done(r, &outcome);
    }
}

static void expire_unsent(struct dconn *dc)
{
    struct request_queue own = {0};

    /* moxi's own stand before those that have waited longer. */
    while (dc->unsent.head != NULL && greeting_is_own(dc->unsent.head) && !is_due(dc, dc->unsent.head))
        request_queue_push(&own, request_queue_pop(&dc->unsent));
    while (dc->unsent.head != NULL && is_due(dc, dc->unsent.head)) {
        struct request *r = request_queue_pop(&dc->unsent);

        dc->unsent_bytes -= request_weight(r);
        if (!r->answered)
            counter_add(&dc->d->counters->tot_downstream_timeout, 1);
        leave(dc, r, RESULT_TIMEOUT);
    }
    request_queue_concat(&own, &dc->unsent);
    dc->unsent = own;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct dconn *dc = arg;
    struct downstream *d = dc->d;
    uint64_t now, stall;

    (void)fd;
    (void)what;
    loop_enter(d->loop);
    now = d->loop->now_us;
    dc->timer_us = 0;
    if (dc->connect_us != 0 && dc->connect_us <= now) {
        counter_add(&d->counters->tot_downstream_connect_timeout, 1);
        connect_failed(dc, "connect_timeout");
    }
    if (dc->again_us != 0 && dc->again_us <= now) {
        dc->again_us = 0;
        connect_next(dc);
    }
    expire_unsent(dc);
    expire_sent(dc);
    stall = stall_us(dc);
    if (stall != 0 && stall <= now)
        dconn_close(dc, RESULT_CLOSED, "no progress within downstream_timeout");
    arm_for_next(dc);
}

/* --- sending --- */

/* Composes the next unsent request. False when memory ran out: that request has failed. */
static bool compose_next(struct dconn *dc, struct join *join)
{
    struct loop *loop = dc->d->loop;
    struct request *r = request_queue_pop(&dc->unsent);
    const struct codec *codec = dconn_codec(dc, r);
    const char *lacks = UNLIKELY(codec != r->codec) ? codec->lacks(r) : NULL;
    size_t before = dc->conn.out.bytes;

    dc->unsent_bytes -= request_weight(r);
    if (lacks != NULL) {
        struct outcome outcome = {.result = RESULT_REFUSED, .message = lacks};

        request_left_conn(&loop->requests, &loop->bufs, r, &outcome);
        return true;
    }
    /* Nobody will read what it would bring. */
    if (r->orphan && (op_flags((enum opcode)r->op) & OPF_READ)) {
        leave(dc, r, RESULT_CLOSED);
        return true;
    }
    r->goes_on = false;
    r->sent_at = dc->composed;
    request_untell(r);
    if (join_line(join, codec, r, &dc->conn.out)) {
        dc->num_joined++;
        counter_add(&dc->d->counters->tot_get_joined, 1);
    } else if (UNLIKELY(!codec->compose_request(r, &loop->bufs, &dc->conn.out))) {
        spanq_truncate(&dc->conn.out, &loop->bufs, before);
        join_close(join);
        leave(dc, r, RESULT_NO_MEMORY);
        return false;
    }
    dc->composed += dc->conn.out.bytes - before;
    if (dc->sent.head == NULL)
        dc->progress_us = loop->now_us;
    request_queue_push(&dc->sent, r);
    dc->is_last = codec == &codec_ascii && codec_ascii_tells_keys(r);
    return true;
}

static bool can_compose(struct dconn *dc)
{
    return dc->unsent.head != NULL && !dc->is_last && !greeting_must_wait(dc);
}

/* How many keys a line may have that gets join. */
static uint32_t join_max(const struct dconn *dc)
{
    uint32_t max = dc->d->settings->get_join_max;
    size_t fit = JOINED_BYTES / (dc->usual_value + 1);

    return fit < max ? (uint32_t)fit : max;
}

static void send_unsent(struct dconn *dc)
{
    struct loop *loop = dc->d->loop;
    enum conn_status status = CONN_OK;
    struct join join;

    join.max = join_max(dc);
    while (status == CONN_OK && (can_compose(dc) || dc->conn.out.bytes > 0)) {
        join_close(&join);
        while (dc->conn.out.bytes < COMPOSE_BYTES && can_compose(dc))
            if (!compose_next(dc, &join))
                break;
        status = conn_flush(&dc->conn, loop);
    }
    if (status == CONN_FAILED)
        dconn_close(dc, RESULT_CLOSED, strerror(errno));
}

/* The end of a turn, for a connection that was marked. */
static void run_turn(struct conn *conn)
{
    struct dconn *dc = CONTAINER_OF(conn, struct dconn, conn);

    if (UNLIKELY(dc->knows == KNOWS_NO) && is_twin(dc->d)) {
        give_up_twin(dc);
        return;
    }
    if (UNLIKELY(dc->introduced == INTRODUCED_REFUSED) && dc->state == DCONN_READY)
        dconn_close(dc, RESULT_CLOSED, "it was not accepted");
    if (dc->state == DCONN_DOWN && dc->unsent.head != NULL) {
        if (is_blocked(dc->d))
            fail_unsent(dc, RESULT_WRITE_FAILED);
        else
            connect_start(dc);
    }
    if (dc->state == DCONN_READY && !dc->conn.blocked)
        send_unsent(dc);
}

static void on_connected(struct dconn *dc)
{
    int error = conn_connect_error(&dc->conn);

    if (error != 0)
        connect_failed(dc, strerror(error));
    else if (!conn_connected(&dc->conn))
        connect_failed(dc, "the event loop refuses it");
    else
        connect_done(dc);
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
    struct dconn *dc = arg;

    (void)fd;
    loop_enter(dc->d->loop);
    if (dc->state == DCONN_CONNECTING) {
        on_connected(dc);
        return;
    }
    if (what & EV_READ)
        replies_read(dc);
    if ((what & EV_WRITE) && dc->state == DCONN_READY)
        send_unsent(dc);
}

/* --- the public side --- */

void downstream_setup_loop(struct loop *loop)
{
    loop->turns[TURN_DOWNSTREAM].run = run_turn;
}

static struct downstream *create_one(struct loop *loop, const struct server *server, const struct settings *settings,
                                     enum downstream_protocol protocol, struct counters *counters)
{
    uint32_t n = settings->downstream_conn_max;
    struct downstream *d = calloc(1, sizeof(*d) + n * sizeof(d->conns[0]));

    if (d == NULL)
        return NULL;
    d->loop = loop;
    d->server = server;
    d->settings = settings;
    d->protocol = protocol;
    d->counters = counters;
    d->is_name = !resolve_numeric(server->host, server->port, &d->addresses.v[0]);
    d->addresses.n = !d->is_name;
    d->num_conns = n;
    for (uint32_t i = 0; i < n; i++) {
        struct dconn *dc = &d->conns[i];

        dc->d = d;
        dc->conn.fd = -1;
        dc->usual_value = FIRST_GUESS;
        event_assign(&dc->timer, loop->base, -1, 0, on_timer, dc);
    }
    return d;
}

struct downstream *downstream_create(struct loop *loop, const struct server *server, const struct settings *settings,
                                     struct counters *counters)
{
    enum downstream_protocol protocol = (enum downstream_protocol)settings->downstream_protocol;
    struct downstream *d = create_one(loop, server, settings, protocol, counters);

    if (d == NULL || protocol != DOWNSTREAM_AUTO)
        return d;
    d->twin = create_one(loop, server, settings, DOWNSTREAM_BINARY, counters);
    if (d->twin == NULL) {
        downstream_destroy(d);
        return NULL;
    }
    d->twin->twin = d;
    return d;
}

static void destroy_one(struct downstream *d)
{
    for (uint32_t i = 0; i < d->num_conns; i++) {
        struct dconn *dc = &d->conns[i];

        if (dc->conn.fd >= 0)
            conn_close(&dc->conn, d->loop);
        set_state(dc, DCONN_DOWN);
        replies_forget(dc);
        request_queue_concat(&dc->unsent, &dc->sent);
        fail_unsent(dc, RESULT_CLOSED);
        event_del(&dc->timer);
        loop_unmark(d->loop, &dc->conn);
    }
    free(d);
}

void downstream_destroy(struct downstream *d)
{
    if (d->twin != NULL)
        destroy_one(d->twin);
    destroy_one(d);
}

/* Requests on its connection number i, and the twin's. */
static size_t num_requests(const struct downstream *d, uint32_t i)
{
    size_t n = d->conns[i].sent.n + d->conns[i].unsent.n;

    return d->twin == NULL ? n : n + d->twin->conns[i].sent.n + d->twin->conns[i].unsent.n;
}

bool downstream_idle(const struct downstream *d)
{
    for (uint32_t i = 0; i < d->num_conns; i++)
        if (num_requests(d, i) > 0)
            return false;
    return true;
}

uint32_t downstream_choose(const struct downstream *d)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < d->num_conns; i++)
        if (num_requests(d, i) < num_requests(d, best))
            best = i;
    return best;
}

static bool queue_is_full(const struct dconn *dc, const struct request *r)
{
    const struct settings *s = dc->d->settings;
    size_t bytes = dc->unsent_bytes + dc->conn.out.bytes;

    if (s->downstream_queue_max > 0 && dc->sent.n + dc->unsent.n >= s->downstream_queue_max)
        return true;
    return s->downstream_queue_bytes > 0 && bytes > 0 && bytes + request_weight(r) > s->downstream_queue_bytes;
}

void downstream_enqueue(struct downstream *d, uint32_t conn, struct request *r)
{
    struct dconn *dc = &d->conns[conn];

    assert(conn < d->num_conns);
    if (UNLIKELY(r->codec == &codec_binary) && d->twin != NULL && is_for_twin(r) && !avoids_twin(dc)) {
        d = d->twin;
        dc = &d->conns[conn];
    }
    if (UNLIKELY(is_blocked(d)) && dc->state == DCONN_DOWN) {
        leave(dc, r, RESULT_WRITE_FAILED);
        return;
    }
    if (UNLIKELY(queue_is_full(dc, r))) {
        counter_add(&d->counters->tot_downstream_queue_full, 1);
        leave(dc, r, RESULT_QUEUE_FULL);
        return;
    }
    r->in_conn = true;
    push_unsent(dc, r);
}
