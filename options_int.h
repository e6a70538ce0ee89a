/* SPDX-License-Identifier: BSD-3-Clause */
/* options_int - the table of options, which is parsed (options.c) and printed (options_print.c). */
#ifndef OPTIONS_INT_H
#define OPTIONS_INT_H

#include "options.h"

enum option_type {
    OPTION_STRING,   /* const char * */
    OPTION_NUMBER,   /* uint32_t, min to max */
    OPTION_PORT,     /* uint32_t, up to max, or -1: OPTIONS_ANY_PORT */
    OPTION_OCTAL,    /* uint32_t, written in base 8, up to max */
    OPTION_BYTES,    /* uint32_t, min to max, with k or m behind it */
    OPTION_FLAG,     /* bool */
    OPTION_COUNT,    /* uint32_t: how often it was given */
    OPTION_CHAR,     /* char */
    OPTION_BINDING,  /* uint32_t: enum binding, by its name */
    OPTION_EXTENDED, /* one or more suboptions, separated by commas; may be given again */
    OPTION_LISTEN,   /* one or more addresses, separated by commas; may be given again */
    OPTION_STATUS,   /* no field: makes options_parse return def */
};

/* One option. */
struct option_row {
    char letter;          /* 0: a long name only */
    const char *name;     /* the long name */
    const char *argument; /* what follows, or NULL */
    enum option_type type;
    size_t offset; /* of the field in struct options */
    uint32_t def, min, max;
    const char *help; /* a sentence without its full stop; the default of numbers is added to it */
};

/* Ends with a row that has no name. */
extern const struct option_row options_table[];

#endif
