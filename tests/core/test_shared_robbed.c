/* A holder that stands still, and the processes that take its bucket over: these are stopped or killed at each instruction too.
 *
 * "The robber" is the child that is about to take the bucket over. What the holder, the robber and this process were given together must be
 * the quota: fewer means that an instant was lost, more that admitted calls were forgotten. */
#include "shared_stepping.h"

#if STEPPING

enum fate { KILLED, LEFT_STANDING };

static struct shared_bucket *hot_bucket(struct bench *b) {
    return &b->table.file->buckets[bench_bucket(b, "hot")];
}

static uint64_t hot_word(struct bench *b) {
    return atomic_load(&hot_bucket(b)->lock.word);
}

/* A bucket that has other keys than the one that is decided on, so that there is more to copy. */
static void fill(struct bench *b, int cells) {
    char name[32];
    for (int i = 0, filled = 0; filled < cells; i++) {
        snprintf(name, sizeof name, "other-%d", i);
        if (bench_bucket(b, name) == bench_bucket(b, "hot")) {
            bench_ask(b, name, 1);
            filled += b->plan->count;
        }
    }
}

/* What is seen of the key without a lock: all its rules, each with what `admitted` calls have used. */
static void check_seen(struct bench *b, const char *what, int n, int least, int most) {
    struct shared_entry entries[BUCKET_CELLS];
    int count = shared_table_look(&b->table, bench_bucket(b, "hot"), entries), found = 0;
    for (int i = 0; i < count; i++) {
        if (entries[i].text_length != 3 || memcmp(entries[i].text, "hot", 3) != 0) {
            continue;
        }
        struct decision d;
        algorithm_report(entries[i].algorithm, &entries[i].state, &entries[i].quota, 0, shared_table_now(&b->table),
                         &d);
        int used = (int)(d.limit - d.remaining);
        if (used < least || used > most) {
            fprintf(stderr, "%s, instruction %d: %d calls are seen, not %d to %d\n", what, n, used, least, most);
        }
        CHECK(used >= least && used <= most);
        found++;
    }
    CHECK_EQUAL(found, b->plan->count);
}

static void check_sum(const char *what, int n, int sum, int least, int most) {
    if (sum < least || sum > most) {
        fprintf(stderr, "%s, instruction %d: %d of %d\n", what, n, sum, most);
    }
    CHECK(sum >= least && sum <= most);
}

/* Everything is where it was: no spare stands for another bucket once its key is decided on. */
static void check_given_back(struct bench *b) {
    CHECK_EQUAL(bench_ask(b, "hot", 1), OUTCOME_DENIED);
    for (uint32_t i = 0; i < b->table.file->layout.buckets; i++) {
        CHECK(!(atomic_load(&b->table.file->buckets[i].lock.word) & SHARED_MOVED));
    }
}

/* The holder goes on until it holds the bucket of "hot" once more. */
static void hold_again(struct bench *b, pid_t holder, uint32_t number) {
    struct shared_bucket *hot = hot_bucket(b);
    bool released = false;
    for (int n = 0; n < 20000 && child_step(holder); n++) {
        bool holds = shared_holder(atomic_load(&hot->lock.word)) == number;
        if (released && holds) {
            return;
        }
        released |= !holds;
    }
    CHECK(!"the holder has held the bucket again");
}

/* The robber stands at each of its instructions, while the holder goes on: two decisions later it holds the bucket by the same word as
 * before, since either place of the state holds again. */
static void check_holder_that_goes_on(int rules, int stride) {
    static const char what[] = "the holder goes on";
    struct said *said = said_new(), *robber_said = said_new();
    struct bench b;
    int n = 0, same = 0;
    bench_open(&b, GCRA, QUOTA, rules);
    for (bool alive = true; alive; n += stride) {
        shared_table_clear(&b.table, &b.error);
        fill(&b, 4);
        atomic_store(&said->admitted, 0);
        atomic_store(&robber_said->admitted, 0);
        int own = bench_ask(&b, "hot", 1) == OUTCOME_ADMITTED;
        pid_t holder = stand_holding_of(&b, said, "hot", 4);
        uint32_t number = shared_holder(hot_word(&b));
        pid_t robber = stand_robbing(&b, robber_said, "hot");
        uint64_t word = hot_word(&b);
        alive = child_steps(robber, robber_said, n);
        if (hot_word(&b) == word) {
            hold_again(&b, holder, number);
            hold_again(&b, holder, number);
            CHECK_EQUAL(hot_word(&b) & ~SHARED_SLEEPERS, word & ~SHARED_SLEEPERS);
            same++;
            child_finish(robber);
            child_finish(holder);
        } else { /* it is robbed already, and its next decisions are made while the robber stands in the middle of its own */
            child_finish(holder);
            child_finish(robber);
        }
        own += bench_exhaust(&b, "hot", 2 * QUOTA);
        check_sum(what, n, own + atomic_load(&said->admitted) + atomic_load(&robber_said->admitted), QUOTA, QUOTA);
        check_given_back(&b);
    }
    CHECK(same > 0);
    fprintf(stderr, "  %s, %d rules: %d instructions, the same word again %d times\n", what, rules, n, same);
    bench_close(&b);
    said_free(said);
    said_free(robber_said);
}

/* The robber is killed or left standing at each of its instructions; this process goes on at once. The spares that it used are free
 * again: there are four, and this uses one for each instruction. */
static void check_robber(enum algorithm_id algorithm, int rules, int others, enum fate fate, int stride) {
    const char *what = fate == KILLED ? "a robber is killed" : "a robber is left standing";
    struct said *said = said_new(), *robber_said = said_new();
    int64_t longest = 0;
    struct bench b;
    int n = 0;
    bench_open(&b, algorithm, QUOTA, rules);
    for (bool alive = true; alive; n += stride) {
        shared_table_clear(&b.table, &b.error);
        fill(&b, others);
        atomic_store(&said->admitted, 0);
        atomic_store(&robber_said->admitted, 0);
        int own = bench_ask(&b, "hot", 1) == OUTCOME_ADMITTED;
        pid_t holder = stand_holding(&b, said, "hot");
        pid_t robber = stand_robbing(&b, robber_said, "hot");
        alive = child_steps(robber, robber_said, n);
        if (fate == KILLED) {
            child_kill(robber);
        }
        check_seen(&b, what, n, 1, 2);
        int64_t start = bench_now();
        own += bench_exhaust(&b, "hot", 2 * QUOTA);
        int64_t took = bench_now() - start;
        longest = took > longest ? took : longest;
        check_seen(&b, what, n, QUOTA, QUOTA);
        if (fate == LEFT_STANDING && n % 2 == 0) {
            child_finish(robber);
        }
        child_finish(holder);
        if (fate == LEFT_STANDING && n % 2 == 1) {
            child_finish(robber);
        }
        /* One that was killed may have been admitted and not have got to say so. */
        check_sum(what, n, own + atomic_load(&said->admitted) + atomic_load(&robber_said->admitted),
                  fate == KILLED ? QUOTA - 1 : QUOTA, QUOTA);
        check_given_back(&b);
    }
    CHECK(longest < NS_PER_S);
    fprintf(stderr, "  %s, %d rules: %d instructions, at most %.1f ms\n", what, rules, n, (double)longest / NS_PER_MS);
    bench_close(&b);
    said_free(said);
    said_free(robber_said);
}

/* A robber was killed as soon as the bucket was no longer the holder's. The next process has the rest to do, and is itself killed or left
 * standing at each instruction of it; the holder is still there, or has gone. */
static void check_successor(enum fate fate, bool holder_is_gone, int stride) {
    const char *what = fate == KILLED ? "a successor is killed" : "a successor is left standing";
    struct said *said = said_new(), *other_said = said_new();
    int64_t longest = 0;
    struct bench b;
    int n = 0;
    bench_open(&b, TOKEN_BUCKET, QUOTA, 2);
    for (bool alive = true; alive; n += stride) {
        shared_table_clear(&b.table, &b.error);
        fill(&b, 4);
        atomic_store(&said->admitted, 0);
        atomic_store(&other_said->admitted, 0);
        int own = bench_ask(&b, "hot", 1) == OUTCOME_ADMITTED;
        pid_t holder = stand_holding(&b, said, "hot");
        pid_t robber = stand_robbing(&b, other_said, "hot");
        while (!(hot_word(&b) & SHARED_MOVED) && child_step(robber)) {
        }
        child_kill(robber);
        if (holder_is_gone) {
            child_kill(holder);
            atomic_fetch_or(&hot_bucket(&b)->lock.word, UINT64_C(1)); /* says so, see shared_bucket.h */
        }
        pid_t successor = child_start(&b, other_said, "hot", 2);
        alive = child_steps(successor, other_said, n);
        if (fate == KILLED) {
            child_kill(successor);
        }
        check_seen(&b, what, n, 1, 2);
        int64_t start = bench_now();
        own += bench_exhaust(&b, "hot", 2 * QUOTA);
        int64_t took = bench_now() - start;
        longest = took > longest ? took : longest;
        if (fate == LEFT_STANDING) {
            child_finish(successor);
        }
        if (!holder_is_gone) {
            child_finish(holder);
        }
        check_sum(what, n, own + atomic_load(&said->admitted) + atomic_load(&other_said->admitted),
                  fate == KILLED ? QUOTA - 1 : QUOTA, QUOTA);
        check_given_back(&b);
    }
    CHECK(longest < NS_PER_S);
    fprintf(stderr, "  %s, %s: %d instructions, at most %.1f ms\n", what,
            holder_is_gone ? "the holder is gone" : "the holder stands", n, (double)longest / NS_PER_MS);
    bench_close(&b);
    said_free(said);
    said_free(other_said);
}

/* A child has read that a spare stands for its bucket, and is held up. By the time it comes to the spare, that one stands for another
 * bucket, and a second spare for the first: it must not decide there. */
static void check_spare_that_is_used_again(void) {
    struct said *said = said_new(), *late_said = said_new();
    struct user_regs_struct registers;
    struct bench b;
    char other[32];
    bench_open(&b, GCRA, QUOTA, 1);
    for (int i = 0; i == 0 || bench_bucket(&b, other) == bench_bucket(&b, "hot"); i++) {
        snprintf(other, sizeof other, "other-%d", i);
    }
    pid_t holder = stand_holding(&b, said, "hot");
    CHECK_EQUAL(bench_exhaust(&b, "hot", 2 * QUOTA), QUOTA);
    uint32_t spare = shared_holder(hot_word(&b));
    struct shared_lock *lock = &b.table.file->buckets[spare].lock;
    pid_t late = child_start(&b, late_said, "hot", 2);
    do {
        CHECK(child_run_until(late, (uintptr_t)&shared_lock_take, &registers));
    } while (registers.rdi != (uintptr_t)lock && registers.rsi != (uintptr_t)lock && child_step(late));
    child_finish(holder);
    check_given_back(&b);
    pid_t first = stand_holding(&b, said, other);
    CHECK_EQUAL(bench_ask(&b, other, 1), OUTCOME_ADMITTED);
    CHECK_EQUAL(shared_holder(atomic_load(&b.table.file->buckets[bench_bucket(&b, other)].lock.word)), spare);
    pid_t second = stand_holding(&b, said, other);
    CHECK_EQUAL(bench_ask(&b, other, 1), OUTCOME_ADMITTED);
    CHECK(atomic_load(&lock->word) & SHARED_MOVED);
    child_finish(late);
    CHECK_EQUAL(atomic_load(&late_said->admitted), 0);
    child_finish(second);
    child_finish(first);
    bench_close(&b);
    said_free(said);
    said_free(late_said);
}

static void check_stepping(void) {
    check_spare_that_is_used_again();
    /* Each instruction takes minutes; a part of them, spread evenly, some seconds. */
    int part = getenv("HEADWAY_EVERY_INSTRUCTION") != NULL ? 0 : 1;
    check_holder_that_goes_on(1, 1 + 36 * part);
    check_holder_that_goes_on(3, 1 + 96 * part);
    check_robber(GCRA, 1, 0, KILLED, 1 + 28 * part);
    check_robber(TOKEN_BUCKET, 3, 8, KILLED, 1 + 130 * part);
    check_robber(GCRA, 1, 0, LEFT_STANDING, 1 + 28 * part);
    check_robber(SLIDING_WINDOW, 3, 8, LEFT_STANDING, 1 + 130 * part);
    check_successor(KILLED, false, 1 + 70 * part);
    check_successor(KILLED, true, 1 + 70 * part);
    check_successor(LEFT_STANDING, false, 1 + 70 * part);
    check_successor(LEFT_STANDING, true, 1 + 70 * part);
}

#endif

int main(void) {
    clock_start();
    fork_start();
#if STEPPING
    check_stepping();
#endif
    return check_end("test_shared_robbed");
}
