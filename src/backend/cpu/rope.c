/* SPDX-License-Identifier: MIT
 *
 * Rotary position embedding, in place.
 */
#include "cpu.h"

ca_status ca_cpu_rope(ca_backend *be, ca_tensor x, ca_tensor cosine, ca_tensor sine,
                      ca_tensor positions, bool inverse) {
    int64_t heads = x.shape[x.rank - 2], head_stride = x.stride[x.rank - 2];
    int64_t tokens = x.shape[x.rank - 3], half = cosine.shape[1];
    int64_t rows = cpu_places(&x, x.rank - 2), per_row = heads * half;
    float sign = inverse ? -1.0f : 1.0f;
    const int32_t *at = positions.data;
    for (int64_t t = 0; t < tokens; t++)
        if (at[t] < 0 || at[t] >= cosine.shape[0])
            return ca_fail(CA_E_SHAPE, "rope: positions[%lld]: expected 0 to %lld, got %d",
                           (long long)t, (long long)(cosine.shape[0] - 1), (int)at[t]);
#pragma omp parallel for num_threads(cpu_threads(be, rows, per_row)) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        int64_t position = at[row % tokens];
        const float *c = (const float *)cosine.data + position * cosine.stride[0];
        const float *s = (const float *)sine.data + position * sine.stride[0];
        for (int64_t h = 0; h < heads; h++) {
            float *low = (float *)x.data + cpu_offset(&x, x.rank - 2, row) + h * head_stride;
            float *high = low + half;
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                float a = low[i], b = high[i], turn = sign * s[i];
                low[i] = a * c[i] - b * turn;
                high[i] = b * c[i] + a * turn;
            }
        }
    }
    return CA_OK;
}
