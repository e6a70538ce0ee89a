/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_front - the near cache (cproxy_front.c): what is kept, for how long, and how much of it; and a worker's copies
 * of what is there (cproxy_pocket.c). Time is made up here.
 */
#include <pthread.h>
#include <stdlib.h>

#include "cproxy_pocket.h"
#include "tap.h"

enum {
    LIFESPAN_MS = 100,
    THREADS = 4,
    TURNS = 50000,
    KEYS = 40,
};

#define MS UINT64_C(1000)
#define START (1000000 * MS)

static struct settings settings;
static struct guard *guard;
static struct front *front;
static struct counters counters;

static void begin(void)
{
    memset(&counters, 0, sizeof(counters));
    guard = guard_create();
    front = guard != NULL ? front_create(&settings, guard, NULL) : NULL;
    if (front == NULL)
        exit(1);
}

static void end(void)
{
    front_destroy(front);
    guard_destroy(guard);
    settings_init(&settings);
    settings.front_cache_lifespan_ms = LIFESPAN_MS;
    settings.front_cache_max = 1000;
    strcpy(settings.front_cache_spec, "@all");
}

static struct rkey key_of(const char *text)
{
    return (struct rkey){.p = (const uint8_t *)text, .len = (uint32_t)strlen(text)};
}

static uint64_t hash_of(const struct rkey *key)
{
    return keyhash_of(&guard->hash, key->p, key->len);
}

static struct guard_ticket ask(const char *text)
{
    struct rkey key = key_of(text);

    return guard_ask(guard, hash_of(&key));
}

static void fill_with(const char *text, const char *value, const struct facts *facts, unsigned knows,
                      struct guard_ticket ticket, uint64_t now)
{
    struct rkey key = key_of(text);
    size_t len = strlen(value);
    struct cache_item *item = front_begin_fill(front, &key, len, facts, knows, &counters);

    if (item == NULL)
        return;
    front_fill(item, 0, (const uint8_t *)value, len / 2);
    front_fill(item, len / 2, (const uint8_t *)value + len / 2, len - len / 2);
    front_end_fill(front, hash_of(&key), item, &ticket, now, &counters);
}

static void fill(const char *text, const char *value, uint64_t now)
{
    const struct facts facts = {.flags = 7};

    fill_with(text, value, &facts, 0, ask(text), now);
}

static void fill_miss(const char *text, uint64_t now)
{
    struct rkey key = key_of(text);
    struct guard_ticket ticket = ask(text);

    front_fill_miss(front, hash_of(&key), &key, &ticket, now, &counters);
}

static enum front_result look(const char *text, unsigned needs, uint64_t now)
{
    struct rkey key = key_of(text);
    struct front_hit hit;
    enum front_result result = front_get(front, hash_of(&key), &key, needs, now, &counters, &hit);

    if (result == FRONT_HIT)
        cache_item_release(hit.item);
    return result;
}

static bool has(const char *text, const char *value, uint64_t now)
{
    struct rkey key = key_of(text);
    struct front_hit hit;
    bool is_right;

    if (front_get(front, hash_of(&key), &key, 0, now, &counters, &hit) != FRONT_HIT)
        return false;
    is_right = hit.value_len == strlen(value) && memcmp(hit.value, value, hit.value_len) == 0 &&
               memcmp(hit.value + hit.value_len, "\r\n", 2) == 0 && hit.facts.flags == 7 &&
               hit.facts.size == hit.value_len;
    cache_item_release(hit.item);
    return is_right;
}

/* A client asks: from here, or a server. */
static void visit(const char *text, uint64_t now)
{
    struct rkey key = key_of(text);

    if (front_is_stranger(front, hash_of(&key)))
        front_meet(front, hash_of(&key), &counters);
    else if (look(text, 0, now) == FRONT_ASK)
        fill(text, "value", now);
}

static void forget(const char *text)
{
    struct rkey key = key_of(text);

    front_forget(front, hash_of(&key), &key, &counters);
}

static void check_life(void)
{
    begin();
    check(look("k", 0, START) == FRONT_ASK, "what was never kept is asked for");
    fill("k", "value", START);
    check(has("k", "value", START), "what was kept is given");
    check(has("k", "value", START + LIFESPAN_MS * MS - 1), "to the end of its lifespan");
    check(look("k", 0, START + LIFESPAN_MS * MS) == FRONT_ASK, "and not a microsecond longer");
    check(front_sums(front).items == 0, "what is over is thrown away");
    fill("k", "", START);
    fill("k", "another", START + 1);
    check(has("k", "another", START + 2) && front_sums(front).items == 1, "what comes later takes its place");
    forget("k");
    check(look("k", 0, START + 2) == FRONT_ASK && front_sums(front).items == 0, "a write takes it out");
    end();
}

static void check_lengths(void)
{
    char key[KEY_MAX + 1], value[300];
    bool are_right = true;

    begin();
    for (size_t n = 1; n <= KEY_MAX; n++) {
        memset(key, 'a', n);
        key[n] = '\0';
        memset(value, 'v', n);
        value[n] = '\0';
        fill(key, value, START);
        are_right &= has(key, value, START);
    }
    check(are_right, "keys and values of any length");
    end();
}

static void check_tickets(void)
{
    const struct facts facts = {.flags = 7};
    struct guard_ticket before;
    struct rkey key = key_of("k");
    uint64_t hash;

    begin();
    hash = hash_of(&key);
    before = ask("k");
    guard_begin(guard, hash);
    fill_with("k", "old", &facts, 0, before, START);
    fill("k", "old", START);
    check(look("k", 0, START) == FRONT_ASK, "nothing is kept while a write is on its way");
    guard_end(guard, hash);
    fill_with("k", "old", &facts, 0, before, START);
    check(look("k", 0, START) == FRONT_ASK && front_sums(front).items == 0, "nor what was asked for before it");
    fill("k", "new", START);
    check(has("k", "new", START), "but what was asked for after it");
    guard_begin_all(guard);
    check(look("k", 0, START) == FRONT_ASK, "a write of all keys takes it away");
    guard_end_all(guard);
    check(look("k", 0, START) == FRONT_ASK, "for good");
    fill("k", "new", START);
    check(has("k", "new", START), "until it is read again");
    end();
}

static void check_needs(void)
{
    const struct facts facts = {.flags = 7, .unique = 99};

    begin();
    fill("k", "value", START);
    check(look("k", FRONT_UNIQUE, START) == FRONT_ASK, "who needs more than is known asks");
    fill_with("k", "value", &facts, FRONT_UNIQUE | FRONT_KEY, ask("k"), START);
    check(look("k", FRONT_UNIQUE, START) == FRONT_HIT && look("k", FRONT_STATE, START) == FRONT_ASK &&
              has("k", "value", START),
          "who needs less does not");
    end();
}

static void check_misses(void)
{
    begin();
    fill_miss("k", START);
    check(look("k", 0, START) == FRONT_ASK, "misses are not kept unless it is said for how long");
    fill("k", "value", START);
    fill_miss("k", START);
    check(look("k", 0, START) == FRONT_ASK, "but end what was kept");
    end();
    settings.front_cache_miss_lifespan_ms = 10;
    settings.front_cache_stale_ms = 1000;
    begin();
    fill_miss("k", START);
    check(look("k", FRONT_UNIQUE | FRONT_STATE | FRONT_KEY, START + 10 * MS - 1) == FRONT_MISS, "then they are");
    check(look("k", 0, START + 10 * MS) == FRONT_ASK, "for no longer, nor stale");
    end();
}

static void check_stale(void)
{
    const uint64_t over = START + LIFESPAN_MS * MS, patience = 5000 * MS;

    settings.front_cache_stale_ms = 60000;
    begin();
    fill("k", "value", START);
    check(look("k", 0, over) == FRONT_ASK, "past its lifespan one is sent to renew it");
    check(has("k", "value", over) && has("k", "value", over + patience - 1), "the others have the old value");
    check(look("k", 0, over + patience) == FRONT_ASK, "until he must have failed: then another is sent");
    check(counters.front.tot_get_stale == 2, "such hits are counted");
    fill("k", "renewed", over + patience);
    check(has("k", "renewed", over + patience + 1), "what he brings takes its place");
    check(look("k", 0, over + patience + (LIFESPAN_MS + 60000) * MS) == FRONT_ASK && front_sums(front).items == 0,
          "nobody has it when that time is over, too");
    end();
}

static void check_flush_later(void)
{
    const uint64_t second = 1000 * MS;

    settings.front_cache_lifespan_ms = 600000;
    begin();
    front_flush_later(front, 10, START);
    fill("k", "value", START);
    check(has("k", "value", START + 8 * second - 1), "what is kept lives until shortly before a flush_all to come");
    check(look("k", 0, START + 8 * second) == FRONT_ASK, "and no longer");
    fill("k", "value", START + 9 * second);
    fill("k", "value", START + 12 * second - 1);
    check(look("k", 0, START + 12 * second) == FRONT_ASK, "nothing is kept about its time");
    fill("k", "value", START + 12 * second);
    check(has("k", "value", START + 30 * second), "and all as ever after it");
    for (uint32_t i = 100; i < 200; i++)
        front_flush_later(front, i, START);
    fill("k", "value", START);
    check(has("k", "value", START + 98 * second - 1) && look("k", 0, START + 98 * second) == FRONT_ASK,
          "the first of many counts");
    fill("k", "value", START + 199 * second);
    check(look("k", 0, START + 199 * second) == FRONT_ASK, "and the last");
    end();
}

static void check_room(void)
{
    char key[16];
    unsigned n = 0;

    settings.front_cache_max = 10;
    begin();
    for (int i = 0; i < 10; i++) {
        snprintf(key, sizeof(key), "key%d", i);
        visit(key, START);
    }
    check(front_sums(front).items == 10, "as many keys are kept as may be");
    visit("more", START);
    check(front_sums(front).items == 10 && counters.front.tot_add_skips == 1, "one more is not");
    for (int i = 0; i < 9; i++) {
        snprintf(key, sizeof(key), "key%d", i);
        n += has(key, "value", START);
    }
    visit("more", START);
    check(n == 9 && has("more", "value", START), "but when it comes again");
    for (int i = 0; i < 9; i++) {
        snprintf(key, sizeof(key), "key%d", i);
        n -= has(key, "value", START);
    }
    check(front_sums(front).items == 10 && n == 0, "in place of what nobody has asked for");
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof(key), "late%d", i / 2);
        visit(key, START + LIFESPAN_MS * MS);
    }
    check(front_sums(front).items <= 10 && front_sums(front).items >= 5 &&
              has("late9", "value", START + LIFESPAN_MS * MS),
          "what is over goes without having been asked for");
    end();
    settings.front_cache_bytes = 1 << 20;
    begin();
    check(front_begin_fill(front, &(struct rkey){.p = (const uint8_t *)"k", .len = 1}, (1 << 18) + 1,
                           &(struct facts){0}, 0, &counters) == NULL &&
              counters.front.tot_add_fails == 1,
          "a value of more than a quarter is not kept");
    end();
}

static void check_spec(void)
{
    const struct rkey user = key_of("user:1"), admin = key_of("user:admin"), other = key_of("x");

    strcpy(settings.front_cache_spec, "user:|session:");
    strcpy(settings.front_cache_unspec, "user:admin");
    begin();
    check(front_wants(front, &user) && !front_wants(front, &admin) && !front_wants(front, &other),
          "keys are chosen by their prefixes");
    end();
}

/* Reads and writes a few keys: every value says how often its key had been written when it was read. */
static atomic_uint written[KEYS];
static atomic_bool was_older;

static void write_key(const char *text, unsigned k, struct counters *n)
{
    struct rkey key = key_of(text);

    guard_begin(guard, hash_of(&key));
    front_forget(front, hash_of(&key), &key, n);
    atomic_fetch_add(&written[k], 1);
    guard_end(guard, hash_of(&key));
}

static struct pocket *make_pocket(void)
{
    struct pocket *pocket = pocket_create(front, guard);

    if (pocket == NULL)
        exit(1);
    return pocket;
}

/* What a worker finds: an item, a copy, or neither. */
enum found { FOUND_NONE, FOUND_ITEM, FOUND_COPY };

static enum found find(struct pocket *pocket, const char *text, const char *value, unsigned needs, uint64_t now)
{
    struct rkey key = key_of(text);
    struct front_hit hit;
    enum found found;

    if (pocket_get(pocket, hash_of(&key), &key, needs, now, &counters, &hit) != FRONT_HIT)
        return FOUND_NONE;
    found = hit.item != NULL ? FOUND_ITEM : FOUND_COPY;
    if (hit.value_len != strlen(value) || memcmp(hit.value, value, hit.value_len) != 0 ||
        memcmp(hit.value + hit.value_len, "\r\n", 2) != 0 || hit.facts.flags != 7 || hit.facts.size != hit.value_len)
        found = FOUND_NONE;
    front_hit_release(&hit);
    return found;
}

/* Finds it until there is a copy. Whether there is one soon. */
static bool is_copied(struct pocket *pocket, const char *text, const char *value, unsigned needs)
{
    for (int i = 0; i < 3; i++)
        if (find(pocket, text, value, needs, START) == FOUND_COPY)
            return true;
    return false;
}

static void check_copies(void)
{
    const struct facts facts = {.flags = 7};
    struct pocket *pocket;
    int copies = 0, items = 0;

    begin();
    pocket = make_pocket();
    check(find(pocket, "k", "", 0, START) == FOUND_NONE && find(pocket, "k", "", 0, START) == FOUND_NONE,
          "a copy is of what is there");
    fill_with("k", "value", &facts, FRONT_STATE, ask("k"), START);
    check(find(pocket, "other", "", 0, START) == FOUND_NONE && is_copied(pocket, "k", "value", 0),
          "what is asked for again and again is copied");
    check(find(pocket, "k", "value", FRONT_STATE, START) == FOUND_COPY, "with what is known of it");
    check(find(pocket, "k", "value", FRONT_UNIQUE, START) == FOUND_NONE, "and nothing else");
    check(is_copied(pocket, "k", "value", 0) &&
              find(pocket, "k", "value", 0, START + LIFESPAN_MS * MS - 1) == FOUND_COPY &&
              find(pocket, "k", "value", 0, START + LIFESPAN_MS * MS) == FOUND_NONE,
          "a copy lives as long as the item");
    fill("k", "", START);
    check(is_copied(pocket, "k", "", 0), "an empty value is copied");
    write_key("k", 0, &counters);
    check(find(pocket, "k", "", 0, START) == FOUND_NONE, "and no more given when it is written");
    fill("k", "a longer value than before", START);
    check(is_copied(pocket, "k", "a longer value than before", 0), "the next takes its place");
    guard_begin_all(guard);
    guard_end_all(guard);
    check(find(pocket, "k", "", 0, START) == FOUND_NONE, "until all is flushed");
    fill("k", "value", START);
    for (int i = 0; i < 1000; i++) {
        enum found found = find(pocket, "k", "value", 0, START);

        copies += found == FOUND_COPY;
        items += found == FOUND_ITEM;
    }
    check(copies + items == 1000 && items >= 10 && items <= 50, "now and then it is the item that is looked for");
    pocket_destroy(pocket);
    end();
}

/* What a thread has of its own. */
struct worker {
    struct counters counters;
    struct pocket *pocket;
};

static void read_key(const char *text, unsigned k, struct worker *worker)
{
    struct counters *n = &worker->counters;
    const struct facts facts = {0};
    unsigned least = atomic_load(&written[k]), value;
    struct rkey key = key_of(text);
    struct guard_ticket ticket;
    struct cache_item *item;
    struct front_hit hit;

    if (front_is_stranger(front, hash_of(&key))) {
        front_meet(front, hash_of(&key), n);
        return;
    }
    switch (pocket_get(worker->pocket, hash_of(&key), &key, 0, START, n, &hit)) {
    case FRONT_HIT:
        memcpy(&value, hit.value, sizeof(value));
        front_hit_release(&hit);
        if (value < least)
            atomic_store(&was_older, true);
        return;
    case FRONT_ASK:
        break;
    default:
        return;
    }
    ticket = guard_ask(guard, hash_of(&key));
    value = atomic_load(&written[k]);
    item = front_begin_fill(front, &key, sizeof(value), &facts, 0, n);
    if (item == NULL)
        return;
    front_fill(item, 0, (const uint8_t *)&value, sizeof(value));
    front_end_fill(front, hash_of(&key), item, &ticket, START, n);
}

static void *work(void *arg)
{
    static struct worker workers[THREADS];
    struct worker *worker = &workers[(uintptr_t)arg];
    uint64_t state = (uintptr_t)arg * 7919 + 1;
    char text[16];

    worker->pocket = make_pocket();
    for (int i = 0; i < TURNS; i++) {
        unsigned k = (unsigned)((state = state * UINT64_C(6364136223846793005) + 1442695040888963407) >> 33) % KEYS;

        snprintf(text, sizeof(text), "key%u", k);
        if (state >> 60 == 0)
            write_key(text, k, &worker->counters);
        else
            read_key(text, k, worker);
    }
    pocket_destroy(worker->pocket);
    return NULL;
}

static void check_threads(void)
{
    pthread_t threads[THREADS];
    char text[16];

    settings.front_cache_max = KEYS / 2;
    begin();
    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)i) != 0)
            exit(1);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    check(!atomic_load(&was_older), "threads that read and write never find what is older than a write that has ended");
    check(front_sums(front).items <= KEYS / 2, "nor keep more than they may");
    for (unsigned k = 0; k < KEYS; k++) {
        snprintf(text, sizeof(text), "key%u", k);
        forget(text);
    }
    check(front_sums(front).items == 0 && front_sums(front).bytes == 0, "what is counted is what is there");
    end();
}

int main(void)
{
    settings_init(&settings);
    settings.front_cache_lifespan_ms = LIFESPAN_MS;
    settings.front_cache_max = 1000;
    strcpy(settings.front_cache_spec, "@all");
    check_life();
    check_lengths();
    check_tickets();
    check_needs();
    check_misses();
    check_stale();
    check_flush_later();
    check_room();
    check_spec();
    check_copies();
    check_threads();
    return tap_end();
}
