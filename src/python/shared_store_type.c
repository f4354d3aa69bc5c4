/* SharedStore: see shared_store_type.h.
 *
 * A decision spins for a bucket with the GIL, some twenty microseconds at most; only where that is not enough it is made again without the
 * GIL, patiently. What a decision needs of Python, the key's bytes and the plan, its caller keeps alive meanwhile. */
#include "shared_store_type.h"

SharedStoreObject *shared_store_ready(PyObject *object) {
    SharedStoreObject *s = (SharedStoreObject *)object;
    if (s->table.file == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "SharedMemoryStore.__init__ was not called.");
        return NULL;
    }
    return s;
}

/* ---- errors ---- */

static const char *fault_name(enum shared_fault fault) {
    return fault == SHARED_STOPPED    ? "stopped"
           : fault == SHARED_CROWDED  ? "crowded"
           : fault == SHARED_UNUSABLE ? "damaged"
                                      : "system";
}

void shared_store_raise(struct module_state *m, const struct shared_error *error) {
    PyObject *text = PyUnicode_DecodeUTF8(error->text, (Py_ssize_t)strlen(error->text), "backslashreplace");
    PyObject *made = text == NULL ? NULL : PyObject_CallOneArg(m->store_error, text);
    PyObject *fault = made == NULL ? NULL : PyUnicode_FromString(fault_name(error->fault));
    if (fault != NULL && PyObject_SetAttrString(made, "fault", fault) == 0) {
        PyErr_SetObject(m->store_error, made);
    }
    Py_XDECREF(fault);
    Py_XDECREF(made);
    Py_XDECREF(text);
}

static void raise_set_up(struct module_state *m, const struct shared_error *error) {
    if (error->fault == SHARED_NO_MEMORY) {
        PyErr_NoMemory();
        return;
    }
    PyObject *text = PyUnicode_DecodeUTF8(error->text, (Py_ssize_t)strlen(error->text), "backslashreplace");
    if (text != NULL) {
        PyErr_SetObject(m->setup_error, text);
        Py_DECREF(text);
    }
}

static bool has_warned(SharedStoreObject *s) {
    return atomic_load_explicit(&s->warned, memory_order_relaxed);
}

static int check_full(SharedStoreObject *s, const struct outcome *out) {
    if (out->kind == OUTCOME_FULL && s->raise_when_full) {
        PyErr_Format(s->module->store_error,
                     "SharedMemoryStore %R is full: there is no room for another live key. Give a larger size, or "
                     "on_full='evict'.",
                     s->name);
        return -1;
    }
    if (!has_warned(s) && atomic_load_explicit(&s->table.evictions, memory_order_relaxed) > 0 &&
        !atomic_exchange(&s->warned, true)) {
        log_message("headway.store", "warning",
                    Py_BuildValue("(sOL)",
                                  "SharedMemoryStore %r is full (size=%d): live keys now make room for new ones, those "
                                  "that used the least of their quota first. Give a larger size. Said once by each "
                                  "process; see evictions for the count.",
                                  s->name, (long long)s->table.file->size));
    }
    return 0;
}

/* ---- deciding ---- */

static inline void hash_key(SharedStoreObject *s, const PlanObject *plan, const struct table_key *key,
                            uint64_t hash[2]) {
#ifndef Py_GIL_DISABLED
    struct known_hash *known = s->known + key->hash % HASHES_KNOWN;
    if (key->length <= HASH_KEY_MAX && known->length == key->length && known->seed == plan->shared->seed &&
        memcmp(known->bytes, key->bytes, key->length) == 0) {
        hash[0] = known->hash[0];
        hash[1] = known->hash[1];
        return;
    }
    shared_table_hash(&s->table, plan->shared, key, hash);
    if (key->length <= HASH_KEY_MAX) {
        known->seed = plan->shared->seed;
        known->hash[0] = hash[0];
        known->hash[1] = hash[1];
        known->length = (uint8_t)key->length;
        memcpy(known->bytes, key->bytes, key->length);
    }
#else
    shared_table_hash(&s->table, plan->shared, key, hash);
#endif
}

static int shared_store_decide(SharedStoreObject *s, PlanObject *plan, const struct table_key *key, int64_t cost,
                               struct outcome *out) {
    struct shared_error error;
    uint64_t hash[2];
    hash_key(s, plan, key, hash);
    enum shared_enter end =
        shared_table_limit(&s->table, plan->plan, plan->shared, key, hash, cost, false, out, &error);
    if (end == SHARED_LATER) {
        Py_BEGIN_ALLOW_THREADS
        end = shared_table_limit(&s->table, plan->plan, plan->shared, key, hash, cost, true, out, &error);
        Py_END_ALLOW_THREADS
    }
    if (end == SHARED_FAILED) {
        shared_store_raise(s->module, &error);
        return -1;
    }
    return 0;
}

int shared_store_limit(LimiterObject *t, PlanObject *plan, const struct table_key *key, int64_t cost,
                       int64_t timeout_ns, struct outcome *out) {
    SharedStoreObject *s = t->in_shared_memory;
    if (shared_store_decide(s, plan, key, cost, out) < 0) {
        return -1;
    }
    if (out->kind == OUTCOME_DENIED && timeout_ns > 0 && cost > 0) {
        return atomic_ops.limit(t, plan, key, cost, timeout_ns, out);
    }
    return out->kind == OUTCOME_ADMITTED && has_warned(s) ? 0 : check_full(s, out);
}

int shared_store_update(SharedStoreObject *s, StepObject *step) {
    struct shared_error error;
    struct table_key key = {.bytes = PyBytes_AS_STRING(step->bytes), .length = (size_t)PyBytes_GET_SIZE(step->bytes)};
    enum outcome_kind kind;
    uint64_t hash[2];
    PlanObject *plan = step->plan;
    shared_table_hash(&s->table, plan->shared, &key, hash);
    enum shared_enter end =
        shared_table_change(&s->table, plan->plan, plan->shared, &key, hash, step_change, step, false, &kind, &error);
    if (end == SHARED_LATER) {
        Py_BEGIN_ALLOW_THREADS
        end = shared_table_change(&s->table, plan->plan, plan->shared, &key, hash, step_change, step, true, &kind,
                                  &error);
        Py_END_ALLOW_THREADS
    }
    if (end == SHARED_FAILED) {
        shared_store_raise(s->module, &error);
        return -1;
    }
    if (kind == OUTCOME_FULL) { /* nothing was taken: what that means is said as to a call that does not wait */
        step->admitted = false;
        step->due_ns = 0;
        if (step->kind == STEP_LIMIT && shared_store_decide(s, plan, &key, step->cost, &step->out) < 0) {
            return -1;
        }
        step->admitted = step->out.kind == OUTCOME_ADMITTED;
        return check_full(s, &step->out);
    }
    struct outcome fine = {.kind = OUTCOME_ADMITTED};
    return has_warned(s) ? 0 : check_full(s, &fine);
}

/* ---- life ---- */

static int store_init_method(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"name", "size", "clock", "on_full", "make", NULL};
    SharedStoreObject *self = (SharedStoreObject *)object;
    struct module_state *m = module_of_instance(object);
    PyObject *name, *clock = Py_None;
    long long size = 0;
    const char *on_full = "evict";
    int make = 1;
    if (m == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "U|LOsp:SharedMemoryStore", names, &name, &size, &clock,
                                                  &on_full, &make)) {
        return -1;
    }
    if (self->table.file != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "SharedMemoryStore.__init__ was called twice.");
        return -1;
    }
    if (clock != Py_None && !Py_IS_TYPE(clock, m->clock)) {
        PyErr_Format(m->setup_error, "Invalid clock: %R, must be a VirtualClock or None.", clock);
        return -1;
    }
    if (strcmp(on_full, "evict") != 0 && strcmp(on_full, "deny") != 0 && strcmp(on_full, "raise") != 0) {
        PyErr_Format(m->setup_error, "Invalid on_full: '%s', must be 'evict', 'deny' or 'raise'.", on_full);
        return -1;
    }
    Py_ssize_t length;
    const char *bytes = PyUnicode_AsUTF8AndSize(name, &length);
    if (bytes == NULL) {
        PyErr_Clear();
        PyErr_Format(m->setup_error, "Invalid name: %R, must be text that UTF-8 can hold.", name);
        return -1;
    }
#ifndef Py_GIL_DISABLED
    PyMem_Free(self->known); /* of an earlier attempt that failed */
    self->known = PyMem_Calloc(HASHES_KNOWN, sizeof *self->known);
    if (self->known == NULL) {
        PyErr_NoMemory();
        return -1;
    }
#endif
    struct shared_error error;
    struct shared_file *file;
    Py_BEGIN_ALLOW_THREADS
    file = shared_open(bytes, (size_t)length, size, make != 0, &error);
    Py_END_ALLOW_THREADS
    if (file == NULL) {
        raise_set_up(m, &error);
        return -1;
    }
    self->module = m;
    self->name = Py_NewRef(name);
    self->clock = clock == Py_None ? NULL : Py_NewRef(clock);
    self->raise_when_full = strcmp(on_full, "raise") == 0;
    self->table.clock = self->clock != NULL ? &((ClockObject *)self->clock)->clock : NULL;
    self->table.when_full = strcmp(on_full, "evict") == 0 ? TABLE_EVICT : TABLE_REFUSE;
    self->table.file = file;
    return 0;
}

static int store_traverse(SharedStoreObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->name);
    return 0;
}

static void store_dealloc(SharedStoreObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    if (self->table.file != NULL) {
        shared_close(self->table.file);
    }
#ifndef Py_GIL_DISABLED
    PyMem_Free(self->known);
#endif
    Py_CLEAR(self->name);
    Py_CLEAR(self->clock);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- methods ---- */

static PyObject *store_update(PyObject *object, PyObject *step) {
    SharedStoreObject *s = shared_store_ready(object);
    if (s == NULL) {
        return NULL;
    }
    if (!Py_IS_TYPE(step, s->module->step)) {
        PyErr_Format(PyExc_TypeError, "_update() takes a Step, not %R", step);
        return NULL;
    }
    if (shared_store_update(s, (StepObject *)step) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *store_try_update(PyObject *object, PyObject *step) {
    PyObject *done = store_update(object, step);
    Py_XDECREF(done);
    return done == NULL ? NULL : Py_NewRef(Py_True); /* it never takes longer than a stopped process is waited for */
}

static PyObject *store_now_method(PyObject *object, PyObject *unused) {
    (void)unused;
    SharedStoreObject *s = shared_store_ready(object);
    return s == NULL ? NULL : PyLong_FromLongLong(shared_table_now(&s->table));
}

static PyObject *store_clear_all(PyObject *object, PyObject *unused) {
    (void)unused;
    SharedStoreObject *s = shared_store_ready(object);
    if (s == NULL) {
        return NULL;
    }
    struct shared_error error;
    enum shared_enter end;
    Py_BEGIN_ALLOW_THREADS
    end = shared_table_clear(&s->table, &error);
    Py_END_ALLOW_THREADS
    if (end != SHARED_ENTERED) {
        shared_store_raise(s->module, &error);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *store_is_current(PyObject *object, PyObject *unused) {
    (void)unused;
    SharedStoreObject *s = shared_store_ready(object);
    return s == NULL ? NULL : PyBool_FromLong(shared_is_current(s->table.file));
}

static PyObject *entry_object(SharedStoreObject *s, const struct shared_entry *e, int64_t now) {
    struct decision d;
    algorithm_report(e->algorithm, &e->state, &e->quota, 0, now, &d);
    PyObject *key = PyUnicode_DecodeUTF8(e->text, e->text_length, "backslashreplace");
    PyObject *quota = key == NULL ? NULL : quota_new(s->module, &e->quota);
    PyObject *state = quota == NULL ? NULL : state_new(s->module, &d);
    PyObject *entry = state == NULL ? NULL
                                    : Py_BuildValue("(OOsOOKK)", key, e->key_length <= CELL_TEXT ? Py_True : Py_False,
                                                    algorithm_names[e->algorithm], quota, state,
                                                    (unsigned long long)e->admitted, (unsigned long long)e->denied);
    Py_XDECREF(key);
    Py_XDECREF(quota);
    Py_XDECREF(state);
    return entry;
}

static PyObject *store_entries(PyObject *object, PyObject *unused) {
    (void)unused;
    SharedStoreObject *s = shared_store_ready(object);
    PyObject *list = s == NULL ? NULL : PyList_New(0);
    struct shared_entry entries[BUCKET_CELLS];
    for (uint32_t i = 0; list != NULL && i < s->table.file->layout.buckets; i++) {
        if (atomic_load_explicit(&s->table.file->buckets[i].lock.word, memory_order_relaxed) == 0) {
            continue;
        }
        int count = shared_table_look(&s->table, i, entries);
        for (int k = 0; k < count && list != NULL; k++) {
            PyObject *entry = entry_object(s, &entries[k], shared_table_now(&s->table));
            if (entry == NULL || PyList_Append(list, entry) < 0) {
                Py_CLEAR(list);
            }
            Py_XDECREF(entry);
        }
    }
    return list;
}

static Py_ssize_t store_length(PyObject *object) {
    SharedStoreObject *s = shared_store_ready(object);
    if (s == NULL) {
        return -1;
    }
    int64_t count;
    Py_BEGIN_ALLOW_THREADS
    count = shared_table_count(&s->table);
    Py_END_ALLOW_THREADS
    return (Py_ssize_t)count;
}

static int store_bool(PyObject *self) { /* never "empty": `store or default` must not lose it */
    (void)self;
    return 1;
}

static PyObject *store_repr(SharedStoreObject *self) {
    return self->name == NULL ? PyUnicode_FromString("<SharedMemoryStore, not initialised>")
                              : PyUnicode_FromFormat("SharedMemoryStore(%R, size=%lld)", self->name,
                                                     (long long)self->table.file->size);
}

static PyObject *get_number(SharedStoreObject *self, void *which) {
    SharedStoreObject *s = shared_store_ready((PyObject *)self);
    if (s == NULL) {
        return NULL;
    }
    const struct shared_file *f = s->table.file;
    switch ((intptr_t)which) {
    case 's':
        return PyLong_FromUnsignedLongLong(f->size);
    case 'c':
        return PyLong_FromLongLong(shared_table_capacity(&s->table));
    case 'e':
        return PyLong_FromUnsignedLongLong(atomic_load(&f->header->evictions));
    case 'p':
        return PyLong_FromLong(shared_processes(s->table.file));
    case 'm':
        return PyBool_FromLong(f->created);
    default:
        return PyLong_FromLongLong(f->clock_shift);
    }
}

static PyObject *get_clock(SharedStoreObject *self, void *unused) {
    (void)unused;
    return Py_NewRef(self->clock != NULL ? self->clock : Py_None);
}

static PyMemberDef store_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(SharedStoreObject, weakrefs), READONLY, NULL},
    {"name", T_OBJECT, offsetof(SharedStoreObject, name), READONLY, "The name that processes share."},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef store_attributes[] = {
    {"size", (getter)get_number, NULL, "The bytes of the file.", (void *)(intptr_t)'s'},
    {"capacity", (getter)get_number, NULL, "The most entries that it holds: keys, times the rules of their quotas.",
     (void *)(intptr_t)'c'},
    {"evictions", (getter)get_number, NULL, "How many live entries have made room for others, in all processes.",
     (void *)(intptr_t)'e'},
    {"processes", (getter)get_number, NULL, "How many processes that live have decided in it.", (void *)(intptr_t)'p'},
    {"clock", (getter)get_clock, NULL, "The VirtualClock, or None for real time.", NULL},
    {"_offset_ns", (getter)get_number, NULL, "The file's time less the process' clock.", (void *)(intptr_t)'o'},
    {"_created", (getter)get_number, NULL, "Whether this process has made the file.", (void *)(intptr_t)'m'},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef store_methods[] = {
    {"_update", store_update, METH_O, "_update($self, step, /)\n--\n\nTakes a decision."},
    {"_try_update", store_try_update, METH_O, "_try_update($self, step, /)\n--\n\nThe same; True."},
    {"_now", store_now_method, METH_NOARGS, "_now($self, /)\n--\n\nNanoseconds, the same in all processes."},
    {"clear", store_clear_all, METH_NOARGS, "clear($self, /)\n--\n\nForgets every key, for all processes."},
    {"_is_current", store_is_current, METH_NOARGS, "_is_current($self, /)\n--\n\nWhether the name stands for it."},
    {"_entries", store_entries, METH_NOARGS,
     "_entries($self, /)\n--\n\n(key, whole, algorithm, quota, state, admitted, denied) of every live key and rule."},
    {"_value", shared_store_value, METH_O,
     "_value($self, key, /)\n--\n\n(bytes or None, mark) of a key of the values."},
    {"_set_value", shared_store_set_value, METH_VARARGS,
     "_set_value($self, key, value, mark, /)\n--\n\nWrites bytes, or None, if the mark is the same still; whether it was."},
    {"_changes", shared_store_changes, METH_NOARGS, "_changes($self, /)\n--\n\nCounts the changes of values."},
    {"_wait_for_change", shared_store_wait, METH_VARARGS,
     "_wait_for_change($self, seen, seconds, /)\n--\n\nSleeps until the count of changes is not `seen`."},
    {"_identity", shared_store_identity, METH_NOARGS, "_identity($self, /)\n--\n\nThis process' number."},
    {"_lives", shared_store_lives, METH_O, "_lives($self, number, /)\n--\n\nWhether the process of a number lives."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot store_slots[] = {
    {Py_tp_doc, "The compiled part of headway.store.SharedMemoryStore."},
    {Py_tp_init, store_init_method},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, store_dealloc},
    {Py_tp_traverse, store_traverse},
    {Py_tp_repr, store_repr},
    {Py_mp_length, store_length},
    {Py_nb_bool, store_bool},
    {Py_tp_members, store_members},
    {Py_tp_getset, store_attributes},
    {Py_tp_methods, store_methods},
    {0, NULL},
};
static PyType_Spec store_spec = {"headway._core.SharedStore", sizeof(SharedStoreObject), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, store_slots};

PyTypeObject *shared_store_type_make(PyObject *module) {
    PyTypeObject *type = type_make(module, &store_spec, NULL, NULL);
    PyObject *name = type == NULL ? NULL : PyUnicode_FromString("shm");
    if (type != NULL && (name == NULL || PyObject_SetAttrString((PyObject *)type, "TYPE", name) < 0)) {
        Py_CLEAR(type);
    }
    Py_XDECREF(name);
    return type;
}
