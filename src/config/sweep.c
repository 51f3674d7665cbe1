/* SPDX-License-Identifier: MIT
 *
 * `sweep:` as a product of lists, first key slowest. Whether the swept keys exist and the values
 * fit them is checked with the rest of the document, by ca_config_resolve.
 */
#include "tree.h"

#include <assert.h>

/* Whether `list` is a list of scalars with something in it; else says what is wrong. */
static ca_status check_list(ca_arena *arena, ca_problems *problems, const char *key,
                            const ca_node *list, bool *good) {
    ca_status st = CA_OK;
    char *path, *got;
    *good = false;
    CA_TRY(ca_arena_printf(arena, &path, "sweep.%s", key));
    if (list->kind != CA_NODE_LIST || list->count == 0) {
        CA_TRY(ca_node_describe(arena, list, &got));
        return ca_problems_add(problems, ca_node_place(list), path,
                               "expected a list of values, got %s", got);
    }
    *good = true;
    for (int64_t i = 0; i < list->count; i++) {
        const ca_node *item = list->items[i];
        if (item->kind == CA_NODE_SCALAR || item->kind == CA_NODE_NULL) continue;
        *good = false;
        CA_TRY(ca_node_describe(arena, item, &got));
        CA_TRY(ca_problems_add(problems, ca_node_place(item), path,
                               "expected a single value in the list, got %s", got));
    }
out:
    return st;
}

ca_status ca_sweep_read(ca_arena *arena, ca_problems *problems, const ca_node *root,
                        ca_sweep *out) {
    ca_status st = CA_OK;
    *out = (ca_sweep){.points = 1};
    const ca_node *sweep = ca_node_find(root, "sweep");
    if (sweep == NULL || sweep->kind == CA_NODE_NULL) return CA_OK;
    if (sweep->kind != CA_NODE_MAP) {
        char *got;
        CA_TRY(ca_node_describe(arena, sweep, &got));
        return ca_problems_add(problems, ca_node_place(sweep), "sweep",
                               "expected a map from keys to lists of values, got %s", got);
    }
    CA_TRY(ca_arena_alloc(arena, (size_t)sweep->count * sizeof *out->axes, &out->axes));
    /* From the last, fastest key back: the stride of a key is the product of those behind it. */
    int64_t first = sweep->count;
    for (int64_t i = sweep->count - 1; i >= 0; i--) {
        const ca_node *list = sweep->items[i];
        bool good;
        CA_TRY(check_list(arena, problems, sweep->keys[i], list, &good));
        if (!good) continue;
        if (list->count > CA_SWEEP_MAX_POINTS / out->points) {
            *out = (ca_sweep){.points = 1};
            return ca_problems_add(problems, ca_node_place(sweep), "sweep",
                                   "expected at most %d points, got more", CA_SWEEP_MAX_POINTS);
        }
        out->axes[--first] = (ca_sweep_axis){sweep->keys[i], list, out->points};
        out->points *= list->count;
    }
    out->axes += first;
    out->count = sweep->count - first;
out:
    return st;
}

const ca_node *ca_sweep_value(const ca_sweep_axis *axis, int64_t point) {
    return axis->list->items[point / axis->stride % axis->list->count];
}

int64_t ca_document_points(const ca_document *document) { return document->sweep.points; }

int64_t ca_document_sweep_keys(const ca_document *document) { return document->sweep.count; }

const char *ca_document_sweep_key(const ca_document *document, int64_t key) {
    assert(key >= 0 && key < document->sweep.count);
    return document->sweep.axes[key].path;
}

const char *ca_document_sweep_value(const ca_document *document, int64_t point, int64_t key) {
    assert(key >= 0 && key < document->sweep.count);
    assert(point >= 0 && point < document->sweep.points);
    return ca_sweep_value(&document->sweep.axes[key], point)->text;
}
