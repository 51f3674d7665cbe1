/* SPDX-License-Identifier: MIT
 *
 * Configuration: YAML text -> tree with places -> checked against tables of options -> values.
 * One table row gives the check, the default, the range, the help line and the resolved text.
 * Depends on base only: the tables come from whoever owns an option (job, data, each method).
 */
#ifndef CAUSA_CONFIG_H
#define CAUSA_CONFIG_H

#include "causa/base.h"

typedef enum ca_option_type {
    CA_OPTION_TEXT,
    CA_OPTION_INT,
    CA_OPTION_FLOAT,
    CA_OPTION_BOOL,
    CA_OPTION_CHOICE, /* one of `choices` */
    CA_OPTION_BYTES,  /* 12GiB, 300MB, plain bytes */
    CA_OPTION_INTS,   /* list; a scalar is a list of one */
    CA_OPTION_FLOATS,
    CA_OPTION_TEXTS,
    CA_OPTION_CHOICES, /* list of `choices` */
    CA_OPTION_MAP,     /* text -> text */
    CA_OPTION_ANY      /* read as a tree by the owner, who checks it */
} ca_option_type;

/* One option. Tables end with a row whose path is NULL. */
typedef struct ca_option {
    const char *path; /* "data.limit"; "method.steps" */
    ca_option_type type;
    const char *fallback; /* YAML text of the default; NULL = required; "" = absent unless given;
                             "?TEXT" = TEXT where the map that the option stands in is given, be it
                             empty, else absent */
    const char *range;    /* "1..", "0..1", "1..64", "(0..1]"; NULL = any. Applies to list elements */
    const char *choices;  /* "auto|ref|cpu"; for INT, FLOAT, BYTES, BOOL, TEXT and their lists: words
                             accepted in place of the whole value ("auto"); a quoted TEXT is never
                             a word; NULL = none. "patching=counterfactual": what others call the
                             word, which is not accepted but answered with "did you mean" */
    const char *help;     /* one sentence without a final stop */
} ca_option;

typedef enum ca_node_kind { CA_NODE_SCALAR, CA_NODE_LIST, CA_NODE_MAP, CA_NODE_NULL } ca_node_kind;

/* A YAML value and where it stands. Lives as long as its config. */
typedef struct ca_node {
    ca_node_kind kind;
    const char *text; /* scalar: its text */
    bool quoted;      /* scalar: was quoted, so never a number, a bool or null */
    int64_t count;
    const char **keys;      /* map: [count] */
    struct ca_node **items; /* list and map: [count] */
    const char *file;       /* "configs/demo.yaml" or "command line" */
    int line, column;       /* from 1; command line: number of the override, place in its value */
    int key_line, key_column; /* value of a map: where its key stands */
} ca_node;

/* The value under a key of a map, or NULL. */
const ca_node *ca_node_find(const ca_node *map, const char *key);

/* A document with command-line overrides applied, before any check: several configs (the points of
 * a sweep) can be resolved from it. */
typedef struct ca_document ca_document;

/* path       YAML file
 * overrides  [count] "a.b=yaml value"; win over the file; intermediate maps are created
 * Errors: CA_E_IO, CA_E_CONFIG with FILE:LINE:COL when the text is no YAML. Aliases, anchors and
 * merge keys work. Mistakes that leave the tree readable (duplicate keys, overrides that do not
 * fit, a wrong `sweep:`) are kept, and reported by ca_config_resolve together with all others. */
ca_status ca_document_open(const char *path, const char *const *overrides, int64_t count,
                           ca_document **out) CA_MUST_USE;
/* The same from text; `name` stands for the file in messages. */
ca_status ca_document_parse(const char *text, size_t length, const char *name,
                            const char *const *overrides, int64_t count, ca_document **out) CA_MUST_USE;
void ca_document_free(ca_document *document);
const ca_node *ca_document_root(const ca_document *document);
/* Scalar at a dotted path, e.g. "method.kind", or NULL. */
const char *ca_document_text(const ca_document *document, const char *path);

/* The map `sweep:` (key path -> list of scalars) as a product of lists, first key slowest.
 * Points are numbered from 0. A document without `sweep` has one point and no keys. */
int64_t ca_document_points(const ca_document *document);
int64_t ca_document_sweep_keys(const ca_document *document);
const char *ca_document_sweep_key(const ca_document *document, int64_t key);
/* The value of a key at a point, as text. */
const char *ca_document_sweep_value(const ca_document *document, int64_t point, int64_t key);

/* Resolved values of one point. */
typedef struct ca_config ca_config;

/* Checks the document (with the values of sweep point `point` put in) against all rows of all
 * tables; `tables` is NULL-terminated, and the rows outlive the config. Of rows with the same path
 * the first counts. Reports every problem of the file at once: the error text holds one line per
 * problem, each "FILE:LINE:COL: key.path: expected ..., got ...", unknown keys with the nearest
 * known name. Errors: CA_E_CONFIG. */
ca_status ca_config_resolve(const ca_document *document, int64_t point,
                            const ca_option *const *tables, ca_config **out) CA_MUST_USE;
void ca_config_free(ca_config *config);

/* Values. The path must be in a table (asserted). Getters of an absent optional value give NULL,
 * 0 or false; ask ca_config_has first where that matters. For a value that is one of the accepted
 * words ("auto") of a number, ca_config_is_word is true and ca_config_text gives the word. */
bool ca_config_has(const ca_config *config, const char *path);
bool ca_config_is_word(const ca_config *config, const char *path);
const char *ca_config_text(const ca_config *config, const char *path);
int64_t ca_config_int(const ca_config *config, const char *path);
double ca_config_float(const ca_config *config, const char *path);
bool ca_config_bool(const ca_config *config, const char *path);
int64_t ca_config_bytes(const ca_config *config, const char *path);
int64_t ca_config_count(const ca_config *config, const char *path); /* elements of a list */
int64_t ca_config_int_at(const ca_config *config, const char *path, int64_t index);
double ca_config_float_at(const ca_config *config, const char *path, int64_t index);
const char *ca_config_text_at(const ca_config *config, const char *path, int64_t index);
const ca_node *ca_config_node(const ca_config *config, const char *path); /* NULL when absent */

/* "configs/demo.yaml:12:9: method.target" for messages about a value. */
const char *ca_config_where(const ca_config *config, const char *path);
/* ca_fail with that place in front: "FILE:LINE:COL: key.path: text". */
ca_status ca_config_fail(const ca_config *config, const char *path, const char *format, ...) CA_PRINTF(3, 4);

/* The whole resolved configuration, defaults written out, in table order: YAML that repeats the
 * run (the sweep's values put in, `sweep` left out). */
const char *ca_config_yaml(const ca_config *config);
const char *ca_config_sha256(const ca_config *config); /* hex, of that text */

/* The file that an option names: as given when it is absolute, exists in the current directory or
 * exists nowhere (a file to be written); else beside the config file. Owned by the config. NULL
 * when the option is absent. */
const char *ca_config_path(const ca_config *config, const char *path);
/* The same for a file name found inside a CA_OPTION_ANY value or a list. */
const char *ca_config_file(const ca_config *config, const char *name);

/* Table of options as text for `causa help config`. */
ca_status ca_options_help(const ca_option *const *tables, ca_string *out) CA_MUST_USE;

#endif
