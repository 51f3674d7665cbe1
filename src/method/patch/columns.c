/* SPDX-License-Identifier: MIT
 *
 * Sites and positions of the config as columns and slots of the result.
 */
#include "patch.h"

#include <stdlib.h>

/* ---- sites ---- */

/* The logits are a product of what leaves the final norm. The embeddings are the stream that enters
 * block 0 (positions that are added later are the same in both runs), the stream that leaves a
 * block is the one that enters the next, and a head's result is its z times a matrix. */
static patch_place place_of(const ca_arch *arch, ca_site site, int64_t window) {
    patch_place p = {CA_SITE_RESID_PRE, site.layer, site.layer};
    if (site.kind == CA_SITE_FINAL_NORM || site.kind == CA_SITE_LOGITS)
        return (patch_place){CA_SITE_FINAL_NORM, arch->layers, arch->layers};
    if (site.kind == CA_SITE_EMBED) p.first = p.last = 0;
    if (site.kind == CA_SITE_RESID_POST) p.first = p.last = site.layer + 1;
    if (p.kind == site.kind || site.kind == CA_SITE_EMBED || site.kind == CA_SITE_RESID_POST)
        return p;
    p.kind = site.kind == CA_SITE_RESULT ? CA_SITE_Z : site.kind;
    p.first = site.layer - window / 2;
    p.last = site.layer + (window + 1) / 2 - 1;
    if (p.first < 0) p.first = 0;
    if (p.last >= arch->layers) p.last = arch->layers - 1;
    return p;
}

static bool same_place(patch_place a, patch_place b) {
    return a.kind == b.kind && a.first == b.first && a.last == b.last;
}

static bool same_site(ca_site a, ca_site b) {
    return a.kind == b.kind && a.layer == b.layer && a.head == b.head;
}

static ca_status check_sites(const ca_job *job, const ca_site *sites, int64_t count) {
    char name[CA_SITE_NAME_MAX];
    if (count == 0)
        return ca_config_fail(job->config, "method.sites", "expected at least one site");
    for (int64_t i = 0; i < count; i++) {
        for (int64_t k = 0; k < i; k++)
            if (same_site(sites[i], sites[k]))
                return ca_config_fail(job->config, "method.sites",
                                      "expected every site once, got %s twice",
                                      ca_site_name(sites[i], name));
    }
    return CA_OK;
}

/* Windows are of parts of blocks: the stream and what follows it are patched at one layer. */
static ca_status check_windows(const ca_job *job, const patch_state *p) {
    int64_t window = ca_config_int(job->config, "method.windows");
    for (int64_t i = 0; i < p->place_count; i++)
        if (p->places[i].kind != CA_SITE_RESID_PRE && p->places[i].kind != CA_SITE_FINAL_NORM)
            return CA_OK;
    if (window == 1) return CA_OK;
    return ca_config_fail(job->config, "method.windows",
                          "expected parts of attention or MLP in method.sites beside it, got sites "
                          "that are patched at one layer");
}

ca_status ca_patch_read_columns(const ca_job *job, patch_state *p) {
    ca_status st = CA_OK;
    ca_site *sites = NULL;
    int64_t count = 0, window = ca_config_int(job->config, "method.windows");
    for (int64_t i = 0, n = ca_config_count(job->config, "method.sites"); i < n; i++) {
        st = ca_site_parse(ca_config_text_at(job->config, "method.sites", i), job->arch, &sites,
                           &count);
        if (st != CA_OK) {
            st = ca_context(st, "%s", ca_config_where(job->config, "method.sites"));
            goto out;
        }
    }
    CA_TRY(check_sites(job, sites, count));
    CA_TRY(ca_calloc((size_t)count, sizeof *p->columns, &p->columns));
    CA_TRY(ca_calloc((size_t)count, sizeof *p->places, &p->places));
    for (int64_t i = 0; i < count; i++) {
        patch_place place = place_of(job->arch, sites[i], window);
        if (p->place_count == 0 || !same_place(p->places[p->place_count - 1], place))
            p->places[p->place_count++] = place;
        p->columns[p->column_count++] = (patch_column){sites[i], p->place_count - 1};
    }
    CA_TRY(check_windows(job, p));
out:
    free(sites);
    return st;
}

/* ---- positions ---- */

static int64_t longest_prompt(const ca_dataset *data) {
    int64_t longest = 0;
    for (int64_t i = 0; i < data->count; i++)
        if (data->examples[i].clean.count > longest) longest = data->examples[i].clean.count;
    return longest;
}

/* A slot of `all` is a token of its own, of a list an element; a named set is patched at once. */
static ca_positions positions_of_slot(const ca_positions *positions, int64_t *slot) {
    ca_positions one = *positions;
    if (positions->kind == CA_POSITION_CELLS) return positions->cells[*slot];
    if (positions->kind == CA_POSITION_LIST) one.indices = &positions->indices[*slot];
    if (positions->kind == CA_POSITION_ALL)
        one = (ca_positions){.kind = CA_POSITION_LIST, .indices = slot};
    one.count = 1;
    return one;
}

static ca_status name_slots(const ca_job *job, const ca_positions *positions, patch_state *p) {
    ca_status st = CA_OK;
    p->slots = positions->kind == CA_POSITION_ALL ? longest_prompt(job->data)
               : positions->count > 0             ? positions->count
                                                  : 1;
    CA_TRY(ca_calloc((size_t)p->slots + 1, sizeof *p->slot_position, &p->slot_position));
    CA_TRY(ca_calloc((size_t)p->slots + 1, sizeof *p->slot_name, &p->slot_name));
    for (int64_t s = 0; s < p->slots; s++) {
        int64_t slot = s;
        ca_positions one = positions_of_slot(positions, &slot);
        p->slot_position[s] = one.kind == CA_POSITION_LIST   ? one.indices[0]
                              : one.kind == CA_POSITION_LAST ? -1
                                                             : 0;
        CA_TRY(ca_positions_print(&one, &p->slot_name[s]));
    }
out:
    return st;
}

/* The tokens of one slot from the first that differs on: before it the runs are equal and nothing
 * is to be patched. `tokens` [prompt]; chosen [prompt]: room for a set with gaps. */
static ca_status resolve_slot(const ca_job *job, const ca_positions *positions, int64_t slot,
                              const ca_example *e, int64_t differs, int64_t *tokens, bool *chosen,
                              patch_span *span) {
    ca_status st = CA_OK;
    int64_t count, first = 0;
    ca_positions one = positions_of_slot(positions, &slot);
    *span = (patch_span){-1, -1, NULL};
    if (positions->kind == CA_POSITION_ALL && slot >= e->clean.count) return CA_OK;
    CA_TRY(ca_positions_resolve(&one, job->data, e, tokens, &count));
    while (first < count && tokens[first] < differs) first++;
    int64_t end = tokens[count - 1] + 1;
    if (end < differs) end = differs;
    *span = (patch_span){first < count ? tokens[first] : end, end, NULL};
    if (span->to - span->from == count - first) return CA_OK;
    for (int64_t i = first; i < count; i++) chosen[tokens[i]] = true;
    span->tokens = chosen;
out:
    return st;
}

/* The spans of one example [slots]. */
static ca_status resolve_slots(const ca_job *job, const ca_positions *positions,
                               const patch_state *p, int64_t example, int64_t longest,
                               int64_t *tokens) {
    ca_status st = CA_OK;
    const ca_example *e = &job->data->examples[example];
    int64_t differs = p->restore ? e->subject_first : e->first_difference;
    for (int64_t s = 0; s < p->slots; s++) {
        int64_t k = example * p->slots + s;
        CA_TRY(resolve_slot(job, positions, s, e, differs, tokens,
                            p->chosen ? p->chosen + k * longest : NULL, &p->spans[k]));
    }
out:
    return st;
}

ca_status ca_patch_read_slots(const ca_job *job, patch_state *p) {
    ca_status st = CA_OK;
    ca_positions positions = {0};
    ca_row_problems problems = {0};
    int64_t *tokens = NULL, longest = longest_prompt(job->data);
    CA_TRY(ca_positions_read_cells(job->config, "method.positions", &positions));
    p->positions = positions.kind;
    CA_TRY(name_slots(job, &positions, p));
    size_t cells = (size_t)(job->data->count * p->slots);
    CA_TRY(ca_calloc((size_t)longest + 1, sizeof *tokens, &tokens));
    CA_TRY(ca_calloc(cells + 1, sizeof *p->spans, &p->spans));
    if (positions.kind == CA_POSITION_CELLS)
        CA_TRY(ca_calloc(cells * (size_t)longest + 1, sizeof *p->chosen, &p->chosen));
    for (int64_t i = 0; i < job->data->count; i++)
        CA_TRY(
            ca_row_problems_take(&problems, resolve_slots(job, &positions, p, i, longest, tokens)));
    CA_TRY(ca_row_problems_report(&problems));
out:
    ca_row_problems_free(&problems);
    ca_positions_free(&positions);
    free(tokens);
    return st;
}
