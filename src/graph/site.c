/* SPDX-License-Identifier: MIT
 *
 * Site names: the table of sites as text, and the parser of the expressions in configs.
 */
#include "causa/site.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    bool in_block, has_heads;
} site_table[CA_SITE_COUNT] = {
#define SITE_ROW(kind, name, block, head) [kind] = {name, block, head},
    CA_SITE_LIST(SITE_ROW)
#undef SITE_ROW
};

const char *ca_site_kind_name(ca_site_kind kind) { return site_table[kind].name; }
bool ca_site_has_heads(ca_site_kind kind) { return site_table[kind].has_heads; }
bool ca_site_in_block(ca_site_kind kind) { return site_table[kind].in_block; }

int64_t ca_site_heads(const ca_arch *arch, ca_site_kind kind) {
    if (!site_table[kind].has_heads) return 1;
    return kind == CA_SITE_K || kind == CA_SITE_V ? arch->kv_heads : arch->heads;
}

int64_t ca_site_width(const ca_arch *arch, ca_site_kind kind) {
    switch (kind) {
    case CA_SITE_Q:
    case CA_SITE_K:
    case CA_SITE_V:
    case CA_SITE_Z:
        return arch->head_dim;
    case CA_SITE_MLP_PRE:
    case CA_SITE_MLP_POST:
        return arch->mlp_width;
    case CA_SITE_LOGITS:
        return arch->vocab;
    case CA_SITE_PATTERN:
        return 0;
    default:
        return arch->width;
    }
}

const char *ca_site_name(ca_site site, char text[CA_SITE_NAME_MAX]) {
    const char *name = site_table[site.kind].name;
    int n = site.layer >= 0
                ? snprintf(text, CA_SITE_NAME_MAX, "blocks.%lld.%s", (long long)site.layer, name)
                : snprintf(text, CA_SITE_NAME_MAX, "%s", name);
    if (site.head >= 0 && n > 0 && n < CA_SITE_NAME_MAX)
        snprintf(text + n, CA_SITE_NAME_MAX - (size_t)n, "[%lld]", (long long)site.head);
    return text;
}

/* ---- parser ---- */

typedef struct index_set { /* which of 0 .. count - 1 are named, in rising order */
    bool *in;
    int64_t count;
} index_set;

static ca_status parse_index(const char **p, const char *text, const char *what, int64_t count,
                             int64_t *value) {
    if (!isdigit((unsigned char)**p))
        return ca_fail(CA_E_CONFIG, "site '%s': expected a %s number, got '%s'", text, what, *p);
    char *end;
    *value = strtoll(*p, &end, 10);
    *p = end;
    if (*value < count) return CA_OK;
    return ca_fail(CA_E_CONFIG, "site '%s': expected a %s below %lld, got %lld", text, what,
                   (long long)count, (long long)*value);
}

/* "3", "*", "[0-3,8]", "[*]"; *p stands on the first character and ends after the last. */
static ca_status parse_set(const char **p, const char *text, const char *what, index_set set) {
    ca_status st = CA_OK;
    bool bracket = **p == '[';
    if (bracket) ++*p;
    for (;;) {
        int64_t first = 0, last = set.count - 1;
        if (**p == '*') {
            ++*p;
        } else {
            CA_TRY(parse_index(p, text, what, set.count, &first));
            last = first;
            if (bracket && **p == '-') {
                ++*p;
                CA_TRY(parse_index(p, text, what, set.count, &last));
            }
        }
        if (last < first)
            return ca_fail(CA_E_CONFIG, "site '%s': the %s range %lld-%lld runs backwards", text,
                           what, (long long)first, (long long)last);
        for (int64_t i = first; i <= last; i++) set.in[i] = true;
        if (!bracket || **p != ',') break;
        ++*p;
    }
    if (!bracket) return CA_OK;
    if (**p != ']')
        return ca_fail(CA_E_CONFIG, "site '%s': expected ',' or ']', got '%s'", text, *p);
    ++*p;
out:
    return st;
}

static ca_status find_kind(const char *text, const char *name, size_t length, ca_site_kind *kind) {
    const char *names[CA_SITE_COUNT];
    char word[CA_SITE_NAME_MAX];
    for (int i = 0; i < CA_SITE_COUNT; i++) {
        names[i] = site_table[i].name;
        if (strlen(names[i]) == length && memcmp(names[i], name, length) == 0) {
            *kind = (ca_site_kind)i;
            return CA_OK;
        }
    }
    snprintf(word, sizeof word, "%.*s", (int)length, name);
    const char *near = ca_nearest_name(word, names, CA_SITE_COUNT);
    if (near) ca_hint("did you mean '%s'?", near);
    return ca_fail(CA_E_CONFIG, "site '%s': there is no site '%s'", text, word);
}

/* Removes "hook_" after a dot or at the start: TransformerLens spells blocks.0.attn.hook_z. */
static void without_hook_prefix(char *name) {
    for (char *p = name; (p = strstr(p, "hook_"));) {
        if (p == name || p[-1] == '.')
            memmove(p, p + 5, strlen(p + 5) + 1);
        else
            p++;
    }
}

static ca_status append_sites(ca_site_kind kind, index_set layers, index_set heads, bool all_heads,
                              ca_site **sites, int64_t *count) {
    ca_status st = CA_OK;
    int64_t blocks = site_table[kind].in_block ? layers.count : 1;
    for (int64_t l = 0; l < blocks; l++) {
        if (site_table[kind].in_block && !layers.in[l]) continue;
        for (int64_t h = all_heads ? -1 : 0; h < (all_heads ? 0 : heads.count); h++) {
            if (h >= 0 && !heads.in[h]) continue;
            ca_site *grown = realloc(*sites, (size_t)(*count + 1) * sizeof **sites);
            if (!grown) return ca_fail(CA_E_MEMORY, "no memory for the list of sites");
            *sites = grown;
            grown[(*count)++] = (ca_site){kind, site_table[kind].in_block ? l : -1, h};
        }
    }
    return st;
}

ca_status ca_site_parse(const char *text, const ca_arch *arch, ca_site **sites, int64_t *count) {
    ca_status st = CA_OK;
    char name[2 * CA_SITE_NAME_MAX];
    index_set layers = {NULL, arch->layers}, heads = {NULL, arch->heads};
    ca_site_kind kind = CA_SITE_EMBED;
    bool in_block = false;
    CA_TRY(ca_calloc((size_t)layers.count, 1, &layers.in));
    CA_TRY(ca_calloc((size_t)heads.count, 1, &heads.in));
    if ((size_t)snprintf(name, sizeof name, "%s", text) >= sizeof name) {
        st = ca_fail(CA_E_CONFIG, "site '%.40s...': the name is too long", text);
        goto out;
    }
    without_hook_prefix(name);

    const char *p = name;
    if (strncmp(p, "blocks.", 7) == 0) {
        in_block = true;
        p += 7;
        CA_TRY(parse_set(&p, text, "layer", layers));
        if (*p++ != '.') {
            st = ca_fail(CA_E_CONFIG, "site '%s': expected '.' and a site name after the layers",
                         text);
            goto out;
        }
    }
    size_t length = strcspn(p, "[");
    CA_TRY(find_kind(text, p, length, &kind));
    p += length;
    if (in_block != site_table[kind].in_block) {
        st = ca_fail(CA_E_CONFIG,
                     in_block ? "site '%s': '%s' is not inside a block"
                              : "site '%s': '%s' is inside a block: write blocks.LAYER.NAME",
                     text, site_table[kind].name);
        goto out;
    }
    if (kind == CA_SITE_RESID_MID && arch->parallel) {
        st =
            ca_fail(CA_E_CONFIG,
                    "site '%s': the blocks of this model are parallel and have no resid_mid", text);
        goto out;
    }
    bool all_heads = *p == '\0';
    if (!all_heads) {
        if (!site_table[kind].has_heads) {
            st = ca_fail(CA_E_CONFIG, "site '%s': '%s' has no heads to choose", text,
                         site_table[kind].name);
            goto out;
        }
        heads.count = ca_site_heads(arch, kind);
        CA_TRY(parse_set(&p, text, "head", heads));
    }
    if (*p) {
        st = ca_fail(CA_E_CONFIG, "site '%s': expected the end, got '%s'", text, p);
        goto out;
    }
    st = append_sites(kind, layers, heads, all_heads, sites, count);
out:
    free(layers.in);
    free(heads.in);
    return st;
}
