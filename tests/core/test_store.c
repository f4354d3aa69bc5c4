/* The store, with many threads and real time: admitted is exact, waiters are served in order and never early. Also what TSan
 * looks at: nothing here has a GIL to hide behind. */
#include <pthread.h>
#include <string.h>

#include "bucket.h"
#include "check.h"
#include "store.h"

#define THREADS 8
#define CALLS 20000

struct two_rules {
    struct plan plan;
    struct rule room[2];
};

static struct two_rules plan_of(int64_t limit, int64_t period_ns, int64_t burst, int rules) {
    struct two_rules p = {.plan = {.algorithm = GCRA, .line_space = GCRA, .count = rules}};
    struct quota_error error;
    for (int i = 0; i < rules; i++) {
        quota_init(&p.plan.rules[i].quota, limit * (i + 1), period_ns, burst * (i + 1), &error);
        p.plan.rules[i].space = (uint32_t)(i + 1) << SPACE_ALGORITHM_BITS | GCRA;
    }
    return p;
}

static struct table_key key_of(const char *text) {
    uint64_t h = strlen(text);
    for (const char *c = text; *c != 0; c++) {
        h = h * 31 + (unsigned char)*c;
    }
    return (struct table_key){.hash = check_random(&h), .bytes = text, .length = strlen(text)};
}

/* ---- deciding ---- */

struct hammer {
    struct store *store;
    const struct plan *plan;
    int keys;
    int64_t admitted;
};

static void *hammer(void *argument) {
    struct hammer *h = argument;
    char text[32];
    for (int i = 0; i < CALLS; i++) {
        struct outcome out;
        sprintf(text, "key %d", i % h->keys);
        struct table_key key = key_of(text);
        store_limit(h->store, h->plan, &key, 1, &out);
        h->admitted += out.kind == OUTCOME_ADMITTED;
    }
    return NULL;
}

static void threads_are_admitted_exactly(int keys, int rules) {
    struct store store;
    struct two_rules p = plan_of(100, 86400 * NS_PER_S, 100, rules);
    pthread_t threads[THREADS];
    struct hammer hammers[THREADS];
    int64_t admitted = 0;
    CHECK(store_init(&store, 65536, TABLE_EVICT, NULL, false, 1));
    for (int i = 0; i < THREADS; i++) {
        hammers[i] = (struct hammer){&store, &p.plan, keys, 0};
        pthread_create(&threads[i], NULL, hammer, &hammers[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        admitted += hammers[i].admitted;
    }
    CHECK_EQUAL(admitted, 100 * keys);
    store_destroy(&store);
}

static void *flood(void *argument) {
    struct hammer *h = argument;
    char text[32];
    for (int i = 0; i < CALLS; i++) {
        struct outcome out;
        sprintf(text, "%p %d", argument, i);
        struct table_key key = key_of(text);
        store_limit(h->store, h->plan, &key, 1, &out);
        h->admitted += out.kind == OUTCOME_ADMITTED;
    }
    return NULL;
}

static void a_flood_from_many_threads_keeps_the_ceiling(void) {
    struct store store;
    struct two_rules p = plan_of(100, 86400 * NS_PER_S, 100, 1);
    pthread_t threads[THREADS];
    struct hammer hammers[THREADS];
    CHECK(store_init(&store, 5000, TABLE_EVICT, NULL, false, 1));
    for (int i = 0; i < THREADS; i++) {
        hammers[i] = (struct hammer){&store, &p.plan, 0, 0};
        pthread_create(&threads[i], NULL, flood, &hammers[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK_EQUAL(hammers[i].admitted, CALLS);
    }
    CHECK(store.table.keys <= 5000);
    CHECK(store.table.keys > 5000 - 2 * THREADS);
    store_destroy(&store);
}

/* ---- windows ---- */

#define WINDOW_NS (10 * NS_PER_US)
#define WINDOWS (1 << 20) /* ten seconds */

static _Atomic int admitted_in[WINDOWS];
static int64_t first_window;

static void *cross_windows(void *argument) {
    struct hammer *h = argument;
    const struct table_key key = key_of("one");
    for (int i = 0; i < 20 * CALLS; i++) {
        struct outcome out;
        store_limit(h->store, h->plan, &key, 1, &out);
        int64_t window = out.now / WINDOW_NS - first_window;
        if (out.kind == OUTCOME_ADMITTED && window < WINDOWS) {
            atomic_fetch_add_explicit(&admitted_in[window], 1, memory_order_relaxed);
        }
    }
    return NULL;
}

/* A thread may be held up between the clock and the lock, and come with an instant of a window that is over. */
static void a_call_that_is_held_up_begins_no_past_window_again(void) {
    struct store store;
    struct two_rules p = plan_of(2, WINDOW_NS, 2, 1);
    pthread_t threads[THREADS];
    struct hammer hammers[THREADS];
    p.plan.algorithm = FIXED_WINDOW;
    p.plan.line_space = FIXED_WINDOW;
    p.plan.rules[0].space = 1 << SPACE_ALGORITHM_BITS | FIXED_WINDOW;
    CHECK(store_init(&store, 65536, TABLE_EVICT, NULL, false, 1));
    first_window = clock_now() / WINDOW_NS;
    for (int i = 0; i < THREADS; i++) {
        hammers[i] = (struct hammer){&store, &p.plan, 1, 0};
        pthread_create(&threads[i], NULL, cross_windows, &hammers[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    int most = 0;
    for (int i = 0; i < WINDOWS; i++) {
        int count = atomic_load_explicit(&admitted_in[i], memory_order_relaxed);
        most = count > most ? count : most;
    }
    CHECK_EQUAL(most, 2);
    store_destroy(&store);
}

/* ---- waiting ---- */

struct sleeper {
    struct store_waiter waiter;
    struct parker parker;
};

static void wake(struct waiter *w) {
    parker_wake(&((struct sleeper *)w)->parker);
}

static bool wait_for(struct store *store, const struct plan *p, const char *text, int64_t timeout_ns) {
    struct sleeper s;
    struct table_key key = key_of(text);
    int64_t until;
    parker_init(&s.parker);
    waiter_init(&s.waiter.waiter, wake, NULL);
    bool decided = store_wait_begin(store, p, &key, 1, timeout_ns, &s.waiter, &until);
    while (!decided) {
        parker_sleep(&s.parker, store->clock == NULL ? until : PARK_FOREVER);
        decided = store_wait_check(&s.waiter, &key, &until);
    }
    parker_destroy(&s.parker);
    return s.waiter.outcome.kind == OUTCOME_ADMITTED;
}

struct queue {
    struct store *store;
    const struct plan *plan;
    int64_t admitted[50]; /* instants */
    bool failed;
};

static void *stand_in_line(void *argument) {
    struct queue *q = argument;
    for (int i = 0; i < 50; i++) {
        if (!wait_for(q->store, q->plan, "k", PARK_FOREVER)) {
            q->failed = true;
        }
        q->admitted[i] = clock_now();
    }
    return NULL;
}

static int by_time(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void waiters_are_never_early(void) {
    struct store store;
    struct two_rules p = plan_of(1000, NS_PER_S, 5, 1);
    static struct queue queues[THREADS];
    pthread_t threads[THREADS];
    static int64_t all[THREADS * 50];
    CHECK(store_init(&store, 100, TABLE_EVICT, NULL, false, 1));
    int64_t start = clock_now();
    for (int i = 0; i < THREADS; i++) {
        queues[i] = (struct queue){.store = &store, .plan = &p.plan};
        pthread_create(&threads[i], NULL, stand_in_line, &queues[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK(!queues[i].failed);
        memcpy(&all[i * 50], queues[i].admitted, sizeof queues[i].admitted);
    }
    qsort(all, THREADS * 50, sizeof all[0], by_time);
    for (int i = 0; i < THREADS * 50; i++) { /* the n-th call comes no earlier than the quota gives it */
        CHECK(all[i] >= start + (i - 4) * NS_PER_MS);
    }
    CHECK_EQUAL(store.line_count, 0);
    store_destroy(&store);
}

static void a_wait_that_is_too_long_is_denied_at_once(void) {
    struct store store;
    struct virtual_clock clock;
    struct two_rules p = plan_of(1, NS_PER_S, 1, 1);
    virtual_clock_init(&clock, NS_PER_S);
    CHECK(store_init(&store, 100, TABLE_EVICT, &clock, false, 1));
    CHECK(wait_for(&store, &p.plan, "k", NS_PER_S));
    CHECK(!wait_for(&store, &p.plan, "k", NS_PER_S - 1));
    CHECK_EQUAL(store.line_count, 0);
    virtual_clock_set(&clock, 2 * NS_PER_S);
    CHECK(wait_for(&store, &p.plan, "k", 1));
    store_destroy(&store);
}

static void a_waiter_that_leaves_makes_room_for_the_next(void) {
    struct store store;
    struct virtual_clock clock;
    struct two_rules p = plan_of(1, NS_PER_S, 1, 1);
    struct sleeper first, second;
    struct table_key key = key_of("k");
    struct outcome out;
    int64_t until;
    virtual_clock_init(&clock, NS_PER_S);
    CHECK(store_init(&store, 100, TABLE_EVICT, &clock, false, 1));
    store_limit(&store, &p.plan, &key, 1, &out);
    parker_init(&first.parker);
    parker_init(&second.parker);
    waiter_init(&first.waiter.waiter, wake, NULL);
    waiter_init(&second.waiter.waiter, wake, NULL);
    CHECK(!store_wait_begin(&store, &p.plan, &key, 1, 10 * NS_PER_S, &first.waiter, &until));
    CHECK(!store_wait_begin(&store, &p.plan, &key, 1, 10 * NS_PER_S, &second.waiter, &until));
    CHECK_EQUAL(second.waiter.waiter.due, 3 * NS_PER_S);
    store_wait_cancel(&first.waiter, &key);
    virtual_clock_set(&clock, 2 * NS_PER_S);
    CHECK(store_wait_check(&second.waiter, &key, &until));
    CHECK_EQUAL(second.waiter.outcome.kind, OUTCOME_ADMITTED);
    /* Served, and then not wanted: the slot goes back. */
    virtual_clock_set(&clock, 2 * NS_PER_S);
    store_wait_cancel(&second.waiter, &key);
    store_limit(&store, &p.plan, &key, 1, &out);
    CHECK_EQUAL(out.kind, OUTCOME_ADMITTED);
    CHECK_EQUAL(store.line_count, 0);
    store_destroy(&store);
}

/* Rule 0 takes one of every call, rule 1 the call's cost. */
static void both_limits_are_taken_or_neither_and_settled_afterwards(void) {
    struct store store;
    struct virtual_clock clock;
    struct two_rules p = plan_of(1, NS_PER_S, 2, 2); /* 1/s burst 2, and 2/s burst 4 */
    struct table_key key = key_of("k");
    struct outcome out;
    p.plan.rules[0].fixed_cost = 1;
    virtual_clock_init(&clock, NS_PER_S);
    CHECK(store_init(&store, 100, TABLE_EVICT, &clock, false, 1));
    store_limit(&store, &p.plan, &key, 3, &out);
    CHECK_EQUAL(out.kind, OUTCOME_ADMITTED);
    store_limit(&store, &p.plan, &key, 3, &out); /* one call is left, and one token of three */
    CHECK_EQUAL(out.kind, OUTCOME_DENIED);
    CHECK_EQUAL(out.rule, 1);
    CHECK_EQUAL(out.denied_cost, 3);
    CHECK(store_settle(&store, &p.plan, 1, &key, 2)); /* only one was used */
    store_limit(&store, &p.plan, &key, 3, &out);
    CHECK_EQUAL(out.kind, OUTCOME_ADMITTED); /* so the denial has not taken the call */
    CHECK(store_settle(&store, &p.plan, 1, &key, -4));
    virtual_clock_set(&clock, 3 * NS_PER_S); /* four tokens have come, and pay the debt */
    store_limit(&store, &p.plan, &key, 1, &out);
    CHECK_EQUAL(out.kind, OUTCOME_DENIED);
    CHECK_EQUAL(out.rule, 1);
    virtual_clock_set(&clock, 3 * NS_PER_S + NS_PER_S / 2);
    store_limit(&store, &p.plan, &key, 1, &out);
    CHECK_EQUAL(out.kind, OUTCOME_ADMITTED);
    store_destroy(&store);
}

static void debt_is_charged_to_a_key_that_was_forgotten(void) {
    struct store store;
    struct virtual_clock clock;
    struct two_rules p = plan_of(1, NS_PER_S, 1, 1);
    struct table_key key = key_of("k");
    struct outcome out;
    virtual_clock_init(&clock, NS_PER_S);
    CHECK(store_init(&store, 100, TABLE_EVICT, &clock, false, 1));
    CHECK(store_settle(&store, &p.plan, 0, &key, 5)); /* nothing to give back to */
    CHECK(store_settle(&store, &p.plan, 0, &key, -2));
    virtual_clock_set(&clock, 3 * NS_PER_S - 1);
    store_limit(&store, &p.plan, &key, 1, &out);
    CHECK_EQUAL(out.kind, OUTCOME_DENIED);
    virtual_clock_set(&clock, 3 * NS_PER_S);
    store_limit(&store, &p.plan, &key, 1, &out);
    CHECK_EQUAL(out.kind, OUTCOME_ADMITTED);
    store_destroy(&store);
}

/* ---- a long line ---- */

#define LONG 2000

static void no_wake(struct waiter *w) {
    (void)w;
}

/* Whoever joins learns the instant at which it will be served, also after others have left; and is served then. Each who left may have
 * cost the projection a nanosecond, by which an instant was rounded up. */
static void the_projection_is_what_happens(int rules, enum algorithm_id algorithm) {
    static struct store_waiter waiters[LONG];
    static int64_t due[LONG];
    static bool left[LONG];
    struct store store;
    struct virtual_clock clock;
    struct two_rules p = plan_of(7, NS_PER_S, 3, rules);
    struct table_key key = key_of("k");
    uint64_t seed = 11;
    int64_t until;
    int count = rules == 1 ? LONG : 100, leavers = 0;
    p.plan.algorithm = algorithm;
    virtual_clock_init(&clock, NS_PER_S);
    CHECK(store_init(&store, 100, TABLE_EVICT, &clock, false, 1));
    for (int i = 0; i < 14; i++) { /* use it up */
        struct outcome out;
        store_limit(&store, &p.plan, &key, 1, &out);
    }
    memset(left, 0, sizeof left);
    for (int i = 0; i < count; i++) {
        int leaver = (int)(check_random(&seed) % (uint64_t)count);
        waiter_init(&waiters[i].waiter, no_wake, NULL);
        CHECK(!store_wait_begin(&store, &p.plan, &key, 1 + (int64_t)(check_random(&seed) % 3), INT64_MAX, &waiters[i],
                                &until));
        if (leaver < i && !left[leaver] && check_random(&seed) % 4 == 0) {
            store_wait_cancel(&waiters[leaver], &key);
            left[leaver] = true;
            leavers++;
        }
    }
    /* One more tells the truth about all before it. */
    struct store_waiter last = {.waiter.wake = no_wake};
    CHECK(!store_wait_begin(&store, &p.plan, &key, 1, INT64_MAX, &last, &until));
    int64_t promised = last.waiter.due;
    virtual_clock_set(&clock, promised - 1 - leavers);
    CHECK(!last.waiter.served);
    virtual_clock_set(&clock, promised);
    CHECK(last.waiter.served);
    for (int i = 0; i < count; i++) {
        CHECK(left[i] != waiters[i].waiter.served);
        if (waiters[i].waiter.served) {
            due[i] = waiters[i].outcome.now;
            CHECK(i == 0 || due[i] >= due[i - 1]);
        } else {
            due[i] = i == 0 ? 0 : due[i - 1];
        }
    }
    CHECK_EQUAL(store.line_count, 0);
    store_destroy(&store);
}

/* The head's event loop is busy: the first who waits elsewhere keeps time in its place, and only that one. */
static void a_line_whose_head_cannot_look_has_a_deputy(void) {
    struct store store;
    struct virtual_clock clock;
    struct two_rules p = plan_of(1, NS_PER_S, 1, 1);
    struct table_key key = key_of("k");
    static struct store_waiter line[5];
    const void *loops[] = {&store, &store, NULL, NULL, &clock};
    struct outcome out;
    int64_t until[5];
    virtual_clock_init(&clock, NS_PER_S);
    CHECK(store_init(&store, 100, TABLE_EVICT, &clock, false, 1));
    store_limit(&store, &p.plan, &key, 1, &out);
    for (int i = 0; i < 5; i++) {
        waiter_init(&line[i].waiter, no_wake, loops[i]);
        CHECK(!store_wait_begin(&store, &p.plan, &key, 1, INT64_MAX, &line[i], &until[i]));
    }
    CHECK_EQUAL(until[0], 2 * NS_PER_S);
    CHECK_EQUAL(until[1], INT64_MAX);
    CHECK_EQUAL(until[2], 2 * NS_PER_S + DEPUTY_GRACE_NS);
    CHECK_EQUAL(until[3], INT64_MAX);
    CHECK_EQUAL(until[4], INT64_MAX);
    virtual_clock_set(&clock, 2 * NS_PER_S);
    CHECK(line[0].waiter.served);
    CHECK(!store_wait_check(&line[2], &key, &until[2]));
    CHECK_EQUAL(until[2], 3 * NS_PER_S + DEPUTY_GRACE_NS);
    virtual_clock_set(&clock, 3 * NS_PER_S); /* now a thread is the head, which needs none */
    CHECK(!store_wait_check(&line[3], &key, &until[3]));
    CHECK_EQUAL(until[3], INT64_MAX);
    store_wait_cancel(&line[2], &key);
    store_wait_cancel(&line[3], &key);
    CHECK(!store_wait_check(&line[4], &key, &until[4]));
    CHECK_EQUAL(until[4], 4 * NS_PER_S);
    store_wait_cancel(&line[4], &key);
    CHECK_EQUAL(store.line_count, 0);
    store_destroy(&store);
}

static void a_burst_is_served_in_portions(void) {
    static struct store_waiter waiters[LONG];
    struct store store;
    struct two_rules p = plan_of(1000000, NS_PER_S, LONG, 1);
    struct table_key key = key_of("k");
    struct outcome out;
    int64_t until = 0;
    int served = 0;
    CHECK(store_init(&store, 100, TABLE_EVICT, NULL, false, 1));
    store_limit(&store, &p.plan, &key, LONG, &out);
    for (int i = 0; i < LONG; i++) {
        waiter_init(&waiters[i].waiter, no_wake, NULL);
        if (store_wait_begin(&store, &p.plan, &key, 1, INT64_MAX, &waiters[i], &until)) {
            waiters[i].waiter.served = true;
        }
    }
    struct timespec pause = {.tv_nsec = 20 * NS_PER_MS}; /* all are due, on any machine */
    nanosleep(&pause, NULL);
    for (int i = 0; i < LONG && served == 0; i++) {
        if (!waiters[i].waiter.served) {
            CHECK_EQUAL(store_wait_check(&waiters[i], &key, &until), i != LONG);
            for (int j = i; j < LONG; j++) {
                served += waiters[j].waiter.served;
            }
        }
    }
    CHECK(served <= LINE_BATCH);
    for (int i = 0; i < LONG; i++) {
        while (!waiters[i].waiter.served) {
            store_wait_check(&waiters[i], &key, &until);
        }
    }
    CHECK_EQUAL(store.line_count, 0);
    store_destroy(&store);
}

static int wakes;
static void count_wake(struct waiter *w) {
    (void)w;
    wakes++;
}

/* In a window all wait for the same instant: who moves up is to keep time, though its own instant has not changed. */
static void who_becomes_the_head_is_woken(void) {
    struct store store;
    struct virtual_clock clock;
    struct two_rules p = plan_of(1, NS_PER_S, 1, 1);
    struct table_key key = key_of("k");
    struct store_waiter first, second;
    struct outcome out;
    int64_t until;
    p.plan.algorithm = FIXED_WINDOW;
    p.plan.rules[0].quota.limit = 5;
    virtual_clock_init(&clock, NS_PER_S);
    CHECK(store_init(&store, 100, TABLE_EVICT, &clock, false, 1));
    store_limit(&store, &p.plan, &key, 5, &out);
    waiter_init(&first.waiter, count_wake, NULL);
    waiter_init(&second.waiter, count_wake, NULL);
    CHECK(!store_wait_begin(&store, &p.plan, &key, 1, INT64_MAX, &first, &until));
    CHECK(!store_wait_begin(&store, &p.plan, &key, 1, INT64_MAX, &second, &until));
    CHECK_EQUAL(until, INT64_MAX);
    wakes = 0;
    store_wait_cancel(&first, &key);
    CHECK_EQUAL(wakes, 1);
    CHECK(!store_wait_check(&second, &key, &until));
    CHECK_EQUAL(until, 2 * NS_PER_S);
    store_wait_cancel(&second, &key);
    store_destroy(&store);
}

/* ---- a bucket of its own ---- */

struct drain {
    struct bucket *bucket;
    int taken;
};

static void *drain(void *argument) {
    struct drain *d = argument;
    for (int i = 0; i < CALLS; i++) {
        d->taken += bucket_take(d->bucket, 1);
    }
    return NULL;
}

static void a_bucket_gives_what_it_holds(void) {
    struct bucket bucket;
    pthread_t threads[THREADS];
    struct drain drains[THREADS];
    int taken = 0;
    CHECK(bucket_init(&bucket, 1000, 0.0001, NULL));
    for (int i = 0; i < THREADS; i++) {
        drains[i] = (struct drain){&bucket, 0};
        pthread_create(&threads[i], NULL, drain, &drains[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        taken += drains[i].taken;
    }
    CHECK_EQUAL(taken, 1000);
    bucket_destroy(&bucket);
}

static void capacity_tokens_fit_at_one_instant_whatever_the_rate(void) {
    struct virtual_clock clock;
    uint64_t seed = 3;
    virtual_clock_init(&clock, NS_PER_S);
    for (int round = 0; round < 2000; round++) {
        struct bucket bucket;
        int capacity = 1 + (int)(check_random(&seed) % 50);
        CHECK(bucket_init(&bucket, capacity, 1 + (double)(check_random(&seed) % 100000) / 7, &clock));
        for (int i = 0; i < capacity; i++) {
            CHECK(bucket_take(&bucket, 1));
        }
        CHECK(!bucket_take(&bucket, 1e-6));
        bucket_destroy(&bucket);
    }
}

int main(void) {
    clock_start();
    fork_start();
    bucket_start();
    threads_are_admitted_exactly(1, 1);
    threads_are_admitted_exactly(50, 1);
    threads_are_admitted_exactly(50, 2);
    a_flood_from_many_threads_keeps_the_ceiling();
    a_call_that_is_held_up_begins_no_past_window_again();
    waiters_are_never_early();
    a_wait_that_is_too_long_is_denied_at_once();
    a_waiter_that_leaves_makes_room_for_the_next();
    both_limits_are_taken_or_neither_and_settled_afterwards();
    debt_is_charged_to_a_key_that_was_forgotten();
    the_projection_is_what_happens(1, GCRA);
    the_projection_is_what_happens(2, GCRA);
    the_projection_is_what_happens(1, SLIDING_WINDOW);
    the_projection_is_what_happens(1, FIXED_WINDOW);
    a_line_whose_head_cannot_look_has_a_deputy();
    a_burst_is_served_in_portions();
    who_becomes_the_head_is_woken();
    a_bucket_gives_what_it_holds();
    capacity_tokens_fit_at_one_instant_whatever_the_rate();
    return check_end("store");
}
