/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cproxy_auth - clients that have to say who they are: memcached's authentication in text, and SASL PLAIN.
 *
 *   text:    set <any key> <flags> <exptime> <bytes>   STORED, or CLIENT_ERROR authentication failure
 *            <user> <password>
 *   binary:  sasl auth, key PLAIN,                     a status
 *            value [authzid] NUL user NUL password
 *
 * Until then a client is barred: it may ask for the version, quit, and say who it is.
 */
#include "cproxy_upstream.h"
#include "endpoint.h"
#include "log.h"

#define MECHANISM "PLAIN"
#define FAILURE "CLIENT_ERROR authentication failure"

const char *auth_bars(const struct client *c, const struct command *cmd)
{
    if (op_is_auth(cmd->op)) {
        /* As memcached answers a command that it does not have. */
        if (c->ps->serving->binary_users == NULL)
            return "ERROR";
        return cmd->body_len <= AUTH_VALUE_MAX ? NULL : FAILURE;
    }
    if (cmd->op == OP_VERSION || cmd->op == OP_QUIT || (c->binary && cmd->hangup))
        return NULL;
    /* It becomes one of authentication: see take_command. */
    if (!c->binary && cmd->op == OP_SET)
        return cmd->body_len <= AUTH_VALUE_MAX ? NULL : FAILURE;
    return AUTH_BARRED;
}

/* Whether [p, p + n) is two words with `between` between them that a user and a password are. */
static bool is_user(struct auth *users, const uint8_t *p, size_t n, uint8_t between)
{
    const uint8_t *end = memchr(p, between, n);
    size_t user;

    if (end == NULL)
        return false;
    user = (size_t)(end - p);
    return auth_check(users, p, user, end + 1, n - user - 1);
}

/* Whether n bytes are what SASL PLAIN sends (RFC 4616), of a user with its own password. */
static bool is_sasl_user(struct auth *users, const uint8_t *p, size_t n)
{
    const uint8_t *nul = memchr(p, '\0', n);

    return nul != NULL && is_user(users, nul + 1, n - (size_t)(nul + 1 - p), '\0');
}

static bool has_mechanism(const struct request *r)
{
    return r->arg_len == sizeof(MECHANISM) - 1 && memcmp(r->arg, MECHANISM, r->arg_len) == 0;
}

/* Not more often than once a second, for whoever guesses does so often. */
static void tell_failure(const struct client *c)
{
    struct pool_state *ps = c->ps;
    struct endpoint peer;

    if (ps->auth_told_us != 0 && ps->loop->now_us - ps->auth_told_us < 1000000)
        return;
    ps->auth_told_us = ps->loop->now_us;
    if (!endpoint_of_peer(c->conn.fd, &peer))
        log_warning("client %d: authentication failed", c->conn.fd);
    else if (peer.family == AF_UNIX)
        log_warning("client %d, on %s: authentication failed", c->conn.fd, peer.host);
    else
        log_warning("client %d, %s port %u: authentication failed", c->conn.fd, peer.host, peer.port);
}

static bool is_right(const struct request *r)
{
    const struct client *c = r->owner;
    uint8_t value[AUTH_VALUE_MAX];
    size_t n = request_value_len(r);
    bool is;

    request_copy_value(r, value);
    if (c->binary)
        is = has_mechanism(r) && is_sasl_user(c->ps->serving->binary_users, value, n);
    else
        is = is_user(c->ps->serving->text_users, value, n, ' ');
    explicit_bzero(value, sizeof(value));
    return is;
}

struct outcome auth_answer(struct request *r)
{
    struct client *c = r->owner;
    struct counters *n = &r->pool->counters;

    if (r->op == OP_SASL_LIST)
        return (struct outcome){.result = RESULT_TOLD, .message = MECHANISM};
    /* PLAIN has no second step. */
    c->barred = r->op == OP_SASL_STEP || !is_right(r);
    counter_add(&n->tot_upstream_auth, 1);
    if (!c->barred)
        return (struct outcome){.result = RESULT_STORED};
    counter_add(&n->tot_upstream_auth_failed, 1);
    tell_failure(c);
    return (struct outcome){.result = RESULT_REFUSED, .message = FAILURE};
}
