/* algorithms.step: the pure step over bytes, for stores that can only compare and swap.
 *
 * The bytes of a state are, for each rule, one byte (version << 4 | algorithm) and its three words, little-endian. */
#include "atomic.h"

#define STATE_VERSION 1

static void word_write(char *at, int64_t word) {
    for (int i = 0; i < 8; i++) {
        at[i] = (char)((uint64_t)word >> (8 * i));
    }
}

static int64_t word_read(const char *at) {
    uint64_t word = 0;
    for (int i = 0; i < 8; i++) {
        word |= (uint64_t)(unsigned char)at[i] << (8 * i);
    }
    return (int64_t)word;
}

void state_write(enum algorithm_id id, const struct state *s, char *at) {
    at[0] = (char)(STATE_VERSION << 4 | (int)id);
    for (int k = 0; k < 3; k++) {
        word_write(at + 1 + 8 * k, s->word[k]);
    }
}

bool state_read(enum algorithm_id id, const char *at, struct state *s) {
    for (int k = 0; k < 3; k++) {
        s->word[k] = word_read(at + 1 + 8 * k);
    }
    return at[0] == (STATE_VERSION << 4 | (int)id) && algorithm_may_have(id, s);
}

static int states_read(struct module_state *m, PyObject *object, enum algorithm_id id, Py_ssize_t count,
                       struct state *states) {
    memset(states, 0, (size_t)count * sizeof *states);
    if (object == Py_None) {
        return 0;
    }
    if (!PyBytes_Check(object)) {
        PyErr_Format(m->data_error, "Invalid state: %R, must be bytes from an earlier step, or None.", object);
        return -1;
    }
    Py_ssize_t length = PyBytes_GET_SIZE(object);
    const char *at = PyBytes_AS_STRING(object);
    if (length != count * STATE_BYTES) {
        PyErr_Format(m->data_error, "Invalid state: %zd bytes, must be %zd for %zd rule(s).", length,
                     count * STATE_BYTES, count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++, at += STATE_BYTES) {
        if (!state_read(id, at, &states[i])) {
            PyErr_Format(m->data_error, "Invalid state: %R is not a state of %s.", object, algorithm_names[id]);
            return -1;
        }
    }
    return 0;
}

static PyObject *step(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"state", "quota", "cost", "now_ns", "using", NULL};
    struct module_state *m = PyModule_GetState(module);
    PyObject *state_object, *quota_object, *cost_object, *now_object, *using = Py_None;
    struct state before[QUOTA_RULES_MAX], after[QUOTA_RULES_MAX];
    int64_t cost, now;
    enum algorithm_id id;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOO|$O:step", names, &state_object, &quota_object, &cost_object,
                                     &now_object, &using) ||
        algorithm_from_object(m, using, &id) < 0 || cost_from_object(m, cost_object, &cost) < 0 ||
        instant_from_object(m, now_object, "now_ns", &now) < 0) {
        return NULL;
    }
    PyObject *quotas = quotas_from_object(m, quota_object);
    if (quotas == NULL) {
        return NULL;
    }
    PyObject *answer = NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(quotas);
    if (states_read(m, state_object, id, count, before) < 0) {
        goto done;
    }
    bool admitted = true;
    memcpy(after, before, sizeof after);
    for (Py_ssize_t i = 0; i < count; i++) {
        const struct quota *q = &((QuotaObject *)PyTuple_GET_ITEM(quotas, i))->quota;
        admitted = algorithm_step(id, &after[i], q, cost, now) && admitted;
    }
    const struct state *states = admitted ? after : before;
    struct decision best = {0}, d;
    for (Py_ssize_t i = 0; i < count; i++) {
        const struct quota *q = &((QuotaObject *)PyTuple_GET_ITEM(quotas, i))->quota;
        algorithm_report(id, &states[i], q, admitted ? 0 : cost, now, &d);
        if (i == 0 || decision_is_tighter(&d, &best, !admitted)) {
            best = d;
        }
    }
    char bytes[QUOTA_RULES_MAX * STATE_BYTES];
    for (Py_ssize_t i = 0; i < count; i++) {
        state_write(id, &states[i], &bytes[i * STATE_BYTES]);
    }
    PyObject *told = state_new(m, &best);
    if (told != NULL) {
        PyObject *result = PyObject_CallFunction((PyObject *)m->result, "OO", admitted ? Py_False : Py_True, told);
        Py_DECREF(told);
        if (result != NULL) {
            answer = Py_BuildValue("(y#N)", bytes, count * STATE_BYTES, result);
        }
    }
done:
    Py_DECREF(quotas);
    return answer;
}

PyMethodDef step_functions[] = {
    {"step", (PyCFunction)(void (*)(void))step, METH_VARARGS | METH_KEYWORDS,
     "step(state, quota, cost, now_ns, *, using='token_bucket')\n--\n\n"
     "The pure step: (new state, RateLimitResult) from a state, with no clock and no store of its own.\n\n"
     "state: bytes from an earlier step with as many rules, or None for a key never seen. quota: as for Throttled.\n"
     "now_ns: nanoseconds since the Unix epoch. A denied step returns the state as it was.\n"
     "Raises DataError for a bad argument, SetUpError for an unknown algorithm."},
    {NULL, NULL, 0, NULL},
};
