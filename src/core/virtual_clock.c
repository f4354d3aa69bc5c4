/* The virtual clock: see virtual_clock.h. */
#include "virtual_clock.h"

#include <stddef.h>

#include "clock.h"

void virtual_clock_init(struct virtual_clock *c, int64_t now) {
    atomic_store(&c->now, now);
    lock_init(&c->lock);
    c->listeners = NULL;
}

/* The lock is held. */
static void move_to(struct virtual_clock *c, int64_t now) {
    atomic_store(&c->now, now);
    for (struct clock_listener *l = c->listeners; l != NULL; l = l->next) {
        l->moved(l, now);
    }
}

void virtual_clock_set(struct virtual_clock *c, int64_t now) {
    lock_acquire(&c->lock);
    move_to(c, now);
    lock_release(&c->lock);
}

bool virtual_clock_advance(struct virtual_clock *c, int64_t step_ns) {
    lock_acquire(&c->lock);
    int64_t now = atomic_load(&c->now);
    bool fits = step_ns < CLOCK_END - now;
    if (fits) {
        move_to(c, now + step_ns);
    }
    lock_release(&c->lock);
    return fits;
}

void virtual_clock_listen(struct virtual_clock *c, struct clock_listener *l) {
    lock_acquire(&c->lock);
    l->next = c->listeners;
    l->link = &c->listeners;
    if (l->next != NULL) {
        l->next->link = &l->next;
    }
    c->listeners = l;
    lock_release(&c->lock);
}

void virtual_clock_ignore(struct virtual_clock *c, struct clock_listener *l) {
    lock_acquire(&c->lock);
    if (l->link != NULL) {
        *l->link = l->next;
        if (l->next != NULL) {
            l->next->link = l->link;
        }
        l->link = NULL;
    }
    lock_release(&c->lock);
}
