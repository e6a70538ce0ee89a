/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_hotkeys - the keys that are asked for most (hotkeys.c). Time is made up here: a second is a hundred steps.
 *
 * Linked with --wrap=calloc,--wrap=realloc.
 */
#include "hotkeys.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tap.h"

enum {
    RATE_MIN = 1000,
    SERVERS = 3,
    WORKERS_MAX = 4,
    STEPS = 100, /* a second */
    STEP_US = 1000000 / STEPS,
    KEYS = 10000,
    TOP = 10,
};

static int allocations_left = -1; /* until one fails; -1: none does */

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__wrap_realloc(void *p, size_t size);

static bool fails(void)
{
    return allocations_left >= 0 && allocations_left-- == 0;
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
    return fails() ? NULL : __real_realloc(p, size);
}

/* --- a pool, its workers and a clock --- */

static struct hotkeys *pool;
static struct hotkeys_worker workers[WORKERS_MAX];
static unsigned num_workers;
static uint64_t now_us, num_sampled, random_state;

static void begin(unsigned n)
{
    pool = hotkeys_create(SERVERS, RATE_MIN, 1);
    if (pool == NULL)
        abort();
    now_us = 123456789;
    num_workers = n;
    num_sampled = 0;
    random_state = 88172645463325252;
    for (unsigned i = 0; i < n; i++)
        if (!hotkeys_join(pool, &workers[i], now_us))
            abort();
}

static void end(void)
{
    for (unsigned i = 0; i < num_workers; i++)
        hotkeys_leave(&workers[i]);
    hotkeys_destroy(pool);
}

static double draw(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (double)(random_state >> 11) / (double)(UINT64_C(1) << 53);
}

static struct rkey name_of(uint32_t number, char text[32])
{
    return (struct rkey){.p = (const uint8_t *)text, .len = (uint16_t)snprintf(text, 32, "key:%u", number)};
}

static uint32_t number_of(const struct hotkey *k)
{
    uint64_t number;

    if (k->len <= 4 || memcmp(k->key, "key:", 4) != 0 || !util_parse_u64((const char *)k->key + 4, k->len - 4, &number))
        return UINT32_MAX;
    return (uint32_t)number;
}

/* A key is asked for at worker number w; it is of server number % SERVERS, and its value of 10 bytes. */
static void ask(unsigned w, uint32_t number, bool is_read)
{
    char text[32];
    struct rkey key = name_of(number, text);

    if (!hotkeys_is_due(&workers[w]))
        return;
    num_sampled++;
    hotkeys_sample(&workers[w], &key, number % SERVERS, 10, is_read, now_us);
}

static void read_times(unsigned w, uint32_t number, unsigned times)
{
    while (times-- > 0)
        ask(w, number, true);
}

/* A step of time passes; the workers' ticks come each second. */
static void step(void)
{
    now_us += STEP_US;
    if (now_us / STEP_US % STEPS == 0)
        for (unsigned i = 0; i < num_workers; i++)
            hotkeys_tick(&workers[i], now_us);
}

static void idle(unsigned steps)
{
    while (steps-- > 0)
        step();
}

static bool number_is_hot(uint32_t number)
{
    char text[32];
    struct rkey key = name_of(number, text);

    return hotkeys_is_hot(pool, key.p, key.len);
}

/* --- exact rates --- */

static void check_off(void)
{
    struct hotkeys_worker off = {0};
    struct rkey key = {.p = (const uint8_t *)"a", .len = 1};
    unsigned due = 0;

    for (unsigned i = 0; i < 1000; i++)
        due += hotkeys_is_due(&off);
    check(due == 0, "a worker that has not joined samples nothing");
    hotkeys_sample(&off, &key, 0, 1, true, 1);
    hotkeys_tick(&off, 1);
    hotkeys_leave(&off);
    hotkeys_destroy(NULL);
    check(off.sketch == NULL, "and is left alone");
}

static void check_few(void)
{
    struct hotkey top[TOP];
    bool exact = true;

    begin(2);
    check(hotkeys_top(pool, top, TOP) == 0, "at first there is nothing to tell");
    for (unsigned i = 0; i < 2 * STEPS; i++) {
        for (uint32_t n = 1; n <= 4; n++)
            read_times(i % 2, n, n);
        ask(1, 4, false);
        step();
    }
    idle(1);
    read_times(0, 9, 1);
    read_times(1, 9, 1);
    check(hotkeys_top(pool, top, TOP) == 4, "of four keys four are told");
    for (uint32_t n = 1; n <= 4; n++) {
        const struct hotkey *k = &top[4 - n];
        uint64_t rate = n * STEPS + (n == 4 ? STEPS : 0);

        exact = exact && number_of(k) == n && k->rate == rate && k->read_rate == n * STEPS &&
                k->byte_rate == 10 * rate && k->server == n % SERVERS && !k->hot;
    }
    check(exact, "the most asked for first, with exact rates of all workers together");
    check(top[0].pool_rate == 11 * STEPS && top[0].server_rate == 6 * STEPS && top[1].server_rate == 3 * STEPS,
          "and those of the pool, and of their servers");
    check(hotkeys_top(pool, top, 2) == 2 && number_of(&top[1]) == 3, "or as many as there is room for");
    end();
}

/* --- what is hot --- */

/* For so many steps a key is read so often in each. */
static void read_for(unsigned steps, uint32_t number, unsigned times)
{
    while (steps-- > 0) {
        for (unsigned w = 0; w < num_workers; w++)
            read_times(w, number, times / num_workers);
        step();
    }
}

static void check_hot(void)
{
    begin(2);
    read_for(2 * STEPS, 1, 8);
    check(!number_is_hot(1), "800 reads a second do not make a key hot");
    read_for(2 * STEPS, 1, 12);
    check(number_is_hot(1) && !number_is_hot(2), "1200 do, though no worker has a thousand");
    read_for(2 * STEPS, 1, 6);
    check(number_is_hot(1), "with 600 it is hot still");
    read_for(2 * STEPS, 1, 4);
    check(!number_is_hot(1), "with 400 no more");
    for (unsigned i = 0; i < 2 * STEPS; i++) {
        for (unsigned n = 0; n < 20; n++)
            ask(0, 3, false);
        step();
    }
    check(!number_is_hot(3), "writes do not make one hot");
    end();
}

static void check_cooling(void)
{
    unsigned steps = 0;

    begin(2);
    for (unsigned i = 0; i < 30; i++) {
        read_times(0, 1, 5000);
        step();
    }
    check(number_is_hot(1), "what is read half a million times a second is hot in less than a third of one");
    read_for(2 * STEPS, 1, 5000);
    while (number_is_hot(1) && steps++ < 10 * STEPS)
        step();
    check(steps <= 2 * STEPS, "when nothing comes any more, it has cooled in two seconds (%u0 ms)", steps);
    read_for(2 * STEPS, 1, 100);
    check(number_is_hot(1), "it may become hot again");
    steps = 0;
    while (number_is_hot(1) && steps++ < 10 * STEPS) {
        read_times(0, 2, 3);
        step();
    }
    check(steps <= 130, "when others are asked for, it cools in 1.3 s (%u0 ms)", steps);
    idle(1000 * STEPS);
    ask(0, 5, true);
    idle(2 * STEPS);
    check(!number_is_hot(5), "a long time without anything is no slice");
    end();
}

static void check_many_hot(void)
{
    unsigned hot = 0;

    begin(4);
    for (unsigned i = 0; i < STEPS + 50; i++) {
        for (uint32_t n = 0; n < 400; n++)
            read_times(n / 100, n, 20);
        step();
    }
    for (uint32_t n = 0; n < 400; n++)
        hot += number_is_hot(n);
    check(hot == HOTKEYS_HOT_MAX, "of 400 hot keys %u are in the set", hot);
    idle(3 * STEPS);
    hot = 0;
    for (uint32_t n = 0; n < 400; n++)
        hot += number_is_hot(n);
    check(hot == 0, "and all cool");
    end();
}

/* --- streams --- */

static double zipf[KEYS]; /* the share of the keys up to each */

static void make_zipf(void)
{
    double sum = 0;

    for (unsigned i = 0; i < KEYS; i++)
        sum += 1.0 / (i + 1);
    for (unsigned i = 0; i < KEYS; i++)
        zipf[i] = (i > 0 ? zipf[i - 1] : 0) + 1.0 / (i + 1) / sum;
}

static uint32_t draw_zipf(void)
{
    double x = draw();
    uint32_t low = 0, high = KEYS - 1;

    while (low < high) {
        uint32_t middle = (low + high) / 2;

        if (zipf[middle] < x)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Adds what is told of the ten first keys. How many of them are told of. */
static unsigned add_rates(double rates[TOP])
{
    struct hotkey top[2 * TOP];
    uint32_t n = hotkeys_top(pool, top, 2 * TOP);
    unsigned found = 0;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t place = number_of(&top[i]);

        if (place < TOP) {
            rates[place] += (double)top[i].rate;
            found++;
        }
    }
    return found;
}

/* `rate` keys a second are asked for, as zipf has it: the number of a key is its place. */
static void check_zipf(unsigned n, unsigned rate)
{
    enum { SECONDS = 5 };
    double rates[TOP] = {0}, bias = 0, samples;
    unsigned found = 0, close = 0;
    struct hotkey top;

    begin(n);
    for (unsigned i = 1; i <= (SECONDS + 1) * STEPS; i++) {
        for (unsigned j = 0; j < rate / STEPS; j++)
            ask(j % n, draw_zipf(), true);
        step();
        /* The first second is for finding them. */
        if (i == STEPS)
            num_sampled = 0;
        else if (i % STEPS == 0)
            found += add_rates(rates);
    }
    samples = (double)num_sampled / SECONDS / n;
    check(samples < 1.05 * HOTKEYS_SAMPLES * HOTKEYS_SLICES, "%u workers, %u keys a second: each samples %.0f", n, rate,
          samples);
    for (unsigned i = 0; i < TOP; i++) {
        double share = zipf[i] - (i > 0 ? zipf[i - 1] : 0), truth = share * rate * SECONDS;
        double off = (rates[i] - truth) / truth;

        /* 3%, and three times the deviation of as many samples as the key has, squared. */
        close += off * off < 0.03 * 0.03 + 9 / (share * samples * n * SECONDS);
        bias += off / TOP;
    }
    check(found == TOP * SECONDS, "the first ten are told among twenty, each second");
    check(close == TOP, "with their rates, within 3%% and what sampling makes of it");
    check(bias > -0.04 && bias < 0.04, "and without a bias (%.1f%%)", 100 * bias);
    check(hotkeys_top(pool, &top, 1) == 1 && top.pool_rate > 0.97 * rate && top.pool_rate < 1.03 * rate,
          "the pool's rate is right");
    check(number_is_hot(0) == (zipf[0] * rate > RATE_MIN) && !number_is_hot(KEYS / 2), "what is over the rate is hot");
    end();
}

/* A client that asks for the same keys in the same order all the time. */
static void check_pattern(void)
{
    enum { PATTERN = 50 };
    struct hotkey top[2 * PATTERN];
    uint32_t n;
    uint64_t least = UINT64_MAX;

    begin(1);
    for (unsigned i = 0; i < 3 * STEPS; i++) {
        for (unsigned j = 0; j < 40; j++)
            for (uint32_t k = 0; k < PATTERN; k++)
                ask(0, k, true);
        step();
    }
    n = hotkeys_top(pool, top, 2 * PATTERN);
    for (uint32_t i = 0; i < n; i++)
        least = top[i].rate < least ? top[i].rate : least;
    check(n == PATTERN && least > 2400 && top[0].rate < 5600, "of keys in a pattern all are seen (%u, %u to %u)", n,
          (unsigned)least, (unsigned)top[0].rate);
    end();
}

/* Keys that are never asked for again, and one of thirty that is the same. */
static void check_flood(void)
{
    struct hotkey top[1];
    uint32_t number = 1;

    begin(1);
    for (unsigned i = 0; i < 3 * STEPS; i++) {
        for (unsigned j = 0; j < 1500; j++)
            ask(0, j % 30 == 7 ? 0 : number++, true);
        step();
    }
    check(hotkeys_top(pool, top, 1) == 1 && number_of(&top[0]) == 0, "a flood of others does not hide a key");
    check(top[0].rate > 3800 && top[0].rate < 6200, "its rate is about right (%u, not 5000)", (unsigned)top[0].rate);
    check(number_is_hot(0), "and it is hot");
    end();
}

static void check_burst(void)
{
    begin(1);
    idle(3 * STEPS);
    num_sampled = 0;
    read_times(0, 1, 1000000);
    check(num_sampled < 15 * HOTKEYS_SAMPLES, "of a million in no time %u are sampled", (unsigned)num_sampled);
    end();
}

/* --- several threads, memory --- */

static bool stop;

static void *look(void *arg)
{
    struct hotkey top[TOP];
    uint64_t told = 0;

    (void)arg;
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
        told += hotkeys_top(pool, top, TOP) + number_is_hot(0);
    return (void *)(uintptr_t)(told > 0);
}

/* For the sanitizers, more than for what it says. */
static void check_threads(void)
{
    pthread_t thread;
    void *told;

    begin(2);
    if (pthread_create(&thread, NULL, look, NULL) != 0)
        abort();
    for (unsigned i = 0; i < 10 * STEPS; i++) {
        for (unsigned j = 0; j < 200; j++)
            ask(j % 2, draw_zipf(), true);
        step();
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    pthread_join(thread, &told);
    check(told != NULL, "another thread may look meanwhile");
    end();
}

static void check_memory(void)
{
    struct hotkeys_worker w = {0};

    allocations_left = 0;
    check(hotkeys_create(SERVERS, RATE_MIN, 1) == NULL, "without memory there is none");
    begin(1);
    for (int i = 0; i < 2; i++) {
        allocations_left = i;
        check(!hotkeys_join(pool, &w, now_us) && w.sketch == NULL, "without memory for allocation %d nobody joins", i);
    }
    allocations_left = -1;
    check(hotkeys_join(pool, &w, now_us), "with memory they do");
    hotkeys_leave(&w);
    check(w.sketch == NULL && w.countdown == 0, "and leave");
    end();
}

int main(void)
{
    make_zipf();
    check_off();
    check_few();
    check_hot();
    check_cooling();
    check_many_hot();
    check_zipf(1, 2000);
    check_zipf(1, 100000);
    check_zipf(4, 400000);
    check_pattern();
    check_flood();
    check_burst();
    check_threads();
    check_memory();
    return tap_end();
}
