/* SPDX-License-Identifier: MIT
 *
 * See edge_slopes.h. A hook at attn_in moves what all heads of a layer read; of what they then
 * project, one head's q, k or v is put into an otherwise clean run.
 */
#include "edge_slopes.h"

#include <string.h>

enum { INPUTS = 3 };
static const ca_site_kind inputs[INPUTS] = {CA_SITE_Q, CA_SITE_K, CA_SITE_V};

static ca_batch *whole_prompt(eap_golden *g, const ca_prompt_text *p) {
    const sequence s = {.ids = p->ids, .count = p->count};
    return batch_of(&g->f, &s, 1, READ_LAST);
}

/* ---- outputs */

double *outputs_of(eap_golden *g, const ca_prompt_text *text) {
    static const ca_site_kind sites[] = {CA_SITE_EMBED, CA_SITE_RESULT, CA_SITE_MLP_OUT};
    enum { SITES = 3 };
    const ca_circuit_graph *graph = &g->graph;
    int64_t rows = text->count, width = graph->width;
    double *out = numbers(&g->f, graph->sources * rows * width);
    tap taps[SITES];
    ca_hook hooks[SITES];
    for (int i = 0; i < SITES; i++) hooks[i] = tap_at(&g->f, &taps[i], sites[i]);
    run_model(&g->f, whole_prompt(g, text), (ca_pass_limits){0}, hooks, SITES);
    for (int64_t u = 0; u < graph->sources; u++) {
        ca_circuit_place place = ca_circuit_source_place(graph, u);
        int site = place.layer < 0 ? 0 : place.head >= 0 ? 1 : 2;
        int64_t heads = site == 1 ? graph->heads : 1, head = site == 1 ? place.head : 0;
        const double *value = taps[site].value[place.layer + 1];
        for (int64_t t = 0; t < rows; t++)
            memcpy(out + (u * rows + t) * width, value + (t * heads + head) * width,
                   (size_t)width * sizeof *out);
    }
    return out;
}

/* Adds a share of a prompt's outputs, averaged over its tokens or token by token. */
static void add_mean(const ca_circuit_graph *graph, const double *outputs, int64_t length,
                     bool positional, double share, double *mean, int64_t rows) {
    for (int64_t u = 0; u < graph->sources; u++)
        for (int64_t t = 0; t < rows; t++)
            for (int64_t from = 0; from < length; from++)
                for (int64_t d = 0; d < graph->width; d++) {
                    double weight = positional ? (from == t) : 1 / (double)length;
                    mean[(u * rows + t) * graph->width + d] +=
                        share * weight * outputs[(u * length + from) * graph->width + d];
                }
}

/* Adds a share of the peers' vector to every source and token: the mean over sources of the output
 * at a prompt's last token, divided by the prompt's length. */
static void add_one_mean(const ca_circuit_graph *graph, const double *outputs, int64_t length,
                         double share, double *mean, int64_t rows) {
    share /= (double)(graph->sources * length);
    for (int64_t from = 0; from < graph->sources; from++)
        for (int64_t i = 0; i < graph->sources * rows; i++)
            for (int64_t d = 0; d < graph->width; d++)
                mean[i * graph->width + d] +=
                    share * outputs[(from * length + length - 1) * graph->width + d];
}

double *ablated_outputs_of(eap_golden *g, int64_t n, eap_ablation_kind ablation) {
    const ca_example *e = &g->data.examples[n];
    int64_t rows = e->clean.count;
    if (ablation == EAP_PATCHING) return outputs_of(g, &e->corrupted);
    double *out = numbers(&g->f, g->graph.sources * rows * g->graph.width);
    for (int64_t i = 0; i < g->data.count && ablation != EAP_ZERO; i++) {
        const ca_prompt_text *clean = &g->data.examples[i].clean;
        const double *outputs = outputs_of(g, clean);
        double share = 1 / (double)g->data.count;
        if (ablation == EAP_ONE_MEAN)
            add_one_mean(&g->graph, outputs, clean->count, share, out, rows);
        else
            add_mean(&g->graph, outputs, clean->count, ablation == EAP_MEAN_POSITIONAL, share, out,
                     rows);
    }
    return out;
}

/* ---- slopes */

typedef struct probe {
    eap_golden *g;
    const ca_example *e;
    ca_batch *batch;
    double *clean, *ablated; /* [F, T, D] */
    ca_tensor step;          /* [T, D] ablated_u - clean_u */
    double epsilon;
} probe;

static const double small = 1e-4;

static double loss_of(probe *p, const ca_hook *hooks, int64_t count) {
    fixture *f = &p->g->f;
    ca_pass *pass = run_model(f, p->batch, (ca_pass_limits){0}, hooks, count);
    const double *logits = values_of(f, ca_pass_logits(pass));
    return logits[p->e->wrong.ids[0]] - logits[p->e->answer.ids[0]];
}

static void set_step(probe *p, int64_t source) {
    int64_t rows = p->e->clean.count, count = rows * p->g->graph.width;
    double *step = numbers(&p->g->f, count);
    for (int64_t i = 0; i < count; i++)
        step[i] = p->ablated[source * count + i] - p->clean[source * count + i];
    p->step = tensor_of(&p->g->f, 2, (int64_t[]){rows, p->g->graph.width}, step);
}

static ca_status move(void *context, const ca_hook_call *call, ca_tensor value) {
    const probe *p = context;
    return ca_add(call->backend, value, p->step, p->epsilon);
}

static ca_hook move_at(probe *p, ca_site_kind site, int64_t layer) {
    return (ca_hook){.site = site,
                     .first_layer = layer,
                     .last_layer = layer,
                     .edits = true,
                     .forward = move,
                     .context = p};
}

static double slope_at(probe *p, ca_site_kind site, int64_t layer) {
    double loss[2];
    ca_hook hook = move_at(p, site, layer);
    for (int i = 0; i < 2; i++) {
        p->epsilon = i ? small : -small;
        loss[i] = loss_of(p, &hook, 1);
    }
    return (loss[1] - loss[0]) / (2 * small);
}

/* Adds slopes at q [H], k [K], v [K] of a layer. */
static void add_slopes_at_heads(probe *p, int64_t layer, double *slope[INPUTS]) {
    fixture *f = &p->g->f;
    const ca_arch *a = &f->model->arch;
    int64_t rows = p->e->clean.count;
    for (int sign = -1; sign <= 1; sign += 2) {
        tap moved[INPUTS];
        ca_hook hooks[1 + INPUTS] = {move_at(p, CA_SITE_ATTN_IN, layer)};
        p->epsilon = sign * small;
        for (int i = 0; i < INPUTS; i++) hooks[1 + i] = tap_at(f, &moved[i], inputs[i]);
        loss_of(p, hooks, 1 + INPUTS);
        for (int i = 0; i < INPUTS; i++) {
            int64_t heads = ca_site_heads(a, inputs[i]);
            ca_tensor all =
                tensor_of(f, 3, (int64_t[]){rows, heads, a->head_dim}, moved[i].value[layer + 1]);
            for (int64_t h = 0; h < heads; h++) {
                patch one = {.source = ca_tensor_slice(all, 1, h, 1), .head = h};
                ca_hook hook = patch_at(&one, inputs[i], layer);
                slope[i][h] += sign * loss_of(p, &hook, 1) / (2 * small);
            }
        }
    }
}

/* Puts the scores of a layer's heads beside their slopes; where query heads share keys and values,
 * their columns together are one slope. Returns how many there are. */
static int64_t heads_of(probe *p, const double *row, int64_t layer, double *slope, double *score) {
    const ca_circuit_graph *graph = &p->g->graph;
    const ca_arch *a = &p->g->f.model->arch;
    int64_t count = 0;
    double *at[INPUTS];
    for (int i = 0; i < INPUTS; i++) {
        int64_t heads = ca_site_heads(a, inputs[i]), share = graph->heads / heads;
        int64_t column = ca_circuit_column(graph, layer, (ca_circuit_input)i);
        at[i] = slope + count;
        for (int64_t h = 0; h < graph->heads; h++) score[count + h / share] += row[column + h];
        count += heads;
    }
    add_slopes_at_heads(p, layer, at);
    return count;
}

static void compare_source(probe *p, const double *row, int64_t u) {
    fixture *f = &p->g->f;
    const ca_circuit_graph *graph = &p->g->graph;
    int64_t last = graph->destinations - 1, count = 0;
    double *slope = numbers(f, graph->destinations), *score = numbers(f, graph->destinations);
    set_step(p, u);
    for (int64_t l = 0; l < graph->layers; l++) {
        int64_t mlp = ca_circuit_column(graph, l, CA_CIRCUIT_MLP);
        if (u < ca_circuit_parents(graph, mlp)) {
            score[count] = row[mlp];
            slope[count++] = slope_at(p, CA_SITE_MLP_IN, l);
        }
        if (u < ca_circuit_parents(graph, ca_circuit_column(graph, l, CA_CIRCUIT_Q)))
            count += heads_of(p, row, l, slope + count, score + count);
    }
    score[count] = row[last];
    slope[count++] = slope_at(p, CA_SITE_RESID_POST, graph->layers - 1);
    /* off by about the third derivative times small^2, and by 1e-16 / small */
    near(f, "slope", score, slope, count, 1e-6);
}

void like_slopes(eap_golden *g, int64_t n, eap_ablation_kind ablation, const double *edge) {
    const ca_example *e = &g->data.examples[n];
    probe p = {.g = g,
               .e = e,
               .batch = whole_prompt(g, &e->clean),
               .clean = outputs_of(g, &e->clean),
               .ablated = ablated_outputs_of(g, n, ablation)};
    for (int64_t u = 0; u < g->graph.sources; u++)
        compare_source(&p, edge + u * g->graph.destinations, u);
}
