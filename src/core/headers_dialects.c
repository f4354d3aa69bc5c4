/* The names of headers: see headers_dialects.h.
 *
 * The first eight bytes, in lower case and as one integer, choose the family; the rest of the name is compared there. Setting
 * bit 5 makes ASCII letters lower case and leaves '-' and digits as they are. */
#include "headers_dialects.h"

#include <string.h>

#include "clock.h"

#define DAY_NS (86400 * NS_PER_S)

const struct dialect_group dialect_groups[GROUP_COUNT] = {
    [GROUP_MAPPED] = {"requests", UNSAID, true},
    [GROUP_PLAIN] = {"requests", UNSAID, true},
    [GROUP_X] = {"requests", UNSAID, true},
    [GROUP_X_DASHED] = {"requests", UNSAID, true},
    [GROUP_HUBSPOT] = {"requests", UNSAID, false},
    [GROUP_APP_DAY] = {"app_requests_per_day", DAY_NS, false},
    [GROUP_USER_DAY] = {"user_requests_per_day", DAY_NS, false},
    [GROUP_REQUESTS] = {"requests", UNSAID, false},
    [GROUP_TOKENS] = {"tokens", UNSAID, false},
    [GROUP_INPUT_TOKENS] = {"input_tokens", UNSAID, false},
    [GROUP_OUTPUT_TOKENS] = {"output_tokens", UNSAID, false},
    [GROUP_SECOND] = {"requests_per_second", NS_PER_S, false},
    [GROUP_MINUTE] = {"requests_per_minute", 60 * NS_PER_S, false},
    [GROUP_HOUR] = {"requests_per_hour", 3600 * NS_PER_S, false},
    [GROUP_DAY] = {"requests_per_day", DAY_NS, false},
    [GROUP_MONTH] = {"requests_per_month", UNSAID, false}, /* 28 to 31 days */
    [GROUP_TOKENS_MINUTE] = {"tokens_per_minute", 60 * NS_PER_S, false},
    [GROUP_TOKENS_HOUR] = {"tokens_per_hour", 3600 * NS_PER_S, false},
    [GROUP_TOKENS_DAY] = {"tokens_per_day", DAY_NS, false},
};

static const struct dialect nothing = {GROUP_NONE, PART_NOTHING, {"", 0}};

#define BYTE(c, n) ((uint64_t)(unsigned char)(c) << (8 * (n)))
#define EIGHT(a, b, c, d, e, f, g, h)                                                                                  \
    (BYTE(a, 0) | BYTE(b, 1) | BYTE(c, 2) | BYTE(d, 3) | BYTE(e, 4) | BYTE(f, 5) | BYTE(g, 6) | BYTE(h, 7))

static uint64_t first_eight(const char *at) {
    return EIGHT(at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7]) | UINT64_C(0x2020202020202020);
}

/* What follows `prefix`, or a text of NULL. */
static struct text after(struct text name, const char *prefix) {
    size_t length = strlen(prefix);
    if (name.length >= length && text_is((struct text){name.at, length}, prefix)) {
        return (struct text){name.at + length, name.length - length};
    }
    return (struct text){NULL, 0};
}

static struct dialect whole(struct text name, const char *wanted, enum header_part part) {
    return text_is(name, wanted) ? (struct dialect){GROUP_NONE, part, {"", 0}} : nothing;
}

/* ---- <prefix>-<part>[-<unit>], <prefix>-<unit>-<part> ---- */

static const struct {
    const char *unit;
    enum header_group group;
} units[] = {
    {"requests", GROUP_REQUESTS},
    {"tokens", GROUP_TOKENS},
    {"input-tokens", GROUP_INPUT_TOKENS},
    {"output-tokens", GROUP_OUTPUT_TOKENS},
    {"second", GROUP_SECOND},
    {"minute", GROUP_MINUTE},
    {"hour", GROUP_HOUR},
    {"day", GROUP_DAY},
    {"month", GROUP_MONTH},
    {"requests-second", GROUP_SECOND},
    {"requests-minute", GROUP_MINUTE},
    {"requests-hour", GROUP_HOUR},
    {"requests-day", GROUP_DAY},
    {"tokens-minute", GROUP_TOKENS_MINUTE},
    {"tokens-hour", GROUP_TOKENS_HOUR},
    {"tokens-day", GROUP_TOKENS_DAY},
};

static struct dialect in_unit(struct text unit, enum header_part part) {
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (text_is(unit, units[i].unit)) {
            return (struct dialect){units[i].group, part, {"", 0}};
        }
    }
    return nothing;
}

static struct dialect limit_part(struct text rest, enum header_group group) {
    static const struct {
        const char *name;
        enum header_part part;
    } parts[] = {{"limit", PART_LIMIT}, {"remaining", PART_REMAINING}, {"reset", PART_RESET}, {"used", PART_USED}};

    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        size_t length = strlen(parts[i].name);
        if (rest.length < length) {
            continue;
        }
        if (rest.length == length) {
            if (group != GROUP_NONE && text_is(rest, parts[i].name)) {
                return (struct dialect){group, parts[i].part, {"", 0}};
            }
            continue;
        }
        struct text head = {rest.at, length}, tail = {rest.at + rest.length - length, length};
        if (rest.at[length] == '-' && text_is(head, parts[i].name)) {
            struct dialect found =
                in_unit((struct text){rest.at + length + 1, rest.length - length - 1}, parts[i].part);
            if (found.part != PART_NOTHING) {
                return found;
            }
        }
        if (rest.at[rest.length - length - 1] == '-' && text_is(tail, parts[i].name)) {
            return in_unit((struct text){rest.at, rest.length - length - 1}, parts[i].part);
        }
    }
    return nothing;
}

static struct dialect rate_limit(struct text rest, enum header_group group) {
    static const struct {
        const char *name;
        enum header_part part;
        bool of_group;
    } others[] = {
        {"reset-after", PART_RESET_AFTER, true}, {"resettime", PART_RESET_TIME, true},
        {"observed", PART_USED, true},           {"resource", PART_GITHUB_RESOURCE, false},
        {"bucket", PART_RESOURCE, false},        {"name", PART_RESOURCE, false},
        {"global", PART_GLOBAL, false},          {"scope", PART_SCOPE, false},
        {"reason", PART_REASON, false},          {"retry-after", PART_RETRY, false},
        {"policy", PART_POLICY, true},
    };
    struct dialect found = limit_part(rest, group);
    for (size_t i = 0; found.part == PART_NOTHING && i < sizeof others / sizeof others[0]; i++) {
        if (text_is(rest, others[i].name)) {
            found = (struct dialect){others[i].of_group ? group : GROUP_NONE, others[i].part, {"", 0}};
        }
    }
    return found;
}

/* ---- families ---- */

static struct dialect plain(struct text name) {
    struct text rest = after(name, "ratelimit-");
    if (rest.at == NULL) {
        return whole(name, "ratelimit", PART_STRUCTURED);
    }
    return text_is(rest, "policy") ? whole(rest, "policy", PART_STRUCTURED_POLICY) : rate_limit(rest, GROUP_PLAIN);
}

static struct dialect beta(struct text name) {
    struct text rest = after(name, "beta-");
    return rest.at == NULL              ? nothing
           : text_is(rest, "ratelimit") ? whole(rest, "ratelimit", PART_STRUCTURED)
                                        : whole(rest, "ratelimit-policy", PART_STRUCTURED_POLICY);
}

static struct dialect hubspot(struct text rest) {
    static const struct {
        const char *name;
        enum header_group group;
        enum header_part part;
    } names[] = {
        {"max", GROUP_HUBSPOT, PART_LIMIT},
        {"remaining", GROUP_HUBSPOT, PART_REMAINING},
        {"interval-milliseconds", GROUP_HUBSPOT, PART_WINDOW_MILLIS},
        {"daily", GROUP_DAY, PART_LIMIT},
        {"daily-remaining", GROUP_DAY, PART_REMAINING},
        {"secondly", GROUP_SECOND, PART_LIMIT},
        {"secondly-remaining", GROUP_SECOND, PART_REMAINING},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (text_is(rest, names[i].name)) {
            return (struct dialect){names[i].group, names[i].part, {"", 0}};
        }
    }
    return nothing;
}

static struct dialect azure(struct text rest) {
    if (text_is(rest, "resource")) {
        return (struct dialect){GROUP_NONE, PART_AZURE_RESOURCE, {"", 0}};
    }
    return rest.length == 0 ? nothing : (struct dialect){GROUP_NONE, PART_AZURE, rest};
}

struct dialect dialect_find(struct text name) {
    struct text rest;
    if (name.length == 4) {
        return whole(name, "date", PART_DATE);
    }
    if (name.length < 9) {
        return nothing;
    }
    switch (first_eight(name.at)) {
    case EIGHT('x', '-', 'r', 'a', 't', 'e', 'l', 'i'):
        rest = after(name, "x-ratelimit-");
        return rest.at != NULL ? rate_limit(rest, GROUP_X) : nothing;
    case EIGHT('x', '-', 'r', 'a', 't', 'e', '-', 'l'):
        rest = after(name, "x-rate-limit-");
        return rest.at != NULL ? rate_limit(rest, GROUP_X_DASHED) : nothing;
    case EIGHT('r', 'a', 't', 'e', 'l', 'i', 'm', 'i'):
        return plain(name);
    case EIGHT('r', 'e', 't', 'r', 'y', '-', 'a', 'f'):
        rest = after(name, "retry-after");
        return rest.at == NULL    ? nothing
               : rest.length == 0 ? (struct dialect){GROUP_NONE, PART_RETRY, {"", 0}}
                                  : whole(rest, "-ms", PART_RETRY_MILLIS);
    case EIGHT('x', '-', 'r', 'e', 't', 'r', 'y', '-'):
        return whole(name, "x-retry-after", PART_RETRY);
    case EIGHT('a', 'n', 't', 'h', 'r', 'o', 'p', 'i'):
        rest = after(name, "anthropic-ratelimit-");
        return rest.at != NULL ? limit_part(rest, GROUP_NONE) : nothing;
    case EIGHT('x', '-', 'a', 'p', 'p', '-', 'l', 'i'):
        rest = after(name, "x-app-limit-24hour-");
        return rest.at != NULL ? limit_part(rest, GROUP_APP_DAY) : nothing;
    case EIGHT('x', '-', 'u', 's', 'e', 'r', '-', 'l'):
        rest = after(name, "x-user-limit-24hour-");
        return rest.at != NULL ? limit_part(rest, GROUP_USER_DAY) : nothing;
    case EIGHT('x', '-', 'h', 'u', 'b', 's', 'p', 'o'):
        rest = after(name, "x-hubspot-ratelimit-");
        return rest.at != NULL ? hubspot(rest) : nothing;
    case EIGHT('x', '-', 'g', 'i', 't', 'h', 'u', 'b'):
        return name.at[8] == '-' ? (struct dialect){GROUP_NONE, PART_GITHUB, {"", 0}} : nothing;
    case EIGHT('b', 'e', 't', 'a', '-', 'r', 'a', 't'):
        return beta(name);
    case EIGHT('s', 't', 'r', 'i', 'p', 'e', '-', 'r'):
        return whole(name, "stripe-rate-limited-reason", PART_REASON);
    case EIGHT('x', '-', 's', 'h', 'o', 'p', 'i', 'f'):
        return whole(name, "x-shopify-shop-api-call-limit", PART_SHOPIFY);
    case EIGHT('x', '-', 'a', 'm', 'z', 'n', '-', 'r'):
        return whole(name, "x-amzn-ratelimit-limit", PART_AMAZON);
    case EIGHT('x', '-', 'm', 's', '-', 'r', 'a', 't'):
        rest = after(name, "x-ms-ratelimit-remaining-");
        return rest.at != NULL ? azure(rest) : nothing;
    case EIGHT('x', '-', 'm', 's', '-', 'r', 'e', 't'):
        return whole(name, "x-ms-retry-after-ms", PART_RETRY_MILLIS);
    default:
        return nothing;
    }
}
