/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_protocol_b - the binary protocol for clients, as memcached's protocol-binary.txt defines it and memcached 1.6
 * speaks it.
 *
 * Its commands are those of the vocabulary: most are meta commands, because they have and are told a cas unique. What a
 * reply is told of an item is told if the server says it (TERM_LENIENT), else it is 0.
 *
 * Errors are what memcached says in text, here a status with memcached's words.
 */
#include <assert.h>

#include "cproxy_binary.h"

/* What a command has and means. */
struct command_info {
    enum opcode op;   /* OP_REFUSED: there is no such command */
    uint8_t mode;     /* terms.mode: of META_SET and META_ARITH */
    uint8_t extras;   /* bytes; FLUSH may leave them out */
    uint32_t bits;    /* of terms */
    bool returns_key; /* in the reply */
    bool has_key;
    bool has_value;
};

#define STORES (TERM_UNIQUE | TERM_LENIENT)
#define TOUCHES (TERM_TOUCH | TERM_FLAGS | TERM_UNIQUE | TERM_LENIENT)
#define COUNTS (TERM_VALUE | TERM_UNIQUE | TERM_LENIENT)

static const struct command_info commands[COMMANDS] = {
    [CMD_GET] = {OP_GETS, 0, 0, 0, false, true, false},
    [CMD_GETQ] = {OP_GETS, 0, 0, TERM_QUIET, false, true, false},
    [CMD_GETK] = {OP_GETS, 0, 0, 0, true, true, false},
    [CMD_GETKQ] = {OP_GETS, 0, 0, TERM_QUIET, true, true, false},
    [CMD_GAT] = {OP_GATS, 0, 4, 0, false, true, false},
    [CMD_GATQ] = {OP_GATS, 0, 4, TERM_QUIET, false, true, false},
    [CMD_GATK] = {OP_GATS, 0, 4, 0, true, true, false},
    [CMD_GATKQ] = {OP_GATS, 0, 4, TERM_QUIET, true, true, false},
    [CMD_TOUCH] = {OP_META_GET, 0, 4, TOUCHES, false, true, false},
    [CMD_SET] = {OP_META_SET, OP_SET, 8, STORES, false, true, true},
    [CMD_SETQ] = {OP_META_SET, OP_SET, 8, STORES | TERM_QUIET, false, true, true},
    [CMD_ADD] = {OP_META_SET, OP_ADD, 8, STORES, false, true, true},
    [CMD_ADDQ] = {OP_META_SET, OP_ADD, 8, STORES | TERM_QUIET, false, true, true},
    [CMD_REPLACE] = {OP_META_SET, OP_REPLACE, 8, STORES, false, true, true},
    [CMD_REPLACEQ] = {OP_META_SET, OP_REPLACE, 8, STORES | TERM_QUIET, false, true, true},
    [CMD_APPEND] = {OP_META_SET, OP_APPEND, 0, STORES, false, true, true},
    [CMD_APPENDQ] = {OP_META_SET, OP_APPEND, 0, STORES | TERM_QUIET, false, true, true},
    [CMD_PREPEND] = {OP_META_SET, OP_PREPEND, 0, STORES, false, true, true},
    [CMD_PREPENDQ] = {OP_META_SET, OP_PREPEND, 0, STORES | TERM_QUIET, false, true, true},
    [CMD_DELETE] = {OP_META_DELETE, 0, 0, 0, false, true, false},
    [CMD_DELETEQ] = {OP_META_DELETE, 0, 0, TERM_QUIET, false, true, false},
    [CMD_INCREMENT] = {OP_META_ARITH, OP_INCR, 20, COUNTS, false, true, false},
    [CMD_INCREMENTQ] = {OP_META_ARITH, OP_INCR, 20, COUNTS | TERM_QUIET, false, true, false},
    [CMD_DECREMENT] = {OP_META_ARITH, OP_DECR, 20, COUNTS, false, true, false},
    [CMD_DECREMENTQ] = {OP_META_ARITH, OP_DECR, 20, COUNTS | TERM_QUIET, false, true, false},
    [CMD_FLUSH] = {OP_FLUSH_ALL, 0, 4, 0, false, false, false},
    [CMD_FLUSHQ] = {OP_FLUSH_ALL, 0, 4, TERM_QUIET, false, false, false},
    [CMD_VERBOSITY] = {OP_VERBOSITY, 0, 4, 0, false, false, false},
    [CMD_NOOP] = {OP_META_NOOP, 0, 0, 0, false, false, false},
    [CMD_QUIT] = {OP_META_NOOP, 0, 0, 0, false, false, false},
    [CMD_QUITQ] = {OP_QUIT, 0, 0, 0, false, false, false},
    [CMD_VERSION] = {OP_VERSION, 0, 0, 0, false, false, false},
    [CMD_STAT] = {OP_STATS, 0, 0, 0, false, true, false},
    [CMD_SASL_LIST] = {OP_SASL_LIST, 0, 0, 0, false, false, false},
    [CMD_SASL_AUTH] = {OP_AUTH, 0, 0, 0, false, true, true},
    [CMD_SASL_STEP] = {OP_SASL_STEP, 0, 0, 0, false, true, true},
};

static const struct command_info *info_of(uint8_t wire)
{
    static const struct command_info unknown = {.op = OP_REFUSED};

    /* What the table leaves out is all zeros but for the opcode. */
    return wire < COMMANDS && (commands[wire].op != OP_GET) ? &commands[wire] : &unknown;
}

/* --- requests, in --- */

static enum parse_status refuse(struct command *cmd, const char *error)
{
    cmd->op = OP_REFUSED;
    cmd->error = error;
    return PARSE_BAD;
}

/* One whose parts cannot be told from each other any more: it is answered, and the client closed. */
static enum parse_status refuse_for_good(struct command *cmd, const char *error)
{
    cmd->hangup = true;
    cmd->body_len = 0;
    return refuse(cmd, error);
}

/* Whether a command has what it has to. */
static bool is_sound(const struct command_info *info, const struct header *h)
{
    bool may_lack = info->op == OP_FLUSH_ALL && h->extras == 0;

    if (h->extras != info->extras && !may_lack)
        return false;
    if (info->op != OP_STATS && (h->key > 0) != info->has_key)
        return false;
    return info->has_value || h->body == (uint32_t)h->extras + h->key;
}

/* Seconds, which are unsigned here: what is beyond the protocols in text is as far off as they can say. */
static int32_t read_seconds(const uint8_t *p)
{
    uint32_t seconds = read_u32(p);

    return seconds < INT32_MAX ? (int32_t)seconds : INT32_MAX;
}

/* What extras say, by the command; behind that is only what all have. */
static void take_extras(const struct command_info *info, const struct header *h, const uint8_t *p, struct command *cmd)
{
    switch (info->op) {
    case OP_META_SET:
        if (h->extras == 0)
            break;
        cmd->flags = read_u32(p);
        cmd->exptime = read_seconds(p + 4);
        break;
    case OP_META_ARITH:
        cmd->number = read_u64(p);
        cmd->terms.initial = read_u64(p + 8);
        if (read_u32(p + 16) == NO_VIVIFY)
            break;
        cmd->terms.vivify = read_seconds(p + 16);
        cmd->terms.bits |= TERM_VIVIFY;
        break;
    case OP_FLUSH_ALL:
        cmd->has_exptime = h->extras > 0;
        /* fall through */
    default:
        if (h->extras > 0)
            cmd->exptime = read_seconds(p);
        break;
    }
}

/* A key that cannot stand in a line: it goes in base64, which only meta commands can. */
static void take_binary_key(struct command *cmd)
{
    cmd->terms.bits |= TERM_BASE64;
    if (cmd->op != OP_GETS && cmd->op != OP_GATS)
        return;
    cmd->terms.bits |= TERM_VALUE | TERM_FLAGS | TERM_UNIQUE | (cmd->op == OP_GATS ? TERM_TOUCH : 0);
    cmd->op = OP_META_GET;
}

/* Whether what stats are asked for can stand in a line of text, which does not tell blanks at its ends. */
static bool is_line(const uint8_t *p, size_t n)
{
    if (n > 0 && (p[0] == ' ' || p[n - 1] == ' '))
        return false;
    for (size_t i = 0; i < n; i++)
        if (p[i] < ' ' || p[i] == 0x7f)
            return false;
    return true;
}

/* The header, extras and key are there, at p. */
static enum parse_status take_command(const struct header *h, const uint8_t *p, struct command *cmd)
{
    const struct command_info *info = info_of(h->wire);

    if (info->op == OP_STATS && !is_line(p + HEADER, h->key))
        return refuse(cmd, "CLIENT_ERROR Invalid arguments");
    cmd->op = info->op;
    cmd->noreply = info->op == OP_FLUSH_ALL && (info->bits & TERM_QUIET);
    cmd->hangup = h->wire == CMD_QUIT;
    cmd->terms.bits |= info->bits;
    cmd->terms.mode = info->mode;
    take_extras(info, h, p + HEADER, cmd);
    if (h->cas != 0 && (info->op == OP_META_SET || info->op == OP_META_DELETE || info->op == OP_META_ARITH)) {
        cmd->terms.bits |= TERM_COMPARE;
        cmd->terms.compare = h->cas;
        /* As in memcached: whichever store it was, it is a cas then; but for append and prepend. */
        if (info->mode == OP_ADD || info->mode == OP_REPLACE)
            cmd->terms.mode = OP_SET;
    }
    if (h->key > 0) {
        cmd->key = p + HEADER + h->extras;
        cmd->key_len = h->key;
    }
    cmd->num_keys = (op_flags(info->op) & OPF_KEY) != 0;
    if (cmd->num_keys == 1 && !rkey_is_word(&(struct rkey){.p = cmd->key, .len = h->key}))
        take_binary_key(cmd);
    return PARSE_OK;
}

static enum parse_status binary_parse_request(const uint8_t *p, size_t n, size_t seen, struct key_list *keys,
                                              struct command *cmd)
{
    const struct command_info *info;
    struct header h;
    size_t known;

    (void)seen;
    (void)keys;
    memset(cmd, 0, offsetof(struct command, decoded));
    if (p[0] != MAGIC_REQUEST) {
        cmd->consumed = n;
        return refuse_for_good(cmd, NULL);
    }
    if (n < HEADER)
        return PARSE_MORE;
    read_header(p, &h);
    cmd->consumed = HEADER;
    cmd->terms.wire = h.wire;
    memcpy(cmd->terms.opaque, h.opaque, sizeof(h.opaque));
    info = info_of(h.wire);
    known = (size_t)h.extras + h.key;
    if (known > h.body)
        return refuse_for_good(cmd, "ERROR");
    if (info->op == OP_REFUSED) {
        cmd->body_len = h.body;
        return h.body > INT32_MAX - 2 ? refuse_for_good(cmd, "ERROR") : refuse(cmd, "ERROR");
    }
    if (h.key > KEY_MAX || !is_sound(info, &h) || h.body - known > INT32_MAX - 2)
        return refuse_for_good(cmd, "CLIENT_ERROR Invalid arguments");
    if (n < HEADER + known)
        return PARSE_MORE;
    cmd->consumed = HEADER + known;
    cmd->body_len = h.body - known;
    return take_command(&h, p, cmd);
}

static bool binary_is_hopeless(const uint8_t *p, size_t n)
{
    (void)p;
    (void)n;
    return false;
}

/* --- replies, out --- */

/* The header of a reply, at p; what is behind it. */
static uint8_t *put_header(uint8_t *p, const struct request *r, enum status status, size_t key, size_t extras,
                           size_t body, uint64_t cas)
{
    struct header h = {.magic = MAGIC_RESPONSE,
                       .wire = r->terms.wire,
                       .key = (uint16_t)key,
                       .extras = (uint8_t)extras,
                       .status = (uint16_t)status,
                       .body = (uint32_t)body,
                       .cas = cas};

    memcpy(h.opaque, r->terms.opaque, sizeof(h.opaque));
    return write_header(p, &h);
}

/* A reply with a body of n bytes, all of it value. */
static bool compose(const struct request *r, enum status status, const void *body, size_t n, uint64_t cas,
                    struct bufpool *bufs, struct spanq *out)
{
    size_t before = out->bytes;
    uint8_t header[HEADER];

    put_header(header, r, status, 0, 0, n, cas);
    if (spanq_copy(out, bufs, header, HEADER) && (n == 0 || spanq_copy(out, bufs, body, n)))
        return true;
    spanq_truncate(out, bufs, before);
    return false;
}

static const char *text_of(enum status status)
{
    switch (status) {
    case STATUS_KEY_ENOENT:
        return "Not found";
    case STATUS_KEY_EEXISTS:
        return "Data exists for key.";
    case STATUS_E2BIG:
        return "Too large.";
    case STATUS_EINVAL:
        return "Invalid arguments";
    case STATUS_NOT_STORED:
        return "Not stored.";
    case STATUS_DELTA_BADVAL:
        return "Non-numeric server-side value for incr or decr";
    case STATUS_AUTH_ERROR:
        return "Auth failure.";
    case STATUS_UNKNOWN_COMMAND:
        return "Unknown command";
    case STATUS_ENOMEM:
        return "Out of memory";
    default:
        return "UNHANDLED ERROR";
    }
}

static bool compose_status(const struct request *r, enum status status, struct bufpool *bufs, struct spanq *out)
{
    const char *text = text_of(status);

    return compose(r, status, text, strlen(text), 0, bufs, out);
}

/* Whether a line begins with a word or more. */
static bool begins(const char *line, size_t n, const char *words)
{
    size_t len = strlen(words);

    return n >= len && memcmp(line, words, len) == 0;
}

/* An error that the protocols in text have as a line, its end not counted. */
static bool compose_error(const struct request *r, const char *line, size_t n, struct bufpool *bufs, struct spanq *out)
{
    static const struct {
        const char *line;
        enum status status;
    } known[] = {
        {"ERROR", STATUS_UNKNOWN_COMMAND},
        {"SERVER_ERROR object too large for cache", STATUS_E2BIG},
        {"SERVER_ERROR out of memory", STATUS_ENOMEM},
        {"SERVER_ERROR Out of memory", STATUS_ENOMEM},
        {"CLIENT_ERROR cannot increment or decrement non-numeric value", STATUS_DELTA_BADVAL},
        {"CLIENT_ERROR flush_all not allowed", STATUS_AUTH_ERROR},
        {"CLIENT_ERROR unauthenticated", STATUS_AUTH_ERROR},
        {"CLIENT_ERROR authentication failure", STATUS_AUTH_ERROR},
        {"CLIENT_ERROR", STATUS_EINVAL},
    };
    static const char prefix[] = "SERVER_ERROR ";
    enum status status;

    /* Stats that there are none of. */
    if (r->op == OP_STATS && begins(line, n, "ERROR"))
        return compose_status(r, STATUS_KEY_ENOENT, bufs, out);
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (begins(line, n, known[i].line))
            return compose_status(r, known[i].status, bufs, out);
    status = begins(line, n, "SERVER_ERROR proxy downstream has no") ? STATUS_NOT_SUPPORTED
             : begins(line, n, "SERVER_ERROR proxy")                 ? STATUS_TEMPORARY
                                                                     : STATUS_INTERNAL;
    if (begins(line, n, prefix)) {
        line += sizeof(prefix) - 1;
        n -= sizeof(prefix) - 1;
    }
    return compose(r, status, line, n, 0, bufs, out);
}

static bool compose_failure(const struct request *r, const struct outcome *outcome, struct bufpool *bufs,
                            struct spanq *out)
{
    static const char *const failures[] = {
        [RESULT_WRITE_FAILED] = "proxy write to downstream", [RESULT_CLOSED] = "proxy downstream closed",
        [RESULT_TIMEOUT] = "proxy downstream timeout",       [RESULT_QUEUE_FULL] = "proxy out of downstreams",
        [RESULT_WAITED] = "proxy wait queue timeout",
    };
    const char *text = failures[outcome->result];

    return compose(r, STATUS_TEMPORARY, text, strlen(text), 0, bufs, out);
}

/* A miss of a command that is told its key. */
static bool compose_miss(const struct request *r, struct bufpool *bufs, struct spanq *out)
{
    const struct rkey *key = &r->keys[r->first];
    uint8_t reply[HEADER + KEY_MAX];

    if (!info_of(r->terms.wire)->returns_key)
        return compose_status(r, STATUS_KEY_ENOENT, bufs, out);
    put_header(reply, r, STATUS_KEY_ENOENT, key->len, 0, key->len, 0);
    memcpy(reply + HEADER, key->p, key->len);
    return spanq_copy(out, bufs, reply, HEADER + key->len);
}

static enum status refusal_of_store(const struct request *r)
{
    return r->terms.mode == OP_ADD       ? STATUS_KEY_EEXISTS
           : r->terms.mode == OP_REPLACE ? STATUS_KEY_ENOENT
                                         : STATUS_NOT_STORED;
}

/* touch */
static bool compose_found(const struct request *r, const struct outcome *outcome, struct bufpool *bufs,
                          struct spanq *out)
{
    uint8_t reply[HEADER + 4];

    put_header(reply, r, STATUS_OK, 0, 4, 4, outcome->facts != NULL ? outcome->facts->unique : 0);
    write_u32(reply + HEADER, outcome->facts != NULL ? outcome->facts->flags : 0);
    return spanq_copy(out, bufs, reply, sizeof(reply));
}

static bool binary_compose_outcome(const struct request *r, const struct outcome *outcome, struct bufpool *bufs,
                                   struct spanq *out)
{
    uint64_t unique = outcome->facts != NULL ? outcome->facts->unique : 0;
    bool quiet = (r->terms.bits & TERM_QUIET) != 0;
    uint8_t number[8];

    switch (outcome->result) {
    case RESULT_END:
        if (r->op == OP_STATS)
            return compose(r, STATUS_OK, NULL, 0, 0, bufs, out);
        return r->num_hits > 0 || quiet || compose_miss(r, bufs, out);
    case RESULT_RESET:
        return compose(r, STATUS_OK, NULL, 0, 0, bufs, out);
    case RESULT_FOUND:
    case RESULT_TOUCHED:
        return compose_found(r, outcome, bufs, out);
    case RESULT_STORED:
        if (UNLIKELY(r->op == OP_AUTH))
            return compose(r, STATUS_OK, "Authenticated", 13, 0, bufs, out);
        /* fall through */
    case RESULT_DELETED:
    case RESULT_OK:
        return quiet || compose(r, STATUS_OK, NULL, 0, r->op == OP_META_SET ? unique : 0, bufs, out);
    case RESULT_NUMBER:
        write_u64(number, outcome->number);
        return quiet || compose(r, STATUS_OK, number, sizeof(number), unique, bufs, out);
    case RESULT_NOT_STORED:
        return compose_status(r, refusal_of_store(r), bufs, out);
    case RESULT_EXISTS:
        return compose_status(r, STATUS_KEY_EEXISTS, bufs, out);
    case RESULT_NOT_FOUND:
        return compose_status(r, STATUS_KEY_ENOENT, bufs, out);
    case RESULT_TOLD:
        return compose(r, STATUS_OK, outcome->message, strlen(outcome->message), 0, bufs, out);
    case RESULT_ERROR:
        return compose_error(r, (const char *)outcome->text, outcome->text_len - 2, bufs, out);
    case RESULT_REFUSED:
        return outcome->message == NULL || compose_error(r, outcome->message, strlen(outcome->message), bufs, out);
    case RESULT_NO_MEMORY:
        return compose_status(r, STATUS_ENOMEM, bufs, out);
    default:
        return compose_failure(r, outcome, bufs, out);
    }
}

static size_t binary_compose_head(const struct request *r, const struct hit *hit, uint8_t *dst)
{
    const struct rkey *key = &r->keys[hit->key];
    size_t key_len = info_of(r->terms.wire)->returns_key ? key->len : 0;

    put_header(dst, r, STATUS_OK, key_len, 4, 4 + key_len + hit->value_len, hit->facts.unique);
    write_u32(dst + HEADER, hit->facts.flags);
    memcpy(dst + HEADER + 4, key->p, key_len);
    return HEADER + 4 + key_len;
}

/* "STAT name value": a reply of its own; other lines are a value under their first word. */
static bool binary_compose_stat(const struct request *r, const uint8_t *line, size_t n, struct bufpool *bufs,
                                struct spanq *out)
{
    size_t before = out->bytes, name, skip = n >= 5 && memcmp(line, "STAT ", 5) == 0 ? 5 : 0;
    const uint8_t *blank;
    uint8_t header[HEADER];

    line += skip;
    n -= skip;
    blank = memchr(line, ' ', n);
    name = blank != NULL ? (size_t)(blank - line) : n;
    put_header(header, r, STATUS_OK, name, 0, blank != NULL ? n - 1 : n, 0);
    if (spanq_copy(out, bufs, header, HEADER) && spanq_copy(out, bufs, line, name) &&
        (name == n || spanq_copy(out, bufs, blank + 1, n - name - 1)))
        return true;
    spanq_truncate(out, bufs, before);
    return false;
}

const struct codec codec_binary = {
    .name = "binary",
    .parse_request = binary_parse_request,
    .is_hopeless = binary_is_hopeless,
    .check_tail = binary_check_tail,
    .compose_head = binary_compose_head,
    .compose_stat = binary_compose_stat,
    .compose_outcome = binary_compose_outcome,
};
