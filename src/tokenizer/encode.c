/* SPDX-License-Identifier: MIT
 *
 * Text to ids: runs the stages over one text. All state of a call lives in the encoder below, so
 * any number of threads may encode with one tokenizer.
 */
#include "pipeline.h"

#include <stdlib.h>
#include <string.h>

typedef struct encoder {
    const ca_tokenizer *t;
    ca_tok_matcher *matcher;
    ca_tok_bpe_scratch *bpe;
    ca_tok_pieces raw;          /* the text cut at added tokens */
    ca_tok_pieces parts;        /* one of its pieces, normalized and cut again */
    ca_tok_pieces words[2];     /* one of these cut into pre-tokens; used in turn */
    ca_tok_buffer normal[2];    /* rewritten by normalizers */
    ca_tok_buffer rewritten[2]; /* rewritten by pre-tokenizers */
    ca_tok_output output;
} encoder;

ca_status ca_tok_output_add(ca_tok_output *o, int32_t id, ca_tok_span span) {
    ca_status st = CA_OK;
    ca_encoding *e = &o->encoding;
    CA_TRY(ca_grow(&e->ids, &o->id_capacity, e->count + 1, sizeof *e->ids));
    CA_TRY(ca_grow(&e->start, &o->start_capacity, e->count + 1, sizeof *e->start));
    CA_TRY(ca_grow(&e->end, &o->end_capacity, e->count + 1, sizeof *e->end));
    e->ids[e->count] = id;
    e->start[e->count] = span.start;
    e->end[e->count] = span.end;
    e->count++;
out:
    return st;
}

void ca_encoding_free(ca_encoding *encoding) {
    free(encoding->ids);
    free(encoding->start);
    free(encoding->end);
    *encoding = (ca_encoding){0};
}

/* Rewrites every piece of the text; afterwards text and pieces lie in `buffer` and `out`. */
static ca_status rewrite_words(encoder *e, const ca_tok_component *c, ca_tok_text *text,
                               const ca_tok_pieces *in, ca_tok_buffer *buffer, ca_tok_pieces *out) {
    ca_status st = CA_OK;
    buffer->length = 0;
    out->count = 0;
    for (int64_t i = 0; i < in->count; i++) {
        ca_tok_text piece = ca_tok_text_part(text, in->at[i].from, in->at[i].to);
        int64_t from = buffer->length;
        CA_TRY(c->rewrite(c, e->matcher, &piece, buffer));
        CA_TRY(ca_tok_pieces_add(out, from, buffer->length, -1));
    }
    *text = ca_tok_buffer_text(buffer);
out:
    return st;
}

static ca_status split_words(encoder *e, const ca_tok_component *c, const ca_tok_text *text,
                             const ca_tok_pieces *in, ca_tok_pieces *out) {
    ca_status st = CA_OK;
    out->count = 0;
    for (int64_t i = 0; i < in->count; i++)
        CA_TRY(ca_tok_pattern_split(c->pattern, e->matcher, text, &in->at[i], c->behavior,
                                    c->invert, out));
out:
    return st;
}

/* Normalized text without added tokens: pre-tokenizers, then BPE for each word. */
static ca_status encode_words(encoder *e, ca_tok_text text) {
    ca_status st = CA_OK;
    int words = 0, buffer = 0;
    e->words[0].count = 0;
    CA_TRY(ca_tok_pieces_add(&e->words[0], 0, text.length, -1));
    for (int64_t i = 0; i < e->t->pretokenizers.count; i++) {
        const ca_tok_component *c = &e->t->pretokenizers.at[i];
        if (c->rewrite != NULL) {
            CA_TRY(rewrite_words(e, c, &text, &e->words[words], &e->rewritten[buffer],
                                 &e->words[1 - words]));
            words = 1 - words;
            buffer = 1 - buffer;
        }
        if (c->splits) {
            CA_TRY(split_words(e, c, &text, &e->words[words], &e->words[1 - words]));
            words = 1 - words;
        }
    }
    const ca_tok_pieces *cut = &e->words[words];
    for (int64_t i = 0; i < cut->count; i++) {
        ca_tok_text word = ca_tok_text_part(&text, cut->at[i].from, cut->at[i].to);
        CA_TRY(ca_tok_bpe_encode(e->t, e->bpe, &word, &e->output));
    }
out:
    return st;
}

/* Text between added tokens: normalizers, then the added tokens of normalized text. */
static ca_status encode_part(encoder *e, ca_tok_text text) {
    ca_status st = CA_OK;
    CA_TRY(ca_tok_normalize(e->t, e->matcher, &text, e->normal));
    e->parts.count = 0;
    CA_TRY(ca_tok_trie_split(e->t, &e->t->normalized, &text, &e->parts));
    for (int64_t i = 0; i < e->parts.count; i++) {
        ca_tok_piece piece = e->parts.at[i];
        if (piece.id >= 0)
            CA_TRY(ca_tok_output_add(&e->output, piece.id,
                                     ca_tok_text_origin(&text, piece.from, piece.to)));
        else
            CA_TRY(encode_words(e, ca_tok_text_part(&text, piece.from, piece.to)));
    }
out:
    return st;
}

static void encoder_free(encoder *e) {
    ca_tok_matcher_free(e->matcher);
    ca_tok_bpe_scratch_free(e->bpe);
    free(e->raw.at);
    free(e->parts.at);
    for (int i = 0; i < 2; i++) {
        free(e->words[i].at);
        ca_tok_buffer_free(&e->normal[i]);
        ca_tok_buffer_free(&e->rewritten[i]);
    }
    ca_encoding_free(&e->output.encoding);
}

ca_status ca_tokenizer_encode(const ca_tokenizer *t, const char *text, size_t length, bool special,
                              ca_encoding *out) {
    ca_status st = CA_OK;
    encoder e = {.t = t};
    *out = (ca_encoding){0};
    int64_t invalid = ca_utf8_invalid(text, length);
    if (invalid >= 0)
        CA_TRY(ca_fail(CA_E_DATA, "byte %lld: expected UTF-8, got byte 0x%02X", (long long)invalid,
                       (unsigned)(unsigned char)text[invalid]));
    CA_TRY(ca_tok_matcher_create(&e.matcher));
    CA_TRY(ca_tok_bpe_scratch_create(&e.bpe));

    ca_tok_text whole = {.bytes = text, .length = (int64_t)length};
    CA_TRY(ca_tok_trie_split(t, &t->raw, &whole, &e.raw));
    for (int64_t i = 0; i < e.raw.count; i++) {
        ca_tok_piece piece = e.raw.at[i];
        if (piece.id >= 0)
            CA_TRY(ca_tok_output_add(&e.output, piece.id, (ca_tok_span){piece.from, piece.to}));
        else
            CA_TRY(encode_part(&e, ca_tok_text_part(&whole, piece.from, piece.to)));
    }
    for (int64_t i = 0; i < t->postprocessors.count; i++) {
        const ca_tok_component *c = &t->postprocessors.at[i];
        if (c->finish != NULL) CA_TRY(c->finish(c, t, &whole, special, &e.output));
    }
    *out = e.output.encoding;
    e.output.encoding = (ca_encoding){0};
out:
    encoder_free(&e);
    return st;
}
