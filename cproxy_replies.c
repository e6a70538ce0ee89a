/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_replies - what a server says, and to which requests: from bytes read to request_ops.
 *
 *   replies_read --> take_replies: codec->parse_reply, for the head of `sent`
 *                      |    a line --> ops->stat, or handle_done --> finish_reply: ops->done
 *                      |    a value that is all there --> handle_hit: ops->hit
 *                      +--> one that is not: ops->begin; its bytes --> take_body: ops->data; finish_body: ops->end
 *
 * The reply that arrives is the one to the head of `sent`. What cannot be closes the connection (malformed), and nobody
 * is given it. An unfinished line is kept until more has come; the rest of a large value is read to where it stays.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "cproxy_downstream_int.h"
#include "log.h"

enum {
    REFER_MIN = 16 * 1024, /* a part of a value from which it is not copied out of the read buffer */
};

/*
 * Whether a reply is passed on as it came. Else it is composed anew, in its client's protocol; or as the server was not
 * asked for a key that no line can hold: see codec_meta.
 */
static bool is_passed_on(const struct codec *codec, const struct request *r)
{
    if (UNLIKELY(codec != r->codec))
        return false;
    if (LIKELY(codec != &codec_meta || r->num_keys == 0 || !(r->terms.bits & TERM_BASE64)))
        return true;
    return r->op == OP_META_DEBUG || rkey_is_word(&r->keys[0]);
}

static bool malformed(struct dconn *dc, const char *why)
{
    /* What a twin is asked first, who does not speak its protocol cannot answer well. */
    if (!is_twin(dc->d) || dc->knows != KNOWS_ASKED) {
        counter_add(&dc->d->counters->err_downstream_bad_reply, 1);
        log_warning("downstream %s: malformed reply: %s", dc->d->server->name, why);
    }
    dconn_close(dc, RESULT_CLOSED, "malformed reply");
    return false;
}

/* Whether a value is of one of r's keys that has not been told, from index i on; then it is now. */
static bool take_key(struct request *r, uint32_t i, struct reply *reply)
{
    for (; i != RKEY_END; i = r->keys[i].next) {
        struct rkey *key = &r->keys[i];

        if (key->len != reply->key_len || key->is_told || memcmp(key->p, reply->key, key->len) != 0)
            continue;
        key->is_told = true;
        r->num_told++;
        r->cursor = key->next;
        reply->hit.key = i;
        return true;
    }
    return false;
}

/*
 * Whose value it is, of those whose keys are in the head's line, and which of its keys'. A memcached answers in the
 * order in which it was asked, so that the first look finds it. A proxy may have its servers' replies one after the
 * other.
 */
static struct request *match_key(struct dconn *dc, struct reply *reply)
{
    struct request *r = dc->at != NULL ? dc->at : dc->sent.head;

    if (reply->key == NULL) {
        reply->hit.key = r->first;
        return r;
    }
    for (;; r = r->next_down) {
        if (LIKELY(take_key(r, r->cursor, reply)))
            return r;
        if (!r->goes_on)
            break;
    }
    for (r = dc->sent.head;; r = r->next_down) {
        if (take_key(r, r->first, reply))
            return r;
        if (!r->goes_on)
            return NULL;
    }
}

/* The reply to the head of `sent` is complete. suspicious: the connection is not to be used again. */
static bool finish_reply(struct dconn *dc, const struct outcome *outcome, bool suspicious)
{
    struct request *r = request_queue_pop(&dc->sent);
    struct loop *loop = dc->d->loop;
    bool is_swallowed = r->answered;

    if (dc->at == r)
        dc->at = NULL;
    dc->num_joined -= r->goes_on;
    assert(dc->num_joined == 0 || dc->num_joined < dc->sent.n);
    if ((r->op == OP_GET || r->op == OP_GETS) && r->num_told == 0)
        dc->usual_value -= dc->usual_value / 8; /* nothing was found */
    request_left_conn(&loop->requests, &loop->bufs, r, outcome);
    if (UNLIKELY(is_swallowed))
        counter_add(&dc->d->counters->tot_downstream_swallowed, 1);
    if (UNLIKELY(suspicious)) {
        dconn_close(dc, RESULT_CLOSED, "the server does not know the command, and took its value for more of them");
        return false;
    }
    if (UNLIKELY(dc->is_last) && dc->sent.head == NULL) {
        dconn_close(dc, RESULT_CLOSED, "the reply had keys in it, and may have more behind it");
        return false;
    }
    return true;
}

static bool finish_value(struct dconn *dc)
{
    const struct outcome outcome = {.result = RESULT_END};

    return finish_reply(dc, &outcome, false);
}

/* What stands behind a value in its client's protocol, and does not in the server's, which has n bytes there. */
static void add_tail(struct request *r, size_t n)
{
    uint8_t tail[] = {'\r', '\n'};

    if (r->codec->value_tail > n)
        r->ops->data(r, NULL, tail, r->codec->value_tail);
}

/* The value that was being read is complete. */
static bool finish_body(struct dconn *dc)
{
    struct request *r = dc->at;

    if (dc->fill != NULL)
        chunk_unref(dc->fill);
    dc->fill = NULL;
    if (!dconn_codec(dc, r)->check_tail(dc->tail, dc->body_tail))
        return malformed(dc, "a value without CR LF behind it");
    if (!r->answered) {
        add_tail(r, dc->body_tail);
        r->ops->end(r);
    }
    return !dc->body_is_last || finish_value(dc);
}

/* Hands on n bytes of the value being read, at p in chunk. */
static bool take_body(struct dconn *dc, struct chunk *chunk, uint8_t *p, size_t n)
{
    struct request *r = dc->at;
    size_t over;

    /* The tail is checked when all of it has come, which may be in two reads. */
    for (size_t i = dc->body_left > dc->body_tail ? dc->body_left - dc->body_tail : 0; i < n; i++)
        dc->tail[dc->body_tail - (dc->body_left - i)] = p[i];
    dc->body_left -= n;
    /* The client's protocol may have less behind a value. */
    over = dc->body_tail - dc->body_told;
    over = dc->body_left < over ? over - dc->body_left : 0;
    if (!r->answered && n > over)
        r->ops->data(r, chunk, p, n - over);
    return dc->body_left > 0 || finish_body(dc);
}

/* Bytes of a value that were read into the loop's buffer: large parts stay there, small ones move to the fill chunk. */
static bool take_body_read(struct dconn *dc, struct chunk *chunk, uint8_t *p, size_t n)
{
    struct request *r = dc->at;
    struct chunk *fill = dc->fill;
    uint8_t *to;

    if (n >= REFER_MIN || n == dc->body_left || r->answered || fill != NULL)
        return take_body(dc, chunk, p, n);
    dc->fill = fill = chunk_alloc(&dc->d->loop->bufs, dc->body_left < CHUNK_LARGE ? dc->body_left : CHUNK_LARGE);
    if (fill == NULL)
        return take_body(dc, chunk, p, n);
    to = fill->data;
    memcpy(to, p, n);
    fill->used = n;
    return take_body(dc, fill, to, n);
}

/*
 * The head of a value, in its client's protocol. What stands behind it is CR LF, or nothing: passed on as far as that
 * protocol has it, or added. The return value is how much of it is passed on.
 */
static size_t translate_head(struct request *r, struct hit *hit, uint8_t *head)
{
    size_t told = hit->tail_len < r->codec->value_tail ? hit->tail_len : r->codec->value_tail;

    hit->tail_len = r->codec->value_tail;
    hit->head_len = r->codec->compose_head(r, hit, head);
    hit->head = head;
    return told;
}

/*
 * A value that is all there, of a protocol that its client does not speak: its body at p, behind the server's head of
 * so many bytes. If the client's head is no longer it takes the place of the server's, and all stays in one piece.
 */
static void translate_hit(struct request *r, struct hit *hit, struct chunk *chunk, uint8_t *p, size_t head_room)
{
    uint8_t head[HIT_HEAD_MAX];
    size_t tail = hit->tail_len;
    size_t told = translate_head(r, hit, head);

    if (hit->head_len <= head_room && hit->tail_len == told) {
        hit->head = memcpy(p - hit->head_len, head, hit->head_len);
        r->ops->hit(r, hit, chunk, p - hit->head_len, hit->head_len + hit->value_len + told);
        return;
    }
    r->ops->begin(r, hit);
    if (hit->value_len + told > 0)
        r->ops->data(r, chunk, p, hit->value_len + told);
    add_tail(r, tail);
    r->ops->end(r);
}

/* A value that is still arriving. */
static void begin_hit(struct dconn *dc, struct request *r, struct hit *hit)
{
    uint8_t head[HIT_HEAD_MAX];

    if (!is_passed_on(dconn_codec(dc, r), r))
        dc->body_told = translate_head(r, hit, head);
    r->ops->begin(r, hit);
}

/*
 * A value. Its request has it at once. That is over with its last key, if it is the head of its line. Who is passed
 * over may be told later: that a key is missing is known at the end of the line only.
 */
static bool handle_hit(struct dconn *dc, struct reply *reply, struct chunk *chunk, uint8_t *p, size_t n, size_t *took)
{
    struct request *r = match_key(dc, reply);
    struct hit *hit = &reply->hit;
    size_t body = hit->value_len + hit->tail_len;
    const struct codec *codec;

    if (r == NULL)
        return malformed(dc, "a value of a key that was not asked for");
    dc->at = r;
    r->got_reply = true;
    codec = dconn_codec(dc, r);
    reply->is_last |= r->goes_on && r->num_told == r->num_keys && r == dc->sent.head;
    dc->usual_value = dc->usual_value / 8 * 7 + hit->value_len / 8;
    if (n - reply->consumed >= body) {
        *took = reply->consumed + body;
        if (!codec->check_tail(p + reply->consumed + hit->value_len, hit->tail_len))
            return malformed(dc, "a value without CR LF behind it");
        if (LIKELY(!r->answered && is_passed_on(codec, r)))
            r->ops->hit(r, hit, chunk, p, *took);
        else if (!r->answered)
            translate_hit(r, hit, chunk, p + reply->consumed, reply->consumed);
        return !reply->is_last || finish_value(dc);
    }
    *took = reply->consumed;
    dc->body_left = body;
    dc->body_tail = hit->tail_len;
    dc->body_is_last = reply->is_last;
    dc->body_told = hit->tail_len;
    if (!r->answered)
        begin_hit(dc, r, hit);
    return true;
}

/* The end of the reply; when several requests share it, each of them. */
static bool handle_done(struct dconn *dc, struct reply *reply, size_t *took)
{
    const struct request *r = dc->sent.head;

    if (r->goes_on) {
        *took = 0;
        /* An error behind its values is that of another. */
        if (r->num_told == r->num_keys)
            return finish_value(dc);
    }
    /* Errors are the same in both. */
    if (reply->outcome.result != RESULT_ERROR && !is_passed_on(dconn_codec(dc, r), r))
        reply->outcome.text = NULL;
    return finish_reply(dc, &reply->outcome, reply->suspicious);
}

/* Keeps an unfinished line for the next read. */
static bool keep_rest(struct dconn *dc, const uint8_t *p, size_t n)
{
    dc->rest = chunk_alloc(&dc->d->loop->bufs, n);
    if (dc->rest == NULL) {
        dconn_close(dc, RESULT_NO_MEMORY, "out of memory");
        return false;
    }
    memcpy(dc->rest->data, p, n);
    dc->rest->used = n;
    return true;
}

/* Deals with n bytes of replies; the first `seen` hold no end of line. False: the connection was closed. */
static bool take_replies(struct dconn *dc, struct chunk *chunk, uint8_t *p, size_t n, size_t seen)
{
    struct reply reply;
    bool open = true;

    while (n > 0 && open) {
        struct request *r = dc->sent.head;
        size_t took = 0;

        if (r == NULL)
            return malformed(dc, "a reply that nobody asked for");
        r->got_reply = true;
        if (dc->body_left > 0) {
            took = n < dc->body_left ? n : dc->body_left;
            open = take_body_read(dc, chunk, p, took);
        } else {
            switch (dconn_codec(dc, r)->parse_reply(r, p, n, seen, &reply)) {
            case PARSE_OK:
                break;
            case PARSE_MORE:
                return keep_rest(dc, p, n);
            default:
                return malformed(dc, reply.why);
            }
            took = reply.consumed;
            if (reply.kind == REPLY_HIT)
                open = handle_hit(dc, &reply, chunk, p, n, &took);
            else if (reply.kind == REPLY_DONE)
                open = handle_done(dc, &reply, &took);
            else if (!r->answered)
                r->ops->stat(r, reply.line, reply.line_len);
        }
        p += took;
        n -= took;
        seen = 0;
    }
    return open;
}

/* The place for the rest of a value that is being read: n bytes at the return value. NULL: nowhere, use the buffer. */
static uint8_t *fill_room(struct dconn *dc, size_t *n)
{
    struct chunk *fill = dc->fill;

    if (dc->body_left == 0 || dc->at->answered)
        return NULL;
    if (fill != NULL && chunk_room(fill) == 0) {
        chunk_unref(fill);
        fill = NULL;
    }
    if (fill == NULL)
        fill = chunk_alloc(&dc->d->loop->bufs, dc->body_left < CHUNK_LARGE ? dc->body_left : CHUNK_LARGE);
    dc->fill = fill;
    if (fill == NULL)
        return NULL;
    *n = chunk_room(fill) < dc->body_left ? chunk_room(fill) : dc->body_left;
    return fill->data + fill->used;
}

/* Hands on what a read has put into the fill chunk. */
static bool take_filled(struct dconn *dc, uint8_t *p, size_t n)
{
    dc->fill->used += n;
    return take_body(dc, dc->fill, p, n);
}

/* Whose replies are awaited: gets that share a line are one. */
static uint32_t num_commands(const struct dconn *dc)
{
    return dc->sent.n - dc->num_joined;
}

/* --- the public side --- */

void replies_forget(struct dconn *dc)
{
    if (dc->rest != NULL)
        chunk_unref(dc->rest);
    if (dc->fill != NULL)
        chunk_unref(dc->fill);
    dc->rest = NULL;
    dc->fill = NULL;
    dc->at = NULL;
    dc->body_left = 0;
}

void replies_read(struct dconn *dc)
{
    struct loop *loop = dc->d->loop;
    struct iovec iov[2] = {{0}};
    size_t room, got, filled = 0, kept = 0;
    uint64_t since_us;
    uint32_t owed;
    uint8_t *buf = loop_read_buffer(loop, &room);
    enum conn_status status;
    bool open = true;

    if (buf == NULL) {
        dconn_close(dc, RESULT_NO_MEMORY, "out of memory");
        return;
    }
    if (dc->rest != NULL) {
        kept = dc->rest->used;
        memcpy(buf, dc->rest->data, kept);
    }
    iov[0].iov_base = fill_room(dc, &iov[0].iov_len);
    iov[1] = (struct iovec){buf + kept, room - kept};
    status = iov[0].iov_base != NULL ? conn_read(&dc->conn, iov, 2, &got) : conn_read(&dc->conn, &iov[1], 1, &got);
    if (status == CONN_AGAIN)
        return;
    if (status != CONN_OK) {
        counter_add(&dc->d->counters->tot_downstream_quit_server, status == CONN_EOF);
        dconn_close(dc, RESULT_CLOSED, status == CONN_EOF ? "by the server" : strerror(errno));
        return;
    }
    owed = num_commands(dc);
    /* 0, which is long ago: of what moxi asks for itself, or of nothing. */
    since_us = dc->sent.head != NULL ? dc->sent.head->start_us : 0;
    dc->progress_us = loop->now_us;
    dc->heard = true;
    if (LIKELY(greeting_is_over(dc)))
        dc->d->errors = 0;
    if (dc->rest != NULL) {
        chunk_unref(dc->rest);
        dc->rest = NULL;
    }
    if (iov[0].iov_base != NULL) {
        filled = got < iov[0].iov_len ? got : iov[0].iov_len;
        open = take_filled(dc, iov[0].iov_base, filled);
    }
    if (open && got > filled)
        take_replies(dc, loop->read_chunk, buf, kept + got - filled, kept);
    loop_read_done(loop, kept + got - filled);
    /* Something may wait for all that was asked before it to be answered. */
    if (open && dc->sent.head == NULL && dc->unsent.head != NULL)
        loop_mark(loop, TURN_DOWNSTREAM, &dc->conn);
    if (open)
        loop_count_replies(loop, owed, owed - num_commands(dc), loop->now_us - since_us);
}
