/* Dispatch by algorithm. A switch rather than a table of pointers: the branch is predicted, the call is direct. */
#include "algorithm.h"

#include <math.h>

#include "clock.h"

const char *const algorithm_names[ALGORITHM_COUNT] = {
    [FIXED_WINDOW] = "fixed_window",
    [SLIDING_WINDOW] = "sliding_window",
    [TOKEN_BUCKET] = "token_bucket",
    [LEAKING_BUCKET] = "leaking_bucket",
    [GCRA] = "gcra",
};

bool algorithm_step(enum algorithm_id id, struct state *s, const struct quota *q, int64_t cost, int64_t now) {
    switch (id) {
    case FIXED_WINDOW:
        return fixed_window_step(s, q, cost, now);
    case SLIDING_WINDOW:
        return sliding_window_step(s, q, cost, now);
    default:
        return gcra_step(s, q, cost, now);
    }
}

bool algorithm_may_have(enum algorithm_id id, const struct state *s) {
    const int64_t *w = s->word;
    if (w[0] < 0) {
        return false;
    }
    if (!algorithm_is_bucket(id)) {
        return w[0] <= CLOCK_END + 2 * QUOTA_PERIOD_MAX && w[1] >= 0 && w[1] <= QUOTA_LIMIT_MAX && w[2] >= 0 &&
               w[2] <= QUOTA_LIMIT_MAX;
    }
    if (w[0] == INT64_MAX) {
        return w[2] >= 0 && w[2] < (INT64_C(1) << 46);
    }
    return w[1] >= 0 && w[1] < QUOTA_LIMIT_MAX && w[2] == 0;
}

int64_t algorithm_wait(enum algorithm_id id, const struct state *s, const struct quota *q, int64_t cost, int64_t now) {
    switch (id) {
    case FIXED_WINDOW:
        return fixed_window_wait(s, q, cost, now);
    case SLIDING_WINDOW:
        return sliding_window_wait(s, q, cost, now);
    default:
        return gcra_wait(s, q, cost, now);
    }
}

void algorithm_refund(enum algorithm_id id, struct state *s, const struct quota *q, int64_t cost, int64_t now) {
    switch (id) {
    case FIXED_WINDOW:
        fixed_window_refund(s, q, cost, now);
        return;
    case SLIDING_WINDOW:
        sliding_window_refund(s, q, cost, now);
        return;
    default:
        gcra_refund(s, q, cost, now);
        return;
    }
}

void algorithm_report(enum algorithm_id id, const struct state *s, const struct quota *q, int64_t denied_cost,
                      int64_t now, struct decision *out) {
    switch (id) {
    case FIXED_WINDOW:
        fixed_window_report(s, q, denied_cost, now, out);
        return;
    case SLIDING_WINDOW:
        sliding_window_report(s, q, denied_cost, now, out);
        return;
    default:
        gcra_report(s, q, denied_cost, now, id != GCRA, out);
        return;
    }
}

float algorithm_share(enum algorithm_id id, const struct state *s, float scale, int64_t now) {
    if (s->word[0] <= now) {
        return 0;
    }
    float used;
    if (id == FIXED_WINDOW) {
        used = (float)s->word[1];
    } else if (id == SLIDING_WINDOW) {
        used = (float)s->word[1] + (float)s->word[2];
    } else if (s->word[0] == INT64_MAX) {
        return INFINITY; /* a debt of centuries, see gcra.c */
    } else {
        used = (float)(s->word[0] - now);
    }
    if (used <= 0) {
        return 0;
    }
    return scale > 0 ? used / scale : INFINITY;
}

bool decision_is_tighter(const struct decision *a, const struct decision *b, bool denied) {
    if (denied) {
        return a->retry_after_ns > b->retry_after_ns;
    }
    return a->remaining < b->remaining || (a->remaining == b->remaining && a->reset_after_ns > b->reset_after_ns);
}
