/* Waiting, and the thread that waits: see wait.h. */
#include "wait.h"

#include "clock.h"
#include "loop_link.h"
#include "remote.h"

void wait_init(struct wait *w, void (*wake)(struct waiter *self), const void *keeper) {
    waiter_init(&w->waiter, wake, keeper);
    w->ops = NULL;
    w->stage = WAIT_IDLE;
    w->refused = false;
}

/* ---- a decision of a store ---- */

static bool store_check(struct wait *w, struct module_state *m, struct kept_error *k, int64_t *until) {
    (void)m, (void)k;
    return store_wait_check(&w->store, &w->key, until);
}

static void store_cancel(struct wait *w) {
    store_wait_cancel(&w->store, &w->key);
}

static struct virtual_clock *store_clock(const struct wait *w) {
    return w->store.store->clock;
}

static const struct wait_ops store_ops = {store_check, store_cancel, store_clock};

int wait_begin_store(struct wait *w, struct store *s, const struct plan *p, const struct table_key *key, int64_t cost,
                     int64_t timeout_ns, int64_t *until) {
    w->ops = &store_ops;
    w->stage = WAIT_BEGUN;
    w->key = *key;
    if (interpreter_ends()) {
        store_threads_ended(s);
    }
    return store_wait_begin(s, p, key, cost, timeout_ns, &w->store, until);
}

/* ---- a permit of a semaphore ---- */

/* A waiter, and then its lease, has a reference to the pool and one to the holder from wait_begin_semaphore on: the thread that waits may be
 * ended, or may be the parent's of a fork, before it has taken its permit. */
static PyObject *pool_of(struct semaphore *s) {
    return (PyObject *)((PoolObject *)((char *)s - offsetof(PoolObject, semaphore)));
}

static void permit_drop(struct semaphore *s, PyObject *holder) {
    Py_DECREF(holder);
    Py_DECREF(pool_of(s));
}

/* The leases that have run out and whose holders are gone make room. */
static void end_lapsed(struct module_state *m, struct semaphore *s) {
    PyObject *holder;
    uint64_t id;
    while ((holder = semaphore_lapsed(s, &id)) != NULL) {
        PyObject *ended = semaphore_judge(s, id, holder_lives(m, holder));
        if (ended != NULL) {
            permit_drop(s, ended); /* the waiter that asks has another reference to the pool */
        }
        Py_DECREF(holder);
    }
}

static bool permit_check(struct wait *w, struct module_state *m, struct kept_error *k, int64_t *until) {
    (void)k;
    if (w->refused) {
        return true;
    }
    end_lapsed(m, w->semaphore.semaphore);
    enum semaphore_end end = semaphore_wait_check(&w->semaphore, until);
    if (end == SEMAPHORE_REFUSED) {
        w->refused = true;
        permit_drop(w->semaphore.semaphore, w->semaphore.holder);
    }
    return end != SEMAPHORE_WAITING;
}

static void permit_cancel(struct wait *w) {
    if (!w->refused) {
        semaphore_wait_cancel(&w->semaphore);
        permit_drop(w->semaphore.semaphore, w->semaphore.holder);
    }
}

static struct virtual_clock *permit_clock(const struct wait *w) {
    return w->semaphore.semaphore->clock;
}

static const struct wait_ops permit_ops = {permit_check, permit_cancel, permit_clock};

int wait_begin_semaphore(struct wait *w, struct semaphore *s, PyObject *holder, int64_t term_ns, int64_t timeout_ns,
                         int64_t *until) {
    if (interpreter_ends()) {
        semaphore_threads_ended(s);
    }
    Py_INCREF(pool_of(s));
    enum semaphore_end end = semaphore_wait_begin(s, Py_NewRef(holder), term_ns, timeout_ns, &w->semaphore, until);
    w->ops = &permit_ops;
    w->stage = end == SEMAPHORE_NO_MEMORY ? WAIT_IDLE : WAIT_BEGUN;
    w->refused = end == SEMAPHORE_REFUSED;
    if (end == SEMAPHORE_HELD || end == SEMAPHORE_WAITING) {
        return end == SEMAPHORE_HELD;
    }
    permit_drop(s, holder);
    if (end == SEMAPHORE_NO_MEMORY) {
        PyErr_NoMemory();
        return -1;
    }
    return 1;
}

/* ---- a reply of a server ---- */

/* When to look: connecting has a deadline of its own. */
static int64_t reply_deadline(const struct wait *w) {
    const struct redis_connection *c = &w->reply.link->link.connection;
    int64_t until = w->reply.request->deadline, due = connection_due(c, clock_now());
    if (c->state != CONNECTION_READY) {
        until = due + NS_PER_MS < until ? due + NS_PER_MS : until;
    }
    return until;
}

static bool reply_check(struct wait *w, struct module_state *m, struct kept_error *k, int64_t *until) {
    (void)m;
    struct redis_request *r = w->reply.request;
    if (r->end == REQUEST_OPEN && clock_now() >= reply_deadline(w)) {
        loop_link_step(w->reply.link, false, k);
    }
    int64_t next = reply_deadline(w), soon = clock_now() + NS_PER_MS;
    *until = next > soon ? next : soon;
    return r->end != REQUEST_OPEN;
}

static void reply_cancel(struct wait *w) {
    struct redis_request *r = w->reply.request;
    LoopLinkObject *link = w->reply.link;
    w->reply.request = NULL;
    w->reply.link = NULL;
    loop_link_abandon(link, r, w->reply.remote != NULL ? remote_undo(w->reply.remote) : NULL);
    Py_DECREF(link);
}

static struct virtual_clock *real_clock(const struct wait *w) {
    (void)w;
    return NULL;
}

static const struct wait_ops reply_ops = {reply_check, reply_cancel, real_clock};

int wait_begin_reply(struct task_wait_object *t, struct loop_link_object *link, struct redis_request *r,
                     struct remote *remote, int64_t *until) {
    struct wait *w = &t->wait;
    if (loop_link_submit(link, r, t) < 0) {
        request_free(r);
        return -1;
    }
    w->ops = &reply_ops;
    w->stage = WAIT_BEGUN;
    w->reply.request = r;
    w->reply.remote = remote;
    w->reply.link = (LoopLinkObject *)Py_NewRef(link);
    *until = reply_deadline(w);
    return 0;
}

struct redis_request *wait_take_reply(struct wait *w, struct loop_link_object **link) {
    if (w->stage != WAIT_BEGUN || w->ops != &reply_ops || w->reply.request->end == REQUEST_OPEN) {
        return NULL;
    }
    struct redis_request *r = w->reply.request;
    *link = w->reply.link;
    w->reply.request = NULL;
    w->reply.link = NULL;
    w->stage = WAIT_TAKEN;
    return r;
}

/* ---- an instant ---- */

static bool instant_check(struct wait *w, struct module_state *m, struct kept_error *k, int64_t *until) {
    (void)m, (void)k;
    *until = w->instant.until;
    return clock_now() >= w->instant.until;
}

static void instant_cancel(struct wait *w) {
    (void)w;
}

static const struct wait_ops instant_ops = {instant_check, instant_cancel, real_clock};

void wait_begin_instant(struct wait *w, int64_t instant_ns, int64_t *until) {
    w->ops = &instant_ops;
    w->stage = WAIT_BEGUN;
    w->instant.until = *until = instant_ns;
}

/* ---- all of them ---- */

bool wait_check(struct wait *w, struct module_state *m, struct kept_error *k, int64_t *until) {
    *until = INT64_MAX;
    return w->stage != WAIT_BEGUN || w->ops->check(w, m, k, until);
}

void wait_cancel(struct wait *w) {
    uint8_t begun = WAIT_BEGUN;
    if (atomic_compare_exchange_strong(&w->stage, &begun, WAIT_GIVEN_UP)) {
        w->ops->cancel(w);
    }
}

/* ---- threads ---- */

static void wake_thread(struct waiter *w) {
    parker_wake(&((struct thread_wait *)w)->parker);
}

struct thread_wait *thread_wait_new(void) {
    struct thread_wait *w = PyMem_RawCalloc(1, sizeof *w);
    if (w == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    wait_init(&w->wait, wake_thread, NULL);
    parker_init(&w->parker);
    return w;
}

void thread_wait_free(struct thread_wait *w) {
    parker_destroy(&w->parker);
    PyMem_RawFree(w);
}

int sleep_in_line(struct parker *parker, int64_t instant_ns) {
    enum park_end end;
    bool first = thread_is_first(); /* it alone runs Python's signal handlers */
    Py_BEGIN_ALLOW_THREADS
    end = parker_nap(parker, instant_ns, first);
    Py_END_ALLOW_THREADS
    return first || end == PARK_INTERRUPTED ? PyErr_CheckSignals() : 0;
}

int thread_wait_finish(struct module_state *m, struct thread_wait *w, int64_t until) {
    int answer = 0;
    bool timed = !wait_is_virtual(&w->wait); /* a virtual clock wakes us itself */
    struct kept_error k = {0};
    do {
        answer = sleep_in_line(&w->parker, timed ? until : PARK_FOREVER);
        if (answer < 0) {
            wait_cancel(&w->wait);
            wait_flush(m);
            break;
        }
        bool decided = wait_check(&w->wait, m, &k, &until);
        wait_flush(m);
        if (decided) {
            break;
        }
    } while (true);
    return answer;
}
