/* SPDX-License-Identifier: MIT
 *
 * See ablation.h.
 */
#include "ablation.h"

#include "causa/ops.h"

enum { PARTS = 3 };

/* The tensors of outputs, each as [layers or 1, rows, n]. */
static void parts_of(const eap_outputs *o, ca_tensor part[PARTS]) {
    part[0] = ca_tensor_repeat(o->embed, 1);
    part[1] = o->z;
    part[2] = o->mlp;
}

int64_t ca_eap_ablation_bytes(const ca_arch *arch, ca_dtype dtype, int64_t positions) {
    int64_t parts[] = {arch->width, arch->layers * arch->heads * arch->head_dim,
                       arch->layers * arch->width};
    size_t bytes = 0;
    for (int i = 0; positions && i < PARTS; i++)
        bytes += ca_method_buffer_bytes(positions * parts[i], dtype) +
                 ca_method_buffer_bytes(parts[i], dtype);
    return (int64_t)bytes;
}

ca_status ca_eap_ablation_create(const ca_model *model, eap_ablation *a) {
    ca_status st = CA_OK;
    ca_tensor part[PARTS];
    if (!a->positions) return CA_OK;
    int64_t bytes = ca_eap_ablation_bytes(&model->arch, model->dtype, a->positions);
    CA_TRY(ca_method_buffers_create(model->backend, (size_t)bytes, &a->buffers));
    a->mean = ca_eap_outputs_take(&a->buffers, &model->arch, model->dtype, a->positions);
    a->sum = ca_eap_outputs_take(&a->buffers, &model->arch, model->dtype, 1);
    parts_of(&a->mean, part);
    for (int i = 0; i < PARTS; i++) CA_TRY(ca_fill(model->backend, part[i], 0));
out:
    return st;
}

void ca_eap_ablation_free(eap_ablation *a) {
    ca_method_buffers_free(&a->buffers);
    *a = (eap_ablation){0};
}

ca_status ca_eap_ablation_add(eap_ablation *a, ca_backend *be, const eap_group *group,
                              const eap_outputs *clean, int64_t examples) {
    ca_status st = CA_OK;
    ca_tensor mean[PARTS], sum[PARTS], value[PARTS];
    parts_of(&a->mean, mean);
    parts_of(&a->sum, sum);
    parts_of(clean, value);
    for (int64_t n = 0; n < group->count; n++) {
        int64_t first = group->row[n], rows = group->row[n + 1] - first;
        for (int i = 0; i < PARTS; i++) {
            ca_tensor of_pair = ca_tensor_slice(value[i], 1, first, rows);
            double share = 1 / (double)examples;
            if (a->kind == EAP_MEAN) {
                CA_TRY(ca_column_sums(be, ca_tensor_at(sum[i], 1, 0), of_pair));
                of_pair = sum[i];
                share /= (double)rows;
            }
            CA_TRY(ca_add(be, mean[i], of_pair, share));
        }
    }
out:
    return st;
}

ca_status ca_eap_ablation_fill(const eap_ablation *a, ca_backend *be, const eap_group *group,
                               const eap_outputs *to) {
    ca_status st = CA_OK;
    ca_tensor mean[PARTS], value[PARTS];
    parts_of(to, value);
    if (a->kind == EAP_ZERO) {
        for (int i = 0; i < PARTS; i++) CA_TRY(ca_fill(be, value[i], 0));
        return CA_OK;
    }
    parts_of(&a->mean, mean);
    for (int64_t n = 0; n < group->count; n++) {
        int64_t first = group->row[n], rows = group->row[n + 1] - first;
        for (int i = 0; i < PARTS; i++) {
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
