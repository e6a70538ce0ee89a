/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_protocol_a - the text protocol ("ascii"), as protocol.txt defines it and memcached 1.6 speaks it.
 *
 * Requests are read leniently, as memcached reads them (repeated blanks, a bare LF, an argument too many behind a set),
 * and written canonically: nothing that a client has formatted reaches a server, so a server sees one spelling of each
 * command. `noreply` is never passed on: a server may answer such a command all the same (SERVER_ERROR object too large
 * for cache), and one reply nobody waits for would shift all that follow. It is the client side that drops the reply.
 *
 * Replies are read strictly, by what the request allows: anything else is PARSE_BAD.
 */
#include <assert.h>
#include <stdlib.h>

#include "codec.h"

enum {
    TOKENS_MAX = 24,                /* words of a command that is no retrieval */
    LINE_MAX_OTHERS = 2048,         /* bytes of a line that is no retrieval, so far without an end */
    REPLY_LINE_MAX = 8192,          /* bytes of a line of a reply */
    VALUE_MAX = 1024 * 1024 * 1024, /* bytes of a value: memcached's own limit of -I */
};

#define BAD_FORMAT "CLIENT_ERROR bad command line format"
#define BAD_DELETE "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]"
#define BAD_EXPTIME "CLIENT_ERROR invalid exptime argument"
#define BAD_DELTA "CLIENT_ERROR invalid numeric delta argument"
#define BAD_LINE "CLIENT_ERROR line too long"
#define BAD_COMMAND "ERROR"

#define CRLF "\r\n"

struct token {
    const uint8_t *p;
    size_t len;
};

struct line {
    const uint8_t *p; /* all of it, without its end */
    size_t len;
    struct token *tokens;
    size_t num_tokens; /* TOKENS_MAX: there may be more */
};

/* --- words and numbers --- */

static bool token_is(const struct token *t, const char *word)
{
    size_t len = strlen(word);

    return t->len == len && memcmp(t->p, word, len) == 0;
}

/* Advances *p to the next word before end; returns its length, 0 when there is none. */
static size_t next_word(const uint8_t **p, const uint8_t *end)
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

static size_t tokenize(const uint8_t *p, size_t len, struct token *tokens)
{
    const uint8_t *end = p + len;
    size_t n = 0;

    while (n < TOKENS_MAX && (len = next_word(&p, end)) > 0) {
        tokens[n].p = p;
        tokens[n].len = len;
        p += len;
        n++;
    }
    return n;
}

static bool is_white(uint8_t c)
{
    return c >= '\t' && c <= '\r';
}

/*
 * The digits of a number, and its sign, in a word. memcached reads numbers with strtol: white space that does not part
 * words (all but the blank) may stand in front, and what stands behind white space does not count.
 */
static struct token digits_of(const struct token *t)
{
    struct token digits = *t;

    while (digits.len > 0 && is_white(digits.p[0])) {
        digits.p++;
        digits.len--;
    }
    for (size_t i = 0; i < digits.len; i++)
        if (UNLIKELY(is_white(digits.p[i])))
            digits.len = i;
    return digits;
}

/* An unsigned number as memcached reads it: a '+' in front is allowed. */
static bool token_u64(const struct token *t, uint64_t *out)
{
    struct token digits = digits_of(t);
    size_t plus = digits.len > 1 && digits.p[0] == '+';

    return util_parse_u64((const char *)digits.p + plus, digits.len - plus, out);
}

static bool token_u32(const struct token *t, uint32_t *out)
{
    uint64_t v;

    if (!token_u64(t, &v) || v > UINT32_MAX)
        return false;
    *out = (uint32_t)v;
    return true;
}

static bool token_i64(const struct token *t, int64_t *out)
{
    struct token digits = digits_of(t);
    size_t plus = digits.len > 1 && digits.p[0] == '+' && digits.p[1] != '-';

    return util_parse_i64((const char *)digits.p + plus, digits.len - plus, out);
}

/* --- requests, in --- */

static enum parse_status refuse(struct command *cmd, const char *error)
{
    cmd->op = OP_REFUSED;
    cmd->error = error;
    return PARSE_BAD;
}

static bool last_is_noreply(const struct line *line)
{
    return token_is(&line->tokens[line->num_tokens - 1], "noreply");
}

static bool set_key(const struct token *t, struct command *cmd)
{
    cmd->key = t->p;
    cmd->key_len = t->len;
    cmd->num_keys = 1;
    return t->len <= KEY_MAX;
}

static bool key_list_add(struct key_list *keys, const uint8_t *p, size_t len)
{
    if (keys->n == keys->size) {
        uint32_t size = keys->size == 0 ? 64 : keys->size * 2;
        struct rkey *v = realloc(keys->v, size * sizeof(*v));

        if (v == NULL)
            return false;
        keys->v = v;
        keys->size = size;
    }
    keys->v[keys->n].p = p;
    keys->v[keys->n].len = (uint32_t)len;
    keys->v[keys->n].next = keys->n + 1;
    keys->n++;
    return true;
}

/* Reads the keys of a retrieval. A key that is too long refuses the whole command. */
static enum parse_status read_keys(const uint8_t *p, const uint8_t *end, struct key_list *keys, struct command *cmd)
{
    size_t len = next_word(&p, end);

    if (len == 0)
        return refuse(cmd, BAD_COMMAND);
    if (len > KEY_MAX)
        return refuse(cmd, BAD_FORMAT);
    cmd->key = p;
    cmd->key_len = len;
    cmd->num_keys = 1;
    p += len;
    len = next_word(&p, end);
    if (len == 0)
        return PARSE_OK;

    keys->n = 0;
    if (!key_list_add(keys, cmd->key, cmd->key_len))
        return PARSE_NO_MEMORY;
    do {
        if (len > KEY_MAX)
            return refuse(cmd, BAD_FORMAT);
        if (!key_list_add(keys, p, len))
            return PARSE_NO_MEMORY;
        p += len;
        len = next_word(&p, end);
    } while (len > 0);
    keys->v[keys->n - 1].next = RKEY_END;
    cmd->num_keys = keys->n;
    return PARSE_OK;
}

static enum parse_status parse_get(const struct line *line, struct key_list *keys, struct command *cmd)
{
    const uint8_t *p = line->tokens[0].p + line->tokens[0].len;

    return read_keys(p, line->p + line->len, keys, cmd);
}

static enum parse_status parse_gat(const struct line *line, struct key_list *keys, struct command *cmd)
{
    const uint8_t *end = line->p + line->len;

    if (line->num_tokens < 2)
        return refuse(cmd, BAD_COMMAND);
    if (!token_i64(&line->tokens[1], &cmd->exptime))
        return refuse(cmd, BAD_EXPTIME);
    /* memcached finds nothing wrong with asking for no key. */
    if (line->num_tokens == 2)
        return refuse(cmd, "END");
    return read_keys(line->tokens[1].p + line->tokens[1].len, end, keys, cmd);
}

/* set, add, replace, append, prepend: key flags exptime bytes [noreply]; cas: a cas unique before noreply. */
static enum parse_status parse_store(const struct line *line, struct key_list *keys, struct command *cmd)
{
    const struct token *t = line->tokens;
    size_t args = cmd->op == OP_CAS ? 6 : 5;
    int64_t len;

    (void)keys;
    if (line->num_tokens != args && line->num_tokens != args + 1)
        return refuse(cmd, BAD_COMMAND);
    cmd->noreply = last_is_noreply(line);
    if (!token_i64(&t[4], &len) || len < 0 || len > INT32_MAX - 2)
        return refuse(cmd, BAD_FORMAT);
    /* From here on the length of the value is known, and it is skipped when the command is refused. */
    cmd->body_len = (size_t)len;
    cmd->body_tail = 2;
    if (!set_key(&t[1], cmd) || !token_u32(&t[2], &cmd->flags) || !token_i64(&t[3], &cmd->exptime))
        return refuse(cmd, BAD_FORMAT);
    if (cmd->op == OP_CAS && !token_u64(&t[5], &cmd->number))
        return refuse(cmd, BAD_FORMAT);
    return PARSE_OK;
}

static enum parse_status parse_arith(const struct line *line, struct key_list *keys, struct command *cmd)
{
    (void)keys;
    if (line->num_tokens != 3 && line->num_tokens != 4)
        return refuse(cmd, BAD_COMMAND);
    cmd->noreply = last_is_noreply(line);
    if (!set_key(&line->tokens[1], cmd))
        return refuse(cmd, BAD_FORMAT);
    if (!token_u64(&line->tokens[2], &cmd->number))
        return refuse(cmd, BAD_DELTA);
    return PARSE_OK;
}

static enum parse_status parse_touch(const struct line *line, struct key_list *keys, struct command *cmd)
{
    (void)keys;
    if (line->num_tokens != 3 && line->num_tokens != 4)
        return refuse(cmd, BAD_COMMAND);
    cmd->noreply = last_is_noreply(line);
    if (!set_key(&line->tokens[1], cmd))
        return refuse(cmd, BAD_FORMAT);
    if (!token_i64(&line->tokens[2], &cmd->exptime))
        return refuse(cmd, BAD_EXPTIME);
    return PARSE_OK;
}

/* delete key [0] [noreply]: old clients send a time, of which only 0 was ever kept. */
static enum parse_status parse_delete(const struct line *line, struct key_list *keys, struct command *cmd)
{
    const struct token *t = line->tokens;
    size_t n = line->num_tokens;

    (void)keys;
    if (n < 2 || n > 4)
        return refuse(cmd, BAD_COMMAND);
    if (n > 2) {
        bool zero = token_is(&t[2], "0");

        cmd->noreply = last_is_noreply(line);
        if (!(n == 3 && (zero || cmd->noreply)) && !(n == 4 && zero && cmd->noreply))
            return refuse(cmd, BAD_DELETE);
    }
    if (!set_key(&t[1], cmd))
        return refuse(cmd, BAD_FORMAT);
    return PARSE_OK;
}

static enum parse_status parse_flush_all(const struct line *line, struct key_list *keys, struct command *cmd)
{
    (void)keys;
    if (line->num_tokens > 3)
        return refuse(cmd, BAD_COMMAND);
    cmd->noreply = last_is_noreply(line);
    if (line->num_tokens == (cmd->noreply ? 2 : 1))
        return PARSE_OK;
    if (!token_i64(&line->tokens[1], &cmd->exptime))
        return refuse(cmd, BAD_EXPTIME);
    cmd->has_exptime = true;
    return PARSE_OK;
}

static enum parse_status parse_verbosity(const struct line *line, struct key_list *keys, struct command *cmd)
{
    uint32_t level;

    (void)keys;
    if (line->num_tokens < 2 || line->num_tokens > 3)
        return refuse(cmd, BAD_COMMAND);
    cmd->noreply = last_is_noreply(line);
    if (!token_u32(&line->tokens[1], &level))
        return refuse(cmd, BAD_FORMAT);
    cmd->exptime = level;
    return PARSE_OK;
}

/* Keeps what follows the command. False when it is too long to be anything. */
static bool set_arg(const struct line *line, struct command *cmd)
{
    if (line->num_tokens > 1) {
        cmd->key = line->tokens[1].p;
        cmd->key_len = (size_t)(line->p + line->len - cmd->key);
    }
    return cmd->key_len <= KEY_MAX;
}

static enum parse_status parse_stats(const struct line *line, struct key_list *keys, struct command *cmd)
{
    (void)keys;
    /* It is passed on, and a server closes a connection on which a line does not end soon. */
    return set_arg(line, cmd) ? PARSE_OK : refuse(cmd, BAD_LINE);
}

static enum parse_status parse_bare(const struct line *line, struct key_list *keys, struct command *cmd)
{
    (void)line;
    (void)keys;
    (void)cmd;
    return PARSE_OK;
}

static enum parse_status parse_manage(const struct line *line, struct key_list *keys, struct command *cmd)
{
    (void)keys;
    return set_arg(line, cmd) ? PARSE_OK : refuse(cmd, BAD_LINE);
}

/* watch [kind]... */
static enum parse_status parse_watch(const struct line *line, struct key_list *keys, struct command *cmd)
{
    (void)keys;
    cmd->noreply = last_is_noreply(line);
    return set_arg(line, cmd) ? PARSE_OK : refuse(cmd, BAD_COMMAND);
}

/* cache_memlimit megabytes [noreply] */
static enum parse_status parse_memlimit(const struct line *line, struct key_list *keys, struct command *cmd)
{
    (void)keys;
    if (line->num_tokens < 2 || line->num_tokens > 3 || !token_u64(&line->tokens[1], &cmd->number))
        return refuse(cmd, BAD_COMMAND);
    cmd->noreply = last_is_noreply(line);
    return PARSE_OK;
}

typedef enum parse_status (*parse_fn)(const struct line *line, struct key_list *keys, struct command *cmd);

/* How the arguments of each command are read; the word is op_table's. */
static const parse_fn parsers[OP_COUNT] = {
    [OP_GET] = parse_get,         [OP_GETS] = parse_get,       [OP_GAT] = parse_gat,
    [OP_GATS] = parse_gat,        [OP_SET] = parse_store,      [OP_ADD] = parse_store,
    [OP_REPLACE] = parse_store,   [OP_APPEND] = parse_store,   [OP_PREPEND] = parse_store,
    [OP_CAS] = parse_store,       [OP_INCR] = parse_arith,     [OP_DECR] = parse_arith,
    [OP_TOUCH] = parse_touch,     [OP_DELETE] = parse_delete,  [OP_FLUSH_ALL] = parse_flush_all,
    [OP_STATS] = parse_stats,     [OP_VERSION] = parse_bare,   [OP_VERBOSITY] = parse_verbosity,
    [OP_SHUTDOWN] = parse_manage, [OP_CRAWLER] = parse_manage, [OP_MEMLIMIT] = parse_memlimit,
    [OP_WATCH] = parse_watch,     [OP_QUIT] = parse_bare,
};

/*
 * A word that is no command: an error, or good-bye to a browser that has lost its way. Of memcached's commands that
 * manage one server, which moxi does not take, `slabs automove` has an error of its own for what is not a number.
 */
static enum parse_status parse_unknown(const struct line *line, struct command *cmd)
{
    const struct token *last = &line->tokens[line->num_tokens - 1];
    uint32_t mode;

    if (line->num_tokens == 3 && token_is(&line->tokens[0], "slabs") && token_is(&line->tokens[1], "automove") &&
        !token_u32(last, &mode))
        return refuse(cmd, BAD_FORMAT);

    if (line->num_tokens > 1 && last->len >= 5 && memcmp(last->p, "HTTP/", 5) == 0) {
        cmd->hangup = true;
        return refuse(cmd, NULL);
    }
    return refuse(cmd, BAD_COMMAND);
}

static enum parse_status parse_line(const uint8_t *p, size_t len, struct key_list *keys, struct command *cmd)
{
    struct token tokens[TOKENS_MAX];
    struct line line = {p, len, tokens, tokenize(p, len, tokens)};

    if (line.num_tokens == 0)
        return refuse(cmd, BAD_COMMAND);
    for (int op = 0; op < OP_COUNT; op++) {
        if (parsers[op] == NULL || !token_is(&tokens[0], op_table[op].name))
            continue;
        cmd->op = (enum opcode)op;
        return parsers[op](&line, keys, cmd);
    }
    return parse_unknown(&line, cmd);
}

/* Whether a line that has no end yet may grow longer than LINE_MAX_OTHERS. */
static bool may_be_long(const uint8_t *p, size_t n)
{
    const uint8_t *end = p + n;
    size_t len = next_word(&p, end);
    struct token word = {p, len};

    return token_is(&word, "get") || token_is(&word, "gets") || token_is(&word, "gat") || token_is(&word, "gats");
}

static enum parse_status ascii_parse_request(const uint8_t *p, size_t n, size_t seen, struct key_list *keys,
                                             struct command *cmd)
{
    const uint8_t *lf = memchr(p + seen, '\n', n - seen);
    const uint8_t *end, *nul;

    memset(cmd, 0, sizeof(*cmd));
    if (lf == NULL) {
        if (n <= LINE_MAX_OTHERS || may_be_long(p, n))
            return PARSE_MORE;
        cmd->hangup = true;
        cmd->consumed = n;
        return refuse(cmd, BAD_LINE);
    }
    cmd->consumed = (size_t)(lf - p) + 1;
    end = lf > p && lf[-1] == '\r' ? lf - 1 : lf;
    /* memcached ends a command at a NUL: what stands behind it is not looked at. */
    nul = memchr(p, '\0', (size_t)(end - p));
    if (UNLIKELY(nul != NULL))
        end = nul;

    if (LIKELY(end - p > 4 && memcmp(p, "get ", 4) == 0)) {
        cmd->op = OP_GET;
        return read_keys(p + 4, end, keys, cmd);
    }
    return parse_line(p, (size_t)(end - p), keys, cmd);
}

/*
 * Its first word is there, and is no command. But for a word that parse_unknown may have another answer for: capital
 * letters alone, which may be a browser's, and slabs. And for a NUL, which ends a command early.
 */
static bool ascii_is_hopeless(const uint8_t *p, size_t n)
{
    const uint8_t *end = p + n;
    size_t len = next_word(&p, end), capitals = 0;
    struct token word = {p, len};

    if (p + len == end || token_is(&word, "slabs") || memchr(p, '\0', len) != NULL)
        return false;
    for (int op = 0; op < OP_COUNT; op++)
        if (parsers[op] != NULL && token_is(&word, op_table[op].name))
            return false;
    while (capitals < len && p[capitals] >= 'A' && p[capitals] <= 'Z')
        capitals++;
    return capitals < len;
}

static bool ascii_check_tail(const uint8_t *p, size_t n)
{
    return n == 2 && p[0] == '\r' && p[1] == '\n';
}

/* --- requests, out --- */

/* Bytes that a composed header takes at the most: a word, a key, five numbers, blanks. */
enum { HEADER_MAX = 16 + KEY_MAX + 5 * (U64_DIGITS + 1) };

static uint8_t *put(uint8_t *to, const void *p, size_t n)
{
    memcpy(to, p, n);
    return to + n;
}

static uint8_t *put_u64(uint8_t *to, uint64_t v)
{
    *to++ = ' ';
    return to + util_format_u64((char *)to, v);
}

static uint8_t *put_i64(uint8_t *to, int64_t v)
{
    *to++ = ' ';
    if (v < 0) {
        *to++ = '-';
        return to + util_format_u64((char *)to, 0 - (uint64_t)v);
    }
    return to + util_format_u64((char *)to, (uint64_t)v);
}

static uint8_t *put_key(uint8_t *to, const struct rkey *key)
{
    *to++ = ' ';
    return put(to, key->p, key->len);
}

static uint8_t *put_word(uint8_t *to, const struct request *r)
{
    const char *word = op_table[r->op].name;

    return put(to, word, strlen(word));
}

static bool compose_get(const struct request *r, struct bufpool *bufs, struct spanq *out)
{
    size_t room;
    uint8_t *start = spanq_reserve(out, bufs, HEADER_MAX, HEADER_MAX + (size_t)r->num_keys * 32, &room);
    uint8_t *to;

    if (start == NULL)
        return false;
    to = put_word(start, r);
    if (r->op == OP_GAT || r->op == OP_GATS)
        to = put_i64(to, r->exptime);
    for (uint32_t i = r->first; i != RKEY_END; i = r->keys[i].next) {
        if (UNLIKELY(room - (size_t)(to - start) < KEY_MAX + 1 + sizeof(CRLF))) {
            spanq_commit(out, (size_t)(to - start));
            start = spanq_reserve(out, bufs, HEADER_MAX, CHUNK_MEDIUM, &room);
            if (start == NULL)
                return false;
            to = start;
        }
        to = put_key(to, &r->keys[i]);
    }
    to = put(to, CRLF, 2);
    spanq_commit(out, (size_t)(to - start));
    return true;
}

static bool compose_store(const struct request *r, struct bufpool *bufs, struct spanq *out)
{
    const uint8_t *inl = request_inline_value(r);
    size_t least = HEADER_MAX + sizeof(r->inl) + 2;
    uint8_t *start = spanq_reserve(out, bufs, least, least, NULL);
    uint8_t *to;

    if (start == NULL)
        return false;
    to = put_word(start, r);
    to = put_key(to, &r->keys[r->first]);
    to = put_u64(to, r->flags);
    to = put_i64(to, r->exptime);
    to = put_u64(to, request_value_len(r));
    if (r->op == OP_CAS)
        to = put_u64(to, r->number);
    to = put(to, CRLF, 2);
    if (inl != NULL)
        to = put(to, inl, r->inl_value_len);
    if (r->value.bytes == 0) {
        to = put(to, CRLF, 2);
        spanq_commit(out, (size_t)(to - start));
        return true;
    }
    spanq_commit(out, (size_t)(to - start));
    return spanq_share(out, bufs, &r->value) && spanq_copy(out, bufs, CRLF, 2);
}

/* Everything that fits into one line without a value. */
static bool compose_line(const struct request *r, struct bufpool *bufs, struct spanq *out)
{
    uint8_t *start = spanq_reserve(out, bufs, HEADER_MAX, HEADER_MAX, NULL);
    uint8_t *to;

    if (start == NULL)
        return false;
    to = put_word(start, r);
    if (op_flags((enum opcode)r->op) & OPF_KEY)
        to = put_key(to, &r->keys[r->first]);
    if (r->op == OP_INCR || r->op == OP_DECR)
        to = put_u64(to, r->number);
    if (r->op == OP_TOUCH || r->has_exptime)
        to = put_i64(to, r->exptime);
    to = put(to, CRLF, 2);
    spanq_commit(out, (size_t)(to - start));
    return true;
}

static bool compose_stats(const struct request *r, struct bufpool *bufs, struct spanq *out)
{
    if (!spanq_copy(out, bufs, "stats", 5))
        return false;
    if (r->arg_len > 0 && (!spanq_copy(out, bufs, " ", 1) || !spanq_copy(out, bufs, r->arg, r->arg_len)))
        return false;
    return spanq_copy(out, bufs, CRLF, 2);
}

static bool ascii_compose_request(const struct request *r, struct bufpool *bufs, struct spanq *out)
{
    unsigned flags = op_flags((enum opcode)r->op);

    if (flags & OPF_VALUES)
        return compose_get(r, bufs, out);
    if (flags & OPF_BODY)
        return compose_store(r, bufs, out);
    if (r->op == OP_STATS)
        return compose_stats(r, bufs, out);
    return compose_line(r, bufs, out);
}

/* --- replies, in --- */

/* A reply of one fixed line: for which requests, and what it means. */
struct fixed_reply {
    const char *line;
    size_t len;
    enum result result;
};

#define FIXED(text, result)                      \
    {                                            \
        text CRLF, sizeof(text CRLF) - 1, result \
    }

static const struct fixed_reply store_replies[] = {
    FIXED("STORED", RESULT_STORED), FIXED("NOT_STORED", RESULT_NOT_STORED),
    FIXED("EXISTS", RESULT_EXISTS), FIXED("NOT_FOUND", RESULT_NOT_FOUND),
    {NULL, 0, RESULT_NONE},
};

static const struct fixed_reply values_replies[] = {FIXED("END", RESULT_END), {NULL, 0, RESULT_NONE}};

static const struct fixed_reply delete_replies[] = {
    FIXED("DELETED", RESULT_DELETED),
    FIXED("NOT_FOUND", RESULT_NOT_FOUND),
    {NULL, 0, RESULT_NONE},
};

static const struct fixed_reply touch_replies[] = {
    FIXED("TOUCHED", RESULT_TOUCHED),
    FIXED("NOT_FOUND", RESULT_NOT_FOUND),
    {NULL, 0, RESULT_NONE},
};

static const struct fixed_reply arith_replies[] = {FIXED("NOT_FOUND", RESULT_NOT_FOUND), {NULL, 0, RESULT_NONE}};

static const struct fixed_reply ok_replies[] = {FIXED("OK", RESULT_OK), {NULL, 0, RESULT_NONE}};

static const struct fixed_reply stats_replies[] = {
    FIXED("END", RESULT_END),
    FIXED("RESET", RESULT_RESET),
    FIXED("OK", RESULT_OK),
    {NULL, 0, RESULT_NONE},
};

static const struct fixed_reply *replies_to(enum opcode op)
{
    unsigned flags = op_flags(op);

    if (flags & OPF_VALUES)
        return values_replies;
    if (flags & OPF_STORES)
        return store_replies;
    switch (op) {
    case OP_DELETE:
        return delete_replies;
    case OP_TOUCH:
        return touch_replies;
    case OP_INCR:
    case OP_DECR:
        return arith_replies;
    case OP_STATS:
        return stats_replies;
    default:
        return ok_replies;
    }
}

static enum parse_status bad_reply(struct reply *reply, const char *why)
{
    reply->why = why;
    return PARSE_BAD;
}

/* Reads digits up to `stop`, which must follow; NULL when they are no number. */
static const uint8_t *read_number(const uint8_t *p, const uint8_t *end, uint8_t stop, uint64_t *out)
{
    const uint8_t *e = p + util_scan_u64((const char *)p, (size_t)(end - p), out);

    return e != p && e != end && *e == stop ? e + 1 : NULL;
}

/* "VALUE <key> <flags> <bytes>[ <cas unique>]\r\n"; end is behind the CR. */
static enum parse_status parse_value(const struct request *r, const uint8_t *p, const uint8_t *end, struct reply *reply)
{
    const uint8_t *start = p;
    const uint8_t *blank;
    struct hit *hit = &reply->hit;
    uint64_t flags, len;

    p += 6;
    blank = memchr(p, ' ', (size_t)(end - p));
    if (blank == NULL || blank == p)
        return bad_reply(reply, "a VALUE without a key");
    reply->key = p;
    reply->key_len = (size_t)(blank - p);

    hit->has_cas = r->op == OP_GETS || r->op == OP_GATS;
    p = read_number(blank + 1, end, ' ', &flags);
    if (p == NULL || flags > UINT32_MAX)
        return bad_reply(reply, "a VALUE with bad flags");
    p = read_number(p, end, hit->has_cas ? ' ' : '\r', &len);
    if (p == NULL || len > VALUE_MAX)
        return bad_reply(reply, "a VALUE with a bad length");
    hit->cas = 0;
    if (hit->has_cas) {
        p = read_number(p, end, '\r', &hit->cas);
        if (p == NULL)
            return bad_reply(reply, "a VALUE with a bad cas unique");
    }
    if (p != end)
        return bad_reply(reply, "a VALUE with too many words");
    hit->flags = (uint32_t)flags;
    hit->value_len = (size_t)len;
    hit->tail_len = 2;
    hit->head = start;
    hit->head_len = reply->consumed;
    reply->kind = REPLY_HIT;
    return PARSE_OK;
}

static bool begins_with(const uint8_t *p, size_t n, const char *prefix)
{
    size_t len = strlen(prefix);

    return n >= len && memcmp(p, prefix, len) == 0;
}

static enum parse_status reply_done(struct reply *reply, enum result result, const uint8_t *p, size_t len)
{
    reply->kind = REPLY_DONE;
    reply->outcome.result = result;
    reply->outcome.message = NULL;
    reply->outcome.text = p;
    reply->outcome.text_len = len;
    return PARSE_OK;
}

/* One of the three words, and a reason behind it or nothing. */
static bool is_error(const uint8_t *p, size_t len)
{
    static const char *const words[] = {"SERVER_ERROR", "CLIENT_ERROR", "ERROR"};

    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        size_t n = strlen(words[i]);

        if (begins_with(p, len, words[i]))
            return p[n] == ' ' || p[n] == ':' || p[n] == '\r';
    }
    return false;
}

/* One whole line, its length with CR LF, that is neither a VALUE nor one of the fixed replies. */
static enum parse_status parse_other(const struct request *r, const uint8_t *p, size_t len, struct reply *reply)
{
    uint64_t number;

    if (is_error(p, len)) {
        /* A server that does not know a storage command takes the value for commands, and answers those too. */
        reply->suspicious = (op_flags((enum opcode)r->op) & OPF_BODY) && p[0] == 'E';
        return reply_done(reply, RESULT_ERROR, p, len);
    }
    if (r->op == OP_STATS &&
        (begins_with(p, len, "STAT ") || begins_with(p, len, "PREFIX ") || begins_with(p, len, "ITEM "))) {
        reply->kind = REPLY_STAT;
        reply->line = p;
        reply->line_len = len - 2;
        return PARSE_OK;
    }
    if (r->op == OP_INCR || r->op == OP_DECR) {
        size_t digits = len - 2;

        /* memcached before 1.4 pads a decremented number with blanks. */
        while (digits > 0 && p[digits - 1] == ' ')
            digits--;
        if (util_parse_u64((const char *)p, digits, &number))
            return reply_done(reply, RESULT_NUMBER, p, len);
    }
    return bad_reply(reply, "a reply that does not belong to the request");
}

static enum parse_status ascii_parse_reply(const struct request *r, const uint8_t *p, size_t n, size_t seen,
                                           struct reply *reply)
{
    const uint8_t *lf = memchr(p + seen, '\n', n - seen);
    size_t len;

    reply->suspicious = false;
    if (lf == NULL)
        return n < REPLY_LINE_MAX ? PARSE_MORE : bad_reply(reply, "a line without an end");
    len = (size_t)(lf - p) + 1;
    reply->consumed = len;
    if (len < 3 || lf[-1] != '\r')
        return bad_reply(reply, "a line that does not end in CR LF");

    if ((op_flags((enum opcode)r->op) & OPF_VALUES) && begins_with(p, len, "VALUE "))
        return parse_value(r, p, lf, reply);
    for (const struct fixed_reply *f = replies_to((enum opcode)r->op); f->line != NULL; f++)
        if (f->len == len && memcmp(f->line, p, len) == 0)
            return reply_done(reply, f->result, p, len);
    return parse_other(r, p, len, reply);
}

/* --- replies, out --- */

static const char *const result_lines[] = {
    [RESULT_END] = "END",
    [RESULT_STORED] = "STORED",
    [RESULT_NOT_STORED] = "NOT_STORED",
    [RESULT_EXISTS] = "EXISTS",
    [RESULT_NOT_FOUND] = "NOT_FOUND",
    [RESULT_DELETED] = "DELETED",
    [RESULT_TOUCHED] = "TOUCHED",
    [RESULT_OK] = "OK",
    [RESULT_RESET] = "RESET",
    [RESULT_VERSION] = "VERSION",
    [RESULT_WRITE_FAILED] = "SERVER_ERROR proxy write to downstream",
    [RESULT_CLOSED] = "SERVER_ERROR proxy downstream closed",
    [RESULT_TIMEOUT] = "SERVER_ERROR proxy downstream timeout",
    [RESULT_QUEUE_FULL] = "SERVER_ERROR proxy out of downstreams",
    [RESULT_WAITED] = "SERVER_ERROR proxy wait queue timeout",
    [RESULT_NO_MEMORY] = "SERVER_ERROR out of memory",
};

/* The results whose line ends in the message. */
static bool has_message(enum result result)
{
    return result == RESULT_WRITE_FAILED || result == RESULT_CLOSED || result == RESULT_TIMEOUT ||
           result == RESULT_VERSION;
}

static bool ascii_compose_outcome(const struct request *r, const struct outcome *outcome, struct bufpool *bufs,
                                  struct spanq *out)
{
    size_t before = out->bytes;
    const char *line;
    bool ok;

    (void)r;
    if (outcome->text != NULL)
        return spanq_copy(out, bufs, outcome->text, outcome->text_len);
    line = outcome->result == RESULT_REFUSED ? outcome->message : result_lines[outcome->result];
    assert(line != NULL);
    ok = spanq_copy(out, bufs, line, strlen(line));
    if (ok && has_message(outcome->result))
        ok = spanq_copy(out, bufs, " ", 1) && spanq_copy(out, bufs, outcome->message, strlen(outcome->message));
    ok = ok && spanq_copy(out, bufs, CRLF, 2);
    if (!ok)
        spanq_truncate(out, bufs, before);
    return ok;
}

static size_t ascii_compose_head(const struct rkey *key, const struct hit *hit, uint8_t *dst)
{
    char *p = (char *)dst;

    memcpy(p, "VALUE ", 6);
    p += 6;
    memcpy(p, key->p, key->len);
    p += key->len;
    *p++ = ' ';
    p += util_format_u64(p, hit->flags);
    *p++ = ' ';
    p += util_format_u64(p, hit->value_len);
    if (hit->has_cas) {
        *p++ = ' ';
        p += util_format_u64(p, hit->cas);
    }
    memcpy(p, CRLF, 2);
    return (size_t)(p + 2 - (char *)dst);
}

const struct codec codec_ascii = {
    .name = "ascii",
    .parse_request = ascii_parse_request,
    .is_hopeless = ascii_is_hopeless,
    .check_tail = ascii_check_tail,
    .compose_request = ascii_compose_request,
    .parse_reply = ascii_parse_reply,
    .compose_head = ascii_compose_head,
    .compose_outcome = ascii_compose_outcome,
};
