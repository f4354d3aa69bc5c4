/* The numbers of a store's spaces: a space keeps apart what shares a key (prefix, algorithm, rule), by a name.
 *
 * A name keeps its number while a plan uses it or the table holds a key under it: a limiter that is dropped and made anew finds
 * its counts again. Names of neither kind are forgotten when there are twice as many names as after the last time, so there
 * are never more than about twice as many as plans and keys. A number is used again only then.
 *
 * Plans outlive their store at times, so the register is counted by itself. All functions take its lock. */
#ifndef HEADWAY_SPACES_H
#define HEADWAY_SPACES_H

#include "table.h"

struct spaces;

enum spaces_end { SPACES_OK, SPACES_FULL, SPACES_NO_MEMORY };

/* One reference; NULL: no memory. */
struct spaces *spaces_new(void);
void spaces_keep(struct spaces *r);
void spaces_release(struct spaces *r);

/* The number of a name, which is made when it is new; it is in use until spaces_drop. `table` is where keys of these spaces lie: it
 * learns that the space is of the prefix that the first `prefix_length` bytes of the name are. */
enum spaces_end spaces_take(struct spaces *r, struct table *t, const char *name, size_t length, size_t prefix_length,
                            int64_t now, uint32_t *number);
void spaces_drop(struct spaces *r, uint32_t number);

/* What it takes of memory. */
size_t spaces_bytes(struct spaces *r);

#endif
