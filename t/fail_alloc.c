/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fail_alloc - makes one allocation fail: a library for LD_PRELOAD, which t/test_memory.py builds and uses.
 *
 * The first SIGUSR2 arms it: the n-th allocation after that fails, n being FAIL_ALLOC_AT, whatever thread makes it; 0:
 * none does. The second disarms it. Lines in the file FAIL_ALLOC_LOG: "failed" when that happened, and at exit "live
 * N", the blocks of memory that were allocated and not freed.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static atomic_long left; /* allocations until the one that fails; 0: none will */
static atomic_long live;
static long fail_at;
static int log_fd = -1;

static void report(const char *line)
{
    size_t n = strlen(line);

    if (write(log_fd, line, n) != (ssize_t)n)
        _exit(70);
}

static void arm(int number)
{
    (void)number;
    atomic_store(&left, fail_at);
    fail_at = 0;
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAIL_ALLOC_LOG");
    const char *at = getenv("FAIL_ALLOC_AT");

    log_fd = path != NULL ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (log_fd < 0 || at == NULL)
        _exit(70);
    fail_at = atol(at);
    signal(SIGUSR2, arm);
}

__attribute__((destructor)) static void end(void)
{
    char line[40];

    snprintf(line, sizeof(line), "live %ld\n", atomic_load(&live));
    report(line);
}

static int fails(void)
{
    if (atomic_load_explicit(&left, memory_order_relaxed) <= 0 || atomic_fetch_sub(&left, 1) != 1)
        return 0;
    report("failed\n");
    errno = ENOMEM;
    return 1;
}

static void *count(void *p)
{
    if (p != NULL)
        atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
    return p;
}

/* glibc's own names for the functions that are replaced here. */
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t alignment, size_t n);
void __libc_free(void *p);

void *malloc(size_t n)
{
    return fails() ? NULL : count(__libc_malloc(n));
}

void *calloc(size_t n, size_t size)
{
    return fails() ? NULL : count(__libc_calloc(n, size));
}

void *realloc(void *p, size_t n)
{
    if (fails())
        return NULL;
    return p == NULL ? count(__libc_realloc(p, n)) : __libc_realloc(p, n);
}

void *aligned_alloc(size_t alignment, size_t n)
{
    return fails() ? NULL : count(__libc_memalign(alignment, n));
}

int posix_memalign(void **p, size_t alignment, size_t n)
{
    *p = aligned_alloc(alignment, n);
    return *p != NULL ? 0 : ENOMEM;
}

void free(void *p)
{
    if (p != NULL)
        atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
    __libc_free(p);
}

void *mmap(void *address, size_t n, int protection, int flags, int fd, off_t offset)
{
    static void *(*real)(void *, size_t, int, int, int, off_t);

    if (fails())
        return MAP_FAILED;
    if (real == NULL)
        real = (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
    return real(address, n, protection, flags, fd, offset);
}
