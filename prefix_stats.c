/* SPDX-License-Identifier: BSD-3-Clause */
/* prefix_stats - counts commands by the prefix of their key: see prefix_stats.h. A tree, by tsearch. */
#include "prefix_stats.h"

#include <inttypes.h>
#include <pthread.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_BYTES = 512 };

struct prefix {
    uint64_t gets;
    uint64_t hits;
    uint64_t sets;
    uint64_t deletes;
    const uint8_t *name; /* behind it, in the same allocation; elsewhere in what is searched for */
    size_t len;
};

bool prefix_stats_on;

static struct {
    pthread_mutex_t mutex;
    void *tree; /* of struct prefix */
    size_t n;
    char delimiter;
} stats = {.mutex = PTHREAD_MUTEX_INITIALIZER, .delimiter = ':'};

static int compare(const void *a, const void *b)
{
    const struct prefix *x = a, *y = b;
    int diff = memcmp(x->name, y->name, x->len < y->len ? x->len : y->len);

    return diff != 0 ? diff : (x->len > y->len) - (x->len < y->len);
}

/* The counters of a key's prefix, with the mutex locked. NULL: it has none, or they are too many, or memory ran out. */
static struct prefix *find(const uint8_t *key, size_t len)
{
    const uint8_t *end = memchr(key, stats.delimiter, len);
    struct prefix wanted = {.name = key}, *p;
    struct prefix **node;

    if (end == NULL)
        return NULL;
    wanted.len = (size_t)(end - key);
    node = tfind(&wanted, &stats.tree, compare);
    if (node != NULL)
        return *node;
    if (stats.n >= PREFIX_STATS_MAX)
        return NULL;
    p = malloc(sizeof(*p) + wanted.len);
    if (p == NULL)
        return NULL;
    *p = wanted;
    memcpy(p + 1, key, wanted.len);
    p->name = (const uint8_t *)(p + 1);
    if (tsearch(p, &stats.tree, compare) == NULL) {
        free(p);
        return NULL;
    }
    stats.n++;
    return p;
}

void prefix_stats_enable(bool on)
{
    __atomic_store_n(&prefix_stats_on, on, __ATOMIC_RELAXED);
}

char prefix_stats_delimiter(void)
{
    return stats.delimiter;
}

void prefix_stats_set_delimiter(char delimiter)
{
    stats.delimiter = delimiter;
}

void prefix_stats_get(const uint8_t *key, size_t len, bool is_hit)
{
    struct prefix *p;

    pthread_mutex_lock(&stats.mutex);
    p = find(key, len);
    if (p != NULL) {
        p->gets++;
        p->hits += is_hit;
    }
    pthread_mutex_unlock(&stats.mutex);
}

void prefix_stats_set(const uint8_t *key, size_t len)
{
    struct prefix *p;

    pthread_mutex_lock(&stats.mutex);
    p = find(key, len);
    if (p != NULL)
        p->sets++;
    pthread_mutex_unlock(&stats.mutex);
}

void prefix_stats_delete(const uint8_t *key, size_t len)
{
    struct prefix *p;

    pthread_mutex_lock(&stats.mutex);
    p = find(key, len);
    if (p != NULL)
        p->deletes++;
    pthread_mutex_unlock(&stats.mutex);
}

void prefix_stats_reset(void)
{
    pthread_mutex_lock(&stats.mutex);
    tdestroy(stats.tree, free);
    stats.tree = NULL;
    stats.n = 0;
    pthread_mutex_unlock(&stats.mutex);
}

struct telling {
    void (*fn)(void *arg, const char *line, size_t n);
    void *arg;
};

static void tell(const void *node, VISIT visit, void *arg)
{
    const struct prefix *p = *(struct prefix *const *)node;
    const struct telling *telling = arg;
    char line[LINE_BYTES];
    int n;

    if (visit != postorder && visit != leaf)
        return;
    n = snprintf(line, sizeof(line), "PREFIX %.*s get %" PRIu64 " hit %" PRIu64 " set %" PRIu64 " del %" PRIu64,
                 (int)p->len, (const char *)p->name, p->gets, p->hits, p->sets, p->deletes);
    if (n > 0 && (size_t)n < sizeof(line))
        telling->fn(telling->arg, line, (size_t)n);
}

void prefix_stats_tell(void (*fn)(void *arg, const char *line, size_t n), void *arg)
{
    struct telling telling = {fn, arg};

    pthread_mutex_lock(&stats.mutex);
    twalk_r(stats.tree, tell, &telling);
    pthread_mutex_unlock(&stats.mutex);
}
