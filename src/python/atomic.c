/* Decisions in a store that is written in Python, as threads and tasks ask for them: see atomic.h. */
#include "atomic.h"

#include "shared_store_type.h"

/* ---- threads ---- */

/* headway._atomic.`function`(place, step, ...); takes no reference. */
static PyObject *ask(LimiterObject *t, const char *function, StepObject *s) {
    PyObject *found = NULL;
    if (import_once(&found, "headway._atomic", function) < 0) {
        return NULL;
    }
    PyObject *answer = PyObject_CallFunctionObjArgs(found, t->place, (PyObject *)s, NULL);
    Py_DECREF(found);
    return answer;
}

static int ask_and_drop(LimiterObject *t, const char *function, StepObject *s) {
    PyObject *answer = s == NULL ? NULL : ask(t, function, s);
    Py_XDECREF(answer);
    Py_XDECREF(s);
    return answer == NULL ? -1 : 0;
}

/* In shared memory, where it is done at once from anywhere. */
static int update_and_drop(LimiterObject *t, StepObject *s) {
    int answer = s == NULL ? -1 : shared_store_update(t->in_shared_memory, s);
    Py_XDECREF(s);
    return answer;
}

static PlanObject *atomic_bind_plan(LimiterObject *t, PyObject *quotas) {
    return plan_new_atomic(t->module, t->prefix, t->algorithm, quotas);
}

/* Decides; with a timeout that is positive, waits. */
static int atomic_limit(LimiterObject *t, PlanObject *plan, const struct table_key *key, int64_t cost,
                        int64_t timeout_ns, struct outcome *out) {
    StepObject *s = step_limit(t, plan, key, cost, timeout_ns);
    PyObject *done = s == NULL             ? NULL
                     : s->deadline_ns == 0 ? PyObject_CallMethodOneArg(t->place, t->module->str_update, (PyObject *)s)
                                           : ask(t, "limit", s);
    if (done != NULL && !step_was_taken(s, t->place)) {
        Py_CLEAR(done);
    }
    if (done != NULL) {
        *out = s->out;
    }
    Py_XDECREF(done);
    Py_XDECREF(s);
    return done == NULL ? -1 : 0;
}

static int atomic_peek(LimiterObject *t, PlanObject *plan, const struct table_key *key, struct outcome *out) {
    return atomic_limit(t, plan, key, 0, -1, out);
}

static int atomic_reset(LimiterObject *t, PlanObject *plan, const struct table_key *key) {
    return ask_and_drop(t, "update", step_new(t, plan, key, STEP_RESET, 0));
}

static StepObject *settlement(LimiterObject *t, PlanObject *plan, int rule, const struct table_key *key,
                              int64_t surplus) {
    StepObject *s = step_new(t, plan, key, STEP_SETTLE, surplus);
    if (s != NULL) {
        s->rule = rule;
    }
    return s;
}

/* In an event loop it is not waited for. */
static int atomic_settle(LimiterObject *t, PlanObject *plan, int rule, const struct table_key *key, int64_t surplus) {
    return ask_and_drop(t, "update_from_anywhere", settlement(t, plan, rule, key, surplus)) < 0 ? -1 : 1;
}

static int shared_peek(LimiterObject *t, PlanObject *plan, const struct table_key *key, struct outcome *out) {
    return shared_store_limit(t, plan, key, 0, -1, out);
}

static int shared_reset(LimiterObject *t, PlanObject *plan, const struct table_key *key) {
    return update_and_drop(t, step_new(t, plan, key, STEP_RESET, 0));
}

static int shared_settle(LimiterObject *t, PlanObject *plan, int rule, const struct table_key *key, int64_t surplus) {
    return update_and_drop(t, settlement(t, plan, rule, key, surplus)) < 0 ? -1 : 1;
}

/* ---- tasks ---- */

static PyObject *answer_of(const CallObject *c, StepObject *s) {
    return c->kind == CALL_PEEK    ? step_state(s, NULL)
           : c->kind == CALL_RESET ? Py_NewRef(Py_None)
                                   : step_result(s, NULL);
}

static StepObject *step_of_call(CallObject *c) {
    LimiterObject *t = (LimiterObject *)c->owner;
    struct table_key key;
    PyObject *owned = NULL;
    StepObject *s = NULL;
    if (key_from_object(t->module, c->key, &key, &owned) < 0) {
        return NULL;
    }
    PlanObject *plan = limiter_plan(t, c->key);
    if (plan != NULL) {
        s = c->kind == CALL_PEEK    ? step_limit(t, plan, &key, 0, -1)
            : c->kind == CALL_RESET ? step_new(t, plan, &key, STEP_RESET, 0)
                                    : step_limit(t, plan, &key, c->cost, c->timeout_ns);
    }
    Py_XDECREF(plan);
    Py_XDECREF(owned);
    return s;
}

/* What shared memory answers at once: NULL without an exception where the call is to wait. */
static PyObject *shared_answer(CallObject *c) {
    LimiterObject *t = (LimiterObject *)c->owner;
    if (c->kind == CALL_PEEK) {
        return limiter_peek(t, c->key);
    }
    if (c->kind == CALL_RESET) {
        return limiter_reset(t, c->key);
    }
    struct table_key key;
    struct outcome out;
    PyObject *owned = NULL, *answer = NULL;
    PlanObject *plan = key_from_object(t->module, c->key, &key, &owned) < 0 ? NULL : limiter_plan(t, c->key);
    if (plan != NULL && shared_store_limit(t, plan, &key, c->cost, -1, &out) == 0 &&
        (out.kind != OUTCOME_DENIED || c->timeout_ns <= 0)) {
        answer = call_conclude(c, result_new(t->module, plan, &out));
    }
    Py_XDECREF(plan);
    Py_XDECREF(owned);
    return answer;
}

static PySendResult atomic_start_call(CallObject *c, PyObject **result) {
    static const char *const coroutines[] = {
        [CALL_LIMIT] = "limit_async", [CALL_ENTER] = "limit_async", [CALL_PEEK] = "peek_async",
        [CALL_RESET] = "reset_async", [CALL_PERMIT] = NULL,         [CALL_RUN] = NULL,
    };
    LimiterObject *t = (LimiterObject *)c->owner;
    PySendResult end = PYGEN_ERROR;
    StepObject *s = step_of_call(c);
    PyObject *tried = s == NULL ? NULL : PyObject_CallMethodOneArg(t->place, t->module->str_try_update, (PyObject *)s);
    int done = tried == NULL ? -1 : PyObject_IsTrue(tried);
    Py_XDECREF(tried);
    if (done > 0 && s->due_ns == 0 && (s->admitted || s->deadline_ns == 0)) {
        *result = call_conclude(c, answer_of(c, s));
        end = *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
    } else if (done > 0) {
        end = call_delegate(c, CALL_ATOMIC, ask(t, "wait_async", s), result);
    } else if (done == 0) {
        end = call_delegate(c, CALL_ATOMIC, ask(t, coroutines[c->kind], s), result);
    }
    Py_XDECREF(s);
    return end;
}

static PySendResult shared_start_call(CallObject *c, PyObject **result) {
    *result = shared_answer(c);
    if (*result != NULL || PyErr_Occurred()) {
        return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
    }
    return atomic_start_call(c, result);
}

const struct store_ops atomic_ops = {
    .bind_plan = atomic_bind_plan,
    .limit = atomic_limit,
    .peek = atomic_peek,
    .reset = atomic_reset,
    .settle = atomic_settle,
    .start_call = atomic_start_call,
};

const struct store_ops shared_ops = {
    .bind_plan = atomic_bind_plan,
    .limit = shared_store_limit,
    .peek = shared_peek,
    .reset = shared_reset,
    .settle = shared_settle,
    .start_call = shared_start_call,
};
