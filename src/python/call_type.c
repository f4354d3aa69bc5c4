/* Call: what `await t.limit()`, `async with t` and `async with semaphore` await.
 *
 * It decides when it is first resumed, and mostly is done by that: it answers through the send slot, and the event loop learns
 * nothing of it. Only where it must wait does it make a TaskWait and yield that. To those who drive it, it is a native coroutine: send,
 * throw and close do what a coroutine's do at each stage, with the same exceptions; it complains when it was never awaited; and it can be
 * given to create_task, gather and wait_for. */
#include "call_type.h"

#include "distant.h"

static const char *const call_names[] = {
    [CALL_LIMIT] = "limit", [CALL_ENTER] = "__aenter__",  [CALL_PEEK] = "peek",
    [CALL_RESET] = "reset", [CALL_PERMIT] = "__aenter__", [CALL_RUN] = "_run_async",
};

/* ---- stages ---- */

static enum call_stage stage_of(CallObject *c) {
    return atomic_load_explicit(&c->stage, memory_order_relaxed);
}

static void set_stage(CallObject *c, enum call_stage stage) {
    atomic_store_explicit(&c->stage, (uint8_t)stage, memory_order_release);
}

/* It runs from here on. False: it runs already, by another thread where there is no GIL. */
static bool set_running(CallObject *c, enum call_stage from) {
#ifdef Py_GIL_DISABLED
    uint8_t expected = (uint8_t)from;
    return from != CALL_RUNNING && atomic_compare_exchange_strong(&c->stage, &expected, CALL_RUNNING);
#else
    set_stage(c, CALL_RUNNING);
    return from != CALL_RUNNING;
#endif
}

static void raise_running(void) {
    PyErr_SetString(PyExc_ValueError, "limiter call already executing");
}

static void raise_done(void) {
    PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited limiter call");
}

/* Done: what it held goes. Keeps an exception that is set. What that runs finds it done. */
static void release(CallObject *c) {
    set_stage(c, CALL_DONE);
    if (c->inner == NULL && c->wait == NULL && c->distant == NULL) {
        return;
    }
    PyObject *error_type, *error, *traceback;
    PyErr_Fetch(&error_type, &error, &traceback);
    Py_CLEAR(c->inner);
    if (c->wait != NULL) {
        TaskWaitObject *wait = c->wait;
        c->wait = NULL;
        task_wait_abort(wait);
        Py_DECREF(wait);
    }
    if (c->distant != NULL) {
        distant_finish(c);
    }
    PyErr_Restore(error_type, error, traceback);
}

/* With StopIteration set: it would pass for the end of the call, and so a coroutine raises RuntimeError instead. */
static void replace_stop_iteration(void) {
    PyObject *type, *error, *traceback, *made;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(error, traceback);
    }
    made = PyObject_CallFunction(PyExc_RuntimeError, "s", "limiter call raised StopIteration");
    if (made != NULL) {
        PyException_SetCause(made, Py_NewRef(error));
        PyException_SetContext(made, Py_NewRef(error));
        PyErr_SetObject(PyExc_RuntimeError, made);
        Py_DECREF(made);
    }
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
}

/* A step of it is over. */
static PySendResult stepped(CallObject *c, PySendResult end) {
    if (end == PYGEN_NEXT) {
        return end;
    }
    if (end == PYGEN_ERROR && PyErr_ExceptionMatches(PyExc_StopIteration)) {
        replace_stop_iteration();
    }
    release(c);
    return end;
}

/* ---- suspending, and going on ---- */

/* What it was suspended on is over: its wait (`end` RETURN), or its coroutine, which returned *result or raised. */
static PySendResult go_on(CallObject *c, enum call_stage stage, PySendResult end, PyObject **result) {
    PyObject *value = *result;
    *result = NULL;
    /* What a coroutine that speaks to a server raises may be on_error's to answer. */
    if (end == PYGEN_RETURN || stage == CALL_CLIENT || stage == CALL_THREAD || stage == CALL_REFRESHING) {
        switch (stage) {
        case CALL_IN_LINE:
            *result = call_take(c);
            end = call_end(*result);
            break;
        case CALL_ATOMIC:
            *result = call_conclude(c, Py_XNewRef(value));
            end = call_end(*result);
            break;
        case CALL_ASKED:
            end = distant_on_reply(c, result);
            break;
        case CALL_CLIENT:
            end = distant_on_client(c, end, value, result);
            break;
        case CALL_THREAD:
            end = distant_on_thread(c, end, result);
            break;
        case CALL_REFRESHING:
            end = distant_on_refreshed(c, end, result);
            break;
        case CALL_ASLEEP:
            end = distant_on_instant(c, result);
            break;
        case CALL_FRESH:
        case CALL_RUNNING:
        case CALL_DONE:
            break;
        }
    }
    Py_XDECREF(value);
    return end;
}

/* Its coroutine has ended. */
static PySendResult on_coroutine_end(CallObject *c, enum call_stage stage, PySendResult end, PyObject **result) {
    PyObject *error_type, *error, *traceback, *inner = c->inner;
    PyErr_Fetch(&error_type, &error, &traceback);
    c->inner = NULL;
    Py_DECREF(inner);
    PyErr_Restore(error_type, error, traceback);
    return go_on(c, stage, end, result);
}

PySendResult call_delegate(CallObject *c, enum call_stage stage, PyObject *coroutine, PyObject **result) {
    *result = NULL;
    if (coroutine == NULL) {
        return PYGEN_ERROR;
    }
    c->inner = coroutine;
    PySendResult end = PyIter_Send(coroutine, Py_None, result);
    if (end == PYGEN_NEXT) {
        set_stage(c, stage);
        return end;
    }
    return on_coroutine_end(c, stage, end, result);
}

static PySendResult yield_wait(CallObject *c, enum call_stage stage, PyObject **result) {
    c->wait->blocking = true;
    *result = Py_NewRef(c->wait);
    set_stage(c, stage);
    return PYGEN_NEXT;
}

PySendResult call_sleep_on(CallObject *c, enum call_stage stage, PyObject *loop, int64_t until, PyObject **result) {
    if (loop != NULL) {
        return task_wait_sleep(c->wait, until) < 0 ? PYGEN_ERROR : yield_wait(c, stage, result);
    }
    PyObject *wait = NULL;
    if (import_once(&wait, "headway._trio", "wait") < 0) {
        return PYGEN_ERROR;
    }
    PyObject *coroutine = PyObject_CallOneArg(wait, (PyObject *)c->wait);
    Py_DECREF(wait);
    return call_delegate(c, stage, coroutine, result);
}

/* It was suspended, and runs now. */
static PySendResult resume(CallObject *c, enum call_stage stage, PyObject *value, PyObject **result) {
    if (c->inner != NULL) {
        PySendResult end = PyIter_Send(c->inner, value, result);
        if (end == PYGEN_NEXT) {
            set_stage(c, stage);
            return end;
        }
        return on_coroutine_end(c, stage, end, result);
    }
    if (c->wait->state == TASK_WAITING) { /* resumed for no reason: it sleeps on */
        return yield_wait(c, stage, result);
    }
    return go_on(c, stage, task_wait_result(c->wait) < 0 ? PYGEN_ERROR : PYGEN_RETURN, result);
}

/* ---- as a coroutine ---- */

static PySendResult call_send(PyObject *object, PyObject *value, PyObject **result) {
    CallObject *c = (CallObject *)object;
    enum call_stage stage = stage_of(c);
    *result = NULL;
    if (stage == CALL_DONE) {
        raise_done();
        return PYGEN_ERROR;
    }
    if (value != Py_None && stage == CALL_FRESH) {
        PyErr_SetString(PyExc_TypeError, "can't send non-None value to a just-started limiter call");
        return PYGEN_ERROR;
    }
    if (!set_running(c, stage)) {
        raise_running();
        return PYGEN_ERROR;
    }
    return stepped(c, stage == CALL_FRESH ? call_start(c, result) : resume(c, stage, value, result));
}

/* StopIteration with the value; never the value's parts, where it is a tuple or an exception. */
static void raise_value(PyObject *value) {
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
}

/* What a method of a coroutine answers: a value that is yielded, or StopIteration. */
static PyObject *method_answer(PySendResult end, PyObject *result) {
    if (end == PYGEN_RETURN) {
        raise_value(result);
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *call_next(PyObject *object) {
    PyObject *result;
    PySendResult end = call_send(object, Py_None, &result);
    if (end == PYGEN_RETURN && result == Py_None) { /* here, and only here, StopIteration may be left out */
        Py_DECREF(result);
        return NULL;
    }
    return method_answer(end, result);
}

static PyObject *call_send_method(PyObject *object, PyObject *value) {
    PyObject *result;
    PySendResult end = call_send(object, value, &result);
    return method_answer(end, result);
}

/* Sets what throw(exception), throw(type, value) or throw(type, value, traceback) raises. False: they are no such thing, and that is set. */
static bool raise_thrown(PyObject *type, PyObject *value, PyObject *traceback) {
    value = value == Py_None ? NULL : value;
    traceback = traceback == Py_None ? NULL : traceback;
    if (traceback != NULL && !PyTraceBack_Check(traceback)) {
        PyErr_SetString(PyExc_TypeError, "throw() third argument must be a traceback object");
        return false;
    }
    if (PyExceptionInstance_Check(type)) {
        if (value != NULL) {
            PyErr_SetString(PyExc_TypeError, "instance exception may not have a separate value");
            return false;
        }
        traceback = traceback != NULL ? Py_NewRef(traceback) : PyException_GetTraceback(type);
        PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(type)), Py_NewRef(type), traceback);
        return true;
    }
    if (!PyExceptionClass_Check(type)) {
        PyErr_Format(PyExc_TypeError, "exceptions must be classes or instances deriving from BaseException, not %s",
                     Py_TYPE(type)->tp_name);
        return false;
    }
    Py_INCREF(type);
    Py_XINCREF(value);
    Py_XINCREF(traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    PyErr_Restore(type, value, traceback);
    return true;
}

/* With StopIteration set, which a coroutine's method has raised: what the coroutine returned; NULL and an exception where there is no memory. */
static PyObject *stop_iteration_value(void) {
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    PyObject *value = error == NULL ? NULL : PyObject_GetAttrString(error, "value");
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return value;
}

static bool is_generator_exit(PyObject *thrown) {
    return PyErr_GivenExceptionMatches(thrown, PyExc_GeneratorExit);
}

static int close_inner(CallObject *c) {
    PyObject *done = PyObject_CallMethod(c->inner, "close", NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Into the coroutine to which it delegates. */
static PySendResult throw_into(CallObject *c, enum call_stage stage, PyObject *args, PyObject **result) {
    PySendResult end = PYGEN_ERROR;
    if (is_generator_exit(PyTuple_GET_ITEM(args, 0))) {
        if (close_inner(c) == 0) {
            raise_thrown(PyTuple_GET_ITEM(args, 0), PyTuple_GET_SIZE(args) > 1 ? PyTuple_GET_ITEM(args, 1) : NULL,
                         PyTuple_GET_SIZE(args) > 2 ? PyTuple_GET_ITEM(args, 2) : NULL);
        }
        return on_coroutine_end(c, stage, end, result);
    }
    PyObject *method = PyObject_GetAttrString(c->inner, "throw");
    *result = method == NULL ? NULL : PyObject_CallObject(method, args);
    Py_XDECREF(method);
    if (*result != NULL) {
        set_stage(c, stage);
        return PYGEN_NEXT;
    }
    if (PyErr_ExceptionMatches(PyExc_StopIteration)) {
        *result = stop_iteration_value();
        end = call_end(*result);
    }
    return on_coroutine_end(c, stage, end, result);
}

static PyObject *call_throw(PyObject *object, PyObject *args) {
    CallObject *c = (CallObject *)object;
    PyObject *type, *value = NULL, *traceback = NULL, *result = NULL;
    if (!PyArg_UnpackTuple(args, "throw", 1, 3, &type, &value, &traceback)) {
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030C0000
    if (value != NULL && PyErr_WarnEx(PyExc_DeprecationWarning,
                                      "the (type, exc, tb) signature of throw() is deprecated, "
                                      "use the single-arg signature instead.",
                                      1) < 0) {
        return NULL;
    }
#endif
    enum call_stage stage = stage_of(c);
    if (stage == CALL_FRESH || stage == CALL_RUNNING || stage == CALL_DONE) {
        if (!raise_thrown(type, value, traceback)) {
            return NULL;
        }
        if (stage == CALL_DONE) {
            PyErr_Clear(); /* what was thrown, and is of no use to it */
            raise_done();
            return NULL;
        }
    }
    if (!set_running(c, stage)) {
        PyErr_Clear(); /* likewise */
        raise_running();
        return NULL;
    }
    PySendResult end = PYGEN_ERROR;
    if (stage != CALL_FRESH && c->inner != NULL) {
        end = throw_into(c, stage, args, &result);
    } else if (stage != CALL_FRESH) {
        raise_thrown(type, value, traceback);
    }
#if PY_VERSION_HEX >= 0x030C0000
    if (stage == CALL_FRESH) { /* a coroutine that has not begun passes it on as it is, StopIteration too */
        release(c);
        return NULL;
    }
#endif
    end = stepped(c, end);
    return method_answer(end, result);
}

/* Ends it where it stands. -1: an exception, of its coroutine; it has ended all the same. */
static int end_where_it_stands(CallObject *c, enum call_stage stage) {
    int answer = 0;
    if (stage != CALL_FRESH && c->inner != NULL) {
        answer = close_inner(c);
    }
    release(c);
    return answer;
}

static PyObject *call_close(PyObject *object, PyObject *unused) {
    (void)unused;
    CallObject *c = (CallObject *)object;
    enum call_stage stage = stage_of(c);
    if (stage == CALL_DONE) {
        Py_RETURN_NONE;
    }
    if (!set_running(c, stage)) {
        raise_running();
        return NULL;
    }
    return end_where_it_stands(c, stage) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *call_await(PyObject *object) {
    enum call_stage stage = stage_of((CallObject *)object);
    if (stage != CALL_FRESH && stage != CALL_RUNNING && stage != CALL_DONE) {
        PyErr_SetString(PyExc_RuntimeError, "limiter call is being awaited already");
        return NULL;
    }
    return Py_NewRef(object);
}

/* ---- life ---- */

static int call_traverse(CallObject *c, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(c));
    Py_VISIT(c->owner);
    Py_VISIT(c->key);
    Py_VISIT(c->wait);
    Py_VISIT(c->inner);
    return 0;
}

/* The collector's: after call_finalize, so the key is of no use any more. The owner is, to those who ask for its name. */
static int call_clear(CallObject *c) {
    Py_CLEAR(c->key);
    return 0;
}

static void call_finalize(PyObject *object) {
    CallObject *c = (CallObject *)object;
    enum call_stage stage = stage_of(c);
    c->finalized = true;
    if (stage == CALL_DONE || !set_running(c, stage)) {
        return;
    }
    PyObject *error_type, *error, *traceback;
    PyErr_Fetch(&error_type, &error, &traceback);
    if (stage == CALL_FRESH &&
        PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "%s.%s() was never awaited, so nothing was limited",
                         type_short_name(Py_TYPE(c->owner)), call_names[c->kind]) < 0) {
        PyErr_WriteUnraisable(c->owner);
    }
    if (end_where_it_stands(c, stage) < 0) {
        PyErr_WriteUnraisable(c->owner);
    }
    PyErr_Restore(error_type, error, traceback);
}

#ifndef Py_GIL_DISABLED
static struct module_state *module_of_call(CallObject *c) {
    return c->kind == CALL_PERMIT ? ((SemaphoreObject *)c->owner)->module
           : c->kind == CALL_RUN  ? ((RedisStoreObject *)c->owner)->module
                                  : ((LimiterObject *)c->owner)->module;
}
#endif

static void call_dealloc(PyObject *object) {
    CallObject *c = (CallObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (stage_of(c) != CALL_DONE && PyObject_CallFinalizerFromDealloc(object) < 0) {
        return;
    }
    PyObject_GC_UnTrack(object);
    PyObject *owner = c->owner;
    Py_XDECREF(c->key);
#ifndef Py_GIL_DISABLED
    struct module_state *m = module_of_call(c);
    if (m->free_call_count < FREE_CALLS && !c->finalized) { /* else its finalizer would not run again */
        c->owner = (PyObject *)m->free_calls;
        m->free_calls = c;
        m->free_call_count++;
    } else
#endif
    {
        PyObject_GC_Del(c);
    }
    Py_DECREF(owner);
    Py_DECREF(type);
}

void call_free_list_clear(struct module_state *m) {
#ifndef Py_GIL_DISABLED
    while (m->free_calls != NULL) {
        CallObject *c = m->free_calls;
        m->free_calls = (CallObject *)c->owner;
        PyObject_GC_Del(c);
    }
    m->free_call_count = FREE_CALLS; /* what is freed from here on goes straight back */
#else
    (void)m;
#endif
}

/* What a task says it runs. */
static PyObject *call_name(PyObject *object, void *unused) {
    (void)unused;
    CallObject *c = (CallObject *)object;
    return PyUnicode_FromFormat("%s.%s", type_short_name(Py_TYPE(c->owner)), call_names[c->kind]);
}

static PyObject *call_running(PyObject *object, void *unused) {
    (void)unused;
    return PyBool_FromLong(stage_of((CallObject *)object) == CALL_RUNNING);
}

static PyObject *call_repr(PyObject *object) {
    CallObject *c = (CallObject *)object;
    enum call_stage stage = stage_of(c);
    const char *what = stage == CALL_FRESH     ? "not awaited yet"
                       : stage == CALL_RUNNING ? "running"
                       : stage == CALL_DONE    ? "done"
                                               : "waiting";
    return PyUnicode_FromFormat("<%s.%s(), %s>", type_short_name(Py_TYPE(c->owner)), call_names[c->kind], what);
}

static PyGetSetDef call_attributes[] = {
    {"__name__", call_name, NULL, NULL, NULL},
    {"__qualname__", call_name, NULL, NULL, NULL},
    {"cr_running", call_running, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef call_methods[] = {
    {"send", call_send_method, METH_O, NULL},
    {"throw", call_throw, METH_VARARGS, NULL},
    {"close", call_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot call_slots[] = {
    {Py_tp_doc, "An awaitable that asks a limiter once, when it is awaited."},
    {Py_tp_dealloc, call_dealloc},
    {Py_tp_traverse, call_traverse},
    {Py_tp_clear, call_clear},
    {Py_tp_finalize, call_finalize},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, call_next},
    {Py_am_await, call_await},
    {Py_am_send, call_send},
    {Py_tp_repr, call_repr},
    {Py_tp_getset, call_attributes},
    {Py_tp_methods, call_methods},
    {0, NULL},
};
static PyType_Spec call_spec = {"headway._core.Call", sizeof(CallObject), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                call_slots};

PyTypeObject *call_type_make(PyObject *module) {
    return type_make(module, &call_spec, NULL, NULL);
}
