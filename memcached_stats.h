/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * memcached_stats - what a moxi that is a memcached says of the process in `stats` and `stats settings`, under
 * memcached's names: connections, threads, bytes. What is the cache's comes from cproxy_local_stats.c.
 *
 * moxi.c sets it up before the workers start. The others may be called by any worker.
 */
#ifndef MEMCACHED_STATS_H
#define MEMCACHED_STATS_H

#include "cproxy.h"
#include "options.h"
#include "worker.h"

/* All that is passed must outlive the last call. */
void memcached_stats_setup(const struct options *options, const struct config *config, struct worker **workers,
                           uint32_t num_workers);

/* Tells the lines to r's ops. */
void memcached_stats_tell(struct request *r, enum local_stats what);

/* Counters begin anew. */
void memcached_stats_reset(void);

#endif
