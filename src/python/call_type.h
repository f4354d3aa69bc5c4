/* A call that is awaited, and what its parts share: call_type.c is the awaitable, which passes for a coroutine; call_start.c makes it
 * and decides in this process; distant.c decides on a server, atomic.c in a store that is written in Python. */
#ifndef HEADWAY_CALL_TYPE_H
#define HEADWAY_CALL_TYPE_H

#include "task.h"

enum call_kind { CALL_LIMIT, CALL_ENTER, CALL_PEEK, CALL_RESET, CALL_PERMIT, CALL_RUN };

/* Between FRESH and DONE a call runs, or it is suspended. What it is suspended on is its `inner`, a coroutine to which it delegates, or
 * else its `wait`; the stage says what for. */
enum call_stage {
    CALL_FRESH,      /* not awaited yet */
    CALL_RUNNING,    /* its code runs, which may run any Python code; that cannot resume, close or free it */
    CALL_IN_LINE,    /* for a slot or a permit of this process */
    CALL_ATOMIC,     /* headway._atomic decides */
    CALL_ASKED,      /* for the reply to the event loop's own connection */
    CALL_CLIENT,     /* for the reply to the user's own client */
    CALL_THREAD,     /* trio: one of its threads asks the server and reads the reply */
    CALL_REFRESHING, /* it is being found out which server serves */
    CALL_ASLEEP,     /* for an instant: that of a reserved slot, or when to ask the server again */
    CALL_DONE,
};

typedef struct call_object {
    PyObject_HEAD
    PyObject *owner;         /* a Limiter, a Semaphore or (RUN) a RedisStore; in the free list, the next */
    PyObject *key;           /* of a permit: its holder; NULL for a script */
    TaskWaitObject *wait;    /* see call_stage */
    PyObject *inner;         /* see call_stage */
    struct distant *distant; /* where the store is on a server */
    int64_t cost, timeout_ns;
    _Atomic uint8_t stage;
    uint8_t kind;
    bool finalized; /* the collector knows that its finalizer has run, and would not run it again */
} CallObject;

#define FREE_CALLS 64 /* that are kept for the next ones */

/* ---- what the parts that decide use ---- */

/* Suspends the call on c->wait, which has begun. `loop` NULL: in another library's event loop. */
PySendResult call_sleep_on(CallObject *c, enum call_stage stage, PyObject *loop, int64_t until, PyObject **result);

/* Delegates to `coroutine` (taken over; NULL: an exception is set), as `await` does; when it is over, the call goes on with what it
 * returned or raised. */
PySendResult call_delegate(CallObject *c, enum call_stage stage, PyObject *coroutine, PyObject **result);

/* 1: `*loop` is the running loop of asyncio, or NULL where trio runs; 0: neither does; -1: an exception. */
int call_find_loop(struct module_state *m, PyObject **loop);
/* The same; -1 and an exception where neither does. */
int call_need_loop(struct module_state *m, PyObject **loop);

/* RETURN or ERROR, as *result says. */
static inline PySendResult call_end(PyObject *result) {
    return result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
}

/* ---- call_start.c ---- */

PySendResult call_start_any(CallObject *c, PyObject **result);
/* The usual case is in line: 2 of 95 ns. */
static inline PySendResult call_start(CallObject *c, PyObject **result) {
    LimiterObject *t = (LimiterObject *)c->owner;
    if (c->kind == CALL_LIMIT && t->ops == &memory_ops && c->timeout_ns < 0) {
        *result = limiter_decide(t, c->key, c->cost, -1);
        return call_end(*result);
    }
    return call_start_any(c, result);
}
/* What a decision becomes: the result, None, or an exception. Takes the result over, which may be NULL. */
PyObject *call_conclude(CallObject *c, PyObject *result);
/* What was decided in line. NULL: an exception. */
PyObject *call_take(CallObject *c);

/* The first step of a call on a MemoryStore. */
PySendResult memory_start_call(CallObject *c, PyObject **result);

/* A call of `_run`; takes `d` over. */
PyObject *call_run(struct redis_store_object *s, struct distant *d);

/* ---- distant.c ---- */

PySendResult distant_start(CallObject *c, PyObject **result);
/* How a call goes on whose c->wait is over (`end` RETURN), or whose coroutine has returned `value` or raised: by its stage. */
PySendResult distant_on_reply(CallObject *c, PyObject **result);
PySendResult distant_on_client(CallObject *c, PySendResult end, PyObject *value, PyObject **result);
PySendResult distant_on_thread(CallObject *c, PySendResult end, PyObject **result);
PySendResult distant_on_refreshed(CallObject *c, PySendResult end, PyObject **result);
PySendResult distant_on_instant(CallObject *c, PyObject **result);
/* The end, however it came. Keeps an exception that is set. */
void distant_finish(CallObject *c);

#endif
