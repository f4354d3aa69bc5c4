/* Quota arithmetic: bounds, and the derived numbers that make a step cheap. */
#include "quota.h"

#include <inttypes.h>
#include <stdio.h>

/* All units but the last. Of more than a million floats cannot tell the last one: there the last millionth counts as at the limit. */
static double all_but_the_last(int64_t units) {
    double all = (double)units;
    return units < 1 ? 0 : units <= 1000000 ? all - 1 : all - all / 500000;
}

bool quota_init(struct quota *q, int64_t limit, int64_t period_ns, int64_t burst, struct quota_error *error) {
    if (limit < 1 || limit > QUOTA_LIMIT_MAX) {
        snprintf(error->text, sizeof error->text,
                 "Invalid limit: %" PRId64 ", must be an integer between 1 and %" PRId64 ".", limit, QUOTA_LIMIT_MAX);
        return false;
    }
    if (period_ns < QUOTA_PERIOD_MIN || period_ns > QUOTA_PERIOD_MAX) {
        snprintf(error->text, sizeof error->text,
                 "Invalid period: %.9g seconds, must be between 1 microsecond and 3650 days.", (double)period_ns / 1e9);
        return false;
    }
    if (burst < 0 || burst > QUOTA_BURST_MAX) {
        snprintf(error->text, sizeof error->text,
                 "Invalid burst: %" PRId64 ", must be an integer between 0 and %" PRId64 ".", burst, QUOTA_BURST_MAX);
        return false;
    }
    *q = (struct quota){.limit = limit, .period_ns = period_ns, .burst = burst};
    q->interval_ns = (period_ns + limit - 1) / limit;
    q->interval_excess = q->interval_ns * limit - period_ns;
    wide units = (wide)burst * period_ns;
    wide span = wide_div_up(units, limit);
    q->share_span = (float)(all_but_the_last(burst) * (double)period_ns / (double)limit);
    q->share_limit = (float)all_but_the_last(limit);
    q->wide = span >= ((wide)1 << 61);
    if (!q->wide) {
        q->span_ns = (int64_t)span;
        q->span_excess = (int64_t)(span * limit - units);
    }
    return true;
}
