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

#include "cproxy_text.h"

#define BAD_DELETE "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]"
#define BAD_EXPTIME "CLIENT_ERROR invalid exptime argument"
#define BAD_DELTA "CLIENT_ERROR invalid numeric delta argument"

/* --- requests, in --- */

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
    keys->v[keys->n].len = (uint16_t)len;
    keys->v[keys->n].is_hit = false;
    keys->v[keys->n].is_told = false;
    keys->v[keys->n].next = keys->n + 1;
    keys->n++;
    return true;
}

/* Reads the keys of a retrieval. A key that is too long refuses the whole command. */
static enum parse_status read_keys(const uint8_t *p, const uint8_t *end, struct key_list *keys, struct command *cmd)
{
    size_t len = text_next_word(&p, end);

    if (len == 0)
        return text_refuse(cmd, BAD_COMMAND);
    if (len > KEY_MAX)
        return text_refuse(cmd, BAD_FORMAT);
    cmd->key = p;
    cmd->key_len = len;
    cmd->num_keys = 1;
    p += len;
    len = text_next_word(&p, end);
    if (len == 0)
        return PARSE_OK;

    keys->n = 0;
    if (!key_list_add(keys, cmd->key, cmd->key_len))
        return PARSE_NO_MEMORY;
    do {
        if (len > KEY_MAX)
            return text_refuse(cmd, BAD_FORMAT);
        if (!key_list_add(keys, p, len))
            return PARSE_NO_MEMORY;
        p += len;
        len = text_next_word(&p, end);
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
        return text_refuse(cmd, BAD_COMMAND);
    if (!token_seconds(&line->tokens[1], &cmd->exptime))
        return text_refuse(cmd, BAD_EXPTIME);
    /* memcached finds nothing wrong with asking for no key. */
    if (line->num_tokens == 2)
        return text_refuse(cmd, "END");
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
        return text_refuse(cmd, BAD_COMMAND);
    cmd->noreply = last_is_noreply(line);
    if (!token_i64(&t[4], &len) || len < 0 || len > INT32_MAX - 2)
        return text_refuse(cmd, BAD_FORMAT);
    /* From here on the length of the value is known, and it is skipped when the command is refused. */
    cmd->body_len = (size_t)len;
    cmd->body_tail = 2;
    if (!set_key(&t[1], cmd) || !token_u32(&t[2], &cmd->flags) || !token_seconds(&t[3], &cmd->exptime))
        return text_refuse(cmd, BAD_FORMAT);
    if (cmd->op == OP_CAS && !token_u64(&t[5], &cmd->number))
        return text_refuse(cmd, BAD_FORMAT);
    return PARSE_OK;
}

static enum parse_status parse_arith(const struct line *line, struct key_list *keys, struct command *cmd)
{
    (void)keys;
    if (line->num_tokens != 3 && line->num_tokens != 4)
        return text_refuse(cmd, BAD_COMMAND);
    cmd->noreply = last_is_noreply(line);
    if (!set_key(&line->tokens[1], cmd))
        return text_refuse(cmd, BAD_FORMAT);
    if (!token_u64(&line->tokens[2], &cmd->number))
        return text_refuse(cmd, BAD_DELTA);
    return PARSE_OK;
}

static enum parse_status parse_touch(const struct line *line, struct key_list *keys, struct command *cmd)
{
    (void)keys;
    if (line->num_tokens != 3 && line->num_tokens != 4)
        return text_refuse(cmd, BAD_COMMAND);
    cmd->noreply = last_is_noreply(line);
    if (!set_key(&line->tokens[1], cmd))
        return text_refuse(cmd, BAD_FORMAT);
    if (!token_seconds(&line->tokens[2], &cmd->exptime))
        return text_refuse(cmd, BAD_EXPTIME);
    return PARSE_OK;
}

/* delete key [0] [noreply]: old clients send a time, of which only 0 was ever kept. */
static enum parse_status parse_delete(const struct line *line, struct key_list *keys, struct command *cmd)
{
    const struct token *t = line->tokens;
    size_t n = line->num_tokens;

    (void)keys;
    if (n < 2 || n > 4)
        return text_refuse(cmd, BAD_COMMAND);
    if (n > 2) {
        bool zero = token_is(&t[2], "0");

        cmd->noreply = last_is_noreply(line);
        if (!(n == 3 && (zero || cmd->noreply)) && !(n == 4 && zero && cmd->noreply))
            return text_refuse(cmd, BAD_DELETE);
    }
    if (!set_key(&t[1], cmd))
        return text_refuse(cmd, BAD_FORMAT);
    return PARSE_OK;
}

static enum parse_status parse_flush_all(const struct line *line, struct key_list *keys, struct command *cmd)
{
    (void)keys;
    if (line->num_tokens > 3)
        return text_refuse(cmd, BAD_COMMAND);
    cmd->noreply = last_is_noreply(line);
    if (line->num_tokens == (cmd->noreply ? 2 : 1))
        return PARSE_OK;
    if (!token_seconds(&line->tokens[1], &cmd->exptime))
        return text_refuse(cmd, BAD_EXPTIME);
    cmd->has_exptime = true;
    return PARSE_OK;
}

static enum parse_status parse_verbosity(const struct line *line, struct key_list *keys, struct command *cmd)
{
    uint32_t level;

    (void)keys;
    if (line->num_tokens < 2 || line->num_tokens > 3)
        return text_refuse(cmd, BAD_COMMAND);
    cmd->noreply = last_is_noreply(line);
    if (!token_u32(&line->tokens[1], &level))
        return text_refuse(cmd, BAD_FORMAT);
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
    return set_arg(line, cmd) ? PARSE_OK : text_refuse(cmd, BAD_LINE);
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
    return set_arg(line, cmd) ? PARSE_OK : text_refuse(cmd, BAD_LINE);
}

/* watch [kind]... */
static enum parse_status parse_watch(const struct line *line, struct key_list *keys, struct command *cmd)
{
    (void)keys;
    cmd->noreply = last_is_noreply(line);
    return set_arg(line, cmd) ? PARSE_OK : text_refuse(cmd, BAD_COMMAND);
}

/* cache_memlimit megabytes [noreply] */
static enum parse_status parse_memlimit(const struct line *line, struct key_list *keys, struct command *cmd)
{
    (void)keys;
    if (line->num_tokens < 2 || line->num_tokens > 3 || !token_u64(&line->tokens[1], &cmd->number))
        return text_refuse(cmd, BAD_COMMAND);
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
        return text_refuse(cmd, BAD_FORMAT);

    if (line->num_tokens > 1 && last->len >= 5 && memcmp(last->p, "HTTP/", 5) == 0) {
        cmd->hangup = true;
        return text_refuse(cmd, NULL);
    }
    return text_refuse(cmd, BAD_COMMAND);
}

static enum parse_status parse_line(const uint8_t *p, size_t len, struct key_list *keys, struct command *cmd)
{
    struct token tokens[TOKENS_MAX];
    struct line line = {p, len, tokens, text_tokenize(p, len, tokens, TOKENS_MAX)};

    if (line.num_tokens == 0)
        return text_refuse(cmd, BAD_COMMAND);
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
    size_t len = text_next_word(&p, end);
    struct token word = {p, len};

    return token_is(&word, "get") || token_is(&word, "gets") || token_is(&word, "gat") || token_is(&word, "gats");
}

static enum parse_status ascii_parse_request(const uint8_t *p, size_t n, size_t seen, struct key_list *keys,
                                             struct command *cmd)
{
    const uint8_t *end;

    memset(cmd, 0, offsetof(struct command, terms));
    end = text_line_end(p, n, seen, cmd);
    if (end == NULL) {
        if (n <= LINE_MAX_OTHERS || may_be_long(p, n))
            return PARSE_MORE;
        cmd->hangup = true;
        cmd->consumed = n;
        return text_refuse(cmd, BAD_LINE);
    }
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
    size_t len = text_next_word(&p, end), capitals = 0;
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

/* --- requests, out --- */

/* The command that says it: a meta command is said by a classic one, if it can be. */
static enum opcode classic_op(const struct request *r)
{
    uint32_t bits;

    if (LIKELY(!op_is_meta(r->op)))
        return (enum opcode)r->op;
    bits = r->terms.bits;
    switch (r->op) {
    case OP_META_GET:
        if (!(bits & TERM_VALUE))
            return OP_TOUCH;
        if (bits & TERM_TOUCH)
            return bits & TERM_UNIQUE ? OP_GATS : OP_GAT;
        return bits & TERM_UNIQUE ? OP_GETS : OP_GET;
    case OP_META_SET:
        return bits & TERM_COMPARE && r->terms.mode != OP_ADD ? OP_CAS : (enum opcode)r->terms.mode;
    case OP_META_ARITH:
        return (enum opcode)r->terms.mode;
    default:
        return OP_DELETE;
    }
}

/* Bytes that a composed header takes at the most: a word, a key, five numbers, blanks. */
enum { HEADER_MAX = 16 + KEY_MAX + 5 * (U64_DIGITS + 1) };

static uint8_t *put_key(uint8_t *to, const struct rkey *key)
{
    *to++ = ' ';
    return put(to, key->p, key->len);
}

static uint8_t *put_word(uint8_t *to, enum opcode op)
{
    const char *word = op_table[op].name;

    return put(to, word, strlen(word));
}

static bool compose_get(const struct request *r, enum opcode op, struct bufpool *bufs, struct spanq *out)
{
    size_t room;
    uint8_t *start = spanq_reserve(out, bufs, HEADER_MAX, HEADER_MAX + (size_t)r->num_keys * 32, &room);
    uint8_t *to;

    if (start == NULL)
        return false;
    to = put_word(start, op);
    if (op == OP_GAT || op == OP_GATS)
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

/* Over the CR LF that ends the line. */
static bool ascii_compose_more(const struct request *r, struct spanq *out)
{
    size_t n = 0;
    uint8_t *to;

    for (uint32_t i = r->first; i != RKEY_END; i = r->keys[i].next)
        n += 1 + r->keys[i].len;
    to = spanq_extend(out, n);
    if (to == NULL || out->tail->len < 2)
        return false;
    to -= 2;
    for (uint32_t i = r->first; i != RKEY_END; i = r->keys[i].next)
        to = put_key(to, &r->keys[i]);
    put(to, CRLF, 2);
    spanq_commit(out, n);
    return true;
}

static bool compose_store(const struct request *r, enum opcode op, struct bufpool *bufs, struct spanq *out)
{
    const uint8_t *inl = request_inline_value(r);
    size_t least = HEADER_MAX + sizeof(r->inl) + 2;
    uint8_t *start = spanq_reserve(out, bufs, least, least, NULL);
    uint8_t *to;

    if (start == NULL)
        return false;
    to = put_word(start, op);
    to = put_key(to, &r->keys[r->first]);
    to = put_u64(to, r->flags);
    to = put_i64(to, r->exptime);
    to = put_u64(to, request_value_len(r));
    if (op == OP_CAS)
        to = put_u64(to, r->op == OP_CAS ? r->number : r->terms.compare);
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
static bool compose_line(const struct request *r, enum opcode op, struct bufpool *bufs, struct spanq *out)
{
    uint8_t *start = spanq_reserve(out, bufs, HEADER_MAX, HEADER_MAX, NULL);
    uint8_t *to;

    if (start == NULL)
        return false;
    to = put_word(start, op);
    if (op_flags(op) & OPF_KEY)
        to = put_key(to, &r->keys[r->first]);
    if (op == OP_INCR || op == OP_DECR)
        to = put_u64(to, r->number);
    if (op == OP_TOUCH || r->has_exptime)
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

bool codec_ascii_tells_keys(const struct request *r)
{
    const uint8_t *p = r->arg;
    struct token word;

    if (LIKELY(r->op != OP_STATS) || r->arg_len == 0)
        return false;
    word.len = text_next_word(&p, r->arg + r->arg_len);
    word.p = p;
    return token_is(&word, "cachedump") || token_is(&word, "detail");
}

/*
 * "set auth 0 -1 <bytes>" and "<user> <password>", as memcached has it with -Y. A server that does not ask for it takes
 * it for an item, and one that has expired.
 */
static bool compose_auth(const struct request *r, struct bufpool *bufs, struct spanq *out)
{
    uint8_t value[AUTH_VALUE_MAX], line[HEADER_MAX], *end = line, *nul;
    size_t n = request_value_len(r);
    bool ok;

    request_copy_value(r, value);
    nul = memchr(value + 1, '\0', n - 1);
    if (nul != NULL)
        *nul = ' ';
    end = put_u64(put(end, "set auth 0 -1", 13), n - 1);
    end = put(end, CRLF, 2);
    ok = spanq_copy(out, bufs, line, (size_t)(end - line)) && spanq_copy(out, bufs, value + 1, n - 1) &&
         spanq_copy(out, bufs, CRLF, 2);
    explicit_bzero(value, sizeof(value));
    return ok;
}

static bool ascii_compose_request(const struct request *r, struct bufpool *bufs, struct spanq *out)
{
    enum opcode op = classic_op(r);
    unsigned flags = op_flags(op);

    if (flags & OPF_VALUES)
        return compose_get(r, op, bufs, out);
    if (UNLIKELY(op == OP_AUTH))
        return compose_auth(r, bufs, out);
    if (flags & OPF_BODY)
        return compose_store(r, op, bufs, out);
    if (op == OP_STATS)
        return compose_stats(r, bufs, out);
    return compose_line(r, op, bufs, out);
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

static const struct fixed_reply no_replies[] = {{NULL, 0, RESULT_NONE}};

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
    case OP_AUTH:
        return store_replies;
    case OP_DELETE:
        return delete_replies;
    case OP_TOUCH:
        return touch_replies;
    case OP_INCR:
    case OP_DECR:
        return arith_replies;
    case OP_STATS:
        return stats_replies;
    case OP_VERSION:
        return no_replies;
    default:
        return ok_replies;
    }
}

static bool wants_unique(const struct request *r)
{
    enum opcode op = classic_op(r);

    return op == OP_GETS || op == OP_GATS;
}

/* "VALUE <key> <flags> <bytes>[ <cas unique>]\r\n"; end is behind the CR. */
static enum parse_status parse_value(const struct request *r, const uint8_t *p, const uint8_t *end, struct reply *reply)
{
    const uint8_t *start = p;
    const uint8_t *blank;
    struct hit *hit = &reply->hit;
    bool has_unique = wants_unique(r);
    uint64_t flags, len, unique = 0;

    p += 6;
    blank = memchr(p, ' ', (size_t)(end - p));
    if (blank == NULL || blank == p)
        return text_bad_reply(reply, "a VALUE without a key");
    reply->key = p;
    reply->key_len = (size_t)(blank - p);

    p = text_read_number(blank + 1, end, ' ', &flags);
    if (p == NULL || flags > UINT32_MAX)
        return text_bad_reply(reply, "a VALUE with bad flags");
    p = text_read_number(p, end, has_unique ? ' ' : '\r', &len);
    if (p == NULL || len > VALUE_MAX)
        return text_bad_reply(reply, "a VALUE with a bad length");
    if (has_unique) {
        p = text_read_number(p, end, '\r', &unique);
        if (p == NULL)
            return text_bad_reply(reply, "a VALUE with a bad cas unique");
    }
    if (p != end)
        return text_bad_reply(reply, "a VALUE with too many words");
    hit->facts = (struct facts){.unique = unique, .flags = (uint32_t)flags, .size = (uint32_t)len};
    if (UNLIKELY(op_is_meta(r->op)))
        hit->facts.is_binary = (r->terms.bits & TERM_BASE64) != 0;
    hit->value_len = (size_t)len;
    hit->tail_len = 2;
    hit->head = start;
    hit->head_len = reply->consumed;
    reply->kind = REPLY_HIT;
    reply->is_last = false;
    return PARSE_OK;
}

/* One whole line, its length with CR LF, that is neither a VALUE nor one of the fixed replies. */
static enum parse_status parse_other(enum opcode op, const uint8_t *p, size_t len, struct reply *reply)
{
    uint64_t number;

    if (text_is_error(p, len)) {
        /*
         * A server that does not know a storage command, or not its numbers, may take the value for commands, and
         * answer those too.
         */
        reply->suspicious = (op_flags(op) & OPF_BODY) && (p[0] == 'E' || begins_with(p, len, BAD_FORMAT));
        return text_reply_done(reply, RESULT_ERROR, p, len);
    }
    if (op == OP_STATS &&
        (begins_with(p, len, "STAT ") || begins_with(p, len, "PREFIX ") || begins_with(p, len, "ITEM "))) {
        reply->kind = REPLY_STAT;
        reply->line = p;
        reply->line_len = len - 2;
        return PARSE_OK;
    }
    if (op == OP_VERSION && begins_with(p, len, "VERSION "))
        return text_reply_done(reply, RESULT_TOLD, p, len);
    if (op == OP_INCR || op == OP_DECR) {
        size_t digits = len - 2;

        /* memcached before 1.4 pads a decremented number with blanks. */
        while (digits > 0 && p[digits - 1] == ' ')
            digits--;
        if (util_parse_u64((const char *)p, digits, &number)) {
            text_reply_done(reply, RESULT_NUMBER, p, len);
            reply->outcome.number = number;
            return PARSE_OK;
        }
    }
    return text_bad_reply(reply, "a reply that does not belong to the request");
}

/* Whether a number was to be made of nothing, which incr and decr cannot. */
static bool must_vivify(const struct request *r, enum result result)
{
    return r->op == OP_META_ARITH && result == RESULT_NOT_FOUND && (r->terms.bits & TERM_VIVIFY);
}

static enum parse_status refuse_to_vivify(struct reply *reply)
{
    reply->kind = REPLY_DONE;
    reply->outcome = (struct outcome){.result = RESULT_REFUSED, .message = NEEDS_META("N")};
    return PARSE_OK;
}

static enum parse_status ascii_parse_reply(const struct request *r, const uint8_t *p, size_t n, size_t seen,
                                           struct reply *reply)
{
    const uint8_t *lf = memchr(p + seen, '\n', n - seen);
    enum opcode op = classic_op(r);
    size_t len;

    reply->suspicious = false;
    if (lf == NULL)
        return n < REPLY_LINE_MAX ? PARSE_MORE : text_bad_reply(reply, "a line without an end");
    len = (size_t)(lf - p) + 1;
    reply->consumed = len;
    if (len > REPLY_LINE_MAX)
        return text_bad_reply(reply, "a line that is too long");
    if (len < 3 || lf[-1] != '\r')
        return text_bad_reply(reply, "a line that does not end in CR LF");

    if ((op_flags(op) & OPF_VALUES) && begins_with(p, len, "VALUE "))
        return parse_value(r, p, lf, reply);
    for (const struct fixed_reply *f = replies_to(op); f->line != NULL; f++)
        if (f->len == len && memcmp(f->line, p, len) == 0)
            return UNLIKELY(must_vivify(r, f->result)) ? refuse_to_vivify(reply)
                                                       : text_reply_done(reply, f->result, p, len);
    return parse_other(op, p, len, reply);
}

/* --- replies, out --- */

static const char *const result_lines[] = {
    [RESULT_STORED] = "STORED",   [RESULT_NOT_STORED] = "NOT_STORED",
    [RESULT_EXISTS] = "EXISTS",   [RESULT_NOT_FOUND] = "NOT_FOUND",
    [RESULT_DELETED] = "DELETED", [RESULT_TOUCHED] = "TOUCHED",
    [RESULT_OK] = "OK",           [RESULT_RESET] = "RESET",
};

/* A word, and a message behind it if there is one. */
static bool compose_word(const char *word, const char *message, struct bufpool *bufs, struct spanq *out)
{
    size_t before = out->bytes;
    bool ok = spanq_copy(out, bufs, word, strlen(word));

    if (ok && message != NULL)
        ok = spanq_copy(out, bufs, " ", 1) && spanq_copy(out, bufs, message, strlen(message));
    ok = ok && spanq_copy(out, bufs, CRLF, 2);
    if (!ok)
        spanq_truncate(out, bufs, before);
    return ok;
}

static bool ascii_compose_outcome(const struct request *r, const struct outcome *outcome, struct bufpool *bufs,
                                  struct spanq *out)
{
    char line[U64_DIGITS + sizeof(CRLF)];
    size_t n;

    (void)r;
    if (outcome->text != NULL)
        return spanq_copy(out, bufs, outcome->text, outcome->text_len);
    switch (outcome->result) {
    case RESULT_END:
        return spanq_copy(out, bufs, "END" CRLF, 5);
    case RESULT_TOLD:
        return compose_word("VERSION", outcome->message, bufs, out);
    case RESULT_NUMBER:
        n = util_format_u64(line, outcome->number);
        memcpy(line + n, CRLF, 2);
        return spanq_copy(out, bufs, line, n + 2);
    default:
        break;
    }
    if (outcome->result < ARRAY_LEN(result_lines) && result_lines[outcome->result] != NULL)
        return compose_word(result_lines[outcome->result], NULL, bufs, out);
    return text_compose_error(outcome, bufs, out);
}

static size_t ascii_compose_head(const struct request *r, const struct hit *hit, uint8_t *dst)
{
    const struct rkey *key = &r->keys[hit->key];
    uint8_t *p = put(dst, "VALUE ", 6);

    p = put(p, key->p, key->len);
    p = put_u64(p, hit->facts.flags);
    p = put_u64(p, hit->value_len);
    if (wants_unique(r))
        p = put_u64(p, hit->facts.unique);
    p = put(p, CRLF, 2);
    return (size_t)(p - dst);
}

/* --- what it cannot say --- */

/* What only meta commands can be asked for in general, and some classic commands can too. */
static uint32_t terms_said(const struct request *r)
{
    switch (r->op) {
    case OP_META_GET:
        return TERM_UNIQUE | TERM_TOUCH | TERM_SIZE;
    case OP_META_SET:
        if (r->terms.mode == OP_APPEND || r->terms.mode == OP_PREPEND)
            return TERM_TOUCH;
        return TERM_TOUCH | TERM_COMPARE | TERM_SIZE;
    case OP_META_DELETE:
        return TERM_TOUCH; /* of no effect without I */
    default:
        return TERM_SIZE | TERM_VIVIFY; /* of no effect; while there is a number, see must_vivify */
    }
}

/* One who need not be told more than whether the key is there. */
static bool is_touch(const struct request *r)
{
    return (r->terms.bits & TERM_TOUCH) && (r->terms.bits & TERM_LENIENT);
}

static const char *ascii_lacks(const struct request *r)
{
    if (!op_is_meta(r->op))
        return NULL;
    if (r->op == OP_META_DEBUG)
        return NEEDS_META("me");
    if (r->num_keys == 1 && !rkey_is_word(&r->keys[0]))
        return NEEDS_META("a binary key");
    if (r->op == OP_META_GET && !(r->terms.bits & TERM_VALUE) && !is_touch(r))
        return NEEDS_META("mg without v");
    return codec_lacks_terms(r->terms.bits & ~terms_said(r));
}

const struct codec codec_ascii = {
    .name = "ascii",
    .value_tail = 2,
    .parse_request = ascii_parse_request,
    .is_hopeless = ascii_is_hopeless,
    .check_tail = text_check_tail,
    .lacks = ascii_lacks,
    .compose_request = ascii_compose_request,
    .compose_more = ascii_compose_more,
    .parse_reply = ascii_parse_reply,
    .compose_head = ascii_compose_head,
    .compose_stat = text_compose_stat,
    .compose_outcome = ascii_compose_outcome,
};
