/* The line of waiters: see line.h. */
#include "line.h"

#include <stddef.h>

static void unlink_waiter(struct line *l, struct waiter *w) {
    *(w->prev != NULL ? &w->prev->next : &l->head) = w->next;
    *(w->next != NULL ? &w->next->prev : &l->tail) = w->prev;
    w->next = w->prev = NULL;
    w->line = NULL;
    l->length--;
}

void line_join(struct line *l, struct waiter *w) {
    w->line = l;
    w->served = false;
    w->next = NULL;
    w->prev = l->tail;
    *(l->tail != NULL ? &l->tail->next : &l->head) = w;
    l->tail = w;
    l->length++;
}

static void serve_some(struct line *l, int64_t now, int64_t most) {
    bool moved = false;
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
    serve_some(l, now, LINE_BATCH);
}

void line_serve_through(struct line *l, int64_t now) {
    int64_t last = INT64_MIN;
    while (l->head != NULL && l->head->due <= now && l->head->due > last) {
        last = l->head->due;
        serve_some(l, last, INT64_MAX);
    }
}

void line_leave(struct waiter *w, int64_t now) {
    struct line *l = w->line;
    if (l != NULL) {
        bool was_head = l->head == w;
        unlink_waiter(l, w);
        if (was_head) {
            line_serve(l, now);
        }
    }
}

void line_forget(struct line *l) {
    while (l->head != NULL) {
        unlink_waiter(l, l->head);
    }
}

int64_t line_sleep_until(const struct waiter *w, int64_t now) {
    return w->line != NULL && (w->line->head == w || w->due > now) ? w->due : INT64_MAX;
}
