/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * load_connect.c - connections to the target: its address, connecting, and the one get that proves a connection good.
 */
#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "load.h"

static void resolve_unix(struct load *load, const char *path)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&load->addr;

    if (strlen(path) >= sizeof(un->sun_path))
        fail("%s: path too long", path);
    un->sun_family = AF_UNIX;
    strcpy(un->sun_path, path);
    load->addr_len = sizeof(*un);
}

void target_resolve(struct load *load)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *res;
    const char *target = load->opt.target, *colon = strrchr(target, ':');
    char host[256];

    if (strncmp(target, "unix:", 5) == 0) {
        resolve_unix(load, target + 5);
        return;
    }
    bool bracket = target[0] == '[' && colon && colon > target + 1 && colon[-1] == ']';
    int len = colon ? (int)(colon - target) - (bracket ? 2 : 0) : 0;
    if (len <= 0 || (size_t)len >= sizeof(host))
        fail("%s: expected HOST:PORT or unix:/PATH", target);
    snprintf(host, sizeof(host), "%.*s", len, target + bracket);
    int error = getaddrinfo(host, colon + 1, &hints, &res);
    if (error)
        fail("%s: %s", target, gai_strerror(error));
    memcpy(&load->addr, res->ai_addr, res->ai_addrlen);
    load->addr_len = res->ai_addrlen;
    freeaddrinfo(res);
}

void client_open(const struct load *load, struct client *c)
{
    uint64_t us = to_ns(load->opt.timeout) / 1000;
    struct timeval tv = {.tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000)};
    int on = 1;

    c->fd = socket(load->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fail("client %" PRIu32 ": socket: %s", c->id, strerror(errno));
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
    if (load->addr.ss_family != AF_UNIX)
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (connect(c->fd, (const struct sockaddr *)&load->addr, load->addr_len) != 0)
        fail("%s: client %" PRIu32 ": connect: %s", load->opt.target, c->id, strerror(errno));
}

void client_greet(struct load *load, struct client *c)
{
    uint32_t key = c->id % (uint32_t)load->opt.num_keys;

    load->plan = (struct plan){.op = OP_GET, .depth = 1, .width = 1};
    c->keys = &key;
    c->batch = 1;
    c->seen = (struct cursor){0};
    size_t len = (size_t)(request_compose(load, load->request, &key) - load->request);
    if (send(c->fd, load->request, len, MSG_NOSIGNAL) != (ssize_t)len)
        fail("%s: client %" PRIu32 ": send: %s", load->opt.target, c->id, strerror(errno));
    while (!reply_is_whole(load, c)) {
        ssize_t n = recv(c->fd, load->input, READ_SIZE, 0);
        if (n <= 0)
            fail("%s: client %" PRIu32 ": its first get: %s", load->opt.target, c->id,
                 n == 0 ? "connection closed" : strerror(errno));
        reply_check(load, c, load->input, (size_t)n);
    }
    c->batch = 0;
    c->keys = NULL;
}
