/* SPDX-License-Identifier: MIT
 *
 * What the files of the tokenizer share. Text goes through four stages, each a list of components:
 *
 *   added tokens cut out → normalizers → pre-tokenizers → BPE → post-processors; ids → decoders
 *
 * A component type of tokenizer.json is one row in the table of its stage and one function that
 * reads it. Everything here is filled in while the file is read and constant afterwards; what
 * changes during a call lives in the caller's ca_tok_matcher, buffers and lists.
 */
#ifndef CAUSA_TOKENIZER_PIPELINE_H
#define CAUSA_TOKENIZER_PIPELINE_H

#include "causa/tokenizer.h"

#include <jansson.h>

/* ---- text that remembers where it came from ---------------------------------------------- */

typedef struct ca_tok_span {
    int64_t start, end; /* bytes of the text given by the caller */
} ca_tok_span;

/* A stretch of valid UTF-8; borrowed. */
typedef struct ca_tok_text {
    const char *bytes; /* [length] */
    int64_t length;
    const ca_tok_span *origin; /* [length] the source character of each byte; NULL = unchanged */
    int64_t base;              /* when unchanged: where the stretch begins in the source */
} ca_tok_text;

/* Text being rewritten. A zeroed struct is empty. */
typedef struct ca_tok_buffer {
    char *bytes;         /* [length] */
    ca_tok_span *origin; /* [length] */
    int64_t length, byte_capacity, origin_capacity;
} ca_tok_buffer;

ca_tok_text ca_tok_text_part(const ca_tok_text *text, int64_t from, int64_t to);
/* The source bytes behind [from, to), widened to whole characters. Needs from < to. */
ca_tok_span ca_tok_text_origin(const ca_tok_text *text, int64_t from, int64_t to);

/* Appends bytes that all stand for one source span. */
ca_status ca_tok_buffer_put(ca_tok_buffer *buffer, const char *bytes, int64_t count,
                            ca_tok_span origin) CA_MUST_USE;
/* Appends [from, to) of a text with its origins. */
ca_status ca_tok_buffer_copy(ca_tok_buffer *buffer, const ca_tok_text *text, int64_t from,
                             int64_t to) CA_MUST_USE;
ca_tok_text ca_tok_buffer_text(const ca_tok_buffer *buffer);
void ca_tok_buffer_free(ca_tok_buffer *buffer);

/* Bytes of the character that begins with this byte; the text is known to be valid. */
static inline int64_t ca_tok_character_length(char lead) {
    unsigned char c = (unsigned char)lead;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}
static inline bool ca_tok_is_continuation(char byte) {
    return ((unsigned char)byte & 0xC0) == 0x80;
}

/* Part of a text: a token that is already known, or text still to be cut. */
typedef struct ca_tok_piece {
    int64_t from, to;
    int32_t id; /* -1: no token yet */
} ca_tok_piece;

typedef struct ca_tok_pieces {
    ca_tok_piece *at; /* [count] in order, without overlap */
    int64_t count, capacity;
} ca_tok_pieces;

/* Appends [from, to); an empty stretch is left out. */
ca_status ca_tok_pieces_add(ca_tok_pieces *pieces, int64_t from, int64_t to,
                            int32_t id) CA_MUST_USE;

/* ---- byte-level letters ------------------------------------------------------------------ */

/* GPT-2 spells every byte as a printable character, a bijection of 256 letters. */
int32_t ca_tok_letter(unsigned char byte);  /* code point below 0x180 */
int ca_tok_letter_byte(int32_t code_point); /* the byte, or -1 for a character that is no letter */
int ca_tok_letter_spell(unsigned char byte, char out[2]); /* UTF-8; returns its length, 1 or 2 */

/* ---- patterns ---------------------------------------------------------------------------- */

typedef struct ca_tok_pattern ca_tok_pattern;
typedef struct ca_tok_matcher ca_tok_matcher; /* scratch of one call; patterns are shared */

typedef enum ca_tok_behavior {
    CA_TOK_ISOLATED,
    CA_TOK_REMOVED,
    CA_TOK_CONTIGUOUS,
    CA_TOK_WITH_PREVIOUS,
    CA_TOK_WITH_NEXT,
} ca_tok_behavior;

ca_status ca_tok_pattern_compile(const char *text, size_t length, bool literal,
                                 ca_tok_pattern **out) CA_MUST_USE;
void ca_tok_pattern_free(ca_tok_pattern *pattern);
ca_status ca_tok_matcher_create(ca_tok_matcher **out) CA_MUST_USE;
void ca_tok_matcher_free(ca_tok_matcher *matcher);

/* First match at or after `from`. *start = -1 when there is none. */
ca_status ca_tok_pattern_find(const ca_tok_pattern *pattern, ca_tok_matcher *matcher,
                              const ca_tok_text *text, int64_t from, int64_t *start,
                              int64_t *end) CA_MUST_USE;
/* Cuts [from, to) of a text at the matches and appends the pieces. */
ca_status ca_tok_pattern_split(const ca_tok_pattern *pattern, ca_tok_matcher *matcher,
                               const ca_tok_text *text, const ca_tok_piece *piece,
                               ca_tok_behavior behavior, bool invert,
                               ca_tok_pieces *out) CA_MUST_USE;

/* ---- components -------------------------------------------------------------------------- */

typedef struct ca_tok_component ca_tok_component;

/* Tokens on their way back to text: `text` holds them one after the other. */
typedef struct ca_tok_strings {
    ca_string text;
    int64_t *end; /* [count] where each one ends */
    int64_t count, capacity;
} ca_tok_strings;

/* Ids under construction. */
typedef struct ca_tok_output {
    ca_encoding encoding;
    int64_t id_capacity, start_capacity, end_capacity;
} ca_tok_output;
ca_status ca_tok_output_add(ca_tok_output *output, int32_t id, ca_tok_span span) CA_MUST_USE;

/* Normalizers and pre-tokenizers: appends the rewritten text. */
typedef ca_status ca_tok_rewrite(const ca_tok_component *c, ca_tok_matcher *matcher,
                                 const ca_tok_text *text, ca_tok_buffer *out);
/* False when rewriting would change nothing: saves the copy. */
typedef bool ca_tok_needed(const ca_tok_component *c, const ca_tok_text *text);
/* Decoders: tokens in, tokens out. */
typedef ca_status ca_tok_decode(const ca_tok_component *c, const ca_tok_strings *in,
                                ca_tok_strings *out);
/* Post-processors; source: what the caller gave; special: the caller wants BOS and the like. */
typedef ca_status ca_tok_finish(const ca_tok_component *c, const ca_tokenizer *t,
                                const ca_tok_text *source, bool special, ca_tok_output *output);

struct ca_tok_component {
    const char *type;
    ca_tok_rewrite *rewrite;
    ca_tok_needed *needed;   /* NULL = always */
    ca_tok_pattern *pattern; /* what to split at, or what to replace */
    bool splits;             /* pre-tokenizers: cut at the pattern after rewriting */
    ca_tok_behavior behavior;
    bool invert;
    ca_tok_decode *decode;
    ca_tok_finish *finish;

    /* Parameters; the reading function of the type says which it uses. */
    char *content;
    size_t content_length;
    int64_t start, stop;
    bool only_first;
    int32_t *ids; /* [before + after] */
    int64_t before, after;
};

typedef struct ca_tok_components {
    ca_tok_component *at; /* [count] */
    int64_t count, capacity;
} ca_tok_components;

/* Reads one component; c is zeroed but for its type. */
typedef ca_status ca_tok_read(ca_tokenizer *t, json_t *json, ca_tok_component *c);

typedef struct ca_tok_row {
    const char *type;
    ca_tok_read *read;
} ca_tok_row;

typedef struct ca_tok_stage {
    const char *name;    /* key in tokenizer.json */
    const char *members; /* key of the list in a Sequence */
    const ca_tok_row *rows;
    size_t row_count;
} ca_tok_stage;

extern const ca_tok_stage ca_tok_normalizers, ca_tok_pretokenizers, ca_tok_postprocessors,
    ca_tok_decoders;

/* Reads a component or a Sequence of them (null: nothing) and appends to the list. */
ca_status ca_tok_components_read(ca_tokenizer *t, const ca_tok_stage *stage, json_t *json,
                                 ca_tok_components *list) CA_MUST_USE;
void ca_tok_components_free(ca_tok_components *list);

/* NFC as `tokenizers` does it, origins included. */
ca_tok_needed ca_tok_nfc_needed;
ca_tok_rewrite ca_tok_nfc;
/* Content replaces every match of the pattern. */
ca_tok_rewrite ca_tok_replace;
/* "content" and "pattern" of a Replace, for normalizers and decoders. */
ca_tok_read ca_tok_replace_read;
/* {"String": …} or {"Regex": …}. */
ca_status ca_tok_pattern_read(json_t *json, ca_tok_pattern **out) CA_MUST_USE;
/* True for the component that turns bytes into byte-level letters. */
bool ca_tok_is_byte_level(const ca_tok_component *c);

/* Appends bytes to the token being written; ca_tok_strings_close ends it. */
ca_status ca_tok_strings_append(ca_tok_strings *s, const char *bytes, size_t count) CA_MUST_USE;
ca_status ca_tok_strings_close(ca_tok_strings *s) CA_MUST_USE;
void ca_tok_strings_clear(ca_tok_strings *s);
void ca_tok_strings_free(ca_tok_strings *s);

/* ---- JSON fields ------------------------------------------------------------------------- */

/* Value of a key that must be there; `type` is JSON_STRING and so on. Errors name key and kind. */
ca_status ca_tok_json_get(json_t *object, const char *key, json_type type,
                          json_t **out) CA_MUST_USE;
/* The same for a key that may be absent or null: *out is then NULL. */
ca_status ca_tok_json_find(json_t *object, const char *key, json_type type,
                           json_t **out) CA_MUST_USE;
ca_status ca_tok_json_bool(json_t *object, const char *key, bool otherwise, bool *out) CA_MUST_USE;
/* A count of at least 0. */
ca_status ca_tok_json_count(json_t *object, const char *key, int64_t *out) CA_MUST_USE;
ca_status ca_tok_json_parse(const char *text, size_t size, json_t **out) CA_MUST_USE;
const char *ca_tok_json_type_name(json_type type);

/* ---- vocabulary -------------------------------------------------------------------------- */

typedef struct ca_tok_token {
    const char *text; /* NULL: the id is not used */
    size_t length;
    bool special, added;
    bool normalized, single_word, left_strip, right_strip; /* of added tokens */
} ca_tok_token;

/* Open addressing over texts that live in the token table. */
typedef struct ca_tok_dictionary {
    int32_t *slot; /* [mask + 1] ids, -1 = free */
    uint64_t mask;
} ca_tok_dictionary;

ca_status ca_tok_dictionary_create(ca_tok_dictionary *d, int64_t count) CA_MUST_USE;
/* Enters t->token[id]; returns the id that has this text already, or -1. */
int32_t ca_tok_dictionary_add(ca_tok_dictionary *d, const ca_tokenizer *t, int32_t id);
int32_t ca_tok_dictionary_find(const ca_tok_dictionary *d, const ca_tokenizer *t, const char *text,
                               size_t length);

/* Room for `count` tokens; every later id must be below four times that. */
ca_status ca_tok_vocabulary_reserve(ca_tokenizer *t, int64_t count) CA_MUST_USE;
/* A token of the model's vocabulary. Refuses ids and texts that are taken. */
ca_status ca_tok_vocabulary_add(ca_tokenizer *t, const char *text, size_t length,
                                int64_t id) CA_MUST_USE;
/* An added token; its text may be in the vocabulary already, with the same id. */
ca_status ca_tok_vocabulary_add_extra(ca_tokenizer *t, const ca_tok_token *token,
                                      int64_t id) CA_MUST_USE;
int32_t ca_tok_id(const ca_tokenizer *t, const char *text, size_t length);

/* Byte trie of added tokens. */
typedef struct ca_tok_trie {
    struct ca_tok_trie_node *node;
    int64_t count, capacity;
} ca_tok_trie;

/* Cuts a text at the longest added tokens, leftmost first. */
ca_status ca_tok_trie_split(const ca_tokenizer *t, const ca_tok_trie *trie, const ca_tok_text *text,
                            ca_tok_pieces *out) CA_MUST_USE;
/* Builds both tries; needs the normalizers. */
ca_status ca_tok_tries_build(ca_tokenizer *t) CA_MUST_USE;
void ca_tok_trie_free(ca_tok_trie *trie);

/* Runs the normalizers. *text afterwards lies in one of the buffers unless nothing changed. */
ca_status ca_tok_normalize(const ca_tokenizer *t, ca_tok_matcher *matcher, ca_tok_text *text,
                           ca_tok_buffer buffers[2]) CA_MUST_USE;

/* ---- BPE --------------------------------------------------------------------------------- */

typedef struct ca_tok_merge {
    uint64_t pair; /* left id << 32 | right id; UINT64_MAX = free slot */
    int32_t rank, id;
} ca_tok_merge;

typedef struct ca_tok_bpe {
    ca_tok_merge *merge; /* [mask + 1] open addressing */
    uint64_t mask;
    int32_t byte[256];     /* id of each byte-level letter, -1 = none */
    int32_t fallback[256]; /* id of "<0x41>" and so on, -1 = none */
    int32_t unknown;       /* -1 = none */
    bool byte_level, byte_fallback, fuse_unknown, ignore_merges;
} ca_tok_bpe;

ca_status ca_tok_bpe_reserve(ca_tok_bpe *bpe, int64_t merges) CA_MUST_USE;
/* Merge number `rank`; both parts and their concatenation must be in the vocabulary. */
ca_status ca_tok_bpe_add_merge(ca_tokenizer *t, const char *left, size_t left_length,
                               const char *right, size_t right_length, int64_t rank) CA_MUST_USE;
/* "left right" */
ca_status ca_tok_bpe_add_merge_text(ca_tokenizer *t, const char *text, size_t length,
                                    int64_t rank) CA_MUST_USE;
/* Looks up letters and fallback bytes; needs the vocabulary. */
void ca_tok_bpe_prepare(ca_tokenizer *t);

typedef struct ca_tok_bpe_scratch ca_tok_bpe_scratch;
ca_status ca_tok_bpe_scratch_create(ca_tok_bpe_scratch **out) CA_MUST_USE;
void ca_tok_bpe_scratch_free(ca_tok_bpe_scratch *scratch);
/* Appends the tokens of one pre-token. */
ca_status ca_tok_bpe_encode(const ca_tokenizer *t, ca_tok_bpe_scratch *scratch,
                            const ca_tok_text *word, ca_tok_output *output) CA_MUST_USE;

/* ---- the whole --------------------------------------------------------------------------- */

struct ca_tokenizer {
    ca_arena *arena;
    ca_tok_token *token; /* [limit] by id */
    int64_t limit, size; /* size: largest id + 1 */
    int64_t count;       /* used ids */
    ca_tok_dictionary words, extras;
    ca_tok_trie raw, normalized;
    ca_tok_bpe bpe;
    ca_tok_components normalizers, pretokenizers, postprocessors, decoders;
    int32_t bos, default_bos, eos, pad;
    char *description;
    char sha256[65];
};

/* Fill a zeroed tokenizer that has an arena. */
ca_status ca_tok_read_json(ca_tokenizer *t, const char *path) CA_MUST_USE;
ca_status ca_tok_read_gguf(ca_tokenizer *t, const char *path) CA_MUST_USE;

#endif
