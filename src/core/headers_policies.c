/* The IETF's structured fields.
 *
 *     RateLimit-Policy: "burst";q=100;w=60, "daily";q=1000;w=86400       what the limits are
 *     RateLimit: "burst";r=50;t=30;pk=:dXNlcg==:                          what is left of which, for which partition
 *
 * They belong together by name and partition key. Older drafts have no names: `RateLimit: limit=100, remaining=50, reset=5`
 * with `RateLimit-Policy: 100;w=60`; these are read as the plain headers of the same meaning. */
#include <string.h>

#include "clock.h"
#include "headers_reading.h"
#include "headers_structured.h"

/* A member of either field. Numbers are UNSAID where they were not there. */
struct policy {
    struct text name, partition, unit;
    int64_t quota, window_ns, remaining, reset_ns;
    bool used;
};

struct policies {
    int count;
    struct policy of[OBSERVED_DIMENSIONS_MAX];
};

static const struct text none = {"", 0};

/* The parameter's number if it is an integer within bounds; else it is counted. */
static void read_integer(struct reading *r, const struct field_value *value, int64_t least, int64_t most, int64_t unit,
                         int64_t *to) {
    if (value->type == FIELD_INTEGER && !value->negative && value->number.whole >= least &&
        value->number.whole <= most) {
        *to = value->number.whole * unit;
    } else {
        r->out->ignored++;
    }
}

static void read_text(struct reading *r, const struct field_value *value, struct text *to) {
    if (value->type == FIELD_STRING || value->type == FIELD_TOKEN || value->type == FIELD_BYTES) {
        *to = value->text;
    } else {
        r->out->ignored++;
    }
}

static void read_parameters(struct reading *r, struct text parameters, struct policy *p) {
    struct text key;
    struct field_value value;
    while (field_parameter(&parameters, &key, &value)) {
        if (text_is(key, "q")) {
            read_integer(r, &value, 1, COUNT_MAX, 1, &p->quota);
        } else if (text_is(key, "w")) {
            read_integer(r, &value, 1, DELAY_END_S - 1, NS_PER_S, &p->window_ns);
        } else if (text_is(key, "r")) {
            read_integer(r, &value, 0, COUNT_MAX, 1, &p->remaining);
        } else if (text_is(key, "t")) {
            read_integer(r, &value, 0, DELAY_END_S - 1, NS_PER_S, &p->reset_ns);
        } else if (text_is(key, "pk")) {
            read_text(r, &value, &p->partition);
        } else if (text_is(key, "qu")) {
            read_text(r, &value, &p->unit);
        }
    }
}

/* `limit=100, remaining=50, reset=5` */
static void read_entry(struct reading *r, const struct field_member *member, struct gathered *g) {
    int64_t value = UNSAID;
    bool limit = text_is(member->key, "limit");
    bool remaining = text_is(member->key, "remaining"), reset = text_is(member->key, "reset");
    if (!limit && !remaining && !reset) {
        return;
    }
    read_integer(r, &member->value, limit ? 1 : 0, reset ? DELAY_END_S - 1 : COUNT_MAX, 1, &value);
    if (value == UNSAID) {
        return;
    }
    if (reset) {
        g->reset_after = (struct moment){RESET_AFTER, value * NS_PER_S};
    } else {
        gathered_add(r, limit ? &g->limits : &g->remaining, (struct number){value, 0}, UNSAID);
    }
}

static void read_member(struct reading *r, const struct field_member *member, bool is_policy, struct policies *policies,
                        struct gathered *g) {
    struct policy p = {none, none, none, UNSAID, UNSAID, UNSAID, UNSAID, false};
    if (member->key.length > 0) {
        read_entry(r, member, g);
        return;
    }
    read_parameters(r, member->parameters, &p);
    if (is_policy && member->value.type == FIELD_INTEGER) {
        int64_t limit = UNSAID;
        read_integer(r, &member->value, 1, COUNT_MAX, 1, &limit);
        if (limit != UNSAID) {
            gathered_add(r, &g->policies, (struct number){limit, 0}, p.window_ns);
        }
        return;
    }
    if ((member->value.type != FIELD_STRING && member->value.type != FIELD_TOKEN) ||
        policies->count == OBSERVED_DIMENSIONS_MAX) {
        r->out->ignored++;
        return;
    }
    p.name = member->value.text;
    policies->of[policies->count++] = p;
}

static void read_field(struct reading *r, enum header_part part, struct policies *policies, struct gathered *g) {
    for (int i = 0; i < r->h->count; i++) {
        if (r->h->found[i].group != GROUP_NONE || r->h->found[i].part != part) {
            continue;
        }
        struct text rest = r->h->found[i].value;
        if (rest.length > LIST_LENGTH_MAX) {
            r->out->ignored++;
            continue;
        }
        struct field_member member;
        enum field_step step;
        while ((step = field_next(&rest, &member)) != FIELD_END) {
            if (step == FIELD_MEMBER) {
                read_member(r, &member, part == PART_STRUCTURED_POLICY, policies, g);
            } else {
                r->out->ignored++;
            }
        }
    }
}

static bool same(struct text a, struct text b) {
    return a.length == b.length && memcmp(a.at, b.at, a.length) == 0;
}

/* The policy of that name: of the same partition, or of all. */
static struct policy *find_policy(struct policies *policies, const struct policy *wanted) {
    struct policy *found = NULL;
    for (int i = 0; i < policies->count; i++) {
        struct policy *p = &policies->of[i];
        if (same(p->name, wanted->name) && (same(p->partition, wanted->partition) || p->partition.length == 0) &&
            (found == NULL || found->partition.length == 0)) {
            found = p;
        }
    }
    return found;
}

/* Without the backslashes of a string; `room` is as long as the name at least. */
static struct text unescaped(struct text from, char *room) {
    size_t length = 0;
    for (size_t i = 0; i < from.length; i++) {
        if (from.at[i] == '\\' && i + 1 < from.length) {
            i++;
        }
        room[length++] = from.at[i];
    }
    return (struct text){room, length};
}

static void observe(struct reading *r, const struct policy *left, const struct policy *policy) {
    char name[256], partition[256], add[OBSERVED_NAME_MAX] = "";
    const struct policy *about = left != NULL ? left : policy;
    struct text unit = policy != NULL && policy->unit.length > 0 ? policy->unit : about->unit;
    if (about->name.length > sizeof name || about->partition.length > sizeof partition ||
        unit.length + 5 > sizeof add) {
        r->out->ignored++;
        return;
    }
    /* What is not counted in requests says so: a caller must not count requests against it. */
    if (unit.length > 0 && !text_is(unit, "requests")) {
        memcpy(add, ";qu=", 4);
        memcpy(add + 4, unit.at, unit.length);
        add[4 + unit.length] = 0;
    }
    struct text shown = about->name.length > 0 ? unescaped(about->name, name) : (struct text){"default", 7};
    struct observed_dimension d;
    dimension_begin(&d, shown, add, unescaped(about->partition, partition));
    if (policy != NULL) {
        d.limit = policy->quota;
        d.window_ns = policy->window_ns;
    }
    if (left != NULL) {
        d.limit = d.limit != UNSAID ? d.limit : left->quota;
        d.window_ns = d.window_ns != UNSAID ? d.window_ns : left->window_ns;
        d.remaining = left->remaining;
        if (left->reset_ns != UNSAID) {
            d.reset = RESET_AFTER;
            d.reset_ns = left->reset_ns;
        }
    }
    reading_observe(r, &d);
}

void policies_read(struct reading *r, struct gathered *g) {
    struct policies policies, lefts;
    policies.count = lefts.count = 0;
    read_field(r, PART_STRUCTURED_POLICY, &policies, g);
    read_field(r, PART_STRUCTURED, &lefts, g);
    for (int i = 0; i < lefts.count; i++) {
        struct policy *policy = find_policy(&policies, &lefts.of[i]);
        if (policy != NULL) {
            policy->used = true;
        }
        observe(r, &lefts.of[i], policy);
    }
    for (int i = 0; i < policies.count; i++) {
        if (!policies.of[i].used) {
            observe(r, NULL, &policies.of[i]);
        }
    }
}
