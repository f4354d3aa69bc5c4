/* SipHash-2-4-128, after Aumasson and Bernstein: see siphash.h. */
#include "siphash.h"

#include <string.h>

struct sip {
    uint64_t v0, v1, v2, v3;
};

static inline uint64_t rotated(uint64_t x, int bits) {
    return x << bits | x >> (64 - bits);
}

static inline void sip_round(struct sip *s) {
    s->v0 += s->v1;
    s->v2 += s->v3;
    s->v1 = rotated(s->v1, 13) ^ s->v0;
    s->v3 = rotated(s->v3, 16) ^ s->v2;
    s->v0 = rotated(s->v0, 32);
    s->v2 += s->v1;
    s->v0 += s->v3;
    s->v1 = rotated(s->v1, 17) ^ s->v2;
    s->v3 = rotated(s->v3, 21) ^ s->v0;
    s->v2 = rotated(s->v2, 32);
}

static inline struct sip sip_start(const uint64_t key[2]) {
    return (struct sip){
        key[0] ^ UINT64_C(0x736f6d6570736575),
        key[1] ^ UINT64_C(0x646f72616e646f6d) ^ 0xee,
        key[0] ^ UINT64_C(0x6c7967656e657261),
        key[1] ^ UINT64_C(0x7465646279746573),
    };
}

static inline void sip_word(struct sip *s, uint64_t word) {
    s->v3 ^= word;
    sip_round(s);
    sip_round(s);
    s->v0 ^= word;
}

static inline uint64_t word_at(const unsigned char *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

static inline void sip_finish(struct sip s, const unsigned char *at, size_t length, uint64_t out[2]) {
    size_t whole = length & ~(size_t)7;
    for (size_t i = 0; i < whole; i += 8) {
        sip_word(&s, word_at(at + i));
    }
    uint64_t last = (uint64_t)length << 56;
    for (size_t i = whole; i < length; i++) {
        last |= (uint64_t)at[i] << (8 * (i - whole));
    }
    sip_word(&s, last);
    s.v2 ^= 0xee;
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < 4; i++) {
            sip_round(&s);
        }
        out[half] = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
        s.v1 ^= 0xdd;
    }
}

void siphash128(const uint64_t key[2], const void *bytes, size_t length, uint64_t out[2]) {
    sip_finish(sip_start(key), bytes, length, out);
}

void siphash128_seeded(const uint64_t key[2], uint64_t seed, const void *bytes, size_t length, uint64_t out[2]) {
    struct sip s = sip_start(key);
    sip_word(&s, seed);
    sip_finish(s, bytes, length, out);
}
