/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_upstream - a client as the two files know it that deal with it: cproxy_input.c reads and parses what it sends,
 * cproxy_upstream.c has its FIFO, its output, its beginning and its end. To all others it is opaque: see cproxy.h.
 */
#ifndef CPROXY_UPSTREAM_H
#define CPROXY_UPSTREAM_H

#include "conn.h"
#include "cproxy.h"

/* What a client is in the middle of. */
enum doing {
    DOING_COMMANDS, /* or nothing */
    DOING_VALUE,    /* a value is being read */
    DOING_WATCH,    /* it watches, for good: what it sends is not looked at */
};

/* Small, for there may be many that are idle: with what malloc adds, 256 bytes. */
struct client {
    struct conn conn;
    struct pool_state *ps;
    struct request *head; /* FIFO of its requests, by next */
    struct request *tail;
    struct client *next;  /* link in the pool's list */
    struct client **link; /* what points to this one */
    struct input *in;     /* NULL: nothing is unfinished */
    struct pin *pins;     /* one a server; NULL unless downstream_conn_max > 1 and it has asked something */
    size_t charged;       /* sum of charge of its FIFO */
    uint32_t num_writes;  /* requests in its FIFO that are more than a read */
    uint32_t num_put_off; /* and that are put_off */
    uint32_t active_ms;   /* when it last asked, see loop_count_active; atomic, for clients_tell */
    uint8_t doing;        /* enum doing; atomic, for clients_tell */
    uint8_t reason : 6;   /* enum watch_reason: why it is to be closed */
    bool pinless : 1;     /* there was no memory for pins when it needed them: it never has any */
    bool barred : 1;      /* it has not said who it is yet, and has to */
    bool greeted : 1;     /* it has sent something: it is known what it speaks */
    bool binary : 1;      /* and that is not text */
    bool eof : 1;         /* nothing more will be read; it is closed when all is answered */
    bool closing : 1;     /* to be closed at the end of the turn, whatever there is */
    bool writable : 1;    /* EV_WRITE has come */
    bool over_bound : 1;  /* it is unread because of what it is owed */
    bool linger : 1;      /* it may still be sending when it is to be closed */
    bool lingering : 1;
    uint8_t linger_ticks : 2; /* how long it has been: see begin_linger */
    bool one_batch : 1;       /* it was owed nothing when it was last read: what it is owed now came in one piece */
    uint8_t held_turns : 2;   /* how often what it is to be sent has waited: see may_hold */
};

static inline struct loop *client_loop(const struct client *c)
{
    return c->ps->loop;
}

/* --- cproxy_upstream.c --- */

/* The client is looked at when the turn ends. */
void client_mark(struct client *c);

/* Puts r, its charge set, at the end of the FIFO, which owns it from now on. */
void client_push(struct client *c, struct request *r);

/* What it is in the middle of from now on. */
static inline void client_set_doing(struct client *c, enum doing doing)
{
    __atomic_store_n(&c->doing, doing, __ATOMIC_RELAXED);
}

/* Nothing that it sends is looked at any more. */
void client_watches(struct client *c);

/* The client will get what it has asked for, and is not listened to any more. Drops its input. */
void client_hang_up(struct client *c);

/* --- cproxy_watch.c --- */

/* Ends the feed of a client who watches. */
void feed_end(struct client *c);

/* --- cproxy_input.c --- */

/* Reads once, and deals with what came. Not while input_waits. */
void input_read(struct client *c);

/* Whether there are bytes that may be whole commands, and have to wait until the client may ask for more. */
bool input_waits(const struct client *c);

/* Parses what had to wait, if it need not wait any longer; stops or starts to listen to the client. */
void input_resume(struct client *c);

/* Frees all input that is unfinished. */
void input_drop(struct client *c);

#endif
