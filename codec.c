/* SPDX-License-Identifier: BSD-3-Clause */
/* codec - what the protocols have in common: see codec.h. */
#include "codec.h"

static const struct {
    uint32_t bit;
    const char *error;
} lacking[] = {
    {TERM_TTL, NEEDS_META("t")},          {TERM_IDLE, NEEDS_META("l")},        {TERM_FETCHED, NEEDS_META("h")},
    {TERM_SILENT, NEEDS_META("u")},       {TERM_RECACHE, NEEDS_META("R")},     {TERM_VIVIFY, NEEDS_META("N")},
    {TERM_NEW_UNIQUE, NEEDS_META("E")},   {TERM_INVALIDATE, NEEDS_META("I")},  {TERM_REMOVE_VALUE, NEEDS_META("x")},
    {TERM_COMPARE, NEEDS_META("C here")}, {TERM_UNIQUE, NEEDS_META("c here")}, {TERM_TOUCH, NEEDS_META("T here")},
    {TERM_SIZE, NEEDS_META("s here")},
};

const char *codec_lacks_terms(uint32_t bits)
{
    if (bits & TERM_LENIENT)
        bits &= ~(uint32_t)(TERM_UNIQUE | TERM_FLAGS);
    for (size_t i = 0; i < ARRAY_LEN(lacking); i++)
        if (bits & lacking[i].bit)
            return lacking[i].error;
    return NULL;
}
