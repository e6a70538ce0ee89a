/* SPDX-License-Identifier: BSD-3-Clause */
/* cproxy_text - what the protocols in text share: see cproxy_text.h. */
#include "cproxy_text.h"

#include <assert.h>

const struct codec *codec_of_text(const uint8_t *p, size_t n)
{
    while (n > 0 && *p == ' ') {
        p++;
        n--;
    }
    /* A word of two letters, the first of which is m. */
    if (LIKELY(n < 2 || p[0] != 'm'))
        return &codec_ascii;
    return n == 2 || p[2] == ' ' || p[2] == '\r' || p[2] == '\n' || p[2] == '\0' ? &codec_meta : &codec_ascii;
}

size_t text_tokenize(const uint8_t *p, size_t len, struct token *tokens, size_t max)
{
    const uint8_t *end = p + len;
    size_t n = 0;

    while (n < max && (len = text_next_word(&p, end)) > 0) {
        tokens[n].p = p;
        tokens[n].len = len;
        p += len;
        n++;
    }
    return n;
}

const uint8_t *text_line_end(const uint8_t *p, size_t n, size_t seen, struct command *cmd)
{
    const uint8_t *lf = memchr(p + seen, '\n', n - seen);
    const uint8_t *end, *nul;

    if (lf == NULL)
        return NULL;
    cmd->consumed = (size_t)(lf - p) + 1;
    end = lf > p && lf[-1] == '\r' ? lf - 1 : lf;
    /* What stands behind a NUL is not looked at. */
    nul = memchr(p, '\0', (size_t)(end - p));
    return UNLIKELY(nul != NULL) ? nul : end;
}

static bool is_white(uint8_t c)
{
    return c >= '\t' && c <= '\r';
}

/*
 * The digits of a number, and its sign, in a word: white space that does not part words (all but the blank) may stand
 * in front, and what stands behind white space does not count.
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

/* What nearly every number is: digits, too few to overflow, and nothing else. */
static bool is_plain_number(const struct token *t, uint64_t *out)
{
    enum { FITS = 19 };
    uint64_t v = 0;

    if (t->len == 0 || t->len > FITS)
        return false;
    for (size_t i = 0; i < t->len; i++) {
        unsigned digit = t->p[i] - (unsigned)'0';

        if (digit > 9)
            return false;
        v = v * 10 + digit;
    }
    *out = v;
    return true;
}

static bool token_odd_u64(const struct token *t, uint64_t *out)
{
    struct token digits = digits_of(t);
    size_t plus = digits.len > 1 && digits.p[0] == '+';

    return util_parse_u64((const char *)digits.p + plus, digits.len - plus, out);
}

bool token_u64(const struct token *t, uint64_t *out)
{
    return LIKELY(is_plain_number(t, out)) || token_odd_u64(t, out);
}

bool token_u32(const struct token *t, uint32_t *out)
{
    uint64_t v;

    if (!token_u64(t, &v) || v > UINT32_MAX)
        return false;
    *out = (uint32_t)v;
    return true;
}

bool token_i64(const struct token *t, int64_t *out)
{
    struct token digits = digits_of(t);
    size_t plus = digits.len > 1 && digits.p[0] == '+' && digits.p[1] != '-';

    return util_parse_i64((const char *)digits.p + plus, digits.len - plus, out);
}

bool token_seconds(const struct token *t, int64_t *out)
{
    if (!token_i64(t, out))
        return false;
    *out = (int32_t)*out;
    return true;
}

bool text_is_error(const uint8_t *p, size_t len)
{
    static const char *const words[] = {"SERVER_ERROR", "CLIENT_ERROR", "ERROR"};

    if (len == 0 || (p[0] != 'S' && p[0] != 'C' && p[0] != 'E'))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        size_t n = strlen(words[i]);

        if (begins_with(p, len, words[i]))
            return p[n] == ' ' || p[n] == ':' || p[n] == '\r';
    }
    return false;
}

bool text_check_tail(const uint8_t *p, size_t n)
{
    return n == 2 && p[0] == '\r' && p[1] == '\n';
}

bool text_compose_stat(const struct request *r, const uint8_t *line, size_t n, struct bufpool *bufs, struct spanq *out)
{
    size_t before = out->bytes;

    (void)r;
    if (spanq_copy(out, bufs, line, n) && spanq_copy(out, bufs, CRLF, 2))
        return true;
    spanq_truncate(out, bufs, before);
    return false;
}

static const char *const failures[] = {
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
    return result == RESULT_WRITE_FAILED || result == RESULT_CLOSED || result == RESULT_TIMEOUT;
}

bool text_compose_error(const struct outcome *outcome, struct bufpool *bufs, struct spanq *out)
{
    size_t before = out->bytes;
    const char *line;
    bool ok;

    if (outcome->text != NULL)
        return spanq_copy(out, bufs, outcome->text, outcome->text_len);
    line = outcome->result == RESULT_REFUSED ? outcome->message : failures[outcome->result];
    assert(line != NULL);
    ok = spanq_copy(out, bufs, line, strlen(line));
    if (ok && has_message(outcome->result))
        ok = spanq_copy(out, bufs, " ", 1) && spanq_copy(out, bufs, outcome->message, strlen(outcome->message));
    ok = ok && spanq_copy(out, bufs, CRLF, 2);
    if (!ok)
        spanq_truncate(out, bufs, before);
    return ok;
}
