/* Who holds a permit: the running task of asyncio, or the thread.
 *
 * A holder is a weak reference. The interpreter keeps one such reference per object, so the same task always gives the same pointer, which is
 * what the semaphore finds a lease by; and when the object is gone, so is the holder. A thread is stood for by an object that lives
 * in the interpreter's own dict for the thread and dies with it. */
#include "kept_error.h"
#include "module.h"

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
} ThreadLifeObject;

PyObject *holder_thread(struct module_state *m) {
    PyObject *dict = PyThreadState_GetDict(); /* borrowed; NULL without an exception when there is none */
    if (dict == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this thread has no interpreter");
        return NULL;
    }
    PyObject *life = PyDict_GetItemWithError(dict, m->str_thread_life);
    if (life != NULL) {
        return PyWeakref_NewRef(life, NULL);
    }
    if (PyErr_Occurred()) {
        return NULL;
    }
    ThreadLifeObject *made = PyObject_New(ThreadLifeObject, m->thread_life);
    if (made == NULL) {
        return NULL;
    }
    made->weakrefs = NULL;
    PyObject *holder = NULL;
    if (PyDict_SetItem(dict, m->str_thread_life, (PyObject *)made) == 0) {
        holder = PyWeakref_NewRef((PyObject *)made, NULL);
    }
    Py_DECREF(made);
    return holder;
}

/* Finds asyncio's functions where asyncio is loaded. 1, 0 where it is not, -1 with an exception. */
static int find_asyncio(struct module_state *m) {
    if (once_get(&m->current_task) != NULL) {
        return 1;
    }
    if (PyDict_GetItemString(PyImport_GetModuleDict(), "asyncio") == NULL) {
        return 0;
    }
    if (import_once(&m->get_running_loop, "asyncio.events", "_get_running_loop") < 0 ||
        import_once(&m->cancelled_error, "asyncio", "CancelledError") < 0) {
        return -1;
    }
#if PY_VERSION_HEX >= 0x030C0000
    return import_once(&m->current_task, "asyncio", "current_task") < 0 ? -1 : 1;
#else
    return import_once(&m->current_task, "asyncio.tasks", "_current_tasks") < 0 ? -1 : 1; /* a dict: loop -> task */
#endif
}

PyObject *running_loop(struct module_state *m) {
    if (find_asyncio(m) <= 0) {
        return NULL;
    }
    PyObject *loop = PyObject_CallNoArgs(once_get(&m->get_running_loop));
    if (loop == Py_None) {
        Py_CLEAR(loop);
    }
    return loop;
}

#if PY_VERSION_HEX < 0x030C0000
/* Before Python 3.12 asking for the running loop asks for the process' number, a system call. Where one task runs in all the process and
 * its loop says that it runs in this thread, there is no need to. NULL, without an exception: ask. */
static PyObject *only_task(struct module_state *m) {
    PyObject *loop, *task, *found = NULL;
    Py_ssize_t at = 0;
    if (find_asyncio(m) <= 0 || PyDict_GET_SIZE(m->current_task) != 1 ||
        !PyDict_Next(m->current_task, &at, &loop, &task)) {
        return NULL;
    }
    Py_INCREF(loop);
    Py_INCREF(task);
    PyObject *thread = PyObject_GetAttr(loop, m->str_thread_id);
    if (thread != NULL && PyLong_CheckExact(thread) && PyLong_AsUnsignedLong(thread) == PyThread_get_thread_ident()) {
        found = Py_NewRef(task);
    }
    if (PyErr_Occurred() &&
        (PyErr_ExceptionMatches(PyExc_AttributeError) || PyErr_ExceptionMatches(PyExc_OverflowError))) {
        PyErr_Clear(); /* a loop that keeps its thread elsewhere */
    }
    Py_XDECREF(thread);
    Py_DECREF(loop);
    Py_DECREF(task);
    return found;
}
#endif

/* The running task, or NULL, without an exception where none runs. */
static PyObject *running_task(struct module_state *m) {
#if PY_VERSION_HEX < 0x030C0000
    PyObject *only = only_task(m);
    if (only != NULL) {
        return only;
    }
    if (PyErr_Occurred()) {
        return NULL;
    }
#endif
    PyObject *loop = running_loop(m);
    if (loop == NULL) {
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030C0000
    PyObject *task = PyObject_CallOneArg(once_get(&m->current_task), loop);
    if (task == Py_None) {
        Py_CLEAR(task);
    }
#else
    PyObject *task = Py_XNewRef(PyDict_GetItemWithError(m->current_task, loop));
#endif
    Py_DECREF(loop);
    return task;
}

PyObject *holder_task(struct module_state *m) {
    PyObject *task = running_task(m);
    if (task == NULL) {
        return PyErr_Occurred() ? NULL : holder_thread(m);
    }
    PyObject *holder = PyWeakref_NewRef(task, NULL);
    Py_DECREF(task);
    return holder;
}

/* An exception of code that a look at a holder runs, where there is one. A missing attribute says that this is no task of asyncio. What a
 * signal handler raises meanwhile is raised a moment later. */
static void settle_error(PyObject *object) {
    if (PyErr_Occurred() != NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
    } else {
        error_defer_set(object);
    }
}

/* Takes the reference over; NULL: an exception, which is settled. */
static bool is_true(PyObject *answer, PyObject *of) {
    int yes = answer == NULL ? -1 : PyObject_IsTrue(answer);
    settle_error(of);
    Py_XDECREF(answer);
    return yes > 0;
}

bool holder_lives(struct module_state *m, PyObject *holder) {
    PyObject *alive = weak_target(holder);
    if (alive == NULL) {
        return false;
    }
    bool lives = true;
    if (!Py_IS_TYPE(alive, m->thread_life)) { /* a task that is done, or whose loop is closed, will not come back */
        PyObject *loop = PyObject_CallMethod(alive, "get_loop", NULL);
        settle_error(alive);
        lives = !is_true(PyObject_CallMethod(alive, "done", NULL), alive);
        if (lives && loop != NULL) {
            lives = !is_true(PyObject_CallMethod(loop, "is_closed", NULL), alive);
        }
        Py_XDECREF(loop);
    }
    Py_DECREF(alive);
    return lives;
}

#define CHAIN_MOST 1000 /* coroutines that await one another */

/* An attribute: a new reference, or NULL without an exception where there is none. */
static PyObject *attribute(PyObject *object, const char *name) {
    PyObject *value = PyObject_GetAttrString(object, name);
    settle_error(object);
    return value;
}

/* A task that awaits something has a future to wait for, and its coroutines are suspended; while it runs there is none. One with both, a
 * future and a coroutine that runs or has ended, is neither: it is being destroyed. That holds whether or not the collector has
 * cleared its weak reference by then (CPython 3.15 does so later than those before it). */
bool holder_is_closing(PyObject *holder) {
    PyObject *task = weak_target(holder);
    PyObject *future = task == NULL ? NULL : attribute(task, "_fut_waiter");
    bool closing = false;
    if (future != NULL && future != Py_None) {
        PyObject *coroutine = PyObject_CallMethod(task, "get_coro", NULL);
        settle_error(task);
        for (int i = 0; coroutine != NULL && !closing && i < CHAIN_MOST; i++) {
            PyObject *frame = attribute(coroutine, "cr_frame"), *next = NULL;
            if (frame != NULL) {
                closing = frame == Py_None || is_true(attribute(coroutine, "cr_running"), coroutine);
                next = attribute(coroutine, "cr_await");
            }
            Py_XDECREF(frame);
            Py_SETREF(coroutine, next);
        }
        Py_XDECREF(coroutine);
    }
    Py_XDECREF(future);
    Py_XDECREF(task);
    return closing;
}

/* ---- for permits that are kept on a server, which Python looks after ---- */

static PyObject *thread_function(PyObject *module, PyObject *unused) {
    (void)unused;
    return holder_thread(PyModule_GetState(module));
}

static PyObject *task_function(PyObject *module, PyObject *unused) {
    (void)unused;
    return holder_task(PyModule_GetState(module));
}

static PyObject *closing_function(PyObject *module, PyObject *holder) {
    (void)module;
    if (!PyWeakref_Check(holder)) {
        PyErr_SetString(PyExc_TypeError, "a holder is a weak reference");
        return NULL;
    }
    return PyBool_FromLong(holder_is_closing(holder));
}

static PyObject *lives_function(PyObject *module, PyObject *holder) {
    if (!PyWeakref_Check(holder)) {
        PyErr_SetString(PyExc_TypeError, "a holder is a weak reference");
        return NULL;
    }
    return PyBool_FromLong(holder_lives(PyModule_GetState(module), holder));
}

PyMethodDef holder_functions[] = {
    {"_holder_thread", thread_function, METH_NOARGS,
     "_holder_thread()\n--\n\nThis thread: a weak reference that dies with it, the same at each call."},
    {"_holder_task", task_function, METH_NOARGS,
     "_holder_task()\n--\n\nThe running task of asyncio, by a weak reference; the thread where none runs."},
    {"_holder_lives", lives_function, METH_O,
     "_holder_lives(holder, /)\n--\n\nWhether the thread runs still; whether the task is not done and its loop open."},
    {"_holder_is_closing", closing_function, METH_O,
     "_holder_is_closing(holder, /)\n--\n\nWhether the task is not done and its coroutine is being closed, by the collector say."},
    {NULL, NULL, 0, NULL},
};

/* ---- ThreadLife ---- */

static void thread_life_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    if (((ThreadLifeObject *)object)->weakrefs != NULL) {
        PyObject_ClearWeakRefs(object);
    }
    PyObject_Free(object);
    Py_DECREF(type);
}

static PyMemberDef thread_life_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(ThreadLifeObject, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot thread_life_slots[] = {
    {Py_tp_doc, "Lives as long as a thread does."},
    {Py_tp_dealloc, thread_life_dealloc},
    {Py_tp_members, thread_life_members},
    {0, NULL},
};
static PyType_Spec thread_life_spec = {"headway._core.ThreadLife", sizeof(ThreadLifeObject), 0,
                                       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, thread_life_slots};

PyTypeObject *thread_life_type_make(PyObject *module) {
    return type_make(module, &thread_life_spec, NULL, NULL);
}
