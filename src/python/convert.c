/* From Python's values to the core's, and the errors on the way: each names the argument, its value and what would do. */

#include "kept_error.h"
#include "module.h"

int import_once(PyObject **slot, const char *module, const char *name) {
    if (once_get(slot) != NULL) {
        return 0;
    }
    PyObject *m = PyImport_ImportModule(module);
    PyObject *found = m == NULL ? NULL : PyObject_GetAttrString(m, name);
    Py_XDECREF(m);
    return once_set(slot, found) == NULL ? -1 : 0;
}

/* Whether a signal's handler has raised the exception that is set, which stays set. Where asking fails, that is deferred, and it counts as
 * one of a handler's. */
static bool raised_by_signal_handler(void) {
    PyObject *type, *error, *traceback, *answer = NULL;
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) { /* mostly of the handler that Python itself installs */
        return true;
    }
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(error, traceback);
    }
    PyObject *interrupts = PyImport_ImportModule("headway._interrupts");
    if (interrupts != NULL) {
        answer = PyObject_CallMethod(interrupts, "comes_from_a_handler", "O", error);
        Py_DECREF(interrupts);
    }
    bool yes = answer == NULL || answer == Py_True;
    if (answer == NULL) {
        error_defer_set(NULL);
    }
    Py_XDECREF(answer);
    PyErr_Restore(type, error, traceback);
    return yes;
}

void log_message(const char *logger, const char *level, PyObject *arguments) {
    PyObject *logging = arguments == NULL ? NULL : PyImport_ImportModule("logging");
    PyObject *target = logging == NULL ? NULL : PyObject_CallMethod(logging, "getLogger", "s", logger);
    PyObject *method = target == NULL ? NULL : PyObject_GetAttrString(target, level);
    PyObject *done = method == NULL ? NULL : PyObject_CallObject(method, arguments);
    if (done == NULL && raised_by_signal_handler()) {
        error_defer_set(method);
    } else if (done == NULL) { /* by a filter or a handler of the log: it changes no decision */
        PyErr_WriteUnraisable(method);
    }
    Py_XDECREF(done);
    Py_XDECREF(method);
    Py_XDECREF(target);
    Py_XDECREF(logging);
    Py_XDECREF(arguments);
}

int weak_dict_once(PyObject **slot) {
    PyObject *type = NULL;
    if (once_get(slot) != NULL) {
        return 0;
    }
    if (import_once(&type, "weakref", "WeakKeyDictionary") < 0) {
        return -1;
    }
    PyObject *made = PyObject_CallNoArgs(type);
    Py_DECREF(type);
    return once_set(slot, made) == NULL ? -1 : 0;
}

/* ---- keys ---- */

static int key_too_long(struct module_state *m, PyObject *object, Py_ssize_t length) {
    PyObject *head = PySequence_GetSlice(object, 0, 40);
    if (head != NULL) {
        PyErr_Format(m->data_error, "Invalid key: %R... (%zd bytes), must be at most %d bytes.", head, length,
                     TABLE_KEY_MAX);
        Py_DECREF(head);
    }
    return -1;
}

static int key_invalid(struct module_state *m, PyObject *object) {
    if (object == Py_None || PyUnicode_Check(object) || PyBytes_Check(object)) {
        PyErr_Format(m->data_error, "Invalid key: %S, must be a non-empty key.", object);
    } else {
        PyErr_Format(m->data_error, "Invalid key: %R, must be a non-empty key of type str or bytes, not %s.", object,
                     Py_TYPE(object)->tp_name);
    }
    return -1;
}

/* The hash of bytes is that of the text they encode, so that b"k" and "k" are one key. -1: an exception. */
static Py_hash_t bytes_hash(PyObject *object, const char *bytes, Py_ssize_t length) {
    bool ascii = true;
    for (Py_ssize_t i = 0; i < length && ascii; i++) {
        ascii = (unsigned char)bytes[i] < 0x80;
    }
    if (!ascii) {
        PyObject *text = PyUnicode_DecodeUTF8(bytes, length, "surrogatepass");
        if (text != NULL) {
            Py_hash_t hash = PyUnicode_Type.tp_hash(text);
            Py_DECREF(text);
            return hash;
        }
        if (!PyErr_ExceptionMatches(PyExc_UnicodeError)) {
            return -1;
        }
        PyErr_Clear();
    }
    return PyBytes_Type.tp_hash(object); /* CPython hashes ASCII text and bytes alike */
}

int key_from_object(struct module_state *m, PyObject *object, struct table_key *key, PyObject **owned) {
    Py_ssize_t length;
    Py_hash_t hash;
    *owned = NULL;
    if (PyUnicode_Check(object)) {
        if (PyUnicode_IS_COMPACT_ASCII(object)) {
            key->bytes = PyUnicode_DATA(object);
            length = PyUnicode_GET_LENGTH(object);
        } else {
            key->bytes = PyUnicode_AsUTF8AndSize(object, &length);
            if (key->bytes == NULL) {
                if (!PyErr_ExceptionMatches(PyExc_UnicodeError)) {
                    return -1;
                }
                PyErr_Clear(); /* lone surrogates */
                *owned = PyUnicode_AsEncodedString(object, "utf-8", "surrogatepass");
                if (*owned == NULL) {
                    return -1;
                }
                key->bytes = PyBytes_AS_STRING(*owned);
                length = PyBytes_GET_SIZE(*owned);
            }
        }
        hash = PyUnicode_Type.tp_hash(object);
    } else if (PyBytes_Check(object)) {
        key->bytes = PyBytes_AS_STRING(object);
        length = PyBytes_GET_SIZE(object);
        hash = length == 0 ? 0 : bytes_hash(object, key->bytes, length);
        if (hash == -1) {
            return -1;
        }
    } else {
        return key_invalid(m, object);
    }
    if (length == 0) {
        return key_invalid(m, object);
    }
    if (length > TABLE_KEY_MAX) {
        Py_CLEAR(*owned);
        return key_too_long(m, object, length);
    }
    key->length = (size_t)length;
    key->hash = (uint64_t)hash;
    return 0;
}

/* ---- numbers ---- */

int integer_from_object(PyObject *object, long long *value, int *overflow) {
    if (PyLong_Check(object)) {
        *value = PyLong_AsLongLongAndOverflow(object, overflow);
        return 1;
    }
    if (!PyIndex_Check(object)) {
        return 0;
    }
    PyObject *number = PyNumber_Index(object); /* of NumPy's integers, say */
    if (number == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_TypeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    *value = PyLong_AsLongLongAndOverflow(number, overflow);
    Py_DECREF(number);
    return 1;
}

int cost_from_object(struct module_state *m, PyObject *object, int64_t *cost) {
    int overflow = 0;
    long long value = 0;
    int found = integer_from_object(object, &value, &overflow);
    if (found < 0) {
        return -1;
    }
    if (found > 0) {
        if (overflow == 0 && value >= 0) {
            *cost = value;
            return 0;
        }
        if (overflow > 0) {
            PyObject *shown = PyObject_Str(object);
            if (shown == NULL && PyErr_ExceptionMatches(PyExc_ValueError)) { /* thousands of digits */
                PyErr_Clear();
                shown = PyUnicode_FromString("an integer of thousands of digits");
            }
            if (shown != NULL) {
                PyErr_Format(m->data_error,
                             "Invalid cost: %U, must be an integer greater than or equal to 0 and at most %lld.", shown,
                             (long long)INT64_MAX);
                Py_DECREF(shown);
            }
            return -1;
        }
    }
    PyErr_Format(m->data_error, "Invalid cost: %S, must be an integer greater than or equal to 0.", object);
    return -1;
}

int timeout_from_object(struct module_state *m, PyObject *object, double *seconds, int64_t *ns) {
    const PyNumberMethods *number = Py_TYPE(object)->tp_as_number;
    struct kept_error k = {0};
    if (!PyBool_Check(object) && number != NULL && (number->nb_float != NULL || number->nb_index != NULL)) {
        double value = PyFloat_AsDouble(object);
        if (value == -1.0 && PyErr_Occurred()) {
            if (!PyErr_ExceptionMatches(PyExc_OverflowError) && !PyErr_ExceptionMatches(PyExc_TypeError) &&
                !PyErr_ExceptionMatches(PyExc_ValueError)) {
                return -1;
            }
            error_keep(&k);
            value = -2;
        }
        if (value == -1.0) {
            *seconds = -1;
            *ns = -1;
            return 0;
        }
        if (value > 0) {
            *seconds = value;
            *ns = value >= 9.2e9 ? INT64_MAX : (int64_t)(value * 1e9);
            return 0;
        }
    }
    PyErr_Format(m->data_error, "Invalid timeout: %S, must be a positive float or -1(non-blocking).", object);
    error_chain(&k);
    return -1;
}

int instant_from_object(struct module_state *m, PyObject *object, const char *name, int64_t *ns) {
    int overflow = 0;
    long long value = 0;
    int found = integer_from_object(object, &value, &overflow);
    if (found < 0) {
        return -1;
    }
    if (found > 0 && overflow == 0 && value >= 0 && value < CLOCK_END) {
        *ns = value;
        return 0;
    }
    PyErr_Format(m->data_error, "Invalid %s: %R, must be an integer of nanoseconds from 0 to %lld.", name, object,
                 (long long)CLOCK_END - 1);
    return -1;
}

PyObject *seconds_object(int64_t ns) {
    return PyFloat_FromDouble(ns == WAIT_NEVER ? (double)INFINITY : (double)ns / 1e9);
}

/* ---- names ---- */

int algorithm_from_object(struct module_state *m, PyObject *object, enum algorithm_id *id) {
    if (object == Py_None) {
        *id = TOKEN_BUCKET;
        return 0;
    }
    PyObject *name = NULL;
    if (PyUnicode_Check(object)) {
        name = Py_NewRef(object);
    } else { /* a RateLimiterType */
        name = PyObject_GetAttr(object, m->str_value);
        if (name == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
                return -1;
            }
            PyErr_Clear();
        }
    }
    if (name != NULL && PyUnicode_Check(name)) {
        for (int i = 0; i < ALGORITHM_COUNT; i++) {
            if (PyUnicode_CompareWithASCIIString(name, algorithm_names[i]) == 0) {
                Py_DECREF(name);
                *id = (enum algorithm_id)i;
                return 0;
            }
        }
    }
    Py_XDECREF(name);
    PyErr_Format(m->setup_error,
                 "Invalid algorithm: %R not found, must be one of fixed_window, sliding_window, token_bucket, "
                 "leaking_bucket, gcra.",
                 object);
    return -1;
}

/* ---- quotas ---- */

static int append_quotas(struct module_state *m, PyObject *object, PyObject *list) {
    if (Py_IS_TYPE(object, m->quota)) {
        return PyList_Append(list, object);
    }
    if (!PyUnicode_Check(object)) {
        PyErr_Format(m->data_error,
                     "Invalid quota: %R, must be a Quota, a text such as '100/s burst 200', or a list of these.",
                     object);
        return -1;
    }
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(object, &length);
    PyObject *encoded = NULL;
    if (text == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeError)) {
            return -1;
        }
        PyErr_Clear();
        encoded = PyUnicode_AsEncodedString(object, "utf-8", "backslashreplace");
        if (encoded == NULL) {
            return -1;
        }
        text = PyBytes_AS_STRING(encoded);
        length = PyBytes_GET_SIZE(encoded);
    }
    struct quota rules[QUOTA_RULES_MAX];
    struct quota_error error;
    int count = quota_parse(text, (size_t)length, rules, &error);
    Py_XDECREF(encoded);
    if (count == 0) {
        PyObject *message = PyUnicode_DecodeUTF8(error.text, (Py_ssize_t)strlen(error.text), "replace");
        if (message != NULL) {
            PyErr_SetObject(m->data_error, message);
            Py_DECREF(message);
        }
        return -1;
    }
    for (int i = 0; i < count; i++) {
        PyObject *quota = quota_new(m, &rules[i]);
        if (quota == NULL || PyList_Append(list, quota) < 0) {
            Py_XDECREF(quota);
            return -1;
        }
        Py_DECREF(quota);
    }
    return 0;
}

PyObject *quotas_from_object(struct module_state *m, PyObject *object) {
    PyObject *quotas = NULL, *list = PyList_New(0);
    if (list == NULL) {
        return NULL;
    }
    if (PyList_Check(object) || PyTuple_Check(object)) {
        for (Py_ssize_t i = 0; i < PySequence_Size(object); i++) {
            PyObject *item = PySequence_GetItem(object, i);
            int failed = item == NULL || append_quotas(m, item, list) < 0;
            Py_XDECREF(item);
            if (failed) {
                goto done;
            }
        }
        if (PyList_GET_SIZE(list) == 0) {
            PyErr_SetString(m->data_error, "Invalid quota: an empty list, must hold at least one Quota or text.");
            goto done;
        }
        if (PyList_GET_SIZE(list) > QUOTA_RULES_MAX) {
            PyErr_Format(m->data_error, "Invalid quota: %zd rules, must be at most %d.", PyList_GET_SIZE(list),
                         QUOTA_RULES_MAX);
            goto done;
        }
    } else if (append_quotas(m, object, list) < 0) {
        goto done;
    }
    quotas = PyList_AsTuple(list);
done:
    Py_DECREF(list);
    return quotas;
}
