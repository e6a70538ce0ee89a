/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * crawler - background work on the cache: see crawler.h.
 *
 * Every second it looks at SECOND_ITEMS items, some milliseconds of work; in a crawl that was asked for, at STEP_ITEMS
 * every STEP_US. When crawling is switched off, a second's work is still the clock, and memory over the limit.
 */
#include "crawler.h"

#include <stdatomic.h>

#include "work.h"

enum {
    SECOND_ITEMS = 100000,
    STEP_ITEMS = 20000,
    STEP_US = 1000,
};

static struct {
    struct cache *cache;
    struct work_queue work;
    bool has_work_queue;
    struct event second;
    struct event step;
    int ends; /* of the table, that a crawl has to come to yet: the second one ends a whole pass */
    atomic_bool enabled;
    atomic_bool running;
    atomic_ullong starts;
} crawler;

static void begin_step(void)
{
    const struct timeval after = {.tv_usec = STEP_US};

    (void)event_add(&crawler.step, &after);
}

static void on_step(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    (void)arg;
    if (cache_crawl(crawler.cache, STEP_ITEMS) && --crawler.ends == 0)
        atomic_store(&crawler.running, false);
    else
        begin_step();
}

static void on_second(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    (void)arg;
    cache_set_clock(crawler.cache, util_unix_seconds(util_now_us()));
    if (!atomic_load(&crawler.running) && !atomic_load(&crawler.enabled))
        (void)cache_crawl(crawler.cache, 0);
    else if (!atomic_load(&crawler.running) && cache_crawl(crawler.cache, SECOND_ITEMS))
        atomic_fetch_add(&crawler.starts, 1);
    /* In case that the event loop has refused a step. */
    if (atomic_load(&crawler.running))
        begin_step();
}

static void begin_crawl(void *arg)
{
    (void)arg;
    crawler.ends = 2;
    atomic_fetch_add(&crawler.starts, 1);
    begin_step();
}

bool crawler_start(struct event_base *base, struct cache *cache)
{
    const struct timeval second = {.tv_sec = 1};

    crawler.cache = cache;
    atomic_store(&crawler.enabled, true);
    cache_set_clock(cache, util_unix_seconds(util_now_us()));
    crawler.has_work_queue = work_queue_setup(&crawler.work, base);
    return crawler.has_work_queue && event_assign(&crawler.second, base, -1, EV_PERSIST, on_second, NULL) == 0 &&
           evtimer_assign(&crawler.step, base, on_step, NULL) == 0 && event_add(&crawler.second, &second) == 0;
}

void crawler_stop(void)
{
    if (!crawler.has_work_queue)
        return;
    event_del(&crawler.second);
    event_del(&crawler.step);
    work_queue_close(&crawler.work);
    work_queue_teardown(&crawler.work);
    crawler.has_work_queue = false;
}

void crawler_set(bool on)
{
    atomic_store(&crawler.enabled, on);
}

void crawler_crawl(void)
{
    if (atomic_exchange(&crawler.running, true))
        return;
    if (!work_send(&crawler.work, begin_crawl, NULL))
        atomic_store(&crawler.running, false);
}

struct crawler_stats crawler_stats(void)
{
    return (struct crawler_stats){
        .enabled = atomic_load(&crawler.enabled),
        .running = atomic_load(&crawler.running),
        .starts = atomic_load(&crawler.starts),
    };
}
