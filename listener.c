/* SPDX-License-Identifier: BSD-3-Clause */
/* listener - the sockets that clients connect to: see listener.h. */
#include "listener.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "conn.h"
#include "endpoint.h"
#include "log.h"
#include "work.h"

enum {
    ACCEPT_BATCH = 64,     /* clients accepted before the loop looks at other things */
    ACCEPT_RETRY_MS = 100, /* how long to wait when file descriptors have run out */
    TELL_US = 1000000,     /* that accepting was stopped is logged once in this time, at the most */
};

struct socket {
    int fd;
    int family;
    uint32_t pool; /* index: whose clients come here */
    struct event event;
    bool has_event;
};

static struct {
    /* the main thread's */
    struct socket *sockets;
    uint32_t num_sockets;
    pthread_mutex_t mutex; /* taken by others who look at these, and to free them */
    char *unix_path;       /* to be removed at the end */
    struct worker **workers;
    uint32_t num_workers;
    uint32_t next_worker;
    struct work_queue work; /* where workers say that there is room again */
    bool has_work_queue;
    struct event retry;
    uint64_t told_us; /* when it was last logged that accepting was stopped; 0: never */
    bool started;

    /* written by the main thread, read by any */
    uint32_t limit;
    bool rejects; /* maxconns_fast */
    _Atomic uint64_t total;
    _Atomic uint64_t num_disabled;
    _Atomic uint64_t disabled_us;    /* in times that are over */
    _Atomic uint64_t disabled_since; /* when accepting was stopped; 0: it is not */
    _Atomic uint64_t num_rejected;

    /* written by any */
    atomic_uint num_clients;
    atomic_bool stopped; /* no accepting at the moment */
} listener = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* --- opening --- */

static bool fail(char *error, size_t errlen, const char *fmt, ...) PRINTF_LIKE(3, 4);

static bool fail(char *error, size_t errlen, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(error, errlen, fmt, args);
    va_end(args);
    return false;
}

static bool add_socket(int fd, int family, uint32_t pool)
{
    struct socket *sockets = realloc(listener.sockets, (listener.num_sockets + 1) * sizeof(*sockets));

    if (sockets == NULL)
        return false;
    listener.sockets = sockets;
    sockets[listener.num_sockets++] = (struct socket){.fd = fd, .family = family, .pool = pool};
    return true;
}

/* Binds and listens; -1 with errno. */
static int open_socket(int family, const struct sockaddr *address, socklen_t len, uint32_t backlog)
{
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1, error;

    if (fd < 0)
        return -1;
    if ((family == AF_UNIX || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0) &&
        (family != AF_INET6 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) == 0) &&
        bind(fd, address, len) == 0 && listen(fd, (int)backlog) == 0)
        return fd;
    error = errno;
    close(fd);
    errno = error;
    return -1;
}

bool listener_open_each(const char *host, uint16_t port, int type,
                        bool (*open_one)(void *arg, const struct addrinfo *a), void *arg, char *error, size_t errlen)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = type, .ai_flags = AI_PASSIVE};
    struct addrinfo *found;
    const char *shown = host != NULL ? host : "*";
    const char *kind = type == SOCK_DGRAM ? "UDP port" : "port";
    char service[8];
    uint32_t opened = 0;
    int code, last = 0;

    snprintf(service, sizeof(service), "%u", port);
    code = getaddrinfo(host, service, &hints, &found);
    if (code != 0)
        return fail(error, errlen, "cannot listen on %s, %s %u: %s", shown, kind, port, gai_strerror(code));
    for (const struct addrinfo *a = found; a != NULL; a = a->ai_next) {
        bool ok = open_one(arg, a);

        opened += ok;
        /* A kernel without IPv6 is no reason not to serve IPv4. */
        if (!ok && errno != EAFNOSUPPORT && errno != EADDRNOTAVAIL) {
            last = errno;
            break;
        }
        if (!ok && opened == 0)
            last = errno;
        else
            last = 0;
    }
    freeaddrinfo(found);
    if (last != 0)
        return fail(error, errlen, "cannot listen on %s, %s %u: %s", shown, kind, port, strerror(last));
    return true;
}

/* What open_one_tcp has to know. */
struct tcp {
    struct pool *pool;
    uint32_t index; /* of the pool */
    uint32_t backlog;
};

static bool open_one_tcp(void *arg, const struct addrinfo *a)
{
    const struct tcp *tcp = arg;
    struct endpoint own;
    int fd = open_socket(a->ai_family, a->ai_addr, a->ai_addrlen, tcp->backlog);

    if (fd < 0)
        return false;
    if (!add_socket(fd, a->ai_family, tcp->index)) {
        close(fd);
        errno = ENOMEM;
        return false;
    }
    if (tcp->pool->any_port && tcp->pool->port == 0)
        tcp->pool->port = endpoint_of(fd, &own) ? own.port : 0;
    return true;
}

static bool open_tcp(const char *host, uint16_t port, struct config *config, uint32_t pool, uint32_t backlog,
                     char *error, size_t errlen)
{
    struct tcp tcp = {&config->pools[pool], pool, backlog};

    return listener_open_each(host, port, SOCK_STREAM, open_one_tcp, &tcp, error, errlen);
}

/* Makes way for the socket: one that nobody listens on is left from a moxi that was killed. */
static bool remove_stale(const struct sockaddr_un *address, char *error, size_t errlen)
{
    struct stat st;
    int fd, status;

    if (lstat(address->sun_path, &st) != 0)
        return true;
    if (!S_ISSOCK(st.st_mode))
        return fail(error, errlen, "cannot listen on %s: it exists and is not a socket", address->sun_path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    status = fd >= 0 ? connect(fd, (const struct sockaddr *)address, sizeof(*address)) : -1;
    if (fd >= 0)
        close(fd);
    if (status == 0)
        return fail(error, errlen, "cannot listen on %s: another process does", address->sun_path);
    if (unlink(address->sun_path) != 0)
        return fail(error, errlen, "cannot remove %s: %s", address->sun_path, strerror(errno));
    return true;
}

static bool open_unix(const char *path, uint32_t mask, uint32_t backlog, char *error, size_t errlen)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    mode_t before;
    int fd;

    if (strlen(path) >= sizeof(address.sun_path))
        return fail(error, errlen, "-s: the path is longer than %zu bytes: %s", sizeof(address.sun_path) - 1, path);
    memcpy(address.sun_path, path, strlen(path));
    if (!remove_stale(&address, error, errlen))
        return false;
    before = umask((mode_t)(~mask & 0777));
    fd = open_socket(AF_UNIX, (struct sockaddr *)&address, sizeof(address), backlog);
    umask(before);
    if (fd < 0)
        return fail(error, errlen, "cannot listen on %s: %s", path, strerror(errno));
    listener.unix_path = strdup(path);
    if (listener.unix_path == NULL || !add_socket(fd, AF_UNIX, 0)) {
        close(fd);
        return fail(error, errlen, "out of memory");
    }
    return true;
}

bool listener_open(const struct options *options, struct config *config, char *error, size_t errlen)
{
    listener.limit = options->conn_limit;
    listener.rejects = options->maxconns_fast;
    /* An address with a port of its own is the first pool's; the others are for the ports of all pools. */
    for (uint32_t i = 0; i < options->num_listen; i++)
        if (options->listen[i].has_port &&
            !open_tcp(options->listen[i].host, options->listen[i].port, config, 0, options->backlog, error, errlen))
            return false;
    for (uint32_t p = 0; p < config->num_pools; p++) {
        uint16_t port = config->pools[p].port;

        if (port == 0 && !config->pools[p].any_port)
            continue;
        if (options->num_listen == 0 && !open_tcp(NULL, port, config, p, options->backlog, error, errlen))
            return false;
        for (uint32_t i = 0; i < options->num_listen; i++)
            if (!options->listen[i].has_port &&
                !open_tcp(options->listen[i].host, port, config, p, options->backlog, error, errlen))
                return false;
    }
    if (options->unix_socket != NULL &&
        !open_unix(options->unix_socket, options->unix_mask, options->backlog, error, errlen))
        return false;
    if (listener.num_sockets == 0 && options->udp_port == 0) {
        if (!options->is_memcached)
            return fail(error, errlen, "there is nothing to listen on: no port, and no -s");
        log_warning("listener: nobody can connect: -p 0, and no -s");
    }
    return true;
}

/* --- accepting --- */

static void set_listening(bool on)
{
    for (uint32_t i = 0; i < listener.num_sockets; i++) {
        struct event *event = &listener.sockets[i].event;

        if (on ? event_add(event, NULL) != 0 : event_del(event) != 0)
            log_error("listener: the event loop refuses to %s", on ? "accept again" : "stop accepting");
    }
}

static bool at_limit(void)
{
    return atomic_load(&listener.num_clients) >= listener.limit;
}

static void accept_again(void)
{
    if (!atomic_load(&listener.stopped) || at_limit())
        return;
    atomic_store(&listener.stopped, false);
    atomic_fetch_add(&listener.disabled_us, util_now_us() - atomic_exchange(&listener.disabled_since, 0));
    set_listening(true);
    log_info("listener: accepting again");
}

/* Each retry without a descriptor, and each client that leaves then, stops accepting anew: few of them are logged. */
static void tell_stopped(const char *why)
{
    uint64_t now = util_now_us();

    if (listener.told_us != 0 && now - listener.told_us < TELL_US)
        return;
    listener.told_us = now;
    log_warning("listener: not accepting, %s; %u clients", why, atomic_load(&listener.num_clients));
}

static void stop_accepting(const char *why)
{
    struct timeval retry = {.tv_usec = ACCEPT_RETRY_MS * 1000};

    if (atomic_load(&listener.stopped))
        return;
    tell_stopped(why);
    set_listening(false);
    atomic_fetch_add_explicit(&listener.num_disabled, 1, memory_order_relaxed);
    atomic_store(&listener.disabled_since, util_now_us());
    atomic_store(&listener.stopped, true);
    /* A client may have gone before `stopped` could be seen; and descriptors come back without telling. */
    (void)event_add(&listener.retry, &retry);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
    struct timeval retry = {.tv_usec = ACCEPT_RETRY_MS * 1000};

    (void)fd;
    (void)what;
    (void)arg;
    accept_again();
    if (atomic_load(&listener.stopped))
        (void)event_add(&listener.retry, &retry);
}

static void room_again(void *arg)
{
    (void)arg;
    accept_again();
}

void listener_client_closed(void)
{
    atomic_fetch_sub(&listener.num_clients, 1);
    /* When it cannot be told, the timer of stop_accepting sees it a little later. */
    if (atomic_load(&listener.stopped) && work_send(&listener.work, room_again, NULL))
        return;
}

static void hand_over(const struct socket *s, int fd)
{
    struct worker *w = listener.workers[listener.next_worker];

    listener.next_worker = (listener.next_worker + 1) % listener.num_workers;
    conn_tune(fd, s->family);
    atomic_fetch_add(&listener.num_clients, 1);
    atomic_fetch_add_explicit(&listener.total, 1, memory_order_relaxed);
    if (worker_add_client(w, s->pool, fd))
        return;
    log_warning("listener: a client was closed at once: out of memory");
    close(fd);
    atomic_fetch_sub(&listener.num_clients, 1);
}

static void reject(int fd)
{
    static const char text[] = "ERROR Too many open connections\r\n";

    atomic_fetch_add(&listener.num_rejected, 1); /* before its client knows */
    /* The socket is new, so this fits; or else its client has gone. */
    if (write(fd, text, sizeof(text) - 1) < 0)
        log_debug("listener: a client beyond -c had gone: %s", strerror(errno));
    close(fd);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    const struct socket *s = arg;

    (void)what;
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        int client;

        if (at_limit() && !listener.rejects) {
            stop_accepting("as many clients as -c allows");
            return;
        }
        client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (client >= 0) {
            if (at_limit())
                reject(client);
            else
                hand_over(s, client);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            stop_accepting(strerror(errno));
            return;
        }
        /* Others concern one client that has gone again (ECONNABORTED and the like). */
        if (errno == EAGAIN)
            return;
    }
}

bool listener_take(uint32_t pool, int fd)
{
    const struct socket s = {.family = AF_UNIX, .pool = pool};

    if (at_limit())
        return false;
    hand_over(&s, fd);
    return true;
}

bool listener_start(struct event_base *base, struct worker **workers, uint32_t num_workers)
{
    listener.workers = workers;
    listener.num_workers = num_workers;
    listener.has_work_queue = work_queue_setup(&listener.work, base);
    if (!listener.has_work_queue || evtimer_assign(&listener.retry, base, on_retry, NULL) != 0)
        return false;
    for (uint32_t i = 0; i < listener.num_sockets; i++) {
        struct socket *s = &listener.sockets[i];

        if (event_assign(&s->event, base, s->fd, EV_READ | EV_PERSIST, on_readable, s) != 0 ||
            event_add(&s->event, NULL) != 0)
            return false;
        s->has_event = true;
    }
    listener.started = true;
    return true;
}

void listener_close(void)
{
    if (listener.started)
        event_del(&listener.retry);
    /* Nor is it to be started again by a client that leaves. */
    atomic_store(&listener.stopped, false);
    pthread_mutex_lock(&listener.mutex);
    for (uint32_t i = 0; i < listener.num_sockets; i++) {
        struct socket *s = &listener.sockets[i];

        if (s->has_event)
            event_del(&s->event);
        close(s->fd);
    }
    free(listener.sockets);
    listener.sockets = NULL;
    listener.num_sockets = 0;
    pthread_mutex_unlock(&listener.mutex);
    if (listener.unix_path != NULL && unlink(listener.unix_path) != 0 && errno != ENOENT)
        log_warning("listener: cannot remove %s: %s", listener.unix_path, strerror(errno));
    free(listener.unix_path);
    listener.unix_path = NULL;
}

void listener_teardown(void)
{
    if (!listener.has_work_queue)
        return;
    work_queue_close(&listener.work);
    work_queue_teardown(&listener.work);
    listener.has_work_queue = false;
}

void listener_tell(void (*fn)(void *arg, int fd), void *arg)
{
    pthread_mutex_lock(&listener.mutex);
    for (uint32_t i = 0; i < listener.num_sockets; i++)
        fn(arg, listener.sockets[i].fd);
    pthread_mutex_unlock(&listener.mutex);
}

struct listener_stats listener_stats(void)
{
    uint64_t since = atomic_load(&listener.disabled_since);

    return (struct listener_stats){
        .curr_connections = atomic_load(&listener.num_clients),
        .max_connections = listener.limit,
        .total_connections = atomic_load_explicit(&listener.total, memory_order_relaxed),
        .listen_disabled_num = atomic_load_explicit(&listener.num_disabled, memory_order_relaxed),
        .listen_disabled_us = atomic_load(&listener.disabled_us) + (since != 0 ? util_now_us() - since : 0),
        .rejected_connections = atomic_load_explicit(&listener.num_rejected, memory_order_relaxed),
        .accepting = !atomic_load(&listener.stopped),
    };
}
