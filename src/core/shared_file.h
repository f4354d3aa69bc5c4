/* A file in shared memory: its name, its layout, and which of its processes live.
 *
 *   header      a page: what the file is, checked when it is opened; then the few words that change
 *   registry    a slot for each process that has registered
 *   records     64 bytes each, all zero at first: for semaphores
 *   buckets     see shared_bucket.h; the last of them are spare
 *
 * The layout follows from the size alone. It is worked out once, when the file is opened, and kept outside of the file: no
 * number that is read from the file later is used as an address before it was held against these bounds.
 *
 * A process has one mapping and one descriptor of a file, whoever opens it. It takes a number when it first needs one, and a
 * forked child another; numbers are not used again. A process lives while it holds a record lock on the byte of its slot. The kernel
 * drops that lock when the process ends, however it ends, and tells across pid namespaces. It also drops it when the process closes
 * the descriptor, as daemons do that close whatever is open (and any descriptor of the file, on systems whose locks belong to
 * processes and not to open file descriptions). So where the lock is gone, but a process of
 * that pid runs, the process is taken to live: which is safe, since who lives is robbed and who is dead is succeeded. */
#ifndef HEADWAY_SHARED_FILE_H
#define HEADWAY_SHARED_FILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "lock.h"

#define SHARED_LAYOUT_VERSION 2
#define SHARED_NAME_MAX 200 /* bytes */
#define SHARED_SIZE_MIN (INT64_C(128) << 10)
#define SHARED_SIZE_MAX (INT64_C(1) << 40)
#define SHARED_SIZE_DEFAULT (INT64_C(16) << 20)
#define SHARED_PROCESSES 1024 /* that have the file at the same time */
#define SHARED_NUMBER_MAX ((UINT32_C(1) << 30) - 1)

/* What went wrong: a sentence for the user. `code` tells errors apart that callers treat apart. */
enum shared_fault {
    SHARED_NO_FAULT,
    SHARED_BAD_NAME,
    SHARED_BAD_SIZE,
    SHARED_NO_ROOM,  /* the disk is full */
    SHARED_ABSENT,   /* there is no such file */
    SHARED_NOT_OURS, /* another user's, or open to others */
    SHARED_UNUSABLE, /* another version, truncated, corrupted, or of another boot */
    SHARED_CROWDED,  /* too many processes */
    SHARED_STOPPED,  /* a process is stopped at the wrong moment, and no spare bucket is left */
    SHARED_SYSTEM,   /* a system call failed */
    SHARED_NO_MEMORY,
};
struct shared_error {
    enum shared_fault fault;
    char text[600];
};

struct shared_layout {
    uint64_t registry_at, records_at, buckets_at; /* bytes from the start */
    uint32_t processes, records, buckets, spares;
};

#define SHARED_RECORD_BYTES 64
#define SHARED_BUCKET_BYTES 3200

/* The header. Everything before `checksum` is written once. */
struct shared_header {
    char magic[8];
    uint32_t version, bucket_bytes;
    uint64_t size;
    struct shared_layout layout;
    uint64_t hash_key[2];
    uint64_t
        boot[2]; /* which run of the machine, and which of its monotonic clocks: see shared_now; zeros: not known */
    int64_t clock_offset; /* the monotonic clock's, taken by the creator: one for all processes */
    uint64_t checksum;
    _Alignas(64) _Atomic uint32_t last_number; /* of processes */
    _Atomic uint32_t last_generation;          /* of robbed buckets */
    _Atomic uint64_t evictions;                /* live keys that made room */
};

struct shared_slot {
    _Atomic uint32_t number; /* 0: never used, or given up in order */
    _Atomic int32_t pid;
    _Atomic uint64_t pid_space; /* in which that pid counts; 0: not known */
};

struct shared_bucket;

struct shared_file {
    /* All of this is the process' own. */
    struct shared_file *next;
    int64_t references;
    dev_t device;
    ino_t inode;
    int descriptor;
    pid_t opened_by; /* which process opened the descriptor; a forked child inherits its parent's */
    bool created;    /* by this process, when it opened it first */
    uint64_t size;
    struct shared_layout layout;
    uint64_t hash_key[2];
    int64_t clock_shift; /* the file's time less clock_now() */
    struct lock register_lock;
    _Atomic uint32_t number; /* this process'; 0: none yet */
    uint32_t slot;
    char name[SHARED_NAME_MAX + 1];
    /* And these point into the file. */
    char *base;
    struct shared_header *header;
    struct shared_slot *registry;
    char *records; /* layout.records of SHARED_RECORD_BYTES; only shared code writes there, and reads with care */
    struct shared_bucket *buckets; /* layout.buckets, and behind them layout.spares */
};

/* Opens the file of that name, or makes it where there is none; of several who do so at once one makes it. `size` in bytes, 0 for
 * SHARED_SIZE_DEFAULT; a file that is there keeps its own. `make` false: only opens. NULL, and a sentence in *error. */
struct shared_file *shared_open(const char *name, size_t name_length, int64_t size, bool make,
                                struct shared_error *error);
void shared_close(struct shared_file *f);

/* Takes the name away. Who has the file keeps it; who opens the name next makes another. */
bool shared_remove(const char *name, size_t name_length, struct shared_error *error);

/* Does the name still stand for this file? */
bool shared_is_current(const struct shared_file *f);

/* Where the files are, and what their names begin with there. */
const char *shared_directory(void);
#define SHARED_PREFIX "headway."

/* Nanoseconds since the epoch, the same in all processes. */
int64_t shared_now(const struct shared_file *f);

/* Registers this process. 0, and a sentence in *error. Makes system calls; shared_number does only when it must. */
uint32_t shared_register(struct shared_file *f, struct shared_error *error);
static inline uint32_t shared_number(struct shared_file *f, struct shared_error *error) {
    uint32_t number = atomic_load_explicit(&f->number, memory_order_relaxed);
    return number != 0 ? number : shared_register(f, error);
}

/* Is the descriptor still the file's? Daemons close what is open, and the number may be another file's since. */
bool shared_descriptor_is_ours(const struct shared_file *f);

/* In a forked child: gives it a descriptor whose locks end with it, and with no other process. */
void shared_forked(struct shared_file *f);

/* Does the process of that number still live? Makes a system call. */
bool shared_lives(struct shared_file *f, uint32_t number);
/* Its pid, as it saw itself; 0 where that is not known. */
int shared_pid(struct shared_file *f, uint32_t number);
/* How many processes have the file now. */
int shared_processes(struct shared_file *f);

#endif
