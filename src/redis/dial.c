/* From addresses to a connected socket: see dial.h. */
#include "dial.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

/* The addresses in the resolver's order, but the families in turn. */
static void dial_sort(struct dial *d) {
    const struct addrinfo *one = d->found, *other = d->found;
    int family = d->found->ai_family;
    while (d->count < DIAL_ADDRESSES_MAX) {
        while (one != NULL && one->ai_family != family) {
            one = one->ai_next;
        }
        while (other != NULL && other->ai_family == family) {
            other = other->ai_next;
        }
        if (one == NULL && other == NULL) {
            return;
        }
        if (one != NULL) {
            d->order[d->count++] = one;
            one = one->ai_next;
        }
        if (other != NULL && d->count < DIAL_ADDRESSES_MAX) {
            d->order[d->count++] = other;
            other = other->ai_next;
        }
    }
}

static bool dial_try(struct dial *d, const struct sockaddr *address, socklen_t length) {
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        d->error = errno;
        return false;
    }
    if (address->sa_family != AF_UNIX) {
        int yes = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
    }
    if (connect(fd, address, length) == 0 || errno == EINPROGRESS || errno == EAGAIN) {
        d->fds[d->open++] = fd;
        return true;
    }
    d->error = errno;
    close(fd);
    return false;
}

/* The next address that does not fail at once. False: there is none. */
static bool dial_try_next(struct dial *d, int64_t now) {
    d->next_at = now + d->delay_ns;
    while (d->next < d->count) {
        const struct addrinfo *a = d->order[d->next++];
        if (dial_try(d, a->ai_addr, a->ai_addrlen)) {
            return true;
        }
    }
    return false;
}

bool dial_begin(struct dial *d, struct addrinfo *found, int64_t timeout_ns, int64_t now) {
    *d = (struct dial){.found = found, .error = EADDRNOTAVAIL};
    dial_sort(d);
    d->delay_ns = timeout_ns / (d->count + 1) < DIAL_DELAY_NS ? timeout_ns / (d->count + 1) : DIAL_DELAY_NS;
    if (!dial_try_next(d, now)) {
        dial_end(d);
        return false;
    }
    return true;
}

bool dial_begin_at(struct dial *d, const struct sockaddr *address, socklen_t length) {
    *d = (struct dial){.error = EADDRNOTAVAIL};
    return dial_try(d, address, length);
}

/* Is it connected? 0: not yet; -1: it failed. */
static int dial_look(struct dial *d, int fd) {
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t length = sizeof error;
    if (poll(&p, 1, 0) <= 0) {
        return 0;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0) {
        error = errno;
    }
    d->error = error != 0 ? error : d->error;
    return error != 0 ? -1 : 1;
}

enum dial_end dial_advance(struct dial *d, int64_t now, int *fd) {
    bool failed = false;
    for (int i = 0; i < d->open;) {
        int connected = dial_look(d, d->fds[i]);
        if (connected > 0) {
            *fd = d->fds[i];
            d->fds[i] = d->fds[--d->open];
            dial_end(d);
            return DIAL_CONNECTED;
        }
        if (connected == 0) {
            i++;
            continue;
        }
        failed = true;
        close(d->fds[i]);
        d->open--;
        for (int j = i; j < d->open; j++) {
            d->fds[j] = d->fds[j + 1];
        }
    }
    if (failed || now >= d->next_at) {
        dial_try_next(d, now);
    }
    return d->open > 0 ? DIAL_GOES_ON : DIAL_FAILED;
}

int64_t dial_due(const struct dial *d) {
    return d->open > 0 && d->next < d->count ? d->next_at : INT64_MAX;
}

void dial_end(struct dial *d) {
    while (d->open > 0) {
        close(d->fds[--d->open]);
    }
    if (d->found != NULL) {
        freeaddrinfo(d->found);
        d->found = NULL;
    }
    d->count = d->next = 0;
}
