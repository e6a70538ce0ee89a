/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_codec_requests - the text protocol (cproxy_protocol_a.c): requests, in and out.
 *
 * What a parser finds is written down as a line of words, so that a test is a pair of texts: the bytes, and what they
 * mean. Each test is run on all of its bytes and cut at every place, as the network may cut it, in an allocation that
 * ends where they end.
 */
#include "codec_tests.h"

enum {
    OUT_MAX = 2 * 1024 * 1024,
    MANY_KEYS = 10000,
    LONG_LINE = 2048, /* a command that is no retrieval may be refused when it is longer */
};

static struct key_list keys;

/* --- in --- */

static void say_keys(struct text *t, const struct command *cmd)
{
    if (cmd->num_keys <= 1) {
        say(t, " ");
        say_bytes(t, cmd->key, cmd->key_len);
        return;
    }
    for (uint32_t i = 0; i < cmd->num_keys; i++) {
        say(t, " ");
        say_bytes(t, keys.v[i].p, keys.v[i].len);
        if (keys.v[i].next != (i + 1 < cmd->num_keys ? i + 1 : RKEY_END))
            say(t, " (then %u)", keys.v[i].next);
    }
    if (keys.n != cmd->num_keys || cmd->key != keys.v[0].p || cmd->key_len != keys.v[0].len)
        say(t, " (but the list has %u)", keys.n);
}

/* "ok OPCODE KEY… ^FLAGS @EXPTIME #NUMBER +BODY,TAIL noreply delay hangup -> what is answered", what is 0 left out. */
static void say_command(struct text *t, enum parse_status status, const struct command *cmd)
{
    static const char *const statuses[] = {
        [PARSE_OK] = "ok", [PARSE_MORE] = "more", [PARSE_BAD] = "bad", [PARSE_NO_MEMORY] = "no memory"};

    say(t, "%s", statuses[status]);
    if (status == PARSE_MORE || status == PARSE_NO_MEMORY)
        return;
    if (status == PARSE_OK)
        say(t, " %s", op_table[cmd->op].name);
    else if (cmd->op != OP_REFUSED)
        say(t, " but %s", op_table[cmd->op].name);
    if (status == PARSE_OK && (cmd->num_keys > 0 || cmd->key_len > 0))
        say_keys(t, cmd);
    if (status == PARSE_OK && cmd->flags != 0)
        say(t, " ^%u", cmd->flags);
    if (status == PARSE_OK && cmd->exptime != 0)
        say(t, " @%lld", (long long)cmd->exptime);
    if (status == PARSE_OK && cmd->number != 0)
        say(t, " #%llu", (unsigned long long)cmd->number);
    if (cmd->body_len > 0 || cmd->body_tail > 0)
        say(t, " +%zu,%zu", cmd->body_len, cmd->body_tail);
    say(t, "%s%s%s", cmd->noreply ? " noreply" : "", cmd->has_exptime && status == PARSE_OK ? " delay" : "",
        cmd->hangup ? " hangup" : "");
    if (cmd->error != NULL)
        say(t, " -> %s", cmd->error);
}

#define BAD_FORMAT "CLIENT_ERROR bad command line format"
#define BAD_EXPTIME "CLIENT_ERROR invalid exptime argument"
#define BAD_DELTA "CLIENT_ERROR invalid numeric delta argument"
#define BAD_DELETE "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]"

static const struct sample samples[] = {
    /* retrievals */
    {BYTES("get k\r\n"), "ok get k"},
    {BYTES("get k\n"), "ok get k"},
    {BYTES("gets k\r\n"), "ok gets k"},
    {BYTES("  get   k  \r\n"), "ok get k"},
    {BYTES("get   k  \r\n"), "ok get k"},
    {BYTES("get a b\r\n"), "ok get a b"},
    {BYTES("gets a  bb   ccc \r\n"), "ok gets a bb ccc"},
    {BYTES("get a a a\r\n"), "ok get a a a"},
    {BYTES("get noreply\r\n"), "ok get noreply"},
    {BYTES("get k noreply\r\n"), "ok get k noreply"},
    {BYTES("get \x01\t\x7f\xff\r\n"), "ok get \\x01\\x09\\x7f\\xff"},
    {BYTES("get a\rb\r\n"), "ok get a\\rb"},
    {BYTES("get a\r\r\n"), "ok get a\\r"},
    {BYTES("get " KEY_250 "\r\n"), "ok get k*250"},
    {BYTES("get " KEY_250 "k\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("get a " KEY_250 " b\r\n"), "ok get a k*250 b"},
    {BYTES("get a " KEY_250 "k b\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("gets a b " KEY_250 "k\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("get\r\n"), "bad -> ERROR"},
    {BYTES("get \r\n"), "bad -> ERROR"},
    {BYTES("gets     \n"), "bad -> ERROR"},
    {BYTES("gat 0 k\r\n"), "ok gat k"},
    {BYTES("gat 60 a b\r\n"), "ok gat a b @60"},
    {BYTES("gats -1 a\r\n"), "ok gats a @-1"},
    {BYTES("gats +5 a b\r\n"), "ok gats a b @5"},
    {BYTES("gat 2147483647 k\r\n"), "ok gat k @2147483647"},
    {BYTES("gat -2147483648 k\r\n"), "ok gat k @-2147483648"},
    {BYTES("gat 9223372036854775807 k\r\n"), "ok gat k @-1"},
    {BYTES("gat -9223372036854775808 k\r\n"), "ok gat k"},
    {BYTES("gat 9223372036854775808 k\r\n"), "bad -> " BAD_EXPTIME},
    {BYTES("gat -9223372036854775809 k\r\n"), "bad -> " BAD_EXPTIME},
    {BYTES("gat k 60\r\n"), "bad -> " BAD_EXPTIME},
    {BYTES("gat 60\r\n"), "bad -> END"},
    {BYTES("gats x\r\n"), "bad -> " BAD_EXPTIME},
    {BYTES("gats\r\n"), "bad -> ERROR"},
    {BYTES("gat 1 " KEY_250 "\r\n"), "ok gat k*250 @1"},
    {BYTES("gat 1 " KEY_250 "k\r\n"), "bad -> " BAD_FORMAT},
    /* storing */
    {BYTES("set k 0 0 5\r\n"), "ok set k +5,2"},
    {BYTES("set k 0 0 0\r\n"), "ok set k +0,2"},
    {BYTES("add k 1 2 3\r\n"), "ok add k ^1 @2 +3,2"},
    {BYTES("replace k 1 2 3 noreply\r\n"), "ok replace k ^1 @2 +3,2 noreply"},
    {BYTES("append k 1 2 3\n"), "ok append k ^1 @2 +3,2"},
    {BYTES("prepend  k  1  2  3  \r\n"), "ok prepend k ^1 @2 +3,2"},
    {BYTES("set noreply 0 0 1\r\n"), "ok set noreply +1,2"},
    {BYTES("set k 0 0 1 NOREPLY\r\n"), "ok set k +1,2"},
    {BYTES("set k 4294967295 2147483647 2147483645\r\n"), "ok set k ^4294967295 @2147483647 +2147483645,2"},
    {BYTES("set k +1 +2 +3\r\n"), "ok set k ^1 @2 +3,2"},
    {BYTES("set k 007 -01 010\r\n"), "ok set k ^7 @-1 +10,2"},
    {BYTES("set k 4294967296 0 1\r\n"), "bad +1,2 -> " BAD_FORMAT},
    {BYTES("set k 18446744073709551616 0 1\r\n"), "bad +1,2 -> " BAD_FORMAT},
    {BYTES("set k -1 0 1\r\n"), "bad +1,2 -> " BAD_FORMAT},
    {BYTES("set k x 0 1\r\n"), "bad +1,2 -> " BAD_FORMAT},
    {BYTES("set k 1x 0 1 noreply\r\n"), "bad +1,2 noreply -> " BAD_FORMAT},
    {BYTES("set k 0 9223372036854775807 1\r\n"), "ok set k @-1 +1,2"},
    {BYTES("set k 0 9223372036854775808 1\r\n"), "bad +1,2 -> " BAD_FORMAT},
    {BYTES("set k 0 -9223372036854775808 1\r\n"), "ok set k +1,2"},
    {BYTES("set k 0 -9223372036854775809 1\r\n"), "bad +1,2 -> " BAD_FORMAT},
    {BYTES("set k 0 + 1\r\n"), "bad +1,2 -> " BAD_FORMAT},
    {BYTES("set k 0 - 1\r\n"), "bad +1,2 -> " BAD_FORMAT},
    {BYTES("set k 0 +-1 1\r\n"), "bad +1,2 -> " BAD_FORMAT},
    {BYTES("set k ++1 0 1\r\n"), "bad +1,2 -> " BAD_FORMAT},
    {BYTES("set k 0 0 -1\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("set k 0 0 2147483646\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("set k 0 0 4294967297\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("set k 0 0 18446744073709551617\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("set k 0 0 one\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("set k 0 0 1.5\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("set k 0 0 0x5\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("set " KEY_250 " 0 0 1\r\n"), "ok set k*250 +1,2"},
    {BYTES("set " KEY_250 "k 0 0 1\r\n"), "bad +1,2 -> " BAD_FORMAT},
    {BYTES("set k 0 0\r\n"), "bad -> ERROR"},
    {BYTES("set k\r\n"), "bad -> ERROR"},
    {BYTES("set\r\n"), "bad -> ERROR"},
    {BYTES("set k 0 0 1 2 noreply\r\n"), "bad -> ERROR"},
    {BYTES("cas k 1 2 3 4\r\n"), "ok cas k ^1 @2 #4 +3,2"},
    {BYTES("cas k 1 2 3 18446744073709551615 noreply\r\n"), "ok cas k ^1 @2 #18446744073709551615 +3,2 noreply"},
    {BYTES("cas k 1 2 3 18446744073709551616\r\n"), "bad +3,2 -> " BAD_FORMAT},
    {BYTES("cas k 1 2 3 -4\r\n"), "bad +3,2 -> " BAD_FORMAT},
    {BYTES("cas k 1 2 3 x\r\n"), "bad +3,2 -> " BAD_FORMAT},
    {BYTES("cas k 1 2 -3 4\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("cas k 1 2 3\r\n"), "bad -> ERROR"},
    {BYTES("cas k 1 2 3 4 5 6\r\n"), "bad -> ERROR"},
    /* counters */
    {BYTES("incr k 1\r\n"), "ok incr k #1"},
    {BYTES("decr k 18446744073709551615\r\n"), "ok decr k #18446744073709551615"},
    {BYTES("incr k 0 noreply\r\n"), "ok incr k noreply"},
    {BYTES("incr k +7\r\n"), "ok incr k #7"},
    {BYTES("incr k 18446744073709551616\r\n"), "bad -> " BAD_DELTA},
    {BYTES("decr k -1\r\n"), "bad -> " BAD_DELTA},
    {BYTES("decr k 1x noreply\r\n"), "bad noreply -> " BAD_DELTA},
    {BYTES("incr " KEY_250 " 1\r\n"), "ok incr k*250 #1"},
    {BYTES("incr " KEY_250 "k 1\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("incr k\r\n"), "bad -> ERROR"},
    {BYTES("decr\r\n"), "bad -> ERROR"},
    {BYTES("incr k 1 2 3\r\n"), "bad -> ERROR"},
    /* touch, delete */
    {BYTES("touch k 10\r\n"), "ok touch k @10"},
    {BYTES("touch k -1 noreply\r\n"), "ok touch k @-1 noreply"},
    {BYTES("touch k 2147483648\r\n"), "ok touch k @-2147483648"},
    {BYTES("touch k 9223372036854775808\r\n"), "bad -> " BAD_EXPTIME},
    {BYTES("touch k soon\r\n"), "bad -> " BAD_EXPTIME},
    {BYTES("touch " KEY_250 "k 1\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("touch k\r\n"), "bad -> ERROR"},
    {BYTES("touch k 1 2 3\r\n"), "bad -> ERROR"},
    {BYTES("delete k\r\n"), "ok delete k"},
    {BYTES("delete k noreply\r\n"), "ok delete k noreply"},
    {BYTES("delete k 0\r\n"), "ok delete k"},
    {BYTES("delete k 0 noreply\r\n"), "ok delete k noreply"},
    {BYTES("delete noreply\r\n"), "ok delete noreply"},
    {BYTES("delete k 1\r\n"), "bad -> " BAD_DELETE},
    {BYTES("delete k 00\r\n"), "bad -> " BAD_DELETE},
    {BYTES("delete k 0 0\r\n"), "bad -> " BAD_DELETE},
    {BYTES("delete k 1 noreply\r\n"), "bad noreply -> " BAD_DELETE},
    {BYTES("delete " KEY_250 "\r\n"), "ok delete k*250"},
    {BYTES("delete " KEY_250 "k\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("delete\r\n"), "bad -> ERROR"},
    {BYTES("delete k 0 noreply 1\r\n"), "bad -> ERROR"},
    /* for everyone, and for moxi itself */
    {BYTES("flush_all\r\n"), "ok flush_all"},
    {BYTES("flush_all noreply\r\n"), "ok flush_all noreply"},
    {BYTES("flush_all 0\r\n"), "ok flush_all delay"},
    {BYTES("flush_all 10 noreply\r\n"), "ok flush_all @10 noreply delay"},
    {BYTES("flush_all -1\r\n"), "ok flush_all @-1 delay"},
    {BYTES("flush_all 9223372036854775808\r\n"), "bad -> " BAD_EXPTIME},
    {BYTES("flush_all now\r\n"), "bad -> " BAD_EXPTIME},
    {BYTES("flush_all 1 2 3\r\n"), "bad -> ERROR"},
    {BYTES("stats\r\n"), "ok stats"},
    {BYTES("stats  \r\n"), "ok stats"},
    {BYTES("stats reset\r\n"), "ok stats reset"},
    {BYTES("stats  proxy  all\r\n"), "ok stats proxy  all"},
    {BYTES("stats cachedump 1 100\n"), "ok stats cachedump 1 100"},
    {BYTES("stats " KEY_250 "\r\n"), "ok stats k*250"},
    {BYTES("stats " KEY_250 "k\r\n"), "bad -> CLIENT_ERROR line too long"},
    {BYTES("version\r\n"), "ok version"},
    {BYTES("version 1 2 3\n"), "ok version"},
    {BYTES("verbosity 2\r\n"), "ok verbosity @2"},
    {BYTES("verbosity 4294967295 noreply\r\n"), "ok verbosity @4294967295 noreply"},
    {BYTES("verbosity 4294967296\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("verbosity loud\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("verbosity\r\n"), "bad -> ERROR"},
    {BYTES("verbosity 1 2 3\r\n"), "bad -> ERROR"},
    {BYTES("quit\r\n"), "ok quit"},
    {BYTES("quit now\n"), "ok quit"},
    {BYTES("shutdown\r\n"), "ok shutdown"},
    {BYTES("shutdown  graceful \r\n"), "ok shutdown graceful "},
    {BYTES("lru_crawler metadump all\r\n"), "ok lru_crawler metadump all"},
    {BYTES("lru_crawler\r\n"), "ok lru_crawler"},
    {BYTES("watch\r\n"), "ok watch"},
    {BYTES("watch fetchers  mutations\n"), "ok watch fetchers  mutations"},
    {BYTES("watch fetchers noreply\r\n"), "ok watch fetchers noreply noreply"},
    {BYTES("cache_memlimit\r\n"), "bad -> ERROR"},
    {BYTES("cache_memlimit 100\r\n"), "ok cache_memlimit #100"},
    {BYTES("cache_memlimit 100 noreply\r\n"), "ok cache_memlimit #100 noreply"},
    {BYTES("cache_memlimit x\r\n"), "bad -> ERROR"},
    {BYTES("cache_memlimit 1 noreply 2\r\n"), "bad -> ERROR"},
    /* no commands */
    {BYTES("\r\n"), "bad -> ERROR"},
    {BYTES("\n"), "bad -> ERROR"},
    {BYTES("   \r\n"), "bad -> ERROR"},
    {BYTES("\r\r\n"), "bad -> ERROR"},
    {BYTES("ge k\r\n"), "bad -> ERROR"},
    {BYTES("getx k\r\n"), "bad -> ERROR"},
    {BYTES("GET k\r\n"), "bad -> ERROR"},
    {BYTES("get\tk\r\n"), "bad -> ERROR"},
    {BYTES("error\r\n"), "bad -> ERROR"},
    {BYTES("mg k v\r\n"), "bad -> ERROR"},
    {BYTES("slabs automove 1\r\n"), "bad -> ERROR"},
    {BYTES("slabs automove x\r\n"), "bad -> " BAD_FORMAT},
    {BYTES("slabs reassign x\r\n"), "bad -> ERROR"},
    {BYTES("a b c d e f g h i j k l m n o p q r s t u v w x y z\r\n"), "bad -> ERROR"},
    {BYTES("\x80\x00\x00\x03\n"), "bad -> ERROR"},
    {BYTES("GET / HTTP/1.0\r\n"), "bad hangup"},
    {BYTES("POST /x?y HTTP/1.1\r\n"), "bad hangup"},
    {BYTES("HTTP/1.1\r\n"), "bad -> ERROR"},
    {BYTES("GET / HTTP\r\n"), "bad -> ERROR"},
    {BYTES("get HTTP/1.1\r\n"), "ok get HTTP/1.1"},
    /* a NUL ends a command, as in memcached */
    {BYTES("\0\r\n"), "bad -> ERROR"},
    {BYTES("get a\0b c\r\n"), "ok get a"},
    {BYTES("get a b\0\r\n"), "ok get a b"},
    {BYTES("get\0k\r\n"), "bad -> ERROR"},
    {BYTES("get \0k\r\n"), "bad -> ERROR"},
    {BYTES("set k 0 0 1\0 noreply\r\n"), "ok set k +1,2"},
    {BYTES("delete k\0\0\0\n"), "ok delete k"},
};

/* What is found in the first n of the bytes, of which `seen` were looked at before. */
static void parse_piece(struct text *t, const char *bytes, size_t n, size_t seen)
{
    uint8_t *p = copy_of(bytes, n);
    struct command cmd;
    enum parse_status status;

    memset(&cmd, 0xa5, sizeof(cmd));
    status = codec->parse_request(p, n, seen, &keys, &cmd);
    t->n = 0;
    say_command(t, status, &cmd);
    if (status != PARSE_MORE && cmd.consumed != (size_t)((uint8_t *)memchr(p, '\n', n) - p) + 1)
        say(t, " (took %zu)", cmd.consumed);
    free(p);
}

/* Whether the bytes mean that, whole and in two pieces. */
static bool is_command(const struct sample *c)
{
    struct text t;
    bool ok;

    parse_piece(&t, c->bytes, c->n, 0);
    ok = strcmp(t.s, c->means) == 0;
    for (size_t n = 0; ok && n < c->n; n++) {
        parse_piece(&t, c->bytes, n, n > 0 ? n - 1 : 0);
        ok = strcmp(t.s, "more") == 0;
        if (ok) {
            parse_piece(&t, c->bytes, c->n, n);
            ok = strcmp(t.s, c->means) == 0;
        }
        if (!ok)
            printf("# cut at %zu\n", n);
    }
    if (!ok)
        printf("# not: %s\n", t.s);
    return ok;
}

/* A command is found alone, whatever comes behind it. */
static void check_following(void)
{
    static const char rest[] = "get x\r\n\r\n\n\0set";
    unsigned bad = 0;

    for (size_t i = 0; i < ARRAY_LEN(samples); i++) {
        const struct sample *c = &samples[i];
        size_t n = c->n + sizeof(rest);
        char *both = need(n);
        struct text t;

        memcpy(both, c->bytes, c->n);
        memcpy(both + c->n, rest, sizeof(rest));
        parse_piece(&t, both, n, 0);
        bad += strcmp(t.s, c->means) != 0;
        free(both);
    }
    check(bad == 0, "the same with something behind each");
}

/* A line of n bytes without an end: a prefix, then many of one byte. */
static enum parse_status parse_endless(const char *prefix, char fill, size_t n, struct command *cmd)
{
    uint8_t *p = need(n);
    enum parse_status status;

    memcpy(p, prefix, strlen(prefix));
    memset(p + strlen(prefix), fill, n - strlen(prefix));
    status = codec->parse_request(p, n, 0, &keys, cmd);
    free(p);
    return status;
}

static void check_endless(void)
{
    static const char *const retrievals[] = {"get ", "gets ", "gat ", "gats ", "  get a "};
    static const char *const others[] = {"", " ", "set ", "getx ", "stats ", "delete "};
    struct command cmd;

    for (size_t i = 0; i < ARRAY_LEN(retrievals); i++)
        check(parse_endless(retrievals[i], 'k', 1000000, &cmd) == PARSE_MORE, "\"%s\" may go on", retrievals[i]);
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        check(parse_endless(others[i], 'k', LONG_LINE, &cmd) == PARSE_MORE, "\"%s\" may go on for a while", others[i]);
        check(parse_endless(others[i], 'k', LONG_LINE + 1, &cmd) == PARSE_BAD && cmd.hangup && cmd.error != NULL &&
                  cmd.consumed == LONG_LINE + 1 && cmd.body_len == 0,
              "but not for ever");
    }
    check(parse_endless("", ' ', LONG_LINE + 1, &cmd) == PARSE_BAD && cmd.hangup, "nor blanks");
    check(parse_endless("", '\0', LONG_LINE + 1, &cmd) == PARSE_BAD && cmd.hangup, "nor NULs");
}

/* Unfinished lines that can never become a command, and such that can. */
static void check_hopeless(void)
{
    static const struct {
        const char *bytes;
        size_t n;
        bool hopeless;
    } cases[] = {
        {BYTES(""), false},           {BYTES("   "), false},
        {BYTES("bogus"), false},      {BYTES("bogus "), true},
        {BYTES("  bogus x"), true},   {BYTES("get "), false},
        {BYTES("gets a b"), false},   {BYTES("getx a"), true},
        {BYTES("GET / HTTP"), false}, {BYTES("POST /"), false},
        {BYTES("Get /"), true},       {BYTES("set k 0"), false},
        {BYTES("mg k v"), true},      {BYTES("\x80\x01 "), true},
        {BYTES("quit now"), false},   {BYTES("version\0 a"), false},
        {BYTES("shutdown "), false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint8_t *p = copy_of(cases[i].bytes, cases[i].n);

        check(codec->is_hopeless(p, cases[i].n) == cases[i].hopeless, "\"%s\" is%s hopeless",
              name_of(cases[i].bytes, cases[i].n), cases[i].hopeless ? "" : " not");
        free(p);
    }
}

/* Whether some part of a good command, or of one with a value to be skipped, is said to be hopeless. */
static void check_hopeful(void)
{
    unsigned bad = 0;

    for (size_t i = 0; i < ARRAY_LEN(samples); i++) {
        const struct sample *c = &samples[i];

        for (size_t n = 0; n < c->n && (strncmp(c->means, "ok", 2) == 0 || strchr(c->means, '+') != NULL); n++)
            bad += codec->is_hopeless((const uint8_t *)c->bytes, n);
    }
    check(bad == 0, "no part of a good command is hopeless");
}

/* A get of many keys "key0 key1 …" in one line. The caller frees it. */
static uint8_t *many_keys(uint32_t count, size_t *n)
{
    uint8_t *line = need(16 * (size_t)count + 8);
    size_t len = 3;

    memcpy(line, "get", 3);
    for (uint32_t i = 0; i < count; i++)
        len += (size_t)sprintf((char *)line + len, " key%u", i);
    memcpy(line + len, "\r\n", 2);
    *n = len + 2;
    return line;
}

static void check_many_keys(void)
{
    struct command cmd;
    size_t n;
    uint8_t *line = many_keys(MANY_KEYS, &n);
    bool ok = codec->parse_request(line, n, 0, &keys, &cmd) == PARSE_OK;
    char key[16];
    unsigned bad = 0;

    check(ok && cmd.num_keys == MANY_KEYS && keys.n == MANY_KEYS && cmd.consumed == n, "a get of %d keys", MANY_KEYS);
    for (uint32_t i = 0; ok && i < MANY_KEYS; i++) {
        int len = sprintf(key, "key%u", i);

        bad += keys.v[i].len != (uint32_t)len || memcmp(keys.v[i].p, key, (size_t)len) != 0;
    }
    check(bad == 0, "each is there");
    check(codec->parse_request((const uint8_t *)"get a b\r\n", 9, 0, &keys, &cmd) == PARSE_OK && keys.n == 2,
          "the list begins anew with the next");
    free(line);
}

static void check_no_memory_for_keys(void)
{
    struct key_list fresh = {0};
    struct command cmd;
    enum parse_status status;
    size_t n, failures = 0;
    uint8_t *line = many_keys(1000, &n);

    mallocs_left = 0;
    check(codec->parse_request((const uint8_t *)"get a\r\n", 7, 0, &fresh, &cmd) == PARSE_OK, "one key needs no list");
    do {
        mallocs_left = failures;
        status = codec->parse_request(line, n, 0, &fresh, &cmd);
        mallocs_left = SIZE_MAX;
        if (status == PARSE_OK)
            break;
        check(status == PARSE_NO_MEMORY, "no memory for the list of keys, at allocation %zu", ++failures);
        free(fresh.v);
        fresh = (struct key_list){0};
    } while (failures < 100);
    check(status == PARSE_OK && cmd.num_keys == 1000 && failures > 1, "with memory it is good");
    free(fresh.v);
    free(line);
}

static void check_tails(void)
{
    static const struct {
        const char *bytes;
        size_t n;
        bool good;
    } cases[] = {
        {BYTES("\r\n"), true}, {BYTES("\n\r"), false}, {BYTES("\n\n"), false}, {BYTES("\r\r"), false},
        {BYTES("ab"), false},  {BYTES("a\n"), false},  {BYTES("\ra"), false},  {BYTES("\n"), false},
        {BYTES("\r"), false},  {BYTES(""), false},     {BYTES("\0\0"), false},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint8_t *p = copy_of(cases[i].bytes, cases[i].n);

        check(codec->check_tail(p, cases[i].n) == cases[i].good, "\"%s\" is %s tail",
              name_of(cases[i].bytes, cases[i].n), cases[i].good ? "a" : "no");
        free(p);
    }
}

/* --- out --- */

static void set_value(struct request *r, const char *value)
{
    size_t n = strlen(value);

    memcpy(r->inl + r->inl_used, value, n);
    r->inl_used += n;
    r->inl_value_len = n;
}

static void check_composed(const struct request *r, const char *expected, size_t n, const char *what)
{
    struct spanq out;

    spanq_init(&out);
    if (!spanq_copy(&out, &bufs, "before\r\n", 8))
        abort();
    check(codec->compose_request(r, &bufs, &out), "%s is composed", what);
    spanq_drop(&out, &bufs, 8);
    check(holds(&out, expected, n), "%s: %s", what, name_of(expected, n < 200 ? n : 200));
    spanq_clear(&out, &bufs);
    check(r->value.bytes > 0 || bufs.chunk_bytes == 0, "%s: nothing is left", what);
}

static void check_compose_stores(void)
{
    static const enum opcode ops[] = {OP_SET, OP_ADD, OP_REPLACE, OP_APPEND, OP_PREPEND};
    struct request *r;
    char expected[400];

    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        int n = sprintf(expected, "%s key 7 -1 5\r\nvalue\r\n", op_table[ops[i]].name);

        r = blank(ops[i], "key");
        r->flags = 7;
        r->exptime = -1;
        r->noreply = true;
        r->number = 99;
        set_value(r, "value");
        check_composed(r, expected, (size_t)n, op_table[ops[i]].name);
    }
    r = blank(OP_CAS, "key");
    r->flags = UINT32_MAX;
    r->exptime = INT64_MIN;
    r->number = UINT64_MAX;
    set_value(r, "v");
    check_composed(r, BYTES("cas key 4294967295 -9223372036854775808 1 18446744073709551615\r\nv\r\n"), "cas");
    check_composed(blank(OP_SET, "k"), BYTES("set k 0 0 0\r\n\r\n"), "set of nothing");
    r = blank(OP_SET, KEY_250);
    r->exptime = INT64_MAX;
    check_composed(r, BYTES("set " KEY_250 " 0 9223372036854775807 0\r\n\r\n"), "set with the longest key");
    r = blank(OP_SET, "k");
    memset(r->inl + r->inl_used, 'v', sizeof(r->inl) - r->inl_used);
    r->inl_value_len = sizeof(r->inl) - r->inl_used;
    r->inl_used = sizeof(r->inl);
    memset(expected, 'v', sizeof(expected));
    memcpy(expected, "set k 0 0 303\r\n", 15);
    memcpy(expected + 15 + 303, "\r\n", 2);
    check_composed(r, expected, 15 + 303 + 2, "set with the largest inline value");
}

/* Values that are not inline: copied when small, referenced when large. */
static void check_compose_values(void)
{
    static const size_t sizes[] = {1, 1000, COPY_MAX, COPY_MAX + 1, 100000, 1024 * 1024};
    char *expected = need(OUT_MAX);

    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct chunk *chunk = chunk_alloc(&bufs, sizes[i]);
        struct request *r = blank(OP_SET, "key");
        size_t n = (size_t)sprintf(expected, "set key 0 0 %zu\r\n", sizes[i]);

        if (chunk == NULL)
            abort();
        chunk->used = sizes[i];
        memset(chunk->data, 'a' + (int)i, sizes[i]);
        memcpy(expected + n, chunk->data, sizes[i]);
        memcpy(expected + n + sizes[i], "\r\n", 2);
        if (!spanq_refer(&r->value, &bufs, chunk, chunk->data, sizes[i]))
            abort();
        check_composed(r, expected, n + sizes[i] + 2, "set of a value in a chunk");
        check(chunk->refs == 2 && r->value.bytes == sizes[i], "and the request still has it");
        spanq_clear(&r->value, &bufs);
        chunk_unref(chunk);
    }
    free(expected);
}

static void check_compose_lines(void)
{
    struct request *r;

    r = blank(OP_INCR, "k");
    r->number = UINT64_MAX;
    check_composed(r, BYTES("incr k 18446744073709551615\r\n"), "incr");
    check_composed(blank(OP_DECR, "k"), BYTES("decr k 0\r\n"), "decr");
    r = blank(OP_TOUCH, "k");
    r->exptime = -5;
    r->noreply = true;
    check_composed(r, BYTES("touch k -5\r\n"), "touch");
    check_composed(blank(OP_TOUCH, KEY_250), BYTES("touch " KEY_250 " 0\r\n"), "touch of now");
    check_composed(blank(OP_DELETE, "k"), BYTES("delete k\r\n"), "delete");
    check_composed(blank(OP_FLUSH_ALL, NULL), BYTES("flush_all\r\n"), "flush_all");
    r = blank(OP_FLUSH_ALL, NULL);
    r->has_exptime = true;
    r->noreply = true;
    check_composed(r, BYTES("flush_all 0\r\n"), "flush_all with a delay of 0");
    r->exptime = 30;
    check_composed(r, BYTES("flush_all 30\r\n"), "flush_all with a delay");
    check_composed(blank(OP_VERSION, NULL), BYTES("version\r\n"), "version");
    check_composed(blank(OP_STATS, NULL), BYTES("stats\r\n"), "stats");
    r = blank(OP_STATS, NULL);
    r->arg = (const uint8_t *)"cachedump 1 2";
    r->arg_len = 13;
    check_composed(r, BYTES("stats cachedump 1 2\r\n"), "stats with an argument");
}

static void check_compose_gets(void)
{
    static struct rkey list[] = {{.p = (const uint8_t *)"zero", .len = 4, .next = 2},
                                 {.p = (const uint8_t *)"one", .len = 3, .next = 3},
                                 {.p = (const uint8_t *)"two", .len = 3, .next = RKEY_END},
                                 {.p = (const uint8_t *)"three", .len = 5, .next = RKEY_END}};
    struct request *r;

    check_composed(blank(OP_GET, "k"), BYTES("get k\r\n"), "get");
    check_composed(blank(OP_GETS, KEY_250), BYTES("gets " KEY_250 "\r\n"), "gets");
    r = blank(OP_GAT, "k");
    r->exptime = -2147483648LL;
    check_composed(r, BYTES("gat -2147483648 k\r\n"), "gat");
    r = blank(OP_GATS, NULL);
    r->exptime = 60;
    r->keys = list;
    r->num_keys = 2;
    r->first = 0;
    check_composed(r, BYTES("gats 60 zero two\r\n"), "gats of some of the keys");
    r->op = OP_GET;
    r->first = 1;
    check_composed(r, BYTES("get one three\r\n"), "get of the others");
}

/* A line that others join, until its piece of the queue is full: then it is as it was. */
static void check_compose_more(void)
{
    struct spanq out;
    size_t n = 0;

    spanq_init(&out);
    check(!codec->compose_more(blank(OP_GET, "k"), &out), "nothing can be joined when there is nothing");
    check(codec->compose_request(blank(OP_GETS, "k"), &bufs, &out) && codec->compose_more(blank(OP_GETS, "jj"), &out),
          "a key joins a line");
    check(holds(&out, BYTES("gets k jj\r\n")), "behind the other");
    check(codec->compose_more(blank(OP_GETS, "i"), &out) && holds(&out, BYTES("gets k jj i\r\n")), "and one more");
    while (codec->compose_more(blank(OP_GETS, KEY_250), &out))
        n++;
    check(n > 0 && out.bytes == strlen("gets k jj i\r\n") + n * (KEY_MAX + 1), "until there is no room (%zu)", n);
    check(out.head == out.tail && memcmp(out.tail->p + out.bytes - 3, "k\r\n", 3) == 0, "the line has its end");
    spanq_clear(&out, &bufs);
}

/* Lines that are longer than a chunk. */
static void check_compose_many(void)
{
    static const size_t lens[] = {1, 30, KEY_MAX};
    struct rkey *list = need(MANY_KEYS * sizeof(*list));
    uint8_t *expected = need(MANY_KEYS * (KEY_MAX + 1) + 16), key[KEY_MAX];

    memset(key, 'k', sizeof(key));
    for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
        struct request *r = blank(OP_GETS, NULL);
        size_t n = 4;

        memcpy(expected, "gets", 4);
        for (uint32_t j = 0; j < MANY_KEYS; j++) {
            list[j] = (struct rkey){.p = key, .len = (uint16_t)lens[i], .next = j + 1 < MANY_KEYS ? j + 1 : RKEY_END};
            expected[n] = ' ';
            memcpy(expected + n + 1, key, lens[i]);
            n += lens[i] + 1;
        }
        memcpy(expected + n, "\r\n", 2);
        r->keys = list;
        r->num_keys = MANY_KEYS;
        check_composed(r, (char *)expected, n + 2, "a gets of many keys");
    }
    free(list);
    free(expected);
}

/* Composes a large request of that opcode with memory for n allocations. Returns whether it succeeded. */
static bool compose_with(enum opcode op, struct rkey *list, uint32_t count, size_t n)
{
    struct request *r = blank(op, "key");
    struct bufpool pool;
    struct chunk *chunk;
    struct spanq out;
    bool ok;

    bufpool_setup(&pool);
    chunk = chunk_alloc(&pool, 5000);
    spanq_init(&out);
    if (chunk == NULL || !spanq_copy(&out, &pool, "before", 6))
        abort();
    chunk->used = chunk->size;
    if ((op_flags(op) & OPF_BODY) && !spanq_refer(&r->value, &pool, chunk, chunk->data, 5000))
        abort();
    if (op_flags(op) & OPF_VALUES) {
        r->keys = list;
        r->num_keys = count;
    }
    chunk_ref(out.head->chunk); /* so that there is no room behind it */
    mallocs_left = n;
    ok = codec->compose_request(r, &pool, &out);
    mallocs_left = SIZE_MAX;
    chunk_unref(out.head->chunk);
    spanq_truncate(&out, &pool, 6);
    check(holds(&out, "before", 6), "%s with %zu allocations: what was there still is", op_table[op].name, n);
    spanq_clear(&out, &pool);
    spanq_clear(&r->value, &pool);
    chunk_unref(chunk);
    check(pool.chunk_bytes == 0, "and no chunk is lost");
    bufpool_teardown(&pool);
    return ok;
}

static void check_compose_no_memory(void)
{
    static const enum opcode ops[] = {OP_GET, OP_SET, OP_CAS, OP_INCR, OP_FLUSH_ALL, OP_STATS};
    struct rkey list[1000];
    uint8_t key[KEY_MAX];

    memset(key, 'k', sizeof(key));
    for (uint32_t i = 0; i < ARRAY_LEN(list); i++)
        list[i] = (struct rkey){.p = key, .len = sizeof(key), .next = i + 1 < ARRAY_LEN(list) ? i + 1 : RKEY_END};
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        size_t n = 0;

        while (!compose_with(ops[i], list, ARRAY_LEN(list), n) && n < 1000)
            n++;
        check(n > 0 && n < 1000, "%s takes %zu allocations", op_table[ops[i]].name, n);
    }
}

/* --- out and in again --- */

/* The request that a command asks for, its value as long as it says. */
static struct request *request_of(const struct command *cmd)
{
    struct request *r = blank(cmd->op, NULL);
    char value[sizeof(r->inl)];

    r->flags = cmd->flags;
    r->exptime = cmd->exptime;
    r->has_exptime = cmd->has_exptime;
    r->number = cmd->number;
    r->noreply = cmd->noreply;
    if (cmd->num_keys == 1) {
        request_set_key(r, cmd->key, cmd->key_len);
    } else if (cmd->num_keys > 1) {
        r->keys = keys.v;
        r->num_keys = keys.n;
    } else {
        r->arg = cmd->key;
        r->arg_len = cmd->key_len;
    }
    memset(value, 'v', sizeof(value));
    value[cmd->body_len] = '\0';
    set_value(r, value);
    return r;
}

/* Each good command of the table, composed and parsed again, is the same, but that nothing asks for noreply. */
static void check_round(const struct sample *c)
{
    struct text before = {.n = 0}, after = {.n = 0};
    struct command cmd, again;
    struct spanq out;
    uint8_t *bytes;
    size_t n;

    if (codec->parse_request((const uint8_t *)c->bytes, c->n, 0, &keys, &cmd) != PARSE_OK)
        return;
    /* Some are never passed on, and values of gigabytes are not for here. */
    if (cmd.op == OP_VERBOSITY || cmd.op == OP_SHUTDOWN || (op_flags(cmd.op) & OPF_LOCAL) || cmd.body_len > 50)
        return;
    cmd.noreply = false;
    say_command(&before, PARSE_OK, &cmd);
    spanq_init(&out);
    if (!codec->compose_request(request_of(&cmd), &bufs, &out))
        abort();
    n = out.bytes;
    bytes = need(n);
    spanq_peek_tail(&out, bytes, n);
    say_command(&after, codec->parse_request(bytes, n, 0, &keys, &again), &again);
    check(strcmp(before.s, after.s) == 0 && again.consumed + again.body_len + again.body_tail == n &&
              (again.body_tail == 0 || codec->check_tail(bytes + n - 2, 2)),
          "out and in again: %s", after.s);
    free(bytes);
    spanq_clear(&out, &bufs);
}

int main(void)
{
    bufpool_setup(&bufs);
    for (size_t i = 0; i < ARRAY_LEN(samples); i++)
        check(is_command(&samples[i]), "%s means %s", name_of(samples[i].bytes, samples[i].n), samples[i].means);
    check_following();
    check_endless();
    check_hopeless();
    check_hopeful();
    check_many_keys();
    check_no_memory_for_keys();
    check_tails();
    check_compose_stores();
    check_compose_values();
    check_compose_lines();
    check_compose_gets();
    check_compose_more();
    check_compose_many();
    check_compose_no_memory();
    for (size_t i = 0; i < ARRAY_LEN(samples); i++)
        check_round(&samples[i]);
    bufpool_teardown(&bufs);
    free(keys.v);
    return tap_end();
}
