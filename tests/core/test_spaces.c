/* The register of spaces: a name keeps its number while it is used, and names that are not are forgotten. */
#include "spaces.h"

#include <string.h>

#include "check.h"
#include "clock.h"

#define EPOCH (INT64_C(1700000000) * NS_PER_S)

static uint32_t take(struct spaces *r, struct table *t, int n) {
    char name[32];
    uint32_t number = UINT32_MAX;
    int length = sprintf(name, "tenant%d:v1:gcra", n);
    CHECK_EQUAL(spaces_take(r, t, name, (size_t)length, (size_t)length, EPOCH, &number), SPACES_OK);
    return number;
}

static void put(struct table *t, uint32_t number, int64_t expiry) {
    struct table_key key = {.hash = 1, .bytes = "k", .length = 1};
    struct shard *s = table_shard(t, key.hash);
    uint32_t n;
    CHECK_EQUAL(table_insert(t, s, number << SPACE_ALGORITHM_BITS | GCRA, &key, EPOCH, NULL, &n), TABLE_OK);
    s->cells[n].state.word[0] = expiry;
    atomic_store(&s->next_expiry, 0);
}

static void a_name_has_one_number_while_it_is_used(void) {
    struct table t;
    struct spaces *r = spaces_new();
    CHECK(table_init(&t, 100, TABLE_EVICT, 1));
    uint32_t first = take(r, &t, 0), second = take(r, &t, 1);
    CHECK(first != second);
    for (int n = 2; n < 20000; n++) {
        uint32_t other = take(r, &t, n);
        CHECK(other != first && other != second);
        spaces_drop(r, other);
    }
    CHECK_EQUAL(take(r, &t, 0), first);
    CHECK_EQUAL(take(r, &t, 1), second);
    CHECK(spaces_bytes(r) < 300 * 1024);
    spaces_release(r);
    table_destroy(&t);
}

static void a_name_under_which_the_table_holds_a_key_keeps_its_number(void) {
    struct table t;
    struct spaces *r = spaces_new();
    CHECK(table_init(&t, 100, TABLE_EVICT, 1));
    uint32_t kept = take(r, &t, 0), expired = take(r, &t, 1);
    put(&t, kept, INT64_MAX);
    put(&t, expired, EPOCH);
    spaces_drop(r, kept);
    spaces_drop(r, expired);
    bool used_again = false;
    for (int n = 2; n < 5000; n++) {
        uint32_t other = take(r, &t, n);
        CHECK(other != kept);
        used_again = used_again || other == expired;
        spaces_drop(r, other);
    }
    CHECK(used_again);
    CHECK_EQUAL(take(r, &t, 0), kept);
    spaces_release(r);
    table_destroy(&t);
}

int main(void) {
    a_name_has_one_number_while_it_is_used();
    a_name_under_which_the_table_holds_a_key_keeps_its_number();
    return check_end("spaces");
}
