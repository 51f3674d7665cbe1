/* SPDX-License-Identifier: MIT
 *
 * Method `eap`: edge attribution patching and its integrated gradients. How much does every edge of
 * the computation graph contribute to what the model does?
 */
#include "eap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const ca_option options[] = {
    {"metric", CA_OPTION_CHOICE, "logit_diff", NULL, CA_METRIC_NAMES,
     "what is measured at the last token, or of whole continuations behind it"},
    {"method.variant", CA_OPTION_CHOICE, "ig-inputs", NULL, EAP_VARIANTS,
     "gradients at the clean run (eap), along a path of the input or of activations, at both ends; "
     "or without gradients: exact patching of one edge a time, information flow routes"},
    {"method.steps", CA_OPTION_INT, "5", "1..1000", NULL, "points of a path"},
    {"method.rule", CA_OPTION_CHOICE, "auto", NULL, "auto|left|right|midpoint|gauss-legendre",
     "quadrature of a path from the corrupted (0) to the clean run (1); auto: left for ig-inputs "
     "(with ablation zero right), right for ig-activations"},
    {"method.ablation", CA_OPTION_CHOICE, "patching", NULL,
     "patching=counterfactual=CF|zero|mean|mean-positional",
     "what an ablated edge carries: the source's output on the corrupted prompt, nothing, its mean "
     "over clean prompts and tokens, its mean over clean prompts at that position"},
    {"method.level", CA_OPTION_CHOICE, "edge", NULL, "edge|node|neuron|hidden",
     "what is scored: edges (and with them nodes), nodes, coordinates of nodes' outputs, hidden "
     "units of the MLPs"},
    {"method.per_example", CA_OPTION_BOOL, "false", NULL, NULL,
     "keep the scores of every pair: of edges, nodes, neurons or hidden units, as level says"},
    {"method.by_position", CA_OPTION_BOOL, "false", NULL, NULL,
     "keep the scores of edges at every token position, of prompts of one length"},
    {"method.bootstrap", CA_OPTION_INT, "0", "0..10000", NULL,
     "resamples of the pairs for 95 % intervals of the scores; 0 = none"},
    {"method.kv_columns", CA_OPTION_CHOICE, "query", NULL, "query|native",
     "k and v inputs of grouped-query attention: one per query head, or one per key/value head, "
     "whose score is the sum over its query heads; without gradients its own: exact patching "
     "ablates it for all of them, information-flow gives its share of what reaches each"},
    {"method.compare", CA_OPTION_CHOICES, "[]", NULL, EAP_VARIANTS,
     "other variants whose edge scores are set beside these: correlations, and what the edges with "
     "the largest |score|, 0.001 to 1 of all in ten steps, not pruned, have in common, whatever "
     "method.circuit picks"},
    EAP_CIRCUIT_OPTIONS,
    {"method.evaluate.truth", CA_OPTION_TEXT, "", NULL, NULL,
     ".json or .h5 file whose circuit is the true one: area under the ROC curve of the scores of "
     "edges, nodes or, by its masks, neurons, and what the circuits share with it"},
    {"method.batch_size", CA_OPTION_INT, "20", "1..", NULL,
     "with compat: pairs in a batch of the peer, by which it divides the scores that gradients "
     "make of them"},
    {"method.compat", CA_OPTION_CHOICE, "none", NULL, "none|eap-ig|mib",
     "conventions of a peer: eap-ig and mib divide scores that gradients make of a pair by the "
     "size of its batch, let every path of ig-activations score all edges, take one mean for all "
     "sources, and have patching alone for ig-inputs; mib runs circuits with patching whatever "
     "found them"},
    {0},
};

static const char *const conventions[] = {
    "loss: minus the metric (plus it for kl, js, rank); score: mean over pairs of the change of "
    "the loss when the edge is ablated, to first order; positive: the edge supports the task",
    "an edge's input is the residual stream before the norm that reads it; heads are nodes without "
    "the output bias, MLPs with theirs, the input is the token embedding without positions; k and "
    "v have one column per query head",
    "rule: points alpha of a path, 0 = corrupted, 1 = clean: left k/m, right (k+1)/m, midpoint "
    "(k+1/2)/m, k = 0 .. m-1; gauss-legendre",
    "ig-activations: a path scores the edges that leave its own site, with weights 1/m, for hidden "
    "units a layer of them; compat eap-ig: all edges, with weights 1/(m (2 L + 1))",
    "compat eap-ig, mib: scores of a pair made by gradients are divided by the size of its batch "
    "before the mean, those of exact and information-flow are not; of divergences by that of the "
    "vocabulary too, but for information-flow, which has no metric; nodes take the rule right; "
    "ablation mean: all sources have the same mean, over sources and prompts, of the output at the "
    "last token divided by the prompt's length",
    "continuation, continuation_diff: every token of prompt and continuation is scored; of two "
    "continuations the scores are sums over both",
    "precision bf16: the difference of outputs and the gradient that make an edge's score are "
    "rounded to bf16, their products summed in float32",
    "a node's score is the sum of those of the edges that leave it; with exact at level node it is "
    "what ablating all of them at once changes",
    "a circuit of neurons has every edge out of a node that keeps one; who reads such a node has "
    "its own output in the coordinates kept, the ablated one in the others",
    "hidden units are ablated before the MLP's output projection, whose bias stays",
    "circuits: the edges asked for, pruned; faithfulness: (mean metric of the circuit - ablated) / "
    "(clean - ablated), a ratio of means; cpr, cmd: areas under it and under |1 - it| over the "
    "share of edges asked for, by the trapezoid rule (MIB takes cpr with circuit.absolute false, "
    "cmd with true)",
    "residual: change of the loss between the ends minus what the input's node explains of it",
    NULL,
};
static const char *const headlines[] = {"/baseline@clean_mean",    "/baseline@corrupted_mean",
                                        "/baseline@accuracy",      "/faithfulness@cpr",
                                        "/faithfulness@cmd",       "/edges@auroc",
                                        "/edges@auroc_absolute",   "/nodes@auroc",
                                        "/nodes@auroc_absolute",   "/neurons@auroc",
                                        "/neurons@auroc_absolute", NULL};

static void release(void *state) {
    eap *e = state;
    if (!e) return;
    for (int64_t i = 0; i < e->compared_count; i++) release(e->compared[i]);
    free(e->compared);
    ca_eap_faithfulness_free(e->faithfulness);
    ca_circuit_file_free(&e->truth);
    ca_eap_attribute_free(e);
    ca_packing_free(&e->packing);
    ca_metric_close(&e->metric);
    free(e->sites);
    free(e->points);
    free(e);
}

/* Circuits are run with corrupted prompts. */
static bool evaluates_patching(const eap *e) {
    return e->faithfulness && e->faithfulness->evaluate && !e->faithfulness->whole;
}

static ca_status check_answers(const ca_job *job, const ca_example *e) {
    for (int64_t i = 0; i < e->wrong.count; i++)
        if (ca_metric_is_answer(&e->answer, e->wrong.ids[i]))
            return ca_fail(CA_E_DATA,
                           "%s: column wrong: expected tokens other than those of answer, got "
                           "token %d in both",
                           ca_example_place(job->data, e), e->wrong.ids[i]);
    return CA_OK;
}

static ca_status check_examples(const ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    ca_row_problems problems = {0};
    bool pairs = evaluates_patching(e) || !ca_eap_runs_whole(e);
    for (int64_t i = 0; i < e->compared_count; i++) pairs |= !ca_eap_runs_whole(e->compared[i]);
    for (int64_t i = 0; i < job->data->count; i++) {
        const ca_example *example = &job->data->examples[i];
        if (pairs)
            CA_TRY(ca_row_problems_take(
                &problems, ca_method_check_pair(job->data, example, "ablation patching")));
        CA_TRY(ca_row_problems_take(&problems, check_answers(job, example)));
    }
    CA_TRY(ca_row_problems_report(&problems));
out:
    ca_row_problems_free(&problems);
    return st;
}

/* MIB measures circuits by patching whatever they were found by. */
static bool evaluates_whole(const ca_job *job, const eap *e) {
    bool mib = strcmp(ca_config_text(job->config, "method.compat"), "mib") == 0;
    return e->ablation.kind != EAP_PATCHING && !mib;
}

static ca_status prepare(const ca_job *job, ca_plan *plan, void **state) {
    ca_status st = CA_OK;
    eap *e = NULL;
    CA_TRY(ca_calloc(1, sizeof *e, &e));
    CA_TRY(ca_eap_read_options(job, NULL, e));
    CA_TRY(ca_eap_plan(job, e, plan));
    CA_TRY(ca_eap_faithfulness_prepare(job, &e->sums.graph, &e->metric, evaluates_whole(job, e),
                                       e->level, plan, &e->faithfulness));
    if (e->faithfulness && e->faithfulness->whole && e->ablation.kind == EAP_ONE_MEAN) {
        st = ca_config_fail(job->config, "method.evaluate.faithfulness",
                            "expected compat none or mib with ablation mean: circuits are run with "
                            "a mean for each source");
        goto out;
    }
    CA_TRY(ca_eap_truth_read(job, e));
    if (e->faithfulness && e->truth.in) e->faithfulness->truth = &e->truth;
    CA_TRY(ca_eap_compare_prepare(job, e, plan));
    CA_TRY(check_examples(job, e));
    *state = e;
    return CA_OK;
out:
    release(e);
    return st;
}

/* ---- run ---- */

/* The mean scores that circuits are made of: [F, R] with NaN where there is no edge, [F] or [F, D].
 */
static ca_status mean_scores(const eap *e, double **out) {
    ca_status st = CA_OK;
    const eap_sums *s = &e->sums;
    const double *sum = e->level == EAP_EDGES   ? s->edge
                        : e->level == EAP_NODES ? s->node
                                                : s->neuron;
    int64_t count = ca_eap_sums_scores(s);
    CA_TRY(ca_calloc((size_t)count, sizeof **out, out));
    for (int64_t i = 0; i < count; i++)
        (*out)[i] = ca_eap_sums_has(s, i) ? sum[i] / (double)e->job->data->count : NAN;
out:
    return st;
}

/* Counts examples behind those of the attribution. */
static ca_status evaluate(ca_job *job, eap *e, int64_t *done) {
    ca_status st = CA_OK;
    double *score = NULL;
    int64_t count = job->data->count, ran = 0;
    int64_t first = job->resume_at > count ? job->resume_at - count : 0;
    if (!e->faithfulness || first == count) return CA_OK;
    CA_TRY(mean_scores(e, &score));
    st = ca_eap_faithfulness_run(e->faithfulness, job, e->faithfulness->whole ? &e->ablation : NULL,
                                 score, first, &ran);
    *done = count + ran;
out:
    free(score);
    return st;
}

static ca_status compute(ca_job *job, eap *e, int64_t *done) {
    ca_status st = CA_OK;
    *done = job->resume_at;
    CA_TRY(ca_eap_make_means(e));
    if (job->resume_at < job->data->count)
        CA_TRY(ca_method_run_batches(job, &e->packing, "eap", ca_eap_attribute, e, done));
    ca_eap_attribute_release(e);
    CA_TRY(evaluate(job, e, done));
    CA_TRY(ca_eap_compare(job, e));
out:
    return st;
}

/* Circuits of a file are run without scores of our own. */
static ca_status run_given(ca_job *job, eap *e, int64_t *done) {
    ca_status st = CA_OK;
    if (job->resume_at == 0) CA_TRY(ca_method_write_data(job));
    if (e->ablation.positions) {
        CA_TRY(ca_eap_attribute_create(e));
        CA_TRY(ca_eap_make_means(e));
        ca_eap_attribute_release(e);
    }
    CA_TRY(ca_eap_faithfulness_run(e->faithfulness, job,
                                   e->faithfulness->whole ? &e->ablation : NULL, NULL,
                                   job->resume_at, done));
out:
    return st;
}

static ca_status run(ca_job *job, void *state, int64_t *done) {
    ca_status st = CA_OK;
    eap *e = state;
    e->job = job;
    if (e->faithfulness && !ca_eap_faithfulness_needs_score(e->faithfulness))
        return run_given(job, e, done);
    CA_TRY(ca_eap_attribute_create(e));
    if (job->resume_at == 0) {
        CA_TRY(ca_method_write_data(job));
        CA_TRY(ca_eap_reserve(job, e));
    } else {
        CA_TRY(ca_eap_sums_restore(&e->sums, job->result));
    }
    st = compute(job, e, done);
    if (st == CA_E_PREEMPTED || st == CA_E_INTERRUPT) {
        ca_status saved = ca_eap_sums_save(&e->sums, job->result);
        st = saved == CA_OK ? st : saved;
    }
    CA_TRY(st);
    CA_TRY(ca_eap_write_scores(job, e));
    CA_TRY(ca_eap_write_comparison(job, e));
    CA_TRY(ca_eap_write_truth(job, e));
out:
    return st;
}

static ca_status answer(ca_job *job, void *state, ca_string *text) {
    ca_status st = CA_OK;
    const eap *e = state;
    if (!e->faithfulness || ca_eap_faithfulness_needs_score(e->faithfulness))
        CA_TRY(ca_eap_answer(job, state, text));
    if (e->truth.in && !e->given)
        CA_TRY(ca_string_printf(text, "the true circuit: AUROC %.3f, by |score| %.3f\n", e->auroc,
                                e->auroc_absolute));
    CA_TRY(ca_eap_compare_answer(e, text));
    if (e->faithfulness) CA_TRY(ca_eap_faithfulness_answer(e->faithfulness, job, text));
out:
    return st;
}

const ca_method ca_method_eap = {
    .kind = "eap",
    .summary = "edge attribution: which edges of the computation graph carry the answer",
    .options = options,
    .prepare = prepare,
    .run = run,
    .answer = answer,
    .release = release,
    .conventions = conventions,
    .headlines = headlines,
};
