/* Decisions by tokens that are leased: see leased.h.
 *
 * A store has one plan, with one pool, for each quota: limiters come and go, what they leased stays. What is left goes back with the
 * next request for the key, when another key needs the room, and when the store ends. */
#include "leased.h"

#include "clock.h"

#define PLANS_MAX 1024 /* quotas of a store that are leased; further ones ask the server */
#define BATCH 128      /* commands in one request */

/* ---- plans ---- */

static PlanObject *shared_plan(RedisStoreObject *s, PyObject *name, PlanObject *made) {
    made->lease = lease_pool_new(made->plan, s->lease_ns, s->lease_tokens, s->lease_keys, GIL_IS_HELD);
    if (made->lease == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    /* Another thread may have been first. */
    return (PlanObject *)dict_set_default(s->leases, name, (PyObject *)made);
}

PlanObject *leased_plan(RedisStoreObject *s, PyObject *prefix, enum algorithm_id algorithm, PyObject *quotas) {
    if (s->lease_ns == 0 && s->lease_tokens == 0) {
        return plan_new(s->module, NULL, prefix, algorithm, quotas);
    }
    PyObject *name = Py_BuildValue("(OiO)", prefix, (int)algorithm, quotas);
    if (name == NULL) {
        return NULL;
    }
    PyObject *known;
    int found = dict_get(s->leases, name, &known);
    PlanObject *plan = (PlanObject *)known;
    if (found == 0) {
        plan = plan_new(s->module, NULL, prefix, algorithm, quotas);
        if (plan != NULL && lease_suits(plan->plan) && PyDict_GET_SIZE(s->leases) < PLANS_MAX) {
            Py_SETREF(plan, shared_plan(s, name, plan));
        }
    }
    Py_DECREF(name);
    return plan;
}

/* ---- giving back ---- */

/* In an event loop it is not waited for. That nobody answers leaves the tokens counted, and is nobody's error. -1: another, of a
 * signal's handler for one. */
static int leased_give_apart(RedisStoreObject *s, PlanObject *plan, const struct table_key *key,
                             const struct lease_give *give) {
    struct remote r = {.kind = REMOTE_GIVE, .plan = plan, .key = *key, .give = give};
    int answer = remote_from_anywhere(s, &r);
    remote_free(&r);
    if (answer < 0 && PyErr_ExceptionMatches(s->module->store_error)) {
        PyErr_Clear();
        answer = 0;
    }
    return answer;
}

/* As many as go into one request; frees them. NULL: no memory. */
static struct redis_request *leased_give_many(PlanObject *plan, struct lease_rest **rests) {
    struct redis_request *all = NULL;
    for (int i = 0; i < BATCH && *rests != NULL; i++) {
        struct lease_rest *rest = *rests;
        struct redis_request *one = scripts_give(plan->plan, plan->names, &rest->key, &rest->give, i == 0);
        *rests = rest->next;
        free(rest);
        all = one == NULL || all == NULL ? one : request_join(all, one);
        if (all == NULL) {
            break;
        }
    }
    return all;
}

static int leased_give_all(RedisStoreObject *s, PlanObject *plan, struct lease_rest **rests) {
    if (s->client == NULL && !redis_store_has_slots(s)) {
        struct redis_request *request = leased_give_many(plan, rests);
        if (request == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        LinkObject *link = redis_store_route(s, 0);
        request = link_object_call(link, request, NULL, NULL);
        int answer = request != NULL && request->end == REQUEST_DONE ? 0 : -1;
        if (request != NULL) {
            request_free(request);
        }
        Py_DECREF(link);
        return answer;
    }
    struct lease_rest *rest = *rests;
    struct remote r = {.kind = REMOTE_GIVE, .plan = plan, .key = rest->key, .give = &rest->give};
    int answer = remote_run(s, &r);
    remote_free(&r);
    *rests = rest->next;
    free(rest);
    return answer;
}

PyObject *redis_store_give_back(PyObject *store, PyObject *unused) {
    (void)unused;
    RedisStoreObject *s = (RedisStoreObject *)store;
    PyObject *plans = s->leases == NULL ? NULL : PyDict_Values(s->leases);
    bool failed = false;
    for (Py_ssize_t i = 0; plans != NULL && i < PyList_GET_SIZE(plans); i++) {
        PlanObject *plan = (PlanObject *)PyList_GET_ITEM(plans, i);
        struct lease_rest *rests = lease_drain(plan->lease);
        while (rests != NULL && !failed) {
            failed = leased_give_all(s, plan, &rests) < 0;
        }
        while (rests != NULL) { /* nobody answers: they stay counted until their time is over */
            struct lease_rest *rest = rests;
            rests = rest->next;
            free(rest);
        }
    }
    Py_XDECREF(plans);
    if (PyErr_Occurred() && PyErr_ExceptionMatches(s->module->store_error)) {
        PyErr_Clear();
    }
    if (PyErr_Occurred()) { /* of a signal's handler */
        return NULL;
    }
    Py_RETURN_NONE;
}

void leased_drop(PlanObject *plan, const struct table_key *key) {
    if (plan->lease != NULL) {
        lease_drop(plan->lease, key);
    }
}

/* ---- deciding ---- */

bool leased_asks(const PlanObject *plan, int64_t cost) {
    return plan->lease != NULL && cost > 0 && !plan_never_fits(plan->plan, cost);
}

int leased_begin(RedisStoreObject *s, PlanObject *plan, const struct table_key *key, int64_t cost,
                 struct lease_take *take) {
    struct lease_rest *rest;
    int answer = 0;
    lease_begin(plan->lease, key, cost, take, &rest);
    if (rest != NULL) {
        answer = leased_give_apart(s, plan, &rest->key, &rest->give);
        free(rest);
    }
    if (answer == 0 && s->client != NULL && take->give.count > 0 && !algorithm_is_bucket(plan->plan->algorithm)) {
        answer = leased_give_apart(s, plan, key, &take->give); /* such a client takes one command at a time */
        take->give.count = 0;
    }
    if (answer < 0) {
        lease_fail(plan->lease, key, take);
    }
    return answer;
}

int leased_limit(RedisStoreObject *s, PlanObject *plan, const struct table_key *key, int64_t cost, int64_t timeout_ns,
                 struct outcome *out) {
    if (leased_spend(plan, key, cost, timeout_ns, out)) {
        return 1;
    }
    if (!leased_asks(plan, cost)) {
        return 0;
    }
    struct lease_take take;
    struct remote r = {.kind = REMOTE_LEASE, .plan = plan, .key = *key, .take = &take};
    if (leased_begin(s, plan, key, cost, &take) < 0) {
        return -1;
    }
    do {
        remote_renew(&r, REMOTE_LEASE);
        int answer = remote_run(s, &r);
        remote_free(&r);
        if (answer < 0) {
            lease_fail(plan->lease, key, &take);
            return redis_store_follow_policy(s, plan, key, cost, out) < 0 ? -1 : 1;
        }
    } while (!lease_end(plan->lease, key, &take, out));
    return out->kind == OUTCOME_DENIED && timeout_ns > 0 ? 0 : 1;
}
