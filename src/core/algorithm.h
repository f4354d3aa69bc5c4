/* The table of algorithms. Each is a handful of pure functions on a state of three words: no clock, no lock, no memory.
 *
 * One fact holds for all: word 0 of a state is the instant from which the state is as good as none (so a table can drop it),
 * and the state that is all zeros is a key that was never seen. */
#ifndef HEADWAY_ALGORITHM_H
#define HEADWAY_ALGORITHM_H

#include <stdbool.h>
#include <stdint.h>

#include "quota.h"

#define WAIT_NEVER INT64_MAX /* this cost can never fit */

enum algorithm_id {
    FIXED_WINDOW,
    SLIDING_WINDOW,
    TOKEN_BUCKET,
    LEAKING_BUCKET,
    GCRA,
    ALGORITHM_COUNT,
};

struct state {
    int64_t word[3];
};

/* What the caller is told, in the document's terms. */
struct decision {
    int64_t limit;
    int64_t remaining;
    int64_t reset_after_ns;
    int64_t retry_after_ns; /* 0 when admitted, WAIT_NEVER when no waiting helps */
};

extern const char *const algorithm_names[ALGORITHM_COUNT];

/* Admits `cost` at `now` and changes `s`, or denies it and leaves `s` as it is. A cost of 0 is admitted and changes nothing.
 * 0 <= now < CLOCK_END, cost >= 0. */
bool algorithm_step(enum algorithm_id id, struct state *s, const struct quota *q, int64_t cost, int64_t now);

/* Can a step have written this state? The arithmetic relies on it, so ask where bytes come from elsewhere. */
bool algorithm_may_have(enum algorithm_id id, const struct state *s);

/* Nanoseconds until `cost` fits with no other traffic: 0 when it fits now, WAIT_NEVER when it cannot. */
int64_t algorithm_wait(enum algorithm_id id, const struct state *s, const struct quota *q, int64_t cost, int64_t now);

/* Gives back a cost that was admitted and not used. */
void algorithm_refund(enum algorithm_id id, struct state *s, const struct quota *q, int64_t cost, int64_t now);

/* Puts the state into words. `denied_cost` is 0 when the call was admitted. */
void algorithm_report(enum algorithm_id id, const struct state *s, const struct quota *q, int64_t denied_cost,
                      int64_t now, struct decision *out);

/* Which of two rules' reports speaks for both: denied, the one with the longer wait; admitted, the one with fewer remaining, then
 * the longer reset. */
bool decision_is_tighter(const struct decision *a, const struct decision *b, bool denied);

/* gcra and its kin, whose state is an arrival time; the others count in windows. */
static inline bool algorithm_is_bucket(enum algorithm_id id) {
    return id != FIXED_WINDOW && id != SLIDING_WINDOW;
}

/* How much of its quota a key has used, as a table needs it to choose which key makes room. The share is at least 0 and counts all
 * of the quota but the last unit as 1: a key is at its limit, so that a cost of 1 does not fit, when its share is over
 * SHARE_AT_LIMIT. (A quota of 1 a day is at its limit from its one call until the day is over, so a share of the whole quota would
 * not tell.) `scale` is what a table entry remembers of the quota. A sliding window's earlier count is taken in full, since
 * its period is not remembered: such a key counts as at its limit for somewhat longer than it is. */
#define SHARE_AT_LIMIT 1.0000005F /* the rounding of three floats is below this, one call of a million is above */

static inline float algorithm_scale(enum algorithm_id id, const struct quota *q) {
    return algorithm_is_bucket(id) ? q->share_span : q->share_limit;
}
float algorithm_share(enum algorithm_id id, const struct state *s, float scale, int64_t now);

/* The algorithms' own functions, for algorithm.c alone. */
bool gcra_step(struct state *s, const struct quota *q, int64_t cost, int64_t now);
int64_t gcra_wait(const struct state *s, const struct quota *q, int64_t cost, int64_t now);
void gcra_refund(struct state *s, const struct quota *q, int64_t cost, int64_t now);
void gcra_report(const struct state *s, const struct quota *q, int64_t denied_cost, int64_t now, bool whole_tokens,
                 struct decision *out);
bool fixed_window_step(struct state *s, const struct quota *q, int64_t cost, int64_t now);
int64_t fixed_window_wait(const struct state *s, const struct quota *q, int64_t cost, int64_t now);
void fixed_window_refund(struct state *s, const struct quota *q, int64_t cost, int64_t now);
void fixed_window_report(const struct state *s, const struct quota *q, int64_t denied_cost, int64_t now,
                         struct decision *out);
bool sliding_window_step(struct state *s, const struct quota *q, int64_t cost, int64_t now);
int64_t sliding_window_wait(const struct state *s, const struct quota *q, int64_t cost, int64_t now);
void sliding_window_refund(struct state *s, const struct quota *q, int64_t cost, int64_t now);
void sliding_window_report(const struct state *s, const struct quota *q, int64_t denied_cost, int64_t now,
                           struct decision *out);

#endif
