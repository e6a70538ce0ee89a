/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * conn - a socket in a worker's loop: its event, and what is waiting to be written to it.
 *
 * Embedded in a client and in a connection to a server. Reading stays registered for good (EV_PERSIST); writing is only
 * asked for when a write came short. So in steady state there is no epoll_ctl at all.
 */
#ifndef CONN_H
#define CONN_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <sys/uio.h>

#include "loop.h"

struct conn {
    struct event event;
    struct spanq out;       /* composed, not written */
    struct conn *next_turn; /* link in a turn's list */
    int fd;                 /* -1: none */
    bool marked;            /* stands in a turn's list */
    bool paused;            /* input is not to be read */
    bool blocked;           /* the socket takes no more: waiting for EV_WRITE */
};

enum conn_status {
    CONN_OK,     /* reading: n bytes; flushing: all is written */
    CONN_AGAIN,  /* reading: nothing there; flushing: blocked, an EV_WRITE will come */
    CONN_EOF,    /* reading only */
    CONN_FAILED, /* errno says why */
};

/*
 * Takes over fd and has cb called with what happens on it: EV_READ unless paused, EV_WRITE while blocked. arg goes to
 * cb. `writing` starts with EV_WRITE alone, for a connect(2) in progress. False when libevent refuses; fd is then still
 * the caller's.
 */
bool conn_open(struct conn *conn, struct event_base *base, int fd, bool writing, event_callback_fn cb,
               void *arg) MUST_CHECK;

/* Closes fd and drops what was not written. */
void conn_close(struct conn *conn, struct loop *loop);

/* Reads once into up to n iovecs. *got is 0 unless CONN_OK. */
enum conn_status conn_read(struct conn *conn, struct iovec *iov, int n, size_t *got) MUST_CHECK;

/* Writes what there is, as far as the socket takes it, and asks for EV_WRITE or no longer, as needed. */
enum conn_status conn_flush(struct conn *conn, struct loop *loop) MUST_CHECK;

/* Stops or starts reading. False when libevent refuses. */
bool conn_set_paused(struct conn *conn, bool paused) MUST_CHECK;

/* To be called once a connect(2) in progress has succeeded: from now on it reads. False when libevent refuses. */
bool conn_connected(struct conn *conn) MUST_CHECK;

/* The error of a connect(2) in progress: 0 when it succeeded, else an errno. */
int conn_connect_error(const struct conn *conn);

/* A non-blocking, close-on-exec socket for an address of that family, TCP_NODELAY and keepalive set; -1 and errno. */
int conn_socket(int family) MUST_CHECK;

/* TCP_NODELAY and keepalive on a socket that was accepted; nothing on a unix socket. */
void conn_tune(int fd, int family);

#endif
