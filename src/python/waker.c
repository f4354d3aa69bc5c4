/* Waker: see waker.h. */
#include "waker.h"

#include "clock.h"
#include "task.h"

/* So many are completed in one go of the loop, a millisecond or two; then others have a turn. */
#define BATCH 256
#define RETRY_NS NS_PER_MS

typedef struct {
    PyObject_HEAD
    WakerObject *waker;
} AlarmObject;

/* ---- the heap; with the lock ---- */

static void heap_put(WakerObject *w, Py_ssize_t i, TaskWaitObject *t) {
    w->heap[i] = t;
    t->heap_index = i;
}

static void heap_up(WakerObject *w, Py_ssize_t i, TaskWaitObject *t) {
    while (i > 0 && w->heap[(i - 1) / 2]->instant > t->instant) {
        heap_put(w, i, w->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    heap_put(w, i, t);
}

static void heap_down(WakerObject *w, Py_ssize_t i, TaskWaitObject *t) {
    for (;;) {
        Py_ssize_t child = 2 * i + 1;
        if (child + 1 < w->count && w->heap[child + 1]->instant < w->heap[child]->instant) {
            child++;
        }
        if (child >= w->count || w->heap[child]->instant >= t->instant) {
            break;
        }
        heap_put(w, i, w->heap[child]);
        i = child;
    }
    heap_put(w, i, t);
}

static void heap_move(WakerObject *w, TaskWaitObject *t) {
    heap_up(w, t->heap_index, t);
    heap_down(w, t->heap_index, t);
}

static void heap_remove(WakerObject *w, TaskWaitObject *t) {
    Py_ssize_t i = t->heap_index;
    t->heap_index = -1;
    TaskWaitObject *last = w->heap[--w->count];
    if (last != t) {
        last->heap_index = i;
        heap_move(w, last);
    }
    if (w->count == 0) {
        PyMem_RawFree(w->heap);
        w->heap = NULL;
        w->room = 0;
    }
}

static bool heap_add(WakerObject *w, TaskWaitObject *t) {
    if (w->count == w->room) {
        Py_ssize_t room = w->room == 0 ? 16 : w->room * 2;
        TaskWaitObject **heap = PyMem_RawRealloc(w->heap, (size_t)room * sizeof *heap);
        if (heap == NULL) {
            return false;
        }
        w->heap = heap;
        w->room = room;
    }
    heap_up(w, w->count++, (TaskWaitObject *)Py_NewRef(t));
    return true;
}

/* ---- the alarm ---- */

static PyObject *alarm_new(WakerObject *w) {
    AlarmObject *alarm = PyObject_GC_New(AlarmObject, w->module->alarm);
    if (alarm != NULL) {
        alarm->waker = (WakerObject *)Py_NewRef(w);
        PyObject_GC_Track(alarm);
    }
    return (PyObject *)alarm;
}

/* Sees to it that the loop calls in time, with the lock. False: open_timer must do it. */
static bool arm_locked(WakerObject *w, int64_t now, int64_t *instant) {
    *instant = w->ready != NULL ? 0 : w->count > 0 ? w->heap[0]->instant : INT64_MAX;
    /* A timer that goes off too early, or for nobody, does no harm: it is not set back. */
    if (w->count == 0 || (w->alarm != NULL && (w->signalled || (w->alarm_at <= *instant && *instant > now)))) {
        return true;
    }
    return w->alarm != NULL && (*instant <= now ? timer_signal(w) : timer_set(w, *instant));
}

static int open_timer(WakerObject *w, int64_t instant, struct kept_error *k) {
    PyObject *loop = weak_target(w->loop), *alarm = NULL;
    int answer = -1;
    if (loop == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
    } else {
        alarm = alarm_new(w);
        answer = alarm == NULL ? -1 : timer_open(w, loop, alarm, instant, k);
    }
    Py_XDECREF(alarm); /* from here on the loop alone holds it */
    Py_XDECREF(loop);
    if (answer > 0) {
        lock_acquire(&w->lock);
        arm_locked(w, clock_now(), &instant);
        lock_release(&w->lock);
    }
    return answer;
}

/* Sees to it that the loop calls in time. In its thread; -1: an exception, and it may not. */
static int arm(WakerObject *w, struct kept_error *k) {
    int64_t instant;
    lock_acquire(&w->lock);
    w->running = false;
    bool done = arm_locked(w, clock_now(), &instant);
    lock_release(&w->lock);
    return done || open_timer(w, instant, k) >= 0 ? 0 : -1;
}

/* The loop is closed, or dropped: those who wait on it leave their lines; their tasks will never run again. */
static void abandon(WakerObject *w) {
    for (;;) {
        lock_acquire(&w->lock);
        TaskWaitObject *t = w->count > 0 ? (TaskWaitObject *)Py_NewRef(w->heap[0]) : NULL;
        lock_release(&w->lock);
        if (t == NULL) {
            break;
        }
        t->state = TASK_CANCELLED;
        task_wait_give_up(t);
        Py_DECREF(t);
    }
    lock_acquire(&w->lock);
    TaskWaitObject *ready = w->ready;
    w->ready = NULL;
    w->ready_end = &w->ready;
    lock_release(&w->lock);
    while (ready != NULL) {
        TaskWaitObject *t = ready;
        ready = t->next_woken;
        atomic_store(&t->queued, false);
        Py_DECREF(t);
    }
}

static PyObject *alarm_call(PyObject *object, PyObject *args, PyObject *kwargs) {
    (void)args;
    (void)kwargs;
    WakerObject *w = (WakerObject *)Py_NewRef(((AlarmObject *)object)->waker);
    struct kept_error k = {0};
    lock_acquire(&w->lock);
    bool current = w->alarm == object;
    if (current) {
        timer_heard(w);
        w->running = true;
    }
    lock_release(&w->lock);
    if (current) {
        waker_run(w, &k);
    }
    Py_DECREF(w);
    return error_set(&k) ? NULL : Py_NewRef(Py_None);
}

static int alarm_traverse(PyObject *object, visitproc visit, void *arg) {
    const WakerObject *w = ((AlarmObject *)object)->waker;
    Py_VISIT(Py_TYPE(object));
    for (Py_ssize_t i = 0; i < w->count && w->alarm == object; i++) {
        Py_VISIT(w->heap[i]);
    }
    return 0;
}

static void alarm_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    WakerObject *w = ((AlarmObject *)object)->waker;
    PyObject_GC_UnTrack(object);
    lock_acquire(&w->lock);
    bool current = w->alarm == object;
    if (current) {
        w->alarm = NULL;
        timer_close(w);
    }
    lock_release(&w->lock);
    if (current) {
        PyObject *error_type, *error, *traceback;
        PyErr_Fetch(&error_type, &error, &traceback);
        abandon(w);
        PyErr_Restore(error_type, error, traceback);
    }
    PyObject_GC_Del(object);
    Py_DECREF(type);
    Py_DECREF(w);
}

/* ---- a turn ---- */

/* What is to be looked at next: those that were woken, in order; then who is due and was not woken, whose look serves its line. A new
 * reference. */
static TaskWaitObject *next_up(WakerObject *w, int64_t now) {
    lock_acquire(&w->lock);
    TaskWaitObject *t = w->ready;
    if (t != NULL) {
        w->ready = t->next_woken;
        if (w->ready == NULL) {
            w->ready_end = &w->ready;
        }
        atomic_store(&t->queued, false);
    } else if (w->count > 0 && w->heap[0]->instant <= now) {
        t = (TaskWaitObject *)Py_NewRef(w->heap[0]);
    }
    lock_release(&w->lock);
    return t;
}

/* Those of one go that are decided, in the order in which they were served. One may be found before another that was served before it:
 * a look at the second in a line serves the first as well, and the first is looked at later. */
struct decided {
    TaskWaitObject *waits[BATCH];
    int count;
};

static void decided_add(struct decided *d, TaskWaitObject *t) {
    uint64_t turn = atomic_load(&t->turn);
    int i = d->count++;
    for (; i > 0 && turn > 0 && atomic_load(&d->waits[i - 1]->turn) > turn; i--) {
        d->waits[i] = d->waits[i - 1];
    }
    d->waits[i] = t;
}

static void complete(WakerObject *w, TaskWaitObject *t, struct kept_error *k) {
    if (task_wait_complete(t, k) == 0) {
        return;
    }
    lock_acquire(&w->lock); /* the loop refused: it is tried again a little later */
    t->instant = clock_now() + RETRY_NS;
    bool again = t->heap_index < 0 && heap_add(w, t);
    lock_release(&w->lock);
    if (!again) {
        task_wait_give_up(t);
    }
}

void waker_begin(WakerObject *w) {
    lock_acquire(&w->lock);
    w->running = true;
    lock_release(&w->lock);
}

/* Without a GIL another thread may have taken the list and not handed it out yet: that is waited for. */
static void flush(const WakerObject *w) {
#ifdef Py_GIL_DISABLED
    wait_flush_now(w->module);
#else
    wait_flush(w->module);
#endif
}

void waker_run(WakerObject *w, struct kept_error *k) {
    struct decided d;
    d.count = 0;
    int64_t now = clock_now();
    for (int budget = BATCH; budget > 0; budget--) {
        flush(w);
        TaskWaitObject *t = next_up(w, now);
        if (t == NULL) {
            break;
        }
        if (task_wait_look(t, k)) {
            decided_add(&d, t);
        } else {
            Py_DECREF(t);
        }
    }
    for (int i = 0; i < d.count; i++) {
        complete(w, d.waits[i], k);
        Py_DECREF(d.waits[i]);
    }
    flush(w);
    if (arm(w, k) < 0) {
        error_keep(k);
    }
}

/* ---- what the TaskWaits call ---- */

static WakerObject *of_fork(struct fork_owner *o) {
    return (WakerObject *)((char *)o - offsetof(WakerObject, fork));
}
static void fork_take(struct fork_owner *o) {
    lock_acquire(&of_fork(o)->lock);
}
static void fork_give(struct fork_owner *o) {
    lock_release(&of_fork(o)->lock);
}
/* The timer is the parent's too: what the child did to it would be done to the parent's tasks. All that wait look again, since their lines
 * are gone: then each joins a new one. */
static void fork_child(struct fork_owner *o) {
    WakerObject *w = of_fork(o);
    lock_init(&w->lock);
    timer_forked(w);
    for (Py_ssize_t i = 0; i < w->count; i++) {
        w->heap[i]->instant = 0;
    }
}

/* In a fork's child, as soon as Python code may run there: the loops call again, if the child goes on with one of them. */
static PyObject *after_fork(PyObject *wakers, PyObject *unused) {
    (void)unused;
    PyObject *values = PyObject_CallMethod(wakers, "values", NULL);
    PyObject *list = values == NULL ? NULL : PySequence_List(values);
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++) {
        WakerObject *w = (WakerObject *)PyList_GET_ITEM(list, i);
        struct kept_error k = {0};
        if (!w->running && w->count > 0 && arm(w, &k) < 0) {
            error_keep(&k);
        }
        error_defer(&k, NULL);
    }
    Py_XDECREF(values);
    Py_XDECREF(list);
    return list == NULL ? NULL : Py_NewRef(Py_None);
}
static PyMethodDef after_fork_method = {"after_fork", after_fork, METH_NOARGS, NULL};

static int register_after_fork(PyObject *wakers) {
    PyObject *os = PyImport_ImportModule("os");
    PyObject *names = os == NULL ? NULL : Py_BuildValue("(s)", "after_in_child");
    PyObject *function = names == NULL ? NULL : PyCFunction_New(&after_fork_method, wakers);
    PyObject *answer = NULL, *method = function == NULL ? NULL : PyObject_GetAttrString(os, "register_at_fork");
    if (method != NULL) {
        answer = PyObject_Vectorcall(method, &function, 0, names);
    } else if (function != NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear(); /* a system without forks */
        answer = Py_NewRef(Py_None);
    }
    Py_XDECREF(method);
    Py_XDECREF(function);
    Py_XDECREF(names);
    Py_XDECREF(os);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

static WakerObject *waker_new(struct module_state *m, PyObject *loop) {
    WakerObject *w = PyObject_GC_New(WakerObject, m->waker);
    if (w == NULL) {
        return NULL;
    }
    memset((char *)w + sizeof(PyObject), 0, sizeof *w - sizeof(PyObject));
    w->module = m;
    w->alarm_at = INT64_MAX;
    w->ready_end = &w->ready;
    lock_init(&w->lock);
    w->fork = (struct fork_owner){.take = fork_take, .give = fork_give, .child = fork_child};
    fork_register(&w->fork);
    w->loop = PyWeakref_NewRef(loop, NULL);
    PyObject_GC_Track(w);
    if (w->loop == NULL) {
        Py_CLEAR(w);
    }
    return w;
}

WakerObject *waker_of(struct module_state *m, PyObject *loop) {
    if (once_get(&m->wakers) == NULL) {
        PyObject *made = NULL;
        if (weak_dict_once(&made) < 0 || register_after_fork(made) < 0) {
            Py_XDECREF(made);
            return NULL;
        }
        once_set(&m->wakers, made);
    }
    PyObject *w = PyObject_CallMethodOneArg(m->wakers, m->str_get, loop);
    if (w == Py_None) {
        PyObject *made = (PyObject *)waker_new(m, loop);
        Py_SETREF(w, made == NULL ? NULL : PyObject_CallMethod(m->wakers, "setdefault", "OO", loop, made));
        Py_XDECREF(made);
    }
    return (WakerObject *)w;
}

int waker_keep(WakerObject *w, TaskWaitObject *t, int64_t instant) {
    struct kept_error k = {0};
    lock_acquire(&w->lock);
    t->instant = t->woken_early ? 0 : instant;
    bool added = t->heap_index >= 0 || heap_add(w, t);
    if (added) {
        heap_move(w, t);
    }
    bool running = w->running;
    lock_release(&w->lock);
    if (!added) {
        PyErr_NoMemory();
        return -1;
    }
    int answer = running ? 0 : arm(w, &k);
    return error_set(&k) ? -1 : answer;
}

void waker_forget(WakerObject *w, TaskWaitObject *t) {
    lock_acquire(&w->lock);
    bool kept = t->heap_index >= 0;
    if (kept) {
        heap_remove(w, t);
    }
    lock_release(&w->lock);
    if (kept) {
        Py_DECREF(t);
    }
}

bool waker_enqueue(WakerObject *w, TaskWaitObject *t, WakerObject **call) {
    *call = NULL;
    lock_acquire(&w->lock);
    bool waits = t->heap_index >= 0;
    if (waits) {
        t->next_woken = NULL;
        *w->ready_end = t;
        w->ready_end = &t->next_woken;
        if (!w->running && !w->signalled && !timer_signal(w)) {
            w->signalled = true;
            *call = (WakerObject *)Py_NewRef(w);
        }
    } else {
        t->woken_early = true;
    }
    lock_release(&w->lock);
    return waits;
}

void waker_call(WakerObject *w, struct kept_error *k) {
    PyObject *loop = weak_target(w->loop);
    PyObject *self = (PyObject *)w;
    enum loop_answer done =
        loop == NULL ? LOOP_CLOSED : loop_call(k, loop, "call_soon_threadsafe", &self, 1, NULL, NULL);
    if (done == LOOP_FAILED) {
        error_keep(k);
        lock_acquire(&w->lock);
        w->signalled = false; /* the next one tries again */
        lock_release(&w->lock);
    }
    Py_XDECREF(loop);
}

/* ---- types ---- */

/* What waker_call gives to the loop. */
static PyObject *waker_called(PyObject *object, PyObject *args, PyObject *kwargs) {
    (void)args;
    (void)kwargs;
    WakerObject *w = (WakerObject *)object;
    struct kept_error k = {0};
    lock_acquire(&w->lock);
    w->signalled = false;
    w->running = true;
    lock_release(&w->lock);
    waker_run(w, &k);
    return error_set(&k) ? NULL : Py_NewRef(Py_None);
}

static void waker_dealloc(PyObject *object) {
    WakerObject *w = (WakerObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    fork_forget(&w->fork);
    Py_XDECREF(w->loop);
    Py_XDECREF(w->handle);
    PyMem_RawFree(w->heap);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

static int waker_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    return 0;
}

static PyType_Slot waker_slots[] = {
    {Py_tp_dealloc, waker_dealloc}, {Py_tp_traverse, waker_traverse}, {Py_tp_call, waker_called}, {0, NULL}};
static PyType_Spec waker_spec = {"headway._core.Waker", sizeof(WakerObject), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                 waker_slots};

PyTypeObject *waker_type_make(PyObject *module) {
    return type_make(module, &waker_spec, NULL, NULL);
}

static PyType_Slot alarm_slots[] = {
    {Py_tp_dealloc, alarm_dealloc}, {Py_tp_traverse, alarm_traverse}, {Py_tp_call, alarm_call}, {0, NULL}};
static PyType_Spec alarm_spec = {"headway._core.Alarm", sizeof(AlarmObject), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                 alarm_slots};

PyTypeObject *alarm_type_make(PyObject *module) {
    return type_make(module, &alarm_spec, NULL, NULL);
}
