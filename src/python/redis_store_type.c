/* RedisStore: decisions on a server. One round trip each; a wait is a reservation, so it is one round trip too.
 *
 * What cannot be answered follows `on_error`. The first failure and the recovery are logged, and every decision that was not the
 * server's is counted. */
#include "redis_store_type.h"

#include "call_type.h"
#include "kept_error.h"
#include "leased.h"
#include "loop_link.h"
#include "remote.h"

#include "clock.h"

/* ---- failing and recovering ---- */

/* A warning, but where on_error raises: there the exception warns, and Python would print both. */
static void redis_store_log_switch(RedisStoreObject *s, PyObject *arguments) {
    log_message("headway.store", s->on_error == ON_ERROR_RAISE ? "info" : "warning", arguments);
}

/* The same rules, and what they take of a call, in the store that decides meanwhile. */
static PlanObject *redis_store_fallback_plan(RedisStoreObject *s, PlanObject *plan) {
    PyObject **slot = (PyObject **)&plan->fallback;
    if (once_get(slot) != NULL) {
        return (PlanObject *)once_get(slot);
    }
    PlanObject *made = plan_new(s->module, s->fallback, plan->prefix, plan->plan->algorithm, plan->quotas);
    for (int i = 0; made != NULL && i < plan->plan->count; i++) {
        made->plan->rules[i].fixed_cost = plan->plan->rules[i].fixed_cost;
    }
    return (PlanObject *)once_set(slot, (PyObject *)made);
}

/* With an exception set: 0 and none, where the policy has an answer instead of it; or -1. */
static int redis_store_take_over(RedisStoreObject *s) {
    static const char *const said[] = {
        [ON_ERROR_RAISE] = "Every request raises StoreUnavailableError until the server answers again. %s",
        [ON_ERROR_ALLOW] = "Every request is allowed until the server answers again. %s",
        [ON_ERROR_DENY] = "Every request is denied until the server answers again. %s",
        [ON_ERROR_FALLBACK] = "The fallback store decides until the server answers again. %s",
    };
    struct module_state *m = s->module;
    if (!PyErr_ExceptionMatches(m->store_error)) {
        return -1;
    }
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    atomic_fetch_add(&s->failures, 1);
    if (!atomic_exchange(&s->failing, true)) {
        /* as text: a record that is kept keeps no traceback */
        redis_store_log_switch(s,
                               Py_BuildValue("(sN)", said[s->on_error], PyObject_Str(error != NULL ? error : Py_None)));
    }
    if (s->on_error == ON_ERROR_RAISE) {
        PyErr_Restore(type, error, traceback);
        return -1;
    }
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return 0;
}

int redis_store_follow_policy(RedisStoreObject *s, PlanObject *plan, const struct table_key *key, int64_t cost,
                              struct outcome *out) {
    struct module_state *m = s->module;
    if (redis_store_take_over(s) < 0) {
        return -1;
    }
    if (s->on_error == ON_ERROR_FALLBACK) {
        PlanObject *other = redis_store_fallback_plan(s, plan);
        if (other == NULL) {
            return -1;
        }
        store_limit(&s->fallback->store, other->plan, key, cost, out);
        wait_flush(m);
        return 0;
    }
    bool allow = s->on_error == ON_ERROR_ALLOW;
    *out = (struct outcome){
        .kind = allow ? OUTCOME_ADMITTED : OUTCOME_DENIED,
        .now = clock_now(),
        .denied_cost = allow ? 0 : cost,
        .wait_ns = allow ? -1 : NS_PER_S,
    };
    if (!allow) { /* nothing remains where all is denied, and a peek says so too */
        const struct quota *q = &plan->plan->rules[0].quota;
        int64_t all = algorithm_is_bucket(plan->plan->algorithm) ? q->burst : q->limit;
        algorithm_step(plan->plan->algorithm, &out->state, q, all, out->now);
    }
    return 0;
}

/* For what Python decides: the exception is the argument. */
static PyObject *redis_store_policy(PyObject *object, PyObject *error) {
    RedisStoreObject *s = (RedisStoreObject *)object;
    if (s->server == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "RedisStore.__init__ was not called.");
        return NULL;
    }
    if (!PyExceptionInstance_Check(error)) {
        PyErr_SetString(PyExc_TypeError, "_policy takes an exception");
        return NULL;
    }
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    if (redis_store_take_over(s) < 0) {
        return NULL;
    }
    if (s->on_error == ON_ERROR_FALLBACK) {
        return Py_NewRef(s->fallback);
    }
    return PyUnicode_FromString(s->on_error == ON_ERROR_ALLOW ? "allow" : "deny");
}

void redis_store_recovered(RedisStoreObject *s) {
    if (atomic_load_explicit(&s->failing, memory_order_relaxed) && atomic_exchange(&s->failing, false)) {
        redis_store_log_switch(s, Py_BuildValue("(sOL)", "%s answers again; %s decisions so far were taken without it.",
                                                s->server, (long long)atomic_load(&s->failures)));
    }
}

/* ---- deciding ---- */

int sleep_for(int64_t ns) {
    struct parker parker;
    int64_t until = clock_now() + ns;
    int answer = 0;
    parker_init(&parker);
    while (answer == 0 && clock_now() < until) {
        answer = sleep_in_line(&parker, until);
    }
    parker_destroy(&parker);
    return answer;
}

int redis_store_settle_from_anywhere(RedisStoreObject *s, PlanObject *plan, int rule, const struct table_key *key,
                                     int64_t surplus) {
    struct remote r = {.kind = REMOTE_SETTLE, .plan = plan, .key = *key, .rule = rule, .surplus = surplus};
    int answer = remote_from_anywhere(s, &r);
    remote_free(&r);
    return answer;
}

int redis_store_undo_from_anywhere(RedisStoreObject *s, struct remote *r) {
    remote_renew(r, REMOTE_UNDO);
    return remote_from_anywhere(s, r);
}

/* A slot that was reserved is not wanted: it is given back, and the exception that is set stays. That the server does not answer leaves
 * it taken, and is no error beside that exception. What else is raised meanwhile (by a second signal, say) comes out together with it. */
static void redis_store_give_slot_back(RedisStoreObject *s, struct remote *r) {
    struct kept_error k = {0};
    error_keep(&k);
    remote_renew(r, REMOTE_UNDO);
    if (remote_run(s, r) < 0 && PyErr_ExceptionMatches(s->module->store_error)) {
        PyErr_Clear();
    }
    error_set(&k);
}

/* Until what was reserved is due. */
static int redis_store_sleep_for_slot(RedisStoreObject *s, struct remote *r, int64_t wait) {
    int answer = sleep_for(wait);
    if (answer < 0) {
        redis_store_give_slot_back(s, r);
    }
    return answer;
}

int redis_store_limit(RedisStoreObject *s, PlanObject *plan, const struct table_key *key, int64_t cost,
                      int64_t timeout_ns, struct outcome *out) {
    int leased = leased_limit(s, plan, key, cost, timeout_ns, out);
    if (leased != 0) {
        return leased < 0 ? -1 : 0;
    }
    int64_t start = clock_now();
    bool reserves = timeout_ns > 0 && algorithm_is_bucket(plan->plan->algorithm);
    for (;;) {
        int64_t rest = timeout_ns < 0 ? 0 : timeout_ns == INT64_MAX ? INT64_MAX : timeout_ns - (clock_now() - start);
        struct remote r = {
            .kind = REMOTE_LIMIT,
            .plan = plan,
            .key = *key,
            .cost = cost,
            .most_wait_ns = reserves && rest > 0 ? rest : 0,
        };
        int answer = remote_run(s, &r);
        *out = r.out;
        if (answer == 0 && timeout_ns >= 0 && cost > 0 && out->kind == OUTCOME_ADMITTED) {
            out->wait_ns = -1;
            answer = r.out.wait_ns > 0 ? redis_store_sleep_for_slot(s, &r, r.out.wait_ns) : 0;
            remote_free(&r);
            return answer;
        }
        remote_free(&r);
        if (answer < 0) {
            return redis_store_follow_policy(s, plan, key, cost, out);
        }
        if (timeout_ns < 0 || cost == 0) {
            return 0;
        }
        struct decision d;
        plan_report(plan, out, &d);
        if (d.retry_after_ns > rest || reserves) {
            return 0;
        }
        if (sleep_for(d.retry_after_ns) < 0) {
            return -1;
        }
    }
}

int redis_store_reset(RedisStoreObject *s, PlanObject *plan, const struct table_key *key) {
    struct remote r = {.kind = REMOTE_RESET, .plan = plan, .key = *key};
    leased_drop(plan, key);
    int answer = remote_run(s, &r);
    remote_free(&r);
    leased_drop(plan, key); /* what was taken meanwhile, the server does not know of */
    return answer;
}

/* ---- what a limiter asks of it ---- */

static PlanObject *redis_bind_plan(LimiterObject *t, PyObject *quotas) {
    return leased_plan(t->on_redis, t->prefix, t->algorithm, quotas);
}

static int redis_limit(LimiterObject *t, PlanObject *plan, const struct table_key *key, int64_t cost,
                       int64_t timeout_ns, struct outcome *out) {
    return redis_store_limit(t->on_redis, plan, key, cost, timeout_ns, out);
}

static int redis_peek(LimiterObject *t, PlanObject *plan, const struct table_key *key, struct outcome *out) {
    return redis_store_limit(t->on_redis, plan, key, 0, -1, out);
}

static int redis_reset(LimiterObject *t, PlanObject *plan, const struct table_key *key) {
    return redis_store_reset(t->on_redis, plan, key);
}

static int redis_settle(LimiterObject *t, PlanObject *plan, int rule, const struct table_key *key, int64_t surplus) {
    return redis_store_settle_from_anywhere(t->on_redis, plan, rule, key, surplus) < 0 ? -1 : 1;
}

const struct store_ops redis_ops = {
    .bind_plan = redis_bind_plan,
    .limit = redis_limit,
    .peek = redis_peek,
    .reset = redis_reset,
    .settle = redis_settle,
    .start_call = distant_start,
};

/* ---- who serves ---- */

#define SLOTS 16384
#define NODES_MAX 1024

LinkObject *redis_store_route(RedisStoreObject *s, uint16_t slot) {
    lock_acquire(&s->routes);
    LinkObject **slots = atomic_load_explicit(&s->slots, memory_order_relaxed);
    LinkObject *link = (LinkObject *)Py_NewRef(slots != NULL && slots[slot] != NULL ? slots[slot] : s->link);
    lock_release(&s->routes);
    return link;
}

static void redis_store_free_slots(LinkObject **slots) {
    for (int slot = 0; slots != NULL && slot < SLOTS; slot++) {
        Py_XDECREF(slots[slot]);
    }
    PyMem_Free(slots);
}

/* More nodes than a cluster can well have come from a server that sends us about: all are forgotten, and found again as needed. */
static void redis_store_forget_nodes(RedisStoreObject *s) {
    lock_acquire(&s->routes);
    LinkObject **slots = atomic_exchange(&s->slots, NULL);
    lock_release(&s->routes);
    redis_store_free_slots(slots);
    PyDict_Clear(s->nodes);
}

/* A Link to it, or what else `_link_to` returns. */
static PyObject *redis_store_make_node(RedisStoreObject *s, const char *host, int port) {
    PyObject *link = PyObject_CallMethod((PyObject *)s, "_link_to", "si", host, port);
    if (link != NULL && !Py_IS_TYPE(link, s->module->link)) {
        PyErr_SetString(PyExc_TypeError, "_link_to must return a Link");
        Py_CLEAR(link);
    }
    return link;
}

LinkObject *redis_store_node(RedisStoreObject *s, const char *host, int port) {
    if (s->nodes == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a store with a client of the user's own has no nodes");
        return NULL;
    }
    if (PyDict_GET_SIZE(s->nodes) >= NODES_MAX) {
        redis_store_forget_nodes(s);
    }
    PyObject *name = PyUnicode_FromFormat("%s:%d", host, port), *link = NULL;
    int found = name == NULL ? -1 : dict_get(s->nodes, name, &link);
    if (found == 0) {
        PyObject *made = redis_store_make_node(s, host, port);
        /* Python code has run, so another thread may have been first: its link is everybody's. */
        link = made == NULL ? NULL : dict_set_default(s->nodes, name, made);
        Py_XDECREF(made);
    }
    Py_XDECREF(name);
    return (LinkObject *)link;
}

int redis_store_assign(RedisStoreObject *s, int slot, LinkObject *link) {
    LinkObject **made = NULL, *old;
    if (!redis_store_has_slots(s) && (made = PyMem_Calloc(SLOTS, sizeof *made)) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    lock_acquire(&s->routes);
    LinkObject **slots = atomic_load_explicit(&s->slots, memory_order_relaxed);
    if (slots == NULL && made != NULL) {
        atomic_store(&s->slots, slots = made);
        made = NULL;
    }
    if (slots != NULL) { /* else another thread has just forgotten all nodes */
        old = slots[slot];
        slots[slot] = (LinkObject *)Py_NewRef(link);
    } else {
        old = NULL;
    }
    lock_release(&s->routes);
    Py_XDECREF(old);
    PyMem_Free(made);
    return 0;
}

void redis_store_unassign(RedisStoreObject *s, uint16_t slot, const LinkObject *link) {
    LinkObject *old = NULL;
    lock_acquire(&s->routes);
    LinkObject **slots = atomic_load_explicit(&s->slots, memory_order_relaxed);
    if (slots != NULL && slots[slot] == link && link != s->link) {
        old = slots[slot];
        slots[slot] = NULL;
    }
    lock_release(&s->routes);
    Py_XDECREF(old);
}

static PyObject *redis_store_set_slots(PyObject *object, PyObject *args) {
    RedisStoreObject *s = (RedisStoreObject *)object;
    int first, last, port;
    const char *host;
    if (!PyArg_ParseTuple(args, "iisi:_set_slots", &first, &last, &host, &port)) {
        return NULL;
    }
    LinkObject *link = redis_store_node(s, host, port);
    if (link == NULL) {
        return NULL;
    }
    for (int slot = first < 0 ? 0 : first; slot <= last && slot < SLOTS; slot++) {
        if (redis_store_assign(s, slot, link) < 0) {
            Py_DECREF(link);
            return NULL;
        }
    }
    Py_DECREF(link);
    Py_RETURN_NONE;
}

static PyObject *redis_store_set_primary(PyObject *object, PyObject *link) {
    RedisStoreObject *s = (RedisStoreObject *)object;
    if (s->server == NULL || !Py_IS_TYPE(link, s->module->link)) {
        PyErr_SetString(PyExc_TypeError, "_set_primary takes a Link");
        return NULL;
    }
    lock_acquire(&s->routes);
    LinkObject *old = s->link;
    s->link = (LinkObject *)Py_NewRef(link);
    lock_release(&s->routes);
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

/* ---- life ---- */

static int redis_store_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"link",     "server",       "on_error",   "topology", "wait_replicas",
                            "lease_ns", "lease_tokens", "lease_keys", NULL};
    RedisStoreObject *self = (RedisStoreObject *)object;
    struct module_state *m = module_of_instance(object);
    PyObject *link, *server, *topology = Py_None;
    PyObject *on_error_object = NULL;
    long long lease_ns = 0, lease_tokens = 0, lease_keys = 65536;
    if (m == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "OU|OOiLLL:RedisStore", names, &link, &server, &on_error_object,
                                     &topology, &self->wait_replicas, &lease_ns, &lease_tokens, &lease_keys)) {
        return -1;
    }
    if (self->server != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "RedisStore.__init__ was called twice.");
        return -1;
    }
    static const char *const policies[] = {"raise", "allow", "deny"};
    int policy = on_error_object == NULL ? 0 : -1;
    for (int i = 0; policy < 0 && i < 3; i++) {
        if (PyUnicode_Check(on_error_object) && PyUnicode_CompareWithASCIIString(on_error_object, policies[i]) == 0) {
            policy = i;
        }
    }
    if (policy < 0 && PyObject_TypeCheck(on_error_object, m->store) && ((StoreObject *)on_error_object)->ready) {
        policy = ON_ERROR_FALLBACK;
        self->fallback = (StoreObject *)Py_NewRef(on_error_object);
    }
    if (policy < 0) {
        PyErr_Format(m->setup_error, "Invalid on_error: %R, must be 'raise', 'allow', 'deny' or a MemoryStore.",
                     on_error_object);
        return -1;
    }
    self->on_error = (enum on_error)policy;
    self->module = m;
    lock_init(&self->routes);
    if (Py_IS_TYPE(link, m->link)) {
        self->nodes = PyDict_New();
        if (self->nodes == NULL) {
            return -1;
        }
        self->timeout_ns = ((LinkObject *)link)->link.timeout_ns;
        self->link = (LinkObject *)Py_NewRef(link);
    } else {
        self->client = Py_NewRef(link);
    }
    self->lease_ns = lease_ns;
    self->lease_tokens = lease_tokens;
    self->lease_keys = lease_keys;
    if (lease_ns > 0 || lease_tokens > 0) {
        self->leases = PyDict_New();
        if (self->leases == NULL) {
            return -1;
        }
    }
    self->server = Py_NewRef(server);
    self->topology = topology == Py_None ? NULL : Py_NewRef(topology);
    return 0;
}

static int redis_store_traverse(RedisStoreObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->link);
    Py_VISIT(self->client);
    Py_VISIT(self->fallback);
    Py_VISIT(self->topology);
    Py_VISIT(self->nodes);
    Py_VISIT(self->leases);
    return 0;
}

static int redis_store_clear(RedisStoreObject *self) {
    Py_CLEAR(self->topology);
    return 0; /* a decision may be under way: the rest is needed */
}

static void redis_store_dealloc(PyObject *object) {
    RedisStoreObject *self = (RedisStoreObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(object);
    }
    redis_store_clear(self);
    Py_CLEAR(self->leases);
    Py_CLEAR(self->fallback);
    redis_store_free_slots(atomic_exchange(&self->slots, NULL));
    Py_CLEAR(self->nodes);
    Py_CLEAR(self->link);
    Py_CLEAR(self->client);
    Py_CLEAR(self->server);
    type->tp_free(object);
    Py_DECREF(type);
}

/* The link that serves where no slot says otherwise: a new reference, or NULL without an exception. */
static PyObject *redis_store_primary(RedisStoreObject *s) {
    lock_acquire(&s->routes);
    PyObject *primary = Py_XNewRef(s->link);
    lock_release(&s->routes);
    return primary;
}

static PyObject *redis_store_get_link(PyObject *object, void *unused) {
    (void)unused;
    PyObject *link = redis_store_primary((RedisStoreObject *)object);
    if (link == NULL) {
        PyErr_SetString(PyExc_AttributeError, "_link");
    }
    return link;
}

static PyGetSetDef redis_store_attributes[] = {
    {"_link", redis_store_get_link, NULL, "The link to the server, or to the first one.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMemberDef redis_store_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(RedisStoreObject, weakrefs), READONLY, NULL},
    {"_client", T_OBJECT, offsetof(RedisStoreObject, client), READONLY, NULL},
    {"server", T_OBJECT, offsetof(RedisStoreObject, server), READONLY, "The server's URL, its password masked."},
    {"wait_replicas", T_INT, offsetof(RedisStoreObject, wait_replicas), READONLY,
     "How many replicas must have a decision before it holds."},
    {"failures", T_LONGLONG, offsetof(RedisStoreObject, failures), READONLY,
     "How many decisions on_error took, or raised for, because the server could not answer."},
    {NULL, 0, 0, 0, NULL},
};
static PyObject *redis_store_links(PyObject *object, PyObject *unused) {
    (void)unused;
    RedisStoreObject *s = (RedisStoreObject *)object;
    PyObject *links = s->nodes == NULL ? PyList_New(0) : PyDict_Values(s->nodes);
    PyObject *primary = redis_store_primary(s);
    if (links != NULL && primary != NULL && PyList_Append(links, primary) < 0) {
        Py_CLEAR(links);
    }
    Py_XDECREF(primary);
    return links;
}

static PyMethodDef redis_store_methods[] = {
    {"_give_back", redis_store_give_back, METH_NOARGS,
     "_give_back($self, /)\n--\n\nGives back what is leased and not spent; no error is raised."},
    {"_links", redis_store_links, METH_NOARGS, "_links($self, /)\n--\n\nThe links to all servers."},
    {"_policy", redis_store_policy, METH_O,
     "_policy($self, error, /)\n--\n\nWhat on_error says instead of this error: 'allow', 'deny' or the fallback store; raises "
     "it again where it says nothing."},
    {"_run", (PyCFunction)(void (*)(void))redis_store_run, METH_FASTCALL,
     "_run($self, script, keys, words, /)\n--\n\nRuns a script of src/redis/lua by its name, or (None) the command that "
     "the words are, where the first key is; an error of the server is raised."},
    {"_run_async", (PyCFunction)(void (*)(void))redis_store_run_async, METH_FASTCALL,
     "_run_async($self, script, keys, words, /)\n--\n\nThe same, to be awaited."},
    {"_set_slots", redis_store_set_slots, METH_VARARGS,
     "_set_slots($self, first, last, host, port, /)\n--\n\nWho serves these slots of a cluster."},
    {"_set_primary", redis_store_set_primary, METH_O, "_set_primary($self, link, /)\n--\n\nWho serves from now on."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot redis_store_slots[] = {
    {Py_tp_doc, "What RedisStore is made on. Internal."},
    {Py_tp_init, redis_store_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, redis_store_dealloc},
    {Py_tp_traverse, redis_store_traverse},
    {Py_tp_clear, redis_store_clear},
    {Py_tp_members, redis_store_members},
    {Py_tp_getset, redis_store_attributes},
    {Py_tp_methods, redis_store_methods},
    {0, NULL},
};
static PyType_Spec redis_store_spec = {"headway._core.RedisStore", sizeof(RedisStoreObject), 0,
                                       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                                       redis_store_slots};

PyTypeObject *redis_store_type_make(PyObject *module) {
    return type_make(module, &redis_store_spec, NULL, NULL);
}
