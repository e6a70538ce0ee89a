/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuzz_request - what a client may send, to the parsers of requests: classic and meta commands, and the binary
 * protocol.
 *
 *   input:  2 bytes, where the stream is cut | the stream
 *
 * The stream is parsed command after command, values skipped, as a client's connection does it, whose first byte tells
 * the binary protocol from text: once as one read would bring it and once as two would, cut where the first bytes say.
 * Both must find the same commands; what is found must lie inside the input; and a command that is good must come out
 * the same when it is composed and parsed again, as text and in the binary protocol. Each piece is handed over in an
 * allocation of its own size, so that AddressSanitizer sees a look beyond its end.
 */
#include "codec.h"
#include "fuzz.h"

enum {
    CUT_BYTES = 2,
    LINE_LIMIT = 2048, /* from here on a line without an end may be refused, so where it was cut matters */
    MAGIC_REQUEST = 0x80,
    HEADER = 24, /* of a request in the binary protocol */
};

/* A client's connection: what is between two reads, and the fingerprints of the commands so far. */
struct stream {
    uint8_t *rest; /* an unfinished line, from malloc; NULL: none */
    size_t rest_len;
    size_t body_left; /* bytes of a value that are to be skipped */
    bool binary;      /* its protocol */
    bool go_round;    /* good commands are composed and parsed again */
    bool ended;       /* nothing more is looked at */
    bool cut_line;    /* because a line without an end was too long */
    bool hopeless;    /* rest was said never to become a command */
    uint64_t *found;
    size_t num_found;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct key_list keys;
static struct bufpool bufs;

/*
 * What a meta command says, but for its q, and the k of a key that no line can hold, which are not passed on, and what
 * makes no difference to a server.
 */
static uint64_t mix_meta(uint64_t hash, const struct command *cmd)
{
    const struct terms *t = &cmd->terms;
    uint32_t no_matter = TERM_QUIET | TERM_LENIENT | (cmd->op == OP_META_SET ? TERM_TOUCH : 0);
    const uint64_t numbers[] = {t->bits & ~no_matter, t->mode,   (uint64_t)t->recache, (uint64_t)t->vivify, t->compare,
                                t->new_unique,        t->initial};
    const struct rkey key = {.p = cmd->key, .len = (uint32_t)cmd->key_len};
    bool tells_key = !(t->bits & TERM_BASE64) || rkey_is_word(&key);
    const uint8_t *p = cmd->flags_text;

    hash = mix(hash, numbers, sizeof(numbers));
    for (size_t at = 0, len; at < cmd->flags_len; at += len + 1) {
        const uint8_t *blank = memchr(p + at, ' ', cmd->flags_len - at);

        len = blank != NULL ? (size_t)(blank - p) - at : cmd->flags_len - at;
        if (len > 0 && p[at] != 'q' && (p[at] != 'k' || tells_key))
            hash = mix(hash, p + at, len);
    }
    return hash;
}

/* All that a command says, but for its noreply. */
static uint64_t fingerprint(const struct command *cmd)
{
    const uint64_t numbers[] = {cmd->op,       cmd->has_exptime,       cmd->hangup, cmd->num_keys, cmd->flags,
                                cmd->body_len, (uint64_t)cmd->exptime, cmd->number, cmd->body_tail};
    uint64_t hash = mix(UINT64_C(0xcbf29ce484222325), numbers, sizeof(numbers));

    if (op_is_meta(cmd->op))
        hash = mix_meta(hash, cmd);

    if (cmd->num_keys <= 1)
        return mix(hash, cmd->key, cmd->key_len);
    for (uint32_t i = 0; i < cmd->num_keys; i++)
        hash = mix(hash, keys.v[i].p, keys.v[i].len);
    return hash;
}

static void judge_key(const uint8_t *p, size_t len, const uint8_t *begin, const uint8_t *end)
{
    must(p > begin && len > 0 && len <= KEY_MAX && p < end && (size_t)(end - p) > len, "a key lies inside its line");
    must(memchr(p, ' ', len) == NULL && memchr(p, '\0', len) == NULL && memchr(p, '\n', len) == NULL,
         "a key has no byte that ends it");
}

static bool has_argument(enum opcode op)
{
    return op == OP_STATS || op == OP_SHUTDOWN || op == OP_CRAWLER || op == OP_WATCH;
}

/* Whether it is for moxi itself, and so never composed. */
static bool stays_here(enum opcode op)
{
    return op == OP_VERBOSITY || op == OP_SHUTDOWN || op == OP_META_NOOP || op_is_auth(op) ||
           (op_flags(op) & OPF_LOCAL);
}

/* A command that was found good in [p, p + n). */
static void judge_good(const struct command *cmd, const uint8_t *p)
{
    const uint8_t *end = p + cmd->consumed;
    unsigned flags = op_flags(cmd->op);

    must(cmd->op < OP_REFUSED && cmd->error == NULL && !cmd->hangup, "a good command has no error");
    must(memchr(p, '\n', cmd->consumed) == end - 1, "it is one line");
    must(!!(flags & OPF_KEY) == (cmd->num_keys > 0), "it has keys when it should");
    must((flags & OPF_VALUES) || cmd->num_keys <= 1, "only retrievals have many");
    must(cmd->body_tail == ((flags & OPF_BODY) ? 2 : 0) && cmd->body_len <= INT32_MAX - 2,
         "it has a value if it should");
    must(!cmd->noreply || !(flags & OPF_VALUES), "retrievals are answered");
    if (cmd->num_keys == 0)
        must(cmd->key_len == 0 || (has_argument(cmd->op) && cmd->key > p && cmd->key + cmd->key_len < end),
             "an argument lies inside its line");
    else if (cmd->key == cmd->decoded)
        must(op_is_meta(cmd->op) && cmd->key_len > 0 && cmd->key_len <= KEY_MAX, "a key in base64 was decoded");
    else
        judge_key(cmd->key, cmd->key_len, p, end);
    must(op_is_meta(cmd->op) || cmd->flags_len == 0, "only meta commands have flags");
    must(cmd->flags_len == 0 || (cmd->flags_text > p && cmd->flags_text + cmd->flags_len < end),
         "flags lie inside their line");
    if (cmd->num_keys < 2)
        return;
    must(keys.n == cmd->num_keys && keys.v[0].p == cmd->key && keys.v[0].len == cmd->key_len,
         "the list is of its keys");
    for (uint32_t i = 0; i < keys.n; i++) {
        judge_key(keys.v[i].p, keys.v[i].len, p, end);
        must(i == 0 || keys.v[i - 1].p + keys.v[i - 1].len < keys.v[i].p, "keys are in order");
        must(keys.v[i].next == (i + 1 < keys.n ? i + 1 : RKEY_END), "and linked");
    }
}

/* A command in the binary protocol that was found good at p. */
static void judge_good_binary(const struct command *cmd, const uint8_t *p)
{
    unsigned flags = op_flags(cmd->op);

    must(cmd->op < OP_REFUSED && cmd->error == NULL, "a good command has no error");
    must(cmd->consumed >= HEADER, "it has a header");
    must(!!(flags & OPF_KEY) == (cmd->num_keys > 0) && cmd->num_keys <= 1, "it has a key when it should");
    must((flags & OPF_BODY) || cmd->body_len == 0, "it has a value if it may");
    must(cmd->body_tail == 0 && cmd->body_len <= INT32_MAX - 2, "and nothing behind it");
    must(cmd->num_keys == 0 || (cmd->key_len > 0 && cmd->key_len <= KEY_MAX), "a key is of a good length");
    must(cmd->key_len == 0 || cmd->key + cmd->key_len == p + cmd->consumed, "and stands at the end");
    must(cmd->terms.wire == p[1] && memcmp(cmd->terms.opaque, p + 12, sizeof(cmd->terms.opaque)) == 0,
         "what its reply repeats is known");
}

/* One that was refused. */
static void judge_bad(const struct command *cmd, bool binary)
{
    must(cmd->op == OP_REFUSED, "a bad command is none of the others");
    must(cmd->error != NULL || cmd->hangup, "it is answered, or the client is closed");
    must(cmd->error == NULL || (cmd->error[0] != '\0' && strpbrk(cmd->error, "\r\n") == NULL),
         "the answer is one line");
    must(binary ? cmd->body_tail == 0 : cmd->body_tail == 2 || (cmd->body_tail == 0 && cmd->body_len == 0),
         "its value has a tail");
    must(cmd->body_len <= INT32_MAX - 2, "its value is not longer than a value can be");
}

/* The request that a command asks for, as far as composing looks at it; value: as much of it as there is. */
static void set_request(struct request *r, const struct codec *codec, const struct command *cmd, const uint8_t *value,
                        size_t value_len)
{
    memset(r, 0, offsetof(struct request, inl));
    r->op = (uint8_t)cmd->op;
    r->codec = codec;
    r->flags = cmd->flags;
    r->exptime = cmd->exptime;
    r->has_exptime = cmd->has_exptime;
    r->number = cmd->number;
    r->terms = cmd->terms;
    if (op_is_meta(cmd->op)) {
        r->arg = cmd->flags_text;
        r->arg_len = cmd->flags_len;
    }
    if (cmd->num_keys == 1) {
        request_set_key(r, cmd->key, cmd->key_len);
    } else if (cmd->num_keys > 1) {
        r->keys = keys.v;
        r->num_keys = keys.n;
    } else {
        r->arg = cmd->key;
        r->arg_len = cmd->key_len;
    }
    if (value_len <= sizeof(r->inl) - r->inl_used) {
        memcpy(r->inl + r->inl_used, value, value_len);
        r->inl_used += value_len;
        r->inl_value_len = value_len;
    } else {
        must(spanq_copy(&r->value, &bufs, value, value_len), "there is memory");
    }
}

/* One packet of n bytes or more at p, for the request or one of its keys, with that value. Its length. */
static size_t judge_packet(const struct request *r, const struct rkey *key, const uint8_t *value, size_t value_len,
                           const uint8_t *p, size_t n)
{
    unsigned flags = op_flags((enum opcode)r->op);
    struct command cmd;

    must(codec_binary.parse_request(p, n, 0, &keys, &cmd) == PARSE_OK, "a packet that was composed is good");
    must(key == NULL ? cmd.key_len == 0 : cmd.key_len == key->len && memcmp(cmd.key, key->p, key->len) == 0,
         "of the same key");
    must(cmd.body_len == value_len && cmd.consumed + value_len <= n, "with a value as long");
    must(value_len == 0 || memcmp(p + cmd.consumed, value, value_len) == 0, "and the same");
    must(!(cmd.terms.bits & TERM_QUIET) || r->num_keys > 1, "and a reply, unless a noop follows");
    if ((flags & OPF_BODY) && cmd.terms.mode != OP_APPEND && cmd.terms.mode != OP_PREPEND)
        must(cmd.flags == r->flags, "the same flags");
    if (cmd.op == OP_META_ARITH)
        must(cmd.number == r->number, "the same number");
    return cmd.consumed + value_len;
}

/* Composes a request for a server in the binary protocol, and parses what comes of it. */
static void go_binary(const struct request *r, const uint8_t *value, size_t value_len)
{
    struct spanq out;
    uint8_t *bytes;
    size_t n, pos = 0;

    if (codec_binary_server.lacks(r) != NULL || r->op == OP_STATS)
        return;
    spanq_init(&out);
    must(codec_binary_server.compose_request(r, &bufs, &out), "there is memory");
    n = out.bytes;
    bytes = need(n);
    spanq_peek_tail(&out, bytes, n);
    for (uint32_t i = 0; i < r->num_keys; i++)
        pos += judge_packet(r, &r->keys[i], value, value_len, bytes + pos, n - pos);
    if (r->num_keys != 1)
        pos += judge_packet(r, NULL, NULL, 0, bytes + pos, n - pos);
    must(pos == n, "and nothing else");
    free(bytes);
    spanq_clear(&out, &bufs);
}

/* Composes a good command as text, of whose value `left` bytes are there, and parses what comes of it. */
static void go_round(const struct codec *client, const struct command *cmd, const uint8_t *value, size_t left)
{
    size_t value_len = left < cmd->body_len ? left : cmd->body_len;
    struct command expected = *cmd, again;
    const struct codec *codec;
    struct request r;
    struct spanq out;
    uint8_t *bytes;
    uint64_t before;
    size_t n;

    expected.body_len = value_len;
    expected.body_tail = (op_flags(cmd->op) & OPF_BODY) ? 2 : 0;
    codec = op_is_meta(cmd->op) ? &codec_meta : &codec_ascii;
    before = fingerprint(&expected);
    set_request(&r, client, cmd, value, value_len);
    go_binary(&r, value, value_len);
    if (client != codec && codec->lacks(&r) != NULL) {
        spanq_clear(&r.value, &bufs);
        return;
    }
    spanq_init(&out);
    must(codec->compose_request(&r, &bufs, &out), "there is memory");
    n = out.bytes;
    bytes = need(n);
    spanq_peek_tail(&out, bytes, n);
    must(codec_of_text(bytes, n) == codec, "what was composed is of the same protocol");
    must(codec->parse_request(bytes, n, 0, &keys, &again) == PARSE_OK, "what was composed is good");
    if (client == &codec_binary) {
        again.flags_len = 0;
        again.has_exptime = cmd->has_exptime;
    }
    must(!again.noreply && fingerprint(&again) == before, "and the same command");
    must(again.consumed + value_len + again.body_tail == n, "and nothing else");
    must(value_len == 0 || memcmp(bytes + again.consumed, value, value_len) == 0, "with the same value");
    must(again.body_tail == 0 || codec->check_tail(bytes + n - 2, 2), "and its tail");
    free(bytes);
    spanq_clear(&out, &bufs);
    spanq_clear(&r.value, &bufs);
}

static void record(struct stream *s, const struct command *cmd)
{
    uint64_t hash = mix_number(fingerprint(cmd), cmd->noreply);

    if (s->binary)
        hash = mix(mix_number(hash, cmd->terms.wire), cmd->terms.opaque, sizeof(cmd->terms.opaque));
    s->found[s->num_found++] = cmd->error == NULL ? hash : mix(hash, cmd->error, strlen(cmd->error));
}

/* One command at p, of n bytes that are there. Returns how many of them it took; 0: it is not whole. */
static size_t take_command(struct stream *s, const uint8_t *p, size_t n, size_t seen)
{
    struct command cmd;
    const struct codec *codec = s->binary ? &codec_binary : codec_of_text(p, n);
    enum parse_status status = codec->parse_request(p, n, seen, &keys, &cmd);

    must(status != PARSE_NO_MEMORY, "there is memory");
    if (status == PARSE_MORE) {
        must(s->binary || memchr(p, '\n', n) == NULL, "a line with an end is a command");
        must(!s->binary || n < HEADER + UINT8_MAX + KEY_MAX, "nor is more than a header, extras and a key waited for");
        must(!s->hopeless || codec->is_hopeless(p, n), "what is hopeless stays so");
        s->hopeless = codec->is_hopeless(p, n);
        return 0;
    }
    must(cmd.consumed > 0 && cmd.consumed <= n, "a command is not longer than its bytes");
    must(!s->hopeless || (status == PARSE_BAD && cmd.body_tail == 0), "what is hopeless is refused, and has no value");
    s->hopeless = false;
    record(s, &cmd);
    s->body_left = cmd.body_len + cmd.body_tail;
    s->ended = cmd.hangup || cmd.op == OP_QUIT;
    if (status == PARSE_OK) {
        if (s->binary)
            judge_good_binary(&cmd, p);
        else
            judge_good(&cmd, p);
        if (s->go_round && !stays_here(cmd.op))
            go_round(codec, &cmd, p + cmd.consumed, n - cmd.consumed);
        return cmd.consumed;
    }
    judge_bad(&cmd, s->binary);
    if (s->binary)
        return cmd.consumed;
    s->cut_line = memchr(p, '\n', n) == NULL;
    must(!s->cut_line || (cmd.hangup && n > LINE_LIMIT), "only a long line is refused before its end");
    return cmd.consumed;
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
            took = take_command(s, p + pos, left, seen);
            if (took == 0) {
                s->rest = copy_of(p + pos, left);
                s->rest_len = left;
                break;
            }
        }
        pos += took;
        seen = 0;
    }
    free(p);
}

/* A stream of n bytes has no more commands than bytes, and one more when a cut makes one. */
static void begin(struct stream *s, const uint8_t *data, size_t n)
{
    memset(s, 0, sizeof(*s));
    s->binary = n > 0 && data[0] == MAGIC_REQUEST;
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

    /* A line that is too long is refused only if its end had not come yet; the whole may have come to a later one. */
    if (cut->cut_line && (!whole->cut_line || whole->num_found != cut->num_found))
        same--;
    else
        must(whole->num_found == cut->num_found && whole->rest_len == cut->rest_len && whole->ended == cut->ended &&
                 whole->body_left == cut->body_left,
             "a cut makes no difference to where it ends");
    must(same <= whole->num_found && memcmp(whole->found, cut->found, same * sizeof(*cut->found)) == 0,
         "a cut makes no difference to the commands");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stream whole, cut;
    size_t at, n;

    if (size < CUT_BYTES)
        return 0;
    n = size - CUT_BYTES;
    at = ((size_t)data[0] << 8 | data[1]) % (n + 1);
    data += CUT_BYTES;
    begin(&whole, data, n);
    whole.go_round = true;
    feed(&whole, data, n);
    begin(&cut, data, n);
    feed(&cut, data, at);
    feed(&cut, data + at, n - at);
    compare(&whole, &cut);
    end(&whole);
    end(&cut);
    must(bufs.chunk_bytes == 0, "every chunk has come back");
    return 0;
}
