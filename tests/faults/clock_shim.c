/* For LD_PRELOAD: the wall clock of a process is off by as many microseconds as the file CLOCK_SHIM says, which a test changes. The
 * monotonic clock stays as it is. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile int64_t *offset_us;
static int (*real)(clockid_t, struct timespec *);

static void begin(void) {
    if (real == NULL) {
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
        const char *path = getenv("CLOCK_SHIM");
        int file = path == NULL ? -1 : open(path, O_RDONLY);
        void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset_us, PROT_READ, MAP_SHARED, file, 0);
        offset_us = page == MAP_FAILED ? NULL : page;
    }
}

static int64_t wall_us(void) {
    struct timespec now;
    begin();
    real(CLOCK_REALTIME, &now);
    return now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000 + (offset_us == NULL ? 0 : *offset_us);
}

int gettimeofday(struct timeval *tv, void *zone) {
    int64_t us = wall_us();
    (void)zone;
    tv->tv_sec = us / 1000000;
    tv->tv_usec = us % 1000000;
    return 0;
}

time_t time(time_t *out) {
    time_t seconds = wall_us() / 1000000;
    if (out != NULL) {
        *out = seconds;
    }
    return seconds;
}

int clock_gettime(clockid_t id, struct timespec *out) {
    begin();
    if (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE) {
        return real(id, out);
    }
    int64_t us = wall_us();
    out->tv_sec = us / 1000000;
    out->tv_nsec = us % 1000000 * 1000;
    return 0;
}
