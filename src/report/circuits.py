# SPDX-License-Identifier: MIT
"""Circuits of a result: how much of the model each of them keeps, and how variants agree on edges."""

import numpy as np

import edge_charts
import edges as graph
import page
from evaluation import NORMAL_95
from page import Section

FAITHFUL = 0.9  # CA_CIRCUIT_FAITHFUL

# of each circuit against the one that the config calls true
AGAINST_TRUTH = [("edges", "precision", "precision"), ("edges", "recall", "recall"),
                 ("edges", "iou", "IoU of edges"), ("nodes", "iou", "IoU of nodes"),
                 ("neurons", "iou", "IoU of neurons")]


def sections(result, figures, edges):
    parts = []
    if result.has_in("/faithfulness", "metric"):
        parts.append(Section("Faithfulness of circuits", faithfulness(result, figures)))
    elif result.has_in("/circuits", "kept_edges"):
        parts.append(Section("Circuits", sizes_table(result)))
    if edges is not None and result.is_group("/compare"):
        parts += comparison(result, figures, edges)
    return parts


def sizes(result):
    """Requested and kept edges, kept nodes and fractions [S], None where the file has none."""
    names = ("requested", "kept_edges", "kept_nodes", "fraction")
    return [result.array(f"/circuits/{name}") for name in names]


def chosen(result):
    """What circuits were made of: edges, or nodes or neurons with all edges that leave the nodes."""
    by_file = result.attributes("/circuits").get("select") == "file"
    if by_file or result.has_in("/edges", "score"):
        return "edges"
    return "neurons" if result.has_in("/neurons", "score") else "nodes"


def sizes_table(result, more=()):
    """A row a circuit; more: further columns as (title, texts)."""
    requested, kept, kept_nodes, fraction = sizes(result)
    threshold = result.array("/circuits/threshold")
    columns = [(f"{chosen(result)} asked for", [f"{n:,}" for n in requested]),
               ("% of all", [f"{100 * share:.3g}" for share in fraction]),
               ("edges kept", [f"{n:,}" for n in kept]), ("nodes kept", [f"{n:,}" for n in kept_nodes])]
    neurons = result.array("/circuits/kept_neurons")
    if neurons is not None:
        columns.append(("neurons kept", [f"{n:,}" for n in neurons]))
    if threshold is not None:
        columns.insert(0, ("threshold", [f"{value:.4g}" for value in threshold]))
    for kind, name, title in AGAINST_TRUTH:
        values = result.array(f"/circuits/truth/{kind}/{name}")
        if values is not None:
            columns.append((title, [f"{value:.3f}" for value in values]))
    columns += more
    return page.table([title for title, _ in columns], list(zip(*(cells for _, cells in columns))),
                      numbers=set(range(len(columns))))


def standing(result, count):
    """Which of the circuits stands for all, as where one is converted or run: the smallest with a
    faithfulness of FAITHFUL or more, else the last."""
    share, fraction = result.array("/faithfulness/normalized"), result.array("/circuits/fraction")
    if share is None or fraction is None or len(share) != count or len(fraction) != count:
        return count - 1
    faithful = np.where(share >= FAITHFUL, fraction, np.inf)
    return int(np.argmin(faithful)) if np.isfinite(faithful).any() else count - 1


def covered(result):
    """Which shares of all the areas are of, where they do not go up to 1, as a benchmark's do."""
    fraction = result.array("/circuits/fraction")
    if fraction is None or not len(fraction) or fraction.max() >= 1:
        return ""
    return f" from {fraction.min():.3g} to {fraction.max():.3g} of all, not up to 1"


def selection(result):
    """By which scores the circuits were picked, where the benchmark picks them in two ways."""
    absolute = result.attributes("/circuits").get("absolute")
    if absolute is None:
        return ""
    by, other = ("|score|", "CPR by signed score") if absolute else ("signed score", "CMD by |score|")
    return f"Both are of circuits picked by {by}; the benchmark MIB takes {other}. "


def faithfulness(result, figures):
    at = result.attributes("/faithfulness")
    mean, each = result.array("/faithfulness/metric"), result.array("/faithfulness/per_example")
    share = result.array("/faithfulness/normalized")
    half = np.zeros(len(mean))
    if each is not None and each.shape[1] > 1:
        half = NORMAL_95 * each.std(axis=1, ddof=1) / each.shape[1] ** 0.5
    columns = [("metric", [f"{value:.4g}" for value in mean]),
               ("± 95 %", [f"{value:.2g}" if value else "–" for value in half]),
               ("faithfulness", [f"{value:.3f}" for value in share])]
    areas = [f"{name.upper()} {at[name]:.3f}" for name in ("cpr", "cmd")
             if name in at and np.isfinite(at[name])]
    requested, what = sizes(result)[0], chosen(result)
    shown = requested > 0  # the axis is logarithmic
    if areas:
        areas = [", ".join(areas) + covered(result)]
    axis = f"{what} asked for" + ("" if shown.all() else f" (a circuit of 0 {what} is not drawn)")
    png = edge_charts.faithfulness(
        figures, "faithfulness", requested[shown], mean[shown], half[shown], at["clean"], at["corrupted"],
        (axis, at.get("metric", "metric"),
         " · ".join(["what circuits keep of the model", *areas])))
    pairs = f" over {each.shape[1]:,} pairs" if each is not None else ""
    masks = "; of a node inside, all but the neurons kept" if result.has_in("/circuits", "neurons") else ""
    about = page.note(
        f"All edges outside the circuit are ablated{masks}. Faithfulness: 0 = the ablated run, 1 = the clean run. "
        f"CPR: area under it over the share of {what} asked for, higher is better; CMD: area between it and 1, "
        f"0 is best. {f'Here: {areas[0]}. {selection(result)}' if areas else ''}Bars: 95 % intervals{pairs}."
        f"{'' if shown.all() else f' A circuit of 0 {what} has no place on the logarithmic axis; the table has it.'}")
    return about + page.picture(png, "metric of circuits over their size") + sizes_table(result, columns)


# ---- variants beside each other


def comparison(result, figures, edges):
    others, at = {}, {}
    for variant in result.members("/compare"):
        if result.has_in(f"/compare/{variant}", "score"):
            others[variant] = result.array(f"/compare/{variant}/score")[edges.valid].astype(float)
            at[variant] = result.attributes(f"/compare/{variant}")
    if not others:
        return []
    own = graph.variant(result) or "this run"
    one = np.nan_to_num(edges.score[edges.valid])
    header = ["variant", "Pearson", "Pearson of |score|", "Kendall", "Kendall of |score|", "sign differs, % of Σ |score|"]
    rows, titles = [], {}
    for variant, scores in others.items():
        found = [at[variant].get(name) for name in ("pearson", "pearson_absolute", "kendall", "kendall_absolute")]
        against = np.abs(one)[one * scores < 0].sum() / (np.abs(one).sum() or 1)
        rows.append([variant, *(f"{v:.3f}" if v is not None else "–" for v in found), f"{100 * against:.1f}"])
        titles[variant] = variant + (f": r of |score| {found[1]:.3f}" if found[1] is not None else "")
    png = edge_charts.comparison(figures, "comparison", one, others, own, titles)
    markup = page.note(f"{own} and other variants on the same pairs, one point an edge. On the line both give "
                       "the same size; red: their signs differ. Edges that score 0 in either are not drawn.")
    markup += page.picture(png, f"scores of {own} against those of other variants")
    markup += page.table(header, rows, numbers={1, 2, 3, 4, 5})
    curves = {variant: overlap(result, variant) for variant in others
              if result.has_in(f"/compare/{variant}", "iou")}
    if curves:
        png = edge_charts.overlap(figures, "overlap", curves, "edges")
        markup += "<h3>Do they choose the same edges?</h3>" + page.note(
            "Circuits of equal size, less the edges that lead from nowhere or to nowhere; sizes at which both "
            "are empty are left out.")
        markup += page.picture(png, f"overlap of the strongest edges with those of {own}")
    return [Section("Variants compared", markup)]


def overlap(result, variant):
    """Sizes and shares of common edges of the circuits that are not both empty."""
    size, share, common = (result.array(f"/compare/{variant}/{name}")
                           for name in ("size", "iou", "common_edges"))
    known = (common > 0) | (share == 0)
    return size[known], share[known]
