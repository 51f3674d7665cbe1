/* SPDX-License-Identifier: MIT
 *
 * What the two ways to the eigenpairs of F share: fisher.c makes p, mu and the traces of a chunk of
 * reads, fisher_krylov.c or fisher_dense.c the pairs.
 */
#ifndef CAUSA_JACOBIAN_FISHER_STATE_H
#define CAUSA_JACOBIAN_FISHER_STATE_H

#include "common.h"
#include "fisher.h"

/* The Krylov basis of one read, on the host. */
typedef struct fisher_basis {
    int64_t size;   /* vectors in q and fq */
    double *q, *fq; /* [most, D] orthonormal vectors and F times them */
    double *value;  /* [rank] */
    double *vector; /* [rank, D] unit eigenvectors */
    bool done;
} fisher_basis;

struct jacobian_fisher {
    const ca_model *model;
    bool dense; /* F itself is made; else a Krylov space of it */
    int64_t rank;
    int64_t chunk; /* reads that share products */
    method_buffers buffers;
    ca_tensor p, mu;      /* [chunk, V], [chunk, D] */
    ca_tensor row_square; /* [V] |w|^2 */
    ca_tensor ids;        /* [chunk] i32 */
    ca_tensor best, rest; /* [chunk, D] row c of the likeliest token; sum of the others' p w */
    ca_tensor product;    /* [block, chunk, V], block 1 when dense */
    double *mu_host;      /* [chunk, D] */
    double *best_host;    /* [chunk, D] c */
    double *square_host;  /* [V] |w|^2 */
    double *p_host;       /* [chunk, V]; after the traces 0 at the likeliest tokens */
    double *dots_host;    /* [chunk, V] w . c */
    double *x_host;       /* [block, chunk, D] or [block, m] */
    double *projected;    /* [order, order] matrix of an eigenproblem, then its eigenvectors */
    double *spectrum;     /* [order] */
    double *work;         /* of LAPACK's dsyevd */
    double *staging;      /* the largest download, as the backend stores it */
    /* dense */
    int64_t part; /* tokens of a part of W */
    ca_tensor rows,
        weighed;     /* [part, D] w - mu and sqrt(p) (w - mu); rows is Krylov's [m, D] too */
    ca_tensor roots; /* [V] sqrt(p) */
    ca_tensor f;     /* [D, D] */
    ca_tensor pairs; /* [rank, D] */
    /* Krylov */
    int64_t block, most;           /* vectors added at a time and at most */
    int64_t likely;                /* m, rows of the Gram matrix */
    int64_t parts;                 /* parts of W */
    ca_tensor x, fx;               /* [block, chunk, D] */
    ca_tensor top_values, top_ids; /* [chunk, m] */
    ca_tensor gram;                /* [m, m] dot products of `rows` */
    ca_tensor mixes, first;        /* [block, m] and [block, D] the first block as sums of `rows` */
    ca_tensor ones, means, sums; /* [V] of ones, [block n] mu . q, [parts, block n] sum of p * y */
    fisher_basis *bases;         /* [chunk] */
    double *q, *fq, *value, *vector; /* of all bases */
    double *sums_host;               /* [parts, block, chunk] */
    double *fu, *random;             /* [D] */
};

static inline int64_t fisher_min(int64_t a, int64_t b) { return a < b ? a : b; }

static inline double fisher_dot(const double *x, const double *y, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

/* projected [m, m], of which row i counts up to column i, becomes its unit eigenvectors, one a row,
 * and spectrum [m] their eigenvalues, rising. */
ca_status ca_jacobian_fisher_decompose(jacobian_fisher *f, int64_t m) CA_MUST_USE;

/* Eigenpairs of the n reads of a chunk, whose distributions are set.
 *
 * logits       [n, V]
 * vectors      [rank, n, D] out, perhaps strided: sqrt(lambda) u
 * eigenvalues  [n, rank] out, falling */
ca_status ca_jacobian_fisher_krylov(jacobian_fisher *f, ca_tensor logits, ca_tensor vectors,
                                    double *eigenvalues) CA_MUST_USE;
ca_status ca_jacobian_fisher_dense(jacobian_fisher *f, int64_t n, ca_tensor vectors,
                                   double *eigenvalues) CA_MUST_USE;

#endif
