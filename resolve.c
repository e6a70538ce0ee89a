/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * resolve - names of servers to addresses: see resolve.h.
 *
 * The thread shares nothing with moxi but the queue below, which is never freed: a lookup that hangs when moxi ends is
 * left alone, and can hang on harmlessly until the process is gone.
 */
#include "resolve.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct lookup {
    struct lookup *next;
    char *host;
    uint16_t port;
    struct work_queue *q;
    resolve_cb cb;
    void *arg;
    const char *error;
    struct address address;
};

static struct {
    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t wake;   /* there is a lookup, or it is over */
    struct lookup *head;
    struct lookup *tail;
    bool started;
    bool stopping;
    bool busy; /* the thread is inside getaddrinfo */
    pthread_t thread;
} resolver = {.mutex = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static void free_lookup(struct lookup *l)
{
    free(l->host);
    free(l);
}

bool resolve_numeric(const char *host, uint16_t port, struct address *address)
{
    memset(address, 0, sizeof(*address));
    if (host[0] == '/') {
        address->un.sun_family = AF_UNIX;
        snprintf(address->un.sun_path, sizeof(address->un.sun_path), "%s", host);
        address->len = sizeof(address->un);
        return true;
    }
    if (inet_pton(AF_INET, host, &address->v4.sin_addr) == 1) {
        address->v4.sin_family = AF_INET;
        address->v4.sin_port = htons(port);
        address->len = sizeof(address->v4);
        return true;
    }
    if (inet_pton(AF_INET6, host, &address->v6.sin6_addr) == 1) {
        address->v6.sin6_family = AF_INET6;
        address->v6.sin6_port = htons(port);
        address->len = sizeof(address->v6);
        return true;
    }
    return false;
}

static void look_up(struct lookup *l)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *found = NULL;
    char port[8];
    int error;

    snprintf(port, sizeof(port), "%u", l->port);
    error = getaddrinfo(l->host, port, &hints, &found);
    if (error == 0 && found->ai_addrlen <= sizeof(l->address) - offsetof(struct address, any)) {
        memcpy(&l->address.any, found->ai_addr, found->ai_addrlen);
        l->address.len = found->ai_addrlen;
    } else {
        l->error = error != 0 ? gai_strerror(error) : "an address of an unknown kind";
    }
    if (found != NULL)
        freeaddrinfo(found);
}

static void report(void *arg)
{
    struct lookup *l = arg;

    l->cb(l->arg, l->error, &l->address);
    free_lookup(l);
}

static struct lookup *next_lookup(void)
{
    struct lookup *l = NULL;

    while (resolver.head == NULL && !resolver.stopping)
        pthread_cond_wait(&resolver.wake, &resolver.mutex);
    if (!resolver.stopping) {
        l = resolver.head;
        resolver.head = l->next;
        if (resolver.head == NULL)
            resolver.tail = NULL;
    }
    return l;
}

static void *run(void *arg)
{
    struct lookup *l;

    (void)arg;
    pthread_mutex_lock(&resolver.mutex);
    while ((l = next_lookup()) != NULL) {
        resolver.busy = true;
        pthread_mutex_unlock(&resolver.mutex);
        look_up(l);
        pthread_mutex_lock(&resolver.mutex);
        resolver.busy = false;
        /* Under the mutex: whoever stops the resolver may free the asker's queue next. */
        if (resolver.stopping || !work_send(l->q, report, l))
            free_lookup(l);
    }
    pthread_mutex_unlock(&resolver.mutex);
    return NULL;
}

bool resolve_start(void)
{
    resolver.started = pthread_create(&resolver.thread, NULL, run, NULL) == 0;
    return resolver.started;
}

void resolve_stop(void)
{
    bool busy;

    pthread_mutex_lock(&resolver.mutex);
    resolver.stopping = true;
    pthread_cond_signal(&resolver.wake);
    while (resolver.head != NULL) {
        struct lookup *l = resolver.head;

        resolver.head = l->next;
        free_lookup(l);
    }
    resolver.tail = NULL;
    busy = resolver.busy;
    pthread_mutex_unlock(&resolver.mutex);
    if (!resolver.started)
        return;
    if (busy)
        pthread_detach(resolver.thread);
    else
        pthread_join(resolver.thread, NULL);
    resolver.started = false;
}

bool resolve_name(const char *host, uint16_t port, struct work_queue *q, resolve_cb cb, void *arg)
{
    struct lookup *l = calloc(1, sizeof(*l));

    if (l == NULL)
        return false;
    l->host = strdup(host);
    if (l->host == NULL) {
        free(l);
        return false;
    }
    l->port = port;
    l->q = q;
    l->cb = cb;
    l->arg = arg;
    pthread_mutex_lock(&resolver.mutex);
    if (resolver.tail != NULL)
        resolver.tail->next = l;
    else
        resolver.head = l;
    resolver.tail = l;
    pthread_cond_signal(&resolver.wake);
    pthread_mutex_unlock(&resolver.mutex);
    return true;
}
