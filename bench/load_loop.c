/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * load_loop.c - the loop: batches go out, replies come in, for all clients at once.
 *
 *   start_batch --> send_batch (on_writable sends what a short write has left) --> on_readable --> finish_batch
 *        ^                                                                                             |
 *        +---------------------------------------------------------------------------------------------+
 *
 * One send and one recv a batch, one clock a batch; a short write costs an allocation and two epoll_ctl more.
 * A connection that is closed, bytes that nobody has asked for and a reply that does not come end the program.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "load.h"

enum {
    EVENTS_MAX = 256, /* events taken from one epoll_wait */
    TURN_MS = 20,     /* longest sleep, so that deadlines and stalls are seen */
};

static void watch_client(const struct load *load, struct client *c, uint32_t events, int op)
{
    struct epoll_event event = {.events = events, .data.ptr = c};

    if (epoll_ctl(load->epoll_fd, op, c->fd, &event) != 0)
        fail("epoll_ctl: %s", strerror(errno));
}

/* Sends what it can; the rest waits for EPOLLOUT. */
static void send_batch(struct load *load, struct client *c, size_t len)
{
    ssize_t n = send(c->fd, load->request, len, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n < 0 && errno != EAGAIN)
        fail("%s: client %" PRIu32 ": send: %s", load->opt.target, c->id, strerror(errno));
    size_t sent = n > 0 ? (size_t)n : 0;
    if (sent == len)
        return;
    c->unsent = alloc(len - sent, 1);
    c->unsent_len = len - sent;
    c->unsent_off = 0;
    memcpy(c->unsent, load->request + sent, c->unsent_len);
    watch_client(load, c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
}

static void start_batch(struct load *load, struct client *c, uint64_t now)
{
    uint64_t left = load->plan.limit ? load->plan.limit - load->started : UINT64_MAX;

    if (load->stopping || left == 0)
        return;
    c->batch = left < load->plan.depth ? (uint32_t)left : load->plan.depth;
    c->sent_at = now;
    load->num_busy++;
    send_batch(load, c, batch_compose(load, c));
}

static void on_writable(struct load *load, struct client *c)
{
    ssize_t n = send(c->fd, c->unsent + c->unsent_off, c->unsent_len - c->unsent_off, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n < 0 && errno == EAGAIN)
        return;
    if (n < 0)
        fail("%s: client %" PRIu32 ": send: %s", load->opt.target, c->id, strerror(errno));
    c->unsent_off += (size_t)n;
    if (c->unsent_off < c->unsent_len)
        return;
    free(c->unsent);
    c->unsent = NULL;
    watch_client(load, c, EPOLLIN, EPOLL_CTL_MOD);
}

static void finish_batch(struct load *load, struct client *c)
{
    uint64_t now = now_ns();

    hist_add(&load->hist, now - c->sent_at);
    load->requests += c->batch;
    load->num_busy--;
    c->batch = 0;
    start_batch(load, c, now);
}

static void on_readable(struct load *load, struct client *c)
{
    ssize_t n = recv(c->fd, load->input, READ_SIZE, MSG_DONTWAIT);

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0)
        fail("%s: %sclient %" PRIu32 ": %s", load->opt.target, c->idle ? "idle " : "", c->id,
             n == 0 ? "connection closed" : strerror(errno));
    if (c->batch == 0)
        fail("%s: %sclient %" PRIu32 ": bytes that nobody asked for: \"%s\"", load->opt.target, c->idle ? "idle " : "",
             c->id, show(load->input, (size_t)n));
    reply_check(load, c, load->input, (size_t)n);
    if (reply_is_whole(load, c))
        finish_batch(load, c);
}

static void scan_stalls(struct load *load, uint64_t now)
{
    uint64_t timeout = to_ns(load->opt.timeout);

    if (now < load->next_scan)
        return;
    for (uint64_t i = 0; i < load->num_clients; i++) {
        const struct client *c = &load->clients[i];
        if (c->batch && now > c->sent_at + timeout)
            fail("%s: client %" PRIu32 ": no whole reply within %g s: %" PRIu32 " of %" PRIu32 " keys answered",
                 load->opt.target, c->id, load->opt.timeout, c->seen.key, c->batch * load->plan.width);
    }
    load->next_scan = now + timeout / 8;
}

static void turn(struct load *load)
{
    struct epoll_event events[EVENTS_MAX];
    int n = epoll_wait(load->epoll_fd, events, EVENTS_MAX, TURN_MS);

    if (n < 0 && errno != EINTR)
        fail("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < n; i++) {
        struct client *c = events[i].data.ptr;
        if ((events[i].events & EPOLLOUT) && c->unsent)
            on_writable(load, c);
        if (events[i].events & ~(uint32_t)EPOLLOUT)
            on_readable(load, c);
    }
}

void loop_run(struct load *load, uint64_t deadline)
{
    for (;;) {
        uint64_t now = now_ns();
        if (now >= deadline || load->num_busy == 0)
            return;
        scan_stalls(load, now);
        turn(load);
    }
}

void loop_create(struct load *load)
{
    load->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (load->epoll_fd < 0)
        fail("epoll_create1: %s", strerror(errno));
}

void loop_add(const struct load *load, struct client *c)
{
    watch_client(load, c, EPOLLIN, EPOLL_CTL_ADD);
}

void loop_start(struct load *load, uint64_t n)
{
    uint64_t now = now_ns();

    load->stopping = false;
    for (uint64_t i = 0; i < n; i++)
        if (load->clients[i].batch == 0)
            start_batch(load, &load->clients[i], now);
}

void loop_drain(struct load *load)
{
    load->stopping = true;
    loop_run(load, UINT64_MAX);
}
