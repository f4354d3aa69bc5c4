/* Many callers, one connection.
 *
 * Whoever has a request puts it on the link. Requests that come while others are under way go out together in the next write. The link
 * has no thread: among callers that wait as threads one drives, that is, it polls, writes and reads for all until its own reply is
 * there, and hands the wheel on; an event loop drives a link of its own from its callbacks.
 *
 * A thread whose answer has come is woken by the one before it, not by the driver: 15 threads woken at once would queue for Python's
 * GIL and sleep a second time. One after another is 1.8 switches a decision instead of 2.9, and 0.6 of the processor time.
 *
 * Nobody waits any more for a request whose caller was interrupted or cancelled, but it may have been sent. If the reply says that it
 * took something, its `undo` goes out: by whoever drives, in the turn in which the reply is read.
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
    bool drive;      /* its caller is to drive */
    bool in_turn;    /* its caller is a thread, which is woken when it is its turn */
    bool in_line;    /* over, and not woken yet: one of the link's `answered` */
    enum connection_fault fault;
    char error[REDIS_ERROR_LENGTH]; /* UNSENT and LOST: why */
    redisReply *reply;              /* DONE */
    /* It is over, or its caller is to drive. Called with the link's lock held: must neither block nor take a lock. */
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
    int64_t timeout_ns;          /* of a command */
    int64_t rest_until, rest_ns; /* after a failure to connect */
    uint64_t random;
    enum connection_fault fault; /* what the rest is for */
    char error[REDIS_ERROR_LENGTH];
    int64_t opened, failed; /* connections made, and not made */
};

void link_init(struct link *l, const struct redis_address *address, const struct redis_stream *stream,
               int64_t timeout_ns);
void link_destroy(struct link *l); /* nobody waits any more */

/* Hangs up, unless somebody is using the connection; the next request connects again. */
void link_close(struct link *l);

/* Does nobody wait for an answer? */
bool link_is_idle(struct link *l);
/* Is there something to be said, or to be undone when its reply has come? */
bool link_owes(struct link *l);

/* In a fork's child: lets go of the parent's connection without a word to the server. */
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

/* Brackets what may block: `leave` lets go of a GIL, say; `enter` takes it again and, if `ask`, tells whether the caller wants to
 * give up. `undo` (may be NULL) makes what gives back what the request takes, when it is given up; NULL: nothing. */
struct link_caller {
    void (*leave)(void *context);
    bool (*enter)(void *context, bool ask);
    struct redis_request *(*undo)(void *context);
    void *context;
};

/* Sends and waits, as a thread. False: given up, and the request is the link's; else it is over. */
bool link_call(struct link *l, struct redis_request *r, const struct link_caller *caller);

/* Puts a request in line whose answer nobody wants; it goes out with the next one, or by link_settle. */
void link_tell(struct link *l, struct redis_request *r);

/* Before it is closed: drives until nothing that must be said is unsaid, but no longer than until that instant. */
void link_settle(struct link *l, int64_t until, const struct link_caller *caller);

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
