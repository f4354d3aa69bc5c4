/* Time, as one number: nanoseconds since the Unix epoch that never step.
 *
 * The reading is CLOCK_MONOTONIC plus an offset that is taken from the wall clock once, when the process starts. Windows
 * can therefore be aligned to the epoch, and a wall clock that is set later changes nothing.
 *
 * On Linux CLOCK_MONOTONIC stands while the machine is suspended, so a quota refills late by the time of the suspension: too little is
 * admitted, never too much. CLOCK_BOOTTIME would go on, but nothing that waits goes by it: futexes, condition variables, event loops
 * and poll() count on CLOCK_MONOTONIC. A waiter would sleep on past its instant by the time of the suspension, and every deadline of
 * a connection would have passed on resuming. Servers are not suspended. */
#ifndef HEADWAY_CLOCK_H
#define HEADWAY_CLOCK_H

#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#define NS_PER_US INT64_C(1000)
#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)

/* Instants lie in [0, CLOCK_END): until the year 2116, with room for every sum that the algorithms make. */
#define CLOCK_END (INT64_C(1) << 62)

/* Takes the offset. Call once before the first clock_now; further calls change nothing. */
void clock_start(void);

/* Wall clock less monotonic clock; clock_start's. */
extern _Atomic int64_t clock_offset_ns;

/* The current instant in nanoseconds since the epoch. Cannot fail. */
static inline int64_t clock_now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec + atomic_load_explicit(&clock_offset_ns, memory_order_relaxed);
}

/* The same instant on CLOCK_MONOTONIC, for handing a deadline to the kernel. */
int64_t clock_to_monotonic(int64_t instant_ns);

#endif
