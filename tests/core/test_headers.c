/* The parser of rate-limit headers, at the level of bytes. What each API sends is in tests/smartratelimit. */
#include <string.h>

#include "check.h"
#include "headers_help.h"
#include "headers_structured.h"

#define NOW_S INT64_C(1700000000)

static struct text text_of(const char *s) {
    return (struct text){s, strlen(s)};
}

static void read_lines(const char *lines, int status, struct observation *out) {
    help_parse(lines, strlen(lines), status, NOW_S * NS_PER_S, NULL, out);
    CHECK(help_wrong(out, NOW_S * NS_PER_S) == NULL);
}

static void a_reset_is_told_by_its_form_and_magnitude(void) {
    static const struct {
        const char *text;
        enum reset_form form;
        enum observed_reset kind;
        int64_t ns;
    } cases[] = {
        {"0", RESET_ANY, RESET_AFTER, 0},
        {"60", RESET_ANY, RESET_AFTER, 60 * NS_PER_S},
        {" 0.250\t", RESET_ANY, RESET_AFTER, 250 * NS_PER_MS},
        {"99999999", RESET_ANY, RESET_AFTER, 99999999 * NS_PER_S},
        {"1000000000", RESET_ANY, RESET_AT, 1000000000 * NS_PER_S},
        {"1700000000.5", RESET_ANY, RESET_AT, NOW_S * NS_PER_S + 500 * NS_PER_MS},
        {"1700000000500", RESET_ANY, RESET_AT, NOW_S * NS_PER_S + 500 * NS_PER_MS},
        {"250", RESET_MILLIS, RESET_AFTER, 250 * NS_PER_MS},
        {"6m0s", RESET_ANY, RESET_AFTER, 360 * NS_PER_S},
        {"120ms", RESET_SECONDS, RESET_AFTER, 120 * NS_PER_MS},
        {"1h2m3.5s", RESET_ANY, RESET_AFTER, 3723 * NS_PER_S + 500 * NS_PER_MS},
        {"10\xC2\xB5s", RESET_ANY, RESET_AFTER, 10 * NS_PER_US},
        {"2023-11-14T22:13:20Z", RESET_ANY, RESET_AT, NOW_S * NS_PER_S},
        {"2023-11-14t23:43:20.25+01:30", RESET_ANY, RESET_AT, NOW_S * NS_PER_S + 250 * NS_PER_MS},
        {"2023-11-14T22:13Z", RESET_ANY, RESET_AT, (NOW_S - 20) * NS_PER_S},
        {"2023-11-14 22:13:20", RESET_ANY, RESET_AT, NOW_S * NS_PER_S},
        {"Tue, 14 Nov 2023 22:13:20 GMT", RESET_ANY, RESET_AT, NOW_S * NS_PER_S},
        {"Tuesday, 14-Nov-23 22:13:20 GMT", RESET_ANY, RESET_AT, NOW_S * NS_PER_S},
        {"Tue Nov 14 22:13:20 2023", RESET_ANY, RESET_AT, NOW_S * NS_PER_S},
        {"Tue, 14 Nov 2023 14:13:20 -0800", RESET_ANY, RESET_AT, NOW_S * NS_PER_S},
        {"2016-12-31T23:59:60Z", RESET_ANY, RESET_AT, 1483228800 * NS_PER_S},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moment m = {RESET_UNSAID, 0};
        CHECK(value_reset(text_of(cases[i].text), cases[i].form, &m));
        CHECK_EQUAL(m.kind, cases[i].kind);
        CHECK_EQUAL(m.ns, cases[i].ns);
    }
}

static void what_is_no_reset_is_refused(void) {
    static const char *const cases[] = {
        "",
        " ",
        "-1",
        "+1",
        "1e3",
        "NaN",
        "inf",
        "0x10",
        "1.",
        ".",
        "1 2",
        "1,5",
        "100000000",
        "999999999.9",
        "4611686018",
        "999999999999",
        "4611686018000",
        "1000000000000000000000000000000",
        "s",
        "1x",
        "1s1m",
        "1s1s",
        "1 s",
        "1000000000000h",
        "1158d",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "1970-01-01T00:00:00Z",
        "2200-01-01T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "2023-13-01T00:00:00Z",
        "2023-00-01T00:00:00Z",
        "2023-11-14",
        "2023-11-14T24:00:00Z",
        "2023-11-14T22:60:00Z",
        "2023-11-14T22:13:61Z",
        "2023-11-14T22:13:20.Z",
        "2023-11-14T22:13:20+25:00",
        "2023-11-14T22:13:20Zx",
        "Xyz, 14 Nov 2023 22:13:20 GMT",
        "Tue, 14 Xyz 2023 22:13:20 GMT",
        "Tue, 14 Nov 2023 22:13:20 PST",
        "Tue, 14 Nov 2023 22:13:20",
        "Tue, 31 Nov 2023 22:13:20 GMT",
        "Tue Nov 14",
        "Tue",
        "\xFF",
        "\xD9\xA1",
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moment m;
        if (value_reset(text_of(cases[i]), RESET_ANY, &m)) {
            fprintf(stderr, "taken for a reset: '%s'\n", cases[i]);
            CHECK(false);
        }
    }
}

static void names_come_in_any_case_and_others_do_not_count(void) {
    struct observation o;
    read_lines("x-RATELIMIT-limit: 60\nX-Request-Id: 7\nX-RateLimit: 9\nX-RateLimit-Limits: 9\nX-Rate-Limit: 9\n"
               "RateLimits: 9\nX-RateLimit-: 9\nX-Frame-Options: 9\nDate:\nA: 1\n",
               200, &o);
    CHECK_EQUAL(o.count, 1);
    CHECK_EQUAL(o.dimensions[0].limit, 60);
    CHECK_EQUAL(o.dimensions[0].remaining, UNSAID);
    CHECK_EQUAL(o.ignored, 1); /* the empty date */
}

static void bad_values_are_counted_and_take_nothing_along(void) {
    struct observation o;
    read_lines("X-RateLimit-Limit: 1000000000000000000000000000000\nX-RateLimit-Remaining: 5\nX-RateLimit-Reset: NaN\n"
               "Retry-After: -5\n",
               429, &o);
    CHECK_EQUAL(o.ignored, 3);
    CHECK_EQUAL(o.count, 1);
    CHECK_EQUAL(o.dimensions[0].limit, UNSAID);
    CHECK_EQUAL(o.dimensions[0].remaining, 5);
    CHECK_EQUAL(o.retry, RESET_UNSAID);
}

static void a_limit_of_nothing_is_ignored(void) {
    struct observation o;
    read_lines("X-RateLimit-Limit: 0\nX-RateLimit-Remaining: 0\n", 200, &o);
    CHECK_EQUAL(o.ignored, 1);
    CHECK_EQUAL(o.dimensions[0].limit, UNSAID);
    CHECK_EQUAL(o.dimensions[0].remaining, 0);
}

static void more_remaining_than_the_limit_is_the_limit(void) {
    struct observation o;
    read_lines("X-RateLimit-Limit: 10\nX-RateLimit-Remaining: 11\n", 200, &o);
    CHECK_EQUAL(o.ignored, 1);
    CHECK_EQUAL(o.dimensions[0].remaining, 10);
}

static void a_reset_many_years_ahead_is_ignored(void) {
    struct observation o;
    read_lines("X-RateLimit-Remaining: 0\nX-RateLimit-Reset: 4000000000\n", 200, &o);
    CHECK_EQUAL(o.ignored, 1);
    CHECK_EQUAL(o.dimensions[0].reset, RESET_UNSAID);
}

static void a_header_that_a_proxy_repeats_is_one_limit(void) {
    struct observation o;
    read_lines("X-RateLimit-Limit: 100\nX-RateLimit-Limit: 100\nX-RateLimit-Remaining: 7\nX-RateLimit-Remaining: 7\n",
               200, &o);
    CHECK_EQUAL(o.count, 1);
    CHECK_EQUAL(o.dimensions[0].limit, 100);
    CHECK_EQUAL(o.dimensions[0].remaining, 7);
}

static void two_families_that_tell_of_one_limit_are_one(void) {
    struct observation o;
    static const char *const cases[] = {
        "X-RateLimit-Limit: 100\nX-RateLimit-Remaining: 8\nX-RateLimit-Reset: 1700000030\n"
        "RateLimit-Limit: 100\nRateLimit-Remaining: 7\nRateLimit-Reset: 30\n",
        "X-RateLimit-Remaining: 7\nX-RateLimit-Reset: 30\n"
        "RateLimit-Limit: 100\nRateLimit-Remaining: 8\nRateLimit-Reset: 1700000030\n",
    };
    for (size_t i = 0; i < 2; i++) {
        read_lines(cases[i], 200, &o);
        CHECK_EQUAL(o.count, 1);
        CHECK_EQUAL(o.dimensions[0].limit, 100);
        CHECK_EQUAL(o.dimensions[0].remaining, 7);
        CHECK_EQUAL(o.dimensions[0].reset, RESET_AFTER);
    }
}

static void a_second_way_of_saying_the_reset_helps_where_the_first_fails(void) {
    struct observation o;
    read_lines("RateLimit-Remaining: 7\nRateLimit-Reset: soon\nRateLimit-ResetTime: Tue, 14 Nov 2023 22:14:20 GMT\n",
               200, &o);
    CHECK_EQUAL(o.ignored, 1);
    CHECK_EQUAL(o.dimensions[0].reset, RESET_AT);
    CHECK_EQUAL(o.dimensions[0].reset_ns, (NOW_S + 60) * NS_PER_S);
}

static void a_structured_integer_has_fifteen_digits_at_most(void) {
    struct field_member member;
    struct text rest = text_of("123456789012345");
    CHECK_EQUAL(field_next(&rest, &member), FIELD_MEMBER);
    CHECK_EQUAL(member.value.number.whole, 123456789012345);
    rest = text_of("1234567890123456");
    CHECK_EQUAL(field_next(&rest, &member), FIELD_MALFORMED);
}

static void two_families_with_different_limits_are_two(void) {
    struct observation o;
    read_lines("X-RateLimit-Limit: 1000\nX-RateLimit-Remaining: 8\nRateLimit-Limit: 100\nRateLimit-Remaining: 7\n", 200,
               &o);
    CHECK_EQUAL(o.count, 2);
    CHECK(strcmp(o.dimensions[0].name, "requests") == 0);
    CHECK(strcmp(o.dimensions[1].name, "requests#2") == 0);
    CHECK_EQUAL(o.dimensions[1].remaining, 8);
}

static void a_retry_after_counts_only_where_something_was_refused(void) {
    struct observation o;
    static const struct {
        int status;
        enum observed_reset retry;
    } cases[] = {{0, RESET_AFTER},    {200, RESET_UNSAID}, {202, RESET_UNSAID},
                 {302, RESET_UNSAID}, {429, RESET_AFTER},  {503, RESET_AFTER}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        read_lines("Retry-After: 5\n", cases[i].status, &o);
        CHECK_EQUAL(o.retry, cases[i].retry);
    }
}

static void milliseconds_say_more_than_seconds(void) {
    struct observation o;
    read_lines("Retry-After: 1\nRetry-After-Ms: 250\n", 429, &o);
    CHECK_EQUAL(o.retry_ns, 250 * NS_PER_MS);
}

static void names_too_long_stay_different(void) {
    struct observation o;
    char lines[600], one[200];
    memset(one, 'n', 120);
    one[120] = 0;
    snprintf(lines, sizeof lines, "RateLimit: \"%sa\";r=1, \"%sb\";r=2\n", one, one);
    read_lines(lines, 200, &o);
    CHECK_EQUAL(o.count, 2);
    CHECK_EQUAL(strlen(o.dimensions[0].name), 57);
}

static void too_many_limits_are_counted(void) {
    struct observation o;
    char lines[2000] = "RateLimit: ";
    for (int i = 0; i < 20; i++) {
        char one[32];
        snprintf(one, sizeof one, "%s\"p%d\";r=%d", i > 0 ? ", " : "", i, i);
        strcat(lines, one);
    }
    read_lines(lines, 200, &o);
    CHECK_EQUAL(o.count, OBSERVED_DIMENSIONS_MAX);
    CHECK_EQUAL(o.ignored, 4);
}

static void a_megabyte_is_ignored_at_once(void) {
    struct observation o;
    struct headers h;
    size_t length = 1 << 20;
    char *value = malloc(length);
    static const char *const names[] = {"X-RateLimit-Limit",    "X-RateLimit-Reset",
                                        "Retry-After",          "RateLimit",
                                        "X-RateLimit-Resource", "Date",
                                        "RateLimit-Policy",     "X-Ms-RateLimit-Remaining-Resource",
                                        "X-RateLimit-Reason",   "X-Shopify-Shop-Api-Call-Limit"};
    memset(value, '1', length);
    headers_begin(&h, NULL);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        headers_feed(&h, names[i], strlen(names[i]), value, length);
    }
    headers_finish(&h, 429, NOW_S * NS_PER_S, &o);
    CHECK_EQUAL(o.count, 0);
    CHECK_EQUAL(o.ignored, 9); /* a reason is read no further than it matters */
    free(value);
}

static void structured_members_stand_alone(void) {
    struct text rest =
        text_of("\"a\\\"b\";q=1 , tok/en:;x=?0;y=:aGk=:, ?1, -1.5, @99, %\"f%c3%bc\", (1 \"x\";a 2);b=2, k=(), "
                "\"bad, z, 5");
    static const struct {
        enum field_step step;
        enum field_type type;
    } wanted[] = {{FIELD_MEMBER, FIELD_STRING},  {FIELD_MEMBER, FIELD_TOKEN}, {FIELD_MEMBER, FIELD_BOOLEAN},
                  {FIELD_MEMBER, FIELD_DECIMAL}, {FIELD_MEMBER, FIELD_DATE},  {FIELD_MEMBER, FIELD_DISPLAY},
                  {FIELD_MEMBER, FIELD_INNER},   {FIELD_MEMBER, FIELD_INNER}, {FIELD_MALFORMED, FIELD_STRING},
                  {FIELD_END, FIELD_STRING}};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        struct field_member member;
        enum field_step step = field_next(&rest, &member);
        CHECK_EQUAL(step, wanted[i].step);
        if (step == FIELD_MEMBER) {
            CHECK_EQUAL(member.value.type, wanted[i].type);
        }
    }
}

/* Recorded lines, bent at random: bytes changed, dropped, doubled, moved between lines. */
static void nothing_bent_breaks_it(void) {
    static const char *const seeds[] = {
        "X-RateLimit-Limit: 5000\nX-RateLimit-Remaining: 4999\nX-RateLimit-Reset: 1700003600\nX-RateLimit-Used: 1\n"
        "X-RateLimit-Resource: core\nX-GitHub-Request-Id: A\nRetry-After: 30\nDate: Tue, 14 Nov 2023 22:13:20 GMT\n",
        "RateLimit-Policy: \"burst\";q=100;w=60;qu=\"tokens\",\"daily\";q=1000;w=86400\nRateLimit: \"burst\";r=50;t=30;pk=:YQ==:\n",
        "RateLimit: limit=100, remaining=50, reset=5\nRateLimit-Policy: 100;w=60, 1000;w=3600\nRateLimit-Limit: 100, 100;w=60\n",
        "x-ratelimit-limit-tokens: 150000\nx-ratelimit-remaining-tokens: 149984\nx-ratelimit-reset-tokens: 6m0.5s\n",
        "anthropic-ratelimit-input-tokens-limit: 80000\nanthropic-ratelimit-input-tokens-reset: 2023-11-14T22:14:20Z\n",
        "X-Shopify-Shop-Api-Call-Limit: 32/40\nX-HubSpot-RateLimit-Interval-Milliseconds: 10000\nX-HubSpot-RateLimit-Max: 100\n"
        "x-amzn-RateLimit-Limit: 0.0167\nx-ms-ratelimit-remaining-resource: Microsoft.Compute/GetVM3Min;237,a;1\n"
        "x-ms-ratelimit-remaining-subscription-reads: 11999\n",
        "X-RateLimit-Limit: 1, 15000\nX-RateLimit-Policy: 1;w=1, 15000;w=2592000\nX-RateLimit-Remaining: 0, 14523\n"
        "X-RateLimit-Reset: 1, 1419704\nX-RateLimit-Scope: global\nX-RateLimit-Reset-After: 1.5\n",
    };
    uint64_t seed = 7;
    char text[2048];
    for (int round = 0; round < 60000; round++) {
        const char *from = seeds[check_random(&seed) % (sizeof seeds / sizeof seeds[0])];
        size_t length = strlen(from);
        memcpy(text, from, length);
        for (uint64_t changes = check_random(&seed) % 8; changes > 0; changes--) {
            size_t at = check_random(&seed) % length, other = check_random(&seed) % length;
            switch (check_random(&seed) % 5) {
            case 0:
                text[at] = (char)check_random(&seed);
                break;
            case 1:
                text[at] = "0123456789,;=\":.-@?%()'\\ \n"[check_random(&seed) % 26];
                break;
            case 2:
                memmove(text + at, text + at + 1, length - at - 1);
                length -= length > 1;
                break;
            case 3:
                if (length + 40 < sizeof text) {
                    size_t piece = 1 + check_random(&seed) % 40;
                    piece = piece > length - at ? length - at : piece;
                    memmove(text + at + piece, text + at, length - at);
                    length += piece;
                }
                break;
            default:
                text[at] = text[other];
            }
        }
        struct observation o;
        static const int statuses[] = {0, 200, 403, 429};
        help_parse(text, length, statuses[check_random(&seed) % 4], NOW_S * NS_PER_S, NULL, &o);
        const char *wrong = help_wrong(&o, NOW_S * NS_PER_S);
        if (wrong != NULL) {
            fprintf(stderr, "round %d: %s in\n%.*s\n", round, wrong, (int)length, text);
            CHECK(false);
            return;
        }
    }
}

int main(void) {
    a_reset_is_told_by_its_form_and_magnitude();
    what_is_no_reset_is_refused();
    names_come_in_any_case_and_others_do_not_count();
    bad_values_are_counted_and_take_nothing_along();
    a_limit_of_nothing_is_ignored();
    more_remaining_than_the_limit_is_the_limit();
    a_reset_many_years_ahead_is_ignored();
    a_header_that_a_proxy_repeats_is_one_limit();
    two_families_that_tell_of_one_limit_are_one();
    a_second_way_of_saying_the_reset_helps_where_the_first_fails();
    a_structured_integer_has_fifteen_digits_at_most();
    two_families_with_different_limits_are_two();
    a_retry_after_counts_only_where_something_was_refused();
    milliseconds_say_more_than_seconds();
    names_too_long_stay_different();
    too_many_limits_are_counted();
    a_megabyte_is_ignored_at_once();
    structured_members_stand_alone();
    nothing_bent_breaks_it();
    return check_end("headers");
}
