/* One connection to one Redis server, as a machine that never blocks.
 *
 * Its owner polls the descriptor for connection_events and calls connection_advance when one has come: bytes go out, bytes come in, and
 * each reply that is complete is handed to `on_reply`, in the order of the commands. Connecting, logging in and talking are the same
 * machine, so threads (which poll) and event loops (which are told) share all of it.
 *
 * The reader of replies is hiredis'; so are the replies. Names are resolved by getaddrinfo, which does block: where that must not be,
 * the owner looks them up elsewhere. */
#ifndef HEADWAY_CONNECTION_H
#define HEADWAY_CONNECTION_H

#include <netdb.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "dial.h"
#include "replies.h"

#define REDIS_ERROR_LENGTH 256

/* Where and as whom. All texts are the owner's and outlive the connection; NULL where there is none. */
struct redis_address {
    const char *host, *unix_path;
    int port;
    const char *user, *password, *client_name;
    int database;
    bool resp3; /* ask for it; a server that does not know it is spoken to in RESP2 */
    int64_t connect_timeout_ns;
};

/* What the bytes go through: the socket itself, or TLS. As read(2) and write(2): -1 and errno, EAGAIN when not ready. EPROTO: see
 * `error`. ECANCELED: an exception ended the stream's own code, which is the stream's to raise; the connection is closed. */
struct redis_stream {
    void *context;
    /* A turn of the connection begins. In one turn a stream takes no more than TURN_BYTES from the socket. */
    void (*begin)(void *context);
    ssize_t (*read)(void *context, int fd, char *bytes, size_t length);
    ssize_t (*write)(void *context, int fd, const char *bytes, size_t length);
    /* A new socket: start afresh. False: errno. */
    bool (*open)(void *context, int fd);
    bool (*wants_write)(void *context);  /* it has bytes that the socket would not take */
    const char *(*error)(void *context); /* what EPROTO was about */
};

enum connection_state {
    CONNECTION_CLOSED,
    CONNECTION_RESOLVING,
    CONNECTION_CONNECTING,
    CONNECTION_GREETING,
    CONNECTION_READY
};

/* Why a connection closed, so that the binding can say what would help. */
enum connection_fault {
    FAULT_NONE,
    FAULT_ADDRESS, /* the name cannot be resolved */
    FAULT_CONNECT, /* refused, unreachable */
    FAULT_TIMEOUT,
    FAULT_LOGIN,    /* user or password */
    FAULT_DATABASE, /* there is no such database */
    FAULT_PROTOCOL, /* what answers is not Redis */
    FAULT_TLS,
    FAULT_CLOSED, /* by the server, or the network */
    FAULT_MEMORY,
    FAULT_FORKED,      /* the connection is the parent's: ask again */
    FAULT_WITHIN,      /* the call comes from within the connection's stream: use another connection */
    FAULT_INTERRUPTED, /* by an exception: see struct redis_stream */
};

#define TURN_BYTES (1 << 20) /* so much is read before deadlines are looked at again */

struct redis_buffer {
    char *bytes;
    size_t start, end, room;
};

struct redis_connection {
    const struct redis_address *address;
    const struct redis_stream *stream; /* NULL: the socket itself */
    int fd;                            /* while it connects: the newest of dial's */
    unsigned socket; /* another number for each socket that `fd` has been: descriptors are used again */
    struct dial dial;
    enum connection_state state;
    enum connection_fault fault;
    char error[REDIS_ERROR_LENGTH];
    struct reply_reader replies;
    struct redis_buffer out;
    uint64_t appended, written; /* bytes since it was opened: put into `out`, and handed to the kernel or to TLS */
    int greetings_left;         /* replies to the greeting that are still to come */
    int greeting_kinds[5];
    int64_t deadline;  /* of connecting and greeting: an instant */
    int64_t last_used; /* when bytes last came or went */
    bool defers_names; /* a name that is not a number makes the state RESOLVING: the owner calls connection_resolved */
    /* What the server would not do in the greeting, though it serves; 1 and 2: `refused` says so, 1 a trifle; 3: it
     * was taken note of; 0: nothing. */
    _Atomic int refusal;
    char refused[REDIS_ERROR_LENGTH];
    void *owner;
    /* Takes the reply over. False: the owner knows of no command for it. */
    bool (*on_reply)(void *owner, redisReply *reply);
};

void connection_init(struct redis_connection *c, const struct redis_address *address, const struct redis_stream *stream,
                     void *owner, bool (*on_reply)(void *owner, redisReply *reply));
void connection_destroy(struct redis_connection *c);

/* Begins to connect. False: it failed at once, see fault and error. */
bool connection_open(struct redis_connection *c, int64_t now);

/* getaddrinfo for the address; `number`: only if its host is one. */
int connection_find(const struct redis_address *a, bool number, struct addrinfo **found);
/* Goes on from RESOLVING (else nothing happens). Takes `found` over. False: it failed, see fault and error. */
bool connection_resolved(struct redis_connection *c, int problem, struct addrinfo *found);

/* Closes, keeping the first fault and sentence. */
void connection_close(struct redis_connection *c, enum connection_fault fault, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Appends a command, in the protocol's form. Before READY too: it goes out after the greeting. False: no memory. */
bool connection_send(struct redis_connection *c, const char *bytes, size_t length);

/* POLLIN and POLLOUT as wanted now. */
short connection_events(const struct redis_connection *c);
/* The same of all its sockets: several while it connects. Returns how many. */
int connection_polls(const struct redis_connection *c, struct pollfd polls[DIAL_ADDRESSES_MAX]);
/* When it is to be advanced while it connects, though nothing has happened; INT64_MAX: never. */
int64_t connection_due(const struct redis_connection *c, int64_t now);

/* Only sends, when connected. False: the connection is closed. */
bool connection_write(struct redis_connection *c, int64_t now);

/* Does what can be done without blocking. False: the connection is closed. */
bool connection_advance(struct redis_connection *c, int64_t now);

/* Has the server hung up while nobody looked? Call it before using a connection that was idle. */
bool connection_is_stale(struct redis_connection *c);

/* Does the text of a reply (an error, mostly) begin so? */
bool reply_begins(const redisReply *reply, const char *text);

/* Appends to a buffer in the protocol's form. False: no memory. */
bool redis_append(struct redis_buffer *b, const char *bytes, size_t length);
bool redis_append_array(struct redis_buffer *b, int count);
bool redis_append_text(struct redis_buffer *b, const char *bytes, size_t length);
bool redis_append_number(struct redis_buffer *b, int64_t value);

#endif
