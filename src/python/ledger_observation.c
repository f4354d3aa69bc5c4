/* What a response said, as a Python object, for the ledger: an Observation (parse_headers), None, or plain tuples.
 *
 *   (dimensions, date_ns, retry, retry_ns, retry_is_for_all)
 *   dimension: (name, resource, limit, remaining, window_ns, reset, reset_ns)
 *
 * Numbers are int, or None where unsaid; reset and retry are None, "after" or "at". */
#include "ledger_type.h"
#include "observation_type.h"

static int said(PyObject *object, const char *what, int64_t *value) {
    if (object == Py_None) {
        *value = UNSAID;
        return 0;
    }
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (number == -1 && PyErr_Occurred()) {
        PyErr_Format(PyExc_TypeError, "%s must be an int or None, got %R", what, object);
        return -1;
    }
    *value = overflow > 0 ? INT64_MAX : overflow < 0 ? INT64_MIN + 1 : number;
    return 0;
}

static int reset_kind(PyObject *object, enum observed_reset *kind) {
    if (object == Py_None) {
        *kind = RESET_UNSAID;
    } else if (PyUnicode_Check(object) && PyUnicode_CompareWithASCIIString(object, "after") == 0) {
        *kind = RESET_AFTER;
    } else if (PyUnicode_Check(object) && PyUnicode_CompareWithASCIIString(object, "at") == 0) {
        *kind = RESET_AT;
    } else {
        PyErr_Format(PyExc_ValueError, "reset must be None, 'after' or 'at', got %R", object);
        return -1;
    }
    return 0;
}

static int name_of(PyObject *object, char name[OBSERVED_NAME_MAX]) {
    Py_ssize_t length;
    const char *text = PyUnicode_Check(object) ? PyUnicode_AsUTF8AndSize(object, &length) : NULL;
    if (text == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_TypeError, "the name of a dimension must be a str, got %R", object);
        }
        return -1;
    }
    size_t kept = length < OBSERVED_NAME_MAX ? (size_t)length : OBSERVED_NAME_MAX - 1;
    memset(name, 0, OBSERVED_NAME_MAX);
    memcpy(name, text, kept);
    return 0;
}

static int dimension_of(PyObject *object, struct observed_dimension *d) {
    if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 7) {
        PyErr_Format(PyExc_TypeError,
                     "a dimension must be (name, resource, limit, remaining, window_ns, reset, reset_ns), got %R",
                     object);
        return -1;
    }
    return name_of(PyTuple_GET_ITEM(object, 0), d->name) < 0 || name_of(PyTuple_GET_ITEM(object, 1), d->resource) < 0 ||
                   said(PyTuple_GET_ITEM(object, 2), "limit", &d->limit) < 0 ||
                   said(PyTuple_GET_ITEM(object, 3), "remaining", &d->remaining) < 0 ||
                   said(PyTuple_GET_ITEM(object, 4), "window_ns", &d->window_ns) < 0 ||
                   reset_kind(PyTuple_GET_ITEM(object, 5), &d->reset) < 0 ||
                   said(PyTuple_GET_ITEM(object, 6), "reset_ns", &d->reset_ns) < 0
               ? -1
               : 0;
}

int observation_from_object(const struct module_state *m, PyObject *object, struct observation *scratch,
                            const struct observation **out) {
    *out = NULL;
    if (Py_TYPE(object) == m->observation) {
        *out = observation_of(object);
        return 0;
    }
    if (object == Py_None) {
        return 0;
    }
    if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 5 || !PyTuple_Check(PyTuple_GET_ITEM(object, 0))) {
        PyErr_Format(PyExc_TypeError,
                     "an observation must be None or (dimensions, date_ns, retry, retry_ns, retry_is_for_all), got %R",
                     object);
        return -1;
    }
    PyObject *dimensions = PyTuple_GET_ITEM(object, 0);
    Py_ssize_t count = PyTuple_GET_SIZE(dimensions);
    scratch->count = count < OBSERVED_DIMENSIONS_MAX ? (int)count : OBSERVED_DIMENSIONS_MAX;
    scratch->ignored = 0;
    for (int i = 0; i < scratch->count; i++) {
        if (dimension_of(PyTuple_GET_ITEM(dimensions, i), &scratch->dimensions[i]) < 0) {
            return -1;
        }
    }
    int for_all = PyObject_IsTrue(PyTuple_GET_ITEM(object, 4));
    if (for_all < 0 || said(PyTuple_GET_ITEM(object, 1), "date_ns", &scratch->date_ns) < 0 ||
        reset_kind(PyTuple_GET_ITEM(object, 2), &scratch->retry) < 0 ||
        said(PyTuple_GET_ITEM(object, 3), "retry_ns", &scratch->retry_ns) < 0) {
        return -1;
    }
    scratch->retry_is_for_all = for_all;
    *out = scratch;
    return 0;
}
