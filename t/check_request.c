/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_request - the table of opcodes, the pool of requests, who releases a request when, and queues (request.c).
 *
 * Linked with --wrap=malloc.
 */
#include <stdlib.h>

#include "request.h"
#include "tap.h"

enum { MANY = 100 };

void *__wrap_malloc(size_t n);
void *__real_malloc(size_t n);

static bool no_memory;

void *__wrap_malloc(size_t n)
{
    return no_memory ? NULL : __real_malloc(n);
}

static struct request_pool pool;
static struct bufpool bufs;

static struct request *make(void)
{
    struct request *r = request_alloc(&pool);

    if (r == NULL)
        abort();
    return r;
}

/* A request that holds one chunk of each kind. */
static struct request *make_full(void)
{
    struct request *r = make();

    r->keys_chunk = chunk_alloc(&bufs, 10);
    if (r->keys_chunk == NULL || !spanq_copy(&r->value, &bufs, "value", 5) || !spanq_copy(&r->held, &bufs, "held", 4))
        abort();
    return r;
}

static void begin(void)
{
    request_pool_setup(&pool);
    bufpool_setup(&bufs);
}

static void end(const char *what)
{
    check(pool.num_used == 0 && bufs.chunk_bytes == 0, "%s: everything has come back", what);
    request_pool_teardown(&pool);
    bufpool_teardown(&bufs);
}

/* --- opcodes --- */

static void check_names(void)
{
    unsigned bad = 0;

    for (int i = 0; i < OP_COUNT; i++) {
        bad += op_table[i].name == NULL || op_table[i].name[0] == '\0';
        for (int j = 0; j < i && bad == 0; j++)
            bad += strcmp(op_table[i].name, op_table[j].name) == 0;
    }
    check(bad == 0, "every opcode has a name of its own");
}

static void check_flags(void)
{
    unsigned bad = 0;

    for (int i = 0; i < OP_COUNT; i++) {
        unsigned flags = op_flags((enum opcode)i);
        bool here = flags == 0 || flags == OPF_LOCAL || op_is_auth((unsigned)i);

        bad += !here && !(flags & OPF_KEY) == !(flags & OPF_EVERYONE);
        bad += (flags & OPF_VALUES) && !(flags & OPF_KEY);
        bad += (flags & OPF_VALUES) && (flags & OPF_BODY);
        bad += !op_is_auth((unsigned)i) && !(flags & OPF_STORES) != !(flags & OPF_BODY);
        bad += (flags & OPF_READ) && !(flags & OPF_VALUES);
    }
    check(bad == 0, "flags agree: keys or everyone or here; values, bodies and storing");
    check((op_flags(OP_GET) & OPF_READ) && (op_flags(OP_GETS) & OPF_READ), "a get may be asked again");
    bad = 0;
    for (int i = 0; i < OP_COUNT; i++)
        bad += i != OP_GET && i != OP_GETS && (op_flags((enum opcode)i) & OPF_READ);
    check(bad == 0, "and nothing else: all others change something");
}

/* --- the pool --- */

static void check_blank(void)
{
    static const struct request blank;
    struct request *r, *again;

    begin();
    r = make_full();
    check(pool.num_used == 1, "a request in use is counted");
    r->op = OP_CAS;
    r->flags = 7;
    r->exptime = -1;
    r->answered = true;
    request_set_key(r, (const uint8_t *)"key", 3);
    again = r;
    request_release(&pool, &bufs, &again);
    check(again == NULL && pool.num_used == 0 && pool.num_free == 1, "released it is taken from its holder");
    check(bufs.chunk_bytes == 0, "and gives back what it held");
    no_memory = true;
    again = request_alloc(&pool);
    check(again == r && request_alloc(&pool) == NULL, "it is used again; without memory there is no other");
    no_memory = false;
    check(pool.num_used == 1 && memcmp(r, &blank, offsetof(struct request, inl)) == 0, "it is blank then");
    request_release(&pool, &bufs, &again);
    end("blank");
}

static void use_many(size_t n)
{
    struct request *used[MANY];

    for (size_t i = 0; i < n; i++)
        used[i] = make();
    for (size_t i = 0; i < n; i++)
        request_release(&pool, &bufs, &used[i]);
}

static void check_trim(void)
{
    unsigned turns = 0;

    begin();
    request_pool_trim(&pool);
    use_many(MANY);
    request_pool_trim(&pool);
    check(pool.num_free == MANY, "what was in use since the last trim is kept");
    use_many(MANY / 2);
    request_pool_trim(&pool);
    check(pool.num_free >= MANY / 2 && pool.num_free < MANY, "what was not begins to go (%zu are left)", pool.num_free);
    while (pool.num_free > 0 && turns < 20) {
        request_pool_trim(&pool);
        turns++;
    }
    check(pool.num_free == 0, "an idle pool gives back everything (%u turns)", turns);
    end("trim");
}

static void check_key(void)
{
    uint8_t longest[KEY_MAX];
    struct request *r;

    begin();
    memset(longest, 'k', sizeof(longest));
    r = make();
    request_set_key(r, longest, sizeof(longest));
    check(r->num_keys == 1 && r->keys[r->first].len == KEY_MAX && r->keys[r->first].next == RKEY_END &&
              memcmp(r->keys[r->first].p, longest, KEY_MAX) == 0 && r->keys[r->first].p != longest,
          "the longest key is copied");
    check(request_inline_value(r) == NULL && request_value_len(r) == 0, "there is no value yet");
    memcpy(r->inl + r->inl_used, "value", 5);
    r->inl_used += 5;
    r->inl_value_len = 5;
    check(request_inline_value(r) == r->inl + KEY_MAX && request_value_len(r) == 5, "a small one is behind the key");
    check(request_weight(r) >= 5 + KEY_MAX / 8, "and counts");
    request_release(&pool, &bufs, &r);
    r = make();
    request_set_key(r, longest, 1);
    if (!spanq_copy(&r->value, &bufs, longest, sizeof(longest)))
        abort();
    check(request_inline_value(r) == NULL && request_value_len(r) == KEY_MAX && request_weight(r) > KEY_MAX,
          "a larger one is not there, but counts too");
    request_release(&pool, &bufs, &r);
    end("key");
}

/* --- who releases it --- */

static unsigned num_done;
static const struct outcome *last_outcome;

/* As the client side does: what is done is let go of. */
static void let_go(struct request *r, const struct outcome *outcome)
{
    num_done++;
    last_outcome = outcome;
    request_let_go(&pool, &bufs, &r);
}

static void keep(struct request *r, const struct outcome *outcome)
{
    (void)r;
    num_done++;
    last_outcome = outcome;
}

static const struct request_ops letting_ops = {.done = let_go};
static const struct request_ops keeping_ops = {.done = keep};
static const struct outcome outcome = {.result = RESULT_OK};

/* One that is in a connection's queue. */
static struct request *make_queued(const struct request_ops *ops)
{
    struct request *r = make_full();

    r->ops = ops;
    r->in_conn = true;
    return r;
}

static void check_answered(void)
{
    struct request *r;

    begin();
    num_done = 0;
    r = make_queued(&letting_ops);
    request_left_conn(&pool, &bufs, r, &outcome);
    check(num_done == 1 && last_outcome == &outcome, "the outcome of a request is reported");
    check(pool.num_used == 0, "and who is told may let go of it");
    r = make_queued(&keeping_ops);
    request_left_conn(&pool, &bufs, r, &outcome);
    check(num_done == 2 && pool.num_used == 1 && r->answered && !r->in_conn, "or not yet");
    request_let_go(&pool, &bufs, &r);
    check(r == NULL && pool.num_used == 0, "but later");
    end("answered");
}

static void check_orphan(void)
{
    struct request *r, *held;

    begin();
    num_done = 0;
    r = held = make_queued(&letting_ops);
    r->owner = (struct client *)r;
    r->parent = r;
    request_let_go(&pool, &bufs, &held);
    check(held == NULL && pool.num_used == 1, "a request in a connection's queue outlives its owner");
    check(r->orphan && r->answered && r->owner == NULL && r->parent == NULL, "and knows of none");
    check(r->held.head == NULL && r->value.bytes == 5, "it keeps what is to be sent, but no reply");
    request_left_conn(&pool, &bufs, r, &outcome);
    check(pool.num_used == 0 && num_done == 0, "it goes when it leaves the queue, and nobody is told");
    end("orphan");
}

/* A request that was answered for the server, and whose owner still has it. */
static void check_timed_out(void)
{
    struct request *r;

    begin();
    num_done = 0;
    r = make_queued(&keeping_ops);
    r->answered = true;
    request_left_conn(&pool, &bufs, r, &outcome);
    check(num_done == 0 && pool.num_used == 1 && !r->in_conn, "a late reply is nobody's, and releases nothing");
    request_let_go(&pool, &bufs, &r);
    check(pool.num_used == 0, "the owner does");
    end("timed out");
}

/* --- queues --- */

static bool pops(struct request_queue *q, struct request *const *expected, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (q->n != n - i || request_queue_pop(q) != expected[i])
            return false;
    return q->n == 0 && q->head == NULL && q->tail == NULL && request_queue_pop(q) == NULL && q->n == 0;
}

static void check_queue(void)
{
    struct request_queue q = {0}, other = {0};
    struct request *r[4];

    begin();
    for (size_t i = 0; i < ARRAY_LEN(r); i++)
        r[i] = make();
    check(pops(&q, r, 0), "a queue is empty");
    for (size_t i = 0; i < 3; i++)
        request_queue_push(&q, r[i]);
    check(pops(&q, r, 3), "first in, first out");
    request_queue_concat(&q, &other);
    check(pops(&q, r, 0), "nothing and nothing");
    request_queue_push(&other, r[0]);
    request_queue_push(&other, r[1]);
    request_queue_concat(&q, &other);
    check(other.n == 0 && other.head == NULL && other.tail == NULL && q.n == 2, "nothing and something");
    request_queue_concat(&q, &other);
    request_queue_push(&other, r[2]);
    request_queue_push(&other, r[3]);
    request_queue_concat(&q, &other);
    check(pops(&q, r, 4) && pops(&other, r, 0), "something and something");
    request_queue_push(&q, r[3]);
    check(pops(&q, &r[3], 1), "one that was moved can be queued again");
    for (size_t i = 0; i < ARRAY_LEN(r); i++)
        request_release(&pool, &bufs, &r[i]);
    end("queue");
}

int main(void)
{
    check_names();
    check_flags();
    check_blank();
    check_trim();
    check_key();
    check_answered();
    check_orphan();
    check_timed_out();
    check_queue();
    return tap_end();
}
