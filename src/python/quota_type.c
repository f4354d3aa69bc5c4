/* Rate and Quota: immutable, comparable, hashable; and the functions that make them. */
#include "module.h"

/* ---- timedelta, without its C API: that is one static pointer for all interpreters ---- */

static PyObject *timedelta_from_ns(struct module_state *m, int64_t ns) {
    if (import_once(&m->timedelta, "datetime", "timedelta") < 0) {
        return NULL;
    }
    return PyObject_CallFunction(once_get(&m->timedelta), "iiL", 0, 0, (long long)(ns / NS_PER_US));
}

static int long_attribute(PyObject *object, const char *name, long long *value) {
    PyObject *attribute = PyObject_GetAttrString(object, name);
    if (attribute == NULL) {
        return -1;
    }
    *value = PyLong_AsLongLong(attribute);
    Py_DECREF(attribute);
    return *value == -1 && PyErr_Occurred() ? -1 : 0;
}

static int period_from_timedelta(struct module_state *m, PyObject *object, int64_t *ns) {
    if (import_once(&m->timedelta, "datetime", "timedelta") < 0) {
        return -1;
    }
    int is_delta = PyObject_IsInstance(object, once_get(&m->timedelta));
    if (is_delta < 0) {
        return -1;
    }
    if (!is_delta) {
        PyErr_Format(m->data_error, "Invalid period: %R, must be a datetime.timedelta.", object);
        return -1;
    }
    long long days, seconds, microseconds;
    if (long_attribute(object, "days", &days) < 0 || long_attribute(object, "seconds", &seconds) < 0 ||
        long_attribute(object, "microseconds", &microseconds) < 0) {
        return -1;
    }
    wide total = (((wide)days * 86400 + seconds) * 1000000 + microseconds) * NS_PER_US;
    if (total < QUOTA_PERIOD_MIN || total > QUOTA_PERIOD_MAX) {
        PyErr_Format(m->data_error, "Invalid period: %R, must be between 1 microsecond and 3650 days.", object);
        return -1;
    }
    *ns = (int64_t)total;
    return 0;
}

static int count_from_object(struct module_state *m, PyObject *object, const char *name, int64_t least, int64_t most,
                             int64_t *value) {
    int overflow = 0;
    long long n = 0;
    int found = integer_from_object(object, &n, &overflow);
    if (found < 0) {
        return -1;
    }
    if (found > 0 && overflow == 0 && n >= least && n <= most) {
        *value = n;
        return 0;
    }
    PyErr_Format(m->data_error, "Invalid %s: %R, must be an integer between %lld and %lld.", name, object,
                 (long long)least, (long long)most);
    return -1;
}

/* ---- Rate ---- */

static PyObject *rate_new_raw(PyTypeObject *type, int64_t period_ns, int64_t limit) {
    RateObject *self = (RateObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->limit = limit;
        self->period_ns = period_ns;
    }
    return (PyObject *)self;
}

static PyObject *rate_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"period", "limit", NULL};
    struct module_state *m = module_of_type(type);
    PyObject *period, *limit;
    int64_t period_ns, limit_value;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:Rate", names, &period, &limit) ||
        period_from_timedelta(m, period, &period_ns) < 0 ||
        count_from_object(m, limit, "limit", 1, QUOTA_LIMIT_MAX, &limit_value) < 0) {
        return NULL;
    }
    return rate_new_raw(type, period_ns, limit_value);
}

static void plain_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *rate_period(RateObject *self, void *unused) {
    (void)unused;
    return timedelta_from_ns(module_of_type(Py_TYPE(self)), self->period_ns);
}

static PyObject *rate_limit(RateObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(self->limit);
}

static PyObject *rate_repr(RateObject *self) {
    PyObject *period = rate_period(self, NULL);
    if (period == NULL) {
        return NULL;
    }
    PyObject *text = PyUnicode_FromFormat("Rate(period=%R, limit=%lld)", period, (long long)self->limit);
    Py_DECREF(period);
    return text;
}

static Py_hash_t mix_hash(int64_t a, int64_t b, int64_t c) {
    uint64_t h = (uint64_t)a * UINT64_C(0x9E3779B97F4A7C15);
    h = (h ^ (h >> 29) ^ (uint64_t)b) * UINT64_C(0xBF58476D1CE4E5B9);
    h = (h ^ (h >> 32) ^ (uint64_t)c) * UINT64_C(0x94D049BB133111EB);
    Py_hash_t hash = (Py_hash_t)(h ^ (h >> 31));
    return hash == -1 ? -2 : hash;
}

static Py_hash_t rate_hash(RateObject *self) {
    return mix_hash(self->limit, self->period_ns, 1);
}

static PyObject *rate_compare(PyObject *a, PyObject *b, int op) {
    if (Py_TYPE(a) != Py_TYPE(b) || (op != Py_EQ && op != Py_NE)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    RateObject *x = (RateObject *)a, *y = (RateObject *)b;
    bool equal = x->limit == y->limit && x->period_ns == y->period_ns;
    return PyBool_FromLong(equal == (op == Py_EQ));
}

static PyObject *rate_reduce(RateObject *self, PyObject *unused) {
    (void)unused;
    PyObject *period = rate_period(self, NULL);
    return period == NULL ? NULL : Py_BuildValue("O(NL)", Py_TYPE(self), period, (long long)self->limit);
}

static PyGetSetDef rate_attributes[] = {
    {"period", (getter)rate_period, NULL, "The time that the limit is for: a datetime.timedelta.", NULL},
    {"limit", (getter)rate_limit, NULL, "Calls a period, 1 to 10**12.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef rate_methods[] = {
    {"__reduce__", (PyCFunction)rate_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot rate_slots[] = {
    {Py_tp_doc, "Rate(period, limit)\n--\n\n"
                "So many calls a period (throttled.md, Data Models).\n\n"
                "period: datetime.timedelta, 1 microsecond to 3650 days. limit: int, 1 to 10**12.\n"
                "Raises DataError when a value is out of bounds."},
    {Py_tp_new, rate_new},
    {Py_tp_dealloc, plain_dealloc},
    {Py_tp_repr, rate_repr},
    {Py_tp_hash, rate_hash},
    {Py_tp_richcompare, rate_compare},
    {Py_tp_getset, rate_attributes},
    {Py_tp_methods, rate_methods},
    {0, NULL},
};
static PyType_Spec rate_spec = {"headway.Rate", sizeof(RateObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
                                rate_slots};

PyTypeObject *rate_type_make(PyObject *module) {
    return type_make(module, &rate_spec, NULL, (const char *[]){"period", "limit", NULL});
}

/* ---- Quota ---- */

PyObject *quota_new(struct module_state *m, const struct quota *q) {
    QuotaObject *self = (QuotaObject *)m->quota->tp_alloc(m->quota, 0);
    if (self != NULL) {
        self->quota = *q;
    }
    return (PyObject *)self;
}

static PyObject *quota_make(struct module_state *m, int64_t period_ns, PyObject *limit, PyObject *burst) {
    struct quota quota;
    struct quota_error error;
    int64_t limit_value, burst_value;
    if (count_from_object(m, limit, "limit", 1, QUOTA_LIMIT_MAX, &limit_value) < 0) {
        return NULL;
    }
    burst_value = limit_value;
    if (burst != NULL && burst != Py_None &&
        count_from_object(m, burst, "burst", 0, QUOTA_BURST_MAX, &burst_value) < 0) {
        return NULL;
    }
    if (!quota_init(&quota, limit_value, period_ns, burst_value, &error)) {
        PyErr_SetString(m->data_error, error.text);
        return NULL;
    }
    return quota_new(m, &quota);
}

static PyObject *quota_type_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"rate", "burst", NULL};
    struct module_state *m = module_of_type(type);
    PyObject *rate, *burst = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:Quota", names, &rate, &burst)) {
        return NULL;
    }
    if (!Py_IS_TYPE(rate, m->rate)) {
        PyErr_Format(m->data_error, "Invalid rate: %R, must be a Rate, such as Rate(timedelta(minutes=1), 60).", rate);
        return NULL;
    }
    PyObject *limit = PyLong_FromLongLong(((RateObject *)rate)->limit);
    if (limit == NULL) {
        return NULL;
    }
    PyObject *quota = quota_make(m, ((RateObject *)rate)->period_ns, limit, burst);
    Py_DECREF(limit);
    return quota;
}

static PyObject *quota_rate(QuotaObject *self, void *unused) {
    (void)unused;
    return rate_new_raw(module_of_type(Py_TYPE(self))->rate, self->quota.period_ns, self->quota.limit);
}

static PyObject *quota_burst(QuotaObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(self->quota.burst);
}

/* Whole seconds as int, as the document's library has them; else a float. */
static PyObject *quota_period_sec(QuotaObject *self, void *unused) {
    (void)unused;
    if (self->quota.period_ns % NS_PER_S == 0) {
        return PyLong_FromLongLong(self->quota.period_ns / NS_PER_S);
    }
    return seconds_object(self->quota.period_ns);
}

static PyObject *quota_interval(QuotaObject *self, void *unused) {
    (void)unused;
    return PyFloat_FromDouble((double)self->quota.period_ns / 1e9 / (double)self->quota.limit);
}

static PyObject *quota_fill_rate(QuotaObject *self, void *unused) {
    (void)unused;
    return PyFloat_FromDouble((double)self->quota.limit / ((double)self->quota.period_ns / 1e9));
}

static PyObject *quota_get_period_sec(QuotaObject *self, PyObject *unused) {
    (void)unused;
    return quota_period_sec(self, NULL);
}

static PyObject *quota_get_limit(QuotaObject *self, PyObject *unused) {
    (void)unused;
    return PyLong_FromLongLong(self->quota.limit);
}

static PyObject *quota_repr(QuotaObject *self) {
    PyObject *rate = quota_rate(self, NULL);
    if (rate == NULL) {
        return NULL;
    }
    PyObject *text = PyUnicode_FromFormat("Quota(rate=%R, burst=%lld)", rate, (long long)self->quota.burst);
    Py_DECREF(rate);
    return text;
}

static PyObject *quota_str(QuotaObject *self) {
    static const struct {
        int64_t ns;
        const char *name;
    } units[] = {{INT64_C(604800000000000), "w"},
                 {INT64_C(86400000000000), "d"},
                 {INT64_C(3600000000000), "h"},
                 {INT64_C(60000000000), "m"},
                 {NS_PER_S, "s"},
                 {NS_PER_MS, "ms"},
                 {NS_PER_US, "us"}};
    const struct quota *q = &self->quota;
    size_t u = 0;
    while (q->period_ns % units[u].ns != 0) {
        u++;
    }
    long long count = q->period_ns / units[u].ns;
    PyObject *text = count == 1 ? PyUnicode_FromFormat("%lld/%s", (long long)q->limit, units[u].name)
                                : PyUnicode_FromFormat("%lld/%lld%s", (long long)q->limit, count, units[u].name);
    if (text != NULL && q->burst != q->limit) {
        PyObject *with_burst = PyUnicode_FromFormat("%U burst %lld", text, (long long)q->burst);
        Py_SETREF(text, with_burst);
    }
    return text;
}

static Py_hash_t quota_hash(QuotaObject *self) {
    return mix_hash(self->quota.limit, self->quota.period_ns, self->quota.burst + 2);
}

static PyObject *quota_compare(PyObject *a, PyObject *b, int op) {
    if (Py_TYPE(a) != Py_TYPE(b) || (op != Py_EQ && op != Py_NE)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    bool equal = quota_equal(&((QuotaObject *)a)->quota, &((QuotaObject *)b)->quota);
    return PyBool_FromLong(equal == (op == Py_EQ));
}

static PyObject *quota_reduce(QuotaObject *self, PyObject *unused) {
    (void)unused;
    PyObject *rate = quota_rate(self, NULL);
    return rate == NULL ? NULL : Py_BuildValue("O(NL)", Py_TYPE(self), rate, (long long)self->quota.burst);
}

static PyGetSetDef quota_attributes[] = {
    {"rate", (getter)quota_rate, NULL, "The base rate: a Rate.", NULL},
    {"burst", (getter)quota_burst, NULL, "What a bucket holds; the window algorithms do not read it.", NULL},
    {"period_sec", (getter)quota_period_sec, NULL, "The period in seconds.", NULL},
    {"emission_interval", (getter)quota_interval, NULL, "period / limit, in seconds; decisions use the exact rational.",
     NULL},
    {"fill_rate", (getter)quota_fill_rate, NULL, "limit / period, in calls a second.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef quota_methods[] = {
    {"get_period_sec", (PyCFunction)quota_get_period_sec, METH_NOARGS, "The period in seconds."},
    {"get_limit", (PyCFunction)quota_get_limit, METH_NOARGS, "Calls a period."},
    {"__reduce__", (PyCFunction)quota_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot quota_slots[] = {
    {Py_tp_doc, "Quota(rate, burst=None)\n--\n\n"
                "A rate and how far a key may run ahead of it (throttled.md, Data Models).\n\n"
                "rate: Rate. burst: int from 0 to 10**12; the rate's limit when not given.\n"
                "str(quota) is its text in the quota language. Raises DataError when a value is out of bounds."},
    {Py_tp_new, quota_type_new},
    {Py_tp_dealloc, plain_dealloc},
    {Py_tp_repr, quota_repr},
    {Py_tp_str, quota_str},
    {Py_tp_hash, quota_hash},
    {Py_tp_richcompare, quota_compare},
    {Py_tp_getset, quota_attributes},
    {Py_tp_methods, quota_methods},
    {0, NULL},
};
static PyType_Spec quota_spec = {"headway.Quota", sizeof(QuotaObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
                                 quota_slots};

PyTypeObject *quota_type_make(PyObject *module) {
    return type_make(module, &quota_spec, NULL, (const char *[]){"rate", "burst", NULL});
}

/* ---- functions ---- */

static PyObject *per(PyObject *module, PyObject *args, PyObject *kwargs, int64_t seconds, const char *format) {
    static char *names[] = {"limit", "burst", NULL};
    PyObject *limit, *burst = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &limit, &burst)) {
        return NULL;
    }
    return quota_make(PyModule_GetState(module), seconds * NS_PER_S, limit, burst);
}

static PyObject *per_sec(PyObject *module, PyObject *args, PyObject *kwargs) {
    return per(module, args, kwargs, 1, "O|O:per_sec");
}
static PyObject *per_min(PyObject *module, PyObject *args, PyObject *kwargs) {
    return per(module, args, kwargs, 60, "O|O:per_min");
}
static PyObject *per_hour(PyObject *module, PyObject *args, PyObject *kwargs) {
    return per(module, args, kwargs, 3600, "O|O:per_hour");
}
static PyObject *per_day(PyObject *module, PyObject *args, PyObject *kwargs) {
    return per(module, args, kwargs, 86400, "O|O:per_day");
}
static PyObject *per_week(PyObject *module, PyObject *args, PyObject *kwargs) {
    return per(module, args, kwargs, 604800, "O|O:per_week");
}

static PyObject *per_duration(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"duration", "limit", "burst", NULL};
    struct module_state *m = PyModule_GetState(module);
    PyObject *duration, *limit, *burst = NULL;
    int64_t period_ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|O:per_duration", names, &duration, &limit, &burst) ||
        period_from_timedelta(m, duration, &period_ns) < 0) {
        return NULL;
    }
    return quota_make(m, period_ns, limit, burst);
}

static PyObject *parse_quota(PyObject *module, PyObject *text) {
    struct module_state *m = PyModule_GetState(module);
    if (!PyUnicode_Check(text)) {
        PyErr_Format(m->data_error, "Invalid quota: %R, must be a non-empty string such as '100/s burst 200'.", text);
        return NULL;
    }
    return quotas_from_object(m, text);
}

#define PER_DOC(name, unit)                                                                                               \
    name                                                                                                                  \
        "(limit, burst=None)\n--\n\nA Quota of `limit` calls a " unit                                                     \
        ". burst: what a bucket holds, `limit` when not given.\nRaises DataError when a value is out of bounds. Source: " \
        "throttled.md."
#define WITH_KEYWORDS(f) ((PyCFunction)(void (*)(void))(f))

PyMethodDef quota_functions[] = {
    {"per_sec", WITH_KEYWORDS(per_sec), METH_VARARGS | METH_KEYWORDS, PER_DOC("per_sec", "second")},
    {"per_min", WITH_KEYWORDS(per_min), METH_VARARGS | METH_KEYWORDS, PER_DOC("per_min", "minute")},
    {"per_hour", WITH_KEYWORDS(per_hour), METH_VARARGS | METH_KEYWORDS, PER_DOC("per_hour", "hour")},
    {"per_day", WITH_KEYWORDS(per_day), METH_VARARGS | METH_KEYWORDS, PER_DOC("per_day", "day")},
    {"per_week", WITH_KEYWORDS(per_week), METH_VARARGS | METH_KEYWORDS, PER_DOC("per_week", "week")},
    {"per_duration", WITH_KEYWORDS(per_duration), METH_VARARGS | METH_KEYWORDS,
     "per_duration(duration, limit, burst=None)\n--\n\nA Quota of `limit` calls in a datetime.timedelta of 1 microsecond to "
     "3650 days.\nRaises DataError when a value is out of bounds. Source: throttled.md."},
    {"parse_quota", parse_quota, METH_O,
     "parse_quota(text)\n--\n\nThe quota language: '100/s burst 200; 5/10s' as a tuple of Quota, one for each rule.\n\n"
     "Raises DataError naming the token that cannot be read and what was expected."},
    {NULL, NULL, 0, NULL},
};
