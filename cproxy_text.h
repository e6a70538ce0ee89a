/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_text - what the two protocols in text share, the classic commands (cproxy_protocol_a.c) and the meta commands
 * (cproxy_protocol_m.c), which may stand side by side on a connection: lines, words, numbers, errors.
 */
#ifndef CPROXY_TEXT_H
#define CPROXY_TEXT_H

#include <string.h>

#include "codec.h"

enum {
    TOKENS_MAX = 24,        /* words of a command that is no retrieval */
    LINE_MAX_OTHERS = 2048, /* bytes of a line that is no retrieval, so far without an end */
};

#define BAD_FORMAT "CLIENT_ERROR bad command line format"
#define BAD_LINE "CLIENT_ERROR line too long"
#define BAD_COMMAND "ERROR"

#define CRLF "\r\n"

/* --- lines and words --- */

struct token {
    const uint8_t *p;
    size_t len;
};

struct line {
    const uint8_t *p; /* all of it, without its end */
    size_t len;
    struct token *tokens;
    size_t num_tokens; /* as many as were asked for: there may be more */
};

static inline bool token_is(const struct token *t, const char *word)
{
    size_t len = strlen(word);

    return t->len == len && memcmp(t->p, word, len) == 0;
}

/* Advances *p to the next word before end; returns its length, 0 when there is none. */
static inline size_t text_next_word(const uint8_t **p, const uint8_t *end)
{
    const uint8_t *s = *p;
    const uint8_t *e;

    while (s < end && *s == ' ')
        s++;
    for (e = s; e < end && *e != ' '; e++)
        ;
    *p = s;
    return (size_t)(e - s);
}

/* Splits a line into words, the first `max` of them. Their number. */
size_t text_tokenize(const uint8_t *p, size_t len, struct token *tokens, size_t max);

/*
 * Finds the end of a command's line in [p, p + n), whose first `seen` bytes hold none, and sets cmd->consumed to what
 * it takes. The return value is where the command ends: before CR LF or LF, or at a NUL, as in memcached. NULL: there
 * is no end.
 */
const uint8_t *text_line_end(const uint8_t *p, size_t n, size_t seen, struct command *cmd);

/*
 * A word is a number as memcached reads it, with strtol: a '+' and white space that does not part words may stand in
 * front.
 */
bool token_u64(const struct token *t, uint64_t *out);
bool token_u32(const struct token *t, uint32_t *out);
bool token_i64(const struct token *t, int64_t *out);

/*
 * An expiry, or a number of seconds. As in memcached, a number of 64 bits is taken, of which 32 count; a server that is
 * stricter about what it is sent is sent these.
 */
bool token_seconds(const struct token *t, int64_t *out);

/* --- requests and replies --- */

static inline enum parse_status text_refuse(struct command *cmd, const char *error)
{
    cmd->op = OP_REFUSED;
    cmd->error = error;
    return PARSE_BAD;
}

static inline enum parse_status text_bad_reply(struct reply *reply, const char *why)
{
    reply->why = why;
    return PARSE_BAD;
}

static inline enum parse_status text_reply_done(struct reply *reply, enum result result, const uint8_t *p, size_t len)
{
    reply->kind = REPLY_DONE;
    reply->outcome = (struct outcome){.result = result, .text = p, .text_len = len};
    return PARSE_OK;
}

static inline bool begins_with(const uint8_t *p, size_t n, const char *prefix)
{
    size_t len = strlen(prefix);

    return n >= len && memcmp(p, prefix, len) == 0;
}

/* Whether a line, its length with its end, is an error: one of the three words, and a reason behind it or nothing. */
bool text_is_error(const uint8_t *p, size_t len);

/* Reads digits up to `stop`, which must follow; returns what is behind it, NULL when they are no number. */
static inline const uint8_t *text_read_number(const uint8_t *p, const uint8_t *end, uint8_t stop, uint64_t *out)
{
    const uint8_t *e = p + util_scan_u64((const char *)p, (size_t)(end - p), out);

    return e != p && e != end && *e == stop ? e + 1 : NULL;
}

/* A line and its end. */
bool text_compose_stat(const struct request *r, const uint8_t *line, size_t n, struct bufpool *bufs, struct spanq *out);

/* Whether the bytes behind a value are what must stand there. */
bool text_check_tail(const uint8_t *p, size_t n);

/*
 * Appends the line of an outcome for which both have the same: errors of servers, of moxi's own, and what was refused.
 * False when memory ran out: out is then as it was.
 */
bool text_compose_error(const struct outcome *outcome, struct bufpool *bufs, struct spanq *out);

/* --- writing: each returns what is behind it --- */

static inline uint8_t *put(uint8_t *to, const void *p, size_t n)
{
    memcpy(to, p, n);
    return to + n;
}

static inline uint8_t *put_digits(uint8_t *to, uint64_t v)
{
    return to + util_format_u64((char *)to, v);
}

/* The same with a blank before it. */
static inline uint8_t *put_u64(uint8_t *to, uint64_t v)
{
    *to++ = ' ';
    return put_digits(to, v);
}

static inline uint8_t *put_i64(uint8_t *to, int64_t v)
{
    *to++ = ' ';
    if (v >= 0)
        return put_digits(to, (uint64_t)v);
    *to++ = '-';
    return put_digits(to, 0 - (uint64_t)v);
}

#endif
