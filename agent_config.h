/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * agent_config - where a configuration comes from.
 *
 * -z and -Z are either the text itself or, when they begin with '/' or '.', the path of a file that holds it. (So with
 * -p, a -z whose first server is a unix socket says "unix:/path".) moxi.c loads one at the start.
 */
#ifndef AGENT_CONFIG_H
#define AGENT_CONFIG_H

#include "cproxy_config.h"

/* What the command line says of it. */
struct agent_config_source {
    const char *cluster;  /* -z; not NULL */
    const char *settings; /* -Z, of all pools or, with LPORT., of one; or NULL: the defaults */
    bool has_port;        /* -p was given: */
    uint16_t port;        /* it is the LPORT of a -z that names none; one that does must agree with it */
    bool any_port;        /* it is -1: the kernel chooses the LPORT of a -z that names none */
    bool needs_no_port;   /* an LPORT of 0 makes sense: clients have another way, or none is wanted */
    uint32_t item_size;   /* -I: bytes; the least default of item_size_max, and its most where all servers are local */
};

/* Files larger than this are refused: no list of servers is that long. */
enum { AGENT_CONFIG_FILE_MAX = 4 * 1024 * 1024 };

/*
 * Reads and parses both. Returns a config with one reference, or NULL with an error that begins with where it stands:
 * "-z: ", "-Z: " or "FILE: line N: "; or with a pool whose settings do not go together.
 */
struct config *agent_config_load(const struct agent_config_source *source, char *error, size_t errlen) MUST_CHECK;

#endif
