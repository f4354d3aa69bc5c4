/* LoopLink: a link that an event loop drives; see loop_link.h.
 *
 * The loop watches the socket and calls the LoopLink itself. Requests of one turn of the loop go out in one write at its end. Replies
 * complete the TaskWaits of those who asked, by way of the loop's waker. No thread, and no timer of its own: whoever waits has a
 * deadline, and the waker keeps it. */
#include "loop_link.h"

#include <poll.h>

#include "clock.h"

static bool loop_link_schedule(LoopLinkObject *self, const char *method, struct kept_error *k);

/* A method of the loop with one argument or two. 0; -1: the loop is closed, or refuses, which is kept. */
static int ask_loop(PyObject *loop, const char *method, int fd, PyObject *callback, struct kept_error *k) {
    PyObject *args[] = {PyLong_FromLong(fd), callback};
    enum loop_answer done = LOOP_FAILED;
    if (args[0] != NULL) {
        done = loop_call(k, loop, method, args, callback != NULL ? 2 : 1, NULL, NULL);
        Py_DECREF(args[0]);
    }
    if (done == LOOP_FAILED) {
        error_keep(k);
    }
    return done == LOOP_DONE ? 0 : -1;
}

/* Has the loop watch `fd` (-1: nothing) for these events. Where that fails nothing counts as watched; the next step tries again. */
static void loop_link_watch(LoopLinkObject *self, PyObject *loop, int fd, short events, struct kept_error *k) {
    static const struct {
        short event;
        const char *add, *remove;
    } kinds[] = {{POLLIN, "add_reader", "remove_reader"}, {POLLOUT, "add_writer", "remove_writer"}};
    for (int i = 0; i < 2; i++) {
        bool had = self->fd >= 0 && (self->events & kinds[i].event) != 0;
        bool wants = fd >= 0 && (events & kinds[i].event) != 0;
        bool failed = false;
        if (had && (!wants || fd != self->fd)) {
            failed = ask_loop(loop, kinds[i].remove, self->fd, NULL, k) < 0;
            had = false;
        }
        if (!failed && wants && !had) {
            failed = ask_loop(loop, kinds[i].add, fd, (PyObject *)self, k) < 0;
        }
        if (failed) {
            self->fd = -1;
            self->events = 0;
            return;
        }
    }
    self->fd = fd;
    self->events = events;
}

/* ---- names: the resolver blocks, so a thread of the loop's executor calls it ---- */

static PyObject *resolve(PyObject *object, PyObject *unused) {
    (void)unused;
    LoopLinkObject *self = (LoopLinkObject *)object;
    struct addrinfo *found = NULL;
    int problem;
    Py_BEGIN_ALLOW_THREADS
    problem = connection_find(&self->address, false, &found);
    Py_END_ALLOW_THREADS
    self->problem = problem;
    found = atomic_exchange(&self->found, found);
    if (found != NULL) {
        freeaddrinfo(found);
    }
    Py_RETURN_NONE;
}
static PyMethodDef resolve_method = {"resolve", resolve, METH_NOARGS, NULL};

static void resolved(LoopLinkObject *self) {
    struct addrinfo *found = atomic_exchange(&self->found, NULL);
    self->resolving = false;
    link_resolved(&self->link, self->problem, found);
}

/* The loop's call comes when it is resolved. -1: an exception. */
static int start_resolving(LoopLinkObject *self, PyObject *loop) {
    self->problem = EAI_FAIL; /* if it is cancelled */
    PyObject *job = PyCFunction_New(&resolve_method, (PyObject *)self);
    PyObject *future = job == NULL ? NULL : PyObject_CallMethod(loop, "run_in_executor", "OO", Py_None, job);
    PyObject *done = future == NULL ? NULL : PyObject_CallMethod(future, "add_done_callback", "O", (PyObject *)self);
    self->resolving = done != NULL;
    Py_XDECREF(job);
    Py_XDECREF(future);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static void resolve_if_needed(LoopLinkObject *self, PyObject *loop, struct kept_error *k) {
    if (self->link.connection.state != CONNECTION_RESOLVING || self->resolving) {
        return;
    }
    if (start_resolving(self, loop) < 0) {
        if (PyErr_ExceptionMatches(PyExc_RuntimeError)) {
            PyErr_Clear(); /* the loop is closed, or its executor is shut down: the request says that the name was not found */
        }
        bool no_memory = PyErr_Occurred() != NULL && PyErr_ExceptionMatches(PyExc_MemoryError);
        error_keep(k);
        link_resolved(&self->link, no_memory ? EAI_MEMORY : EAI_FAIL, NULL);
    }
}

/* ---- a turn ---- */

void loop_link_step(LoopLinkObject *self, bool readable, struct kept_error *k) {
    int fd;
    short events;
    PyObject *loop = weak_target(self->loop);
    if (loop == NULL) {
        return;
    }
    link_step(&self->link, readable, &fd, &events);
    resolve_if_needed(self, loop, k);
    link_log_refusal(&self->link);
    bool other = self->socket != self->link.connection.socket;
    self->socket = self->link.connection.socket;
    if (self->fd >= 0 && (other || fd < 0)) {
        loop_link_watch(self, loop, -1, 0, k); /* the number may soon be that of another descriptor */
    }
    if (fd != self->fd || events != self->events) {
        loop_link_watch(self, loop, fd, events, k);
    }
    if (tls_raise(&self->tls)) {
        error_keep(k);
        loop_link_schedule(self, "call_soon", k); /* the connection is closed; what is asked goes over a new one */
    }
    wait_flush(self->module);
    Py_DECREF(loop);
}

/* Nobody uses the store any more, or it was closed: in the loop's own thread. What is to be given back comes first. */
static void hang_up(LoopLinkObject *self, struct kept_error *k) {
    PyObject *loop = weak_target(self->loop);
    self->closing = loop != NULL && link_owes(&self->link);
    if (loop != NULL && !self->closing && link_is_idle(&self->link)) {
        loop_link_watch(self, loop, -1, 0, k);
        self->link.driven = false;
        link_close(&self->link);
    }
    Py_XDECREF(loop);
}

/* And completes those who are answered, in the same turn of the loop. */
static void run(LoopLinkObject *self, bool readable, struct kept_error *k) {
    waker_begin(self->waker);
    loop_link_step(self, readable, k);
    waker_run(self->waker, k);
    if (self->closing) {
        hang_up(self, k);
    }
}

void loop_links_close(PyObject *loops) {
    PyObject *type, *error, *traceback;
    struct kept_error k = {0};
    PyErr_Fetch(&type, &error, &traceback);
    PyObject *list =
        PyObject_CallMethod(loops, "keyrefs", NULL); /* at one stroke: other threads may add loops meanwhile */
    error_keep(&k);
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++) {
        PyObject *loop = weak_target(PyList_GET_ITEM(list, i));
        PyObject *args[] = {loop == NULL ? NULL : PyObject_CallMethod(loops, "get", "O", loop), Py_None};
        if (args[0] != NULL && args[0] != Py_None &&
            loop_call(&k, loop, "call_soon_threadsafe", args, 2, NULL, NULL) == LOOP_FAILED) {
            error_keep(&k);
        } /* of a closed loop the connection is closed as well */
        error_keep(&k);
        Py_XDECREF(args[0]);
        Py_XDECREF(loop);
    }
    Py_XDECREF(list);
    error_defer(&k, NULL);
    PyErr_Restore(type, error, traceback);
}

static PyObject *loop_link_call(PyObject *object, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    LoopLinkObject *self = (LoopLinkObject *)Py_NewRef(object);
    struct kept_error k = {0};
    /* call_soon passes an argument, a watcher none, a future itself */
    PyObject *what = PyTuple_GET_SIZE(args) > 0 ? PyTuple_GET_ITEM(args, 0) : NULL;
    if (what == Py_None) {
        hang_up(self, &k);
    } else {
        if (what == Py_True) {
            self->scheduled = false;
        } else if (what != NULL) {
            resolved(self);
        }
        run(self, what == NULL, &k);
    }
    Py_DECREF(self);
    return error_set(&k) ? NULL : Py_NewRef(Py_None);
}

static void wake_request(struct redis_request *r) {
    TaskWaitObject *t = r->waker;
    t->wait.waiter.wake(&t->wait.waiter);
}

/* The loop calls before this turn of it is over; `method` is its call_soon, or call_soon_threadsafe where this may be another thread.
 * False: it is closed, or refuses, which is kept. */
static bool loop_link_schedule(LoopLinkObject *self, const char *method, struct kept_error *k) {
    PyObject *loop = weak_target(self->loop), *args[] = {(PyObject *)self, Py_True};
    if (loop == NULL) {
        return false;
    }
    enum loop_answer done = LOOP_DONE;
    if (!atomic_exchange(&self->scheduled, true)) {
        done = loop_call(k, loop, method, args, 2, NULL, NULL);
        if (done == LOOP_FAILED) {
            error_keep(k);
        }
        if (done != LOOP_DONE) {
            self->scheduled = false;
        }
    }
    Py_DECREF(loop);
    return done == LOOP_DONE;
}

int loop_link_submit(LoopLinkObject *self, struct redis_request *r, TaskWaitObject *t) {
    struct kept_error k = {0};
    bool scheduled = loop_link_schedule(self, "call_soon", &k);
    if (error_set(&k)) {
        return -1;
    }
    if (!scheduled) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return -1;
    }
    r->wake = wake_request;
    r->waker = t;
    self->closing = false;
    link_submit(&self->link, r);
    return 0;
}

/* A closed loop runs no more. What its link owes is settled here, as far as that goes without waiting: replies that have come are read,
 * and what they say was reserved is given back. */
static void settle_for_closed(LoopLinkObject *self, struct kept_error *k) {
    PyObject *loop = weak_target(self->loop);
    PyObject *closed = loop == NULL ? Py_NewRef(Py_True) : PyObject_CallMethod(loop, "is_closed", NULL);
    Py_XDECREF(loop);
    error_keep(k);
    if (closed == Py_True && !atomic_exchange(&self->settling, true)) {
        for (int turns = 0; turns < 4 && self->link.connection.state == CONNECTION_READY && link_owes(&self->link);
             turns++) {
            int fd;
            short events;
            link_step(&self->link, true, &fd, &events);
            if (tls_raise(&self->tls)) {
                error_keep(k);
            }
        }
        self->settling = false;
    }
    Py_XDECREF(closed);
}

void loop_link_abandon(LoopLinkObject *self, struct redis_request *r, struct redis_request *undo) {
    bool owes = undo != NULL, more = link_abandon(&self->link, r, undo);
    if (more || owes) {
        PyObject *type, *error, *traceback;
        struct kept_error k = {0};
        PyErr_Fetch(&type, &error, &traceback);
        if (!more ||
            !loop_link_schedule(self, "call_soon_threadsafe", &k)) { /* the collector may be at work in any thread */
            settle_for_closed(self, &k);
        }
        error_defer(&k, NULL);
        PyErr_Restore(type, error, traceback);
    }
}

void loop_link_tell(LoopLinkObject *self, struct redis_request *r) {
    struct kept_error k = {0};
    link_tell(&self->link, r);
    loop_link_step(self, false, &k);
    error_defer(&k, NULL);
}

/* ---- forks ---- */

static LoopLinkObject *of_fork(struct fork_owner *o) {
    return (LoopLinkObject *)((char *)o - offsetof(LoopLinkObject, fork));
}
static void fork_take(struct fork_owner *o) {
    lock_acquire(&of_fork(o)->link.lock);
}
static void fork_give(struct fork_owner *o) {
    lock_release(&of_fork(o)->link.lock);
}
/* The loop is not told: its selector is the parent's too, and what the child took out of that would be gone for both. */
static void fork_child(struct fork_owner *o) {
    LoopLinkObject *self = of_fork(o);
    link_renew(&self->link);
    self->fd = -1;
    self->events = 0;
    self->scheduled = self->closing = self->resolving = false;
}

/* ---- life ---- */

static LoopLinkObject *loop_link_new(LinkObject *of, PyObject *loop) {
    struct module_state *m = of->module;
    WakerObject *waker = waker_of(m, loop);
    LoopLinkObject *self = waker == NULL ? NULL : PyObject_GC_New(LoopLinkObject, m->loop_link);
    if (self == NULL) {
        Py_XDECREF(waker);
        return NULL;
    }
    memset((char *)self + sizeof(PyObject), 0, sizeof *self - sizeof(PyObject));
    self->module = m;
    self->waker = waker;
    self->fd = -1;
    link_copy_address(&self->address, self->texts, &of->address);
    bool made = of->tls.context == NULL || tls_init(&self->tls, of->tls.context, of->tls.host) == 0;
    link_init(&self->link, &self->address, of->tls.context != NULL ? &self->tls.stream : NULL, of->link.timeout_ns);
    self->fork = (struct fork_owner){.take = fork_take, .give = fork_give, .child = fork_child};
    fork_register(&self->fork);
    self->link.connection.defers_names = true;
    self->loop = made ? PyWeakref_NewRef(loop, NULL) : NULL;
    PyObject_GC_Track(self);
    if (self->loop == NULL) {
        Py_CLEAR(self);
    }
    return self;
}

LoopLinkObject *loop_link_of(LinkObject *of, PyObject *loop) {
    if (weak_dict_once(&of->loops) < 0) {
        return NULL;
    }
    PyObject *self = PyObject_CallMethodOneArg(of->loops, of->module->str_get, loop);
    if (self == Py_None) {
        PyObject *made = (PyObject *)loop_link_new(of, loop);
        Py_SETREF(self, made == NULL ? NULL : PyObject_CallMethod(of->loops, "setdefault", "OO", loop, made));
        Py_XDECREF(made);
    }
    return (LoopLinkObject *)self;
}

static int loop_link_traverse(LoopLinkObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void loop_link_dealloc(PyObject *object) {
    LoopLinkObject *self = (LoopLinkObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    fork_forget(&self->fork);
    struct addrinfo *found = atomic_exchange(&self->found, NULL);
    if (found != NULL) {
        freeaddrinfo(found);
    }
    link_destroy(&self->link);
    tls_clear(&self->tls);
    Py_XDECREF(self->loop);
    Py_XDECREF(self->waker);
    link_free_texts(self->texts);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

static PyType_Slot loop_link_slots[] = {
    {Py_tp_dealloc, loop_link_dealloc},
    {Py_tp_traverse, loop_link_traverse},
    {Py_tp_call, loop_link_call},
    {0, NULL},
};
static PyType_Spec loop_link_spec = {"headway._core.LoopLink", sizeof(LoopLinkObject), 0,
                                     Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                     loop_link_slots};

PyTypeObject *loop_link_type_make(PyObject *module) {
    return type_make(module, &loop_link_spec, NULL, NULL);
}
