/* SPDX-License-Identifier: MIT
 *
 * The command line: arguments, the table of commands, and what several commands share.
 */
#ifndef CAUSA_CLI_H
#define CAUSA_CLI_H

#include "causa/job.h"
#include "causa/method.h"

#include <jansson.h>

/* Parsed arguments. Options that a command does not take are refused before it runs. */
typedef struct cli_arguments {
    const char *const *words; /* positional arguments after the command */
    int64_t count;
    bool quiet, verbose, json, help, version;
    bool resume, overwrite, dry_run, no_special;
    const char *log, *points, *shard, *output, *reference, *prompt, *circuit, *precision;
    int threads;
} cli_arguments;

/* Bits of the options that a command takes beside the common ones. */
typedef enum cli_option_set {
    CLI_JSON = 1,
    CLI_RUN = 2,
    CLI_THREADS = 4,
    CLI_OUTPUT = 8,
    CLI_DOCTOR = 16,
    CLI_TOKENS = 32,
    CLI_VERSION = 64,
    CLI_CONVERT = 128
} cli_option_set;

typedef struct cli_command {
    const char *name;
    const char *usage; /* words behind the name */
    const char *summary;
    unsigned options;
    ca_status (*run)(const cli_arguments *arguments);
} cli_command;

/* X(name, usage, summary, options): one row and one file per command. */
#define CLI_COMMAND_LIST(X)                                                                        \
    X(run, "CONFIG.yaml [key.sub=value ...]", "check everything, run, write the result file",      \
      CLI_JSON | CLI_RUN | CLI_THREADS)                                                            \
    X(plan, "CONFIG.yaml [key.sub=value ...]", "say what a run would do and need",                 \
      CLI_JSON | CLI_THREADS)                                                                      \
    X(inspect, "PATH", "describe a model or a result file", CLI_JSON)                              \
    X(doctor, "MODEL [--reference FILE.h5] [--prompt TEXT] [--precision P]", "check a model's numbers per layer",  \
      CLI_JSON | CLI_THREADS | CLI_DOCTOR)                                                         \
    X(tokens, "MODEL [TEXT ...]", "show ids, pieces and byte offsets of texts",                    \
      CLI_JSON | CLI_TOKENS)                                                                       \
    X(report, "RESULT.h5 [-o DIR]",                                                                \
      "make a self-contained HTML page with plots, DIR/<name>.html, and the plots alone as "       \
      "DIR/<name>/*.png",                                                                          \
      CLI_OUTPUT)                                                                                  \
    X(convert, "IN OUT",                                                                           \
      "translate edge scores and a circuit between a result (.h5) and the JSON of EAP-IG and MIB", \
      CLI_CONVERT)                                                                                 \
    X(help, "[COMMAND | config]", "explain a command or the configuration", CLI_VERSION)

#define CLI_DECLARE(name, usage, summary, options)                                                 \
    ca_status ca_cli_##name(const cli_arguments *arguments) CA_MUST_USE;
CLI_COMMAND_LIST(CLI_DECLARE)
#undef CLI_DECLARE

extern const cli_command ca_cli_commands[]; /* ends with a row whose name is NULL */
const cli_command *ca_cli_command_find(const char *name);

/* arguments.c. Errors: CA_E_USAGE. words points into argv. */
ca_status ca_cli_parse(int argc, char **argv, const cli_command **command,
                       cli_arguments *out) CA_MUST_USE;
/* Prints the options that every command takes and those of a set, a line each. */
void ca_cli_print_options(unsigned options);
/* Two numbers with a separator between them, the value of an option: "3:7", "1/4". */
ca_status ca_cli_parse_range(const char *option, const char *text, char separator, int64_t *a,
                             int64_t *b) CA_MUST_USE;

/* open.c: everything that one or more points of a config run on; models stay loaded between points
 * that share them. */
typedef struct cli_session {
    const cli_arguments *arguments;
    ca_document *document;
    const ca_method *method; /* of the current point */
    ca_config *config;
    ca_backend *backend;
    ca_model_file *file;
    ca_tokenizer *tokenizer;
    ca_dataset *data;
    ca_model *model;
    char *opened; /* what backend, file and model were opened for */
    ca_job job;
    void *state; /* of the method */
} cli_session;

ca_status ca_cli_session_open(const cli_arguments *arguments, cli_session *session) CA_MUST_USE;
/* Resolves a point, opens what it needs and prepares its method: no weights are read. */
ca_status ca_cli_session_point(cli_session *session, int64_t point) CA_MUST_USE;
/* Whether a file is the complete result of a point of this sweep, not of another configuration. */
ca_status ca_cli_session_done(const cli_session *session, int64_t point, const char *file,
                              bool *done) CA_MUST_USE;
/* With data.keep: correct, loads the weights, leaves out the rows that the model does not answer
 * correctly, and prepares the point again. To be called once, before the point runs. */
ca_status ca_cli_session_keep(cli_session *session) CA_MUST_USE;
/* Prepares the point again with half of the memory for micro-batches. CA_E_MEMORY when that is too
 * little for any; then the point cannot run. */
ca_status ca_cli_session_halve(cli_session *session) CA_MUST_USE;
/* Loads the weights for the prepared point. */
ca_status ca_cli_session_load(cli_session *session) CA_MUST_USE;
void ca_cli_session_close(cli_session *session);
/* Tokenizer of a model file; NULL and CA_OK when the model has none. */
ca_status ca_cli_open_tokenizer(const char *model, ca_tokenizer **out) CA_MUST_USE;
/* The tables of options for a method kind (NULL or unknown: all methods); `tables` [8]. */
void ca_cli_option_tables(const ca_method *method, const ca_option **tables);

/* output.c. Path of the result file of a point, owned by the caller; a sweep puts them into a
 * folder. */
ca_status ca_cli_session_output(const cli_session *session, int64_t point, char **path) CA_MUST_USE;
/* Folder of a sweep's results, owned by the caller; NULL without a sweep. */
ca_status ca_cli_session_folder(const cli_session *session, char **path) CA_MUST_USE;

/* Before anything runs: is there a folder for this file, or one in which it can be made? A folder
 * that the user named for a single file must exist: a typing error should not make a tree.
 * Errors: CA_E_USAGE. */
ca_status ca_cli_check_folder(const cli_session *session, const char *path) CA_MUST_USE;
/* Makes results/ or the folder of a sweep. */
ca_status ca_cli_make_folder(const cli_session *session) CA_MUST_USE;

/* plan.c: the plan of the prepared point as JSON, owned by the caller. */
ca_status ca_cli_plan_json(const cli_session *session, int64_t points, const char *output,
                           json_t **out) CA_MUST_USE;

/* provenance.c: root attributes before a run, /run after it. */
ca_status ca_cli_write_provenance(const cli_session *session, ca_result *result) CA_MUST_USE;
typedef struct cli_run_log cli_run_log;
ca_status ca_cli_run_log_start(cli_run_log **out) CA_MUST_USE;
ca_status ca_cli_write_run(const cli_session *session, cli_run_log *log,
                           ca_result *result) CA_MUST_USE;
void ca_cli_run_log_stop(cli_run_log *log);

/* index.c: index.h5 of a sweep of which every point is done or marked in `failed` [points]; while
 * other calls are still at work on some points, there is none. */
ca_status ca_cli_write_index(const cli_session *session, const bool *failed) CA_MUST_USE;
/* Removes results and checkpoints in the sweep's folder whose point it does not have. Only those
 * that are named as points and say themselves that they are of a sweep of this name. */
ca_status ca_cli_remove_stale(const cli_session *session) CA_MUST_USE;

/* format.c: "12.3 GFLOP" into `text`. */
const char *ca_cli_flops(double flops, char text[32]);

#endif
