/* The permits that were taken through one semaphore object and not given back through it: one entry for each, with its holder.
 *
 * A holder that leaves gives back its own youngest permit. Which one ends when another leaves for it is decided by semaphore_type.c,
 * which looks at the entries one by one. An entry stays when its lease has lapsed: the leave that belongs to it may still come. */
#ifndef HEADWAY_PERMITS_H
#define HEADWAY_PERMITS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

struct permit;

struct permits {
    struct permit **buckets; /* by holder */
    uint32_t bucket_count;   /* a power of two, or 0 */
    struct permit *oldest, *newest;
    int64_t count, next_order, prune_at;
};

/* `self` is the object that the permits lie in: the functions hold its critical section. */

/* Takes a reference to `holder`. False: no memory. */
bool permits_add(struct permits *p, PyObject *self, PyObject *holder, uint64_t id);

/* Removes the holder's youngest entry. False: it has none. */
bool permits_take_own(struct permits *p, PyObject *self, PyObject *holder, uint64_t *id);

/* The oldest entry with an order above `*order`, which is set to its order; -1 begins. A new reference to its holder, or NULL. */
PyObject *permits_next(struct permits *p, PyObject *self, int64_t *order, uint64_t *id);

/* Removes an entry by its order. False: it was taken meanwhile. */
bool permits_take(struct permits *p, PyObject *self, int64_t order);

/* So many entries that those without a lease are worth a look; each is then given permits_pruned. */
bool permits_are_many(const struct permits *p);
void permits_pruned(struct permits *p);

void permits_clear(struct permits *p);

#endif
