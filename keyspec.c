/* SPDX-License-Identifier: BSD-3-Clause */
/* keyspec - which keys a setting is for: see keyspec.h. */
#include "keyspec.h"

#include <stdlib.h>
#include <string.h>

static const char word_all[] = "@all", word_hot[] = "@hot";

static bool is_word(const char *p, size_t n, const char *word)
{
    return n == strlen(word) && memcmp(p, word, n) == 0;
}

/* An empty prefix is that of every key. */
static void add(struct keyspec_list *list, const uint8_t *p, size_t len)
{
    list->prefixes[list->n++] = (struct keyspec_prefix){p, len};
    if (len > 0)
        list->first[p[0] >> 6] |= UINT64_C(1) << (p[0] & 63);
    else
        list->all = true;
}

static size_t count_parts(const char *text)
{
    size_t n = 1;

    for (; *text != '\0'; text++)
        n += *text == '|';
    return n;
}

/* hot: where to say that "@hot" was there; NULL: no word stands for anything but itself. */
static bool set_up(struct keyspec_list *list, const char *text, bool *hot)
{
    size_t parts = count_parts(text), bytes = strlen(text);
    const char *p, *end;
    size_t len;

    memset(list, 0, sizeof(*list));
    if (bytes == 0)
        return true;
    list->prefixes = malloc(parts * sizeof(*list->prefixes) + bytes + 1);
    if (list->prefixes == NULL)
        return false;
    p = memcpy(list->prefixes + parts, text, bytes + 1);
    for (;; p = end + 1) {
        end = strchrnul(p, '|');
        len = (size_t)(end - p);
        if (hot != NULL && is_word(p, len, word_hot))
            *hot = true;
        else if (hot != NULL && is_word(p, len, word_all))
            add(list, (const uint8_t *)p, 0);
        else if (len > 0)
            add(list, (const uint8_t *)p, len);
        if (*end == '\0')
            return true;
    }
}

bool keyspec_setup(struct keyspec *s, const char *spec, const char *unspec)
{
    memset(s, 0, sizeof(*s));
    if (set_up(&s->spec, spec, &s->hot) && set_up(&s->unspec, unspec, NULL))
        return true;
    keyspec_teardown(s);
    return false;
}

void keyspec_teardown(struct keyspec *s)
{
    free(s->spec.prefixes);
    free(s->unspec.prefixes);
    memset(s, 0, sizeof(*s));
}

bool keyspec_list_has(const struct keyspec_list *list, const uint8_t *key, size_t len)
{
    for (uint32_t i = 0; i < list->n; i++) {
        const struct keyspec_prefix *prefix = &list->prefixes[i];

        if (prefix->len <= len && memcmp(prefix->p, key, prefix->len) == 0)
            return true;
    }
    return false;
}
