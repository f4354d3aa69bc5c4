/* The module headway._core: its types, functions and life. */
#include "module.h"

#include "atomic.h"
#include "build_info.h"
#include "kept_error.h"
#include "ledger_type.h"
#include "link_type.h"
#include "loop_link.h"
#include "observation_type.h"
#include "redis_store_type.h"
#include "shared_store_type.h"

#ifndef HEADWAY_VERSION
#define HEADWAY_VERSION "0"
#endif

PyTypeObject *type_make(PyObject *module, PyType_Spec *spec, PyTypeObject *base, const char *const *match_args) {
    PyObject *bases = base == NULL ? NULL : PyTuple_Pack(1, base);
    if (base != NULL && bases == NULL) {
        return NULL;
    }
    PyObject *type = PyType_FromModuleAndSpec(module, spec, bases);
    Py_XDECREF(bases);
    if (type == NULL || match_args == NULL) {
        return (PyTypeObject *)type;
    }
    Py_ssize_t count = 0;
    while (match_args[count] != NULL) {
        count++;
    }
    PyObject *names = PyTuple_New(count);
    for (Py_ssize_t i = 0; names != NULL && i < count; i++) {
        PyObject *name = PyUnicode_InternFromString(match_args[i]);
        if (name == NULL) {
            Py_CLEAR(names);
            break;
        }
        PyTuple_SET_ITEM(names, i, name);
    }
    /* The type is immutable already; it has not been used yet. */
    if (names == NULL || PyDict_SetItemString(((PyTypeObject *)type)->tp_dict, "__match_args__", names) < 0) {
        Py_CLEAR(type);
    } else {
        PyType_Modified((PyTypeObject *)type);
    }
    Py_XDECREF(names);
    return (PyTypeObject *)type;
}

const char *type_short_name(const PyTypeObject *type) {
    const char *dot = strrchr(type->tp_name, '.');
    return dot != NULL ? dot + 1 : type->tp_name;
}

struct module_state *module_of_instance(PyObject *self) {
#if PY_VERSION_HEX >= 0x030B0000
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(self), &headway_module);
    return module == NULL ? NULL : PyModule_GetState(module);
#else
    PyObject *mro = Py_TYPE(self)->tp_mro;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(mro); i++) {
        PyTypeObject *type = (PyTypeObject *)PyTuple_GET_ITEM(mro, i);
        if (PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE)) {
            PyObject *module = ((PyHeapTypeObject *)type)->ht_module;
            if (module != NULL && PyModule_GetDef(module) == &headway_module) {
                return PyModule_GetState(module);
            }
        }
    }
    PyErr_SetString(PyExc_TypeError, "not a type of headway");
    return NULL;
#endif
}

static PyObject *now_ns(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyLong_FromLongLong(clock_now());
}

#define FINISH_TRIES 64 /* memory may be short for a while */

/* The callback of an event loop that gives a future its outcome. In Python, a signal's handler could raise before it does so, even before
 * its first instruction, and what awaits the future would hang. */
static PyObject *finish_future(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *future, *answer, *error, *done = NULL;
    struct kept_error k = {0};
    if (!PyArg_ParseTuple(args, "OOO:_finish_future", &future, &answer, &error)) {
        return NULL;
    }
    for (int tries = FINISH_TRIES; done == NULL && tries > 0; tries--) {
        done = PyObject_CallMethod(future, "done", NULL);
        if (done == Py_False) {
            Py_SETREF(done, error == Py_None ? PyObject_CallMethod(future, "set_result", "(O)", answer)
                                             : PyObject_CallMethod(future, "set_exception", "(O)", error));
        }
        if (done == NULL && tries > 1 && PyErr_ExceptionMatches(PyExc_MemoryError)) {
            PyErr_Clear(); /* it is tried again */
        } else if (done == NULL) {
            error_keep(&k);
            tries = tries > 3 ? 3 : tries;
        }
    }
    Py_XDECREF(done);
    return error_set(&k) ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef own_functions[] = {
    {"_finish_future", finish_future, METH_VARARGS,
     "_finish_future(future, answer, error, /)\n--\n\nGives a future that is not done its answer, or its error where that is not None."},
    {"now_ns", now_ns, METH_NOARGS,
     "now_ns()\n--\n\nThe clock that limiters go by: nanoseconds since the Unix epoch, never stepping.\n\n"
     "It is the monotonic clock plus the wall clock's offset when the module was loaded."},
    {NULL, NULL, 0, NULL},
};

static int add_type(PyObject *module, PyTypeObject **slot, PyTypeObject *type, bool public) {
    *slot = type;
    return type == NULL ? -1 : public ? PyModule_AddType(module, type) : 0;
}

static PyObject *find_error(const char *name) {
    PyObject *slot = NULL;
    import_once(&slot, "headway.exceptions", name);
    return slot;
}

static int add_constants(PyObject *module) {
    PyObject *names = PyTuple_New(ALGORITHM_COUNT);
    for (int i = 0; names != NULL && i < ALGORITHM_COUNT; i++) {
        PyObject *name = PyUnicode_FromString(algorithm_names[i]);
        if (name == NULL) {
            Py_CLEAR(names);
            break;
        }
        PyTuple_SET_ITEM(names, i, name);
    }
    if (names == NULL || PyModule_AddObject(module, "ALGORITHMS", names) < 0) {
        Py_XDECREF(names);
        return -1;
    }
    PyObject *build = build_info();
    if (build == NULL || PyModule_AddObject(module, "BUILD", build) < 0) {
        Py_XDECREF(build);
        return -1;
    }
    return PyModule_AddStringConstant(module, "__version__", HEADWAY_VERSION);
}

static int module_exec(PyObject *module) {
    struct module_state *m = PyModule_GetState(module);
    clock_start();
    fork_start();
    bucket_start();
    wait_start(m);
    if ((m->setup_error = find_error("SetUpError")) == NULL || (m->data_error = find_error("DataError")) == NULL ||
        (m->store_error = find_error("StoreUnavailableError")) == NULL ||
        (m->limited_error = find_error("LimitedError")) == NULL ||
        (m->default_prefix = PyUnicode_FromString("headway")) == NULL ||
        (m->str_key = PyUnicode_InternFromString("key")) == NULL ||
        (m->str_cost = PyUnicode_InternFromString("cost")) == NULL ||
        (m->str_timeout = PyUnicode_InternFromString("timeout")) == NULL ||
        (m->str_value = PyUnicode_InternFromString("value")) == NULL ||
        (m->str_limited_error = PyUnicode_InternFromString("_limited_error")) == NULL ||
        (m->str_thread_id = PyUnicode_InternFromString("_thread_id")) == NULL ||
        (m->str_update = PyUnicode_InternFromString("_update")) == NULL ||
        (m->str_try_update = PyUnicode_InternFromString("_try_update")) == NULL ||
        (m->str_clock = PyUnicode_InternFromString("clock")) == NULL ||
        (m->str_get = PyUnicode_InternFromString("get")) == NULL ||
        (m->str_offset_ns = PyUnicode_InternFromString("_offset_ns")) == NULL ||
        (m->str_call_soon = PyUnicode_InternFromString("call_soon")) == NULL ||
        (m->str_thread_life = PyUnicode_InternFromString("headway.thread")) == NULL ||
        (m->context_name = Py_BuildValue("(s)", "context")) == NULL) {
        return -1;
    }
    if (add_type(module, &m->rate, rate_type_make(module), true) < 0 ||
        add_type(module, &m->quota, quota_type_make(module), true) < 0 ||
        add_type(module, &m->state, state_type_make(module), true) < 0 ||
        add_type(module, &m->result, result_type_make(module), true) < 0 ||
        add_type(module, &m->clock, clock_type_make(module), true) < 0 ||
        add_type(module, &m->store, store_type_make(module), true) < 0 ||
        add_type(module, &m->plan, plan_type_make(module), false) < 0 ||
        add_type(module, &m->limiter, limiter_type_make(module), true) < 0 ||
        add_type(module, &m->throttled, throttled_type_make(module, m->limiter), true) < 0 ||
        add_type(module, &m->async_throttled, async_throttled_type_make(module, m->limiter), false) < 0 ||
        PyModule_AddObjectRef(module, "AsyncThrottled", (PyObject *)m->async_throttled) < 0 ||
        add_type(module, &m->call, call_type_make(module), false) < 0 ||
        add_type(module, &m->nothing_type, nothing_type_make(module), false) < 0 ||
        add_type(module, &m->task_wait, task_wait_type_make(module), true) < 0 ||
        add_type(module, &m->waker, waker_type_make(module), false) < 0 ||
        add_type(module, &m->alarm, alarm_type_make(module), false) < 0 ||
        add_type(module, &m->pool, pool_type_make(module), true) < 0 ||
        add_type(module, &m->semaphore, semaphore_type_make(module), true) < 0 ||
        add_type(module, &m->sync_semaphore, sync_semaphore_type_make(module, m->semaphore), true) < 0 ||
        add_type(module, &m->async_semaphore, async_semaphore_type_make(module, m->semaphore), true) < 0 ||
        add_type(module, &m->thread_life, thread_life_type_make(module), false) < 0 ||
        add_type(module, &m->guarded, guarded_type_make(module), true) < 0 ||
        add_type(module, &m->link, link_type_make(module), true) < 0 ||
        add_type(module, &m->loop_link, loop_link_type_make(module), false) < 0 ||
        add_type(module, &m->redis_store, redis_store_type_make(module), true) < 0 ||
        add_type(module, &m->ledger, ledger_type_make(module), true) < 0 ||
        add_type(module, &m->observation, observation_type_make(module), true) < 0 ||
        add_type(module, &m->observed_dimension, observed_dimension_type_make(), true) < 0 ||
        add_type(module, &m->shared_store, shared_store_type_make(module), true) < 0 ||
        add_type(module, &m->step, step_type_make(module), true) < 0 ||
        add_type(module, &m->bucket, bucket_type_make(module), true) < 0) {
        return -1;
    }
    m->nothing = (PyObject *)PyObject_GC_New(PyObject, m->nothing_type);
    if (m->nothing == NULL) {
        return -1;
    }
    PyObject_GC_Track(m->nothing);
    if (PyModule_AddFunctions(module, quota_functions) < 0 || PyModule_AddFunctions(module, step_functions) < 0 ||
        PyModule_AddFunctions(module, observation_functions) < 0 || PyModule_AddFunctions(module, own_functions) < 0 ||
        PyModule_AddFunctions(module, holder_functions) < 0) {
        return -1;
    }
    return add_constants(module);
}

#define EACH_OBJECT(do_it)                                                                                             \
    do_it(m->rate);                                                                                                    \
    do_it(m->quota);                                                                                                   \
    do_it(m->state);                                                                                                   \
    do_it(m->clock);                                                                                                   \
    do_it(m->store);                                                                                                   \
    do_it(m->plan);                                                                                                    \
    do_it(m->link);                                                                                                    \
    do_it(m->redis_store);                                                                                             \
    do_it(m->shared_store);                                                                                            \
    do_it(m->loop_link);                                                                                               \
    do_it(m->limiter);                                                                                                 \
    do_it(m->async_throttled);                                                                                         \
    do_it(m->call);                                                                                                    \
    do_it(m->nothing_type);                                                                                            \
    do_it(m->task_wait);                                                                                               \
    do_it(m->waker);                                                                                                   \
    do_it(m->alarm);                                                                                                   \
    do_it(m->observation);                                                                                             \
    do_it(m->observed_dimension);                                                                                      \
    do_it(m->pool);                                                                                                    \
    do_it(m->semaphore);                                                                                               \
    do_it(m->sync_semaphore);                                                                                          \
    do_it(m->async_semaphore);                                                                                         \
    do_it(m->thread_life);                                                                                             \
    do_it(m->str_limited_error);                                                                                       \
    do_it(m->str_thread_id);                                                                                           \
    do_it(m->str_call_soon);                                                                                           \
    do_it(m->str_update);                                                                                              \
    do_it(m->str_try_update);                                                                                          \
    do_it(m->str_clock);                                                                                               \
    do_it(m->str_get);                                                                                                 \
    do_it(m->str_offset_ns);                                                                                           \
    do_it(m->str_thread_life);                                                                                         \
    do_it(m->context_name);                                                                                            \
    do_it(m->nothing);                                                                                                 \
    do_it(m->get_running_loop);                                                                                        \
    do_it(m->current_task);                                                                                            \
    do_it(m->cancelled_error);                                                                                         \
    do_it(m->wakers);                                                                                                  \
    do_it(m->throttled);                                                                                               \
    do_it(m->guarded);                                                                                                 \
    do_it(m->ledger);                                                                                                  \
    do_it(m->step);                                                                                                    \
    do_it(m->bucket);                                                                                                  \
    do_it(m->setup_error);                                                                                             \
    do_it(m->data_error);                                                                                              \
    do_it(m->store_error);                                                                                             \
    do_it(m->limited_error);                                                                                           \
    do_it(m->timedelta);                                                                                               \
    do_it(m->run_chain);                                                                                               \
    do_it(m->decorate);                                                                                                \
    do_it(m->default_store);                                                                                           \
    do_it(m->default_prefix);                                                                                          \
    do_it(m->str_key);                                                                                                 \
    do_it(m->str_cost);                                                                                                \
    do_it(m->str_timeout);                                                                                             \
    do_it(m->str_value);                                                                                               \
    do_it(m->result)

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    struct module_state *m = PyModule_GetState(module);
    EACH_OBJECT(Py_VISIT);
    return 0;
}

static int module_clear(PyObject *module) {
    struct module_state *m = PyModule_GetState(module);
    result_free_list_clear(m);
    call_free_list_clear(m);
    EACH_OBJECT(Py_CLEAR);
    return 0;
}

static void module_free(void *module) {
    module_clear(module);
    wait_stop(PyModule_GetState(module));
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_MOD_PER_INTERPRETER_GIL_SUPPORTED
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_MOD_GIL_NOT_USED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

struct PyModuleDef headway_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "headway._core",
    .m_doc = "Headway's compiled part. Import its names from `headway`.",
    .m_size = sizeof(struct module_state),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void) {
    return PyModuleDef_Init(&headway_module);
}
