/* SPDX-License-Identifier: BSD-3-Clause */
/* loop - what a worker's event loop offers to the layers that run in it: see loop.h. */
#include "loop.h"

#include <assert.h>

#include "conn.h"

/* Behind what is still referred to, the next read begins on a fresh cache line. */
enum { LINE = 64 };

/* Requests that end in a millisecond, from which those in flight are no crowd before a server that does not answer. */
enum { DONE_MIN = 16 };

void loop_tell_time(struct loop *loop)
{
    uint32_t ms;
    bool next;

    loop->now_us = util_now_us();
    loop->now_is_fresh = true;
    loop->backlog = 0;
    loop->waited_us = UINT64_MAX;
    ms = (uint32_t)(loop->now_us >> 10);
    if (ms == loop->active_ms)
        return;
    next = ms == loop->active_ms + 1;
    loop->active_before = next ? loop->active_clients : 0;
    loop->active_clients = 0;
    loop->done_before = next ? loop->requests.num_released - loop->done_mark : 0;
    loop->done_mark = loop->requests.num_released;
    loop->active_ms = ms;
}

uint32_t loop_load(const struct loop *loop)
{
    size_t flight = loop->done_before >= DONE_MIN ? loop->requests.num_used / 2 : 0;

    return flight > loop->active_before ? (uint32_t)flight : loop->active_before;
}

uint8_t *loop_read_buffer(struct loop *loop, size_t *room)
{
    struct chunk *chunk = loop->read_chunk;

    if (chunk != NULL && chunk->refs == 1)
        loop->read_pos = 0;
    if (chunk == NULL || chunk->size - loop->read_pos < READ_ROOM) {
        if (chunk != NULL)
            chunk_unref(chunk);
        loop->read_chunk = chunk = chunk_alloc(&loop->bufs, CHUNK_LARGE);
        loop->read_pos = 0;
        if (chunk == NULL)
            return NULL;
        /* Nobody may append to it: its bytes beyond the spans on it are the loop's. */
        chunk->used = chunk->size;
    }
    *room = chunk->size - loop->read_pos;
    return chunk->data + loop->read_pos;
}

void loop_read_done(struct loop *loop, size_t n)
{
    if (loop->read_chunk->refs > 1)
        loop->read_pos += (n + LINE - 1) / LINE * LINE;
    if (loop->read_pos > loop->read_chunk->size)
        loop->read_pos = loop->read_chunk->size;
}

void loop_mark(struct loop *loop, enum turn_list list, struct conn *conn)
{
    struct turn *turn = &loop->turns[list];

    if (conn->marked)
        return;
    conn->marked = true;
    conn->next_turn = NULL;
    if (turn->tail != NULL)
        turn->tail->next_turn = conn;
    else
        turn->head = conn;
    turn->tail = conn;
}

/* Takes conn off one list. False: it is not there. */
static bool take_off(struct turn *turn, const struct conn *conn)
{
    struct conn *before = NULL;
    struct conn *c = turn->head;

    while (c != NULL && c != conn) {
        before = c;
        c = c->next_turn;
    }
    if (c == NULL)
        return false;
    if (before != NULL)
        before->next_turn = conn->next_turn;
    else
        turn->head = conn->next_turn;
    if (turn->tail == conn)
        turn->tail = before;
    return true;
}

void loop_unmark(struct loop *loop, struct conn *conn)
{
    for (int list = 0; conn->marked && list < TURN_LISTS; list++)
        conn->marked = !take_off(&loop->turns[list], conn);
}

bool loop_has_marks(const struct loop *loop)
{
    return loop->turns[TURN_DOWNSTREAM].head != NULL || loop->turns[TURN_CLIENT].head != NULL;
}

/* Runs what stands on the list now. */
static void run_list(struct turn *turn)
{
    struct conn *conn = turn->head;

    turn->head = NULL;
    turn->tail = NULL;
    while (conn != NULL) {
        struct conn *next = conn->next_turn;

        conn->marked = false;
        turn->run(conn);
        conn = next;
    }
}

void loop_run_marks(struct loop *loop)
{
    run_list(&loop->turns[TURN_DOWNSTREAM]);
    run_list(&loop->turns[TURN_HELD]);
    run_list(&loop->turns[TURN_CLIENT]);
    /* A client that was read again has sent more; a connection that was lost wants its requests sent elsewhere. */
    if (loop->turns[TURN_DOWNSTREAM].head != NULL)
        run_list(&loop->turns[TURN_DOWNSTREAM]);
}
