/* SPDX-License-Identifier: MIT
 *
 * Added tokens are cut out of the text before anything else sees it: those marked `normalized`
 * from the normalized text, all others from the text as it came. Leftmost match first, the
 * longest of those that begin at one place.
 */
#include "pipeline.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Children of a node form a list; node 0 is the root and nobody's child. */
typedef struct ca_tok_trie_node {
    int32_t child, sibling; /* 0 = none */
    int32_t id;             /* token that ends here, -1 = none */
    unsigned char byte;
} ca_tok_trie_node;

static int32_t trie_child(const ca_tok_trie *trie, int32_t node, unsigned char byte) {
    int32_t at = trie->node[node].child;
    while (at != 0 && trie->node[at].byte != byte) at = trie->node[at].sibling;
    return at;
}

static ca_status trie_add(ca_tok_trie *trie, const char *text, int64_t length, int32_t id) {
    ca_status st = CA_OK;
    if (trie->count + length + 1 > INT32_MAX)
        return ca_fail(CA_E_MODEL, "added_tokens: expected less than 2 GiB of text, got more");
    CA_TRY(ca_grow(&trie->node, &trie->capacity, trie->count + length + 1, sizeof *trie->node));
    if (trie->count == 0) trie->node[trie->count++] = (ca_tok_trie_node){.id = -1};
    int32_t at = 0;
    for (int64_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];
        int32_t next = trie_child(trie, at, byte);
        if (next == 0) {
            next = (int32_t)trie->count++;
            trie->node[next] =
                (ca_tok_trie_node){.sibling = trie->node[at].child, .id = -1, .byte = byte};
            trie->node[at].child = next;
        }
        at = next;
    }
    trie->node[at].id = id;
out:
    return st;
}

void ca_tok_trie_free(ca_tok_trie *trie) {
    free(trie->node);
    *trie = (ca_tok_trie){0};
}

ca_status ca_tok_tries_build(ca_tokenizer *t) {
    ca_status st = CA_OK;
    ca_tok_buffer buffers[2] = {0};
    ca_tok_matcher *matcher = NULL;
    CA_TRY(ca_tok_matcher_create(&matcher));
    for (int32_t id = 0; id < t->size; id++) {
        const ca_tok_token *token = &t->token[id];
        if (!token->added || token->length == 0) continue;
        ca_tok_text text = {.bytes = token->text, .length = (int64_t)token->length};
        if (token->normalized) CA_TRY(ca_tok_normalize(t, matcher, &text, buffers));
        if (text.length == 0) continue;
        CA_TRY(trie_add(token->normalized ? &t->normalized : &t->raw, text.bytes, text.length, id));
    }
out:
    ca_tok_buffer_free(&buffers[0]);
    ca_tok_buffer_free(&buffers[1]);
    ca_tok_matcher_free(matcher);
    return st;
}

/* Longest token that begins at `at`; *end is set when there is one. */
static int32_t trie_match(const ca_tok_trie *trie, const ca_tok_text *text, int64_t at,
                          int64_t *end) {
    int32_t node = 0, id = -1;
    for (int64_t i = at; i < text->length; i++) {
        node = trie_child(trie, node, (unsigned char)text->bytes[i]);
        if (node == 0) break;
        if (trie->node[node].id < 0) continue;
        id = trie->node[node].id;
        *end = i + 1;
    }
    return id;
}

/* The character that begins at `at`; its length when *length is wanted. */
static int32_t character_at(const ca_tok_text *text, int64_t at, int64_t *length) {
    utf8proc_int32_t code_point = -1;
    *length = utf8proc_iterate((const utf8proc_uint8_t *)text->bytes + at, text->length - at,
                               &code_point);
    return code_point;
}

static int64_t character_before(const ca_tok_text *text, int64_t at) {
    do at--;
    while (at > 0 && ca_tok_is_continuation(text->bytes[at]));
    return at;
}

static bool is_space(int32_t c) {
    if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r');
    utf8proc_category_t category = utf8proc_category(c);
    return c == 0x85 || category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
           category == UTF8PROC_CATEGORY_ZP;
}

static bool is_word(int32_t c) {
    utf8proc_category_t category = utf8proc_category(c);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_ND) ||
           category == UTF8PROC_CATEGORY_PC || c == 0x200C || c == 0x200D;
}

/* True when letters or digits touch the token on one side. */
static bool inside_word(const ca_tok_text *text, int64_t start, int64_t end) {
    int64_t length;
    if (start > 0 && is_word(character_at(text, character_before(text, start), &length)))
        return true;
    return end < text->length && is_word(character_at(text, end, &length));
}

static int64_t skip_space_left(const ca_tok_text *text, int64_t at, int64_t border) {
    while (at > border) {
        int64_t length, before = character_before(text, at);
        if (!is_space(character_at(text, before, &length))) break;
        at = before;
    }
    return at > border ? at : border;
}

static int64_t skip_space_right(const ca_tok_text *text, int64_t at) {
    while (at < text->length) {
        int64_t length;
        if (!is_space(character_at(text, at, &length))) break;
        at += length;
    }
    return at;
}

ca_status ca_tok_trie_split(const ca_tokenizer *t, const ca_tok_trie *trie, const ca_tok_text *text,
                            ca_tok_pieces *out) {
    ca_status st = CA_OK;
    int64_t done = 0; /* everything before it has been added */
    for (int64_t at = 0; trie->count > 0 && at < text->length;) {
        int64_t end;
        int32_t id = trie_match(trie, text, at, &end);
        if (id < 0) {
            at++;
            continue;
        }
        const ca_tok_token *token = &t->token[id];
        int64_t start = at;
        at = end;
        if (token->single_word && inside_word(text, start, end)) continue;
        if (start < done) start = done; /* its first spaces went to the token before it */
        if (token->left_strip) start = skip_space_left(text, start, done);
        if (token->right_strip) end = skip_space_right(text, end);
        if (end <= start) continue;
        CA_TRY(ca_tok_pieces_add(out, done, start, -1));
        CA_TRY(ca_tok_pieces_add(out, start, end, id));
        done = end;
    }
    CA_TRY(ca_tok_pieces_add(out, done, text->length, -1));
out:
    return st;
}
