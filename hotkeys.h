/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hotkeys - finds the keys of a pool that are asked for most, and those that are hot.
 *
 *   worker:  each key that is asked for --countdown--> one of so many: sample --> sketch: 128 keys, space-saving
 *   all:     sketches --merge, a few times a second--> the hot set: hashes that anyone reads, without a lock
 *
 * A worker counts down the keys of its requests, and looks closely at one whenever it comes to zero: few enough to cost
 * nothing (HOTKEYS_SAMPLES in a slice of a quarter of a second, about), and each one when there are no more than that,
 * so that low rates are exact. How many keys a sample stands for is drawn anew each time, or of a client that asks in a
 * pattern the same ones would be sampled always. Rates are those of the last second, in four slices.
 *
 * A sketch has a bounded number of keys. A key that it has not takes the place of the one that is asked for least, and
 * is reckoned to have been asked for as often (space-saving); but only by chance, the less likely the more that is (so
 * few of the keys that are asked for once get in). What is told is only what was seen of the key since it has come in,
 * which is never too much.
 *
 * A key is hot when the workers together are asked for it, for reading, rate_min times a second, and until it is less
 * than half of that. The hash has secrets: nobody can choose keys that are taken for one another.
 */
#ifndef HOTKEYS_H
#define HOTKEYS_H

#include "keyspec.h"
#include "request.h"
#include "util.h"

enum {
    HOTKEYS_TRACKED = 128, /* keys in a worker's sketch */
    HOTKEYS_HOT_MAX = 128, /* keys that may be hot at a time */
    HOTKEYS_SAMPLES = 1000,
    HOTKEYS_SLICES = 4,
    HOTKEYS_SLICE_US = 250000,
};

struct hotkeys;
struct hotkeys_sketch;

/* A worker's part: its own but for what others read of the sketch. All zero: nothing is sampled. */
struct hotkeys_worker {
    uint32_t countdown;
    struct hotkeys_sketch *sketch;
};

/* What is known of a key: how often it is asked for, per second. */
struct hotkey {
    uint8_t key[KEY_MAX];
    uint32_t len;
    uint32_t server;      /* index of its server in the pool */
    uint64_t rate;        /* of all commands for it */
    uint64_t read_rate;   /* of those that read it */
    uint64_t byte_rate;   /* bytes of its values, both ways */
    uint64_t pool_rate;   /* of all commands for any key, */
    uint64_t server_rate; /* and for those of its server */
    bool hot;
};

/* For a pool; rate_min is a second's. A seed is for tests; 0: secrets are random. NULL when memory ran out. */
struct hotkeys *hotkeys_create(uint32_t num_servers, uint32_t rate_min, uint64_t seed) MUST_CHECK;

/* Every worker has left it. NULL is allowed. */
void hotkeys_destroy(struct hotkeys *h);

/* A worker takes part, from now_us on. False when memory ran out; *w is as it was. */
bool hotkeys_join(struct hotkeys *h, struct hotkeys_worker *w, uint64_t now_us) MUST_CHECK;
void hotkeys_leave(struct hotkeys_worker *w);

/* For each key that is asked for. Whether hotkeys_sample is to be told of it. */
static inline bool hotkeys_is_due(struct hotkeys_worker *w)
{
    return UNLIKELY(--w->countdown == 0);
}

/* It was asked for at now_us; bytes: of its value. */
void hotkeys_sample(struct hotkeys_worker *w, const struct rkey *key, uint32_t server, uint64_t bytes, bool is_read,
                    uint64_t now_us);

/* To be called every second, about: a worker that is asked for nothing has cold keys. */
void hotkeys_tick(struct hotkeys_worker *w, uint64_t now_us);

/* Any thread: whether the key is hot. It is a few ns if none is. */
bool hotkeys_is_hot(const struct hotkeys *h, const uint8_t *key, size_t len);

/* Whether the key matches, or is hot where the spec has "@hot" and not excluded. h may be NULL: nothing is hot. */
static inline bool hotkeys_match(const struct hotkeys *h, const struct keyspec *spec, const uint8_t *key, size_t len)
{
    return keyspec_match(spec, key, len) ||
           (spec->hot && h != NULL && !keyspec_excludes(spec, key, len) && hotkeys_is_hot(h, key, len));
}

/* Any thread: the keys that are asked for most, the first most of all. Returns how many these are, up to max. */
uint32_t hotkeys_top(struct hotkeys *h, struct hotkey *out, uint32_t max);

#endif
