/* TLS for a connection: Python's own ssl over memory BIOs, so that the trust store, the SSLContext and its fixes are Python's.
 *
 * All of it runs under the GIL. Making an SSLObject runs Python code; reading and writing call the compiled object beneath it. Both look
 * for signals, so a handler may run and raise. Of exceptions only ssl's own become the connection's error. Any other is kept, the
 * connection is closed (errno ECANCELED), and the thread or the event loop that drives raises it: see tls_raise. */
#ifndef HEADWAY_TLS_H
#define HEADWAY_TLS_H

#include "module.h"

#include "connection.h"

struct tls {
    struct redis_stream stream; /* its context is this */
    PyObject *context;          /* an SSLContext; owned */
    PyObject *host;             /* what the certificate must name, or None */
    PyObject *incoming, *outgoing;
    PyObject
        *session;    /* reads and writes: an SSLObject's compiled part, or an SSLObject of a class of the user's own */
    PyObject *known; /* ssl.SSLError */
    PyObject *want_read, *ended;    /* ssl's exceptions; `ended` is a tuple */
    PyObject *str_read, *str_write; /* names of methods */
    PyObject *unsent;               /* bytes that the socket would not take yet, or NULL */
    Py_ssize_t unsent_at;
    size_t taken;        /* bytes from the socket in this turn */
    PyObject *raised[3]; /* an exception to be raised: type, value, traceback; or NULL */
    char error[REDIS_ERROR_LENGTH];
};

/* -1: an exception; tls_clear is to be called all the same. */
int tls_init(struct tls *t, PyObject *context, PyObject *host);
void tls_clear(struct tls *t);

/* Was an exception kept? Then it is set. */
bool tls_raise(struct tls *t);

#endif
