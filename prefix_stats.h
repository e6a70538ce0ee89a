/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * prefix_stats - counts commands by the prefix of their key, for `stats detail`, as memcached does.
 *
 * A prefix is what stands before the first delimiter; keys without one are not counted. One table for the process,
 * under a lock that is only taken while counting is on, so a caller asks prefix_stats_enabled first. Any thread.
 */
#ifndef PREFIX_STATS_H
#define PREFIX_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Prefixes that are counted at the most; those that come later are not. */
enum { PREFIX_STATS_MAX = 100000 };

extern bool prefix_stats_on; /* for prefix_stats_enabled only */

static inline bool prefix_stats_enabled(void)
{
    return __atomic_load_n(&prefix_stats_on, __ATOMIC_RELAXED);
}

void prefix_stats_enable(bool on);

/* ':' until it is set. To be set before any thread counts. */
char prefix_stats_delimiter(void);
void prefix_stats_set_delimiter(char delimiter);

void prefix_stats_get(const uint8_t *key, size_t len, bool is_hit);
void prefix_stats_set(const uint8_t *key, size_t len);
void prefix_stats_delete(const uint8_t *key, size_t len);

/* Forgets all prefixes. */
void prefix_stats_reset(void);

/* Calls fn with a line for each prefix, "PREFIX name get 1 hit 1 set 1 del 0". fn must not call this module. */
void prefix_stats_tell(void (*fn)(void *arg, const char *line, size_t n), void *arg);

#endif
