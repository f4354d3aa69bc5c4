/* TaskWait: a place in line on which a task sleeps; see task.h.
 *
 * To asyncio it is a future: the task yields it, asyncio leaves a callback, and the callback is called when the wait is decided or
 * cancelled. To others (trio) it is an object to poll: `callback` is called whenever a look may be worth while. */
#include "task.h"

static TaskWaitObject *of_waiter(struct waiter *w) {
    return (TaskWaitObject *)((char *)w - offsetof(TaskWaitObject, wait));
}

/* Called by the core, under its lock: only puts the task on the list. */
static void wake_task(struct waiter *waiter) {
    TaskWaitObject *t = of_waiter(waiter);
    if (atomic_exchange(&t->queued, true)) {
        return;
    }
    Py_INCREF(t);
    TaskWaitObject *first = atomic_load(&t->module->woken);
    do {
        t->next_woken = first;
    } while (!atomic_compare_exchange_weak(&t->module->woken, &first, t));
}

void wait_flush_now(struct module_state *m) {
    PyObject *error_type, *error, *traceback;
    TaskWaitObject *newest = atomic_exchange(&m->woken, NULL), *list = NULL;
    if (newest == NULL) {
        return;
    }
    PyErr_Fetch(&error_type, &error, &traceback);
    while (newest != NULL) { /* turned round: the first woken first */
        TaskWaitObject *next = newest->next_woken;
        newest->next_woken = list;
        list = newest;
        newest = next;
    }
    while (list != NULL) {
        TaskWaitObject *t = list;
        list = t->next_woken;
        if (t->state == TASK_WAITING && t->waker != NULL) {
            waker_enqueue(t->waker, t);
            continue;
        }
        atomic_store(&t->queued, false);
        if (t->state == TASK_WAITING && t->callback != NULL) {
            PyObject *done = PyObject_CallNoArgs(t->callback);
            if (done == NULL) {
                PyErr_WriteUnraisable(t->callback);
            }
            Py_XDECREF(done);
        }
        Py_DECREF(t);
    }
    PyErr_Restore(error_type, error, traceback);
}

TaskWaitObject *task_wait_new(struct module_state *m, PyObject *owner, PyObject *plan, PyObject *key, PyObject *loop) {
    WakerObject *waker = loop == NULL ? NULL : waker_of(m, loop);
    TaskWaitObject *t = loop != NULL && waker == NULL ? NULL : PyObject_GC_New(TaskWaitObject, m->task_wait);
    if (t == NULL) {
        Py_XDECREF(waker);
        Py_XDECREF(plan);
        Py_XDECREF(key);
        return NULL;
    }
    memset((char *)t + sizeof(PyObject), 0, sizeof *t - sizeof(PyObject));
    t->module = m;
    t->owner = Py_NewRef(owner);
    t->plan = plan;
    t->key = key;
    t->loop = Py_XNewRef(loop);
    t->waker = waker;
    t->heap_index = -1;
    waiter_init(&t->wait.waiter, wake_task, waker != NULL ? (const void *)waker : (const void *)m);
    PyObject_GC_Track(t);
    return t;
}

int task_wait_sleep(TaskWaitObject *t, int64_t until) {
    if (t->waker == NULL) {
        return 0;
    }
    if (waker_keep(t->waker, t, wait_clock(&t->wait) == NULL ? until : INT64_MAX) < 0) {
        task_wait_give_up(t);
        return -1;
    }
    return 0;
}

void task_wait_give_up(TaskWaitObject *t) {
    Py_INCREF(t); /* the waker's may be the last reference */
    if (t->waker != NULL) {
        waker_forget(t->waker, t);
    }
    if (t->begun && !t->taken) {
        t->taken = true;
        wait_cancel(&t->wait);
        wait_flush(t->module);
    }
    Py_DECREF(t);
}

/* Hands the callback to the loop. -1: the loop takes no more. */
static int call_back(TaskWaitObject *t) {
    if (t->callback == NULL || t->loop == NULL) {
        return 0;
    }
    PyObject *callback = t->callback, *context = t->context;
    t->callback = t->context = NULL;
    PyObject *arguments[] = {NULL, t->loop, callback, (PyObject *)t, context};
    PyObject *handle =
        PyObject_VectorcallMethod(t->module->str_call_soon, arguments + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                  context != NULL ? t->module->context_name : NULL);
    Py_DECREF(callback);
    Py_XDECREF(context);
    if (handle == NULL) {
        PyErr_Clear();
        return -1;
    }
    Py_DECREF(handle);
    return 0;
}

/* Of those who were woken since the list was last emptied. */
static bool is_first_woken(const TaskWaitObject *t) {
#ifdef Py_GIL_DISABLED
    (void)t;
    return false; /* another thread may be emptying the list: it comes a little later */
#else
    const TaskWaitObject *w = atomic_load(&t->module->woken);
    while (w != NULL && w->next_woken != NULL) {
        w = w->next_woken;
    }
    return w == t;
#endif
}

void task_wait_look(TaskWaitObject *t) {
    int64_t until;
    if (t->state != TASK_WAITING) {
        return;
    }
    if (!wait_check(t->module, &t->wait, &until)) {
        if (waker_keep(t->waker, t, wait_clock(&t->wait) == NULL ? until : INT64_MAX) < 0) {
            PyErr_Clear();
        }
        return;
    }
    if (atomic_load(&t->queued) && !is_first_woken(t)) { /* others of its line come first, and it comes after them */
        if (waker_keep(t->waker, t, INT64_MAX) < 0) {
            PyErr_Clear();
        }
        return;
    }
    t->state = TASK_DECIDED;
    waker_forget(t->waker, t);
    if (call_back(t) < 0) {
        task_wait_give_up(t);
    }
}

/* ---- as a future ---- */

static PyObject *future_add_done_callback(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"fn", "context", NULL};
    TaskWaitObject *t = (TaskWaitObject *)object;
    PyObject *callback, *context = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$O:add_done_callback", names, &callback, &context)) {
        return NULL;
    }
    if (t->callback != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "one task at a time can wait here");
        return NULL;
    }
    t->callback = Py_NewRef(callback);
    t->context = context == NULL || context == Py_None ? NULL : Py_NewRef(context);
    if (t->state != TASK_WAITING) {
        call_back(t);
    }
    Py_RETURN_NONE;
}

static PyObject *future_remove_done_callback(PyObject *object, PyObject *callback) {
    TaskWaitObject *t = (TaskWaitObject *)object;
    int same = t->callback == NULL ? 0 : PyObject_RichCompareBool(t->callback, callback, Py_EQ);
    if (same < 0) {
        return NULL;
    }
    if (same) {
        Py_CLEAR(t->callback);
        Py_CLEAR(t->context);
    }
    return PyLong_FromLong(same);
}

static PyObject *future_cancel(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"msg", NULL};
    TaskWaitObject *t = (TaskWaitObject *)object;
    PyObject *message = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:cancel", names, &message)) {
        return NULL;
    }
    if (t->state != TASK_WAITING) {
        Py_RETURN_FALSE;
    }
    t->state = TASK_CANCELLED;
    Py_XSETREF(t->message, message == Py_None ? NULL : Py_NewRef(message));
    task_wait_give_up(t);
    call_back(t);
    Py_RETURN_TRUE;
}

static PyObject *future_result(PyObject *object, PyObject *unused) {
    (void)unused;
    TaskWaitObject *t = (TaskWaitObject *)object;
    if (t->state == TASK_DECIDED) {
        Py_RETURN_NONE;
    }
    if (t->state == TASK_WAITING) {
        PyErr_SetString(PyExc_RuntimeError, "the wait is not over");
    } else if (t->message != NULL) {
        PyErr_SetObject(t->module->cancelled_error, t->message);
    } else {
        PyErr_SetNone(t->module->cancelled_error);
    }
    return NULL;
}

static PyObject *future_done(PyObject *object, PyObject *unused) {
    (void)unused;
    return PyBool_FromLong(((TaskWaitObject *)object)->state != TASK_WAITING);
}

static PyObject *future_cancelled(PyObject *object, PyObject *unused) {
    (void)unused;
    return PyBool_FromLong(((TaskWaitObject *)object)->state == TASK_CANCELLED);
}

static PyObject *future_get_loop(PyObject *object, PyObject *unused) {
    (void)unused;
    PyObject *loop = ((TaskWaitObject *)object)->loop;
    return Py_NewRef(loop != NULL ? loop : Py_None);
}

/* ---- to be polled, by headway._trio ---- */

static PyObject *polled_check(PyObject *object, PyObject *unused) {
    (void)unused;
    TaskWaitObject *t = (TaskWaitObject *)object;
    int64_t until;
    bool decided = t->state != TASK_WAITING || wait_check(t->module, &t->wait, &until);
    wait_flush(t->module);
    if (decided) {
        t->state = TASK_DECIDED;
        Py_RETURN_NONE;
    }
    if (until == INT64_MAX || wait_clock(&t->wait) != NULL) {
        return PyFloat_FromDouble((double)INFINITY);
    }
    int64_t rest = until - clock_now();
    return PyFloat_FromDouble(rest > 0 ? (double)rest / 1e9 : 0.0);
}

static PyObject *polled_on_wake(PyObject *object, PyObject *callback) {
    TaskWaitObject *t = (TaskWaitObject *)object;
    Py_XSETREF(t->callback, callback == Py_None ? NULL : Py_NewRef(callback));
    Py_RETURN_NONE;
}

/* ---- life ---- */

static int task_wait_traverse(TaskWaitObject *t, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(t));
    Py_VISIT(t->owner);
    Py_VISIT(t->key);
    Py_VISIT(t->loop);
    Py_VISIT(t->callback);
    Py_VISIT(t->context);
    Py_VISIT(t->message);
    return 0;
}

static int task_wait_clear(TaskWaitObject *t) {
    Py_CLEAR(t->loop);
    Py_CLEAR(t->callback);
    Py_CLEAR(t->context);
    Py_CLEAR(t->message);
    return 0; /* the rest is needed to leave the line */
}

static void task_wait_finalize(PyObject *object) {
    PyObject *error_type, *error, *traceback;
    PyErr_Fetch(&error_type, &error, &traceback);
    task_wait_give_up((TaskWaitObject *)object);
    PyErr_Restore(error_type, error, traceback);
}

static void task_wait_dealloc(PyObject *object) {
    TaskWaitObject *t = (TaskWaitObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (PyObject_CallFinalizerFromDealloc(object) < 0) {
        return;
    }
    PyObject_GC_UnTrack(object);
    task_wait_clear(t);
    Py_XDECREF(t->waker);
    Py_XDECREF(t->plan);
    Py_XDECREF(t->key);
    Py_XDECREF(t->owner);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

static PyMemberDef task_wait_members[] = {
    {"_asyncio_future_blocking", T_BOOL, offsetof(TaskWaitObject, blocking), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};
#define WITH_KEYWORDS(f) ((PyCFunction)(void (*)(void))(f))
static PyMethodDef task_wait_methods[] = {
    {"add_done_callback", WITH_KEYWORDS(future_add_done_callback), METH_VARARGS | METH_KEYWORDS, NULL},
    {"remove_done_callback", future_remove_done_callback, METH_O, NULL},
    {"cancel", WITH_KEYWORDS(future_cancel), METH_VARARGS | METH_KEYWORDS, NULL},
    {"result", future_result, METH_NOARGS, NULL},
    {"done", future_done, METH_NOARGS, NULL},
    {"cancelled", future_cancelled, METH_NOARGS, NULL},
    {"get_loop", future_get_loop, METH_NOARGS, NULL},
    {"_check", polled_check, METH_NOARGS, "Seconds until another look is worth while; None when it is decided."},
    {"_on_wake", polled_on_wake, METH_O, "Sets what is called, from any thread, when a look is worth while."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot task_wait_slots[] = {
    {Py_tp_doc, "A place in line, as a task waits on it. Internal."},
    {Py_tp_dealloc, task_wait_dealloc},
    {Py_tp_traverse, task_wait_traverse},
    {Py_tp_clear, task_wait_clear},
    {Py_tp_finalize, task_wait_finalize},
    {Py_tp_members, task_wait_members},
    {Py_tp_methods, task_wait_methods},
    {0, NULL},
};
static PyType_Spec task_wait_spec = {"headway._core.TaskWait", sizeof(TaskWaitObject), 0,
                                     Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                     task_wait_slots};

PyTypeObject *task_wait_type_make(PyObject *module) {
    return type_make(module, &task_wait_spec, NULL, NULL);
}
