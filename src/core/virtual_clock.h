/* A clock that stands still until it is told to move: for tests and for replaying the past.
 *
 * Whoever keeps waiters by this clock listens to it and is told when it has moved. */
#ifndef HEADWAY_VIRTUAL_CLOCK_H
#define HEADWAY_VIRTUAL_CLOCK_H

#include <stdatomic.h>
#include <stdint.h>

#include "lock.h"

struct clock_listener {
    struct clock_listener *next, **link; /* NULL link: not listening */
    void (*moved)(struct clock_listener *self, int64_t now);
};

struct virtual_clock {
    _Atomic int64_t now;
    struct lock lock; /* guards the list; taken before any listener's own lock */
    struct clock_listener *listeners;
};

void virtual_clock_init(struct virtual_clock *c, int64_t now);

/* 0 <= now < CLOCK_END; may go back. */
void virtual_clock_set(struct virtual_clock *c, int64_t now);

/* On by `step_ns`, 0 or more, in one step: what several threads advance it by adds up. False, and it stands where it stood: it would
 * pass CLOCK_END. */
bool virtual_clock_advance(struct virtual_clock *c, int64_t step_ns);

void virtual_clock_listen(struct virtual_clock *c, struct clock_listener *l);
void virtual_clock_ignore(struct virtual_clock *c, struct clock_listener *l);

#endif
