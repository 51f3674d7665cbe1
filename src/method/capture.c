/* SPDX-License-Identifier: MIT
 *
 * Method `capture`: stores the values of any sites at chosen positions.
 *
 * Every site is a hook that gathers its rows into a buffer of its own; after each micro-batch the
 * buffers go to /activations/<site>, one row per (example, position).
 */
#include "common.h"

#include "causa/ops.h"
#include "causa/position.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One dataset. */
typedef struct capture_site {
    ca_site site;
    int64_t heads,
        width; /* of a stored row: [width], [heads, width]; patterns: width = longest prompt */
    char path[CA_SITE_NAME_MAX + 16];
    ca_tensor rows; /* staging [rows, heads, width]; patterns: a whole flat pattern */
    struct capture *owner;
} capture_site;

typedef struct capture {
    ca_site *sites;
    int64_t count;
    capture_site *tapped;
    ca_hook *hooks;
    ca_packing packing;
    int64_t *position;       /* tokens read, all examples end to end */
    int64_t *position_start; /* [N + 1] */
    int64_t longest;         /* prompt */
    int64_t most_reads;      /* rows of one prompt that the head reads */
    int64_t most_rows;       /* captured in one micro-batch */
    ca_forward request;
    ca_job *job;
    ca_batch *batch;
    ca_pass *pass;
    method_buffers buffers;
    ca_tensor index; /* [captured rows of the micro-batch] i64, packed rows */
    int64_t *index_host;
    void *staging;
    float *values; /* host rows of one site, as stored */
    double *values_f64;
} capture;

static const ca_option options[] = {
    {"method.sites", CA_OPTION_TEXTS, NULL, NULL, NULL,
     "sites to store, such as blocks.[0-3].attn.z or final_norm"},
    {"method.positions", CA_OPTION_ANY, "all", NULL, NULL,
     "tokens to store: all, last, subject, subject_last, a list of indices, {after: \"text\"}"},
    {0},
};

static const char *const conventions[] = {
    "q, k and v are projections before any q/k norm and before rotary embedding",
    "attn_out and mlp_out are what is added to the residual stream; mlp.post is the hidden layer "
    "after the gate",
    "rows: /activations/rows gives example and token position of each row of every "
    "/activations/<site>",
    NULL,
};
static const char *const headlines[] = {NULL};

static bool is_pattern(const capture_site *s) { return s->site.kind == CA_SITE_PATTERN; }
static bool is_head(const capture_site *s) {
    return s->site.kind == CA_SITE_FINAL_NORM || s->site.kind == CA_SITE_LOGITS;
}

/* ---- prepare ---- */

static bool same_site(ca_site a, ca_site b) {
    return a.kind == b.kind && a.layer == b.layer && a.head == b.head;
}

static ca_status parse_sites(const ca_job *job, capture *c) {
    ca_status st = CA_OK;
    for (int64_t i = 0, n = ca_config_count(job->config, "method.sites"); i < n; i++) {
        st = ca_site_parse(ca_config_text_at(job->config, "method.sites", i), job->arch, &c->sites,
                           &c->count);
        if (st != CA_OK) return ca_context(st, "%s", ca_config_where(job->config, "method.sites"));
    }
    if (c->count == 0)
        return ca_config_fail(job->config, "method.sites", "expected at least one site");
    for (int64_t i = 0; i < c->count; i++)
        for (int64_t k = 0; k < i; k++)
            if (same_site(c->sites[i], c->sites[k])) {
                char name[CA_SITE_NAME_MAX];
                return ca_config_fail(job->config, "method.sites",
                                      "expected every site once, got %s twice",
                                      ca_site_name(c->sites[i], name));
            }
    return st;
}

static ca_status resolve_positions(const ca_job *job, capture *c) {
    ca_status st = CA_OK;
    ca_positions positions = {0};
    int64_t total = 0;
    const ca_dataset *d = job->data;
    CA_TRY(ca_positions_read(job->config, "method.positions", &positions));
    for (int64_t i = 0; i < d->count; i++) {
        total += d->examples[i].clean.count;
        if (d->examples[i].clean.count > c->longest) c->longest = d->examples[i].clean.count;
    }
    CA_TRY(ca_calloc((size_t)total + 1, sizeof *c->position, &c->position));
    CA_TRY(ca_calloc((size_t)d->count + 1, sizeof *c->position_start, &c->position_start));
    for (int64_t i = 0; i < d->count; i++) {
        int64_t n;
        CA_TRY(ca_positions_resolve(&positions, d, &d->examples[i],
                                    c->position + c->position_start[i], &n));
        c->position_start[i + 1] = c->position_start[i] + n;
    }
out:
    ca_positions_free(&positions);
    return st;
}

static ca_status tap(void *context, const ca_hook_call *call, ca_tensor value);

static ca_status make_hooks(const ca_job *job, capture *c) {
    ca_status st = CA_OK;
    char name[CA_SITE_NAME_MAX];
    CA_TRY(ca_calloc((size_t)c->count, sizeof *c->tapped, &c->tapped));
    CA_TRY(ca_calloc((size_t)c->count, sizeof *c->hooks, &c->hooks));
    for (int64_t i = 0; i < c->count; i++) {
        capture_site *s = &c->tapped[i];
        s->site = c->sites[i];
        s->owner = c;
        s->heads = s->site.head >= 0 ? 1 : ca_site_heads(job->arch, s->site.kind);
        s->width = is_pattern(s) ? c->longest : ca_site_width(job->arch, s->site.kind);
        snprintf(s->path, sizeof s->path, "/activations/%s", ca_site_name(s->site, name));
        c->hooks[i] = (ca_hook){.site = s->site.kind,
                                .first_layer = s->site.layer,
                                .last_layer = s->site.layer,
                                .forward = tap,
                                .context = s};
    }
out:
    return st;
}

/* The deepest thing that any site needs. */
static void set_depth(const ca_job *job, capture *c) {
    int64_t deepest = 0;
    c->request = (ca_forward){.hooks = c->hooks, .hook_count = c->count};
    for (int64_t i = 0; i < c->count; i++) {
        ca_site s = c->sites[i];
        if (s.kind == CA_SITE_LOGITS) c->request.head = CA_HEAD_LOGITS;
        if (s.kind == CA_SITE_FINAL_NORM && c->request.head == CA_HEAD_NONE)
            c->request.head = CA_HEAD_NORM;
        if (s.layer + 1 > deepest) deepest = s.layer + 1;
    }
    c->request.last_layer = c->request.head == CA_HEAD_NONE ? deepest : job->arch->layers;
    for (int64_t i = 0; c->request.head != CA_HEAD_NONE && i < job->data->count; i++) {
        int64_t reads = c->position_start[i + 1] - c->position_start[i];
        if (reads > c->most_reads) c->most_reads = reads;
    }
}

/* Elements of a site's staging buffer in the largest micro-batch. */
static int64_t staging_count(const capture *c, const ca_job *job, const capture_site *s) {
    return is_pattern(s) ? job->arch->heads * c->packing.limits.pattern
                         : c->most_rows * s->heads * s->width;
}

static int64_t buffer_bytes(const capture *c, const ca_job *job) {
    size_t bytes = ca_method_buffer_bytes(c->most_rows, CA_I64);
    for (int64_t i = 0; i < c->count; i++)
        bytes += ca_method_buffer_bytes(staging_count(c, job, &c->tapped[i]), job->dtype);
    return (int64_t)bytes;
}

/* Cuts micro-batches such that pass, batch and staging buffers fit together. */
static ca_status plan_batches(const ca_job *job, capture *c, ca_plan *plan) {
    ca_status st = CA_OK;
    int64_t *lengths = NULL, count = job->data->count, tokens = job->batch;
    ca_pass_limits limits = {.logits = c->request.head == CA_HEAD_LOGITS};
    ca_pass_limits_add_hooks(&limits, c->hooks, c->count);
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *lengths, &lengths));
    for (int64_t i = 0; i < count; i++)
        plan->tokens += lengths[i] = job->data->examples[i].clean.count;
    for (;;) {
        CA_TRY(ca_plan_packing(job->arch, job->dtype, &limits, lengths, NULL, count, c->most_reads,
                               tokens, job->memory, &c->packing));
        c->most_rows = 0;
        for (int64_t b = 0; b < c->packing.batches; b++) {
            int64_t rows =
                c->position_start[c->packing.first[b + 1]] - c->position_start[c->packing.first[b]];
            if (rows > c->most_rows) c->most_rows = rows;
        }
        bool fits = c->packing.bytes + buffer_bytes(c, job) <= job->memory;
        if (fits || job->batch || c->packing.limits.rows <= c->longest) break;
        tokens = c->packing.limits.rows / 2;
        ca_packing_free(&c->packing);
    }
    ca_method_plan_packing(&c->packing, plan);
    plan->examples = count;
    plan->work_bytes += buffer_bytes(c, job);
    for (int64_t i = 0; i < c->count; i++) {
        int64_t row = c->tapped[i].heads * c->tapped[i].width;
        if (c->most_rows * row * 16 > plan->host_bytes) plan->host_bytes = c->most_rows * row * 16;
    }
    plan->flops = ca_flops_forward(job->arch, plan->tokens, c->packing.keys, c->request.last_layer);
    if (c->request.head == CA_HEAD_LOGITS)
        plan->flops += ca_flops_head(job->arch, c->position_start[count]);
out:
    free(lengths);
    return st;
}

static void release(void *state) {
    capture *c = state;
    if (!c) return;
    ca_pass_free(c->pass);
    ca_batch_free(c->batch);
    ca_method_buffers_free(&c->buffers);
    ca_packing_free(&c->packing);
    free(c->sites);
    free(c->tapped);
    free(c->hooks);
    free(c->position);
    free(c->position_start);
    free(c->index_host);
    free(c->staging);
    free(c->values);
    free(c->values_f64);
    free(c);
}

static ca_status prepare(const ca_job *job, ca_plan *plan, void **state) {
    ca_status st = CA_OK;
    capture *c = NULL;
    CA_TRY(ca_calloc(1, sizeof *c, &c));
    CA_TRY(parse_sites(job, c));
    CA_TRY(resolve_positions(job, c));
    CA_TRY(make_hooks(job, c));
    set_depth(job, c);
    CA_TRY(plan_batches(job, c, plan));
    *state = c;
    return CA_OK;
out:
    release(c);
    return st;
}

/* ---- run ---- */

/* Hook: keeps the captured rows of a value. */
static ca_status tap(void *context, const ca_hook_call *call, ca_tensor value) {
    capture_site *s = context;
    ca_tensor rows = s->rows;
    if (is_pattern(s)) { /* rows differ in length: taken apart on the host */
        rows = ca_tensor_slice(s->rows, 0, 0, value.shape[0]);
        return ca_copy(call->backend, rows, value);
    }
    if (is_head(s))
        return ca_copy(call->backend, ca_tensor_rows(ca_tensor_slice(rows, 0, 0, value.shape[0])),
                       value);
    int64_t n = s->owner->index.shape[0];
    if (value.rank == 2) value = ca_tensor_split_last(value, 1);
    if (s->site.head >= 0) value = ca_tensor_slice(value, 1, s->site.head, 1);
    /* heads lead: [heads, T, width] to [heads, n, width], stored as [n, heads, width] */
    return ca_gather(call->backend, ca_tensor_swap_axes(ca_tensor_slice(rows, 0, 0, n), 0, 1),
                     ca_tensor_swap_axes(value, 0, 1), s->owner->index, 1, false);
}

static ca_status reserve(ca_job *job, capture *c) {
    ca_status st = CA_OK;
    int64_t rows = c->position_start[job->data->count];
    ca_result_type type = job->dtype == CA_F64 ? CA_RESULT_F64 : CA_RESULT_F32;
    int64_t(*pairs)[2] = NULL;
    CA_TRY(ca_calloc((size_t)rows + 1, sizeof *pairs, &pairs));
    for (int64_t i = 0; i < job->data->count; i++)
        for (int64_t k = c->position_start[i]; k < c->position_start[i + 1]; k++) {
            pairs[k][0] = i;
            pairs[k][1] = c->position[k];
        }
    for (int64_t i = 0; i < c->count; i++) {
        capture_site *s = &c->tapped[i];
        bool by_head = ca_site_has_heads(s->site.kind) && s->site.head < 0;
        ca_result_shape shape =
            by_head
                ? (ca_result_shape){3,
                                    {rows, s->heads, s->width},
                                    {"row", "head", is_pattern(s) ? "key" : "unit"}}
                : (ca_result_shape){2, {rows, s->width}, {"row", is_pattern(s) ? "key" : "unit"}};
        CA_TRY(ca_result_reserve(job->result, s->path, type, shape));
    }
    CA_TRY(ca_result_put(job->result, "/activations/rows", CA_RESULT_I64,
                         (ca_result_shape){2, {rows, 2}, {"row", "example, position"}}, pairs));
out:
    free(pairs);
    return st;
}

static ca_status create_buffers(ca_job *job, capture *c) {
    ca_status st = CA_OK;
    int64_t most = 1;
    CA_TRY(ca_batch_create(job->backend, c->packing.max_sequences, c->packing.limits.rows,
                           c->packing.limits.reads, &c->batch));
    CA_TRY(ca_pass_create(job->model, &c->packing.limits, &c->pass));
    CA_TRY(ca_method_buffers_create(job->backend, (size_t)buffer_bytes(c, job), &c->buffers));
    c->index = ca_method_buffers_take(&c->buffers, CA_I64, 1, &c->most_rows);
    CA_TRY(ca_calloc((size_t)c->most_rows + 1, sizeof *c->index_host, &c->index_host));
    for (int64_t i = 0; i < c->count; i++) {
        capture_site *s = &c->tapped[i];
        int64_t count = staging_count(c, job, s), rows[] = {c->most_rows, s->heads, s->width};
        s->rows = is_pattern(s) ? ca_method_buffers_take(&c->buffers, job->dtype, 1, &count)
                                : ca_method_buffers_take(&c->buffers, job->dtype, 3, rows);
        if (count > most) most = count;
        if (c->most_rows * s->heads * s->width > most) most = c->most_rows * s->heads * s->width;
    }
    CA_TRY(ca_calloc((size_t)most, sizeof(double), &c->staging));
    CA_TRY(ca_calloc((size_t)most, sizeof(double), &c->values_f64));
    CA_TRY(ca_calloc((size_t)most, sizeof(float), &c->values));
out:
    return st;
}

/* Rows of probabilities out of the ragged pattern of a micro-batch; keys beyond a prompt are 0. */
static void unpack_pattern(capture *c, const capture_site *s, int64_t first, int64_t last) {
    const ca_sequences *q = &c->batch->sequences;
    const double *flat = c->values_f64;
    double *out = c->staging;
    int64_t head0 = s->site.head >= 0 ? s->site.head : 0;
    for (int64_t i = first; i < last; i++) {
        int64_t n = i - first, keys = q->row_start[n + 1] - q->row_start[n];
        const double *pattern = flat + c->job->arch->heads * q->pattern_start[n];
        for (int64_t k = c->position_start[i]; k < c->position_start[i + 1]; k++)
            for (int64_t h = head0; h < head0 + s->heads; h++, out += s->width) {
                memset(out, 0, (size_t)s->width * sizeof *out);
                memcpy(out, pattern + (h * keys + c->position[k]) * keys,
                       (size_t)keys * sizeof *out);
            }
    }
    memcpy(c->values_f64, c->staging, (size_t)(out - (double *)c->staging) * sizeof *out);
}

/* Sends one site's rows of examples [first, last) to the file. */
static ca_status store(capture *c, capture_site *s, int64_t first, int64_t last) {
    ca_status st = CA_OK;
    int64_t row0 = c->position_start[first], rows = c->position_start[last] - row0;
    int64_t count = rows * s->heads * s->width;
    const ca_sequences *q = &c->batch->sequences;
    char name[CA_SITE_NAME_MAX];
    ca_tensor t = is_pattern(s) ? ca_tensor_slice(s->rows, 0, 0,
                                                  c->job->arch->heads * q->pattern_start[q->count])
                                : ca_tensor_slice(s->rows, 0, 0, rows);
    CA_TRY(ca_download_f64(c->job->backend, t, c->staging, c->values_f64));
    if (is_pattern(s)) unpack_pattern(c, s, first, last);
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(c->values_f64[i])) {
            int64_t row = row0 + i / (s->heads * s->width), e = first;
            while (c->position_start[e + 1] <= row) e++;
            return ca_fail(CA_E_NUMERIC, "%s: %s is not finite at position %lld",
                           ca_example_place(c->job->data, &c->job->data->examples[e]),
                           ca_site_name(s->site, name), (long long)c->position[row]);
        }
        c->values[i] = (float)c->values_f64[i];
    }
    CA_TRY(ca_result_write(c->job->result, s->path, row0, rows,
                           c->job->dtype == CA_F64 ? (const void *)c->values_f64 : c->values));
out:
    return st;
}

static ca_status step(void *context, int64_t first, int64_t last) {
    ca_status st = CA_OK;
    capture *c = context;
    int64_t n = 0;
    ca_batch_clear(c->batch);
    for (int64_t i = first; i < last; i++) {
        const ca_example *e = &c->job->data->examples[i];
        int64_t start = c->batch->sequences.rows;
        ca_batch_add(c->batch, e->clean.ids, e->clean.count, 0, 0);
        for (int64_t k = c->position_start[i]; k < c->position_start[i + 1]; k++) {
            c->index_host[n++] = start + c->position[k];
            if (c->request.head != CA_HEAD_NONE) ca_batch_read(c->batch, c->position[k]);
        }
    }
    c->index = ca_tensor_1d(c->index.data, CA_I64, n);
    if (n) CA_TRY(ca_upload(c->job->backend, c->index, c->index_host));
    CA_TRY(ca_batch_upload(c->batch));
    c->request.batch = c->batch;
    CA_TRY(ca_pass_forward(c->pass, &c->request));
    for (int64_t i = 0; i < c->count; i++) CA_TRY(store(c, &c->tapped[i], first, last));
out:
    return st;
}

static ca_status run(ca_job *job, void *state, int64_t *done) {
    ca_status st = CA_OK;
    capture *c = state;
    c->job = job;
    if (job->resume_at == 0) {
        CA_TRY(ca_method_write_data(job));
        CA_TRY(reserve(job, c));
    }
    CA_TRY(create_buffers(job, c));
    CA_TRY(ca_method_run_batches(job, &c->packing, "capture", step, c, done));
out:
    return st;
}

const ca_method ca_method_capture = {
    .kind = "capture",
    .summary = "stores activations at named sites",
    .options = options,
    .prepare = prepare,
    .run = run,
    .release = release,
    .conventions = conventions,
    .headlines = headlines,
};
