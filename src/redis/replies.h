/* Replies of a server, read within bounds.
 *
 * hiredis reads the protocol; how deep a reply may be nested and how much memory it may take is decided here, for every version of
 * hiredis, before the memory is taken. Nothing that a store asks for comes near these bounds. A reply within them can be freed and
 * converted by a function that calls itself. */
#ifndef HEADWAY_REPLIES_H
#define HEADWAY_REPLIES_H

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stddef.h>

#define REPLY_DEPTH_MAX 7            /* arrays within arrays; more is what hiredis 0.14 cannot read */
#define REPLY_ELEMENTS_MAX (1 << 20) /* of all arrays of a reply together */
#define REPLY_BYTES_MAX (64 << 20)   /* of a reply as it is sent */
#define REPLY_LINE_MAX (64 << 10)    /* of a line: a status, an error, a number */

struct reply_reader {
    redisReader *reader;                 /* NULL: not open */
    redisReplyObjectFunctions functions; /* what makes the replies: hiredis' functions, and ours for arrays */
    const redisReplyObjectFunctions *hiredis;
    size_t elements, bytes; /* of the reply that is being read */
    const char *error;      /* why nothing more can be read; NULL: it can */
    bool no_memory;         /* the error is that there was no memory for a reply, which may be in order */
};

/* It must stay where it is while it is open. False: no memory. */
bool reply_reader_open(struct reply_reader *r);
void reply_reader_close(struct reply_reader *r);

/* False: see r->error. */
bool reply_reader_feed(struct reply_reader *r, const char *bytes, size_t length);

/* The next reply, the caller's to free; NULL: there is none yet, or (r->error) there will be none. */
redisReply *reply_reader_take(struct reply_reader *r);

#endif
