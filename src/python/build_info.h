/* What this build of the extension was made with, for `headway doctor` and for reports of faults. */
#ifndef HEADWAY_BUILD_INFO_H
#define HEADWAY_BUILD_INFO_H

#include <Python.h>

/* A new dict of str: compiler, hiredis (None without Redis), hiredis_link ("inside the module" or "shared library"),
 * python, free_threaded (a bool). NULL with an exception set. */
PyObject *build_info(void);

#endif
