/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * watch - lines about what happens, for clients who watch: memcached's `watch`.
 *
 *   any thread: watch_wants? --> watch_tell_…: a line --lock--> [lines] of each watcher that wants it, or skipped there
 *   the watcher's own thread:    from time to time, watcher_take --lock--> the other buffer --> its client's output
 *
 * Who serves an event composes its line and appends it to the watchers' buffers, which are bounded, and never waits for
 * a watcher: what does not fit is counted, and told as skipped. Nothing is written, and nobody is woken, with the lock
 * held; it is a leaf: whoever holds locks of the cache may tell. One for the process, as there is one cache.
 *
 * As long as nobody watches, all that this costs is watch_wants: a load.
 */
#ifndef WATCH_H
#define WATCH_H

#include "buf.h"
#include "util.h"

/* What may be watched, a bit each. */
enum {
    WATCH_FETCHERS = 1 << 0,   /* a key is looked up */
    WATCH_MUTATIONS = 1 << 1,  /* a value is stored, or not */
    WATCH_EVICTIONS = 1 << 2,  /* an item goes for want of memory */
    WATCH_CONNEVENTS = 1 << 3, /* a client comes or goes */
    WATCH_DELETIONS = 1 << 4,  /* an item is deleted */
};

enum { WATCHERS_MAX = 20 }; /* as in memcached */

extern unsigned watch_mask; /* for watch_wants only */

/* Whether anybody watches one of these. */
static inline bool watch_wants(unsigned kinds)
{
    return UNLIKELY((__atomic_load_n(&watch_mask, __ATOMIC_RELAXED) & kinds) != 0);
}

/*
 * Once, before any thread watches or tells. size: bytes of lines that may wait for a watcher, 1024 and up; wake_size:
 * how many of them have it woken.
 */
void watch_setup(size_t size, size_t wake_size);

/* --- telling: any thread, once watch_wants has said that somebody wants it. fd is the client's, or -1. --- */

/* A key was looked up; status is memcached's word. class and size (of the value) are 0 if it was not found. */
void watch_tell_get(const uint8_t *key, size_t nkey, const char *status, unsigned class, int fd, uint32_t size);

/* A store ended; ttl in seconds, 0 for none. */
void watch_tell_store(const uint8_t *key, size_t nkey, const char *status, const char *command, uint32_t ttl,
                      unsigned class, int fd, uint32_t size);

/* ttl: -1 for none; idle: seconds since the last access. This one wakes nobody. */
void watch_tell_eviction(const uint8_t *key, size_t nkey, bool was_fetched, int64_t ttl, uint32_t idle, unsigned class,
                         uint32_t size);

/* command: delete or md. */
void watch_tell_deletion(const uint8_t *key, size_t nkey, const char *command, unsigned class, uint32_t size);

enum watch_reason { REASON_NORMAL, REASON_ERROR, REASON_IDLE, REASON_SHUTDOWN };

/* fd is still open. What came in a datagram is no connection, and is not told. */
void watch_tell_new(int fd);
void watch_tell_close(int fd, enum watch_reason reason);

/* --- watching --- */

struct watcher;

enum watch_status { WATCH_OK, WATCH_TOO_MANY, WATCH_NO_MEMORY };

/*
 * *w is a new watcher of these kinds when WATCH_OK. wake(arg) is called when much is waiting for it, once until it is
 * taken, by the thread that has told, which may have locks of its own; a call may still be going on when the watcher
 * has been destroyed, so arg has to outlive all who tell.
 */
enum watch_status watcher_create(struct watcher **w, unsigned kinds, void (*wake)(void *arg), void *arg) MUST_CHECK;

/*
 * Appends what has been told to out, which belongs to the caller's thread. False when memory ran out: lines are lost.
 */
bool watcher_take(struct watcher *w, struct spanq *out, struct bufpool *bufs) MUST_CHECK;

void watcher_destroy(struct watcher *w);

/* --- stats, any thread --- */

struct watch_stats {
    uint64_t written;  /* lines composed */
    uint64_t sent;     /* lines handed to watchers, one for each */
    uint64_t skipped;  /* lines that did not fit in watchers' buffers, one for each */
    uint32_t watchers; /* at the moment */
};

struct watch_stats watch_stats(void);

/* stats reset: all but the last begin anew. */
void watch_stats_reset(void);

#endif
