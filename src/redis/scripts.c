/* Decisions as Redis scripts: see scripts.h. */
#include "scripts.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lua_scripts.h"

#define SPAN_US_MAX (INT64_C(1) << 52)
#define INSTANT_US_END                                                                                                 \
    (CLOCK_END / 1000 * 3 / 2) /* no instant that a script says of a lease is later: see lease.c, spend */
#define NUMBER_ROOM 32         /* "$20\r\n" and 20 digits and "\r\n" */

struct script {
    const char *text, *sha;
    size_t length;
    int common;  /* arguments for all rules together */
    int numbers; /* arguments for each rule */
    int words;   /* of state for each rule, in the reply */
    bool lists;  /* each rule has a second key */
};

#define SCRIPT(name) LUA_##name, LUA_##name##_SHA, sizeof LUA_##name - 1
static const struct script gcra = {SCRIPT(GCRA), 0, 6, 2, false};
static const struct script fixed_window = {SCRIPT(FIXED_WINDOW), 0, 3, 2, false};
static const struct script sliding_window = {SCRIPT(SLIDING_WINDOW), 0, 3, 3, false};
static const struct script settle = {SCRIPT(SETTLE), 0, 4, 2, false};
static const struct script cancel = {SCRIPT(CANCEL), 0, 7, 2, false};
static const struct script lease = {SCRIPT(LEASE), 3, 8, 3, true};
static const struct script give_back = {SCRIPT(GIVE_BACK), 0, 3, 0, false};

/* What else there is beside a bucket's key: the list of its takes, what was undone, and the slots that are free again. */
static const char *const beside[] = {":lease", ":undone", ":slots"};
#define BESIDE 3
#define BESIDE_LENGTH 7 /* the longest */

static const struct script *script_of(enum algorithm_id algorithm) {
    return algorithm == FIXED_WINDOW ? &fixed_window : algorithm == SLIDING_WINDOW ? &sliding_window : &gcra;
}

static const struct {
    const char *name;
    struct script script;
} by_name[] = {
#define ENTRY(name, NAME) {#name, {SCRIPT(NAME), 0, 0, 0, false}},
    LUA_SCRIPTS(ENTRY)
#undef ENTRY
};

const struct script *scripts_find(const char *name) {
    for (size_t i = 0; i < sizeof by_name / sizeof by_name[0]; i++) {
        if (strcmp(by_name[i].name, name) == 0) {
            return &by_name[i].script;
        }
    }
    return NULL;
}

/* count * T = *us - *excess / limit, in microseconds. */
static void span_us(const struct quota *q, int64_t count, int64_t *us, int64_t *excess) {
    wide units = (wide)count * (q->period_ns / 1000);
    wide up = wide_div_up(units, q->limit);
    *us = (int64_t)up;
    *excess = (int64_t)(up * q->limit - units);
}

bool scripts_can_hold(const struct plan *p, struct quota_error *error) {
    for (int i = 0; i < p->count; i++) {
        const struct quota *q = &p->rules[i].quota;
        bool bucket = script_of(p->algorithm) == &gcra;
        if (bucket && (wide)q->burst * (q->period_ns / 1000) / q->limit >= SPAN_US_MAX) {
            snprintf(error->text, sizeof error->text,
                     "Invalid quota: a burst of %" PRId64
                     " takes more than 142 years to fill, which Redis cannot hold; "
                     "must be less.",
                     q->burst);
            return false;
        }
    }
    return true;
}

/* ---- writing ---- */

struct cursor {
    char *at;
};

static void cursor_put(struct cursor *c, const void *bytes, size_t length) {
    memcpy(c->at, bytes, length);
    c->at += length;
}

static char *decimal(char *end, uint64_t value) {
    do {
        *--end = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    return end;
}

static void cursor_put_header(struct cursor *c, char kind, uint64_t value) {
    char text[24], *end = text + sizeof text, *start = decimal(end, value);
    *c->at++ = kind;
    cursor_put(c, start, (size_t)(end - start));
    cursor_put(c, "\r\n", 2);
}

static void cursor_put_text(struct cursor *c, const char *text, size_t length) {
    cursor_put_header(c, '$', length);
    cursor_put(c, text, length);
    cursor_put(c, "\r\n", 2);
}

static void cursor_put_number(struct cursor *c, int64_t value) {
    char text[24], *end = text + sizeof text, *start = decimal(end, (uint64_t)value);
    cursor_put_text(c, start, (size_t)(end - start));
}

static void cursor_put_span(struct cursor *c, const struct quota *q, int64_t count) {
    int64_t us, excess;
    span_us(q, count, &us, &excess);
    cursor_put_number(c, us);
    cursor_put_number(c, excess);
}

/* A key that begins with '}' would leave the hash tag empty, and the rules of one key in several slots. So such a key, and one that
 * begins with the mark itself, is marked. */
static bool is_marked(const struct table_key *key) {
    return key->length > 0 && (key->bytes[0] == '}' || key->bytes[0] == '\\');
}

static size_t key_length(const struct redis_names *names, const struct table_key *key, int rule) {
    return names->prefix_length + key->length + 2 + names->rules[rule].length + is_marked(key);
}

static void cursor_put_key(struct cursor *c, const struct redis_names *names, const struct table_key *key, int rule,
                           const char *suffix) {
    cursor_put_header(c, '$', key_length(names, key, rule) + strlen(suffix));
    cursor_put(c, names->prefix, names->prefix_length);
    *c->at++ = '{';
    if (is_marked(key)) {
        *c->at++ = '\\';
    }
    cursor_put(c, key->bytes, key->length);
    *c->at++ = '}';
    cursor_put(c, names->rules[rule].tag, names->rules[rule].length);
    cursor_put(c, suffix, strlen(suffix));
    cursor_put(c, "\r\n", 2);
}

static void cursor_put_script(struct cursor *c, const struct script *s, bool whole) {
    if (whole) {
        cursor_put_text(c, "EVAL", 4);
        cursor_put_text(c, s->text, s->length);
    } else {
        cursor_put_text(c, "EVALSHA", 7);
        cursor_put_text(c, s->sha, 40);
    }
}

struct redis_request *scripts_run(const struct script *s, const char *words, size_t length, int count, int keys,
                                  bool whole) {
    struct redis_request *r = request_new(128 + length + (s != NULL && whole ? s->length : 40));
    if (r == NULL) {
        return NULL;
    }
    struct cursor c = {r->bytes};
    cursor_put_header(&c, '*', (uint64_t)(count + (s != NULL ? 3 : 0)));
    if (s != NULL) {
        cursor_put_script(&c, s, whole);
        cursor_put_number(&c, keys);
    }
    cursor_put(&c, words, length);
    r->length = (size_t)(c.at - r->bytes);
    return r;
}

/* The command up to its keys, in a request with room for all of it. */
static struct redis_request *request_begin(const struct script *s, bool whole, const struct redis_names *names,
                                           const struct table_key *key, int first, int count, struct cursor *c) {
    int keys = s->lists ? 2 * count : count;
    size_t room = 128 + (whole ? s->length : 40) + NUMBER_ROOM * (size_t)s->common;
    for (int i = first; i < first + count; i++) {
        room += 2 * (key_length(names, key, i) + BESIDE_LENGTH) + NUMBER_ROOM * (size_t)(s->numbers + 2);
    }
    struct redis_request *r = request_new(room);
    if (r == NULL) {
        return NULL;
    }
    c->at = r->bytes;
    cursor_put_header(c, '*', (uint64_t)(3 + keys + s->common + count * s->numbers));
    cursor_put_script(c, s, whole);
    cursor_put_number(c, keys);
    for (int i = first; i < first + count; i++) {
        cursor_put_key(c, names, key, i, "");
        if (s->lists) {
            cursor_put_key(c, names, key, i, beside[0]);
        }
    }
    return r;
}

static struct redis_request *request_end_at(struct redis_request *r, const struct cursor *c) {
    r->length = (size_t)(c->at - r->bytes);
    return r;
}

struct redis_request *scripts_limit(const struct plan *p, const struct redis_names *names, const struct table_key *key,
                                    int64_t cost, int64_t most_wait_ns, bool whole) {
    const struct script *s = script_of(p->algorithm);
    struct cursor c;
    struct redis_request *r = request_begin(s, whole, names, key, 0, p->count, &c);
    for (int i = 0; r != NULL && i < p->count; i++) {
        const struct quota *q = &p->rules[i].quota;
        int64_t own = rule_cost(&p->rules[i], cost);
        cursor_put_number(&c, q->limit);
        if (s == &gcra) {
            cursor_put_span(&c, q, own);
            cursor_put_span(&c, q, q->burst);
            cursor_put_number(&c, most_wait_ns / 1000 < SPAN_US_MAX / 2 ? most_wait_ns / 1000 : SPAN_US_MAX / 2);
        } else {
            cursor_put_number(&c, q->period_ns / 1000);
            cursor_put_number(&c, own);
        }
    }
    return r == NULL ? NULL : request_end_at(r, &c);
}

struct redis_request *scripts_settle(const struct plan *p, int rule, const struct redis_names *names,
                                     const struct table_key *key, int64_t surplus, bool whole) {
    struct cursor c;
    struct redis_request *r = request_begin(&settle, whole, names, key, rule, 1, &c);
    if (r == NULL) {
        return NULL;
    }
    cursor_put_number(&c, p->rules[rule].quota.limit);
    cursor_put_span(&c, &p->rules[rule].quota, surplus < 0 ? -surplus : surplus);
    cursor_put_text(&c, surplus < 0 ? "charge" : "give", surplus < 0 ? 6 : 4);
    return request_end_at(r, &c);
}

/* A bucket's block; count 0: only what is given back. */
static struct redis_request *scripts_lease_bucket(const struct plan *p, const struct redis_names *names,
                                                  const struct table_key *key, int64_t count, int64_t ahead_us,
                                                  const struct lease_give *give, bool whole) {
    struct cursor c;
    struct redis_request *r = request_begin(&lease, whole, names, key, 0, p->count, &c);
    if (r == NULL) {
        return NULL;
    }
    cursor_put_number(&c, ahead_us);
    cursor_put_number(&c, give->count > 0 || give->until_us > 0 ? give->number : 0);
    cursor_put_number(&c, give->until_us);
    for (int i = 0; i < p->count; i++) {
        const struct quota *q = &p->rules[i].quota;
        cursor_put_number(&c, q->limit);
        cursor_put_span(&c, q, count);
        cursor_put_span(&c, q, q->burst);
        cursor_put_span(&c, q, give->count);
        cursor_put_number(&c, give->mark_us[i]);
    }
    return request_end_at(r, &c);
}

struct redis_request *scripts_give(const struct plan *p, const struct redis_names *names, const struct table_key *key,
                                   const struct lease_give *give, bool whole) {
    if (algorithm_is_bucket(p->algorithm)) {
        return scripts_lease_bucket(p, names, key, 0, 0, give, whole);
    }
    struct cursor c;
    struct redis_request *r = request_begin(&give_back, whole, names, key, 0, p->count, &c);
    for (int i = 0; r != NULL && i < p->count; i++) {
        cursor_put_number(&c, p->rules[i].quota.period_ns / 1000);
        cursor_put_number(&c, give->count);
        cursor_put_number(&c, give->mark_us[i]);
    }
    return r == NULL ? NULL : request_end_at(r, &c);
}

struct redis_request *scripts_lease(const struct plan *p, const struct redis_names *names, const struct table_key *key,
                                    const struct lease_take *take, bool whole) {
    if (algorithm_is_bucket(p->algorithm)) {
        return scripts_lease_bucket(p, names, key, take->count, take->ahead_us, &take->give, whole);
    }
    struct redis_request *r = scripts_limit(p, names, key, take->count, 0, whole);
    if (r == NULL || take->give.count == 0) {
        return r;
    }
    struct redis_request *first = scripts_give(p, names, key, &take->give, true);
    if (first == NULL) {
        request_free(r);
        return NULL;
    }
    return request_join(first, r);
}

/* ---- undoing a decision ---- */

static bool reply_number(const redisReply *r, int64_t *value) {
    if (r->type == REDIS_REPLY_INTEGER) {
        *value = r->integer;
        return *value >= 0;
    }
    if (r->type != REDIS_REPLY_STRING || r->len == 0 || r->len > 18) {
        return false;
    }
    int64_t n = 0;
    for (size_t i = 0; i < (size_t)r->len; i++) {
        if (r->str[i] < '0' || r->str[i] > '9') {
            return false;
        }
        n = n * 10 + (r->str[i] - '0');
    }
    *value = n;
    return true;
}

#define DIGITS 20
#define PADDED (DIGITS + 7) /* "$20\r\n", 20 digits and "\r\n" */

static void write_padded(char *at, int64_t value) {
    for (int i = DIGITS; i-- > 0; value /= 10) {
        at[i] = (char)('0' + value % 10);
    }
}

static int64_t read_padded(const char *at) {
    int64_t value = 0;
    for (int i = 0; i < DIGITS; i++) {
        value = value * 10 + (at[i] - '0');
    }
    return value;
}

static void cursor_put_padded(struct cursor *c, int64_t value) {
    char text[DIGITS];
    write_padded(text, value);
    cursor_put_text(c, text, sizeof text);
}

/* Puts the first `count` words of each rule's state into the last of the `numbers` that the rule has in the undo. */
static bool undo_fill(struct redis_request *undo, const redisReply *reply, size_t words, size_t count, size_t numbers) {
    size_t rules = (undo->length - undo->hole) / (numbers * PADDED);
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 + rules * words ||
        reply->element[0]->type != REDIS_REPLY_INTEGER || reply->element[0]->integer != 1) {
        return false; /* it was not admitted */
    }
    for (size_t i = 0; i < rules * count; i++) {
        size_t rule = i / count, word = i % count;
        int64_t value;
        if (!reply_number(reply->element[2 + rule * words + word], &value)) {
            return false;
        }
        char *first = undo->bytes + undo->hole + rule * numbers * PADDED + 5; /* the digits of the rule's first */
        /* A sliding window's state names the end of the window that comes after. */
        value -= words == 3 ? read_padded(first) : 0;
        write_padded(first + (numbers - count + word) * PADDED, value);
    }
    return true;
}

static bool undo_fill_bucket(struct redis_request *undo, const redisReply *reply) {
    return undo_fill(undo, reply, 2, 2, 7);
}
static bool undo_fill_fixed_window(struct redis_request *undo, const redisReply *reply) {
    return undo_fill(undo, reply, 2, 1, 3);
}
static bool undo_fill_sliding_window(struct redis_request *undo, const redisReply *reply) {
    return undo_fill(undo, reply, 3, 1, 3);
}

struct redis_request *scripts_undo(const struct plan *p, const struct redis_names *names, const struct table_key *key,
                                   int64_t cost) {
    bool bucket = script_of(p->algorithm) == &gcra;
    struct cursor c;
    struct redis_request *r = request_begin(bucket ? &cancel : &give_back, true, names, key, 0, p->count, &c);
    if (r == NULL) {
        return NULL;
    }
    r->fill = bucket                         ? undo_fill_bucket
              : p->algorithm == FIXED_WINDOW ? undo_fill_fixed_window
                                             : undo_fill_sliding_window;
    r->hole = (size_t)(c.at - r->bytes);
    for (int i = 0; i < p->count; i++) {
        const struct quota *q = &p->rules[i].quota;
        int64_t own = rule_cost(&p->rules[i], cost), us, excess;
        if (bucket) {
            cursor_put_padded(&c, q->limit);
            span_us(q, own, &us, &excess);
            cursor_put_padded(&c, us);
            cursor_put_padded(&c, excess);
            span_us(q, q->burst, &us, &excess);
            cursor_put_padded(&c, us);
            cursor_put_padded(&c, excess);
            cursor_put_padded(&c, 0);
        } else {
            cursor_put_padded(&c, q->period_ns / 1000);
            cursor_put_padded(&c, own);
        }
        cursor_put_padded(&c, 0);
    }
    return request_end_at(r, &c);
}

struct redis_request *scripts_reset(const struct plan *p, const struct redis_names *names,
                                    const struct table_key *key) {
    int others = algorithm_is_bucket(p->algorithm) ? BESIDE : 0;
    size_t room = 64;
    for (int i = 0; i < p->count; i++) {
        room += (size_t)(1 + others) * (key_length(names, key, i) + BESIDE_LENGTH + NUMBER_ROOM);
    }
    struct redis_request *r = request_new(room);
    if (r == NULL) {
        return NULL;
    }
    struct cursor c = {r->bytes};
    cursor_put_header(&c, '*', (uint64_t)(1 + (1 + others) * p->count));
    cursor_put_text(&c, "DEL", 3);
    for (int i = 0; i < p->count; i++) {
        cursor_put_key(&c, names, key, i, "");
        for (int j = 0; j < others; j++) {
            cursor_put_key(&c, names, key, i, beside[j]);
        }
    }
    return request_end_at(r, &c);
}

/* ---- reading ---- */

/* us - excess/limit microseconds are ns - rest/limit nanoseconds. */
static struct state bucket_state(const struct quota *q, int64_t us, int64_t excess) {
    wide units = ((wide)us * q->limit - (excess < q->limit ? excess : 0)) * 1000;
    wide ns = wide_div_up(units, q->limit);
    if (units <= 0 || ns >= INT64_MAX) {
        return (struct state){{units <= 0 ? 0 : INT64_MAX - 1, 0, 0}};
    }
    return (struct state){{(int64_t)ns, (int64_t)(ns * q->limit - units), 0}};
}

/* How long until what was taken is due: until the bucket would have held it. */
static int64_t reserved_wait(const struct plan *p, const struct state *states, int64_t now) {
    int64_t longest = -1;
    for (int i = 0; i < p->count; i++) {
        const struct quota *q = &p->rules[i].quota;
        wide owed = (wide)states[i].word[0] * q->limit - states[i].word[1] - (wide)now * q->limit;
        wide over = owed - (wide)q->burst * q->period_ns;
        int64_t wait = over > 0 ? (int64_t)wide_div_up(over, q->limit) : -1;
        longest = wait > longest ? wait : longest;
    }
    return longest;
}

/* One rule's state in a reply. */
static bool reply_state(const struct plan *p, int rule, const int64_t *words, struct state *state) {
    const struct script *s = script_of(p->algorithm);
    if (s == &gcra) {
        *state = bucket_state(&p->rules[rule].quota, words[0], words[1]);
    } else if (words[0] >= CLOCK_END / 1000 * 2) {
        return false;
    } else { /* the script has the earlier window's count first, the core last */
        *state = s == &fixed_window ? (struct state){{words[0] * 1000, words[1], 0}}
                                    : (struct state){{words[0] * 1000, words[2], words[1]}};
    }
    return true;
}

/* The answer, the instant, `common` more numbers, and `words` numbers of each rule. */
static bool reply_numbers(const redisReply *reply, int common, int rules, int words, int64_t *numbers) {
    size_t count = (size_t)(2 + common + rules * words);
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != count) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!reply_number(reply->element[i], &numbers[i])) {
            return false;
        }
    }
    return numbers[1] < CLOCK_END / 1000;
}

#define NUMBERS_MAX (3 + 3 * QUOTA_RULES_MAX)

bool scripts_read_lease(const struct plan *p, const redisReply *reply, struct lease_take *take) {
    bool bucket = algorithm_is_bucket(p->algorithm);
    const struct script *s = bucket ? &lease : script_of(p->algorithm);
    int64_t numbers[NUMBERS_MAX];
    if (!reply_numbers(reply, bucket, p->count, s->words, numbers)) {
        return false;
    }
    take->admitted = numbers[0] != 0;
    take->now = numbers[1] * 1000;
    take->number = bucket ? numbers[2] : 0;
    for (int i = 0; i < p->count; i++) {
        const int64_t *words = &numbers[2 + bucket + i * s->words];
        if (!reply_state(p, i, words, &take->states[i])) {
            return false;
        }
        int64_t later = p->algorithm == SLIDING_WINDOW ? p->rules[i].quota.period_ns / 1000 : 0;
        take->mark_us[i] = bucket ? words[2] : words[0] - later;
        if (words[0] >= INSTANT_US_END || take->mark_us[i] >= INSTANT_US_END) { /* what is leased counts on from them */
            return false;
        }
    }
    return true;
}

bool scripts_read(const struct plan *p, const redisReply *reply, int64_t cost, int64_t most_wait_ns, bool never,
                  struct outcome *out) {
    const struct script *s = script_of(p->algorithm);
    int64_t numbers[NUMBERS_MAX];
    struct state states[QUOTA_RULES_MAX];
    if (!reply_numbers(reply, 0, p->count, s->words, numbers)) {
        return false;
    }
    for (int i = 0; i < p->count; i++) {
        if (!reply_state(p, i, &numbers[2 + i * s->words], &states[i])) {
            return false;
        }
    }
    bool admitted = numbers[0] != 0;
    int64_t now_us = numbers[1];
    admitted = admitted && !never;
    *out = (struct outcome){.kind = admitted ? OUTCOME_ADMITTED : OUTCOME_DENIED, .now = now_us * 1000, .wait_ns = -1};
    plan_choose_tightest(p, states, admitted ? 0 : cost, out->now, out);
    if (admitted && cost > 0 && s == &gcra) {
        out->wait_ns = reserved_wait(p, states, out->now);
        /* No further than was asked for, and the microsecond that was rounded. */
        if (out->wait_ns > 0 && out->wait_ns - NS_PER_MS > most_wait_ns) {
            return false;
        }
    }
    return true;
}

/* CRC-16/XMODEM, which a cluster finds slots by. */
static uint16_t crc16(uint16_t crc, const char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++) {
        crc ^= (uint16_t)((unsigned char)bytes[i] << 8);
        for (int bit = 0; bit < 8; bit++) {
            crc = (uint16_t)(crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1);
        }
    }
    return crc;
}

uint16_t scripts_slot(const struct redis_names *names, const struct table_key *key) {
    /* The tag is what stands between the first '{' and the first '}' after it: the prefix may have the one, or both. */
    const char *open = memchr(names->prefix, '{', names->prefix_length);
    uint16_t crc = 0;
    if (open != NULL) {
        size_t rest = names->prefix_length - (size_t)(open + 1 - names->prefix);
        const char *close = memchr(open + 1, '}', rest);
        if (close != NULL && close > open + 1) {
            return crc16(0, open + 1, (size_t)(close - open - 1)) & 16383;
        }
        crc = crc16(0, open + 1, rest);
        crc = crc16(crc, "{", 1);
    }
    if (is_marked(key)) {
        crc = crc16(crc, "\\", 1);
    }
    const char *close = memchr(key->bytes, '}', key->length);
    return crc16(crc, key->bytes, close != NULL ? (size_t)(close - key->bytes) : key->length) & 16383;
}

uint16_t scripts_slot_of(const char *key, size_t length) {
    const char *open = memchr(key, '{', length);
    const char *close = open == NULL ? NULL : memchr(open, '}', length - (size_t)(open - key));
    return close == NULL || close == open + 1 ? crc16(0, key, length) & 16383
                                              : crc16(0, open + 1, (size_t)(close - open - 1)) & 16383;
}

bool scripts_are_missing(const redisReply *reply) {
    return reply->type == REDIS_REPLY_ERROR && reply_begins(reply, "NOSCRIPT");
}
