/* SPDX-License-Identifier: MIT
 *
 * How far two circuits, or two lists of scores, agree.
 */
#include "causa/circuit.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

/* ---- sets */

static double log_choose(int64_t n, int64_t k) {
    int sign;
    return lgamma_r((double)n + 1, &sign) - lgamma_r((double)k + 1, &sign) -
           lgamma_r((double)(n - k) + 1, &sign);
}

/* P(k + 1) / P(k) of the hypergeometric distribution of o. */
static double ratio(const ca_overlap *o, int64_t k) {
    return (double)(o->a - k) * (double)(o->b - k) /
           ((double)(k + 1) * (double)(o->of - o->a - o->b + k + 1));
}

/* P(K >= both) when a and b of `of` things are drawn independently. Summed from its largest term
 * outwards, as multiples of it: nothing underflows that matters. */
static double tail(const ca_overlap *o) {
    const int64_t least = o->a + o->b > o->of ? o->a + o->b - o->of : 0;
    const int64_t most = o->a < o->b ? o->a : o->b;
    if (o->both <= least) return 1;
    int64_t mode = (int64_t)((double)(o->a + 1) * (double)(o->b + 1) / (double)(o->of + 2));
    if (mode < o->both) mode = o->both;
    if (mode > most) mode = most;
    double sum = 1, term = 1;
    for (int64_t k = mode; k < most && term > sum * 1e-18; k++) sum += term *= ratio(o, k);
    term = 1;
    for (int64_t k = mode; k > o->both && term > sum * 1e-18; k--) sum += term /= ratio(o, k - 1);
    const double largest =
        log_choose(o->a, mode) + log_choose(o->of - o->a, o->b - mode) - log_choose(o->of, o->b);
    return fmin(1, exp(largest) * sum);
}

ca_overlap ca_overlap_of(const bool *a, const bool *b, const bool *valid, int64_t n) {
    ca_overlap o = {0};
    for (int64_t i = 0; i < n; i++) {
        if (valid && !valid[i]) continue;
        o.of++;
        o.a += a[i];
        o.b += b[i];
        o.both += a[i] && b[i];
    }
    const int64_t either = o.a + o.b - o.both;
    o.iou = either ? (double)o.both / (double)either : 1;
    o.a_in_b = o.a ? (double)o.both / (double)o.a : 1;
    o.b_in_a = o.b ? (double)o.both / (double)o.b : 1;
    o.probability = tail(&o);
    return o;
}

/* ---- scores */

/* Rounding of the mean would make numbers that are all equal look as if they were not. */
static bool is_constant(const double *values, int64_t n) {
    for (int64_t i = 1; i < n; i++)
        if (values[i] != values[0]) return false;
    return true;
}

double ca_pearson(const double *a, const double *b, int64_t n) {
    double mean_a = 0, mean_b = 0, aa = 0, bb = 0, ab = 0;
    if (is_constant(a, n) || is_constant(b, n)) return NAN;
    for (int64_t i = 0; i < n; i++) {
        mean_a += a[i] / (double)n;
        mean_b += b[i] / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        const double x = a[i] - mean_a, y = b[i] - mean_b;
        aa += x * x;
        bb += y * y;
        ab += x * y;
    }
    return ab / (sqrt(aa) * sqrt(bb));
}

typedef struct pair {
    double a, b;
} pair;

static int compare(double x, double y) { return (x > y) - (x < y); }

static int by_both(const void *x, const void *y) {
    const pair *p = x, *q = y;
    const int order = compare(p->a, q->a);
    return order ? order : compare(p->b, q->b);
}

static int64_t choose_two(int64_t n) { return n * (n - 1) / 2; }

typedef bool (*equality)(const pair *x, const pair *y);
static bool equal_a(const pair *x, const pair *y) { return x->a == y->a; }
static bool equal_b(const pair *x, const pair *y) { return x->b == y->b; }
static bool equal_both(const pair *x, const pair *y) { return x->a == y->a && x->b == y->b; }

/* Tied pairs of a list in which equal ones are neighbours. */
static int64_t count_tied(const pair *list, int64_t n, equality equal) {
    int64_t tied = 0;
    for (int64_t first = 0, i = 1; i <= n; i++) {
        if (i < n && equal(&list[first], &list[i])) continue;
        tied += choose_two(i - first);
        first = i;
    }
    return tied;
}

/* Merges two neighbouring runs sorted by b; returns how many pairs change their order. */
static int64_t merge(const pair *from, pair *to, int64_t first, int64_t middle, int64_t end) {
    int64_t left = first, right = middle, swaps = 0;
    for (int64_t i = first; i < end; i++) {
        if (left < middle && (right >= end || from[left].b <= from[right].b)) {
            to[i] = from[left++];
        } else {
            swaps += middle - left;
            to[i] = from[right++];
        }
    }
    return swaps;
}

/* Sorts *list by b, *spare being as long; returns how many pairs change their order. */
static int64_t sort_by_b(pair **list, pair **spare, int64_t n) {
    int64_t swaps = 0;
    for (int64_t run = 1; run < n; run *= 2) {
        for (int64_t first = 0; first < n; first += 2 * run) {
            const int64_t middle = first + run < n ? first + run : n;
            const int64_t end = first + 2 * run < n ? first + 2 * run : n;
            swaps += merge(*list, *spare, first, middle, end);
        }
        pair *sorted = *spare;
        *spare = *list;
        *list = sorted;
    }
    return swaps;
}

ca_status ca_kendall(const double *a, const double *b, int64_t n, double *tau) {
    ca_status st = CA_OK;
    pair *list = NULL, *spare = NULL;
    CA_TRY(ca_calloc((size_t)n, sizeof *list, &list));
    CA_TRY(ca_calloc((size_t)n, sizeof *spare, &spare));
    for (int64_t i = 0; i < n; i++) list[i] = (pair){a[i], b[i]};
    qsort(list, (size_t)n, sizeof *list, by_both);
    const int64_t all = choose_two(n);
    const int64_t tied_a = count_tied(list, n, equal_a);
    const int64_t tied_both = count_tied(list, n, equal_both);
    const int64_t discordant = sort_by_b(&list, &spare, n);
    const int64_t tied_b = count_tied(list, n, equal_b);
    const int64_t concordant = all - tied_a - tied_b + tied_both - discordant;
    *tau = (double)(concordant - discordant) /
           (sqrt((double)(all - tied_a)) * sqrt((double)(all - tied_b)));
out:
    free(list);
    free(spare);
    return st;
}

ca_status ca_auroc(const double *score, const bool *truth, int64_t n, double *area) {
    ca_status st = CA_OK;
    pair *list = NULL;
    int64_t hits = 0, wins2 = 0, below = 0; /* wins2: twice the pairs won, a tie counts one */
    CA_TRY(ca_calloc((size_t)n, sizeof *list, &list));
    for (int64_t i = 0; i < n; i++) list[i] = (pair){score[i], truth[i]};
    qsort(list, (size_t)n, sizeof *list, by_both);
    for (int64_t first = 0, end = 0; first < n; first = end) {
        int64_t same_true = 0;
        for (end = first; end < n && list[end].a == list[first].a; end++)
            same_true += list[end].b > 0;
        const int64_t same_false = end - first - same_true;
        wins2 += same_true * (2 * below + same_false);
        below += same_false;
        hits += same_true;
    }
    *area = (double)wins2 / 2 / ((double)hits * (double)below); /* 0 / 0 with one class only */
out:
    free(list);
    return st;
}
