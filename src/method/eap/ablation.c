/* SPDX-License-Identifier: MIT
 *
 * See ablation.h.
 */
#include "ablation.h"

#include "causa/ops.h"

enum { PARTS = 4 };

static int part_count(const eap_ablation *a) { return a->hidden ? PARTS : PARTS - 1; }

/* The tensors of outputs, each as [layers or 1, rows, n]; hidden units last. */
static void parts_of(const eap_outputs *o, ca_tensor part[PARTS]) {
    part[0] = ca_tensor_repeat(o->embed, 1);
    part[1] = o->z;
    part[2] = o->mlp;
    part[3] = o->hidden;
}

/* Rows of the means, 0 for none. */
static int64_t mean_rows(const eap_ablation *a) {
    return a->kind == EAP_MEAN || a->kind == EAP_MEAN_POSITIONAL ? a->positions : 0;
}

int64_t ca_eap_ablation_bytes(const ca_arch *arch, ca_dtype dtype, const eap_ablation *a) {
    int64_t parts[] = {arch->width, arch->layers * arch->heads * arch->head_dim,
                       arch->layers * arch->width, arch->layers * arch->mlp_width};
    size_t bytes = a->kind == EAP_ONE_MEAN ? ca_method_buffer_bytes(arch->width, dtype) : 0;
    for (int i = 0; mean_rows(a) && i < part_count(a); i++)
        bytes += ca_method_buffer_bytes(mean_rows(a) * parts[i], dtype) +
                 ca_method_buffer_bytes(parts[i], dtype);
    return (int64_t)bytes;
}

static eap_outputs take_means(eap_ablation *a, const ca_arch *arch, ca_dtype dtype, int64_t rows) {
    eap_outputs out = ca_eap_outputs_take(&a->buffers, arch, dtype, rows);
    const int64_t shape[] = {arch->layers, rows, arch->mlp_width};
    if (a->hidden) out.hidden = ca_method_buffers_take(&a->buffers, dtype, 3, shape);
    return out;
}

ca_status ca_eap_ablation_create(const ca_model *model, eap_ablation *a) {
    ca_status st = CA_OK;
    const ca_arch *arch = &model->arch;
    ca_tensor part[PARTS];
    int64_t bytes = ca_eap_ablation_bytes(arch, model->dtype, a);
    if (bytes == 0) return CA_OK;
    CA_TRY(ca_method_buffers_create(model->backend, (size_t)bytes, &a->buffers));
    if (a->kind == EAP_ONE_MEAN) {
        a->one = ca_method_buffers_take(&a->buffers, model->dtype, 1, &arch->width);
        return ca_fill(model->backend, a->one, 0);
    }
    a->mean = take_means(a, arch, model->dtype, mean_rows(a));
    a->sum = take_means(a, arch, model->dtype, 1);
    parts_of(&a->mean, part);
    for (int i = 0; i < part_count(a); i++) CA_TRY(ca_fill(model->backend, part[i], 0));
out:
    return st;
}

void ca_eap_ablation_free(eap_ablation *a) {
    ca_method_buffers_free(&a->buffers);
    *a = (eap_ablation){0};
}

/* one += share times the sum over sources of the outputs in a row. */
static ca_status add_row(eap_ablation *a, const ca_model *m, const eap_outputs *clean, int64_t row,
                         double share) {
    ca_status st = CA_OK;
    ca_backend *be = m->backend;
    ca_tensor one = ca_tensor_repeat(a->one, 1);
    const ca_matmul_options options = {
        .transpose_b = true, .alpha = share, .beta = 1, .wide = true};
    CA_TRY(ca_add(be, one, ca_tensor_slice(clean->embed, 0, row, 1), share));
    for (int64_t l = 0; l < m->arch.layers; l++) {
        CA_TRY(ca_matmul(be, one, ca_tensor_slice(ca_tensor_at(clean->z, 0, l), 0, row, 1),
                         m->layers[l].out_weight, (ca_tensor){0}, options));
        CA_TRY(ca_add(be, one, ca_tensor_slice(ca_tensor_at(clean->mlp, 0, l), 0, row, 1), share));
    }
out:
    return st;
}

/* Adds the outputs of rows [first, first + rows), one prompt, to the means. */
static ca_status add_prompt(eap_ablation *a, const ca_model *m, const eap_outputs *clean,
                            int64_t first, int64_t rows, double share) {
    ca_status st = CA_OK;
    ca_tensor mean[PARTS], sum[PARTS], value[PARTS];
    parts_of(&a->mean, mean);
    parts_of(&a->sum, sum);
    parts_of(clean, value);
    for (int i = 0; i < part_count(a); i++) {
        ca_tensor of_prompt = ca_tensor_slice(value[i], 1, first, rows);
        if (a->kind == EAP_MEAN) {
            CA_TRY(ca_column_sums(m->backend, ca_tensor_at(sum[i], 1, 0), of_prompt));
            CA_TRY(ca_add(m->backend, mean[i], sum[i], share / (double)rows));
        } else {
            CA_TRY(ca_add(m->backend, mean[i], of_prompt, share));
        }
    }
out:
    return st;
}

ca_status ca_eap_ablation_add(eap_ablation *a, const ca_model *m, const eap_group *group,
                              const eap_outputs *clean, int64_t examples) {
    ca_status st = CA_OK;
    double sources = (double)(1 + m->arch.layers * (m->arch.heads + 1));
    for (int64_t n = 0; n < group->count; n++) {
        int64_t first = group->row[n], rows = group->row[n + 1] - first;
        double share = 1 / (double)examples;
        if (a->kind == EAP_ONE_MEAN)
            CA_TRY(add_row(a, m, clean, first + rows - 1, share / ((double)rows * sources)));
        else
            CA_TRY(add_prompt(a, m, clean, first, rows, share));
    }
out:
    return st;
}

ca_status ca_eap_ablation_fill(const eap_ablation *a, ca_backend *be, const eap_group *group,
                               const eap_outputs *to) {
    ca_status st = CA_OK;
    ca_tensor mean[PARTS], value[PARTS];
    parts_of(to, value);
    if (a->kind == EAP_ZERO || a->kind == EAP_ONE_MEAN) {
        for (int i = 0; i < part_count(a); i++) CA_TRY(ca_fill(be, value[i], 0));
        return CA_OK;
    }
    parts_of(&a->mean, mean);
    for (int64_t n = 0; n < group->count; n++) {
        int64_t first = group->row[n], rows = group->row[n + 1] - first;
        for (int i = 0; i < part_count(a); i++) {
            ca_tensor from = mean[i];
            if (a->kind == EAP_MEAN) { /* the same in every row */
                from.shape[1] = rows;
                from.stride[1] = 0;
            }
            CA_TRY(ca_copy(be, ca_tensor_slice(value[i], 1, first, rows), from));
        }
    }
out:
    return st;
}
