/* Link: the core's link to a Redis server, for Python. A call of `execute` is one command and one reply; threads that call at once
 * share the connection's writes. */
#include "link_type.h"

#include "loop_link.h"

#include "clock.h"
#include "fork.h"

#define TIMEOUT_MAX_S 1e9 /* 31 years: an instant plus as much fits into int64 nanoseconds until the year 2230 */
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

/* ---- calling ---- */

static LinkObject *link_copy(LinkObject *self);

struct python_caller {
    PyThreadState *thread;
    struct tls *tls;
    struct redis_request *(*undo)(void *context);
    void *context;
};

static void gil_drop(void *context) {
    ((struct python_caller *)context)->thread = PyEval_SaveThread();
}

static void gil_take(void *context) {
    PyEval_RestoreThread(((struct python_caller *)context)->thread);
}

/* Only the first thread runs signal handlers; the others need not take the GIL to look for them. */
static bool caller_may_look(void *context) {
    (void)context;
    return thread_is_first();
}

static bool caller_look(void *context) {
    (void)context;
    return PyErr_CheckSignals() < 0;
}

static bool caller_raised(void *context) {
    return tls_raise(((struct python_caller *)context)->tls);
}

static struct redis_request *caller_undo(void *context) {
    struct python_caller *me = context;
    return me->undo == NULL ? NULL : me->undo(me->context);
}

static struct link_caller link_caller_of(struct python_caller *me) {
    return (struct link_caller){.drop_gil = gil_drop,
                                .take_gil = gil_take,
                                .may_look = caller_may_look,
                                .look = caller_look,
                                .raised = caller_raised,
                                .undo = caller_undo,
                                .context = me};
}

/* For a call that TLS itself makes, by a signal handler or the collector: over a connection of its own. */
static struct redis_request *link_call_apart(LinkObject *self, struct redis_request *r,
                                             struct redis_request *(*undo)(void *context), void *context) {
    LinkObject *apart = link_copy(self);
    if (apart == NULL) {
        request_free(r);
        return NULL;
    }
    r->end = REQUEST_OPEN;
    r->fault = FAULT_NONE;
    r = link_object_call(apart, r, undo, context);
    Py_DECREF(apart);
    return r;
}

struct redis_request *link_object_call(LinkObject *self, struct redis_request *r,
                                       struct redis_request *(*undo)(void *context), void *context) {
    struct python_caller me = {.tls = &self->tls, .undo = undo, .context = context};
    struct link_caller caller = link_caller_of(&me);
    struct redis_request *over = link_call(&self->link, r, &caller);
    if (over != NULL && over->end == REQUEST_UNSENT && over->fault == FAULT_WITHIN) {
        return link_call_apart(self, over, undo, context);
    }
    link_log_refusal(&self->link);
    return over;
}

/* ---- closing ---- */

/* What is left to be said is said, for a tenth of a second at most. -1: an exception. */
static int link_settle_before_closing(LinkObject *self) {
    struct python_caller me = {.tls = &self->tls};
    struct link_caller caller = link_caller_of(&me);
    if (!link_owes(&self->link)) {
        return 0;
    }
    return link_settle(&self->link, clock_now() + SETTLE_NS, &caller) ? 0 : -1;
}

static void gil_keep(void *context) {
    (void)context;
}

/* The same where nothing may be waited for and the GIL must be kept: what can be said at once. An exception that is set stays. */
static void link_settle_at_once(LinkObject *self) {
    struct python_caller me = {.tls = &self->tls};
    struct link_caller caller = {.drop_gil = gil_keep, .take_gil = gil_keep, .raised = caller_raised, .context = &me};
    PyObject *type, *error, *traceback;
    if (!link_owes(&self->link)) {
        return;
    }
    PyErr_Fetch(&type, &error, &traceback);
    if (!link_settle(&self->link, clock_now(), &caller)) {
        PyErr_WriteUnraisable(NULL);
    }
    PyErr_Restore(type, error, traceback);
}

static const char *link_fault_name(enum connection_fault fault) {
    static const char *const names[] = {
        [FAULT_NONE] = "none",          [FAULT_ADDRESS] = "address", [FAULT_CONNECT] = "connect",
        [FAULT_TIMEOUT] = "timeout",    [FAULT_LOGIN] = "login",     [FAULT_DATABASE] = "database",
        [FAULT_PROTOCOL] = "protocol",  [FAULT_TLS] = "tls",         [FAULT_CLOSED] = "closed",
        [FAULT_MEMORY] = "memory",      [FAULT_FORKED] = "closed",   [FAULT_WITHIN] = "closed",
        [FAULT_INTERRUPTED] = "closed",
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
    struct module_state *m = module_of_type(Py_TYPE(object));
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
    r = link_object_call(self, r, NULL, NULL);
    if (r == NULL) {
        return NULL;
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
    if (r->fault == FAULT_MEMORY) { /* the server is not to blame: what on_error says is not for this */
        PyErr_NoMemory();
        return;
    }
    link_raise_fault(server, link_fault_name(r->fault), r->error, r->end == REQUEST_LOST);
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
    int settled = 0;
    if (self->ready) {
        settled = link_settle_before_closing(self);
        link_close(&self->link);
    }
    if (once_get(&self->loops) != NULL) {
        loop_links_close(once_get(&self->loops)); /* keeps an exception */
    }
    return settled < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- life ---- */

static void link_fork_take(struct fork_owner *o) {
    lock_acquire(&((LinkObject *)((char *)o - offsetof(LinkObject, fork)))->link.lock);
}
static void link_fork_give(struct fork_owner *o) {
    lock_release(&((LinkObject *)((char *)o - offsetof(LinkObject, fork)))->link.lock);
}
static void link_fork_child(struct fork_owner *o) {
    link_renew(&((LinkObject *)((char *)o - offsetof(LinkObject, fork)))->link);
}

static int link_copy_text(PyObject *text, char **copy) {
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

/* Its address and its TLS are there. */
static void link_begin(LinkObject *self, int64_t timeout_ns) {
    link_init(&self->link, &self->address, self->tls.context != NULL ? &self->tls.stream : NULL, timeout_ns);
    self->fork = (struct fork_owner){.take = link_fork_take, .give = link_fork_give, .child = link_fork_child};
    fork_register(&self->fork);
    self->module = module_of_type(Py_TYPE(self));
    self->ready = true;
}

/* Seconds to nanoseconds. What is longer than TIMEOUT_MAX_S is as long as that. -1: an exception. */
static int64_t link_timeout(PyTypeObject *type, const char *name, double seconds) {
    if (!(seconds > 0)) {
        PyObject *given = PyFloat_FromDouble(seconds);
        if (given != NULL) {
            PyErr_Format(module_of_type(type)->setup_error, "Invalid %s: %R, must be a number of seconds above 0.",
                         name, given);
            Py_DECREF(given);
        }
        return -1;
    }
    double ns = (seconds < TIMEOUT_MAX_S ? seconds : TIMEOUT_MAX_S) * 1e9;
    return ns < 1 ? 1 : (int64_t)ns;
}

static PyObject *link_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"host",     "port",     "unix_path",   "user",
                            "password", "database", "client_name", "connect_timeout",
                            "timeout",  "tls",      NULL};
    PyObject *host = Py_None, *unix_path = Py_None, *user = Py_None, *password = Py_None, *name = Py_None;
    int port = 6379, database = 0;
#ifdef HEADWAY_WITHOUT_REDIS
    PyErr_SetString(module_of_type(type)->setup_error,
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
    int64_t connect_timeout_ns = link_timeout(type, "connect_timeout", connect_timeout);
    int64_t timeout_ns = connect_timeout_ns < 0 ? -1 : link_timeout(type, "timeout", timeout);
    LinkObject *self = timeout_ns < 0 ? NULL : (LinkObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    if (link_copy_text(host, &self->texts[0]) < 0 || link_copy_text(unix_path, &self->texts[1]) < 0 ||
        link_copy_text(user, &self->texts[2]) < 0 || link_copy_text(password, &self->texts[3]) < 0 ||
        link_copy_text(name, &self->texts[4]) < 0) {
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
        .connect_timeout_ns = connect_timeout_ns,
    };
    if (tls != Py_None && tls_init(&self->tls, tls, host) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    link_begin(self, timeout_ns);
    return (PyObject *)self;
}

/* Another to the same server. NULL: an exception. */
static LinkObject *link_copy(LinkObject *self) {
    LinkObject *copy = (LinkObject *)Py_TYPE(self)->tp_alloc(Py_TYPE(self), 0);
    if (copy == NULL) {
        return NULL;
    }
    link_copy_address(&copy->address, copy->texts, &self->address);
    if (copy->address.host == NULL || (self->address.password != NULL && copy->address.password == NULL) ||
        (self->address.unix_path != NULL && copy->address.unix_path == NULL)) {
        PyErr_NoMemory();
        Py_CLEAR(copy);
    } else if (self->tls.context != NULL && tls_init(&copy->tls, self->tls.context, self->tls.host) < 0) {
        Py_CLEAR(copy);
    } else {
        link_begin(copy, self->link.timeout_ns);
    }
    return copy;
}

static void link_dealloc(PyObject *object) {
    LinkObject *self = (LinkObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->ready) {
        link_settle_at_once(self);
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
    return PyLong_FromLongLong(atomic_load(&self->link.opened));
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
