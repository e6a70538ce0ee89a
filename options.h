/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * options - the command line, from one table that also makes -h and the man page.
 *
 * moxi.c calls options_parse once. Anything but OPTIONS_SERVE ends the process: with what options_print says, or with
 * the error and EX_USAGE.
 */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "util.h"

/* A port that the kernel chooses: -p -1, -U -1. */
#define OPTIONS_ANY_PORT UINT32_MAX

/* An address of -l. */
struct listen_address {
    char *host; /* name, IPv4 or IPv6 address, without brackets */
    bool has_port;
    uint16_t port; /* when has_port; otherwise the pools' ports */
};

/* What clients may speak, and how -B has it. */
enum options_binding { OPTIONS_BINDING_AUTO, OPTIONS_BINDING_ASCII, OPTIONS_BINDING_BINARY, OPTIONS_BINDINGS };

extern const char *const options_binding_names[OPTIONS_BINDINGS];

/* Strings that are not owned point into argv. */
struct options {
    /* what is served */
    const char *cluster;  /* -z; "local" without it; not NULL after OPTIONS_SERVE */
    const char *settings; /* -Z, or NULL */
    bool is_memcached;    /* there is no -z */

    /* where clients connect */
    bool has_port;                 /* -p was given, or there is no -z */
    uint32_t port;                 /* -p, or what stands for it without -z; 0: none; or OPTIONS_ANY_PORT */
    const char *unix_socket;       /* -s, or NULL */
    uint32_t unix_mask;            /* -a: permissions of the unix socket */
    struct listen_address *listen; /* -l; owned */
    size_t num_listen;             /* 0: every interface */
    uint32_t backlog;              /* -b */
    uint32_t udp_port;             /* -U; 0: no UDP; or OPTIONS_ANY_PORT */
    uint32_t conn_limit;           /* -c: clients connected at the same time */

    /* how they are served */
    uint32_t threads;        /* -t: workers, 1 and up */
    uint32_t reqs_per_event; /* -R: requests of a client in a turn before others have theirs */
    bool may_shutdown;       /* -A */
    bool no_flush;           /* -F */
    bool sasl;               /* -S: clients of the binary protocol have to say who they are */
    const char *auth_file;   /* -Y: and those of text, with users from this file; or NULL */
    bool maxconns_fast;      /* -o: who comes when there are conn_limit is told so, and hung up on */
    uint32_t idle_timeout_s; /* -o: 0 is none */
    bool no_crawler;         /* -o */

    /* clients who watch */
    bool no_watch;              /* -W */
    uint32_t binding;           /* -B: enum options_binding */
    uint32_t watcher_logbuf_kb; /* -o: what may wait for each of them */
    uint32_t worker_logbuf_kb;  /* -o: what waits for none of them any longer, but is handed on at once */

    /* the cache inside */
    uint32_t memory_mb; /* -m */
    uint32_t item_size; /* -I: bytes of an item, as memcached counts them */
    bool no_evict;      /* -M */
    bool no_dump;       /* -X */
    bool no_cas;        /* -C */
    char delimiter;     /* -D: of stats detail, which is then on; 0: not given */
    char cache_option;  /* the letter of one of these that was given, or 0 */

    /* the process */
    bool daemon;          /* -d */
    bool coredumps;       /* -r */
    bool lock_memory;     /* -k */
    const char *pidfile;  /* -P, or NULL */
    const char *user;     /* -u, or NULL */
    const char *log_file; /* -O, or NULL: stderr */
    uint32_t verbose;     /* number of -v */
};

enum options_status {
    OPTIONS_SERVE,   /* go on */
    OPTIONS_HELP,    /* print and exit 0: -h */
    OPTIONS_MAN,     /* --man */
    OPTIONS_VERSION, /* -V */
    OPTIONS_LICENSE, /* -i */
    OPTIONS_BAD,     /* error says which argument is wrong, and why */
};

/*
 * Reads argv (whose order getopt may change) into *options, which options_free releases whatever the status. Neither
 * prints nor exits.
 */
enum options_status options_parse(struct options *options, int argc, char **argv, char *error,
                                  size_t errlen) MUST_CHECK;

void options_free(struct options *options);

/*
 * Prints what a status of OPTIONS_HELP, _MAN, _VERSION or _LICENSE asks for, and flushes it. False when out could not
 * take it all.
 */
bool options_print(enum options_status status, FILE *out) MUST_CHECK;

#endif
