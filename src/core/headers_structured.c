/* The grammar of RFC 9651, section 4.2, by recursive descent; inner lists do not nest, so nothing here does. */
#include "headers_structured.h"

#include <string.h>

static bool is_lower(char c) {
    return c >= 'a' && c <= 'z';
}
static bool is_alpha(char c) {
    return is_lower(c) || (c >= 'A' && c <= 'Z');
}
static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
static bool is_token(char c) {
    return is_alpha(c) || is_digit(c) || (c != 0 && strchr("!#$%&'*+-.^_`|~:/", c) != NULL);
}
static bool is_key(char c) {
    return is_lower(c) || is_digit(c) || c == '_' || c == '-' || c == '.' || c == '*';
}
static bool is_base64(char c) {
    return is_alpha(c) || is_digit(c) || c == '+' || c == '/' || c == '=';
}

static char peek(const struct text *rest) {
    return rest->length > 0 ? rest->at[0] : 0;
}

static void advance(struct text *rest, size_t count) {
    rest->at += count;
    rest->length -= count;
}

static bool text_take(struct text *rest, char c) {
    if (rest->length > 0 && rest->at[0] == c) {
        advance(rest, 1);
        return true;
    }
    return false;
}

static struct text take_while(struct text *rest, bool (*belongs)(char)) {
    struct text taken = {rest->at, 0};
    while (taken.length < rest->length && belongs(rest->at[taken.length])) {
        taken.length++;
    }
    advance(rest, taken.length);
    return taken;
}

static void skip_blanks(struct text *rest, bool tabs) {
    while (peek(rest) == ' ' || (tabs && peek(rest) == '\t')) {
        advance(rest, 1);
    }
}

/* At most 15 digits, or 12 and a point and 3. */
static bool take_number(struct text *rest, struct field_value *value) {
    value->negative = text_take(rest, '-');
    struct text digits = take_while(rest, is_digit);
    value->type = FIELD_INTEGER;
    size_t most = 15;
    struct text all = digits;
    if (peek(rest) == '.') {
        advance(rest, 1);
        struct text fraction = take_while(rest, is_digit);
        if (fraction.length < 1 || fraction.length > 3) {
            return false;
        }
        value->type = FIELD_DECIMAL;
        all.length += 1 + fraction.length;
        most = 12;
    }
    return digits.length >= 1 && digits.length <= most && value_number(all, &value->number);
}

/* Behind the opening quote: printable ASCII, where a backslash stands before a quote or another backslash. */
static bool take_quoted(struct text *rest, struct text *text, bool escapes) {
    *text = (struct text){rest->at, 0};
    while (rest->length > 0) {
        char c = rest->at[0];
        if (c == '"') {
            text->length = (size_t)(rest->at - text->at);
            advance(rest, 1);
            return true;
        }
        if (c < 0x20 || c > 0x7E) {
            return false;
        }
        if (c == '\\' && escapes) {
            if (rest->length < 2 || (rest->at[1] != '"' && rest->at[1] != '\\')) {
                return false;
            }
            advance(rest, 1);
        }
        advance(rest, 1);
    }
    return false;
}

static bool take_item(struct text *rest, struct field_value *value) {
    *value = (struct field_value){.type = FIELD_TOKEN};
    char c = peek(rest);
    if (is_digit(c) || c == '-') {
        return take_number(rest, value);
    }
    if (is_alpha(c) || c == '*') {
        value->text = take_while(rest, is_token);
        return true;
    }
    if (rest->length == 0) {
        return false;
    }
    advance(rest, 1);
    switch (c) {
    case '"':
        value->type = FIELD_STRING;
        return take_quoted(rest, &value->text, true);
    case ':':
        value->type = FIELD_BYTES;
        value->text = take_while(rest, is_base64);
        return text_take(rest, ':');
    case '?':
        value->type = FIELD_BOOLEAN;
        value->truth = peek(rest) == '1';
        return text_take(rest, '1') || text_take(rest, '0');
    case '@':
        return take_number(rest, value) && value->type == FIELD_INTEGER && (value->type = FIELD_DATE, true);
    case '%':
        value->type = FIELD_DISPLAY;
        return text_take(rest, '"') && take_quoted(rest, &value->text, false);
    default:
        return false;
    }
}

static bool take_key(struct text *rest, struct text *key) {
    if (!is_lower(peek(rest)) && peek(rest) != '*') {
        return false;
    }
    *key = take_while(rest, is_key);
    return true;
}

/* Blanks before the semicolon are the old drafts' grammar, and not RFC 9651's. */
static bool take_semicolon(struct text *rest) {
    struct text ahead = *rest;
    skip_blanks(&ahead, true);
    if (!text_take(&ahead, ';')) {
        return false;
    }
    skip_blanks(&ahead, true);
    *rest = ahead;
    return true;
}

static bool take_parameter(struct text *rest, struct text *key, struct field_value *value) {
    if (!take_key(rest, key)) {
        return false;
    }
    if (text_take(rest, '=')) {
        return take_item(rest, value);
    }
    *value = (struct field_value){.type = FIELD_BOOLEAN, .truth = true};
    return true;
}

bool field_parameter(struct text *rest, struct text *key, struct field_value *value) {
    return take_semicolon(rest) && take_parameter(rest, key, value);
}

static bool take_parameters(struct text *rest, struct text *parameters) {
    *parameters = (struct text){rest->at, 0};
    while (take_semicolon(rest)) {
        struct text key;
        struct field_value value;
        if (!take_parameter(rest, &key, &value)) {
            return false;
        }
        parameters->length = (size_t)(rest->at - parameters->at);
    }
    return true;
}

static bool take_inner(struct text *rest, struct field_value *value) {
    *value = (struct field_value){.type = FIELD_INNER, .text = {rest->at, 0}};
    for (;;) {
        skip_blanks(rest, false);
        if (peek(rest) == ')') {
            value->text.length = (size_t)(rest->at - value->text.at);
            advance(rest, 1);
            return true;
        }
        struct field_value item;
        struct text parameters;
        if (!take_item(rest, &item) || !take_parameters(rest, &parameters) ||
            (peek(rest) != ' ' && peek(rest) != ')')) {
            return false;
        }
    }
}

static bool take_member(struct text *rest, struct field_member *member) {
    struct text ahead = *rest;
    member->key = (struct text){rest->at, 0};
    /* A key with a value, else the same letters are a token. */
    if (take_key(&ahead, &member->key) && text_take(&ahead, '=')) {
        *rest = ahead;
    } else {
        member->key.length = 0;
    }
    bool good = text_take(rest, '(') ? take_inner(rest, &member->value) : take_item(rest, &member->value);
    return good && take_parameters(rest, &member->parameters);
}

/* Behind the next comma that is not inside quotes. */
static void skip_member(struct text *rest) {
    bool quoted = false;
    while (rest->length > 0) {
        char c = rest->at[0];
        advance(rest, 1);
        if (c == '"') {
            quoted = !quoted;
        } else if (quoted && c == '\\' && rest->length > 0) {
            advance(rest, 1);
        } else if (!quoted && c == ',') {
            return;
        }
    }
}

enum field_step field_next(struct text *rest, struct field_member *member) {
    skip_blanks(rest, true);
    if (rest->length == 0) {
        return FIELD_END;
    }
    struct text whole = *rest;
    bool good = take_member(rest, member);
    skip_blanks(rest, true);
    if (good && rest->length == 0) {
        return FIELD_MEMBER;
    }
    if (good && text_take(rest, ',')) {
        return FIELD_MEMBER;
    }
    *rest = whole;
    skip_member(rest);
    return FIELD_MALFORMED;
}
