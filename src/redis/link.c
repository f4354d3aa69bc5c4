/* Many callers, one connection: see link.h. */
#include "link_turn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"

#define REST_FIRST_NS (50 * NS_PER_MS)
#define REST_LAST_NS (5 * NS_PER_S)
#define IDLE_NS (1 * NS_PER_S) /* under TLS the server may have said something of its own; later it is the end */
#define TRIES 2

/* ---- requests ---- */

struct redis_request *request_new(size_t length) {
    struct redis_request *r = malloc(sizeof *r + length);
    if (r != NULL) {
        memset(r, 0, sizeof *r);
        r->length = length;
    }
    return r;
}

void request_free(struct redis_request *r) {
    if (r->undo != NULL) {
        request_free(r->undo);
    }
    if (r->reply != NULL) {
        freeReplyObject(r->reply);
    }
    if (r->in_turn) {
        parker_destroy(&r->parker);
    }
    free(r);
}

struct redis_request *request_after_asking(struct redis_request *r) {
    static const char asking[] = "*1\r\n$6\r\nASKING\r\n";
    struct redis_request *longer = request_new(sizeof asking - 1 + r->length);
    if (longer != NULL) {
        memcpy(longer->bytes, asking, sizeof asking - 1);
        memcpy(longer->bytes + sizeof asking - 1, r->bytes, r->length);
        longer->skip = 1;
    }
    request_free(r);
    return longer;
}

struct redis_request *request_until_replicated(struct redis_request *r, int replicas, int64_t timeout_ns) {
    struct redis_buffer wait = {0};
    struct redis_request *longer = NULL;
    if (redis_append_array(&wait, 3) && redis_append_text(&wait, "WAIT", 4) && redis_append_number(&wait, replicas) &&
        redis_append_number(&wait, timeout_ns / NS_PER_MS + 1)) {
        longer = request_new(r->length + wait.end);
    }
    if (longer != NULL) {
        memcpy(longer->bytes, r->bytes, r->length);
        memcpy(longer->bytes + r->length, wait.bytes, wait.end);
        longer->skip = r->skip;
        longer->waits = true;
    }
    free(wait.bytes);
    request_free(r);
    return longer;
}

struct redis_request *request_join(struct redis_request *first, struct redis_request *second) {
    struct redis_request *both = request_new(first->length + second->length);
    if (both != NULL) {
        memcpy(both->bytes, first->bytes, first->length);
        memcpy(both->bytes + first->length, second->bytes, second->length);
        both->skip = first->skip + 1 + second->skip;
    }
    request_free(first);
    request_free(second);
    return both;
}

void list_init(struct request_list *list) {
    list->first = NULL;
    list->end = &list->first;
}

void list_append(struct request_list *list, struct redis_request *r) {
    r->next = NULL;
    *list->end = r;
    list->end = &r->next;
}

struct redis_request *list_take(struct request_list *list) {
    struct redis_request *r = list->first;
    if (r != NULL) {
        list->first = r->next;
        if (list->first == NULL) {
            list->end = &list->first;
        }
        r->next = NULL;
    }
    return r;
}

bool list_remove(struct request_list *list, struct redis_request *r) {
    struct redis_request **at = &list->first;
    while (*at != NULL && *at != r) {
        at = &(*at)->next;
    }
    if (*at == NULL) {
        return false;
    }
    *at = r->next;
    if (*at == NULL) {
        list->end = at;
    }
    return true;
}

/* Nobody wants the answer, which is there: frees the request. With the lock held. */
static void link_drop_answered(struct link *l, struct redis_request *r) {
    struct redis_request *undo = r->undo;
    r->undo = NULL;
    if (undo != NULL && r->end == REQUEST_DONE && undo->fill(undo, r->reply)) {
        /* Ahead of the others, so that whoever asks next finds it given back. */
        undo->abandoned = true;
        undo->next = l->waiting.first;
        undo->deadline = undo->next != NULL ? undo->next->deadline : clock_now() + l->timeout_ns;
        l->waiting.end = undo->next == NULL ? &undo->next : l->waiting.end;
        l->waiting.first = undo;
    } else if (undo != NULL) {
        request_free(undo);
    }
    request_free(r);
}

/* With the lock held. */
static void link_finish(struct link *l, struct redis_request *r, enum request_end end) {
    r->end = end;
    if (r->abandoned) {
        link_drop_answered(l, r);
    } else if (!r->in_turn) {
        r->wake(r);
    } else if (!r->drive && !r->away) { /* else its thread looks by itself */
        r->in_line = true;
        list_append(&l->answered, r);
    }
}

void link_let_go(struct link *l, struct redis_request *r, struct redis_request *undo) {
    r->undo = undo;
    if (r->end != REQUEST_OPEN) {
        link_drop_answered(l, r);
    } else if (list_remove(&l->waiting, r)) {
        request_free(r); /* it has not been sent, and will not be */
    } else {
        r->abandoned = true;
    }
}

static void link_fail(struct link *l, struct redis_request *r, enum request_end end, enum connection_fault fault,
                      const char *error) {
    r->fault = fault;
    snprintf(r->error, sizeof r->error, "%s", error);
    link_finish(l, r, end);
}

static void link_fail_all(struct link *l, struct request_list *list, enum request_end end, enum connection_fault fault,
                          const char *error) {
    struct redis_request *r;
    while ((r = list_take(list)) != NULL) {
        link_fail(l, r, end, fault, error);
    }
}

/* ---- the connection's events; whoever drives ---- */

static bool link_on_reply(void *owner, redisReply *reply) {
    struct link *l = owner;
    lock_acquire(&l->lock);
    struct redis_request *r = l->sent.first;
    if (l->distrusted) {
        connection_close(&l->connection, FAULT_TIMEOUT, "no answer in time");
        lock_release(&l->lock);
        freeReplyObject(reply);
        return true;
    }
    bool known = r != NULL;
    if (known && r->skip > 0) {
        r->skip--;
    } else if (known && r->reply == NULL) {
        r->reply = reply;
        reply = NULL;
    } else if (known) {
        r->number = reply->type == REDIS_REPLY_INTEGER ? reply->integer : -1;
        r->waits = false;
    }
    if (known && r->reply != NULL && !r->waits) {
        list_take(&l->sent);
        link_finish(l, r, REQUEST_DONE);
    }
    lock_release(&l->lock);
    if (reply != NULL) {
        freeReplyObject(reply);
    }
    return known;
}

static uint64_t link_random(struct link *l) {
    uint64_t z = (l->random += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    return z ^ (z >> 31);
}

/* The connection has closed: with the lock held. `made`: it had been made, and broke; else it could not be made. */
void link_closed(struct link *l, bool made, int64_t now) {
    struct redis_connection *c = &l->connection;
    struct request_list again;
    struct redis_request *r;
    list_init(&again);
    l->distrusted = false;
    /* Of which no byte has left, the server cannot have counted. */
    while ((r = list_take(&l->sent)) != NULL) {
        if (made && r->begins >= c->written) {
            list_append(&again, r);
        } else {
            link_fail(l, r, REQUEST_LOST, c->fault, c->error);
        }
    }
    if (c->fault == FAULT_INTERRUPTED) { /* which is no failure of the server: another caller connects */
        while ((r = list_take(&l->waiting)) != NULL) {
            list_append(&again, r);
        }
        l->waiting = again;
        if (again.first == NULL) {
            list_init(&l->waiting);
        }
        return;
    }
    if (made) {
        while ((r = list_take(&l->waiting)) != NULL) {
            list_append(&again, r);
        }
        while ((r = list_take(&again)) != NULL) {
            if (++r->tries < TRIES) {
                list_append(&l->waiting, r);
            } else {
                link_fail(l, r, REQUEST_UNSENT, c->fault, c->error);
            }
        }
        return;
    }
    if (c->fault == FAULT_MEMORY) { /* nor is this: the next caller connects at once */
        link_fail_all(l, &l->waiting, REQUEST_UNSENT, c->fault, c->error);
        return;
    }
    l->failed++;
    l->rest_ns = l->rest_ns == 0 ? REST_FIRST_NS : l->rest_ns * 2 < REST_LAST_NS ? l->rest_ns * 2 : REST_LAST_NS;
    /* Between a half and the whole, so that many processes do not come back as one. */
    l->rest_until = now + l->rest_ns / 2 + (int64_t)(link_random(l) % (uint64_t)(l->rest_ns / 2));
    l->fault = c->fault;
    snprintf(l->error, sizeof l->error, "%s", c->error);
    link_fail_all(l, &l->waiting, REQUEST_UNSENT, c->fault, c->error);
}

/* Drops from the head of a list those whose time is up. True: there was one. */
static bool link_expire(struct link *l, struct request_list *list, int64_t now, enum request_end end) {
    bool any = false;
    while (list->first != NULL && list->first->deadline <= now) {
        link_fail(l, list_take(list), end, FAULT_TIMEOUT, "no answer in time");
        any = true;
    }
    return any;
}

/* Prepares what goes out next: with the lock held. True: a connection must be opened first. */
bool link_prepare(struct link *l, int64_t now) {
    struct redis_connection *c = &l->connection;
    /* What has come while nobody waited is the end, or a reply that would be taken for another's. */
    bool idle = c->state == CONNECTION_READY && l->sent.first == NULL && l->waiting.first != NULL;
    if (idle && (c->stream == NULL || now - c->last_used > IDLE_NS) && connection_is_stale(c)) {
        connection_close(c, FAULT_CLOSED, "the server closed the connection");
    }
    if (c->state == CONNECTION_CLOSED) {
        if (l->waiting.first != NULL && now < l->rest_until) {
            link_fail_all(l, &l->waiting, REQUEST_UNSENT, l->fault, l->error);
        }
        return l->waiting.first != NULL;
    }
    while (c->state == CONNECTION_READY && l->waiting.first != NULL) {
        struct redis_request *r = list_take(&l->waiting);
        r->begins = c->appended;
        if (connection_send(c, r->bytes, r->length)) {
            list_append(&l->sent, r);
        } else {
            link_fail(l, r, REQUEST_UNSENT, FAULT_MEMORY, "out of memory");
        }
    }
    return false;
}

/* See link_turn.h: with the lock held. */
int64_t link_next_deadline(const struct link *l, int64_t now) {
    int64_t deadline = INT64_MAX;
    if (l->sent.first != NULL) {
        deadline = l->sent.first->deadline;
    }
    if (l->waiting.first != NULL && l->waiting.first->deadline < deadline) {
        deadline = l->waiting.first->deadline;
    }
    int64_t due = connection_due(&l->connection, now);
    deadline = due < deadline ? due : deadline;
    return deadline;
}

static void link_hang_up_if_distrusted(struct link *l, int64_t now) {
    if (!atomic_load_explicit(&l->distrusted, memory_order_relaxed)) {
        return;
    }
    lock_acquire(&l->lock);
    if (l->connection.state == CONNECTION_READY) {
        connection_close(&l->connection, FAULT_CLOSED, "its replies were out of step");
        link_closed(l, true, now);
    }
    l->distrusted = false;
    lock_release(&l->lock);
}

/* One turn of whoever drives, without the lock: what is to be done until the next poll. */
void link_turn(struct link *l, bool readable) {
    struct redis_connection *c = &l->connection;
    int64_t now = clock_now();
    link_hang_up_if_distrusted(l, now);
    bool made = c->state == CONNECTION_READY;
    bool open = c->state == CONNECTION_CLOSED || (readable ? connection_advance(c, now) : connection_write(c, now));
    lock_acquire(&l->lock);
    if (!open) {
        link_closed(l, made, now);
    } else if (c->state == CONNECTION_READY) {
        if (!made) {
            l->opened++;
            l->rest_ns = 0;
        }
        if (link_expire(l, &l->sent, now, REQUEST_LOST)) { /* what comes now would be taken for another's */
            connection_close(c, FAULT_TIMEOUT, "no answer in time");
            link_closed(l, true, now);
        }
    }
    link_expire(l, &l->waiting, now, REQUEST_UNSENT);
    lock_release(&l->lock);
}

/* ---- event loops ---- */

void link_submit(struct link *l, struct redis_request *r) {
    r->deadline = clock_now() + l->timeout_ns;
    r->link = l;
    lock_acquire(&l->lock);
    l->driven = true;
    list_append(&l->waiting, r);
    lock_release(&l->lock);
}

void link_step(struct link *l, bool readable, int *fd, short *events) {
    struct redis_connection *c = &l->connection;
    if (l->stepping) { /* the stream runs Python code, which calls: what it wants is seen to when it returns */
        *fd = c->fd;
        *events = c->fd < 0 ? 0 : connection_events(c);
        return;
    }
    l->stepping = true;
    for (int tries = 0; tries < 4; tries++) {
        int64_t now = clock_now();
        lock_acquire(&l->lock);
        bool connect = link_prepare(l, now);
        lock_release(&l->lock);
        if (connect && !connection_open(c, now)) {
            lock_acquire(&l->lock);
            link_closed(l, false, now);
            lock_release(&l->lock);
            break;
        }
        enum connection_state before = c->state;
        link_turn(l, readable || before == CONNECTION_CONNECTING);
        lock_acquire(&l->lock);
        bool more = l->waiting.first != NULL && (c->state == CONNECTION_CLOSED || c->state == CONNECTION_READY);
        lock_release(&l->lock);
        if (!more || c->fault == FAULT_INTERRUPTED) {
            break;
        }
    }
    l->stepping = false;
    *fd = c->fd;
    *events = c->fd < 0 ? 0 : connection_events(c);
}

void link_resolved(struct link *l, int problem, struct addrinfo *found) {
    if (!connection_resolved(&l->connection, problem, found)) {
        lock_acquire(&l->lock);
        link_closed(l, false, clock_now());
        lock_release(&l->lock);
    }
}

bool link_abandon(struct link *l, struct redis_request *r, struct redis_request *undo) {
    lock_acquire(&l->lock);
    link_let_go(l, r, undo);
    bool more = l->waiting.first != NULL;
    lock_release(&l->lock);
    return more;
}

void link_tell(struct link *l, struct redis_request *r) {
    r->abandoned = true;
    r->deadline = clock_now() + l->timeout_ns;
    lock_acquire(&l->lock);
    list_append(&l->waiting, r);
    lock_release(&l->lock);
}

/* ---- life ---- */

void link_init(struct link *l, const struct redis_address *address, const struct redis_stream *stream,
               int64_t timeout_ns) {
    memset(l, 0, sizeof *l);
    lock_init(&l->lock);
    list_init(&l->waiting);
    list_init(&l->sent);
    list_init(&l->answered);
    l->timeout_ns = timeout_ns;
    l->random = (uint64_t)(uintptr_t)l ^ (uint64_t)clock_now();
    connection_init(&l->connection, address, stream, l, link_on_reply);
}

static void list_free_abandoned(struct request_list *list) {
    struct redis_request *r;
    while ((r = list_take(list)) != NULL) {
        if (r->abandoned) {
            request_free(r);
        }
    }
}

void link_destroy(struct link *l) {
    list_free_abandoned(&l->sent);
    list_free_abandoned(&l->waiting);
    connection_destroy(&l->connection);
}

static bool list_is_abandoned(const struct request_list *list) {
    const struct redis_request *r = list->first;
    while (r != NULL && r->abandoned) {
        r = r->next;
    }
    return r == NULL;
}

bool link_is_idle(struct link *l) {
    lock_acquire(&l->lock);
    bool idle = list_is_abandoned(&l->sent) && list_is_abandoned(&l->waiting);
    lock_release(&l->lock);
    return idle;
}

bool link_owes_locked(const struct link *l) {
    for (const struct redis_request *r = l->waiting.first; r != NULL; r = r->next) {
        if (r->abandoned) {
            return true;
        }
    }
    for (const struct redis_request *r = l->sent.first; r != NULL; r = r->next) {
        if (r->undo != NULL) {
            return true;
        }
    }
    return false;
}

bool link_owes(struct link *l) {
    lock_acquire(&l->lock);
    bool yes = link_owes_locked(l);
    lock_release(&l->lock);
    return yes;
}

/* With the lock held, while nobody drives. Callers who run Python code may be waiting for replies. */
static void link_hang_up(struct link *l, const char *why) {
    connection_close(&l->connection, FAULT_CLOSED, "%s", why);
    link_fail_all(l, &l->sent, REQUEST_LOST, FAULT_CLOSED, why);
    l->connection.fault = FAULT_NONE;
    l->distrusted = false;
}

void link_close(struct link *l) {
    lock_acquire(&l->lock);
    if (!l->driven) {
        link_hang_up(l, "closed");
    }
    lock_release(&l->lock);
}

void link_distrust(struct link *l) {
    lock_acquire(&l->lock);
    if (l->driven) {
        l->distrusted = true;
    } else {
        link_hang_up(l, "its replies were out of step");
    }
    lock_release(&l->lock);
}

static void link_end_as_forked(struct request_list *list) {
    struct redis_request *r;
    while ((r = list_take(list)) != NULL) {
        if (r->end == REQUEST_OPEN) {
            r->end = REQUEST_UNSENT;
            r->fault = FAULT_FORKED;
        }
        r->in_line = r->drive = false;
    }
}

void link_renew(struct link *l) {
    bool driven = l->driven;
    lock_init(&l->lock);
    l->driven = l->stepping = false;
    atomic_store(&l->distrusted, false);
    l->within = NULL;
    link_end_as_forked(&l->waiting);
    link_end_as_forked(&l->sent);
    link_end_as_forked(&l->answered);
    l->waking = false;
    if (driven) { /* by a thread that may have been half-way through: they are left as they are */
        l->connection.replies = (struct reply_reader){0};
        l->connection.out = (struct redis_buffer){0};
    }
    connection_close(&l->connection, FAULT_NONE, "forked");
    l->connection.fault = FAULT_NONE;
    l->rest_until = l->rest_ns = 0;
}
