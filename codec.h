/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * codec - what a protocol has to offer: n protocols are n of these, never pairs.
 *
 * The functions are pure: bytes in, status out. They know no socket, no configuration and no other protocol, and keep
 * nothing between calls: a parser that wants more bytes is called again with all of them.
 */
#ifndef CODEC_H
#define CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "request.h"
#include "util.h"

enum parse_status {
    PARSE_OK,
    PARSE_MORE,      /* not all there yet */
    PARSE_BAD,       /* a request: answer cmd->error and go on behind it; a reply: the connection is of no use now */
    PARSE_NO_MEMORY, /* for the list of keys */
};

enum {
    REPLY_LINE_MAX = 8192,          /* bytes of a line of a reply, and of a reply that is no value */
    VALUE_MAX = 1024 * 1024 * 1024, /* bytes of a value: memcached's own limit of -I */
};

/* Keys of one command, grown as needed; a worker has one and uses it again and again. The owner frees v. */
struct key_list {
    struct rkey *v;
    uint32_t n;
    uint32_t size;
};

/* What parse_request found. Pointers are into the bytes that were parsed. */
struct command {
    enum opcode op;
    bool noreply;
    bool has_exptime;
    bool hangup;        /* close the client, after error if there is one */
    size_t consumed;    /* bytes of the command, without its value */
    const uint8_t *key; /* the first key, or the argument of a command without keys */
    size_t key_len;
    const uint8_t *flags_text; /* of a meta command: its flags, as they were written */
    size_t flags_len;
    uint32_t num_keys; /* in the key_list when more than one */
    uint32_t flags;
    int64_t exptime;
    uint64_t number;
    size_t body_len;   /* bytes of value that follow, without tail; on PARSE_BAD too: they are skipped */
    size_t body_tail;  /* bytes behind the value that belong to it */
    const char *error; /* PARSE_BAD: the reply, without its line end, static; NULL: none */
    /* from here on only what a meta command has, or one in the binary protocol */
    struct terms terms;
    uint8_t decoded[KEY_MAX]; /* a key that was written in base64 */
};

/* What parse_reply found: one piece of a reply. */
struct reply {
    enum { REPLY_HIT, REPLY_STAT, REPLY_DONE } kind;
    size_t consumed;    /* HIT: the head only; value and tail follow */
    const uint8_t *key; /* HIT; NULL: of the request's only key */
    size_t key_len;
    bool is_last;        /* HIT: nothing follows behind the value; its end is outcome */
    struct hit hit;      /* HIT: all but the key's index */
    const uint8_t *line; /* STAT: the line without its end; it may be in `made` */
    size_t line_len;
    struct outcome outcome; /* DONE; its facts are the hit's */
    bool suspicious;        /* DONE: the server may not have taken the value for one; do not use the connection again */
    const char *why;        /* PARSE_BAD: what is wrong with it, static */
    uint8_t made[REPLY_LINE_MAX]; /* a line that a server of another protocol has not sent as one */
};

/* Bytes that stand before a value in a reply, at the most: a key in base64, an opaque, and some numbers. */
enum { HIT_HEAD_MAX = (KEY_MAX + 2) / 3 * 4 + 32 + 10 * 24 };

struct codec {
    const char *name;
    size_t value_tail; /* bytes that stand behind a value */

    /*
     * Reads one command from [p, p + n). The first `seen` bytes are known to hold no end of line. keys is emptied and
     * filled when there is more than one key.
     */
    enum parse_status (*parse_request)(const uint8_t *p, size_t n, size_t seen, struct key_list *keys,
                                       struct command *cmd);

    /*
     * Whether an unfinished line, for which parse_request wants more, can never become a command: it may be answered
     * with an error at once, and what comes until its end be skipped.
     */
    bool (*is_hopeless)(const uint8_t *p, size_t n);

    /* Whether the bytes behind a value are what must stand there. */
    bool (*check_tail)(const uint8_t *p, size_t n);

    /*
     * What the protocol cannot say of a request, as an error for its client, without its line end, static; NULL: it can
     * say all. To be asked before compose_request. The member is NULL in a protocol that servers are not spoken to in.
     */
    const char *(*lacks)(const struct request *r);

    /* Appends the request as this protocol writes it. False when memory ran out: out may then hold a part of it. */
    bool (*compose_request)(const struct request *r, struct bufpool *bufs, struct spanq *out);

    /*
     * Appends r's keys to the line of the request that was composed last, which is all that has been appended to out
     * since; both are retrievals of one kind. False: out has no room there, and is as it was. NULL: has no such lines.
     */
    bool (*compose_more)(const struct request *r, struct spanq *out);

    /* Reads the next piece of the reply to r from [p, p + n), of which the first `seen` bytes hold no end of line. */
    enum parse_status (*parse_reply)(const struct request *r, const uint8_t *p, size_t n, size_t seen,
                                     struct reply *reply);

    /*
     * Writes what stands before a value to dst, which has room for HIT_HEAD_MAX bytes; hit: all but head. Its length.
     */
    size_t (*compose_head)(const struct request *r, const struct hit *hit, uint8_t *dst);

    /* Appends a line of a reply to stats, of n bytes without its end. False as below. */
    bool (*compose_stat)(const struct request *r, const uint8_t *line, size_t n, struct bufpool *bufs,
                         struct spanq *out);

    /* Appends the end of a reply, if it is to be told. False when memory ran out: out is then as it was. */
    bool (*compose_outcome)(const struct request *r, const struct outcome *outcome, struct bufpool *bufs,
                            struct spanq *out);
};

/* The text protocol: cproxy_protocol_a.c. */
extern const struct codec codec_ascii;

/*
 * Whether the reply to a request in text has lines of keys as they are. What looks like its end may then be a part of a
 * key, and what follows that another's: nothing else is to be asked on the connection, and it is to be closed.
 */
bool codec_ascii_tells_keys(const struct request *r);

/* The meta commands, which stand beside it on a connection: cproxy_protocol_m.c. */
extern const struct codec codec_meta;

/* The binary protocol, for clients: cproxy_protocol_b.c; and for servers: cproxy_protocol_bs.c. */
extern const struct codec codec_binary;
extern const struct codec codec_binary_server;

/* What a server without meta commands cannot be asked for, as of `lacks` below. */
#define NEEDS_META(what) "SERVER_ERROR proxy downstream has no meta commands, for " what

/*
 * The error for the first of these terms, which are those that a protocol has no words for; NULL: they do not matter.
 */
const char *codec_lacks_terms(uint32_t bits);

/* Which of the two in text a command is of, as far as its first bytes tell. */
const struct codec *codec_of_text(const uint8_t *p, size_t n);

#endif
