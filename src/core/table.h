/* The keyed table: states under (space, key), with expiry and a ceiling.
 *
 * Everything lives in cells of 64 bytes, one cache line, addressed by number, never by pointer. A cell holds a state, the
 * first bytes of its key and what choosing a victim needs; a key that is longer goes on in further cells. There is one free list,
 * so nothing fragments. An open-addressing index maps hashes to cells.
 *
 *   table -> shard (lock, index, cells) -> cell (state, key) -> cell (rest of a long key)
 *
 * The caller picks a shard by a hash of its own (see table_shard), the same one for all rules of one quota on one key, so that they
 * are under one lock. A shard's size is near a thousand keys: looking through all of a shard is then a matter of a microsecond, which
 * keeps expiry and the choice of a victim exact without lists or heaps.
 *
 * When the table is full an expired key makes room if there is one; else a live one, see victim.h. Only the cells that the caller has
 * found for the same decision are spared. */
#ifndef HEADWAY_TABLE_H
#define HEADWAY_TABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "algorithm.h"
#include "lock.h"

#define TABLE_KEY_MAX 65536
#define TABLE_KEYS_MAX (INT64_C(1) << 31)
#define CELL_INLINE 18
#define CELL_NONE UINT32_MAX
#define TABLE_KEYS_A_SHARD 1024 /* in a table of less than four million */

/* In place of a space: the cell is free, or carries on a long key. */
#define CELL_FREE UINT32_MAX
#define CELL_REST (UINT32_MAX - 1)

/* A space keeps apart what shares a key: prefix, algorithm and rule. The low bits are the algorithm. */
#define SPACE_ALGORITHM_BITS 3
#define SPACE_MAX (UINT32_C(1) << 28)

struct cell {
    uint32_t hash;  /* of space and key */
    uint32_t space; /* or CELL_FREE, CELL_REST */
    struct state state;
    float scale;       /* see algorithm_share */
    uint32_t used;     /* when last admitted, in units of 2^20 ns */
    uint32_t next;     /* the cell with the rest of the key, or the next free one */
    uint16_t key_last; /* length of the key - 1 */
    char key[CELL_INLINE];
};

/* Which prefix each space is of, by its number: in blocks that double in size and never move, so that it is read without a lock. */
#define TABLE_GROUP_BLOCKS 19
#define TABLE_GROUP_FIRST 1024
struct table_groups {
    _Atomic(_Atomic uint32_t *) blocks[TABLE_GROUP_BLOCKS];
};

struct table_key {
    uint64_t hash;
    const char *bytes;
    size_t length; /* 1 to TABLE_KEY_MAX */
};

struct shard {
    _Alignas(64) struct lock lock;
    uint32_t index_mask;
    uint64_t *index; /* hash in the high half, cell + 1 in the low; 0 empty */
    struct cell *cells;
    uint32_t cell_count; /* cells that were ever handed out */
    uint32_t cell_room;
    uint32_t free;
    uint32_t keys;
    _Atomic int64_t next_expiry; /* no key of the shard expires earlier */
    uint32_t random;
    /* The limit that makes room for the next keys, while `crowd_left` is not 0: see victim.c. */
    uint32_t crowd_space;
    float crowd_scale;
    uint32_t crowd_left;
};

enum table_full { TABLE_EVICT, TABLE_REFUSE };
enum table_end { TABLE_OK, TABLE_FULL, TABLE_NO_MEMORY };

struct table {
    struct shard *shards;
    uint32_t shard_shift; /* of the 64-bit hash; 64 shards and up */
    uint32_t shard_count;
    int64_t max_keys;
    int64_t max_cells;
    enum table_full when_full;
    _Atomic int64_t keys;
    _Atomic int64_t cells;
    _Atomic int64_t evictions; /* live keys that made room */
    _Atomic uint32_t cursor;   /* where the search for expired keys in other shards goes on */
    struct table_groups groups;
};

/* 1 <= max_keys <= TABLE_KEYS_MAX. False: no memory. */
bool table_init(struct table *t, int64_t max_keys, enum table_full when_full, uint32_t seed);
void table_destroy(struct table *t);

static inline struct shard *table_shard(const struct table *t, uint64_t hash) {
    return &t->shards[t->shard_count == 1 ? 0 : hash >> t->shard_shift];
}

/* A space is of the prefix that hashes to `group`. For one caller at a time, and before the space has keys. False: no memory. */
bool table_set_group(struct table *t, uint32_t number, uint32_t group);
/* 0 where none was set. */
uint32_t table_group(const struct table *t, uint32_t space);

/* The rest needs the shard's lock. */

/* The cell's number, or CELL_NONE. */
uint32_t table_find(const struct shard *s, uint32_t space, const struct table_key *key);

/* Cells that an insertion must not drop, by number; CELL_NONE among them is ignored. */
struct table_spared {
    const uint32_t *cells;
    int count;
};

/* A new cell for a key that is not there, its state all zeros; sets *cell. May move the shard's cells, and drops keys when the table
 * is full, but none that `spared` (NULL: none) names. TABLE_FULL: nothing may make room, under TABLE_EVICT too, where the table
 * holds nothing but spared cells. */
enum table_end table_insert(struct table *t, struct shard *s, uint32_t space, const struct table_key *key, int64_t now,
                            const struct table_spared *spared, uint32_t *cell);

/* Call after a state was written: keeps what expiry and eviction need. */
static inline void table_touch(struct shard *s, struct cell *c, const struct quota *q, int64_t now) {
    c->used = (uint32_t)(now >> 20);
    c->scale = algorithm_scale((enum algorithm_id)(c->space & ((1 << SPACE_ALGORITHM_BITS) - 1)), q);
    if (c->state.word[0] < atomic_load_explicit(&s->next_expiry, memory_order_relaxed)) {
        atomic_store_explicit(&s->next_expiry, c->state.word[0], memory_order_relaxed);
    }
}

void table_remove(struct table *t, struct shard *s, uint32_t cell);

/* The earliest instant at which a key may expire: when a full table may have room again. Takes no lock. */
int64_t table_next_expiry(const struct table *t);

/* These take the locks themselves. */
void table_clear(struct table *t);
int64_t table_sweep(struct table *t, int64_t now); /* drops expired keys; how many live ones are left */
/* Sets the bit of each space that a cell is of, by the number above its algorithm bits; `count` bits. */
void table_mark_spaces(struct table *t, uint64_t *bits, uint32_t count);
size_t table_bytes(const struct table *t);

#endif
