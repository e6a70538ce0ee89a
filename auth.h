/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * auth - users and their passwords, from a file of lines "user:password". May be used by any thread.
 */
#ifndef AUTH_H
#define AUTH_H

#include <stddef.h>
#include <stdint.h>

#include "util.h"

struct auth;

/* Where a password ends: at the end of its line, or at the next colon too, as in memcached's SASL database. */
enum auth_format { AUTH_FORMAT_LINE, AUTH_FORMAT_COLON };

/*
 * Reads the file at path, which is kept for auth_reload. For the start of the process, which ends when memory runs out.
 * NULL with error, of errlen bytes, naming the file and the line, never what is in it.
 */
struct auth *auth_create(const char *path, enum auth_format format, char *error, size_t errlen) MUST_CHECK;
void auth_destroy(struct auth *auth);

/* Reads it again. On false error is as above, and the users are those of before. */
bool auth_reload(struct auth *auth, char *error, size_t errlen) MUST_CHECK;

/* Whether there is such a user with that password. How long it takes does not depend on how much of either is right. */
bool auth_check(struct auth *auth, const uint8_t *user, size_t user_len, const uint8_t *password, size_t password_len);

#endif
