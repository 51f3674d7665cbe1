/* SPDX-License-Identifier: MIT
 *
 * What the files of src/config share: the tree of YAML values while it is built and changed, the
 * list of mistakes found in it, and the reading of scalars. Everything hangs on the arena of one
 * document or one config.
 */
#ifndef CAUSA_CONFIG_TREE_H
#define CAUSA_CONFIG_TREE_H

#include "causa/config.h"

/* Bounds that no honest configuration reaches; they keep hostile YAML from eating the machine. */
enum {
    CA_YAML_MAX_BYTES = 4 << 20,
    CA_YAML_MAX_DEPTH = 64,
    CA_YAML_MAX_NODES = 1000000,        /* after aliases were expanded */
    CA_YAML_MAX_ALIAS_BYTES = 16 << 20, /* text reached through aliases */
    CA_YAML_MAX_ANCHORS = 1000,
    CA_YAML_MAX_MAP_KEYS = 1000,
    CA_YAML_MAX_KEY_BYTES = 200, /* libyaml reads simple keys up to 1024 bytes, escapes included */
    CA_SWEEP_MAX_POINTS = 1000000
};

/* ---- places and problems (problem.c) ----------------------------------------------------- */

/* The file name of overrides; compared by address, so that no file can pose as it. */
extern const char ca_command_line[];

typedef struct ca_place {
    const char *file;
    int line, column;
} ca_place;

ca_place ca_node_place(const ca_node *node);
/* Where the key of a map's value stands; the value itself when it has no key. */
ca_place ca_key_place(const ca_node *node);
/* "FILE:LINE:COL", or "command line". */
ca_status ca_place_print(ca_place place, ca_string *out) CA_MUST_USE;

typedef struct ca_problem {
    ca_place place;
    int64_t order; /* of discovery */
    const char *text;
} ca_problem;

/* Mistakes in the order of discovery. Past a limit they are counted, not kept. */
typedef struct ca_problems {
    ca_arena *arena;
    ca_problem *list;
    int64_t kept, count, capacity;
} ca_problems;

/* Adds "path: text" at a place; `path` may be "". Fails only for want of memory. */
ca_status ca_problems_add(ca_problems *problems, ca_place place, const char *path,
                          const char *format, ...) CA_PRINTF(4, 5) CA_MUST_USE;
ca_status ca_problems_add_all(ca_problems *problems, const ca_problems *more) CA_MUST_USE;
/* CA_OK when there are none; else CA_E_CONFIG, one line per problem, in the order of the file. */
ca_status ca_problems_report(ca_problems *problems) CA_MUST_USE;
void ca_problems_free(ca_problems *problems);

/* What came, for "got ...": 'abc', the text 'abc' (when it was quoted), null, a list, a map. */
ca_status ca_node_describe(ca_arena *arena, const ca_node *node, char **out) CA_MUST_USE;

/* ---- the tree (yaml.c) ------------------------------------------------------------------- */

/* Text of one YAML document -> tree. Mistakes go to `problems`; CA_E_CONFIG when the text cannot
 * be read on, with the reason added to `problems`.
 *
 * start  where the text begins: {file, 1, 1} for a file
 * path   key path of the whole value, "" for a file
 * depth  levels of maps above the value, 0 for a file
 * out    NULL for a document without a value */
ca_status ca_yaml_parse(ca_arena *arena, ca_problems *problems, const char *text, size_t length,
                        ca_place start, const char *path, int depth, ca_node **out) CA_MUST_USE;

/* Zeroed node at a place. */
ca_status ca_node_create(ca_arena *arena, ca_node_kind kind, ca_place place,
                         ca_node **out) CA_MUST_USE;
/* Deep copy into another arena. `file` replaces every file name but that of the command line. */
ca_status ca_node_copy(ca_arena *arena, const ca_node *node, const char *file,
                       ca_node **out) CA_MUST_USE;
/* Index of a key, or -1. */
int64_t ca_map_index(const ca_node *map, const char *key);
/* Sets a key: replaces its value or appends it. */
ca_status ca_map_set(ca_arena *arena, ca_node *map, const char *key, ca_node *value) CA_MUST_USE;
void ca_map_remove(ca_node *map, const char *key);
/* The value at a dotted path, or NULL. */
const ca_node *ca_node_at(const ca_node *root, const char *path);

/* ---- overrides and sweeps (override.c, sweep.c) ------------------------------------------ */

/* A value as it is written on the command line and in the column `fallback` of a table: text that
 * begins with one of [ { ' " is a YAML value in flow style, any other is one plain scalar, as it
 * stands. Mistakes go to `problems`; *out is NULL when nothing could be read. */
ca_status ca_value_parse(ca_arena *arena, ca_problems *problems, const char *text, ca_place start,
                         const char *path, int depth, ca_node **out) CA_MUST_USE;

/* Applies "key=value" number `index` to the tree. */
ca_status ca_override_apply(ca_arena *arena, ca_problems *problems, const char *text, int64_t index,
                            ca_node *root) CA_MUST_USE;

/* Puts a value at a dotted path. Maps on the way are created; nothing happens when something that
 * is no map is in the way (`blocked` is then set to it). */
ca_status ca_tree_put(ca_arena *arena, ca_node *root, const char *path, ca_node *value,
                      const ca_node **blocked) CA_MUST_USE;

/* One swept key; its values are the items of a list of scalars. */
typedef struct ca_sweep_axis {
    const char *path;
    const ca_node *list;
    int64_t stride; /* points between two values */
} ca_sweep_axis;

typedef struct ca_sweep {
    ca_sweep_axis *axes; /* [count], first slowest; only the well-formed ones */
    int64_t count, points;
} ca_sweep;

ca_status ca_sweep_read(ca_arena *arena, ca_problems *problems, const ca_node *root,
                        ca_sweep *out) CA_MUST_USE;
const ca_node *ca_sweep_value(const ca_sweep_axis *axis, int64_t point);

struct ca_document {
    ca_arena *arena;
    const char *file;
    ca_node *root;        /* a map */
    ca_problems problems; /* that left the tree readable */
    ca_sweep sweep;
};

/* ---- scalars (scalar.c) ------------------------------------------------------------------ */

/* The forms of the YAML 1.2 core schema. False when the text has another form or does not fit. */
bool ca_scalar_null(const char *text);
bool ca_scalar_bool(const char *text, bool *out);
bool ca_scalar_int(const char *text, int64_t *out);
bool ca_scalar_float(const char *text, double *out); /* finite; integers too */
bool ca_scalar_bytes(const char *text, int64_t *out);
/* Whether a YAML 1.1 or 1.2 reader may take the plain text for something else than text. */
bool ca_scalar_ambiguous(const char *text);
/* The shortest decimal text that reads back as the same number. */
ca_status ca_float_print(double value, ca_string *out) CA_MUST_USE;

/* ---- YAML text (write.c) ----------------------------------------------------------------- */

/* Text that a reader takes for text; quoted when that is needed or `always_quote`. */
ca_status ca_write_text(ca_string *out, const char *text, bool always_quote) CA_MUST_USE;
/* A tree after "key:", up to and with the final newline; `indent` is that of the key. Quotes are
 * kept, so that its owner reads the same values from the text. */
ca_status ca_write_node(ca_string *out, const ca_node *node, int indent) CA_MUST_USE;

#endif
