/* SPDX-License-Identifier: MIT
 *
 * GGUF reader: one pass over the header that checks every count, length, type and offset against
 * the size of the file, then look-ups in sorted tables. Used by the model loader and the tokenizer.
 * After ca_gguf_open has succeeded every pointer it hands out lies inside the map.
 */
#include "causa/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "encoding.h"
#include "gguf_file.h"

typedef enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT
} gguf_type;

/* Bytes of a value; 0 for strings and arrays. */
static const uint8_t scalar_size[GGUF_TYPE_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

enum { MIN_KEY_BYTES = 13, MIN_TENSOR_BYTES = 24, MAX_NAME = 256 };

typedef struct gguf_entry {
    ca_gguf_string key;
    gguf_type type;               /* of the value, or of the elements of an array */
    int64_t count;                /* elements of an array, -1 for a single value */
    const unsigned char *value;   /* first scalar */
    const ca_gguf_string *string; /* [count], or [1] for a single string */
} gguf_entry;

struct ca_gguf {
    char *path;
    ca_arena *arena;
    ca_file_map map;
    uint32_t version;
    size_t data_start;
    gguf_entry *entries; /* sorted by key */
    int64_t entry_count;
    ca_gguf_tensor *tensors; /* sorted by name */
    int64_t tensor_count;
};

/* Where the header is being read. */
typedef struct cursor {
    const ca_gguf *g;
    size_t at;
} cursor;

static size_t left(const cursor *c) { return c->g->map.size - c->at; }

static ca_status need(const cursor *c, size_t bytes, const char *what) {
    if (bytes <= left(c)) return CA_OK;
    return ca_fail(CA_E_MODEL,
                   "%s: byte %zu: expected %zu bytes of %s, got the end of file after %zu",
                   c->g->path, c->at, bytes, what, left(c));
}

static ca_status read_u32(cursor *c, const char *what, uint32_t *value) {
    ca_status st = CA_OK;
    CA_TRY(need(c, sizeof *value, what));
    *value = ca_read_u32(c->g->map.data + c->at);
    c->at += sizeof *value;
out:
    return st;
}

static ca_status read_u64(cursor *c, const char *what, uint64_t *value) {
    ca_status st = CA_OK;
    CA_TRY(need(c, sizeof *value, what));
    *value = ca_read_u64(c->g->map.data + c->at);
    c->at += sizeof *value;
out:
    return st;
}

/* A count of things that take at least `least` bytes each. */
static ca_status read_count(cursor *c, const char *what, size_t least, int64_t *count) {
    ca_status st = CA_OK;
    uint64_t n = 0;
    CA_TRY(read_u64(c, what, &n));
    if (n > left(c) / least) {
        st = ca_fail(CA_E_MODEL, "%s: %s: expected at most %zu up to the end of file, got %llu",
                     c->g->path, what, left(c) / least, (unsigned long long)n);
        goto out;
    }
    *count = (int64_t)n;
out:
    return st;
}

static ca_status read_string(cursor *c, const char *what, ca_gguf_string *s) {
    ca_status st = CA_OK;
    CA_TRY(read_u64(c, what, &s->length));
    if (s->length > left(c)) {
        st = ca_fail(CA_E_MODEL,
                     "%s: byte %zu: string length of %s: expected at most %zu up to the end of "
                     "file, got %llu",
                     c->g->path, c->at - sizeof s->length, what, left(c),
                     (unsigned long long)s->length);
        goto out;
    }
    s->text = (const char *)c->g->map.data + c->at;
    c->at += s->length;
out:
    return st;
}

/* Keys and tensor names: short, without bytes that would garble a terminal. */
static ca_status read_name(cursor *c, const char *what, ca_gguf_string *s) {
    ca_status st = CA_OK;
    size_t start = c->at;
    CA_TRY(read_string(c, what, s));
    bool plain = s->length > 0 && s->length <= MAX_NAME;
    for (uint64_t i = 0; plain && i < s->length; i++) plain = s->text[i] > ' ' && s->text[i] < 127;
    if (!plain)
        st = ca_fail(CA_E_MODEL, "%s: byte %zu: %s: expected 1 to %d printable ASCII characters",
                     c->g->path, start, what, MAX_NAME);
out:
    return st;
}

static ca_status read_strings(cursor *c, ca_arena *arena, gguf_entry *e, int64_t count) {
    ca_status st = CA_OK;
    ca_gguf_string *strings = NULL;
    CA_TRY(ca_arena_alloc(arena, (size_t)count * sizeof *strings, &strings));
    for (int64_t i = 0; i < count; i++) CA_TRY(read_string(c, "a string value", strings + i));
    e->string = strings;
out:
    return st;
}

static ca_status read_type(cursor *c, const gguf_entry *e, const char *what, gguf_type *type) {
    ca_status st = CA_OK;
    uint32_t number = 0;
    CA_TRY(read_u32(c, what, &number));
    if (number >= GGUF_TYPE_COUNT)
        st = ca_fail(CA_E_MODEL, "%s: key '%.*s': %s: expected 0 to %d, got %u", c->g->path,
                     (int)e->key.length, e->key.text, what, GGUF_TYPE_COUNT - 1, number);
    *type = (gguf_type)number;
out:
    return st;
}

static ca_status read_entry(cursor *c, ca_arena *arena, gguf_entry *e) {
    ca_status st = CA_OK;
    CA_TRY(read_name(c, "a key", &e->key));
    CA_TRY(read_type(c, e, "value type", &e->type));
    e->count = -1;
    if (e->type == GGUF_ARRAY) {
        CA_TRY(read_type(c, e, "element type", &e->type));
        if (e->type == GGUF_ARRAY) {
            st = ca_fail(CA_E_MODEL,
                         "%s: key '%.*s': expected an array of scalars or strings, got "
                         "an array of arrays",
                         c->g->path, (int)e->key.length, e->key.text);
            goto out;
        }
        size_t size = scalar_size[e->type];
        CA_TRY(read_count(c, "array length", size > 0 ? size : sizeof(uint64_t), &e->count));
    }
    int64_t count = e->count < 0 ? 1 : e->count;
    if (e->type == GGUF_STRING) {
        CA_TRY(read_strings(c, arena, e, count));
    } else {
        size_t bytes = (size_t)count * scalar_size[e->type];
        CA_TRY(need(c, bytes, "a value"));
        e->value = c->g->map.data + c->at;
        c->at += bytes;
    }
out:
    return st;
}

/* Shape and encoding of one tensor; `offset` is relative to the data start, not yet known. */
static ca_status read_tensor(cursor *c, ca_gguf_tensor *t, uint64_t *offset) {
    ca_status st = CA_OK;
    uint32_t rank = 0, type = 0;
    CA_TRY(read_name(c, "a tensor name", &t->name));
    int length = (int)t->name.length;
    const char *path = c->g->path, *name = t->name.text;
    CA_TRY(read_u32(c, "tensor rank", &rank));
    if (rank < 1 || rank > 4) {
        st = ca_fail(CA_E_MODEL, "%s: tensor '%.*s': expected 1 to 4 dimensions, got %u", path,
                     length, name, rank);
        goto out;
    }
    t->rank = (int)rank;
    size_t values = 1;
    for (int i = 0; i < t->rank; i++) {
        uint64_t n = 0;
        CA_TRY(read_u64(c, "tensor dimension", &n));
        if (n == 0 || n > INT64_MAX || !ca_mul_size(values, (size_t)n, &values)) {
            st = ca_fail(CA_E_MODEL,
                         "%s: tensor '%.*s': expected a size of 1 to 2^63 - 1, got "
                         "dimension %d of %llu",
                         path, length, name, i, (unsigned long long)n);
            goto out;
        }
        t->shape[t->rank - 1 - i] = (int64_t)n;
    }
    CA_TRY(read_u32(c, "tensor type", &type));
    const ca_encoding *encoding = ca_encoding_by_ggml_type(type);
    if (encoding == NULL) {
        st = ca_fail(CA_E_MODEL, "%s: tensor '%.*s': expected a type of %s, got %s (%u)", path,
                     length, name, ca_encoding_names(), ca_ggml_type_name(type), type);
        goto out;
    }
    t->type = encoding->ggml_type;
    if (t->shape[t->rank - 1] % encoding->block_values != 0) {
        st = ca_fail(CA_E_MODEL,
                     "%s: tensor '%.*s': expected rows of a multiple of %lld values "
                     "for %s, got %lld",
                     path, length, name, (long long)encoding->block_values, encoding->name,
                     (long long)t->shape[t->rank - 1]);
        goto out;
    }
    size_t blocks = values / (size_t)encoding->block_values;
    if (!ca_mul_size(blocks, encoding->block_bytes, &t->bytes)) t->bytes = SIZE_MAX;
    CA_TRY(read_u64(c, "tensor offset", offset));
out:
    return st;
}

/* Data begins at the next multiple of the alignment, and so does every tensor. */
static ca_status place_tensors(ca_gguf *g, size_t header_end, const uint64_t *offsets) {
    int64_t alignment = 32;
    if (ca_gguf_has(g, "general.alignment") &&
        (!ca_gguf_int(g, "general.alignment", &alignment) || alignment < 1 || alignment > 1 << 20 ||
         (alignment & (alignment - 1)) != 0))
        return ca_fail(CA_E_MODEL,
                       "%s: general.alignment: expected a power of two up to 2^20, "
                       "got another value",
                       g->path);
    size_t mask = (size_t)alignment - 1, size = g->map.size;
    g->data_start = (header_end + mask) & ~mask;
    if (g->data_start > size) g->data_start = size;
    for (int64_t i = 0; i < g->tensor_count; i++) {
        ca_gguf_tensor *t = g->tensors + i;
        int length = (int)t->name.length;
        if ((offsets[i] & mask) != 0)
            return ca_fail(CA_E_MODEL,
                           "%s: tensor '%.*s': expected an offset that is a multiple "
                           "of %lld, got %llu",
                           g->path, length, t->name.text, (long long)alignment,
                           (unsigned long long)offsets[i]);
        size_t room = size - g->data_start;
        if (offsets[i] > room || t->bytes > room - offsets[i])
            return ca_fail(CA_E_MODEL,
                           "%s: tensor '%.*s': expected its %zu bytes at offset %llu "
                           "within %zu bytes of data, got past the end of file",
                           g->path, length, t->name.text, t->bytes, (unsigned long long)offsets[i],
                           room);
        t->data = g->map.data + g->data_start + offsets[i];
    }
    return CA_OK;
}

static int compare_strings(const ca_gguf_string *a, const ca_gguf_string *b) {
    int order = memcmp(a->text, b->text, a->length < b->length ? a->length : b->length);
    return order != 0 ? order : (a->length > b->length) - (a->length < b->length);
}

static int by_key(const void *a, const void *b) {
    return compare_strings(&((const gguf_entry *)a)->key, &((const gguf_entry *)b)->key);
}

static int by_name(const void *a, const void *b) {
    return compare_strings(&((const ca_gguf_tensor *)a)->name, &((const ca_gguf_tensor *)b)->name);
}

static int by_address(const void *a, const void *b) {
    const unsigned char *p = ((const ca_gguf_tensor *)a)->data;
    const unsigned char *q = ((const ca_gguf_tensor *)b)->data;
    return (p > q) - (p < q);
}

static ca_status sort_entries(ca_gguf *g) {
    qsort(g->entries, (size_t)g->entry_count, sizeof *g->entries, by_key);
    for (int64_t i = 1; i < g->entry_count; i++)
        if (by_key(g->entries + i - 1, g->entries + i) == 0)
            return ca_fail(CA_E_MODEL, "%s: key '%.*s': expected once, got twice", g->path,
                           (int)g->entries[i].key.length, g->entries[i].key.text);
    return CA_OK;
}

static ca_status sort_tensors(ca_gguf *g) {
    ca_gguf_tensor *t = g->tensors;
    qsort(t, (size_t)g->tensor_count, sizeof *t, by_address);
    for (int64_t i = 1; i < g->tensor_count; i++)
        if (t[i - 1].data + t[i - 1].bytes > t[i].data)
            return ca_fail(CA_E_MODEL,
                           "%s: tensors '%.*s' and '%.*s': expected data of their own, "
                           "got shared bytes",
                           g->path, (int)t[i - 1].name.length, t[i - 1].name.text,
                           (int)t[i].name.length, t[i].name.text);
    qsort(t, (size_t)g->tensor_count, sizeof *t, by_name);
    for (int64_t i = 1; i < g->tensor_count; i++)
        if (by_name(t + i - 1, t + i) == 0)
            return ca_fail(CA_E_MODEL, "%s: tensor '%.*s': expected once, got twice", g->path,
                           (int)t[i].name.length, t[i].name.text);
    return CA_OK;
}

static ca_status read_preamble(ca_gguf *g, cursor *c) {
    ca_status st = CA_OK;
    const unsigned char *data = g->map.data;
    if (g->map.size < 24)
        return ca_fail(CA_E_MODEL, "%s: too short: expected a GGUF header of 24 bytes, got %zu",
                       g->path, g->map.size);
    if (memcmp(data, "GGUF", 4) != 0)
        return ca_fail(CA_E_MODEL,
                       "%s: magic: expected 47 47 55 46 (\"GGUF\"), got %02x %02x %02x %02x",
                       g->path, data[0], data[1], data[2], data[3]);
    c->at = 4;
    CA_TRY(read_u32(c, "version", &g->version));
    if (g->version != 2 && g->version != 3) {
        st = ca_fail(CA_E_MODEL, "%s: version: expected 2 or 3, got %u", g->path, g->version);
        goto out;
    }
    /* The key count follows the tensor count; both are checked before either is believed. */
    CA_TRY(read_count(c, "tensor count", MIN_TENSOR_BYTES, &g->tensor_count));
    CA_TRY(read_count(c, "key count", MIN_KEY_BYTES, &g->entry_count));
out:
    return st;
}

static ca_status parse(ca_gguf *g) {
    ca_status st = CA_OK;
    cursor c = {g, 0};
    uint64_t *offsets = NULL;
    CA_TRY(read_preamble(g, &c));
    CA_TRY(ca_arena_alloc(g->arena, (size_t)g->entry_count * sizeof *g->entries, &g->entries));
    CA_TRY(ca_arena_alloc(g->arena, (size_t)g->tensor_count * sizeof *g->tensors, &g->tensors));
    CA_TRY(ca_calloc((size_t)g->tensor_count, sizeof *offsets, &offsets));
    for (int64_t i = 0; i < g->entry_count; i++) CA_TRY(read_entry(&c, g->arena, g->entries + i));
    for (int64_t i = 0; i < g->tensor_count; i++)
        CA_TRY(read_tensor(&c, g->tensors + i, offsets + i));
    CA_TRY(sort_entries(g));
    CA_TRY(place_tensors(g, c.at, offsets));
    CA_TRY(sort_tensors(g));
out:
    free(offsets);
    return st;
}

bool ca_gguf_is(const char *path) {
    char magic[4];
    FILE *f = fopen(path, "rb");
    if (f == NULL) return false;
    bool is = fread(magic, 1, sizeof magic, f) == sizeof magic && memcmp(magic, "GGUF", 4) == 0;
    fclose(f);
    return is;
}

ca_status ca_gguf_open(const char *path, ca_gguf **out) {
    ca_status st = CA_OK;
    ca_gguf *g = NULL;
    CA_TRY(ca_calloc(1, sizeof *g, &g));
    CA_TRY(ca_arena_create(&g->arena));
    CA_TRY(ca_arena_strdup(g->arena, path, strlen(path), &g->path));
    CA_TRY(ca_file_map_open(path, &g->map));
    CA_TRY(parse(g));
    *out = g;
    g = NULL;
out:
    ca_gguf_close(g);
    return st;
}

void ca_gguf_forget(const ca_gguf *g) { ca_file_map_forget(&g->map); }

void ca_gguf_close(ca_gguf *g) {
    if (g == NULL) return;
    ca_file_map_close(&g->map);
    if (g->arena != NULL) ca_arena_destroy(g->arena);
    free(g);
}

const char *ca_gguf_path(const ca_gguf *g) { return g->path; }

int ca_gguf_version(const ca_gguf *g) { return (int)g->version; }

const unsigned char *ca_gguf_header(const ca_gguf *g, size_t *size) {
    *size = g->data_start;
    return g->map.data;
}

/* ---- metadata */

static const gguf_entry *find_entry(const ca_gguf *g, const char *key) {
    gguf_entry wanted = {.key = {key, strlen(key)}};
    return bsearch(&wanted, g->entries, (size_t)g->entry_count, sizeof wanted, by_key);
}

static bool int_at(gguf_type type, const unsigned char *p, int64_t *value) {
    switch (type) {
    case GGUF_U8:
        *value = p[0];
        return true;
    case GGUF_I8:
        *value = (int8_t)p[0];
        return true;
    case GGUF_U16:
        *value = ca_read_u16(p);
        return true;
    case GGUF_I16:
        *value = (int16_t)ca_read_u16(p);
        return true;
    case GGUF_U32:
        *value = ca_read_u32(p);
        return true;
    case GGUF_I32:
        *value = (int32_t)ca_read_u32(p);
        return true;
    case GGUF_I64:
        *value = (int64_t)ca_read_u64(p);
        return true;
    case GGUF_U64:
        if (ca_read_u64(p) > INT64_MAX) return false;
        *value = (int64_t)ca_read_u64(p);
        return true;
    default:
        return false;
    }
}

static bool float_at(gguf_type type, const unsigned char *p, double *value) {
    float narrow;
    switch (type) {
    case GGUF_F32:
        memcpy(&narrow, p, sizeof narrow);
        *value = (double)narrow;
        return true;
    case GGUF_F64:
        memcpy(value, p, sizeof *value);
        return true;
    default:
        return false;
    }
}

/* The single value of a key, or NULL when it is absent or an array. */
static const gguf_entry *find_single(const ca_gguf *g, const char *key) {
    const gguf_entry *e = find_entry(g, key);
    return e != NULL && e->count < 0 ? e : NULL;
}

/* The array of a key that has an element `index`, else NULL. */
static const gguf_entry *find_array(const ca_gguf *g, const char *key, int64_t index) {
    const gguf_entry *e = find_entry(g, key);
    return e != NULL && index >= 0 && index < e->count ? e : NULL;
}

bool ca_gguf_has(const ca_gguf *g, const char *key) { return find_entry(g, key) != NULL; }

bool ca_gguf_int(const ca_gguf *g, const char *key, int64_t *value) {
    const gguf_entry *e = find_single(g, key);
    return e != NULL && int_at(e->type, e->value, value);
}

bool ca_gguf_float(const ca_gguf *g, const char *key, double *value) {
    const gguf_entry *e = find_single(g, key);
    return e != NULL && float_at(e->type, e->value, value);
}

bool ca_gguf_bool(const ca_gguf *g, const char *key, bool *value) {
    const gguf_entry *e = find_single(g, key);
    if (e == NULL || e->type != GGUF_BOOL) return false;
    *value = e->value[0] != 0;
    return true;
}

bool ca_gguf_text(const ca_gguf *g, const char *key, ca_gguf_string *value) {
    const gguf_entry *e = find_single(g, key);
    if (e == NULL || e->type != GGUF_STRING) return false;
    *value = e->string[0];
    return true;
}

int64_t ca_gguf_array_length(const ca_gguf *g, const char *key) {
    const gguf_entry *e = find_entry(g, key);
    return e == NULL ? -1 : e->count;
}

bool ca_gguf_array_text(const ca_gguf *g, const char *key, int64_t index, ca_gguf_string *value) {
    const gguf_entry *e = find_array(g, key, index);
    if (e == NULL || e->type != GGUF_STRING) return false;
    *value = e->string[index];
    return true;
}

bool ca_gguf_array_int(const ca_gguf *g, const char *key, int64_t index, int64_t *value) {
    const gguf_entry *e = find_array(g, key, index);
    if (e == NULL || e->type == GGUF_STRING) return false;
    return int_at(e->type, e->value + index * scalar_size[e->type], value);
}

bool ca_gguf_array_float(const ca_gguf *g, const char *key, int64_t index, double *value) {
    const gguf_entry *e = find_array(g, key, index);
    if (e == NULL || e->type == GGUF_STRING) return false;
    return float_at(e->type, e->value + index * scalar_size[e->type], value);
}

/* ---- tensors */

int64_t ca_gguf_tensor_count(const ca_gguf *g) { return g->tensor_count; }

const ca_gguf_tensor *ca_gguf_tensor_at(const ca_gguf *g, int64_t index) {
    return index >= 0 && index < g->tensor_count ? g->tensors + index : NULL;
}

const ca_gguf_tensor *ca_gguf_tensor_find(const ca_gguf *g, const char *name) {
    ca_gguf_tensor wanted = {.name = {name, strlen(name)}};
    return bsearch(&wanted, g->tensors, (size_t)g->tensor_count, sizeof wanted, by_name);
}
