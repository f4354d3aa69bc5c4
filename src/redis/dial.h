/* From the addresses of a name to a socket that is connected.
 *
 * The addresses are tried in turn, those of IPv6 and of IPv4 alternately. The next one begins when one fails, or after a short delay
 * while the earlier ones go on: the first that connects is taken, and the others are closed (RFC 8305, "Happy Eyeballs"). So a host with
 * an address that does not answer is reached by its other one. Nothing here blocks. */
#ifndef HEADWAY_DIAL_H
#define HEADWAY_DIAL_H

#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define DIAL_ADDRESSES_MAX 16 /* further addresses of a name are not tried */
#define DIAL_DELAY_NS INT64_C(250000000)

struct dial {
    struct addrinfo *found; /* owned; NULL: nothing is being connected, or it is a socket of the file system */
    const struct addrinfo *order[DIAL_ADDRESSES_MAX];
    int count, next;             /* of `order`: how many there are, and the next to be tried */
    int fds[DIAL_ADDRESSES_MAX]; /* that are being connected, the newest last */
    int open;
    int64_t delay_ns, next_at; /* when the next is tried, unless one fails before: an instant */
    int error;                 /* errno of the last that failed */
};

enum dial_end { DIAL_GOES_ON, DIAL_CONNECTED, DIAL_FAILED };

/* Begins, and takes `found` over. All addresses are to have begun within `timeout_ns`. False: all failed at once, see error. */
bool dial_begin(struct dial *d, struct addrinfo *found, int64_t timeout_ns, int64_t now);
/* The same with one address. */
bool dial_begin_at(struct dial *d, const struct sockaddr *address, socklen_t length);
/* Looks at the sockets; on DIAL_CONNECTED, *fd is the caller's and the rest is closed. */
enum dial_end dial_advance(struct dial *d, int64_t now, int *fd);
/* When to call dial_advance though no socket is ready; INT64_MAX: never. */
int64_t dial_due(const struct dial *d);
/* Closes what is open. */
void dial_end(struct dial *d);

#endif
