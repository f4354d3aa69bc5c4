/* Plan: the rules of a quota bound to the spaces of one store. Internal; users never see one. */
#include "module.h"

static void plan_dealloc(PlanObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(self->quotas);
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

PlanObject *plan_new(struct module_state *m, StoreObject *store, PyObject *prefix, enum algorithm_id algorithm,
                     PyObject *quotas) {
    Py_ssize_t count = PyTuple_GET_SIZE(quotas);
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
    if (store_space(store, prefix, algorithm, NULL, &self->plan->line_space) < 0) {
        goto failed;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        struct rule *rule = &self->plan->rules[i];
        rule->quota = ((QuotaObject *)PyTuple_GET_ITEM(quotas, i))->quota;
        rule->space = self->plan->line_space;
        if (count > 1) {
            PyObject *tag = rule_tag(quotas, i);
            int failed = tag == NULL || store_space(store, prefix, algorithm, tag, &rule->space) < 0;
            Py_XDECREF(tag);
            if (failed) {
                goto failed;
            }
        }
    }
    return self;
failed:
    Py_DECREF(self);
    return NULL;
}

static PyType_Slot plan_slots[] = {{Py_tp_dealloc, plan_dealloc}, {0, NULL}};
static PyType_Spec plan_spec = {"headway._core.Plan", sizeof(PlanObject), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                plan_slots};

PyTypeObject *plan_type_make(PyObject *module) {
    return type_make(module, &plan_spec, NULL, NULL);
}
