/* Taking and releasing a lock between processes: see shared_lock.h. */
#include "shared_lock.h"

#include <time.h>

#include "clock.h"

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Two short looks, then long pauses: two processes pass the cache line to and fro quickly, and the others stay away while they do. Four
 * processes on one key, million decisions a second on a busy machine: 5 with pauses that double from 1, 13 with 100, 17 like this. */
#define LOOKS 2
#define PAUSES 60
#define SPINS 40 /* rounds of a caller who may sleep afterwards; some 60 us */
#define SPINS_BRIEF 14
#define NAP_NS NS_PER_MS              /* the longest sleep: a wake-up may have died with who was to give it */
#define LOOK_AFTER_NS (NS_PER_MS / 2) /* from then on it is asked whether the holder lives */

/* ---- sleeping: on the half of the word that says who holds it ---- */

#if defined(__linux__)

static uint32_t *upper_half(struct shared_lock *l) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return (uint32_t *)(void *)&l->word + 1;
#else
    return (uint32_t *)(void *)&l->word;
#endif
}

static void nap(struct shared_lock *l, uint64_t word) {
    struct timespec longest = {.tv_sec = 0, .tv_nsec = NAP_NS};
    syscall(SYS_futex, upper_half(l), FUTEX_WAIT, (uint32_t)(word >> 32), &longest, NULL, 0);
}

static void wake(struct shared_lock *l, int count) {
    syscall(SYS_futex, upper_half(l), FUTEX_WAKE, count, NULL, NULL, 0);
}

#else

static void nap(struct shared_lock *l, uint64_t word) {
    struct timespec moment = {.tv_sec = 0, .tv_nsec = NAP_NS / 20};
    if (atomic_load_explicit(&l->word, memory_order_relaxed) == word) {
        nanosleep(&moment, NULL);
    }
}

static void wake(struct shared_lock *l, int count) {
    (void)l;
    (void)count;
}

#endif

/* ---- taking ---- */

static inline bool swap(struct shared_lock *l, uint64_t *expected, uint64_t desired) {
    return atomic_compare_exchange_strong_explicit(&l->word, expected, desired, memory_order_acq_rel,
                                                   memory_order_acquire);
}

/* Free, and now `me`'s? Sleepers stay noted: whoever releases wakes the next of them. */
static inline bool try_take(struct shared_lock *l, uint32_t me, uint64_t *word) {
    uint64_t taken = (*word & (SHARED_SLEEPERS | UINT32_MAX)) | (uint64_t)me << SHARED_HOLDER_SHIFT;
    if (!swap(l, word, taken)) {
        return false;
    }
    *word = taken;
    shared_lock_count_turn(l);
    return true;
}

static enum shared_turn wait_patiently(struct shared_file *f, struct shared_lock *l, uint32_t me, uint64_t *word) {
    uint32_t holder = 0, turns = 0;
    int64_t since = 0;
    bool slept = false;
    for (;;) {
        *word = atomic_load_explicit(&l->word, memory_order_acquire);
        if (*word & SHARED_MOVED) {
            return SHARED_ELSEWHERE;
        }
        if (shared_holder(*word) == 0) {
            uint64_t free = *word | (slept ? SHARED_SLEEPERS : 0); /* others may sleep as well */
            if (free != *word && !swap(l, word, free)) {
                continue;
            }
            *word = free;
            if (try_take(l, me, word)) {
                return SHARED_HELD;
            }
            continue;
        }
        uint32_t turn = atomic_load_explicit(&l->turns, memory_order_relaxed);
        int64_t now = clock_now();
        if (holder != shared_holder(*word) || turns != turn) {
            holder = shared_holder(*word);
            turns = turn;
            since = now;
        } else if (now - since >= SHARED_PATIENCE_NS) {
            return SHARED_STUCK;
        } else if (now - since >= LOOK_AFTER_NS && holder != me && !shared_lives(f, holder)) {
            if (try_take(l, me, word)) { /* from the dead: its payload holds */
                return SHARED_HELD;
            }
            continue;
        }
        if (!(*word & SHARED_SLEEPERS) && !swap(l, word, *word | SHARED_SLEEPERS)) {
            continue;
        }
        slept = true;
        nap(l, *word | SHARED_SLEEPERS);
    }
}

enum shared_turn shared_lock_take(struct shared_file *f, struct shared_lock *l, uint32_t me, bool patient,
                                  uint64_t *word) {
    *word = atomic_load_explicit(&l->word, memory_order_acquire);
    for (int round = 0; round < (patient ? SPINS : SPINS_BRIEF); round++) {
        if (*word & SHARED_MOVED) {
            return SHARED_ELSEWHERE;
        }
        if (shared_holder(*word) == 0 && try_take(l, me, word)) {
            return SHARED_HELD;
        }
        for (int i = 0; i < (round < LOOKS ? 1 : PAUSES); i++) {
            shared_pause();
        }
        *word = atomic_load_explicit(&l->word, memory_order_acquire);
    }
    return patient ? wait_patiently(f, l, me, word) : SHARED_BUSY;
}

/* ---- committing ---- */

bool shared_lock_commit(struct shared_lock *l, uint64_t *word, uint32_t payload) {
    uint64_t expected = *word;
    for (;;) {
        uint64_t desired = (expected & ~(uint64_t)UINT32_MAX) | payload;
        if (swap(l, &expected, desired)) {
            *word = desired;
            return true;
        }
        if ((expected ^ *word) != SHARED_SLEEPERS) {
            return false;
        }
        *word = expected; /* somebody has gone to sleep meanwhile */
    }
}

bool shared_lock_release(struct shared_lock *l, uint64_t word, uint32_t payload) {
    uint64_t expected = word;
    while (!swap(l, &expected, payload)) {
        if ((expected ^ word) != SHARED_SLEEPERS) {
            return false;
        }
        word = expected;
    }
    if (word & SHARED_SLEEPERS) {
        wake(l, 1);
    }
    return true;
}

bool shared_lock_rob(struct shared_lock *l, uint64_t word, uint64_t instead) {
    uint64_t expected = word;
    while (!swap(l, &expected, instead)) {
        if ((expected ^ word) != SHARED_SLEEPERS) {
            return false;
        }
        word = expected;
    }
    wake(l, INT32_MAX);
    return true;
}
