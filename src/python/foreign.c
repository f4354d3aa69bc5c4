/* A client of the user's own (redis-py, its cluster, fakeredis): the same requests, by way of Python.
 *
 * headway._redis_client stands between: it takes the words of a command and gives the reply back in the protocol's form, so that
 * everything here and in src/redis reads it as any other. Slots, redirects and connections are that client's affair. */
#include "remote.h"

/* "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", which we have written ourselves, as a list of bytes. */
static PyObject *foreign_words(const struct redis_request *request) {
    const char *at = request->bytes + 1;
    long count = strtol(at, (char **)&at, 10);
    PyObject *words = PyList_New(count);
    for (long i = 0; words != NULL && i < count; i++) {
        long length = strtol(at + 3, (char **)&at, 10); /* after the line's end and the '$' */
        PyObject *word = PyBytes_FromStringAndSize(at + 2, length);
        if (word == NULL) {
            Py_CLEAR(words);
        } else {
            PyList_SET_ITEM(words, i, word);
            at += 2 + length;
        }
    }
    return words;
}

/* ---- what gives back what a call took whose caller has gone ---- */

static void foreign_free_undo(PyObject *capsule) {
    request_free(PyCapsule_GetPointer(capsule, NULL));
}

/* From the reply that nobody waited for to the words that undo it, or None. */
static PyObject *foreign_undo(PyObject *capsule, PyObject *reply) {
    struct redis_request *request = PyCapsule_GetPointer(capsule, NULL);
    struct redis_request *answered = request == NULL ? NULL : request_new(0);
    PyObject *words = NULL;
    if (answered == NULL) {
        return request == NULL ? NULL : PyErr_NoMemory();
    }
    if (foreign_answer(answered, reply) == 0) {
        words = request->fill(request, answered->reply) ? foreign_words(request) : Py_NewRef(Py_None);
    }
    request_free(answered);
    return words;
}
static PyMethodDef foreign_undo_method = {"undo", foreign_undo, METH_O, NULL};

static PyObject *foreign_undo_function(struct remote *r) {
    struct redis_request *request = remote_undo(r);
    if (request == NULL) {
        return Py_NewRef(Py_None);
    }
    PyObject *capsule = PyCapsule_New(request, NULL, foreign_free_undo);
    if (capsule == NULL) {
        request_free(request);
        return NULL;
    }
    PyObject *function = PyCFunction_New(&foreign_undo_method, capsule);
    Py_DECREF(capsule);
    return function;
}

static PyObject *foreign_ask(RedisStoreObject *s, const char *method, const struct redis_request *request) {
    PyObject *words = foreign_words(request);
    PyObject *answer = words == NULL ? NULL : PyObject_CallMethod(s->client, method, "O", words);
    Py_XDECREF(words);
    return answer;
}

int foreign_answer(struct redis_request *request, PyObject *reply) {
    struct reply_reader reader = {0};
    if (!PyBytes_Check(reply)) {
        PyErr_Format(PyExc_TypeError, "the client answered %R, must be bytes", reply);
        return -1;
    }
    if (!reply_reader_open(&reader)) {
        PyErr_NoMemory();
        return -1;
    }
    redisReply *read = NULL;
    if (reply_reader_feed(&reader, PyBytes_AS_STRING(reply), (size_t)PyBytes_GET_SIZE(reply))) {
        read = reply_reader_take(&reader);
    }
    if (reader.no_memory) {
        PyErr_NoMemory();
    } else if (read == NULL) {
        PyErr_Format(PyExc_ValueError, "the client's answer cannot be read: %s",
                     reader.error != NULL ? reader.error : "it is not whole");
    } else {
        request->reply = read;
        request->end = REQUEST_DONE;
    }
    reply_reader_close(&reader);
    return read == NULL ? -1 : 0;
}

int foreign_call(RedisStoreObject *s, struct redis_request *request) {
    PyObject *reply = foreign_ask(s, "call", request);
    int answer = reply == NULL ? -1 : foreign_answer(request, reply);
    Py_XDECREF(reply);
    return answer;
}

PyObject *foreign_call_async(RedisStoreObject *s, struct remote *r, const struct redis_request *request) {
    PyObject *words = foreign_words(request), *coroutine = NULL;
    PyObject *gives_back = words == NULL ? NULL : foreign_undo_function(r);
    if (gives_back != NULL) {
        coroutine = PyObject_CallMethod(s->client, "call_async", "OO", words, gives_back);
    }
    Py_XDECREF(gives_back);
    Py_XDECREF(words);
    return coroutine;
}

int foreign_tell(RedisStoreObject *s, const struct redis_request *request) {
    PyObject *done = foreign_ask(s, "tell", request);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}
