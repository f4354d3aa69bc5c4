/* parse_headers: from whatever a client library holds its headers in to an Observation.
 *
 * The parser keeps pointers into the strings until it is done, so nothing may run meanwhile that could let one go. A dict, and a
 * list or tuple of pairs, are read in place, without calling into Python (and locked, where there is no GIL). All else
 * is first copied into a list that nobody else knows. */
#include "headers.h"
#include "observation_type.h"

#define HEADERS_WANTED                                                                                                 \
    "a mapping of names to values, or an iterable of pairs of these; names and values of type str or bytes"

/* ---- bytes ---- */

/* The Latin-1 bytes of a text. 1; 0 for a str with other characters; -1 for other types. Raises nothing. */
static int bytes_of(PyObject *object, struct text *text) {
    if (PyUnicode_Check(object)) {
#if PY_VERSION_HEX < 0x030C0000
        if (PyUnicode_READY(object) < 0) {
            PyErr_Clear();
            return -1;
        }
#endif
        if (PyUnicode_KIND(object) != PyUnicode_1BYTE_KIND) {
            return 0;
        }
        *text = (struct text){PyUnicode_DATA(object), (size_t)PyUnicode_GET_LENGTH(object)};
        return 1;
    }
    if (PyBytes_Check(object)) {
        *text = (struct text){PyBytes_AS_STRING(object), (size_t)PyBytes_GET_SIZE(object)};
        return 1;
    }
    return -1;
}

/* 0; or -1 with the offending object in `*wrong`, a new reference. */
static int feed(struct headers *h, PyObject *name, PyObject *value, PyObject **wrong) {
    struct text n, v = {"\xFF", 1}; /* what no header's value may hold */
    int named = bytes_of(name, &n), valued = bytes_of(value, &v);
    if (named < 0 || valued < 0) {
        *wrong = Py_NewRef(named < 0 ? name : value);
        return -1;
    }
    if (named > 0) {
        headers_feed(h, n.at, n.length, v.at, v.length);
    }
    return 0;
}

static int feed_dict(struct headers *h, PyObject *dict, PyObject **wrong) {
    Py_ssize_t at = 0;
    PyObject *name, *value;
    while (PyDict_Next(dict, &at, &name, &value)) {
        if (feed(h, name, value, wrong) < 0) {
            return -1;
        }
    }
    return 0;
}

/* A list or a tuple. 1 when a member is no pair that could be read in place. */
static int feed_pairs(struct headers *h, PyObject *pairs, PyObject **wrong) {
    bool is_list = PyList_Check(pairs);
    Py_ssize_t count = is_list ? PyList_GET_SIZE(pairs) : PyTuple_GET_SIZE(pairs);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = is_list ? PyList_GET_ITEM(pairs, i) : PyTuple_GET_ITEM(pairs, i);
        if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2) {
            return 1;
        }
        if (feed(h, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1), wrong) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- the user's own names ---- */

/* What the map says, and what keeps its texts alive. */
struct own_names {
    struct headers_map map;
    PyObject *held[MAPPED_COUNT];
    int count;
};

static void release_names(struct own_names *names) {
    for (int i = 0; i < names->count; i++) {
        Py_DECREF(names->held[i]);
    }
}

static int take_name(struct module_state *m, struct own_names *names, PyObject *key, PyObject *value) {
    int which = 0;
    struct text text;
    while (which < MAPPED_COUNT &&
           !(PyUnicode_Check(key) && PyUnicode_CompareWithASCIIString(key, mapped_names[which]) == 0)) {
        which++;
    }
    if (which == MAPPED_COUNT) {
        PyErr_Format(m->data_error,
                     "Invalid headers_map: key %R, must be 'limit', 'remaining', 'reset', 'used', 'window', "
                     "'retry_after' or 'resource'.",
                     key);
        return -1;
    }
    if (bytes_of(value, &text) <= 0 || text.length == 0) {
        PyErr_Format(m->data_error, "Invalid headers_map: %R for %R, must be a header's name.", value, key);
        return -1;
    }
    if (names->count == MAPPED_COUNT) { /* keys that compare equal and are not one */
        PyErr_Format(m->data_error, "Invalid headers_map: key %R more than once.", key);
        return -1;
    }
    names->held[names->count++] = Py_NewRef(value);
    names->map.names[which] = text;
    return 0;
}

static int read_names(struct module_state *m, PyObject *object, struct own_names *names) {
    if (!PyDict_Check(object) && !PyMapping_Check(object)) {
        PyErr_Format(m->data_error,
                     "Invalid headers_map: %R, must be a mapping such as {'limit': 'X-My-Limit'}, or None.", object);
        return -1;
    }
    PyObject *items = PyMapping_Items(object); /* a list, of our own */
    if (items == NULL) {
        return -1;
    }
    int failed = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items) && failed == 0; i++) {
        PyObject *pair = PyList_GET_ITEM(items, i);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
            PyErr_Format(m->data_error, "Invalid headers_map: item %R, must be a pair.", pair);
            failed = -1;
        } else {
            failed = take_name(m, names, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1));
        }
    }
    Py_DECREF(items);
    return failed;
}

/* ---- the call ---- */

struct request {
    const struct headers_map *map;
    int status;
    int64_t received_ns;
    struct observation *out;
};

static PyObject *invalid_headers(struct module_state *m, PyObject *wrong) {
    PyErr_Format(m->data_error, "Invalid headers: %R, must be " HEADERS_WANTED ".", wrong);
    return NULL;
}

/* Reads in place. 0; 1 where that cannot be; -1 with `*wrong` or not. */
static int read_in_place(const struct request *q, PyObject *object, PyObject **wrong) {
    struct headers h;
    int found = 1;
    headers_begin(&h, q->map);
    if (PyDict_CheckExact(object)) {
        Py_BEGIN_CRITICAL_SECTION(object);
        found = feed_dict(&h, object, wrong);
        if (found == 0) {
            headers_finish(&h, q->status, q->received_ns, q->out);
        }
        Py_END_CRITICAL_SECTION();
    } else if (PyList_CheckExact(object) || PyTuple_CheckExact(object)) {
        Py_BEGIN_CRITICAL_SECTION(object);
        found = feed_pairs(&h, object, wrong);
        if (found == 0) {
            headers_finish(&h, q->status, q->received_ns, q->out);
        }
        Py_END_CRITICAL_SECTION();
    }
    return found;
}

/* A list of pairs with the same content that only we know; NULL with an exception. */
static PyObject *copy_pairs(struct module_state *m, PyObject *object) {
    PyObject *items = NULL, *list = NULL;
    if (PyUnicode_Check(object) || PyBytes_Check(object) || object == Py_None) {
        return invalid_headers(m, object);
    }
    PyObject *method = PyObject_GetAttrString(object, "items");
    if (method != NULL) {
        items = PyObject_CallNoArgs(method);
        Py_DECREF(method);
    } else if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        items = Py_NewRef(object);
    }
    if (items == NULL) {
        return NULL;
    }
    list = PySequence_List(items);
    Py_DECREF(items);
    if (list == NULL) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Clear();
            return invalid_headers(m, object);
        }
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        PyObject *item = PyList_GET_ITEM(list, i);
        if (PyTuple_CheckExact(item) && PyTuple_GET_SIZE(item) == 2) {
            continue;
        }
        bool is_text = PyUnicode_Check(item) || PyBytes_Check(item);
        PyObject *pair = is_text ? NULL : PySequence_Tuple(item);
        if (pair == NULL || PyTuple_GET_SIZE(pair) != 2) {
            Py_XDECREF(pair);
            if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_TypeError)) {
                Py_DECREF(list);
                return NULL;
            }
            PyErr_Clear();
            invalid_headers(m, item);
            Py_DECREF(list);
            return NULL;
        }
        PyList_SetItem(list, i, pair); /* takes the pair, cannot fail within the list's length */
    }
    return list;
}

static int read_headers(struct module_state *m, const struct request *q, PyObject *object) {
    PyObject *wrong = NULL;
    int found = read_in_place(q, object, &wrong);
    if (found == 1) {
        PyObject *list = copy_pairs(m, object);
        if (list == NULL) {
            return -1;
        }
        found = read_in_place(q, list, &wrong);
        Py_DECREF(list);
    }
    if (wrong != NULL) {
        invalid_headers(m, wrong);
        Py_DECREF(wrong);
    }
    return found == 0 ? 0 : -1;
}

static int status_from_object(struct module_state *m, PyObject *object, int *status) {
    int overflow = 0;
    long value = PyLong_Check(object) ? PyLong_AsLongAndOverflow(object, &overflow) : -1;
    if (overflow != 0 || value < 0 || value > 999) {
        PyErr_Clear();
        PyErr_Format(m->data_error, "Invalid status: %R, must be an integer from 0 (not known) to 999.", object);
        return -1;
    }
    *status = (int)value;
    return 0;
}

static int received_from_object(struct module_state *m, PyObject *object, int64_t *ns) {
    if (object == Py_None) {
        *ns = clock_now();
        return 0;
    }
    double seconds = PyFloat_Check(object) || PyLong_Check(object) ? PyFloat_AsDouble(object) : -1;
    if (!(seconds >= 0 && seconds < (double)CLOCK_END / 1e9)) {
        PyErr_Clear();
        PyErr_Format(m->data_error, "Invalid received: %R, must be seconds since the epoch, from 0 to 4.6e9, or None.",
                     object);
        return -1;
    }
    *ns = (int64_t)(seconds * 1e9);
    return 0;
}

int headers_from_object(struct module_state *m, PyObject *headers, PyObject *status, PyObject *map, int64_t received_ns,
                        struct observation *out) {
    struct own_names names;
    struct request q = {NULL, 0, received_ns, out};
    names.count = 0;
    if (status_from_object(m, status, &q.status) < 0) {
        return -1;
    }
    int failed = 0;
    if (map != Py_None) {
        memset(&names.map, 0, sizeof names.map);
        q.map = &names.map;
        failed = read_names(m, map, &names);
    }
    if (failed == 0) {
        failed = read_headers(m, &q, headers);
    }
    release_names(&names);
    return failed;
}

static PyObject *parse(struct module_state *m, PyObject *headers, PyObject *status, PyObject *received, PyObject *map) {
    int64_t received_ns;
    PyObject *self = NULL;
    if (received_from_object(m, received, &received_ns) < 0) {
        return NULL;
    }
    struct observation *out = observation_new(m, received_ns, &self);
    if (out != NULL && headers_from_object(m, headers, status, map, received_ns, out) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

/* Fast for positional arguments, which is how it is called for every response. */
static PyObject *parse_headers(PyObject *module, PyObject *const *args, Py_ssize_t count, PyObject *keywords) {
    static const char *const names[] = {"headers", "status", "received", "headers_map"};
    PyObject *values[4] = {NULL, NULL, Py_None, Py_None};
    if (count > 4) {
        return PyErr_Format(PyExc_TypeError, "parse_headers() takes at most 4 arguments (%zd given)", count);
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        values[i] = args[i];
    }
    for (Py_ssize_t k = 0; keywords != NULL && k < PyTuple_GET_SIZE(keywords); k++) {
        PyObject *keyword = PyTuple_GET_ITEM(keywords, k);
        int i = 0;
        while (i < 4 && PyUnicode_CompareWithASCIIString(keyword, names[i]) != 0) {
            i++;
        }
        if (i == 4 || i < count) {
            return PyErr_Format(PyExc_TypeError, "parse_headers() got an unexpected keyword argument %R", keyword);
        }
        values[i] = args[count + k];
    }
    if (values[0] == NULL || values[1] == NULL) {
        return PyErr_Format(PyExc_TypeError, "parse_headers() missing required argument: '%s'",
                            names[values[0] == NULL ? 0 : 1]);
    }
    return parse(PyModule_GetState(module), values[0], values[1], values[2], values[3]);
}

PyMethodDef observation_functions[] = {
    {"parse_headers", (PyCFunction)(void (*)(void))parse_headers, METH_FASTCALL | METH_KEYWORDS,
     "parse_headers(headers, status, received=None, headers_map=None)\n--\n\n"
     "What the headers of one response say of the server's limits: an Observation.\n\n"
     "`headers` is a mapping or an iterable of pairs, of str or bytes. `received` is when the response came, in seconds\n"
     "since the epoch (None: now). `headers_map` gives names of your own for limit, remaining, reset, used, window,\n"
     "retry_after and resource."},
    {NULL, NULL, 0, NULL},
};
