/* Step: one decision as a function of bytes, for stores that are written in Python.
 *
 *   step((old, ...)) -> ((new, ...), None)   one value for each of step.keys, the rules of the plan
 *   step(old) -> (new, None)                 all of them in one value, kept under step.key
 *
 * None stands for no value. The store calls it between reading and writing, when nobody else can come between, and may call it
 * again with other bytes: what the last call made is what counts. The clock is read in here, so that instants come in the order of
 * the writes.
 *
 * Waiting is a reservation, as on a server: a bucket admits what is due by the deadline, and `due_ns` says when that is. */
#include "atomic.h"

#include "clock.h"
#include "scripts.h"

/* Processes of one machine agree on the time to within this much. A window that begins later than that is of another time. */
#define CLOCK_SKEW_NS NS_PER_S

/* ---- making ---- */

static void step_dealloc(PyObject *object) {
    StepObject *s = (StepObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(s->plan);
    Py_XDECREF(s->keys);
    Py_XDECREF(s->key);
    Py_XDECREF(s->bytes);
    Py_XDECREF(s->clock);
    type->tp_free(object);
    Py_DECREF(type);
}

/* The key's name as on a server, {prefix}{key in braces}, and the tags of the rules from `first` to before `end`. */
static PyObject *name_of(const struct redis_names *names, const struct table_key *key, int first, int end) {
    bool marked = key->bytes[0] == '}' || key->bytes[0] == '\\';
    size_t length = names->prefix_length + key->length + 2 + marked;
    for (int i = first; i < end; i++) {
        length += names->rules[i].length;
    }
    PyObject *name = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (name == NULL) {
        return NULL;
    }
    char *at = PyBytes_AS_STRING(name);
    memcpy(at, names->prefix, names->prefix_length);
    at += names->prefix_length;
    *at++ = '{';
    if (marked) {
        *at++ = '\\';
    }
    memcpy(at, key->bytes, key->length);
    at += key->length;
    *at++ = '}';
    for (int i = first; i < end; i++) {
        memcpy(at, names->rules[i].tag, names->rules[i].length);
        at += names->rules[i].length;
    }
    return name;
}

static int name_keys(StepObject *s, const struct table_key *key) {
    int count = s->plan->plan->count;
    s->key = name_of(s->plan->names, key, 0, count);
    s->keys = s->key == NULL ? NULL : PyTuple_New(count);
    for (int i = 0; s->keys != NULL && i < count; i++) {
        PyObject *name = count == 1 ? Py_NewRef(s->key) : name_of(s->plan->names, key, i, i + 1);
        if (name == NULL) {
            return -1;
        }
        PyTuple_SET_ITEM(s->keys, i, name);
    }
    return s->keys == NULL ? -1 : 0;
}

static int64_t step_now(const StepObject *s) {
    int64_t now = s->clock != NULL ? atomic_load(&s->clock->clock.now) : clock_now() + s->offset_ns;
    return now < 0 ? 0 : now >= CLOCK_END ? CLOCK_END - 1 : now;
}

static int read_clock(StepObject *s, PyObject *place) {
    PyObject *clock = PyObject_GetAttr(place, s->module->str_clock);
    PyObject *offset = clock == NULL ? NULL : PyObject_GetAttr(place, s->module->str_offset_ns);
    int answer = -1;
    if (offset != NULL) {
        s->offset_ns = PyLong_AsLongLong(offset);
        if (s->offset_ns == -1 && PyErr_Occurred()) {
            goto done;
        }
        if (s->offset_ns <= -CLOCK_END || s->offset_ns >= CLOCK_END ||
            (clock != Py_None && !Py_IS_TYPE(clock, s->module->clock))) {
            PyErr_Format(s->module->setup_error, "Invalid clock: %R, must be a VirtualClock or None.", clock);
            goto done;
        }
        s->clock = clock == Py_None ? NULL : (ClockObject *)Py_NewRef(clock);
        answer = 0;
    }
done:
    Py_XDECREF(offset);
    Py_XDECREF(clock);
    return answer;
}

StepObject *step_new(LimiterObject *t, PlanObject *plan, const struct table_key *key, enum step_kind kind,
                     int64_t cost) {
    struct module_state *m = t->module;
    StepObject *s = (StepObject *)m->step->tp_alloc(m->step, 0);
    if (s == NULL) {
        return NULL;
    }
    s->module = m;
    s->plan = (PlanObject *)Py_NewRef(plan);
    s->kind = kind;
    s->cost = cost;
    s->bytes = PyBytes_FromStringAndSize(key->bytes, (Py_ssize_t)key->length);
    if (s->bytes == NULL || name_keys(s, key) < 0 || read_clock(s, t->place) < 0) {
        Py_CLEAR(s);
    }
    return s;
}

StepObject *step_limit(LimiterObject *t, PlanObject *plan, const struct table_key *key, int64_t cost,
                       int64_t timeout_ns) {
    StepObject *s = step_new(t, plan, key, STEP_LIMIT, cost);
    if (s != NULL && timeout_ns > 0 && cost > 0) {
        int64_t now = step_now(s);
        s->deadline_ns = timeout_ns < CLOCK_END - now ? now + timeout_ns : CLOCK_END;
    }
    return s;
}

/* ---- the arithmetic: from s->before to s->after ---- */

static const struct rule *rule_at(const StepObject *s, int i) {
    return &s->plan->plan->rules[i];
}

/* The core takes a window that has not begun as none. Here it may have begun by the clock of another process. */
static int64_t not_before_windows(const StepObject *s, int64_t now) {
    const struct plan *p = s->plan->plan;
    int64_t latest = now;
    for (int i = 0; !algorithm_is_bucket(p->algorithm) && i < p->count; i++) {
        int64_t windows = p->algorithm == FIXED_WINDOW ? 1 : 2;
        int64_t start = s->before[i].word[0] - windows * rule_at(s, i)->quota.period_ns;
        if (start > latest && start - now <= CLOCK_SKEW_NS && start < CLOCK_END) {
            latest = start;
        }
    }
    return latest;
}

static bool step_all(StepObject *s, int64_t now) {
    const struct plan *p = s->plan->plan;
    bool admitted = true;
    memcpy(s->after, s->before, sizeof s->after);
    for (int i = 0; i < p->count && admitted; i++) {
        const struct rule *r = rule_at(s, i);
        admitted = algorithm_step(p->algorithm, &s->after[i], &r->quota, rule_cost(r, s->cost), now);
    }
    return admitted;
}

/* How long until all rules admit it; WAIT_NEVER. */
static int64_t wait_of_all(const StepObject *s, int64_t now) {
    const struct plan *p = s->plan->plan;
    int64_t longest = 0;
    for (int i = 0; i < p->count; i++) {
        const struct rule *r = rule_at(s, i);
        int64_t wait = algorithm_wait(p->algorithm, &s->before[i], &r->quota, rule_cost(r, s->cost), now);
        longest = wait > longest ? wait : longest;
    }
    return longest;
}

static void run_limit(StepObject *s) {
    const struct plan *p = s->plan->plan;
    int64_t now = not_before_windows(s, step_now(s));
    bool admitted = step_all(s, now);
    s->due_ns = 0;
    if (!admitted && s->deadline_ns > 0) {
        int64_t wait = wait_of_all(s, now);
        if (wait < CLOCK_END - now && now + wait <= s->deadline_ns) {
            s->due_ns = now + wait;
            admitted = algorithm_is_bucket(p->algorithm) && step_all(s, now + wait);
        }
    }
    if (!admitted) {
        memcpy(s->after, s->before, sizeof s->after);
    }
    s->admitted = admitted;
    s->out = (struct outcome){
        .kind = admitted ? OUTCOME_ADMITTED : OUTCOME_DENIED,
        .now = admitted && s->due_ns > 0 ? s->due_ns : now,
        .wait_ns = -1,
    };
    plan_choose_tightest(p, s->after, admitted ? 0 : s->cost, s->out.now, &s->out);
}

static bool is_none(const struct state *s) {
    return s->word[0] == 0 && s->word[1] == 0 && s->word[2] == 0;
}

static void run_settle(StepObject *s) {
    memcpy(s->after, s->before, sizeof s->after);
    if (s->cost < 0 || !is_none(&s->before[s->rule])) {
        algorithm_refund(s->plan->plan->algorithm, &s->after[s->rule], &rule_at(s, s->rule)->quota, s->cost,
                         step_now(s));
    }
    s->admitted = true;
}

/* `found` is what the store holds now; before and after are those of the call that is undone. A bucket's slot is taken off only where
 * it is the last one: else two calls would share an instant. */
static void run_undo(StepObject *s, struct state *found) {
    const struct plan *p = s->plan->plan;
    size_t size = (size_t)p->count * sizeof *found;
    if (algorithm_is_bucket(p->algorithm)) {
        s->admitted = memcmp(found, s->after, size) == 0;
        if (s->admitted) {
            memcpy(found, s->before, size);
        }
        return;
    }
    s->admitted = true;
    int64_t now = step_now(s);
    for (int i = 0; i < p->count; i++) {
        const struct rule *r = rule_at(s, i);
        algorithm_refund(p->algorithm, &found[i], &r->quota, rule_cost(r, s->cost), now);
    }
}

void step_change(void *context, struct state *states) {
    StepObject *s = context;
    s->taken = true;
    size_t size = (size_t)s->plan->plan->count * sizeof *states;
    if (s->kind == STEP_RESET) {
        memset(states, 0, size);
        return;
    }
    if (s->kind == STEP_UNDO) {
        run_undo(s, states);
        return;
    }
    memcpy(s->before, states, size);
    if (s->kind == STEP_LIMIT) {
        run_limit(s);
    } else {
        run_settle(s);
    }
    memcpy(states, s->after, size);
}

/* ---- from bytes to bytes ---- */

static int cannot_read(StepObject *s, PyObject *key) {
    PyErr_Format(s->module->store_error,
                 "The state of %R cannot be read: it is not one of %s. reset() of the limiter forgets it.", key,
                 algorithm_names[s->plan->plan->algorithm]);
    return -1;
}

static int read_states(StepObject *s, PyObject *old, bool apart, struct state *states) {
    const struct plan *p = s->plan->plan;
    memset(states, 0, QUOTA_RULES_MAX * sizeof *states);
    for (int i = 0; i < p->count; i++) {
        PyObject *bytes = apart ? PyTuple_GET_ITEM(old, i) : old;
        PyObject *key = apart ? PyTuple_GET_ITEM(s->keys, i) : s->key;
        Py_ssize_t wanted = apart ? STATE_BYTES : p->count * STATE_BYTES;
        if (bytes == Py_None) {
            continue;
        }
        if (!PyBytes_Check(bytes)) {
            PyErr_Format(PyExc_TypeError, "a step takes bytes or None, not %R", bytes);
            return -1;
        }
        if (PyBytes_GET_SIZE(bytes) != wanted ||
            !state_read(p->algorithm, PyBytes_AS_STRING(bytes) + (apart ? 0 : i * STATE_BYTES), &states[i])) {
            return cannot_read(s, key);
        }
    }
    return 0;
}

/* The old objects where nothing has changed, so that a store sees it at a glance. */
static PyObject *write_states(StepObject *s, PyObject *old, bool apart, const struct state *was,
                              const struct state *states) {
    const struct plan *p = s->plan->plan;
    if (memcmp(was, states, (size_t)p->count * sizeof *states) == 0) {
        return Py_NewRef(old);
    }
    char bytes[QUOTA_RULES_MAX * STATE_BYTES];
    for (int i = 0; i < p->count; i++) {
        state_write(p->algorithm, &states[i], &bytes[i * STATE_BYTES]);
    }
    if (!apart) {
        return PyBytes_FromStringAndSize(bytes, p->count * STATE_BYTES);
    }
    PyObject *news = PyTuple_New(p->count);
    for (int i = 0; news != NULL && i < p->count; i++) {
        PyObject *one = memcmp(&was[i], &states[i], sizeof *was) == 0
                            ? Py_NewRef(PyTuple_GET_ITEM(old, i))
                            : PyBytes_FromStringAndSize(&bytes[i * STATE_BYTES], STATE_BYTES);
        if (one == NULL) {
            Py_CLEAR(news);
        } else {
            PyTuple_SET_ITEM(news, i, one);
        }
    }
    return news;
}

static PyObject *forgotten(const StepObject *s, bool apart) {
    if (!apart) {
        return Py_NewRef(Py_None);
    }
    PyObject *nones = PyTuple_New(s->plan->plan->count);
    for (int i = 0; nones != NULL && i < s->plan->plan->count; i++) {
        PyTuple_SET_ITEM(nones, i, Py_NewRef(Py_None));
    }
    return nones;
}

static PyObject *step_call(PyObject *object, PyObject *args, PyObject *kwargs) {
    StepObject *s = (StepObject *)object;
    struct state found[QUOTA_RULES_MAX];
    PyObject *old, *made;
    if ((kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) || !PyArg_UnpackTuple(args, "step", 1, 1, &old)) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "a step takes no keyword arguments");
        }
        return NULL;
    }
    bool apart = PyTuple_Check(old);
    if (apart && PyTuple_GET_SIZE(old) != s->plan->plan->count) {
        PyErr_Format(PyExc_TypeError, "a step takes %d values, one for each of its keys, not %zd", s->plan->plan->count,
                     PyTuple_GET_SIZE(old));
        return NULL;
    }
    if (s->kind == STEP_RESET) {
        made = forgotten(s, apart);
    } else if (read_states(s, old, apart, found) < 0) {
        return NULL;
    } else if (s->kind == STEP_UNDO) {
        struct state was[QUOTA_RULES_MAX];
        memcpy(was, found, sizeof was);
        run_undo(s, found);
        made = write_states(s, old, apart, was, found);
    } else {
        memcpy(s->before, found, sizeof found);
        if (s->kind == STEP_LIMIT) {
            run_limit(s);
        } else {
            run_settle(s);
        }
        made = write_states(s, old, apart, s->before, s->after);
    }
    s->taken = s->taken || made != NULL;
    return made == NULL ? NULL : Py_BuildValue("(NO)", made, Py_None);
}

/* ---- what headway._atomic asks ---- */

bool step_was_taken(StepObject *s, PyObject *place) {
    if (!s->taken) {
        PyErr_Format(PyExc_TypeError, "%s.update() returned without having called the step that it was given",
                     place != NULL ? type_short_name(Py_TYPE(place)) : "the store's");
    }
    return s->taken;
}

PyObject *step_state(StepObject *s, PyObject *unused) {
    (void)unused;
    struct decision d;
    if (!step_was_taken(s, NULL)) {
        return NULL;
    }
    plan_report(s->plan, &s->out, &d);
    return state_new(s->module, &d);
}

PyObject *step_result(StepObject *s, PyObject *unused) {
    (void)unused;
    return step_was_taken(s, NULL) ? result_new(s->module, s->plan, &s->out) : NULL;
}

static PyObject *step_undo(PyObject *object, PyObject *unused) {
    (void)unused;
    StepObject *s = (StepObject *)object;
    StepObject *undo = (StepObject *)Py_TYPE(object)->tp_alloc(Py_TYPE(object), 0);
    if (undo != NULL) {
        undo->module = s->module;
        undo->plan = (PlanObject *)Py_NewRef(s->plan);
        undo->keys = Py_NewRef(s->keys);
        undo->key = Py_NewRef(s->key);
        undo->bytes = Py_NewRef(s->bytes);
        undo->clock = (ClockObject *)Py_XNewRef(s->clock);
        undo->offset_ns = s->offset_ns;
        undo->cost = s->cost;
        undo->kind = STEP_UNDO;
        memcpy(undo->before, s->before, sizeof s->before);
        memcpy(undo->after, s->after, sizeof s->after);
    }
    return (PyObject *)undo;
}

static PyObject *step_swap(PyObject *object, PyObject *argument) {
    StepObject *a = (StepObject *)object, *b = (StepObject *)argument;
    if (!Py_IS_TYPE(argument, Py_TYPE(object)) || a->plan->plan->count != b->plan->plan->count) {
        PyErr_SetString(PyExc_TypeError, "swap() takes a step of the same rules");
        return NULL;
    }
    StepObject *kept = PyMem_Malloc(sizeof *kept);
    if (kept == NULL) {
        return PyErr_NoMemory();
    }
#define COPY_SLOT(to, from)                                                                                            \
    do {                                                                                                               \
        (to)->admitted = (from)->admitted;                                                                             \
        (to)->due_ns = (from)->due_ns;                                                                                 \
        (to)->out = (from)->out;                                                                                       \
        memcpy((to)->before, (from)->before, sizeof(to)->before);                                                      \
        memcpy((to)->after, (from)->after, sizeof(to)->after);                                                         \
    } while (0)
    COPY_SLOT(kept, a);
    COPY_SLOT(a, b);
    COPY_SLOT(b, kept);
#undef COPY_SLOT
    PyMem_Free(kept);
    Py_RETURN_NONE;
}

static PyObject *step_slot(StepObject *s, void *unused) {
    (void)unused;
    return Py_BuildValue("(OOL)", s->keys, s->plan->quotas, s->cost);
}

static PyMemberDef step_members[] = {
    {"keys", T_OBJECT, offsetof(StepObject, keys), READONLY, "The keys of the rules, where each has a value."},
    {"key", T_OBJECT, offsetof(StepObject, key), READONLY, "The key of all rules, where they share a value."},
    {"cost", T_LONGLONG, offsetof(StepObject, cost), READONLY, NULL},
    {"deadline_ns", T_LONGLONG, offsetof(StepObject, deadline_ns), READONLY, "Until when to wait; 0: not at all."},
    {"admitted", T_BOOL, offsetof(StepObject, admitted), READONLY, "Of an undo: whether it was undone."},
    {"taken", T_BOOL, offsetof(StepObject, taken), READONLY, "Whether the store has called it."},
    {"due_ns", T_LONGLONG, offsetof(StepObject, due_ns), READONLY,
     "When an admitted call may go, or a denied one is to ask again; 0 for neither."},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef step_attributes[] = {
    {"slot", (getter)step_slot, NULL, "Equal for calls that can take each other's place.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef step_methods[] = {
    {"state", (PyCFunction)(void (*)(void))step_state, METH_NOARGS,
     "state($self, /)\n--\n\nThe RateLimitState that was found."},
    {"result", (PyCFunction)(void (*)(void))step_result, METH_NOARGS, "result($self, /)\n--\n\nThe RateLimitResult."},
    {"undo", step_undo, METH_NOARGS, "undo($self, /)\n--\n\nA step that gives back what this one took."},
    {"swap", step_swap, METH_O, "swap($self, other, /)\n--\n\nTakes what the other step took, and gives it its own."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot step_slots[] = {
    {Py_tp_doc, "A decision as a function of bytes, which a store calls between reading and writing. Internal."},
    {Py_tp_dealloc, step_dealloc},
    {Py_tp_call, step_call},
    {Py_tp_members, step_members},
    {Py_tp_getset, step_attributes},
    {Py_tp_methods, step_methods},
    {0, NULL},
};
static PyType_Spec step_spec = {"headway._core.Step", sizeof(StepObject), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                step_slots};

PyTypeObject *step_type_make(PyObject *module) {
    return type_make(module, &step_spec, NULL, NULL);
}
