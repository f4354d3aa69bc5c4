/* Fixed windows, aligned to the Unix epoch: at most `limit` in each.
 *
 *   word 0   the end of the window that is counted
 *   word 1   what was admitted in it
 *   word 2   0 */
#include "algorithm.h"
#include "clock.h"

/* The end of the window that `now` lies in. No division while the window is still the state's own. */
static int64_t window_end(const struct state *s, const struct quota *q, int64_t now) {
    if (now < s->word[0] && now >= s->word[0] - q->period_ns) {
        return s->word[0];
    }
    return (now / q->period_ns + 1) * q->period_ns;
}

static int64_t used(const struct state *s, int64_t end) {
    return s->word[0] == end ? s->word[1] : 0;
}

bool fixed_window_step(struct state *s, const struct quota *q, int64_t cost, int64_t now) {
    if (cost == 0) {
        return true;
    }
    int64_t end = window_end(s, q, now), count = used(s, end);
    if (cost > q->limit - count) {
        return false;
    }
    s->word[0] = end;
    s->word[1] = count + cost;
    s->word[2] = 0;
    return true;
}

int64_t fixed_window_wait(const struct state *s, const struct quota *q, int64_t cost, int64_t now) {
    if (cost == 0) {
        return 0;
    }
    if (cost > q->limit) {
        return WAIT_NEVER;
    }
    int64_t end = window_end(s, q, now);
    return cost <= q->limit - used(s, end) ? 0 : end - now;
}

void fixed_window_refund(struct state *s, const struct quota *q, int64_t cost, int64_t now) {
    int64_t end = window_end(s, q, now);
    if (s->word[0] == end) {
        s->word[1] = s->word[1] > cost ? s->word[1] - cost : 0;
    }
}

void fixed_window_report(const struct state *s, const struct quota *q, int64_t denied_cost, int64_t now,
                         struct decision *out) {
    int64_t end = window_end(s, q, now);
    int64_t left = q->limit - used(s, end);
    int64_t rest = end - now;
    if (q->period_ns >= NS_PER_S) {
        rest = (rest + NS_PER_S - 1) / NS_PER_S * NS_PER_S;
    }
    out->limit = q->limit;
    out->remaining = left > 0 ? left : 0;
    out->reset_after_ns = rest;
    out->retry_after_ns = 0;
    if (denied_cost > q->limit) {
        out->retry_after_ns = WAIT_NEVER;
    } else if (denied_cost > left) {
        out->retry_after_ns = rest;
    }
}
