/* Ledger: the ledger of learned limits as a Python object; internal to headway.smartratelimit. */
#ifndef HEADWAY_LEDGER_TYPE_H
#define HEADWAY_LEDGER_TYPE_H

#include "ledger.h"
#include "module.h"

PyTypeObject *ledger_type_make(PyObject *module);

/* `*out` is NULL where nothing was said, else the object's own or `scratch`. -1 with an exception. */
int observation_from_object(const struct module_state *m, PyObject *object, struct observation *scratch,
                            const struct observation **out);

#endif
