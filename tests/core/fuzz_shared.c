/* libFuzzer: a file in shared memory some bytes of which are anything: decisions may be wrong, but nothing crashes, hangs or writes
 * outside of the file, and the header is only believed while it adds up.
 *
 * The first byte is what is done; then come triples: which part of the file, where in it, and the byte that is put there. */
#include <fcntl.h>
#include <sys/mman.h>

#include "fuzz_input.h"
#include "shared_help.h"
#include "shared_values.h"

static struct bench b;
static char *pristine;

static void remove_file(void) {
    shared_remove(b.name, strlen(b.name), &b.error);
}

static void prepare(void) {
    clock_start();
    fork_start();
    bench_open(&b, GCRA, 5, 2);
    struct shared_file *f = b.table.file;
    uint32_t holder;
    size_t length;
    uint64_t mark;
    char bytes[64];
    bench_ask(&b, "k", 1);
    bench_ask(&b, "another", 1);
    shared_value_read(f, "v", 1, true, bytes, sizeof bytes, &length, &mark, &holder, &b.error);
    memset(bytes, 'x', sizeof bytes);
    shared_value_write(f, "v", 1, true, bytes, sizeof bytes, mark, &holder, &b.error);
    pristine = malloc(f->size);
    promise(pristine != NULL);
    memcpy(pristine, f->base, f->size);
    atexit(remove_file);
}

static void damage(struct input *in) {
    struct shared_file *f = b.table.file;
    const struct shared_layout *layout = &f->layout;
    for (int i = 0; i < 200 && in->at < in->end; i++) {
        unsigned part = input_byte(in);
        size_t at = (size_t)input_byte(in) << 8;
        at |= input_byte(in);
        uint64_t start, end;
        switch (part % 5) {
        case 0: /* what changes in the header */
            start = offsetof(struct shared_header, last_number);
            end = sizeof(struct shared_header);
            break;
        case 1:
            start = layout->registry_at;
            end = layout->records_at;
            break;
        case 2:
            start = layout->records_at;
            end = layout->buckets_at;
            break;
        case 3: /* the bucket of a key that is asked for: its first line mostly */
            start = layout->buckets_at + (uint64_t)bench_bucket(&b, "k") * sizeof(struct shared_bucket);
            end = start + (part & 128 ? sizeof(struct shared_bucket) : 128);
            break;
        default:
            start = layout->buckets_at;
            end = f->size;
        }
        f->base[start + at % (end - start)] = (char)input_byte(in);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in = {data, data + size};
    if (pristine == NULL) {
        prepare();
    }
    struct shared_file *f = b.table.file;
    memcpy(f->base, pristine, f->size);
    unsigned what = input_byte(&in);
    damage(&in);
    bench_ask(&b, "k", 1);
    bench_ask(&b, "another", 1);
    bench_ask(&b, "third", what & 1);
    struct shared_entry entries[BUCKET_CELLS];
    int count = shared_table_look(&b.table, bench_bucket(&b, "k"), entries);
    promise(count >= 0 && count <= BUCKET_CELLS);
    promise(shared_table_count(&b.table) >= 0 && shared_processes(f) >= 0);
    size_t length = 0;
    uint64_t mark = 0;
    uint32_t holder;
    char bytes[256];
    if (shared_value_read(f, "v", 1, false, bytes, sizeof bytes, &length, &mark, &holder, &b.error) ==
        SHARED_VALUE_OK) {
        promise(length <= shared_value_max(f));
        shared_value_write(f, "w", 1, false, "yz", 2, mark, &holder, &b.error);
        shared_value_write(f, "v", 1, false, pristine, what % 200, mark, &holder, &b.error);
    }
    return 0;
}
