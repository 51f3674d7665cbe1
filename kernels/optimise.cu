/* SPDX-License-Identifier: MIT
 *
 * Optimiser steps.
 *
 * Sources: Kingma and Ba 2015, "Adam: a method for stochastic optimization"; Loshchilov and Hutter
 * 2019, "Decoupled weight decay regularization".
 */
#include "ca_quads.cuh"

/* What a step needs beside its numbers, rounded once. */
struct adam_numbers {
    float beta1, beta2, rest1, rest2; /* rest = 1 - beta */
    float keep;                       /* 1 - learning_rate weight_decay */
    float rate;                       /* learning_rate / (1 - beta1^step) */
    float root;                       /* 1 / sqrt(1 - beta2^step) */
    float epsilon, lower, upper;
};

/* One step on every element, in place
 *
 * Grid: tiles of the parameter; a thread owns its quads of all tensors, so results repeat bit for
 * bit. No shared memory, no barrier. 28 bytes and about 15 FLOPs an element. */
static __global__ void __launch_bounds__(CA_TILE)
    adam_step_kernel(ca_rows parameter, ca_rows first, ca_rows second, ca_rows gradient,
                     adam_numbers a, int shift, bool wide) {
    const ca_walk walk = ca_walk_of(shift);
    for (int64_t r = walk.row; r < parameter.rows; r += walk.row_step) {
        float *theta = static_cast<float *>(parameter.data) + ca_row_offset(parameter, r);
        float *m = static_cast<float *>(first.data) + ca_row_offset(first, r);
        float *v = static_cast<float *>(second.data) + ca_row_offset(second, r);
        const float *g = static_cast<const float *>(gradient.data) + ca_row_offset(gradient, r);
        for (int64_t i = walk.column; i < parameter.width; i += walk.column_step) {
            const int64_t left = parameter.width - i;
            ca_quad<float> p = ca_load(theta + i, left, wide), d = ca_load(g + i, left, wide);
            ca_quad<float> mean = ca_load(m + i, left, wide), square = ca_load(v + i, left, wide);
            for (int k = 0; k < 4; k++) {
                mean.at[k] = a.beta1 * mean.at[k] + a.rest1 * d.at[k];
                square.at[k] = a.beta2 * square.at[k] + a.rest2 * d.at[k] * d.at[k];
                float next = a.keep * p.at[k] -
                             a.rate * mean.at[k] / (sqrtf(square.at[k]) * a.root + a.epsilon);
                next = next < a.lower ? a.lower : next; /* these keep NaN */
                p.at[k] = next > a.upper ? a.upper : next;
            }
            ca_store(theta + i, p, left, wide);
            ca_store(m + i, mean, left, wide);
            ca_store(v + i, square, left, wide);
        }
    }
}

int ca_k_adam_step(const ca_queue *queue, ca_tensor parameter, ca_tensor first, ca_tensor second,
                   ca_tensor gradient, ca_adam adam) {
    const adam_numbers a = {(float)adam.beta1,
                            (float)adam.beta2,
                            (float)(1 - adam.beta1),
                            (float)(1 - adam.beta2),
                            (float)(1 - adam.learning_rate * adam.weight_decay),
                            (float)(adam.learning_rate / (1 - pow(adam.beta1, (double)adam.step))),
                            (float)(1 / sqrt(1 - pow(adam.beta2, (double)adam.step))),
                            (float)adam.epsilon,
                            (float)adam.lower,
                            (float)adam.upper};
    ca_tensor *const all[] = {&parameter, &first, &second, &gradient};
    ca_merge_axes(4, all);
    ca_rows rows = ca_rows_of(parameter);
    ca_tiles tiles = ca_tiles_of(queue, rows.rows, rows.width);
    CA_LAUNCH(adam_step_kernel, tiles.grid, CA_TILE, 0, queue->stream, rows, ca_rows_of(first),
              ca_rows_of(second), ca_rows_of(gradient), a, tiles.shift,
              ca_is_wide(parameter) && ca_is_wide(first) && ca_is_wide(second) &&
                  ca_is_wide(gradient));
    return ca_launched();
}
