/* Numbers, durations and dates in headers: see headers_values.h.
 *
 * A reader is a position and an end; each `take_` function moves it over what it names or returns false. Sums stay far
 * inside 128 bits, because every part is bounded before it is multiplied. */
#include "headers_values.h"

#include <string.h>

#include "clock.h"
#include "wide.h"

struct reader {
    const char *at, *end;
};

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static bool is_letter(char c) {
    return lower(c) >= 'a' && lower(c) <= 'z';
}

struct text text_trim(struct text text) {
    while (text.length > 0 && (text.at[0] == ' ' || text.at[0] == '\t')) {
        text.at++;
        text.length--;
    }
    while (text.length > 0 && (text.at[text.length - 1] == ' ' || text.at[text.length - 1] == '\t')) {
        text.length--;
    }
    return text;
}

bool text_is(struct text text, const char *wanted) {
    size_t i = 0;
    while (i < text.length && wanted[i] != 0 && lower(text.at[i]) == wanted[i]) {
        i++;
    }
    return i == text.length && wanted[i] == 0;
}

bool text_is_printable(struct text text) {
    for (size_t i = 0; i < text.length; i++) {
        if (text.at[i] < 0x20 || text.at[i] > 0x7E) {
            return false;
        }
    }
    return text.length > 0;
}

bool value_starts_with_letter(struct text text) {
    text = text_trim(text);
    return text.length > 0 && is_letter(text.at[0]);
}

static bool reader_take(struct reader *r, char c) {
    if (r->at < r->end && *r->at == c) {
        r->at++;
        return true;
    }
    return false;
}

/* ---- numbers ---- */

#define WHOLE_END INT64_C(1000000000000000000)

static bool take_number(struct reader *r, struct number *number) {
    int64_t whole = 0;
    int32_t nanos = 0, unit = 100000000;
    int digits = 0;
    for (; r->at < r->end && is_digit(*r->at); r->at++, digits++) {
        if (whole >= WHOLE_END / 10) {
            return false;
        }
        whole = whole * 10 + (*r->at - '0');
    }
    if (reader_take(r, '.')) {
        int fraction = 0;
        for (; r->at < r->end && is_digit(*r->at); r->at++, fraction++) {
            nanos += unit * (*r->at - '0');
            unit /= 10; /* 0 after nine digits: finer ones are dropped */
        }
        if (fraction == 0) {
            return false;
        }
        digits += fraction;
    }
    *number = (struct number){whole, nanos};
    return digits > 0;
}

bool value_number(struct text text, struct number *number) {
    text = text_trim(text);
    struct reader r = {text.at, text.at + text.length};
    struct number found;
    if (text.length > VALUE_LENGTH_MAX || !take_number(&r, &found) || r.at != r.end) {
        return false;
    }
    *number = found;
    return true;
}

/* ---- durations ---- */

static const struct {
    const char *name;
    int64_t ns;
} units[] = {
    {"d", 86400 * NS_PER_S},  {"h", 3600 * NS_PER_S}, {"m", 60 * NS_PER_S},
    {"s", NS_PER_S},          {"ms", NS_PER_MS},      {"us", NS_PER_US},
    {"\xC2\xB5s", NS_PER_US}, /* micro sign and Greek mu, as Go prints it, and the same in Latin-1 */
    {"\xCE\xBCs", NS_PER_US}, {"\xB5s", NS_PER_US},   {"ns", 1},
};
enum { UNIT_COUNT = sizeof units / sizeof units[0] };

static int take_unit(struct reader *r) {
    const char *start = r->at;
    while (r->at < r->end && !is_digit(*r->at) && *r->at != '.' && r->at - start < 4) {
        r->at++;
    }
    for (int i = 0; i < UNIT_COUNT; i++) {
        if (text_is((struct text){start, (size_t)(r->at - start)}, units[i].name)) {
            return i;
        }
    }
    return -1;
}

bool value_duration(struct text text, int64_t *ns) {
    text = text_trim(text);
    struct reader r = {text.at, text.at + text.length};
    int64_t finer_than = INT64_MAX;
    wide total = 0;
    if (text.length == 0 || text.length > VALUE_LENGTH_MAX) {
        return false;
    }
    while (r.at < r.end) {
        struct number n;
        int unit;
        if (!take_number(&r, &n) || n.whole > COUNT_MAX || (unit = take_unit(&r)) < 0 || units[unit].ns >= finer_than) {
            return false;
        }
        finer_than = units[unit].ns;
        total += ((wide)n.whole * NS_PER_S + n.nanos) * units[unit].ns / NS_PER_S;
    }
    if (total >= (wide)DELAY_END_S * NS_PER_S) {
        return false;
    }
    *ns = (int64_t)total;
    return true;
}

/* ---- dates ---- */

struct date {
    int year, month, day, hour, minute, second, zone_minutes;
    int32_t nanos;
};

/* Days from 1 January 1970 to that day of the Gregorian calendar; years are counted from March, so that a leap day is last. */
static int64_t days_since_epoch(int year, int month, int day) {
    int64_t y = month > 2 ? year : year - 1;
    int64_t since_march = (month + 9) % 12;
    return 365 * y + y / 4 - y / 100 + y / 400 + (153 * since_march + 2) / 5 + day - 1 - 719468;
}

static int days_of_month(int year, int month) {
    static const int8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return days[month - 1] + (month == 2 && leap);
}

static bool date_ns(const struct date *d, int64_t *ns) {
    /* Second 60 is a leap second and means the next minute's first. */
    if (d->month < 1 || d->month > 12 || d->day < 1 || d->day > days_of_month(d->year, d->month) || d->hour > 23 ||
        d->minute > 59 || d->second > 60) {
        return false;
    }
    int64_t seconds = days_since_epoch(d->year, d->month, d->day) * 86400 + d->hour * 3600 + d->minute * 60 +
                      d->second - d->zone_minutes * 60;
    if (seconds < INSTANT_FIRST_S || seconds >= INSTANT_END_S) {
        return false;
    }
    *ns = seconds * NS_PER_S + d->nanos;
    return true;
}

/* Exactly `count` digits. */
static bool take_digits(struct reader *r, int count, int *value) {
    if (r->end - r->at < count) {
        return false;
    }
    int found = 0;
    for (int i = 0; i < count; i++) {
        if (!is_digit(r->at[i])) {
            return false;
        }
        found = found * 10 + (r->at[i] - '0');
    }
    r->at += count;
    *value = found;
    return true;
}

static bool take_clock(struct reader *r, struct date *d) {
    return take_digits(r, 2, &d->hour) && reader_take(r, ':') && take_digits(r, 2, &d->minute) && reader_take(r, ':') &&
           take_digits(r, 2, &d->second);
}

/* "+01:00", "-0800". */
static bool take_offset(struct reader *r, struct date *d) {
    int sign = r->at < r->end && *r->at == '-' ? -1 : 1;
    int hours, minutes;
    if (!reader_take(r, '-') && !reader_take(r, '+')) {
        return false;
    }
    if (!take_digits(r, 2, &hours) || (reader_take(r, ':'), !take_digits(r, 2, &minutes)) || hours > 23 ||
        minutes > 59) {
        return false;
    }
    d->zone_minutes = sign * (hours * 60 + minutes);
    return true;
}

static bool rfc3339(struct reader r, int64_t *ns) {
    struct date d = {0};
    if (!take_digits(&r, 4, &d.year) || !reader_take(&r, '-') || !take_digits(&r, 2, &d.month) ||
        !reader_take(&r, '-') || !take_digits(&r, 2, &d.day) ||
        !(reader_take(&r, 'T') || reader_take(&r, 't') || reader_take(&r, ' ')) || !take_digits(&r, 2, &d.hour) ||
        !reader_take(&r, ':') || !take_digits(&r, 2, &d.minute)) {
        return false;
    }
    if (reader_take(&r, ':')) { /* Atlassian leaves the seconds out */
        if (!take_digits(&r, 2, &d.second)) {
            return false;
        }
        struct number n;
        if (r.at < r.end && *r.at == '.') {
            if (!take_number(&r, &n)) {
                return false;
            }
            d.nanos = n.nanos;
        }
    }
    if (r.at < r.end && !reader_take(&r, 'Z') && !reader_take(&r, 'z') && !take_offset(&r, &d)) {
        return false;
    }
    return r.at == r.end && date_ns(&d, ns);
}

/* The number of a name of which the first three letters count: 1 for `names`' first; 0 for none. */
static int name_number(struct text word, const char *names) {
    for (int i = 0; word.length >= 3 && names[3 * i] != 0; i++) {
        if (lower(word.at[0]) == names[3 * i] && lower(word.at[1]) == names[3 * i + 1] &&
            lower(word.at[2]) == names[3 * i + 2]) {
            return i + 1;
        }
    }
    return 0;
}

static struct text take_word(struct reader *r) {
    const char *start = r->at;
    while (r->at < r->end && is_letter(*r->at)) {
        r->at++;
    }
    return (struct text){start, (size_t)(r->at - start)};
}

static bool take_month(struct reader *r, int *month) {
    struct text word = take_word(r);
    *month = name_number(word, "janfebmaraprmayjunjulaugsepoctnovdec");
    return *month > 0 && word.length == 3;
}

/* "Nov  6 08:49:37 1994", the rest of asctime's form. */
static bool asctime_rest(struct reader r, int64_t *ns) {
    struct date d = {0};
    if (!take_month(&r, &d.month) || !reader_take(&r, ' ')) {
        return false;
    }
    return (reader_take(&r, ' ') ? take_digits(&r, 1, &d.day) : take_digits(&r, 2, &d.day)) && reader_take(&r, ' ') &&
           take_clock(&r, &d) && reader_take(&r, ' ') && take_digits(&r, 4, &d.year) && r.at == r.end &&
           date_ns(&d, ns);
}

/* "06 Nov 1994 08:49:37 GMT" and "06-Nov-94 08:49:37 GMT", the rest of the other two. */
static bool fixdate_rest(struct reader r, int64_t *ns) {
    struct date d = {0};
    if (!take_digits(&r, 2, &d.day) || !(reader_take(&r, ' ') || reader_take(&r, '-')) || !take_month(&r, &d.month) ||
        !(reader_take(&r, ' ') || reader_take(&r, '-'))) {
        return false;
    }
    if (!take_digits(&r, 4, &d.year)) {
        if (!take_digits(&r, 2, &d.year)) {
            return false;
        }
        d.year += d.year < 70 ? 2000 : 1900;
    }
    if (!reader_take(&r, ' ') || !take_clock(&r, &d) || !reader_take(&r, ' ')) {
        return false;
    }
    struct text zone = take_word(&r);
    if (zone.length == 0 ? !take_offset(&r, &d) : !text_is(zone, "gmt") && !text_is(zone, "utc")) {
        return false;
    }
    return r.at == r.end && date_ns(&d, ns);
}

bool value_date(struct text text, int64_t *ns) {
    text = text_trim(text);
    if (text.length == 0 || text.length > VALUE_LENGTH_MAX) {
        return false;
    }
    struct reader r = {text.at, text.at + text.length};
    if (is_digit(*r.at)) {
        return rfc3339(r, ns);
    }
    if (name_number(take_word(&r), "montuewedthufrisatsun") == 0) {
        return false;
    }
    bool comma = reader_take(&r, ',');
    return reader_take(&r, ' ') && (comma ? fixdate_rest(r, ns) : asctime_rest(r, ns));
}

/* ---- resets ---- */

static bool delay(wide ns, struct moment *moment) {
    if (ns >= (wide)DELAY_END_S * NS_PER_S) {
        return false;
    }
    *moment = (struct moment){RESET_AFTER, (int64_t)ns};
    return true;
}

bool value_reset(struct text text, enum reset_form form, struct moment *moment) {
    struct number n;
    int64_t ns;
    if (value_number(text, &n)) {
        wide exact = (wide)n.whole * NS_PER_S + n.nanos;
        if (form != RESET_ANY || n.whole < DELAY_END_S) {
            return delay(form == RESET_MILLIS ? exact / 1000 : exact, moment);
        }
        if (n.whole >= INSTANT_FIRST_S * 1000) {
            exact /= 1000;
        }
        if (exact < (wide)INSTANT_FIRST_S * NS_PER_S || exact >= (wide)INSTANT_END_S * NS_PER_S) {
            return false;
        }
        *moment = (struct moment){RESET_AT, (int64_t)exact};
        return true;
    }
    if (value_duration(text, &ns)) {
        *moment = (struct moment){RESET_AFTER, ns};
        return true;
    }
    if (form == RESET_ANY && value_date(text, &ns)) {
        *moment = (struct moment){RESET_AT, ns};
        return true;
    }
    return false;
}
