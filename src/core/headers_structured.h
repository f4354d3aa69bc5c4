/* Structured fields (RFC 9651), as far as limits need them: the members of a list or of a dictionary, with parameters.
 *
 * A pull parser over bytes. Where the RFC drops a whole field over one bad member, this reader drops the member and goes on
 * after the next comma: a limit that can be read is worth more than a field that is all right. */
#ifndef HEADWAY_HEADERS_STRUCTURED_H
#define HEADWAY_HEADERS_STRUCTURED_H

#include "headers_values.h"

enum field_type {
    FIELD_INTEGER,
    FIELD_DECIMAL,
    FIELD_STRING, /* `text` between the quotes, escapes as they came */
    FIELD_TOKEN,
    FIELD_BYTES, /* `text` is the base64 */
    FIELD_BOOLEAN,
    FIELD_DATE,    /* `number` is seconds since the epoch */
    FIELD_DISPLAY, /* `text` between the quotes, percent-encoded */
    FIELD_INNER,   /* a list in parentheses; `text` is what they hold */
};

struct field_value {
    enum field_type type;
    bool negative; /* of a number */
    bool truth;    /* of a boolean */
    struct number number;
    struct text text;
};

struct field_member {
    struct text key; /* of a dictionary's member; empty for one of a list */
    struct field_value value;
    struct text parameters; /* for field_parameter */
};

enum field_step { FIELD_END, FIELD_MEMBER, FIELD_MALFORMED };

/* Reads the next member and moves `rest` behind it; a malformed one is skipped. */
enum field_step field_next(struct text *rest, struct field_member *member);

/* The same for the parameters of a member, which are well formed by then; false at their end. */
bool field_parameter(struct text *rest, struct text *key, struct field_value *value);

#endif
