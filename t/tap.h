/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * tap - how the unit tests t/check_*.c report: "ok 1 - name" or "not ok 1 - name" a test, and the plan at the end.
 * A test program calls check() for each thing that must hold and returns tap_end() from main. One thread only.
 */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static unsigned tap_tests, tap_failures;

static bool check(bool ok, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Reports one test under the name that fmt makes. Returns ok. */
static bool check(bool ok, const char *fmt, ...)
{
    va_list args;

    printf("%sok %u - ", ok ? "" : "not ", ++tap_tests);
    tap_failures += !ok;
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    putchar('\n');
    return ok;
}

/* Prints the plan. The status of the program: 0 when tests ran and all held. */
static int tap_end(void)
{
    printf("1..%u\n", tap_tests);
    return fflush(stdout) != 0 || tap_tests == 0 || tap_failures != 0;
}

#endif
