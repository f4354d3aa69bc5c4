/* What one request to a Redis server costs in C: hiredis alone, and headway's link driven as an event loop drives it.
 *
 * A program that serves a benchmark: it reads a line "MODE DEPTH COUNT" from standard input, makes COUNT requests and writes
 * "wall_ns cpu_ns", until the input ends. All connections are opened at the start.
 *
 *   incrby    hiredis, blocking, INCRBY                       evalsha   hiredis, blocking, the EVALSHA of the command line
 *   threads   evalsha by DEPTH threads, a connection each     pipeline  hiredis, DEPTH of them written, then DEPTH replies read
 *   link      src/redis/link.c, DEPTH requests put in line, then stepped and polled until all of them are over
 *
 * Usage: hiredis_evalsha PORT WORD... (the words of a command; its script is loaded already) */
#include <hiredis/hiredis.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "clock.h"
#include "link.h"

#define DEPTH_MAX 128
#define THREADS_MAX 16

static int port, words;
static const char **command;
static redisContext *contexts[THREADS_MAX];
static struct link the_link;

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void check(redisReply *reply) {
    if (reply == NULL || reply->type == REDIS_REPLY_ERROR) {
        fail(reply == NULL ? "no reply" : reply->str);
    }
    /* Of a decision: 1 for admitted. */
    if (reply->type == REDIS_REPLY_ARRAY && reply->element[0]->type == REDIS_REPLY_INTEGER &&
        reply->element[0]->integer != 1) {
        fail("denied what this benchmark wants admitted");
    }
    freeReplyObject(reply);
}

static redisReply *reply_of(redisContext *c) {
    void *reply = NULL;
    if (redisGetReply(c, &reply) != REDIS_OK) {
        fail(c->errstr);
    }
    return reply;
}

static void incrby(long count) {
    for (long i = 0; i < count; i++) {
        check(redisCommand(contexts[0], "INCRBY hiredis 1"));
    }
}

static void evalsha(redisContext *c, long count) {
    for (long i = 0; i < count; i++) {
        check(redisCommandArgv(c, words, command, NULL));
    }
}

struct work {
    redisContext *context;
    long count;
};

static void *evalsha_in_thread(void *work) {
    evalsha(((struct work *)work)->context, ((struct work *)work)->count);
    return NULL;
}

static void threads(int depth, long count) {
    pthread_t ids[THREADS_MAX];
    struct work work[THREADS_MAX];
    for (int i = 0; i < depth; i++) {
        work[i] = (struct work){contexts[i], count / depth};
        if (pthread_create(&ids[i], NULL, evalsha_in_thread, &work[i]) != 0) {
            fail("no thread");
        }
    }
    for (int i = 0; i < depth; i++) {
        pthread_join(ids[i], NULL);
    }
}

static void pipeline(int depth, long count) {
    for (long done = 0; done < count; done += depth) {
        for (int i = 0; i < depth; i++) {
            redisAppendCommandArgv(contexts[0], words, command, NULL);
        }
        for (int i = 0; i < depth; i++) {
            check(reply_of(contexts[0]));
        }
    }
}

/* The loop below looks for itself. */
static void nobody_sleeps(struct redis_request *self) {
    (void)self;
}

/* As the binding does: the bytes are put together anew for each request. */
static struct redis_request *request(void) {
    size_t room = 16;
    for (int i = 0; i < words; i++) {
        room += 32 + strlen(command[i]);
    }
    struct redis_request *r = request_new(room);
    if (r == NULL) {
        fail("no memory");
    }
    char *at = r->bytes + sprintf(r->bytes, "*%d\r\n", words);
    for (int i = 0; i < words; i++) {
        at += sprintf(at, "$%zu\r\n%s\r\n", strlen(command[i]), command[i]);
    }
    r->wake = nobody_sleeps;
    r->length = (size_t)(at - r->bytes);
    return r;
}

static void driven_link(int depth, long count) {
    struct redis_request *open[DEPTH_MAX];
    for (long done = 0; done < count; done += depth) {
        for (int i = 0; i < depth; i++) {
            open[i] = request();
            link_submit(&the_link, open[i]);
        }
        bool readable = false;
        for (int i = 0; i < depth;) {
            int fd;
            short events;
            link_step(&the_link, readable, &fd, &events);
            while (i < depth && open[i]->end != REQUEST_OPEN) {
                if (open[i]->end != REQUEST_DONE) {
                    fail(open[i]->error);
                }
                redisReply *reply = open[i]->reply;
                open[i]->reply = NULL;
                check(reply);
                request_free(open[i++]);
            }
            if (i < depth) {
                struct pollfd p = {.fd = fd, .events = events};
                poll(&p, 1, 1000);
                readable = (p.revents & ~POLLOUT) != 0;
            }
        }
    }
}

static int64_t wall_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static int64_t cpu_ns(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * INT64_C(1000000000) +
           (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * INT64_C(1000);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fail("usage: hiredis_evalsha PORT WORD...");
    }
    port = atoi(argv[1]);
    words = argc - 2;
    command = (const char **)argv + 2;
    for (int i = 0; i < THREADS_MAX; i++) {
        contexts[i] = redisConnect("127.0.0.1", port);
        if (contexts[i] == NULL || contexts[i]->err) {
            fail("cannot connect");
        }
        evalsha(contexts[i], 1);
    }
    clock_start();
    struct redis_address address = {
        .host = "127.0.0.1", .port = port, .resp3 = true, .connect_timeout_ns = 5 * NS_PER_S};
    link_init(&the_link, &address, NULL, 5 * NS_PER_S);
    driven_link(1, 1);
    char mode[16];
    int depth;
    long count;
    while (scanf("%15s %d %ld", mode, &depth, &count) == 3) {
        if (depth < 1 || depth > (strcmp(mode, "threads") == 0 ? THREADS_MAX : DEPTH_MAX)) {
            fail("bad depth");
        }
        int64_t wall = wall_ns(), cpu = cpu_ns();
        if (strcmp(mode, "incrby") == 0) {
            incrby(count);
        } else if (strcmp(mode, "evalsha") == 0) {
            evalsha(contexts[0], count);
        } else if (strcmp(mode, "threads") == 0) {
            threads(depth, count);
        } else if (strcmp(mode, "pipeline") == 0) {
            pipeline(depth, count);
        } else if (strcmp(mode, "link") == 0) {
            driven_link(depth, count);
        } else {
            fail("unknown mode");
        }
        printf("%lld %lld\n", (long long)(wall_ns() - wall), (long long)(cpu_ns() - cpu));
        fflush(stdout);
    }
    return 0;
}
