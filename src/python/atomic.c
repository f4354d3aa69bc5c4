/* Decisions in a store that is written in Python, as threads and tasks ask for them: see atomic.h. */
#include "atomic.h"

/* ---- threads ---- */

/* headway._atomic.`function`(place, step, ...); takes no reference. */
static PyObject *ask(LimiterObject *t, const char *function, StepObject *s) {
    PyObject *found = NULL;
    if (import_once(&found, "headway._atomic", function) < 0) {
        return NULL;
    }
    PyObject *answer = PyObject_CallFunctionObjArgs(found, t->atomic, (PyObject *)s, NULL);
    Py_DECREF(found);
    return answer;
}

static int ask_and_drop(LimiterObject *t, const char *function, StepObject *s) {
    PyObject *answer = s == NULL ? NULL : ask(t, function, s);
    Py_XDECREF(answer);
    Py_XDECREF(s);
    return answer == NULL ? -1 : 0;
}

int atomic_limit(LimiterObject *t, PlanObject *plan, const struct table_key *key, int64_t cost, int64_t timeout_ns,
                 struct outcome *out) {
    StepObject *s = step_limit(t, plan, key, cost, timeout_ns);
    PyObject *done = s == NULL             ? NULL
                     : s->deadline_ns == 0 ? PyObject_CallMethodOneArg(t->atomic, t->module->str_update, (PyObject *)s)
                                           : ask(t, "limit", s);
    if (done != NULL) {
        *out = s->out;
    }
    Py_XDECREF(done);
    Py_XDECREF(s);
    return done == NULL ? -1 : 0;
}

int atomic_reset(LimiterObject *t, PlanObject *plan, const struct table_key *key) {
    return ask_and_drop(t, "update", step_new(t, plan, key, STEP_RESET, 0));
}

int atomic_settle(LimiterObject *t, PlanObject *plan, int rule, const struct table_key *key, int64_t surplus) {
    StepObject *s = step_new(t, plan, key, STEP_SETTLE, surplus);
    if (s != NULL) {
        s->rule = rule;
    }
    return ask_and_drop(t, "update_from_anywhere", s);
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

PySendResult atomic_start(CallObject *c, PyObject **result) {
    static const char *const coroutines[] = {
        [CALL_LIMIT] = "limit_async", [CALL_ENTER] = "limit_async", [CALL_PEEK] = "peek_async",
        [CALL_RESET] = "reset_async", [CALL_PERMIT] = NULL,         [CALL_RUN] = NULL,
    };
    LimiterObject *t = (LimiterObject *)c->owner;
    PySendResult end = PYGEN_ERROR;
    StepObject *s = step_of_call(c);
    PyObject *tried = s == NULL ? NULL : PyObject_CallMethodOneArg(t->atomic, t->module->str_try_update, (PyObject *)s);
    int done = tried == NULL ? -1 : PyObject_IsTrue(tried);
    Py_XDECREF(tried);
    if (done > 0 && s->due_ns == 0 && (s->admitted || s->deadline_ns == 0)) {
        *result = call_conclude(c, answer_of(c, s));
        end = *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
    } else if (done > 0) {
        end = call_delegate(c, ask(t, "wait_async", s), result);
    } else if (done == 0) {
        end = call_delegate(c, ask(t, coroutines[c->kind], s), result);
    }
    Py_XDECREF(s);
    return end;
}
