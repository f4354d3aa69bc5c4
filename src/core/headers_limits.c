/* A group's headers (limit, remaining, reset ...) become one dimension, or several where they are lists.
 *
 * Lists come in two kinds. In the IETF's old drafts `RateLimit-Limit: 10, 10;w=1, 50;w=60` is the limit that counts, then
 * the policies behind it. Elsewhere all headers have equally many numbers, one for each limit: `Limit: 1, 15000`, `Remaining:
 * 0, 14523`. A header that a proxy has repeated looks like the second kind with equal numbers, and is one limit. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "headers_reading.h"
#include "headers_structured.h"

void gathered_clear(struct gathered *g) {
    g->limits.count = g->remaining.count = g->used.count = g->policies.count = g->reset_count = 0;
    g->reset_after.kind = g->reset_time.kind = RESET_UNSAID;
    g->reset_after.ns = g->reset_time.ns = 0;
    g->window_ns = UNSAID;
}

void gathered_add(struct reading *r, struct counts *counts, struct number number, int64_t window_ns) {
    if (number.whole > COUNT_MAX || counts->count == LIST_MAX) {
        r->out->ignored++;
    } else {
        counts->of[counts->count++] = (struct count){number, window_ns};
    }
}

/* ---- values ---- */

static int64_t window_parameter(struct text parameters) {
    struct text key;
    struct field_value value;
    int64_t window_ns = UNSAID;
    while (field_parameter(&parameters, &key, &value)) {
        if ((text_is(key, "w") || text_is(key, "window")) && value.type == FIELD_INTEGER && !value.negative &&
            value.number.whole > 0 && value.number.whole < DELAY_END_S) {
            window_ns = value.number.whole * NS_PER_S;
        }
    }
    return window_ns;
}

static void read_counts(struct reading *r, struct text value, struct counts *counts) {
    struct number number;
    if (value_number(value, &number)) {
        gathered_add(r, counts, number, UNSAID);
        return;
    }
    if (value.length > LIST_LENGTH_MAX || text_trim(value).length == 0) {
        r->out->ignored++;
        return;
    }
    struct field_member member;
    enum field_step step;
    while ((step = field_next(&value, &member)) != FIELD_END) {
        if (step == FIELD_MEMBER && member.key.length == 0 && member.value.type <= FIELD_DECIMAL &&
            !member.value.negative) {
            gathered_add(r, counts, member.value.number, window_parameter(member.parameters));
        } else {
            r->out->ignored++;
        }
    }
}

static void read_limits(struct reading *r, struct text value, struct counts *counts) {
    int before = counts->count;
    read_counts(r, value, counts);
    int kept = before;
    for (int i = before; i < counts->count; i++) { /* a limit of nothing is none */
        if (counts->of[i].number.whole > 0) {
            counts->of[kept++] = counts->of[i];
        } else {
            r->out->ignored++;
        }
    }
    counts->count = kept;
}

bool reading_moment(struct reading *r, struct moment moment) {
    if (moment.kind == RESET_AT && r->now_ns != UNSAID && moment.ns - r->now_ns >= DELAY_END_S * NS_PER_S) {
        r->out->ignored++;
        return false;
    }
    return true;
}

static void read_moment(struct reading *r, struct text value, enum reset_form form, struct moment *moment) {
    struct moment found;
    if (!value_reset(value, form, &found)) {
        r->out->ignored++;
    } else if (reading_moment(r, found)) {
        *moment = found;
    }
}

/* One, or numbers and durations with commas between. The comma after the name of a day never parts anything. */
static void read_resets(struct reading *r, struct text value, struct gathered *g) {
    struct moment moment;
    bool one = value_reset(value, RESET_ANY, &moment);
    if (!one && (value.length > LIST_LENGTH_MAX || memchr(value.at, ',', value.length) == NULL ||
                 value_starts_with_letter(value))) {
        r->out->ignored++;
        return;
    }
    do {
        const char *comma = one ? NULL : memchr(value.at, ',', value.length);
        struct text part = {value.at, comma == NULL ? value.length : (size_t)(comma - value.at)};
        if ((!one && !value_reset(part, RESET_ANY, &moment)) || g->reset_count == LIST_MAX) {
            r->out->ignored++;
        } else if (reading_moment(r, moment)) {
            g->resets[g->reset_count++] = moment;
        }
        size_t used = part.length + (comma != NULL);
        value = (struct text){value.at + used, value.length - used};
    } while (!one && value.length > 0);
}

static void read_window(struct reading *r, struct text value, enum reset_form form, struct gathered *g) {
    struct moment window = {RESET_UNSAID, 0};
    read_moment(r, value, form, &window);
    if (window.kind == RESET_AFTER && window.ns > 0) {
        g->window_ns = window.ns;
    }
}

static void gather(struct reading *r, enum header_group group, struct gathered *g) {
    for (int i = 0; i < r->h->count; i++) {
        const struct header_found *found = &r->h->found[i];
        if (found->group != group) {
            continue;
        }
        switch (found->part) {
        case PART_LIMIT:
            read_limits(r, found->value, &g->limits);
            break;
        case PART_REMAINING:
            read_counts(r, found->value, &g->remaining);
            break;
        case PART_USED:
            read_counts(r, found->value, &g->used);
            break;
        case PART_POLICY:
            read_limits(r, found->value, &g->policies);
            break;
        case PART_RESET:
            read_resets(r, found->value, g);
            break;
        case PART_RESET_AFTER:
            read_moment(r, found->value, RESET_SECONDS, &g->reset_after);
            break;
        case PART_RESET_TIME:
            read_moment(r, found->value, RESET_ANY, &g->reset_time);
            break;
        case PART_WINDOW:
            read_window(r, found->value, RESET_SECONDS, g);
            break;
        case PART_WINDOW_MILLIS:
            read_window(r, found->value, RESET_MILLIS, g);
            break;
        default:
            break;
        }
    }
}

/* ---- dimensions ---- */

/* Longer names keep their head and get a number of all their bytes (FNV-1a), so that different ones stay different. */
static void set_name(char to[OBSERVED_NAME_MAX], struct text name, const char *add) {
    size_t more = strlen(add);
    memset(to, 0, OBSERVED_NAME_MAX);
    if (name.length + more < OBSERVED_NAME_MAX) {
        memcpy(to, name.at, name.length);
        memcpy(to + name.length, add, more);
        return;
    }
    uint64_t hash = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < name.length + more; i++) {
        hash = (hash ^ (unsigned char)(i < name.length ? name.at[i] : add[i - name.length])) * UINT64_C(1099511628211);
    }
    size_t head = name.length < 40 ? name.length : 40;
    memcpy(to, name.at, head);
    snprintf(to + head, OBSERVED_NAME_MAX - head, "~%016" PRIx64, hash);
}

void dimension_begin(struct observed_dimension *d, struct text name, const char *add, struct text resource) {
    set_name(d->name, name, add);
    set_name(d->resource, resource, "");
    d->limit = d->remaining = d->window_ns = UNSAID;
    d->reset = RESET_UNSAID;
    d->reset_ns = 0;
}

static int64_t smaller_said(int64_t a, int64_t b) {
    return a == UNSAID ? b : b == UNSAID || a < b ? a : b;
}

static void complete(struct observed_dimension *known, const struct observed_dimension *d) {
    known->limit = known->limit != UNSAID ? known->limit : d->limit;
    known->remaining = smaller_said(known->remaining, d->remaining);
    known->window_ns = known->window_ns != UNSAID ? known->window_ns : d->window_ns;
    /* What counts from the response needs no clock to be right. */
    if (known->reset == RESET_UNSAID || (known->reset == RESET_AT && d->reset == RESET_AFTER)) {
        known->reset = d->reset;
        known->reset_ns = d->reset_ns;
    }
}

static void keep_within_limit(struct reading *r, struct observed_dimension *d) {
    if (d->remaining != UNSAID && d->limit != UNSAID && d->remaining > d->limit) {
        d->remaining = d->limit;
        r->out->ignored++;
    }
}

void reading_observe(struct reading *r, const struct observed_dimension *said) {
    struct observation *out = r->out;
    struct observed_dimension d = *said;
    if (d.limit == UNSAID && d.remaining == UNSAID && d.reset == RESET_UNSAID) {
        return;
    }
    for (int number = 2;; number++) {
        struct observed_dimension *known = NULL;
        for (int i = 0; i < out->count && known == NULL; i++) {
            if (strcmp(out->dimensions[i].name, d.name) == 0 && strcmp(out->dimensions[i].resource, d.resource) == 0) {
                known = &out->dimensions[i];
            }
        }
        if (known == NULL) {
            break;
        }
        if (known->limit == UNSAID || d.limit == UNSAID || known->limit == d.limit) {
            complete(known, &d);
            keep_within_limit(r, known);
            return;
        }
        char add[16];
        snprintf(add, sizeof add, "#%d", number);
        set_name(d.name, (struct text){said->name, strlen(said->name)}, add);
    }
    keep_within_limit(r, &d);
    if (out->count == OBSERVED_DIMENSIONS_MAX) {
        out->ignored++;
        return;
    }
    out->dimensions[out->count++] = d;
}

/* ---- from what was gathered to dimensions ---- */

static void set_reset(struct observed_dimension *d, struct moment moment) {
    d->reset = moment.kind;
    d->reset_ns = moment.ns;
}

/* Of several for one limit: one that counts from the response, and the latest. */
static struct moment single_reset(const struct gathered *g) {
    struct moment best = g->reset_after;
    for (int i = 0; i < g->reset_count && g->reset_after.kind == RESET_UNSAID; i++) {
        struct moment m = g->resets[i];
        bool better = best.kind == RESET_UNSAID || (best.kind == RESET_AT && m.kind == RESET_AFTER) ||
                      (best.kind == m.kind && m.ns > best.ns);
        best = better ? m : best;
    }
    return best.kind != RESET_UNSAID ? best : g->reset_time;
}

static const char *window_suffix(char add[32], int64_t window_ns) {
    snprintf(add, 32, ";w=%" PRId64, window_ns / NS_PER_S);
    return add;
}

static bool all_equal(const struct counts *counts) {
    for (int i = 1; i < counts->count; i++) {
        if (counts->of[i].number.whole != counts->of[0].number.whole) {
            return false;
        }
    }
    return true;
}

/* One limit for each place of the lists. */
static bool are_parallel(const struct gathered *g) {
    int n = g->remaining.count;
    const struct counts *limits = g->limits.count > 0 ? &g->limits : &g->policies;
    return n > 1 && limits->count == n && !(all_equal(&g->remaining) && all_equal(limits));
}

static void observe_parallel(struct reading *r, const struct gathered *g, struct text name, struct text resource) {
    int n = g->remaining.count;
    for (int i = 0; i < n; i++) {
        char add[32] = "";
        const struct count *limit = g->limits.count > 0 ? &g->limits.of[i] : &g->policies.of[i];
        int64_t window_ns = g->policies.count == n ? g->policies.of[i].window_ns : limit->window_ns;
        if (window_ns != UNSAID) {
            window_suffix(add, window_ns);
        } else if (i > 0) {
            snprintf(add, sizeof add, "#%d", i + 1);
        }
        struct observed_dimension d;
        dimension_begin(&d, name, add, resource);
        d.limit = limit->number.whole;
        d.remaining = g->remaining.of[i].number.whole;
        d.window_ns = window_ns;
        if (g->reset_count == n) {
            set_reset(&d, g->resets[i]);
        } else {
            set_reset(&d, single_reset(g));
        }
        reading_observe(r, &d);
    }
}

/* The policies of the old drafts that are not the limit that counts now. */
static void observe_policies(struct reading *r, const struct counts *policies,
                             const struct observed_dimension *counting, struct text name, struct text resource) {
    for (int i = 0; i < policies->count; i++) {
        const struct count *policy = &policies->of[i];
        if (policy->window_ns != UNSAID &&
            (policy->window_ns != counting->window_ns || policy->number.whole != counting->limit)) {
            char add[32];
            struct observed_dimension d;
            dimension_begin(&d, name, window_suffix(add, policy->window_ns), resource);
            d.limit = policy->number.whole;
            d.window_ns = policy->window_ns;
            reading_observe(r, &d);
        }
    }
}

static int64_t window_of(const struct counts *policies, int64_t limit) {
    for (int i = 0; i < policies->count; i++) {
        if (policies->of[i].number.whole == limit && policies->of[i].window_ns != UNSAID) {
            return policies->of[i].window_ns;
        }
    }
    return UNSAID;
}

/* limit = used + remaining, each of which may have a fraction (Reddit's do). */
static void fill_from_used(struct observed_dimension *d, const struct gathered *g) {
    if (g->used.count == 0) {
        return;
    }
    struct number used = g->used.of[0].number;
    if (d->limit == UNSAID && d->remaining != UNSAID) {
        struct number left = g->remaining.of[0].number;
        int64_t sum = used.whole + left.whole + (used.nanos + left.nanos >= 1000000000);
        d->limit = sum > 0 && sum <= COUNT_MAX ? sum : UNSAID;
    } else if (d->limit != UNSAID && d->remaining == UNSAID) {
        int64_t gone = used.whole + (used.nanos > 0);
        d->remaining = gone < d->limit ? d->limit - gone : 0;
    }
}

static void observe_single(struct reading *r, const struct gathered *g, enum header_group group, struct text resource) {
    const struct dialect_group *about = &dialect_groups[group];
    struct text name = {about->name, strlen(about->name)};
    struct observed_dimension d;
    dimension_begin(&d, name, "", resource);

    /* The limit that counts comes first and has no window; the old drafts' policies follow it in the same list. */
    const struct counts *counting = g->limits.count > 0 ? &g->limits : &g->policies;
    if (counting->count > 0) {
        d.limit = counting->of[0].number.whole;
    }
    for (int i = 0; i < g->limits.count; i++) {
        if (g->limits.of[i].window_ns == UNSAID) {
            d.limit = smaller_said(d.limit, g->limits.of[i].number.whole);
        }
    }
    for (int i = 0; i < g->remaining.count; i++) {
        d.remaining = smaller_said(d.remaining, g->remaining.of[i].number.whole);
    }
    fill_from_used(&d, g);
    d.window_ns = about->window_ns != UNSAID ? about->window_ns : g->window_ns;
    if (d.window_ns == UNSAID && d.limit != UNSAID) {
        d.window_ns = window_of(&g->limits, d.limit);
        d.window_ns = d.window_ns != UNSAID ? d.window_ns : window_of(&g->policies, d.limit);
    }
    set_reset(&d, single_reset(g));
    reading_observe(r, &d);
    observe_policies(r, &g->limits, &d, name, resource);
    observe_policies(r, &g->policies, &d, name, resource);
}

void limits_of_group(struct reading *r, enum header_group group, struct gathered *g) {
    const struct dialect_group *about = &dialect_groups[group];
    struct text resource = about->has_resource ? r->resource : (struct text){"", 0};
    gather(r, group, g);
    if (are_parallel(g)) {
        observe_parallel(r, g, (struct text){about->name, strlen(about->name)}, resource);
    } else {
        observe_single(r, g, group, resource);
    }
}
