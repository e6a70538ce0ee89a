/* SPDX-License-Identifier: BSD-3-Clause */
/* keystats - what is asked of single keys: see keystats.h. */
#include "keystats.h"

#include <pthread.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

/* Keys whose time is up that are dropped each time that one is counted, at the most: nobody waits for thousands. */
enum { DROP_MAX = 8 };

struct counted {
    TAILQ_ENTRY(counted) link; /* in the order of since_us */
    uint64_t since_us;
    struct keystats_counts counts;
    const uint8_t *key; /* behind it, in the same allocation; elsewhere in what is searched for */
    size_t len;
};

TAILQ_HEAD(counted_queue, counted);

struct keystats {
    /* immutable after create */
    uint32_t max;
    uint64_t lifespan_us;

    /* under the mutex */
    pthread_mutex_t mutex;
    void *tree; /* of struct counted */
    struct counted_queue queue;
    size_t n;
    size_t key_bytes; /* of all of them */
};

static int compare(const void *a, const void *b)
{
    const struct counted *x = a, *y = b;
    int diff = memcmp(x->key, y->key, x->len < y->len ? x->len : y->len);

    return diff != 0 ? diff : (x->len > y->len) - (x->len < y->len);
}

static void add_counts(struct keystats_counts *to, const struct keystats_counts *from)
{
#define X(name) to->name += from->name;
    KEYSTATS(X)
#undef X
}

/* --- a table, with its mutex locked --- */

static void drop(struct keystats *k, struct counted *e)
{
    tdelete(e, &k->tree, compare);
    TAILQ_REMOVE(&k->queue, e, link);
    k->n--;
    k->key_bytes -= e->len;
    free(e);
}

static bool is_over(const struct keystats *k, const struct counted *e, uint64_t now_us)
{
    /* The clock of who asks may be a little behind that of who has counted. */
    return now_us >= e->since_us + k->lifespan_us;
}

/* Makes room for another key. */
static void drop_old(struct keystats *k, uint64_t now_us)
{
    struct counted *e;

    for (int i = 0; i < DROP_MAX && (e = TAILQ_FIRST(&k->queue)) != NULL; i++) {
        if (k->n < k->max && !is_over(k, e, now_us))
            return;
        drop(k, e);
    }
}

static struct counted *create(struct keystats *k, const uint8_t *key, size_t len)
{
    struct counted *e = calloc(1, sizeof(*e) + len);

    if (e == NULL)
        return NULL;
    e->key = memcpy(e + 1, key, len);
    e->len = len;
    if (tsearch(e, &k->tree, compare) == NULL) {
        free(e);
        return NULL;
    }
    TAILQ_INSERT_TAIL(&k->queue, e, link);
    k->n++;
    k->key_bytes += len;
    return e;
}

/* What there is of the key, or begins now. NULL when memory ran out. */
static struct counted *find(struct keystats *k, const uint8_t *key, size_t len, uint64_t now_us)
{
    const struct counted wanted = {.key = key, .len = len};
    struct counted *const *node = tfind(&wanted, &k->tree, compare);
    struct counted *e;

    if (node != NULL && !is_over(k, *node, now_us))
        return *node;
    if (node != NULL)
        drop(k, *node);
    drop_old(k, now_us);
    e = create(k, key, len);
    if (e != NULL)
        e->since_us = now_us;
    return e;
}

void keystats_add(struct keystats *k, const uint8_t *key, size_t len, const struct keystats_counts *add,
                  uint64_t now_us)
{
    struct counted *e;

    pthread_mutex_lock(&k->mutex);
    e = find(k, key, len, now_us);
    if (e != NULL)
        add_counts(&e->counts, add);
    pthread_mutex_unlock(&k->mutex);
}

void keystats_reset(struct keystats *k)
{
    pthread_mutex_lock(&k->mutex);
    tdestroy(k->tree, free);
    k->tree = NULL;
    TAILQ_INIT(&k->queue);
    k->n = 0;
    k->key_bytes = 0;
    pthread_mutex_unlock(&k->mutex);
}

/* --- telling --- */

/* A copy of a table. */
struct copy {
    struct counted *entries; /* and behind them the bytes of their keys */
    size_t n;
};

static void copy_entries(const struct keystats *k, uint64_t now_us, struct copy *copy)
{
    uint8_t *key = (uint8_t *)(copy->entries + k->n);
    const struct counted *e;

    TAILQ_FOREACH(e, &k->queue, link)
    {
        if (is_over(k, e, now_us))
            continue;
        copy->entries[copy->n] = *e;
        copy->entries[copy->n++].key = memcpy(key, e->key, e->len);
        key += e->len;
    }
}

/* False when memory ran out. */
static bool copy_table(struct keystats *k, uint64_t now_us, struct copy *copy)
{
    pthread_mutex_lock(&k->mutex);
    copy->entries = malloc(k->n * sizeof(*copy->entries) + k->key_bytes + 1);
    if (copy->entries != NULL)
        copy_entries(k, now_us, copy);
    pthread_mutex_unlock(&k->mutex);
    return copy->entries != NULL;
}

static int compare_pointers(const void *a, const void *b)
{
    return compare(*(const struct counted *const *)a, *(const struct counted *const *)b);
}

/* Tells of each key once, of all n entries together. */
static void tell(struct counted **all, size_t n, uint64_t now_us,
                 void (*fn)(void *arg, const struct keystats_told *told), void *arg)
{
    qsort(all, n, sizeof(struct counted *), compare_pointers);
    for (size_t i = 0; i < n;) {
        struct counted *e = all[i];

        for (i++; i < n && compare(e, all[i]) == 0; i++) {
            add_counts(&e->counts, &all[i]->counts);
            if (all[i]->since_us < e->since_us)
                e->since_us = all[i]->since_us;
        }
        fn(arg, &(struct keystats_told){e->key, e->len, now_us > e->since_us ? now_us - e->since_us : 0, &e->counts});
    }
}

bool keystats_tell(struct keystats *const *tables, uint32_t n, uint64_t now_us,
                   void (*fn)(void *arg, const struct keystats_told *told), void *arg)
{
    struct copy *copies = calloc(n, sizeof(*copies));
    struct counted **all = NULL;
    bool ok = copies != NULL;
    size_t total = 0, at = 0;

    for (uint32_t i = 0; ok && i < n; i++) {
        ok = copy_table(tables[i], now_us, &copies[i]);
        total += copies[i].n;
    }
    if (ok)
        all = malloc((total + 1) * sizeof(struct counted *));
    ok = ok && all != NULL;
    for (uint32_t i = 0; ok && i < n; i++)
        for (size_t j = 0; j < copies[i].n; j++)
            all[at++] = &copies[i].entries[j];
    if (ok)
        tell(all, total, now_us, fn, arg);
    for (uint32_t i = 0; copies != NULL && i < n; i++)
        free(copies[i].entries);
    free(copies);
    free(all);
    return ok;
}

/* --- life --- */

struct keystats *keystats_create(uint32_t max, uint32_t lifespan_ms)
{
    struct keystats *k = calloc(1, sizeof(*k));

    if (k == NULL)
        return NULL;
    k->max = max;
    k->lifespan_us = (uint64_t)lifespan_ms * 1000;
    pthread_mutex_init(&k->mutex, NULL);
    TAILQ_INIT(&k->queue);
    return k;
}

void keystats_destroy(struct keystats *k)
{
    if (k == NULL)
        return;
    keystats_reset(k);
    pthread_mutex_destroy(&k->mutex);
    free(k);
}
