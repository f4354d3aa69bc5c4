/* Decisions by tokens that are leased: what threads and tasks share of it. See lease.h. */
#ifndef HEADWAY_LEASED_H
#define HEADWAY_LEASED_H

#include "remote.h"

/* A plan for the store: where it leases, the one for all who have the same quota. A new reference. */
PlanObject *leased_plan(RedisStoreObject *s, PyObject *prefix, enum algorithm_id algorithm, PyObject *quotas);

/* True: decided here. A call that may wait is not denied here: it reserves. */
static inline bool leased_spend(PlanObject *plan, const struct table_key *key, int64_t cost, int64_t timeout_ns,
                                struct outcome *out) {
    return plan->lease != NULL && cost > 0 && lease_spend(plan->lease, key, cost, timeout_ns < 0, out);
}

/* Is a block to be asked for? Then leased_begin (-1: an exception), the request, lease_end or lease_fail. */
bool leased_asks(const PlanObject *plan, int64_t cost);
int leased_begin(RedisStoreObject *s, PlanObject *plan, const struct table_key *key, int64_t cost,
                 struct lease_take *take);
void leased_drop(PlanObject *plan, const struct table_key *key);

/* As a thread. 1 with *out; 0: it is for the server; -1 with an exception. */
int leased_limit(RedisStoreObject *s, PlanObject *plan, const struct table_key *key, int64_t cost, int64_t timeout_ns,
                 struct outcome *out);

PyObject *redis_store_give_back(PyObject *store, PyObject *unused);

#endif
