/* The values of rate-limit headers: numbers, durations, dates, and the rules that tell the forms of a reset apart.
 *
 * Everything reads a span of bytes that need not end in NUL, and copies nothing. A value that makes no sense is refused
 * whole: the functions return false and leave their result alone. */
#ifndef HEADWAY_HEADERS_VALUES_H
#define HEADWAY_HEADERS_VALUES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "observation.h"

/* Bytes of somebody else's. */
struct text {
    const char *at;
    size_t length;
};

/* A number that is not negative. */
struct number {
    int64_t whole;
    int32_t nanos; /* of one, 0 to 999,999,999; finer digits are dropped */
};

/* When something happens: after the response, or at an instant; `ns` is never negative. */
struct moment {
    enum observed_reset kind;
    int64_t ns;
};

/* Counts above this are "no limit" in all but name, and the largest limit that a quota may have. */
#define COUNT_MAX INT64_C(1000000000000)

/* The rules for a bare number of seconds s in a reset:
 *
 *       s < 10^8              seconds from now; three years, longer than any quota's window that a caller could wait for
 *       10^9 <= s < 2^62 ns   an instant in seconds since the epoch: September 2001 to 2116
 *       10^12 <= s < 10^3 x   an instant in milliseconds, the same range
 *       all between           neither a wait nor an instant that makes sense
 *
 * The gaps are a factor of ten and more wide, so no real value comes near a wrong reading. */
#define DELAY_END_S INT64_C(100000000)
#define INSTANT_FIRST_S INT64_C(1000000000)
#define INSTANT_END_S INT64_C(4611686018)

/* A value longer than this is not a number, a duration or a date. */
#define VALUE_LENGTH_MAX 128

enum reset_form {
    RESET_ANY,     /* by the rules above, or a duration, or a date */
    RESET_SECONDS, /* a number counts seconds from now, or it is a duration */
    RESET_MILLIS,  /* likewise, milliseconds */
};

struct text text_trim(struct text text);           /* without blanks at both ends */
bool text_is(struct text text, const char *lower); /* equal but for the case of ASCII letters */

bool text_is_printable(struct text text);        /* ASCII from blank to tilde, at least one */
bool value_starts_with_letter(struct text text); /* behind blanks */

/* Digits with at most one point among or before them: "7", "7.5", ".5"; below 10^18. No sign, no exponent. */
bool value_number(struct text text, struct number *number);
/* Units in falling order, each at most once: "6m0s", "120ms", "1h2m3.5s", "1d". */
bool value_duration(struct text text, int64_t *ns);
/* RFC 3339, where seconds and zone (then UTC) may be missing; IMF-fixdate, RFC 850, asctime. From 2001 to 2116. */
bool value_date(struct text text, int64_t *ns);
bool value_reset(struct text text, enum reset_form form, struct moment *moment);

#endif
