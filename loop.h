/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * loop - what a worker's event loop offers to the layers that run in it.
 *
 * A turn of the loop reads everything, then writes everything:
 *
 *   pause under load | event_base_loop(EVLOOP_ONCE): every readable connection is read once, its requests are routed,
 *   its replies handed on; nothing is written | each dirty downstream is written once | each dirty client is written
 *   once, parsed further if it had to wait, or freed if it has ended | downstreams are written again if that asked more
 *
 * so n requests that arrive together cost each server one write and one read. worker.c runs it; this header is what
 * the layers below share. All of it belongs to one thread.
 */
#ifndef LOOP_H
#define LOOP_H

#include <event2/event.h>

#include "buf.h"
#include "codec.h"
#include "request.h"
#include "work.h"

struct conn;

/* The lists of a turn, in the order in which they are run. */
enum turn_list {
    TURN_DOWNSTREAM, /* connections to servers with something to send */
    TURN_HELD,       /* connections of clients whose output has waited since the turn before */
    TURN_CLIENT,     /* connections of clients with something to send, or to be read again, or to be closed */
    TURN_LISTS,
};

struct turn {
    struct conn *head;
    struct conn *tail;
    void (*run)(struct conn *conn); /* may put the conn, or others, on the list again */
};

struct loop {
    struct event_base *base;
    struct work_queue work;
    uint64_t now_us;   /* CLOCK_MONOTONIC when the turn's first event was handled */
    bool now_is_fresh; /* now_us is this turn's */
    bool paces;        /* there was a pause before this turn, and there may be one before the next */
    struct turn turns[TURN_LISTS];

    struct bufpool bufs;
    struct request_pool requests;
    struct key_list keys; /* for parsing */

    /* Input is read here first; what refers to it keeps the chunk, and the next read goes behind it, or elsewhere. */
    struct chunk *read_chunk;
    size_t read_pos;

    /* How much is going on, for turn pacing. */
    uint32_t active_ms;      /* which millisecond, about, it is */
    uint32_t active_clients; /* that have asked in it so far */
    uint32_t active_before;  /* that did in the one before */
    size_t done_mark;        /* requests that had ended when it began */
    size_t done_before;      /* that ended in the one before */
    uint32_t asked_ms;       /* active_ms when a server was last asked for something */
    uint32_t backlog;        /* of servers that were read in this turn: see loop_count_replies */
    uint64_t waited_us;      /* least time that one of them took for a reply */
};

void loop_tell_time(struct loop *loop); /* for loop_enter only */

/* To be called first by every event callback: one look at the clock a turn. */
static inline void loop_enter(struct loop *loop)
{
    if (!loop->now_is_fresh)
        loop_tell_time(loop);
}

/* A client is asking; *last_ms is its own, starts as 0, and may be read atomically by any thread. */
static inline void loop_count_active(struct loop *loop, uint32_t *last_ms)
{
    if (*last_ms != loop->active_ms) {
        __atomic_store_n(last_ms, loop->active_ms, __ATOMIC_RELAXED);
        loop->active_clients++;
    }
}

/*
 * How busy the loop is: clients that asked within the last millisecond; or half the requests in flight, if these
 * are more and are being answered.
 */
uint32_t loop_load(const struct loop *loop);

/*
 * A server that owed the replies to so many commands has been read, and has told so many of them, for the first of
 * which its client has waited so many us. The backlog is what the one with most owed, but no more than a few times what
 * it told: one that is slow is not waited for.
 */
static inline void loop_count_replies(struct loop *loop, uint32_t owed, uint32_t told, uint64_t waited_us)
{
    uint32_t backlog = owed < 4 * told ? owed : 4 * told;

    if (backlog > loop->backlog)
        loop->backlog = backlog;
    if (waited_us < loop->waited_us)
        loop->waited_us = waited_us;
}

/* Room of a read: fewer bytes than this are not worth a system call. */
enum { READ_ROOM = 64 * 1024 };

/*
 * Where to read: READ_ROOM bytes or more, *room of them; NULL when memory ran out. loop_read_done says that the caller
 * has dealt with the first n bytes there: what it still needs of them it has referred to by spans.
 */
uint8_t *loop_read_buffer(struct loop *loop, size_t *room) MUST_CHECK;
void loop_read_done(struct loop *loop, size_t n);

/* Puts conn on a list of this turn, unless it is there. */
void loop_mark(struct loop *loop, enum turn_list list, struct conn *conn);

/* Takes it off the list again, whichever it is on. Slow; for a conn that is about to be freed. */
void loop_unmark(struct loop *loop, struct conn *conn);

/* Whether a turn has left work for the next one, but for what is held. */
bool loop_has_marks(const struct loop *loop);

/* Whether a turn holds something until the next one, which may make its pause, but is not to wait for events. */
static inline bool loop_holds(const struct loop *loop)
{
    return loop->turns[TURN_HELD].head != NULL;
}

/* Runs the lists: downstreams, clients, and downstreams again. Clients marked meanwhile wait for the next turn. */
void loop_run_marks(struct loop *loop);

#endif
