/* The core by itself: a step, a keyed lookup and a step, in nanoseconds beyond the reading of the clock.
 *
 * Each round times every case once, in turn. A case is a loop of `calls` turns that all read the clock; what a case costs
 * beyond the loop that does nothing else is therefore what its work adds. Output: one line a round and case, "name ns".
 *
 * Usage: core ROUNDS CALLS */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "algorithm.h"
#include "clock.h"
#include "table.h"

#define WARM_KEYS 1024
#define MANY_KEYS 1000000
#define KEY_LENGTH 16
/* Calls that the one hot key admits: one in 20 s is used up slowly, so that a key lives while the table fills, and the
 * whole burst still takes less than the 73 years from which on a bucket leaves 64 bits. */
#define LONG_BURST 100000000
#define SPACE_OF(id) ((uint32_t)(id))

static volatile int64_t sink; /* keeps results alive */

static double elapsed_ns(struct timespec from, struct timespec to) {
    return (double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec);
}

static struct timespec reading(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts;
}

/* splitmix64: stands for the hash that a caller has at hand. */
static uint64_t hash_of(uint64_t x) {
    x += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

struct keys {
    struct table table;
    struct table_key *list; /* in the order of use: shuffled */
    char (*bytes)[KEY_LENGTH + 1];
    uint32_t mask; /* turns of the loop are taken modulo a power of two */
};

/* A table that already holds `count` keys, and the same keys in random order. Their bytes lie in the order of use: the
 * caller's own key is near at hand, as it is in a server, and what is timed is the table. */
static void keys_make(struct keys *k, uint32_t count, const struct quota *q, enum algorithm_id id) {
    uint32_t room = 1;
    while (room * 2 <= count) {
        room *= 2;
    }
    k->mask = room - 1;
    k->bytes = malloc((size_t)count * sizeof *k->bytes);
    k->list = malloc((size_t)count * sizeof *k->list);
    if (k->bytes == NULL || k->list == NULL || !table_init(&k->table, (int64_t)count * 2, TABLE_EVICT, 1)) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    for (uint32_t i = 0; i < count; i++) {
        snprintf(k->bytes[i], sizeof k->bytes[i], "%016u", i);
        k->list[i] = (struct table_key){hash_of(i), k->bytes[i], KEY_LENGTH};
        struct shard *s = table_shard(&k->table, k->list[i].hash);
        uint32_t n;
        lock_acquire(&s->lock);
        if (table_insert(&k->table, s, SPACE_OF(id), &k->list[i], clock_now(), &n) != TABLE_OK) {
            fprintf(stderr, "no memory\n");
            exit(1);
        }
        algorithm_step(id, &s->cells[n].state, q, 1, clock_now());
        table_touch(s, &s->cells[n], q, clock_now());
        lock_release(&s->lock);
    }
    for (uint32_t i = count - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(hash_of(i ^ UINT64_C(0xABCDEF)) % (i + 1));
        struct table_key other = k->list[i];
        k->list[i] = k->list[j];
        k->list[j] = other;
    }
    char(*in_order)[KEY_LENGTH + 1] = malloc((size_t)count * sizeof *in_order);
    if (in_order == NULL) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    for (uint32_t i = 0; i < count; i++) {
        memcpy(in_order[i], k->list[i].bytes, sizeof in_order[i]);
        k->list[i].bytes = in_order[i];
    }
    free(k->bytes);
    k->bytes = in_order;
}

static double time_clock(long calls) {
    struct timespec from = reading();
    int64_t sum = 0;
    for (long i = 0; i < calls; i++) {
        sum += clock_now();
    }
    sink = sum;
    return elapsed_ns(from, reading()) / (double)calls;
}

static double time_step(long calls, enum algorithm_id id, const struct quota *q) {
    struct state state = {{0, 0, 0}};
    struct timespec from = reading();
    int64_t sum = 0;
    for (long i = 0; i < calls; i++) {
        sum += algorithm_step(id, &state, q, 1, clock_now());
    }
    sink = sum;
    return elapsed_ns(from, reading()) / (double)calls;
}

static double time_keyed(long calls, struct keys *k, uint32_t mask, enum algorithm_id id, const struct quota *q) {
    struct timespec from = reading();
    int64_t sum = 0;
    for (long i = 0; i < calls; i++) {
        const struct table_key *key = &k->list[(uint32_t)i & mask];
        struct shard *s = table_shard(&k->table, key->hash);
        lock_acquire(&s->lock);
        int64_t now = clock_now();
        uint32_t n = table_find(s, SPACE_OF(id), key);
        if (n == CELL_NONE) {
            fprintf(stderr, "a key is gone\n");
            exit(1);
        }
        struct cell *c = &s->cells[n];
        if (algorithm_step(id, &c->state, q, 1, now)) {
            table_touch(s, c, q, now);
            sum++;
        }
        lock_release(&s->lock);
    }
    sink = sum;
    return elapsed_ns(from, reading()) / (double)calls;
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 5;
    long calls = argc > 2 ? atol(argv[2]) : 2000000;
    struct quota open_quota, closed_quota, long_quota;
    struct quota_error error;
    if (!quota_init(&open_quota, 1000000000, NS_PER_S, 1000000000, &error) ||
        !quota_init(&closed_quota, 1, 86400 * NS_PER_S, 1, &error) ||
        !quota_init(&long_quota, 3, 60 * NS_PER_S, LONG_BURST, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    clock_start();
    static struct keys warm, many;
    if ((rounds + 1) * calls * 2 > LONG_BURST) {
        fprintf(stderr, "too many calls: the hot key would be denied\n");
        return 1;
    }
    keys_make(&warm, WARM_KEYS, &long_quota, TOKEN_BUCKET);
    keys_make(&many, MANY_KEYS, &long_quota, TOKEN_BUCKET);
    for (int round = -1; round < rounds; round++) {
        double clock = time_clock(calls);
        double step[ALGORITHM_COUNT], denied[ALGORITHM_COUNT];
        for (int id = 0; id < ALGORITHM_COUNT; id++) {
            step[id] = time_step(calls, (enum algorithm_id)id, &open_quota);
            denied[id] = time_step(calls, (enum algorithm_id)id, &closed_quota);
        }
        double one = time_keyed(calls, &warm, 0, TOKEN_BUCKET, &long_quota);
        double thousand = time_keyed(calls, &warm, warm.mask, TOKEN_BUCKET, &long_quota);
        double million = time_keyed(calls, &many, many.mask, TOKEN_BUCKET, &long_quota);
        if (round < 0) {
            continue; /* the warm-up */
        }
        printf("clock %.3f\n", clock);
        for (int id = 0; id < ALGORITHM_COUNT; id++) {
            printf("step:%s %.3f\n", algorithm_names[id], step[id]);
            printf("denied:%s %.3f\n", algorithm_names[id], denied[id]);
        }
        printf("keyed:1 %.3f\nkeyed:1024 %.3f\nkeyed:1000000 %.3f\n", one, thousand, million);
    }
    return 0;
}
