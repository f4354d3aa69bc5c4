/* LoopLink: a link that an event loop drives; see loop_link.h.
 *
 * The loop watches the socket and calls the LoopLink itself. Requests of one turn of the loop go out in one write at its end. Replies
 * complete the TaskWaits of those who asked, by way of the loop's waker. No thread, and no timer of its own: whoever waits has a
 * deadline, and the waker keeps it. */
#include "loop_link.h"

#include <poll.h>

#include "clock.h"

static int schedule(LoopLinkObject *self);

static int watch(LoopLinkObject *self, PyObject *loop, int fd, short events) {
    static const struct {
        short event;
        const char *add, *remove;
    } kinds[] = {{POLLIN, "add_reader", "remove_reader"}, {POLLOUT, "add_writer", "remove_writer"}};
    for (int i = 0; i < 2; i++) {
        bool had = self->fd >= 0 && (self->events & kinds[i].event) != 0;
        bool wants = fd >= 0 && (events & kinds[i].event) != 0;
        if (had && (!wants || fd != self->fd)) {
            PyObject *done = PyObject_CallMethod(loop, kinds[i].remove, "i", self->fd);
            if (done == NULL) {
                return -1;
            }
            Py_DECREF(done);
            had = false;
        }
        if (wants && !had) {
            PyObject *done = PyObject_CallMethod(loop, kinds[i].add, "iO", fd, (PyObject *)self);
            if (done == NULL) {
                return -1;
            }
            Py_DECREF(done);
        }
    }
    self->fd = fd;
    self->events = events;
    return 0;
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
    self->found = found;
    Py_RETURN_NONE;
}
static PyMethodDef resolve_method = {"resolve", resolve, METH_NOARGS, NULL};

static void resolved(LoopLinkObject *self) {
    struct addrinfo *found = self->found;
    self->found = NULL;
    self->resolving = false;
    link_resolved(&self->link, self->problem, found);
}

/* The loop's call comes when it is resolved. -1: an exception; there is no executor any more, say. */
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

static void resolve_if_needed(LoopLinkObject *self, PyObject *loop) {
    if (self->link.connection.state != CONNECTION_RESOLVING || self->resolving) {
        return;
    }
    if (start_resolving(self, loop) < 0) {
        PyErr_Clear();
        link_resolved(&self->link, EAI_FAIL, NULL);
    }
}

/* ---- a turn ---- */

void loop_link_step(LoopLinkObject *self, bool readable) {
    int fd;
    short events;
    PyObject *loop = weak_target(self->loop);
    if (loop == NULL) {
        return;
    }
    link_step(&self->link, readable, &fd, &events);
    resolve_if_needed(self, loop);
    link_log_refusal(&self->link);
    bool other = self->socket != self->link.connection.socket;
    self->socket = self->link.connection.socket;
    if (self->fd >= 0 && (other || fd < 0) && watch(self, loop, -1, 0) < 0) {
        PyErr_Clear(); /* the loop is closed; else it forgets a descriptor that may be another's by now */
        self->fd = -1;
    }
    if ((fd != self->fd || events != self->events) && watch(self, loop, fd, events) < 0) {
        PyErr_Clear();
        self->fd = -1;
    }
    if (self->tls.raised[0] != NULL && !self->scheduled && schedule(self) < 0) {
        PyErr_Clear(); /* the loop is closed */
    }
    wait_flush(self->module);
    Py_DECREF(loop);
}

/* Nobody uses the store any more, or it was closed: in the loop's own thread. What is to be given back comes first. */
static void hang_up(LoopLinkObject *self) {
    PyObject *loop = weak_target(self->loop);
    self->closing = loop != NULL && link_owes(&self->link);
    if (loop != NULL && !self->closing && link_is_idle(&self->link)) {
        if (watch(self, loop, -1, 0) < 0) {
            PyErr_Clear();
            self->fd = -1;
        }
        self->link.driven = false;
        link_close(&self->link);
    }
    Py_XDECREF(loop);
}

/* And completes those who are answered, in the same turn of the loop. */
static void run(LoopLinkObject *self, bool readable) {
    PyObject *loop = weak_target(self->loop);
    WakerObject *waker = loop == NULL ? NULL : waker_of(self->module, loop);
    if (waker == NULL) {
        PyErr_Clear();
    } else {
        waker->running = true;
        loop_link_step(self, readable);
        waker_run(waker);
        Py_DECREF(waker);
    }
    Py_XDECREF(loop);
    if (self->closing) {
        hang_up(self);
    }
}

void loop_links_close(PyObject *loops) {
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyObject *items = PyObject_CallMethod(loops, "items", NULL);
    PyObject *list = items == NULL ? NULL : PySequence_List(items);
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++) {
        PyObject *item = PyList_GET_ITEM(list, i); /* (loop, LoopLink) */
        PyObject *done = PyObject_CallMethod(PyTuple_GET_ITEM(item, 0), "call_soon_threadsafe", "OO",
                                             PyTuple_GET_ITEM(item, 1), Py_None);
        if (done == NULL) {
            PyErr_Clear(); /* that loop is closed, and its connection with it */
        }
        Py_XDECREF(done);
    }
    PyErr_Clear();
    Py_XDECREF(list);
    Py_XDECREF(items);
    PyErr_Restore(type, error, traceback);
}

static PyObject *loop_link_call(PyObject *object, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    LoopLinkObject *self = (LoopLinkObject *)Py_NewRef(object);
    bool flush = PyTuple_GET_SIZE(args) > 0; /* call_soon passes an argument, a watcher none, a future itself */
    if (flush && PyTuple_GET_ITEM(args, 0) == Py_None) {
        hang_up(self);
        Py_DECREF(self);
        Py_RETURN_NONE;
    }
    if (flush && PyTuple_GET_ITEM(args, 0) == Py_True) {
        self->scheduled = false;
    } else if (flush) {
        resolved(self);
    }
    run(self, !flush);
    bool raised = tls_raise(&self->tls);
    Py_DECREF(self);
    return raised ? NULL : Py_NewRef(Py_None);
}

static void wake_request(struct redis_request *r) {
    TaskWaitObject *t = r->waker;
    t->wait.waiter.wake(&t->wait.waiter);
}

/* The loop calls before this turn of it is over. -1: an exception. */
static int schedule(LoopLinkObject *self) {
    if (self->scheduled) {
        return 0;
    }
    PyObject *loop = weak_target(self->loop);
    PyObject *handle = loop == NULL ? NULL : PyObject_CallMethod(loop, "call_soon", "OO", (PyObject *)self, Py_True);
    Py_XDECREF(loop);
    if (handle == NULL) {
        return -1;
    }
    Py_DECREF(handle);
    self->scheduled = true;
    return 0;
}

int loop_link_submit(LoopLinkObject *self, struct redis_request *r, TaskWaitObject *t) {
    r->wake = wake_request;
    r->waker = t;
    if (schedule(self) < 0) {
        return -1;
    }
    self->closing = false;
    link_submit(&self->link, r);
    return 0;
}

void loop_link_abandon(LoopLinkObject *self, struct redis_request *r, struct redis_request *undo) {
    if (link_abandon(&self->link, r, undo)) {
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        if (schedule(self) < 0) {
            PyErr_Clear(); /* the loop is closed */
        }
        PyErr_Restore(type, error, traceback);
    }
}

void loop_link_tell(LoopLinkObject *self, struct redis_request *r) {
    link_tell(&self->link, r);
    loop_link_step(self, false);
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

LoopLinkObject *loop_link_of(LinkObject *of, PyObject *loop) {
    struct module_state *m = of->module;
    if (weak_dict_once(&of->loops) < 0) {
        return NULL;
    }
    LoopLinkObject *self = (LoopLinkObject *)PyObject_GetItem(of->loops, loop);
    if (self != NULL || !PyErr_ExceptionMatches(PyExc_KeyError)) {
        return self;
    }
    PyErr_Clear();
    self = PyObject_GC_New(LoopLinkObject, m->loop_link);
    if (self == NULL) {
        return NULL;
    }
    memset((char *)self + sizeof(PyObject), 0, sizeof *self - sizeof(PyObject));
    self->module = m;
    self->fd = -1;
    link_copy_address(&self->address, self->texts, &of->address);
    bool made = of->tls.context == NULL || tls_init(&self->tls, of->tls.context, of->tls.host) == 0;
    link_init(&self->link, &self->address, of->tls.context != NULL ? &self->tls.stream : NULL, of->link.timeout_ns);
    self->fork = (struct fork_owner){.take = fork_take, .give = fork_give, .child = fork_child};
    fork_register(&self->fork);
    self->link.connection.defers_names = true;
    self->loop = made ? PyWeakref_NewRef(loop, NULL) : NULL;
    PyObject_GC_Track(self);
    if (self->loop == NULL || PyObject_SetItem(of->loops, loop, (PyObject *)self) < 0) {
        Py_CLEAR(self);
    }
    return self;
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
    if (self->found != NULL) {
        freeaddrinfo(self->found);
    }
    link_destroy(&self->link);
    tls_clear(&self->tls);
    Py_XDECREF(self->loop);
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
