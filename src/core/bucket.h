/* One token bucket with tokens that may be fractions, on its own: no key, no table.
 *
 * It is the same arithmetic as gcra.c, on a clock of 2^-32 nanoseconds, because a rate that is a float need not divide a second.
 * Each cost is rounded to that grain once and the arrival time is kept, so 10^9 calls drift by a tenth of a nanosecond at most.
 *
 * The object is small because nearly all buckets have nobody waiting: the line is made when the first waiter comes, and the
 * locks are shared between buckets by address. */
#ifndef HEADWAY_BUCKET_H
#define HEADWAY_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

#include "line.h"
#include "virtual_clock.h"

struct bucket_line;

struct bucket {
    uint64_t arrival[2];         /* theoretical arrival time, a 128-bit number of 2^-32 ns; low word first */
    uint64_t span[2];            /* how long the capacity takes to arrive, likewise */
    double capacity;             /* tokens; finite and positive */
    double rate;                 /* tokens a second; finite and positive */
    struct virtual_clock *clock; /* NULL: real time; borrowed */
    struct bucket_line *line;
};

struct bucket_waiter {
    struct waiter waiter; /* wake is the caller's */
    struct bucket *bucket;
    double tokens;
    bool taking;       /* its tokens are off the arrival time; served once they have arrived */
    uint64_t taken[2]; /* what is off, in 2^-32 ns, low word first */
};

/* Installs the locks' fork handler, once. */
void bucket_start(void);

/* False: no memory (only with a virtual clock, which needs its line at once). */
bool bucket_init(struct bucket *b, double capacity, double rate, struct virtual_clock *clock);
void bucket_destroy(struct bucket *b); /* nobody waits any more */

/* Takes `tokens` (positive, finite) if they are there and nobody is in line. */
bool bucket_take(struct bucket *b, double tokens);

/* What is in the bucket now. */
double bucket_tokens(struct bucket *b);

/* As the store's: false and *until while in line; true when served. No memory: -1. `w` must stay where it is as long as it is in line,
 * whatever becomes of its thread. More than the capacity is taken off the arrival time when the caller is at the head of the line: it
 * is served when all of it has arrived. In a fork's child a waiter joins the line anew. */
int bucket_wait_begin(struct bucket *b, double tokens, struct bucket_waiter *w, int64_t *until);
bool bucket_wait_check(struct bucket_waiter *w, int64_t *until);
void bucket_wait_cancel(struct bucket_waiter *w);

/* The threads of those in line never run again: they leave the line. */
void bucket_threads_ended(struct bucket *b);

#endif
