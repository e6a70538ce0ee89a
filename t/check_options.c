/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_options - the command line (options.c): what each option sets, what is refused and with which words, and that
 * -h and the man page tell of everything that is taken.
 */
#include <stdlib.h>
#include <string.h>

#include "cproxy_config.h"
#include "options.h"
#include "tap.h"

enum { ARGS_MAX = 32, LINE_BYTES = 512 };

static char error[LINE_BYTES];

/* Parses a line of words between spaces, "moxi" in front. The words live until the next call. */
static enum options_status parse(struct options *options, const char *line)
{
    static char words[LINE_BYTES];
    char *argv[ARGS_MAX + 1] = {(char *)"moxi"}, *rest = words, *word;
    int argc = 1;

    snprintf(words, sizeof(words), "%s", line);
    while ((word = strsep(&rest, " ")) != NULL && argc < ARGS_MAX) {
        if (*word != '\0')
            argv[argc++] = word;
    }
    error[0] = '\0';
    return options_parse(options, argc, argv, error, sizeof(error));
}

static void check_defaults(void)
{
    struct options o;

    check(parse(&o, "-z 1=a") == OPTIONS_SERVE && strcmp(o.cluster, "1=a") == 0, "-z is enough: %s", error);
    check(o.settings == NULL && o.unix_socket == NULL && o.pidfile == NULL && o.user == NULL && o.log_file == NULL,
          "no strings but those given");
    check(!o.has_port && !o.daemon && !o.coredumps && !o.lock_memory && o.verbose == 0 && o.num_listen == 0,
          "nothing is on but what was asked for");
    check(o.unix_mask == 0700 && o.conn_limit == 1024 && o.backlog == 1024 && o.reqs_per_event == 20,
          "memcached's defaults");
    check(o.threads >= 1 && o.threads <= 64, "a thread for each core (%u)", o.threads);
    options_free(&o);
}

static void check_short(void)
{
    struct options o;

    check(parse(&o, "-z 1=a -Z retry=0 -p 0 -s /s -a 0755 -c 7 -b 8 -t 9 -R 10") == OPTIONS_SERVE, "letters: %s",
          error);
    check(strcmp(o.settings, "retry=0") == 0 && o.has_port && o.port == 0 && strcmp(o.unix_socket, "/s") == 0 &&
              o.unix_mask == 0755 && o.conn_limit == 7 && o.backlog == 8 && o.threads == 9 && o.reqs_per_event == 10,
          "set their fields");
    options_free(&o);
    check(parse(&o, "-z1=a -drkvv -v -P p -uu -O o") == OPTIONS_SERVE, "letters together: %s", error);
    check(o.daemon && o.coredumps && o.lock_memory && o.verbose == 3 && strcmp(o.pidfile, "p") == 0 &&
              strcmp(o.user, "u") == 0 && strcmp(o.log_file, "o") == 0,
          "set theirs");
    options_free(&o);
}

static void check_long(void)
{
    struct options o;

    check(parse(&o, "--config=1=a --settings retry=0 --port=5 --unix-socket=/s --unix-mask=77 --conn-limit 7 "
                    "--listen-backlog=8 --threads=9 --max-reqs-per-event=10") == OPTIONS_SERVE,
          "long names: %s", error);
    check(strcmp(o.cluster, "1=a") == 0 && strcmp(o.settings, "retry=0") == 0 && o.has_port && o.port == 5 &&
              strcmp(o.unix_socket, "/s") == 0 && o.unix_mask == 077 && o.conn_limit == 7 && o.backlog == 8 &&
              o.threads == 9 && o.reqs_per_event == 10,
          "set their fields");
    options_free(&o);
    check(parse(&o,
                "--config=1=a --daemon --enable-coredumps --lock-memory --verbose --pidfile=p --user=u --log-file=o "
                "--listen=::1") == OPTIONS_SERVE,
          "more long names: %s", error);
    check(o.daemon && o.coredumps && o.lock_memory && o.verbose == 1 && strcmp(o.pidfile, "p") == 0 &&
              strcmp(o.user, "u") == 0 && strcmp(o.log_file, "o") == 0 && o.num_listen == 1,
          "set theirs");
    options_free(&o);
}

/* The addresses that a line of -l makes: "HOST" or "HOST PORT", a '|' between them. */
static void check_listen(const char *line, const char *expected)
{
    char text[LINE_BYTES] = "", arguments[LINE_BYTES];
    struct options o;

    snprintf(arguments, sizeof(arguments), "-z 1=a %s", line);
    if (parse(&o, arguments) == OPTIONS_BAD)
        snprintf(text, sizeof(text), "%s", error);
    for (size_t i = 0; i < o.num_listen; i++) {
        size_t n = strlen(text);
        snprintf(text + n, sizeof(text) - n, "%s%s", i > 0 ? "|" : "", o.listen[i].host);
        n = strlen(text);
        if (o.listen[i].has_port)
            snprintf(text + n, sizeof(text) - n, " %u", (unsigned)o.listen[i].port);
    }
    check(strcmp(text, expected) == 0, "%s: %s", line, text);
    options_free(&o);
}

static void check_listens(void)
{
    check_listen("-l 127.0.0.1", "127.0.0.1");
    check_listen("-l 127.0.0.1:65535", "127.0.0.1 65535");
    check_listen("-l localhost,::1", "localhost|::1");
    check_listen("-l ::1 -l a:1 -l [::1]", "::1|a 1|::1");
    check_listen("-l [fe80::1%eth0]:11211,0.0.0.0", "fe80::1%eth0 11211|0.0.0.0");
    check_listen("-l ::", "::");
}

/* Without -z, moxi is a memcached. */
static void check_memcached(void)
{
    struct options o;

    check(parse(&o, "") == OPTIONS_SERVE && strcmp(o.cluster, "local") == 0 && o.has_port && o.port == 11211 &&
              o.memory_mb == 64 && o.item_size == 1 << 20 && !o.no_evict && o.maxconns_fast && o.cache_option == 0,
          "no arguments: a memcached of 64 MB on 11211");
    options_free(&o);
    check(parse(&o, "-s /tmp/s") == OPTIONS_SERVE && o.has_port && o.port == 0, "-s: no port");
    options_free(&o);
    check(parse(&o, "-s /tmp/s -p 5") == OPTIONS_SERVE && o.has_port && o.port == 5, "-s -p: both");
    options_free(&o);
    check(parse(&o, "-U 7") == OPTIONS_SERVE && o.port == 7 && o.udp_port == 7, "-U: the TCP port, too");
    options_free(&o);
    check(parse(&o, "-U 7 -s /tmp/s") == OPTIONS_SERVE && o.port == 0 && o.udp_port == 7, "-U -s: no TCP port");
    options_free(&o);
    check(parse(&o, "-U 0") == OPTIONS_SERVE && o.port == 11211 && o.udp_port == 0, "-U 0: none");
    options_free(&o);
    check(parse(&o, "-U -1") == OPTIONS_SERVE && o.port == OPTIONS_ANY_PORT && o.udp_port == OPTIONS_ANY_PORT,
          "-U -1: the kernel chooses both");
    options_free(&o);
    check(parse(&o, "-p -1 -U 7") == OPTIONS_SERVE && o.port == OPTIONS_ANY_PORT && o.udp_port == 7, "-p -1");
    options_free(&o);
    check(parse(&o, "-m 100 -I 2m -M -C -X -A -F -D | -U 7 -o idle_timeout=9,no_lru_crawler -o no_maxconns_fast") ==
                  OPTIONS_SERVE &&
              o.memory_mb == 100 && o.item_size == 2 << 20 && o.no_evict && o.no_cas && o.no_dump && o.may_shutdown &&
              o.no_flush && o.delimiter == '|' && o.udp_port == 7 && o.idle_timeout_s == 9 && o.no_crawler &&
              !o.maxconns_fast && o.cache_option != 0,
          "what concerns the cache");
    options_free(&o);
    check(parse(&o, "-I 4096 -o no_idle_timeout,lru_crawler") == OPTIONS_SERVE && o.item_size == 4096 &&
              o.idle_timeout_s == 0 && !o.no_crawler && o.cache_option == 'I',
          "bytes, and suboptions switched the other way");
    options_free(&o);
    check(!o.no_watch && o.watcher_logbuf_kb == 256 && o.worker_logbuf_kb == 64, "watch, with memcached's buffers");
    options_free(&o);
    check(parse(&o, "-W -o watcher_logbuf_size=8,worker_logbuf_size=1") == OPTIONS_SERVE && o.no_watch &&
              o.watcher_logbuf_kb == 8 && o.worker_logbuf_kb == 1,
          "and others");
    options_free(&o);
    check(parse(&o, "-z 1=a") == OPTIONS_SERVE && !o.maxconns_fast && o.cache_option == 0, "-z: a proxy");
    options_free(&o);
}

/* Each with a part of the message that it must get. */
static void check_refused(void)
{
    static const char *const cases[][2] = {
        {"-z 1=a stray", "stray: unexpected argument"},
        {"stray -z 1=a", "stray: unexpected argument"},
        {"-z 1=a -- -v", "-v: unexpected argument"},
        {"-z", "-z: expected POOLS"},
        {"-z 1=a --settings", "--settings: expected SETTINGS"},
        {"-z 1=a -U x", "-U x: expected a number from 0 to 65535, or -1"},
        {"-z 1=a -U -2", "-U -2: expected a number from 0 to 65535, or -1"},
        {"-z 1=a -p 65536", "-p 65536: expected a number from 0 to 65535, or -1"},
        {"-z 1=a -dx", "-x: unknown option"},
        {"-z 1=a -xd", "-x: unknown option"},
        {"-z 1=a --daemon -x", "-x: unknown option"},
        {"-f 1.25", "-f: not an option here: memory is not divided into slabs"},
        {"-n 48", "-n: not an option here: memory is not divided into slabs"},
        {"-L", "-L: not an option here: memory is not divided into slabs"},
        {"-e /dev/shm/m", "-e: not an option here: the cache inside does not outlive"},
        {"-B http", "-B http: expected auto, ascii or binary"},
        {"-B ascii -B auto", "-B: given twice"},
        {"-S -B ascii", "-B ascii: clients of text say who they are with -Y"},
        {"-S -B auto", "-B auto: clients of text could not say who they are, without -Y"},
        {"-Y users -B auto", "-B auto: clients of the binary protocol could not say who they are, without -S"},
        {"-Y users -B binary", "-B binary: clients of the binary protocol say who they are by SASL"},
        {"-Y users -U 1", "-U: who sends datagrams cannot say who they are"},
        {"-Y", "-Y: expected FILE"},
        {"-m 0", "-m 0: expected a number from 1 to "},
        {"-m 64m", "-m 64m: expected a number"},
        {"-m 1 -m 2", "-m: given twice"},
        {"-I 1000", "-I 1000: expected a size from 1k to 1024m"},
        {"-I 1025m", "-I 1025m: expected a size from 1k to 1024m"},
        {"-I 99999999999999999999k", "expected a size from 1k to 1024m"},
        {"-I k", "-I k: expected a size"},
        {"-I 1g", "-I 1g: expected a size"},
        {"-m 8 -I 5m", "-I: an item may have half of the memory of -m"},
        {"-D ab", "-D ab: expected one character"},
        {"-o idle_timeout", "-o idle_timeout: expected =NUMBER"},
        {"-o idle_timeout=", "-o idle_timeout=: expected a number"},
        {"-o idle_timeout=1s", "-o idle_timeout=1s: expected a number"},
        {"-o no_idle_timeout=1", "-o no_idle_timeout=1: it takes no value"},
        {"-o maxconns_fast,lru_crawler=1", "-o lru_crawler=1: it takes no value"},
        {"-o maxconns_fast,,", "-o : not a suboption"},
        {"-o slab_reassign", "-o slab_reassign: not a suboption"},
        {"-z 1=a --udp-ports=0", "--udp-ports=0: unknown option"},
        {"-z 1=a --nonsense", "--nonsense: unknown option"},
        {"-z 1=a --unix=/s", "--unix=/s: unknown option"},
        {"-z 1=a --daemon=yes", "--daemon=yes: --daemon takes no value"},
        {"-z 1=a --man=1", "--man=1: --man takes no value"},
        {"-z 1=a -z 2=b", "-z: given twice"},
        {"-z 1=a -t 1 --threads=2", "-t: given twice"},
        {"-z 1=a -t 0", "-t 0: expected a number from 1 to 64"},
        {"-z 1=a -t 65", "-t 65: expected"},
        {"-z 1=a -t -1", "-t -1: expected"},
        {"-z 1=a -t 1x", "-t 1x: expected"},
        {"-z 1=a -p 65536", "-p 65536: expected a number from 0 to 65535"},
        {"-z 1=a -c 0", "-c 0: expected a number from 1 to"},
        {"-z 1=a -c 99999999999999999999", "expected a number from 1 to"},
        {"-z 1=a -b 0", "-b 0: expected"},
        {"-z 1=a -R 0", "-R 0: expected"},
        {"-z 1=a -a 0800", "-a 0800: expected permissions in octal, up to 777"},
        {"-z 1=a -a 1000", "-a 1000: expected permissions"},
        {"-z 1=a -a 77777777777777777777", "expected permissions"},
        {"-z 1=a -a rwx", "-a rwx: expected permissions"},
        {"-z 1=a --unix-socket=", "-s: expected PATH"},
        {"-z 1=a -l :11211", "-l :11211: expected HOST"},
        {"-z 1=a -l a,", "-l : expected HOST"},
        {"-z 1=a -l ,a", "-l : expected HOST"},
        {"-z 1=a -l a:", "-l a:: the port is not a number from 1 to 65535"},
        {"-z 1=a -l a:0", "the port is not"},
        {"-z 1=a -l a:65536", "the port is not"},
        {"-z 1=a -l a:1:2", "the port is not"},
        {"-z 1=a -l [::1", "-l [::1: expected HOST"},
        {"-z 1=a -l [::1]x", "the port is not"},
        {"-z 1=a -l [a]:1", "expected an IPv6 address in the brackets"},
        {"-z 1=a -l []", "expected an IPv6 address in the brackets"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct options o;
        enum options_status status = parse(&o, cases[i][0]);
        check(status == OPTIONS_BAD && strstr(error, cases[i][1]) != NULL && strchr(error, '\n') == NULL, "%s: %s",
              cases[i][0], error);
        options_free(&o);
    }
}

static void check_long_path(void)
{
    char line[LINE_BYTES];
    struct options o;

    snprintf(line, sizeof(line), "-z 1=a -s /%0107d", 0);
    check(parse(&o, line) == OPTIONS_BAD && strstr(error, "at most 107 bytes") != NULL, "a path too long for -s");
    options_free(&o);
    snprintf(line, sizeof(line), "-z 1=a -s /%0106d", 0);
    check(parse(&o, line) == OPTIONS_SERVE, "one that is not");
    options_free(&o);
}

static void check_statuses(void)
{
    static const struct {
        const char *line;
        enum options_status status;
    } cases[] = {
        {"-h", OPTIONS_HELP},           {"--help", OPTIONS_HELP},       {"-z 1=a -vh", OPTIONS_HELP},
        {"-V", OPTIONS_VERSION},        {"--version", OPTIONS_VERSION}, {"-i", OPTIONS_LICENSE},
        {"--license", OPTIONS_LICENSE}, {"--man", OPTIONS_MAN},         {"-t 1 -V stray", OPTIONS_VERSION},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct options o;
        check(parse(&o, cases[i].line) == cases[i].status, "%s", cases[i].line);
        options_free(&o);
    }
}

/* What a status prints; the caller frees it. */
static char *print(enum options_status status)
{
    char *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    bool ok = options_print(status, out);

    fclose(out);
    check(ok && n > 0, "it is printed");
    return text;
}

static void check_version(void)
{
    char *text = print(OPTIONS_VERSION), expected[64];

    snprintf(expected, sizeof(expected), "moxi %s\n", moxi_version());
    check(strcmp(text, expected) == 0 && strcmp(moxi_version(), PACKAGE_VERSION) == 0, "-V: %s", moxi_version());
    free(text);
    text = print(OPTIONS_LICENSE);
    check(strstr(text, "WITHOUT") == NULL && strstr(text, "AS IS") != NULL, "-i has the licence");
    free(text);
}

/* Whether options_parse knows the word. */
static bool is_known(const char *word)
{
    struct options o;
    bool known;

    parse(&o, word);
    known = strstr(error, "unknown option") == NULL && strstr(error, "not an option here") == NULL;
    options_free(&o);
    return known;
}

/* Every letter and long name: in -h if and only if it is taken. */
static void check_help(void)
{
    char *text = print(OPTIONS_HELP), word[64], line[80];
    unsigned letters = 0, names = 0;

    for (int c = '!'; c <= '~'; c++) {
        bool in_help;
        snprintf(word, sizeof(word), "-%c", c);
        snprintf(line, sizeof(line), "\n  -%c, --", c);
        in_help = strstr(text, line) != NULL;
        if (c != '-')
            check(is_known(word) == in_help, "%s is %s", word, in_help ? "listed and taken" : "neither");
        letters += in_help;
    }
    for (const char *p = text; (p = strstr(p, "--")) != NULL; names++) {
        p += 2;
        snprintf(word, sizeof(word), "--%.*s", (int)strspn(p, "abcdefghijklmnopqrstuvwxyz-"), p);
        check(is_known(word), "%s is taken", word);
    }
    check(letters == 34 && names == 35, "%u letters and %u names", letters, names);
    for (const struct setting *row = settings_table; row->name != NULL; row++)
        check(strstr(text, row->help) != NULL, "-h lists %s", row->name);
    free(text);
}

/* The bare text of a man page: roff's escapes undone. */
static char *undo_roff(const char *roff)
{
    char *text = util_xmalloc(strlen(roff) + 1), *q = text;

    while (*roff != '\0') {
        if (strncmp(roff, "\\f", 2) == 0)
            roff += 3;
        else if (strncmp(roff, "\\(aq", 4) == 0)
            *q++ = '\'', roff += 4;
        else if (roff[0] == '\\' && roff[1] == '-')
            *q++ = '-', roff += 2;
        else
            *q++ = *roff++;
    }
    *q = '\0';
    return text;
}

static void check_man(void)
{
    static const char *const parts[] = {
        ".TH MOXI 1 ",
        "\n.SH NAME\nmoxi - ",
        "\n.SH SYNOPSIS\n",
        "\n.SH DESCRIPTION\n",
        "\n.SH OPTIONS\n",
        "\n.SH SETTINGS\n",
        "\n.SH PROTOCOLS\n",
        "\n.SH FILES\n",
        "\n.SH SIGNALS\n",
        "\n.SH ERRORS\n",
        "\n.SH EXAMPLES\n",
        "\n.SH SEE ALSO\n",
        "SERVER_ERROR proxy write to downstream HOST",
        "SERVER_ERROR proxy downstream closed HOST",
        "SERVER_ERROR proxy downstream timeout HOST",
        "SERVER_ERROR proxy out of downstreams",
        "SERVER_ERROR proxy wait queue timeout",
        "SERVER_ERROR proxy downstream has no meta commands, for WHAT",
        "MEMCACHED_SASL_PWDB",
        "MOXI_SASL_PLAIN_PWD",
        "-z, --config=POOLS",
        "--man",
        "-O, --log-file=FILE",
    };
    char *roff = print(OPTIONS_MAN), *text = undo_roff(roff);

    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        check(strstr(text, parts[i]) != NULL, "the man page has part %zu", i);
    for (const struct setting *row = settings_table; row->name != NULL; row++)
        check(strstr(text, row->name) != NULL && strstr(text, row->help) != NULL, "the man page tells of %s",
              row->name);
    free(roff);
    free(text);
}

/* A full disk behind `moxi --man >file` is an error. */
static void check_full(void)
{
    FILE *full = fopen("/dev/full", "w");

    if (full == NULL) {
        check(true, "output that fails # SKIP no /dev/full");
        return;
    }
    check(!options_print(OPTIONS_HELP, full), "output that fails is noticed");
    fclose(full);
}

int main(void)
{
    check_defaults();
    check_memcached();
    check_short();
    check_long();
    check_listens();
    check_refused();
    check_long_path();
    check_statuses();
    check_version();
    check_help();
    check_man();
    check_full();
    return tap_end();
}
