/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_work - closures sent to a loop (work.c): in order, from several threads at once, while the loop runs and when
 * the queue is closed, and without memory.
 *
 * Linked with --wrap=malloc.
 */
#include <stdlib.h>
#include <unistd.h>

#include "tap.h"
#include "work.h"

enum {
    SENDERS = 4,
    SENT = 20000, /* by each */
};

void *__wrap_malloc(size_t n);
void *__real_malloc(size_t n);

static bool no_memory; /* set and cleared while there is one thread */

void *__wrap_malloc(size_t n)
{
    return no_memory ? NULL : __real_malloc(n);
}

static struct event_base *base;
static struct work_queue queue;

static void set_up(void)
{
    base = event_base_new();
    if (base == NULL || !work_queue_setup(&queue, base))
        abort();
}

static void tear_down(void)
{
    work_queue_teardown(&queue);
    event_base_free(base);
}

/* Runs the loop once, without waiting. */
static void turn(void)
{
    event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
}

/* --- one thread --- */

static int ran[16];
static size_t num_ran;
static int numbers[] = {0, 1, 2, 3, 4, 5, 6, 7};

static void note(void *arg)
{
    ran[num_ran++] = *(int *)arg;
}

/* Sends two more from inside a closure. */
static void note_and_send(void *arg)
{
    note(arg);
    if (!work_send(&queue, note, &numbers[6]) || !work_send(&queue, note, &numbers[7]))
        abort();
}

static bool send_numbers(int from, int to)
{
    for (int i = from; i <= to; i++)
        if (!work_send(&queue, note, &numbers[i]))
            return false;
    return true;
}

/* Whether just these have run, in this order. */
static bool ran_numbers(int from, int to)
{
    if (num_ran != (size_t)(to - from + 1))
        return false;
    for (int i = from; i <= to; i++)
        if (ran[i - from] != i)
            return false;
    return true;
}

static void check_order(void)
{
    set_up();
    num_ran = 0;
    turn();
    check(num_ran == 0, "nothing runs that was not sent");
    check(send_numbers(0, 3) && num_ran == 0, "what is sent does not run at once");
    turn();
    check(ran_numbers(0, 3), "but in the loop, in order");
    turn();
    check(num_ran == 4, "and once");
    num_ran = 0;
    check(work_send(&queue, note_and_send, &numbers[5]), "a closure that sends");
    turn();
    turn();
    check(ran_numbers(5, 7), "what a closure sends runs after it");
    work_queue_close(&queue);
    tear_down();
}

/* A loop that waits is woken. */
static void check_waiting(void)
{
    set_up();
    num_ran = 0;
    check(send_numbers(2, 2) && event_base_loop(base, EVLOOP_ONCE) == 0 && ran_numbers(2, 2), "a loop wakes");
    work_queue_close(&queue);
    tear_down();
}

static void check_close(void)
{
    set_up();
    num_ran = 0;
    check(send_numbers(0, 4), "sent before it is closed");
    work_queue_close(&queue);
    check(ran_numbers(0, 4), "closing runs what is queued, in order");
    check(!work_send(&queue, note, &numbers[0]), "and takes no more");
    turn();
    check(num_ran == 5, "so nothing more runs");
    check(event_base_loop(base, EVLOOP_NONBLOCK) == 1, "and the loop has nothing left to wait for");
    tear_down();
}

static bool refused_inside;

static void send_refused(void *arg)
{
    (void)arg;
    refused_inside = !work_send(&queue, note, &numbers[0]);
}

/* What runs while it is being closed cannot keep it open. */
static void check_close_sending(void)
{
    set_up();
    num_ran = 0;
    check(work_send(&queue, send_refused, NULL), "a closure that sends, left for the closing");
    work_queue_close(&queue);
    check(refused_inside && num_ran == 0, "is refused then");
    tear_down();
}

static void check_no_memory(void)
{
    bool sent;

    set_up();
    num_ran = 0;
    no_memory = true;
    sent = work_send(&queue, note, &numbers[0]);
    no_memory = false;
    check(!sent, "without memory nothing is taken");
    check(send_numbers(1, 2), "with memory again it is");
    turn();
    check(ran_numbers(1, 2), "and what was not taken never runs");
    work_queue_close(&queue);
    tear_down();
}

/* --- several threads --- */

struct sender {
    pthread_t thread;
    unsigned refused; /* by the queue; counted by the sender's thread */
    unsigned next;    /* which comes next; the loop's */
    bool in_order;
};

struct message {
    struct sender *sender;
    unsigned number;
};

static struct sender senders[SENDERS];
static struct message messages[SENDERS][SENT];
static unsigned num_received;

static void receive(void *arg)
{
    const struct message *m = arg;

    m->sender->in_order = m->sender->in_order && m->number >= m->sender->next;
    m->sender->next = m->number + 1;
    num_received++;
}

static void *send_all(void *arg)
{
    struct sender *s = arg;
    struct message *m = messages[s - senders];

    for (unsigned i = 0; i < SENT; i++) {
        m[i] = (struct message){s, i};
        s->refused += !work_send(&queue, receive, &m[i]);
    }
    return NULL;
}

static void start_senders(void)
{
    num_received = 0;
    for (int i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){.in_order = true};
        if (pthread_create(&senders[i].thread, NULL, send_all, &senders[i]) != 0)
            abort();
    }
}

/* Waits for them; returns how many were refused in all. */
static unsigned end_senders(void)
{
    unsigned refused = 0;

    for (int i = 0; i < SENDERS; i++) {
        pthread_join(senders[i].thread, NULL);
        refused += senders[i].refused;
    }
    return refused;
}

static bool all_in_order(void)
{
    bool ok = true;

    for (int i = 0; i < SENDERS; i++)
        ok = ok && senders[i].in_order;
    return ok;
}

static void check_senders(void)
{
    unsigned refused;

    set_up();
    start_senders();
    while (num_received < SENDERS * SENT && event_base_loop(base, EVLOOP_ONCE) == 0)
        ;
    refused = end_senders();
    check(num_received == SENDERS * SENT && refused == 0, "%d threads send %d each: all arrive", SENDERS, SENT);
    check(all_in_order(), "each one's in its order");
    work_queue_close(&queue);
    tear_down();
}

/* Closed while they send: each is either run or refused. */
static void check_senders_closed(void)
{
    unsigned refused;

    set_up();
    start_senders();
    while (num_received < SENDERS * SENT / 4 && event_base_loop(base, EVLOOP_ONCE) == 0)
        ;
    work_queue_close(&queue);
    refused = end_senders();
    check(num_received + refused == SENDERS * SENT, "closed while %d threads send: %u have run, %u were refused",
          SENDERS, num_received, refused);
    check(all_in_order(), "what has run was in order");
    tear_down();
}

/* A loop in a thread of its own, that one closure ends. */
static bool loop_ended;

static void end_loop(void *arg)
{
    loop_ended = true;
    event_base_loopbreak(arg);
}

static void *run_loop(void *arg)
{
    while (!loop_ended && event_base_loop(arg, EVLOOP_ONCE) == 0)
        ;
    work_queue_close(&queue);
    return NULL;
}

static void check_loop_thread(void)
{
    pthread_t thread;

    set_up();
    start_senders();
    if (pthread_create(&thread, NULL, run_loop, base) != 0)
        abort();
    check(end_senders() == 0 && work_send(&queue, end_loop, base), "a loop in a thread of its own");
    pthread_join(thread, NULL);
    check(num_received == SENDERS * SENT && all_in_order(), "gets everything that was sent before its end");
    tear_down();
}

int main(void)
{
    check_order();
    check_waiting();
    check_close();
    check_close_sending();
    check_no_memory();
    check_senders();
    check_senders_closed();
    check_loop_thread();
    return tap_end();
}
