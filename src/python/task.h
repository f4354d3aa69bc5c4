/* A task in line: what it awaits while it waits, and the waker of its event loop.
 *
 *   Call (call_type.c)         what `await t.limit()` awaits; decides at once, or makes
 *   TaskWait (task_wait.c)     a place in line that a task of asyncio sleeps on, as on a future
 *   Waker (waker.c)            one per event loop: keeps the time of all its TaskWaits by one timer (timer.c), and completes them
 *
 * The task yields the TaskWait itself; asyncio takes whatever has the methods of a future. That saves a future, its iterator and
 * a callback per waiter. */
#ifndef HEADWAY_TASK_H
#define HEADWAY_TASK_H

#include "wait.h"

struct waker_object;

enum task_wait_state { TASK_WAITING, TASK_DECIDED, TASK_CANCELLED };

typedef struct task_wait_object {
    PyObject_HEAD
    struct wait wait;
    struct module_state *module;
    PyObject *owner, *plan, *key; /* kept alive for the core */
    PyObject *loop;               /* NULL: not of asyncio; then `callback` is called when there is news */
    PyObject *callback, *context; /* of the task that sleeps */
    PyObject *message;            /* of cancel() */
    struct waker_object *waker;
    struct task_wait_object *next_woken; /* in the module's list, then in the waker's */
    int64_t instant;                     /* when to look again */
    Py_ssize_t heap_index;               /* -1: the waker does not keep its time */
    _Atomic bool queued;                 /* on one of these lists */
    uint8_t state;
    bool begun;    /* it has joined the line, or was decided */
    bool taken;    /* the decision has been handed over, or given back */
    bool blocking; /* _asyncio_future_blocking */
} TaskWaitObject;

/* Not begun yet. `loop` NULL: not of asyncio. Takes references to all but `plan` and `key`, which it takes over. */
TaskWaitObject *task_wait_new(struct module_state *m, PyObject *owner, PyObject *plan, PyObject *key, PyObject *loop);
/* It has joined the line: keep its time. -1: an exception, and it has left. */
int task_wait_sleep(TaskWaitObject *t, int64_t until);
/* Leaves the line, or gives back what was decided and not taken. */
void task_wait_give_up(TaskWaitObject *t);
/* Looks whether it is decided; completes it if so, else keeps its new time. */
void task_wait_look(TaskWaitObject *t);

typedef struct waker_object {
    PyObject_HEAD
    struct module_state *module;
    PyObject *loop;        /* a weak reference */
    PyObject *handle;      /* a weak reference to the timer's handle, or NULL */
    int timer;             /* a timerfd that the loop watches; -1: not yet, -2: it can't, and its own timers serve */
    PyObject *alarm;       /* borrowed: what the loop calls; it goes when the loop drops it */
    unsigned long thread;  /* where the loop was last seen running */
    struct lock lock;      /* guards what follows; no Python under it */
    TaskWaitObject **heap; /* all that wait, the earliest first; owned */
    Py_ssize_t count, room;
    TaskWaitObject *ready, **ready_end; /* woken, in order; owned */
    int64_t armed;                      /* when the timer goes off; INT64_MAX: there is none */
    bool scheduled, running;
} WakerObject;

WakerObject *waker_of(struct module_state *m, PyObject *loop); /* a new reference */
int waker_keep(WakerObject *w, TaskWaitObject *t, int64_t instant);
void waker_forget(WakerObject *w, TaskWaitObject *t);
/* Sees to those who are woken or due: what the loop's callback does. */
void waker_run(WakerObject *w);
/* Takes the reference to `t` over. */
void waker_enqueue(WakerObject *w, TaskWaitObject *t);

/* ---- timer.c: an exact timer ---- */

/* True: `callback` is called at the instant (INT64_MAX: never), each time anew. False: this loop needs its own timers; no exception. */
bool timer_set(WakerObject *w, PyObject *loop, PyObject *callback, int64_t instant);
void timer_heard(WakerObject *w);
void timer_close(WakerObject *w);

#endif
