/* Semaphores of leases, without Python: never more holders than permits, in order, and nothing is lost when holders die, leave or
 * give up. A holder here is a number; who lives is told by an array. */
#include "semaphore.h"

#include <pthread.h>
#include <string.h>

#include "check.h"
#include "clock.h"

#define PEOPLE 64
#define TERM (10 * NS_PER_S)

static struct virtual_clock clock_;
static bool alive[PEOPLE];
static int references[PEOPLE];

static void *person(int i) {
    return (void *)(intptr_t)(i + 1);
}
static int number(const void *holder) {
    return (int)(intptr_t)holder - 1;
}
static void keep(void *holder) {
    references[number(holder)]++;
}
static void drop(void *holder) {
    references[number(holder)]--;
}

struct one {
    struct semaphore_waiter waiter;
    bool woken;
};

static void wake(struct waiter *w) {
    ((struct one *)w)->woken = true;
}

static void begin(struct semaphore *s, int64_t capacity) {
    virtual_clock_init(&clock_, NS_PER_S);
    memset(references, 0, sizeof references);
    for (int i = 0; i < PEOPLE; i++) {
        alive[i] = true;
    }
    CHECK(semaphore_init(s, capacity, &clock_, keep));
}

static enum semaphore_end enter(struct semaphore *s, int who, int64_t timeout, struct one *o, int64_t *until) {
    waiter_init(&o->waiter.waiter, wake, NULL);
    o->woken = false;
    enum semaphore_end end = semaphore_wait_begin(s, person(who), TERM, timeout, &o->waiter, until);
    references[who] += end == SEMAPHORE_HELD || end == SEMAPHORE_WAITING;
    return end;
}

static void leave(struct semaphore *s, const struct one *o) {
    void *holder = semaphore_release(s, o->waiter.id);
    if (holder != NULL) {
        drop(holder);
    }
}

static void judge_all(struct semaphore *s) {
    void *holder;
    uint64_t id;
    while ((holder = semaphore_lapsed(s, &id)) != NULL) {
        void *ended = semaphore_judge(s, id, alive[number(holder)]);
        if (ended != NULL) {
            CHECK(ended == holder);
            drop(ended);
        }
        drop(holder);
    }
}

static void a_permit_that_is_given_back_goes_to_the_head_of_the_line(void) {
    struct semaphore s;
    struct one a, b, c;
    int64_t until;
    begin(&s, 1);
    CHECK_EQUAL(enter(&s, 0, INT64_MAX, &a, &until), SEMAPHORE_HELD);
    CHECK_EQUAL(enter(&s, 1, INT64_MAX, &b, &until), SEMAPHORE_WAITING);
    CHECK_EQUAL(until, 11 * NS_PER_S); /* the head looks when the lease runs out */
    CHECK_EQUAL(enter(&s, 2, INT64_MAX, &c, &until), SEMAPHORE_WAITING);
    CHECK_EQUAL(until, INT64_MAX);
    leave(&s, &a);
    CHECK(b.woken);
    CHECK_EQUAL(semaphore_wait_check(&b.waiter, &until), SEMAPHORE_HELD);
    CHECK_EQUAL(semaphore_wait_check(&c.waiter, &until), SEMAPHORE_WAITING);
    CHECK_EQUAL(s.held, 1);
    CHECK_EQUAL(enter(&s, 3, 0, &a, &until), SEMAPHORE_REFUSED);
    leave(&s, &b);
    leave(&s, &b); /* it has ended: nothing more */
    CHECK(!semaphore_has(&s, b.waiter.id) && semaphore_has(&s, c.waiter.id));
    CHECK_EQUAL(semaphore_wait_check(&c.waiter, &until), SEMAPHORE_HELD);
    semaphore_destroy(&s, drop);
    CHECK_EQUAL(references[2], 0);
}

static void the_permit_of_a_holder_that_died_is_free_after_its_term(void) {
    struct semaphore s;
    struct one a, b;
    int64_t until;
    begin(&s, 1);
    CHECK_EQUAL(enter(&s, 0, INT64_MAX, &a, &until), SEMAPHORE_HELD);
    alive[0] = false;
    CHECK_EQUAL(enter(&s, 1, INT64_MAX, &b, &until), SEMAPHORE_WAITING);
    virtual_clock_set(&clock_, 11 * NS_PER_S - 1);
    judge_all(&s);
    CHECK_EQUAL(semaphore_wait_check(&b.waiter, &until), SEMAPHORE_WAITING);
    virtual_clock_set(&clock_, 11 * NS_PER_S);
    CHECK(b.woken);
    judge_all(&s);
    CHECK_EQUAL(semaphore_wait_check(&b.waiter, &until), SEMAPHORE_HELD);
    CHECK_EQUAL(references[0], 0);
    semaphore_destroy(&s, drop);
}

static void a_holder_that_lives_keeps_its_permit(void) {
    struct semaphore s;
    struct one a, b;
    int64_t until;
    begin(&s, 1);
    CHECK_EQUAL(enter(&s, 0, INT64_MAX, &a, &until), SEMAPHORE_HELD);
    CHECK_EQUAL(enter(&s, 1, INT64_MAX, &b, &until), SEMAPHORE_WAITING);
    for (int i = 2; i < 100; i++) {
        virtual_clock_set(&clock_, i * TERM);
        judge_all(&s);
        CHECK_EQUAL(semaphore_wait_check(&b.waiter, &until), SEMAPHORE_WAITING);
        CHECK_EQUAL(until, (i + 1) * TERM);
    }
    semaphore_wait_cancel(&b.waiter);
    references[1]--;
    leave(&s, &a);
    CHECK_EQUAL(s.held, 0);
    semaphore_destroy(&s, drop);
}

static void who_gives_up_loses_no_permit(void) {
    struct semaphore s;
    struct one a, b, c;
    int64_t until;
    begin(&s, 1);
    CHECK_EQUAL(enter(&s, 0, INT64_MAX, &a, &until), SEMAPHORE_HELD);
    CHECK_EQUAL(enter(&s, 1, INT64_MAX, &b, &until), SEMAPHORE_WAITING);
    CHECK_EQUAL(enter(&s, 2, 5 * NS_PER_S, &c, &until), SEMAPHORE_WAITING);
    leave(&s, &a); /* now b has it, and does not want it */
    semaphore_wait_cancel(&b.waiter);
    references[1]--;
    CHECK_EQUAL(semaphore_wait_check(&c.waiter, &until), SEMAPHORE_HELD);
    CHECK_EQUAL(enter(&s, 3, 5 * NS_PER_S, &a, &until), SEMAPHORE_WAITING);
    virtual_clock_set(&clock_, 6 * NS_PER_S);
    CHECK_EQUAL(semaphore_wait_check(&a.waiter, &until), SEMAPHORE_REFUSED);
    references[3]--;
    CHECK_EQUAL(s.line.length, 0);
    leave(&s, &c);
    CHECK_EQUAL(s.held, 0);
    semaphore_destroy(&s, drop);
    for (int i = 0; i < PEOPLE; i++) {
        CHECK_EQUAL(references[i], 0);
    }
}

/* Random life: everybody enters, leaves, gives up and dies as the dice say. */
static void nothing_is_lost_whatever_happens(void) {
    for (uint64_t round = 1; round <= 200; round++) {
        struct semaphore s;
        struct one people[PEOPLE];
        enum { OUT, IN, LINE } where[PEOPLE] = {OUT};
        uint64_t seed = round;
        int64_t until, capacity = 1 + (int64_t)(check_random(&seed) % 5);
        begin(&s, capacity);
        for (int step = 0; step < 500; step++) {
            int who = (int)(check_random(&seed) % PEOPLE);
            switch (check_random(&seed) % 5) {
            case 0:
            case 1:
                if (where[who] == OUT) {
                    alive[who] = true;
                    enum semaphore_end end = enter(&s, who, TERM, &people[who], &until);
                    where[who] = end == SEMAPHORE_HELD ? IN : end == SEMAPHORE_WAITING ? LINE : OUT;
                }
                break;
            case 2:
                if (where[who] == IN) {
                    leave(&s, &people[who]);
                    where[who] = OUT;
                } else if (where[who] == LINE) {
                    semaphore_wait_cancel(&people[who].waiter);
                    references[who]--;
                    where[who] = OUT;
                }
                break;
            case 3:
                if (where[who] == IN) {
                    alive[who] = false;
                }
                break;
            default:
                virtual_clock_set(&clock_, clock_.now + (int64_t)(check_random(&seed) % (uint64_t)TERM));
            }
            judge_all(&s);
            for (int i = 0; i < PEOPLE; i++) {
                if (where[i] == LINE) {
                    enum semaphore_end end = semaphore_wait_check(&people[i].waiter, &until);
                    references[i] -= end == SEMAPHORE_REFUSED;
                    where[i] = end == SEMAPHORE_HELD ? IN : end == SEMAPHORE_WAITING ? LINE : OUT;
                } else if (where[i] == IN && references[i] == 0) {
                    where[i] = OUT; /* buried */
                }
            }
            int64_t in = 0, waiting = 0;
            for (int i = 0; i < PEOPLE; i++) {
                in += where[i] == IN;
                waiting += where[i] == LINE;
            }
            CHECK_EQUAL(in, s.held);
            CHECK_EQUAL(waiting, s.line.length);
            CHECK(s.held <= capacity);
            CHECK(waiting == 0 || s.held == capacity);
        }
        for (int i = 0; i < PEOPLE; i++) {
            if (where[i] == LINE) {
                semaphore_wait_cancel(&people[i].waiter);
                references[i]--;
            }
        }
        semaphore_destroy(&s, drop);
        for (int i = 0; i < PEOPLE; i++) {
            CHECK_EQUAL(references[i], 0);
        }
    }
}

/* ---- threads ---- */

struct sleeper {
    struct semaphore_waiter waiter;
    struct parker parker;
};

static struct semaphore shared;
static _Atomic int inside, most, refused;

static void wake_thread(struct waiter *w) {
    parker_wake(&((struct sleeper *)w)->parker);
}

static void *come_and_go(void *argument) {
    for (int i = 0; i < 2000; i++) {
        struct sleeper me;
        int64_t until;
        parker_init(&me.parker);
        waiter_init(&me.waiter.waiter, wake_thread, NULL);
        enum semaphore_end end = semaphore_wait_begin(&shared, argument, TERM, INT64_MAX, &me.waiter, &until);
        while (end == SEMAPHORE_WAITING) {
            parker_sleep(&me.parker, until);
            end = semaphore_wait_check(&me.waiter, &until);
        }
        int now = atomic_fetch_add(&inside, 1) + 1;
        int before = atomic_load(&most);
        while (now > before && !atomic_compare_exchange_weak(&most, &before, now)) {
        }
        atomic_fetch_sub(&inside, 1);
        refused += semaphore_release(&shared, me.waiter.id) != argument;
        parker_destroy(&me.parker);
    }
    return NULL;
}

static void threads_never_hold_more_than_there_is(void) {
    pthread_t threads[8];
    CHECK(semaphore_init(&shared, 3, NULL, keep));
    for (int i = 0; i < 8; i++) {
        pthread_create(&threads[i], NULL, come_and_go, person(i));
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK(most <= 3);
    CHECK_EQUAL(refused, 0);
    CHECK_EQUAL(shared.held, 0);
    semaphore_destroy(&shared, drop);
}

int main(void) {
    clock_start();
    fork_start();
    a_permit_that_is_given_back_goes_to_the_head_of_the_line();
    the_permit_of_a_holder_that_died_is_free_after_its_term();
    a_holder_that_lives_keeps_its_permit();
    who_gives_up_loses_no_permit();
    nothing_is_lost_whatever_happens();
    threads_never_hold_more_than_there_is();
    return check_end("semaphore");
}
