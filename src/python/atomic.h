/* Decisions in a store that is written in Python and changes the bytes of its keys one at a time (headway.store.AtomicStore).
 *
 * A decision is a Step, a function from old bytes to new ones that the store calls in the middle of its read-and-write. Waiting, and
 * what is done where the store is not free at once, is in headway._atomic. */
#ifndef HEADWAY_ATOMIC_H
#define HEADWAY_ATOMIC_H

#include "call_type.h"

/* ---- the bytes of one rule's state: (version << 4 | algorithm), and its words, little-endian ---- */

#define STATE_BYTES 25

void state_write(enum algorithm_id id, const struct state *s, char *at);
/* False: no step has written this. */
bool state_read(enum algorithm_id id, const char *at, struct state *s);

enum step_kind { STEP_LIMIT, STEP_SETTLE, STEP_UNDO, STEP_RESET };

typedef struct {
    PyObject_HEAD
    struct module_state *module;
    PlanObject *plan;
    PyObject *keys;        /* tuple of bytes, one for each rule */
    PyObject *key;         /* bytes: of all rules */
    PyObject *bytes;       /* the user's key by itself */
    ClockObject *clock;    /* NULL: real time, */
    long long offset_ns;   /* and this: the store's time less this process' */
    long long cost;        /* of a settlement: the surplus */
    long long deadline_ns; /* an instant until which the caller would wait; 0: not at all */
    int rule;              /* of a settlement */
    enum step_kind kind;
    bool taken; /* the store has called it */
    /* Of the latest call: */
    char admitted;    /* or, of an undo, whether it was undone */
    long long due_ns; /* when an admitted call may go, or a denied one is to ask again; 0: neither */
    struct outcome out;
    struct state before[QUOTA_RULES_MAX], after[QUOTA_RULES_MAX];
} StepObject;

/* What a step does, as a function of states: for stores that keep them as such. `context` is the StepObject; no Python is needed. */
void step_change(void *context, struct state *states);

/* New references. */
StepObject *step_new(LimiterObject *t, PlanObject *plan, const struct table_key *key, enum step_kind kind,
                     int64_t cost);
StepObject *step_limit(LimiterObject *t, PlanObject *plan, const struct table_key *key, int64_t cost,
                       int64_t timeout_ns);
/* True: the store has called the step. False: an exception, which says so. */
bool step_was_taken(StepObject *s, PyObject *place);
/* What the latest call has found and decided. */
PyObject *step_state(StepObject *s, PyObject *unused);
PyObject *step_result(StepObject *s, PyObject *unused);

PyTypeObject *step_type_make(PyObject *module);

#endif
