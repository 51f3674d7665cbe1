/* SPDX-License-Identifier: MIT
 *
 * Typed access to configuration keys, whether they come from JSON or from GGUF metadata. Called by
 * the readers of the architecture.
 */
#include "keys.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gguf_file.h"

enum { MAX_KEY = 160, MAX_SHOWN = 60 };

static const char *full_key(const ca_keys *keys, const char *key, char text[MAX_KEY]) {
    snprintf(text, MAX_KEY, "%s%s", keys->prefix, key);
    return text;
}

static json_t *json_of(const ca_keys *keys, const char *key) {
    return keys->object == NULL ? NULL : json_object_get(keys->object, key);
}

bool ca_keys_has(const ca_keys *keys, const char *key) {
    char name[MAX_KEY];
    if (key == NULL) return false;
    if (keys->gguf != NULL) return ca_gguf_has(keys->gguf, full_key(keys, key, name));
    json_t *value = json_of(keys, key);
    return value != NULL && !json_is_null(value);
}

/* "FILE: KEY: expected WHAT, got VALUE" */
static ca_status fail_key(const ca_keys *keys, const char *key, const char *expected) {
    char name[MAX_KEY], shown[MAX_SHOWN + 1];
    char *dump = json_dumps(json_of(keys, key), JSON_ENCODE_ANY | JSON_COMPACT);
    snprintf(shown, sizeof shown, "%s",
             dump != NULL             ? dump
             : ca_keys_has(keys, key) ? "another value"
                                      : "no such key");
    free(dump);
    return ca_fail(CA_E_MODEL, "%s: %s: expected %s, got %s", keys->file, full_key(keys, key, name),
                   expected, shown);
}

ca_status ca_keys_object(const ca_keys *keys, const char *key, ca_keys *inner) {
    json_t *value = json_of(keys, key);
    if (!json_is_object(value)) return fail_key(keys, key, "an object");
    *inner = (ca_keys){.file = keys->file, .object = value};
    snprintf(inner->prefix, sizeof inner->prefix, "%s.", key);
    return CA_OK;
}

ca_status ca_keys_int(const ca_keys *keys, const char *key, int64_t least, int64_t most,
                      int64_t *value) {
    char name[MAX_KEY], expected[MAX_SHOWN];
    int64_t n = 0;
    bool is_integer;
    if (keys->gguf != NULL) {
        is_integer = ca_gguf_int(keys->gguf, full_key(keys, key, name), &n);
    } else {
        json_t *json = json_of(keys, key);
        is_integer = json_is_integer(json);
        n = json_integer_value(json);
    }
    snprintf(expected, sizeof expected, "an integer of %lld to %lld", (long long)least,
             (long long)most);
    if (!is_integer) return fail_key(keys, key, expected);
    if (n < least || n > most)
        return ca_fail(CA_E_MODEL, "%s: %s: expected %s, got %lld", keys->file,
                       full_key(keys, key, name), expected, (long long)n);
    *value = n;
    return CA_OK;
}

ca_status ca_keys_positive(const ca_keys *keys, const char *key, double *value) {
    char name[MAX_KEY];
    double x = 0;
    if (keys->gguf != NULL)
        ca_gguf_float(keys->gguf, full_key(keys, key, name), &x);
    else
        x = json_number_value(json_of(keys, key));
    if (!(x > 0) || !isfinite(x)) return fail_key(keys, key, "a number above 0");
    *value = x;
    return CA_OK;
}

ca_status ca_keys_bool(const ca_keys *keys, const char *key, bool *value) {
    char name[MAX_KEY];
    if (keys->gguf != NULL)
        return ca_gguf_bool(keys->gguf, full_key(keys, key, name), value)
                   ? CA_OK
                   : fail_key(keys, key, "true or false");
    json_t *json = json_of(keys, key);
    if (!json_is_boolean(json)) return fail_key(keys, key, "true or false");
    *value = json_is_true(json);
    return CA_OK;
}

ca_status ca_keys_text(const ca_keys *keys, const char *key, char *text, size_t size) {
    char name[MAX_KEY];
    ca_gguf_string s = {0};
    if (keys->gguf != NULL) {
        if (!ca_gguf_text(keys->gguf, full_key(keys, key, name), &s))
            return fail_key(keys, key, "a string");
    } else {
        json_t *json = json_of(keys, key);
        if (!json_is_string(json)) return fail_key(keys, key, "a string");
        s = (ca_gguf_string){json_string_value(json), json_string_length(json)};
    }
    size_t length = s.length < size ? (size_t)s.length : size - 1;
    memcpy(text, s.text, length);
    text[length] = '\0';
    return CA_OK;
}
