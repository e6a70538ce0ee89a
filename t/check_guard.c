/* SPDX-License-Identifier: BSD-3-Clause */
/* check_guard - which tickets are good (guard.h), alone and with other threads writing. */
#include <pthread.h>

#include "guard.h"
#include "tap.h"

enum { KEY = 7, OTHER = 8, SAME_PLACE = KEY + GUARD_PLACES, THREADS = 4, WRITES = 200000 };

static struct guard *g;

static bool is_good(struct guard_ticket ticket)
{
    return guard_is_good(g, KEY, &ticket);
}

static void check_one_key(void)
{
    struct guard_ticket before = guard_ask(g, KEY), during, between;

    check(is_good(before), "with no write on its way a ticket is good");
    guard_begin(g, KEY);
    during = guard_ask(g, KEY);
    check(!is_good(before), "a write that has begun makes it bad");
    check(!is_good(during), "one that is drawn during the write is bad");
    guard_begin(g, KEY);
    guard_end(g, KEY);
    between = guard_ask(g, KEY);
    check(!is_good(during) && !is_good(between), "and stays so when one of two writes has ended");
    guard_end(g, KEY);
    check(!is_good(before) && !is_good(during) && !is_good(between), "all are bad after the write");
    check(is_good(guard_ask(g, KEY)), "and one that is drawn then is good");
}

static void check_others(void)
{
    struct guard_ticket ticket = guard_ask(g, KEY);

    guard_begin(g, OTHER);
    guard_end(g, OTHER);
    check(is_good(ticket), "a write of a key elsewhere does not matter");
    guard_begin(g, SAME_PLACE);
    guard_end(g, SAME_PLACE);
    check(!is_good(ticket), "one in the same place does");
}

static void check_all_keys(void)
{
    struct guard_ticket ticket = guard_ask(g, KEY);

    guard_begin_all(g);
    check(!is_good(ticket) && !is_good(guard_ask(g, KEY)), "a write of all keys makes each ticket bad while it lasts");
    guard_end_all(g);
    check(!is_good(ticket) && is_good(guard_ask(g, KEY)), "and those that are older, after it");
}

static struct guard_ticket ask_two(void)
{
    struct guard_ticket ticket = guard_ask_none(g);

    guard_ask_more(g, KEY, &ticket);
    guard_ask_more(g, OTHER, &ticket);
    return ticket;
}

/* Whether tickets for two keys are equal exactly if nothing happens in between. */
static bool tells(void (*happens)(struct guard *g, uint64_t hash), uint64_t hash)
{
    struct guard_ticket before = ask_two(), same = ask_two(), after;

    happens(g, hash);
    after = ask_two();
    return guard_tickets_agree(&before, &same) && !guard_tickets_agree(&before, &after);
}

static void check_several_keys(void)
{
    struct guard_ticket before = ask_two(), ticket;

    check(guard_ticket_is_free(&before), "a ticket for two keys is free with no write on its way");
    check(tells(guard_begin, KEY) && tells(guard_begin, OTHER), "it tells that a write of either has begun");
    ticket = ask_two();
    check(!guard_ticket_is_free(&ticket), "and is not free during it");
    check(tells(guard_end, KEY) && tells(guard_end, OTHER), "and that one has ended");
    ticket = ask_two();
    check(guard_ticket_is_free(&ticket) && !guard_tickets_agree(&before, &ticket), "it is free then, but another");
    guard_begin_all(g);
    ticket = ask_two();
    check(!guard_ticket_is_free(&ticket), "nor is it free while all keys are written");
    guard_end_all(g);
}

static void *write_often(void *arg)
{
    (void)arg;
    for (int i = 0; i < WRITES; i++) {
        guard_begin(g, KEY);
        guard_end(g, KEY);
    }
    return NULL;
}

static void check_threads(void)
{
    struct guard_ticket ticket = guard_ask(g, KEY);
    pthread_t threads[THREADS];

    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, write_often, NULL) != 0)
            return;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    check(!is_good(ticket) && is_good(guard_ask(g, KEY)), "no write of several threads is lost");
    check(guard_ask(g, KEY).key - ticket.key == 2 * GUARD_COUNT * THREADS * WRITES, "nor counted twice");
}

int main(void)
{
    g = guard_create();
    if (!check(g != NULL, "there is memory for a guard"))
        return tap_end();
    check_one_key();
    check_others();
    check_all_keys();
    check_several_keys();
    check_threads();
    guard_destroy(g);
    guard_destroy(NULL);
    return tap_end();
}
