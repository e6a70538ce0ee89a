/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * log - one line a message, to stderr or to the file of -O.
 *
 * A line is the time, the level and the message, written in one write(2), so that threads do not mix their lines.
 * The level is the process's: -v raises it, the `verbosity` command changes it, and calls below it cost one load.
 */
#ifndef LOG_H
#define LOG_H

#include "util.h"

enum log_level {
    LOG_ERROR,   /* moxi or a part of it cannot do its work */
    LOG_WARNING, /* a server or a client misbehaves; moxi goes on. The default level */
    LOG_INFO,    /* -v: connections to servers, configuration */
    LOG_DEBUG,   /* -vv: connections of clients */
    LOG_TRACE,   /* -vvv: every request */
};

/* Opens path for appending, "" or NULL for stderr. False with errno set when it cannot; the old file stays. */
bool log_open(const char *path) MUST_CHECK;

/* Opens the file again, for log rotation. Signal handlers may not call it; the loop behind the signal may. */
void log_reopen(void);

void log_set_level(int level); /* clamped to the enum's range */
int log_level(void);

/* Whether a message of that level would be written. */
bool log_enabled(enum log_level level);

void log_write(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                         \
    do {                                       \
        if (log_enabled(LOG_DEBUG))            \
            log_write(LOG_DEBUG, __VA_ARGS__); \
    } while (0)

#define log_trace(...)                         \
    do {                                       \
        if (log_enabled(LOG_TRACE))            \
            log_write(LOG_TRACE, __VA_ARGS__); \
    } while (0)

#endif
