/* SPDX-License-Identifier: MIT
 *
 * Where the results of a run go, and the check that they can go there. Called by run, plan and
 * the index of a sweep.
 */
#include "cli.h"

#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ca_status copy_text(const char *text, char **out) {
    *out = strdup(text);
    return *out ? CA_OK : ca_fail(CA_E_MEMORY, "no memory for a path");
}

ca_status ca_cli_session_folder(const cli_session *s, char **path) {
    *path = NULL;
    if (ca_document_sweep_keys(s->document) == 0) return CA_OK;
    if (ca_config_has(s->config, "output"))
        return copy_text(ca_config_text(s->config, "output"), path);
    return ca_path_join("results", ca_config_text(s->config, "name"), path);
}

ca_status ca_cli_session_output(const cli_session *s, int64_t point, char **path) {
    ca_status st = CA_OK;
    char *folder = NULL, name[256];
    *path = NULL;
    CA_TRY(ca_cli_session_folder(s, &folder));
    if (folder) {
        snprintf(name, sizeof name, "point-%05lld.h5", (long long)point);
        CA_TRY(ca_path_join(folder, name, path));
    } else if (ca_config_has(s->config, "output")) {
        CA_TRY(copy_text(ca_config_text(s->config, "output"), path));
    } else {
        snprintf(name, sizeof name, "%s.h5", ca_config_text(s->config, "name"));
        CA_TRY(ca_path_join("results", name, path));
    }
out:
    free(folder);
    return st;
}

ca_status ca_cli_check_folder(const cli_session *s, const char *path) {
    ca_status st = CA_OK;
    char *copy = NULL;
    CA_TRY(copy_text(path, &copy));
    const char *folder = dirname(copy);
    bool made = !ca_config_has(s->config, "output") || ca_document_sweep_keys(s->document) > 0;
    while (made && access(folder, F_OK) != 0) folder = dirname(copy);
    if (!ca_is_directory(folder)) {
        bool file = ca_file_exists(folder);
        ca_hint(file ? "'%s' is a file: output=FILE names another place"
                     : "create the folder '%s' first, or correct 'output'",
                folder);
        st = ca_fail(CA_E_USAGE, "%s: expected the folder '%s' to exist, got %s", path, folder,
                     file ? "a file of that name" : "none");
    } else if (access(folder, W_OK | X_OK) != 0) {
        ca_hint("output=FILE names another place");
        st = ca_fail(CA_E_USAGE, "%s: expected a folder that can be written, got '%s': %s", path,
                     folder, strerror(errno));
    } else if (ca_is_directory(path)) {
        st = ca_fail(CA_E_USAGE, "%s: expected a file name for the result, got a folder", path);
    }
out:
    free(copy);
    return st;
}

ca_status ca_cli_make_folder(const cli_session *s) {
    ca_status st = CA_OK;
    char *folder = NULL;
    CA_TRY(ca_cli_session_folder(s, &folder));
    if (!ca_config_has(s->config, "output")) CA_TRY(ca_make_directories("results"));
    if (folder) CA_TRY(ca_make_directories(folder));
out:
    free(folder);
    return st;
}
