/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * load_options.c - the command line of the load generator.
 *
 * An option is a row of a table, which --help prints and getopt_long's own tables are made from; its function takes the
 * argument.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

struct row {
    char letter;
    const char *name;
    const char *arg;  /* how the help writes it; NULL: takes none */
    const char *help; /* NULL: says enough by its name */
    void (*take)(struct options *opt, const struct row *row, char *text);
    size_t field;      /* offset in struct options, for functions that serve several rows */
    uint64_t min, max; /* of a count */
};

__attribute__((noreturn)) static void fail_usage(char option, const char *text, const char *expected)
{
    fprintf(stderr, "load: -%c %s: expected %s\n", option, text, expected);
    exit(2);
}

static uint64_t parse_count(char option, const char *text, uint64_t min, uint64_t max)
{
    char *end, expected[64];

    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || v < min || v > max) {
        snprintf(expected, sizeof(expected), "%" PRIu64 " to %" PRIu64, min, max);
        fail_usage(option, text, expected);
    }
    return v;
}

static double parse_real(char option, const char *text, double max, const char *expected)
{
    char *end;
    double v = strtod(text, &end);

    if (end == text || *end || !(v >= 0 && v <= max))
        fail_usage(option, text, expected);
    return v;
}

static void take_flag(struct options *opt, const struct row *row, char *text)
{
    (void)text;
    *(bool *)((char *)opt + row->field) = true;
}

static void take_count(struct options *opt, const struct row *row, char *text)
{
    *(uint64_t *)((char *)opt + row->field) = parse_count(row->letter, text, row->min, row->max);
}

static void take_seconds(struct options *opt, const struct row *row, char *text)
{
    *(double *)((char *)opt + row->field) = parse_real(row->letter, text, 86400, "seconds, 0 to 86400");
}

static void take_zipf(struct options *opt, const struct row *row, char *text)
{
    opt->zipf = parse_real(row->letter, text, 10, "an exponent, 0 to 10");
}

static void take_op(struct options *opt, const struct row *row, char *text)
{
    if (strcmp(text, "get") == 0)
        opt->op = OP_GET;
    else if (strcmp(text, "set") == 0)
        opt->op = OP_SET;
    else
        fail_usage(row->letter, text, "get or set");
}

static void take_protocol(struct options *opt, const struct row *row, char *text)
{
    if (strcmp(text, "text") == 0)
        opt->protocol = TEXT;
    else if (strcmp(text, "meta") == 0)
        opt->protocol = META;
    else if (strcmp(text, "binary") == 0)
        opt->protocol = BINARY;
    else
        fail_usage(row->letter, text, "text, meta or binary");
}

/* NAME=PID[,PID…]; text stays in use. */
static void take_cpu(struct options *opt, const struct row *row, char *text)
{
    char *equals = strchr(text, '=');

    if (opt->num_cpu == CPU_GROUPS_MAX || !equals)
        fail_usage(row->letter, text, "NAME=PID,PID..., at most 4 of them");
    struct cpu_group *group = &opt->cpu[opt->num_cpu++];
    *equals = '\0';
    group->name = text;
    for (char *p = strtok(equals + 1, ","); p; p = strtok(NULL, ",")) {
        if (group->num_pids == CPU_PIDS_MAX)
            fail_usage(row->letter, text, "at most 16 processes");
        group->pids[group->num_pids++] = (long)parse_count(row->letter, p, 1, INT32_MAX);
    }
}

static void take_help(struct options *opt, const struct row *row, char *text);

#define AT(field) offsetof(struct options, field)
#define INDENT "                      "

static const struct row rows[] = {
    {'c', "clients", "N",
     "active clients, each with one batch in flight (50; 0: hold the idle ones until\n" INDENT
     "standard input ends, then check that they are still served)",
     take_count, AT(clients), 0, 1000000},
    {'i', "idle", "N", "clients that connect, do one get, and stay (0)", take_count, AT(idle), 0, 1000000},
    {'o', "op", "get|set", "the request (get)", take_op, 0, 0, 0},
    {'P', "protocol", "text|meta|binary", "what is spoken while measuring (text)", take_protocol, 0, 0, 0},
    {'w', "width", "N", "keys in each get (1)", take_count, AT(width), 1, 100000},
    {'d', "depth", "N", "requests in a batch, sent in one write (1); latencies are those of batches", take_count,
     AT(depth), 1, 10000},
    {'b', "bytes", "N", "bytes of a value (100)", take_count, AT(value_size), 0, 1u << 30},
    {'k', "keys", "N", "distinct keys (10000)", take_count, AT(num_keys), 1, 9999999},
    {'f', "fill", NULL, "store all keys first, through the target", take_flag, AT(fill), 0, 0},
    {'s', "seconds", "S", "how long to measure (2)", take_seconds, AT(seconds), 0, 0},
    {'n', "requests", "N", "how many requests to measure, instead of --seconds", take_count, AT(requests), 1,
     UINT64_MAX},
    {'u', "warmup", "S", "seconds of the same before measuring (0.3)", take_seconds, AT(warmup), 0, 0},
    {'t', "timeout", "S", "seconds without a whole reply that are an error (10)", take_seconds, AT(timeout), 0, 0},
    {'r', "seed", "N", "seed of the choice of keys (1)", take_count, AT(seed), 0, UINT64_MAX},
    {'z', "zipf", "S", "keys by Zipf's law with this exponent; the seed says which are frequent (0: all alike)",
     take_zipf, 0, 0, 0},
    {'p', "cpu", "NAME=PID[,PID...]", "print CPU time a request of these processes (up to 4 times)", take_cpu, 0, 0, 0},
    {'S', "step", NULL,
     "after the warm-up print \"ready\" and wait for a line on standard input; after the\n" INDENT
     "result stay connected until standard input ends",
     take_flag, AT(step), 0, 0},
    {'H', "human", NULL, "one figure a line", take_flag, AT(human), 0, 0},
    {'h', "help", NULL, NULL, take_help, 0, 0, 0},
};

enum { NUM_ROWS = sizeof(rows) / sizeof(rows[0]) };

static void print_usage(FILE *out)
{
    fputs("usage: load [options] HOST:PORT | unix:/PATH\n"
          "Measures a server or proxy that speaks memcached's protocols, and checks every reply.\n",
          out);
    for (const struct row *row = rows; row < rows + NUM_ROWS; row++) {
        char forms[64];
        snprintf(forms, sizeof(forms), "-%c, --%s%s%s", row->letter, row->name, row->arg ? "=" : "",
                 row->arg ? row->arg : "");
        if (row->help)
            fprintf(out, "  %-18s  %s\n", forms, row->help);
        else
            fprintf(out, "  %s\n", forms);
    }
}

static void take_help(struct options *opt, const struct row *row, char *text)
{
    (void)opt, (void)row, (void)text;
    print_usage(stdout);
    exit(0);
}

__attribute__((noreturn)) static void refuse(void)
{
    print_usage(stderr);
    exit(2);
}

static void take_option(struct options *opt, int letter, char *text)
{
    for (const struct row *row = rows; row < rows + NUM_ROWS; row++) {
        if (row->letter == letter) {
            row->take(opt, row, text);
            return;
        }
    }
    refuse();
}

/* What is refused only beside something else. */
static void check_options(const struct options *opt)
{
    if (opt->width > opt->num_keys)
        fail_usage('w', "", "no more keys in a get than there are (-k)");
    if ((opt->op == OP_SET || opt->protocol != TEXT) && opt->width != 1)
        fail_usage('w', "", "1 for sets, and in other protocols than text");
    if (opt->zipf > 0 && opt->width != 1)
        fail_usage('z', "", "one key in a get (-w), as the keys of a multiget are neighbours");
    if (opt->timeout <= 0)
        fail_usage('t', "0", "more than 0");
    if (opt->clients == 0 && opt->idle == 0 && !opt->fill)
        fail_usage('c', "0", "idle clients (-i) or --fill, else there is nothing to do");
}

/* The rows as getopt_long wants them; letters and names have room for all, and an end. */
static void list_rows(char *letters, struct option *names)
{
    for (const struct row *row = rows; row < rows + NUM_ROWS; row++) {
        *letters++ = row->letter;
        if (row->arg)
            *letters++ = ':';
        *names++ = (struct option){row->name, row->arg ? required_argument : no_argument, NULL, row->letter};
    }
    *letters = '\0';
    *names = (struct option){0};
}

void options_parse(struct options *opt, int argc, char **argv)
{
    char letters[2 * NUM_ROWS + 1];
    struct option names[NUM_ROWS + 1];
    int letter;

    *opt = (struct options){.op = OP_GET,
                            .clients = 50,
                            .depth = 1,
                            .width = 1,
                            .value_size = 100,
                            .num_keys = 10000,
                            .seconds = 2,
                            .warmup = 0.3,
                            .timeout = 10,
                            .seed = 1};
    list_rows(letters, names);
    while ((letter = getopt_long(argc, argv, letters, names, NULL)) != -1)
        take_option(opt, letter, optarg);
    if (optind != argc - 1)
        refuse();
    opt->target = argv[optind];
    check_options(opt);
}
