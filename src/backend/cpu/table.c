/* SPDX-License-Identifier: MIT
 *
 * The cpu backend's row of the registry: its operation table, opening and closing.
 */
#include "cpu.h"

#include <omp.h>
#include <stdlib.h>

static const ca_backend_ops cpu_ops = {
    .alloc = ca_cpu_alloc,
    .release = ca_cpu_release,
    .upload = ca_cpu_upload,
    .download = ca_cpu_download,
    .copy = ca_cpu_copy,
    .fill = ca_cpu_fill,
    .sync = ca_cpu_sync,
    .memory_info = ca_cpu_memory_info,
    .matmul = ca_cpu_matmul,
    .gather = ca_cpu_gather,
    .scatter_add = ca_cpu_scatter_add,
    .add = ca_cpu_add,
    .add_scaled_rows = ca_cpu_add_scaled_rows,
    .multiply = ca_cpu_multiply,
    .sum_heads = ca_cpu_sum_heads,
    .norm_fwd = ca_cpu_norm_fwd,
    .norm_bwd = ca_cpu_norm_bwd,
    .norm_stats = ca_cpu_norm_stats,
    .rope = ca_cpu_rope,
    .attention_fwd = ca_cpu_attention_fwd,
    .attention_bwd = ca_cpu_attention_bwd,
    .pattern_fwd = ca_cpu_pattern_fwd,
    .pattern_bwd = ca_cpu_pattern_bwd,
    .pattern_apply_fwd = ca_cpu_pattern_apply_fwd,
    .pattern_apply_bwd = ca_cpu_pattern_apply_bwd,
    .mix_fwd = ca_cpu_mix_fwd,
    .mix_bwd = ca_cpu_mix_bwd,
    .pattern_mix_fwd = ca_cpu_pattern_mix_fwd,
    .pattern_mix_bwd = ca_cpu_pattern_mix_bwd,
    .act_fwd = ca_cpu_act_fwd,
    .act_bwd = ca_cpu_act_bwd,
    .soft_cap_fwd = ca_cpu_soft_cap_fwd,
    .soft_cap_bwd = ca_cpu_soft_cap_bwd,
    .log_sum_exp = ca_cpu_log_sum_exp,
    .softmax = ca_cpu_softmax,
    .top_k = ca_cpu_top_k,
    .cross_entropy_fwd = ca_cpu_cross_entropy_fwd,
    .cross_entropy_bwd = ca_cpu_cross_entropy_bwd,
    .row_norms = ca_cpu_row_norms,
    .row_dots = ca_cpu_row_dots,
    .row_distances = ca_cpu_row_distances,
    .column_sums = ca_cpu_column_sums,
    .adam_step = ca_cpu_adam_step,
};

static void cpu_close(ca_backend *be) {
    if (be == NULL) return;
    ca_cpu_context *context = be->context;
    if (context != NULL) {
        free(context->tiles);
        free(context->gemm_tiles);
        free(context->tile_start);
    }
    free(context);
    free(be);
}

/* Threads that OpenMP gives to whoever asks for `wanted`: OMP_THREAD_LIMIT and
 * OMP_MAX_ACTIVE_LEVELS allow fewer, and OMP_DYNAMIC would with every call. The library cuts its
 * work for as many as it asks for and would leave out what the missing ones had to do. */
static int team_of(int wanted) {
    int team = 1;
    omp_set_dynamic(0);
#pragma omp parallel num_threads(wanted)
#pragma omp single
    team = omp_get_num_threads();
    if (team < wanted)
        ca_log(CA_LOG_WARNING,
               "cpu: %d threads are wanted and OpenMP gives %d (OMP_THREAD_LIMIT, "
               "OMP_MAX_ACTIVE_LEVELS)",
               wanted, team);
    return team;
}

static ca_status cpu_open(int device, int threads, ca_backend **out) {
    (void)device;
    ca_status st = CA_OK;
    ca_backend *be = NULL;
    ca_cpu_context *context = NULL;
    void *tiles = NULL, *gemm_tiles = NULL;

    cpu_give_back_arenas();
    CA_TRY(ca_calloc(1, sizeof *be, &be));
    *be =
        (ca_backend){.name = "cpu", .ops = &cpu_ops, .threads = team_of(threads), .bfloat16 = true};
    CA_TRY(ca_calloc(1, sizeof *context, &context));
    be->context = context;
    CA_TRY(
        ca_cpu_alloc(be, (size_t)be->threads * CPU_TILES * CPU_TILE_SIZE * sizeof(float), &tiles));
    context->tiles = tiles;
    CA_TRY(ca_cpu_alloc(be, 2 * (size_t)CPU_GEMM_TILE * sizeof(float), &gemm_tiles));
    context->gemm_tiles = gemm_tiles;
    *out = be;
    return CA_OK;
out:
    cpu_close(be);
    return st;
}

const ca_backend_entry ca_backend_cpu = {
    .name = "cpu",
    .libraries = ca_cpu_libraries,
    .how_to_build = "make, with oneDNN or a CBLAS and an OpenMP compiler",
    .open = cpu_open,
    .close = cpu_close,
};
