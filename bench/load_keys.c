/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * load_keys.c - keys and their values, and which key is asked for next.
 *
 * Flags and value follow from a key's number, and the choice of keys from the seed, so two runs with one seed ask for
 * the same, and what one run has stored another one can check.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "load.h"

/* ---- what they are ---- */

static uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    *state = x;
    return x;
}

/* The name says the size, so that runs with different sizes may share servers. Flags follow from the number. */
static void make_key(struct key *key, unsigned i, uint64_t value_size)
{
    char name[32];
    unsigned flags = (i * 2654435761u) >> 16;

    key->name_len = (uint8_t)snprintf(name, sizeof(name), "b%" PRIu64 "-%07u", value_size, i);
    key->flags_end = (uint8_t)(HEAD_NAME + key->name_len + snprintf(NULL, 0, " %u", flags));
    int len = snprintf(key->head, sizeof(key->head), "VALUE %s %u %" PRIu64 "\r\n", name, flags, value_size);
    key->head_len = (uint8_t)len;
}

struct span key_flags(const struct key *key)
{
    size_t at = HEAD_NAME + key->name_len + 1u;

    return (struct span){key->head + at, key->flags_end - at};
}

uint32_t key_flags_number(const struct key *key)
{
    return (uint32_t)strtoul(key_flags(key).p, NULL, 10);
}

/*
 * The pattern is the same in every run, whatever the seed: values stored by one run are checked by the next. Its bytes
 * are random, so that a shift by one byte (another key's value) differs almost everywhere.
 */
static void make_data(struct load *load)
{
    uint64_t state = 88172645463325252ull;
    size_t len = load->opt.value_size + load->opt.num_keys;

    load->keys = alloc(load->opt.num_keys, sizeof(*load->keys));
    for (unsigned i = 0; i < load->opt.num_keys; i++)
        make_key(&load->keys[i], i, load->opt.value_size);
    load->pattern = alloc(len, 1);
    for (size_t i = 0; i < len; i++)
        load->pattern[i] = (char)(next_random(&state) >> 32);
}

/* ---- the choice ---- */

/* Gives the weights of Zipf's law to the keys, in an order that the seed decides; their mean is 1. */
static void weigh_keys(struct load *load, double *weights)
{
    uint64_t n = load->opt.num_keys;
    double sum = 0;

    for (uint64_t i = 0; i < n; i++)
        sum += weights[i] = pow((double)(i + 1), -load->opt.zipf);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t other = i + (next_random(&load->random) >> 16) % (n - i);
        double weight = weights[other] * (double)n / sum;
        weights[other] = weights[i];
        weights[i] = weight;
    }
}

/*
 * Walker's alias method, for a choice that costs one random number whatever the weights are: a key is drawn, all alike,
 * and a toss decides between it and another one. So each key that weighs less than the mean is paired with one that
 * weighs more, which thereby loses what it has given.
 */
static void make_draws(struct load *load)
{
    uint64_t n = load->opt.num_keys, num_light = 0, first_heavy = n;
    double *weights = alloc(n, sizeof(*weights));
    uint32_t *order = alloc(n, sizeof(*order)); /* the light ones, room, the heavy ones */

    load->draws = alloc(n, sizeof(*load->draws));
    weigh_keys(load, weights);
    for (uint32_t i = 0; i < n; i++) {
        load->draws[i].other = i;
        order[weights[i] < 1 ? num_light++ : --first_heavy] = i;
    }
    while (num_light > 0 && first_heavy < n) {
        uint32_t light = order[--num_light], heavy = order[first_heavy];
        load->draws[light] = (struct draw){.own = (uint32_t)(weights[light] * 0x1p32), .other = heavy};
        weights[heavy] -= 1 - weights[light];
        if (weights[heavy] < 1) {
            first_heavy++;
            order[num_light++] = heavy;
        }
    }
    free(order);
    free(weights);
}

static uint64_t random_key(struct load *load)
{
    uint64_t random = next_random(&load->random), n = load->opt.num_keys;

    if (!load->draws)
        return (random >> 16) % n;
    uint64_t i = (random >> 32) * n >> 32;
    return (uint32_t)random < load->draws[i].own ? i : load->draws[i].other;
}

/* The first is a random one, the others are its neighbours, so that those of a multiget differ. */
void keys_choose(struct load *load, uint32_t *keys)
{
    uint64_t n = load->opt.num_keys;
    uint64_t first = load->plan.sequential ? load->started % n : random_key(load);

    for (uint32_t i = 0; i < load->plan.width; i++)
        keys[i] = (uint32_t)((first + i) % n);
}

void keys_make(struct load *load)
{
    load->random = (load->opt.seed + 1) * 0x9e3779b97f4a7c15ull | 1;
    make_data(load);
    if (load->opt.zipf > 0)
        make_draws(load);
}
