/* SPDX-License-Identifier: BSD-3-Clause */
/* cproxy_downstream_int - what the files of cproxy_downstream share: a server's connections, their begin and end. */
#ifndef CPROXY_DOWNSTREAM_INT_H
#define CPROXY_DOWNSTREAM_INT_H

#include "codec.h"
#include "conn.h"
#include "cproxy_downstream.h"
#include "resolve.h"

enum dconn_state { DCONN_DOWN, DCONN_RESOLVING, DCONN_CONNECTING, DCONN_READY };

/* Whether a server knows the meta commands; of a twin's: the binary protocol. If not, run_turn gives the twin up. */
enum knows { KNOWS_UNKNOWN, KNOWS_ASKED, KNOWS_NO, KNOWS_YES };

/* Whether a server knows who moxi is. */
enum introduced { INTRODUCED_YES, INTRODUCED_ASKED, INTRODUCED_REFUSED };

/* A connection to a server. Owned by its downstream, for as long as that lives. */
struct dconn {
    struct conn conn; /* open in READY, and in CONNECTING but while again_us is awaited */
    struct downstream *d;
    enum dconn_state state;
    bool lookup_pending; /* resolve_name will call back */

    /* requests */
    struct request_queue unsent;
    struct request_queue sent;
    uint32_t num_joined; /* of sent, that share the line of the one before */
    size_t unsent_bytes; /* sum of request_weight of unsent */
    bool heard;          /* the server has said something since it was connected, or has said all of itself */
    enum knows knows;
    bool no_binary;           /* requests for the twin's connection of the same number take this one */
    uint64_t binary_again_us; /* no_binary: when that one may be tried again; 0: when this one has been lost */
    enum introduced introduced;
    uint64_t composed; /* bytes composed since it was connected */
    bool is_last;      /* what was composed last ends the connection: see codec_ascii_tells_keys */

    /* the reply that is being read: to sent.head, or to others whose keys are in its line */
    struct request *at; /* the one whose value came last; NULL: none, or it has left */
    struct chunk *rest; /* an unfinished line, all `used` bytes of it */
    struct chunk *fill; /* where a value is being read to; NULL: nowhere yet */
    size_t body_left;   /* bytes of value and tail that have not arrived */
    size_t body_tail;   /* how many of them are the tail */
    size_t body_told;   /* and how many of these the client gets */
    bool body_is_last;  /* its end is that of the reply */
    size_t usual_value; /* bytes that a key of a get brings, about; outlives the connection */
    uint8_t tail[2];    /* the last bytes of the body that have arrived */

    /* time */
    struct event timer;
    uint64_t timer_us;          /* when it fires; 0: not armed */
    uint64_t connect_us;        /* when connecting has taken too long; 0: never */
    uint64_t again_us;          /* CONNECTING, but no socket open: when to try once more */
    struct addresses addresses; /* where to connect to */
    size_t next_address;        /* index of the one to be tried next */
    uint64_t progress_us;       /* when the server last gave a sign, or was first asked */
};

struct downstream {
    /* immutable */
    struct loop *loop;
    const struct server *server;
    const struct settings *settings;
    struct counters *counters;
    enum downstream_protocol protocol;
    struct downstream *twin;    /* of one in AUTO: the one for clients of the binary protocol; of that: the first */
    struct addresses addresses; /* unless is_name: the one it has */
    bool is_name;

    /* failures to connect */
    uint32_t errors; /* since first_error_us */
    uint64_t first_error_us;
    uint64_t blocked_us; /* until when it is left alone */

    /* connections lost in a row while it was asked whether it knows the meta commands */
    uint32_t meta_losses;
    uint64_t no_meta_us; /* until when it is taken not to */

    /* what the server has told of it, to either of a pair; under version_mutex */
    char version[DOWNSTREAM_VERSION_MAX + 1];

    uint32_t num_conns;
    struct dconn conns[];
};

/* Whether it is the one of a pair that is asked in the binary protocol. */
static inline bool is_twin(const struct downstream *d)
{
    return d->protocol == DOWNSTREAM_BINARY && d->twin != NULL;
}

/* A moment so many ms from now, in us; of 0 ms: 0, which is never. */
static inline uint64_t ms_after(const struct dconn *dc, uint32_t ms)
{
    return ms == 0 ? 0 : dc->d->loop->now_us + (uint64_t)ms * 1000;
}

/* In which protocol a request is sent, and its reply read. It does not change while there are any. */
static inline const struct codec *dconn_codec(const struct dconn *dc, const struct request *r)
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

/* Has the timer fire at that moment or before; 0: never. */
void dconn_arm(struct dconn *dc, uint64_t at_us);

/*
 * The one way by which an established connection ends. What was on it fails with that result, or is asked again. why
 * goes to the log.
 */
void dconn_close(struct dconn *dc, enum result result, const char *why);

/* A server that cannot be connected, or hangs up on whoever asks, is left alone for a while when it does so often. */
void downstream_count_error(struct downstream *d);

/* And one of which it is clear at once. */
void downstream_leave_alone(struct downstream *d);

/* --- cproxy_replies.c --- */

/* An established connection is readable: reads once, and tells requests all that has come for them. May close it. */
void replies_read(struct dconn *dc);

/* Drops what is there of a reply that is not whole, for the connection is lost, or ends. */
void replies_forget(struct dconn *dc);

/* --- cproxy_greeting.c --- */

/* A connection has been made: what is to be asked before the first request, if anything, is queued before it. */
void greeting_begin(struct dconn *dc);

/*
 * Whether the next unsent request, which there must be, has to wait for what the server says of itself. It may be
 * one of moxi's own then, which has been put before the others.
 */
bool greeting_must_wait(struct dconn *dc);

/* Whether it is moxi's own, for this connection alone: never sent again. */
bool greeting_is_own(const struct request *r);

/* Whether the server has said all of itself that requests wait for, so that who is asked and hangs up is to blame. */
bool greeting_is_over(const struct dconn *dc);

/* The connection was lost while the server was asked whether it knows the meta commands. */
void greeting_lost(struct downstream *d);

#endif
