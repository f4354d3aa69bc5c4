/* The ledger as bytes, for stores: the same on every machine, and never believed.
 *
 * Numbers are LEB128, signed ones folded (0, -1, 1, -2, ...). An instant is 0 for none, else what it is later than the newest slot,
 * plus one, so that most take three to six bytes. Only what is not at its usual value is written: `parts` says which those are. What a
 * dimension needs is some 60 bytes and its name. */
#include <string.h>

#include "clock.h"
#include "ledger.h"

#define PACK_MAGIC 0x4C /* 'L' */
#define PACK_VERSION 1

enum flag {
    FLAG_BUCKET = 1 << 0,
    FLAG_OWN_UNIT = 1 << 1,
    FLAG_STUB = 1 << 2,
    FLAG_THEIRS = 1 << 3,
    FLAG_ASSUMED = 1 << 4,
    FLAG_MOVES = 1 << 5,
    FLAG_TURNED = 1 << 6,
    FLAG_PROBING = 1 << 7,
};

struct bytes {
    unsigned char *at;               /* writing */
    const unsigned char *from, *end; /* reading */
    int64_t stamp;
    bool bad;
};

/* ---- numbers ---- */

static void put(struct bytes *b, uint64_t value) {
    while (value >= 0x80) {
        *b->at++ = (unsigned char)(value | 0x80);
        value >>= 7;
    }
    *b->at++ = (unsigned char)value;
}

static uint64_t get(struct bytes *b) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (b->from == b->end) {
            break;
        }
        unsigned char byte = *b->from++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            b->bad = b->bad || (shift == 63 && byte > 1);
            return value;
        }
    }
    b->bad = true;
    return 0;
}

static uint64_t fold(int64_t value) {
    return (uint64_t)value << 1 ^ (value < 0 ? UINT64_MAX : 0);
}

static int64_t unfold(uint64_t value) {
    return (int64_t)(value >> 1 ^ (value & 1 ? UINT64_MAX : 0));
}

/* least <= value <= most, or the whole is bad. */
static int64_t get_within(struct bytes *b, int64_t least, int64_t most) {
    int64_t value = unfold(get(b));
    if (value < least || value > most) {
        b->bad = true;
        return least;
    }
    return value;
}

static void put_instant(struct bytes *b, int64_t ns) {
    if (ns == 0) {
        put(b, 0);
    } else {
        uint64_t folded = fold(ns - b->stamp);
        put(b, folded + 1);
    }
}

static int64_t get_instant(struct bytes *b) {
    uint64_t folded = get(b);
    if (folded == 0) {
        return 0;
    }
    int64_t apart = unfold(folded - 1);
    if (apart >= CLOCK_END || apart <= -CLOCK_END) {
        b->bad = true;
        return 0;
    }
    int64_t ns = b->stamp + apart;
    b->bad = b->bad || ns <= 0 || ns >= CLOCK_END;
    return ns;
}

static void put_name(struct bytes *b, const char *name) {
    size_t length = strnlen(name, LEDGER_NAME_MAX - 1);
    put(b, length);
    memcpy(b->at, name, length);
    b->at += length;
}

static void get_name(struct bytes *b, char *name) {
    uint64_t length = get(b);
    memset(name, 0, LEDGER_NAME_MAX);
    if (length >= LEDGER_NAME_MAX || length > (size_t)(b->end - b->from) ||
        (length > 0 && memchr(b->from, 0, (size_t)length) != NULL)) {
        b->bad = true;
        return;
    }
    if (length > 0) {
        memcpy(name, b->from, (size_t)length);
    }
    b->from += length;
}

/* A number that may be unsaid, and is 0 or more if not. */
static void put_said(struct bytes *b, int64_t value) {
    put(b, value == UNSAID ? 0 : (uint64_t)value + 1);
}

static int64_t get_said(struct bytes *b, int64_t most) {
    uint64_t value = get(b);
    if (value == 0) {
        return UNSAID;
    }
    b->bad = b->bad || value - 1 > (uint64_t)most;
    return b->bad ? UNSAID : (int64_t)(value - 1);
}

/* ---- a dimension ---- */

static void pack_dimension(struct bytes *b, const struct ledger_dimension *d) {
    put_name(b, d->name);
    put_name(b, d->resource);
    *b->at++ = (unsigned char)((d->bucket ? FLAG_BUCKET : 0) | (d->own_unit ? FLAG_OWN_UNIT : 0) |
                               (d->stub ? FLAG_STUB : 0) | (d->reset_is_theirs ? FLAG_THEIRS : 0) |
                               (d->reset_assumed ? FLAG_ASSUMED : 0) | (d->reset_moves ? FLAG_MOVES : 0) |
                               (d->turned ? FLAG_TURNED : 0) | (d->probing ? FLAG_PROBING : 0));
    *b->at++ = d->source;
    *b->at++ = d->misses;
    *b->at++ = d->trust;
    put(b, d->id);
    put_said(b, d->limit);
    put_said(b, d->window_ns);
    put_instant(b, d->seen_ns);
    put_instant(b, d->blocked_ns);
    put(b, fold(d->slot));
    unsigned char *mask = b->at++;
    *mask = 0;
    for (int i = 0; i < LEDGER_SLOTS; i++) {
        if (d->in_flight[i] != 0) {
            *mask |= (unsigned char)(1 << i);
            put(b, (uint64_t)d->in_flight[i]);
        }
    }
    if (d->bucket) {
        put(b, fold(d->state.word[0]));
        put(b, fold(d->state.word[1]));
        put(b, fold(d->state.word[2]));
        return;
    }
    if (d->stub) {
        return;
    }
    put_instant(b, d->reset_ns);
    put_instant(b, d->turned_ns);
    put_instant(b, d->turned_said_ns);
    put(b, (uint64_t)d->grace_ns);
    put_instant(b, d->probe_ns);
    put(b, (uint64_t)d->lost);
    put_instant(b, d->lost_ns);
    *b->at++ = (unsigned char)d->word_count;
    for (int i = 0; i < d->word_count; i++) {
        put_instant(b, d->words[i].received_ns);
        put(b, (uint64_t)d->words[i].remaining);
    }
}

static unsigned get_byte(struct bytes *b) {
    if (b->from == b->end) {
        b->bad = true;
        return 0;
    }
    return *b->from++;
}

/* Only what a step of gcra can have written: the arithmetic relies on the bounds. */
static bool bucket_is_sound(const struct ledger_dimension *d) {
    const int64_t *w = d->state.word;
    struct quota q;
    if (d->limit == UNSAID || d->window_ns == UNSAID || !ledger_quota(d, &q) || w[0] < 0) {
        return false;
    }
    if (w[0] == INT64_MAX) {
        return w[2] >= 0 && w[2] < (INT64_C(1) << 46);
    }
    return w[1] >= 0 && w[1] < QUOTA_LIMIT_MAX && w[2] == 0;
}

static void unpack_dimension(struct bytes *b, struct ledger_dimension *d) {
    memset(d, 0, sizeof *d);
    get_name(b, d->name);
    get_name(b, d->resource);
    unsigned flags = get_byte(b);
    d->bucket = flags & FLAG_BUCKET;
    d->own_unit = flags & FLAG_OWN_UNIT;
    d->stub = flags & FLAG_STUB;
    d->reset_is_theirs = flags & FLAG_THEIRS;
    d->reset_assumed = flags & FLAG_ASSUMED;
    d->reset_moves = flags & FLAG_MOVES;
    d->turned = flags & FLAG_TURNED;
    d->probing = flags & FLAG_PROBING;
    unsigned source = get_byte(b);
    d->source = (uint8_t)source;
    d->misses = (uint8_t)get_byte(b);
    d->trust = (uint8_t)get_byte(b);
    uint64_t id = get(b);
    d->id = (uint32_t)id;
    b->bad = b->bad || id > UINT32_MAX || source >= LEDGER_SOURCES || (d->bucket && d->stub);
    d->limit = get_said(b, LEDGER_AMOUNT_MAX);
    d->window_ns = get_said(b, QUOTA_PERIOD_MAX);
    d->seen_ns = get_instant(b);
    d->blocked_ns = get_instant(b);
    d->slot = get_within(b, 0, CLOCK_END / LEDGER_SLOT_NS);
    unsigned mask = get_byte(b);
    for (int i = 0; i < LEDGER_SLOTS; i++) {
        if (mask & 1U << i) {
            uint64_t count = get(b);
            b->bad = b->bad || count > INT64_MAX;
            d->in_flight[i] = b->bad ? 0 : (int64_t)count;
        }
    }
    if (d->bucket) {
        for (int i = 0; i < 3; i++) {
            d->state.word[i] = unfold(get(b));
        }
        b->bad = b->bad || !bucket_is_sound(d);
        return;
    }
    if (d->stub) {
        return;
    }
    d->reset_ns = get_instant(b);
    d->turned_ns = get_instant(b);
    d->turned_said_ns = get_instant(b);
    d->grace_ns = (int64_t)get(b);
    d->probe_ns = get_instant(b);
    uint64_t lost = get(b);
    d->lost = lost > INT64_MAX ? INT64_MAX : (int64_t)lost;
    d->lost_ns = get_instant(b);
    unsigned words = get_byte(b);
    b->bad = b->bad || words > LEDGER_RING || d->grace_ns < 0 || d->grace_ns > 10 * NS_PER_S;
    d->word_count = b->bad ? 0 : (int)words;
    for (int i = 0; i < d->word_count; i++) {
        d->words[i].received_ns = get_instant(b);
        uint64_t remaining = get(b);
        b->bad = b->bad || remaining > (uint64_t)LEDGER_AMOUNT_MAX;
        d->words[i].remaining = (int64_t)remaining;
    }
}

/* ---- the whole ---- */

size_t ledger_pack(const struct ledger *l, unsigned char *bytes) {
    struct bytes b = {.at = bytes};
    for (int i = 0; i < l->count; i++) {
        int64_t slot = l->dimensions[i].slot * LEDGER_SLOT_NS;
        b.stamp = slot > b.stamp ? slot : b.stamp;
    }
    *b.at++ = PACK_MAGIC;
    *b.at++ = PACK_VERSION;
    put(&b, (uint64_t)(b.stamp / LEDGER_SLOT_NS));
    put(&b, (uint64_t)l->count << 1 | l->clock_known);
    put(&b, l->next_id);
    put_instant(&b, l->blocked_ns);
    if (l->clock_known) {
        put(&b, fold(l->clock_lo_ns));
        put(&b, fold(l->clock_hi_ns));
        put_instant(&b, l->clock_seen_ns);
    }
    for (int i = 0; i < l->count; i++) {
        pack_dimension(&b, &l->dimensions[i]);
    }
    return (size_t)(b.at - bytes);
}

bool ledger_unpack(struct ledger *l, const unsigned char *bytes, size_t length) {
    struct bytes b = {.from = bytes, .end = bytes + length};
    ledger_init(l);
    if (length < 4 || bytes[0] != PACK_MAGIC || bytes[1] != PACK_VERSION) {
        return false;
    }
    b.from += 2;
    uint64_t stamp = get(&b), counted = get(&b), next_id = get(&b);
    if (b.bad || stamp > (uint64_t)(CLOCK_END / LEDGER_SLOT_NS) || counted >> 1 > LEDGER_DIMENSIONS_MAX ||
        next_id > UINT32_MAX) {
        return false;
    }
    b.stamp = (int64_t)stamp * LEDGER_SLOT_NS;
    l->next_id = (uint32_t)next_id;
    l->clock_known = counted & 1;
    l->blocked_ns = get_instant(&b);
    if (l->clock_known) {
        l->clock_lo_ns = get_within(&b, -LEDGER_SKEW_MAX_NS, LEDGER_SKEW_MAX_NS);
        l->clock_hi_ns = get_within(&b, -LEDGER_SKEW_MAX_NS, LEDGER_SKEW_MAX_NS);
        l->clock_seen_ns = get_instant(&b);
    }
    for (uint64_t i = 0; i < counted >> 1 && !b.bad; i++) {
        unpack_dimension(&b, &l->dimensions[i]);
        l->count++;
    }
    if (b.bad || b.from != b.end) {
        ledger_init(l);
        return false;
    }
    return true;
}
