# SPDX-License-Identifier: MIT
"""How well the scopes do: ablation curves, paired differences, agreement with leave-one-out, and
what is left of the scores without the model's weights."""

import numpy as np

import charts
import page
from page import Section

NORMAL_95 = 1.96  # standard errors of an interval
BASELINES = ("input_x_gradient", "random")  # the first that was evaluated is the paired one
LOO_COLUMNS = {
    "spearman": "Spearman ρ", "kendall": "Kendall τ", "top1_percentile": "top token's percentile",
    "top10_jaccard": "overlap of the top tenth",
}


def sections(result, figures):
    parts = [aopc(result, figures), loo(result), randomise(result)]
    return [part for part in parts if part is not None]


# ---- AOPC


def aopc(result, figures):
    """The section of ablation curves, None when they were not evaluated."""
    folder = "/evaluation/aopc"
    scopes = [s for s in result.members(folder) if result.has_in(f"{folder}/{s}", "delta_logprob")]
    fractions = fractions_of(result, folder)
    if not scopes or fractions is None:
        return None
    deltas = {s: result.array(f"{folder}/{s}/delta_logprob").astype(float) for s in scopes}
    whole = np.all([np.isfinite(delta).all(axis=1) for delta in deltas.values()], axis=0)
    deltas = {scope: delta[whole] for scope, delta in deltas.items()}
    if not whole.any():
        return None
    areas = {scope: area(delta, fractions) for scope, delta in deltas.items()}
    baseline = next((name for name in BASELINES if name in areas), scopes[0])
    curves = {scope: spread(delta) for scope, delta in deltas.items()}
    pairs = {scope: areas[scope] - areas[baseline] for scope in scopes if scope != baseline}
    markup = page.note(
        "Each scope ranks the tokens of a prompt; the share with the highest scores is ablated and "
        "the change Δ of the log-probability of the model's first choice is measured. AOPC is the "
        "area under Δ over the share of tokens, more negative is better. Bars and ± are "
        f"{NORMAL_95} standard errors over {int(whole.sum())} prompts.")
    markup += page.picture(
        charts.ablation(figures, "aopc", fractions, curves,
                        {scope: tuple(map(float, spread(pair))) for scope, pair in pairs.items()},
                        baseline),
        "ablation curves and paired differences of AOPC")
    tests = {scope: result.attributes(f"{folder}/{scope}").get("paired_wilcoxon") for scope in pairs}
    markup += aopc_table(fractions, curves, areas, pairs, tests, baseline)
    return Section("Ablation (AOPC)", markup + by_words(result, folder, areas))


def fractions_of(result, folder):
    """Shares of tokens ablated, None when the file does not say."""
    about = result.attributes(folder)
    stored = result.array(f"{folder}/fraction")
    for values in (stored, about.get("fractions"), about.get("fraction")):
        if values is not None:
            return np.atleast_1d(np.asarray(values, dtype=float))
    return None


def area(delta, fractions):
    """AOPC of each prompt [N] by the trapezoid rule; of a single fraction Δ itself."""
    if len(fractions) == 1:
        return delta[:, 0]
    return np.sum((delta[:, 1:] + delta[:, :-1]) / 2 * np.diff(fractions), axis=1)


def spread(values):
    """Mean over prompts and half width of its interval; 0 where one prompt gives no width."""
    values = np.asarray(values)
    error = values.std(axis=0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0 * values[0]
    return values.mean(axis=0), NORMAL_95 * error


def aopc_table(fractions, curves, areas, pairs, tests, baseline):
    tested = any(p is not None for p in tests.values())
    header = ["scope", *(f"Δ at {100 * share:g} %" for share in fractions),
              "AOPC" if len(fractions) > 1 else "Δ", "±",
              f"− {baseline.replace('_', ' ')}", "±", "better on", *["p (Wilcoxon)"] * tested]
    rows = []
    for scope in sorted(areas, key=lambda name: areas[name].mean()):
        mean, half = spread(areas[scope])
        row = [scope.replace("_", " "), *(f"{value:.3f}" for value in curves[scope][0]),
               f"{mean:.4f}", f"{half:.4f}"]
        if scope in pairs:
            difference, width = spread(pairs[scope])
            row += [f"{difference:+.4f}", f"{width:.4f}", f"{100 * np.mean(pairs[scope] < 0):.0f} %"]
        else:
            row += ["–", "–", "–"]
        p = tests.get(scope)
        row += ["–" if p is None or not np.isfinite(p) else f"{p:.2g}"] * tested
        rows.append(row)
    return page.table(header, rows, numbers=set(range(1, len(header))))


def by_words(result, folder, areas):
    """AOPC apart for prompts whose target begins a word and whose target continues one."""
    counts = result.attributes(folder)
    if not counts.get("word_parts") or not counts.get("whole_words"):
        return ""
    rows = []
    for scope in sorted(areas, key=lambda name: areas[name].mean()):
        about = result.attributes(f"{folder}/{scope}")
        rows.append([scope.replace("_", " "), *(cell(about[f"aopc_{kind}"], about[f"sem_{kind}"])
                                                for kind in ("whole_words", "word_parts"))])
    header = ["scope", *(f"AOPC, {counts[kind]} targets that {verb} a word" for kind, verb in
                         (("whole_words", "begin"), ("word_parts", "continue")))]
    note = page.note(
        "A target that continues a word is nearly certain from the word's first tokens: the model "
        f"predicts {100 * counts['accuracy_word_parts']:.0f} % of these and "
        f"{100 * counts['accuracy_whole_words']:.0f} % of those that begin one.")
    return note + page.table(header, rows, numbers={1, 2})


# ---- leave-one-out


def loo(result):
    """Table of agreement with leave-one-out, None when it was not evaluated."""
    folder = "/evaluation/loo"
    about = {name: result.attributes(f"{folder}/{name}") for name in result.members(folder)
             if result.is_group(f"{folder}/{name}")}
    about = {scope: numbers(values) for scope, values in about.items()}
    about = {scope: values for scope, values in about.items() if values}
    if not about:
        return None
    names = [name for name in LOO_COLUMNS if any(name in values for values in about.values())]
    rows = [[scope.replace("_", " "), *(cell(values.get(name), values.get(name + "_sem"))
                                        for name in names)] for scope, values in about.items()]
    markup = page.note(
        "Each token's embedding is ablated alone; the divergence KL(clean ‖ ablated) of the next "
        "token is the reference that the scores are compared with. The percentile is the place of a "
        "scope's highest token in the order of the reference: 0 is best, 50 is chance. ± are "
        f"{NORMAL_95} standard errors over prompts.")
    header = ["scope", *(LOO_COLUMNS[name] for name in names)]
    return Section("Agreement with leave-one-out",
                   markup + page.table(header, rows, numbers=set(range(1, len(header)))))


def numbers(attributes):
    return {name: value for name, value in attributes.items() if isinstance(value, float)}


def cell(mean, error):
    """A mean with the half width of its interval where the file has its standard error."""
    if mean is None or not np.isfinite(mean):
        return "–"
    known = error is not None and np.isfinite(error)
    return f"{mean:.3f} ± {NORMAL_95 * error:.3f}" if known else f"{mean:.3f}"


# ---- random weights


def randomise(result):
    """Table of rank correlations with the scores of random blocks, None when there are none."""
    folder = "/evaluation/randomise"
    blocks = result.array(f"{folder}/blocks")
    scopes = [s for s in result.members(folder) if result.has_in(f"{folder}/{s}", "spearman_mean")]
    if blocks is None or not scopes:
        return None
    rows = [[scope.replace("_", " "), *(
        cell(float(mean), float(error)) for mean, error in zip(
            result.array(f"{folder}/{scope}/spearman_mean"),
            result.array(f"{folder}/{scope}/spearman_sem"))),
        cell(result.attributes(f"{folder}/{scope}").get("spearman_floor"), None)] for scope in scopes]
    markup = page.note(
        "The scores are computed again with random weights in blocks from the top down: Spearman ρ "
        "with the scores of the model. Scores that stay alike do not show what the model has learned. "
        "The last column is what the scores in random order give. "
        f"± are {NORMAL_95} standard errors over prompts.")
    header = ["scope", *(f"{count} {'block' if count == 1 else 'blocks'} random" for count in blocks),
              "random order"]
    return Section("Random weights",
                   markup + page.table(header, rows, numbers=set(range(1, len(header)))))
