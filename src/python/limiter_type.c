/* Limiter: a quota, an algorithm and a store, ready to be entered; the base of Throttled and of the other families' limiters.
 *
 * `with` and `async with` take the instance's cost from its key. What a denial raises is for a subclass to say
 * (`_limited_error`). */
#include "redis_store_type.h"
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

static PyObject *not_ready(const char *type) {
    PyErr_Format(PyExc_RuntimeError, "%s.__init__ was not called.", type);
    return NULL;
}

/* Which kind of store it is; NULL: of none. */
static const struct store_ops *ops_of(const struct module_state *m, PyObject *store) {
    return PyObject_TypeCheck(store, m->store)          ? &memory_ops
           : PyObject_TypeCheck(store, m->redis_store)  ? &redis_ops
           : PyObject_TypeCheck(store, m->shared_store) ? &shared_ops
                                                        : NULL;
}

/* From a URL, an AtomicStore, or whatever else headway.store knows. */
static PyObject *store_from_any(struct module_state *m, PyObject *store, const struct store_ops **ops) {
    PyObject *module = PyImport_ImportModule("headway.store");
    PyObject *made = module == NULL ? NULL : PyObject_CallMethod(module, "from_any", "O", store);
    *ops = made == NULL ? NULL : ops_of(m, made);
    if (made != NULL && *ops == NULL) {
        PyObject *atomic = PyObject_GetAttrString(module, "AtomicStore");
        int is_atomic = atomic == NULL ? -1 : PyObject_IsInstance(made, atomic);
        Py_XDECREF(atomic);
        if (is_atomic == 0) {
            PyErr_Format(m->setup_error, "Invalid store: %R is not a store.", made);
        }
        if (is_atomic <= 0) {
            Py_CLEAR(made);
        }
        *ops = &atomic_ops;
    }
    Py_XDECREF(module);
    return made;
}

PyObject *store_from_argument(struct module_state *m, PyObject *store, const struct store_ops **ops) {
    PyObject *made;
    if (store == Py_None) {
        *ops = &memory_ops;
        return default_store(m);
    }
    *ops = ops_of(m, store);
    if (*ops == &memory_ops && !((StoreObject *)store)->ready) {
        return not_ready("MemoryStore");
    }
    if (*ops == &redis_ops && ((RedisStoreObject *)store)->server == NULL) {
        return not_ready("RedisStore");
    }
    if (*ops == &shared_ops && ((SharedStoreObject *)store)->table.file == NULL) {
        return not_ready("SharedMemoryStore");
    }
    made = *ops != NULL ? Py_NewRef(store) : store_from_any(m, store, ops);
    if (made != NULL && (*ops == &atomic_ops || *ops == &shared_ops)) {
        /* Loaded now: a child that is forked while a thread imports a module never gets that module. */
        PyObject *atomic = PyImport_ImportModule("headway._atomic");
        if (atomic == NULL) {
            Py_CLEAR(made);
        }
        Py_XDECREF(atomic);
    }
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

/* The arguments as they are kept; all references are owned. */
struct limiter_arguments {
    PyObject *key, *quota, *quotas, *store, *hooks, *cost, *prefix; /* quotas NULL: the quota is a callable */
    const struct store_ops *ops;
    double timeout;
    int64_t timeout_ns, cost_value;
    enum algorithm_id algorithm;
};

static void arguments_release(struct limiter_arguments *a) {
    Py_XDECREF(a->key);
    Py_XDECREF(a->quota);
    Py_XDECREF(a->quotas);
    Py_XDECREF(a->store);
    Py_XDECREF(a->hooks);
    Py_XDECREF(a->cost);
    Py_XDECREF(a->prefix);
}

static int read_key(struct module_state *m, PyObject *key, struct limiter_arguments *a) {
    struct table_key checked;
    PyObject *owned = NULL;
    if (key != Py_None && !PyCallable_Check(key) && key_from_object(m, key, &checked, &owned) < 0) {
        return -1;
    }
    Py_XDECREF(owned);
    a->key = Py_NewRef(key);
    return 0;
}

static int read_cost(struct module_state *m, PyObject *cost, struct limiter_arguments *a) {
    a->cost_value = 1;
    a->cost = cost == NULL ? PyLong_FromLong(1) : Py_NewRef(cost);
    if (cost != NULL && PyCallable_Check(cost)) {
        a->cost_value = -1;
    } else if (cost != NULL && cost_from_object(m, cost, &a->cost_value) < 0) {
        return -1;
    }
    return a->cost == NULL ? -1 : 0;
}

static PyObject *default_quotas(struct module_state *m) {
    struct quota q;
    struct quota_error error;
    quota_init(&q, 60, 60 * NS_PER_S, 60, &error);
    PyObject *one = quota_new(m, &q);
    PyObject *quotas = one == NULL ? NULL : PyTuple_Pack(1, one);
    Py_XDECREF(one);
    return quotas;
}

static int read_quota(struct module_state *m, PyObject *quota, struct limiter_arguments *a) {
    if (quota != Py_None && PyCallable_Check(quota)) {
        a->quota = Py_NewRef(quota);
        return 0;
    }
    a->quotas = quota == Py_None ? default_quotas(m) : quotas_from_object(m, quota);
    if (a->quotas == NULL) {
        return -1;
    }
    a->quota = Py_NewRef(PyTuple_GET_SIZE(a->quotas) == 1 ? PyTuple_GET_ITEM(a->quotas, 0) : a->quotas);
    return 0;
}

static int read_arguments(struct module_state *m, LimiterObject *self, PyObject *args, PyObject *kwargs,
                          struct limiter_arguments *a) {
    static char *names[] = {"key", "timeout", "using", "quota", "store", "cost", "hooks", "key_prefix", NULL};
    PyObject *key = Py_None, *timeout = Py_None, *using = Py_None, *quota = Py_None, *store = Py_None, *cost = NULL;
    PyObject *hooks = Py_None, *prefix = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OOOOOOOO:Throttled", names, &key, &timeout, &using, &quota, &store,
                                     &cost, &hooks, &prefix)) {
        return -1;
    }
    a->timeout = -1;
    a->timeout_ns = -1;
    if (read_key(m, key, a) < 0 ||
        (timeout != Py_None && timeout_from_object(m, timeout, &a->timeout, &a->timeout_ns) < 0) ||
        algorithm_from_object(m, using, &a->algorithm) < 0 || (prefix != Py_None && check_prefix(m, prefix) < 0) ||
        read_cost(m, cost, a) < 0 || read_quota(m, quota, a) < 0) {
        return -1;
    }
    a->prefix = Py_NewRef(prefix == Py_None ? m->default_prefix : prefix);
    if (hooks != Py_None && (a->hooks = hooks_from_argument(m, self, hooks)) == NULL) {
        return -1;
    }
    a->store = store_from_argument(m, store, &a->ops);
    return a->store == NULL ? -1 : 0;
}

/* What the plan is made from comes first, the store last: that it is there says that all the rest is. */
static int install(struct module_state *m, LimiterObject *self, const struct limiter_arguments *a) {
    LimiterObject bound = {
        .module = m, .ops = a->ops, .place = a->store, .prefix = a->prefix, .algorithm = a->algorithm};
    PyObject *plans = a->quotas == NULL ? PyDict_New() : NULL;
    PlanObject *plan = a->quotas == NULL ? NULL : a->ops->bind_plan(&bound, a->quotas);
    if (plans == NULL && plan == NULL) {
        return -1;
    }
    if (self->place != NULL) { /* the arguments' own code has called __init__ */
        Py_XDECREF(plans);
        Py_XDECREF(plan);
        PyErr_Format(PyExc_RuntimeError, "%s.__init__ was called twice.", type_short_name(Py_TYPE((PyObject *)self)));
        return -1;
    }
    self->module = m;
    self->plan = plan;
    self->plans = plans;
    self->quota = Py_NewRef(a->quota);
    self->key = Py_NewRef(a->key);
    self->cost = Py_NewRef(a->cost);
    self->cost_value = a->cost_value;
    self->hooks = a->hooks != NULL && PyTuple_GET_SIZE(a->hooks) > 0 ? Py_NewRef(a->hooks) : NULL;
    self->prefix = Py_NewRef(a->prefix);
    self->timeout = a->timeout;
    self->timeout_ns = a->timeout_ns;
    self->algorithm = a->algorithm;
    self->ops = a->ops;
    self->place = Py_NewRef(a->store);
    return 0;
}

static int limiter_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    LimiterObject *self = (LimiterObject *)object;
    struct module_state *m = module_of_instance(object);
    struct limiter_arguments a = {0};
    if (m == NULL) {
        return -1;
    }
    if (self->place != NULL) {
        PyErr_Format(PyExc_RuntimeError, "%s.__init__ was called twice.", type_short_name(Py_TYPE(object)));
        return -1;
    }
    int answer = read_arguments(m, self, args, kwargs, &a) < 0 ? -1 : install(m, self, &a);
    arguments_release(&a);
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
    int done = known ? t->ops->settle(t, t->plan, rule, &table_key, surplus) : 0;
    Py_XDECREF(owned);
    if (!known) {
        PyErr_Format(PyExc_IndexError, "there is no bucket %d to settle", rule);
        return NULL;
    }
    return done < 0 ? NULL : PyBool_FromLong(done);
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
    if (quota == NULL && PyErr_Occurred()) {
        return NULL;
    }
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
