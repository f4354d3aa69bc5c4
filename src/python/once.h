/* What several threads reach without a GIL: slots that are filled once, and dicts.
 *
 * A slot of the module's state or of an object is NULL at first. The thread that comes first fills it, and from then on it does not
 * change while its owner lives. So a reader needs no lock and no reference of its own; it reads by once_get.
 * docs/internals/free-threading.md lists the owner of every field. */
#ifndef HEADWAY_ONCE_H
#define HEADWAY_ONCE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if PY_VERSION_HEX < 0x030D0000
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

/* Borrowed, or NULL where nobody has filled it. */
static inline PyObject *once_get(PyObject **slot) {
    return __atomic_load_n(slot, __ATOMIC_ACQUIRE);
}

/* Fills the slot with `made`, which is taken over; where another thread was first, `made` is dropped. What the slot holds, borrowed;
 * NULL where `made` is NULL, since making it has raised. */
static inline PyObject *once_set(PyObject **slot, PyObject *made) {
    PyObject *first = once_get(slot);
    if (made == NULL) {
        return NULL;
    }
    if (first == NULL && __atomic_compare_exchange_n(slot, &first, made, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        return made;
    }
    Py_DECREF(made);
    return first;
}

/* 1 and a new reference; 0 and NULL; -1, NULL and an exception. */
static inline int dict_get(PyObject *dict, PyObject *key, PyObject **value) {
#if PY_VERSION_HEX >= 0x030D0000
    return PyDict_GetItemRef(dict, key, value);
#else
    *value = Py_XNewRef(PyDict_GetItemWithError(dict, key));
    return *value != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
#endif
}

/* What the key has from now on, a new reference: `value`, where it had nothing. NULL and an exception. */
static inline PyObject *dict_set_default(PyObject *dict, PyObject *key, PyObject *value) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *kept;
    return PyDict_SetDefaultRef(dict, key, value, &kept) < 0 ? NULL : kept;
#else
    return Py_XNewRef(PyDict_SetDefault(dict, key, value));
#endif
}

#endif
