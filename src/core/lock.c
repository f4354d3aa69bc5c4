/* Locks and parkers: see lock.h. */
#include "lock.h"

#include <errno.h>
#include <limits.h>
#include <time.h>

#include "clock.h"

static struct timespec monotonic_time(int64_t instant_ns) {
    int64_t ns = clock_to_monotonic(instant_ns);
    if (ns < 0) {
        ns = 0;
    }
    return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}

#if defined(__linux__)

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

/* FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC time. */
static int futex_wait(_Atomic uint32_t *word, uint32_t expected, const struct timespec *until) {
    return (int)syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expected, until, NULL,
                        FUTEX_BITSET_MATCH_ANY);
}

static void futex_wake(_Atomic uint32_t *word, int count) {
    syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, count, NULL, NULL, 0);
}

void lock_wait(struct lock *l) {
    while (atomic_exchange_explicit(&l->word, 2, memory_order_acquire) != 0) {
        futex_wait(&l->word, 2, NULL);
    }
}

void lock_wake(struct lock *l) {
    futex_wake(&l->word, 1);
}

bool thread_is_first(void) {
    return syscall(SYS_gettid) == getpid();
}

void parker_init(struct parker *p) {
    atomic_store_explicit(&p->token, 0, memory_order_relaxed);
}

void parker_destroy(struct parker *p) {
    (void)p;
}

enum park_end parker_sleep(struct parker *p, int64_t instant_ns) {
    struct timespec until, *deadline = NULL;
    if (instant_ns != PARK_FOREVER) {
        until = monotonic_time(instant_ns);
        deadline = &until;
    }
    while (atomic_exchange_explicit(&p->token, 0, memory_order_acquire) == 0) {
        if (futex_wait(&p->token, 0, deadline) != 0) {
            if (errno == ETIMEDOUT) {
                return PARK_TIMEOUT;
            }
            if (errno == EINTR) {
                return PARK_INTERRUPTED;
            }
        }
    }
    return PARK_WOKEN;
}

void parker_wake(struct parker *p) {
    atomic_store_explicit(&p->token, 1, memory_order_release);
    futex_wake(&p->token, 1);
}

#else

bool thread_is_first(void) {
#if defined(__APPLE__)
    return pthread_main_np() != 0;
#else
    return true;
#endif
}

void lock_init(struct lock *l) {
    pthread_mutex_init(&l->mutex, NULL);
}

void parker_init(struct parker *p) {
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->cond, NULL);
    p->token = false;
}

void parker_destroy(struct parker *p) {
    pthread_cond_destroy(&p->cond);
    pthread_mutex_destroy(&p->mutex);
}

/* A condition variable does not end at a signal, so a sleep is cut into slices after which the caller looks for one. */
enum park_end parker_sleep(struct parker *p, int64_t instant_ns) {
    enum park_end end = PARK_WOKEN;
    int64_t slice_end = clock_now() + SIGNAL_SLICE_NS;
    int64_t until = instant_ns < slice_end ? instant_ns : slice_end;
    pthread_mutex_lock(&p->mutex);
    while (!p->token) {
        int64_t left = until - clock_now();
        if (left <= 0) {
            end = until == instant_ns ? PARK_TIMEOUT : PARK_INTERRUPTED;
            break;
        }
        struct timespec at;
        clock_gettime(CLOCK_REALTIME, &at);
        int64_t ns = (int64_t)at.tv_sec * NS_PER_S + at.tv_nsec + left;
        at = (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
        pthread_cond_timedwait(&p->cond, &p->mutex, &at);
    }
    p->token = false;
    pthread_mutex_unlock(&p->mutex);
    (void)monotonic_time;
    return end;
}

void parker_wake(struct parker *p) {
    pthread_mutex_lock(&p->mutex);
    p->token = true;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->mutex);
}

#endif

enum park_end parker_nap(struct parker *p, int64_t instant_ns, bool looks) {
    int64_t slice_end = looks ? clock_now() + SIGNAL_SLICE_NS : INT64_MAX;
    if (slice_end >= instant_ns) {
        return parker_sleep(p, instant_ns);
    }
    enum park_end end = parker_sleep(p, slice_end);
    return end == PARK_TIMEOUT ? PARK_INTERRUPTED : end;
}
