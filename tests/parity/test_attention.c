/* SPDX-License-Identifier: MIT
 *
 * Parity of rotary positions and attention: every row of a table is a case that runs the fused and
 * the two-step path forward and backward, and interventions on its patterns.
 */
#include "parity.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "sequences.h"

typedef enum layout {
    SEPARATE, /* q, k, v and their gradients are tensors of their own */
    FUSED,    /* slices of one [T, (H + 2 K) Dh] buffer, gradients too */
    SHARES    /* separate, and each query head keeps its share of dK and dV */
} layout;

/* Lists of sequences: {own rows}, {prefix rows}. */
static const sequence_lengths none = {0};
static const sequence_lengths one_row = {1, {1}, {0}};
static const sequence_lengths ragged = {4, {3, 1, 0, 9}, {0}};
static const sequence_lengths longer = {2, {70, 33}, {0}};
static const sequence_lengths longest = {1, {301}, {0}};
static const sequence_lengths prefixed = {4, {4, 1, 9, 3}, {7, 20, 0, 1}};
static const sequence_lengths long_prefix = {2, {2, 5}, {290, 63}};

typedef struct attention_case {
    const sequence_lengths *lengths;
    int64_t heads, kv_heads, head_dim, lanes;
    layout layout;
    int64_t window;
    double soft_cap;
    double boost;                 /* times 1 / sqrt(Dh); 0 counts as 1 */
    fill f;                       /* of q and k */
    bool repeat;                  /* one cotangent for all lanes */
    bool askew_own, askew_prefix; /* rows that no vector may be loaded from */
    bool largest;                 /* of the cases that go its way through the kernels */
} attention_case;

static const attention_case cases[] = {
    /* head widths */
    {&ragged, 2, 2, 4, 1, SEPARATE, .f = NORMAL},
    {&ragged, 3, 1, 16, 3, FUSED, .f = NORMAL},
    {&ragged, 3, 1, 40, 1, SHARES, .f = NORMAL},
    {&ragged, 9, 3, 64, 2, FUSED, .f = NORMAL},
    {&ragged, 7, 1, 80, 1, SEPARATE, .f = NORMAL},
    {&ragged, 2, 1, 128, 3, FUSED, .f = NORMAL, .largest = true},
    {&ragged, 2, 1, 256, 1, SEPARATE, .f = NORMAL, .largest = true},
    {&ragged, 1, 1, 1, 2, SEPARATE, .f = NORMAL},
    {&ragged, 3, 1, 32, 3, SHARES, .f = NORMAL},
    {&ragged, 2, 1, 96, 1, FUSED, .f = NORMAL},
    {&longer, 3, 3, 96, 3, SEPARATE, .f = NORMAL, .largest = true},
    {&prefixed, 2, 1, 130, 1, SEPARATE, .f = NORMAL, .largest = true},
    {&longer, 1, 1, 160, 2, FUSED, .f = NORMAL, .largest = true},
    {&longer, 1, 1, 256, 1, SHARES, .f = NORMAL, .largest = true},
    {&ragged, 3, 3, 7, 2, FUSED, .f = NORMAL},
    /* no row, one row, long rows */
    {&none, 2, 1, 16, 3, SEPARATE, .f = NORMAL},
    {&none, 2, 1, 16, 3, FUSED, .f = NORMAL},
    {&one_row, 3, 1, 64, 3, FUSED, .f = NORMAL},
    {&one_row, 1, 1, 4, 1, SEPARATE, .f = NORMAL},
    {&longer, 3, 1, 64, 3, FUSED, .f = NORMAL, .largest = true},
    {&longer, 2, 2, 80, 1, SHARES, .f = NORMAL},
    {&longest, 2, 1, 16, 2, SEPARATE, .f = NORMAL},
    {&longest, 2, 1, 64, 1, SHARES, .f = NORMAL},
    {&longer, 2, 1, 7, 2, FUSED, .f = NORMAL},
    /* lanes */
    {&ragged, 7, 1, 16, 16, SEPARATE, .f = NORMAL},
    {&prefixed, 3, 1, 64, 16, FUSED, .f = NORMAL, .largest = true},
    {&longer, 2, 1, 4, 16, SHARES, .f = NORMAL, .repeat = true, .largest = true},
    {&ragged, 3, 1, 16, 3, FUSED, .f = NORMAL, .repeat = true},
    {&ragged, 2, 1, 16, 0, SEPARATE, .f = NORMAL},
    /* prefixes */
    {&prefixed, 3, 1, 16, 1, SEPARATE, .f = NORMAL},
    {&prefixed, 7, 1, 40, 3, SHARES, .f = NORMAL},
    {&long_prefix, 2, 1, 64, 2, FUSED, .f = NORMAL, .largest = true},
    {&long_prefix, 3, 3, 16, 1, SHARES, .f = NORMAL},
    /* vectors of one side only */
    {&prefixed, 3, 1, 64, 2, SEPARATE, .f = NORMAL, .askew_prefix = true},
    {&prefixed, 3, 1, 64, 2, FUSED, .f = NORMAL, .askew_own = true},
    /* windows */
    {&longer, 2, 1, 16, 2, FUSED, .window = 1, .f = NORMAL},
    {&longer, 2, 1, 16, 2, SEPARATE, .window = 5, .f = NORMAL},
    {&longest, 2, 1, 16, 1, SHARES, .window = 64, .f = NORMAL, .largest = true},
    {&longest, 1, 1, 16, 1, SEPARATE, .window = 1000, .f = NORMAL},
    {&prefixed, 3, 1, 16, 3, SHARES, .window = 4, .f = NORMAL},
    {&long_prefix, 2, 1, 64, 2, SEPARATE, .window = 3, .f = NORMAL},
    /* soft caps */
    {&longer, 2, 1, 16, 2, FUSED, .soft_cap = 2, .f = NORMAL},
    {&prefixed, 3, 1, 64, 1, SHARES, .soft_cap = 50, .boost = 40, .f = NORMAL},
    {&prefixed, 2, 2, 80, 3, FUSED, .soft_cap = 30, .window = 6, .f = NORMAL, .largest = true},
    /* a tile's last visible row stands alone in a further tile */
    {&longer, 2, 2, 16, 2, SEPARATE, .window = 2, .f = NORMAL},
    {&longer, 2, 1, 16, 1, SEPARATE, .soft_cap = 20, .boost = 300, .f = NORMAL},
    /* huge scores, equal scores, no scores */
    {&longer, 2, 1, 64, 2, FUSED, .boost = 300, .f = NORMAL},
    {&prefixed, 3, 1, 16, 1, SHARES, .boost = 300, .f = NORMAL},
    {&longer, 2, 1, 16, 2, SEPARATE, .f = EQUAL},
    {&longest, 1, 1, 64, 1, FUSED, .boost = 100, .f = EQUAL},
    {&prefixed, 2, 1, 16, 2, SEPARATE, .boost = 100, .f = TIES},
    {&longer, 2, 1, 16, 2, FUSED, .f = ZERO},
    {&ragged, 2, 1, 16, 2, FUSED, .f = SMALL},
};

static ca_tensor b_array(parity *p, const char *name, int64_t count, const int64_t *values) {
    return parity_input_i64(p, name, CA_I64, count, values);
}

static void place_sequences(parity *p, sequence_arrays *a, const sequence_lengths *lengths) {
    sequence_arrays_fill(a, lengths);
    ca_sequences *q = &a->sequences;
    int64_t positions[400];
    for (int64_t s = 0; s < q->count; s++)
        for (int64_t t = q->row_start[s]; t < q->row_start[s + 1]; t++)
            positions[t] = q->prefix_rows[s] + t - q->row_start[s];
    q->row_start_b = b_array(p, "row_start", q->count + 1, q->row_start);
    q->prefix_start_b = b_array(p, "prefix_start", q->count, q->prefix_start);
    q->prefix_rows_b = b_array(p, "prefix_rows", q->count, q->prefix_rows);
    q->pattern_start_b = b_array(p, "pattern_start", q->count + 1, q->pattern_start);
    q->positions = parity_input_i64(p, "positions", CA_I32, q->rows, positions);
}

/* Columns [first, first + heads Dh) of [.., T, columns] as [.., T, heads, Dh]. */
static ca_tensor heads_of(ca_tensor t, int64_t first, int64_t heads, int64_t head_dim) {
    return ca_tensor_split_last(ca_tensor_slice(t, t.rank - 1, first, heads * head_dim), heads);
}

typedef struct attention_tensors {
    ca_tensor q, k, v, prefix_k, prefix_v;
} attention_tensors;

/* Askew rows begin one column late in rows of one column more. */
static ca_tensor input_rows(parity *p, const char *name, fill f, int64_t rows, int64_t columns,
                            bool askew) {
    ca_tensor t = parity_input(p, name, f, SHAPE(rows, columns + askew));
    return ca_tensor_slice(t, 1, askew, columns);
}

static attention_tensors make_inputs(parity *p, const attention_case *c, const sequence_arrays *a) {
    int64_t rows = a->sequences.rows, h = c->heads, kv = c->kv_heads, e = c->head_dim;
    attention_tensors t = {0};
    if (c->layout == FUSED) {
        ca_tensor fused = input_rows(p, "qkv", c->f, rows, (h + 2 * kv) * e, c->askew_own);
        t.q = heads_of(fused, 0, h, e);
        t.k = heads_of(fused, h * e, kv, e);
        t.v = heads_of(fused, (h + kv) * e, kv, e);
    } else {
        t.q = heads_of(input_rows(p, "q", c->f, rows, h * e, c->askew_own), 0, h, e);
        t.k = heads_of(input_rows(p, "k", c->f, rows, kv * e, c->askew_own), 0, kv, e);
        t.v = heads_of(input_rows(p, "v", NORMAL, rows, kv * e, c->askew_own), 0, kv, e);
    }
    if (a->total_prefix > 0) {
        const int64_t prefix = a->total_prefix;
        ca_tensor k = input_rows(p, "prefix_k", c->f, prefix, kv * e, c->askew_prefix);
        ca_tensor v = input_rows(p, "prefix_v", NORMAL, prefix, kv * e, c->askew_prefix);
        t.prefix_k = heads_of(k, 0, kv, e);
        t.prefix_v = heads_of(v, 0, kv, e);
    }
    return t;
}

/* Gradients as the layout wants them. */
static attention_tensors make_gradients(parity *p, const attention_case *c, int64_t rows,
                                        double scale, double tolerance) {
    int64_t h = c->heads, kv = c->layout == SHARES ? h : c->kv_heads, e = c->head_dim;
    attention_tensors t = {0};
    if (c->layout == FUSED) {
        ca_tensor fused = parity_output(p, "dqkv", scale, SHAPE(c->lanes, rows, (h + 2 * kv) * e));
        parity_set_tolerance(p, tolerance);
        t.q = heads_of(fused, 0, h, e);
        t.k = heads_of(fused, h * e, kv, e);
        t.v = heads_of(fused, (h + kv) * e, kv, e);
        return t;
    }
    t.q = parity_output(p, "dq", scale, SHAPE(c->lanes, rows, h, e));
    parity_set_tolerance(p, tolerance);
    t.k = parity_output(p, "dk", scale, SHAPE(c->lanes, rows, kv, e));
    parity_set_tolerance(p, tolerance);
    t.v = parity_output(p, "dv", 1, SHAPE(c->lanes, rows, kv, e));
    parity_set_tolerance(p, tolerance);
    return t;
}

static ca_tensor output_with(parity *p, const char *name, double scale, double tolerance, int rank,
                             const int64_t *shape) {
    ca_tensor t = parity_output(p, name, scale, rank, shape);
    parity_set_tolerance(p, tolerance);
    return t;
}

static void attention_run(parity *p, const void *parameters) {
    const attention_case *c = parameters;
    double boost = c->boost > 0 ? c->boost : 1;
    ca_attention a = {.heads = c->heads,
                      .kv_heads = c->kv_heads,
                      .head_dim = c->head_dim,
                      .scale = boost / sqrt((double)c->head_dim),
                      .soft_cap = c->soft_cap,
                      .window = c->window};
    /* Scores reach about 6 boost and are right to a few roundings of float32; a probability is
     * off by as much as its score. */
    double tolerance = TOLERANCE + 6 * boost * 4 * (FLT_EPSILON / 2);
    /* dq and dk are sums of scale p (d_o . v - mean) k: of order boost, and small only by
     * cancellation. */
    double scale = boost * fmax(fill_amplitude(c->f), c->f == ZERO);
    static sequence_arrays arrays;
    place_sequences(p, &arrays, c->lengths);
    const ca_sequences *s = &arrays.sequences;
    int64_t rows = s->rows, h = c->heads, e = c->head_dim;
    attention_tensors x = make_inputs(p, c, &arrays);
    ca_tensor d_o = parity_input(p, "d_o", NORMAL, SHAPE(c->repeat ? 1 : c->lanes, rows, h, e));
    if (c->repeat) d_o = ca_tensor_repeat(ca_tensor_3d(d_o.data, d_o.dtype, rows, h, e), c->lanes);

    ca_tensor o = output_with(p, "o", 1, tolerance, SHAPE(rows, h, e));
    ca_tensor lse = output_with(p, "lse", 1, TOLERANCE, SHAPE(rows, h));
    parity_ok(ca_attention_fwd(p->be, o, lse, x.q, x.k, x.v, x.prefix_k, x.prefix_v, s, a));
    attention_tensors d = make_gradients(p, c, rows, scale, tolerance);
    parity_ok(ca_attention_bwd(p->be, d.q, d.k, d.v, d_o, o, lse, x.q, x.k, x.v, x.prefix_k,
                               x.prefix_v, s, a));

    int64_t size = h * s->pattern_start[s->count];
    ca_tensor pattern = output_with(p, "pattern", 1, tolerance, SHAPE(size));
    parity_ok(ca_pattern_fwd(p->be, pattern, x.q, x.k, x.prefix_k, s, a));
    ca_tensor mixed = output_with(p, "pattern_apply", 1, tolerance, SHAPE(rows, h, e));
    parity_ok(ca_pattern_apply_fwd(p->be, mixed, pattern, x.v, x.prefix_v, s, a));
    attention_tensors g = make_gradients(p, c, rows, scale, tolerance);
    ca_tensor d_pattern = output_with(p, "d_pattern", 1, tolerance, SHAPE(c->lanes, size));
    parity_ok(ca_pattern_apply_bwd(p->be, d_pattern, g.v, d_o, pattern, x.v, x.prefix_v, s, a));
    parity_ok(ca_pattern_bwd(p->be, g.q, g.k, d_pattern, pattern, x.q, x.k, x.prefix_k, s, a));
}

/* Mixes patterns of the case's sequences: in place with a mask per head where the layout is FUSED,
 * else accumulating with a mask per row and head. */
static void pattern_mix_run(parity *p, const void *parameters) {
    const attention_case *c = parameters;
    const bool in_place = c->layout == FUSED;
    ca_attention a = {.heads = c->heads,
                      .kv_heads = c->kv_heads,
                      .head_dim = c->head_dim,
                      .scale = 1,
                      .window = c->window};
    static sequence_arrays arrays;
    place_sequences(p, &arrays, c->lengths);
    const ca_sequences *s = &arrays.sequences;
    int64_t rows = s->rows, h = c->heads, size = h * s->pattern_start[s->count];
    ca_tensor source = parity_input(p, "source", c->f, SHAPE(size));
    ca_tensor mask = parity_input(p, "mask", NORMAL, SHAPE(in_place ? 1 : rows, h));
    if (in_place) mask = ca_tensor_repeat(ca_tensor_1d(mask.data, mask.dtype, h), rows);
    ca_tensor x = parity_inout(p, "x", c->f, 1, SHAPE(size));
    ca_tensor y = in_place ? x : parity_output(p, "y", 1, SHAPE(size));
    parity_ok(ca_pattern_mix_fwd(p->be, y, x, source, mask, s, a));

    ca_tensor d_x = parity_inout(p, "d_x", NORMAL, 1, SHAPE(c->lanes, size));
    ca_tensor dy = in_place ? d_x : parity_input(p, "dy", NORMAL, SHAPE(c->lanes, size));
    ca_tensor d_source = {0};
    if (!in_place) d_source = parity_output(p, "d_source", 1, SHAPE(c->lanes, size));
    ca_tensor d_mask =
        parity_output(p, "d_mask", sqrt((double)s->max_keys), SHAPE(c->lanes, rows, h));
    parity_ok(
        ca_pattern_mix_bwd(p->be, d_x, d_source, d_mask, dy, x, source, mask, s, a, !in_place));
}

static parity_kind kind_of(const attention_case *c) {
    if (c->largest) return LARGEST_SHAPE;
    return c->f != NORMAL || c->boost > 0 ? FURTHER_CONTENT : FURTHER_SHAPE;
}

static void run_pattern_mix(ca_backend *be, ca_backend *ref, const void *context) {
    (void)context;
    parity_summary summary = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char label[64];
        snprintf(label, sizeof label, "pattern_mix case %zu (%s)", i, fill_name(cases[i].f));
        parity_case(be, ref, pattern_mix_run, &cases[i], kind_of(&cases[i]), label, &summary);
    }
    parity_report(be, "pattern_mix", &summary);
}

static void run_attention(ca_backend *be, ca_backend *ref, const void *context) {
    (void)context;
    parity_summary summary = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char label[128];
        snprintf(label, sizeof label, "attention case %zu (H %lld, K %lld, Dh %lld, R %lld, %s)", i,
                 (long long)cases[i].heads, (long long)cases[i].kv_heads,
                 (long long)cases[i].head_dim, (long long)cases[i].lanes, fill_name(cases[i].f));
        parity_case(be, ref, attention_run, &cases[i], kind_of(&cases[i]), label, &summary);
    }
    parity_report(be, "attention", &summary);
}

/* ---- forward with q, k, v and probabilities rounded to bf16 */

enum { MOST_OUTPUTS = 301 * 2 * 128 };

static const attention_case narrow_cases[] = {
    {&none, 2, 1, 16, 0, SEPARATE, .f = NORMAL},
    {&one_row, 3, 1, 64, 0, FUSED, .f = NORMAL},
    {&ragged, 2, 2, 4, 0, SEPARATE, .f = NORMAL},
    {&ragged, 3, 3, 7, 0, FUSED, .f = NORMAL},
    {&ragged, 3, 1, 40, 0, SEPARATE, .f = NORMAL},
    {&ragged, 7, 1, 80, 0, SEPARATE, .f = NORMAL},
    {&ragged, 2, 1, 128, 0, FUSED, .f = NORMAL, .largest = true},
    {&ragged, 2, 1, 256, 0, SEPARATE, .f = NORMAL}, /* too wide: without rounding */
    {&longer, 3, 1, 64, 0, FUSED, .f = NORMAL, .largest = true},
    {&longest, 2, 1, 16, 0, SEPARATE, .f = NORMAL},
    {&longest, 1, 1, 96, 0, SEPARATE, .window = 64, .f = NORMAL},
    {&prefixed, 7, 1, 40, 0, FUSED, .f = NORMAL},
    {&prefixed, 3, 1, 64, 0, FUSED, .window = 4, .f = NORMAL},
    {&long_prefix, 2, 1, 64, 0, FUSED, .f = NORMAL},
    {&prefixed, 3, 1, 64, 0, SEPARATE, .f = NORMAL, .askew_prefix = true},
    {&prefixed, 3, 1, 64, 0, FUSED, .f = NORMAL, .askew_own = true},
    {&prefixed, 2, 2, 80, 0, FUSED, .soft_cap = 30, .window = 6, .f = NORMAL},
    {&longer, 2, 1, 16, 0, SEPARATE, .f = EQUAL},
    {&longer, 2, 1, 16, 0, FUSED, .f = ZERO},
    {&longer, 2, 1, 16, 0, FUSED, .f = TIES},
};

/* x with every element rounded to bf16, contiguous, as it is stored. */
static ca_tensor rounded(parity *p, const char *name, ca_tensor x) {
    if (!x.data) return x;
    ca_tensor narrow = parity_output_typed(p, name, CA_BF16, x.rank, x.shape);
    ca_tensor wide = parity_output(p, name, 0, x.rank, x.shape);
    parity_ok(ca_copy(p->be, narrow, x));
    parity_ok(ca_copy(p->be, wide, narrow));
    return wide;
}

static void attend(parity *p, ca_tensor o, ca_tensor lse, const attention_tensors *x,
                   const ca_sequences *s, ca_attention a) {
    parity_ok(ca_attention_fwd(p->be, o, lse, x->q, x->k, x->v, x->prefix_k, x->prefix_v, s, a));
}

/* A backend takes q, k and v rounded to nearest, or as they are: the same bits as when it is given
 * them rounded, or as when it may round nothing. */
static void check_rounding(parity *p, const attention_tensors *exact,
                           const attention_tensors *narrow, const ca_sequences *s, ca_attention a) {
    static float bits[3][MOST_OUTPUTS];
    ca_attention wide = a;
    wide.narrow = false;
    const struct {
        const attention_tensors *x;
        ca_attention a;
    } runs[3] = {{exact, a}, {narrow, a}, {exact, wide}};
    ca_tensor o = parity_output(p, "exact o", 1, SHAPE(s->rows, a.heads, a.head_dim));
    ca_tensor lse = parity_output(p, "exact lse", 1, SHAPE(s->rows, a.heads));
    const size_t size = (size_t)(s->rows * a.heads * a.head_dim) * sizeof(float);
    assert_true(size <= sizeof bits[0]);
    if (p->dtype != CA_F32) { /* `ref` rounds nothing */
        attend(p, o, lse, exact, s, wide);
        return;
    }
    for (int i = 0; i < 3; i++) {
        attend(p, o, lse, runs[i].x, s, runs[i].a);
        parity_ok(ca_download(p->be, bits[i], o));
    }
    if (memcmp(bits[0], bits[1], size) != 0 && memcmp(bits[0], bits[2], size) != 0)
        fail_msg("%s: attention_fwd_bf16: q, k and v are neither rounded to nearest nor exact",
                 p->be->name);
}

/* o and, with the magnitudes of v, what o sums up: limits of parity.h. */
static void narrow_run(parity *p, const void *parameters) {
    const attention_case *c = parameters;
    ca_attention a = {.heads = c->heads,
                      .kv_heads = c->kv_heads,
                      .head_dim = c->head_dim,
                      .scale = 1 / sqrt((double)c->head_dim),
                      .soft_cap = c->soft_cap,
                      .window = c->window,
                      .narrow = true};
    static sequence_arrays arrays;
    place_sequences(p, &arrays, c->lengths);
    const ca_sequences *s = &arrays.sequences;
    const double tolerance = TOLERANCE + 6 * 4 * (FLT_EPSILON / 2); /* as above */
    attention_tensors exact = make_inputs(p, c, &arrays), x = exact;
    x.q = rounded(p, "q", exact.q);
    x.k = rounded(p, "k", exact.k), x.prefix_k = rounded(p, "prefix_k", exact.prefix_k);
    x.v = rounded(p, "v", exact.v), x.prefix_v = rounded(p, "prefix_v", exact.prefix_v);
    attention_tensors sizes = x;
    sizes.v = rounded(p, "|v|", parity_magnitudes(p, "|v|", exact.v));
    if (x.prefix_v.data)
        sizes.prefix_v = rounded(p, "|prefix_v|", parity_magnitudes(p, "|v|", exact.prefix_v));

    ca_tensor o = output_with(p, "o", 1, tolerance, SHAPE(s->rows, c->heads, c->head_dim));
    ca_tensor lse = output_with(p, "lse", 1, TOLERANCE, SHAPE(s->rows, c->heads));
    attend(p, o, lse, &x, s, a);
    ca_tensor sum = output_with(p, "o of |v|", 1, tolerance, SHAPE(s->rows, c->heads, c->head_dim));
    attend(p, sum, output_with(p, "lse", 1, TOLERANCE, SHAPE(s->rows, c->heads)), &sizes, s, a);
    parity_add_share(p, o, BF16_ROUNDING, sum);
    parity_add_share(p, sum, BF16_ROUNDING, sum);
    check_rounding(p, &exact, &x, s, a);
}

static void run_narrow(ca_backend *be, ca_backend *ref, const void *context) {
    (void)context;
    parity_summary summary = {0};
    for (size_t i = 0; i < sizeof narrow_cases / sizeof narrow_cases[0]; i++) {
        const attention_case *c = &narrow_cases[i];
        char label[112];
        snprintf(label, sizeof label, "attention_fwd_bf16 case %zu (H %lld, K %lld, Dh %lld, %s)",
                 i, (long long)c->heads, (long long)c->kv_heads, (long long)c->head_dim,
                 fill_name(c->f));
        parity_case(be, ref, narrow_run, c, kind_of(c), label, &summary);
    }
    parity_report(be, "attention_fwd_bf16", &summary);
}

/* ---- rotary positions */

typedef struct rope_case {
    int64_t rows, heads, head_dim, turned, lanes; /* lanes 0: no such axis */
    bool inverse, fused;
} rope_case;

static const rope_case rope_cases[] = {
    {1, 1, 2, 2, 0, false, false},    {13, 3, 64, 64, 0, false, true},
    {13, 3, 64, 64, 0, true, true},   {70, 2, 80, 20, 0, false, false},
    {13, 2, 7, 6, 3, true, false},    {13, 9, 128, 128, 16, true, true},
    {0, 3, 16, 16, 2, false, false},  {5, 1, 16, 16, 1, true, true},
    {200, 9, 64, 64, 0, false, true},
};

static void rope_run(parity *p, const void *parameters) {
    const rope_case *c = parameters;
    int64_t positions[200], lanes = c->lanes > 0 ? c->lanes : 1, pad = c->fused ? 2 : 0;
    for (int64_t t = 0; t < c->rows; t++) positions[t] = t * 7 % 31;
    ca_tensor cosine = parity_input(p, "cosine", NORMAL, SHAPE(31, c->turned / 2));
    ca_tensor sine = parity_input(p, "sine", NORMAL, SHAPE(31, c->turned / 2));
    ca_tensor index = parity_input_i64(p, "positions", CA_I32, c->rows, positions);
    ca_tensor x =
        parity_inout(p, "x", NORMAL, 0, SHAPE(lanes, c->rows, (c->heads + pad) * c->head_dim));
    if (c->lanes == 0) x = ca_tensor_reshape(x, SHAPE(x.shape[1], x.shape[2]));
    x = heads_of(x, pad / 2 * c->head_dim, c->heads, c->head_dim);
    parity_ok(ca_rope(p->be, x, cosine, sine, index, c->inverse));
}

static void run_rope(ca_backend *be, ca_backend *ref, const void *context) {
    (void)context;
    parity_summary summary = {0};
    for (size_t i = 0; i < sizeof rope_cases / sizeof rope_cases[0]; i++) {
        char label[32];
        snprintf(label, sizeof label, "rope case %zu", i);
        parity_case(be, ref, rope_run, &rope_cases[i], LARGEST_SHAPE, label, &summary);
    }
    parity_report(be, "rope", &summary);
}

static void test_attention(void **state) { parity_each_backend(run_attention, *state); }
static void test_narrow(void **state) { parity_each_backend(run_narrow, *state); }
static void test_pattern_mix(void **state) { parity_each_backend(run_pattern_mix, *state); }
static void test_rope(void **state) { parity_each_backend(run_rope, *state); }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_narrow),
        cmocka_unit_test(test_pattern_mix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
