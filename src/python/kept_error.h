/* An exception that is put aside while something else must be done first.
 *
 * Python runs the handlers of signals, and with them code that raises anything, inside every call of a Python function: inside the
 * event loop's call_soon as well. Such an exception says nothing about the loop. It is kept, what was begun is finished, and the exception
 * is raised after that: by the function at hand where it can raise, else in the main thread at its next bytecode. */
#ifndef HEADWAY_KEPT_ERROR_H
#define HEADWAY_KEPT_ERROR_H

#include "module.h"

struct kept_error {
    PyObject *error; /* an instance, with its traceback; NULL: none; owned */
};

/* Keeps the exception that is set, if there is one; afterwards none is set. Of two that are kept, one that is no Exception
 * (KeyboardInterrupt, SystemExit) comes before an Exception, else the first before the second; the other becomes its context. */
void error_keep(struct kept_error *k);

/* Sets what is kept, together with an exception that is set already. True: an exception is set now. */
bool error_set(struct kept_error *k);

/* What is kept becomes the context of the exception that is set: what `raise ... from` does in an `except` block. */
void error_chain(struct kept_error *k);

/* Raises what is kept at the main thread's next bytecode, if this is the main thread of the main interpreter, where the handlers of
 * signals run; else reports it as Python reports what a destructor raises. `source` (NULL: none) is named in that report. Keeps an exception
 * that is set. */
void error_defer(struct kept_error *k, PyObject *source);

/* The exception that is set (if there is one) is deferred in this way. */
void error_defer_set(PyObject *source);

/* ---- calls of an event loop's methods ---- */

enum loop_answer {
    LOOP_DONE,   /* what a handler of a signal raised meanwhile is kept */
    LOOP_CLOSED, /* the loop is closed: the RuntimeError that says so is not set */
    LOOP_FAILED, /* an exception is set: three attempts have failed, or the method does not exist */
};

/* loop.name(*args), or (NULL) loop(*args), with `count` arguments, and after them the values of the keywords `names` (NULL: none). It must
 * be a call that may be made twice, since it is tried again after an exception, which may come from a handler of a signal, and after the call has
 * had its effect. `result` (NULL: not wanted) is a new reference. */
enum loop_answer loop_call(struct kept_error *k, PyObject *loop, const char *name, PyObject *const *args, size_t count,
                           PyObject *names, PyObject **result);

#endif
