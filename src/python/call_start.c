/* How a call is made, and what it does when it is first resumed: decides at once, or suspends on what it must wait for. */
#include "atomic.h"
#include "distant.h"

/* ---- making ---- */

/* Takes the key over. NULL: an exception. */
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
    c->finalized = false;
    atomic_init(&c->stage, CALL_FRESH);
    PyObject_GC_Track(c);
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

/* ---- what was decided ---- */

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

PyObject *call_take(CallObject *c) {
    TaskWaitObject *w = c->wait;
    if (w->wait.stage != WAIT_BEGUN) { /* it was given up, by the end of its event loop */
        PyErr_SetString(PyExc_RuntimeError, "the wait was given up");
        return NULL;
    }
    wait_take(&w->wait);
    if (c->kind == CALL_PERMIT) {
        return conclude_permit(c, &w->wait);
    }
    LimiterObject *t = (LimiterObject *)c->owner;
    const struct outcome *out = &w->wait.store.outcome;
    return limiter_check_outcome(t, out) < 0 ? NULL
                                             : call_conclude(c, result_new(t->module, (PlanObject *)w->plan, out));
}

/* ---- deciding ---- */

int call_find_loop(struct module_state *m, PyObject **loop) {
    *loop = running_loop(m);
    if (*loop != NULL) {
        return 1;
    }
    if (PyErr_Occurred()) {
        return -1;
    }
    PyObject *modules = PyImport_GetModuleDict(); /* borrowed */
    if (PyDict_GetItemString(modules, "trio") == NULL) {
        return 0;
    }
    PyObject *in_trio = NULL;
    if (import_once(&in_trio, "headway._trio", "in_trio") < 0) {
        return -1;
    }
    PyObject *answer = PyObject_CallNoArgs(in_trio);
    Py_DECREF(in_trio);
    int yes = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return yes;
}

int call_need_loop(struct module_state *m, PyObject **loop) {
    int found = call_find_loop(m, loop);
    if (found == 0) {
        PyErr_SetString(PyExc_RuntimeError, "Waiting for a limiter needs a running event loop of asyncio or trio.");
    }
    return found > 0 ? 1 : -1;
}

static PySendResult wait_for_slot(CallObject *c, PlanObject *plan, const struct table_key *key, PyObject *key_owner,
                                  PyObject **result) {
    LimiterObject *t = (LimiterObject *)c->owner;
    struct module_state *m = t->module;
    PyObject *loop;
    if (call_need_loop(m, &loop) < 0) {
        return PYGEN_ERROR;
    }
    TaskWaitObject *w = task_wait_new(m, t->place, Py_NewRef(plan), Py_NewRef(key_owner), loop);
    PySendResult end = PYGEN_ERROR;
    if (w != NULL) {
        int64_t until;
        c->wait = w;
        if (wait_begin_store(&w->wait, &t->in_memory->store, plan->plan, key, c->cost, c->timeout_ns, &until)) {
            *result = call_take(c);
            end = call_end(*result);
        } else {
            end = call_sleep_on(c, CALL_IN_LINE, loop, until, result);
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
        return call_end(*result);
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
            end = call_end(*result);
        }
    }
    Py_XDECREF(plan);
    Py_XDECREF(owned);
    return end;
}

static PySendResult wait_for_permit(CallObject *c, PyObject *holder, PyObject *loop, PyObject **result) {
    SemaphoreObject *s = (SemaphoreObject *)c->owner;
    int64_t until;
    TaskWaitObject *w = task_wait_new(s->module, (PyObject *)s->pool, NULL, NULL, loop);
    if (w == NULL) {
        return PYGEN_ERROR;
    }
    c->wait = w;
    int held = wait_begin_semaphore(&w->wait, &s->pool->semaphore, holder, s->expiry_ns, s->max_sleep_ns, &until);
    if (held > 0) {
        *result = call_take(c);
        return call_end(*result);
    }
    return held < 0 ? PYGEN_ERROR : call_sleep_on(c, CALL_IN_LINE, loop, until, result);
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
        end = call_end(*result);
    } else if (held >= 0 && call_need_loop(m, &loop) > 0) {
        end = wait_for_permit(c, holder, loop, result);
        wait_flush(m);
        Py_XDECREF(loop);
    }
    return end;
}

PySendResult memory_start_call(CallObject *c, PyObject **result) {
    if (c->kind == CALL_LIMIT || c->kind == CALL_ENTER) {
        return start_limit(c, result);
    }
    LimiterObject *t = (LimiterObject *)c->owner;
    *result = c->kind == CALL_PEEK ? limiter_peek(t, c->key) : limiter_reset(t, c->key);
    return call_end(*result);
}

PySendResult call_start_any(CallObject *c, PyObject **result) {
    switch ((enum call_kind)c->kind) {
    case CALL_PERMIT:
        return start_permit(c, result);
    case CALL_RUN:
        return distant_start(c, result);
    case CALL_LIMIT:
    case CALL_ENTER:
    case CALL_PEEK:
    case CALL_RESET:
        break;
    }
    return ((LimiterObject *)c->owner)->ops->start_call(c, result);
}
