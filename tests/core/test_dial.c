/* Several addresses of one name: the one that answers is found, though the others refuse or say nothing.
 *
 * An address that says nothing is a listener whose backlog is full, so that the kernel drops what comes.
 *
 * Built with HEADWAY_WITHOUT_REDIS=1, as the Makefile does where there is no hiredis, this tests nothing. */
#include "check.h"

#ifndef HEADWAY_WITHOUT_REDIS

#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "dial.h"

#define SILENT_MAX 8

static int listener_at(const char *host, int *port, int backlog) {
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons((uint16_t)*port)};
    socklen_t length = sizeof place;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    place.sin_addr.s_addr = htonl((uint32_t)(0x7F000000 + atoi(host)));
    if (fd < 0 || bind(fd, (struct sockaddr *)&place, sizeof place) != 0 || listen(fd, backlog) != 0) {
        perror("no listener");
        exit(1);
    }
    getsockname(fd, (struct sockaddr *)&place, &length);
    *port = ntohs(place.sin_port);
    return fd;
}

static struct addrinfo *addresses(const char *const *hosts, int count, int port) {
    struct addrinfo *first = NULL, **end = &first;
    char text[16], host[32];
    snprintf(text, sizeof text, "%d", port);
    for (int i = 0; i < count; i++) {
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
        snprintf(host, sizeof host, "127.0.0.%s", hosts[i]);
        if (getaddrinfo(host, text, &hints, end) != 0) {
            exit(1);
        }
        end = &(*end)->ai_next;
    }
    return first;
}

static int other_end(int fd) {
    struct sockaddr_in place = {0};
    socklen_t length = sizeof place;
    getpeername(fd, (struct sockaddr *)&place, &length);
    return (int)(ntohl(place.sin_addr.s_addr) & 0xFF);
}

/* Dials until it is over: the last number of the address that was reached, or 0. */
static int reached(const char *const *hosts, int count, int port, int64_t timeout_ns) {
    struct dial d;
    int64_t now = clock_now(), end = now + timeout_ns;
    int fd, answer = 0;
    if (!dial_begin(&d, addresses(hosts, count, port), timeout_ns, now)) {
        return 0;
    }
    while (now < end) {
        struct pollfd polls[DIAL_ADDRESSES_MAX];
        for (int i = 0; i < d.open; i++) {
            polls[i] = (struct pollfd){.fd = d.fds[i], .events = POLLOUT};
        }
        int64_t due = dial_due(&d) < end ? dial_due(&d) : end;
        poll(polls, (nfds_t)d.open, due > now ? (int)((due - now) / NS_PER_MS) + 1 : 0);
        now = clock_now();
        enum dial_end over = dial_advance(&d, now, &fd);
        if (over == DIAL_CONNECTED) {
            answer = other_end(fd);
            close(fd);
        }
        if (over != DIAL_GOES_ON) {
            break;
        }
    }
    dial_end(&d);
    return answer;
}

int main(void) {
    int port = 0, held[SILENT_MAX], silent_count = 0;
    clock_start();
    int listener = listener_at("1", &port, 64), silent = listener_at("2", &port, 0);
    for (int i = 0; i < SILENT_MAX; i++) { /* fills the backlog */
        struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        place.sin_addr.s_addr = htonl(0x7F000002);
        held[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(held[i], (struct sockaddr *)&place, sizeof place);
        silent_count++;
    }
    int64_t timeout = 10 * NS_PER_S;
    CHECK_EQUAL(reached((const char *const[]){"1"}, 1, port, timeout), 1);
    CHECK_EQUAL(reached((const char *const[]){"2", "1"}, 2, port, timeout), 1);           /* silent first */
    CHECK_EQUAL(reached((const char *const[]){"1", "2"}, 2, port, timeout), 1);           /* silent last */
    CHECK_EQUAL(reached((const char *const[]){"3", "1"}, 2, port, timeout), 1);           /* refused first */
    CHECK_EQUAL(reached((const char *const[]){"3", "4", "2", "1"}, 4, port, timeout), 1); /* all of it */
    CHECK_EQUAL(reached((const char *const[]){"3", "4"}, 2, port, timeout), 0);
    CHECK_EQUAL(reached((const char *const[]){"2", "2"}, 2, port, NS_PER_S / 5), 0);
    struct dial d; /* however many there are, the last begins within the timeout */
    CHECK(
        dial_begin(&d, addresses((const char *const[]){"2", "2", "2", "2", "2", "2", "2", "1"}, 8, port), NS_PER_S, 0));
    CHECK(dial_due(&d) * 7 < NS_PER_S);
    dial_end(&d);
    for (int i = 0; i < silent_count; i++) {
        close(held[i]);
    }
    close(listener);
    close(silent);
    return check_end("test_dial");
}

#else

int main(void) {
    return check_end("test_dial");
}

#endif
