/* SPDX-License-Identifier: MIT
 *
 * Scalars: the number, bool and null forms of the YAML 1.2 core schema, byte sizes, and the
 * decimal text of floats. Called by the check of options and by the writer of YAML.
 */
#include "tree.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool is_one_of(const char *text, const char *const *words) {
    for (; *words != NULL; words++)
        if (strcmp(text, *words) == 0) return true;
    return false;
}

bool ca_scalar_null(const char *text) {
    static const char *const words[] = {"", "~", "null", "Null", "NULL", NULL};
    return is_one_of(text, words);
}

bool ca_scalar_bool(const char *text, bool *out) {
    static const char *const yes[] = {"true", "True", "TRUE", NULL};
    static const char *const no[] = {"false", "False", "FALSE", NULL};
    *out = is_one_of(text, yes);
    return *out || is_one_of(text, no);
}

static size_t count_digits(const char *text) { return strspn(text, "0123456789"); }

/* [-+]?[0-9]+ | 0o[0-7]+ | 0x[0-9a-fA-F]+ */
bool ca_scalar_int(const char *text, int64_t *out) {
    *out = 0;
    const char *digits = text + (*text == '-' || *text == '+');
    const char *allowed = "0123456789";
    int base = 10;
    if (strncmp(text, "0o", 2) == 0) {
        digits = text + 2;
        allowed = "01234567";
        base = 8;
    } else if (strncmp(text, "0x", 2) == 0) {
        digits = text + 2;
        allowed = "0123456789abcdefABCDEF";
        base = 16;
    }
    size_t count = strspn(digits, allowed);
    if (count == 0 || digits[count] != '\0') return false;

    errno = 0;
    long long value = strtoll(base == 10 ? text : digits, NULL, base);
    if (errno == ERANGE) return false;
    *out = value;
    return true;
}

/* Length of [-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)? at the start of a text, or 0. */
static size_t float_length(const char *text) {
    const char *c = text + (*text == '-' || *text == '+');
    size_t whole = count_digits(c), fraction = 0;
    c += whole;
    if (*c == '.') {
        fraction = count_digits(c + 1);
        c += 1 + fraction;
    }
    if (whole + fraction == 0) return 0;
    if (*c == 'e' || *c == 'E') {
        const char *exponent = c + 1 + (c[1] == '-' || c[1] == '+');
        size_t digits = count_digits(exponent);
        if (digits > 0) c = exponent + digits;
    }
    return (size_t)(c - text);
}

bool ca_scalar_float(const char *text, double *out) {
    *out = 0;
    size_t length = float_length(text);
    if (length > 0 && text[length] == '\0') {
        double value = strtod(text, NULL);
        if (!isfinite(value)) return false;
        *out = value;
        return true;
    }
    int64_t integer; /* 0x10, 0o17 */
    if (!ca_scalar_int(text, &integer)) return false;
    *out = (double)integer;
    return true;
}

bool ca_scalar_bytes(const char *text, int64_t *out) {
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"B", 1},        {"kB", 1e3},    {"KB", 1e3},     {"MB", 1e6},
                 {"GB", 1e9},     {"TB", 1e12},   {"KiB", 1024.0}, {"MiB", 1048576.0},
                 {"GiB", 0x1p30}, {"TiB", 0x1p40}};
    if (ca_scalar_int(text, out)) return *out >= 0;

    size_t length = float_length(text);
    if (length == 0) return false;
    const char *unit = text + length + strspn(text + length, " ");
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(unit, units[i].name) != 0) continue;
        double bytes = strtod(text, NULL) * units[i].bytes;
        if (!(bytes >= 0 && bytes < 0x1p63)) return false;
        *out = (int64_t)bytes;
        return true;
    }
    return false;
}

bool ca_scalar_ambiguous(const char *text) {
    /* YAML 1.1 readers, PyYAML among them, take these for bools. */
    static const char *const words[] = {"yes", "no", "on", "off", "y", "n", "true", "false", NULL};
    for (size_t i = 0; words[i] != NULL; i++)
        if (strcasecmp(text, words[i]) == 0) return true;
    if (ca_scalar_null(text)) return true;
    /* Numbers of all kinds, dates, times, .inf and .nan. */
    if (text[0] == '.') return strchr("0123456789iInN", text[1]) != NULL;
    return strchr("+-0123456789", text[0]) != NULL;
}

ca_status ca_float_print(double value, ca_string *out) {
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    /* YAML 1.1 readers take 1e-05 for text; 1.0e-05 is a number to all. */
    size_t mantissa = strcspn(text, "e");
    bool bare = text[mantissa] == 'e' && memchr(text, '.', mantissa) == NULL;
    return ca_string_printf(out, "%.*s%s%s", (int)mantissa, text, bare ? ".0" : "",
                            text + mantissa);
}
