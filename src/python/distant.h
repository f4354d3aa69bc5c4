/* How far a call to a server has come that a task awaits; see distant.c. */
#ifndef HEADWAY_DISTANT_H
#define HEADWAY_DISTANT_H

#include <sys/types.h>

#include "remote.h"

enum distant_stage {
    DISTANT_ASKING,     /* the reply is waited for, by the event loop's own connection */
    DISTANT_FOREIGN,    /* by the user's own client: a coroutine */
    DISTANT_IN_THREAD,  /* trio: all of it in one of trio's threads */
    DISTANT_REFRESHING, /* who serves is being found out: a coroutine */
    DISTANT_SLEEPING,   /* for an instant */
};

struct distant {
    struct remote remote;
    struct redis_buffer words; /* RUN */
    PyObject *key_owner;       /* whose bytes the key has, or NULL */
    int64_t start;
    bool reserved;     /* it is admitted, and waits for its instant */
    pid_t reserved_by; /* the process: a fork's child does not own what its parent reserved */
    enum distant_stage stage;
    struct redis_request *foreign; /* what the user's client was asked */
    _Atomic int owners;            /* the call, and a thread that works on it */
};

/* NULL: an exception. */
struct distant *distant_new(void);
void distant_release(struct distant *d);

#endif
