/* Link: the core's link to a Redis server, for Python. A call of `execute` is one command and one reply; threads that call at once
 * share the connection's writes. */
#include "link_type.h"

#include "loop_link.h"

#include "clock.h"
#include "fork.h"

#define SETTLE_NS (100 * NS_PER_MS) /* how long closing may take, where something is left to be given back */

/* ---- replies ---- */

PyObject *reply_to_object(struct module_state *m, const redisReply *r) {
    switch (r->type) {
    case REDIS_REPLY_INTEGER:
        return PyLong_FromLongLong(r->integer);
    case REDIS_REPLY_NIL:
        Py_RETURN_NONE;
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
        return PyBytes_FromStringAndSize(r->str, (Py_ssize_t)r->len);
    case REDIS_REPLY_ERROR:
        return PyObject_CallFunction(m->store_error, "N", PyUnicode_DecodeUTF8(r->str, (Py_ssize_t)r->len, "replace"));
#if HIREDIS_MAJOR >= 1
    case REDIS_REPLY_BOOL:
        return PyBool_FromLong((long)r->integer);
    case REDIS_REPLY_DOUBLE:
        return PyFloat_FromDouble(r->dval);
    case REDIS_REPLY_MAP: /* as a list of keys and values in turn, as RESP2 has it */
    case REDIS_REPLY_SET:
    case REDIS_REPLY_PUSH:
#endif
    case REDIS_REPLY_ARRAY: {
        PyObject *list = PyList_New((Py_ssize_t)r->elements);
        for (size_t i = 0; list != NULL && i < r->elements; i++) {
            PyObject *item = reply_to_object(m, r->element[i]);
            if (item == NULL) {
                Py_CLEAR(list);
            } else {
                PyList_SET_ITEM(list, (Py_ssize_t)i, item);
            }
        }
        return list;
    }
    default:
        return PyBytes_FromStringAndSize(r->str, (Py_ssize_t)r->len);
    }
}

/* ---- the GIL ---- */

struct python_caller {
    PyThreadState *thread;
    struct redis_request *(*undo)(void *context);
    void *context;
};

static void leave(void *context) {
    ((struct python_caller *)context)->thread = PyEval_SaveThread();
}

static bool enter(void *context, bool ask) {
    PyEval_RestoreThread(((struct python_caller *)context)->thread);
    return ask && PyErr_CheckSignals() < 0;
}

static struct redis_request *undo_of(void *context) {
    struct python_caller *me = context;
    return me->undo == NULL ? NULL : me->undo(me->context);
}

int link_object_call(LinkObject *self, struct redis_request *r, struct redis_request *(*undo)(void *context),
                     void *context) {
    struct python_caller me = {.undo = undo, .context = context};
    struct link_caller caller = {.leave = leave, .enter = enter, .undo = undo_of, .context = &me};
    bool over = link_call(&self->link, r, &caller);
    link_log_refusal(&self->link);
    return over ? 0 : -1;
}

void link_object_settle(LinkObject *self) {
    struct python_caller me = {0};
    struct link_caller caller = {.leave = leave, .enter = enter, .context = &me};
    if (link_owes(&self->link)) {
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        link_settle(&self->link, clock_now() + SETTLE_NS, &caller);
        PyErr_Restore(type, error, traceback);
    }
}

static const char *fault_name(enum connection_fault fault) {
    static const char *const names[] = {
        [FAULT_NONE] = "none",         [FAULT_ADDRESS] = "address", [FAULT_CONNECT] = "connect",
        [FAULT_TIMEOUT] = "timeout",   [FAULT_LOGIN] = "login",     [FAULT_DATABASE] = "database",
        [FAULT_PROTOCOL] = "protocol", [FAULT_TLS] = "tls",         [FAULT_CLOSED] = "closed",
        [FAULT_MEMORY] = "memory",
    };
    return names[fault];
}

/* ---- methods ---- */

int link_append_word(struct redis_buffer *b, PyObject *word) {
    const char *bytes;
    Py_ssize_t length;
    if (PyUnicode_Check(word)) {
        bytes = PyUnicode_AsUTF8AndSize(word, &length);
        if (bytes == NULL) {
            return -1;
        }
    } else if (PyBytes_Check(word)) {
        bytes = PyBytes_AS_STRING(word);
        length = PyBytes_GET_SIZE(word);
    } else if (PyLong_Check(word)) {
        long long number = PyLong_AsLongLong(word);
        if (number == -1 && PyErr_Occurred()) {
            return -1;
        }
        if (!redis_append_number(b, number)) {
            PyErr_NoMemory();
            return -1;
        }
        return 0;
    } else {
        PyErr_Format(PyExc_TypeError, "a command is made of str, bytes and int, not %s", Py_TYPE(word)->tp_name);
        return -1;
    }
    if (!redis_append_text(b, bytes, (size_t)length)) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static PyObject *link_execute(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    LinkObject *self = (LinkObject *)object;
    struct module_state *m = state_of_type(Py_TYPE(object));
    struct redis_buffer b = {0};
    PyObject *answer = NULL;
    if (!self->ready || nargs == 0) {
        PyErr_SetString(PyExc_TypeError, "execute() needs a command");
        return NULL;
    }
    bool built = redis_append_array(&b, (int)nargs);
    for (Py_ssize_t i = 0; built && i < nargs; i++) {
        if (link_append_word(&b, args[i]) < 0) {
            free(b.bytes);
            return NULL;
        }
    }
    struct redis_request *r = built ? request_new(b.end) : NULL;
    if (r == NULL) {
        free(b.bytes);
        return PyErr_NoMemory();
    }
    memcpy(r->bytes, b.bytes, b.end);
    free(b.bytes);
    if (link_object_call(self, r, NULL, NULL) < 0) {
        return NULL; /* the link frees the request */
    }
    if (r->end == REQUEST_DONE) {
        answer = reply_to_object(m, r->reply);
    } else {
        PyObject *server = PyUnicode_FromFormat("redis://%s:%d", self->address.host, self->address.port);
        if (server != NULL) {
            link_raise(server, r);
            Py_DECREF(server);
        }
    }
    request_free(r);
    return answer;
}

void link_raise_fault(PyObject *server, const char *fault, const char *text, bool lost) {
    PyObject *make = NULL;
    if (import_once(&make, "headway._redis_errors", "unavailable") < 0) {
        return;
    }
    PyObject *words = PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
    PyObject *error =
        words == NULL ? NULL : PyObject_CallFunction(make, "OsNO", server, fault, words, lost ? Py_True : Py_False);
    Py_DECREF(make);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
}

void link_raise(PyObject *server, const struct redis_request *r) {
    link_raise_fault(server, fault_name(r->fault), r->error, r->end == REQUEST_LOST);
}

void link_log_refusal(struct link *l) {
    int refusal = atomic_load(&l->connection.refusal);
    if ((refusal != 1 && refusal != 2) || !atomic_compare_exchange_strong(&l->connection.refusal, &refusal, 3)) {
        return;
    }
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyObject *words = PyUnicode_DecodeUTF8(l->connection.refused, (Py_ssize_t)strlen(l->connection.refused), "replace");
    log_message("headway.store.greeting", refusal == 1 ? "debug" : "warning",
                words == NULL ? NULL : Py_BuildValue("(sN)", "The server serves without what it refused: %s", words));
    PyErr_Restore(type, error, traceback);
}

static PyObject *link_close_method(PyObject *object, PyObject *unused) {
    (void)unused;
    LinkObject *self = (LinkObject *)object;
    if (self->ready) {
        link_object_settle(self);
        link_close(&self->link);
    }
    if (self->loops != NULL) {
        loop_links_close(self->loops);
    }
    Py_RETURN_NONE;
}

/* ---- life ---- */

static void fork_take(struct fork_owner *o) {
    lock_acquire(&((LinkObject *)((char *)o - offsetof(LinkObject, fork)))->link.lock);
}
static void fork_give(struct fork_owner *o) {
    lock_release(&((LinkObject *)((char *)o - offsetof(LinkObject, fork)))->link.lock);
}
static void fork_child(struct fork_owner *o) {
    link_renew(&((LinkObject *)((char *)o - offsetof(LinkObject, fork)))->link);
}

static int copy_text(PyObject *text, char **copy) {
    if (text == Py_None) {
        return 0;
    }
    const char *bytes = PyUnicode_Check(text) ? PyUnicode_AsUTF8(text) : NULL;
    if (bytes == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_TypeError, "must be str or None, not %s", Py_TYPE(text)->tp_name);
        }
        return -1;
    }
    *copy = strdup(bytes);
    if (*copy == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

void link_free_texts(char *texts[5]) {
    for (int i = 0; i < 5; i++) {
        free(texts[i]);
        texts[i] = NULL;
    }
}

void link_copy_address(struct redis_address *to, char *texts[5], const struct redis_address *from) {
    const char *const originals[5] = {from->host, from->unix_path, from->user, from->password, from->client_name};
    for (int i = 0; i < 5; i++) {
        texts[i] = originals[i] == NULL ? NULL : strdup(originals[i]);
    }
    *to = *from;
    to->host = texts[0];
    to->unix_path = texts[1];
    to->user = texts[2];
    to->password = texts[3];
    to->client_name = texts[4];
}

static PyObject *link_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"host",     "port",     "unix_path",   "user",
                            "password", "database", "client_name", "connect_timeout",
                            "timeout",  "tls",      NULL};
    PyObject *host = Py_None, *unix_path = Py_None, *user = Py_None, *password = Py_None, *name = Py_None;
    int port = 6379, database = 0;
#ifdef HEADWAY_WITHOUT_REDIS
    PyErr_SetString(state_of_type(type)->setup_error,
                    "This headway was built without Redis (HEADWAY_WITHOUT_REDIS=1): build it with hiredis, or use "
                    "MemoryStore().");
    return NULL;
#endif
    PyObject *tls = Py_None;
    double connect_timeout = 5, timeout = 5;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OiOOOiOddO:Link", names, &host, &port, &unix_path, &user,
                                     &password, &database, &name, &connect_timeout, &timeout, &tls)) {
        return NULL;
    }
    LinkObject *self = (LinkObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    if (copy_text(host, &self->texts[0]) < 0 || copy_text(unix_path, &self->texts[1]) < 0 ||
        copy_text(user, &self->texts[2]) < 0 || copy_text(password, &self->texts[3]) < 0 ||
        copy_text(name, &self->texts[4]) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->address = (struct redis_address){
        .host = self->texts[0] != NULL ? self->texts[0] : "localhost",
        .unix_path = self->texts[1],
        .port = port,
        .user = self->texts[2],
        .password = self->texts[3],
        .client_name = self->texts[4],
        .database = database,
        .resp3 = true,
        .connect_timeout_ns = (int64_t)(connect_timeout * 1e9),
    };
    if (tls != Py_None) {
        tls_init(&self->tls, tls, host);
    }
    link_init(&self->link, &self->address, self->tls.context != NULL ? &self->tls.stream : NULL,
              (int64_t)(timeout * 1e9));
    self->fork = (struct fork_owner){.take = fork_take, .give = fork_give, .child = fork_child};
    fork_register(&self->fork);
    self->module = state_of_type(type);
    self->ready = true;
    return (PyObject *)self;
}

static void link_dealloc(PyObject *object) {
    LinkObject *self = (LinkObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->ready) {
        link_object_settle(self);
        fork_forget(&self->fork);
        link_destroy(&self->link);
    }
    if (self->loops != NULL) {
        loop_links_close(self->loops);
    }
    Py_XDECREF(self->loops);
    tls_clear(&self->tls);
    link_free_texts(self->texts);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *link_opened(LinkObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(self->link.opened);
}

static PyObject *link_host(LinkObject *self, void *unused) {
    (void)unused;
    return PyUnicode_FromString(self->address.host);
}

static PyObject *link_port(LinkObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLong(self->address.port);
}

static PyGetSetDef link_attributes[] = {
    {"opened", (getter)link_opened, NULL, "How many connections were made.", NULL},
    {"host", (getter)link_host, NULL, "Whom it connects to.", NULL},
    {"port", (getter)link_port, NULL, "By which port.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef link_methods[] = {
    {"execute", (PyCFunction)(void (*)(void))link_execute, METH_FASTCALL,
     "execute($self, /, *words)\n--\n\nSends a command and waits for its reply; an error of the server is returned."},
    {"close", link_close_method, METH_NOARGS, "close($self, /)\n--\n\nHangs up; the next command connects again."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot link_slots[] = {
    {Py_tp_doc, "A connection to a Redis server that threads share. Internal."},
    {Py_tp_new, link_new},
    {Py_tp_dealloc, link_dealloc},
    {Py_tp_getset, link_attributes},
    {Py_tp_methods, link_methods},
    {0, NULL},
};
static PyType_Spec link_spec = {"headway._core.Link", sizeof(LinkObject), 0, Py_TPFLAGS_DEFAULT, link_slots};

PyTypeObject *link_type_make(PyObject *module) {
    return type_make(module, &link_spec, NULL, NULL);
}
