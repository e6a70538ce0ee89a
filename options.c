/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * options - the table of the command line, and its parser. What is printed of it is options_print's.
 *
 * To add an option: a field in struct options, a row here. The letters are memcached's, and so are the long names where
 * memcached has the option.
 */
#include "options_int.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "cache.h"

enum {
    THREADS_MAX = 64,
    PORT_MAX = 65535,
    MEMCACHED_PORT = 11211,
    UNIX_PATH_MAX_BYTES = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1,
    LONG_ONLY = 256, /* what getopt returns for row i, when it has no letter: LONG_ONLY + i */
};

#define FIELD(name) offsetof(struct options, name)

const char *const options_binding_names[OPTIONS_BINDINGS] = {"auto", "ascii", "binary"};

const struct option_row options_table[] = {
    {'z', "config", "POOLS", OPTION_STRING, FIELD(cluster), 0, 0, 0,
     "what to serve: LPORT=HOST[:PORT[:WEIGHT]],...[;LPORT2=...], or a file that holds it when it begins with '/' or "
     "'.'"},
    {'Z', "settings", "SETTINGS", OPTION_STRING, FIELD(settings), 0, 0, 0,
     "KEY=VALUE,... as listed under SETTINGS, for all pools, LPORT.KEY=VALUE for the one of this LPORT, or a file that "
     "holds them when it begins with '/' or '.'"},
    {'p', "port", "PORT", OPTION_PORT, FIELD(port), 0, 0, PORT_MAX,
     "TCP port of the pool of a -z that has no LPORT=, and of a moxi without -z, which is a memcached (then by default "
     "none with -s, else that of -U, else 11211); 0 is none, -1 one that the kernel chooses: see "
     "MEMCACHED_PORT_FILENAME"},
    {'U', "udp-port", "PORT", OPTION_PORT, FIELD(udp_port), 0, 0, PORT_MAX,
     "UDP port of the first pool, on the addresses of -l, or on loopback only without it; 0, the default, is none, -1 "
     "one that the kernel chooses"},
    {'s', "unix-socket", "PATH", OPTION_STRING, FIELD(unix_socket), 0, 0, 0,
     "unix socket to listen on as well; alone, with an LPORT of 0"},
    {'a', "unix-mask", "MODE", OPTION_OCTAL, FIELD(unix_mask), 0700, 0, 0777,
     "permissions of the unix socket, in octal"},
    {'l', "listen", "ADDRESS", OPTION_LISTEN, 0, 0, 0, 0,
     "listen on this interface instead of all: HOST, HOST:PORT, IPv6 or [IPv6]:PORT, several with commas or another "
     "-l"},
    {'c', "conn-limit", "NUMBER", OPTION_NUMBER, FIELD(conn_limit), 1024, 1, 1000000,
     "clients connected at the same time"},
    {'b', "listen-backlog", "NUMBER", OPTION_NUMBER, FIELD(backlog), 1024, 1, 65535,
     "connections that the kernel may hold ready to be accepted"},
    {'t', "threads", "NUMBER", OPTION_NUMBER, FIELD(threads), 0, 1, THREADS_MAX,
     "worker threads; without it, one for each core that moxi may run on"},
    {'R', "max-reqs-per-event", "NUMBER", OPTION_NUMBER, FIELD(reqs_per_event), 20, 1, 1000000,
     "requests of one client in a turn before others have theirs"},
    {'m', "memory-limit", "MEGABYTES", OPTION_NUMBER, FIELD(memory_mb), 64, 1, 16 * 1024 * 1024,
     "memory for the cache inside"},
    {'I', "max-item-size", "BYTES", OPTION_BYTES, FIELD(item_size), CACHE_ITEM_MAX, 1024, CACHE_ITEM_MAX_LIMIT,
     "largest item of the cache inside, with k or m behind it for KiB or MiB"},
    {'M', "disable-evictions", NULL, OPTION_FLAG, FIELD(no_evict), 0, 0, 0,
     "give an error when the cache inside is full, instead of evicting"},
    {'C', "disable-cas", NULL, OPTION_FLAG, FIELD(no_cas), 0, 0, 0,
     "no versions of items: gets tells 0, cas never stores, and flush_all takes what is stored in its second as well"},
    {'X', "disable-dumping", NULL, OPTION_FLAG, FIELD(no_dump), 0, 0, 0,
     "refuse stats cachedump, and lru_crawler metadump and mgdump"},
    {'W', "disable-watch", NULL, OPTION_FLAG, FIELD(no_watch), 0, 0, 0, "refuse watch"},
    {'D', "delimiter", "CHARACTER", OPTION_CHAR, FIELD(delimiter), 0, 0, 0,
     "count by what stands before this character in keys, for stats detail, from the start; otherwise ':', once stats "
     "detail is on"},
    {'A', "enable-shutdown", NULL, OPTION_FLAG, FIELD(may_shutdown), 0, 0, 0,
     "let clients end moxi with the command shutdown"},
    {'F', "disable-flush-all", NULL, OPTION_FLAG, FIELD(no_flush), 0, 0, 0, "refuse flush_all"},
    {'o', "extended", "SUBOPTIONS", OPTION_EXTENDED, 0, 0, 0, 0,
     "with commas between: maxconns_fast (a client beyond -c is told so and hung up on, "
     "instead of waiting; on by default without -z), "
     "idle_timeout=SECONDS (hang up on a client that sends nothing for so long; 0, the default, is never), lru_crawler "
     "(look for expired items in the background; on by default), watcher_logbuf_size=KIB (lines that may wait for a "
     "client who watches, before others are skipped; 256), worker_logbuf_size=KIB (when so much waits for it, it gets "
     "it at "
     "once, and not within 10 ms; 64); no_ in front of the first three switches it off"},
    {'B', "protocol", "PROTOCOL", OPTION_BINDING, FIELD(binding), OPTIONS_BINDING_AUTO, 0, 0,
     "what clients speak: ascii (with the meta commands), binary, or auto, the default: whichever a client begins "
     "with"},
    {'S', "enable-sasl", NULL, OPTION_FLAG, FIELD(sasl), 0, 0, 0,
     "have clients of the binary protocol say who they are, by SASL PLAIN: users are those of the file that "
     "MEMCACHED_SASL_PWDB names, of lines user:password, else of -Y; without -Y, text is not spoken"},
    {'Y', "auth-file", "FILE", OPTION_STRING, FIELD(auth_file), 0, 0, 0,
     "have clients of text say who they are: their first command is a set whose value is a user, a blank and a "
     "password, "
     "of the lines user:password in this file, which SIGHUP has read again; without -S, the binary protocol is not "
     "spoken"},
    {'d', "daemon", NULL, OPTION_FLAG, FIELD(daemon), 0, 0, 0, "run in the background"},
    {'P', "pidfile", "FILE", OPTION_STRING, FIELD(pidfile), 0, 0, 0,
     "write the process id to this file, and remove it at the end"},
    {'u', "user", "NAME", OPTION_STRING, FIELD(user), 0, 0, 0, "become this user after a start as root"},
    {'r', "enable-coredumps", NULL, OPTION_FLAG, FIELD(coredumps), 0, 0, 0,
     "raise the limit on the size of core dumps as far as it goes"},
    {'k', "lock-memory", NULL, OPTION_FLAG, FIELD(lock_memory), 0, 0, 0, "keep all memory from being paged out"},
    {'v', "verbose", NULL, OPTION_COUNT, FIELD(verbose), 0, 0, 0,
     "log more: -v connections to servers, -vv those of clients too, -vvv requests too"},
    {'O', "log-file", "FILE", OPTION_STRING, FIELD(log_file), 0, 0, 0,
     "log to the end of this file instead of stderr; SIGHUP opens it again"},
    {'V', "version", NULL, OPTION_STATUS, 0, OPTIONS_VERSION, 0, 0, "print the version"},
    {'h', "help", NULL, OPTION_STATUS, 0, OPTIONS_HELP, 0, 0, "print this help"},
    {'i', "license", NULL, OPTION_STATUS, 0, OPTIONS_LICENSE, 0, 0, "print the licence"},
    {0, "man", NULL, OPTION_STATUS, 0, OPTIONS_MAN, 0, 0, "print the manual page, for man(1) or for installing"},
    {.name = NULL},
};

enum { NUM_ROWS = ARRAY_LEN(options_table) - 1 };

/* A bit a row says which options were given already. */
_Static_assert(NUM_ROWS <= 64, "the rows fit in a uint64_t");

/* Where a parse stands. */
struct parse {
    struct options *options;
    uint64_t given;
    bool maxconns_given;
    char *error;
    size_t errlen;
};

static bool fail(struct parse *parse, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Always false, for `return fail(…)`. */
static bool fail(struct parse *parse, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(parse->error, parse->errlen, fmt, args);
    va_end(args);
    return false;
}

/*
 * Parsing
 */

static uint32_t count_cores(void)
{
    cpu_set_t set;
    long n;

    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        n = CPU_COUNT(&set);
    else
        n = sysconf(_SC_NPROCESSORS_ONLN); /* more cores than a cpu_set_t holds */
    return n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : (uint32_t)n;
}

static void set_number(struct options *options, const struct option_row *row, uint32_t v)
{
    memcpy((char *)options + row->offset, &v, sizeof(v));
}

static bool parse_number(struct parse *parse, const struct option_row *row, const char *text)
{
    uint64_t v;

    if (!util_parse_u64(text, strlen(text), &v) || v < row->min || v > row->max)
        return fail(parse, "-%c %s: expected a number from %u to %u", row->letter, text, row->min, row->max);
    set_number(parse->options, row, (uint32_t)v);
    return true;
}

static bool parse_port(struct parse *parse, const struct option_row *row, const char *text)
{
    uint64_t v = OPTIONS_ANY_PORT;

    if (strcmp(text, "-1") != 0 && (!util_parse_u64(text, strlen(text), &v) || v > row->max))
        return fail(parse, "-%c %s: expected a number from 0 to %u, or -1", row->letter, text, row->max);
    set_number(parse->options, row, (uint32_t)v);
    if (row->offset == FIELD(port))
        parse->options->has_port = true;
    return true;
}

static bool parse_octal(struct parse *parse, const struct option_row *row, const char *text)
{
    const size_t n = strlen(text);
    uint32_t v = 0;

    for (size_t i = 0; i < n && v <= row->max; i++)
        v = v * 8 + (uint32_t)(text[i] - '0');
    if (n == 0 || strspn(text, "01234567") != n || v > row->max)
        return fail(parse, "-%c %s: expected permissions in octal, up to %o", row->letter, text, row->max);
    set_number(parse->options, row, v);
    return true;
}

static bool parse_bytes(struct parse *parse, const struct option_row *row, const char *text)
{
    size_t n = strlen(text);
    unsigned shift = 0;
    uint64_t v;

    if (n > 0)
        shift = strchr("kK", text[n - 1]) != NULL ? 10 : strchr("mM", text[n - 1]) != NULL ? 20 : 0;
    if (!util_parse_u64(text, shift != 0 ? n - 1 : n, &v) || v > row->max || v << shift < row->min ||
        v << shift > row->max)
        return fail(parse, "-%c %s: expected a size from %uk to %um", row->letter, text, row->min >> 10,
                    row->max >> 20);
    set_number(parse->options, row, (uint32_t)(v << shift));
    return true;
}

static bool parse_string(struct parse *parse, const struct option_row *row, const char *text)
{
    if (text[0] == '\0')
        return fail(parse, "-%c: expected %s, not an empty word", row->letter, row->argument);
    if (row->offset == FIELD(unix_socket) && strlen(text) > UNIX_PATH_MAX_BYTES)
        return fail(parse, "-s %s: the path of a unix socket has at most %zu bytes", text, (size_t)UNIX_PATH_MAX_BYTES);
    memcpy((char *)parse->options + row->offset, &text, sizeof(text));
    return true;
}

static bool is_ipv6(const char *p, size_t n)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;
    const char *scope = memchr(p, '%', n);

    if (scope != NULL)
        n = (size_t)(scope - p);
    if (n >= sizeof(text))
        return false;
    memcpy(text, p, n);
    text[n] = '\0';
    return inet_pton(AF_INET6, text, &address) == 1;
}

static void add_address(struct options *options, const char *host, size_t n, const uint64_t *port)
{
    struct listen_address *more = util_xcalloc(options->num_listen + 1, sizeof(*more));
    struct listen_address *address = &more[options->num_listen];

    if (options->num_listen > 0)
        memcpy(more, options->listen, options->num_listen * sizeof(*more));
    free(options->listen);
    options->listen = more;
    options->num_listen++;
    address->host = util_xmalloc(n + 1);
    memcpy(address->host, host, n);
    address->host[n] = '\0';
    address->has_port = port != NULL;
    address->port = port != NULL ? (uint16_t)*port : 0;
}

/* One address of -l, n bytes at p. */
static bool parse_address(struct parse *parse, const char *p, size_t n)
{
    const char *host = p, *colon, *end;
    size_t host_n;
    uint64_t port;

    if (is_ipv6(p, n)) {
        add_address(parse->options, p, n, NULL);
        return true;
    }
    end = n > 0 && *p == '[' ? memchr(p, ']', n) : NULL;
    if (end != NULL) {
        host = p + 1;
        host_n = (size_t)(end - host);
        if (!is_ipv6(host, host_n))
            return fail(parse, "-l %.*s: expected an IPv6 address in the brackets", (int)n, p);
        colon = end + 1 < p + n ? end + 1 : NULL;
    } else {
        colon = memchr(p, ':', n);
        host_n = colon != NULL ? (size_t)(colon - p) : n;
        if (host_n == 0 || *p == '[')
            return fail(parse, "-l %.*s: expected HOST, HOST:PORT, IPv6 or [IPv6]:PORT", (int)n, p);
    }
    if (colon == NULL) {
        add_address(parse->options, host, host_n, NULL);
        return true;
    }
    if (*colon != ':' || !util_parse_u64(colon + 1, (size_t)(p + n - colon) - 1, &port) || port < 1 || port > PORT_MAX)
        return fail(parse, "-l %.*s: the port is not a number from 1 to %d", (int)n, p, PORT_MAX);
    add_address(parse->options, host, host_n, &port);
    return true;
}

static bool parse_addresses(struct parse *parse, const char *text)
{
    for (;;) {
        size_t n = strcspn(text, ",");
        if (!parse_address(parse, text, n))
            return false;
        if (text[n] == '\0')
            return true;
        text += n + 1;
    }
}

/* A suboption of -o. */
struct suboption {
    const char *name; /* without no_ */
    bool has_value;
    size_t offset;          /* of a bool, or of a uint32_t when has_value */
    bool inverted;          /* the bool is true for no_ */
    uint32_t def, min, max; /* has_value; min 0: no_ is that */
};

static const struct suboption suboptions[] = {
    {"maxconns_fast", false, FIELD(maxconns_fast), .inverted = false},
    {"idle_timeout", true, FIELD(idle_timeout_s), .max = INT32_MAX},
    {"lru_crawler", false, FIELD(no_crawler), .inverted = true},
    {"watcher_logbuf_size", true, FIELD(watcher_logbuf_kb), .def = 256, .min = 1, .max = 1024 * 1024},
    {"worker_logbuf_size", true, FIELD(worker_logbuf_kb), .def = 64, .min = 1, .max = 1024 * 1024},
};

static void set_defaults(struct options *options)
{
    memset(options, 0, sizeof(*options));
    for (size_t i = 0; i < NUM_ROWS; i++) {
        if (options_table[i].type == OPTION_NUMBER || options_table[i].type == OPTION_OCTAL ||
            options_table[i].type == OPTION_BYTES)
            set_number(options, &options_table[i], options_table[i].def);
    }
    for (size_t i = 0; i < ARRAY_LEN(suboptions); i++)
        if (suboptions[i].has_value)
            *(uint32_t *)((char *)options + suboptions[i].offset) = suboptions[i].def;
}

static const struct suboption *find_suboption(const char *name, size_t n)
{
    for (size_t i = 0; i < ARRAY_LEN(suboptions); i++)
        if (strlen(suboptions[i].name) == n && memcmp(suboptions[i].name, name, n) == 0)
            return &suboptions[i];
    return NULL;
}

/* One suboption, n bytes at p: NAME, NAME=NUMBER or no_NAME. */
static bool parse_suboption(struct parse *parse, const char *p, size_t n)
{
    const char *equals = memchr(p, '=', n);
    size_t name_n = equals != NULL ? (size_t)(equals - p) : n;
    bool off = name_n > 3 && memcmp(p, "no_", 3) == 0;
    const struct suboption *s = off ? find_suboption(p + 3, name_n - 3) : find_suboption(p, name_n);
    uint64_t v = 0;

    if (s == NULL || (off && s->min > 0))
        return fail(parse, "-o %.*s: not a suboption, or one that means nothing here (moxi -h lists them)", (int)n, p);
    if ((equals != NULL) != (s->has_value && !off))
        return fail(parse, "-o %.*s: %s", (int)n, p,
                    equals != NULL ? "it takes no value" : "expected =NUMBER after it");
    if (!s->has_value) {
        bool on = off == s->inverted;

        memcpy((char *)parse->options + s->offset, &on, sizeof(on));
        parse->maxconns_given = parse->maxconns_given || s->offset == FIELD(maxconns_fast);
        return true;
    }
    if (equals != NULL && (!util_parse_u64(equals + 1, (size_t)(p + n - equals) - 1, &v) || v < s->min || v > s->max))
        return fail(parse, "-o %.*s: expected a number from %u to %u", (int)n, p, s->min, s->max);
    *(uint32_t *)((char *)parse->options + s->offset) = (uint32_t)v;
    return true;
}

static bool parse_extended(struct parse *parse, const char *text)
{
    for (;;) {
        size_t n = strcspn(text, ",");
        if (!parse_suboption(parse, text, n))
            return false;
        if (text[n] == '\0')
            return true;
        text += n + 1;
    }
}

static bool parse_char(struct parse *parse, const struct option_row *row, const char *text)
{
    if (strlen(text) != 1)
        return fail(parse, "-%c %s: expected one character", row->letter, text);
    ((char *)parse->options)[row->offset] = text[0];
    return true;
}

static bool parse_binding(struct parse *parse, const struct option_row *row, const char *text)
{
    for (uint32_t i = 0; i < ARRAY_LEN(options_binding_names); i++)
        if (strcmp(text, options_binding_names[i]) == 0) {
            *(uint32_t *)((char *)parse->options + row->offset) = i;
            return true;
        }
    return fail(parse, "-%c %s: expected auto, ascii or binary", row->letter, text);
}

/* An option whose second mention would silently undo the first. */
static bool is_single(const struct option_row *row)
{
    return row->type == OPTION_STRING || row->type == OPTION_NUMBER || row->type == OPTION_PORT ||
           row->type == OPTION_OCTAL || row->type == OPTION_BYTES || row->type == OPTION_CHAR ||
           row->type == OPTION_BINDING;
}

static uint64_t bit_of(const struct option_row *row)
{
    return UINT64_C(1) << (row - options_table);
}

static bool apply_option(struct parse *parse, const struct option_row *row, const char *argument)
{
    const uint64_t bit = bit_of(row);
    char *field = (char *)parse->options + row->offset;

    if (is_single(row) && (parse->given & bit) != 0)
        return fail(parse, "-%c: given twice", row->letter);
    parse->given |= bit;
    if (strchr("mIMCXDW", row->letter) != NULL && row->letter != 0)
        parse->options->cache_option = row->letter;
    switch (row->type) {
    case OPTION_STRING:
        return parse_string(parse, row, argument);
    case OPTION_NUMBER:
        return parse_number(parse, row, argument);
    case OPTION_PORT:
        return parse_port(parse, row, argument);
    case OPTION_OCTAL:
        return parse_octal(parse, row, argument);
    case OPTION_BYTES:
        return parse_bytes(parse, row, argument);
    case OPTION_LISTEN:
        return parse_addresses(parse, argument);
    case OPTION_FLAG:
        *(bool *)field = true;
        return true;
    case OPTION_CHAR:
        return parse_char(parse, row, argument);
    case OPTION_BINDING:
        return parse_binding(parse, row, argument);
    case OPTION_EXTENDED:
        return parse_extended(parse, argument);
    case OPTION_COUNT:
        ++*(uint32_t *)field;
        return true;
    case OPTION_STATUS:
        break;
    }
    return true;
}

/* The row of what getopt returned, or NULL. */
static const struct option_row *find_row(int value)
{
    for (size_t i = 0; i < NUM_ROWS; i++) {
        if (value == (options_table[i].letter != 0 ? options_table[i].letter : LONG_ONLY + (int)i))
            return &options_table[i];
    }
    return NULL;
}

/* What getopt_long wants to know, made from the rows. A ':' in front makes it tell a missing argument apart. */
struct getopt_tables {
    char letters[2 + 2 * NUM_ROWS];
    struct option names[NUM_ROWS + 1];
};

static void fill_tables(struct getopt_tables *tables)
{
    char *p = tables->letters;

    memset(tables, 0, sizeof(*tables));
    *p++ = ':';
    for (size_t i = 0; i < NUM_ROWS; i++) {
        const struct option_row *row = &options_table[i];
        tables->names[i] = (struct option){row->name, row->argument != NULL ? required_argument : no_argument, NULL,
                                           row->letter != 0 ? row->letter : LONG_ONLY + (int)i};
        if (row->letter != 0)
            *p++ = row->letter;
        if (row->letter != 0 && row->argument != NULL)
            *p++ = ':';
    }
}

/* Options of memcached's that mean nothing here. NULL: it is none of them. */
static const char *why_not(int letter)
{
    static const struct {
        const char *letters;
        const char *why;
    } reasons[] = {
        {"fnL", "memory is not divided into slabs here, so there are none to be shaped"},
        {"e", "the cache inside does not outlive the process"},
        {"N", "clients are spread over the workers in turn"},
    };

    for (size_t i = 0; letter != 0 && i < ARRAY_LEN(reasons); i++)
        if (strchr(reasons[i].letters, letter) != NULL)
            return reasons[i].why;
    return NULL;
}

/* Names the argument for which getopt_long returned value, ':' or '?'. */
static enum options_status fail_getopt(struct parse *parse, int value, char **argv)
{
    const struct option_row *row = find_row(optopt);

    if (value == ':')
        fail(parse, "%s: expected %s after it", argv[optind - 1], row != NULL ? row->argument : "a value");
    else if (row != NULL)
        fail(parse, "%s: --%s takes no value", argv[optind - 1], row->name);
    else if (why_not(optopt) != NULL)
        fail(parse, "-%c: not an option here: %s", optopt, why_not(optopt));
    else if (optopt != 0)
        fail(parse, "-%c: unknown option (moxi -h lists them)", optopt);
    else
        fail(parse, "%s: unknown option (moxi -h lists them)", argv[optind - 1]);
    return OPTIONS_BAD;
}

/* Without -z, moxi is one memcached, with memcached's defaults. */
static void be_memcached(struct parse *parse)
{
    struct options *options = parse->options;

    options->cluster = "local";
    options->is_memcached = true;
    if (!parse->maxconns_given)
        options->maxconns_fast = true;
    if (options->has_port)
        return;
    options->has_port = true;
    if (options->unix_socket == NULL)
        options->port = options->udp_port != 0 ? options->udp_port : MEMCACHED_PORT;
}

/* Who has to say who they are speaks what they can say it in. */
static bool check_auth(struct parse *parse)
{
    struct options *o = parse->options;
    bool text = o->auth_file != NULL, binary = o->sasl;

    if (!text && !binary)
        return true;
    if (o->udp_port != 0)
        return fail(parse, "-U: who sends datagrams cannot say who they are, as -%c wants it", text ? 'Y' : 'S');
    if (!binary && o->binding == OPTIONS_BINDING_BINARY)
        return fail(parse, "-B binary: clients of the binary protocol say who they are by SASL; -Y alone is for text");
    if (!text && o->binding == OPTIONS_BINDING_ASCII)
        return fail(parse, "-B ascii: clients of text say who they are with -Y; -S alone is for the binary protocol");
    if (text == binary || o->binding != OPTIONS_BINDING_AUTO)
        return true;
    if (parse->given & bit_of(find_row('B')))
        return fail(parse, "-B auto: clients of %s could not say who they are, without -%c",
                    text ? "the binary protocol" : "text", text ? 'S' : 'Y');
    o->binding = text ? OPTIONS_BINDING_ASCII : OPTIONS_BINDING_BINARY;
    return true;
}

/* What must be true of the whole. */
static bool check_options(struct parse *parse, int argc, char **argv)
{
    if (optind < argc)
        return fail(parse, "%s: unexpected argument", argv[optind]);
    if (parse->options->item_size > (uint64_t)parse->options->memory_mb << 19)
        return fail(parse, "-I: an item may have half of the memory of -m at the most");
    if (!check_auth(parse))
        return false;
    if (parse->options->cluster == NULL)
        be_memcached(parse);
    return true;
}

static enum options_status parse_arguments(struct parse *parse, int argc, char **argv)
{
    struct getopt_tables tables;
    const struct option_row *row;
    int value;

    fill_tables(&tables);
    optind = 0; /* glibc's way to begin anew */
    opterr = 0;
    while ((value = getopt_long(argc, argv, tables.letters, tables.names, NULL)) != -1) {
        row = value == ':' || value == '?' ? NULL : find_row(value);
        if (row == NULL)
            return fail_getopt(parse, value, argv);
        if (!apply_option(parse, row, optarg))
            return OPTIONS_BAD;
        if (row->type == OPTION_STATUS)
            return (enum options_status)row->def;
    }
    return check_options(parse, argc, argv) ? OPTIONS_SERVE : OPTIONS_BAD;
}

enum options_status options_parse(struct options *options, int argc, char **argv, char *error, size_t errlen)
{
    struct parse parse = {.options = options, .error = error, .errlen = errlen};
    enum options_status status;

    set_defaults(options);
    status = parse_arguments(&parse, argc, argv);
    if (options->threads == 0)
        options->threads = count_cores();
    return status;
}

void options_free(struct options *options)
{
    for (size_t i = 0; i < options->num_listen; i++)
        free(options->listen[i].host);
    free(options->listen);
    options->listen = NULL;
    options->num_listen = 0;
}
