/* Children that decide in shared memory and are led through it by ptrace: one instruction at a time, to a function, or to the moment at
 * which they hold a bucket or are about to take one over from a holder that stands still. Where there is no ptrace, STEPPING is 0. */
#ifndef HEADWAY_SHARED_STEPPING_H
#define HEADWAY_SHARED_STEPPING_H

#include "shared_help.h"

#if defined(__linux__) && defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define STEPPING 1
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#else
#define STEPPING 0
#endif

#if STEPPING

#define QUOTA 6

struct said {
    _Atomic int done, admitted; /* decisions of the child */
};

static inline struct said *said_new(void) {
    return mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static inline void said_free(struct said *said) {
    munmap(said, 4096);
}

/* What a child does: `times` decisions, then it exits. It stands before the first of them when this returns, and has registered:
 * that is many system calls, and takes no bucket. */
static inline pid_t child_start(struct bench *b, struct said *said, const char *name, int times) {
    int status;
    pid_t child = fork();
    if (child != 0) {
        waitpid(child, &status, 0);
        return child;
    }
    struct table_key key = {.bytes = name, .length = strlen(name)};
    struct outcome out;
    struct shared_error error;
    uint64_t hash[2];
    shared_table_hash(&b->table, &b->ids, &key, hash);
    shared_number(b->table.file, &error);
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    __asm__ volatile("int3");
    for (int i = 0; i < times; i++) {
        out.kind = OUTCOME_NO_MEMORY;
        shared_table_limit(&b->table, b->plan, &b->ids, &key, hash, 1, true, &out, &error);
        atomic_fetch_add(&said->admitted, out.kind == OUTCOME_ADMITTED);
        atomic_fetch_add(&said->done, 1);
    }
    _exit(0);
}

/* False: the child has ended. */
static inline bool child_step(pid_t child) {
    int status;
    if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) != 0 || waitpid(child, &status, 0) != child) {
        return false;
    }
    return WIFSTOPPED(status);
}

/* At most `count` instructions. False: the child has made a decision in that time, or has ended. */
static inline bool child_steps(pid_t child, struct said *said, int count) {
    int done = atomic_load(&said->done);
    for (int i = 0; i < count; i++) {
        if (!child_step(child) || atomic_load_explicit(&said->done, memory_order_relaxed) != done) {
            return false;
        }
    }
    return true;
}

static inline void child_kill(pid_t child) {
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

/* Lets the child make the rest of its decisions. */
static inline void child_finish(pid_t child) {
    int status;
    ptrace(PTRACE_CONT, child, NULL, NULL);
    while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
        ptrace(PTRACE_CONT, child, NULL, WSTOPSIG(status) == SIGSTOP ? 0 : (long)WSTOPSIG(status));
    }
}

/* Lets the child run until it is about to execute the instruction at that address. False: it has ended before. */
static inline bool child_run_until(pid_t child, uintptr_t address, struct user_regs_struct *registers) {
    int status;
    long kept = ptrace(PTRACE_PEEKTEXT, child, (void *)address, NULL);
    ptrace(PTRACE_POKETEXT, child, (void *)address, (void *)((kept & ~0xFFL) | 0xCC)); /* int3 */
    ptrace(PTRACE_CONT, child, NULL, NULL);
    if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) {
        return false;
    }
    ptrace(PTRACE_POKETEXT, child, (void *)address, (void *)kept);
    ptrace(PTRACE_GETREGS, child, NULL, registers);
    if (WSTOPSIG(status) != SIGTRAP || registers->rip != address + 1) {
        return false;
    }
    registers->rip = address;
    ptrace(PTRACE_SETREGS, child, NULL, registers);
    return true;
}

/* Which bucket the process of that number holds, or -1. */
static inline int64_t bucket_held_by(const struct shared_file *f, uint32_t number) {
    for (uint32_t i = 0; i < f->layout.buckets + f->layout.spares; i++) {
        uint64_t word = atomic_load(&f->buckets[i].lock.word);
        if (shared_holder(word) == number && !(word & SHARED_MOVED)) {
            return i;
        }
    }
    return -1;
}

/* A child that makes `times` decisions on `name`, and stands still while it holds a bucket in the first of them. */
static inline pid_t stand_holding_of(struct bench *b, struct said *said, const char *name, int times) {
    struct shared_file *f = b->table.file;
    pid_t child = child_start(b, said, name, times);
    uint32_t number = atomic_load(&f->header->last_number);
    for (int n = 0; n < 20000 && child_step(child); n++) {
        if (bucket_held_by(f, number) >= 0) {
            return child;
        }
    }
    CHECK(!"the child has held a bucket");
    return child;
}

static inline pid_t stand_holding(struct bench *b, struct said *said, const char *name) {
    return stand_holding_of(b, said, name, 2);
}

/* A child that stands still when it has waited for the holder of `name`'s bucket for long enough, and is about to take it over. */
static inline pid_t stand_robbing(struct bench *b, struct said *said, const char *name) {
    struct user_regs_struct registers;
    pid_t child = child_start(b, said, name, 2);
    while (child_run_until(child, (uintptr_t)&shared_lock_take, &registers)) {
        uintptr_t after = (uintptr_t)ptrace(PTRACE_PEEKDATA, child, (void *)registers.rsp, NULL);
        if (child_run_until(child, after, &registers) && (int)registers.rax == SHARED_STUCK) {
            return child;
        }
    }
    CHECK(!"the child has found a holder that stands still");
    return child;
}

#endif
#endif
