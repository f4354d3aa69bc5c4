/* The keyed table: see table.h for the design. */
#include "table.h"

#include <stdlib.h>
#include <string.h>

#include "victim.h"

/* A cell that carries on a long key keeps `space` and `next` and gives the bytes around them to the key. */
#define REST_HEAD_AT offsetof(struct cell, state)
#define REST_HEAD (offsetof(struct cell, next) - REST_HEAD_AT)
#define REST_TAIL_AT offsetof(struct cell, key_last)
#define REST_TAIL (sizeof(struct cell) - REST_TAIL_AT)
#define REST_BYTES (REST_HEAD + REST_TAIL)

_Static_assert(sizeof(struct cell) == 64, "a cell is one cache line");
_Static_assert(sizeof(struct shard) == 64, "a shard is one cache line");
_Static_assert(offsetof(struct cell, key) == REST_TAIL_AT + sizeof(uint16_t), "no gaps in a cell");

#define SHARDS_MAX 4096
#define EVICT_ROUNDS 64 /* over the other shards, while other threads hold their locks */
/* Long keys take more cells: on average this many a key before live keys make room for them. */
#define CELLS_A_KEY 16

static uint32_t rest_cells(size_t length) {
    return length <= CELL_INLINE ? 0 : (uint32_t)((length - CELL_INLINE + REST_BYTES - 1) / REST_BYTES);
}

static uint32_t mixed(uint32_t space, uint64_t hash) {
    uint32_t h = (uint32_t)hash ^ (space * UINT32_C(0x9E3779B1));
    return h != 0 ? h : 1;
}

/* ---- life ---- */

static void shard_reset(struct shard *s) {
    free(s->index);
    free(s->cells);
    s->index = NULL;
    s->cells = NULL;
    s->index_mask = 0;
    s->cell_count = s->cell_room = s->keys = 0;
    s->free = CELL_NONE;
    s->crowd_left = 0;
    atomic_store_explicit(&s->next_expiry, INT64_MAX, memory_order_relaxed);
}

bool table_init(struct table *t, int64_t max_keys, enum table_full when_full, uint32_t seed) {
    uint32_t bits = 0;
    while (bits < 12 && (max_keys >> bits) > TABLE_KEYS_A_SHARD) {
        bits++;
    }
    memset(t, 0, sizeof *t);
    t->shard_count = UINT32_C(1) << bits;
    t->shard_shift = 64 - bits;
    t->max_keys = max_keys;
    t->max_cells = max_keys * CELLS_A_KEY + 2 * rest_cells(TABLE_KEY_MAX);
    t->when_full = when_full;
    t->shards = aligned_alloc(64, t->shard_count * sizeof *t->shards);
    if (t->shards == NULL) {
        return false;
    }
    memset(t->shards, 0, t->shard_count * sizeof *t->shards);
    for (uint32_t i = 0; i < t->shard_count; i++) {
        lock_init(&t->shards[i].lock);
        shard_reset(&t->shards[i]);
        t->shards[i].random = (seed ^ (i * UINT32_C(0x9E3779B1))) | 1;
    }
    return true;
}

void table_destroy(struct table *t) {
    for (uint32_t i = 0; t->shards != NULL && i < t->shard_count; i++) {
        shard_reset(&t->shards[i]);
    }
    free(t->shards);
    t->shards = NULL;
    for (int k = 0; k < TABLE_GROUP_BLOCKS; k++) {
        free((void *)atomic_load_explicit(&t->groups.blocks[k], memory_order_relaxed));
        atomic_store_explicit(&t->groups.blocks[k], NULL, memory_order_relaxed);
    }
}

/* ---- groups ---- */

/* Block k begins with number (1024 << k) - 1024. */
static uint32_t block_of(uint32_t number, uint32_t *at) {
    uint32_t n = number + TABLE_GROUP_FIRST;
    uint32_t k = (uint32_t)(21 - __builtin_clz(n));
    *at = n - (TABLE_GROUP_FIRST << k);
    return k;
}

bool table_set_group(struct table *t, uint32_t number, uint32_t group) {
    uint32_t at, k = block_of(number, &at);
    _Atomic uint32_t *block = atomic_load_explicit(&t->groups.blocks[k], memory_order_relaxed);
    if (block == NULL) {
        block = calloc((size_t)TABLE_GROUP_FIRST << k, sizeof *block);
        if (block == NULL) {
            return false;
        }
        atomic_store_explicit(&t->groups.blocks[k], block, memory_order_release);
    }
    atomic_store_explicit(&block[at], group, memory_order_relaxed);
    return true;
}

uint32_t table_group(const struct table *t, uint32_t space) {
    uint32_t at, k = block_of(space >> SPACE_ALGORITHM_BITS, &at);
    _Atomic uint32_t *block = atomic_load_explicit(&t->groups.blocks[k], memory_order_acquire);
    return block == NULL ? 0 : atomic_load_explicit(&block[at], memory_order_relaxed);
}

/* ---- finding ---- */

/* The two runs of key bytes in a cell that carries on a key: `part` 0 or 1. */
static char *rest_part(const struct cell *c, int part, size_t left, size_t *length) {
    size_t most = part == 0 ? REST_HEAD : REST_TAIL;
    *length = left < most ? left : most;
    return (char *)c + (part == 0 ? REST_HEAD_AT : REST_TAIL_AT);
}

static bool rest_equal(const struct shard *s, const struct cell *c, const struct table_key *key) {
    const char *bytes = key->bytes + CELL_INLINE;
    size_t left = key->length - CELL_INLINE, length;
    for (uint32_t n = c->next; left > 0; n = s->cells[n].next) {
        for (int part = 0; part < 2; part++) {
            const char *held = rest_part(&s->cells[n], part, left, &length);
            if (memcmp(held, bytes, length) != 0) {
                return false;
            }
            bytes += length;
            left -= length;
        }
    }
    return true;
}

static bool key_equal(const struct shard *s, const struct cell *c, const struct table_key *key) {
    if (c->key_last != (uint16_t)(key->length - 1)) {
        return false;
    }
    if (key->length <= CELL_INLINE) {
        return memcmp(c->key, key->bytes, key->length) == 0;
    }
    return memcmp(c->key, key->bytes, CELL_INLINE) == 0 && rest_equal(s, c, key);
}

uint32_t table_find(const struct shard *s, uint32_t space, const struct table_key *key) {
    if (s->index == NULL) {
        return CELL_NONE;
    }
    uint32_t hash = mixed(space, key->hash);
    for (uint32_t i = hash & s->index_mask;; i = (i + 1) & s->index_mask) {
        uint64_t slot = s->index[i];
        if (slot == 0) {
            return CELL_NONE;
        }
        if ((uint32_t)(slot >> 32) == hash) {
            uint32_t n = (uint32_t)slot - 1;
            const struct cell *c = &s->cells[n];
            if (c->space == space && key_equal(s, c, key)) {
                return n;
            }
        }
    }
}

/* ---- the index ---- */

static void index_put(uint64_t *index, uint32_t mask, uint32_t hash, uint32_t cell) {
    uint32_t i = hash & mask;
    while (index[i] != 0) {
        i = (i + 1) & mask;
    }
    index[i] = (uint64_t)hash << 32 | (cell + 1);
}

/* Linear probing without tombstones: what follows the gap moves back into it where its home allows. */
static void index_take(struct shard *s, uint32_t cell) {
    uint32_t mask = s->index_mask, i = s->cells[cell].hash & mask;
    while ((uint32_t)s->index[i] != cell + 1) {
        i = (i + 1) & mask;
    }
    for (uint32_t j = (i + 1) & mask; s->index[j] != 0; j = (j + 1) & mask) {
        uint32_t home = (uint32_t)(s->index[j] >> 32) & mask;
        if (((j - home) & mask) >= ((j - i) & mask)) {
            s->index[i] = s->index[j];
            i = j;
        }
    }
    s->index[i] = 0;
}

static bool index_grow(struct shard *s) {
    uint32_t size = s->index == NULL ? 8 : s->index_mask + 1;
    if (s->index != NULL && s->keys + 1 <= size - size / 4) {
        return true;
    }
    size = s->index == NULL ? 8 : size * 2;
    uint64_t *index = calloc(size, sizeof *index);
    if (index == NULL) {
        return false;
    }
    for (uint32_t i = 0; s->index != NULL && i <= s->index_mask; i++) {
        if (s->index[i] != 0) {
            index_put(index, size - 1, (uint32_t)(s->index[i] >> 32), (uint32_t)s->index[i] - 1);
        }
    }
    free(s->index);
    s->index = index;
    s->index_mask = size - 1;
    return true;
}

/* ---- cells ---- */

static bool cells_grow(struct shard *s, uint32_t wanted) {
    uint64_t room = (uint64_t)s->cell_room + s->cell_room / 2 + 8;
    if (room < (uint64_t)s->cell_count + wanted) {
        room = (uint64_t)s->cell_count + wanted;
    }
    if (room >= CELL_REST) {
        return false;
    }
    struct cell *cells = aligned_alloc(64, room * sizeof *cells);
    if (cells == NULL) {
        return false;
    }
    if (s->cell_count > 0) {
        memcpy(cells, s->cells, s->cell_count * sizeof *cells);
    }
    free(s->cells);
    s->cells = cells;
    s->cell_room = (uint32_t)room;
    return true;
}

static uint32_t cell_take(struct shard *s) {
    uint32_t n = s->free;
    if (n != CELL_NONE) {
        s->free = s->cells[n].next;
        return n;
    }
    return s->cell_count++;
}

static bool cells_at_hand(const struct shard *s, uint32_t wanted) {
    uint32_t n = s->free, found = s->cell_room - s->cell_count;
    while (found < wanted && n != CELL_NONE) {
        found++;
        n = s->cells[n].next;
    }
    return found >= wanted;
}

void table_remove(struct table *t, struct shard *s, uint32_t cell) {
    index_take(s, cell);
    int64_t freed = 0;
    for (uint32_t n = cell; n != CELL_NONE; freed++) {
        uint32_t next = s->cells[n].next;
        s->cells[n].space = CELL_FREE;
        s->cells[n].next = s->free;
        s->free = n;
        n = next;
    }
    s->keys--;
    atomic_fetch_sub_explicit(&t->cells, freed, memory_order_relaxed);
    atomic_fetch_sub_explicit(&t->keys, 1, memory_order_relaxed);
}

/* ---- making room ---- */

/* Drops every expired key of the shard but those that are spared. How many. */
static int64_t shard_sweep(struct table *t, struct shard *s, const struct table_spared *spared, int64_t now) {
    int64_t dropped = 0, next = INT64_MAX;
    for (uint32_t n = 0; n < s->cell_count; n++) {
        struct cell *c = &s->cells[n];
        if (c->space >= CELL_REST) {
            continue;
        }
        if (c->state.word[0] <= now && !table_is_spared(spared, n)) {
            table_remove(t, s, n);
            dropped++;
        } else if (c->state.word[0] < next) {
            next = c->state.word[0];
        }
    }
    atomic_store_explicit(&s->next_expiry, next, memory_order_relaxed);
    return dropped;
}

static bool may_expire(const struct shard *s, int64_t now) {
    return atomic_load_explicit(&s->next_expiry, memory_order_relaxed) <= now;
}

/* Expired keys of other shards. `mine` is locked, so the others are only tried. */
static bool sweep_elsewhere(struct table *t, const struct shard *mine, int64_t now) {
    uint32_t start = atomic_fetch_add_explicit(&t->cursor, 1, memory_order_relaxed);
    uint32_t tries = t->shard_count < 128 ? t->shard_count : 128;
    for (uint32_t i = 0; i < tries; i++) {
        struct shard *s = &t->shards[(start + i) & (t->shard_count - 1)];
        if (s != mine && may_expire(s, now) && lock_try(&s->lock)) {
            int64_t dropped = shard_sweep(t, s, NULL, now);
            lock_release(&s->lock);
            if (dropped > 0) {
                return true;
            }
        }
    }
    return false;
}

enum eviction { EVICTED, NOTHING_THERE, SHARDS_BUSY };

/* A live key of another shard, for the rare shard that is empty while the table is full. The other shards are only tried. */
static enum eviction evict_elsewhere(struct table *t, const struct shard *mine, uint32_t space, int64_t now) {
    enum eviction end = NOTHING_THERE;
    for (uint32_t i = 0; i < t->shard_count; i++) {
        struct shard *s = &t->shards[i];
        if (s == mine) {
            continue;
        }
        if (!lock_try(&s->lock)) {
            end = SHARDS_BUSY;
            continue;
        }
        uint32_t victim = victim_choose(t, s, space, NULL, now);
        if (victim != CELL_NONE) {
            table_remove(t, s, victim);
        }
        lock_release(&s->lock);
        if (victim != CELL_NONE) {
            return EVICTED;
        }
    }
    return end;
}

/* Counts a key of `wanted` cells in, if the table may hold it. No other thread ever sees more than the ceiling. */
static bool reserve(struct table *t, uint32_t wanted) {
    int64_t keys = atomic_load_explicit(&t->keys, memory_order_relaxed);
    do {
        if (keys >= t->max_keys) {
            return false;
        }
    } while (
        !atomic_compare_exchange_weak_explicit(&t->keys, &keys, keys + 1, memory_order_relaxed, memory_order_relaxed));
    if (atomic_fetch_add_explicit(&t->cells, wanted, memory_order_relaxed) + wanted <= t->max_cells) {
        return true;
    }
    atomic_fetch_sub_explicit(&t->cells, wanted, memory_order_relaxed);
    atomic_fetch_sub_explicit(&t->keys, 1, memory_order_relaxed);
    return false;
}

/* Counts the new key in, once there is room. False: full, and nothing may be evicted. */
static bool make_room(struct table *t, struct shard *s, uint32_t space, uint32_t wanted,
                      const struct table_spared *spared, int64_t now) {
    int rounds = 0;
    while (!reserve(t, wanted)) {
        if (may_expire(s, now) && shard_sweep(t, s, spared, now) > 0) {
            continue;
        }
        if (t->shard_count > 1 && sweep_elsewhere(t, s, now)) {
            continue;
        }
        if (t->when_full == TABLE_REFUSE) {
            return false;
        }
        uint32_t victim = victim_choose(t, s, space, spared, now);
        if (victim != CELL_NONE) {
            table_remove(t, s, victim);
        } else {
            enum eviction end = evict_elsewhere(t, s, space, now);
            if (end == NOTHING_THERE || (end == SHARDS_BUSY && ++rounds == EVICT_ROUNDS)) {
                return false;
            }
            if (end == SHARDS_BUSY) {
                continue;
            }
        }
        atomic_fetch_add_explicit(&t->evictions, 1, memory_order_relaxed);
    }
    return true;
}

static void key_write(struct shard *s, uint32_t cell, const struct table_key *key) {
    struct cell *c = &s->cells[cell];
    size_t inline_length = key->length < CELL_INLINE ? key->length : CELL_INLINE;
    memcpy(c->key, key->bytes, inline_length);
    const char *bytes = key->bytes + inline_length;
    size_t left = key->length - inline_length, length;
    while (left > 0) {
        uint32_t n = cell_take(s);
        c->next = n;
        c = &s->cells[n];
        c->space = CELL_REST;
        for (int part = 0; part < 2; part++) {
            char *to = rest_part(c, part, left, &length);
            memcpy(to, bytes, length);
            bytes += length;
            left -= length;
        }
    }
    c->next = CELL_NONE;
}

enum table_end table_insert(struct table *t, struct shard *s, uint32_t space, const struct table_key *key, int64_t now,
                            const struct table_spared *spared, uint32_t *cell) {
    uint32_t wanted = 1 + rest_cells(key->length);
    if (!make_room(t, s, space, wanted, spared, now)) {
        return TABLE_FULL;
    }
    if (!cells_at_hand(s, wanted) && may_expire(s, now)) {
        shard_sweep(t, s, spared, now);
    }
    if ((!cells_at_hand(s, wanted) && !cells_grow(s, wanted)) || !index_grow(s)) {
        atomic_fetch_sub_explicit(&t->keys, 1, memory_order_relaxed);
        atomic_fetch_sub_explicit(&t->cells, wanted, memory_order_relaxed);
        return TABLE_NO_MEMORY;
    }
    uint32_t n = cell_take(s);
    struct cell *c = &s->cells[n];
    *c = (struct cell){.hash = mixed(space, key->hash),
                       .space = space,
                       .used = (uint32_t)(now >> 20),
                       .next = CELL_NONE,
                       .key_last = (uint16_t)(key->length - 1)};
    key_write(s, n, key);
    index_put(s->index, s->index_mask, c->hash, n);
    s->keys++;
    *cell = n;
    return TABLE_OK;
}

/* ---- the whole table ---- */

int64_t table_next_expiry(const struct table *t) {
    int64_t next = INT64_MAX;
    for (uint32_t i = 0; i < t->shard_count; i++) {
        int64_t at = atomic_load_explicit(&t->shards[i].next_expiry, memory_order_relaxed);
        next = at < next ? at : next;
    }
    return next;
}

void table_clear(struct table *t) {
    for (uint32_t i = 0; i < t->shard_count; i++) {
        struct shard *s = &t->shards[i];
        lock_acquire(&s->lock);
        int64_t held = 0;
        for (uint32_t n = 0; n < s->cell_count; n++) {
            held += s->cells[n].space != CELL_FREE;
        }
        atomic_fetch_sub_explicit(&t->cells, held, memory_order_relaxed);
        atomic_fetch_sub_explicit(&t->keys, s->keys, memory_order_relaxed);
        shard_reset(s);
        lock_release(&s->lock);
    }
}

int64_t table_sweep(struct table *t, int64_t now) {
    for (uint32_t i = 0; i < t->shard_count; i++) {
        struct shard *s = &t->shards[i];
        lock_acquire(&s->lock);
        if (may_expire(s, now)) {
            shard_sweep(t, s, NULL, now);
        }
        lock_release(&s->lock);
    }
    return atomic_load_explicit(&t->keys, memory_order_relaxed);
}

void table_mark_spaces(struct table *t, uint64_t *bits, uint32_t count) {
    for (uint32_t i = 0; i < t->shard_count; i++) {
        struct shard *s = &t->shards[i];
        lock_acquire(&s->lock);
        for (uint32_t n = 0; n < s->cell_count; n++) {
            uint32_t space = s->cells[n].space;
            uint32_t number = space >> SPACE_ALGORITHM_BITS;
            if (space < CELL_REST && number < count) {
                bits[number / 64] |= UINT64_C(1) << number % 64;
            }
        }
        lock_release(&s->lock);
    }
}

size_t table_bytes(const struct table *t) {
    size_t bytes = t->shard_count * sizeof *t->shards;
    for (int k = 0; k < TABLE_GROUP_BLOCKS; k++) {
        bool there = atomic_load_explicit(&t->groups.blocks[k], memory_order_relaxed) != NULL;
        bytes += there ? ((size_t)TABLE_GROUP_FIRST << k) * sizeof(uint32_t) : 0;
    }
    for (uint32_t i = 0; i < t->shard_count; i++) {
        struct shard *s = &t->shards[i];
        lock_acquire(&s->lock);
        bytes += s->cell_room * sizeof *s->cells + (s->index != NULL ? (s->index_mask + 1) * sizeof *s->index : 0);
        lock_release(&s->lock);
    }
    return bytes;
}
