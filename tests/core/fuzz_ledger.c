/* libFuzzer: any requests, responses and limits by hand, one after the other, at any instants: the ledger's answers stay within their
 * bounds, and what it has become can be packed and unpacked. */
#include "clock.h"
#include "fuzz_input.h"
#include "ledger.h"

#define TICKETS 8
#define START_NS (INT64_C(1700000000) * NS_PER_S)

static const char *const names[] = {
    "requests",    "tokens",       "burst", "requests_daily",
    "concurrency", "input_tokens", "a",     "a_name_that_is_longer_than_a_dimension_has_room_for"};
static const char *const resources[] = {"", "core", "search", "another_resource_whose_name_is_much_too_long"};

static struct ledger_cost cost_of(struct input *in) {
    unsigned pick = input_byte(in);
    int64_t amount = input_number(in);
    return (struct ledger_cost){names[pick % 8], resources[pick / 8 % 4], amount < 0 ? 0 : amount};
}

static struct observation observation_of(struct input *in) {
    struct observation o = {.date_ns = UNSAID};
    unsigned kind = input_byte(in);
    o.count = (int)(kind % 4);
    o.date_ns = kind & 4 ? input_number(in) : UNSAID;
    o.retry = kind & 8 ? (kind & 16 ? RESET_AT : RESET_AFTER) : RESET_UNSAID;
    o.retry_ns = kind & 8 ? input_number(in) : 0;
    o.retry_is_for_all = kind & 32;
    for (int i = 0; i < o.count; i++) {
        struct observed_dimension *d = &o.dimensions[i];
        unsigned pick = input_byte(in);
        strncpy(d->name, names[pick % 8], OBSERVED_NAME_MAX - 1);
        strncpy(d->resource, resources[pick / 8 % 4], OBSERVED_NAME_MAX - 1);
        d->reset = (enum observed_reset)(input_byte(in) % 3);
        d->limit = pick & 64 ? UNSAID : input_number(in);
        d->remaining = pick & 128 ? UNSAID : input_number(in);
        d->window_ns = input_number(in);
        d->reset_ns = input_number(in);
    }
    return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct ledger l, copy;
    static unsigned char bytes[LEDGER_BYTES_MAX];
    static struct ledger_ticket tickets[TICKETS];
    struct input in = {data, data + size};
    int64_t now = START_NS;
    memset(tickets, 0, sizeof tickets);
    ledger_init(&l);
    for (int step = 0; in.at < in.end && step < 200; step++) {
        unsigned what = input_byte(&in);
        struct ledger_ticket *t = &tickets[what / 8 % TICKETS];
        int64_t later = input_number(&in);
        now = what & 64 ? later : START_NS + step * NS_PER_S + (later & 0xFFFFFF) * 10000;
        switch (what % 8) {
        case 0:
        case 1:
        case 2: {
            struct ledger_cost costs[3];
            int count = 1 + (int)(what % 3);
            for (int i = 0; i < count; i++) {
                costs[i] = cost_of(&in);
            }
            struct ledger_answer answer;
            ledger_reserve(&l, costs, count, now, input_number(&in), &answer);
            promise(answer.wait_ns >= 0 && answer.dimension >= -1 && answer.dimension < l.count);
            promise(answer.kind == LEDGER_GRANTED || answer.wait_ns > 0);
            *t = answer.ticket;
            break;
        }
        case 3:
        case 4:
        case 5: {
            struct observation o = observation_of(&in);
            int64_t received = input_number(&in);
            ledger_observe(&l, t, what & 128 ? NULL : &o, now,
                           received & 1 ? received : START_NS + (received & 0xFFFFFFFF));
            memset(t, 0, sizeof *t);
            break;
        }
        case 6:
            ledger_fail(&l, t, what & 128, now);
            memset(t, 0, sizeof *t);
            break;
        default: {
            struct ledger_cost cost = cost_of(&in);
            struct quota_error error = {""};
            ledger_configure(&l, cost.name, cost.resource, cost.amount, input_number(&in),
                             (enum ledger_source)(input_byte(&in) % LEDGER_SOURCES), &error);
        }
        }
        promise(l.count >= 0 && l.count <= LEDGER_DIMENSIONS_MAX);
        for (int i = 0; i < l.count; i++) {
            struct ledger_status status;
            promise(!ledger_status(&l, i, now, &status) || status.remaining == UNSAID || status.remaining >= 0);
        }
        struct ledger_use use;
        ledger_use_of(&l, now, &use);
        size_t length = ledger_pack(&l, bytes);
        promise(length <= LEDGER_BYTES_MAX && ledger_unpack(&copy, bytes, length));
    }
    return 0;
}
