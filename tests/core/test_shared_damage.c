/* A file in shared memory whose bytes are anything: it is refused, or decisions may be wrong, but nothing crashes, hangs or writes
 * outside of it. The header is only believed while it adds up. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "shared_help.h"

static void path_of_bench(const struct bench *b, char *path, size_t size) {
    snprintf(path, size, "%s/%s%s", shared_directory(), SHARED_PREFIX, b->name);
}

static struct shared_file *open_again(struct bench *b) {
    return shared_open(b->name, strlen(b->name), 0, false, &b->error);
}

/* The part of the header that does not change: each byte with each bit turned. */
static void check_header(void) {
    struct bench b;
    char path[256];
    bench_open(&b, GCRA, 5, 1);
    path_of_bench(&b, path, sizeof path);
    size_t end = offsetof(struct shared_header, last_number);
    unsigned char *bytes = malloc(end);
    memcpy(bytes, b.table.file->base, end);
    shared_close(b.table.file); /* else it is known and not looked at again */
    int fd = open(path, O_RDWR);
    for (size_t at = 0; at < offsetof(struct shared_header, checksum) + 8; at++) {
        for (int bit = 0; bit < 8; bit++) {
            unsigned char turned = (unsigned char)(bytes[at] ^ 1 << bit);
            CHECK(pwrite(fd, &turned, 1, (off_t)at) == 1);
            b.error.fault = SHARED_NO_FAULT;
            CHECK(open_again(&b) == NULL);
            CHECK_EQUAL(b.error.fault, SHARED_UNUSABLE);
        }
        CHECK(pwrite(fd, bytes + at, 1, (off_t)at) == 1);
    }
    struct stat status;
    CHECK(fstat(fd, &status) == 0);
    static const int64_t sizes[] = {0, 1, 100, 4096, 100000};
    for (int i = 0; i < 5; i++) {
        CHECK(ftruncate(fd, sizes[i]) == 0);
        CHECK(open_again(&b) == NULL);
        CHECK_EQUAL(b.error.fault, SHARED_UNUSABLE);
    }
    close(fd);
    free(bytes);
    shared_remove(b.name, strlen(b.name), &b.error);
    free(b.plan);
}

static int64_t longest;

static void decide_a_little(struct bench *b, const char *key) {
    int64_t start = clock_now();
    for (int i = 0; i < 3; i++) {
        bench_ask(b, key, 1);
    }
    bench_ask(b, "another", 1);
    struct shared_entry entries[BUCKET_CELLS];
    shared_table_look(&b->table, bench_bucket(b, key), entries);
    int64_t took = clock_now() - start;
    longest = took > longest ? took : longest;
}

/* Each byte of a bucket that is in use, with a few values; then all that can be: words at random, anywhere. */
static void check_buckets(void) {
    struct bench b;
    char name[32];
    uint64_t seed = 7;
    for (int rules = 1; rules <= 3; rules += 2) {
        bench_open(&b, rules == 1 ? GCRA : SLIDING_WINDOW, 5, rules);
        struct shared_file *f = b.table.file;
        for (int i = 0; i < 200; i++) {
            snprintf(name, sizeof name, "k%d", i);
            bench_ask(&b, name, 1);
        }
        size_t size = (size_t)(f->layout.buckets + f->layout.spares) * sizeof(struct shared_bucket);
        char *kept = malloc(size), *bytes = (char *)f->buckets;
        memcpy(kept, bytes, size);
        static const unsigned char values[] = {0, 0xFF, 0x80, 0x01};
        size_t start = bench_bucket(&b, "k7") * sizeof(struct shared_bucket);
        for (size_t at = 0; at < sizeof(struct shared_bucket); at += rules) {
            memcpy(bytes + start, kept + start, sizeof(struct shared_bucket));
            bytes[start + at] = (char)values[check_random(&seed) % 4];
            decide_a_little(&b, "k7");
        }
        for (int round = 0; round < 3000; round++) {
            size_t reach = round % 3 == 0 ? sizeof(struct shared_bucket) : 128;
            for (uint64_t n = check_random(&seed) % 20; n > 0; n--) {
                bytes[start + check_random(&seed) % reach] = (char)check_random(&seed);
            }
            if (round % 7 == 0) { /* the word of a bucket leads to spares, and these somewhere */
                uint32_t spare = f->layout.buckets + (uint32_t)(check_random(&seed) % (f->layout.spares + 1));
                uint64_t word = (uint64_t)spare << SHARED_HOLDER_SHIFT | SHARED_MOVED | (check_random(&seed) & 0xFF);
                memcpy(bytes + start, &word, sizeof word);
                size_t at = (size_t)f->layout.buckets * sizeof(struct shared_bucket) +
                            check_random(&seed) % (f->layout.spares * sizeof(struct shared_bucket) - 8);
                word = check_random(&seed);
                memcpy(bytes + at, &word, sizeof word);
            }
            decide_a_little(&b, "k7");
            if (round % 50 == 0) {
                memcpy(bytes, kept, size);
            }
        }
        memcpy(bytes, kept, size);
        CHECK(bench_ask(&b, "k8", 1) == OUTCOME_ADMITTED);
        free(kept);
        bench_close(&b);
    }
    fprintf(stderr, "  the longest of four decisions in a damaged bucket took %.1f ms\n", (double)longest / NS_PER_MS);
    CHECK(longest < 2 * NS_PER_S);
}

/* The registry and what changes in the header: anything. */
static void check_registry(void) {
    struct bench b;
    uint64_t seed = 11;
    bench_open(&b, GCRA, 1000000, 1);
    struct shared_file *f = b.table.file;
    for (int round = 0; round < 2000; round++) {
        char *bytes = (char *)f->registry;
        bytes[check_random(&seed) % (f->layout.processes * sizeof(struct shared_slot))] = (char)check_random(&seed);
        atomic_store(&f->header->last_generation, (uint32_t)check_random(&seed));
        bench_ask(&b, "k", 1);
    }
    CHECK(shared_processes(f) >= 0);
    bench_close(&b);
}

int main(void) {
    clock_start();
    fork_start();
    check_header();
    check_buckets();
    check_registry();
    return check_end("test_shared_damage");
}
