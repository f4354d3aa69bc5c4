/* Waker: one for each event loop of asyncio. It keeps the time of the TaskWaits of its loop, and completes them.
 *
 * What holds at every moment, and what the code relies on:
 *
 *   1. The loop's own thread runs waker_keep and waker_run. Any thread may call waker_enqueue and waker_forget, and any may drop the last
 *      reference to an alarm.
 *   2. `lock` guards the fields below it. No Python code runs and no reference is dropped under it.
 *   3. A TaskWait is in the heap from waker_keep until it is over. Only those in the heap get on the list `ready`.
 *   4. While the heap is not empty and waker_run does not run, the loop holds `alarm` and calls it at `alarm_at` at the latest, which is no
 *      later than the earliest instant of the heap; and at once, if `ready` is not empty: then `signalled` is set.
 *   5. Nothing but the loop holds an alarm for longer than a call. So the death of `alarm` means that the loop was closed or dropped: those in
 *      the heap leave their lines then. A closed loop does not tell in any other way.
 *   6. The heap owns its TaskWaits, as the timers of a loop own who sleeps: a task that nothing else refers to must not be collected in the
 *      midst of its wait. To the collector these references are those of `alarm`, so a loop that is dropped unclosed takes its waiters along. */
#ifndef HEADWAY_WAKER_H
#define HEADWAY_WAKER_H

#include "fork.h"
#include "kept_error.h"
#include "module.h"

struct task_wait_object;

enum timer_kind {
    TIMER_NOT_OPEN,
    TIMER_OF_KERNEL, /* the loop watches a timerfd and an eventfd */
    TIMER_OF_LOOP,   /* the loop's call_later and call_soon_threadsafe */
};

typedef struct waker_object {
    PyObject_HEAD
    struct module_state *module;
    PyObject *loop; /* a weak reference */
    PyObject
        *handle; /* of TIMER_OF_LOOP: a weak reference to the loop's timer, or NULL; the loop's thread alone uses it */
    struct waker_object *next_called; /* see wait_flush_now */
    struct fork_owner fork;
    struct lock lock;
    struct task_wait_object **heap; /* all that wait, the earliest first; owned */
    Py_ssize_t count, room;
    struct task_wait_object *ready, **ready_end; /* woken, in order; owned */
    PyObject *alarm;                             /* borrowed, and only compared; NULL: the loop holds none */
    enum timer_kind timer;
    int timer_fd, signal_fd; /* of TIMER_OF_KERNEL */
    int64_t alarm_at;        /* an instant: the timer goes off, and the alarm is called; INT64_MAX: it is not set */
    bool signalled;          /* the alarm (or the waker itself) is called at once */
    bool running;            /* waker_run runs, or is about to, and will look at `ready` and arm */
} WakerObject;

/* The loop's one, made when new: a new reference. */
WakerObject *waker_of(struct module_state *m, PyObject *loop);

/* `t` waits from here on, until the instant at first (INT64_MAX: until it is woken). -1: an exception, and it is not kept. */
int waker_keep(WakerObject *w, struct task_wait_object *t, int64_t instant);
/* It is over. */
void waker_forget(WakerObject *w, struct task_wait_object *t);

/* The loop calls soon. In its thread. `waker_run` follows, in which the waiters that were woken meanwhile are completed. */
void waker_begin(WakerObject *w);
/* Looks at those who were woken or are due, completes those that are decided, in the order in which their lines served them, and sees to it
 * that the loop calls again. */
void waker_run(WakerObject *w, struct kept_error *k);

/* `t` was woken: the loop is to look at it. Takes the reference to `t` over and answers true; false: `t` does not wait, or not yet. `*call` (a
 * new reference, or NULL): waker_call must be called for it, without a lock. Any thread, with the lock of the list of woken tasks. */
bool waker_enqueue(WakerObject *w, struct task_wait_object *t, WakerObject **call);
/* Has the loop call, by its call_soon_threadsafe. */
void waker_call(WakerObject *w, struct kept_error *k);

PyTypeObject *waker_type_make(PyObject *module);
PyTypeObject *alarm_type_make(PyObject *module);

/* ---- timer.c: how the loop is made to call the alarm ---- */

/* With the lock, from any thread. False: nothing is done, since the timer is not open, or is the loop's own. */
bool timer_set(WakerObject *w, int64_t instant);
bool timer_signal(WakerObject *w);
/* In the loop's thread, without the lock, where these have answered false. 1: the loop holds `alarm`, and these can be used; 0: the loop holds
 * `alarm` and calls it at the instant; -1: an exception, and neither. */
int timer_open(WakerObject *w, PyObject *loop, PyObject *alarm, int64_t instant, struct kept_error *k);
/* With the lock: the loop has called the alarm. */
void timer_heard(WakerObject *w);
/* With the lock: the loop holds no alarm any more. */
void timer_close(WakerObject *w);
/* In a fork's child, with the lock: what is the parent's timer too is left alone. */
void timer_forked(WakerObject *w);

#endif
