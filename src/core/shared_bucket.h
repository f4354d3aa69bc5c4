/* Buckets of cells in shared memory: what one lock guards.
 *
 * A bucket has sixteen cells, and a cell has two places for its state. The payload of the bucket's lock says, for each cell, whether it
 * is live (low 16 bits) and which of its places holds (high 16 bits). A holder of the lock writes only to places that do not hold and to
 * cells that are not live, and what it wrote holds from the instant at which it releases the lock with another payload: the states of
 * all rules of a quota at once. So a process may be killed at any instruction.
 *
 * A holder that is stopped is robbed: a spare bucket is reserved, the lock's word becomes MOVED, and then the live cells are copied to the
 * spare. The word names the spare and has a generation, so that no word like it comes again. A process that meets it goes on in the spare.
 * The one that was robbed finds out when its release fails; then it says so (GONE), and the next one copies the cells back and frees the
 * spare. A spare in which a process was stopped is robbed in the same way, so they may form a chain.
 *
 * The cells are copied when the word is MOVED, not before: until then the holder may go on, and the word be once more what it was, with
 * other states. From then on no process writes to a place that holds: the robbed one cannot know, and writes to the others only. The
 * robber may be stopped or killed as well before it is through. So it writes to the spare what there is to copy, before it swaps the
 * word, and the next process to take the spare copies it. As long as that is to be done (`unfinished`), the cells of the home count.
 *
 *   spare.word  RESERVED | process | generation        stands for no bucket yet, or is still to be taken; a dead process' is reserved anew
 *   home.word   MOVED | spare | generation (| GONE)    the spare holds
 *   spare.word  GIVEN | generation | payload           the cells are copied back: any process that sees both completes it
 *
 * Processes that decide on one key pass cache lines to and fro, which costs more than the decisions. So the state of cell 0, the front
 * cell, is on the line of the lock, its counts too as long as they are small: one line is dirtied by a decision, where it was two or
 * three; what identifies a key is on lines that are only read. The first key of a bucket is in front, and later the one that
 * processes meet at. (Four processes on one key: 5 to 10 million decisions a second with two lines, see benchmarks.) */
#ifndef HEADWAY_SHARED_BUCKET_H
#define HEADWAY_SHARED_BUCKET_H

#include "algorithm.h"
#include "shared_lock.h"

#define BUCKET_CELLS 16
#define CELL_TEXT 72

struct shared_cell {
    struct state states[2];            /* the front cell's are in the bucket */
    _Atomic uint64_t admitted, denied; /* units of cost, and calls; not exact when somebody is killed */
    /* Identity: written while the cell is not live. */
    uint64_t hash[2]; /* of prefix, algorithm and key */
    uint64_t tag;     /* which rule, see shared_tag; the low bits are the algorithm */
    int64_t limit, period_ns, burst;
    uint32_t key_length;  /* of the whole key */
    char text[CELL_TEXT]; /* how it begins, for people */
    uint32_t group;       /* which prefix, to choose a cell that makes room; 0 in files of earlier versions */
};

struct shared_bucket {
    /* The first line: what the holder writes. lock.own counts for the front cell: admitted in the low half, denied in the high. */
    _Alignas(64) struct shared_lock lock;
    struct state front[2];
    /* The second: what is read. Of a spare, written while it is reserved: the bucket that it is to stand for, who is robbed of that one, and
     * its word while the spare does so, without GONE; and the payload of the word that was swapped for it, until the cells are copied. */
    _Atomic uint32_t home, robbed;
    _Atomic uint64_t home_word, unfinished;
    uint16_t marks[BUCKET_CELLS]; /* 16 bits of each live cell's hash, so that a search reads one line; only hints */
    uint64_t unused;
    struct shared_cell cells[BUCKET_CELLS];
};

_Static_assert(sizeof(struct shared_cell) == 192, "a cell is three cache lines");
_Static_assert(sizeof(struct shared_bucket) == SHARED_BUCKET_BYTES, "the layout counts on it");

/* A bucket that is held. */
struct shared_hold {
    struct shared_file *file;
    struct shared_bucket *bucket;
    uint64_t word;
    uint32_t me;
    bool contended; /* it was not free at first sight */
};

enum shared_enter { SHARED_ENTERED, SHARED_LATER, SHARED_FAILED };

/* Takes the bucket that counts for number `index` (less than layout.buckets). LATER: not `patient`, and it is not free; ask again
 * patiently, without the GIL. FAILED: a sentence in *error. */
enum shared_enter shared_bucket_enter(struct shared_file *f, uint32_t index, bool patient, struct shared_hold *hold,
                                      struct shared_error *error);

/* Makes `payload` hold and leaves; or stays. False: robbed, nothing of it has counted: enter again, and decide again. */
bool shared_bucket_leave(struct shared_hold *hold, uint32_t payload);
bool shared_bucket_commit(struct shared_hold *hold, uint32_t payload);

static inline uint32_t hold_payload(const struct shared_hold *hold) {
    return (uint32_t)hold->word;
}
static inline uint32_t payload_live(uint32_t payload) {
    return payload & 0xFFFF;
}
static inline bool payload_is_live(uint32_t payload, int cell) {
    return payload >> cell & 1;
}
static inline int payload_place(uint32_t payload, int cell) {
    return (int)(payload >> (BUCKET_CELLS + cell) & 1);
}

static inline struct state *bucket_state(struct shared_bucket *b, int cell, int place) {
    return cell == 0 ? &b->front[place] : &b->cells[cell].states[place];
}

/* Counts; the caller holds the bucket. */
void shared_bucket_count(struct shared_bucket *b, int cell, uint64_t admitted, uint64_t denied);

/* Moves a live cell to the front, where there is room for the one that is there now. False: robbed. The cell's number in *cell. */
bool shared_bucket_promote(struct shared_hold *hold, int *cell);

/* A copy of the live cells of bucket `index`, read without the lock, their states in place 0: which are live. For looking only. */
uint32_t shared_bucket_read(struct shared_file *f, uint32_t index, struct shared_cell cells[BUCKET_CELLS]);

#endif
