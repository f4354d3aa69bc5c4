/* One connection: see connection.h. */
#include "connection.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"

#define READ_SIZE 16384

/* ---- buffers ---- */

bool redis_append(struct redis_buffer *b, const char *bytes, size_t length) {
    if (b->room - b->end < length) {
        if (b->start > 0) {
            memmove(b->bytes, b->bytes + b->start, b->end - b->start);
            b->end -= b->start;
            b->start = 0;
        }
        if (b->room - b->end < length) {
            size_t room = b->room == 0 ? 1024 : b->room;
            while (room - b->end < length) {
                room *= 2;
            }
            char *grown = realloc(b->bytes, room);
            if (grown == NULL) {
                return false;
            }
            b->bytes = grown;
            b->room = room;
        }
    }
    memcpy(b->bytes + b->end, bytes, length);
    b->end += length;
    return true;
}

static bool redis_append_header(struct redis_buffer *b, char kind, int64_t value) {
    char text[32];
    int length = snprintf(text, sizeof text, "%c%lld\r\n", kind, (long long)value);
    return redis_append(b, text, (size_t)length);
}

bool redis_append_array(struct redis_buffer *b, int count) {
    return redis_append_header(b, '*', count);
}

bool redis_append_text(struct redis_buffer *b, const char *bytes, size_t length) {
    return redis_append_header(b, '$', (int64_t)length) && redis_append(b, bytes, length) && redis_append(b, "\r\n", 2);
}

bool redis_append_number(struct redis_buffer *b, int64_t value) {
    char text[24];
    int length = snprintf(text, sizeof text, "%lld", (long long)value);
    return redis_append_text(b, text, (size_t)length);
}

/* ---- life ---- */

void connection_init(struct redis_connection *c, const struct redis_address *address, const struct redis_stream *stream,
                     void *owner, bool (*on_reply)(void *owner, redisReply *reply)) {
    *c =
        (struct redis_connection){.address = address, .stream = stream, .fd = -1, .owner = owner, .on_reply = on_reply};
}

static void connection_drop(struct redis_connection *c) {
    if (c->state == CONNECTION_CONNECTING) {
        dial_end(&c->dial);
    } else if (c->fd >= 0) {
        close(c->fd);
    }
    c->fd = -1;
    reply_reader_close(&c->replies);
    c->out.start = c->out.end = 0;
    c->state = CONNECTION_CLOSED;
}

void connection_destroy(struct redis_connection *c) {
    connection_drop(c);
    free(c->out.bytes);
    c->out = (struct redis_buffer){0};
}

void connection_close(struct redis_connection *c, enum connection_fault fault, const char *format, ...) {
    if (c->state == CONNECTION_CLOSED && c->fault != FAULT_NONE) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(c->error, sizeof c->error, format, arguments);
    va_end(arguments);
    c->fault = fault;
    connection_drop(c);
}

/* ---- connecting ---- */

/* `tried`: dial has begun another, whose descriptor may be that of one that failed. */
static void connection_watch_newest(struct redis_connection *c, bool tried) {
    int newest = c->dial.open > 0 ? c->dial.fds[c->dial.open - 1] : -1;
    c->socket += tried || newest != c->fd;
    c->fd = newest;
}

static bool connection_open_unix(struct redis_connection *c) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(c->address->unix_path) >= sizeof address.sun_path) {
        connection_close(c, FAULT_ADDRESS, "the path of the socket is too long");
        return false;
    }
    strcpy(address.sun_path, c->address->unix_path);
    if (!dial_begin_at(&c->dial, (struct sockaddr *)&address, sizeof address)) {
        connection_close(c, FAULT_CONNECT, "%s", strerror(c->dial.error));
        return false;
    }
    connection_watch_newest(c, true);
    return true;
}

static bool connection_dial(struct redis_connection *c, int problem, struct addrinfo *found, int64_t now) {
    if (problem != 0) {
        connection_close(c, problem == EAI_MEMORY ? FAULT_MEMORY : FAULT_ADDRESS, "%s", gai_strerror(problem));
        return false;
    }
    if (!dial_begin(&c->dial, found, c->address->connect_timeout_ns, now)) {
        connection_close(c, FAULT_CONNECT, "%s", strerror(c->dial.error));
        return false;
    }
    connection_watch_newest(c, true);
    return true;
}

int connection_find(const struct redis_address *a, bool number, struct addrinfo **found) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = number ? AI_NUMERICHOST : 0};
    char port[16];
    snprintf(port, sizeof port, "%d", a->port);
    *found = NULL;
    return getaddrinfo(a->host, port, &hints, found);
}

static bool connection_open_tcp(struct redis_connection *c) {
    struct addrinfo *found;
    int problem = connection_find(c->address, c->defers_names, &found);
    if (problem == EAI_NONAME && c->defers_names) {
        c->state = CONNECTION_RESOLVING;
        return true;
    }
    return connection_dial(c, problem, found, clock_now());
}

bool connection_resolved(struct redis_connection *c, int problem, struct addrinfo *found) {
    if (c->state == CONNECTION_RESOLVING) {
        c->state = CONNECTION_CONNECTING;
        return connection_dial(c, problem, found, clock_now());
    }
    if (found != NULL) {
        freeaddrinfo(found);
    }
    return true;
}

enum greeting { GREETING_HELLO, GREETING_AUTH, GREETING_SELECT, GREETING_NAME, GREETING_INFO };

static bool connection_greet_with(struct redis_connection *c, enum greeting kind, int count, const char *const *words) {
    if (!redis_append_array(&c->out, count)) {
        return false;
    }
    for (int i = 0; i < count; i++) {
        if (!redis_append_text(&c->out, words[i], strlen(words[i]))) {
            return false;
        }
    }
    c->greeting_kinds[c->greetings_left++] = (int)kind;
    return true;
}

/* AUTH goes before HELLO, so that a server without HELLO knows us too; all of it is one write. */
static bool connection_greet(struct redis_connection *c) {
    const struct redis_address *a = c->address;
    char number[16];
    bool done = true;
    c->greetings_left = 0;
    if (a->password != NULL && a->user != NULL) {
        done = connection_greet_with(c, GREETING_AUTH, 3, (const char *[]){"AUTH", a->user, a->password});
    } else if (a->password != NULL) {
        done = connection_greet_with(c, GREETING_AUTH, 2, (const char *[]){"AUTH", a->password});
    }
#if HIREDIS_MAJOR >= 1
    if (a->resp3) {
        done = done && connection_greet_with(c, GREETING_HELLO, 2, (const char *[]){"HELLO", "3"});
    }
#endif
    if (a->database != 0) {
        snprintf(number, sizeof number, "%d", a->database);
        done = done && connection_greet_with(c, GREETING_SELECT, 2, (const char *[]){"SELECT", number});
    }
    if (a->client_name != NULL) {
        done =
            done && connection_greet_with(c, GREETING_NAME, 3, (const char *[]){"CLIENT", "SETNAME", a->client_name});
    }
    /* Always something, so that what is not Redis is found out before it is asked for a decision. */
    return done &&
           connection_greet_with(c, GREETING_INFO, 4, (const char *[]){"CLIENT", "SETINFO", "LIB-NAME", "headway"});
}

bool connection_open(struct redis_connection *c, int64_t now) {
    c->fault = FAULT_NONE;
    c->error[0] = 0;
    c->out.start = c->out.end = 0;
    c->state = CONNECTION_CONNECTING;
    c->deadline = now + c->address->connect_timeout_ns;
    if (!(c->address->unix_path != NULL ? connection_open_unix(c) : connection_open_tcp(c))) {
        return false;
    }
    if (!reply_reader_open(&c->replies) || !connection_greet(c)) {
        connection_close(c, FAULT_MEMORY, "out of memory");
        return false;
    }
    c->appended = c->out.end - c->out.start;
    c->written = 0;
    return true;
}

/* ---- talking ---- */

bool connection_send(struct redis_connection *c, const char *bytes, size_t length) {
    c->appended += length;
    return redis_append(&c->out, bytes, length);
}

short connection_events(const struct redis_connection *c) {
    if (c->state == CONNECTION_RESOLVING) {
        return 0;
    }
    if (c->state == CONNECTION_CONNECTING) {
        return POLLOUT;
    }
    bool write = c->stream != NULL ? c->stream->wants_write(c->stream->context) : c->out.end > c->out.start;
    return (short)(POLLIN | (write ? POLLOUT : 0));
}

int connection_polls(const struct redis_connection *c, struct pollfd polls[DIAL_ADDRESSES_MAX]) {
    if (c->state != CONNECTION_CONNECTING) {
        polls[0] = (struct pollfd){.fd = c->fd, .events = connection_events(c)};
        return 1;
    }
    for (int i = 0; i < c->dial.open; i++) {
        polls[i] = (struct pollfd){.fd = c->dial.fds[i], .events = POLLOUT};
    }
    return c->dial.open;
}

int64_t connection_due(const struct redis_connection *c, int64_t now) {
    int64_t soon = now + DIAL_DELAY_NS, due;
    switch (c->state) {
    case CONNECTION_READY:
        return INT64_MAX;
    case CONNECTION_CLOSED: /* once it connects, it is due when the second address is */
        due = now + c->address->connect_timeout_ns;
        return soon < due ? soon : due;
    case CONNECTION_RESOLVING:
        return soon < c->deadline ? soon : c->deadline;
    case CONNECTION_CONNECTING:
        due = dial_due(&c->dial);
        return due < c->deadline ? due : c->deadline;
    default:
        return c->deadline;
    }
}

/* Closes it for what the stream has just said. */
static void connection_fail_stream(struct redis_connection *c) {
    if (errno == ECANCELED) {
        connection_close(c, FAULT_INTERRUPTED, "an exception interrupted the thread that was using the connection");
    } else {
        connection_close(c, FAULT_TLS, "%s", c->stream->error(c->stream->context));
    }
}

static bool connection_finish_connecting(struct redis_connection *c, int64_t now) {
    int fd, tried = c->dial.next;
    switch (dial_advance(&c->dial, now, &fd)) {
    case DIAL_GOES_ON:
        connection_watch_newest(c, c->dial.next != tried);
        return true;
    case DIAL_FAILED:
        connection_close(c, FAULT_CONNECT, "%s", strerror(c->dial.error));
        return false;
    case DIAL_CONNECTED:
        break;
    }
    c->socket += fd != c->fd;
    c->fd = fd;
    c->state = CONNECTION_GREETING;
    if (c->stream != NULL && !c->stream->open(c->stream->context, c->fd)) {
        connection_fail_stream(c);
        return false;
    }
    return c->state != CONNECTION_CLOSED; /* in a fork's child it is, where the stream's code forked */
}

static void connection_fail_io(struct redis_connection *c) {
    char alert[64];
    int error = errno;
    /* A peer that refuses under TLS says why and hangs up: the reason may be there to be read. */
    if (c->stream != NULL && (error == ECONNRESET || error == EPIPE) &&
        (c->stream->read(c->stream->context, c->fd, alert, sizeof alert) >= 0 || errno == EAGAIN)) {
        errno = error;
    }
    if (c->stream != NULL && (errno == EPROTO || errno == ECANCELED)) {
        connection_fail_stream(c);
    } else {
        connection_close(c, FAULT_CLOSED, "%s", strerror(errno));
    }
}

static bool connection_write_out(struct redis_connection *c, int64_t now) {
    while (c->out.end > c->out.start) {
        const char *bytes = c->out.bytes + c->out.start;
        size_t length = c->out.end - c->out.start;
        ssize_t n = c->stream != NULL ? c->stream->write(c->stream->context, c->fd, bytes, length)
                                      : send(c->fd, bytes, length, MSG_NOSIGNAL);
        if (c->state == CONNECTION_CLOSED) { /* in a fork's child, where the stream's code forked */
            return false;
        }
        if (n < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
                return true;
            }
            connection_fail_io(c);
            return false;
        }
        c->out.start += (size_t)n;
        c->written += (uint64_t)n;
        c->last_used = now;
    }
    c->out.start = c->out.end = 0;
    return true;
}

bool reply_begins(const redisReply *r, const char *text) {
    return r->len >= strlen(text) && strncmp(r->str, text, strlen(text)) == 0;
}

/* The reply to a part of the greeting. What an old server does not know is let go. */
static bool connection_greeted(struct redis_connection *c, redisReply *r) {
    static const char *const asked[] = {"HELLO", "AUTH", "SELECT", "CLIENT SETNAME", "CLIENT SETINFO"};
    enum greeting kind = (enum greeting)c->greeting_kinds[0];
    bool failed = r->type == REDIS_REPLY_ERROR;
    memmove(c->greeting_kinds, c->greeting_kinds + 1, sizeof c->greeting_kinds - sizeof c->greeting_kinds[0]);
    c->greetings_left--;
    if (failed && kind == GREETING_AUTH) {
        connection_close(c, FAULT_LOGIN, "%.*s", (int)r->len, r->str);
    } else if (failed && reply_begins(r, "NOAUTH")) {
        connection_close(c, FAULT_LOGIN, "%.*s", (int)r->len, r->str);
    } else if (failed && reply_begins(r, "ERR max number of clients")) {
        connection_close(c, FAULT_CLOSED, "%.*s", (int)r->len, r->str);
    } else if (failed && kind == GREETING_SELECT) {
        connection_close(c, FAULT_DATABASE, "%.*s", (int)r->len, r->str);
    } else if (failed && !reply_begins(r, "ERR") && !reply_begins(r, "NOPERM") && !reply_begins(r, "NOPROTO") &&
               !reply_begins(r, "LOADING") && !reply_begins(r, "MASTERDOWN")) {
        connection_close(c, FAULT_PROTOCOL, "%s was answered by: %.*s", asked[kind], (int)r->len, r->str);
    } else if (!failed && r->type != REDIS_REPLY_STATUS && kind != GREETING_HELLO) {
        connection_close(c, FAULT_PROTOCOL, "%s was not answered as Redis answers", asked[kind]);
    } else if (failed && kind >= GREETING_NAME && atomic_load(&c->refusal) == 0) {
        snprintf(c->refused, sizeof c->refused, "%s was answered by: %.*s", asked[kind], (int)r->len, r->str);
        atomic_store(&c->refusal, kind == GREETING_NAME ? 2 : 1);
    }
    freeReplyObject(r);
    if (c->state != CONNECTION_CLOSED && c->greetings_left == 0) {
        c->state = CONNECTION_READY;
    }
    return c->state != CONNECTION_CLOSED;
}

/* The reader has an error. */
static void connection_close_unreadable(struct redis_connection *c) {
    if (c->replies.no_memory) {
        connection_close(c, FAULT_MEMORY, "out of memory");
    } else {
        connection_close(c, FAULT_PROTOCOL, "what answers does not speak Redis' protocol: %s", c->replies.error);
    }
}

static bool connection_take_replies(struct redis_connection *c) {
    for (;;) {
        redisReply *reply = reply_reader_take(&c->replies);
        if (reply == NULL && c->replies.error != NULL) {
            connection_close_unreadable(c);
            return false;
        }
        if (reply == NULL) {
            return true;
        }
#if HIREDIS_MAJOR >= 1
        if (reply->type == REDIS_REPLY_PUSH) { /* news that nobody has asked for */
            freeReplyObject(reply);
            continue;
        }
#endif
        if (c->state == CONNECTION_GREETING) {
            if (!connection_greeted(c, reply)) {
                return false;
            }
        } else if (!c->on_reply(c->owner, reply)) {
            connection_close(c, FAULT_PROTOCOL, "a reply came that nobody had asked for");
            return false;
        }
        if (c->state == CONNECTION_CLOSED) { /* by the owner */
            return false;
        }
    }
}

static bool connection_read_in(struct redis_connection *c, int64_t now) {
    char bytes[READ_SIZE];
    size_t total = 0;
    for (;;) {
        ssize_t n = c->stream != NULL ? c->stream->read(c->stream->context, c->fd, bytes, sizeof bytes)
                                      : recv(c->fd, bytes, sizeof bytes, 0);
        if (c->state == CONNECTION_CLOSED) { /* in a fork's child, where the stream's code forked */
            return false;
        }
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
            return true;
        }
        if (n <= 0) {
            if (n < 0) {
                connection_fail_io(c);
            } else {
                connection_close(c, FAULT_CLOSED, "the server closed the connection");
            }
            return false;
        }
        c->last_used = now;
        if (!reply_reader_feed(&c->replies, bytes, (size_t)n)) {
            connection_close_unreadable(c);
            return false;
        }
        if (!connection_take_replies(c)) {
            return false;
        }
        total += (size_t)n;
        if (c->stream == NULL && ((size_t)n < sizeof bytes || total >= TURN_BYTES)) {
            return true; /* most likely that was all; poll tells if not. A stream has a limit of its own for a turn */
        }
    }
}

static bool connection_is_in_time(struct redis_connection *c, int64_t now) {
    if (c->state != CONNECTION_READY && now >= c->deadline) {
        connection_close(c, FAULT_TIMEOUT, "no connection within %.3g s", (double)c->address->connect_timeout_ns / 1e9);
        return false;
    }
    return true;
}

bool connection_advance(struct redis_connection *c, int64_t now) {
    if (c->state == CONNECTION_CLOSED) {
        return false;
    }
    if (!connection_is_in_time(c, now)) {
        return false;
    }
    if (c->state == CONNECTION_RESOLVING) {
        return true;
    }
    if (c->stream != NULL) {
        c->stream->begin(c->stream->context);
    }
    if (c->state == CONNECTION_CONNECTING &&
        (!connection_finish_connecting(c, now) || c->state == CONNECTION_CONNECTING)) {
        return c->state != CONNECTION_CLOSED;
    }
    return connection_write_out(c, now) && connection_read_in(c, now) &&
           (c->stream == NULL || connection_write_out(c, now));
}

bool connection_write(struct redis_connection *c, int64_t now) {
    if (c->state == CONNECTION_READY) {
        return connection_write_out(c, now);
    }
    return c->state != CONNECTION_CLOSED && connection_is_in_time(c, now);
}

bool connection_is_stale(struct redis_connection *c) {
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    return c->state == CONNECTION_READY && poll(&p, 1, 0) > 0; /* bytes that nobody has asked for, or the end */
}
