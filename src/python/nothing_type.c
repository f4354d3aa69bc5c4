/* Nothing: an awaitable of None that can be awaited any number of times, for those who have nothing to wait for. */
#include "module.h"

static PySendResult nothing_send(PyObject *object, PyObject *value, PyObject **result) {
    (void)object;
    (void)value;
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

static PyObject *nothing_next(PyObject *object) {
    (void)object;
    return NULL; /* StopIteration, with None */
}

static void nothing_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

static int nothing_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    return 0;
}

static PyType_Slot nothing_slots[] = {
    {Py_tp_traverse, nothing_traverse},
    {Py_tp_dealloc, nothing_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, nothing_next},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, nothing_send},
    {0, NULL},
};
static PyType_Spec nothing_spec = {"headway._core.Nothing", sizeof(PyObject), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                   nothing_slots};

PyTypeObject *nothing_type_make(PyObject *module) {
    return type_make(module, &nothing_spec, NULL, NULL);
}
