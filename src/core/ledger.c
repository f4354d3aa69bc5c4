/* Asking the ledger, and setting limits in it: see ledger.h. What responses teach is in ledger_observe.c. */
#include "ledger.h"

#include <stdio.h>
#include <string.h>

#include "clock.h"

/* After an exhaustion whose end nobody tells: 1 s, 2 s, ... */
#define PAUSE_NS NS_PER_S
#define PAUSE_DOUBLINGS 6

const char *const ledger_source_names[LEDGER_SOURCES] = {
    [LEDGER_REGISTRY] = "registry",   [LEDGER_DEFAULT] = "default",       [LEDGER_ESTIMATED] = "estimated",
    [LEDGER_CONFIRMED] = "confirmed", [LEDGER_CONFIGURED] = "configured",
};

void ledger_init(struct ledger *l) {
    l->count = 0;
    l->next_id = 1;
    l->blocked_ns = 0;
    l->clock_known = false;
    l->clock_lo_ns = l->clock_hi_ns = l->clock_seen_ns = 0;
}

static int64_t instant(int64_t ns) {
    return ns < 0 ? 0 : ns >= CLOCK_END ? CLOCK_END - 1 : ns;
}

static int64_t clamp_amount(int64_t amount) {
    return amount < 0 ? 0 : amount > LEDGER_AMOUNT_MAX ? LEDGER_AMOUNT_MAX : amount;
}

/* ---- names ---- */

void ledger_name_copy(char to[LEDGER_NAME_MAX], const char *from) {
    size_t length = from == NULL ? 0 : strlen(from);
    memset(to, 0, LEDGER_NAME_MAX);
    if (length < LEDGER_NAME_MAX) {
        if (length > 0) {
            memcpy(to, from, length);
        }
        return;
    }
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */
    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ (unsigned char)from[i]) * UINT64_C(1099511628211);
    }
    int kept = 22;
    while (kept > 0 && ((unsigned char)from[kept] & 0xC0) == 0x80) { /* not in the midst of a character */
        kept--;
    }
    snprintf(to, LEDGER_NAME_MAX, "%.*s~%016llx", kept, from, (unsigned long long)hash);
}

static bool name_is(const char *kept, const char *asked) {
    if (asked == NULL) {
        return kept[0] == 0;
    }
    if (strnlen(asked, LEDGER_NAME_MAX) < LEDGER_NAME_MAX) {
        return strcmp(kept, asked) == 0;
    }
    char copy[LEDGER_NAME_MAX];
    ledger_name_copy(copy, asked);
    return strcmp(kept, copy) == 0;
}

/* Does a dimension of this name count something else than requests? */
static bool names_other_unit(const char *name) {
    static const char *const units[] = {"token", "byte", "cost", "credit", "point", "unit", "complexity", "concurren"};
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strstr(name, units[i]) != NULL) {
            return true;
        }
    }
    return false;
}

/* ---- dimensions ---- */

void ledger_dimension_drop(struct ledger *l, int index) {
    memmove(&l->dimensions[index], &l->dimensions[index + 1], (size_t)(l->count - index - 1) * sizeof l->dimensions[0]);
    l->count--;
}

static int64_t in_flight_of(const struct ledger_dimension *d, int64_t now) {
    int64_t sum = 0, newest = now / LEDGER_SLOT_NS;
    for (int64_t s = d->slot; s > d->slot - LEDGER_SLOTS && s >= 0; s--) {
        if (s > newest - LEDGER_SLOTS) {
            int64_t count = d->in_flight[s % LEDGER_SLOTS];
            sum = sum > INT64_MAX - count ? INT64_MAX : sum + count;
        }
    }
    return sum;
}

/* The one that can best be spared; -1: none. */
static int spare(const struct ledger *l, int64_t now) {
    int found = -1;
    for (int i = 0; i < l->count; i++) {
        const struct ledger_dimension *d = &l->dimensions[i];
        if (d->stub && d->blocked_ns <= now && in_flight_of(d, now) == 0) {
            return i;
        }
        if (!d->stub && !d->bucket && (found < 0 || d->seen_ns < l->dimensions[found].seen_ns)) {
            found = i;
        }
    }
    return found;
}

struct ledger_dimension *ledger_dimension_add(struct ledger *l, const char *name, const char *resource, int64_t now) {
    if (l->count == LEDGER_DIMENSIONS_MAX) {
        int index = spare(l, now);
        if (index < 0) {
            return NULL;
        }
        ledger_dimension_drop(l, index);
    }
    struct ledger_dimension *d = &l->dimensions[l->count++];
    memset(d, 0, sizeof *d);
    ledger_name_copy(d->name, name);
    ledger_name_copy(d->resource, resource);
    d->id = l->next_id++;
    d->own_unit = names_other_unit(d->name);
    d->limit = d->window_ns = UNSAID;
    d->seen_ns = now;
    d->trust = LEDGER_TRUST;
    d->slot = now / LEDGER_SLOT_NS;
    return d;
}

bool ledger_quota(const struct ledger_dimension *d, struct quota *q) {
    struct quota_error unused;
    return quota_init(q, d->limit, d->window_ns, d->limit, &unused);
}

int64_t ledger_dimension_reset(const struct ledger *l, const struct ledger_dimension *d) {
    if (d->reset_ns == 0) {
        return 0;
    }
    int64_t reset = instant((d->reset_is_theirs ? d->reset_ns - l->clock_lo_ns : d->reset_ns) + d->grace_ns);
    return reset > 0 ? reset : 1;
}

void ledger_dimension_spend(struct ledger_dimension *d, int64_t amount, int64_t ended_ns) {
    if (d->bucket || d->stub) {
        return;
    }
    d->lost = d->lost > INT64_MAX - amount ? INT64_MAX : d->lost + amount;
    d->lost_ns = ended_ns > d->lost_ns ? ended_ns : d->lost_ns;
}

int64_t ledger_dimension_granted(const struct ledger_dimension *d) {
    return d->word_count == 0 || d->words[0].remaining <= d->lost ? 0 : d->words[0].remaining - d->lost;
}

/* Drops what was sent too long ago to come back. What no word has heard of since may have been counted by the server. */
static void age(struct ledger_dimension *d, int64_t now) {
    int64_t newest = now / LEDGER_SLOT_NS;
    if (newest <= d->slot) {
        return;
    }
    int64_t first = d->slot + 1 > newest - LEDGER_SLOTS ? d->slot + 1 : newest - LEDGER_SLOTS + 1;
    for (int64_t s = first; s <= newest; s++) {
        int64_t *count = &d->in_flight[s % LEDGER_SLOTS];
        int64_t sent_before = (s - LEDGER_SLOTS + 1) * LEDGER_SLOT_NS;
        if (*count > 0 && d->word_count > 0 && d->words[d->word_count - 1].received_ns < sent_before) {
            ledger_dimension_spend(d, *count, sent_before);
        }
        *count = 0;
    }
    d->slot = newest;
}

void ledger_dimension_turn(const struct ledger *l, struct ledger_dimension *d, int64_t now) {
    age(d, now);
    int64_t reset = ledger_dimension_reset(l, d);
    if (d->bucket || reset == 0 || now < reset) {
        return;
    }
    d->turned_ns = reset;
    d->turned_said_ns = d->reset_ns;
    d->turned = true;
    d->probing = d->trust <= LEDGER_TRUST || d->reset_assumed || d->limit == UNSAID;
    d->probe_ns = 0;
    d->misses = 0;
    d->word_count = 0;
    if (d->lost_ns < reset) {
        d->lost = 0;
    }
    if (d->limit != UNSAID) {
        d->words[0] = (struct ledger_word){reset, d->limit};
        d->word_count = 1;
    }
    if (d->window_ns > 0) {
        int64_t windows = (now - reset) / d->window_ns + 1;
        d->turned_ns += (windows - 1) * d->window_ns;
        d->turned_said_ns += (windows - 1) * d->window_ns;
        d->reset_ns = instant(d->turned_said_ns + d->window_ns);
        d->reset_assumed = true;
    } else {
        d->reset_ns = 0;
    }
}

/* What requests have taken that did not know yet of this dimension. */
static bool stub_counts_for(const struct ledger_dimension *stub, const struct ledger_dimension *d) {
    return stub->stub && stub != d && (stub->resource[0] == 0 || strcmp(stub->resource, d->resource) == 0) &&
           (strcmp(stub->name, d->name) == 0 || (!d->own_unit && strcmp(stub->name, "requests") == 0));
}

int64_t ledger_dimension_in_flight(const struct ledger *l, const struct ledger_dimension *d, int64_t now) {
    int64_t sum = in_flight_of(d, now);
    for (int i = 0; i < l->count; i++) {
        if (stub_counts_for(&l->dimensions[i], d)) {
            int64_t count = in_flight_of(&l->dimensions[i], now);
            sum = sum > INT64_MAX - count ? INT64_MAX : sum + count;
        }
    }
    return sum;
}

/* ---- reserving ---- */

static bool resource_is_asked(const struct ledger_dimension *d, const struct ledger_cost *c) {
    return d->resource[0] == 0 || name_is(d->resource, c->resource);
}

static bool is_requests(const char *name) {
    return strcmp(name, "requests") == 0;
}

/* Does a dimension with a limit keep count of this cost? */
static bool is_counted(const struct ledger *l, const struct ledger_cost *c) {
    for (int i = 0; i < l->count; i++) {
        const struct ledger_dimension *d = &l->dimensions[i];
        if (!d->stub && resource_is_asked(d, c) &&
            (name_is(d->name, c->name) || (!d->own_unit && is_requests(c->name)))) {
            return true;
        }
    }
    return false;
}

static struct ledger_dimension *find_stub(struct ledger *l, const struct ledger_cost *c) {
    for (int i = 0; i < l->count; i++) {
        struct ledger_dimension *d = &l->dimensions[i];
        if (d->stub && name_is(d->name, c->name) && name_is(d->resource, c->resource)) {
            return d;
        }
    }
    return NULL;
}

/* What the request spends of it: -1 when it has nothing to do with it. A stub counts what nothing else does. */
static int64_t amount_of(const struct ledger *l, const struct ledger_dimension *d, const struct ledger_cost *costs,
                         int count) {
    bool concerned = d->resource[0] == 0;
    int64_t as_request = 0;
    for (int i = 0; i < count; i++) {
        if (!resource_is_asked(d, &costs[i])) {
            continue;
        }
        concerned = true;
        if (d->stub) {
            if (name_is(d->name, costs[i].name) && name_is(d->resource, costs[i].resource) &&
                !is_counted(l, &costs[i])) {
                return clamp_amount(costs[i].amount);
            }
        } else if (name_is(d->name, costs[i].name)) {
            return clamp_amount(costs[i].amount);
        } else if (!d->own_unit && is_requests(costs[i].name)) {
            as_request = clamp_amount(costs[i].amount);
        }
    }
    return concerned ? as_request : -1;
}

/* One dimension's answer: 0, or the instant at which to ask again; INT64_MAX for never. */
static int64_t ask(const struct ledger *l, const struct ledger_dimension *d, int64_t amount, int64_t now,
                   bool *sooner) {
    *sooner = false;
    if (d->blocked_ns > now) {
        return d->blocked_ns;
    }
    if (d->bucket) {
        struct quota q;
        if (amount == 0 || !ledger_quota(d, &q)) {
            return 0;
        }
        int64_t wait = algorithm_wait(GCRA, &d->state, &q, amount, now);
        return wait == 0 ? 0 : wait == WAIT_NEVER ? INT64_MAX : instant(now + wait);
    }
    if (d->stub) {
        return 0;
    }
    if (d->limit != UNSAID && amount > d->limit) {
        return INT64_MAX;
    }
    if (d->probing) {
        *sooner = true;
        return amount == 0 || now >= d->probe_ns ? 0 : d->probe_ns;
    }
    if (d->word_count == 0) {
        return 0;
    }
    int64_t granted = ledger_dimension_granted(d);
    int64_t in_flight = ledger_dimension_in_flight(l, d, now);
    int64_t reset = ledger_dimension_reset(l, d);
    if (amount == 0 ? granted > 0 || reset == 0 : granted - amount >= in_flight) {
        return 0;
    }
    *sooner = in_flight > 0;
    if (reset > 0) {
        return reset;
    }
    if (in_flight > 0 && granted >= amount) { /* their responses will tell; the dead are dropped */
        return instant(now + PAUSE_NS);
    }
    int doublings = d->misses < PAUSE_DOUBLINGS ? d->misses : PAUSE_DOUBLINGS;
    int64_t next = instant(d->seen_ns + (PAUSE_NS << doublings));
    next = next > d->probe_ns ? next : d->probe_ns;
    return next > now ? next : 0;
}

static void ledger_take_from(const struct ledger *l, struct ledger_dimension *d, int64_t amount, int64_t now,
                             struct ledger_ticket *t) {
    if (d->bucket && amount > 0) {
        struct quota q;
        if (ledger_quota(d, &q)) {
            algorithm_step(GCRA, &d->state, &q, amount, now);
        }
    } else if (!d->stub && amount > 0 &&
               (d->probing ||
                (d->word_count > 0 && ledger_dimension_granted(d) - amount < ledger_dimension_in_flight(l, d, now)))) {
        d->probe_ns = instant(now + LEDGER_PATIENCE_NS);
    }
    bool is_set = d->bucket && d->source == LEDGER_CONFIGURED;
    t->settled = t->settled && (is_set || amount == 0);
    int64_t *count = &d->in_flight[t->slot % LEDGER_SLOTS];
    if (!is_set && t->slot > d->slot - LEDGER_SLOTS) { /* a clock that was set back by more is not worth counting for */
        *count = *count > INT64_MAX - amount ? INT64_MAX : *count + amount;
    }
    t->taken[t->count].id = d->id;
    t->taken[t->count].amount = amount;
    t->count++;
}

void ledger_reserve(struct ledger *l, const struct ledger_cost *costs, int count, int64_t now, int64_t max_wait_ns,
                    struct ledger_answer *out) {
    int64_t until = 0, amounts[LEDGER_DIMENSIONS_MAX];
    now = instant(now);
    *out = (struct ledger_answer){.kind = LEDGER_GRANTED, .dimension = -1};
    out->ticket.slot = now / LEDGER_SLOT_NS;
    out->sooner = true;
    if (l->blocked_ns > now) {
        until = l->blocked_ns;
        out->sooner = false;
    }
    for (int i = 0; i < count; i++) {
        if (!is_counted(l, &costs[i]) && find_stub(l, &costs[i]) == NULL) {
            struct ledger_dimension *d = ledger_dimension_add(l, costs[i].name, costs[i].resource, now);
            if (d != NULL) {
                d->stub = true;
            }
        }
        if (out->ticket.resource[0] == 0) {
            ledger_name_copy(out->ticket.resource, costs[i].resource);
        }
    }
    for (int i = 0; i < l->count; i++) {
        struct ledger_dimension *d = &l->dimensions[i];
        amounts[i] = amount_of(l, d, costs, count);
        if (amounts[i] < 0) {
            continue;
        }
        ledger_dimension_turn(l, d, now);
        bool sooner;
        int64_t at = ask(l, d, amounts[i], now, &sooner);
        if (at > 0) {
            out->sooner = out->sooner && sooner;
        }
        if (at > until) {
            until = at;
            out->dimension = i;
        }
    }
    if (until > 0) {
        out->wait_ns = until == INT64_MAX ? WAIT_NEVER : until - now;
        out->kind = until == INT64_MAX ? LEDGER_NEVER : out->wait_ns > max_wait_ns ? LEDGER_TOO_LONG : LEDGER_WAIT;
        out->sooner = out->sooner && until != INT64_MAX;
        return;
    }
    out->sooner = false;
    out->ticket.settled = true;
    for (int i = 0; i < l->count; i++) {
        if (amounts[i] >= 0) {
            ledger_take_from(l, &l->dimensions[i], amounts[i], now, &out->ticket);
        }
    }
}

/* ---- limits that nobody has to learn ---- */

bool ledger_configure(struct ledger *l, const char *name, const char *resource, int64_t limit, int64_t window_ns,
                      enum ledger_source source, struct quota_error *error) {
    struct quota q;
    if (!quota_init(&q, limit, window_ns, limit, error)) {
        return false;
    }
    error->text[0] = 0;
    uint32_t keep = 0;
    for (int i = l->count - 1; i >= 0; i--) {
        struct ledger_dimension *d = &l->dimensions[i];
        bool same_name = name_is(d->name, name), same_resource = name_is(d->resource, resource);
        if (d->stub) {
            continue;
        }
        if (d->bucket && same_name && same_resource && d->window_ns == window_ns && d->source <= source) {
            keep = d->id; /* its count goes on */
        } else if (source == LEDGER_CONFIGURED) {
            if (same_name && (same_resource || resource == NULL || resource[0] == 0)) {
                ledger_dimension_drop(l, i);
            }
        } else if ((same_name && same_resource && d->source > source) ||
                   (!d->bucket && (same_name || (!d->own_unit && is_requests(name))))) {
            return true;
        }
    }
    struct ledger_dimension *same = NULL;
    for (int i = 0; i < l->count; i++) {
        if (l->dimensions[i].id == keep) {
            same = &l->dimensions[i];
        }
    }
    if (same == NULL) {
        same = ledger_dimension_add(l, name, resource, 0);
        if (same == NULL) {
            return false;
        }
        same->bucket = true;
    }
    same->source = (uint8_t)source;
    same->limit = limit;
    same->window_ns = window_ns;
    return true;
}

bool ledger_status(const struct ledger *l, int index, int64_t now, struct ledger_status *out) {
    struct ledger_dimension d = l->dimensions[index];
    now = instant(now);
    if (d.stub) {
        return false;
    }
    *out = (struct ledger_status){
        .limit = d.limit, .remaining = UNSAID, .window_ns = d.window_ns, .source = (enum ledger_source)d.source};
    if (d.bucket) {
        struct quota q;
        struct decision told;
        if (!ledger_quota(&d, &q)) {
            return false;
        }
        algorithm_report(GCRA, &d.state, &q, 0, now, &told);
        out->remaining = told.remaining;
        out->reset_ns = instant(now + told.reset_after_ns);
        return true;
    }
    ledger_dimension_turn(l, &d, now);
    if (d.word_count > 0) {
        /* A copy is asked about: its own stubs are told apart by address, and none is a copy. */
        int64_t rest = ledger_dimension_granted(&d) - ledger_dimension_in_flight(l, &d, now);
        out->remaining = rest > 0 ? rest : 0;
    }
    out->reset_ns = ledger_dimension_reset(l, &d);
    return d.limit != UNSAID || d.word_count > 0 || out->reset_ns != 0;
}

static bool is_exhausted(const struct ledger *l, const struct ledger_dimension *d, int64_t now) {
    struct quota q;
    if (d->bucket) {
        return ledger_quota(d, &q) && algorithm_wait(GCRA, &d->state, &q, 1, now) > 0;
    }
    return d->word_count > 0 && ledger_dimension_granted(d) == 0 && ledger_dimension_reset(l, d) > now;
}

void ledger_use_of(const struct ledger *l, int64_t now, struct ledger_use *out) {
    now = instant(now);
    *out = (struct ledger_use){.is_busy = l->blocked_ns > now};
    for (int i = 0; i < l->count; i++) {
        const struct ledger_dimension *d = &l->dimensions[i];
        int64_t used = d->slot * LEDGER_SLOT_NS;
        used = used > d->seen_ns ? used : d->seen_ns;
        out->used_ns = used > out->used_ns ? used : out->used_ns;
        out->is_set = out->is_set || (d->bucket && d->source == LEDGER_CONFIGURED);
        out->is_busy = out->is_busy || d->blocked_ns > now || in_flight_of(d, now) > 0 || is_exhausted(l, d, now);
    }
}
