/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_stats - `stats proxy …`: see cproxy_stats.h.
 *
 * The counters of all workers are read as they are being written, without a lock: each is right, and they may be a
 * moment apart. A reset does not touch them either: it remembers what they were, and that is subtracted from then on.
 */
#include "cproxy_stats.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "listener.h"
#include "log.h"

enum {
    NUM_COUNTERS = sizeof(struct counters) / sizeof(uint64_t),
    HOTKEYS_TOLD = 20,          /* keys of a pool in `stats proxy hotkeys` */
    KEY_TEXT_MAX = 3 * KEY_MAX, /* bytes of a key as it stands in a line */
};

_Static_assert(sizeof(struct counters) % sizeof(uint64_t) == 0, "counters are read as an array of uint64_t");

/* What a pool's counters and timings were at the last reset. */
struct baseline {
    struct counters counters;
    struct timings timings;
};

static struct {
    const struct options *options;
    const struct config *config;
    struct worker **workers;
    uint32_t num_workers;
    uint64_t start_us;
    pthread_mutex_t mutex;      /* guards baselines */
    struct baseline *baselines; /* one a pool */
} stats = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* Where lines go, and whether memory ran out on the way. */
struct writer {
    struct spanq *out;
    struct bufpool *bufs;
    bool ok;
};

static void line(struct writer *w, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* "STAT " and what is said; a value that is longer than a line can be is cut. */
static void line(struct writer *w, const char *fmt, ...)
{
    char text[4096];
    va_list args;
    int n;

    va_start(args, fmt);
    n = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof(text))
        n = sizeof(text) - 1;
    w->ok = w->ok && spanq_copy(w->out, w->bufs, "STAT ", 5) && spanq_copy(w->out, w->bufs, text, (size_t)n) &&
            spanq_copy(w->out, w->bufs, "\r\n", 2);
}

/* --- gathering --- */

static void gather_counters(uint32_t pool, struct counters *sum)
{
    uint64_t *to = (uint64_t *)sum;

    memset(sum, 0, sizeof(*sum));
    for (uint32_t i = 0; i < stats.num_workers; i++) {
        const uint64_t *from = (const uint64_t *)&worker_pool(stats.workers[i], pool)->counters;

        for (size_t n = 0; n < NUM_COUNTERS; n++)
            to[n] += counter_get(&from[n]);
    }
}

static void gather_timings(uint32_t pool, struct timings *sum)
{
    memset(sum, 0, sizeof(*sum));
    for (uint32_t i = 0; i < stats.num_workers; i++) {
        const struct timings *from = worker_pool(stats.workers[i], pool)->timings;

        for (int op = 0; from != NULL && op < OP_COUNT; op++)
            htgram_merge(&sum->ops[op], &from->ops[op]);
    }
}

/* Where the gauges are in a struct counters: they are not counted from a reset on. */
static bool is_gauge(size_t n)
{
    enum { TOTAL, GAUGE };

#define X(kind, name, help)                                      \
    if (n == offsetof(struct counters, name) / sizeof(uint64_t)) \
        return kind == GAUGE;
    COUNTERS(X)
#undef X
    return false;
}

static void subtract_baseline(uint32_t pool, struct counters *sum)
{
    uint64_t *to = (uint64_t *)sum;
    const uint64_t *base = (const uint64_t *)&stats.baselines[pool].counters;

    for (size_t n = 0; n < NUM_COUNTERS; n++)
        if (!is_gauge(n))
            to[n] -= base[n];
}

static void subtract_htgram(struct htgram *h, const struct htgram *base)
{
    for (unsigned i = 0; i < HTGRAM_BUCKETS; i++)
        h->counts[i] -= base->counts[i];
    h->total -= base->total;
    h->sum -= base->sum;
}

static void reset_keystats(uint32_t pool)
{
    for (uint32_t i = 0; i < stats.num_workers; i++) {
        struct keystats *k = worker_pool(stats.workers[i], pool)->keystats;

        if (k != NULL)
            keystats_reset(k);
    }
}

static void reset(void)
{
    for (uint32_t i = 0; i < stats.config->num_pools; i++) {
        struct baseline *b = &stats.baselines[i];

        pthread_mutex_lock(&stats.mutex);
        gather_counters(i, &b->counters);
        gather_timings(i, &b->timings);
        pthread_mutex_unlock(&stats.mutex);
        reset_keystats(i);
    }
}

/* --- what is told --- */

static void tell_basic(struct writer *w)
{
    line(w, "basic:version %s", moxi_version());
    line(w, "basic:nthreads %u", stats.num_workers);
}

static void tell_main_info(struct writer *w)
{
    char host[256] = "";

    if (gethostname(host, sizeof(host) - 1) != 0)
        host[0] = '\0';
    line(w, "proxy_main:conf_type static");
    line(w, "proxy_main:nthreads %u", stats.num_workers);
    line(w, "proxy_main:hostname %s", host);
    line(w, "proxy_main:pid %d", (int)getpid());
    line(w, "proxy_main:uptime %llu", (unsigned long long)((util_now_us() - stats.start_us) / 1000000));
}

static void tell_info(struct writer *w, const struct pool *pool)
{
    const char *name = pool->name;

    line(w, "%u:%s:info:port %u", pool->port, name, pool->port);
    line(w, "%u:%s:info:name %s", pool->port, name, name);
    line(w, "%u:%s:info:config %s", pool->port, name, pool->text);
    line(w, "%u:%s:info:servers %u", pool->port, name, pool->num_servers);
}

static void tell_settings(struct writer *w)
{
    const struct options *o = stats.options;

    line(w, "proxy_main:setting:conn_limit %u", o->conn_limit);
    line(w, "proxy_main:setting:backlog %u", o->backlog);
    line(w, "proxy_main:setting:threads %u", o->threads);
    line(w, "proxy_main:setting:reqs_per_event %u", o->reqs_per_event);
    line(w, "proxy_main:setting:unix_socket %s", o->unix_socket != NULL ? o->unix_socket : "");
    line(w, "proxy_main:setting:log_file %s", o->log_file != NULL ? o->log_file : "");
    line(w, "proxy_main:setting:verbosity %d", log_level() - LOG_WARNING);
}

static void tell_behaviors(struct writer *w, const struct pool *pool)
{
    char value[SETTING_TEXT_MAX + 1];

    for (const struct setting *row = settings_table; row->name != NULL; row++)
        line(w, "%u:%s:behavior:%s %s", pool->port, pool->name, row->name,
             setting_format(row, &pool->settings, value, sizeof(value)));
}

static void tell_main_stats(struct writer *w)
{
    struct listener_stats s = listener_stats();

    line(w, "proxy_main:curr_connections %u", s.curr_connections);
    line(w, "proxy_main:max_connections %u", s.max_connections);
    line(w, "proxy_main:total_connections %llu", (unsigned long long)s.total_connections);
    line(w, "proxy_main:listen_disabled_num %llu", (unsigned long long)s.listen_disabled_num);
    line(w, "proxy_main:accepting_conns %u", s.accepting);
}

static void tell_command(struct writer *w, const char *prefix, const char *kind, enum opcode op,
                         const struct command_counters *c)
{
    const char *name = op_table[op].name;

#define FIELD(f) line(w, "%s:pstd_stats_cmd:%s_%s:" #f " %llu", prefix, kind, name, (unsigned long long)c->f)
    FIELD(seen);
    FIELD(hits);
    FIELD(misses);
    FIELD(read_bytes);
    FIELD(write_bytes);
    FIELD(cas);
#undef FIELD
}

/* noreply, the quiet form, is for what changes something; a meta command's q is for all that have a key but me. */
static bool has_quiet_form(enum opcode op)
{
    unsigned flags = op_flags(op);

    if (op_is_meta(op))
        return (flags & OPF_KEY) && op != OP_META_DEBUG;
    return (flags & OPF_KEY) ? !(flags & OPF_VALUES) : op == OP_FLUSH_ALL || op == OP_VERBOSITY;
}

static void tell_stats(struct writer *w, uint32_t pool)
{
    const struct pool *p = &stats.config->pools[pool];
    struct counters c;
    char prefix[64];

    snprintf(prefix, sizeof(prefix), "%u:%s", p->port, p->name);
    /* Gathered under the mutex too: what is subtracted must be older. */
    pthread_mutex_lock(&stats.mutex);
    gather_counters(pool, &c);
    subtract_baseline(pool, &c);
    pthread_mutex_unlock(&stats.mutex);
#define X(kind, name, help) line(w, "%s:pstd_stats:" #name " %llu", prefix, (unsigned long long)c.name);
    COUNTERS(X)
#undef X
    for (int op = 0; op < OP_COUNT; op++) {
        tell_command(w, prefix, "regular", (enum opcode)op, &c.regular[op]);
        if (has_quiet_form((enum opcode)op))
            tell_command(w, prefix, "quiet", (enum opcode)op, &c.quiet[op]);
    }
}

static void tell_frontcache(struct writer *w, uint32_t pool)
{
    const struct pool *p = &stats.config->pools[pool];
    struct front *front = worker_pool(stats.workers[0], pool)->shared->front;
    struct front_sums sums = {0};
    struct counters c;
    char prefix[64];

    snprintf(prefix, sizeof(prefix), "%u:%s:frontcache", p->port, p->name);
    if (front != NULL)
        sums = front_sums(front);
    line(w, "%s:is_on %d", prefix, front != NULL);
    line(w, "%s:max %u", prefix, p->settings.front_cache_max);
    line(w, "%s:max_bytes %llu", prefix, (unsigned long long)p->settings.front_cache_bytes);
    line(w, "%s:curr_items %llu", prefix, (unsigned long long)sums.items);
    line(w, "%s:curr_bytes %llu", prefix, (unsigned long long)sums.bytes);
    line(w, "%s:evicted_for_bytes %llu", prefix, (unsigned long long)sums.evicted);
    pthread_mutex_lock(&stats.mutex);
    gather_counters(pool, &c);
    subtract_baseline(pool, &c);
    pthread_mutex_unlock(&stats.mutex);
#define X(name, help) line(w, "%s:" #name " %llu", prefix, (unsigned long long)c.front.name);
    FRONT_COUNTERS(X)
#undef X
}

static void tell_htgram(struct writer *w, const char *prefix, const struct htgram *h)
{
    line(w, "%s:count %llu", prefix, (unsigned long long)h->total);
    line(w, "%s:mean_us %llu", prefix, (unsigned long long)(h->sum / h->total));
    line(w, "%s:p50_us %llu", prefix, (unsigned long long)htgram_quantile(h, 500));
    line(w, "%s:p90_us %llu", prefix, (unsigned long long)htgram_quantile(h, 900));
    line(w, "%s:p99_us %llu", prefix, (unsigned long long)htgram_quantile(h, 990));
    line(w, "%s:p999_us %llu", prefix, (unsigned long long)htgram_quantile(h, 999));
    line(w, "%s:max_us %llu", prefix, (unsigned long long)htgram_quantile(h, 1000));
}

static void tell_timings(struct writer *w, uint32_t pool)
{
    const struct pool *p = &stats.config->pools[pool];
    struct timings *sum;
    char prefix[96];

    if (!p->settings.time_stats)
        return;
    sum = malloc(sizeof(*sum));
    if (sum == NULL) {
        w->ok = false;
        return;
    }
    pthread_mutex_lock(&stats.mutex);
    gather_timings(pool, sum);
    for (int op = 0; op < OP_COUNT; op++)
        subtract_htgram(&sum->ops[op], &stats.baselines[pool].timings.ops[op]);
    pthread_mutex_unlock(&stats.mutex);
    for (int op = 0; op < OP_COUNT; op++) {
        if (sum->ops[op].total == 0)
            continue;
        snprintf(prefix, sizeof(prefix), "%u:%s:timings:%s", p->port, p->name, op_table[op].name);
        tell_htgram(w, prefix, &sum->ops[op]);
    }
    free(sum);
}

/*
 * A key as it stands in a line, NUL-terminated: what is not part of a word, blanks and control characters, as % and two
 * digits, and so a % itself.
 */
static const char *escape_key(const uint8_t *key, size_t len, char text[KEY_TEXT_MAX + 1])
{
    static const char digits[] = "0123456789ABCDEF";
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        if (key[i] <= ' ' || key[i] == 0x7f || key[i] == '%') {
            text[n++] = '%';
            text[n++] = digits[key[i] >> 4];
            text[n++] = digits[key[i] & 15];
        } else {
            text[n++] = (char)key[i];
        }
    }
    text[n] = '\0';
    return text;
}

/* Where lines about keys go, and what they begin with. */
struct key_writer {
    struct writer *w;
    char prefix[64];
};

static void tell_key(void *arg, const struct keystats_told *told)
{
    const struct key_writer *kw = arg;
    char key[KEY_TEXT_MAX + 1];

    escape_key(told->key, told->len, key);
    line(kw->w, "%s:%s:age_ms %llu", kw->prefix, key, (unsigned long long)(told->age_us / 1000));
#define X(name) line(kw->w, "%s:%s:" #name " %llu", kw->prefix, key, (unsigned long long)told->counts->name);
    KEYSTATS(X)
#undef X
}

static void tell_keystats(struct writer *w, uint32_t pool, uint64_t now_us)
{
    const struct pool *p = &stats.config->pools[pool];
    struct key_writer kw = {.w = w};
    struct keystats **tables;

    if (worker_pool(stats.workers[0], pool)->keystats == NULL)
        return;
    tables = calloc(stats.num_workers, sizeof(struct keystats *));
    for (uint32_t i = 0; tables != NULL && i < stats.num_workers; i++)
        tables[i] = worker_pool(stats.workers[i], pool)->keystats;
    snprintf(kw.prefix, sizeof(kw.prefix), "%u:%s:keystats", p->port, p->name);
    w->ok = w->ok && tables != NULL && keystats_tell(tables, stats.num_workers, now_us, tell_key, &kw);
    free(tables);
}

static void tell_hotkey(struct writer *w, const char *prefix, const struct pool *p, const struct hotkey *k)
{
    char key[KEY_TEXT_MAX + 1];

    line(w, "%s:key %s", prefix, escape_key(k->key, k->len, key));
    line(w, "%s:hot %d", prefix, k->hot);
    line(w, "%s:rate %llu", prefix, (unsigned long long)k->rate);
    line(w, "%s:read_rate %llu", prefix, (unsigned long long)k->read_rate);
    line(w, "%s:bytes %llu", prefix, (unsigned long long)k->byte_rate);
    line(w, "%s:share_pool %.1f", prefix, 100.0 * (double)k->rate / (double)k->pool_rate);
    line(w, "%s:share_server %.1f", prefix, 100.0 * (double)k->rate / (double)k->server_rate);
    line(w, "%s:server %s", prefix, p->servers[k->server].name);
}

static void tell_hotkeys(struct writer *w, uint32_t pool)
{
    const struct pool *p = &stats.config->pools[pool];
    struct hotkeys *hotkeys = worker_pool(stats.workers[0], pool)->shared->hotkeys;
    struct hotkey top[HOTKEYS_TOLD];
    uint32_t n = hotkeys != NULL ? hotkeys_top(hotkeys, top, HOTKEYS_TOLD) : 0;
    char prefix[64];

    for (uint32_t i = 0; i < n; i++) {
        snprintf(prefix, sizeof(prefix), "%u:%s:hotkeys:%u", p->port, p->name, i + 1);
        tell_hotkey(w, prefix, p, &top[i]);
    }
}

/* What a server has told of its version, to whichever worker. */
static bool find_version(uint32_t pool, uint32_t server, char version[DOWNSTREAM_VERSION_MAX + 1])
{
    for (uint32_t i = 0; i < stats.num_workers; i++) {
        const struct downstream *d = worker_pool(stats.workers[i], pool)->downstreams[server];

        if (d != NULL && downstream_version(d, version))
            return true;
    }
    return false;
}

static void tell_config(struct writer *w, uint32_t pool)
{
    const struct pool *p = &stats.config->pools[pool];
    char version[DOWNSTREAM_VERSION_MAX + 1];

    line(w, "%u:%s:config %s", p->port, p->name, p->text);
    for (uint32_t i = 0; i < p->num_servers; i++) {
        line(w, "%u:%s:server:%u %s weight %u", p->port, p->name, i, p->servers[i].name, p->servers[i].weight);
        if (find_version(pool, i, version))
            line(w, "%u:%s:server:%u:version %s", p->port, p->name, i, version);
    }
}

/* --- the command --- */

enum {
    TELL_INFO = 1 << 0,
    TELL_SETTINGS = 1 << 1,
    TELL_BEHAVIORS = 1 << 2,
    TELL_STATS = 1 << 3,
    TELL_TIMINGS = 1 << 4,
    TELL_CONFIG = 1 << 5,
    TELL_FRONTCACHE = 1 << 6,
    TELL_ALL = TELL_INFO | TELL_SETTINGS | TELL_BEHAVIORS | TELL_FRONTCACHE | TELL_STATS | TELL_TIMINGS | TELL_CONFIG,
    TELL_RESET = 1 << 7,
    TELL_KEYSTATS = 1 << 8,
    TELL_HOTKEYS = 1 << 9,
};

static const struct {
    const char *word;
    unsigned what;
} subcommands[] = {
    {"", TELL_ALL},
    {"all", TELL_ALL},
    {"info", TELL_INFO},
    {"settings", TELL_SETTINGS},
    {"behaviors", TELL_BEHAVIORS},
    {"frontcache", TELL_FRONTCACHE},
    {"stats", TELL_STATS},
    {"timings", TELL_TIMINGS},
    {"keystats", TELL_KEYSTATS},
    {"hotkeys", TELL_HOTKEYS},
    {"config", TELL_CONFIG},
    {"reset", TELL_RESET},
};

static unsigned what_of(const uint8_t *arg, size_t len)
{
    while (len > 0 && arg[0] == ' ') {
        arg++;
        len--;
    }
    while (len > 0 && arg[len - 1] == ' ')
        len--;
    for (size_t i = 0; i < ARRAY_LEN(subcommands); i++)
        if (strlen(subcommands[i].word) == len && memcmp(subcommands[i].word, arg, len) == 0)
            return subcommands[i].what;
    return 0;
}

static void tell(struct writer *w, unsigned what, uint64_t now_us)
{
    if (what & TELL_INFO) {
        tell_basic(w);
        tell_main_info(w);
    }
    if (what & TELL_SETTINGS)
        tell_settings(w);
    if (what & TELL_STATS)
        tell_main_stats(w);
    for (uint32_t i = 0; i < stats.config->num_pools; i++) {
        const struct pool *pool = &stats.config->pools[i];

        if (what & TELL_INFO)
            tell_info(w, pool);
        if (what & TELL_CONFIG)
            tell_config(w, i);
        if (what & TELL_BEHAVIORS)
            tell_behaviors(w, pool);
        if (what & TELL_FRONTCACHE)
            tell_frontcache(w, i);
        if (what & TELL_STATS)
            tell_stats(w, i);
        if (what & TELL_TIMINGS)
            tell_timings(w, i);
        if (what & TELL_KEYSTATS)
            tell_keystats(w, i, now_us);
        if (what & TELL_HOTKEYS)
            tell_hotkeys(w, i);
    }
}

bool stats_proxy(struct pool_state *ps, const uint8_t *arg, size_t len, struct spanq *out)
{
    struct writer w = {.out = out, .bufs = &ps->loop->bufs, .ok = true};
    unsigned what = what_of(arg, len);
    size_t before = out->bytes;
    const char *end = "END\r\n";

    if (what == 0) {
        end = "CLIENT_ERROR usage: stats proxy "
              "[all|info|settings|behaviors|frontcache|stats|timings|keystats|hotkeys|config|reset]\r\n";
    } else if (what == TELL_RESET) {
        reset();
        end = "RESET\r\n";
    } else {
        tell(&w, what, ps->loop->now_us);
    }
    w.ok = w.ok && spanq_copy(out, w.bufs, end, strlen(end));
    if (!w.ok)
        spanq_truncate(out, w.bufs, before);
    return w.ok;
}

bool stats_setup(const struct options *options, const struct config *config, struct worker **workers,
                 uint32_t num_workers)
{
    stats.options = options;
    stats.config = config;
    stats.workers = workers;
    stats.num_workers = num_workers;
    stats.start_us = util_now_us();
    stats.baselines = calloc(config->num_pools, sizeof(*stats.baselines));
    return stats.baselines != NULL;
}

void stats_teardown(void)
{
    free(stats.baselines);
    stats.baselines = NULL;
}
