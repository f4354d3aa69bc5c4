/* The generic cell rate algorithm; token and leaking bucket are the same arithmetic and only report differently.
 *
 * The state is one instant, the theoretical arrival time: when a client that spaced its calls by exactly T would make the next
 * one. With burst b and cost c: tat' = max(now, tat) + c*T, admitted iff tat' - b*T <= now (ITU-T I.371; see also CONTRACT.md).
 *
 *   word 0   tat in whole nanoseconds, rounded up: once that is reached, nothing is owed any more
 *   word 1   what the rounding added, in units of 1/limit ns
 *   word 2   0
 *
 * A bucket that takes over 73 years to fill leaves 64 bits. Then word 0 is INT64_MAX and words 1 and 2 hold the tat in units
 * of 1/limit ns as one 128-bit number: as exact, only slower. */
#include "algorithm.h"
#include "clock.h"

/* Below this an arrival time and a cost add up in 64 bits: an instant and the longest span that is not wide. */
#define NARROW_END (CLOCK_END + (INT64_C(1) << 61))

/* What another limit's quota wrote is less than a nanosecond, and is let go. */
static int64_t own_excess(const struct state *s, const struct quota *q) {
    return s->word[1] < q->limit ? s->word[1] : 0;
}

/* The theoretical arrival time in units of 1/limit ns, never before now. */
static wide arrival_units(const struct state *s, const struct quota *q, int64_t now) {
    wide now_units = (wide)now * q->limit;
    wide units;
    if (s->word[0] == INT64_MAX) {
        units = (wide)((uwide)(uint64_t)s->word[2] << 64 | (uint64_t)s->word[1]);
    } else {
        units = (wide)s->word[0] * q->limit - own_excess(s, q);
    }
    return units > now_units ? units : now_units;
}

static void store_units(struct state *s, const struct quota *q, wide units) {
    wide ns = wide_div_up(units, q->limit);
    if (ns < INT64_MAX) {
        *s = (struct state){{(int64_t)ns, (int64_t)(ns * q->limit - units), 0}};
    } else {
        *s = (struct state){{INT64_MAX, (int64_t)(uint64_t)units, (int64_t)(uint64_t)(units >> 64)}};
    }
}

/* By how many units `cost` does not fit; 0 or less when it fits. */
static wide shortfall_units(const struct state *s, const struct quota *q, int64_t cost, int64_t now) {
    wide span = ((wide)cost - q->burst) * q->period_ns;
    return arrival_units(s, q, now) + span - (wide)now * q->limit;
}

static bool step_wide(struct state *s, const struct quota *q, int64_t cost, int64_t now) {
    if (shortfall_units(s, q, cost, now) > 0) {
        return false;
    }
    store_units(s, q, arrival_units(s, q, now) + (wide)cost * q->period_ns);
    return true;
}

bool gcra_step(struct state *s, const struct quota *q, int64_t cost, int64_t now) {
    if (cost == 0) {
        return true;
    }
    if (cost > q->burst) {
        return false;
    }
    if (q->wide || s->word[0] >= NARROW_END) {
        return step_wide(s, q, cost, now);
    }
    int64_t ns = now, excess = 0, cost_ns, cost_excess;
    if (s->word[0] > now) {
        ns = s->word[0];
        excess = own_excess(s, q);
    }
    quota_cost_span(q, cost, &cost_ns, &cost_excess);
    ns += cost_ns;
    excess += cost_excess;
    if (excess >= q->limit) {
        excess -= q->limit;
        ns--;
    }
    int64_t most_ns = now + q->span_ns;
    if (ns > most_ns || (ns == most_ns && excess < q->span_excess)) {
        return false;
    }
    s->word[0] = ns;
    s->word[1] = excess;
    s->word[2] = 0;
    return true;
}

int64_t gcra_wait(const struct state *s, const struct quota *q, int64_t cost, int64_t now) {
    if (cost == 0) {
        return 0;
    }
    if (cost > q->burst) {
        return WAIT_NEVER;
    }
    wide missing = shortfall_units(s, q, cost, now);
    if (missing <= 0) {
        return 0;
    }
    wide ns = wide_div_up(missing, q->limit);
    return ns < WAIT_NEVER ? (int64_t)ns : WAIT_NEVER - 1;
}

/* A debt of more is one of this: sums stay within 128 bits however often a debtor is charged. */
#define MOST_UNITS ((wide)1 << 124)

void gcra_refund(struct state *s, const struct quota *q, int64_t cost, int64_t now) {
    wide units = arrival_units(s, q, now) - (wide)cost * q->period_ns;
    store_units(s, q, units < 0 ? 0 : units < MOST_UNITS ? units : MOST_UNITS);
}

/* Rounded up to a multiple of min(1 s, T), then to a whole nanosecond. */
static wide round_to_token(wide units, const struct quota *q) {
    if (q->period_ns >= NS_PER_S && q->interval_ns >= NS_PER_S) {
        return wide_div_up(units, (wide)NS_PER_S * q->limit) * NS_PER_S;
    }
    return wide_div_up(wide_div_up(units, q->period_ns) * q->period_ns, q->limit);
}

void gcra_report(const struct state *s, const struct quota *q, int64_t denied_cost, int64_t now, bool whole_tokens,
                 struct decision *out) {
    wide debt = arrival_units(s, q, now) - (wide)now * q->limit;
    wide room = (wide)q->burst * q->period_ns - debt;
    wide reset = whole_tokens ? round_to_token(debt, q) : wide_div_up(debt, q->limit);
    out->limit = q->burst;
    out->remaining = room > 0 ? (int64_t)(room / q->period_ns) : 0;
    out->reset_after_ns = reset < WAIT_NEVER ? (int64_t)reset : WAIT_NEVER - 1;
    out->retry_after_ns = 0;
    if (denied_cost > q->burst) {
        out->retry_after_ns = WAIT_NEVER;
    } else if (denied_cost > 0) {
        wide missing = (wide)denied_cost * q->period_ns - room;
        if (missing < 0) {
            missing = 0;
        }
        wide wait = whole_tokens ? round_to_token(missing, q) : wide_div_up(missing, q->limit);
        out->retry_after_ns = wait < WAIT_NEVER ? (int64_t)wait : WAIT_NEVER - 1;
    }
}
