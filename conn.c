/* SPDX-License-Identifier: BSD-3-Clause */
/* conn - a socket in a worker's loop: see conn.h. */
#include "conn.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IOV_COUNT = 64 };

/* Registers for what conn's flags ask. */
static bool apply(struct conn *conn)
{
    short what = (short)((conn->paused ? 0 : EV_READ) | (conn->blocked ? EV_WRITE : 0));
    struct event_base *base = event_get_base(&conn->event);
    event_callback_fn cb = event_get_callback(&conn->event);
    void *arg = event_get_callback_arg(&conn->event);

    if (event_del(&conn->event) != 0)
        return false;
    if (what == 0)
        return true;
    return event_assign(&conn->event, base, conn->fd, (short)(what | EV_PERSIST), cb, arg) == 0 &&
           event_add(&conn->event, NULL) == 0;
}

bool conn_open(struct conn *conn, struct event_base *base, int fd, bool writing, event_callback_fn cb, void *arg)
{
    short what = writing ? EV_WRITE : EV_READ;

    if (event_assign(&conn->event, base, fd, (short)(what | EV_PERSIST), cb, arg) != 0 ||
        event_add(&conn->event, NULL) != 0)
        return false;
    spanq_init(&conn->out);
    conn->fd = fd;
    conn->paused = writing;
    conn->blocked = writing;
    return true;
}

void conn_close(struct conn *conn, struct loop *loop)
{
    event_del(&conn->event);
    close(conn->fd);
    conn->fd = -1;
    spanq_clear(&conn->out, &loop->bufs);
}

enum conn_status conn_read(struct conn *conn, struct iovec *iov, int n, size_t *got)
{
    ssize_t len;

    *got = 0;
    do {
        len = n == 1 ? read(conn->fd, iov[0].iov_base, iov[0].iov_len) : readv(conn->fd, iov, n);
    } while (len < 0 && errno == EINTR);
    if (len > 0) {
        *got = (size_t)len;
        return CONN_OK;
    }
    if (len == 0)
        return CONN_EOF;
    return errno == EAGAIN || errno == ENOBUFS ? CONN_AGAIN : CONN_FAILED;
}

static ssize_t write_some(struct conn *conn)
{
    struct iovec iov[IOV_COUNT];
    int n = spanq_iov(&conn->out, iov, IOV_COUNT);
    ssize_t len;

    do {
        len = n == 1 ? write(conn->fd, iov[0].iov_base, iov[0].iov_len) : writev(conn->fd, iov, n);
    } while (len < 0 && errno == EINTR);
    return len;
}

static bool set_blocked(struct conn *conn, bool blocked)
{
    if (conn->blocked == blocked)
        return true;
    conn->blocked = blocked;
    return apply(conn);
}

enum conn_status conn_flush(struct conn *conn, struct loop *loop)
{
    while (conn->out.bytes > 0) {
        ssize_t len = write_some(conn);

        if (len < 0) {
            if (errno != EAGAIN && errno != ENOBUFS)
                return CONN_FAILED;
            return set_blocked(conn, true) ? CONN_AGAIN : CONN_FAILED;
        }
        spanq_drop(&conn->out, &loop->bufs, (size_t)len);
    }
    return set_blocked(conn, false) ? CONN_OK : CONN_FAILED;
}

bool conn_set_paused(struct conn *conn, bool paused)
{
    if (conn->paused == paused)
        return true;
    conn->paused = paused;
    return apply(conn);
}

bool conn_connected(struct conn *conn)
{
    conn->paused = false;
    conn->blocked = false;
    return apply(conn);
}

int conn_connect_error(const struct conn *conn)
{
    int error = 0;
    socklen_t len = sizeof(error);

    if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        return errno;
    return error;
}

void conn_tune(int fd, int family)
{
    int on = 1;

    /* Either may be refused without harm: the connection works, later or longer. */
    if (family == AF_UNIX)
        return;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

int conn_socket(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd >= 0)
        conn_tune(fd, family);
    return fd;
}
