/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * work - closures sent to a thread's event loop.
 *
 *   any thread: work_send(q, fn, arg) --> [list under a mutex] --eventfd--> the loop of q: fn(arg), in order
 *
 * It is the only way by which threads of moxi tell each other anything; used for what is rare (a new client, a name
 * that was resolved, shutting down), never for a request.
 */
#ifndef WORK_H
#define WORK_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <pthread.h>

#include "util.h"

struct work_item;

struct work_queue {
    struct event event; /* the eventfd becomes readable; owned by the loop's thread */
    int fd;
    pthread_mutex_t mutex; /* guards head, tail and closed */
    struct work_item *head;
    struct work_item *tail;
    bool closed; /* nothing is taken any more */
};

/* Makes q part of base's loop. False with errno set when the system refuses. */
bool work_queue_setup(struct work_queue *q, struct event_base *base) MUST_CHECK;

/* Runs what is still queued, and takes no more. By the loop's thread. */
void work_queue_close(struct work_queue *q);

/* Frees the queue, after work_queue_close and once no thread can call work_send any more. */
void work_queue_teardown(struct work_queue *q);

/* Has fn(arg) called by q's loop. False when memory ran out or q is closed: fn will not be called then. */
bool work_send(struct work_queue *q, void (*fn)(void *arg), void *arg) MUST_CHECK;

#endif
