/* One operation on a server, from the first request to the answer: by the whole script where the server does not know it, on
 * another node where the slot has moved, again where the server is loading or a failover is under way.
 *
 * What comes next is decided here and done by whoever waits: a thread (remote_run) or a task (call_type.c). */
#ifndef HEADWAY_REMOTE_H
#define HEADWAY_REMOTE_H

#include "redis_store_type.h"

enum remote_kind { REMOTE_LIMIT, REMOTE_SETTLE, REMOTE_RESET };

struct remote {
    enum remote_kind kind;
    PlanObject *plan;
    struct table_key key;
    int64_t cost;         /* LIMIT: 0 reads */
    int64_t most_wait_ns; /* LIMIT: reserve what is due so soon */
    int rule;             /* SETTLE */
    int64_t surplus;      /* SETTLE */
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
void remote_clear(struct remote *r);

/* All of it, as a thread. 0, or -1 with an exception. Leaves r->out. */
int remote_run(RedisStoreObject *s, struct remote *r);

#endif
