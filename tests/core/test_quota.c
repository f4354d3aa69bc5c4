/* The quota language and its bounds. */
#include <string.h>

#include "check.h"
#include "clock.h"
#include "quota.h"

static int parse(const char *text, struct quota rules[QUOTA_RULES_MAX], struct quota_error *error) {
    return quota_parse(text, strlen(text), rules, error);
}

static void a_rule_is_a_limit_a_period_and_a_burst(void) {
    static const struct {
        const char *text;
        int64_t limit, period_ns, burst;
    } cases[] = {
        {"100/s", 100, NS_PER_S, 100},
        {"100 per second", 100, NS_PER_S, 100},
        {"  7 PER Minutes  BURST 0 ", 7, 60 * NS_PER_S, 0},
        {"100/s burst 200", 100, NS_PER_S, 200},
        {"5/10s", 5, 10 * NS_PER_S, 5},
        {"100/500ms", 100, 500 * NS_PER_MS, 100},
        {"1/1us", 1, NS_PER_US, 1},
        {"3/WK", 3, 604800 * NS_PER_S, 3},
        {"1000000000000/3650d", QUOTA_LIMIT_MAX, QUOTA_PERIOD_MAX, QUOTA_LIMIT_MAX},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct quota rules[QUOTA_RULES_MAX];
        struct quota_error error;
        CHECK_EQUAL(parse(cases[i].text, rules, &error), 1);
        CHECK_EQUAL(rules[0].limit, cases[i].limit);
        CHECK_EQUAL(rules[0].period_ns, cases[i].period_ns);
        CHECK_EQUAL(rules[0].burst, cases[i].burst);
    }
}

static void rules_are_joined_by_commas_semicolons_and_bars(void) {
    struct quota rules[QUOTA_RULES_MAX];
    struct quota_error error;
    CHECK_EQUAL(parse("1/s,2/m;3/h|4/d, ", rules, &error), 4);
    CHECK_EQUAL(rules[3].limit, 4);
    CHECK_EQUAL(parse("1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s", rules, &error), 16);
    CHECK_EQUAL(parse("1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s", rules, &error), 0);
}

static void what_cannot_be_read_names_the_token(void) {
    static const struct {
        const char *text, *named;
    } cases[] = {
        {"", "non-empty"},
        {" ; ", "non-empty"},
        {"fast", "'fast'"},
        {"10/s; x/m", "'x/m'"},
        {"10/fortnight", "'fortnight'"},
        {"10/s burst", "'burst'"},
        {"10/s burst x", "'burst'"},
        {"10/s burst 5 6", "after the burst"},
        {"10/0s", "at least 1"},
        {"0/s", "limit must be"},
        {"-1/s", "'-1/s'"},
        {"99999999999999999999/s", "limit must be"},
        {"1/s burst 99999999999999999999", "burst must be"},
        {"1/99999999999999999999w", "period must be"},
        {"1/secondsecondsecondsecond", "unsupported unit"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct quota rules[QUOTA_RULES_MAX];
        struct quota_error error = {""};
        CHECK_EQUAL(parse(cases[i].text, rules, &error), 0);
        CHECK(strstr(error.text, cases[i].named) != NULL);
        CHECK(error.text[strlen(error.text) - 1] == '.');
    }
}

static void long_and_odd_texts_end_in_a_message(void) {
    static char text[100000];
    struct quota rules[QUOTA_RULES_MAX];
    struct quota_error error;
    memset(text, '9', sizeof text);
    CHECK_EQUAL(quota_parse(text, sizeof text, rules, &error), 0);
    memset(text, '\xC3', sizeof text);
    CHECK_EQUAL(quota_parse(text, sizeof text, rules, &error), 0);
    memset(text, 0, sizeof text);
    CHECK_EQUAL(quota_parse(text, sizeof text, rules, &error), 0);
}

static void the_emission_interval_is_not_rounded(void) {
    struct quota q;
    struct quota_error error;
    CHECK(quota_init(&q, 3, NS_PER_S, 7, &error));
    CHECK_EQUAL(q.interval_ns, 333333334);
    CHECK_EQUAL(q.interval_excess, 2);
    CHECK_EQUAL(q.span_ns, 2333333334);
    CHECK_EQUAL(q.span_excess, 2);
    CHECK(!q.wide);
    CHECK(quota_init(&q, 1, QUOTA_PERIOD_MAX, QUOTA_BURST_MAX, &error));
    CHECK(q.wide);
    CHECK(!quota_init(&q, 0, NS_PER_S, 1, &error));
    CHECK(!quota_init(&q, 1, 999, 1, &error));
    CHECK(!quota_init(&q, 1, NS_PER_S, -1, &error));
}

int main(void) {
    a_rule_is_a_limit_a_period_and_a_burst();
    rules_are_joined_by_commas_semicolons_and_bars();
    what_cannot_be_read_names_the_token();
    long_and_odd_texts_end_in_a_message();
    the_emission_interval_is_not_rounded();
    return check_end("quota");
}
