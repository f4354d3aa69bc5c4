/* The sliding window counter: two aligned windows, the earlier one weighted by the share of it that a window ending now still
 * covers. `previous * share + current + cost <= limit`, compared as integers: both sides are multiplied by the period.
 *
 *   word 0   the end of the window after the counted one (from then on nothing of the state is left)
 *   word 1   what was admitted in the counted window
 *   word 2   what was admitted in the window before it */
#include "algorithm.h"

struct windows {
    int64_t end; /* of the window that holds now */
    int64_t current, previous;
};

static struct windows windows_at(const struct state *s, const struct quota *q, int64_t now) {
    int64_t end = s->word[0] - q->period_ns;
    if (now < end && now >= end - q->period_ns) {
        return (struct windows){end, s->word[1], s->word[2]};
    }
    if (now >= end && now < s->word[0]) {
        return (struct windows){s->word[0], 0, s->word[1]};
    }
    return (struct windows){(now / q->period_ns + 1) * q->period_ns, 0, 0};
}

/* limit - weighted count - cost, times the period: negative when `cost` does not fit. */
static wide room(const struct windows *w, const struct quota *q, int64_t cost, int64_t now) {
    wide left = (wide)q->limit - w->current - cost;
    return left * q->period_ns - (wide)w->previous * (w->end - now);
}

bool sliding_window_step(struct state *s, const struct quota *q, int64_t cost, int64_t now) {
    if (cost == 0) {
        return true;
    }
    struct windows w = windows_at(s, q, now);
    if (room(&w, q, cost, now) < 0) {
        return false;
    }
    s->word[0] = w.end + q->period_ns;
    s->word[1] = w.current + cost;
    s->word[2] = w.previous;
    return true;
}

/* Nanoseconds into a window until `free` fits beside the fading `previous` count; free < previous. */
static int64_t fade(int64_t previous, int64_t free, const struct quota *q) {
    return (int64_t)wide_div_up(((wide)previous - free) * q->period_ns, previous);
}

int64_t sliding_window_wait(const struct state *s, const struct quota *q, int64_t cost, int64_t now) {
    if (cost == 0) {
        return 0;
    }
    if (cost > q->limit) {
        return WAIT_NEVER;
    }
    struct windows w = windows_at(s, q, now);
    if (room(&w, q, cost, now) >= 0) {
        return 0;
    }
    int64_t start = w.end - q->period_ns;
    int64_t free = q->limit - w.current - cost;
    if (free >= 0) {
        return start + fade(w.previous, free, q) - now; /* it fits before this window ends */
    }
    free = q->limit - cost;
    int64_t into = w.current > free ? fade(w.current, free, q) : 0;
    return w.end + into - now;
}

void sliding_window_refund(struct state *s, const struct quota *q, int64_t cost, int64_t now) {
    struct windows w = windows_at(s, q, now);
    if (w.end + q->period_ns == s->word[0]) {
        s->word[1] = s->word[1] > cost ? s->word[1] - cost : 0;
    }
}

void sliding_window_report(const struct state *s, const struct quota *q, int64_t denied_cost, int64_t now,
                           struct decision *out) {
    struct windows w = windows_at(s, q, now);
    wide left = room(&w, q, 0, now);
    out->limit = q->limit;
    out->remaining = left > 0 ? (int64_t)(left / q->period_ns) : 0;
    out->reset_after_ns = w.current > 0 ? w.end + q->period_ns - now : w.previous > 0 ? w.end - now : 0;
    out->retry_after_ns = denied_cost > 0 ? sliding_window_wait(s, q, denied_cost, now) : 0;
}
