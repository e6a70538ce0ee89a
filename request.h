/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * request - the vocabulary of the layers: what a client asked for, whatever protocol it asked in.
 *
 *   codec --parse--> request --route--> backend --compose--> server
 *                       ^                  |
 *              ops->hit, ops->done <-------+
 *
 * A request is made by the client side, given to one backend at a time, and comes back through ops->done exactly once
 * for each time it was given. It stands in up to two queues: the FIFO of the client that asked (in the order of
 * asking) and the FIFO of the connection that it was sent on (in the order of sending).
 */
#ifndef REQUEST_H
#define REQUEST_H

#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "guard.h"
#include "util.h"

enum { AUTH_VALUE_MAX = 2 + 2 * 255 }; /* bytes of the value of OP_AUTH that are looked at */
enum { KEY_MAX = 250 }; /* protocol.txt: "Currently the length limit of a key is set at 250 characters" */

/*
 * The classic commands say what they want by their name; the meta commands are their general form, and what they want
 * is in the request's terms.
 */
enum opcode {
    OP_GET,
    OP_GETS,
    OP_GAT,
    OP_GATS,
    OP_SET,
    OP_ADD,
    OP_REPLACE,
    OP_APPEND,
    OP_PREPEND,
    OP_CAS,
    OP_INCR,
    OP_DECR,
    OP_TOUCH,
    OP_DELETE,
    OP_META_GET,
    OP_META_SET,
    OP_META_DELETE,
    OP_META_ARITH,
    OP_META_DEBUG,
    OP_META_NOOP,
    OP_FLUSH_ALL,
    OP_STATS,
    OP_VERSION,
    OP_VERBOSITY,
    OP_SHUTDOWN,
    OP_CRAWLER,  /* lru_crawler … */
    OP_MEMLIMIT, /* cache_memlimit */
    OP_WATCH,
    OP_AUTH,      /* its value is what SASL PLAIN sends: NUL, user, NUL, password */
    OP_SASL_LIST, /* of mechanisms */
    OP_SASL_STEP,
    OP_QUIT,
    OP_REFUSED, /* not a command, or not one that moxi takes: the reply is an error */
    OP_COUNT,
};

/* What is true of an opcode. */
enum {
    OPF_READ = 1 << 0,     /* keys in, values out, and no server's data changes: safe to ask again */
    OPF_VALUES = 1 << 1,   /* replies with values, and END */
    OPF_BODY = 1 << 2,     /* carries a value */
    OPF_KEY = 1 << 3,      /* has one key or more, and so one server for each */
    OPF_EVERYONE = 1 << 4, /* goes to every server */
    OPF_STORES = 1 << 5,   /* is answered STORED, NOT_STORED, EXISTS or NOT_FOUND */
    OPF_LOCAL = 1 << 6,    /* manages the cache inside, and is an error where there is none */
};

struct op_info {
    const char *name; /* as in the text protocol, and in stats */
    unsigned flags;
};

extern const struct op_info op_table[OP_COUNT];

static inline unsigned op_flags(enum opcode op)
{
    return op_table[op].flags;
}

static inline bool op_is_auth(unsigned op)
{
    return op >= OP_AUTH && op <= OP_SASL_STEP;
}

static inline bool op_is_meta(unsigned op)
{
    return op >= OP_META_GET && op <= OP_META_NOOP;
}

/* What a meta command asks for. */
enum {
    TERM_QUIET = 1 << 0,         /* q: what is as it should be is not told */
    TERM_BASE64 = 1 << 1,        /* b: the client writes the key in base64 */
    TERM_VALUE = 1 << 2,         /* v */
    TERM_FLAGS = 1 << 3,         /* f */
    TERM_UNIQUE = 1 << 4,        /* c */
    TERM_TTL = 1 << 5,           /* t */
    TERM_SIZE = 1 << 6,          /* s */
    TERM_IDLE = 1 << 7,          /* l */
    TERM_FETCHED = 1 << 8,       /* h */
    TERM_SILENT = 1 << 9,        /* u: it is no access */
    TERM_TOUCH = 1 << 10,        /* T: exptime is a new one */
    TERM_TOUCH_FIRST = 1 << 11,  /* and so before it is looked at for R */
    TERM_RECACHE = 1 << 12,      /* R */
    TERM_VIVIFY = 1 << 13,       /* N */
    TERM_COMPARE = 1 << 14,      /* C */
    TERM_NEW_UNIQUE = 1 << 15,   /* E */
    TERM_INVALIDATE = 1 << 16,   /* I */
    TERM_REMOVE_VALUE = 1 << 17, /* x */
    TERM_SPARE_NEW = 1 << 18,    /* T is not for what is made: N comes behind it */
    TERM_LENIENT = 1 << 19,      /* what is asked for of an item may be left out: a client of the binary protocol */
};

/* Those of a meta get that may change something. */
enum {
    TERMS_CHANGING = TERM_TOUCH | TERM_TOUCH_FIRST | TERM_RECACHE | TERM_VIVIFY | TERM_NEW_UNIQUE | TERM_INVALIDATE |
                     TERM_REMOVE_VALUE
};

struct terms {
    uint32_t bits;
    uint8_t wire;        /* of a binary request: its opcode there, */
    uint8_t opaque[4];   /* and what it is given back */
    uint8_t mode;        /* enum opcode: which of the classic stores, or of OP_INCR and OP_DECR, it is */
    int32_t recache;     /* seconds, as the client wrote them */
    int32_t vivify;      /* exptime of what is made, as above */
    uint64_t compare;    /* unique that the item must have */
    uint64_t new_unique; /* that it is given */
    uint64_t initial;    /* number that is made */
};

/* One key of a request. Those that one server holds are linked by index. */
struct rkey {
    const uint8_t *p;
    uint16_t len;
    bool is_hit;   /* its client has got its value */
    bool is_told;  /* sent: the server has told its value */
    uint32_t next; /* index of the next key of this request in its keys, or RKEY_END */
};

enum { RKEY_END = UINT32_MAX };

/* What became of a request. */
enum result {
    RESULT_NONE, /* still on its way */
    RESULT_END,  /* values and END: hits were reported one by one */
    RESULT_STORED,
    RESULT_NOT_STORED,
    RESULT_EXISTS,
    RESULT_NOT_FOUND,
    RESULT_DELETED,
    RESULT_TOUCHED,
    RESULT_NUMBER, /* incr, decr, a meta arithmetic: it is in `number` */
    RESULT_FOUND,  /* a meta get of no value; and a meta debug, which has its text */
    RESULT_OK,
    RESULT_RESET, /* stats reset */
    RESULT_TOLD,  /* a version, or mechanisms of SASL: the message; what a server says of itself: the text */
    RESULT_ERROR, /* an error reply of the server: the text is the line */
    /* below, moxi speaks for a server that did not answer */
    RESULT_WRITE_FAILED, /* was never sent */
    RESULT_CLOSED,       /* the connection was lost before the reply was there */
    RESULT_TIMEOUT,
    RESULT_QUEUE_FULL, /* too much is waiting for the server */
    RESULT_WAITED,     /* too long in the queue of downstream_max */
    RESULT_NO_MEMORY,
    RESULT_REFUSED, /* not a command to be carried out: the message says why */
};

/* Whether a key can be written in text as it is. */
static inline bool rkey_is_word(const struct rkey *key)
{
    for (uint32_t i = 0; i < key->len; i++)
        if (key->p[i] <= ' ' || key->p[i] == 0x7f)
            return false;
    return true;
}

/* What is known of an item beside its value: as far as the request asks for it; what is not told is 0. */
struct facts {
    uint64_t unique;
    uint32_t flags;
    uint32_t size;   /* bytes of the value */
    int64_t old_ttl; /* seconds left, -1: for good; before a meta command has given it another, */
    int64_t ttl;     /* and after it */
    uint32_t idle;   /* seconds since it was asked for */
    bool is_fetched; /* it was, since it was stored */
    bool is_stale;   /* X */
    bool is_sent;    /* Z: somebody was told to renew it */
    bool won;        /* W: this client is */
    bool is_binary;  /* its key was given in base64 when it was stored */
    bool no_size;    /* of a store: the server has not told how large the item is, as older ones do not */
};

/* One value of a reply. All pointers are good during the call only. */
struct hit {
    uint32_t key; /* index in the request's keys */
    struct facts facts;
    size_t value_len;    /* bytes of the value */
    const uint8_t *head; /* as the server wrote it: all that stands before the value */
    size_t head_len;
    size_t tail_len; /* as the server wrote it: bytes behind the value that belong to it (text: CR LF) */
};

/* The end of a reply. */
struct outcome {
    enum result result;
    const char *message; /* TOLD, REFUSED: what to say; moxi's other errors: the server's name. NULL: nothing */
    /*
     * As the server wrote it, with its end, if it speaks the client's protocol; NULL: nothing. RESULT_ERROR: the line
     * of the protocols in text, whatever is spoken.
     */
    const uint8_t *text;
    size_t text_len;
    uint64_t number;           /* NUMBER */
    const struct facts *facts; /* of a meta command that has succeeded; NULL: none */
};

struct cache_item;
struct request;

enum hold {
    HOLD_NONE,
    HOLD_KEYS, /* its keys, as they stand in `keys` */
    HOLD_PART, /* those that are linked from `first` on */
    HOLD_ALL,  /* every key there is */
};

/*
 * Where a backend reports to, for a request that is not answered yet. Only done may let go of the request, and none may
 * give it, or another, to a backend before it has returned (the client side does so at the end of the loop turn).
 */
struct request_ops {
    /* A whole value, head, value and tail contiguous in chunk at [p, p + n). */
    void (*hit)(struct request *r, const struct hit *hit, struct chunk *chunk, uint8_t *p, size_t n);
    /*
     * A value that is still arriving: begin, then value_len + tail_len bytes in one call of data or more, then end. If
     * the connection is lost in between, done comes without end, and what there was of the value does not count.
     */
    void (*begin)(struct request *r, const struct hit *hit);
    void (*data)(struct request *r, struct chunk *chunk, uint8_t *p, size_t n);
    void (*end)(struct request *r);
    /* One line of a reply to stats, without its end. */
    void (*stat)(struct request *r, const uint8_t *p, size_t n);
    /*
     * Some of a reply that is passed on as it is; and how much the client has been sent that it has not read, SIZE_MAX
     * when it is owed other replies first. unwritten is NULL where nobody waits for it.
     */
    void (*raw)(struct request *r, const uint8_t *p, size_t n);
    size_t (*unwritten)(const struct request *r);
    /* The last call. */
    void (*done)(struct request *r, const struct outcome *outcome);
};

/* Room in the request itself: the key, and a small value behind it. */
enum { REQUEST_INLINE = 304 };

/*
 * Owner: the FIFO of its client, or its parent; once these have let go of it (orphan), the connection whose queue it
 * stands in. Belongs to one worker.
 */
struct request {
    /* identity */
    const struct request_ops *ops;
    const struct codec *codec; /* what its client speaks */
    struct client *owner;      /* who asked; NULL for a part, and when the client has gone */
    struct request *parent;    /* the client's request that this is a part of, or NULL */
    struct pool_state *pool;   /* the pool that it was asked of */

    /* queues */
    struct request *next;      /* link in the client's FIFO */
    struct request *next_down; /* link in the connection's queues, or in the queue of downstream_max */

    /* what is asked */
    uint8_t op;      /* enum opcode */
    bool noreply;    /* the client wants no reply */
    bool answered;   /* nobody waits for its reply any more; what the server says is swallowed */
    bool in_conn;    /* stands in a connection's queue, or waits for downstream_max */
    bool waiting;    /* the latter */
    bool orphan;     /* answered, and its owner has let go of it: the connection releases it */
    bool got_reply;  /* the server has begun to answer */
    bool goes_on;    /* sent: its line has the next request's keys as well, and its reply is no END */
    bool in_value;   /* a value is arriving in pieces */
    bool may_stream; /* it is large enough to be passed on before it is whole */
    bool streaming;  /* a part of it has been passed on: there is no way back */
    bool finished;   /* its reply is whole, and waits for its turn at the client */
    bool too_large;  /* a set whose value was refused: it is a delete now, and answered with the refusal */
    bool put_off;    /* values were dropped, its client being owed too much; they will be asked for again */
    bool parked;     /* put_off, and all replies have come: it waits for its turn to ask again */
    bool delayed;    /* for all servers: it waits for its turn, and has not been asked yet */
    bool has_slot;   /* counts for downstream_max */
    uint8_t hold;    /* enum hold: what the guard was told that it writes */
    bool fills;      /* its reply is to be kept */
    bool leads;      /* others may follow it */
    bool alone;      /* nothing that its client sends behind it is asked before it is answered; it has no pin */
    uint8_t tries;   /* how often it was sent again */
    uint32_t server; /* index of its server in the pool */
    uint32_t conn;   /* sent: the connection that it took; orphan, waiting: that it takes, behind earlier ones */
    uint32_t flags;
    int64_t exptime;  /* seconds, as the client wrote them; delay of flush_all; level of verbosity */
    uint64_t number;  /* cas unique, or delta */
    bool has_exptime; /* flush_all was given a delay */

    /* keys: one in `key`, or an array in a chunk of its own */
    struct rkey *keys;
    uint32_t num_keys;
    uint32_t first;         /* index of the first key */
    uint32_t cursor;        /* index of the key behind the one whose value came last */
    uint32_t num_told;      /* sent: keys whose values have come */
    uint32_t again_from;    /* put_off: index of the first key to be asked for again */
    uint32_t num_done_keys; /* keys before the present ones: it has asked again for the rest */
    struct rkey key;
    struct chunk *keys_chunk; /* holds keys and their bytes, or arg; NULL: key and inl do, unless arg is static */
    const uint8_t *arg;       /* what follows the command, for those without a key; a meta command's flags */
    size_t arg_len;

    /* its value, without the text protocol's CR LF */
    struct spanq value;
    size_t inl_used; /* bytes of inl: the key, then the value if it fits */
    size_t inl_value_len;

    /* time */
    uint64_t start_us;    /* when it was read */
    uint64_t wait_us;     /* when it began to wait for a slot */
    uint64_t deadline_us; /* when it is answered for the server; 0: never */
    size_t charge;        /* bytes that it counts for in its client's bound on what is in flight */
    uint64_t sent_at;     /* the connection's count of bytes composed before it; set before it is composed */

    /* what is held of the reply until it is its turn */
    struct spanq held;
    size_t held_whole; /* bytes of held up to the last whole value, while in_value */
    uint32_t num_hits;
    uint32_t value_key;   /* index of the key whose value is arriving, */
    size_t value_bytes;   /* and the bytes of that with its head */
    uint64_t reply_bytes; /* bytes of values so far */

    /* what is kept of its reply, or shared: cproxy_share.c */
    void (*left)(struct request *r); /* called when it is released; NULL: not */
    struct guard_ticket ticket;
    uint64_t hash;               /* of its only key, or of all of them */
    struct cache_item *filling;  /* a value that arrives is copied there */
    size_t filled;               /* bytes of it so far, */
    size_t fill_len;             /* and in all */
    struct request *followers;   /* that have the same reply, by next_down */
    struct request *next_flight; /* link in the list of those that may be followed */

    /* a request that was split in parts, or that goes to everyone */
    void *parts;      /* the module's own, see cproxy_multiget.c and cproxy_broadcast.c */
    size_t key_bytes; /* of a part: bytes of its keys */

    /* from here on it is not blank when it is new */
    uint8_t inl[REQUEST_INLINE];
    struct terms terms; /* of a meta command, and of any in the binary protocol */
};

struct request_pool {
    struct request *free;
    size_t num_free;
    size_t low_free;
    size_t num_used;
    size_t num_released; /* ever */
};

void request_pool_setup(struct request_pool *pool);
void request_pool_teardown(struct request_pool *pool);
void request_pool_trim(struct request_pool *pool);

/* A blank request, or NULL when memory ran out. */
struct request *request_alloc(struct request_pool *pool) MUST_CHECK;

/* Takes back a request that stands in no queue, with all that it holds; nulls *r. */
void request_release(struct request_pool *pool, struct bufpool *bufs, struct request **r);

/* The request's value as one piece, when it is small enough to be kept inline; NULL when it is in `value`. */
static inline const uint8_t *request_inline_value(const struct request *r)
{
    return r->inl_value_len > 0 ? r->inl + r->inl_used - r->inl_value_len : NULL;
}

static inline size_t request_value_len(const struct request *r)
{
    return r->inl_value_len + r->value.bytes;
}

/* Copies its value, all request_value_len bytes of it, to dst. */
void request_copy_value(const struct request *r, uint8_t *dst);

/* Moves the key and the value of a store with one key to a request that has none. The key stays readable in from. */
void request_move_value(struct request *to, struct request *from);

/* Copies a single key into the request. len is at most KEY_MAX. */
void request_set_key(struct request *r, const uint8_t *key, size_t len);

/* The key of that index, if it is one of the request's that is not answered for yet; NULL: it is not. */
const struct rkey *request_open_key(const struct request *r, uint32_t index);

/* Whether its client wants no reply, or none that it expects. */
static inline bool request_is_quiet(const struct request *r)
{
    return r->noreply || (UNLIKELY(op_is_meta(r->op)) && (r->terms.bits & TERM_QUIET));
}

/* Bytes that it takes to send the request, about; for bounds on queues. */
static inline size_t request_weight(const struct request *r)
{
    return request_value_len(r) + 64 + (size_t)r->num_keys * 32;
}

/*
 * Ends the owner's part in a request whose done was called, or that it no longer cares for: releases it, or leaves that
 * to the connection whose queue it stands in. Nulls *r.
 */
void request_let_go(struct request_pool *pool, struct bufpool *bufs, struct request **r);

/*
 * The connection's part: the request has left its queues. Releases it when it is an orphan, and reports the outcome
 * when it is not answered yet.
 */
void request_left_conn(struct request_pool *pool, struct bufpool *bufs, struct request *r,
                       const struct outcome *outcome);

/* None of its keys has been told: it is about to be sent, maybe again. */
static inline void request_untell(struct request *r)
{
    r->num_told = 0;
    if (r->num_keys > 0)
        for (uint32_t i = r->first; i != RKEY_END; i = r->keys[i].next)
            r->keys[i].is_told = false;
}

/* A queue of requests by next_down. */
struct request_queue {
    struct request *head;
    struct request *tail;
    uint32_t n;
};

static inline void request_queue_push(struct request_queue *q, struct request *r)
{
    r->next_down = NULL;
    if (q->tail != NULL)
        q->tail->next_down = r;
    else
        q->head = r;
    q->tail = r;
    q->n++;
}

static inline void request_queue_push_front(struct request_queue *q, struct request *r)
{
    r->next_down = q->head;
    if (q->head == NULL)
        q->tail = r;
    q->head = r;
    q->n++;
}

/* Moves all of from to the end of to. */
static inline void request_queue_concat(struct request_queue *to, struct request_queue *from)
{
    if (from->head == NULL)
        return;
    if (to->tail != NULL)
        to->tail->next_down = from->head;
    else
        to->head = from->head;
    to->tail = from->tail;
    to->n += from->n;
    from->head = NULL;
    from->tail = NULL;
    from->n = 0;
}

static inline struct request *request_queue_pop(struct request_queue *q)
{
    struct request *r = q->head;

    if (r == NULL)
        return NULL;
    q->head = r->next_down;
    if (q->head == NULL)
        q->tail = NULL;
    q->n--;
    return r;
}

#endif
