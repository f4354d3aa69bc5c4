/* Which header says what: from a header's name to a group (one limit that a server tells of) and a part of it.
 *
 * Names that have nothing to do with limits are told by their first eight bytes and cost a few nanoseconds. */
#ifndef HEADWAY_HEADERS_DIALECTS_H
#define HEADWAY_HEADERS_DIALECTS_H

#include "headers_values.h"

/* Limits, in the order in which they are looked at: what comes first counts where two tell of the same limit. */
enum header_group {
    GROUP_MAPPED,   /* the user's own names */
    GROUP_PLAIN,    /* RateLimit-Limit ... */
    GROUP_X,        /* X-RateLimit-Limit ... */
    GROUP_X_DASHED, /* X-Rate-Limit-Limit ... */
    GROUP_HUBSPOT,  /* X-HubSpot-RateLimit-Max ... */
    GROUP_APP_DAY,  /* X-App-Limit-24Hour-Limit ... */
    GROUP_USER_DAY, /* X-User-Limit-24Hour-Limit ... */
    GROUP_REQUESTS, /* X-RateLimit-Limit-Requests, Anthropic-RateLimit-Requests-Limit ...; so all that follow */
    GROUP_TOKENS,
    GROUP_INPUT_TOKENS,
    GROUP_OUTPUT_TOKENS,
    GROUP_SECOND,
    GROUP_MINUTE,
    GROUP_HOUR,
    GROUP_DAY,
    GROUP_MONTH,
    GROUP_TOKENS_MINUTE,
    GROUP_TOKENS_HOUR,
    GROUP_TOKENS_DAY,
    GROUP_COUNT,
    GROUP_NONE = GROUP_COUNT, /* a header about the response as a whole, or one of a form of its own */
};

enum header_part {
    PART_LIMIT,
    PART_REMAINING,
    PART_RESET,
    PART_RESET_AFTER,
    PART_RESET_TIME, /* the same instant once more, as a date */
    PART_USED,
    PART_WINDOW,
    PART_WINDOW_MILLIS,
    PART_POLICY, /* 100;w=60, 1000;w=3600 */
    /* Of GROUP_NONE: */
    PART_DATE,
    PART_RETRY,
    PART_RETRY_MILLIS,
    PART_RESOURCE,
    PART_GITHUB_RESOURCE,
    PART_GITHUB, /* any header that only GitHub sends */
    PART_GLOBAL,
    PART_SCOPE,
    PART_REASON,
    PART_STRUCTURED,
    PART_STRUCTURED_POLICY,
    PART_SHOPIFY, /* 32/40 */
    PART_AMAZON,  /* requests a second */
    PART_AZURE,   /* what is left of what the name says */
    PART_AZURE_RESOURCE,
    PART_NOTHING,
};

/* Where a header belongs; `unit` is the end of its name, for PART_AZURE. */
struct dialect {
    enum header_group group;
    enum header_part part; /* PART_NOTHING: no business of ours */
    struct text unit;
};

struct dialect dialect_find(struct text name);

/* The dimension's name, and the window that is part of it, else UNSAID. */
struct dialect_group {
    const char *name;
    int64_t window_ns;
    bool has_resource; /* X-RateLimit-Resource and its like speak of this limit */
};
extern const struct dialect_group dialect_groups[GROUP_COUNT];

#endif
