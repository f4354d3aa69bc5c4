/* A store on a Redis server, as the limiters see it. */
#ifndef HEADWAY_REDIS_STORE_TYPE_H
#define HEADWAY_REDIS_STORE_TYPE_H

#include "link_type.h"
#include "scripts.h"

enum on_error { ON_ERROR_RAISE, ON_ERROR_ALLOW, ON_ERROR_DENY };

typedef struct redis_store_object {
    PyObject_HEAD
    PyObject *weakrefs;
    LinkObject *link;
    PyObject *server; /* the URL as it may be shown */
    enum on_error on_error;
    bool failing;     /* said so in the log */
    int64_t failures; /* decisions that on_error took */
} RedisStoreObject;

/* Decides; with a timeout that is not negative, waits. 0 with *out, -1 with an exception. */
int redis_store_limit(RedisStoreObject *s, PlanObject *plan, const struct table_key *key, int64_t cost,
                      int64_t timeout_ns, struct outcome *out);
int redis_store_settle(RedisStoreObject *s, PlanObject *plan, int rule, const struct table_key *key, int64_t surplus);
int redis_store_reset(RedisStoreObject *s, PlanObject *plan, const struct table_key *key);

/* The same in parts, for whoever waits otherwise than as a thread. */
bool redis_store_never_fits(const struct plan *p, int64_t cost);
/* A reply (borrowed) becomes an outcome. 1; 0: the server does not know the script; -1: an exception. */
int redis_store_read(RedisStoreObject *s, PlanObject *plan, const redisReply *reply, int64_t cost, struct outcome *out);
/* With an exception set: on_error's answer instead of it, or -1. */
int redis_store_follow_policy(RedisStoreObject *s, PlanObject *plan, int64_t cost, struct outcome *out);

PyTypeObject *redis_store_type_make(PyObject *module);

#endif
