/* Replies within bounds: see replies.h. */
#include "replies.h"

#include <string.h>

static const char too_long[] = "a reply of absurd length";
static const char too_deep[] = "a reply that is nested too deeply";

#if HIREDIS_MAJOR >= 1
typedef size_t element_count;
#else
typedef int element_count;
#endif

/* hiredis calls this when it has read how many elements follow, and before there is room for one of them. */
static void *reply_create_array(const redisReadTask *task, element_count count) {
    struct reply_reader *r = task->privdata;
    int depth = 1;
    for (const redisReadTask *parent = task->parent; parent != NULL; parent = parent->parent) {
        depth++;
    }
    if (depth == 1) {
        r->elements = 0;
    }
    if (depth > REPLY_DEPTH_MAX) {
        r->error = too_deep;
        return NULL;
    }
    if ((size_t)count > REPLY_ELEMENTS_MAX - r->elements) {
        r->error = too_long;
        return NULL;
    }
    r->elements += (size_t)count;
    return r->hiredis->createArray(task, count);
}

bool reply_reader_open(struct reply_reader *r) {
    *r = (struct reply_reader){.reader = redisReaderCreate()};
    if (r->reader == NULL) {
        return false;
    }
    r->hiredis = r->reader->fn;
    r->functions = *r->hiredis;
    r->functions.createArray = reply_create_array;
    r->reader->fn = &r->functions;
    r->reader->privdata = r;
    return true;
}

void reply_reader_close(struct reply_reader *r) {
    if (r->reader != NULL) {
        redisReaderFree(r->reader);
    }
    *r = (struct reply_reader){0};
}

static void reply_reader_failed(struct reply_reader *r) {
    r->error = r->reader->errstr;
    r->no_memory = r->reader->err == REDIS_ERR_OOM;
}

bool reply_reader_feed(struct reply_reader *r, const char *bytes, size_t length) {
    r->bytes += length;
    if (r->error == NULL && r->bytes > REPLY_BYTES_MAX) {
        r->error = too_long;
    }
    if (r->error == NULL && redisReaderFeed(r->reader, bytes, length) != REDIS_OK) {
        reply_reader_failed(r);
    }
    return r->error == NULL;
}

/* Is the item that has begun a text, whose length is announced first? Else it is one line. */
static bool reply_item_is_text(const redisReader *reader) {
#if HIREDIS_MAJOR >= 1
    int type = reader->task[reader->ridx]->type;
    return type == REDIS_REPLY_STRING || type == REDIS_REPLY_VERB;
#else
    return reader->rstack[reader->ridx].type == REDIS_REPLY_STRING;
#endif
}

/* What has come of the next item, after the byte that says its kind: a text whose announced length is within bounds, or a line that is
 * not long yet. */
static bool reply_rest_is_bounded(const redisReader *reader) {
    size_t length = reader->len - reader->pos, announced = 0, at = 0;
    if (length == 0 || reader->ridx < 0) {
        return true;
    }
    const char *rest = reader->buf + reader->pos;
    if (!reply_item_is_text(reader)) {
        return length <= REPLY_LINE_MAX;
    }
    while (at < length && rest[at] >= '0' && rest[at] <= '9' && announced <= REPLY_BYTES_MAX) {
        announced = announced * 10 + (size_t)(rest[at++] - '0');
    }
    return announced <= REPLY_BYTES_MAX && (at < length || length <= REPLY_LINE_MAX);
}

redisReply *reply_reader_take(struct reply_reader *r) {
    void *reply = NULL;
    if (r->error != NULL) {
        return NULL;
    }
    if (redisReaderGetReply(r->reader, &reply) != REDIS_OK) {
        if (r->error == NULL) { /* else of reply_create_array, which hiredis takes for a lack of memory */
            reply_reader_failed(r);
        }
        return NULL;
    }
    if (reply != NULL) {
        r->bytes = r->reader->len - r->reader->pos;
    } else if (!reply_rest_is_bounded(r->reader)) {
        r->error = too_long;
    }
    return reply;
}
