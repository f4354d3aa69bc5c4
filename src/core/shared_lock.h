/* A lock between processes that outlives whoever holds it, and commits by being released.
 *
 * The lock is one word: who holds it, and 32 bits of the user's own, the payload. To release is to compare and swap
 * (holder, payload) for (nobody, new payload). So what the payload says changes at one instant or not at all:
 *
 *   - A holder that is killed leaves the payload as it was. Whoever comes next sees that it is dead and takes the lock over. If
 *     holders write only where the payload says that nothing is, nothing needs repair.
 *   - A holder that is stopped may be robbed: its word is swapped for one that says where to go on (MOVED). Its own release fails
 *     then, and it knows that nothing of what it did has counted. It may still write for a moment, so the robber goes on elsewhere.
 *
 * Bits 0..31 are the payload, 32 says that somebody sleeps, 33 is MOVED, 34..63 are the holder's number (see shared_file.h). */
#ifndef HEADWAY_SHARED_LOCK_H
#define HEADWAY_SHARED_LOCK_H

#include "shared_file.h"

#define SHARED_SLEEPERS (UINT64_C(1) << 32)
#define SHARED_MOVED (UINT64_C(1) << 33)
#define SHARED_HOLDER_SHIFT 34
#define SHARED_PATIENCE_NS INT64_C(20000000) /* a holder that stands still for so long is stopped */

struct shared_lock {
    _Atomic uint64_t word;
    _Atomic uint32_t
        turns; /* counts who has held it, so that a holder that stands still is told from one that comes often */
    _Atomic uint32_t own; /* the user's, for whatever the holder may write; one that was robbed may still be writing */
};

enum shared_turn {
    SHARED_HELD,
    SHARED_BUSY,      /* not free soon, and the caller is not patient */
    SHARED_STUCK,     /* the holder lives and has stood still for SHARED_PATIENCE_NS: *word is its */
    SHARED_ELSEWHERE, /* MOVED: *word says where */
};

static inline uint32_t shared_holder(uint64_t word) {
    return (uint32_t)(word >> SHARED_HOLDER_SHIFT);
}
static inline uint64_t shared_word(uint32_t holder, uint32_t payload) {
    return (uint64_t)holder << SHARED_HOLDER_SHIFT | payload;
}

/* The caller has just taken the lock, which no other process counts therefore. */
static inline void shared_lock_count_turn(struct shared_lock *l) {
    uint32_t turns = atomic_load_explicit(&l->turns, memory_order_relaxed);
    atomic_store_explicit(&l->turns, turns + 1, memory_order_relaxed);
}

/* Takes the lock for process `me`; *word is then what the holder passes on, its low half the payload. Not `patient`: spins for some
 * twenty microseconds at most; else sleeps, so call it without the GIL: it comes back within about SHARED_PATIENCE_NS of a holder that
 * stands still. Sets *word in any case. */
enum shared_turn shared_lock_take(struct shared_file *f, struct shared_lock *l, uint32_t me, bool patient,
                                  uint64_t *word);

/* The usual case, which needs no more than this: the lock is free. */
static inline bool shared_lock_try(struct shared_lock *l, uint32_t me, uint64_t *word) {
    uint64_t free = atomic_load_explicit(&l->word, memory_order_relaxed);
    if (free > UINT32_MAX) {
        return false;
    }
    *word = free | (uint64_t)me << SHARED_HOLDER_SHIFT;
    if (!atomic_compare_exchange_strong_explicit(&l->word, &free, *word, memory_order_acquire, memory_order_relaxed)) {
        return false;
    }
    shared_lock_count_turn(l);
    return true;
}
static inline bool shared_lock_try_release(struct shared_lock *l, uint64_t word, uint32_t payload) {
    return !(word & SHARED_SLEEPERS) && atomic_compare_exchange_strong_explicit(
                                            &l->word, &word, payload, memory_order_release, memory_order_relaxed);
}

/* Makes `payload` hold, and keeps the lock. False: robbed; nothing has changed, and the lock is no longer the caller's. */
bool shared_lock_commit(struct shared_lock *l, uint64_t *word, uint32_t payload);

/* The same, and releases. */
bool shared_lock_release(struct shared_lock *l, uint64_t word, uint32_t payload);

/* Robs the holder that `word` names: swaps the word for `instead`, and wakes who sleeps. False: it has moved on. */
bool shared_lock_rob(struct shared_lock *l, uint64_t word, uint64_t instead);

/* Waits a moment, with the processor's help. */
static inline void shared_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

#endif
