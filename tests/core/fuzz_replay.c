/* Runs a fuzz target over the files that the command line names, without libFuzzer: so that the corpus is replayed with any compiler.
 * Of each file all beginnings are run too, since what is cut off is as likely as what is whole. */
#include <stdio.h>
#include <stdlib.h>

#include "check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void replay(const char *path) {
    FILE *file = fopen(path, "rb");
    static uint8_t whole[1 << 16];
    size_t size = file == NULL ? 0 : fread(whole, 1, sizeof whole, file);
    CHECK(file != NULL);
    if (file != NULL) {
        fclose(file);
    }
    for (size_t length = 0; length <= size; length++) {
        uint8_t *copy = malloc(length > 0 ? length : 1); /* of its exact size: a sanitizer sees a step beyond it */
        if (copy == NULL) {
            abort();
        }
        for (size_t i = 0; i < length; i++) {
            copy[i] = whole[i];
        }
        CHECK(LLVMFuzzerTestOneInput(copy, length) == 0);
        free(copy);
    }
}

int main(int count, char **paths) {
    for (int i = 1; i < count; i++) {
        replay(paths[i]);
    }
    CHECK(count > 1);
    return check_end(paths[0]);
}
