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
 * others take, until that is lost. What it knows, the server is asked first: cproxy_greeting.c.
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
    REFER_MIN = 16 * 1024,      /* a part of a value from which it is not copied out of the read buffer */
    JOINED_BYTES = 64 * 1024, /* of values that gets in one line bring, about: with more there is nothing to be saved */
    FIRST_GUESS = 4096,       /* usual_value of a server of which nothing is known */
};

static void on_event(evutil_socket_t fd, short what, void *arg);
static void close_ready(struct dconn *dc, enum result result, const char *why);

/* In which protocol a request is sent, and its reply read. It does not change while there are any. */
static const struct codec *codec_of(const struct dconn *dc, const struct request *r)
{
    static const struct codec *const codecs[] = {
        [DOWNSTREAM_ASCII] = &codec_ascii, [DOWNSTREAM_META] = &codec_meta, [DOWNSTREAM_BINARY] = &codec_binary_server};
    enum downstream_protocol protocol = dc->d->protocol;

    if (LIKELY(protocol == DOWNSTREAM_AUTO)) {
        if (LIKELY(!op_is_meta(r->op)))
            return &codec_ascii;
        if (r->op == OP_META_NOOP)
            return &codec_meta;
        return dc->knows == KNOWS_NO ? &codec_ascii : &codec_meta;
    }
    /* What has no key has no meta command. */
    if (protocol == DOWNSTREAM_META && !op_is_meta(r->op) && !(op_flags((enum opcode)r->op) & OPF_KEY))
        return &codec_ascii;
    return codecs[protocol];
}

/*
 * Whether a reply is passed on as it came. Else it is composed anew, in its client's protocol; or as the server was not
 * asked for a key that no line can hold: see codec_meta.
 */
static bool is_passed_on(const struct codec *codec, const struct request *r)
{
    if (UNLIKELY(codec != r->codec))
        return false;
    if (LIKELY(codec != &codec_meta || r->num_keys == 0 || !(r->terms.bits & TERM_BASE64)))
        return true;
    return r->op == OP_META_DEBUG || rkey_is_word(&r->keys[0]);
}

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

static void forget_reply(struct dconn *dc)
{
    if (dc->rest != NULL)
        chunk_unref(dc->rest);
    if (dc->fill != NULL)
        chunk_unref(dc->fill);
    dc->rest = NULL;
    dc->fill = NULL;
    dc->body_left = 0;
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
        close_ready(dc, RESULT_CLOSED, "the binary protocol is not spoken here");
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

/* The one way by which an established connection ends. why goes to the log. */
static void close_ready(struct dconn *dc, enum result result, const char *why)
{
    struct downstream *d = dc->d;
    uint64_t written = dc->composed - dc->conn.out.bytes;
    bool was_asked = dc->knows == KNOWS_ASKED && !is_twin(d);
    bool over = greeting_is_over(dc);

    log_info("downstream %s: closed, %s; %u requests on it", d->server->name, why, dc->sent.n);
    forget_reply(dc);
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
        close_ready(dc, RESULT_CLOSED, "no progress within downstream_timeout");
    arm_for_next(dc);
}

/* --- replies --- */

static bool malformed(struct dconn *dc, const char *why)
{
    /* What a twin is asked first, who does not speak its protocol cannot answer well. */
    if (!is_twin(dc->d) || dc->knows != KNOWS_ASKED) {
        counter_add(&dc->d->counters->err_downstream_bad_reply, 1);
        log_warning("downstream %s: malformed reply: %s", dc->d->server->name, why);
    }
    close_ready(dc, RESULT_CLOSED, "malformed reply");
    return false;
}

/* Finds which of the request's keys a value is of: one not yet answered for, for servers answer in order. */
static bool match_key(struct request *r, struct reply *reply)
{
    if (reply->key == NULL) {
        reply->hit.key = r->first;
        return true;
    }
    for (uint32_t i = r->cursor; i != RKEY_END; i = r->keys[i].next) {
        const struct rkey *key = &r->keys[i];

        if (key->len == reply->key_len && memcmp(key->p, reply->key, key->len) == 0) {
            reply->hit.key = i;
            r->cursor = key->next;
            return true;
        }
    }
    return false;
}

/* The reply to the head of `sent` is complete. suspicious: the connection is not to be used again. */
static bool finish_reply(struct dconn *dc, const struct outcome *outcome, bool suspicious)
{
    struct request *r = request_queue_pop(&dc->sent);
    struct loop *loop = dc->d->loop;
    bool is_swallowed = r->answered;

    dc->num_joined -= r->goes_on;
    assert(dc->num_joined == 0 || dc->num_joined < dc->sent.n);
    if ((r->op == OP_GET || r->op == OP_GETS) && r->cursor == r->first)
        dc->usual_value -= dc->usual_value / 8; /* nothing was found */
    request_left_conn(&loop->requests, &loop->bufs, r, outcome);
    if (UNLIKELY(is_swallowed))
        counter_add(&dc->d->counters->tot_downstream_swallowed, 1);
    if (UNLIKELY(suspicious)) {
        close_ready(dc, RESULT_CLOSED, "the server does not know the command, and took its value for more of them");
        return false;
    }
    if (UNLIKELY(dc->is_last) && dc->sent.head == NULL) {
        close_ready(dc, RESULT_CLOSED, "the reply had keys in it, and may have more behind it");
        return false;
    }
    return true;
}

static bool finish_value(struct dconn *dc)
{
    const struct outcome outcome = {.result = RESULT_END};

    return finish_reply(dc, &outcome, false);
}

/* What stands behind a value in its client's protocol, and does not in the server's, which has n bytes there. */
static void add_tail(struct request *r, size_t n)
{
    uint8_t tail[] = {'\r', '\n'};

    if (r->codec->value_tail > n)
        r->ops->data(r, NULL, tail, r->codec->value_tail);
}

/* The value that was being read is complete. */
static bool finish_body(struct dconn *dc)
{
    struct request *r = dc->sent.head;

    if (dc->fill != NULL)
        chunk_unref(dc->fill);
    dc->fill = NULL;
    if (!codec_of(dc, r)->check_tail(dc->tail, dc->body_tail))
        return malformed(dc, "a value without CR LF behind it");
    if (!r->answered) {
        add_tail(r, dc->body_tail);
        r->ops->end(r);
    }
    return !dc->body_is_last || finish_value(dc);
}

/* Hands on n bytes of the value being read, at p in chunk. */
static bool take_body(struct dconn *dc, struct chunk *chunk, uint8_t *p, size_t n)
{
    struct request *r = dc->sent.head;
    size_t over;

    /* The tail is checked when all of it has come, which may be in two reads. */
    for (size_t i = dc->body_left > dc->body_tail ? dc->body_left - dc->body_tail : 0; i < n; i++)
        dc->tail[dc->body_tail - (dc->body_left - i)] = p[i];
    dc->body_left -= n;
    /* The client's protocol may have less behind a value. */
    over = dc->body_tail - dc->body_told;
    over = dc->body_left < over ? over - dc->body_left : 0;
    if (!r->answered && n > over)
        r->ops->data(r, chunk, p, n - over);
    return dc->body_left > 0 || finish_body(dc);
}

/* Bytes of a value that were read into the loop's buffer: large parts stay there, small ones move to the fill chunk. */
static bool take_body_read(struct dconn *dc, struct chunk *chunk, uint8_t *p, size_t n)
{
    struct request *r = dc->sent.head;
    struct chunk *fill = dc->fill;
    uint8_t *to;

    if (n >= REFER_MIN || n == dc->body_left || r->answered || fill != NULL)
        return take_body(dc, chunk, p, n);
    dc->fill = fill = chunk_alloc(&dc->d->loop->bufs, dc->body_left < CHUNK_LARGE ? dc->body_left : CHUNK_LARGE);
    if (fill == NULL)
        return take_body(dc, chunk, p, n);
    to = fill->data;
    memcpy(to, p, n);
    fill->used = n;
    return take_body(dc, fill, to, n);
}

/*
 * The head of a value, in its client's protocol. What stands behind it is CR LF, or nothing: passed on as far as that
 * protocol has it, or added. The return value is how much of it is passed on.
 */
static size_t translate_head(struct request *r, struct hit *hit, uint8_t *head)
{
    size_t told = hit->tail_len < r->codec->value_tail ? hit->tail_len : r->codec->value_tail;

    hit->tail_len = r->codec->value_tail;
    hit->head_len = r->codec->compose_head(r, hit, head);
    hit->head = head;
    return told;
}

/*
 * A value that is all there, of a protocol that its client does not speak: its body at p, behind the server's head of
 * so many bytes. If the client's head is no longer it takes the place of the server's, and all stays in one piece.
 */
static void translate_hit(struct request *r, struct hit *hit, struct chunk *chunk, uint8_t *p, size_t head_room)
{
    uint8_t head[HIT_HEAD_MAX];
    size_t tail = hit->tail_len;
    size_t told = translate_head(r, hit, head);

    if (hit->head_len <= head_room && hit->tail_len == told) {
        hit->head = memcpy(p - hit->head_len, head, hit->head_len);
        r->ops->hit(r, hit, chunk, p - hit->head_len, hit->head_len + hit->value_len + told);
        return;
    }
    r->ops->begin(r, hit);
    if (hit->value_len + told > 0)
        r->ops->data(r, chunk, p, hit->value_len + told);
    add_tail(r, tail);
    r->ops->end(r);
}

/* A value that is still arriving. */
static void begin_hit(struct dconn *dc, struct request *r, struct hit *hit)
{
    uint8_t head[HIT_HEAD_MAX];

    if (!is_passed_on(codec_of(dc, r), r))
        dc->body_told = translate_head(r, hit, head);
    r->ops->begin(r, hit);
}

/*
 * A value. If it is not the head's, whose line goes on with keys of others, it is one of theirs, and the head's key is
 * missing: the value is read again, as the reply to the next.
 */
static bool handle_hit(struct dconn *dc, struct reply *reply, struct chunk *chunk, uint8_t *p, size_t n, size_t *took)
{
    struct request *r = dc->sent.head;
    const struct codec *codec = codec_of(dc, r);
    struct hit *hit = &reply->hit;
    size_t body = hit->value_len + hit->tail_len;

    if (!match_key(r, reply)) {
        *took = 0;
        return r->goes_on ? finish_value(dc) : malformed(dc, "a value of a key that was not asked for");
    }
    reply->is_last |= r->goes_on && r->cursor == RKEY_END;
    dc->usual_value = dc->usual_value / 8 * 7 + hit->value_len / 8;
    if (n - reply->consumed >= body) {
        *took = reply->consumed + body;
        if (!codec->check_tail(p + reply->consumed + hit->value_len, hit->tail_len))
            return malformed(dc, "a value without CR LF behind it");
        if (LIKELY(!r->answered && is_passed_on(codec, r)))
            r->ops->hit(r, hit, chunk, p, *took);
        else if (!r->answered)
            translate_hit(r, hit, chunk, p + reply->consumed, reply->consumed);
        return !reply->is_last || finish_value(dc);
    }
    *took = reply->consumed;
    dc->body_left = body;
    dc->body_tail = hit->tail_len;
    dc->body_is_last = reply->is_last;
    dc->body_told = hit->tail_len;
    if (!r->answered)
        begin_hit(dc, r, hit);
    return true;
}

/* The end of the reply; when several requests share it, each of them. */
static bool handle_done(struct dconn *dc, struct reply *reply, size_t *took)
{
    const struct request *r = dc->sent.head;

    if (r->goes_on)
        *took = 0;
    /* Errors are the same in both. */
    if (reply->outcome.result != RESULT_ERROR && !is_passed_on(codec_of(dc, r), r))
        reply->outcome.text = NULL;
    return finish_reply(dc, &reply->outcome, reply->suspicious);
}

/* Keeps an unfinished line for the next read. */
static bool keep_rest(struct dconn *dc, const uint8_t *p, size_t n)
{
    dc->rest = chunk_alloc(&dc->d->loop->bufs, n);
    if (dc->rest == NULL) {
        close_ready(dc, RESULT_NO_MEMORY, "out of memory");
        return false;
    }
    memcpy(dc->rest->data, p, n);
    dc->rest->used = n;
    return true;
}

/* Deals with n bytes of replies; the first `seen` hold no end of line. False: the connection was closed. */
static bool take_replies(struct dconn *dc, struct chunk *chunk, uint8_t *p, size_t n, size_t seen)
{
    struct reply reply;
    bool open = true;

    while (n > 0 && open) {
        struct request *r = dc->sent.head;
        size_t took = 0;

        if (r == NULL)
            return malformed(dc, "a reply that nobody asked for");
        r->got_reply = true;
        if (dc->body_left > 0) {
            took = n < dc->body_left ? n : dc->body_left;
            open = take_body_read(dc, chunk, p, took);
        } else {
            switch (codec_of(dc, r)->parse_reply(r, p, n, seen, &reply)) {
            case PARSE_OK:
                break;
            case PARSE_MORE:
                return keep_rest(dc, p, n);
            default:
                return malformed(dc, reply.why);
            }
            took = reply.consumed;
            if (reply.kind == REPLY_HIT)
                open = handle_hit(dc, &reply, chunk, p, n, &took);
            else if (reply.kind == REPLY_DONE)
                open = handle_done(dc, &reply, &took);
            else if (!r->answered)
                r->ops->stat(r, reply.line, reply.line_len);
        }
        p += took;
        n -= took;
        seen = 0;
    }
    return open;
}

/* The place for the rest of a value that is being read: n bytes at the return value. NULL: nowhere, use the buffer. */
static uint8_t *fill_room(struct dconn *dc, size_t *n)
{
    struct chunk *fill = dc->fill;

    if (dc->body_left == 0 || dc->sent.head->answered)
        return NULL;
    if (fill != NULL && chunk_room(fill) == 0) {
        chunk_unref(fill);
        fill = NULL;
    }
    if (fill == NULL)
        fill = chunk_alloc(&dc->d->loop->bufs, dc->body_left < CHUNK_LARGE ? dc->body_left : CHUNK_LARGE);
    dc->fill = fill;
    if (fill == NULL)
        return NULL;
    *n = chunk_room(fill) < dc->body_left ? chunk_room(fill) : dc->body_left;
    return fill->data + fill->used;
}

/* Hands on what a read has put into the fill chunk. */
static bool take_filled(struct dconn *dc, uint8_t *p, size_t n)
{
    dc->fill->used += n;
    return take_body(dc, dc->fill, p, n);
}

/* Whose replies are awaited: gets that share a line are one. */
static uint32_t num_commands(const struct dconn *dc)
{
    return dc->sent.n - dc->num_joined;
}

static void read_replies(struct dconn *dc)
{
    struct loop *loop = dc->d->loop;
    struct iovec iov[2] = {{0}};
    size_t room, got, filled = 0, kept = 0;
    uint64_t since_us;
    uint32_t owed;
    uint8_t *buf = loop_read_buffer(loop, &room);
    enum conn_status status;
    bool open = true;

    if (buf == NULL) {
        close_ready(dc, RESULT_NO_MEMORY, "out of memory");
        return;
    }
    if (dc->rest != NULL) {
        kept = dc->rest->used;
        memcpy(buf, dc->rest->data, kept);
    }
    iov[0].iov_base = fill_room(dc, &iov[0].iov_len);
    iov[1] = (struct iovec){buf + kept, room - kept};
    status = iov[0].iov_base != NULL ? conn_read(&dc->conn, iov, 2, &got) : conn_read(&dc->conn, &iov[1], 1, &got);
    if (status == CONN_AGAIN)
        return;
    if (status != CONN_OK) {
        counter_add(&dc->d->counters->tot_downstream_quit_server, status == CONN_EOF);
        close_ready(dc, RESULT_CLOSED, status == CONN_EOF ? "by the server" : strerror(errno));
        return;
    }
    owed = num_commands(dc);
    /* 0, which is long ago: of what moxi asks for itself, or of nothing. */
    since_us = dc->sent.head != NULL ? dc->sent.head->start_us : 0;
    dc->progress_us = loop->now_us;
    dc->heard = true;
    if (LIKELY(greeting_is_over(dc)))
        dc->d->errors = 0;
    if (dc->rest != NULL) {
        chunk_unref(dc->rest);
        dc->rest = NULL;
    }
    if (iov[0].iov_base != NULL) {
        filled = got < iov[0].iov_len ? got : iov[0].iov_len;
        open = take_filled(dc, iov[0].iov_base, filled);
    }
    if (open && got > filled)
        take_replies(dc, loop->read_chunk, buf, kept + got - filled, kept);
    loop_read_done(loop, kept + got - filled);
    if (open)
        loop_count_replies(loop, owed, owed - num_commands(dc), loop->now_us - since_us);
}

/* --- sending --- */

/* Composes the next unsent request. False when memory ran out: that request has failed. */
static bool compose_next(struct dconn *dc, struct join *join)
{
    struct loop *loop = dc->d->loop;
    struct request *r = request_queue_pop(&dc->unsent);
    const struct codec *codec = codec_of(dc, r);
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
        close_ready(dc, RESULT_CLOSED, strerror(errno));
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
        close_ready(dc, RESULT_CLOSED, "it was not accepted");
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
        read_replies(dc);
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
        forget_reply(dc);
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
