/* What the tests of shared memory share: a table under a name of its own, a plan, and decisions by it. */
#ifndef HEADWAY_SHARED_HELP_H
#define HEADWAY_SHARED_HELP_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "fork.h"
#include "shared_table.h"
#include "siphash.h"

struct bench {
    char name[64];
    struct shared_table table;
    struct plan *plan;
    struct shared_plan ids;
    struct shared_error error;
};

/* `limit` a day for each of `count` rules; the file is new. */
static inline void bench_open(struct bench *b, enum algorithm_id algorithm, int64_t limit, int count) {
    struct quota_error error;
    memset(b, 0, sizeof *b);
    snprintf(b->name, sizeof b->name, "test-%d", (int)getpid());
    shared_remove(b->name, strlen(b->name), &b->error);
    b->table.file = shared_open(b->name, strlen(b->name), SHARED_SIZE_MIN, true, &b->error);
    if (b->table.file == NULL) {
        fprintf(stderr, "%s\n", b->error.text);
        exit(1);
    }
    b->plan = calloc(1, sizeof *b->plan + (size_t)count * sizeof(struct rule));
    b->plan->algorithm = algorithm;
    b->plan->count = count;
    b->ids.seed = shared_seed("test", 4);
    for (int i = 0; i < count; i++) {
        quota_init(&b->plan->rules[i].quota, limit, 86400 * NS_PER_S, limit, &error);
        b->ids.tags[i] = shared_tag((const char *)&i, sizeof i, algorithm);
    }
}

static inline void bench_close(struct bench *b) {
    shared_close(b->table.file);
    shared_remove(b->name, strlen(b->name), &b->error);
    free(b->plan);
}

static inline enum outcome_kind bench_ask(struct bench *b, const char *name, int64_t cost) {
    struct table_key key = {.bytes = name, .length = strlen(name)};
    struct outcome out;
    uint64_t hash[2];
    shared_table_hash(&b->table, &b->ids, &key, hash);
    if (shared_table_limit(&b->table, b->plan, &b->ids, &key, hash, cost, true, &out, &b->error) != SHARED_ENTERED) {
        return OUTCOME_NO_MEMORY;
    }
    return out.kind;
}

static inline uint64_t bench_hash(struct bench *b, const char *name) {
    struct table_key key = {.bytes = name, .length = strlen(name)};
    uint64_t hash[2];
    shared_table_hash(&b->table, &b->ids, &key, hash);
    return hash[0];
}

static inline uint32_t bench_bucket(struct bench *b, const char *name) {
    return (uint32_t)((uwide)bench_hash(b, name) * b->table.file->layout.buckets >> 64);
}

/* How often it is admitted until it is denied, at most `most` times. */
static inline int bench_exhaust(struct bench *b, const char *name, int most) {
    int admitted = 0;
    while (admitted < most && bench_ask(b, name, 1) == OUTCOME_ADMITTED) {
        admitted++;
    }
    return admitted;
}

static inline int64_t bench_now(void) {
    return clock_now();
}

#endif
