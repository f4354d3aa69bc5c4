/* The entries of one semaphore object: see permits.h. */
#include "permits.h"

#define FIRST_PRUNE 64

#ifdef Py_BEGIN_CRITICAL_SECTION
#define ENTER_SECTION(self)                                                                                            \
    (void)(self); /* the macro drops it where there is a GIL */                                                        \
    Py_BEGIN_CRITICAL_SECTION(self)
#define LEAVE_SECTION() Py_END_CRITICAL_SECTION()
#else
#define ENTER_SECTION(self)                                                                                            \
    {                                                                                                                  \
        (void)(self);
#define LEAVE_SECTION() }
#endif

struct permit {
    struct permit *chain; /* the next under the same hash: younger ones first */
    struct permit *older, *newer;
    PyObject *holder; /* owned */
    uint64_t id;      /* of the lease */
    int64_t order;
};

static struct permit **bucket_of(const struct permits *p, const PyObject *holder) {
    uint64_t h = (uint64_t)(uintptr_t)holder * UINT64_C(0x9E3779B97F4A7C15);
    return &p->buckets[(h >> 32) & (p->bucket_count - 1)];
}

static bool grow(struct permits *p) {
    uint32_t count = p->bucket_count == 0 ? 4 : p->bucket_count * 2;
    struct permit **buckets = PyMem_Calloc(count, sizeof *buckets);
    if (buckets == NULL) {
        return p->bucket_count > 0; /* longer chains are slow and not wrong */
    }
    PyMem_Free(p->buckets);
    p->buckets = buckets;
    p->bucket_count = count;
    for (struct permit *one = p->oldest; one != NULL; one = one->newer) {
        struct permit **at = bucket_of(p, one->holder);
        one->chain = *at;
        *at = one;
    }
    return true;
}

bool permits_add(struct permits *p, PyObject *self, PyObject *holder, uint64_t id) {
    struct permit *one = PyMem_Malloc(sizeof *one);
    bool added = false;
    if (one == NULL) {
        return false;
    }
    ENTER_SECTION(self);
    if (p->count < (int64_t)p->bucket_count || grow(p)) {
        struct permit **at = bucket_of(p, holder);
        *one = (struct permit){.chain = *at, .older = p->newest, .holder = Py_NewRef(holder), .id = id};
        one->order = p->next_order++;
        *at = one;
        *(p->newest != NULL ? &p->newest->newer : &p->oldest) = one;
        p->newest = one;
        p->count++;
        added = true;
    }
    LEAVE_SECTION();
    if (!added) {
        PyMem_Free(one);
    }
    return added;
}

/* `at` leads to the entry in its chain. */
static void take_out(struct permits *p, struct permit **at) {
    struct permit *one = *at;
    *at = one->chain;
    *(one->older != NULL ? &one->older->newer : &p->oldest) = one->newer;
    *(one->newer != NULL ? &one->newer->older : &p->newest) = one->older;
    p->count--;
}

static void drop(struct permit *one) {
    if (one != NULL) {
        Py_DECREF(one->holder);
        PyMem_Free(one);
    }
}

bool permits_take_own(struct permits *p, PyObject *self, PyObject *holder, uint64_t *id) {
    struct permit *found = NULL;
    ENTER_SECTION(self);
    struct permit **at = p->bucket_count == 0 ? NULL : bucket_of(p, holder);
    while (at != NULL && *at != NULL && (*at)->holder != holder) {
        at = &(*at)->chain;
    }
    if (at != NULL && *at != NULL) {
        found = *at;
        *id = found->id;
        take_out(p, at);
    }
    LEAVE_SECTION();
    drop(found);
    return found != NULL;
}

PyObject *permits_next(struct permits *p, PyObject *self, int64_t *order, uint64_t *id) {
    PyObject *holder = NULL;
    ENTER_SECTION(self);
    struct permit *one = p->oldest;
    while (one != NULL && one->order <= *order) {
        one = one->newer;
    }
    if (one != NULL) {
        *order = one->order;
        *id = one->id;
        holder = Py_NewRef(one->holder);
    }
    LEAVE_SECTION();
    return holder;
}

bool permits_take(struct permits *p, PyObject *self, int64_t order) {
    struct permit *found = NULL;
    ENTER_SECTION(self);
    struct permit *one = p->oldest;
    while (one != NULL && one->order < order) {
        one = one->newer;
    }
    if (one != NULL && one->order == order) {
        struct permit **at = bucket_of(p, one->holder);
        while (*at != one) {
            at = &(*at)->chain;
        }
        found = one;
        take_out(p, at);
    }
    LEAVE_SECTION();
    drop(found);
    return found != NULL;
}

bool permits_are_many(const struct permits *p) {
    return p->count >= (p->prune_at > FIRST_PRUNE ? p->prune_at : FIRST_PRUNE);
}

void permits_pruned(struct permits *p) {
    p->prune_at = 2 * p->count;
}

void permits_clear(struct permits *p) {
    while (p->oldest != NULL) {
        struct permit *one = p->oldest;
        p->oldest = one->newer;
        drop(one);
    }
    PyMem_Free(p->buckets);
    *p = (struct permits){0};
}
