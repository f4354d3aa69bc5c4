/* Waker: one per event loop of asyncio; see task.h.
 *
 * The loop knows the waker as one callable, the alarm, and calls it when the earliest waiter is due or when somebody was woken.
 * While anybody waits the loop always holds the alarm, in a timer or by a descriptor that it watches, and nobody else does: so the alarm
 * dies when the loop is closed, and those who waited leave their lines then and there.
 *
 * The heap owns those who wait, as a loop's timers own who sleeps: a task that nobody else remembers must not be collected in the midst of
 * its wait. To the collector these references are the alarm's, so that a loop that is dropped unclosed takes its waiters along. */
#include "clock.h"
#include "task.h"

/* So many are seen to in one go of the loop, a millisecond or two; then others have a turn. */
#define BATCH 256
#define FAR_S 3600.0

typedef struct {
    PyObject_HEAD
    WakerObject *waker;
} AlarmObject;

/* ---- the heap ---- */

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

/* ---- the alarm ---- */

static PyObject *alarm_of(WakerObject *w) {
    if (w->alarm != NULL) {
        return Py_NewRef(w->alarm);
    }
    AlarmObject *alarm = PyObject_GC_New(AlarmObject, w->module->alarm);
    if (alarm != NULL) {
        alarm->waker = (WakerObject *)Py_NewRef(w);
        PyObject_GC_Track(alarm);
        w->alarm = (PyObject *)alarm;
    }
    return (PyObject *)alarm;
}

static void disarm(WakerObject *w) {
    if (w->timer >= 0) {
        timer_set(w, NULL, NULL, INT64_MAX);
    }
    if (w->handle != NULL) {
        PyObject *handle = weak_target(w->handle);
        Py_CLEAR(w->handle);
        if (handle != NULL) {
            PyObject *done = PyObject_CallMethod(handle, "cancel", NULL);
            if (done == NULL) {
                PyErr_Clear();
            }
            Py_XDECREF(done);
        }
        Py_XDECREF(handle);
    }
    w->armed = INT64_MAX;
}

/* Sees to it that the loop calls at the instant of the earliest. -1: the loop takes no more calls. */
static int arm(WakerObject *w) {
    lock_acquire(&w->lock);
    Py_ssize_t count = w->count;
    int64_t earliest = count > 0 ? w->heap[0]->instant : INT64_MAX;
    lock_release(&w->lock);
    if (w->running || (count > 0 && w->armed <= earliest && w->alarm != NULL)) {
        return 0;
    }
    if (count == 0) {
        disarm(w);
        return 0;
    }
    PyObject *alarm = alarm_of(w); /* held while it changes hands, lest it look as if the loop had dropped it */
    PyObject *loop = weak_target(w->loop);
    int answer = alarm == NULL || loop == NULL ? -1 : 0;
    if (answer == 0 && timer_set(w, loop, alarm, earliest)) {
        w->armed = earliest;
    } else if (answer == 0) {
        disarm(w);
        double delay = earliest == INT64_MAX ? FAR_S : (double)(earliest - clock_now()) / 1e9;
        delay = delay < 0 ? 0 : delay > FAR_S ? FAR_S : delay;
        PyObject *handle = PyObject_CallMethod(loop, "call_later", "dO", delay, alarm);
        if (handle == NULL) {
            answer = -1;
        } else {
            w->armed = delay < FAR_S ? earliest : clock_now() + (int64_t)FAR_S * NS_PER_S;
            w->handle = PyWeakref_NewRef(handle, NULL);
            if (w->handle == NULL) {
                PyErr_Clear(); /* a loop of another make; its stale timers do no harm */
            }
            Py_DECREF(handle);
        }
    }
    Py_XDECREF(loop);
    Py_XDECREF(alarm);
    return answer;
}

/* The loop is closed. Those who wait on it leave their lines; their tasks will never run again. */
static void abandon(WakerObject *w) {
    for (;;) {
        lock_acquire(&w->lock);
        TaskWaitObject *t = w->count > 0 ? w->heap[0] : NULL;
        Py_XINCREF(t);
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
    w->scheduled = false;
    lock_release(&w->lock);
    while (ready != NULL) {
        TaskWaitObject *t = ready;
        ready = t->next_woken;
        atomic_store(&t->queued, false);
        Py_DECREF(t);
    }
}

/* The call has failed because the loop is closed, or being torn down. */
static void fail(WakerObject *w) {
    PyErr_Clear();
    abandon(w);
}

static void schedule(WakerObject *w) {
    bool here = w->thread == PyThread_get_thread_ident();
    PyObject *loop = weak_target(w->loop);
    PyObject *alarm = loop == NULL ? NULL : alarm_of(w);
    PyObject *handle =
        alarm == NULL ? NULL : PyObject_CallMethod(loop, here ? "call_soon" : "call_soon_threadsafe", "O", alarm);
    if (handle == NULL) {
        fail(w);
    }
    Py_XDECREF(handle);
    Py_XDECREF(loop);
    Py_XDECREF(alarm);
}

/* Who is next to be looked at: those that were woken, in the order of their line; then who is due and was not woken, whose look serves
 * its line. A new reference. */
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

void waker_run(WakerObject *w) {
    timer_heard(w);
    int64_t now = clock_now();
    w->thread = PyThread_get_thread_ident();
    w->running = true;
    w->armed = INT64_MAX;
    for (int budget = BATCH; budget > 0; budget--) {
        wait_flush(w->module);
        TaskWaitObject *t = next_up(w, now);
        if (t == NULL) {
            break;
        }
        task_wait_look(t);
        Py_DECREF(t);
    }
    wait_flush(w->module);
    w->running = false;
    lock_acquire(&w->lock);
    bool more = w->ready != NULL;
    w->scheduled = more;
    lock_release(&w->lock);
    if (more) {
        schedule(w);
    }
    if (arm(w) < 0) {
        fail(w);
    }
}

static PyObject *alarm_call(PyObject *object, PyObject *args, PyObject *kwargs) {
    (void)args;
    (void)kwargs;
    WakerObject *w = (WakerObject *)Py_NewRef(((AlarmObject *)object)->waker);
    waker_run(w);
    Py_DECREF(w);
    Py_RETURN_NONE;
}

static int alarm_traverse(PyObject *object, visitproc visit, void *arg) {
    const WakerObject *w = ((AlarmObject *)object)->waker;
    Py_VISIT(Py_TYPE(object));
    for (Py_ssize_t i = 0; i < w->count; i++) {
        Py_VISIT(w->heap[i]);
    }
    return 0;
}

static void alarm_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    WakerObject *w = ((AlarmObject *)object)->waker;
    PyObject_GC_UnTrack(object);
    w->alarm = NULL;
    timer_close(w);
    PyObject_GC_Del(object);
    Py_DECREF(type);
    if (w->count > 0 || w->ready != NULL) {
        PyObject *error_type, *error, *traceback;
        PyErr_Fetch(&error_type, &error, &traceback);
        abandon(w);
        PyErr_Restore(error_type, error, traceback);
    }
    Py_DECREF(w);
}

/* ---- what the TaskWaits call ---- */

WakerObject *waker_of(struct module_state *m, PyObject *loop) {
    if (weak_dict_once(&m->wakers) < 0) {
        return NULL;
    }
    WakerObject *w = (WakerObject *)PyObject_GetItem(m->wakers, loop);
    if (w == NULL && PyErr_ExceptionMatches(PyExc_KeyError)) {
        PyErr_Clear();
        w = PyObject_GC_New(WakerObject, m->waker);
        if (w != NULL) {
            memset((char *)w + sizeof(PyObject), 0, sizeof *w - sizeof(PyObject));
            w->module = m;
            w->armed = INT64_MAX;
            w->ready_end = &w->ready;
            w->timer = -1;
            lock_init(&w->lock);
            w->loop = PyWeakref_NewRef(loop, NULL);
            PyObject_GC_Track(w);
            if (w->loop == NULL || PyObject_SetItem(m->wakers, loop, (PyObject *)w) < 0) {
                Py_CLEAR(w);
            }
        }
    }
    if (w != NULL) {
        w->thread = PyThread_get_thread_ident();
    }
    return w;
}

int waker_keep(WakerObject *w, TaskWaitObject *t, int64_t instant) {
    int answer = 0;
    lock_acquire(&w->lock);
    t->instant = instant;
    if (t->heap_index >= 0) {
        heap_move(w, t);
    } else {
        if (w->count == w->room) {
            Py_ssize_t room = w->room == 0 ? 16 : w->room * 2;
            TaskWaitObject **heap = PyMem_RawRealloc(w->heap, (size_t)room * sizeof *heap);
            if (heap == NULL) {
                answer = -1;
            } else {
                w->heap = heap;
                w->room = room;
            }
        }
        if (answer == 0) {
            heap_up(w, w->count++, (TaskWaitObject *)Py_NewRef(t));
        }
    }
    lock_release(&w->lock);
    if (answer < 0) {
        PyErr_NoMemory();
        return -1;
    }
    return arm(w);
}

void waker_forget(WakerObject *w, TaskWaitObject *t) {
    lock_acquire(&w->lock);
    bool kept = t->heap_index >= 0;
    if (kept) {
        heap_remove(w, t);
    }
    bool idle = w->count == 0 && w->ready == NULL;
    lock_release(&w->lock);
    if (idle && !w->running && w->thread == PyThread_get_thread_ident()) {
        PyObject *error_type, *error, *traceback;
        PyErr_Fetch(&error_type, &error, &traceback);
        disarm(w);
        PyErr_Restore(error_type, error, traceback);
    }
    if (kept) {
        Py_DECREF(t);
    }
}

void waker_enqueue(WakerObject *w, TaskWaitObject *t) {
    t->next_woken = NULL;
    lock_acquire(&w->lock);
    *w->ready_end = t;
    w->ready_end = &t->next_woken;
    bool schedule_now = !w->scheduled && !w->running;
    w->scheduled = w->scheduled || schedule_now;
    lock_release(&w->lock);
    if (schedule_now) {
        schedule(w);
    }
}

/* ---- types ---- */

static void waker_dealloc(PyObject *object) {
    WakerObject *w = (WakerObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    timer_close(w);
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

static PyType_Slot waker_slots[] = {{Py_tp_dealloc, waker_dealloc}, {Py_tp_traverse, waker_traverse}, {0, NULL}};
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
