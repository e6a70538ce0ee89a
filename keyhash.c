/* SPDX-License-Identifier: BSD-3-Clause */
/* keyhash - the secrets of a hash of keys: see keyhash.h. */
#include "keyhash.h"

#include <sys/random.h>

void keyhash_setup(struct keyhash *h, uint64_t seed)
{
    if (seed == 0 && getrandom(h->secrets, sizeof(h->secrets), GRND_NONBLOCK) == sizeof(h->secrets))
        return;
    if (seed == 0)
        seed = util_now_us() ^ (uint64_t)(uintptr_t)h;
    /* By splitmix64. */
    for (unsigned i = 0; i < ARRAY_LEN(h->secrets); i++) {
        uint64_t z = seed += UINT64_C(0x9e3779b97f4a7c15);

        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        h->secrets[i] = z ^ (z >> 31);
    }
}
