/* Entering buckets, robbing those who are stopped in them, and looking: see shared_bucket.h. */
#include "shared_bucket.h"

#include <stdio.h>

#include "shared_spare.h"

#define MOVES_MAX 10000 /* more than any file in order makes a caller follow */
#define LOOK_EVERY 1024 /* turns of a spare, between two questions whether who was robbed is dead */

/* ---- counting, and moving to the front ---- */

static void add(_Atomic uint64_t *counter, uint64_t by) { /* only the holder counts, so it need not be one operation */
    atomic_store_explicit(counter, counter_load(counter) + by, memory_order_relaxed);
}

void shared_bucket_count(struct shared_bucket *b, int cell, uint64_t admitted, uint64_t denied) {
    struct shared_cell *c = &b->cells[cell];
    if (cell == 0) {
        uint32_t own = atomic_load_explicit(&b->lock.own, memory_order_relaxed);
        uint64_t small_admitted = (own & 0xFFFF) + admitted, small_denied = (own >> 16) + denied;
        if (small_admitted <= 0xFFFF && small_denied <= 0xFFFF) {
            atomic_store_explicit(&b->lock.own, (uint32_t)(small_denied << 16 | small_admitted), memory_order_relaxed);
            return;
        }
        atomic_store_explicit(&b->lock.own, 0, memory_order_relaxed);
        admitted = small_admitted;
        denied = small_denied;
    }
    add(&c->admitted, admitted);
    add(&c->denied, denied);
}

static uint32_t moved_payload(uint32_t payload, int from, int to) {
    uint32_t bits = UINT32_C(1) << from | UINT32_C(1) << (BUCKET_CELLS + from) | UINT32_C(1) << (BUCKET_CELLS + to);
    return (payload & ~bits) | UINT32_C(1) << to;
}

bool shared_bucket_promote(struct shared_hold *hold, int *cell) {
    struct shared_bucket *b = hold->bucket;
    uint32_t payload = hold_payload(hold);
    if (payload_is_live(payload, 0)) {
        uint32_t free = ~payload & 0xFFFF;
        if (free == 0) {
            return true;
        }
        int other = __builtin_ctz(free);
        shared_spare_copy_cell(b, other, 0, b, 0, payload);
        payload = moved_payload(payload, 0, other);
        if (!shared_bucket_commit(hold, payload)) {
            return false;
        }
    }
    shared_spare_copy_cell(b, 0, 0, b, *cell, payload);
    payload = moved_payload(payload, *cell, 0);
    *cell = 0;
    return shared_bucket_commit(hold, payload);
}

/* ---- robbing ---- */

static enum shared_enter no_spare(struct shared_file *f, uint64_t word, struct shared_error *error) {
    error->fault = SHARED_STOPPED;
    snprintf(error->text, sizeof error->text,
             "Shared memory '%s': process %d is stopped in the middle of a decision, and all %u spare buckets stand in "
             "for others like it. Let it go on (kill -CONT %d) or end it.",
             f->name, shared_pid(f, shared_holder(word)), (unsigned)f->layout.spares,
             shared_pid(f, shared_holder(word)));
    return SHARED_FAILED;
}

/* Takes bucket `b` from the holder that `word` names, by way of a spare. LATER: look again.
 *
 * The cells are copied after the swap of b's word: until then the holder may go on, and others may come, until the word is again what it
 * was. What there is to do is written to the spare before, so that another process can do it: the spare is held from the swap on by the
 * first process that takes it, this one or another. */
static enum shared_enter rob(struct shared_file *f, struct shared_bucket *b, uint64_t word, uint32_t me,
                             struct shared_hold *hold, struct shared_error *error) {
    uint64_t reserved;
    struct shared_bucket *s = shared_spare_reserve(f, me, &reserved);
    if (s == NULL) {
        bool moved_on =
            ((word_of(b) ^ word) & ~SHARED_SLEEPERS) != 0; /* others may have taken it over, with the last spares */
        return moved_on ? SHARED_LATER : no_spare(f, word, error);
    }
    uint64_t home_word = moved_word((uint32_t)(s - f->buckets), generation_of(reserved));
    atomic_store(&s->home_word, UINT64_C(0)); /* never a home with another's word */
    atomic_store(&s->home, (uint32_t)(b - f->buckets));
    atomic_store(&s->robbed, shared_holder(word));
    atomic_store(&s->unfinished, UNFINISHED | (uint32_t)word);
    atomic_store(&s->home_word, home_word);
    if (!shared_lock_rob(&b->lock, word, home_word)) {
        shared_spare_release(s, reserved);
        return SHARED_LATER;
    }
    if (!shared_spare_hold(s, reserved, hold)) {
        return SHARED_LATER;
    }
    shared_spare_finish(f, s);
    return SHARED_ENTERED;
}

/* ---- entering ---- */

static enum shared_enter damaged(struct shared_file *f, struct shared_error *error) {
    error->fault = SHARED_UNUSABLE;
    snprintf(
        error->text, sizeof error->text,
        "Shared memory '%s' is damaged: a bucket leads nowhere. Remove it with `headway shm remove`, and start its "
        "processes again.",
        f->name);
    return SHARED_FAILED;
}

enum shared_enter shared_bucket_enter(struct shared_file *f, uint32_t index, bool patient, struct shared_hold *hold,
                                      struct shared_error *error) {
    uint32_t me = shared_number(f, error);
    if (me == 0) {
        return SHARED_FAILED;
    }
    *hold = (struct shared_hold){.file = f, .bucket = &f->buckets[index], .me = me};
    if (shared_lock_try(&hold->bucket->lock, me, &hold->word)) {
        return SHARED_ENTERED;
    }
    hold->contended = true;
    struct shared_bucket *home = hold->bucket, *b = home, *from = NULL;
    uint64_t from_word = 0; /* of `from`, which sent us to b */
    for (int moves = 0; moves < MOVES_MAX; moves++) {
        hold->bucket = b;
        switch (from == NULL ? shared_lock_take(f, &b->lock, me, patient, &hold->word)
                             : shared_spare_take(hold, from_word, patient)) {
        case SHARED_HELD:
            if (from == NULL) {
                return SHARED_ENTERED;
            }
            if (!is_still(from, from_word)) { /* it stands for that one no more */
                shared_bucket_leave(hold, hold_payload(hold));
                break;
            }
            if (home_of(f, b) != from || home_word_of(b) != (from_word & ~GONE)) {
                shared_bucket_leave(hold, hold_payload(hold));
                return damaged(f, error);
            }
            if (!shared_spare_stands_for(f, from, home)) { /* `from` is a spare, and came to stand for another bucket */
                shared_bucket_leave(hold, hold_payload(hold));
                break;
            }
            if (atomic_load_explicit(&b->lock.turns, memory_order_relaxed) % LOOK_EVERY == 0 &&
                !shared_lives(f, atomic_load(&b->robbed))) {
                shared_spare_say_gone(from);
            }
            if (word_of(from) & GONE) {
                shared_spare_give_back(f, hold);
                break;
            }
            if (shared_spare_is_unfinished(b)) {
                shared_spare_finish(f, b);
            }
            return SHARED_ENTERED;
        case SHARED_BUSY:
            return SHARED_LATER;
        case SHARED_STUCK: {
            if (!is_still(from, from_word)) {
                break;
            }
            enum shared_enter end = rob(f, b, hold->word, me, hold, error);
            if (end == SHARED_FAILED || (end == SHARED_ENTERED && shared_spare_stands_for(f, hold->bucket, home))) {
                return end;
            }
            if (end == SHARED_ENTERED) {
                shared_bucket_leave(hold, hold_payload(hold));
            }
            break;
        }
        case SHARED_ELSEWHERE:
            if (is_given(hold->word)) {
                if (from == NULL) {
                    return damaged(f, error);
                }
                shared_spare_complete(from, from_word, hold->word);
                break;
            }
            if (is_reserved(hold->word)) { /* for another bucket by now, or another process has taken it */
                if (from == NULL) {
                    return damaged(f, error);
                }
                break;
            }
            from = b;
            from_word = hold->word;
            b = moved_to(f, from_word);
            if (b == NULL || b == from) {
                return damaged(f, error);
            }
            continue;
        }
        b = home;
        from = NULL;
        from_word = 0;
    }
    return damaged(f, error);
}

bool shared_bucket_commit(struct shared_hold *hold, uint32_t payload) {
    if (shared_lock_commit(&hold->bucket->lock, &hold->word, payload)) {
        return true;
    }
    shared_spare_say_gone(hold->bucket);
    return false;
}

bool shared_bucket_leave(struct shared_hold *hold, uint32_t payload) {
    if (shared_lock_try_release(&hold->bucket->lock, hold->word, payload) ||
        shared_lock_release(&hold->bucket->lock, hold->word, payload)) {
        return true;
    }
    shared_spare_say_gone(hold->bucket);
    return false;
}

/* ---- looking ---- */

/* Reads what a holder may be writing to; the caller finds out whether that was so. It makes no difference in the copy of a word
 * whether it was read at once, since the copy is not used then. */
#if defined(__SANITIZE_THREAD__) || defined(__clang__)
__attribute__((no_sanitize("thread"), noinline))
#endif
static void
peek_words(void *to, const void *from, size_t bytes) {
    typedef uint64_t __attribute__((may_alias)) word;
    word *copy = to;
    const volatile word *words = from;
    for (size_t i = 0; i < bytes / sizeof(word); i++) {
        copy[i] = words[i];
    }
}

static void peek_cells(const struct shared_bucket *b, uint32_t payload, struct shared_cell cells[BUCKET_CELLS]) {
    for (int i = 0; i < BUCKET_CELLS; i++) {
        if (payload_is_live(payload, i)) {
            struct shared_bucket *source = (struct shared_bucket *)(uintptr_t)b;
            peek_words(&cells[i], &b->cells[i], sizeof cells[i]);
            peek_words(&cells[i].states[0], bucket_state(source, i, payload_place(payload, i)), sizeof(struct state));
        }
    }
    if (payload_is_live(payload, 0)) {
        uint32_t own = atomic_load_explicit(&b->lock.own, memory_order_relaxed);
        add(&cells[0].admitted, own & 0xFFFF);
        add(&cells[0].denied, own >> 16);
    }
}

/* The bucket whose cells count for b, and their payload; NULL: b's word, which is `word`, leads elsewhere. */
static const struct shared_bucket *peek_source(const struct shared_file *f, const struct shared_bucket *b,
                                               uint64_t word, const struct shared_bucket *from, uint64_t from_word,
                                               uint32_t *payload) {
    *payload = (uint32_t)word;
    if (from == NULL) {
        return word & SHARED_MOVED ? NULL : b;
    }
    if (is_given(word)) { /* copied back, and nobody has completed it yet */
        return shared_holder(word) == generation_of(from_word) ? from : NULL;
    }
    if (is_moved(word) || (is_reserved(word) && generation_of(word) != generation_of(from_word))) {
        return NULL;
    }
    return shared_spare_source(f, b, payload);
}

uint32_t shared_bucket_read(struct shared_file *f, uint32_t index, struct shared_cell cells[BUCKET_CELLS]) {
    const struct shared_bucket *home = &f->buckets[index], *b = home, *from = NULL;
    uint64_t from_word = 0;
    uint32_t payload = 0, seen = 0;
    for (int tries = 0; tries < 100; tries++) {
        uint32_t turns = atomic_load_explicit(&b->lock.turns, memory_order_acquire);
        uint64_t word = word_of(b);
        const struct shared_bucket *source = peek_source(f, b, word, from, from_word, &payload);
        if (source != NULL) {
            peek_cells(source, payload, cells);
            seen = payload_live(payload);
            /* If nobody has taken the bucket meanwhile, no place that holds was written to, of it or of what it stands for. */
            atomic_thread_fence(memory_order_acquire);
            uint64_t changed = word_of(b) ^ word;
            if ((changed & (SHARED_MOVED | UINT32_MAX)) == 0 && is_still(from, from_word) &&
                (from == NULL || shared_spare_stands_for(f, from, home)) &&
                atomic_load_explicit(&b->lock.turns, memory_order_acquire) == turns) {
                break;
            }
        }
        if (is_moved(word) && moved_to(f, word) != NULL && is_still(from, from_word)) {
            from = b;
            from_word = word;
            b = moved_to(f, word);
        } else if (!is_still(from, from_word) || (word & SHARED_MOVED)) {
            b = home;
            from = NULL;
            from_word = 0;
        }
    }
    return seen;
}
