/* Waiting on a store.
 *
 * A line carries a projection: the states as they will be when everybody in line has been served, and the instant of that.
 * With it a newcomer learns in one step when it will be served, however long the line; who cannot make it in time
 * is told at once. A waiter that leaves makes the projection void; it is built again by walking the line when next needed.
 *
 * While a line is not empty, nobody overtakes it: a call that does not wait is denied, and told when the line will be through. */
#include "store_lines.h"

#include <stdlib.h>
#include <string.h>

#define PROJECTED_MAX 32

struct projection {
    bool valid;
    bool uniform; /* all in line have one rule, and it is `quota` */
    int count;
    struct quota quota;
    int64_t from; /* the last of the line is served then */
    struct {
        uint32_t space;
        struct state state;
    } slots[PROJECTED_MAX];
};

struct store_line {
    struct line line;
    struct store_line *next;
    struct store *store;
    struct projection projection;
    uint32_t space;
    struct table_key key;
    char bytes[]; /* the key's own copy */
};

static struct store_line **line_at(struct store *s, uint32_t space, const struct table_key *key) {
    struct store_line **at = &s->lines[(key->hash ^ space) % LINE_BUCKETS];
    while (*at != NULL && !((*at)->space == space && (*at)->key.length == key->length &&
                            memcmp((*at)->key.bytes, key->bytes, key->length) == 0)) {
        at = &(*at)->next;
    }
    return at;
}

static void drop_if_empty(struct store *s, struct store_line **at) {
    struct store_line *l = *at;
    if (l != NULL && l->line.head == NULL) {
        *at = l->next;
        free(l);
        atomic_fetch_sub_explicit(&s->line_count, 1, memory_order_relaxed);
    }
}

/* ---- serving ---- */

/* How long until every rule admits, as things stand. */
static int64_t plan_wait(struct store *s, const struct plan *p, const struct table_key *key, int64_t cost,
                         int64_t now) {
    int64_t longest = 0;
    for (int i = 0; i < p->count; i++) {
        struct state state = store_state(s, p, p->rules[i].space, key);
        int64_t wait = algorithm_wait(p->algorithm, &state, &p->rules[i].quota, rule_cost(&p->rules[i], cost), now);
        longest = wait > longest ? wait : longest;
    }
    return longest;
}

static int64_t serve(struct line *line, struct waiter *waiter, int64_t now) {
    struct store_line *l = (struct store_line *)line;
    struct store_waiter *w = (struct store_waiter *)waiter;
    store_decide(l->store, w->plan, &l->key, w->cost, store_instant(l->store, w->plan, now), &w->outcome);
    if (w->outcome.kind != OUTCOME_DENIED) {
        return 0;
    }
    int64_t then = w->outcome.now;
    int64_t wait = plan_wait(l->store, w->plan, &l->key, w->cost, then);
    wait = wait > CLOCK_END - then ? wait : then - now + wait;
    return wait > 0 ? wait : 1;
}

/* ---- projecting ---- */

static struct state *projected_state(struct store_line *l, const struct plan *plan, uint32_t space) {
    struct projection *p = &l->projection;
    for (int i = 0; i < p->count; i++) {
        if (p->slots[i].space == space) {
            return &p->slots[i].state;
        }
    }
    if (p->count == PROJECTED_MAX) {
        return NULL;
    }
    p->slots[p->count].space = space;
    p->slots[p->count].state = store_state(l->store, plan, space, &l->key);
    return &p->slots[p->count++].state;
}

/* When `cost` is served after all that was projected so far; `commit` adds it to the projection. */
static int64_t project(struct store_line *l, const struct plan *p, int64_t cost, bool commit) {
    int64_t at = l->projection.from, longest = 0;
    struct state *states[QUOTA_RULES_MAX];
    for (int i = 0; i < p->count; i++) {
        states[i] = projected_state(l, p, p->rules[i].space);
        if (states[i] == NULL) {
            return at; /* too many different rules in one line to foresee: a lower bound */
        }
        int64_t wait = algorithm_wait(p->algorithm, states[i], &p->rules[i].quota, rule_cost(&p->rules[i], cost), at);
        longest = wait > longest ? wait : longest;
    }
    if (longest > CLOCK_END - at) {
        return WAIT_NEVER;
    }
    at += longest;
    if (commit) {
        for (int i = 0; i < p->count; i++) {
            algorithm_step(p->algorithm, states[i], &p->rules[i].quota, rule_cost(&p->rules[i], cost), at);
        }
        l->projection.from = at;
        l->projection.uniform =
            l->projection.uniform && p->count == 1 && quota_equal(&l->projection.quota, &p->rules[0].quota);
    }
    return at;
}

/* Somebody who was projected is out, or has given `cost` back. In a uniform line of a bucket algorithm nothing is lost between two
 * who wait but the rounding of instants, a nanosecond at most, so the projection can be set right in one step: 100,000 can wait and
 * leave at any time. */
static void project_without(struct store_line *l, const struct plan *p, int64_t cost, int64_t now) {
    struct projection *pr = &l->projection;
    if (pr->valid && pr->uniform && algorithm_is_bucket(p->algorithm) && pr->count == 1 && p->count == 1 &&
        quota_equal(&pr->quota, &p->rules[0].quota)) {
        algorithm_refund(p->algorithm, &pr->slots[0].state, &pr->quota, cost, now);
        pr->from = now;
    } else {
        pr->valid = false;
    }
}

static void project_line(struct store_line *l, int64_t now) {
    if (l->projection.valid) {
        if (l->projection.from < now) {
            l->projection.from = now;
        }
        return;
    }
    l->projection.valid = true;
    l->projection.count = 0;
    l->projection.from = now;
    l->projection.uniform = true;
    if (l->line.head != NULL) {
        l->projection.quota = ((struct store_waiter *)l->line.head)->plan->rules[0].quota;
    }
    for (struct waiter *w = l->line.head; w != NULL; w = w->next) {
        struct store_waiter *sw = (struct store_waiter *)w;
        int64_t due = project(l, sw->plan, sw->cost, true);
        if (w != l->line.head) {
            w->due = due;
        }
    }
}

/* ---- calls ---- */

static void deny(const struct plan *p, const struct table_key *key, struct store *s, int64_t cost, int64_t now,
                 int64_t wait_ns, struct outcome *out) {
    *out = (struct outcome){.kind = OUTCOME_DENIED, .now = now, .denied_cost = cost, .wait_ns = wait_ns};
    struct decision tightest = {0}, d;
    for (int i = 0; i < p->count; i++) {
        struct state state = store_state(s, p, p->rules[i].space, key);
        int64_t asked = rule_cost(&p->rules[i], cost);
        algorithm_report(p->algorithm, &state, &p->rules[i].quota, asked, now, &d);
        if (i == 0 || d.retry_after_ns > tightest.retry_after_ns) {
            tightest = d;
            out->rule = i;
            out->state = state;
            out->denied_cost = asked;
        }
    }
}

void store_limit_behind(struct store *s, const struct plan *p, const struct table_key *key, int64_t cost, int64_t now,
                        struct outcome *out) {
    lock_acquire(&s->lines_lock);
    struct store_line **at = line_at(s, p->line_space, key);
    if (*at != NULL) {
        line_serve(&(*at)->line, now);
        drop_if_empty(s, at);
        at = line_at(s, p->line_space, key);
    }
    if (*at == NULL || plan_never_fits(p, cost)) {
        store_decide(s, p, key, cost, store_instant(s, p, now), out);
    } else {
        project_line(*at, now);
        int64_t due = project(*at, p, cost, false);
        deny(p, key, s, cost, now, due == WAIT_NEVER ? WAIT_NEVER : due > now ? due - now : 1, out);
    }
    lock_release(&s->lines_lock);
}

static struct store_line *line_make(struct store *s, const struct plan *p, const struct table_key *key, int64_t now) {
    struct store_line *l = calloc(1, sizeof *l + key->length);
    if (l == NULL) {
        return NULL;
    }
    l->line.serve = serve;
    l->store = s;
    l->space = p->line_space;
    memcpy(l->bytes, key->bytes, key->length);
    l->key = (struct table_key){.hash = key->hash, .bytes = l->bytes, .length = key->length};
    l->projection.quota = p->rules[0].quota;
    project_line(l, now);
    return l;
}

/* Decides at once, or joins the line; with the lock. True: decided. */
static bool begin(struct store_waiter *w, const struct table_key *key, int64_t now, int64_t *until) {
    struct store *s = w->store;
    const struct plan *p = w->plan;
    int64_t cost = w->cost;
    w->waiter.line = NULL;
    w->waiter.served = false;
    w->outcome = (struct outcome){.kind = OUTCOME_DENIED, .now = now, .denied_cost = cost, .wait_ns = -1};

    struct store_line **at = line_at(s, p->line_space, key);
    if (*at != NULL) {
        line_serve(&(*at)->line, now);
        drop_if_empty(s, at);
        at = line_at(s, p->line_space, key);
    }
    if (*at == NULL || cost == 0 || plan_never_fits(p, cost)) {
        store_decide(s, p, key, cost, store_instant(s, p, now), &w->outcome);
        if (w->outcome.kind != OUTCOME_DENIED || plan_never_fits(p, cost)) {
            return true;
        }
    }
    struct store_line *l = *at;
    if (l == NULL) {
        l = line_make(s, p, key, now);
        if (l == NULL) {
            w->outcome.kind = OUTCOME_NO_MEMORY;
            return true;
        }
        *at = l;
        atomic_fetch_add_explicit(&s->line_count, 1, memory_order_relaxed);
    }
    project_line(l, now);
    int64_t due = project(l, p, cost, false);
    if (due > w->deadline) {
        if (l->line.head != NULL) {
            deny(p, key, s, cost, now, due == WAIT_NEVER ? WAIT_NEVER : due - now, &w->outcome);
        }
        drop_if_empty(s, at);
        return true;
    }
    w->waiter.due = project(l, p, cost, true);
    line_join(&l->line, &w->waiter);
    int64_t wake = line_sleep_until(&w->waiter, now);
    *until = wake < w->deadline ? wake : w->deadline;
    return false;
}

bool store_wait_begin(struct store *s, const struct plan *p, const struct table_key *key, int64_t cost,
                      int64_t timeout_ns, struct store_waiter *w, int64_t *until) {
    int64_t now = store_now(s);
    w->store = s;
    w->plan = p;
    w->cost = cost;
    w->deadline = timeout_ns > INT64_MAX - now ? INT64_MAX : now + timeout_ns;
    lock_acquire(&s->lines_lock);
    bool decided = begin(w, key, now, until);
    lock_release(&s->lines_lock);
    return decided;
}

bool store_wait_check(struct store_waiter *w, const struct table_key *key, int64_t *until) {
    struct store *s = w->store;
    bool decided = true;
    lock_acquire(&s->lines_lock);
    if (w->waiter.served) {
        goto done;
    }
    struct store_line *l = (struct store_line *)w->waiter.line;
    int64_t now = store_now(s);
    if (l == NULL) { /* in a fork's child the line is gone, and this one joins a new line */
        decided = begin(w, key, now, until);
        w->waiter.served = decided;
        goto done;
    }
    line_serve(&l->line, now);
    if (!w->waiter.served && now >= w->deadline) {
        /* Somebody else used up what was promised: another quota on the key, say. */
        deny(w->plan, &l->key, s, w->cost, now, -1, &w->outcome);
        project_without(l, w->plan, w->cost, now);
        line_leave(&w->waiter, now);
        w->waiter.served = true;
    }
    if (w->waiter.served) {
        struct store_line **at = line_at(s, l->space, &l->key);
        drop_if_empty(s, at);
        goto done;
    }
    decided = false;
    int64_t wake = line_sleep_until(&w->waiter, now);
    *until = wake < w->deadline ? wake : w->deadline;
done:
    lock_release(&s->lines_lock);
    return decided;
}

void store_wait_cancel(struct store_waiter *w, const struct table_key *key) {
    struct store *s = w->store;
    lock_acquire(&s->lines_lock);
    int64_t now = store_now(s);
    struct store_line **at = line_at(s, w->plan->line_space, key);
    if (w->waiter.served) {
        if (w->outcome.kind == OUTCOME_ADMITTED) {
            store_refund(s, w->plan, key, w->cost, now);
        }
        if (*at != NULL) {
            if (w->outcome.kind == OUTCOME_ADMITTED) {
                project_without(*at, w->plan, w->cost, now);
            }
            line_serve(&(*at)->line, now);
        }
    } else if (w->waiter.line != NULL) {
        project_without(*at, w->plan, w->cost, now);
        line_leave(&w->waiter, now);
    }
    drop_if_empty(s, at);
    lock_release(&s->lines_lock);
}

bool store_settle(struct store *s, const struct plan *p, int rule, const struct table_key *key, int64_t surplus) {
    lock_acquire(&s->lines_lock);
    int64_t now = store_now(s);
    bool done = store_correct(s, p, rule, key, surplus, now);
    struct store_line **at = line_at(s, p->line_space, key);
    if (*at != NULL) {
        (*at)->projection.valid = false;
        line_serve(&(*at)->line, now);
        drop_if_empty(s, at);
    }
    lock_release(&s->lines_lock);
    return done;
}

void store_reset(struct store *s, const struct plan *p, const struct table_key *key) {
    store_forget(s, p, key);
    if (atomic_load_explicit(&s->line_count, memory_order_relaxed) > 0) {
        lock_acquire(&s->lines_lock);
        struct store_line **at = line_at(s, p->line_space, key);
        if (*at != NULL) {
            (*at)->projection.valid = false;
            line_serve(&(*at)->line, store_now(s));
            drop_if_empty(s, at);
        }
        lock_release(&s->lines_lock);
    }
}

/* ---- all lines ---- */

static void serve_all(struct store *s, int64_t now, void (*serve_line)(struct line *l, int64_t now)) {
    if (atomic_load_explicit(&s->line_count, memory_order_relaxed) == 0) {
        return;
    }
    lock_acquire(&s->lines_lock);
    for (int i = 0; i < LINE_BUCKETS; i++) {
        for (struct store_line **at = &s->lines[i]; *at != NULL;) {
            struct store_line *l = *at;
            l->projection.valid = false;
            serve_line(&l->line, now);
            drop_if_empty(s, at);
            if (*at == l) {
                at = &l->next;
            }
        }
    }
    lock_release(&s->lines_lock);
}

void store_lines_serve(struct store *s, int64_t now) {
    serve_all(s, now, line_serve);
}

void store_lines_serve_through(struct store *s, int64_t now) {
    serve_all(s, now, line_serve_through);
}

void store_threads_ended(struct store *s) {
    lock_acquire(&s->lines_lock);
    for (int i = 0; i < LINE_BUCKETS && !s->threads_ended; i++) {
        for (struct store_line **at = &s->lines[i]; *at != NULL;) {
            struct store_line *l = *at;
            l->projection.valid = false;
            line_threads_ended(&l->line);
            drop_if_empty(s, at);
            if (*at == l) {
                at = &l->next;
            }
        }
    }
    s->threads_ended = true;
    lock_release(&s->lines_lock);
}

void store_lines_forget(struct store *s) {
    for (int i = 0; i < LINE_BUCKETS; i++) {
        while (s->lines[i] != NULL) {
            struct store_line *l = s->lines[i];
            s->lines[i] = l->next;
            line_forget(&l->line);
            free(l);
        }
    }
    atomic_store_explicit(&s->line_count, 0, memory_order_relaxed);
}
