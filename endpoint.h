/* SPDX-License-Identifier: BSD-3-Clause */
/* endpoint - where a socket is, and where its peer is, in words and numbers. */
#ifndef ENDPOINT_H
#define ENDPOINT_H

#include <netinet/in.h>
#include <sys/un.h>

#include "util.h"

struct endpoint {
    int family; /* AF_INET, AF_INET6, AF_UNIX */
    bool is_datagram;
    bool is_named;                                                 /* not a unix socket without a name */
    uint16_t port;                                                 /* 0 on a unix socket */
    char host[sizeof(((struct sockaddr_un *)NULL)->sun_path) + 1]; /* an address, or the path of a unix socket */
};

/* Where a socket is bound. False when the system does not tell. */
bool endpoint_of(int fd, struct endpoint *endpoint) MUST_CHECK;

/* Where its peer is; that of a connection that was reset, too. Of a unix socket: where it is bound itself. */
bool endpoint_of_peer(int fd, struct endpoint *endpoint) MUST_CHECK;

#endif
