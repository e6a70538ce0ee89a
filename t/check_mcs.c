/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_mcs - mcs.c chooses the server that a client of libmemcached chooses.
 *
 * Three kinds of proof. Comparison: for each distribution, hash, number of servers, with and without weights, the
 * servers of 100,000 keys against those that a memcached_st names which was set up here by other calls than mcs.c
 * makes. Constants: the servers of a few keys, worked out from the definitions of ketama, md5, crc32 and so on by a
 * program that does not use libmemcached, so that a change in the library is noticed too. Safety: what mcs.c asks at
 * run time writes nothing, shown by a memcached_st in memory that is read-only, and threads that share an mcs agree.
 */
#include <libmemcached/memcached.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mcs.h"
#include "tap.h"
#include "util.h"

enum {
    KEYS = 100000,
    KEY_BYTES = 96,
    SERVERS_MAX = 100,
    THREADS = 4,
    HASHES = MCS_HASH_MURMUR3 + 1,
    ARENA_BYTES = 64 * 1024 * 1024,
};

static const char *const distribution_names[] = {"ketama-weighted", "ketama", "modula"};
static const char *const hash_names[] = {"default", "one_at_a_time", "md5",   "crc",    "fnv1_64", "fnv1a_64",
                                         "fnv1_32", "fnv1a_32",      "hsieh", "murmur", "jenkins", "murmur3"};

/* libmemcached's numbers, in the order of enum mcs_hash. */
static const memcached_hash_t client_hashes[] = {
    MEMCACHED_HASH_MAX,     MEMCACHED_HASH_DEFAULT,  MEMCACHED_HASH_MD5,     MEMCACHED_HASH_CRC,
    MEMCACHED_HASH_FNV1_64, MEMCACHED_HASH_FNV1A_64, MEMCACHED_HASH_FNV1_32, MEMCACHED_HASH_FNV1A_32,
    MEMCACHED_HASH_HSIEH,   MEMCACHED_HASH_MURMUR,   MEMCACHED_HASH_JENKINS, MEMCACHED_HASH_MURMUR3,
};

_Static_assert(ARRAY_LEN(hash_names) == HASHES && ARRAY_LEN(client_hashes) == HASHES, "every hash is tested");

static char keys[KEYS][KEY_BYTES];
static uint8_t key_lengths[KEYS];
static struct rkey rkeys[KEYS]; /* the same */
static uint32_t chosen[KEYS];

/* Servers "s0", "s1", …, every third of them at the port that libmemcached treats on its own. */
static char hosts[SERVERS_MAX][8];
static struct mcs_server servers[SERVERS_MAX];

/* Keys as applications have them, and short ones, from a fixed seed. */
static void make_keys(void)
{
    static const char *const forms[] = {"user:%u",    "session/%08x",
                                        "%u",         "a:%u:b:%x",
                                        "page_%u_en", "one too long for a block of md5, %u, 0123456789abcdef-%08x"};
    uint32_t x = 2463534242;

    for (size_t i = 0; i < KEYS; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        key_lengths[i] = (uint8_t)snprintf(keys[i], KEY_BYTES, forms[i % ARRAY_LEN(forms)], x, (unsigned)i);
        rkeys[i] = (struct rkey){.p = (const uint8_t *)keys[i], .len = key_lengths[i]};
    }
}

static void make_servers(bool weighted)
{
    for (unsigned i = 0; i < SERVERS_MAX; i++) {
        snprintf(hosts[i], sizeof(hosts[i]), "s%u", i);
        servers[i] =
            (struct mcs_server){hosts[i], i % 3 == 0 ? 11211 : (uint16_t)(12000 + i), weighted ? 1 + i * 7 % 5 : 1};
    }
}

/* Adds the servers one by one, which takes libmemcached half a second for 100 of them, or all at once. */
static bool add_servers(memcached_st *client, size_t n, bool one_by_one)
{
    memcached_server_list_st list = NULL;
    bool ok = true;

    for (size_t i = 0; i < n; i++) {
        const struct mcs_server *s = &servers[i];
        if (one_by_one)
            ok = ok && memcached_server_add_with_weight(client, s->host, s->port, s->weight) == MEMCACHED_SUCCESS;
        else
            list = memcached_server_list_append_with_weight(list, s->host, s->port, s->weight, NULL);
    }
    ok = ok && memcached_server_push(client, list) == MEMCACHED_SUCCESS;
    memcached_server_list_free(list);
    return ok;
}

/* A client as an application makes it. */
static memcached_st *make_client(memcached_st *client, enum mcs_distribution distribution, enum mcs_hash hash, size_t n)
{
    bool ok = true;

    if (distribution == MCS_KETAMA_WEIGHTED)
        ok = memcached_behavior_set(client, MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED, true) == MEMCACHED_SUCCESS;
    else if (distribution == MCS_KETAMA)
        ok = memcached_behavior_set(client, MEMCACHED_BEHAVIOR_DISTRIBUTION, MEMCACHED_DISTRIBUTION_CONSISTENT) ==
             MEMCACHED_SUCCESS;
    if (hash != MCS_HASH_DEFAULT)
        ok = ok && memcached_behavior_set(client, MEMCACHED_BEHAVIOR_HASH, client_hashes[hash]) == MEMCACHED_SUCCESS;
    if (ok && add_servers(client, n, n < SERVERS_MAX || hash == MCS_HASH_DEFAULT))
        return client;
    memcached_free(client);
    return NULL;
}

/* The number in the name of the server that the client would send a key to. */
static uint32_t ask_client(memcached_st *client, size_t key)
{
    const memcached_instance_st *instance = memcached_server_by_key(client, keys[key], key_lengths[key], NULL);

    return instance == NULL ? UINT32_MAX : (uint32_t)atoi(memcached_server_name(instance) + 1);
}

static void compare(enum mcs_distribution distribution, enum mcs_hash hash, size_t n, bool weighted)
{
    const size_t num_keys = n == 1 ? KEYS / 100 : KEYS;
    const char *error = NULL;
    memcached_st *client = make_client(memcached_create(NULL), distribution, hash, n);
    struct mcs *mcs = mcs_create(servers, n, distribution, hash, &error);
    size_t different = 0, used = 0;
    bool seen[SERVERS_MAX] = {false};

    if (mcs != NULL)
        mcs_server_indexes(mcs, rkeys, num_keys, chosen);
    for (size_t i = 0; client != NULL && mcs != NULL && i < num_keys; i++) {
        uint32_t index = mcs_server_index(mcs, keys[i], key_lengths[i]);
        different += index >= n || index != chosen[i] || index != ask_client(client, i);
        used += index < n && !seen[index];
        seen[index < n ? index : 0] = true;
    }
    check(client != NULL && mcs != NULL && different == 0, "%s, %s, %zu servers%s: the client's choice (%zu used)",
          distribution_names[distribution], hash_names[hash], n, weighted ? ", weights" : "", used);
    /* crc has 15 bits only: on a continuum of 32 it reaches one point or few, and that is libmemcached's way. */
    if (hash != MCS_HASH_CRC || distribution == MCS_MODULA)
        check(used == n, "and every server has keys");
    mcs_destroy(mcs);
    memcached_free(client);
}

static void compare_all(void)
{
    static const size_t numbers[] = {1, 2, 3, 7, 100};

    for (int weighted = 0; weighted < 2; weighted++) {
        make_servers(weighted);
        for (int distribution = MCS_KETAMA_WEIGHTED; distribution <= MCS_MODULA; distribution++) {
            for (int hash = MCS_HASH_DEFAULT; hash < HASHES; hash++) {
                for (size_t i = 0; i < ARRAY_LEN(numbers) && mcs_has_hash((enum mcs_hash)hash); i++)
                    compare((enum mcs_distribution)distribution, (enum mcs_hash)hash, numbers[i], weighted);
            }
        }
    }
}

/* A hash that libmemcached lacks is refused for every distribution; one that it has is not. */
static void check_hashes(void)
{
    unsigned available = 0;

    make_servers(false);
    for (int hash = MCS_HASH_DEFAULT; hash < HASHES; hash++) {
        memcached_st *client = memcached_create(NULL);
        bool has = hash == MCS_HASH_DEFAULT ||
                   memcached_behavior_set(client, MEMCACHED_BEHAVIOR_HASH, client_hashes[hash]) == MEMCACHED_SUCCESS;
        memcached_free(client);
        available += has;
        check(mcs_has_hash((enum mcs_hash)hash) == has, "%s is known to be %s", hash_names[hash],
              has ? "there" : "missing");
        for (int distribution = MCS_KETAMA_WEIGHTED; distribution <= MCS_MODULA; distribution++) {
            const char *error = NULL;
            struct mcs *mcs = mcs_create(servers, 2, (enum mcs_distribution)distribution, (enum mcs_hash)hash, &error);
            check((mcs != NULL) == has && (has || strstr(error, "hash") != NULL), "%s: %s %s",
                  distribution_names[distribution], hash_names[hash], has ? "is taken" : "is refused");
            mcs_destroy(mcs);
        }
    }
    check(available >= HASHES - 2, "%u hashes are there", available);
}

static void check_bounds(void)
{
    static struct mcs_server many[SERVERS_MAX + 1];
    const char *error = NULL;
    struct mcs *mcs;

    make_servers(false);
    memcpy(many, servers, sizeof(servers));
    many[SERVERS_MAX] = (struct mcs_server){"another", 11211, 1};
    mcs = mcs_create(many, ARRAY_LEN(many), MCS_KETAMA_WEIGHTED, MCS_HASH_DEFAULT, &error);
    check(mcs == NULL && strstr(error, "100") != NULL, "101 servers are refused, where libmemcached would abort");
    mcs = mcs_create(many, ARRAY_LEN(many), MCS_MODULA, MCS_HASH_DEFAULT, &error);
    check(mcs != NULL, "but not with modula");
    mcs_destroy(mcs);
    mcs_destroy(NULL);
}

/* Each with the keys of check_constants, in their order. */
static const struct constant {
    const char *name;
    enum mcs_distribution distribution;
    enum mcs_hash hash;
    struct mcs_server servers[3];
    uint8_t expected[10];
} constants[] = {
    {"ketama-weighted",
     MCS_KETAMA_WEIGHTED,
     MCS_HASH_DEFAULT,
     {{"10.0.0.1", 11211, 1}, {"10.0.0.2", 11211, 1}, {"10.0.0.3", 11311, 1}},
     {1, 1, 1, 2, 0, 1, 0, 2, 1, 1}},
    {"ketama-weighted, weights",
     MCS_KETAMA_WEIGHTED,
     MCS_HASH_DEFAULT,
     {{"10.0.0.1", 11211, 1}, {"10.0.0.2", 11211, 2}, {"10.0.0.3", 11311, 3}},
     {1, 1, 1, 2, 2, 2, 2, 2, 1, 2}},
    {"ketama-weighted, unix sockets and IPv6",
     MCS_KETAMA_WEIGHTED,
     MCS_HASH_DEFAULT,
     {{"/run/a.sock", 0, 1}, {"/run/b.sock", 0, 1}, {"::1", 11311, 1}},
     {0, 0, 1, 1, 1, 0, 2, 0, 1, 0}},
    {"ketama",
     MCS_KETAMA,
     MCS_HASH_DEFAULT,
     {{"10.0.0.1", 11211, 1}, {"10.0.0.2", 11211, 1}, {"10.0.0.3", 11311, 1}},
     {2, 0, 0, 0, 0, 0, 0, 2, 1, 0}},
    {"modula",
     MCS_MODULA,
     MCS_HASH_DEFAULT,
     {{"10.0.0.1", 11211, 1}, {"10.0.0.2", 11211, 1}, {"10.0.0.3", 11311, 1}},
     {0, 1, 2, 2, 2, 0, 2, 1, 2, 0}},
    {"modula, crc",
     MCS_MODULA,
     MCS_HASH_CRC,
     {{"10.0.0.1", 11211, 1}, {"10.0.0.2", 11211, 1}, {"10.0.0.3", 11311, 1}},
     {1, 1, 0, 0, 0, 0, 1, 2, 1, 2}},
    {"modula, fnv1a_32",
     MCS_MODULA,
     MCS_HASH_FNV1A_32,
     {{"10.0.0.1", 11211, 1}, {"10.0.0.2", 11211, 1}, {"10.0.0.3", 11311, 1}},
     {0, 2, 1, 0, 2, 2, 0, 2, 2, 0}},
    {"modula, md5",
     MCS_MODULA,
     MCS_HASH_MD5,
     {{"10.0.0.1", 11211, 1}, {"10.0.0.2", 11211, 1}, {"10.0.0.3", 11311, 1}},
     {1, 2, 0, 0, 0, 2, 1, 2, 1, 1}},
};

static void check_constants(void)
{
    static const char *const asked[] = {"foo",          "bar", "user:1",    "user:2", "user:3",
                                        "session/a9f3", "k",   "the quick", "4711",   "moxi"};

    for (size_t i = 0; i < ARRAY_LEN(constants); i++) {
        const struct constant *c = &constants[i];
        const char *error = NULL;
        struct mcs *mcs = mcs_create(c->servers, ARRAY_LEN(c->servers), c->distribution, c->hash, &error);
        bool ok = mcs != NULL;
        for (size_t k = 0; ok && k < ARRAY_LEN(asked); k++)
            ok = mcs_server_index(mcs, asked[k], strlen(asked[k])) == c->expected[k];
        check(ok, "%s: the servers that its definition gives", c->name);
        mcs_destroy(mcs);
    }
}

/* Memory that libmemcached gets what it allocates from, and that can be made read-only as a whole. */
static struct {
    char *base;
    size_t used;
} arena;

static void *arena_alloc(size_t n)
{
    char *p = arena.base + arena.used;

    n = (n + 31) & ~(size_t)15;
    if (arena.used + n > ARENA_BYTES)
        return NULL;
    arena.used += n;
    memcpy(p, &n, sizeof(n)); /* for realloc */
    return p + 16;
}

static void *arena_malloc(const memcached_st *memc, const size_t n, void *context)
{
    (void)memc;
    (void)context;
    return arena_alloc(n);
}

static void arena_free(const memcached_st *memc, void *p, void *context)
{
    (void)memc;
    (void)p;
    (void)context;
}

static void *arena_realloc(const memcached_st *memc, void *p, const size_t n, void *context)
{
    void *q = arena_alloc(n);
    size_t old;

    (void)memc;
    (void)context;
    if (p == NULL || q == NULL)
        return q;
    memcpy(&old, (char *)p - 16, sizeof(old));
    memcpy(q, p, old - 16 < n ? old - 16 : n);
    return q;
}

static void *arena_calloc(const memcached_st *memc, size_t n, const size_t size, void *context)
{
    void *p = arena_alloc(n * size);

    (void)memc;
    (void)context;
    return p == NULL ? NULL : memset(p, 0, n * size);
}

/* A write to the memcached_st or to anything that hangs on it would end this program with SIGSEGV. */
static void check_read_only(enum mcs_distribution distribution, enum mcs_hash hash)
{
    memcached_st *client;
    uint32_t before = 0, after = 0;

    arena.used = 0;
    if (mprotect(arena.base, ARENA_BYTES, PROT_READ | PROT_WRITE) != 0)
        abort();
    client = memcached_create(arena_alloc(sizeof(memcached_st)));
    memcached_set_memory_allocators(client, arena_malloc, arena_free, arena_realloc, arena_calloc, NULL);
    client = make_client(client, distribution, hash, 7);
    if (!check(client != NULL, "a client in an arena"))
        return;
    for (size_t i = 0; i < KEYS / 10; i++)
        before = before * 31 + memcached_generate_hash(client, keys[i], key_lengths[i]);
    if (mprotect(arena.base, ARENA_BYTES, PROT_READ) != 0)
        abort();
    for (size_t i = 0; i < KEYS / 10; i++)
        after = after * 31 + memcached_generate_hash(client, keys[i], key_lengths[i]);
    check(before == after, "%s, %s: asking writes nothing", distribution_names[distribution], hash_names[hash]);
}

static void check_all_read_only(void)
{
    make_servers(true);
    arena.base = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!check(arena.base != MAP_FAILED, "an arena"))
        return;
    for (int distribution = MCS_KETAMA_WEIGHTED; distribution <= MCS_MODULA; distribution++) {
        for (int hash = MCS_HASH_DEFAULT; hash < HASHES; hash++) {
            if (mcs_has_hash((enum mcs_hash)hash))
                check_read_only((enum mcs_distribution)distribution, (enum mcs_hash)hash);
        }
    }
    munmap(arena.base, ARENA_BYTES);
}

/* What a thread asks, and what it should hear. */
struct asker {
    const struct mcs *mcs;
    const uint8_t *expected;
    size_t different;
};

static void *ask_all(void *arg)
{
    struct asker *asker = arg;

    for (size_t i = 0; i < KEYS; i++)
        asker->different += mcs_server_index(asker->mcs, keys[i], key_lengths[i]) != asker->expected[i];
    return NULL;
}

static void check_threads(enum mcs_distribution distribution)
{
    static uint8_t expected[KEYS];
    pthread_t threads[THREADS];
    struct asker askers[THREADS];
    const char *error = NULL;
    struct mcs *mcs = mcs_create(servers, 7, distribution, MCS_HASH_DEFAULT, &error);
    size_t different = 0;

    if (!check(mcs != NULL, "an mcs to share"))
        return;
    for (size_t i = 0; i < KEYS; i++)
        expected[i] = (uint8_t)mcs_server_index(mcs, keys[i], key_lengths[i]);
    for (size_t i = 0; i < THREADS; i++) {
        askers[i] = (struct asker){mcs, expected, 0};
        if (pthread_create(&threads[i], NULL, ask_all, &askers[i]) != 0)
            abort();
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        different += askers[i].different;
    }
    check(different == 0, "%s: %d threads hear the same", distribution_names[distribution], THREADS);
    mcs_destroy(mcs);
}

int main(void)
{
    make_keys();
    check_hashes();
    check_bounds();
    check_constants();
    check_all_read_only();
    for (int distribution = MCS_KETAMA_WEIGHTED; distribution <= MCS_MODULA; distribution++)
        check_threads((enum mcs_distribution)distribution);
    compare_all();
    return tap_end();
}
