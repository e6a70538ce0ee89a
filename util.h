/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * util - what every file needs: attributes for prototypes, strict numbers, time, the version.
 */
#ifndef UTIL_H
#define UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define NO_RETURN __attribute__((noreturn))

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* The struct of type `type` whose member `member` p points to. */
#define CONTAINER_OF(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

/* Longest decimal form of a uint64_t, without a terminating NUL. */
enum { U64_DIGITS = 20 };

/* moxi's own version, "1.0.0". */
const char *moxi_version(void);

/* Microseconds of CLOCK_MONOTONIC. */
uint64_t util_now_us(void);

/*
 * Unix time, in seconds, when it is now_us by util_now_us: as it was when the process began, and what has passed since.
 * It never steps, as the machine's clock may: what was stored for a minute lives that long.
 */
uint32_t util_unix_seconds(uint64_t now_us);

/*
 * Reads the decimal digits that [p, p + n) begins with. Returns how many there are; 0, with *out untouched, when there
 * is none or the number does not fit.
 */
size_t util_scan_u64(const char *p, size_t n, uint64_t *out) MUST_CHECK;

/*
 * Reads [p, p + n) as a decimal number: digits only, no sign, no blanks, at least one digit. False, with *out
 * untouched, when it is anything else or does not fit.
 */
bool util_parse_u64(const char *p, size_t n, uint64_t *out) MUST_CHECK;

/* The same, with an optional '-' in front. */
bool util_parse_i64(const char *p, size_t n, int64_t *out) MUST_CHECK;

/* Writes v in decimal, without a NUL, to dst, which has room for U64_DIGITS bytes. Returns the length. */
size_t util_format_u64(char *dst, uint64_t v);

/*
 * Writes [p, p + n) as it stands in a URI, all but letters, digits and "-._~" as %XX, without a NUL, to dst, which has
 * room for three times n bytes. Returns the length.
 */
size_t util_escape_uri(char *dst, const uint8_t *p, size_t n);

/* Allocation at start-up: exits the process with a message when memory has run out. Never returns NULL. */
void *util_xmalloc(size_t n);
void *util_xcalloc(size_t n, size_t size);
char *util_xstrdup(const char *s);

#endif
