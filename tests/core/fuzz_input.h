/* What the fuzz targets share: numbers taken from the input, as long as it lasts, and zeros after that. Some values are drawn from the
 * extremes, so that the fuzzer need not find them bit by bit. */
#ifndef HEADWAY_FUZZ_INPUT_H
#define HEADWAY_FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct input {
    const uint8_t *at, *end;
};

static inline unsigned input_byte(struct input *in) {
    return in->at == in->end ? 0 : *in->at++;
}

static inline int64_t input_number(struct input *in) {
    static const int64_t extremes[] = {0, 1, -1, INT64_MIN, INT64_MAX, INT64_C(1) << 62, INT64_C(1000000000000), 60};
    unsigned kind = input_byte(in);
    if (kind < 128) {
        return (int64_t)kind - 8;
    }
    if (kind < 192) {
        return extremes[kind % 8];
    }
    uint64_t value = 0;
    for (unsigned i = 0; i <= kind % 8; i++) {
        value = value << 8 | input_byte(in);
    }
    return (int64_t)value;
}

/* Stops the program where a promise of the code is broken. */
static inline void promise(bool kept) {
    if (!kept) {
        abort();
    }
}

#endif
