/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_join - gets that wait together for a server are asked for in one line, as a client would that wants them all.
 *
 *     get a                  get a bb c d e
 *     get bb c      ->
 *     get d e
 *
 * memcached writes at least once for each line, and moxi reads as often.
 */
#ifndef CPROXY_JOIN_H
#define CPROXY_JOIN_H

#include "codec.h"
#include "request.h"

enum { JOIN_MARKS = 2048 };

/* The line that was composed last, as long as nothing else has been. */
struct join {
    struct request *first; /* those that are asked for in it, linked by next_down; NULL: there is none to join */
    struct request *last;
    uint32_t num_keys;
    uint32_t max;                    /* keys a line may have; 0 or 1: none is joined */
    uint64_t marks[JOIN_MARKS / 64]; /* a bit for each key */
};

static inline void join_close(struct join *join)
{
    join->first = NULL;
}

/*
 * True: r has been appended to the last line of out; the request that was the line's last goes on (goes_on), and r has
 * its sent_at. False: r is to be composed, and out is as it was; if it has a line, others may join that one then.
 *
 * Requests that have a key in common are never in one line: whose of them a value is could not be told.
 */
bool join_line(struct join *join, const struct codec *codec, struct request *r, struct spanq *out);

#endif
