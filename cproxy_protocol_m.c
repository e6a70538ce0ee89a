/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_protocol_m - the meta commands, as protocol.txt of memcached 1.6 defines them: mg ms md ma me mn.
 *
 *   mg <key> <flags>*            VA <size> <flags>*  HD <flags>*  EN
 *   ms <key> <size> <flags>*     HD NS EX NF
 *   md <key> <flags>*            HD NF EX
 *   ma <key> <flags>*            HD NF NS EX, or VA <size> <flags>* and the number
 *   mn                           MN
 *   me <key> [b]                 ME <key> <facts>  EN
 *
 * A flag is a letter, with a token behind it or not; replies have theirs in the order of the request's. A request keeps
 * its flags as they were written, for that order, and what they mean as terms. Sent to a server, it has them all but q:
 * what is not to be told is left out here, when the reply has come.
 *
 * A server may be asked in this protocol for whatever the classic commands ask. Several keys are then so many commands,
 * misses not told, and a mn at their end.
 */
#include <assert.h>

#include "base64.h"
#include "cproxy_text.h"

enum {
    WORDS = 3,            /* words of a command that are looked at before its flags */
    FLAGS_MAX = 19,       /* words of a command, its own included: as memcached */
    FLAG_TEXT_MAX = 1024, /* bytes of all flags: a server takes no line of more than 2048 */
    OPAQUE_MAX = 32,      /* bytes of an opaque, its letter included */
};

#define BAD_TOKEN "CLIENT_ERROR bad token in command line format"
#define BAD_FLAG "CLIENT_ERROR invalid or duplicate flag"

/* --- flags --- */

/* The next flag before end, its letter first: its length, and *p at it; 0: there is none. */
static size_t next_flag(const uint8_t **p, const uint8_t *end)
{
    return text_next_word(p, end);
}

/* Where a request's flags are, and the return value where they end. */
static const uint8_t *flags_of(const struct request *r, const uint8_t **p)
{
    *p = r->arg_len > 0 ? r->arg : (const uint8_t *)"";
    return *p + r->arg_len;
}

/* What a letter means in a request, and what its token is. */
enum token_kind { TOKEN_NONE, TOKEN_SECONDS, TOKEN_U64, TOKEN_FLAGS, TOKEN_MODE, TOKEN_OPAQUE, TOKEN_KEY };

static const struct flag {
    bool known;
    uint8_t kind; /* enum token_kind */
    uint32_t bit;
} flags[128] = {
    ['q'] = {true, TOKEN_NONE, TERM_QUIET},
    ['v'] = {true, TOKEN_NONE, TERM_VALUE},
    ['f'] = {true, TOKEN_NONE, TERM_FLAGS},
    ['c'] = {true, TOKEN_NONE, TERM_UNIQUE},
    ['t'] = {true, TOKEN_NONE, TERM_TTL},
    ['s'] = {true, TOKEN_NONE, TERM_SIZE},
    ['l'] = {true, TOKEN_NONE, TERM_IDLE},
    ['h'] = {true, TOKEN_NONE, TERM_FETCHED},
    ['u'] = {true, TOKEN_NONE, TERM_SILENT},
    ['I'] = {true, TOKEN_NONE, TERM_INVALIDATE},
    ['x'] = {true, TOKEN_NONE, TERM_REMOVE_VALUE},
    ['k'] = {true, TOKEN_NONE, 0},
    ['b'] = {true, TOKEN_KEY, TERM_BASE64},
    ['T'] = {true, TOKEN_SECONDS, TERM_TOUCH},
    ['R'] = {true, TOKEN_SECONDS, TERM_RECACHE},
    ['N'] = {true, TOKEN_SECONDS, TERM_VIVIFY},
    ['C'] = {true, TOKEN_U64, TERM_COMPARE},
    ['E'] = {true, TOKEN_U64, TERM_NEW_UNIQUE},
    ['J'] = {true, TOKEN_U64, 0},
    ['D'] = {true, TOKEN_U64, 0},
    ['F'] = {true, TOKEN_FLAGS, 0},
    ['M'] = {true, TOKEN_MODE, 0},
    ['O'] = {true, TOKEN_OPAQUE, 0},
    ['P'] = {true, TOKEN_NONE, 0}, /* for proxies: as they like; moxi passes them on */
    ['L'] = {true, TOKEN_NONE, 0},
};

/* --- requests, in --- */

static const char *set_seconds(char letter, const struct token *token, struct command *cmd)
{
    int64_t seconds = 0;
    const char *error = token_seconds(token, &seconds) ? NULL : BAD_TOKEN;

    if (letter == 'T')
        cmd->exptime = seconds;
    else if (letter == 'R')
        cmd->terms.recache = (int32_t)seconds;
    else
        cmd->terms.vivify = (int32_t)seconds;
    /* They are looked at in the order of the flags. */
    if (letter == 'R' && (cmd->terms.bits & TERM_TOUCH))
        cmd->terms.bits |= TERM_TOUCH_FIRST;
    if (letter == 'N' && (cmd->terms.bits & TERM_TOUCH))
        cmd->terms.bits |= TERM_SPARE_NEW;
    return error;
}

static const char *set_number(char letter, const struct token *token, struct command *cmd)
{
    uint64_t *number = letter == 'C'   ? &cmd->terms.compare
                       : letter == 'E' ? &cmd->terms.new_unique
                       : letter == 'J' ? &cmd->terms.initial
                                       : &cmd->number;

    if (token_u64(token, number))
        return NULL;
    if (letter == 'J')
        return "CLIENT_ERROR invalid numeric initial value";
    return letter == 'D' ? "CLIENT_ERROR invalid numeric delta value" : BAD_TOKEN;
}

static const char *set_mode(const struct token *token, struct command *cmd)
{
    if (token->len != 1)
        return "CLIENT_ERROR incorrect length for M token";
    cmd->terms.mode = token->p[0];
    return NULL;
}

static const char *decode_key(struct command *cmd)
{
    size_t n = base64_decode(cmd->key, cmd->key_len, cmd->decoded);

    if (n == 0)
        return "CLIENT_ERROR error decoding key";
    cmd->key = cmd->decoded;
    cmd->key_len = n;
    return NULL;
}

/* One flag, letter and token. NULL: it is good. */
static const char *take_flag(const uint8_t *p, size_t len, struct command *cmd)
{
    const struct flag *flag = &flags[p[0]];
    struct token token = {p + 1, len - 1};
    const char *error = NULL;

    switch ((enum token_kind)flag->kind) {
    case TOKEN_NONE:
        break;
    case TOKEN_SECONDS:
        error = set_seconds((char)p[0], &token, cmd);
        break;
    case TOKEN_U64:
        error = set_number((char)p[0], &token, cmd);
        break;
    case TOKEN_FLAGS:
        error = token_u32(&token, &cmd->flags) ? NULL : BAD_FORMAT;
        break;
    case TOKEN_MODE:
        error = set_mode(&token, cmd);
        break;
    case TOKEN_OPAQUE:
        error = len <= OPAQUE_MAX ? NULL : "CLIENT_ERROR opaque token too long";
        break;
    case TOKEN_KEY:
        error = decode_key(cmd);
        break;
    }
    cmd->terms.bits |= flag->bit;
    return error;
}

/* All flags of [p, end). NULL: they are good. */
static const char *take_flags(const uint8_t *p, const uint8_t *end, struct command *cmd)
{
    uint64_t seen[ARRAY_LEN(flags) / 64] = {0}; /* a bit for each letter */
    const char *error = NULL;
    size_t len;

    for (; (len = next_flag(&p, end)) > 0; p += len) {
        const char *wrong;

        if (p[0] >= ARRAY_LEN(flags) - 1 || (seen[p[0] / 64] >> p[0] % 64 & 1))
            return "CLIENT_ERROR duplicate flag";
        seen[p[0] / 64] |= UINT64_C(1) << p[0] % 64;
        if (!flags[p[0]].known)
            return "CLIENT_ERROR invalid flag";
        wrong = take_flag(p, len, cmd);
        error = wrong != NULL ? wrong : error;
    }
    return error;
}

/* The classic store that a mode of ms stands for; OP_REFUSED: none. */
static enum opcode store_of(uint8_t mode)
{
    switch (mode) {
    case 0:
    case 'S':
        return OP_SET;
    case 'E':
        return OP_ADD;
    case 'A':
        return OP_APPEND;
    case 'P':
        return OP_PREPEND;
    case 'R':
        return OP_REPLACE;
    default:
        return OP_REFUSED;
    }
}

static enum opcode arith_of(uint8_t mode)
{
    switch (mode) {
    case 0:
    case 'I':
    case '+':
        return OP_INCR;
    case 'D':
    case '-':
        return OP_DECR;
    default:
        return OP_REFUSED;
    }
}

/* The flags of a command from p on, and what follows from them. */
static enum parse_status finish_command(const uint8_t *p, const uint8_t *end, struct command *cmd)
{
    const char *error;

    while (p < end && *p == ' ')
        p++;
    while (end > p && end[-1] == ' ')
        end--;
    cmd->flags_text = p;
    cmd->flags_len = (size_t)(end - p);
    error = take_flags(p, end, cmd);
    if (error != NULL && (cmd->op == OP_META_DELETE || cmd->op == OP_META_ARITH))
        error = strncmp(error, "CLIENT_ERROR opaque", 19) == 0 ? error : BAD_FLAG;
    if (error != NULL)
        return text_refuse(cmd, error);
    if (cmd->op == OP_META_SET && (cmd->terms.mode = (uint8_t)store_of(cmd->terms.mode)) == OP_REFUSED)
        return text_refuse(cmd, "CLIENT_ERROR invalid mode for ms M token");
    if (cmd->op == OP_META_ARITH && (cmd->terms.mode = (uint8_t)arith_of(cmd->terms.mode)) == OP_REFUSED)
        return text_refuse(cmd, "CLIENT_ERROR invalid mode for ma M token");
    return PARSE_OK;
}

static enum parse_status parse_debug(const struct line *line, struct command *cmd)
{
    if (line->num_tokens > 2 && token_is(&line->tokens[2], "b")) {
        cmd->flags_text = line->tokens[2].p;
        cmd->flags_len = 1;
        cmd->terms.bits = TERM_BASE64;
        if (decode_key(cmd) != NULL)
            return text_refuse(cmd, BAD_FORMAT);
    }
    return PARSE_OK;
}

/* ms: the size of the value, which is skipped if the command is refused. Where its flags are; NULL: it is no size. */
static const uint8_t *take_size(const struct line *line, struct command *cmd)
{
    const struct token *t = &line->tokens[2];
    int64_t size;

    if (line->num_tokens < 3 || !token_i64(t, &size) || size < 0 || size > INT32_MAX - 2)
        return NULL;
    cmd->body_len = (size_t)size;
    cmd->body_tail = 2;
    return t->p + t->len;
}

/* Whether there are too many flags in [p, end), or they are too long, after so many words. */
static bool are_too_many(const uint8_t *p, const uint8_t *end, size_t words)
{
    size_t len;

    if ((size_t)(end - p) > FLAG_TEXT_MAX)
        return true;
    /* Each takes two bytes at least. */
    if (LIKELY((size_t)(end - p) / 2 + words <= FLAGS_MAX))
        return false;
    for (; (len = next_flag(&p, end)) > 0; p += len)
        words++;
    return words > FLAGS_MAX;
}

static enum parse_status parse_line(const struct line *line, struct command *cmd)
{
    const uint8_t *p, *end = line->p + line->len;

    if (cmd->op == OP_META_NOOP)
        return PARSE_OK;
    if (line->num_tokens < 2)
        return text_refuse(cmd, cmd->op == OP_META_DEBUG ? BAD_FORMAT : BAD_COMMAND);
    cmd->key = line->tokens[1].p;
    cmd->key_len = line->tokens[1].len;
    cmd->num_keys = 1;
    cmd->number = cmd->op == OP_META_ARITH; /* the delta, if none is given */
    p = cmd->key + cmd->key_len;
    if (cmd->op == OP_META_SET && (p = take_size(line, cmd)) == NULL)
        return text_refuse(cmd, BAD_FORMAT);
    if (cmd->key_len > KEY_MAX)
        return text_refuse(cmd, BAD_FORMAT);
    if (cmd->op == OP_META_DEBUG)
        return parse_debug(line, cmd);
    if (are_too_many(p, end, cmd->op == OP_META_SET ? 3 : 2))
        return text_refuse(cmd, cmd->op == OP_META_GET ? "CLIENT_ERROR options flags are too long"
                                                       : "CLIENT_ERROR options flags too long");
    return finish_command(p, end, cmd);
}

/* The command of a word; OP_REFUSED: none of these. */
static enum opcode command_of(const struct token *word)
{
    if (word->len != 2 || word->p[0] != 'm')
        return OP_REFUSED;
    switch (word->p[1]) {
    case 'g':
        return OP_META_GET;
    case 's':
        return OP_META_SET;
    case 'd':
        return OP_META_DELETE;
    case 'a':
        return OP_META_ARITH;
    case 'e':
        return OP_META_DEBUG;
    case 'n':
        return OP_META_NOOP;
    default:
        return OP_REFUSED;
    }
}

static enum parse_status meta_parse_request(const uint8_t *p, size_t n, size_t seen, struct key_list *keys,
                                            struct command *cmd)
{
    struct token tokens[WORDS];
    const uint8_t *end;
    struct line line;

    (void)keys;
    memset(cmd, 0, offsetof(struct command, decoded));
    end = text_line_end(p, n, seen, cmd);
    if (end == NULL) {
        if (n <= LINE_MAX_OTHERS)
            return PARSE_MORE;
        cmd->hangup = true;
        cmd->consumed = n;
        return text_refuse(cmd, BAD_LINE);
    }
    line = (struct line){.p = p, .len = (size_t)(end - p), .tokens = tokens};
    line.num_tokens = text_tokenize(p, line.len, tokens, WORDS);
    if (line.num_tokens == 0 || (cmd->op = command_of(&tokens[0])) == OP_REFUSED)
        return text_refuse(cmd, BAD_COMMAND);
    return parse_line(&line, cmd);
}

/* What begins like one of these commands may become one. */
static bool meta_is_hopeless(const uint8_t *p, size_t n)
{
    (void)p;
    (void)n;
    return false;
}

/* --- requests, out --- */

/*
 * Bytes of a composed line without the flags that the client wrote, at the most: a word, a key, six flags and numbers.
 */
enum { HEADER_MAX = 16 + (KEY_MAX + 2) / 3 * 4 + 8 * (U64_DIGITS + 2) };

static uint8_t *put_flag(uint8_t *to, char letter)
{
    *to++ = ' ';
    *to++ = (uint8_t)letter;
    return to;
}

static uint8_t *put_flag_u64(uint8_t *to, char letter, uint64_t v)
{
    return put_digits(put_flag(to, letter), v);
}

static uint8_t *put_flag_i64(uint8_t *to, char letter, int64_t v)
{
    to = put_flag(to, letter);
    if (v < 0)
        *to++ = '-';
    return put_digits(to, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

static uint8_t *put_key(uint8_t *to, const struct rkey *key, bool base64)
{
    if (base64)
        return to + base64_encode(key->p, key->len, to);
    return put(to, key->p, key->len);
}

static uint8_t *put_command(uint8_t *to, enum opcode op, const struct rkey *key, bool base64)
{
    to = put(to, op_table[op].name, 2);
    *to++ = ' ';
    return put_key(to, key, base64);
}

/* The flags of one whose client speaks another protocol, from its terms. */
static uint8_t *put_terms(uint8_t *to, const struct request *r)
{
    static const char modes[OP_COUNT] = {
        [OP_ADD] = 'E', [OP_REPLACE] = 'R', [OP_APPEND] = 'A', [OP_PREPEND] = 'P', [OP_DECR] = 'D'};
    const struct terms *t = &r->terms;

    for (int letter = 'a'; letter <= 'z'; letter++)
        if (flags[letter].bit != 0 && letter != 'q' && (t->bits & flags[letter].bit))
            to = put_flag(to, (char)letter);
    if (r->op == OP_META_ARITH)
        to = put_flag_u64(put_flag_u64(to, 'D', r->number), 'J', t->initial);
    if (t->bits & TERM_VIVIFY)
        to = put_flag_i64(to, 'N', t->vivify);
    if (t->bits & TERM_COMPARE)
        to = put_flag_u64(to, 'C', t->compare);
    if (r->flags != 0)
        to = put_flag_u64(to, 'F', r->flags);
    if (r->exptime != 0 || (t->bits & TERM_TOUCH))
        to = put_flag_i64(to, 'T', r->exptime);
    if (modes[t->mode] != 0) {
        to = put_flag(to, 'M');
        *to++ = (uint8_t)modes[t->mode];
    }
    return to;
}

/* Words, the first of which begins at p, with one blank before each. */
static uint8_t *put_words(uint8_t *to, const uint8_t *p, const uint8_t *end)
{
    if (p == end)
        return to;
    for (*to++ = ' '; p < end; p++)
        if (*p != ' ' || to[-1] != ' ')
            *to++ = *p;
    return to;
}

/*
 * The flags of a request for a server. It is not asked for a key that no line can hold: memcached tells one of an item
 * that it has made of nothing, or that came in the binary protocol, as it is, with line ends that end the reply.
 */
static uint8_t *put_request_flags(uint8_t *to, const struct request *r)
{
    const uint8_t *p, *end = flags_of(r, &p);
    bool tells_key;
    size_t len;

    if (r->codec != &codec_meta)
        return put_terms(to, r);
    tells_key = !(r->terms.bits & TERM_BASE64) || rkey_is_word(&r->keys[r->first]);
    if (tells_key && !(r->terms.bits & TERM_QUIET))
        return put_words(to, p, end);
    for (; (len = next_flag(&p, end)) > 0; p += len) {
        if (p[0] == 'q' || (p[0] == 'k' && !tells_key))
            continue;
        *to++ = ' ';
        to = put(to, p, len);
    }
    return to;
}

/*
 * What a classic retrieval asks of one key. Of several, a reply says by its index whose it is: a key may be in base64.
 */
static uint8_t *put_get(uint8_t *to, const struct request *r, uint32_t index, bool is_one)
{
    to = put_command(to, OP_META_GET, &r->keys[index], false);
    if (r->op != OP_TOUCH)
        to = put(to, " f v", 4);
    if (r->op == OP_GETS || r->op == OP_GATS)
        to = put_flag(to, 'c');
    if (r->op == OP_GAT || r->op == OP_GATS || r->op == OP_TOUCH)
        to = put_flag_i64(to, 'T', r->exptime);
    if (!is_one)
        to = put_digits(put(to, " q O", 4), index);
    return put(to, CRLF, 2);
}

static bool compose_gets(const struct request *r, struct bufpool *bufs, struct spanq *out)
{
    bool is_one = r->num_keys == 1;

    for (uint32_t i = r->first; i != RKEY_END; i = r->keys[i].next) {
        uint8_t *to = spanq_reserve(out, bufs, HEADER_MAX, (size_t)r->num_keys * 32, NULL);

        if (to == NULL)
            return false;
        spanq_commit(out, (size_t)(put_get(to, r, i, is_one) - to));
    }
    return is_one || spanq_copy(out, bufs, "mn" CRLF, 4);
}

/* What a classic store says by its word. */
static uint8_t *put_store_flags(uint8_t *to, const struct request *r)
{
    static const char modes[OP_COUNT] = {[OP_ADD] = 'E', [OP_REPLACE] = 'R', [OP_APPEND] = 'A', [OP_PREPEND] = 'P'};

    if (r->flags != 0)
        to = put_flag_u64(to, 'F', r->flags);
    if (r->exptime != 0)
        to = put_flag_i64(to, 'T', r->exptime);
    if (r->op == OP_CAS)
        to = put_flag_u64(to, 'C', r->number);
    if (modes[r->op] != 0) {
        to = put_flag(to, 'M');
        *to++ = (uint8_t)modes[r->op];
    }
    return to;
}

static bool compose_store(const struct request *r, struct bufpool *bufs, struct spanq *out)
{
    bool is_meta = op_is_meta(r->op);
    const uint8_t *inl = request_inline_value(r);
    size_t least = HEADER_MAX + r->arg_len * 2 + sizeof(r->inl) + 2;
    uint8_t *start = spanq_reserve(out, bufs, least, least, NULL);
    uint8_t *to;

    if (start == NULL)
        return false;
    to = put_command(start, OP_META_SET, &r->keys[r->first], is_meta && (r->terms.bits & TERM_BASE64));
    to = put_u64(to, request_value_len(r));
    to = is_meta ? put_request_flags(to, r) : put_store_flags(to, r);
    to = put(to, CRLF, 2);
    if (inl != NULL)
        to = put(to, inl, r->inl_value_len);
    if (r->value.bytes == 0)
        to = put(to, CRLF, 2);
    spanq_commit(out, (size_t)(to - start));
    return r->value.bytes == 0 || (spanq_share(out, bufs, &r->value) && spanq_copy(out, bufs, CRLF, 2));
}

/* What has one key and no value. */
static bool compose_line(const struct request *r, struct bufpool *bufs, struct spanq *out)
{
    const struct rkey *key = &r->keys[r->first];
    size_t least = HEADER_MAX + r->arg_len * 2;
    uint8_t *start = spanq_reserve(out, bufs, least, least, NULL);
    uint8_t *to;

    if (start == NULL)
        return false;
    if (op_is_meta(r->op)) {
        to = put_command(start, (enum opcode)r->op, key, r->terms.bits & TERM_BASE64);
        to = put_request_flags(to, r);
    } else if (r->op == OP_DELETE) {
        to = put_command(start, OP_META_DELETE, key, false);
    } else {
        to = put_command(start, OP_META_ARITH, key, false);
        to = put_flag_u64(put_flag(to, 'v'), 'D', r->number);
        if (r->op == OP_DECR)
            to = put(to, " MD", 3);
    }
    to = put(to, CRLF, 2);
    spanq_commit(out, (size_t)(to - start));
    return true;
}

/* As in memcached, a key in base64 is not longer in its line than one that is not. */
static const char *meta_lacks(const struct request *r)
{
    if (op_is_meta(r->op) && (r->terms.bits & TERM_BASE64) && base64_size(r->keys[r->first].len) > KEY_MAX)
        return "SERVER_ERROR proxy downstream has no room in a line, for a binary key";
    return NULL;
}

static bool meta_compose_request(const struct request *r, struct bufpool *bufs, struct spanq *out)
{
    unsigned op_is = op_flags((enum opcode)r->op);

    if (r->op == OP_META_NOOP)
        return spanq_copy(out, bufs, "mn" CRLF, 4);
    if (op_is & OPF_BODY)
        return compose_store(r, bufs, out);
    if (!op_is_meta(r->op) && ((op_is & OPF_VALUES) || r->op == OP_TOUCH))
        return compose_gets(r, bufs, out);
    return compose_line(r, bufs, out);
}

/* --- replies, in --- */

/* The flag of a request with this letter, and its length; NULL: it has none. */
static const uint8_t *find_flag(const struct request *r, uint8_t letter, size_t *len)
{
    const uint8_t *p, *end = flags_of(r, &p);

    for (; (*len = next_flag(&p, end)) > 0; p += *len)
        if (p[0] == letter)
            return p;
    return NULL;
}

/* Whether a key that a reply has, in base64 or not, is that of the request. */
static bool is_key(const struct rkey *key, const uint8_t *p, size_t len)
{
    uint8_t encoded[(KEY_MAX + 2) / 3 * 4];

    if (key->len == len && memcmp(key->p, p, len) == 0)
        return true;
    return base64_size(key->len) == len && memcmp(encoded, p, base64_encode(key->p, key->len, encoded)) == 0;
}

/* Which of the flags that moxi needs a reply has. */
enum { HAS_FLAGS = 1, HAS_UNIQUE = 2, HAS_KEY = 4, HAS_SIZE = 8 };

/* What a retrieval of several keys is answered with: only what it needs. */
static bool is_batch(const struct request *r)
{
    return !op_is_meta(r->op) && r->num_keys > 1;
}

/* Which key a value of several is of: one that was not answered yet. */
static bool take_index(const struct request *r, const struct token *token, struct reply *reply, unsigned *has)
{
    const struct rkey *key;
    uint32_t index;

    if (!token_u32(token, &index) || (key = request_open_key(r, index)) == NULL)
        return false;
    reply->key = key->p;
    reply->key_len = key->len;
    *has |= HAS_KEY;
    return true;
}

/* One flag of a reply. False: it is not what was asked for. */
static bool take_reply_flag(const struct request *r, const uint8_t *p, size_t len, struct reply *reply, unsigned *has)
{
    struct facts *facts = &reply->hit.facts;
    struct token token = {p + 1, len - 1};
    const uint8_t *own;
    uint64_t v = 0;
    int64_t ttl;
    size_t own_len;

    switch (p[0]) {
    case 'f':
        *has |= HAS_FLAGS;
        return token_u32(&token, &facts->flags);
    case 'c':
        *has |= HAS_UNIQUE;
        return token_u64(&token, &facts->unique);
    case 's':
        *has |= HAS_SIZE;
        return token_u32(&token, &facts->size);
    case 'l':
        return token_u32(&token, &facts->idle);
    case 'h':
        facts->is_fetched = token_u64(&token, &v) && v == 1;
        return v <= 1;
    case 't':
        if (!token_i64(&token, &ttl))
            return false;
        facts->ttl = facts->old_ttl = ttl;
        return true;
    case 'k':
        return r->num_keys == 1 && is_key(&r->keys[0], token.p, token.len);
    case 'O':
        if (is_batch(r))
            return take_index(r, &token, reply, has);
        own = op_is_meta(r->op) ? find_flag(r, 'O', &own_len) : NULL;
        return own != NULL && own_len == len && memcmp(own, p, len) == 0;
    case 'b':
        facts->is_binary = true;
        return true;
    case 'W':
        facts->won = true;
        return true;
    case 'X':
        facts->is_stale = true;
        return true;
    case 'Z':
        facts->is_sent = true;
        return true;
    default:
        return true; /* of a newer memcached */
    }
}

static bool take_reply_flags(const struct request *r, const uint8_t *p, const uint8_t *end, struct reply *reply,
                             unsigned *has)
{
    size_t len;

    memset(&reply->hit.facts, 0, sizeof(reply->hit.facts));
    reply->key = NULL;
    reply->key_len = 0;
    *has = 0;
    for (; (len = next_flag(&p, end)) > 0; p += len)
        if (!take_reply_flag(r, p, len, reply, has))
            return false;
    return true;
}

/* "VA <size> <flags>*", the value to follow. */
static enum parse_status parse_value(const struct request *r, uint64_t size, unsigned has, const uint8_t *p,
                                     struct reply *reply)
{
    struct hit *hit = &reply->hit;

    if (!op_is_meta(r->op) && !(has & HAS_FLAGS))
        return text_bad_reply(reply, "a value without flags");
    if ((r->op == OP_GETS || r->op == OP_GATS) && !(has & HAS_UNIQUE))
        return text_bad_reply(reply, "a value without a cas unique");
    if (is_batch(r) && !(has & HAS_KEY))
        return text_bad_reply(reply, "a value without a key");
    if (!is_batch(r))
        reply->key = NULL;
    hit->value_len = (size_t)size;
    hit->facts.size = (uint32_t)size;
    hit->tail_len = 2;
    hit->head = p;
    hit->head_len = reply->consumed;
    reply->kind = REPLY_HIT;
    reply->is_last = !is_batch(r);
    if (reply->is_last)
        reply->outcome = (struct outcome){.result = RESULT_END};
    return PARSE_OK;
}

/* "VA <size> <flags>*" and a number, in n bytes at p. */
static enum parse_status parse_number(uint64_t size, const uint8_t *p, size_t n, struct reply *reply)
{
    const uint8_t *value = p + reply->consumed;
    uint64_t number;

    if (size == 0 || size > U64_DIGITS)
        return text_bad_reply(reply, "a number of a bad length");
    if (n - reply->consumed < size + 2)
        return PARSE_MORE;
    if (!util_parse_u64((const char *)value, size, &number) || !text_check_tail(value + size, 2))
        return text_bad_reply(reply, "a value that is no number");
    reply->consumed += size + 2;
    text_reply_done(reply, RESULT_NUMBER, p, reply->consumed);
    reply->outcome.number = number;
    reply->outcome.facts = &reply->hit.facts;
    return PARSE_OK;
}

static bool is_arith(const struct request *r)
{
    return r->op == OP_META_ARITH || r->op == OP_INCR || r->op == OP_DECR;
}

/* What a code of two letters means as the end of a reply. RESULT_NONE: nothing. */
static enum result result_of(const struct request *r, const uint8_t *code)
{
    static const struct {
        char code[3];
        enum result store, delete, arith, get;
    } results[] = {
        {"HD", RESULT_STORED, RESULT_DELETED, RESULT_NUMBER, RESULT_FOUND},
        {"NS", RESULT_NOT_STORED, RESULT_NONE, RESULT_NOT_STORED, RESULT_NONE},
        {"EX", RESULT_EXISTS, RESULT_EXISTS, RESULT_EXISTS, RESULT_NONE},
        {"NF", RESULT_NOT_FOUND, RESULT_NOT_FOUND, RESULT_NOT_FOUND, RESULT_NONE},
        {"EN", RESULT_NONE, RESULT_NONE, RESULT_NONE, RESULT_END},
        {"ME", RESULT_NONE, RESULT_NONE, RESULT_NONE, RESULT_NONE},
    };

    if (memcmp(code, "MN", 2) == 0)
        return r->op == OP_META_NOOP ? RESULT_OK : is_batch(r) ? RESULT_END : RESULT_NONE;
    if (memcmp(code, "ME", 2) == 0)
        return r->op == OP_META_DEBUG ? RESULT_FOUND : RESULT_NONE;
    if (is_batch(r) || r->op == OP_META_NOOP)
        return RESULT_NONE;
    for (size_t i = 0; i < ARRAY_LEN(results); i++) {
        if (memcmp(code, results[i].code, 2) != 0)
            continue;
        if (op_flags((enum opcode)r->op) & OPF_STORES)
            return results[i].store;
        if (r->op == OP_META_DELETE || r->op == OP_DELETE)
            return results[i].delete;
        if (is_arith(r))
            /* One that was asked for comes with VA. */
            return results[i].arith == RESULT_NUMBER && !op_is_meta(r->op) ? RESULT_NONE : results[i].arith;
        if (r->op == OP_TOUCH)
            return results[i].get == RESULT_FOUND ? RESULT_TOUCHED
                   : results[i].get == RESULT_END ? RESULT_NOT_FOUND
                                                  : RESULT_NONE;
        if (r->op == OP_META_DEBUG || !op_is_meta(r->op))
            return results[i].get == RESULT_END ? RESULT_END : RESULT_NONE;
        return results[i].get;
    }
    return RESULT_NONE;
}

/* A line that ends a reply, or "VA". */
static enum parse_status parse_code(const struct request *r, const uint8_t *p, const uint8_t *end, size_t n,
                                    struct reply *reply)
{
    bool is_value = begins_with(p, reply->consumed, "VA ");
    const uint8_t *rest = p + 2;
    enum result result;
    uint64_t size = 0;
    unsigned has = 0;

    if (*rest != ' ' && rest != end)
        return text_bad_reply(reply, "a reply that does not belong to the request");
    if (is_value) {
        size_t digits = util_scan_u64((const char *)p + 3, (size_t)(end - p) - 3, &size);

        rest = p + 3 + digits;
        if (digits == 0 || size > VALUE_MAX || (*rest != ' ' && rest != end))
            return text_bad_reply(reply, "a VA with a bad length");
    }
    if (r->op != OP_META_DEBUG && !take_reply_flags(r, rest, end, reply, &has))
        return text_bad_reply(reply, "a flag that does not belong to the request");
    if (is_value && is_arith(r))
        return parse_number(size, p, n, reply);
    if (is_value && (op_flags((enum opcode)r->op) & OPF_VALUES))
        return parse_value(r, size, has, p, reply);
    result = is_value ? RESULT_NONE : result_of(r, p);
    if (result == RESULT_NONE)
        return text_bad_reply(reply, "a reply that does not belong to the request");
    text_reply_done(reply, result, p, reply->consumed);
    reply->hit.facts.no_size = r->op == OP_META_SET && !(has & HAS_SIZE);
    reply->outcome.facts = &reply->hit.facts;
    return PARSE_OK;
}

/*
 * "ME <key>" of the request's key: its length, or that of as much of it as is in n bytes at p; 0: it is something else.
 * The key may be as it is, with line ends, though it was asked for in base64: see put_request_flags.
 */
static size_t debug_len(const struct request *r, const uint8_t *p, size_t n)
{
    uint8_t told[3 + (KEY_MAX + 2) / 3 * 4 + 1];

    for (int base64 = 0; base64 <= 1; base64++) {
        uint8_t *end = put_key(put(told, "ME ", 3), &r->keys[r->first], base64);
        size_t len = (size_t)(end - told) + 1;

        *end = ' ';
        if (memcmp(told, p, n < len ? n : len) == 0)
            return n < len ? n : len;
    }
    return 0;
}

/* Where a reply's first line may end; NULL: it is not the reply to the request. */
static const uint8_t *may_end(const struct request *r, const uint8_t *p, size_t n, size_t seen)
{
    size_t len;

    if (r->op != OP_META_DEBUG || n == 0 || p[0] != 'M')
        /* A number may have been waited for, behind a line that is whole. */
        return p + (is_arith(r) ? 0 : seen);
    len = debug_len(r, p, n);
    return len == 0 ? NULL : p + (len > seen ? len : seen);
}

static enum parse_status meta_parse_reply(const struct request *r, const uint8_t *p, size_t n, size_t seen,
                                          struct reply *reply)
{
    const uint8_t *from = may_end(r, p, n, seen);
    const uint8_t *lf;

    reply->suspicious = false;
    if (from == NULL)
        return text_bad_reply(reply, "a ME of another key");
    lf = memchr(from, '\n', n - (size_t)(from - p));
    if (lf == NULL)
        return n < REPLY_LINE_MAX ? PARSE_MORE : text_bad_reply(reply, "a line without an end");
    reply->consumed = (size_t)(lf - p) + 1;
    if (reply->consumed > REPLY_LINE_MAX)
        return text_bad_reply(reply, "a line that is too long");
    if (reply->consumed < 4 || lf[-1] != '\r')
        return text_bad_reply(reply, "a line that does not end in CR LF");
    if (!text_is_error(p, reply->consumed))
        return parse_code(r, p, lf - 1, n, reply);
    if (is_batch(r))
        return text_bad_reply(reply, "an error for one of several keys");
    /* A server that does not know the command takes the value for commands, and answers those too. */
    reply->suspicious = (op_flags((enum opcode)r->op) & OPF_BODY) && p[0] == 'E';
    return text_reply_done(reply, RESULT_ERROR, p, reply->consumed);
}

/* --- replies, out --- */

/* Bytes of a reply's line, at the most. */
enum { REPLY_MAX = HIT_HEAD_MAX + U64_DIGITS + 8 };

static uint8_t *put_key_flag(uint8_t *to, const struct request *r, const struct facts *facts)
{
    const struct rkey *key = &r->keys[r->first];
    bool is_get = r->op == OP_META_GET && facts != NULL;
    bool base64 = (is_get ? facts->is_binary : (r->terms.bits & TERM_BASE64) != 0) || !rkey_is_word(key);

    to = put_key(put_flag(to, 'k'), key, base64);
    return base64 ? put_flag(to, 'b') : to;
}

/* What the reply says of the item, in the order of the request's flags. facts NULL: there is none. */
static uint8_t *put_reply_flags(uint8_t *to, const struct request *r, const struct facts *facts)
{
    static const struct facts nothing;
    const struct facts *f = facts != NULL ? facts : &nothing;
    const uint8_t *p, *end = flags_of(r, &p);
    bool is_get = r->op == OP_META_GET && facts != NULL;
    bool is_set = r->op == OP_META_SET, is_sum = r->op == OP_META_ARITH && facts != NULL;
    bool touched = false;
    size_t len;

    for (; (len = next_flag(&p, end)) > 0; p += len) {
        if (p[0] == 'O') {
            *to++ = ' ';
            to = put(to, p, len);
        } else if (p[0] == 'k') {
            to = put_key_flag(to, r, facts);
        } else if (p[0] == 'c' && (is_get || is_set || is_sum)) {
            to = put_flag_u64(to, 'c', f->unique);
        } else if (p[0] == 's' && (is_get || is_set) && !f->no_size) {
            to = put_flag_u64(to, 's', facts != NULL ? f->size : request_value_len(r));
        } else if (p[0] == 't' && (is_get || is_sum)) {
            to = put_flag_i64(to, 't', touched ? f->ttl : f->old_ttl);
        } else if (p[0] == 'f' && is_get) {
            to = put_flag_u64(to, 'f', f->flags);
        } else if (p[0] == 'l' && is_get) {
            to = put_flag_u64(to, 'l', f->idle);
        } else if (p[0] == 'h' && is_get) {
            to = put_flag_u64(to, 'h', f->is_fetched);
        }
        touched |= p[0] == 'T';
    }
    if (is_get && f->is_sent)
        to = put_flag(to, 'Z');
    if (is_get && f->is_stale)
        to = put_flag(to, 'X');
    if (is_get && f->won)
        to = put_flag(to, 'W');
    return to;
}

static size_t meta_compose_head(const struct request *r, const struct hit *hit, uint8_t *dst)
{
    uint8_t *to = put_digits(put(dst, "VA ", 3), hit->value_len);

    to = put_reply_flags(to, r, &hit->facts);
    to = put(to, CRLF, 2);
    return (size_t)(to - dst);
}

/* The code of an outcome; NULL: it has none. */
static const char *code_of(enum result result)
{
    switch (result) {
    case RESULT_END:
        return "EN";
    case RESULT_FOUND:
    case RESULT_STORED:
    case RESULT_DELETED:
    case RESULT_TOUCHED:
    case RESULT_NUMBER:
        return "HD";
    case RESULT_NOT_STORED:
        return "NS";
    case RESULT_EXISTS:
        return "EX";
    case RESULT_NOT_FOUND:
        return "NF";
    case RESULT_OK:
        return "MN";
    default:
        return NULL;
    }
}

/* Whether an outcome is not told to a client that asked for quiet: what it expects. */
static bool is_expected(const struct request *r, enum result result)
{
    if (r->op == OP_META_GET)
        return result == RESULT_END;
    return result == RESULT_STORED || result == RESULT_DELETED || result == RESULT_NUMBER;
}

static bool succeeded(enum result result)
{
    return result == RESULT_FOUND || result == RESULT_STORED || result == RESULT_DELETED || result == RESULT_NUMBER;
}

static bool meta_compose_outcome(const struct request *r, const struct outcome *outcome, struct bufpool *bufs,
                                 struct spanq *out)
{
    enum result result = outcome->result;
    const char *code = code_of(result);
    uint8_t line[REPLY_MAX], *to = line;

    if (code == NULL)
        return text_compose_error(outcome, bufs, out);
    /* A value was all of the reply. */
    if (r->op == OP_META_GET && result == RESULT_END && r->num_hits > 0)
        return true;
    if (op_flags((enum opcode)r->op) & OPF_KEY && (r->terms.bits & TERM_QUIET) && is_expected(r, result))
        return true;
    if (outcome->text != NULL)
        return spanq_copy(out, bufs, outcome->text, outcome->text_len);
    if (result == RESULT_NUMBER && (r->terms.bits & TERM_VALUE)) {
        char digits[U64_DIGITS];
        size_t n = util_format_u64(digits, outcome->number);

        to = put_digits(put(to, "VA ", 3), n);
        to = put_reply_flags(to, r, outcome->facts);
        to = put(put(to, CRLF, 2), digits, n);
    } else {
        to = put(to, code, 2);
        to = put_reply_flags(to, r, succeeded(result) ? outcome->facts : NULL);
    }
    to = put(to, CRLF, 2);
    return spanq_copy(out, bufs, line, (size_t)(to - line));
}

const struct codec codec_meta = {
    .name = "meta",
    .value_tail = 2,
    .parse_request = meta_parse_request,
    .is_hopeless = meta_is_hopeless,
    .check_tail = text_check_tail,
    .lacks = meta_lacks,
    .compose_request = meta_compose_request,
    .parse_reply = meta_parse_reply,
    .compose_head = meta_compose_head,
    .compose_stat = text_compose_stat,
    .compose_outcome = meta_compose_outcome,
};
