/* Leases: see lease.h.
 *
 * An entry knows a key by what the server last said of it: the states with all unspent tokens given back, to which every token that is
 * spent here is added; so the states are at any time what the caller is told. The server's clock is counted on from the moment
 * its reply came, which is late: no instant that is told lies in the server's future. How long tokens may be spent is counted from before
 * the request was sent, which is early: none is spent too late.
 *
 * How much is asked for follows the demand. It doubles while blocks run out before the term is over, and is what was spent where some was
 * left; a refusal halves it. Never more than what seems to be there, by the last answer. */
#include "lease.h"

#include <stdlib.h>
#include <string.h>

#define DENIAL_NS (50 * NS_PER_MS) /* so long a denial is believed without asking, at most */
#define AHEAD_LEAST_NS (2 * NS_PER_MS)
#define TERM_LEAST_NS (10 * NS_PER_MS)
#define AHEAD_TRIPS 4 /* a block is to outlive its own round trip */
#define DRIFT 1024    /* one part in so many is left for clocks that do not run alike */
#define LOOKS 64      /* entries that are looked at for one to make room */
#define TRIES 3

struct entry {
    struct entry *next;
    uint64_t hash;
    size_t key_length;
    uint64_t generation, ticket; /* ticket of the take that is under way, or 0 */
    int64_t left, spent;         /* of the last block */
    int64_t valid_until;         /* local instants, as are the next three */
    int64_t taken;
    int64_t denied_until;
    int64_t answered; /* 0: never */
    int64_t denied_cost;
    int64_t ask;          /* how many tokens seem to be wanted in a term */
    int64_t server_ahead; /* the server's clock less ours */
    int64_t last_now;     /* the server's instant that was last told */
    int64_t number, until_us;
    struct state states[]; /* of each rule; then mark_us of each; then the key */
};

struct lease_pool {
    const struct plan *plan;
    int64_t most;    /* tokens in a block */
    int64_t term_ns; /* the time that the quota needs for so many */
    int64_t trip_ns; /* how long the latest round trips took */
    bool exclusive;
    struct lock lock;
    _Atomic uint64_t generation; /* a fork's child has another: what it inherits is its parent's */
    uint64_t tickets;
    int64_t count, max_keys;
    size_t bucket_count, hand;
    struct entry **buckets;
    struct fork_owner fork;
};

/* ---- the pool ---- */

static int64_t *entry_marks(const struct lease_pool *l, struct entry *e) {
    return (int64_t *)(void *)(e->states + l->plan->count);
}

static char *entry_key(const struct lease_pool *l, struct entry *e) {
    return (char *)(entry_marks(l, e) + l->plan->count);
}

static void pool_lock(struct lease_pool *l) {
    if (!l->exclusive) {
        lock_acquire(&l->lock);
    }
}

static void pool_unlock(struct lease_pool *l) {
    if (!l->exclusive) {
        lock_release(&l->lock);
    }
}

static void pool_fork_take(struct fork_owner *o) {
    lock_acquire(&((struct lease_pool *)((char *)o - offsetof(struct lease_pool, fork)))->lock);
}
static void pool_fork_give(struct fork_owner *o) {
    lock_release(&((struct lease_pool *)((char *)o - offsetof(struct lease_pool, fork)))->lock);
}
static void pool_fork_child(struct fork_owner *o) {
    struct lease_pool *l = (struct lease_pool *)((char *)o - offsetof(struct lease_pool, fork));
    lock_init(&l->lock);
    atomic_fetch_add(&l->generation, 1);
}

bool lease_suits(const struct plan *p) {
    for (int i = 0; i < p->count; i++) {
        if (p->rules[i].fixed_cost > 0 || (algorithm_is_bucket(p->algorithm) && p->rules[i].quota.wide)) {
            return false;
        }
    }
    return true;
}

static int64_t at_most(int64_t value, wide other) {
    return other < value ? (int64_t)other : value;
}

struct lease_pool *lease_pool_new(const struct plan *p, int64_t term_ns, int64_t tokens, int64_t max_keys,
                                  bool exclusive) {
    struct lease_pool *l = calloc(1, sizeof *l);
    struct entry **buckets = calloc(64, sizeof *buckets);
    if (l == NULL || buckets == NULL) {
        free(l);
        free(buckets);
        return NULL;
    }
    l->plan = p;
    l->most = INT64_MAX;
    l->term_ns = LEASE_TERM_MAX;
    for (int i = 0; i < p->count; i++) {
        const struct quota *q = &p->rules[i].quota;
        l->most = at_most(l->most, tokens > 0 ? tokens : (wide)q->limit * term_ns / q->period_ns);
        l->most = at_most(l->most, (wide)q->limit * LEASE_TERM_MAX / q->period_ns);
        l->most = at_most(l->most, (algorithm_is_bucket(p->algorithm) ? q->burst : q->limit) / 2);
    }
    for (int i = 0; i < p->count; i++) {
        const struct quota *q = &p->rules[i].quota;
        l->term_ns = at_most(l->term_ns, (wide)l->most * q->period_ns / q->limit);
    }
    /* So many tokens may be gone in less than a round trip; then the rest of the burst pays for the time that they need. */
    l->term_ns = l->term_ns > TERM_LEAST_NS ? l->term_ns : TERM_LEAST_NS;
    l->term_ns -= l->term_ns % NS_PER_US;
    l->exclusive = exclusive;
    lock_init(&l->lock);
    atomic_init(&l->generation, 1);
    l->buckets = buckets;
    l->bucket_count = 64;
    l->max_keys = max_keys;
    l->fork = (struct fork_owner){.take = pool_fork_take, .give = pool_fork_give, .child = pool_fork_child};
    fork_register(&l->fork);
    return l;
}

static void pool_free_entries(struct lease_pool *l) {
    for (size_t i = 0; i < l->bucket_count; i++) {
        while (l->buckets[i] != NULL) {
            struct entry *e = l->buckets[i];
            l->buckets[i] = e->next;
            free(e);
        }
    }
    l->count = 0;
}

void lease_pool_free(struct lease_pool *l) {
    fork_forget(&l->fork);
    pool_free_entries(l);
    free(l->buckets);
    free(l);
}

/* ---- entries ---- */

static struct entry **pool_place(const struct lease_pool *l, const struct table_key *key) {
    struct entry **at = &l->buckets[key->hash & (l->bucket_count - 1)];
    while (*at != NULL && ((*at)->hash != key->hash || (*at)->key_length != key->length ||
                           memcmp(entry_key(l, *at), key->bytes, key->length) != 0)) {
        at = &(*at)->next;
    }
    return at;
}

/* What a fork has brought along is the parent's. */
static struct entry *pool_find(struct lease_pool *l, const struct table_key *key) {
    struct entry *e = *pool_place(l, key);
    uint64_t generation = atomic_load_explicit(&l->generation, memory_order_relaxed);
    if (e != NULL && e->generation != generation) {
        e->generation = generation;
        e->ticket = 0;
        e->left = e->spent = e->valid_until = e->taken = e->denied_until = e->answered = e->number = e->until_us = 0;
        e->ask = 1;
    }
    return e;
}

static struct lease_rest *entry_rest(const struct lease_pool *l, struct entry *e) {
    struct lease_rest *rest = calloc(1, sizeof *rest + e->key_length);
    if (rest != NULL) {
        rest->give.count = e->left;
        rest->give.number = e->number;
        rest->give.until_us = e->until_us;
        memcpy(rest->give.mark_us, entry_marks(l, e), (size_t)l->plan->count * sizeof(int64_t));
        memcpy(rest->bytes, entry_key(l, e), e->key_length);
        rest->key = (struct table_key){.bytes = rest->bytes, .length = e->key_length, .hash = e->hash};
    }
    return rest;
}

/* Tokens, or the time that a block was booked ahead and was spent before. */
static bool entry_has_rest(const struct lease_pool *l, const struct entry *e, int64_t now) {
    return e->generation == atomic_load_explicit(&l->generation, memory_order_relaxed) &&
           (e->left > 0 || e->until_us * NS_PER_US > now + e->server_ahead);
}

/* Of those next to the hand the first that has nothing left, or the one with the least. False: none can go. */
static bool pool_make_room(struct lease_pool *l, struct lease_rest **rest) {
    struct entry **victim = NULL;
    int64_t now = clock_now();
    int looks = 0;
    for (size_t steps = 0; steps < l->bucket_count && looks < LOOKS; steps++) {
        l->hand = (l->hand + 1) & (l->bucket_count - 1);
        for (struct entry **at = &l->buckets[l->hand]; *at != NULL; at = &(*at)->next) {
            looks++;
            if ((*at)->ticket == 0 && (victim == NULL || (*at)->left < (*victim)->left)) {
                victim = at;
            }
        }
        if (victim != NULL && !entry_has_rest(l, *victim, now)) {
            break;
        }
    }
    if (victim == NULL) {
        return false;
    }
    struct entry *e = *victim;
    *rest = entry_has_rest(l, e, now) ? entry_rest(l, e) : NULL;
    *victim = e->next;
    free(e);
    l->count--;
    return true;
}

static void pool_grow(struct lease_pool *l) {
    size_t wanted = l->bucket_count * 2;
    struct entry **buckets = calloc(wanted, sizeof *buckets);
    if (buckets == NULL) {
        return; /* chains get longer */
    }
    for (size_t i = 0; i < l->bucket_count; i++) {
        while (l->buckets[i] != NULL) {
            struct entry *e = l->buckets[i];
            l->buckets[i] = e->next;
            e->next = buckets[e->hash & (wanted - 1)];
            buckets[e->hash & (wanted - 1)] = e;
        }
    }
    free(l->buckets);
    l->buckets = buckets;
    l->bucket_count = wanted;
}

/* NULL: no memory, or no room. */
static struct entry *pool_add(struct lease_pool *l, const struct table_key *key, struct lease_rest **rest) {
    if (l->count >= l->max_keys && !pool_make_room(l, rest)) {
        return NULL;
    }
    size_t rules = (size_t)l->plan->count;
    struct entry *e = calloc(1, sizeof *e + rules * (sizeof(struct state) + sizeof(int64_t)) + key->length);
    if (e == NULL) {
        return NULL;
    }
    if ((size_t)l->count >= l->bucket_count) {
        pool_grow(l);
    }
    e->hash = key->hash;
    e->key_length = key->length;
    e->generation = atomic_load_explicit(&l->generation, memory_order_relaxed);
    e->ask = 1;
    memcpy(entry_key(l, e), key->bytes, key->length);
    struct entry **bucket = &l->buckets[key->hash & (l->bucket_count - 1)];
    e->next = *bucket;
    *bucket = e;
    l->count++;
    return e;
}

/* ---- deciding here ---- */

/* What of the server's time is known: it is later than that. It never goes back. */
static int64_t entry_server_now(struct entry *e, int64_t now) {
    int64_t then = now + e->server_ahead;
    e->last_now = then > e->last_now ? then : e->last_now;
    return e->last_now;
}

static void entry_spend(const struct lease_pool *l, struct entry *e, int64_t cost) {
    bool bucket = algorithm_is_bucket(l->plan->algorithm);
    for (int i = 0; i < l->plan->count; i++) {
        const struct quota *q = &l->plan->rules[i].quota;
        struct state *s = &e->states[i];
        if (bucket) {
            int64_t ns, excess;
            quota_cost_span(q, cost, &ns, &excess);
            s->word[0] += ns;
            s->word[1] += excess;
            if (s->word[1] >= q->limit) {
                s->word[1] -= q->limit;
                s->word[0]--;
            }
        } else {
            s->word[1] += cost;
        }
    }
    e->left -= cost;
    e->spent += cost;
}

static void pool_tell(const struct lease_pool *l, const struct state *states, int64_t denied_cost, int64_t now,
                      struct outcome *out) {
    *out = (struct outcome){
        .kind = denied_cost > 0 ? OUTCOME_DENIED : OUTCOME_ADMITTED,
        .state = states[0],
        .now = now,
        .denied_cost = denied_cost,
        .wait_ns = -1,
    };
    if (l->plan->count > 1) {
        plan_choose_tightest(l->plan, states, denied_cost, now, out);
    }
}

bool lease_spend(struct lease_pool *l, const struct table_key *key, int64_t cost, bool denials, struct outcome *out) {
    bool decided = false;
    pool_lock(l);
    int64_t now =
        clock_now(); /* under the lock: a call that was held up spends nothing of a block that has ended since */
    struct entry *e = pool_find(l, key);
    if (e != NULL && cost <= e->left && now < e->valid_until) {
        entry_spend(l, e, cost);
        pool_tell(l, e->states, 0, entry_server_now(e, now), out);
        decided = true;
    } else if (e != NULL && denials && now < e->denied_until && cost >= e->denied_cost) {
        pool_tell(l, e->states, cost, entry_server_now(e, now), out);
        decided = true;
    }
    pool_unlock(l);
    return decided;
}

/* ---- asking ---- */

static void pool_choose_ahead(const struct lease_pool *l, struct lease_take *take) {
    bool bucket = algorithm_is_bucket(l->plan->algorithm);
    int64_t trips = AHEAD_TRIPS * l->trip_ns, least = trips > AHEAD_LEAST_NS ? trips : AHEAD_LEAST_NS;
    int64_t ns = l->term_ns, room = l->term_ns;
    for (int i = 0; bucket && i < l->plan->count; i++) {
        const struct quota *q = &l->plan->rules[i].quota;
        ns = at_most(ns, (wide)take->count * q->period_ns / q->limit);
        room = at_most(room, (wide)(q->burst - take->count) * q->period_ns / q->limit);
    }
    ns = ns > least ? ns : least < room ? least : room;
    /* What is over before its reply comes is nobody's. */
    bool useful = take->count > take->cost && ns > AHEAD_TRIPS / 2 * l->trip_ns;
    take->ahead_us = useful ? ns / NS_PER_US : 0;
    if (take->ahead_us == 0) {
        take->count = take->cost;
    }
}

/* How many tokens these states have to give. */
static int64_t pool_available(const struct lease_pool *l, const struct state *states, int64_t now) {
    int64_t least = INT64_MAX;
    for (int i = 0; i < l->plan->count; i++) {
        struct decision d;
        algorithm_report(l->plan->algorithm, &states[i], &l->plan->rules[i].quota, 0, now, &d);
        least = d.remaining < least ? d.remaining : least;
    }
    return least;
}

/* The same of an entry, once the time has been set back that its last block was ahead. */
static int64_t entry_available(const struct lease_pool *l, struct entry *e, int64_t now) {
    struct state states[QUOTA_RULES_MAX];
    int64_t then = entry_server_now(e, now);
    for (int i = 0; i < l->plan->count; i++) {
        int64_t mark = entry_marks(l, e)[i] * NS_PER_US, back = e->until_us * NS_PER_US - (mark > then ? mark : then);
        states[i] = e->states[i];
        if (algorithm_is_bucket(l->plan->algorithm) && e->until_us > 0 && back > 0) {
            states[i].word[0] -= back;
        }
    }
    return pool_available(l, states, then);
}

static void pool_choose_count(struct lease_pool *l, struct entry *e, struct lease_take *take, int64_t now) {
    int64_t wanted = e->spent > 1 ? e->spent : 1;
    if (e->left == 0 && e->answered != 0 && now - e->taken < l->term_ns) { /* it ran out early */
        wanted = (e->ask > wanted ? e->ask : wanted) * 2;
    }
    e->ask = wanted < l->most ? wanted : l->most;
    take->count = e->ask;
    if (e->answered != 0 && take->count > take->cost) {
        int64_t there = entry_available(l, e, now);
        take->count = there < take->count ? there : take->count;
    }
    take->count = take->count > take->cost ? take->count : take->cost;
}

void lease_begin(struct lease_pool *l, const struct table_key *key, int64_t cost, struct lease_take *take,
                 struct lease_rest **rest) {
    int64_t now = clock_now();
    *take = (struct lease_take){.cost = cost, .count = cost};
    *rest = NULL;
    pool_lock(l);
    struct entry *e = pool_find(l, key);
    if (e == NULL) {
        e = pool_add(l, key, rest);
    }
    if (e != NULL && e->ticket == 0) {
        e->ticket = take->ticket = ++l->tickets;
        pool_choose_count(l, e, take, now);
        pool_choose_ahead(l, take);
        take->give.count = e->left;
        take->give.number = e->number;
        take->give.until_us = e->until_us;
        memcpy(take->give.mark_us, entry_marks(l, e), (size_t)l->plan->count * sizeof(int64_t));
        e->left = e->valid_until = e->denied_until = e->number = e->until_us = 0;
    }
    pool_unlock(l);
}

/* An admission: the block, less what its caller takes of it, is the entry's. */
static void entry_begin_block(const struct lease_pool *l, struct entry *e, const struct lease_take *take) {
    int64_t ns = take->ahead_us * NS_PER_US;
    e->left = take->count - take->cost;
    e->spent = take->cost;
    e->taken = take->sent;
    e->number = take->number;
    e->until_us = take->ahead_us > 0 ? take->now / NS_PER_US + take->ahead_us : 0;
    for (int i = 0; !algorithm_is_bucket(l->plan->algorithm) && i < l->plan->count; i++) {
        ns = at_most(ns, (wide)take->mark_us[i] * NS_PER_US - take->now);
    }
    e->valid_until = take->sent + ns - ns / DRIFT;
}

bool lease_end(struct lease_pool *l, const struct table_key *key, struct lease_take *take, struct outcome *out) {
    const struct plan *p = l->plan;
    int64_t now = clock_now(), wait = 0;
    if (!take->admitted && take->count > take->cost) {
        int64_t there = pool_available(l, take->states, take->now);
        if (there >= take->cost) { /* less will do */
            take->count = ++take->tries >= TRIES ? take->cost : there < take->count ? there : take->count - 1;
            take->give = (struct lease_give){0}; /* that has gone back */
            pool_lock(l);
            pool_choose_ahead(l, take);
            pool_unlock(l);
            return false;
        }
    }
    for (int i = 0; i < p->count; i++) {
        const struct quota *q = &p->rules[i].quota;
        if (take->admitted && take->count > take->cost) {
            algorithm_refund(p->algorithm, &take->states[i], q, take->count - take->cost, take->now);
        } else if (!take->admitted) {
            int64_t own = algorithm_wait(p->algorithm, &take->states[i], q, take->cost, take->now);
            wait = own > wait ? own : wait;
        }
    }
    int64_t told = take->now;
    pool_lock(l);
    struct entry *e = pool_find(l, key);
    if (e != NULL && take->ticket != 0 && e->ticket == take->ticket) {
        e->ticket = 0;
        e->answered = now;
        l->trip_ns -= l->trip_ns / 8;
        l->trip_ns = now - take->sent > l->trip_ns ? now - take->sent : l->trip_ns;
        e->server_ahead = take->now - now;
        e->last_now = told = take->now > e->last_now ? take->now : e->last_now;
        memcpy(e->states, take->states, (size_t)p->count * sizeof(struct state));
        memcpy(entry_marks(l, e), take->mark_us, (size_t)p->count * sizeof(int64_t));
        if (take->admitted) {
            entry_begin_block(l, e, take);
        } else {
            e->spent = 0;
            e->ask = e->ask > 1 ? e->ask / 2 : 1;
            e->denied_cost = take->cost;
            e->denied_until = now + (wait < DENIAL_NS ? wait : DENIAL_NS);
        }
    }
    pool_unlock(l);
    pool_tell(l, take->states, take->admitted ? 0 : take->cost, told, out);
    return true;
}

void lease_fail(struct lease_pool *l, const struct table_key *key, const struct lease_take *take) {
    pool_lock(l);
    struct entry *e = pool_find(l, key);
    if (e != NULL && take->ticket != 0 && e->ticket == take->ticket) {
        e->ticket = 0;
        e->answered = e->spent = 0;
    }
    pool_unlock(l);
}

/* ---- ending ---- */

void lease_drop(struct lease_pool *l, const struct table_key *key) {
    pool_lock(l);
    struct entry **at = pool_place(l, key);
    if (*at != NULL) {
        struct entry *e = *at;
        *at = e->next;
        free(e);
        l->count--;
    }
    pool_unlock(l);
}

struct lease_rest *lease_drain(struct lease_pool *l) {
    struct lease_rest *all = NULL;
    int64_t now = clock_now();
    pool_lock(l);
    for (size_t i = 0; i < l->bucket_count; i++) {
        for (struct entry *e = l->buckets[i]; e != NULL; e = e->next) {
            struct lease_rest *rest = entry_has_rest(l, e, now) ? entry_rest(l, e) : NULL;
            if (rest != NULL) {
                rest->next = all;
                all = rest;
            }
        }
    }
    pool_free_entries(l);
    pool_unlock(l);
    return all;
}
