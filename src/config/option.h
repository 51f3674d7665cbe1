/* SPDX-License-Identifier: MIT
 *
 * Rows of option tables applied to nodes, and the resolved values. Shared by the check (schema.c),
 * the getters (values.c), the resolved text (resolved.c) and the help (help.c).
 */
#ifndef CAUSA_CONFIG_OPTION_H
#define CAUSA_CONFIG_OPTION_H

#include "tree.h"

/* A scalar as an option reads it. Only the members of the option's type are set. */
typedef struct ca_scalar {
    bool is_word;     /* one of the words accepted in place of a value */
    const char *text; /* as written */
    int64_t integer;  /* INT, BYTES */
    double number;    /* FLOAT */
    bool truth;       /* BOOL */
} ca_scalar;

/* One option of one config. */
typedef struct ca_value {
    const ca_option *option;
    const ca_node *node;  /* from the document or the default; NULL when absent */
    const ca_node *place; /* the node, or the nearest map that could hold it */
    ca_scalar scalar;     /* single values, and lists given as a word */
    ca_scalar *items;     /* lists: [count] */
    int64_t count;
} ca_value;

struct ca_config {
    ca_arena *arena;
    const char *file;
    ca_node *root;
    ca_value *values; /* [count], in the order of the tables */
    int64_t count;
    const char *yaml;
    char sha256[65];
};

bool ca_option_is_list(const ca_option *option);
/* Whether the option may hold one scalar, as swept keys must. */
bool ca_option_takes_scalar(const ca_option *option);
/* Reads a scalar node: a whole value, or an element of a list. False when it does not fit. */
bool ca_option_read(const ca_option *option, const ca_node *node, bool element, ca_scalar *out);
/* Appends what the option accepts: "an integer of at least 1 or auto". */
ca_status ca_option_expected(const ca_option *option, bool element, ca_string *out) CA_MUST_USE;
/* The word of `choices` that a text was meant for: by another name of it, or by its letters; NULL
 * when there is none. */
ca_status ca_option_nearest(ca_arena *arena, const ca_option *option, const char *text,
                            const char **nearest) CA_MUST_USE;
/* `choices` as a list for people: "auto, ref, cpu". */
ca_status ca_option_print_words(const ca_option *option, ca_string *out) CA_MUST_USE;
/* Length of the first key of a path: up to a dot or the end. */
size_t ca_path_key_length(const char *path);

/* The text of the whole config. */
ca_status ca_config_print(const ca_config *config, ca_string *out) CA_MUST_USE;

#endif
