/* SPDX-License-Identifier: MIT
 *
 * Reader of one .safetensors file: 8 bytes of header length, a JSON object with dtype, shape and
 * byte range of every tensor, then the data. Called for each shard when a checkpoint is opened.
 *
 * Nothing in the header is believed: ranges must lie in the file, agree with dtype and shape, and
 * cover the data without overlap or hole.
 */
#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "bytes.h"

enum { MAX_HEADER_BYTES = 100 * 1000 * 1000, MAX_NAME = 256 };

/* One file while it is read; `data` is what follows the header. */
typedef struct shard {
    ca_checkpoint *c;
    const char *path;
    const unsigned char *data;
    size_t data_bytes;
    int64_t first; /* index of its first tensor in the table */
} shard;

/* Every dtype of the format; those without an encoding may only occur in tensors that are ignored.
 */
static const struct dtype {
    const char *name;
    size_t bytes;
} dtypes[] = {{"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F64", 8},     {"I64", 8},
              {"I32", 4}, {"I16", 2}, {"I8", 1},   {"U8", 1},      {"BOOL", 1},
              {"U16", 2}, {"U32", 4}, {"U64", 8},  {"F8_E4M3", 1}, {"F8_E5M2", 1}};

static const struct dtype *find_dtype(const char *name) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, name) == 0) return dtypes + i;
    return NULL;
}

static ca_status read_dtype(const shard *s, json_t *entry, ca_weight *w, size_t *value_bytes) {
    const char *name = json_string_value(json_object_get(entry, "dtype"));
    if (name == NULL)
        return ca_fail(CA_E_MODEL, "%s: tensor '%s': expected a string 'dtype', got none", s->path,
                       w->name);
    const struct dtype *dtype = find_dtype(name);
    if (dtype == NULL)
        return ca_fail(CA_E_MODEL,
                       "%s: tensor '%s': dtype: expected F32, F16, BF16 or another "
                       "safetensors type, got '%.40s'",
                       s->path, w->name, name);
    w->type = dtype->name;
    w->encoding = ca_encoding_by_name(dtype->name);
    *value_bytes = dtype->bytes;
    return CA_OK;
}

static ca_status read_shape(const shard *s, json_t *entry, ca_weight *w) {
    json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape) || json_array_size(shape) > CA_MAX_WEIGHT_RANK)
        return ca_fail(CA_E_MODEL,
                       "%s: tensor '%s': shape: expected an array of at most %d "
                       "integers, got another value",
                       s->path, w->name, CA_MAX_WEIGHT_RANK);
    w->rank = (int)json_array_size(shape);
    for (int i = 0; i < w->rank; i++) {
        json_t *n = json_array_get(shape, (size_t)i);
        if (!json_is_integer(n) || json_integer_value(n) < 0)
            return ca_fail(CA_E_MODEL,
                           "%s: tensor '%s': shape: expected integers >= 0, got "
                           "another value at axis %d",
                           s->path, w->name, i);
        w->shape[i] = json_integer_value(n);
    }
    return CA_OK;
}

static ca_status read_range(const shard *s, json_t *entry, ca_weight *w) {
    json_t *offsets = json_object_get(entry, "data_offsets");
    json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return ca_fail(CA_E_MODEL,
                       "%s: tensor '%s': data_offsets: expected two integers, got "
                       "another value",
                       s->path, w->name);
    json_int_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin)
        return ca_fail(CA_E_MODEL,
                       "%s: tensor '%s': data_offsets: expected 0 <= begin <= end, got "
                       "[%lld, %lld]",
                       s->path, w->name, (long long)begin, (long long)end);
    if ((uint64_t)end > s->data_bytes)
        return ca_fail(CA_E_MODEL,
                       "%s: tensor '%s': data_offsets past the end: expected at most "
                       "%zu bytes of data, got [%lld, %lld]",
                       s->path, w->name, s->data_bytes, (long long)begin, (long long)end);
    w->data = s->data + begin;
    w->bytes = (size_t)(end - begin);
    return CA_OK;
}

static ca_status check_size(const shard *s, const ca_weight *w, size_t value_bytes) {
    size_t bytes = value_bytes;
    bool fits = true;
    for (int i = 0; i < w->rank; i++)
        fits = fits && ca_mul_size(bytes, (size_t)w->shape[i], &bytes);
    if (fits && bytes == w->bytes) return CA_OK;
    char shape[128];
    ca_shape_text(shape, sizeof shape, w->rank, w->shape);
    return ca_fail(CA_E_MODEL,
                   "%s: tensor '%s': expected as many bytes as shape %s of %s needs, got "
                   "data_offsets over %zu bytes",
                   s->path, w->name, shape, w->type, w->bytes);
}

/* Names go into messages: no control characters. */
static bool is_plain_name(const char *name) {
    size_t length = strlen(name);
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)name[i] < ' ' || name[i] == 127) return false;
    return length > 0 && length <= MAX_NAME;
}

static ca_status read_tensor(shard *s, const char *name, json_t *entry) {
    ca_status st = CA_OK;
    ca_weight *w = NULL;
    char *own_name = NULL;
    size_t value_bytes = 0;
    if (!is_plain_name(name))
        return ca_fail(CA_E_MODEL,
                       "%s: header: expected tensor names of 1 to %d characters without "
                       "control characters, got another name",
                       s->path, MAX_NAME);
    if (!json_is_object(entry))
        return ca_fail(CA_E_MODEL,
                       "%s: tensor '%s': expected an object in the header, got another "
                       "value",
                       s->path, name);
    CA_TRY(ca_arena_strdup(s->c->arena, name, strlen(name), &own_name));
    CA_TRY(ca_checkpoint_add(s->c, &w));
    w->name = own_name;
    w->file = s->path;
    CA_TRY(read_dtype(s, entry, w, &value_bytes));
    CA_TRY(read_shape(s, entry, w));
    CA_TRY(read_range(s, entry, w));
    CA_TRY(check_size(s, w, value_bytes));
out:
    return st;
}

static int by_range(const void *a, const void *b) {
    const ca_weight *p = a, *q = b;
    if (p->data != q->data) return (p->data > q->data) - (p->data < q->data);
    return (p->bytes > q->bytes) - (p->bytes < q->bytes); /* empty tensors first */
}

/* Bytes that belong to no tensor: an error, but a tensor that the model misses explains it better.
 * So the message waits until names have been resolved. */
static ca_status note_hole(const shard *s, const unsigned char *begin, const unsigned char *end) {
    char *text = NULL;
    if (s->c->hole != NULL) return CA_OK;
    ca_status st = ca_arena_printf(s->c->arena, &text,
                                   "%s: header: expected data_offsets to cover all "
                                   "data, got none for bytes %td to %td",
                                   s->path, begin - s->data, end - s->data);
    s->c->hole = text;
    return st;
}

/* Sorted by place, each tensor must begin where the one before it ended. */
static ca_status check_cover(const shard *s) {
    ca_status st = CA_OK;
    ca_weight *w = s->c->weights + s->first;
    int64_t count = s->c->count - s->first;
    if (count > 0) qsort(w, (size_t)count, sizeof *w, by_range);
    const unsigned char *end = s->data;
    for (int64_t i = 0; i < count; i++) {
        if (w[i].data < end) {
            st = ca_fail(CA_E_MODEL,
                         "%s: tensors '%s' and '%s': expected data of their own, got "
                         "overlapping data_offsets",
                         s->path, w[i - 1].name, w[i].name);
            goto out;
        }
        if (w[i].data > end) CA_TRY(note_hole(s, end, w[i].data));
        end = w[i].data + w[i].bytes;
    }
    if (end < s->data + s->data_bytes) CA_TRY(note_hole(s, end, s->data + s->data_bytes));
out:
    return st;
}

/* The name before the byte at which a parser found it for the second time. */
static ca_status fail_duplicate(const shard *s, const char *text, int position) {
    int end = position, start;
    while (end > 0 && text[end - 1] != '"') end--;
    for (start = end - 1; start > 0 && text[start - 1] != '"';) start--;
    int length = end - 1 - start;
    return ca_fail(CA_E_MODEL, "%s: header: tensor '%.*s': expected once, got twice", s->path,
                   length < 0          ? 0
                   : length < MAX_NAME ? length
                                       : MAX_NAME,
                   text + (start < 0 ? 0 : start));
}

static ca_status parse_header(const shard *s, const char *text, size_t length, json_t **out) {
    json_error_t error;
    json_t *header = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    if (header == NULL && json_error_code(&error) == json_error_duplicate_key)
        return fail_duplicate(s, text, error.position);
    if (header == NULL)
        return ca_fail(CA_E_MODEL, "%s: header: byte %d: expected a JSON object, got: %s", s->path,
                       error.position, error.text);
    if (!json_is_object(header)) {
        json_decref(header);
        return ca_fail(CA_E_MODEL, "%s: header: expected a JSON object, got another value",
                       s->path);
    }
    *out = header;
    return CA_OK;
}

ca_status ca_safetensors_read(ca_checkpoint *c, const char *path) {
    ca_status st = CA_OK;
    ca_file_map map = {0};
    shard s = {.c = c, .first = c->count};
    json_t *header = NULL, *entry;
    char *own_path = NULL;
    const char *name;
    CA_TRY(ca_arena_strdup(c->arena, path, strlen(path), &own_path));
    s.path = own_path;
    CA_TRY(ca_checkpoint_map(c, path, &map));
    if (map.size < sizeof(uint64_t)) {
        st =
            ca_fail(CA_E_MODEL, "%s: too short: expected a header length of 8 bytes, got %zu bytes",
                    path, map.size);
        goto out;
    }
    uint64_t length = ca_read_u64(map.data);
    size_t most = map.size - sizeof length < MAX_HEADER_BYTES ? map.size - sizeof length
                                                              : (size_t)MAX_HEADER_BYTES;
    if (length > most) {
        st = ca_fail(CA_E_MODEL, "%s: header length: expected at most %zu, got %llu", path, most,
                     (unsigned long long)length);
        goto out;
    }
    s.data = map.data + sizeof length + length;
    s.data_bytes = map.size - sizeof length - (size_t)length;
    CA_TRY(parse_header(&s, (const char *)map.data + sizeof length, (size_t)length, &header));
    json_object_foreach(header, name, entry) {
        if (strcmp(name, "__metadata__") != 0) CA_TRY(read_tensor(&s, name, entry));
    }
    CA_TRY(check_cover(&s));
out:
    json_decref(header);
    return st;
}
