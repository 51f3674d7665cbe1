# SPDX-License-Identifier: MIT
"""How many directions the Fisher information of the predictions has."""

import numpy as np

import charts
import page
from page import Section


def sections(result, figures):
    values = result.array("/attribution/fisher/eigenvalues")
    trace = result.array("/attribution/fisher/trace")
    if values is None or trace is None or values.ndim != 2 or values.shape[1] == 0:
        return []
    known = np.isfinite(values).all(axis=1) & (trace > 0)
    values, trace = values[known].astype(float), trace[known].astype(float)
    if len(values) == 0:
        return []
    first, kept = values[:, 0] / trace, values.sum(axis=1) / trace
    markup = page.note(
        "F = Wᵀ (diag p − p pᵀ) W is the Fisher information of the next-token distribution at the "
        "final norm; the scope follows its first eigenvectors. Its trace is what all of them hold.")
    if values.shape[1] > 1:
        markup += page.picture(charts.spectrum(figures, "fisher-spectrum", values, trace),
                               "eigenvalues of the Fisher information and their share of the trace")
    return [Section("Fisher spectrum", markup + page.facts([
        ("eigenvalues kept", str(values.shape[1])),
        ("share of the trace in the first", mean_and_spread(first)),
        ("share of the trace in those kept", mean_and_spread(kept)),
        ("first eigenvalue", f"{values[:, 0].min():.3g} to {values[:, 0].max():.3g}"),
        ("prompts", str(len(values))),
    ]))]


def mean_and_spread(shares):
    spread = f" ± {100 * shares.std(ddof=1):.1f}" if len(shares) > 1 else ""
    return f"{100 * shares.mean():.1f}{spread} %"
