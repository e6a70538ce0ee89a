/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * resolve - names of servers to addresses: see resolve.h.
 *
 * There are several threads, so that a name that takes long does not hold up the others. They share nothing with moxi
 * but the queue below, which is never freed: a lookup that hangs when moxi ends is left alone, and can hang on
 * harmlessly until the process is gone.
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
    struct addresses found;
};

enum { LOOKUP_THREADS = 4 };

struct lookup_thread {
    pthread_t thread;
    bool started; /* the main thread's */
    bool busy;    /* inside getaddrinfo */
};

static struct {
    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t wake;   /* there is a lookup, or it is over */
    struct lookup *head;
    struct lookup *tail;
    bool stopping;
    struct lookup_thread threads[LOOKUP_THREADS];
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

/* Keeps the addresses that were found, as many as there is room for. */
static void keep_addresses(struct lookup *l, const struct addrinfo *found)
{
    for (const struct addrinfo *a = found; a != NULL && l->found.n < ADDRESSES_MAX; a = a->ai_next) {
        struct address *address = &l->found.v[l->found.n];

        if (a->ai_addrlen > sizeof(*address) - offsetof(struct address, any))
            continue;
        memcpy(&address->any, a->ai_addr, a->ai_addrlen);
        address->len = a->ai_addrlen;
        l->found.n++;
    }
}

static void look_up(struct lookup *l)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *found = NULL;
    char port[8];
    int error;

    snprintf(port, sizeof(port), "%u", l->port);
    error = getaddrinfo(l->host, port, &hints, &found);
    if (error == 0)
        keep_addresses(l, found);
    if (l->found.n == 0)
        l->error = error != 0 ? gai_strerror(error) : "it has no address of a known kind";
    if (found != NULL)
        freeaddrinfo(found);
}

static void report(void *arg)
{
    struct lookup *l = arg;

    l->cb(l->arg, l->error, &l->found);
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
    struct lookup_thread *self = arg;
    struct lookup *l;

    pthread_mutex_lock(&resolver.mutex);
    while ((l = next_lookup()) != NULL) {
        self->busy = true;
        pthread_mutex_unlock(&resolver.mutex);
        look_up(l);
        pthread_mutex_lock(&resolver.mutex);
        self->busy = false;
        /* Under the mutex: whoever stops the resolver may free the asker's queue next. */
        if (resolver.stopping || !work_send(l->q, report, l))
            free_lookup(l);
    }
    pthread_mutex_unlock(&resolver.mutex);
    return NULL;
}

bool resolve_start(void)
{
    for (int i = 0; i < LOOKUP_THREADS; i++) {
        struct lookup_thread *t = &resolver.threads[i];

        t->started = pthread_create(&t->thread, NULL, run, t) == 0;
    }
    /* With one, names are looked up, if more slowly. */
    return resolver.threads[0].started;
}

void resolve_stop(void)
{
    bool busy[LOOKUP_THREADS];

    pthread_mutex_lock(&resolver.mutex);
    resolver.stopping = true;
    pthread_cond_broadcast(&resolver.wake);
    while (resolver.head != NULL) {
        struct lookup *l = resolver.head;

        resolver.head = l->next;
        free_lookup(l);
    }
    resolver.tail = NULL;
    for (int i = 0; i < LOOKUP_THREADS; i++)
        busy[i] = resolver.threads[i].busy;
    pthread_mutex_unlock(&resolver.mutex);
    for (int i = 0; i < LOOKUP_THREADS; i++) {
        if (!resolver.threads[i].started)
            continue;
        if (busy[i])
            pthread_detach(resolver.threads[i].thread);
        else
            pthread_join(resolver.threads[i].thread, NULL);
        resolver.threads[i].started = false;
    }
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
