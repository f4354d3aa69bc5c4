/* Inside of the parser: what headers.c, headers_limits.c and headers_policies.c share while one observation is made. */
#ifndef HEADWAY_HEADERS_READING_H
#define HEADWAY_HEADERS_READING_H

#include "headers.h"

/* Of one header's list, further members are ignored and counted. */
#define LIST_MAX 8
/* A longer list is no list of limits. */
#define LIST_LENGTH_MAX 8192

struct reading {
    const struct headers *h;
    struct observation *out;
    struct text resource; /* of the limits that have one; empty for none */
    int64_t now_ns;       /* the server's clock if it was said, else ours; UNSAID */
};

/* One number of a list, with the window that came along. */
struct count {
    struct number number;
    int64_t window_ns;
};

struct counts {
    int count;
    struct count of[LIST_MAX];
};

/* All that was said of one group. */
struct gathered {
    struct counts limits, remaining, used, policies;
    int reset_count;
    struct moment resets[LIST_MAX];
    struct moment reset_after, reset_time; /* RESET_UNSAID */
    int64_t window_ns;
};

void gathered_clear(struct gathered *g);
void gathered_add(struct reading *r, struct counts *counts, struct number number, int64_t window_ns);

/* Whether the moment lies within DELAY_END_S of now, or before it; counted as ignored if not. */
bool reading_moment(struct reading *r, struct moment moment);

/* A dimension of which nothing is said but its name; `add` is appended to it. */
void dimension_begin(struct observed_dimension *d, struct text name, const char *add, struct text resource);
/* Adds what is said. One that has been told of under the same name is completed, or, with another limit, kept apart as
 * "name#2". */
void reading_observe(struct reading *r, const struct observed_dimension *d);

/* headers_limits.c: a group's numbers become dimensions. `g` may hold some already. */
void limits_of_group(struct reading *r, enum header_group group, struct gathered *g);
/* headers_policies.c: RateLimit and RateLimit-Policy. Older forms without names go to `g`, which is GROUP_PLAIN's. */
void policies_read(struct reading *r, struct gathered *g);
/* headers_odd.c: limits that are told in a way of their own. */
void odd_ones_read(struct reading *r);

#endif
