/* Waiting in a line of the core. What is waited for (a decision of a store, a permit of a semaphore) is kept apart from who
 * waits (a thread, a task of an event loop): `struct wait` is the former, and whoever embeds one is the latter.
 *
 * Whatever may serve a line may wake tasks, and a task is woken by Python code of its loop, which must not run under a lock. So a task
 * that is woken is put on a list, and whoever has called into the core calls wait_flush afterwards. */
#ifndef HEADWAY_WAIT_H
#define HEADWAY_WAIT_H

#include "kept_error.h"
#include "module.h"

struct wait;

/* What the kinds of waiting differ in. */
struct wait_ops {
    /* True: decided; else look again at *until at the latest. Runs Python code; what that raises is kept. */
    bool (*check)(struct wait *w, struct module_state *m, struct kept_error *k, int64_t *until);
    /* Leaves the line; what was just handed over is given back. */
    void (*cancel)(struct wait *w);
    /* NULL: real time. */
    struct virtual_clock *(*clock)(const struct wait *w);
};

enum wait_stage {
    WAIT_IDLE,     /* has not begun */
    WAIT_BEGUN,    /* in line; or decided, and what was decided is not handed over yet */
    WAIT_TAKEN,    /* what was decided has been handed over */
    WAIT_GIVEN_UP, /* left */
};

struct wait {
    union {
        struct waiter waiter;
        struct store_waiter store;
        struct semaphore_waiter semaphore;
        struct { /* a reply of a server */
            struct waiter waiter;
            struct redis_request *request; /* owned; NULL: taken, or given up */
            struct loop_link_object *link; /* owned */
            struct remote *remote;         /* whose request it is, until the reply was read; borrowed */
        } reply;
        struct { /* an instant, for what was reserved */
            struct waiter waiter;
            int64_t until;
        } instant;
    };
    struct table_key key; /* the store's, borrowed */
    const struct wait_ops *ops;
    _Atomic uint8_t stage; /* an enum wait_stage; two threads may give up: who drops the loop, and who drops the call */
    bool refused;          /* by the semaphore */
};

void wait_init(struct wait *w, void (*wake)(struct waiter *self), const void *keeper);

/* 1: decided, 0: in line, sleep until *until at most. -1: an exception, and nothing has begun. After wait_init. */
int wait_begin_store(struct wait *w, struct store *s, const struct plan *p, const struct table_key *key, int64_t cost,
                     int64_t timeout_ns, int64_t *until);
/* A reference to `holder` and one to the pool are taken. */
int wait_begin_semaphore(struct wait *w, struct semaphore *s, PyObject *holder, int64_t term_ns, int64_t timeout_ns,
                         int64_t *until);

/* Owns the request and a reference to the link from here on; `t` sleeps on it. -1: an exception. */
int wait_begin_reply(struct task_wait_object *t, struct loop_link_object *link, struct redis_request *r,
                     struct remote *remote, int64_t *until);
void wait_begin_instant(struct wait *w, int64_t instant_ns, int64_t *until);

/* After waking up: whether nothing is waited for any more; see `check`. */
bool wait_check(struct wait *w, struct module_state *m, struct kept_error *k, int64_t *until);

/* What was decided is the caller's. */
static inline void wait_take(struct wait *w) {
    w->stage = WAIT_TAKEN;
}
/* The request, whose reply has come or will not come, and the link (a reference) to which it belongs; NULL: it was given up. */
struct redis_request *wait_take_reply(struct wait *w, struct loop_link_object **link);

/* Leaves the line, if it is in one; what was just handed over is given back. */
void wait_cancel(struct wait *w);

static inline bool wait_is_virtual(const struct wait *w) {
    return w->stage == WAIT_BEGUN && w->ops->clock(w) != NULL;
}

/* ---- threads ---- */

struct thread_wait {
    struct wait wait;
    struct parker parker;
};

/* Never on the thread's stack: when the interpreter ends, it ends daemon threads in their sleep, and their waiters are still in line.
 * NULL: an exception. */
struct thread_wait *thread_wait_new(void);
void thread_wait_free(struct thread_wait *w);
/* Sleeps, without the GIL, until it is decided. -1 when a signal handler raised: then nothing is kept. */
int thread_wait_finish(struct module_state *m, struct thread_wait *w, int64_t until);

/* ---- tasks ---- */

/* The module's list of woken tasks. */
void wait_start(struct module_state *m);
void wait_stop(struct module_state *m);

/* Wakes the tasks that were served. Call it after any call into the core, without locks; keeps an exception that is set, and defers (see
 * kept_error.h) what the Python code raises that it may have to run. */
void wait_flush_now(struct module_state *m);
static inline void wait_flush(struct module_state *m) {
    if (atomic_load_explicit(&m->woken, memory_order_relaxed) != NULL) {
        wait_flush_now(m);
    }
}

#endif
