/* SPDX-License-Identifier: MIT
 *
 * A circuit evaluated node by node, in topological order, from its definition alone:
 *
 *   x_v = background + sum over kept u -> v of out_u + sum over the others of ablated_u
 *
 * where of out_u the neurons that a mask leaves out are those of ablated_u.
 * Each head and MLP is run by a pass over its one block that starts from its own input; the sums
 * are made here, in float64. Knows neither lanes, nor deltas, nor prefixes.
 */
#include "eap_setting.h"

#include <string.h>

typedef struct slow {
    eap_setting *s;
    const ca_circuit *circuit;
    ca_batch *batch; /* the clean prompt */
    int64_t rows;
    double *now, *ablated; /* [F, T, D] outputs in this run, and ablated ones */
    double *positions;     /* [T, D] */
} slow;

static int64_t size_of(const slow *w) { return w->rows * w->s->f->width; }

static void add_to(double *sum, const double *x, int64_t count) {
    for (int64_t i = 0; i < count; i++) sum[i] += x[i];
}

/* ---- outputs of plain runs */

/* Heads' results [T, H, D] as [H][T, D]. */
static void spread_heads(const slow *w, const double *result, double *out) {
    int64_t heads = w->s->graph.heads, d = w->s->f->width;
    for (int64_t t = 0; t < w->rows; t++)
        for (int64_t h = 0; h < heads; h++)
            memcpy(out + (h * w->rows + t) * d, result + (t * heads + h) * d,
                   (size_t)d * sizeof *out);
}

static double *outputs_of(slow *w, const ca_prompt_text *text) {
    fixture *f = w->s->f;
    const ca_circuit_graph *g = &w->s->graph;
    double *out = numbers(f, g->sources * size_of(w));
    sequence q = {.ids = text->ids, .count = text->count};
    tap embed, result, mlp;
    ca_hook hooks[] = {tap_at(f, &embed, CA_SITE_EMBED), tap_at(f, &result, CA_SITE_RESULT),
                       tap_at(f, &mlp, CA_SITE_MLP_OUT)};
    run_model(f, batch_of(f, &q, 1, READ_LAST), (ca_pass_limits){0}, hooks, 3);
    memcpy(out, embed.value[0], (size_t)size_of(w) * sizeof *out);
    for (int64_t l = 0; l < f->layers; l++) {
        spread_heads(w, result.value[l + 1], out + ca_circuit_head(g, l, 0) * size_of(w));
        memcpy(out + ca_circuit_mlp(g, l) * size_of(w), mlp.value[l + 1],
               (size_t)size_of(w) * sizeof *out);
    }
    return out;
}

static double *positions_of(slow *w) {
    const ca_model *m = w->s->f->model;
    double *out = numbers(w->s->f, size_of(w));
    if (m->arch.learned_positions)
        memcpy(out, values_of(w->s->f, m->positions), (size_t)size_of(w) * sizeof *out);
    return out;
}

/* ---- one destination, one node */

/* The output of a source whose edge is kept: neuron by neuron its own, or the ablated one. */
static void add_kept(const slow *w, int64_t u, double *x) {
    const bool *neurons = w->circuit->neurons;
    int64_t d = w->s->f->width, size = size_of(w);
    for (int64_t i = 0; i < size; i++)
        x[i] += (!neurons || neurons[u * d + i % d] ? w->now : w->ablated)[u * size + i];
}

/* biases: output biases of attention before the destination. */
static ca_tensor input_of(const slow *w, int64_t destination, int64_t biases) {
    fixture *f = w->s->f;
    const ca_circuit_graph *g = &w->s->graph;
    int64_t size = size_of(w);
    double *x = numbers(f, size);
    add_to(x, w->positions, size);
    for (int64_t l = 0; l < biases; l++) {
        if (!f->model->layers[l].out_bias.data) continue;
        const double *bias = values_of(f, f->model->layers[l].out_bias);
        for (int64_t t = 0; t < w->rows; t++) add_to(x + t * f->width, bias, f->width);
    }
    for (int64_t u = 0; u < ca_circuit_parents(g, destination); u++) {
        bool kept = w->circuit->edges[u * g->destinations + destination];
        if (kept)
            add_kept(w, u, x);
        else
            add_to(x, w->ablated + u * size, size);
    }
    return tensor_of(f, 2, (int64_t[]){w->rows, f->width}, x);
}

/* Runs block l from `resid` with hooks. */
static void run_block(const slow *w, int64_t l, ca_tensor resid, ca_hook *hooks, int64_t count) {
    ca_pass *pass = pass_for(w->s->f, w->batch, (ca_pass_limits){.layers = 1}, hooks, count);
    ca_forward request = {.batch = w->batch,
                          .first_layer = l,
                          .last_layer = l + 1,
                          .resid = resid,
                          .hooks = hooks,
                          .hook_count = count};
    ok(ca_pass_forward(pass, &request));
}

/* The projection `site` of one head, [T, 1, Dh], when the block reads x. */
static ca_tensor projection(const slow *w, int64_t l, ca_site_kind site, int64_t head,
                            ca_tensor x) {
    fixture *f = w->s->f;
    int64_t dh = f->model->arch.head_dim;
    tap t;
    ca_hook hook = tap_at(f, &t, site);
    run_block(w, l, x, &hook, 1);
    int64_t heads = t.count / (w->rows * dh);
    double *one = numbers(f, w->rows * dh);
    for (int64_t row = 0; row < w->rows; row++)
        memcpy(one + row * dh, t.value[l + 1] + (row * heads + head) * dh,
               (size_t)dh * sizeof *one);
    return tensor_of(f, 3, (int64_t[]){w->rows, 1, dh}, one);
}

static void run_head(slow *w, int64_t l, int64_t head) {
    fixture *f = w->s->f;
    const ca_circuit_graph *g = &w->s->graph;
    const ca_arch *a = &f->model->arch;
    int64_t kv = head / (a->heads / a->kv_heads), u = ca_circuit_head(g, l, head);
    int64_t native[3] = {head, kv, kv}, columns[3];
    static const ca_site_kind sites[3] = {CA_SITE_Q, CA_SITE_K, CA_SITE_V};
    patch parts[3];
    ca_hook hooks[4];
    tap result;
    assert_int_equal(ca_circuit_inputs(g, u, columns), 3);
    ca_tensor x = {0};
    for (int i = 0; i < 3; i++) {
        x = input_of(w, columns[i], l);
        parts[i] = (patch){projection(w, l, sites[i], native[i], x), native[i]};
        hooks[i] = patch_at(&parts[i], sites[i], l);
    }
    hooks[3] = tap_at(f, &result, CA_SITE_RESULT);
    run_block(w, l, x, hooks, 4);
    double *all = numbers(f, g->heads * size_of(w));
    spread_heads(w, result.value[l + 1], all);
    memcpy(w->now + u * size_of(w), all + head * size_of(w), (size_t)size_of(w) * sizeof *all);
}

static void run_mlp(slow *w, int64_t l) {
    fixture *f = w->s->f;
    bool parallel = w->s->graph.parallel;
    ca_tensor x = input_of(w, ca_circuit_column(&w->s->graph, l, CA_CIRCUIT_MLP), l + !parallel);
    patch mid = {x, -1};
    tap out;
    ca_hook hooks[] = {tap_at(f, &out, CA_SITE_MLP_OUT), patch_at(&mid, CA_SITE_RESID_MID, l)};
    run_block(w, l, x, hooks, parallel ? 1 : 2);
    memcpy(w->now + ca_circuit_mlp(&w->s->graph, l) * size_of(w), out.value[l + 1],
           (size_t)size_of(w) * sizeof *w->now);
}

double *slow_circuit(eap_setting *s, const ca_circuit *circuit, int64_t n, ablation ablated) {
    fixture *f = s->f;
    const ca_example *e = &s->data->examples[n];
    const ca_circuit_graph *g = &s->graph;
    sequence q = {.ids = e->clean.ids, .count = e->clean.count};
    slow w = {.s = s, .circuit = circuit, .rows = e->clean.count};
    w.batch = batch_of(f, &q, 1, READ_LAST);
    w.positions = positions_of(&w);
    w.now = outputs_of(&w, &e->clean); /* of the input; all others are overwritten */
    w.ablated = ablated == ABLATE_ZERO ? numbers(f, g->sources * size_of(&w))
                                       : outputs_of(&w, &e->corrupted);
    for (int64_t l = 0; l < f->layers; l++) {
        for (int64_t h = 0; h < g->heads; h++) run_head(&w, l, h);
        run_mlp(&w, l);
    }
    ca_pass *pass = pass_for(f, w.batch, (ca_pass_limits){0}, NULL, 0);
    ca_forward request = {.batch = w.batch,
                          .first_layer = f->layers,
                          .last_layer = f->layers,
                          .resid = input_of(&w, g->destinations - 1, f->layers),
                          .head = CA_HEAD_LOGITS};
    ok(ca_pass_forward(pass, &request));
    return values_of(f, ca_pass_logits(pass));
}
