/* A client of the user's own (redis-py, its cluster, fakeredis): the same requests, by way of Python.
 *
 * headway._redis_client stands between: it takes the words of a command and gives the reply back in the protocol's form, so that
 * everything here and in src/redis reads it as any other. Slots, redirects and connections are that client's affair. */
#include "remote.h"

/* "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", which we have written ourselves, as a list of bytes. */
static PyObject *words_of(const struct redis_request *request) {
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

static PyObject *call_client(RedisStoreObject *s, const char *method, const struct redis_request *request) {
    PyObject *words = words_of(request);
    PyObject *answer = words == NULL ? NULL : PyObject_CallMethod(s->client, method, "O", words);
    Py_XDECREF(words);
    return answer;
}

int foreign_answer(struct redis_request *request, PyObject *reply) {
    redisReader *reader = NULL;
    void *read = NULL;
    int answer = -1;
    if (!PyBytes_Check(reply)) {
        PyErr_Format(PyExc_TypeError, "the client answered %R, must be bytes", reply);
    } else if ((reader = redisReaderCreate()) == NULL) {
        PyErr_NoMemory();
    } else if (redisReaderFeed(reader, PyBytes_AS_STRING(reply), (size_t)PyBytes_GET_SIZE(reply)) != REDIS_OK ||
               redisReaderGetReply(reader, &read) != REDIS_OK || read == NULL) {
        PyErr_SetString(PyExc_ValueError, "the client's answer cannot be read");
    } else {
        request->reply = read;
        request->end = REQUEST_DONE;
        answer = 0;
    }
    if (reader != NULL) {
        redisReaderFree(reader);
    }
    return answer;
}

int foreign_call(RedisStoreObject *s, struct redis_request *request) {
    PyObject *reply = call_client(s, "call", request);
    int answer = reply == NULL ? -1 : foreign_answer(request, reply);
    Py_XDECREF(reply);
    return answer;
}

PyObject *foreign_call_async(RedisStoreObject *s, const struct redis_request *request) {
    return call_client(s, "call_async", request);
}

int foreign_tell(RedisStoreObject *s, const struct redis_request *request) {
    PyObject *done = call_client(s, "tell", request);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}
