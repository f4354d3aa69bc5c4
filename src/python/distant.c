/* A call that is decided on a server, as a task awaits it: the same steps as remote_run, with the event loop in between.
 *
 * In asyncio the loop's own connection is asked. A client of the user's own is asked by a coroutine. Where trio runs the loop, one of
 * its threads does what a thread would do, but for the sleeping. */
#include "distant.h"

#include <unistd.h>

#include "call_type.h"
#include "clock.h"
#include "leased.h"
#include "loop_link.h"

struct distant *distant_new(void) {
    struct distant *d = PyMem_Calloc(1, sizeof *d);
    if (d == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    atomic_init(&d->owners, 1);
    return d;
}

void distant_release(struct distant *d) {
    if (d == NULL || atomic_fetch_sub(&d->owners, 1) > 1) {
        return;
    }
    if (d->foreign != NULL) {
        request_free(d->foreign);
    }
    remote_free(&d->remote);
    PyMem_Free(d->remote.take);
    Py_XDECREF(d->remote.plan);
    Py_XDECREF(d->key_owner);
    free(d->words.bytes);
    PyMem_Free(d);
}

static RedisStoreObject *store_of(const CallObject *c) {
    return c->kind == CALL_RUN ? (RedisStoreObject *)c->owner : ((LimiterObject *)c->owner)->on_redis;
}

/* ---- waiting ---- */

/* For the reply to `request` (taken over), or, without one, until the instant. */
static PySendResult sleep_on(CallObject *c, PyObject *loop, int64_t instant_ns, struct redis_request *request,
                             PyObject **result) {
    int64_t until = instant_ns;
    Py_CLEAR(c->wait); /* the one before, which is over */
    c->wait = task_wait_new(store_of(c)->module, NULL, NULL, NULL, loop);
    if (c->wait == NULL) {
        if (request != NULL) {
            request_free(request);
        }
        return PYGEN_ERROR;
    }
    if (request == NULL) {
        wait_begin_instant(&c->wait->wait, instant_ns, &until);
    } else {
        LoopLinkObject *link = loop_link_of(c->distant->remote.link, loop);
        if (link == NULL) {
            request_free(request);
            return PYGEN_ERROR;
        }
        int begun = wait_begin_reply(c->wait, link, request, &c->distant->remote, &until);
        Py_DECREF(link);
        if (begun < 0) {
            return PYGEN_ERROR;
        }
    }
    return call_sleep_on(c, request == NULL ? CALL_ASLEEP : CALL_ASKED, loop, until, result);
}

static PySendResult sleep_until(CallObject *c, int64_t instant_ns, PyObject **result) {
    PyObject *loop;
    if (call_need_loop(store_of(c)->module, &loop) < 0) {
        return PYGEN_ERROR;
    }
    PySendResult end = sleep_on(c, loop, instant_ns, NULL, result);
    Py_XDECREF(loop);
    return end;
}

/* ---- asking ---- */

static int64_t rest_of(const CallObject *c) {
    if (c->timeout_ns < 0 || c->timeout_ns == INT64_MAX) {
        return c->timeout_ns;
    }
    int64_t rest = c->timeout_ns - (clock_now() - c->distant->start);
    return rest > 0 ? rest : 0;
}

static bool reserves(const CallObject *c) {
    return c->timeout_ns > 0 && algorithm_is_bucket(c->distant->remote.plan->plan->algorithm);
}

/* What trio's thread calls; the capsule is an owner of its own, since a coroutine can be dropped under way. */
static PyObject *work(PyObject *bound, PyObject *unused) {
    (void)unused;
    struct distant *d = PyCapsule_GetPointer(PyTuple_GET_ITEM(bound, 0), NULL);
    if (d == NULL || remote_run((RedisStoreObject *)PyTuple_GET_ITEM(bound, 1), &d->remote) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
static PyMethodDef work_method = {"decide", work, METH_NOARGS, NULL};

static void release_capsule(PyObject *capsule) {
    distant_release(PyCapsule_GetPointer(capsule, NULL));
}

static PySendResult ask_in_thread(CallObject *c, PyObject **result) {
    PyObject *in_thread = NULL, *coroutine = NULL;
    if (import_once(&in_thread, "headway._trio", "in_thread") < 0) {
        return PYGEN_ERROR;
    }
    PyObject *capsule = PyCapsule_New(c->distant, NULL, release_capsule);
    if (capsule != NULL) {
        atomic_fetch_add(&c->distant->owners, 1);
        /* with the store and what the key's bytes belong to */
        PyObject *bound = Py_BuildValue("(NOO)", capsule, store_of(c), c->key != NULL ? c->key : Py_None);
        PyObject *function = bound == NULL ? NULL : PyCFunction_New(&work_method, bound);
        coroutine = function == NULL ? NULL : PyObject_CallOneArg(in_thread, function);
        Py_XDECREF(function);
        Py_XDECREF(bound);
    }
    Py_DECREF(in_thread);
    return call_delegate(c, CALL_THREAD, coroutine, result);
}

static PySendResult ask(CallObject *c, PyObject **result) {
    struct distant *d = c->distant;
    RedisStoreObject *s = store_of(c);
    PyObject *loop;
    if (d->remote.kind == REMOTE_LIMIT) {
        d->remote.most_wait_ns = reserves(c) ? rest_of(c) : 0;
    }
    if (call_need_loop(s->module, &loop) < 0) {
        return PYGEN_ERROR;
    }
    if (loop == NULL) {
        return ask_in_thread(c, result);
    }
    PySendResult end = PYGEN_ERROR;
    struct redis_request *request = remote_request(s, &d->remote);
    if (request != NULL && s->client != NULL) {
        d->foreign = request;
        end = call_delegate(c, CALL_CLIENT, foreign_call_async(s, &d->remote, request), result);
    } else if (request != NULL) {
        end = sleep_on(c, loop, 0, request, result);
    }
    Py_DECREF(loop);
    return end;
}

/* Awaits the topology's coroutine. */
static PySendResult refresh(CallObject *c, PyObject **result) {
    RedisStoreObject *s = store_of(c);
    return call_delegate(c, CALL_REFRESHING, PyObject_CallMethod(s->topology, "refresh_async", "O", (PyObject *)s),
                         result);
}

/* ---- the answer ---- */

static PySendResult finish(CallObject *c, PyObject **result) {
    struct remote *r = &c->distant->remote;
    struct module_state *m = store_of(c)->module;
    c->distant->reserved = false;
    if (c->kind == CALL_PEEK) {
        struct decision d;
        plan_report(r->plan, &r->out, &d);
        *result = state_new(m, &d);
    } else if (c->kind == CALL_RESET) {
        leased_drop(r->plan, &r->key); /* what was taken meanwhile, the server does not know of */
        *result = Py_NewRef(Py_None);
    } else if (c->kind == CALL_RUN) {
        *result = r->answer;
        r->answer = NULL;
    } else {
        *result = call_conclude(c, result_new(m, r->plan, &r->out));
    }
    return call_end(*result);
}

/* The server has decided. */
static PySendResult on_decision(CallObject *c, PyObject **result) {
    struct distant *d = c->distant;
    struct remote *r = &d->remote;
    struct outcome *out = &r->out;
    if (r->kind == REMOTE_LEASE && !lease_end(r->plan->lease, &r->key, r->take, &r->out)) {
        remote_renew(r, REMOTE_LEASE);
        return ask(c, result);
    }
    if (r->kind == REMOTE_LEASE) { /* who may wait, and was refused, reserves */
        if (out->kind != OUTCOME_DENIED || c->timeout_ns <= 0) {
            return finish(c, result);
        }
        remote_renew(r, REMOTE_LIMIT);
        return ask(c, result);
    }
    if (c->kind >= CALL_PEEK || c->timeout_ns < 0 || c->cost == 0) {
        return finish(c, result);
    }
    if (out->kind == OUTCOME_ADMITTED) {
        int64_t wait = out->wait_ns;
        out->wait_ns = -1;
        d->reserved = wait > 0;
        d->reserved_by = wait > 0 ? getpid() : 0;
        return wait > 0 ? sleep_until(c, clock_now() + wait, result) : finish(c, result);
    }
    struct decision told;
    plan_report(r->plan, out, &told);
    if (reserves(c) || told.retry_after_ns > rest_of(c)) {
        return finish(c, result);
    }
    r->give_up = 0;
    r->tries = 0;
    return sleep_until(c, clock_now() + told.retry_after_ns, result);
}

/* With an exception set: on_error's answer instead of it. What changes something, and a script, raise. */
static PySendResult on_failure(CallObject *c, PyObject **result) {
    struct remote *r = &c->distant->remote;
    if (c->kind == CALL_RESET || c->kind == CALL_RUN ||
        redis_store_follow_policy(store_of(c), r->plan, &r->key, c->cost, &r->out) < 0) {
        return PYGEN_ERROR;
    }
    return finish(c, result);
}

/* The request is over: what the server said decides how it goes on. */
static PySendResult on_reply(CallObject *c, struct redis_request *request, PyObject **result) {
    switch (remote_next(store_of(c), &c->distant->remote, request)) {
    case REMOTE_DONE:
        return on_decision(c, result);
    case REMOTE_AGAIN:
        return ask(c, result);
    case REMOTE_PAUSE:
        return sleep_until(c, clock_now() + REMOTE_PAUSE_NS, result);
    case REMOTE_REFRESH:
        return refresh(c, result);
    case REMOTE_FAILED:
        break;
    }
    return on_failure(c, result);
}

PySendResult distant_on_reply(CallObject *c, PyObject **result) {
    struct wait *w = &c->wait->wait;
    LoopLinkObject *link = NULL;                               /* the request refers to it */
    struct redis_request *request = wait_take_reply(w, &link); /* what it took is the call's from here on */
    if (request == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the wait was given up");
        return PYGEN_ERROR;
    }
    PySendResult end = on_reply(c, request, result);
    request_free(request);
    Py_DECREF(link);
    return end;
}

PySendResult distant_on_client(CallObject *c, PySendResult end, PyObject *value, PyObject **result) {
    struct redis_request *request = c->distant->foreign;
    c->distant->foreign = NULL;
    if (end == PYGEN_RETURN && foreign_answer(request, value) == 0) {
        end = on_reply(c, request, result);
    } else {
        end = on_failure(c, result);
    }
    request_free(request);
    return end;
}

PySendResult distant_on_thread(CallObject *c, PySendResult end, PyObject **result) {
    return end == PYGEN_RETURN ? on_decision(c, result) : on_failure(c, result);
}

PySendResult distant_on_refreshed(CallObject *c, PySendResult end, PyObject **result) {
    return end == PYGEN_RETURN ? ask(c, result) : on_failure(c, result);
}

PySendResult distant_on_instant(CallObject *c, PyObject **result) {
    return c->distant->reserved ? finish(c, result) : ask(c, result);
}

/* ---- beginning and end ---- */

PySendResult distant_start(CallObject *c, PyObject **result) {
    if (c->kind == CALL_RUN) {
        return ask(c, result);
    }
    LimiterObject *t = (LimiterObject *)c->owner;
    struct table_key key;
    PyObject *key_owner;
    struct outcome out;
    if (key_from_object(t->module, c->key, &key, &key_owner) < 0) {
        return PYGEN_ERROR;
    }
    PlanObject *plan = limiter_plan(t, c->key);
    if (plan == NULL) {
        Py_XDECREF(key_owner);
        return PYGEN_ERROR;
    }
    if (c->kind >= CALL_PEEK) {
        c->cost = 0;
        c->timeout_ns = -1;
    }
    if (leased_spend(plan, &key, c->cost, c->timeout_ns, &out)) {
        *result = call_conclude(c, result_new(t->module, plan, &out));
        Py_XDECREF(key_owner);
        Py_DECREF(plan);
        return call_end(*result);
    }
    struct distant *d = c->distant = distant_new();
    if (d == NULL) {
        Py_XDECREF(key_owner);
        Py_DECREF(plan);
        return PYGEN_ERROR;
    }
    d->start = clock_now();
    d->key_owner = key_owner;
    d->remote.kind = c->kind == CALL_RESET ? REMOTE_RESET : REMOTE_LIMIT;
    d->remote.cost = c->cost;
    d->remote.key = key;
    d->remote.plan = plan;
    if (c->kind == CALL_RESET) {
        leased_drop(plan, &key);
    } else if (leased_asks(plan, c->cost)) {
        d->remote.take = PyMem_Malloc(sizeof *d->remote.take);
        if (d->remote.take == NULL) {
            PyErr_NoMemory();
            return PYGEN_ERROR;
        }
        d->remote.kind = REMOTE_LEASE;
        if (leased_begin(t->on_redis, plan, &key, c->cost, d->remote.take) < 0) {
            return PYGEN_ERROR;
        }
    }
    return ask(c, result);
}

/* What was reserved and is not wanted goes back, in an event loop without waiting for an answer. */
void distant_finish(CallObject *c) {
    struct distant *d = c->distant;
    struct remote *r = &d->remote;
    PyObject *error_type, *error, *traceback;
    PyErr_Fetch(&error_type, &error, &traceback);
    c->distant = NULL;
    if (r->take != NULL) {
        lease_fail(r->plan->lease, &r->key, r->take);
    }
    PyObject *loop = NULL;
    bool reserved = d->reserved && d->reserved_by == getpid();
    bool settles = reserved && call_find_loop(store_of(c)->module, &loop) > 0;
    Py_XDECREF(loop);
    error_defer_set(NULL);
    /* Without a loop the task is gone with its own, perhaps in the midst of the collector's work, which must not wait for a server: the
     * connection of the threads says it with its next request, or when it is closed. */
    struct redis_request *undo = reserved && !settles && r->link != NULL ? remote_undo_reserved(r) : NULL;
    if (undo != NULL) {
        link_tell(&r->link->link, undo);
    }
    if (settles && redis_store_undo_from_anywhere(store_of(c), r) < 0) {
        if (PyErr_ExceptionMatches(store_of(c)->module->store_error)) {
            PyErr_Clear(); /* nobody answers: the slot stays taken */
        }
        error_defer_set(NULL);
    }
    distant_release(d);
    PyErr_Restore(error_type, error, traceback);
}
