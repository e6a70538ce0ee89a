/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * listener - the sockets that clients connect to, and the limit of -c.
 *
 * The main thread accepts and hands each client to the next worker in turn. As memcached does, it stops accepting
 * when there are as many clients as allowed, or the system has no more file descriptors: who comes then waits in the
 * backlog. It accepts again when a client has gone, or after a short time. With maxconns_fast, who comes when there are
 * as many as allowed is told so, and hung up on.
 */
#ifndef LISTENER_H
#define LISTENER_H

#include <event2/event.h>
#include <netdb.h>

#include "cproxy_config.h"
#include "options.h"
#include "worker.h"

/*
 * Opens the sockets that the options and the configuration ask for. A pool's port that the kernel chooses is filled in:
 * each address has its own, that of the first counts. False with an error that names the address and what is wrong with
 * it. Once a process.
 */
bool listener_open(const struct options *options, struct config *config, char *error, size_t errlen) MUST_CHECK;

/*
 * Calls open_one for every address that host has, or for those of every interface when it is NULL, with a socket type
 * of SOCK_STREAM or SOCK_DGRAM; it returns false with errno when it cannot open one. False with an error as above.
 */
bool listener_open_each(const char *host, uint16_t port, int type,
                        bool (*open_one)(void *arg, const struct addrinfo *a), void *arg, char *error,
                        size_t errlen) MUST_CHECK;

/* Starts accepting in base's loop, for these workers. False when libevent refuses. */
bool listener_start(struct event_base *base, struct worker **workers, uint32_t num_workers) MUST_CHECK;

/* Stops accepting for good and closes the sockets; a unix socket's file is removed. */
void listener_close(void);

/* Frees what is left, when no worker is running any more. */
void listener_teardown(void);

/* Gives a worker a client that did not come by a listening socket; takes over fd. False when there are too many. */
bool listener_take(uint32_t pool, int fd) MUST_CHECK;

/* A client has gone. Any thread. */
void listener_client_closed(void);

/* Calls fn with each listening socket. Any thread. */
void listener_tell(void (*fn)(void *arg, int fd), void *arg);

/* For `stats proxy`. Any thread. */
struct listener_stats {
    uint32_t curr_connections;
    uint32_t max_connections;
    uint64_t total_connections;
    uint64_t listen_disabled_num;  /* times that accepting was stopped */
    uint64_t listen_disabled_us;   /* how long, up to now */
    uint64_t rejected_connections; /* clients beyond the limit that were told so and hung up on */
    bool accepting;
};

struct listener_stats listener_stats(void);

#endif
