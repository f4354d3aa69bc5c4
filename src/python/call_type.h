/* A call that is awaited, and what its two halves share: call_type.c decides in this process, distant.c on a server. */
#ifndef HEADWAY_CALL_TYPE_H
#define HEADWAY_CALL_TYPE_H

#include "task.h"

enum call_kind { CALL_LIMIT, CALL_ENTER, CALL_PEEK, CALL_RESET, CALL_PERMIT, CALL_RUN };
enum call_phase { CALL_FRESH, CALL_RUNNING, CALL_WAITING, CALL_DONE };

typedef struct call_object {
    PyObject_HEAD
    PyObject *owner;         /* a Limiter, a Semaphore or (RUN) a RedisStore; in the free list, the next */
    PyObject *key;           /* NULL for a permit, or a script */
    TaskWaitObject *wait;    /* while waiting */
    PyObject *inner;         /* where another library's event loop runs: the coroutine that waits there */
    struct distant *distant; /* where the store is on a server */
    int64_t cost, timeout_ns;
    uint8_t kind, phase;
    bool tracked;
} CallObject;

/* What a decision becomes: the result, None, or an exception. Takes the result over, which may be NULL. */
PyObject *call_conclude(CallObject *c, PyObject *result);
/* Sleeps on c->wait, which has begun. `loop` NULL: in another library's event loop. */
PySendResult call_sleep_on(CallObject *c, PyObject *loop, int64_t until, PyObject **result);

/* Delegates to `coroutine` (taken over), as `await` does; when it is over, the call goes on with what it returned or raised. */
PySendResult call_delegate(CallObject *c, PyObject *coroutine, PyObject **result);

/* 1: `*loop` is the running loop of asyncio, or NULL where trio runs; -1: neither does, and an exception. */
int call_find_loop(struct module_state *m, PyObject **loop);

/* The first step of a call on a MemoryStore. */
PySendResult memory_start_call(CallObject *c, PyObject **result);

/* A call of `_run`; takes `d` over. */
PyObject *call_run(struct redis_store_object *s, struct distant *d);

/* ---- distant.c ---- */

/* The first step; the next, when c->wait is over, or when a coroutine that was awaited has returned *result or raised (`end`); and
 * the end, however it came. */
PySendResult distant_start(CallObject *c, PyObject **result);
PySendResult distant_go_on(CallObject *c, PyObject **result);
PySendResult distant_resumed(CallObject *c, PySendResult end, PyObject **result);
void distant_finish(CallObject *c);

#endif
