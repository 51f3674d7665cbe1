/* SPDX-License-Identifier: MIT
 *
 * A document: the tree of a file with the command line's values put in, before any check against
 * tables. Opened once by a command; configs of several sweep points are resolved from it.
 */
#include "tree.h"

#include <stdlib.h>
#include <string.h>

/* The root as a map; an empty file is an empty map. */
static ca_status settle_root(ca_document *document, ca_node *root) {
    ca_status st = CA_OK;
    ca_place start = {document->file, 1, 1};
    if (root == NULL || root->kind == CA_NODE_NULL)
        return ca_node_create(document->arena, CA_NODE_MAP, start, &document->root);
    document->root = root;
    if (root->kind == CA_NODE_MAP) return CA_OK;
    char *got;
    CA_TRY(ca_node_describe(document->arena, root, &got));
    CA_TRY(ca_problems_add(&document->problems, ca_node_place(root), "",
                           "expected a map of options, got %s", got));
    st = CA_E_CONFIG;
out:
    return st;
}

static ca_status build(ca_document *document, const char *text, size_t length, const char *name,
                       const char *const *overrides, int64_t count) {
    ca_status st = CA_OK;
    char *file;
    ca_node *root;
    CA_TRY(ca_arena_create(&document->arena));
    document->problems.arena = document->arena;
    CA_TRY(ca_arena_strdup(document->arena, name, strlen(name), &file));
    document->file = file;
    CA_TRY(ca_yaml_parse(document->arena, &document->problems, text, length, (ca_place){file, 1, 1},
                         "", 0, &root));
    CA_TRY(settle_root(document, root));
    for (int64_t i = 0; i < count; i++)
        CA_TRY(ca_override_apply(document->arena, &document->problems, overrides[i], i,
                                 document->root));
    CA_TRY(ca_sweep_read(document->arena, &document->problems, document->root, &document->sweep));
out:
    return st;
}

ca_status ca_document_parse(const char *text, size_t length, const char *name,
                            const char *const *overrides, int64_t count, ca_document **out) {
    *out = NULL;
    ca_document *document;
    ca_status st = ca_calloc(1, sizeof *document, &document);
    if (st != CA_OK) return st;
    st = build(document, text, length, name, overrides, count);
    if (st == CA_E_CONFIG) st = ca_problems_report(&document->problems);
    if (st == CA_OK)
        *out = document;
    else
        ca_document_free(document);
    return st;
}

ca_status ca_document_open(const char *path, const char *const *overrides, int64_t count,
                           ca_document **out) {
    *out = NULL;
    char *text;
    size_t length;
    ca_status st = ca_file_read(path, &text, &length);
    if (st != CA_OK) return st;
    st = ca_document_parse(text, length, path, overrides, count, out);
    free(text);
    return st;
}

void ca_document_free(ca_document *document) {
    if (document == NULL) return;
    ca_problems_free(&document->problems);
    ca_arena_destroy(document->arena);
    free(document);
}

const ca_node *ca_document_root(const ca_document *document) { return document->root; }

const char *ca_document_text(const ca_document *document, const char *path) {
    const ca_node *node = ca_node_at(document->root, path);
    return node != NULL && node->kind == CA_NODE_SCALAR ? node->text : NULL;
}
