/* TLS for a connection: see tls.h. */
#include "tls.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/types.h>

/* The exception that is set becomes a sentence. */
static ssize_t fail(struct tls *t) {
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    PyObject *text = error == NULL ? NULL : PyObject_Str(error);
    const char *words = text == NULL ? NULL : PyUnicode_AsUTF8(text);
    snprintf(t->error, sizeof t->error, "%s", words != NULL ? words : "TLS failed");
    PyErr_Clear();
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    errno = EPROTO;
    return -1;
}

static bool is_error(const char *name) {
    PyObject *kind = NULL;
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    int found = import_once(&kind, "ssl", name);
    PyErr_Clear();
    PyErr_Restore(type, error, traceback);
    bool yes = found == 0 && PyErr_ExceptionMatches(kind);
    Py_XDECREF(kind);
    return yes;
}

/* What TLS has to say goes to the socket, as far as it will. -1 with errno on a failure of the socket. */
static int flush(struct tls *t, int fd) {
    for (;;) {
        if (t->unsent == NULL) {
            PyObject *bytes = PyObject_CallMethod(t->outgoing, "read", NULL);
            if (bytes == NULL) {
                return (int)fail(t);
            }
            if (!PyBytes_Check(bytes) || PyBytes_GET_SIZE(bytes) == 0) {
                Py_DECREF(bytes);
                return 0;
            }
            t->unsent = bytes;
            t->unsent_at = 0;
        }
        ssize_t n = send(fd, PyBytes_AS_STRING(t->unsent) + t->unsent_at,
                         (size_t)(PyBytes_GET_SIZE(t->unsent) - t->unsent_at), MSG_NOSIGNAL);
        if (n < 0) {
            return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -1;
        }
        t->unsent_at += n;
        if (t->unsent_at == PyBytes_GET_SIZE(t->unsent)) {
            Py_CLEAR(t->unsent);
        }
    }
}

/* What the socket has goes to TLS. 0: it would block, 1: it has ended, -1: errno. */
static int fill(struct tls *t, int fd) {
    char bytes[16384];
    for (;;) {
        ssize_t n = recv(fd, bytes, sizeof bytes, 0);
        if (n < 0) {
            return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -1;
        }
        PyObject *done = n == 0 ? PyObject_CallMethod(t->incoming, "write_eof", NULL)
                                : PyObject_CallMethod(t->incoming, "write", "y#", bytes, (Py_ssize_t)n);
        if (done == NULL) {
            return (int)fail(t);
        }
        Py_DECREF(done);
        if (n == 0) {
            return 1;
        }
    }
}

static bool tls_open(void *context, int fd) {
    struct tls *t = context;
    (void)fd;
    PyObject *memory = NULL;
    Py_CLEAR(t->incoming);
    Py_CLEAR(t->outgoing);
    Py_CLEAR(t->object);
    Py_CLEAR(t->unsent);
    if (import_once(&memory, "ssl", "MemoryBIO") == 0) {
        t->incoming = PyObject_CallNoArgs(memory);
        t->outgoing = t->incoming == NULL ? NULL : PyObject_CallNoArgs(memory);
        if (t->outgoing != NULL) {
            PyObject *wrap = PyObject_GetAttrString(t->context, "wrap_bio");
            PyObject *arguments = wrap == NULL ? NULL : PyTuple_Pack(2, t->incoming, t->outgoing);
            PyObject *names = arguments == NULL ? NULL : Py_BuildValue("{sO}", "server_hostname", t->host);
            t->object = names == NULL ? NULL : PyObject_Call(wrap, arguments, names);
            Py_XDECREF(wrap);
            Py_XDECREF(arguments);
            Py_XDECREF(names);
        }
        Py_DECREF(memory);
    }
    if (t->object == NULL) {
        fail(t);
        return false;
    }
    return true;
}

static ssize_t tls_read(void *context, int fd, char *bytes, size_t length) {
    struct tls *t = context;
    int ended = fill(t, fd);
    if (ended < 0) {
        return -1;
    }
    PyObject *got = PyObject_CallMethod(t->object, "read", "n", (Py_ssize_t)length);
    if (got == NULL) {
        if (is_error("SSLWantReadError")) {
            PyErr_Clear();
            if (flush(t, fd) < 0) {
                return -1;
            }
            if (ended) {
                return 0;
            }
            errno = EAGAIN;
            return -1;
        }
        if (is_error("SSLZeroReturnError") || is_error("SSLEOFError")) {
            PyErr_Clear();
            return 0;
        }
        fail(t);
        flush(t, fd); /* the alert that says why */
        errno = EPROTO;
        return -1;
    }
    ssize_t n = PyBytes_Check(got) ? PyBytes_GET_SIZE(got) : 0;
    memcpy(bytes, n > 0 ? PyBytes_AS_STRING(got) : "", (size_t)n);
    Py_DECREF(got);
    return flush(t, fd) < 0 ? -1 : n;
}

static ssize_t tls_write(void *context, int fd, const char *bytes, size_t length) {
    struct tls *t = context;
    PyObject *done = PyObject_CallMethod(t->object, "write", "y#", bytes, (Py_ssize_t)length);
    Py_ssize_t n = done == NULL ? -1 : PyLong_AsSsize_t(done);
    Py_XDECREF(done);
    if (n < 0) {
        if (!is_error("SSLWantReadError")) {
            return fail(t);
        }
        PyErr_Clear(); /* the handshake goes on when the server has answered */
    }
    if (flush(t, fd) < 0) {
        return -1;
    }
    if (n < 0) {
        errno = EAGAIN;
    }
    return n;
}

static bool tls_wants_write(void *context) {
    return ((struct tls *)context)->unsent != NULL;
}

static const char *tls_error(void *context) {
    return ((struct tls *)context)->error;
}

void tls_init(struct tls *t, PyObject *context, PyObject *host) {
    memset(t, 0, sizeof *t);
    t->stream = (struct redis_stream){
        .context = t,
        .read = tls_read,
        .write = tls_write,
        .open = tls_open,
        .wants_write = tls_wants_write,
        .error = tls_error,
    };
    t->context = Py_NewRef(context);
    t->host = Py_NewRef(host);
}

void tls_clear(struct tls *t) {
    Py_CLEAR(t->context);
    Py_CLEAR(t->host);
    Py_CLEAR(t->incoming);
    Py_CLEAR(t->outgoing);
    Py_CLEAR(t->object);
    Py_CLEAR(t->unsent);
}
