/* SPDX-License-Identifier: MIT
 *
 * Byte-pair encoding of one pre-token: characters (or byte-level letters) become symbols, and the
 * adjacent pair with the lowest rank is merged, leftmost first, until no pair has a merge.
 * Called for every pre-token; the merge table is constant after the file is read.
 */
#include "pipeline.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- merge table ------------------------------------------------------------------------- */

static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* Fibonacci hashing; the high bits are the good ones. */
static uint64_t pair_slot(uint64_t pair, uint64_t mask) {
    return (pair * 0x9E3779B97F4A7C15u >> 32) & mask;
}

static ca_tok_merge *find_merge(const ca_tok_bpe *bpe, uint64_t pair) {
    uint64_t at = pair_slot(pair, bpe->mask);
    while (bpe->merge[at].pair != pair && bpe->merge[at].pair != UINT64_MAX)
        at = (at + 1) & bpe->mask;
    return &bpe->merge[at];
}

ca_status ca_tok_bpe_reserve(ca_tok_bpe *bpe, int64_t merges) {
    ca_status st = CA_OK;
    if (merges > INT32_MAX / 4)
        return ca_fail(CA_E_MODEL, "merges: expected at most %d, got %lld", INT32_MAX / 4,
                       (long long)merges);
    uint64_t slots = 16;
    while (slots < 2 * (uint64_t)merges) slots *= 2;
    CA_TRY(ca_calloc(slots, sizeof *bpe->merge, &bpe->merge));
    for (uint64_t i = 0; i < slots; i++) bpe->merge[i].pair = UINT64_MAX;
    bpe->mask = slots - 1;
out:
    return st;
}

static ca_status merge_part(const ca_tokenizer *t, const char *text, size_t length, int64_t rank,
                            int32_t *id) {
    *id = ca_tok_dictionary_find(&t->words, t, text, length);
    if (*id >= 0) return CA_OK;
    return ca_fail(CA_E_MODEL, "merges: entry %lld: expected tokens of the vocabulary, got '%.*s'",
                   (long long)rank, (int)(length < 80 ? length : 80), text);
}

ca_status ca_tok_bpe_add_merge(ca_tokenizer *t, const char *left, size_t left_length,
                               const char *right, size_t right_length, int64_t rank) {
    ca_status st = CA_OK;
    ca_string whole = {0};
    int32_t a, b, id;
    CA_TRY(merge_part(t, left, left_length, rank, &a));
    CA_TRY(merge_part(t, right, right_length, rank, &b));
    CA_TRY(ca_string_append(&whole, left, left_length));
    CA_TRY(ca_string_append(&whole, right, right_length));
    CA_TRY(merge_part(t, whole.text, whole.length, rank, &id));
    /* Of a merge that is listed twice the last one counts. */
    ca_tok_merge *merge = find_merge(&t->bpe, pair_of(a, b));
    *merge = (ca_tok_merge){.pair = pair_of(a, b), .rank = (int32_t)rank, .id = id};
out:
    ca_string_free(&whole);
    return st;
}

ca_status ca_tok_bpe_add_merge_text(ca_tokenizer *t, const char *text, size_t length,
                                    int64_t rank) {
    const char *space = memchr(text, ' ', length);
    size_t left = space == NULL ? length : (size_t)(space - text);
    size_t right = space == NULL ? 0 : length - left - 1;
    if (space == NULL || memchr(space + 1, ' ', right) != NULL)
        return ca_fail(CA_E_MODEL,
                       "merges: entry %lld: expected two tokens with one space between, got "
                       "'%.*s'",
                       (long long)rank, (int)(length < 80 ? length : 80), text);
    return ca_tok_bpe_add_merge(t, text, left, space + 1, right, rank);
}

void ca_tok_bpe_prepare(ca_tokenizer *t) {
    ca_tok_bpe *bpe = &t->bpe;
    for (int byte = 0; byte < 256; byte++) {
        char spelled[8];
        int length = ca_tok_letter_spell((unsigned char)byte, spelled);
        bpe->byte[byte] = ca_tok_dictionary_find(&t->words, t, spelled, (size_t)length);
        length = snprintf(spelled, sizeof spelled, "<0x%02X>", (unsigned)byte & 0xFF);
        bpe->fallback[byte] = ca_tok_dictionary_find(&t->words, t, spelled, (size_t)length);
    }
}

/* ---- symbols of a word ------------------------------------------------------------------- */

typedef struct symbol {
    int32_t id;         /* -1: merged into an earlier one */
    int32_t prev, next; /* neighbours, -1 = none; used for long words */
    int32_t from, to;   /* bytes of the word */
} symbol;

typedef struct candidate { /* for short words: the merge of a symbol and its right neighbour */
    int32_t rank, id;      /* INT32_MAX = none */
} candidate;

struct ca_tok_bpe_scratch {
    symbol *symbol; /* [count] */
    int64_t count, capacity;
    uint64_t *heap; /* [heap_count] rank << 32 | position, smallest first */
    int64_t heap_count, heap_capacity;
    ca_string letters;
};

ca_status ca_tok_bpe_scratch_create(ca_tok_bpe_scratch **out) {
    return ca_calloc(1, sizeof **out, out);
}

void ca_tok_bpe_scratch_free(ca_tok_bpe_scratch *s) {
    if (s == NULL) return;
    free(s->symbol);
    free(s->heap);
    ca_string_free(&s->letters);
    free(s);
}

static void add_symbol(ca_tok_bpe_scratch *s, int32_t id, int64_t from, int64_t to) {
    assert(s->count < s->capacity);
    s->symbol[s->count++] = (symbol){.id = id, .from = (int32_t)from, .to = (int32_t)to};
}

/* A character that is no token; the bytes it is spelled with, or the unknown token. */
static ca_status add_unknown(const ca_tok_bpe *bpe, ca_tok_bpe_scratch *s, const ca_tok_text *word,
                             int64_t from, int64_t to) {
    const unsigned char *bytes = (const unsigned char *)word->bytes;
    bool spelled = bpe->byte_fallback && !bpe->byte_level;
    for (int64_t i = from; spelled && i < to; i++) spelled = bpe->fallback[bytes[i]] >= 0;
    if (spelled) {
        for (int64_t i = from; i < to; i++) add_symbol(s, bpe->fallback[bytes[i]], i, i + 1);
        return CA_OK;
    }
    /* Differs: `tokenizers` drops such a character silently. */
    if (bpe->unknown < 0)
        return ca_fail(CA_E_DATA,
                       "byte %lld: expected a character that the tokenizer's vocabulary can spell "
                       "(it has no unk_token), got byte 0x%02X",
                       (long long)ca_tok_text_origin(word, from, to).start, (unsigned)bytes[from]);
    symbol *last = s->count > 0 ? &s->symbol[s->count - 1] : NULL;
    if (bpe->fuse_unknown && last != NULL && last->id == bpe->unknown)
        last->to = (int32_t)to;
    else
        add_symbol(s, bpe->unknown, from, to);
    return CA_OK;
}

static ca_status add_symbols(const ca_tokenizer *t, ca_tok_bpe_scratch *s,
                             const ca_tok_text *word) {
    ca_status st = CA_OK;
    CA_TRY(ca_grow(&s->symbol, &s->capacity, word->length, sizeof *s->symbol));
    s->count = 0;
    for (int64_t i = 0; i < word->length;) {
        int64_t length = 1;
        int32_t id;
        if (t->bpe.byte_level) {
            id = t->bpe.byte[(unsigned char)word->bytes[i]];
        } else {
            length = ca_tok_character_length(word->bytes[i]);
            id = ca_tok_dictionary_find(&t->words, t, word->bytes + i, (size_t)length);
        }
        if (id >= 0)
            add_symbol(s, id, i, i + length);
        else
            CA_TRY(add_unknown(&t->bpe, s, word, i, i + length));
        i += length;
    }
out:
    return st;
}

/* ---- merging ----------------------------------------------------------------------------- */

enum { SHORT_WORD = 32 }; /* symbols; up to here looking at every pair is fastest */

static candidate candidate_of(const ca_tok_bpe *bpe, int32_t left, int32_t right) {
    const ca_tok_merge *merge = find_merge(bpe, pair_of(left, right));
    if (merge->pair == UINT64_MAX) return (candidate){INT32_MAX, -1};
    return (candidate){merge->rank, merge->id};
}

static void merge_short(const ca_tok_bpe *bpe, ca_tok_bpe_scratch *s) {
    candidate pairs[SHORT_WORD];
    symbol *symbols = s->symbol;
    int64_t last = s->count - 1; /* number of pairs */
    for (int64_t i = 0; i < last; i++)
        pairs[i] = candidate_of(bpe, symbols[i].id, symbols[i + 1].id);
    while (last > 0) {
        int64_t best = 0;
        for (int64_t i = 1; i < last; i++)
            if (pairs[i].rank < pairs[best].rank) best = i;
        if (pairs[best].rank == INT32_MAX) break;

        symbols[best].id = pairs[best].id;
        symbols[best].to = symbols[best + 1].to;
        size_t moved = (size_t)(last - best - 1);
        memmove(&symbols[best + 1], &symbols[best + 2], moved * sizeof *symbols);
        memmove(&pairs[best], &pairs[best + 1], moved * sizeof *pairs);
        last--;
        if (best > 0) pairs[best - 1] = candidate_of(bpe, symbols[best - 1].id, symbols[best].id);
        if (best < last) pairs[best] = candidate_of(bpe, symbols[best].id, symbols[best + 1].id);
    }
    s->count = last + 1;
}

static ca_status heap_push(ca_tok_bpe_scratch *s, uint64_t value) {
    ca_status st = CA_OK;
    CA_TRY(ca_grow(&s->heap, &s->heap_capacity, s->heap_count + 1, sizeof *s->heap));
    int64_t at = s->heap_count++;
    for (; at > 0 && s->heap[(at - 1) / 2] > value; at = (at - 1) / 2)
        s->heap[at] = s->heap[(at - 1) / 2];
    s->heap[at] = value;
out:
    return st;
}

static uint64_t heap_pop(ca_tok_bpe_scratch *s) {
    uint64_t top = s->heap[0], last = s->heap[--s->heap_count];
    int64_t at = 0;
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= s->heap_count) break;
        if (child + 1 < s->heap_count && s->heap[child + 1] < s->heap[child]) child++;
        if (s->heap[child] >= last) break;
        s->heap[at] = s->heap[child];
        at = child;
    }
    s->heap[at] = last;
    return top;
}

/* Offers the merge of the symbol at `left` with its right neighbour, if there is one. */
static ca_status offer(const ca_tok_bpe *bpe, ca_tok_bpe_scratch *s, int32_t left) {
    if (left < 0 || s->symbol[left].next < 0) return CA_OK;
    candidate pair = candidate_of(bpe, s->symbol[left].id, s->symbol[s->symbol[left].next].id);
    if (pair.rank == INT32_MAX) return CA_OK;
    return heap_push(s, (uint64_t)(uint32_t)pair.rank << 32 | (uint32_t)left);
}

/* n log n for words of any length: a linked list and a heap whose stale entries are skipped. */
static ca_status merge_long(const ca_tok_bpe *bpe, ca_tok_bpe_scratch *s) {
    ca_status st = CA_OK;
    int32_t count = (int32_t)s->count;
    s->heap_count = 0;
    for (int32_t i = 0; i < count; i++) {
        s->symbol[i].prev = i - 1;
        s->symbol[i].next = i + 1 < count ? i + 1 : -1;
    }
    for (int32_t i = 0; i < count; i++) CA_TRY(offer(bpe, s, i));
    while (s->heap_count > 0) {
        uint64_t top = heap_pop(s);
        int32_t at = (int32_t)(top & UINT32_MAX), rank = (int32_t)(top >> 32);
        symbol *left = &s->symbol[at];
        if (left->id < 0 || left->next < 0) continue;
        symbol *right = &s->symbol[left->next];
        candidate pair = candidate_of(bpe, left->id, right->id);
        if (pair.rank != rank) continue;

        left->id = pair.id;
        left->to = right->to;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0) s->symbol[left->next].prev = at;
        CA_TRY(offer(bpe, s, left->prev));
        CA_TRY(offer(bpe, s, at));
    }
    int64_t kept = 0;
    for (int32_t i = 0; i < count; i++)
        if (s->symbol[i].id >= 0) s->symbol[kept++] = s->symbol[i];
    s->count = kept;
out:
    return st;
}

/* ---- a pre-token ------------------------------------------------------------------------- */

/* The token that the whole word is, or -1. */
static ca_status whole_word(const ca_tokenizer *t, ca_tok_bpe_scratch *s, const ca_tok_text *word,
                            int32_t *id) {
    ca_status st = CA_OK;
    if (!t->bpe.byte_level) {
        *id = ca_tok_dictionary_find(&t->words, t, word->bytes, (size_t)word->length);
        return CA_OK;
    }
    s->letters.length = 0;
    for (int64_t i = 0; i < word->length; i++) {
        char letter[2];
        int length = ca_tok_letter_spell((unsigned char)word->bytes[i], letter);
        CA_TRY(ca_string_append(&s->letters, letter, (size_t)length));
    }
    *id = ca_tok_dictionary_find(&t->words, t, s->letters.text, s->letters.length);
out:
    return st;
}

ca_status ca_tok_bpe_encode(const ca_tokenizer *t, ca_tok_bpe_scratch *s, const ca_tok_text *word,
                            ca_tok_output *output) {
    ca_status st = CA_OK;
    if (word->length == 0) return CA_OK;
    if (word->length >= INT32_MAX)
        return ca_fail(CA_E_DATA, "text: expected words below 2 GiB, got one of %lld bytes",
                       (long long)word->length);
    if (t->bpe.ignore_merges) {
        int32_t id;
        CA_TRY(whole_word(t, s, word, &id));
        if (id >= 0)
            return ca_tok_output_add(output, id, ca_tok_text_origin(word, 0, word->length));
    }
    CA_TRY(add_symbols(t, s, word));
    if (s->count <= SHORT_WORD)
        merge_short(&t->bpe, s);
    else
        CA_TRY(merge_long(&t->bpe, s));
    for (int64_t i = 0; i < s->count; i++)
        CA_TRY(ca_tok_output_add(output, s->symbol[i].id,
                                 ca_tok_text_origin(word, s->symbol[i].from, s->symbol[i].to)));
out:
    return st;
}
