/* VirtualClock: see virtual_clock.h. */

#include "wait.h"

static PyObject *clock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"now_ns", NULL};
    PyObject *now = NULL;
    int64_t ns = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:VirtualClock", names, &now) ||
        (now != NULL && instant_from_object(module_of_type(type), now, "now_ns", &ns) < 0)) {
        return NULL;
    }
    ClockObject *self = (ClockObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->weakrefs = NULL;
        virtual_clock_init(&self->clock, ns);
    }
    return (PyObject *)self;
}

static void clock_dealloc(ClockObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *clock_now_ns(ClockObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(atomic_load(&self->clock.now));
}

static PyObject *clock_set(ClockObject *self, PyObject *now) {
    int64_t ns;
    if (instant_from_object(module_of_type(Py_TYPE(self)), now, "now_ns", &ns) < 0) {
        return NULL;
    }
    virtual_clock_set(&self->clock, ns);
    wait_flush(module_of_type(Py_TYPE(self)));
    Py_RETURN_NONE;
}

static PyObject *clock_advance(ClockObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"seconds", "ns", NULL};
    struct module_state *m = module_of_type(Py_TYPE(self));
    double seconds = 0;
    PyObject *ns_object = NULL;
    int64_t ns = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|d$O:advance", names, &seconds, &ns_object) ||
        (ns_object != NULL && instant_from_object(m, ns_object, "ns", &ns) < 0)) {
        return NULL;
    }
    double step = nearbyint(seconds * 1e9);
    if (!(seconds >= 0) || step >= (double)CLOCK_END || (int64_t)step >= CLOCK_END - ns ||
        !virtual_clock_advance(&self->clock, (int64_t)step + ns)) {
        PyObject *value = PyFloat_FromDouble(seconds);
        PyErr_Format(m->data_error, "Invalid seconds: %R, must be at least 0 and leave the clock before the year 2116.",
                     value);
        Py_XDECREF(value);
        return NULL;
    }
    wait_flush(m);
    Py_RETURN_NONE;
}

static PyObject *clock_repr(ClockObject *self) {
    return PyUnicode_FromFormat("VirtualClock(now_ns=%lld)", (long long)atomic_load(&self->clock.now));
}

static PyMemberDef clock_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(ClockObject, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef clock_attributes[] = {
    {"now_ns", (getter)clock_now_ns, NULL, "The current instant: nanoseconds since the Unix epoch.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef clock_methods[] = {
    {"advance", (PyCFunction)(void (*)(void))clock_advance, METH_VARARGS | METH_KEYWORDS,
     "advance($self, /, seconds=0, *, ns=0)\n--\n\nMoves the clock on, and serves the waiters who are due by then.\n\n"
     "seconds are rounded to the nearest nanosecond. Raises DataError when negative or past the clock's end."},
    {"set", (PyCFunction)clock_set, METH_O,
     "set($self, now_ns, /)\n--\n\nSets the clock, forward or back. Raises DataError when out of bounds."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot clock_slots[] = {
    {Py_tp_doc, "VirtualClock(now_ns=0)\n--\n\n"
                "A clock that moves only when told to: give it to a store or a bucket for tests and replays.\n\n"
                "now_ns: nanoseconds since the Unix epoch, from 0 to 2**62 - 1."},
    {Py_tp_new, clock_new},
    {Py_tp_dealloc, clock_dealloc},
    {Py_tp_repr, clock_repr},
    {Py_tp_members, clock_members},
    {Py_tp_getset, clock_attributes},
    {Py_tp_methods, clock_methods},
    {0, NULL},
};
static PyType_Spec clock_spec = {"headway.VirtualClock", sizeof(ClockObject), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, clock_slots};

PyTypeObject *clock_type_make(PyObject *module) {
    return type_make(module, &clock_spec, NULL, NULL);
}
