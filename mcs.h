/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mcs - from a key to the server that holds it.
 *
 * A struct mcs is a pool's servers as libmemcached sees them: its continuum and its hashes decide, so that clients
 * that use libmemcached themselves (php-memcached, pylibmc) and moxi agree on every key. mcs.c is the only file that
 * includes libmemcached.
 *
 * An mcs never changes once made, so any number of threads may ask one at the same time.
 */
#ifndef MCS_H
#define MCS_H

#include <stddef.h>
#include <stdint.h>

#include "request.h"
#include "util.h"

struct mcs;

enum mcs_distribution {
    MCS_KETAMA_WEIGHTED, /* libmemcached's MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED: "libketama compatible" */
    MCS_KETAMA,
    MCS_MODULA,
};

/* What libmemcached calls MEMCACHED_HASH_*; MCS_HASH_DEFAULT leaves it the one that goes with the distribution. */
enum mcs_hash {
    MCS_HASH_DEFAULT,
    MCS_HASH_ONE_AT_A_TIME,
    MCS_HASH_MD5,
    MCS_HASH_CRC,
    MCS_HASH_FNV1_64,
    MCS_HASH_FNV1A_64,
    MCS_HASH_FNV1_32,
    MCS_HASH_FNV1A_32,
    MCS_HASH_HSIEH,
    MCS_HASH_MURMUR,
    MCS_HASH_JENKINS,
    MCS_HASH_MURMUR3,
};

/* A server as it stands on the continuum. */
struct mcs_server {
    const char *host; /* name, address or, when it begins with '/', the path of a unix socket; 1 to 255 bytes */
    uint16_t port;    /* 0 for a unix socket */
    uint32_t weight;  /* 1 and up */
};

/* Whether the libmemcached that we run with has the hash: packages leave some out (Debian's has no hsieh). */
bool mcs_has_hash(enum mcs_hash hash);

/*
 * Makes the continuum of n servers (1 and up; at most 100 unless MCS_MODULA, a bound of libmemcached), in the order
 * given. The servers are copied. NULL when memory ran out, libmemcached lacks the hash, or there are too many servers;
 * *error then says which, a static string.
 */
struct mcs *mcs_create(const struct mcs_server *servers, size_t n, enum mcs_distribution distribution,
                       enum mcs_hash hash, const char **error) MUST_CHECK;

void mcs_destroy(struct mcs *mcs);

/* The index, as given to mcs_create, of the server that holds the key. Cannot fail. */
uint32_t mcs_server_index(const struct mcs *mcs, const void *key, size_t len);

/* The same for n keys, in less time than one by one: servers[i] is that of keys[i]. */
void mcs_server_indexes(const struct mcs *mcs, const struct rkey *keys, size_t n, uint32_t *servers);

#endif
