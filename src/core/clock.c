/* The process' clock: see clock.h. */
#include "clock.h"

_Atomic int64_t clock_offset_ns;

static int64_t read_ns(clockid_t id) {
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

void clock_start(void) {
    if (atomic_load_explicit(&clock_offset_ns, memory_order_relaxed) == 0) {
        int64_t expected = 0;
        int64_t measured = read_ns(CLOCK_REALTIME) - read_ns(CLOCK_MONOTONIC);
        atomic_compare_exchange_strong(&clock_offset_ns, &expected, measured != 0 ? measured : 1);
    }
}

int64_t clock_to_monotonic(int64_t instant_ns) {
    return instant_ns - atomic_load_explicit(&clock_offset_ns, memory_order_relaxed);
}
