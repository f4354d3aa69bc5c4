/* Values in a shared file: bytes under a key, read, and changed if nobody else has changed them since.
 *
 *     shared_value_read   the bytes, and the mark of this state of theirs
 *     shared_value_write  new bytes, if the mark is still the same
 *     shared_value_wait   sleeps until something has changed since a reading of `shared_value_changes`
 *
 * They live in the file's records: one says who may change something (a lock for all values: critical sections are a microsecond),
 * some are entries, of a key each, and the rest are pages, chained. New bytes go to pages that no entry leads to, and count from
 * the instant at which the entry leads to them, one word: who is killed in the midst has changed nothing. Which pages are free is
 * nowhere written; whoever needs some walks the chains of all entries. So there is nothing to repair.
 *
 * A process that is stopped in that microsecond holds up the others: they are told so after six times SHARED_PATIENCE_NS. */
#ifndef HEADWAY_SHARED_VALUES_H
#define HEADWAY_SHARED_VALUES_H

#include <stddef.h>

#include "shared_file.h"

enum shared_value_end {
    SHARED_VALUE_OK,
    SHARED_VALUE_CHANGED, /* somebody else has been there: read again */
    SHARED_VALUE_BUSY,    /* not patient, and not free at once */
    SHARED_VALUE_STOPPED, /* a process holds the lock and stands still: *holder is its number */
    SHARED_VALUE_FULL,    /* no room for so many bytes, or so many keys */
    SHARED_VALUE_FAILED,  /* this process cannot be registered: see *error */
};

/* The most bytes that a value may have in this file. */
size_t shared_value_max(const struct shared_file *f);
/* How many values there can be at a time. */
uint32_t shared_value_count(const struct shared_file *f);

/* Puts the value's length into *length, its first `room` bytes into `bytes`, and a mark into *mark. A key that is not there has length
 * 0 and a mark like any other. `patient`: may sleep; call it without the GIL then. */
enum shared_value_end shared_value_read(struct shared_file *f, const char *key, size_t key_length, bool patient,
                                        char *bytes, size_t room, size_t *length, uint64_t *mark, uint32_t *holder,
                                        struct shared_error *error);

/* Length 0 deletes the key. */
enum shared_value_end shared_value_write(struct shared_file *f, const char *key, size_t key_length, bool patient,
                                         const char *bytes, size_t length, uint64_t mark, uint32_t *holder,
                                         struct shared_error *error);

/* Counts the changes of all values. */
uint32_t shared_value_changes(const struct shared_file *f);

/* Sleeps until the count is another, for `longest_ns` at most, or until a signal comes. Call it without the GIL. */
void shared_value_wait(struct shared_file *f, uint32_t seen, int64_t longest_ns);

#endif
