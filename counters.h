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

/* X(kind, name, help): a GAUGE goes up and down, a TOTAL is counted from the last reset on */
#define COUNTERS(X)                                                                                          \
    X(GAUGE, num_upstream, "connections of clients")                                                         \
    X(TOTAL, tot_upstream, "connections of clients, ever")                                                   \
    X(TOTAL, tot_upstream_idle_kicks, "connections of clients closed by idle_timeout")                       \
    X(TOTAL, tot_upstream_read, "bytes read from clients")                                                   \
    X(TOTAL, tot_upstream_written, "bytes written to clients")                                               \
    X(TOTAL, tot_upstream_yields, "times a client had to let others have their turn, by -R")                 \
    X(TOTAL, tot_upstream_auth, "times a client has given a password")                                       \
    X(TOTAL, tot_upstream_auth_failed, "times it was wrong")                                                 \
    X(GAUGE, num_requests, "requests in flight")                                                             \
    X(GAUGE, num_downstream_conn, "connections to servers")                                                  \
    X(TOTAL, tot_downstream_conn, "connections to servers, ever")                                            \
    X(TOTAL, tot_downstream_connect_started, "attempts to connect to a server")                              \
    X(TOTAL, tot_downstream_connect, "attempts that succeeded")                                              \
    X(TOTAL, tot_downstream_connect_failed, "attempts that failed")                                          \
    X(TOTAL, tot_downstream_connect_timeout, "attempts that failed by connect_timeout")                      \
    X(TOTAL, tot_downstream_connect_max_reached, "times a server was left alone after connect_max_errors")   \
    X(TOTAL, tot_downstream_auth, "connections to servers that were authenticated")                          \
    X(TOTAL, tot_downstream_auth_failed, "connections to servers that could not be")                         \
    X(TOTAL, tot_downstream_quit_server, "connections closed by a server")                                   \
    X(TOTAL, tot_downstream_timeout, "requests answered by downstream_timeout")                              \
    X(TOTAL, tot_downstream_max_reached, "requests that had to wait for downstream_max")                     \
    X(TOTAL, tot_wait_queue_timeout, "requests that waited longer than wait_queue_timeout")                  \
    X(TOTAL, tot_downstream_queue_full, "requests refused by downstream_queue_max or _bytes")                \
    X(TOTAL, tot_downstream_swallowed, "replies that came too late and were dropped")                        \
    X(TOTAL, tot_get_joined, "gets that were asked for in the line of another")                              \
    X(TOTAL, tot_optimized_sets, "sets that were answered before they were carried out, by optimize_set")    \
    X(TOTAL, tot_squashed, "gets that were answered with the reply to another")                              \
    X(TOTAL, tot_retry, "requests sent again on another connection")                                         \
    X(TOTAL, tot_upstream_paused, "times a client was left unread")                                          \
    X(TOTAL, tot_upstream_unpaused, "times it was read again")                                               \
    X(TOTAL, tot_put_off, "requests whose values were dropped and asked for again, their client being slow") \
    X(TOTAL, tot_multiget_keys, "keys of requests for more than one")                                        \
    X(TOTAL, tot_multiget_parts, "requests to servers that they were split into")                            \
    X(TOTAL, tot_streamed, "values passed on while they arrived")                                            \
    X(TOTAL, err_oom, "requests that failed for lack of memory")                                             \
    X(TOTAL, err_downstream_bad_reply, "connections to servers closed for a malformed reply")                \
    X(TOTAL, err_upstream_bad_data, "values of clients that were refused")                                   \
    X(TOTAL, err_proxy, "requests answered with an error of moxi's own")

/* X(name, help): of the near cache */
#define FRONT_COUNTERS(X)                                                              \
    X(tot_get_hits, "keys that were answered for from it")                             \
    X(tot_get_misses, "keys that it did not have")                                     \
    X(tot_get_expires, "keys that it had for too long")                                \
    X(tot_get_stale, "hits past their lifespan")                                       \
    X(tot_adds, "values and misses that were kept")                                    \
    X(tot_add_bytes, "bytes of these")                                                 \
    X(tot_add_skips, "those that were not kept for lack of room")                      \
    X(tot_add_fails, "those that could not be kept, being too large or written since") \
    X(tot_deletes, "keys taken out by a write")                                        \
    X(tot_evictions, "keys taken out to make room for others")                         \
    X(tot_saved_requests, "requests for which no server was asked")                    \
    X(tot_saved_bytes, "bytes of replies that no server has sent")

struct front_counters {
#define X(name, help) uint64_t name;
    FRONT_COUNTERS(X)
#undef X
};

struct command_counters {
    uint64_t seen;
    uint64_t hits;
    uint64_t misses;
    uint64_t read_bytes;  /* of keys and values that clients sent */
    uint64_t write_bytes; /* of replies to clients */
    uint64_t cas;         /* requests with a cas unique, or for one */
};

struct counters {
#define X(kind, name, help) uint64_t name;
    COUNTERS(X)
#undef X
    struct front_counters front;
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
