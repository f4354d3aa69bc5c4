/* TokenBucket: see bucket.h. */

#include "kept_error.h"
#include "module.h"

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    struct bucket bucket;
} BucketObject;

/* An object's head is two words; without a GIL it is four, and there is no room that a smaller struct would give back. */
_Static_assert(sizeof(BucketObject) <= 80 + sizeof(PyObject), "a TokenBucket is small");

static BucketObject *ready_bucket(PyObject *self) {
    BucketObject *b = (BucketObject *)self;
    if (b->bucket.rate == 0) {
        PyErr_SetString(PyExc_RuntimeError, "TokenBucket.__init__ was not called.");
        return NULL;
    }
    return b;
}

static int positive(PyObject *object, const char *name, double *value) {
    *value = PyFloat_AsDouble(object);
    if (*value == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_ValueError)) {
            struct kept_error k = {0};
            error_keep(&k);
            PyErr_Format(PyExc_TypeError, "%s must be a number, got %R", name, object);
            error_chain(&k);
            return -1;
        }
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
            return -1;
        }
        PyErr_Clear();
        *value = INFINITY;
    }
    if (!(*value > 0) || isinf(*value)) {
        PyErr_Format(PyExc_ValueError, "%s must be positive and finite, got %R", name, object);
        return -1;
    }
    return 0;
}

static int bucket_type_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"capacity", "tokens_per_second", "clock", NULL};
    BucketObject *self = (BucketObject *)object;
    struct module_state *m = module_of_instance(object);
    PyObject *capacity_object, *rate_object, *clock = Py_None;
    double capacity, rate;
    if (m == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "OO|$O:TokenBucket", names, &capacity_object, &rate_object,
                                     &clock) ||
        positive(capacity_object, "capacity", &capacity) < 0 || positive(rate_object, "tokens_per_second", &rate) < 0) {
        return -1;
    }
    if (clock != Py_None && !Py_IS_TYPE(clock, m->clock)) {
        PyErr_Format(PyExc_TypeError, "clock must be a VirtualClock or None, got %R", clock);
        return -1;
    }
    if (self->bucket.rate != 0) {
        PyErr_SetString(PyExc_RuntimeError, "TokenBucket.__init__ was called twice.");
        return -1;
    }
    if (!bucket_init(&self->bucket, capacity, rate, clock == Py_None ? NULL : &((ClockObject *)clock)->clock)) {
        self->bucket.rate = 0;
        PyErr_NoMemory();
        return -1;
    }
    if (clock != Py_None) {
        Py_INCREF(clock);
    }
    return 0;
}

static void bucket_dealloc(BucketObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    struct virtual_clock *clock = self->bucket.clock;
    bucket_destroy(&self->bucket);
    if (clock != NULL) {
        Py_DECREF((PyObject *)((char *)clock - offsetof(ClockObject, clock)));
    }
    type->tp_free(self);
    Py_DECREF(type);
}

/* allow(tokens=1) and its like: by position or by name, 1 by default. */
static int tokens_argument(PyObject *const *args, Py_ssize_t nargs, PyObject *names, const char *method,
                           double *tokens) {
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    *tokens = 1;
    if (nargs + named == 0) {
        return 0;
    }
    if (nargs + named > 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most 1 argument (%zd given)", method, nargs + named);
        return -1;
    }
    if (named == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "tokens") != 0) {
        PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument %R", method, PyTuple_GET_ITEM(names, 0));
        return -1;
    }
    return positive(args[0], "tokens", tokens);
}

static PyObject *bucket_allow(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    BucketObject *self = ready_bucket(object);
    double tokens;
    if (self == NULL || tokens_argument(args, nargs, names, "allow", &tokens) < 0) {
        return NULL;
    }
    return PyBool_FromLong(bucket_take(&self->bucket, tokens));
}

/* Never on the thread's stack: when the interpreter ends, it ends daemon threads in their sleep, and their waiters are still in line. */
struct thread_waiter {
    struct bucket_waiter bucket; /* first: the line hands back its address */
    struct parker parker;
};

static void wake_thread(struct waiter *w) {
    parker_wake(&((struct thread_waiter *)w)->parker);
}

static PyObject *wait_in_line(BucketObject *self, double tokens) {
    struct thread_waiter *w = PyMem_RawCalloc(1, sizeof *w);
    int64_t until;
    if (w == NULL) {
        return PyErr_NoMemory();
    }
    if (interpreter_ends()) {
        bucket_threads_ended(&self->bucket);
    }
    parker_init(&w->parker);
    waiter_init(&w->bucket.waiter, wake_thread, NULL);
    int served = bucket_wait_begin(&self->bucket, tokens, &w->bucket, &until);
    bool interrupted = false;
    while (served == 0 && !interrupted) {
        interrupted = sleep_in_line(&w->parker, self->bucket.clock == NULL ? until : PARK_FOREVER) < 0;
        if (interrupted) {
            bucket_wait_cancel(&w->bucket);
        } else {
            served = bucket_wait_check(&w->bucket, &until);
        }
    }
    parker_destroy(&w->parker);
    PyMem_RawFree(w);
    return interrupted ? NULL : served < 0 ? PyErr_NoMemory() : Py_NewRef(Py_None);
}

static PyObject *bucket_wait(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    BucketObject *self = ready_bucket(object);
    double tokens;
    if (self == NULL || tokens_argument(args, nargs, names, "wait", &tokens) < 0) {
        return NULL;
    }
    return bucket_take(&self->bucket, tokens) ? Py_NewRef(Py_None) : wait_in_line(self, tokens);
}

static PyObject *bucket_get_tokens(PyObject *object, void *unused) {
    (void)unused;
    BucketObject *self = ready_bucket(object);
    return self == NULL ? NULL : PyFloat_FromDouble(bucket_tokens(&self->bucket));
}

static PyObject *bucket_repr(PyObject *object) {
    BucketObject *self = (BucketObject *)object;
    PyObject *text = NULL, *capacity = PyFloat_FromDouble(self->bucket.capacity);
    PyObject *rate = PyFloat_FromDouble(self->bucket.rate);
    if (capacity != NULL && rate != NULL) {
        text = PyUnicode_FromFormat("TokenBucket(capacity=%R, tokens_per_second=%R)", capacity, rate);
    }
    Py_XDECREF(capacity);
    Py_XDECREF(rate);
    return text;
}

static PyMemberDef bucket_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(BucketObject, weakrefs), READONLY, NULL},
    {"capacity", T_DOUBLE, offsetof(BucketObject, bucket.capacity), READONLY, "The most tokens that it holds."},
    {"tokens_per_second", T_DOUBLE, offsetof(BucketObject, bucket.rate), READONLY, "How fast it fills."},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef bucket_attributes[] = {
    {"tokens", bucket_get_tokens, NULL, "What is in the bucket now, 0 to capacity.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
#define WITH_KEYWORDS(f) ((PyCFunction)(void (*)(void))(f))
#define ALLOW_DOC                                                                                                            \
    "($self, /, tokens=1)\n--\n\nTakes `tokens` if they are there: True, else False and nothing is taken. Never blocks.\n\n" \
    "While others wait() nobody overtakes them. Raises ValueError when tokens is not positive. Source: token-bucket.md."
static PyMethodDef bucket_methods[] = {
    {"allow", WITH_KEYWORDS(bucket_allow), METH_FASTCALL | METH_KEYWORDS, "allow" ALLOW_DOC},
    {"try_consume", WITH_KEYWORDS(bucket_allow), METH_FASTCALL | METH_KEYWORDS, "try_consume" ALLOW_DOC},
    {"wait", WITH_KEYWORDS(bucket_wait), METH_FASTCALL | METH_KEYWORDS,
     "wait($self, /, tokens=1)\n--\n\nBlocks until `tokens` are there, and takes them; first come, first served.\n\n"
     "A call for more than the capacity ends when all of it has arrived; what arrives meanwhile is kept for it. Ctrl-C and\n"
     "signal handlers that raise end the wait, and what was taken is given back. Raises ValueError when tokens is not positive. Source: token-bucket.md."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot bucket_slots[] = {
    {Py_tp_doc,
     "TokenBucket(capacity, tokens_per_second, *, clock=None)\n--\n\n"
     "A bucket that starts full and fills at a steady rate (token-bucket.md). Safe to share between threads.\n\n"
     "capacity: the most tokens that it holds; tokens_per_second: how fast it fills; both positive floats.\n"
     "clock: a VirtualClock, for tests. Raises ValueError naming the value that is not positive."},
    {Py_tp_init, bucket_type_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, bucket_dealloc},
    {Py_tp_repr, bucket_repr},
    {Py_tp_members, bucket_members},
    {Py_tp_getset, bucket_attributes},
    {Py_tp_methods, bucket_methods},
    {0, NULL},
};
static PyType_Spec bucket_spec = {"headway.TokenBucket", sizeof(BucketObject), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, bucket_slots};

PyTypeObject *bucket_type_make(PyObject *module) {
    return type_make(module, &bucket_spec, NULL, NULL);
}
