/* libFuzzer: any bytes as what a server sends, in any pieces: replies within bounds, which become an outcome or are refused.
 *
 * The first byte is the algorithm and the number of rules, the second how long the pieces are.
 * Built with HEADWAY_WITHOUT_REDIS=1, as the Makefile does where there is no hiredis, this tests nothing. */
#include "fuzz_input.h"

#ifndef HEADWAY_WITHOUT_REDIS

#include "clock.h"
#include "replies.h"
#include "scripts.h"

#define RULES_MAX 3

static void read_reply(const struct plan *p, const redisReply *reply) {
    struct outcome out;
    struct decision report;
    for (int cost = 0; cost < 2; cost++) {
        if (scripts_read(p, reply, cost, NS_PER_S, false, &out)) {
            promise(out.kind == OUTCOME_ADMITTED || out.kind == OUTCOME_DENIED);
            promise(out.rule >= 0 && out.rule < p->count && out.wait_ns >= -1 && out.now >= 0);
            algorithm_report(p->algorithm, &out.state, &p->rules[out.rule].quota, out.denied_cost, out.now, &report);
            promise(report.remaining >= 0 && report.retry_after_ns >= 0 && report.reset_after_ns >= 0);
        }
    }
    struct lease_take take = {.cost = 1, .count = 8};
    scripts_read_lease(p, reply, &take);
    scripts_are_missing(reply);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct plan *p;
    struct input in = {data, data + size};
    struct quota_error error;
    struct reply_reader r;
    unsigned first = input_byte(&in);
    size_t piece = 1 + input_byte(&in);
    if (p == NULL) {
        p = calloc(1, sizeof *p + RULES_MAX * sizeof p->rules[0]);
        promise(p != NULL);
    }
    p->algorithm = (enum algorithm_id)(first % ALGORITHM_COUNT);
    p->count = 1 + (int)(first / 8 % RULES_MAX);
    for (int i = 0; i < p->count; i++) {
        promise(quota_init(&p->rules[i].quota, 5 + i, (60 + i) * NS_PER_S, 7, &error));
    }
    if (!reply_reader_open(&r)) {
        return 0;
    }
    while (in.at < in.end && r.error == NULL) {
        size_t length = (size_t)(in.end - in.at) < piece ? (size_t)(in.end - in.at) : piece;
        redisReply *reply;
        if (!reply_reader_feed(&r, (const char *)in.at, length)) {
            break;
        }
        in.at += length;
        while ((reply = reply_reader_take(&r)) != NULL) {
            read_reply(p, reply);
            freeReplyObject(reply);
        }
    }
    reply_reader_close(&r);
    return 0;
}

#else
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    (void)data;
    (void)size;
    return 0;
}
#endif
