/* Decisions in shared memory: see shared_table.h.
 *
 * Whatever is read from the file may be anything, so states are held against their bounds before the arithmetic sees them; one that
 * cannot be is taken as none. */
#include "shared_table.h"

#include <string.h>

#include "siphash.h"

static const uint64_t no_key[2];

uint64_t shared_seed(const char *text, size_t length) {
    uint64_t hash[2];
    siphash128(no_key, text, length, hash);
    return hash[0];
}

uint64_t shared_tag(const char *text, size_t length, enum algorithm_id algorithm) {
    return shared_seed(text, length) << SPACE_ALGORITHM_BITS | (uint64_t)algorithm;
}

/* ---- one visit to a bucket ---- */

struct visit {
    struct shared_hold hold;
    uint32_t payload;
    uint64_t hash[2];
    uint32_t index;
    int64_t now;
    int cells[QUOTA_RULES_MAX]; /* of the plan's rules; -1: none */
};

void shared_table_hash(const struct shared_table *t, const struct shared_plan *ids, const struct table_key *key,
                       uint64_t hash[2]) {
    siphash128_seeded(t->file->hash_key, ids->seed, key->bytes, key->length, hash);
}

static void find_bucket(const struct shared_table *t, const uint64_t hash[2], struct visit *v) {
    v->hash[0] = hash[0];
    v->hash[1] = hash[1];
    v->index = (uint32_t)((uwide)hash[0] * t->file->layout.buckets >> 64);
}

static uint16_t mark_of(const uint64_t hash[2]) {
    return (uint16_t)hash[1];
}

static int find_cell(const struct visit *v, uint64_t tag) {
    const struct shared_bucket *b = v->hold.bucket;
    uint16_t mark = mark_of(v->hash);
    for (uint32_t live = payload_live(v->payload); live != 0; live &= live - 1) {
        int i = __builtin_ctz(live);
        const struct shared_cell *c = &b->cells[i];
        if (b->marks[i] == mark && c->hash[0] == v->hash[0] && c->hash[1] == v->hash[1] && c->tag == tag) {
            return i;
        }
    }
    return -1;
}

static inline struct state *held_state(const struct visit *v, int cell) {
    return bucket_state(v->hold.bucket, cell, payload_place(v->payload, cell));
}

static inline struct state cell_state(const struct visit *v, int cell, enum algorithm_id algorithm) {
    struct state none = {{0, 0, 0}};
    if (cell < 0) {
        return none;
    }
    const struct state *s = held_state(v, cell);
    return algorithm_may_have(algorithm, s) ? *s : none;
}

/* For windows the clock is read under the lock: else a call that was held up would take the window of the others for one that has
 * not begun. A bucket's call that was held up only asks as of a moment before, when less was free. */
static inline enum shared_enter visit_begin(struct shared_table *t, const struct plan *p, bool patient, struct visit *v,
                                            struct shared_error *error) {
    struct shared_bucket *b = &t->file->buckets[v->index];
    __builtin_prefetch(b, 1); /* the line comes from another processor while the clock is read */
    v->now = shared_table_now(t);
    enum shared_enter end = shared_bucket_enter(t->file, v->index, patient, &v->hold, error);
    if (end == SHARED_ENTERED) {
        if (!algorithm_is_bucket(p->algorithm)) {
            v->now = shared_table_now(t);
        }
        v->payload = hold_payload(&v->hold);
    }
    return end;
}

/* ---- room for new cells ---- */

static float share_of(const struct shared_cell *c, const struct state *s, int64_t now) {
    struct quota q;
    struct quota_error error;
    if (!quota_init(&q, c->limit, c->period_ns, c->burst, &error)) {
        return 0;
    }
    enum algorithm_id algorithm = (enum algorithm_id)(c->tag & ((1 << SPACE_ALGORITHM_BITS) - 1));
    return algorithm_share(algorithm, s, algorithm_scale(algorithm, &q), now);
}

static uint32_t group_of(const struct shared_plan *ids) {
    return (uint32_t)(ids->seed >> 32 ^ ids->seed);
}

static bool is_same_limit(const struct shared_cell *a, const struct shared_cell *b) {
    return a->group == b->group && a->tag == b->tag && a->limit == b->limit && a->period_ns == b->period_ns &&
           a->burst == b->burst;
}

/* Those of `cells` that are of the prefix with the most of them, one more counted for `own`, which is also chosen among equals. */
static uint32_t of_largest_group(const struct shared_bucket *b, uint32_t cells, uint32_t own) {
    uint32_t found = 0;
    int most = 0;
    for (uint32_t left = cells; left != 0; left &= left - 1) {
        uint32_t group = b->cells[__builtin_ctz(left)].group, same = 0;
        for (int i = 0; i < BUCKET_CELLS; i++) {
            same |= b->cells[i].group == group ? UINT32_C(1) << i & cells : 0;
        }
        int held = 2 * (__builtin_popcount(same) + (group == own)) + (group == own);
        if (held > most) {
            most = held;
            found = same;
        }
    }
    return found;
}

/* Those that are of the limit with the most of them. */
static uint32_t of_largest_limit(const struct shared_bucket *b, uint32_t cells) {
    uint32_t found = 0;
    for (uint32_t left = cells; left != 0; left &= left - 1) {
        const struct shared_cell *c = &b->cells[__builtin_ctz(left)];
        uint32_t same = 0;
        for (int i = 0; i < BUCKET_CELLS; i++) {
            same |= is_same_limit(c, &b->cells[i]) ? UINT32_C(1) << i & cells : 0;
        }
        found = __builtin_popcount(same) > __builtin_popcount(found) ? same : found;
    }
    return found;
}

/* The live cell that makes room for one of `group`, by the rules of victim.h, with the bucket for a shard. -1: all are spared. */
static int choose_victim(const struct visit *v, uint32_t group, uint32_t spared) {
    const struct shared_bucket *b = v->hold.bucket;
    uint32_t cells = ~spared & 0xFFFF;
    float shares[BUCKET_CELLS] = {0}, smallest = 0;
    bool all_at_limit = true;
    for (uint32_t left = cells; left != 0; left &= left - 1) {
        int i = __builtin_ctz(left);
        shares[i] = share_of(&b->cells[i], held_state(v, i), v->now);
        all_at_limit &= shares[i] > SHARE_AT_LIMIT;
    }
    if (all_at_limit) {
        cells = of_largest_limit(b, of_largest_group(b, cells, group));
    }
    int victim = -1;
    int64_t earliest = 0;
    for (uint32_t left = cells; left != 0; left &= left - 1) {
        int i = __builtin_ctz(left);
        int64_t expires = held_state(v, i)->word[0];
        float share = all_at_limit ? 0 : shares[i];
        if (victim < 0 || share < smallest || (share == smallest && expires < earliest)) {
            victim = i;
            smallest = share;
            earliest = expires;
        }
    }
    return victim;
}

static uint32_t expired_cells(const struct visit *v) {
    uint32_t expired = 0;
    for (uint32_t live = payload_live(v->payload); live != 0; live &= live - 1) {
        int i = __builtin_ctz(live);
        if (held_state(v, i)->word[0] <= v->now) {
            expired |= UINT32_C(1) << i;
        }
    }
    return expired;
}

/* Cells for the rules that have none, in v->cells; those that are dropped for them are not live any more when it is OUTCOME_ADMITTED.
 * OUTCOME_DENIED: robbed. */
static enum outcome_kind make_room(struct shared_table *t, const struct shared_plan *ids, struct visit *v,
                                   uint32_t wanted, int count) {
    uint32_t live = payload_live(v->payload), spared = 0, dropped = 0, taken = 0;
    int64_t evicted = 0;
    for (int r = 0; r < count; r++) {
        spared |= v->cells[r] >= 0 ? UINT32_C(1) << v->cells[r] : 0;
    }
    uint32_t free = ~live & 0xFFFF, expired = 0;
    bool looked = false;
    for (int r = 0; r < count; r++) {
        if (!(wanted >> r & 1)) {
            continue;
        }
        if (free == 0 && !looked) {
            looked = true;
            expired = expired_cells(v) & ~spared;
            free |= expired;
        }
        int cell;
        if (free != 0) {
            cell = __builtin_ctz(free);
            free &= free - 1;
        } else if (t->when_full == TABLE_REFUSE) {
            return OUTCOME_FULL;
        } else {
            cell = choose_victim(v, group_of(ids), spared | taken);
            if (cell < 0) { /* not with as many cells as rules */
                return OUTCOME_FULL;
            }
            evicted++;
        }
        taken |= UINT32_C(1) << cell;
        dropped |= UINT32_C(1) << cell & live;
        v->cells[r] = cell;
    }
    if (dropped != 0) {
        v->payload &= ~dropped;
        if (!shared_bucket_commit(&v->hold, v->payload)) {
            return OUTCOME_DENIED;
        }
    }
    if (evicted > 0) {
        atomic_fetch_add_explicit(&t->evictions, evicted, memory_order_relaxed);
        atomic_fetch_add_explicit(&t->file->header->evictions, (uint64_t)evicted, memory_order_relaxed);
    }
    return OUTCOME_ADMITTED;
}

/* The key as people read it: a text is not cut within a character. */
static void write_text(struct shared_cell *c, const struct table_key *key) {
    size_t length = key->length;
    if (length > CELL_TEXT) {
        length = CELL_TEXT;
        while (length > CELL_TEXT - 4 && ((unsigned char)key->bytes[length] & 0xC0) == 0x80) {
            length--;
        }
    }
    memset(c->text, 0, sizeof c->text);
    memcpy(c->text, key->bytes, length);
    c->key_length = (uint32_t)key->length;
}

static void write_identity(struct visit *v, int cell, const struct rule *r, uint64_t tag, uint32_t group,
                           const struct table_key *key) {
    struct shared_cell *c = &v->hold.bucket->cells[cell];
    v->hold.bucket->marks[cell] = mark_of(v->hash);
    memcpy(c->hash, v->hash, sizeof c->hash);
    c->tag = tag;
    c->group = group;
    c->limit = r->quota.limit;
    c->period_ns = r->quota.period_ns;
    c->burst = r->quota.burst;
    write_text(c, key);
    atomic_store_explicit(&c->admitted, 0, memory_order_relaxed);
    atomic_store_explicit(&c->denied, 0, memory_order_relaxed);
    if (cell == 0) {
        atomic_store_explicit(&v->hold.bucket->lock.own, 0, memory_order_relaxed);
    }
}

/* ---- writing states: to the places that do not hold ---- */

static uint32_t place_state(struct visit *v, uint32_t payload, int cell, const struct state *s) {
    uint32_t which = UINT32_C(1) << (BUCKET_CELLS + cell);
    uint32_t turned = payload ^ which;
    *bucket_state(v->hold.bucket, cell, payload_place(turned, cell)) = *s;
    return turned | UINT32_C(1) << cell;
}

/* Gives cells to the rules in `wanted`, which have none. */
static enum outcome_kind add_cells(struct shared_table *t, const struct plan *p, const struct shared_plan *ids,
                                   const struct table_key *key, uint32_t wanted, struct visit *v) {
    enum outcome_kind kind = make_room(t, ids, v, wanted, p->count);
    for (int r = 0; kind == OUTCOME_ADMITTED && r < p->count; r++) {
        if (wanted >> r & 1) {
            write_identity(v, v->cells[r], &p->rules[r], ids->tags[r], group_of(ids), key);
        }
    }
    return kind;
}

/* ---- deciding ---- */

/* When the first key of the bucket may expire, so that there may be room again. */
static int64_t wait_for_room(const struct visit *v) {
    int64_t next = INT64_MAX;
    for (uint32_t live = payload_live(v->payload); live != 0; live &= live - 1) {
        int i = __builtin_ctz(live);
        int64_t at = held_state(v, i)->word[0];
        next = at > v->now && at < next ? at : next;
    }
    return next == INT64_MAX ? WAIT_NEVER : next - v->now;
}

/* One attempt. False: robbed in the middle of it. */
static bool visit_decide(struct shared_table *t, const struct plan *p, const struct shared_plan *ids,
                         const struct table_key *key, int64_t cost, struct visit *v, struct outcome *out) {
    struct state before[QUOTA_RULES_MAX], after[QUOTA_RULES_MAX];
    uint32_t wanted = 0;
    bool admitted = true;
    if (v->hold.contended && p->count == 1) {
        int cell = find_cell(v, ids->tags[0]);
        if (cell > 0 && !shared_bucket_promote(&v->hold, &cell)) {
            return false;
        }
        v->payload = hold_payload(&v->hold);
    }
    for (int r = 0; r < p->count; r++) {
        const struct rule *rule = &p->rules[r];
        v->cells[r] = find_cell(v, ids->tags[r]);
        before[r] = after[r] = cell_state(v, v->cells[r], p->algorithm);
        wanted |= v->cells[r] < 0 ? UINT32_C(1) << r : 0;
        admitted &= algorithm_step(p->algorithm, &after[r], &rule->quota, rule_cost(rule, cost), v->now);
    }
    enum outcome_kind kind = admitted ? OUTCOME_ADMITTED : OUTCOME_DENIED;
    uint32_t payload = v->payload;
    out->wait_ns = -1;
    if (admitted && cost > 0) {
        if (wanted != 0) {
            kind = add_cells(t, p, ids, key, wanted, v);
            if (kind == OUTCOME_DENIED) {
                return false;
            }
            out->wait_ns = kind == OUTCOME_FULL ? wait_for_room(v) : -1;
            payload = v->payload;
        }
        for (int r = 0; r < p->count && kind == OUTCOME_ADMITTED; r++) {
            payload = place_state(v, payload, v->cells[r], &after[r]);
            shared_bucket_count(v->hold.bucket, v->cells[r], (uint64_t)rule_cost(&p->rules[r], cost), 0);
        }
    } else if (!admitted) {
        for (int r = 0; r < p->count; r++) {
            if (v->cells[r] >= 0) {
                shared_bucket_count(v->hold.bucket, v->cells[r], 0, 1);
            }
        }
    }
    if (!shared_bucket_leave(&v->hold, payload)) {
        return false;
    }
    out->kind = kind;
    out->now = v->now;
    if (p->count == 1) {
        out->rule = 0;
        out->state = kind == OUTCOME_ADMITTED ? after[0] : before[0];
        out->denied_cost = kind == OUTCOME_ADMITTED ? 0 : rule_cost(&p->rules[0], cost);
    } else {
        int64_t denied_cost = kind == OUTCOME_ADMITTED ? 0 : cost;
        plan_choose_tightest(p, kind == OUTCOME_ADMITTED ? after : before, denied_cost, v->now, out);
    }
    return true;
}

/* The usual case, kept short: one rule, and the key is there or is not admitted. True as `decide`; *other: it is for `decide`. */
static inline bool decide_one(const struct plan *p, const struct shared_plan *ids, int64_t cost, struct visit *v,
                              struct outcome *out, bool *other) {
    const struct rule *rule = &p->rules[0];
    int cell = find_cell(v, ids->tags[0]);
    cost = rule_cost(rule, cost);
    if (cell < 0 || (v->hold.contended && cell != 0)) {
        *other = true;
        return false;
    }
    struct state state = cell_state(v, cell, p->algorithm);
    bool admitted = algorithm_step(p->algorithm, &state, &rule->quota, cost, v->now);
    uint32_t payload = v->payload;
    if (cost > 0) {
        payload = admitted ? place_state(v, payload, cell, &state) : payload;
        shared_bucket_count(v->hold.bucket, cell, admitted ? (uint64_t)cost : 0, !admitted);
    }
    out->kind = admitted ? OUTCOME_ADMITTED : OUTCOME_DENIED;
    out->rule = 0;
    out->state = state;
    out->now = v->now;
    out->denied_cost = admitted ? 0 : cost;
    out->wait_ns = -1;
    return shared_bucket_leave(&v->hold, payload);
}

enum shared_enter shared_table_limit(struct shared_table *t, const struct plan *p, const struct shared_plan *ids,
                                     const struct table_key *key, const uint64_t hash[2], int64_t cost, bool patient,
                                     struct outcome *out, struct shared_error *error) {
    struct visit v;
    find_bucket(t, hash, &v);
    for (;;) {
        enum shared_enter end = visit_begin(t, p, patient, &v, error);
        bool other = p->count > 1;
        if (end == SHARED_ENTERED && !other && decide_one(p, ids, cost, &v, out, &other)) {
            return end;
        }
        if (end == SHARED_ENTERED && !other) {
            continue;
        }
        if (end != SHARED_ENTERED || visit_decide(t, p, ids, key, cost, &v, out)) {
            return end;
        }
    }
}

/* ---- changing ---- */

static bool is_none(const struct state *s) {
    return s->word[0] == 0 && s->word[1] == 0 && s->word[2] == 0;
}

static bool change_once(struct shared_table *t, const struct plan *p, const struct shared_plan *ids,
                        const struct table_key *key, void (*change)(void *context, struct state *states), void *context,
                        struct visit *v, enum outcome_kind *end) {
    struct state states[QUOTA_RULES_MAX], found[QUOTA_RULES_MAX];
    uint32_t wanted = 0, drop = 0;
    memset(states, 0, sizeof states);
    for (int r = 0; r < p->count; r++) {
        v->cells[r] = find_cell(v, ids->tags[r]);
        states[r] = found[r] = cell_state(v, v->cells[r], p->algorithm);
    }
    change(context, states);
    for (int r = 0; r < p->count; r++) {
        if (is_none(&states[r])) {
            drop |= v->cells[r] >= 0 ? UINT32_C(1) << v->cells[r] : 0;
        } else {
            wanted |= v->cells[r] < 0 ? UINT32_C(1) << r : 0;
        }
    }
    *end = wanted != 0 ? add_cells(t, p, ids, key, wanted, v) : OUTCOME_ADMITTED;
    if (*end == OUTCOME_DENIED) {
        return false;
    }
    uint32_t payload = v->payload;
    for (int r = 0; r < p->count && *end == OUTCOME_ADMITTED; r++) {
        if (!is_none(&states[r]) && memcmp(&states[r], &found[r], sizeof states[r]) != 0) {
            payload = place_state(v, payload, v->cells[r], &states[r]);
        }
    }
    return shared_bucket_leave(&v->hold, *end == OUTCOME_ADMITTED ? payload & ~drop : payload);
}

enum shared_enter shared_table_change(struct shared_table *t, const struct plan *p, const struct shared_plan *ids,
                                      const struct table_key *key, const uint64_t hash[2],
                                      void (*change)(void *context, struct state *states), void *context, bool patient,
                                      enum outcome_kind *end, struct shared_error *error) {
    struct visit v;
    find_bucket(t, hash, &v);
    for (;;) {
        enum shared_enter entered = visit_begin(t, p, patient, &v, error);
        if (entered != SHARED_ENTERED || change_once(t, p, ids, key, change, context, &v, end)) {
            return entered;
        }
    }
}

/* ---- the whole table ---- */

enum shared_enter shared_table_clear(struct shared_table *t, struct shared_error *error) {
    for (uint32_t i = 0; i < t->file->layout.buckets; i++) {
        struct shared_hold hold;
        if (payload_live((uint32_t)atomic_load_explicit(&t->file->buckets[i].lock.word, memory_order_relaxed)) == 0 &&
            !(atomic_load_explicit(&t->file->buckets[i].lock.word, memory_order_relaxed) & SHARED_MOVED)) {
            continue;
        }
        do {
            if (shared_bucket_enter(t->file, i, true, &hold, error) != SHARED_ENTERED) {
                return SHARED_FAILED;
            }
        } while (!shared_bucket_leave(&hold, 0));
    }
    return SHARED_ENTERED;
}

static bool read_entry(const struct shared_cell *c, const struct state *s, int64_t now, struct shared_entry *e) {
    struct quota_error error;
    e->algorithm = (enum algorithm_id)(c->tag & ((1 << SPACE_ALGORITHM_BITS) - 1));
    if (e->algorithm >= ALGORITHM_COUNT || s->word[0] <= now || !algorithm_may_have(e->algorithm, s) ||
        !quota_init(&e->quota, c->limit, c->period_ns, c->burst, &error)) {
        return false;
    }
    e->state = *s;
    e->admitted = atomic_load_explicit(&c->admitted, memory_order_relaxed);
    e->denied = atomic_load_explicit(&c->denied, memory_order_relaxed);
    e->key_length = c->key_length;
    e->text_length = c->key_length < CELL_TEXT ? c->key_length : CELL_TEXT;
    if (c->key_length > CELL_TEXT) {
        while (e->text_length > 0 && c->text[e->text_length - 1] == 0) { /* cut before a character */
            e->text_length--;
        }
    }
    memcpy(e->text, c->text, sizeof e->text);
    return true;
}

int shared_table_look(struct shared_table *t, uint32_t index, struct shared_entry entries[BUCKET_CELLS]) {
    struct shared_cell cells[BUCKET_CELLS];
    uint32_t live = shared_bucket_read(t->file, index, cells);
    int64_t now = shared_table_now(t);
    int count = 0;
    for (int i = 0; i < BUCKET_CELLS; i++) {
        if (payload_is_live(live, i)) {
            count += read_entry(&cells[i], &cells[i].states[0], now, &entries[count]);
        }
    }
    return count;
}

int64_t shared_table_count(struct shared_table *t) {
    int64_t count = 0;
    int64_t now = shared_table_now(t);
    struct shared_cell cells[BUCKET_CELLS];
    for (uint32_t i = 0; i < t->file->layout.buckets; i++) {
        if (atomic_load_explicit(&t->file->buckets[i].lock.word, memory_order_relaxed) == 0) {
            continue; /* never used: mostly so */
        }
        uint32_t live = shared_bucket_read(t->file, i, cells);
        for (int cell = 0; cell < BUCKET_CELLS; cell++) {
            count += payload_is_live(live, cell) && cells[cell].states[0].word[0] > now;
        }
    }
    return count;
}
