/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_binary - what is said in the binary protocol, to clients (cproxy_protocol_b.c) and to servers
 * (cproxy_protocol_bs.c): memcached's protocol-binary.txt.
 *
 *   header: magic, opcode, key length (2), extras length, data type, vbucket or status (2), body length (4),
 *           opaque (4), cas (8); then extras, key, value
 */
#ifndef CPROXY_BINARY_H
#define CPROXY_BINARY_H

#include <stdint.h>
#include <string.h>

#include "codec.h"

enum {
    HEADER = 24, /* bytes */
    MAGIC_REQUEST = 0x80,
    MAGIC_RESPONSE = 0x81,
    NO_VIVIFY = UINT32_MAX, /* an expiration of incr and decr */
};

enum {
    CMD_GET = 0x00,
    CMD_SET = 0x01,
    CMD_ADD = 0x02,
    CMD_REPLACE = 0x03,
    CMD_DELETE = 0x04,
    CMD_INCREMENT = 0x05,
    CMD_DECREMENT = 0x06,
    CMD_QUIT = 0x07,
    CMD_FLUSH = 0x08,
    CMD_GETQ = 0x09,
    CMD_NOOP = 0x0a,
    CMD_VERSION = 0x0b,
    CMD_GETK = 0x0c,
    CMD_GETKQ = 0x0d,
    CMD_APPEND = 0x0e,
    CMD_PREPEND = 0x0f,
    CMD_STAT = 0x10,
    CMD_SETQ = 0x11,
    CMD_ADDQ = 0x12,
    CMD_REPLACEQ = 0x13,
    CMD_DELETEQ = 0x14,
    CMD_INCREMENTQ = 0x15,
    CMD_DECREMENTQ = 0x16,
    CMD_QUITQ = 0x17,
    CMD_FLUSHQ = 0x18,
    CMD_APPENDQ = 0x19,
    CMD_PREPENDQ = 0x1a,
    CMD_VERBOSITY = 0x1b,
    CMD_TOUCH = 0x1c,
    CMD_GAT = 0x1d,
    CMD_GATQ = 0x1e,
    CMD_SASL_LIST = 0x20,
    CMD_SASL_AUTH = 0x21,
    CMD_SASL_STEP = 0x22,
    CMD_GATK = 0x23,
    CMD_GATKQ = 0x24,
    COMMANDS = 0x25,
};

enum status {
    STATUS_OK = 0x00,
    STATUS_KEY_ENOENT = 0x01,
    STATUS_KEY_EEXISTS = 0x02,
    STATUS_E2BIG = 0x03,
    STATUS_EINVAL = 0x04,
    STATUS_NOT_STORED = 0x05,
    STATUS_DELTA_BADVAL = 0x06,
    STATUS_AUTH_ERROR = 0x20,
    STATUS_UNKNOWN_COMMAND = 0x81,
    STATUS_ENOMEM = 0x82,
    STATUS_NOT_SUPPORTED = 0x83,
    STATUS_INTERNAL = 0x84,
    STATUS_TEMPORARY = 0x86,
};

/* --- numbers, in network byte order --- */

static inline uint16_t read_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t read_u32(const uint8_t *p)
{
    return (uint32_t)read_u16(p) << 16 | read_u16(p + 2);
}

static inline uint64_t read_u64(const uint8_t *p)
{
    return (uint64_t)read_u32(p) << 32 | read_u32(p + 4);
}

static inline void write_u16(uint8_t *p, size_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline void write_u32(uint8_t *p, uint32_t v)
{
    write_u16(p, v >> 16);
    write_u16(p + 2, v & 0xffff);
}

static inline void write_u64(uint8_t *p, uint64_t v)
{
    write_u32(p, (uint32_t)(v >> 32));
    write_u32(p + 4, (uint32_t)v);
}

/* A packet's header, in the order of its fields. */
struct header {
    uint8_t magic;
    uint8_t wire; /* opcode */
    uint16_t key; /* bytes */
    uint8_t extras;
    uint16_t status; /* of a reply */
    uint32_t body;   /* bytes of extras, key and value */
    uint8_t opaque[4];
    uint64_t cas;
};

/* HEADER bytes at p. */
static inline void read_header(const uint8_t *p, struct header *h)
{
    h->magic = p[0];
    h->wire = p[1];
    h->key = read_u16(p + 2);
    h->extras = p[4];
    h->status = read_u16(p + 6);
    h->body = read_u32(p + 8);
    memcpy(h->opaque, p + 12, sizeof(h->opaque));
    h->cas = read_u64(p + 16);
}

/* The return value is what is behind it. */
static inline uint8_t *write_header(uint8_t *p, const struct header *h)
{
    p[0] = h->magic;
    p[1] = h->wire;
    write_u16(p + 2, h->key);
    p[4] = h->extras;
    p[5] = 0;
    write_u16(p + 6, h->status);
    write_u32(p + 8, h->body);
    memcpy(p + 12, h->opaque, sizeof(h->opaque));
    write_u64(p + 16, h->cas);
    return p + HEADER;
}

/* A value has nothing behind it. */
static inline bool binary_check_tail(const uint8_t *p, size_t n)
{
    (void)p;
    return n == 0;
}

#endif
