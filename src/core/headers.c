/* The parser's three calls, and what concerns the response as a whole: Date, Retry-After, and for whom it holds. */
#include "headers.h"

#include <string.h>

#include "clock.h"
#include "headers_reading.h"

const char *const mapped_names[MAPPED_COUNT] = {"limit",  "remaining",   "reset",   "used",
                                                "window", "retry_after", "resource"};

/* GitHub: without a Retry-After, wait at least a minute. */
#define GITHUB_RETRY_NS (60 * NS_PER_S)

void headers_begin(struct headers *h, const struct headers_map *map) {
    h->map = map;
    h->groups = 0;
    h->count = h->dropped = 0;
}

/* ---- feeding ---- */

static bool same_name(struct text a, struct text b) {
    if (a.length != b.length) {
        return false;
    }
    for (size_t i = 0; i < a.length; i++) {
        char x = a.at[i], y = b.at[i];
        x = x >= 'A' && x <= 'Z' ? (char)(x + 32) : x;
        y = y >= 'A' && y <= 'Z' ? (char)(y + 32) : y;
        if (x != y) {
            return false;
        }
    }
    return true;
}

static struct dialect find_mapped(const struct headers_map *map, struct text name) {
    static const enum header_part parts[MAPPED_COUNT] = {PART_LIMIT,  PART_REMAINING, PART_RESET,   PART_USED,
                                                         PART_WINDOW, PART_RETRY,     PART_RESOURCE};
    for (int i = 0; i < MAPPED_COUNT; i++) {
        if (map->names[i].length > 0 && same_name(map->names[i], name)) {
            bool of_group = i != MAPPED_RETRY_AFTER && i != MAPPED_RESOURCE;
            return (struct dialect){of_group ? GROUP_MAPPED : GROUP_NONE, parts[i], {"", 0}};
        }
    }
    return (struct dialect){GROUP_NONE, PART_NOTHING, {"", 0}};
}

void headers_feed(struct headers *h, const char *name, size_t name_length, const char *value, size_t value_length) {
    struct text text = {name, name_length};
    struct dialect d = {GROUP_NONE, PART_NOTHING, {"", 0}};
    if (h->map != NULL) {
        d = find_mapped(h->map, text);
    }
    if (d.part == PART_NOTHING) {
        d = dialect_find(text);
    }
    if (d.part == PART_NOTHING) {
        return;
    }
    if (h->count == HEADERS_FOUND_MAX) {
        h->dropped += h->dropped < INT32_MAX;
        return;
    }
    h->groups |= UINT32_C(1) << d.group;
    if (d.part == PART_STRUCTURED || d.part == PART_STRUCTURED_POLICY) {
        h->groups |= UINT32_C(1) << GROUP_PLAIN; /* the forms without names */
    }
    struct text said = {value_length > 0 ? value : "", value_length};
    h->found[h->count++] = (struct header_found){said, d.unit, (uint8_t)d.group, (uint8_t)d.part};
}

/* ---- the response as a whole ---- */

struct about {
    struct moment retry;
    bool retry_millis, github, for_all, structured, odd;
    struct text resource;
};

static void read_retry(struct reading *r, const struct header_found *found, struct about *about) {
    struct moment m;
    bool millis = found->part == PART_RETRY_MILLIS;
    if (!value_reset(found->value, millis ? RESET_MILLIS : RESET_ANY, &m)) {
        r->out->ignored++;
        return;
    }
    if (!reading_moment(r, m)) {
        return;
    }
    /* Milliseconds say more than seconds do; of several alike, the longest counts. */
    bool better = about->retry.kind == RESET_UNSAID || (millis && !about->retry_millis) ||
                  (millis == about->retry_millis && m.kind == about->retry.kind && m.ns > about->retry.ns);
    if (better) {
        about->retry = m;
        about->retry_millis = millis;
    }
}

static void read_resource(struct reading *r, struct text value, struct about *about) {
    value = text_trim(value);
    if (value.length <= VALUE_LENGTH_MAX && text_is_printable(value)) {
        about->resource = value;
    } else {
        r->out->ignored++;
    }
}

/* Whether the reason says that more than one endpoint is meant: Stripe's global-rate and global-concurrency, Atlassian's
 * jira-quota-global-based and jira-quota-tenant-based. */
static bool reason_is_for_all(struct text value) {
    static const char *const words[] = {"global", "quota"};
    for (size_t w = 0; w < 2; w++) {
        size_t length = strlen(words[w]);
        for (size_t i = 0; i + length <= value.length && i < VALUE_LENGTH_MAX; i++) {
            if (text_is((struct text){value.at + i, length}, words[w])) {
                return true;
            }
        }
    }
    return false;
}

static void read_about(struct reading *r, struct about *about) {
    for (int i = 0; i < r->h->count; i++) {
        const struct header_found *found = &r->h->found[i];
        struct text value = found->value;
        if (found->group != GROUP_NONE) {
            continue;
        }
        switch (found->part) {
        case PART_RETRY:
        case PART_RETRY_MILLIS:
            read_retry(r, found, about);
            break;
        case PART_GITHUB_RESOURCE:
            about->github = true;
            read_resource(r, value, about);
            break;
        case PART_RESOURCE:
            read_resource(r, value, about);
            break;
        case PART_GITHUB:
            about->github = true;
            break;
        case PART_GLOBAL:
            about->for_all |= text_is(text_trim(value), "true");
            break;
        case PART_SCOPE:
            about->for_all |= text_is(text_trim(value), "global");
            break;
        case PART_REASON:
            about->for_all |= reason_is_for_all(value);
            break;
        case PART_STRUCTURED:
        case PART_STRUCTURED_POLICY:
            about->structured = true;
            break;
        case PART_SHOPIFY:
        case PART_AMAZON:
        case PART_AZURE:
        case PART_AZURE_RESOURCE:
            about->odd = true;
            break;
        default:
            break;
        }
    }
}

/* The Date of the first such header that can be read: it is wanted before everything else. */
static int64_t read_date(const struct headers *h, int *ignored) {
    int64_t ns;
    for (int i = 0; i < h->count; i++) {
        if (h->found[i].group == GROUP_NONE && h->found[i].part == PART_DATE) {
            if (value_date(h->found[i].value, &ns)) {
                return ns / NS_PER_S * NS_PER_S;
            }
            ++*ignored;
        }
    }
    return UNSAID;
}

/* GitHub's secondary limit refuses although the primary one has something left; it holds for the whole API. */
static void read_github(struct about *about, int status, const struct observation *out) {
    if (status != 403 && status != 429) {
        return;
    }
    for (int i = 0; i < out->count; i++) {
        if (out->dimensions[i].remaining == 0) {
            return;
        }
    }
    if (about->retry.kind == RESET_UNSAID && status == 429) {
        about->retry = (struct moment){RESET_AFTER, GITHUB_RETRY_NS};
    }
    about->for_all = true;
}

void headers_finish(const struct headers *h, int status, int64_t received_ns, struct observation *out) {
    out->count = 0;
    out->ignored = h->dropped;
    out->date_ns = read_date(h, &out->ignored);
    struct about about = {.retry = {RESET_UNSAID, 0}, .resource = {"", 0}};
    struct reading r = {h, out, {"", 0}, out->date_ns};
    if (r.now_ns == UNSAID && received_ns > 0) {
        r.now_ns = received_ns;
    }
    struct gathered g;
    gathered_clear(&g);
    if (h->groups & UINT32_C(1) << GROUP_NONE) {
        read_about(&r, &about);
        r.resource = about.resource;
    }
    /* What is in the user's own names comes first, then the structured fields, then the plain headers. */
    for (int group = 0; group < GROUP_COUNT; group++) {
        if (group == GROUP_PLAIN && about.structured) {
            policies_read(&r, &g);
        }
        if (h->groups & UINT32_C(1) << group) {
            limits_of_group(&r, (enum header_group)group, &g);
            gathered_clear(&g);
        }
    }
    if (about.odd) {
        odd_ones_read(&r);
    }
    if (about.github) {
        read_github(&about, status, out);
    }
    /* With a success or a redirect it says when to look again, which is no limit. */
    bool refused = status == 0 || status >= 400;
    out->retry = refused ? about.retry.kind : RESET_UNSAID;
    out->retry_ns = out->retry == RESET_UNSAID ? 0 : about.retry.ns;
    out->retry_is_for_all = out->retry != RESET_UNSAID && about.for_all;
}
