/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_protocol_bs - the binary protocol towards servers, as memcached's protocol-binary.txt defines it.
 *
 * Another codec than that of clients, because no reply is passed on as it came: a client has an opaque of its own, and
 * may have asked in a quiet command, which no server is, for each request has a reply here.
 *
 *   one key         get, gat            its reply; a miss has a status
 *   several keys    getkq ... noop      hits, each with its key's index as its opaque, then that of noop
 *   all else        the same command    a reply
 *
 * The opaque of what is no part of several keys is where in the connection's stream it was sent, so that a reply out of
 * step is noticed.
 *
 * What a server says with a status becomes what it would have said in text.
 */
#include "cproxy_binary.h"

enum {
    EXTRAS_MAX = 20,
    LONG_AGO = 30 * 24 * 3600 + 1, /* a moment, as it is more than 30 days, and one that has passed */
};

/* No item has it; 0, which none has either, would be no cas at all. */
#define NO_UNIQUE UINT64_MAX

/* --- requests, out --- */

/* What a request becomes. Its extras are the first bytes of these. */
struct packet {
    struct header header;
    const struct rkey *key; /* or what stats are asked for, or SASL's mechanism */
    uint8_t extras[EXTRAS_MAX];
};

/* Several keys are asked for in quiet commands, and a noop. */
static bool is_batch(const struct request *r)
{
    return !op_is_meta(r->op) && r->num_keys > 1;
}

static void add_u32(struct packet *packet, uint32_t v)
{
    write_u32(packet->extras + packet->header.extras, v);
    packet->header.extras += 4;
}

static void add_u64(struct packet *packet, uint64_t v)
{
    write_u64(packet->extras + packet->header.extras, v);
    packet->header.extras += 8;
}

/*
 * Seconds as this protocol has them, without a sign: what has passed already is a moment long ago. As in memcached, 32
 * bits of what was written in text count.
 */
static uint32_t seconds_of(int64_t exptime)
{
    int32_t seconds = (int32_t)exptime;

    return seconds < 0 ? LONG_AGO : (uint32_t)seconds;
}

static uint64_t cas_of(uint64_t unique)
{
    return unique != 0 ? unique : NO_UNIQUE;
}

static uint8_t get_command(const struct request *r)
{
    if (is_batch(r))
        return r->op == OP_GAT || r->op == OP_GATS ? CMD_GATKQ : CMD_GETKQ;
    if (r->op == OP_META_GET && (r->terms.bits & TERM_TOUCH))
        return r->terms.bits & TERM_VALUE ? CMD_GAT : CMD_TOUCH;
    return r->op == OP_GAT || r->op == OP_GATS ? CMD_GAT : CMD_GET;
}

static uint8_t store_command(unsigned op)
{
    switch (op) {
    case OP_ADD:
        return CMD_ADD;
    case OP_REPLACE:
        return CMD_REPLACE;
    case OP_APPEND:
        return CMD_APPEND;
    case OP_PREPEND:
        return CMD_PREPEND;
    case OP_CAS:
        /* With a unique it is the same as set, but that it leaves the old value when the new one is too large. */
        return CMD_REPLACE;
    default:
        return CMD_SET;
    }
}

/* Which of the classic stores, or of incr and decr, it is. */
static unsigned mode_of(const struct request *r)
{
    return op_is_meta(r->op) ? r->terms.mode : r->op;
}

static uint8_t command_of(const struct request *r)
{
    if (op_flags((enum opcode)r->op) & OPF_VALUES)
        return get_command(r);
    if (op_flags((enum opcode)r->op) & OPF_STORES)
        return store_command(mode_of(r));
    switch (r->op) {
    case OP_INCR:
    case OP_DECR:
    case OP_META_ARITH:
        return mode_of(r) == OP_DECR ? CMD_DECREMENT : CMD_INCREMENT;
    case OP_TOUCH:
        return CMD_TOUCH;
    case OP_DELETE:
    case OP_META_DELETE:
        return CMD_DELETE;
    case OP_FLUSH_ALL:
        return CMD_FLUSH;
    case OP_STATS:
        return CMD_STAT;
    case OP_AUTH:
        return CMD_SASL_AUTH;
    case OP_VERSION:
        return CMD_VERSION;
    default:
        return CMD_NOOP;
    }
}

/* Whether 0 is any unique to memcached, and not one that no item has. */
static bool takes_zero(const struct request *r)
{
    return r->op == OP_META_ARITH ||
           (r->op == OP_META_SET && (r->terms.mode == OP_APPEND || r->terms.mode == OP_PREPEND));
}

/* The unique that the item must have; 0: any. In a meta add it does not count. */
static uint64_t wanted_unique(const struct request *r)
{
    if (r->op == OP_CAS)
        return cas_of(r->number);
    if (!op_is_meta(r->op) || !(r->terms.bits & TERM_COMPARE) || (r->op == OP_META_SET && r->terms.mode == OP_ADD))
        return 0;
    return takes_zero(r) ? r->terms.compare : cas_of(r->terms.compare);
}

static void add_extras(const struct request *r, struct packet *packet)
{
    bool vivifies = r->op == OP_META_ARITH && (r->terms.bits & TERM_VIVIFY);

    switch (packet->header.wire) {
    case CMD_SET:
    case CMD_ADD:
    case CMD_REPLACE:
        add_u32(packet, r->flags);
        add_u32(packet, seconds_of(r->exptime));
        break;
    case CMD_INCREMENT:
    case CMD_DECREMENT:
        add_u64(packet, r->number);
        add_u64(packet, vivifies ? r->terms.initial : 0);
        add_u32(packet, vivifies ? seconds_of(r->terms.vivify) : NO_VIVIFY);
        break;
    case CMD_GAT:
    case CMD_GATKQ:
    case CMD_TOUCH:
        add_u32(packet, seconds_of(r->exptime));
        break;
    case CMD_FLUSH:
        if (r->has_exptime)
            add_u32(packet, (int32_t)r->exptime > 0 ? (uint32_t)r->exptime : 0);
        break;
    default:
        break;
    }
}

/* Where it was sent. */
static uint32_t place_of(const struct request *r)
{
    return (uint32_t)r->sent_at;
}

/* Appends a packet, and of its value the first n bytes, at value; least as of spanq_reserve. */
static bool put_packet(const struct packet *packet, const uint8_t *value, size_t n, size_t least, struct bufpool *bufs,
                       struct spanq *out)
{
    const struct header *h = &packet->header;
    size_t bytes = HEADER + (size_t)h->extras + h->key + n;
    uint8_t *start = spanq_reserve(out, bufs, bytes, least > bytes ? least : bytes, NULL);
    uint8_t *to;

    if (start == NULL)
        return false;
    to = write_header(start, h);
    memcpy(to, packet->extras, h->extras);
    to += h->extras;
    if (h->key > 0)
        memcpy(to, packet->key->p, h->key);
    to += h->key;
    if (n > 0)
        memcpy(to, value, n);
    spanq_commit(out, bytes);
    return true;
}

/* A packet of the key, which may be NULL; extras and finish_packet are to follow. */
static struct packet make_packet(uint8_t wire, uint32_t opaque, const struct rkey *key)
{
    struct packet packet = {.header = {.magic = MAGIC_REQUEST, .wire = wire}, .key = key};

    write_u32(packet.header.opaque, opaque);
    if (key != NULL)
        packet.header.key = (uint16_t)key->len;
    return packet;
}

static void finish_packet(struct packet *packet, size_t value_len)
{
    packet->header.body = (uint32_t)(packet->header.extras + packet->header.key + value_len);
}

static bool compose_batch(const struct request *r, struct bufpool *bufs, struct spanq *out)
{
    uint8_t wire = get_command(r);
    struct packet packet;

    for (uint32_t i = r->first; i != RKEY_END; i = r->keys[i].next) {
        packet = make_packet(wire, i, &r->keys[i]);
        add_extras(r, &packet);
        finish_packet(&packet, 0);
        if (!put_packet(&packet, NULL, 0, CHUNK_SMALL, bufs, out))
            return false;
    }
    packet = make_packet(CMD_NOOP, place_of(r), NULL);
    return put_packet(&packet, NULL, 0, 0, bufs, out);
}

static bool server_compose_request(const struct request *r, struct bufpool *bufs, struct spanq *out)
{
    struct rkey arg = {.p = r->arg, .len = (uint16_t)r->arg_len};
    const struct rkey *key = r->op == OP_STATS || r->op == OP_AUTH ? &arg : r->num_keys > 0 ? &r->keys[r->first] : NULL;
    struct packet packet;

    if (is_batch(r))
        return compose_batch(r, bufs, out);
    packet = make_packet(command_of(r), place_of(r), key);
    packet.header.cas = wanted_unique(r);
    add_extras(r, &packet);
    finish_packet(&packet, request_value_len(r));
    return put_packet(&packet, request_inline_value(r), r->inl_value_len, 0, bufs, out) &&
           (r->value.bytes == 0 || spanq_share(out, bufs, &r->value));
}

/* --- what it cannot say --- */

static uint32_t terms_said(const struct request *r)
{
    switch (r->op) {
    case OP_META_GET:
        return TERM_UNIQUE | TERM_TOUCH | (r->terms.bits & TERM_VALUE ? TERM_SIZE : 0);
    case OP_META_SET:
        if (r->terms.mode == OP_APPEND || r->terms.mode == OP_PREPEND)
            return TERM_UNIQUE | TERM_TOUCH | TERM_COMPARE;
        return TERM_UNIQUE | TERM_TOUCH | TERM_COMPARE | TERM_SIZE;
    case OP_META_DELETE:
        return TERM_TOUCH | TERM_COMPARE; /* T: of no effect without I */
    case OP_META_ARITH:
        return TERM_UNIQUE | TERM_COMPARE | TERM_VIVIFY | TERM_SIZE;
    default:
        return 0;
    }
}

static bool asks_for(const struct request *r, const char *stats)
{
    return r->arg_len == strlen(stats) && memcmp(r->arg, stats, r->arg_len) == 0;
}

/*
 * Whether these stats are asked for as a key can be, answered in single lines, and not taken for others: memcached
 * looks at the first letters alone, and resets its counters for any word that begins with reset.
 */
static bool has_such_stats(const struct request *r)
{
    static const char *const prefixes[] = {"reset", "settings", "detail"};
    static const char *const known[] = {"reset", "settings", "detail on", "detail off"};

    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (asks_for(r, known[i]))
            return true;
    for (size_t i = 0; i < ARRAY_LEN(prefixes); i++)
        if (r->arg_len >= strlen(prefixes[i]) && memcmp(r->arg, prefixes[i], strlen(prefixes[i])) == 0)
            return false;
    return r->arg_len <= KEY_MAX;
}

static const char *server_lacks(const struct request *r)
{
    if (r->op == OP_STATS && !has_such_stats(r))
        return "SERVER_ERROR proxy downstream has no such stats";
    if (!op_is_meta(r->op) || r->op == OP_META_NOOP)
        return NULL;
    if (r->op == OP_META_DEBUG)
        return NEEDS_META("me");
    if (r->op == OP_META_GET && !(r->terms.bits & (TERM_VALUE | TERM_TOUCH)))
        return NEEDS_META("mg without v");
    return codec_lacks_terms(r->terms.bits & ~terms_said(r));
}

/* --- replies, in --- */

static enum parse_status bad_reply(struct reply *reply, const char *why)
{
    reply->why = why;
    return PARSE_BAD;
}

static enum parse_status reply_done(struct reply *reply, enum result result)
{
    reply->kind = REPLY_DONE;
    reply->outcome = (struct outcome){.result = result, .facts = &reply->hit.facts};
    return PARSE_OK;
}

/* The words that text has for a status; NULL: those that the server sent. */
static const char *line_of(const struct request *r, unsigned status)
{
    switch (status) {
    case STATUS_E2BIG:
        return "SERVER_ERROR object too large for cache";
    case STATUS_EINVAL:
        return "CLIENT_ERROR Invalid arguments";
    case STATUS_DELTA_BADVAL:
        return "CLIENT_ERROR cannot increment or decrement non-numeric value";
    case STATUS_AUTH_ERROR:
        return r->op == OP_FLUSH_ALL ? "CLIENT_ERROR flush_all not allowed" : "CLIENT_ERROR unauthenticated";
    case STATUS_UNKNOWN_COMMAND:
        return "ERROR";
    case STATUS_ENOMEM:
        return "SERVER_ERROR out of memory";
    case STATUS_KEY_ENOENT:
        return r->op == OP_STATS ? "ERROR" : NULL;
    default:
        return NULL;
    }
}

/* A reply of n bytes of text, without its end, as a line of the protocols in text. */
static enum parse_status reply_line(struct reply *reply, const char *word, const uint8_t *text, size_t n)
{
    size_t len = strlen(word);

    memcpy(reply->made, word, len);
    for (size_t i = 0; i < n && len < sizeof(reply->made) - 2; i++)
        reply->made[len++] = text[i] < ' ' || text[i] == 0x7f ? ' ' : text[i];
    memcpy(reply->made + len, "\r\n", 2);
    reply_done(reply, RESULT_ERROR);
    reply->outcome.text = reply->made;
    reply->outcome.text_len = len + 2;
    return PARSE_OK;
}

/* What has a status, and maybe a text of n bytes. */
static enum parse_status take_error(const struct request *r, const struct header *h, const uint8_t *text, size_t n,
                                    struct reply *reply)
{
    const char *line = line_of(r, h->status);

    return line != NULL ? reply_line(reply, line, NULL, 0) : reply_line(reply, "SERVER_ERROR ", text, n);
}

/* What a status says of a request besides that it failed; RESULT_NONE: no more than that. */
static enum result result_of(const struct request *r, unsigned status)
{
    unsigned flags = op_flags((enum opcode)r->op);
    unsigned mode = mode_of(r);
    bool compares = wanted_unique(r) != 0;

    if (!(flags & OPF_KEY))
        return RESULT_NONE;
    switch (status) {
    case STATUS_KEY_ENOENT:
        if (flags & OPF_VALUES)
            return RESULT_END;
        if (!(flags & OPF_STORES) || compares)
            return RESULT_NOT_FOUND;
        return mode == OP_ADD ? RESULT_NONE : RESULT_NOT_STORED;
    case STATUS_KEY_EEXISTS:
        if (flags & OPF_VALUES)
            return RESULT_NONE;
        return compares ? RESULT_EXISTS : (flags & OPF_STORES) ? RESULT_NOT_STORED : RESULT_NONE;
    case STATUS_NOT_STORED:
        return (flags & OPF_STORES) || r->op == OP_META_ARITH ? RESULT_NOT_STORED : RESULT_NONE;
    default:
        return RESULT_NONE;
    }
}

/* The extras and the key are there, at p: flags, and of several keys which one. */
static enum parse_status take_hit(const struct request *r, const struct header *h, const uint8_t *p,
                                  struct reply *reply)
{
    struct hit *hit = &reply->hit;
    size_t known = (size_t)h->extras + h->key;
    const struct rkey *key;

    if (h->extras != 4)
        return bad_reply(reply, "a value without flags");
    if (h->body - known > VALUE_MAX)
        return bad_reply(reply, "a value of a bad length");
    reply->key = NULL;
    if (is_batch(r)) {
        key = request_open_key(r, read_u32(h->opaque));
        if (key == NULL || key->len != h->key || memcmp(key->p, p + HEADER + 4, key->len) != 0)
            return bad_reply(reply, "a value of a key that was not asked for");
        reply->key = key->p;
        reply->key_len = key->len;
    }
    hit->facts = (struct facts){.unique = h->cas,
                                .flags = read_u32(p + HEADER),
                                .size = (uint32_t)(h->body - known),
                                .is_binary = op_is_meta(r->op) && (r->terms.bits & TERM_BASE64)};
    hit->value_len = h->body - known;
    hit->tail_len = 0;
    hit->head = p;
    hit->head_len = reply->consumed;
    reply->kind = REPLY_HIT;
    reply->is_last = !is_batch(r);
    if (reply->is_last)
        reply->outcome = (struct outcome){.result = RESULT_END};
    return PARSE_OK;
}

/* "STAT name value" of a packet's key and value; without both, all have been told. */
static enum parse_status take_stat(const struct request *r, const struct header *h, const uint8_t *p,
                                   struct reply *reply)
{
    const uint8_t *name = p + HEADER + h->extras, *value = name + h->key;
    size_t n = h->body - h->extras - h->key;
    uint8_t *to = reply->made;

    if (h->body == 0)
        return reply_done(reply, asks_for(r, "reset")                                 ? RESULT_RESET
                                 : r->arg_len > 6 && memcmp(r->arg, "detail", 6) == 0 ? RESULT_OK
                                                                                      : RESULT_END);
    if (h->body > sizeof(reply->made) - 8 || memchr(name, '\n', h->key + n) != NULL)
        return bad_reply(reply, "a stat that is no line");
    memcpy(to, "STAT ", 5);
    memcpy(to + 5, name, h->key);
    to += 5 + h->key;
    *to++ = ' ';
    memcpy(to, value, n);
    to += n;
    reply->kind = REPLY_STAT;
    reply->line = reply->made;
    reply->line_len = (size_t)(to - reply->made);
    return PARSE_OK;
}

/* All of a reply that has gone well and is no value, with its body at p. */
static enum parse_status take_success(const struct request *r, const struct header *h, const uint8_t *p,
                                      struct reply *reply)
{
    size_t n = h->body - h->extras - h->key;

    reply->hit.facts = (struct facts){.unique = h->cas, .size = (uint32_t)request_value_len(r)};
    switch (h->wire) {
    case CMD_STAT:
        return take_stat(r, h, p, reply);
    case CMD_INCREMENT:
    case CMD_DECREMENT:
        if (n != 8)
            return bad_reply(reply, "a number of a bad length");
        reply_done(reply, RESULT_NUMBER);
        reply->outcome.number = read_u64(p + HEADER + h->extras + h->key);
        return PARSE_OK;
    case CMD_TOUCH:
        if (h->extras == 4)
            reply->hit.facts.flags = read_u32(p + HEADER);
        return reply_done(reply, r->op == OP_TOUCH ? RESULT_TOUCHED : RESULT_FOUND);
    case CMD_DELETE:
        return reply_done(reply, RESULT_DELETED);
    case CMD_FLUSH:
        return reply_done(reply, RESULT_OK);
    case CMD_VERSION:
        reply_line(reply, "VERSION ", p + HEADER + h->extras + h->key, n);
        reply->outcome.result = RESULT_TOLD;
        return PARSE_OK;
    case CMD_NOOP:
        return reply_done(reply, is_batch(r) ? RESULT_END : RESULT_OK);
    default:
        return reply_done(reply, RESULT_STORED);
    }
}

/* Whether it is a reply to the request: of several keys to one of these, or the noop behind them. */
static bool belongs(const struct request *r, const struct header *h)
{
    if (is_batch(r) && h->wire == get_command(r))
        return true;
    return h->wire == (is_batch(r) ? CMD_NOOP : command_of(r)) && read_u32(h->opaque) == place_of(r);
}

static enum parse_status server_parse_reply(const struct request *r, const uint8_t *p, size_t n, size_t seen,
                                            struct reply *reply)
{
    struct header h;
    enum result result;
    bool is_hit;

    (void)seen;
    reply->suspicious = false;
    if (p[0] != MAGIC_RESPONSE)
        return bad_reply(reply, "no reply in the binary protocol");
    if (n < HEADER)
        return PARSE_MORE;
    read_header(p, &h);
    if ((uint32_t)h.extras + h.key > h.body)
        return bad_reply(reply, "lengths that contradict each other");
    if (!belongs(r, &h))
        return bad_reply(reply, "a reply that does not belong to the request");
    is_hit = h.status == STATUS_OK && h.wire != CMD_TOUCH && h.wire != CMD_NOOP &&
             (op_flags((enum opcode)r->op) & OPF_VALUES);
    if (!is_hit && h.body > REPLY_LINE_MAX)
        return bad_reply(reply, "a reply that is too long");
    if (is_hit && h.key > KEY_MAX)
        return bad_reply(reply, "a key that is too long");
    reply->consumed = HEADER + (is_hit ? (size_t)h.extras + h.key : h.body);
    if (n < reply->consumed)
        return PARSE_MORE;
    if (is_hit)
        return take_hit(r, &h, p, reply);
    if (h.status == STATUS_OK)
        return take_success(r, &h, p, reply);
    if (is_batch(r))
        return bad_reply(reply, "an error for one of several keys");
    result = result_of(r, h.status);
    if (result == RESULT_NONE)
        return take_error(r, &h, p + HEADER + h.extras + h.key, h.body - h.extras - h.key, reply);
    reply_done(reply, result);
    reply->outcome.facts = NULL;
    return PARSE_OK;
}

const struct codec codec_binary_server = {
    .name = "binary",
    .check_tail = binary_check_tail,
    .lacks = server_lacks,
    .compose_request = server_compose_request,
    .parse_reply = server_parse_reply,
};
