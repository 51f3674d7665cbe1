/* SPDX-License-Identifier: MIT
 *
 * The groups /patch and /baseline: what is reserved before the run, means after it, and the
 * strongest cells for the terminal. Means are read from the file, so that they include what an
 * earlier, interrupted run wrote.
 */
#include "patch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STRONGEST = 8 };

static const char *const position_words[] = {
    [CA_POSITION_ALL] = "all",         [CA_POSITION_LAST] = "last",
    [CA_POSITION_SUBJECT] = "subject", [CA_POSITION_SUBJECT_LAST] = "subject_last",
    [CA_POSITION_LIST] = "list",       [CA_POSITION_AFTER] = "after",
    [CA_POSITION_WHOLE] = "whole",     [CA_POSITION_CELLS] = "list",
};

/* ---- before ---- */

static ca_status put_sites(ca_job *job, const patch_state *p) {
    ca_status st = CA_OK;
    char(*text)[CA_SITE_NAME_MAX] = NULL;
    const char **names = NULL;
    CA_TRY(ca_calloc((size_t)p->column_count, sizeof *text, &text));
    CA_TRY(ca_calloc((size_t)p->column_count, sizeof *names, &names));
    for (int64_t c = 0; c < p->column_count; c++)
        names[c] = ca_site_name(p->columns[c].site, text[c]);
    CA_TRY(ca_result_put(job->result, "/patch/site", CA_RESULT_TEXT,
                         (ca_result_shape){1, {p->column_count}, {"site"}}, names));
out:
    free(text);
    free(names);
    return st;
}

/* Every slot by an index, and as configs write it. */
static ca_status put_slots(ca_job *job, const patch_state *p) {
    ca_status st = CA_OK;
    const char **names = NULL;
    ca_result_shape shape = {1, {p->slots}, {"position"}};
    CA_TRY(ca_calloc((size_t)p->slots + 1, sizeof *names, &names));
    for (int64_t s = 0; s < p->slots; s++) names[s] = p->slot_name[s].text;
    CA_TRY(ca_result_put(job->result, "/patch/position", CA_RESULT_I64, shape, p->slot_position));
    CA_TRY(ca_result_put(job->result, "/patch/position_name", CA_RESULT_TEXT, shape, names));
out:
    free(names);
    return st;
}

static ca_status put_attributes(ca_job *job, const patch_state *p) {
    ca_status st = CA_OK;
    const char *const words[][2] = {
        {"metric", "metric"}, {"style", "method.style"}, {"direction", "method.direction"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        CA_TRY(ca_result_attribute_text(job->result, "/patch", words[i][0],
                                        ca_config_text(job->config, words[i][1])));
    CA_TRY(
        ca_result_attribute_text(job->result, "/patch", "positions", position_words[p->positions]));
    CA_TRY(ca_result_attribute_text(job->result, "/patch", "aligned_by",
                                    p->by_role ? "role" : "position"));
    CA_TRY(ca_result_attribute_int(job->result, "/patch", "windows",
                                   ca_config_int(job->config, "method.windows")));
    CA_TRY(ca_result_attribute_text(job->result, "/baseline", "metric",
                                    ca_config_text(job->config, "metric")));
    if (p->restore) {
        CA_TRY(ca_result_attribute_float(job->result, "/patch", "sigma", p->noise.sigma));
        CA_TRY(ca_result_attribute_int(job->result, "/patch", "draws", p->draws));
    }
out:
    return st;
}

/* Where each prompt's subject lies, so that maps can be aligned by it. */
static ca_status put_subjects(ca_job *job) {
    ca_status st = CA_OK;
    int64_t count = job->data->count, *spans = NULL;
    CA_TRY(ca_calloc((size_t)count, 2 * sizeof *spans, &spans));
    for (int64_t i = 0; i < count; i++) {
        spans[2 * i] = job->data->examples[i].subject_first;
        spans[2 * i + 1] = job->data->examples[i].subject_last;
    }
    CA_TRY(ca_result_put(job->result, "/data/subject", CA_RESULT_I64,
                         (ca_result_shape){2, {count, 2}, {"example", "start and end"}}, spans));
out:
    free(spans);
    return st;
}

/* Names of the roles, and how many prompts have such tokens. */
static ca_status put_roles(ca_job *job, const patch_state *p) {
    ca_status st = CA_OK;
    int64_t count[PATCH_ROLES];
    ca_result_shape shape = {1, {PATCH_ROLES}, {"role"}};
    ca_patch_count_roles(p, job->data->count, count);
    CA_TRY(
        ca_result_put(job->result, "/patch/role", CA_RESULT_TEXT, shape, ca_patch_role_names(p)));
    CA_TRY(ca_result_put(job->result, "/patch/prompts_by_role", CA_RESULT_I64, shape, count));
out:
    return st;
}

ca_status ca_patch_reserve(ca_job *job, const patch_state *p) {
    ca_status st = CA_OK;
    int64_t count = job->data->count;
    ca_result_shape examples = {1, {count}, {"example"}};
    ca_result_shape cells = {
        3, {count, p->column_count, p->slots}, {"example", "site", "position"}};
    CA_TRY(put_sites(job, p));
    CA_TRY(put_slots(job, p));
    CA_TRY(put_attributes(job, p));
    if (p->restore) CA_TRY(put_subjects(job));
    if (p->role) CA_TRY(put_roles(job, p));
    CA_TRY(ca_result_reserve(job->result, "/patch/value", CA_RESULT_F64, cells));
    CA_TRY(ca_result_reserve(job->result, "/patch/effect", CA_RESULT_F64, cells));
    if (p->draws > 1)
        CA_TRY(ca_result_reserve(job->result, "/patch/effect_interval", CA_RESULT_F64, cells));
    CA_TRY(ca_result_reserve(job->result, "/baseline/clean", CA_RESULT_F64, examples));
    CA_TRY(ca_result_reserve(job->result, "/baseline/corrupted", CA_RESULT_F64, examples));
    CA_TRY(ca_result_reserve(job->result, "/baseline/predicted", CA_RESULT_I32, examples));
    CA_TRY(ca_result_reserve(job->result, "/data/position", CA_RESULT_I64, examples));
out:
    return st;
}

/* ---- after ---- */

/* Everything that the means are made of, read back. */
typedef struct written {
    int64_t count, cells;
    double *clean, *corrupted, *value, *effect;
    int32_t *predicted;
} written;

static ca_status read_written(ca_job *job, const patch_state *p, written *w) {
    ca_status st = CA_OK;
    *w = (written){.count = job->data->count, .cells = p->column_count * p->slots};
    size_t all = (size_t)(w->count * w->cells);
    CA_TRY(ca_calloc((size_t)w->count + 1, sizeof *w->clean, &w->clean));
    CA_TRY(ca_calloc((size_t)w->count + 1, sizeof *w->corrupted, &w->corrupted));
    CA_TRY(ca_calloc((size_t)w->count + 1, sizeof *w->predicted, &w->predicted));
    CA_TRY(ca_calloc(all + 1, sizeof *w->value, &w->value));
    CA_TRY(ca_calloc(all + 1, sizeof *w->effect, &w->effect));
    CA_TRY(ca_result_read_back(job->result, "/baseline/clean", w->clean));
    CA_TRY(ca_result_read_back(job->result, "/baseline/corrupted", w->corrupted));
    CA_TRY(ca_result_read_back(job->result, "/baseline/predicted", w->predicted));
    CA_TRY(ca_result_read_back(job->result, "/patch/value", w->value));
    CA_TRY(ca_result_read_back(job->result, "/patch/effect", w->effect));
out:
    return st;
}

/* The same by role of the tokens; shares the runs that are not patched. */
static ca_status group_by_role(const patch_state *p, const written *w, written *grouped) {
    ca_status st = CA_OK;
    *grouped = *w;
    grouped->cells = p->column_count * PATCH_ROLES;
    grouped->value = grouped->effect = NULL;
    size_t all = (size_t)(w->count * grouped->cells);
    CA_TRY(ca_calloc(all, sizeof *grouped->value, &grouped->value));
    CA_TRY(ca_calloc(all, sizeof *grouped->effect, &grouped->effect));
    ca_patch_group_by_role(p, w->count, w->value, grouped->value);
    ca_patch_group_by_role(p, w->count, w->effect, grouped->effect);
out:
    return st;
}

static void free_grouped(written *grouped) {
    free(grouped->value);
    free(grouped->effect);
}

static void free_written(written *w) {
    free(w->clean);
    free(w->corrupted);
    free(w->value);
    free(w->effect);
    free(w->predicted);
}

/* Over the prompts that have the cell. */
typedef struct cell_mean {
    double value, effect, interval, ratio;
    bool common; /* at least half of all prompts have it: what few have is no mean to rank */
} cell_mean;

static cell_mean mean_cell(const written *w, int64_t cell) {
    double value = 0, clean = 0, corrupted = 0, effect = 0, squares = 0;
    int64_t count = 0, defined = 0;
    for (int64_t i = 0; i < w->count; i++) {
        double v = w->value[i * w->cells + cell], e = w->effect[i * w->cells + cell];
        if (!isfinite(v)) continue;
        value += v;
        clean += w->clean[i];
        corrupted += w->corrupted[i];
        count++;
        if (!isfinite(e)) continue;
        effect += e;
        defined++;
    }
    effect = defined ? effect / (double)defined : NAN;
    for (int64_t i = 0; i < w->count; i++) {
        double e = w->effect[i * w->cells + cell];
        if (isfinite(e)) squares += (e - effect) * (e - effect);
    }
    return (cell_mean){
        .value = count ? value / (double)count : NAN,
        .effect = effect,
        .interval = ca_method_half_width(squares, defined),
        .ratio = clean != corrupted ? (value - corrupted) / (clean - corrupted) : NAN,
        .common = 2 * count >= w->count,
    };
}

static ca_status write_baseline(ca_job *job, const written *w) {
    ca_status st = CA_OK;
    double clean = 0, corrupted = 0, right = 0, count = (double)w->count;
    bool answers = true;
    for (int64_t i = 0; i < w->count; i++) {
        const ca_answers *a = &job->data->examples[i].answer;
        clean += w->clean[i] / count;
        corrupted += w->corrupted[i] / count;
        right += ca_metric_is_answer(a, w->predicted[i]);
        answers = answers && a->count > 0;
    }
    CA_TRY(ca_result_attribute_float(job->result, "/baseline", "clean_mean", clean));
    CA_TRY(ca_result_attribute_float(job->result, "/baseline", "corrupted_mean", corrupted));
    if (answers)
        CA_TRY(ca_result_attribute_float(job->result, "/baseline", "accuracy", right / count));
out:
    return st;
}

/* A prompt has all of its effects or none. */
static int64_t count_undefined(const written *w) {
    int64_t undefined = 0;
    for (int64_t i = 0; i < w->count; i++) {
        bool defined = false;
        for (int64_t c = 0; c < w->cells; c++) defined |= isfinite(w->effect[i * w->cells + c]);
        undefined += !defined;
    }
    return undefined;
}

/* Means of cells [columns, places], and the strongest of their effects: the furthest from that of
 * the run that is patched. */
static ca_status write_means(ca_job *job, const patch_state *p, const written *w, bool by_role,
                             double *strongest) {
    ca_status st = CA_OK;
    enum { MEANS = 4 };
    static const char *const names[MEANS] = {"mean_value", "mean_effect", "mean_effect_interval",
                                             "ratio_of_means"};
    double *means = NULL, still = p->denoise ? 0 : 1;
    char path[64];
    ca_result_shape shape = {
        2, {p->column_count, w->cells / p->column_count}, {"site", by_role ? "role" : "position"}};
    CA_TRY(ca_calloc((size_t)(MEANS * w->cells), sizeof *means, &means));
    *strongest = NAN;
    for (int64_t c = 0; c < w->cells; c++) {
        cell_mean m = mean_cell(w, c);
        means[c] = m.value;
        means[w->cells + c] = m.effect;
        means[2 * w->cells + c] = m.interval;
        means[3 * w->cells + c] = m.ratio;
        if (m.common && isfinite(m.effect) && !(fabs(m.effect - still) <= fabs(*strongest - still)))
            *strongest = m.effect;
    }
    for (int i = 0; i < MEANS; i++) {
        snprintf(path, sizeof path, "/patch/%s%s", names[i], by_role ? "_by_role" : "");
        CA_TRY(ca_result_put(job->result, path, CA_RESULT_F64, shape, means + i * w->cells));
    }
out:
    free(means);
    return st;
}

static ca_status write_all_means(ca_job *job, const patch_state *p, const written *w) {
    ca_status st = CA_OK;
    double at_position, at_role;
    written grouped = {0};
    CA_TRY(write_means(job, p, w, false, &at_position));
    if (p->role) {
        CA_TRY(group_by_role(p, w, &grouped));
        CA_TRY(write_means(job, p, &grouped, true, &at_role));
    }
    CA_TRY(ca_result_attribute_float(job->result, "/patch", "strongest_effect",
                                     p->by_role ? at_role : at_position));
out:
    free_grouped(&grouped);
    return st;
}

ca_status ca_patch_summarise(ca_job *job, const patch_state *p) {
    ca_status st = CA_OK;
    written w = {0};
    CA_TRY(read_written(job, p, &w));
    CA_TRY(write_all_means(job, p, &w));
    CA_TRY(write_baseline(job, &w));
    int64_t undefined = count_undefined(&w);
    CA_TRY(ca_result_attribute_int(job->result, "/patch", "undefined", undefined));
    if (undefined)
        ca_log(CA_LOG_WARNING,
               "prompts whose clean and corrupted runs give the same metric: %lld; their effects "
               "are NaN",
               (long long)undefined);
out:
    free_written(&w);
    return st;
}

/* ---- terminal ---- */

/* Whether a slot is one token that its index names. */
static bool is_indexed(const patch_state *p, int64_t slot) {
    char index[32];
    snprintf(index, sizeof index, "%lld", (long long)p->slot_position[slot]);
    return strcmp(index, p->slot_name[slot].text) == 0;
}

/* "at token 13 ' to'", "last", "after "went""; the piece is shown when all prompts agree on it. */
static ca_status print_slot(const ca_job *job, const patch_state *p, int64_t slot,
                            ca_string *text) {
    ca_status st = CA_OK;
    int64_t at = p->slot_position[slot];
    if (!is_indexed(p, slot)) return ca_string_printf(text, "%s", p->slot_name[slot].text);
    CA_TRY(ca_string_printf(text, "at token %lld", (long long)at));
    int32_t id = -1;
    for (int64_t i = 0; i < job->data->count; i++) {
        const ca_prompt_text *prompt = &job->data->examples[i].clean;
        int64_t t = at < 0 ? at + prompt->count : at;
        if (t < 0 || t >= prompt->count || (i > 0 && prompt->ids[t] != id)) return CA_OK;
        id = prompt->ids[t];
    }
    CA_TRY(ca_string_printf(text, " '"));
    CA_TRY(ca_method_piece(job, id, text));
    CA_TRY(ca_string_printf(text, "'"));
out:
    return st;
}

/* The cell with the strongest effect of those not yet printed; -1 when none is left. */
static int64_t strongest_cell(const cell_mean *means, int64_t count, double sign) {
    int64_t best = -1;
    for (int64_t c = 0; c < count; c++)
        if (means[c].common && isfinite(means[c].effect) &&
            (best < 0 || sign * means[c].effect > sign * means[best].effect))
            best = c;
    return best;
}

/* The strongest cells, strongest first. */
static ca_status print_cells(const ca_job *job, const patch_state *p, const written *w,
                             ca_string *text) {
    ca_status st = CA_OK;
    cell_mean *means = NULL;
    int64_t places = w->cells / p->column_count;
    double sign = p->denoise ? 1 : -1; /* what was put in moves the run towards its own source */
    char name[CA_SITE_NAME_MAX];
    CA_TRY(ca_calloc((size_t)w->cells, sizeof *means, &means));
    for (int64_t c = 0; c < w->cells; c++) means[c] = mean_cell(w, c);
    for (int64_t n = 0; n < STRONGEST; n++) {
        int64_t best = strongest_cell(means, w->cells, sign);
        if (best < 0) break;
        CA_TRY(ca_string_printf(text, "    %6.3f  %-22s ", means[best].effect,
                                ca_site_name(p->columns[best / places].site, name)));
        if (p->by_role)
            CA_TRY(ca_string_printf(text, "at %s", ca_patch_role_names(p)[best % places]));
        else
            CA_TRY(print_slot(job, p, best % places, text));
        CA_TRY(ca_string_printf(text, "\n"));
        means[best].effect = NAN;
    }
out:
    free(means);
    return st;
}

ca_status ca_patch_answer(ca_job *job, void *state, ca_string *text) {
    ca_status st = CA_OK;
    const patch_state *p = state;
    written w = {0}, grouped = {0};
    double clean = 0, corrupted = 0;
    CA_TRY(read_written(job, p, &w));
    for (int64_t i = 0; i < w.count; i++) {
        clean += w.clean[i] / (double)w.count;
        corrupted += w.corrupted[i] / (double)w.count;
    }
    CA_TRY(ca_string_printf(text, "%s over %lld prompts: clean %.4g, corrupted %.4g\n",
                            p->metric.kind->name, (long long)w.count, clean, corrupted));
    CA_TRY(ca_string_printf(
        text, "strongest effects (0 = corrupted, 1 = clean) of cells in half of the prompts or "
              "more:\n"));
    if (p->by_role) CA_TRY(group_by_role(p, &w, &grouped));
    CA_TRY(print_cells(job, p, p->by_role ? &grouped : &w, text));
out:
    free_grouped(&grouped);
    free_written(&w);
    return st;
}
