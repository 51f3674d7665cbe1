/* SPDX-License-Identifier: MIT
 *
 * Arguments from one table: parsing, the check that a command takes an option, the help lines.
 */
#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef enum argument_kind { FLAG, TEXT, COUNT } argument_kind;

static const struct {
    const char *name;
    char letter;
    argument_kind kind;
    size_t field;
    unsigned set; /* 0: every command takes it */
    const char *value, *help;
} option_table[] = {
#define FIELD(name) offsetof(cli_arguments, name)
    {"quiet", 'q', FLAG, FIELD(quiet), 0, NULL, "errors only"},
    {"verbose", 'v', FLAG, FIELD(verbose), 0, NULL, "more messages"},
    {"log", 0, TEXT, FIELD(log), 0, "FILE.jsonl",
     "append messages to a file, one JSON object a line"},
    {"help", 'h', FLAG, FIELD(help), 0, NULL, "explain the command"},
    {"version", 0, FLAG, FIELD(version), CLI_VERSION, NULL,
     "print version, revision, libraries and backends"},
    {"json", 0, FLAG, FIELD(json), CLI_JSON, NULL,
     "print the report as JSON; of a run, for each point its plan and output on one line"},
    {"threads", 0, COUNT, FIELD(threads), CLI_THREADS, "N", "threads of the host backends"},
    {"resume", 0, FLAG, FIELD(resume), CLI_RUN, NULL,
     "skip finished points, go on inside an unfinished one"},
    {"overwrite", 0, FLAG, FIELD(overwrite), CLI_RUN | CLI_CONVERT, NULL,
     "replace existing files; of a sweep, points go too that it does not have"},
    {"points", 0, TEXT, FIELD(points), CLI_RUN, "A:B", "only the sweep points A to B - 1"},
    {"shard", 0, TEXT, FIELD(shard), CLI_RUN, "I/N", "only every N-th sweep point from I on"},
    {"dry-run", 0, FLAG, FIELD(dry_run), CLI_RUN, NULL, "the same as causa plan"},
    {"output", 'o', TEXT, FIELD(output), CLI_OUTPUT, "DIR",
     "folder of the page; default: beside the result"},
    {"reference", 0, TEXT, FIELD(reference), CLI_DOCTOR, "FILE.h5",
     "compare with stored logits and residuals"},
    {"prompt", 0, TEXT, FIELD(prompt), CLI_DOCTOR, "TEXT", "prompt to check with"},
    {"circuit", 0, TEXT, FIELD(circuit), CLI_CONVERT, "N",
     "which circuit of a result, from 0; default: the smallest with a faithfulness of 0.9 or more, "
     "else the last"},
    {"precision", 0, TEXT, FIELD(precision), CLI_DOCTOR, "f32|bf16",
     "precision of cpu; bf16 is compared with bf16 on ref. Default: f32"},
    {"no-special", 0, FLAG, FIELD(no_special), CLI_TOKENS, NULL,
     "without the special tokens that the tokenizer adds"},
#undef FIELD
};
enum { OPTIONS = sizeof option_table / sizeof *option_table };

static ca_status set_option(int i, const char *value, cli_arguments *out) {
    void *field = (char *)out + option_table[i].field;
    if (option_table[i].kind == FLAG) {
        if (value)
            return ca_fail(CA_E_USAGE, "--%s takes no value, got '%s'", option_table[i].name,
                           value);
        *(bool *)field = true;
    } else if (option_table[i].kind == TEXT) {
        *(const char **)field = value;
    } else {
        char *end;
        errno = 0;
        long n = strtol(value, &end, 10);
        if (*end || errno || n < 1 || n > 4096)
            return ca_fail(CA_E_USAGE, "--%s: expected a number from 1 to 4096, got '%s'",
                           option_table[i].name, value);
        *(int *)field = (int)n;
    }
    return CA_OK;
}

/* The row of "--name", "--name=value" or "-x", or -1. */
static int find_option(const char *word, const char **value) {
    *value = NULL;
    for (int i = 0; i < OPTIONS; i++) {
        if (word[1] != '-') {
            if (word[1] == option_table[i].letter && word[2] == '\0') return i;
            continue;
        }
        size_t n = strlen(option_table[i].name);
        if (strncmp(word + 2, option_table[i].name, n) != 0) continue;
        if (word[2 + n] == '=') *value = word + 3 + n;
        if (word[2 + n] == '=' || word[2 + n] == '\0') return i;
    }
    return -1;
}

static ca_status unknown_option(const char *word) {
    const char *names[OPTIONS];
    for (int i = 0; i < OPTIONS; i++) names[i] = option_table[i].name;
    const char *near = word[1] == '-' ? ca_nearest_name(word + 2, names, OPTIONS) : NULL;
    if (near) ca_hint("did you mean --%s?", near);
    return ca_fail(CA_E_USAGE, "unknown option '%s'", word);
}

static ca_status choose_command(const char *name, const cli_command **command) {
    const char *names[16];
    int64_t n = 0;
    *command = ca_cli_command_find(name);
    if (*command) return CA_OK;
    for (const cli_command *c = ca_cli_commands; c->name; c++) names[n++] = c->name;
    const char *near = ca_nearest_name(name, names, n);
    if (near)
        ca_hint("did you mean 'causa %s'?", near);
    else
        ca_hint("causa help lists the commands");
    return ca_fail(CA_E_USAGE, "unknown command '%s'", name);
}

ca_status ca_cli_parse(int argc, char **argv, const cli_command **command, cli_arguments *out) {
    ca_status st = CA_OK;
    unsigned used = 0; /* option rows seen */
    int words = 0;
    bool options = true;
    *out = (cli_arguments){0};
    for (int a = 1; a < argc; a++) {
        const char *value;
        if (!options || argv[a][0] != '-' || argv[a][1] == '\0') {
            argv[words++] = argv[a]; /* positional words move to the front */
            continue;
        }
        if (strcmp(argv[a], "--") == 0) {
            options = false;
            continue;
        }
        int i = find_option(argv[a], &value);
        if (i < 0) return unknown_option(argv[a]);
        if (option_table[i].kind != FLAG && !value) {
            if (++a == argc) return ca_fail(CA_E_USAGE, "--%s needs a value", option_table[i].name);
            value = argv[a];
        }
        CA_TRY(set_option(i, value, out));
        used |= 1u << i;
    }
    CA_TRY(choose_command(words ? argv[0] : "help", command));
    if (out->help && strcmp((*command)->name, "help") != 0) { /* causa run --help */
        *command = ca_cli_command_find("help");
        out->words = (const char *const *)argv;
        out->count = words;
        return CA_OK;
    }
    out->words = (const char *const *)argv + (words ? 1 : 0);
    out->count = words ? words - 1 : 0;
    for (int i = 0; i < OPTIONS; i++)
        if (used & 1u << i && option_table[i].set && !(option_table[i].set & (*command)->options))
            return ca_fail(CA_E_USAGE, "causa %s takes no --%s", (*command)->name,
                           option_table[i].name);
out:
    return st;
}

void ca_cli_print_options(unsigned options) {
    for (int i = 0; i < OPTIONS; i++) {
        char left[64];
        if (option_table[i].set && !(option_table[i].set & options)) continue;
        snprintf(left, sizeof left, "%c%c%s --%s%s%s", option_table[i].letter ? '-' : ' ',
                 option_table[i].letter ? option_table[i].letter : ' ',
                 option_table[i].letter ? "," : " ", option_table[i].name,
                 option_table[i].value ? " " : "",
                 option_table[i].value ? option_table[i].value : "");
        printf("  %-28s %s\n", left, option_table[i].help);
    }
}

ca_status ca_cli_parse_range(const char *option, const char *text, char separator, int64_t *a,
                             int64_t *b) {
    char *middle, *end;
    errno = 0;
    *a = strtoll(text, &middle, 10);
    if (middle != text && *middle == separator) {
        *b = strtoll(middle + 1, &end, 10);
        if (end != middle + 1 && !*end && !errno && *a >= 0 && *b >= 0) return CA_OK;
    }
    return ca_fail(CA_E_USAGE,
                   "--%s: expected two numbers with '%c' between them, such as 0%c4, got '%s'",
                   option, separator, separator, text);
}
