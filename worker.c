/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * worker - a thread that serves clients: see worker.h, and loop.h for what a turn of its loop is.
 *
 * Turn pacing: under load a loop that polls at once wakes for each request, sends it on alone and wakes a server for
 * it. A pause of some microseconds before the poll gathers what arrives meanwhile, as interrupt coalescing does in a
 * network card, and every system call and wake-up that follows is shared by more requests. With few clients, who each
 * wait for their reply before they ask again, nothing would arrive meanwhile. So it depends on the load (loop_load):
 * how many clients have asked within the last millisecond, which tells these cases apart. Requests in flight do not:
 * when the loop looks at them, most of a busy moxi's have just been answered; but so many that only pipelines can bring
 * them about are a load as well. The more there is, the longer the pause may be before anyone is the later for it; most
 * behind servers that owe hundreds of replies, who are busy meanwhile. What is answered from the cache inside, or the
 * near cache, wakes no server: there is no pause while none is asked.
 */
#include "worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

enum {
    TICK_SECONDS = 1,
    QUIET_MS = 2,          /* after which without a request to a server there is no pause */
    PACE_TIMES_BUSY = 4,   /* a pause is this many times pace_us, when the load is twice pace_min */
    PACE_TIMES_MAX = 64,   /* or up to so many times, */
    PACE_BACKLOG = 5,      /* once for so many commands of a backlog */
    PACE_BACKLOG_MIN = 40, /* beyond what many clients that ask for one thing each may bring about, */
    PACE_SHARE = 6,        /* but then no longer than one in so many parts of what replies take anyway */
    KEYS_KEEP = 16 * 1024, /* a list of keys that has grown larger is given back */
};

struct worker {
    pthread_t thread;
    bool started;
    struct loop loop;
    bool has_work_queue;
    struct event tick;        /* gives memory back */
    struct event drain_timer; /* patience has run out */
    uint32_t drain_ms;        /* set before drain_work is sent */
    bool draining;
    bool out_of_patience;
    struct config *config;     /* one reference */
    struct pool_state **pools; /* one a pool of config */
};

/* --- the thread --- */

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct worker *w = arg;

    (void)fd;
    (void)what;
    loop_enter(&w->loop);
    for (uint32_t i = 0; i < w->config->num_pools; i++) {
        clients_tick(w->pools[i]);
        hotkeys_tick(&w->pools[i]->hotkeys, w->loop.now_us);
    }
    bufpool_trim(&w->loop.bufs);
    request_pool_trim(&w->loop.requests);
    if (w->loop.keys.size > KEYS_KEEP) {
        free(w->loop.keys.v);
        memset(&w->loop.keys, 0, sizeof(w->loop.keys));
    }
}

static void on_drain_timer(evutil_socket_t fd, short what, void *arg)
{
    struct worker *w = arg;

    (void)fd;
    (void)what;
    w->out_of_patience = true;
}

/* For how many us a worker pauses that has this load. */
static uint64_t pause_us(const struct worker *w, uint32_t load)
{
    const struct settings *s = &w->config->pools[0].settings;
    uint32_t busy = 2 * s->pace_min;
    uint32_t times = load >= busy ? PACE_TIMES_BUSY : PACE_TIMES_BUSY * load / busy;
    uint32_t backlog = w->loop.backlog > PACE_BACKLOG_MIN ? w->loop.backlog - PACE_BACKLOG_MIN : 0;
    uint32_t deep = backlog / PACE_BACKLOG;
    uint64_t usual = (uint64_t)s->pace_us * times;
    uint64_t longer = (uint64_t)s->pace_us * (deep < PACE_TIMES_MAX ? deep : PACE_TIMES_MAX);
    uint64_t bound = w->loop.waited_us / PACE_SHARE;

    if (longer > bound)
        longer = bound;
    return longer > usual ? longer : usual;
}

/* Pauses, if the load is one that does not mind. Returns whether it did. */
static bool pace(const struct worker *w)
{
    const struct settings *s = &w->config->pools[0].settings;
    uint32_t load = loop_load(&w->loop);
    struct timespec pause = {0};

    if (s->pace_us == 0 || load < s->pace_min || w->loop.active_ms - w->loop.asked_ms > QUIET_MS)
        return false;
    pause.tv_nsec = (long)pause_us(w, load) * 1000;
    nanosleep(&pause, NULL);
    return true;
}

static bool has_ended(const struct worker *w)
{
    if (!w->draining)
        return false;
    if (w->out_of_patience)
        return true;
    for (uint32_t i = 0; i < w->config->num_pools; i++)
        if (!pool_state_idle(w->pools[i]))
            return false;
    return true;
}

static void *run(void *arg)
{
    struct worker *w = arg;
    struct loop *loop = &w->loop;

    /* Lets a pause of 10 us be one of 10 us, and not of 60. */
    (void)prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    while (!has_ended(w)) {
        bool left = loop_has_marks(loop);

        loop->paces = !left && pace(w);
        loop->now_is_fresh = false;
        event_base_loop(loop->base, left || loop_holds(loop) ? EVLOOP_ONCE | EVLOOP_NONBLOCK : EVLOOP_ONCE);
        loop_enter(loop);
        loop_run_marks(loop);
    }
    return NULL;
}

/* --- what others ask of it --- */

struct new_client {
    struct pool_state *ps;
    int fd;
};

static void add_client_work(void *arg)
{
    struct new_client *n = arg;

    loop_enter(n->ps->loop);
    if (!client_create(n->ps, n->fd)) {
        log_warning("a client was closed at once: out of memory");
        n->ps->hooks->client_closed();
    }
    free(n);
}

bool worker_add_client(struct worker *w, uint32_t pool, int fd)
{
    struct new_client *n = malloc(sizeof(*n));

    if (n == NULL)
        return false;
    n->ps = w->pools[pool];
    n->fd = fd;
    if (work_send(&w->loop.work, add_client_work, n))
        return true;
    free(n);
    return false;
}

static void drain_work(void *arg)
{
    struct worker *w = arg;
    struct timeval patience = {.tv_sec = w->drain_ms / 1000, .tv_usec = (suseconds_t)(w->drain_ms % 1000) * 1000};

    w->draining = true;
    if (event_add(&w->drain_timer, &patience) != 0)
        w->out_of_patience = true;
    for (uint32_t i = 0; i < w->config->num_pools; i++)
        clients_drain(w->pools[i]);
}

void worker_drain(struct worker *w, uint32_t patience_ms)
{
    w->drain_ms = patience_ms;
    /* Sent until it is taken: there is no other way to end the thread. */
    while (w->started && !work_send(&w->loop.work, drain_work, w))
        usleep(1000);
}

struct pool_state *worker_pool(const struct worker *w, uint32_t pool)
{
    return w->pools[pool];
}

/* --- life --- */

static bool set_up(struct worker *w, const struct cproxy_hooks *hooks, const struct cproxy_serving *serving,
                   struct cache *cache, const struct cproxy_shared *shared)
{
    struct timeval tick = {.tv_sec = TICK_SECONDS};
    struct loop *loop = &w->loop;

    loop->base = event_base_new();
    if (loop->base == NULL)
        return false;
    w->has_work_queue = work_queue_setup(&loop->work, loop->base);
    if (!w->has_work_queue)
        return false;
    downstream_setup_loop(loop);
    client_setup_loop(loop);
    if (event_assign(&w->tick, loop->base, -1, EV_PERSIST, on_tick, w) != 0 || event_add(&w->tick, &tick) != 0 ||
        evtimer_assign(&w->drain_timer, loop->base, on_drain_timer, w) != 0)
        return false;
    w->pools = calloc(w->config->num_pools, sizeof(struct pool_state *));
    if (w->pools == NULL)
        return false;
    for (uint32_t i = 0; i < w->config->num_pools; i++) {
        w->pools[i] = pool_state_create(loop, &w->config->pools[i], hooks, serving, cache, &shared[i]);
        if (w->pools[i] == NULL)
            return false;
    }
    return true;
}

struct worker *worker_create(struct config *config, const struct cproxy_hooks *hooks,
                             const struct cproxy_serving *serving, struct cache *cache,
                             const struct cproxy_shared *shared)
{
    struct worker *w = calloc(1, sizeof(*w));

    if (w == NULL)
        return NULL;
    w->config = config_ref(config);
    bufpool_setup(&w->loop.bufs);
    request_pool_setup(&w->loop.requests);
    if (!set_up(w, hooks, serving, cache, shared)) {
        int error = errno;

        worker_destroy(w);
        errno = error;
        return NULL;
    }
    return w;
}

bool worker_start(struct worker *w)
{
    int error = pthread_create(&w->thread, NULL, run, w);

    w->started = error == 0;
    errno = error;
    return w->started;
}

void worker_join(struct worker *w)
{
    if (w->started)
        pthread_join(w->thread, NULL);
    w->started = false;
}

void worker_destroy(struct worker *w)
{
    struct loop *loop = &w->loop;

    /* What was sent and not taken runs now: a client that was on its way is closed with the others. */
    if (w->has_work_queue)
        work_queue_close(&loop->work);
    for (uint32_t i = 0; w->pools != NULL && i < w->config->num_pools; i++)
        if (w->pools[i] != NULL)
            pool_state_destroy(w->pools[i]);
    free(w->pools);
    if (loop->base != NULL) {
        if (event_initialized(&w->tick))
            event_del(&w->tick);
        if (event_initialized(&w->drain_timer))
            event_del(&w->drain_timer);
        event_base_free(loop->base);
    }
    if (w->has_work_queue)
        work_queue_teardown(&loop->work);
    if (loop->read_chunk != NULL)
        chunk_unref(loop->read_chunk);
    free(loop->keys.v);
    bufpool_teardown(&loop->bufs);
    request_pool_teardown(&loop->requests);
    config_unref(w->config);
    free(w);
}
