/* What store.c and store_lines.c share; nobody else's. */
#ifndef HEADWAY_STORE_LINES_H
#define HEADWAY_STORE_LINES_H

#include "store.h"

/* An instant to decide by: the clock's, when the shard's lock has been taken. For windows it must be that one where threads decide side
 * by side: a call that read the clock before the lock and was held up would take the window of the others for one that has not
 * begun, and what they have counted would be lost. A bucket's call that was held up only asks as of a moment before. */
#define STORE_NOW INT64_MIN

/* What to decide by where the clock said `now` before the lock was taken. A virtual clock that jumps serves waiters at earlier
 * instants, which it means. */
static inline int64_t store_instant(const struct store *s, const struct plan *p, int64_t now) {
    return s->exclusive || s->clock != NULL || algorithm_is_bucket(p->algorithm) ? now : STORE_NOW;
}

/* store.c: decisions without a look at the lines. `now` may be STORE_NOW; out->now is the instant. */
void store_decide(struct store *s, const struct plan *p, const struct table_key *key, int64_t cost, int64_t now,
                  struct outcome *out);
struct state store_state(struct store *s, const struct plan *p, uint32_t space, const struct table_key *key);
void store_refund(struct store *s, const struct plan *p, const struct table_key *key, int64_t cost, int64_t now);
bool store_correct(struct store *s, const struct plan *p, int rule, const struct table_key *key, int64_t surplus,
                   int64_t now);
void store_forget(struct store *s, const struct plan *p, const struct table_key *key);

/* store_lines.c */
void store_limit_behind(struct store *s, const struct plan *p, const struct table_key *key, int64_t cost, int64_t now,
                        struct outcome *out);
void store_lines_serve(struct store *s, int64_t now);
void store_lines_serve_through(struct store *s, int64_t now); /* the clock has jumped to `now` */
void store_lines_forget(struct store *s);                     /* frees the lines; their waiters are gone */

#endif
