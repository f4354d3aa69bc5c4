/* What a server said of its limits, as a Python object; for those who want it in C. */
#ifndef HEADWAY_OBSERVATION_TYPE_H
#define HEADWAY_OBSERVATION_TYPE_H

#include "module.h"
#include "observation.h"

/* `object` is an instance of the module's `observation`; the struct lives as long as it does. */
const struct observation *observation_of(PyObject *object);
/* The local clock's reading when the response came. */
int64_t observation_received_ns(PyObject *object);

/* For parse_headers.c: a new object, and its struct to be filled at once; NULL with an exception. */
struct observation *observation_new(struct module_state *m, int64_t received_ns, PyObject **object);

/* What is in parse_headers.c, for those who want no object: 0, or -1 with an exception. Runs Python code where `headers` is
 * neither a dict nor a list or tuple of pairs. */
int headers_from_object(struct module_state *m, PyObject *headers, PyObject *status, PyObject *map, int64_t received_ns,
                        struct observation *out);

PyTypeObject *observation_type_make(PyObject *module);
PyTypeObject *observed_dimension_type_make(void);
extern PyMethodDef observation_functions[]; /* parse_headers */

#endif
