/* The register of a store's spaces: see spaces.h. */
#include "spaces.h"

#include <stdlib.h>
#include <string.h>

#include "fork.h"

#define FIRST_NAMES 1024 /* before names are forgotten for the first time */
#define NO_SPACE UINT32_MAX

struct space {
    char *name; /* NULL: the number is free */
    size_t length;
    uint64_t hash;
    uint32_t next; /* of the same bucket, or the next free number */
    uint32_t uses; /* by plans */
    bool taken;    /* since the last look at the table began */
};

struct spaces {
    struct lock lock;
    _Atomic int64_t references;
    struct space *all; /* by number */
    uint32_t count, room, names, free;
    uint32_t *buckets;
    uint32_t bucket_count; /* a power of two */
    uint32_t most;         /* names before some are forgotten */
    size_t name_bytes;
    bool forgetting; /* by another thread */
    struct fork_owner fork;
};

static uint64_t hash_of(const char *name, size_t length) { /* FNV-1a */
    uint64_t h = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < length; i++) {
        h = (h ^ (unsigned char)name[i]) * UINT64_C(1099511628211);
    }
    return h ^ h >> 32;
}

/* ---- life ---- */

static struct spaces *of_fork(struct fork_owner *o) {
    return (struct spaces *)((char *)o - offsetof(struct spaces, fork));
}

static void fork_take(struct fork_owner *o) {
    lock_acquire(&of_fork(o)->lock);
}

static void fork_give(struct fork_owner *o) {
    lock_release(&of_fork(o)->lock);
}

static void fork_child(struct fork_owner *o) {
    lock_init(&of_fork(o)->lock);
    of_fork(o)->forgetting = false;
}

struct spaces *spaces_new(void) {
    struct spaces *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return NULL;
    }
    lock_init(&r->lock);
    atomic_init(&r->references, 1);
    r->free = NO_SPACE;
    r->most = FIRST_NAMES;
    r->fork = (struct fork_owner){.take = fork_take, .give = fork_give, .child = fork_child};
    fork_register(&r->fork);
    return r;
}

void spaces_keep(struct spaces *r) {
    atomic_fetch_add(&r->references, 1);
}

void spaces_release(struct spaces *r) {
    if (atomic_fetch_sub(&r->references, 1) > 1) {
        return;
    }
    fork_forget(&r->fork);
    for (uint32_t i = 0; i < r->count; i++) {
        free(r->all[i].name);
    }
    free(r->all);
    free(r->buckets);
    free(r);
}

/* ---- names ---- */

static uint32_t *bucket_of(struct spaces *r, uint64_t hash) {
    return &r->buckets[hash & (r->bucket_count - 1)];
}

/* Room for one more name. */
static bool grow(struct spaces *r) {
    if (r->names == r->bucket_count) {
        uint32_t count = r->bucket_count == 0 ? 8 : r->bucket_count * 2;
        uint32_t *buckets = malloc(count * sizeof *buckets);
        if (buckets == NULL) {
            return false;
        }
        memset(buckets, 0xFF, count * sizeof *buckets);
        free(r->buckets);
        r->buckets = buckets;
        r->bucket_count = count;
        for (uint32_t i = 0; i < r->count; i++) {
            if (r->all[i].name != NULL) {
                uint32_t *at = bucket_of(r, r->all[i].hash);
                r->all[i].next = *at;
                *at = i;
            }
        }
    }
    if (r->free == NO_SPACE && r->count == r->room) {
        uint32_t room = r->room == 0 ? 8 : r->room * 2;
        struct space *all = realloc(r->all, room * sizeof *all);
        if (all == NULL) {
            return false;
        }
        r->all = all;
        r->room = room;
    }
    return true;
}

static enum spaces_end space_take(struct spaces *r, struct table *t, const char *name, size_t length,
                                  size_t prefix_length, uint32_t *number) {
    uint64_t hash = hash_of(name, length);
    uint32_t n = r->bucket_count == 0 ? NO_SPACE : *bucket_of(r, hash);
    while (n != NO_SPACE &&
           !(r->all[n].hash == hash && r->all[n].length == length && memcmp(r->all[n].name, name, length) == 0)) {
        n = r->all[n].next;
    }
    if (n == NO_SPACE) {
        if (r->free == NO_SPACE && r->count == SPACE_MAX) {
            return SPACES_FULL;
        }
        char *copy = malloc(length + 1);
        uint32_t group = (uint32_t)hash_of(name, prefix_length);
        if (copy == NULL || !grow(r) || !table_set_group(t, r->free != NO_SPACE ? r->free : r->count, group)) {
            free(copy);
            return SPACES_NO_MEMORY;
        }
        memcpy(copy, name, length);
        copy[length] = 0;
        n = r->free;
        if (n != NO_SPACE) {
            r->free = r->all[n].next;
        } else {
            n = r->count++;
        }
        uint32_t *at = bucket_of(r, hash);
        r->all[n] = (struct space){.name = copy, .length = length, .hash = hash, .next = *at};
        *at = n;
        r->names++;
        r->name_bytes += length + 1;
    }
    r->all[n].uses++;
    r->all[n].taken = true;
    *number = n;
    return SPACES_OK;
}

static void forget(struct spaces *r, uint32_t n) {
    struct space *s = &r->all[n];
    uint32_t *at = bucket_of(r, s->hash);
    while (*at != n) {
        at = &r->all[*at].next;
    }
    *at = s->next;
    r->names--;
    r->name_bytes -= s->length + 1;
    free(s->name);
    *s = (struct space){.next = r->free};
    r->free = n;
}

/* Forgets the names that no plan uses and under which the table holds no key. The table is looked through without the lock of the
 * register, so a name that was taken meanwhile is kept. */
static void forget_unused(struct spaces *r, struct table *t, int64_t now) {
    lock_acquire(&r->lock);
    bool mine = r->names >= r->most && !r->forgetting;
    uint32_t count = r->count;
    for (uint32_t i = 0; mine && i < count; i++) {
        r->all[i].taken = false;
    }
    r->forgetting = r->forgetting || mine;
    lock_release(&r->lock);
    uint64_t *held = mine ? calloc(count / 64 + 1, sizeof *held) : NULL;
    if (held != NULL) {
        table_sweep(t, now);
        table_mark_spaces(t, held, count);
    }
    if (mine) {
        lock_acquire(&r->lock);
        for (uint32_t i = 0; held != NULL && i < count; i++) {
            const struct space *s = &r->all[i];
            if (s->name != NULL && s->uses == 0 && !s->taken && (held[i / 64] >> i % 64 & 1) == 0) {
                forget(r, i);
            }
        }
        r->most = r->names * 2 > FIRST_NAMES ? r->names * 2 : FIRST_NAMES;
        r->forgetting = false;
        lock_release(&r->lock);
        free(held);
    }
}

enum spaces_end spaces_take(struct spaces *r, struct table *t, const char *name, size_t length, size_t prefix_length,
                            int64_t now, uint32_t *number) {
    lock_acquire(&r->lock);
    enum spaces_end end = space_take(r, t, name, length, prefix_length, number);
    bool many = r->names >= r->most;
    lock_release(&r->lock);
    if (many) {
        forget_unused(r, t, now);
    }
    return end;
}

void spaces_drop(struct spaces *r, uint32_t number) {
    lock_acquire(&r->lock);
    r->all[number].uses--;
    /* Its plan may have put a key into a shard that a look at the table, which is under way, has passed. */
    r->all[number].taken = true;
    lock_release(&r->lock);
}

size_t spaces_bytes(struct spaces *r) {
    lock_acquire(&r->lock);
    size_t bytes = r->room * sizeof *r->all + r->bucket_count * sizeof *r->buckets + r->name_bytes;
    lock_release(&r->lock);
    return bytes;
}
