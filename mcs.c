/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mcs - libmemcached's choice of a server, and nothing else of libmemcached.
 *
 * An mcs is a memcached_st that never connects. It is set up as a client application sets up its own: the behaviors
 * first, then the servers in their order. That order is not a matter of taste: with plain ketama the points of the
 * servers are made when they are added, with the hash of that moment, and a weight over 1 makes that continuum a
 * weighted one.
 *
 * Asking is memcached_generate_hash(const memcached_st *): a digest of the key on the stack and a binary search of the
 * continuum (or a remainder). It writes nothing: ejecting of hosts, the only thing that would rebuild the continuum, is
 * done by another function and is off. t/check_mcs.c asks a memcached_st whose memory it has made read-only.
 *
 * Where the hash is md5, as it is by default, the digests are made by md5.c, several at a time if there are several
 * keys: a second memcached_st with the same servers has as its hash function one that hands the digest through, so that
 * the continuum is still libmemcached's own and asked by it.
 *
 * cproxy_config.c makes one for each pool; cproxy.c asks it for each key.
 */
#include "mcs.h"

#include <libmemcached/memcached.h>
#include <stdlib.h>
#include <string.h>

#include "md5.h"

/*
 * libmemcached's update_continuum ends the process beyond this many servers (an assertion that Debian's build keeps:
 * servers * 100 points <= 10000), so a larger pool must never get there.
 */
enum { CONTINUUM_SERVERS_MAX = 100 };

struct mcs {
    memcached_st *memc; /* read only once made */
    memcached_st *fast; /* the same, asked with digests instead of keys; NULL unless the hash is md5 */
    size_t num_servers;
};

static const char no_memory[] = "out of memory";
static const char no_hash[] = "this libmemcached was built without that hash";

static memcached_hash_t translate_hash(enum mcs_hash hash)
{
    static const memcached_hash_t hashes[] = {
        [MCS_HASH_DEFAULT] = MEMCACHED_HASH_DEFAULT,
        [MCS_HASH_ONE_AT_A_TIME] = MEMCACHED_HASH_DEFAULT, /* libmemcached's name for it */
        [MCS_HASH_MD5] = MEMCACHED_HASH_MD5,
        [MCS_HASH_CRC] = MEMCACHED_HASH_CRC,
        [MCS_HASH_FNV1_64] = MEMCACHED_HASH_FNV1_64,
        [MCS_HASH_FNV1A_64] = MEMCACHED_HASH_FNV1A_64,
        [MCS_HASH_FNV1_32] = MEMCACHED_HASH_FNV1_32,
        [MCS_HASH_FNV1A_32] = MEMCACHED_HASH_FNV1A_32,
        [MCS_HASH_HSIEH] = MEMCACHED_HASH_HSIEH,
        [MCS_HASH_MURMUR] = MEMCACHED_HASH_MURMUR,
        [MCS_HASH_JENKINS] = MEMCACHED_HASH_JENKINS,
        [MCS_HASH_MURMUR3] = MEMCACHED_HASH_MURMUR3,
    };

    return hashes[hash];
}

static memcached_return_t set_distribution(memcached_st *memc, enum mcs_distribution distribution)
{
    switch (distribution) {
    case MCS_KETAMA_WEIGHTED:
        return memcached_behavior_set(memc, MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED, 1);
    case MCS_KETAMA:
        return memcached_behavior_set(memc, MEMCACHED_BEHAVIOR_KETAMA, 1);
    case MCS_MODULA:
        break;
    }
    return memcached_behavior_set_distribution(memc, MEMCACHED_DISTRIBUTION_MODULA);
}

/* After the distribution, which brings its own (md5 for the weighted ketama). */
static memcached_return_t set_hash(memcached_st *memc, enum mcs_hash hash)
{
    if (hash == MCS_HASH_DEFAULT)
        return MEMCACHED_SUCCESS;
    return memcached_behavior_set(memc, MEMCACHED_BEHAVIOR_HASH, (uint64_t)translate_hash(hash));
}

/*
 * One list, added in one go: added one by one, each would have libmemcached make the continuum anew. The list gives a
 * unix socket port 0, as memcached_server_add_unix_socket does; memcached_server_add would make it 11211, and so
 * another place on the continuum. So moxi agrees with pylibmc and with addServers() of php-memcached, whose addServer()
 * disagrees with both.
 */
static const char *add_servers(memcached_st *memc, const struct mcs_server *servers, size_t n)
{
    memcached_server_list_st list = NULL, longer;
    memcached_return_t rc = MEMCACHED_SUCCESS;

    for (size_t i = 0; i < n; i++) {
        longer =
            memcached_server_list_append_with_weight(list, servers[i].host, servers[i].port, servers[i].weight, &rc);
        if (longer == NULL) {
            memcached_server_list_free(list);
            return no_memory;
        }
        list = longer;
    }
    rc = memcached_server_push(memc, list);
    memcached_server_list_free(list);
    return memcached_success(rc) ? NULL : memcached_strerror(memc, rc);
}

/* Sets memc up; a message on failure, NULL when all is well. */
static const char *set_up(memcached_st *memc, const struct mcs_server *servers, size_t n,
                          enum mcs_distribution distribution, enum mcs_hash hash)
{
    memcached_return_t rc = set_distribution(memc, distribution);

    if (memcached_failed(rc))
        return memcached_strerror(memc, rc);
    if (memcached_failed(set_hash(memc, hash)))
        return no_hash;
    return add_servers(memc, servers, n);
}

/* The hash function of mcs.fast: its keys are digests. */
static uint32_t hand_through(const char *key, size_t len, void *context)
{
    uint32_t digest;

    (void)len;
    (void)context;
    memcpy(&digest, key, sizeof(digest));
    return digest;
}

/*
 * Makes mcs.fast, from the servers anew: memcached_clone forgets that a continuum is a weighted one. On failure mcs
 * does without it.
 */
static void make_fast(struct mcs *mcs, const struct mcs_server *servers, enum mcs_distribution distribution,
                      enum mcs_hash hash)
{
    memcached_st *fast;
    hashkit_st *kit;

    if (hash != MCS_HASH_MD5 && !(hash == MCS_HASH_DEFAULT && distribution == MCS_KETAMA_WEIGHTED))
        return;
    fast = memcached_create(NULL);
    kit = hashkit_create(NULL);
    if (fast != NULL && kit != NULL && set_up(fast, servers, mcs->num_servers, distribution, hash) == NULL &&
        hashkit_set_custom_function(kit, hand_through, NULL) == HASHKIT_SUCCESS &&
        memcached_success(memcached_set_hashkit(fast, kit)))
        mcs->fast = fast;
    else
        memcached_free(fast);
    hashkit_free(kit);
}

bool mcs_has_hash(enum mcs_hash hash)
{
    memcached_st *memc = memcached_create(NULL);
    bool has = memc != NULL && memcached_success(set_hash(memc, hash));

    memcached_free(memc);
    return has;
}

struct mcs *mcs_create(const struct mcs_server *servers, size_t n, enum mcs_distribution distribution,
                       enum mcs_hash hash, const char **error)
{
    struct mcs *mcs;

    if (distribution != MCS_MODULA && n > CONTINUUM_SERVERS_MAX) {
        *error = "libmemcached's continuum takes at most 100 servers (distribution=modula has no such bound)";
        return NULL;
    }
    *error = no_memory;
    mcs = calloc(1, sizeof(*mcs));
    if (mcs == NULL)
        return NULL;
    mcs->num_servers = n;
    mcs->memc = memcached_create(NULL);
    if (mcs->memc != NULL)
        *error = set_up(mcs->memc, servers, n, distribution, hash);
    if (*error != NULL) {
        mcs_destroy(mcs);
        return NULL;
    }
    make_fast(mcs, servers, distribution, hash);
    return mcs;
}

void mcs_destroy(struct mcs *mcs)
{
    if (mcs == NULL)
        return;
    memcached_free(mcs->fast);
    memcached_free(mcs->memc);
    free(mcs);
}

static uint32_t index_of_digest(const struct mcs *mcs, uint32_t digest)
{
    return memcached_generate_hash(mcs->fast, (const char *)&digest, sizeof(digest));
}

uint32_t mcs_server_index(const struct mcs *mcs, const void *key, size_t len)
{
    if (mcs->num_servers == 1)
        return 0;
    if (mcs->fast != NULL && len <= MD5_SHORT_MAX)
        return index_of_digest(mcs, md5_short(key, len));
    return memcached_generate_hash(mcs->memc, key, len);
}

/* Places the first MD5_LANES keys, if all are short. */
static bool place_lanes(const struct mcs *mcs, const struct rkey *keys, uint32_t *servers)
{
    const uint8_t *p[MD5_LANES];
    size_t lens[MD5_LANES];
    uint32_t digests[MD5_LANES];

    for (int i = 0; i < MD5_LANES; i++) {
        if (keys[i].len > MD5_SHORT_MAX)
            return false;
        p[i] = keys[i].p;
        lens[i] = keys[i].len;
    }
    md5_short_lanes(p, lens, digests);
    for (int i = 0; i < MD5_LANES; i++)
        servers[i] = index_of_digest(mcs, digests[i]);
    return true;
}

void mcs_server_indexes(const struct mcs *mcs, const struct rkey *keys, size_t n, uint32_t *servers)
{
    size_t i = 0;

    while (i < n) {
        if (mcs->fast != NULL && n - i >= MD5_LANES && place_lanes(mcs, keys + i, servers + i)) {
            i += MD5_LANES;
            continue;
        }
        servers[i] = mcs_server_index(mcs, keys[i].p, keys[i].len);
        i++;
    }
}
