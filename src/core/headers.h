/* The headers of one response become an observation: what the server says of its limits.
 *
 *     struct headers h;
 *     headers_begin(&h, NULL);
 *     for each header: headers_feed(&h, name, name_length, value, value_length);
 *     headers_finish(&h, status, received_ns, &observation);
 *
 * Nothing is allocated and nothing copied before headers_finish: the bytes fed must live until then. Names may come in
 * any case and order; one that comes again counts as a list, as HTTP has it. Nothing here fails: a value that makes no
 * sense is counted in `ignored` and takes nothing else along. */
#ifndef HEADWAY_HEADERS_H
#define HEADWAY_HEADERS_H

#include "headers_dialects.h"
#include "observation.h"

/* Of more headers than this that speak of limits, the rest is ignored and counted. */
#define HEADERS_FOUND_MAX 48

enum mapped_name {
    MAPPED_LIMIT,
    MAPPED_REMAINING,
    MAPPED_RESET,
    MAPPED_USED,
    MAPPED_WINDOW,
    MAPPED_RETRY_AFTER,
    MAPPED_RESOURCE,
    MAPPED_COUNT,
};
extern const char *const mapped_names[MAPPED_COUNT]; /* "limit", "remaining" ... */

/* Names of the user's own, looked at before all others; length 0: none. */
struct headers_map {
    struct text names[MAPPED_COUNT];
};

struct header_found {
    struct text value, unit;
    uint8_t group, part;
};

struct headers {
    const struct headers_map *map;
    uint32_t groups; /* bit n: something of group n was found */
    int count, dropped;
    struct header_found found[HEADERS_FOUND_MAX];
};

/* `map` may be NULL, and must live until headers_finish. */
void headers_begin(struct headers *h, const struct headers_map *map);
void headers_feed(struct headers *h, const char *name, size_t name_length, const char *value, size_t value_length);

/* `status` is HTTP's, 0 where it is not known; `received_ns` is the local clock's reading. Of `out->dimensions` the first
 * `out->count` are set. */
void headers_finish(const struct headers *h, int status, int64_t received_ns, struct observation *out);

#endif
