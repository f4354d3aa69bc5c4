/* The values of a shared file, as methods of SharedStore: what headway._shared_values builds `update` on, and how semaphores learn
 * whether a process lives. */
#include "shared_store_type.h"
#include "shared_values.h"

#define FIRST_ROOM 4096

static bool failed(SharedStoreObject *s, enum shared_value_end end, size_t length, uint32_t holder,
                   struct shared_error *error) {
    if (end == SHARED_VALUE_OK || end == SHARED_VALUE_CHANGED) {
        return false;
    }
    if (end == SHARED_VALUE_FULL) {
        error->fault = SHARED_NO_ROOM;
        snprintf(
            error->text, sizeof error->text,
            "Shared memory '%s' has no room for a value of %zu bytes: it holds %u values at a time, such as the state "
            "of a semaphore that is in use, of at most %zu bytes each. Give a larger size.",
            s->table.file->name, length, (unsigned)shared_value_count(s->table.file), shared_value_max(s->table.file));
    } else if (end == SHARED_VALUE_STOPPED) {
        error->fault = SHARED_STOPPED;
        snprintf(
            error->text, sizeof error->text,
            "Shared memory '%s' cannot answer: process %d is stopped in the midst of a change. Continue or end it.",
            s->table.file->name, shared_pid(s->table.file, holder));
    }
    shared_store_raise(s->module, error);
    return true;
}

static int key_bytes(PyObject *object, const char **bytes, size_t *length) {
    char *at;
    Py_ssize_t count;
    if (PyBytes_AsStringAndSize(object, &at, &count) < 0) {
        return -1;
    }
    *bytes = at;
    *length = (size_t)count;
    return 0;
}

/* (bytes or None, mark) */
static PyObject *value_and_mark(const char *bytes, size_t length, uint64_t mark) {
    return length == 0 ? Py_BuildValue("(OK)", Py_None, (unsigned long long)mark)
                       : Py_BuildValue("(y#K)", bytes, (Py_ssize_t)length, (unsigned long long)mark);
}

static PyObject *read_value(SharedStoreObject *s, const char *key, size_t key_length) {
    struct shared_file *f = s->table.file;
    struct shared_error error;
    char room[FIRST_ROOM];
    size_t length = 0;
    uint64_t mark = 0;
    uint32_t holder = 0;
    enum shared_value_end end =
        shared_value_read(f, key, key_length, false, room, sizeof room, &length, &mark, &holder, &error);
    if (end == SHARED_VALUE_BUSY) {
        Py_BEGIN_ALLOW_THREADS
        end = shared_value_read(f, key, key_length, true, room, sizeof room, &length, &mark, &holder, &error);
        Py_END_ALLOW_THREADS
    }
    if (failed(s, end, 0, holder, &error)) {
        return NULL;
    }
    if (length <= sizeof room) {
        return value_and_mark(room, length, mark);
    }
    size_t most = shared_value_max(f);
    char *large = PyMem_RawMalloc(most);
    if (large == NULL) {
        return PyErr_NoMemory();
    }
    Py_BEGIN_ALLOW_THREADS
    end = shared_value_read(f, key, key_length, true, large, most, &length, &mark, &holder, &error);
    Py_END_ALLOW_THREADS
    PyObject *answer = failed(s, end, 0, holder, &error) ? NULL : value_and_mark(large, length, mark);
    PyMem_RawFree(large);
    return answer;
}

PyObject *shared_store_value(PyObject *object, PyObject *key_object) {
    SharedStoreObject *s = shared_store_ready(object);
    const char *key;
    size_t key_length;
    if (s == NULL || key_bytes(key_object, &key, &key_length) < 0) {
        return NULL;
    }
    return read_value(s, key, key_length);
}

PyObject *shared_store_set_value(PyObject *object, PyObject *args) {
    SharedStoreObject *s = shared_store_ready(object);
    const char *key, *bytes;
    Py_ssize_t key_length, length;
    unsigned long long mark;
    if (s == NULL || !PyArg_ParseTuple(args, "y#z#K:_set_value", &key, &key_length, &bytes, &length, &mark)) {
        return NULL;
    }
    struct shared_error error;
    uint32_t holder = 0;
    struct shared_file *f = s->table.file;
    size_t count = bytes == NULL ? 0 : (size_t)length;
    enum shared_value_end end =
        shared_value_write(f, key, (size_t)key_length, false, bytes, count, mark, &holder, &error);
    if (end == SHARED_VALUE_BUSY) {
        Py_BEGIN_ALLOW_THREADS
        end = shared_value_write(f, key, (size_t)key_length, true, bytes, count, mark, &holder, &error);
        Py_END_ALLOW_THREADS
    }
    return failed(s, end, count, holder, &error) ? NULL : PyBool_FromLong(end == SHARED_VALUE_OK);
}

PyObject *shared_store_changes(PyObject *object, PyObject *unused) {
    (void)unused;
    SharedStoreObject *s = shared_store_ready(object);
    return s == NULL ? NULL : PyLong_FromUnsignedLong(shared_value_changes(s->table.file));
}

PyObject *shared_store_wait(PyObject *object, PyObject *args) {
    SharedStoreObject *s = shared_store_ready(object);
    unsigned int seen;
    double seconds;
    if (s == NULL || !PyArg_ParseTuple(args, "Id:_wait_for_change", &seen, &seconds)) {
        return NULL;
    }
    seconds = seconds > 0 ? seconds : 0;
    int64_t longest = seconds < 3600 ? (int64_t)(seconds * 1e9) : INT64_C(3600) * NS_PER_S;
    Py_BEGIN_ALLOW_THREADS
    shared_value_wait(s->table.file, seen, longest);
    Py_END_ALLOW_THREADS
    if (PyErr_CheckSignals() < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *shared_store_identity(PyObject *object, PyObject *unused) {
    (void)unused;
    SharedStoreObject *s = shared_store_ready(object);
    struct shared_error error;
    uint32_t number = s == NULL ? 0 : shared_number(s->table.file, &error);
    if (s != NULL && number == 0) {
        shared_store_raise(s->module, &error);
    }
    return number == 0 ? NULL : PyLong_FromUnsignedLong(number);
}

PyObject *shared_store_lives(PyObject *object, PyObject *number) {
    SharedStoreObject *s = shared_store_ready(object);
    unsigned long n = s == NULL ? 0 : PyLong_AsUnsignedLong(number);
    if (s == NULL || (n == (unsigned long)-1 && PyErr_Occurred())) {
        return NULL;
    }
    return PyBool_FromLong(n >= 1 && n <= SHARED_NUMBER_MAX && shared_lives(s->table.file, (uint32_t)n));
}
