/* SipHash-2-4 with 128 bits of result: a keyed hash, so that who does not know the key can make no two texts collide. */
#ifndef HEADWAY_SIPHASH_H
#define HEADWAY_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

void siphash128(const uint64_t key[2], const void *bytes, size_t length, uint64_t out[2]);

/* The same with eight bytes put before the text, and their length not counted: texts of different seeds never meet. */
void siphash128_seeded(const uint64_t key[2], uint64_t seed, const void *bytes, size_t length, uint64_t out[2]);

#endif
