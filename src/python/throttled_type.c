/* Throttled, and its asynchronous twin: what can be asked of a limiter by key.
 *
 * Both are the same object; they differ in whether limit, peek and reset answer or return an awaitable of the answer. Both decorate
 * functions of every kind, since the decorator goes by the function. */
#include "wait.h"

/* ---- methods ---- */

static PyObject *key_or_own(LimiterObject *t, PyObject *key) {
    static const struct call no_arguments = {0};
    return key != NULL && key != Py_None ? Py_NewRef(key) : limiter_key(t, &no_arguments);
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

/* The checked arguments of limit(). `*key` is a new reference. */
static int read_limit(LimiterObject *t, PyObject *const *args, Py_ssize_t nargs, PyObject *names, PyObject **key,
                      int64_t *cost, int64_t *timeout_ns) {
    PyObject *values[3] = {NULL, NULL, NULL};
    double seconds;
    *cost = 1;
    *timeout_ns = t->timeout_ns;
    if (limit_arguments(t->module, args, nargs, names, values) < 0 ||
        (values[1] != NULL && cost_from_object(t->module, values[1], cost) < 0)) {
        return -1;
    }
    if (values[2] != NULL && values[2] != Py_None &&
        timeout_from_object(t->module, values[2], &seconds, timeout_ns) < 0) {
        return -1;
    }
    *key = key_or_own(t, values[0]);
    return *key == NULL ? -1 : 0;
}

static PyObject *throttled_limit(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    LimiterObject *t = ready_limiter(object);
    if (t == NULL) {
        return NULL;
    }
    if (nargs == 1 && names == NULL && args[0] != Py_None) {
        return limiter_limit(t, args[0], 1, t->timeout_ns);
    }
    int64_t cost, timeout_ns;
    PyObject *key;
    if (read_limit(t, args, nargs, names, &key, &cost, &timeout_ns) < 0) {
        return NULL;
    }
    PyObject *result = limiter_limit(t, key, cost, timeout_ns);
    Py_DECREF(key);
    return result;
}

static PyObject *async_limit(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    LimiterObject *t = ready_limiter(object);
    if (t == NULL) {
        return NULL;
    }
    if (nargs == 1 && names == NULL && args[0] != Py_None && t->hooks == NULL) {
        return call_limit(t, Py_NewRef(args[0]), 1, t->timeout_ns);
    }
    int64_t cost, timeout_ns;
    PyObject *key;
    if (read_limit(t, args, nargs, names, &key, &cost, &timeout_ns) < 0) {
        return NULL;
    }
    if (t->hooks == NULL) {
        return call_limit(t, key, cost, timeout_ns);
    }
    PyObject *coroutine = limiter_hooked_call(t, key, cost, timeout_ns);
    Py_DECREF(key);
    return coroutine;
}

static PyObject *single_key(const char *name, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"key", NULL};
    char format[16];
    PyObject *key = Py_None;
    PyOS_snprintf(format, sizeof format, "|O:%s", name);
    return PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &key) ? key : NULL;
}

static PyObject *throttled_peek(PyObject *object, PyObject *args, PyObject *kwargs) {
    LimiterObject *t = ready_limiter(object);
    PyObject *given = t == NULL ? NULL : single_key("peek", args, kwargs);
    PyObject *key = given == NULL ? NULL : key_or_own(t, given);
    PyObject *state = key == NULL ? NULL : limiter_peek(t, key);
    Py_XDECREF(key);
    return state;
}

static PyObject *throttled_reset(PyObject *object, PyObject *args, PyObject *kwargs) {
    LimiterObject *t = ready_limiter(object);
    PyObject *given = t == NULL ? NULL : single_key("reset", args, kwargs);
    PyObject *key = given == NULL ? NULL : key_or_own(t, given);
    PyObject *answer = key == NULL ? NULL : limiter_reset(t, key);
    Py_XDECREF(key);
    return answer;
}

static PyObject *async_peek(PyObject *object, PyObject *args, PyObject *kwargs) {
    LimiterObject *t = ready_limiter(object);
    PyObject *given = t == NULL ? NULL : single_key("peek", args, kwargs);
    PyObject *key = given == NULL ? NULL : key_or_own(t, given);
    return key == NULL ? NULL : call_peek(t, key);
}

static PyObject *async_reset(PyObject *object, PyObject *args, PyObject *kwargs) {
    LimiterObject *t = ready_limiter(object);
    PyObject *given = t == NULL ? NULL : single_key("reset", args, kwargs);
    PyObject *key = given == NULL ? NULL : key_or_own(t, given);
    return key == NULL ? NULL : call_reset(t, key);
}

static PyObject *throttled_call(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"func", NULL};
    LimiterObject *t = ready_limiter(object);
    PyObject *function;
    if (t == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "O:Throttled", names, &function) ||
        import_once(&t->module->decorate, "headway._wrap", "decorate") < 0) {
        return NULL;
    }
    return PyObject_CallFunctionObjArgs(once_get(&t->module->decorate), object, function, NULL);
}

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
     "store: a MemoryStore, RedisStore, SQLiteStore or a URL; by default one that the whole process shares.\n"
     "cost: of a decorated call or a `with` block; an int or a callable of the call's arguments.\n"
     "hooks: Hooks around every limit(), outermost first.\n"
     "key_prefix: keeps the keys of different users of one store apart, 'headway' by default.\n"
     "Raises DataError for a bad value, SetUpError for an unknown algorithm or store."},
    {Py_tp_call, throttled_call},
    {Py_tp_methods, throttled_methods},
    {0, NULL},
};
static PyType_Spec throttled_spec = {"headway.Throttled", sizeof(LimiterObject), 0,
                                     Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, throttled_slots};

static PyMethodDef async_methods[] = {
    {"limit", WITH_KEYWORDS(async_limit), METH_FASTCALL | METH_KEYWORDS,
     "limit($self, /, key=None, cost=1, timeout=None)\n--\n\n"
     "Awaitable: takes `cost` from the key's quota and gives a RateLimitResult, true when allowed. A denied call takes nothing.\n\n"
     "key: str or bytes of 1 byte to 64 KiB; the instance's when not given. cost: int, 0 only reads.\n"
     "timeout: the longest wait in seconds, -1 for none; the instance's when not given. A wait that is known to be longer\n"
     "is denied at once. Waiters on one key, tasks and threads, are served first come, first served.\n"
     "Raises DataError for a bad argument. Source: throttled.md."},
    {"peek", WITH_KEYWORDS(async_peek), METH_VARARGS | METH_KEYWORDS,
     "peek($self, /, key=None)\n--\n\nAwaitable: the key's RateLimitState; takes nothing. Raises DataError for a bad key."},
    {"reset", WITH_KEYWORDS(async_reset), METH_VARARGS | METH_KEYWORDS,
     "reset($self, /, key=None)\n--\n\nAwaitable: forgets what the key has used. Raises DataError for a bad key."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot async_slots[] = {
    {Py_tp_doc,
     "Throttled(key=None, timeout=None, using=None, quota=None, store=None, cost=1, hooks=None, key_prefix=None)\n--\n\n"
     "As headway.Throttled, for asyncio and trio: limit(), peek() and reset() are awaited, hooks are AsyncHooks, and a wait\n"
     "leaves the event loop to others (throttled.md, Asynchronous). The arguments are those of headway.Throttled."},
    {Py_tp_call, throttled_call},
    {Py_tp_methods, async_methods},
    {0, NULL},
};
static PyType_Spec async_spec = {"headway.asyncio.Throttled", sizeof(LimiterObject), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, async_slots};

PyTypeObject *throttled_type_make(PyObject *module, PyTypeObject *limiter) {
    return type_make(module, &throttled_spec, limiter, NULL);
}

PyTypeObject *async_throttled_type_make(PyObject *module, PyTypeObject *limiter) {
    return type_make(module, &async_spec, limiter, NULL);
}
