/* A quota: so many calls a period, with a burst; and the language that writes one down.
 *
 * The emission interval T = period / limit is rational. It is kept as whole nanoseconds, rounded up, and what that is too much, in
 * units of 1/limit ns; so nothing is rounded: 3/s admits three thousand million calls in a thousand million seconds, not one more or less. */
#ifndef HEADWAY_QUOTA_H
#define HEADWAY_QUOTA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wide.h"

#define QUOTA_LIMIT_MAX INT64_C(1000000000000)
#define QUOTA_BURST_MAX INT64_C(1000000000000)
#define QUOTA_PERIOD_MIN INT64_C(1000)
#define QUOTA_PERIOD_MAX (INT64_C(3650) * 86400 * INT64_C(1000000000))
#define QUOTA_RULES_MAX 16

struct quota {
    int64_t limit;     /* calls a period */
    int64_t period_ns; /* a whole number of microseconds */
    int64_t burst;     /* what a bucket holds; window algorithms do not read it */
    /* Derived by quota_init. */
    int64_t interval_ns;     /* T = interval_ns - interval_excess / limit */
    int64_t interval_excess; /* 0 <= interval_excess < limit */
    int64_t span_ns;         /* burst * T = span_ns - span_excess / limit, when not wide */
    int64_t span_excess;
    float share_span;  /* (burst - 1) * T in nanoseconds, and */
    float share_limit; /* limit - 1: near enough to compare keys by, see algorithm_share */
    bool wide;         /* burst * T is longer than 2^61 ns (73 years): the 64-bit path is closed */
};

/* What a text or a number did wrong: a sentence for the user. */
struct quota_error {
    char text[400];
};

/* Fills `q`. False, and a sentence in `error`, when a number is out of bounds. */
bool quota_init(struct quota *q, int64_t limit, int64_t period_ns, int64_t burst, struct quota_error *error);

/* Reads "100/s burst 200; 1000/h" into at most QUOTA_RULES_MAX quotas. The number of rules, or 0 and a sentence that
 * names the token. The text need not end in NUL; it may hold any bytes. */
int quota_parse(const char *text, size_t length, struct quota rules[QUOTA_RULES_MAX], struct quota_error *error);

/* cost * T, split likewise. 0 <= cost <= burst of a quota that is not wide. */
static inline void quota_cost_span(const struct quota *q, int64_t cost, int64_t *ns, int64_t *excess) {
    if (cost == 1) {
        *ns = q->interval_ns;
        *excess = q->interval_excess;
        return;
    }
    wide units = (wide)cost * q->period_ns;
    *ns = (int64_t)wide_div_up(units, q->limit);
    *excess = (int64_t)((wide)*ns * q->limit - units);
}

static inline bool quota_equal(const struct quota *a, const struct quota *b) {
    return a->limit == b->limit && a->period_ns == b->period_ns && a->burst == b->burst;
}

#endif
