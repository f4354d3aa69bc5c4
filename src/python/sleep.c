/* Sleeping in line, with an ear for signals. */
#include "clock.h"
#include "module.h"

/* A signal that comes after the last look and before the kernel has put the thread to sleep, or that the kernel hands to another
 * thread, does not end the sleep. Only the first thread runs Python's handlers, so it alone looks again this often. */
#define SIGNAL_SLICE_NS (25 * NS_PER_MS)

int sleep_in_line(struct parker *parker, int64_t instant_ns) {
    enum park_end end;
    bool first = thread_is_first();
    if (first) {
        int64_t slice_end = clock_now() + SIGNAL_SLICE_NS;
        instant_ns = instant_ns < slice_end ? instant_ns : slice_end;
    }
    Py_BEGIN_ALLOW_THREADS
    end = parker_sleep(parker, instant_ns);
    Py_END_ALLOW_THREADS
    return first || end == PARK_INTERRUPTED ? PyErr_CheckSignals() : 0;
}
