/* SPDX-License-Identifier: MIT
 *
 * The data section of a configuration.
 */
#include "causa/data.h"

const ca_option ca_data_options[] = {
    {"data.file", CA_OPTION_TEXT, NULL, NULL, NULL, "prompts: .csv (RFC 4180), .jsonl or .json"},
    {"data.columns", CA_OPTION_MAP, "", NULL, NULL, "our column name: the file's column name"},
    {"data.limit", CA_OPTION_INT, "all", "1..", "all", "use the first n rows after filtering"},
    {"data.start", CA_OPTION_INT, "0", "0..", NULL, "skip the first n rows after filtering"},
    {"data.bos", CA_OPTION_INT, "auto", "0..", "auto|true|false",
     "token put before every prompt given as text: what the tokenizer does by itself (auto), its "
     "BOS, none, or a token id"},
    {"data.keep", CA_OPTION_CHOICE, "all", NULL, "all|correct",
     "rows to keep: all, or those that the model answers correctly: its most probable token is in "
     "answer (every one of answer_text where there is no answer or the metric reads it; "
     "greater_than above 0); the others are listed"},
    {"data.mismatch", CA_OPTION_CHOICE, "error", NULL, "error|skip",
     "pairs whose prompts differ in token length: an error, or skipped and listed"},
    {0},
};
