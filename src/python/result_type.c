/* RateLimitResult and RateLimitState.
 *
 * A result is made for every call, so it comes from a free list and holds the decision raw: the state words, the quota, the
 * instant. The divisions that turn these into `remaining` and seconds are done when somebody reads `state`. */

#include "module.h"

/* ---- RateLimitState ---- */

static PyObject *state_make(PyTypeObject *type, long long limit, long long remaining, double reset, double retry) {
    StateObject *self = (StateObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->limit = limit;
        self->remaining = remaining;
        self->reset_after = reset;
        self->retry_after = retry;
    }
    return (PyObject *)self;
}

static double in_seconds(int64_t ns) {
    return ns == WAIT_NEVER ? (double)INFINITY : (double)ns / 1e9;
}

PyObject *state_new(struct module_state *m, const struct decision *d) {
    return state_make(m->state, d->limit, d->remaining, in_seconds(d->reset_after_ns), in_seconds(d->retry_after_ns));
}

static PyObject *state_type_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"limit", "remaining", "reset_after", "retry_after", NULL};
    long long limit, remaining;
    double reset, retry = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "LLd|d:RateLimitState", names, &limit, &remaining, &reset, &retry)) {
        return NULL;
    }
    return state_make(type, limit, remaining, reset, retry);
}

static void state_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Whole seconds without a fraction, as the documents print them. */
PyObject *state_repr_seconds(double seconds) {
    if (isfinite(seconds) && seconds == floor(seconds) && fabs(seconds) < 1e15) {
        return PyUnicode_FromFormat("%lld", (long long)seconds);
    }
    PyObject *number = PyFloat_FromDouble(seconds);
    if (number == NULL) {
        return NULL;
    }
    PyObject *text = PyObject_Repr(number);
    Py_DECREF(number);
    return text;
}

static PyObject *state_repr(StateObject *self) {
    PyObject *text = NULL, *reset = state_repr_seconds(self->reset_after),
             *retry = state_repr_seconds(self->retry_after);
    if (reset != NULL && retry != NULL) {
        text = PyUnicode_FromFormat("RateLimitState(limit=%lld, remaining=%lld, reset_after=%U, retry_after=%U)",
                                    self->limit, self->remaining, reset, retry);
    }
    Py_XDECREF(reset);
    Py_XDECREF(retry);
    return text;
}

static PyObject *state_tuple(StateObject *self) {
    return Py_BuildValue("(LLdd)", self->limit, self->remaining, self->reset_after, self->retry_after);
}

static Py_hash_t state_hash(StateObject *self) {
    PyObject *tuple = state_tuple(self);
    if (tuple == NULL) {
        return -1;
    }
    Py_hash_t hash = PyObject_Hash(tuple);
    Py_DECREF(tuple);
    return hash;
}

static bool state_equal(const StateObject *a, const StateObject *b) {
    return a->limit == b->limit && a->remaining == b->remaining && a->reset_after == b->reset_after &&
           a->retry_after == b->retry_after;
}

static PyObject *state_compare(PyObject *a, PyObject *b, int op) {
    if (Py_TYPE(a) != Py_TYPE(b) || (op != Py_EQ && op != Py_NE)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    return PyBool_FromLong(state_equal((StateObject *)a, (StateObject *)b) == (op == Py_EQ));
}

static PyObject *state_reduce(StateObject *self, PyObject *unused) {
    (void)unused;
    PyObject *tuple = state_tuple(self);
    return tuple == NULL ? NULL : Py_BuildValue("ON", Py_TYPE(self), tuple);
}

static PyObject *state_limit(StateObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(self->limit);
}
static PyObject *state_remaining(StateObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(self->remaining);
}
static PyObject *state_reset_after(StateObject *self, void *unused) {
    (void)unused;
    return PyFloat_FromDouble(self->reset_after);
}
static PyObject *state_retry_after(StateObject *self, void *unused) {
    (void)unused;
    return PyFloat_FromDouble(self->retry_after);
}

static PyGetSetDef state_attributes[] = {
    {"limit", (getter)state_limit, NULL, "What a fresh key may take at once.", NULL},
    {"remaining", (getter)state_remaining, NULL, "What this key may still take now; 0 to limit.", NULL},
    {"reset_after", (getter)state_reset_after, NULL, "Seconds until the key is as good as fresh.", NULL},
    {"retry_after", (getter)state_retry_after, NULL,
     "Seconds until the denied cost fits, with no other traffic; 0 when allowed, inf when it never can.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef state_methods[] = {
    {"__reduce__", (PyCFunction)state_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot state_slots[] = {
    {Py_tp_doc, "RateLimitState(limit, remaining, reset_after, retry_after=0)\n--\n\n"
                "The state of a key at one instant (throttled.md, Data Models). Times are seconds."},
    {Py_tp_new, state_type_new},
    {Py_tp_dealloc, state_dealloc},
    {Py_tp_repr, state_repr},
    {Py_tp_hash, state_hash},
    {Py_tp_richcompare, state_compare},
    {Py_tp_getset, state_attributes},
    {Py_tp_methods, state_methods},
    {0, NULL},
};
static PyType_Spec state_spec = {"headway.RateLimitState", sizeof(StateObject), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, state_slots};

PyTypeObject *state_type_make(PyObject *module) {
    return type_make(module, &state_spec, NULL,
                     (const char *[]){"limit", "remaining", "reset_after", "retry_after", NULL});
}

/* ---- RateLimitResult ---- */

static ResultObject *result_alloc(struct module_state *m) {
#ifndef Py_GIL_DISABLED
    ResultObject *self = m->free_results;
    if (self != NULL) {
        m->free_results = (ResultObject *)self->quota;
        m->free_result_count--;
        PyObject_Init((PyObject *)self, m->result);
        return self;
    }
#endif
    return PyObject_New(ResultObject, m->result);
}

static void result_dealloc(PyObject *object) {
    ResultObject *self = (ResultObject *)object;
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(self->quota);
    Py_XDECREF(self->told);
#ifndef Py_GIL_DISABLED
    struct module_state *m = module_of_type(type);
    if (m->free_result_count < FREE_RESULTS) {
        self->quota = (PyObject *)m->free_results;
        m->free_results = self;
        m->free_result_count++;
        Py_DECREF(type);
        return;
    }
#endif
    PyObject_Free(self);
    Py_DECREF(type);
}

void result_free_list_clear(struct module_state *m) {
#ifndef Py_GIL_DISABLED
    while (m->free_results != NULL) {
        ResultObject *r = m->free_results;
        m->free_results = (ResultObject *)r->quota;
        PyObject_Free(r);
    }
    m->free_result_count = FREE_RESULTS; /* what is freed from here on goes straight back */
#else
    (void)m;
#endif
}

PyObject *result_new(struct module_state *m, PlanObject *plan, const struct outcome *out) {
    ResultObject *self = result_alloc(m);
    if (self != NULL) {
        self->quota = Py_NewRef(PyTuple_GET_ITEM(plan->quotas, out->rule));
        self->told = NULL;
        self->state = out->state;
        self->now = out->now;
        self->denied_cost = out->denied_cost;
        self->wait_ns = out->wait_ns;
        self->limited = out->kind != OUTCOME_ADMITTED;
        self->algorithm = (uint8_t)plan->plan->algorithm;
    }
    return (PyObject *)self;
}

PyObject *result_state(struct module_state *m, ResultObject *self) {
    if (self->told != NULL) {
        return Py_NewRef(self->told);
    }
    struct decision d;
    algorithm_report((enum algorithm_id)self->algorithm, &self->state, &((QuotaObject *)self->quota)->quota,
                     self->denied_cost, self->now, &d);
    if (self->wait_ns >= 0 && self->denied_cost > 0) {
        d.retry_after_ns = self->wait_ns;
    }
    PyObject *told = state_new(m, &d);
#ifndef Py_GIL_DISABLED
    self->told = Py_XNewRef(told);
#endif
    return told;
}

static PyObject *result_type_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"limited", "state", NULL};
    struct module_state *m = module_of_type(type);
    int limited;
    PyObject *state;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "pO!:RateLimitResult", names, &limited, m->state, &state)) {
        return NULL;
    }
    ResultObject *self = result_alloc(m);
    if (self != NULL) {
        self->quota = NULL;
        self->told = Py_NewRef(state);
        self->limited = limited != 0;
    }
    return (PyObject *)self;
}

static PyObject *result_get_state(ResultObject *self, void *unused) {
    (void)unused;
    return result_state(module_of_type(Py_TYPE(self)), self);
}

static PyObject *result_limited(ResultObject *self, void *unused) {
    (void)unused;
    return PyBool_FromLong(self->limited);
}

static int result_bool(ResultObject *self) {
    return !self->limited;
}

static PyObject *result_repr(ResultObject *self) {
    PyObject *state = result_get_state(self, NULL);
    if (state == NULL) {
        return NULL;
    }
    PyObject *text =
        PyUnicode_FromFormat("RateLimitResult(limited=%s, state=%R)", self->limited ? "True" : "False", state);
    Py_DECREF(state);
    return text;
}

static Py_hash_t result_hash(ResultObject *self) {
    PyObject *state = result_get_state(self, NULL);
    if (state == NULL) {
        return -1;
    }
    Py_hash_t hash = PyObject_Hash(state);
    Py_DECREF(state);
    if (hash != -1) {
        hash ^= self->limited;
        hash = hash == -1 ? -2 : hash;
    }
    return hash;
}

static PyObject *result_compare(PyObject *a, PyObject *b, int op) {
    if (Py_TYPE(a) != Py_TYPE(b) || (op != Py_EQ && op != Py_NE)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *answer = NULL;
    PyObject *x = result_get_state((ResultObject *)a, NULL), *y = result_get_state((ResultObject *)b, NULL);
    if (x != NULL && y != NULL) {
        bool equal = ((ResultObject *)a)->limited == ((ResultObject *)b)->limited &&
                     state_equal((StateObject *)x, (StateObject *)y);
        answer = PyBool_FromLong(equal == (op == Py_EQ));
    }
    Py_XDECREF(x);
    Py_XDECREF(y);
    return answer;
}

static PyObject *result_reduce(ResultObject *self, PyObject *unused) {
    (void)unused;
    PyObject *state = result_get_state(self, NULL);
    return state == NULL ? NULL : Py_BuildValue("O(NN)", Py_TYPE(self), PyBool_FromLong(self->limited), state);
}

static PyGetSetDef result_attributes[] = {
    {"limited", (getter)result_limited, NULL, "True when the request was denied.", NULL},
    {"state", (getter)result_get_state, NULL, "The key's state after the decision: a RateLimitState.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef result_methods[] = {
    {"__reduce__", (PyCFunction)result_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot result_slots[] = {
    {Py_tp_doc, "RateLimitResult(limited, state)\n--\n\n"
                "A decision (throttled.md, Data Models). It is true when the request is allowed."},
    {Py_tp_new, result_type_new},
    {Py_tp_dealloc, result_dealloc},
    {Py_tp_repr, result_repr},
    {Py_tp_hash, result_hash},
    {Py_tp_richcompare, result_compare},
    {Py_nb_bool, result_bool},
    {Py_tp_getset, result_attributes},
    {Py_tp_methods, result_methods},
    {0, NULL},
};
static PyType_Spec result_spec = {"headway.RateLimitResult", sizeof(ResultObject), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, result_slots};

PyTypeObject *result_type_make(PyObject *module) {
    return type_make(module, &result_spec, NULL, (const char *[]){"limited", "state", NULL});
}
