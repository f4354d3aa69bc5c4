/* What the files that talk to Redis share. */
#ifndef HEADWAY_LINK_TYPE_H
#define HEADWAY_LINK_TYPE_H

#include "module.h"

#include "link.h"
#include "tls.h"

typedef struct {
    PyObject_HEAD
    struct module_state *module;
    struct link link;
    struct redis_address address;
    char *texts[5]; /* the address' own copies */
    struct fork_owner fork;
    struct tls tls;  /* its context is NULL where the connection is plain */
    PyObject *loops; /* WeakKeyDictionary: event loop -> LoopLink */
    bool ready;
} LinkObject;

/* A copy whose texts are its own; NULL texts where memory fails. */
void link_copy_address(struct redis_address *to, char *texts[5], const struct redis_address *from);
void link_free_texts(char *texts[5]);

/* Sends and waits without the GIL; takes the request over. Returns it when it is over, to be freed by the caller. NULL: an exception, of a
 * signal handler mostly. `undo` (or NULL) makes, of `context`, what gives back what the request may have taken then; it runs no Python code. */
struct redis_request *link_object_call(LinkObject *self, struct redis_request *r,
                                       struct redis_request *(*undo)(void *context), void *context);
/* Once, in the log: what the server would not do when it was greeted. Keeps a pending exception. */
void link_log_refusal(struct link *l);

/* Raises StoreUnavailableError for a request that is UNSENT or LOST. */
void link_raise_fault(PyObject *server, const char *fault, const char *text, bool lost);
void link_raise(PyObject *server, const struct redis_request *r);

/* Appends a str, bytes or int in the protocol's form. -1: an exception. */
int link_append_word(struct redis_buffer *b, PyObject *word);

/* An error of the server becomes an exception object, not raised. */
PyObject *reply_to_object(struct module_state *m, const redisReply *r);

PyTypeObject *link_type_make(PyObject *module);

#endif
