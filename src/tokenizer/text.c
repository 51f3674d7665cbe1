/* SPDX-License-Identifier: MIT
 *
 * Text that remembers which source bytes each of its bytes came from, lists of pieces, and the
 * byte-level letters. Called by every stage of encoding.
 */
#include "pipeline.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

ca_tok_text ca_tok_text_part(const ca_tok_text *text, int64_t from, int64_t to) {
    assert(0 <= from && from <= to && to <= text->length);
    ca_tok_text part = {.bytes = text->bytes + from, .length = to - from};
    if (text->origin != NULL)
        part.origin = text->origin + from;
    else
        part.base = text->base + from;
    return part;
}

ca_tok_span ca_tok_text_origin(const ca_tok_text *text, int64_t from, int64_t to) {
    assert(0 <= from && from < to && to <= text->length);
    if (text->origin != NULL)
        return (ca_tok_span){text->origin[from].start, text->origin[to - 1].end};
    while (from > 0 && ca_tok_is_continuation(text->bytes[from])) from--;
    while (to < text->length && ca_tok_is_continuation(text->bytes[to])) to++;
    return (ca_tok_span){text->base + from, text->base + to};
}

static ca_status buffer_reserve(ca_tok_buffer *buffer, int64_t count) {
    ca_status st = CA_OK;
    int64_t needed = buffer->length + count;
    CA_TRY(ca_grow(&buffer->bytes, &buffer->byte_capacity, needed, 1));
    CA_TRY(ca_grow(&buffer->origin, &buffer->origin_capacity, needed, sizeof *buffer->origin));
out:
    return st;
}

ca_status ca_tok_buffer_put(ca_tok_buffer *buffer, const char *bytes, int64_t count,
                            ca_tok_span origin) {
    ca_status st = CA_OK;
    if (count == 0) return CA_OK;
    CA_TRY(buffer_reserve(buffer, count));
    memcpy(buffer->bytes + buffer->length, bytes, (size_t)count);
    for (int64_t i = 0; i < count; i++) buffer->origin[buffer->length + i] = origin;
    buffer->length += count;
out:
    return st;
}

ca_status ca_tok_buffer_copy(ca_tok_buffer *buffer, const ca_tok_text *text, int64_t from,
                             int64_t to) {
    ca_status st = CA_OK;
    if (from == to) return CA_OK;
    CA_TRY(buffer_reserve(buffer, to - from));
    memcpy(buffer->bytes + buffer->length, text->bytes + from, (size_t)(to - from));
    for (int64_t i = from; i < to;) {
        int64_t length = ca_tok_character_length(text->bytes[i]);
        ca_tok_span origin = ca_tok_text_origin(text, i, i + length);
        for (int64_t k = 0; k < length; k++) buffer->origin[buffer->length++] = origin;
        i += length;
    }
out:
    return st;
}

ca_tok_text ca_tok_buffer_text(const ca_tok_buffer *buffer) {
    return (ca_tok_text){
        .bytes = buffer->bytes, .length = buffer->length, .origin = buffer->origin};
}

void ca_tok_buffer_free(ca_tok_buffer *buffer) {
    free(buffer->bytes);
    free(buffer->origin);
    *buffer = (ca_tok_buffer){0};
}

ca_status ca_tok_pieces_add(ca_tok_pieces *pieces, int64_t from, int64_t to, int32_t id) {
    ca_status st = CA_OK;
    if (from == to) return CA_OK;
    CA_TRY(ca_grow(&pieces->at, &pieces->capacity, pieces->count + 1, sizeof *pieces->at));
    pieces->at[pieces->count++] = (ca_tok_piece){.from = from, .to = to, .id = id};
out:
    return st;
}

/* Printable Latin-1 bytes spell themselves; the other 68 follow one another from U+0100. */
static bool spells_itself(int32_t c) {
    return (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255);
}

int32_t ca_tok_letter(unsigned char byte) {
    if (spells_itself(byte)) return byte;
    if (byte <= 32) return 0x100 + byte;
    return byte == 173 ? 0x143 : 0x121 + byte - 127;
}

int ca_tok_letter_byte(int32_t code_point) {
    if (spells_itself(code_point)) return code_point;
    if (code_point >= 0x100 && code_point <= 0x120) return code_point - 0x100;
    if (code_point >= 0x121 && code_point <= 0x142) return code_point - 0x121 + 127;
    return code_point == 0x143 ? 173 : -1;
}

int ca_tok_letter_spell(unsigned char byte, char out[2]) {
    int32_t c = ca_tok_letter(byte);
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xC0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3F));
    return 2;
}
