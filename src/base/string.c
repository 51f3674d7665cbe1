/* SPDX-License-Identifier: MIT
 *
 * Growing text, sizes as people read them, "did you mean" and the check for well-formed UTF-8.
 */
#include "causa/base.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Room for `count` more bytes and the final NUL. */
static ca_status string_reserve(ca_string *s, size_t count) {
    size_t needed;
    if (!ca_add_size(s->length, count, &needed) || !ca_add_size(needed, 1, &needed) ||
        needed > INT64_MAX)
        return ca_fail(CA_E_MEMORY, "host memory: expected room for %zu more bytes of text", count);
    int64_t capacity = (int64_t)s->capacity;
    ca_status st = ca_grow(&s->text, &capacity, (int64_t)needed, 1);
    s->capacity = (size_t)capacity;
    return st;
}

ca_status ca_string_append(ca_string *s, const char *bytes, size_t count) {
    ca_status st = string_reserve(s, count);
    if (st != CA_OK) return st;
    if (count > 0) memcpy(s->text + s->length, bytes, count);
    s->length += count;
    s->text[s->length] = '\0';
    return CA_OK;
}

ca_status ca_string_printf(ca_string *s, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0) return ca_fail(CA_E_FAILED, "text '%s': cannot be formatted", format);

    ca_status st = string_reserve(s, (size_t)length);
    if (st != CA_OK) return st;
    va_start(arguments, format);
    vsnprintf(s->text + s->length, (size_t)length + 1, format, arguments);
    va_end(arguments);
    s->length += (size_t)length;
    return CA_OK;
}

void ca_string_free(ca_string *s) {
    free(s->text);
    *s = (ca_string){0};
}

const char *ca_bytes_text(int64_t bytes, char text[32]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    int unit = 0;
    for (; value >= 1024 && unit < 4; unit++) value /= 1024;
    snprintf(text, 32, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return text;
}

/* ---- did you mean ------------------------------------------------------------------------ */

enum { LONGEST_WORD = 255 };

int ca_edit_distance(const char *a, const char *b) {
    size_t a_length = strlen(a), b_length = strlen(b);
    size_t longer = a_length > b_length ? a_length : b_length;
    if (longer > LONGEST_WORD) return strcmp(a, b) == 0 ? 0 : LONGEST_WORD + 1;

    /* row[j] = distance between the first i bytes of a and the first j bytes of b */
    int row[LONGEST_WORD + 1];
    for (size_t j = 0; j <= b_length; j++) row[j] = (int)j;
    for (size_t i = 1; i <= a_length; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= b_length; j++) {
            int replaced = diagonal + (a[i - 1] != b[j - 1]);
            int removed = row[j] + 1, inserted = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = removed < inserted ? removed : inserted;
            if (replaced < row[j]) row[j] = replaced;
        }
    }
    return row[b_length];
}

const char *ca_nearest_name(const char *word, const char *const *names, int64_t count) {
    size_t length = strlen(word);
    /* Near enough: a third of the letters or two of them, but never all of a short word. */
    size_t limit = length / 3 > 2 ? length / 3 : 2;
    if (limit >= length && length > 0) limit = length - 1;

    const char *nearest = NULL;
    for (int64_t i = 0; i < count; i++) {
        if (strcasecmp(word, names[i]) == 0) return names[i];
        size_t distance = (size_t)ca_edit_distance(word, names[i]);
        if (distance > limit) continue;
        if (nearest != NULL && distance >= (size_t)ca_edit_distance(word, nearest)) continue;
        nearest = names[i];
    }
    return nearest;
}

/* ---- UTF-8 ------------------------------------------------------------------------------- */

/* Length of the sequence that a byte begins, or 0 when none may begin so, and the range of the
 * second byte, which excludes overlong forms, surrogates and code points above U+10FFFF
 * (table 3-7 of the Unicode standard). */
static size_t utf8_sequence(unsigned char first, unsigned char *low, unsigned char *high) {
    *low = 0x80;
    *high = 0xBF;
    if (first < 0x80) return 1;
    if (first < 0xC2) return 0;
    if (first < 0xE0) return 2;
    if (first == 0xE0) *low = 0xA0;
    if (first == 0xED) *high = 0x9F;
    if (first < 0xF0) return 3;
    if (first == 0xF0) *low = 0x90;
    if (first == 0xF4) *high = 0x8F;
    return first < 0xF5 ? 4 : 0;
}

int64_t ca_utf8_invalid(const char *bytes, size_t count) {
    const unsigned char *text = (const unsigned char *)bytes;
    for (size_t i = 0; i < count;) {
        unsigned char low, high;
        size_t length = utf8_sequence(text[i], &low, &high);
        if (length == 0 || length > count - i) return (int64_t)i;
        for (size_t k = 1; k < length; k++) {
            if (text[i + k] < low || text[i + k] > high) return (int64_t)i;
            low = 0x80;
            high = 0xBF;
        }
        i += length;
    }
    return -1;
}
