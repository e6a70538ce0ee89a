/* SPDX-License-Identifier: BSD-3-Clause */
/* hotkeys - the keys that are asked for most: see hotkeys.h. */
#include "hotkeys.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "keyhash.h"

enum { HOT_PLACES = 4 * HOTKEYS_HOT_MAX };

_Static_assert(HOTKEYS_SLICES *HOTKEYS_SLICE_US == 1000000, "the sum of all slices is a rate per second");
_Static_assert((HOT_PLACES & (HOT_PLACES - 1)) == 0, "a place in the hot set is some bits of a hash");

struct tally {
    uint64_t count;
    uint64_t reads;
    uint64_t bytes;
};

/* The last second, of a key or of a server. */
struct series {
    struct tally slices[HOTKEYS_SLICES];
    struct tally rate; /* what the slices had in all when the last one ended */
};

struct entry {
    struct series series; /* of what was seen since the key has come in */
    uint64_t inherited;   /* what it was reckoned to have had before, which ages with it */
    uint32_t server;
    uint32_t len;
    uint8_t key[KEY_MAX];
};

/* What a worker has seen. Only that worker writes it, with the mutex locked; others lock it to read the rates. */
struct hotkeys_sketch {
    struct hotkeys *shared;
    struct hotkeys_sketch *next; /* link in shared->sketches */
    pthread_mutex_t mutex;
    struct entry entries[HOTKEYS_TRACKED];
    uint64_t hashes[HOTKEYS_TRACKED]; /* of the entries' keys; 0: it has none */
    uint64_t
        orders[HOTKEYS_TRACKED]; /* by which the least is found: what is in its slices, and what it has inherited */
    struct series *servers;      /* one a server of the pool */

    /* this worker only */
    uint64_t slice_us; /* when the present slice began */
    uint32_t slice;    /* which it is */
    uint32_t samples;  /* that were taken in it */
    uint64_t seen;     /* keys that they stand for */
    uint64_t interval; /* keys that the next sample but one stands for, */
    uint64_t weight;   /* and the next one */
    uint64_t random;
};

/* A key's rates, in one sketch or in all of them. */
struct item {
    uint64_t hash;
    struct tally rate;
};

struct hotkeys {
    /* immutable after create */
    struct keyhash keyhash;
    uint32_t num_servers;
    uint32_t rate_min;

    /* under the mutex, which is taken before a sketch's */
    pthread_mutex_t mutex;
    struct hotkeys_sketch *sketches;
    uint32_t num_sketches;
    struct item *items; /* room for all keys of all sketches */
    uint64_t merge_us;  /* when they may be merged again */

    /* written under the mutex, and read without: a reader may miss a change for a moment, no more */
    _Atomic uint32_t num_hot;
    _Atomic uint64_t hot[HOT_PLACES]; /* hashes; 0: none */
};

/* --- a series --- */

static void add_tally(struct tally *to, const struct tally *from)
{
    to->count += from->count;
    to->reads += from->reads;
    to->bytes += from->bytes;
}

static struct tally sum_of(const struct series *s)
{
    struct tally sum = {0};

    for (unsigned i = 0; i < HOTKEYS_SLICES; i++)
        add_tally(&sum, &s->slices[i]);
    return sum;
}

/* --- the sketch: one worker, with its mutex locked --- */

static uint64_t hash_of(const struct hotkeys *h, const uint8_t *key, size_t len)
{
    uint64_t hash = keyhash_of(&h->keyhash, key, len);

    return hash != 0 ? hash : 1;
}

static struct entry *find(struct hotkeys_sketch *s, uint64_t hash)
{
    for (unsigned i = 0; i < HOTKEYS_TRACKED; i++)
        if (s->hashes[i] == hash)
            return &s->entries[i];
    return NULL;
}

static uint64_t next_random(struct hotkeys_sketch *s)
{
    /* xorshift64 */
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return s->random >> 32;
}

/*
 * A key that the sketch has not may take the place of the one that is asked for least, and what that is reckoned to
 * have: the more that is, the less likely, or keys that are seen once would drive out all but the very hottest. NULL:
 * it does not, this time.
 */
static struct entry *replace_least(struct hotkeys_sketch *s, uint64_t hash, const struct rkey *key, uint32_t server)
{
    struct entry *e;
    unsigned least = 0;

    for (unsigned i = 1; i < HOTKEYS_TRACKED; i++)
        if (s->orders[i] < s->orders[least])
            least = i;
    if (next_random(s) % (s->orders[least] + s->weight) >= s->weight)
        return NULL;
    e = &s->entries[least];
    memset(&e->series, 0, sizeof(e->series));
    e->inherited = s->orders[least];
    e->server = server;
    e->len = key->len;
    memcpy(e->key, key->p, key->len);
    s->hashes[least] = hash;
    return e;
}

/* A new slice begins, in the place of the oldest. */
static void advance(struct hotkeys_sketch *s)
{
    s->slice = (s->slice + 1) % HOTKEYS_SLICES;
    for (unsigned i = 0; i < HOTKEYS_TRACKED; i++) {
        struct entry *e = &s->entries[i];

        memset(&e->series.slices[s->slice], 0, sizeof(struct tally));
        e->inherited = e->inherited * (HOTKEYS_SLICES - 1) / HOTKEYS_SLICES;
        s->orders[i] = sum_of(&e->series).count + e->inherited;
    }
    for (uint32_t i = 0; i < s->shared->num_servers; i++)
        memset(&s->servers[i].slices[s->slice], 0, sizeof(struct tally));
}

static void set_rates(struct hotkeys_sketch *s)
{
    for (unsigned i = 0; i < HOTKEYS_TRACKED; i++)
        s->entries[i].series.rate = sum_of(&s->entries[i].series);
    for (uint32_t i = 0; i < s->shared->num_servers; i++)
        s->servers[i].rate = sum_of(&s->servers[i]);
}

/* --- all sketches together: with the shared mutex locked --- */

static int by_hash(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    return (x->hash > y->hash) - (x->hash < y->hash);
}

static int by_reads(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    return (y->rate.reads > x->rate.reads) - (y->rate.reads < x->rate.reads);
}

static int by_count(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    return (y->rate.count > x->rate.count) - (y->rate.count < x->rate.count);
}

/* Fills h->items with the keys of all sketches, each once. Returns how many they are. */
static size_t gather(struct hotkeys *h)
{
    size_t n = 0, merged = 0;

    for (struct hotkeys_sketch *s = h->sketches; s != NULL; s = s->next) {
        pthread_mutex_lock(&s->mutex);
        for (unsigned i = 0; i < HOTKEYS_TRACKED; i++)
            if (s->entries[i].series.rate.count > 0)
                h->items[n++] = (struct item){s->hashes[i], s->entries[i].series.rate};
        pthread_mutex_unlock(&s->mutex);
    }
    qsort(h->items, n, sizeof(*h->items), by_hash);
    for (size_t i = 0; i < n; i++) {
        if (merged > 0 && h->items[merged - 1].hash == h->items[i].hash)
            add_tally(&h->items[merged - 1].rate, &h->items[i].rate);
        else
            h->items[merged++] = h->items[i];
    }
    return merged;
}

/* Where the hash is in the hot set, or would be. */
static size_t place_of(const _Atomic uint64_t *hot, uint64_t hash)
{
    size_t place = hash % HOT_PLACES;
    uint64_t there;

    while ((there = atomic_load_explicit(&hot[place], memory_order_relaxed)) != 0 && there != hash)
        place = (place + 1) % HOT_PLACES;
    return place;
}

static bool is_hot(const struct hotkeys *h, uint64_t hash)
{
    return atomic_load_explicit(&h->hot[place_of(h->hot, hash)], memory_order_relaxed) != 0;
}

/* Makes the set of hot keys anew. */
static void find_hot(struct hotkeys *h)
{
    _Atomic uint64_t hot[HOT_PLACES] = {0};
    size_t n = gather(h);
    uint32_t num_hot = 0;

    qsort(h->items, n, sizeof(*h->items), by_reads);
    for (size_t i = 0; i < n && num_hot < HOTKEYS_HOT_MAX; i++) {
        uint64_t hash = h->items[i].hash, reads = h->items[i].rate.reads;

        if (2 * reads < h->rate_min)
            break;
        if (reads >= h->rate_min || is_hot(h, hash)) {
            atomic_store_explicit(&hot[place_of(hot, hash)], hash, memory_order_relaxed);
            num_hot++;
        }
    }
    for (size_t i = 0; i < HOT_PLACES; i++)
        atomic_store_explicit(&h->hot[i], atomic_load_explicit(&hot[i], memory_order_relaxed), memory_order_relaxed);
    atomic_store_explicit(&h->num_hot, num_hot, memory_order_relaxed);
}

/*
 * Some worker's rates have changed. What is hot is looked at once a slice, about, however many workers there are; and
 * at each of their ticks, for these may be all that comes.
 */
static void merge(struct hotkeys *h, uint64_t now_us, bool is_tick)
{
    pthread_mutex_lock(&h->mutex);
    if (is_tick || now_us >= h->merge_us) {
        /* A little early: their slices do not end at the same time. */
        h->merge_us = now_us + HOTKEYS_SLICE_US / 2;
        find_hot(h);
    }
    pthread_mutex_unlock(&h->mutex);
}

/* --- sampling --- */

/* How many keys are passed over until the next sample: between 1 and twice the interval, the interval on average. */
static void draw(struct hotkeys_worker *w)
{
    struct hotkeys_sketch *s = w->sketch;

    s->weight = s->interval;
    w->countdown = 1 + (uint32_t)(next_random(s) % (2 * s->interval - 1));
}

/* Slices have ended, the present one and maybe others in which nothing was seen. */
static void end_slices(struct hotkeys_sketch *s, uint64_t now_us, bool is_tick)
{
    uint64_t n = (now_us - s->slice_us) / HOTKEYS_SLICE_US;

    pthread_mutex_lock(&s->mutex);
    for (uint64_t i = 1; i < n && i <= HOTKEYS_SLICES; i++)
        advance(s);
    set_rates(s);
    advance(s);
    pthread_mutex_unlock(&s->mutex);
    s->interval = 1 + s->seen / n / HOTKEYS_SAMPLES;
    s->seen = 0;
    s->samples = 0;
    s->slice_us += n * HOTKEYS_SLICE_US;
    merge(s->shared, now_us, is_tick);
}

static bool slice_has_ended(const struct hotkeys_sketch *s, uint64_t now_us)
{
    return now_us >= s->slice_us + HOTKEYS_SLICE_US;
}

static void count(struct hotkeys_sketch *s, const struct rkey *key, uint32_t server, const struct tally *add)
{
    uint64_t hash = hash_of(s->shared, key->p, key->len);
    struct entry *e;

    pthread_mutex_lock(&s->mutex);
    e = find(s, hash);
    if (e == NULL)
        e = replace_least(s, hash, key, server);
    if (e != NULL) {
        s->orders[e - s->entries] += add->count;
        add_tally(&e->series.slices[s->slice], add);
    }
    add_tally(&s->servers[server].slices[s->slice], add);
    pthread_mutex_unlock(&s->mutex);
}

void hotkeys_sample(struct hotkeys_worker *w, const struct rkey *key, uint32_t server, uint64_t bytes, bool is_read,
                    uint64_t now_us)
{
    struct hotkeys_sketch *s = w->sketch;

    if (s == NULL)
        return;
    if (slice_has_ended(s, now_us))
        end_slices(s, now_us, false);
    count(s, key, server, &(struct tally){s->weight, is_read ? s->weight : 0, s->weight * bytes});
    s->seen += s->weight;
    /* More comes than in the slice before: it must not cost more. */
    if (++s->samples % HOTKEYS_SAMPLES == 0)
        s->interval *= 2;
    draw(w);
}

void hotkeys_tick(struct hotkeys_worker *w, uint64_t now_us)
{
    struct hotkeys_sketch *s = w->sketch;

    if (s == NULL || !slice_has_ended(s, now_us))
        return;
    end_slices(s, now_us, true);
    /* What is to be passed over was drawn when there was more. */
    draw(w);
}

/* --- what others ask --- */

bool hotkeys_is_hot(const struct hotkeys *h, const uint8_t *key, size_t len)
{
    if (LIKELY(atomic_load_explicit(&h->num_hot, memory_order_relaxed) == 0))
        return false;
    return is_hot(h, hash_of(h, key, len));
}

/* Finds the key in any sketch. False: it has been replaced in all of them just now. */
static bool find_key(const struct hotkeys *h, uint64_t hash, struct hotkey *out)
{
    struct entry *e = NULL;

    for (struct hotkeys_sketch *s = h->sketches; s != NULL && e == NULL; s = s->next) {
        pthread_mutex_lock(&s->mutex);
        e = find(s, hash);
        if (e != NULL) {
            memcpy(out->key, e->key, e->len);
            out->len = e->len;
            out->server = e->server;
        }
        pthread_mutex_unlock(&s->mutex);
    }
    return e != NULL;
}

/* What is asked of the pool, and of that server. */
static void add_totals(const struct hotkeys *h, struct hotkey *out)
{
    out->pool_rate = 0;
    out->server_rate = 0;
    for (struct hotkeys_sketch *s = h->sketches; s != NULL; s = s->next) {
        pthread_mutex_lock(&s->mutex);
        for (uint32_t i = 0; i < h->num_servers; i++)
            out->pool_rate += s->servers[i].rate.count;
        out->server_rate += s->servers[out->server].rate.count;
        pthread_mutex_unlock(&s->mutex);
    }
    /* Another slice may have ended since the key's rate was read. */
    if (out->server_rate < out->rate)
        out->server_rate = out->rate;
    if (out->pool_rate < out->server_rate)
        out->pool_rate = out->server_rate;
}

uint32_t hotkeys_top(struct hotkeys *h, struct hotkey *out, uint32_t max)
{
    uint32_t found = 0;
    size_t n;

    pthread_mutex_lock(&h->mutex);
    n = gather(h);
    qsort(h->items, n, sizeof(*h->items), by_count);
    for (size_t i = 0; i < n && found < max; i++) {
        struct hotkey *k = &out[found];

        if (!find_key(h, h->items[i].hash, k))
            continue;
        k->rate = h->items[i].rate.count;
        k->read_rate = h->items[i].rate.reads;
        k->byte_rate = h->items[i].rate.bytes;
        k->hot = is_hot(h, h->items[i].hash);
        add_totals(h, k);
        found++;
    }
    pthread_mutex_unlock(&h->mutex);
    return found;
}

/* --- life --- */

struct hotkeys *hotkeys_create(uint32_t num_servers, uint32_t rate_min, uint64_t seed)
{
    struct hotkeys *h = calloc(1, sizeof(*h));

    if (h == NULL)
        return NULL;
    keyhash_setup(&h->keyhash, seed);
    pthread_mutex_init(&h->mutex, NULL);
    h->num_servers = num_servers;
    h->rate_min = rate_min;
    return h;
}

void hotkeys_destroy(struct hotkeys *h)
{
    if (h == NULL)
        return;
    pthread_mutex_destroy(&h->mutex);
    free(h->items);
    free(h);
}

static struct hotkeys_sketch *make_sketch(struct hotkeys *h, uint64_t now_us)
{
    struct hotkeys_sketch *s = calloc(1, sizeof(*s) + h->num_servers * sizeof(*s->servers));

    if (s == NULL)
        return NULL;
    s->shared = h;
    s->servers = (struct series *)(s + 1);
    pthread_mutex_init(&s->mutex, NULL);
    s->slice_us = now_us;
    s->interval = 1;
    s->random = (h->keyhash.secrets[0] ^ keyhash_of(&h->keyhash, &h->num_sketches, sizeof(h->num_sketches))) | 1;
    return s;
}

bool hotkeys_join(struct hotkeys *h, struct hotkeys_worker *w, uint64_t now_us)
{
    struct hotkeys_sketch *s;
    struct item *items;

    pthread_mutex_lock(&h->mutex);
    items = realloc(h->items, (h->num_sketches + 1) * HOTKEYS_TRACKED * sizeof(*items));
    if (items != NULL)
        h->items = items;
    s = items != NULL ? make_sketch(h, now_us) : NULL;
    if (s != NULL) {
        s->next = h->sketches;
        h->sketches = s;
        h->num_sketches++;
        w->sketch = s;
        draw(w);
    }
    pthread_mutex_unlock(&h->mutex);
    return s != NULL;
}

void hotkeys_leave(struct hotkeys_worker *w)
{
    struct hotkeys_sketch *s = w->sketch, **link;

    if (s == NULL)
        return;
    pthread_mutex_lock(&s->shared->mutex);
    for (link = &s->shared->sketches; *link != s; link = &(*link)->next)
        ;
    *link = s->next;
    s->shared->num_sketches--;
    pthread_mutex_unlock(&s->shared->mutex);
    pthread_mutex_destroy(&s->mutex);
    free(s);
    *w = (struct hotkeys_worker){0};
}
