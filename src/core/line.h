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

struct waiter {
    struct waiter *next, *prev;
    struct line *line; /* NULL once it has left */
    int64_t due;       /* when it will be served, as far as is known: an instant */
    bool served;
    void (*wake)(struct waiter *self); /* must neither block nor take a lock */
};

struct line {
    struct waiter *head, *tail;
    int64_t length;
    uint32_t generation; /* of the process, for owners that forks cannot find */
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

/* Until when `w` may sleep: until it is due. One who is due already and not the head sleeps until woken: the head keeps time. That the
 * others have an eye on the clock too counts when the head cannot look, a task of an event loop that is busy, say. */
int64_t line_sleep_until(const struct waiter *w, int64_t now);

#endif
