#include "build_info.h"

#include <hiredis/hiredis.h>

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

#ifdef __clang__
#define COMPILER __VERSION__ /* begins with "Clang" or the vendor's name */
#else
#define COMPILER "gcc " __VERSION__
#endif

#ifdef HEADWAY_WITHOUT_REDIS
#define HIREDIS NULL
#define HIREDIS_LINK NULL
#else
#define HIREDIS TEXT(HIREDIS_MAJOR) "." TEXT(HIREDIS_MINOR) "." TEXT(HIREDIS_PATCH)
#ifdef HEADWAY_STATIC_HIREDIS
#define HIREDIS_LINK "inside the module"
#else
#define HIREDIS_LINK "shared library"
#endif
#endif

#ifdef Py_GIL_DISABLED
#define FREE_THREADED Py_True
#else
#define FREE_THREADED Py_False
#endif

PyObject *build_info(void) {
    return Py_BuildValue("{s:s, s:z, s:z, s:s, s:O}", "compiler", COMPILER, "hiredis", HIREDIS, "hiredis_link",
                         HIREDIS_LINK, "python", PY_VERSION, "free_threaded", FREE_THREADED);
}
