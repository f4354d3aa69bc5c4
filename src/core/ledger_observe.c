/* What a response teaches the ledger. Responses overtake each other, come late, or never; see ledger.h.
 *
 * Of two words about one window, the one whose request was sent after the other had arrived is newer, and holds. Where that cannot be
 * told the smaller holds. So availability never rises by a response that is older than what is known, and does rise, within one
 * round trip, where a server gives back (its window slides, its bucket leaks, a request cost less than was thought).
 *
 * A reset is a promise of the server, and it is checked: after the first one, and after any that was not kept, one request goes
 * first and asks. So a reset that was rounded down, a window that slides, or somebody else's requests cost one refusal and not a
 * hundred. */
#include <string.h>

#include "clock.h"
#include "ledger.h"

#define DRIFT_PER 10000 /* clocks drift apart by at most 1/10000: 100 ppm */
#define GRACE_MAX_NS (2 * NS_PER_S)

static int64_t instant(int64_t ns) {
    return ns < 0 ? 0 : ns >= CLOCK_END ? CLOCK_END - 1 : ns;
}

/* ---- the server's clock ---- */

/* Date is cut to whole seconds, and was written at some instant between sending and receiving. */
static void hear_clock(struct ledger *l, int64_t date_ns, int64_t sent, int64_t received) {
    if (date_ns < 0 || date_ns >= CLOCK_END) {
        return;
    }
    int64_t lo = date_ns - received, hi = date_ns + NS_PER_S - sent;
    if (lo < -LEDGER_SKEW_MAX_NS || hi > LEDGER_SKEW_MAX_NS) {
        return;
    }
    if (l->clock_known) {
        int64_t drift = received > l->clock_seen_ns ? (received - l->clock_seen_ns) / DRIFT_PER : 0;
        int64_t old_lo = l->clock_lo_ns - drift, old_hi = l->clock_hi_ns + drift;
        if (lo <= old_hi && hi >= old_lo) { /* else one of the clocks was set */
            lo = lo > old_lo ? lo : old_lo;
            hi = hi < old_hi ? hi : old_hi;
        }
    }
    l->clock_known = true;
    l->clock_lo_ns = lo;
    l->clock_hi_ns = hi;
    l->clock_seen_ns = received;
}

/* ---- tickets ---- */

static struct ledger_dimension *find_id(struct ledger *l, uint32_t id) {
    for (int i = 0; i < l->count; i++) {
        if (l->dimensions[i].id == id) {
            return &l->dimensions[i];
        }
    }
    return NULL;
}

static void release(struct ledger_dimension *d, int64_t slot, int64_t amount) {
    if (slot >= 0 && slot <= d->slot && slot > d->slot - LEDGER_SLOTS) {
        int64_t *count = &d->in_flight[slot % LEDGER_SLOTS];
        *count = *count > amount ? *count - amount : 0;
    }
}

/* What the ticket took of `d`, or of the stub that counted for it. */
static int64_t taken_of(struct ledger *l, const struct ledger_ticket *t, const struct ledger_dimension *d) {
    int64_t amount = 0;
    for (int i = 0; i < t->count; i++) {
        const struct ledger_dimension *other = find_id(l, t->taken[i].id);
        if (other == d) {
            return t->taken[i].amount;
        }
        if (other != NULL && other->stub &&
            (strcmp(other->name, d->name) == 0 || (!d->own_unit && strcmp(other->name, "requests") == 0))) {
            amount = t->taken[i].amount;
        }
    }
    return amount;
}

/* ---- words ---- */

void ledger_dimension_say(struct ledger_dimension *d, int64_t remaining, int64_t sent, int64_t received) {
    int kept = 0;
    if (sent >= d->lost_ns) {
        d->lost = 0;
    }
    for (int i = 0; i < d->word_count; i++) {
        if (d->words[i].received_ns >= sent && d->words[i].remaining < remaining) {
            d->words[kept++] = d->words[i];
        }
    }
    if (kept == LEDGER_RING) { /* the two newest become one that is no better than either */
        d->words[kept - 1].received_ns = received;
        d->word_count = kept;
        return;
    }
    d->words[kept++] = (struct ledger_word){received, remaining};
    d->word_count = kept;
}

/* The dimension that a server's word is about, made when new. NULL: the user has set it, or there is no room. */
static struct ledger_dimension *dimension_for(struct ledger *l, const struct observed_dimension *o, int64_t now) {
    char name[LEDGER_NAME_MAX], resource[LEDGER_NAME_MAX];
    struct ledger_dimension *found = NULL;
    ledger_name_copy(name, o->name);
    ledger_name_copy(resource, o->resource);
    for (int i = 0; i < l->count; i++) {
        struct ledger_dimension *d = &l->dimensions[i];
        if (strcmp(d->name, name) != 0) {
            continue;
        }
        if (d->bucket && d->source == LEDGER_CONFIGURED &&
            (d->resource[0] == 0 || strcmp(d->resource, resource) == 0)) {
            return NULL;
        }
        if (!d->bucket && !d->stub && strcmp(d->resource, resource) == 0) {
            found = d;
        }
    }
    if (found == NULL) {
        found = ledger_dimension_add(l, name, resource, now);
    }
    return found;
}

/* Seeds and defaults yield to a header. They go on as stubs, for the sake of what is in flight under them. */
static void yield_to(struct ledger *l, const struct ledger_dimension *d) {
    for (int i = 0; i < l->count; i++) {
        struct ledger_dimension *other = &l->dimensions[i];
        if (other->bucket && other->source <= LEDGER_DEFAULT &&
            (strcmp(other->name, d->name) == 0 || (!d->own_unit && strcmp(other->name, "requests") == 0)) &&
            (other->resource[0] == 0 || strcmp(other->resource, d->resource) == 0)) {
            other->bucket = false;
            other->stub = true;
            other->limit = other->window_ns = UNSAID;
            memset(&other->state, 0, sizeof other->state);
        }
    }
    /* Several windows of one name have counted the same requests: one of them is enough. */
    for (int i = 0; i < l->count; i++) {
        for (int k = l->count - 1; k > i && l->dimensions[i].stub; k--) {
            if (l->dimensions[k].stub && strcmp(l->dimensions[i].name, l->dimensions[k].name) == 0 &&
                strcmp(l->dimensions[i].resource, l->dimensions[k].resource) == 0) {
                ledger_dimension_drop(l, k);
            }
        }
    }
}

/* How far two readings of one reset may lie apart. */
static int64_t reset_slack(const struct observed_dimension *o, int64_t sent, int64_t received) {
    if (o->reset == RESET_AT) {
        return NS_PER_S / 2;
    }
    int64_t under_way = received - sent < 60 * NS_PER_S ? received - sent : 60 * NS_PER_S;
    return (o->reset_ns % NS_PER_S == 0 ? NS_PER_S : NS_PER_S / 20) + under_way;
}

/* May the window be so short that its reset and that of the next, as they are told, cannot be told apart? Of a window that nobody has
 * told this is thought whenever the reset is near: near the end of a long one, then, it is later by up to a second. */
static bool may_be_short(const struct ledger_dimension *d, const struct observed_dimension *o, int64_t slack) {
    int64_t window = d->window_ns > 0 ? d->window_ns : o->reset_ns;
    return o->reset == RESET_AFTER && window <= 2 * slack;
}

/* Is this reset the one that has passed already? */
static bool is_passed_reset(const struct ledger_dimension *d, const struct observed_dimension *o, int64_t raw,
                            int64_t slack) {
    if (o->reset == RESET_AT) {
        int64_t apart = raw > d->turned_said_ns ? raw - d->turned_said_ns : d->turned_said_ns - raw;
        return d->reset_is_theirs && apart <= slack;
    }
    return raw <= d->turned_ns + slack;
}

static void set_reset(struct ledger_dimension *d, int64_t raw, bool theirs, bool assumed) {
    d->reset_ns = raw > 0 ? raw : 1;
    d->reset_is_theirs = theirs;
    d->reset_assumed = assumed;
}

/* The reset of the window that the word is about: `raw` by the clock that said it. */
static void hear_reset(const struct ledger *l, struct ledger_dimension *d, const struct observed_dimension *o,
                       int64_t raw, int64_t slack, int64_t remaining, int64_t sent, int64_t received) {
    int64_t current = ledger_dimension_reset(l, d);
    if (o->reset == RESET_UNSAID) { /* a window is over at the latest when it has lasted since we first heard of it */
        if (current == 0 && d->window_ns > 0 && remaining > 0) {
            set_reset(d, instant(received + d->window_ns), false, true);
        }
        return;
    }
    bool theirs = o->reset == RESET_AT, seconds = o->reset_ns % NS_PER_S == 0;
    int64_t local = instant((theirs ? raw - l->clock_lo_ns : raw) + d->grace_ns);
    if (local <= received) {
        if (remaining > 0) {
            return; /* over, it says, and there is some left: nothing to wait for */
        }
        if (seconds && d->grace_ns == 0) { /* it is not over: these seconds are cut */
            d->grace_ns = NS_PER_S;
            set_reset(d, raw, theirs, false);
        } else {
            d->reset_ns = 0;
        }
        return;
    }
    if (current > received && !d->reset_assumed && theirs == d->reset_is_theirs) {
        bool newer = d->word_count == 0 || sent >= d->words[d->word_count - 1].received_ns;
        if (!theirs && seconds && !d->reset_moves && !may_be_short(d, o, slack)) {
            /* Seconds that are rounded up come down on the instant: the least of them is nearest. */
            if (local >= current && local - current <= slack) {
                return;
            }
            d->reset_moves = local > current;
        } else if (!newer && local < current) {
            return; /* what moves on was heard of already */
        } else if (!theirs && seconds && local > current && d->trust >= LEDGER_TRUST) {
            /* Perhaps it is that of the next window: so the later one holds. That it is kept does not tell how seconds are rounded. */
            d->trust = LEDGER_TRUST - 1;
        }
    }
    set_reset(d, raw, theirs, false);
}

static void hear(struct ledger *l, const struct ledger_ticket *t, const struct observed_dimension *o, int64_t sent,
                 int64_t received, uint32_t *told) {
    struct ledger_dimension *d = dimension_for(l, o, received);
    if (d == NULL) {
        return;
    }
    uint32_t id = *told = d->id;
    yield_to(l, d);
    d = find_id(l, id);
    int64_t mine = taken_of(l, t, d), remaining = o->remaining;
    ledger_dimension_turn(l, d, received);
    if (o->limit > 0) {
        d->limit = o->limit < LEDGER_AMOUNT_MAX ? o->limit : LEDGER_AMOUNT_MAX;
    }
    if (o->window_ns > 0 && o->window_ns <= QUOTA_PERIOD_MAX) {
        d->window_ns = o->window_ns;
    }
    bool said = o->reset != RESET_UNSAID && o->reset_ns >= 0 && o->reset_ns < CLOCK_END;
    struct observed_dimension heard = *o;
    heard.reset = said ? o->reset : RESET_UNSAID;
    int64_t raw = !said ? 0 : o->reset == RESET_AT ? o->reset_ns : instant(received + o->reset_ns);
    int64_t slack = reset_slack(&heard, sent, received);
    d->seen_ns = received;
    if (remaining == UNSAID) {
        if (d->word_count == 0 && d->limit != UNSAID) {
            ledger_dimension_say(d, d->limit, sent, received);
        }
        ledger_dimension_spend(d, mine, received);
        hear_reset(l, d, &heard, raw, slack, 1, sent, received);
        d->probing = false;
        goto done;
    }
    remaining = remaining < 0 ? 0 : remaining < LEDGER_AMOUNT_MAX ? remaining : LEDGER_AMOUNT_MAX;
    bool passed = said && d->turned_ns > 0 && is_passed_reset(d, &heard, raw, slack);
    bool short_window = o->reset == RESET_AFTER && d->window_ns > 0 && d->window_ns <= 2 * slack;
    if (sent < d->turned_ns && (passed || !said)) {
        if (short_window || !said) { /* which window it was cannot be told: it may have been counted in this one */
            ledger_dimension_spend(d, mine, received);
        }
        return;
    }
    if (d->turned && sent >= d->turned_ns) { /* the first word after the reset: has it kept its promise? */
        int64_t expected = ledger_dimension_granted(d);
        int64_t others = ledger_dimension_in_flight(l, d, received);
        bool whole = remaining >= expected - mine - (others < expected ? others : expected);
        d->turned = false;
        d->trust = !whole ? 0 : d->trust < 2 * LEDGER_TRUST ? d->trust + 1 : d->trust;
        if (!said && d->reset_assumed) {
            d->reset_ns = 0; /* the new window began with this request, or it has not begun */
        }
        bool cut = o->reset_ns % NS_PER_S == 0;
        if (!whole && passed && cut &&
            !short_window) { /* the old window is still there: this server's seconds are cut */
            d->grace_ns = d->grace_ns + NS_PER_S < GRACE_MAX_NS ? d->grace_ns + NS_PER_S : GRACE_MAX_NS;
            d->word_count = 0;
            d->reset_ns = 0;
        } else if (!whole) {
            d->reset_moves = true; /* for all we know */
        }
    }
    hear_reset(l, d, &heard, raw, slack, remaining, sent, received);
    ledger_dimension_say(d, remaining, sent, received);
    d->probing = false;
    if (remaining > 0) {
        d->misses = 0;
    } else if (d->probe_ns > 0 && sent >= d->probe_ns - LEDGER_PATIENCE_NS) {
        d->misses = d->misses < UINT8_MAX ? d->misses + 1 : d->misses;
    }
    d->probe_ns = 0;
done:
    d->source = d->limit != UNSAID && d->reset_ns != 0 && !d->reset_assumed ? LEDGER_CONFIRMED : LEDGER_ESTIMATED;
}

/* ---- Retry-After ---- */

static void block(int64_t *until, int64_t instant_ns) {
    *until = instant_ns > *until ? instant_ns : *until;
}

static void hear_retry(struct ledger *l, const struct ledger_ticket *t, const struct observation *o, int64_t received) {
    if (o->retry == RESET_UNSAID || o->retry_ns < 0 || o->retry_ns >= CLOCK_END) {
        return;
    }
    int64_t until = instant(o->retry == RESET_AT ? o->retry_ns - l->clock_lo_ns : received + o->retry_ns);
    char resource[LEDGER_NAME_MAX];
    memcpy(resource, t->resource, sizeof resource);
    if (o->count > 0) {
        ledger_name_copy(resource, o->dimensions[0].resource);
    }
    for (int i = 0; i < l->count; i++) { /* where nobody has told when an exhausted limit resets, this does */
        struct ledger_dimension *d = &l->dimensions[i];
        if (d->word_count > 0 && ledger_dimension_granted(d) == 0 && d->reset_ns == 0 && d->seen_ns == received) {
            set_reset(d, until, false, true);
        }
    }
    if (o->retry_is_for_all || resource[0] == 0) {
        block(&l->blocked_ns, until);
        return;
    }
    bool any = false;
    for (int i = 0; i < l->count; i++) {
        if (strcmp(l->dimensions[i].resource, resource) == 0) {
            block(&l->dimensions[i].blocked_ns, until);
            any = true;
        }
    }
    struct ledger_dimension *d = any ? NULL : ledger_dimension_add(l, "requests", resource, received);
    if (d != NULL) {
        d->stub = true;
        d->blocked_ns = until;
    }
}

/* ---- the end of a request ---- */

void ledger_observe(struct ledger *l, const struct ledger_ticket *t, const struct observation *o, int64_t sent,
                    int64_t received) {
    uint32_t told[OBSERVED_DIMENSIONS_MAX] = {0};
    int heard = o == NULL ? 0 : o->count < 0 ? 0 : o->count;
    heard = heard < OBSERVED_DIMENSIONS_MAX ? heard : OBSERVED_DIMENSIONS_MAX;
    received = instant(received);
    sent = sent < 0 ? 0 : sent < received ? sent : received;
    for (int i = 0; i < t->count; i++) {
        struct ledger_dimension *d = find_id(l, t->taken[i].id);
        if (d != NULL) {
            release(d, t->slot, t->taken[i].amount);
        }
    }
    if (o != NULL && o->date_ns != UNSAID) {
        hear_clock(l, o->date_ns, sent, received);
    }
    for (int i = 0; i < heard; i++) {
        hear(l, t, &o->dimensions[i], sent, received, &told[i]);
    }
    for (int i = 0; i < t->count; i++) { /* what the response did not speak of was spent all the same */
        struct ledger_dimension *d = find_id(l, t->taken[i].id);
        bool mentioned = d == NULL || t->taken[i].amount == 0;
        for (int k = 0; k < heard && !mentioned; k++) {
            mentioned = told[k] == d->id;
        }
        if (!mentioned) {
            ledger_dimension_spend(d, t->taken[i].amount, received);
            d->probing = false;
        }
    }
    if (o != NULL) {
        hear_retry(l, t, o, received);
    }
}

void ledger_fail(struct ledger *l, const struct ledger_ticket *t, bool was_sent, int64_t now) {
    now = instant(now);
    for (int i = 0; i < t->count; i++) {
        struct ledger_dimension *d = find_id(l, t->taken[i].id);
        int64_t amount = t->taken[i].amount;
        struct quota q;
        if (d == NULL || amount == 0) {
            continue;
        }
        if (was_sent && d->stub) {
            continue; /* the first header is to find it counted */
        }
        release(d, t->slot, amount);
        d->probe_ns = 0;
        if (d->bucket && !was_sent && ledger_quota(d, &q)) {
            algorithm_refund(GCRA, &d->state, &q, amount, now);
        } else if (!d->bucket && was_sent) {
            ledger_dimension_spend(d, amount, now);
        }
    }
}
