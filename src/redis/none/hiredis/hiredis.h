/* Stands in for hiredis where headway is built without Redis (HEADWAY_WITHOUT_REDIS=1): all compiles, and no connection can be made. */
#ifndef HEADWAY_NO_HIREDIS_H
#define HEADWAY_NO_HIREDIS_H

#include <stddef.h>

#define HIREDIS_MAJOR 0
#define REDIS_OK 0
#define REDIS_ERR_OOM 5
#define REDIS_REPLY_STRING 1
#define REDIS_REPLY_ARRAY 2
#define REDIS_REPLY_INTEGER 3
#define REDIS_REPLY_NIL 4
#define REDIS_REPLY_STATUS 5
#define REDIS_REPLY_ERROR 6

typedef struct redisReply {
    int type;
    long long integer;
    size_t len;
    char *str;
    size_t elements;
    struct redisReply **element;
} redisReply;

typedef struct redisReadTask {
    int type;
    struct redisReadTask *parent;
    void *privdata;
} redisReadTask;

typedef struct redisReplyObjectFunctions {
    void *(*createArray)(const redisReadTask *task, int count);
} redisReplyObjectFunctions;

typedef struct redisReader {
    int err;
    char errstr[1];
    char *buf;
    size_t pos, len;
    redisReadTask rstack[1];
    int ridx;
    redisReplyObjectFunctions *fn;
    void *privdata;
} redisReader;

static inline redisReader *redisReaderCreate(void) {
    return NULL;
}
static inline void redisReaderFree(redisReader *r) {
    (void)r;
}
static inline int redisReaderFeed(redisReader *r, const char *bytes, size_t length) {
    (void)r, (void)bytes, (void)length;
    return -1;
}
static inline int redisReaderGetReply(redisReader *r, void **reply) {
    (void)r, (void)reply;
    return -1;
}
static inline void freeReplyObject(void *reply) {
    (void)reply;
}

#endif
