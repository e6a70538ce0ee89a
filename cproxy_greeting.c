/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_greeting - what a server is asked before the requests of clients, on each connection.
 *
 *   a twin's connection       version, in the binary protocol: does it speak that?
 *   usr is set                user and password; on a twin's behind the version
 *   the first meta command    version and mn, in one write: what is it, and does it know these?
 *                             (downstream_protocol=auto)
 *
 * These are requests of moxi's own, in the same queues as all others, before which they are put; nothing else is
 * composed until they are answered. A server that refuses the password is left alone for a while, as one that cannot be
 * connected.
 */
#include <pthread.h>
#include <string.h>

#include "cproxy_downstream_int.h"
#include "log.h"

enum {
    META_LOSSES_MAX = 2,      /* connections lost by asking for meta commands, before it is not done for a while */
    PROBE_PLACE = 0x0d0a0d0a, /* where a twin's stream begins: the opaque of what it is asked first */
};

static void on_version(struct request *r, const struct outcome *outcome);
static void on_known(struct request *r, const struct outcome *outcome);
static void on_introduced(struct request *r, const struct outcome *outcome);

static const struct request_ops version_ops = {.done = on_version};
static const struct request_ops probe_ops = {.done = on_known};
static const struct request_ops auth_ops = {.done = on_introduced};

/* Guards the versions of all downstreams, which are seldom written and seldom read. */
static pthread_mutex_t version_mutex = PTHREAD_MUTEX_INITIALIZER;

static bool is_probe(const struct request *r)
{
    return r->ops == &probe_ops || r->ops == &version_ops;
}

bool greeting_is_own(const struct request *r)
{
    return is_probe(r) || r->ops == &auth_ops;
}

/* A request of moxi's own goes first. */
static void push_own(struct dconn *dc, struct request *r, const struct request_ops *ops, uint64_t deadline_us)
{
    r->ops = ops;
    r->parts = dc;
    r->in_conn = true;
    r->deadline_us = deadline_us;
    request_queue_push_front(&dc->unsent, r);
    dc->unsent_bytes += request_weight(r);
}

/* The end of a request of moxi's own, of which all is known now. */
static void end_own(struct dconn *dc, struct request *r)
{
    struct loop *loop = dc->d->loop;

    r->parts = NULL;
    request_let_go(&loop->requests, &loop->bufs, &r);
    loop_mark(loop, TURN_DOWNSTREAM, &dc->conn);
}

/* --- who moxi is --- */

/* Has the server told user and password before all else. Without memory for that, it has refused them. */
static void introduce(struct dconn *dc)
{
    const struct settings *s = dc->d->settings;
    struct loop *loop = dc->d->loop;
    struct request *r = request_alloc(&loop->requests);

    dc->introduced = INTRODUCED_REFUSED;
    if (r == NULL) {
        downstream_count_error(dc->d);
        return;
    }
    r->codec = &codec_ascii;
    r->op = OP_AUTH;
    r->arg = (const uint8_t *)"PLAIN";
    r->arg_len = 5;
    /* Each with the NUL that stands before it. */
    if (!spanq_copy(&r->value, &loop->bufs, "", 1) || !spanq_copy(&r->value, &loop->bufs, s->usr, strlen(s->usr) + 1) ||
        !spanq_copy(&r->value, &loop->bufs, s->pwd, strlen(s->pwd))) {
        request_release(&loop->requests, &loop->bufs, &r);
        downstream_count_error(dc->d);
        return;
    }
    push_own(dc, r, &auth_ops, ms_after(dc, s->auth_timeout_ms));
    dconn_arm(dc, r->deadline_us);
    dc->introduced = INTRODUCED_ASKED;
}

static bool is_line(const struct outcome *outcome, const char *begin)
{
    size_t n = strlen(begin);

    return outcome->result == RESULT_ERROR && outcome->text_len >= n && memcmp(outcome->text, begin, n) == 0;
}

/*
 * Whether a server's answer to user and password is that it does not ask for them: it does not know the command, or has
 * no room for what it takes for an item.
 */
static bool is_needless(const struct dconn *dc, const struct outcome *outcome)
{
    if (dc->d->protocol == DOWNSTREAM_BINARY)
        return is_line(outcome, "ERROR\r\n");
    return is_line(outcome, "SERVER_ERROR out of memory storing object");
}

/* What is wrong with the password will be so for a while; all else is an error as of connecting. */
static void count_refusal(struct downstream *d, const struct outcome *outcome)
{
    counter_add(&d->counters->tot_downstream_auth_failed, 1);
    if (is_line(outcome, "CLIENT_ERROR")) {
        log_warning("downstream %s: user %s is not accepted; left alone for %u ms", d->server->name, d->settings->usr,
                    d->settings->connect_retry_interval_ms);
        downstream_leave_alone(d);
        return;
    }
    if (outcome->result == RESULT_ERROR)
        log_warning("downstream %s: cannot authenticate: %.*s", d->server->name, (int)outcome->text_len - 2,
                    (const char *)outcome->text);
    else
        log_warning("downstream %s: cannot authenticate: %s", d->server->name,
                    outcome->result == RESULT_TIMEOUT     ? "auth_timeout"
                    : outcome->result == RESULT_NO_MEMORY ? "out of memory"
                    : outcome->result == RESULT_CLOSED    ? "the connection was lost"
                                                          : "an answer that is none");
    downstream_count_error(d);
}

static void on_introduced(struct request *r, const struct outcome *outcome)
{
    struct dconn *dc = r->parts;
    struct downstream *d = dc->d;
    bool needless = is_needless(dc, outcome);

    if (outcome->result == RESULT_STORED || needless) {
        dc->introduced = INTRODUCED_YES;
        dc->heard = false;
        counter_add(&d->counters->tot_downstream_auth, 1);
        if (needless)
            log_warning("downstream %s: does not ask who moxi is; used without", d->server->name);
    } else {
        dc->introduced = INTRODUCED_REFUSED;
        count_refusal(d, outcome);
    }
    end_own(dc, r);
}

/* --- what the server is --- */

/* Keeps what it has told; what is no answer changes nothing. */
static void learn_version(struct downstream *d, const struct outcome *outcome)
{
    static const size_t word = sizeof("VERSION ") - 1;
    struct downstream *first = is_twin(d) ? d->twin : d;
    size_t n = 0;

    if (outcome->result != RESULT_TOLD)
        return;
    pthread_mutex_lock(&version_mutex);
    for (; word + n + 2 < outcome->text_len && n < DOWNSTREAM_VERSION_MAX; n++) {
        uint8_t c = outcome->text[word + n];

        first->version[n] = c < ' ' || c > '~' ? '?' : (char)c;
    }
    first->version[n] = '\0';
    pthread_mutex_unlock(&version_mutex);
}

static void on_version(struct request *r, const struct outcome *outcome)
{
    struct dconn *dc = r->parts;

    learn_version(dc->d, outcome);
    end_own(dc, r);
}

bool downstream_version(const struct downstream *d, char version[DOWNSTREAM_VERSION_MAX + 1])
{
    pthread_mutex_lock(&version_mutex);
    memcpy(version, d->version, sizeof(d->version));
    pthread_mutex_unlock(&version_mutex);
    return version[0] != '\0';
}

/* --- what the server knows --- */

static enum knows meta_by(enum result result)
{
    if (result == RESULT_OK)
        return KNOWS_YES;
    return result == RESULT_ERROR ? KNOWS_NO : KNOWS_UNKNOWN;
}

/* Whatever it says, if it says so in the binary protocol. */
static enum knows binary_by(enum result result)
{
    if (result == RESULT_TOLD || result == RESULT_ERROR)
        return KNOWS_YES;
    return result == RESULT_NO_MEMORY ? KNOWS_UNKNOWN : KNOWS_NO;
}

/* Without memory to ask the server the request fails that would have waited for it. */
static void fail_first(struct dconn *dc)
{
    struct request *r = request_queue_pop(&dc->unsent);
    struct outcome outcome = {.result = RESULT_NO_MEMORY, .message = dc->d->server->name};

    if (r == NULL)
        return;
    dc->unsent_bytes -= request_weight(r);
    request_left_conn(&dc->d->loop->requests, &dc->d->loop->bufs, r, &outcome);
    loop_mark(dc->d->loop, TURN_DOWNSTREAM, &dc->conn);
}

static void on_known(struct request *r, const struct outcome *outcome)
{
    struct dconn *dc = r->parts;
    struct downstream *d = dc->d;

    if (is_twin(d)) {
        learn_version(d, outcome);
        dc->knows = binary_by(outcome->result);
        if (dc->knows == KNOWS_YES && d->settings->usr[0] != '\0')
            introduce(dc);
    } else {
        dc->knows = meta_by(outcome->result);
        if (dc->knows != KNOWS_UNKNOWN)
            d->meta_losses = 0;
    }
    /* That was for the connection; of what it is for nothing has been said yet. */
    if (dc->knows == KNOWS_YES || !is_twin(d))
        dc->heard = false;
    if (outcome->result == RESULT_NO_MEMORY)
        fail_first(dc);
    end_own(dc, r);
}

/* Has the server asked that first. False when memory ran out. */
static bool ask(struct dconn *dc, enum opcode op, const struct codec *codec, const struct request_ops *ops,
                uint64_t deadline_us)
{
    struct request *r = request_alloc(&dc->d->loop->requests);

    if (r == NULL)
        return false;
    memset(&r->terms, 0, sizeof(r->terms));
    r->codec = codec;
    r->op = op;
    push_own(dc, r, ops, deadline_us);
    dconn_arm(dc, deadline_us);
    return true;
}

/* Has the server asked first whether it knows what it is to be asked in. False when memory ran out. */
static bool probe(struct dconn *dc)
{
    uint64_t deadline_us = dc->unsent.head->deadline_us;

    /* A client without a password may ask that. Who waits for a line has two of them in its opaque: PROBE_PLACE. */
    if (is_twin(dc->d))
        return ask(dc, OP_VERSION, &codec_binary_server, &probe_ops, ms_after(dc, dc->d->settings->connect_timeout_ms));
    if (!ask(dc, OP_META_NOOP, &codec_meta, &probe_ops, deadline_us))
        return false;
    /* That goes before it. It may fail: nothing depends on the answer. */
    (void)ask(dc, OP_VERSION, &codec_ascii, &version_ops, deadline_us);
    return true;
}

/* --- the public side --- */

bool greeting_must_wait(struct dconn *dc)
{
    const struct request *r = dc->unsent.head;
    bool twin = is_twin(dc->d);

    if (UNLIKELY(dc->introduced != INTRODUCED_YES))
        return r->ops != &auth_ops;
    if (LIKELY(twin ? dc->knows == KNOWS_YES
                    : !op_is_meta(r->op) || dc->knows >= KNOWS_NO || dc->d->protocol != DOWNSTREAM_AUTO))
        return false;
    if (dc->knows == KNOWS_NO) {
        /* A twin is given up at the end of the turn. */
        loop_mark(dc->d->loop, TURN_DOWNSTREAM, &dc->conn);
        return true;
    }
    if (dc->knows == KNOWS_UNKNOWN) {
        /* A server that hangs up on who asks that takes nothing with it then: replies_read marks the connection. */
        if (dc->sent.head != NULL)
            return true;
        if (!probe(dc)) {
            fail_first(dc);
            return true;
        }
        dc->knows = KNOWS_ASKED;
    }
    return !is_probe(dc->unsent.head);
}

bool greeting_is_over(const struct dconn *dc)
{
    return dc->introduced == INTRODUCED_YES && (is_twin(dc->d) ? dc->knows == KNOWS_YES : dc->knows != KNOWS_ASKED);
}

void greeting_lost(struct downstream *d)
{
    /* A server may hang up on a word that it does not know. Asked again and again, it would serve nobody. */
    if (++d->meta_losses < META_LOSSES_MAX)
        return;
    d->meta_losses = 0;
    d->no_meta_us = d->loop->now_us + (uint64_t)d->settings->connect_retry_interval_ms * 1000;
    log_warning("downstream %s: hangs up when it is asked for meta commands; taken not to know them for %u ms",
                d->server->name, d->settings->connect_retry_interval_ms);
}

void greeting_begin(struct dconn *dc)
{
    struct downstream *d = dc->d;
    bool twin = is_twin(d);

    dc->composed = twin ? PROBE_PLACE : 0;
    dc->knows = !twin && d->loop->now_us < d->no_meta_us ? KNOWS_NO : KNOWS_UNKNOWN;
    dc->introduced = INTRODUCED_YES;
    if (d->settings->usr[0] != '\0' && !twin)
        introduce(dc);
}
