/* Pool, and the semaphores that take permits from it.
 *
 * A pool is what all semaphores of one name share: the core's semaphore of leases. Whoever holds a permit or waits for one keeps
 * the pool alive, so that a name that is in use is never made anew.
 *
 * Where the permits are on a server, there is no pool: entering and leaving are the methods of an object of Python
 * (headway.limiters._door), which is given instead of it. */
#include "wait.h"

/* ---- Pool ---- */

static void keep_holder(void *holder) {
    Py_INCREF((PyObject *)holder);
}

static void drop_holder(void *holder) {
    Py_DECREF((PyObject *)holder);
}

static PyObject *pool_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"name", "capacity", "store", NULL};
    struct module_state *m = module_of_type(type);
    PyObject *name, *store;
    long long capacity;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ULO!:Pool", names, &name, &capacity, m->store, &store)) {
        return NULL;
    }
    if (capacity < 1) {
        PyErr_Format(PyExc_ValueError, "Invalid capacity: %lld, must be at least 1.", capacity);
        return NULL;
    }
    if (!((StoreObject *)store)->ready) {
        PyErr_SetString(PyExc_RuntimeError, "MemoryStore.__init__ was not called.");
        return NULL;
    }
    PoolObject *self = (PoolObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->name = Py_NewRef(name);
    self->store = Py_NewRef(store);
    if (!semaphore_init(&self->semaphore, capacity, ((StoreObject *)store)->store.clock, keep_holder)) {
        PyErr_NoMemory();
        Py_DECREF(self);
        return NULL;
    }
    self->ready = true;
    return (PyObject *)self;
}

static void pool_dealloc(PoolObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    if (self->ready) {
        semaphore_destroy(&self->semaphore, drop_holder);
    }
    Py_XDECREF(self->name);
    Py_XDECREF(self->store);
    Py_XDECREF(self->params);
    Py_XDECREF(self->where);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *pool_capacity(PoolObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(self->semaphore.capacity);
}

/* A count that other threads change. */
static PyObject *count_of(PoolObject *self, const int64_t *count) {
    lock_acquire(&self->semaphore.lock);
    int64_t now = *count;
    lock_release(&self->semaphore.lock);
    return PyLong_FromLongLong(now);
}

static PyObject *pool_held(PoolObject *self, void *unused) {
    (void)unused;
    return count_of(self, &self->semaphore.held);
}

static PyObject *pool_waiting(PoolObject *self, void *unused) {
    (void)unused;
    return count_of(self, &self->semaphore.line.length);
}

static PyMemberDef pool_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(PoolObject, weakrefs), READONLY, NULL},
    {"name", T_OBJECT, offsetof(PoolObject, name), READONLY, NULL},
    {"params", T_OBJECT, offsetof(PoolObject, params), 0, "What it was defined with; see headway._definitions."},
    {"where", T_OBJECT, offsetof(PoolObject, where), 0, "Who defined it."},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef pool_attributes[] = {
    {"capacity", (getter)pool_capacity, NULL, "How many permits there are.", NULL},
    {"held", (getter)pool_held, NULL, "How many of them are held.", NULL},
    {"waiting", (getter)pool_waiting, NULL, "How many wait for one.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot pool_slots[] = {
    {Py_tp_doc, "Pool(name, capacity, store)\n--\n\nThe permits that all semaphores of one name share. Internal."},
    {Py_tp_new, pool_new},
    {Py_tp_dealloc, pool_dealloc},
    {Py_tp_members, pool_members},
    {Py_tp_getset, pool_attributes},
    {0, NULL},
};
static PyType_Spec pool_spec = {"headway._core.Pool", sizeof(PoolObject), 0, Py_TPFLAGS_DEFAULT, pool_slots};

PyTypeObject *pool_type_make(PyObject *module) {
    return type_make(module, &pool_spec, NULL, NULL);
}

/* ---- Semaphore: what the sync and the async one share ---- */

static SemaphoreObject *ready_semaphore(PyObject *object) {
    SemaphoreObject *s = (SemaphoreObject *)object;
    if (s->place == NULL) {
        PyErr_Format(PyExc_RuntimeError, "%s.__init__ was not called.", type_short_name(Py_TYPE(object)));
        return NULL;
    }
    return s;
}

static int64_t in_ns(double seconds) {
    return seconds >= 9e9 ? INT64_MAX : (int64_t)llround(seconds * 1e9);
}

static int semaphore_type_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"pool", "max_sleep", "expiry", NULL};
    SemaphoreObject *self = (SemaphoreObject *)object;
    struct module_state *m = module_of_instance(object);
    PyObject *place;
    double max_sleep, expiry;
    if (m == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "Odd:Semaphore", names, &place, &max_sleep, &expiry)) {
        return -1;
    }
    if (self->place != NULL) {
        PyErr_Format(PyExc_RuntimeError, "%s.__init__ was called twice.", type_short_name(Py_TYPE(object)));
        return -1;
    }
    if (!(max_sleep >= 0) || !(expiry > 0)) {
        PyErr_SetString(PyExc_ValueError, "Invalid max_sleep or expiry.");
        return -1;
    }
    self->module = m;
    self->max_sleep = max_sleep;
    self->expiry = expiry;
    self->max_sleep_ns = max_sleep == 0 ? INT64_MAX : in_ns(max_sleep);
    self->expiry_ns = expiry * 1e9 < 1 ? 1 : in_ns(expiry);
    self->pool = Py_IS_TYPE(place, m->pool) ? (PoolObject *)place : NULL;
    self->place = Py_NewRef(place);
    return 0;
}

static int semaphore_traverse(SemaphoreObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    if (self->pool == NULL) {
        Py_VISIT(self->place);
    }
    return 0;
}

static void semaphore_dealloc(PyObject *object) {
    SemaphoreObject *self = (SemaphoreObject *)object;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(object);
    }
    self->pool = NULL;
    Py_CLEAR(self->place);
    permits_clear(&self->permits);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- which permit ends when a block is left ---- */

/* Gives a permit back, if its lease has not lapsed. */
static void give_back(SemaphoreObject *s, uint64_t id) {
    PyObject *holder = semaphore_release(&s->pool->semaphore, id);
    wait_flush(s->module);
    if (holder != NULL) {
        Py_DECREF(holder);
        Py_DECREF(s->pool); /* the lease's own reference; the semaphore has another */
    }
}

static bool fits_lapsed(SemaphoreObject *s, PyObject *holder, uint64_t id) {
    (void)holder;
    return !semaphore_has(&s->pool->semaphore, id);
}

static bool fits_gone(SemaphoreObject *s, PyObject *holder, uint64_t id) {
    return semaphore_has(&s->pool->semaphore, id) && !holder_lives(s->module, holder);
}

static bool fits_closing(SemaphoreObject *s, PyObject *holder, uint64_t id) {
    (void)s;
    (void)id;
    return holder_is_closing(holder);
}

static bool fits_held(SemaphoreObject *s, PyObject *holder, uint64_t id) {
    (void)holder;
    return semaphore_has(&s->pool->semaphore, id);
}

/* Takes the oldest entry that fits. */
static bool take_first(SemaphoreObject *s, bool (*fits)(SemaphoreObject *s, PyObject *holder, uint64_t id),
                       uint64_t *id) {
    PyObject *holder;
    int64_t order = -1;
    while ((holder = permits_next(&s->permits, (PyObject *)s, &order, id)) != NULL) {
        bool found = fits(s, holder, *id) && permits_take(&s->permits, (PyObject *)s, order);
        Py_DECREF(holder);
        if (found) {
            return true;
        }
    }
    return false;
}

/* Holders that ended without leaving may never do so: their entries are forgotten when there are many. Of tasks some are kept, since a
 * coroutine that is closed late leaves then. */
#define LAPSED_KEPT 32
static void prune(SemaphoreObject *s, bool of_tasks) {
    PyObject *holder;
    int64_t order = -1, spared = 0, lapsed = 0;
    uint64_t id;
    while ((holder = permits_next(&s->permits, (PyObject *)s, &order, &id)) != NULL) {
        lapsed += !semaphore_has(&s->pool->semaphore, id);
        Py_DECREF(holder);
    }
    spared = of_tasks ? LAPSED_KEPT : 0;
    for (order = -1; lapsed > spared && (holder = permits_next(&s->permits, (PyObject *)s, &order, &id)) != NULL;) {
        if (!semaphore_has(&s->pool->semaphore, id)) {
            permits_take(&s->permits, (PyObject *)s, order);
            lapsed--;
        }
        Py_DECREF(holder);
    }
    permits_pruned(&s->permits);
}

int semaphore_entered(SemaphoreObject *s, PyObject *holder, uint64_t id) {
    if (permits_are_many(&s->permits)) {
        prune(s, PyObject_TypeCheck((PyObject *)s, s->module->async_semaphore));
    }
    if (permits_add(&s->permits, (PyObject *)s, holder, id)) {
        return 0;
    }
    give_back(s, id);
    PyErr_NoMemory();
    return -1;
}

/* A thread leaves: its own youngest permit ends. Where another leaves than entered (a stack of contexts that was handed on), it is that
 * of one who is gone, else the oldest. What has lapsed is free already. */
static void leave_thread(SemaphoreObject *s, PyObject *holder) {
    uint64_t id;
    if ((holder != NULL && permits_take_own(&s->permits, (PyObject *)s, holder, &id)) ||
        take_first(s, fits_gone, &id) || take_first(s, fits_held, &id)) {
        give_back(s, id);
    }
}

/* A task leaves: the same, but a task that has ended may well have handed its context on, so a leave by another is first taken for that
 * of one whose lease has lapsed. `destroyed`: a coroutine is being closed, perhaps by the collector in the midst of another task,
 * whose own permit it must not give away: then it is that of the task which is being closed, else of one who is gone. */
static void leave_task(SemaphoreObject *s, PyObject *holder, bool destroyed) {
    uint64_t id;
    if ((destroyed && (take_first(s, fits_closing, &id) || take_first(s, fits_gone, &id))) ||
        (holder != NULL && permits_take_own(&s->permits, (PyObject *)s, holder, &id)) ||
        take_first(s, fits_lapsed, &id) || take_first(s, fits_gone, &id) || take_first(s, fits_held, &id)) {
        give_back(s, id);
    }
}

PyObject *semaphore_raise_refused(SemaphoreObject *s) {
    PyObject *error = PyObject_CallMethod((PyObject *)s, "_max_sleep_error", NULL);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    return NULL;
}

/* On a server. */
static PyObject *enter_place(SemaphoreObject *s, const char *method) {
    return PyObject_CallMethod(s->place, method, "O", (PyObject *)s);
}

#define LATE_TRIES 64 /* a handler may raise again, and memory may be short for a while */

/* A signal's handler may raise in the method, even before its first instruction, and memory may be short anywhere. Then `leave_late` does
 * the rest: the list `ended` says which entry it is. What was raised first is raised afterwards, and what came meanwhile is its context. */
static PyObject *leave_place(SemaphoreObject *s, const char *method, PyObject *const *args, Py_ssize_t nargs) {
    PyObject *destroyed = nargs > 0 && args[0] == PyExc_GeneratorExit ? Py_True : Py_False;
    PyObject *is_task = strcmp(method, "leave") == 0 ? Py_False : Py_True;
    PyObject *ended = NULL, *left, *late = NULL;
    struct kept_error k = {0};
    int tries = LATE_TRIES;
    while ((ended = PyList_New(0)) == NULL) {
        if (tries-- == 0) {
            return NULL;
        }
        PyErr_Clear(); /* a MemoryError */
    }
    left = PyObject_CallMethod(s->place, method, "OOO", (PyObject *)s, destroyed, ended);
    while (left == NULL && late == NULL && tries-- > 0) {
        error_keep(&k);
        late = PyObject_CallMethod(s->place, "leave_late", "OOO", destroyed, ended, is_task);
        if (late == NULL && tries > 0 && PyErr_ExceptionMatches(PyExc_MemoryError)) {
            PyErr_Clear(); /* it is tried again */
        }
    }
    Py_XDECREF(late);
    Py_DECREF(ended);
    return error_set(&k) ? NULL : left;
}

static PyObject *sync_enter(PyObject *object, PyObject *unused) {
    (void)unused;
    SemaphoreObject *s = ready_semaphore(object);
    if (s != NULL && s->pool == NULL) {
        return enter_place(s, "enter");
    }
    PyObject *holder = s == NULL ? NULL : holder_thread(s->module);
    struct thread_wait *w = holder == NULL ? NULL : thread_wait_new();
    int64_t until;
    if (w == NULL) {
        Py_XDECREF(holder);
        return NULL;
    }
    int end = wait_begin_semaphore(&w->wait, &s->pool->semaphore, holder, s->expiry_ns, s->max_sleep_ns, &until);
    wait_flush(s->module);
    if (end == 0) {
        end = thread_wait_finish(s->module, w, until);
    }
    PyObject *answer = NULL;
    if (end >= 0 && w->wait.refused) {
        answer = semaphore_raise_refused(s);
    } else if (end >= 0 && semaphore_entered(s, holder, w->wait.semaphore.id) == 0) {
        answer = Py_NewRef(Py_None);
    }
    thread_wait_free(w);
    Py_DECREF(holder);
    return answer;
}

/* The holder that leaves. A loop's own code may raise while it is asked, and the permit is to be given back all the same: what is raised is kept for
 * afterwards. NULL: it raises each time, and the permit that ends is one of those that a leave by another ends. */
static PyObject *leaving_holder(struct module_state *m, PyObject *(*find)(struct module_state *),
                                struct kept_error *k) {
    PyObject *holder = NULL;
    for (int tries = 0; tries < LATE_TRIES && (holder = find(m)) == NULL; tries++) {
        error_keep(k);
    }
    return holder;
}

static PyObject *sync_exit(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    SemaphoreObject *s = ready_semaphore(object);
    if (s != NULL && s->pool == NULL) {
        return leave_place(s, "leave", args, nargs);
    }
    if (s == NULL) {
        return NULL;
    }
    struct kept_error k = {0};
    PyObject *holder = leaving_holder(s->module, holder_thread, &k);
    leave_thread(s, holder);
    Py_XDECREF(holder);
    return error_set(&k) ? NULL : Py_NewRef(Py_None);
}

static PyObject *async_enter(PyObject *object, PyObject *unused) {
    (void)unused;
    SemaphoreObject *s = ready_semaphore(object);
    return s == NULL ? NULL : s->pool == NULL ? enter_place(s, "enter_async") : call_permit(s);
}

/* The permit is given back at once, so that a cancellation can't come between. */
static PyObject *async_exit(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    bool destroyed = nargs > 0 && args[0] == PyExc_GeneratorExit;
    SemaphoreObject *s = ready_semaphore(object);
    if (s != NULL && s->pool == NULL) {
        return leave_place(s, "leave_async", args, nargs);
    }
    if (s == NULL) {
        return NULL;
    }
    struct kept_error k = {0};
    PyObject *holder = leaving_holder(s->module, holder_task, &k);
    leave_task(s, holder, destroyed);
    Py_XDECREF(holder);
    return error_set(&k) ? NULL : Py_NewRef(s->module->nothing);
}

static PyMemberDef semaphore_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(SemaphoreObject, weakrefs), READONLY, NULL},
    {"max_sleep", T_DOUBLE, offsetof(SemaphoreObject, max_sleep), READONLY,
     "The longest wait for a permit in seconds; 0 for no end."},
    {"expiry", T_DOUBLE, offsetof(SemaphoreObject, expiry), READONLY,
     "Seconds after which the permit of a holder that is gone is free again."},
    {"_pool", T_OBJECT_EX, offsetof(SemaphoreObject, place), READONLY, "What has the permits."},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot semaphore_slots[] = {
    {Py_tp_doc, "What the semaphores have in common."},
    {Py_tp_init, semaphore_type_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, semaphore_dealloc},
    {Py_tp_traverse, semaphore_traverse},
    {Py_tp_members, semaphore_members},
    {0, NULL},
};
static PyType_Spec semaphore_spec = {"headway._core.Semaphore", sizeof(SemaphoreObject), 0,
                                     Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, semaphore_slots};

PyTypeObject *semaphore_type_make(PyObject *module) {
    return type_make(module, &semaphore_spec, NULL, NULL);
}

#define WITH_ARRAY(f) ((PyCFunction)(void (*)(void))(f))
static PyMethodDef sync_methods[] = {
    {"__enter__", sync_enter, METH_NOARGS, "Waits for a permit. Raises MaxSleepExceededError after max_sleep."},
    {"__exit__", WITH_ARRAY(sync_exit), METH_FASTCALL, "Gives the permit back."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot sync_slots[] = {{Py_tp_methods, sync_methods}, {0, NULL}};
static PyType_Spec sync_spec = {"headway._core.SyncSemaphore", sizeof(SemaphoreObject), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, sync_slots};

PyTypeObject *sync_semaphore_type_make(PyObject *module, PyTypeObject *semaphore) {
    return type_make(module, &sync_spec, semaphore, NULL);
}

static PyMethodDef async_methods[] = {
    {"__aenter__", async_enter, METH_NOARGS, "Waits for a permit. Raises MaxSleepExceededError after max_sleep."},
    {"__aexit__", WITH_ARRAY(async_exit), METH_FASTCALL, "Gives the permit back."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot async_slots[] = {{Py_tp_methods, async_methods}, {0, NULL}};
static PyType_Spec async_spec = {"headway._core.AsyncSemaphore", sizeof(SemaphoreObject), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, async_slots};

PyTypeObject *async_semaphore_type_make(PyObject *module, PyTypeObject *semaphore) {
    return type_make(module, &async_spec, semaphore, NULL);
}
