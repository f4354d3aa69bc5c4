/* Throttled: a quota, an algorithm and a store, ready to be asked.
 *
 *   limit -> limit_by_key -> (hooks ->) decide -> store_limit, or store_wait_* while sleeping without the GIL
 *
 * An allowed call without hooks makes one object, the result, and no reference is taken but its own. */

#include "module.h"

#define PLANS_MAX 256 /* answers of a quota callable that are kept */

static ThrottledObject *ready_throttled(PyObject *self) {
    ThrottledObject *t = (ThrottledObject *)self;
    if (t->store == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Throttled.__init__ was not called.");
        return NULL;
    }
    return t;
}

/* ---- construction ---- */

static int check_prefix(struct module_state *m, PyObject *prefix) {
    if (PyUnicode_Check(prefix)) {
        Py_ssize_t length = PyUnicode_GET_LENGTH(prefix);
        bool blank = true;
        for (Py_ssize_t i = 0; i < length && blank; i++) {
            blank = Py_UNICODE_ISSPACE(PyUnicode_READ_CHAR(prefix, i));
        }
        if (!blank && PyUnicode_READ_CHAR(prefix, 0) != ':' && PyUnicode_READ_CHAR(prefix, length - 1) != ':') {
            return 0;
        }
    }
    PyErr_Format(m->data_error,
                 "Invalid key_prefix: %R, must be a non-blank string that does not start or end with ':'.", prefix);
    return -1;
}

static PyObject *store_from_argument(struct module_state *m, PyObject *store) {
    if (store == Py_None) {
        return default_store(m);
    }
    if (PyObject_TypeCheck(store, m->store)) {
        if (!((StoreObject *)store)->ready) {
            PyErr_SetString(PyExc_RuntimeError, "MemoryStore.__init__ was not called.");
            return NULL;
        }
        return Py_NewRef(store);
    }
    if (!PyUnicode_Check(store)) {
        PyErr_Format(m->setup_error, "Invalid store: %R, must be a MemoryStore, or a URL such as 'memory://'.", store);
        return NULL;
    }
    PyObject *module = PyImport_ImportModule("headway.store");
    if (module == NULL) {
        return NULL;
    }
    PyObject *made = PyObject_CallMethod(module, "from_url", "O", store);
    Py_DECREF(module);
    if (made != NULL && !PyObject_TypeCheck(made, m->store)) {
        PyErr_Format(m->setup_error, "Invalid store: %R is not a MemoryStore.", made);
        Py_CLEAR(made);
    }
    return made;
}

static PyObject *hooks_from_argument(PyObject *hooks) {
    PyObject *tuple = PySequence_Tuple(hooks);
    if (tuple == NULL || PyTuple_GET_SIZE(tuple) == 0) {
        return tuple;
    }
    PyObject *type = NULL;
    if (import_once(&type, "headway.hooks", "Hook") < 0) {
        Py_DECREF(tuple);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
        PyObject *hook = PyTuple_GET_ITEM(tuple, i);
        int is_hook = PyObject_IsInstance(hook, type);
        if (is_hook <= 0) {
            if (is_hook == 0) {
                PyErr_Format(PyExc_TypeError, "Invalid hook type: %s. Expected: Hook", Py_TYPE(hook)->tp_name);
            }
            Py_CLEAR(tuple);
            break;
        }
    }
    Py_DECREF(type);
    return tuple;
}

static int throttled_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"key", "timeout", "using", "quota", "store", "cost", "hooks", "key_prefix", NULL};
    ThrottledObject *self = (ThrottledObject *)object;
    struct module_state *m = state_of_instance(object);
    PyObject *key = Py_None, *timeout = Py_None, *using = Py_None, *quota = Py_None, *store = Py_None, *cost = NULL;
    PyObject *hooks = Py_None, *prefix = Py_None;
    PyObject *quotas = NULL, *made_store = NULL, *made_hooks = NULL, *owned = NULL, *kept_cost = NULL;
    PlanObject *plan = NULL;
    double seconds = -1;
    int64_t timeout_ns = -1, cost_value = 1;
    enum algorithm_id algorithm;
    int answer = -1;

    if (m == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "|OOOOOOOO:Throttled", names, &key, &timeout, &using,
                                                  &quota, &store, &cost, &hooks, &prefix)) {
        return -1;
    }
    if (self->store != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Throttled.__init__ was called twice.");
        return -1;
    }
    if (key != Py_None && !PyCallable_Check(key)) {
        struct table_key checked;
        if (key_from_object(m, key, &checked, &owned) < 0) {
            goto done;
        }
    }
    if (timeout != Py_None && timeout_from_object(m, timeout, &seconds, &timeout_ns) < 0) {
        goto done;
    }
    if (algorithm_from_object(m, using, &algorithm) < 0) {
        goto done;
    }
    if (prefix == Py_None) {
        prefix = m->default_prefix;
    } else if (check_prefix(m, prefix) < 0) {
        goto done;
    }
    if (cost == NULL) {
        kept_cost = PyLong_FromLong(1);
        if (kept_cost == NULL) {
            goto done;
        }
    } else {
        if (PyCallable_Check(cost)) {
            cost_value = -1;
        } else if (cost_from_object(m, cost, &cost_value) < 0) {
            goto done;
        }
        kept_cost = Py_NewRef(cost);
    }
    if (quota == Py_None) {
        struct quota q;
        struct quota_error error;
        quota_init(&q, 60, 60 * NS_PER_S, 60, &error);
        PyObject *one = quota_new(m, &q);
        quotas = one == NULL ? NULL : PyTuple_Pack(1, one);
        Py_XDECREF(one);
        if (quotas == NULL) {
            goto done;
        }
    } else if (!PyCallable_Check(quota)) {
        quotas = quotas_from_object(m, quota);
        if (quotas == NULL) {
            goto done;
        }
    }
    if (hooks != Py_None) {
        made_hooks = hooks_from_argument(hooks);
        if (made_hooks == NULL) {
            goto done;
        }
    }
    made_store = store_from_argument(m, store);
    if (made_store == NULL) {
        goto done;
    }
    if (quotas != NULL) {
        plan = plan_new(m, (StoreObject *)made_store, prefix, algorithm, quotas);
        if (plan == NULL) {
            goto done;
        }
        self->quota = Py_NewRef(PyTuple_GET_SIZE(quotas) == 1 ? PyTuple_GET_ITEM(quotas, 0) : quotas);
    } else {
        self->plans = PyDict_New();
        if (self->plans == NULL) {
            goto done;
        }
        self->quota = Py_NewRef(quota);
    }
    self->module = m;
    self->plan = plan;
    self->key = Py_NewRef(key);
    self->cost = Py_NewRef(kept_cost);
    self->cost_value = cost_value;
    self->hooks = made_hooks != NULL && PyTuple_GET_SIZE(made_hooks) > 0 ? Py_NewRef(made_hooks) : NULL;
    self->prefix = Py_NewRef(prefix);
    self->timeout = seconds;
    self->timeout_ns = timeout_ns;
    self->algorithm = algorithm;
    self->store = (StoreObject *)Py_NewRef(made_store); /* last: this says that the rest is there */
    plan = NULL;
    answer = 0;
done:
    Py_XDECREF(plan);
    Py_XDECREF(quotas);
    Py_XDECREF(made_store);
    Py_XDECREF(made_hooks);
    Py_XDECREF(kept_cost);
    Py_XDECREF(owned);
    return answer;
}

static int throttled_traverse(ThrottledObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->key);
    Py_VISIT(self->quota);
    Py_VISIT(self->cost);
    Py_VISIT(self->hooks);
    Py_VISIT(self->store);
    Py_VISIT(self->plans);
    return 0;
}

static int throttled_clear(ThrottledObject *self) {
    Py_CLEAR(self->store);
    Py_CLEAR(self->key);
    Py_CLEAR(self->quota);
    Py_CLEAR(self->cost);
    Py_CLEAR(self->hooks);
    Py_CLEAR(self->plans);
    return 0;
}

static void throttled_dealloc(ThrottledObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    throttled_clear(self);
    Py_CLEAR(self->plan);
    Py_CLEAR(self->prefix);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- deciding ---- */

struct thread_waiter {
    struct store_waiter store; /* first: the line hands back its address */
    struct parker parker;
};

static void wake_thread(struct waiter *w) {
    parker_wake(&((struct thread_waiter *)w)->parker);
}

/* Waits in line. 0 with w->store.outcome, or -1 when a signal handler raised; then no slot is kept. */
static int wait_in_line(ThrottledObject *t, const struct plan *plan, const struct table_key *key, int64_t cost,
                        int64_t timeout_ns, struct outcome *out) {
    struct store *store = &t->store->store;
    struct thread_waiter w;
    int64_t until;
    int answer = 0;
    parker_init(&w.parker);
    w.store.waiter.wake = wake_thread;
    bool decided = store_wait_begin(store, plan, key, cost, timeout_ns, &w.store, &until);
    while (!decided) {
        /* A virtual clock wakes us itself. */
        if (sleep_in_line(&w.parker, store->clock == NULL ? until : PARK_FOREVER) < 0) {
            store_wait_cancel(&w.store, key);
            answer = -1;
            break;
        }
        decided = store_wait_check(&w.store, &until);
    }
    parker_destroy(&w.parker);
    *out = w.store.outcome;
    return answer;
}

static int check_outcome(ThrottledObject *t, const struct outcome *out) {
    if (out->kind == OUTCOME_NO_MEMORY) {
        PyErr_NoMemory();
        return -1;
    }
    if (out->kind == OUTCOME_FULL && t->store->raise_when_full) {
        PyErr_Format(t->module->store_error,
                     "MemoryStore is full: %lld live keys. Give a larger MAX_SIZE, or on_full='evict'.",
                     (long long)t->store->store.table.max_keys);
        return -1;
    }
    return 0;
}

/* The plan for a key: the instance's own, or what the quota callable says. A new reference. */
static PlanObject *plan_for(ThrottledObject *t, PyObject *key) {
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
    PlanObject *plan = (PlanObject *)PyDict_GetItemWithError(t->plans, answer);
    if (plan != NULL) {
        Py_INCREF(plan);
    } else if (!PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear(); /* not hashable: the next call says what is wrong with it */
        PyObject *quotas = quotas_from_object(t->module, answer);
        if (quotas != NULL) {
            plan = plan_new(t->module, t->store, t->prefix, t->algorithm, quotas);
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

/* The decision itself. 0, or -1 and an exception. */
static inline int decide(ThrottledObject *t, PlanObject *plan, PyObject *key_object, int64_t cost, int64_t timeout_ns,
                         struct outcome *out) {
    struct table_key key;
    PyObject *owned;
    if (key_from_object(t->module, key_object, &key, &owned) < 0) {
        return -1;
    }
    int answer = 0;
    if (timeout_ns < 0) {
        store_limit(&t->store->store, plan->plan, &key, cost, out);
    } else {
        answer = wait_in_line(t, plan->plan, &key, cost, timeout_ns, out);
    }
    Py_XDECREF(owned);
    if (answer == 0 && out->kind >= OUTCOME_FULL) {
        answer = check_outcome(t, out);
    }
    if (answer == 0 && atomic_load_explicit(&t->store->store.table.evictions, memory_order_relaxed) > 0 &&
        !t->store->warned && store_warn_evicted(t->store) < 0) {
        PyErr_Clear(); /* the decision stands, whatever the user's log handlers did */
    }
    return answer;
}

static PyObject *decide_result(ThrottledObject *t, PyObject *key, int64_t cost, int64_t timeout_ns) {
    struct outcome out;
    if (t->plan != NULL) {
        return decide(t, t->plan, key, cost, timeout_ns, &out) < 0 ? NULL : result_new(t->module, t->plan, &out);
    }
    PlanObject *plan = plan_for(t, key);
    if (plan == NULL) {
        return NULL;
    }
    PyObject *result = decide(t, plan, key, cost, timeout_ns, &out) < 0 ? NULL : result_new(t->module, plan, &out);
    Py_DECREF(plan);
    return result;
}

/* What a hook calls: (Throttled, key, cost, timeout_ns), bound. */
static PyObject *bound_limit(PyObject *bound, PyObject *unused) {
    (void)unused;
    long long cost = PyLong_AsLongLong(PyTuple_GET_ITEM(bound, 2));
    long long timeout_ns = PyLong_AsLongLong(PyTuple_GET_ITEM(bound, 3));
    return decide_result((ThrottledObject *)PyTuple_GET_ITEM(bound, 0), PyTuple_GET_ITEM(bound, 1), cost, timeout_ns);
}
static PyMethodDef bound_limit_method = {"limit", bound_limit, METH_NOARGS, NULL};

static PyObject *limit_with_hooks(ThrottledObject *t, PyObject *key, int64_t cost, int64_t timeout_ns) {
    struct module_state *m = t->module;
    PyObject *result = NULL, *call = NULL;
    struct table_key checked;
    PyObject *owned;
    if (key_from_object(m, key, &checked, &owned) < 0) { /* before any hook runs */
        return NULL;
    }
    Py_XDECREF(owned);
    if (import_once(&m->run_chain, "headway.hooks", "run_chain") < 0) {
        return NULL;
    }
    PyObject *bound = Py_BuildValue("(OOLL)", t, key, (long long)cost, (long long)timeout_ns);
    if (bound != NULL) {
        call = PyCFunction_New(&bound_limit_method, bound);
        Py_DECREF(bound);
    }
    if (call != NULL) {
        PyObject *store_type = PyObject_GetAttrString((PyObject *)t->store, "TYPE");
        if (store_type != NULL) {
            result = PyObject_CallFunction(m->run_chain, "OOOLsO", t->hooks, call, key, (long long)cost,
                                           algorithm_names[t->algorithm], store_type);
            Py_DECREF(store_type);
        }
        Py_DECREF(call);
    }
    if (result != NULL && !Py_IS_TYPE(result, m->result)) {
        PyErr_Format(PyExc_TypeError, "A hook returned %R, must be the RateLimitResult of call_next().", result);
        Py_CLEAR(result);
    }
    return result;
}

static inline PyObject *limit_by_key(ThrottledObject *t, PyObject *key, int64_t cost, int64_t timeout_ns) {
    return t->hooks == NULL ? decide_result(t, key, cost, timeout_ns) : limit_with_hooks(t, key, cost, timeout_ns);
}

void raise_limited(struct module_state *m, PyObject *result) {
    PyObject *error = PyObject_CallOneArg(m->limited_error, result);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
}

static PyObject *resolve(PyObject *callable, const struct call *call) {
    return call->vector != NULL  ? PyObject_Vectorcall(callable, call->vector, call->nargsf, call->names)
           : call->tuple != NULL ? PyObject_Call(callable, call->tuple, call->dict)
                                 : PyObject_CallNoArgs(callable);
}

static PyObject *resolve_key(ThrottledObject *t, const struct call *call) {
    if (PyUnicode_Check(t->key) || PyBytes_Check(t->key) || t->key == Py_None) {
        return Py_NewRef(t->key);
    }
    return resolve(t->key, call);
}

int throttled_acquire(ThrottledObject *t, const struct call *call, int64_t timeout_ns, PyObject **result,
                      bool always_result) {
    struct outcome out;
    int64_t cost = t->cost_value;
    *result = NULL;
    if (t->plan != NULL && t->hooks == NULL && cost >= 0 && !always_result && PyUnicode_Check(t->key)) {
        if (decide(t, t->plan, t->key, cost, timeout_ns, &out) < 0) {
            return -1;
        }
        if (out.kind == OUTCOME_ADMITTED) {
            return 1;
        }
        *result = result_new(t->module, t->plan, &out);
        return *result == NULL ? -1 : 0;
    }
    if (cost < 0) {
        PyObject *made = resolve(t->cost, call);
        int failed = made == NULL || cost_from_object(t->module, made, &cost) < 0;
        Py_XDECREF(made);
        if (failed) {
            return -1;
        }
    }
    PyObject *key = resolve_key(t, call);
    if (key == NULL) {
        return -1;
    }
    *result = limit_by_key(t, key, cost, timeout_ns);
    Py_DECREF(key);
    return *result == NULL ? -1 : !((ResultObject *)*result)->limited;
}

/* ---- methods ---- */

static PyObject *key_or_own(ThrottledObject *t, PyObject *key) {
    static const struct call no_arguments = {0};
    return key != NULL && key != Py_None ? Py_NewRef(key) : resolve_key(t, &no_arguments);
}

/* limit(key=None, cost=1, timeout=None): by position or by name. */
static int limit_arguments(struct module_state *m, PyObject *const *args, Py_ssize_t nargs, PyObject *names,
                           PyObject *values[3]) {
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    if (nargs + named > 3 && nargs > 3) {
        PyErr_Format(PyExc_TypeError, "limit() takes at most 3 arguments (%zd given)", nargs + named);
        return -1;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        values[i] = args[i];
    }
    PyObject *const known[3] = {m->str_key, m->str_cost, m->str_timeout};
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        int at = 0;
        while (at < 3 && name != known[at] && PyUnicode_Compare(name, known[at]) != 0) {
            at++;
        }
        if (at == 3) {
            PyErr_Format(PyExc_TypeError, "limit() got an unexpected keyword argument %R", name);
            return -1;
        }
        if (values[at] != NULL) {
            PyErr_Format(PyExc_TypeError, "limit() got multiple values for argument %R", name);
            return -1;
        }
        values[at] = args[nargs + i];
    }
    return 0;
}

static PyObject *throttled_limit(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    ThrottledObject *t = ready_throttled(object);
    if (t == NULL) {
        return NULL;
    }
    if (nargs == 1 && names == NULL && args[0] != Py_None) {
        return limit_by_key(t, args[0], 1, t->timeout_ns);
    }
    PyObject *values[3] = {NULL, NULL, NULL};
    int64_t cost = 1, timeout_ns = t->timeout_ns;
    double seconds;
    if (limit_arguments(t->module, args, nargs, names, values) < 0 ||
        (values[1] != NULL && cost_from_object(t->module, values[1], &cost) < 0)) {
        return NULL;
    }
    if (values[2] != NULL && values[2] != Py_None &&
        timeout_from_object(t->module, values[2], &seconds, &timeout_ns) < 0) {
        return NULL;
    }
    PyObject *key = key_or_own(t, values[0]);
    if (key == NULL) {
        return NULL;
    }
    PyObject *result = limit_by_key(t, key, cost, timeout_ns);
    Py_DECREF(key);
    return result;
}

static PyObject *single_key(const char *name, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"key", NULL};
    char format[16];
    PyObject *key = Py_None;
    PyOS_snprintf(format, sizeof format, "|O:%s", name);
    return PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &key) ? key : NULL;
}

static PyObject *throttled_peek(PyObject *object, PyObject *args, PyObject *kwargs) {
    ThrottledObject *t = ready_throttled(object);
    PyObject *given = t == NULL ? NULL : single_key("peek", args, kwargs);
    PyObject *key = given == NULL ? NULL : key_or_own(t, given);
    PyObject *state = NULL, *owned = NULL;
    PlanObject *plan = NULL;
    struct table_key table_key;
    if (key != NULL && key_from_object(t->module, key, &table_key, &owned) == 0) {
        plan = plan_for(t, key);
    }
    if (plan != NULL) {
        struct outcome out;
        struct decision d;
        store_peek(&t->store->store, plan->plan, &table_key, &out);
        algorithm_report(t->algorithm, &out.state, &plan->plan->rules[out.rule].quota, 0, out.now, &d);
        state = state_new(t->module, &d);
    }
    Py_XDECREF(plan);
    Py_XDECREF(owned);
    Py_XDECREF(key);
    return state;
}

static PyObject *throttled_reset(PyObject *object, PyObject *args, PyObject *kwargs) {
    ThrottledObject *t = ready_throttled(object);
    PyObject *given = t == NULL ? NULL : single_key("reset", args, kwargs);
    PyObject *key = given == NULL ? NULL : key_or_own(t, given);
    PyObject *answer = NULL, *owned = NULL;
    PlanObject *plan = NULL;
    struct table_key table_key;
    if (key != NULL && key_from_object(t->module, key, &table_key, &owned) == 0) {
        plan = plan_for(t, key);
    }
    if (plan != NULL) {
        store_reset(&t->store->store, plan->plan, &table_key);
        answer = Py_NewRef(Py_None);
    }
    Py_XDECREF(plan);
    Py_XDECREF(owned);
    Py_XDECREF(key);
    return answer;
}

static PyObject *throttled_acquire_method(PyObject *object, PyObject *args) {
    ThrottledObject *t = ready_throttled(object);
    PyObject *tuple, *dict = Py_None, *timeout = Py_None, *result;
    if (t == NULL || !PyArg_ParseTuple(args, "O!|OO:_acquire", &PyTuple_Type, &tuple, &dict, &timeout)) {
        return NULL;
    }
    double seconds;
    int64_t timeout_ns = t->timeout_ns;
    if (timeout != Py_None && timeout_from_object(t->module, timeout, &seconds, &timeout_ns) < 0) {
        return NULL;
    }
    struct call call = {.tuple = tuple, .dict = dict == Py_None ? NULL : dict};
    throttled_acquire(t, &call, timeout_ns, &result, true);
    return result;
}

static PyObject *throttled_enter(PyObject *object, PyObject *unused) {
    (void)unused;
    static const struct call no_arguments = {0};
    ThrottledObject *t = ready_throttled(object);
    PyObject *result;
    if (t == NULL || throttled_acquire(t, &no_arguments, t->timeout_ns, &result, true) < 0) {
        return NULL;
    }
    if (((ResultObject *)result)->limited) {
        raise_limited(t->module, result);
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *throttled_exit(PyObject *object, PyObject *args) {
    (void)object;
    (void)args;
    Py_RETURN_NONE;
}

static PyObject *throttled_call(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"func", NULL};
    ThrottledObject *t = ready_throttled(object);
    PyObject *function;
    if (t == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "O:Throttled", names, &function) ||
        import_once(&t->module->decorate, "headway._wrap", "decorate") < 0) {
        return NULL;
    }
    return PyObject_CallFunctionObjArgs(t->module->decorate, object, function, NULL);
}

/* ---- attributes ---- */

static PyObject *throttled_using(ThrottledObject *self, void *unused) {
    (void)unused;
    return PyUnicode_FromString(algorithm_names[self->algorithm]);
}

static PyObject *throttled_timeout(ThrottledObject *self, void *unused) {
    (void)unused;
    return PyFloat_FromDouble(self->timeout);
}

static PyObject *throttled_hooks(ThrottledObject *self, void *unused) {
    (void)unused;
    return self->hooks != NULL ? Py_NewRef(self->hooks) : PyTuple_New(0);
}

static PyObject *throttled_repr(ThrottledObject *self) {
    if (self->store == NULL) {
        return PyUnicode_FromString("<Throttled, not initialised>");
    }
    PyObject *quota = Py_IS_TYPE(self->quota, self->module->quota) ? PyObject_Str(self->quota) : NULL;
    PyErr_Clear();
    PyObject *text = PyUnicode_FromFormat("Throttled(key=%R, using='%s', quota=%R)", self->key,
                                          algorithm_names[self->algorithm], quota != NULL ? quota : self->quota);
    Py_XDECREF(quota);
    return text;
}

static PyMemberDef throttled_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(ThrottledObject, weakrefs), READONLY, NULL},
    {"key", T_OBJECT, offsetof(ThrottledObject, key), READONLY, "The key when a call gives none; may be a callable."},
    {"quota", T_OBJECT, offsetof(ThrottledObject, quota), READONLY, "A Quota, a tuple of them, or a callable."},
    {"store", T_OBJECT, offsetof(ThrottledObject, store), READONLY, "Where the states are kept."},
    {"cost", T_OBJECT, offsetof(ThrottledObject, cost), READONLY, "The cost of a decorated call; may be a callable."},
    {"key_prefix", T_OBJECT, offsetof(ThrottledObject, prefix), READONLY, "Keeps keys of different users apart."},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef throttled_attributes[] = {
    {"using", (getter)throttled_using, NULL, "The algorithm's name.", NULL},
    {"timeout", (getter)throttled_timeout, NULL, "The longest wait in seconds; -1 for none.", NULL},
    {"hooks", (getter)throttled_hooks, NULL, "The hooks, outermost first.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
#define WITH_KEYWORDS(f) ((PyCFunction)(void (*)(void))(f))
static PyMethodDef throttled_methods[] = {
    {"limit", WITH_KEYWORDS(throttled_limit), METH_FASTCALL | METH_KEYWORDS,
     "limit($self, /, key=None, cost=1, timeout=None)\n--\n\n"
     "Takes `cost` from the key's quota and returns a RateLimitResult, true when allowed. A denied call takes nothing.\n\n"
     "key: str or bytes of 1 byte to 64 KiB; the instance's when not given. cost: int, 0 only reads.\n"
     "timeout: the longest wait in seconds, -1 for none; the instance's when not given. A wait that is known to be longer\n"
     "is denied at once. Waiters on one key are served first come, first served.\n"
     "Raises DataError for a bad argument. Source: throttled.md."},
    {"peek", WITH_KEYWORDS(throttled_peek), METH_VARARGS | METH_KEYWORDS,
     "peek($self, /, key=None)\n--\n\nThe key's RateLimitState; takes nothing. Raises DataError for a bad key."},
    {"reset", WITH_KEYWORDS(throttled_reset), METH_VARARGS | METH_KEYWORDS,
     "reset($self, /, key=None)\n--\n\nForgets what the key has used. Raises DataError for a bad key."},
    {"_acquire", throttled_acquire_method, METH_VARARGS,
     "_acquire($self, args, kwargs=None, timeout=None, /)\n--\n\nA RateLimitResult for a decorated call's arguments."},
    {"__enter__", throttled_enter, METH_NOARGS,
     "Takes the instance's cost from its key. Raises LimitedError when denied; returns the RateLimitResult."},
    {"__exit__", throttled_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot throttled_slots[] = {
    {Py_tp_doc,
     "Throttled(key=None, timeout=None, using=None, quota=None, store=None, cost=1, hooks=None, key_prefix=None)\n--\n\n"
     "Limits calls by key: ask with limit(), or use it as a decorator or a context manager (throttled.md).\n\n"
     "key: str or bytes, or a callable that makes one from a decorated call's arguments.\n"
     "timeout: the longest wait in seconds, -1 (default) for none.\n"
     "using: 'token_bucket' (default), 'leaking_bucket', 'gcra', 'fixed_window', 'sliding_window', or a RateLimiterType.\n"
     "quota: Quota, text such as '100/s burst 200; 1000/h', a list of these (all must admit), or a callable of the key;\n"
     "60 a minute by default.\n"
     "store: a MemoryStore or a URL; by default one that the whole process shares.\n"
     "cost: of a decorated call or a `with` block; an int or a callable of the call's arguments.\n"
     "hooks: Hooks around every limit(), outermost first.\n"
     "key_prefix: keeps the keys of different users of one store apart, 'headway' by default.\n"
     "Raises DataError for a bad value, SetUpError for an unknown algorithm or store."},
    {Py_tp_init, throttled_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, throttled_dealloc},
    {Py_tp_traverse, throttled_traverse},
    {Py_tp_clear, throttled_clear},
    {Py_tp_repr, throttled_repr},
    {Py_tp_call, throttled_call},
    {Py_tp_members, throttled_members},
    {Py_tp_getset, throttled_attributes},
    {Py_tp_methods, throttled_methods},
    {0, NULL},
};
static PyType_Spec throttled_spec = {"headway.Throttled", sizeof(ThrottledObject), 0,
                                     Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, throttled_slots};

PyTypeObject *throttled_type_make(PyObject *module) {
    return type_make(module, &throttled_spec, NULL);
}
