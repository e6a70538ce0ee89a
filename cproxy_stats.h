/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_stats - `stats proxy …`: what moxi says of itself.
 *
 *   stats proxy [all]       everything below, but what tells of keys: these are the users', and may be many
 *   stats proxy info        version, process, configuration in short
 *   stats proxy settings    the process's options
 *   stats proxy behaviors   the settings of -Z, as they are in force
 *   stats proxy stats       counters, of all workers together
 *   stats proxy timings     latencies by command (with time_stats)
 *   stats proxy config      -z, as it was understood
 *   stats proxy keystats    counters of single keys (with key_stats_lifespan and key_stats_spec)
 *   stats proxy hotkeys     the keys that are asked for most
 *   stats proxy reset       counters, timings and keystats start at 0 again
 *
 * Names begin as the first moxi's did: basic:, proxy_main:, and <port>:<pool>: for what is a pool's.
 */
#ifndef CPROXY_STATS_H
#define CPROXY_STATS_H

#include "cproxy.h"
#include "options.h"
#include "worker.h"

/* Once, before any worker runs. What is passed must stay until stats_teardown. False when memory ran out. */
bool stats_setup(const struct options *options, const struct config *config, struct worker **workers,
                 uint32_t num_workers) MUST_CHECK;
void stats_teardown(void);

/* The hook of cproxy.h. arg is what follows `stats proxy`. Any worker's thread. */
bool stats_proxy(struct pool_state *ps, const uint8_t *arg, size_t len, struct spanq *out);

#endif
