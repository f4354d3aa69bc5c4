/* The step functions: the definitions at their edges. The full comparison with a model is in tests/properties. */
#include <string.h>

#include "algorithm.h"
#include "check.h"
#include "clock.h"

#define EPOCH (INT64_C(1700000000) * NS_PER_S)

static struct quota quota(int64_t limit, int64_t period_ns, int64_t burst) {
    struct quota q;
    struct quota_error error;
    CHECK(quota_init(&q, limit, period_ns, burst, &error));
    return q;
}

static void three_a_second_admits_exactly_that_over_a_million_seconds(void) {
    struct quota q = quota(3, NS_PER_S, 1);
    struct state s = {{0, 0, 0}};
    int64_t admitted = 0, now = EPOCH;
    const int64_t end = EPOCH + 1000000 * NS_PER_S;
    while (now < end) {
        admitted += algorithm_step(GCRA, &s, &q, 1, now);
        int64_t wait = algorithm_wait(GCRA, &s, &q, 1, now);
        now += wait > 0 ? wait : 0;
    }
    CHECK_EQUAL(admitted, 3 * 1000000);
    CHECK(s.word[1] >= 0 && s.word[1] < 3);
}

static void a_denied_step_changes_nothing(void) {
    struct quota q = quota(5, NS_PER_S, 5);
    for (int id = 0; id < ALGORITHM_COUNT; id++) {
        struct state s = {{0, 0, 0}};
        CHECK(algorithm_step((enum algorithm_id)id, &s, &q, 5, EPOCH));
        struct state before = s;
        CHECK(!algorithm_step((enum algorithm_id)id, &s, &q, 1, EPOCH));
        CHECK(!algorithm_step((enum algorithm_id)id, &s, &q, 6, EPOCH));
        CHECK(!algorithm_step((enum algorithm_id)id, &s, &q, INT64_MAX, EPOCH));
        CHECK(memcmp(&before, &s, sizeof s) == 0);
        CHECK(algorithm_step((enum algorithm_id)id, &s, &q, 0, EPOCH));
        CHECK(memcmp(&before, &s, sizeof s) == 0);
        CHECK_EQUAL(algorithm_wait((enum algorithm_id)id, &s, &q, 6, EPOCH), WAIT_NEVER);
    }
}

static void the_wait_is_exact_to_the_nanosecond(void) {
    uint64_t seed = 1;
    for (int round = 0; round < 200000; round++) {
        enum algorithm_id id = (enum algorithm_id)(check_random(&seed) % ALGORITHM_COUNT);
        int64_t limit = 1 + (int64_t)(check_random(&seed) % 20);
        struct quota q = quota(limit, NS_PER_US * (1 + (int64_t)(check_random(&seed) % 3000)),
                               1 + (int64_t)(check_random(&seed) % 20));
        struct state s = {{0, 0, 0}};
        int64_t now = EPOCH + (int64_t)(check_random(&seed) % 100000);
        int64_t most = id == FIXED_WINDOW || id == SLIDING_WINDOW ? q.limit : q.burst;
        for (int call = 0; call < 20; call++) {
            int64_t cost = 1 + (int64_t)(check_random(&seed) % (uint64_t)most);
            int64_t wait = algorithm_wait(id, &s, &q, cost, now);
            struct state copy = s;
            CHECK((wait == 0) == algorithm_step(id, &copy, &q, cost, now));
            if (wait > 0) {
                copy = s;
                CHECK(!algorithm_step(id, &copy, &q, cost, now + wait - 1));
                CHECK(algorithm_step(id, &copy, &q, cost, now + wait));
            }
            algorithm_step(id, &s, &q, cost, now);
            now += (int64_t)(check_random(&seed) % 500000);
        }
        if (check_failures > 10) {
            return;
        }
    }
}

static void a_refund_gives_back_what_was_taken(void) {
    struct quota q = quota(10, NS_PER_S, 10);
    for (int id = 0; id < ALGORITHM_COUNT; id++) {
        struct state s = {{0, 0, 0}};
        CHECK(algorithm_step((enum algorithm_id)id, &s, &q, 10, EPOCH));
        algorithm_refund((enum algorithm_id)id, &s, &q, 4, EPOCH);
        CHECK(!algorithm_step((enum algorithm_id)id, &s, &q, 5, EPOCH));
        CHECK(algorithm_step((enum algorithm_id)id, &s, &q, 4, EPOCH));
    }
}

static void buckets_of_centuries_are_as_exact(void) {
    struct quota q = quota(7, QUOTA_PERIOD_MAX, 1000000);
    struct state s = {{0, 0, 0}};
    for (int i = 0; i < 1000; i++) {
        CHECK(algorithm_step(TOKEN_BUCKET, &s, &q, 1000, EPOCH));
    }
    CHECK(!algorithm_step(TOKEN_BUCKET, &s, &q, 1, EPOCH));
    struct decision d;
    algorithm_report(TOKEN_BUCKET, &s, &q, 1, EPOCH, &d);
    CHECK_EQUAL(d.remaining, 0);
    int64_t wait = algorithm_wait(TOKEN_BUCKET, &s, &q, 1, EPOCH);
    CHECK_EQUAL(wait, (QUOTA_PERIOD_MAX + 6) / 7);
    CHECK(!algorithm_step(TOKEN_BUCKET, &s, &q, 1, EPOCH + wait - 1));
    CHECK(algorithm_step(TOKEN_BUCKET, &s, &q, 1, EPOCH + wait));
}

static void the_documents_numbers_come_out(void) {
    struct quota minute = quota(60, 60 * NS_PER_S, 60), one = quota(1, 60 * NS_PER_S, 1);
    struct quota hundred = quota(100, NS_PER_S, 100);
    struct state s = {{0, 0, 0}};
    struct decision d;
    CHECK(algorithm_step(TOKEN_BUCKET, &s, &minute, 1, EPOCH));
    algorithm_report(TOKEN_BUCKET, &s, &minute, 0, EPOCH + 5, &d);
    CHECK_EQUAL(d.limit, 60);
    CHECK_EQUAL(d.remaining, 59);
    CHECK_EQUAL(d.reset_after_ns, NS_PER_S);
    s = (struct state){{0, 0, 0}};
    CHECK(algorithm_step(TOKEN_BUCKET, &s, &one, 1, EPOCH));
    algorithm_report(TOKEN_BUCKET, &s, &one, 1, EPOCH + 5, &d);
    CHECK_EQUAL(d.retry_after_ns, 60 * NS_PER_S);
    s = (struct state){{0, 0, 0}};
    CHECK(algorithm_step(LEAKING_BUCKET, &s, &hundred, 1, EPOCH));
    algorithm_report(LEAKING_BUCKET, &s, &hundred, 0, EPOCH + 5, &d);
    CHECK_EQUAL(d.reset_after_ns, 10 * NS_PER_MS);
}

/* Sums stay within their bits: who has been charged without end is a debtor, and no more. */
static void a_debt_never_turns_into_credit(void) {
    struct quota q;
    struct quota_error error;
    static const enum algorithm_id ids[] = {GCRA, TOKEN_BUCKET, LEAKING_BUCKET};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        struct state s = {{0, 0, 0}};
        CHECK(quota_init(&q, 1, INT64_C(3650) * 86400 * NS_PER_S, 1, &error));
        for (int n = 0; n < 5000; n++) {
            algorithm_refund(ids[i], &s, &q, INT64_MIN / 2, EPOCH);
            CHECK(!algorithm_step(ids[i], &s, &q, 1, EPOCH));
        }
    }
}

int main(void) {
    three_a_second_admits_exactly_that_over_a_million_seconds();
    a_denied_step_changes_nothing();
    the_wait_is_exact_to_the_nanosecond();
    a_refund_gives_back_what_was_taken();
    a_debt_never_turns_into_credit();
    buckets_of_centuries_are_as_exact();
    the_documents_numbers_come_out();
    return check_end("algorithm");
}
