/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * load_reply.c - compares what comes with what must come, without parsing it.
 *
 * The expected reply is a sequence of parts for each key of the batch (enum part), which lie about somewhere: in the
 * table of keys, in the pattern of values, or are constant. A client's cursor tells the part that it is in, and bytes
 * are compared with it where they were read; so a reply may come in any pieces.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "load.h"

static struct span span_of(const char *p, size_t len)
{
    return (struct span){p, len};
}

static struct span expected_text(const struct load *load, const struct client *c, uint32_t index)
{
    static const char end[] = "\r\nEND\r\n", stored[] = "STORED\r\n";

    if (load->plan.op == OP_SET)
        return c->seen.part == PART_END ? span_of(stored, sizeof(stored) - 1) : span_of("", 0);
    switch (c->seen.part) {
    case PART_HEAD:
        return span_of(load->keys[index].head, load->keys[index].head_len);
    case PART_VALUE:
        return span_of(load->pattern + index, load->opt.value_size);
    case PART_END:
        return span_of(end, (c->seen.key + 1) % load->plan.width ? 2 : sizeof(end) - 1);
    default:
        return span_of("", 0);
    }
}

/* "VA <size> f<flags>\r\n", the value, "\r\n" */
static struct span expected_meta(const struct load *load, const struct client *c, uint32_t index)
{
    static char head[40];
    static size_t head_len;

    if (load->plan.op == OP_SET)
        return c->seen.part == PART_END ? span_of("HD\r\n", 4) : span_of("", 0);
    if (head_len == 0)
        head_len = (size_t)snprintf(head, sizeof(head), "VA %" PRIu64 " f", load->opt.value_size);
    switch (c->seen.part) {
    case PART_HEAD:
        return span_of(head, head_len);
    case PART_FLAGS:
        return key_flags(&load->keys[index]);
    case PART_VALUE:
        return span_of(load->pattern + index, load->opt.value_size);
    case PART_UNIQUE:
        return span_of("", 0);
    default:
        return span_of("\r\n", 2);
    }
}

static struct span expected_binary(const struct load *load, const struct client *c, uint32_t index)
{
    static char bytes[24];
    bool is_get = load->plan.op == OP_GET;

    switch (c->seen.part) {
    case PART_HEAD:
        put_packet(bytes, RESPONSE, is_get ? CMD_GET : CMD_SET, is_get ? GET_EXTRAS : 0, 0,
                   is_get ? load->opt.value_size : 0);
        return span_of(bytes, 16);
    case PART_UNIQUE:
        return span_of(NULL, 8);
    case PART_FLAGS:
        put_u32(bytes, key_flags_number(&load->keys[index]));
        return span_of(bytes, is_get ? GET_EXTRAS : 0);
    case PART_VALUE:
        return span_of(load->pattern + index, is_get ? load->opt.value_size : 0);
    default:
        return span_of("", 0);
    }
}

/* The part of the expected reply that the cursor is in. */
static struct span expected_part(const struct load *load, const struct client *c)
{
    uint32_t index = c->keys[c->seen.key];

    return load->plan.protocol == TEXT   ? expected_text(load, c, index)
           : load->plan.protocol == META ? expected_meta(load, c, index)
                                         : expected_binary(load, c, index);
}

bool reply_is_whole(const struct load *load, const struct client *c)
{
    return c->seen.key == c->batch * load->plan.width;
}

/* Goes on to the next part that has any bytes. */
static void next_part(const struct load *load, struct client *c)
{
    do {
        c->seen.off = 0;
        if (++c->seen.part == PARTS) {
            c->seen.part = PART_HEAD;
            c->seen.key++;
        }
    } while (!reply_is_whole(load, c) && expected_part(load, c).len == 0);
}

/* Says what the first wrong byte of a reply is, given the rest of what was read and what should have come. */
__attribute__((noreturn)) static void fail_mismatch(const struct load *load, const struct client *c, const char *got,
                                                    size_t got_len, struct span want)
{
    static const char *const parts[PARTS] = {"head", "unique", "flags", "line", "value", "end"};
    const struct key *key = &load->keys[c->keys[c->seen.key]];
    size_t same = 0, want_len = want.len - c->seen.off;
    const char *want_p = want.p + c->seen.off;

    while (same < got_len && same < want_len && got[same] == want_p[same])
        same++;
    if (c->seen.part != PART_VALUE)
        same = 0;
    fail("%s: client %" PRIu32 ": wrong reply for key %.*s: %s, byte %zu of %zu: expected \"%s\", got \"%s\"",
         load->opt.target, c->id, key->name_len, key->head + HEAD_NAME, parts[c->seen.part], c->seen.off + same,
         want.len, show(want_p + same, want_len - same), show(got + same, got_len - same));
}

void reply_check(const struct load *load, struct client *c, const char *p, size_t len)
{
    while (len > 0) {
        if (reply_is_whole(load, c))
            fail("%s: client %" PRIu32 ": %zu bytes more than was asked for: \"%s\"", load->opt.target, c->id, len,
                 show(p, len));
        struct span want = expected_part(load, c);
        size_t n = want.len - c->seen.off;
        if (n > len)
            n = len;
        if (want.p != NULL && memcmp(p, want.p + c->seen.off, n) != 0)
            fail_mismatch(load, c, p, len, want);
        p += n;
        len -= n;
        c->seen.off += n;
        if (c->seen.off == want.len)
            next_part(load, c);
    }
}
