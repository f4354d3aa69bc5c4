/* Call: what `await t.limit()`, `async with t` and `async with semaphore` await.
 *
 * It decides when it is first resumed, and mostly is done by that: it answers through the send slot, and the event loop learns
 * nothing of it. Only where it must wait does it make a TaskWait and yield that. It has what collections.abc.Coroutine asks for, so it
 * can be given to create_task, gather and wait_for as a coroutine can; and like one, it complains when nobody awaits it. */
#include "call_type.h"
#include "distant.h"

#define FREE_CALLS 64

#ifndef Py_GIL_DISABLED /* for the free list, which there is none of without a GIL */
static struct module_state *state_of_call(CallObject *c) {
    return c->kind == CALL_PERMIT ? ((SemaphoreObject *)c->owner)->module
           : c->kind == CALL_RUN  ? ((RedisStoreObject *)c->owner)->module
                                  : ((LimiterObject *)c->owner)->module;
}
#endif

/* ---- making ---- */

static CallObject *call_new(struct module_state *m, enum call_kind kind, PyObject *owner, PyObject *key) {
    CallObject *c;
#ifndef Py_GIL_DISABLED
    c = m->free_calls;
    if (c != NULL) {
        m->free_calls = (CallObject *)c->owner;
        m->free_call_count--;
        PyObject_Init((PyObject *)c, m->call);
    } else
#endif
    {
        c = PyObject_GC_New(CallObject, m->call);
        if (c == NULL) {
            Py_XDECREF(key);
            return NULL;
        }
    }
    c->owner = Py_NewRef(owner);
    c->key = key;
    c->wait = NULL;
    c->inner = NULL;
    c->distant = NULL;
    c->kind = (uint8_t)kind;
    c->phase = CALL_FRESH;
    c->tracked = false;
    return c;
}

PyObject *call_limit(LimiterObject *t, PyObject *key, int64_t cost, int64_t timeout_ns) {
    CallObject *c = call_new(t->module, CALL_LIMIT, (PyObject *)t, key);
    if (c != NULL) {
        c->cost = cost;
        c->timeout_ns = timeout_ns;
    }
    return (PyObject *)c;
}

/* A coroutine; takes the key over. */
static PyObject *enter_through_hooks(LimiterObject *t, PyObject *key, int64_t cost) {
    PyObject *enter = NULL, *entering = NULL;
    PyObject *limiting = limiter_hooked_call(t, key, cost, t->timeout_ns);
    Py_DECREF(key);
    if (limiting != NULL && import_once(&enter, "headway.hooks", "enter_async") == 0) {
        entering = PyObject_CallFunctionObjArgs(enter, (PyObject *)t, limiting, NULL);
    }
    Py_XDECREF(enter);
    Py_XDECREF(limiting);
    return entering;
}

PyObject *call_enter(LimiterObject *t, const struct call *call) {
    static const struct call no_arguments = {0};
    int64_t cost;
    call = call != NULL ? call : &no_arguments;
    PyObject *key = limiter_cost(t, call, &cost) < 0 ? NULL : limiter_key(t, call);
    if (key != NULL && t->hooks != NULL) {
        return enter_through_hooks(t, key, cost);
    }
    CallObject *c = key == NULL ? NULL : call_new(t->module, CALL_ENTER, (PyObject *)t, key);
    if (c != NULL) {
        c->cost = cost;
        c->timeout_ns = t->timeout_ns;
    }
    return (PyObject *)c;
}

PyObject *call_peek(LimiterObject *t, PyObject *key) {
    return (PyObject *)call_new(t->module, CALL_PEEK, (PyObject *)t, key);
}

PyObject *call_reset(LimiterObject *t, PyObject *key) {
    return (PyObject *)call_new(t->module, CALL_RESET, (PyObject *)t, key);
}

PyObject *call_permit(SemaphoreObject *s) {
    PyObject *holder =
        holder_task(s->module); /* of the caller: asyncio.wait_for() may await it in a task that ends when it has it */
    return holder == NULL ? NULL : (PyObject *)call_new(s->module, CALL_PERMIT, (PyObject *)s, holder);
}

PyObject *call_run(RedisStoreObject *s, struct distant *d) {
    CallObject *c = call_new(s->module, CALL_RUN, (PyObject *)s, NULL);
    if (c == NULL) {
        distant_release(d);
        return NULL;
    }
    c->distant = d;
    return (PyObject *)c;
}

/* ---- deciding ---- */

PyObject *call_conclude(CallObject *c, PyObject *result) {
    LimiterObject *t = (LimiterObject *)c->owner;
    if (result != NULL && c->kind == CALL_ENTER) {
        if (((ResultObject *)result)->limited) {
            raise_limited(t, result);
            Py_CLEAR(result);
        } else if (t->silent) {
            Py_SETREF(result, Py_NewRef(Py_None));
        }
    }
    return result;
}

static PyObject *conclude_permit(CallObject *c, const struct wait *w) {
    if (w->refused) {
        return semaphore_raise_refused((SemaphoreObject *)c->owner);
    }
    return semaphore_entered((SemaphoreObject *)c->owner, c->key, w->semaphore.id) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *take(CallObject *c) {
    TaskWaitObject *w = c->wait;
    w->taken = true;
    if (c->kind == CALL_PERMIT) {
        return conclude_permit(c, &w->wait);
    }
    LimiterObject *t = (LimiterObject *)c->owner;
    const struct outcome *out = &w->wait.store.outcome;
    return limiter_check_outcome(t, out) < 0 ? NULL
                                             : call_conclude(c, result_new(t->module, (PlanObject *)w->plan, out));
}

static void call_track(CallObject *c) {
    c->phase = CALL_WAITING;
    if (!c->tracked) {
        c->tracked = true;
        PyObject_GC_Track(c);
    }
}

/* The coroutine is over. */
static PySendResult resumed(CallObject *c, PySendResult end, PyObject **result) {
    Py_CLEAR(c->inner);
    c->phase = CALL_RUNNING;
    if (c->distant != NULL) {
        return distant_resumed(c, end, result);
    }
    if (end == PYGEN_RETURN && c->wait == NULL) { /* of headway._atomic: the answer itself */
        *result = call_conclude(c, *result);
    } else if (end == PYGEN_RETURN) {
        Py_SETREF(*result, take(c));
    }
    return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
}

PySendResult call_delegate(CallObject *c, PyObject *coroutine, PyObject **result) {
    *result = NULL;
    if (coroutine == NULL) {
        return PYGEN_ERROR;
    }
    c->inner = coroutine;
    PySendResult end = PyIter_Send(coroutine, Py_None, result);
    if (end == PYGEN_NEXT) {
        call_track(c);
        return end;
    }
    return resumed(c, end, result);
}

/* The loop's wait, or that of another library: a coroutine of headway._trio that waits for c->wait. */
PySendResult call_sleep_on(CallObject *c, PyObject *loop, int64_t until, PyObject **result) {
    if (loop != NULL) {
        call_track(c);
        if (task_wait_sleep(c->wait, until) < 0) {
            return PYGEN_ERROR;
        }
        c->wait->blocking = true;
        *result = Py_NewRef(c->wait);
        return PYGEN_NEXT;
    }
    PyObject *wait = NULL;
    if (import_once(&wait, "headway._trio", "wait") < 0) {
        return PYGEN_ERROR;
    }
    PyObject *coroutine = PyObject_CallOneArg(wait, (PyObject *)c->wait);
    Py_DECREF(wait);
    return call_delegate(c, coroutine, result);
}

int call_find_loop(struct module_state *m, PyObject **loop) {
    *loop = running_loop(m);
    if (*loop != NULL) {
        return 1;
    }
    if (PyErr_Occurred()) {
        return -1;
    }
    PyObject *modules = PyImport_GetModuleDict(); /* borrowed */
    if (PyDict_GetItemString(modules, "trio") != NULL) {
        PyObject *in_trio = NULL;
        if (import_once(&in_trio, "headway._trio", "in_trio") < 0) {
            return -1;
        }
        PyObject *answer = PyObject_CallNoArgs(in_trio);
        Py_DECREF(in_trio);
        int yes = answer == NULL ? -1 : PyObject_IsTrue(answer);
        Py_XDECREF(answer);
        if (yes != 0) {
            return yes;
        }
    }
    PyErr_SetString(PyExc_RuntimeError, "Waiting for a limiter needs a running event loop of asyncio or trio.");
    return -1;
}

static PySendResult wait_for_slot(CallObject *c, PlanObject *plan, const struct table_key *key, PyObject *key_owner,
                                  PyObject **result) {
    LimiterObject *t = (LimiterObject *)c->owner;
    struct module_state *m = t->module;
    PyObject *loop;
    if (call_find_loop(m, &loop) < 0) {
        return PYGEN_ERROR;
    }
    TaskWaitObject *w = task_wait_new(m, c->owner, Py_NewRef(plan), Py_NewRef(key_owner), loop);
    PySendResult end = PYGEN_ERROR;
    if (w != NULL) {
        int64_t until;
        c->wait = w;
        w->begun = true;
        if (wait_begin_store(&w->wait, &t->in_memory->store, plan->plan, key, c->cost, c->timeout_ns, &until)) {
            *result = take(c);
            end = *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
        } else {
            end = call_sleep_on(c, loop, until, result);
        }
        wait_flush(m);
    }
    Py_XDECREF(loop);
    return end;
}

static PySendResult start_limit(CallObject *c, PyObject **result) {
    LimiterObject *t = (LimiterObject *)c->owner;
    if (c->timeout_ns < 0 || c->cost == 0) {
        *result = call_conclude(c, limiter_decide(t, c->key, c->cost, -1));
        return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
    }
    struct table_key key;
    struct outcome out;
    PyObject *owned = NULL;
    PySendResult end = PYGEN_ERROR;
    PlanObject *plan = NULL;
    if (key_from_object(t->module, c->key, &key, &owned) == 0) {
        plan = limiter_plan(t, c->key);
    }
    if (plan != NULL) {
        store_limit(&t->in_memory->store, plan->plan, &key, c->cost, &out);
        wait_flush(t->module);
        if (out.kind == OUTCOME_DENIED) {
            end = wait_for_slot(c, plan, &key, owned != NULL ? owned : c->key, result);
        } else if (limiter_check_outcome(t, &out) == 0) {
            *result = call_conclude(c, result_new(t->module, plan, &out));
            end = *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
        }
    }
    Py_XDECREF(plan);
    Py_XDECREF(owned);
    return end;
}

static PySendResult start_permit(CallObject *c, PyObject **result) {
    SemaphoreObject *s = (SemaphoreObject *)c->owner;
    struct module_state *m = s->module;
    PyObject *holder = c->key, *loop = NULL;
    PySendResult end = PYGEN_ERROR;
    int64_t until;
    struct wait now; /* for the usual case: the permit is free */
    int held = wait_begin_semaphore(&now, &s->pool->semaphore, holder, s->expiry_ns, 0, &until);
    if (held > 0 && !now.refused) {
        *result = conclude_permit(c, &now);
        end = *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
    } else if (held >= 0 && call_find_loop(m, &loop) > 0) {
        TaskWaitObject *w = task_wait_new(m, c->owner, NULL, NULL, loop);
        if (w != NULL) {
            c->wait = w;
            held = wait_begin_semaphore(&w->wait, &s->pool->semaphore, holder, s->expiry_ns, s->max_sleep_ns, &until);
            w->begun = held >= 0;
            if (held > 0) {
                *result = take(c);
                end = *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
            } else if (held == 0) {
                end = call_sleep_on(c, loop, until, result);
            }
        }
        wait_flush(m);
        Py_XDECREF(loop);
    }
    return end;
}

PySendResult memory_start_call(CallObject *c, PyObject **result) {
    if (c->kind == CALL_LIMIT || c->kind == CALL_ENTER) {
        return start_limit(c, result);
    }
    *result = c->kind == CALL_PEEK ? limiter_peek((LimiterObject *)c->owner, c->key)
                                   : limiter_reset((LimiterObject *)c->owner, c->key);
    return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
}

static PySendResult start(CallObject *c, PyObject **result) {
    return c->kind == CALL_PERMIT ? start_permit(c, result)
           : c->kind == CALL_RUN  ? distant_start(c, result)
                                  : ((LimiterObject *)c->owner)->ops->start_call(c, result);
}

/* ---- as a coroutine ---- */

static void finish(CallObject *c) {
    c->phase = CALL_DONE;
    if (c->inner != NULL) {
        PyObject *error_type, *error, *traceback;
        PyErr_Fetch(&error_type, &error, &traceback);
        Py_CLEAR(c->inner);
        PyErr_Restore(error_type, error, traceback);
    }
    if (c->wait != NULL) {
        PyObject *error_type, *error, *traceback;
        PyErr_Fetch(&error_type, &error, &traceback);
        task_wait_give_up(c->wait);
        Py_CLEAR(c->wait);
        PyErr_Restore(error_type, error, traceback);
    }
    if (c->distant != NULL) {
        distant_finish(c);
    }
}

static PySendResult call_send(PyObject *object, PyObject *value, PyObject **result) {
    CallObject *c = (CallObject *)object;
    PySendResult end = PYGEN_ERROR;
    *result = NULL;
    if (c->phase == CALL_FRESH) {
        c->phase = CALL_RUNNING;
        end = start(c, result);
    } else if (c->phase == CALL_WAITING && c->inner != NULL) {
        c->phase = CALL_RUNNING;
        end = PyIter_Send(c->inner, value, result);
        c->phase = CALL_WAITING;
        if (end != PYGEN_NEXT) {
            end = resumed(c, end, result);
        }
    } else if (c->phase == CALL_WAITING && c->wait->state == TASK_WAITING) { /* resumed for no reason: sleep on */
        c->wait->blocking = true;
        *result = Py_NewRef(c->wait);
        return PYGEN_NEXT;
    } else if (c->phase == CALL_WAITING) {
        PyObject *done = PyObject_CallMethod((PyObject *)c->wait, "result", NULL);
        if (done != NULL) {
            Py_DECREF(done);
            if (c->distant != NULL) {
                c->phase = CALL_RUNNING;
                end = distant_go_on(c, result);
            } else {
                *result = take(c);
                end = *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
            }
        }
    } else {
        PyErr_SetString(PyExc_RuntimeError, c->phase == CALL_DONE ? "cannot reuse already awaited limiter call"
                                                                  : "limiter call is being awaited already");
        return PYGEN_ERROR;
    }
    if (end != PYGEN_NEXT) {
        finish(c);
    }
    return end;
}

/* What a method of a coroutine answers: a value that is yielded, or StopIteration. */
static PyObject *method_answer(PySendResult end, PyObject *result) {
    if (end == PYGEN_RETURN) {
        if (result != Py_None) { /* never a tuple or an exception, which would be taken apart */
            PyErr_SetObject(PyExc_StopIteration, result);
        }
        Py_DECREF(result);
        return NULL;
    }
    return result;
}

static PyObject *call_next(PyObject *object) {
    PyObject *result;
    PySendResult end = call_send(object, Py_None, &result);
    return method_answer(end, result);
}

static PyObject *call_send_method(PyObject *object, PyObject *value) {
    PyObject *result;
    PySendResult end = call_send(object, value, &result);
    return method_answer(end, result);
}

/* throw(exception), throw(type, value), throw(type, value, traceback) */
static void raise_thrown(PyObject *type, PyObject *value, PyObject *traceback) {
    if (PyExceptionInstance_Check(type)) {
        PyErr_SetObject((PyObject *)Py_TYPE(type), type);
        return;
    }
    if (!PyExceptionClass_Check(type)) {
        PyErr_Format(PyExc_TypeError, "exceptions must be classes or instances deriving from BaseException, not %s",
                     Py_TYPE(type)->tp_name);
        return;
    }
    traceback = traceback == Py_None ? NULL : traceback;
    PyErr_Restore(Py_NewRef(type), value == Py_None ? NULL : Py_XNewRef(value), Py_XNewRef(traceback));
}

/* What a coroutine has returned: NULL and an exception where there is no memory. */
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

static PyObject *call_throw(PyObject *object, PyObject *args) {
    CallObject *c = (CallObject *)object;
    PyObject *type, *value = NULL, *traceback = NULL;
    if (!PyArg_UnpackTuple(args, "throw", 1, 3, &type, &value, &traceback)) {
        return NULL;
    }
    if (c->phase == CALL_WAITING && c->inner != NULL) {
        PyObject *method = PyObject_GetAttrString(c->inner, "throw");
        PyObject *yielded = method == NULL ? NULL : PyObject_CallObject(method, args);
        Py_XDECREF(method);
        if (yielded != NULL) {
            return yielded;
        }
        PyObject *result = NULL;
        PySendResult end = PYGEN_ERROR;
        if (PyErr_ExceptionMatches(PyExc_StopIteration)) {
            end = PYGEN_RETURN;
            result = stop_iteration_value();
        }
        end = resumed(c, result == NULL ? PYGEN_ERROR : end, &result);
        if (end != PYGEN_NEXT) {
            finish(c);
        }
        return end == PYGEN_ERROR ? NULL : method_answer(end, result);
    }
    raise_thrown(type, value, traceback);
    finish(c);
    return NULL;
}

static PyObject *call_close(PyObject *object, PyObject *unused) {
    (void)unused;
    CallObject *c = (CallObject *)object;
    if (c->phase == CALL_WAITING && c->inner != NULL) {
        PyObject *done = PyObject_CallMethod(c->inner, "close", NULL);
        if (done == NULL) {
            PyErr_WriteUnraisable(c->inner);
        }
        Py_XDECREF(done);
    }
    finish(c);
    Py_RETURN_NONE;
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

static const char *const call_names[] = {
    [CALL_LIMIT] = "limit", [CALL_ENTER] = "__aenter__",  [CALL_PEEK] = "peek",
    [CALL_RESET] = "reset", [CALL_PERMIT] = "__aenter__", [CALL_RUN] = "_run_async",
};

static void warn_not_awaited(CallObject *c) {
    PyObject *error_type, *error, *traceback;
    PyErr_Fetch(&error_type, &error, &traceback);
    if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "%s.%s() was never awaited, so nothing was limited",
                         type_short_name(Py_TYPE(c->owner)), call_names[c->kind]) < 0) {
        PyErr_WriteUnraisable(c->owner);
    }
    PyErr_Restore(error_type, error, traceback);
}

static void call_dealloc(PyObject *object) {
    CallObject *c = (CallObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (c->tracked) {
        PyObject_GC_UnTrack(object);
    }
    if (c->phase == CALL_FRESH) {
        warn_not_awaited(c);
    }
    finish(c);
#ifndef Py_GIL_DISABLED
    struct module_state *m = state_of_call(c);
#endif
    PyObject *owner = c->owner;
    Py_XDECREF(c->key);
#ifndef Py_GIL_DISABLED
    if (m->free_call_count < FREE_CALLS) {
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

static PyObject *call_repr(PyObject *object) {
    static const char *const phases[] = {"not awaited yet", "running", "waiting", "done"};
    CallObject *c = (CallObject *)object;
    return PyUnicode_FromFormat("<%s.%s(), %s>", type_short_name(Py_TYPE(c->owner)), call_names[c->kind],
                                phases[c->phase]);
}

static PyGetSetDef call_attributes[] = {
    {"__name__", call_name, NULL, NULL, NULL},
    {"__qualname__", call_name, NULL, NULL, NULL},
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
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, call_next},
    {Py_am_await, PyObject_SelfIter},
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
