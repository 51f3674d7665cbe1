/* SPDX-License-Identifier: MIT
 *
 * See eap_setting.h. The slow evaluation is in slow_circuit.c.
 */
#include "eap_setting.h"

#include <stdlib.h>
#include <string.h>

/* ---- pairs */

ca_dataset eap_pairs_of(fixture *f) {
    ca_dataset data = {.count = PROMPTS, .pairs = true, .bos = -1};
    data.examples = calloc(PROMPTS, sizeof *data.examples);
    assert_non_null(data.examples);
    data.path = memcpy(numbers(f, 2), "pairs", 6);
    for (int64_t n = 0; n < PROMPTS; n++) {
        const prompt *p = &f->prompts[n];
        int64_t first = n * p->count / PROMPTS;
        int32_t *ids = (int32_t *)numbers(f, p->count), *answers = (int32_t *)numbers(f, 2);
        memcpy(ids, p->ids, (size_t)p->count * sizeof *ids);
        for (int64_t t = first; t < p->count; t += 2)
            ids[t] = (int32_t)((ids[t] + 1 + n + t) % f->vocab);
        answers[0] = (int32_t)p->a;
        answers[1] = (int32_t)p->b;
        data.examples[n] = (ca_example){
            .id = data.path,
            .row = n + 1,
            .clean = {.count = p->count, .ids = p->ids},
            .corrupted = {.count = p->count, .ids = ids},
            .answer = {1, answers},
            .wrong = {1, answers + 1},
            .first_difference = first,
        };
    }
    return data;
}

/* ---- setting */

static ca_batch *run_batch(eap_setting *s, bool corrupted) {
    ca_batch *batch;
    const eap_group *g = &s->group;
    ok(ca_batch_create(s->f->backend, g->count, g->rows, g->count, &batch));
    ca_eap_group_add_run(g, batch, corrupted);
    ok(ca_batch_upload(batch));
    return batch;
}

static void run_prefixes(eap_setting *s) {
    const eap_group *g = &s->group;
    if (g->prefix_rows == 0) return;
    ok(ca_batch_create(s->f->backend, g->count, g->prefix_rows, 0, &s->prefix_batch));
    ca_eap_group_add_prefixes(g, s->prefix_batch);
    ok(ca_batch_upload(s->prefix_batch));
    s->prefix = pass_for(s->f, s->prefix_batch, (ca_pass_limits){.key_values = true}, NULL, 0);
    ca_forward request = {.batch = s->prefix_batch, .last_layer = s->f->layers};
    ok(ca_pass_forward(s->prefix, &request));
}

static double *run_tails(eap_setting *s, const ca_batch *batch, ca_hook *hooks, int64_t count) {
    ca_pass *pass = pass_for(s->f, batch, (ca_pass_limits){0}, hooks, count);
    ca_forward request = ca_forward_all(s->f->model, batch);
    request.prefix = s->prefix;
    request.hooks = hooks;
    request.hook_count = count;
    ok(ca_pass_forward(pass, &request));
    return values_of(s->f, ca_pass_logits(pass));
}

static void zero(const eap_setting *s) {
    ok(ca_fill(s->f->backend, s->ablated.embed, 0));
    ok(ca_fill(s->f->backend, s->ablated.z, 0));
    ok(ca_fill(s->f->backend, s->ablated.mlp, 0));
}

void eap_setting_open(eap_setting *s, fixture *f, const ca_dataset *data, int64_t first,
                      int64_t last, int64_t kv_columns, ablation ablated, int64_t lanes,
                      int64_t sources) {
    const ca_arch *a = &f->model->arch;
    ca_dtype dtype = f->model->dtype;
    *s = (eap_setting){.f = f, .data = data, .graph = ca_circuit_graph_of(a, kv_columns)};
    ok(ca_eap_group_create(last - first, &s->group));
    ca_eap_group_set(&s->group, data, first, last, ablated != ABLATE_PATCHING);
    run_prefixes(s);
    int64_t rows = s->group.rows, count = ca_eap_outputs_count(a, rows);
    ok(ca_method_buffers_create(f->backend, ca_method_buffer_bytes(count, dtype) + 256,
                                &s->buffers));
    s->ablated = ca_eap_outputs_take(&s->buffers, a, dtype, rows);
    eap_tap of_corrupted = {.to = s->ablated};
    ca_hook hooks[EAP_TAP_HOOKS];
    int64_t hook_count = ca_eap_tap_hooks(&of_corrupted, a, hooks);
    s->clean_batch = run_batch(s, false);
    s->corrupted_batch = run_batch(s, true);
    s->clean = run_tails(s, s->clean_batch, NULL, 0);
    s->corrupted = run_tails(s, s->corrupted_batch, hooks, hook_count);
    if (ablated == ABLATE_ZERO) zero(s);
    eap_runs_sizes sizes = {
        .group = {s->group.count, rows, s->group.prefix_rows, s->group.count},
        .lanes = lanes,
        .sources = sources ? sources : lanes * s->graph.sources,
        .neurons = true,
    };
    ok(ca_eap_runs_create(f->model, &s->graph, sizes, &s->runs));
    ok(ca_eap_runs_group(s->runs, &s->group, s->prefix, &s->ablated));
}

void eap_setting_close(eap_setting *s) {
    ca_eap_runs_free(s->runs);
    ca_method_buffers_free(&s->buffers);
    ca_batch_free(s->prefix_batch);
    ca_batch_free(s->clean_batch);
    ca_batch_free(s->corrupted_batch);
    ca_eap_group_free(&s->group);
}

double *eap_setting_run(eap_setting *s, const ca_circuit *circuits, int64_t count) {
    int64_t each = s->group.count * s->f->vocab;
    double *out = numbers(s->f, count * each);
    for (int64_t first = 0, n; first < count; first += n) {
        ca_tensor logits;
        n = ca_eap_runs_fit(s->runs, circuits + first, count - first);
        ok(ca_eap_runs_circuits(s->runs, circuits + first, n, &logits));
        memcpy(out + first * each, values_of(s->f, logits), (size_t)(n * each) * sizeof *out);
    }
    return out;
}

/* ---- circuits */

ca_circuit random_circuit(const ca_circuit_graph *g, double chance, uint64_t seed) {
    ca_circuit c;
    ca_philox_key key = {.seed = seed, .stream = ca_stream("circuit")};
    ok(ca_circuit_create(g, &c));
    for (int64_t v = 0; v < g->destinations; v++)
        for (int64_t u = 0; u < ca_circuit_parents(g, v); u++) {
            int64_t edge = u * g->destinations + v;
            c.edges[edge] = ca_philox_uniform(key, (uint64_t)edge) < chance;
        }
    ca_circuit_prune(g, &c);
    return c;
}

ca_circuit random_neurons(const ca_circuit_graph *g, double edges, double neurons, uint64_t seed) {
    ca_circuit c = random_circuit(g, edges, seed);
    ca_philox_key key = {.seed = seed, .stream = ca_stream("neurons")};
    ok(ca_circuit_add_neurons(g, &c));
    for (int64_t i = 0; i < g->sources * g->width; i++)
        c.neurons[i] = ca_philox_uniform(key, (uint64_t)i) < neurons;
    ca_circuit_prune(g, &c);
    return c;
}

ca_circuit full_circuit(const ca_circuit_graph *g) { return random_circuit(g, 2, 0); }
