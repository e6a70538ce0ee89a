/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_config - the languages of -z and -Z: what is taken, what it becomes, and what is refused with which words
 * (cproxy_config.c); files, -p and -s (agent_config.c).
 */
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent_config.h"
#include "cproxy_config.h"
#include "tap.h"

enum { ERROR_MAX = 1024 };

static char error[ERROR_MAX];
static char directory[] = "/tmp/check_config.XXXXXX";
static char path[PATH_MAX];

/*
 * -Z
 */

static const struct setting *find_row(const char *name)
{
    const struct setting *row = settings_table;

    while (row->name != NULL && strcmp(row->name, name) != 0)
        row++;
    return row->name != NULL ? row : NULL;
}

/* Settings of all pools: none has any of its own. */
static bool parse_settings(struct settings *s, const char *text)
{
    struct own_settings *own = NULL;
    bool ok = settings_parse(s, &own, text, error, sizeof(error)) && own == NULL;

    own_settings_free(&own);
    return ok;
}

/* Texts of one or more settings, one of them by the name that it has in the table and the value that it must get. */
static void check_settings_taken(void)
{
    static const struct {
        const char *text, *name, *value;
    } cases[] = {
        {"", "downstream_max", "0"},
        {"downstream_max=7", "downstream_max", "7"},
        {"concurrency=7", "downstream_max", "7"},
        {"weight=3", "downstream_weight", "3"},
        {"retry=0", "downstream_retry", "0"},
        {"timeout=250", "downstream_timeout", "250"},
        {"protocol=ascii", "downstream_protocol", "ascii"},
        {"downstream_timeout=3s", "downstream_timeout", "3000"},
        {"downstream_timeout=30ms", "downstream_timeout", "30"},
        {"downstream_timeout=0", "downstream_timeout", "0"},
        {"item_size_max=1g", "item_size_max", "1g"},
        {"item_size_max=2M", "item_size_max", "2m"},
        {"item_size_max=1536k", "item_size_max", "1536k"},
        {"item_size_max=1000", "item_size_max", "1000"},
        {"item_size_max=1024", "item_size_max", "1k"},
        {"line_max=2048", "line_max", "2k"},
        {"client_buffer_max=64k", "client_buffer_max", "64k"},
        {"stream_min=0", "stream_min", "0"},
        {"downstream_conn_max=64", "downstream_conn_max", "64"},
        {"downstream_queue_bytes=3g", "downstream_queue_bytes", "3g"},
        {"distribution=modula", "distribution", "modula"},
        {"mcs_opts=distribution:ketama", "distribution", "ketama"},
        {"mcs_opts=distribution:ketama-weighted", "distribution", "ketama-weighted"},
        {"hash=fnv1a_64", "hash", "fnv1a_64"},
        {"hash=one_at_a_time", "hash", "one_at_a_time"},
        {"pace_us=1000us", "pace_us", "1000"},
        {"pace_us=0", "pace_us", "0"},
        {"time_stats=1", "time_stats", "1"},
        {"key_stats_lifespan=60s", "key_stats_lifespan", "60000"},
        {"key_stats_spec=user:|@hot", "key_stats_spec", "user:|@hot"},
        {"hot_key_rate=0", "hot_key_rate", "0"},
        {"retry=2,timeout=9", "downstream_timeout", "9"},
        {"retry=2, timeout=9 ,", "downstream_timeout", "9"},
        {"retry=2;timeout=9", "downstream_timeout", "9"},
        {"# all of it\nretry = 2 # twice\n\n  timeout\t=9\r\n#end", "downstream_timeout", "9"},
    };
    char value[32];

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const struct setting *row = find_row(cases[i].name);
        struct settings s;
        bool ok;
        settings_init(&s);
        ok = parse_settings(&s, cases[i].text);
        check(ok && row != NULL && strcmp(setting_format(row, &s, value, sizeof(value)), cases[i].value) == 0,
              "-Z case %zu: %s is %s%s%s", i, cases[i].name, cases[i].value, ok ? "" : ", error: ", ok ? "" : error);
    }
}

/* Each with a part of the message that it must get. */
static void check_settings_refused(void)
{
    static const char *const cases[][2] = {
        {"nonsense=1", "nonsense: unknown setting"},
        {"downstream_maxx=1", "downstream_maxx: unknown"},
        {"downstream_ma=1", "downstream_ma: unknown"},
        {"DOWNSTREAM_MAX=1", "unknown"},
        {"front_cache_lifespan=fast", "front_cache_lifespan"},
        {"front_cache_bytes=1k", "front_cache_bytes"},
        {"front_cache_max=0", "front_cache_max"},
        {"key_stats_max=0", "1 to 100000"},
        {"hot_key_rate=often", "hot_key_rate"},
        {"bucket=a", "not supported by this version"},
        {"cycle=200", "not supported by this version"},
        {"downstream_conn_queue_timeout=200", "not supported by this version"},
        {"port_listen=11211", "not supported by this version"},
        {"downstream_max", "\"downstream_max\": expected key=value"},
        {"=1", "expected key=value"},
        {"retry=1,timeout", "\"timeout\": expected key=value"},
        {"retry=1,=5", "\"\": expected key=value"},
        {"downstream_max=", "downstream_max=: expected 0 to 1000000"},
        {"downstream_max=-1", "downstream_max=-1: expected 0 to 1000000"},
        {"downstream_max=1000001", "downstream_max=1000001: expected 0 to 1000000"},
        {"downstream_max=99999999999999999999999", "expected 0 to"},
        {"downstream_max=1k", "downstream_max=1k: expected"},
        {"downstream_max=one", "downstream_max=one: expected"},
        {"downstream_max=1.5", "expected"},
        {"downstream_max=0x10", "expected"},
        {"concurrency=x", "concurrency=x: expected 0 to 1000000"},
        {"timeout=5m", "timeout=5m: expected 0 to 3600000 ms"},
        {"timeout=s", "expected"},
        {"timeout=-1s", "expected"},
        {"timeout=5 s", "\"s\": expected key=value"},
        {"timeout=3601s", "expected 0 to 3600000 ms"},
        {"timeout=18446744073709551615s", "expected"},
        {"pace_us=1001", "pace_us=1001: expected 0 to 1000 us"},
        {"pace_us=1ms", "expected"},
        {"item_size_max=1025m", "item_size_max=1025m: expected 1 to 1g bytes"},
        {"item_size_max=0", "expected 1 to 1g bytes"},
        {"item_size_max=1kb", "expected"},
        {"item_size_max=18446744073709551615g", "expected"},
        {"line_max=2047", "line_max=2047: expected 2k to 1g bytes"},
        {"client_buffer_max=1k", "expected 64k to"},
        {"downstream_conn_max=0", "downstream_conn_max=0: expected 1 to 64"},
        {"downstream_conn_max=65", "expected 1 to 64"},
        {"weight=0", "weight=0: expected 1 to"},
        {"protocol=udp", "protocol=udp: expected auto, ascii, meta or binary"},
        {"distribution=random", "distribution=random: expected ketama-weighted, ketama or modula"},
        {"distribution=", "distribution=: expected"},
        {"distribution=ket", "expected"},
        {"mcs_opts=ketama", "mcs_opts=ketama: expected distribution:NAME"},
        {"mcs_opts=distribution:random", "distribution=random: expected"},
        {"hash=sha1", "hash=sha1: expected default, one_at_a_time,"},
        {"time_stats=2", "time_stats=2: expected 0 or 1"},
        {"retry=1,retry=1", "downstream_retry: given twice"},
        {"retry=1,downstream_retry=2", "downstream_retry: given twice"},
        {"distribution=ketama,mcs_opts=distribution:modula", "distribution: given twice"},
        {"retry=1\n# x\ntimeout=x\npace_us=1", "line 3: timeout=x: expected"},
        {"retry=1\n\nnothing\n", "line 3: \"nothing\": expected key=value"},
        {"5.nonsense=1", "pool 5: nonsense: unknown setting"},
        {"5.bucket=a", "pool 5: bucket: not supported by this version"},
        {"5.6.retry=1", "pool 5: 6.retry: unknown setting"},
        {"5.retry", "\"5.retry\": expected key=value"},
        {"5.=1", "\"5.\": expected LPORT.key=value"},
        {"5=1", "5: unknown setting"},
        {".retry=1", "\".retry\": expected key=value, or LPORT.key=value with a number from 0 to 65535"},
        {".=1", "\".\": expected key=value, or"},
        {"65536.retry=1", "\"65536.retry\": expected key=value, or"},
        {"-1.retry=1", "\"-1.retry\": expected key=value, or"},
        {"x.retry=1", "\"x.retry\": expected key=value, or"},
        {"5 .retry=1", "\"5\": expected key=value"},
        {"5. retry=1", "\"5.\": expected key=value"},
        {"5.retry=11", "pool 5: retry=11: expected 0 to 10"},
        {"5.retry=", "pool 5: retry=: expected 0 to 10"},
        {"5.mcs_opts=ketama", "pool 5: mcs_opts=ketama: expected distribution:NAME"},
        {"5.usr=", "pool 5: usr: expected a word of up to 255 bytes"},
        {"5.retry=1,6.retry=1,5.downstream_retry=1", "pool 5: downstream_retry: given twice"},
        {"5.retry=1,retry=x", "retry=x: expected 0 to 10"},
        {"5.pace_us=1", "pool 5: pace_us: it is the same for all pools"},
        {"5.pace_min=1", "pool 5: pace_min: it is the same for all pools"},
        {"# one\n5.retry=1\n5.retry=2\n", "line 3: pool 5: downstream_retry: given twice"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct settings s;
        bool ok;
        settings_init(&s);
        error[0] = '\0';
        ok = parse_settings(&s, cases[i][0]);
        check(!ok && strstr(error, cases[i][1]) != NULL, "-Z refused, case %zu: %s", i, error);
    }
}

/* The hash that Debian's libmemcached lacks, and whatever another build lacks. */
static void check_missing_hashes(void)
{
    const struct setting *row = find_row("hash");
    char text[64];

    for (size_t i = 0; row != NULL && row->choices[i] != NULL; i++) {
        struct settings s;
        bool has = mcs_has_hash((enum mcs_hash)i), ok;
        snprintf(text, sizeof(text), "hash=%s", row->choices[i]);
        settings_init(&s);
        ok = parse_settings(&s, text);
        check(ok == has && (ok || (strstr(error, text) != NULL && strstr(error, "built without") != NULL)), "%s is %s",
              text, has ? "taken" : "refused");
    }
}

/* A text of up to 255 bytes, shown unless it is a secret. */
static void check_text_row(const struct setting *row)
{
    char text[300], shown[256];
    struct settings s;

    settings_init(&s);
    check(setting_format(row, &s, shown, sizeof(shown))[0] == '\0', "%s is empty", row->name);
    snprintf(text, sizeof(text), "%s=%0255d", row->name, 7);
    check(parse_settings(&s, text) && strlen((char *)&s + row->offset) == SETTING_TEXT_MAX, "%s takes a long text",
          row->name);
    setting_format(row, &s, shown, sizeof(shown));
    check((strcmp(shown, text + strlen(row->name) + 1) == 0) == (row->type == SETTING_TEXT), "%s is %s", row->name,
          shown);
    snprintf(text, sizeof(text), "%s=%0256d", row->name, 7);
    check(!parse_settings(&s, text) && strstr(error, " of up to 255 bytes") != NULL && strchr(error, '7') == NULL,
          "and no longer one: %s", error);
    snprintf(text, sizeof(text), "%s=\nhash=md5", row->name);
    check(!parse_settings(&s, text), "nor none");
    snprintf(text, sizeof(text), "%s = a#b \ntimeout=7", row->name);
    check(parse_settings(&s, text) && strcmp((char *)&s + row->offset, "a#b") == 0 && s.downstream_timeout_ms == 7,
          "it is on its line");
    snprintf(text, sizeof(text), "pwd=a, b;c\ntimeout=8");
    check(parse_settings(&s, text) && strcmp(s.pwd, "a, b;c") == 0 && s.downstream_timeout_ms == 8,
          "a password may have anything in it");
}

/* Every row holds together, and what is printed of it is taken back. */
static void check_table(void)
{
    unsigned n = 0;

    for (const struct setting *row = settings_table; row->name != NULL; row++, n++) {
        char def[32], text[128], expected[256];
        struct settings s, t;
        settings_init(&s);
        memset(&t, 0xa5, sizeof(t));
        if (row->type == SETTING_TEXT || row->type == SETTING_SECRET) {
            check_text_row(row);
            continue;
        }
        snprintf(text, sizeof(text), "%s=%s", row->name, setting_default(row, def, sizeof(def)));
        check(row->min <= row->def && row->def <= row->max && setting_value(row, &s) == row->def, "%s: %s is within %s",
              row->name, def, setting_expected(row, expected, sizeof(expected)));
        check(parse_settings(&t, text) && setting_value(row, &t) == row->def,
              "%s is taken back, into a field of the right width", text);
        check(strchr(row->help, '\n') == NULL && row->help[strlen(row->help) - 1] != '.', "%s: help of one line",
              row->name);
        for (const struct setting *other = settings_table; other != row; other++)
            if (strcmp(other->name, row->name) == 0 || other->offset == row->offset)
                check(false, "%s and %s are two things", other->name, row->name);
    }
    check(n == 39, "%u settings", n);
}

/* A pool's own settings count for it alone, wherever they stand, and for each kind of setting. */
static void check_own_settings(void)
{
    static const char *const orders[] = {
        "7.timeout=2s,timeout=500,8.hash=md5,7.usr=joe,item_size_max=5,7.item_size_max=6,7.weight=3\n7.pwd=a, b",
        "7.pwd=a, b\n7.weight=3,7.usr=joe;7.downstream_timeout=2000 8.hash=md5,7.item_size_max=6\nitem_size_max=5 "
        "timeout=500",
    };

    for (size_t i = 0; i < ARRAY_LEN(orders); i++) {
        struct own_settings *own = NULL;
        struct settings s;
        struct config *config = NULL;

        settings_init(&s);
        if (check(settings_parse(&s, &own, orders[i], error, sizeof(error)), "settings of pools, case %zu", i))
            config = config_parse("6=a;7=a,b:1:2;8=a", &s, own, error, sizeof(error));
        own_settings_free(&own);
        if (!check(config != NULL && own == NULL, "for three pools"))
            continue;
        for (uint32_t k = 0; k < 3; k++) {
            const struct pool *pool = &config->pools[k];
            const struct settings *of = &pool->settings;
            bool seven = pool->port == 7;

            check(of->downstream_timeout_ms == (seven ? 2000 : 500) && of->item_size_max == (seven ? 6 : 5) &&
                      of->hash == (pool->port == 8 ? MCS_HASH_MD5 : MCS_HASH_DEFAULT) &&
                      strcmp(of->usr, seven ? "joe" : "") == 0 && strcmp(of->pwd, seven ? "a, b" : "") == 0 &&
                      of->downstream_weight == (seven ? 3 : 1) && of->downstream_retry == 1,
                  "pool %u has its own, and what all have", pool->port);
            check(pool->servers[0].weight == of->downstream_weight, "and its servers go by them");
        }
        config_unref(config);
    }
}

static void check_settings_help(void)
{
    char *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);

    settings_print_help(out);
    fclose(out);
    for (const struct setting *row = settings_table; row->name != NULL; row++)
        check(strstr(text, row->name) != NULL && strstr(text, row->help) != NULL, "help tells of %s", row->name);
    free(text);
}

/*
 * -z
 */

/* What the text becomes, as the texts of its pools with ';' between them; or the error. */
static const char *describe(const char *text)
{
    static char description[512];
    struct settings s;
    struct config *config;

    settings_init(&s);
    config = config_parse(text, &s, NULL, error, sizeof(error));
    if (config == NULL)
        return error;
    description[0] = '\0';
    for (uint32_t i = 0; i < config->num_pools; i++)
        snprintf(description + strlen(description), sizeof(description) - strlen(description), "%s%s", i > 0 ? ";" : "",
                 config->pools[i].text);
    config_unref(config);
    return description;
}

static void check_pools_taken(void)
{
    static const char *const cases[][2] = {
        {"11211=host", "11211=host:11211:1"},
        {"11211=host1:11311,host2:11312:5", "11211=host1:11311:1,host2:11312:5"},
        {"0=10.0.0.1", "0=10.0.0.1:11211:1"},
        {"65535=a:1,a:65535", "65535=a:1:1,a:65535:1"},
        {"11211=a;11212=b", "11211=a:11211:1;11212=b:11211:1"},
        {"11211=a;", "11211=a:11211:1"},
        {"11211=[::1]", "11211=[::1]:11211:1"},
        {"11211=[::1]:11311:2", "11211=[::1]:11311:2"},
        {"11211=[fe80::1%eth0]:11311", "11211=[fe80::1%eth0]:11311:1"},
        {"11211=/run/m.sock", "11211=/run/m.sock:1"},
        {"11211=unix:/run/m.sock", "11211=/run/m.sock:1"},
        {"11211=/run/m.sock:3", "11211=/run/m.sock:3"},
        {"11211=unix:/run/m.sock::3,b", "11211=/run/m.sock:3,b:11211:1"},
        {"11211=/run/a:b.sock", "11211=/run/a:b.sock:1"},
        {"11211=/run/a=b#c", "11211=/run/a=b#c:1"},
        {"11211=/Run,/run", "11211=/Run:1,/run:1"},
        {"11211=unix", "11211=unix:11211:1"},
        {"11211=unix:11311", "11211=unix:11311:1"},
        {"11211=host_1.example.com.:11311", "11211=host_1.example.com.:11311:1"},
        {" 11211 = a , b:11311 ; 11212=c ; ", "11211=a:11211:1,b:11311:1;11212=c:11211:1"},
        {"# pools\n11211 =  # the first\n  a,\n  #b,\n  c;\n\n11212 = d;\n# end",
         "11211=a:11211:1,c:11211:1;11212=d:11211:1"},
        {"\t11211=a\r\n", "11211=a:11211:1"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const char *got = describe(cases[i][0]);
        check(strcmp(got, cases[i][1]) == 0, "-z case %zu: %s", i, got);
        got = describe(cases[i][1]);
        check(strcmp(got, cases[i][1]) == 0, "and its own text makes the same");
    }
}

static void check_pools_refused(void)
{
    static const char *const cases[][2] = {
        {"", "no pool"},
        {" # nothing", "no pool"},
        {";", "expected LPORT="},
        {"11211=a;;11212=b", "expected LPORT="},
        {"host", "\"host\": expected LPORT="},
        {"host1:11211,host2:11211", "\"host1:11211\": expected LPORT="},
        {"11211", "\"11211\": expected LPORT="},
        {"11211=a;b", "\"b\": expected LPORT="},
        {"=a", "\"=\": LPORT is not"},
        {"65536=a", "\"65536=\": LPORT is not a number from 0 to 65535"},
        {"-1=a", "LPORT is not"},
        {"x=a", "\"x=\": LPORT is not"},
        {"11211=", "pool 11211: no server after the '='"},
        {"11211=;11212=a", "pool 11211: no server after the '='"},
        {"11211=a,", "pool 11211: no server after the ','"},
        {"11211=a,,b", "pool 11211: no server after the ','"},
        {"11211=,a", "pool 11211: no server after the '='"},
        {"11211=a;11211=b", "pool 11211: given twice"},
        {"11211=:11311", "pool 11211: server :11311: the host is missing"},
        {"11211=a:", "pool 11211: server a:: port \"\" is not"},
        {"11211=a:0", "server a:0: port \"0\" is not a number from 1 to 65535"},
        {"11211=b,a:65536", "server a:65536: port \"65536\" is not a number from 1 to 65535"},
        {"11211=a:port", "port \"port\" is not"},
        {"11211=a:1x", "port \"1x\" is not"},
        {"11211=a:-1", "port \"-1\" is not"},
        {"11211=host::2", "port \"\" is not"},
        {"11211=a:1:0", "server a:1:0: weight \"0\" is not a number from 1 to 1000000"},
        {"11211=a:1:", "weight \"\" is not"},
        {"11211=a:1:1000001", "weight \"1000001\" is not"},
        {"11211=a:1:2:3", "weight \"2:3\" is not"},
        {"11211=a:1:x", "weight \"x\" is not"},
        {"11211=a,b,a", "pool 11211: server a:11211: given twice"},
        {"11211=a,A:11211:3", "server A:11211: given twice"},
        {"11211=/run/m,unix:/run/m:2", "server /run/m: given twice"},
        {"11211=[::1", "server [::1: no ']' closes the '['"},
        {"11211=[host]", "\"host\" is not an IPv6 address"},
        {"11211=[]", "\"\" is not an IPv6 address"},
        {"11211=[fe80::1%]", "is not an IPv6 address"},
        {"11211=[::1]11311", "expected a ':' before \"11311\""},
        {"11211=[::1]:", "port \"\" is not"},
        {"11211=::1", "an IPv6 address stands in brackets, [::1]"},
        {"11211=fe80::1", "an IPv6 address stands in brackets"},
        {"11211=a b", "pool 11211: expected ',' or ';' after server a:11211"},
        {"11211=a\n11212=b", "line 2: pool 11211: expected ',' or ';' after server a:11211"},
        {"11211=h@st", "server h@st: a host name is made of"},
        {"11211=a=b", "server a=b: a host name is made of"},
        {"11211=/", "does not end in '/'"},
        {"11211=/run/", "does not end in '/'"},
        {"11211=/run/m:0", "weight \"0\" is not"},
        {"11211=/run/m:", "weight \"\" is not"},
        {"11211=unix:run", "port \"run\" is not"},
        {"11211=http://a/pools", "URLs are not supported by this version"},
        {"http://host:8091/pools/default", "URLs are not supported by this version"},
        {"https://host/x", "URLs are not supported by this version"},
        {"url=http://host:8091/pools/default", "URLs are not supported by this version"},
        {"auth=u%p,url=http://host/", "URLs are not supported by this version"},
        {"11211={\"name\":\"x\"}", "pool 11211: vbucket maps are not supported by this version"},
        {"11211=a;\n11212=b,\n  c:0;\n", "line 3: pool 11212: server c:0: port \"0\" is not"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct settings s;
        struct config *config;
        settings_init(&s);
        error[0] = '\0';
        config = config_parse(cases[i][0], &s, NULL, error, sizeof(error));
        check(config == NULL && strstr(error, cases[i][1]) != NULL, "-z refused, case %zu: %s", i, error);
        config_unref(config);
    }
}

/* Words that are too long for what they are, and for the buffer of the message. */
static void check_long_words(void)
{
    char text[4096];
    struct settings s;
    struct config *config;
    struct own_settings *own = NULL;
    char small[16];

    settings_init(&s);
    snprintf(text, sizeof(text), "11211=%0300d", 0);
    config = config_parse(text, &s, NULL, error, sizeof(error));
    check(config == NULL && strstr(error, "at most 255 bytes") != NULL, "a host of 300 bytes is refused");
    snprintf(text, sizeof(text), "11211=/%0108d", 0);
    config = config_parse(text, &s, NULL, error, sizeof(error));
    check(config == NULL && strstr(error, "at most 107 bytes") != NULL, "a path that no unix socket can have, too");
    snprintf(text, sizeof(text), "%0*d", (int)sizeof(text) - 1, 0);
    config = config_parse(text, &s, NULL, small, sizeof(small));
    check(config == NULL && strlen(small) == sizeof(small) - 1, "a message never exceeds its buffer");
    check(!settings_parse(&s, &own, text, small, sizeof(small)) && strlen(small) == sizeof(small) - 1,
          "for -Z neither");
}

static void check_too_many_servers(void)
{
    char text[4096] = "11211=h0";
    struct settings s;
    struct config *config;

    settings_init(&s);
    for (int i = 1; i <= 100; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), ",h%d", i);
    config = config_parse(text, &s, NULL, error, sizeof(error));
    check(config == NULL && strstr(error, "pool 11211: 101 servers: ") != NULL, "101 servers on a continuum: %s",
          error);
    check(parse_settings(&s, "distribution=modula"), "with modula");
    config = config_parse(text, &s, NULL, error, sizeof(error));
    check(config != NULL && config->pools[0].num_servers == 101, "they are taken");
    config_unref(config);
}

static void check_pool_fields(void)
{
    struct settings s;
    struct config *config;
    const struct pool *pool;

    settings_init(&s);
    check(parse_settings(&s, "weight=4,timeout=77"), "settings");
    config = config_parse("11300=Alpha:11311,[::1]:12:2,/run/x.sock;11301=one", &s, NULL, error, sizeof(error));
    if (!check(config != NULL, "two pools"))
        return;
    pool = &config->pools[0];
    check(config->num_pools == 2 && pool->num_servers == 3 && pool->port == 11300, "of the servers and ports given");
    check(strcmp(pool->name, "11300") == 0 && strcmp(config->pools[1].name, "11301") == 0, "named after their ports");
    check(strcmp(pool->servers[0].name, "Alpha:11311") == 0 && strcmp(pool->servers[0].host, "Alpha") == 0 &&
              pool->servers[0].port == 11311 && pool->servers[0].weight == 4 && !pool->servers[0].unix_socket,
          "a host");
    check(strcmp(pool->servers[1].name, "[::1]:12") == 0 && strcmp(pool->servers[1].host, "::1") == 0 &&
              pool->servers[1].port == 12 && pool->servers[1].weight == 2 && !pool->servers[1].unix_socket,
          "an IPv6 address");
    check(strcmp(pool->servers[2].name, "/run/x.sock") == 0 && strcmp(pool->servers[2].host, "/run/x.sock") == 0 &&
              pool->servers[2].port == 0 && pool->servers[2].weight == 4 && pool->servers[2].unix_socket,
          "a unix socket");
    check(pool->mcs != NULL && config->pools[1].mcs == NULL, "a continuum for several servers, none for one");
    check(pool->settings.downstream_timeout_ms == 77, "the settings");
    config_unref(config);
    config = config_parse("11300=one", &s, NULL, error, sizeof(error));
    check(config != NULL && strcmp(config->pools[0].name, "default") == 0, "a pool alone is called default");
    config_unref(config);
}

static void *hold_and_drop(void *config)
{
    for (int i = 0; i < 10000; i++) {
        struct config *mine = config_ref(config);
        if (mine->num_pools != 1)
            abort();
        config_unref(mine);
    }
    config_unref(config);
    return NULL;
}

/* Memory checkers see it when the last of several threads to let go does not free the config, or two do. */
static void check_references(void)
{
    pthread_t threads[4];
    struct settings s;
    struct config *config;

    settings_init(&s);
    config = config_parse("1=a,b", &s, NULL, error, sizeof(error));
    for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
        if (pthread_create(&threads[i], NULL, hold_and_drop, config_ref(config)) != 0)
            abort();
    }
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    check(atomic_load(&config->refs) == 1, "threads give their references back");
    config_unref(config);
}

/*
 * Files, -p and -s
 */

static void write_file(const char *name, const void *bytes, size_t n)
{
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    file = fopen(path, "w");
    if (file == NULL || fwrite(bytes, 1, n, file) != n || fclose(file) != 0)
        abort();
}

static void write_text(const char *name, const char *text)
{
    write_file(name, text, strlen(text));
}

/* Loads; the message must hold `part` and begin with `where`, both NULL when it must succeed. */
static struct config *load(const struct agent_config_source *source, const char *where, const char *part,
                           const char *name)
{
    struct config *config;

    error[0] = '\0';
    config = agent_config_load(source, error, sizeof(error));
    if (part == NULL)
        check(config != NULL, "%s%s%s", name, config == NULL ? ": " : "", error);
    else
        check(config == NULL && strncmp(error, where, strlen(where)) == 0 && strstr(error, part) != NULL, "%s: %s",
              name, error);
    return config;
}

static void check_arguments(void)
{
    config_unref(load(&(struct agent_config_source){.cluster = "1=a"}, NULL, NULL, "-z alone"));
    load(&(struct agent_config_source){.cluster = "a"}, "-z: ", "LPORT=", "-z without LPORT");
    load(&(struct agent_config_source){.cluster = ""}, "-z: ", "no pool", "-z of nothing");
    load(&(struct agent_config_source){.cluster = "1=a", .settings = "x=1"}, "-Z: ", "unknown", "-Z unknown");
    load(&(struct agent_config_source){.cluster = "0=a"}, "-z: ", "needs a unix socket", "LPORT 0 without -s");
    config_unref(
        load(&(struct agent_config_source){.cluster = "0=a", .needs_no_port = true}, NULL, NULL, "LPORT 0 with -s"));
}

static void check_port(void)
{
    struct config *config = load(&(struct agent_config_source){.cluster = "a,b:1", .has_port = true, .port = 5}, NULL,
                                 NULL, "-p and servers only");
    check(config != NULL && config->pools[0].port == 5 && config->pools[0].num_servers == 2, "make a pool");
    config_unref(config);
    config_unref(load(&(struct agent_config_source){.cluster = "5=a", .has_port = true, .port = 5}, NULL, NULL,
                      "-p equal to LPORT"));
    config_unref(load(&(struct agent_config_source){.cluster = "4=a;5=b", .has_port = true, .port = 5}, NULL, NULL,
                      "-p equal to one LPORT"));
    config_unref(load(&(struct agent_config_source){.cluster = "unix:/a=b", .has_port = true, .port = 5}, NULL, NULL,
                      "-p and a path with a '='"));
    load(&(struct agent_config_source){.cluster = " 4 =a", .has_port = true, .port = 5}, "-z: ", "-p 5 is not",
         "-p other than LPORT");
    load(&(struct agent_config_source){.cluster = "a;b", .has_port = true, .port = 5}, "-z: ", "\"b\": expected LPORT",
         "-p gives one pool its port");
    config = load(&(struct agent_config_source){.cluster = "a", .has_port = true, .any_port = true}, NULL, NULL,
                  "-p -1 for a -z without LPORT");
    check(config != NULL && config->pools[0].any_port && config->pools[0].port == 0,
          "the kernel is to choose its port");
    config_unref(config);
    load(&(struct agent_config_source){.cluster = "1=a", .has_port = true, .any_port = true}, "-z: ", "-p -1 is not",
         "-p -1 with LPORT");
    load(&(struct agent_config_source){.cluster = "0=a", .has_port = true, .any_port = true, .needs_no_port = true},
         "-z: ", "-p -1 is not", "nor is it an LPORT of 0");
    load(&(struct agent_config_source){.cluster = "a", .has_port = true, .port = 0}, "-z: ", "needs a unix socket",
         "-p 0 without -s");
}

/* LPORTs of -Z: those of -z, or of -p. */
static void check_lports(void)
{
    struct config *config = load(&(struct agent_config_source){.cluster = "4=a;5=b", .settings = "5.timeout=7"}, NULL,
                                 NULL, "-Z for a pool");

    check(config != NULL && config->pools[0].settings.downstream_timeout_ms == 5000 &&
              config->pools[1].settings.downstream_timeout_ms == 7,
          "is for that one");
    config_unref(config);
    config =
        load(&(struct agent_config_source){.cluster = "local", .settings = "5.timeout=7", .has_port = true, .port = 5},
             NULL, NULL, "-Z for the pool of -p");
    check(config != NULL && config->pools[0].settings.downstream_timeout_ms == 7, "is for that one");
    config_unref(config);
    config = load(
        &(struct agent_config_source){.cluster = "a", .settings = "0.timeout=7", .has_port = true, .any_port = true},
        NULL, NULL, "-Z for the pool of -p -1");
    check(config != NULL && config->pools[0].settings.downstream_timeout_ms == 7, "is for that one");
    config_unref(config);
    load(&(struct agent_config_source){.cluster = "4=a;5=b", .settings = "5.timeout=7,6.timeout=7"},
         "-Z: ", "6 is not the LPORT of any pool", "-Z for no pool");
    load(&(struct agent_config_source){.cluster = "a", .settings = "0.timeout=7", .has_port = true, .port = 5},
         "-Z: ", "0 is not the LPORT", "-Z for the pool 0, which is 5");
    load(&(struct agent_config_source){.cluster = "5=a", .settings = "5.usr=joe,5.pwd=x"}, "-Z: ", "pwd: everybody",
         "a password of a pool on the command line");
    write_text("own", "timeout=7\n\n4.retry=0\n6.retry=0\n6.timeout=7\n");
    load(&(struct agent_config_source){.cluster = "4=a;5=b", .settings = path}, path, "line 4: 6 is not the LPORT",
         "a file of -Z for no pool");
    write_text("own", "4.pwd=x\n");
    load(&(struct agent_config_source){.cluster = "4=a;5=b", .settings = path}, "pool 4: ", "without usr",
         "a password of a pool without a user");
    write_text("own", "usr=joe\npwd=x\n4.usr=a\1b\n");
    load(&(struct agent_config_source){.cluster = "4=a;5=b", .settings = path}, "pool 4: ", "control character",
         "a user of a pool that cannot be told");
    write_text("own", "4.usr=ann\n4.pwd=x\n5.pwd=y\nusr=joe\n");
    config = load(&(struct agent_config_source){.cluster = "4=a;5=b", .settings = path}, NULL, NULL, "users of pools");
    check(config != NULL && strcmp(config->pools[0].settings.usr, "ann") == 0 &&
              strcmp(config->pools[0].settings.pwd, "x") == 0 && strcmp(config->pools[1].settings.usr, "joe") == 0 &&
              strcmp(config->pools[1].settings.pwd, "y") == 0,
          "each with its password");
    config_unref(config);
}

static void check_files(void)
{
    static const char pools[] = "# two pools\n11211 = a,\n  b;\n11212 = c\n", wrong[] = "11211=a,\nb:x\n";
    static const char settings[] = "# settings\nretry = 0\ntimeout=7\n", wrong_settings[] = "retry=0\nnonsense=1\n";
    char pools_path[PATH_MAX];
    struct config *config;

    write_file("pools", pools, strlen(pools));
    memcpy(pools_path, path, sizeof(path));
    config = load(&(struct agent_config_source){.cluster = path}, NULL, NULL, "-z of a file");
    check(config != NULL && config->num_pools == 2 && config->pools[0].num_servers == 2, "has its pools");
    config_unref(config);
    write_file("settings", settings, strlen(settings));
    config = load(&(struct agent_config_source){.cluster = pools_path, .settings = path}, NULL, NULL, "-Z of a file");
    check(config != NULL && config->pools[1].settings.downstream_timeout_ms == 7, "has its settings");
    config_unref(config);
    write_file("wrong_settings", wrong_settings, strlen(wrong_settings));
    load(&(struct agent_config_source){.cluster = pools_path, .settings = path}, path, "line 2: nonsense",
         "a wrong line of a file of -Z");
    write_file("wrong", wrong, strlen(wrong));
    load(&(struct agent_config_source){.cluster = path}, path, "line 2: pool 11211: server b:x: port",
         "a wrong line of a file of -z");
    write_file("servers", "# no port\na,b\n", strlen("# no port\na,b\n"));
    config = load(&(struct agent_config_source){.cluster = path, .has_port = true, .port = 9}, NULL, NULL,
                  "-p and a file of servers");
    check(config != NULL && config->pools[0].port == 9 && config->pools[0].num_servers == 2, "make a pool");
    config_unref(config);
}

static void check_bad_files(void)
{
    char *large = util_xcalloc(1, AGENT_CONFIG_FILE_MAX + 1);

    write_file("empty", "", 0);
    load(&(struct agent_config_source){.cluster = path}, path, "no pool", "an empty file");
    write_file("nul", "1=a\0b", 5);
    load(&(struct agent_config_source){.cluster = path}, path, "NUL byte", "a NUL byte in a file");
    memset(large, ' ', AGENT_CONFIG_FILE_MAX + 1);
    memcpy(large, "1=a", 3);
    write_file("large", large, AGENT_CONFIG_FILE_MAX + 1);
    load(&(struct agent_config_source){.cluster = path}, path, "larger than", "a file that is too large");
    write_file("large", large, AGENT_CONFIG_FILE_MAX);
    config_unref(load(&(struct agent_config_source){.cluster = path}, NULL, NULL, "a file that is just not too large"));
    free(large);
    snprintf(path, sizeof(path), "%s/missing", directory);
    load(&(struct agent_config_source){.cluster = path}, path, "No such file", "a file that is missing");
    load(&(struct agent_config_source){.cluster = "1=a", .settings = path}, path, "No such file", "for -Z too");
    load(&(struct agent_config_source){.cluster = directory}, directory, "directory", "a directory");
    if (chdir(directory) != 0)
        abort();
    config_unref(
        load(&(struct agent_config_source){.cluster = "./pools"}, NULL, NULL, "a path that begins with a dot"));
}

static void remove_files(void)
{
    static const char *const names[] = {"pools", "settings", "wrong_settings", "wrong", "servers",
                                        "empty", "nul",      "large",          "own"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(path, sizeof(path), "%s/%s", directory, names[i]);
        unlink(path);
    }
    rmdir(directory);
}

int main(void)
{
    if (mkdtemp(directory) == NULL)
        return 1;
    check_settings_taken();
    check_settings_refused();
    check_missing_hashes();
    check_table();
    check_own_settings();
    check_settings_help();
    check_pools_taken();
    check_pools_refused();
    check_long_words();
    check_too_many_servers();
    check_pool_fields();
    check_references();
    check_arguments();
    check_port();
    check_lports();
    check_files();
    check_bad_files();
    remove_files();
    return tap_end();
}
