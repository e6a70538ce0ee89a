/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * load.h - what the files of the load generator share; load.c says how it works.
 *
 * A struct load is the whole program: it is made once and handed to everybody. What goes wrong ends the program, by
 * fail, so no function here returns an error.
 */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum {
    READ_SIZE = 256 * 1024, /* bytes of one recv */
    CPU_GROUPS_MAX = 4,     /* --cpu options */
    CPU_PIDS_MAX = 16,      /* processes in one of them */
    SECOND_NS = 1000000000,
};

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

/* ---- keys, requests, replies ---- */

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

/* Part of a choice of keys that are not alike: see make_draws in load_keys.c. */
struct draw {
    uint32_t own;   /* of 2^32 tosses those that are for the key of this number, */
    uint32_t other; /* and the key that the rest are for */
};

/* Some bytes; p NULL in an expected reply: any. */
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

/* Those of the reply for a key, in their order; some have no bytes in some protocols, and most for a set. */
enum part { PART_HEAD, PART_UNIQUE, PART_FLAGS, PART_LINE, PART_VALUE, PART_END, PARTS };

/* How far the expected reply to a batch has been seen. */
struct cursor {
    uint32_t key; /* index in client.keys */
    enum part part;
    size_t off; /* bytes of that part */
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

/* CPU time of a group, in microseconds. */
struct cpu_time {
    double all;  /* from the process's CPU clock: exact */
    double user; /* from stat: the kernel's apportioning of it */
    double sys;
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
    /* made before the first connection, and not changed then */
    struct options opt;
    struct sockaddr_storage addr;
    socklen_t addr_len;
    struct key *keys;
    struct draw *draws;     /* one for each key; NULL: all are alike */
    char *pattern;          /* key i's value is pattern[i, i + value_size) */
    struct client *clients; /* active ones, then idle ones */
    uint64_t num_clients;   /* all of them, and at least one, which fills */
    int epoll_fd;

    char *request;   /* where a batch is composed */
    char *input;     /* READ_SIZE bytes */
    uint64_t random; /* state of the generator */

    /* this phase */
    struct plan plan;
    bool stopping;      /* start no more batches */
    uint64_t started;   /* requests, of this plan */
    uint64_t num_busy;  /* clients that wait for a reply */
    uint64_t next_scan; /* ns, when to look for stalls again */
    uint64_t requests;  /* answered */
    struct hist hist;   /* of batches */
};

/* ---- load_util.c: messages, memory, the clock ---- */

/* Ends the program with status 1 and a line that says why. */
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *fmt, ...);

/* Zeroed; never NULL. */
void *alloc(size_t n, size_t size);

/* Bytes as a message can show them: printable, escaped, cut. Returns one of two static buffers, in turn. */
const char *show(const char *p, size_t len);

uint64_t now_ns(void);
uint64_t to_ns(double seconds);

/* ---- load_options.c ---- */

/* Ends the program with status 2 where they make no sense, with status 0 for --help. argv stays in use. */
void options_parse(struct options *opt, int argc, char **argv);

/* ---- load_keys.c: keys and values, and the choice of keys ---- */

/* Makes load->keys, ->pattern and, where keys are not alike, ->draws, and seeds the choice. */
void keys_make(struct load *load);

/* The keys of the next request of the plan, plan.width indices. */
void keys_choose(struct load *load, uint32_t *keys);

/* The digits of a key's flags, and their number. */
struct span key_flags(const struct key *key);
uint32_t key_flags_number(const struct key *key);

/* ---- load_request.c: composing ---- */

/* The plan of what is measured, without an end; and that of storing all keys. */
struct plan plan_measuring(const struct options *opt);
struct plan plan_filling(const struct options *opt);

/* Bytes of the largest batch of a plan, rounded up: those that composing needs. */
size_t batch_size(const struct options *opt, const struct plan *plan);

/* Composes a request of the plan for these keys at d, and returns its end. */
char *request_compose(const struct load *load, char *d, const uint32_t *keys);

/* Chooses keys for c->batch requests, composes these in load->request and returns their length. */
size_t batch_compose(struct load *load, struct client *c);

/* The binary protocol: a header up to its unique, its opaque 0; and a number in network byte order. Return the end. */
enum { REQUEST = 0x80, RESPONSE = 0x81, CMD_GET = 0, CMD_SET = 1, GET_EXTRAS = 4, SET_EXTRAS = 8 };
char *put_packet(char *d, unsigned char magic, unsigned char opcode, uint32_t extras, uint32_t key, uint64_t value);
char *put_u32(char *d, uint32_t v);

/* ---- load_reply.c: checking ---- */

/* Whether all that the client's batch asks for has been seen. */
bool reply_is_whole(const struct load *load, const struct client *c);

/* Compares what a client has read with what it must get next. Fails at the first byte that differs, or is too many. */
void reply_check(const struct load *load, struct client *c, const char *p, size_t len);

/* ---- load_connect.c: connections ---- */

/* The target's address, to load->addr. */
void target_resolve(struct load *load);

/* Connects a client. The socket is blocking, with a time-out; the loop asks for MSG_DONTWAIT. */
void client_open(const struct load *load, struct client *c);

/* One get, checked, on a connection that the loop does not serve: it proves that the connection is served. */
void client_greet(struct load *load, struct client *c);

/* ---- load_loop.c: batches and their replies, for all clients at once ---- */

void loop_create(struct load *load);

/* The loop reports to it what the client's connection has for it from now on. */
void loop_add(const struct load *load, struct client *c);

/* Starts a batch of the plan for each of the first n clients that has none. */
void loop_start(struct load *load, uint64_t n);

/* Keeps every client busy until the deadline (ns), or, when there is a limit or it is stopping, until none is. */
void loop_run(struct load *load, uint64_t deadline);

/* Starts nothing more, and waits for all replies. */
void loop_drain(struct load *load);

/* ---- load_report.c: figures ---- */

void hist_add(struct hist *h, uint64_t v);

/* What the processes of each --cpu have run so far, to times. */
void cpu_sample(const struct options *opt, struct cpu_time *times);

/* Prints what was measured within those seconds, as "name=number" pairs. */
void report_print(const struct load *load, double seconds, const struct cpu_time *before, const struct cpu_time *after);

#endif
