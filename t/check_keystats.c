/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_keystats - what is counted of single keys (keystats.c): bounds, lifespan, several tables as one.
 *
 * Linked with --wrap=calloc,--wrap=malloc.
 */
#include "keystats.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tap.h"

enum {
    LIFESPAN_MS = 1000,
    LIFESPAN_US = LIFESPAN_MS * 1000,
    TABLES = 3,
    MANY = 2000,
};

static int allocations_left = -1; /* until one fails; -1: none does */

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);

static bool fails(void)
{
    return allocations_left >= 0 && allocations_left-- == 0;
}

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

static struct keystats *tables[TABLES];

static void begin(uint32_t max)
{
    for (unsigned i = 0; i < TABLES; i++) {
        tables[i] = keystats_create(max, LIFESPAN_MS);
        if (tables[i] == NULL)
            abort();
    }
}

static void end(void)
{
    for (unsigned i = 0; i < TABLES; i++)
        keystats_destroy(tables[i]);
}

static void add(unsigned table, const char *key, uint64_t hits, uint64_t now_us)
{
    size_t len = strlen(key);
    uint8_t *copy = malloc(len);

    /* In memory of its own length, which is gone afterwards. */
    memcpy(copy, key, len);
    keystats_add(tables[table], copy, len, &(struct keystats_counts){.seen = 1, .hits = hits}, now_us);
    free(copy);
}

/* All that is told, as "key seen hits age_ms", with blanks between them. */
static char text[256 * 1024];
static size_t num_told;

static void tell(void *arg, const struct keystats_told *told)
{
    size_t at = strlen(text);

    (void)arg;
    num_told++;
    snprintf(text + at, sizeof(text) - at, "%s%.*s %u %u %u", at > 0 ? " " : "", (int)told->len,
             (const char *)told->key, (unsigned)told->counts->seen, (unsigned)told->counts->hits,
             (unsigned)(told->age_us / 1000));
}

static bool tells(uint32_t n, uint64_t now_us, const char *expected)
{
    text[0] = '\0';
    num_told = 0;
    if (!keystats_tell(tables, n, now_us, tell, NULL))
        return false;
    return expected == NULL || strcmp(text, expected) == 0;
}

static void check_one(void)
{
    begin(10);
    check(tells(1, 5, ""), "at first nothing is told");
    add(0, "b", 1, 1000);
    add(0, "a", 0, 2000);
    add(0, "b", 2, 3000);
    add(0, "ab", 5, 4000);
    check(tells(1, 5000, "a 1 0 3 ab 1 5 1 b 2 3 4"),
          "keys are told in their order, with how long they have been counted");
    keystats_reset(tables[0]);
    check(tells(1, 5000, ""), "a reset forgets them");
    add(0, "b", 1, 6000);
    check(tells(1, 6000, "b 1 1 0"), "and they begin anew");
    add(0, "z", 1, 7000);
    check(tells(1, 6500, "b 1 1 0 z 1 1 0"), "a clock that is a little behind does no harm");
    end();
}

static void check_fields(void)
{
    struct keystats_counts c = {1, 2, 3, 4, 5, 6, 7, 8};

    check(c.seen == 1 && c.gets == 2 && c.stores == 3 && c.others == 4 && c.hits == 5 && c.misses == 6 &&
              c.read_bytes == 7 && c.write_bytes == 8,
          "there are eight fields");
}

static void check_lifespan(void)
{
    begin(10);
    add(0, "a", 1, 0);
    add(0, "b", 1, LIFESPAN_US / 2);
    add(0, "a", 1, LIFESPAN_US - 1);
    check(tells(1, LIFESPAN_US - 1, "a 2 2 999 b 1 1 499"), "a key is counted from when it was first seen");
    check(tells(1, LIFESPAN_US, "b 1 1 500"), "and for so long");
    add(0, "a", 7, LIFESPAN_US);
    check(tells(1, LIFESPAN_US, "a 1 7 0 b 1 1 500"), "then anew");
    add(0, "c", 7, 10 * LIFESPAN_US);
    check(tells(1, 10 * LIFESPAN_US, "c 1 7 0"), "what is over goes");
    end();
}

static void check_max(void)
{
    char key[16], expected[64];
    bool bounded = true;

    begin(3);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(key, sizeof(key), "key%u", i);
        add(0, key, i, 1000 * (uint64_t)i / 10);
        bounded = bounded && tells(1, 1000 * (uint64_t)i / 10, NULL) && num_told == (i < 3 ? i + 1 : 3);
    }
    check(bounded, "there are never more than so many");
    snprintf(expected, sizeof(expected), "key%u 1 %u 0 key%u 1 %u 0 key%u 1 %u 0", MANY - 3, MANY - 3, MANY - 2,
             MANY - 2, MANY - 1, MANY - 1);
    check(tells(1, 100 * (uint64_t)(MANY - 1), expected), "the oldest has gone each time");
    end();
    begin(MANY);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(key, sizeof(key), "key%u", i);
        add(0, key, 1, i);
    }
    check(tells(1, MANY, NULL) && num_told == MANY, "many are told");
    for (unsigned i = 0; i < MANY; i++)
        add(0, "a", 1, LIFESPAN_US + MANY);
    check(tells(1, LIFESPAN_US + MANY, "a 2000 2000 0"), "when all are over, all go, though not at once");
    end();
}

static void check_tables(void)
{
    begin(10);
    add(0, "a", 1, 1000);
    add(1, "b", 1, 1000);
    add(1, "a", 2, 3000);
    add(2, "c", 1, 4000);
    add(2, "a", 4, 2000);
    check(tells(TABLES, 4000, "a 3 7 3 b 1 1 3 c 1 1 0"), "several tables are told as one, from the first sight on");
    check(tells(1, 4000, "a 1 1 3"), "and are left as they were");
    check(tells(0, 4000, ""), "none are told as nothing");
    end();
}

static void check_memory(void)
{
    bool failed = true;

    begin(10);
    add(0, "a", 1, 0);
    allocations_left = 1;
    add(0, "b", 1, 0);
    allocations_left = -1;
    check(tells(1, 0, "a 1 1 0"), "a key that there is no memory for is not counted");
    for (int i = 0; i < 3; i++) {
        allocations_left = i;
        failed = failed && !tells(1, 0, NULL);
    }
    allocations_left = -1;
    check(failed && num_told == 0, "without memory nothing is told");
    allocations_left = 0;
    check(keystats_create(1, 1) == NULL, "nor is there a table");
    allocations_left = -1;
    keystats_destroy(NULL);
    end();
}

static void *count_many(void *arg)
{
    char key[16];

    (void)arg;
    for (unsigned i = 0; i < 20 * MANY; i++) {
        snprintf(key, sizeof(key), "key%u", i % 200);
        add(0, key, 1, i);
    }
    return NULL;
}

/* For the sanitizers, more than for what it says. */
static void check_threads(void)
{
    pthread_t thread;
    bool ok = true;

    begin(100);
    if (pthread_create(&thread, NULL, count_many, NULL) != 0)
        abort();
    for (unsigned i = 0; i < 100; i++) {
        ok = ok && tells(TABLES, 20 * MANY, NULL) && num_told <= 100;
        if (i % 10 == 9)
            keystats_reset(tables[0]);
    }
    pthread_join(thread, NULL);
    check(ok, "another thread may tell and reset meanwhile");
    end();
}

int main(void)
{
    check_one();
    check_fields();
    check_lifespan();
    check_max();
    check_tables();
    check_memory();
    check_threads();
    return tap_end();
}
