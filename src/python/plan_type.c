/* Plan: the rules of a quota bound to the spaces of one store. Internal; users never see one. */
#include "module.h"

#include "lease.h"
#include "scripts.h"
#include "shared_table.h"

static void free_names(struct redis_names *names) {
    PyMem_Free(names->prefix);
    for (int i = 0; i < QUOTA_RULES_MAX; i++) {
        PyMem_Free(names->rules[i].tag);
    }
    PyMem_Free(names);
}

static int copy_name(PyObject *text, char **copy, size_t *length) {
    Py_ssize_t size;
    const char *bytes = text == NULL ? NULL : PyUnicode_AsUTF8AndSize(text, &size);
    if (bytes == NULL) {
        return -1;
    }
    *copy = PyMem_Malloc((size_t)size + 1);
    if (*copy == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(*copy, bytes, (size_t)size + 1);
    *length = (size_t)size;
    return 0;
}

static void drop_spaces(PlanObject *self) {
    for (int i = 0; i < self->spaces_taken; i++) {
        uint32_t space = i == 0 ? self->plan->line_space : self->plan->rules[i - 1].space;
        spaces_drop(self->spaces, space >> SPACE_ALGORITHM_BITS);
    }
    spaces_release(self->spaces);
}

static void plan_dealloc(PlanObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (self->spaces != NULL) {
        drop_spaces(self);
    }
    if (self->names != NULL) {
        free_names(self->names);
    }
    PyMem_Free(self->shared);
    Py_XDECREF(self->prefix);
    Py_XDECREF(self->fallback);
    Py_XDECREF(self->quotas);
    if (self->lease != NULL) {
        lease_pool_free(self->lease);
    }
    PyMem_Free(self->plan);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Of several rules, each has a space named by its period; rules of one period are told apart by their order. */
static PyObject *rule_tag(PyObject *quotas, Py_ssize_t i) {
    int64_t period = ((QuotaObject *)PyTuple_GET_ITEM(quotas, i))->quota.period_ns;
    int same = 0;
    for (Py_ssize_t j = 0; j < i; j++) {
        same += ((QuotaObject *)PyTuple_GET_ITEM(quotas, j))->quota.period_ns == period;
    }
    return PyUnicode_FromFormat("%lldus#%d", (long long)(period / NS_PER_US), same);
}

/* What the keys are called on a server. */
static int name_keys(PlanObject *self, PyObject *prefix) {
    struct redis_names *names = self->names = PyMem_Calloc(1, sizeof *names);
    if (names == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject *text = PyUnicode_FromFormat("%U:v1:%s:", prefix, algorithm_names[self->plan->algorithm]);
    int answer = copy_name(text, &names->prefix, &names->prefix_length);
    Py_XDECREF(text);
    for (int i = 0; answer == 0 && i < self->plan->count; i++) {
        if (self->plan->count == 1) {
            text = PyUnicode_FromString("");
        } else {
            PyObject *tag = rule_tag(self->quotas, i);
            text = tag == NULL ? NULL : PyUnicode_FromFormat(":%U", tag);
            Py_XDECREF(tag);
        }
        answer = copy_name(text, &names->rules[i].tag, &names->rules[i].length);
        Py_XDECREF(text);
    }
    return answer;
}

/* And how they are told apart in shared memory. */
static int number_keys(PlanObject *self) {
    const struct redis_names *names = self->names;
    self->shared = PyMem_Calloc(1, sizeof *self->shared);
    if (self->shared == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->shared->seed = shared_seed(names->prefix, names->prefix_length);
    for (int i = 0; i < self->plan->count; i++) {
        self->shared->tags[i] = shared_tag(names->rules[i].tag, names->rules[i].length, self->plan->algorithm);
    }
    return 0;
}

/* Of several rules each has a space of its own; a single one has that of the line. */
static int take_spaces(PlanObject *self, StoreObject *store, PyObject *prefix) {
    struct plan *p = self->plan;
    p->salt = (uint64_t)PyUnicode_Type.tp_hash(prefix) * 31 + (uint64_t)p->algorithm;
    spaces_keep(store->spaces);
    self->spaces = store->spaces;
    if (store_space(store, prefix, p->algorithm, NULL, &p->line_space) < 0) {
        return -1;
    }
    self->spaces_taken++;
    p->rules[0].space = p->line_space;
    for (int i = 0; p->count > 1 && i < p->count; i++) {
        PyObject *tag = rule_tag(self->quotas, i);
        int failed = tag == NULL || store_space(store, prefix, p->algorithm, tag, &p->rules[i].space) < 0;
        Py_XDECREF(tag);
        if (failed) {
            return -1;
        }
        self->spaces_taken++;
    }
    return 0;
}

static PlanObject *plan_make(struct module_state *m, StoreObject *store, PyObject *prefix, enum algorithm_id algorithm,
                             PyObject *quotas) {
    Py_ssize_t count = PyTuple_GET_SIZE(quotas);
    if (store != NULL && count > store->store.table.max_keys) {
        PyErr_Format(m->setup_error,
                     "Invalid quota: %zd rules, but the MemoryStore holds MAX_SIZE=%lld keys and each rule needs one. "
                     "Give it a larger MAX_SIZE.",
                     count, (long long)store->store.table.max_keys);
        return NULL;
    }
    PlanObject *self = (PlanObject *)m->plan->tp_alloc(m->plan, 0);
    if (self == NULL) {
        return NULL;
    }
    self->quotas = Py_NewRef(quotas);
    self->plan = PyMem_Calloc(1, sizeof(struct plan) + (size_t)count * sizeof(struct rule));
    if (self->plan == NULL) {
        PyErr_NoMemory();
        goto failed;
    }
    self->plan->algorithm = algorithm;
    self->plan->count = (int)count;
    self->plan->line_space = (uint32_t)algorithm;
    for (Py_ssize_t i = 0; i < count; i++) {
        self->plan->rules[i].quota = ((QuotaObject *)PyTuple_GET_ITEM(quotas, i))->quota;
        self->plan->rules[i].space = self->plan->line_space;
    }
    if (store != NULL ? take_spaces(self, store, prefix) < 0 : name_keys(self, prefix) < 0) {
        goto failed;
    }
    return self;
failed:
    Py_DECREF(self);
    return NULL;
}

PlanObject *plan_new(struct module_state *m, StoreObject *store, PyObject *prefix, enum algorithm_id algorithm,
                     PyObject *quotas) {
    PlanObject *self = plan_make(m, store, prefix, algorithm, quotas);
    if (self != NULL && store == NULL) {
        self->prefix = Py_NewRef(prefix);
        struct quota_error error;
        if (!scripts_can_hold(self->plan, &error)) {
            PyErr_SetString(m->data_error, error.text);
            Py_CLEAR(self);
        }
    }
    return self;
}

PlanObject *plan_new_atomic(struct module_state *m, PyObject *prefix, enum algorithm_id algorithm, PyObject *quotas) {
    PlanObject *self = plan_make(m, NULL, prefix, algorithm, quotas);
    if (self != NULL && number_keys(self) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

static PyType_Slot plan_slots[] = {{Py_tp_dealloc, plan_dealloc}, {0, NULL}};
static PyType_Spec plan_spec = {"headway._core.Plan", sizeof(PlanObject), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                plan_slots};

PyTypeObject *plan_type_make(PyObject *module) {
    return type_make(module, &plan_spec, NULL, NULL);
}
