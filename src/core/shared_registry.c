/* Which processes have a file in shared memory, and which of them live: see shared_file.h. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared_file.h"

/* Locks of the open file description where the system has them: they are not lost when the process closes another descriptor of the
 * file. A forked child shares the description, so `shared_forked` gives it one of its own. */
#ifdef F_OFD_SETLK
#define SET_LOCK F_OFD_SETLK
#define GET_LOCK F_OFD_GETLK
#else
#define SET_LOCK F_SETLK
#define GET_LOCK F_GETLK
#endif

static struct flock byte_of(const struct shared_file *f, uint32_t slot, short type) {
    return (struct flock){
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = (off_t)(f->layout.registry_at + slot * sizeof(struct shared_slot)),
        .l_len = 1,
    };
}

bool shared_descriptor_is_ours(const struct shared_file *f) {
    struct stat status;
    return fstat(f->descriptor, &status) == 0 && status.st_dev == f->device && status.st_ino == f->inode;
}

static bool open_again(struct shared_file *f) {
    char path[SHARED_NAME_MAX + 64];
    struct stat status;
    if (shared_descriptor_is_ours(f)) {
        return true;
    }
    snprintf(path, sizeof path, "%s/%s%s", shared_directory(), SHARED_PREFIX, f->name);
    if (stat(path, &status) != 0 || status.st_dev != f->device || status.st_ino != f->inode) {
        return false;
    }
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return false;
    }
    f->descriptor = fd;
    f->opened_by = getpid();
    return shared_descriptor_is_ours(f);
}

static uint64_t own_pid_space(void) {
    struct stat status;
    return stat("/proc/self/ns/pid", &status) == 0 ? (uint64_t)status.st_ino : 0;
}

static bool pid_exists(int pid) {
    return pid > 0 && (kill(pid, 0) == 0 || errno == EPERM);
}

/* A process that runs: not one that is gone, nor one that waits to be buried. */
static bool pid_runs(int pid) {
    if (!pid_exists(pid)) {
        return false;
    }
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return errno != ENOENT;
    }
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0) {
        return false;
    }
    text[length] = 0;
    const char *name_end = strrchr(text, ')'); /* the state follows the name, which may hold anything */
    return name_end == NULL || name_end[1] == 0 || (name_end[2] != 'Z' && name_end[2] != 'X');
}

static bool is_of_this_space(const struct shared_slot *s) {
    uint64_t space = atomic_load_explicit(&s->pid_space, memory_order_relaxed);
    return space != 0 && space == own_pid_space();
}

static bool runs_here(const struct shared_slot *s) {
    return is_of_this_space(s) && pid_runs(atomic_load_explicit(&s->pid, memory_order_relaxed));
}

/* Takes the byte of a slot, unless somebody lives there who has only lost the lock. */
static bool take_slot(struct shared_file *f, uint32_t slot) {
    struct flock lock = byte_of(f, slot, F_WRLCK);
    if (fcntl(f->descriptor, SET_LOCK, &lock) != 0) {
        return false;
    }
    const struct shared_slot *s = &f->registry[slot];
    if (atomic_load(&s->number) == 0 || !runs_here(s) || atomic_load(&s->pid) == getpid()) {
        return true;
    }
    lock.l_type = F_UNLCK;
    fcntl(f->descriptor, SET_LOCK, &lock);
    return false;
}

void shared_forked(struct shared_file *f) {
#ifdef F_OFD_SETLK
    char path[64];
    if (!shared_descriptor_is_ours(f)) {
        return;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", f->descriptor); /* the file may have no name any more */
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        close(f->descriptor);
        f->descriptor = fd;
        f->opened_by = getpid();
    }
#else
    f->opened_by = getpid();
#endif
}

/* A process that shares its open file description with another one would hold the other's locks as well, and two of them would take
 * the same slot. So a child opens the file before it registers, where no fork handler has done so or that could not. */
static bool has_description(struct shared_file *f, struct shared_error *error) {
    if (f->opened_by != getpid()) {
        shared_forked(f);
    }
    if (f->opened_by == getpid()) {
        return true;
    }
    error->fault = SHARED_SYSTEM;
    snprintf(error->text, sizeof error->text, "A forked process cannot open shared memory '%s' again: %s.", f->name,
             strerror(errno));
    return false;
}

static uint32_t register_here(struct shared_file *f, struct shared_error *error) {
    if (!open_again(f)) {
        error->fault = SHARED_SYSTEM;
        snprintf(error->text, sizeof error->text,
                 "The descriptor of shared memory '%s' was closed, and its file is gone. Make a new SharedMemoryStore.",
                 f->name);
        return 0;
    }
    if (!has_description(f, error)) {
        return 0;
    }
    uint32_t first = atomic_load_explicit(&f->header->last_number, memory_order_relaxed);
    for (uint32_t i = 0; i < f->layout.processes; i++) {
        uint32_t slot = (uint32_t)(((uint64_t)first + i) % f->layout.processes);
        if (!take_slot(f, slot)) {
            continue;
        }
        uint32_t number = atomic_fetch_add_explicit(&f->header->last_number, 1, memory_order_relaxed) + 1;
        if (number == 0 || number > SHARED_NUMBER_MAX) {
            break;
        }
        struct shared_slot *s = &f->registry[slot];
        atomic_store(&s->number, 0);
        atomic_store(&s->pid, (int32_t)getpid());
        atomic_store(&s->pid_space, own_pid_space());
        atomic_store(&s->number, number);
        f->slot = slot;
        return number;
    }
    error->fault = SHARED_CROWDED;
    snprintf(error->text, sizeof error->text,
             "Shared memory '%s' has no place for another process: %u have it open, or it has seen too many. Remove it "
             "and start again, or use another name for some of them.",
             f->name, (unsigned)f->layout.processes);
    return 0;
}

uint32_t shared_register(struct shared_file *f, struct shared_error *error) {
    lock_acquire(&f->register_lock);
    uint32_t number = atomic_load(&f->number);
    if (number == 0) {
        number = register_here(f, error);
        atomic_store(&f->number, number);
    }
    lock_release(&f->register_lock);
    return number;
}

static struct shared_slot *slot_of(struct shared_file *f, uint32_t number, uint32_t *index) {
    for (uint32_t i = 0; number != 0 && i < f->layout.processes; i++) {
        if (atomic_load_explicit(&f->registry[i].number, memory_order_relaxed) == number) {
            *index = i;
            return &f->registry[i];
        }
    }
    return NULL;
}

static bool is_locked(struct shared_file *f, uint32_t slot) {
    struct flock lock = byte_of(f, slot, F_WRLCK);
    return fcntl(f->descriptor, GET_LOCK, &lock) != 0 || lock.l_type != F_UNLCK;
}

bool shared_lives(struct shared_file *f, uint32_t number) {
    uint32_t slot;
    if (number == atomic_load_explicit(&f->number, memory_order_relaxed)) {
        return true;
    }
    struct shared_slot *s = slot_of(f, number, &slot);
    if (s == NULL) {
        return false;
    }
    if (shared_descriptor_is_ours(f) && is_locked(f, slot)) {
        /* A child of a process that is gone keeps its lock, where a system call made it that runs no fork handlers. */
        return !is_of_this_space(s) || pid_exists(atomic_load_explicit(&s->pid, memory_order_relaxed));
    }
    return runs_here(s);
}

int shared_pid(struct shared_file *f, uint32_t number) {
    uint32_t slot;
    struct shared_slot *s = slot_of(f, number, &slot);
    return s == NULL ? 0 : atomic_load_explicit(&s->pid, memory_order_relaxed);
}

int shared_processes(struct shared_file *f) {
    int count = 0;
    for (uint32_t i = 0; i < f->layout.processes; i++) {
        uint32_t number = atomic_load_explicit(&f->registry[i].number, memory_order_relaxed);
        count += number != 0 && shared_lives(f, number);
    }
    return count;
}
