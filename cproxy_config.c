/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_config - the table of settings, and the two little languages of -z and -Z.
 *
 * Both are read by a struct reader that walks a NUL-terminated text once, from left to right, without copying it, and
 * stops at the first thing that it does not understand with a message that names it. White space and comments (a '#'
 * where a word could begin, to the end of the line) may stand between words. When the text has several lines, as one
 * from a file does, messages begin with the line's number.
 *
 * agent_config.c calls the parsers with text from the command line or a file; options.c, and cproxy_stats.c for
 * `stats proxy behaviors`, read the table.
 */
#include "cproxy_config.h"

#include <arpa/inet.h>
#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

enum {
    DEFAULT_SERVER_PORT = 11211, /* as in libmemcached */
    PORT_MAX = 65535,
    HOST_BYTES_MAX = 255, /* of a name in DNS */
    PATH_BYTES_MAX = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1,
    WEIGHT_MAX = 1000000,
    WORD_SHOWN_MAX = 80, /* bytes of a user's word that a message repeats */
    MESSAGE_BYTES_MAX = 512,
};

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define LOCAL_NAME "local"
#define GIB (UINT64_C(1) << 30)
#define HOUR_MS 3600000

/* The names of enum downstream_protocol, enum mcs_distribution and enum mcs_hash, in their order. */
static const char *const protocol_names[] = {"auto", "ascii", "meta", "binary", NULL};
static const char *const distribution_names[] = {"ketama-weighted", "ketama", "modula", NULL};
static const char *const hash_names[] = {"default",  "one_at_a_time", "md5",      "crc",   "fnv1_64",
                                         "fnv1a_64", "fnv1_32",       "fnv1a_32", "hsieh", "murmur",
                                         "jenkins",  "murmur3",       NULL};

_Static_assert(ARRAY_LEN(protocol_names) == DOWNSTREAM_BINARY + 2, "one name a protocol");
_Static_assert(ARRAY_LEN(distribution_names) == MCS_MODULA + 2, "one name a distribution");
_Static_assert(ARRAY_LEN(hash_names) == MCS_HASH_MURMUR3 + 2, "one name a hash");

#define FIELD(name) offsetof(struct settings, name)

const struct setting settings_table[] = {
    {"downstream_max", "concurrency", SETTING_U32, FIELD(downstream_max), 0, 0, 1000000, NULL,
     "requests that a worker has in flight at most; 0: no bound"},
    {"wait_queue_timeout", NULL, SETTING_MS, FIELD(wait_queue_timeout_ms), 200, 0, HOUR_MS, NULL,
     "how long a request may wait for its turn under downstream_max; 0: for ever"},
    {"downstream_timeout", "timeout", SETTING_MS, FIELD(downstream_timeout_ms), 5000, 0, HOUR_MS, NULL,
     "how long a request may wait for the server's reply; 0: for ever"},
    {"downstream_retry", "retry", SETTING_U32, FIELD(downstream_retry), 1, 0, 10, NULL,
     "how often a request is sent again, where that is safe"},
    {"item_size_max", NULL, SETTING_BYTES, FIELD(item_size_max), 128 * MIB, 1, GIB, NULL,
     "largest value that a client may send"},
    {"line_max", NULL, SETTING_BYTES, FIELD(line_max), 2 * MIB, 2 * KIB, GIB, NULL,
     "longest command line that a client may send, such as a get of many keys"},
    {"client_buffer_max", NULL, SETTING_BYTES, FIELD(client_buffer_max), MIB, 64 * KIB, GIB, NULL,
     "replies held for a client that does not read, before its requests are left unread"},
    {"stream_min", NULL, SETTING_BYTES, FIELD(stream_min), 256 * KIB, 0, GIB, NULL,
     "values from this size on are passed on while they arrive; 0: never"},
    {"squash", NULL, SETTING_BOOL, FIELD(squash), 0, 0, 1, NULL,
     "1: gets of what a worker is asking servers for already wait for that reply, and are not asked again"},

    {"downstream_conn_max", NULL, SETTING_U32, FIELD(downstream_conn_max), 1, 1, 64, NULL,
     "connections of a worker to a server, each of them pipelined; in auto as many more for clients of the binary "
     "protocol"},
    {"get_join_max", NULL, SETTING_U32, FIELD(get_join_max), 256, 1, 1024, NULL,
     "keys of gets waiting to be written to a server that are asked for in one line, at the most; 1: each get in a "
     "line of its own"},
    {"downstream_weight", "weight", SETTING_U32, FIELD(downstream_weight), 1, 1, WEIGHT_MAX, NULL,
     "weight of the servers that -z gives none"},
    {"downstream_protocol", "protocol", SETTING_ENUM, FIELD(downstream_protocol), DOWNSTREAM_AUTO, 0, DOWNSTREAM_BINARY,
     protocol_names, "protocol spoken with the servers; auto: that of the client, as far as a server knows it"},
    {"downstream_queue_max", NULL, SETTING_U32, FIELD(downstream_queue_max), 100000, 0, 100000000, NULL,
     "requests that may wait on a connection to a server before more are refused; 0: no bound"},
    {"downstream_queue_bytes", NULL, SETTING_BYTES, FIELD(downstream_queue_bytes), 256 * MIB, 0, 1024 * GIB, NULL,
     "bytes of requests that may wait to be written to such a connection; 0: no bound"},
    {"connect_timeout", NULL, SETTING_MS, FIELD(connect_timeout_ms), 400, 1, HOUR_MS, NULL,
     "how long connecting to a server may take"},
    {"connect_max_errors", NULL, SETTING_U32, FIELD(connect_max_errors), 5, 1, 1000000, NULL,
     "failures to connect within connect_retry_interval after which a server is left alone"},
    {"connect_retry_interval", NULL, SETTING_MS, FIELD(connect_retry_interval_ms), 30000, 1, 24 * HOUR_MS, NULL,
     "how long such a server is left alone"},

    {"usr", NULL, SETTING_TEXT, FIELD(usr), 0, 0, 0, NULL,
     "user that moxi is to servers: by SASL PLAIN in the binary protocol, else as memcached's -Y has it (also in the "
     "environment, as MOXI_SASL_PLAIN_USR)"},
    {"pwd", NULL, SETTING_SECRET, FIELD(pwd), 0, 0, 0, NULL,
     "its password, the rest of its line; not on the command line, but in a file, or in the environment as "
     "MOXI_SASL_PLAIN_PWD"},
    {"auth_timeout", NULL, SETTING_MS, FIELD(auth_timeout_ms), 1000, 1, HOUR_MS, NULL,
     "how long a server may take to accept these"},

    {"distribution", NULL, SETTING_ENUM, FIELD(distribution), MCS_KETAMA_WEIGHTED, 0, MCS_MODULA, distribution_names,
     "how keys are spread over the servers, as libmemcached does it (also mcs_opts=distribution:NAME)"},
    {"hash", NULL, SETTING_ENUM, FIELD(hash), MCS_HASH_DEFAULT, 0, MCS_HASH_MURMUR3, hash_names,
     "hash of a key, as in libmemcached; default: that of the distribution; crc spreads keys with modula only"},

    {"pace_us", NULL, SETTING_US, FIELD(pace_us), 10, 0, 1000, NULL,
     "unit of the pause that a busy worker makes in each turn, to gather more for each read and write: 2 to 4 of them; "
     "when servers owe hundreds of replies up to 64, but no more than a sixth of the time that replies take; the first "
     "replies of a batch may wait for two of these pauses for the rest of it; 0: none; for all pools"},
    {"pace_min", NULL, SETTING_U32, FIELD(pace_min), 20, 1, 1000000, NULL,
     "clients of a worker that have asked within a millisecond, or half its requests in flight, from which it "
     "is busy in that sense; for all pools"},

    {"front_cache_lifespan", NULL, SETTING_MS, FIELD(front_cache_lifespan_ms), 0, 0, 24 * HOUR_MS, NULL,
     "how long what a server has answered is kept in moxi, and given to all who ask; 0: the near cache is off"},
    {"front_cache_spec", NULL, SETTING_TEXT, FIELD(front_cache_spec), 0, 0, 0, NULL,
     "prefixes of the keys that are kept so, with '|' between them; @all: every key; @hot: those that are hot"},
    {"front_cache_unspec", NULL, SETTING_TEXT, FIELD(front_cache_unspec), 0, 0, 0, NULL,
     "prefixes of keys that are not"},
    {"front_cache_max", "front_cache", SETTING_U32, FIELD(front_cache_max), 200, 1, 10000000, NULL,
     "how many keys are kept at the most"},
    {"front_cache_bytes", NULL, SETTING_BYTES, FIELD(front_cache_bytes), 16 * MIB, MIB, 64 * GIB, NULL,
     "memory for them; no value of more than a quarter of it is kept"},
    {"front_cache_miss_lifespan", NULL, SETTING_MS, FIELD(front_cache_miss_lifespan_ms), 0, 0, 24 * HOUR_MS, NULL,
     "how long it is kept that a server has no such key; 0: not at all"},
    {"front_cache_stale", NULL, SETTING_MS, FIELD(front_cache_stale_ms), 0, 0, 24 * HOUR_MS, NULL,
     "how long a value is given to others past its lifespan, while one of them asks the server"},

    {"optimize_set", NULL, SETTING_TEXT, FIELD(optimize_set), 0, 0, 0, NULL,
     "prefixes of keys, with '|' between them, whose sets in text are answered STORED at once, before the server has: "
     "DANGER: if it then fails, the value is lost, the old one stays, and nobody is told; others may read the old one "
     "until it is carried out"},

    {"time_stats", NULL, SETTING_BOOL, FIELD(time_stats), 0, 0, 1, NULL,
     "1: keep histograms of latencies for 'stats proxy timings'"},
    {"key_stats_lifespan", NULL, SETTING_MS, FIELD(key_stats_lifespan_ms), 0, 0, 24 * HOUR_MS, NULL,
     "how long a key is counted for 'stats proxy keystats', from when it is first seen, until it begins anew; 0: "
     "never"},
    {"key_stats_spec", NULL, SETTING_TEXT, FIELD(key_stats_spec), 0, 0, 0, NULL,
     "prefixes of the keys that are counted so, with '|' between them; @all: every key; @hot: those that are hot"},
    {"key_stats_unspec", NULL, SETTING_TEXT, FIELD(key_stats_unspec), 0, 0, 0, NULL, "prefixes of keys that are not"},
    {"key_stats_max", NULL, SETTING_U32, FIELD(key_stats_max), 4000, 1, 100000, NULL,
     "how many keys each worker counts at the most; beyond them the oldest goes"},
    {"hot_key_rate", NULL, SETTING_U32, FIELD(hot_key_rate), 1000, 0, 1000000000, NULL,
     "times a second that a key is read to be hot, until it is less than half of that; 0: hot keys are not looked for"},
    {NULL, NULL, SETTING_U32, 0, 0, 0, 0, NULL, NULL},
};

/* A bit a row says which keys a text has given already. */
_Static_assert(ARRAY_LEN(settings_table) <= 64, "the rows fit in a uint64_t");

/* Keys of the first moxi that mean something that moxi does not do (yet). Their users deserve to be told apart. */
static const char *const keys_not_supported[] = {
    "bucket", "cycle", "default_bucket_name", "downstream_conn_queue_timeout", "host", "port", "port_listen",
};

/* A text being read. */
struct reader {
    const char *start;
    const char *at;
    bool in_pool;  /* what is being read is of one pool, for messages */
    uint16_t port; /* of which one */
    char *error;   /* where the first message goes */
    size_t errlen;
};

/* A part of the text. */
struct word {
    const char *p;
    size_t n;
};

static bool fail(struct reader *r, const char *fmt, ...) PRINTF_LIKE(2, 3) MUST_CHECK;

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f';
}

/* The number of the line that is being read, from 1; 0: the text has only one. */
static unsigned line_of(const struct reader *r)
{
    unsigned n = 1;

    if (strchr(r->start, '\n') == NULL)
        return 0;
    for (const char *p = r->start; p < r->at; p++)
        n += *p == '\n';
    return n;
}

/* Writes the message, after the number of the line (where there are several) and the pool. Returns false. */
static bool fail(struct reader *r, const char *fmt, ...)
{
    char message[MESSAGE_BYTES_MAX], line[32] = "", pool[32] = "";
    va_list args;

    va_start(args, fmt);
    vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    if (line_of(r) > 0)
        snprintf(line, sizeof(line), "line %u: ", line_of(r));
    if (r->in_pool)
        snprintf(pool, sizeof(pool), "pool %u: ", (unsigned)r->port);
    snprintf(r->error, r->errlen, "%s%s%s", line, pool, message);
    return false;
}

/* For "%.*s": a word of any length, clipped. */
#define SHOW(w) (int)((w).n < WORD_SHOWN_MAX ? (w).n : WORD_SHOWN_MAX), (w).p

/* Skips white space and comments, and bytes that are in `also`. */
static void skip_blank(struct reader *r, const char *also)
{
    for (;;) {
        if (is_blank(*r->at) || (*r->at != '\0' && strchr(also, *r->at) != NULL))
            r->at++;
        else if (*r->at == '#')
            r->at += strcspn(r->at, "\n");
        else
            return;
    }
}

/* The bytes up to white space, the end, or one of `stops`. */
static struct word read_word(struct reader *r, const char *stops)
{
    struct word w = {r->at, 0};

    while (*r->at != '\0' && !is_blank(*r->at) && strchr(stops, *r->at) == NULL)
        r->at++;
    w.n = (size_t)(r->at - w.p);
    return w;
}

static bool word_equals(struct word w, const char *s)
{
    return strlen(s) == w.n && memcmp(w.p, s, w.n) == 0;
}

static bool word_in_range(struct word w, uint64_t min, uint64_t max, uint64_t *out)
{
    uint64_t v;

    if (!util_parse_u64(w.p, w.n, &v) || v < min || v > max)
        return false;
    *out = v;
    return true;
}

static bool word_begins(struct word w, const char *s)
{
    const size_t n = strlen(s);

    return w.n >= n && memcmp(w.p, s, n) == 0;
}

static char *copy_word(struct word w)
{
    char *s = util_xmalloc(w.n + 1);

    memcpy(s, w.p, w.n);
    s[w.n] = '\0';
    return s;
}

/*
 * Settings
 */

static bool setting_is_wide(const struct setting *row)
{
    return row->type == SETTING_U64 || row->type == SETTING_BYTES;
}

static bool setting_is_text(const struct setting *row)
{
    return row->type == SETTING_TEXT || row->type == SETTING_SECRET;
}

static void setting_store(const struct setting *row, struct settings *s, uint64_t v)
{
    char *field = (char *)s + row->offset;
    uint32_t narrow = (uint32_t)v;

    assert(v <= row->max);
    if (setting_is_wide(row))
        memcpy(field, &v, sizeof(v));
    else
        memcpy(field, &narrow, sizeof(narrow));
}

uint64_t setting_value(const struct setting *row, const struct settings *s)
{
    const char *field = (const char *)s + row->offset;
    uint64_t wide;
    uint32_t narrow;

    if (setting_is_wide(row)) {
        memcpy(&wide, field, sizeof(wide));
        return wide;
    }
    memcpy(&narrow, field, sizeof(narrow));
    return narrow;
}

void settings_init(struct settings *s)
{
    memset(s, 0, sizeof(*s));
    for (const struct setting *row = settings_table; row->name != NULL; row++)
        if (!setting_is_text(row))
            setting_store(row, s, row->def);
}

/* A value as -Z takes it. */
static void format_value(const struct setting *row, uint64_t v, char *buf, size_t n)
{
    static const char units[] = {'g', 'm', 'k'};

    if (row->type == SETTING_ENUM) {
        snprintf(buf, n, "%s", row->choices[v]);
        return;
    }
    for (size_t i = 0; row->type == SETTING_BYTES && v != 0 && i < ARRAY_LEN(units); i++) {
        uint64_t unit = GIB >> (10 * i);
        if (v % unit == 0) {
            snprintf(buf, n, "%" PRIu64 "%c", v / unit, units[i]);
            return;
        }
    }
    snprintf(buf, n, "%" PRIu64, v);
}

const char *setting_format(const struct setting *row, const struct settings *s, char *buf, size_t n)
{
    const char *text = (const char *)s + row->offset;

    if (setting_is_text(row)) {
        snprintf(buf, n, "%s", row->type == SETTING_SECRET && text[0] != '\0' ? "(not shown)" : text);
        return buf;
    }
    format_value(row, setting_value(row, s), buf, n);
    return buf;
}

const char *setting_expected(const struct setting *row, char *buf, size_t n)
{
    static const char *const units[] = {
        [SETTING_U32] = "",   [SETTING_U64] = "",  [SETTING_BYTES] = " bytes", [SETTING_MS] = " ms",
        [SETTING_US] = " us", [SETTING_BOOL] = "", [SETTING_ENUM] = "",
    };
    char min[U64_DIGITS + 1], max[U64_DIGITS + 1];
    size_t at = 0;

    if (setting_is_text(row)) {
        snprintf(buf, n, "a %s of up to %d bytes", row->type == SETTING_TEXT ? "word" : "text", SETTING_TEXT_MAX);
        return buf;
    }
    if (row->type == SETTING_ENUM) {
        buf[0] = '\0';
        for (size_t i = 0; row->choices[i] != NULL && at < n; i++)
            at += (size_t)snprintf(buf + at, n - at, "%s%s",
                                   i == 0                ? ""
                                   : row->choices[i + 1] ? ", "
                                                         : " or ",
                                   row->choices[i]);
        return buf;
    }
    format_value(row, row->min, min, sizeof(min));
    format_value(row, row->max, max, sizeof(max));
    snprintf(buf, n, "%s %s %s%s", min, row->type == SETTING_BOOL ? "or" : "to", max, units[row->type]);
    return buf;
}

const char *setting_default(const struct setting *row, char *buf, size_t n)
{
    if (setting_is_text(row)) {
        snprintf(buf, n, "none");
        return buf;
    }
    format_value(row, row->def, buf, n);
    return buf;
}

/* The row of a key, or NULL. */
static const struct setting *find_setting(struct word key)
{
    for (const struct setting *row = settings_table; row->name != NULL; row++) {
        if (word_equals(key, row->name) || (row->alias != NULL && word_equals(key, row->alias)))
            return row;
    }
    return NULL;
}

/* Takes a unit off the end of a value: how many of the setting's own units it stands for; 0 when it is none of them. */
static uint64_t take_unit(const struct setting *row, struct word *value)
{
    static const struct {
        enum setting_type type;
        const char *suffix;
        uint64_t factor;
    } units[] = {
        {SETTING_BYTES, "k", KIB}, {SETTING_BYTES, "m", MIB}, {SETTING_BYTES, "g", GIB},
        {SETTING_MS, "ms", 1},     {SETTING_MS, "s", 1000},   {SETTING_US, "us", 1},
    };
    size_t digits = 0;

    while (digits < value->n && value->p[digits] >= '0' && value->p[digits] <= '9')
        digits++;
    if (digits == value->n)
        return 1;
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        size_t n = strlen(units[i].suffix);
        if (row->type == units[i].type && value->n - digits == n &&
            strncasecmp(value->p + digits, units[i].suffix, n) == 0) {
            value->n = digits;
            return units[i].factor;
        }
    }
    return 0;
}

static bool parse_number(const struct setting *row, struct word value, uint64_t *out)
{
    uint64_t unit = take_unit(row, &value), v;

    if (unit == 0 || !word_in_range(value, 0, row->max / unit, &v))
        return false;
    *out = v * unit;
    return *out >= row->min;
}

static bool parse_choice(const struct setting *row, struct word value, uint64_t *out)
{
    for (size_t i = 0; row->choices[i] != NULL; i++) {
        if (word_equals(value, row->choices[i])) {
            *out = i;
            return true;
        }
    }
    return false;
}

/* A word on the same line; or, a secret, all the rest of the line, which may have anything in it. */
static struct word read_text(struct reader *r, const struct setting *row)
{
    struct word w;

    r->at += strspn(r->at, " \t");
    if (row->type == SETTING_TEXT)
        return read_word(r, ",;");
    w = (struct word){r->at, strcspn(r->at, "\r\n")};
    r->at += w.n;
    while (w.n > 0 && is_blank(w.p[w.n - 1]))
        w.n--;
    return w;
}

static bool parse_text(struct settings *s, const struct setting *row, struct word value)
{
    char *text = (char *)s + row->offset;

    if (value.n == 0 || value.n > SETTING_TEXT_MAX)
        return false;
    memcpy(text, value.p, value.n);
    text[value.n] = '\0';
    return true;
}

static bool parse_value(struct reader *r, struct settings *s, const struct setting *row, struct word key,
                        struct word value)
{
    char expected[256];
    uint64_t v = 0;
    bool ok;

    if (setting_is_text(row))
        return parse_text(s, row, value) ||
               fail(r, "%.*s: expected %s", SHOW(key), setting_expected(row, expected, sizeof(expected)));
    ok = row->type == SETTING_ENUM ? parse_choice(row, value, &v) : parse_number(row, value, &v);
    if (!ok)
        return fail(r, "%.*s=%.*s: expected %s", SHOW(key), SHOW(value),
                    setting_expected(row, expected, sizeof(expected)));
    if (row->offset == FIELD(hash) && !mcs_has_hash((enum mcs_hash)v))
        return fail(r, "%.*s=%.*s: the libmemcached on this machine was built without this hash", SHOW(key),
                    SHOW(value));
    setting_store(row, s, v);
    return true;
}

static bool fail_unknown_key(struct reader *r, struct word key)
{
    for (size_t i = 0; i < ARRAY_LEN(keys_not_supported); i++) {
        if (word_equals(key, keys_not_supported[i]))
            return fail(r, "%.*s: not supported by this version of moxi", SHOW(key));
    }
    return fail(r, "%.*s: unknown setting", SHOW(key));
}

/* The first moxi's spelling: mcs_opts=distribution:NAME is distribution=NAME. */
static bool rewrite_mcs_opts(struct reader *r, struct word *key, struct word *value)
{
    static const char only[] = "distribution:";
    const size_t n = sizeof(only) - 1;

    if (!word_equals(*key, "mcs_opts"))
        return true;
    if (!word_begins(*value, only))
        return fail(r, "mcs_opts=%.*s: expected distribution:NAME", SHOW(*value));
    *key = (struct word){only, n - 1};
    value->p += n;
    value->n -= n;
    return true;
}

/* What the pool of a port has of its own, new if it had nothing. */
static struct own_settings *find_own(struct reader *r, struct own_settings **own, uint16_t port)
{
    for (; *own != NULL; own = &(*own)->next)
        if ((*own)->port == port)
            return *own;
    *own = util_xcalloc(1, sizeof(**own));
    (*own)->port = port;
    (*own)->line = line_of(r);
    return *own;
}

/* Takes "LPORT." off a key, which has a dot. */
static bool take_lport(struct reader *r, struct word *key)
{
    const char *dot = memchr(key->p, '.', key->n);
    struct word lport = {key->p, (size_t)(dot - key->p)};
    uint64_t v;

    if (!word_in_range(lport, 0, PORT_MAX, &v))
        return fail(r, "\"%.*s\": expected key=value, or LPORT.key=value with a number from 0 to %d", SHOW(*key),
                    PORT_MAX);
    if (lport.n + 1 == key->n)
        return fail(r, "\"%.*s\": expected LPORT.key=value", SHOW(*key));
    r->in_pool = true;
    r->port = (uint16_t)v;
    *key = (struct word){dot + 1, key->n - lport.n - 1};
    return true;
}

/* What the loop of a worker goes by, which serves all pools. */
static bool is_of_worker(const struct setting *row)
{
    return row->offset == FIELD(pace_us) || row->offset == FIELD(pace_min);
}

/* Reads one key=value or LPORT.key=value. *seen has a bit for each row that the text has set already for all pools. */
static bool parse_setting(struct reader *r, struct settings *s, uint64_t *seen, struct own_settings **own)
{
    struct word key = read_word(r, "=,;"), value;
    const struct setting *row;
    uint64_t bit;

    skip_blank(r, "");
    if (key.n == 0 || *r->at != '=') {
        r->at = key.p;
        return fail(r, "\"%.*s\": expected key=value", SHOW(key));
    }
    if (memchr(key.p, '.', key.n) != NULL) {
        struct own_settings *mine;

        if (!take_lport(r, &key))
            return false;
        mine = find_own(r, own, r->port);
        s = &mine->values;
        seen = &mine->given;
    }
    r->at++;
    row = find_setting(key);
    if (row != NULL && setting_is_text(row)) {
        value = read_text(r, row);
    } else {
        skip_blank(r, "");
        value = read_word(r, ",;");
        if (!rewrite_mcs_opts(r, &key, &value))
            return false;
        row = find_setting(key);
    }
    if (row == NULL)
        return fail_unknown_key(r, key);
    if (r->in_pool && is_of_worker(row))
        return fail(r, "%s: it is the same for all pools; leave the LPORT out", row->name);
    bit = UINT64_C(1) << (row - settings_table);
    if (*seen & bit)
        return fail(r, "%s: given twice", row->name);
    *seen |= bit;
    return parse_value(r, s, row, key, value);
}

bool settings_parse(struct settings *s, struct own_settings **own, const char *text, char *error, size_t errlen)
{
    struct reader r = {.start = text, .at = text, .error = error, .errlen = errlen};
    uint64_t seen = 0;

    for (;;) {
        skip_blank(&r, ",;");
        if (*r.at == '\0')
            return true;
        if (!parse_setting(&r, s, &seen, own))
            return false;
        r.in_pool = false;
    }
}

void own_settings_free(struct own_settings **own)
{
    while (*own != NULL) {
        struct own_settings *mine = *own;

        *own = mine->next;
        explicit_bzero(mine, sizeof(*mine));
        free(mine);
    }
}

/* What the pool of a port has of its own takes the place of what all have. */
static void settings_override(struct settings *s, const struct own_settings *own, uint16_t port)
{
    while (own != NULL && own->port != port)
        own = own->next;
    for (size_t i = 0; own != NULL && settings_table[i].name != NULL; i++) {
        const struct setting *row = &settings_table[i];

        if (!(own->given & UINT64_C(1) << i))
            continue;
        if (setting_is_text(row))
            memcpy((char *)s + row->offset, (const char *)&own->values + row->offset, SETTING_TEXT_MAX + 1);
        else
            setting_store(row, s, setting_value(row, &own->values));
    }
}

void settings_print_help(FILE *out)
{
    char expected[256], def[U64_DIGITS + 1];

    for (const struct setting *row = settings_table; row->name != NULL; row++) {
        setting_default(row, def, sizeof(def));
        fprintf(out, "  %s=%s", row->name, def);
        if (row->alias != NULL)
            fprintf(out, " (or %s)", row->alias);
        fprintf(out, "\n      %s\n      %s\n", row->help, setting_expected(row, expected, sizeof(expected)));
    }
}

/*
 * Pools and servers
 */

static bool parse_port(struct reader *r, struct word whole, struct word port, struct server *server)
{
    uint64_t v;

    if (!word_in_range(port, 1, PORT_MAX, &v))
        return fail(r, "server %.*s: port \"%.*s\" is not a number from 1 to %d", SHOW(whole), SHOW(port), PORT_MAX);
    server->port = (uint16_t)v;
    return true;
}

static bool parse_weight(struct reader *r, struct word whole, struct word weight, struct server *server)
{
    uint64_t v;

    if (!word_in_range(weight, 1, WEIGHT_MAX, &v))
        return fail(r, "server %.*s: weight \"%.*s\" is not a number from 1 to %d", SHOW(whole), SHOW(weight),
                    WEIGHT_MAX);
    server->weight = (uint32_t)v;
    return true;
}

/* Reads ":port" and ":port:weight", what is left of a server's word. */
static bool parse_port_weight(struct reader *r, struct word whole, struct word rest, struct server *server)
{
    const char *colon;
    struct word port;

    server->port = DEFAULT_SERVER_PORT;
    if (rest.n == 0)
        return true;
    if (rest.p[0] != ':')
        return fail(r, "server %.*s: expected a ':' before \"%.*s\"", SHOW(whole), SHOW(rest));
    port = (struct word){rest.p + 1, rest.n - 1};
    colon = memchr(port.p, ':', port.n);
    if (colon == NULL)
        return parse_port(r, whole, port, server);
    rest = (struct word){colon + 1, port.n - (size_t)(colon + 1 - port.p)};
    port.n = (size_t)(colon - port.p);
    return parse_port(r, whole, port, server) && parse_weight(r, whole, rest, server);
}

/* An address between brackets; a scope ("%eth0") may follow it. */
static bool is_ipv6(struct word host)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;
    const char *scope = memchr(host.p, '%', host.n);
    size_t n = scope != NULL ? (size_t)(scope - host.p) : host.n;

    if (n >= sizeof(text) || n + 1 == host.n)
        return false;
    memcpy(text, host.p, n);
    text[n] = '\0';
    return inet_pton(AF_INET6, text, &address) == 1;
}

static bool parse_bracketed(struct reader *r, struct word w, struct server *server)
{
    const char *end = memchr(w.p, ']', w.n);
    struct word host, rest;

    if (end == NULL)
        return fail(r, "server %.*s: no ']' closes the '['", SHOW(w));
    host = (struct word){w.p + 1, (size_t)(end - w.p) - 1};
    rest = (struct word){end + 1, w.n - host.n - 2};
    if (!is_ipv6(host))
        return fail(r, "server %.*s: \"%.*s\" is not an IPv6 address", SHOW(w), SHOW(host));
    server->host = copy_word(host);
    return parse_port_weight(r, w, rest, server);
}

static bool is_host_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' ||
           c == '_';
}

static bool parse_named(struct reader *r, struct word w, struct server *server)
{
    const char *colon = memchr(w.p, ':', w.n);
    struct word host = {w.p, colon != NULL ? (size_t)(colon - w.p) : w.n};
    struct word rest = {w.p + host.n, w.n - host.n};

    if (is_ipv6(w))
        return fail(r, "server %.*s: an IPv6 address stands in brackets, [%.*s]", SHOW(w), SHOW(w));
    if (host.n == 0)
        return fail(r, "server %.*s: the host is missing", SHOW(w));
    if (host.n > HOST_BYTES_MAX)
        return fail(r, "server %.*s: a host name has at most %d bytes", SHOW(w), HOST_BYTES_MAX);
    for (size_t i = 0; i < host.n; i++) {
        if (!is_host_byte(host.p[i]))
            return fail(r, "server %.*s: a host name is made of letters, digits, '.', '-' and '_'", SHOW(w));
    }
    server->host = copy_word(host);
    return parse_port_weight(r, w, rest, server);
}

/*
 * "/path", "/path:weight" or "/path::weight". Only digits after the last colon are a weight, so that a path may have
 * colons of its own.
 */
static bool parse_path(struct reader *r, struct word w, struct server *server)
{
    struct word path = w;
    size_t digits = 0;

    server->unix_socket = true;
    while (digits < w.n && w.p[w.n - digits - 1] >= '0' && w.p[w.n - digits - 1] <= '9')
        digits++;
    if (w.p[w.n - digits - 1] == ':') {
        path.n -= digits + 1;
        if (!parse_weight(r, w, (struct word){w.p + w.n - digits, digits}, server))
            return false;
        if (path.p[path.n - 1] == ':')
            path.n--;
    }
    if (path.n > PATH_BYTES_MAX)
        return fail(r, "server %.*s: the path of a unix socket has at most %zu bytes", SHOW(w), (size_t)PATH_BYTES_MAX);
    if (path.p[path.n - 1] == '/')
        return fail(r, "server %.*s: the path of a unix socket does not end in '/'", SHOW(w));
    server->host = copy_word(path);
    return true;
}

/* Reads "local" or "local::weight". */
static bool parse_local(struct reader *r, struct word w, struct server *server)
{
    const size_t n = strlen(LOCAL_NAME);

    server->local = true;
    server->host = copy_word((struct word){w.p, n});
    return w.n == n || parse_weight(r, w, (struct word){w.p + n + 2, w.n - n - 2}, server);
}

static char *name_server(const struct server *server)
{
    const bool ipv6 = strchr(server->host, ':') != NULL;
    const size_t n = strlen(server->host) + sizeof("[]:65535");
    char *name;

    if (server->unix_socket || server->local)
        return util_xstrdup(server->host);
    name = util_xmalloc(n);
    snprintf(name, n, "%s%s%s:%u", ipv6 ? "[" : "", server->host, ipv6 ? "]" : "", (unsigned)server->port);
    return name;
}

static bool is_url(struct word w)
{
    return memmem(w.p, w.n, "http://", strlen("http://")) != NULL ||
           memmem(w.p, w.n, "https://", strlen("https://")) != NULL;
}

/* Names of hosts do not care about case; paths do. */
static bool same_server(const struct server *a, const struct server *b)
{
    if (a->unix_socket || b->unix_socket)
        return strcmp(a->name, b->name) == 0;
    return strcasecmp(a->name, b->name) == 0;
}

static bool parse_server(struct reader *r, const struct pool *pool, struct server *server)
{
    struct word w = read_word(r, ",;");
    bool ok;

    if (w.n == 0)
        return fail(r, "%s", pool->num_servers == 0 ? "no server after the '='" : "no server after the ','");
    server->weight = pool->settings.downstream_weight;
    if (is_url(w))
        return fail(r, "server %.*s: URLs are not supported by this version of moxi", SHOW(w));
    if (word_begins(w, "unix:/"))
        ok = parse_path(r, (struct word){w.p + strlen("unix:"), w.n - strlen("unix:")}, server);
    else if (w.p[0] == '/')
        ok = parse_path(r, w, server);
    else if (word_equals(w, LOCAL_NAME) || word_begins(w, LOCAL_NAME "::"))
        ok = parse_local(r, w, server);
    else if (w.p[0] == '[')
        ok = parse_bracketed(r, w, server);
    else
        ok = parse_named(r, w, server);
    if (!ok)
        return false;
    server->name = name_server(server);
    for (uint32_t i = 0; i < pool->num_servers; i++) {
        if (same_server(&pool->servers[i], server))
            return fail(r, "server %s: given twice", server->name);
    }
    return true;
}

/* Upper bound of the servers (with ',') or pools (with ';') from p on. */
static size_t count_parts(const char *p, char separator)
{
    size_t n = 1;

    for (; *p != '\0'; p++)
        n += *p == separator;
    return n;
}

static bool parse_servers(struct reader *r, struct pool *pool)
{
    const size_t most = count_parts(r->at, ',');

    pool->servers = util_xcalloc(most, sizeof(*pool->servers));
    for (;;) {
        struct server *server = &pool->servers[pool->num_servers];
        skip_blank(r, "");
        assert(pool->num_servers < most);
        if (!parse_server(r, pool, server)) {
            free(server->name);
            free(server->host);
            return false;
        }
        pool->num_servers++;
        skip_blank(r, "");
        if (*r->at != ',')
            break;
        r->at++;
    }
    if (*r->at != ';' && *r->at != '\0')
        return fail(r, "expected ',' or ';' after server %s", pool->servers[pool->num_servers - 1].name);
    return true;
}

/* The continuum. One server needs none. */
static bool create_mcs(struct reader *r, struct pool *pool)
{
    struct mcs_server *servers;
    const char *error;

    if (pool->num_servers == 1)
        return true;
    servers = util_xcalloc(pool->num_servers, sizeof(*servers));
    for (uint32_t i = 0; i < pool->num_servers; i++) {
        const struct server *server = &pool->servers[i];
        servers[i] = (struct mcs_server){server->host, server->port, server->weight};
    }
    pool->mcs = mcs_create(servers, pool->num_servers, (enum mcs_distribution)pool->settings.distribution,
                           (enum mcs_hash)pool->settings.hash, &error);
    free(servers);
    if (pool->mcs == NULL)
        return fail(r, "%u servers: %s", (unsigned)pool->num_servers, error);
    return true;
}

/* Reads "LPORT=", where a pool begins. */
static bool parse_lport(struct reader *r, const struct config *config, struct pool *pool)
{
    struct word w = read_word(r, "=,;");
    uint64_t v;

    if (is_url(w) || word_equals(w, "url") || word_equals(w, "auth"))
        return fail(r, "%.*s: URLs are not supported by this version of moxi", SHOW(w));
    skip_blank(r, "");
    if (*r->at != '=') {
        r->at = w.p;
        return fail(r, "\"%.*s\": expected LPORT= in front of a pool's servers, as in 11211=host1,host2", SHOW(w));
    }
    if (!word_in_range(w, 0, PORT_MAX, &v))
        return fail(r, "\"%.*s=\": LPORT is not a number from 0 to %d", SHOW(w), PORT_MAX);
    pool->port = r->port = (uint16_t)v;
    r->in_pool = true;
    if (config_find_pool(config, pool->port) != NULL)
        return fail(r, "given twice");
    r->at++;
    skip_blank(r, "");
    if (*r->at == '{')
        return fail(r, "vbucket maps are not supported by this version of moxi");
    return true;
}

/* The pool as -z could say it, without white space and comments. */
static char *print_pool(const struct pool *pool)
{
    size_t room = sizeof("65535="), at;
    char *text;

    for (uint32_t i = 0; i < pool->num_servers; i++)
        room += strlen(pool->servers[i].name) + sizeof(",:") + U64_DIGITS;
    text = util_xmalloc(room);
    at = (size_t)snprintf(text, room, "%u=", (unsigned)pool->port);
    for (uint32_t i = 0; i < pool->num_servers; i++) {
        const struct server *server = &pool->servers[i];
        at += (size_t)snprintf(text + at, room - at, "%s%s:%u", i == 0 ? "" : ",", server->name,
                               (unsigned)server->weight);
    }
    return text;
}

static bool parse_pool(struct reader *r, const struct config *config, const struct own_settings *own, struct pool *pool)
{
    if (!parse_lport(r, config, pool))
        return false;
    settings_override(&pool->settings, own, pool->port);
    if (!parse_servers(r, pool) || !create_mcs(r, pool))
        return false;
    pool->text = print_pool(pool);
    r->in_pool = false;
    return true;
}

static void free_pool(struct pool *pool)
{
    for (uint32_t i = 0; i < pool->num_servers; i++) {
        free(pool->servers[i].name);
        free(pool->servers[i].host);
    }
    free(pool->servers);
    mcs_destroy(pool->mcs);
    free(pool->name);
    free(pool->text);
}

static bool parse_pools(struct reader *r, struct config *config, const struct settings *settings,
                        const struct own_settings *own)
{
    skip_blank(r, "");
    if (*r->at == '\0')
        return fail(r, "no pool; expected LPORT=host[:port[:weight]],...");
    config->pools = util_xcalloc(count_parts(r->at, ';'), sizeof(*config->pools));
    while (*r->at != '\0') {
        struct pool *pool = &config->pools[config->num_pools];
        pool->settings = *settings;
        if (!parse_pool(r, config, own, pool)) {
            free_pool(pool);
            return false;
        }
        config->num_pools++;
        if (*r->at == ';')
            r->at++;
        skip_blank(r, "");
    }
    return true;
}

static void name_pools(struct config *config)
{
    char port[U64_DIGITS + 1];

    for (uint32_t i = 0; i < config->num_pools; i++) {
        snprintf(port, sizeof(port), "%u", (unsigned)config->pools[i].port);
        config->pools[i].name = util_xstrdup(config->num_pools == 1 ? "default" : port);
    }
}

struct config *config_parse(const char *text, const struct settings *settings, const struct own_settings *own,
                            char *error, size_t errlen)
{
    struct reader r = {.start = text, .at = text, .error = error, .errlen = errlen};
    struct config *config = util_xcalloc(1, sizeof(*config));

    atomic_init(&config->refs, 1);
    if (!parse_pools(&r, config, settings, own)) {
        config_unref(config);
        return NULL;
    }
    name_pools(config);
    return config;
}

struct config *config_ref(struct config *config)
{
    atomic_fetch_add_explicit(&config->refs, 1, memory_order_relaxed);
    return config;
}

/* Who drops the last reference must see what the others did before they dropped theirs: acq_rel. */
void config_unref(struct config *config)
{
    if (config == NULL || atomic_fetch_sub_explicit(&config->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t i = 0; i < config->num_pools; i++)
        free_pool(&config->pools[i]);
    free(config->pools);
    free(config);
}

const struct pool *config_find_pool(const struct config *config, uint16_t port)
{
    for (uint32_t i = 0; i < config->num_pools; i++)
        if (config->pools[i].port == port)
            return &config->pools[i];
    return NULL;
}

bool config_has_local(const struct config *config)
{
    for (uint32_t i = 0; i < config->num_pools; i++)
        for (uint32_t k = 0; k < config->pools[i].num_servers; k++)
            if (config->pools[i].servers[k].local)
                return true;
    return false;
}
