/* MemoryStore: a core store, its options, and the register of its spaces. */

#include "call_type.h"

#define MAX_SIZE_DEFAULT 65536

static StoreObject *ready_store(PyObject *self) {
    StoreObject *s = (StoreObject *)self;
    if (!s->ready) {
        PyErr_SetString(PyExc_RuntimeError, "MemoryStore.__init__ was not called.");
        return NULL;
    }
    return s;
}

/* `options` is the store's own copy: reading a size may run Python code, and other threads have the caller's. */
static int read_options(struct module_state *m, PyObject *options, int64_t *max_size, PyObject **on_full) {
    PyObject *name, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(options, &at, &name, &value)) {
        if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, "MAX_SIZE") == 0) {
            long long size = -1;
            int overflow = 0;
            int found = integer_from_object(value, &size, &overflow);
            if (found < 0) {
                return -1;
            }
            if (found == 0 || overflow != 0 || size < 1 || size > TABLE_KEYS_MAX) {
                PyErr_Clear();
                PyErr_Format(m->setup_error, "Invalid option MAX_SIZE: %R, must be an integer between 1 and %lld.",
                             value, (long long)TABLE_KEYS_MAX);
                return -1;
            }
            *max_size = size;
        } else if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, "ON_FULL") == 0) {
            *on_full = value;
        } else {
            PyErr_Format(m->setup_error, "Unknown option %R for MemoryStore, known are 'MAX_SIZE' and 'ON_FULL'.",
                         name);
            return -1;
        }
    }
    return 0;
}

static int store_type_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"server", "options", "clock", "on_full", NULL};
    StoreObject *self = (StoreObject *)object;
    struct module_state *m = module_of_instance(object);
    PyObject *server = Py_None, *options = Py_None, *clock = Py_None, *on_full = NULL, *on_full_given = NULL;
    int64_t max_size = MAX_SIZE_DEFAULT;
    enum table_full when_full = TABLE_EVICT;
    bool raise = false;

    if (m == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "|OO$OO:MemoryStore", names, &server, &options, &clock,
                                                  &on_full_given)) {
        return -1;
    }
    if (self->ready) {
        PyErr_SetString(PyExc_RuntimeError, "MemoryStore.__init__ was called twice.");
        return -1;
    }
    if (options != Py_None && !PyDict_Check(options)) {
        PyErr_Format(m->setup_error, "Invalid options: %R, must be a dict such as {'MAX_SIZE': 65536}.", options);
        return -1;
    }
    Py_XSETREF(self->options, options == Py_None ? PyDict_New() : PyDict_Copy(options));
    if (self->options == NULL || read_options(m, self->options, &max_size, &on_full) < 0) {
        return -1;
    }
    on_full = on_full_given != NULL ? on_full_given : on_full;
    if (on_full != NULL && (!PyUnicode_Check(on_full) || PyUnicode_CompareWithASCIIString(on_full, "evict") != 0)) {
        when_full = TABLE_REFUSE;
        if (PyUnicode_Check(on_full) && PyUnicode_CompareWithASCIIString(on_full, "raise") == 0) {
            raise = true;
        } else if (!PyUnicode_Check(on_full) || PyUnicode_CompareWithASCIIString(on_full, "deny") != 0) {
            PyErr_Format(m->setup_error, "Invalid on_full: %R, must be 'evict', 'deny' or 'raise'.", on_full);
            return -1;
        }
    }
    if (clock != Py_None && !Py_IS_TYPE(clock, m->clock)) {
        PyErr_Format(m->setup_error, "Invalid clock: %R, must be a VirtualClock or None.", clock);
        return -1;
    }
    if (self->spaces == NULL) {
        self->spaces = spaces_new();
    }
    if (self->spaces == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    Py_XSETREF(self->server, Py_NewRef(server));
    Py_XSETREF(self->clock, clock == Py_None ? NULL : Py_NewRef(clock));
    self->raise_when_full = raise;
    if (!store_init(&self->store, max_size, when_full, self->clock ? &((ClockObject *)self->clock)->clock : NULL,
                    GIL_IS_HELD, (uint32_t)((uintptr_t)self >> 4))) {
        PyErr_NoMemory();
        return -1;
    }
    self->ready = true;
    return 0;
}

static int store_traverse(StoreObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->server);
    Py_VISIT(self->options);
    return 0;
}

static int store_gc_clear(StoreObject *self) {
    Py_CLEAR(self->server);
    Py_CLEAR(self->options);
    return 0;
}

static void store_dealloc(StoreObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    if (self->ready) {
        store_destroy(&self->store);
    }
    Py_CLEAR(self->server);
    Py_CLEAR(self->options);
    if (self->spaces != NULL) {
        spaces_release(self->spaces);
    }
    Py_CLEAR(self->clock);
    type->tp_free(self);
    Py_DECREF(type);
}

int store_space(StoreObject *s, PyObject *prefix, enum algorithm_id algorithm, PyObject *tag, uint32_t *space) {
    PyObject *text = tag == NULL ? PyUnicode_FromFormat("%U:v1:%s", prefix, algorithm_names[algorithm])
                                 : PyUnicode_FromFormat("%U:v1:%s\n%U", prefix, algorithm_names[algorithm], tag);
    PyObject *name = text == NULL ? NULL : PyUnicode_AsEncodedString(text, "utf-8", "surrogatepass");
    Py_XDECREF(text);
    if (name == NULL) {
        return -1;
    }
    uint32_t number = 0;
    size_t length = (size_t)PyBytes_GET_SIZE(name);
    size_t rest = strlen(":v1:") + strlen(algorithm_names[algorithm]); /* what follows the prefix is ASCII */
    rest += tag == NULL ? 0 : 1 + (size_t)PyUnicode_GET_LENGTH(tag);
    enum spaces_end end = spaces_take(s->spaces, &s->store.table, PyBytes_AS_STRING(name), length, length - rest,
                                      store_now(&s->store), &number);
    Py_DECREF(name);
    if (end == SPACES_FULL) {
        PyErr_SetString(PyExc_OverflowError, "A MemoryStore holds at most 2**28 different prefixes and rules.");
    } else if (end == SPACES_NO_MEMORY) {
        PyErr_NoMemory();
    }
    *space = number << SPACE_ALGORITHM_BITS | (uint32_t)algorithm;
    return end == SPACES_OK ? 0 : -1;
}

/* ---- what a limiter asks of it ---- */

static PlanObject *memory_bind_plan(LimiterObject *t, PyObject *quotas) {
    return plan_new(t->module, t->in_memory, t->prefix, t->algorithm, quotas);
}

static int memory_peek(LimiterObject *t, PlanObject *plan, const struct table_key *key, struct outcome *out) {
    store_peek(&t->in_memory->store, plan->plan, key, out);
    return 0;
}

static int memory_reset(LimiterObject *t, PlanObject *plan, const struct table_key *key) {
    store_reset(&t->in_memory->store, plan->plan, key);
    wait_flush(t->module);
    return 0;
}

static int memory_settle(LimiterObject *t, PlanObject *plan, int rule, const struct table_key *key, int64_t surplus) {
    bool done = store_settle(&t->in_memory->store, plan->plan, rule, key, surplus);
    wait_flush(t->module);
    return done;
}

const struct store_ops memory_ops = {
    .bind_plan = memory_bind_plan,
    .limit = memory_limit,
    .peek = memory_peek,
    .reset = memory_reset,
    .settle = memory_settle,
    .start_call = memory_start_call,
};

PyObject *default_store(struct module_state *m) {
    PyObject *store = once_get(&m->default_store);
    if (store == NULL) {
        store = once_set(&m->default_store, PyObject_CallNoArgs((PyObject *)m->store));
    }
    return Py_XNewRef(store);
}

void store_warn_evicted(StoreObject *s) {
    if (atomic_exchange(&s->warned, true)) {
        return;
    }
    log_message(
        "headway.store", "warning",
        Py_BuildValue("(sL)",
                      "MemoryStore is full (MAX_SIZE=%d): live keys now make room for new ones, those that used "
                      "the least of their quota first. Give a larger MAX_SIZE. Said once; see evictions for the "
                      "count.",
                      (long long)s->store.table.max_keys));
}

/* A key counts before room is made for it. So while other threads decide, the table's count may be above the ceiling by one
 * for each of them; what the table holds never is. */
static int64_t live_keys(StoreObject *self) {
    int64_t keys = table_sweep(&self->store.table, store_now(&self->store));
    return keys < self->store.table.max_keys ? keys : self->store.table.max_keys;
}

static PyObject *store_stats(PyObject *object, PyObject *unused) {
    (void)unused;
    StoreObject *self = ready_store(object);
    if (self == NULL) {
        return NULL;
    }
    return Py_BuildValue("{sLsLsLsn}", "keys", (long long)live_keys(self), "max_size",
                         (long long)self->store.table.max_keys, "evictions",
                         (long long)atomic_load(&self->store.table.evictions), "bytes",
                         (Py_ssize_t)(table_bytes(&self->store.table) + spaces_bytes(self->spaces)));
}

static PyObject *store_clear_all(PyObject *object, PyObject *unused) {
    (void)unused;
    StoreObject *self = ready_store(object);
    if (self == NULL) {
        return NULL;
    }
    store_clear(&self->store);
    wait_flush(module_of_instance(object));
    Py_RETURN_NONE;
}

static Py_ssize_t store_length(PyObject *object) {
    StoreObject *self = ready_store(object);
    return self == NULL ? -1 : (Py_ssize_t)live_keys(self);
}

static PyObject *store_max_size(StoreObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(self->store.table.max_keys);
}

static PyObject *store_evictions(StoreObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(atomic_load(&self->store.table.evictions));
}

static PyObject *store_get_clock(StoreObject *self, void *unused) {
    (void)unused;
    return Py_NewRef(self->clock != NULL ? self->clock : Py_None);
}

static PyObject *store_repr(StoreObject *self) {
    return PyUnicode_FromFormat("%s(options={'MAX_SIZE': %lld})",
                                strrchr(Py_TYPE(self)->tp_name, '.') != NULL ? strrchr(Py_TYPE(self)->tp_name, '.') + 1
                                                                             : Py_TYPE(self)->tp_name,
                                (long long)self->store.table.max_keys);
}

/* A store is never "empty": `store or default` must not lose it. */
static int store_bool(PyObject *self) {
    (void)self;
    return 1;
}

static PyMemberDef store_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(StoreObject, weakrefs), READONLY, NULL},
    {"server", T_OBJECT, offsetof(StoreObject, server), READONLY, "What was given as server; a memory store has none."},
    {"options", T_OBJECT, offsetof(StoreObject, options), READONLY, "The options given."},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef store_attributes[] = {
    {"max_size", (getter)store_max_size, NULL, "The most keys that the store holds.", NULL},
    {"evictions", (getter)store_evictions, NULL, "How many live keys have made room for others.", NULL},
    {"clock", (getter)store_get_clock, NULL, "The VirtualClock, or None for real time.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef store_methods[] = {
    {"stats", store_stats, METH_NOARGS,
     "stats($self, /)\n--\n\nA dict: keys (live ones), max_size, evictions, bytes (of the table and of the names of\n"
     "prefixes and rules)."},
    {"clear", store_clear_all, METH_NOARGS, "clear($self, /)\n--\n\nForgets every key and gives the memory back."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot store_slots[] = {
    {Py_tp_doc,
     "MemoryStore(server=None, options=None, *, clock=None, on_full='evict')\n--\n\n"
     "Keeps the states of one process' keys. Share one store to share limits (throttled.md, In-Memory).\n\n"
     "options: {'MAX_SIZE': n}, at most n keys (default 65536, about 6 MiB).\n"
     "on_full: what makes room when it is full of live keys. 'evict': the key that has used the smallest share of its\n"
     "quota; where all are at their limit, the longest unused one (of a sample) of the prefix and quota that have the\n"
     "most keys, so that a flood of used-up keys frees none of another prefix or quota that holds less than its\n"
     "share. 'deny' the new key; 'raise' StoreUnavailableError. Expired keys always go first.\n"
     "clock: a VirtualClock, for tests and replays.\n"
     "Raises SetUpError naming an option that is unknown or out of bounds."},
    {Py_tp_init, store_type_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, store_dealloc},
    {Py_tp_traverse, store_traverse},
    {Py_tp_clear, store_gc_clear},
    {Py_tp_repr, store_repr},
    {Py_mp_length, store_length},
    {Py_nb_bool, store_bool},
    {Py_tp_members, store_members},
    {Py_tp_getset, store_attributes},
    {Py_tp_methods, store_methods},
    {0, NULL},
};
static PyType_Spec store_spec = {"headway.MemoryStore", sizeof(StoreObject), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, store_slots};

PyTypeObject *store_type_make(PyObject *module) {
    PyTypeObject *type = type_make(module, &store_spec, NULL, NULL);
    if (type != NULL) {
        PyObject *name = PyUnicode_FromString("memory");
        if (name == NULL || PyObject_SetAttrString((PyObject *)type, "TYPE", name) < 0) {
            Py_XDECREF(name);
            Py_DECREF(type);
            return NULL;
        }
        Py_DECREF(name);
    }
    return type;
}
