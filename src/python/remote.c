/* One operation on a server: see remote.h. */
#include "remote.h"

#include <stdio.h>

#include "clock.h"
#include "loop_link.h"

#define TRIES 32
#define FOREIGN_TIMEOUT_NS                                                                                             \
    (5 * NS_PER_S) /* of a client that has its own: how long a server may say that it is loading */

/* ---- asking ---- */

/* The name of the first rule's key says the slot; all rules have one hash tag. */
static uint16_t remote_slot(const struct remote *r) {
    return r->kind == REMOTE_RUN ? r->slot : scripts_slot(r->plan->names, &r->key);
}

static bool remote_is_to_be_replicated(const RedisStoreObject *s, const struct remote *r) {
    return s->wait_replicas > 0 && (r->kind == REMOTE_RUN ? r->script != NULL : r->kind != REMOTE_LIMIT || r->cost > 0);
}

struct redis_request *remote_undo(void *remote) {
    const struct remote *r = remote;
    if (r->kind != REMOTE_LIMIT || r->cost == 0 || plan_never_fits(r->plan->plan, r->cost)) {
        return NULL;
    }
    return scripts_undo(r->plan->plan, r->plan->names, &r->key, r->cost);
}

struct redis_request *remote_undo_reserved(const struct remote *r) {
    struct redis_request *undo = scripts_undo(r->plan->plan, r->plan->names, &r->key, r->cost);
    if (undo != NULL && !undo->fill(undo, r->reply)) {
        request_free(undo);
        undo = NULL; /* it was read once: it can be read again */
    }
    return undo;
}

struct redis_request *remote_request(RedisStoreObject *s, struct remote *r) {
    const struct plan *p = r->plan == NULL ? NULL : r->plan->plan;
    struct redis_request *request;
    if (r->give_up == 0) {
        r->give_up = clock_now() + (s->client == NULL ? s->timeout_ns : FOREIGN_TIMEOUT_NS);
    }
    if (!r->asking && s->client == NULL) {
        LinkObject *link = redis_store_route(s, redis_store_has_slots(s) ? remote_slot(r) : 0);
        if (link == NULL) {
            return NULL;
        }
        Py_XSETREF(r->link, link);
    }
    switch (r->kind) {
    case REMOTE_LIMIT:
        request = scripts_limit(p, r->plan->names, &r->key, plan_never_fits(p, r->cost) ? 0 : r->cost, r->most_wait_ns,
                                r->whole);
        break;
    case REMOTE_SETTLE:
        request = scripts_settle(p, r->rule, r->plan->names, &r->key, r->surplus, r->whole);
        break;
    case REMOTE_RESET:
        request = scripts_reset(p, r->plan->names, &r->key);
        break;
    case REMOTE_UNDO:
        request = remote_undo_reserved(r);
        break;
    case REMOTE_LEASE:
        if (r->asking && !algorithm_is_bucket(p->algorithm)) {
            r->take->give.count = 0; /* ASKING is for one command */
        }
        r->take->sent = clock_now();
        request = scripts_lease(p, r->plan->names, &r->key, r->take, r->whole);
        break;
    case REMOTE_GIVE:
        request = scripts_give(p, r->plan->names, &r->key, r->give, r->whole);
        break;
    default:
        request = scripts_run(r->script, r->words, r->words_length, r->word_count, r->key_count, r->whole);
    }
    if (request != NULL && r->asking) {
        request = request_after_asking(request);
    }
    if (request != NULL && remote_is_to_be_replicated(s, r)) {
        request = request_until_replicated(request, s->wait_replicas, s->timeout_ns / 2);
    }
    r->asking = false;
    if (request == NULL) {
        PyErr_NoMemory();
    }
    return request;
}

/* ---- reading ---- */

static enum remote_step remote_refuse(RedisStoreObject *s, const redisReply *reply) {
    bool login = reply_begins(reply, "NOAUTH") || reply_begins(reply, "WRONGPASS") || reply_begins(reply, "NOPERM");
    link_raise_fault(s->server, login ? "login" : "store", reply->str, false);
    return REMOTE_FAILED;
}

/* A name or an address of a host: what else a server says must not get further. */
static bool is_host(const char *text) {
    bool host = text[0] != '.';
    for (const char *at = text; *at != 0; at++) {
        host = host && ((*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') || (*at >= '0' && *at <= '9') ||
                        strchr(".-_:%[]", *at) != NULL);
    }
    return host;
}

/* "MOVED 3999 127.0.0.1:6381": the slot is served there from now on; ASK: this once. */
static enum remote_step remote_redirected(RedisStoreObject *s, struct remote *r, const redisReply *reply, bool moved) {
    const char *text = reply->str;
    unsigned slot = 0;
    char where[256];
    bool read = sscanf(text, "%*s %u %255s", &slot, where) == 2 && slot < 16384;
    char *colon = read ? strrchr(where, ':') : NULL;
    int port = colon != NULL ? atoi(colon + 1) : 0;
    if (port < 1 || port > 65535 || strlen(reply->str) != (size_t)reply->len || !is_host((*colon = 0, where))) {
        return s->topology != NULL ? REMOTE_REFRESH : remote_refuse(s, reply);
    }
    /* An empty host is the one that answered. */
    const char *host = where[0] != 0 ? where : r->link->address.host;
    LinkObject *link = redis_store_node(s, host, port);
    if (link == NULL) {
        return REMOTE_FAILED;
    }
    if (moved) {
        if (redis_store_assign(s, (int)slot, link) < 0) {
            Py_DECREF(link);
            return REMOTE_FAILED;
        }
        Py_DECREF(link);
        if (s->topology != NULL && clock_now() - s->refreshed > NS_PER_S) { /* where one has moved, others may have */
            s->refreshed = clock_now();
            return REMOTE_REFRESH;
        }
    } else {
        r->asking = true;
        Py_XSETREF(r->link, link);
    }
    return REMOTE_AGAIN;
}

static enum remote_step remote_read_error(RedisStoreObject *s, struct remote *r, const redisReply *reply) {
    if (r->kind == REMOTE_LEASE && !algorithm_is_bucket(r->plan->plan->algorithm) && !reply_begins(reply, "MOVED ")) {
        r->take->give.count = 0; /* a command of its own, which may have been done */
    }
    if (scripts_are_missing(reply) && !r->whole) {
        r->whole = true;
        return REMOTE_AGAIN;
    }
    if (r->tries >= TRIES || clock_now() >= r->give_up) {
        return remote_refuse(s, reply);
    }
    if (s->client == NULL && reply_begins(reply, "MOVED ")) {
        return remote_redirected(s, r, reply, true);
    }
    if (s->client == NULL && reply_begins(reply, "ASK ")) {
        return remote_redirected(s, r, reply, false);
    }
    if (reply_begins(reply, "TRYAGAIN") || reply_begins(reply, "LOADING") || reply_begins(reply, "CLUSTERDOWN")) {
        return REMOTE_PAUSE;
    }
    if ((reply_begins(reply, "READONLY") || reply_begins(reply, "MASTERDOWN")) && s->topology != NULL) {
        return REMOTE_REFRESH;
    }
    return remote_refuse(s, reply);
}

/* False: the script cannot have said that. */
static bool remote_read(struct remote *r, const redisReply *reply) {
    if (r->kind == REMOTE_LIMIT) {
        return scripts_read(r->plan->plan, reply, r->cost, r->most_wait_ns, plan_never_fits(r->plan->plan, r->cost),
                            &r->out);
    }
    return r->kind != REMOTE_LEASE || scripts_read_lease(r->plan->plan, reply, r->take);
}

enum remote_step remote_next(RedisStoreObject *s, struct remote *r, struct redis_request *request) {
    r->tries++;
    if (request->end == REQUEST_UNSENT && request->fault == FAULT_FORKED && r->tries < TRIES) {
        return REMOTE_AGAIN; /* this is a child of the process that asked, which asks for itself */
    }
    if (request->end == REQUEST_UNSENT && s->topology != NULL && clock_now() < r->give_up &&
        request->fault != FAULT_LOGIN && request->fault != FAULT_TLS) {
        return REMOTE_REFRESH;
    }
    if (request->end == REQUEST_UNSENT && r->link != NULL && redis_store_has_slots(s)) {
        redis_store_unassign(s, remote_slot(r),
                             r->link); /* a server had sent us there, and there is nobody: it is asked again */
    }
    if (request->end != REQUEST_DONE) {
        link_raise(s->server, request);
        return REMOTE_FAILED;
    }
    const redisReply *reply = request->reply;
    if (reply->type == REDIS_REPLY_ERROR) {
        return remote_read_error(s, r, reply);
    }
    if (!remote_read(r, reply)) {
        /* Whatever answers here, or however the replies have got out of step: the connection can't be trusted. */
        if (request->link != NULL) {
            link_distrust(request->link);
        }
        link_raise_fault(s->server, "protocol", "it answered what the script cannot have said", true);
        return REMOTE_FAILED;
    }
    if (remote_is_to_be_replicated(s, r) && request->number < s->wait_replicas &&
        !(r->kind == REMOTE_LIMIT && r->out.kind == OUTCOME_DENIED)) {
        char text[96];
        snprintf(text, sizeof text, "%lld of %d replicas have the decision", (long long)request->number,
                 s->wait_replicas);
        link_raise_fault(s->server, "replicas", text, true);
        return REMOTE_FAILED;
    }
    if (r->kind == REMOTE_LIMIT && r->out.kind == OUTCOME_ADMITTED && r->out.wait_ns > 0) {
        if (r->reply != NULL) {
            freeReplyObject(r->reply);
        }
        r->reply = request->reply;
        request->reply = NULL;
    }
    if (r->kind == REMOTE_RUN && (r->answer = reply_to_object(s->module, reply)) == NULL) {
        return REMOTE_FAILED;
    }
    redis_store_recovered(s);
    return REMOTE_DONE;
}

void remote_free(struct remote *r) {
    if (r->reply != NULL) {
        freeReplyObject(r->reply);
        r->reply = NULL;
    }
    Py_CLEAR(r->answer);
    Py_CLEAR(r->link);
}

void remote_renew(struct remote *r, enum remote_kind kind) {
    r->kind = kind;
    r->whole = r->asking = false;
    r->give_up = 0;
    r->tries = 0;
}

/* ---- as a thread ---- */

static int remote_refresh(RedisStoreObject *s) {
    PyObject *done = PyObject_CallMethod(s->topology, "refresh", "O", (PyObject *)s);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Takes the request over, and returns it when it is over. NULL: an exception. */
static struct redis_request *remote_ask(RedisStoreObject *s, struct remote *r, struct redis_request *request) {
    if (s->client == NULL) {
        return link_object_call(r->link, request, remote_undo, r);
    }
    if (foreign_call(s, request) < 0) {
        request_free(request);
        return NULL;
    }
    return request;
}

int remote_run(RedisStoreObject *s, struct remote *r) {
    for (;;) {
        struct redis_request *request = remote_request(s, r);
        if (request == NULL || (request = remote_ask(s, r, request)) == NULL) {
            return -1;
        }
        enum remote_step step = remote_next(s, r, request);
        request_free(request);
        if (step == REMOTE_DONE) {
            return 0;
        }
        if (step == REMOTE_FAILED || (step == REMOTE_PAUSE && sleep_for(REMOTE_PAUSE_NS) < 0) ||
            (step == REMOTE_REFRESH && remote_refresh(s) < 0)) {
            return -1;
        }
    }
}

static int remote_tell(RedisStoreObject *s, struct remote *r, PyObject *loop) {
    struct redis_request *request = remote_request(s, r);
    if (request == NULL) {
        return -1;
    }
    if (s->client != NULL) {
        int answer = foreign_tell(s, request);
        request_free(request);
        return answer;
    }
    LoopLinkObject *link = loop_link_of(r->link, loop);
    if (link == NULL) {
        request_free(request);
        return -1;
    }
    loop_link_tell(link, request);
    Py_DECREF(link);
    return 0;
}

int remote_from_anywhere(RedisStoreObject *s, struct remote *r) {
    PyObject *loop = running_loop(s->module);
    if (loop == NULL) {
        return PyErr_Occurred() ? -1 : remote_run(s, r);
    }
    r->whole = true; /* nobody would send it again by the whole script */
    int answer = remote_tell(s, r, loop);
    Py_DECREF(loop);
    return answer;
}
