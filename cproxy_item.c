/* SPDX-License-Identifier: BSD-3-Clause */
/* cproxy_item - see cproxy_item.h. */
#include "cproxy_item.h"

#include <string.h>

#include "codec.h"

/* A value up to this size is copied out of its item. */
enum { COPY_VALUE_MAX = 16 * 1024 };

static void release_item(void *item)
{
    cache_item_release(item);
}

/* Room for n bytes of scratch, until the next call; NULL when memory ran out. */
static uint8_t *scratch_room(struct item_out *out, size_t n)
{
    struct chunk *chunk = out->scratch;

    if (chunk != NULL && chunk->refs == 1)
        chunk->used = 0;
    if (chunk == NULL || chunk_room(chunk) < n) {
        if (chunk != NULL)
            chunk_unref(chunk);
        out->scratch = chunk = chunk_alloc(out->bufs, CHUNK_LARGE);
    }
    return chunk != NULL ? chunk->data + chunk->used : NULL;
}

static bool copy_hit(struct item_out *out, struct request *r, struct hit *hit, struct cache_item *item,
                     const uint8_t *value)
{
    size_t rest = hit->value_len + hit->tail_len;
    uint8_t *p = scratch_room(out, hit->head_len + rest);

    if (p == NULL)
        return false;
    memcpy(p, hit->head, hit->head_len);
    memcpy(p + hit->head_len, value, rest);
    /* Nobody may append behind what is referred to. */
    out->scratch->used += hit->head_len + rest;
    hit->head = p;
    r->ops->hit(r, hit, out->scratch, p, hit->head_len + rest);
    if (item != NULL)
        cache_item_release(item);
    return true;
}

static bool refer_hit(struct item_out *out, struct request *r, const struct hit *hit, struct cache_item *item,
                      uint8_t *value)
{
    struct chunk *chunk = chunk_borrow(out->bufs, release_item, item);

    if (chunk == NULL)
        return false;
    r->ops->begin(r, hit);
    r->ops->data(r, chunk, value, hit->value_len + hit->tail_len);
    r->ops->end(r);
    chunk_unref(chunk);
    return true;
}

bool item_send(struct item_out *out, struct request *r, uint32_t i, struct cache_item *item, uint8_t *value, size_t len,
               const struct facts *facts)
{
    uint8_t head[HIT_HEAD_MAX];
    struct hit hit = {.key = i, .facts = *facts, .value_len = len, .tail_len = r->codec->value_tail, .head = head};

    hit.head_len = r->codec->compose_head(r, &hit, head);
    return item == NULL || len <= COPY_VALUE_MAX ? copy_hit(out, r, &hit, item, value)
                                                 : refer_hit(out, r, &hit, item, value);
}

void item_out_setup(struct item_out *out, struct loop *loop)
{
    out->bufs = &loop->bufs;
    out->scratch = NULL;
}

void item_out_teardown(struct item_out *out)
{
    if (out->scratch != NULL)
        chunk_unref(out->scratch);
    out->scratch = NULL;
}
