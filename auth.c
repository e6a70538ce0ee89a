/* SPDX-License-Identifier: BSD-3-Clause */
/* auth - users and their passwords: see auth.h. */
#include "auth.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    NAME_MAX_BYTES = 255, /* of a user, and of a password */
    USERS_MAX = 1000,     /* all are looked at, for each who says who he is */
};

/* Padded with zeros, so that a comparison may look at all of it, whatever it is compared with. */
struct name {
    size_t len;
    uint8_t bytes[NAME_MAX_BYTES];
};

struct user {
    struct name name;
    struct name password;
};

struct users {
    struct user *v;
    size_t n;
    size_t size;
};

struct auth {
    char *path;
    enum auth_format format;
    pthread_mutex_t mutex; /* for users */
    struct users users;
};

/* --- reading the file --- */

static void name_set(struct name *name, const char *p, size_t n)
{
    memset(name, 0, sizeof(*name));
    name->len = n;
    memcpy(name->bytes, p, n);
}

/* Memory that has held passwords. */
static void users_free(struct users *users)
{
    if (users->v != NULL)
        explicit_bzero(users->v, users->size * sizeof(*users->v));
    free(users->v);
    memset(users, 0, sizeof(*users));
}

/* Room for one more. Not by realloc, which would leave a copy behind. */
static bool users_grow(struct users *users)
{
    struct users more = {.n = users->n, .size = users->size * 2 + 8};

    if (users->n < users->size)
        return true;
    more.v = calloc(more.size, sizeof(*more.v));
    if (more.v == NULL)
        return false;
    if (users->n > 0)
        memcpy(more.v, users->v, users->n * sizeof(*users->v));
    users_free(users);
    *users = more;
    return true;
}

/* A line of n bytes, without its end. What is wrong with it, or NULL. */
static const char *take_line(struct users *users, enum auth_format format, const char *line, size_t n)
{
    const char *colon = memchr(line, ':', n), *end = line + n, *stop;
    struct user *user;

    if (n == 0)
        return NULL;
    if (colon == NULL || colon == line || memchr(line, '\0', n) != NULL)
        return "expected user:password";
    stop = format == AUTH_FORMAT_COLON ? memchr(colon + 1, ':', (size_t)(end - colon) - 1) : NULL;
    end = stop != NULL ? stop : end;
    if (colon - line > NAME_MAX_BYTES || end - colon - 1 > NAME_MAX_BYTES)
        return "a user or a password of more than 255 bytes";
    if (users->n == USERS_MAX)
        return "too many users";
    if (!users_grow(users))
        return "out of memory";
    user = &users->v[users->n++];
    name_set(&user->name, line, (size_t)(colon - line));
    name_set(&user->password, colon + 1, (size_t)(end - colon) - 1);
    return NULL;
}

static size_t without_end(const char *line, size_t n)
{
    while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
        n--;
    return n;
}

/* Reads all lines. False with error. */
static bool read_lines(struct users *users, const struct auth *auth, FILE *f, char *error, size_t errlen)
{
    const char *wrong = NULL;
    char *line = NULL;
    unsigned number = 0;
    size_t size = 0;
    ssize_t n;

    while (wrong == NULL && (n = getline(&line, &size, f)) >= 0) {
        number++;
        wrong = take_line(users, auth->format, line, without_end(line, (size_t)n));
    }
    if (line != NULL)
        explicit_bzero(line, size);
    free(line);
    if (wrong != NULL)
        snprintf(error, errlen, "%s: line %u: %s", auth->path, number, wrong);
    else if (ferror(f))
        snprintf(error, errlen, "%s: %s", auth->path, strerror(errno));
    else if (users->n == 0)
        snprintf(error, errlen, "%s: no users in it", auth->path);
    else
        return true;
    return false;
}

bool auth_reload(struct auth *auth, char *error, size_t errlen)
{
    struct users users = {0}, old;
    FILE *f = fopen(auth->path, "re");
    bool ok;

    if (f == NULL) {
        snprintf(error, errlen, "%s: %s", auth->path, strerror(errno));
        return false;
    }
    setvbuf(f, NULL, _IONBF, 0); /* no buffer that keeps passwords */
    ok = read_lines(&users, auth, f, error, errlen);
    fclose(f);
    if (!ok) {
        users_free(&users);
        return false;
    }
    pthread_mutex_lock(&auth->mutex);
    old = auth->users;
    auth->users = users;
    pthread_mutex_unlock(&auth->mutex);
    users_free(&old);
    return true;
}

struct auth *auth_create(const char *path, enum auth_format format, char *error, size_t errlen)
{
    struct auth *auth = util_xcalloc(1, sizeof(*auth));

    auth->path = util_xstrdup(path);
    auth->format = format;
    pthread_mutex_init(&auth->mutex, NULL);
    if (auth_reload(auth, error, errlen))
        return auth;
    auth_destroy(auth);
    return NULL;
}

void auth_destroy(struct auth *auth)
{
    if (auth == NULL)
        return;
    users_free(&auth->users);
    pthread_mutex_destroy(&auth->mutex);
    free(auth->path);
    free(auth);
}

/* --- asking --- */

/* 0 if they are equal. Looks at all bytes of both, always. */
static size_t difference(const struct name *a, const struct name *b)
{
    size_t diff = a->len ^ b->len;

    for (size_t i = 0; i < NAME_MAX_BYTES; i++)
        diff |= (size_t)(a->bytes[i] ^ b->bytes[i]);
    return diff;
}

bool auth_check(struct auth *auth, const uint8_t *user, size_t user_len, const uint8_t *password, size_t password_len)
{
    struct user asked;
    unsigned found = 0;

    if (user_len > NAME_MAX_BYTES || password_len > NAME_MAX_BYTES)
        return false;
    name_set(&asked.name, (const char *)user, user_len);
    name_set(&asked.password, (const char *)password, password_len);
    pthread_mutex_lock(&auth->mutex);
    for (size_t i = 0; i < auth->users.n; i++) {
        const struct user *known = &auth->users.v[i];

        found |= (difference(&asked.name, &known->name) | difference(&asked.password, &known->password)) == 0;
    }
    pthread_mutex_unlock(&auth->mutex);
    explicit_bzero(&asked, sizeof(asked));
    return found != 0;
}
