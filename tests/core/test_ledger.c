/* The ledger: what one response after the other teaches, at its edges. Against simulated servers: tests/smartratelimit. */
#include <string.h>

#include "check.h"
#include "clock.h"
#include "ledger.h"

#define T0 (INT64_C(1700000000) * NS_PER_S)
#define MS NS_PER_MS
#define S NS_PER_S
#define HOUR (3600 * S)

static struct ledger l;
static struct ledger_answer answer;

static struct ledger_ticket *reserve_for(const char *resource, int64_t now) {
    struct ledger_cost cost = {"requests", resource, 1};
    ledger_reserve(&l, &cost, 1, now, HOUR, &answer);
    static struct ledger_ticket tickets[256];
    static int next;
    struct ledger_ticket *t = &tickets[next++ % 256];
    *t = answer.ticket;
    return answer.kind == LEDGER_GRANTED ? t : NULL;
}

static struct ledger_ticket *reserve(int64_t now) {
    return reserve_for("", now);
}

static struct observation says_of(const char *name, const char *resource, int64_t limit, int64_t remaining,
                                  enum observed_reset kind, int64_t reset_ns) {
    struct observation o = {.count = 1, .date_ns = UNSAID};
    snprintf(o.dimensions[0].name, OBSERVED_NAME_MAX, "%s", name);
    snprintf(o.dimensions[0].resource, OBSERVED_NAME_MAX, "%s", resource);
    o.dimensions[0].limit = limit;
    o.dimensions[0].remaining = remaining;
    o.dimensions[0].window_ns = UNSAID;
    o.dimensions[0].reset = kind;
    o.dimensions[0].reset_ns = reset_ns;
    return o;
}

static struct observation says(int64_t limit, int64_t remaining, int64_t reset_after_ns) {
    return says_of("requests", "", limit, remaining, RESET_AFTER, reset_after_ns);
}

static void hears(const struct ledger_ticket *t, struct observation o, int64_t sent, int64_t received) {
    CHECK(t != NULL);
    if (t != NULL) {
        ledger_observe(&l, t, &o, sent, received);
    }
}

static int grants(int64_t now, int most) {
    int granted = 0;
    while (granted < most && reserve(now) != NULL) {
        granted++;
    }
    return granted;
}

static void what_is_in_flight_is_taken_off_what_a_header_allows(void) {
    ledger_init(&l);
    struct ledger_ticket *first = reserve(T0);
    hears(first, says(100, 40, 60 * S), T0, T0 + 10 * MS);
    CHECK_EQUAL(grants(T0 + 10 * MS, 100), 40);
    CHECK_EQUAL(answer.kind, LEDGER_WAIT);
    CHECK_EQUAL(answer.wait_ns, 60 * S);
    CHECK(answer.sooner);
}

static void the_first_header_finds_those_counted_that_were_sent_before_it(void) {
    ledger_init(&l);
    struct ledger_ticket *first = reserve(T0);
    CHECK_EQUAL(grants(T0, 29), 29);
    hears(first, says(100, 40, 60 * S), T0, T0 + 10 * MS);
    CHECK_EQUAL(grants(T0 + 10 * MS, 100), 11);
}

static void also_when_the_header_names_a_resource_or_a_policy(void) {
    ledger_init(&l);
    struct ledger_ticket *first = reserve(T0);
    CHECK_EQUAL(grants(T0, 9), 9);
    hears(first, says_of("burst", "search", 30, 20, RESET_AFTER, 60 * S), T0, T0 + 10 * MS);
    int granted = 0;
    while (granted < 100 && reserve_for("search", T0 + 10 * MS) != NULL) {
        granted++;
    }
    CHECK_EQUAL(granted, 11);
    CHECK(reserve_for("core", T0 + 10 * MS) != NULL);
}

static void a_response_that_was_overtaken_raises_nothing(void) {
    ledger_init(&l);
    struct ledger_ticket *a = reserve(T0), *b = reserve(T0 + MS);
    hears(b, says(10, 3, 60 * S), T0 + MS, T0 + 20 * MS);
    hears(a, says(10, 9, 60 * S), T0, T0 + 30 * MS);
    CHECK_EQUAL(grants(T0 + 30 * MS, 100), 3);
}

static void a_response_to_a_later_request_may_raise(void) {
    ledger_init(&l);
    hears(reserve(T0), says(10, 3, 60 * S), T0, T0 + 20 * MS);
    hears(reserve(T0 + S), says(10, 8, 60 * S), T0 + S, T0 + S + 20 * MS);
    CHECK_EQUAL(grants(T0 + 2 * S, 100), 8);
}

static void an_older_word_counts_until_a_newer_request_has_been_answered(void) {
    ledger_init(&l);
    struct ledger_ticket *slow = reserve(T0);
    hears(reserve(T0), says(10, 5, 60 * S), T0, T0 + 10 * MS);
    hears(reserve(T0 + 20 * MS), says(10, 8, 60 * S), T0 + 20 * MS, T0 + 30 * MS);
    hears(slow, says(10, 2, 60 * S), T0, T0 + 40 * MS); /* it may be the server's newest */
    CHECK_EQUAL(grants(T0 + 50 * MS, 100), 2);
}

static void after_the_reset_one_request_asks_and_then_all_go(void) {
    ledger_init(&l);
    hears(reserve(T0), says(10, 0, 5 * S), T0, T0 + 10 * MS);
    CHECK_EQUAL(grants(T0 + 5 * S, 100), 0);
    CHECK_EQUAL(answer.wait_ns, 10 * MS);
    int64_t t = T0 + 5 * S + 10 * MS;
    struct ledger_ticket *probe = reserve(t);
    CHECK(reserve(t) == NULL);
    CHECK(answer.sooner);
    hears(probe, says(10, 9, 5 * S - MS), t, t + 5 * MS);
    CHECK_EQUAL(grants(t + 5 * MS, 100), 9);
}

static void a_reset_that_was_kept_is_trusted_the_next_time(void) {
    after_the_reset_one_request_asks_and_then_all_go();
    CHECK_EQUAL(grants(T0 + 10 * S + 100 * MS, 100), 1); /* 9 are in flight still */
    CHECK_EQUAL(grants(T0 + 100 * S, 100), 9);           /* and are given up in the end; of the one nobody has heard */
}

static void seconds_that_were_cut_make_one_probe_fail_and_not_a_crowd(void) {
    ledger_init(&l);
    hears(reserve(T0), says(100, 0, 5 * S), T0, T0 + 10 * MS); /* 5.9 s it was */
    int64_t t = T0 + 5 * S + 10 * MS;
    struct ledger_ticket *probe = reserve(t);
    CHECK_EQUAL(grants(t, 10), 0);
    hears(probe, says(100, 0, 0), t, t + 5 * MS);
    CHECK_EQUAL(grants(t + 500 * MS, 10), 0);
    CHECK_EQUAL(answer.wait_ns, 505 * MS);
}

static void a_crowd_that_straddles_the_end_of_a_second_waits_for_the_end_of_the_next(void) {
    ledger_init(&l); /* windows of a second; they turn at T0 + 5 ms */
    hears(reserve(T0), says(3, 2, S), T0, T0 + 2 * MS);
    struct ledger_ticket *before = reserve(T0 + 2 * MS), *after = reserve(T0 + 2 * MS);
    hears(before, says(3, 1, S), T0 + 2 * MS, T0 + 6 * MS);
    hears(after, says(3, 2, S), T0 + 2 * MS, T0 + 8 * MS);
    hears(reserve(T0 + 8 * MS), says(3, 1, S), T0 + 8 * MS, T0 + 10 * MS);
    hears(reserve(T0 + 10 * MS), says(3, 0, S), T0 + 10 * MS, T0 + 12 * MS);
    CHECK_EQUAL(grants(T0 + S + 4 * MS, 10), 0); /* the least of the resets that were told was T0 + 1.002 s */
    CHECK_EQUAL(answer.wait_ns, 8 * MS);
    CHECK_EQUAL(grants(T0 + S + 12 * MS, 10), 1);
}

static void a_dead_process_leaves_no_count_for_ever(void) {
    ledger_init(&l);
    hears(reserve(T0), says(10, 4, 1000 * S), T0, T0 + MS);
    CHECK_EQUAL(grants(T0 + MS, 3), 3); /* and dies before it sends them */
    hears(reserve(T0 + 30 * S), says(10, 3, 970 * S), T0 + 30 * S, T0 + 30 * S);
    CHECK_EQUAL(grants(T0 + 79 * S, 100), 0);
    CHECK_EQUAL(grants(T0 + 80 * S, 100), 3);
}

static void what_nobody_heard_of_stays_spent_until_the_reset(void) {
    ledger_init(&l);
    hears(reserve(T0), says(10, 4, 1000 * S), T0, T0 + MS);
    CHECK_EQUAL(grants(T0 + MS, 100), 4);
    CHECK_EQUAL(grants(T0 + 500 * S, 100), 0); /* they were dropped, and no header has come since */
    CHECK_EQUAL(grants(T0 + 1001 * S, 100), 1);
}

static void a_request_that_was_never_sent_gives_its_cost_back(void) {
    ledger_init(&l);
    hears(reserve(T0), says(10, 2, 60 * S), T0, T0 + MS);
    struct ledger_ticket *a = reserve(T0 + MS), *b = reserve(T0 + MS);
    CHECK(reserve(T0 + MS) == NULL);
    ledger_fail(&l, a, false, T0 + 2 * MS);
    ledger_fail(&l, b, true, T0 + 2 * MS);
    CHECK_EQUAL(grants(T0 + 3 * MS, 10), 1);
}

static void the_servers_clock_is_found_from_its_dates(void) {
    ledger_init(&l);
    const int64_t ahead = 100 * S + 300 * MS; /* the server's clock */
    for (int i = 0; i < 60; i++) {
        int64_t now = T0 + i * 137 * MS;
        struct observation o = says_of("requests", "", 10, 0, RESET_AT, T0 + ahead - 300 * MS + 30 * S);
        o.date_ns = (now + ahead) / S * S;
        struct ledger_ticket t = {0};
        ledger_observe(&l, &t, &o, now - 5 * MS, now);
        struct ledger_status told;
        CHECK(ledger_status(&l, 0, now, &told));
        CHECK(told.reset_ns >= T0 + 30 * S - 300 * MS); /* never early */
        if (i == 59) {
            CHECK(told.reset_ns < T0 + 30 * S - 300 * MS + 150 * MS);
        }
    }
    CHECK(l.clock_lo_ns <= ahead && ahead <= l.clock_hi_ns);
    struct observation o = {.date_ns = T0}; /* the clock was set */
    struct ledger_ticket t = {0};
    ledger_observe(&l, &t, &o, T0 + 20 * S, T0 + 20 * S);
    CHECK_EQUAL(l.clock_lo_ns, -20 * S);
}

static void retry_after_blocks_the_resource_or_everything(void) {
    ledger_init(&l);
    struct observation o = says_of("requests", "search", 10, 5, RESET_AFTER, 60 * S);
    o.retry = RESET_AFTER;
    o.retry_ns = 7 * S;
    hears(reserve_for("search", T0), o, T0, T0);
    CHECK(reserve_for("search", T0 + S) == NULL);
    CHECK_EQUAL(answer.wait_ns, 6 * S);
    CHECK(reserve_for("core", T0 + S) != NULL);
    CHECK(reserve_for("search", T0 + 7 * S) != NULL);
    o.retry_is_for_all = true;
    hears(reserve_for("search", T0 + 8 * S), o, T0 + 8 * S, T0 + 8 * S);
    CHECK(reserve_for("core", T0 + 9 * S) == NULL);
    CHECK_EQUAL(answer.dimension, -1);
}

static void exhausted_without_a_reset_one_asks_after_a_pause_that_grows(void) {
    ledger_init(&l);
    hears(reserve(T0), says_of("requests", "", 10, 0, RESET_UNSAID, 0), T0, T0);
    int64_t now = T0, pause = S;
    for (int i = 0; i < 4; i++, pause *= 2) {
        CHECK(reserve(now + pause - 1) == NULL);
        now += pause;
        struct ledger_ticket *probe = reserve(now);
        CHECK(probe != NULL && reserve(now) == NULL);
        hears(probe, says_of("requests", "", 10, 0, RESET_UNSAID, 0), now, now);
    }
}

static void absurd_words_are_harmless(void) {
    static const int64_t odd[] = {UNSAID, INT64_MIN + 1, -1, 0, 1, T0, CLOCK_END - 1, CLOCK_END, INT64_MAX};
    enum { N = sizeof odd / sizeof odd[0] };
    for (int i = 0; i < N * N * N * N; i++) {
        ledger_init(&l);
        int64_t limit = odd[i % N], remaining = odd[i / N % N], reset = odd[i / N / N % N], date = odd[i / N / N / N];
        for (int kind = 0; kind < 3; kind++) {
            struct observation o = says_of("requests", "", limit, remaining, (enum observed_reset)kind, reset);
            o.date_ns = date;
            o.dimensions[0].window_ns = limit;
            struct ledger_ticket *t = reserve(T0);
            ledger_observe(&l, t == NULL ? &answer.ticket : t, &o, T0, T0 + MS);
            o.retry = (enum observed_reset)kind;
            o.retry_ns = reset;
            ledger_observe(&l, &answer.ticket, &o, remaining, reset);
        }
        struct ledger_cost cost = {"requests", NULL, limit};
        ledger_reserve(&l, &cost, 1, date, reset, &answer);
        unsigned char bytes[LEDGER_BYTES_MAX];
        size_t length = ledger_pack(&l, bytes);
        struct ledger copy;
        CHECK(ledger_unpack(&copy, bytes, length));
    }
    ledger_init(&l);
    hears(reserve(T0), says(0, UNSAID, 0), T0, T0);
    CHECK(reserve(T0) != NULL);
}

static void a_cost_above_the_limit_is_never_granted(void) {
    ledger_init(&l);
    struct ledger_cost costs[] = {{"requests", "", 1}, {"tokens", "", 500}};
    ledger_reserve(&l, costs, 2, T0, HOUR, &answer);
    struct ledger_ticket t = answer.ticket;
    struct observation o = says_of("tokens", "", 400, 399, RESET_AFTER, S);
    ledger_observe(&l, &t, &o, T0, T0);
    ledger_reserve(&l, costs, 2, T0, HOUR, &answer);
    CHECK_EQUAL(answer.kind, LEDGER_NEVER);
    costs[1].amount = 400;
    ledger_reserve(&l, costs, 2, T0, HOUR, &answer);
    CHECK_EQUAL(answer.kind, LEDGER_WAIT);
    costs[1].amount = 399;
    ledger_reserve(&l, costs, 2, T0, HOUR, &answer);
    CHECK_EQUAL(answer.kind, LEDGER_GRANTED);
}

static void a_wait_beyond_the_longest_is_told_apart(void) {
    ledger_init(&l);
    hears(reserve(T0), says(10, 0, 2 * HOUR), T0, T0);
    CHECK(reserve(T0) == NULL);
    CHECK_EQUAL(answer.kind, LEDGER_TOO_LONG);
    CHECK_EQUAL(answer.wait_ns, 2 * HOUR);
}

static void configured_limits_are_exact_buckets_and_headers_do_not_overrule_them(void) {
    struct quota_error error;
    ledger_init(&l);
    CHECK(ledger_configure(&l, "requests", "", 5, 10 * S, LEDGER_CONFIGURED, &error));
    struct ledger_ticket *t = reserve(T0);
    hears(t, says(1000, 999, S), T0, T0);
    CHECK_EQUAL(grants(T0, 100), 4);
    CHECK_EQUAL(answer.wait_ns, 2 * S);
    CHECK_EQUAL(grants(T0 + 2 * S - 1, 100), 0);
    CHECK_EQUAL(grants(T0 + 2 * S, 100), 1);
    CHECK(!ledger_configure(&l, "requests", "", 0, S, LEDGER_CONFIGURED, &error) && error.text[0] != 0);
}

static void a_seed_yields_to_the_first_header_with_what_is_in_flight(void) {
    struct quota_error error;
    for (int k = 0; k < 2; k++) {
        enum ledger_source source = k == 0 ? LEDGER_REGISTRY : LEDGER_DEFAULT;
        ledger_init(&l);
        CHECK(ledger_configure(&l, "requests", "", 60, HOUR, source, &error));
        CHECK(ledger_configure(&l, "requests", "", 10, S, source, &error));
        CHECK_EQUAL(l.count, 2);
        struct ledger_ticket *t = reserve(T0);
        CHECK_EQUAL(grants(T0, 100), 9);
        hears(t, says(5000, 30, HOUR), T0, T0 + MS);
        CHECK_EQUAL(grants(T0 + MS, 100), 21);
        CHECK(ledger_configure(&l, "requests", "", 10, S, source, &error)); /* it is known better now */
        struct ledger_status told;
        int seen = 0;
        for (int i = 0; i < l.count; i++) {
            seen += ledger_status(&l, i, T0 + MS, &told) && told.source == LEDGER_CONFIRMED;
        }
        CHECK_EQUAL(seen, 1);
    }
}

static void packing_loses_nothing_and_unpacking_believes_nothing(void) {
    uint64_t seed = 7;
    for (int round = 0; round < 300; round++) {
        static const char *const names[] = {"requests", "tokens", "burst",
                                            "a-name-that-is-longer-than-anybody-needs-it"};
        int64_t now = T0;
        struct quota_error error;
        ledger_init(&l);
        ledger_configure(&l, "daily", "", 1000, 86400 * S, LEDGER_CONFIGURED, &error);
        for (int i = 0; i < 40; i++) {
            now += (int64_t)(check_random(&seed) % 3000) * MS;
            struct ledger_cost costs[] = {{"requests", check_random(&seed) % 2 ? "core" : NULL, 1}, {"tokens", "", 70}};
            ledger_reserve(&l, costs, 1 + (int)(check_random(&seed) % 2), now, HOUR, &answer);
            if (check_random(&seed) % 2) {
                struct observation o = says_of(names[check_random(&seed) % 4], check_random(&seed) % 2 ? "core" : "",
                                               1000, (int64_t)(check_random(&seed) % 1000),
                                               (enum observed_reset)(check_random(&seed) % 3), 30 * S);
                ledger_observe(&l, &answer.ticket, &o, now - 10 * MS, now);
            }
            unsigned char bytes[LEDGER_BYTES_MAX], again[LEDGER_BYTES_MAX];
            struct ledger copy;
            size_t length = ledger_pack(&l, bytes);
            CHECK(length <= 1500);
            CHECK(ledger_unpack(&copy, bytes, length));
            CHECK_EQUAL(ledger_pack(&copy, again), length);
            CHECK(memcmp(bytes, again, length) == 0);
            for (int k = 0; k < l.count; k++) {
                CHECK(memcmp(&l.dimensions[k], &copy.dimensions[k], sizeof l.dimensions[k]) == 0);
            }
            size_t cut = (size_t)(check_random(&seed) % length);
            CHECK(!ledger_unpack(&copy, bytes, cut));
            bytes[cut] ^= (unsigned char)(1 + check_random(&seed) % 255);
            if (ledger_unpack(&copy, bytes, length)) { /* then it can be worked with */
                ledger_reserve(&copy, costs, 2, now, HOUR, &answer);
                ledger_observe(&copy, &answer.ticket, NULL, now, now);
                ledger_pack(&copy, again);
            }
        }
        if (check_failures > 10) {
            return;
        }
    }
}

int main(void) {
    what_is_in_flight_is_taken_off_what_a_header_allows();
    the_first_header_finds_those_counted_that_were_sent_before_it();
    also_when_the_header_names_a_resource_or_a_policy();
    a_response_that_was_overtaken_raises_nothing();
    a_response_to_a_later_request_may_raise();
    an_older_word_counts_until_a_newer_request_has_been_answered();
    after_the_reset_one_request_asks_and_then_all_go();
    a_reset_that_was_kept_is_trusted_the_next_time();
    seconds_that_were_cut_make_one_probe_fail_and_not_a_crowd();
    a_crowd_that_straddles_the_end_of_a_second_waits_for_the_end_of_the_next();
    a_dead_process_leaves_no_count_for_ever();
    what_nobody_heard_of_stays_spent_until_the_reset();
    a_request_that_was_never_sent_gives_its_cost_back();
    the_servers_clock_is_found_from_its_dates();
    retry_after_blocks_the_resource_or_everything();
    exhausted_without_a_reset_one_asks_after_a_pause_that_grows();
    absurd_words_are_harmless();
    a_cost_above_the_limit_is_never_granted();
    a_wait_beyond_the_longest_is_told_apart();
    configured_limits_are_exact_buckets_and_headers_do_not_overrule_them();
    a_seed_yields_to_the_first_header_with_what_is_in_flight();
    packing_loses_nothing_and_unpacking_believes_nothing();
    return check_end("ledger");
}
