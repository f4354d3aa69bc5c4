/* The quota language.
 *
 *   rules  = rule { ("," | ";" | "|") rule }
 *   rule   = limit ( "/" | "per" ) [ count ] unit [ "burst" burst ]
 *   unit   = us | ms | s | m | h | d | w, and their longer names, upper or lower case
 *
 * White space is free between words. The grammar is throttled.md's library's, plus a count before the unit and units below
 * a second. A hand-written reader keeps the offending token at hand for the message. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "quota.h"

#define UNITS_EXPECTED "us/microsecond, ms/millisecond, s/sec/second, m/min/minute, h/hr/hour, d/day or w/wk/week"

static const struct {
    const char *name;
    int64_t ns;
} units[] = {
    {"us", INT64_C(1000)},
    {"usec", INT64_C(1000)},
    {"microsecond", INT64_C(1000)},
    {"microseconds", INT64_C(1000)},
    {"ms", INT64_C(1000000)},
    {"msec", INT64_C(1000000)},
    {"millisecond", INT64_C(1000000)},
    {"milliseconds", INT64_C(1000000)},
    {"s", INT64_C(1000000000)},
    {"sec", INT64_C(1000000000)},
    {"secs", INT64_C(1000000000)},
    {"second", INT64_C(1000000000)},
    {"seconds", INT64_C(1000000000)},
    {"m", INT64_C(60000000000)},
    {"min", INT64_C(60000000000)},
    {"mins", INT64_C(60000000000)},
    {"minute", INT64_C(60000000000)},
    {"minutes", INT64_C(60000000000)},
    {"h", INT64_C(3600000000000)},
    {"hr", INT64_C(3600000000000)},
    {"hrs", INT64_C(3600000000000)},
    {"hour", INT64_C(3600000000000)},
    {"hours", INT64_C(3600000000000)},
    {"d", INT64_C(86400000000000)},
    {"day", INT64_C(86400000000000)},
    {"days", INT64_C(86400000000000)},
    {"w", INT64_C(604800000000000)},
    {"wk", INT64_C(604800000000000)},
    {"wks", INT64_C(604800000000000)},
    {"week", INT64_C(604800000000000)},
    {"weeks", INT64_C(604800000000000)},
};

struct reader {
    const char *at, *end; /* what is left of the rule */
    const char *rule;     /* the whole rule, for messages */
    int rule_length;
    struct quota_error *error;
};

__attribute__((format(printf, 2, 3))) static bool fail(struct reader *r, const char *format, ...) {
    char what[240];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    int shown = r->rule_length > 100 ? 100 : r->rule_length;
    while (shown < r->rule_length && shown > 0 && ((unsigned char)r->rule[shown] & 0xC0) == 0x80) {
        shown--; /* do not cut a character in two */
    }
    snprintf(r->error->text, sizeof r->error->text, "Invalid quota token: '%.*s%s', %s.", shown, r->rule,
             shown < r->rule_length ? "..." : "", what);
    return false;
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}
static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static void skip_space(struct reader *r) {
    while (r->at < r->end && is_space(*r->at)) {
        r->at++;
    }
}

/* A run of digits. Saturates: the bounds check names the number. */
static bool read_number(struct reader *r, int64_t *value) {
    const char *start = r->at;
    int64_t n = 0;
    while (r->at < r->end && is_digit(*r->at)) {
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, *r->at - '0', &n)) {
            n = INT64_MAX;
        }
        r->at++;
    }
    *value = n;
    return r->at > start;
}

/* The word ahead, lower case; true when there is one that fits in `word`. */
static bool read_word(struct reader *r, char *word, size_t size, const char **start, int *length) {
    *start = r->at;
    while (r->at < r->end && is_letter(*r->at)) {
        r->at++;
    }
    *length = (int)(r->at - *start);
    if (*length == 0 || (size_t)*length >= size) {
        return false;
    }
    for (int i = 0; i < *length; i++) {
        word[i] = lower((*start)[i]);
    }
    word[*length] = 0;
    return true;
}

static bool read_period(struct reader *r, int64_t *period_ns) {
    int64_t count;
    if (!read_number(r, &count)) {
        count = 1;
    } else if (count == 0) {
        return fail(r, "the count before the unit must be at least 1");
    }
    skip_space(r);
    char word[16];
    const char *start;
    int length;
    bool fits = read_word(r, word, sizeof word, &start, &length);
    if (length == 0) {
        return fail(r, "expected a unit after '/' or 'per': " UNITS_EXPECTED);
    }
    for (size_t i = 0; fits && i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(units[i].name, word) == 0) {
            if (__builtin_mul_overflow(count, units[i].ns, period_ns) || *period_ns > QUOTA_PERIOD_MAX) {
                return fail(r, "the period must be between 1 microsecond and 3650 days");
            }
            return true;
        }
    }
    return fail(r, "unsupported unit '%.*s', expected " UNITS_EXPECTED, length > 32 ? 32 : length, start);
}

static bool read_rule(struct reader *r, struct quota *q) {
    static const char form[] = "expected '<n>/<unit>' or '<n> per <unit>', optionally followed by 'burst <n>'";
    int64_t limit, period_ns = 0, burst;
    char word[16];
    const char *start;
    int length;

    if (!read_number(r, &limit)) {
        return fail(r, "%s", form);
    }
    skip_space(r);
    if (r->at < r->end && *r->at == '/') {
        r->at++;
    } else if (!read_word(r, word, sizeof word, &start, &length) || strcmp(word, "per") != 0) {
        return fail(r, "%s", form);
    }
    skip_space(r);
    if (!read_period(r, &period_ns)) {
        return false;
    }
    skip_space(r);
    burst = limit;
    if (r->at < r->end) {
        if (!read_word(r, word, sizeof word, &start, &length) || strcmp(word, "burst") != 0) {
            return fail(r, "%s", form);
        }
        skip_space(r);
        if (!read_number(r, &burst)) {
            return fail(r, "expected a number after 'burst'");
        }
        skip_space(r);
        if (r->at < r->end) {
            return fail(r, "unexpected text after the burst");
        }
    }
    if (limit < 1 || limit > QUOTA_LIMIT_MAX) {
        return fail(r, "limit must be between 1 and %" PRId64, QUOTA_LIMIT_MAX);
    }
    if (burst > QUOTA_BURST_MAX) {
        return fail(r, "burst must be between 0 and %" PRId64, QUOTA_BURST_MAX);
    }
    return quota_init(q, limit, period_ns, burst, r->error);
}

int quota_parse(const char *text, size_t length, struct quota rules[QUOTA_RULES_MAX], struct quota_error *error) {
    const char *at = text, *end = text + length;
    int count = 0;
    while (at <= end) {
        const char *stop = at;
        while (stop < end && *stop != ',' && *stop != ';' && *stop != '|') {
            stop++;
        }
        struct reader r = {.at = at, .end = stop, .error = error};
        skip_space(&r);
        while (r.end > r.at && is_space(r.end[-1])) {
            r.end--;
        }
        r.rule = r.at;
        r.rule_length = r.end - r.at > 1000 ? 1000 : (int)(r.end - r.at);
        if (r.at < r.end) { /* an empty token, as after a trailing comma, is passed over */
            if (count == QUOTA_RULES_MAX) {
                fail(&r, "at most %d rules in one quota", QUOTA_RULES_MAX);
                return 0;
            }
            if (!read_rule(&r, &rules[count])) {
                return 0;
            }
            count++;
        }
        at = stop + 1;
    }
    if (count == 0) {
        snprintf(error->text, sizeof error->text,
                 "Invalid quota: must be a non-empty string such as '100/s burst 200'.");
    }
    return count;
}
