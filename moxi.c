/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * moxi - a memcached proxy: the process.
 *
 * Sets up, in this order: options, configuration, log, limits, listening sockets, daemon, pid file, user; then the
 * main loop (signals, accepting), the workers, and serves. Whatever can fail for a reason of the user's does so before
 * a client can connect and before the process goes into the background.
 *
 * SIGTERM and SIGINT: stop accepting, answer what is in flight (DRAIN_MS at the longest), exit 0; a second one ends
 * it at once. SIGHUP: open the log file again, and read the users.
 */
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <unistd.h>

#include "agent_config.h"
#include "auth.h"
#include "cache.h"
#include "crawler.h"
#include "cproxy_stats.h"
#include "endpoint.h"
#include "listener.h"
#include "log.h"
#include "memcached_stats.h"
#include "options.h"
#include "prefix_stats.h"
#include "resolve.h"
#include "udp.h"
#include "watch.h"
#include "worker.h"

enum {
    DRAIN_MS = 5000,
    FDS_OF_OWN = 64, /* descriptors that are neither a client's nor a server's, generously */
};

struct process {
    struct options options;
    struct config *config;
    struct cproxy_serving serving;
    struct event_base *base;
    struct event *signals[3];
    struct auth *users[2];        /* of -Y, and of MEMCACHED_SASL_PWDB; NULL: there are none */
    struct cache *cache;          /* NULL: no server is local */
    struct cproxy_shared *shared; /* one a pool */
    struct worker **workers;
    uint32_t num_workers; /* that were created */
    bool has_pidfile;
};

/* shutdown: as by a signal, for it is the main loop that ends. */
static void shut_down(void)
{
    (void)kill(getpid(), SIGTERM);
}

static const struct cproxy_hooks hooks = {
    .stats_proxy = stats_proxy,
    .client_closed = listener_client_closed,
    .shutdown = shut_down,
    .local =
        {
            .stats = memcached_stats_tell,
            .stats_reset = memcached_stats_reset,
            .set_crawler = crawler_set,
            .crawl = crawler_crawl,
            .client_fd = client_fd,
        },
};

static NO_RETURN void die(int status, const char *text)
{
    fprintf(stderr, "moxi: %s\n", text);
    exit(status);
}

static NO_RETURN void die_errno(const char *what, const char *name)
{
    fprintf(stderr, "moxi: %s%s%s: %s\n", what, name[0] != '\0' ? " " : "", name, strerror(errno));
    exit(EX_OSERR);
}

/* --- before serving --- */

static void read_options(struct process *p, int argc, char **argv)
{
    char error[1024];
    enum options_status status = options_parse(&p->options, argc, argv, error, sizeof(error));

    if (status == OPTIONS_SERVE)
        return;
    if (status == OPTIONS_BAD)
        die(EX_USAGE, error);
    status = options_print(status, stdout) ? 0 : EX_IOERR;
    options_free(&p->options);
    exit((int)status);
}

static void load_config(struct process *p)
{
    const struct options *o = &p->options;
    struct agent_config_source source = {
        .cluster = o->cluster,
        .settings = o->settings,
        .has_port = o->has_port,
        .port = (uint16_t)o->port,
        .any_port = o->port == OPTIONS_ANY_PORT,
        .needs_no_port = o->unix_socket != NULL || o->udp_port != 0 || o->is_memcached,
        .item_size = o->item_size,
    };
    char error[1024];

    p->config = agent_config_load(&source, error, sizeof(error));
    if (p->config == NULL)
        die(EX_USAGE, error);
    if (o->cache_option != 0 && !config_has_local(p->config)) {
        snprintf(error, sizeof(error), "-%c is for the cache inside, but no server of -z is \"local\"",
                 o->cache_option);
        die(EX_USAGE, error);
    }
}

static struct auth *load_users(const char *path, enum auth_format format)
{
    char error[1024], text[1024 + 32];
    struct auth *users = auth_create(path, format, error, sizeof(error));

    if (users != NULL)
        return users;
    snprintf(text, sizeof(text), "users: %s", error);
    die(EX_USAGE, text);
}

/* Who may be served. */
static void load_auth(struct process *p)
{
    const struct options *o = &p->options;
    const char *database = getenv("MEMCACHED_SASL_PWDB");

    if (o->auth_file != NULL)
        p->users[0] = load_users(o->auth_file, AUTH_FORMAT_LINE);
    if (!o->sasl)
        return;
    if (database != NULL)
        p->users[1] = load_users(database, AUTH_FORMAT_COLON);
    else if (o->auth_file == NULL)
        die(EX_USAGE, "-S: no users: set MEMCACHED_SASL_PWDB to the name of a file of lines user:password, or give -Y");
}

/* Descriptors for all clients and servers. When the system does not allow so many, moxi serves with what there is. */
static void raise_fd_limit(const struct process *p)
{
    struct rlimit limit;
    rlim_t want = p->options.conn_limit + FDS_OF_OWN + 4 * p->options.threads;

    if (p->options.udp_port != 0)
        want += UDP_EXCHANGES_MAX;
    for (uint32_t i = 0; i < p->config->num_pools; i++)
        want += (rlim_t)p->config->pools[i].num_servers * p->config->pools[i].settings.downstream_conn_max *
                p->options.threads;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= want)
        return;
    limit.rlim_cur = want;
    if (limit.rlim_max < want)
        limit.rlim_max = want;
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0)
        return;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) == 0)
            log_warning("-c %u needs %llu file descriptors, the system allows %llu", p->options.conn_limit,
                        (unsigned long long)want, (unsigned long long)limit.rlim_max);
    }
}

static void allow_coredumps(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_CORE, &limit) != 0)
        die_errno("-r: cannot enable core dumps", "");
    limit.rlim_cur = limit.rlim_max;
    if (limit.rlim_max == 0 || setrlimit(RLIMIT_CORE, &limit) != 0)
        die(EX_OSERR, "-r: the system does not allow core dumps");
}

static void write_pidfile(struct process *p)
{
    const char *path = p->options.pidfile;
    FILE *f;

    if (path == NULL)
        return;
    f = fopen(path, "w");
    if (f == NULL)
        die_errno("cannot write the pid file", path);
    fprintf(f, "%d\n", (int)getpid());
    if (fclose(f) != 0)
        die_errno("cannot write the pid file", path);
    p->has_pidfile = true;
}

/* --- the file of ports --- */

static void write_port(void *arg, int fd)
{
    FILE *f = arg;
    struct endpoint own;

    if (!endpoint_of(fd, &own))
        die_errno("cannot ask a socket for its port", "");
    if (own.family != AF_UNIX)
        fprintf(f, "%s INET%s: %u\n", own.is_datagram ? "UDP" : "TCP", own.family == AF_INET6 ? "6" : "", own.port);
}

/* What waits for moxi to listen waits for this file: it has its name only when it is whole. */
static void write_ports(void)
{
    const char *path = getenv("MEMCACHED_PORT_FILENAME");
    size_t n;
    char *lock;
    FILE *f;

    if (path == NULL)
        return;
    n = strlen(path) + sizeof(".lck");
    lock = util_xmalloc(n);
    snprintf(lock, n, "%s.lck", path);
    f = fopen(lock, "w");
    if (f == NULL)
        die_errno("cannot write the file of ports", lock);
    listener_tell(write_port, f);
    udp_tell(write_port, f);
    if (fclose(f) != 0 || rename(lock, path) != 0)
        die_errno("cannot write the file of ports", path);
    free(lock);
}

static const struct passwd *find_user(const char *name)
{
    const struct passwd *user;

    if (name == NULL || geteuid() != 0)
        return NULL;
    errno = 0;
    user = getpwnam(name);
    if (user == NULL) {
        fprintf(stderr, "moxi: -u: there is no user %s\n", name);
        exit(EX_NOUSER);
    }
    return user;
}

static void become(const struct passwd *user)
{
    if (user == NULL)
        return;
    if (initgroups(user->pw_name, user->pw_gid) != 0 || setgid(user->pw_gid) != 0 || setuid(user->pw_uid) != 0)
        die_errno("-u: cannot become", user->pw_name);
}

/* Everything that the user is to be told of when it fails. */
static void prepare(struct process *p)
{
    const struct options *o = &p->options;
    const struct passwd *user = find_user(o->user);
    char error[1024];

    if (!log_open(o->log_file))
        die_errno("cannot write the log file", o->log_file);
    log_set_level(LOG_WARNING + (int)o->verbose);
    if (o->coredumps)
        allow_coredumps();
    raise_fd_limit(p);
    if (!listener_open(o, p->config, error, sizeof(error)) || !udp_open(o, error, sizeof(error)))
        die(EX_OSERR, error);
    if (o->daemon && daemon(1, 0) != 0)
        die_errno("-d: cannot go into the background", "");
    write_pidfile(p);
    write_ports();
    become(user);
    if (o->lock_memory && mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
        log_warning("-k: cannot lock memory: %s", strerror(errno));
}

/* --- serving --- */

static void stop(struct process *p)
{
    listener_close();
    udp_close();
    for (uint32_t i = 0; i < p->num_workers; i++)
        worker_drain(p->workers[i], DRAIN_MS);
    event_base_loopbreak(p->base);
}

static void reload_auth(struct process *p)
{
    char error[1024];

    for (size_t i = 0; i < ARRAY_LEN(p->users); i++)
        if (p->users[i] != NULL && !auth_reload(p->users[i], error, sizeof(error)))
            log_warning("users: %s; they stay as they were", error);
}

static void on_signal(evutil_socket_t signal, short what, void *arg)
{
    struct process *p = arg;

    (void)what;
    if (signal == SIGHUP) {
        log_reopen();
        reload_auth(p);
        return;
    }
    log_info("stopping, by signal %d", (int)signal);
    stop(p);
}

static void handle_signals(struct process *p)
{
    static const int handled[] = {SIGTERM, SIGINT, SIGHUP};

    for (size_t i = 0; i < ARRAY_LEN(handled); i++) {
        p->signals[i] = evsignal_new(p->base, handled[i], on_signal, p);
        if (p->signals[i] == NULL || event_add(p->signals[i], NULL) != 0)
            die(EX_OSERR, "the event loop refuses to handle signals");
    }
}

/* Looks names up once before they are needed, for the warning: a server whose name is unknown may get one later. */
static void on_looked_up(void *arg, const char *error, const struct addresses *addresses)
{
    const struct server *server = arg;

    (void)addresses;
    if (error != NULL)
        log_warning("downstream %s: cannot resolve %s: %s; it will be tried again", server->name, server->host, error);
}

static void check_names(struct process *p, struct work_queue *q)
{
    struct address address;

    for (uint32_t i = 0; i < p->config->num_pools; i++)
        for (uint32_t s = 0; s < p->config->pools[i].num_servers; s++) {
            struct server *server = &p->config->pools[i].servers[s];

            if (!server->local && !resolve_numeric(server->host, server->port, &address) &&
                !resolve_name(server->host, server->port, q, on_looked_up, server))
                log_warning("downstream %s: not looked up: out of memory", server->name);
        }
}

static void start_cache(struct process *p)
{
    const struct options *o = &p->options;
    const struct cache_options options = {
        .limit = (uint64_t)o->memory_mb << 20,
        .item_max = o->item_size,
        .evict = !o->no_evict,
        .flush_second = o->no_cas,
        .evicted = local_tell_evicted,
        .evicted_arg = &p->cache,
    };

    if (!config_has_local(p->config))
        return;
    watch_setup((size_t)o->watcher_logbuf_kb << 10, (size_t)o->worker_logbuf_kb << 10);
    p->cache = cache_create(&options);
    if (p->cache == NULL)
        die(EX_OSERR, "out of memory for the cache");
    if (!crawler_start(p->base, p->cache))
        die(EX_OSERR, "the event loop refuses a timer");
    crawler_set(!o->no_crawler);
    if (o->delimiter != 0) {
        prefix_stats_set_delimiter(o->delimiter);
        prefix_stats_enable(true);
    }
}

static void set_serving(struct process *p)
{
    const struct options *o = &p->options;

    p->serving = (struct cproxy_serving){
        .requests_per_event = o->reqs_per_event,
        .idle_timeout_s = o->idle_timeout_s,
        .may_shutdown = o->may_shutdown,
        .may_flush = !o->no_flush,
        .may_watch = !o->no_watch,
        .binding = (enum binding)o->binding,
        .text_users = p->users[0],
        .binary_users = !o->sasl              ? NULL
                        : p->users[1] != NULL ? p->users[1]
                                              : p->users[0],
        .local = {.may_dump = !o->no_dump, .has_cas = !o->no_cas, .evicts = !o->no_evict, .item_max = o->item_size},
    };
}

static void start_workers(struct process *p)
{
    uint32_t n = p->options.threads;

    set_serving(p);
    p->shared = cproxy_shared_create(p->config);
    if (p->shared == NULL)
        die(EX_OSERR, "out of memory for what workers share");
    p->workers = util_xcalloc(n, sizeof(struct worker *));
    for (uint32_t i = 0; i < n; i++) {
        p->workers[i] = worker_create(p->config, &hooks, &p->serving, p->cache, p->shared);
        if (p->workers[i] == NULL)
            die_errno("cannot make a worker", "");
        p->num_workers++;
    }
    memcached_stats_setup(&p->options, p->config, p->workers, n);
    if (!stats_setup(&p->options, p->config, p->workers, n))
        die(EX_OSERR, "out of memory");
    for (uint32_t i = 0; i < n; i++)
        if (!worker_start(p->workers[i]))
            die_errno("cannot start a worker", "");
}

/* Frees everything, in the opposite order, so that a leak checker has nothing to say. */
static void tear_down(struct process *p, struct work_queue *names)
{
    /* From here on a second signal does what it does to any process. */
    for (size_t i = 0; i < ARRAY_LEN(p->signals); i++)
        event_free(p->signals[i]);
    for (uint32_t i = 0; i < p->num_workers; i++)
        worker_join(p->workers[i]);
    resolve_stop();
    crawler_stop();
    /* What was looked up already is reported now, while there is a configuration. */
    work_queue_close(names);
    work_queue_teardown(names);
    for (uint32_t i = 0; i < p->num_workers; i++)
        worker_destroy(p->workers[i]);
    free(p->workers);
    cproxy_shared_destroy(p->shared, p->config);
    cache_destroy(p->cache);
    prefix_stats_reset();
    stats_teardown();
    listener_teardown();
    udp_teardown();
    for (size_t i = 0; i < ARRAY_LEN(p->users); i++)
        auth_destroy(p->users[i]);
    config_unref(p->config);
    if (p->has_pidfile && unlink(p->options.pidfile) != 0)
        log_warning("cannot remove the pid file %s: %s", p->options.pidfile, strerror(errno));
    options_free(&p->options);
}

static void serve(struct process *p)
{
    struct work_queue names;

    p->base = event_base_new();
    if (p->base == NULL || !work_queue_setup(&names, p->base))
        die_errno("cannot make an event loop", "");
    handle_signals(p);
    if (!resolve_start())
        die_errno("cannot start the resolver", "");
    start_cache(p);
    start_workers(p);
    if (!listener_start(p->base, p->workers, p->num_workers) || !udp_start(p->base))
        die(EX_OSERR, "the event loop refuses to listen");
    check_names(p, &names);
    event_base_dispatch(p->base);
    tear_down(p, &names);
    event_base_free(p->base);
    libevent_global_shutdown();
}

int main(int argc, char **argv)
{
    static struct process process;

    /* A peer that has gone is seen by write(2)'s error. */
    signal(SIGPIPE, SIG_IGN);
    read_options(&process, argc, argv);
    load_config(&process);
    load_auth(&process);
    prepare(&process);
    serve(&process);
    return 0;
}
