/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_config - what a user asked for, as data.
 *
 * Text (-z: pools and their servers; -Z: settings) becomes a struct config, which never changes afterwards and is
 * shared by reference count: the main thread and each worker hold one reference. Nothing here opens a socket or
 * resolves a name.
 */
#ifndef CPROXY_CONFIG_H
#define CPROXY_CONFIG_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "mcs.h"
#include "util.h"

/*
 * One field a -Z key. The table in cproxy_config.c has a row for each with name, alias, type, unit, default, range
 * and help; the parser, -h, the man page and `stats proxy behaviors` read that table.
 */
enum { SETTING_TEXT_MAX = 255 };

struct settings {
    /* requests */
    uint32_t downstream_max;        /* requests a worker has in flight at most; 0: no bound */
    uint32_t wait_queue_timeout_ms; /* how long a request may wait for downstream_max; 0: for ever */
    uint32_t downstream_timeout_ms; /* from the request to its reply; 0: for ever */
    uint32_t downstream_retry;      /* how often a request is sent again where that is safe */
    uint64_t item_size_max;         /* bytes of a value that a client may send */
    uint64_t line_max;              /* bytes of a command line (a multiget's keys) */
    uint64_t client_buffer_max;     /* bytes of replies held for a client before its input is left unread */
    uint32_t squash;                /* 1: equal gets in flight are asked once */
    uint64_t stream_min;            /* bytes of a value from which it is passed on while it arrives; 0: never */

    /* connections to servers */
    uint32_t downstream_conn_max;    /* connections of a worker to a server */
    uint32_t get_join_max;           /* gets that are asked for in one line */
    uint32_t downstream_weight;      /* weight of a server that -z gives none */
    uint32_t downstream_protocol;    /* enum downstream_protocol */
    uint32_t downstream_queue_max;   /* requests waiting for one connection before more are refused; 0: no bound */
    uint64_t downstream_queue_bytes; /* bytes of requests waiting to be written to one connection, likewise */
    uint32_t connect_timeout_ms;
    uint32_t connect_max_errors;        /* failures to connect within the interval before a server is left alone */
    uint32_t connect_retry_interval_ms; /* and for how long it is */

    /* what servers are told, when they are connected */
    char usr[SETTING_TEXT_MAX + 1]; /* "": nothing */
    char pwd[SETTING_TEXT_MAX + 1];
    uint32_t auth_timeout_ms;

    /* routing */
    uint32_t distribution; /* enum mcs_distribution */
    uint32_t hash;         /* enum mcs_hash */

    /* the loop */
    uint32_t pace_us;  /* unit of a pause before a poll under load, to gather what arrives; 1000 at most; 0: none */
    uint32_t pace_min; /* load (loop_load) from which a worker pauses */

    /* the near cache; off when the lifespan is 0, or the spec is empty */
    uint32_t front_cache_max;
    uint64_t front_cache_bytes;
    uint32_t front_cache_lifespan_ms;
    uint32_t front_cache_miss_lifespan_ms; /* 0: misses are not kept */
    uint32_t front_cache_stale_ms;
    char front_cache_spec[SETTING_TEXT_MAX + 1]; /* keyspec.h */
    char front_cache_unspec[SETTING_TEXT_MAX + 1];

    char optimize_set[SETTING_TEXT_MAX + 1]; /* keyspec.h: keys whose sets are answered before they are carried out */

    /* counters */
    uint32_t time_stats;            /* 1: latency histograms for `stats proxy timings` */
    uint32_t key_stats_max;         /* keys that each worker counts */
    uint32_t key_stats_lifespan_ms; /* 0: none */
    char key_stats_spec[SETTING_TEXT_MAX + 1];
    char key_stats_unspec[SETTING_TEXT_MAX + 1];
    uint32_t hot_key_rate; /* reads a second of a key that make it hot; 0: keys are not looked at */
};

/* AUTO: what the clients speak, if a server knows that. */
enum downstream_protocol { DOWNSTREAM_AUTO, DOWNSTREAM_ASCII, DOWNSTREAM_META, DOWNSTREAM_BINARY };

enum setting_type {
    SETTING_U32,
    SETTING_U64,
    SETTING_BYTES,
    SETTING_MS,
    SETTING_US,
    SETTING_BOOL,
    SETTING_ENUM,
    SETTING_TEXT,   /* char [SETTING_TEXT_MAX + 1] */
    SETTING_SECRET, /* the same, and never shown */
};

/* One row of the table of settings, for those who list or print them. */
struct setting {
    const char *name;
    const char *alias; /* a second name that is accepted, or NULL */
    enum setting_type type;
    size_t offset; /* of the field in struct settings; its width follows from the type */
    uint64_t def, min, max;
    const char *const *choices; /* SETTING_ENUM: the names of 0, 1, …, NULL at the end */
    const char *help;           /* one line, no full stop */
};

/* The table, ended by a row whose name is NULL. */
extern const struct setting settings_table[];

/* What a pool has of its own, in place of the settings of all: LPORT.key=value. An element of a list of such pools. */
struct own_settings {
    struct own_settings *next;
    uint16_t port;          /* LPORT, as -z writes it */
    unsigned line;          /* where it is first named, from 1; 0: the text has only one */
    uint64_t given;         /* a bit for each row of the table: whether it is given */
    struct settings values; /* of the rows that are */
};

void settings_init(struct settings *s);

/*
 * Reads "key=value,LPORT.key=value" (also separated by white space or ';'; '#' comments to the end of line) into s and,
 * where there is an LPORT, into a list, to which it adds that pool if it is not there; own_settings_free releases it.
 * On false both are half changed and must be thrown away, and error (of errlen bytes) names the key, its value, and
 * what was expected.
 */
bool settings_parse(struct settings *s, struct own_settings **own, const char *text, char *error,
                    size_t errlen) MUST_CHECK;

/* Releases the list, and leaves an empty one. */
void own_settings_free(struct own_settings **own);

/* A setting's value as a number: of bytes, ms, us, or its place among the choices. Not of a text. */
uint64_t setting_value(const struct setting *row, const struct settings *s);

/* A setting's value as -Z would take it, NUL-terminated in buf of n bytes (256 are enough). Returns buf. */
const char *setting_format(const struct setting *row, const struct settings *s, char *buf, size_t n);

/* Likewise its default, and what may be given ("0 to 1000 us", "a, b or c"; 160 bytes are enough). */
const char *setting_default(const struct setting *row, char *buf, size_t n);
const char *setting_expected(const struct setting *row, char *buf, size_t n);

/* A server of a pool. */
struct server {
    char *name;    /* as messages and stats show it: "host:port", "[v6]:port" or "/path" */
    char *host;    /* name or address without brackets; a path when unix_socket */
    uint16_t port; /* 0 when unix_socket */
    bool unix_socket;
    bool local; /* the cache inside moxi: host is "local", port 0 */
    uint32_t weight;
};

/* The servers behind one listening port. */
struct pool {
    char *name;    /* "default", or the port where there are several pools */
    uint16_t port; /* where its clients connect */
    bool any_port; /* the kernel chooses it: 0 until the listener is open */
    struct server *servers;
    uint32_t num_servers;
    struct mcs *mcs; /* owned; NULL when there is one server */
    struct settings settings;
    char *text; /* as -z could say it: "LPORT=server:weight,…", for `stats proxy config` */
};

struct config {
    atomic_uint refs; /* references held by the main thread and by workers */
    struct pool *pools;
    uint32_t num_pools;
};

/* Whether any pool has a server "local". */
bool config_has_local(const struct config *config);

/*
 * Reads -z: "LPORT=host[:port[:weight]],…[;LPORT2=…]". A host is a name, an IPv4 address, an IPv6 address in
 * brackets, or a unix socket as "/path" or "unix:/path" (with ":weight" or "::weight" after it for a weight), or
 * "local" or "local::weight", the cache inside moxi. White space and '#' comments are skipped. Each pool gets a copy of
 * the settings, but for what it has of its own. Returns a config with one reference, or NULL with error naming the
 * pool, the server and what is wrong with it.
 */
struct config *config_parse(const char *text, const struct settings *settings, const struct own_settings *own,
                            char *error, size_t errlen) MUST_CHECK;

/* The pool of that LPORT, or NULL. */
const struct pool *config_find_pool(const struct config *config, uint16_t port);

struct config *config_ref(struct config *config);
void config_unref(struct config *config);

/* Lists every setting with type, unit, range, default and help, as -h shows them. */
void settings_print_help(FILE *out);

#endif
