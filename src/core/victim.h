/* Which live key of a full table makes room for a new one.
 *
 * A key that is not at its limit: the one that has used the smallest share of its quota, from a sample, the least recently used among
 * equals. While the sample holds nothing but keys near their limit it grows to the whole shard, so a flood of fresh keys evicts its
 * own kind.
 *
 * Where all keys are at their limit (a flood of keys that are used up at once), one has to be forgotten or the new one refused. Each
 * prefix has an equal share of the shard then, and within it each limit (rule and quota): of the prefix that holds the most keys, the new
 * key counted in, the limit that holds the most gives up its least recently used key, of a sample. So a flood under one prefix, or of one limit,
 * frees no key of another one that holds less than its share, whatever the flood's keys have used. Prefixes come first, since a
 * client may be able to choose its quotas, as with a service, but not its prefix. */
#ifndef HEADWAY_VICTIM_H
#define HEADWAY_VICTIM_H

#include "table.h"

/* The cell's number, or CELL_NONE where the shard holds nothing but spared cells (NULL: none). `space` is the new key's. The shard's lock
 * is held. */
uint32_t victim_choose(const struct table *t, struct shard *s, uint32_t space, const struct table_spared *spared,
                       int64_t now);

static inline bool table_is_spared(const struct table_spared *spared, uint32_t cell) {
    for (int i = 0; spared != NULL && i < spared->count; i++) {
        if (spared->cells[i] == cell) {
            return true;
        }
    }
    return false;
}

#endif
