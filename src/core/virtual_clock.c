/* The virtual clock: see virtual_clock.h. */
#include "virtual_clock.h"

#include <stddef.h>

void virtual_clock_init(struct virtual_clock *c, int64_t now) {
    atomic_store(&c->now, now);
    lock_init(&c->lock);
    c->listeners = NULL;
}

void virtual_clock_set(struct virtual_clock *c, int64_t now) {
    lock_acquire(&c->lock);
    atomic_store(&c->now, now);
    for (struct clock_listener *l = c->listeners; l != NULL; l = l->next) {
        l->moved(l, now);
    }
    lock_release(&c->lock);
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
