/* What the files of this room share: the module's state, the objects' layouts, and a few conversions.
 *
 * Types are heap types and live in the module's state, one per interpreter. Nothing is static but constants, so several
 * interpreters, each with its own GIL or none, can use the module side by side. */
#ifndef HEADWAY_MODULE_H
#define HEADWAY_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <structmember.h>

#include "bucket.h"
#include "once.h"
#include "permits.h"
#include "semaphore.h"
#include "spaces.h"
#include "store.h"

#define FREE_RESULTS 32

#ifndef Py_BEGIN_CRITICAL_SECTION /* before Python 3.13 */
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

/* With a GIL, all calls on a store are made under it, and a store never leaves its interpreter. */
#ifdef Py_GIL_DISABLED
#define GIL_IS_HELD false
#else
#define GIL_IS_HELD true
#endif

struct module_state {
    PyTypeObject *rate, *quota, *state, *result, *clock, *store, *plan, *guarded, *bucket;
    PyTypeObject *limiter, *throttled, *async_throttled, *link, *loop_link, *redis_store, *shared_store, *ledger, *step;
    PyTypeObject *call, *nothing_type, *task_wait, *waker, *alarm;
    PyTypeObject *observation, *observed_dimension;
    PyTypeObject *pool, *semaphore, *sync_semaphore, *async_semaphore, *thread_life;
    /* headway.exceptions */
    PyObject *setup_error, *data_error, *store_error, *limited_error;
    PyObject *timedelta;     /* imported when first needed, as the next two */
    PyObject *run_chain;     /* headway.hooks.run_chain */
    PyObject *decorate;      /* headway._wrap.decorate */
    PyObject *default_store; /* shared by all Throttled without one of their own */
    PyObject *default_prefix;
    PyObject *str_key, *str_cost, *str_timeout, *str_value, *str_limited_error, *str_thread_life, *str_call_soon,
        *str_thread_id, *str_update, *str_try_update, *str_clock, *str_offset_ns, *str_get;
    PyObject *nothing; /* an awaitable of None, for those who have nothing to do */
    /* Of asyncio, imported when a loop may be running; NULL before. */
    PyObject *get_running_loop, *current_task, *cancelled_error;
    PyObject *wakers;                         /* WeakKeyDictionary: loop -> Waker */
    PyObject *context_name;                   /* the keyword of call_soon, as a tuple */
    struct lock woken_lock;                   /* held while the list that follows is handed out; see wait_flush_now */
    _Atomic(struct task_wait_object *) woken; /* tasks that were woken, see wait.h */
    _Atomic uint64_t turns;                   /* how many tasks in line were served */
    struct fork_owner woken_fork;
#ifndef Py_GIL_DISABLED
    struct result_object *free_results;
    int free_result_count;
    struct call_object *free_calls;
    int free_call_count;
#endif
};

extern struct PyModuleDef headway_module;

/* ---- objects ---- */

typedef struct {
    PyObject_HEAD
    int64_t limit, period_ns;
} RateObject;

typedef struct {
    PyObject_HEAD
    struct quota quota;
} QuotaObject;

typedef struct {
    PyObject_HEAD
    long long limit, remaining;
    double reset_after, retry_after; /* seconds */
} StateObject;

/* A decision as it was taken; its RateLimitState is worked out when somebody asks. */
typedef struct result_object {
    PyObject_HEAD
    PyObject *quota; /* a Quota, or NULL when `told` is all there is */
    PyObject *told;  /* a RateLimitState, or NULL until it is asked for */
    struct state state;
    int64_t now, denied_cost, wait_ns;
    bool limited;
    uint8_t algorithm;
} ResultObject;

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    struct virtual_clock clock;
} ClockObject;

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    PyObject *server, *options, *clock; /* clock: a VirtualClock or NULL */
    struct spaces *spaces;
    bool raise_when_full, ready;
    _Atomic bool warned;
    struct store store;
} StoreObject;

/* Rules as the core wants them, with the Quota objects that results point to. */
typedef struct plan_object {
    PyObject_HEAD
    PyObject *quotas; /* tuple of Quota */
    struct plan *plan;
    struct spaces *spaces;     /* of a plan for a MemoryStore: the register of its spaces, */
    int spaces_taken;          /* and how many it uses: the line's, then those of the rules */
    struct redis_names *names; /* of a plan for Redis or an AtomicStore; else NULL, as the next four */
    struct shared_plan *shared;
    PyObject *prefix;
    struct plan_object *fallback; /* the same rules in the store that decides meanwhile; made when needed */
    struct lease_pool *lease;     /* where tokens are leased; then all who have this quota share the plan */
} PlanObject;

struct store_ops;

/* Throttled, and what else enters by the quota of a key. */
typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    struct module_state *module;
    PlanObject *plan;                                 /* NULL when the quota is a callable */
    PlanObject *former;                               /* what _charge_per_call has replaced: a call may still use it */
    const struct store_ops *ops;                      /* what the store can do; it says which kind `place` is of */
    union {                                           /* the store that the user sees; NULL before __init__ */
        PyObject *place;                              /* a headway.store.AtomicStore too */
        StoreObject *in_memory;                       /* ops == &memory_ops */
        struct redis_store_object *on_redis;          /* ops == &redis_ops */
        struct shared_store_object *in_shared_memory; /* ops == &shared_ops */
    };
    PyObject *key;   /* str, bytes, callable or None */
    PyObject *quota; /* Quota, tuple of Quota, or callable */
    PyObject *cost;  /* int or callable */
    PyObject *hooks; /* tuple; NULL when empty */
    PyObject *prefix;
    PyObject *plans; /* answers of a quota callable -> Plan */
    double timeout;
    int64_t timeout_ns, cost_value; /* -1: not blocking; -1: a callable */
    enum algorithm_id algorithm;
    bool silent; /* entering returns None, not the result */
} LimiterObject;

/* The permits under one name; alive while there is a semaphore object, a lease or a waiter. */
typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    PyObject *name, *store; /* the store's clock is borrowed */
    PyObject *params, *where;
    bool ready;
    struct semaphore semaphore;
} PoolObject;

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    struct module_state *module;
    PyObject *place;  /* what has the permits; NULL before __init__ */
    PoolObject *pool; /* the same, borrowed, where they are in memory; else it is headway.limiters._door's */
    double max_sleep; /* seconds, 0 for no end */
    double expiry;
    int64_t max_sleep_ns, expiry_ns;
    struct permits permits; /* taken through this object, where they are in memory */
} SemaphoreObject;

/* ---- types: one file each ---- */

PyTypeObject *rate_type_make(PyObject *module);
PyTypeObject *quota_type_make(PyObject *module);
PyTypeObject *state_type_make(PyObject *module);
PyTypeObject *result_type_make(PyObject *module);
PyTypeObject *clock_type_make(PyObject *module);
PyTypeObject *store_type_make(PyObject *module);
PyTypeObject *plan_type_make(PyObject *module);
PyTypeObject *limiter_type_make(PyObject *module);
PyTypeObject *throttled_type_make(PyObject *module, PyTypeObject *limiter);
PyTypeObject *async_throttled_type_make(PyObject *module, PyTypeObject *limiter);
PyTypeObject *guarded_type_make(PyObject *module);
PyTypeObject *bucket_type_make(PyObject *module);
PyTypeObject *call_type_make(PyObject *module);
PyTypeObject *nothing_type_make(PyObject *module);
PyTypeObject *task_wait_type_make(PyObject *module);
PyTypeObject *waker_type_make(PyObject *module);
PyTypeObject *alarm_type_make(PyObject *module);
PyTypeObject *pool_type_make(PyObject *module);
PyTypeObject *semaphore_type_make(PyObject *module);
PyTypeObject *sync_semaphore_type_make(PyObject *module, PyTypeObject *semaphore);
PyTypeObject *async_semaphore_type_make(PyObject *module, PyTypeObject *semaphore);
PyTypeObject *thread_life_type_make(PyObject *module);

/* A heap type of the module, under `base` (NULL: object); `match_args` (NULL: none) ends in NULL. */
PyTypeObject *type_make(PyObject *module, PyType_Spec *spec, PyTypeObject *base, const char *const *match_args);
const char *type_short_name(const PyTypeObject *type);

extern PyMethodDef quota_functions[]; /* per_sec and so on */
extern PyMethodDef step_functions[];

/* ---- conversions; -1 or NULL with an exception set ---- */

/* A key as the table wants it. `*owned` (NULL or a new reference) must outlive it. */
int key_from_object(struct module_state *m, PyObject *object, struct table_key *key, PyObject **owned);
/* 1: `*value`, or `*overflow` (-1, 1) where it does not fit; 0: not an integer; -1: an exception of its __index__. */
int integer_from_object(PyObject *object, long long *value, int *overflow);
int cost_from_object(struct module_state *m, PyObject *object, int64_t *cost);
/* Seconds to nanoseconds; -1 for not blocking, INT64_MAX for no end. */
int timeout_from_object(struct module_state *m, PyObject *object, double *seconds, int64_t *ns);
int algorithm_from_object(struct module_state *m, PyObject *object, enum algorithm_id *id);
/* A Quota, a text, or a sequence of these: a tuple of Quota. */
PyObject *quotas_from_object(struct module_state *m, PyObject *object);
PyObject *seconds_object(int64_t ns);
int import_once(PyObject **slot, const char *module, const char *name);
/* `arguments` (a tuple, taken over; NULL: an exception is set) to a method of that logger. What a user's log handlers raise is
 * cleared; an interrupt that comes meanwhile is not theirs, and is raised again later. */
void log_message(const char *logger, const char *level, PyObject *arguments);
/* A WeakKeyDictionary, made when first asked for. */
int weak_dict_once(PyObject **slot);
/* 0 and *ns within the clock's bounds. */
int instant_from_object(struct module_state *m, PyObject *object, const char *name, int64_t *ns);

PyObject *quota_new(struct module_state *m, const struct quota *q);
PyObject *state_new(struct module_state *m, const struct decision *d);
PyObject *state_repr_seconds(double seconds);

/* Takes no reference; `plan` gives the Quota. */
PyObject *result_new(struct module_state *m, PlanObject *plan, const struct outcome *out);
PyObject *result_state(struct module_state *m, ResultObject *r);
void result_free_list_clear(struct module_state *m);

/* The number of a space of the store, made when new: `{prefix}:v1:{algorithm}`, and the rule's own tag if there are several. It is in
 * use until spaces_drop. */
int store_space(StoreObject *s, PyObject *prefix, enum algorithm_id algorithm, PyObject *tag, uint32_t *space);
PyObject *default_store(struct module_state *m);
/* After a decision: the first eviction of a live key is logged. */
void store_warn_evicted(StoreObject *s);

/* `store` NULL: a plan for Redis. */
PlanObject *plan_new(struct module_state *m, StoreObject *store, PyObject *prefix, enum algorithm_id algorithm,
                     PyObject *quotas);
/* Its keys have the names that they have on Redis; its quotas are whatever the core can keep. */
PlanObject *plan_new_atomic(struct module_state *m, PyObject *prefix, enum algorithm_id algorithm, PyObject *quotas);

/* ---- what a limiter asks of its store: one table for each kind, in the file of that kind ---- */

struct call_object;

struct store_ops {
    /* The rules of a quota as this store needs them. */
    PlanObject *(*bind_plan)(LimiterObject *t, PyObject *quotas);
    /* Decides, and waits for at most timeout_ns; -1: not at all. 0 with *out, or -1 and an exception, as the next two. */
    int (*limit)(LimiterObject *t, PlanObject *plan, const struct table_key *key, int64_t cost, int64_t timeout_ns,
                 struct outcome *out);
    int (*peek)(LimiterObject *t, PlanObject *plan, const struct table_key *key, struct outcome *out);
    int (*reset)(LimiterObject *t, PlanObject *plan, const struct table_key *key);
    /* Corrects what a call took under one rule. 1; 0: there is no room for the key; -1: an exception. */
    int (*settle)(LimiterObject *t, PlanObject *plan, int rule, const struct table_key *key, int64_t surplus);
    /* The first step of an awaited call. */
    PySendResult (*start_call)(struct call_object *c, PyObject **result);
};

extern const struct store_ops memory_ops; /* store_type.c */
extern const struct store_ops redis_ops;  /* redis_store_type.c */
extern const struct store_ops atomic_ops; /* atomic.c, as the next */
extern const struct store_ops shared_ops;

/* Of a store, which is made from what the user gives: a new reference, and its table. */
PyObject *store_from_argument(struct module_state *m, PyObject *store, const struct store_ops **ops);

/* The arguments of a decorated call, as a vector or as a tuple and a dict: for keys and costs made from them. */
struct call {
    PyObject *const *vector; /* NULL: `tuple` and `dict` count */
    size_t nargsf;
    PyObject *names;
    PyObject *tuple, *dict;
};

/* Decides for the instance's key and cost. 1 admitted; 0 denied; -1 an exception. `*result` (may be NULL) is set to a new
 * RateLimitResult, when `always_result` or when the call was denied. */
int limiter_acquire(LimiterObject *t, const struct call *call, int64_t timeout_ns, PyObject **result,
                    bool always_result);

/* The parts of it. Keys and plans are new references. */
LimiterObject *ready_limiter(PyObject *self);
PyObject *limiter_key(LimiterObject *t, const struct call *call);
int limiter_cost(LimiterObject *t, const struct call *call, int64_t *cost);
PlanObject *limiter_plan(LimiterObject *t, PyObject *key);
PyObject *limiter_limit(LimiterObject *t, PyObject *key, int64_t cost, int64_t timeout_ns);
PyObject *limiter_decide(LimiterObject *t, PyObject *key, int64_t cost, int64_t timeout_ns); /* without hooks */
/* Raises for an outcome that is neither admitted nor denied, where the store says so. */
int limiter_check_outcome(LimiterObject *t, const struct outcome *out);
PyObject *limiter_peek(LimiterObject *t, PyObject *key);
/* What an outcome says of its rule. */
void plan_report(const PlanObject *plan, const struct outcome *out, struct decision *d);
PyObject *limiter_reset(LimiterObject *t, PyObject *key);
/* Decides in memory, without a look at what became of it. */
int memory_limit(LimiterObject *t, PlanObject *plan, const struct table_key *key, int64_t cost, int64_t timeout_ns,
                 struct outcome *out);

/* ---- awaitables of the same; those that take a key take the reference over ---- */

PyObject *call_limit(LimiterObject *t, PyObject *key, int64_t cost, int64_t timeout_ns);
PyObject *call_enter(LimiterObject *t, const struct call *call);
/* A coroutine that takes limit() through the hooks; borrows the key. */
PyObject *limiter_hooked_call(LimiterObject *t, PyObject *key, int64_t cost, int64_t timeout_ns);
PyObject *call_peek(LimiterObject *t, PyObject *key);
PyObject *call_reset(LimiterObject *t, PyObject *key);
PyObject *call_permit(SemaphoreObject *s);

/* The holder has a permit, by the lease of that number, which keeps the pool alive. -1: an exception, and the permit is given back. */
int semaphore_entered(SemaphoreObject *s, PyObject *holder, uint64_t id);
/* It was not to be had in time: NULL, with the exception. */
PyObject *semaphore_raise_refused(SemaphoreObject *s);

void call_free_list_clear(struct module_state *m);

/* ---- who holds a permit: a task or a thread, by a weak reference. New references ---- */

PyObject *holder_thread(struct module_state *m);
PyObject *holder_task(struct module_state *m); /* the thread, where no task of asyncio runs */
bool holder_lives(struct module_state *m, PyObject *holder);
/* A task that is not done, and whose coroutine is being closed or is closed: by the collector, in the midst of another task. The
 * interpreter may still have its weak reference then. */
bool holder_is_closing(PyObject *holder);
extern PyMethodDef holder_functions[]; /* the same for Python */

/* The running loop of asyncio: a new reference, or NULL, without an exception where none is running. */
PyObject *running_loop(struct module_state *m);

/* Sleeps without the GIL until woken or `instant_ns`; PARK_FOREVER for no end. -1 when a signal handler raised. It may return
 * early, so the caller looks again. */
int sleep_in_line(struct parker *parker, int64_t instant_ns);

/* Raises what the limiter raises when it denies: LimitedError with `result`, mostly. */
void raise_limited(LimiterObject *t, PyObject *result);
PyObject *limiter_limited_error(PyObject *object, PyObject *result);

/* The interpreter ends: no thread but this one ever runs Python again. */
static inline bool interpreter_ends(void) {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

/* What a weak reference points to: a new reference, or NULL when it is gone. */
static inline PyObject *weak_target(PyObject *reference) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *target;
    return PyWeakref_GetRef(reference, &target) > 0 ? target : NULL;
#else
    PyObject *target = PyWeakref_GetObject(reference);
    return target == Py_None ? NULL : Py_XNewRef(target);
#endif
}

static inline struct module_state *module_of_limiter(PyObject *object) {
    return ((LimiterObject *)object)->module;
}

static inline struct module_state *module_of_type(PyTypeObject *type) {
    return (struct module_state *)PyType_GetModuleState(type);
}

/* For types that users may subclass: the class that made the method knows its module. */
struct module_state *module_of_instance(PyObject *self);

#endif
