/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * load - a closed-loop load generator for memcached's protocols, which checks every byte of every reply, but uniques.
 *
 * bench/run starts it, once for each figure that it measures; it also works alone (see usage below and README.md).
 *
 * How it works: one thread and one epoll set. Each active client sends a batch (`--depth` requests in one write),
 * waits for its whole reply, then sends the next one. Every key's flags and value follow from the key, and every key
 * is stored before it is asked for, so each byte of a reply is known beforehand: there is no reply parser. A client
 * keeps a cursor into the expected reply, and what arrives is compared with it in place (struct cursor). A byte that
 * differs, a byte too many, a closed connection or a reply that does not come ends the program with status 1 and a
 * message.
 *
 *   fill  -->  open idle clients, one get each  -->  open active clients  -->  warm up  -->  measure  -->  print
 *
 * It shares a core with the servers that it measures, so it is frugal: one send and one recv a batch, one clock a
 * batch, no epoll_ctl but after a short write, no allocation while it runs.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    EVENTS_MAX = 256,       /* events taken from one epoll_wait */
    READ_SIZE = 256 * 1024, /* bytes of one recv */
    TURN_MS = 20,           /* longest sleep, so that deadlines and stalls are seen */
    FILL_DEPTH = 16,        /* sets in one batch while filling */
    CPU_GROUPS_MAX = 4,     /* --cpu options */
    CPU_PIDS_MAX = 16,      /* processes in one of them */
    SHOWN_BYTES = 120,      /* bytes of a wrong reply that a message shows */
};

static const uint64_t SECOND_NS = 1000000000;

/* ---- options ---- */

enum op { OP_GET, OP_SET };

/* What is spoken while measuring; keys are filled in, and idle clients greeted, in text. */
enum protocol { TEXT, META, BINARY };

/* Processes whose CPU time is measured together, from one --cpu option. */
struct cpu_group {
    char *name;
    long pids[CPU_PIDS_MAX];
    unsigned num_pids;
};

struct options {
    const char *target; /* HOST:PORT or unix:/PATH */
    enum op op;
    enum protocol protocol;
    uint64_t clients;    /* active ones */
    uint64_t idle;       /* connected besides */
    uint64_t depth;      /* requests in a batch */
    uint64_t width;      /* keys in a get */
    uint64_t value_size; /* bytes */
    uint64_t num_keys;   /* distinct keys */
    uint64_t requests;   /* to measure; 0: by time */
    uint64_t seed;       /* of the choice of keys */
    double zipf;         /* the exponent of Zipf's law, which it follows; 0: all keys alike */
    double seconds;      /* to measure */
    double warmup;       /* seconds before that */
    double timeout;      /* seconds without a whole reply that are a stall */
    bool fill;
    bool step;
    bool human;
    struct cpu_group cpu[CPU_GROUPS_MAX];
    unsigned num_cpu;
};

/* ---- latencies ---- */

/*
 * Log-linear: HIST_STEPS equal buckets to each power of two, in ns, so a bucket is at most 1/128 of its value wide and
 * its middle, which is what percentiles return, is within 0.4% of every value in it.
 */
enum { HIST_BITS = 7, HIST_STEPS = 1 << HIST_BITS, HIST_BUCKETS = (64 - HIST_BITS + 1) * HIST_STEPS };

struct hist {
    uint64_t counts[HIST_BUCKETS];
    uint64_t total;
    uint64_t max; /* exact */
};

/* ---- keys, values, expected replies ---- */

/*
 * A key in the one form that serves all uses: its line in a reply, "VALUE name flags size\r\n". One cache line.
 * Requests are put together from its parts.
 */
struct key {
    uint8_t name_len;  /* the name begins at head + HEAD_NAME */
    uint8_t flags_end; /* offset in head of the blank after the flags */
    uint8_t head_len;
    char head[61];
};

enum { HEAD_NAME = 6 };

_Static_assert(sizeof(struct key) == 64, "a key takes one cache line");

/* Some bytes of an expected reply; p NULL: any. */
struct span {
    const char *p;
    size_t len;
};

/* What a client's batch asks, the same for all clients of a phase. */
struct plan {
    enum op op;
    enum protocol protocol;
    uint32_t depth;  /* requests in a batch */
    uint32_t width;  /* keys in a request */
    bool sequential; /* keys 0, 1, 2, … (filling), else at random */
    uint64_t limit;  /* requests to start; 0: no end */
};

/* Part of a choice of keys that are not alike: see make_draws. */
struct draw {
    uint32_t own;   /* of 2^32 tosses those that are for the key of this number, */
    uint32_t other; /* and the key that the rest are for */
};

/* Those of the reply for a key, in their order; some have no bytes in some protocols, and most for a set. */
enum part { PART_HEAD, PART_UNIQUE, PART_FLAGS, PART_LINE, PART_VALUE, PART_END, PARTS };

/* How far the expected reply to a batch has been seen. */
struct cursor {
    uint32_t key; /* index in client.keys */
    enum part part;
    size_t off; /* bytes of that part */
};

/* ---- clients and the run ---- */

/* A connection. Clients are allocated once, live as long as the program, and never move. */
struct client {
    int fd;
    uint32_t id;
    bool idle;        /* connected only: anything that arrives is an error */
    uint32_t batch;   /* requests sent and not answered; 0: none */
    uint32_t *keys;   /* those of the batch, depth * width */
    uint64_t sent_at; /* ns */
    struct cursor seen;
    char *unsent; /* what a short write left, NULL for none; owned */
    size_t unsent_len;
    size_t unsent_off;
};

struct load {
    struct options opt;
    struct sockaddr_storage addr;
    socklen_t addr_len;

    struct key *keys;
    struct draw *draws;     /* one for each key; NULL: all are alike */
    char *pattern;          /* key i's value is pattern[i, i + value_size) */
    struct client *clients; /* active ones, then idle ones */
    uint64_t num_clients;   /* all of them, and at least one, which fills */
    char *request;          /* where a batch is composed */
    char *input;            /* READ_SIZE bytes */
    int epoll_fd;
    uint64_t random; /* state of the generator */

    struct plan plan;
    bool stopping;      /* start no more batches */
    uint64_t started;   /* requests, of this plan */
    uint64_t num_busy;  /* clients that wait for a reply */
    uint64_t next_scan; /* ns, when to look for stalls again */

    uint64_t requests; /* answered, in this phase */
    struct hist hist;
};

/* CPU time of a group, in microseconds. */
struct cpu_time {
    double all;  /* from the process's CPU clock: exact */
    double user; /* from stat: the kernel's apportioning of it */
    double sys;
};

/* ---- messages ---- */

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *fmt, ...)
{
    va_list ap;

    fflush(stdout);
    fputs("load: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

static void *alloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);

    if (!p)
        fail("out of memory");
    return p;
}

/* Bytes as a message can show them: printable, escaped, cut at SHOWN_BYTES. Returns one of two static buffers. */
static const char *show(const char *p, size_t len)
{
    static char bufs[2][4 * SHOWN_BYTES + 4];
    static unsigned turn;
    char *buf = bufs[turn++ % 2], *d = buf;
    size_t n = len < SHOWN_BYTES ? len : SHOWN_BYTES;

    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (c == '\r' || c == '\n')
            d += sprintf(d, "\\%c", c == '\r' ? 'r' : 'n');
        else if (c < 0x20 || c > 0x7e || c == '\\')
            d += sprintf(d, "\\x%02x", c);
        else
            *d++ = (char)c;
    }
    strcpy(d, n < len ? "..." : "");
    return buf;
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

static uint64_t to_ns(double seconds)
{
    return (uint64_t)(seconds * (double)SECOND_NS);
}

/* ---- histogram ---- */

static unsigned hist_bucket(uint64_t v)
{
    if (v < HIST_STEPS)
        return (unsigned)v;
    unsigned shift = 63 - (unsigned)__builtin_clzll(v) - HIST_BITS;
    return (shift + 1) * HIST_STEPS + (unsigned)((v >> shift) - HIST_STEPS);
}

/* The middle of a bucket. */
static double hist_value(unsigned bucket)
{
    if (bucket < HIST_STEPS)
        return bucket;
    unsigned shift = bucket / HIST_STEPS - 1;
    uint64_t low = (uint64_t)(bucket % HIST_STEPS + HIST_STEPS) << shift;
    return (double)low + (double)((1ull << shift) - 1) / 2;
}

static void hist_add(struct hist *h, uint64_t v)
{
    h->counts[hist_bucket(v)]++;
    h->total++;
    if (v > h->max)
        h->max = v;
}

/* The value, in us, that a share q of all values does not exceed. */
static double hist_quantile_us(const struct hist *h, double q)
{
    uint64_t seen = 0;
    double rank = q * (double)h->total;

    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        seen += h->counts[i];
        if (seen && (double)seen >= rank) {
            double value = hist_value(i), max = (double)h->max;
            return (value < max ? value : max) / 1000;
        }
    }
    return 0;
}

/* ---- CPU time of the processes under test ---- */

/* Reads a small file of /proc whole; fails when it cannot, as a process that is gone spoils the figures. */
static void read_proc(const char *path, char *buf, size_t n)
{
    FILE *f = fopen(path, "r");

    if (!f)
        fail("%s: %s", path, strerror(errno));
    size_t len = fread(buf, 1, n - 1, f);
    buf[len] = '\0';
    fclose(f);
}

/* Nanoseconds that all threads of a process have run, those that have ended included. */
static uint64_t read_run_ns(long pid)
{
    clockid_t clock;
    struct timespec ts;

    int err = clock_getcpuclockid((pid_t)pid, &clock);
    if (err || clock_gettime(clock, &ts))
        fail("CPU time of process %ld: %s", pid, strerror(err ? err : errno));
    return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

/* Adds a process's user and system time. In stat they are the 12th and 13th field after the name in parentheses. */
static void add_split(long pid, struct cpu_time *t)
{
    char path[64], buf[1024];
    uint64_t user, sys;

    snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
    read_proc(path, buf, sizeof(buf));
    const char *p = strrchr(buf, ')');
    if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64, &user, &sys) != 2)
        fail("%s: cannot read it", path);
    double tick_us = 1e6 / (double)sysconf(_SC_CLK_TCK);
    t->user += (double)user * tick_us;
    t->sys += (double)sys * tick_us;
}

static void sample_cpu(const struct options *opt, struct cpu_time *times)
{
    for (unsigned i = 0; i < opt->num_cpu; i++) {
        times[i] = (struct cpu_time){0};
        for (unsigned j = 0; j < opt->cpu[i].num_pids; j++) {
            times[i].all += (double)read_run_ns(opt->cpu[i].pids[j]) / 1000;
            add_split(opt->cpu[i].pids[j], &times[i]);
        }
    }
}

/* ---- keys and values ---- */

static uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    *state = x;
    return x;
}

/* The name says the size, so that runs with different sizes may share servers. Flags follow from the number. */
static void make_key(struct key *key, unsigned i, uint64_t value_size)
{
    char name[32];
    unsigned flags = (i * 2654435761u) >> 16;

    key->name_len = (uint8_t)snprintf(name, sizeof(name), "b%" PRIu64 "-%07u", value_size, i);
    key->flags_end = (uint8_t)(HEAD_NAME + key->name_len + snprintf(NULL, 0, " %u", flags));
    int len = snprintf(key->head, sizeof(key->head), "VALUE %s %u %" PRIu64 "\r\n", name, flags, value_size);
    key->head_len = (uint8_t)len;
}

/*
 * The pattern is the same in every run, whatever the seed: values stored by one run are checked by the next. Its bytes
 * are random, so that a shift by one byte (another key's value) differs almost everywhere.
 */
static void make_data(struct load *load)
{
    uint64_t state = 88172645463325252ull;
    size_t len = load->opt.value_size + load->opt.num_keys;

    load->keys = alloc(load->opt.num_keys, sizeof(*load->keys));
    for (unsigned i = 0; i < load->opt.num_keys; i++)
        make_key(&load->keys[i], i, load->opt.value_size);
    load->pattern = alloc(len, 1);
    for (size_t i = 0; i < len; i++)
        load->pattern[i] = (char)(next_random(&state) >> 32);
}

/* ---- the choice of keys ---- */

/* Gives the weights of Zipf's law to the keys, in an order that the seed decides; their mean is 1. */
static void weigh_keys(struct load *load, double *weights)
{
    uint64_t n = load->opt.num_keys;
    double sum = 0;

    for (uint64_t i = 0; i < n; i++)
        sum += weights[i] = pow((double)(i + 1), -load->opt.zipf);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t other = i + (next_random(&load->random) >> 16) % (n - i);
        double weight = weights[other] * (double)n / sum;
        weights[other] = weights[i];
        weights[i] = weight;
    }
}

/*
 * Walker's alias method, for a choice that costs one random number whatever the weights are: a key is drawn, all alike,
 * and a toss decides between it and another one. So each key that weighs less than the mean is paired with one that
 * weighs more, which thereby loses what it has given.
 */
static void make_draws(struct load *load)
{
    uint64_t n = load->opt.num_keys, num_light = 0, first_heavy = n;
    double *weights = alloc(n, sizeof(*weights));
    uint32_t *order = alloc(n, sizeof(*order)); /* the light ones, room, the heavy ones */

    load->draws = alloc(n, sizeof(*load->draws));
    weigh_keys(load, weights);
    for (uint32_t i = 0; i < n; i++) {
        load->draws[i].other = i;
        order[weights[i] < 1 ? num_light++ : --first_heavy] = i;
    }
    while (num_light > 0 && first_heavy < n) {
        uint32_t light = order[--num_light], heavy = order[first_heavy];
        load->draws[light] = (struct draw){.own = (uint32_t)(weights[light] * 0x1p32), .other = heavy};
        weights[heavy] -= 1 - weights[light];
        if (weights[heavy] < 1) {
            first_heavy++;
            order[num_light++] = heavy;
        }
    }
    free(order);
    free(weights);
}

static uint64_t random_key(struct load *load)
{
    uint64_t random = next_random(&load->random), n = load->opt.num_keys;

    if (!load->draws)
        return (random >> 16) % n;
    uint64_t i = (random >> 32) * n >> 32;
    return (uint32_t)random < load->draws[i].own ? i : load->draws[i].other;
}

/* The keys of one request: a random one, or a run of neighbours, so that those of a multiget differ. */
static void choose_keys(struct load *load, uint32_t *keys)
{
    uint64_t n = load->opt.num_keys;
    uint64_t first = load->plan.sequential ? load->started % n : random_key(load);

    for (uint32_t i = 0; i < load->plan.width; i++)
        keys[i] = (uint32_t)((first + i) % n);
}

/* ---- composing requests ---- */

static char *put(char *d, const char *p, size_t n)
{
    memcpy(d, p, n);
    return d + n;
}

static char *put_name(char *d, const struct key *key)
{
    return put(d, key->head + HEAD_NAME, key->name_len);
}

/* The flags' digits. */
static struct span flags_of(const struct key *key)
{
    size_t at = HEAD_NAME + key->name_len + 1u;

    return (struct span){key->head + at, key->flags_end - at};
}

static char *put_u32(char *d, uint32_t v)
{
    v = htonl(v);
    return put(d, (const char *)&v, sizeof(v));
}

/* A header of the binary protocol up to its unique, its opaque 0. */
static char *put_packet(char *d, unsigned char magic, unsigned char opcode, uint32_t extras, uint32_t key,
                        uint64_t value)
{
    *d++ = (char)magic;
    *d++ = (char)opcode;
    *d++ = (char)(key >> 8);
    *d++ = (char)key;
    d = put_u32(d, extras << 24);
    return put_u32(put_u32(d, (uint32_t)(extras + key + value)), 0);
}

static uint32_t flags_number(const struct key *key)
{
    return (uint32_t)strtoul(flags_of(key).p, NULL, 10);
}

enum { REQUEST = 0x80, RESPONSE = 0x81, CMD_GET = 0, CMD_SET = 1, FLAGS_SIZE = 4, SET_EXTRAS = 8 };

static char *put_get_binary(char *d, const struct key *key)
{
    d = put_packet(d, REQUEST, CMD_GET, 0, key->name_len, 0);
    return put_name(put_u32(put_u32(d, 0), 0), key);
}

static char *put_get(const struct load *load, char *d, const uint32_t *keys)
{
    if (load->plan.protocol == BINARY)
        return put_get_binary(d, &load->keys[keys[0]]);
    if (load->plan.protocol == META)
        return put(put_name(put(d, "mg ", 3), &load->keys[keys[0]]), " v f\r\n", 6);
    d = put(d, "get", 3);
    for (uint32_t i = 0; i < load->plan.width; i++) {
        *d++ = ' ';
        d = put_name(d, &load->keys[keys[i]]);
    }
    return put(d, "\r\n", 2);
}

static char *put_set(const struct load *load, char *d, uint32_t index)
{
    const struct key *key = &load->keys[index];
    struct span flags = flags_of(key);

    if (load->plan.protocol == BINARY) {
        d = put_packet(d, REQUEST, CMD_SET, SET_EXTRAS, key->name_len, load->opt.value_size);
        d = put_u32(put_u32(d, 0), 0);
        d = put_name(put_u32(put_u32(d, flags_number(key)), 0), key);
        return put(d, load->pattern + index, load->opt.value_size);
    }
    if (load->plan.protocol == META) {
        d = put_name(put(d, "ms ", 3), key);
        d = put(d, key->head + key->flags_end, (size_t)(key->head_len - key->flags_end) - 2);
        d = put(put(put(d, " F", 2), flags.p, flags.len), "\r\n", 2);
    } else {
        d = put(d, "set ", 4);
        d = put(d, key->head + HEAD_NAME, (size_t)key->flags_end - HEAD_NAME);
        d = put(d, " 0", 2);
        d = put(d, key->head + key->flags_end, (size_t)(key->head_len - key->flags_end));
    }
    d = put(d, load->pattern + index, load->opt.value_size);
    return put(d, "\r\n", 2);
}

/* The plan of what is measured, without an end. */
static struct plan measured(const struct options *opt)
{
    return (struct plan){
        .op = opt->op, .protocol = opt->protocol, .depth = (uint32_t)opt->depth, .width = (uint32_t)opt->width};
}

/* Bytes of the largest batch of a plan, rounded up. */
static size_t batch_size(const struct options *opt, const struct plan *plan)
{
    size_t request = plan->op == OP_SET ? opt->value_size + 80 : 32 + plan->width * (sizeof(struct key) + 1);

    return plan->depth * request;
}

/* Composes a batch of c->batch requests in load->request and returns its length. */
static size_t compose_batch(struct load *load, struct client *c)
{
    char *d = load->request;

    for (uint32_t i = 0; i < c->batch; i++) {
        uint32_t *keys = c->keys + (size_t)i * load->plan.width;
        choose_keys(load, keys);
        d = load->plan.op == OP_SET ? put_set(load, d, keys[0]) : put_get(load, d, keys);
        load->started++;
    }
    c->seen = (struct cursor){0};
    return (size_t)(d - load->request);
}

/* ---- checking replies ---- */

static struct span span_of(const char *p, size_t len)
{
    return (struct span){p, len};
}

static struct span expected_text(const struct load *load, const struct client *c, uint32_t index)
{
    static const char end[] = "\r\nEND\r\n", stored[] = "STORED\r\n";

    if (load->plan.op == OP_SET)
        return c->seen.part == PART_END ? span_of(stored, sizeof(stored) - 1) : span_of("", 0);
    switch (c->seen.part) {
    case PART_HEAD:
        return span_of(load->keys[index].head, load->keys[index].head_len);
    case PART_VALUE:
        return span_of(load->pattern + index, load->opt.value_size);
    case PART_END:
        return span_of(end, (c->seen.key + 1) % load->plan.width ? 2 : sizeof(end) - 1);
    default:
        return span_of("", 0);
    }
}

/* "VA <size> f<flags>\r\n", the value, "\r\n" */
static struct span expected_meta(const struct load *load, const struct client *c, uint32_t index)
{
    static char head[40];
    static size_t head_len;

    if (load->plan.op == OP_SET)
        return c->seen.part == PART_END ? span_of("HD\r\n", 4) : span_of("", 0);
    if (head_len == 0)
        head_len = (size_t)snprintf(head, sizeof(head), "VA %" PRIu64 " f", load->opt.value_size);
    switch (c->seen.part) {
    case PART_HEAD:
        return span_of(head, head_len);
    case PART_FLAGS:
        return flags_of(&load->keys[index]);
    case PART_VALUE:
        return span_of(load->pattern + index, load->opt.value_size);
    case PART_UNIQUE:
        return span_of("", 0);
    default:
        return span_of("\r\n", 2);
    }
}

static struct span expected_binary(const struct load *load, const struct client *c, uint32_t index)
{
    static char bytes[24];
    bool is_get = load->plan.op == OP_GET;

    switch (c->seen.part) {
    case PART_HEAD:
        put_packet(bytes, RESPONSE, is_get ? CMD_GET : CMD_SET, is_get ? FLAGS_SIZE : 0, 0,
                   is_get ? load->opt.value_size : 0);
        return span_of(bytes, 16);
    case PART_UNIQUE:
        return span_of(NULL, 8);
    case PART_FLAGS:
        put_u32(bytes, flags_number(&load->keys[index]));
        return span_of(bytes, is_get ? FLAGS_SIZE : 0);
    case PART_VALUE:
        return span_of(load->pattern + index, is_get ? load->opt.value_size : 0);
    default:
        return span_of("", 0);
    }
}

/* The part of the expected reply that the cursor is in. */
static struct span expected_part(const struct load *load, const struct client *c)
{
    uint32_t index = c->keys[c->seen.key];

    return load->plan.protocol == TEXT   ? expected_text(load, c, index)
           : load->plan.protocol == META ? expected_meta(load, c, index)
                                         : expected_binary(load, c, index);
}

static bool reply_is_whole(const struct load *load, const struct client *c)
{
    return c->seen.key == c->batch * load->plan.width;
}

/* Goes on to the next part that has any bytes. */
static void next_part(const struct load *load, struct client *c)
{
    do {
        c->seen.off = 0;
        if (++c->seen.part == PARTS) {
            c->seen.part = PART_HEAD;
            c->seen.key++;
        }
    } while (!reply_is_whole(load, c) && expected_part(load, c).len == 0);
}

/* Says what the first wrong byte of a reply is, given the rest of what was read and what should have come. */
__attribute__((noreturn)) static void fail_mismatch(const struct load *load, const struct client *c, const char *got,
                                                    size_t got_len, struct span want)
{
    static const char *const parts[PARTS] = {"head", "unique", "flags", "line", "value", "end"};
    const struct key *key = &load->keys[c->keys[c->seen.key]];
    size_t same = 0, want_len = want.len - c->seen.off;
    const char *want_p = want.p + c->seen.off;

    while (same < got_len && same < want_len && got[same] == want_p[same])
        same++;
    if (c->seen.part != PART_VALUE)
        same = 0;
    fail("%s: client %" PRIu32 ": wrong reply for key %.*s: %s, byte %zu of %zu: expected \"%s\", got \"%s\"",
         load->opt.target, c->id, key->name_len, key->head + HEAD_NAME, parts[c->seen.part], c->seen.off + same,
         want.len, show(want_p + same, want_len - same), show(got + same, got_len - same));
}

/* Compares what a client has read with what it must get. */
static void check_input(const struct load *load, struct client *c, const char *p, size_t len)
{
    while (len > 0) {
        if (reply_is_whole(load, c))
            fail("%s: client %" PRIu32 ": %zu bytes more than was asked for: \"%s\"", load->opt.target, c->id, len,
                 show(p, len));
        struct span want = expected_part(load, c);
        size_t n = want.len - c->seen.off;
        if (n > len)
            n = len;
        if (want.p != NULL && memcmp(p, want.p + c->seen.off, n) != 0)
            fail_mismatch(load, c, p, len, want);
        p += n;
        len -= n;
        c->seen.off += n;
        if (c->seen.off == want.len)
            next_part(load, c);
    }
}

/* ---- sockets ---- */

static void resolve_unix(struct load *load, const char *path)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&load->addr;

    if (strlen(path) >= sizeof(un->sun_path))
        fail("%s: path too long", path);
    un->sun_family = AF_UNIX;
    strcpy(un->sun_path, path);
    load->addr_len = sizeof(*un);
}

static void resolve_target(struct load *load)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *res;
    const char *target = load->opt.target, *colon = strrchr(target, ':');
    char host[256];

    if (strncmp(target, "unix:", 5) == 0) {
        resolve_unix(load, target + 5);
        return;
    }
    bool bracket = target[0] == '[' && colon && colon > target + 1 && colon[-1] == ']';
    int len = colon ? (int)(colon - target) - (bracket ? 2 : 0) : 0;
    if (len <= 0 || (size_t)len >= sizeof(host))
        fail("%s: expected HOST:PORT or unix:/PATH", target);
    snprintf(host, sizeof(host), "%.*s", len, target + bracket);
    int error = getaddrinfo(host, colon + 1, &hints, &res);
    if (error)
        fail("%s: %s", target, gai_strerror(error));
    memcpy(&load->addr, res->ai_addr, res->ai_addrlen);
    load->addr_len = res->ai_addrlen;
    freeaddrinfo(res);
}

/*
 * Connects a client. The socket stays blocking, with a time-out, for connect and say_hello; the loop asks for
 * MSG_DONTWAIT.
 */
static void open_client(const struct load *load, struct client *c)
{
    uint64_t us = to_ns(load->opt.timeout) / 1000;
    struct timeval tv = {.tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000)};
    int on = 1;

    c->fd = socket(load->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fail("client %" PRIu32 ": socket: %s", c->id, strerror(errno));
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
    if (load->addr.ss_family != AF_UNIX)
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (connect(c->fd, (const struct sockaddr *)&load->addr, load->addr_len) != 0)
        fail("%s: client %" PRIu32 ": connect: %s", load->opt.target, c->id, strerror(errno));
}

static void watch_client(const struct load *load, struct client *c, uint32_t events, int op)
{
    struct epoll_event event = {.events = events, .data.ptr = c};

    if (epoll_ctl(load->epoll_fd, op, c->fd, &event) != 0)
        fail("epoll_ctl: %s", strerror(errno));
}

/* One get, checked, on a connection that the loop does not serve: it proves that the connection is served. */
static void say_hello(struct load *load, struct client *c)
{
    uint32_t key = c->id % (uint32_t)load->opt.num_keys;

    load->plan = (struct plan){.op = OP_GET, .depth = 1, .width = 1};
    c->keys = &key;
    c->batch = 1;
    c->seen = (struct cursor){0};
    size_t len = (size_t)(put_get(load, load->request, &key) - load->request);
    if (send(c->fd, load->request, len, MSG_NOSIGNAL) != (ssize_t)len)
        fail("%s: client %" PRIu32 ": send: %s", load->opt.target, c->id, strerror(errno));
    while (!reply_is_whole(load, c)) {
        ssize_t n = recv(c->fd, load->input, READ_SIZE, 0);
        if (n <= 0)
            fail("%s: client %" PRIu32 ": its first get: %s", load->opt.target, c->id,
                 n == 0 ? "connection closed" : strerror(errno));
        check_input(load, c, load->input, (size_t)n);
    }
    c->batch = 0;
    c->keys = NULL;
}

/* ---- the loop ---- */

/* Sends what it can; the rest waits for EPOLLOUT. */
static void send_batch(struct load *load, struct client *c, size_t len)
{
    ssize_t n = send(c->fd, load->request, len, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n < 0 && errno != EAGAIN)
        fail("%s: client %" PRIu32 ": send: %s", load->opt.target, c->id, strerror(errno));
    size_t sent = n > 0 ? (size_t)n : 0;
    if (sent == len)
        return;
    c->unsent = alloc(len - sent, 1);
    c->unsent_len = len - sent;
    c->unsent_off = 0;
    memcpy(c->unsent, load->request + sent, c->unsent_len);
    watch_client(load, c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
}

static void start_batch(struct load *load, struct client *c, uint64_t now)
{
    uint64_t left = load->plan.limit ? load->plan.limit - load->started : UINT64_MAX;

    if (load->stopping || left == 0)
        return;
    c->batch = left < load->plan.depth ? (uint32_t)left : load->plan.depth;
    c->sent_at = now;
    load->num_busy++;
    send_batch(load, c, compose_batch(load, c));
}

static void on_writable(struct load *load, struct client *c)
{
    ssize_t n = send(c->fd, c->unsent + c->unsent_off, c->unsent_len - c->unsent_off, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n < 0 && errno == EAGAIN)
        return;
    if (n < 0)
        fail("%s: client %" PRIu32 ": send: %s", load->opt.target, c->id, strerror(errno));
    c->unsent_off += (size_t)n;
    if (c->unsent_off < c->unsent_len)
        return;
    free(c->unsent);
    c->unsent = NULL;
    watch_client(load, c, EPOLLIN, EPOLL_CTL_MOD);
}

static void finish_batch(struct load *load, struct client *c)
{
    uint64_t now = now_ns();

    hist_add(&load->hist, now - c->sent_at);
    load->requests += c->batch;
    load->num_busy--;
    c->batch = 0;
    start_batch(load, c, now);
}

static void on_readable(struct load *load, struct client *c)
{
    ssize_t n = recv(c->fd, load->input, READ_SIZE, MSG_DONTWAIT);

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0)
        fail("%s: %sclient %" PRIu32 ": %s", load->opt.target, c->idle ? "idle " : "", c->id,
             n == 0 ? "connection closed" : strerror(errno));
    if (c->batch == 0)
        fail("%s: %sclient %" PRIu32 ": bytes that nobody asked for: \"%s\"", load->opt.target, c->idle ? "idle " : "",
             c->id, show(load->input, (size_t)n));
    check_input(load, c, load->input, (size_t)n);
    if (reply_is_whole(load, c))
        finish_batch(load, c);
}

static void scan_stalls(struct load *load, uint64_t now)
{
    uint64_t timeout = to_ns(load->opt.timeout);

    if (now < load->next_scan)
        return;
    for (uint64_t i = 0; i < load->num_clients; i++) {
        const struct client *c = &load->clients[i];
        if (c->batch && now > c->sent_at + timeout)
            fail("%s: client %" PRIu32 ": no whole reply within %g s: %" PRIu32 " of %" PRIu32 " keys answered",
                 load->opt.target, c->id, load->opt.timeout, c->seen.key, c->batch * load->plan.width);
    }
    load->next_scan = now + timeout / 8;
}

static void turn(struct load *load)
{
    struct epoll_event events[EVENTS_MAX];
    int n = epoll_wait(load->epoll_fd, events, EVENTS_MAX, TURN_MS);

    if (n < 0 && errno != EINTR)
        fail("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < n; i++) {
        struct client *c = events[i].data.ptr;
        if ((events[i].events & EPOLLOUT) && c->unsent)
            on_writable(load, c);
        if (events[i].events & ~(uint32_t)EPOLLOUT)
            on_readable(load, c);
    }
}

/* Keeps every client busy until the deadline, or, when there is a limit or it is stopping, until none is. */
static void pump(struct load *load, uint64_t deadline)
{
    for (;;) {
        uint64_t now = now_ns();
        if (now >= deadline || load->num_busy == 0)
            return;
        scan_stalls(load, now);
        turn(load);
    }
}

/* ---- phases ---- */

static void start_clients(struct load *load, uint64_t n)
{
    uint64_t now = now_ns();

    load->stopping = false;
    for (uint64_t i = 0; i < n; i++)
        if (load->clients[i].batch == 0)
            start_batch(load, &load->clients[i], now);
}

static void drain(struct load *load)
{
    load->stopping = true;
    pump(load, UINT64_MAX);
}

/* Stores every key through the target, on one connection that is closed again. */
static void fill(struct load *load)
{
    struct client *c = &load->clients[0];
    uint32_t keys[FILL_DEPTH];

    load->plan =
        (struct plan){.op = OP_SET, .depth = FILL_DEPTH, .width = 1, .sequential = true, .limit = load->opt.num_keys};
    load->started = 0;
    c->keys = keys;
    open_client(load, c);
    watch_client(load, c, EPOLLIN, EPOLL_CTL_ADD);
    start_clients(load, 1);
    pump(load, UINT64_MAX);
    close(c->fd);
    c->keys = NULL;
}

static void open_idle(struct load *load)
{
    for (uint64_t i = 0; i < load->opt.idle; i++) {
        struct client *c = &load->clients[load->opt.clients + i];
        c->idle = true;
        open_client(load, c);
        say_hello(load, c);
        watch_client(load, c, EPOLLIN, EPOLL_CTL_ADD);
    }
}

static void open_active(struct load *load)
{
    for (uint64_t i = 0; i < load->opt.clients; i++) {
        struct client *c = &load->clients[i];
        c->keys = alloc(load->opt.depth * load->opt.width, sizeof(*c->keys));
        open_client(load, c);
        watch_client(load, c, EPOLLIN, EPOLL_CTL_ADD);
    }
}

/* --step: says that all is ready. With wait_line, goes on at the next line; without, at the end of standard input. */
static void wait_step(bool wait_line)
{
    int c;

    fflush(stdout);
    do
        c = getchar();
    while (c != EOF && !(wait_line && c == '\n'));
}

static void warm_up(struct load *load)
{
    load->started = 0;
    load->plan = measured(&load->opt);
    if (load->opt.warmup > 0)
        start_clients(load, load->opt.clients);
    pump(load, now_ns() + to_ns(load->opt.warmup));
    if (load->opt.step || load->opt.requests)
        drain(load);
    if (load->opt.step) {
        puts("ready");
        wait_step(true);
    }
}

static void print_result(const struct load *load, double seconds, const struct cpu_time *before,
                         const struct cpu_time *after)
{
    const struct options *opt = &load->opt;
    char sep = opt->human ? '\n' : ' ';
    double n = (double)load->requests;

    if (load->requests == 0)
        fail("%s: no reply in %g s of measuring", opt->target, seconds);
    printf("requests=%" PRIu64 "%cseconds=%.6f%crps=%.0f%cp50_us=%.1f%cp99_us=%.1f%cmax_us=%.1f", load->requests, sep,
           seconds, sep, n / seconds, sep, hist_quantile_us(&load->hist, 0.50), sep,
           hist_quantile_us(&load->hist, 0.99), sep, (double)load->hist.max / 1000);
    for (unsigned i = 0; i < opt->num_cpu; i++)
        printf("%c%s_cpu_us=%.3f%c%s_user_us=%.3f%c%s_sys_us=%.3f", sep, opt->cpu[i].name,
               (after[i].all - before[i].all) / n, sep, opt->cpu[i].name, (after[i].user - before[i].user) / n, sep,
               opt->cpu[i].name, (after[i].sys - before[i].sys) / n);
    putchar('\n');
    fflush(stdout);
}

static void measure(struct load *load)
{
    struct cpu_time before[CPU_GROUPS_MAX], after[CPU_GROUPS_MAX];
    uint64_t deadline = UINT64_MAX;

    load->hist = (struct hist){.total = 0};
    load->requests = 0;
    load->started = 0;
    load->plan.limit = load->opt.requests;
    sample_cpu(&load->opt, before);
    uint64_t start = now_ns();
    if (!load->opt.requests)
        deadline = start + to_ns(load->opt.seconds);
    start_clients(load, load->opt.clients);
    pump(load, deadline);
    uint64_t end = now_ns();
    sample_cpu(&load->opt, after);
    print_result(load, (double)(end - start) / (double)SECOND_NS, before, after);
    drain(load);
}

static void work(struct load *load)
{
    open_active(load);
    warm_up(load);
    measure(load);
    if (load->opt.step)
        wait_step(false);
}

/* No active clients: the idle ones are held until standard input ends; then each must still be served. */
static void hold(struct load *load)
{
    printf("held=%" PRIu64 "\n", load->opt.idle);
    wait_step(false);
    for (uint64_t i = 0; i < load->opt.idle; i++)
        say_hello(load, &load->clients[i]);
}

/* ---- command line ---- */

static const char usage[] =
    "usage: load [options] HOST:PORT | unix:/PATH\n"
    "Measures a server or proxy that speaks memcached's protocols, and checks every reply.\n"
    "  -c, --clients=N     active clients, each with one batch in flight (50; 0: hold the idle ones until\n"
    "                      standard input ends, then check that they are still served)\n"
    "  -i, --idle=N        clients that connect, do one get, and stay (0)\n"
    "  -o, --op=get|set    the request (get)\n"
    "  -P, --protocol=text|meta|binary  what is spoken while measuring (text)\n"
    "  -w, --width=N       keys in each get (1)\n"
    "  -d, --depth=N       requests in a batch, sent in one write (1); latencies are those of batches\n"
    "  -b, --bytes=N       bytes of a value (100)\n"
    "  -k, --keys=N        distinct keys (10000)\n"
    "  -f, --fill          store all keys first, through the target\n"
    "  -s, --seconds=S     how long to measure (2)\n"
    "  -n, --requests=N    how many requests to measure, instead of --seconds\n"
    "  -u, --warmup=S      seconds of the same before measuring (0.3)\n"
    "  -t, --timeout=S     seconds without a whole reply that are an error (10)\n"
    "  -r, --seed=N        seed of the choice of keys (1)\n"
    "  -z, --zipf=S        keys by Zipf's law with this exponent; the seed says which are frequent (0: all alike)\n"
    "  -p, --cpu=NAME=PID[,PID...]  print CPU time a request of these processes (up to 4 times)\n"
    "  -S, --step          after the warm-up print \"ready\" and wait for a line on standard input; after the\n"
    "                      result stay connected until standard input ends\n"
    "  -H, --human         one figure a line\n"
    "  -h, --help\n";

static const struct option long_options[] = {
    {"clients", required_argument, NULL, 'c'},  {"idle", required_argument, NULL, 'i'},
    {"op", required_argument, NULL, 'o'},       {"width", required_argument, NULL, 'w'},
    {"depth", required_argument, NULL, 'd'},    {"bytes", required_argument, NULL, 'b'},
    {"keys", required_argument, NULL, 'k'},     {"fill", no_argument, NULL, 'f'},
    {"seconds", required_argument, NULL, 's'},  {"requests", required_argument, NULL, 'n'},
    {"warmup", required_argument, NULL, 'u'},   {"timeout", required_argument, NULL, 't'},
    {"seed", required_argument, NULL, 'r'},     {"zipf", required_argument, NULL, 'z'},
    {"cpu", required_argument, NULL, 'p'},      {"step", no_argument, NULL, 'S'},
    {"human", no_argument, NULL, 'H'},          {"help", no_argument, NULL, 'h'},
    {"protocol", required_argument, NULL, 'P'}, {NULL, 0, NULL, 0},
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

static double parse_seconds(char option, const char *text)
{
    return parse_real(option, text, 86400, "seconds, 0 to 86400");
}

static enum op parse_op(const char *text)
{
    if (strcmp(text, "get") == 0)
        return OP_GET;
    if (strcmp(text, "set") != 0)
        fail_usage('o', text, "get or set");
    return OP_SET;
}

static enum protocol parse_protocol(const char *text)
{
    static const char *const names[] = {[TEXT] = "text", [META] = "meta", [BINARY] = "binary"};

    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(text, names[i]) == 0)
            return (enum protocol)i;
    fail_usage('P', text, "text, meta or binary");
}

/* NAME=PID[,PID…]; text stays in use. */
static void parse_cpu(struct options *opt, char *text)
{
    char *equals = strchr(text, '=');

    if (opt->num_cpu == CPU_GROUPS_MAX || !equals)
        fail_usage('p', text, "NAME=PID,PID..., at most 4 of them");
    struct cpu_group *group = &opt->cpu[opt->num_cpu++];
    *equals = '\0';
    group->name = text;
    for (char *p = strtok(equals + 1, ","); p; p = strtok(NULL, ",")) {
        if (group->num_pids == CPU_PIDS_MAX)
            fail_usage('p', text, "at most 16 processes");
        group->pids[group->num_pids++] = (long)parse_count('p', p, 1, INT32_MAX);
    }
}

static void parse_option(struct options *opt, int c, char *arg)
{
    switch (c) {
    case 'c':
        opt->clients = parse_count('c', arg, 0, 1000000);
        break;
    case 'i':
        opt->idle = parse_count('i', arg, 0, 1000000);
        break;
    case 'o':
        opt->op = parse_op(arg);
        break;
    case 'P':
        opt->protocol = parse_protocol(arg);
        break;
    case 'w':
        opt->width = parse_count('w', arg, 1, 100000);
        break;
    case 'd':
        opt->depth = parse_count('d', arg, 1, 10000);
        break;
    case 'b':
        opt->value_size = parse_count('b', arg, 0, 1u << 30);
        break;
    case 'k':
        opt->num_keys = parse_count('k', arg, 1, 9999999);
        break;
    case 'f':
        opt->fill = true;
        break;
    case 's':
        opt->seconds = parse_seconds('s', arg);
        break;
    case 'n':
        opt->requests = parse_count('n', arg, 1, UINT64_MAX);
        break;
    case 'u':
        opt->warmup = parse_seconds('u', arg);
        break;
    case 't':
        opt->timeout = parse_seconds('t', arg);
        break;
    case 'r':
        opt->seed = parse_count('r', arg, 0, UINT64_MAX);
        break;
    case 'z':
        opt->zipf = parse_real('z', arg, 10, "an exponent, 0 to 10");
        break;
    case 'p':
        parse_cpu(opt, arg);
        break;
    case 'S':
        opt->step = true;
        break;
    case 'H':
        opt->human = true;
        break;
    case 'h':
        fputs(usage, stdout);
        exit(0);
    default:
        fputs(usage, stderr);
        exit(2);
    }
}

static void parse_options(struct options *opt, int argc, char **argv)
{
    int c;

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
    while ((c = getopt_long(argc, argv, "c:i:o:P:w:d:b:k:fs:n:u:t:r:z:p:SHh", long_options, NULL)) != -1)
        parse_option(opt, c, optarg);
    if (optind != argc - 1)
        parse_option(opt, '?', NULL);
    opt->target = argv[optind];
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

/* Room for all phases, so that nothing is allocated later. */
static void setup(struct load *load)
{
    struct plan filling = {.op = OP_SET, .depth = FILL_DEPTH, .width = 1};
    struct plan working = measured(&load->opt);
    size_t room = batch_size(&load->opt, &working);
    struct rlimit files;

    if (load->opt.fill && batch_size(&load->opt, &filling) > room)
        room = batch_size(&load->opt, &filling);
    load->request = alloc(room + 2 * sizeof(struct key), 1);
    load->input = alloc(READ_SIZE, 1);
    load->random = (load->opt.seed + 1) * 0x9e3779b97f4a7c15ull | 1;
    load->num_clients = load->opt.clients + load->opt.idle;
    if (load->num_clients == 0)
        load->num_clients = 1;
    load->clients = alloc(load->num_clients, sizeof(*load->clients));
    for (uint64_t i = 0; i < load->num_clients; i++)
        load->clients[i].id = (uint32_t)i;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    load->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (load->epoll_fd < 0)
        fail("epoll_create1: %s", strerror(errno));
}

int main(int argc, char **argv)
{
    static struct load load;

    parse_options(&load.opt, argc, argv);
    resolve_target(&load);
    setup(&load);
    make_data(&load);
    if (load.opt.zipf > 0)
        make_draws(&load);
    if (load.opt.fill)
        fill(&load);
    open_idle(&load);
    if (load.opt.clients > 0)
        work(&load);
    else if (load.opt.idle > 0)
        hold(&load);
    return 0;
}
