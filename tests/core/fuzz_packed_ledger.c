/* libFuzzer: any bytes as a packed ledger; what is unpacked can be asked, told and packed again, and is the same then. */
#include "fuzz_input.h"
#include "ledger.h"

#define NOW_NS (INT64_C(1700000000) * INT64_C(1000000000))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct ledger l, again;
    static unsigned char first[LEDGER_BYTES_MAX], second[LEDGER_BYTES_MAX];
    if (!ledger_unpack(&l, data, size)) {
        promise(l.count == 0);
        return 0;
    }
    promise(l.count <= LEDGER_DIMENSIONS_MAX);
    size_t length = ledger_pack(&l, first);
    promise(length <= LEDGER_BYTES_MAX && ledger_unpack(&again, first, length));
    promise(ledger_pack(&again, second) == length && memcmp(first, second, length) == 0);

    struct ledger_status status;
    struct ledger_use use;
    for (int i = 0; i < l.count; i++) {
        ledger_status(&l, i, NOW_NS, &status);
    }
    ledger_use_of(&l, NOW_NS, &use);
    struct ledger_cost cost = {"requests", "", 1};
    struct ledger_answer answer;
    ledger_reserve(&l, &cost, 1, NOW_NS, INT64_C(1) << 40, &answer);
    promise(answer.wait_ns >= 0 && answer.dimension < l.count);
    struct observation o = {.count = 1, .date_ns = UNSAID};
    memcpy(o.dimensions[0].name, "requests", 9);
    o.dimensions[0].limit = 10;
    o.dimensions[0].remaining = 5;
    o.dimensions[0].window_ns = UNSAID;
    o.dimensions[0].reset = RESET_AFTER;
    o.dimensions[0].reset_ns = INT64_C(1000000000);
    ledger_observe(&l, &answer.ticket, &o, NOW_NS, NOW_NS + 1000000);
    promise(l.count <= LEDGER_DIMENSIONS_MAX && ledger_pack(&l, first) <= LEDGER_BYTES_MAX);
    return 0;
}
