/* Ledger: see ledger.h. In memory it is changed in place; a store of bytes makes one of the old state, and takes `state()` of it.
 *
 * A ticket is bytes, for the process that reserved and no other. No Python runs between reading the arguments and the answer, so that the
 * GIL makes each call one step; where there is none, a lock does. */
#include "ledger_type.h"

#include "clock.h"
#include "lock.h"
#include "observation_type.h"

#define COSTS_MAX 16
#define TICKET_HEAD ((Py_ssize_t)offsetof(struct ledger_ticket, taken))
#define TICKET_ITEM ((Py_ssize_t)sizeof(((struct ledger_ticket *)NULL)->taken[0]))

typedef struct {
    PyObject_HEAD
#ifdef Py_GIL_DISABLED
    struct lock lock;
#endif
    struct ledger ledger;
} LedgerObject;

static struct ledger *ledger_enter(LedgerObject *self) {
#ifdef Py_GIL_DISABLED
    lock_acquire(&self->lock);
#endif
    return &self->ledger;
}

static void ledger_leave(LedgerObject *self) {
#ifdef Py_GIL_DISABLED
    lock_release(&self->lock);
#else
    (void)self;
#endif
}

/* ---- arguments ---- */

static int text_argument(PyObject *object, const char *name, const char **text) {
    *text = PyUnicode_Check(object) ? PyUnicode_AsUTF8(object) : NULL;
    if (*text == NULL && !PyErr_Occurred()) {
        PyErr_Format(PyExc_TypeError, "%s must be a str, got %R", name, object);
    }
    return *text == NULL ? -1 : 0;
}

static int ns_argument(PyObject *object, const char *name, int64_t *ns) {
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (value == -1 && PyErr_Occurred()) {
        PyErr_Format(PyExc_TypeError, "%s must be an int of nanoseconds, got %R", name, object);
        return -1;
    }
    *ns = overflow > 0 ? INT64_MAX : overflow < 0 ? 0 : value;
    return 0;
}

static int arguments_are(Py_ssize_t nargs, Py_ssize_t least, Py_ssize_t most, const char *signature) {
    if (nargs < least || nargs > most) {
        PyErr_Format(PyExc_TypeError, "%s takes %zd to %zd arguments, got %zd", signature, least, most, nargs);
        return -1;
    }
    return 0;
}

static bool all_are_ints(PyObject *dict) {
#ifdef Py_GIL_DISABLED
    (void)dict;
    return false; /* another thread may change it meanwhile */
#else
    PyObject *name, *amount;
    Py_ssize_t at = 0;
    while (PyDict_Next(dict, &at, &name, &amount)) {
        if (!PyLong_Check(amount)) {
            return false;
        }
    }
    return true;
#endif
}

/* None: one request. Else a dict of what is spent. The names belong to `*kept` (NULL, or a new reference), or to the argument. */
static int costs_argument(PyObject *object, const char *resource, struct ledger_cost *costs, int *count,
                          PyObject **kept) {
    *count = 0;
    *kept = NULL;
    if (object == Py_None) {
        costs[(*count)++] = (struct ledger_cost){"requests", resource, 1};
        return 0;
    }
    if (!PyDict_Check(object) || PyDict_GET_SIZE(object) > COSTS_MAX) {
        PyErr_Format(PyExc_TypeError, "costs must be None or a dict of at most %d amounts, got %R", COSTS_MAX, object);
        return -1;
    }
    PyObject *name, *amount;
    Py_ssize_t at = 0;
    if (!all_are_ints(object)) { /* __index__ of an amount is Python code, which may change the dict */
        object = *kept = PyDict_Copy(object);
        if (object == NULL) {
            return -1;
        }
    }
    while (PyDict_Next(object, &at, &name, &amount)) {
        if (*count == COSTS_MAX) { /* grown before it was copied */
            PyErr_Format(PyExc_TypeError, "costs must be a dict of at most %d amounts", COSTS_MAX);
            return -1;
        }
        struct ledger_cost *c = &costs[*count];
        int overflow = 0;
        long long value = -1;
        if (text_argument(name, "the name of a cost", &c->name) < 0 ||
            integer_from_object(amount, &value, &overflow) < 0) {
            return -1;
        }
        if (overflow < 0 || (overflow == 0 && value < 0)) { /* or no integer at all */
            PyErr_Format(PyExc_ValueError, "Invalid cost of %R: %R, must be an integer of 0 or more.", name, amount);
            return -1;
        }
        c->resource = resource;
        c->amount = overflow > 0 ? INT64_MAX : value;
        (*count)++;
    }
    return 0;
}

static int ticket_argument(PyObject *object, struct ledger_ticket *t) {
    if (PyBytes_Check(object) && PyBytes_GET_SIZE(object) >= TICKET_HEAD &&
        PyBytes_GET_SIZE(object) <= (Py_ssize_t)sizeof *t) {
        memcpy(t, PyBytes_AS_STRING(object), (size_t)PyBytes_GET_SIZE(object));
        bool fits = t->count >= 0 && PyBytes_GET_SIZE(object) == TICKET_HEAD + t->count * TICKET_ITEM;
        for (int i = 0; fits && i < t->count; i++) {
            fits = t->taken[i].amount >= 0 && t->taken[i].amount <= LEDGER_AMOUNT_MAX;
        }
        if (fits) {
            t->resource[LEDGER_NAME_MAX - 1] = 0;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "a ticket must be what reserve() returned, got %R", object);
    return -1;
}

/* ---- methods ---- */

/* A name, whatever bytes a ledger of another process has given it. */
static PyObject *name_object(const char *name) {
    return PyUnicode_DecodeUTF8(name, (Py_ssize_t)strlen(name), "replace");
}

static PyObject *refusal(const struct ledger_answer *a, const char *name) {
    static const char *const kinds[] = {NULL, "wait", "too_long", "never"};
    PyObject *shown = name == NULL ? Py_NewRef(Py_None) : name_object(name);
    return shown == NULL
               ? NULL
               : Py_BuildValue("(sLON)", kinds[a->kind], (long long)a->wait_ns, a->sooner ? Py_True : Py_False, shown);
}

static PyObject *ledger_reserve_method(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    LedgerObject *self = (LedgerObject *)object;
    struct ledger_cost costs[COSTS_MAX];
    struct ledger_answer answer;
    const char *resource = "";
    int64_t now, max_wait;
    int count;
    PyObject *kept = NULL;
    if (arguments_are(nargs, 3, 4, "reserve(costs, now_ns, max_wait_ns, resource='')") < 0 ||
        (nargs == 4 && text_argument(args[3], "resource", &resource) < 0) || ns_argument(args[1], "now_ns", &now) < 0 ||
        ns_argument(args[2], "max_wait_ns", &max_wait) < 0 ||
        costs_argument(args[0], resource, costs, &count, &kept) < 0) {
        Py_XDECREF(kept);
        return NULL;
    }
    char name[LEDGER_NAME_MAX] = "";
    struct ledger *l = ledger_enter(self);
    ledger_reserve(l, costs, count, now, max_wait, &answer);
    if (answer.dimension >= 0) {
        memcpy(name, l->dimensions[answer.dimension].name, sizeof name);
    }
    ledger_leave(self);
    Py_XDECREF(kept);
    if (answer.kind != LEDGER_GRANTED) {
        return refusal(&answer, answer.dimension >= 0 ? name : NULL);
    }
    return PyBytes_FromStringAndSize((const char *)&answer.ticket, TICKET_HEAD + answer.ticket.count * TICKET_ITEM);
}

static PyObject *ledger_observe_method(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    LedgerObject *self = (LedgerObject *)object;
    const struct module_state *m = module_of_type(Py_TYPE(object));
    struct ledger_ticket ticket;
    struct observation scratch;
    const struct observation *observation;
    int64_t sent, received;
    if (arguments_are(nargs, 4, 4, "observe(ticket, observation, sent_ns, received_ns)") < 0 ||
        ticket_argument(args[0], &ticket) < 0 || observation_from_object(m, args[1], &scratch, &observation) < 0 ||
        ns_argument(args[2], "sent_ns", &sent) < 0 || ns_argument(args[3], "received_ns", &received) < 0) {
        return NULL;
    }
    ledger_observe(ledger_enter(self), &ticket, observation, sent, received);
    ledger_leave(self);
    Py_RETURN_NONE;
}

/* Does the response say something that its caller should know of: what made no sense, or another resource than was expected? */
static bool is_unusual(const struct observation *o, const char *resource) {
    bool unusual = o->ignored > 0;
    for (int i = 0; i < o->count && !unusual; i++) {
        unusual = strcmp(o->dimensions[i].resource, resource) != 0;
    }
    return unusual;
}

/* parse_headers and observe in one: no object is made of what is said, as a rule. */
static PyObject *ledger_learn_method(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    LedgerObject *self = (LedgerObject *)object;
    struct module_state *m = module_of_type(Py_TYPE(object));
    struct ledger_ticket ticket;
    struct observation told, *kept;
    int64_t sent, received;
    const char *resource;
    PyObject *made = NULL;
    if (arguments_are(nargs, 6, 6, "learn(ticket, headers, status, headers_map, sent_ns, resource)") < 0 ||
        ticket_argument(args[0], &ticket) < 0 || ns_argument(args[4], "sent_ns", &sent) < 0 ||
        text_argument(args[5], "resource", &resource) < 0) {
        return NULL;
    }
    received = clock_now();
    if (headers_from_object(m, args[1], args[2], args[3], received, &told) < 0) {
        return NULL;
    }
    if (is_unusual(&told, resource)) { /* nothing fails after the ledger was changed */
        kept = observation_new(m, received, &made);
        if (kept == NULL) {
            return NULL;
        }
        *kept = told;
    }
    ledger_observe(ledger_enter(self), &ticket, &told, sent, received);
    ledger_leave(self);
    return made == NULL ? Py_NewRef(Py_None) : made;
}

static PyObject *ledger_is_settled_method(PyObject *unused, PyObject *object) {
    struct ledger_ticket ticket;
    (void)unused;
    return ticket_argument(object, &ticket) < 0 ? NULL : PyBool_FromLong(ticket.settled);
}

static PyObject *ledger_use_method(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    LedgerObject *self = (LedgerObject *)object;
    struct ledger_use use;
    int64_t now;
    if (arguments_are(nargs, 1, 1, "use(now_ns)") < 0 || ns_argument(args[0], "now_ns", &now) < 0) {
        return NULL;
    }
    ledger_use_of(ledger_enter(self), now, &use);
    ledger_leave(self);
    return Py_BuildValue("(OOL)", use.is_set ? Py_True : Py_False, use.is_busy ? Py_True : Py_False,
                         (long long)use.used_ns);
}

static PyObject *ledger_fail_method(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    LedgerObject *self = (LedgerObject *)object;
    struct ledger_ticket ticket;
    int64_t now;
    int was_sent;
    if (arguments_are(nargs, 3, 3, "fail(ticket, was_sent, now_ns)") < 0 || ticket_argument(args[0], &ticket) < 0 ||
        (was_sent = PyObject_IsTrue(args[1])) < 0 || ns_argument(args[2], "now_ns", &now) < 0) {
        return NULL;
    }
    ledger_fail(ledger_enter(self), &ticket, was_sent, now);
    ledger_leave(self);
    Py_RETURN_NONE;
}

static PyObject *ledger_configure_method(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"name", "limit", "window_ns", "source", "resource", NULL};
    LedgerObject *self = (LedgerObject *)object;
    const char *name, *source = "configured", *resource = "";
    long long limit, window_ns;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sLL|ss:configure", names, &name, &limit, &window_ns, &source,
                                     &resource)) {
        return NULL;
    }
    int rank = -1;
    for (int i = 0; i < LEDGER_SOURCES; i++) {
        if (i != LEDGER_ESTIMATED && i != LEDGER_CONFIRMED && strcmp(ledger_source_names[i], source) == 0) {
            rank = i;
        }
    }
    if (rank < 0) {
        PyErr_Format(PyExc_ValueError, "Invalid source: '%s', must be 'configured', 'default' or 'registry'.", source);
        return NULL;
    }
    struct quota_error error = {.text = ""};
    bool done =
        ledger_configure(ledger_enter(self), name, resource, limit, window_ns, (enum ledger_source)rank, &error);
    ledger_leave(self);
    if (!done) {
        PyErr_Format(PyExc_ValueError, "%s",
                     error.text[0] != 0 ? error.text : "Too many limits: a scope has room for 16 dimensions.");
        return NULL;
    }
    Py_RETURN_NONE;
}

/* None for what is not known. A new reference. */
static PyObject *known(int64_t value, int64_t unknown) {
    return value == unknown ? Py_NewRef(Py_None) : PyLong_FromLongLong(value);
}

static PyObject *ledger_status_method(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    LedgerObject *self = (LedgerObject *)object;
    struct {
        struct ledger_status told;
        char name[LEDGER_NAME_MAX], resource[LEDGER_NAME_MAX];
    } found[LEDGER_DIMENSIONS_MAX];
    int64_t now;
    int count = 0;
    if (arguments_are(nargs, 1, 1, "status(now_ns)") < 0 || ns_argument(args[0], "now_ns", &now) < 0) {
        return NULL;
    }
    struct ledger *l = ledger_enter(self);
    int64_t blocked = l->blocked_ns;
    for (int i = 0; i < l->count; i++) {
        if (ledger_status(l, i, now, &found[count].told)) {
            memcpy(found[count].name, l->dimensions[i].name, LEDGER_NAME_MAX);
            memcpy(found[count].resource, l->dimensions[i].resource, LEDGER_NAME_MAX);
            count++;
        }
    }
    ledger_leave(self);
    PyObject *dimensions = PyTuple_New(count);
    for (int i = 0; dimensions != NULL && i < count; i++) {
        const struct ledger_status *s = &found[i].told;
        PyObject *item = Py_BuildValue("(NNNNNNs)", name_object(found[i].name), name_object(found[i].resource),
                                       known(s->limit, UNSAID), known(s->remaining, UNSAID), known(s->reset_ns, 0),
                                       known(s->window_ns, UNSAID), ledger_source_names[s->source]);
        if (item == NULL) {
            Py_CLEAR(dimensions);
            break;
        }
        PyTuple_SET_ITEM(dimensions, i, item);
    }
    return dimensions == NULL ? NULL : Py_BuildValue("(NN)", dimensions, known(blocked > now ? blocked : 0, 0));
}

static PyObject *ledger_state_method(PyObject *object, PyObject *unused) {
    LedgerObject *self = (LedgerObject *)object;
    unsigned char bytes[LEDGER_BYTES_MAX];
    (void)unused;
    size_t length = ledger_pack(ledger_enter(self), bytes);
    ledger_leave(self);
    return PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)length);
}

/* ---- life ---- */

static PyObject *ledger_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"state", NULL};
    struct module_state *m = module_of_type(type);
    PyObject *state = Py_None;
    if (m == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "|O:Ledger", names, &state)) {
        return NULL;
    }
    LedgerObject *self = (LedgerObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
#ifdef Py_GIL_DISABLED
    lock_init(&self->lock);
#endif
    ledger_init(&self->ledger);
    if (state == Py_None) {
        return (PyObject *)self;
    }
    if (!PyBytes_Check(state) || !ledger_unpack(&self->ledger, (const unsigned char *)PyBytes_AS_STRING(state),
                                                (size_t)PyBytes_GET_SIZE(state))) {
        Py_DECREF(self);
        PyErr_Format(m->data_error, "Invalid state: %R, must be bytes that Ledger.state() returned, or None.", state);
        return NULL;
    }
    return (PyObject *)self;
}

static void ledger_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef ledger_methods[] = {
    {"reserve", (PyCFunction)(void (*)(void))ledger_reserve_method, METH_FASTCALL,
     "reserve($self, costs, now_ns, max_wait_ns, resource='', /)\n--\n\n"
     "A ticket (bytes); or (kind, wait_ns, sooner, dimension) where kind is 'wait', 'too_long' or 'never'.\n\n"
     "costs: None for one request, or a dict such as {'requests': 1, 'tokens': 900}. sooner: ask again after each "
     "response, too."},
    {"observe", (PyCFunction)(void (*)(void))ledger_observe_method, METH_FASTCALL,
     "observe($self, ticket, observation, sent_ns, received_ns, /)\n--\n\nThe response has come, and said this."},
    {"learn", (PyCFunction)(void (*)(void))ledger_learn_method, METH_FASTCALL,
     "learn($self, ticket, headers, status, headers_map, sent_ns, resource, /)\n--\n\n"
     "parse_headers and observe in one, for a response that has come now. What it said, where there is something unusual "
     "in it: values that make no sense, or a resource that is not `resource`. Else None."},
    {"is_settled", ledger_is_settled_method, METH_O | METH_STATIC,
     "is_settled(ticket, /)\n--\n\n"
     "Whether observing a response that says nothing of limits would change nothing: so it may be left out."},
    {"use", (PyCFunction)(void (*)(void))ledger_use_method, METH_FASTCALL,
     "use($self, now_ns, /)\n--\n\n(is_set, is_busy, used_ns): whether a limit was set by hand, whether somebody is "
     "under way or would have to wait, and when it was last used."},
    {"fail", (PyCFunction)(void (*)(void))ledger_fail_method, METH_FASTCALL,
     "fail($self, ticket, was_sent, now_ns, /)\n--\n\nNo response came."},
    {"configure", (PyCFunction)(void (*)(void))ledger_configure_method, METH_VARARGS | METH_KEYWORDS,
     "configure($self, /, name, limit, window_ns, source='configured', resource='')\n--\n\nSets a limit."},
    {"status", (PyCFunction)(void (*)(void))ledger_status_method, METH_FASTCALL,
     "status($self, now_ns, /)\n--\n\n(dimensions, blocked_until_ns or None); a dimension is (name, resource, limit, "
     "remaining, reset_ns, window_ns, source), None for what is not known."},
    {"state", ledger_state_method, METH_NOARGS, "state($self, /)\n--\n\nAll of it as bytes, for Ledger(state)."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot ledger_slots[] = {
    {Py_tp_doc,
     "Ledger(state=None)\n--\n\nWhat is known of the limits of one scope. Internal to headway.smartratelimit."},
    {Py_tp_new, ledger_new},
    {Py_tp_dealloc, ledger_dealloc},
    {Py_tp_methods, ledger_methods},
    {0, NULL},
};
static PyType_Spec ledger_spec = {"headway._core.Ledger", sizeof(LedgerObject), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, ledger_slots};

PyTypeObject *ledger_type_make(PyObject *module) {
    return type_make(module, &ledger_spec, NULL, NULL);
}
