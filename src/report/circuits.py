# SPDX-License-Identifier: MIT
"""Circuits of a result: how much of the model each of them keeps, and how variants agree on edges."""

import numpy as np

import edge_charts
import edges as graph
import page
from evaluation import NORMAL_95
from page import Section


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


def sizes_table(result):
    requested, kept, kept_nodes, fraction = sizes(result)
    rows = [[f"{requested[i]:,}", percent(fraction, i), f"{kept[i]:,}", f"{kept_nodes[i]:,}"]
            for i in range(len(kept))]
    return page.table(["asked for", "% of all", "edges kept", "nodes kept"], rows, numbers={0, 1, 2, 3})


def percent(fraction, index):
    return f"{100 * fraction[index]:.3g}" if fraction is not None and np.isfinite(fraction[index]) else "–"


def faithfulness(result, figures):
    at = result.attributes("/faithfulness")
    mean, each = result.array("/faithfulness/metric"), result.array("/faithfulness/per_example")
    share = result.array("/faithfulness/normalized")
    half = np.zeros(len(mean))
    if each is not None and each.shape[1] > 1:
        half = NORMAL_95 * each.std(axis=1, ddof=1) / each.shape[1] ** 0.5
    requested, kept, kept_nodes, fraction = sizes(result)
    rows = [[f"{requested[i]:,}", percent(fraction, i), f"{kept[i]:,}", f"{kept_nodes[i]:,}",
             f"{mean[i]:.4g}", f"{half[i]:.2g}" if half[i] else "–", f"{share[i]:.3f}"]
            for i in range(len(mean))]
    header = ["asked for", "% of all", "edges kept", "nodes kept", "metric", "± 95 %", "faithfulness"]
    areas = [f"{name.upper()} {at[name]:.3f}" for name in ("cpr", "cmd")
             if name in at and np.isfinite(at[name])]
    metric = result.attributes("/baseline").get("metric", "metric")
    png = edge_charts.faithfulness(
        figures, "faithfulness", np.maximum(requested, 1), mean, half, at["clean"], at["corrupted"],
        ("edges asked for", metric, " · ".join(["what circuits keep of the model", *areas])))
    pairs = f" over {each.shape[1]:,} pairs" if each is not None else ""
    about = page.note(
        f"All edges outside the circuit are ablated. Faithfulness: 0 = the corrupted run, 1 = the clean run. "
        f"CPR: area under it over the share of edges kept, higher is better; CMD: area between it and 1, "
        f"0 is best. Bars: 95 % intervals{pairs}.")
    return about + page.picture(png, "metric of circuits over their number of edges") + \
        page.table(header, rows, numbers=set(range(7)))


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
    header = ["variant", "Pearson", "Pearson of |score|", "Kendall of |score|", "sign differs, % of Σ |score|"]
    rows, titles = [], {}
    for variant, scores in others.items():
        found = [at[variant].get(name) for name in ("pearson", "pearson_absolute", "kendall_absolute")]
        against = np.abs(one)[one * scores < 0].sum() / (np.abs(one).sum() or 1)
        rows.append([variant, *(f"{v:.3f}" if v is not None else "–" for v in found), f"{100 * against:.1f}"])
        titles[variant] = variant + (f": r of |score| {found[1]:.3f}" if found[1] is not None else "")
    png = edge_charts.comparison(figures, "comparison", one, others, own, titles)
    markup = page.note(f"{own} and other variants on the same pairs, one point an edge. On the line both give "
                       "the same size; red: their signs differ. Edges that score 0 in either are not drawn.")
    markup += page.picture(png, f"scores of {own} against those of other variants")
    markup += page.table(header, rows, numbers={1, 2, 3, 4})
    curves = {variant: (result.array(f"/compare/{variant}/size"), result.array(f"/compare/{variant}/iou"))
              for variant in others if result.has_in(f"/compare/{variant}", "iou")}
    if curves:
        png = edge_charts.overlap(figures, "overlap", curves, "edges")
        markup += "<h3>Do they choose the same edges?</h3>"
        markup += page.picture(png, f"overlap of the strongest edges with those of {own}")
    return [Section("Variants compared", markup)]
