/* Many callers, one connection.
 *
 * A caller puts its request on the link. Requests that come while others are under way go out together in the next write. The link
 * has no thread: among callers that wait as threads one is the driver, that is, it polls, writes and reads for all until its own reply is
 * there, and hands over to another; an event loop drives a link of its own from its callbacks.
 *
 * The driver lets go of the connection before Python code runs or the GIL is waited for (see struct link_caller), so that a signal handler
 * may call the link itself, and a thread that Python ends takes nothing with it. A caller that follows gives up by its own deadline.
 *
 * A thread whose answer has come is woken by the one before it, not by the driver: 15 threads woken at once would queue for Python's
 * GIL and sleep a second time. One after another is 1.8 switches a decision instead of 2.9, and 0.6 of the processor time.
 *
 * A request whose caller was interrupted or cancelled is abandoned, but it may have been sent. If the reply says that it
 * took something, its `undo` goes out: by the driver, in the turn in which the reply is read.
 *
 * A request that was never written is sent again over a new connection; one that was written and whose reply is lost is not, since it
 * may have been counted. After a connection could not be made the link rests for a while, longer each time, and refuses at once;
 * then one request tries again. */
#ifndef HEADWAY_LINK_H
#define HEADWAY_LINK_H

#include "connection.h"
#include "lock.h"

enum request_end {
    REQUEST_OPEN,   /* not over yet */
    REQUEST_DONE,   /* there is a reply; it may be an error of the server */
    REQUEST_UNSENT, /* it has not reached the server */
    REQUEST_LOST,   /* written, and not answered: it may have been counted or not */
};

struct redis_request {
    struct redis_request *next;
    int64_t deadline; /* an instant */
    enum request_end end;
    int tries;
    uint64_t begins; /* where on the connection its first byte stands */
    int skip;        /* replies that come before the one that counts */
    bool waits;      /* WAIT comes after the command, and its number after the reply */
    int64_t number;  /* that number: replicas that have what was written */
    bool abandoned;  /* nobody waits for it any more; the link frees it */
    /* Of a request whose caller is a thread: */
    bool in_turn;         /* it is one: its thread is woken when it is its turn */
    bool drive;           /* its thread drives, or is to */
    bool away;            /* its thread waits for the GIL or runs Python code: it is not woken, and not to drive */
    bool in_line;         /* over, and not woken yet: one of the link's `answered` */
    bool woken;           /* its thread was woken because it is over, and wakes the next */
    struct parker parker; /* where its thread sleeps; here, since a thread may be ended while it sleeps */
    struct link *link;    /* that it was put on */
    enum connection_fault fault;
    char error[REDIS_ERROR_LENGTH]; /* UNSENT and LOST: why */
    redisReply *reply;              /* DONE */
    /* Of a request whose caller is no thread: it is over. Called with the link's lock held: must neither block nor take a lock. */
    void (*wake)(struct redis_request *self);
    void *waker;
    struct redis_request *undo; /* of one that is abandoned: what gives back what it took; or NULL */
    /* An undo's: puts in what only the reply tells. False: there is nothing to give back. */
    bool (*fill)(struct redis_request *self, const redisReply *reply);
    size_t hole; /* where `fill` does so, in `bytes` */
    size_t length;
    char bytes[]; /* the command in the protocol's form */
};

struct request_list {
    struct redis_request *first, **end;
};

struct link {
    struct lock lock;
    struct redis_connection connection; /* whoever drives has it to itself */
    struct request_list waiting;        /* not written */
    struct request_list sent;           /* in the order of their replies */
    struct request_list answered;       /* over, and their threads sleep yet */
    bool waking;                        /* somebody was woken who will wake the first of them */
    bool driven;
    _Atomic bool distrusted;     /* replies may be out of step: the driver hangs up before it reads on */
    bool stepping;               /* an event loop is in link_step */
    const void *within;          /* the thread that runs the stream's code, which may call Python code; or NULL */
    int64_t timeout_ns;          /* of a command */
    int64_t rest_until, rest_ns; /* after a failure to connect */
    uint64_t random;
    enum connection_fault fault; /* what the rest is for */
    char error[REDIS_ERROR_LENGTH];
    _Atomic int64_t opened; /* connections made */
    int64_t failed;         /* and not made */
};

void link_init(struct link *l, const struct redis_address *address, const struct redis_stream *stream,
               int64_t timeout_ns);
void link_destroy(struct link *l); /* nobody waits any more */

/* Hangs up, unless somebody is using the connection; the next request connects again. */
void link_close(struct link *l);
/* The replies can't be trusted: hangs up, at once or, where somebody is using the connection, before anything more is read. */
void link_distrust(struct link *l);

/* Does nobody wait for an answer? */
bool link_is_idle(struct link *l);
/* Is there something to be said, or to be undone when its reply has come? */
bool link_owes(struct link *l);

/* In a fork's child: lets go of the parent's connection without a word to the server. Requests end as UNSENT with FAULT_FORKED: the
 * thread that forked may have been waiting for one, and asks again. */
void link_renew(struct link *l);

/* With room for a command of `length` bytes, to be filled in. NULL: no memory. */
struct redis_request *request_new(size_t length);
void request_free(struct redis_request *r); /* and its undo */

/* The same behind ASKING, for a node of a cluster that is taking a slot over. Frees `r`; NULL: no memory. */
struct redis_request *request_after_asking(struct redis_request *r);

/* The same with WAIT behind it: until so many replicas have what was written, for that long at most. Frees `r`; NULL: no memory. */
struct redis_request *request_until_replicated(struct redis_request *r, int replicas, int64_t timeout_ns);

/* Both as one request, in this order; the reply of the last command counts. Frees both, also where memory fails: NULL. */
struct redis_request *request_join(struct redis_request *first, struct redis_request *second);

/* A thread that calls. The caller holds a lock (Python's GIL) under which other code runs, and lets go of it while it waits. Each
 * function but drop_gil is called only by its thread. While code of the caller's may run, in `look` and in a stream, the thread drives only
 * where it must: that code may call link_call itself. */
struct link_caller {
    void (*drop_gil)(void *context);
    void (*take_gil)(void *context); /* may never return: threads are ended when Python ends */
    /* Does this thread run signal handlers? It then looks for them every SIGNAL_SLICE_NS. NULL: no. */
    bool (*may_look)(void *context);
    bool (*look)(void *context);   /* with the GIL: runs them. True: the caller gives up */
    bool (*raised)(void *context); /* with the GIL: did the stream say ECANCELED? Then the caller gives up. NULL: no */
    /* Makes what gives back what the request takes, when the caller gives up; NULL, or it returns NULL: nothing. Runs no Python code. */
    struct redis_request *(*undo)(void *context);
    void *context;
};

/* Sends and waits, as a thread; takes the request over. Returns it when it is over, to be freed by the caller; NULL: the caller gave up.
 * It is over at its deadline whatever the driver does. At once, as UNSENT with FAULT_WITHIN, where the stream's code calls. */
struct redis_request *link_call(struct link *l, struct redis_request *r, const struct link_caller *caller);

/* Puts a request in line whose answer nobody wants; it goes out with the next one, or by link_settle. */
void link_tell(struct link *l, struct redis_request *r);

/* Before it is closed: drives until nothing that must be said is unsaid, but no longer than until that instant. An instant that has
 * passed: says what can be said without waiting. False: the stream raised. */
bool link_settle(struct link *l, int64_t until, const struct link_caller *caller);

/* ---- as an event loop, which drives a link of its own ---- */

/* Puts a request in line; then link_step. */
void link_submit(struct link *l, struct redis_request *r);

/* Does what can be done now; `readable` when the descriptor is. Afterwards *fd (-1: none) is to be watched for *events. Requests that are
 * over were told so. */
void link_step(struct link *l, bool readable, int *fd, short *events);

/* The name of the server was looked up: what connection_find said. Takes `found` over. */
void link_resolved(struct link *l, int problem, struct addrinfo *found);

/* The caller does not want the answer any more. Takes the request and `undo` (or NULL) over. True: link_step has something to send. */
bool link_abandon(struct link *l, struct redis_request *r, struct redis_request *undo);

#endif
