/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * watch - lines about what happens, for clients who watch: see watch.h.
 *
 * A watcher has two buffers: one is filled under the lock, the other is its thread's, which takes by exchanging them,
 * so the lock is held for a line to be copied and no longer. Once a line was skipped, all are until the next take: so
 * what was skipped is told in its place.
 */
#include "watch.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "endpoint.h"

enum {
    NKEY_MAX = 250,
    HEAD_BYTES = 64,                 /* "ts=… gid=… " */
    TEXT_BYTES = 3 * NKEY_MAX + 192, /* the rest of a line */
    SKIPPED_BYTES = U64_DIGITS + 16,
};

_Static_assert(HEAD_BYTES + TEXT_BYTES <= 1024, "any line fits in the smallest buffer");

struct watcher {
    struct watcher *next; /* link in the list of all */
    struct watcher **link;
    unsigned kinds;
    void (*wake)(void *arg);
    void *arg;

    /* under the lock */
    char *lines; /* watch.size bytes; `used` of them are lines that wait */
    size_t used;
    uint64_t num_lines; /* in there */
    uint64_t skipped;   /* after them */
    bool is_woken;

    /* its thread's */
    char *taken; /* the other buffer */
};

unsigned watch_mask;

static struct {
    size_t size;
    size_t wake_size;
    pthread_mutex_t mutex; /* guards all below, and what is under the lock in a watcher */
    struct watcher *watchers;
    uint64_t gid; /* number of the last line */
    struct watch_stats stats;
} watch = {.mutex = PTHREAD_MUTEX_INITIALIZER};

void watch_setup(size_t size, size_t wake_size)
{
    watch.size = size;
    watch.wake_size = wake_size;
}

/* --- telling --- */

/* With the lock: a line of two parts, n bytes in all. Whether the watcher has to be woken for it. */
static bool append(struct watcher *w, const char *head, size_t nhead, const char *text, size_t ntext, bool may_wake)
{
    if (w->skipped > 0 || watch.size - w->used < nhead + ntext) {
        w->skipped++;
        watch.stats.skipped++;
        return false;
    }
    memcpy(w->lines + w->used, head, nhead);
    memcpy(w->lines + w->used + nhead, text, ntext);
    w->used += nhead + ntext;
    w->num_lines++;
    if (!may_wake || w->is_woken || w->used < watch.wake_size)
        return false;
    w->is_woken = true;
    return true;
}

/* Has a line appended for all who want it. Its head is made under the lock, so that numbers and times are in order. */
static void tell_line(unsigned kind, bool may_wake, const char *text, size_t ntext)
{
    struct {
        void (*wake)(void *arg);
        void *arg;
    } woken[WATCHERS_MAX];
    size_t num_woken = 0;
    char head[HEAD_BYTES];
    struct timespec now;
    int nhead;

    pthread_mutex_lock(&watch.mutex);
    clock_gettime(CLOCK_REALTIME, &now);
    /* memcached does not fill up the microseconds with zeros either. */
    nhead = snprintf(head, sizeof(head), "ts=%lld.%ld gid=%" PRIu64 " ", (long long)now.tv_sec, now.tv_nsec / 1000,
                     ++watch.gid);
    watch.stats.written++;
    for (struct watcher *w = watch.watchers; w != NULL; w = w->next) {
        if (!(w->kinds & kind) || !append(w, head, (size_t)nhead, text, ntext, may_wake))
            continue;
        woken[num_woken].wake = w->wake;
        woken[num_woken++].arg = w->arg;
    }
    pthread_mutex_unlock(&watch.mutex);
    for (size_t i = 0; i < num_woken; i++)
        woken[i].wake(woken[i].arg);
}

static void tell(unsigned kind, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void tell(unsigned kind, const char *fmt, ...)
{
    char text[TEXT_BYTES];
    va_list args;
    int n;

    va_start(args, fmt);
    n = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    assert(n > 0 && (size_t)n < sizeof(text));
    tell_line(kind, kind != WATCH_EVICTIONS, text, (size_t)n);
}

/* A key as lines have it, until its scope ends. */
struct escaped {
    char text[3 * NKEY_MAX + 1];
};

static const char *escape(struct escaped *escaped, const uint8_t *key, size_t nkey)
{
    assert(nkey <= NKEY_MAX);
    escaped->text[util_escape_uri(escaped->text, key, nkey)] = '\0';
    return escaped->text;
}

void watch_tell_get(const uint8_t *key, size_t nkey, const char *status, unsigned class, int fd, uint32_t size)
{
    struct escaped escaped;

    tell(WATCH_FETCHERS, "type=item_get key=%s status=%s clsid=%u cfd=%d size=%" PRIu32 "\n",
         escape(&escaped, key, nkey), status, class, fd, size);
}

void watch_tell_store(const uint8_t *key, size_t nkey, const char *status, const char *command, uint32_t ttl,
                      unsigned class, int fd, uint32_t size)
{
    struct escaped escaped;

    tell(WATCH_MUTATIONS, "type=item_store key=%s status=%s cmd=%s ttl=%" PRIu32 " clsid=%u cfd=%d size=%" PRIu32 "\n",
         escape(&escaped, key, nkey), status, command, ttl, class, fd, size);
}

void watch_tell_eviction(const uint8_t *key, size_t nkey, bool was_fetched, int64_t ttl, uint32_t idle, unsigned class,
                         uint32_t size)
{
    struct escaped escaped;

    tell(WATCH_EVICTIONS, "type=eviction key=%s fetch=%s ttl=%" PRId64 " la=%" PRIu32 " clsid=%u size=%" PRIu32 "\n",
         escape(&escaped, key, nkey), was_fetched ? "yes" : "no", ttl, idle, class, size);
}

void watch_tell_deletion(const uint8_t *key, size_t nkey, const char *command, unsigned class, uint32_t size)
{
    struct escaped escaped;

    tell(WATCH_DELETIONS, "type=deleted key=%s cmd=%s clsid=%u size=%" PRIu32 "\n", escape(&escaped, key, nkey),
         command, class, size);
}

/* Where a client is, as lines have it. False: nowhere that could be told. */
static bool name_peer(int fd, char *text, size_t size)
{
    struct endpoint peer;

    if (!endpoint_of_peer(fd, &peer))
        return false;
    if (peer.family == AF_UNIX)
        snprintf(text, size, "rip=unix rport=0 transport=local");
    else
        snprintf(text, size, "rip=%s rport=%u transport=tcp", peer.host, peer.port);
    return peer.is_named; /* one that is not is udp.c's */
}

enum { PEER_BYTES = sizeof(((struct endpoint *)NULL)->host) + 48 };

void watch_tell_new(int fd)
{
    char peer[PEER_BYTES];

    if (name_peer(fd, peer, sizeof(peer)))
        tell(WATCH_CONNEVENTS, "type=conn_new %s cfd=%d\n", peer, fd);
}

void watch_tell_close(int fd, enum watch_reason reason)
{
    static const char *const words[] = {
        [REASON_NORMAL] = "normal",
        [REASON_ERROR] = "error",
        [REASON_IDLE] = "idle_timeout",
        [REASON_SHUTDOWN] = "shutdown",
    };
    char peer[PEER_BYTES];

    if (name_peer(fd, peer, sizeof(peer)))
        tell(WATCH_CONNEVENTS, "type=conn_close %s reason=%s cfd=%d\n", peer, words[reason], fd);
}

/* --- watching --- */

/* With the lock: somebody has come or gone. */
static void tell_mask(void)
{
    unsigned mask = 0;

    for (const struct watcher *w = watch.watchers; w != NULL; w = w->next)
        mask |= w->kinds;
    __atomic_store_n(&watch_mask, mask, __ATOMIC_RELAXED);
}

static void free_watcher(struct watcher *w)
{
    free(w->lines);
    free(w->taken);
    free(w);
}

enum watch_status watcher_create(struct watcher **wp, unsigned kinds, void (*wake)(void *arg), void *arg)
{
    struct watcher *w = calloc(1, sizeof(*w));
    bool is_full;

    if (w == NULL)
        return WATCH_NO_MEMORY;
    w->kinds = kinds;
    w->wake = wake;
    w->arg = arg;
    w->lines = malloc(watch.size);
    w->taken = malloc(watch.size);
    if (w->lines == NULL || w->taken == NULL) {
        free_watcher(w);
        return WATCH_NO_MEMORY;
    }
    pthread_mutex_lock(&watch.mutex);
    is_full = watch.stats.watchers >= WATCHERS_MAX;
    if (!is_full) {
        w->link = &watch.watchers;
        w->next = watch.watchers;
        if (w->next != NULL)
            w->next->link = &w->next;
        watch.watchers = w;
        watch.stats.watchers++;
        tell_mask();
    }
    pthread_mutex_unlock(&watch.mutex);
    if (is_full) {
        free_watcher(w);
        return WATCH_TOO_MANY;
    }
    *wp = w;
    return WATCH_OK;
}

bool watcher_take(struct watcher *w, struct spanq *out, struct bufpool *bufs)
{
    char *lines = w->taken, text[SKIPPED_BYTES];
    uint64_t skipped;
    size_t n;

    pthread_mutex_lock(&watch.mutex);
    w->taken = w->lines;
    w->lines = lines;
    n = w->used;
    skipped = w->skipped;
    watch.stats.sent += w->num_lines;
    w->used = 0;
    w->num_lines = 0;
    w->skipped = 0;
    w->is_woken = false;
    pthread_mutex_unlock(&watch.mutex);
    if (n > 0 && !spanq_copy(out, bufs, w->taken, n))
        return false;
    if (skipped == 0)
        return true;
    n = (size_t)snprintf(text, sizeof(text), "skipped=%" PRIu64 "\n", skipped);
    return spanq_copy(out, bufs, text, n);
}

void watcher_destroy(struct watcher *w)
{
    pthread_mutex_lock(&watch.mutex);
    *w->link = w->next;
    if (w->next != NULL)
        w->next->link = w->link;
    watch.stats.watchers--;
    tell_mask();
    pthread_mutex_unlock(&watch.mutex);
    free_watcher(w);
}

/* --- stats --- */

struct watch_stats watch_stats(void)
{
    struct watch_stats stats;

    pthread_mutex_lock(&watch.mutex);
    stats = watch.stats;
    pthread_mutex_unlock(&watch.mutex);
    return stats;
}

void watch_stats_reset(void)
{
    pthread_mutex_lock(&watch.mutex);
    watch.stats = (struct watch_stats){.watchers = watch.stats.watchers};
    pthread_mutex_unlock(&watch.mutex);
}
