/* SPDX-License-Identifier: MIT
 *
 * Hooks for the tests of the executor: record, nudge, replace.
 */
#include "executor.h"

#include <math.h>

/* ---- tap */

static ca_status tap_forward(void *context, const ca_hook_call *call, ca_tensor value) {
    tap *t = context;
    if (call->recompute) {
        t->recomputes++;
        return CA_OK;
    }
    t->forwards++;
    t->count = ca_tensor_count(&value);
    t->value[call->layer + 1] = values_of(t->f, value);
    return CA_OK;
}

static ca_status tap_backward(void *context, const ca_hook_call *call, ca_tensor gradient) {
    tap *t = context;
    t->backwards++;
    t->gradient[call->layer + 1] = values_of(t->f, gradient);
    return CA_OK;
}

ca_hook tap_at(fixture *f, tap *t, ca_site_kind site) {
    *t = (tap){.f = f};
    return (ca_hook){.site = site,
                     .last_layer = f->layers - 1,
                     .forward = tap_forward,
                     .backward = tap_backward,
                     .context = t};
}

/* ---- nudge */

static ca_tensor direction_like(fixture *f, ca_tensor value) {
    return random_tensor(f, value.rank, value.shape, "direction");
}

static ca_status nudge_forward(void *context, const ca_hook_call *call, ca_tensor value) {
    nudge *n = context;
    return ca_add(call->backend, value, direction_like(n->f, value), n->epsilon);
}

static ca_status nudge_backward(void *context, const ca_hook_call *call, ca_tensor gradient) {
    nudge *n = context;
    (void)call;
    int64_t count = ca_tensor_count(&gradient);
    const double *g = values_of(n->f, gradient);
    const double *d = values_of(n->f, direction_like(n->f, ca_tensor_slice(gradient, 0, 0, 1)));
    assert_int_equal(gradient.shape[0], 1);
    double squares = 0;
    n->slope = 0;
    for (int64_t i = 0; i < count; i++) {
        n->slope += g[i] * d[i];
        squares += g[i] * g[i] * d[i] * d[i];
    }
    n->size = sqrt(squares);
    return CA_OK;
}

ca_hook nudge_at(fixture *f, nudge *n, ca_site_kind site, int64_t layer) {
    *n = (nudge){.f = f};
    return (ca_hook){.site = site,
                     .first_layer = layer,
                     .last_layer = layer,
                     .edits = true,
                     .forward = nudge_forward,
                     .backward = nudge_backward,
                     .context = n};
}

/* ---- patch */

static ca_status patch_forward(void *context, const ca_hook_call *call, ca_tensor value) {
    const patch *p = context;
    if (p->head >= 0) value = ca_tensor_slice(value, 1, p->head, 1);
    return ca_copy(call->backend, value, p->source);
}

static ca_status patch_backward(void *context, const ca_hook_call *call, ca_tensor gradient) {
    const patch *p = context;
    if (p->head >= 0) gradient = ca_tensor_slice(gradient, 2, p->head, 1);
    return ca_fill(call->backend, gradient, 0);
}

ca_hook patch_at(patch *p, ca_site_kind site, int64_t layer) {
    return (ca_hook){.site = site,
                     .first_layer = layer,
                     .last_layer = layer,
                     .edits = true,
                     .forward = patch_forward,
                     .backward = patch_backward,
                     .context = p};
}
