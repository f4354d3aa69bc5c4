/* Waiting, and the thread that waits: see wait.h. */
#include "wait.h"

#include "clock.h"
#include "loop_link.h"
#include "remote.h"

int wait_begin_store(struct wait *w, struct store *s, const struct plan *p, const struct table_key *key, int64_t cost,
                     int64_t timeout_ns, int64_t *until) {
    w->kind = WAIT_STORE;
    w->key = *key;
    if (interpreter_ends()) {
        store_threads_ended(s);
    }
    return store_wait_begin(s, p, key, cost, timeout_ns, &w->store, until);
}

int wait_begin_semaphore(struct wait *w, struct semaphore *s, PyObject *holder, int64_t term_ns, int64_t timeout_ns,
                         int64_t *until) {
    w->kind = WAIT_SEMAPHORE;
    if (interpreter_ends()) {
        semaphore_threads_ended(s);
    }
    enum semaphore_end end = semaphore_wait_begin(s, Py_NewRef(holder), term_ns, timeout_ns, &w->semaphore, until);
    w->refused = end == SEMAPHORE_REFUSED;
    if (end == SEMAPHORE_HELD || end == SEMAPHORE_WAITING) {
        return end == SEMAPHORE_HELD;
    }
    Py_DECREF(holder);
    if (end == SEMAPHORE_NO_MEMORY) {
        PyErr_NoMemory();
        return -1;
    }
    return 1;
}

/* When to look: connecting has a deadline of its own. */
static int64_t reply_deadline(const struct wait *w) {
    const struct redis_connection *c = &w->reply.link->link.connection;
    int64_t until = w->reply.request->deadline, due = connection_due(c, clock_now());
    if (c->state != CONNECTION_READY) {
        until = due + NS_PER_MS < until ? due + NS_PER_MS : until;
    }
    return until;
}

int wait_begin_reply(struct task_wait_object *t, struct loop_link_object *link, struct redis_request *r,
                     struct remote *remote, int64_t *until) {
    struct wait *w = &t->wait;
    w->kind = WAIT_REPLY;
    w->reply.request = r;
    w->reply.remote = remote;
    w->reply.link = (struct loop_link_object *)Py_NewRef(link);
    if (loop_link_submit(link, r, t) < 0) {
        request_free(r);
        w->reply.request = NULL;
        Py_CLEAR(w->reply.link);
        return -1;
    }
    *until = reply_deadline(w);
    return 0;
}

void wait_begin_instant(struct wait *w, int64_t instant_ns, int64_t *until) {
    w->kind = WAIT_INSTANT;
    w->instant.until = *until = instant_ns;
}

/* The leases that have run out and whose holders are gone make room. */
static void end_lapsed(struct module_state *m, struct semaphore *s) {
    PyObject *holder;
    uint64_t id;
    while ((holder = semaphore_lapsed(s, &id)) != NULL) {
        PyObject *ended = semaphore_judge(s, id, holder_lives(m, holder));
        if (ended != NULL) {
            Py_DECREF(ended);
            Py_DECREF((PoolObject *)((char *)s - offsetof(PoolObject, semaphore))); /* a waiter has another reference */
        }
        Py_DECREF(holder);
    }
}

bool wait_check(struct module_state *m, struct wait *w, int64_t *until) {
    if (w->kind == WAIT_STORE) {
        return store_wait_check(&w->store, until);
    }
    if (w->kind == WAIT_INSTANT) {
        *until = w->instant.until;
        return clock_now() >= w->instant.until;
    }
    if (w->kind == WAIT_REPLY) {
        struct redis_request *r = w->reply.request;
        if (r->end == REQUEST_OPEN && clock_now() >= reply_deadline(w)) {
            loop_link_step(w->reply.link, false);
        }
        int64_t next = reply_deadline(w), soon = clock_now() + NS_PER_MS;
        *until = next > soon ? next : soon;
        return r->end != REQUEST_OPEN;
    }
    if (w->refused) {
        return true;
    }
    end_lapsed(m, w->semaphore.semaphore);
    enum semaphore_end end = semaphore_wait_check(&w->semaphore, until);
    if (end == SEMAPHORE_REFUSED) {
        w->refused = true;
        Py_DECREF((PyObject *)w->semaphore.holder);
    }
    return end != SEMAPHORE_WAITING;
}

void wait_cancel(struct wait *w) {
    if (w->kind == WAIT_STORE) {
        store_wait_cancel(&w->store, &w->key);
    } else if (w->kind == WAIT_REPLY) {
        if (w->reply.request != NULL) {
            loop_link_abandon(w->reply.link, w->reply.request,
                              w->reply.remote != NULL ? remote_undo(w->reply.remote) : NULL);
            w->reply.request = NULL;
            Py_CLEAR(w->reply.link);
        }
    } else if (w->kind == WAIT_INSTANT) {
        return;
    } else if (!w->refused) {
        semaphore_wait_cancel(&w->semaphore);
        w->refused = true;
        Py_DECREF((PyObject *)w->semaphore.holder);
    }
}

struct virtual_clock *wait_clock(const struct wait *w) {
    return w->kind == WAIT_STORE       ? w->store.store->clock
           : w->kind == WAIT_SEMAPHORE ? w->semaphore.semaphore->clock
                                       : NULL;
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
    waiter_init(&w->wait.waiter, wake_thread, NULL);
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
    bool timed = wait_clock(&w->wait) == NULL; /* a virtual clock wakes us itself */
    do {
        answer = sleep_in_line(&w->parker, timed ? until : PARK_FOREVER);
        if (answer < 0) {
            wait_cancel(&w->wait);
            wait_flush(m);
            break;
        }
        bool decided = wait_check(m, &w->wait, &until);
        wait_flush(m);
        if (decided) {
            break;
        }
    } while (true);
    return answer;
}
