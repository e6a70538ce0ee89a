/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * keyspec - which keys a setting is for: "user:|session:" but not "user:admin:".
 *
 * A spec and an unspec are prefixes with '|' between them. A key matches when it begins with a prefix of the spec and
 * with none of the unspec; so an empty spec matches nothing. An empty prefix, between two '|' or at the end, is none:
 * that would be every key, by mistake. Who wants them all says so, by "@all" in the spec. "@hot" there asks for keys
 * that are hot, whatever they begin with: which these are is the caller's to know, who then asks keyspec_excludes. In
 * an unspec both words are prefixes like any others.
 */
#ifndef KEYSPEC_H
#define KEYSPEC_H

#include "util.h"

struct keyspec_prefix {
    const uint8_t *p;
    size_t len;
};

/* The prefixes of a spec or an unspec. Most keys begin with a byte that none of them does. */
struct keyspec_list {
    uint64_t first[4]; /* a bit for each byte that one begins with */
    bool all;          /* one of them is that of every key */
    struct keyspec_prefix *prefixes;
    uint32_t n;
};

/* Immutable after keyspec_setup: any thread may ask. All zero is a spec that matches nothing. */
struct keyspec {
    struct keyspec_list spec;
    struct keyspec_list unspec;
    bool hot; /* "@hot" is in the spec */
};

/* Either may be "". The texts are copied. False when memory ran out; there is nothing to tear down then. */
bool keyspec_setup(struct keyspec *s, const char *spec, const char *unspec) MUST_CHECK;
void keyspec_teardown(struct keyspec *s);

/* For the functions below. */
bool keyspec_list_has(const struct keyspec_list *list, const uint8_t *key, size_t len);

static inline bool keyspec_list_may_have(const struct keyspec_list *list, const uint8_t *key, size_t len)
{
    return len > 0 && (list->first[key[0] >> 6] >> (key[0] & 63) & 1);
}

/* Whether the key begins with a prefix of the unspec. */
static inline bool keyspec_excludes(const struct keyspec *s, const uint8_t *key, size_t len)
{
    return keyspec_list_may_have(&s->unspec, key, len) && keyspec_list_has(&s->unspec, key, len);
}

static inline bool keyspec_match(const struct keyspec *s, const uint8_t *key, size_t len)
{
    if (!s->spec.all && !(keyspec_list_may_have(&s->spec, key, len) && keyspec_list_has(&s->spec, key, len)))
        return false;
    return !keyspec_excludes(s, key, len);
}

#endif
