/* Limits that are told in a way of their own: Shopify's full bucket, Amazon's rate, Azure's remainders. */
#include <string.h>

#include "clock.h"
#include "headers_reading.h"
#include "wide.h"

static const struct text requests = {"requests", 8};
static const struct text none = {"", 0};

/* A Shopify bucket leaks a twentieth of its size a second, on every plan: 2/s of 40, 4/s of 80, 20/s of 400. */
#define SHOPIFY_WINDOW_NS (20 * NS_PER_S)

static bool split(struct text value, char by, struct text *left, struct text *right) {
    const char *at = value.length > 0 ? memchr(value.at, by, value.length) : NULL;
    if (at == NULL) {
        return false;
    }
    *left = (struct text){value.at, (size_t)(at - value.at)};
    *right = (struct text){at + 1, value.length - left->length - 1};
    return true;
}

static bool read_count(struct text text, int64_t *count) {
    struct number number;
    if (!value_number(text, &number) || number.whole > COUNT_MAX) {
        return false;
    }
    *count = number.whole;
    return true;
}

/* "32/40": of a bucket of 40 there are 32 in use. */
static void read_shopify(struct reading *r, struct text value) {
    struct text left, right;
    int64_t used, limit;
    if (!split(value, '/', &left, &right) || !read_count(left, &used) || !read_count(right, &limit) || limit == 0) {
        r->out->ignored++;
        return;
    }
    struct observed_dimension d;
    dimension_begin(&d, requests, "", none);
    used = used < limit ? used : limit;
    d.limit = limit;
    d.remaining = limit - used;
    d.window_ns = SHOPIFY_WINDOW_NS;
    d.reset = RESET_AFTER;
    d.reset_ns = (int64_t)((wide)used * SHOPIFY_WINDOW_NS / limit);
    reading_observe(r, &d);
}

/* "0.5": requests a second. As a limit of whole requests and the window that gives exactly this rate. */
static void read_amazon(struct reading *r, struct text value) {
    struct number rate;
    if (!value_number(value, &rate) || rate.whole > COUNT_MAX || (rate.whole == 0 && rate.nanos < 100)) {
        r->out->ignored++;
        return;
    }
    struct observed_dimension d;
    dimension_begin(&d, requests, "", none);
    d.limit = rate.whole > 0 ? rate.whole : 1;
    d.window_ns = (int64_t)((wide)d.limit * NS_PER_S * NS_PER_S / ((wide)rate.whole * NS_PER_S + rate.nanos));
    reading_observe(r, &d);
}

static void observe_remaining(struct reading *r, struct text name, struct text value) {
    int64_t remaining;
    name = text_trim(name);
    if (name.length > VALUE_LENGTH_MAX || !text_is_printable(name) || !read_count(value, &remaining)) {
        r->out->ignored++;
        return;
    }
    struct observed_dimension d;
    dimension_begin(&d, name, "", none);
    d.remaining = remaining;
    reading_observe(r, &d);
}

/* X-MS-RateLimit-Remaining-Subscription-Reads: the name says of what. */
static void read_azure(struct reading *r, struct text unit, struct text value) {
    char name[VALUE_LENGTH_MAX];
    if (unit.length > sizeof name) {
        r->out->ignored++;
        return;
    }
    for (size_t i = 0; i < unit.length; i++) {
        char c = unit.at[i];
        name[i] = c == '-' ? '_' : c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
    }
    observe_remaining(r, (struct text){name, unit.length}, value);
}

/* "Microsoft.Compute/GetVM3Min;237,Microsoft.Compute/GetVM30Min;1194" */
static void read_azure_resources(struct reading *r, struct text value) {
    if (value.length > LIST_LENGTH_MAX) {
        r->out->ignored++;
        return;
    }
    for (struct text rest = value, one; rest.length > 0;) {
        if (!split(rest, ',', &one, &rest)) {
            one = rest;
            rest.length = 0;
        }
        struct text name, count;
        if (split(one, ';', &name, &count)) {
            observe_remaining(r, name, count);
        } else {
            r->out->ignored++;
        }
    }
}

void odd_ones_read(struct reading *r) {
    for (int i = 0; i < r->h->count; i++) {
        const struct header_found *found = &r->h->found[i];
        switch (found->part) {
        case PART_SHOPIFY:
            read_shopify(r, found->value);
            break;
        case PART_AMAZON:
            read_amazon(r, found->value);
            break;
        case PART_AZURE:
            read_azure(r, found->unit, found->value);
            break;
        case PART_AZURE_RESOURCE:
            read_azure_resources(r, found->value);
            break;
        default:
            break;
        }
    }
}
