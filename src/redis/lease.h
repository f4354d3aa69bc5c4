/* Leases: tokens of a server, taken in blocks and spent here, one decision after another, without asking.
 *
 * A pool holds the leases of all keys under one plan. A decision is
 *
 *   lease_spend     decides by what is here: a token that is left, or a denial that is known to hold still
 *   lease_begin     else: how much to ask the server for, and what of the block before goes back with the same request
 *   lease_end       its answer becomes the decision and a new block; or it says to ask once more, for less
 *   lease_fail      there is no answer
 *
 * Nothing here waits, and the lock is held for an instant. While one caller asks for a block of a key, others of that key ask
 * for their own cost alone. ARCHITECTURE.md, "Leases", says why no more than the quota is spent. */
#ifndef HEADWAY_LEASE_H
#define HEADWAY_LEASE_H

#include "store.h"

#define LEASE_TERM_MAX (10 * NS_PER_S) /* no token is kept longer: an idle bucket is not drained for hours */

/* Tokens of a block that go back, as the server must hear of it. */
struct lease_give {
    int64_t count;
    int64_t number,
        until_us; /* of buckets: which take it was, and until when it could be spent. number 0: nothing goes back */
    int64_t
        mark_us[QUOTA_RULES_MAX]; /* of buckets: before_us of lua/lease.lua; of windows: the end of the one taken of */
};

/* One request for a block, and its answer. */
struct lease_take {
    int64_t cost;     /* what the caller wants */
    int64_t count;    /* what is asked for: the cost, or more */
    int64_t ahead_us; /* how long the tokens may be spent */
    int64_t sent;     /* local instant; whoever sends sets it, no later than the first byte goes */
    struct lease_give give;
    uint64_t ticket; /* 0: asks beside another */
    int tries;
    /* The answer; a script's reader sets it. */
    bool admitted;
    int64_t now;    /* the server's */
    int64_t number; /* of buckets */
    struct state states[QUOTA_RULES_MAX];
    int64_t mark_us[QUOTA_RULES_MAX];
};

/* A lease that was ended: what is left of it, to be given back. */
struct lease_rest {
    struct lease_rest *next;
    struct lease_give give;
    struct table_key key; /* its bytes follow */
    char bytes[];
};

struct lease_pool;

/* Can the rules be leased? Rules of a fixed cost cannot, nor buckets that take 73 years to fill. */
bool lease_suits(const struct plan *p);

/* Blocks of `tokens` or, where that is 0, of what the quota yields in `term_ns`; `p` is borrowed. `exclusive`: only one thread at a
 * time calls any function on it. NULL: no memory. */
struct lease_pool *lease_pool_new(const struct plan *p, int64_t term_ns, int64_t tokens, int64_t max_keys,
                                  bool exclusive);
void lease_pool_free(struct lease_pool *l); /* what is left is lost; see lease_drain */

/* True: decided, see *out. `denials`: a denial will do. cost > 0. */
bool lease_spend(struct lease_pool *l, const struct table_key *key, int64_t cost, bool denials, struct outcome *out);

/* Fills *take. A key that made room is in *rest (else NULL): the caller gives it back, and frees it. */
void lease_begin(struct lease_pool *l, const struct table_key *key, int64_t cost, struct lease_take *take,
                 struct lease_rest **rest);

/* False: ask again with the same take. */
bool lease_end(struct lease_pool *l, const struct table_key *key, struct lease_take *take, struct outcome *out);
void lease_fail(struct lease_pool *l, const struct table_key *key, const struct lease_take *take);

/* The key was reset: nothing of it is kept, nothing goes back. */
void lease_drop(struct lease_pool *l, const struct table_key *key);

/* Ends all leases; a list of what is left of them. Freed one by one with free(). */
struct lease_rest *lease_drain(struct lease_pool *l);

#endif
