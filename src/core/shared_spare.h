/* Spares: buckets that stand for others whose holder was robbed. What shared_bucket.c needs of them; see shared_bucket.h for the protocol. */
#ifndef HEADWAY_SHARED_SPARE_H
#define HEADWAY_SHARED_SPARE_H

#include "shared_bucket.h"

#define GONE UINT64_C(1)               /* in the low half of a MOVED word: who was robbed writes there no more */
#define RESERVED (UINT64_C(1) << 31)   /* in the low half, where a MOVED word has nothing: see reserved_word */
#define UNFINISHED (UINT64_C(1) << 32) /* in `unfinished`, above the payload */
#define GENERATION_SHIFT 1
#define GENERATION_MASK ((UINT64_C(1) << 30) - 1)

static inline uint64_t counter_load(const _Atomic uint64_t *counter) {
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* ---- words ---- */

static inline bool is_given(uint64_t word) {
    return (word & SHARED_MOVED) && (word & SHARED_SLEEPERS);
}
static inline bool is_moved(uint64_t word) {
    return (word & SHARED_MOVED) && !(word & SHARED_SLEEPERS) && !(word & RESERVED);
}
static inline bool is_reserved(uint64_t word) {
    return (word & SHARED_MOVED) && !(word & SHARED_SLEEPERS) && (word & RESERVED);
}
static inline uint64_t moved_word(uint32_t spare, uint32_t generation) {
    return (uint64_t)spare << SHARED_HOLDER_SHIFT | SHARED_MOVED | (generation & GENERATION_MASK) << GENERATION_SHIFT;
}
static inline uint64_t reserved_word(uint32_t me, uint32_t generation) {
    return (uint64_t)me << SHARED_HOLDER_SHIFT | SHARED_MOVED | RESERVED |
           (generation & GENERATION_MASK) << GENERATION_SHIFT;
}
static inline uint32_t generation_of(uint64_t word) { /* MOVED or RESERVED */
    return (uint32_t)(word >> GENERATION_SHIFT & GENERATION_MASK);
}
static inline uint64_t given_word(uint64_t home_word, uint32_t payload) {
    return (uint64_t)generation_of(home_word) << SHARED_HOLDER_SHIFT | SHARED_MOVED | SHARED_SLEEPERS | payload;
}
static inline uint64_t word_of(const struct shared_bucket *b) {
    return atomic_load_explicit(&b->lock.word, memory_order_acquire);
}

static inline uint32_t bucket_count(const struct shared_file *f) {
    return f->layout.buckets + f->layout.spares;
}

/* The bucket that a MOVED word names, or NULL where the file lies: only spares stand for others. */
static inline struct shared_bucket *moved_to(const struct shared_file *f, uint64_t word) {
    uint32_t spare = shared_holder(word);
    return spare >= f->layout.buckets && spare < bucket_count(f) ? &f->buckets[spare] : NULL;
}

static inline struct shared_bucket *home_of(const struct shared_file *f, const struct shared_bucket *spare) {
    uint32_t home = atomic_load_explicit(&spare->home, memory_order_acquire);
    return home < bucket_count(f) ? &f->buckets[home] : NULL;
}

static inline uint64_t home_word_of(const struct shared_bucket *spare) {
    return atomic_load_explicit(&spare->home_word, memory_order_acquire);
}

/* Has `from` had this word all the time? One with a generation that has not changed was not changed in between either. `from` NULL: yes. */
static inline bool is_still(const struct shared_bucket *from, uint64_t from_word) {
    return from == NULL || ((word_of(from) ^ from_word) & ~GONE) == 0;
}

/* Does the spare stand for `home`, at once or by way of other spares? True where they are the same. It stays so while the spare is held. */
bool shared_spare_stands_for(const struct shared_file *f, const struct shared_bucket *spare,
                             const struct shared_bucket *home);

/* Copies a live cell of `from` to cell `target` of `to`, its state to place `place`. A robbed holder may be writing to what is not copied. */
void shared_spare_copy_cell(struct shared_bucket *to, int target, int place, const struct shared_bucket *from, int i,
                            uint32_t payload);

/* The bucket whose cells count for the spare, and their payload where it is another; NULL: none do. */
const struct shared_bucket *shared_spare_source(const struct shared_file *f, const struct shared_bucket *spare,
                                                uint32_t *payload);

/* Is what the home has still to be copied? */
static inline bool shared_spare_is_unfinished(const struct shared_bucket *spare) {
    return atomic_load_explicit(&spare->unfinished, memory_order_acquire) & UNFINISHED;
}

/* Copies what the spare's home has. The caller holds the spare. */
void shared_spare_finish(const struct shared_file *f, struct shared_bucket *spare);

/* The caller was robbed of b, and writes there no more. */
void shared_spare_say_gone(struct shared_bucket *b);

/* Gives the home back to itself. The caller holds the spare, and who was robbed of its home is gone. The spare is not held afterwards. */
void shared_spare_give_back(struct shared_file *f, struct shared_hold *spare);

/* The second half of that, which any process does that sees both words. They may be of different times, which their generations tell. */
void shared_spare_complete(struct shared_bucket *home, uint64_t home_word, uint64_t spare_word);

/* Reserves a spare that stands for no bucket, by the word *reserved. NULL: there is none. Other processes leave that word alone until the
 * spare stands for a bucket, unless this process dies: a process that has reserved a spare is not robbed of it. */
struct shared_bucket *shared_spare_reserve(struct shared_file *f, uint32_t me, uint64_t *reserved);

/* Gives a reserved spare up that stands for no bucket. */
void shared_spare_release(struct shared_bucket *spare, uint64_t reserved);

/* Holds a reserved spare that stands for a bucket. False: another process has done so. */
bool shared_spare_hold(struct shared_bucket *spare, uint64_t reserved, struct shared_hold *hold);

/* Takes the lock of hold->bucket as shared_lock_take does. A spare that is reserved is held at once if `home_word`, the word of another
 * bucket, says that it stands there. */
enum shared_turn shared_spare_take(struct shared_hold *hold, uint64_t home_word, bool patient);

#endif
