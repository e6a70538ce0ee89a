/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_codec_binary - tests of the binary protocol's codec that need no socket: requests cut anywhere and bent at
 * random are found bad, unfinished or good, and nothing is looked at that is not there; and requests to servers when
 * memory runs out. The replies are t/mock_binary.py's.
 */
#include "codec_tests.h"

enum { ROUNDS = 300000 };

static struct key_list keys;

/* A request, and its length. */
struct packet {
    uint8_t bytes[64];
    size_t n;
};

static struct packet packet(uint8_t op, const char *extras, size_t nextras, const char *key, const char *value)
{
    size_t nkey = strlen(key), nvalue = strlen(value), body = nextras + nkey + nvalue;
    struct packet p = {
        .bytes = {0x80, op, 0, (uint8_t)nkey, (uint8_t)nextras, 0, 0, 0, 0, 0, 0, (uint8_t)body, 'o', 'p', 'a', 'q'}};

    memcpy(p.bytes + 24, extras, nextras);
    memcpy(p.bytes + 24 + nextras, key, nkey);
    memcpy(p.bytes + 24 + nextras + nkey, value, nvalue);
    p.n = 24 + body;
    return p;
}

/* Parses n bytes in an allocation of their own. */
static enum parse_status parse(const uint8_t *bytes, size_t n, struct command *cmd)
{
    uint8_t *p = copy_of(bytes, n);
    enum parse_status status = codec_binary.parse_request(p, n, 0, &keys, cmd);
    bool is_sound = true;

    if (status == PARSE_OK) {
        is_sound = cmd->consumed <= n && cmd->op != OP_REFUSED && cmd->error == NULL;
        is_sound &= cmd->key_len == 0 || (cmd->key >= p + 24 && cmd->key + cmd->key_len <= p + n);
        is_sound &= cmd->key_len <= KEY_MAX && (cmd->num_keys == 0 || cmd->key_len > 0);
        is_sound &= cmd->body_tail == 0 && cmd->body_len <= INT32_MAX - 2;
        is_sound &= memcmp(cmd->terms.opaque, p + 12, 4) == 0 && cmd->terms.wire == p[1];
    } else if (status == PARSE_BAD) {
        is_sound = cmd->op == OP_REFUSED && (cmd->hangup || cmd->error != NULL) && cmd->consumed <= n;
    }
    free(p);
    if (!is_sound)
        check(false, "%s is sound", name_of((const char *)bytes, n));
    return status;
}

static void check_cuts(const struct packet *p, enum opcode op, size_t nvalue)
{
    struct command cmd;
    bool is_more = true;

    for (size_t n = 1; n < p->n - nvalue; n++)
        is_more &= parse(p->bytes, n, &cmd) == PARSE_MORE;
    check(is_more, "command %02x is waited for", p->bytes[1]);
    check(parse(p->bytes, p->n, &cmd) == PARSE_OK && cmd.op == op && cmd.body_len == nvalue &&
              cmd.consumed + nvalue == p->n,
          "and is found");
}

static void check_fields(void)
{
    struct packet p = packet(0x01, "\0\0\0\7\0\0\1\0", 8, "key", "value");
    struct command cmd;

    parse(p.bytes, p.n, &cmd);
    check(cmd.flags == 7 && cmd.exptime == 256 && cmd.terms.mode == OP_SET && !(cmd.terms.bits & TERM_COMPARE), "set");
    p.bytes[23] = 9;
    p.bytes[1] = 0x02;
    parse(p.bytes, p.n, &cmd);
    check(cmd.terms.mode == OP_SET && (cmd.terms.bits & TERM_COMPARE) && cmd.terms.compare == 9, "add with a cas");
    p = packet(0x05, "\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0\6\0\0\0\7", 20, "key", "");
    parse(p.bytes, p.n, &cmd);
    check(cmd.number == 5 && cmd.terms.initial == 6 && cmd.terms.vivify == 7 && (cmd.terms.bits & TERM_VIVIFY), "incr");
    memset(p.bytes + 40, 0xff, 4);
    parse(p.bytes, p.n, &cmd);
    check(!(cmd.terms.bits & TERM_VIVIFY), "incr of what must be there");
    p = packet(0x0d, "", 0, "a b", "");
    parse(p.bytes, p.n, &cmd);
    check(cmd.op == OP_META_GET && (cmd.terms.bits & TERM_BASE64) && (cmd.terms.bits & TERM_QUIET),
          "a key with a blank");
    p = packet(0x1c, "\xff\xff\xff\xff", 4, "key", "");
    parse(p.bytes, p.n, &cmd);
    check(cmd.exptime == INT32_MAX, "seconds are unsigned");
}

static void check_noise(void)
{
    static const uint8_t ops[] = {0x00, 0x01, 0x04, 0x05, 0x08, 0x0a, 0x0e, 0x10, 0x1c, 0x23, 0x77};
    uint64_t random = 88172645463325252u;
    struct command cmd;

    for (unsigned i = 0; i < ROUNDS; i++) {
        struct packet p = packet(ops[i % ARRAY_LEN(ops)], "12345678", i % 9, "key", "value");

        for (unsigned k = 0; k < 3; k++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            p.bytes[1 + random % 11] = (uint8_t)(random >> 32);
        }
        parse(p.bytes, 1 + (random >> 40) % p.n, &cmd);
    }
    check(true, "%d bent requests", ROUNDS);
}

/* With ever more allocations allowed, a request to a server is composed as a whole or not at all. */
static void check_no_memory(void)
{
    struct rkey two[] = {{.p = (const uint8_t *)"a", .len = 1, .next = 1},
                         {.p = (const uint8_t *)"b", .len = 1, .next = RKEY_END}};
    struct request *r = blank(OP_GET, "k");
    size_t allowed = 0;
    bool composed;

    r->keys = two;
    r->num_keys = 2;
    do {
        struct spanq out;

        spanq_init(&out);
        mallocs_left = allowed++;
        composed = codec_binary_server.compose_request(r, &bufs, &out);
        mallocs_left = SIZE_MAX;
        check(!composed || out.bytes == 2 * (24 + 1) + 24, "%zu allocations: all of it or nothing", allowed - 1);
        spanq_clear(&out, &bufs);
        bufpool_teardown(&bufs);
        bufpool_setup(&bufs);
    } while (!composed && allowed < 10);
    check(composed && allowed > 1, "it needs memory, and not much");
}

int main(void)
{
    struct packet get = packet(0x00, "", 0, "key", ""), set = packet(0x11, "12345678", 8, "key", "value");
    struct packet incr = packet(0x15, "12345678123456781234", 20, "key", ""), noop = packet(0x0a, "", 0, "", "");
    struct packet stat = packet(0x10, "", 0, "items", ""), append = packet(0x0e, "", 0, "key", "value");
    struct command cmd;

    check_cuts(&get, OP_GETS, 0);
    check_cuts(&set, OP_META_SET, 5);
    check_cuts(&incr, OP_META_ARITH, 0);
    check_cuts(&noop, OP_META_NOOP, 0);
    check_cuts(&stat, OP_STATS, 0);
    check_cuts(&append, OP_META_SET, 5);
    get.bytes[0] = 'g';
    check(parse(get.bytes, 1, &cmd) == PARSE_BAD && cmd.hangup && cmd.error == NULL, "text is none of it");
    check_fields();
    check_noise();
    check_no_memory();
    return tap_end();
}
