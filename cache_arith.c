/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cache_arith - values that are numbers: see cache.h.
 *
 * A result of the same length is written in place if nobody looks at the item; else into a new item, which takes the
 * place of the old one if that is still the key's, or it is done again.
 */
#include <string.h>

#include "cache_int.h"

static bool is_white(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* As memcached reads it, with strtoull: white space may stand in front, and what stands behind it does not count. */
static bool number_of(struct cache_item *item, uint64_t *number)
{
    const uint8_t *p = cache_item_value(item), *end = p + item->nvalue, *digits;

    while (p < end && is_white(*p))
        p++;
    if (p < end && *p == '+')
        p++;
    for (digits = p; p < end && *p >= '0' && *p <= '9'; p++)
        ;
    return (p == end || is_white(*p) || *p == '\0') &&
           util_parse_u64((const char *)digits, (size_t)(p - digits), number);
}

static void write_number(uint8_t *value, size_t nvalue, const char *digits, size_t ndigits)
{
    memcpy(value, digits, ndigits);
    memset(value + ndigits, ' ', nvalue - ndigits);
}

static void count_arith(struct cache *cache, const struct cache_item *item, bool incr)
{
    if (item == NULL) {
        if (incr)
            COUNT(cache, incr_misses);
        else
            COUNT(cache, decr_misses);
    } else if (incr) {
        COUNT_ITEM(cache, item, incr_hits);
    } else {
        COUNT_ITEM(cache, item, decr_hits);
    }
}

/* What has to become of an item, and with which digits. */
struct sum {
    uint64_t value;
    char digits[U64_DIGITS];
    size_t ndigits;
    size_t nvalue; /* of the result */
};

static enum cache_result add_up(struct cache_item *item, const struct cache_arith *a, struct sum *sum)
{
    uint64_t number;

    if (item == NULL)
        return CACHE_NOT_FOUND;
    /* memcached compares the unique before it reads a number, but not before it sees that there is none. */
    if (item->nvalue == 0)
        return CACHE_NON_NUMERIC;
    if (a->unique != 0 && a->unique != cache_item_unique(item))
        return CACHE_EXISTS;
    if (!number_of(item, &number))
        return CACHE_NON_NUMERIC;
    sum->value = a->incr ? number + a->delta : number > a->delta ? number - a->delta : 0;
    sum->ndigits = util_format_u64(sum->digits, sum->value);
    sum->nvalue = sum->ndigits > item->nvalue ? sum->ndigits : item->nvalue;
    return CACHE_STORED;
}

/* Under the lock: in place if that may be, else the item is held. Whether it was done. */
static bool arith_in_place(struct cache *cache, struct cache_item *item, struct cache_arith *a, const struct sum *sum)
{
    a->old_exptime = cache_item_exptime(item);
    if (item_refs(item) != 1 || sum->nvalue != item->nvalue || a->own) {
        item_ref(item);
        return false;
    }
    write_number(cache_item_value(item), item->nvalue, sum->digits, sum->ndigits);
    op_access(cache, item);
    op_make_current(cache, item);
    if (cache_item_is_own(item))
        item_set_own(item, item->cas);
    if (a->touches)
        item_set_exptime(item, a->exptime);
    a->unique = cache_item_unique(item);
    a->exptime = cache_item_exptime(item);
    return true;
}

/* The result in a new item. False when the key has another one by now. */
static bool arith_anew(struct cache *cache, struct cache_item *held, struct cache_arith *a, const struct sum *sum,
                       enum cache_result *result)
{
    struct cache_item *item = op_make_successor(cache, held, sum->nvalue, a->own ? &a->own_unique : NULL);
    bool is_done;

    if (item == NULL) {
        cache_item_release(held);
        *result = CACHE_NO_MEMORY;
        return true;
    }
    /* Stale it stays, as when it is written in place. */
    item_set_bits(item, item->bits | (item_bits(held) & ITEM_LASTING));
    write_number(cache_item_value(item), sum->nvalue, sum->digits, sum->ndigits);
    is_done = op_exchange_held(cache, held, item, a->touches ? &a->exptime : NULL);
    if (is_done) {
        a->unique = cache_item_unique(item);
        a->exptime = cache_item_exptime(item);
        cache_item_release(item);
    }
    return is_done;
}

/* The key is not there, and is to begin with a number. CACHE_NOT_STORED: it is there after all. */
static enum cache_result vivify(struct cache *cache, const void *key, size_t nkey, struct cache_arith *a)
{
    const struct cache_props props = {
        .exptime = a->vivify_exptime, .binary_key = a->binary_key, .own = a->own, .unique = a->own_unique};
    struct found found;
    char digits[U64_DIGITS];
    size_t n = util_format_u64(digits, a->initial);
    enum cache_result result;
    struct cache_item *item = cache_item_alloc_with(cache, key, nkey, &props, n, &result);

    if (item == NULL)
        return result;
    if (a->touches && !a->spares_new)
        item_set_exptime(item, a->exptime);
    memcpy(cache_item_value(item), digits, n);
    found = op_find(cache, key, nkey, false);
    result = found.place.item != NULL         ? CACHE_NOT_STORED
             : op_insert(cache, &found, item) ? CACHE_STORED
                                              : CACHE_NO_MEMORY;
    if (result == CACHE_STORED) {
        a->value = a->initial;
        a->unique = cache_item_unique(item);
        a->old_exptime = a->vivify_exptime;
        a->exptime = cache_item_exptime(item);
    }
    op_unlock(&found);
    if (result != CACHE_STORED)
        mem_undo(item);
    return result;
}

/* One try. CACHE_NOT_STORED: once more. */
static enum cache_result try_arith(struct cache *cache, const void *key, size_t nkey, struct cache_arith *a)
{
    struct sum sum = {.value = 0};
    struct found found = op_find(cache, key, nkey, true);
    struct cache_item *item = found.place.item;
    enum cache_result result = add_up(item, a, &sum);
    bool is_done = result != CACHE_STORED || arith_in_place(cache, item, a, &sum);

    if (is_done && (result == CACHE_STORED || (result == CACHE_NOT_FOUND && !a->vivifies)))
        count_arith(cache, item, a->incr);
    op_unlock(&found);
    if (!is_done) {
        if (!arith_anew(cache, item, a, &sum, &result))
            return CACHE_NOT_STORED;
        if (result == CACHE_STORED) {
            struct cache_item sized = {.nkey = (uint8_t)nkey, .nvalue = (uint32_t)sum.nvalue};

            count_arith(cache, &sized, a->incr);
        }
    }
    if (result == CACHE_STORED)
        a->value = sum.value;
    if (result == CACHE_NOT_FOUND && a->vivifies)
        return vivify(cache, key, nkey, a);
    return result;
}

enum cache_result cache_arith_with(struct cache *cache, const void *key, size_t nkey, struct cache_arith *a)
{
    const struct cache_arith asked = *a;
    enum cache_result result;

    while ((result = try_arith(cache, key, nkey, a)) == CACHE_NOT_STORED)
        *a = asked;
    return result;
}

enum cache_result cache_arith(struct cache *cache, const void *key, size_t nkey, bool incr, uint64_t delta,
                              uint64_t *value, uint64_t *unique)
{
    struct cache_arith a = {.incr = incr, .delta = delta, .unique = unique != NULL ? *unique : 0};
    enum cache_result result = cache_arith_with(cache, key, nkey, &a);

    if (result != CACHE_STORED)
        return result;
    *value = a.value;
    if (unique != NULL)
        *unique = a.unique;
    return result;
}
