/* Which live key makes room: see victim.h. */
#include "victim.h"

#include <string.h>

#define SAMPLE 16
#define SCAN_MOST (2 * TABLE_KEYS_A_SHARD) /* slots looked at in a shard that is larger than a shard should be */
#define NEAR_LIMIT 0.9F                    /* from this share on a key is worth a search for another one */

/* What is found to be the largest limit of a shard, its crowd, makes room for so many keys without another look: one of each so many of
 * its keys. A look takes 50 us in a shard of a thousand keys, a sample 1 us. */
#define CROWD_PART 64

/* How many keys each kind has among those that are looked at. Of more kinds than there is room for, the rest count as one key each: then
 * a shard of a thousand keys holds hundreds of kinds, and the largest of them is among the first. */
#define TALLY_SIZE 1024
#define TALLY_MOST (TALLY_SIZE / 4 * 3)

struct tally {
    uint64_t kinds[TALLY_SIZE];
    uint16_t counts[TALLY_SIZE]; /* 0: free */
    uint32_t held;
};

static uint32_t next_random(struct shard *s) { /* xorshift: which cells are sampled, nothing secret */
    uint32_t x = s->random;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return s->random = x;
}

/* One more key of that kind; how many it has now. */
static uint32_t tally_add(struct tally *t, uint64_t kind) {
    uint32_t i = (uint32_t)((kind * UINT64_C(0x9E3779B97F4A7C15)) >> 54);
    while (t->counts[i] != 0 && t->kinds[i] != kind) {
        i = (i + 1) & (TALLY_SIZE - 1);
    }
    if (t->counts[i] == 0) {
        if (t->held == TALLY_MOST) {
            return 1;
        }
        t->held++;
        t->kinds[i] = kind;
    }
    return ++t->counts[i];
}

/* Keys are looked at in the order of their cells, from any one on. In a shard of long keys, whose cells are mostly the rest of keys, in the
 * order of the index, which takes twice as long. */
struct scan {
    bool by_index;
    uint32_t at, size;
    uint32_t left; /* how many slots or cells are left to look at */
};

static struct scan scan_from(const struct shard *s, uint32_t random) {
    bool by_index = s->cell_count > SCAN_MOST;
    uint32_t size = s->index == NULL ? 0 : by_index ? s->index_mask + 1 : s->cell_count;
    return (struct scan){by_index, size == 0 ? 0 : random % size, size, size};
}

/* The next key's cell that is not spared, or CELL_NONE. `seen`: how many there were so far; the first is found wherever it is. */
static inline uint32_t scan_next(struct scan *scan, const struct shard *s, const struct table_spared *spared,
                                 uint32_t seen) {
    uint32_t last = seen > 0 && scan->size > SCAN_MOST ? scan->size - SCAN_MOST : 0;
    while (scan->left > last) {
        uint32_t n = scan->by_index ? (uint32_t)s->index[scan->at] - 1 : scan->at;
        scan->at = scan->at + 1 < scan->size ? scan->at + 1 : 0;
        scan->left--;
        bool held = scan->by_index ? n != CELL_NONE : s->cells[n].space < CELL_REST;
        if (held && !table_is_spared(spared, n)) {
            return n;
        }
    }
    return CELL_NONE;
}

/* Under one prefix and rule, limits of equally long spans count as one. */
static uint64_t limit_of(uint32_t space, float scale) {
    uint32_t bits;
    memcpy(&bits, &scale, sizeof bits);
    return (uint64_t)space << 32 | bits;
}

/* The prefix that has the most keys, one more counted for `own`, which is also chosen among equals: it is the one that wants more. */
static uint32_t largest_group(const struct table *t, const struct shard *s, struct scan scan, uint32_t own,
                              const struct table_spared *spared) {
    struct tally tally;
    memset(&tally, 0, sizeof tally);
    uint32_t n, seen = 0, found = own, most = tally_add(&tally, own);
    while ((n = scan_next(&scan, s, spared, seen++)) != CELL_NONE) {
        uint32_t group = table_group(t, s->cells[n].space), held = tally_add(&tally, group);
        if (held > most || (held == most && group == own)) {
            most = held;
            found = group;
        }
    }
    return found;
}

/* And of its limits the one that has the most keys, which is the shard's crowd then. */
static void find_crowd(const struct table *t, struct shard *s, struct scan scan, uint32_t own,
                       const struct table_spared *spared) {
    struct tally tally;
    uint32_t group = largest_group(t, s, scan, own, spared), n, seen = 0, most = 0;
    memset(&tally, 0, sizeof tally);
    while ((n = scan_next(&scan, s, spared, seen++)) != CELL_NONE) {
        const struct cell *c = &s->cells[n];
        if (table_group(t, c->space) == group) {
            uint32_t held = tally_add(&tally, limit_of(c->space, c->scale));
            if (held > most) {
                most = held;
                s->crowd_space = c->space;
                s->crowd_scale = c->scale;
            }
        }
    }
    s->crowd_left = most / CROWD_PART;
}

/* The least recently used of a sample of the crowd. */
static uint32_t choose_of_crowd(const struct shard *s, struct scan scan, const struct table_spared *spared,
                                uint32_t stamp) {
    uint32_t n, victim = CELL_NONE, age = 0, seen = 0, found = 0;
    uint64_t crowd = limit_of(s->crowd_space, s->crowd_scale);
    while (found < SAMPLE && (n = scan_next(&scan, s, spared, seen++)) != CELL_NONE) {
        const struct cell *c = &s->cells[n];
        uint32_t cell_age = stamp - c->used;
        if (limit_of(c->space, c->scale) == crowd) {
            found++;
            if (victim == CELL_NONE || cell_age > age) {
                victim = n;
                age = cell_age;
            }
        }
    }
    return victim;
}

uint32_t victim_choose(const struct table *t, struct shard *s, uint32_t space, const struct table_spared *spared,
                       int64_t now) {
    uint32_t victim = CELL_NONE, seen = 0, age = 0, n, stamp = (uint32_t)(now >> 20);
    struct scan start = scan_from(s, next_random(s)), scan = start;
    float least = 0;
    if (s->crowd_left > 0) {
        s->crowd_left--;
        victim = choose_of_crowd(s, start, spared, stamp);
        if (victim != CELL_NONE) {
            return victim;
        }
    }
    while ((n = scan_next(&scan, s, spared, seen)) != CELL_NONE) {
        const struct cell *c = &s->cells[n];
        enum algorithm_id id = (enum algorithm_id)(c->space & ((1 << SPACE_ALGORITHM_BITS) - 1));
        float share = algorithm_share(id, &c->state, c->scale, now);
        uint32_t cell_age = stamp - c->used;
        if (victim == CELL_NONE || share < least || (share <= least && cell_age > age)) {
            victim = n;
            least = share;
            age = cell_age;
        }
        if (++seen >= SAMPLE && least < NEAR_LIMIT && start.size > 4 * SAMPLE) {
            break;
        }
    }
    if (victim != CELL_NONE && least > SHARE_AT_LIMIT) {
        find_crowd(t, s, start, table_group(t, space), spared);
        uint32_t of_crowd = choose_of_crowd(s, start, spared, stamp);
        victim = of_crowd != CELL_NONE ? of_crowd : victim;
    }
    return victim;
}
