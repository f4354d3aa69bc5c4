/* Limiter: a quota, an algorithm and a store, ready to be entered; the base of Throttled and of the other families' limiters.
 *
 * `with` and `async with` take the instance's cost from its key. What a denial raises is for a subclass to say
 * (`_limited_error`). */
#include "atomic.h"
#include "leased.h"
#include "shared_store_type.h"
#include "wait.h"

LimiterObject *ready_limiter(PyObject *self) {
    LimiterObject *t = (LimiterObject *)self;
    if (t->place == NULL) {
        PyErr_Format(PyExc_RuntimeError, "%s.__init__ was not called.", type_short_name(Py_TYPE(self)));
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
    if (PyObject_TypeCheck(store, m->redis_store)) {
        if (((RedisStoreObject *)store)->server == NULL) {
            PyErr_SetString(PyExc_RuntimeError, "RedisStore.__init__ was not called.");
            return NULL;
        }
        return Py_NewRef(store);
    }
    if (PyObject_TypeCheck(store, m->store)) {
        if (!((StoreObject *)store)->ready) {
            PyErr_SetString(PyExc_RuntimeError, "MemoryStore.__init__ was not called.");
            return NULL;
        }
        return Py_NewRef(store);
    }
    if (PyObject_TypeCheck(store, m->shared_store)) {
        if (((SharedStoreObject *)store)->table.file == NULL) {
            PyErr_SetString(PyExc_RuntimeError, "SharedMemoryStore.__init__ was not called.");
            return NULL;
        }
        return Py_NewRef(store);
    }
    PyObject *module = PyImport_ImportModule("headway.store");
    if (module == NULL) {
        return NULL;
    }
    PyObject *made = PyObject_CallMethod(module, "from_any", "O", store);
    if (made != NULL && !PyObject_TypeCheck(made, m->store) && !PyObject_TypeCheck(made, m->redis_store) &&
        !PyObject_TypeCheck(made, m->shared_store)) {
        PyObject *atomic = PyObject_GetAttrString(module, "AtomicStore");
        int is_atomic = atomic == NULL ? -1 : PyObject_IsInstance(made, atomic);
        Py_XDECREF(atomic);
        if (is_atomic == 0) {
            PyErr_Format(m->setup_error, "Invalid store: %R is not a store.", made);
        }
        if (is_atomic <= 0) {
            Py_CLEAR(made);
        }
    }
    Py_DECREF(module);
    return made;
}

static PyObject *hooks_from_argument(struct module_state *m, LimiterObject *self, PyObject *hooks) {
    PyObject *check = NULL;
    bool awaits = PyObject_TypeCheck((PyObject *)self, m->async_throttled);
    if (import_once(&check, "headway.hooks", "check_hooks") < 0) {
        return NULL;
    }
    PyObject *tuple = PyObject_CallFunctionObjArgs(check, hooks, awaits ? Py_True : Py_False, NULL);
    Py_DECREF(check);
    if (tuple != NULL && !PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "check_hooks must return a tuple");
        Py_CLEAR(tuple);
    }
    return tuple;
}

static int limiter_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"key", "timeout", "using", "quota", "store", "cost", "hooks", "key_prefix", NULL};
    LimiterObject *self = (LimiterObject *)object;
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
    if (self->place != NULL) {
        PyErr_Format(PyExc_RuntimeError, "%s.__init__ was called twice.", type_short_name(Py_TYPE(object)));
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
        made_hooks = hooks_from_argument(m, self, hooks);
        if (made_hooks == NULL) {
            goto done;
        }
    }
    made_store = store_from_argument(m, store);
    if (made_store == NULL) {
        goto done;
    }
    if (!PyObject_TypeCheck(made_store, m->store) && !PyObject_TypeCheck(made_store, m->redis_store)) {
        /* Loaded now: a child that is forked while a thread imports a module never gets that module. */
        PyObject *atomic = PyImport_ImportModule("headway._atomic");
        if (atomic == NULL) {
            goto done;
        }
        Py_DECREF(atomic);
    }
    if (quotas != NULL) {
        plan = PyObject_TypeCheck(made_store, m->store)
                   ? plan_new(m, (StoreObject *)made_store, prefix, algorithm, quotas)
               : PyObject_TypeCheck(made_store, m->redis_store)
                   ? leased_plan((RedisStoreObject *)made_store, prefix, algorithm, quotas)
                   : plan_new_atomic(m, prefix, algorithm, quotas);
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
    if (PyObject_TypeCheck(made_store, m->store)) {
        self->store = (StoreObject *)made_store;
    } else if (PyObject_TypeCheck(made_store, m->redis_store)) {
        self->redis = (RedisStoreObject *)made_store;
    } else {
        self->atomic = made_store;
        self->shared = PyObject_TypeCheck(made_store, m->shared_store) ? (SharedStoreObject *)made_store : NULL;
    }
    self->place = Py_NewRef(made_store); /* last: this says that the rest is there */
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

static int limiter_traverse(LimiterObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->key);
    Py_VISIT(self->quota);
    Py_VISIT(self->cost);
    Py_VISIT(self->hooks);
    Py_VISIT(self->place);
    Py_VISIT(self->plans);
    return 0;
}

static int limiter_clear(LimiterObject *self) {
    Py_CLEAR(self->place);
    self->store = NULL;
    self->redis = NULL;
    self->atomic = NULL;
    self->shared = NULL;
    Py_CLEAR(self->key);
    Py_CLEAR(self->quota);
    Py_CLEAR(self->cost);
    Py_CLEAR(self->hooks);
    Py_CLEAR(self->plans);
    return 0;
}

static void limiter_dealloc(LimiterObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    limiter_clear(self);
    Py_CLEAR(self->plan);
    Py_CLEAR(self->former);
    Py_CLEAR(self->prefix);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- entering ---- */

static PyObject *limiter_acquire_method(PyObject *object, PyObject *args) {
    LimiterObject *t = ready_limiter(object);
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
    limiter_acquire(t, &call, timeout_ns, &result, true);
    return result;
}

static PyObject *limiter_enter(PyObject *object, PyObject *unused) {
    (void)unused;
    static const struct call no_arguments = {0};
    LimiterObject *t = ready_limiter(object);
    PyObject *result;
    int admitted = t == NULL ? -1 : limiter_acquire(t, &no_arguments, t->timeout_ns, &result, !t->silent);
    if (admitted < 0) {
        return NULL;
    }
    if (admitted == 0) {
        raise_limited(t, result);
        Py_DECREF(result);
        return NULL;
    }
    if (t->silent) {
        Py_XDECREF(result);
        Py_RETURN_NONE;
    }
    return result;
}

static PyObject *limiter_exit(PyObject *object, PyObject *args) {
    (void)object;
    (void)args;
    Py_RETURN_NONE;
}

/* Nothing is asked for when it was not awaited: a class whose `async with` is entered by way of a task may be given up. */
static PyObject *limiter_aenter(PyObject *object, PyObject *unused) {
    (void)unused;
    LimiterObject *t = ready_limiter(object);
    return t == NULL ? NULL : call_enter(t, NULL);
}

static PyObject *limiter_aexit(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    (void)args;
    (void)nargs;
    const LimiterObject *t = ready_limiter(object);
    return t == NULL ? NULL : Py_NewRef(t->module->nothing);
}

static PyObject *limiter_acquire_async(PyObject *object, PyObject *args) {
    LimiterObject *t = ready_limiter(object);
    PyObject *tuple, *dict = Py_None;
    if (t == NULL || !PyArg_ParseTuple(args, "O!|O:_acquire_async", &PyTuple_Type, &tuple, &dict)) {
        return NULL;
    }
    struct call call = {.tuple = tuple, .dict = dict == Py_None ? NULL : dict};
    return call_enter(t, &call);
}

static PyObject *limiter_charge_per_call(PyObject *object, PyObject *arg) {
    LimiterObject *t = ready_limiter(object);
    Py_ssize_t rule = t == NULL ? -1 : PyLong_AsSsize_t(arg);
    if (rule == -1 && (t == NULL || PyErr_Occurred())) {
        return NULL;
    }
    if (t->plan == NULL || rule < 0 || rule >= t->plan->plan->count) {
        PyErr_Format(PyExc_IndexError, "there is no rule %zd", rule);
        return NULL;
    }
    if (t->plan->plan->rules[rule].fixed_cost == 1) {
        Py_RETURN_NONE;
    }
    if (t->plan->lease != NULL) { /* others have this plan too, and a fixed cost is not leased */
        PlanObject *own = plan_new(t->module, NULL, t->prefix, t->algorithm, t->plan->quotas);
        if (own == NULL) {
            return NULL;
        }
        t->former = t->plan; /* at most once: the limiter's own plan leases nothing */
        t->plan = own;
    }
    t->plan->plan->rules[rule].fixed_cost = 1;
    Py_RETURN_NONE;
}

static PyObject *limiter_peek_method(PyObject *object, PyObject *key) {
    LimiterObject *t = ready_limiter(object);
    return t == NULL ? NULL : limiter_peek(t, key);
}

static PyObject *limiter_settle(PyObject *object, PyObject *args) {
    LimiterObject *t = ready_limiter(object);
    PyObject *key, *owned = NULL;
    struct table_key table_key;
    int rule;
    long long surplus;
    if (t == NULL || !PyArg_ParseTuple(args, "OiL:_settle", &key, &rule, &surplus) ||
        key_from_object(t->module, key, &table_key, &owned) < 0) {
        return NULL;
    }
    bool known = t->plan != NULL && rule >= 0 && rule < t->plan->plan->count && algorithm_is_bucket(t->algorithm);
    bool done = known;
    if (known && t->redis != NULL) {
        int end = redis_store_settle_from_anywhere(t->redis, t->plan, rule, &table_key, surplus);
        if (end < 0) {
            Py_XDECREF(owned);
            return NULL;
        }
    } else if (known && t->atomic != NULL) {
        if (atomic_settle(t, t->plan, rule, &table_key, surplus) < 0) {
            Py_XDECREF(owned);
            return NULL;
        }
    } else if (known) {
        done = store_settle(&t->store->store, t->plan->plan, rule, &table_key, surplus);
        wait_flush(t->module);
    }
    Py_XDECREF(owned);
    if (!known) {
        PyErr_Format(PyExc_IndexError, "there is no bucket %d to settle", rule);
        return NULL;
    }
    return PyBool_FromLong(done);
}

/* ---- attributes ---- */

static PyObject *limiter_using(LimiterObject *self, void *unused) {
    (void)unused;
    return PyUnicode_FromString(algorithm_names[self->algorithm]);
}

static PyObject *limiter_timeout(LimiterObject *self, void *unused) {
    (void)unused;
    return PyFloat_FromDouble(self->timeout);
}

static PyObject *limiter_hooks(LimiterObject *self, void *unused) {
    (void)unused;
    return self->hooks != NULL ? Py_NewRef(self->hooks) : PyTuple_New(0);
}

static PyObject *limiter_repr(LimiterObject *self) {
    if (self->place == NULL) {
        return PyUnicode_FromString("<limiter, not initialised>");
    }
    PyObject *quota = Py_IS_TYPE(self->quota, self->module->quota) ? PyObject_Str(self->quota) : NULL;
    PyErr_Clear();
    PyObject *text = PyUnicode_FromFormat("%s(key=%R, using='%s', quota=%R)", type_short_name(Py_TYPE(self)), self->key,
                                          algorithm_names[self->algorithm], quota != NULL ? quota : self->quota);
    Py_XDECREF(quota);
    return text;
}

static PyMemberDef limiter_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(LimiterObject, weakrefs), READONLY, NULL},
    {"key", T_OBJECT, offsetof(LimiterObject, key), READONLY, "The key when a call gives none; may be a callable."},
    {"quota", T_OBJECT, offsetof(LimiterObject, quota), READONLY, "A Quota, a tuple of them, or a callable."},
    {"store", T_OBJECT, offsetof(LimiterObject, place), READONLY, "Where the states are kept."},
    {"cost", T_OBJECT, offsetof(LimiterObject, cost), READONLY, "The cost of a decorated call; may be a callable."},
    {"key_prefix", T_OBJECT, offsetof(LimiterObject, prefix), READONLY, "Keeps keys of different users apart."},
    {"_silent", T_BOOL, offsetof(LimiterObject, silent), 0, "Whether entering returns None instead of the result."},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef limiter_attributes[] = {
    {"using", (getter)limiter_using, NULL, "The algorithm's name.", NULL},
    {"timeout", (getter)limiter_timeout, NULL, "The longest wait in seconds; -1 for none.", NULL},
    {"hooks", (getter)limiter_hooks, NULL, "The hooks, outermost first.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef limiter_methods[] = {
    {"_acquire", limiter_acquire_method, METH_VARARGS,
     "_acquire($self, args, kwargs=None, timeout=None, /)\n--\n\nA RateLimitResult for a decorated call's arguments."},
    {"_acquire_async", limiter_acquire_async, METH_VARARGS,
     "_acquire_async($self, args, kwargs=None, /)\n--\n\nAn awaitable that enters for a decorated call's arguments."},
    {"_charge_per_call", limiter_charge_per_call, METH_O,
     "_charge_per_call($self, rule, /)\n--\n\nMakes a rule take 1 of every call, whatever the call's cost. It is called "
     "before other threads have the limiter; after that it may only be repeated."},
    {"_peek", limiter_peek_method, METH_O, "_peek($self, key, /)\n--\n\nThe key's RateLimitState; takes nothing."},
    {"_settle", limiter_settle, METH_VARARGS,
     "_settle($self, key, rule, surplus, /)\n--\n\nGives back what a call did not use, or charges what it used too much."},
    {"_limited_error", limiter_limited_error, METH_O,
     "_limited_error($self, result, /)\n--\n\nThe exception that a denial raises: LimitedError, unless a subclass differs."},
    {"__enter__", limiter_enter, METH_NOARGS,
     "Takes the instance's cost from its key. Raises LimitedError when denied; returns the RateLimitResult."},
    {"__exit__", limiter_exit, METH_VARARGS, NULL},
    {"__aenter__", limiter_aenter, METH_NOARGS,
     "As __enter__, for `async with`: a wait leaves the event loop to others."},
    {"__aexit__", (PyCFunction)(void (*)(void))limiter_aexit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot limiter_slots[] = {
    {Py_tp_doc, "What all limiters have in common; users meet Throttled and the other families."},
    {Py_tp_init, limiter_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, limiter_dealloc},
    {Py_tp_traverse, limiter_traverse},
    {Py_tp_clear, limiter_clear},
    {Py_tp_repr, limiter_repr},
    {Py_tp_members, limiter_members},
    {Py_tp_getset, limiter_attributes},
    {Py_tp_methods, limiter_methods},
    {0, NULL},
};
static PyType_Spec limiter_spec = {"headway._core.Limiter", sizeof(LimiterObject), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, limiter_slots};

PyTypeObject *limiter_type_make(PyObject *module) {
    return type_make(module, &limiter_spec, NULL, NULL);
}
