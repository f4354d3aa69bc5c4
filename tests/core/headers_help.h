/* Shared by the test and the fuzzer of the header parser: a text of "Name: value" lines is fed, and what comes out obeys
 * the bounds that observation.h and headers.h promise. Each name and value lies in memory of its exact size, so that a
 * sanitizer sees a step beyond it. */
#ifndef HEADWAY_HEADERS_HELP_H
#define HEADWAY_HEADERS_HELP_H

#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "headers.h"

#define HELP_LINES 64

struct fed {
    char *held[2 * HELP_LINES];
    int count;
};

static inline char *help_copy(struct fed *fed, const char *at, size_t length) {
    char *copy = malloc(length > 0 ? length : 1);
    if (copy == NULL) {
        abort();
    }
    memcpy(copy, at, length);
    fed->held[fed->count++] = copy;
    return copy;
}

/* Lines end in "\n"; a line without ": " is a name without a value. */
static inline void help_parse(const char *text, size_t length, int status, int64_t received_ns,
                              const struct headers_map *map, struct observation *out) {
    struct headers h;
    struct fed fed = {.count = 0};
    headers_begin(&h, map);
    for (const char *end = text + length; text < end && fed.count < 2 * HELP_LINES;) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        stop = stop == NULL ? end : stop;
        const char *colon = memchr(text, ':', (size_t)(stop - text));
        size_t name_length = (size_t)((colon == NULL ? stop : colon) - text);
        const char *value = colon == NULL ? stop : colon + 1 + (colon + 1 < stop && colon[1] == ' ');
        size_t value_length = (size_t)(stop - value);
        char *name = help_copy(&fed, text, name_length);
        headers_feed(&h, name, name_length, help_copy(&fed, value, value_length), value_length);
        text = stop < end ? stop + 1 : end;
    }
    headers_finish(&h, status, received_ns, out);
    for (int i = 0; i < fed.count; i++) {
        free(fed.held[i]);
    }
}

static inline bool help_moment_fits(enum observed_reset kind, int64_t ns, int64_t now_ns) {
    switch (kind) {
    case RESET_UNSAID:
        return ns == 0;
    case RESET_AFTER:
        return ns >= 0 && ns < DELAY_END_S * NS_PER_S;
    case RESET_AT:
        return ns >= INSTANT_FIRST_S * NS_PER_S && ns < CLOCK_END && ns - now_ns < DELAY_END_S * NS_PER_S;
    default:
        return false;
    }
}

static inline bool help_name_fits(const char name[OBSERVED_NAME_MAX]) {
    return memchr(name, 0, OBSERVED_NAME_MAX) != NULL;
}

/* NULL, or what is wrong. */
static inline const char *help_wrong(const struct observation *o, int64_t received_ns) {
    int64_t now = o->date_ns != UNSAID ? o->date_ns : received_ns;
    if (o->count < 0 || o->count > OBSERVED_DIMENSIONS_MAX || o->ignored < 0) {
        return "counts";
    }
    if (o->date_ns != UNSAID && (o->date_ns < INSTANT_FIRST_S * NS_PER_S || o->date_ns % NS_PER_S != 0)) {
        return "date";
    }
    if (!help_moment_fits(o->retry, o->retry_ns, now) || (o->retry_is_for_all && o->retry == RESET_UNSAID)) {
        return "retry";
    }
    for (int i = 0; i < o->count; i++) {
        const struct observed_dimension *d = &o->dimensions[i];
        if (!help_name_fits(d->name) || d->name[0] == 0 || !help_name_fits(d->resource)) {
            return "name";
        }
        if (d->limit != UNSAID && (d->limit < 1 || d->limit > COUNT_MAX)) {
            return "limit";
        }
        if (d->remaining != UNSAID &&
            (d->remaining < 0 || d->remaining > COUNT_MAX || (d->limit != UNSAID && d->remaining > d->limit))) {
            return "remaining";
        }
        if (d->window_ns != UNSAID && (d->window_ns <= 0 || d->window_ns >= DELAY_END_S * NS_PER_S)) {
            return "window";
        }
        if (!help_moment_fits(d->reset, d->reset_ns, now)) {
            return "reset";
        }
        for (int j = 0; j < i; j++) {
            if (strcmp(d->name, o->dimensions[j].name) == 0 && strcmp(d->resource, o->dimensions[j].resource) == 0) {
                return "two of one name";
            }
        }
    }
    return NULL;
}

#endif
