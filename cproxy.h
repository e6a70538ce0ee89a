/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy - the proxying itself: the life of a request between a client and the servers.
 *
 * moxi's users know two words: the *upstream* side is that of the clients, the *downstream* side that of the servers.
 * In the code a client's connection is a struct client, and a server as a worker sees it a struct downstream.
 *
 *   client (cproxy_input.c)        cproxy_admit (cproxy.c)
 *   parses what it sends      -->  one key, or one server: relay -----------------> downstream_enqueue
 *                                  several: cproxy_multiget.c, a part a server ----> downstream_enqueue, each
 *                                  all servers: cproxy_broadcast.c, a part each ---> downstream_enqueue, each
 *                                  answered here: version, errors, stats proxy
 *   client_output, client_finish   <-- ops of each of these
 *   (cproxy_upstream.c) keep the order of replies
 *
 * A pool_state is a pool of the configuration as one worker runs it; everything here belongs to that worker.
 */
#ifndef CPROXY_H
#define CPROXY_H

#include <pthread.h>

#include "auth.h"
#include "conn.h"
#include "counters.h"
#include "cproxy_config.h"
#include "cproxy_downstream.h"
#include "cproxy_front.h"
#include "cproxy_item.h"
#include "cproxy_local.h"
#include "cproxy_pocket.h"
#include "guard.h"
#include "hotkeys.h"
#include "htgram.h"
#include "keyspec.h"
#include "keystats.h"
#include "loop.h"
#include "request.h"

/* What `version` says. It begins with a memcached's, for clients and tools choose by it: whose replies moxi's are. */
#define CPROXY_VERSION "1.6.18 moxi " PACKAGE_VERSION

struct client;
struct command;
struct pool_state;

/* What the process answers itself; given by the layer above. */
struct cproxy_hooks {
    /* `stats proxy …`: appends STAT lines and the end to out. False when memory ran out. */
    bool (*stats_proxy)(struct pool_state *ps, const uint8_t *arg, size_t len, struct spanq *out);
    /* A client has gone, and may make room for another. */
    void (*client_closed)(void);
    /* A client wants the process to end. */
    void (*shutdown)(void);
    struct local_hooks local;
};

/* What clients may speak; in the order of enum options_binding. */
enum binding { BINDING_AUTO, BINDING_ASCII, BINDING_BINARY };

/* How clients are served, from the command line. */
struct cproxy_serving {
    uint32_t requests_per_event; /* -R */
    uint32_t idle_timeout_s;     /* -o idle_timeout; 0: none */
    bool may_shutdown;           /* -A */
    bool may_flush;              /* not -F */
    bool may_watch;              /* not -W */
    enum binding binding;        /* -B */
    struct auth *text_users;     /* who may speak text; NULL: everybody */
    struct auth *binary_users;   /* and the binary protocol, by SASL */
    struct local_serving local;
};

/* Latencies by command, for `stats proxy timings`; only with time_stats. */
struct timings {
    struct htgram ops[OP_COUNT];
};

/* What a pool's workers have in common: immutable, but for what it points to. */
struct cproxy_shared {
    struct guard *guard;      /* the process's; NULL: this pool has no server of whose replies any is kept, or shared */
    struct front *front;      /* NULL: no reply of this pool is kept */
    struct front **fronts;    /* of this pool and those with a server of it, for its writes; NULL at the end */
    struct keyspec optimized; /* of optimize_set */
    struct hotkeys *hotkeys;  /* NULL: none are looked for */
    struct keyspec key_stats_spec;
};

struct pool_state {
    /* immutable */
    struct loop *loop;
    const struct pool *pool;
    const struct settings *settings;
    const struct cproxy_hooks *hooks;
    const struct cproxy_serving *serving;
    struct downstream **downstreams; /* one a server, in the pool's order; NULL: it is local */
    struct local *local;             /* NULL: no server is */
    const struct cproxy_shared *shared;

    struct request **flights; /* what may be followed: cproxy_squash.c; NULL: nothing */
    struct pocket *pocket;    /* what of the near cache is asked for most; NULL without that */
    struct item_out items;    /* replies from the near cache */

    /* this worker's; a change of its links takes the mutex, as others may look (clients_tell) */
    struct client *clients; /* all of them, linked by next */
    pthread_mutex_t clients_mutex;

    /* this worker only */
    uint32_t num_lingering;       /* of them, that were hung up on */
    struct feed *feeds;           /* one for each of them that watches: cproxy_watch.c */
    struct event feed_tick;       /* pending while there is any */
    struct request_queue waiting; /* for downstream_max */
    struct event wait_timer;      /* on the head of waiting */
    bool wait_timer_armed;
    uint32_t num_inflight;   /* requests given to servers, and not answered; a split one counts once */
    uint64_t auth_told_us;   /* when a failure to authenticate was last logged; 0: never */
    uint32_t value_estimate; /* bytes of a value, about what the last ones had */

    /* this worker counts by key here, and others look */
    struct hotkeys_worker hotkeys;
    struct keystats *keystats; /* NULL: off */

    /* written by this worker, read by any */
    struct counters counters;
    struct timings *timings; /* NULL without time_stats */
};

/* One a pool of the configuration, which must outlive it. NULL when memory ran out. */
struct cproxy_shared *cproxy_shared_create(const struct config *config) MUST_CHECK;
void cproxy_shared_destroy(struct cproxy_shared *all, const struct config *config); /* NULL is allowed */

/*
 * A pool for a worker. All that is passed must outlive it; cache may be NULL if no server is local. NULL when memory
 * ran out.
 */
struct pool_state *pool_state_create(struct loop *loop, const struct pool *pool, const struct cproxy_hooks *hooks,
                                     const struct cproxy_serving *serving, struct cache *cache,
                                     const struct cproxy_shared *shared) MUST_CHECK;

/* Closes its clients and its connections to servers, whatever is still on them. */
void pool_state_destroy(struct pool_state *ps);

/* Whether nothing is on its way, neither to servers nor to clients. */
bool pool_state_idle(const struct pool_state *ps);

/* Whether it is a retrieval that has been split. */
static inline bool request_is_split(const struct request *r)
{
    return r->parts != NULL && (op_flags((enum opcode)r->op) & OPF_VALUES);
}

/* --- cproxy.c --- */

/*
 * Starts a request that stands at the end of its client's FIFO, its keys and value complete. It ends in client_finish,
 * which may be called before this returns.
 */
void cproxy_admit(struct request *r);

/* Asks again for the keys of a parked request from again_from on. */
void cproxy_ask_again(struct request *r);

/*
 * Whether r is for all of several servers. Then it is asked when its client has been answered all before it, and
 * nothing that comes after it is asked until it is answered: the ways to several servers may lead to one.
 */
static inline bool cproxy_is_barrier(const struct request *r)
{
    return UNLIKELY(op_flags((enum opcode)r->op) & OPF_EVERYONE) && r->pool->pool->num_servers > 1;
}

/* Asks a delayed request, whose turn it is. */
void cproxy_begin(struct request *r);

/* A delayed request, whose client has gone: takes it over, and writes what it was to. */
void cproxy_begin_orphan(struct request *r);

/* Gives a request, or a part, to server number `server` of its pool. */
void cproxy_send(struct request *r, uint32_t server);

/*
 * A part of r for one server, with what all parts have from their whole; its deadline counts from now. The caller sends
 * and lets go of it. NULL when memory ran out.
 */
struct request *cproxy_make_part(struct request *r, uint32_t server, const struct request_ops *ops) MUST_CHECK;

/* Which server of the pool has the key. */
uint32_t cproxy_route(const struct pool_state *ps, const struct rkey *key);

/*
 * A client's request counts for downstream_max while it has a slot. It is given up, if it has one, when all that it has
 * asked for has come back, and taken again, after a wait maybe, when there is more to be asked (cproxy_take_slot).
 */
void cproxy_release_slot(struct request *r);
void cproxy_take_slot(struct request *r);

/* A value of so many bytes has come: a pool learns what size its values have. */
void cproxy_learn_value(struct pool_state *ps, size_t bytes);

/* How many keys a client may have in flight such that their values fit in client_buffer_max, about; 1 at the least. */
uint32_t cproxy_window(const struct pool_state *ps);

/* client_finish with an outcome whose text, if it is to have one, is a line in `text`, which is emptied. */
void cproxy_finish_text(struct request *r, struct outcome *outcome, struct spanq *text);

/* For an outcome of a retrieval: servers that cannot be asked have nothing, so the client gets a miss. */
struct outcome cproxy_read_outcome(const struct request *r, const struct outcome *outcome);

/* The reply of one server, relayed as it comes. */
extern const struct request_ops cproxy_relay_ops;

/* --- cproxy_share.c: only where the pool has a guard --- */

/* Before it has a slot. True: it is answered, or will be with the reply to another. */
bool share_admit(struct request *r) MUST_CHECK;

/* For the reply to one that share_admit has marked: it `leads`, or `fills`. */
extern const struct request_ops share_ops;

/* What the reply to a plain read has to tell of an item, and what it tells: see cproxy_front.h. */
unsigned share_needs(const struct request *r);
unsigned share_knows(const struct request *r);
bool share_wants_value(const struct request *r);

/* The client of r goes while it is on a connection. True: others need its reply, so it has to stay, without owner. */
bool share_carry(struct request *r);

/* A write, or a part of one: the guard knows of it, and nothing of its keys is kept, until it is released. */
void share_hold(struct request *r);

/* request.left of all of these. */
void share_left(struct request *r);

/* A key of a retrieval of several, before a server is asked: *ticket is for filling, then. */
enum front_result share_look(const struct request *r, const struct rkey *key, struct guard_ticket *ticket,
                             struct front_hit *hit) MUST_CHECK;

/*
 * The reply to a part of one, for the near cache: share_set_fill says which key is next. While a value arrives,
 * `filling` is not NULL if it is to be kept.
 */
void share_set_fill(struct request *part, const struct rkey *key, const struct guard_ticket *ticket);
void share_begin_fill(struct request *r, const struct rkey *key, const struct hit *hit);
void share_fill(struct request *r, const uint8_t *p, size_t n);
void share_end_fill(struct request *r);
void share_fill_miss(struct request *r, const struct rkey *key);

/* Once a pool_state. False when memory ran out. */
bool share_setup(struct pool_state *ps) MUST_CHECK;
void share_teardown(struct pool_state *ps);

/* --- cproxy_squash.c: only with squash --- */

/* One that share_admit has marked, `leads`: it may be followed from now on, as its server is known. */
void squash_lead(struct request *r);

/* Whether r, a plain read whose ticket has been drawn just now, will be answered with the reply to another. */
bool squash_follow(struct request *r) MUST_CHECK;

/* A value of the reply to r, for those that follow it: as request_ops. */
void squash_hit(struct request *r, const struct hit *hit, struct chunk *chunk, uint8_t *p, size_t n);
void squash_begin(struct request *r, const struct hit *hit);
void squash_data(struct request *r, struct chunk *chunk, uint8_t *p, size_t n);
void squash_end(struct request *r);

/* A value of one that was split, of that key, with its head, in pieces. */
void squash_pieces(struct request *r, uint32_t key, const struct spanq *pieces);

/* Nobody may follow r any more. */
void squash_leave(struct request *r);

/* The same, and its followers are taken from it. They end, as it has ended; */
struct request *squash_take(struct request *r) MUST_CHECK;
void squash_done(struct request *followers, const struct outcome *outcome);

/* or, though it has not, they have all up to key number `from`, and ask for the rest themselves. */
void squash_part(struct request *followers, uint32_t from);

/* Once a pool_state. False when memory ran out. */
bool squash_setup(struct pool_state *ps) MUST_CHECK;
void squash_teardown(struct pool_state *ps);

/* --- cproxy_keys.c --- */

/* What became of a key that was asked for. */
enum key_fate {
    KEY_HIT,
    KEY_MISS,
    KEY_CHANGE, /* nothing was to be read */
};

/* For cproxy_count_key. */
void cproxy_look_at_key(struct request *r, const struct rkey *key, enum key_fate fate, size_t bytes, bool is_due);

/* Once for each key of a client's request. bytes: of its value, as it came from a client or goes to one. */
static inline void cproxy_count_key(struct request *r, const struct rkey *key, enum key_fate fate, size_t bytes)
{
    struct pool_state *ps = r->pool;
    bool is_due = hotkeys_is_due(&ps->hotkeys);

    if (UNLIKELY(is_due || ps->keystats != NULL))
        cproxy_look_at_key(r, key, fate, bytes, is_due);
}

/* The client of r, no part, gets the value of that key. */
static inline void cproxy_count_hit(struct request *r, uint32_t key, size_t bytes)
{
    r->num_hits++;
    r->keys[key].is_hit = true;
    cproxy_count_key(r, &r->keys[key], KEY_HIT, bytes);
}

/* A retrieval is finished: of the keys that had no value. */
void cproxy_count_misses(struct request *r);

/* --- cproxy_multiget.c --- */

/*
 * Takes a retrieval of more than one key: one multiget a server, the values in the order of the keys. Returns false,
 * having done nothing, when all keys are one server's and few enough to be relayed as they are; *server is then which.
 */
bool multiget_admit(struct request *r, uint32_t *server) MUST_CHECK;

/* More of what a multiget has gathered may be written, and asked: it is the first in its client's FIFO. */
void multiget_continue(struct request *r);

/* It has the slot that it has asked for, or waited for it too long. */
void multiget_ask(struct request *r);
void multiget_refuse(struct request *r);

/* Whether every key has been asked for. */
bool multiget_all_asked(const struct request *r);

/*
 * Of one that squash_lead was called for: whether all its keys have been asked for, nothing has come back yet, and what
 * it has from the near cache is not too old for who asks now.
 */
bool multiget_is_unanswered(const struct request *r);

/* Frees what a multiget has gathered, once its client has gone: its parts are swallowed. */
void multiget_abandon(struct request *r);

/* --- cproxy_broadcast.c --- */

/* Takes a request for all servers: flush_all and stats. */
void broadcast_admit(struct request *r);

/* As multiget_abandon. */
void broadcast_abandon(struct request *r);

/* --- cproxy_watch.c --- */

/* The command: its client watches from now on, if the outcome is OK. */
struct outcome watch_begin(struct request *r);

/* Once a pool_state. False when libevent refuses. */
bool feeds_setup(struct pool_state *ps) MUST_CHECK;

/* --- cproxy_auth.c --- */

#define AUTH_BARRED "CLIENT_ERROR unauthenticated"

/*
 * Whether the client may send the command before it has said who it is, or at all if it is one of authentication. NULL:
 * yes; else the error that it gets.
 */
const char *auth_bars(const struct client *c, const struct command *cmd);

/* Its client says who it is, or asks how to. */
struct outcome auth_answer(struct request *r);

/* --- cproxy_upstream.c --- */

/* Sets up the loop's list of clients. Once a loop. */
void client_setup_loop(struct loop *loop);

/* Takes over fd, a client of that pool. False when memory ran out; fd is then closed. */
bool client_create(struct pool_state *ps, int fd) MUST_CHECK;

/* Stops reading a pool's clients; each is closed when what it has asked is answered. */
void clients_drain(struct pool_state *ps);

/* To be called every second, about. */
void clients_tick(struct pool_state *ps);

/* What may be known of a client in any thread. */
struct client_info {
    int fd;
    uint32_t idle_s; /* since it last sent something */
    bool in_value;   /* in the middle of a value */
    bool watches;
    bool is_owner; /* of the request that it is asked for */
};

/* Tells of each of a pool's clients, for a request that may be another pool's or worker's. Any thread. */
void clients_tell(struct pool_state *ps, const struct request *r, void (*fn)(void *arg, const struct client_info *info),
                  void *arg);

/* Closes a pool's clients now. */
void clients_destroy(struct pool_state *ps);

/* The file descriptor of the client of r, which may be a part; -1 when it has gone. */
int client_fd(const struct request *r);

/*
 * Where the reply to r, whose client is there, is to be appended: the client's output when it is r's turn, else
 * r->held.
 */
struct spanq *client_output(struct request *r);

/* Whether it is r's turn at its client: it has been answered all that it asked before r. */
bool client_is_turn(const struct request *r);

/* Something was appended to client_output(r). */
void client_wrote(struct request *r);

/* The client cannot be told what it should be: it is closed at the end of the turn. why goes to the log. */
void client_fail(struct client *c, const char *why);

/* Appends the end of r's reply and passes on what waited for it. May release r. */
void client_finish(struct request *r, const struct outcome *outcome);

/* So many bytes of the reply to r are held until it is r's turn. */
void client_holds(struct request *r, size_t bytes);

/*
 * Whether a value for r is better dropped and asked for again later: its client is owed too much, and has asked for
 * nothing but reads. waiting: bytes that r's multiget has gathered.
 */
bool client_puts_off(const struct request *r, size_t waiting);
void client_set_put_off(struct request *r, bool put_off);

/*
 * The connection to d that r is to take: while its client waits for something from d, the one that was asked, so that
 * its requests stay in order; else the one with the shortest queue. client_unpin says how r was answered: one that
 * timed out may still be carried out, so nothing may go another way for as long as the client stays.
 */
uint32_t client_pin(struct request *r, const struct downstream *d);
void client_unpin(struct request *r, const struct outcome *outcome);

/* Likewise, but it has to be this connection. False: it must not be. */
bool client_pin_to(struct request *r, uint32_t conn) MUST_CHECK;

/* The connection to a server that what r's client has asked of it before is on; 0: on none. */
uint32_t client_pinned(const struct request *r, uint32_t server);

/* Bytes that are waiting to be written to r's client. */
size_t client_unwritten(const struct request *r);

#endif
