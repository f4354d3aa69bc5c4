/* The ledger: what is known of the limits of one scope (a host, or a host and a path) and what we have spent of them.
 *
 * One fact makes the rest obvious: a server's `remaining` is true at the instant at which it answered, and everything of ours that
 * it had not seen by then is to be taken off. So each dimension keeps what the server last granted, apart from what is in flight, and
 * what may be spent is the difference.
 *
 *   ledger_reserve     before a request: takes its cost from all dimensions that it spends, or from none
 *   ledger_observe     after the response, whatever it said
 *   ledger_fail        no response came
 *   ledger_configure   limits that nobody has to learn: they are token buckets
 *
 * Pure functions over one struct: no clock, no lock, no allocation. `now_ns` and the like are instants of the caller's clock, whose
 * processes must agree on it to within a fraction of the shortest window. Every function is total: whatever a server says or
 * a caller passes, the arithmetic stays within bounds. ledger_pack and ledger_unpack carry it through a store. */
#ifndef HEADWAY_LEDGER_H
#define HEADWAY_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "algorithm.h"
#include "observation.h"

#define LEDGER_DIMENSIONS_MAX 16
#define LEDGER_NAME_MAX 40 /* longer names end in their hash */
#define LEDGER_SLOTS 8
#define LEDGER_TRUST 4 /* where it begins: a kept promise adds one, a broken one leaves none */
#define LEDGER_SLOT_NS (10 * INT64_C(1000000000))
#define LEDGER_RING 5
#define LEDGER_AMOUNT_MAX INT64_C(1000000000000) /* costs and limits end there, so that sums of them do not overflow */
#define LEDGER_PATIENCE_NS (10 * INT64_C(1000000000)) /* how long a probe is waited for before another goes */
#define LEDGER_SKEW_MAX_NS (INT64_C(1) << 61)         /* 73 years between two clocks: more is no clock */
/* Sixteen dimensions with the longest names and the longest numbers; two dimensions of a real server take about 200. */
#define LEDGER_BYTES_MAX 6144

/* Who said so. The order is that of rank: what is higher up is not replaced by what is lower. */
enum ledger_source {
    LEDGER_REGISTRY,   /* a provider's profile: yields to the first header */
    LEDGER_DEFAULT,    /* the user's default: yields to the first header too, and to nothing else */
    LEDGER_ESTIMATED,  /* a server's limit, the window of which is not known */
    LEDGER_CONFIRMED,  /* a server's limit and when it resets */
    LEDGER_CONFIGURED, /* the user's word: headers do not overrule it */
    LEDGER_SOURCES,
};
extern const char *const ledger_source_names[LEDGER_SOURCES];

/* A limit as the server last told it, at an instant at which we heard of it. */
struct ledger_word {
    int64_t received_ns, remaining;
};

struct ledger_dimension {
    char name[LEDGER_NAME_MAX], resource[LEDGER_NAME_MAX];
    uint32_t id;    /* of this ledger, never used again */
    uint8_t source; /* enum ledger_source */
    bool bucket;    /* configured, default or seed: `state` counts; else the words do */
    bool own_unit;  /* it is not requests that it counts: only who names it spends it */
    bool stub;      /* nobody has told of it: it only counts what is in flight */
    int64_t limit;  /* UNSAID */
    int64_t window_ns;
    int64_t seen_ns; /* when it was last told of */
    struct state state;

    /* What the server granted: the least of those words of which none is known to be newer than another. `word_count` 0: nothing. */
    struct ledger_word words[LEDGER_RING];
    int word_count;
    /* What ended without a word, until a request that was sent later than that has brought one. */
    int64_t lost, lost_ns;

    /* Its reset: an instant of ours, or (`reset_is_theirs`) of the server's clock. 0: not known. */
    int64_t reset_ns;
    bool reset_is_theirs;
    bool reset_assumed; /* a window after the last one, or after the first word: nobody said it */
    bool reset_moves;   /* it is not that of a fixed window: it comes later while requests are made */
    int64_t turned_ns;  /* the reset that has passed last, as an instant of ours; 0: none */
    int64_t turned_said_ns;
    int64_t grace_ns; /* by how much its resets were too early */

    /* After a reset, and where none is known, one request asks for all: what it learns decides. */
    uint8_t trust; /* above LEDGER_TRUST the resets give the whole limit back */
    bool turned;   /* no word of the new window has come yet */
    bool probing;
    uint8_t misses;   /* probes in a row that found nothing */
    int64_t probe_ns; /* when the next may go */
    int64_t blocked_ns;

    /* What is in flight, by the instant at which it was sent, so that what a dead process has left is dropped in the end. */
    int64_t slot;                    /* the newest: now / LEDGER_SLOT_NS */
    int64_t in_flight[LEDGER_SLOTS]; /* not of what the user has set: its bucket has counted once and for all */
};

struct ledger {
    struct ledger_dimension dimensions[LEDGER_DIMENSIONS_MAX];
    int count;
    uint32_t next_id;
    int64_t blocked_ns; /* the whole scope, until then */
    /* The server's clock less ours lies between the two. Without a Date both are 0. */
    bool clock_known;
    int64_t clock_lo_ns, clock_hi_ns, clock_seen_ns;
};

/* What a request spends: `name` 0-terminated; `resource` NULL or "" where it is not known. */
struct ledger_cost {
    const char *name, *resource;
    int64_t amount;
};

struct ledger_ticket {
    int64_t slot;
    int count;
    int settled; /* observing a response that says nothing of limits would change nothing: it may be left out */
    char resource[LEDGER_NAME_MAX];
    struct {
        uint32_t id;
        int64_t amount;
    } taken[LEDGER_DIMENSIONS_MAX];
};

enum ledger_kind { LEDGER_GRANTED, LEDGER_WAIT, LEDGER_TOO_LONG, LEDGER_NEVER };

struct ledger_answer {
    enum ledger_kind kind;
    int64_t wait_ns; /* WAIT, TOO_LONG: ask again then at the latest; more is not promised, others may ask too */
    bool sooner;     /* a response that is under way may free some: ask after each that comes */
    int dimension;   /* which decides; -1: the whole scope is blocked */
    struct ledger_ticket ticket;
};

struct ledger_status {
    int64_t limit, remaining; /* UNSAID; remaining is what could be spent now */
    int64_t reset_ns;         /* an instant of ours; 0: not known */
    int64_t window_ns;        /* UNSAID */
    enum ledger_source source;
};

struct ledger_use {
    int64_t used_ns; /* when it was last asked or told, to about LEDGER_SLOT_NS; 0: never */
    bool is_set;     /* it has a limit that was set by hand */
    bool is_busy;    /* somebody is under way, or would have to wait */
};

void ledger_init(struct ledger *l);

/* All or nothing; the tightest dimension speaks. A dimension spends the cost of its own name; if its name is not among `costs` and it
 * counts requests ("burst", "requests_daily"), that of "requests". What is not spent is only asked whether it is exhausted. A
 * dimension of one resource is asked by requests for that resource. 0 <= amount; amounts of 0 are allowed. */
void ledger_reserve(struct ledger *l, const struct ledger_cost *costs, int count, int64_t now_ns, int64_t max_wait_ns,
                    struct ledger_answer *out);

/* Ends the ticket. `o` NULL: the response said nothing. Where it says nothing and the ticket is settled, this need not be called. */
void ledger_observe(struct ledger *l, const struct ledger_ticket *t, const struct observation *o, int64_t sent_ns,
                    int64_t received_ns);

/* Ends the ticket. Never sent: the cost goes back. Perhaps sent: it stays counted. */
void ledger_fail(struct ledger *l, const struct ledger_ticket *t, bool was_sent, int64_t now_ns);

/* limit and window as for quota_init, else false and a sentence. CONFIGURED replaces all that is known under the name; DEFAULT
 * and REGISTRY add one limit for each window, unless something of higher rank is known already. False with an empty sentence: no room. */
bool ledger_configure(struct ledger *l, const char *name, const char *resource, int64_t limit, int64_t window_ns,
                      enum ledger_source source, struct quota_error *error);

/* Of dimension `index`; false: it has no limit to tell of. Changes nothing. */
bool ledger_status(const struct ledger *l, int index, int64_t now_ns, struct ledger_status *out);

/* For a store that has to choose what to forget. */
void ledger_use_of(const struct ledger *l, int64_t now_ns, struct ledger_use *out);

/* At most LEDGER_BYTES_MAX bytes; the number written. Unpacking takes only what packing can have written: else false. */
size_t ledger_pack(const struct ledger *l, unsigned char *bytes);
bool ledger_unpack(struct ledger *l, const unsigned char *bytes, size_t length);

/* For ledger_observe.c: shared with ledger.c. */
void ledger_dimension_turn(const struct ledger *l, struct ledger_dimension *d, int64_t now_ns);
int64_t ledger_dimension_reset(const struct ledger *l, const struct ledger_dimension *d);
int64_t ledger_dimension_in_flight(const struct ledger *l, const struct ledger_dimension *d, int64_t now_ns);
void ledger_dimension_spend(struct ledger_dimension *d, int64_t amount, int64_t ended_ns);
int64_t ledger_dimension_granted(const struct ledger_dimension *d);
struct ledger_dimension *ledger_dimension_add(struct ledger *l, const char *name, const char *resource, int64_t now_ns);
void ledger_dimension_drop(struct ledger *l, int index);
void ledger_dimension_say(struct ledger_dimension *d, int64_t remaining, int64_t sent_ns, int64_t received_ns);
void ledger_name_copy(char to[LEDGER_NAME_MAX], const char *from);
bool ledger_quota(const struct ledger_dimension *d, struct quota *q);

#endif
