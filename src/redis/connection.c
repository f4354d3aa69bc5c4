/* One connection: see connection.h. */
#include "connection.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
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

static bool append_header(struct redis_buffer *b, char kind, int64_t value) {
    char text[32];
    int length = snprintf(text, sizeof text, "%c%lld\r\n", kind, (long long)value);
    return redis_append(b, text, (size_t)length);
}

bool redis_append_array(struct redis_buffer *b, int count) {
    return append_header(b, '*', count);
}

bool redis_append_text(struct redis_buffer *b, const char *bytes, size_t length) {
    return append_header(b, '$', (int64_t)length) && redis_append(b, bytes, length) && redis_append(b, "\r\n", 2);
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

static void drop(struct redis_connection *c) {
    if (c->fd >= 0) {
        close(c->fd);
        c->fd = -1;
    }
    if (c->reader != NULL) {
        redisReaderFree(c->reader);
        c->reader = NULL;
    }
    c->out.start = c->out.end = 0;
    c->state = CONNECTION_CLOSED;
}

void connection_destroy(struct redis_connection *c) {
    drop(c);
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
    drop(c);
}

/* ---- connecting ---- */

static bool own_socket(struct redis_connection *c, int family) {
    c->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return c->fd >= 0;
}

/* True when connecting or connected. */
static bool try_address(struct redis_connection *c, const struct sockaddr *address, socklen_t length) {
    if (!own_socket(c, address->sa_family)) {
        return false;
    }
    if (address->sa_family != AF_UNIX) {
        int yes = 1;
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
    }
    if (connect(c->fd, address, length) == 0 || errno == EINPROGRESS || errno == EAGAIN) {
        return true;
    }
    int error = errno;
    close(c->fd);
    c->fd = -1;
    errno = error;
    return false;
}

static bool open_unix(struct redis_connection *c) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(c->address->unix_path) >= sizeof address.sun_path) {
        connection_close(c, FAULT_ADDRESS, "the path of the socket is too long");
        return false;
    }
    strcpy(address.sun_path, c->address->unix_path);
    if (!try_address(c, (struct sockaddr *)&address, sizeof address)) {
        connection_close(c, FAULT_CONNECT, "%s", strerror(errno));
        return false;
    }
    return true;
}

/* Of several addresses the first that does not refuse at once is taken; a later refusal is the connection's fault. */
static bool connect_to(struct redis_connection *c, int problem, struct addrinfo *found) {
    if (problem != 0) {
        connection_close(c, FAULT_ADDRESS, "%s", gai_strerror(problem));
        return false;
    }
    bool opened = false;
    int error = EADDRNOTAVAIL;
    for (struct addrinfo *a = found; a != NULL && !opened; a = a->ai_next) {
        opened = try_address(c, a->ai_addr, a->ai_addrlen);
        error = errno;
    }
    freeaddrinfo(found);
    if (!opened) {
        connection_close(c, FAULT_CONNECT, "%s", strerror(error));
    }
    return opened;
}

int connection_find(const struct redis_address *a, bool number, struct addrinfo **found) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = number ? AI_NUMERICHOST : 0};
    char port[16];
    snprintf(port, sizeof port, "%d", a->port);
    *found = NULL;
    return getaddrinfo(a->host, port, &hints, found);
}

static bool open_tcp(struct redis_connection *c) {
    struct addrinfo *found;
    int problem = connection_find(c->address, c->defers_names, &found);
    if (problem == EAI_NONAME && c->defers_names) {
        c->state = CONNECTION_RESOLVING;
        return true;
    }
    return connect_to(c, problem, found);
}

bool connection_resolved(struct redis_connection *c, int problem, struct addrinfo *found) {
    if (c->state == CONNECTION_RESOLVING) {
        c->state = CONNECTION_CONNECTING;
        return connect_to(c, problem, found);
    }
    if (found != NULL) {
        freeaddrinfo(found);
    }
    return true;
}

enum greeting { GREETING_HELLO, GREETING_AUTH, GREETING_SELECT, GREETING_NAME, GREETING_INFO };

static bool greet_with(struct redis_connection *c, enum greeting kind, int count, const char *const *words) {
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
static bool greet(struct redis_connection *c) {
    const struct redis_address *a = c->address;
    char number[16];
    bool done = true;
    c->greetings_left = 0;
    if (a->password != NULL && a->user != NULL) {
        done = greet_with(c, GREETING_AUTH, 3, (const char *[]){"AUTH", a->user, a->password});
    } else if (a->password != NULL) {
        done = greet_with(c, GREETING_AUTH, 2, (const char *[]){"AUTH", a->password});
    }
#if HIREDIS_MAJOR >= 1
    if (a->resp3) {
        done = done && greet_with(c, GREETING_HELLO, 2, (const char *[]){"HELLO", "3"});
    }
#endif
    if (a->database != 0) {
        snprintf(number, sizeof number, "%d", a->database);
        done = done && greet_with(c, GREETING_SELECT, 2, (const char *[]){"SELECT", number});
    }
    if (a->client_name != NULL) {
        done = done && greet_with(c, GREETING_NAME, 3, (const char *[]){"CLIENT", "SETNAME", a->client_name});
    }
    /* Always something, so that what is not Redis is found out before it is asked for a decision. */
    return done && greet_with(c, GREETING_INFO, 4, (const char *[]){"CLIENT", "SETINFO", "LIB-NAME", "headway"});
}

bool connection_open(struct redis_connection *c, int64_t now) {
    c->fault = FAULT_NONE;
    c->error[0] = 0;
    c->out.start = c->out.end = 0;
    c->state = CONNECTION_CONNECTING;
    c->deadline = now + c->address->connect_timeout_ns;
    if (!(c->address->unix_path != NULL ? open_unix(c) : open_tcp(c))) {
        return false;
    }
    c->reader = redisReaderCreate();
    if (c->reader == NULL || !greet(c)) {
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

static bool finish_connecting(struct redis_connection *c) {
    struct pollfd p = {.fd = c->fd, .events = POLLOUT};
    if (poll(&p, 1, 0) == 0) {
        return true; /* not yet */
    }
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0) {
        error = errno;
    }
    if (error != 0) {
        connection_close(c, FAULT_CONNECT, "%s", strerror(error));
        return false;
    }
    if (c->stream != NULL && !c->stream->open(c->stream->context, c->fd)) {
        connection_close(c, FAULT_TLS, "%s", c->stream->error(c->stream->context));
        return false;
    }
    c->state = CONNECTION_GREETING;
    return true;
}

static void fail_io(struct redis_connection *c) {
    char alert[64];
    int error = errno;
    /* A peer that refuses under TLS says why and hangs up: the reason may be there to be read. */
    if (c->stream != NULL && (error == ECONNRESET || error == EPIPE) &&
        c->stream->read(c->stream->context, c->fd, alert, sizeof alert) >= 0) {
        errno = error;
    }
    if (c->stream != NULL && errno == EPROTO) {
        connection_close(c, FAULT_TLS, "%s", c->stream->error(c->stream->context));
    } else {
        connection_close(c, FAULT_CLOSED, "%s", strerror(errno));
    }
}

static bool write_out(struct redis_connection *c, int64_t now) {
    while (c->out.end > c->out.start) {
        const char *bytes = c->out.bytes + c->out.start;
        size_t length = c->out.end - c->out.start;
        ssize_t n = c->stream != NULL ? c->stream->write(c->stream->context, c->fd, bytes, length)
                                      : send(c->fd, bytes, length, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
                return true;
            }
            fail_io(c);
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
static bool greeted(struct redis_connection *c, redisReply *r) {
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

static bool take_replies(struct redis_connection *c) {
    for (;;) {
        void *reply = NULL;
        if (redisReaderGetReply(c->reader, &reply) != REDIS_OK) {
            connection_close(c, FAULT_PROTOCOL, "what answers does not speak Redis' protocol: %s", c->reader->errstr);
            return false;
        }
        if (reply == NULL) {
            return true;
        }
#if HIREDIS_MAJOR >= 1
        if (((redisReply *)reply)->type == REDIS_REPLY_PUSH) { /* news that nobody has asked for */
            freeReplyObject(reply);
            continue;
        }
#endif
        if (c->state == CONNECTION_GREETING) {
            if (!greeted(c, reply)) {
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

/* Older readers make room for as many elements as a reply announces, before there is one of them. */
static bool is_absurd(const char *bytes, size_t length) {
    return length > 6 && bytes[0] == '*' && memchr(bytes, '\r', 6) == NULL;
}

static bool read_in(struct redis_connection *c, int64_t now) {
    char bytes[READ_SIZE];
    for (;;) {
        ssize_t n = c->stream != NULL ? c->stream->read(c->stream->context, c->fd, bytes, sizeof bytes)
                                      : recv(c->fd, bytes, sizeof bytes, 0);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
            return true;
        }
        if (n <= 0) {
            if (n < 0) {
                fail_io(c);
            } else {
                connection_close(c, FAULT_CLOSED, "the server closed the connection");
            }
            return false;
        }
        c->last_used = now;
        if (c->reader->pos == c->reader->len && is_absurd(bytes, (size_t)n)) {
            connection_close(c, FAULT_PROTOCOL,
                             "what answers does not speak Redis' protocol: a reply of absurd length");
            return false;
        }
        if (redisReaderFeed(c->reader, bytes, (size_t)n) != REDIS_OK) {
            connection_close(c, FAULT_PROTOCOL, "%s", c->reader->errstr);
            return false;
        }
        if (!take_replies(c)) {
            return false;
        }
        if ((size_t)n < sizeof bytes && c->stream == NULL) {
            return true; /* most likely that was all; poll tells if not */
        }
    }
}

static bool in_time(struct redis_connection *c, int64_t now) {
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
    if (!in_time(c, now)) {
        return false;
    }
    if (c->state == CONNECTION_RESOLVING) {
        return true;
    }
    if (c->state == CONNECTION_CONNECTING && (!finish_connecting(c) || c->state == CONNECTION_CONNECTING)) {
        return c->state != CONNECTION_CLOSED;
    }
    return write_out(c, now) && read_in(c, now) && (c->stream == NULL || write_out(c, now));
}

bool connection_write(struct redis_connection *c, int64_t now) {
    if (c->state == CONNECTION_READY) {
        return write_out(c, now);
    }
    return c->state != CONNECTION_CLOSED && in_time(c, now);
}

bool connection_is_stale(struct redis_connection *c) {
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    return c->state == CONNECTION_READY && poll(&p, 1, 0) > 0; /* bytes that nobody has asked for, or the end */
}
