/* What store.c and store_lines.c share; nobody else's. */
#ifndef HEADWAY_STORE_LINES_H
#define HEADWAY_STORE_LINES_H

#include "store.h"

/* store.c: decisions without a look at the lines. */
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
