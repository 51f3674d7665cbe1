/* SPDX-License-Identifier: MIT
 *
 * What one row of a table accepts: types, ranges, words. Called for every value of a document,
 * every default and every swept value.
 */
#include "option.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

size_t ca_path_key_length(const char *path) { return strcspn(path, "."); }

bool ca_option_is_list(const ca_option *option) {
    switch (option->type) {
    case CA_OPTION_INTS:
    case CA_OPTION_FLOATS:
    case CA_OPTION_TEXTS:
    case CA_OPTION_CHOICES:
        return true;
    default:
        return false;
    }
}

bool ca_option_takes_scalar(const ca_option *option) {
    return !ca_option_is_list(option) && option->type != CA_OPTION_MAP;
}

/* ---- words ------------------------------------------------------------------------------- */

/* Length of a word, without its other names. */
static size_t word_length(const char *word) { return strcspn(word, "=|"); }

/* The word behind this one, or NULL. */
static const char *next_word(const char *word) {
    word += strcspn(word, "|");
    return *word == '|' ? word + 1 : NULL;
}

static bool has_word(const ca_option *option, const char *text) {
    size_t length = strlen(text);
    for (const char *word = option->choices; word != NULL; word = next_word(word))
        if (word_length(word) == length && memcmp(word, text, length) == 0) return true;
    return false;
}

/* Whether a word has this other name, in small or large letters. */
static bool is_also(const char *word, const char *name) {
    size_t length = strlen(name);
    for (word += word_length(word); *word == '='; word += word_length(word)) {
        word++;
        if (word_length(word) == length && strncasecmp(word, name, length) == 0) return true;
    }
    return false;
}

ca_status ca_option_nearest(ca_arena *arena, const ca_option *option, const char *text,
                            const char **nearest) {
    ca_status st = CA_OK;
    const char **words;
    int64_t count = 0;
    *nearest = NULL;
    if (option->choices == NULL) return CA_OK;
    CA_TRY(ca_arena_alloc(arena, (strlen(option->choices) / 2 + 1) * sizeof *words, &words));
    for (const char *word = option->choices; word != NULL; word = next_word(word)) {
        char *own;
        CA_TRY(ca_arena_strdup(arena, word, word_length(word), &own));
        words[count++] = own;
        if (is_also(word, text)) *nearest = own;
    }
    if (*nearest == NULL) *nearest = ca_nearest_name(text, words, count);
out:
    return st;
}

ca_status ca_option_print_words(const ca_option *option, ca_string *out) {
    ca_status st = CA_OK;
    for (const char *word = option->choices; word != NULL && st == CA_OK; word = next_word(word))
        st = ca_string_printf(out, "%.*s%s", (int)word_length(word), word,
                              next_word(word) != NULL ? ", " : "");
    return st;
}

/* ---- ranges ------------------------------------------------------------------------------ */

typedef struct ca_range {
    double low, high;  /* infinite when open-ended */
    bool above, below; /* the bound itself is excluded */
} ca_range;

/* "1..", "0..1", "(0..1]", "..5)" */
static ca_range parse_range(const char *text) {
    ca_range range = {-INFINITY, INFINITY, false, false};
    if (text == NULL) return range;
    range.above = *text == '(';
    if (*text == '(' || *text == '[') text++;
    const char *dots = strstr(text, "..");
    assert(dots != NULL);
    /* strtod would take the first dot of "1.." for a decimal point, which does no harm. */
    if (dots > text) range.low = strtod(text, NULL);
    const char *high = dots + 2;
    char *end = NULL;
    if (*high != '\0' && *high != ')' && *high != ']') {
        range.high = strtod(high, &end);
        high = end;
    }
    range.below = *high == ')';
    return range;
}

static bool in_range(const ca_option *option, double value) {
    ca_range range = parse_range(option->range);
    if (range.above ? value <= range.low : value < range.low) return false;
    return range.below ? value < range.high : value <= range.high;
}

/* " of at least 1", " in (0..1]" */
static ca_status print_range(const ca_option *option, ca_string *out) {
    ca_range range = parse_range(option->range);
    bool low = isfinite(range.low), high = isfinite(range.high);
    if (low && high) return ca_string_printf(out, " in %s", option->range);
    if (low)
        return ca_string_printf(out, " %s %.17g", range.above ? "above" : "of at least", range.low);
    if (high)
        return ca_string_printf(out, " %s %.17g", range.below ? "below" : "of at most", range.high);
    return CA_OK;
}

/* ---- reading ----------------------------------------------------------------------------- */

bool ca_option_read(const ca_option *option, const ca_node *node, bool element, ca_scalar *out) {
    *out = (ca_scalar){.text = node->text};
    if (node->kind != CA_NODE_SCALAR) return false;

    bool is_text = option->type == CA_OPTION_TEXT || option->type == CA_OPTION_TEXTS;
    bool is_choice = option->type == CA_OPTION_CHOICE || option->type == CA_OPTION_CHOICES;
    if (!element && !is_choice && !(is_text && node->quoted) && has_word(option, node->text)) {
        out->is_word = true;
        return true;
    }
    switch (option->type) {
    case CA_OPTION_TEXT:
    case CA_OPTION_TEXTS:
        return true;
    case CA_OPTION_CHOICE:
    case CA_OPTION_CHOICES:
        return has_word(option, node->text);
    case CA_OPTION_INT:
    case CA_OPTION_INTS:
        return !node->quoted && ca_scalar_int(node->text, &out->integer) &&
               in_range(option, (double)out->integer);
    case CA_OPTION_FLOAT:
    case CA_OPTION_FLOATS:
        return !node->quoted && ca_scalar_float(node->text, &out->number) &&
               in_range(option, out->number);
    case CA_OPTION_BOOL:
        return !node->quoted && ca_scalar_bool(node->text, &out->truth);
    case CA_OPTION_BYTES:
        return ca_scalar_bytes(node->text, &out->integer) && in_range(option, (double)out->integer);
    case CA_OPTION_MAP:
    case CA_OPTION_ANY:
        break;
    }
    return false;
}

/* ---- what is accepted -------------------------------------------------------------------- */

static ca_status print_type(const ca_option *option, bool element, ca_string *out) {
    const char *one = "", *several = "";
    switch (option->type) {
    case CA_OPTION_TEXT:
    case CA_OPTION_TEXTS:
        one = "text";
        several = "a list of texts";
        break;
    case CA_OPTION_CHOICE:
    case CA_OPTION_CHOICES:
        one = "one of ";
        several = "a list out of ";
        break;
    case CA_OPTION_INT:
    case CA_OPTION_INTS:
        one = "an integer";
        several = "a list of integers";
        break;
    case CA_OPTION_FLOAT:
    case CA_OPTION_FLOATS:
        one = option->range == NULL ? "a finite number" : "a number";
        several = option->range == NULL ? "a list of finite numbers" : "a list of numbers";
        break;
    case CA_OPTION_BOOL:
        one = "true or false";
        break;
    case CA_OPTION_BYTES:
        one = "a size such as 12GiB, 300MB or a number of bytes";
        break;
    case CA_OPTION_MAP:
        one = "a map from names to texts";
        break;
    case CA_OPTION_ANY:
        one = "a value";
        break;
    }
    bool list = ca_option_is_list(option) && !element;
    return ca_string_printf(out, "%s", list ? several : one);
}

ca_status ca_option_expected(const ca_option *option, bool element, ca_string *out) {
    ca_status st = CA_OK;
    CA_TRY(print_type(option, element, out));
    if (option->type == CA_OPTION_CHOICE || option->type == CA_OPTION_CHOICES)
        return ca_option_print_words(option, out);
    CA_TRY(print_range(option, out));
    if (option->choices == NULL || element) goto out;
    const char *joint = strchr(option->choices, '|') != NULL ? " or one of " : " or ";
    CA_TRY(ca_string_printf(out, "%s", joint));
    CA_TRY(ca_option_print_words(option, out));
out:
    return st;
}
