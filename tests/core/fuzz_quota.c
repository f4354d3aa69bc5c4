/* libFuzzer: any bytes as a quota; what is read obeys the bounds, what is not ends in a sentence. */
#include <stdlib.h>
#include <string.h>

#include "quota.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct quota rules[QUOTA_RULES_MAX];
    struct quota_error error = {""};
    int count = quota_parse((const char *)data, size, rules, &error);
    if (count < 0 || count > QUOTA_RULES_MAX || (count == 0) != (error.text[0] != 0)) {
        abort();
    }
    for (int i = 0; i < count; i++) {
        if (rules[i].limit < 1 || rules[i].period_ns < QUOTA_PERIOD_MIN || rules[i].period_ns > QUOTA_PERIOD_MAX) {
            abort();
        }
    }
    return 0;
}
