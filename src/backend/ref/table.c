/* SPDX-License-Identifier: MIT
 *
 * The reference backend: the definition of every operation in plain C with float64 sums, on f32 or
 * f64 storage. Slow on purpose where speed would cost clarity; other backends are tested against
 * it.
 */
#include "ref.h"

#include <stdlib.h>

static const ca_backend_ops operations = {
    .alloc = ca_ref_alloc,
    .release = ca_ref_release,
    .upload = ca_ref_upload,
    .download = ca_ref_download,
    .copy = ca_ref_copy,
    .fill = ca_ref_fill,
    .sync = ca_ref_sync,
    .memory_info = ca_ref_memory_info,
    .matmul = ca_ref_matmul,
    .gather = ca_ref_gather,
    .scatter_add = ca_ref_scatter_add,
    .add = ca_ref_add,
    .add_scaled_rows = ca_ref_add_scaled_rows,
    .multiply = ca_ref_multiply,
    .sum_heads = ca_ref_sum_heads,
    .norm_fwd = ca_ref_norm_fwd,
    .norm_bwd = ca_ref_norm_bwd,
    .norm_stats = ca_ref_norm_stats,
    .rope = ca_ref_rope,
    .attention_fwd = ca_ref_attention_fwd,
    .attention_bwd = ca_ref_attention_bwd,
    .pattern_fwd = ca_ref_pattern_fwd,
    .pattern_bwd = ca_ref_pattern_bwd,
    .pattern_apply_fwd = ca_ref_pattern_apply_fwd,
    .pattern_apply_bwd = ca_ref_pattern_apply_bwd,
    .mix_fwd = ca_ref_mix_fwd,
    .mix_bwd = ca_ref_mix_bwd,
    .pattern_mix_fwd = ca_ref_pattern_mix_fwd,
    .pattern_mix_bwd = ca_ref_pattern_mix_bwd,
    .act_fwd = ca_ref_act_fwd,
    .act_bwd = ca_ref_act_bwd,
    .soft_cap_fwd = ca_ref_soft_cap_fwd,
    .soft_cap_bwd = ca_ref_soft_cap_bwd,
    .log_sum_exp = ca_ref_log_sum_exp_rows,
    .softmax = ca_ref_softmax_rows,
    .top_k = ca_ref_top_k,
    .cross_entropy_fwd = ca_ref_cross_entropy_fwd,
    .cross_entropy_bwd = ca_ref_cross_entropy_bwd,
    .row_norms = ca_ref_row_norms,
    .row_dots = ca_ref_row_dots,
    .row_distances = ca_ref_row_distances,
    .column_sums = ca_ref_column_sums,
    .adam_step = ca_ref_adam_step,
};

static ca_status open_ref(int device, int threads, ca_backend **out) {
    (void)device, (void)threads; /* one thread, always */
    ca_backend *be;
    ca_status st = ca_calloc(1, sizeof *be, &be);
    if (st != CA_OK) return st;
    *be = (ca_backend){.name = "ref", .ops = &operations, .threads = 1, .float64 = true, .bfloat16 = true};
    *out = be;
    return CA_OK;
}

static void close_ref(ca_backend *be) { free(be); }

const ca_backend_entry ca_backend_ref = {
    .name = "ref",
    .libraries = "plain C, float64 sums",
    .how_to_build = "part of every build",
    .open = open_ref,
    .close = close_ref,
};
