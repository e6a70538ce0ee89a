/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuzz_reply - what a server may send, to the parsers of replies: to classic and to meta commands, and in the binary
 * protocol.
 *
 *   input:  the opcode | 2 bytes, where the stream is cut | 1 bit, classic or meta; 1 bit, a meta command's flags;
 *           1 bit, the binary protocol; the number of keys | length, key ... | the stream
 *
 * The stream is parsed as the replies to one request after the other, all alike, values skipped, as a server's
 * connection does it: once as one read would bring it and once as two would, cut where the input says. Both must find
 * the same pieces; each must lie inside the input, take some of it, and be one that the request allows; and the end of
 * a reply must reach the client as the server wrote it. Each piece is handed over in an allocation of its own size, so
 * that AddressSanitizer sees a look beyond its end.
 */
#include "codec.h"
#include "fuzz.h"

enum {
    HEAD_BYTES = 4,
    KEYS_MOST = 4,
    LINE_LIMIT = 8192, /* from here on a line without an end may be refused, so where it was cut matters */
    PACKET_LIMIT = 24 + REPLY_LINE_MAX, /* of the binary protocol, what is waited for at the most */
};

/* A server's connection: what is between two reads, and the fingerprints of the pieces so far. */
struct stream {
    const struct request *request;
    const struct codec *codec;
    uint8_t *rest; /* an unfinished line, from malloc; NULL: none */
    size_t rest_len;
    size_t body_left; /* bytes of a value that are to be skipped */
    bool ended;       /* nothing more is looked at */
    bool cut_line;    /* because a line without an end was too long */
    uint64_t *found;
    size_t num_found;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct bufpool bufs;

static bool is_binary(const struct codec *codec)
{
    return codec == &codec_binary_server;
}

/* Whether it is the request's own key, as which it is found by its index. */
static bool is_own_key(const struct request *r, const struct reply *reply)
{
    for (uint32_t i = 0; i < r->num_keys; i++)
        if (reply->key == r->keys[i].p && reply->key_len == r->keys[i].len)
            return true;
    return false;
}

static void judge_hit(const struct request *r, const struct codec *codec, const struct reply *reply, const uint8_t *p)
{
    const struct hit *hit = &reply->hit;

    must(op_flags((enum opcode)r->op) & OPF_VALUES, "only a retrieval has hits");
    must(hit->head == p && hit->head_len == reply->consumed, "the head is all that was taken");
    if (reply->key != NULL && !is_own_key(r, reply)) {
        must(codec == &codec_ascii, "only a VALUE has a key that is not known");
        must(reply->key_len > 0 && inside(reply->key, reply->key_len, p, reply->consumed), "the key lies in the head");
        must(memchr(reply->key, ' ', reply->key_len) == NULL, "the key is a word");
    }
    must(reply->key != NULL || r->num_keys == 1, "a key may be left out if there is one");
    must(hit->tail_len == (is_binary(codec) ? 0 : 2) && hit->value_len <= VALUE_MAX, "the value has a tail, or none");
}

static void judge_stat(const struct request *r, const struct codec *codec, const struct reply *reply, const uint8_t *p)
{
    must(r->op == OP_STATS, "only stats has such lines");
    if (is_binary(codec)) {
        must(inside(reply->line, reply->line_len, reply->made, sizeof(reply->made)), "the line was made");
        must(memchr(reply->line, '\n', reply->line_len) == NULL, "and is one line");
        return;
    }
    must(reply->line == p && reply->line_len + 2 == reply->consumed, "the line is all that was taken but its end");
    must(memchr(reply->line, '\n', reply->line_len) == NULL, "the line is one line");
}

static bool is_arith(enum opcode op)
{
    return op == OP_INCR || op == OP_DECR || op == OP_META_ARITH;
}

/* Whether a request may end in that. */
static bool may_end(enum opcode op, enum result result)
{
    /* In text it is a set. */
    unsigned flags = op_flags(op) | (op == OP_AUTH ? OPF_STORES : 0u);

    switch (result) {
    case RESULT_ERROR:
        return true;
    case RESULT_REFUSED:
        return op == OP_META_ARITH;
    case RESULT_END:
        return (flags & OPF_VALUES) || op == OP_STATS || op == OP_META_DEBUG;
    case RESULT_STORED:
        return flags & OPF_STORES;
    case RESULT_NOT_STORED:
    case RESULT_EXISTS:
        return (flags & OPF_STORES) || op == OP_META_DELETE || op == OP_DELETE || is_arith(op);
    case RESULT_NOT_FOUND:
        return (flags & (OPF_STORES | OPF_KEY)) && !(flags & OPF_VALUES);
    case RESULT_DELETED:
        return op == OP_DELETE || op == OP_META_DELETE;
    case RESULT_FOUND:
        return op == OP_META_GET || op == OP_META_DEBUG;
    case RESULT_TOUCHED:
        return op == OP_TOUCH;
    case RESULT_NUMBER:
        return op == OP_INCR || op == OP_DECR || op == OP_META_ARITH;
    case RESULT_OK:
        return !(flags & OPF_KEY) && op != OP_VERSION;
    case RESULT_RESET:
        return op == OP_STATS;
    case RESULT_TOLD:
        return op == OP_VERSION;
    default:
        return false;
    }
}

/* An error of the binary protocol, or a version, as a line of text. */
static void judge_made(const struct reply *reply)
{
    const struct outcome *outcome = &reply->outcome;

    bool told = outcome->result == RESULT_ERROR || outcome->result == RESULT_TOLD;

    must(told == (outcome->text != NULL), "an error or a version is told in text, and nothing else");
    if (outcome->text == NULL)
        return;
    must(inside(outcome->text, outcome->text_len, reply->made, sizeof(reply->made)), "it was made");
    must(memchr(outcome->text, '\n', outcome->text_len) == outcome->text + outcome->text_len - 1, "it is one line");
}

static void judge_done(const struct request *r, const struct codec *codec, const struct reply *reply, const uint8_t *p)
{
    const struct outcome *outcome = &reply->outcome;
    struct spanq out;
    uint8_t *bytes;

    must(may_end((enum opcode)r->op, outcome->result), "a reply is one that the request allows");
    if (is_binary(codec)) {
        judge_made(reply);
        return;
    }
    must(outcome->text == p && outcome->text_len == reply->consumed, "the text is all that was taken");
    must(!reply->suspicious || (op_flags((enum opcode)r->op) & OPF_BODY), "only a value can be taken for commands");
    /* One who speaks another protocol gets it as that has it. */
    if (codec != r->codec)
        return;
    spanq_init(&out);
    must(codec->compose_outcome(r, outcome, &bufs, &out), "there is memory");
    must(out.bytes == reply->consumed, "the client gets all of it");
    bytes = need(out.bytes);
    spanq_peek_tail(&out, bytes, out.bytes);
    must(memcmp(bytes, p, out.bytes) == 0, "as it was written");
    free(bytes);
    spanq_clear(&out, &bufs);
}

static uint64_t fingerprint(const struct reply *reply)
{
    const struct hit *hit = &reply->hit;
    uint64_t hash = mix_number(UINT64_C(0xcbf29ce484222325), reply->consumed);

    if (reply->kind == REPLY_HIT) {
        const uint64_t numbers[] = {hit->facts.flags, hit->value_len, reply->key != NULL};

        return mix(reply->key != NULL ? mix(hash, reply->key, reply->key_len) : hash, numbers, sizeof(numbers));
    }
    if (reply->kind == REPLY_STAT)
        return mix(hash, reply->line, reply->line_len);
    hash = mix_number(hash, reply->outcome.result);
    return mix(hash, reply->outcome.text, reply->outcome.text_len);
}

static void refuse(struct stream *s, const struct reply *reply, const uint8_t *p, size_t n)
{
    bool has_end;

    must(reply->why != NULL && reply->why[0] != '\0', "a bad reply has a reason");
    s->ended = true;
    has_end = is_binary(s->codec) || memchr(p, '\n', n) != NULL;
    s->cut_line = !has_end && n >= LINE_LIMIT;
    must(has_end || s->cut_line || s->request->op == OP_META_DEBUG,
         "only a long line is refused before its end, or a me that tells another key");
    s->found[s->num_found++] = mix(0, reply->why, strlen(reply->why));
}

/* One piece at p, of n bytes that are there. Returns how many of them it took; 0: it is not whole, or bad. */
static size_t take_piece(struct stream *s, const uint8_t *p, size_t n, size_t seen)
{
    bool binary = is_binary(s->codec);
    /* A number that is a value, and what is waited for of it; and a key that may have ends of lines. */
    bool two_lines = s->codec == &codec_meta && is_arith((enum opcode)s->request->op);
    bool has_lines = two_lines || s->request->op == OP_META_DEBUG;
    size_t limit = LINE_LIMIT + (two_lines ? U64_DIGITS + 2 : 0);
    struct reply reply;
    enum parse_status status;

    memset(&reply, 0xa5, sizeof(reply));
    reply.why = NULL;
    status = s->codec->parse_reply(s->request, p, n, seen, &reply);
    must(status != PARSE_NO_MEMORY, "no memory is asked for");
    if (status == PARSE_BAD) {
        refuse(s, &reply, p, n);
        return 0;
    }
    if (status == PARSE_MORE) {
        must(binary ? n < PACKET_LIMIT : (has_lines || memchr(p, '\n', n) == NULL) && n < limit,
             "a line with an end, or a long one, is not waited for");
        return 0;
    }
    must(reply.consumed > 0 && reply.consumed <= n, "a piece is not longer than its bytes");
    must(binary || has_lines || memchr(p, '\n', reply.consumed) == p + reply.consumed - 1, "a piece is one line");
    if (reply.kind == REPLY_HIT) {
        judge_hit(s->request, s->codec, &reply, p);
        s->body_left = reply.hit.value_len + reply.hit.tail_len;
        must(!reply.is_last || s->codec != &codec_ascii, "a get ends behind its values");
    } else if (reply.kind == REPLY_STAT) {
        judge_stat(s->request, s->codec, &reply, p);
    } else {
        must(reply.kind == REPLY_DONE, "a piece is one of three");
        judge_done(s->request, s->codec, &reply, p);
    }
    s->found[s->num_found++] = fingerprint(&reply);
    return reply.consumed;
}

/* The next n bytes of the stream. */
static void feed(struct stream *s, const uint8_t *data, size_t n)
{
    size_t seen = s->rest_len, pos = 0, len = seen + n;
    uint8_t *p = need(len);

    if (seen > 0)
        memcpy(p, s->rest, seen);
    if (n > 0)
        memcpy(p + seen, data, n);
    free(s->rest);
    s->rest = NULL;
    s->rest_len = 0;
    while (pos < len && !s->ended) {
        size_t left = len - pos, took;

        if (s->body_left > 0) {
            took = left < s->body_left ? left : s->body_left;
            s->body_left -= took;
        } else {
            took = take_piece(s, p + pos, left, seen);
            if (took == 0)
                break;
        }
        pos += took;
        seen = 0;
    }
    if (pos < len && !s->ended) {
        s->rest_len = len - pos;
        s->rest = need(s->rest_len);
        memcpy(s->rest, p + pos, s->rest_len);
    }
    free(p);
}

/* A stream of n bytes has no more pieces than bytes. */
static void begin(struct stream *s, const struct request *r, const struct codec *codec, size_t n)
{
    memset(s, 0, sizeof(*s));
    s->request = r;
    s->codec = codec;
    s->found = need((n + 1) * sizeof(*s->found));
}

static void end(struct stream *s)
{
    free(s->rest);
    free(s->found);
}

static void compare(const struct stream *whole, const struct stream *cut)
{
    size_t same = cut->num_found;

    /* A line that is too long is refused only if its end had not come yet. */
    if (cut->cut_line && !whole->cut_line)
        same--;
    else
        must(whole->num_found == cut->num_found && whole->rest_len == cut->rest_len && whole->ended == cut->ended &&
                 whole->body_left == cut->body_left,
             "a cut makes no difference to where it ends");
    must(same <= whole->num_found && memcmp(whole->found, cut->found, same * sizeof(*cut->found)) == 0,
         "a cut makes no difference to the pieces");
}

/* Takes the keys that the request is of from the input. Returns what is left of it. */
static const uint8_t *set_keys(struct request *r, struct rkey *keys, unsigned count, const uint8_t *p, size_t *n)
{
    r->keys = keys;
    while (r->num_keys<count && * n> 0) {
        size_t len = p[0] % (KEY_MAX + 1u);

        if (len == 0 || len >= *n)
            break;
        keys[r->num_keys] = (struct rkey){.p = p + 1, .len = (uint16_t)len, .next = r->num_keys + 1};
        r->num_keys++;
        p += len + 1;
        *n -= len + 1;
    }
    if (r->num_keys > 0)
        keys[r->num_keys - 1].next = RKEY_END;
    return p;
}

/* What a meta command asks for; flagged: with all of it. */
static void set_meta(struct request *r, bool flagged)
{
    static const char flags[] = "Oab k v f c s t";

    r->codec = op_is_meta(r->op) ? &codec_meta : &codec_ascii;
    memset(&r->terms, 0, sizeof(r->terms));
    r->terms.mode = r->op == OP_META_ARITH ? OP_INCR : OP_SET;
    if (!op_is_meta(r->op))
        return;
    r->terms.bits = TERM_VALUE;
    if (flagged) {
        r->arg = (const uint8_t *)flags;
        r->arg_len = sizeof(flags) - 1;
    }
}

/* Whether a request may be asked in that protocol. */
static bool may_ask(const struct request *r, const struct codec *codec)
{
    unsigned flags = op_flags((enum opcode)r->op);

    if (is_binary(codec)) {
        bool fits = flags & OPF_VALUES ? r->num_keys > 0 : flags & OPF_KEY ? r->num_keys == 1 : r->num_keys == 0;

        bool of_conn = r->op == OP_META_NOOP || r->op == OP_AUTH || r->op == OP_VERSION;

        return fits && ((flags & (OPF_KEY | OPF_EVERYONE)) || of_conn) && codec->lacks(r) == NULL;
    }
    if (codec == &codec_meta)
        return ((flags & OPF_KEY) && (r->num_keys == 1 || (r->num_keys > 1 && (flags & OPF_VALUES)))) ||
               r->op == OP_META_NOOP;
    if (op_is_meta(r->op))
        return r->op != OP_META_NOOP && r->num_keys == 1 && codec->lacks(r) == NULL;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rkey keys[KEYS_MOST];
    struct request r;
    struct stream whole, cut;
    const struct codec *codec;
    size_t at, n;

    if (size < HEAD_BYTES)
        return 0;
    memset(&r, 0, offsetof(struct request, inl));
    r.op = data[0] % OP_REFUSED;
    n = size - HEAD_BYTES;
    at = (size_t)data[1] << 8 | data[2];
    codec = data[3] & 0x20 ? &codec_binary_server : data[3] & 0x80 ? &codec_meta : &codec_ascii;
    set_meta(&r, data[3] & 0x40);
    data = set_keys(&r, keys, op_is_meta(r.op) ? 1 : (data[3] & 0x1f) % (KEYS_MOST + 1u), data + HEAD_BYTES, &n);
    if (!may_ask(&r, codec))
        return 0;
    at %= n + 1;
    begin(&whole, &r, codec, n);
    feed(&whole, data, n);
    begin(&cut, &r, codec, n);
    feed(&cut, data, at);
    feed(&cut, data + at, n - at);
    compare(&whole, &cut);
    end(&whole);
    end(&cut);
    must(bufs.chunk_bytes == 0, "every chunk has come back");
    return 0;
}
