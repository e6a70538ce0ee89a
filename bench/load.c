/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * load - a closed-loop load generator for memcached's protocols, which checks every byte of every reply, but uniques.
 *
 * bench/run starts it, once for each figure that it measures; it also works alone (see load -h and README.md).
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
 * batch, and while it runs no epoll_ctl and no allocation but after a short write.
 *
 * This file has the phases and main. The others, all of which see struct load (load.h):
 *
 *   load_options.c   the command line                     load_connect.c   connecting
 *   load_keys.c      keys and values, which key is next   load_loop.c      the loop: batches out, replies in
 *   load_request.c   composing requests                   load_report.c    latencies, CPU time, what is printed
 *   load_reply.c     checking replies                     load_util.c      messages, memory, the clock
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "load.h"

/* ---- the phases ---- */

/* Stores every key through the target, on one connection that is closed again. */
static void fill(struct load *load)
{
    struct client *c = &load->clients[0];

    load->plan = plan_filling(&load->opt);
    load->started = 0;
    c->keys = alloc(load->plan.depth, sizeof(*c->keys));
    client_open(load, c);
    loop_add(load, c);
    loop_start(load, 1);
    loop_run(load, UINT64_MAX);
    close(c->fd);
    free(c->keys);
    c->keys = NULL;
}

static void open_idle(struct load *load)
{
    for (uint64_t i = 0; i < load->opt.idle; i++) {
        struct client *c = &load->clients[load->opt.clients + i];
        c->idle = true;
        client_open(load, c);
        client_greet(load, c);
        loop_add(load, c);
    }
}

static void open_active(struct load *load)
{
    for (uint64_t i = 0; i < load->opt.clients; i++) {
        struct client *c = &load->clients[i];
        c->keys = alloc(load->opt.depth * load->opt.width, sizeof(*c->keys));
        client_open(load, c);
        loop_add(load, c);
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
    load->plan = plan_measuring(&load->opt);
    if (load->opt.warmup > 0)
        loop_start(load, load->opt.clients);
    loop_run(load, now_ns() + to_ns(load->opt.warmup));
    if (load->opt.step || load->opt.requests)
        loop_drain(load);
    if (load->opt.step) {
        puts("ready");
        wait_step(true);
    }
}

static void measure(struct load *load)
{
    struct cpu_time before[CPU_GROUPS_MAX], after[CPU_GROUPS_MAX];
    uint64_t deadline = UINT64_MAX;

    load->hist = (struct hist){.total = 0};
    load->requests = 0;
    load->started = 0;
    load->plan.limit = load->opt.requests;
    cpu_sample(&load->opt, before);
    uint64_t start = now_ns();
    if (!load->opt.requests)
        deadline = start + to_ns(load->opt.seconds);
    loop_start(load, load->opt.clients);
    loop_run(load, deadline);
    uint64_t end = now_ns();
    cpu_sample(&load->opt, after);
    report_print(load, (double)(end - start) / (double)SECOND_NS, before, after);
    loop_drain(load);
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
        client_greet(load, &load->clients[i]);
}

/* ---- from the beginning to the end ---- */

/* Room for all phases, so that nothing is allocated later. */
static void make_room(struct load *load)
{
    struct plan filling = plan_filling(&load->opt), measuring = plan_measuring(&load->opt);
    size_t room = batch_size(&load->opt, &measuring);

    if (load->opt.fill && batch_size(&load->opt, &filling) > room)
        room = batch_size(&load->opt, &filling);
    load->request = alloc(room + 2 * sizeof(struct key), 1);
    load->input = alloc(READ_SIZE, 1);
}

static void make_clients(struct load *load)
{
    load->num_clients = load->opt.clients + load->opt.idle;
    if (load->num_clients == 0)
        load->num_clients = 1;
    load->clients = alloc(load->num_clients, sizeof(*load->clients));
    for (uint64_t i = 0; i < load->num_clients; i++)
        load->clients[i].id = (uint32_t)i;
}

static void raise_file_limit(void)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

int main(int argc, char **argv)
{
    static struct load load;

    options_parse(&load.opt, argc, argv);
    target_resolve(&load);
    make_room(&load);
    make_clients(&load);
    raise_file_limit();
    loop_create(&load);
    keys_make(&load);
    if (load.opt.fill)
        fill(&load);
    open_idle(&load);
    if (load.opt.clients > 0)
        work(&load);
    else if (load.opt.idle > 0)
        hold(&load);
    return 0;
}
