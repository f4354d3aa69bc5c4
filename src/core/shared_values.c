/* Values in a shared file: see shared_values.h. */
#include "shared_values.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "shared_lock.h"
#include "siphash.h"

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Record 0. */
struct values_head {
    struct shared_lock lock;
    _Atomic uint32_t changes;
    _Atomic uint32_t sleepers;
};

/* The records after it. */
struct entry {
    _Atomic uint64_t hash[2];
    _Atomic uint64_t state; /* the number of changes in the high half; the first page in the low, 0: no value */
};

/* All others. */
#define PAGE_BYTES (SHARED_RECORD_BYTES - sizeof(uint32_t))
struct page {
    uint32_t next; /* 0: none */
    char bytes[PAGE_BYTES];
};

_Static_assert(sizeof(struct values_head) <= SHARED_RECORD_BYTES, "the head is one record");
_Static_assert(sizeof(struct entry) <= SHARED_RECORD_BYTES, "an entry is one record");
_Static_assert(sizeof(struct page) == SHARED_RECORD_BYTES, "a page is one record");

/* A value begins with its length. */
#define LENGTH_BYTES sizeof(uint32_t)
/* Of the records one in so many is an entry. */
#define RECORDS_AN_ENTRY 16
/* Of SHARED_PATIENCE_NS, how often a holder that stands still is waited for: longer than a container that has used up its share of the
 * processor has to wait for more, which is 100 ms at most. */
#define STOPPED_ROUNDS 6
/* More records are not used: which pages are in use is noted on the stack. */
#define RECORDS_MAX 65536

static uint32_t records(const struct shared_file *f) {
    return f->layout.records < RECORDS_MAX ? f->layout.records : RECORDS_MAX;
}

uint32_t shared_value_count(const struct shared_file *f) {
    return records(f) / RECORDS_AN_ENTRY;
}

static struct values_head *head_of(const struct shared_file *f) {
    return (struct values_head *)(void *)f->records;
}

static struct entry *entry_at(const struct shared_file *f, uint32_t i) {
    return (struct entry *)(void *)(f->records + (size_t)(1 + i) * SHARED_RECORD_BYTES);
}

static uint32_t first_page(const struct shared_file *f) {
    return 1 + shared_value_count(f);
}

/* NULL: that is no page. */
static struct page *page_at(const struct shared_file *f, uint32_t number) {
    if (number < first_page(f) || number >= records(f)) {
        return NULL;
    }
    return (struct page *)(void *)(f->records + (size_t)number * SHARED_RECORD_BYTES);
}

static uint32_t pages_for(size_t length) {
    return (uint32_t)((length + LENGTH_BYTES + PAGE_BYTES - 1) / PAGE_BYTES);
}

size_t shared_value_max(const struct shared_file *f) {
    uint32_t pages = records(f) > first_page(f) ? records(f) - first_page(f) : 0;
    /* The old value stays until the new one is there. */
    return pages < 2 ? 0 : (size_t)(pages / 2) * PAGE_BYTES - LENGTH_BYTES;
}

/* ---- the lock ---- */

static enum shared_value_end values_enter(struct shared_file *f, bool patient, uint64_t *word, uint32_t *holder,
                                          struct shared_error *error) {
    uint32_t me = shared_number(f, error);
    if (me == 0 || shared_value_count(f) == 0) {
        return me == 0 ? SHARED_VALUE_FAILED : SHARED_VALUE_FULL;
    }
    for (int round = 0; round < STOPPED_ROUNDS; round++) {
        switch (shared_lock_take(f, &head_of(f)->lock, me, patient, word)) {
        case SHARED_HELD:
            return SHARED_VALUE_OK;
        case SHARED_BUSY:
            return SHARED_VALUE_BUSY;
        case SHARED_ELSEWHERE: /* no value is ever moved */
            error->fault = SHARED_UNUSABLE;
            snprintf(error->text, sizeof error->text,
                     "Shared memory '%s' is damaged: its values lead nowhere. Remove it with `headway shm remove`, and "
                     "start its processes again.",
                     f->name);
            return SHARED_VALUE_FAILED;
        case SHARED_STUCK: /* it cannot be robbed as a bucket's holder can: wait, it may have no processor just now */
            break;
        }
    }
    *holder = shared_holder(*word);
    return SHARED_VALUE_STOPPED;
}

static void values_leave(struct shared_file *f, uint64_t word) {
    shared_lock_release(&head_of(f)->lock, word, (uint32_t)word);
}

/* ---- entries; all that follows is done under the lock ---- */

struct hash {
    uint64_t half[2];
};

static struct hash hash_of(const struct shared_file *f, const char *key, size_t length) {
    struct hash h;
    siphash128(f->hash_key, key, length, h.half);
    h.half[0] |= 1; /* zeros stand for an entry that was never used */
    return h;
}

static uint64_t load(const _Atomic uint64_t *word) {
    return atomic_load_explicit(word, memory_order_acquire);
}

static void put(_Atomic uint64_t *word, uint64_t value) {
    atomic_store_explicit(word, value, memory_order_release);
}

/* The key's, or NULL. `*spare`: the first one without a value, or NULL. */
static struct entry *values_find(const struct shared_file *f, const struct hash *h, struct entry **spare) {
    *spare = NULL;
    for (uint32_t i = 0; i < shared_value_count(f); i++) {
        struct entry *e = entry_at(f, i);
        if (load(&e->hash[0]) == h->half[0] && load(&e->hash[1]) == h->half[1]) {
            return e;
        }
        if (*spare == NULL && (uint32_t)load(&e->state) == 0) {
            *spare = e;
        }
        if (load(&e->hash[0]) == 0) {
            break; /* entries are taken in order: behind this one there are none */
        }
    }
    return NULL;
}

/* Copies a chain; what does not lead to pages is an empty value. */
static size_t copy_out(const struct shared_file *f, uint32_t number, char *bytes, size_t room) {
    uint32_t length = 0;
    size_t at = 0; /* bytes of the chain behind us, the length's own among them */
    for (uint32_t steps = 0; steps < records(f); steps++) {
        const struct page *p = page_at(f, number);
        if (p == NULL) {
            return 0;
        }
        size_t skip = 0;
        if (at == 0) {
            memcpy(&length, p->bytes, LENGTH_BYTES);
            if (length == 0 || length > shared_value_max(f)) {
                return 0;
            }
            skip = LENGTH_BYTES;
        }
        size_t from = at + skip - LENGTH_BYTES;
        size_t part = length - from < PAGE_BYTES - skip ? length - from : PAGE_BYTES - skip;
        if (from < room) {
            memcpy(bytes + from, p->bytes + skip, part < room - from ? part : room - from);
        }
        at += PAGE_BYTES;
        if (from + part == length) {
            return length;
        }
        number = p->next;
    }
    return 0;
}

static void mark_used(const struct shared_file *f, uint64_t *used) {
    uint32_t steps = 0;
    for (uint32_t i = 0; i < shared_value_count(f); i++) {
        uint32_t number = (uint32_t)load(&entry_at(f, i)->state);
        if (load(&entry_at(f, i)->hash[0]) == 0) {
            break;
        }
        for (struct page *p; (p = page_at(f, number)) != NULL && steps < records(f); steps++) {
            used[number / 64] |= UINT64_C(1) << (number % 64);
            number = p->next;
        }
    }
}

/* Writes the value to pages that are free. Its first page, or 0: there are not so many. */
static uint32_t copy_in(const struct shared_file *f, const char *bytes, size_t length) {
    uint64_t used[RECORDS_MAX / 64];
    memset(used, 0, sizeof used);
    mark_used(f, used);
    uint32_t wanted = pages_for(length), first = 0, length32 = (uint32_t)length;
    struct page *last = NULL;
    size_t from = 0;
    for (uint32_t number = first_page(f); number < records(f) && wanted > 0; number++) {
        if (used[number / 64] >> (number % 64) & 1) {
            continue;
        }
        struct page *p = page_at(f, number);
        size_t skip = 0;
        if (last == NULL) {
            first = number;
            memcpy(p->bytes, &length32, LENGTH_BYTES);
            skip = LENGTH_BYTES;
        } else {
            last->next = number;
        }
        size_t part = length - from < PAGE_BYTES - skip ? length - from : PAGE_BYTES - skip;
        memcpy(p->bytes + skip, bytes + from, part);
        from += part;
        p->next = 0;
        last = p;
        wanted--;
    }
    return wanted == 0 ? first : 0;
}

/* ---- waking ---- */

static void tell(struct shared_file *f) {
    struct values_head *h = head_of(f);
    atomic_fetch_add_explicit(&h->changes, 1, memory_order_seq_cst);
#if defined(__linux__)
    if (atomic_load_explicit(&h->sleepers, memory_order_seq_cst) > 0) {
        syscall(SYS_futex, &h->changes, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
    }
#endif
}

uint32_t shared_value_changes(const struct shared_file *f) {
    return atomic_load_explicit(&head_of(f)->changes, memory_order_seq_cst);
}

void shared_value_wait(struct shared_file *f, uint32_t seen, int64_t longest_ns) {
    struct values_head *h = head_of(f);
    if (longest_ns <= 0) {
        return;
    }
    /* Who is killed here stays counted, which costs the others a system call for each change. */
    atomic_fetch_add_explicit(&h->sleepers, 1, memory_order_seq_cst);
    struct timespec longest = {.tv_sec = (time_t)(longest_ns / NS_PER_S), .tv_nsec = (long)(longest_ns % NS_PER_S)};
#if defined(__linux__)
    syscall(SYS_futex, &h->changes, FUTEX_WAIT, seen, &longest, NULL, 0);
#else
    struct timespec moment = {.tv_sec = 0, .tv_nsec = NS_PER_MS};
    if (shared_value_changes(f) == seen) {
        nanosleep(longest_ns < NS_PER_MS ? &longest : &moment, NULL);
    }
#endif
    atomic_fetch_sub_explicit(&h->sleepers, 1, memory_order_seq_cst);
}

/* ---- calls ---- */

/* A key without an entry has the mark 0, and an entry's first state is 1: so the two are told apart. */
static uint64_t mark_of(const struct entry *e) {
    return e == NULL ? 0 : load(&e->state) >> 32;
}

enum shared_value_end shared_value_read(struct shared_file *f, const char *key, size_t key_length, bool patient,
                                        char *bytes, size_t room, size_t *length, uint64_t *mark, uint32_t *holder,
                                        struct shared_error *error) {
    struct hash h = hash_of(f, key, key_length);
    struct entry *spare;
    uint64_t word;
    enum shared_value_end end = values_enter(f, patient, &word, holder, error);
    if (end != SHARED_VALUE_OK) {
        return end;
    }
    struct entry *e = values_find(f, &h, &spare);
    uint32_t page = e == NULL ? 0 : (uint32_t)load(&e->state);
    *length = page == 0 ? 0 : copy_out(f, page, bytes, room);
    *mark = mark_of(e);
    values_leave(f, word);
    return SHARED_VALUE_OK;
}

enum shared_value_end shared_value_write(struct shared_file *f, const char *key, size_t key_length, bool patient,
                                         const char *bytes, size_t length, uint64_t mark, uint32_t *holder,
                                         struct shared_error *error) {
    struct hash h = hash_of(f, key, key_length);
    struct entry *spare;
    uint64_t word;
    if (length > shared_value_max(f)) {
        return SHARED_VALUE_FULL;
    }
    enum shared_value_end end = values_enter(f, patient, &word, holder, error);
    if (end != SHARED_VALUE_OK) {
        return end;
    }
    struct entry *e = values_find(f, &h, &spare);
    uint32_t page = 0;
    if (mark_of(e) != mark) {
        end = SHARED_VALUE_CHANGED;
    } else if (length > 0 && ((e == NULL && spare == NULL) || (page = copy_in(f, bytes, length)) == 0)) {
        end = SHARED_VALUE_FULL;
    } else if (e != NULL || length > 0) {
        if (e == NULL) { /* it has no value: what it is called may change */
            e = spare;
            put(&e->hash[1], 0);
            put(&e->hash[0], h.half[0]);
            put(&e->hash[1], h.half[1]);
        }
        uint32_t changes = (uint32_t)(load(&e->state) >> 32) + 1;
        changes = changes != 0 ? changes : 1;
        put(&e->state, (uint64_t)changes << 32 | page); /* from here on it counts */
    }
    values_leave(f, word);
    if (end == SHARED_VALUE_OK) {
        tell(f);
    }
    return end;
}
