/* Values in a shared file: what is written is read, by any process, whole; a change by others is noticed; the dead leave nothing
 * behind. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "clock.h"
#include "shared_lock.h"
#include "shared_values.h"

static char name[64];
static struct shared_error error;
static uint32_t holder;

static struct shared_file *open_file(int64_t size) {
    struct shared_file *f = shared_open(name, strlen(name), size, true, &error);
    if (f == NULL) {
        printf("%s\n", error.text);
        exit(1);
    }
    return f;
}

static size_t get(struct shared_file *f, const char *key, char *bytes, size_t room, uint64_t *mark) {
    size_t length = 0;
    CHECK(shared_value_read(f, key, strlen(key), true, bytes, room, &length, mark, &holder, &error) == SHARED_VALUE_OK);
    return length;
}

static enum shared_value_end set(struct shared_file *f, const char *key, const char *bytes, size_t length,
                                 uint64_t mark) {
    return shared_value_write(f, key, strlen(key), true, bytes, length, mark, &holder, &error);
}

static void test_what_is_written_is_read(void) {
    struct shared_file *f = open_file(1 << 20);
    static char in[200000], out[200000];
    uint64_t mark;
    CHECK(get(f, "k", out, sizeof out, &mark) == 0);
    for (size_t length = 1; length < 1000; length += 7) {
        for (size_t i = 0; i < length; i++) {
            in[i] = (char)(i * 31 + length);
        }
        CHECK(set(f, "k", in, length, mark) == SHARED_VALUE_OK);
        memset(out, 0, length);
        CHECK(get(f, "k", out, sizeof out, &mark) == length);
        CHECK(memcmp(in, out, length) == 0);
        CHECK(get(f, "k", out, 5, &mark) == length);
    }
    size_t most = shared_value_max(f);
    CHECK(most > 5000 && most < sizeof in);
    CHECK(set(f, "k", in, most, mark) == SHARED_VALUE_OK);
    CHECK(get(f, "k", out, sizeof out, &mark) == most);
    CHECK(set(f, "k", in, most, mark) == SHARED_VALUE_OK); /* beside the old one */
    CHECK(get(f, "k", out, sizeof out, &mark) == most);
    CHECK(set(f, "k", in, most + 1, mark) == SHARED_VALUE_FULL);
    uint64_t other;
    get(f, "other", out, sizeof out, &other);
    CHECK(set(f, "other", in, most, other) == SHARED_VALUE_OK);
    CHECK(set(f, "third", in, most, 0) == SHARED_VALUE_FULL);
    CHECK(set(f, "k", NULL, 0, mark) == SHARED_VALUE_OK);
    CHECK(get(f, "k", out, sizeof out, &mark) == 0);
    CHECK(get(f, "other", out, sizeof out, &other) == most);
    CHECK(set(f, "third", in, most, 0) == SHARED_VALUE_OK);
    shared_close(f);
    CHECK(shared_remove(name, strlen(name), &error));
}

static void test_a_change_by_others_is_noticed(void) {
    struct shared_file *f = open_file(1 << 20);
    char out[8];
    uint64_t mark, absent;
    get(f, "k", out, sizeof out, &absent);
    CHECK(set(f, "k", "a", 1, absent) == SHARED_VALUE_OK);
    CHECK(set(f, "k", "b", 1, absent) == SHARED_VALUE_CHANGED);
    get(f, "k", out, sizeof out, &mark);
    CHECK(set(f, "k", "c", 1, mark) == SHARED_VALUE_OK);
    CHECK(set(f, "k", "d", 1, mark) == SHARED_VALUE_CHANGED);
    get(f, "k", out, sizeof out, &mark);
    CHECK(out[0] == 'c');
    CHECK(set(f, "k", NULL, 0, mark) == SHARED_VALUE_OK);
    CHECK(set(f, "k", "e", 1, mark) == SHARED_VALUE_CHANGED);
    shared_close(f);
    CHECK(shared_remove(name, strlen(name), &error));
}

static void test_entries_are_used_again(void) {
    struct shared_file *f = open_file(1 << 20);
    char key[16], out[8];
    uint64_t mark;
    for (int i = 0; i < 5000; i++) {
        snprintf(key, sizeof key, "k%d", i);
        get(f, key, out, sizeof out, &mark);
        CHECK(set(f, key, "x", 1, mark) == SHARED_VALUE_OK);
        get(f, key, out, sizeof out, &mark);
        CHECK(set(f, key, NULL, 0, mark) == SHARED_VALUE_OK);
    }
    int many = 0;
    enum shared_value_end end = SHARED_VALUE_OK;
    while (end == SHARED_VALUE_OK && many < 100000) {
        snprintf(key, sizeof key, "m%d", many++);
        end = set(f, key, "x", 1, 0);
    }
    CHECK(end == SHARED_VALUE_FULL && many > 16);
    shared_close(f);
    CHECK(shared_remove(name, strlen(name), &error));
}

/* A value of varying length that is made of one number. */
static size_t make(char *bytes, uint32_t number) {
    size_t count = 1 + number % 60;
    for (size_t i = 0; i < count; i++) {
        memcpy(bytes + 4 * i, &number, 4);
    }
    return 4 * count;
}

static uint32_t add_one(struct shared_file *f) {
    char bytes[256];
    for (;;) {
        uint64_t mark;
        uint32_t number = 0;
        size_t length = get(f, "count", bytes, sizeof bytes, &mark);
        if (length > 0) {
            char expected[256];
            memcpy(&number, bytes, 4);
            CHECK(length == make(expected, number) && memcmp(bytes, expected, length) == 0);
        }
        enum shared_value_end end = set(f, "count", bytes, make(bytes, number + 1), mark);
        if (end == SHARED_VALUE_OK) {
            return number + 1;
        }
        if (end != SHARED_VALUE_CHANGED) {
            fprintf(stderr, "%s\n", error.text);
            CHECK(end == SHARED_VALUE_CHANGED);
            return 0;
        }
    }
}

static void test_processes_that_are_killed_leave_a_whole_value(void) {
    struct shared_file *f = open_file(1 << 20);
    enum { ROUNDS = 60, TURNS = 300 };
    for (int round = 0; round < ROUNDS; round++) {
        pid_t victim = fork(), counter = victim == 0 ? 0 : fork();
        if (victim == 0) {
            for (;;) {
                add_one(f);
            }
        }
        if (counter == 0) {
            for (int i = 0; i < TURNS; i++) {
                add_one(f);
            }
            _exit(check_failures > 0);
        }
        usleep((useconds_t)(rand() % 2000));
        kill(victim, SIGKILL);
        int status;
        waitpid(victim, &status, 0);
        CHECK(waitpid(counter, &status, 0) == counter && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    CHECK(add_one(f) > ROUNDS * TURNS);
    shared_close(f);
    CHECK(shared_remove(name, strlen(name), &error));
}

#ifdef F_OFD_SETLK
/* Children that inherit one open file description, made without fork handlers: each holds a slot and a lock of its own. */
static void test_children_of_one_description_hold_locks_of_their_own(void) {
    enum { CHILDREN = 3 };
    struct shared_file *f = open_file(1 << 20);
    pid_t children[CHILDREN];
    int ready[2];
    CHECK(pipe(ready) == 0);
    for (int i = 0; i < CHILDREN; i++) {
        /* So that each tries the first slot first. */
        atomic_store(&f->header->last_number, (uint32_t)i * f->layout.processes);
        children[i] = fork();
        if (children[i] == 0) {
            char told = shared_register(f, &error) != 0;
            if (write(ready[1], &told, 1) == 1) {
                pause();
            }
            _exit(1);
        }
        char told = 0;
        CHECK(read(ready[0], &told, 1) == 1 && told);
    }
    char path[128];
    snprintf(path, sizeof path, "%s/%s%s", shared_directory(), SHARED_PREFIX, name);
    int fd = open(path, O_RDWR | O_CLOEXEC), locked = 0;
    CHECK(fd >= 0);
    for (uint32_t slot = 0; slot < f->layout.processes; slot++) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
        lock.l_start = (off_t)(f->layout.registry_at + slot * sizeof(struct shared_slot));
        CHECK(fcntl(fd, F_OFD_GETLK, &lock) == 0);
        locked += lock.l_type != F_UNLCK;
    }
    CHECK_EQUAL(locked, CHILDREN);
    CHECK_EQUAL(shared_processes(f), CHILDREN);
    for (int i = 0; i < CHILDREN; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    CHECK_EQUAL(shared_processes(f), 0);
    close(fd);
    close(ready[0]);
    close(ready[1]);
    shared_close(f);
    CHECK(shared_remove(name, strlen(name), &error));
}
#endif

static void test_who_waits_is_woken_by_another_process(void) {
    struct shared_file *f = open_file(1 << 20);
    uint32_t seen = shared_value_changes(f);
    pid_t other = fork();
    if (other == 0) {
        usleep(20000);
        add_one(f);
        _exit(0);
    }
    int64_t start = clock_now();
    while (shared_value_changes(f) == seen && clock_now() - start < 20 * NS_PER_S) {
        shared_value_wait(f, seen, 10 * NS_PER_S);
    }
    CHECK(shared_value_changes(f) != seen);
    CHECK(clock_now() - start < 9 * NS_PER_S);
    shared_value_wait(f, seen, 10 * NS_PER_S); /* which has passed: no wait */
    CHECK(clock_now() - start < 9 * NS_PER_S);
    waitpid(other, NULL, 0);
    shared_close(f);
    CHECK(shared_remove(name, strlen(name), &error));
}

/* As one in a container that has used up its share of the processor. */
static void test_a_holder_that_stands_still_for_a_moment_is_waited_for(void) {
    struct shared_file *f = open_file(1 << 20);
    int told[2];
    CHECK(pipe(told) == 0);
    pid_t other = fork();
    if (other == 0) {
        struct shared_lock *lock = (struct shared_lock *)(void *)f->records; /* of all values */
        uint64_t word;
        CHECK(shared_lock_take(f, lock, shared_number(f, &error), true, &word) == SHARED_HELD);
        CHECK(write(told[1], "", 1) == 1);
        usleep(60000);
        shared_lock_release(lock, word, 0);
        _exit(0);
    }
    char bytes[8];
    uint64_t mark;
    CHECK(read(told[0], bytes, 1) == 1);
    CHECK(get(f, "key", bytes, sizeof bytes, &mark) == 0);
    CHECK(waitpid(other, NULL, 0) == other);
    close(told[0]);
    close(told[1]);
    shared_close(f);
    CHECK(shared_remove(name, strlen(name), &error));
}

/* Any number in the file may be wrong: there is a wrong value then, or none, and nothing worse. */
static void test_a_damaged_file_is_survived(void) {
    struct shared_file *f = open_file(1 << 20);
    char bytes[256];
    uint64_t mark;
    for (int i = 0; i < 20000; i++) {
        uint32_t *words = (uint32_t *)(void *)f->records;
        size_t at = (size_t)rand() % ((size_t)f->layout.records * (SHARED_RECORD_BYTES / 4));
        if (at < 16) { /* the lock has tests of its own */
            continue;
        }
        words[at] = rand() % 2 ? (uint32_t)rand() : (uint32_t)rand() % f->layout.records;
        for (const char *key = "abc"; *key; key++) {
            size_t length = get(f, key, bytes, sizeof bytes, &mark);
            CHECK(length <= shared_value_max(f));
            set(f, key, bytes, length < sizeof bytes ? length : sizeof bytes, mark);
        }
    }
    uint64_t *lock = (uint64_t *)(void *)f->records;
    *lock = SHARED_MOVED;
    size_t length;
    CHECK(shared_value_read(f, "a", 1, true, bytes, sizeof bytes, &length, &mark, &holder, &error) ==
          SHARED_VALUE_FAILED);
    CHECK(strstr(error.text, "is damaged") != NULL);
    shared_close(f);
    CHECK(shared_remove(name, strlen(name), &error));
}

int main(void) {
    clock_start();
    snprintf(name, sizeof name, "test-values-%d", (int)getpid());
    test_what_is_written_is_read();
    test_a_change_by_others_is_noticed();
    test_entries_are_used_again();
    test_processes_that_are_killed_leave_a_whole_value();
#ifdef F_OFD_SETLK
    test_children_of_one_description_hold_locks_of_their_own();
#endif
    test_who_waits_is_woken_by_another_process();
    test_a_holder_that_stands_still_for_a_moment_is_waited_for();
    test_a_damaged_file_is_survived();
    return check_end("values in a shared file");
}
