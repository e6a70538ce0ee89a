/* SPDX-License-Identifier: BSD-3-Clause */
/* request - the table of opcodes, and the pool that requests come from: see request.h. */
#include "request.h"

#include <assert.h>
#include <stdlib.h>

/*
 * READ: may be asked again when a connection is lost. gat changes an expiry, so it may not; nor may mg, which
 * may be told to renew what is stale, once.
 */
const struct op_info op_table[OP_COUNT] = {
    [OP_GET] = {"get", OPF_KEY | OPF_VALUES | OPF_READ},
    [OP_GETS] = {"gets", OPF_KEY | OPF_VALUES | OPF_READ},
    [OP_GAT] = {"gat", OPF_KEY | OPF_VALUES},
    [OP_GATS] = {"gats", OPF_KEY | OPF_VALUES},
    [OP_SET] = {"set", OPF_KEY | OPF_BODY | OPF_STORES},
    [OP_ADD] = {"add", OPF_KEY | OPF_BODY | OPF_STORES},
    [OP_REPLACE] = {"replace", OPF_KEY | OPF_BODY | OPF_STORES},
    [OP_APPEND] = {"append", OPF_KEY | OPF_BODY | OPF_STORES},
    [OP_PREPEND] = {"prepend", OPF_KEY | OPF_BODY | OPF_STORES},
    [OP_CAS] = {"cas", OPF_KEY | OPF_BODY | OPF_STORES},
    [OP_INCR] = {"incr", OPF_KEY},
    [OP_DECR] = {"decr", OPF_KEY},
    [OP_TOUCH] = {"touch", OPF_KEY},
    [OP_DELETE] = {"delete", OPF_KEY},
    [OP_META_GET] = {"mg", OPF_KEY | OPF_VALUES},
    [OP_META_SET] = {"ms", OPF_KEY | OPF_BODY | OPF_STORES},
    [OP_META_DELETE] = {"md", OPF_KEY},
    [OP_META_ARITH] = {"ma", OPF_KEY},
    [OP_META_DEBUG] = {"me", OPF_KEY},
    [OP_META_NOOP] = {"mn", 0},
    [OP_FLUSH_ALL] = {"flush_all", OPF_EVERYONE},
    [OP_STATS] = {"stats", OPF_EVERYONE},
    [OP_VERSION] = {"version", 0},
    [OP_VERBOSITY] = {"verbosity", 0},
    [OP_SHUTDOWN] = {"shutdown", 0},
    [OP_CRAWLER] = {"lru_crawler", OPF_LOCAL},
    [OP_MEMLIMIT] = {"cache_memlimit", OPF_LOCAL},
    [OP_WATCH] = {"watch", OPF_LOCAL},
    [OP_AUTH] = {"auth", OPF_BODY},
    [OP_SASL_LIST] = {"sasl_list", 0},
    [OP_SASL_STEP] = {"sasl_step", OPF_BODY},
    [OP_QUIT] = {"quit", 0},
    [OP_REFUSED] = {"error", 0},
};

/* Free requests that are kept at the most. */
enum { REQUESTS_KEEP = 8192 };

void request_pool_setup(struct request_pool *pool)
{
    memset(pool, 0, sizeof(*pool));
}

static void free_requests(struct request_pool *pool, size_t n)
{
    while (n-- > 0) {
        struct request *r = pool->free;

        pool->free = r->next;
        pool->num_free--;
        free(r);
    }
}

void request_pool_teardown(struct request_pool *pool)
{
    assert(pool->num_used == 0);
    free_requests(pool, pool->num_free);
}

void request_pool_trim(struct request_pool *pool)
{
    free_requests(pool, (pool->low_free + 1) / 2);
    pool->low_free = pool->num_free;
}

struct request *request_alloc(struct request_pool *pool)
{
    struct request *r = pool->free;

    if (r != NULL) {
        pool->free = r->next;
        if (--pool->num_free < pool->low_free)
            pool->low_free = pool->num_free;
    } else {
        r = malloc(sizeof(*r));
        if (r == NULL)
            return NULL;
    }
    pool->num_used++;
    memset(r, 0, offsetof(struct request, inl));
    return r;
}

void request_release(struct request_pool *pool, struct bufpool *bufs, struct request **rp)
{
    struct request *r = *rp;

    *rp = NULL;
    if (UNLIKELY(r->left != NULL))
        r->left(r);
    if (!spanq_empty(&r->value))
        spanq_clear(&r->value, bufs);
    if (!spanq_empty(&r->held))
        spanq_clear(&r->held, bufs);
    if (r->keys_chunk != NULL)
        chunk_unref(r->keys_chunk);
    assert(r->parts == NULL);
    pool->num_used--;
    pool->num_released++;
    if (pool->num_free >= REQUESTS_KEEP) {
        free(r);
        return;
    }
    r->next = pool->free;
    pool->free = r;
    pool->num_free++;
}

const struct rkey *request_open_key(const struct request *r, uint32_t index)
{
    for (uint32_t i = r->cursor; i != RKEY_END; i = r->keys[i].next)
        if (i == index)
            return &r->keys[i];
    return NULL;
}

void request_copy_value(const struct request *r, uint8_t *dst)
{
    if (r->inl_value_len > 0)
        memcpy(dst, request_inline_value(r), r->inl_value_len);
    spanq_peek_tail(&r->value, dst + r->inl_value_len, r->value.bytes);
}

void request_move_value(struct request *to, struct request *from)
{
    request_set_key(to, from->key.p, from->key.len);
    memcpy(to->inl + to->inl_used, from->inl + from->inl_used - from->inl_value_len, from->inl_value_len);
    to->inl_used += from->inl_value_len;
    to->inl_value_len = from->inl_value_len;
    spanq_concat(&to->value, &from->value);
}

void request_set_key(struct request *r, const uint8_t *key, size_t len)
{
    assert(len <= KEY_MAX);
    memcpy(r->inl, key, len);
    r->inl_used = len;
    r->key.p = r->inl;
    r->key.len = (uint16_t)len;
    r->key.is_hit = false;
    r->key.is_told = false;
    r->key.next = RKEY_END;
    r->keys = &r->key;
    r->num_keys = 1;
    r->first = 0;
    r->cursor = 0;
}

void request_let_go(struct request_pool *pool, struct bufpool *bufs, struct request **rp)
{
    struct request *r = *rp;

    r->answered = true;
    r->owner = NULL;
    r->parent = NULL;
    if (!r->in_conn) {
        request_release(pool, bufs, rp);
        return;
    }
    r->orphan = true;
    spanq_clear(&r->held, bufs);
    *rp = NULL;
}

void request_left_conn(struct request_pool *pool, struct bufpool *bufs, struct request *r,
                       const struct outcome *outcome)
{
    r->in_conn = false;
    if (r->orphan) {
        request_release(pool, bufs, &r);
    } else if (!r->answered) {
        r->answered = true;
        r->ops->done(r, outcome);
    }
}
