/* The token bucket with float tokens: see bucket.h. */
#include "bucket.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "fork.h"
#include "wide.h"

struct bucket_line {
    struct line line;
    struct bucket *bucket;
    struct clock_listener listener;
};

#define GRAIN_BITS 32
#define MOST_GRAINS ((wide)1 << 120)
/* Costs and capacity are rounded separately; a picosecond of slack keeps `capacity` calls of 1 admissible at one instant. The arrival
 * time keeps what was taken, so the slack is given once, not every time. */
#define SLACK ((wide)1 << (GRAIN_BITS - 10))

/* ---- locks, shared by address ---- */

#define STRIPES 64
static struct {
    _Alignas(64) struct lock lock;
} stripes[STRIPES];

static struct lock *lock_of(const struct bucket *b) {
    return &stripes[((uintptr_t)b >> 6) % STRIPES].lock;
}

/* Lines of a fork's parent are recognised by their number and dropped: their waiters are not in this process. */
static void take_all(struct fork_owner *o) {
    (void)o;
    for (int i = 0; i < STRIPES; i++) {
        lock_acquire(&stripes[i].lock);
    }
}
static void give_all(struct fork_owner *o) {
    (void)o;
    for (int i = 0; i < STRIPES; i++) {
        lock_release(&stripes[i].lock);
    }
}
static _Atomic uint32_t generation;
static void renew_all(struct fork_owner *o) {
    (void)o;
    for (int i = 0; i < STRIPES; i++) {
        lock_init(&stripes[i].lock);
    }
    atomic_fetch_add(&generation, 1);
}

static _Atomic bool started;

void bucket_start(void) {
    static struct fork_owner owner = {.take = take_all, .give = give_all, .child = renew_all};
    if (!atomic_exchange(&started, true)) {
        for (int i = 0; i < STRIPES; i++) {
            lock_init(&stripes[i].lock);
        }
        fork_register(&owner);
    }
}

/* ---- arithmetic ---- */

static int64_t now_of(const struct bucket *b) {
    return b->clock == NULL ? clock_now() : atomic_load_explicit(&b->clock->now, memory_order_relaxed);
}

static wide wide_of(const uint64_t words[2]) {
    return (wide)((uwide)words[1] << 64 | words[0]);
}

static wide arrival_of(const struct bucket *b, int64_t now) {
    wide arrival = wide_of(b->arrival);
    wide at = (wide)now << GRAIN_BITS;
    return arrival > at ? arrival : at;
}

static void wide_set(uint64_t words[2], wide value) {
    words[0] = (uint64_t)value;
    words[1] = (uint64_t)(value >> 64);
}

/* How long `tokens` take to arrive. */
static wide grains_of(const struct bucket *b, double tokens) {
    long double grains = (long double)tokens * (1e9L * (1LL << GRAIN_BITS)) / b->rate;
    if (grains >= (long double)MOST_GRAINS) {
        return MOST_GRAINS;
    }
    return (wide)(grains + 0.5L);
}

/* The nanoseconds until a bucket whose arrival time that is owes nothing beyond its capacity; 0: it does not now. */
static inline int64_t wait_of(const struct bucket *b, wide arrival, int64_t now) {
    wide missing = arrival - wide_of(b->span) - ((wide)now << GRAIN_BITS);
    if (missing <= SLACK) {
        return 0;
    }
    wide ns = (missing - SLACK + ((wide)1 << GRAIN_BITS) - 1) >> GRAIN_BITS;
    return ns < INT64_MAX ? (int64_t)ns : INT64_MAX;
}

/* 0 when taken, else the nanoseconds until it can be. At most the capacity. */
static inline int64_t take(struct bucket *b, wide grains, int64_t now) {
    wide arrival = arrival_of(b, now) + grains;
    int64_t wait = wait_of(b, arrival, now);
    if (wait == 0) {
        wide_set(b->arrival, arrival);
    }
    return wait;
}

/* ---- the line ---- */

static int64_t serve(struct line *line, struct waiter *waiter, int64_t now) {
    struct bucket *b = ((struct bucket_line *)line)->bucket;
    struct bucket_waiter *w = (struct bucket_waiter *)waiter;
    if (!w->taking) {
        wide grains = grains_of(b, w->tokens);
        if (w->tokens <= b->capacity) {
            int64_t wait = take(b, grains, now);
            if (wait > 0) {
                return wait;
            }
        } else {
            wide_set(b->arrival, arrival_of(b, now) + grains);
        }
        w->taking = true;
        wide_set(w->taken, grains);
    }
    return wait_of(b, wide_of(b->arrival), now);
}

/* The line, if there is one; in a fork's child without those who were in it at the fork, since their threads are not here. */
static inline struct bucket_line *line_of(struct bucket *b) {
    struct bucket_line *l = b->line;
    if (l != NULL && l->line.generation != atomic_load_explicit(&generation, memory_order_relaxed)) {
        line_forget(&l->line);
        l->line.generation = atomic_load(&generation);
    }
    return l;
}

/* The line if somebody is in it. */
static inline struct bucket_line *waiting(struct bucket *b) {
    struct bucket_line *l = line_of(b);
    return l != NULL && l->line.head != NULL ? l : NULL;
}

static void moved(struct clock_listener *l, int64_t now) {
    struct bucket *b = ((struct bucket_line *)((char *)l - offsetof(struct bucket_line, listener)))->bucket;
    lock_acquire(lock_of(b));
    struct bucket_line *line = waiting(b);
    if (line != NULL) {
        line_serve_through(&line->line, now);
    }
    lock_release(lock_of(b));
}

static struct bucket_line *line_make(struct bucket *b) {
    struct bucket_line *l = calloc(1, sizeof *l);
    if (l != NULL) {
        l->bucket = b;
        l->line.serve = serve;
        l->line.generation = atomic_load(&generation);
        l->listener.moved = moved;
    }
    return l;
}

/* ---- calls ---- */

bool bucket_init(struct bucket *b, double capacity, double rate, struct virtual_clock *clock) {
    *b = (struct bucket){.capacity = capacity, .rate = rate, .clock = clock};
    wide_set(b->span, grains_of(b, capacity));
    if (clock != NULL) {
        b->line = line_make(b);
        if (b->line == NULL) {
            return false;
        }
        virtual_clock_listen(clock, &b->line->listener);
    }
    return true;
}

void bucket_destroy(struct bucket *b) {
    if (b->line != NULL && b->clock != NULL) {
        virtual_clock_ignore(b->clock, &b->line->listener);
    }
    free(b->line);
    b->line = NULL;
}

bool bucket_take(struct bucket *b, double tokens) {
    if (tokens > b->capacity) {
        return false;
    }
    bool taken = false;
    int64_t now = now_of(b);
    lock_acquire(lock_of(b));
    struct bucket_line *l = waiting(b);
    if (l != NULL) {
        line_serve(&l->line, now);
    }
    if (l == NULL || l->line.head == NULL) {
        taken = take(b, grains_of(b, tokens), now) == 0;
    }
    lock_release(lock_of(b));
    return taken;
}

double bucket_tokens(struct bucket *b) {
    int64_t now = now_of(b);
    lock_acquire(lock_of(b));
    wide debt = arrival_of(b, now) - ((wide)now << GRAIN_BITS);
    lock_release(lock_of(b));
    long double used = (long double)debt * b->rate / (1e9L * (1LL << GRAIN_BITS));
    double left = (double)(b->capacity - used);
    return left > 0 ? left : 0;
}

int bucket_wait_begin(struct bucket *b, double tokens, struct bucket_waiter *w, int64_t *until) {
    w->bucket = b;
    w->tokens = tokens;
    w->taking = false;
    w->waiter.line = NULL;
    w->waiter.served = false;
    int64_t now = now_of(b);
    int served = -1;
    lock_acquire(lock_of(b));
    struct bucket_line *l = line_of(b);
    if (l == NULL) {
        l = b->line = line_make(b);
        if (l == NULL) {
            goto done;
        }
    }
    w->waiter.due = INT64_MIN;
    line_join(&l->line, &w->waiter);
    line_serve(&l->line, now);
    served = w->waiter.served;
    *until = line_sleep_until(&w->waiter, now);
done:
    lock_release(lock_of(b));
    return served;
}

bool bucket_wait_check(struct bucket_waiter *w, int64_t *until) {
    struct bucket *b = w->bucket;
    lock_acquire(lock_of(b));
    struct bucket_line *l = line_of(b);
    if (!w->waiter.served) {
        int64_t now = now_of(b);
        if (w->waiter.line == NULL) { /* this is a fork's child */
            w->waiter.due = INT64_MIN;
            line_join(&l->line, &w->waiter);
        }
        line_serve(&l->line, now);
        *until = line_sleep_until(&w->waiter, now);
    }
    bool served = w->waiter.served;
    lock_release(lock_of(b));
    return served;
}

void bucket_wait_cancel(struct bucket_waiter *w) {
    struct bucket *b = w->bucket;
    lock_acquire(lock_of(b));
    struct bucket_line *l = line_of(b);
    int64_t now = now_of(b);
    if (w->taking) {
        wide_set(b->arrival, arrival_of(b, now) - wide_of(w->taken));
    }
    line_leave(&w->waiter, now);
    line_serve(&l->line, now);
    lock_release(lock_of(b));
}

void bucket_threads_ended(struct bucket *b) {
    lock_acquire(lock_of(b));
    if (b->line != NULL) {
        line_threads_ended(&b->line->line);
    }
    lock_release(lock_of(b));
}
