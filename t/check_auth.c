/* SPDX-License-Identifier: BSD-3-Clause */
/* check_auth - files of users, and who is found in them. What moxi says of bad ones is t/test_auth.py's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "auth.h"
#include "tap.h"

static char path[] = "/tmp/check_auth.XXXXXX";

static void write_file(const char *text)
{
    FILE *f = fopen(path, "w");

    if (f == NULL || fputs(text, f) == EOF || fclose(f) != 0)
        abort();
}

static bool knows(struct auth *auth, const char *user, const char *password)
{
    return auth_check(auth, (const uint8_t *)user, strlen(user), (const uint8_t *)password, strlen(password));
}

static void check_formats(void)
{
    char error[256];
    struct auth *line, *colon;

    write_file("joe:pa:ss\r\n\nann:\nbob:x");
    line = auth_create(path, AUTH_FORMAT_LINE, error, sizeof(error));
    colon = auth_create(path, AUTH_FORMAT_COLON, error, sizeof(error));
    check(line != NULL && colon != NULL, "CR LF, empty lines, empty passwords and a last line without an end are read");
    check(knows(line, "joe", "pa:ss") && !knows(line, "joe", "pa"), "a password has colons");
    check(knows(colon, "joe", "pa") && !knows(colon, "joe", "pa:ss"), "or ends at the first");
    check(knows(line, "ann", "") && knows(line, "bob", "x"), "others are known too");
    check(!knows(line, "ann", "x") && !knows(line, "bob", "") && !knows(line, "", "") && !knows(line, "bo", "bx"),
          "and nobody else is");
    check(!auth_check(line, (const uint8_t *)"bob\0", 4, (const uint8_t *)"x", 1) &&
              !auth_check(line, (const uint8_t *)"bob", 3, (const uint8_t *)"x\0", 2),
          "a NUL behind makes another name");
    auth_destroy(line);
    auth_destroy(colon);
}

static void check_many(void)
{
    char *text = malloc(1000 * 16 + 1), error[256], user[16];
    size_t at = 0, known = 0;
    struct auth *auth;

    if (text == NULL)
        abort();
    for (int i = 0; i < 1000; i++)
        at += (size_t)snprintf(text + at, 17, "u%d:p%d\n", i, i * 7);
    write_file(text);
    free(text);
    auth = auth_create(path, AUTH_FORMAT_LINE, error, sizeof(error));
    for (int i = 0; i < 1000; i++) {
        char password[16];

        snprintf(user, sizeof(user), "u%d", i);
        snprintf(password, sizeof(password), "p%d", i * 7);
        known += knows(auth, user, password);
    }
    check(known == 1000, "of 1000 users %zu are known", known);
    write_file("u1:other\n");
    check(auth_reload(auth, error, sizeof(error)) && knows(auth, "u1", "other") && !knows(auth, "u1", "p7") &&
              !knows(auth, "u2", "p14"),
          "after a reload those of the new file are");
    write_file("nobody\n");
    check(!auth_reload(auth, error, sizeof(error)) && strstr(error, path) != NULL && strstr(error, "nobody") == NULL &&
              knows(auth, "u1", "other"),
          "after a bad one those of before, and nothing of it is told: %s", error);
    auth_destroy(auth);
}

static void check_longest(void)
{
    char text[600], error[256];
    struct auth *auth;

    snprintf(text, sizeof(text), "%0255d:%0255d\n", 1, 2);
    write_file(text);
    auth = auth_create(path, AUTH_FORMAT_LINE, error, sizeof(error));
    check(auth != NULL && auth_check(auth, (uint8_t *)text, 255, (uint8_t *)text + 256, 255), "255 bytes are a name");
    check(!auth_check(auth, (uint8_t *)text, 256, (uint8_t *)text + 256, 255), "256 are none");
    auth_destroy(auth);
    snprintf(text, sizeof(text), "%0256d:x\n", 1);
    write_file(text);
    check(auth_create(path, AUTH_FORMAT_LINE, error, sizeof(error)) == NULL, "nor in a file: %s", error);
}

int main(void)
{
    int fd = mkstemp(path);

    if (fd < 0)
        abort();
    close(fd);
    check_formats();
    check_many();
    check_longest();
    unlink(path);
    return tap_end();
}
