/* A link that an event loop of asyncio drives: one for each server and loop. */
#ifndef HEADWAY_LOOP_LINK_H
#define HEADWAY_LOOP_LINK_H

#include "fork.h"
#include "link_type.h"
#include "task.h"

typedef struct loop_link_object {
    PyObject_HEAD
    struct module_state *module;
    struct redis_address address;
    char *texts[5]; /* its own copies */
    PyObject *loop; /* a weak reference */
    WakerObject *waker;
    struct link link;
    struct fork_owner fork;
    struct tls tls;
    int fd;          /* what the loop watches; -1: nothing */
    short events;    /* for what */
    unsigned socket; /* which of the connection's sockets it is */
    bool resolving;  /* a thread looks up the server's name; what it finds: */
    int problem;
    _Atomic(struct addrinfo *) found;
    bool closing;           /* hangs up when it owes nothing any more */
    _Atomic bool scheduled; /* the loop will call in this turn */
    _Atomic bool settling;  /* a thread settles what is owed, as the loop is closed */
} LoopLinkObject;

/* The one for this loop, made when new: a new reference. */
LoopLinkObject *loop_link_of(LinkObject *of, PyObject *loop);

/* Sends `r` with whatever else is sent in this turn of the loop. `t`, which waits for it, keeps the link alive. -1: an exception. */
int loop_link_submit(LoopLinkObject *l, struct redis_request *r, TaskWaitObject *t);

/* The caller of `r` has gone; takes `undo` (or NULL) over too. Keeps a pending exception. */
void loop_link_abandon(LoopLinkObject *l, struct redis_request *r, struct redis_request *undo);

/* A request whose answer nobody wants. */
void loop_link_tell(LoopLinkObject *l, struct redis_request *r);

/* Looks at the connection now: for a deadline that has passed. For the loop's waker, while it runs. What Python code raises meanwhile is
 * kept. */
void loop_link_step(LoopLinkObject *l, bool readable, struct kept_error *k);

/* The server's replies make no sense, or are out of step with the requests: the connection ends, and the next request makes another. */
void loop_link_distrust(LoopLinkObject *l, struct kept_error *k);

/* Each loop hangs up in its next turn. `loops`: the WeakKeyDictionary of a Link. */
void loop_links_close(PyObject *loops);

PyTypeObject *loop_link_type_make(PyObject *module);

#endif
