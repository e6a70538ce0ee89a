/* SPDX-License-Identifier: BSD-3-Clause */
/* endpoint - see endpoint.h. */
#include "endpoint.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>

union address {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
};

static void describe(const union address *address, socklen_t len, struct endpoint *endpoint)
{
    endpoint->family = address->any.sa_family;
    endpoint->is_named = len > sizeof(sa_family_t);
    if (endpoint->family == AF_INET) {
        inet_ntop(AF_INET, &address->in.sin_addr, endpoint->host, sizeof(endpoint->host));
        endpoint->port = ntohs(address->in.sin_port);
    } else if (endpoint->family == AF_INET6) {
        inet_ntop(AF_INET6, &address->in6.sin6_addr, endpoint->host, sizeof(endpoint->host));
        endpoint->port = ntohs(address->in6.sin6_port);
    } else if (endpoint->is_named) {
        /* It need not end in a NUL, and is abstract if it begins with one. */
        memcpy(endpoint->host, address->un.sun_path, sizeof(address->un.sun_path));
    }
}

bool endpoint_of(int fd, struct endpoint *endpoint)
{
    union address address;
    socklen_t len = sizeof(address), type_len = sizeof(int);
    int type;

    memset(endpoint, 0, sizeof(*endpoint));
    memset(&address, 0, sizeof(address));
    if (getsockname(fd, &address.any, &len) != 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) != 0)
        return false;
    endpoint->is_datagram = type == SOCK_DGRAM;
    describe(&address, len, endpoint);
    return true;
}

bool endpoint_of_peer(int fd, struct endpoint *endpoint)
{
    union address address;
    socklen_t len;

    if (!endpoint_of(fd, endpoint))
        return false;
    if (endpoint->family == AF_UNIX)
        return true;
    /* Unlike getpeername, it knows that of a connection that was reset; and it wants no more room than it fills. */
    len = endpoint->family == AF_INET ? sizeof(address.in) : sizeof(address.in6);
    memset(&address, 0, sizeof(address));
    if (getsockopt(fd, SOL_SOCKET, SO_PEERNAME, &address, &len) != 0)
        return false;
    describe(&address, len, endpoint);
    return true;
}
