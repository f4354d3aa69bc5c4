/* A store on a Redis server, as the limiters see it. */
#ifndef HEADWAY_REDIS_STORE_TYPE_H
#define HEADWAY_REDIS_STORE_TYPE_H

#include "link_type.h"
#include "once.h"
#include "scripts.h"

enum on_error { ON_ERROR_RAISE, ON_ERROR_ALLOW, ON_ERROR_DENY, ON_ERROR_FALLBACK };

typedef struct redis_store_object {
    PyObject_HEAD
    PyObject *weakrefs;
    struct module_state *module;
    PyObject *client;          /* of the user's own, see headway._redis_client; or NULL. Then there are no links */
    PyObject *server;          /* the URL as it may be shown */
    PyObject *topology;        /* finds out who serves; NULL for one server */
    PyObject *nodes;           /* of a cluster: "host:port" -> Link */
    int64_t timeout_ns;        /* of a command; 0 where there are no links */
    _Atomic int64_t refreshed; /* when a redirect last made the topology look; an instant */
    /* The routes. No Python code runs under the lock. */
    struct lock routes;
    LinkObject *link;           /* owned */
    LinkObject **_Atomic slots; /* of a cluster: 16384, owned, each may be NULL; or NULL: none is known */
    int wait_replicas;          /* how many must have a decision before it holds */
    enum on_error on_error;
    StoreObject *fallback;          /* decides while the server cannot; or NULL */
    _Atomic bool failing;           /* said so in the log */
    _Atomic int64_t failures;       /* decisions that on_error took */
    int64_t lease_ns, lease_tokens; /* how much is leased; both 0: every decision asks */
    int64_t lease_keys;             /* of each quota, at most */
    PyObject *leases; /* (prefix, algorithm, quotas) -> the Plan that leases for all who have these; or NULL */
} RedisStoreObject;

/* Decides; with a timeout that is not negative, waits. 0 with *out, -1 with an exception. */
int redis_store_limit(RedisStoreObject *s, PlanObject *plan, const struct table_key *key, int64_t cost,
                      int64_t timeout_ns, struct outcome *out);
/* The same, but in an event loop it is sent and not waited for. */
int redis_store_settle_from_anywhere(RedisStoreObject *s, PlanObject *plan, int rule, const struct table_key *key,
                                     int64_t surplus);
/* A reservation that is not wanted any more; in an event loop it is said and not waited for. */
struct remote;
int redis_store_undo_from_anywhere(RedisStoreObject *s, struct remote *r);
int redis_store_reset(RedisStoreObject *s, PlanObject *plan, const struct table_key *key);

/* The same in parts, for whoever waits otherwise than as a thread. */
/* The server has answered: if it could not before, that is said. */
void redis_store_recovered(RedisStoreObject *s);
/* With an exception set: on_error's answer instead of it, or -1. */
int redis_store_follow_policy(RedisStoreObject *s, PlanObject *plan, const struct table_key *key, int64_t cost,
                              struct outcome *out);

/* Who serves a slot (0 where there is no cluster); the link to a node, made when new; and who serves from now on. New references. */
LinkObject *redis_store_route(RedisStoreObject *s, uint16_t slot);
LinkObject *redis_store_node(RedisStoreObject *s, const char *host, int port);
int redis_store_assign(RedisStoreObject *s, int slot, LinkObject *link);
/* The slot is not served by that node any more; the server that the store began with is asked. */
void redis_store_unassign(RedisStoreObject *s, uint16_t slot, const LinkObject *link);
static inline bool redis_store_has_slots(RedisStoreObject *s) {
    return atomic_load_explicit(&s->slots, memory_order_relaxed) != NULL;
}

/* Sleeps without the GIL; -1 when a signal handler raised. */
int sleep_for(int64_t ns);

PyTypeObject *redis_store_type_make(PyObject *module);

#endif
