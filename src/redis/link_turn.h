/* What a link's parts share: its machine (link.c) and the threads that drive it (link_threads.c). For nobody else. */
#ifndef HEADWAY_LINK_TURN_H
#define HEADWAY_LINK_TURN_H

#include "link.h"

void list_init(struct request_list *list);
void list_append(struct request_list *list, struct redis_request *r);
struct redis_request *list_take(struct request_list *list);           /* the first, or NULL */
bool list_remove(struct request_list *list, struct redis_request *r); /* false: it is not there */

/* ---- with the lock held ---- */

/* Prepares what goes out next. True: a connection must be opened first. */
bool link_prepare(struct link *l, int64_t now);

/* The earliest instant at which a request's time is up, or the connection is to be advanced though nothing has happened. */
int64_t link_next_deadline(const struct link *l, int64_t now);

/* The connection has closed. `made`: it had been made, and broke; else it could not be made. */
void link_closed(struct link *l, bool made, int64_t now);

/* The caller has gone: the request and `undo` (or NULL) are the link's. */
void link_let_go(struct link *l, struct redis_request *r, struct redis_request *undo);

/* See link_owes. */
bool link_owes_locked(const struct link *l);

/* ---- without it, by whoever drives ---- */

/* What is to be done until the next poll. */
void link_turn(struct link *l, bool readable);

#endif
