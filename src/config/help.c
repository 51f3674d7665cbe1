/* SPDX-License-Identifier: MIT
 *
 * The tables of options as text, for `causa help config`: key, what it accepts, default, range and
 * meaning, in columns; one block per top-level map.
 */
#include "option.h"

#include <string.h>

enum { COLUMNS = 5, GAP = 2 };

/* Widest a column may be; longer cells go on in the next line. Keys are never broken. */
static const int widest[COLUMNS] = {40, 28, 18, 12, 56};

typedef struct ca_cells {
    ca_string text[COLUMNS]; /* key, accepts, default, range, meaning */
} ca_cells;

static void free_cells(ca_cells *cells) {
    for (int c = 0; c < COLUMNS; c++) ca_string_free(&cells->text[c]);
}

static ca_status print_accepts(const ca_option *option, ca_string *out) {
    static const char *const names[] = {
        [CA_OPTION_TEXT] = "text",        [CA_OPTION_INT] = "integer",
        [CA_OPTION_FLOAT] = "number",     [CA_OPTION_BOOL] = "bool",
        [CA_OPTION_CHOICE] = "",          [CA_OPTION_BYTES] = "bytes",
        [CA_OPTION_INTS] = "integers",    [CA_OPTION_FLOATS] = "numbers",
        [CA_OPTION_TEXTS] = "texts",      [CA_OPTION_CHOICES] = "list of",
        [CA_OPTION_MAP] = "map of texts", [CA_OPTION_ANY] = "word, list or map"};
    ca_status st = CA_OK;
    CA_TRY(ca_string_printf(out, "%s", names[option->type]));
    if (option->choices == NULL) goto out;
    bool choice = option->type == CA_OPTION_CHOICE || option->type == CA_OPTION_CHOICES;
    if (!choice) CA_TRY(ca_string_printf(out, " or"));
    if (out->length > 0) CA_TRY(ca_string_printf(out, " "));
    CA_TRY(ca_option_print_words(option, out));
out:
    return st;
}

static ca_status fill_cells(const ca_option *option, ca_cells *cells) {
    ca_status st = CA_OK;
    const char *fallback = option->fallback == NULL      ? "required"
                           : option->fallback[0] == '\0' ? "-"
                                                         : option->fallback;
    CA_TRY(ca_string_printf(&cells->text[0], "%s", option->path));
    CA_TRY(print_accepts(option, &cells->text[1]));
    bool section = fallback[0] == '?'; /* a default where the section is given */
    CA_TRY(ca_string_printf(&cells->text[2], "%s%s", fallback + section,
                            section ? " in a given section" : ""));
    CA_TRY(ca_string_printf(&cells->text[3], "%s", option->range != NULL ? option->range : ""));
    CA_TRY(ca_string_printf(&cells->text[4], "%s", option->help != NULL ? option->help : ""));
out:
    return st;
}

/* Bytes of `text` that go on a line `width` wide: up to the last blank that fits, if any. */
static int line_length(const char *text, int width) {
    int length = (int)strlen(text);
    if (length <= width) return length;
    for (int i = width; i > 0; i--)
        if (text[i] == ' ') return i;
    return (int)strcspn(text, " ");
}

static ca_status print_row(ca_cells *cells, const int *width, ca_string *out) {
    ca_status st = CA_OK;
    const char *rest[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) rest[c] = cells->text[c].text;
    for (bool more = true; more;) {
        int pending = 0; /* blanks, written only before something else */
        more = false;
        for (int c = 0; c < COLUMNS; c++) {
            int length = c == 0 ? (int)strlen(rest[c]) : line_length(rest[c], width[c]);
            if (length > 0) {
                CA_TRY(ca_string_printf(out, "%*s%.*s", pending, "", length, rest[c]));
                pending = 0;
            }
            int fill = width[c] - length;
            pending += (fill > 0 ? fill : 0) + GAP;
            rest[c] += length;
            rest[c] += strspn(rest[c], " ");
            more = more || rest[c][0] != '\0';
        }
        CA_TRY(ca_string_append(out, "\n", 1));
    }
out:
    return st;
}

/* Width of every column over all rows, within the limits. */
static ca_status measure(const ca_option *const *tables, int *width) {
    ca_status st = CA_OK;
    ca_cells cells = {0};
    for (int64_t t = 0; tables[t] != NULL; t++)
        for (const ca_option *option = tables[t]; option->path != NULL; option++) {
            CA_TRY(fill_cells(option, &cells));
            for (int c = 0; c < COLUMNS; c++) {
                int length = (int)cells.text[c].length;
                if (length > widest[c]) length = widest[c];
                if (length > width[c]) width[c] = length;
            }
            free_cells(&cells);
        }
out:
    free_cells(&cells);
    return st;
}

static bool same_group(const char *a, const char *b) {
    size_t length = ca_path_key_length(a);
    return ca_path_key_length(b) == length && memcmp(a, b, length) == 0;
}

static bool is_grouped(const char *path) { return strchr(path, '.') != NULL; }

/* The row before this one, counted over all tables, that has the same top-level map. */
static bool is_printed(const ca_option *const *tables, const ca_option *row) {
    for (int64_t t = 0; tables[t] != NULL; t++)
        for (const ca_option *option = tables[t]; option->path != NULL; option++) {
            if (option == row) return false;
            if (is_grouped(option->path) && same_group(option->path, row->path)) return true;
        }
    return false;
}

/* All rows of a group (of the options without one for NULL). */
static ca_status print_group(const ca_option *const *tables, const char *group, const int *width,
                             ca_string *out) {
    ca_status st = CA_OK;
    ca_cells cells = {0};
    for (int64_t t = 0; tables[t] != NULL; t++)
        for (const ca_option *option = tables[t]; option->path != NULL; option++) {
            bool grouped = is_grouped(option->path);
            bool wanted = group == NULL ? !grouped : grouped && same_group(option->path, group);
            if (!wanted) continue;
            CA_TRY(fill_cells(option, &cells));
            CA_TRY(print_row(&cells, width, out));
            free_cells(&cells);
        }
out:
    free_cells(&cells);
    return st;
}

ca_status ca_options_help(const ca_option *const *tables, ca_string *out) {
    ca_status st = CA_OK;
    int width[COLUMNS] = {3, 7, 7, 5, 7}; /* of the headings */
    ca_cells heading = {0};
    const char *const titles[COLUMNS] = {"key", "accepts", "default", "range", "meaning"};
    CA_TRY(measure(tables, width));
    for (int c = 0; c < COLUMNS; c++) CA_TRY(ca_string_printf(&heading.text[c], "%s", titles[c]));
    CA_TRY(print_row(&heading, width, out));
    CA_TRY(print_group(tables, NULL, width, out));
    for (int64_t t = 0; tables[t] != NULL; t++)
        for (const ca_option *option = tables[t]; option->path != NULL; option++) {
            if (!is_grouped(option->path) || is_printed(tables, option)) continue;
            CA_TRY(ca_string_append(out, "\n", 1));
            CA_TRY(print_group(tables, option->path, width, out));
        }
out:
    free_cells(&heading);
    return st;
}
