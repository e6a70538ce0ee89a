/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * log - messages, one line and one write(2) each. Every thread calls log_write; the main thread opens and reopens.
 *
 * The log has no lock on its way out. Level and descriptor are atomics, and the descriptor of the file, once there,
 * keeps its number for the life of the process: opening another file puts that one under the same number (dup3 swaps
 * them in one step), so a thread in the middle of a write has the old file or the new one, never a closed or a foreign
 * one.
 *
 * Much of what is logged came from a network. Control characters, bytes that are not ASCII and the backslash are
 * written as escapes: a client cannot forge a line or talk to the terminal of who reads it.
 */
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    MESSAGE_MAX = 1024,    /* bytes of a message before escapes; longer ones are clipped */
    LINE_MAX_BYTES = 2048, /* bytes of a line as written; half a PIPE_BUF, so that a pipe takes it whole too */
    ESCAPE_MAX = 4,
};

static const char clipped[] = "...";

static atomic_int current_level = LOG_WARNING; /* read by every thread, set by `verbosity` in any of them */
static atomic_int current_fd = STDERR_FILENO;  /* read by every thread, set by log_open */

/* What log_open and log_reopen work on. */
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static int file_fd = -1;       /* the file's descriptor; never closed once open */
static char *file_path = NULL; /* absolute, since a daemon changes its directory; NULL: stderr */

/* A path that still means the same file in another directory, or NULL with errno. The caller frees it. */
static char *make_absolute(const char *path)
{
    char *cwd, *out = NULL;

    if (path[0] == '/')
        return strdup(path);
    cwd = getcwd(NULL, 0);
    if (cwd == NULL)
        return NULL;
    if (asprintf(&out, "%s/%s", cwd, path) < 0)
        out = NULL;
    free(cwd);
    return out;
}

/* Puts the file at path under file_fd. */
static bool swap_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0644);

    if (fd < 0)
        return false;
    if (file_fd < 0) {
        file_fd = fd;
        return true;
    }
    if (dup3(fd, file_fd, O_CLOEXEC) < 0) {
        int error = errno;
        close(fd);
        errno = error;
        return false;
    }
    close(fd);
    return true;
}

static bool open_locked(const char *path)
{
    char *absolute;

    if (path == NULL || path[0] == '\0') {
        atomic_store(&current_fd, STDERR_FILENO);
        free(file_path);
        file_path = NULL;
        return true;
    }
    absolute = make_absolute(path);
    if (absolute == NULL)
        return false;
    if (!swap_file(absolute)) {
        int error = errno;
        free(absolute);
        errno = error;
        return false;
    }
    free(file_path);
    file_path = absolute;
    atomic_store(&current_fd, file_fd);
    return true;
}

bool log_open(const char *path)
{
    bool ok;

    pthread_mutex_lock(&open_lock);
    ok = open_locked(path);
    pthread_mutex_unlock(&open_lock);
    return ok;
}

void log_reopen(void)
{
    pthread_mutex_lock(&open_lock);
    if (file_path != NULL && !swap_file(file_path))
        log_error("log: cannot open %s again: %s; the old file stays", file_path, strerror(errno));
    pthread_mutex_unlock(&open_lock);
}

void log_set_level(int level)
{
    if (level < LOG_ERROR)
        level = LOG_ERROR;
    if (level > LOG_TRACE)
        level = LOG_TRACE;
    atomic_store_explicit(&current_level, level, memory_order_relaxed);
}

int log_level(void)
{
    return atomic_load_explicit(&current_level, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
    return (int)level <= log_level();
}

/* "2030-01-31T23:59:59.123Z warning: ", whose length it returns. */
static size_t format_head(char *line, size_t room, enum log_level level)
{
    static const char *const names[] = {"error", "warning", "info", "debug", "trace"};
    struct timespec now;
    struct tm tm;
    size_t n;

    _Static_assert(ARRAY_LEN(names) == LOG_TRACE + 1, "each level has a name");
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    n = strftime(line, room, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, room - n, ".%03dZ %s: ", (int)(now.tv_nsec / 1000000), names[level]);
    return n;
}

/* Writes c as it may stand in a log to dst, which has room for ESCAPE_MAX bytes. Returns the length. */
static size_t escape_byte(char *dst, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";

    if (c >= 0x20 && c < 0x7f && c != '\\') {
        dst[0] = (char)c;
        return 1;
    }
    dst[0] = '\\';
    if (c == '\\' || c == '\n' || c == '\r' || c == '\t') {
        dst[1] = c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : '\\';
        return 2;
    }
    dst[1] = 'x';
    dst[2] = hex[c >> 4];
    dst[3] = hex[c & 15];
    return 4;
}

/* Adds the message to the line from `at` on, and a line feed. Returns the line's length. */
static size_t format_message(char *line, size_t at, const char *message, bool cut)
{
    const size_t end = LINE_MAX_BYTES - sizeof(clipped); /* the dots and the line feed always have room */

    for (; *message != '\0'; message++) {
        if (at + ESCAPE_MAX > end) {
            cut = true;
            break;
        }
        at += escape_byte(line + at, (unsigned char)*message);
    }
    if (cut) {
        memcpy(line + at, clipped, sizeof(clipped) - 1);
        at += sizeof(clipped) - 1;
    }
    line[at++] = '\n';
    return at;
}

/* A log that cannot be written (a full disk, a closed pipe) is no reason to stop serving: the line is lost. */
static void put_line(const char *line, size_t n)
{
    ssize_t done;

    do
        done = write(atomic_load(&current_fd), line, n);
    while (done < 0 && errno == EINTR);
}

void log_write(enum log_level level, const char *fmt, ...)
{
    char message[MESSAGE_MAX + 1], line[LINE_MAX_BYTES];
    int error = errno, wanted;
    size_t n;
    va_list args;

    if (!log_enabled(level))
        return;
    va_start(args, fmt);
    wanted = vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    if (wanted >= 0) {
        n = format_head(line, sizeof(line), level);
        n = format_message(line, n, message, (size_t)wanted >= sizeof(message));
        put_line(line, n);
    }
    errno = error;
}
