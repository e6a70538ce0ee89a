/* SPDX-License-Identifier: BSD-3-Clause */
/* options_print - what moxi prints of itself: -h, -V, -i, and the man page; from the tables of options and settings. */
#include <string.h>

#include "counters.h"
#include "cproxy_config.h"
#include "options_int.h"

/* A term and what it means, in a list. */
struct man_item {
    const char *term;
    const char *text;
};

static const struct man_item environment[] = {
    {"MEMCACHED_PORT_FILENAME",
     "A file to be written when moxi listens: a line for each TCP port and then each UDP port, \"TCP INET: 11211\" or "
     "\"UDP INET6: 11211\". It is written under another name, with .lck behind it, and then renamed: when it is there, "
     "it is whole, and moxi can be connected to."},
    {"MEMCACHED_SASL_PWDB", "The file of users for -S; without it that of -Y."},
    {"MOXI_SASL_PLAIN_USR, MOXI_SASL_PLAIN_PWD",
     "User and password that moxi has at the servers of pools whose settings name none."},
};

/* "default 1024", or nothing where 0 stands for "not given". */
static void print_default(FILE *out, const struct option_row *row)
{
    if (row->type == OPTION_NUMBER && row->def != 0)
        fprintf(out, " (default %u)", row->def);
    if (row->type == OPTION_OCTAL)
        fprintf(out, " (default 0%o)", row->def);
    if (row->type == OPTION_BYTES)
        fprintf(out, " (default %um)", row->def >> 20);
}

static void print_help(FILE *out)
{
    fprintf(out,
            "moxi %s, a proxy that makes many memcacheds one, and a memcached\n"
            "\n"
            "usage: moxi [-z LPORT=HOST[:PORT[:WEIGHT]],...[;LPORT2=...]] [-Z [LPORT.]KEY=VALUE,...] [OPTION...]\n"
            "\n"
            "OPTIONS\n",
            moxi_version());
    for (const struct option_row *row = options_table; row->name != NULL; row++) {
        if (row->letter != 0)
            fprintf(out, "  -%c, --%s", row->letter, row->name);
        else
            fprintf(out, "  --%s", row->name);
        fprintf(out, "%s%s\n      %s", row->argument ? "=" : "", row->argument ? row->argument : "", row->help);
        print_default(out, row);
        fputc('\n', out);
    }
    fputs("\nENVIRONMENT\n", out);
    for (size_t i = 0; i < ARRAY_LEN(environment); i++)
        fprintf(out, "  %s\n      %s\n", environment[i].term, environment[i].text);
    fprintf(out, "\nSETTINGS, for -Z, with their defaults; with LPORT. in front, of one pool alone\n");
    settings_print_help(out);
}

static void print_license(FILE *out)
{
    fprintf(out, "moxi %s\n\n", moxi_version());
    fputs("Copyright (c) 2026, moxi contributors\n"
          "All rights reserved.\n"
          "\n"
          "Redistribution and use in source and binary forms, with or without\n"
          "modification, are permitted provided that the following conditions are met:\n"
          "\n"
          "1. Redistributions of source code must retain the above copyright notice,\n"
          "   this list of conditions and the following disclaimer.\n"
          "\n"
          "2. Redistributions in binary form must reproduce the above copyright notice,\n"
          "   this list of conditions and the following disclaimer in the documentation\n"
          "   and/or other materials provided with the distribution.\n"
          "\n"
          "3. Neither the name of the copyright holder nor the names of its contributors\n"
          "   may be used to endorse or promote products derived from this software\n"
          "   without specific prior written permission.\n"
          "\n"
          "THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS \"AS IS\"\n"
          "AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE\n"
          "IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE\n"
          "DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE\n"
          "FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL\n"
          "DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR\n"
          "SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER\n"
          "CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,\n"
          "OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE\n"
          "OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.\n",
          out);
}

/*
 * The man page. Prose goes through put_prose, which makes it safe for roff, so that the texts here are plain.
 */

static const struct man_item man_signals[] = {
    {"TERM, INT",
     "Accept no more connections, finish the requests in flight (for 5 seconds at most), and exit with 0."},
    {"HUP", "Open the log file of -O again, for log rotation, and read the users of -Y and -S again."},
};

static const struct man_item man_errors[] = {
    {"SERVER_ERROR proxy write to downstream HOST",
     "The server HOST could not be connected to, or a request could not be written to it."},
    {"SERVER_ERROR proxy downstream closed HOST",
     "HOST closed the connection, or sent what cannot be a reply, before the request was answered."},
    {"SERVER_ERROR proxy downstream timeout HOST", "HOST did not answer within downstream_timeout."},
    {"SERVER_ERROR proxy out of downstreams",
     "As many requests as downstream_queue_max or downstream_queue_bytes allow wait for the server already."},
    {"SERVER_ERROR proxy wait queue timeout",
     "The request waited for its turn under downstream_max for longer than wait_queue_timeout."},
    {"SERVER_ERROR object too large for cache", "The value is larger than item_size_max."},
    {"SERVER_ERROR proxy downstream has no meta commands, for WHAT",
     "WHAT the client asked for has no equivalent in the protocol that the server is asked in: see PROTOCOLS."},
    {"CLIENT_ERROR unauthenticated", "The client has to say first who it is: -Y and -S."},
};

static const struct man_item man_files[] = {
    {"-z FILE",
     "A file that holds what -z could say, its path beginning with '/' or '.'. White space may stand between "
     "words, and comments from a '#' at the beginning of a word to the end of the line."},
    {"-Z FILE", "Likewise for the settings, which may also stand on lines of their own, without commas."},
    {"-Y FILE", "Lines of USER:PASSWORD. One that cannot be read, or has another line, leaves the users as they were."},
};

/* What is lost where a protocol crosses into another: the summary of doc/protocols. */
static const struct man_item man_protocols[] = {
    {"Clients of the binary protocol, servers asked in meta commands",
     "Nothing is lost. A key with blanks or control characters goes in base64 and may have 186 bytes; a longer one has "
     "status 0x83, not supported. A value too large for the server takes the old one away, whatever the store."},
    {"Clients of the binary protocol, servers asked in classic commands",
     "That is downstream_protocol=ascii, and auto where a server knows nothing else. get and gat are exact. The cas of "
     "the reply to a store, a touch or a counter is 0, and so are the flags of touch. Status 0x83, with a text that "
     "says "
     "what it is for, has what cannot be said: append, prepend, delete, increment and decrement with a cas, a counter "
     "that is not there and is to be made, a key with blanks or control characters."},
    {"Meta commands, servers asked in classic commands",
     "mg with v, ms in all modes, md, ma and mn are exact, with the flags b f k s c O q T F C J D M as far as get, "
     "gat, "
     "set, add, replace, append, prepend, cas, delete, incr and decr can say them. What they cannot is refused with an "
     "error that names it: mg without v, or with t l h u R N E; ms with c I E N, or with C or s in modes A and P; md "
     "with C I E x; ma with N C E T t c; "
     "me. Nothing tells of W, X and Z."},
    {"Classic commands, servers asked in meta commands",
     "That is downstream_protocol=meta. Exact, but that get, gat and touch count as told to somebody to renew a stale "
     "item (W), and that a value too large takes the old one away."},
    {"Servers asked in the binary protocol",
     "Classic commands are exact, but stats that it does not have. Of meta commands these are refused: mg with t l h u "
     "R "
     "N E, or with neither v nor T; ms with I E N, or with s in modes A and P; md with I E x; ma with t T E; me."},
};

static const struct man_item man_examples[] = {
    {"moxi -m 1024", "A memcached of 1 GB at port 11211."},
    {"moxi -z 11211=cache1:11211,cache2:11211", "One memcached at port 11211 that is spread over two."},
    {"moxi -z '11211=a,b;11212=c:11311:1,d:11311:3' -l 127.0.0.1",
     "Two pools for clients on this host; in the second one, d holds three times as many keys as c."},
    {"moxi -z 0=[2001:db8::1]:11211,unix:/run/memcached.sock -s /run/moxi.sock",
     "Clients on a unix socket; one server at an IPv6 address, one on a unix socket."},
    {"moxi -z '11211=a,b;11212=c' -Z downstream_timeout=500,11212.downstream_timeout=2s",
     "Two pools, the servers of the second of which may take longer."},
    {"moxi -z /etc/moxi/pools -Z downstream_timeout=500,distribution=ketama -t 4 -d -P /run/moxi.pid -O /var/log/moxi",
     "The pools from a file; settings, threads and log for a machine that serves for long."},
};

static void put_prose(FILE *out, const char *text)
{
    if (*text == '.' || *text == '\'')
        fputs("\\&", out);
    for (; *text != '\0'; text++) {
        if (*text == '\\')
            fputs("\\e", out);
        else if (*text == '-')
            fputs("\\-", out);
        else if (*text == '\'')
            fputs("\\(aq", out);
        else
            fputc(*text, out);
    }
}

static void put_paragraph(FILE *out, const char *text)
{
    fputs(".PP\n", out);
    put_prose(out, text);
    fputc('\n', out);
}

static void put_term(FILE *out, const char *term)
{
    fputs(".TP\n\\fB", out);
    put_prose(out, term);
    fputs("\\fR\n", out);
}

static void put_list(FILE *out, const struct man_item *items, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        put_term(out, items[i].term);
        put_prose(out, items[i].text);
        fputc('\n', out);
    }
}

static void put_items(FILE *out, const char *title, const struct man_item *items, size_t n)
{
    fprintf(out, ".SH %s\n", title);
    put_list(out, items, n);
}

static void put_options(FILE *out)
{
    fputs(".SH OPTIONS\n", out);
    for (const struct option_row *row = options_table; row->name != NULL; row++) {
        fputs(".TP\n\\fB", out);
        if (row->letter != 0)
            fprintf(out, "\\-%c\\fR, \\fB", row->letter);
        fputs("\\-\\-", out);
        put_prose(out, row->name);
        fputs("\\fR", out);
        if (row->argument != NULL)
            fprintf(out, "=\\fI%s\\fR", row->argument);
        fputc('\n', out);
        put_prose(out, row->help);
        print_default(out, row);
        fputs(".\n", out);
    }
}

static void put_settings(FILE *out)
{
    char expected[256], def[U64_DIGITS + 1];

    fputs(".SH SETTINGS\n", out);
    put_paragraph(out,
                  "-Z takes KEY=VALUE, several with commas between them. Sizes are in bytes or have one of the units "
                  "k, m, g (1024 and its powers) behind them; times are in ms, or have ms or s behind them. Each key "
                  "is shown with its default.");
    put_paragraph(
        out, "KEY=VALUE is for all pools; LPORT.KEY=VALUE is for the pool of this LPORT alone, and goes before what "
             "all have, wherever it stands. LPORT is the port of a pool as -z or -p has it, 0 for -p -1. All keys "
             "but pace_us and pace_min may have one: these are for workers, which serve all pools.");
    for (const struct setting *row = settings_table; row->name != NULL; row++) {
        fputs(".TP\n\\fB", out);
        put_prose(out, row->name);
        fputs("\\fR=", out);
        put_prose(out, setting_default(row, def, sizeof(def)));
        if (row->alias != NULL)
            fprintf(out, " (or \\fB%s\\fR)", row->alias);
        fputc('\n', out);
        put_prose(out, row->help);
        fputs(". Values: ", out);
        put_prose(out, setting_expected(row, expected, sizeof(expected)));
        fputs(".\n", out);
    }
}

static void put_protocols(FILE *out)
{
    fputs(".SH PROTOCOLS\n", out);
    put_paragraph(
        out, "What a client speaks is found from its first byte (-B), and a server is asked in downstream_protocol. "
             "Where both are the same, commands and replies pass as they are. With auto they are, if the server "
             "knows what the client speaks: it is asked that once a connection. The cache inside has all three. "
             "Else this is lost:");
    put_list(out, man_protocols, ARRAY_LEN(man_protocols));
    put_paragraph(out, "The file protocols, which is installed with moxi's documentation, says so command by command.");
}

static void put_description(FILE *out)
{
    fputs(".SH NAME\nmoxi \\- a proxy that makes many memcacheds one, and a memcached\n"
          ".SH SYNOPSIS\n.B moxi\n[\\fB\\-z\\fR \\fIPOOLS\\fR] [\\fB\\-Z\\fR \\fISETTINGS\\fR] [\\fIOPTION\\fR...]\n"
          ".SH DESCRIPTION\n",
          out);
    put_paragraph(out,
                  "moxi stands before one or more pools of memcached servers and is one memcached to the clients of "
                  "each pool, who speak the text protocol with its meta commands, or the binary one. It chooses the "
                  "server of a key as libmemcached does, sends the requests of many clients over few connections, and "
                  "splits and merges what concerns several servers.");
    put_paragraph(out,
                  "A pool is LPORT=SERVER,SERVER,...: the TCP port for its clients, and its servers. Several pools "
                  "have a ';' between them. A server is a host name or an IPv4 address, an IPv6 address in brackets, "
                  "or the path of a unix socket (/path or unix:/path). A port may follow a host (:11211 when it does "
                  "not), and a weight the port (host:11211:2); the weight of a unix socket follows its path "
                  "(/path:2). With distribution=modula the order of the servers decides as well.");
    put_paragraph(out,
                  "The server \"local\" is the cache inside moxi (\"local::2\" with a weight), with the memory of -m. "
                  "Without -z, moxi is a memcached: the pool PORT=local, PORT being that of -p, or 11211.");
}

static void put_counters(FILE *out)
{
    static const struct man_item counters[] = {
#define X(kind, name, help) {#name, help},
        COUNTERS(X)
#undef X
    };

    put_items(out, "STATISTICS", counters, ARRAY_LEN(counters));
    put_paragraph(out, "These are lines of \"stats proxy\", of each pool as PORT:POOL:pstd_stats:NAME. What \"stats\" "
                       "alone gives is the servers' own, added up; that of the cache inside has memcached's names.");
}

static void print_man(FILE *out)
{
    fprintf(out, ".TH MOXI 1 \"\" \"moxi %s\" \"User Commands\"\n", moxi_version());
    put_description(out);
    put_options(out);
    put_settings(out);
    put_protocols(out);
    put_items(out, "FILES", man_files, ARRAY_LEN(man_files));
    put_items(out, "ENVIRONMENT", environment, ARRAY_LEN(environment));
    put_items(out, "SIGNALS", man_signals, ARRAY_LEN(man_signals));
    fputs(".SH EXIT STATUS\n", out);
    put_paragraph(out,
                  "0 after a signal that ends it, and after -h, -V, -i and --man; 64 when the command line, a file or "
                  "a setting is wrong; another number for every other failure. The reason is one line on stderr.");
    put_counters(out);
    put_items(out, "ERRORS", man_errors, ARRAY_LEN(man_errors));
    put_paragraph(
        out, "These stand in place of a reply. A retrieval has none of the first three: the keys of a server that "
             "cannot be reached, or does not answer, are misses. In the binary protocol the status is 0x86, and the "
             "text has no SERVER_ERROR in front, nor HOST behind it.");
    put_items(out, "EXAMPLES", man_examples, ARRAY_LEN(man_examples));
    fputs(".SH SEE ALSO\n.BR memcached (1),\n.BR memcstat (1),\n.BR libmemcached (3)\n", out);
}

bool options_print(enum options_status status, FILE *out)
{
    switch (status) {
    case OPTIONS_HELP:
        print_help(out);
        break;
    case OPTIONS_MAN:
        print_man(out);
        break;
    case OPTIONS_VERSION:
        fprintf(out, "moxi %s\n", moxi_version());
        break;
    case OPTIONS_LICENSE:
        print_license(out);
        break;
    case OPTIONS_SERVE:
    case OPTIONS_BAD:
        break; /* they have nothing to print */
    }
    return fflush(out) == 0 && ferror(out) == 0;
}
