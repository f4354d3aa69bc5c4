/* Entering buckets, robbing those who are stopped in them, and giving spares back: see shared_bucket.h. */
#include "shared_bucket.h"

#include <stdio.h>
#include <string.h>

#include "clock.h"

#define GONE UINT64_C(1) /* in the low half of a MOVED word: who was robbed writes there no more */
#define GENERATION_SHIFT 1
#define GENERATION_MASK ((UINT64_C(1) << 30) - 1)
#define MOVES_MAX 10000 /* more than any file in order makes a caller follow */
#define LOOK_EVERY 1024 /* turns of a spare, between two questions whether who was robbed is dead */

/* ---- words ---- */

static bool is_given(uint64_t word) {
    return (word & SHARED_MOVED) && (word & SHARED_SLEEPERS);
}
static bool is_moved(uint64_t word) {
    return (word & SHARED_MOVED) && !(word & SHARED_SLEEPERS);
}
static uint64_t moved_word(uint32_t spare, uint32_t generation) {
    return (uint64_t)spare << SHARED_HOLDER_SHIFT | SHARED_MOVED | (generation & GENERATION_MASK) << GENERATION_SHIFT;
}
static uint64_t generation_of(uint64_t home_word) {
    return home_word >> GENERATION_SHIFT & GENERATION_MASK;
}
static uint64_t given_word(uint64_t home_word, uint32_t payload) {
    return generation_of(home_word) << SHARED_HOLDER_SHIFT | SHARED_MOVED | SHARED_SLEEPERS | payload;
}
static uint64_t word_of(const struct shared_bucket *b) {
    return atomic_load_explicit(&b->lock.word, memory_order_acquire);
}

static uint32_t bucket_count(const struct shared_file *f) {
    return f->layout.buckets + f->layout.spares;
}

/* The bucket that a MOVED word names, or NULL where the file lies: only spares stand for others. */
static struct shared_bucket *moved_to(const struct shared_file *f, uint64_t word) {
    uint32_t spare = shared_holder(word);
    return spare >= f->layout.buckets && spare < bucket_count(f) ? &f->buckets[spare] : NULL;
}

static struct shared_bucket *home_of(const struct shared_file *f, const struct shared_bucket *spare) {
    uint32_t home = atomic_load_explicit(&spare->home, memory_order_acquire);
    return home < bucket_count(f) ? &f->buckets[home] : NULL;
}

static uint64_t home_word_of(const struct shared_bucket *spare) {
    return atomic_load_explicit(&spare->home_word, memory_order_acquire);
}

/* Does the spare stand for another bucket? Where its word is GIVEN, until that is completed. */
static bool stands_in(const struct shared_file *f, const struct shared_bucket *spare) {
    const struct shared_bucket *home = home_of(f, spare);
    uint64_t home_word = home_word_of(spare);
    return home != NULL && is_moved(home_word) && (word_of(home) & ~GONE) == home_word;
}

/* ---- copying ---- */

static uint64_t load(const _Atomic uint64_t *counter) {
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static void add(_Atomic uint64_t *counter, uint64_t by) { /* only the holder counts, so it need not be one operation */
    atomic_store_explicit(counter, load(counter) + by, memory_order_relaxed);
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

/* One cell, its state to place `place`. Who was robbed may be writing to what is not copied. */
static void copy_cell(struct shared_bucket *to, int target, int place, const struct shared_bucket *from, int i,
                      uint32_t payload) {
    const struct shared_cell *c = &from->cells[i];
    struct shared_cell *copy = &to->cells[target];
    uint32_t own = i == 0 ? atomic_load_explicit(&from->lock.own, memory_order_relaxed) : 0;
    to->marks[target] = from->marks[i];
    memcpy(copy->hash, c->hash, sizeof *c - offsetof(struct shared_cell, hash));
    *bucket_state(to, target, place) =
        *bucket_state((struct shared_bucket *)(uintptr_t)from, i, payload_place(payload, i));
    atomic_store_explicit(&copy->admitted, load(&c->admitted) + (own & 0xFFFF), memory_order_relaxed);
    atomic_store_explicit(&copy->denied, load(&c->denied) + (own >> 16), memory_order_relaxed);
    if (target == 0) {
        atomic_store_explicit(&to->lock.own, 0, memory_order_relaxed);
    }
}

/* The live cells, all to place 0; the payload of the copy. */
static uint32_t copy_cells(struct shared_bucket *to, const struct shared_bucket *from, uint32_t payload) {
    for (int i = 0; i < BUCKET_CELLS; i++) {
        if (payload_is_live(payload, i)) {
            copy_cell(to, i, 0, from, i, payload);
        }
    }
    return payload_live(payload);
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
        copy_cell(b, other, 0, b, 0, payload);
        payload = moved_payload(payload, 0, other);
        if (!shared_bucket_commit(hold, payload)) {
            return false;
        }
    }
    copy_cell(b, 0, 0, b, *cell, payload);
    payload = moved_payload(payload, *cell, 0);
    *cell = 0;
    return shared_bucket_commit(hold, payload);
}

/* ---- giving back ---- */

static void say_gone(struct shared_bucket *b) {
    uint64_t word = word_of(b);
    while (is_moved(word) && !(word & GONE) && !atomic_compare_exchange_weak(&b->lock.word, &word, word | GONE)) {
    }
}

/* The second half of giving back. The words may be of different times, which their generations tell. */
static void complete(struct shared_bucket *home, uint64_t home_word, uint64_t spare_word) {
    uint64_t expected = home_word | GONE;
    if (is_moved(home_word) && is_given(spare_word) && generation_of(home_word) == shared_holder(spare_word)) {
        atomic_compare_exchange_strong(&home->lock.word, &expected, (uint64_t)(uint32_t)spare_word);
    }
}

/* The spare is held, and who was robbed of its home is gone. Either way it is not held afterwards. */
static void give_back(struct shared_file *f, struct shared_hold *spare) {
    struct shared_bucket *s = spare->bucket, *home = home_of(f, s);
    uint64_t home_word = home_word_of(s);
    uint32_t payload = copy_cells(home, s, hold_payload(spare));
    /* From here on the home's cells are as the spare's. The word of the spare says so before the home's does. */
    if (shared_lock_rob(&s->lock, spare->word, given_word(home_word, payload))) {
        complete(home, home_word, word_of(s));
    } else {
        say_gone(s); /* robbed while copying */
    }
}

/* ---- spares ---- */

static uint32_t next_generation(struct shared_file *f) {
    return atomic_fetch_add_explicit(&f->header->last_generation, 1, memory_order_relaxed) + 1;
}

/* Takes a spare that stands for nobody. */
static bool claim(struct shared_file *f, uint32_t me, uint32_t index, struct shared_hold *hold) {
    struct shared_bucket *s = &f->buckets[index];
    uint64_t word = word_of(s), held;
    if (is_moved(word)) {
        return false;
    }
    if (is_given(word)) {
        struct shared_bucket *home = home_of(f, s);
        if (home != NULL && stands_in(f, s)) {
            complete(home, home_word_of(s), word);
        }
        if (stands_in(f, s)) {
            return false;
        }
    } else if (shared_holder(word) != 0 && (shared_holder(word) == me || shared_lives(f, shared_holder(word)))) {
        return false;
    } else if (stands_in(f, s)) {
        return false;
    }
    held = shared_word(me, (uint32_t)word);
    if (!atomic_compare_exchange_strong(&s->lock.word, &word, held)) {
        return false;
    }
    *hold = (struct shared_hold){.file = f, .bucket = s, .word = held, .me = me};
    if (stands_in(f, s)) { /* it was taken, used and left meanwhile */
        shared_lock_release(&s->lock, held, (uint32_t)held);
        return false;
    }
    return true;
}

/* Frees spares whose robbed one has died or gone, where nobody came by to do it. True: at least one may be free now. */
static bool collect(struct shared_file *f, uint32_t me) {
    bool freed = false;
    for (uint32_t i = f->layout.buckets; i < bucket_count(f); i++) {
        struct shared_bucket *s = &f->buckets[i], *home = home_of(f, s);
        struct shared_hold hold = {.file = f, .bucket = s, .me = me};
        if (home == NULL || !stands_in(f, s)) {
            continue;
        }
        if (!(word_of(home) & GONE) && !shared_lives(f, atomic_load(&s->robbed))) {
            say_gone(home);
        }
        if ((word_of(home) & GONE) && shared_lock_take(f, &s->lock, me, false, &hold.word) == SHARED_HELD) {
            if (stands_in(f, s) && (word_of(home_of(f, s)) & GONE)) {
                give_back(f, &hold);
                freed = true;
            } else {
                shared_lock_release(&s->lock, hold.word, hold_payload(&hold));
            }
        }
    }
    return freed;
}

static bool find_spare(struct shared_file *f, uint32_t me, struct shared_hold *hold) {
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = f->layout.buckets; i < bucket_count(f); i++) {
            if (claim(f, me, i, hold)) {
                return true;
            }
        }
        if (round == 0 && !collect(f, me)) {
            return false;
        }
    }
    return false;
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

/* Takes bucket `b` from the holder that `word` names, by way of a spare. LATER: look again. */
static enum shared_enter rob(struct shared_file *f, struct shared_bucket *b, uint64_t word, uint32_t me,
                             struct shared_hold *hold, struct shared_error *error) {
    if (!find_spare(f, me, hold)) {
        return no_spare(f, word, error);
    }
    struct shared_bucket *s = hold->bucket;
    uint32_t index = (uint32_t)(s - f->buckets);
    uint64_t home_word = moved_word(index, next_generation(f));
    atomic_store(&s->home_word, UINT64_C(0)); /* never a home with another's word */
    atomic_store(&s->home, (uint32_t)(b - f->buckets));
    atomic_store(&s->robbed, shared_holder(word));
    atomic_store(&s->home_word, home_word);
    uint32_t payload = copy_cells(s, b, (uint32_t)word);
    if (!shared_lock_commit(&s->lock, &hold->word, payload)) {
        say_gone(s);
        return SHARED_LATER;
    }
    if (!shared_lock_rob(&b->lock, word, home_word)) {
        shared_bucket_leave(hold, 0);
        return SHARED_LATER;
    }
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

/* A word with a generation that has not changed was not changed in between either. `from` NULL: it was the first. */
static bool is_still(const struct shared_bucket *from, uint64_t from_word) {
    return from == NULL || ((word_of(from) ^ from_word) & ~GONE) == 0;
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
    struct shared_bucket *b = &f->buckets[index], *from = NULL;
    uint64_t from_word = 0; /* of `from`, which sent us to b */
    for (int moves = 0; moves < MOVES_MAX; moves++) {
        hold->bucket = b;
        switch (shared_lock_take(f, &b->lock, me, patient, &hold->word)) {
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
            if (atomic_load_explicit(&b->lock.turns, memory_order_relaxed) % LOOK_EVERY == 0 &&
                !shared_lives(f, atomic_load(&b->robbed))) {
                say_gone(from);
            }
            if (!(word_of(from) & GONE)) {
                return SHARED_ENTERED;
            }
            give_back(f, hold);
            break;
        case SHARED_BUSY:
            return SHARED_LATER;
        case SHARED_STUCK: {
            enum shared_enter end = rob(f, b, hold->word, me, hold, error);
            if (end == SHARED_FAILED || (end == SHARED_ENTERED && is_still(from, from_word))) {
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
                complete(from, from_word, hold->word);
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
        b = &f->buckets[index];
        from = NULL;
    }
    return damaged(f, error);
}

bool shared_bucket_commit(struct shared_hold *hold, uint32_t payload) {
    if (shared_lock_commit(&hold->bucket->lock, &hold->word, payload)) {
        return true;
    }
    say_gone(hold->bucket);
    return false;
}

bool shared_bucket_leave(struct shared_hold *hold, uint32_t payload) {
    if (shared_lock_try_release(&hold->bucket->lock, hold->word, payload) ||
        shared_lock_release(&hold->bucket->lock, hold->word, payload)) {
        return true;
    }
    say_gone(hold->bucket);
    return false;
}

/* ---- looking ---- */

uint32_t shared_bucket_read(struct shared_file *f, uint32_t index, struct shared_cell cells[BUCKET_CELLS]) {
    struct shared_bucket *b = &f->buckets[index];
    uint32_t payload = 0;
    for (int tries = 0; tries < 100; tries++) {
        uint64_t word = word_of(b);
        uint32_t turns = atomic_load_explicit(&b->lock.turns, memory_order_acquire);
        if (word & SHARED_MOVED) {
            struct shared_bucket *spare = is_moved(word) ? moved_to(f, word) : NULL;
            b = spare != NULL ? spare : &f->buckets[index];
            continue;
        }
        payload = (uint32_t)word;
        for (int i = 0; i < BUCKET_CELLS; i++) {
            if (payload_is_live(payload, i)) {
                memcpy(&cells[i], &b->cells[i], sizeof cells[i]);
                cells[i].states[0] = *bucket_state(b, i, payload_place(payload, i));
            }
        }
        if (payload_is_live(payload, 0)) {
            add(&cells[0].admitted, atomic_load_explicit(&b->lock.own, memory_order_relaxed) & 0xFFFF);
            add(&cells[0].denied, atomic_load_explicit(&b->lock.own, memory_order_relaxed) >> 16);
        }
        atomic_thread_fence(memory_order_acquire);
        if ((uint32_t)word_of(b) == payload && atomic_load_explicit(&b->lock.turns, memory_order_acquire) == turns) {
            break;
        }
    }
    return payload_live(payload);
}
