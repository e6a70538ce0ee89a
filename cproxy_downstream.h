/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_downstream - a server as one worker sees it: pipelined connections that all clients of the worker share.
 *
 *   downstream_enqueue --> [unsent] --end of turn: compose, writev--> [sent] --replies, in order--> ops->hit, ops->done
 *
 * Nothing is reserved for a client: a connection takes requests as they come, and the head of its `sent` FIFO is whose
 * reply arrives next. So the FIFO must never slip: what does not parse, or does not fit the request, closes the
 * connection and fails what was on it. A request that is answered early (timeout) or whose client has gone stays in
 * the FIFO until its reply has come and was dropped.
 *
 * With downstream_protocol=auto, clients of the binary protocol have connections of their own, on which the server is
 * asked in it, as long as it speaks it.
 *
 * A downstream knows requests, not clients, and belongs to one worker.
 */
#ifndef CPROXY_DOWNSTREAM_H
#define CPROXY_DOWNSTREAM_H

#include "counters.h"
#include "cproxy_config.h"
#include "loop.h"
#include "request.h"

struct downstream;

/*
 * A downstream for a server of a pool; nothing is connected before the first request. All that is passed must outlive
 * it. NULL when memory ran out.
 */
struct downstream *downstream_create(struct loop *loop, const struct server *server, const struct settings *settings,
                                     struct counters *counters) MUST_CHECK;

/* Closes its connections and fails what is on them (ops->done is called), then frees it. */
void downstream_destroy(struct downstream *d);

/* Sets up the loop's list of connections to be written at the end of a turn. Once a loop. */
void downstream_setup_loop(struct loop *loop);

/* Which connection a request should go by when it is free to choose: the one with the shortest queue. */
uint32_t downstream_choose(const struct downstream *d);

/*
 * Gives a request to connection number `conn` (0 to downstream_conn_max - 1). It is sent at the end of the turn, and
 * ends in ops->done, which may be called before this returns when the server cannot be used (RESULT_WRITE_FAILED) or
 * too much is waiting for it (RESULT_QUEUE_FULL).
 */
void downstream_enqueue(struct downstream *d, uint32_t conn, struct request *r);

enum { DOWNSTREAM_VERSION_MAX = 63 };

/*
 * Copies what the server has told last when it was asked for its version: printable, cut where it is too long, with a
 * NUL behind it. False when it has told nothing. May be called by any thread.
 */
bool downstream_version(const struct downstream *d, char version[DOWNSTREAM_VERSION_MAX + 1]) MUST_CHECK;

/* Whether nothing waits to be sent or answered. */
bool downstream_idle(const struct downstream *d);

#endif
