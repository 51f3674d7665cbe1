/* SPDX-License-Identifier: MIT
 *
 * Method `patch`: activation patching. States of one run are put into another one, a cell at a
 * time, and the metric says how much of the answer each of them carries.
 */
#include "patch.h"

#include <stdlib.h>
#include <string.h>

static const ca_option options[] = {
    {"metric", CA_OPTION_CHOICE, "logit_diff", NULL, CA_METRIC_NAMES,
     "what is measured at the last token, or of whole continuations behind it"},
    {"method.sites", CA_OPTION_TEXTS, NULL, NULL, NULL,
     "sites to patch, each layer and each head in brackets a cell of its own: "
     "blocks.*.resid_pre, blocks.[0-3].attn.z[*]"},
    {"method.positions", CA_OPTION_ANY, "all", NULL, NULL,
     "tokens to patch: all (a cell each), last, subject (its tokens at once), subject_last, whole "
     "(all tokens at once), {after: \"text\"}, or a list of these and of indices, a cell each; "
     "[[1, "
     "3], last]: tokens 1 and 3 at once, then the last one"},
    {"method.windows", CA_OPTION_INT, "1", "1..", NULL,
     "layers patched at once around that of the cell, of parts of attention and MLP; the residual "
     "stream is patched at one"},
    {"method.style", CA_OPTION_CHOICE, "swap", NULL, "swap|restore",
     "corrupted run: the prompt `corrupted` (swap), or `clean` with noise on its subject "
     "(restore)"},
    {"method.direction", CA_OPTION_CHOICE, "denoise", NULL, "denoise|noise",
     "clean states into the corrupted run, or corrupted states into the clean run"},
    {"method.noise.sigma", CA_OPTION_FLOAT, "3", "0..", NULL,
     "standard deviation of the noise of style restore"},
    {"method.noise.unit", CA_OPTION_CHOICE, "std", NULL, "std|absolute",
     "unit of sigma: standard deviation of the embedding table, or 1"},
    {"method.noise.draws", CA_OPTION_INT, "10", "1..", NULL,
     "corrupted runs per prompt, each with noise of its own; effects are means over them"},
    {0},
};

static const char *const conventions[] = {
    "effect: (value - corrupted) / (clean - corrupted) per prompt, 0 = the corrupted run, 1 = the "
    "clean run, in both directions; NaN where clean and corrupted differ by less than 1e-5 of the "
    "larger",
    "mean_effect: mean over prompts of effect; ratio_of_means: the same formula from means over "
    "prompts of value, clean and corrupted; mean_effect_interval: half the 95 % interval "
    "(Student's t) of mean_effect over prompts",
    "by_role: means over the tokens of a role in each prompt, then over the prompts that have it; "
    "strongest_effect and the strongest cells are by role where the prompts' roles stand at "
    "different tokens (aligned_by), and of cells that half of the prompts have",
    "metrics are read at the last token (position), continuations from there on; kl (clean run || "
    "patched run, natural logarithm) and js "
    "are 0 and rank is 1 when the model does the task",
    "style restore: value, effect and /baseline/corrupted are means over the draws of noise; "
    "effect_interval is half the 95 % interval (Student's t) of effect over the draws; the noise "
    "on tokens that are not restored stays",
    "windows: N layers around the cell's own, cut at the ends; the residual stream is patched at "
    "one layer",
    "embed is patched as the input of block 0, resid_post as the input of the next block, "
    "attn.result as attn.z, of which it is a product",
    "final_norm and logits are patched where logits are read: at other tokens they change nothing",
    "attn.pattern is patched by rows: how the token of the cell attends to those up to it; what it "
    "reads there stays that of the patched run",
    "attn.k and attn.v have one head per key/value group; q and k are patched before any norm and "
    "before rotary embedding",
    NULL,
};
static const char *const headlines[] = {"/baseline@clean_mean", "/baseline@corrupted_mean",
                                        "/baseline@accuracy", "/patch@strongest_effect", NULL};

/* ---- prepare ---- */

/* Noise that is not the default is meant for style restore. */
static ca_status check_noise(const ca_job *job, const patch_state *p) {
    for (const ca_option *o = options; !p->restore && o->path; o++)
        if (strncmp(o->path, "method.noise.", 13) == 0 &&
            strcmp(ca_config_text(job->config, o->path), o->fallback) != 0)
            return ca_config_fail(job->config, o->path,
                                  "expected method.style restore beside it, got swap");
    return CA_OK;
}

static ca_status check_subject(const ca_job *job, const ca_example *e) {
    if (e->subject_first < e->subject_last) return CA_OK;
    ca_hint(e->clean.text
                ? "column subject holds a text of the prompt, subject_span its [start, end)"
                : "column subject_span holds its [start, end) in tokens in a row of token "
                  "ids, in which a text cannot be found");
    return ca_fail(CA_E_DATA, "%s: column subject: style restore needs a subject, got none",
                   ca_example_place(job->data, e));
}

static ca_status check_examples(const ca_job *job, const patch_state *p) {
    ca_status st = CA_OK;
    ca_row_problems problems = {0};
    for (int64_t i = 0; i < job->data->count; i++) {
        const ca_example *e = &job->data->examples[i];
        CA_TRY(ca_row_problems_take(&problems,
                                    p->restore ? check_subject(job, e)
                                               : ca_method_check_pair(job->data, e, "style swap")));
    }
    CA_TRY(ca_row_problems_report(&problems));
out:
    ca_row_problems_free(&problems);
    return st;
}

static void release(void *state) {
    patch_state *p = state;
    if (!p) return;
    ca_patch_engine_free(p->engine);
    ca_patch_noise_free(&p->noise);
    ca_patch_group_free(p->group);
    ca_packing_free(&p->packing);
    ca_metric_close(&p->metric);
    free(p->columns);
    free(p->places);
    for (int64_t s = 0; p->slot_name && s < p->slots; s++) ca_string_free(&p->slot_name[s]);
    free(p->slot_name);
    free(p->slot_position);
    free(p->chosen);
    free(p->spans);
    free(p->role);
    free(p);
}

static ca_status prepare(const ca_job *job, ca_plan *plan, void **state) {
    ca_status st = CA_OK;
    patch_state *p = NULL;
    CA_TRY(ca_calloc(1, sizeof *p, &p));
    p->restore = strcmp(ca_config_text(job->config, "method.style"), "restore") == 0;
    p->denoise = strcmp(ca_config_text(job->config, "method.direction"), "denoise") == 0;
    p->draws = p->restore ? ca_config_int(job->config, "method.noise.draws") : 1;
    CA_TRY(check_noise(job, p));
    CA_TRY(ca_patch_read_columns(job, p));
    CA_TRY(check_examples(job, p));
    CA_TRY(ca_metric_open(job->config, "metric", job->data, job->tokenizer, job->arch->vocab,
                          job->arch->max_positions, &p->metric));
    CA_TRY(ca_patch_read_slots(job, p));
    CA_TRY(ca_patch_align(job, p));
    CA_TRY(ca_patch_plan(job, p, plan));
    *state = p;
    return CA_OK;
out:
    release(p);
    return st;
}

/* ---- run ---- */

static ca_status run(ca_job *job, void *state, int64_t *done) {
    ca_status st = CA_OK;
    patch_state *p = state;
    p->job = job;
    CA_TRY(ca_patch_engine_create(job->model, p->places, p->place_count, p->sizes, &p->engine));
    CA_TRY(ca_patch_group_create(p));
    if (p->restore) CA_TRY(ca_patch_noise_create(job, &p->noise, p->sizes.base_rows));
    if (job->resume_at == 0) {
        CA_TRY(ca_method_write_data(job));
        CA_TRY(ca_patch_reserve(job, p));
    }
    CA_TRY(ca_method_run_batches(job, &p->packing, "patch", ca_patch_group_run, p, done));
    CA_TRY(ca_patch_summarise(job, p));
out:
    return st;
}

const ca_method ca_method_patch = {
    .kind = "patch",
    .summary = "activation patching and causal tracing: which states carry the answer",
    .options = options,
    .prepare = prepare,
    .run = run,
    .answer = ca_patch_answer,
    .release = release,
    .conventions = conventions,
    .headlines = headlines,
};
