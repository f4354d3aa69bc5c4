/* The keyed table: finding, expiry, the ceiling, and who makes room. */
#include <string.h>

#include "check.h"
#include "clock.h"
#include "table.h"

#define EPOCH (INT64_C(1700000000) * NS_PER_S)
#define SPACE ((UINT32_C(7) << SPACE_ALGORITHM_BITS) | GCRA)

static uint64_t hash_of(const char *bytes, size_t length) {
    uint64_t h = UINT64_C(0xCBF29CE484222325);
    for (size_t i = 0; i < length; i++) {
        h = (h ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001B3);
    }
    return check_random(&h);
}

static struct table_key key_of(const char *bytes, size_t length) {
    return (struct table_key){.hash = hash_of(bytes, length), .bytes = bytes, .length = length};
}

/* Puts a key with so much of ten used, until `expiry`. */
static enum table_end put(struct table *t, const struct table_key *key, int64_t used, int64_t now) {
    struct shard *s = table_shard(t, key->hash);
    struct quota q;
    struct quota_error error;
    uint32_t n = table_find(s, SPACE, key);
    if (n == CELL_NONE) {
        enum table_end end = table_insert(t, s, SPACE, key, now, NULL, &n);
        if (end != TABLE_OK) {
            return end;
        }
    }
    quota_init(&q, 10, 10 * NS_PER_S, 10, &error);
    s->cells[n].state.word[0] = now + used * NS_PER_S;
    table_touch(s, &s->cells[n], &q, now);
    return TABLE_OK;
}

static bool has(struct table *t, const struct table_key *key) {
    return table_find(table_shard(t, key->hash), SPACE, key) != CELL_NONE;
}

static struct table_key numbered(char *room, int n) {
    return key_of(room, (size_t)sprintf(room, "key number %d", n));
}

static void keys_of_every_length_are_found_again(void) {
    struct table t;
    static char bytes[TABLE_KEY_MAX];
    CHECK(table_init(&t, 1000, TABLE_EVICT, 1));
    memset(bytes, 'x', sizeof bytes);
    static const size_t lengths[] = {1, 17, 18, 19, 69, 70, 71, 100, 122, 123, 1000, TABLE_KEY_MAX - 1, TABLE_KEY_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct table_key key = key_of(bytes, lengths[i]);
        CHECK_EQUAL(put(&t, &key, 1, EPOCH), TABLE_OK);
    }
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct table_key key = key_of(bytes, lengths[i]);
        CHECK(has(&t, &key));
        bytes[lengths[i] - 1] = 'y'; /* the same length and hash, another last byte */
        struct table_key other = {.hash = key.hash, .bytes = bytes, .length = lengths[i]};
        CHECK(!has(&t, &other));
        bytes[lengths[i] - 1] = 'x';
        table_remove(&t, table_shard(&t, key.hash), table_find(table_shard(&t, key.hash), SPACE, &key));
        CHECK(!has(&t, &key));
    }
    CHECK_EQUAL(t.keys, 0);
    CHECK_EQUAL(t.cells, 0);
    table_destroy(&t);
}

static void random_puts_and_removals_agree_with_a_plain_array(void) {
    struct table t;
    static bool there[3000];
    char room[32];
    uint64_t seed = 5;
    CHECK(table_init(&t, 100000, TABLE_EVICT, 1));
    for (int round = 0; round < 200000; round++) {
        int n = (int)(check_random(&seed) % 3000);
        struct table_key key = numbered(room, n);
        struct shard *s = table_shard(&t, key.hash);
        if (has(&t, &key) != there[n]) {
            CHECK(has(&t, &key) == there[n]);
            break;
        }
        if (there[n] && check_random(&seed) % 2 == 0) {
            table_remove(&t, s, table_find(s, SPACE, &key));
            there[n] = false;
        } else {
            CHECK_EQUAL(put(&t, &key, 5, EPOCH), TABLE_OK);
            there[n] = true;
        }
    }
    int count = 0;
    for (int n = 0; n < 3000; n++) {
        count += there[n];
    }
    CHECK_EQUAL(t.keys, count);
    table_clear(&t);
    CHECK_EQUAL(t.keys, 0);
    table_destroy(&t);
}

static void a_table_never_holds_more_than_its_ceiling(void) {
    static const int64_t ceilings[] = {1, 2, 100, 5000};
    for (size_t c = 0; c < sizeof ceilings / sizeof ceilings[0]; c++) {
        struct table t;
        char room[32];
        CHECK(table_init(&t, ceilings[c], TABLE_EVICT, 1));
        for (int n = 0; n < 20000; n++) {
            struct table_key key = numbered(room, n);
            CHECK_EQUAL(put(&t, &key, 3, EPOCH), TABLE_OK);
            CHECK(has(&t, &key));
            if (t.keys > ceilings[c]) {
                break;
            }
        }
        CHECK_EQUAL(t.keys, ceilings[c]);
        CHECK_EQUAL(t.evictions, 20000 - ceilings[c]);
        table_destroy(&t);
    }
}

static void expired_keys_go_first(void) {
    struct table t;
    char room[32];
    CHECK(table_init(&t, 5000, TABLE_EVICT, 1));
    for (int n = 0; n < 5000; n++) { /* every fourth is at its limit, the others soon expire */
        struct table_key key = numbered(room, n);
        put(&t, &key, n % 4 == 0 ? 10 : 1, EPOCH);
    }
    for (int n = 5000; n < 5000 + 3750; n++) {
        struct table_key key = numbered(room, n);
        put(&t, &key, 9, EPOCH + 2 * NS_PER_S);
    }
    CHECK_EQUAL(t.evictions, 0);
    CHECK_EQUAL(t.keys, 5000);
    for (int n = 0; n < 5000; n += 4) {
        struct table_key key = numbered(room, n);
        CHECK(has(&t, &key));
    }
    table_destroy(&t);
}

static void a_flood_evicts_its_own_kind_and_a_limited_key_goes_last(void) {
    static const int64_t ceilings[] = {64, 1000, 5000};
    for (size_t c = 0; c < sizeof ceilings / sizeof ceilings[0]; c++) {
        struct table t;
        char room[32];
        CHECK(table_init(&t, ceilings[c], TABLE_EVICT, 1));
        for (int n = 0; n < 10; n++) {
            struct table_key key = numbered(room, n);
            put(&t, &key, 10, EPOCH);
        }
        for (int n = 10; n < 100000; n++) {
            struct table_key key = numbered(room, n);
            put(&t, &key, 1, EPOCH + n);
        }
        for (int n = 0; n < 10; n++) {
            struct table_key key = numbered(room, n);
            CHECK(has(&t, &key));
        }
        table_destroy(&t);
    }
}

static void among_equals_the_least_recently_used_goes(void) {
    struct table t;
    char room[32];
    CHECK(table_init(&t, 50, TABLE_EVICT, 1));
    for (int n = 0; n < 50; n++) {
        struct table_key key = numbered(room, n);
        put(&t, &key, 5, EPOCH + n * (INT64_C(1) << 20));
    }
    for (int n = 0; n < 50; n++) { /* the same share for all at this instant */
        struct table_key key = numbered(room, n);
        struct shard *s = table_shard(&t, key.hash);
        s->cells[table_find(s, SPACE, &key)].state.word[0] = EPOCH + 9 * NS_PER_S;
    }
    for (int n = 50; n < 60; n++) {
        struct table_key key = numbered(room, n);
        put(&t, &key, 9, EPOCH + 50 * (INT64_C(1) << 20));
    }
    for (int n = 0; n < 60; n++) {
        struct table_key key = numbered(room, n);
        CHECK(has(&t, &key) == (n >= 10));
    }
    table_destroy(&t);
}

static void a_table_that_refuses_keeps_what_it_has(void) {
    struct table t;
    char room[32];
    CHECK(table_init(&t, 100, TABLE_REFUSE, 1));
    for (int n = 0; n < 100; n++) {
        struct table_key key = numbered(room, n);
        CHECK_EQUAL(put(&t, &key, 5, EPOCH), TABLE_OK);
    }
    struct table_key late = numbered(room, 100);
    CHECK_EQUAL(put(&t, &late, 5, EPOCH), TABLE_FULL);
    CHECK_EQUAL(t.keys, 100);
    CHECK_EQUAL(t.cells, 100);
    CHECK_EQUAL(table_next_expiry(&t), EPOCH + 5 * NS_PER_S);
    CHECK_EQUAL(put(&t, &late, 5, EPOCH + 5 * NS_PER_S), TABLE_OK);
    table_destroy(&t);
}

/* All of one length and with the same first bytes, as an attacker would make them. */
static void long_keys_are_bounded_too(void) {
    struct table t;
    static char bytes[TABLE_KEY_MAX];
    CHECK(table_init(&t, 100, TABLE_EVICT, 1));
    memset(bytes, 'x', sizeof bytes);
    for (int n = 0; n < 100; n++) {
        memcpy(bytes + sizeof bytes - sizeof n, &n, sizeof n);
        struct table_key key = key_of(bytes, sizeof bytes);
        CHECK_EQUAL(put(&t, &key, 5, EPOCH), TABLE_OK);
        CHECK(has(&t, &key));
    }
    CHECK(table_bytes(&t) < 100 * 1024 + 8 * sizeof bytes);
    table_destroy(&t);
}

/* One key under many spaces is as many keys: it spares nothing but the cells that its caller names. */
static void one_key_under_many_spaces_is_bounded_too(void) {
    struct table t;
    struct quota q;
    struct quota_error error;
    struct table_key key = key_of("k", 1);
    uint32_t named[2] = {CELL_NONE, CELL_NONE}, n;
    const struct table_spared spared = {named, 2};
    quota_init(&q, 10, 10 * NS_PER_S, 10, &error);
    CHECK(table_init(&t, 10, TABLE_EVICT, 1));
    struct shard *s = table_shard(&t, key.hash);
    for (uint32_t i = 0; i < 1000; i++) {
        CHECK_EQUAL(table_insert(&t, s, i << SPACE_ALGORITHM_BITS | GCRA, &key, EPOCH, &spared, &n), TABLE_OK);
        s->cells[n].state.word[0] = EPOCH + (i < 2 ? 1 : 9) * NS_PER_S; /* the first two would be the ones to go */
        table_touch(s, &s->cells[n], &q, EPOCH);
        if (i < 2) {
            named[i] = n;
        }
        CHECK(t.keys <= 10);
    }
    CHECK_EQUAL(t.evictions, 990);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_EQUAL(table_find(s, i << SPACE_ALGORITHM_BITS | GCRA, &key), named[i]);
    }
    table_destroy(&t);

    CHECK(table_init(&t, 2, TABLE_EVICT, 1)); /* nothing but what is spared: no room */
    s = table_shard(&t, key.hash);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_EQUAL(table_insert(&t, s, i << SPACE_ALGORITHM_BITS | GCRA, &key, EPOCH, NULL, &named[i]), TABLE_OK);
        s->cells[named[i]].state.word[0] = EPOCH + NS_PER_S;
        table_touch(s, &s->cells[named[i]], &q, EPOCH);
    }
    CHECK_EQUAL(table_insert(&t, s, UINT32_C(2) << SPACE_ALGORITHM_BITS | GCRA, &key, EPOCH, &spared, &n), TABLE_FULL);
    CHECK_EQUAL(t.keys, 2);
    CHECK_EQUAL(t.cells, 2);
    table_destroy(&t);
}

int main(void) {
    keys_of_every_length_are_found_again();
    random_puts_and_removals_agree_with_a_plain_array();
    a_table_never_holds_more_than_its_ceiling();
    expired_keys_go_first();
    a_flood_evicts_its_own_kind_and_a_limited_key_goes_last();
    among_equals_the_least_recently_used_goes();
    a_table_that_refuses_keeps_what_it_has();
    long_keys_are_bounded_too();
    one_key_under_many_spaces_is_bounded_too();
    return check_end("table");
}
