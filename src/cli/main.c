/* SPDX-License-Identifier: MIT
 *
 * The program: parse, run one command, print its error, exit with its code.
 */
#include "cli.h"

#include "causa/version.h"

#include <omp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* With OMP_PROC_BIND this thread is bound to the first of all places, and a second start would find
 * no other. */
static void unbind(void) {
    cpu_set_t all;
    CPU_ZERO(&all);
    for (int place = 0; place < omp_get_num_places(); place++) {
        const int count = omp_get_place_num_procs(place);
        int *cpus = calloc((size_t)count + 1, sizeof *cpus);
        if (!cpus) return;
        omp_get_place_proc_ids(place, cpus);
        for (int i = 0; i < count; i++) CPU_SET((size_t)cpus[i], &all);
        free(cpus);
    }
    if (CPU_COUNT(&all) > 0) (void)sched_setaffinity(0, sizeof all, &all);
}

/* Two libraries read their environment before main, hence a second start; if that fails, all goes
 * on as it is. GOMP_SPINCOUNT: OpenMP threads that wait for others spin for milliseconds by
 * default. Beside other jobs they then take the processor from the thread that they wait for: seen
 * to slow small models sevenfold. OPENBLAS_NUM_THREADS: LAPACK solves small problems only; a pool
 * of threads changes their last bits with the machine. */
static void start_with_environment(char **argv) {
    bool spins = getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT");
    if (spins && getenv("OPENBLAS_NUM_THREADS")) return;
    if (!spins && setenv("GOMP_SPINCOUNT", "3000", 0) != 0) return;
    if (setenv("OPENBLAS_NUM_THREADS", "1", 0) != 0) return;
    unbind();
    (void)execv("/proc/self/exe", argv);
}

static void print_error(void) {
    const char *text = ca_error_text(), *hint = ca_error_hint();
    while (*text) { /* configs and data report many problems, one per line */
        size_t n = strcspn(text, "\n");
        ca_log(CA_LOG_ERROR, "%.*s", (int)n, text);
        text += n + (text[n] == '\n');
    }
    if (*hint) fprintf(stderr, "causa: hint: %s\n", hint);
}

static ca_status run_command(const cli_command *command, const cli_arguments *arguments) {
    ca_status st = CA_OK;
    ca_log_set_level(arguments->verbose ? CA_LOG_DEBUG
                     : arguments->quiet ? CA_LOG_ERROR
                                        : CA_LOG_INFO);
    if (arguments->log) CA_TRY(ca_log_open(arguments->log));
    CA_TRY(command->run(arguments));
out:
    return st;
}

int main(int argc, char **argv) {
    const cli_command *command;
    cli_arguments arguments;
    start_with_environment(argv);
    ca_status st = ca_cli_parse(argc, argv, &command, &arguments);
    if (st == CA_OK) st = run_command(command, &arguments);
    if (st != CA_OK) print_error();
    if (fflush(stdout) != 0 && st == CA_OK) st = CA_E_IO;
    ca_log_close();
    return ca_status_exit_code(st);
}
