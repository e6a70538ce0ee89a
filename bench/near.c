/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * near - threads ask a near cache for one key, without a network, for bench/near-threads.
 *
 *   near front|pocket THREADS SECONDS
 *
 * front: each takes the item itself (cproxy_front.h); pocket: each has copies of its own (cproxy_pocket.h), as moxi's
 * workers do. Prints how many times a second it is found by all of them together, as "per_second=number".
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cproxy_pocket.h"

enum {
    THREADS_MAX = 64,
    BATCH = 1000,
    VALUE_LEN = 100,
};

static struct settings settings;
static struct guard *guard;
static struct front *front;
static struct rkey key = {.p = (const uint8_t *)"key", .len = 3};
static uint64_t hash;
static bool has_pockets;
static double run_seconds;
static pthread_barrier_t barrier;

static void fail(const char *what)
{
    fprintf(stderr, "near: %s\n", what);
    exit(1);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The time of the near cache stands still: nothing ever gets old. */
static void set_up(void)
{
    const struct facts facts = {.flags = 0};
    struct guard_ticket ticket;
    struct cache_item *item;
    static struct counters counters;
    uint8_t value[VALUE_LEN] = {0};

    settings_init(&settings);
    settings.front_cache_lifespan_ms = 1000;
    strcpy(settings.front_cache_spec, "@all");
    guard = guard_create();
    front = guard != NULL ? front_create(&settings, guard, NULL) : NULL;
    if (front == NULL)
        fail("out of memory");
    hash = keyhash_of(&guard->hash, key.p, key.len);
    ticket = guard_ask(guard, hash);
    item = front_begin_fill(front, &key, sizeof(value), &facts, 0, &counters);
    if (item == NULL)
        fail("out of memory");
    front_fill(item, 0, value, sizeof(value));
    front_end_fill(front, hash, item, &ticket, 1, &counters);
}

static void *work(void *count)
{
    struct counters *counters = calloc(1, sizeof(*counters));
    struct pocket *pocket = pocket_create(front, guard);
    uint64_t found = 0;
    double end;

    if (counters == NULL || pocket == NULL)
        fail("out of memory");
    pthread_barrier_wait(&barrier);
    for (end = now() + run_seconds; now() < end; found += BATCH)
        for (int i = 0; i < BATCH; i++) {
            struct front_hit hit;

            if ((has_pockets ? pocket_get(pocket, hash, &key, 0, 1, counters, &hit)
                             : front_get(front, hash, &key, 0, 1, counters, &hit)) != FRONT_HIT)
                fail("the key is not there");
            front_hit_release(&hit);
        }
    *(uint64_t *)count = found;
    pocket_destroy(pocket);
    free(counters);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS_MAX];
    uint64_t counts[THREADS_MAX], sum = 0;
    int num_threads = argc == 4 ? atoi(argv[2]) : 0;

    if (num_threads < 1 || num_threads > THREADS_MAX)
        fail("usage: near front|pocket THREADS SECONDS");
    has_pockets = strcmp(argv[1], "pocket") == 0;
    run_seconds = atof(argv[3]);
    set_up();
    pthread_barrier_init(&barrier, NULL, (unsigned)num_threads);
    for (int i = 0; i < num_threads; i++)
        if (pthread_create(&threads[i], NULL, work, &counts[i]) != 0)
            fail("cannot start a thread");
    for (int i = 0; i < num_threads; i++) {
        pthread_join(threads[i], NULL);
        sum += counts[i];
    }
    printf("per_second=%.0f\n", (double)sum / run_seconds);
    pthread_barrier_destroy(&barrier);
    front_destroy(front);
    guard_destroy(guard);
    return 0;
}
