/* A counting semaphore whose permits are leases.
 *
 * A permit is held by somebody, the holder, for a term. A lease that has run out is not lost by that: only when somebody needs a
 * permit and there is none is the holder of a lease that has run out looked at. One that lives gets another term; one that is gone
 * frees its permit. So a holder that lives keeps its permit however long it runs, one that died keeps it for a term at most, and nobody
 * has to renew anything in the meantime.
 *
 *   semaphore_wait_begin   takes a permit at once, or joins the line
 *   semaphore_lapsed       whose life decides now: the caller looks, without locks, and says so to
 *   semaphore_judge
 *   semaphore_wait_check   after every wake-up, until it is decided
 *   semaphore_wait_cancel  leaves; a permit that was just handed over is given on
 *   semaphore_release      gives a permit back: the head of the line has it at once
 *
 * A lease has a number of its own, by which it is given back: whose permit it is decides nothing but its life. Holders are the
 * caller's pointers. With a lease a reference to its holder passes to the semaphore, and back when the lease ends. */
#ifndef HEADWAY_SEMAPHORE_H
#define HEADWAY_SEMAPHORE_H

#include "fork.h"
#include "line.h"
#include "lock.h"
#include "virtual_clock.h"

struct lease {
    struct lease *chain;       /* the next under the same hash */
    struct lease *next, *prev; /* by expiry, the earliest first */
    void *holder;
    uint64_t id;
    int64_t expires; /* an instant */
    int64_t term;    /* ns */
};

struct semaphore {
    struct lock lock;
    int64_t capacity, held;
    struct lease *first, *last, *spare;
    struct lease **buckets; /* by id */
    uint64_t next_id;
    uint32_t bucket_count; /* a power of two */
    struct line line;
    struct virtual_clock *clock; /* NULL: real time; borrowed */
    struct clock_listener listener;
    struct fork_owner fork;
    void (*keep)(void *holder); /* takes another reference; must not take a lock */
};

enum semaphore_end { SEMAPHORE_HELD, SEMAPHORE_WAITING, SEMAPHORE_REFUSED, SEMAPHORE_NO_MEMORY };

struct semaphore_waiter {
    struct waiter waiter; /* wake is the caller's */
    struct semaphore *semaphore;
    struct lease *lease; /* the one to be; NULL once it is the semaphore's */
    uint64_t id;         /* its number, from the beginning on */
    void *holder;        /* whose reference is the semaphore's once the lease is */
    int64_t deadline;
};

/* capacity >= 1. False: no memory. */
bool semaphore_init(struct semaphore *s, int64_t capacity, struct virtual_clock *clock, void (*keep)(void *holder));

/* Nobody waits any more; `drop` gets the holders of the leases that are left. */
void semaphore_destroy(struct semaphore *s, void (*drop)(void *holder));

/* HELD: the permit and the reference to `holder` have changed hands. WAITING: sleep until *until at most, then
 * semaphore_wait_check. REFUSED: not free, and timeout_ns is 0. term_ns > 0; timeout_ns INT64_MAX for no end. */
enum semaphore_end semaphore_wait_begin(struct semaphore *s, void *holder, int64_t term_ns, int64_t timeout_ns,
                                        struct semaphore_waiter *w, int64_t *until);
enum semaphore_end semaphore_wait_check(struct semaphore_waiter *w, int64_t *until);

/* The threads of all that wait here, but the caller's, have ended or never run again, since the interpreter ends. They leave the line,
 * the first time that this is called. */
void semaphore_threads_ended(struct semaphore *s);

/* Either way the reference to the holder is the caller's again. */
void semaphore_wait_cancel(struct semaphore_waiter *w);

/* Ends a lease: its holder, whose reference is the caller's again, or NULL where the lease has ended before. */
void *semaphore_release(struct semaphore *s, uint64_t id);

/* Whether a lease is there still. */
bool semaphore_has(struct semaphore *s, uint64_t id);

/* Where somebody waits and a lease has run out: its holder, kept, and its number; else NULL. Judge it and ask again. */
void *semaphore_lapsed(struct semaphore *s, uint64_t *id);

/* The verdict on the holder of a lease that has run out. A holder: the lease has ended, and the reference is the caller's. */
void *semaphore_judge(struct semaphore *s, uint64_t id, bool lives);

#endif
