/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_broadcast - a request that goes to every server of the pool: flush_all, and stats, whose replies are merged.
 *
 * flush_all: OK when all servers said so, else what the first that refused it, or could not be reached, gave as reason.
 *
 * stats: a line's name is what stands before its values ("STAT cmd_get", "PREFIX foo"); lines of one name become one,
 * value by value. As the first moxi did it, values are added up, but for names of which a sum would tell nothing: the
 * first server's word is kept for some, the smallest for others. What is no number is kept as the first had it. A
 * server that cannot be asked is left out, unless none can.
 */
#include <assert.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cproxy.h"

/* One merged line, from malloc. */
struct stat_line {
    struct stat_line *next; /* in the order in which the names first came */
    char *text;             /* from malloc too */
    size_t name_len;        /* of text */
    size_t len;
};

struct broadcast {
    uint32_t num_out;       /* parts on their way */
    struct outcome outcome; /* the reply's end */
    struct spanq text;      /* outcome.text, when it was a server's own */
    bool no_memory;
    void *names; /* tree of stat_line by name */
    struct stat_line *first;
    struct stat_line **end;
    struct request *parts[]; /* one a server: NULL, or on its way */
};

static struct bufpool *bufs_of(const struct request *r)
{
    return &r->pool->loop->bufs;
}

/* --- merging of stats --- */

static bool one_of(const char *word, size_t len, const char *const *words)
{
    for (; *words != NULL; words++)
        if (strlen(*words) == len && memcmp(*words, word, len) == 0)
            return true;
    return false;
}

/* The part of "items:3:age" that says what it is about. */
static const char *last_word(const char *name, size_t *len)
{
    const char *colon = memrchr(name, ':', *len);

    if (colon != NULL) {
        *len -= (size_t)(colon + 1 - name);
        return colon + 1;
    }
    return name;
}

enum merge { MERGE_SUM, MERGE_FIRST, MERGE_SMALLEST };

static enum merge merge_of(const char *name, size_t len)
{
    static const char *const firsts[] = {"pid", "version", "libevent", NULL};
    static const char *const smallest[] = {"uptime",
                                           "time",
                                           "pointer_size",
                                           "limit_maxbytes",
                                           "accepting_conns",
                                           "chunk_size",
                                           "chunk_per_page",
                                           "chunks_per_page",
                                           "age",
                                           NULL};

    if (len > 5 && memcmp(name, "STAT ", 5) == 0) {
        name += 5;
        len -= 5;
    }
    if (one_of(name, len, firsts))
        return MERGE_FIRST;
    name = last_word(name, &len);
    return one_of(name, len, smallest) ? MERGE_SMALLEST : MERGE_SUM;
}

/* Decimals behind the point; -1: not a number. */
static int decimals(const char *p, size_t len)
{
    const char *point = memchr(p, '.', len);
    uint64_t v;

    if (point == NULL)
        return util_parse_u64(p, len, &v) ? 0 : -1;
    if (!util_parse_u64(p, (size_t)(point - p), &v) || !util_parse_u64(point + 1, len - (size_t)(point + 1 - p), &v))
        return -1;
    return (int)(len - (size_t)(point + 1 - p));
}

/* Merges one value into another; writes the result to out, of 64 bytes, and returns its length. */
static size_t merge_value(enum merge how, const char *a, size_t a_len, const char *b, size_t b_len, char *out)
{
    int a_dec = decimals(a, a_len), b_dec = decimals(b, b_len);
    uint64_t x, y;
    double f, g;

    if (how == MERGE_FIRST || a_dec < 0 || b_dec < 0 || a_len > 40 || b_len > 40)
        return 0;
    if (a_dec == 0 && b_dec == 0 && util_parse_u64(a, a_len, &x) && util_parse_u64(b, b_len, &y))
        return (size_t)snprintf(out, 64, "%llu", (unsigned long long)(how == MERGE_SUM ? x + y : x < y ? x : y));
    f = strtod(a, NULL);
    g = strtod(b, NULL);
    return (size_t)snprintf(out, 64, "%.*f", a_dec > b_dec ? a_dec : b_dec, how == MERGE_SUM ? f + g : f < g ? f : g);
}

/* How long the name of a line is: for STAT and ITEM two words; PREFIX: two words, then word-value pairs. */
static size_t name_length(const char *p, size_t len)
{
    const char *blank = memchr(p, ' ', len);
    const char *second = blank != NULL ? memchr(blank + 1, ' ', len - (size_t)(blank + 1 - p)) : NULL;

    return second != NULL ? (size_t)(second - p) : len;
}

static size_t next_value(const char **p, const char *end)
{
    const char *blank;

    while (*p < end && **p == ' ')
        (*p)++;
    blank = memchr(*p, ' ', (size_t)(end - *p));
    return (size_t)((blank != NULL ? blank : end) - *p);
}

static struct stat_line *make_line(const char *p, size_t len)
{
    struct stat_line *line = malloc(sizeof(*line));

    if (line == NULL)
        return NULL;
    line->next = NULL;
    line->len = len;
    line->name_len = name_length(p, len);
    line->text = malloc(len + 1);
    if (line->text == NULL) {
        free(line);
        return NULL;
    }
    memcpy(line->text, p, len);
    line->text[len] = '\0';
    return line;
}

static void free_line(struct stat_line *line)
{
    if (line != NULL)
        free(line->text);
    free(line);
}

/* Merges the values of b into a, which has the same name. False when memory ran out. */
static bool merge_lines(struct stat_line *a, const struct stat_line *b)
{
    enum merge how = merge_of(a->text, a->name_len);
    const char *p = a->text + a->name_len, *q = b->text + b->name_len;
    const char *p_end = a->text + a->len, *q_end = b->text + b->len;
    size_t p_len, q_len, n, len = a->name_len;
    /* A value grows by less than what it and the other had together. */
    char *text = malloc(a->len + b->len + 64);
    char value[64];

    if (text == NULL)
        return false;
    memcpy(text, a->text, a->name_len);
    while ((p_len = next_value(&p, p_end)) > 0) {
        q_len = next_value(&q, q_end);
        n = q_len > 0 ? merge_value(how, p, p_len, q, q_len, value) : 0;
        text[len++] = ' ';
        memcpy(text + len, n > 0 ? value : p, n > 0 ? n : p_len);
        len += n > 0 ? n : p_len;
        p += p_len;
        q += q_len;
    }
    text[len] = '\0';
    free(a->text);
    a->text = text;
    a->len = len;
    return true;
}

static int compare_names(const void *a, const void *b)
{
    const struct stat_line *x = a, *y = b;
    size_t n = x->name_len < y->name_len ? x->name_len : y->name_len;
    int diff = memcmp(x->text, y->text, n);

    return diff != 0 ? diff : (x->name_len > y->name_len) - (x->name_len < y->name_len);
}

static void part_stat(struct request *part, const uint8_t *p, size_t n)
{
    struct broadcast *b = part->parent->parts;
    struct stat_line *line = make_line((const char *)p, n);
    struct stat_line **node = line != NULL ? tsearch(line, &b->names, compare_names) : NULL;

    if (node != NULL && *node == line) {
        *b->end = line;
        b->end = &line->next;
        return;
    }
    if (node == NULL || !merge_lines(*node, line))
        b->no_memory = true;
    free_line(line);
}

/* --- parts and their ends --- */

static bool says_no(enum result result)
{
    return result != RESULT_OK && result != RESULT_RESET && result != RESULT_END;
}

static bool is_away(enum result result)
{
    return result >= RESULT_WRITE_FAILED;
}

/* Whether the end of one server's reply is to stand for all, instead of what there is. */
static bool outweighs(const struct request *part, const struct broadcast *b, enum result result)
{
    if (b->outcome.result == RESULT_NONE)
        return true;
    if (part->op == OP_STATS && is_away(result) != is_away(b->outcome.result))
        return is_away(b->outcome.result);
    return says_no(result) && !says_no(b->outcome.result);
}

static void keep_outcome(struct request *part, const struct outcome *outcome)
{
    struct broadcast *b = part->parent->parts;

    if (!outweighs(part, b, outcome->result))
        return;
    b->outcome = *outcome;
    /* They are good during the call only, and nothing that goes to everyone has any. */
    b->outcome.facts = NULL;
    spanq_clear(&b->text, bufs_of(part));
    if (outcome->text != NULL && !spanq_copy(&b->text, bufs_of(part), outcome->text, outcome->text_len))
        b->no_memory = true;
}

static void drop_lines(struct broadcast *b)
{
    while (b->first != NULL) {
        struct stat_line *line = b->first;

        b->first = line->next;
        tdelete(line, &b->names, compare_names);
        free_line(line);
    }
}

static void broadcast_free(struct request *r)
{
    struct broadcast *b = r->parts;

    drop_lines(b);
    spanq_clear(&b->text, bufs_of(r));
    r->parts = NULL;
    free(b);
}

static bool write_lines(struct request *r)
{
    struct broadcast *b = r->parts;

    for (const struct stat_line *line = b->first; line != NULL; line = line->next)
        if (!r->codec->compose_stat(r, (const uint8_t *)line->text, line->len, bufs_of(r), client_output(r)))
            return false;
    return true;
}

static void finish(struct request *r)
{
    struct broadcast *b = r->parts;
    struct outcome outcome = b->outcome;
    struct spanq text = b->text;

    spanq_init(&b->text);
    if (b->no_memory)
        outcome = (struct outcome){.result = RESULT_NO_MEMORY};
    else if (!says_no(outcome.result) && !write_lines(r))
        client_fail(r->owner, "out of memory");
    broadcast_free(r);
    cproxy_release_slot(r);
    cproxy_finish_text(r, &outcome, &text);
}

static void part_done(struct request *part, const struct outcome *outcome)
{
    struct request *r = part->parent;
    struct broadcast *b = r->parts;

    keep_outcome(part, outcome);
    client_unpin(part, outcome);
    b->num_out--;
    request_let_go(&r->pool->loop->requests, bufs_of(r), &b->parts[part->server]);
    if (b->num_out == 0)
        finish(r);
}

static const struct request_ops part_ops = {.stat = part_stat, .done = part_done};

static struct request *make_part(struct request *r, uint32_t server)
{
    struct request *part = cproxy_make_part(r, server, &part_ops);

    if (part != NULL) {
        part->has_exptime = r->has_exptime;
        part->arg = r->arg;
        part->arg_len = r->arg_len;
        if (r->hold != HOLD_NONE)
            share_hold(part);
    }
    return part;
}

void broadcast_admit(struct request *r)
{
    uint32_t n = r->pool->pool->num_servers;
    struct broadcast *b = calloc(1, sizeof(*b) + n * sizeof(b->parts[0]));
    struct outcome no_memory = {.result = RESULT_NO_MEMORY};

    if (b == NULL) {
        cproxy_release_slot(r);
        client_finish(r, &no_memory);
        return;
    }
    b->end = &b->first;
    r->parts = b;
    /* One more than there are, until all are sent: a part may come back at once. */
    b->num_out = 1;
    for (uint32_t s = 0; s < n; s++) {
        b->parts[s] = make_part(r, s);
        if (b->parts[s] == NULL) {
            b->no_memory = true;
            continue;
        }
        b->num_out++;
        cproxy_send(b->parts[s], s);
    }
    if (--b->num_out == 0)
        finish(r);
}

void broadcast_abandon(struct request *r)
{
    struct broadcast *b = r->parts;

    for (uint32_t s = 0; s < r->pool->pool->num_servers; s++)
        if (b->parts[s] != NULL)
            request_let_go(&r->pool->loop->requests, bufs_of(r), &b->parts[s]);
    broadcast_free(r);
}
