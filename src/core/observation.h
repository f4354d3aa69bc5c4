/* What a server has said of its limits in one response: the form in which the parser (headers.h) hands it to the ledger (ledger.h).
 *
 * A server may have several limits at once: of requests and of tokens, per minute and per day, one per resource. Each is a
 * dimension. What a header did not say is UNSAID. Numbers are the server's own; nothing here knows a clock. */
#ifndef HEADWAY_OBSERVATION_H
#define HEADWAY_OBSERVATION_H

#include <stdbool.h>
#include <stdint.h>

#define OBSERVED_DIMENSIONS_MAX 16
#define OBSERVED_NAME_MAX 64
#define UNSAID INT64_MIN

enum observed_reset {
    RESET_UNSAID,
    RESET_AFTER, /* `reset_ns` after the response was made */
    RESET_AT,    /* at `reset_ns` since the epoch, by the server's clock */
};

struct observed_dimension {
    char name[OBSERVED_NAME_MAX];     /* "requests", "tokens", "input_tokens", a policy's name ...; NUL-terminated */
    char resource[OBSERVED_NAME_MAX]; /* GitHub's resource, Discord's bucket, a partition key; "" for none */
    int64_t limit, remaining;         /* whole units: a fraction of `remaining` is dropped; UNSAID */
    int64_t window_ns;                /* UNSAID where the server does not say it */
    enum observed_reset reset;
    int64_t reset_ns;
};

struct observation {
    struct observed_dimension dimensions[OBSERVED_DIMENSIONS_MAX];
    int count;
    int64_t date_ns;           /* the server's Date, whole seconds since the epoch; UNSAID */
    enum observed_reset retry; /* Retry-After, and what means the same elsewhere */
    int64_t retry_ns;
    bool
        retry_is_for_all; /* the whole host is to wait, not this resource alone (GitHub's secondary limit, Discord's global) */
    int ignored;          /* values that made no sense */
};

#endif
