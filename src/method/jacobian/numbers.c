/* SPDX-License-Identifier: MIT
 *
 * Prompts that are series of numbers, and where the numbers begin: the words of such a prompt are
 * its numbers, and what stands between two of them. A number may be one token or a token a digit.
 */
#include "jacobian.h"

#include <stdlib.h>
#include <string.h>

enum { LEAST_NUMBERS = 16, LETTER_SHARE = 10 /* at most one character in so many is a letter */ };

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || ((unsigned char)c & 0xC0) == 0xC0;
}

static const char *without_space(const char *text) { return text + strspn(text, " \t"); }

/* Whether each token is of a number [count]: it begins with a digit, or is the sign or the point of
 * the digit behind it. Special tokens are of none. */
static void mark_numbers(const char *const *pieces, const bool *special, int64_t count,
                         bool *number) {
    for (int64_t t = 0; t < count; t++) {
        const char *text = without_space(pieces[t]);
        const char *next = text[0] && text[1] ? text + 1 : t + 1 < count ? pieces[t + 1] : "";
        bool behind = t > 0 && number[t - 1];
        bool sign = (text[0] == '-' || text[0] == '+') && !behind && is_digit(next[0]);
        bool point = text[0] == '.' && behind && text == pieces[t] && is_digit(next[0]);
        number[t] = !special[t] && (is_digit(text[0]) || sign || point);
    }
}

static bool is_series(const char *const *pieces, const bool *special, const bool *number,
                      int64_t count) {
    int64_t numbers = 0, letters = 0, characters = 0;
    for (int64_t t = 0; t < count; t++) {
        if (special[t]) continue;
        numbers += number[t] && (t == 0 || !number[t - 1]);
        for (const char *c = pieces[t]; *c; c++) {
            letters += is_letter(*c);
            characters += ((unsigned char)*c & 0xC0) != 0x80;
        }
    }
    return numbers >= LEAST_NUMBERS && LETTER_SHARE * letters <= characters;
}

ca_status ca_jacobian_find_numbers(const ca_job *job, const ca_prompt_text *prompt, bool *begins,
                                   bool *series) {
    ca_status st = CA_OK;
    ca_string text = {0};
    const char **pieces = NULL;
    bool *number = NULL, *special = NULL;
    int64_t count = prompt->count;
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *number, &number));
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *special, &special));
    CA_TRY(ca_method_pieces(job, prompt->ids, count, &text, &pieces));
    for (int64_t t = 0; t < count; t++)
        special[t] = ca_tokenizer_is_special(job->tokenizer, prompt->ids[t]);
    mark_numbers(pieces, special, count, number);
    *series = is_series(pieces, special, number, count);
    for (int64_t t = 0; *series && t < count; t++)
        begins[t] = t == 0 || special[t] || special[t - 1] || number[t] != number[t - 1] ||
                    (number[t] && without_space(pieces[t]) != pieces[t]);
out:
    free(number);
    free(special);
    free(pieces);
    ca_string_free(&text);
    return st;
}
