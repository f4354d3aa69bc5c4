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
 * Which key makes room when the table is full: an expired key if there is one; else the key that has used the smallest share of
 * its quota, from a sample, the least recently used among equals. While the sample holds nothing but keys near their limit, the
 * sample grows to the whole shard: a flood of fresh keys evicts its own kind and a limited key goes last. Only the cells that the
 * caller has found for the same decision are spared. */
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
};

/* 1 <= max_keys <= TABLE_KEYS_MAX. False: no memory. */
bool table_init(struct table *t, int64_t max_keys, enum table_full when_full, uint32_t seed);
void table_destroy(struct table *t);

static inline struct shard *table_shard(const struct table *t, uint64_t hash) {
    return &t->shards[t->shard_count == 1 ? 0 : hash >> t->shard_shift];
}

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
