/* Opening, making and removing a file in shared memory: see shared_file.h. Who lives is in shared_registry.c. */
#include "shared_file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#if defined(__APPLE__)
#include <sys/random.h>
#endif

#include "clock.h"
#include "fork.h"
#include "siphash.h"

#define PAGE 4096
#define REGISTRY_AT PAGE
#define RECORDS_AT (REGISTRY_AT + SHARED_PROCESSES * sizeof(struct shared_slot))
#define SPARES_MAX 64
#define SPARES_MIN 4
#define TRIES 64

static const char magic[8] = "headway";
static const uint64_t no_key[2];

_Static_assert(sizeof(struct shared_header) <= PAGE, "the header is a page");
_Static_assert(sizeof(struct shared_slot) == 16, "the registry has no gaps");

/* ---- errors ---- */

__attribute__((format(printf, 3, 4))) static bool fail(struct shared_error *error, enum shared_fault fault,
                                                       const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    error->fault = fault;
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    return false;
}

static bool fail_system(struct shared_error *error, const char *what, const char *path) {
    int code = errno;
    return fail(error, SHARED_SYSTEM, "Cannot %s %s: %s.", what, path, strerror(code));
}

/* ---- names ---- */

const char *shared_directory(void) {
#if defined(__linux__)
    return access("/dev/shm", X_OK) == 0 ? "/dev/shm" : "/tmp";
#else
    return "/tmp"; /* a mapped file: its pages are shared as well, and record locks work */
#endif
}

struct path {
    char text[SHARED_NAME_MAX + 64];
};

static bool path_of(const char *name, size_t length, struct path *path, struct shared_error *error) {
    const char *wanted = "must be 1 to 200 bytes without '/', control characters or a '.' in front, such as 'limits'";
    bool good = length > 0 && length <= SHARED_NAME_MAX && name[0] != '.';
    for (size_t i = 0; i < length && good; i++) {
        good = (unsigned char)name[i] >= ' ' && name[i] != '/' && name[i] != 127;
    }
    if (!good) {
        char shown[128] = "";
        for (size_t i = 0, n = 0; i < length && n + 5 < sizeof shown; i++) {
            unsigned char c = (unsigned char)name[i];
            n += (size_t)snprintf(shown + n, sizeof shown - n, c >= ' ' && c < 127 ? "%c" : "\\x%02x", c);
        }
        return fail(error, SHARED_BAD_NAME, "Invalid name: '%s', %s.", shown, wanted);
    }
    snprintf(path->text, sizeof path->text, "%s/%s%.*s", shared_directory(), SHARED_PREFIX, (int)length, name);
    return true;
}

/* ---- the layout ---- */

static struct shared_layout layout_of(uint64_t size) {
    struct shared_layout at = {.registry_at = REGISTRY_AT, .records_at = RECORDS_AT, .processes = SHARED_PROCESSES};
    uint64_t records = size / 32 / SHARED_RECORD_BYTES;
    at.records = (uint32_t)(records < UINT32_MAX ? records : UINT32_MAX);
    uint64_t end = at.records_at + (uint64_t)at.records * SHARED_RECORD_BYTES;
    at.buckets_at = (end + PAGE - 1) / PAGE * PAGE;
    uint64_t all = (size - at.buckets_at) / SHARED_BUCKET_BYTES;
    all = all <= SHARED_NUMBER_MAX ? all : SHARED_NUMBER_MAX; /* a MOVED word has 30 bits for where to */
    uint64_t spares = all / 16;
    at.spares = (uint32_t)(spares < SPARES_MIN ? SPARES_MIN : spares > SPARES_MAX ? SPARES_MAX : spares);
    at.buckets = (uint32_t)all - at.spares;
    return at;
}

static bool layout_equal(const struct shared_layout *a, const struct shared_layout *b) {
    return a->registry_at == b->registry_at && a->records_at == b->records_at && a->buckets_at == b->buckets_at &&
           a->processes == b->processes && a->records == b->records && a->buckets == b->buckets &&
           a->spares == b->spares;
}

static uint64_t checksum_of(const struct shared_header *h) {
    uint64_t sum[2];
    siphash128(no_key, h, offsetof(struct shared_header, checksum), sum);
    return sum[0];
}

/* What tells one run of the machine, and one of its monotonic clocks, from another; zeros where nothing tells. */
static void read_boot(uint64_t boot[2]) {
    static const char *const files[] = {"/proc/sys/kernel/random/boot_id", "/proc/self/timens_offsets"};
    char text[256];
    size_t length = 0;
    boot[0] = boot[1] = 0;
    for (int i = 0; i < 2; i++) {
        int fd = open(files[i], O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            ssize_t got = read(fd, text + length, sizeof text - length);
            length += got > 0 ? (size_t)got : 0;
            close(fd);
        } else if (i == 0) {
            return;
        }
    }
    siphash128(no_key, text, length, boot);
}

static bool check_header(const struct shared_header *h, uint64_t size, const char *path, struct shared_error *error) {
    const char *cure = "Remove it with `headway shm remove`, or use another name.";
    uint64_t boot[2];
    if (memcmp(h->magic, magic, sizeof magic) != 0) {
        return fail(error, SHARED_UNUSABLE, "%s is not a file of headway. Use another name.", path);
    }
    if (h->version != SHARED_LAYOUT_VERSION) {
        return fail(error, SHARED_UNUSABLE, "%s is of layout version %u, and this headway uses version %d. %s", path,
                    (unsigned)h->version, SHARED_LAYOUT_VERSION, cure);
    }
    if (h->checksum != checksum_of(h)) {
        return fail(error, SHARED_UNUSABLE, "%s is damaged: its header does not add up. %s", path, cure);
    }
    if (h->size != size) {
        return fail(error, SHARED_UNUSABLE, "%s is damaged: it has %llu bytes and should have %llu. %s", path,
                    (unsigned long long)size, (unsigned long long)h->size, cure);
    }
    struct shared_layout layout = layout_of(size);
    if (size < SHARED_SIZE_MIN || size > SHARED_SIZE_MAX || h->bucket_bytes != SHARED_BUCKET_BYTES ||
        !layout_equal(&h->layout, &layout) || h->clock_offset <= -CLOCK_END || h->clock_offset >= CLOCK_END) {
        return fail(error, SHARED_UNUSABLE, "%s is laid out for another build of headway. %s", path, cure);
    }
    read_boot(boot);
    if ((boot[0] | boot[1]) != 0 && (h->boot[0] | h->boot[1]) != 0 &&
        (boot[0] != h->boot[0] || boot[1] != h->boot[1])) {
        return fail(error, SHARED_UNUSABLE,
                    "%s was made before the machine was restarted, or in another time namespace: its times mean "
                    "nothing here. %s",
                    path, cure);
    }
    return true;
}

/* ---- making: under no name until it is whole ---- */

static int64_t monotonic_offset(void) {
    return atomic_load_explicit(&clock_offset_ns, memory_order_relaxed);
}

static bool reserve(int fd, uint64_t size, struct shared_error *error) {
    struct statvfs disk;
    int code;
    if (fstatvfs(fd, &disk) == 0 && (uint64_t)disk.f_bavail * disk.f_frsize < size) {
        code = ENOSPC;
    } else {
#if defined(__APPLE__)
        static const char zeros[PAGE];
        code = 0;
        for (uint64_t at = 0; at < size && code == 0; at += PAGE) {
            code = pwrite(fd, zeros, PAGE, (off_t)at) == PAGE ? 0 : errno != 0 ? errno : ENOSPC;
        }
#else
        do {
            code = posix_fallocate(fd, 0, (off_t)size);
        } while (code == EINTR);
#endif
    }
    if (code == 0) {
        return true;
    }
    if (code == ENOSPC && fstatvfs(fd, &disk) == 0) {
        return fail(error, SHARED_NO_ROOM,
                    "Invalid size: %llu bytes, and %s has %llu left. Give a smaller one, or make %s larger.",
                    (unsigned long long)size, shared_directory(), (unsigned long long)disk.f_bavail * disk.f_frsize,
                    shared_directory());
    }
    return fail(error, code == ENOSPC || code == EFBIG || code == ENOMEM ? SHARED_NO_ROOM : SHARED_SYSTEM,
                "Invalid size: %llu bytes cannot be had in %s: %s.", (unsigned long long)size, shared_directory(),
                strerror(code));
}

static bool write_header(int fd, uint64_t size, struct shared_error *error) {
    struct shared_header h;
    memset(&h, 0, sizeof h); /* gaps too: they are summed */
    memcpy(h.magic, magic, sizeof magic);
    h.version = SHARED_LAYOUT_VERSION;
    h.bucket_bytes = SHARED_BUCKET_BYTES;
    h.size = size;
    h.layout = layout_of(size);
    h.clock_offset = monotonic_offset();
    read_boot(h.boot);
    if (getentropy(h.hash_key, sizeof h.hash_key) != 0) {
        return fail_system(error, "get random bytes for", shared_directory());
    }
    h.checksum = checksum_of(&h);
    if (pwrite(fd, &h, sizeof h, 0) != sizeof h) {
        return fail_system(error, "write to", shared_directory());
    }
    return true;
}

/* Gives the file its name, unless somebody else was first: true as well, the name exists. */
static bool put_in_place(int fd, const char *temporary, const char *path, struct shared_error *error) {
    int end;
    if (temporary[0] != 0) {
        end = link(temporary, path);
    } else {
        char own[64];
        snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
        end = linkat(AT_FDCWD, own, AT_FDCWD, path, AT_SYMLINK_FOLLOW);
    }
    return end == 0 || errno == EEXIST || fail_system(error, "make", path);
}

static bool make_file(const char *path, uint64_t size, struct shared_error *error) {
    char temporary[128] = "";
    int fd = -1;
    bool done = false;
#if defined(O_TMPFILE)
    if (access("/proc/self/fd", X_OK) == 0) { /* nothing is left behind by who is killed in here */
        fd = open(shared_directory(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    }
#endif
    if (fd < 0) {
        snprintf(temporary, sizeof temporary, "%s/.%smaking.XXXXXX", shared_directory(), SHARED_PREFIX);
        fd = mkstemp(temporary);
        if (fd < 0) {
            return fail_system(error, "make a file in", shared_directory());
        }
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    if (fchmod(fd, 0600) != 0) { /* whatever the umask is */
        fail_system(error, "set the permissions of", path);
    } else {
        done = reserve(fd, size, error) && write_header(fd, size, error) && put_in_place(fd, temporary, path, error);
    }
    if (temporary[0] != 0) {
        unlink(temporary);
    }
    close(fd);
    return done;
}

/* ---- the files that this process has open ---- */

static pthread_mutex_t files_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t files_once = PTHREAD_ONCE_INIT;
static struct shared_file *files;

static void fork_take(struct fork_owner *o) {
    (void)o;
    pthread_mutex_lock(&files_mutex);
}

static void fork_give(struct fork_owner *o) {
    (void)o;
    pthread_mutex_unlock(&files_mutex);
}

static void fork_child(struct fork_owner *o) {
    (void)o;
    for (struct shared_file *f = files; f != NULL; f = f->next) {
        lock_init(&f->register_lock);
        atomic_store(&f->number, 0); /* the number is the parent's */
        shared_forked(f);
    }
    pthread_mutex_unlock(&files_mutex);
}

static struct fork_owner files_fork = {.take = fork_take, .give = fork_give, .child = fork_child};

static void files_start(void) {
    fork_register(&files_fork);
}

static struct shared_file *file_known(const struct stat *status) {
    for (struct shared_file *f = files; f != NULL; f = f->next) {
        if (f->device == status->st_dev && f->inode == status->st_ino) {
            return f;
        }
    }
    return NULL;
}

static bool check_status(const struct stat *status, const char *path, struct shared_error *error) {
    if (!S_ISREG(status->st_mode)) {
        return fail(error, SHARED_UNUSABLE, "%s is not a regular file. Use another name.", path);
    }
    if (status->st_uid != geteuid()) {
        return fail(error, SHARED_NOT_OURS,
                    "%s belongs to user %ld, and this process is of user %ld. Use another name, or one user for all "
                    "processes.",
                    path, (long)status->st_uid, (long)geteuid());
    }
    if ((status->st_mode & 077) != 0) {
        return fail(error, SHARED_NOT_OURS, "%s is open to other users (mode %03o), must be 600: run `chmod 600 %s`.",
                    path, (unsigned)status->st_mode & 0777, path);
    }
    if ((uint64_t)status->st_size < sizeof(struct shared_header)) {
        return fail(error, SHARED_UNUSABLE,
                    "%s is damaged: it has %lld bytes only. Remove it with `headway shm remove`, or use another name.",
                    path, (long long)status->st_size);
    }
    return true;
}

static struct shared_file *map_file(int fd, const struct stat *status, const char *path, struct shared_error *error) {
    struct shared_header header;
    if (pread(fd, &header, sizeof header, 0) != sizeof header) {
        fail_system(error, "read", path);
        return NULL;
    }
    if (!check_header(&header, (uint64_t)status->st_size, path, error)) {
        return NULL;
    }
    struct shared_file *f = calloc(1, sizeof *f);
    if (f == NULL) {
        fail(error, SHARED_NO_MEMORY, "No memory for %s.", path);
        return NULL;
    }
    void *base = mmap(NULL, (size_t)header.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        fail_system(error, "map", path);
        free(f);
        return NULL;
    }
    f->references = 1;
    f->device = status->st_dev;
    f->inode = status->st_ino;
    f->descriptor = fd;
    f->opened_by = getpid();
    f->size = header.size;
    f->layout = header.layout;
    memcpy(f->hash_key, header.hash_key, sizeof f->hash_key);
    f->clock_shift = header.clock_offset - monotonic_offset();
    lock_init(&f->register_lock);
    f->base = base;
    f->header = base;
    f->registry = (struct shared_slot *)(void *)(f->base + f->layout.registry_at);
    f->records = f->base + f->layout.records_at;
    f->buckets = (struct shared_bucket *)(void *)(f->base + f->layout.buckets_at);
    return f;
}

/* NULL with error->fault SHARED_ABSENT: there is no such file. */
static struct shared_file *open_file(const char *path, struct shared_error *error) {
    struct stat status;
    /* Looked at by name first: to open a file that is open already, and to close it again, would drop its locks. */
    if (stat(path, &status) == 0 && file_known(&status) != NULL) {
        struct shared_file *f = file_known(&status);
        f->references++;
        return f;
    }
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) {
        fail(error, SHARED_ABSENT, "There is no %s.", path);
        return NULL;
    }
    if (fd < 0 && (errno == EACCES || errno == EPERM) && stat(path, &status) == 0) {
        if (check_status(&status, path, error)) {
            fail(error, SHARED_NOT_OURS, "%s must not be opened: its mode is %03o, must be 600.", path,
                 (unsigned)status.st_mode & 0777);
        }
        return NULL;
    }
    if (fd < 0) {
        fail_system(error, "open", path);
        return NULL;
    }
    if (fstat(fd, &status) != 0) {
        fail_system(error, "look at", path);
        close(fd);
        return NULL;
    }
    struct shared_file *f = file_known(&status);
    if (f != NULL) { /* it came by that name just now: the descriptor stays open, see above */
        f->references++;
        return f;
    }
    f = check_status(&status, path, error) ? map_file(fd, &status, path, error) : NULL;
    if (f == NULL) {
        close(fd);
        return NULL;
    }
    f->next = files;
    files = f;
    return f;
}

struct shared_file *shared_open(const char *name, size_t name_length, int64_t size, bool make,
                                struct shared_error *error) {
    struct path path;
    struct shared_file *f = NULL;
    error->fault = SHARED_NO_FAULT;
    if (!path_of(name, name_length, &path, error)) {
        return NULL;
    }
    if (size != 0 && (size < SHARED_SIZE_MIN || size > SHARED_SIZE_MAX)) {
        fail(error, SHARED_BAD_SIZE, "Invalid size: %lld, must be between %lld (128 KiB) and %lld (1 TiB) bytes.",
             (long long)size, (long long)SHARED_SIZE_MIN, (long long)SHARED_SIZE_MAX);
        return NULL;
    }
    uint64_t wanted = (uint64_t)(size != 0 ? size : SHARED_SIZE_DEFAULT);
    wanted = (wanted + PAGE - 1) / PAGE * PAGE;
    pthread_once(&files_once, files_start);
    pthread_mutex_lock(&files_mutex);
    bool made = false;
    /* Another may remove the name as fast as it is made. */
    for (int i = 0; i < TRIES && f == NULL; i++) {
        f = open_file(path.text, error);
        if (f == NULL && (error->fault != SHARED_ABSENT || !make || !make_file(path.text, wanted, error))) {
            break;
        }
        made = made || f == NULL;
    }
    if (f != NULL && f->references == 1) {
        memcpy(f->name, name, name_length);
        f->created = made && f->size == wanted;
    }
    pthread_mutex_unlock(&files_mutex);
    return f;
}

void shared_close(struct shared_file *f) {
    pthread_mutex_lock(&files_mutex);
    if (--f->references == 0) {
        struct shared_file **link = &files;
        while (*link != f) {
            link = &(*link)->next;
        }
        *link = f->next;
        if (atomic_load(&f->number) != 0) {
            atomic_store(&f->registry[f->slot].number, 0);
        }
        munmap(f->base, (size_t)f->size);
        if (shared_descriptor_is_ours(f)) {
            close(f->descriptor);
        }
        free(f);
    }
    pthread_mutex_unlock(&files_mutex);
}

bool shared_remove(const char *name, size_t name_length, struct shared_error *error) {
    struct path path;
    error->fault = SHARED_NO_FAULT;
    if (!path_of(name, name_length, &path, error)) {
        return false;
    }
    if (unlink(path.text) == 0) {
        return true;
    }
    return errno == ENOENT ? fail(error, SHARED_ABSENT, "There is no %s.", path.text)
                           : fail_system(error, "remove", path.text);
}

bool shared_is_current(const struct shared_file *f) {
    struct path path;
    struct shared_error error;
    struct stat status;
    return path_of(f->name, strlen(f->name), &path, &error) && stat(path.text, &status) == 0 &&
           status.st_dev == f->device && status.st_ino == f->inode;
}

int64_t shared_now(const struct shared_file *f) {
    int64_t now = clock_now() + f->clock_shift;
    return now < 0 ? 0 : now >= CLOCK_END ? CLOCK_END - 1 : now;
}
