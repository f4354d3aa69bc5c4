/* Observation and ObservedDimension: see core/observation.h. The C struct is the object; Python's values are made when read.
 * How headers get in is in parse_headers.c. */
#include "observation_type.h"

typedef struct {
    PyObject_HEAD
    int64_t received_ns;
    struct observation observation;
} ObservationObject;

const struct observation *observation_of(PyObject *object) {
    return &((ObservationObject *)object)->observation;
}

int64_t observation_received_ns(PyObject *object) {
    return ((ObservationObject *)object)->received_ns;
}

struct observation *observation_new(struct module_state *m, int64_t received_ns, PyObject **object) {
    ObservationObject *self = PyObject_New(ObservationObject, m->observation);
    *object = (PyObject *)self;
    if (self == NULL) {
        return NULL;
    }
    self->received_ns = received_ns;
    self->observation.count = 0;
    return &self->observation;
}

static void observation_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* ---- out ---- */

static PyObject *count_object(int64_t count) {
    return count == UNSAID ? Py_NewRef(Py_None) : PyLong_FromLongLong(count);
}

static PyObject *time_object(int64_t ns) {
    return ns == UNSAID ? Py_NewRef(Py_None) : PyFloat_FromDouble((double)ns / 1e9);
}

static PyObject *text_object(const char *text) {
    return PyUnicode_DecodeLatin1(text, (Py_ssize_t)strlen(text), NULL);
}

static PyObject *dimension_object(struct module_state *m, const struct observed_dimension *d) {
    PyObject *self = PyStructSequence_New(m->observed_dimension);
    if (self == NULL) {
        return NULL;
    }
    PyObject *fields[] = {
        text_object(d->name),
        text_object(d->resource),
        count_object(d->limit),
        count_object(d->remaining),
        time_object(d->window_ns),
        time_object(d->reset == RESET_UNSAID ? UNSAID : d->reset_ns),
        d->reset == RESET_UNSAID ? Py_NewRef(Py_None) : PyUnicode_FromString(d->reset == RESET_AT ? "at" : "after"),
    };
    bool failed = false;
    for (Py_ssize_t i = 0; i < (Py_ssize_t)(sizeof fields / sizeof fields[0]); i++) {
        failed |= fields[i] == NULL;
        PyStructSequence_SetItem(self, i, fields[i]);
    }
    if (failed) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

static PyObject *observation_dimensions(ObservationObject *self, void *unused) {
    (void)unused;
    const struct observation *o = &self->observation;
    struct module_state *m = module_of_type(Py_TYPE(self));
    PyObject *tuple = PyTuple_New(o->count);
    for (int i = 0; tuple != NULL && i < o->count; i++) {
        PyObject *dimension = dimension_object(m, &o->dimensions[i]);
        if (dimension == NULL) {
            Py_CLEAR(tuple);
            break;
        }
        PyTuple_SET_ITEM(tuple, i, dimension);
    }
    return tuple;
}

static PyObject *observation_date(ObservationObject *self, void *unused) {
    (void)unused;
    return time_object(self->observation.date_ns);
}

static PyObject *observation_retry_after(ObservationObject *self, void *unused) {
    (void)unused;
    const struct observation *o = &self->observation;
    if (o->retry != RESET_AT) {
        return time_object(o->retry == RESET_UNSAID ? UNSAID : o->retry_ns);
    }
    int64_t now = o->date_ns != UNSAID ? o->date_ns : self->received_ns;
    return time_object(o->retry_ns > now ? o->retry_ns - now : 0);
}

static PyObject *observation_retry_for_all(ObservationObject *self, void *unused) {
    (void)unused;
    return PyBool_FromLong(self->observation.retry_is_for_all);
}

static PyObject *observation_ignored(ObservationObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLong(self->observation.ignored);
}

static int observation_bool(ObservationObject *self) {
    return self->observation.count > 0 || self->observation.retry != RESET_UNSAID;
}

/* All that it says, in the order of the constructor's arguments. */
static PyObject *observation_tuple(ObservationObject *self) {
    PyObject *dimensions = observation_dimensions(self, NULL), *date = observation_date(self, NULL);
    PyObject *retry = observation_retry_after(self, NULL), *tuple = NULL;
    if (dimensions != NULL && date != NULL && retry != NULL) {
        tuple = Py_BuildValue("OOOOi", dimensions, date, retry, self->observation.retry_is_for_all ? Py_True : Py_False,
                              self->observation.ignored);
    }
    Py_XDECREF(dimensions);
    Py_XDECREF(date);
    Py_XDECREF(retry);
    return tuple;
}

static PyObject *observation_repr(ObservationObject *self) {
    PyObject *tuple = observation_tuple(self);
    if (tuple == NULL) {
        return NULL;
    }
    PyObject *text = PyUnicode_FromFormat(
        "Observation(dimensions=%R, date=%R, retry_after=%R, retry_for_all=%R, ignored=%R)", PyTuple_GET_ITEM(tuple, 0),
        PyTuple_GET_ITEM(tuple, 1), PyTuple_GET_ITEM(tuple, 2), PyTuple_GET_ITEM(tuple, 3), PyTuple_GET_ITEM(tuple, 4));
    Py_DECREF(tuple);
    return text;
}

static Py_hash_t observation_hash(ObservationObject *self) {
    PyObject *tuple = observation_tuple(self);
    if (tuple == NULL) {
        return -1;
    }
    Py_hash_t hash = PyObject_Hash(tuple);
    Py_DECREF(tuple);
    return hash;
}

static PyObject *observation_compare(PyObject *a, PyObject *b, int op) {
    if (Py_TYPE(a) != Py_TYPE(b) || (op != Py_EQ && op != Py_NE)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *answer = NULL;
    PyObject *x = observation_tuple((ObservationObject *)a), *y = observation_tuple((ObservationObject *)b);
    if (x != NULL && y != NULL) {
        answer = PyObject_RichCompare(x, y, op);
    }
    Py_XDECREF(x);
    Py_XDECREF(y);
    return answer;
}

static PyObject *observation_reduce(ObservationObject *self, PyObject *unused) {
    (void)unused;
    PyObject *tuple = observation_tuple(self);
    return tuple == NULL ? NULL : Py_BuildValue("ON", Py_TYPE(self), tuple);
}

/* ---- in ---- */

static int invalid(struct module_state *m, const char *name, PyObject *value, const char *wanted) {
    PyErr_Format(m->data_error, "Invalid %s: %R, must be %s.", name, value, wanted);
    return -1;
}

static int name_from_object(struct module_state *m, PyObject *object, const char *name, char to[OBSERVED_NAME_MAX]) {
    Py_ssize_t length;
    const char *text = PyUnicode_Check(object) ? PyUnicode_AsUTF8AndSize(object, &length) : NULL;
    if (text == NULL || length >= OBSERVED_NAME_MAX || (Py_ssize_t)strlen(text) != length ||
        !PyUnicode_IS_ASCII(object)) {
        PyErr_Clear();
        return invalid(m, name, object, "a str of at most 63 ASCII characters");
    }
    memset(to, 0, OBSERVED_NAME_MAX);
    memcpy(to, text, (size_t)length);
    return 0;
}

static int count_from_object(struct module_state *m, PyObject *object, const char *name, int64_t least, int64_t *to) {
    *to = UNSAID;
    if (object == Py_None) {
        return 0;
    }
    int overflow = 0;
    long long value = PyLong_Check(object) ? PyLong_AsLongLongAndOverflow(object, &overflow) : -1;
    if (overflow != 0 || value < least) {
        PyErr_Clear();
        return invalid(m, name, object,
                       least > 0 ? "None or an integer of at least 1" : "None or an integer of at least 0");
    }
    *to = value;
    return 0;
}

static int time_from_object(struct module_state *m, PyObject *object, const char *name, int64_t *to) {
    *to = UNSAID;
    if (object == Py_None) {
        return 0;
    }
    double seconds = PyFloat_Check(object) || PyLong_Check(object) ? PyFloat_AsDouble(object) : -1;
    if (!(seconds >= 0 && seconds < (double)CLOCK_END / 1e9)) {
        PyErr_Clear();
        return invalid(m, name, object, "None or a number of seconds, from 0 to 4.6e9");
    }
    *to = (int64_t)(seconds * 1e9 + 0.5);
    return 0;
}

static int dimension_from_object(struct module_state *m, PyObject *object, struct observed_dimension *d) {
    if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 7) {
        return invalid(m, "dimensions", object, "ObservedDimensions");
    }
    int64_t reset_ns;
    if (name_from_object(m, PyTuple_GET_ITEM(object, 0), "name", d->name) < 0 ||
        name_from_object(m, PyTuple_GET_ITEM(object, 1), "resource", d->resource) < 0 ||
        count_from_object(m, PyTuple_GET_ITEM(object, 2), "limit", 1, &d->limit) < 0 ||
        count_from_object(m, PyTuple_GET_ITEM(object, 3), "remaining", 0, &d->remaining) < 0 ||
        time_from_object(m, PyTuple_GET_ITEM(object, 4), "window", &d->window_ns) < 0 ||
        time_from_object(m, PyTuple_GET_ITEM(object, 5), "reset", &reset_ns) < 0) {
        return -1;
    }
    PyObject *kind = PyTuple_GET_ITEM(object, 6);
    bool after = PyUnicode_Check(kind) && PyUnicode_CompareWithASCIIString(kind, "after") == 0;
    bool at = PyUnicode_Check(kind) && PyUnicode_CompareWithASCIIString(kind, "at") == 0;
    if ((reset_ns == UNSAID) != (kind == Py_None) || (kind != Py_None && !after && !at)) {
        return invalid(m, "reset_kind", kind, "'after' or 'at' with a reset, and None without");
    }
    d->reset = after ? RESET_AFTER : at ? RESET_AT : RESET_UNSAID;
    d->reset_ns = reset_ns == UNSAID ? 0 : reset_ns;
    return 0;
}

static int fill(struct module_state *m, struct observation *o, PyObject *dimensions, PyObject *date, PyObject *retry,
                int for_all, int ignored) {
    PyObject *list = PySequence_Tuple(dimensions);
    if (list == NULL) {
        return -1;
    }
    int failed = 0;
    Py_ssize_t count = PyTuple_GET_SIZE(list);
    if (count > OBSERVED_DIMENSIONS_MAX) {
        PyErr_Format(m->data_error, "Invalid dimensions: %zd of them, must be at most %d.", count,
                     OBSERVED_DIMENSIONS_MAX);
        failed = -1;
    }
    for (Py_ssize_t i = 0; i < count && failed == 0; i++) {
        failed = dimension_from_object(m, PyTuple_GET_ITEM(list, i), &o->dimensions[i]);
    }
    Py_DECREF(list);
    if (failed < 0 || time_from_object(m, date, "date", &o->date_ns) < 0 ||
        time_from_object(m, retry, "retry_after", &o->retry_ns) < 0) {
        return -1;
    }
    o->count = (int)count;
    o->retry = o->retry_ns == UNSAID ? RESET_UNSAID : RESET_AFTER;
    o->retry_ns = o->retry_ns == UNSAID ? 0 : o->retry_ns;
    o->retry_is_for_all = for_all != 0;
    o->ignored = ignored > 0 ? ignored : 0;
    return 0;
}

static PyObject *observation_type_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"dimensions", "date", "retry_after", "retry_for_all", "ignored", NULL};
    struct module_state *m = module_of_type(type);
    PyObject *dimensions = NULL, *date = Py_None, *retry = Py_None, *self;
    int for_all = 0, ignored = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OOOpi:Observation", names, &dimensions, &date, &retry, &for_all,
                                     &ignored)) {
        return NULL;
    }
    PyObject *empty = dimensions == NULL ? PyTuple_New(0) : Py_NewRef(dimensions);
    if (empty == NULL) {
        return NULL;
    }
    struct observation *o = observation_new(m, clock_now(), &self);
    if (o != NULL && fill(m, o, empty, date, retry, for_all, ignored) < 0) {
        Py_CLEAR(self);
    }
    Py_DECREF(empty);
    return self;
}

/* ---- the types ---- */

static PyGetSetDef observation_attributes[] = {
    {"dimensions", (getter)observation_dimensions, NULL, "Each limit that was told of: a tuple of ObservedDimension.",
     NULL},
    {"date", (getter)observation_date, NULL, "The server's Date, in seconds since the epoch; None if it was not said.",
     NULL},
    {"retry_after", (getter)observation_retry_after, NULL,
     "Seconds to wait before the next request, as the server wants it; None if it was not said.", NULL},
    {"retry_for_all", (getter)observation_retry_for_all, NULL,
     "Whether every request to this host is to wait, not only those like this one.", NULL},
    {"ignored", (getter)observation_ignored, NULL, "How many values made no sense.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef observation_methods[] = {
    {"__reduce__", (PyCFunction)observation_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot observation_slots[] = {
    {Py_tp_doc, "Observation(dimensions=(), date=None, retry_after=None, retry_for_all=False, ignored=0)\n--\n\n"
                "What a server said of its limits in one response. True when it said anything. Times are seconds."},
    {Py_tp_new, observation_type_new},
    {Py_tp_dealloc, observation_dealloc},
    {Py_tp_repr, observation_repr},
    {Py_tp_hash, observation_hash},
    {Py_tp_richcompare, observation_compare},
    {Py_nb_bool, observation_bool},
    {Py_tp_getset, observation_attributes},
    {Py_tp_methods, observation_methods},
    {0, NULL},
};
static PyType_Spec observation_spec = {"headway._core.Observation", sizeof(ObservationObject), 0,
                                       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, observation_slots};

PyTypeObject *observation_type_make(PyObject *module) {
    return type_make(module, &observation_spec, NULL,
                     (const char *[]){"dimensions", "date", "retry_after", "retry_for_all", "ignored", NULL});
}

static PyStructSequence_Field dimension_fields[] = {
    {"name", "What is counted: requests, tokens, input_tokens, or a policy's own name."},
    {"resource", "The part of the API that it holds for; empty for none."},
    {"limit", "How much a window has; None if it was not said."},
    {"remaining", "How much of it is left; None if it was not said."},
    {"window", "Seconds; None if it was not said."},
    {"reset", "Seconds: after the response, or since the epoch by the server's clock; None if it was not said."},
    {"reset_kind", "'after', 'at', or None."},
    {NULL, NULL},
};
static PyStructSequence_Desc dimension_description = {
    "headway._core.ObservedDimension", "One limit, as a server told of it. Times are seconds.", dimension_fields, 7};

PyTypeObject *observed_dimension_type_make(void) {
    return PyStructSequence_NewType(&dimension_description);
}
