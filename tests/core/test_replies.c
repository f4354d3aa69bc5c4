/* Replies within bounds: what is within is read, what is beyond is refused before there is memory for it, whatever pieces it comes in.
 *
 * Built with HEADWAY_WITHOUT_REDIS=1, as the Makefile does where there is no hiredis, this tests nothing. */
#include "check.h"

#ifndef HEADWAY_WITHOUT_REDIS

#include <stdlib.h>
#include <string.h>

#include "replies.h"

/* The error for these bytes, fed in pieces; NULL: none. The last whole reply, if any, is in *last. */
static const char *error_of(const char *bytes, size_t length, size_t piece, redisReply **last) {
    static char error[128];
    struct reply_reader r;
    bool open = reply_reader_open(&r);
    CHECK(open);
    *last = NULL;
    for (size_t at = 0; open && at < length && r.error == NULL; at += piece) {
        redisReply *reply;
        if (!reply_reader_feed(&r, bytes + at, length - at < piece ? length - at : piece)) {
            break;
        }
        while ((reply = reply_reader_take(&r)) != NULL) {
            if (*last != NULL) {
                freeReplyObject(*last);
            }
            *last = reply;
        }
    }
    const char *said = r.error;
    if (said != NULL) {
        snprintf(error, sizeof error, "%s", said);
    }
    reply_reader_close(&r);
    return said == NULL ? NULL : error;
}

static void check_refused(const char *bytes, size_t length) {
    redisReply *last;
    for (size_t piece = 1; piece <= 16384; piece *= 128) {
        if (piece == 1 && length > 100000) {
            continue;
        }
        CHECK(error_of(bytes, length, piece, &last) != NULL);
        if (last != NULL) {
            freeReplyObject(last);
        }
    }
}

static void lengths_beyond_the_bounds_are_refused(void) {
    static const char *const beyond[] = {
        "*2147483647\r\n",
        "*1048577\r\n",
        "*2\r\n:1\r\n*2147483647\r\n",
        ":1\r\n*2147483647\r\n",
        "$67108865\r\n",
        "$99999999999999999999",
        "*2\r\n$67108865\r\n",
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
    };
    for (size_t i = 0; i < sizeof beyond / sizeof beyond[0]; i++) {
        check_refused(beyond[i], strlen(beyond[i]));
    }
}

static char *repeated(const char *text, size_t count, size_t *length) {
    size_t one = strlen(text);
    char *bytes = malloc(one * count + 1);
    for (size_t i = 0; bytes != NULL && i < count; i++) {
        memcpy(bytes + i * one, text, one);
    }
    *length = one * count;
    return bytes;
}

static void nesting_is_refused_however_deep_it_is(void) {
    size_t length;
    char *bytes = repeated("*1\r\n", 400000, &length);
    check_refused(bytes, length);
    free(bytes);
}

static void arrays_that_are_too_many_together_are_refused(void) {
    char *bytes = malloc(16 << 20), *at = bytes;
    at += sprintf(at, "*2000\r\n");
    for (int i = 0; i < 1100; i++) {
        at += sprintf(at, "*1000\r\n");
        for (int j = 0; j < 1000; j++) {
            at += sprintf(at, ":1\r\n");
        }
    }
    check_refused(bytes, (size_t)(at - bytes));
    free(bytes);
}

static void a_line_without_an_end_is_refused(void) {
    static const char *const kinds[] = {"+", "-", ":", "*", "$"};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        size_t length;
        char *bytes = repeated("1", REPLY_LINE_MAX + 2, &length);
        bytes[0] = kinds[i][0];
        redisReply *last;
        CHECK(error_of(bytes, length, 4096, &last) != NULL);
        free(bytes);
    }
}

static void a_text_without_an_end_takes_no_more_than_the_bound(void) {
    struct reply_reader r;
    static char bytes[1 << 20];
    size_t fed = 0;
    memset(bytes, 'x', sizeof bytes);
    CHECK(reply_reader_open(&r));
    const char *open = "*3\r\n$60000000\r\n"; /* and the next is as long */
    CHECK(reply_reader_feed(&r, open, strlen(open)));
    CHECK(reply_reader_take(&r) == NULL && r.error == NULL);
    while (r.error == NULL && fed < (size_t)4 * REPLY_BYTES_MAX) {
        fed += sizeof bytes;
        if (reply_reader_feed(&r, bytes, sizeof bytes)) {
            CHECK(reply_reader_take(&r) == NULL);
        }
    }
    CHECK(r.error != NULL);
    CHECK(fed <= REPLY_BYTES_MAX + sizeof bytes);
    reply_reader_close(&r);
}

static void what_is_within_is_read(void) {
    static const char within[] = "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*2\r\n:7\r\n$3\r\nabc\r\n";
    for (size_t piece = 1; piece < sizeof within; piece++) {
        redisReply *last;
        CHECK(error_of(within, sizeof within - 1, piece, &last) == NULL);
        CHECK(last != NULL);
        const redisReply *inner = last;
        while (inner != NULL && inner->type == REDIS_REPLY_ARRAY && inner->elements == 1) {
            inner = inner->element[0];
        }
        CHECK(inner != NULL && inner->elements == 2 && inner->element[0]->integer == 7);
        freeReplyObject(last);
    }
}

static void the_bounds_are_of_one_reply_and_not_of_a_connection(void) {
    struct reply_reader r;
    static char text[(1 << 20) + 32];
    CHECK(reply_reader_open(&r));
    int length = snprintf(text, sizeof text, "*2\r\n:1\r\n$%d\r\n", 1 << 20);
    memset(text + length, 'x', 1 << 20);
    memcpy(text + length + (1 << 20), "\r\n", 2);
    for (int i = 0; i < 100; i++) {
        CHECK(reply_reader_feed(&r, text, (size_t)length + (1 << 20) + 2));
        redisReply *reply = reply_reader_take(&r);
        CHECK(reply != NULL && reply->elements == 2);
        if (reply != NULL) {
            freeReplyObject(reply);
        }
    }
    reply_reader_close(&r);
}

static void *no_memory(const redisReadTask *task, char *text, size_t length) {
    (void)task, (void)text, (void)length;
    return NULL;
}

static void a_lack_of_memory_is_told_from_a_reply_that_cannot_be(void) {
    static const struct {
        const char *bytes;
        bool fails, no_memory;
    } cases[] = {{"$5\r\nhello\r\n", true, true},
                 {"*2\r\n:1\r\n+fine\r\n", true, true},
                 {":5\r\n", false, false},
                 {"*1048577\r\n", true, false},
                 {"not of this protocol", true, false},
                 {"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", true, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct reply_reader r;
        CHECK(reply_reader_open(&r));
        r.functions.createString = no_memory;
        CHECK(reply_reader_feed(&r, cases[i].bytes, strlen(cases[i].bytes)));
        redisReply *reply = reply_reader_take(&r);
        CHECK_EQUAL(reply == NULL, cases[i].fails);
        CHECK_EQUAL(r.error != NULL, cases[i].fails);
        CHECK_EQUAL(r.no_memory, cases[i].no_memory);
        if (reply != NULL) {
            freeReplyObject(reply);
        }
        reply_reader_close(&r);
    }
}

int main(void) {
    what_is_within_is_read();
    a_lack_of_memory_is_told_from_a_reply_that_cannot_be();
    lengths_beyond_the_bounds_are_refused();
    nesting_is_refused_however_deep_it_is();
    arrays_that_are_too_many_together_are_refused();
    a_line_without_an_end_is_refused();
    a_text_without_an_end_takes_no_more_than_the_bound();
    the_bounds_are_of_one_reply_and_not_of_a_connection();
    return check_end("test_replies");
}

#else

int main(void) {
    return check_end("test_replies");
}

#endif
