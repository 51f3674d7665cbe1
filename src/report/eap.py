# SPDX-License-Identifier: MIT
"""Edge attribution: circuit, maps of nodes and layers, strongest edges, circuits and comparisons."""

import numpy as np

import charts
import circuit_graph
import circuits
import edge_charts
import edges as graph
import page
import patch
from evaluation import NORMAL_95
from page import Section

MOST_DRAWN = 60  # edges of the drawing
STRONGEST = 25  # rows of a table

MEANINGS = {
    "exact": "Score: how much worse the model does when this edge alone is ablated.",
    "information-flow": "Score: the share of what the destination reads that comes from the source, "
                        "between 0 and 1. It has no sign and knows no task.",
    "": "Sign and scale of the scores are those of the file that they came from.",
}
FIRST_ORDER = "Score: how much worse the model does when the edge is ablated, to first order."


def sections(result, figures):
    edges = graph.Edges(result) if result.has_in("/edges", "source") else None
    scored = edges is not None and edges.size.any()
    parts = []
    if scored or (edges is not None and result.has_in("/circuits", "in_circuit")):
        parts.append(Section("Circuit", drawing(result, figures, edges)))
    if scored:
        parts.append(Section("Strongest edges", strongest_edges(result, figures, edges)))
    parts += circuits.sections(result, figures, edges)
    if result.has_in("/nodes", "score"):
        parts.append(Section("Nodes", nodes(result, figures)))
    if scored:
        parts.append(Section("Edges between layers", between_layers(figures, edges)))
        parts += positions(result, figures, edges)
    parts += units(result, figures)
    return parts or [Section("Edges", page.note("The file holds no finished scores."))]


def meaning(result):
    variant = graph.variant(result)
    return MEANINGS.get(variant, FIRST_ORDER)


def layer_name(layer):
    return "input" if layer == graph.OUTSIDE else str(layer)


# ---- the drawing


def drawn_edges(result, edges):
    """Flat indices, and what they are: of the circuit that stands for all, else the strongest.

    A circuit too large for a drawing is cut to its strongest edges; one without scores cannot be, so
    the largest that fits is taken in its place.
    """
    members = result.array("/circuits/in_circuit")
    if members is None or not members.any():
        return strongest_of_all(edges)
    kept = members.reshape(len(members), -1).sum(axis=1)
    number = circuits.standing(result, len(members))
    named = "circuit" + (f" {number} (numbered from 0)" if len(members) > 1 else "")
    if kept[number] > MOST_DRAWN and edges.size.any():
        chosen = edges.strongest(MOST_DRAWN, members[number].astype(bool))
        return chosen, (f"the {len(chosen)} strongest edges of {named}, of {kept[number]:,}; "
                        f"{kept[number] - len(chosen):,} are left out")
    if kept[number] > MOST_DRAWN:
        fitting = np.where(kept <= MOST_DRAWN, kept, 0)
        if not fitting.any():
            return [], f"{named}, of {kept[number]:,} edges, too many to draw without scores"
        number = int(np.argmax(fitting))
        named = f"circuit {number} (numbered from 0), the largest that can be drawn,"
    if not kept[number]:
        return strongest_of_all(edges)
    return np.flatnonzero(members[number]).tolist(), f"{named} of {kept[number]:,} edges"


def strongest_of_all(edges):
    chosen = edges.strongest(MOST_DRAWN)
    return chosen, (f"the {len(chosen)} strongest of {edges.count:,} edges; "
                    f"{edges.count - len(chosen):,} are left out")


def drawing(result, figures, edges):
    chosen, what = drawn_edges(result, edges)
    look = "width: square root of |score| · " + (
        "blue: positive score, red: negative" if np.nanmin(edges.score, initial=0) < 0 else
        "no score is negative") if edges.size.any() else "the file has no scores of edges"
    caption = f"{what} · {look} · q, k, v: inputs of a head"
    about = page.note(f"{what[0].upper()}{what[1:]}. {meaning(result) if edges.size.any() else ''} "
                      "The input is below, the logits above.")
    if not chosen:
        return about
    try:
        png = circuit_graph.draw(edges, chosen, caption)
    except circuit_graph.NoDrawing as reason:
        return page.note(f"No drawing: {reason}.") + about
    figures.write("circuit", png)
    return about + page.picture(png, f"graph of {what}")


# ---- strongest edges


def strongest_edges(result, figures, edges):
    chosen = edges.strongest(STRONGEST)
    header, columns = ["edge", "score", "% of Σ |score|"], []
    total = edges.size.sum()
    columns = [[page.code(edges.name(edge)) for edge in chosen],
               [f"{edges.score.flat[edge]:.4g}" for edge in chosen],
               [f"{100 * edges.size.flat[edge] / total:.1f}" for edge in chosen]]
    markup = page.note(f"{meaning(result)} {summary(edges)}")
    title, cells, text = intervals(result, edges, chosen)
    if cells:
        header.append(title)
        columns.append(cells)
        markup += page.note(text) if text else ""
    markup += page.table(header, list(zip(*columns)), numbers={1, 2, 3})
    png = edge_charts.distribution(figures, "scores", edges.score[edges.valid], "edges")
    return markup + page.picture(png, "distribution of the scores of edges")


def summary(edges):
    scores = edges.score[edges.valid]
    zero = int((scores == 0).sum())
    lost = int(np.isnan(scores).sum()) - edges.infinite
    parts = [f"{edges.count:,} edges"]
    parts += [f"{zero:,} of them score exactly 0"] if zero else []
    parts += [f"{lost:,} have no score"] if lost else []
    parts += [f"{edges.infinite:,} have an infinite one and are left out"] if edges.infinite else []
    return ", ".join(parts) + "."


def intervals(result, edges, chosen):
    """Title, cells and a sentence: from resampled pairs, else from the scores of every pair."""
    bounds = result.array("/edges/interval")
    if bounds is not None:
        low, high = bounds[..., 0], bounds[..., 1]
        sure = edges.valid & ((low > 0) | (high < 0))
        resamples = edges.attributes.get("resamples", "")
        return "95 % interval", [f"{low.flat[edge]:.3g} … {high.flat[edge]:.3g}" for edge in chosen], (
            f"The interval of {int(sure.sum()):,} of {edges.count:,} edges leaves out 0. "
            f"Intervals: {resamples} resamples of the pairs.".replace("  ", " "))
    if not result.has_in("/edges", "score_per_example"):
        return "", [], ""
    each = result.file["/edges/score_per_example"]
    if len(each) < 2:
        return "", [], ""
    cells = []
    for edge in chosen:
        source, destination = divmod(edge, edges.score.shape[1])
        values = each[:, source, destination].astype(float)
        cells.append(f"{NORMAL_95 * values.std(ddof=1) / len(values) ** 0.5:.2g}")
    return "± 95 %", cells, f"±: half the 95 % interval over {len(each):,} pairs."


# ---- nodes


def nodes(result, figures):
    names = result.texts("/nodes/name")
    told = result.array("/nodes/score").astype(float)
    score = graph.finite(told)
    places = [graph.place(name) for name in names]
    order = np.argsort(-np.nan_to_num(np.abs(score)), kind="stable")[:STRONGEST]
    grid = np.full((1 + max(p.layer for p in places), 2 + max(p.head for p in places)), np.nan)
    for node, value in zip(places, score):
        if node.kind == graph.HEAD:
            grid[node.layer, node.head] = value
        elif node.kind == graph.MLP:
            grid[node.layer, -1] = value
    title = "score of each node"
    title += f"; the input's is {score[names.index('input')]:.3g}" if "input" in names else ""
    markup = page.note("A node's score is the sum of those of the edges that leave it."
                       if graph.variant(result) != "exact" or result.has_in("/edges", "score") else
                       "Score: how much worse the model does when all edges that leave the node are ablated.")
    if grid.size:
        png = edge_charts.node_map(figures, "nodes", grid, title)
        markup += page.picture(png, "scores of nodes by layer and head",
                               "Colours grow with the square root of a score.")
    infinite = [name for name, value in zip(names, told) if np.isinf(value)]
    if infinite:
        markup += page.note("Left out, because their scores are infinite: " + ", ".join(infinite) + ".")
    rows = [[page.code(names[i]), f"{score[i]:.4g}"] for i in order]
    table = page.table(["node", "score"], rows, numbers={1})
    return markup + page.fold(f"the {len(rows)} strongest nodes", table)


# ---- layers and positions


def row_of(node):
    """Row of a source in a map of layers, the input first."""
    return node.layer + 1


def between_layers(figures, edges):
    panels = {}
    rows = np.array([row_of(source) for source in edges.sources])
    for number, kind in enumerate(graph.KINDS):
        columns = [i for i, p in enumerate(edges.destinations) if p.reads == number]
        into = np.array([max(edges.destinations[i].layer, 0) for i in columns])
        panel = np.zeros((edges.layers + 1, edges.layers if kind != graph.LOGITS else 1))
        known = np.zeros_like(panel)
        grid = np.ix_(range(len(rows)), columns)
        np.add.at(panel, (rows[:, None], into[None]), edges.size[grid])
        np.add.at(known, (rows[:, None], into[None]), edges.valid[grid])
        panels[kind] = np.where(known > 0, panel, np.nan)
    names = [str(layer) for layer in range(edges.layers)]
    png = edge_charts.layer_map(figures, "layers", panels, ["input", *names], names)
    about = page.note("Sums of |score| over the edges from one layer, its heads and its MLP, into the q, "
                      "k and v inputs of the heads of another, its MLP, or the logits. "
                      "Colours grow with the square root. Grey: no edges.")
    return about + page.picture(png, "sums of |score| between layers by kind of destination")


def positions(result, figures, edges):
    """Scores that are kept for every token: where in the prompt the edges act."""
    if not result.has_in("/edges", "score_by_position"):
        return []
    each = result.file["/edges/score_by_position"]
    rows = np.array([row_of(source) for source in edges.sources])
    grid, best = np.zeros((edges.layers + 1, len(each))), []
    for position in range(len(each)):
        score = np.where(edges.valid, np.nan_to_num(each[position]), 0).astype(float)
        np.add.at(grid[:, position], rows, np.abs(score).sum(axis=1))
        largest = np.argsort(-np.abs(score), axis=None, kind="stable")[:STRONGEST]
        best += [(score.flat[edge], position, edge) for edge in largest if score.flat[edge] != 0]
    labels = patch.position_labels(result, range(len(each)), [str(at) for at in range(len(each))])
    names = [layer_name(layer) for layer in range(-1, edges.layers)]
    png = edge_charts.position_map(figures, "positions", grid, names, labels,
                                   "|score| of the edges that leave a layer, by token")
    best = sorted(best, key=lambda item: -abs(item[0]))[:STRONGEST]
    rows = [[page.code(edges.name(edge)), labels[position], f"{score:.4g}"]
            for score, position, edge in best]
    return [Section("Where in the prompt", page.picture(png, "sums of |score| by layer and token") +
                    page.fold(f"the {len(rows)} strongest edges at one token",
                              page.table(["edge", "token", "score"], rows, numbers={2})))]


# ---- neurons and hidden units


def units(result, figures):
    """Coordinates of what nodes put out, and hidden units of MLPs."""
    parts = []
    for folder, title, what, names in (
            ("/neurons", "Neurons", "neurons", result.texts("/neurons/name")),
            ("/hidden", "Hidden units", "units", None)):
        if not result.has_in(folder, "score"):
            continue
        score = result.array(f"{folder}/score").astype(float)
        known = np.isfinite(score)
        order = np.argsort(-np.nan_to_num(np.abs(score)), axis=None, kind="stable")[:STRONGEST]
        rows = []
        for unit in order:
            row, column = divmod(int(unit), score.shape[1])
            rows.append([page.code(names[row] if names else f"m{row}"), str(column),
                         f"{score.flat[unit]:.4g}"])
        about = page.note("One coordinate of what a node puts out." if folder == "/neurons" else
                          "One hidden unit of an MLP, after its activation.")
        markup = about + page.table(["node", "number", "score"], rows, numbers={1, 2})
        if known.any() and score[known].any():
            png = edge_charts.distribution(figures, f"scores-{what}", score[known], what)
            markup += page.picture(png, f"distribution of the scores of {what}")
        parts.append(Section(title, markup))
    return parts
