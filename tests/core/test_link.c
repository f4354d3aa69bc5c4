/* The link to a server under threads, without Python: everyone gets the reply to their own request, nobody sleeps for ever, and what a
 * caller took who has gone is given back. A mutex stands for the GIL; the server is a thread on a socket of the file system, which
 * counts what is taken and hangs up or dawdles when told to.
 *
 * Built with HEADWAY_WITHOUT_REDIS=1, as the Makefile does where there is no hiredis, this tests nothing. */
#include "check.h"

#ifndef HEADWAY_WITHOUT_REDIS

#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"
#include "link.h"

#define THREADS 16
#define CALLS 300

/* ---- the server ---- */

static struct sockaddr_un place = {.sun_family = AF_UNIX};
static int listener;
static _Atomic long balance, served;
static _Atomic int dawdle_ms;     /* before each answer to TAKE */
static _Atomic int hang_up_after; /* so many requests; 0: never */

static void say(int fd, const char *text) {
    size_t length = strlen(text);
    while (length > 0) {
        ssize_t n = send(fd, text, length, MSG_NOSIGNAL);
        if (n <= 0) {
            return;
        }
        text += n;
        length -= (size_t)n;
    }
}

/* False: hang up. */
static bool answer(int fd, const redisReply *words) {
    char text[128];
    const char *name = words->element[0]->str;
    if (strcmp(name, "TAKE") == 0) {
        usleep((unsigned)atomic_load(&dawdle_ms) * 1000);
        atomic_fetch_add(&balance, 1);
        snprintf(text, sizeof text, "*2\r\n:1\r\n:%s\r\n", words->element[1]->str);
        say(fd, text);
    } else if (strcmp(name, "GIVE") == 0) {
        atomic_fetch_sub(&balance, 1);
        say(fd, ":0\r\n");
    } else {
        say(fd, "+OK\r\n");
        return true;
    }
    int most = atomic_load(&hang_up_after);
    return most == 0 || atomic_fetch_add(&served, 1) % most != most - 1;
}

static void serve(int fd) {
    redisReader *reader = redisReaderCreate();
    char bytes[4096];
    bool open = true;
    ssize_t n;
    while (open && (n = recv(fd, bytes, sizeof bytes, 0)) > 0) {
        void *words = NULL;
        redisReaderFeed(reader, bytes, (size_t)n);
        while (open && redisReaderGetReply(reader, &words) == REDIS_OK && words != NULL) {
            open = answer(fd, words);
            freeReplyObject(words);
            words = NULL;
        }
    }
    redisReaderFree(reader);
    close(fd);
}

static void *server(void *unused) {
    int fd;
    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        serve(fd);
    }
    return unused;
}

/* ---- the callers ---- */

static struct link the_link;
static pthread_mutex_t gil = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int impatient; /* those who may give up, do */
static _Atomic long kept, given_up, lost;

static void drop_gil(void *context) {
    (void)context;
    pthread_mutex_unlock(&gil);
}

static _Thread_local bool ends; /* this thread, when it wants the mutex again: as Python ends daemon threads */

static void take_gil(void *context) {
    (void)context;
    if (ends) {
        pthread_exit(NULL);
    }
    pthread_mutex_lock(&gil);
}

static bool may_look(void *context) {
    (void)context;
    return true;
}

static void call_from_within(void);
static _Thread_local int depth;
static _Atomic int calls_within; /* those who look call the link themselves, so many in all */

static bool look(void *context) {
    (void)context;
    if (depth < 3 && atomic_fetch_sub(&calls_within, 1) > 0) {
        depth++;
        call_from_within();
        depth--;
    }
    return atomic_load(&impatient);
}

static struct redis_request *request(const char *text) {
    struct redis_request *r = request_new(strlen(text));
    memcpy(r->bytes, text, strlen(text));
    return r;
}

static bool was_taken(struct redis_request *undo, const redisReply *reply) {
    (void)undo;
    return reply->type == REDIS_REPLY_ARRAY;
}

static struct redis_request *undo(void *context) {
    (void)context;
    struct redis_request *r = request("*1\r\n$4\r\nGIVE\r\n");
    r->fill = was_taken;
    return r;
}

static const struct link_caller caller = {
    .drop_gil = drop_gil, .take_gil = take_gil, .may_look = may_look, .look = look, .undo = undo};

static struct redis_request *left[THREADS]; /* by threads that ended */

static void ask_once(long token) {
    char text[64];
    snprintf(text, sizeof text, "*2\r\n$4\r\nTAKE\r\n$7\r\n%ld\r\n", token);
    struct redis_request *r = request(text);
    if (ends) {
        left[token % THREADS] = r;
    }
    r = link_call(&the_link, r, &caller);
    CHECK(r != NULL && r->end == REQUEST_DONE);
    if (r != NULL && r->end == REQUEST_DONE) {
        CHECK_EQUAL(r->reply->element[1]->integer, token);
    }
    if (r != NULL) {
        request_free(r);
    }
}

static void call_from_within(void) {
    ask_once(1000000 + depth);
}

static void *call(void *number) {
    long mine = (long)(intptr_t)number;
    pthread_mutex_lock(&gil);
    for (long i = 0; i < (atomic_load(&impatient) ? 4 : CALLS); i++) {
        char text[64];
        long token = 1000000 + mine * CALLS + i;
        snprintf(text, sizeof text, "*2\r\n$4\r\nTAKE\r\n$7\r\n%ld\r\n", token);
        struct redis_request *r = request(text);
        r = link_call(&the_link, r, &caller);
        if (r == NULL) {
            atomic_fetch_add(&given_up, 1);
            continue;
        }
        if (r->end == REQUEST_DONE) {
            CHECK_EQUAL(r->reply->element[1]->integer, token); /* counted under the mutex */
            atomic_fetch_add(&kept, 1);
        } else {
            atomic_fetch_add(&lost, r->end == REQUEST_LOST);
        }
        request_free(r);
    }
    pthread_mutex_unlock(&gil);
    return NULL;
}

static void all_call(int threads) {
    pthread_t ids[THREADS];
    atomic_store(&kept, 0);
    atomic_store(&given_up, 0);
    atomic_store(&lost, 0);
    atomic_store(&balance, 0);
    for (int i = 0; i < threads; i++) {
        pthread_create(&ids[i], NULL, call, (void *)(intptr_t)i);
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
    }
}

static void everyone_gets_their_own_reply(void) {
    for (int threads = 1; threads <= THREADS; threads *= 4) {
        all_call(threads);
        CHECK_EQUAL(kept, threads * CALLS);
        CHECK_EQUAL(balance, threads * CALLS);
        CHECK_EQUAL(the_link.opened, 1);
    }
}

static void a_server_that_hangs_up_stops_nobody(void) {
    atomic_store(&hang_up_after, 97);
    all_call(THREADS);
    atomic_store(&hang_up_after, 0);
    CHECK(kept > 0);
    CHECK(kept <= balance && balance <= kept + lost);
}

static void who_gives_up_leaves_nothing_taken(void) {
    atomic_store(&dawdle_ms, 12); /* a batch takes longer than anybody is patient */
    atomic_store(&impatient, 1);
    all_call(THREADS);
    atomic_store(&dawdle_ms, 0);
    atomic_store(&impatient, 0);
    CHECK(given_up > 0);
    pthread_mutex_lock(&gil);
    link_settle(&the_link, clock_now() + 10 * NS_PER_S, &caller);
    pthread_mutex_unlock(&gil);
    CHECK(!link_owes(&the_link));
    int64_t end = clock_now() + 5 * NS_PER_S; /* what was written last may not be read yet */
    while (balance != kept && clock_now() < end) {
        usleep(1000);
    }
    CHECK_EQUAL(balance, kept);
}

static void *call_slowly(void *number) {
    pthread_mutex_lock(&gil);
    for (int i = 0; i < 3; i++) {
        ask_once(200000 * THREADS + (long)(intptr_t)number);
    }
    pthread_mutex_unlock(&gil);
    return NULL;
}

static void *call_and_end(void *number) {
    ends = true;
    return call_slowly(number);
}

/* Some of the callers look while they wait, and what they look at calls. */
static void a_caller_may_call_while_it_waits(void) {
    pthread_t ids[THREADS];
    atomic_store(&dawdle_ms, 10);
    atomic_store(&calls_within, 40);
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&ids[i], NULL, call_slowly, (void *)(intptr_t)i);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(ids[i], NULL);
    }
    CHECK(atomic_load(&calls_within) <= 0);
    atomic_store(&calls_within, 0);
    atomic_store(&dawdle_ms, 0);
}

/* The others are answered all the same, and so is a request whose thread has ended. */
static void threads_that_end_take_nothing_with_them(void) {
    pthread_t ids[THREADS];
    atomic_store(&dawdle_ms, 10);
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&ids[i], NULL, i % 2 == 0 ? call_and_end : call_slowly, (void *)(intptr_t)i);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(ids[i], NULL);
    }
    atomic_store(&dawdle_ms, 0);
    pthread_mutex_lock(&gil);
    ask_once(1000000); /* whatever is under way is answered before this */
    pthread_mutex_unlock(&gil);
    for (int i = 0; i < THREADS; i += 2) {
        CHECK(left[i] != NULL && left[i]->end == REQUEST_DONE);
        request_free(left[i]);
    }
}

/* The driver does nothing: it waits for the resolver, say, or was ended. */
static void a_caller_gives_up_by_its_own_deadline(void) {
    struct link alone;
    struct redis_address address = {.host = "", .unix_path = place.sun_path, .connect_timeout_ns = 5 * NS_PER_S};
    link_init(&alone, &address, NULL, NS_PER_S / 5);
    alone.driven = true;
    pthread_mutex_lock(&gil);
    struct redis_request *r = link_call(&alone, request("*1\r\n$4\r\nGIVE\r\n"), &caller);
    pthread_mutex_unlock(&gil);
    CHECK(r != NULL && r->end == REQUEST_UNSENT && r->fault == FAULT_TIMEOUT);
    request_free(r);
    CHECK(link_is_idle(&alone));
    link_destroy(&alone);
}

int main(void) {
    clock_start();
    snprintf(place.sun_path, sizeof place.sun_path, "/tmp/headway-link-%ld", (long)getpid());
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&place, sizeof place) != 0 || listen(listener, 8) != 0) {
        perror("no socket");
        return 1;
    }
    pthread_t id;
    pthread_create(&id, NULL, server, NULL);
    struct redis_address address = {.host = "", .unix_path = place.sun_path, .connect_timeout_ns = 5 * NS_PER_S};
    link_init(&the_link, &address, NULL, 5 * NS_PER_S);
    everyone_gets_their_own_reply();
    a_server_that_hangs_up_stops_nobody();
    who_gives_up_leaves_nothing_taken();
    a_caller_may_call_while_it_waits();
    threads_that_end_take_nothing_with_them();
    a_caller_gives_up_by_its_own_deadline();
    link_close(&the_link);
    link_destroy(&the_link);
    shutdown(listener, SHUT_RDWR);
    close(listener);
    pthread_join(id, NULL);
    unlink(place.sun_path);
    return check_end("test_link");
}

#else

int main(void) {
    return check_end("test_link");
}

#endif
