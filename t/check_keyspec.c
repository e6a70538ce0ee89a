/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check_keyspec - which keys match a spec and an unspec (keyspec.c).
 *
 * Linked with --wrap=malloc.
 */
#include <stdlib.h>
#include <string.h>

#include "keyspec.h"
#include "tap.h"

static int mallocs_left = -1; /* until one fails; -1: none does */

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);

void *__wrap_malloc(size_t n)
{
    if (mallocs_left >= 0 && mallocs_left-- == 0)
        return NULL;
    return __real_malloc(n);
}

/* Whether the key matches, as it stands in memory of just its length. */
static bool matches(const struct keyspec *s, const char *key)
{
    size_t len = strlen(key);
    uint8_t *copy = malloc(len > 0 ? len : 1);
    bool found;

    memcpy(copy, key, len);
    found = keyspec_match(s, copy, len);
    free(copy);
    return found;
}

static void check_key(const char *spec, const char *unspec, const char *key, bool expected)
{
    struct keyspec s;

    if (!check(keyspec_setup(&s, spec, unspec), "'%s' without '%s' is set up", spec, unspec))
        return;
    check(matches(&s, key) == expected, "'%s' without '%s' %s '%s'", spec, unspec, expected ? "takes" : "leaves", key);
    keyspec_teardown(&s);
}

static void check_prefixes(void)
{
    check_key("user:", "", "user:1", true);
    check_key("user:", "", "user:", true);
    check_key("user:", "", "user", false);
    check_key("user:", "", "uses:1", false);
    check_key("user:", "", "a user:1", false);
    check_key("user:|session:|u", "", "session:5", true);
    check_key("user:|session:|u", "", "uses:1", true);
    check_key("user:|session:", "", "profile", false);
    check_key("user:", "user:admin:|session:", "user:admin:1", false);
    check_key("user:", "user:admin:|session:", "user:admin", true);
    check_key("user:", "", "", false);
    check_key("\xc3\xa4|\xff", "", "\xc3\xa4h", true);
    check_key("\xc3\xa4|\xff", "", "\xff", true);
    check_key("\xc3\xa4|\xff", "", "\xc3", false);
}

static void check_empty(void)
{
    struct keyspec zero = {0};

    check(!matches(&zero, "a") && !keyspec_excludes(&zero, (const uint8_t *)"a", 1),
          "one that is all zero matches nothing");
    check_key("", "", "a", false);
    check_key("", "b", "a", false);
    check_key("|", "", "a", false);
    check_key("|b||", "", "a", false);
    check_key("|b||", "", "b1", true);
    check_key("a", "|", "a", true);
}

static void check_words(void)
{
    struct keyspec s;

    check_key("@all", "", "a", true);
    check_key("@all", "", "\xff", true);
    check_key("@all", "a", "ab", false);
    check_key("x|@all", "a", "b", true);
    check_key("@hot", "", "a", false);
    check_key("@hot", "", "@hot", false);
    check_key("@hotter|@allow", "", "@hotter:1", true);
    check_key("@all", "@all", "@allow", false);
    check_key("@all", "@all|@hot", "a", true);
    if (check(keyspec_setup(&s, "user:|@hot", "user:admin:"), "'@hot' among others is set up")) {
        check(s.hot && matches(&s, "user:1") && !matches(&s, "a"), "it is told, and the others are as they were");
        check(keyspec_excludes(&s, (const uint8_t *)"user:admin:1", 12) &&
                  !keyspec_excludes(&s, (const uint8_t *)"a", 1),
              "so is what the unspec excludes");
        keyspec_teardown(&s);
    }
    if (check(keyspec_setup(&s, "@hotter", "@hot"), "words that look like it are set up")) {
        check(!s.hot, "and are not it; nor is it one in an unspec");
        keyspec_teardown(&s);
    }
}

/* All keys of up to two of some bytes, against the rule as it is said. */
static void check_all(void)
{
    static const char *const prefixes[] = {"a", "bc", "\x01", "\x80\x81", "c"};
    static const uint8_t bytes[] = {0x01, 'a', 'b', 'c', 0x40, 0x7f, 0x80, 0x81, 0xff};
    struct keyspec s;
    bool same = true;

    if (!check(keyspec_setup(&s, "a|bc|\x01|\x80\x81|c", "ab|c\xff"), "a spec of five is set up"))
        return;
    for (size_t i = 0; i < sizeof(bytes); i++) {
        for (size_t j = 0; j <= sizeof(bytes); j++) {
            char key[3] = {(char)bytes[i], j < sizeof(bytes) ? (char)bytes[j] : '\0', '\0'};
            bool expected = false;

            for (size_t k = 0; k < ARRAY_LEN(prefixes); k++)
                expected = expected || strncmp(key, prefixes[k], strlen(prefixes[k])) == 0;
            expected = expected && strcmp(key, "ab") != 0 && strcmp(key, "c\xff") != 0;
            same = same && matches(&s, key) == expected;
        }
    }
    check(same, "each key matches as the rule says");
    keyspec_teardown(&s);
}

static void check_memory(void)
{
    struct keyspec s;

    for (int n = 0; n < 2; n++) {
        mallocs_left = n;
        check(!keyspec_setup(&s, "a", "ab"), "without memory for allocation %d it is not set up", n);
    }
    mallocs_left = -1;
    check(s.spec.prefixes == NULL && !matches(&s, "a"), "and nothing is left of it");
}

int main(void)
{
    check_prefixes();
    check_empty();
    check_words();
    check_all();
    check_memory();
    return tap_end();
}
