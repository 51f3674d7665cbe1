/* SPDX-License-Identifier: MIT
 *
 * Finds and calls the hooks of a site.
 */
#include "pass.h"

#include <assert.h>

void ca_pass_limits_add_hooks(ca_pass_limits *limits, const ca_hook *hooks, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        limits->sites |= CA_SITE_BIT(hooks[i].site);
        if (hooks[i].edits) limits->edited |= CA_SITE_BIT(hooks[i].site);
        if (hooks[i].per_query_head) limits->per_query_head = true;
    }
}

static bool applies(const ca_hook *hook, ca_site_kind site, int64_t layer) {
    return hook->site == site &&
           (layer < 0 || (hook->first_layer <= layer && layer <= hook->last_layer));
}

bool ca_pass_is_hooked(const ca_pass *pass, ca_site_kind site, int64_t layer) {
    if (!(pass->hooked & CA_SITE_BIT(site))) return false;
    for (int64_t i = 0; i < pass->request.hook_count; i++)
        if (applies(&pass->request.hooks[i], site, layer)) return true;
    return false;
}

bool ca_pass_is_edited(const ca_pass *pass, ca_site_kind site, int64_t layer) {
    if (!(pass->hooked & CA_SITE_BIT(site))) return false;
    for (int64_t i = 0; i < pass->request.hook_count; i++)
        if (pass->request.hooks[i].edits && applies(&pass->request.hooks[i], site, layer))
            return true;
    return false;
}

bool ca_pass_is_read(const ca_pass *pass, ca_site_kind site, int64_t layer) {
    if (!(pass->hooked & CA_SITE_BIT(site))) return false;
    for (int64_t i = 0; i < pass->request.hook_count; i++)
        if (pass->request.hooks[i].forward && applies(&pass->request.hooks[i], site, layer))
            return true;
    return false;
}

static ca_hook_call call_of(const ca_pass *pass, ca_site_kind site, int64_t layer) {
    return (ca_hook_call){
        .backend = pass->model->backend,
        .model = pass->model,
        .batch = pass->request.batch,
        .site = site,
        .layer = layer,
    };
}

ca_status ca_pass_hooks_forward(ca_pass *pass, ca_site_kind site, int64_t layer, bool recompute,
                                ca_tensor value) {
    ca_status st = CA_OK;
    if (!(pass->hooked & CA_SITE_BIT(site))) return CA_OK;
    ca_hook_call call = call_of(pass, site, layer);
    call.recompute = recompute;
    for (int64_t i = 0; i < pass->request.hook_count; i++) {
        const ca_hook *hook = &pass->request.hooks[i];
        if (applies(hook, site, layer) && hook->forward)
            CA_TRY(hook->forward(hook->context, &call, value));
    }
out:
    return st;
}

bool ca_pass_has_shares(const ca_pass *pass, int64_t layer) {
    for (int64_t i = 0; i < pass->request.hook_count; i++) {
        const ca_hook *hook = &pass->request.hooks[i];
        if (hook->per_query_head && applies(hook, hook->site, layer)) return true;
    }
    return false;
}

static ca_status hooks_backward(ca_pass *pass, ca_site_kind site, int64_t layer, int64_t lanes,
                                bool shares, ca_tensor gradient) {
    ca_status st = CA_OK;
    if (!(pass->hooked & CA_SITE_BIT(site))) return CA_OK;
    ca_hook_call call = call_of(pass, site, layer);
    call.lanes = lanes;
    for (int64_t i = pass->request.hook_count - 1; i >= 0; i--) {
        const ca_hook *hook = &pass->request.hooks[i];
        if (!applies(hook, site, layer) || hook->per_query_head != shares) continue;
        assert(hook->backward || !hook->edits);
        if (hook->backward) CA_TRY(hook->backward(hook->context, &call, gradient));
    }
out:
    return st;
}

ca_status ca_pass_hooks_backward(ca_pass *pass, ca_site_kind site, int64_t layer, int64_t lanes,
                                 ca_tensor gradient) {
    return hooks_backward(pass, site, layer, lanes, false, gradient);
}

ca_status ca_pass_hooks_shares(ca_pass *pass, ca_site_kind site, int64_t layer, int64_t lanes,
                               ca_tensor shares) {
    return hooks_backward(pass, site, layer, lanes, true, shares);
}
