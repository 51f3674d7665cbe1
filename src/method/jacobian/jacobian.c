/* SPDX-License-Identifier: MIT
 *
 * Method `jacobian`: which input tokens move the prediction.
 *
 * Per micro-batch of packed prompts, each cut after the last position that is read: one forward,
 * the vectors of all scopes and positions as lanes of the backward, one reduction per lane.
 */
#include "jacobian.h"
#include "randomise.h"

#include "causa/ops.h"

#include <stdlib.h>
#include <string.h>

enum { TOP = 30, STEPS = 10, COMPAT_STEPS = 5 /* 0.2, 0.4 .. 1 */ };

static const ca_option options[] = {
    {"method.scopes", CA_OPTION_CHOICES, "[semantic]", NULL,
     "semantic|temperature|fisher|input_x_gradient|integrated_gradients|path_semantic",
     "scopes to compute; the first four all from one forward and one backward, the others from one "
     "of each at every node of a path from method.baseline to the prompt"},
    {"method.target", CA_OPTION_TEXT, "gold", NULL, NULL,
     "what is explained: gold (the prompt's next token, at its end the answer), argmax, one token "
     "as text or #id, A:B for a difference of logits, answer:wrong for that of the row's columns, "
     "answer_text (all tokens of the row's continuation, as one span behind the prompt)"},
    {"method.position", CA_OPTION_ANY, "last", NULL, NULL,
     "tokens whose prediction is read: last, all, an index or a list of indices (negative from the "
     "end), subject, {after: \"text\"}; several give a matrix of targets and sources"},
    {"method.span", CA_OPTION_BOOL, "false", NULL, NULL,
     "explain the sum over all positions of a prompt, from one backward, in place of a matrix"},
    {"method.rank", CA_OPTION_INT, "1", "1..", "full",
     "eigenpairs of the Fisher information that the fisher scope keeps; full: all, the exact "
     "trace"},
    {"method.fisher.estimator", CA_OPTION_CHOICE, "eigen", NULL, "eigen|hutchinson",
     "fisher scope from the largest eigenpairs, or the full trace without bias from random probes "
     "with a standard error"},
    {"method.fisher.probes", CA_OPTION_INT, "16", "2..", NULL,
     "probes of the hutchinson estimator: its error falls as 1 / sqrt(probes)"},
    {"method.layer", CA_OPTION_INT, "0", "0..", NULL,
     "leaf: 0 the token embeddings, l the residual stream that enters block l"},
    {"method.words", CA_OPTION_CHOICE, "auto", NULL, "auto|sum|max|mean",
     "how the scores of a word's tokens become one score of the word; of matrices rows and "
     "columns, "
     "where it is asked for; auto: the sum, not of matrices"},
    {"method.steps", CA_OPTION_INT, "auto", "1..", "auto",
     "nodes of integrated_gradients and path_semantic; auto: 10, with compat the published 5"},
    {"method.baseline", CA_OPTION_TEXT, "zero", NULL, NULL,
     "embeddings at which such paths begin, at every token: zero, mean (of the vocabulary), the "
     "tokenizer's bos, eos or pad, or a token as text or #id"},
    {"method.compat", CA_OPTION_CHOICE, "none", NULL, "none|jacobian-scopes",
     "jacobian-scopes: paths with the nodes and weights of the published code, not by the midpoint "
     "rule, and input_x_gradient of the log-probability, not of the logit"},
    {"method.evaluate.aopc.fractions", CA_OPTION_FLOATS, "?[0.05, 0.1, 0.2]", "(0..1]", NULL,
     "rising fractions of the tokens to ablate, highest scores first; aopc: {} takes the default"},
    {"method.evaluate.aopc.ablation", CA_OPTION_CHOICE, "?zero", NULL, "zero|pad|mean|delete",
     "an ablated token's embedding becomes zero, that of another token or the vocabulary's mean, "
     "or the token is left out"},
    {"method.evaluate.aopc.pad", CA_OPTION_TEXT, "", NULL, NULL,
     "token that ablation pad puts in, as text or #id; default: the tokenizer's pad token"},
    {"method.evaluate.randomise.fractions", CA_OPTION_FLOATS, "?[0.25, 0.5, 1]", "0..1", NULL,
     "rising fractions of the blocks, from the top, that get random weights: how far the scores "
     "then agree with the model's"},
    {"method.evaluate.loo", CA_OPTION_ANY, "false", NULL, NULL,
     "true or {}: zero each token alone and compare the change of the distribution with the "
     "scores"},
    {0},
};

static const char *const conventions[] = {
    "score: Euclidean norm over the embedding dimension of the gradient of the target logit (not "
    "log-probability) with respect to the embedding that enters the first block, or the residual "
    "stream at method.layer; unsigned, not normalised",
    "signed: gradient . input, the dot product of the gradient and the leaf's value (of GPT-2 the "
    "token embedding without its position)",
    "input_x_gradient: of the logit; with compat jacobian-scopes of the log-probability, whose "
    "negative, the cross-entropy, is the published loss. integrated_gradients: of the "
    "log-probability, its gradients averaged over the midpoints of method.steps intervals of [0, "
    "1]; with compat over k / steps and each times k / steps, as published. path_semantic: of the "
    "logit, over the same midpoints; with compat over k / steps, times (steps - 1) / steps. Paths "
    "run from method.baseline b, e = b + alpha (x - b), and gradients are multiplied by x - b; "
    "with a leaf behind block 0 x is the prompt's residual stream there and b that of a prompt of "
    "such embeddings, of zero the zero vector",
    "fisher with estimator hutchinson: mean over probes of |J^T v|^2, v = sum of +-sqrt(p) (w - "
    "mu); "
    "standard_error: sample standard deviation over the probes / sqrt(probes)",
    "fisher: root is the square root of score, on the scale of the norms; predicted_kl: 1/2 sum of "
    "lambda (u^T J x)^2, the divergence in nats that zeroing the token's leaf causes, to second "
    "order and of the eigenpairs kept (loo measures it)",
    "tokens after the position that is read score exactly 0; a BOS token is scored like any other",
    "a span: the target is the sum over its positions of their targets' logits "
    "(integrated_gradients: "
    "log-probabilities); target answer_text: the continuation's tokens follow the prompt in "
    "/data/tokens and are scored as inputs too",
    "word_score: sum, largest or mean (method.words) of the scores of the tokens of a word; a word "
    "holds the white space before it, of a series of numbers each number is a word and so "
    "is what stands between two; the sum of norms is at least the norm of the sum; word_signed: "
    "the same of signed, the largest by magnitude; its sums add up as those of tokens do",
    "word_matrix, word_signed_matrix: the same over all tokens of both words, the explained one "
    "and "
    "the source; a row is of the word that holds the token behind the positions read",
    "target gold at position last without an answer: the prompt's last token is the target and the "
    "token before it is read",
    "aopc: area over the fractions, by the trapezoid rule, of log p(c | ablated) - log p(c | "
    "clean) in nats, c the most probable token of the clean run; more negative is better; sem: "
    "sample standard deviation over prompts / sqrt(n); published_sem takes intervals as "
    "independent",
    "paired_interval: half the 95 % interval (Student's t) of the mean difference of aopc to "
    "paired_with over prompts; paired_wilcoxon: two-sided p of the signed-rank test (normal "
    "approximation, zeros left out); aligned_*: the same of the prompts whose target is the "
    "prediction",
    "whole words: prompts whose target token begins with white space, apart from those whose "
    "target continues a word (aopc_whole_words, aopc_word_parts)",
    "ablated tokens: max(1, floor(f n)) of n tokens at fraction f, highest scores first, ties by "
    "position; n counts the tokens up to the one read, a BOS excluded, and the slot of a target "
    "that the prompt holds; at most all but that slot, of a prompt without BOS all but one when "
    "deleted",
    "loo: sum P (log P - log Q) in nats, P clean, Q with the embedding of one token zero; spearman "
    "and kendall (tau-b) over the same tokens without the target's slot; top1_percentile: 100 R / "
    "n, R tokens have a larger divergence than the best-scored one; top10_jaccard: of the "
    "ceil(n / 10) tokens that scores and divergences put first, the shared ones as a share of "
    "those "
    "in either",
    "scope random: of aopc tokens, of loo scores drawn from seed and prompt",
    "randomise: spearman and top10_jaccard of scores and those with the upper blocks as before "
    "training (matrices normal with deviation initializer_range of the model's config, biases 0, "
    "norm gains 1), over the tokens that loo ranks; embeddings, final norm, unembedding and target "
    "unchanged; _floor: means over 20 random orders of the scores",
    NULL,
};
static const char *const headlines[] = {"/baseline@accuracy", "/baseline@clean_mean", NULL};

/* ---- prepare ---- */

static ca_status choose_scopes(const ca_job *job, jacobian *j) {
    const char *path = "method.scopes";
    for (int64_t i = 0, n = ca_config_count(job->config, path); i < n; i++) {
        const jacobian_scope *scope =
            ca_jacobian_scope_find(ca_config_text_at(job->config, path, i));
        for (int64_t k = 0; k < j->columns; k++)
            if (j->column[k].scope == scope)
                return ca_config_fail(job->config, path, "expected every scope once, got %s twice",
                                      scope->name);
        int64_t lanes = scope->path ? 0 : scope->lanes(j);
        j->column[j->columns++] =
            (jacobian_column){.scope = scope, .lanes = lanes, .first_lane = j->lanes};
        j->lanes += lanes;
    }
    if (j->columns == 0) return ca_config_fail(job->config, path, "expected at least one scope");
    return CA_OK;
}

/* A sum over positions needs something to be summed. */
static ca_status check_span(const ca_job *job, const jacobian *j) {
    for (int64_t c = 0; j->reads.span && c < j->columns; c++)
        if (!j->column[c].scope->of_target)
            return ca_config_fail(job->config, "method.scopes",
                                  "expected scopes that explain a target with a span, got %s",
                                  j->column[c].scope->name);
    return CA_OK;
}

static bool has_path(const jacobian *j) { return ca_jacobian_paths_of_slot(j) > 0; }

static ca_status read_path(const ca_job *job, jacobian *j) {
    j->compat = strcmp(ca_config_text(job->config, "method.compat"), "none") != 0;
    j->steps = ca_config_is_word(job->config, "method.steps")
                   ? (j->compat ? COMPAT_STEPS : STEPS)
                   : ca_config_int(job->config, "method.steps");
    return has_path(j) ? ca_jacobian_read_baseline(job, j) : CA_OK;
}

/* Probes, or eigenpairs; of these more than the width of the model are refused. */
static ca_status choose_rank(const ca_job *job, jacobian *j) {
    if (strcmp(ca_config_text(job->config, "method.fisher.estimator"), "hutchinson") == 0)
        j->probes = ca_config_int(job->config, "method.fisher.probes");
    j->rank = job->arch->width;
    if (ca_config_is_word(job->config, "method.rank")) return CA_OK;
    j->rank = ca_config_int(job->config, "method.rank");
    if (j->rank <= job->arch->width) return CA_OK;
    return ca_config_fail(job->config, "method.rank",
                          "expected at most the model's width %lld, got %lld",
                          (long long)job->arch->width, (long long)j->rank);
}

static bool has_fisher(const jacobian *j) {
    for (int64_t c = 0; c < j->columns; c++)
        if (j->column[c].scope->combine == COMBINE_SUM_SQUARES) return true;
    return false;
}

static int64_t fisher_bytes(const jacobian *j, const ca_job *job) {
    if (!has_fisher(j)) return 0;
    if (j->probes)
        return ca_jacobian_hutchinson_bytes(job->arch, job->dtype, j->most_reads, j->probes);
    return ca_jacobian_fisher_bytes(job->arch, job->dtype, j->most_reads, j->rank);
}

static int64_t fisher_host_bytes(const jacobian *j, const ca_job *job) {
    if (!has_fisher(j)) return 0;
    if (j->probes) return ca_jacobian_hutchinson_host_bytes(job->arch);
    return j->most_reads * j->rank * (int64_t)sizeof(double) +
           ca_jacobian_fisher_host_bytes(job->arch, job->dtype, j->most_reads, j->rank);
}

static double fisher_flops(const jacobian *j, const ca_job *job) {
    if (!has_fisher(j)) return 0;
    if (j->probes) return 2.0 * (double)(j->probes * job->arch->vocab * job->arch->width);
    return ca_jacobian_fisher_flops(job->arch, j->rank);
}

static ca_status choose_layer(const ca_job *job, jacobian *j) {
    j->layer = ca_config_int(job->config, "method.layer");
    if (j->layer < job->arch->layers) return CA_OK;
    return ca_config_fail(job->config, "method.layer", "expected a layer below %lld, got %lld",
                          (long long)job->arch->layers, (long long)j->layer);
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* Sizes that depend on the cut into micro-batches. */
static void measure_batches(jacobian *j) {
    j->most_reads = j->most_scores = 1;
    for (int64_t b = 0; b < j->packing.batches; b++) {
        int64_t first = j->packing.first[b], last = j->packing.first[b + 1];
        int64_t reads = j->reads.start[last] - j->reads.start[first];
        int64_t scores = j->score_start[last] - j->score_start[first];
        if (reads > j->most_reads) j->most_reads = reads;
        if (scores > j->most_scores) j->most_scores = scores;
    }
}

/* Gradients of log-probabilities take the softmax of all reads at once; the entropy, of some at a
 * time. */
static int64_t probability_rows(const jacobian *j) {
    bool all = has_path(j) || j->compat || j->most_reads < JACOBIAN_ENTROPY;
    return all ? j->most_reads : JACOBIAN_ENTROPY;
}

/* The tensors of the method; with buffers == NULL they are only measured. */
static int64_t take_tensors(jacobian *j, const ca_job *job, method_buffers *buffers) {
    int64_t n = j->most_reads, width = job->arch->width, rows = j->packing.limits.rows;
    int64_t later_leaf = has_path(j) && j->layer > 0 ? rows : 0;
    ca_dtype dtype = job->dtype;
    const method_tensor list[] = {
        {&j->ids, CA_I32, 1, {n}},
        {&j->others, CA_I32, 1, {n}},
        {&j->slot_rows, CA_I64, 1, {n}},
        {&j->direction, dtype, 2, {n, width}},
        {&j->vectors, dtype, 3, {j->lanes, n, width}},
        {&j->slot_vectors, dtype, 2, {n, width}},
        {&j->cotangents, dtype, 3, {j->tile, n, width}},
        {&j->leaf, dtype, 2, {rows, width}},
        {&j->product, dtype, 2, {rows, width}},
        {&j->path_sum, dtype, 3, {j->path_tile, rows, width}},
        {&j->path_vector, dtype, 2, {has_path(j) ? n : 0, width}},
        {&j->path_baseline, dtype, 2, {has_path(j) ? 1 : 0, width}},
        {&j->path_stream, dtype, 2, {j->baseline ? later_leaf : 0, width}},
        {&j->path_point, dtype, 2, {later_leaf, width}},
        {&j->probability, dtype, 2, {probability_rows(j), job->arch->vocab}},
        {&j->norms, dtype, 1, {rows}},
        {&j->dots, dtype, 1, {rows}},
        {&j->values, dtype, 1, {n}},
        {&j->lse, dtype, 1, {n}},
        {&j->top_values, dtype, 2, {n, j->top}},
        {&j->top_ids, CA_I32, 2, {n, j->top}},
    };
    return ca_method_take_list(buffers, list, sizeof list / sizeof *list);
}

/* Numbers of the largest download. */
static int64_t staged(const jacobian *j) {
    int64_t rows = 2 * j->packing.limits.rows, reads = j->most_reads * (j->top + 1);
    return rows > reads ? rows : reads;
}

static int64_t host_bytes(const jacobian *j, const ca_job *job) {
    int64_t scores = j->columns * 2 * j->most_scores * (int64_t)sizeof(float);
    if (j->probes && has_fisher(j)) scores += j->most_scores * (int64_t)sizeof(double);
    return scores + 2 * staged(j) * (int64_t)sizeof(double) + fisher_host_bytes(j, job);
}

/* Rows of each prompt that are run: up to the last position read. */
static ca_status count_rows(const ca_job *job, jacobian *j, int64_t **lengths, int64_t *tokens) {
    ca_status st = CA_OK;
    int64_t count = job->data->count;
    CA_TRY(ca_calloc((size_t)count + 1, sizeof **lengths, lengths));
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *j->score_start, &j->score_start));
    for (int64_t i = 0; i < count; i++) {
        int64_t rows = ca_jacobian_slots_of(j, i);
        (*lengths)[i] = j->reads.read[j->reads.start[i + 1] - 1].position + 1;
        *tokens += (*lengths)[i];
        j->score_start[i + 1] = j->score_start[i] + rows * job->data->examples[i].clean.count;
    }
out:
    return st;
}

/* Of the nodes, of the baseline, and with an evaluation once more of the prompts. */
static double path_flops(const ca_job *job, const jacobian *j, int64_t tokens, int64_t lanes) {
    const ca_arch *arch = job->arch;
    int64_t layers = arch->layers - j->layer, keys = j->packing.keys;
    if (lanes == 0) return 0;
    int64_t tiles = (lanes + j->path_tile - 1) / j->path_tile;
    double head = ca_flops_head(arch, j->reads.start[job->data->count]);
    double forward = ca_flops_forward(arch, tokens, keys, layers) + head;
    double flops = (double)(1 + j->steps * tiles) * forward;
    flops += (double)j->steps *
             ca_flops_backward(arch, tokens, keys, layers, lanes, j->packing.limits.keep);
    if (j->layer > 0 && j->baseline) flops += ca_flops_forward(arch, tokens, keys, j->layer);
    if (j->evaluation) flops += ca_flops_forward(arch, tokens, keys, arch->layers) + head;
    return flops;
}

static ca_status plan_batches(const ca_job *job, jacobian *j, ca_plan *plan) {
    ca_status st = CA_OK;
    int64_t count = job->data->count, *lengths = NULL, tokens = 0;
    int64_t all = j->lanes * j->slots, batch = job->batch;
    int64_t paths = ca_jacobian_paths_of_slot(j) * j->slots;
    j->path_tile = smaller(paths, JACOBIAN_TILE);
    j->tile = larger(larger(smaller(all, JACOBIAN_TILE), j->path_tile), 1);
    ca_pass_limits limits = {.lanes = j->tile, .logits = true, .key_values = j->evaluation != NULL};
    ca_hook hook = ca_jacobian_path_hook(NULL);
    if (has_path(j)) ca_pass_limits_add_hooks(&limits, &hook, 1);
    CA_TRY(count_rows(job, j, &lengths, &tokens));
    for (;;) { /* fewer rows until pass, batch and the method's tensors fit together */
        CA_TRY(ca_plan_packing(job->arch, job->dtype, &limits, lengths, NULL, count, j->reads.most,
                               batch, job->memory, &j->packing));
        measure_batches(j);
        int64_t bytes = j->packing.bytes + take_tensors(j, job, NULL) + fisher_bytes(j, job) +
                        ca_jacobian_evaluation_bytes(j, job) + ca_jacobian_randomise_bytes(j, job);
        if (bytes <= job->memory || job->batch || j->packing.batches == count) break;
        batch = j->packing.limits.rows / 2 > 1 ? j->packing.limits.rows / 2 : 1;
        ca_packing_free(&j->packing);
    }
    ca_method_plan_packing(&j->packing, plan);
    plan->work_bytes +=
        take_tensors(j, job, NULL) + fisher_bytes(j, job) + ca_jacobian_randomise_bytes(j, job);
    plan->host_bytes += host_bytes(j, job);
    plan->examples = count;
    plan->tokens = tokens;
    plan->lanes = all;
    plan->flops = ca_flops_forward(job->arch, tokens, j->packing.keys, job->arch->layers) +
                  ca_flops_head(job->arch, j->reads.start[count]) +
                  ca_flops_backward(job->arch, tokens, j->packing.keys,
                                    job->arch->layers - j->layer, all, j->packing.limits.keep);
    plan->flops += (double)j->reads.start[count] * fisher_flops(j, job);
    plan->flops += path_flops(job, j, tokens, paths);
    plan->flops *= (double)ca_jacobian_randomise_runs(j);
    ca_jacobian_evaluation_plan(j, job, plan);
out:
    free(lengths);
    return st;
}

static void release(void *state) {
    jacobian *j = state;
    if (!j) return;
    ca_jacobian_evaluation_free(j->evaluation);
    ca_pass_free(j->pass);
    ca_jacobian_randomise_free(j->randomisation); /* has the model that the pass ran */
    ca_batch_free(j->batch);
    ca_method_buffers_free(&j->buffers);
    ca_packing_free(&j->packing);
    ca_jacobian_reads_free(&j->reads);
    ca_jacobian_words_free(&j->words);
    for (int64_t c = 0; c < j->columns; c++) {
        free(j->column[c].score);
        free(j->column[c].signed_score);
        free(j->column[c].squares);
        free(j->column[c].change);
    }
    free(j->score_start);
    free(j->staging);
    free(j->numbers);
    ca_jacobian_fisher_free(j->fisher);
    ca_jacobian_hutchinson_free(j->hutchinson);
    free(j->keys);
    free(j->eigenvalues);
    free(j->residual);
    free(j->row_host);
    free(j->id_host);
    free(j);
}

static ca_status prepare(const ca_job *job, ca_plan *plan, void **state) {
    ca_status st = CA_OK;
    jacobian *j = NULL;
    CA_TRY(ca_calloc(1, sizeof *j, &j));
    CA_TRY(choose_rank(job, j));
    CA_TRY(choose_scopes(job, j));
    CA_TRY(choose_layer(job, j));
    j->top = job->arch->vocab < TOP ? job->arch->vocab : TOP;
    const char *target = ca_config_text(job->config, "method.target");
    j->gold = strcmp(target, "gold") == 0 || strcmp(target, "answer_text") == 0;
    CA_TRY(ca_jacobian_reads(job, &j->reads));
    j->slots = j->reads.span ? 1 : j->reads.most;
    j->matrix = j->slots > 1;
    CA_TRY(check_span(job, j));
    CA_TRY(read_path(job, j));
    CA_TRY(ca_jacobian_words_prepare(job, &j->words));
    CA_TRY(ca_jacobian_evaluation_prepare(job, j));
    CA_TRY(ca_jacobian_randomise_prepare(job, j));
    CA_TRY(plan_batches(job, j, plan));
    *state = j;
    return CA_OK;
out:
    release(j);
    return st;
}

/* ---- run ---- */

static ca_status create_fisher(ca_job *job, jacobian *j) {
    ca_status st = CA_OK;
    size_t reads = (size_t)j->most_reads;
    if (!has_fisher(j)) return CA_OK;
    if (j->probes) {
        CA_TRY(ca_jacobian_hutchinson_create(job->model, j->most_reads, j->probes, &j->hutchinson));
        CA_TRY(ca_calloc(reads, sizeof *j->keys, &j->keys));
    } else {
        CA_TRY(ca_jacobian_fisher_create(job->model, j->most_reads, j->rank, &j->fisher));
        CA_TRY(ca_calloc(reads * (size_t)j->rank, sizeof(double), &j->eigenvalues));
    }
out:
    return st;
}

static ca_status create_scores(jacobian *j) {
    ca_status st = CA_OK;
    size_t most = (size_t)j->most_scores;
    for (int64_t c = 0; c < j->columns; c++) {
        jacobian_column *column = &j->column[c];
        CA_TRY(ca_calloc(most, sizeof *column->score, &column->score));
        CA_TRY(ca_calloc(most, sizeof *column->signed_score, &column->signed_score));
        if (j->probes && column->scope->combine == COMBINE_SUM_SQUARES)
            CA_TRY(ca_calloc(most, sizeof *column->squares, &column->squares));
        if (column->scope->path)
            CA_TRY(ca_calloc((size_t)j->most_reads, sizeof *column->change, &column->change));
    }
out:
    return st;
}

static ca_status create_buffers(ca_job *job, jacobian *j) {
    ca_status st = CA_OK;
    const ca_pass_limits *l = &j->packing.limits;
    CA_TRY(
        ca_batch_create(job->backend, j->packing.max_sequences, l->rows, j->most_reads, &j->batch));
    const ca_model *model;
    CA_TRY(ca_jacobian_randomise_create(j, &model));
    CA_TRY(ca_pass_create(model, l, &j->pass));
    CA_TRY(ca_method_buffers_create(job->backend, (size_t)take_tensors(j, job, NULL), &j->buffers));
    take_tensors(j, job, &j->buffers);
    CA_TRY(ca_calloc((size_t)staged(j), sizeof(double), &j->staging));
    CA_TRY(ca_calloc((size_t)staged(j), sizeof *j->numbers, &j->numbers));
    CA_TRY(create_fisher(job, j));
    CA_TRY(ca_calloc((size_t)larger(j->packing.max_sequences, j->most_reads), sizeof *j->residual,
                     &j->residual));
    CA_TRY(ca_calloc((size_t)j->most_reads, sizeof *j->row_host, &j->row_host));
    CA_TRY(ca_calloc((size_t)j->most_reads, sizeof *j->id_host, &j->id_host));
    CA_TRY(create_scores(j));
    if (has_path(j)) CA_TRY(ca_jacobian_set_baseline(j));
    CA_TRY(ca_jacobian_evaluation_create(j));
out:
    return st;
}

static ca_status make_batch(jacobian *j) {
    ca_batch_clear(j->batch);
    for (int64_t i = j->first; i < j->last; i++) {
        int64_t start = j->reads.start[i], end = j->reads.start[i + 1];
        ca_batch_add(j->batch, j->job->data->examples[i].clean.ids,
                     j->reads.read[end - 1].position + 1, 0, 0);
        for (int64_t r = start; r < end; r++) ca_batch_read(j->batch, j->reads.read[r].position);
    }
    return ca_batch_upload(j->batch);
}

/* Scores of a micro-batch. */
static ca_status score(void *context, int64_t first, int64_t last) {
    ca_status st = CA_OK;
    jacobian *j = context;
    size_t scores = (size_t)(j->score_start[last] - j->score_start[first]);
    j->first = first;
    j->last = last;
    j->n = j->reads.start[last] - j->reads.start[first];
    for (int64_t c = 0; c < j->columns; c++) {
        memset(j->column[c].score, 0, scores * sizeof(float));
        memset(j->column[c].signed_score, 0, scores * sizeof(float));
        if (j->column[c].squares) memset(j->column[c].squares, 0, scores * sizeof(double));
    }
    CA_TRY(make_batch(j));
    ca_forward forward = ca_forward_all(j->job->model, j->batch);
    CA_TRY(ca_pass_forward(j->pass, &forward));
    CA_TRY(ca_jacobian_predict(j));
    CA_TRY(ca_jacobian_set_leaf(j));
    CA_TRY(ca_jacobian_lanes(j));
    CA_TRY(ca_jacobian_paths(j));
    if (has_path(j) && j->evaluation) /* reads the logits, the keys and the values of the prompts */
        CA_TRY(ca_pass_forward(j->pass, &forward));
out:
    return st;
}

static ca_status step(void *context, int64_t first, int64_t last) {
    ca_status st = CA_OK;
    jacobian *j = context;
    CA_TRY(score(j, first, last));
    CA_TRY(ca_jacobian_write_scores(j));
    CA_TRY(ca_jacobian_write_words(j));
    CA_TRY(ca_jacobian_evaluate(j));
out:
    return st;
}

static ca_status run(ca_job *job, void *state, int64_t *done) {
    ca_status st = CA_OK;
    jacobian *j = state;
    j->job = job;
    CA_TRY(ca_jacobian_find_words(job, &j->words));
    if (j->matrix && j->words.asked) CA_TRY(ca_jacobian_find_word_rows(j, job));
    CA_TRY(ca_jacobian_check_gain(j));
    if (job->resume_at == 0) {
        CA_TRY(ca_method_write_data(job));
        CA_TRY(ca_jacobian_reserve(j));
        CA_TRY(ca_jacobian_words_reserve(j));
        CA_TRY(ca_jacobian_evaluation_reserve(j));
    }
    CA_TRY(create_buffers(job, j));
    CA_TRY(ca_method_run_batches(job, &j->packing, "jacobian", step, j, done));
    CA_TRY(ca_jacobian_write_summary(j));
    CA_TRY(ca_jacobian_evaluation_summary(j));
    CA_TRY(ca_jacobian_randomise(j, score));
out:
    return st;
}

const ca_method ca_method_jacobian = {
    .kind = "jacobian",
    .summary = "Jacobian Scopes: which input tokens move the prediction",
    .options = options,
    .prepare = prepare,
    .run = run,
    .answer = ca_jacobian_answer,
    .release = release,
    .conventions = conventions,
    .headlines = headlines,
};
