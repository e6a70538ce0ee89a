/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_input - what clients send: read, parse, and hand on as requests. See cproxy_upstream.h.
 *
 *   input_read -> take_input -> take_command -> admit -> client_push, cproxy_admit
 *                            -> take_body    (a value that arrives in pieces)
 *   input_resume: what had to wait
 *
 * What a client can make moxi hold is bounded by client_buffer_max, about: what is waiting to be written to it, and
 * what its requests in flight will bring (charge_of), which is guessed from the values that the pool had lately. Over
 * the bound its input is left unread (may_admit). Parsing also stops after -R commands, so that one client cannot hold
 * up a turn; the rest is parsed at the end of it.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cproxy_upstream.h"
#include "log.h"

enum {
    REST_COPY_MAX = 4096,    /* an unfinished line up to this size is put before the next read; a longer one grows */
    REFER_MIN = 16 * 1024,   /* a part of a value from which it is not copied out of the read buffer */
    VALUE_COPY_MAX = 4096,   /* a whole value up to this size is */
    KEY_CHARGE = 64,         /* what a key of a multiget takes: in its array, in a part, a slot for its value */
    REFUSED_CHARGE = 4096,   /* what a command takes that is refused, while others before it are not answered */
    BARRED_LINE_MAX = 2048,  /* bytes of a line of a client that has not said who it is */
    LINE_GROWTH = 16 * 1024, /* least room for the next read of a long line */
};

/* Input that could not be dealt with at once. From malloc; the client's. An idle client has none. */
struct input {
    struct chunk *rest; /* NULL: none. One reference held */
    size_t rest_pos;
    size_t rest_len;
    bool ready;          /* rest may be whole commands, which had to wait; else it is the beginning of a line */
    bool skip_line;      /* what comes up to the end of the line was answered already */
    struct request *cur; /* whose value is arriving; NULL: it is skipped */
    size_t body_left;    /* bytes of that value and its tail that have not arrived */
};

/* --- unfinished input --- */

static struct input *input_of(struct client *c)
{
    if (c->in == NULL)
        c->in = calloc(1, sizeof(*c->in));
    if (c->in == NULL)
        client_fail(c, "out of memory");
    return c->in;
}

static void input_tidy(struct client *c)
{
    if (c->in != NULL && c->in->rest == NULL && c->in->body_left == 0 && !c->in->skip_line) {
        free(c->in);
        c->in = NULL;
    }
}

static void drop_rest(struct client *c)
{
    if (c->in != NULL && c->in->rest != NULL) {
        chunk_unref(c->in->rest);
        c->in->rest = NULL;
        c->in->ready = false;
    }
    input_tidy(c);
}

void input_drop(struct client *c)
{
    struct loop *loop = client_loop(c);

    if (c->in == NULL)
        return;
    if (c->in->cur != NULL)
        request_release(&loop->requests, &loop->bufs, &c->in->cur);
    if (c->in->rest != NULL)
        chunk_unref(c->in->rest);
    free(c->in);
    c->in = NULL;
}

bool input_waits(const struct client *c)
{
    return c->in != NULL && c->in->ready;
}

/* Keeps [p, p + n) of chunk for later. */
static void keep(struct client *c, struct chunk *chunk, uint8_t *p, size_t n, bool ready)
{
    struct loop *loop = client_loop(c);
    struct input *in = input_of(c);

    if (in == NULL)
        return;
    in->ready = ready;
    in->rest_len = n;
    if (chunk != loop->read_chunk || (ready && n >= REFER_MIN)) {
        chunk_ref(chunk);
        in->rest = chunk;
        in->rest_pos = (size_t)(p - chunk->data);
        return;
    }
    /* A line that is long already will be longer: leave room behind it. */
    in->rest = chunk_alloc(&loop->bufs, n > REST_COPY_MAX && !ready ? 2 * n + LINE_GROWTH : n);
    in->rest_pos = 0;
    if (in->rest == NULL) {
        client_fail(c, "out of memory");
        return;
    }
    memcpy(in->rest->data, p, n);
}

/* --- commands --- */

/* What a client speaks who sends this first. */
static void greet(struct client *c, uint8_t first)
{
    enum binding binding = (enum binding)c->ps->serving->binding;

    c->greeted = true;
    c->binary = binding == BINDING_BINARY || (binding == BINDING_AUTO && first == 0x80);
    c->barred = (c->binary ? c->ps->serving->binary_users : c->ps->serving->text_users) != NULL;
}

static const struct codec *codec_of(const struct client *c, const uint8_t *p, size_t n)
{
    return UNLIKELY(c->binary) ? &codec_binary : codec_of_text(p, n);
}

static struct request *new_request(struct client *c, enum opcode op)
{
    struct request *r = request_alloc(&client_loop(c)->requests);

    if (r == NULL) {
        counter_add(&c->ps->counters.err_oom, 1);
        client_fail(c, "out of memory");
        return NULL;
    }
    r->pool = c->ps;
    r->codec = c->binary ? &codec_binary : op_is_meta(op) ? &codec_meta : &codec_ascii;
    r->op = (uint8_t)op;
    return r;
}

/* Answers a command that will not be carried out. error NULL: nothing is said. */
static void refuse(struct client *c, struct request *r, const char *error)
{
    struct outcome outcome = {.result = RESULT_REFUSED, .message = error};

    r->noreply = r->noreply || error == NULL;
    r->charge = REFUSED_CHARGE;
    client_push(c, r);
    client_finish(r, &outcome);
}

static void refuse_command(struct client *c, const struct command *cmd)
{
    struct request *r = new_request(c, OP_REFUSED);

    if (r == NULL)
        return;
    r->noreply = cmd->noreply;
    if (c->binary)
        r->terms = cmd->terms;
    /* Whoever is barred is not told what is wrong with what it may not ask. */
    refuse(c, r, UNLIKELY(c->barred) && cmd->op == OP_REFUSED && cmd->error != NULL ? AUTH_BARRED : cmd->error);
}

/* What a request will bring into memory until it is answered. */
static size_t charge_of(const struct request *r)
{
    const struct pool_state *ps = r->pool;
    size_t own = sizeof(*r) + request_value_len(r) + (size_t)r->num_keys * KEY_CHARGE;
    uint32_t keys = r->num_keys, window;

    if (!(op_flags((enum opcode)r->op) & OPF_VALUES))
        return own;
    window = cproxy_window(ps);
    return own + (size_t)(keys < window ? keys : window) * ps->value_estimate;
}

static void admit(struct client *c, struct request *r)
{
    assert(!c->barred || !(op_flags((enum opcode)r->op) & (OPF_KEY | OPF_EVERYONE | OPF_LOCAL)));
    log_trace("client %d: %s, %u keys, %zu bytes", c->conn.fd, op_table[r->op].name, r->num_keys, request_value_len(r));
    r->charge = charge_of(r);
    client_push(c, r);
    cproxy_admit(r);
}

/* Copies the keys of a multiget, and the bytes of its line that hold them, into a chunk. */
static bool copy_keys(struct client *c, struct request *r, const struct command *cmd)
{
    struct loop *loop = client_loop(c);
    const struct key_list *keys = &loop->keys;
    const struct rkey *last = &keys->v[keys->n - 1];
    size_t array = keys->n * sizeof(struct rkey);
    size_t line = (size_t)(last->p + last->len - cmd->key);
    uint8_t *copy;

    r->keys_chunk = chunk_alloc(&loop->bufs, array + line);
    if (r->keys_chunk == NULL)
        return false;
    r->keys = (struct rkey *)r->keys_chunk->data;
    copy = r->keys_chunk->data + array;
    memcpy(r->keys, keys->v, array);
    memcpy(copy, cmd->key, line);
    for (uint32_t i = 0; i < keys->n; i++)
        r->keys[i].p = copy + (r->keys[i].p - cmd->key);
    r->num_keys = keys->n;
    return true;
}

static bool copy_arg(struct client *c, struct request *r, const struct command *cmd)
{
    if (cmd->key_len == 0)
        return true;
    r->keys_chunk = chunk_alloc(&client_loop(c)->bufs, cmd->key_len);
    if (r->keys_chunk == NULL)
        return false;
    memcpy(r->keys_chunk->data, cmd->key, cmd->key_len);
    r->arg = r->keys_chunk->data;
    r->arg_len = cmd->key_len;
    return true;
}

/* Keeps a meta command's flags, behind its key if they fit. */
static bool copy_flags(struct client *c, struct request *r, const struct command *cmd)
{
    uint8_t *to = r->inl + r->inl_used;

    if (cmd->flags_len == 0)
        return true;
    if (cmd->flags_len <= sizeof(r->inl) - r->inl_used) {
        r->inl_used += cmd->flags_len;
    } else {
        r->keys_chunk = chunk_alloc(&client_loop(c)->bufs, cmd->flags_len);
        if (r->keys_chunk == NULL)
            return false;
        to = r->keys_chunk->data;
    }
    memcpy(to, cmd->flags_text, cmd->flags_len);
    r->arg = to;
    r->arg_len = cmd->flags_len;
    return true;
}

/* The request that a command asks for, without its value. NULL: the client fails. */
static struct request *request_of(struct client *c, const struct command *cmd)
{
    struct loop *loop = client_loop(c);
    struct request *r = new_request(c, cmd->op);
    bool ok = true;

    if (r == NULL)
        return NULL;
    r->noreply = cmd->noreply;
    r->flags = cmd->flags;
    r->exptime = cmd->exptime;
    r->has_exptime = cmd->has_exptime;
    r->number = cmd->number;
    if (cmd->num_keys == 1)
        request_set_key(r, cmd->key, cmd->key_len);
    else if (cmd->num_keys > 1)
        ok = copy_keys(c, r, cmd);
    else
        ok = copy_arg(c, r, cmd);
    if (op_is_meta(cmd->op) || c->binary)
        r->terms = cmd->terms;
    if (ok && op_is_meta(cmd->op))
        ok = copy_flags(c, r, cmd);
    if (!ok) {
        client_fail(c, "out of memory");
        request_release(&loop->requests, &loop->bufs, &r);
    }
    return r;
}

/* What takes away the value that a set should have replaced. */
static void become_delete(struct request *r)
{
    r->too_large = true;
    if (r->op == OP_SET) {
        r->op = OP_DELETE;
        return;
    }
    r->op = OP_META_DELETE;
    r->terms.bits &= TERM_BASE64;
    r->terms.mode = 0;
    r->arg = (const uint8_t *)"b";
    r->arg_len = (r->terms.bits & TERM_BASE64) != 0;
}

/*
 * A value over item_size_max. As in memcached, a set that fails does not leave the old value behind; nor does any ms.
 */
static void refuse_size(struct client *c, struct request *r)
{
    if (r->op != OP_SET && (r->op != OP_META_SET || (c->binary && r->terms.mode != OP_SET))) {
        /* Among several servers, it would take the key's to know. */
        if (c->ps->local != NULL && c->ps->pool->num_servers == 1) {
            r->owner = c;
            local_refused_size(c->ps->local, r);
        }
        refuse(c, r, "SERVER_ERROR object too large for cache");
        return;
    }
    become_delete(r);
    admit(c, r);
}

static void refuse_data(struct client *c, struct request *r)
{
    counter_add(&c->ps->counters.err_upstream_bad_data, 1);
    refuse(c, r, "CLIENT_ERROR bad data chunk");
}

/* A value that is all there, at p in chunk, with its tail behind it. */
static void admit_with_value(struct client *c, struct request *r, struct chunk *chunk, uint8_t *p,
                             const struct command *cmd)
{
    struct loop *loop = client_loop(c);
    size_t n = cmd->body_len;
    bool ok = true;

    if (!r->codec->check_tail(p + n, cmd->body_tail)) {
        refuse_data(c, r);
        return;
    }
    if (n <= sizeof(r->inl) - r->inl_used) {
        memcpy(r->inl + r->inl_used, p, n);
        r->inl_used += n;
        r->inl_value_len = n;
    } else if (n <= VALUE_COPY_MAX) {
        ok = spanq_copy(&r->value, &loop->bufs, p, n);
    } else {
        ok = spanq_refer(&r->value, &loop->bufs, chunk, p, n);
    }
    if (ok) {
        admit(c, r);
        return;
    }
    client_fail(c, "out of memory");
    request_release(&loop->requests, &loop->bufs, &r);
}

/* What follows is a value and its tail, or what would have been one. */
static void begin_body(struct client *c, size_t bytes)
{
    c->in->body_left = bytes;
    client_set_doing(c, DOING_VALUE);
}

/*
 * A command with a value. Returns how many bytes of the n at p were of use: the command, and the value if it is whole.
 */
static size_t take_store(struct client *c, struct chunk *chunk, uint8_t *p, size_t n, const struct command *cmd)
{
    size_t body = cmd->body_len + cmd->body_tail;
    struct request *r = request_of(c, cmd);
    bool fits = cmd->body_len <= c->ps->settings->item_size_max || op_is_auth(cmd->op);

    if (r == NULL)
        return cmd->consumed;
    if (fits && n - cmd->consumed >= body) {
        admit_with_value(c, r, chunk, p + cmd->consumed, cmd);
        return cmd->consumed + body;
    }
    if (input_of(c) == NULL) {
        request_release(&client_loop(c)->requests, &client_loop(c)->bufs, &r);
        return cmd->consumed;
    }
    begin_body(c, body);
    c->in->cur = fits ? r : NULL;
    if (!fits)
        refuse_size(c, r);
    return cmd->consumed;
}

/* A line without an end, too long to be one. */
static void refuse_line(struct client *c)
{
    struct command cmd = {.op = OP_REFUSED, .error = "CLIENT_ERROR line too long"};

    refuse_command(c, &cmd);
    c->linger = true;
    client_hang_up(c);
}

/* A line that is not all there, and will not be a command when it is. False: it may be one. */
static bool refuse_hopeless(struct client *c, const uint8_t *p, size_t n)
{
    struct command cmd = {.op = OP_REFUSED, .error = "ERROR"};

    if (!codec_of(c, p, n)->is_hopeless(p, n) || input_of(c) == NULL)
        return false;
    c->in->skip_line = true;
    refuse_command(c, &cmd);
    return true;
}

/* Returns how many of the n bytes at p belong to a line that is being skipped. */
static size_t skip_line(struct client *c, const uint8_t *p, size_t n)
{
    const uint8_t *lf = memchr(p, '\n', n);

    if (lf == NULL)
        return n;
    c->in->skip_line = false;
    input_tidy(c);
    return (size_t)(lf - p) + 1;
}

/*
 * A command that was refused, or is: after the answer its value is skipped. Who has not said who it is, and speaks the
 * binary protocol, is hung up on, as by memcached. Returns how many bytes were of use.
 */
static size_t take_refused(struct client *c, struct command *cmd)
{
    if (cmd->body_len + cmd->body_tail > 0 && input_of(c) != NULL)
        begin_body(c, cmd->body_len + cmd->body_tail);
    refuse_command(c, cmd);
    if (cmd->hangup || (c->barred && c->binary && !op_is_auth(cmd->op))) {
        c->linger = true;
        client_hang_up(c);
    }
    return cmd->consumed;
}

static size_t refuse_barred(struct client *c, struct command *cmd, const char *error)
{
    cmd->error = error;
    cmd->noreply = false;
    return take_refused(c, cmd);
}

/* Bytes of a line that a client may send. */
static uint64_t line_max(const struct client *c)
{
    return UNLIKELY(c->barred) ? BARRED_LINE_MAX : c->ps->settings->line_max;
}

/* One command. Returns how many bytes were of use; 0: it is not all there. */
static size_t take_command(struct client *c, struct chunk *chunk, uint8_t *p, size_t n, size_t seen)
{
    struct loop *loop = client_loop(c);
    enum parse_status status;
    struct command cmd;
    struct request *r;
    const char *error;

    if (UNLIKELY(!c->greeted))
        greet(c, p[0]);
    status = codec_of(c, p, n)->parse_request(p, n, seen, &loop->keys, &cmd);
    if (UNLIKELY((status == PARSE_MORE ? n : cmd.consumed) > line_max(c))) {
        refuse_line(c);
        return n;
    }
    switch (status) {
    case PARSE_OK:
        break;
    case PARSE_MORE:
        return refuse_hopeless(c, p, n) ? n : 0;
    case PARSE_BAD:
        return take_refused(c, &cmd);
    case PARSE_NO_MEMORY:
        client_fail(c, "out of memory");
        return n;
    }
    if (UNLIKELY(c->barred || op_is_auth(cmd.op)) && (error = auth_bars(c, &cmd)) != NULL)
        return refuse_barred(c, &cmd, error);
    /* The value of whatever a client of text wants to set first is its user and password. */
    if (UNLIKELY(c->barred) && cmd.op == OP_SET) {
        cmd.op = OP_AUTH;
        cmd.noreply = false;
    }
    if (cmd.op == OP_QUIT) {
        client_hang_up(c);
        return n;
    }
    if (op_flags(cmd.op) & OPF_BODY)
        return take_store(c, chunk, p, n, &cmd);
    r = request_of(c, &cmd);
    if (r != NULL)
        admit(c, r);
    if (UNLIKELY(cmd.hangup))
        client_hang_up(c);
    return cmd.hangup ? n : cmd.consumed;
}

/* --- values that arrive in pieces --- */

static void body_complete(struct client *c)
{
    struct request *r = c->in->cur;
    struct bufpool *bufs = &client_loop(c)->bufs;
    uint8_t tail[2];
    size_t tail_len = r != NULL ? r->codec->value_tail : 0;

    c->in->cur = NULL;
    client_set_doing(c, DOING_COMMANDS);
    input_tidy(c);
    if (r == NULL)
        return;
    spanq_peek_tail(&r->value, tail, tail_len);
    spanq_truncate(&r->value, bufs, r->value.bytes - tail_len);
    if (r->codec->check_tail(tail, tail_len))
        admit(c, r);
    else
        refuse_data(c, r);
}

/* Appends n bytes to a value of which body_left, these included, are to come. */
static bool fill_value(struct client *c, struct chunk *chunk, uint8_t *p, size_t n)
{
    struct request *r = c->in->cur;
    struct bufpool *bufs = &client_loop(c)->bufs;
    size_t left = c->in->body_left, room;

    if (n >= REFER_MIN)
        return spanq_refer(&r->value, bufs, chunk, p, n);
    while (n > 0) {
        uint8_t *to = spanq_reserve(&r->value, bufs, 1, left, &room);

        if (to == NULL)
            return false;
        if (room > n)
            room = n;
        memcpy(to, p, room);
        spanq_commit(&r->value, room);
        p += room;
        n -= room;
        left -= room;
    }
    return true;
}

/* Returns how many of the n bytes at p belong to the value that is arriving. */
static size_t take_body(struct client *c, struct chunk *chunk, uint8_t *p, size_t n)
{
    struct input *in = c->in;
    size_t took = n < in->body_left ? n : in->body_left;

    if (in->cur != NULL && !fill_value(c, chunk, p, took)) {
        client_fail(c, "out of memory");
        return took;
    }
    in->body_left -= took;
    if (in->body_left == 0)
        body_complete(c);
    return took;
}

/* --- input --- */

/* Whether nothing may be asked behind r yet. */
static bool must_wait_for(const struct request *r)
{
    return (request_is_split(r) && !multiget_all_asked(r)) || (r->waiting && r->num_keys > 1) ||
           ((r->alone || cproxy_is_barrier(r)) && !r->finished);
}

/*
 * Whether the client may ask for more: it is owed nothing, or little; nothing is put off; and its last request, if it
 * is a multiget, which may be asked for bit by bit, has been asked for whole, if it is for all servers, or follows one
 * that was split, has been answered: for nothing may overtake these.
 */
static bool may_admit(const struct client *c)
{
    size_t owed = c->conn.out.bytes + c->charged;

    if (c->num_put_off > 0 || (c->tail != NULL && must_wait_for(c->tail)))
        return false;
    return (c->head == NULL && c->conn.out.bytes == 0) || owed < c->ps->settings->client_buffer_max;
}

/* Deals with n bytes at p in chunk; the first `seen` hold no end of line. What has to wait is kept. */
static void take_input(struct client *c, struct chunk *chunk, uint8_t *p, size_t n, size_t seen)
{
    uint32_t budget = c->ps->serving->requests_per_event;

    while (n > 0 && !c->closing && !c->eof && c->doing != DOING_WATCH) {
        size_t took;

        if (c->in != NULL && c->in->body_left > 0) {
            took = take_body(c, chunk, p, n);
        } else if (c->in != NULL && c->in->skip_line) {
            took = skip_line(c, p, n);
        } else if (budget == 0 || !may_admit(c)) {
            if (budget == 0)
                counter_add(&c->ps->counters.tot_upstream_yields, 1);
            keep(c, chunk, p, n, true);
            client_mark(c);
            return;
        } else {
            budget--;
            took = take_command(c, chunk, p, n, seen);
            if (took == 0) {
                keep(c, chunk, p, n, false);
                return;
            }
        }
        p += took;
        n -= took;
        seen = 0;
    }
}

void input_resume(struct client *c)
{
    struct input *in = c->in;
    struct chunk *chunk;
    bool ready = in != NULL && in->ready;
    bool over = ready && !may_admit(c);

    if (over != c->over_bound) {
        c->over_bound = over;
        counter_add(over ? &c->ps->counters.tot_upstream_paused : &c->ps->counters.tot_upstream_unpaused, 1);
    }
    if (!conn_set_paused(&c->conn, over || c->eof))
        client_fail(c, "the event loop refuses it");
    if (!ready || over || c->closing)
        return;
    chunk = in->rest;
    in->rest = NULL;
    in->ready = false;
    take_input(c, chunk, chunk->data + in->rest_pos, in->rest_len, 0);
    chunk_unref(chunk);
    input_tidy(c);
}

/* Room for the next bytes of a line that has grown too long to be moved each time. NULL: the client fails. */
static uint8_t *grow_rest(struct client *c, size_t *room)
{
    struct input *in = c->in;
    size_t used = in->rest_pos + in->rest_len;

    if (in->rest->size - used < LINE_GROWTH || in->rest->refs > 1) {
        struct chunk *chunk = chunk_alloc(&client_loop(c)->bufs, 2 * in->rest_len + LINE_GROWTH);

        if (chunk == NULL) {
            client_fail(c, "out of memory");
            return NULL;
        }
        memcpy(chunk->data, in->rest->data + in->rest_pos, in->rest_len);
        chunk_unref(in->rest);
        in->rest = chunk;
        in->rest_pos = 0;
        used = in->rest_len;
    }
    *room = in->rest->size - used;
    return in->rest->data + used;
}

/* What a read that brought nothing means. */
static void read_nothing(struct client *c, enum conn_status status)
{
    if (status == CONN_AGAIN)
        return;
    if (status == CONN_EOF)
        client_hang_up(c);
    else
        client_fail(c, strerror(errno));
}

/* The next bytes of a long line, read behind those that are there. */
static void read_long_line(struct client *c)
{
    struct chunk *chunk;
    struct iovec iov;
    size_t got, seen, pos;
    enum conn_status status;

    iov.iov_base = grow_rest(c, &iov.iov_len);
    if (iov.iov_base == NULL)
        return;
    status = conn_read(&c->conn, &iov, 1, &got);
    if (status != CONN_OK) {
        read_nothing(c, status);
        return;
    }
    counter_add(&c->ps->counters.tot_upstream_read, got);
    chunk = c->in->rest;
    pos = c->in->rest_pos;
    seen = c->in->rest_len;
    c->in->rest = NULL;
    take_input(c, chunk, chunk->data + pos, seen + got, seen);
    chunk_unref(chunk);
    input_tidy(c);
}

/* Reads once: the rest of a value where it belongs, all else into the loop's buffer, behind an unfinished line. */
static void read_some(struct client *c)
{
    struct loop *loop = client_loop(c);
    struct input *in = c->in;
    struct iovec iov[2];
    size_t room, got, kept = 0, filled = 0;
    enum conn_status status;
    bool filling = in != NULL && in->cur != NULL;
    uint8_t *buf = loop_read_buffer(loop, &room);

    if (buf == NULL) {
        client_fail(c, "out of memory");
        return;
    }
    if (in != NULL && in->rest != NULL) {
        kept = in->rest_len;
        memcpy(buf, in->rest->data + in->rest_pos, kept);
    }
    iov[1] = (struct iovec){buf + kept, room - kept};
    if (filling) {
        iov[0].iov_base = spanq_reserve(&in->cur->value, &loop->bufs, 1, in->body_left, &iov[0].iov_len);
        if (iov[0].iov_base == NULL) {
            client_fail(c, "out of memory");
            return;
        }
        if (iov[0].iov_len > in->body_left)
            iov[0].iov_len = in->body_left;
    }
    status = filling ? conn_read(&c->conn, iov, 2, &got) : conn_read(&c->conn, &iov[1], 1, &got);
    if (status != CONN_OK) {
        read_nothing(c, status);
        return;
    }
    counter_add(&c->ps->counters.tot_upstream_read, got);
    if (kept > 0)
        drop_rest(c);
    if (filling) {
        filled = got < iov[0].iov_len ? got : iov[0].iov_len;
        spanq_commit(&in->cur->value, filled);
        in->body_left -= filled;
        if (in->body_left == 0)
            body_complete(c);
    }
    take_input(c, loop->read_chunk, buf, kept + got - filled, kept);
    loop_read_done(loop, kept + got - filled);
}

void input_read(struct client *c)
{
    if (c->in != NULL && c->in->rest != NULL && c->in->rest_len > REST_COPY_MAX)
        read_long_line(c);
    else
        read_some(c);
}
