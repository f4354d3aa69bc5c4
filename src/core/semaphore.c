/* Semaphores of leases: see semaphore.h. */
#include "semaphore.h"

#include <stddef.h>
#include <stdlib.h>

#include "clock.h"

#define FIRST_BUCKETS 8

static int64_t instant(const struct semaphore *s) {
    return s->clock == NULL ? clock_now() : atomic_load_explicit(&s->clock->now, memory_order_relaxed);
}

static int64_t later(int64_t now, int64_t span) {
    return span > INT64_MAX - now ? INT64_MAX : now + span;
}

/* ---- leases: by number in a hash table, by expiry in a list ---- */

static struct lease **bucket_of(struct semaphore *s, uint64_t id) {
    return &s->buckets[id & (s->bucket_count - 1)];
}

/* Keeps chains short. Without memory they grow long, which is slow and not wrong. */
static void grow(struct semaphore *s) {
    uint32_t count = s->bucket_count * 2;
    struct lease **buckets = calloc(count, sizeof *buckets);
    if (buckets == NULL) {
        return;
    }
    free(s->buckets);
    s->buckets = buckets;
    s->bucket_count = count;
    for (struct lease *l = s->first; l != NULL; l = l->next) {
        struct lease **at = bucket_of(s, l->id);
        l->chain = *at;
        *at = l;
    }
}

/* Leases mostly come in the order in which they run out, so the place is found from the end. */
static void list_insert(struct semaphore *s, struct lease *l) {
    struct lease *before = s->last;
    while (before != NULL && before->expires > l->expires) {
        before = before->prev;
    }
    l->prev = before;
    l->next = before != NULL ? before->next : s->first;
    *(l->prev != NULL ? &l->prev->next : &s->first) = l;
    *(l->next != NULL ? &l->next->prev : &s->last) = l;
}

static void list_remove(struct semaphore *s, struct lease *l) {
    *(l->prev != NULL ? &l->prev->next : &s->first) = l->next;
    *(l->next != NULL ? &l->next->prev : &s->last) = l->prev;
}

static void lease_start(struct semaphore *s, struct lease *l, int64_t now) {
    if (s->held >= (int64_t)s->bucket_count && s->bucket_count < UINT32_C(1) << 24) {
        grow(s);
    }
    struct lease **at = bucket_of(s, l->id);
    l->chain = *at;
    *at = l;
    l->expires = later(now, l->term);
    list_insert(s, l);
    s->held++;
}

/* `at` is the link that leads to the lease. */
static void lease_end(struct semaphore *s, struct lease **at) {
    struct lease *l = *at;
    *at = l->chain;
    list_remove(s, l);
    s->held--;
    if (s->spare == NULL) {
        s->spare = l;
    } else {
        free(l);
    }
}

/* The link that leads to the lease, or to NULL. */
static struct lease **lease_of(struct semaphore *s, uint64_t id) {
    struct lease **at = bucket_of(s, id);
    while (*at != NULL && (*at)->id != id) {
        at = &(*at)->chain;
    }
    return at;
}

static struct lease *lease_make(struct semaphore *s, void *holder, int64_t term) {
    struct lease *l = s->spare;
    if (l != NULL) {
        s->spare = NULL;
    } else {
        l = malloc(sizeof *l);
        if (l == NULL) {
            return NULL;
        }
    }
    *l = (struct lease){.holder = holder, .id = s->next_id++, .term = term};
    return l;
}

/* ---- the line ---- */

static int64_t serve(struct line *line, struct waiter *waiter, int64_t now) {
    struct semaphore *s = (struct semaphore *)((char *)line - offsetof(struct semaphore, line));
    struct semaphore_waiter *w = (struct semaphore_waiter *)waiter;
    if (s->held < s->capacity) {
        lease_start(s, w->lease, now);
        w->lease = NULL;
        return 0;
    }
    int64_t wait = s->first->expires - now;
    return wait > 0 ? wait : 1;
}

static int64_t sleep_until(const struct semaphore_waiter *w, int64_t now) {
    int64_t until = line_sleep_until(&w->waiter, now);
    return until < w->deadline ? until : w->deadline;
}

enum semaphore_end semaphore_wait_begin(struct semaphore *s, void *holder, int64_t term_ns, int64_t timeout_ns,
                                        struct semaphore_waiter *w, int64_t *until) {
    enum semaphore_end end = SEMAPHORE_REFUSED;
    w->semaphore = s;
    w->holder = holder;
    w->lease = NULL;
    w->waiter.line = NULL;
    w->waiter.served = false;
    lock_acquire(&s->lock);
    bool open = s->held < s->capacity && s->line.head == NULL;
    if (!open && timeout_ns == 0) {
        goto done;
    }
    struct lease *l = lease_make(s, holder, term_ns);
    if (l == NULL) {
        end = SEMAPHORE_NO_MEMORY;
        goto done;
    }
    w->id = l->id;
    int64_t now = instant(s);
    if (open) {
        lease_start(s, l, now);
        w->waiter.served = true;
        end = SEMAPHORE_HELD;
        goto done;
    }
    w->lease = l;
    w->deadline = later(now, timeout_ns);
    w->waiter.due = INT64_MAX;
    line_join(&s->line, &w->waiter);
    line_serve(&s->line, now);
    if (w->waiter.served) {
        end = SEMAPHORE_HELD;
    } else {
        end = SEMAPHORE_WAITING;
        *until = sleep_until(w, now);
    }
done:
    lock_release(&s->lock);
    return end;
}

enum semaphore_end semaphore_wait_check(struct semaphore_waiter *w, int64_t *until) {
    struct semaphore *s = w->semaphore;
    enum semaphore_end end = SEMAPHORE_HELD;
    lock_acquire(&s->lock);
    int64_t now = instant(s);
    if (!w->waiter.served) {
        if (w->waiter.line == NULL) { /* in a fork's child, whose line is new: this one waits on */
            w->waiter.due = INT64_MAX;
            line_join(&s->line, &w->waiter);
        }
        line_serve(&s->line, now);
    }
    if (!w->waiter.served) {
        if (now >= w->deadline) {
            line_leave(&w->waiter, now);
            free(w->lease);
            w->lease = NULL;
            end = SEMAPHORE_REFUSED;
        } else {
            *until = sleep_until(w, now);
            end = SEMAPHORE_WAITING;
        }
    }
    lock_release(&s->lock);
    return end;
}

void semaphore_wait_cancel(struct semaphore_waiter *w) {
    struct semaphore *s = w->semaphore;
    lock_acquire(&s->lock);
    int64_t now = instant(s);
    if (w->waiter.served) {
        struct lease **at = lease_of(s, w->id);
        if (*at != NULL) {
            lease_end(s, at);
            line_serve(&s->line, now);
        }
    } else {
        line_leave(&w->waiter, now);
        free(w->lease);
        w->lease = NULL;
    }
    lock_release(&s->lock);
}

void semaphore_threads_ended(struct semaphore *s) {
    lock_acquire(&s->lock);
    line_threads_ended(&s->line);
    lock_release(&s->lock);
}

void *semaphore_release(struct semaphore *s, uint64_t id) {
    lock_acquire(&s->lock);
    struct lease **at = lease_of(s, id);
    void *holder = *at == NULL ? NULL : (*at)->holder;
    if (holder != NULL) {
        lease_end(s, at);
        if (s->line.head != NULL) {
            line_serve(&s->line, instant(s));
        }
    }
    lock_release(&s->lock);
    return holder;
}

bool semaphore_has(struct semaphore *s, uint64_t id) {
    lock_acquire(&s->lock);
    bool has = *lease_of(s, id) != NULL;
    lock_release(&s->lock);
    return has;
}

/* ---- the holders' lives ---- */

void *semaphore_lapsed(struct semaphore *s, uint64_t *id) {
    void *holder = NULL;
    lock_acquire(&s->lock);
    if (s->line.head != NULL && s->held >= s->capacity && s->first->expires <= instant(s)) {
        holder = s->first->holder;
        *id = s->first->id;
        s->keep(holder);
    }
    lock_release(&s->lock);
    return holder;
}

void *semaphore_judge(struct semaphore *s, uint64_t id, bool lives) {
    void *ended = NULL;
    lock_acquire(&s->lock);
    int64_t now = instant(s);
    struct lease **at = lease_of(s, id);
    struct lease *l = *at;
    if (l != NULL && l->expires <= now) {
        if (lives) {
            list_remove(s, l);
            l->expires = later(now, l->term);
            list_insert(s, l);
        } else {
            ended = l->holder;
            lease_end(s, at);
            line_serve(&s->line, now);
        }
    }
    lock_release(&s->lock);
    return ended;
}

/* ---- life ---- */

static void clock_moved(struct clock_listener *listener, int64_t now) {
    struct semaphore *s = (struct semaphore *)((char *)listener - offsetof(struct semaphore, listener));
    (void)now;
    lock_acquire(&s->lock);
    for (struct waiter *w = s->line.head; w != NULL; w = w->next) {
        w->wake(w); /* to see to the leases that have run out, and to its own deadline */
    }
    lock_release(&s->lock);
}

static struct semaphore *of_fork(struct fork_owner *o) {
    return (struct semaphore *)((char *)o - offsetof(struct semaphore, fork));
}

static void fork_take(struct fork_owner *o) {
    lock_acquire(&of_fork(o)->lock);
}

static void fork_give(struct fork_owner *o) {
    lock_release(&of_fork(o)->lock);
}

/* The child holds what the forking thread held. Everybody else is gone, which the next who needs a permit will find. What waits goes on to
 * wait when it checks. */
static void fork_child(struct fork_owner *o) {
    struct semaphore *s = of_fork(o);
    lock_init(&s->lock);
    line_forget(&s->line);
    for (struct lease *l = s->first; l != NULL; l = l->next) {
        l->expires = 0;
    }
}

bool semaphore_init(struct semaphore *s, int64_t capacity, struct virtual_clock *clock, void (*keep)(void *holder)) {
    *s = (struct semaphore){.capacity = capacity, .clock = clock, .keep = keep, .bucket_count = FIRST_BUCKETS};
    lock_init(&s->lock);
    s->line.serve = serve;
    s->buckets = calloc(FIRST_BUCKETS, sizeof *s->buckets);
    if (s->buckets == NULL) {
        return false;
    }
    s->listener.moved = clock_moved;
    if (clock != NULL) {
        virtual_clock_listen(clock, &s->listener);
    }
    s->fork = (struct fork_owner){.take = fork_take, .give = fork_give, .child = fork_child};
    fork_register(&s->fork);
    return true;
}

void semaphore_destroy(struct semaphore *s, void (*drop)(void *holder)) {
    fork_forget(&s->fork);
    if (s->clock != NULL) {
        virtual_clock_ignore(s->clock, &s->listener);
    }
    while (s->first != NULL) {
        struct lease *l = s->first;
        s->first = l->next;
        drop(l->holder);
        free(l);
    }
    free(s->spare);
    free(s->buckets);
}
