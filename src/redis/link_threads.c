/* Threads that share a link: one drives, the others sleep until they are answered, or are to drive. See link.h.
 *
 * A thread is the driver where its request has `drive`; then `driven` holds. It stops being the driver before it waits for the GIL or runs
 * Python code, and goes on as whatever it finds itself to be: another thread may drive by then, or have had its reply. */
#include <poll.h>
#include <stdio.h>

#include "clock.h"
#include "link_turn.h"

/* A request whose driver does nothing ends this long after its deadline; a driver that works ends it at the deadline. */
#define GRACE_NS (20 * NS_PER_MS)

enum thread_end {
    THREAD_DRIVES,  /* without the GIL, as the next two */
    THREAD_FOLLOWS, /* another drives, or will */
    THREAD_IS_OVER,
    THREAD_GIVES_UP /* with the GIL; its request is the link's */
};

/* Its address tells threads apart. */
static _Thread_local char this_thread;

/* ---- the driver's place, and which thread is woken when: with the lock held ---- */

static void link_wake_next(struct link *l) {
    struct redis_request *r = list_take(&l->answered);
    l->waking = r != NULL;
    if (r != NULL) {
        r->in_line = false;
        r->woken = true;
        parker_wake(&r->parker);
    }
}

/* Of those who are answered the first is woken, and each wakes the next. */
static void link_wake_first(struct link *l) {
    if (!l->waking) {
        link_wake_next(l);
    }
}

/* A thread has seen that its request is over. It wakes the next before it queues for the GIL: a thread that holds that for long, holds up
 * all of them together and not each in turn. */
static void link_leave_line(struct link *l, struct redis_request *mine) {
    if (mine->in_line) { /* it looked before it was woken */
        list_remove(&l->answered, mine);
        mine->in_line = false;
    } else if (mine->woken) {
        mine->woken = false;
        link_wake_next(l);
    }
}

/* Makes a thread the driver that sleeps and waits for a reply; where there is none, the next one that comes drives. */
static void link_hand_over(struct link *l) {
    l->driven = false;
    struct request_list *lists[] = {&l->sent, &l->waiting};
    for (int i = 0; i < 2 && !l->driven; i++) {
        for (struct redis_request *r = lists[i]->first; r != NULL && !l->driven; r = r->next) {
            if (!r->abandoned && !r->away) {
                l->driven = true;
                r->drive = true;
                parker_wake(&r->parker);
            }
        }
    }
}

/* The thread does something else from here on; its request stays where it is. */
static void link_go_away(struct link *l, struct redis_request *mine) {
    bool drove = mine->drive;
    mine->drive = false;
    mine->away = true;
    if (drove) {
        link_hand_over(l);
    }
}

/* It drives, if nobody does by now and there is something to wait for. */
static void link_come_back(struct link *l, struct redis_request *mine) {
    mine->away = false;
    if (mine->end != REQUEST_OPEN) {
        parker_wake(&mine->parker); /* it ended meanwhile, so nobody else wakes the thread */
    } else if (!l->driven) {
        l->driven = mine->drive = true;
    }
}

/* Its time is up, though the driver has not said so: it is busy, or was ended. */
static void link_time_out(struct link *l, struct redis_request *mine) {
    if (list_remove(&l->waiting, mine)) {
        mine->end = REQUEST_UNSENT;
    } else {
        list_remove(&l->sent, mine);
        mine->end = REQUEST_LOST;
        l->distrusted = true; /* its reply would be taken for another's */
    }
    mine->fault = FAULT_TIMEOUT;
    snprintf(mine->error, sizeof mine->error, "no answer in time");
}

/* Is it worth a write before another drives? The next driver has yet to wake up, and the server could be at work meanwhile;
 * but small writes cost more than large ones. So when as many have come back with their next request as sleep yet, or when perhaps
 * nobody comes who would write. */
static bool link_is_worth_a_write(const struct link *l) {
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

/* ---- Python code runs ---- */

/* With the GIL: the caller gives up. */
static enum thread_end thread_gives_up(struct link *l, struct redis_request *mine, const struct link_caller *caller) {
    struct redis_request *undo = caller->undo != NULL ? caller->undo(caller->context) : NULL;
    lock_acquire(&l->lock);
    bool drove = mine->drive;
    if (mine->end != REQUEST_OPEN) {
        link_leave_line(l, mine);
    }
    link_let_go(l, mine, undo);
    if (drove) {
        link_hand_over(l);
        link_wake_first(l);
    }
    lock_release(&l->lock);
    return THREAD_GIVES_UP;
}

/* Runs signal handlers, and whatever else Python runs then. */
static enum thread_end thread_look(struct link *l, struct redis_request *mine, const struct link_caller *caller) {
    lock_acquire(&l->lock);
    bool drives = mine->drive;
    if (mine->end != REQUEST_OPEN) { /* it is seen to when the thread goes on */
        lock_release(&l->lock);
        return drives ? THREAD_DRIVES : THREAD_FOLLOWS;
    }
    link_go_away(l, mine);
    link_wake_first(l);
    lock_release(&l->lock);
    caller->take_gil(caller->context);
    bool gives_up = caller->look(caller->context);
    if (!gives_up) {
        caller->drop_gil(caller->context);
    }
    lock_acquire(&l->lock);
    link_come_back(l, mine);
    drives = mine->drive;
    lock_release(&l->lock);
    return gives_up ? thread_gives_up(l, mine, caller) : drives ? THREAD_DRIVES : THREAD_FOLLOWS;
}

/* ---- driving ---- */

/* A turn of the link. A stream runs the caller's own code, for which the thread needs the GIL; `mine` NULL: the thread waits for no reply.
 * THREAD_GIVES_UP: with the GIL, the stream or a signal handler has raised. */
static enum thread_end driver_turn(struct link *l, struct redis_request *mine, bool readable,
                                   const struct link_caller *caller) {
    if (l->connection.stream == NULL) {
        link_turn(l, readable);
        return THREAD_DRIVES;
    }
    struct redis_request nobody = {.drive = true}; /* which no list has */
    struct redis_request *me = mine != NULL ? mine : &nobody;
    lock_acquire(&l->lock);
    me->drive = l->driven = false; /* those who sleep are not woken: mostly the GIL is there at once */
    me->away = true;
    bool looks = mine != NULL && mine->end == REQUEST_OPEN && caller->may_look != NULL;
    lock_release(&l->lock);
    caller->take_gil(caller->context);
    /* Python's ssl looks for signals whenever it reads or writes; better they are seen to here, where nothing is under way. */
    bool gives_up = looks && caller->may_look(caller->context) && caller->look(caller->context);
    lock_acquire(&l->lock);
    link_come_back(l, me);
    if (gives_up) {
        lock_release(&l->lock);
        return THREAD_GIVES_UP;
    }
    bool drives = me->drive || !l->driven; /* also where `mine` is over: the others sleep */
    if (drives) {
        l->driven = me->drive = true;
        l->within = &this_thread;
    }
    lock_release(&l->lock);
    if (drives) {
        link_turn(l, readable);
        lock_acquire(&l->lock);
        l->within = NULL;
        lock_release(&l->lock);
        if (caller->raised != NULL && caller->raised(caller->context)) {
            return THREAD_GIVES_UP;
        }
    }
    caller->drop_gil(caller->context);
    return drives ? THREAD_DRIVES : THREAD_FOLLOWS;
}

/* True: a signal came. */
static bool driver_poll(const struct link *l, int64_t until) {
    struct pollfd polls[DIAL_ADDRESSES_MAX];
    int count = connection_polls(&l->connection, polls);
    int64_t rest = until - clock_now();
    int milliseconds = rest <= 0 ? 0 : rest > 3600 * NS_PER_S ? 3600 * 1000 : (int)((rest + NS_PER_MS - 1) / NS_PER_MS);
    return poll(polls, (nfds_t)count, milliseconds) < 0;
}

/* What came while nobody drove is read before anything is sent, so that what is to be undone is undone first. */
static enum thread_end driver_read_leftovers(struct link *l, struct redis_request *mine,
                                             const struct link_caller *caller) {
    lock_acquire(&l->lock);
    bool left = l->connection.state == CONNECTION_READY && l->sent.first != NULL && l->sent.first->abandoned;
    lock_release(&l->lock);
    return left ? driver_turn(l, mine, true, caller) : THREAD_DRIVES;
}

/* Sends, polls once and reads. Comes with the lock and goes without. As driver_turn; *signalled: a signal came. */
static enum thread_end driver_round(struct link *l, struct redis_request *mine, int64_t now, int64_t until,
                                    const struct link_caller *caller, bool *signalled) {
    struct redis_connection *c = &l->connection;
    bool connect = link_prepare(l, now);
    int64_t deadline = link_next_deadline(l, now);
    lock_release(&l->lock);
    if (connect && !connection_open(c, now)) {
        lock_acquire(&l->lock);
        link_closed(l, false, now);
        lock_release(&l->lock);
        return THREAD_DRIVES;
    }
    enum thread_end end = driver_turn(l, mine, false, caller);
    if (end != THREAD_DRIVES || c->state == CONNECTION_CLOSED) {
        return end;
    }
    *signalled = driver_poll(l, deadline < until ? deadline : until);
    return *signalled ? THREAD_DRIVES : driver_turn(l, mine, true, caller);
}

/* With the lock held, before and after. As driver_turn. */
static enum thread_end driver_write_before_leaving(struct link *l, struct redis_request *mine,
                                                   const struct link_caller *caller) {
    enum thread_end end = THREAD_DRIVES;
    if (l->connection.state == CONNECTION_READY && link_is_worth_a_write(l)) {
        link_prepare(l, clock_now());
        lock_release(&l->lock);
        end = driver_turn(l, mine, false, caller);
        lock_acquire(&l->lock);
    }
    return end;
}

/* The driver's own request is over. Comes with the lock and goes without. */
static enum thread_end driver_ends(struct link *l, struct redis_request *mine, const struct link_caller *caller) {
    enum thread_end end = driver_write_before_leaving(l, mine, caller);
    if (end == THREAD_DRIVES) { /* else another does, or it gives up */
        link_hand_over(l);
    }
    link_wake_first(l);
    lock_release(&l->lock);
    return end == THREAD_GIVES_UP ? thread_gives_up(l, mine, caller) : THREAD_IS_OVER;
}

/* Drives until `mine` is over, the caller gives up, or another drives. */
static enum thread_end thread_drive(struct link *l, struct redis_request *mine, const struct link_caller *caller) {
    enum thread_end end = driver_read_leftovers(l, mine, caller);
    bool may_look = caller->may_look != NULL; /* not known yet */
    while (end == THREAD_DRIVES) {
        int64_t now = clock_now(), slice_end = may_look ? now + SIGNAL_SLICE_NS : INT64_MAX;
        bool signalled = false;
        lock_acquire(&l->lock);
        link_wake_first(l);
        if (mine->end != REQUEST_OPEN) {
            return driver_ends(l, mine, caller);
        }
        end = driver_round(l, mine, now, slice_end, caller, &signalled);
        /* No other thread ends a request while this one drives, so `mine` can be looked at. */
        if (end == THREAD_DRIVES && may_look && mine->end == REQUEST_OPEN && (signalled || clock_now() >= slice_end)) {
            may_look = caller->may_look(caller->context);
            if (may_look && (end = thread_look(l, mine, caller)) == THREAD_GIVES_UP) {
                return end;
            }
        }
    }
    return end == THREAD_GIVES_UP ? thread_gives_up(l, mine, caller) : end;
}

/* Sleeps until `mine` is over, or it is to drive. */
static enum thread_end thread_follow(struct link *l, struct redis_request *mine, const struct link_caller *caller) {
    int64_t last = mine->deadline + GRACE_NS;
    bool may_look = caller->may_look != NULL; /* not known yet */
    for (;;) {
        enum park_end woken = parker_nap(&mine->parker, last, may_look);
        lock_acquire(&l->lock);
        if (mine->end == REQUEST_OPEN && !mine->drive && clock_now() >= last) {
            link_time_out(l, mine);
        }
        bool over = mine->end != REQUEST_OPEN, drives = mine->drive;
        if (over) {
            link_leave_line(l, mine);
        }
        lock_release(&l->lock);
        if (over || drives) {
            return over ? THREAD_IS_OVER : THREAD_DRIVES;
        }
        if (may_look && woken != PARK_WOKEN && (may_look = caller->may_look(caller->context))) {
            enum thread_end end = thread_look(l, mine, caller);
            if (end != THREAD_FOLLOWS) {
                return end;
            }
        }
    }
}

struct redis_request *link_call(struct link *l, struct redis_request *r, const struct link_caller *caller) {
    parker_init(&r->parker);
    r->in_turn = true;
    r->link = l;
    r->deadline = clock_now() + l->timeout_ns;
    lock_acquire(&l->lock);
    if (l->within == &this_thread) { /* the stream's code, which this thread is in, can't go on before this returns */
        lock_release(&l->lock);
        r->end = REQUEST_UNSENT;
        r->fault = FAULT_WITHIN;
        snprintf(r->error, sizeof r->error, "this thread is using the connection beneath this call");
        return r;
    }
    list_append(&l->waiting, r);
    enum thread_end end = l->driven ? THREAD_FOLLOWS : THREAD_DRIVES;
    r->drive = !l->driven;
    l->driven = true;
    lock_release(&l->lock);
    caller->drop_gil(caller->context);
    while (end == THREAD_DRIVES || end == THREAD_FOLLOWS) {
        end = end == THREAD_DRIVES ? thread_drive(l, r, caller) : thread_follow(l, r, caller);
    }
    if (end == THREAD_GIVES_UP) {
        return NULL;
    }
    caller->take_gil(caller->context);
    return r;
}

bool link_settle(struct link *l, int64_t until, const struct link_caller *caller) {
    lock_acquire(&l->lock);
    bool drives = !l->driven && link_owes_locked(l);
    l->driven = l->driven || drives;
    lock_release(&l->lock);
    if (!drives) {
        return true;
    }
    bool signalled;
    caller->drop_gil(caller->context);
    enum thread_end end = driver_read_leftovers(l, NULL, caller);
    while (end == THREAD_DRIVES) {
        int64_t now = clock_now();
        lock_acquire(&l->lock);
        if (now >= until || !link_owes_locked(l)) {
            end = driver_write_before_leaving(l, NULL, caller);
            lock_release(&l->lock);
            break;
        }
        end = driver_round(l, NULL, now, until, caller, &signalled);
    }
    lock_acquire(&l->lock);
    if (end != THREAD_FOLLOWS) { /* it drives yet */
        link_hand_over(l);
        link_wake_first(l);
    }
    lock_release(&l->lock);
    if (end != THREAD_GIVES_UP) {
        caller->take_gil(caller->context);
    }
    return end != THREAD_GIVES_UP;
}
