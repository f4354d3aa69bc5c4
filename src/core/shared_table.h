/* The keyed table in shared memory: decisions of all processes that have the file.
 *
 * A key's hash chooses its bucket, and all its rules are in that bucket, so that they are decided on under one lock. Where a bucket is full,
 * an expired key makes room; else the one that has used the smallest share of its quota, as in table.h.
 *
 * All functions that take `patient` may answer SHARED_LATER where it is false: then ask again with true, without the GIL. They answer
 * SHARED_ENTERED when it is done, SHARED_FAILED with a sentence in *error. */
#ifndef HEADWAY_SHARED_TABLE_H
#define HEADWAY_SHARED_TABLE_H

#include "shared_bucket.h"
#include "store.h"

struct shared_table {
    struct shared_file *file;
    struct virtual_clock *clock; /* NULL: real time; borrowed */
    enum table_full when_full;   /* for this process */
    _Atomic int64_t evictions;   /* by this process */
};

/* How a plan's keys are told apart from others': worked out once for a plan. */
struct shared_plan {
    uint64_t seed; /* of prefix and algorithm */
    uint64_t tags[QUOTA_RULES_MAX];
};

/* A number for a text that users of one file agree on. */
uint64_t shared_seed(const char *text, size_t length);
uint64_t shared_tag(const char *text, size_t length, enum algorithm_id algorithm);

static inline int64_t shared_table_now(const struct shared_table *t) {
    return t->clock == NULL ? shared_now(t->file) : atomic_load_explicit(&t->clock->now, memory_order_relaxed);
}

/* The cells that a table has; it is full a little earlier, when the bucket of a new key is. */
static inline int64_t shared_table_capacity(const struct shared_table *t) {
    return (int64_t)t->file->layout.buckets * BUCKET_CELLS;
}

/* The hash of a key, which the next two take: keyed by the file, so that who does not know it can make no keys collide. */
void shared_table_hash(const struct shared_table *t, const struct shared_plan *ids, const struct table_key *key,
                       uint64_t hash[2]);

/* Decides at once. A cost of 0 looks and changes nothing. */
enum shared_enter shared_table_limit(struct shared_table *t, const struct plan *p, const struct shared_plan *ids,
                                     const struct table_key *key, const uint64_t hash[2], int64_t cost, bool patient,
                                     struct outcome *out, struct shared_error *error);

/* Changes the states of a key's rules as one: `change` makes new ones of them (all zeros: none), nobody comes between. It may be
 * called again with other states; the last call counts. OUTCOME_FULL in *end where there is no room for them, and nothing changed. */
enum shared_enter shared_table_change(struct shared_table *t, const struct plan *p, const struct shared_plan *ids,
                                      const struct table_key *key, const uint64_t hash[2],
                                      void (*change)(void *context, struct state *states), void *context, bool patient,
                                      enum outcome_kind *end, struct shared_error *error);

/* Forgets all keys. Patient: call it without the GIL. */
enum shared_enter shared_table_clear(struct shared_table *t, struct shared_error *error);

/* What there is to see of a key and rule. */
struct shared_entry {
    enum algorithm_id algorithm;
    struct quota quota;
    struct state state;
    uint64_t admitted, denied;
    uint32_t key_length; /* more than text_length: cut */
    uint32_t text_length;
    char text[CELL_TEXT];
};

/* The live entries of bucket `index`, looked at without stopping anybody: how many. */
int shared_table_look(struct shared_table *t, uint32_t index, struct shared_entry entries[BUCKET_CELLS]);

/* How many entries live: keys times rules. */
int64_t shared_table_count(struct shared_table *t);

#endif
