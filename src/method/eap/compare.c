/* SPDX-License-Identifier: MIT
 *
 * Other variants beside the one that is asked for: their edge scores on the same pairs, and how
 * well they agree with it.
 */
#include "eap.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- prepare ---- */

static ca_status prepare_one(const ca_job *job, const char *name, eap *e, ca_plan *plan) {
    ca_status st = CA_OK;
    ca_plan own = {0};
    e->is_compared = true;
    CA_TRY(ca_eap_read_options(job, name, e));
    if (e->level != EAP_EDGES)
        return ca_config_fail(job->config, "method.compare", "expected level edge");
    CA_TRY(ca_eap_plan(job, e, &own));
    plan->flops += own.flops;
    plan->batches += own.batches;
    plan->host_bytes += own.host_bytes;
    if (own.work_bytes > plan->work_bytes) plan->work_bytes = own.work_bytes; /* one at a time */
out:
    return st;
}

ca_status ca_eap_compare_prepare(const ca_job *job, eap *e, ca_plan *plan) {
    ca_status st = CA_OK;
    int64_t count = ca_config_count(job->config, "method.compare");
    CA_TRY(ca_calloc((size_t)count + 1, sizeof(eap *), &e->compared));
    for (int64_t i = 0; i < count; i++) {
        const char *name = ca_config_text_at(job->config, "method.compare", i);
        if (strcmp(name, e->variant->name) == 0)
            return ca_config_fail(job->config, "method.compare",
                                  "expected variants other than method.variant, got %s", name);
        CA_TRY(ca_calloc(1, sizeof(eap), &e->compared[e->compared_count++]));
        CA_TRY(prepare_one(job, name, e->compared[i], plan));
    }
out:
    return st;
}

/* ---- agreement ---- */

/* Scores of real edges, in the order of the matrix. */
typedef struct real_edges {
    int64_t count;
    double *a, *b, *abs_a, *abs_b;
} real_edges;

static ca_status collect(const eap_sums *a, const eap_sums *b, real_edges *out) {
    ca_status st = CA_OK;
    int64_t all = a->graph.sources * a->graph.destinations;
    size_t edges = (size_t)a->graph.edges;
    CA_TRY(ca_calloc(4 * edges, sizeof *out->a, &out->a));
    out->b = out->a + edges;
    out->abs_a = out->b + edges;
    out->abs_b = out->abs_a + edges;
    for (int64_t i = 0; i < all; i++) {
        if (!a->valid[i]) continue;
        int64_t n = out->count++;
        out->a[n] = a->edge[i];
        out->b[n] = b->edge[i];
        out->abs_a[n] = fabs(a->edge[i]);
        out->abs_b[n] = fabs(b->edge[i]);
    }
out:
    return st;
}

static ca_status put_agreement(ca_job *job, const char *group, const eap *e) {
    ca_status st = CA_OK;
    CA_TRY(ca_result_attribute_float(job->result, group, "pearson", e->agreement.pearson));
    CA_TRY(ca_result_attribute_float(job->result, group, "pearson_absolute",
                                     e->agreement.pearson_absolute));
    CA_TRY(ca_result_attribute_float(job->result, group, "kendall", e->agreement.kendall));
    CA_TRY(ca_result_attribute_float(job->result, group, "kendall_absolute",
                                     e->agreement.kendall_absolute));
out:
    return st;
}

/* How well the scores of a variant agree with those of the one that it is compared with. */
static ca_status agree(const eap *e, eap *other) {
    ca_status st = CA_OK;
    real_edges g = {0};
    CA_TRY(collect(&e->sums, &other->sums, &g));
    CA_TRY(ca_kendall(g.a, g.b, g.count, &other->agreement.kendall));
    CA_TRY(ca_kendall(g.abs_a, g.abs_b, g.count, &other->agreement.kendall_absolute));
    other->agreement.pearson = ca_pearson(g.a, g.b, g.count);
    other->agreement.pearson_absolute = ca_pearson(g.abs_a, g.abs_b, g.count);
out:
    free(g.a);
    return st;
}

/* ---- overlap of the strongest edges ---- */

enum { SIZES = 10 };
static const double fractions[SIZES] = {.001, .002, .005, .01, .02, .05, .1, .2, .5, 1};

typedef struct ranked {
    double key;
    int64_t index;
} ranked;

static int falling(const void *x, const void *y) {
    const ranked *a = x, *b = y;
    if (a->key != b->key) return a->key < b->key ? 1 : -1;
    return (a->index > b->index) - (a->index < b->index);
}

typedef struct overlaps {
    int64_t size[SIZES], edges[SIZES];
    double iou[SIZES], directed[SIZES], chance[SIZES], node_iou[SIZES];
} overlaps;

/* The `size` edges with the largest |score|, and the sources that they keep; ties go to the lower
 * index, as in circuits. */
static ca_status strongest(const eap_sums *s, int64_t size, ca_circuit *out) {
    ca_status st = CA_OK;
    int64_t count = 0, all = s->graph.sources * s->graph.destinations;
    ranked *edges = NULL;
    CA_TRY(ca_circuit_create(&s->graph, out));
    CA_TRY(ca_calloc((size_t)s->graph.edges, sizeof *edges, &edges));
    for (int64_t i = 0; i < all; i++)
        if (s->valid[i]) edges[count++] = (ranked){fabs(s->edge[i]), i};
    qsort(edges, (size_t)count, sizeof *edges, falling);
    for (int64_t i = 0; i < size; i++) out->edges[edges[i].index] = true;
    ca_circuit_count(&s->graph, out);
out:
    free(edges);
    return st;
}

static ca_status overlap_at(const eap_sums *a, const eap_sums *b, int64_t at, overlaps *out) {
    ca_status st = CA_OK;
    int64_t all = a->graph.sources * a->graph.destinations;
    int64_t size = (int64_t)floor(fractions[at] * (double)a->graph.edges);
    ca_circuit of_a = {0}, of_b = {0};
    CA_TRY(strongest(a, size, &of_a));
    CA_TRY(strongest(b, size, &of_b));
    ca_overlap o = ca_overlap_of(of_a.edges, of_b.edges, a->valid, all);
    out->size[at] = size;
    out->edges[at] = o.both;
    out->iou[at] = o.iou;
    out->directed[at] = o.a_in_b;
    out->chance[at] = o.probability;
    out->node_iou[at] = ca_overlap_of(of_a.nodes, of_b.nodes, NULL, a->graph.sources).iou;
out:
    ca_circuit_free(&of_a);
    ca_circuit_free(&of_b);
    return st;
}

static ca_status put_overlaps(ca_job *job, const char *group, const overlaps *o) {
    const eap_list lists[] = {
        {"size", CA_RESULT_I64, o->size},     {"common_edges", CA_RESULT_I64, o->edges},
        {"iou", CA_RESULT_F64, o->iou},       {"directed_overlap", CA_RESULT_F64, o->directed},
        {"chance", CA_RESULT_F64, o->chance}, {"node_iou", CA_RESULT_F64, o->node_iou}};
    return ca_eap_put_lists(job, group, lists, sizeof lists / sizeof *lists, SIZES, NULL);
}

/* ---- run ---- */

ca_status ca_eap_compare(ca_job *job, eap *e) {
    ca_status st = CA_OK;
    int64_t resume_at = job->resume_at, done;
    job->resume_at = 0; /* a stopped comparison begins again */
    for (int64_t i = 0; i < e->compared_count; i++) {
        eap *other = e->compared[i];
        other->job = job;
        CA_TRY(ca_eap_attribute_create(other));
        CA_TRY(ca_eap_make_means(other));
        CA_TRY(ca_method_run_batches(job, &other->packing, other->variant->name, ca_eap_attribute,
                                     other, &done));
        ca_eap_attribute_release(other);
        CA_TRY(agree(e, other));
    }
out:
    job->resume_at = resume_at;
    return st;
}

static ca_status write_one(ca_job *job, const eap *e, const eap *other) {
    ca_status st = CA_OK;
    overlaps o;
    char group[64], path[80];
    snprintf(group, sizeof group, "/compare/%s", other->variant->name);
    snprintf(path, sizeof path, "%s/score", group);
    CA_TRY(ca_eap_put_edges(job, other, path, other->sums.edge));
    CA_TRY(put_agreement(job, group, other));
    for (int64_t i = 0; i < SIZES; i++) CA_TRY(overlap_at(&e->sums, &other->sums, i, &o));
    CA_TRY(put_overlaps(job, group, &o));
out:
    return st;
}

ca_status ca_eap_write_comparison(ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    for (int64_t i = 0; i < e->compared_count; i++) CA_TRY(write_one(job, e, e->compared[i]));
out:
    return st;
}

ca_status ca_eap_compare_answer(const eap *e, ca_string *text) {
    ca_status st = CA_OK;
    for (int64_t i = 0; i < e->compared_count; i++) {
        const eap *other = e->compared[i];
        CA_TRY(ca_string_printf(text,
                                "%s agrees with %s: Pearson %.3f, of |score| %.3f, Kendall of "
                                "|score| %.3f\n",
                                other->variant->name, e->variant->name, other->agreement.pearson,
                                other->agreement.pearson_absolute,
                                other->agreement.kendall_absolute));
    }
out:
    return st;
}
