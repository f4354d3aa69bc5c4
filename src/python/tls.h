/* TLS for a connection: Python's own ssl over memory BIOs, so that the trust store, the SSLContext and its fixes are Python's.
 *
 * All of it runs Python code, so whoever drives the link holds the GIL while it reads and writes. */
#ifndef HEADWAY_TLS_H
#define HEADWAY_TLS_H

#include "module.h"

#include "connection.h"

struct tls {
    struct redis_stream stream; /* its context is this */
    PyObject *context;          /* an SSLContext; owned */
    PyObject *host;             /* what the certificate must name, or None */
    PyObject *incoming, *outgoing, *object;
    PyObject *unsent; /* bytes that the socket would not take yet, or NULL */
    Py_ssize_t unsent_at;
    char error[REDIS_ERROR_LENGTH];
};

void tls_init(struct tls *t, PyObject *context, PyObject *host);
void tls_clear(struct tls *t);

#endif
