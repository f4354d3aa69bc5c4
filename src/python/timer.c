/* How an event loop is made to call at an instant, or at once: see waker.h.
 *
 * The timers of asyncio count whole milliseconds, rounded up, and uvloop's too. With a burst of one a wake-up that comes late costs its
 * lateness, so 1000/s would be 900/s. On Linux the loop watches two descriptors instead: a timerfd, and an eventfd that makes it call at once.
 * Both can be used from any thread, with a lock held and without Python; so a thread that serves a line wakes the tasks in it by one system call,
 * and runs no code of their event loop. (A timerfd that is set to an instant that has passed would do for both, but takes 30 times as long.)
 * Where a loop watches no descriptors, its call_later and call_soon_threadsafe serve. */
#include <fcntl.h>
#include <unistd.h>

#include "clock.h"
#include "waker.h"

#define FAR_S 3600.0

#if defined(__linux__)

#include <sys/eventfd.h>
#include <sys/timerfd.h>

bool timer_set(WakerObject *w, int64_t instant) {
    if (w->timer != TIMER_OF_KERNEL) {
        return false;
    }
    struct itimerspec when = {0};
    if (instant != INT64_MAX) {
        int64_t ns = clock_to_monotonic(instant);
        ns = ns < 1 ? 1 : ns; /* 0 would stop it */
        when.it_value = (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
    }
    timerfd_settime(w->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
    w->alarm_at = instant;
    return true;
}

bool timer_signal(WakerObject *w) {
    uint64_t one = 1;
    if (w->timer != TIMER_OF_KERNEL || write(w->signal_fd, &one, sizeof one) < 0) {
        return false;
    }
    w->signalled = true;
    return true;
}

void timer_heard(WakerObject *w) {
    uint64_t times;
    bool went_off = w->alarm_at <= clock_now(), by_kernel = w->timer == TIMER_OF_KERNEL;
    bool neither = !went_off && !w->signalled;
    if (by_kernel && (w->signalled || neither) && read(w->signal_fd, &times, sizeof times) < 0) {
        neither = true;
    }
    if (by_kernel && (went_off || neither) && read(w->timer_fd, &times, sizeof times) < 0) {
        went_off = went_off && w->alarm_at <= clock_now();
    }
    w->signalled = false;
    went_off = went_off || w->timer == TIMER_OF_LOOP; /* which may be early, and has gone off all the same */
    w->alarm_at = went_off ? INT64_MAX : w->alarm_at;
}

void timer_close(WakerObject *w) {
    if (w->timer == TIMER_OF_KERNEL) {
        close(w->timer_fd);
        close(w->signal_fd);
        w->timer = TIMER_NOT_OPEN;
    }
    w->alarm_at = INT64_MAX;
    w->signalled = false;
}

/* The numbers stay in use, for a descriptor that never is ready: uvloop, which watches all of them anew in a child, ends the process where
 * one of them is closed. They are closed with the child. */
void timer_forked(WakerObject *w) {
    if (w->timer == TIMER_OF_KERNEL) {
        int nothing = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (nothing >= 0 && dup3(nothing, w->timer_fd, O_CLOEXEC) >= 0 && dup3(nothing, w->signal_fd, O_CLOEXEC) >= 0) {
            w->timer = TIMER_NOT_OPEN;
        }
        if (nothing >= 0) {
            close(nothing);
        }
    }
    timer_close(w);
    w->timer = TIMER_OF_LOOP;
}

/* The loop calls the alarm when it can be read. */
static enum loop_answer add_reader(PyObject *loop, int fd, PyObject *alarm, struct kept_error *k) {
    PyObject *args[] = {PyLong_FromLong(fd), alarm};
    enum loop_answer done = args[0] == NULL ? LOOP_FAILED : loop_call(k, loop, "add_reader", args, 2, NULL, NULL);
    Py_XDECREF(args[0]);
    return done;
}

/* The loop forgets it, so that it may be closed. False: it may not. Keeps the exception that is set, and what comes of this. */
static bool remove_reader(PyObject *loop, int fd, struct kept_error *k) {
    error_keep(k);
    PyObject *number = PyLong_FromLong(fd);
    bool done = number != NULL && loop_call(k, loop, "remove_reader", &number, 1, NULL, NULL) != LOOP_FAILED;
    Py_XDECREF(number);
    error_keep(k);
    return done;
}

/* Of an exception of add_reader: the loop watches no descriptors, or no more of them. */
static bool says_unable(void) {
    return PyErr_ExceptionMatches(PyExc_NotImplementedError) ||
           (PyErr_ExceptionMatches(PyExc_OSError) && !PyErr_ExceptionMatches(PyExc_TimeoutError));
}

/* 1: the loop watches the descriptors and holds the alarm. 0: it cannot. -1: an exception. */
static int alarm_watch(WakerObject *w, PyObject *loop, PyObject *alarm, struct kept_error *k) {
    int fds[] = {timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    enum loop_answer done = LOOP_DONE;
    bool able = fds[0] >= 0 && fds[1] >= 0;
    int added = 0;
    while (able && done == LOOP_DONE && added < 2) {
        done = add_reader(loop, fds[added++], alarm, k);
    }
    if (able && done == LOOP_DONE) {
        lock_acquire(&w->lock);
        w->timer = TIMER_OF_KERNEL;
        w->timer_fd = fds[0];
        w->signal_fd = fds[1];
        w->alarm_at = INT64_MAX;
        w->alarm = alarm;
        lock_release(&w->lock);
        return 1;
    }
    if (able && done == LOOP_CLOSED) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
    } else if (able && says_unable()) {
        PyErr_Clear();
        able = false;
    }
    /* The last one may have been added all the same: that raised something need not mean that it did nothing. */
    for (int i = 0; i < 2; i++) {
        if (fds[i] >= 0 && (i >= added || done == LOOP_CLOSED || remove_reader(loop, fds[i], k))) {
            close(fds[i]);
        }
    }
    return able && error_set(k) ? -1 : 0;
}

#else

bool timer_set(WakerObject *w, int64_t instant) {
    (void)w, (void)instant;
    return false;
}

bool timer_signal(WakerObject *w) {
    (void)w;
    return false;
}

void timer_heard(WakerObject *w) { /* it may be early, and has gone off all the same */
    w->signalled = false;
    w->alarm_at = INT64_MAX;
}

void timer_close(WakerObject *w) {
    w->alarm_at = INT64_MAX;
    w->signalled = false;
}

void timer_forked(WakerObject *w) {
    timer_close(w);
    w->timer = TIMER_OF_LOOP;
}

static int alarm_watch(WakerObject *w, PyObject *loop, PyObject *alarm, struct kept_error *k) {
    (void)w, (void)loop, (void)alarm, (void)k;
    return 0;
}

#endif

/* The loop's own timer is not needed any more: it would fire too early, which does no harm, and hold an alarm until then. */
static void cancel(PyObject *reference, struct kept_error *k) {
    PyObject *handle = weak_target(reference);
    if (handle != NULL && loop_call(k, handle, "cancel", NULL, 0, NULL, NULL) == LOOP_FAILED) {
        error_keep(k);
    }
    Py_XDECREF(handle);
}

static int call_later(WakerObject *w, PyObject *loop, PyObject *alarm, int64_t instant, struct kept_error *k) {
    double delay = instant == INT64_MAX ? FAR_S : (double)(instant - clock_now()) / 1e9;
    delay = delay < 0 ? 0 : delay > FAR_S ? FAR_S : delay;
    PyObject *args[] = {PyFloat_FromDouble(delay), alarm}, *handle = NULL;
    enum loop_answer done = args[0] == NULL ? LOOP_FAILED : loop_call(k, loop, "call_later", args, 2, NULL, &handle);
    Py_XDECREF(args[0]);
    if (done == LOOP_CLOSED) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
    }
    if (done != LOOP_DONE) {
        return -1;
    }
    lock_acquire(&w->lock);
    w->alarm = alarm;
    w->alarm_at = delay < FAR_S ? instant : clock_now() + (int64_t)FAR_S * NS_PER_S;
    lock_release(&w->lock);
    PyObject *old = w->handle;
    w->handle = PyWeakref_NewRef(handle, NULL);
    if (w->handle == NULL && PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear(); /* the handle of this loop takes no weak references: its old timers stay until they fire */
    }
    error_keep(k);
    Py_DECREF(handle);
    if (old != NULL) {
        cancel(old, k);
        Py_DECREF(old);
    }
    return 0;
}

int timer_open(WakerObject *w, PyObject *loop, PyObject *alarm, int64_t instant, struct kept_error *k) {
    if (w->timer == TIMER_NOT_OPEN) {
        int watched = alarm_watch(w, loop, alarm, k);
        if (watched != 0) {
            return watched < 0 ? -1 : 1;
        }
        lock_acquire(&w->lock);
        w->timer = TIMER_OF_LOOP;
        lock_release(&w->lock);
    }
    return call_later(w, loop, alarm, instant, k);
}
