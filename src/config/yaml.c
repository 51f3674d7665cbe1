/* SPDX-License-Identifier: MIT
 *
 * YAML text -> tree of nodes with their places, from the events of libyaml. Called for whole files,
 * for values on the command line and for the defaults in tables of options.
 *
 * The text may come from anybody: depth, nodes, anchors, keys and bytes are bounded. A mistake that
 * leaves the rest readable (a duplicate key, a tag) is noted and reading goes on.
 */
#include "tree.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

typedef struct ca_anchor {
    const char *name;
    ca_node *node; /* NULL until its value has ended */
} ca_anchor;

/* A step from the root to the node that is being read, for messages. */
typedef struct ca_step {
    const char *key; /* NULL in a list */
    int64_t index;
} ca_step;

typedef struct ca_reader {
    yaml_parser_t yaml;
    yaml_event_t event; /* the current one */
    ca_arena *arena;
    ca_problems *problems;
    ca_place start;
    const char *path; /* of the whole value */
    ca_anchor anchors[CA_YAML_MAX_ANCHORS];
    int64_t anchor_count, node_count;
    size_t alias_bytes;
    ca_step steps[CA_YAML_MAX_DEPTH];
    int depth, depth_at_start; /* depth = steps above the node that is being read */
} ca_reader;

/* ---- places and failures ----------------------------------------------------------------- */

static ca_place place_of(const ca_reader *r, yaml_mark_t mark) {
    size_t column = mark.column + (mark.line == 0 ? (size_t)r->start.column : 1);
    return (ca_place){r->start.file, r->start.line + (int)mark.line, (int)column};
}

/* "method.test[1].name" */
static ca_status print_path(const ca_reader *r, ca_string *out) {
    ca_status st = ca_string_printf(out, "%s", r->path);
    for (int i = r->depth_at_start; i < r->depth && st == CA_OK; i++) {
        const ca_step *step = &r->steps[i];
        st = step->key == NULL
                 ? ca_string_printf(out, "[%" PRId64 "]", step->index)
                 : ca_string_printf(out, "%s%s", out->length > 0 ? "." : "", step->key);
    }
    return st;
}

static ca_status add_problem(ca_reader *r, ca_place place, const char *text) {
    ca_string path = {0};
    ca_status st = print_path(r, &path);
    if (st == CA_OK) st = ca_problems_add(r->problems, place, path.text, "%s", text);
    ca_string_free(&path);
    return st;
}

/* A problem after which the text cannot be read on. */
static ca_status stop(ca_reader *r, yaml_mark_t mark, const char *text) {
    ca_status st = add_problem(r, place_of(r, mark), text);
    return st == CA_OK ? CA_E_CONFIG : st;
}

/* Line and column, in characters, of a byte of the text. */
static yaml_mark_t mark_of_byte(const char *text, size_t offset) {
    yaml_mark_t mark = {.index = offset};
    for (size_t i = 0; i < offset; i++) {
        if (text[i] == '\n') {
            mark.line++;
            mark.column = 0;
        } else if (((unsigned char)text[i] & 0xC0) != 0x80) {
            mark.column++;
        }
    }
    return mark;
}

static ca_status check_utf8(ca_reader *r, const char *text, size_t length) {
    int64_t offset = ca_utf8_invalid(text, length);
    if (offset < 0) return CA_OK;
    char message[100];
    snprintf(message, sizeof message,
             "expected UTF-8 text, got the byte 0x%02X at byte offset %" PRId64,
             (unsigned char)text[offset], offset);
    return stop(r, mark_of_byte(text, (size_t)offset), message);
}

static ca_status stop_at_syntax(ca_reader *r, const char *text) {
    const yaml_parser_t *yaml = &r->yaml;
    if (yaml->error == YAML_MEMORY_ERROR)
        return ca_fail(CA_E_MEMORY, "%s: expected memory to read YAML, got none", r->start.file);
    yaml_mark_t mark = yaml->problem_mark;
    if (yaml->error == YAML_READER_ERROR) mark = mark_of_byte(text, yaml->problem_offset);

    char message[300], context[200] = "";
    if (yaml->context != NULL)
        snprintf(context, sizeof context, " (%s that began in line %d)", yaml->context,
                 place_of(r, yaml->context_mark).line);
    snprintf(message, sizeof message, "expected well-formed YAML, got an error: %s%s",
             yaml->problem != NULL ? yaml->problem : "unreadable text", context);
    r->depth = r->depth_at_start; /* the path of an unfinished tree would mislead */
    return stop(r, mark, message);
}

static ca_status next_event(ca_reader *r, const char *text) {
    yaml_event_delete(&r->event);
    return yaml_parser_parse(&r->yaml, &r->event) ? CA_OK : stop_at_syntax(r, text);
}

/* ---- nodes ------------------------------------------------------------------------------- */

ca_status ca_node_create(ca_arena *arena, ca_node_kind kind, ca_place place, ca_node **out) {
    ca_status st = ca_arena_alloc(arena, sizeof **out, out);
    if (st != CA_OK) return st;
    (*out)->kind = kind;
    (*out)->file = place.file;
    (*out)->line = place.line;
    (*out)->column = place.column;
    return CA_OK;
}

static ca_status count_node(ca_reader *r, yaml_mark_t mark) {
    if (++r->node_count <= CA_YAML_MAX_NODES) return CA_OK;
    return stop(r, mark, "expected at most 1000000 values with all aliases expanded, got more");
}

static ca_status descend(ca_reader *r, yaml_mark_t mark, const char *key, int64_t index) {
    if (r->depth >= CA_YAML_MAX_DEPTH)
        return stop(r, mark, "expected at most 64 levels of nesting, got more");
    r->steps[r->depth++] = (ca_step){key, index};
    return CA_OK;
}

/* Node for the current event. `anchor` receives its place in the table, or -1. */
static ca_status open_node(ca_reader *r, ca_node_kind kind, const yaml_char_t *anchor_name,
                           const yaml_char_t *tag, int64_t *anchor, ca_node **out) {
    ca_status st = CA_OK;
    yaml_mark_t mark = r->event.start_mark;
    *anchor = -1;
    CA_TRY(count_node(r, mark));
    CA_TRY(ca_node_create(r->arena, kind, place_of(r, mark), out));
    if (tag != NULL)
        CA_TRY(add_problem(r, place_of(r, mark), "expected a value without a tag, got one"));
    if (anchor_name == NULL) goto out;
    if (r->anchor_count == CA_YAML_MAX_ANCHORS)
        CA_TRY(stop(r, mark, "expected at most 1000 anchors, got more"));
    char *name;
    CA_TRY(ca_arena_strdup(r->arena, (const char *)anchor_name, strlen((const char *)anchor_name),
                           &name));
    *anchor = r->anchor_count++;
    r->anchors[*anchor] = (ca_anchor){name, NULL};
out:
    return st;
}

static void close_node(ca_reader *r, int64_t anchor, ca_node *node) {
    if (anchor >= 0) r->anchors[anchor].node = node;
}

/* Copies a list of pointers from the growing heap array to the arena. */
static ca_status keep_pointers(ca_arena *arena, const void *from, int64_t count, void *out) {
    void *pointers = NULL;
    ca_status st = ca_arena_alloc(arena, (size_t)count * sizeof(void *), &pointers);
    if (st == CA_OK && count > 0) memcpy(pointers, from, (size_t)count * sizeof(void *));
    memcpy(out, &pointers, sizeof pointers);
    return st;
}

static ca_status read_scalar(ca_reader *r, ca_node **out) {
    ca_status st = CA_OK;
    const char *value = (const char *)r->event.data.scalar.value;
    size_t length = r->event.data.scalar.length;
    bool quoted = r->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    int64_t anchor;
    ca_node *node;
    CA_TRY(open_node(r, CA_NODE_SCALAR, r->event.data.scalar.anchor, r->event.data.scalar.tag,
                     &anchor, &node));
    if (strlen(value) != length)
        CA_TRY(
            add_problem(r, ca_node_place(node), "expected text without NUL characters, got one"));
    char *text;
    CA_TRY(ca_arena_strdup(r->arena, value, strlen(value), &text));
    node->text = text;
    node->quoted = quoted;
    if (!quoted && ca_scalar_null(text)) {
        node->kind = CA_NODE_NULL;
        node->text = "null";
    }
    close_node(r, anchor, node);
    *out = node;
out:
    return st;
}

/* ---- aliases ----------------------------------------------------------------------------- */

/* Deep copy, since every node has a place of its own; texts are shared, their bytes counted. */
static ca_status expand(ca_reader *r, yaml_mark_t mark, const ca_node *from, ca_node **out) {
    ca_status st = CA_OK;
    ca_node *node;
    CA_TRY(count_node(r, mark));
    CA_TRY(ca_arena_alloc(r->arena, sizeof *node, &node));
    *node = *from;
    r->alias_bytes += from->text != NULL ? strlen(from->text) : 0;
    if (r->alias_bytes > CA_YAML_MAX_ALIAS_BYTES)
        CA_TRY(stop(r, mark, "expected at most 16 MiB of text behind aliases, got more"));
    CA_TRY(keep_pointers(r->arena, from->items, from->count, &node->items));
    if (from->kind == CA_NODE_MAP)
        CA_TRY(keep_pointers(r->arena, from->keys, from->count, &node->keys));
    for (int64_t i = 0; i < from->count; i++) {
        CA_TRY(descend(r, mark, from->kind == CA_NODE_MAP ? from->keys[i] : NULL, i));
        CA_TRY(expand(r, mark, from->items[i], &node->items[i]));
        r->depth--;
    }
    *out = node;
out:
    return st;
}

static ca_status read_alias(ca_reader *r, ca_node **out) {
    const char *name = (const char *)r->event.data.alias.anchor;
    yaml_mark_t mark = r->event.start_mark;
    int64_t i = r->anchor_count - 1;
    while (i >= 0 && strcmp(r->anchors[i].name, name) != 0) i--;
    if (i < 0) return stop(r, mark, "expected the alias of an anchor above, got an unknown one");
    if (r->anchors[i].node == NULL)
        return stop(r, mark,
                    "expected the alias of a finished value, got one inside its own anchor");
    ca_status st = expand(r, mark, r->anchors[i].node, out);
    if (st != CA_OK) return st;
    ca_place place = place_of(r, mark);
    (*out)->line = place.line;
    (*out)->column = place.column;
    return CA_OK;
}

/* ---- lists and maps ---------------------------------------------------------------------- */

static ca_status read_node(ca_reader *r, const char *text, ca_node **out);

static ca_status read_list(ca_reader *r, const char *text, ca_node **out) {
    ca_status st = CA_OK;
    ca_node **items = NULL, *node;
    int64_t count = 0, capacity = 0, anchor;
    CA_TRY(open_node(r, CA_NODE_LIST, r->event.data.sequence_start.anchor,
                     r->event.data.sequence_start.tag, &anchor, &node));
    for (;;) {
        CA_TRY(next_event(r, text));
        if (r->event.type == YAML_SEQUENCE_END_EVENT) break;
        CA_TRY(ca_grow(&items, &capacity, count + 1, sizeof *items));
        CA_TRY(descend(r, r->event.start_mark, NULL, count));
        CA_TRY(read_node(r, text, &items[count]));
        r->depth--;
        count++;
    }
    CA_TRY(keep_pointers(r->arena, items, count, &node->items));
    node->count = count;
    close_node(r, anchor, node);
    *out = node;
out:
    free(items);
    return st;
}

/* The pairs of a map while it is read. */
typedef struct ca_pairs {
    const char **keys;
    ca_node **items;
    int64_t count, key_capacity, item_capacity;
    ca_node *merged; /* value of "<<", or NULL */
} ca_pairs;

static ca_node *find_pair(const ca_pairs *pairs, const char *key) {
    for (int64_t i = 0; i < pairs->count; i++)
        if (strcmp(pairs->keys[i], key) == 0) return pairs->items[i];
    return NULL;
}

static ca_status add_pair(ca_reader *r, yaml_mark_t mark, ca_pairs *pairs, const char *key,
                          ca_node *item) {
    ca_status st = CA_OK;
    if (pairs->count == CA_YAML_MAX_MAP_KEYS)
        CA_TRY(stop(r, mark, "expected at most 1000 keys in a map, got more"));
    CA_TRY(ca_grow(&pairs->keys, &pairs->key_capacity, pairs->count + 1, sizeof *pairs->keys));
    CA_TRY(ca_grow(&pairs->items, &pairs->item_capacity, pairs->count + 1, sizeof *pairs->items));
    pairs->keys[pairs->count] = key;
    pairs->items[pairs->count++] = item;
out:
    return st;
}

/* Adds the pairs of one map behind "<<" whose keys are not there yet. */
static ca_status merge_map(ca_reader *r, ca_pairs *pairs, const ca_node *from) {
    yaml_mark_t mark = r->event.start_mark;
    if (from->kind != CA_NODE_MAP)
        return add_problem(r, ca_node_place(from), "expected a map or a list of maps behind '<<'");
    ca_status st = CA_OK;
    for (int64_t i = 0; i < from->count && st == CA_OK; i++)
        if (find_pair(pairs, from->keys[i]) == NULL)
            st = add_pair(r, mark, pairs, from->keys[i], from->items[i]);
    return st;
}

static ca_status merge(ca_reader *r, ca_pairs *pairs) {
    if (pairs->merged == NULL) return CA_OK;
    if (pairs->merged->kind != CA_NODE_LIST) return merge_map(r, pairs, pairs->merged);
    ca_status st = CA_OK;
    for (int64_t i = 0; i < pairs->merged->count && st == CA_OK; i++)
        st = merge_map(r, pairs, pairs->merged->items[i]);
    return st;
}

static ca_status fail_duplicate(ca_reader *r, ca_place place, const ca_node *first) {
    char text[120];
    snprintf(text, sizeof text, "expected each key once, got a second one (the first is at %d:%d)",
             first->key_line, first->key_column);
    return add_problem(r, place, text);
}

/* Reads the key in the current event. */
static ca_status read_key(ca_reader *r, char **key, bool *merges) {
    yaml_mark_t mark = r->event.start_mark;
    if (r->event.type != YAML_SCALAR_EVENT)
        return stop(r, mark, "expected a name as key, got a list, a map or an alias");
    const char *text = (const char *)r->event.data.scalar.value;
    size_t length = r->event.data.scalar.length;
    if (length == 0) return stop(r, mark, "expected a name as key, got nothing");
    if (length > CA_YAML_MAX_KEY_BYTES || strlen(text) != length)
        return stop(r, mark, "expected a key of at most 200 bytes, got more or a NUL character");
    *merges = strcmp(text, "<<") == 0 && r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    return ca_arena_strdup(r->arena, text, length, key);
}

/* Reads one key and its value; the current event is the key. */
static ca_status read_pair(ca_reader *r, const char *text, ca_pairs *pairs) {
    ca_status st = CA_OK;
    yaml_mark_t mark = r->event.start_mark;
    ca_place place = place_of(r, mark);
    char *key;
    bool merges;
    ca_node *item;
    CA_TRY(read_key(r, &key, &merges));
    CA_TRY(descend(r, mark, key, 0));
    CA_TRY(next_event(r, text));
    CA_TRY(read_node(r, text, &item));
    item->key_line = place.line;
    item->key_column = place.column;

    const ca_node *first = merges ? pairs->merged : find_pair(pairs, key);
    if (first != NULL)
        CA_TRY(fail_duplicate(r, place, first));
    else if (merges)
        pairs->merged = item;
    else
        CA_TRY(add_pair(r, mark, pairs, key, item));
    r->depth--;
out:
    return st;
}

static ca_status read_map(ca_reader *r, const char *text, ca_node **out) {
    ca_status st = CA_OK;
    ca_pairs pairs = {0};
    int64_t anchor;
    ca_node *node;
    CA_TRY(open_node(r, CA_NODE_MAP, r->event.data.mapping_start.anchor,
                     r->event.data.mapping_start.tag, &anchor, &node));
    for (;;) {
        CA_TRY(next_event(r, text));
        if (r->event.type == YAML_MAPPING_END_EVENT) break;
        CA_TRY(read_pair(r, text, &pairs));
    }
    CA_TRY(merge(r, &pairs));
    CA_TRY(keep_pointers(r->arena, pairs.keys, pairs.count, &node->keys));
    CA_TRY(keep_pointers(r->arena, pairs.items, pairs.count, &node->items));
    node->count = pairs.count;
    close_node(r, anchor, node);
    *out = node;
out:
    free(pairs.keys);
    free(pairs.items);
    return st;
}

static ca_status read_node(ca_reader *r, const char *text, ca_node **out) {
    switch (r->event.type) {
    case YAML_ALIAS_EVENT:
        return read_alias(r, out);
    case YAML_SCALAR_EVENT:
        return read_scalar(r, out);
    case YAML_SEQUENCE_START_EVENT:
        return read_list(r, text, out);
    default:
        assert(r->event.type == YAML_MAPPING_START_EVENT);
        return read_map(r, text, out);
    }
}

/* ---- documents --------------------------------------------------------------------------- */

static ca_status read_document(ca_reader *r, const char *text, size_t length, ca_node **out) {
    ca_status st = CA_OK;
    if (length > CA_YAML_MAX_BYTES)
        CA_TRY(stop(r, (yaml_mark_t){0}, "expected at most 4 MiB of YAML, got more"));
    CA_TRY(check_utf8(r, text, length));
    yaml_parser_set_input_string(&r->yaml, (const unsigned char *)text, length);

    CA_TRY(next_event(r, text)); /* stream start */
    CA_TRY(next_event(r, text));
    if (r->event.type == YAML_STREAM_END_EVENT) goto out;
    CA_TRY(next_event(r, text));
    CA_TRY(read_node(r, text, out));
    CA_TRY(next_event(r, text)); /* document end */
    CA_TRY(next_event(r, text));
    if (r->event.type != YAML_STREAM_END_EVENT)
        CA_TRY(stop(r, r->event.start_mark, "expected one YAML document, got a second one"));
out:
    return st;
}

ca_status ca_yaml_parse(ca_arena *arena, ca_problems *problems, const char *text, size_t length,
                        ca_place start, const char *path, int depth, ca_node **out) {
    *out = NULL;
    ca_reader *r = NULL;
    ca_status st = ca_calloc(1, sizeof *r, &r);
    if (st != CA_OK) return st;
    r->arena = arena;
    r->problems = problems;
    r->start = start;
    r->path = path;
    r->depth = r->depth_at_start = depth;
    if (yaml_parser_initialize(&r->yaml)) {
        st = read_document(r, text, length, out);
    } else {
        st = ca_fail(CA_E_MEMORY, "%s: expected memory to read YAML, got none", start.file);
    }
    yaml_event_delete(&r->event);
    yaml_parser_delete(&r->yaml);
    free(r);
    return st;
}
