/* One operation on a server, from the first request to the answer: by the whole script where the server does not know it, on
 * another node where the slot has moved, again where the server is loading or a failover is under way.
 *
 * What comes next is decided here and done by the caller that waits: a thread (remote_run) or a task (distant.c). */
#ifndef HEADWAY_REMOTE_H
#define HEADWAY_REMOTE_H

#include "redis_store_type.h"

enum remote_kind { REMOTE_LIMIT, REMOTE_SETTLE, REMOTE_RESET, REMOTE_LEASE, REMOTE_GIVE, REMOTE_RUN, REMOTE_UNDO };

struct remote {
    enum remote_kind kind;
    PlanObject *plan;
    struct table_key key;
    int64_t cost;                  /* LIMIT: 0 reads */
    int64_t most_wait_ns;          /* LIMIT: reserve what is due so soon */
    redisReply *reply;             /* LIMIT: to a reservation, for UNDO; owned */
    int rule;                      /* SETTLE */
    int64_t surplus;               /* SETTLE */
    struct lease_take *take;       /* LEASE: question and answer */
    const struct lease_give *give; /* GIVE */
    /* RUN, whose plan is NULL: */
    const struct script *script; /* NULL: the words are a command */
    const char *words;           /* in the protocol's form; the caller's */
    size_t words_length;
    int word_count, key_count;
    uint16_t slot;
    PyObject *answer; /* the reply; owned */
    /* How far it has come; zero at first. */
    bool whole;       /* send the script, not its hash */
    bool asking;      /* to `link` alone, by ASK */
    LinkObject *link; /* whom the last request went to, or, by ASK, the next is to go to; owned */
    int64_t give_up;  /* an instant: no more attempts */
    int tries;
    struct outcome out;
};

enum remote_step {
    REMOTE_DONE,    /* the answer is there */
    REMOTE_AGAIN,   /* ask at once */
    REMOTE_PAUSE,   /* ask after REMOTE_PAUSE_NS */
    REMOTE_REFRESH, /* find out who serves, then ask */
    REMOTE_FAILED,  /* an exception is set */
};

#define REMOTE_PAUSE_NS (20 * NS_PER_MS)

/* The next request, and r->link to whom. NULL: an exception. */
struct redis_request *remote_request(RedisStoreObject *s, struct remote *r);
/* The request is over. */
enum remote_step remote_next(RedisStoreObject *s, struct remote *r, struct redis_request *request);
/* Frees what it owns: the link, the reply, the answer. It may be begun anew. */
void remote_free(struct remote *r);
/* What gives back what its request may take, for one whose caller goes away; NULL: nothing, or no memory. Runs no Python code. */
struct redis_request *remote_undo(void *remote);
/* The same of a LIMIT that reserved, ready to be sent; r->reply is its answer. NULL: no memory. */
struct redis_request *remote_undo_reserved(const struct remote *r);

/* The same operation is to be begun anew, or the next one. */
void remote_renew(struct remote *r, enum remote_kind kind);

/* All of it, as a thread. 0, or -1 with an exception. Leaves r->out, *r->take, r->answer or r->reply: see remote_free. */
int remote_run(RedisStoreObject *s, struct remote *r);

/* Where an event loop runs, the request is sent and its answer not waited for; else it is remote_run. 0, or -1 with an exception. */
int remote_from_anywhere(RedisStoreObject *s, struct remote *r);

/* ---- foreign.c: through a client of the user's own, which takes words and gives the reply in the protocol's form ---- */

/* 0: `request` is over. -1: an exception. */
int foreign_call(RedisStoreObject *s, struct redis_request *request);
/* A coroutine; give what it returns to foreign_answer. */
PyObject *foreign_call_async(RedisStoreObject *s, struct remote *r, const struct redis_request *request);
int foreign_answer(struct redis_request *request, PyObject *reply);
int foreign_tell(RedisStoreObject *s, const struct redis_request *request);

/* ---- run.c: any script or command ---- */

PyObject *redis_store_run(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *redis_store_run_async(PyObject *self, PyObject *const *args, Py_ssize_t nargs);

#endif
