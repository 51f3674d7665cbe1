/* SPDX-License-Identifier: MIT
 *
 * Cells of activation patching, which start from cached states, against the plain way: a forward
 * over the whole prompt with a hook that puts the other run's values in.
 *
 * A cell's rows see the same keys in the same order as in the whole prompt, and every row of a
 * product is summed by itself, so on ref both are equal bit for bit; in float32 products of other
 * shapes add in another order.
 */
#include "executor.h"
#include "method/patch/engine.h"

#include <stdlib.h>
#include <string.h>

enum { LENGTH = 11, FIRST_DIFFERENCE = 2, MOST_PLACES = 64, MOST_CELLS = 512, SPANS = 5 };

/* Single tokens, several, all that differ, and some with gaps between them, the last one included.
 * LENGTH exceeds the window of the windowed model. */
static const bool with_gaps[LENGTH] = {[3] = true, [5] = true, [6] = true, [LENGTH - 1] = true};
static const struct {
    int64_t from, to;
    const bool *tokens;
} spans[SPANS] = {{2, 3, NULL},
                  {LENGTH - 1, LENGTH, NULL},
                  {4, 8, NULL},
                  {FIRST_DIFFERENCE, LENGTH, NULL},
                  {3, LENGTH, with_gaps}};

/* The pair lies behind another prompt in the first pass, so that no row number is right by luck. */
typedef struct setting {
    fixture *f;
    int32_t ids[2][LENGTH]; /* source, target */
    int64_t row[2];         /* where they begin in the first pass */
    patch_place places[MOST_PLACES];
    int64_t place_count;
    patch_engine *engine;
    double *logits[2]; /* [V] of the unpatched runs */
    bool any_order;    /* the plain way adds in another order: equal but for rounding */
} setting;

static void add_places(setting *s, ca_site_kind kind) {
    for (int64_t l = 0; l < s->f->layers; l++)
        s->places[s->place_count++] = (patch_place){kind, l, l};
    s->places[s->place_count++] = (patch_place){kind, 0, s->f->layers - 1};
}

static void open_setting(setting *s, fixture *f) {
    static const ca_site_kind kinds[] = {
        CA_SITE_Q,        CA_SITE_K,         CA_SITE_V,       CA_SITE_PATTERN,  CA_SITE_Z,
        CA_SITE_ATTN_OUT, CA_SITE_RESID_MID, CA_SITE_MLP_PRE, CA_SITE_MLP_POST, CA_SITE_MLP_OUT};
    ca_tensor logits;
    const double *values;
    *s = (setting){.f = f, .row = {5, 5 + LENGTH}};
    for (int64_t l = 0; l <= f->layers; l++)
        s->places[s->place_count++] = (patch_place){CA_SITE_RESID_PRE, l, l};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) add_places(s, kinds[k]);
    assert_true(s->place_count <= MOST_PLACES);
    for (int64_t t = 0; t < LENGTH; t++) {
        s->ids[1][t] = f->prompts[2].ids[t];
        s->ids[0][t] = t < FIRST_DIFFERENCE ? s->ids[1][t] : f->prompts[2].ids[t + LENGTH];
    }
    patch_sizes sizes = {5 + 2 * LENGTH,
                         3,
                         3,
                         25 + 2 * LENGTH * LENGTH,
                         MOST_CELLS * LENGTH,
                         MOST_CELLS * LENGTH * LENGTH,
                         MOST_CELLS,
                         MOST_CELLS};
    ok(ca_patch_engine_create(f->model, s->places, s->place_count, sizes, &s->engine));
    ca_batch *base = ca_patch_engine_base(s->engine);
    ca_batch_clear(base);
    ca_batch_add(base, f->prompts[0].ids, 5, 0, 0);
    ca_batch_read(base, 4);
    for (int i = 0; i < 2; i++) {
        ca_batch_add(base, s->ids[i], LENGTH, 0, 0);
        ca_batch_read(base, LENGTH - 1);
    }
    ok(ca_batch_upload(base));
    ok(ca_patch_engine_run_base(s->engine, NULL, &logits));
    values = values_of(f, logits);
    for (int i = 0; i < 2; i++) {
        s->logits[i] = numbers(f, f->vocab);
        memcpy(s->logits[i], values + (1 + i) * f->vocab, (size_t)f->vocab * sizeof *values);
    }
}

static patch_cell cell_of(const setting *s, int64_t from, int64_t to, int64_t head) {
    return (patch_cell){s->row[0], s->row[1], LENGTH, from, to, 1, head, NULL};
}

static patch_cell cell_of_span(const setting *s, int span, int64_t head) {
    patch_cell cell = cell_of(s, spans[span].from, spans[span].to, head);
    cell.tokens = spans[span].tokens;
    return cell;
}

static const double *run_cells(setting *s, const patch_place *place, const patch_cell *cells,
                               int64_t count) {
    ca_tensor logits;
    if (count > 1) ok(ca_patch_engine_run_cells(s->engine, place, cells, count / 2));
    ok(ca_patch_engine_run_cells(s->engine, place, cells + count / 2, count - count / 2));
    ok(ca_patch_engine_logits(s->engine, &logits));
    assert_int_equal(logits.shape[0], count);
    return values_of(s->f, logits);
}

/* ---- the plain way */

/* Hook: keeps a site's value of the source run at every layer, then puts rows of it in. */
typedef struct swap {
    fixture *f;
    bool keeps;
    ca_tensor kept[MOST_LAYERS + 1];
    patch_cell cell;
} swap;

static ca_status swap_rows(void *context, const ca_hook_call *call, ca_tensor value) {
    swap *w = context;
    ca_tensor *kept = &w->kept[call->layer + 1];
    if (w->keeps) {
        *kept = tensor_of(w->f, value.rank, value.shape, values_of(w->f, value));
        return CA_OK;
    }
    int64_t pattern[] = {value.shape[0] / (LENGTH * LENGTH), LENGTH, LENGTH};
    bool flat = call->site == CA_SITE_PATTERN; /* [heads, row, key] to [row, heads, key] */
    ca_tensor all = flat ? ca_tensor_swap_axes(ca_tensor_reshape(value, 3, pattern), 0, 1) : value;
    ca_tensor source =
        flat ? ca_tensor_swap_axes(ca_tensor_reshape(*kept, 3, pattern), 0, 1) : *kept;
    for (int64_t t = w->cell.from; t < w->cell.to; t++) {
        if (w->cell.tokens && !w->cell.tokens[t]) continue;
        ca_tensor to = ca_tensor_slice(all, 0, t, 1), from = ca_tensor_slice(source, 0, t, 1);
        if (w->cell.head >= 0) {
            to = ca_tensor_slice(to, 1, w->cell.head, 1);
            from = ca_tensor_slice(from, 1, w->cell.head, 1);
        }
        ok(ca_copy(call->backend, to, from));
    }
    return CA_OK;
}

static const double *run_whole(setting *s, int which, const ca_hook *hook) {
    fixture *f = s->f;
    const sequence whole = {.ids = s->ids[which], .count = LENGTH};
    ca_pass *pass =
        run_model(f, batch_of(f, &whole, 1, READ_LAST), (ca_pass_limits){.logits = true}, hook, 1);
    return values_of(f, ca_pass_logits(pass));
}

/* The site of a place as a hook sees it. */
static ca_hook hook_of(const setting *s, const patch_place *place, swap *w) {
    ca_hook hook = {.site = place->kind,
                    .first_layer = place->first,
                    .last_layer = place->last,
                    .edits = true,
                    .forward = swap_rows,
                    .context = w};
    if (place->kind == CA_SITE_RESID_PRE && place->first == s->f->layers) {
        hook.site = CA_SITE_RESID_POST;
        hook.first_layer = hook.last_layer = s->f->layers - 1;
    }
    return hook;
}

static void check_place(setting *s, const patch_place *place, ca_hook hook) {
    fixture *f = s->f;
    swap *w = hook.context;
    patch_cell cells[MOST_CELLS];
    int64_t heads =
        ca_site_has_heads(place->kind) ? ca_site_heads(&f->model->arch, place->kind) : 0;
    int64_t count = 0;
    for (int64_t h = -1; h < heads; h++)
        for (int i = 0; i < SPANS; i++) cells[count++] = cell_of_span(s, i, h);
    const double *got = run_cells(s, place, cells, count);
    w->keeps = true;
    run_whole(s, 0, &hook);
    w->keeps = false;
    for (int64_t c = 0; c < count; c++) {
        w->cell = cells[c];
        const double *plain = run_whole(s, 1, &hook), *cell = got + c * f->vocab;
        if (s->any_order)
            near(f, "result", cell, plain, f->vocab, f->exact ? 1e-12 : 1e-4);
        else
            same(f, ca_site_kind_name(hook.site), cell, plain, f->vocab, 1e-4);
    }
}

static void cells_like_whole_prompts(fixture *f) {
    setting s;
    swap w = {.f = f};
    open_setting(&s, f);
    for (int64_t p = 0; p < s.place_count; p++)
        check_place(&s, &s.places[p], hook_of(&s, &s.places[p], &w));
    /* the embeddings are patched as the stream that enters block 0 */
    check_place(
        &s, &s.places[0],
        (ca_hook){.site = CA_SITE_EMBED, .edits = true, .forward = swap_rows, .context = &w});
    s.any_order = true; /* results of heads are products of their own, added afterwards */
    for (int64_t p = 0; p < s.place_count; p++) {
        if (s.places[p].kind != CA_SITE_Z) continue;
        patch_place seen = s.places[p];
        seen.kind = CA_SITE_RESULT;
        check_place(&s, &s.places[p], hook_of(&s, &seen, &w));
    }
    ca_patch_engine_free(s.engine);
}

static void test_cells_like_whole_prompts(void **state) {
    (void)state;
    on_every_backend(some_fixtures, cells_like_whole_prompts);
}

/* ---- laws */

/* Everything from the first difference on, at one layer of the stream: the source run. The
 * source's own values put into it: nothing changes. */
static void everything_and_nothing(fixture *f) {
    setting s;
    open_setting(&s, f);
    for (int64_t p = 0; p < s.place_count; p++) {
        patch_cell all = cell_of(&s, FIRST_DIFFERENCE, LENGTH, -1), self = all;
        self.source = self.target;
        same(f, "nothing", run_cells(&s, &s.places[p], &self, 1), s.logits[1], f->vocab, 1e-4);
        if (s.places[p].kind != CA_SITE_RESID_PRE) continue;
        same(f, "everything", run_cells(&s, &s.places[p], &all, 1), s.logits[0], f->vocab, 1e-4);
    }
    ca_patch_engine_free(s.engine);
}

static void test_everything_and_nothing(void **state) {
    (void)state;
    on_every_backend(some_fixtures, everything_and_nothing);
}

/* One by one and in the other order, and the pass left dirty by other cells. */
static void packing_does_not_matter(fixture *f) {
    setting s;
    patch_cell cells[SPANS], reversed[SPANS];
    open_setting(&s, f);
    for (int i = 0; i < SPANS; i++) reversed[SPANS - 1 - i] = cells[i] = cell_of_span(&s, i, -1);
    for (int64_t p = 0; p < s.place_count; p++) {
        const double *together = run_cells(&s, &s.places[p], cells, SPANS);
        const double *other = run_cells(&s, &s.places[p], reversed, SPANS);
        for (int i = 0; i < SPANS; i++) {
            const double *row = together + i * f->vocab;
            same(f, "order", other + (SPANS - 1 - i) * f->vocab, row, f->vocab, 1e-4);
            same(f, "alone", run_cells(&s, &s.places[p], &cells[i], 1), row, f->vocab, 1e-4);
        }
    }
    ca_patch_engine_free(s.engine);
}

static void test_packing_does_not_matter(void **state) {
    (void)state;
    on_every_backend(some_fixtures, packing_does_not_matter);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cells_like_whole_prompts),
        cmocka_unit_test(test_everything_and_nothing),
        cmocka_unit_test(test_packing_does_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
