/* SPDX-License-Identifier: MIT
 *
 * Prompt files -> checked rows of token ids. CSV (RFC 4180), JSON and JSON lines with the columns
 * of the contract; every row is checked before anything runs.
 */
#ifndef CAUSA_DATA_H
#define CAUSA_DATA_H

#include "causa/config.h"
#include "causa/tokenizer.h"

/* A text as the model reads it. */
typedef struct ca_prompt_text {
    char *text;       /* NULL when the file gives ids */
    int64_t count;    /* tokens, a BOS included */
    int32_t *ids;     /* [count] */
    int64_t *start;   /* [count] byte range of the text that a token covers; 0, 0 for BOS */
    int64_t *end;
} ca_prompt_text;

/* Alternatives of an answer: the first token of each counts. */
typedef struct ca_answers {
    int64_t count;
    int32_t *ids;
} ca_answers;

/* A whole continuation, scored token by token after the prompt. */
typedef struct ca_continuation {
    int64_t count;
    int32_t *ids;
} ca_continuation;

typedef struct ca_example {
    char *id;    /* the id column, else the row number from 0 */
    int64_t row; /* row of the file from 1, the header not counted; for messages */
    ca_prompt_text clean, corrupted; /* `corrupted` has count 0 without a pair */
    ca_answers answer, wrong;
    ca_continuation answer_text, wrong_text;
    bool has_label;
    int64_t label;
    int64_t subject_first, subject_last; /* tokens [first, last) of clean; first == last: none */
    int64_t first_difference;            /* of a pair: first token that differs; count when none */
    /* of ca_dataset_continue, else 0 */
    int64_t suffix;    /* tokens of a continuation at the end of both prompts */
    bool suffix_wrong; /* they are of wrong_text, not of answer_text */
    bool joined;       /* clean ends with answer_text, by ca_example_join_answer */
} ca_example;

typedef struct ca_dataset {
    char *path;
    int64_t count;
    ca_example *examples;
    int64_t excluded_count;
    char **excluded; /* "row 7: clean has 12 tokens, corrupted 13" */
    int64_t unanswered; /* examples without `answer` */
    bool pairs;      /* every example has `corrupted`, as long as `clean` */
    bool unjudged;   /* data.keep asks for rows that the model answers correctly: ca_dataset_keep is
                        still to be called, and takes data.start and data.limit from here */
    int64_t start, limit;
    int32_t bos;     /* id put first, -1 for none */
    char sha256[65]; /* of the file */
} ca_dataset;

/* What a method reads; the other columns are not demanded (but checked when present). */
typedef struct ca_data_needs {
    bool pair;    /* clean and corrupted of equal token length */
    bool answer;  /* at least one answer id */
    bool subject;
} ca_data_needs;

/* Rows of ca_option "data.*", for the tables of a job. */
extern const ca_option ca_data_options[];

/* Reads data.file of the config and makes the examples.
 *
 * tokenizer  may be NULL when the file gives ids only
 * vocab      ids must be below it
 * positions  longest prompt that the model takes
 * Errors: CA_E_DATA naming file, row and column; CA_E_IO when the file cannot be read. All bad rows
 * are listed at once (up to 20). */
ca_status ca_dataset_open(const ca_config *config, const ca_tokenizer *tokenizer, int64_t vocab,
                          int64_t positions, ca_data_needs needs, ca_dataset **out) CA_MUST_USE;
/* Leaves out the rows that a model does not answer correctly, then data.start of the others, and
 * those behind data.limit.
 *
 * right  [seen] of the first examples; those behind have not been judged and are not needed
 * why    [seen] what is said of one that is not right, "row 7 (id x): ..."; taken from the list
 * Errors: CA_E_DATA when none is left. */
ca_status ca_dataset_keep(ca_dataset *dataset, const bool *right, char **why,
                          int64_t seen) CA_MUST_USE;
void ca_dataset_free(ca_dataset *dataset);

/* The single token that `text` stands for: "#17" an id, else a string that encodes to exactly one
 * token. Errors: CA_E_DATA showing the tokens that it encodes to. */
ca_status ca_token_of_text(const ca_tokenizer *tokenizer, const char *text, int64_t vocab,
                           int32_t *id) CA_MUST_USE;

/* Rows of an example at which its metric is read: the last one of the prompt and the suffix's. */
static inline int64_t ca_example_reads(const ca_example *example) { return 1 + example->suffix; }

/* The sequences on which continuations are scored: for every example one whose two prompts are
 * followed by answer_text but its last token, which nothing is read of, and then with `wrong` one
 * with wrong_text. They share everything but the prompts' tokens with `dataset`, which must outlive
 * them. positions: longest sequence that the model takes.
 * Errors: CA_E_DATA naming the rows: no continuation, or too long together. */
ca_status ca_dataset_continue(const ca_dataset *dataset, bool wrong, int64_t positions,
                              ca_dataset **out) CA_MUST_USE;
void ca_dataset_free_continued(ca_dataset *sequences);

/* Puts the tokens of answer_text behind those of `clean`, where they cover no bytes of its text;
 * once only, however often a method prepares the same rows.
 * positions: longest prompt that the model takes. Errors: CA_E_DATA naming the row: no answer_text,
 * or too long together. */
ca_status ca_example_join_answer(const ca_dataset *dataset, ca_example *example,
                                 int64_t positions) CA_MUST_USE;

/* Bad rows, gathered so that one message names all of them (up to 20). Starts as {0}. */
typedef struct ca_row_problems {
    ca_string text;
    int64_t count;
} ca_row_problems;

/* Takes what the check of a row gave: keeps the text of a CA_E_DATA and gives CA_OK, so that the
 * caller goes on with the next row; gives back any other status. */
ca_status ca_row_problems_take(ca_row_problems *problems, ca_status st) CA_MUST_USE;
/* CA_E_DATA with the texts, a line each, or CA_OK when there are none. Frees them. */
ca_status ca_row_problems_report(ca_row_problems *problems) CA_MUST_USE;
void ca_row_problems_free(ca_row_problems *problems);

/* "row 12 (id 'ioi-11')" into a per-thread buffer, for messages: file and row. */
const char *ca_example_place(const ca_dataset *dataset, const ca_example *example);

#endif
