/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * load_request.c - composes requests in each of the protocols. Bytes only: who sends them is load_loop.c's matter.
 */
#include <arpa/inet.h>
#include <string.h>

#include "load.h"

enum { FILL_DEPTH = 16 }; /* sets in one batch while filling */

static char *put(char *d, const char *p, size_t n)
{
    memcpy(d, p, n);
    return d + n;
}

static char *put_name(char *d, const struct key *key)
{
    return put(d, key->head + HEAD_NAME, key->name_len);
}

char *put_u32(char *d, uint32_t v)
{
    v = htonl(v);
    return put(d, (const char *)&v, sizeof(v));
}

char *put_packet(char *d, unsigned char magic, unsigned char opcode, uint32_t extras, uint32_t key, uint64_t value)
{
    *d++ = (char)magic;
    *d++ = (char)opcode;
    *d++ = (char)(key >> 8);
    *d++ = (char)key;
    d = put_u32(d, extras << 24);
    return put_u32(put_u32(d, (uint32_t)(extras + key + value)), 0);
}

static char *put_get_binary(char *d, const struct key *key)
{
    d = put_packet(d, REQUEST, CMD_GET, 0, key->name_len, 0);
    return put_name(put_u32(put_u32(d, 0), 0), key);
}

static char *put_get_meta(char *d, const struct key *key)
{
    return put(put_name(put(d, "mg ", 3), key), " v f\r\n", 6);
}

static char *put_get_text(const struct load *load, char *d, const uint32_t *keys)
{
    d = put(d, "get", 3);
    for (uint32_t i = 0; i < load->plan.width; i++) {
        *d++ = ' ';
        d = put_name(d, &load->keys[keys[i]]);
    }
    return put(d, "\r\n", 2);
}

static char *put_get(const struct load *load, char *d, const uint32_t *keys)
{
    switch (load->plan.protocol) {
    case META:
        return put_get_meta(d, &load->keys[keys[0]]);
    case BINARY:
        return put_get_binary(d, &load->keys[keys[0]]);
    default:
        return put_get_text(load, d, keys);
    }
}

static char *put_set_binary(char *d, const struct key *key, struct span value)
{
    d = put_packet(d, REQUEST, CMD_SET, SET_EXTRAS, key->name_len, value.len);
    d = put_u32(put_u32(d, 0), 0);
    d = put_name(put_u32(put_u32(d, key_flags_number(key)), 0), key);
    return put(d, value.p, value.len);
}

static char *put_set_meta(char *d, const struct key *key, struct span value)
{
    struct span flags = key_flags(key);

    d = put_name(put(d, "ms ", 3), key);
    d = put(d, key->head + key->flags_end, (size_t)(key->head_len - key->flags_end) - 2);
    d = put(put(put(d, " F", 2), flags.p, flags.len), "\r\n", 2);
    return put(put(d, value.p, value.len), "\r\n", 2);
}

static char *put_set_text(char *d, const struct key *key, struct span value)
{
    d = put(d, "set ", 4);
    d = put(d, key->head + HEAD_NAME, (size_t)key->flags_end - HEAD_NAME);
    d = put(d, " 0", 2);
    d = put(d, key->head + key->flags_end, (size_t)(key->head_len - key->flags_end));
    return put(put(d, value.p, value.len), "\r\n", 2);
}

static char *put_set(const struct load *load, char *d, uint32_t index)
{
    const struct key *key = &load->keys[index];
    struct span value = {load->pattern + index, load->opt.value_size};

    switch (load->plan.protocol) {
    case META:
        return put_set_meta(d, key, value);
    case BINARY:
        return put_set_binary(d, key, value);
    default:
        return put_set_text(d, key, value);
    }
}

char *request_compose(const struct load *load, char *d, const uint32_t *keys)
{
    return load->plan.op == OP_SET ? put_set(load, d, keys[0]) : put_get(load, d, keys);
}

struct plan plan_measuring(const struct options *opt)
{
    return (struct plan){
        .op = opt->op, .protocol = opt->protocol, .depth = (uint32_t)opt->depth, .width = (uint32_t)opt->width};
}

struct plan plan_filling(const struct options *opt)
{
    return (struct plan){.op = OP_SET, .depth = FILL_DEPTH, .width = 1, .sequential = true, .limit = opt->num_keys};
}

size_t batch_size(const struct options *opt, const struct plan *plan)
{
    size_t request = plan->op == OP_SET ? opt->value_size + 80 : 32 + plan->width * (sizeof(struct key) + 1);

    return plan->depth * request;
}

size_t batch_compose(struct load *load, struct client *c)
{
    char *d = load->request;

    for (uint32_t i = 0; i < c->batch; i++) {
        uint32_t *keys = c->keys + (size_t)i * load->plan.width;
        keys_choose(load, keys);
        d = request_compose(load, d, keys);
        load->started++;
    }
    c->seen = (struct cursor){0};
    return (size_t)(d - load->request);
}
