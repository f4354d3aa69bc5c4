/* What a call keeps that is decided on a server and that a task awaits; see distant.c. */
#ifndef HEADWAY_DISTANT_H
#define HEADWAY_DISTANT_H

#include <sys/types.h>

#include "remote.h"

struct distant {
    struct remote remote;
    struct redis_buffer words; /* RUN */
    PyObject *key_owner;       /* whose bytes the key has, or NULL */
    int64_t start;
    bool reserved;                 /* it is admitted, and waits for its instant */
    pid_t reserved_by;             /* the process: a fork's child does not own what its parent reserved */
    struct redis_request *foreign; /* what the user's client was asked; owned */
    _Atomic int owners;            /* the call, and a thread that works on it */
};

/* NULL: an exception. */
struct distant *distant_new(void);
void distant_release(struct distant *d);

#endif
