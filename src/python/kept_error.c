/* Exceptions that are put aside: see kept_error.h. */
#include "kept_error.h"

#define ATTEMPTS 3
#define CHAIN_MAX 100 /* contexts of one exception that are looked through */

/* The exception that is set, as an instance with its traceback; NULL: none is set. */
static PyObject *take_set(void) {
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL && error != NULL) {
        PyException_SetTraceback(error, traceback);
    }
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return error;
}

static void set(PyObject *error) {
    PyObject *traceback = PyException_GetTraceback(error);
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(error)), error, traceback);
}

static bool is_exception(PyObject *error) {
    return PyType_IsSubtype(Py_TYPE(error), (PyTypeObject *)PyExc_Exception);
}

/* Hangs `other` (taken over) at the end of the contexts of `error`. */
static void chain(PyObject *error, PyObject *other) {
    PyObject *at = Py_NewRef(error);
    for (int i = 0; at != other && i < CHAIN_MAX; i++) {
        PyObject *next = PyException_GetContext(at);
        if (next == NULL) {
            PyException_SetContext(at, other);
            Py_DECREF(at);
            return;
        }
        Py_SETREF(at, next);
    }
    Py_DECREF(at);
    Py_DECREF(other);
}

void error_keep(struct kept_error *k) {
    PyObject *error = take_set();
    if (error == NULL || error == k->error) {
        Py_XDECREF(error);
    } else if (k->error == NULL) {
        k->error = error;
    } else if (is_exception(k->error) && !is_exception(error)) {
        chain(error, k->error);
        k->error = error;
    } else {
        chain(k->error, error);
    }
}

bool error_set(struct kept_error *k) {
    if (k->error == NULL) {
        return PyErr_Occurred() != NULL;
    }
    error_keep(k);
    PyObject *error = k->error;
    k->error = NULL;
    set(error);
    return true;
}

void error_chain(struct kept_error *k) {
    PyObject *error = k->error == NULL ? NULL : take_set();
    if (error != NULL) {
        chain(error, k->error);
        k->error = NULL;
        set(error);
    }
}

static int raise_again(void *error) {
    set(error);
    return -1;
}

void error_defer(struct kept_error *k, PyObject *source) {
    PyObject *error = k->error;
    if (error == NULL) {
        return;
    }
    k->error = NULL;
    if (thread_is_first() && PyInterpreterState_Get() == PyInterpreterState_Main() &&
        Py_AddPendingCall(raise_again, error) == 0) {
        return;
    }
    PyObject *type, *set_error, *traceback;
    PyErr_Fetch(&type, &set_error, &traceback);
    set(error);
    PyErr_WriteUnraisable(source);
    PyErr_Restore(type, set_error, traceback);
}

void error_defer_set(PyObject *source) {
    struct kept_error k = {0};
    error_keep(&k);
    error_defer(&k, source);
}

/* ---- calls of an event loop's methods ---- */

/* With an exception set: whether it is that of a closed loop. The exception is kept in `*error`, if it is not. */
static bool says_closed(PyObject *loop, PyObject **error) {
    bool may_be = PyErr_ExceptionMatches(PyExc_RuntimeError);
    *error = take_set();
    if (!may_be) {
        return false;
    }
    PyObject *answer = PyObject_CallMethod(loop, "is_closed", NULL);
    bool closed = answer == Py_True;
    Py_XDECREF(answer);
    if (closed) {
        Py_CLEAR(*error);
    } else if (PyErr_Occurred()) {
        PyObject *other = take_set();
        if (other != NULL && *error != NULL) {
            chain(other, *error);
        }
        *error = other;
    }
    return closed;
}

static void set_and_drop(PyObject **errors, int count, struct kept_error *k) {
    PyObject *last = errors[count - 1];
    for (int i = 0; i < count - 1; i++) {
        if (errors[i] != NULL && Py_TYPE(errors[i]) != Py_TYPE(last)) { /* else it is the same thing said again */
            set(errors[i]);
            error_keep(k);
        } else {
            Py_XDECREF(errors[i]);
        }
    }
    set(last);
}

enum loop_answer loop_call(struct kept_error *k, PyObject *loop, const char *name, PyObject *const *args, size_t count,
                           PyObject *names, PyObject **result) {
    PyObject *errors[ATTEMPTS];
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        PyObject *method = name == NULL ? Py_NewRef(loop) : PyObject_GetAttrString(loop, name);
        PyObject *answer = method == NULL ? NULL : PyObject_Vectorcall(method, args, count, names);
        Py_XDECREF(method);
        if (answer != NULL) {
            for (int i = 0; i < attempt; i++) {
                set(errors[i]);
                error_keep(k);
            }
            if (result != NULL) {
                *result = answer;
            } else {
                Py_DECREF(answer);
            }
            return LOOP_DONE;
        }
        bool missing =
            PyErr_ExceptionMatches(PyExc_NotImplementedError) || PyErr_ExceptionMatches(PyExc_AttributeError);
        if (name == NULL) {
            errors[attempt] = take_set();
        } else if (says_closed(loop, &errors[attempt])) {
            for (int i = 0; i < attempt; i++) {
                set(errors[i]);
                error_keep(k);
            }
            return LOOP_CLOSED;
        }
        if (missing) {
            set_and_drop(errors, attempt + 1, k);
            return LOOP_FAILED;
        }
    }
    set_and_drop(errors, ATTEMPTS, k);
    return LOOP_FAILED;
}
