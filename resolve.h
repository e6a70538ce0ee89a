/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * resolve - names of servers to addresses, without a loop ever waiting for it.
 *
 * getaddrinfo(3) knows all that the machine knows about names (hosts file, DNS, nsswitch) and blocks; so it runs in a
 * few threads of its own, and the answer comes back through the asker's work queue. Numeric
 * addresses and unix sockets do not take that way: resolve_numeric answers at once.
 */
#ifndef RESOLVE_H
#define RESOLVE_H

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "util.h"
#include "work.h"

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un un;
    };
    socklen_t len;
};

enum { ADDRESSES_MAX = 4 };

/* What a name stands for, in the order in which they are to be tried; more than ADDRESSES_MAX are not kept. */
struct addresses {
    size_t n;
    struct address v[ADDRESSES_MAX];
};

/* Called by the asker's loop: error is NULL and there is one address or more, or error is a message, static. */
typedef void (*resolve_cb)(void *arg, const char *error, const struct addresses *addresses);

/* Makes an address of host without asking anybody. False when host is a name. A path ('/') is a unix socket. */
bool resolve_numeric(const char *host, uint16_t port, struct address *address) MUST_CHECK;

/*
 * Starts the threads, and stops them: a lookup that is running when it is stopped is left to itself, its answer is
 * dropped, and nothing is called any more.
 */
bool resolve_start(void) MUST_CHECK;
void resolve_stop(void);

/* Looks host up; cb is called once, through q. False when memory ran out: cb is not called then. */
bool resolve_name(const char *host, uint16_t port, struct work_queue *q, resolve_cb cb, void *arg) MUST_CHECK;

#endif
