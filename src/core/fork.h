/* What a fork must find in order.
 *
 * Before a fork every registered owner takes its locks, so that no other thread is half-way through a change; afterwards the
 * parent gives them back, and the child makes them new and forgets the waiters, whose threads it does not have. */
#ifndef HEADWAY_FORK_H
#define HEADWAY_FORK_H

struct fork_owner {
    struct fork_owner *next, **link;
    void (*take)(struct fork_owner *self);
    void (*give)(struct fork_owner *self);
    void (*child)(struct fork_owner *self);
};

/* Installs the handlers, once. */
void fork_start(void);

void fork_register(struct fork_owner *o);
void fork_forget(struct fork_owner *o);

#endif
