/* RedisStore._run: any script of src/redis/lua, or any command, to its end as a decision is: for what is asked from Python. */
#include "call_type.h"
#include "distant.h"

/* (script or None, keys, words) into `r`, whose words go to `b`. */
static int run_read_arguments(PyObject *const *args, Py_ssize_t nargs, struct remote *r, struct redis_buffer *b) {
    if (nargs != 3 || !PyTuple_Check(args[1]) || !PyTuple_Check(args[2]) || PyTuple_GET_SIZE(args[1]) == 0 ||
        !PyBytes_Check(PyTuple_GET_ITEM(args[1], 0))) {
        PyErr_SetString(PyExc_TypeError, "it takes a script or None, a tuple of keys (bytes), and a tuple of words");
        return -1;
    }
    PyObject *keys = args[1], *words = args[2], *first = PyTuple_GET_ITEM(keys, 0);
    r->kind = REMOTE_RUN;
    r->slot = scripts_slot_of(PyBytes_AS_STRING(first), (size_t)PyBytes_GET_SIZE(first));
    if (args[0] != Py_None) {
        const char *name = PyUnicode_AsUTF8(args[0]);
        r->script = name == NULL ? NULL : scripts_find(name);
        if (r->script == NULL) {
            if (!PyErr_Occurred()) {
                PyErr_Format(PyExc_LookupError, "there is no script %R", args[0]);
            }
            return -1;
        }
        r->key_count = (int)PyTuple_GET_SIZE(keys);
    }
    r->word_count = r->key_count + (int)PyTuple_GET_SIZE(words);
    for (int i = 0; i < r->word_count; i++) {
        PyObject *word = i < r->key_count ? PyTuple_GET_ITEM(keys, i) : PyTuple_GET_ITEM(words, i - r->key_count);
        if (link_append_word(b, word) < 0) {
            return -1;
        }
    }
    r->words = b->bytes;
    r->words_length = b->end;
    return 0;
}

static RedisStoreObject *run_ready_store(PyObject *self) {
    if (((RedisStoreObject *)self)->server == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "RedisStore.__init__ was not called.");
        return NULL;
    }
    return (RedisStoreObject *)self;
}

PyObject *redis_store_run(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    RedisStoreObject *s = run_ready_store(self);
    struct remote r = {0};
    struct redis_buffer words = {0};
    PyObject *answer = NULL;
    if (s != NULL && run_read_arguments(args, nargs, &r, &words) == 0 && remote_run(s, &r) == 0) {
        answer = r.answer;
        r.answer = NULL;
    }
    remote_free(&r);
    free(words.bytes);
    return answer;
}

PyObject *redis_store_run_async(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    RedisStoreObject *s = run_ready_store(self);
    struct distant *d = s == NULL ? NULL : distant_new();
    if (d == NULL || run_read_arguments(args, nargs, &d->remote, &d->words) < 0) {
        distant_release(d);
        return NULL;
    }
    return call_run(s, d);
}
