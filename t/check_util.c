/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_util - numbers and the clock (util.c), base64, and the log (log.c): its lines, its escapes, opening it again
 * while threads write.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base64.h"
#include "log.h"
#include "tap.h"
#include "util.h"

enum {
    FILE_BYTES_MAX = 8 * 1024 * 1024,
    THREADS = 4,
    LINES = 2000, /* a thread */
    ROTATIONS = 50,
};

static char directory[] = "/tmp/check_util.XXXXXX";
static char log_path[PATH_MAX], old_path[PATH_MAX];

static void check_unsigned(void)
{
    static const struct {
        const char *text;
        bool ok;
        uint64_t value;
    } cases[] = {
        {"0", true, 0},
        {"7", true, 7},
        {"007", true, 7},
        {"4294967296", true, UINT64_C(4294967296)},
        {"18446744073709551615", true, UINT64_MAX},
        {"18446744073709551616", false, 0},
        {"18446744073709551620", false, 0},
        {"99999999999999999999", false, 0},
        {"100000000000000000000", false, 0},
        {"", false, 0},
        {"-1", false, 0},
        {"+1", false, 0},
        {" 1", false, 0},
        {"1 ", false, 0},
        {"1a", false, 0},
        {"0x10", false, 0},
        {"/", false, 0},
        {":", false, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t v = 12345;
        bool ok = util_parse_u64(cases[i].text, strlen(cases[i].text), &v);
        check(ok == cases[i].ok && v == (ok ? cases[i].value : 12345), "u64 \"%s\"", cases[i].text);
    }
}

static void check_signed(void)
{
    static const struct {
        const char *text;
        bool ok;
        int64_t value;
    } cases[] = {
        {"0", true, 0},
        {"-0", true, 0},
        {"-1", true, -1},
        {"9223372036854775807", true, INT64_MAX},
        {"9223372036854775808", false, 0},
        {"-9223372036854775808", true, INT64_MIN},
        {"-9223372036854775809", false, 0},
        {"-", false, 0},
        {"--1", false, 0},
        {"", false, 0},
        {"- 1", false, 0},
        {"1-", false, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int64_t v = 12345;
        bool ok = util_parse_i64(cases[i].text, strlen(cases[i].text), &v);
        check(ok == cases[i].ok && v == (ok ? cases[i].value : 12345), "i64 \"%s\"", cases[i].text);
    }
}

static void check_scan(void)
{
    static const struct {
        const char *text;
        size_t digits;
        uint64_t value;
    } cases[] = {
        {"0", 1, 0},
        {"12 34", 2, 12},
        {"100\r\n", 3, 100},
        {"1844674407370955161x", 19, UINT64_C(1844674407370955161)},
        {"18446744073709551615 ", 20, UINT64_MAX},
        {"18446744073709551616 ", 0, 0},
        {"000000000000000000000000012,", 27, 12},
        {"", 0, 0},
        {" 1", 0, 0},
        {"-1", 0, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t v = 12345;
        size_t n = util_scan_u64(cases[i].text, strlen(cases[i].text), &v);
        check(n == cases[i].digits && v == (n > 0 ? cases[i].value : 12345), "the digits of \"%s\"", cases[i].text);
    }
}

/* A span is not NUL-terminated, and nothing beyond it may be read: it is the end of its own allocation here. */
static void check_span(void)
{
    char *span = util_xmalloc(3);
    uint64_t v = 0;
    int64_t signed_v = 0;

    memcpy(span, "123", 3);
    check(util_parse_u64(span, 2, &v) && v == 12, "only n bytes of a span are read");
    memcpy(span, "-12", 3);
    check(util_parse_i64(span, 3, &signed_v) && signed_v == -12 && !util_parse_i64(span, 1, &signed_v),
          "with a sign too");
    free(span);
}

static void check_format(void)
{
    static const uint64_t values[] = {0, 1, 9, 10, 99, 100, 4294967295, 4294967296, UINT64_MAX - 1, UINT64_MAX};

    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        char dst[U64_DIGITS + 1], expected[U64_DIGITS + 2];
        uint64_t back = 0;
        size_t n;
        memset(dst, '~', sizeof(dst));
        n = util_format_u64(dst, values[i]);
        snprintf(expected, sizeof(expected), "%llu~", (unsigned long long)values[i]);
        check(memcmp(dst, expected, n + (n < sizeof(dst))) == 0 && n == strlen(expected) - 1 &&
                  util_parse_u64(dst, n, &back) && back == values[i],
              "%llu is written and read back", (unsigned long long)values[i]);
    }
}

static void check_clock(void)
{
    const uint64_t begin = util_now_us();
    struct timespec wait = {0, 2000000};

    nanosleep(&wait, NULL);
    check(util_now_us() - begin >= 2000, "the clock counts microseconds");
    check(util_now_us() - begin < 60 * 1000000, "and no smaller unit");
}

static void check_allocation(void)
{
    char *zeroes = util_xcalloc(10, 10), *copy = util_xstrdup("copy"), *empty = util_xmalloc(0);
    bool zero = true;

    for (size_t i = 0; i < 100; i++)
        zero = zero && zeroes[i] == 0;
    check(zero, "xcalloc clears");
    check(strcmp(copy, "copy") == 0, "xstrdup copies");
    check(empty != NULL, "xmalloc of nothing is not NULL");
    free(zeroes);
    free(copy);
    free(empty);
}

/* The file's text; the caller frees it. */
static char *slurp(const char *path)
{
    char *text = util_xmalloc(FILE_BYTES_MAX);
    size_t n = 0;
    FILE *file = fopen(path, "r");

    if (file != NULL) {
        n = fread(text, 1, FILE_BYTES_MAX - 1, file);
        fclose(file);
    }
    text[n] = '\0';
    return text;
}

/* Begins a log file of its own for a test. */
static bool begin_log(void)
{
    unlink(log_path);
    return log_open(log_path);
}

static bool has_time(const char *line)
{
    static const char shape[] = "0000-00-00T00:00:00.000Z ";

    for (size_t i = 0; shape[i] != '\0'; i++) {
        bool digit = line[i] >= '0' && line[i] <= '9';
        if (shape[i] == '0' ? !digit : line[i] != shape[i])
            return false;
    }
    return true;
}

/* What the log makes of a message, from the level on. */
static void check_line(const char *message, const char *expected, const char *name)
{
    char *text;

    if (!check(begin_log(), "log opened for %s", name))
        return;
    log_error("%s", message);
    text = slurp(log_path);
    check(has_time(text) && strcmp(text + strlen("0000-00-00T00:00:00.000Z "), expected) == 0, "log: %s", name);
    free(text);
}

static void check_lines(void)
{
    check_line("client 7: gone", "error: client 7: gone\n", "a plain line");
    check_line("a\r\nb\tc\\", "error: a\\r\\nb\\tc\\\\\n", "line ends, tabs and backslashes");
    check_line("\x1b[2J\x01\x7f\x9b", "error: \\x1b[2J\\x01\\x7f\\x9b\n", "control characters");
    check_line("", "error: \n", "nothing");
}

static void check_clipping(void)
{
    char *message = util_xmalloc(10001), *text;
    size_t n;

    for (int byte = 0; byte < 2; byte++) {
        memset(message, byte == 0 ? 'x' : '\x01', 10000);
        message[10000] = '\0';
        if (!check(begin_log(), "log opened"))
            break;
        log_error("%s", message);
        text = slurp(log_path);
        n = strlen(text);
        check(n > 500 && n <= 2048 && strcmp(text + n - 4, "...\n") == 0 && strchr(text, '\n') == text + n - 1,
              "a long line of %s is clipped, once, to %zu bytes", byte == 0 ? "letters" : "escapes", n);
        free(text);
    }
    free(message);
}

static void check_levels(void)
{
    char *text;

    log_set_level(-5);
    check(log_level() == LOG_ERROR, "a level is at least error");
    log_set_level(99);
    check(log_level() == LOG_TRACE, "and at most trace");
    log_set_level(LOG_INFO);
    check(log_enabled(LOG_INFO) && !log_enabled(LOG_DEBUG), "a level enables itself and what is graver");
    if (!check(begin_log(), "log opened for levels"))
        return;
    log_debug("not this");
    log_info("this");
    log_warning("and this");
    text = slurp(log_path);
    check(strstr(text, "not this") == NULL, "what is below the level is not written");
    check(strstr(text, " info: this\n") != NULL && strstr(text, " warning: and this\n") != NULL, "the rest is");
    free(text);
    log_set_level(LOG_WARNING);
}

static void check_errno(void)
{
    errno = EPROTO;
    log_error("does not change errno");
    check(errno == EPROTO, "logging leaves errno alone");
}

static void check_unopenable(void)
{
    char path[PATH_MAX + sizeof("/no/such")], *text;

    snprintf(path, sizeof(path), "%s/no/such", directory);
    if (!check(begin_log(), "log opened"))
        return;
    check(!log_open(path) && errno == ENOENT, "a log that cannot be opened is an error");
    log_error("still here");
    text = slurp(log_path);
    check(strstr(text, "still here") != NULL, "and the old one stays");
    free(text);
}

static void check_relative(void)
{
    char *text;

    if (!check(chdir(directory) == 0 && log_open("relative.log") && chdir("/") == 0, "a log with a relative path"))
        return;
    snprintf(old_path, sizeof(old_path), "%s/relative.log", directory);
    check(unlink(old_path) == 0, "was made where it should be");
    log_reopen();
    log_error("after");
    text = slurp(old_path);
    check(strstr(text, "after") != NULL, "and is opened again there, from another directory");
    free(text);
    unlink(old_path);
}

static void *write_lines(void *arg)
{
    for (int i = 0; i < LINES; i++)
        log_error("thread %d line %d.", *(int *)arg, i);
    return NULL;
}

/* How many lines there are; sets *whole to false when one of them is not as write_lines wrote it. */
static unsigned count_whole_lines(const char *path, bool *whole)
{
    char *text = slurp(path), *rest = text, *line;
    unsigned n = 0;
    int thread, number;

    while ((line = strsep(&rest, "\n")) != NULL && *line != '\0') {
        *whole = *whole && has_time(line) && strlen(line) > 25 && line[strlen(line) - 1] == '.' &&
                 sscanf(line + 25, "error: thread %d line %d.", &thread, &number) == 2;
        n++;
    }
    free(text);
    return n;
}

/* Rotates the log while threads write: no line is lost, none is torn. */
static void check_rotation(void)
{
    pthread_t threads[THREADS];
    int ids[THREADS];
    unsigned lines = 0;
    bool whole = true;

    if (!check(begin_log(), "log opened for rotation"))
        return;
    for (int i = 0; i < THREADS; i++) {
        ids[i] = i;
        if (pthread_create(&threads[i], NULL, write_lines, &ids[i]) != 0)
            abort();
    }
    for (int i = 0; i < ROTATIONS; i++) {
        snprintf(old_path, sizeof(old_path), "%s/old.%d", directory, i);
        rename(log_path, old_path);
        log_reopen();
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < ROTATIONS; i++) {
        snprintf(old_path, sizeof(old_path), "%s/old.%d", directory, i);
        lines += count_whole_lines(old_path, &whole);
        unlink(old_path);
    }
    lines += count_whole_lines(log_path, &whole);
    check(lines == THREADS * LINES, "no line is lost while the log is opened again %d times (%u)", ROTATIONS, lines);
    check(whole, "and none is torn");
}

/* stderr is where the log begins, and where it may go back to. */
static void check_stderr(void)
{
    char *text;
    int saved = dup(STDERR_FILENO), fd;

    snprintf(old_path, sizeof(old_path), "%s/stderr", directory);
    fd = open(old_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (!check(saved >= 0 && fd >= 0 && dup2(fd, STDERR_FILENO) == STDERR_FILENO && log_open(NULL), "log to stderr"))
        return;
    log_error("to stderr");
    log_reopen();
    log_error("still");
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(fd);
    text = slurp(old_path);
    check(strstr(text, "to stderr") != NULL && strstr(text, "still") != NULL, "works, and has nothing to open again");
    free(text);
    unlink(old_path);
}

static void check_base64(void)
{
    /* RFC 4648, section 10, and digits of all kinds */
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"f", "Zg=="},         {"fo", "Zm8="},         {"foo", "Zm9v"},          {"foob", "Zm9vYg=="},
        {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"}, {"\xff\xef\xbe", "/+++"}, {"\x69\xb7\x1d\x79\xf8", "abcdefg="},
    };
    static const char *const bad[] = {"",     "Z",    "Zg",       "Zg=",  "Zg===", "====", "Z===",  "=AAA",
                                      "A=AA", "AA=A", "Zg==Zg==", "Zm9 ", "Zm9-",  "Zm9_", "Zm\n9", "Zm9v\n"};
    uint8_t buf[64];
    size_t n;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        size_t bytes = strlen(cases[i].bytes), text = strlen(cases[i].text);

        n = base64_encode((const uint8_t *)cases[i].bytes, bytes, buf);
        check(n == text && n == base64_size(bytes) && memcmp(buf, cases[i].text, n) == 0, "%s", cases[i].text);
        n = base64_decode((const uint8_t *)cases[i].text, text, buf);
        check(n == bytes && memcmp(buf, cases[i].bytes, n) == 0, "and back");
    }
    check(base64_encode((const uint8_t *)"", 0, buf) == 0, "nothing");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        check(base64_decode((const uint8_t *)bad[i], strlen(bad[i]), buf) == 0, "not base64: '%s'", bad[i]);
}

int main(void)
{
    if (mkdtemp(directory) == NULL)
        return 1;
    snprintf(log_path, sizeof(log_path), "%s/log", directory);
    check_unsigned();
    check_scan();
    check_signed();
    check_span();
    check_format();
    check_base64();
    check_clock();
    check_allocation();
    check_lines();
    check_clipping();
    check_levels();
    check_errno();
    check_unopenable();
    check_relative();
    check_rotation();
    check_stderr();
    unlink(log_path);
    rmdir(directory);
    return tap_end();
}
