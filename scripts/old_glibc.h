/* Lets a module that is compiled on a new glibc load on an old one (2.17 and later).
 *
 * A symbol is linked with the version that the C library of the build machine gives it by default: on Debian 12,
 * pthread_once@GLIBC_2.34, though pthread_once has not changed since 2.2.5. The C library keeps the old versions, and this
 * header asks for them. scripts/wheels.py includes it before everything else; nothing else uses it.
 *
 * The list is what `auditwheel show -v` names on Debian 12. A symbol that is missing here makes `make wheels` fail with its name.
 */
#ifndef HEADWAY_OLD_GLIBC_H
#define HEADWAY_OLD_GLIBC_H

#include <features.h>

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define HEADWAY_OLDEST "GLIBC_2.2.5"
#define HEADWAY_STAT_VERSION 1
#elif defined(__aarch64__)
#define HEADWAY_OLDEST "GLIBC_2.17"
#define HEADWAY_STAT_VERSION 0
#else
#error "scripts/old_glibc.h knows x86_64 and aarch64 only"
#endif

/* glibc 2.34 moved this from libpthread to libc, and gave it a new version for that. */
__asm__(".symver pthread_once, pthread_once@" HEADWAY_OLDEST);

/* Before 2.33, stat and fstat were inline calls of these two. */
extern int __xstat(int version, const char *path, struct stat *status);
extern int __fxstat(int version, int descriptor, struct stat *status);
__asm__(".symver __xstat, __xstat@" HEADWAY_OLDEST);
__asm__(".symver __fxstat, __fxstat@" HEADWAY_OLDEST);
#define stat(path, status) __xstat(HEADWAY_STAT_VERSION, path, status)
#define fstat(descriptor, status) __fxstat(HEADWAY_STAT_VERSION, descriptor, status)

/* getentropy came with 2.25; the system call that it makes is older. It fills up to 256 bytes at once or fails. */
static inline int headway_getentropy(void *buffer, size_t size) {
    long got;
    do {
        got = syscall(SYS_getrandom, buffer, size, 0);
    } while (got < 0 && errno == EINTR);
    return got == (long)size ? 0 : -1;
}
#define getentropy(buffer, size) headway_getentropy(buffer, size)

#endif
#endif
