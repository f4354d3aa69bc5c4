/* TLS for a connection: see tls.h. */
#include "tls.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/types.h>

/* ---- exceptions ---- */

/* The exception that is set becomes a sentence if it is ssl's own. Any other is kept: it is a signal handler's, which runs here too and may
 * raise whatever it likes (TimeoutError is an OSError), or says that there is no memory. */
static ssize_t tls_fail(struct tls *t) {
    PyObject *type, *error, *traceback, *text = NULL;
    if (t->known != NULL && PyErr_ExceptionMatches(t->known)) {
        PyErr_Fetch(&type, &error, &traceback);
        PyErr_NormalizeException(&type, &error, &traceback);
        PyObject *words = error == NULL ? NULL : PyObject_Str(error);
        text = words == NULL ? NULL : PyUnicode_AsEncodedString(words, "utf-8", "replace");
        Py_XDECREF(words);
        Py_XDECREF(type);
        Py_XDECREF(error);
        Py_XDECREF(traceback);
    }
    if (PyErr_Occurred()) {
        PyErr_Fetch(&t->raised[0], &t->raised[1], &t->raised[2]);
        errno = ECANCELED;
        return -1;
    }
    snprintf(t->error, sizeof t->error, "%s", text != NULL ? PyBytes_AS_STRING(text) : "TLS failed");
    Py_XDECREF(text);
    errno = EPROTO;
    return -1;
}

bool tls_raise(struct tls *t) {
    if (t->raised[0] == NULL) {
        return false;
    }
    PyErr_Restore(t->raised[0], t->raised[1], t->raised[2]);
    memset(t->raised, 0, sizeof t->raised);
    return true;
}

/* Nothing more is done before the exception is raised. */
static bool tls_is_interrupted(const struct tls *t) {
    if (t->raised[0] != NULL) {
        errno = ECANCELED;
    }
    return t->raised[0] != NULL;
}

/* ---- the socket ---- */

static bool tls_would_block(void) {
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

/* What TLS has to say goes to the socket, as far as it will. -1 with errno on a failure of the socket. */
static int tls_flush(struct tls *t, int fd) {
    for (;;) {
        if (t->unsent == NULL) {
            PyObject *bytes = PyObject_CallMethodNoArgs(t->outgoing, t->str_read);
            if (bytes == NULL) {
                return (int)tls_fail(t);
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
            return tls_would_block() ? 0 : -1;
        }
        t->unsent_at += n;
        if (t->unsent_at == PyBytes_GET_SIZE(t->unsent)) {
            Py_CLEAR(t->unsent);
        }
    }
}

/* What the socket has goes to TLS. 0: it would block, or has given enough for one turn; 1: it has ended; -1: errno. */
static int tls_fill(struct tls *t, int fd) {
    char bytes[16384];
    while (t->taken < TURN_BYTES) {
        ssize_t n = recv(fd, bytes, sizeof bytes, 0);
        if (n < 0) {
            return tls_would_block() ? 0 : -1;
        }
        if (n == 0) {
            PyObject *done = PyObject_CallMethod(t->incoming, "write_eof", NULL);
            Py_XDECREF(done);
            return done == NULL ? (int)tls_fail(t) : 1;
        }
        t->taken += (size_t)n;
        PyObject *got = PyBytes_FromStringAndSize(bytes, n);
        PyObject *done = got == NULL ? NULL : PyObject_CallMethodOneArg(t->incoming, t->str_write, got);
        Py_XDECREF(got);
        Py_XDECREF(done);
        if (done == NULL) {
            return (int)tls_fail(t);
        }
    }
    return 0;
}

/* ---- the stream ---- */

static void tls_begin(void *context) {
    ((struct tls *)context)->taken = 0;
}

static void tls_drop_session(struct tls *t) {
    Py_CLEAR(t->incoming);
    Py_CLEAR(t->outgoing);
    Py_CLEAR(t->session);
    Py_CLEAR(t->known);
    Py_CLEAR(t->want_read);
    Py_CLEAR(t->ended);
    Py_CLEAR(t->unsent);
}

/* An SSLObject over the two BIOs. NULL: an exception. */
static PyObject *tls_wrap(struct tls *t) {
    PyObject *wrap = PyObject_GetAttrString(t->context, "wrap_bio");
    PyObject *arguments = wrap == NULL ? NULL : PyTuple_Pack(2, t->incoming, t->outgoing);
    PyObject *names = arguments == NULL ? NULL : Py_BuildValue("{sO}", "server_hostname", t->host);
    PyObject *object = names == NULL ? NULL : PyObject_Call(wrap, arguments, names);
    Py_XDECREF(wrap);
    Py_XDECREF(arguments);
    Py_XDECREF(names);
    return object;
}

/* SSLObject's methods are Python code that calls the same of its `_sslobj`. -1: an exception. */
static int tls_choose_session(struct tls *t, PyObject *object, PyObject *plain_type) {
    if ((PyObject *)Py_TYPE(object) == plain_type) {
        t->session = PyObject_GetAttrString(object, "_sslobj");
        if (t->session == NULL && !PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear(); /* an AttributeError: this Python has it under another name */
    }
    if (t->session == NULL) {
        t->session = Py_NewRef(object);
    }
    return 0;
}

static bool tls_open(void *context, int fd) {
    struct tls *t = context;
    (void)fd;
    if (tls_is_interrupted(t)) {
        return false;
    }
    PyObject *memory = NULL, *plain = NULL, *zero = NULL, *eof = NULL, *object = NULL;
    tls_drop_session(t);
    bool opened =
        import_once(&t->known, "ssl", "SSLError") == 0 && import_once(&memory, "ssl", "MemoryBIO") == 0 &&
        import_once(&plain, "ssl", "SSLObject") == 0 && import_once(&zero, "ssl", "SSLZeroReturnError") == 0 &&
        import_once(&eof, "ssl", "SSLEOFError") == 0 && import_once(&t->want_read, "ssl", "SSLWantReadError") == 0 &&
        (t->ended = PyTuple_Pack(2, zero, eof)) != NULL && (t->incoming = PyObject_CallNoArgs(memory)) != NULL &&
        (t->outgoing = PyObject_CallNoArgs(memory)) != NULL && (object = tls_wrap(t)) != NULL &&
        tls_choose_session(t, object, plain) == 0;
    if (!opened) {
        tls_fail(t);
    }
    int problem = errno;
    Py_XDECREF(memory);
    Py_XDECREF(plain);
    Py_XDECREF(zero);
    Py_XDECREF(eof);
    Py_XDECREF(object);
    errno = problem;
    return opened;
}

/* TLS has said that there is nothing to read yet, or that there will be nothing more; or it has failed. */
static ssize_t tls_read_nothing(struct tls *t, int fd, int ended) {
    if (PyErr_ExceptionMatches(t->want_read)) {
        PyErr_Clear();
        if (tls_flush(t, fd) < 0) {
            return -1;
        }
        errno = EAGAIN;
        return ended ? 0 : -1;
    }
    if (PyErr_ExceptionMatches(t->ended)) {
        PyErr_Clear();
        return 0;
    }
    tls_fail(t);
    if (errno == EPROTO) {
        tls_flush(t, fd); /* the alert that says why */
        errno = t->raised[0] != NULL ? ECANCELED : EPROTO;
    }
    return -1;
}

static ssize_t tls_read(void *context, int fd, char *bytes, size_t length) {
    struct tls *t = context;
    if (tls_is_interrupted(t)) {
        return -1;
    }
    int ended = tls_fill(t, fd);
    if (ended < 0) {
        return -1;
    }
    PyObject *most = PyLong_FromSize_t(length);
    PyObject *got = most == NULL ? NULL : PyObject_CallMethodOneArg(t->session, t->str_read, most);
    Py_XDECREF(most);
    if (got == NULL) {
        return tls_read_nothing(t, fd, ended);
    }
    size_t n = PyBytes_Check(got) ? (size_t)PyBytes_GET_SIZE(got) : 0;
    n = n < length ? n : length;
    if (n > 0) {
        memcpy(bytes, PyBytes_AS_STRING(got), n);
    }
    Py_DECREF(got);
    return tls_flush(t, fd) < 0 ? -1 : (ssize_t)n;
}

static ssize_t tls_write(void *context, int fd, const char *bytes, size_t length) {
    struct tls *t = context;
    if (tls_is_interrupted(t)) {
        return -1;
    }
    PyObject *words = PyBytes_FromStringAndSize(bytes, (Py_ssize_t)length);
    PyObject *done = words == NULL ? NULL : PyObject_CallMethodOneArg(t->session, t->str_write, words);
    Py_ssize_t n = done == NULL ? -1 : PyLong_AsSsize_t(done);
    Py_XDECREF(words);
    Py_XDECREF(done);
    if (n < 0) {
        if (!PyErr_Occurred() || !PyErr_ExceptionMatches(t->want_read)) {
            return tls_fail(t);
        }
        PyErr_Clear(); /* the handshake goes on when the server has answered */
    }
    if (tls_flush(t, fd) < 0) {
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

/* ---- life ---- */

int tls_init(struct tls *t, PyObject *context, PyObject *host) {
    memset(t, 0, sizeof *t);
    t->stream = (struct redis_stream){
        .context = t,
        .begin = tls_begin,
        .read = tls_read,
        .write = tls_write,
        .open = tls_open,
        .wants_write = tls_wants_write,
        .error = tls_error,
    };
    t->context = Py_NewRef(context);
    t->host = Py_NewRef(host);
    t->str_read = PyUnicode_InternFromString("read");
    t->str_write = PyUnicode_InternFromString("write");
    return t->str_read == NULL || t->str_write == NULL ? -1 : 0;
}

void tls_clear(struct tls *t) {
    Py_CLEAR(t->context);
    Py_CLEAR(t->host);
    tls_drop_session(t);
    Py_CLEAR(t->str_read);
    Py_CLEAR(t->str_write);
    for (int i = 0; i < 3; i++) {
        Py_CLEAR(t->raised[i]);
    }
}
