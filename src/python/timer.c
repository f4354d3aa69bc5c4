/* A timer for an event loop, as exact as the kernel's: see task.h.
 *
 * The timers of asyncio count whole milliseconds, rounded up, and uvloop's too. With a burst of one a wake-up that comes late costs its
 * lateness, so 1000/s would be 900/s. On Linux a timer is a descriptor that the loop watches like any other; it stays with the loop. */
#include "clock.h"
#include "task.h"

#if defined(__linux__)

#include <sys/timerfd.h>
#include <unistd.h>

static bool watch(WakerObject *w, PyObject *loop, PyObject *callback) {
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (fd >= 0) {
        PyObject *done = PyObject_CallMethod(loop, "add_reader", "iO", fd, callback);
        if (done != NULL) {
            Py_DECREF(done);
            w->timer = fd;
            return true;
        }
        PyErr_Clear();
        close(fd);
    }
    w->timer = -2;
    return false;
}

bool timer_set(WakerObject *w, PyObject *loop, PyObject *callback, int64_t instant) {
    if (w->timer == -2 || (w->timer == -1 && !watch(w, loop, callback))) {
        return false;
    }
    struct itimerspec when = {0};
    if (instant != INT64_MAX) {
        int64_t ns = clock_to_monotonic(instant);
        ns = ns < 1 ? 1 : ns; /* 0 would stop it */
        when.it_value = (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
    }
    timerfd_settime(w->timer, TFD_TIMER_ABSTIME, &when, NULL);
    return true;
}

void timer_heard(WakerObject *w) {
    uint64_t times;
    if (w->timer >= 0 && read(w->timer, &times, sizeof times) < 0) {
        return; /* it was something else that called */
    }
}

void timer_close(WakerObject *w) {
    if (w->timer >= 0) {
        close(w->timer);
    }
    w->timer = -1;
}

#else

bool timer_set(WakerObject *w, PyObject *loop, PyObject *callback, int64_t instant) {
    (void)w, (void)loop, (void)callback, (void)instant;
    return false;
}

void timer_heard(WakerObject *w) {
    (void)w;
}

void timer_close(WakerObject *w) {
    w->timer = -1;
}

#endif
