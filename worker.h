/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * worker - a thread that serves clients: an event loop, and each pool of the configuration as it runs it.
 *
 * Workers share nothing but the configuration, which never changes, and counters that anyone may read. The listener
 * hands each new client to one of them, and there it stays.
 */
#ifndef WORKER_H
#define WORKER_H

#include "cproxy.h"
#include "cproxy_config.h"

struct worker;

/*
 * A worker for the configuration, of which it takes a reference. The cache, for servers that are local, may be NULL if
 * there are none; shared is an array, one a pool. NULL with errno set when the system refuses.
 */
struct worker *worker_create(struct config *config, const struct cproxy_hooks *hooks,
                             const struct cproxy_serving *serving, struct cache *cache,
                             const struct cproxy_shared *shared) MUST_CHECK;

/* Starts its thread. False with errno set. */
bool worker_start(struct worker *w) MUST_CHECK;

/* Gives it a client of pool number `pool`; takes over fd. False when memory ran out; fd is then still the caller's. */
bool worker_add_client(struct worker *w, uint32_t pool, int fd) MUST_CHECK;

/* What a pool of the configuration is in this worker; for reading its counters from any thread. */
struct pool_state *worker_pool(const struct worker *w, uint32_t pool);

/* Has it answer what is in flight, for patience_ms at the longest, and then end its thread. */
void worker_drain(struct worker *w, uint32_t patience_ms);

/* Waits for the thread to end, if it was started. */
void worker_join(struct worker *w);

/* Frees a worker whose thread is not running. */
void worker_destroy(struct worker *w);

#endif
