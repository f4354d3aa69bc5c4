/* A task in line: what it awaits while it waits.
 *
 *   Call (call_type.c)         what `await t.limit()` awaits; decides at once, or makes
 *   TaskWait (task_wait.c)     a position in a line on which a task of asyncio sleeps, as on a future
 *   Waker (waker.c)            one per event loop: keeps the time of all its TaskWaits by one timer (timer.c), and completes them
 *
 * The task yields the TaskWait itself; asyncio takes whatever has the methods of a future. That saves a future, its iterator and
 * a callback per waiter. */
#ifndef HEADWAY_TASK_H
#define HEADWAY_TASK_H

#include "wait.h"
#include "waker.h"

enum task_wait_state { TASK_WAITING, TASK_DECIDED, TASK_CANCELLED };

typedef struct task_wait_object {
    PyObject_HEAD
    struct wait wait;
    struct module_state *module;
    PyObject *place, *plan,
        *key; /* what has the line (not the limiter, which may refer to what waits), kept alive for the core; or NULL */
    PyObject *loop;               /* NULL: not of asyncio; then `callback` is called when there is news */
    PyObject *callback, *context; /* of the task that sleeps */
    PyObject *more;               /* NULL, or a list of what was added beside it: pairs (callback, context or None) */
    Py_ssize_t more_called; /* so many of these the loop has been asked to call: all that were there when it was over */
    PyObject *message;      /* of cancel() */
    WakerObject *waker;
    struct task_wait_object *next_woken; /* in the module's list, then in the waker's */
    int64_t instant;                     /* when to look again; the waker's, with its lock, as the next two */
    Py_ssize_t heap_index;               /* -1: not in the heap */
    bool woken_early;                    /* woken before it was in the heap */
    _Atomic bool queued;                 /* on one of these lists */
    _Atomic uint64_t turn;               /* which of all that were served in this module; 0: not served */
    _Atomic uint8_t state; /* the loop's thread changes it, and so does what has made sure that the loop is no more */
    bool scheduled;        /* the loop will call the callback */
    bool blocking;         /* _asyncio_future_blocking */
} TaskWaitObject;

/* Nothing is waited for yet. `loop` NULL: not of asyncio. Takes references to all but `plan` and `key`, which it takes over. */
TaskWaitObject *task_wait_new(struct module_state *m, PyObject *place, PyObject *plan, PyObject *key, PyObject *loop);
/* It has joined the line: keep its time. -1: an exception, and it has left. */
int task_wait_sleep(TaskWaitObject *t, int64_t until);
/* Leaves the line, or gives back what was decided and not taken. A task that sleeps on it is not woken. */
void task_wait_give_up(TaskWaitObject *t);
/* The same, and a task that sleeps on it goes on. */
void task_wait_abort(TaskWaitObject *t);
/* Whether it is over. If not, keeps its new time. In the loop's thread. */
bool task_wait_look(TaskWaitObject *t, struct kept_error *k);
/* It is over: the task that sleeps on it goes on. -1: it does not, since the loop refused for a reason that is kept; to be tried again. */
int task_wait_complete(TaskWaitObject *t, struct kept_error *k);
/* What `await` of it gives. 0, or -1 and an exception. */
int task_wait_result(TaskWaitObject *t);

#endif
