/* SPDX-License-Identifier: BSD-3-Clause */
/* cproxy_join - see cproxy_join.h. */
#include <string.h>

#include "cproxy_join.h"

/* A number below JOIN_MARKS that keys seldom share which begin or end otherwise. */
static unsigned mark_of(const struct rkey *key)
{
    uint64_t begin = 0, end = 0;
    size_t n = key->len < sizeof(end) ? key->len : sizeof(end);

    memcpy(&begin, key->p, n);
    memcpy(&end, key->p + key->len - n, n);
    return (unsigned)((begin * UINT64_C(0xff51afd7ed558ccd) ^ end) * UINT64_C(0x9e3779b97f4a7c15) >> 53);
}

_Static_assert(JOIN_MARKS == 1 << (64 - 53), "as many as mark_of tells apart");

static bool has_key(const struct request *r, const struct rkey *key)
{
    for (uint32_t i = r->first; i != RKEY_END; i = r->keys[i].next)
        if (r->keys[i].len == key->len && memcmp(r->keys[i].p, key->p, key->len) == 0)
            return true;
    return false;
}

/* Whether one of r's keys is in the line. */
static bool meets(const struct join *join, const struct request *r)
{
    for (uint32_t i = r->first; i != RKEY_END; i = r->keys[i].next) {
        unsigned mark = mark_of(&r->keys[i]);

        if (LIKELY(!(join->marks[mark / 64] >> mark % 64 & 1)))
            continue;
        for (const struct request *other = join->first; other != NULL; other = other->next_down)
            if (has_key(other, &r->keys[i]))
                return true;
    }
    return false;
}

static void add(struct join *join, struct request *r)
{
    for (uint32_t i = r->first; i != RKEY_END; i = r->keys[i].next) {
        unsigned mark = mark_of(&r->keys[i]);

        join->marks[mark / 64] |= UINT64_C(1) << mark % 64;
    }
    join->num_keys += r->num_keys;
    join->last = r;
}

bool join_line(struct join *join, const struct codec *codec, struct request *r, struct spanq *out)
{
    if ((r->op != OP_GET && r->op != OP_GETS) || codec->compose_more == NULL || r->num_keys >= join->max) {
        join_close(join);
        return false;
    }
    if (join->first != NULL && join->last->op == r->op && join->num_keys + r->num_keys <= join->max &&
        !meets(join, r) && codec->compose_more(r, out)) {
        join->last->goes_on = true;
        r->sent_at = join->last->sent_at;
        add(join, r);
        return true;
    }
    join->first = r;
    join->num_keys = 0;
    memset(join->marks, 0, sizeof(join->marks));
    add(join, r);
    return false;
}
