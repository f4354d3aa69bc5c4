/* Decisions as Redis scripts: from rules, a key and a cost to a command, and from its reply to an outcome.
 *
 * The scripts (lua/) are the arithmetic of src/core in microseconds; what may leave 2^53 is computed here. The reply is the state
 * of each rule after the decision and the server's time, and the core puts that into words as it does its own. */
#ifndef HEADWAY_SCRIPTS_H
#define HEADWAY_SCRIPTS_H

#include "lease.h"
#include "link.h"
#include "store.h"

/* The names of a plan's keys on a server: {prefix}{key in a hash tag}{tag of the rule}. */
struct redis_names {
    char *prefix; /* "headway:v1:gcra:" */
    size_t prefix_length;
    struct {
        char *tag; /* empty for the only rule */
        size_t length;
    } rules[QUOTA_RULES_MAX];
};

/* Can these rules be kept in a script's numbers? Else: a sentence in `error`. */
bool scripts_can_hold(const struct plan *p, struct quota_error *error);

/* EVALSHA; with `whole` EVAL, for a server that does not know the script. NULL: no memory. cost 0 reads. The cost fits every rule.
 * Buckets reserve: what is due within most_wait_ns is admitted, and is to be waited for. */
struct redis_request *scripts_limit(const struct plan *p, const struct redis_names *names, const struct table_key *key,
                                    int64_t cost, int64_t most_wait_ns, bool whole);
/* Gives back or (negative) charges under one rule; p is of a bucket algorithm. */
struct redis_request *scripts_settle(const struct plan *p, int rule, const struct redis_names *names,
                                     const struct table_key *key, int64_t surplus, bool whole);
/* What gives back, under all rules, the cost that a request of scripts_limit takes: that request's undo. NULL: no memory. */
struct redis_request *scripts_undo(const struct plan *p, const struct redis_names *names, const struct table_key *key,
                                   int64_t cost);
struct redis_request *scripts_reset(const struct plan *p, const struct redis_names *names, const struct table_key *key);

/* Takes a block, and gives back what was left of the one before. */
struct redis_request *scripts_lease(const struct plan *p, const struct redis_names *names, const struct table_key *key,
                                    const struct lease_take *take, bool whole);
/* Only gives back. */
struct redis_request *scripts_give(const struct plan *p, const struct redis_names *names, const struct table_key *key,
                                   const struct lease_give *give, bool whole);
/* Reads the reply to scripts_lease into *take. False: it is not such a reply. */
bool scripts_read_lease(const struct plan *p, const redisReply *reply, struct lease_take *take);

/* Reads the reply to scripts_limit. False: it is not such a reply. `never`: it was asked with cost 0, since the cost never fits. When
 * admitted, out->wait_ns is how long the caller has to wait for what was reserved; -1 for not at all. */
bool scripts_read(const struct plan *p, const redisReply *reply, int64_t cost, int64_t most_wait_ns, bool never,
                  struct outcome *out);

/* The slot of a cluster that the keys of all rules share. */
uint16_t scripts_slot(const struct redis_names *names, const struct table_key *key);

/* ---- for what is asked from Python: any script, any command ---- */

struct script;

/* By the name of its file; NULL: there is none. */
const struct script *scripts_find(const char *name);
/* `words` holds `count` words in the protocol's form, of which the first `keys` are keys. `s` NULL: they are the command. NULL: no memory. */
struct redis_request *scripts_run(const struct script *s, const char *words, size_t length, int count, int keys,
                                  bool whole);
uint16_t scripts_slot_of(const char *key, size_t length);

/* Is it an error that EVAL would not give? */
bool scripts_are_missing(const redisReply *reply);

#endif
