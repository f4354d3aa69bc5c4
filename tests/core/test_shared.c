/* Decisions in shared memory whose process is killed or stopped at each instruction of them.
 *
 * A child decides, one instruction at a time under ptrace. After the n-th it is killed, or left standing. Then this process uses up
 * what is left of the quota: what both were given together must be the quota, whatever n is, and nobody may wait for long. */
#include <pthread.h>

#include "shared_stepping.h"

static void check_hash(void) {
    /* Of the authors' test vectors: the key is 00 01 .. 0f, the text 00 01 .. of that length. */
    static const unsigned char expected[2][16] = {
        {0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93},
        {0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc, 0x45},
    };
    unsigned char text[64];
    for (int i = 0; i < 64; i++) {
        text[i] = (unsigned char)i;
    }
    uint64_t key[2] = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)}, out[2];
    for (int n = 0; n < 2; n++) {
        siphash128(key, text, (size_t)n, out);
        for (int i = 0; i < 16; i++) {
            CHECK_EQUAL(out[i / 8] >> (8 * (i % 8)) & 0xFF, expected[n][i]);
        }
    }
}

static void check_decisions(void) {
    for (int algorithm = 0; algorithm < ALGORITHM_COUNT; algorithm++) {
        for (int rules = 1; rules <= QUOTA_RULES_MAX; rules += 5) { /* at most 16 in a bucket */
            struct bench b;
            bench_open(&b, (enum algorithm_id)algorithm, 7, rules);
            CHECK_EQUAL(bench_exhaust(&b, "k", 100), 7);
            CHECK_EQUAL(shared_table_count(&b.table), rules);
            CHECK_EQUAL(bench_exhaust(&b, "other", 100), 7);
            CHECK_EQUAL(shared_table_clear(&b.table, &b.error), SHARED_ENTERED);
            CHECK_EQUAL(shared_table_count(&b.table), 0);
            CHECK_EQUAL(bench_exhaust(&b, "k", 100), 7);
            bench_close(&b);
        }
    }
}

static void check_full(void) {
    struct bench b;
    char name[32];
    bench_open(&b, GCRA, 2, 1);
    int64_t capacity = shared_table_capacity(&b.table);
    CHECK_EQUAL(bench_exhaust(&b, "limited", 100), 2);
    for (int i = 0; i < 3 * capacity; i++) { /* a flood of fresh keys */
        snprintf(name, sizeof name, "fresh-%d", i);
        CHECK_EQUAL(bench_ask(&b, name, 1), OUTCOME_ADMITTED);
    }
    CHECK_EQUAL(bench_ask(&b, "limited", 1), OUTCOME_DENIED);
    CHECK(atomic_load(&b.table.evictions) > capacity);
    CHECK(shared_table_count(&b.table) <= capacity);
    b.table.when_full = TABLE_REFUSE;
    int refused = 0;
    for (int i = 0; i < capacity; i++) {
        snprintf(name, sizeof name, "late-%d", i);
        refused += bench_ask(&b, name, 1) == OUTCOME_FULL;
    }
    CHECK(refused > capacity / 2);
    bench_close(&b);
}

/* Threads without a lock of their own, as on a Python without a GIL: they come with one number, and rob each other as well. Another one looks
 * at their key meanwhile. */
static struct bench threaded;
static _Atomic int threads_admitted, threads_misread;
static _Atomic bool threads_done;

static void *exhaust(void *unused) {
    (void)unused;
    struct bench own = threaded; /* for the error */
    atomic_fetch_add(&threads_admitted, bench_exhaust(&own, "k", 1000000));
    return NULL;
}

static void *look(void *unused) {
    (void)unused;
    struct shared_entry entries[BUCKET_CELLS];
    while (!atomic_load(&threads_done)) {
        int count = shared_table_look(&threaded.table, bench_bucket(&threaded, "k"), entries);
        for (int i = 0; i < count; i++) {
            bool whole = entries[i].text_length == 1 && entries[i].text[0] == 'k' && entries[i].quota.limit == 20000;
            atomic_fetch_add(&threads_misread, !whole);
        }
    }
    return NULL;
}

static void check_threads(void) {
    for (int rules = 1; rules <= 3; rules += 2) {
        pthread_t threads[4], looking;
        bench_open(&threaded, TOKEN_BUCKET, 20000, rules);
        atomic_store(&threads_admitted, 0);
        atomic_store(&threads_done, false);
        CHECK_EQUAL(pthread_create(&looking, NULL, look, NULL), 0);
        for (int i = 0; i < 4; i++) {
            CHECK_EQUAL(pthread_create(&threads[i], NULL, exhaust, NULL), 0);
        }
        for (int i = 0; i < 4; i++) {
            pthread_join(threads[i], NULL);
        }
        atomic_store(&threads_done, true);
        pthread_join(looking, NULL);
        CHECK_EQUAL(atomic_load(&threads_admitted), 20000);
        CHECK_EQUAL(atomic_load(&threads_misread), 0);
        bench_close(&threaded);
    }
}

#if STEPPING

enum fate { KILLED, LEFT_STANDING };

/* What the child finds: nothing of the key; the key; a bucket without room for it; the key in a spare, which it gives back. */
enum before { NOTHING, THERE, FULL, MOVED };

/* Each n from 1 until the child gets through. */
static void check_each_instruction(const char *what, enum algorithm_id algorithm, int rules, enum before before,
                                   enum fate fate, int stride) {
    struct said *said = said_new();
    int64_t longest = 0;
    int n = 1, robbed = 0;
    struct bench b;
    bench_open(&b, algorithm, QUOTA, rules);
    for (bool alive = true; alive; n += stride) {
        pid_t child;
        shared_table_clear(&b.table, &b.error);
        if (before == FULL) { /* the bucket of the key, so that it must make room */
            char name[32];
            uint32_t bucket = bench_bucket(&b, "hot");
            for (int i = 0, filled = 0; filled < 2 * BUCKET_CELLS; i++) {
                snprintf(name, sizeof name, "other-%d", i);
                if (bench_bucket(&b, name) == bucket) {
                    bench_ask(&b, name, 1);
                    filled++;
                }
            }
        }
        int own = before == THERE || before == MOVED ? bench_ask(&b, "hot", 1) == OUTCOME_ADMITTED : 0;
        if (before == MOVED) {
            pid_t first = stand_holding(&b, said, "hot");
            own += bench_ask(&b, "hot", 1) == OUTCOME_ADMITTED;
            child_kill(first);
            /* Nobody is in the way of giving the spare back: the lowest bit says so, see shared_bucket.h. */
            atomic_fetch_or(&b.table.file->buckets[bench_bucket(&b, "hot")].lock.word, UINT64_C(1));
        }
        atomic_store(&said->admitted, 0);
        child = child_start(&b, said, "hot", 2);
        alive = child_steps(child, said, n);
        if (fate == KILLED) {
            child_kill(child);
        }
        uint32_t generation = atomic_load(&b.table.file->header->last_generation);
        int64_t start = bench_now();
        own += bench_exhaust(&b, "hot", 2 * QUOTA);
        int64_t took = bench_now() - start;
        longest = took > longest ? took : longest;
        robbed += atomic_load(&b.table.file->header->last_generation) != generation;
        if (fate == LEFT_STANDING) {
            child_finish(child);
        }
        int all = own + atomic_load(&said->admitted);
        /* Who was killed may have been admitted and not have got to say so. */
        int least = alive && fate == KILLED ? QUOTA - 1 : QUOTA;
        if (all < least || all > QUOTA) {
            fprintf(stderr, "%s, instruction %d: %d of %d\n", what, n, all, QUOTA);
        }
        CHECK(all >= least && all <= QUOTA);
        CHECK_EQUAL(bench_ask(&b, "hot", 1), OUTCOME_DENIED);
    }
    CHECK(longest < NS_PER_S);
    fprintf(stderr, "  %s: %d instructions, %d robbed, at most %.1f ms\n", what, n, robbed,
            (double)longest / NS_PER_MS);
    bench_close(&b);
    said_free(said);
}

static void check_no_spare_is_left(void) {
    struct said *said = said_new();
    struct bench b;
    char names[64][16];
    pid_t children[64];
    bench_open(&b, GCRA, QUOTA, 1);
    int spares = (int)b.table.file->layout.spares, found = 0;
    for (int i = 0; found <= spares; i++) { /* in buckets of their own */
        bool fresh = true;
        snprintf(names[found], sizeof names[found], "k%d", i);
        for (int k = 0; k < found; k++) {
            fresh = fresh && bench_bucket(&b, names[k]) != bench_bucket(&b, names[found]);
        }
        found += fresh;
    }
    for (int i = 0; i <= spares; i++) {
        children[i] = stand_holding(&b, said, names[i]);
    }
    for (int i = 0; i < spares; i++) {
        CHECK_EQUAL(bench_ask(&b, names[i], 1), OUTCOME_ADMITTED);
    }
    char pid[16];
    snprintf(pid, sizeof pid, "%d", (int)children[spares]);
    CHECK_EQUAL(bench_ask(&b, names[spares], 1), OUTCOME_NO_MEMORY);
    CHECK_EQUAL(b.error.fault, SHARED_STOPPED);
    CHECK(strstr(b.error.text, pid) != NULL);
    child_kill(children[0]); /* its spare is free again */
    CHECK_EQUAL(bench_ask(&b, names[spares], 1), OUTCOME_ADMITTED);
    for (int i = 1; i <= spares; i++) {
        child_finish(children[i]);
    }
    int given = 0;
    for (int i = 0; i <= spares; i++) {
        given += 1 + bench_exhaust(&b, names[i], 2 * QUOTA);
    }
    CHECK_EQUAL(given + atomic_load(&said->admitted), (spares + 1) * QUOTA);
    bench_close(&b);
    said_free(said);
}

/* Somebody stands in a bucket, another in the spare that stands for it; then they go on, in both orders. */
static void check_chains(void) {
    struct said *said = said_new();
    for (int order = 0; order < 2; order++) {
        struct bench b;
        bench_open(&b, TOKEN_BUCKET, 2 * QUOTA, 1);
        atomic_store(&said->admitted, 0);
        int own = bench_ask(&b, "hot", 1) == OUTCOME_ADMITTED;
        pid_t first = stand_holding(&b, said, "hot");
        own += bench_ask(&b, "hot", 1) == OUTCOME_ADMITTED;
        pid_t second = stand_holding(&b, said, "hot");
        own += bench_ask(&b, "hot", 1) == OUTCOME_ADMITTED;
        CHECK_EQUAL(own, 3);
        child_finish(order == 0 ? first : second);
        own += bench_ask(&b, "hot", 1) == OUTCOME_ADMITTED;
        child_finish(order == 0 ? second : first);
        own += bench_exhaust(&b, "hot", 4 * QUOTA);
        CHECK_EQUAL(own + atomic_load(&said->admitted), 2 * QUOTA);
        for (uint32_t i = 0; i < b.table.file->layout.buckets; i++) { /* everything is where it was */
            CHECK(!(atomic_load(&b.table.file->buckets[i].lock.word) & SHARED_MOVED));
        }
        bench_close(&b);
    }
    said_free(said);
}

static void check_stepping(void) {
    /* Each instruction takes a minute and a half; a part of them, spread evenly, some seconds. */
    int part = getenv("HEADWAY_EVERY_INSTRUCTION") != NULL ? 0 : 1;
    check_each_instruction("killed, a key that is there", GCRA, 1, THERE, KILLED, 1 + 6 * part);
    check_each_instruction("killed, a new key", FIXED_WINDOW, 1, NOTHING, KILLED, 1 + 12 * part);
    check_each_instruction("killed, three rules", TOKEN_BUCKET, 3, NOTHING, KILLED, 3 + 40 * part);
    check_each_instruction("killed, in a full bucket", SLIDING_WINDOW, 1, FULL, KILLED, 3 + 50 * part);
    check_each_instruction("stopped, a key that is there", GCRA, 1, THERE, LEFT_STANDING, 1 + 6 * part);
    check_each_instruction("stopped, three rules in a full bucket", GCRA, 3, FULL, LEFT_STANDING, 7 + 230 * part);
    check_each_instruction("killed, giving a spare back", GCRA, 1, MOVED, KILLED, 1 + 30 * part);
    check_each_instruction("stopped, giving a spare back", GCRA, 1, MOVED, LEFT_STANDING, 1 + 30 * part);
}

#endif

int main(void) {
    clock_start();
    fork_start();
    check_hash();
    check_decisions();
    check_full();
    check_threads();
#if STEPPING
    check_no_spare_is_left();
    check_chains();
    check_stepping();
#endif
    return check_end("test_shared");
}
