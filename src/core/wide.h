/* 128-bit integers, and the saturating steps back to 64 bits.
 *
 * Every product of a cost, a period and a count fits in 127 bits given the bounds in quota.h: the largest is an
 * instant times a limit, below 2^62 * 2^40. So intermediate results need no overflow check, only the narrowing does. */
#ifndef HEADWAY_WIDE_H
#define HEADWAY_WIDE_H

#include <stdint.h>

__extension__ typedef __int128 wide;
__extension__ typedef unsigned __int128 uwide;

/* The ceiling of a / b, for a >= 0 and b > 0. */
static inline wide wide_div_up(wide a, wide b) {
    return (a + b - 1) / b;
}

/* `a` as 64 bits, or the nearest value that fits. */
static inline int64_t wide_clamp(wide a) {
    if (a > INT64_MAX) {
        return INT64_MAX;
    }
    return a < INT64_MIN ? INT64_MIN : (int64_t)a;
}

#endif
