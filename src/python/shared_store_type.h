/* SharedStore, the compiled part of SharedMemoryStore: decisions in a file that processes share. */
#ifndef HEADWAY_SHARED_STORE_TYPE_H
#define HEADWAY_SHARED_STORE_TYPE_H

#include "atomic.h"
#include "shared_table.h"

/* Hashes of short keys that were asked for lately: 15 of 75 ns a call. */
#define HASHES_KNOWN 256
#define HASH_KEY_MAX 39
struct known_hash {
    uint64_t seed, hash[2];
    uint8_t length; /* 0: none */
    char bytes[HASH_KEY_MAX];
};

typedef struct shared_store_object {
    PyObject_HEAD
    PyObject *weakrefs;
    struct module_state *module;
    PyObject *name, *clock; /* clock: a VirtualClock or NULL */
    bool raise_when_full;
    _Atomic bool warned;
    struct shared_table table; /* table.file NULL before __init__ */
#ifndef Py_GIL_DISABLED
    struct known_hash *known; /* HASHES_KNOWN of them, or NULL */
#endif
} SharedStoreObject;

/* Decides at once; where a timeout is left and the call is denied, waits. 0, or -1 and an exception. */
int shared_store_limit(LimiterObject *t, PlanObject *plan, const struct table_key *key, int64_t cost,
                       int64_t timeout_ns, struct outcome *out);

/* Takes a step. 0, or -1 and an exception. */
int shared_store_update(SharedStoreObject *s, StepObject *step);

PyTypeObject *shared_store_type_make(PyObject *module);

/* NULL, and an exception, where __init__ was not called. */
SharedStoreObject *shared_store_ready(PyObject *object);
/* StoreUnavailableError. */
void shared_store_raise(struct module_state *m, const struct shared_error *error);

/* Methods; see shared_values_methods.c. */
PyObject *shared_store_value(PyObject *object, PyObject *key);
PyObject *shared_store_set_value(PyObject *object, PyObject *args);
PyObject *shared_store_changes(PyObject *object, PyObject *unused);
PyObject *shared_store_wait(PyObject *object, PyObject *args);
PyObject *shared_store_identity(PyObject *object, PyObject *unused);
PyObject *shared_store_lives(PyObject *object, PyObject *number);

#endif
