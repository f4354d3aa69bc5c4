/* A store in memory: the table, the lines of those who wait, and a clock. Here a request becomes a decision.
 *
 *   store_limit            decides at once
 *   store_wait_begin       decides at once, or joins the line of the key
 *   store_wait_check       after every wake-up, until it is decided
 *   store_wait_cancel      leaves; a slot that was just handed over is given back
 *
 * Nothing here sleeps. The caller sleeps between the calls, without locks. */
#ifndef HEADWAY_STORE_H
#define HEADWAY_STORE_H

#include "algorithm.h"
#include "clock.h"
#include "fork.h"
#include "line.h"
#include "table.h"
#include "virtual_clock.h"

struct rule {
    struct quota quota;
    uint32_t space;     /* from the binding's register; the low bits are the algorithm */
    int64_t fixed_cost; /* what this rule takes of any call that costs something; 0: the call's own cost */
};

static inline int64_t rule_cost(const struct rule *r, int64_t cost) {
    return r->fixed_cost > 0 && cost > 0 ? r->fixed_cost : cost;
}

/* The rules that a call must pass, all of one algorithm. */
struct plan {
    enum algorithm_id algorithm;
    uint32_t line_space; /* callers with the same one and the same key stand in one line */
    uint64_t salt; /* with a key's hash it picks the shard: the same for all plans of one prefix and algorithm, ever */
    int count;     /* 1 to QUOTA_RULES_MAX */
    struct rule rules[];
};

enum outcome_kind { OUTCOME_ADMITTED, OUTCOME_DENIED, OUTCOME_FULL, OUTCOME_NO_MEMORY };

struct outcome {
    enum outcome_kind kind;
    int rule;           /* the tightest one; what follows is its state */
    struct state state; /* after the decision */
    int64_t now;
    int64_t denied_cost; /* what that rule was asked for; 0 when admitted */
    int64_t wait_ns;     /* when the state alone does not tell (others are in line, several rules); else -1 */
};

#define LINE_BUCKETS 64

struct store {
    struct table table;
    struct virtual_clock *clock; /* NULL: real time; borrowed */
    bool exclusive;              /* the callers take turns by themselves: decisions need no lock */
    bool threads_ended;          /* see store_threads_ended */
    struct lock lines_lock;      /* taken before a shard's lock */
    _Atomic int64_t line_count;
    struct store_line *lines[LINE_BUCKETS];
    struct clock_listener listener;
    struct fork_owner fork;
};

struct store_waiter {
    struct waiter waiter; /* wake is the caller's */
    struct store *store;
    const struct plan *plan; /* borrowed until the wait ends */
    int64_t cost;
    int64_t deadline;
    struct outcome outcome;
};

/* Of several rules the tightest speaks: puts its number, state and cost into *out. denied_cost 0: admitted. */
void plan_choose_tightest(const struct plan *p, const struct state *states, int64_t denied_cost, int64_t now,
                          struct outcome *out);

/* No waiting makes room for this cost, under one of the rules. */
bool plan_never_fits(const struct plan *p, int64_t cost);

/* `exclusive`: only one thread at a time calls any function on this store, as under a GIL. */
bool store_init(struct store *s, int64_t max_keys, enum table_full when_full, struct virtual_clock *clock,
                bool exclusive, uint32_t seed);
void store_destroy(struct store *s); /* nobody waits any more */

static inline int64_t store_now(const struct store *s) {
    return s->clock == NULL ? clock_now() : atomic_load_explicit(&s->clock->now, memory_order_relaxed);
}

void store_limit(struct store *s, const struct plan *p, const struct table_key *key, int64_t cost, struct outcome *out);

/* Corrects what an admitted call took under one rule: `surplus` is given back; a negative one is charged, though the bucket go into
 * debt. For the bucket algorithms. False: no memory or no room for the key. */
bool store_settle(struct store *s, const struct plan *p, int rule, const struct table_key *key, int64_t surplus);

/* Reads and changes nothing. */
void store_peek(struct store *s, const struct plan *p, const struct table_key *key, struct outcome *out);

/* Forgets the key; waiters are served from the fresh state. */
void store_reset(struct store *s, const struct plan *p, const struct table_key *key);

/* The threads of all that wait here, but the caller's, have ended or never run again, since the interpreter ends. They leave their lines,
 * the first time that this is called. */
void store_threads_ended(struct store *s);

/* True: decided, see w->outcome. False: in line, and `w` stays where it is until it is decided; sleep until *until at most, then store_wait_check. A wait that is known to end
 * after `timeout_ns` is denied at once. In a fork's child, which has no lines, the check joins a new one: the caller waits on. */
bool store_wait_begin(struct store *s, const struct plan *p, const struct table_key *key, int64_t cost,
                      int64_t timeout_ns, struct store_waiter *w, int64_t *until);
bool store_wait_check(struct store_waiter *w, const struct table_key *key, int64_t *until);
void store_wait_cancel(struct store_waiter *w, const struct table_key *key);

void store_clear(struct store *s);

#endif
