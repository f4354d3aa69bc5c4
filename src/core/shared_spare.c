/* Reserving spares, copying to them, and giving back what they stand for: see shared_spare.h. */
#include "shared_spare.h"

#include <string.h>

/* Does the spare stand for another bucket? Where its word is GIVEN, until that is completed. */
static bool stands_in(const struct shared_file *f, const struct shared_bucket *spare) {
    const struct shared_bucket *home = home_of(f, spare);
    uint64_t home_word = home_word_of(spare);
    return home != NULL && is_moved(home_word) && (word_of(home) & ~GONE) == home_word;
}

bool shared_spare_stands_for(const struct shared_file *f, const struct shared_bucket *spare,
                             const struct shared_bucket *home) {
    const struct shared_bucket *b = spare;
    for (uint32_t i = 0; b != home; i++) {
        if (i > f->layout.spares || !stands_in(f, b)) {
            return false;
        }
        b = home_of(f, b);
    }
    return true;
}

/* ---- copying ---- */

void shared_spare_copy_cell(struct shared_bucket *to, int target, int place, const struct shared_bucket *from, int i,
                            uint32_t payload) {
    const struct shared_cell *c = &from->cells[i];
    struct shared_cell *copy = &to->cells[target];
    uint32_t own = i == 0 ? atomic_load_explicit(&from->lock.own, memory_order_relaxed) : 0;
    to->marks[target] = from->marks[i];
    memcpy(copy->hash, c->hash, sizeof *c - offsetof(struct shared_cell, hash));
    *bucket_state(to, target, place) =
        *bucket_state((struct shared_bucket *)(uintptr_t)from, i, payload_place(payload, i));
    atomic_store_explicit(&copy->admitted, counter_load(&c->admitted) + (own & 0xFFFF), memory_order_relaxed);
    atomic_store_explicit(&copy->denied, counter_load(&c->denied) + (own >> 16), memory_order_relaxed);
    if (target == 0) {
        atomic_store_explicit(&to->lock.own, 0, memory_order_relaxed);
    }
}

/* The live cells, all to place 0; the payload of the copy. */
static uint32_t copy_cells(struct shared_bucket *to, const struct shared_bucket *from, uint32_t payload) {
    for (int i = 0; i < BUCKET_CELLS; i++) {
        if (payload_is_live(payload, i)) {
            shared_spare_copy_cell(to, i, 0, from, i, payload);
        }
    }
    return payload_live(payload);
}

/* While the copy is unfinished the home's cells count, and the robbed holder writes only what does not count. The home may be a spare whose
 * own copy is unfinished, and stays so while its word is MOVED. If that one stands for no bucket, its holder was robbed while it only
 * found that out, and nothing depends on its cells. */
const struct shared_bucket *shared_spare_source(const struct shared_file *f, const struct shared_bucket *spare,
                                                uint32_t *payload) {
    const struct shared_bucket *source = spare;
    for (uint32_t i = 0; i <= f->layout.spares; i++) {
        uint64_t unfinished = atomic_load_explicit(&source->unfinished, memory_order_acquire);
        if (!(unfinished & UNFINISHED)) {
            return source;
        }
        if (!stands_in(f, source)) {
            break;
        }
        *payload = (uint32_t)unfinished;
        source = home_of(f, source);
    }
    *payload = 0;
    return NULL;
}

/* If the caller is killed, the next holder does this again. If the caller is robbed meanwhile, it may come to the end as well: it writes
 * what the spare is to have anyway. */
void shared_spare_finish(const struct shared_file *f, struct shared_bucket *spare) {
    uint32_t payload = 0;
    const struct shared_bucket *source = shared_spare_source(f, spare, &payload);
    if (source != NULL && source != spare) {
        copy_cells(spare, source, payload);
    }
    atomic_store_explicit(&spare->unfinished, UINT64_C(0), memory_order_release);
}

/* ---- giving back ---- */

void shared_spare_say_gone(struct shared_bucket *b) {
    uint64_t word = word_of(b);
    while (is_moved(word) && !(word & GONE) && !atomic_compare_exchange_weak(&b->lock.word, &word, word | GONE)) {
    }
}

void shared_spare_complete(struct shared_bucket *home, uint64_t home_word, uint64_t spare_word) {
    uint64_t expected = home_word | GONE;
    if (is_moved(home_word) && is_given(spare_word) && generation_of(home_word) == shared_holder(spare_word)) {
        atomic_compare_exchange_strong(&home->lock.word, &expected, (uint64_t)(uint32_t)spare_word);
    }
}

/* If the copy is unfinished the home's cells count as they are. They must not be written to: a process that robs this one reads them. */
void shared_spare_give_back(struct shared_file *f, struct shared_hold *spare) {
    struct shared_bucket *s = spare->bucket, *home = home_of(f, s);
    uint64_t home_word = home_word_of(s);
    uint64_t unfinished = atomic_load_explicit(&s->unfinished, memory_order_acquire);
    uint32_t payload = (uint32_t)unfinished;
    if (!(unfinished & UNFINISHED)) {
        shared_lock_count_turn(&home->lock); /* for shared_bucket_read */
        payload = copy_cells(home, s, hold_payload(spare));
        atomic_store_explicit(&home->unfinished, UINT64_C(0), memory_order_release); /* it may be a spare too */
    }
    /* From here on the home's cells are as the spare's. The word of the spare says so before the home's does. */
    if (shared_lock_rob(&s->lock, spare->word, given_word(home_word, payload))) {
        shared_spare_complete(home, home_word, word_of(s));
    } else {
        shared_spare_say_gone(s); /* robbed while copying */
    }
}

/* ---- spares ---- */

static uint32_t next_generation(struct shared_file *f) {
    return atomic_fetch_add_explicit(&f->header->last_generation, 1, memory_order_relaxed) + 1;
}

/* The payload that a spare's word has when a process takes it whose word has none. */
static uint32_t kept_payload(const struct shared_bucket *spare) {
    return payload_live((uint32_t)atomic_load_explicit(&spare->unfinished, memory_order_acquire));
}

static bool swap_word(struct shared_bucket *b, uint64_t expected, uint64_t desired) {
    return atomic_compare_exchange_strong(&b->lock.word, &expected, desired);
}

/* Holds a spare that stands for no bucket. */
static bool hold_unused(struct shared_file *f, uint32_t me, struct shared_bucket *s, struct shared_hold *hold) {
    uint64_t word = word_of(s);
    uint32_t payload = (uint32_t)word;
    if (is_moved(word)) {
        return false;
    }
    if (is_given(word)) {
        struct shared_bucket *home = home_of(f, s);
        if (home != NULL && stands_in(f, s)) {
            shared_spare_complete(home, home_word_of(s), word);
        }
    } else if (shared_holder(word) != 0 && (shared_holder(word) == me || shared_lives(f, shared_holder(word)))) {
        return false;
    } else if (is_reserved(word)) {
        payload = kept_payload(s);
    }
    if (stands_in(f, s)) {
        return false;
    }
    *hold = (struct shared_hold){.file = f, .bucket = s, .word = shared_word(me, payload), .me = me};
    if (!swap_word(s, word, hold->word)) {
        return false;
    }
    shared_lock_count_turn(&s->lock);
    if (stands_in(f, s)) { /* it was taken, used and left meanwhile */
        shared_bucket_leave(hold, payload);
        return false;
    }
    return true;
}

/* The word is swapped by way of being held: so it is certain that the spare stands for no bucket, and a process that is killed before it
 * has found that out leaves the payload as it was. */
static bool reserve(struct shared_file *f, uint32_t me, struct shared_bucket *s, uint64_t *reserved) {
    struct shared_hold hold;
    if (!hold_unused(f, me, s, &hold)) {
        return false;
    }
    *reserved = reserved_word(me, next_generation(f));
    if (!shared_lock_rob(&s->lock, hold.word, *reserved)) {
        shared_spare_say_gone(s);
        return false;
    }
    return true;
}

bool shared_spare_hold(struct shared_bucket *s, uint64_t reserved, struct shared_hold *hold) {
    uint64_t held = shared_word(hold->me, kept_payload(s));
    if (!swap_word(s, reserved, held)) {
        return false;
    }
    shared_lock_count_turn(&s->lock);
    hold->bucket = s;
    hold->word = held;
    return true;
}

enum shared_turn shared_spare_take(struct shared_hold *hold, uint64_t home_word, bool patient) {
    struct shared_bucket *b = hold->bucket;
    enum shared_turn turn = shared_lock_take(hold->file, &b->lock, hold->me, patient, &hold->word);
    if (turn == SHARED_ELSEWHERE && is_reserved(hold->word) && is_moved(home_word) &&
        generation_of(hold->word) == generation_of(home_word) && shared_spare_hold(b, hold->word, hold)) {
        return SHARED_HELD;
    }
    return turn;
}

/* Says that the robbed process is gone, if it is dead. The spare is not held, so it may be reserved anew meanwhile: then its home's word
 * is another one. */
static void say_if_dead(struct shared_file *f, struct shared_bucket *spare) {
    uint64_t home_word = home_word_of(spare);
    struct shared_bucket *home = home_of(f, spare);
    uint32_t robbed = atomic_load(&spare->robbed);
    if (home != NULL && is_moved(home_word) && home_word_of(spare) == home_word && word_of(home) == home_word &&
        !shared_lives(f, robbed)) {
        swap_word(home, home_word, home_word | GONE);
    }
}

/* Frees spares whose robbed one has died or gone, where nobody came by to do it. True: at least one may be free now. */
static bool collect(struct shared_file *f, uint32_t me) {
    bool freed = false;
    for (uint32_t i = f->layout.buckets; i < bucket_count(f); i++) {
        struct shared_bucket *s = &f->buckets[i];
        struct shared_hold hold = {.file = f, .bucket = s, .me = me};
        say_if_dead(f, s);
        uint64_t home_word = home_word_of(s);
        struct shared_bucket *home = home_of(f, s);
        if (home == NULL || home == s || !is_moved(home_word) || word_of(home) != (home_word | GONE) ||
            shared_spare_take(&hold, home_word, false) != SHARED_HELD) {
            continue;
        }
        if (word_of(home) == (home_word | GONE) && home_of(f, s) == home) {
            shared_spare_give_back(f, &hold);
            freed = true;
        } else {
            shared_bucket_leave(&hold, hold_payload(&hold));
        }
    }
    return freed;
}

struct shared_bucket *shared_spare_reserve(struct shared_file *f, uint32_t me, uint64_t *reserved) {
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = f->layout.buckets; i < bucket_count(f); i++) {
            if (reserve(f, me, &f->buckets[i], reserved)) {
                return &f->buckets[i];
            }
        }
        if (round == 0 && !collect(f, me)) {
            return NULL;
        }
    }
    return NULL;
}

void shared_spare_release(struct shared_bucket *spare, uint64_t reserved) {
    atomic_store(&spare->unfinished, UINT64_C(0));
    swap_word(spare, reserved, 0);
}
