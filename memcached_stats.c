/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * memcached_stats - the process's part of `stats` and `stats settings`: see memcached_stats.h.
 *
 * memcached's names for what moxi does not have (response objects, slab reassignment) are told too, with the 0 that is
 * true of them: who reads stats often expects them all.
 */
#include "memcached_stats.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "crawler.h"
#include "endpoint.h"
#include "listener.h"
#include "log.h"
#include "udp.h"
#include "watch.h"

enum {
    LINE_BYTES = 1024,
    ADDRESS_BYTES = sizeof("unix:") + sizeof(((struct endpoint *)NULL)->host),
};

/* What is counted from the last reset on. */
struct totals {
    uint64_t bytes_read;
    uint64_t bytes_written;
    uint64_t yields;
    uint64_t idle_kicks;
    uint64_t auths;
    uint64_t auth_errors;
    uint64_t meta;
    uint64_t connections;
    uint64_t rejected;
    uint64_t disabled;
};

static struct {
    const struct options *options;
    const struct config *config;
    struct worker **workers;
    uint32_t num_workers;
    uint64_t start_us;
    pthread_mutex_t mutex; /* guards base */
    struct totals base;
} stats = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void tell(struct request *r, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* A line; what is longer than a line can be is cut. */
static void tell(struct request *r, const char *fmt, ...)
{
    char line[LINE_BYTES] = "STAT ";
    va_list args;
    int n;

    if (r->answered)
        return;
    va_start(args, fmt);
    n = vsnprintf(line + 5, sizeof(line) - 5, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof(line) - 5)
        n = sizeof(line) - 6;
    r->ops->stat(r, (const uint8_t *)line, (size_t)n + 5);
}

static void tell_number(struct request *r, const char *name, uint64_t value)
{
    tell(r, "%s %" PRIu64, name, value);
}

/* What there is none of, names with blanks between. */
static void tell_zeros(struct request *r, const char *names)
{
    while (*names != '\0') {
        int n = (int)strcspn(names, " ");

        tell(r, "%.*s 0", n, names);
        names += n + (names[n] == ' ');
    }
}

static const char *yes(bool is)
{
    return is ? "yes" : "no";
}

/* --- gathering --- */

static struct totals gather(void)
{
    struct listener_stats l = listener_stats();
    struct totals t = {
        .connections = l.total_connections, .rejected = l.rejected_connections, .disabled = l.listen_disabled_num};

    for (uint32_t i = 0; i < stats.num_workers; i++)
        for (uint32_t k = 0; k < stats.config->num_pools; k++) {
            const struct counters *c = &worker_pool(stats.workers[i], k)->counters;

            t.bytes_read += counter_get(&c->tot_upstream_read);
            t.bytes_written += counter_get(&c->tot_upstream_written);
            t.yields += counter_get(&c->tot_upstream_yields);
            t.idle_kicks += counter_get(&c->tot_upstream_idle_kicks);
            t.auths += counter_get(&c->tot_upstream_auth);
            t.auth_errors += counter_get(&c->tot_upstream_auth_failed);
            t.meta += counter_get(&c->regular[OP_META_DEBUG].seen);
        }
    return t;
}

static struct totals since_reset(void)
{
    struct totals t;

    pthread_mutex_lock(&stats.mutex);
    t = gather();
    t.bytes_read -= stats.base.bytes_read;
    t.bytes_written -= stats.base.bytes_written;
    t.yields -= stats.base.yields;
    t.idle_kicks -= stats.base.idle_kicks;
    t.auths -= stats.base.auths;
    t.auth_errors -= stats.base.auth_errors;
    t.meta -= stats.base.meta;
    t.connections -= stats.base.connections;
    t.rejected -= stats.base.rejected;
    t.disabled -= stats.base.disabled;
    pthread_mutex_unlock(&stats.mutex);
    return t;
}

void memcached_stats_reset(void)
{
    pthread_mutex_lock(&stats.mutex);
    stats.base = gather();
    watch_stats_reset();
    pthread_mutex_unlock(&stats.mutex);
}

/* --- telling --- */

static void tell_process(struct request *r)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    tell_number(r, "pid", (uint64_t)getpid());
    tell_number(r, "uptime", (util_now_us() - stats.start_us) / 1000000);
    tell_number(r, "time", util_unix_seconds(util_now_us()));
    tell(r, "version %s", CPROXY_VERSION);
    tell(r, "libevent %s", event_get_version());
    tell_number(r, "pointer_size", 8 * sizeof(void *));
    tell(r, "rusage_user %ld.%06ld", (long)usage.ru_utime.tv_sec, (long)usage.ru_utime.tv_usec);
    tell(r, "rusage_system %ld.%06ld", (long)usage.ru_stime.tv_sec, (long)usage.ru_stime.tv_usec);
}

static void tell_general(struct request *r)
{
    struct listener_stats l = listener_stats();
    struct crawler_stats crawler = crawler_stats();
    struct watch_stats watch = watch_stats();
    struct totals t = since_reset();

    tell_process(r);
    tell_number(r, "max_connections", l.max_connections);
    tell_number(r, "curr_connections", l.curr_connections);
    tell_number(r, "total_connections", t.connections);
    tell_number(r, "rejected_connections", t.rejected);
    tell_number(r, "connection_structures", l.curr_connections);
    tell_zeros(r, "response_obj_oom response_obj_count response_obj_bytes read_buf_count read_buf_bytes "
                  "read_buf_bytes_free read_buf_oom");
    tell_number(r, "auth_cmds", t.auths);
    tell_number(r, "auth_errors", t.auth_errors);
    if (stats.options->idle_timeout_s > 0)
        tell_number(r, "idle_kicks", t.idle_kicks);
    tell_number(r, "cmd_meta", t.meta); /* as memcached, me alone */
    tell_number(r, "bytes_read", t.bytes_read);
    tell_number(r, "bytes_written", t.bytes_written);
    tell_number(r, "accepting_conns", l.accepting);
    tell_number(r, "listen_disabled_num", t.disabled);
    tell_number(r, "time_in_listen_disabled_us", l.listen_disabled_us);
    tell_number(r, "threads", stats.num_workers);
    tell_number(r, "conn_yields", t.yields);
    tell_zeros(r, "slab_reassign_rescues slab_reassign_chunk_rescues slab_reassign_evictions_nomem "
                  "slab_reassign_inline_reclaim slab_reassign_busy_items slab_reassign_busy_deletes "
                  "slab_reassign_running slabs_moved lrutail_reflocked log_worker_dropped");
    tell_number(r, "log_worker_written", watch.written);
    tell_number(r, "log_watcher_skipped", watch.skipped);
    tell_number(r, "log_watcher_sent", watch.sent);
    tell_number(r, "log_watchers", watch.watchers);
    tell_number(r, "lru_crawler_running", crawler.running);
    tell_number(r, "lru_crawler_starts", crawler.starts);
}

static void tell_settings(struct request *r)
{
    const struct options *o = stats.options;
    struct crawler_stats crawler = crawler_stats();

    tell_number(r, "maxconns", o->conn_limit);
    tell(r, "tcpport %d", r->pool->pool->any_port ? -1 : r->pool->pool->port);
    tell(r, "udpport %d", o->udp_port == OPTIONS_ANY_PORT ? -1 : (int)o->udp_port);
    tell(r, "inter %s", o->num_listen > 0 ? o->listen[0].host : "NULL");
    tell(r, "verbosity %d", log_level() - LOG_WARNING);
    tell(r, "domain_socket %s", o->unix_socket != NULL ? o->unix_socket : "NULL");
    tell(r, "umask %o", o->unix_mask);
    tell(r, "shutdown_command %s", yes(o->may_shutdown));
    tell_number(r, "num_threads", o->threads);
    tell_number(r, "reqs_per_event", o->reqs_per_event);
    tell_number(r, "tcp_backlog", o->backlog);
    tell(r, "binding_protocol %s",
         o->binding == OPTIONS_BINDING_AUTO ? "auto-negotiate" : options_binding_names[o->binding]);
    tell(r, "auth_enabled_sasl %s", yes(o->sasl));
    tell(r, "auth_enabled_ascii %s", o->auth_file != NULL ? o->auth_file : "no");
    tell(r, "maxconns_fast %s", yes(o->maxconns_fast));
    tell(r, "lru_crawler %s", yes(crawler.enabled));
    tell(r, "flush_enabled %s", yes(!o->no_flush));
    tell_number(r, "idle_timeout", o->idle_timeout_s);
    tell_number(r, "watcher_logbuf_size", (uint64_t)o->watcher_logbuf_kb << 10);
    tell_number(r, "worker_logbuf_size", (uint64_t)o->worker_logbuf_kb << 10);
}

/* --- stats conns --- */

/* What one end of a socket is called: kind:address[:port]. */
static void name_end(int fd, bool (*end_of)(int fd, struct endpoint *endpoint), char *text)
{
    struct endpoint end;

    if (!end_of(fd, &end))
        snprintf(text, ADDRESS_BYTES, "unknown");
    else if (end.family == AF_UNIX)
        snprintf(text, ADDRESS_BYTES, "unix:%s", end.host);
    else
        snprintf(text, ADDRESS_BYTES, end.family == AF_INET ? "%s:%s:%u" : "%s6:[%s]:%u",
                 end.is_datagram ? "udp" : "tcp", end.host, end.port);
}

/* A row for each socket. They are told in the order of their numbers, as memcached does. */
struct socket_row {
    int fd;
    uint32_t idle_s;
    const char *state;
    bool is_client;
    char addr[ADDRESS_BYTES];
    char listen_addr[ADDRESS_BYTES]; /* of a client */
};

struct socket_rows {
    struct socket_row *v;
    size_t n;
    size_t size;
};

/* A blank row; NULL when memory ran out. */
static struct socket_row *add_row(struct socket_rows *rows)
{
    if (rows->n == rows->size) {
        size_t size = rows->size == 0 ? 64 : 2 * rows->size;
        struct socket_row *v = realloc(rows->v, size * sizeof(*v));

        if (v == NULL)
            return NULL;
        rows->v = v;
        rows->size = size;
    }
    return &rows->v[rows->n++];
}

static void add_listening(void *arg, int fd)
{
    struct socket_row *row = add_row(arg);

    if (row == NULL)
        return;
    row->fd = fd;
    row->is_client = false;
    name_end(fd, endpoint_of, row->addr);
    row->state = strncmp(row->addr, "udp", 3) == 0 ? "conn_read" : "conn_listening";
    row->idle_s = (uint32_t)((util_now_us() - stats.start_us) / 1000000);
}

static void add_client(void *arg, const struct client_info *info)
{
    struct socket_row *row = add_row(arg);

    if (row == NULL)
        return;
    row->fd = info->fd;
    row->is_client = true;
    name_end(info->fd, endpoint_of_peer, row->addr);
    name_end(info->fd, endpoint_of, row->listen_addr);
    row->state = info->is_owner   ? "conn_parse_cmd"
                 : info->watches  ? "conn_watch"
                 : info->in_value ? "conn_nread"
                                  : "conn_read";
    row->idle_s = info->idle_s;
}

static int compare_rows(const void *a, const void *b)
{
    const struct socket_row *x = a, *y = b;

    return (x->fd > y->fd) - (x->fd < y->fd);
}

static void tell_conns(struct request *r)
{
    struct socket_rows rows = {.v = NULL};

    listener_tell(add_listening, &rows);
    udp_tell(add_listening, &rows);
    for (uint32_t i = 0; i < stats.num_workers; i++)
        for (uint32_t k = 0; k < stats.config->num_pools; k++)
            clients_tell(worker_pool(stats.workers[i], k), r, add_client, &rows);
    if (rows.n > 0)
        qsort(rows.v, rows.n, sizeof(*rows.v), compare_rows);
    for (size_t i = 0; i < rows.n; i++) {
        const struct socket_row *row = &rows.v[i];

        tell(r, "%d:addr %s", row->fd, row->addr);
        if (row->is_client)
            tell(r, "%d:listen_addr %s", row->fd, row->listen_addr);
        tell(r, "%d:state %s", row->fd, row->state);
        tell(r, "%d:secs_since_last_cmd %" PRIu32, row->fd, row->idle_s);
    }
    free(rows.v);
}

void memcached_stats_tell(struct request *r, enum local_stats what)
{
    switch (what) {
    case LOCAL_GENERAL:
        tell_general(r);
        break;
    case LOCAL_SETTINGS:
        tell_settings(r);
        break;
    case LOCAL_CONNS:
        tell_conns(r);
        break;
    }
}

void memcached_stats_setup(const struct options *options, const struct config *config, struct worker **workers,
                           uint32_t num_workers)
{
    stats.options = options;
    stats.config = config;
    stats.workers = workers;
    stats.num_workers = num_workers;
    stats.start_us = util_now_us();
}
