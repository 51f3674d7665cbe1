/* SPDX-License-Identifier: MIT
 *
 * Circuits by their scores, and how faithful they are: the metric of a circuit's run between that
 * of the ablated run (0) and that of the clean run (1).
 *
 *   f(C) = (mean M(C) - mean M(ablated)) / (mean M(clean) - mean M(ablated))
 *   CPR  = integral of f dq           CMD = integral of |1 - f| dq
 *
 * over q, the share of edges asked for, by the trapezoid rule. Means are over pairs, so f is a
 * ratio of means; it may exceed 1 or be negative.
 *
 * Source: Hanna et al. 2024, arXiv 2403.17806; Mueller et al. 2025, "MIB: a mechanistic
 * interpretability benchmark", arXiv 2504.13151 (CPR, CMD and the ten shares).
 */
#ifndef CAUSA_METHOD_EAP_FAITHFULNESS_H
#define CAUSA_METHOD_EAP_FAITHFULNESS_H

#include "causa/method.h"

#include "ends.h"
#include "runs.h"

/* Rows of an option table. */
#define EAP_CIRCUIT_OPTIONS                                                                        \
    {"method.circuit.select",                                                                      \
     CA_OPTION_CHOICE,                                                                             \
     "top",                                                                                        \
     NULL,                                                                                         \
     "top|greedy|threshold",                                                                       \
     "how edges are picked: the largest scores, from the logits down, or all above a threshold; "  \
     "where nodes or neurons are scored, how these are, without greedy"},                          \
        {"method.circuit.sizes",                                                                   \
         CA_OPTION_INTS,                                                                           \
         "",                                                                                       \
         "0..",                                                                                    \
         NULL,                                                                                     \
         "how many edges (at other levels nodes, neurons) are picked"},                            \
        {"method.circuit.fractions",                                                               \
         CA_OPTION_FLOATS,                                                                         \
         "",                                                                                       \
         "(0..1]",                                                                                 \
         NULL,                                                                                     \
         "the same as shares of all; without either 0.001 to 1 in ten steps"},                     \
        {"method.circuit.thresholds",                                                              \
         CA_OPTION_FLOATS,                                                                         \
         "",                                                                                       \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "least scores of the edges that select: threshold keeps"},                                \
        {"method.circuit.absolute",                                                                \
         CA_OPTION_BOOL,                                                                           \
         "true",                                                                                   \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "pick by |score|, else by the score with its sign"},                                      \
        {"method.circuit.file",                                                                    \
         CA_OPTION_TEXT,                                                                           \
         "",                                                                                       \
         NULL,                                                                                     \
         NULL,                                                                                     \
         "circuit or scores from a .json or .h5 file in place of an attribution; scores are "      \
         "those of method.level"},                                                                 \
        {"method.circuit.number",                                                                  \
         CA_OPTION_INT,                                                                            \
         "auto",                                                                                   \
         "0..",                                                                                    \
         "auto",                                                                                   \
         "which of the file's circuits; auto: the smallest with a faithfulness of 0.9 or more, "   \
         "else the last"},                                                                         \
    {                                                                                              \
        "method.evaluate.faithfulness", CA_OPTION_BOOL, "false", NULL, NULL,                       \
            "run the circuits, and compare them with the clean and the ablated run; those of "     \
            "circuit.file always are"                                                              \
    }

/* What is scored. Neurons are coordinates of sources' outputs, hidden units those that the MLPs'
 * output projections read; of these no circuits are made. */
typedef enum eap_level { EAP_EDGES, EAP_NODES, EAP_NEURONS, EAP_HIDDEN } eap_level;

/* The circuits that the options ask for. */
typedef struct eap_selection {
    ca_circuit_rule rule;
    bool absolute;
    eap_level level; /* of scores and sizes; edges out of a source are kept together but by edges */
    int64_t count;
    int64_t *requested; /* [count] of the level; of thresholds known once they are selected */
    double *threshold;  /* [count] or NULL */
    double *fraction;   /* [count] of all edges, sources or neurons */
    ca_circuit_file file;
    bool from_file; /* `file` has been read */
    bool given;     /* its circuit is the only one; else its scores stand for those of the caller */
} eap_selection;

typedef struct eap_faithfulness {
    ca_circuit_graph graph;
    const ca_metric *metric;
    bool evaluate;
    bool whole; /* whole prompts are run: the ablation changes all tokens */
    eap_selection selection;
    const ca_circuit_file *truth; /* the true circuit, or another's: set beside each; or NULL */
    ca_packing packing;           /* examples in groups */
    eap_runs_sizes sizes;
    /* while running */
    ca_job *job;
    ca_circuit *circuits; /* [count] */
    eap_group group;
    eap_ends ends;
    eap_runs *runs;
    method_scorer scorer;
    double *values; /* [pairs, count + 2] metrics of the circuits, clean and ablated */
} eap_faithfulness;

/* Reads and checks the options; *out is NULL when they ask for no circuits. `whole`, `level` as
 * above; graph and metric must outlive the object. Memory is taken after an attribution has given
 * its own back, so plan->work_bytes becomes the larger of both.
 * Errors: CA_E_CONFIG with the option's place, of a circuit file also CA_E_DATA. */
ca_status ca_eap_faithfulness_prepare(const ca_job *job, const ca_circuit_graph *graph,
                                      const ca_metric *metric, bool whole, eap_level level,
                                      ca_plan *plan, eap_faithfulness **out) CA_MUST_USE;
void ca_eap_faithfulness_free(eap_faithfulness *faithfulness);
/* Circuits come from the scores of an attribution; else it need not be made. */
bool ca_eap_faithfulness_needs_score(const eap_faithfulness *faithfulness);

/* Selects the circuits and runs them.
 *
 * ablation  NULL: patching
 * score     [F, R], [F] of sources or [F, D] of neurons; NULL when none is needed. The same again
 * after a resume first     first example to do; 0 also begins the groups /circuits and
 * /faithfulness done      how many examples are done, also when a signal stops the run */
ca_status ca_eap_faithfulness_run(eap_faithfulness *faithfulness, ca_job *job,
                                  const eap_ablation *ablation, const double *score, int64_t first,
                                  int64_t *done) CA_MUST_USE;
/* The curve in a few lines, from the result. */
ca_status ca_eap_faithfulness_answer(const eap_faithfulness *faithfulness, ca_job *job,
                                     ca_string *text) CA_MUST_USE;

/* Areas under a curve of `count` points in any order; NaN for fewer than two. */
void ca_eap_curve_areas(const double *fraction, const double *normalized, int64_t count,
                        double *cpr, double *cmd);

/* Datasets [count] of a group, along the circuits' sizes; scale: theirs, or NULL. */
typedef struct eap_list {
    const char *name;
    ca_result_type type;
    const void *values;
} eap_list;
ca_status ca_eap_put_lists(ca_job *job, const char *group, const eap_list *lists,
                           size_t lists_count, int64_t count, const char *scale) CA_MUST_USE;
/* truth.c: what edges, nodes and, of circuits that have masks of them, neurons share with those of
 * the file's circuit. */
ca_status ca_eap_truth_circuits(ca_job *job, const ca_circuit_file *file,
                                const ca_circuit *circuits, int64_t count) CA_MUST_USE;

/* selection.c. CA_E_CONFIG naming an option of circuits that would have no effect; circuits: some
 * are made. */
ca_status ca_eap_selection_check(const ca_config *config, eap_level level,
                                 bool circuits) CA_MUST_USE;
/* Frees with ca_eap_selection_free. */
ca_status ca_eap_selection_read(const ca_job *job, const ca_circuit_graph *graph, eap_level level,
                                eap_selection *out) CA_MUST_USE;
/* Circuits will have masks of neurons. */
bool ca_eap_selection_masks(const eap_selection *selection);
/* "edges", "sources", "neurons": what sizes count. */
const char *ca_eap_selection_unit(const eap_selection *selection);
/* At most so many sources do all circuits together keep: no more than what is asked for, each. */
int64_t ca_eap_selection_sources(const eap_selection *selection, const ca_circuit_graph *graph);
void ca_eap_selection_free(eap_selection *selection);
/* Creates the circuits [count], pruned, and sets what thresholds had left open. */
ca_status ca_eap_selection_make(eap_selection *selection, const ca_circuit_graph *graph,
                                const double *score, ca_circuit *circuits) CA_MUST_USE;

#endif
