/* SPDX-License-Identifier: BSD-3-Clause */
/* guard - see guard.h. */
#include "guard.h"

#include <stdlib.h>
#include <string.h>

struct guard *guard_create(void)
{
    struct guard *g = aligned_alloc(_Alignof(struct guard), sizeof(*g));

    /* All zeros: nothing is being written. */
    if (g == NULL)
        return NULL;
    memset(g, 0, sizeof(*g));
    keyhash_setup(&g->hash, 0);
    return g;
}

void guard_destroy(struct guard *g)
{
    free(g);
}
