/* SPDX-License-Identifier: MIT
 *
 * Gaussian noise on the embeddings of the subject, as in causal tracing.
 */
#include "patch.h"

#include "causa/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int64_t ca_patch_noise_bytes(const ca_arch *arch, ca_dtype dtype, int64_t rows) {
    return (int64_t)(ca_method_buffer_bytes(rows * arch->width, dtype) +
                     ca_method_buffer_bytes(rows, CA_I64));
}

/* Standard deviation of all entries of the embedding table, as they enter the model. */
static ca_status embedding_deviation(const ca_model *model, double *deviation) {
    ca_status st = CA_OK;
    enum { ROWS = 256 };
    int64_t vocab = model->arch.vocab, width = model->arch.width;
    double *staging = NULL, *values = NULL, sum = 0, squares = 0;
    CA_TRY(ca_calloc((size_t)(ROWS * width), sizeof *staging, &staging));
    CA_TRY(ca_calloc((size_t)(ROWS * width), sizeof *values, &values));
    for (int64_t v = 0; v < vocab; v += ROWS) {
        int64_t rows = vocab - v < ROWS ? vocab - v : ROWS;
        CA_TRY(ca_download_f64(model->backend, ca_tensor_slice(model->embed, 0, v, rows), staging,
                               values));
        for (int64_t i = 0; i < rows * width; i++) {
            sum += values[i];
            squares += values[i] * values[i];
        }
    }
    double count = (double)vocab * (double)width, mean = sum / count;
    *deviation = model->arch.embed_scale * sqrt(fmax(0, squares / count - mean * mean));
out:
    free(staging);
    free(values);
    return st;
}

ca_status ca_patch_noise_create(const ca_job *job, patch_noise *noise, int64_t rows) {
    ca_status st = CA_OK;
    int64_t shape[] = {rows, job->arch->width};
    const char *unit = ca_config_text(job->config, "method.noise.unit");
    double deviation = 1;
    if (strcmp(unit, "std") == 0) CA_TRY(embedding_deviation(job->model, &deviation));
    noise->sigma = deviation * ca_config_float(job->config, "method.noise.sigma");
    noise->most = rows;
    CA_TRY(ca_method_buffers_create(
        job->backend, (size_t)ca_patch_noise_bytes(job->arch, job->dtype, rows), &noise->buffers));
    noise->rows = ca_method_buffers_take(&noise->buffers, job->dtype, 2, shape);
    noise->index = ca_method_buffers_take(&noise->buffers, CA_I64, 1, &rows);
    CA_TRY(ca_calloc((size_t)(rows * job->arch->width), sizeof(double), &noise->row_host));
    CA_TRY(ca_calloc((size_t)(rows * job->arch->width), sizeof(double), &noise->staging));
    CA_TRY(ca_calloc((size_t)rows, sizeof *noise->index_host, &noise->index_host));
out:
    return st;
}

void ca_patch_noise_free(patch_noise *noise) {
    ca_method_buffers_free(&noise->buffers);
    free(noise->row_host);
    free(noise->staging);
    free(noise->index_host);
}

void ca_patch_noise_add(patch_noise *noise, const ca_job *job, const ca_example *e, int64_t draw,
                        int64_t start) {
    int64_t width = job->arch->width;
    ca_philox_key key = {.seed = (uint64_t)ca_config_int(job->config, "seed"),
                         .stream = ca_method_prompt_stream("patch.noise", &e->clean, draw)};
    for (int64_t t = e->subject_first; t < e->subject_last; t++) {
        int64_t at = noise->count * width;
        for (int64_t d = 0; d < width; d++)
            noise->row_host[at + d] =
                noise->sigma * ca_philox_normal(key, (uint64_t)(t * width + d));
        noise->index_host[noise->count++] = start + t;
    }
}

static ca_status add_noise(void *context, const ca_hook_call *call, ca_tensor value) {
    const patch_noise *noise = context;
    return ca_scatter_add(call->backend, value, ca_tensor_slice(noise->index, 0, 0, noise->count),
                          ca_tensor_slice(noise->rows, 0, 0, noise->count));
}

ca_status ca_patch_noise_upload(patch_noise *noise, ca_backend *backend, ca_hook *hook) {
    ca_status st = CA_OK;
    *hook = (ca_hook){.site = CA_SITE_EMBED, .edits = true, .forward = add_noise, .context = noise};
    CA_TRY(ca_upload_f64(backend, ca_tensor_slice(noise->rows, 0, 0, noise->count), noise->staging,
                         noise->row_host));
    CA_TRY(
        ca_upload(backend, ca_tensor_slice(noise->index, 0, 0, noise->count), noise->index_host));
out:
    return st;
}
