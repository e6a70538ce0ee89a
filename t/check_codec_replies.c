/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_codec_replies - the text protocol (cproxy_protocol_a.c): replies, in and out.
 *
 * What a parser finds is written down as a line of words, so that a test is a pair of texts: the bytes, and what they
 * mean. Each test is run on all of its bytes and cut at every place, as the network may cut it, in an allocation that
 * ends where they end.
 */
#include "codec_tests.h"

enum {
    LONG_REPLY_LINE = 8192, /* from which a line of a reply may be refused */
};

/* --- in --- */

static const char *const result_names[] = {
    [RESULT_NONE] = "none",       [RESULT_END] = "end",         [RESULT_STORED] = "stored",
    [RESULT_NOT_STORED] = "not",  [RESULT_EXISTS] = "exists",   [RESULT_NOT_FOUND] = "found not",
    [RESULT_DELETED] = "deleted", [RESULT_TOUCHED] = "touched", [RESULT_NUMBER] = "number",
    [RESULT_OK] = "ok",           [RESULT_RESET] = "reset",     [RESULT_TOLD] = "version",
    [RESULT_ERROR] = "error",
};

/* "hit KEY ^FLAGS +VALUE,TAIL #CAS", "stat LINE", "RESULT", "more", "bad". */
static void parse_reply_piece(struct text *t, enum opcode op, const char *bytes, size_t n, size_t seen)
{
    uint8_t *p = copy_of(bytes, n);
    const uint8_t *lf = memchr(p, '\n', n);
    struct reply reply;
    enum parse_status status;

    memset(&reply, 0xa5, sizeof(reply));
    reply.why = NULL;
    status = codec->parse_reply(blank(op, "k"), p, n, seen, &reply);
    t->n = 0;
    if (status == PARSE_BAD || status == PARSE_MORE) {
        say(t, "%s", status == PARSE_MORE ? "more" : reply.why != NULL ? "bad" : "bad for no reason");
    } else if (reply.kind == REPLY_HIT) {
        say(t, "hit ");
        say_bytes(t, reply.key, reply.key_len);
        say(t, " ^%u +%zu,%zu", reply.hit.facts.flags, reply.hit.value_len, reply.hit.tail_len);
        if (op == OP_GETS || op == OP_GATS)
            say(t, " #%llu", (unsigned long long)reply.hit.facts.unique);
        if (reply.hit.head != p || reply.hit.head_len != reply.consumed)
            say(t, " (head)");
    } else if (reply.kind == REPLY_STAT) {
        say(t, "stat ");
        say_bytes(t, reply.line, reply.line_len);
    } else {
        say(t, "%s%s", result_names[reply.outcome.result], reply.suspicious ? ", suspicious" : "");
        if (reply.outcome.text != p || reply.outcome.text_len != reply.consumed)
            say(t, " (text)");
    }
    if (status == PARSE_OK && (lf == NULL || reply.consumed != (size_t)(lf - p) + 1))
        say(t, " (took %zu)", reply.consumed);
    free(p);
}

/* Whether the bytes mean that to a request of that opcode, whole and in two pieces. */
static bool is_reply(enum opcode op, const char *bytes, size_t size, const char *means)
{
    struct text t;
    bool ok;

    parse_reply_piece(&t, op, bytes, size, 0);
    ok = strcmp(t.s, means) == 0;
    for (size_t n = 0; ok && n < size; n++) {
        parse_reply_piece(&t, op, bytes, n, n > 0 ? n - 1 : 0);
        ok = strcmp(t.s, "more") == 0;
        if (ok) {
            parse_reply_piece(&t, op, bytes, size, n);
            ok = strcmp(t.s, means) == 0;
        }
        if (!ok)
            printf("# cut at %zu\n", n);
    }
    if (!ok)
        printf("# %s: %s is %s, not: %s\n", op_table[op].name, name_of(bytes, size), means, t.s);
    return ok;
}

static void check_reply(enum opcode op, const char *bytes, size_t size, const char *means)
{
    bool ok = is_reply(op, bytes, size, means);

    check(ok, "%s: %s is %s", op_table[op].name, name_of(bytes, size), means);
}

/* Every line that a server has, and by whose name it is legal. */
static const struct {
    const char *bytes;
    size_t n;
    const char *means;
    const char *legal; /* opcodes with blanks around them */
} reply_lines[] = {
    {BYTES("END\r\n"), "end", " get gets gat gats stats "},
    {BYTES("STORED\r\n"), "stored", " set add replace append prepend cas "},
    {BYTES("NOT_STORED\r\n"), "not", " set add replace append prepend cas "},
    {BYTES("EXISTS\r\n"), "exists", " set add replace append prepend cas "},
    {BYTES("NOT_FOUND\r\n"), "found not", " set add replace append prepend cas incr decr touch delete "},
    {BYTES("DELETED\r\n"), "deleted", " delete "},
    {BYTES("TOUCHED\r\n"), "touched", " touch "},
    {BYTES("OK\r\n"), "ok", " flush_all stats "},
    {BYTES("RESET\r\n"), "reset", " stats "},
    {BYTES("5\r\n"), "number", " incr decr "},
    {BYTES("0\r\n"), "number", " incr decr "},
    {BYTES("18446744073709551615\r\n"), "number", " incr decr "},
    {BYTES("9   \r\n"), "number", " incr decr "},
    {BYTES("VALUE k 0 1\r\n"), "hit k ^0 +1,2", " get gat "},
    {BYTES("VALUE k 0 1 7\r\n"), "hit k ^0 +1,2 #7", " gets gats "},
    {BYTES("STAT a b c\r\n"), "stat STAT a b c", " stats "},
    {BYTES("STAT \r\n"), "stat STAT ", " stats "},
    {BYTES("PREFIX p get 1\r\n"), "stat PREFIX p get 1", " stats "},
    {BYTES("ITEM k [1 b; 2 s]\r\n"), "stat ITEM k [1 b; 2 s]", " stats "},
    {BYTES("\r\n"), "", ""},
    {BYTES("\n"), "", ""},
    {BYTES("END\n"), "", ""},
    {BYTES("STORED\n"), "", ""},
    {BYTES("5\n"), "", ""},
    {BYTES("STAT a b\n"), "", ""},
    {BYTES("VALUE k 0 1\n"), "", ""},
    {BYTES("VALUE k 0 1 7\n"), "", ""},
    {BYTES("SERVER_ERROR x\n"), "", ""},
    {BYTES("END \r\n"), "", ""},
    {BYTES(" END\r\n"), "", ""},
    {BYTES("END\r\r\n"), "", ""},
    {BYTES("END\0\r\n"), "", ""},
    {BYTES("\0END\r\n"), "", ""},
    {BYTES("EN\r\n"), "", ""},
    {BYTES("end\r\n"), "", ""},
    {BYTES("Stored\r\n"), "", ""},
    {BYTES("STOREDX\r\n"), "", ""},
    {BYTES("STORE\r\n"), "", ""},
    {BYTES("DELETED 1\r\n"), "", ""},
    {BYTES("OK 1\r\n"), "", ""},
    {BYTES("-5\r\n"), "", ""},
    {BYTES("+5\r\n"), "", ""},
    {BYTES(" 5\r\n"), "", ""},
    {BYTES("5 5\r\n"), "", ""},
    {BYTES("5x\r\n"), "", ""},
    {BYTES("0x5\r\n"), "", ""},
    {BYTES("5\r\r\n"), "", ""},
    {BYTES("   \r\n"), "", ""},
    {BYTES("18446744073709551616\r\n"), "", ""},
    {BYTES("VERSION 1.6.18\r\n"), "version", " version "},
    {BYTES("VERSION \r\n"), "version", " version "},
    {BYTES("VERSION\r\n"), "", ""},
    {BYTES("VERSIONS 1\r\n"), "", ""},
    {BYTES("version 1.6.18\r\n"), "", ""},
    {BYTES("STAT\r\n"), "", ""},
    {BYTES("STATS a b\r\n"), "", ""},
    {BYTES("VALUE\r\n"), "", ""},
    {BYTES("VA k 0 1\r\n"), "", ""},
    {BYTES("HD\r\n"), "", ""},
    {BYTES("\x81\0\0\0\n"), "", ""},
    {BYTES("HTTP/1.1 400 Bad Request\r\n"), "", ""},
    {BYTES("-ERR unknown command\r\n"), "", ""},
    {BYTES("SERVER\r\n"), "", ""},
};

/* Opcodes that are sent to a server. */
static const enum opcode sent_ops[] = {OP_GET,     OP_GETS,   OP_GAT,       OP_GATS,  OP_SET,    OP_ADD,
                                       OP_REPLACE, OP_APPEND, OP_PREPEND,   OP_CAS,   OP_INCR,   OP_DECR,
                                       OP_TOUCH,   OP_DELETE, OP_FLUSH_ALL, OP_STATS, OP_VERSION};

static void check_reply_lines(void)
{
    char word[32];

    for (size_t i = 0; i < ARRAY_LEN(sent_ops); i++) {
        unsigned refused = 0, taken = 0;

        snprintf(word, sizeof(word), " %s ", op_table[sent_ops[i]].name);
        for (size_t j = 0; j < ARRAY_LEN(reply_lines); j++) {
            if (strstr(reply_lines[j].legal, word) != NULL)
                check_reply(sent_ops[i], reply_lines[j].bytes, reply_lines[j].n, reply_lines[j].means);
            else if (is_reply(sent_ops[i], reply_lines[j].bytes, reply_lines[j].n, "bad"))
                refused++;
            else
                taken++;
        }
        check(taken == 0, "%s: each of %u other lines is refused", op_table[sent_ops[i]].name, refused + taken);
    }
}

static void check_error_replies(void)
{
    for (size_t i = 0; i < ARRAY_LEN(sent_ops); i++) {
        bool body = op_flags(sent_ops[i]) & OPF_BODY;

        check_reply(sent_ops[i], BYTES("SERVER_ERROR out of memory storing object\r\n"), "error");
        check_reply(sent_ops[i], BYTES("SERVER_ERROR\r\n"), "error");
        check_reply(sent_ops[i], BYTES("CLIENT_ERROR bad data chunk\r\n"), "error");
        check_reply(sent_ops[i], BYTES("ERROR\r\n"), body ? "error, suspicious" : "error");
        check_reply(sent_ops[i], BYTES("ERROR unknown command\r\n"), body ? "error, suspicious" : "error");
    }
}

static void check_value_heads(void)
{
    static const struct sample plain[] = {
        {BYTES("VALUE key 0 0\r\n"), "hit key ^0 +0,2"},
        {BYTES("VALUE key 4294967295 1073741824\r\n"), "hit key ^4294967295 +1073741824,2"},
        {BYTES("VALUE " KEY_250 " 1 1\r\n"), "hit k*250 ^1 +1,2"},
        {BYTES("VALUE a\rb 1 1\r\n"), "hit a\\rb ^1 +1,2"},
        {BYTES("VALUE \r\n"), "bad"},
        {BYTES("VALUE k\r\n"), "bad"},
        {BYTES("VALUE k \r\n"), "bad"},
        {BYTES("VALUE k 0\r\n"), "bad"},
        {BYTES("VALUE k 0 \r\n"), "bad"},
        {BYTES("VALUE  k 0 1\r\n"), "bad"},
        {BYTES("VALUE k  0 1\r\n"), "bad"},
        {BYTES("VALUE k 0  1\r\n"), "bad"},
        {BYTES("VALUE k 0 1 \r\n"), "bad"},
        {BYTES("VALUE k 0 1\r\r\n"), "bad"},
        {BYTES("VALUE k 0 1\0\r\n"), "bad"},
        {BYTES("VALUE k x 1\r\n"), "bad"},
        {BYTES("VALUE k -1 1\r\n"), "bad"},
        {BYTES("VALUE k +1 1\r\n"), "bad"},
        {BYTES("VALUE k 4294967296 1\r\n"), "bad"},
        {BYTES("VALUE k 0 x\r\n"), "bad"},
        {BYTES("VALUE k 0 -1\r\n"), "bad"},
        {BYTES("VALUE k 0 1x\r\n"), "bad"},
        {BYTES("VALUE k 0 1073741825\r\n"), "bad"},
        {BYTES("VALUE k 0 18446744073709551615\r\n"), "bad"},
        {BYTES("VALUE k 0 18446744073709551616\r\n"), "bad"},
        {BYTES("VALUE k 0 1 2 3\r\n"), "bad"},
        {BYTES("VALUE\tk 0 1\r\n"), "bad"},
        {BYTES("value k 0 1\r\n"), "bad"},
    };
    static const struct sample with_cas[] = {
        {BYTES("VALUE key 0 0 0\r\n"), "hit key ^0 +0,2 #0"},
        {BYTES("VALUE k 1 2 18446744073709551615\r\n"), "hit k ^1 +2,2 #18446744073709551615"},
        {BYTES("VALUE k 1 2 18446744073709551616\r\n"), "bad"},
        {BYTES("VALUE k 1 2 -3\r\n"), "bad"},
        {BYTES("VALUE k 1 2 x\r\n"), "bad"},
        {BYTES("VALUE k 1 2 \r\n"), "bad"},
        {BYTES("VALUE k 1 2  3\r\n"), "bad"},
        {BYTES("VALUE k 1 2 3 \r\n"), "bad"},
        {BYTES("VALUE k 1 2 3 4\r\n"), "bad"},
        {BYTES("VALUE k 1 2 3\r\r\n"), "bad"},
        {BYTES("VALUE k 1 1073741825 3\r\n"), "bad"},
    };

    for (size_t i = 0; i < ARRAY_LEN(plain); i++) {
        check_reply(OP_GET, plain[i].bytes, plain[i].n, plain[i].means);
        check_reply(OP_GAT, plain[i].bytes, plain[i].n, plain[i].means);
    }
    for (size_t i = 0; i < ARRAY_LEN(with_cas); i++) {
        check_reply(OP_GETS, with_cas[i].bytes, with_cas[i].n, with_cas[i].means);
        check_reply(OP_GATS, with_cas[i].bytes, with_cas[i].n, with_cas[i].means);
    }
}

/* A line of a reply that has no end is given up. */
static void check_endless_replies(void)
{
    static const enum opcode ops[] = {OP_GET, OP_SET, OP_INCR, OP_STATS};
    char *bytes = need(LONG_REPLY_LINE);
    struct text t;

    memset(bytes, 'x', LONG_REPLY_LINE);
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        parse_reply_piece(&t, ops[i], bytes, LONG_REPLY_LINE - 1, 0);
        check(strcmp(t.s, "more") == 0, "%s: a long line is waited for", op_table[ops[i]].name);
        parse_reply_piece(&t, ops[i], bytes, LONG_REPLY_LINE, LONG_REPLY_LINE - 1);
        check(strcmp(t.s, "bad") == 0, "%s: but not for ever", op_table[ops[i]].name);
    }
    free(bytes);
}

/* --- out --- */

static void check_outcome(const struct outcome *outcome, const char *expected, size_t n)
{
    struct spanq out;
    bool ok;

    spanq_init(&out);
    ok = codec->compose_outcome(blank(OP_GET, "k"), outcome, &bufs, &out);
    check(ok && holds(&out, expected, n), "the client gets %s", name_of(expected, n));
    spanq_clear(&out, &bufs);

    if (!spanq_copy(&out, &bufs, "before", 6))
        abort();
    ok = codec->compose_outcome(blank(OP_GET, "k"), outcome, &bufs, &out);
    spanq_drop(&out, &bufs, 6);
    check(ok && holds(&out, expected, n), "behind what was there");
    spanq_clear(&out, &bufs);
}

static void check_outcomes(void)
{
    static const struct {
        enum result result;
        const char *message;
        const char *expected;
    } cases[] = {
        {RESULT_END, NULL, "END\r\n"},
        {RESULT_STORED, NULL, "STORED\r\n"},
        {RESULT_NOT_STORED, NULL, "NOT_STORED\r\n"},
        {RESULT_EXISTS, NULL, "EXISTS\r\n"},
        {RESULT_NOT_FOUND, NULL, "NOT_FOUND\r\n"},
        {RESULT_DELETED, NULL, "DELETED\r\n"},
        {RESULT_TOUCHED, NULL, "TOUCHED\r\n"},
        {RESULT_OK, NULL, "OK\r\n"},
        {RESULT_RESET, NULL, "RESET\r\n"},
        {RESULT_TOLD, "1.6.0 moxi", "VERSION 1.6.0 moxi\r\n"},
        {RESULT_WRITE_FAILED, "h:1", "SERVER_ERROR proxy write to downstream h:1\r\n"},
        {RESULT_CLOSED, "h:1", "SERVER_ERROR proxy downstream closed h:1\r\n"},
        {RESULT_TIMEOUT, "[::1]:2", "SERVER_ERROR proxy downstream timeout [::1]:2\r\n"},
        {RESULT_QUEUE_FULL, "h:1", "SERVER_ERROR proxy out of downstreams\r\n"},
        {RESULT_WAITED, NULL, "SERVER_ERROR proxy wait queue timeout\r\n"},
        {RESULT_NO_MEMORY, NULL, "SERVER_ERROR out of memory\r\n"},
        {RESULT_REFUSED, "CLIENT_ERROR bad data chunk", "CLIENT_ERROR bad data chunk\r\n"},
        {RESULT_REFUSED, "", "\r\n"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct outcome outcome = {.result = cases[i].result, .message = cases[i].message};

        check_outcome(&outcome, cases[i].expected, strlen(cases[i].expected));
    }
}

/* What a server has written is handed on as it is. */
static void check_relayed(void)
{
    static const struct sample cases[] = {
        {BYTES("STORED\r\n"), ""}, {BYTES("9   \r\n"), ""}, {BYTES("SERVER_ERROR \x80\0 x\r\n"), ""}};
    static const enum result results[] = {RESULT_STORED, RESULT_NUMBER, RESULT_ERROR};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct outcome outcome = {.result = results[i],
                                  .message = "not this",
                                  .text = (const uint8_t *)cases[i].bytes,
                                  .text_len = cases[i].n};

        check_outcome(&outcome, cases[i].bytes, cases[i].n);
    }
}

/* Without memory for an outcome, the queue is as it was, wherever its last chunk ends. */
static void check_outcome_no_memory(void)
{
    static const struct outcome cases[] = {
        {.result = RESULT_CLOSED, .message = "host:11211"},
        {.result = RESULT_STORED},
        {.result = RESULT_ERROR, .text = (const uint8_t *)"ERROR\r\n", .text_len = 7},
    };
    uint8_t before[CHUNK_SMALL];

    memset(before, 'b', sizeof(before));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        unsigned failures = 0, bad = 0;

        for (size_t n = CHUNK_SMALL - 80; n <= CHUNK_SMALL; n++) {
            struct bufpool pool;
            struct spanq out;

            bufpool_setup(&pool);
            spanq_init(&out);
            if (!spanq_copy(&out, &pool, before, n))
                abort();
            mallocs_left = 0;
            if (!codec->compose_outcome(blank(OP_GET, "k"), &cases[i], &pool, &out)) {
                failures++;
                bad += !holds(&out, before, n);
            }
            mallocs_left = SIZE_MAX;
            spanq_clear(&out, &pool);
            bad += pool.chunk_bytes != 0;
            bufpool_teardown(&pool);
        }
        check(failures > 0 && bad == 0, "no memory for the end of a reply (%u times): the rest is as it was", failures);
    }
}

int main(void)
{
    bufpool_setup(&bufs);
    check_reply_lines();
    check_error_replies();
    check_value_heads();
    check_endless_replies();
    check_outcomes();
    check_relayed();
    check_outcome_no_memory();
    bufpool_teardown(&bufs);
    return tap_end();
}
