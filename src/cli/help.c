/* SPDX-License-Identifier: MIT
 *
 * `causa help`, `causa help COMMAND`, `causa help config`, `causa --version`.
 */
#include "cli.h"

#include "causa/version.h"

#include <string.h>

const cli_command ca_cli_commands[] = {
#define COMMAND_ROW(name, usage, summary, options) {#name, usage, summary, options, ca_cli_##name},
    CLI_COMMAND_LIST(COMMAND_ROW)
#undef COMMAND_ROW
        {0},
};

const cli_command *ca_cli_command_find(const char *name) {
    for (const cli_command *c = ca_cli_commands; c->name; c++)
        if (strcmp(c->name, name) == 0) return c;
    return NULL;
}

static void print_version(void) {
    printf("causa %s (%s)\nlibraries: %s\n", ca_version(), ca_git_revision(), ca_libraries());
    for (const ca_backend_entry *const *e = ca_backend_entries(); *e; e++)
        printf("backend %-5s %s\n", (*e)->name,
               (*e)->libraries ? (*e)->libraries : (*e)->how_to_build);
}

static void print_overview(void) {
    printf("causa: traces causes inside language models\n\nusage: causa COMMAND ... [options]\n"
           "       causa --version\n\ncommands:\n");
    for (const cli_command *c = ca_cli_commands; c->name; c++)
        printf("  %-8s %s\n", c->name, c->summary);
    printf("\nmethods (method.kind):\n");
    for (const ca_method *const *m = ca_methods(); *m; m++)
        printf("  %-8s %s\n", (*m)->kind, (*m)->summary);
    printf("\nmodel types: %s\n\noptions of every command:\n", ca_family_names());
    ca_cli_print_options(0);
    printf("\nexit codes: 0 ok, 1 the run failed, 2 usage or configuration, 3 data or model, 4 "
           "numbers not\nfinite or different, 5 out of memory, 6 some sweep points failed, 75 "
           "stopped on request and a\ncheckpoint written, 130 and 143 by signal\n");
    printf("\n`causa help COMMAND` explains a command, `causa help config` the configuration.\n");
}

static ca_status print_config(void) {
    ca_status st = CA_OK;
    const ca_option *tables[8];
    ca_string text = {0};
    ca_cli_option_tables(NULL, tables);
    CA_TRY(ca_options_help(tables, &text));
    fputs(text.text, stdout);
    printf("\nsweep: {key.path: [values], ...}   every combination is a point, the first key "
           "slowest\n");
out:
    ca_string_free(&text);
    return st;
}

ca_status ca_cli_help(const cli_arguments *arguments) {
    if (arguments->version) {
        print_version();
    } else if (arguments->count == 0) {
        print_overview();
    } else if (strcmp(arguments->words[0], "config") == 0) {
        return print_config();
    } else {
        const cli_command *c = ca_cli_command_find(arguments->words[0]);
        if (!c) return ca_fail(CA_E_USAGE, "there is no help on '%s'", arguments->words[0]);
        printf("usage: causa %s %s\n\n%s\n\noptions:\n", c->name, c->usage, c->summary);
        ca_cli_print_options(c->options);
    }
    return CA_OK;
}
