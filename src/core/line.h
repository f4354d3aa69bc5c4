/* Who waits for a key, first come first served.
 *
 * A line never hands out anything itself: it asks its owner to serve the waiter at the head. Whoever comes by with the
 * owner's lock serves all that are due, on their behalf, and wakes them; the head keeps time. So a slot is taken at the
 * exact instant by whoever is awake, nobody overtakes, and one wake-up can serve many.
 *
 * All functions need the owner's lock. */
#ifndef HEADWAY_LINE_H
#define HEADWAY_LINE_H

#include <stdbool.h>
#include <stdint.h>

struct line;

/* In memory that stays as long as the waiter is in line, even if its thread is ended in its sleep: not on that thread's stack. */
struct waiter {
    struct waiter *next, *prev;
    struct line *line; /* NULL once it has left */
    int64_t due;       /* when it will be served, as far as is known: an instant */
    bool served;
    void (*wake)(struct waiter *self); /* must neither block nor take a lock */
    /* Who keeps time for it: NULL for a thread of its own, which can be relied on; else an event loop, which may be busy. */
    const void *keeper;
};

static inline void waiter_init(struct waiter *w, void (*wake)(struct waiter *self), const void *keeper) {
    w->wake = wake;
    w->keeper = keeper;
}

struct line {
    struct waiter *head, *tail;
    struct waiter *deputy; /* the first with another keeper than the head's, where that one may be busy */
    int64_t length;
    uint32_t generation; /* of the process, for owners that forks cannot find */
    bool threads_ended;  /* see line_threads_ended */
    /* Serves `w` now: 0; else the nanoseconds until that may be possible. */
    int64_t (*serve)(struct line *self, struct waiter *w, int64_t now);
};

void line_join(struct line *l, struct waiter *w);

/* So many are served in one go; then the head is woken to see to the rest, and other callers get a word in. */
#define LINE_BATCH 512

/* Serves those that are due at `now`; the new head learns when it is due and is woken to keep time. */
void line_serve(struct line *l, int64_t now);

/* The same without an end of the batch, for a clock that has jumped to `now`: each is served at the instant at which it was due. */
void line_serve_through(struct line *l, int64_t now);

/* Takes `w` out, served or not; the next one moves up. */
void line_leave(struct waiter *w, int64_t now);

/* In a fork's child: those in line were other threads' or another loop's, and are gone. Their `line` is NULL from here on. */
void line_forget(struct line *l);

/* When the interpreter ends: every thread but the caller's has ended or will never run again. Those who wait in such threads leave the
 * line, the first time that this is called. */
void line_threads_ended(struct line *l);

/* How long after the head should have looked its deputy does. */
#define DEPUTY_GRACE_NS INT64_C(2000000)

/* Until when `w` may sleep: the head until it is due, its deputy a little longer, the others until they are woken. */
int64_t line_sleep_until(const struct waiter *w, int64_t now);

#endif
