/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cache_tests - what the tests of the cache share: making one, and operations on keys and values that are texts.
 */
#ifndef CACHE_TESTS_H
#define CACHE_TESTS_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "tap.h"

/* A sanitizer makes all of it slower, so there is less. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { IS_SLOW = 1 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
enum { IS_SLOW = 1 };
#else
enum { IS_SLOW = 0 };
#endif
#else
enum { IS_SLOW = 0 };
#endif

enum { MIB = 1024 * 1024, NOW = 1000000 };

static inline struct cache *new_cache(uint64_t limit, bool evict)
{
    const struct cache_options options = {.limit = limit, .evict = evict, .seed = 42};
    struct cache *cache = cache_create(&options);

    if (cache == NULL) {
        printf("Bail out! no memory\n");
        exit(1);
    }
    cache_set_clock(cache, NOW);
    return cache;
}

static inline enum cache_result store_bytes(struct cache *cache, enum cache_mode mode, const void *key, size_t nkey,
                                            const void *value, size_t nvalue, uint32_t flags, uint32_t exptime,
                                            uint64_t *unique)
{
    enum cache_result result;
    struct cache_item *item = cache_item_alloc(cache, key, nkey, flags, exptime, nvalue, &result);

    if (item == NULL)
        return result;
    if (nvalue > 0)
        memcpy(cache_item_value(item), value, nvalue);
    return cache_store(cache, item, mode, unique);
}

static inline enum cache_result store(struct cache *cache, enum cache_mode mode, const char *key, const char *value)
{
    return store_bytes(cache, mode, key, strlen(key), value, strlen(value), 0, 0, NULL);
}

static inline bool set(struct cache *cache, const char *key, const char *value)
{
    return store(cache, CACHE_SET, key, value) == CACHE_STORED;
}

static inline struct cache_item *get(struct cache *cache, const char *key)
{
    return cache_get(cache, key, strlen(key));
}

/* Whether the item has this value, with CR LF behind it. */
static inline bool value_is(struct cache_item *item, const char *value)
{
    size_t n = strlen(value);

    return item->nvalue == n && memcmp(cache_item_value(item), value, n) == 0 &&
           memcmp(cache_item_value(item) + n, "\r\n", 2) == 0;
}

/* Whether the key has this value; NULL: no value. */
static inline bool get_is(struct cache *cache, const char *key, const char *value)
{
    struct cache_item *item = get(cache, key);
    bool is = item != NULL ? value != NULL && value_is(item, value) : value == NULL;

    if (!is)
        printf("# %s: %.*s, not %s\n", key, item ? (int)item->nvalue : 4,
               item ? (char *)cache_item_value(item) : "none", value ? value : "none");
    if (item != NULL)
        cache_item_release(item);
    return is;
}

/* Whether the key is there. An access. */
static inline bool has(struct cache *cache, const char *key)
{
    struct cache_item *item = get(cache, key);

    if (item != NULL)
        cache_item_release(item);
    return item != NULL;
}

/* The key's unique; 0 when it is not there. An access. */
static inline uint64_t unique_of(struct cache *cache, const char *key)
{
    struct cache_item *item = get(cache, key);
    uint64_t unique = item != NULL ? cache_item_unique(item) : 0;

    if (item != NULL)
        cache_item_release(item);
    return unique;
}

static inline struct cache_stats stats_of(struct cache *cache)
{
    struct cache_stats stats;

    cache_stats(cache, &stats);
    return stats;
}

/* The crawler comes by everything. */
static inline void crawl_all(struct cache *cache)
{
    for (unsigned ends = 0; ends < 2;)
        ends += cache_crawl(cache, 10000);
}

/* A key of ten bytes. */
static inline const char *key_of(char *key, unsigned long i)
{
    snprintf(key, 16, "k%09lu", i);
    return key;
}

/* Stores `nvalue` bytes, all of them like the key's last digit. */
static inline enum cache_result set_filled(struct cache *cache, const char *key, size_t nvalue, uint32_t exptime)
{
    enum cache_result result;
    size_t nkey = strlen(key);
    struct cache_item *item = cache_item_alloc(cache, key, nkey, 0, exptime, nvalue, &result);

    if (item == NULL)
        return result;
    memset(cache_item_value(item), key[nkey - 1], nvalue);
    return cache_store(cache, item, CACHE_SET, NULL);
}

/* Whether an item is as set_filled made it. */
static inline bool is_filled(struct cache_item *item)
{
    const uint8_t *value = cache_item_value(item);

    for (uint32_t i = 0; i < item->nvalue; i++)
        if (value[i] != item->bytes[item->nkey - 1])
            return false;
    return memcmp(value + item->nvalue, "\r\n", 2) == 0;
}

/* An access. */
static inline void access_key(struct cache *cache, const char *key)
{
    struct cache_item *item = get(cache, key);

    if (item != NULL)
        cache_item_release(item);
}

#endif
