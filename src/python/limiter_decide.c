/* Deciding: from a limiter and a key to a result. What a thread does; tasks come by way of call_type.c.
 *
 *   limiter_limit -> (hooks ->) limiter_decide -> store_limit, or a wait in line without the GIL
 *
 * An allowed call without hooks makes one object, the result, and no reference is taken but its own. */
#include "wait.h"

#define PLANS_MAX 256 /* answers of a quota callable that are kept */

/* Waits in line as a thread. 0 with *out, or -1 when a signal handler raised; then no slot is kept. */
static int wait_in_line(LimiterObject *t, const struct plan *plan, const struct table_key *key, int64_t cost,
                        int64_t timeout_ns, struct outcome *out) {
    struct thread_wait *w = thread_wait_new();
    int64_t until;
    int answer = 0;
    if (w == NULL) {
        return -1;
    }
    int decided = wait_begin_store(&w->wait, &t->in_memory->store, plan, key, cost, timeout_ns, &until);
    wait_flush(t->module);
    if (!decided) {
        answer = thread_wait_finish(t->module, w, until);
    }
    *out = w->wait.store.outcome;
    thread_wait_free(w);
    return answer;
}

int limiter_check_outcome(LimiterObject *t, const struct outcome *out) {
    if (out->kind == OUTCOME_ADMITTED || out->kind == OUTCOME_DENIED) {
        return 0;
    }
    if (out->kind == OUTCOME_NO_MEMORY) {
        PyErr_NoMemory();
        return -1;
    }
    if (out->kind == OUTCOME_FULL && t->in_memory->raise_when_full) {
        PyErr_Format(t->module->store_error,
                     "MemoryStore is full: %lld live keys. Give a larger MAX_SIZE, or on_full='evict'.",
                     (long long)t->in_memory->store.table.max_keys);
        return -1;
    }
    return 0;
}

PlanObject *limiter_plan(LimiterObject *t, PyObject *key) {
    if (t->plan != NULL) {
        return (PlanObject *)Py_NewRef(t->plan);
    }
    PyObject *answer = PyObject_CallOneArg(t->quota, key);
    if (answer == NULL) {
        return NULL;
    }
    if (PyList_Check(answer)) {
        Py_SETREF(answer, PyList_AsTuple(answer));
        if (answer == NULL) {
            return NULL;
        }
    }
    PyObject *known = NULL;
    int found = 0;
    if (PyObject_Hash(answer) != -1) {
        found = dict_get(t->plans, answer, &known);
    } else if (PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear(); /* not hashable: the next call says what is wrong with it */
    } else {
        found = -1;
    }
    PlanObject *plan = (PlanObject *)known;
    if (found == 0) {
        PyObject *quotas = quotas_from_object(t->module, answer);
        if (quotas != NULL) {
            plan = t->ops->bind_plan(t, quotas);
            Py_DECREF(quotas);
        }
        if (plan != NULL) {
            if (PyDict_GET_SIZE(t->plans) >= PLANS_MAX) {
                PyDict_Clear(t->plans);
            }
            if (PyDict_SetItem(t->plans, answer, (PyObject *)plan) < 0) {
                Py_CLEAR(plan);
            }
        }
    }
    Py_DECREF(answer);
    return plan;
}

/* The usual case is called without a detour. */
static inline int limit_in_memory(LimiterObject *t, PlanObject *plan, const struct table_key *key, int64_t cost,
                                  int64_t timeout_ns, struct outcome *out) {
    int answer = 0;
    store_limit(&t->in_memory->store, plan->plan, key, cost, out);
    if (timeout_ns >= 0 && out->kind == OUTCOME_DENIED) {
        answer = wait_in_line(t, plan->plan, key, cost, timeout_ns, out);
    }
    if (answer == 0 && out->kind >= OUTCOME_FULL) {
        answer = limiter_check_outcome(t, out);
    }
    return answer;
}

int memory_limit(LimiterObject *t, PlanObject *plan, const struct table_key *key, int64_t cost, int64_t timeout_ns,
                 struct outcome *out) {
    int answer = limit_in_memory(t, plan, key, cost, timeout_ns, out);
    wait_flush(t->module);
    return answer;
}

/* The decision itself. 0, or -1 and an exception. */
static inline int limiter_decide_once(LimiterObject *t, PlanObject *plan, PyObject *key_object, int64_t cost,
                                      int64_t timeout_ns, struct outcome *out) {
    struct table_key key;
    PyObject *owned;
    if (key_from_object(t->module, key_object, &key, &owned) < 0) {
        return -1;
    }
    if (t->ops != &memory_ops) {
        int answer = t->ops->limit(t, plan, &key, cost, timeout_ns, out);
        Py_XDECREF(owned);
        return answer;
    }
    int answer = limit_in_memory(t, plan, &key, cost, timeout_ns, out);
    Py_XDECREF(owned);
    wait_flush(t->module);
    if (answer == 0 && atomic_load_explicit(&t->in_memory->store.table.evictions, memory_order_relaxed) > 0 &&
        !atomic_load_explicit(&t->in_memory->warned, memory_order_relaxed)) {
        store_warn_evicted(t->in_memory);
    }
    return answer;
}

PyObject *limiter_decide(LimiterObject *t, PyObject *key, int64_t cost, int64_t timeout_ns) {
    struct outcome out;
    if (t->plan != NULL) {
        return limiter_decide_once(t, t->plan, key, cost, timeout_ns, &out) < 0 ? NULL
                                                                                : result_new(t->module, t->plan, &out);
    }
    PlanObject *plan = limiter_plan(t, key);
    if (plan == NULL) {
        return NULL;
    }
    PyObject *result =
        limiter_decide_once(t, plan, key, cost, timeout_ns, &out) < 0 ? NULL : result_new(t->module, plan, &out);
    Py_DECREF(plan);
    return result;
}

/* What a hook calls: (Throttled, key, cost, timeout_ns), bound. */
static PyObject *bound_limit(PyObject *bound, PyObject *unused) {
    (void)unused;
    long long cost = PyLong_AsLongLong(PyTuple_GET_ITEM(bound, 2));
    long long timeout_ns = PyLong_AsLongLong(PyTuple_GET_ITEM(bound, 3));
    return limiter_decide((LimiterObject *)PyTuple_GET_ITEM(bound, 0), PyTuple_GET_ITEM(bound, 1), cost, timeout_ns);
}
static PyMethodDef bound_limit_method = {"limit", bound_limit, METH_NOARGS, NULL};

/* A call of `method` through the hooks, by `run` of headway.hooks. */
static PyObject *run_hooks(LimiterObject *t, PyObject *run, PyMethodDef *method, PyObject *key, int64_t cost,
                           int64_t timeout_ns) {
    PyObject *result = NULL, *call = NULL;
    PyObject *bound = Py_BuildValue("(OOLL)", t, key, (long long)cost, (long long)timeout_ns);
    if (bound != NULL) {
        call = PyCFunction_New(method, bound);
        Py_DECREF(bound);
    }
    if (call != NULL) {
        PyObject *store_type = PyObject_GetAttrString(t->place, "TYPE");
        if (store_type != NULL) {
            PyObject *quota = t->plan != NULL ? t->quota : Py_None; /* a callable's answer depends on the key */
            result = PyObject_CallFunction(run, "OOOLsOO", t->hooks, call, key, (long long)cost,
                                           algorithm_names[t->algorithm], store_type, quota);
            Py_DECREF(store_type);
        }
        Py_DECREF(call);
    }
    return result;
}

static PyObject *bound_call(PyObject *bound, PyObject *unused) {
    (void)unused;
    long long cost = PyLong_AsLongLong(PyTuple_GET_ITEM(bound, 2));
    long long timeout_ns = PyLong_AsLongLong(PyTuple_GET_ITEM(bound, 3));
    PyObject *key = Py_NewRef(PyTuple_GET_ITEM(bound, 1));
    return call_limit((LimiterObject *)PyTuple_GET_ITEM(bound, 0), key, cost, timeout_ns);
}
static PyMethodDef bound_call_method = {"limit", bound_call, METH_NOARGS, NULL};

PyObject *limiter_hooked_call(LimiterObject *t, PyObject *key, int64_t cost, int64_t timeout_ns) {
    PyObject *run = NULL;
    if (import_once(&run, "headway.hooks", "run_chain_async") < 0) {
        return NULL;
    }
    PyObject *coroutine = run_hooks(t, run, &bound_call_method, key, cost, timeout_ns);
    Py_DECREF(run);
    return coroutine;
}

static PyObject *limit_with_hooks(LimiterObject *t, PyObject *key, int64_t cost, int64_t timeout_ns) {
    struct module_state *m = t->module;
    PyObject *result;
    struct table_key checked;
    PyObject *owned;
    if (key_from_object(m, key, &checked, &owned) < 0) { /* before any hook runs */
        return NULL;
    }
    Py_XDECREF(owned);
    if (import_once(&m->run_chain, "headway.hooks", "run_chain") < 0) {
        return NULL;
    }
    result = run_hooks(t, once_get(&m->run_chain), &bound_limit_method, key, cost, timeout_ns);
    if (result != NULL && !Py_IS_TYPE(result, m->result)) {
        PyErr_Format(PyExc_TypeError, "A hook returned %R, must be the RateLimitResult of call_next().", result);
        Py_CLEAR(result);
    }
    return result;
}

PyObject *limiter_limit(LimiterObject *t, PyObject *key, int64_t cost, int64_t timeout_ns) {
    return t->hooks == NULL ? limiter_decide(t, key, cost, timeout_ns) : limit_with_hooks(t, key, cost, timeout_ns);
}

PyObject *limiter_limited_error(PyObject *object, PyObject *result) {
    const LimiterObject *t = ready_limiter(object);
    return t == NULL ? NULL : PyObject_CallOneArg(t->module->limited_error, result);
}

void raise_limited(LimiterObject *t, PyObject *result) {
    PyObject *error = PyObject_CallMethodOneArg((PyObject *)t, t->module->str_limited_error, result);
    if (error != NULL && !PyExceptionInstance_Check(error)) {
        PyErr_Format(PyExc_TypeError, "_limited_error returned %R, must be an exception.", error);
    } else if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    }
    Py_XDECREF(error);
}

static PyObject *resolve(PyObject *callable, const struct call *call) {
    return call->vector != NULL  ? PyObject_Vectorcall(callable, call->vector, call->nargsf, call->names)
           : call->tuple != NULL ? PyObject_Call(callable, call->tuple, call->dict)
                                 : PyObject_CallNoArgs(callable);
}

PyObject *limiter_key(LimiterObject *t, const struct call *call) {
    if (PyUnicode_Check(t->key) || PyBytes_Check(t->key) || t->key == Py_None) {
        return Py_NewRef(t->key);
    }
    return resolve(t->key, call);
}

int limiter_cost(LimiterObject *t, const struct call *call, int64_t *cost) {
    *cost = t->cost_value;
    if (*cost >= 0) {
        return 0;
    }
    PyObject *made = resolve(t->cost, call);
    int answer = made == NULL ? -1 : cost_from_object(t->module, made, cost);
    Py_XDECREF(made);
    return answer;
}

int limiter_acquire(LimiterObject *t, const struct call *call, int64_t timeout_ns, PyObject **result,
                    bool always_result) {
    struct outcome out;
    int64_t cost = t->cost_value;
    *result = NULL;
    if (t->plan != NULL && t->hooks == NULL && cost >= 0 && !always_result && PyUnicode_Check(t->key)) {
        if (limiter_decide_once(t, t->plan, t->key, cost, timeout_ns, &out) < 0) {
            return -1;
        }
        if (out.kind == OUTCOME_ADMITTED) {
            return 1;
        }
        *result = result_new(t->module, t->plan, &out);
        return *result == NULL ? -1 : 0;
    }
    if (limiter_cost(t, call, &cost) < 0) {
        return -1;
    }
    PyObject *key = limiter_key(t, call);
    if (key == NULL) {
        return -1;
    }
    *result = limiter_limit(t, key, cost, timeout_ns);
    Py_DECREF(key);
    return *result == NULL ? -1 : !((ResultObject *)*result)->limited;
}

void plan_report(const PlanObject *plan, const struct outcome *out, struct decision *d) {
    algorithm_report(plan->plan->algorithm, &out->state, &plan->plan->rules[out->rule].quota, out->denied_cost,
                     out->now, d);
}

PyObject *limiter_peek(LimiterObject *t, PyObject *key) {
    PyObject *state = NULL, *owned = NULL;
    PlanObject *plan = NULL;
    struct table_key table_key;
    if (key_from_object(t->module, key, &table_key, &owned) == 0) {
        plan = limiter_plan(t, key);
    }
    if (plan != NULL) {
        struct outcome out;
        struct decision d;
        if (t->ops->peek(t, plan, &table_key, &out) < 0) {
            goto done;
        }
        plan_report(plan, &out, &d);
        state = state_new(t->module, &d);
    }
done:
    Py_XDECREF(plan);
    Py_XDECREF(owned);
    return state;
}

PyObject *limiter_reset(LimiterObject *t, PyObject *key) {
    PyObject *answer = NULL, *owned = NULL;
    PlanObject *plan = NULL;
    struct table_key table_key;
    if (key_from_object(t->module, key, &table_key, &owned) == 0) {
        plan = limiter_plan(t, key);
    }
    if (plan != NULL) {
        int done = t->ops->reset(t, plan, &table_key);
        answer = done == 0 ? Py_NewRef(Py_None) : NULL;
    }
    Py_XDECREF(plan);
    Py_XDECREF(owned);
    return answer;
}
