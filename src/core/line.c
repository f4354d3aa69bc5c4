/* The line of waiters: see line.h. */
#include "line.h"

#include <stddef.h>

/* The first from `w` on who has another keeper than the head. */
static struct waiter *find_deputy(const struct line *l, struct waiter *w) {
    if (l->head == NULL || l->head->keeper == NULL) {
        return NULL;
    }
    while (w != NULL && w->keeper == l->head->keeper) {
        w = w->next;
    }
    return w;
}

static void unlink_waiter(struct line *l, struct waiter *w) {
    struct waiter *next = w->next, *before = l->deputy;
    bool was_head = l->head == w;
    *(w->prev != NULL ? &w->prev->next : &l->head) = next;
    *(next != NULL ? &next->prev : &l->tail) = w->prev;
    w->next = w->prev = NULL;
    w->line = NULL;
    l->length--;
    /* All between the head and its deputy have the head's keeper, so there is something to find only at the end of such a run. */
    if (l->head == NULL) {
        l->deputy = NULL;
    } else if (was_head && l->head->keeper != w->keeper) {
        l->deputy = find_deputy(l, l->head->next);
    } else if (before == w) {
        l->deputy = find_deputy(l, next);
    }
    if (l->deputy != NULL && l->deputy != before) {
        l->deputy->wake(l->deputy); /* to keep time from now on */
    }
}

void line_join(struct line *l, struct waiter *w) {
    w->line = l;
    w->served = false;
    w->next = NULL;
    w->prev = l->tail;
    *(l->tail != NULL ? &l->tail->next : &l->head) = w;
    l->tail = w;
    l->length++;
    if (l->deputy == NULL && l->head->keeper != NULL && w->keeper != l->head->keeper) {
        l->deputy = w;
    }
}

/* `moved`: the head is another than before, and must learn that it keeps time now. */
static void serve_some(struct line *l, int64_t now, int64_t most, bool moved) {
    while (l->head != NULL) {
        struct waiter *w = l->head;
        if (most-- == 0) {
            w->due = now;
            w->wake(w);
            return;
        }
        int64_t wait = l->serve(l, w, now);
        if (wait > 0) {
            int64_t due = wait > INT64_MAX - now ? INT64_MAX : now + wait;
            moved = moved || due != w->due;
            w->due = due;
            if (moved) {
                w->wake(w);
            }
            return;
        }
        unlink_waiter(l, w);
        w->served = true;
        w->wake(w);
        moved = true;
    }
}

void line_serve(struct line *l, int64_t now) {
    serve_some(l, now, LINE_BATCH, false);
}

void line_serve_through(struct line *l, int64_t now) {
    int64_t last = INT64_MIN;
    while (l->head != NULL && l->head->due <= now && l->head->due > last) {
        last = l->head->due;
        serve_some(l, last, INT64_MAX, false);
    }
}

void line_leave(struct waiter *w, int64_t now) {
    struct line *l = w->line;
    if (l != NULL) {
        bool was_head = l->head == w;
        unlink_waiter(l, w);
        if (was_head) {
            serve_some(l, now, LINE_BATCH, true);
        }
    }
}

void line_forget(struct line *l) {
    while (l->head != NULL) {
        unlink_waiter(l, l->head);
    }
}

void line_threads_ended(struct line *l) {
    struct waiter *w = l->threads_ended ? NULL : l->head;
    l->threads_ended = true;
    while (w != NULL) {
        struct waiter *next = w->next;
        if (w->keeper == NULL) {
            unlink_waiter(l, w);
        }
        w = next;
    }
}

int64_t line_sleep_until(const struct waiter *w, int64_t now) {
    const struct line *l = w->line;
    if (l == NULL || (l->head != w && l->deputy != w)) {
        return INT64_MAX;
    }
    int64_t due = l->head->due;
    if (l->head == w || due == INT64_MAX) {
        return due;
    }
    return (due > now ? due : now) + DEPUTY_GRACE_NS;
}
