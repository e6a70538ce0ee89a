/* SPDX-License-Identifier: BSD-3-Clause */
/* work - closures sent to a thread's event loop: see work.h. */
#include "work.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct work_item {
    struct work_item *next;
    void (*fn)(void *arg);
    void *arg;
};

/* Takes the whole list and runs it, so that the mutex is never held over a closure. */
static void run_all(struct work_queue *q)
{
    struct work_item *item;

    pthread_mutex_lock(&q->mutex);
    item = q->head;
    q->head = NULL;
    q->tail = NULL;
    pthread_mutex_unlock(&q->mutex);
    while (item != NULL) {
        struct work_item *next = item->next;

        item->fn(item->arg);
        free(item);
        item = next;
    }
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    uint64_t count;

    (void)what;
    /* Emptied before the list is taken: what is sent after this wakes the loop again. */
    if (read(fd, &count, sizeof(count)) == sizeof(count))
        run_all(arg);
}

bool work_queue_setup(struct work_queue *q, struct event_base *base)
{
    q->head = NULL;
    q->tail = NULL;
    q->closed = false;
    q->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (q->fd < 0)
        return false;
    pthread_mutex_init(&q->mutex, NULL);
    if (event_assign(&q->event, base, q->fd, EV_READ | EV_PERSIST, on_wake, q) != 0 ||
        event_add(&q->event, NULL) != 0) {
        work_queue_teardown(q);
        return false;
    }
    return true;
}

void work_queue_close(struct work_queue *q)
{
    pthread_mutex_lock(&q->mutex);
    q->closed = true;
    pthread_mutex_unlock(&q->mutex);
    run_all(q);
    event_del(&q->event);
}

void work_queue_teardown(struct work_queue *q)
{
    close(q->fd);
    pthread_mutex_destroy(&q->mutex);
}

bool work_send(struct work_queue *q, void (*fn)(void *arg), void *arg)
{
    struct work_item *item = malloc(sizeof(*item));
    uint64_t one = 1;
    bool closed;

    if (item == NULL)
        return false;
    item->next = NULL;
    item->fn = fn;
    item->arg = arg;
    pthread_mutex_lock(&q->mutex);
    closed = q->closed;
    if (!closed) {
        if (q->tail != NULL)
            q->tail->next = item;
        else
            q->head = item;
        q->tail = item;
    }
    pthread_mutex_unlock(&q->mutex);
    if (closed) {
        free(item);
        return false;
    }
    /* A write that fails finds the counter full, and then the loop wakes anyway. */
    return write(q->fd, &one, sizeof(one)) == sizeof(one) || errno == EAGAIN;
}
