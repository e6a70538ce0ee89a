/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * udp - the text protocol over UDP: see udp.h.
 *
 *   datagram --> an exchange: a pair of connected sockets --one end--> a worker, as a client like any other
 *                what was in the datagram is written to the other end, which is then shut down for writing;
 *                what comes back up to its end is the reply, and is sent in datagrams
 *
 * So a datagram is a client's whole life, and all commands, limits and counters are those of clients. It costs some
 * system calls more than a path of its own would; nobody has been seen to need that.
 */
#include "udp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "listener.h"
#include "log.h"

enum {
    HEADER_BYTES = 8,     /* request id, sequence number, number of datagrams, 0: 16 bits each */
    DATAGRAM_MAX = 65536, /* of a request */
    PAYLOAD_MAX = 1400 - HEADER_BYTES,
    REPLY_MAX = 4 * 1024 * 1024, /* bytes; a larger one is an error instead */
    REPLY_START = 2048,
    REPLIES_MAX = 64 * 1024 * 1024, /* of all replies together */
    BATCH = 64,                     /* datagrams received before the loop looks at other things */
};

struct udp_socket {
    int fd;
    in_port_t port; /* as it is in an address */
    struct event event;
    bool has_event;
};

struct exchange {
    struct exchange *next; /* link in the list of all */
    struct exchange **link;
    const struct udp_socket *socket;
    struct event event; /* the end that is ours becomes readable */
    int fd;
    uint16_t id; /* of the request, as it came */
    struct sockaddr_storage peer;
    socklen_t peer_len;
    uint8_t *reply;
    size_t len;
    size_t size;
};

static struct {
    struct event_base *base;
    struct udp_socket *sockets;
    uint32_t num_sockets;
    struct exchange *exchanges;
    uint32_t num_exchanges;
    size_t reply_bytes; /* what their replies take, as they arrive */
} udp;

/* --- replies --- */

static in_port_t port_of(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)address)->sin6_port
                                          : ((const struct sockaddr_in *)address)->sin_port;
}

/* As many datagrams as it takes. What the kernel does not take is lost, as datagrams are. */
static void send_reply(const struct udp_socket *s, const struct sockaddr_storage *peer, socklen_t peer_len, uint16_t id,
                       const uint8_t *reply, size_t len)
{
    uint16_t total = (uint16_t)((len + PAYLOAD_MAX - 1) / PAYLOAD_MAX);

    for (uint16_t seq = 0; seq < total; seq++) {
        size_t at = (size_t)seq * PAYLOAD_MAX, n = len - at < PAYLOAD_MAX ? len - at : PAYLOAD_MAX;
        uint16_t header[HEADER_BYTES / 2] = {id, htons(seq), htons(total), 0};
        struct iovec iov[2] = {{header, sizeof(header)}, {(void *)(uintptr_t)(reply + at), n}};
        struct msghdr message = {
            .msg_name = (void *)(uintptr_t)peer, .msg_namelen = peer_len, .msg_iov = iov, .msg_iovlen = ARRAY_LEN(iov)};

        if (sendmsg(s->fd, &message, MSG_DONTWAIT) < 0) {
            log_debug("udp: a reply was not sent: %s", strerror(errno));
            return;
        }
    }
}

_Static_assert((REPLY_MAX + PAYLOAD_MAX - 1) / PAYLOAD_MAX <= UINT16_MAX, "16 bits number the datagrams of a reply");

static void send_line(const struct udp_socket *s, const struct sockaddr_storage *peer, socklen_t peer_len, uint16_t id,
                      const char *line)
{
    send_reply(s, peer, peer_len, id, (const uint8_t *)line, strlen(line));
}

/* --- exchanges --- */

static void exchange_free(struct exchange *x)
{
    event_del(&x->event);
    close(x->fd);
    *x->link = x->next;
    if (x->next != NULL)
        x->next->link = x->link;
    udp.num_exchanges--;
    udp.reply_bytes -= x->size;
    free(x->reply);
    free(x);
}

static bool grow_reply(struct exchange *x)
{
    size_t size = x->size == 0 ? REPLY_START : 2 * x->size;
    uint8_t *reply = udp.reply_bytes + size - x->size <= REPLIES_MAX ? realloc(x->reply, size) : NULL;

    if (reply == NULL)
        return false;
    udp.reply_bytes += size - x->size;
    x->reply = reply;
    x->size = size;
    return true;
}

static void on_reply(evutil_socket_t fd, short what, void *arg)
{
    struct exchange *x = arg;
    const char *error = NULL;
    ssize_t n = 0;

    (void)what;
    while (error == NULL) {
        if (x->len > REPLY_MAX)
            error = "SERVER_ERROR reply too large for UDP\r\n";
        else if (x->len == x->size && !grow_reply(x))
            error = "SERVER_ERROR out of memory\r\n";
        else if ((n = read(fd, x->reply + x->len, x->size - x->len)) <= 0)
            break;
        else
            x->len += (size_t)n;
    }
    if (error == NULL && n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (error != NULL)
        send_line(x->socket, &x->peer, x->peer_len, x->id, error);
    else
        send_reply(x->socket, &x->peer, x->peer_len, x->id, x->reply, x->len);
    exchange_free(x);
}

/* Makes a client of the n bytes at p. False when the system has no more of something, or there are too many clients. */
static bool begin(struct exchange *x, const uint8_t *p, size_t n)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0)
        return false;
    if (send(pair[0], p, n, MSG_NOSIGNAL) != (ssize_t)n || shutdown(pair[0], SHUT_WR) != 0 ||
        event_assign(&x->event, udp.base, pair[0], EV_READ | EV_PERSIST, on_reply, x) != 0 ||
        event_add(&x->event, NULL) != 0) {
        close(pair[0]);
        close(pair[1]);
        return false;
    }
    if (!listener_take(0, pair[1])) {
        event_del(&x->event);
        close(pair[0]);
        close(pair[1]);
        return false;
    }
    x->fd = pair[0];
    return true;
}

/* A datagram of n bytes, of a peer that x names. Takes over x. */
static void take_datagram(struct exchange *x, const uint8_t *p, size_t n)
{
    uint16_t header[HEADER_BYTES / 2];

    /* From a port like ours it is a server's reply, ours or another's, to a forged request: answers would never end. */
    if (n <= HEADER_BYTES || udp.num_exchanges >= UDP_EXCHANGES_MAX || port_of(&x->peer) == x->socket->port) {
        free(x);
        return;
    }
    memcpy(header, p, sizeof(header));
    x->id = header[0];
    if (ntohs(header[2]) > 1) {
        send_line(x->socket, &x->peer, x->peer_len, x->id, "SERVER_ERROR multi-packet request not supported\r\n");
        free(x);
        return;
    }
    if (!begin(x, p + HEADER_BYTES, n - HEADER_BYTES)) {
        log_debug("udp: a request was dropped: too many clients, or the system has no more sockets");
        free(x);
        return;
    }
    x->link = &udp.exchanges;
    x->next = udp.exchanges;
    if (x->next != NULL)
        x->next->link = &x->next;
    udp.exchanges = x;
    udp.num_exchanges++;
}

static void on_datagram(evutil_socket_t fd, short what, void *arg)
{
    static uint8_t datagram[DATAGRAM_MAX];

    (void)what;
    for (int i = 0; i < BATCH; i++) {
        struct exchange *x = calloc(1, sizeof(*x));
        ssize_t n;

        if (x == NULL)
            return;
        x->socket = arg;
        x->peer_len = sizeof(x->peer);
        n = recvfrom(fd, datagram, sizeof(datagram), MSG_DONTWAIT, (struct sockaddr *)&x->peer, &x->peer_len);
        if (n < 0) {
            free(x);
            if (errno == EAGAIN)
                return;
            continue; /* an error that an earlier reply has brought about */
        }
        take_datagram(x, datagram, (size_t)n);
    }
}

/* --- sockets --- */

static bool open_one(void *arg, const struct addrinfo *a)
{
    struct udp_socket *sockets = realloc(udp.sockets, (udp.num_sockets + 1) * sizeof(*sockets));
    struct sockaddr_storage own = {0};
    socklen_t own_len = sizeof(own);
    int fd, on = 1;

    (void)arg;
    if (sockets == NULL)
        return false;
    udp.sockets = sockets;
    fd = socket(a->ai_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    if ((a->ai_family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) != 0) ||
        bind(fd, a->ai_addr, a->ai_addrlen) != 0 || getsockname(fd, (struct sockaddr *)&own, &own_len) != 0) {
        int error = errno;

        close(fd);
        errno = error;
        return false;
    }
    sockets[udp.num_sockets++] = (struct udp_socket){.fd = fd, .port = port_of(&own)};
    return true;
}

bool udp_open(const struct options *options, char *error, size_t errlen)
{
    uint16_t port = options->udp_port == OPTIONS_ANY_PORT ? 0 : (uint16_t)options->udp_port;

    if (options->udp_port == 0)
        return true;
    /* Whoever can send a datagram with somebody else's address has the reply sent there: nobody can from elsewhere. */
    if (options->num_listen == 0)
        return listener_open_each("localhost", port, SOCK_DGRAM, open_one, NULL, error, errlen);
    for (size_t i = 0; i < options->num_listen; i++)
        if (!listener_open_each(options->listen[i].host, port, SOCK_DGRAM, open_one, NULL, error, errlen))
            return false;
    return true;
}

bool udp_start(struct event_base *base)
{
    udp.base = base;
    for (uint32_t i = 0; i < udp.num_sockets; i++) {
        struct udp_socket *s = &udp.sockets[i];

        if (event_assign(&s->event, base, s->fd, EV_READ | EV_PERSIST, on_datagram, s) != 0 ||
            event_add(&s->event, NULL) != 0)
            return false;
        s->has_event = true;
    }
    return true;
}

void udp_close(void)
{
    while (udp.exchanges != NULL)
        exchange_free(udp.exchanges);
    for (uint32_t i = 0; i < udp.num_sockets; i++) {
        if (udp.sockets[i].has_event)
            event_del(&udp.sockets[i].event);
        udp.sockets[i].has_event = false;
    }
}

void udp_tell(void (*fn)(void *arg, int fd), void *arg)
{
    for (uint32_t i = 0; i < udp.num_sockets; i++)
        fn(arg, udp.sockets[i].fd);
}

void udp_teardown(void)
{
    for (uint32_t i = 0; i < udp.num_sockets; i++)
        close(udp.sockets[i].fd);
    free(udp.sockets);
    udp.sockets = NULL;
    udp.num_sockets = 0;
}
