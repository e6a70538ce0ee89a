/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * agent_config - turns the arguments of -z and -Z into a struct config.
 *
 * Each of them becomes a struct text: the bytes, and a name for messages. Settings are parsed first, since every pool
 * gets a copy of them, or of its own in their place; only then it is known which LPORTs there are. What -p and -s have
 * to say about ports is settled here, so that cproxy_config.c knows of no command line.
 */
#include "agent_config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DETAIL_MAX = 1024 };

/* An argument, or the file that it names. */
struct text {
    const char *name; /* as messages call it: "-z", "-Z" or the path; not owned */
    char *bytes;      /* NUL-terminated; owned */
};

static bool is_path(const char *argument)
{
    return argument[0] == '/' || argument[0] == '.';
}

/* Reads what fd has, up to n bytes. The number of bytes, or -1 with errno. */
static ssize_t read_all(int fd, char *dst, size_t n)
{
    size_t at = 0;

    while (at < n) {
        ssize_t got = read(fd, dst + at, n - at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        at += (size_t)got;
    }
    return (ssize_t)at;
}

/* The file's text, or NULL with error. */
static char *read_file(const char *path, char *error, size_t errlen)
{
    const size_t room = (size_t)AGENT_CONFIG_FILE_MAX + 1; /* one more, to see that there is more */
    char *bytes, *text = NULL;
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        snprintf(error, errlen, "%s: %s", path, strerror(errno));
        return NULL;
    }
    bytes = util_xmalloc(room);
    n = read_all(fd, bytes, room);
    if (n < 0)
        snprintf(error, errlen, "%s: %s", path, strerror(errno));
    else if (n > AGENT_CONFIG_FILE_MAX)
        snprintf(error, errlen, "%s: larger than %d bytes", path, AGENT_CONFIG_FILE_MAX);
    else if (memchr(bytes, '\0', (size_t)n) != NULL)
        snprintf(error, errlen, "%s: holds a NUL byte; it is not a text", path);
    else {
        bytes[n] = '\0';
        text = util_xstrdup(bytes);
    }
    explicit_bzero(bytes, room);
    free(bytes);
    close(fd);
    return text;
}

/* Fills text from an argument of the option called name. */
static bool load_text(struct text *text, const char *name, const char *argument, char *error, size_t errlen)
{
    text->name = is_path(argument) ? argument : name;
    text->bytes = is_path(argument) ? read_file(argument, error, errlen) : util_xstrdup(argument);
    return text->bytes != NULL;
}

/* Whether a text of -z begins with "digits =", after white space and comments. */
static bool has_lport(const char *p)
{
    static const char blanks[] = " \t\n\r\v\f";
    size_t digits;

    for (p += strspn(p, blanks); *p == '#'; p += strspn(p, blanks))
        p += strcspn(p, "\n");
    digits = strspn(p, "0123456789");
    p += digits;
    p += strspn(p, blanks);
    return digits > 0 && *p == '=';
}

/* A -z of servers only is the pool of the port that -p gives. */
static void add_lport(struct text *text, uint16_t port)
{
    const size_t n = strlen(text->bytes) + sizeof("65535=");
    char *bytes = util_xmalloc(n);

    snprintf(bytes, n, "%u=%s", (unsigned)port, text->bytes);
    free(text->bytes);
    text->bytes = bytes;
}

/* Whether -p and -s go with the pools. */
static bool check_ports(const struct config *config, const struct agent_config_source *source, char *error,
                        size_t errlen)
{
    const struct pool *zero = config_find_pool(config, 0);

    if (source->has_port && !config->pools[0].any_port &&
        (source->any_port || config_find_pool(config, source->port) == NULL)) {
        snprintf(error, errlen, "-p %d is not the LPORT of any pool; leave one of the two out",
                 source->any_port ? -1 : source->port);
        return false;
    }
    if (!source->needs_no_port && zero != NULL && !zero->any_port) {
        snprintf(error, errlen, "pool 0: nobody could connect to it; an LPORT of 0 needs a unix socket (-s)");
        return false;
    }
    return true;
}

/* Values that no server of a pool could take are refused before they are read. */
static void lower_item_size(struct config *config, uint32_t item_size)
{
    for (uint32_t i = 0; i < config->num_pools; i++) {
        struct pool *pool = &config->pools[i];
        bool all_local = true;

        for (uint32_t k = 0; k < pool->num_servers; k++)
            all_local = all_local && pool->servers[k].local;
        if (all_local && pool->settings.item_size_max > item_size)
            pool->settings.item_size_max = item_size;
    }
}

/* A user and password that the environment has, unless the settings have one. */
static bool take_environment(struct settings *settings, char *error, size_t errlen)
{
    const char *user = getenv("MOXI_SASL_PLAIN_USR"), *password = getenv("MOXI_SASL_PLAIN_PWD");

    if (user == NULL)
        user = "";
    if (password == NULL)
        password = "";
    if (strlen(user) > SETTING_TEXT_MAX || strlen(password) > SETTING_TEXT_MAX) {
        snprintf(error, errlen, "MOXI_SASL_PLAIN_USR, MOXI_SASL_PLAIN_PWD: longer than %d bytes", SETTING_TEXT_MAX);
        return false;
    }
    if (settings->usr[0] == '\0')
        snprintf(settings->usr, sizeof(settings->usr), "%s", user);
    if (settings->pwd[0] == '\0')
        snprintf(settings->pwd, sizeof(settings->pwd), "%s", password);
    return true;
}

/* Whether a text can be told in a line: of no character below that one. */
static bool is_plain(const char *text, unsigned char lowest)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < lowest || *text == 0x7f)
            return false;
    return true;
}

static bool has_password(const struct settings *settings, const struct own_settings *own)
{
    bool has = settings->pwd[0] != '\0';

    for (; own != NULL; own = own->next)
        has = has || own->values.pwd[0] != '\0';
    return has;
}

/* The settings of an argument, or of the file that it names. */
static bool read_settings(struct settings *settings, struct own_settings **own, const char *argument, char *error,
                          size_t errlen)
{
    char detail[DETAIL_MAX];
    struct text text;
    bool ok;

    if (!load_text(&text, "-Z", argument, error, errlen))
        return false;
    ok = settings_parse(settings, own, text.bytes, detail, sizeof(detail));
    if (ok && has_password(settings, *own) && !is_path(argument)) {
        snprintf(detail, sizeof(detail),
                 "pwd: everybody can read a command line; put it into a file, or into MOXI_SASL_PLAIN_PWD");
        ok = false;
    }
    if (!ok)
        snprintf(error, errlen, "%s: %s", text.name, detail);
    explicit_bzero(text.bytes, strlen(text.bytes));
    free(text.bytes);
    return ok;
}

/* What the cache inside takes is not refused for being larger than is usual. */
static bool load_settings(struct settings *settings, struct own_settings **own,
                          const struct agent_config_source *source, char *error, size_t errlen)
{
    settings_init(settings);
    if (settings->item_size_max < source->item_size)
        settings->item_size_max = source->item_size;
    if (source->settings != NULL && !read_settings(settings, own, source->settings, error, errlen))
        return false;
    return take_environment(settings, error, errlen);
}

/* Whether each pool that has settings of its own is there. */
static bool check_lports(const struct config *config, const struct own_settings *own, const char *argument, char *error,
                         size_t errlen)
{
    char line[32] = "";

    while (own != NULL && config_find_pool(config, own->port) != NULL)
        own = own->next;
    if (own == NULL)
        return true;
    if (own->line > 0)
        snprintf(line, sizeof(line), "line %u: ", own->line);
    snprintf(error, errlen, "%s: %s%u is not the LPORT of any pool", is_path(argument) ? argument : "-Z", line,
             own->port);
    return false;
}

/* Whether what each pool tells its servers of moxi can be told. */
static bool check_users(const struct config *config, char *error, size_t errlen)
{
    for (uint32_t i = 0; i < config->num_pools; i++) {
        const struct pool *pool = &config->pools[i];
        const struct settings *s = &pool->settings;

        if (s->usr[0] == '\0' && s->pwd[0] != '\0') {
            snprintf(error, errlen, "pool %u: pwd: a password without usr, the user that it is of", pool->port);
            return false;
        }
        if (!is_plain(s->usr, '!') || !is_plain(s->pwd, ' ')) {
            snprintf(error, errlen, "pool %u: usr, pwd: a blank in a user, or a control character", pool->port);
            return false;
        }
    }
    return true;
}

/* The pools, as -z and -p name them. */
static struct config *load_pools(const struct agent_config_source *source, const struct settings *settings,
                                 const struct own_settings *own, char *error, size_t errlen)
{
    char detail[DETAIL_MAX];
    struct config *config;
    struct text text;
    bool names_none;

    if (!load_text(&text, "-z", source->cluster, error, errlen))
        return NULL;
    names_none = source->has_port && !has_lport(text.bytes);
    if (names_none)
        add_lport(&text, source->any_port ? 0 : source->port);
    config = config_parse(text.bytes, settings, own, detail, sizeof(detail));
    if (config != NULL && names_none)
        config->pools[0].any_port = source->any_port;
    if (config != NULL && !check_ports(config, source, detail, sizeof(detail))) {
        config_unref(config);
        config = NULL;
    }
    if (config == NULL)
        snprintf(error, errlen, "%s: %s", text.name, detail);
    free(text.bytes);
    return config;
}

struct config *agent_config_load(const struct agent_config_source *source, char *error, size_t errlen)
{
    struct own_settings *own = NULL;
    struct config *config = NULL;
    struct settings settings;

    if (load_settings(&settings, &own, source, error, errlen))
        config = load_pools(source, &settings, own, error, errlen);
    if (config != NULL &&
        (!check_lports(config, own, source->settings, error, errlen) || !check_users(config, error, errlen))) {
        config_unref(config);
        config = NULL;
    }
    if (config != NULL)
        lower_item_size(config, source->item_size);
    own_settings_free(&own);
    return config;
}
