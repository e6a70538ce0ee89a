/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * load_report.c - the figures: latencies, CPU time of the processes under test, and the line that tells them.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

/* ---- latencies ---- */

static unsigned hist_bucket(uint64_t v)
{
    if (v < HIST_STEPS)
        return (unsigned)v;
    unsigned shift = 63 - (unsigned)__builtin_clzll(v) - HIST_BITS;
    return (shift + 1) * HIST_STEPS + (unsigned)((v >> shift) - HIST_STEPS);
}

/* The middle of a bucket. */
static double hist_value(unsigned bucket)
{
    if (bucket < HIST_STEPS)
        return bucket;
    unsigned shift = bucket / HIST_STEPS - 1;
    uint64_t low = (uint64_t)(bucket % HIST_STEPS + HIST_STEPS) << shift;
    return (double)low + (double)((1ull << shift) - 1) / 2;
}

void hist_add(struct hist *h, uint64_t v)
{
    h->counts[hist_bucket(v)]++;
    h->total++;
    if (v > h->max)
        h->max = v;
}

/* The value, in us, that a share q of all values does not exceed. */
static double hist_quantile_us(const struct hist *h, double q)
{
    uint64_t seen = 0;
    double rank = q * (double)h->total;

    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        seen += h->counts[i];
        if (seen && (double)seen >= rank) {
            double value = hist_value(i), max = (double)h->max;
            return (value < max ? value : max) / 1000;
        }
    }
    return 0;
}

/* ---- CPU time ---- */

/* Reads a small file of /proc whole; fails when it cannot, as a process that is gone spoils the figures. */
static void read_proc(const char *path, char *buf, size_t n)
{
    FILE *f = fopen(path, "r");

    if (!f)
        fail("%s: %s", path, strerror(errno));
    size_t len = fread(buf, 1, n - 1, f);
    buf[len] = '\0';
    fclose(f);
}

/* Nanoseconds that all threads of a process have run, those that have ended included. */
static uint64_t read_run_ns(long pid)
{
    clockid_t clock;
    struct timespec ts;

    int err = clock_getcpuclockid((pid_t)pid, &clock);
    if (err || clock_gettime(clock, &ts))
        fail("CPU time of process %ld: %s", pid, strerror(err ? err : errno));
    return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

/* Adds a process's user and system time. In stat they are the 12th and 13th field after the name in parentheses. */
static void add_split(long pid, struct cpu_time *t)
{
    char path[64], buf[1024];
    uint64_t user, sys;

    snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
    read_proc(path, buf, sizeof(buf));
    const char *p = strrchr(buf, ')');
    if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64, &user, &sys) != 2)
        fail("%s: cannot read it", path);
    double tick_us = 1e6 / (double)sysconf(_SC_CLK_TCK);
    t->user += (double)user * tick_us;
    t->sys += (double)sys * tick_us;
}

void cpu_sample(const struct options *opt, struct cpu_time *times)
{
    for (unsigned i = 0; i < opt->num_cpu; i++) {
        times[i] = (struct cpu_time){0};
        for (unsigned j = 0; j < opt->cpu[i].num_pids; j++) {
            times[i].all += (double)read_run_ns(opt->cpu[i].pids[j]) / 1000;
            add_split(opt->cpu[i].pids[j], &times[i]);
        }
    }
}

/* ---- what is printed ---- */

void report_print(const struct load *load, double seconds, const struct cpu_time *before, const struct cpu_time *after)
{
    const struct options *opt = &load->opt;
    char sep = opt->human ? '\n' : ' ';
    double n = (double)load->requests;

    if (load->requests == 0)
        fail("%s: no reply in %g s of measuring", opt->target, seconds);
    printf("requests=%" PRIu64 "%cseconds=%.6f%crps=%.0f%cp50_us=%.1f%cp99_us=%.1f%cmax_us=%.1f", load->requests, sep,
           seconds, sep, n / seconds, sep, hist_quantile_us(&load->hist, 0.50), sep,
           hist_quantile_us(&load->hist, 0.99), sep, (double)load->hist.max / 1000);
    for (unsigned i = 0; i < opt->num_cpu; i++)
        printf("%c%s_cpu_us=%.3f%c%s_user_us=%.3f%c%s_sys_us=%.3f", sep, opt->cpu[i].name,
               (after[i].all - before[i].all) / n, sep, opt->cpu[i].name, (after[i].user - before[i].user) / n, sep,
               opt->cpu[i].name, (after[i].sys - before[i].sys) / n);
    putchar('\n');
    fflush(stdout);
}
