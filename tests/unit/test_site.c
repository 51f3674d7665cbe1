/* SPDX-License-Identifier: MIT
 *
 * Names of sites: what expressions expand to, in which order, and what is refused.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "causa/site.h"

#include <stdlib.h>
#include <string.h>

static const ca_arch arch = {.layers = 12,
                             .heads = 6,
                             .kv_heads = 2,
                             .head_dim = 8,
                             .width = 40,
                             .mlp_width = 100,
                             .vocab = 300};

/* The expansion of one expression as names joined by spaces. */
static void expect(const char *text, const char *names) {
    ca_site *sites = NULL;
    int64_t count = 0;
    ca_string joined = {0};
    char name[CA_SITE_NAME_MAX];
    if (ca_site_parse(text, &arch, &sites, &count) != CA_OK) fail_msg("%s", ca_error_text());
    for (int64_t i = 0; i < count; i++)
        assert_int_equal(
            ca_string_printf(&joined, "%s%s", i ? " " : "", ca_site_name(sites[i], name)), CA_OK);
    assert_string_equal(joined.text, names);
    ca_string_free(&joined);
    free(sites);
}

static void refuse(const ca_arch *model, const char *text, const char *words, const char *hint) {
    ca_site *sites = NULL;
    int64_t count = 0;
    ca_error_clear();
    assert_int_equal(ca_site_parse(text, model, &sites, &count), CA_E_CONFIG);
    if (!strstr(ca_error_text(), words)) fail_msg("'%s' is not in '%s'", words, ca_error_text());
    if (!strstr(ca_error_hint(), hint)) fail_msg("'%s' is not in '%s'", hint, ca_error_hint());
    assert_int_equal(count, 0);
    free(sites);
}

static void test_every_kind_round_trips(void **state) {
    (void)state;
    char text[CA_SITE_NAME_MAX], name[CA_SITE_NAME_MAX + 8];
    for (int k = 0; k < CA_SITE_COUNT; k++) {
        ca_site_kind kind = (ca_site_kind)k;
        snprintf(text, sizeof text, "%s%s", ca_site_in_block(kind) ? "blocks.11." : "",
                 ca_site_kind_name(kind));
        expect(text, text);
        if (!ca_site_has_heads(kind)) continue;
        snprintf(name, sizeof name, "%s[1]", text);
        expect(name, name);
    }
}

static void test_ranges(void **state) {
    (void)state;
    expect("blocks.[0-2,8].attn.z",
           "blocks.0.attn.z blocks.1.attn.z blocks.2.attn.z blocks.8.attn.z");
    expect("blocks.5.attn.z[2,4]", "blocks.5.attn.z[2] blocks.5.attn.z[4]");
    expect("blocks.[1,0].attn.q[1,0]", /* rising, layers slowest */
           "blocks.0.attn.q[0] blocks.0.attn.q[1] blocks.1.attn.q[0] blocks.1.attn.q[1]");
    expect("blocks.[3,2-4,3].mlp_out", "blocks.2.mlp_out blocks.3.mlp_out blocks.4.mlp_out");
    expect("blocks.7.attn.k[*]", "blocks.7.attn.k[0] blocks.7.attn.k[1]");
    ca_site *sites = NULL;
    int64_t count = 0;
    assert_int_equal(ca_site_parse("blocks.*.attn.z[*]", &arch, &sites, &count), CA_OK);
    assert_int_equal(count, 12 * 6);
    assert_int_equal(ca_site_parse("logits", &arch, &sites, &count), CA_OK); /* appended */
    assert_int_equal(count, 12 * 6 + 1);
    assert_int_equal(sites[count - 1].kind, CA_SITE_LOGITS);
    assert_int_equal(sites[count - 1].layer, -1);
    assert_int_equal(sites[0].head, 0);
    free(sites);
}

static void test_transformer_lens_names(void **state) {
    (void)state;
    expect("hook_embed", "embed");
    expect("blocks.0.hook_resid_pre", "blocks.0.resid_pre");
    expect("blocks.0.attn.hook_z[1]", "blocks.0.attn.z[1]");
    refuse(&arch, "blocks.0.rehook_z", "there is no site 'rehook_z'", "");
}

static void test_refused(void **state) {
    (void)state;
    refuse(&arch, "", "there is no site ''", "");
    refuse(&arch, "blocks.0.resid_pots", "there is no site 'resid_pots'", "'resid_post'");
    refuse(&arch, "blocks.12.mlp_out", "expected a layer below 12, got 12", "");
    refuse(&arch, "blocks.99999999999999999999.mlp_out", "expected a layer below 12", "");
    refuse(&arch, "blocks.x.mlp_out", "expected a layer number, got 'x.mlp_out'", "");
    refuse(&arch, "blocks.-1.mlp_out", "expected a layer number", "");
    refuse(&arch, "blocks.[3-1].mlp_out", "the layer range 3-1 runs backwards", "");
    refuse(&arch, "blocks.[1-].mlp_out", "expected a layer number, got '].mlp_out'", "");
    refuse(&arch, "blocks.[1", "expected ',' or ']', got ''", "");
    refuse(&arch, "blocks.[].mlp_out", "expected a layer number", "");
    refuse(&arch, "blocks.1", "expected '.' and a site name after the layers", "");
    refuse(&arch, "blocks.1.", "there is no site ''", "");
    refuse(&arch, "blocks.0.attn.z[6]", "expected a head below 6, got 6", "");
    refuse(&arch, "blocks.0.attn.v[2]", "expected a head below 2, got 2", ""); /* key/value heads */
    refuse(&arch, "blocks.0.attn.z[1]x", "expected the end, got 'x'", "");
    refuse(&arch, "blocks.0.mlp.post[1]", "'mlp.post' has no heads to choose", "");
    refuse(&arch, "logits[0]", "'logits' has no heads to choose", "");
    refuse(&arch, "blocks.0.logits", "'logits' is not inside a block", "");
    refuse(&arch, "mlp_out", "'mlp_out' is inside a block: write blocks.LAYER.NAME", "");
    ca_arch parallel = arch;
    parallel.parallel = true;
    refuse(&parallel, "blocks.0.resid_mid", "parallel and have no resid_mid", "");
    char longest[400];
    memset(longest, 'a', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    refuse(&arch, longest, "the name is too long", "");
}

static void test_shapes(void **state) {
    (void)state;
    static const struct {
        ca_site_kind kind;
        int64_t heads, width;
    } expected[] = {
        {CA_SITE_EMBED, 1, 40},      {CA_SITE_Q, 6, 8},          {CA_SITE_K, 2, 8},
        {CA_SITE_V, 2, 8},           {CA_SITE_PATTERN, 6, 0},    {CA_SITE_Z, 6, 8},
        {CA_SITE_RESULT, 6, 40},     {CA_SITE_ATTN_OUT, 1, 40},  {CA_SITE_MLP_PRE, 1, 100},
        {CA_SITE_MLP_POST, 1, 100},  {CA_SITE_RESID_MID, 1, 40}, {CA_SITE_RESID_POST, 1, 40},
        {CA_SITE_FINAL_NORM, 1, 40}, {CA_SITE_LOGITS, 1, 300},
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        assert_int_equal(ca_site_heads(&arch, expected[i].kind), expected[i].heads);
        assert_int_equal(ca_site_width(&arch, expected[i].kind), expected[i].width);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kind_round_trips),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_transformer_lens_names),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
