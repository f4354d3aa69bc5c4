/* libFuzzer: any bytes as the headers of a response, and as one value of each kind; what is read obeys the bounds.
 *
 * The first byte is the status and whether there are names of the user's own. A byte from 0x80 on stands for the name of a
 * known header and a colon: so the fuzzer need not find long names byte by byte. */
#include "headers_help.h"

#define RECEIVED_NS (INT64_C(1700000000) * NS_PER_S)
#define TEXT_MAX 8192

static const char *const names[] = {"X-RateLimit-Limit: ",
                                    "X-RateLimit-Remaining: ",
                                    "X-RateLimit-Reset: ",
                                    "X-RateLimit-Used: ",
                                    "X-RateLimit-Reset-After: ",
                                    "X-RateLimit-Policy: ",
                                    "X-RateLimit-Resource: ",
                                    "X-RateLimit-Global: ",
                                    "X-RateLimit-Reason: ",
                                    "RateLimit-Limit: ",
                                    "RateLimit-Remaining: ",
                                    "RateLimit-Reset: ",
                                    "RateLimit-ResetTime: ",
                                    "RateLimit: ",
                                    "RateLimit-Policy: ",
                                    "Beta-RateLimit: ",
                                    "Retry-After: ",
                                    "Retry-After-Ms: ",
                                    "Date: ",
                                    "X-RateLimit-Limit-Tokens: ",
                                    "Anthropic-RateLimit-Tokens-Reset: ",
                                    "X-HubSpot-RateLimit-Max: ",
                                    "X-HubSpot-RateLimit-Interval-Milliseconds: ",
                                    "X-Shopify-Shop-Api-Call-Limit: ",
                                    "X-Amzn-RateLimit-Limit: ",
                                    "X-Ms-RateLimit-Remaining-Resource: ",
                                    "X-Ms-RateLimit-Remaining-",
                                    "X-GitHub-Request-Id: ",
                                    "Window: ",
                                    "X-Rate-Limit-Limit: ",
                                    "X-Rate-Limit-Remaining: ",
                                    "X-RateLimit-Limit-Day: "};

static size_t expand(const uint8_t *data, size_t size, char *text) {
    size_t length = 0;
    for (size_t i = 0; i < size && length + 64 < TEXT_MAX; i++) {
        if (data[i] < 0x80 || (i > 0 && data[i - 1] != '\n')) {
            text[length++] = (char)data[i];
        } else {
            const char *name = names[data[i] % (sizeof names / sizeof names[0])];
            memcpy(text + length, name, strlen(name));
            length += strlen(name);
        }
    }
    return length;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct headers_map map = {{[MAPPED_LIMIT] = {"limit", 5}, [MAPPED_WINDOW] = {"Window", 6}}};
    static const int statuses[] = {0, 200, 403, 429, 503};
    static char text[TEXT_MAX];
    struct observation out;
    struct moment moment;
    int64_t ns;
    if (size == 0) {
        return 0;
    }
    size_t length = expand(data + 1, size - 1, text);
    help_parse(text, length, statuses[data[0] % 5], RECEIVED_NS, data[0] & 0x80 ? &map : NULL, &out);
    if (help_wrong(&out, RECEIVED_NS) != NULL) {
        abort();
    }
    struct text whole = {(const char *)data, size};
    if (value_duration(whole, &ns) && (ns < 0 || ns >= DELAY_END_S * NS_PER_S)) {
        abort();
    }
    if (value_date(whole, &ns) && (ns < INSTANT_FIRST_S * NS_PER_S || ns >= CLOCK_END)) {
        abort();
    }
    if (value_reset(whole, RESET_ANY, &moment) && !help_moment_fits(moment.kind, moment.ns, CLOCK_END)) {
        abort();
    }
    return 0;
}
