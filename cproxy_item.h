/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_item - hands on the values of a cache's items as replies: small ones are copied behind their heads, large ones
 * referred to. For whatever answers from a cache: cproxy_local, and the near cache.
 */
#ifndef CPROXY_ITEM_H
#define CPROXY_ITEM_H

#include "cache.h"
#include "loop.h"
#include "request.h"

/* One for each worker; begins with item_out_setup. */
struct item_out {
    struct bufpool *bufs;
    struct chunk *scratch; /* values are copied here; NULL: none yet */
};

void item_out_setup(struct item_out *out, struct loop *loop);
void item_out_teardown(struct item_out *out);

/*
 * Reports to r->ops the value of key number i, len bytes of item at value with CR LF behind them. Takes over the
 * reference to the item, but not on failure: memory has run out then. item NULL: the value is the caller's, and copied.
 */
bool item_send(struct item_out *out, struct request *r, uint32_t i, struct cache_item *item, uint8_t *value, size_t len,
               const struct facts *facts) MUST_CHECK;

#endif
