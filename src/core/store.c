/* Decisions on a table: one rule, or several that must all admit. Lines are in store_lines.c. */
#include "store.h"

#include <string.h>

#include "store_lines.h"

/* A lock that nobody else can hold still costs two atomic operations, 10 of 70 ns a call: callers who take turns go without. */
static inline void shard_enter(const struct store *s, struct shard *shard) {
    if (!s->exclusive) {
        lock_acquire(&shard->lock);
    }
}

static inline void shard_leave(const struct store *s, struct shard *shard) {
    if (!s->exclusive) {
        lock_release(&shard->lock);
    }
}

/* All rules of a plan on one key lie in one shard, and what shares neither prefix nor algorithm in any: one key under many prefixes
 * fills no single shard. */
static inline struct shard *shard_of(const struct store *s, const struct plan *p, const struct table_key *key) {
    return table_shard(&s->table, key->hash ^ p->salt);
}

/* Under the shard's lock. */
static inline int64_t instant_of(const struct store *s, int64_t now) {
    return now != STORE_NOW ? now : store_now(s);
}

static struct state state_of(const struct shard *shard, uint32_t cell) {
    return cell == CELL_NONE ? (struct state){{0, 0, 0}} : shard->cells[cell].state;
}

/* The usual case, kept short: one rule, one probe. */
static void decide_one(struct store *s, const struct plan *p, const struct table_key *key, int64_t cost, int64_t now,
                       struct outcome *out) {
    const struct rule *r = &p->rules[0];
    struct shard *shard = shard_of(s, p, key);
    shard_enter(s, shard);
    now = instant_of(s, now);
    uint32_t n = table_find(shard, r->space, key);
    struct state state = state_of(shard, n);
    enum outcome_kind kind = OUTCOME_DENIED;
    if (algorithm_step(p->algorithm, &state, &r->quota, cost, now)) {
        kind = OUTCOME_ADMITTED;
        if (cost > 0 && n == CELL_NONE) {
            enum table_end end = table_insert(&s->table, shard, r->space, key, now, NULL, &n);
            kind = end == TABLE_OK ? OUTCOME_ADMITTED : end == TABLE_FULL ? OUTCOME_FULL : OUTCOME_NO_MEMORY;
        }
        if (cost > 0 && kind == OUTCOME_ADMITTED) {
            struct cell *c = &shard->cells[n];
            c->state = state;
            table_touch(shard, c, &r->quota, now);
        }
    }
    shard_leave(s, shard);
    out->kind = kind;
    out->rule = 0;
    out->state = state;
    out->now = now;
    out->denied_cost = kind == OUTCOME_ADMITTED ? 0 : cost;
    out->wait_ns = -1;
}

/* Of several rules the tightest speaks: denied, the one with the longest wait; admitted, the one with the fewest remaining,
 * then the longest reset. */
void plan_choose_tightest(const struct plan *p, const struct state *states, int64_t denied_cost, int64_t now,
                          struct outcome *out) {
    struct decision best = {0}, d;
    for (int i = 0; i < p->count; i++) {
        int64_t cost = rule_cost(&p->rules[i], denied_cost);
        algorithm_report(p->algorithm, &states[i], &p->rules[i].quota, cost, now, &d);
        if (i == 0 || decision_is_tighter(&d, &best, denied_cost > 0)) {
            best = d;
            out->rule = i;
            out->denied_cost = cost;
        }
    }
    out->state = states[out->rule];
}

bool plan_never_fits(const struct plan *p, int64_t cost) {
    for (int i = 0; i < p->count; i++) {
        struct state fresh = {{0, 0, 0}};
        int64_t asked = rule_cost(&p->rules[i], cost);
        if (algorithm_wait(p->algorithm, &fresh, &p->rules[i].quota, asked, 0) == WAIT_NEVER) {
            return true;
        }
    }
    return false;
}

static void decide_all(struct store *s, const struct plan *p, const struct table_key *key, int64_t cost, int64_t now,
                       struct outcome *out) {
    struct state before[QUOTA_RULES_MAX], after[QUOTA_RULES_MAX];
    uint32_t cells[QUOTA_RULES_MAX], fresh[QUOTA_RULES_MAX];
    const struct table_spared spared = {cells, p->count};
    int fresh_count = 0;
    struct shard *shard = shard_of(s, p, key);
    bool admitted = true;

    shard_enter(s, shard);
    now = instant_of(s, now);
    *out = (struct outcome){.kind = OUTCOME_DENIED, .now = now, .wait_ns = -1};
    for (int i = 0; i < p->count; i++) {
        cells[i] = table_find(shard, p->rules[i].space, key);
        before[i] = after[i] = state_of(shard, cells[i]);
        if (!algorithm_step(p->algorithm, &after[i], &p->rules[i].quota, rule_cost(&p->rules[i], cost), now)) {
            admitted = false;
        }
    }
    if (admitted) {
        out->kind = OUTCOME_ADMITTED;
        for (int i = 0; cost > 0 && i < p->count && out->kind == OUTCOME_ADMITTED; i++) {
            if (cells[i] == CELL_NONE) {
                enum table_end end = table_insert(&s->table, shard, p->rules[i].space, key, now, &spared, &cells[i]);
                if (end == TABLE_OK) {
                    fresh[fresh_count++] = cells[i];
                } else {
                    out->kind = end == TABLE_FULL ? OUTCOME_FULL : OUTCOME_NO_MEMORY;
                }
            }
        }
        if (out->kind == OUTCOME_ADMITTED) {
            for (int i = 0; cost > 0 && i < p->count; i++) {
                struct cell *c = &shard->cells[cells[i]];
                c->state = after[i];
                table_touch(shard, c, &p->rules[i].quota, now);
            }
        } else {
            while (fresh_count > 0) {
                table_remove(&s->table, shard, fresh[--fresh_count]);
            }
        }
    }
    shard_leave(s, shard);
    admitted = out->kind == OUTCOME_ADMITTED;
    plan_choose_tightest(p, admitted ? after : before, admitted ? 0 : cost, now, out);
}

void store_decide(struct store *s, const struct plan *p, const struct table_key *key, int64_t cost, int64_t now,
                  struct outcome *out) {
    if (p->count == 1) {
        decide_one(s, p, key, cost, now, out);
    } else {
        decide_all(s, p, key, cost, now, out);
    }
    if (out->kind == OUTCOME_FULL) {
        int64_t next = table_next_expiry(&s->table);
        out->wait_ns = next == INT64_MAX ? WAIT_NEVER : next > out->now ? next - out->now : NS_PER_MS;
    }
}

void store_limit(struct store *s, const struct plan *p, const struct table_key *key, int64_t cost,
                 struct outcome *out) {
    bool held_up_matters = !s->exclusive && !algorithm_is_bucket(p->algorithm);
    if (atomic_load_explicit(&s->line_count, memory_order_relaxed) > 0 && cost > 0) {
        store_limit_behind(s, p, key, cost, store_now(s), out);
    } else {
        store_decide(s, p, key, cost, held_up_matters ? STORE_NOW : store_now(s), out);
    }
}

void store_peek(struct store *s, const struct plan *p, const struct table_key *key, struct outcome *out) {
    store_decide(s, p, key, 0, store_now(s), out);
}

struct state store_state(struct store *s, const struct plan *p, uint32_t space, const struct table_key *key) {
    struct shard *shard = shard_of(s, p, key);
    shard_enter(s, shard);
    struct state state = state_of(shard, table_find(shard, space, key));
    shard_leave(s, shard);
    return state;
}

void store_refund(struct store *s, const struct plan *p, const struct table_key *key, int64_t cost, int64_t now) {
    struct shard *shard = shard_of(s, p, key);
    shard_enter(s, shard);
    for (int i = 0; i < p->count; i++) {
        uint32_t n = table_find(shard, p->rules[i].space, key);
        if (n != CELL_NONE) {
            algorithm_refund(p->algorithm, &shard->cells[n].state, &p->rules[i].quota, rule_cost(&p->rules[i], cost),
                             now);
            table_touch(shard, &shard->cells[n], &p->rules[i].quota, now);
        }
    }
    shard_leave(s, shard);
}

bool store_correct(struct store *s, const struct plan *p, int rule, const struct table_key *key, int64_t surplus,
                   int64_t now) {
    const struct rule *r = &p->rules[rule];
    struct shard *shard = shard_of(s, p, key);
    bool done = true;
    shard_enter(s, shard);
    uint32_t n = table_find(shard, r->space, key);
    if (n == CELL_NONE && surplus < 0) {
        done = table_insert(&s->table, shard, r->space, key, now, NULL, &n) == TABLE_OK;
    }
    if (done && n != CELL_NONE) {
        algorithm_refund(p->algorithm, &shard->cells[n].state, &r->quota, surplus, now);
        table_touch(shard, &shard->cells[n], &r->quota, now);
    }
    shard_leave(s, shard);
    return done;
}

void store_forget(struct store *s, const struct plan *p, const struct table_key *key) {
    struct shard *shard = shard_of(s, p, key);
    shard_enter(s, shard);
    for (int i = 0; i < p->count; i++) {
        uint32_t n = table_find(shard, p->rules[i].space, key);
        if (n != CELL_NONE) {
            table_remove(&s->table, shard, n);
        }
    }
    shard_leave(s, shard);
}

/* ---- life ---- */

static void fork_take(struct fork_owner *o) {
    struct store *s = (struct store *)((char *)o - offsetof(struct store, fork));
    lock_acquire(&s->lines_lock);
    for (uint32_t i = 0; i < s->table.shard_count; i++) {
        lock_acquire(&s->table.shards[i].lock);
    }
}

static void fork_give(struct fork_owner *o) {
    struct store *s = (struct store *)((char *)o - offsetof(struct store, fork));
    for (uint32_t i = 0; i < s->table.shard_count; i++) {
        lock_release(&s->table.shards[i].lock);
    }
    lock_release(&s->lines_lock);
}

static void fork_child(struct fork_owner *o) {
    struct store *s = (struct store *)((char *)o - offsetof(struct store, fork));
    for (uint32_t i = 0; i < s->table.shard_count; i++) {
        lock_init(&s->table.shards[i].lock);
    }
    lock_init(&s->lines_lock);
    if (s->clock != NULL) {
        lock_init(&s->clock->lock);
    }
    store_lines_forget(s);
}

static void clock_moved(struct clock_listener *l, int64_t now) {
    store_lines_serve_through((struct store *)((char *)l - offsetof(struct store, listener)), now);
}

bool store_init(struct store *s, int64_t max_keys, enum table_full when_full, struct virtual_clock *clock,
                bool exclusive, uint32_t seed) {
    memset(s, 0, sizeof *s);
    if (!table_init(&s->table, max_keys, when_full, seed)) {
        return false;
    }
    lock_init(&s->lines_lock);
    s->clock = clock;
    s->exclusive = exclusive;
    s->listener.moved = clock_moved;
    if (clock != NULL) {
        virtual_clock_listen(clock, &s->listener);
    }
    s->fork = (struct fork_owner){.take = fork_take, .give = fork_give, .child = fork_child};
    fork_register(&s->fork);
    return true;
}

void store_destroy(struct store *s) {
    fork_forget(&s->fork);
    if (s->clock != NULL) {
        virtual_clock_ignore(s->clock, &s->listener);
    }
    store_lines_forget(s);
    table_destroy(&s->table);
}

void store_clear(struct store *s) {
    table_clear(&s->table);
    store_lines_serve(s, store_now(s));
}
