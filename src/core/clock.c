/* The process' clock: see clock.h. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "clock.h"

#include <stdatomic.h>
#include <time.h>

static _Atomic int64_t offset_ns;

static int64_t read_ns(clockid_t id) {
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

void clock_start(void) {
    if (atomic_load_explicit(&offset_ns, memory_order_relaxed) == 0) {
        int64_t expected = 0;
        int64_t measured = read_ns(CLOCK_REALTIME) - read_ns(CLOCK_MONOTONIC);
        atomic_compare_exchange_strong(&offset_ns, &expected, measured != 0 ? measured : 1);
    }
}

int64_t clock_now(void) {
    return read_ns(CLOCK_MONOTONIC) + atomic_load_explicit(&offset_ns, memory_order_relaxed);
}

int64_t clock_to_monotonic(int64_t instant_ns) {
    return instant_ns - atomic_load_explicit(&offset_ns, memory_order_relaxed);
}
