/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * replay - gives a trace (see bench/traces) to moxi's cache or to a memcached, for bench/hit-ratio.
 *
 *   replay TRACE MIB                 to a cache with that limit, in this process; the trace tells the time
 *   replay TRACE MIB UNIX-SOCKET     to the memcached there, in the trace's time, for it knows the clock's only
 *   replay fill ITEMS MIB [UNIX-SOCKET]     stores that many items, keys of 10 and values of 100 bytes
 *
 * A batch of requests is asked for, then what was missed is stored: the same for both, for a memcached in two writes.
 * Prints a line of "name=number" pairs.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "cache.h"

enum {
    BATCH = 64,
    VALUE_MAX = 65536,
    BEGIN = 1000000, /* a time to begin at, for the cache */
    CRAWL = 100000,  /* items that the crawler looks at in a second */
};

struct request {
    uint32_t key;
    uint32_t nvalue;
    uint32_t ttl;
    uint32_t second;
};

/* What is asked: a batch of gets, of which each tells whether it hit, and a store. */
struct target {
    void (*get)(const struct request *batch, size_t n, bool *hits);
    void (*set)(const struct request *batch, size_t n, const bool *hits);
    void (*set_second)(uint32_t second);
};

static char value[VALUE_MAX + 2];

static void fail(const char *what)
{
    fprintf(stderr, "replay: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double seconds(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* --- moxi's cache --- */

static struct cache *cache;
static double max_wall, max_cpu; /* of a store, in seconds; only if timed */
static bool is_timed;

static void cache_gets(const struct request *batch, size_t n, bool *hits)
{
    char key[16];

    for (size_t i = 0; i < n; i++) {
        struct cache_item *item = cache_get(cache, key, (size_t)snprintf(key, sizeof(key), "%010u", batch[i].key));

        hits[i] = item != NULL;
        if (item != NULL)
            cache_item_release(item);
    }
}

static void cache_set(const struct request *request)
{
    char key[16];
    uint32_t exptime = request->ttl != 0 ? cache_clock(cache) + request->ttl : 0;
    enum cache_result result;
    size_t nkey = (size_t)snprintf(key, sizeof(key), "%010u", request->key);
    double wall = is_timed ? seconds(CLOCK_MONOTONIC) : 0, cpu = is_timed ? seconds(CLOCK_THREAD_CPUTIME_ID) : 0;
    struct cache_item *item = cache_item_alloc(cache, key, nkey, 0, exptime, request->nvalue, &result);

    if (item == NULL)
        return;
    memcpy(cache_item_value(item), value, request->nvalue);
    if (cache_store(cache, item, CACHE_SET, NULL) != CACHE_STORED)
        fail("store");
    if (!is_timed)
        return;
    cpu = seconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
    wall = seconds(CLOCK_MONOTONIC) - wall;
    max_cpu = cpu > max_cpu ? cpu : max_cpu;
    max_wall = wall > max_wall ? wall : max_wall;
}

static void cache_sets(const struct request *batch, size_t n, const bool *hits)
{
    for (size_t i = 0; i < n; i++)
        if (!hits[i])
            cache_set(&batch[i]);
}

static void cache_second(uint32_t second)
{
    cache_set_clock(cache, BEGIN + second);
    cache_crawl(cache, CRAWL);
}

static const struct target cache_target = {cache_gets, cache_sets, cache_second};

/* --- memcached --- */

static int fd;
static char output[BATCH * (VALUE_MAX + 64)];

static void write_all(const char *p, size_t n)
{
    while (n > 0) {
        ssize_t written = write(fd, p, n);

        if (written <= 0)
            fail("write");
        p += written;
        n -= (size_t)written;
    }
}

static char input[BATCH * (VALUE_MAX + 64)];
static size_t at, end; /* in input: read from there, up to there */

/* At least n bytes of input, or a line if n is 0, from `at` on. */
static char *need(size_t n)
{
    for (;;) {
        char *line_end = n == 0 ? memchr(&input[at], '\n', end - at) : NULL;
        ssize_t got;

        if (line_end != NULL || (n > 0 && end - at >= n)) {
            char *p = &input[at];

            at = line_end != NULL ? (size_t)(line_end + 1 - input) : at + n;
            return p;
        }
        if (at > 0) {
            memmove(input, &input[at], end - at);
            end -= at;
            at = 0;
        }
        got = read(fd, &input[end], sizeof(input) - end);
        if (got <= 0)
            fail("read");
        end += (size_t)got;
    }
}

static void memcached_gets(const struct request *batch, size_t n, bool *hits)
{
    size_t length = 0;

    for (size_t i = 0; i < n; i++)
        length += (size_t)sprintf(&output[length], "get %010u\r\n", batch[i].key);
    write_all(output, length);
    for (size_t i = 0; i < n; i++) {
        const char *line = need(0);
        unsigned long nvalue;

        hits[i] = line[0] == 'V';
        if (!hits[i])
            continue;
        if (sscanf(line, "VALUE %*s %*u %lu", &nvalue) != 1 || nvalue > VALUE_MAX)
            fail("a reply");
        need(nvalue + 2);
        need(0);
    }
}

static void memcached_sets(const struct request *batch, size_t n, const bool *hits)
{
    size_t length = 0, sent = 0;

    for (size_t i = 0; i < n; i++) {
        if (hits[i])
            continue;
        length +=
            (size_t)sprintf(&output[length], "set %010u 0 %u %u\r\n", batch[i].key, batch[i].ttl, batch[i].nvalue);
        memcpy(&output[length], value, batch[i].nvalue);
        length += batch[i].nvalue;
        memcpy(&output[length], "\r\n", 2);
        length += 2;
        sent++;
    }
    write_all(output, length);
    for (; sent > 0; sent--)
        need(0);
}

static void memcached_second(uint32_t second)
{
    static double begin;
    double wait;

    if (second == 0)
        begin = seconds(CLOCK_MONOTONIC);
    wait = begin + second - seconds(CLOCK_MONOTONIC);
    if (wait > 0)
        usleep((useconds_t)(wait * 1e6));
}

static const struct target memcached_target = {memcached_gets, memcached_sets, memcached_second};

static void open_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        fail(path);
}

/* --- both --- */

static long resident(void)
{
    long total, pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");

    if (file == NULL || fscanf(file, "%ld %ld", &total, &pages) != 2)
        fail("statm");
    fclose(file);
    return pages * sysconf(_SC_PAGESIZE);
}

static void replay(const struct target *target, const char *path)
{
    struct request batch[BATCH];
    bool hits[BATCH];
    uint32_t second = 0;
    unsigned long requests = 0, hit = 0, bytes = 0, bytes_hit = 0;
    long before = resident();
    FILE *file = fopen(path, "rb");
    size_t n;

    if (file == NULL)
        fail(path);
    target->set_second(0);
    while ((n = fread(batch, sizeof(batch[0]), BATCH, file)) > 0) {
        for (; second < batch[0].second; second++)
            target->set_second(second + 1);
        target->get(batch, n, hits);
        target->set(batch, n, hits);
        for (size_t i = 0; i < n; i++) {
            requests++;
            hit += hits[i];
            bytes += batch[i].nvalue;
            bytes_hit += hits[i] ? batch[i].nvalue : 0;
        }
    }
    fclose(file);
    printf("ratio=%.2f bytes_ratio=%.2f resident=%ld\n", (double)hit * 100 / (double)requests,
           (double)bytes_hit * 100 / (double)bytes, resident() - before);
}

static void fill(const struct target *target, unsigned long items)
{
    static const bool hits[BATCH];
    struct request batch[BATCH];
    double begin = seconds(CLOCK_MONOTONIC);
    long before = resident();

    target->set_second(0);
    for (unsigned long i = 0; i < items; i += BATCH) {
        size_t n = items - i < BATCH ? items - i : BATCH;

        for (size_t k = 0; k < n; k++)
            batch[k] = (struct request){.key = (uint32_t)(i + k), .nvalue = 100};
        target->set(batch, n, hits);
    }
    printf("ns_a_set=%.0f resident=%ld max_wall_ms=%.3f max_cpu_ms=%.3f\n",
           (seconds(CLOCK_MONOTONIC) - begin) * 1e9 / (double)items, resident() - before, max_wall * 1e3,
           max_cpu * 1e3);
}

int main(int argc, char **argv)
{
    bool fills = argc > 1 && strcmp(argv[1], "fill") == 0;
    const struct target *target = &memcached_target;
    char **args = argv + 1 + fills;
    int nargs = argc - 1 - fills;

    if (nargs != 2 && nargs != 3) {
        fprintf(stderr, "usage: replay TRACE MIB [UNIX-SOCKET]\n       replay fill ITEMS MIB [UNIX-SOCKET]\n");
        return 1;
    }
    memset(value, 'v', sizeof(value));
    if (nargs == 3) {
        open_socket(args[2]);
    } else {
        const struct cache_options options = {.limit = strtoull(args[1], NULL, 10) << 20, .evict = true, .seed = 1};

        target = &cache_target;
        if ((cache = cache_create(&options)) == NULL)
            fail("cache_create");
        is_timed = fills;
    }
    if (fills)
        fill(target, strtoul(args[0], NULL, 10));
    else
        replay(target, args[0]);
    cache_destroy(cache);
    return 0;
}
