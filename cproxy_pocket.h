/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_pocket - a worker's own copies of what it hands on most of a pool's near cache.
 *
 * Whoever takes an item from the near cache writes to memory that all workers share: a lock, a count of references. Of
 * a key that several workers are asked for all the time, they would mostly be busy with taking that memory from each
 * other. A copy is looked at by its worker alone, and is good as long as the ticket is (guard.h) that was drawn before
 * the item was looked for: the guard's words are only written when something is.
 *
 *   pocket_get   1st time: front_get; 2nd in a row, in a place: front_get, and copy; then: the copy, some times
 *
 * After some uses the near cache is asked again, so that it knows what is in use.
 */
#ifndef CPROXY_POCKET_H
#define CPROXY_POCKET_H

#include "cproxy_front.h"

struct pocket;

/* front and guard, which is the front's, have to outlive it. NULL when memory ran out. */
struct pocket *pocket_create(struct front *front, struct guard *guard) MUST_CHECK;
void pocket_destroy(struct pocket *p); /* NULL is allowed */

/* As front_get. A hit without an item is a copy, which stays until the next call. */
enum front_result pocket_get(struct pocket *p, uint64_t hash, const struct rkey *key, unsigned needs, uint64_t now_us,
                             struct counters *n, struct front_hit *hit) MUST_CHECK;

#endif
