/* A lock in one word, and a place for a thread to sleep.
 *
 * On Linux both are a futex: four bytes a lock, so that a shard's lock lies in the cache line of what it guards, and a sleep
 * until an absolute instant that a signal interrupts. Elsewhere pthreads serve. Critical sections are short and never
 * make a system call. */
#ifndef HEADWAY_LOCK_H
#define HEADWAY_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#if defined(__linux__)

struct lock {
    _Atomic uint32_t word; /* 0 free, 1 held, 2 held and somebody sleeps */
};

void lock_wait(struct lock *l);
void lock_wake(struct lock *l);

static inline void lock_init(struct lock *l) {
    atomic_store_explicit(&l->word, 0, memory_order_relaxed);
}
static inline bool lock_try(struct lock *l) {
    uint32_t free = 0;
    return atomic_compare_exchange_strong_explicit(&l->word, &free, 1, memory_order_acquire, memory_order_relaxed);
}
static inline void lock_acquire(struct lock *l) {
    if (!lock_try(l)) {
        lock_wait(l);
    }
}
static inline void lock_release(struct lock *l) {
    if (atomic_exchange_explicit(&l->word, 0, memory_order_release) == 2) {
        lock_wake(l);
    }
}

struct parker {
    _Atomic uint32_t token;
};

#else

#include <pthread.h>

struct lock {
    pthread_mutex_t mutex;
};
void lock_init(struct lock *l);
static inline bool lock_try(struct lock *l) {
    return pthread_mutex_trylock(&l->mutex) == 0;
}
static inline void lock_acquire(struct lock *l) {
    pthread_mutex_lock(&l->mutex);
}
static inline void lock_release(struct lock *l) {
    pthread_mutex_unlock(&l->mutex);
}

struct parker {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool token;
};

#endif

#define PARK_FOREVER INT64_MAX

enum park_end { PARK_WOKEN, PARK_TIMEOUT, PARK_INTERRUPTED };

void parker_init(struct parker *p);
void parker_destroy(struct parker *p);

/* Sleeps until parker_wake, until `instant_ns` (on headway's clock; PARK_FOREVER for no end), or until a signal arrives. A wake
 * that came first is not lost. Never returns PARK_TIMEOUT early. Call it without any lock and without the GIL. */
enum park_end parker_sleep(struct parker *p, int64_t instant_ns);

/* A signal that comes after a thread's last look and before the kernel has put it to sleep, or that the kernel hands to another thread,
 * does not end the sleep. So a thread that runs signal handlers looks for them at least this often. */
#define SIGNAL_SLICE_NS INT64_C(25000000)

/* The same, but of a thread that looks for signals no longer than SIGNAL_SLICE_NS at a time: then PARK_INTERRUPTED. */
enum park_end parker_nap(struct parker *p, int64_t instant_ns, bool looks);

/* Is this the thread that the process began with, where Python runs its signal handlers? */
bool thread_is_first(void);

/* Wakes the sleeper, or the next sleep. Any thread, any lock held. */
void parker_wake(struct parker *p);

#endif
