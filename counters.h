/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * counters - what a worker counts, for `stats proxy`.
 *
 * One row a counter: from it follow the struct, the sum over workers, the reset and the line in `stats proxy`. Each
 * pool has a struct counters in each worker. Only that worker writes it; any thread may read it at any time, so loads
 * and stores are atomic but relaxed, which costs what a plain addition does.
 *
 * Names: num_ goes up and down, tot_ and err_ only go up.
 */
#ifndef COUNTERS_H
#define COUNTERS_H

#include <stdint.h>

#include "request.h"

/* X(name, help) */
#define COUNTERS(X)                                                                                 \
    X(num_upstream, "connections of clients")                                                       \
    X(tot_upstream, "connections of clients, ever")                                                 \
    X(num_requests, "requests in flight")                                                           \
    X(num_downstream_conn, "connections to servers")                                                \
    X(tot_downstream_conn, "connections to servers, ever")                                          \
    X(tot_downstream_connect_started, "attempts to connect to a server")                            \
    X(tot_downstream_connect, "attempts that succeeded")                                            \
    X(tot_downstream_connect_failed, "attempts that failed")                                        \
    X(tot_downstream_connect_timeout, "attempts that failed by connect_timeout")                    \
    X(tot_downstream_connect_max_reached, "times a server was left alone after connect_max_errors") \
    X(tot_downstream_quit_server, "connections closed by a server")                                 \
    X(tot_downstream_timeout, "requests answered by downstream_timeout")                            \
    X(tot_downstream_max_reached, "requests that had to wait for downstream_max")                   \
    X(tot_wait_queue_timeout, "requests that waited longer than wait_queue_timeout")                \
    X(tot_downstream_queue_full, "requests refused by downstream_queue_max or _bytes")              \
    X(tot_downstream_swallowed, "replies that came too late and were dropped")                      \
    X(tot_retry, "requests sent again on another connection")                                       \
    X(tot_upstream_paused, "times a client was left unread")                                        \
    X(tot_upstream_unpaused, "times it was read again")                                             \
    X(tot_multiget_keys, "keys of requests for more than one")                                      \
    X(tot_multiget_parts, "requests to servers that they were split into")                          \
    X(tot_streamed, "values passed on while they arrived")                                          \
    X(err_oom, "requests that failed for lack of memory")                                           \
    X(err_downstream_bad_reply, "connections to servers closed for a malformed reply")              \
    X(err_upstream_bad_data, "values of clients that were refused")                                 \
    X(err_proxy, "requests answered with an error of moxi's own")

struct command_counters {
    uint64_t seen;
    uint64_t hits;
    uint64_t misses;
    uint64_t read_bytes;  /* of keys and values that clients sent */
    uint64_t write_bytes; /* of replies to clients */
    uint64_t cas;         /* requests with a cas unique, or for one */
};

struct counters {
#define X(name, help) uint64_t name;
    COUNTERS(X)
#undef X
    struct command_counters regular[OP_COUNT];
    struct command_counters quiet[OP_COUNT]; /* noreply */
};

static inline uint64_t counter_get(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static inline void counter_add(uint64_t *counter, uint64_t n)
{
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

static inline void counter_sub(uint64_t *counter, uint64_t n)
{
    counter_add(counter, -n);
}

#endif
