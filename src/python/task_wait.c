/* TaskWait: a position in a line on which a task sleeps; see task.h.
 *
 * To asyncio it is a future: the task yields it, asyncio leaves a callback, and the callback is called when the wait is decided or
 * cancelled. To others (trio) it is an object to poll: `callback` is called whenever a look may be worth while. */
#include "task.h"

#include "clock.h"

static TaskWaitObject *of_waiter(struct waiter *w) {
    return (TaskWaitObject *)((char *)w - offsetof(TaskWaitObject, wait));
}

/* Called by the core, under its lock: only puts the task on the list. In one line this comes in the order of service. */
static void wake_task(struct waiter *waiter) {
    TaskWaitObject *t = of_waiter(waiter);
    if (waiter->served && atomic_load_explicit(&t->turn, memory_order_relaxed) == 0) {
        atomic_store(&t->turn, atomic_fetch_add(&t->module->turns, 1) + 1);
    }
    if (atomic_exchange(&t->queued, true)) {
        return;
    }
    Py_INCREF(t);
    TaskWaitObject *first = atomic_load(&t->module->woken);
    do {
        t->next_woken = first;
    } while (!atomic_compare_exchange_weak(&t->module->woken, &first, t));
}

/* Of those that are not of asyncio: there is news. */
static void tell(TaskWaitObject *t) {
    PyObject *callback = NULL;
    Py_BEGIN_CRITICAL_SECTION(t);
    if (t->state == TASK_WAITING && t->waker == NULL) {
        callback = Py_XNewRef(t->callback);
    }
    Py_END_CRITICAL_SECTION();
    if (callback != NULL) {
        struct kept_error k = {0};
        if (loop_call(&k, callback, NULL, NULL, 0, NULL, NULL) == LOOP_FAILED) {
            error_keep(&k);
        }
        error_defer(&k, callback);
        Py_DECREF(callback);
    }
}

/* Hands those that were woken to their wakers: all at once, so that another thread that does the same comes before or after, and those of
 * one line stay in order. What may run Python code comes after that. */
void wait_flush_now(struct module_state *m) {
    TaskWaitObject *list = NULL, *others = NULL, **others_end = &others;
    WakerObject *called = NULL, *w;
    lock_acquire(&m->woken_lock);
    TaskWaitObject *newest = atomic_exchange(&m->woken, NULL);
    while (newest != NULL) { /* turned round: the first woken first */
        TaskWaitObject *next = newest->next_woken;
        newest->next_woken = list;
        list = newest;
        newest = next;
    }
    while (list != NULL) {
        TaskWaitObject *t = list;
        list = t->next_woken;
        if (t->waker != NULL && waker_enqueue(t->waker, t, &w)) {
            if (w != NULL) {
                w->next_called = called;
                called = w;
            }
        } else {
            t->next_woken = NULL;
            *others_end = t;
            others_end = &t->next_woken;
        }
    }
    lock_release(&m->woken_lock);
    if (others == NULL && called == NULL) {
        return;
    }
    PyObject *error_type, *error, *traceback;
    PyErr_Fetch(&error_type, &error, &traceback);
    while ((w = called) != NULL) {
        struct kept_error k = {0};
        called = w->next_called;
        waker_call(w, &k);
        error_defer(&k, NULL);
        Py_DECREF(w);
    }
    while (others != NULL) {
        TaskWaitObject *t = others;
        others = t->next_woken;
        atomic_store(&t->queued, false);
        tell(t);
        Py_DECREF(t);
    }
    PyErr_Restore(error_type, error, traceback);
}

static void fork_nothing(struct fork_owner *o) {
    (void)o;
}
static void fork_child(struct fork_owner *o) {
    struct module_state *m = (struct module_state *)((char *)o - offsetof(struct module_state, woken_fork));
    lock_init(&m->woken_lock);
}

void wait_start(struct module_state *m) {
    lock_init(&m->woken_lock);
    m->woken_fork = (struct fork_owner){.take = fork_nothing, .give = fork_nothing, .child = fork_child};
    fork_register(&m->woken_fork);
}

void wait_stop(struct module_state *m) {
    if (m->woken_fork.child != NULL) {
        fork_forget(&m->woken_fork);
        m->woken_fork.child = NULL;
    }
}

/* ---- life of a wait ---- */

TaskWaitObject *task_wait_new(struct module_state *m, PyObject *place, PyObject *plan, PyObject *key, PyObject *loop) {
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
    t->place = Py_XNewRef(place);
    t->plan = plan;
    t->key = key;
    t->loop = Py_XNewRef(loop);
    t->waker = waker;
    t->heap_index = -1;
    wait_init(&t->wait, wake_task, waker != NULL ? (const void *)waker : (const void *)m);
    PyObject_GC_Track(t);
    return t;
}

int task_wait_sleep(TaskWaitObject *t, int64_t until) {
    if (t->waker != NULL && waker_keep(t->waker, t, wait_is_virtual(&t->wait) ? INT64_MAX : until) < 0) {
        task_wait_give_up(t);
        return -1;
    }
    return 0;
}

void task_wait_give_up(TaskWaitObject *t) {
    Py_INCREF(t); /* the waker's may be the last reference */
    if (t->state == TASK_WAITING) {
        t->state = TASK_CANCELLED;
    }
    if (t->waker != NULL) {
        waker_forget(t->waker, t);
    }
    if (t->wait.stage == WAIT_BEGUN) {
        wait_cancel(&t->wait);
        wait_flush(t->module);
    }
    Py_DECREF(t);
}

void task_wait_abort(TaskWaitObject *t) {
    struct kept_error k = {0};
    bool sleeps = t->state == TASK_WAITING && t->loop != NULL && (t->callback != NULL || t->more != NULL);
    task_wait_give_up(t);
    if (sleeps && task_wait_complete(t, &k) < 0) {
        t->scheduled = false;
    }
    error_defer(&k, NULL);
}

/* The loop is asked to call the TaskWait: without an argument for `callback`, with a number for that one of `more`. */
static enum loop_answer call_soon(TaskWaitObject *t, struct kept_error *k, PyObject *number, PyObject *context) {
    PyObject *args[3] = {(PyObject *)t};
    size_t count = 1;
    if (number != NULL) {
        args[count++] = number;
    }
    args[count] = context;
    return loop_call(k, t->loop, "call_soon", args, count, context != NULL ? t->module->context_name : NULL, NULL);
}

/* The same for all of `more`. -1: the loop refused, for a reason that is kept. */
static int complete_more(TaskWaitObject *t, struct kept_error *k) {
    while (t->loop != NULL && t->more != NULL && t->more_called < PyList_GET_SIZE(t->more)) {
        PyObject *pair = Py_NewRef(PyList_GET_ITEM(t->more, t->more_called));
        PyObject *number = PyLong_FromSsize_t(t->more_called);
        PyObject *context = PyTuple_GET_ITEM(pair, 1);
        t->more_called++;
        enum loop_answer done =
            number == NULL ? LOOP_FAILED : call_soon(t, k, number, context == Py_None ? NULL : context);
        Py_XDECREF(number);
        Py_DECREF(pair);
        if (done == LOOP_FAILED) {
            error_keep(k);
            t->more_called--;
            return -1;
        }
    }
    return 0;
}

/* The loop calls the TaskWait itself, which calls back once, however often a call had to be tried again. */
int task_wait_complete(TaskWaitObject *t, struct kept_error *k) {
    if (t->callback != NULL && t->loop != NULL && !t->scheduled) {
        t->scheduled = true;
        enum loop_answer done = call_soon(t, k, NULL, t->context);
        if (done == LOOP_CLOSED) {
            task_wait_give_up(t);
        }
        if (done == LOOP_FAILED) {
            error_keep(k);
            t->scheduled = false;
            return -1;
        }
    }
    return t->more == NULL ? 0 : complete_more(t, k);
}

/* One of `more`, once. */
static PyObject *call_one_more(TaskWaitObject *t, PyObject *number) {
    Py_ssize_t i = PyLong_AsSsize_t(number);
    if (i == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (t->more == NULL || i < 0 || i >= t->more_called || PyList_GET_ITEM(t->more, i) == Py_None) {
        Py_RETURN_NONE;
    }
    PyObject *pair = PyList_GET_ITEM(t->more, i); /* its reference is ours now */
    PyList_SET_ITEM(t->more, i, Py_NewRef(Py_None));
    PyObject *answer = PyObject_CallOneArg(PyTuple_GET_ITEM(pair, 0), (PyObject *)t);
    Py_DECREF(pair);
    return answer;
}

static PyObject *task_wait_called(PyObject *object, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    TaskWaitObject *t = (TaskWaitObject *)object;
    if (PyTuple_GET_SIZE(args) > 0) {
        return call_one_more(t, PyTuple_GET_ITEM(args, 0));
    }
    PyObject *callback = t->callback;
    if (callback == NULL) {
        Py_RETURN_NONE;
    }
    t->callback = NULL;
    t->scheduled = false;
    Py_CLEAR(t->context);
    PyObject *answer = PyObject_CallOneArg(callback, object);
    Py_DECREF(callback);
    return answer;
}

bool task_wait_look(TaskWaitObject *t, struct kept_error *k) {
    int64_t until;
    if (t->state == TASK_WAITING) {
        if (!wait_check(&t->wait, t->module, k, &until)) {
            if (waker_keep(t->waker, t, wait_is_virtual(&t->wait) ? INT64_MAX : until) < 0) {
                error_keep(k);
            }
            return false;
        }
        t->state = TASK_DECIDED;
    }
    waker_forget(t->waker, t);
    return true;
}

int task_wait_result(TaskWaitObject *t) {
    if (t->state == TASK_DECIDED) {
        return 0;
    }
    if (t->state == TASK_WAITING) {
        PyErr_SetString(PyExc_RuntimeError, "the wait is not over");
    } else if (t->message != NULL) {
        PyErr_SetObject(t->module->cancelled_error, t->message);
    } else {
        PyErr_SetNone(t->module->cancelled_error);
    }
    return -1;
}

/* ---- as a future ---- */

static PyObject *complete_now(TaskWaitObject *t, PyObject *answer) {
    struct kept_error k = {0};
    task_wait_complete(t, &k);
    return error_set(&k) ? NULL : Py_NewRef(answer);
}

static int add_one_more(TaskWaitObject *t, PyObject *callback, PyObject *context) {
    PyObject *pair = PyTuple_Pack(2, callback, context == NULL ? Py_None : context);
    if (pair != NULL && t->more == NULL) {
        t->more = PyList_New(0);
    }
    int answer = pair == NULL || t->more == NULL ? -1 : PyList_Append(t->more, pair);
    Py_XDECREF(pair);
    return answer;
}

static PyObject *future_add_done_callback(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"fn", "context", NULL};
    TaskWaitObject *t = (TaskWaitObject *)object;
    PyObject *callback, *context = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$O:add_done_callback", names, &callback, &context)) {
        return NULL;
    }
    if (t->callback == NULL && t->more == NULL) {
        t->callback = Py_NewRef(callback);
        t->context = context == NULL || context == Py_None ? NULL : Py_NewRef(context);
    } else if (add_one_more(t, callback, context) < 0) {
        return NULL;
    }
    return t->state == TASK_WAITING ? Py_NewRef(Py_None) : complete_now(t, Py_None);
}

/* Takes out those of `more` that are equal to `callback` and that the loop has not been asked to call. How many; -1: an exception. */
static Py_ssize_t remove_more(TaskWaitObject *t, PyObject *callback) {
    Py_ssize_t removed = 0;
    for (Py_ssize_t i = t->more_called; t->more != NULL && i < PyList_GET_SIZE(t->more);) {
        PyObject *pair = Py_NewRef(PyList_GET_ITEM(t->more, i));
        int same = PyObject_RichCompareBool(PyTuple_GET_ITEM(pair, 0), callback, Py_EQ); /* may add or remove some */
        bool still = i >= t->more_called && i < PyList_GET_SIZE(t->more) && PyList_GET_ITEM(t->more, i) == pair;
        Py_DECREF(pair);
        if (same < 0 || (same && still && PyList_SetSlice(t->more, i, i + 1, NULL) < 0)) {
            return -1;
        }
        removed += same && still;
        i += !(same && still);
    }
    return removed;
}

/* As a future, which does not know those any more that the loop has been asked to call. */
static PyObject *future_remove_done_callback(PyObject *object, PyObject *callback) {
    TaskWaitObject *t = (TaskWaitObject *)object;
    PyObject *first = t->scheduled ? NULL : Py_XNewRef(t->callback);
    int same = first == NULL ? 0 : PyObject_RichCompareBool(first, callback, Py_EQ);
    if (same > 0 && t->callback == first && !t->scheduled) {
        Py_CLEAR(t->callback);
        Py_CLEAR(t->context);
    }
    Py_XDECREF(first);
    Py_ssize_t others = same < 0 ? -1 : remove_more(t, callback);
    return others < 0 ? NULL : PyLong_FromSsize_t(same + others);
}

static PyObject *future_cancel(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"msg", NULL};
    TaskWaitObject *t = (TaskWaitObject *)object;
    PyObject *message = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:cancel", names, &message)) {
        return NULL;
    }
    if (t->state != TASK_WAITING && (t->callback == NULL || t->scheduled)) {
        Py_RETURN_FALSE;
    }
    t->state = TASK_CANCELLED;
    Py_XSETREF(t->message, message == Py_None ? NULL : Py_NewRef(message));
    task_wait_give_up(t);
    return complete_now(t, Py_True);
}

static PyObject *future_result(PyObject *object, PyObject *unused) {
    (void)unused;
    TaskWaitObject *t = (TaskWaitObject *)object;
    return task_wait_result(t) < 0 ? NULL : Py_NewRef(Py_None);
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
    struct kept_error k = {0};
    int64_t until = INT64_MAX;
    bool over = t->state != TASK_WAITING || wait_check(&t->wait, t->module, &k, &until);
    wait_flush(t->module);
    if (over && t->state == TASK_WAITING) {
        t->state = TASK_DECIDED;
    }
    if (error_set(&k)) {
        return NULL;
    }
    if (over) {
        Py_RETURN_NONE;
    }
    if (until == INT64_MAX || wait_is_virtual(&t->wait)) {
        return PyFloat_FromDouble((double)INFINITY);
    }
    int64_t rest = until - clock_now();
    return PyFloat_FromDouble(rest > 0 ? (double)rest / 1e9 : 0.0);
}

static PyObject *polled_on_wake(PyObject *object, PyObject *callback) {
    TaskWaitObject *t = (TaskWaitObject *)object;
    PyObject *old;
    Py_BEGIN_CRITICAL_SECTION(t);
    old = t->callback;
    t->callback = callback == Py_None ? NULL : Py_NewRef(callback);
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

/* ---- the object's life ---- */

static int task_wait_traverse(TaskWaitObject *t, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(t));
    Py_VISIT(t->place);
    Py_VISIT(t->key);
    Py_VISIT(t->loop);
    Py_VISIT(t->callback);
    Py_VISIT(t->context);
    Py_VISIT(t->more);
    Py_VISIT(t->message);
    return 0;
}

static int task_wait_clear(TaskWaitObject *t) {
    Py_CLEAR(t->loop);
    Py_CLEAR(t->callback);
    Py_CLEAR(t->context);
    Py_CLEAR(t->more);
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
    Py_XDECREF(t->place);
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
    {Py_tp_call, task_wait_called},
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
