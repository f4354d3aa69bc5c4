/* Guarded: a decorated function.
 *
 * A callable that asks its limiter and then calls on, by vectorcall. It is a descriptor, so it works as a method; what makes it look
 * like the function (name, signature, annotations) stands in its __dict__, put there by functools.update_wrapper. */

#include "module.h"

typedef struct {
    PyObject_HEAD
    PyObject *dict, *weakrefs;
    LimiterObject *limiter;
    PyObject *function;
    vectorcallfunc vectorcall;
} GuardedObject;

static PyObject *guarded_call(PyObject *object, PyObject *const *args, size_t nargsf, PyObject *names) {
    GuardedObject *self = (GuardedObject *)object;
    PyObject *result;
    struct call call = {.vector = args, .nargsf = nargsf, .names = names};
    int admitted = limiter_acquire(self->limiter, &call, self->limiter->timeout_ns, &result, false);
    if (admitted <= 0) {
        if (admitted == 0) {
            raise_limited(self->limiter, result);
            Py_DECREF(result);
        }
        return NULL;
    }
    Py_XDECREF(result);
    return PyObject_Vectorcall(self->function, args, nargsf, names);
}

static PyObject *guarded_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"limiter", "function", NULL};
    struct module_state *m = module_of_type(type);
    PyObject *limiter, *function;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O:Guarded", names, m->limiter, &limiter, &function)) {
        return NULL;
    }
    if (!PyCallable_Check(function)) {
        PyErr_Format(PyExc_TypeError, "Invalid function: %R, must be callable.", function);
        return NULL;
    }
    if (((LimiterObject *)limiter)->place == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Throttled.__init__ was not called.");
        return NULL;
    }
    GuardedObject *self = (GuardedObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->limiter = (LimiterObject *)Py_NewRef(limiter);
        self->function = Py_NewRef(function);
        self->vectorcall = guarded_call;
    }
    return (PyObject *)self;
}

static int guarded_traverse(GuardedObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->limiter);
    Py_VISIT(self->function);
    Py_VISIT(self->dict);
    return 0;
}

static int guarded_clear(GuardedObject *self) {
    Py_CLEAR(self->dict);
    return 0; /* the limiter and the function stay until the end: a call may be under way */
}

static void guarded_dealloc(GuardedObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    Py_CLEAR(self->dict);
    Py_CLEAR(self->limiter);
    Py_CLEAR(self->function);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *guarded_get(PyObject *self, PyObject *instance, PyObject *owner) {
    (void)owner;
    return instance == NULL || instance == Py_None ? Py_NewRef(self) : PyMethod_New(self, instance);
}

/* By name, as a function is. */
static PyObject *guarded_reduce(PyObject *self, PyObject *unused) {
    (void)unused;
    return PyObject_GetAttrString(self, "__qualname__");
}

static PyObject *guarded_repr(GuardedObject *self) {
    return PyUnicode_FromFormat("<limited %R>", self->function);
}

/* Frameworks tell a handler from an application by isinstance(handler, types.FunctionType) and then read the code's flags. */
static PyObject *guarded_class(GuardedObject *self, void *unused) {
    (void)unused;
    return Py_NewRef(PyFunction_Check(self->function) ? Py_TYPE(self->function) : Py_TYPE(self));
}

static PyObject *guarded_forward(GuardedObject *self, void *name) {
    return PyObject_GetAttrString(self->function, name);
}

static PyMemberDef guarded_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(GuardedObject, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(GuardedObject, weakrefs), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(GuardedObject, vectorcall), READONLY, NULL},
    {"limiter", T_OBJECT, offsetof(GuardedObject, limiter), READONLY, "The Throttled behind the function."},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef guarded_attributes[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {"__class__", (getter)guarded_class, NULL, NULL, NULL},
    {"__code__", (getter)guarded_forward, NULL, NULL, "__code__"},
    {"__defaults__", (getter)guarded_forward, NULL, NULL, "__defaults__"},
    {"__kwdefaults__", (getter)guarded_forward, NULL, NULL, "__kwdefaults__"},
    {"__globals__", (getter)guarded_forward, NULL, NULL, "__globals__"},
    {"__closure__", (getter)guarded_forward, NULL, NULL, "__closure__"},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef guarded_methods[] = {
    {"__reduce__", guarded_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot guarded_slots[] = {
    {Py_tp_doc,
     "A function behind a limiter: calling it raises LimitedError when denied. Made by Throttled's decorator."},
    {Py_tp_new, guarded_new},
    {Py_tp_dealloc, guarded_dealloc},
    {Py_tp_traverse, guarded_traverse},
    {Py_tp_clear, guarded_clear},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, guarded_get},
    {Py_tp_repr, guarded_repr},
    {Py_tp_members, guarded_members},
    {Py_tp_getset, guarded_attributes},
    {Py_tp_methods, guarded_methods},
    {0, NULL},
};
static PyType_Spec guarded_spec = {"headway._core.Guarded", sizeof(GuardedObject), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
                                       Py_TPFLAGS_METHOD_DESCRIPTOR | Py_TPFLAGS_IMMUTABLETYPE,
                                   guarded_slots};

PyTypeObject *guarded_type_make(PyObject *module) {
    return type_make(module, &guarded_spec, NULL, NULL);
}
