/* Threads that share a link: one drives, the others sleep until they are answered, or are to drive. See link.h. */
#include <poll.h>

#include "clock.h"
#include "link_turn.h"

/* A signal that the kernel hands to another thread does not end a poll, so whoever must hear of signals looks this often. */
#define SLICE_NS (50 * NS_PER_MS)

struct thread_caller {
    struct parker parker;
};

static void wake_thread(struct redis_request *r) {
    parker_wake(&((struct thread_caller *)r->waker)->parker);
}

/* ---- the wheel, and who is woken when: with the lock held ---- */

static void wake_next(struct link *l) {
    struct redis_request *r = list_take(&l->answered);
    l->waking = r != NULL;
    if (r != NULL) {
        r->in_line = false;
        r->wake(r);
    }
}

/* Of those who are answered the first is woken, and each wakes the next. */
static void wake_first(struct link *l) {
    if (!l->waking) {
        wake_next(l);
    }
}

/* A thread has seen that its request is over. It wakes the next before it queues for the GIL: whoever holds that for long, holds up
 * all of them together and not each in turn. */
static void leave_line(struct link *l, struct redis_request *mine) {
    if (mine->in_line) { /* it looked before it was told */
        list_remove(&l->answered, mine);
        mine->in_line = false;
    } else {
        wake_next(l);
    }
}

/* Gives the wheel to somebody who still waits. */
static void hand_over(struct link *l) {
    l->driven = false;
    struct request_list *lists[] = {&l->sent, &l->waiting};
    for (int i = 0; i < 2 && !l->driven; i++) {
        for (struct redis_request *r = lists[i]->first; r != NULL && !l->driven; r = r->next) {
            if (!r->abandoned) {
                l->driven = true;
                r->drive = true;
                r->wake(r);
            }
        }
    }
}

/* Is it worth a write before the wheel is handed on? The next driver has yet to wake up, and the server could be at work meanwhile;
 * but small writes cost more than large ones. So when as many have come back with their next request as sleep yet, or when perhaps
 * nobody comes who would write. */
static bool worth_a_write(const struct link *l) {
    int waiting = 0, answered = 0;
    for (const struct redis_request *r = l->waiting.first; r != NULL; r = r->next) {
        if (r->abandoned) {
            return true;
        }
        waiting++;
    }
    for (const struct redis_request *r = l->answered.first; r != NULL; r = r->next) {
        answered++;
    }
    return waiting > 0 && waiting >= answered;
}

/* ---- driving ---- */

static void poll_once(struct link *l, int64_t until) {
    struct pollfd p = {.fd = l->connection.fd, .events = connection_events(&l->connection)};
    int64_t rest = until - clock_now();
    int milliseconds = rest <= 0 ? 0 : rest > 3600 * NS_PER_S ? 3600 * 1000 : (int)((rest + NS_PER_MS - 1) / NS_PER_MS);
    poll(&p, 1, milliseconds);
}

/* A stream of another make (TLS) runs the caller's own code, which the caller has to be in for. */
static void drive_turn(struct link *l, bool readable, const struct link_caller *caller) {
    if (l->connection.stream != NULL) {
        caller->enter(caller->context, false);
    }
    link_turn(l, readable);
    if (l->connection.stream != NULL) {
        caller->leave(caller->context);
    }
}

/* What came while nobody drove is read before anything is sent, so that what is to be undone is undone first. */
static void read_leftovers(struct link *l, const struct link_caller *caller) {
    lock_acquire(&l->lock);
    bool left = l->connection.state == CONNECTION_READY && l->sent.first != NULL && l->sent.first->abandoned;
    lock_release(&l->lock);
    if (left) {
        drive_turn(l, true, caller);
    }
}

/* Sends, polls once and reads. Comes with the lock and goes without. */
static void drive_once(struct link *l, int64_t now, int64_t until, const struct link_caller *caller) {
    struct redis_connection *c = &l->connection;
    bool connect = link_prepare(l, now);
    int64_t deadline = link_next_deadline(l);
    lock_release(&l->lock);
    if (connect && !connection_open(c, now)) {
        lock_acquire(&l->lock);
        link_closed(l, false, now);
        lock_release(&l->lock);
        return;
    }
    drive_turn(l, false, caller);
    if (c->state == CONNECTION_CLOSED) {
        return;
    }
    poll_once(l, deadline < until ? deadline : until);
    drive_turn(l, true, caller);
}

static void write_before_leaving(struct link *l, const struct link_caller *caller) {
    if (l->connection.state == CONNECTION_READY && worth_a_write(l)) {
        link_prepare(l, clock_now());
        lock_release(&l->lock);
        drive_turn(l, false, caller);
        lock_acquire(&l->lock);
    }
}

static struct redis_request *undo_of(const struct link_caller *caller) {
    return caller->undo != NULL ? caller->undo(caller->context) : NULL;
}

/* Drives until `mine` is over, or the caller gives up: then false. Comes outside of what the caller brackets, and goes inside. */
static bool drive(struct link *l, struct redis_request *mine, const struct link_caller *caller) {
    read_leftovers(l, caller);
    for (;;) {
        int64_t now = clock_now();
        lock_acquire(&l->lock);
        wake_first(l);
        if (mine->end != REQUEST_OPEN) {
            break;
        }
        drive_once(l, now, now + SLICE_NS, caller);
        /* Nobody else ends a request, so `mine` can be looked at. */
        if (mine->end == REQUEST_OPEN && clock_now() - now >= SLICE_NS) {
            if (caller->enter(caller->context, true)) {
                struct redis_request *undo = undo_of(caller);
                lock_acquire(&l->lock);
                let_go(l, mine, undo);
                hand_over(l);
                wake_first(l);
                lock_release(&l->lock);
                return false;
            }
            caller->leave(caller->context);
        }
    }
    write_before_leaving(l, caller);
    hand_over(l);
    wake_first(l);
    lock_release(&l->lock);
    caller->enter(caller->context, false);
    return true;
}

/* Sleeps until `mine` is over, or the wheel comes. */
static bool follow(struct link *l, struct redis_request *mine, const struct link_caller *caller) {
    struct thread_caller *me = mine->waker;
    for (;;) {
        caller->leave(caller->context);
        enum park_end end = parker_sleep(&me->parker, clock_now() + SLICE_NS);
        lock_acquire(&l->lock);
        bool over = mine->end != REQUEST_OPEN, drives = mine->drive;
        if (over) {
            leave_line(l, mine);
        }
        lock_release(&l->lock);
        if (drives && !over) {
            return drive(l, mine, caller);
        }
        bool give_up = caller->enter(caller->context, !over && end != PARK_WOKEN);
        if (over) {
            return true;
        }
        if (give_up) {
            struct redis_request *undo = undo_of(caller);
            lock_acquire(&l->lock);
            drives = mine->drive;
            if (mine->end != REQUEST_OPEN) {
                leave_line(l, mine);
            }
            let_go(l, mine, undo);
            if (drives) {
                hand_over(l);
            }
            lock_release(&l->lock);
            return false;
        }
    }
}

bool link_call(struct link *l, struct redis_request *r, const struct link_caller *caller) {
    struct thread_caller me;
    parker_init(&me.parker);
    r->wake = wake_thread;
    r->waker = &me;
    r->in_turn = true;
    r->deadline = clock_now() + l->timeout_ns;
    lock_acquire(&l->lock);
    list_append(&l->waiting, r);
    bool drives = r->drive = !l->driven;
    l->driven = true;
    lock_release(&l->lock);
    bool over;
    if (drives) {
        caller->leave(caller->context);
        over = drive(l, r, caller);
    } else {
        over = follow(l, r, caller);
    }
    parker_destroy(&me.parker);
    return over;
}

void link_settle(struct link *l, int64_t until, const struct link_caller *caller) {
    lock_acquire(&l->lock);
    bool drives = !l->driven && owes(l);
    l->driven = l->driven || drives;
    lock_release(&l->lock);
    if (!drives) {
        return;
    }
    caller->leave(caller->context);
    read_leftovers(l, caller);
    for (;;) {
        int64_t now = clock_now();
        lock_acquire(&l->lock);
        if (now >= until || !owes(l)) {
            break;
        }
        drive_once(l, now, until, caller);
    }
    write_before_leaving(l, caller);
    hand_over(l);
    wake_first(l);
    lock_release(&l->lock);
    caller->enter(caller->context, false);
}
