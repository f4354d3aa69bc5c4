/* A call that is decided on a server, as a task awaits it: the same steps as remote_run, with the event loop in between. */
#include "call_type.h"
#include "clock.h"
#include "loop_link.h"
#include "remote.h"

/* How far a call to a server has come. */
struct distant {
    struct remote remote;
    PyObject *key_owner; /* whose bytes the key has, or NULL */
    int64_t start;
    bool reserved; /* it is admitted, and waits for its instant */
};

static PySendResult distant_sleep(CallObject *c, int64_t instant_ns, struct redis_request *request, PyObject **result) {
    struct module_state *m = ((LimiterObject *)c->owner)->module;
    PyObject *loop = running_loop(m);
    LoopLinkObject *link = NULL;
    PySendResult end = PYGEN_ERROR;
    int64_t until = instant_ns;
    if (loop == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(m->setup_error,
                            "RedisStore is awaited in an event loop of asyncio; trio is not in this release of "
                            "headway.");
        }
        goto done;
    }
    if (c->wait != NULL) {
        task_wait_give_up(c->wait);
        Py_CLEAR(c->wait);
    }
    c->wait = task_wait_new(m, c->owner, NULL, NULL, loop);
    if (c->wait == NULL) {
        goto done;
    }
    if (request == NULL) {
        wait_begin_instant(&c->wait->wait, instant_ns, &until);
    } else {
        link = loop_link_of(c->distant->remote.link, loop);
        if (link == NULL) {
            goto done;
        }
        int begun = wait_begin_reply(c->wait, link, request, &until);
        request = NULL;
        if (begun < 0) {
            goto done;
        }
    }
    c->wait->begun = true;
    end = call_sleep_on(c, loop, until, result);
done:
    if (request != NULL) {
        request_free(request);
    }
    Py_XDECREF(link);
    Py_XDECREF(loop);
    return end;
}

static int64_t distant_rest(const CallObject *c) {
    if (c->timeout_ns < 0 || c->timeout_ns == INT64_MAX) {
        return c->timeout_ns;
    }
    int64_t rest = c->timeout_ns - (clock_now() - c->distant->start);
    return rest > 0 ? rest : 0;
}

static bool reserves(const CallObject *c) {
    return c->timeout_ns > 0 && algorithm_is_bucket(c->distant->remote.plan->plan->algorithm);
}

PySendResult distant_ask(CallObject *c, PyObject **result) {
    struct remote *r = &c->distant->remote;
    r->most_wait_ns = reserves(c) ? distant_rest(c) : 0;
    struct redis_request *request = remote_request(((LimiterObject *)c->owner)->redis, r);
    return request == NULL ? PYGEN_ERROR : distant_sleep(c, 0, request, result);
}

static PySendResult distant_conclude(CallObject *c, PyObject **result) {
    struct remote *r = &c->distant->remote;
    LimiterObject *t = (LimiterObject *)c->owner;
    c->distant->reserved = false;
    if (c->kind == CALL_PEEK) {
        struct decision d;
        plan_report(r->plan, &r->out, &d);
        *result = state_new(t->module, &d);
    } else if (c->kind == CALL_RESET) {
        *result = Py_NewRef(Py_None);
    } else {
        *result = call_conclude(c, result_new(t->module, r->plan, &r->out));
    }
    return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
}

/* Awaits the topology's coroutine; call_send goes on with distant_ask. */
static PySendResult distant_refresh(CallObject *c, PyObject **result) {
    LimiterObject *t = (LimiterObject *)c->owner;
    c->inner = PyObject_CallMethod(t->redis->topology, "refresh_async", "O", (PyObject *)t->redis);
    if (c->inner == NULL) {
        return PYGEN_ERROR;
    }
    PySendResult end = PyIter_Send(c->inner, Py_None, result);
    if (end == PYGEN_RETURN) {
        Py_CLEAR(*result);
        Py_CLEAR(c->inner);
        return distant_ask(c, result);
    }
    c->phase = CALL_WAITING;
    return end;
}

static PySendResult distant_decided(CallObject *c, PyObject **result) {
    struct distant *d = c->distant;
    struct outcome *out = &d->remote.out;
    if (c->kind >= CALL_PEEK || c->timeout_ns < 0 || c->cost == 0) {
        return distant_conclude(c, result);
    }
    if (out->kind == OUTCOME_ADMITTED) {
        int64_t wait = out->wait_ns;
        out->wait_ns = -1;
        d->reserved = wait > 0;
        return wait > 0 ? distant_sleep(c, clock_now() + wait, NULL, result) : distant_conclude(c, result);
    }
    struct decision told;
    plan_report(d->remote.plan, out, &told);
    if (reserves(c) || told.retry_after_ns > distant_rest(c)) {
        return distant_conclude(c, result);
    }
    d->remote.give_up = 0;
    d->remote.tries = 0;
    return distant_sleep(c, clock_now() + told.retry_after_ns, NULL, result);
}

/* The wait is over: what the server said decides how it goes on. */
PySendResult distant_go_on(CallObject *c, PyObject **result) {
    LimiterObject *t = (LimiterObject *)c->owner;
    struct remote *r = &c->distant->remote;
    if (c->wait->wait.kind == WAIT_INSTANT) {
        return c->distant->reserved ? distant_conclude(c, result) : distant_ask(c, result);
    }
    switch (remote_next(t->redis, r, c->wait->wait.reply.request)) {
    case REMOTE_DONE:
        return distant_decided(c, result);
    case REMOTE_AGAIN:
        return distant_ask(c, result);
    case REMOTE_PAUSE:
        return distant_sleep(c, clock_now() + REMOTE_PAUSE_NS, NULL, result);
    case REMOTE_REFRESH:
        return distant_refresh(c, result);
    case REMOTE_FAILED:
        break;
    }
    if (c->kind >= CALL_PEEK || redis_store_follow_policy(t->redis, r->plan, &r->key, c->cost, &r->out) < 0) {
        return PYGEN_ERROR;
    }
    return distant_conclude(c, result);
}

PySendResult distant_start(CallObject *c, PyObject **result) {
    LimiterObject *t = (LimiterObject *)c->owner;
    struct distant *d = c->distant = PyMem_Calloc(1, sizeof *d);
    if (d == NULL) {
        PyErr_NoMemory();
        return PYGEN_ERROR;
    }
    d->start = clock_now();
    d->remote.kind = c->kind == CALL_RESET ? REMOTE_RESET : REMOTE_LIMIT;
    if (c->kind >= CALL_PEEK) {
        c->cost = 0;
        c->timeout_ns = -1;
    }
    d->remote.cost = c->cost;
    if (key_from_object(t->module, c->key, &d->remote.key, &d->key_owner) < 0) {
        return PYGEN_ERROR;
    }
    d->remote.plan = limiter_plan(t, c->key);
    return d->remote.plan == NULL ? PYGEN_ERROR : distant_ask(c, result);
}

/* What was reserved and is not wanted goes back, without waiting for an answer. */
void distant_finish(CallObject *c) {
    struct distant *d = c->distant;
    struct remote *r = &d->remote;
    PyObject *error_type, *error, *traceback;
    PyErr_Fetch(&error_type, &error, &traceback);
    c->distant = NULL;
    PyObject *loop = d->reserved && r->link != NULL ? running_loop(r->link->module) : NULL;
    LoopLinkObject *link = loop == NULL ? NULL : loop_link_of(r->link, loop);
    for (int i = 0; link != NULL && i < r->plan->plan->count; i++) {
        struct redis_request *request = scripts_settle(r->plan->plan, i, r->plan->names, &r->key,
                                                       rule_cost(&r->plan->plan->rules[i], c->cost), true);
        if (request != NULL) {
            loop_link_tell(link, request);
        }
    }
    PyErr_Clear();
    Py_XDECREF(loop);
    Py_XDECREF(link);
    remote_clear(r);
    Py_XDECREF(r->plan);
    Py_XDECREF(d->key_owner);
    PyMem_Free(d);
    PyErr_Restore(error_type, error, traceback);
}
